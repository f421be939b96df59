"""Dropout: active in the steps of a training, and nowhere else."""

import numpy as np
import pytest

import minivae as mv
from minivae import randomness
from minivae.model.more_layers import dropout
from minivae.training import noise

X = np.random.default_rng(0).random((45, 12))


def model(rate=0.5, **options):
    encoder = [mv.Dense(12, 20), mv.Tanh(), mv.Dropout(rate), mv.Dense(20, 4)]
    return mv.VAE(encoder, [mv.Dense(2, 20), mv.Tanh(), mv.Dropout(rate), mv.Dense(20, 12)], **options)


def train(vae, **options):
    return mv.fit(vae, X, batch_size=10, samples=2, progress=False, **{"epochs": 2} | options)


def test_the_share_that_is_dropped_and_the_mean_that_stays():
    x = np.ones((400, 500), np.float32)
    y, backward = dropout(x, np.random.default_rng(0).random(x.shape, np.float32), 0.3)
    assert y.dtype == np.float32 and set(np.unique(y)) == {0, np.float32(1 / 0.7)}
    assert abs((y == 0).mean() - 0.3) < 0.005 and abs(y.mean() - 1) < 0.01
    np.testing.assert_array_equal(backward(x), y)


def test_outside_training_nothing_is_dropped():
    """All that users call equals that of the same model without the layers, whose seed gives the same weights."""
    vae, plain = model(), model(0)
    for name in ("encode", "reconstruct", "evaluate", "log_likelihood"):
        options = {"samples": 5} if name == "log_likelihood" else {}
        np.testing.assert_equal(getattr(vae, name)(X, **options), getattr(plain, name)(X, **options))


def test_in_a_loop_of_ones_own_it_drops_where_noise_is_not_given(backend):
    """With rates near 1 nothing gets from x to z and from z to x."""
    vae, plain = model(1 - 1e-9, backend=backend), model(0, backend=backend)
    eps = np.random.default_rng(1).standard_normal((45, 2))
    assert vae.loss_and_gradients(X, eps) == plain.loss_and_gradients(X, eps)
    first, again = vae.loss_and_gradients(X), vae.loss_and_gradients(X)
    assert first == again and first.kl == 0 and first.reconstruction != plain.evaluate(X).reconstruction
    half = model(backend=backend)
    assert half.loss_and_gradients(X).kl != half.loss_and_gradients(X).kl


def test_in_training_it_changes_the_course_and_rate_0_does_not():
    losses = [train(model(rate))["train_loss"] for rate in (0.5, 0.5, 0)]
    assert losses[0] == losses[1] != losses[2]
    without = mv.VAE([mv.Dense(12, 20), mv.Tanh(), mv.Dense(20, 4)], [mv.Dense(2, 20), mv.Tanh(), mv.Dense(20, 12)])
    without.parameters.flat[...] = model().parameters.flat
    assert train(without)["train_loss"] == losses[2]


def seen_by_the_encoder(monkeypatch, epochs):
    """What Dropout gets as u in each step, (steps, B, 12), run line by line."""
    seen, forward = [], mv.Dropout.forward
    monkeypatch.setattr(mv.Dropout, "forward", lambda self, params, x: seen.append(params) or forward(self, params, x))
    vae = mv.VAE([mv.Dropout(0.5), mv.Dense(12, 4)], [mv.Dense(2, 12)])
    vae.backend.compiled = False
    mv.fit(vae, X[:40], batch_size=10, epochs=epochs)
    return np.array([params["u"] for params in seen])


def test_every_step_and_every_epoch_draws_anew_whatever_fits_into_a_block(monkeypatch):
    u = seen_by_the_encoder(monkeypatch, 2)
    assert u.shape == (8, 10, 12) and len(np.unique(u)) > 0.99 * u.size
    monkeypatch.setattr(noise, "NOISE_VALUES", 3 * 10 * 12)  # three steps
    np.testing.assert_array_equal(seen_by_the_encoder(monkeypatch, 2), u)


def test_blocks_of_fewer_steps_change_nothing_for_pixels_either(monkeypatch):
    """Of a block, thresholds of pixels have room for three steps and what is dropped for one."""
    whole, parts = model(), model()
    train(whole, binarize="dynamic")
    monkeypatch.setattr(noise, "NOISE_VALUES", 3 * 10 * 12)
    train(parts, binarize="dynamic")
    np.testing.assert_array_equal(parts.parameters.flat, whole.parameters.flat)


def test_a_block_is_no_larger_than_is_said():
    arrays = noise.Noise(model(), 2, 10, slice(0, 10), np.float32).arrays
    sizes = {name: arrays[name].size for name in ("noise", "thresholds", "uniform")}
    assert all(0.9 * noise.NOISE_VALUES < size <= noise.NOISE_VALUES for size in sizes.values())


def test_what_is_dropped_has_a_key_of_its_own(monkeypatch):
    drawn = randomness.generator(0, randomness.FIT_UNIFORM, 1).random((4, 120), np.float32)
    np.testing.assert_array_equal(seen_by_the_encoder(monkeypatch, 1), drawn.reshape(4, 10, 12))


def test_the_gradient_is_that_of_what_was_not_dropped(backend):
    """Where all is dropped, only the decoder's last bias learns: z is eps, whose KL is at its minimum."""
    vae = model(1 - 1e-9, backend=backend, dtype="float64")
    before = {name: array.copy() for name, array in vae.parameters.to_host().items()}
    train(vae, epochs=1, optimizer=mv.SGD(1e-2))
    moved = {name for name, array in vae.parameters.to_host().items() if (array != before[name]).any()}
    assert moved == {"decoder.3.b"}


def test_resumed_the_rest_is_the_same(tmp_path):
    whole, parts, path = model(), model(), tmp_path / "checkpoint.safetensors"
    train(whole, epochs=3)
    train(parts, epochs=1, checkpoint=mv.Checkpoint(path))
    parts = model()
    train(parts, epochs=3, checkpoint=mv.Checkpoint(path, resume=True))
    np.testing.assert_array_equal(parts.parameters.flat, whole.parameters.flat)


@pytest.mark.parametrize("rate", [-0.1, 1, float("nan"), 2])
def test_bad_rates(rate):
    with pytest.raises(mv.MiniVAEError, match="Dropout: rate should be a finite number of at least 0 and below 1"):
        mv.Dropout(rate)
