"""Copies and pickles of models, optimizers and histories: the same, and independent of what they were made from."""

import copy
import multiprocessing
import pickle
import types
from concurrent.futures import ProcessPoolExecutor

import fakegpu
import numpy as np
import pytest

import minivae as mv
from minivae.engine import backend as backends

X = np.random.default_rng(0).integers(0, 256, (60, 6), dtype=np.uint8)


def model(backend="numpy", **options):
    """A small model; its flows have constants, and its likelihood has a parameter."""
    options = {
        "posterior": mv.FlowPosterior([mv.InverseAutoregressive(2, 3), mv.Planar(2)]),
        "likelihood": mv.SharedVarianceGaussian(),
    } | options
    return mv.VAE([mv.Dense(6, 5), mv.Tanh(), mv.Dense(5, 4)], [mv.Dense(2, 6)], backend=backend, beta=0.5, **options)


def fit(vae):
    return mv.fit(vae, X, epochs=2, batch_size=16, optimizer=mv.Adam(1e-2), progress=False)


@pytest.fixture
def devices(request, monkeypatch):
    """Where a backend is asked for by the name "cupy", there is an imaginary GPU, unless the test is on a real one."""
    backend, get_backend = None, backends.get_backend
    if "backend" in request.fixturenames:
        backend = request.getfixturevalue("backend")
    if isinstance(getattr(backend, "xp", None), types.ModuleType):
        return

    def get(name, **options):
        return fakegpu.backend() if name == "cupy" else get_backend(name, **options)

    monkeypatch.setattr(backends, "get_backend", get)


def pickled(thing):
    content = pickle.dumps(thing)
    assert b"fakegpu" not in content  # arrays travel as NumPy's
    return pickle.loads(content)


@pytest.fixture(params=[copy.deepcopy, pickled])
def again(request, devices):
    return request.param


def flat(vae):
    return np.array(vae.backend.to_host(vae.parameters.flat))


@pytest.mark.parametrize("trained", [False, True])
def test_a_copy_is_the_same_and_goes_on_the_same(backend, again, trained):
    vae = model(backend)
    if trained:
        fit(vae)
    vae.sample(1)  # moves the model's own generator on
    other = again(vae)
    assert other.backend.name == backend.name and repr(other) == repr(vae)
    np.testing.assert_array_equal(flat(other), flat(vae))
    np.testing.assert_array_equal(other.sample(3), vae.sample(3))
    assert other.evaluate(X) == vae.evaluate(X)
    assert other.loss_and_gradients(X) == vae.loss_and_gradients(X)

    def losses(vae):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in fit(vae)]

    assert losses(other) == losses(vae)
    np.testing.assert_array_equal(flat(other), flat(vae))


def test_a_copy_is_independent(backend, again):
    vae = model(backend)
    before, loss = flat(vae), vae.evaluate(X)
    other = again(vae)
    fit(other)
    other.beta = 7.0
    other.parameters["decoder.0.b"].fill(3.0)  # a view of the copy's own flat array
    assert (flat(other) == 3).sum() >= 6
    np.testing.assert_array_equal(flat(vae), before)
    assert vae.evaluate(X) == loss
    assert vae.history is None and len(other.history) == 2


def test_a_shallow_copy_has_the_same_parameters_but_a_beta_of_its_own():
    vae = model()
    other = copy.copy(vae)
    other.beta = 2.0
    assert other.parameters is vae.parameters
    assert (vae.beta, vae.beta_array.tolist(), other.beta_array.tolist()) == (0.5, [0.5], [2.0])


def test_copies_stay_on_the_backend_and_a_debugger_may_still_look_in():
    vae = model(mv.get_backend("numpy"))
    vae.backend.compiled = False
    assert copy.deepcopy(vae).backend is vae.backend
    assert pickled(vae).backend.compiled is False


@pytest.mark.skipif(backends.find_spec("cupy") is not None, reason="CuPy is installed")
def test_without_its_gpu_a_pickle_says_what_to_do():
    content = pickle.dumps(model(fakegpu.backend()))
    with pytest.raises(mv.MiniVAEError, match=r'backend "cupy".*CuPy is not installed.*mv\.load\(path'):
        pickle.loads(content)


def test_a_gpus_settings_are_kept(monkeypatch):
    asked = []
    monkeypatch.setattr(backends, "get_backend", lambda *name, **options: asked.append((name, options)) or backend)
    backend = fakegpu.backend()
    backend.products.tf32 = True
    pickled(model(backend))
    assert asked == [(("cupy",), {"tf32": True})]


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_a_model_works_in_processes_that_are_spawned(name):
    if name == "numba":
        pytest.importorskip("llvmlite")
    vae = model(name)
    fit(vae)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        loss, history = pool.submit(vae.evaluate, X), pool.submit(mv.fit, vae, X, epochs=1, batch_size=16)
        assert loss.result(60) == vae.evaluate(X)
        assert history.result(60)["train_loss"] == mv.fit(vae, X, epochs=1, batch_size=16)["train_loss"]


def test_joblib_even_where_it_maps_arrays_from_a_file(tmp_path):
    joblib = pytest.importorskip("joblib")
    vae = model()
    joblib.dump(vae, tmp_path / "vae.joblib")
    other = joblib.load(tmp_path / "vae.joblib", mmap_mode="r")
    fit(other)
    fit(vae)
    np.testing.assert_array_equal(flat(other), flat(vae))


@pytest.mark.parametrize("optimizer", [mv.SGD(0.1, 0.9), mv.RMSprop(2e-3), mv.ClipNorm(mv.Adam(1e-2), 3.0)])
def test_optimizers(again, optimizer):
    other = again(optimizer)
    assert repr(other) == repr(optimizer) and other.lr == optimizer.lr
    g, p = np.random.default_rng(0).standard_normal((2, 4))
    state = {"lr": np.full(1, 0.1)} | optimizer.fresh_state(p)
    np.testing.assert_array_equal(other.update(g, p, state)[0], optimizer.update(g, p, state)[0])


def test_histories(again):
    history = fit(model())
    history.best_epoch = 1
    other = again(history)
    assert type(other) is mv.History and other == history and other.best_epoch == 1
    other[0]["train_loss"] = 0.0
    assert history["train_loss"][0] != 0
