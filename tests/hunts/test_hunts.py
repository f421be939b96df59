"""Slow hunts for what no example thought of: models drawn at random, and a training that never ends.

They run with `pytest -m slow tests/hunts`.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

import minivae as mv
from minivae.engine.backend import NumpyBackend


class WatchedReLU(mv.ReLU):
    """Remembers how close a value that it saw came to its kink."""

    closest = np.inf

    def forward(self, params, x):
        if isinstance(x, np.ndarray):
            self.closest = np.abs(x).min()
        return super().forward(params, x)


@st.composite
def stacks(draw, n_in, n_out, relu):
    """Layers from n_in to n_out values: up to three Dense layers, each but the last perhaps with an activation."""
    layers, width = [], n_in
    for _ in range(draw(st.integers(0, 2))):
        next_width = draw(st.integers(1, 9))
        layers.append(mv.Dense(width, next_width))
        if draw(st.booleans()):
            layers.append(draw(st.sampled_from([relu, mv.Sigmoid, mv.Tanh]))())
        width = next_width
    return [*layers, mv.Dense(width, n_out)]


@st.composite
def models(draw, relu=mv.ReLU):
    """A function of backend and dtype that makes one model, a batch for it, and noise."""
    X, D, B, L = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.integers(1, 4))
    encoder, decoder = draw(stacks(X, 2 * D, relu)), draw(stacks(D, X, relu))
    likelihood = draw(st.sampled_from([mv.Bernoulli, mv.Gaussian, lambda: mv.Gaussian(0.4, constants=False)]))
    bound = draw(st.sampled_from([mv.ELBO, mv.ImportanceWeighted]))
    kl = draw(st.sampled_from([None, "monte-carlo"]))
    beta, seed = draw(st.floats(0, 4)), draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    x, eps = rng.random((B, X)), rng.standard_normal((L, B, D))

    def make(backend="numpy", dtype="float64"):
        parts = {"beta": beta, "bound": bound(), "kl": kl, "seed": seed, "dtype": dtype, "backend": backend}
        vae = mv.VAE(encoder, decoder, likelihood(), **parts)
        biases = np.random.default_rng(seed)
        weights = vae.parameters.to_host()
        vae.parameters.load({name: w + 0.3 * biases.standard_normal(w.shape) for name, w in weights.items()})
        return vae

    return make, x, eps


hunt = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@hunt
@given(models(WatchedReLU))
def test_gradients_are_those_of_finite_differences(model):
    make, x, eps = model
    vae = make()
    vae.forward_and_backward(vae._params, x, eps, vae.beta_array)
    # Where a difference straddles a ReLU's kink, there is no derivative to compare it with.
    layers = vae.encoder.layers + vae.decoder.layers
    assume(all(layer.closest > 1e-4 for layer in layers if isinstance(layer, WatchedReLU)))
    result = mv.gradcheck(vae, x, eps, limit=6)
    event(f"error about 1e{np.log10(max(result.error, 1e-12)):.0f}")
    assert result.error < 1e-5, result.where


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "numba"], indirect=True)
@hunt
@given(model=models())
def test_backends_and_precisions_agree(model, backend):
    """Of the losses, of the gradients, and of a compiled step of training."""
    make, x, eps = model
    exact = make(NumpyBackend(compiled=False))
    losses = exact.loss_and_gradients(x, eps)
    for vae, tolerance in ((make(backend), 1e-9), (make("numpy", "float32"), 1e-3), (make(backend, "float32"), 1e-3)):
        same = vae.loss_and_gradients(x, eps)
        scale = 1 + abs(losses.reconstruction) + abs(losses.kl)
        assert abs(same.loss - losses.loss) < tolerance * scale
        error = np.abs(vae.backend.to_host(vae.gradients.flat) - exact.gradients.flat).max()
        assert error < tolerance * (1 + np.abs(exact.gradients.flat).max())
    vae, options = make(backend), {"epochs": 1, "batch_size": len(x), "samples": len(eps)}
    histories = [mv.fit(each, x, optimizer=mv.SGD(1e-4), **options) for each in (vae, exact)]
    assert histories[0][0]["train_loss"] == pytest.approx(histories[1][0]["train_loss"], rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(vae.backend.to_host(vae.parameters.flat), exact.parameters.flat, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@hunt
@given(models(), st.integers(1, 30))
def test_shapes_and_batches(model, batch_size):
    make, x, eps = model
    vae, (B, X), D = make(), x.shape, eps.shape[2]
    mu, log_var = vae.encode(x)
    assert mu.shape == log_var.shape == (B, D)
    assert vae.decode(mu).shape == vae.reconstruct(x).shape == (B, X)
    assert vae.reconstruct(x, eps).shape == (len(eps), B, X)
    assert vae.sample(5).shape == (5, X)
    in_batches = vae.evaluate(x, samples=2, batch_size=batch_size)
    assert vae.evaluate(x, samples=2).loss == pytest.approx(in_batches.loss, rel=1e-9, abs=1e-9)
    history = mv.fit(vae, x, epochs=2, batch_size=min(batch_size, B), samples=len(eps), optimizer=mv.SGD(1e-4))
    assert np.isfinite(history["train_loss"]).all()


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_a_thousand_epochs_take_no_more_memory_than_a_hundred():
    """With validation and a short last batch; the history itself grows by some 1 KB an epoch."""
    x, used = np.random.default_rng(0).integers(0, 256, (130, 64), np.uint8), {}
    vae = mv.VAE([mv.Dense(64, 32), mv.ReLU(), mv.Dense(32, 8)], [mv.Dense(4, 32), mv.ReLU(), mv.Dense(32, 64)])

    def measure(run):
        if run.epoch in (100, 1000):
            used[run.epoch] = resident_bytes()

    mv.fit(vae, x, 0.2, epochs=1000, batch_size=16, patience=1000, callbacks=[measure])
    growth = used[1000] - used[100]
    print(f"{used[100]} bytes after 100 epochs, {growth} more after 1,000")
    assert growth < 4 * 2**20  # one batch kept from each step would be 24 MB
