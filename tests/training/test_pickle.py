"""Models, optimizers and histories can be copied and pickled: also to another process, and from any backend."""

import copy
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest

import minivae as mv

X = np.random.default_rng(0).random((40, 6))
BY = {"copy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


class Doubled(mv.Layer):
    """A layer of one's own."""

    def forward(self, params, x):
        return 2 * x, lambda dy: (2 * dy, {})


def trained(backend, **options):
    encoder, decoder = [mv.Dense(6, 5), mv.Tanh(), mv.Dense(5, 4)], [mv.Dense(2, 5), mv.ReLU(), mv.Dense(5, 6)]
    vae = mv.VAE(encoder, decoder, backend=backend, seed=3, **options)
    mv.fit(vae, X, X[:9], epochs=2, batch_size=16, progress=False)
    return vae


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("backend", ["numpy", "numba", "fake"], indirect=True)
def test_a_model(backend, by, monkeypatch):
    if backend.name == "cupy":  # where it is made again, there is this GPU
        monkeypatch.setattr("minivae.engine.backend._gpu_backend", lambda tf32, reason: backend)
    vae = trained(backend, beta=0.7, free_bits=0.1)
    vae.sample(2)
    vae.loss_and_gradients(X)
    other = BY[by](vae)
    assert other.backend.name == vae.backend.name and other.parameters.flat is not vae.parameters.flat
    np.testing.assert_array_equal(other.parameters.to_host()["encoder.0.W"], vae.parameters.to_host()["encoder.0.W"])
    assert (other.beta, other.free_bits, other.seed) == (0.7, 0.1, 3) and other.history == vae.history
    np.testing.assert_array_equal(other.encode(X)[0], vae.encode(X)[0])
    np.testing.assert_array_equal(other.sample(3), vae.sample(3))  # their streams of noise go on alike
    assert other.loss_and_gradients(X) == vae.loss_and_gradients(X)
    before = vae.encode(X)[0]
    mv.fit(other, X, epochs=1, batch_size=16, progress=False)
    np.testing.assert_array_equal(vae.encode(X)[0], before)


@pytest.mark.parametrize("by", BY)
def test_all_parts(by):
    flow = mv.FlowPosterior([mv.InverseAutoregressive(2, 4, context=1)])
    networks = [mv.Dense(8, 5), Doubled(), mv.Dense(5, 5)], [mv.Dense(4, 6), mv.LayerNorm(6), mv.Dense(6, 6)]
    likelihood = mv.SharedVarianceGaussian(0.5)
    vae = mv.VAE(*networks, likelihood, posterior=flow, bound=mv.ImportanceWeighted(), n_classes=2, dtype="float64")
    other = BY[by](vae)
    y = np.arange(40) % 2
    assert other.evaluate(X, samples=3, y=y) == vae.evaluate(X, samples=3, y=y)


def test_nothing_is_told_twice():
    with pytest.warns(mv.MiniVAEWarning, match="ends in Sigmoid"):
        vae = mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6), mv.Sigmoid()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(vae)


@pytest.mark.parametrize("by", BY)
def test_optimizers_and_histories(by):
    for optimizer in (mv.SGD(0.1, 0.9), mv.RMSprop(), mv.ClipNorm(mv.Adam(2e-3), 3.0)):
        other = BY[by](optimizer)
        assert type(other) is type(optimizer) and other.lr == optimizer.lr
    history = trained("numpy").history
    other = BY[by](history)
    assert type(other) is mv.History and other == history and other["train_loss"] == history["train_loss"]


def test_in_a_new_process(tmp_path):
    vae = trained("numpy")
    (tmp_path / "vae.pickle").write_bytes(pickle.dumps(vae))
    code = "import pickle; v = pickle.load(open('vae.pickle', 'rb')); print(repr(float(v.sample(1, seed=4).sum())))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert float(run.stdout) == float(vae.sample(1, seed=4).sum())
