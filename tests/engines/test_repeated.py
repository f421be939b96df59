"""What runs batch after batch outside training: as it stands at first, then compiled; the numbers are the same."""

import gc
import weakref

import numpy as np
import pytest
from test_equal import ENGINES, MODELS, assert_same, nothing_runs_uncompiled  # noqa: F401

import minivae as mv
from minivae.engine.backend import NumpyBackend
from minivae.engine.repeated import Repeated


def scores(backend, name, dtype):
    """Scores and log p(x) of a model that has not been trained, in batches of two shapes."""
    make, parts, options = MODELS[name]
    settings = {"backend": backend, "dtype": dtype, "seed": 1} | parts
    vae = make(**settings) if options.get("whole") else mv.VAE(*make(), **settings)
    rng = np.random.default_rng(0)
    x = options.get("x", (rng.random((23, vae.input_dim)) < 0.5).astype(np.float64))
    y = np.arange(23) % vae.n_classes if vae.n_classes else None
    vae.inference_rows = 8  # log p(x) takes one example in two batches of 8 draws and one of 3
    losses = vae.score(x, samples=2, batch_size=5, y=y)
    return [*vars(losses).values(), np.array([vae.log_likelihood(x, samples=19, y=y, progress=False)])]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", ENGINES, indirect=True)
def test_every_model_has_the_same_scores(backend, name, monkeypatch):
    tolerance = None if backend.name == "numpy" else 1e-9
    dtype = "float32" if tolerance is None else "float64"
    plain = scores(NumpyBackend(), name, dtype)
    monkeypatch.setattr(Repeated, "COMPILED_AFTER", 1)
    assert_same(scores(backend, name, dtype), plain, tolerance)


@pytest.mark.parametrize("backend", ENGINES, indirect=True)
def test_a_shape_that_keeps_coming_is_compiled_once(backend, monkeypatch):
    compiled, compile_ = [], NumpyBackend.compile

    def note(self, function, arrays, dtype):
        compiled.append(arrays["x"].shape)
        return compile_(self, function, arrays, dtype)

    monkeypatch.setattr(NumpyBackend, "compile", note)
    factor = backend.zeros((1,), np.float64)
    doubled = Repeated(lambda a: a["x"] * a["factor"], backend, np.float64, {"factor": factor})
    for i in range(40):
        factor.fill(i)  # what stays where it is may change
        for n in (3, 2) if i < 5 else (3,):
            x = backend.asarray(np.full(n, 1.5 * i))
            np.testing.assert_array_equal(doubled(x=x, y=None), np.full(n, 1.5 * i * i))
    assert compiled == [(3,)]


def test_few_batches_are_not_worth_compiling(monkeypatch):
    vae = mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)])
    monkeypatch.setattr(NumpyBackend, "compile", None)
    vae.score(np.ones((16 * 5 + 4, 6)), batch_size=5)
    with pytest.raises(TypeError):
        vae.score(np.ones((17 * 5, 6)), batch_size=5)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("backend", ENGINES, indirect=True)
def test_nothing_is_left_of_a_list_when_the_batches_are_through(backend, compiled, monkeypatch):
    """Without waiting for garbage to be collected; its threads end with it."""
    lists, compile_ = [], NumpyBackend.compile

    def note(self, *args):
        lists.append(weakref.ref(call := compile_(self, *args)))
        return call

    monkeypatch.setattr(NumpyBackend, "compile", note)
    backend.compiled = compiled
    vae = mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)], backend=backend)
    vae.inference_rows = 6
    gc.disable()
    try:
        vae.score(np.ones((40, 6)), batch_size=2)
        vae.log_likelihood(np.ones((40, 6)), samples=3, progress=False)
        assert [ref() for ref in lists] == [None, None]
    finally:
        gc.enable()
