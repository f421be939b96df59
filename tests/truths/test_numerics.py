"""Extreme numbers: a finite result or one clear error, never a warning, a NaN or an infinity that goes unnoticed."""

import numpy as np
import pytest

import minivae as mv
from minivae.model.likelihoods import bernoulli_log_prob

LIKELIHOODS = {"Bernoulli": mv.Bernoulli, "Gaussian": mv.Gaussian}


def make(likelihood="Bernoulli", **options):
    return mv.VAE(
        [mv.Dense(8, 6), mv.ReLU(), mv.Dense(6, 4)],
        [mv.Dense(2, 6), mv.Tanh(), mv.Dense(6, 8)],
        LIKELIHOODS[likelihood](),
        **options,
    )


def images(n=5):
    return (np.random.default_rng(0).random((n, 8)) < 0.5).astype(np.float32)


def everything(vae, x):
    """Every number that a model gives about x."""
    losses = vae.loss_and_gradients(x, np.ones((len(x), 2)))
    return [
        losses.loss,
        vae.evaluate(x, samples=2).loss,
        vae.log_likelihood(x, samples=3),
        vae.backend.to_host(vae.gradients.flat),
        *vae.encode(x),
        vae.reconstruct(x),
        vae.sample(3),
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("logit", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_extreme_logits(backend, logit, dtype):
    """log p is exact at +-1e4: x log sigmoid(l) + (1 - x) log sigmoid(-l) is 0 or -|l| for each pixel."""
    vae, x = make(backend=backend, dtype=dtype), images()
    vae.parameters["decoder.2.W"].fill(0)
    vae.parameters["decoder.2.b"].fill(logit)
    expected = np.logaddexp(0, np.where(x == 1, -logit, logit)).sum(axis=1).mean()
    assert vae.evaluate(x).reconstruction == pytest.approx(expected, rel=1e-6)
    for values in everything(vae, x):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bernoulli_agrees_with_higher_precision_for_all_logits(dtype):
    """To two units in the last place of 1, or of the logit where that is larger."""
    logits = np.concatenate([-np.logspace(-8, 4, 200), [0], np.logspace(-8, 4, 200)])[None, :, None].astype(dtype)
    exact = logits.astype(np.longdouble)
    for pixel in (0.0, 0.25, 1.0):
        expected = pixel * exact - np.logaddexp(np.longdouble(0), exact)
        log_px, _ = bernoulli_log_prob(np.full((401, 1), pixel, dtype), logits)
        assert log_px.dtype == dtype
        error = np.abs(log_px[..., None] - expected)
        assert (error <= 2 * np.finfo(dtype).eps * np.maximum(1, np.abs(logits))).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("log_var", [-200.0, -80.0, -10.0, 10.0, 79.0, 200.0])
@pytest.mark.parametrize("bound", [mv.ELBO, mv.ImportanceWeighted])
def test_extreme_log_var(backend, log_var, dtype, bound):
    vae, x = make(backend=backend, dtype=dtype, bound=bound()), images()
    vae.parameters["encoder.2.W"].fill(0)
    bias = np.array([0, 0, log_var, log_var], dtype)
    backend.upload(bias, to=vae.parameters["encoder.2.b"])
    for values in everything(vae, x):
        assert np.isfinite(values).all()
    assert (vae.encode(x)[1] == np.clip(log_var, -80, 80)).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("rows", [1, 3, 2500])
def test_flat_images_and_odd_batches(backend, likelihood, value, rows):
    vae = make(likelihood, backend=backend)
    x = np.full((rows, 8), value, np.float32)
    for values in everything(vae, x):
        assert np.isfinite(values).all()
    history = mv.fit(vae, x[:7], epochs=3, batch_size=min(rows, 3), optimizer=mv.Adam(1e-2))
    assert np.isfinite(history["train_loss"]).all()


@pytest.mark.parametrize("call", ["loss_and_gradients", "evaluate", "encode", "reconstruct", "log_likelihood"])
def test_weights_that_are_not_finite_are_one_clear_error(backend, call):
    vae = make(backend=backend)
    vae.parameters["encoder.0.W"].fill(np.nan)
    with pytest.raises(mv.MiniVAEError, match="is not finite: the model's weights are damaged or"):
        getattr(vae, call)(images())


class Steep(mv.Tanh):
    """A layer whose gradient is this number everywhere."""

    def __init__(self, gradient):
        self.gradient = gradient

    def forward(self, params, x):
        y, _ = super().forward(params, x)
        return y, lambda dy: (np.full_like(dy, self.gradient), {})


@pytest.mark.parametrize("gradient", [np.inf, np.nan, -np.inf])
def test_a_gradient_that_is_not_finite_is_one_clear_error(gradient):
    vae = mv.VAE([mv.Dense(8, 6), Steep(gradient), mv.Dense(6, 4)], [mv.Dense(2, 8)])
    with pytest.raises(mv.MiniVAEError, match="the gradient is not finite"):
        vae.loss_and_gradients(images())


def test_a_large_gradient_is_none():
    """Though the sum of all its values would be beyond float32."""
    vae = mv.VAE([mv.Dense(8, 60), Steep(5e37), mv.Dense(60, 4)], [mv.Dense(2, 8)])
    assert np.isfinite(vae.loss_and_gradients(np.ones((1, 8))).loss)
    assert vae.gradients["encoder.0.b"].max() > 4e37


def test_data_beyond_float32_is_one_clear_error_and_fits_float64():
    x = images() * np.float32(1e25)
    with pytest.raises(mv.MiniVAEError, match='the loss is not finite.*dtype="float64"'):
        make("Gaussian").evaluate(x)
    with pytest.raises(mv.MiniVAEError, match="the loss is not finite"):
        make("Gaussian").loss_and_gradients(x)
    assert np.isfinite(make("Gaussian", dtype="float64").evaluate(x).loss)


def test_a_validation_loss_that_is_not_finite_names_the_epoch():
    x = images(20)
    with pytest.raises(mv.MiniVAEError, match="validation after epoch 1: the loss is not finite"):
        mv.fit(make("Gaussian"), x, x * np.float32(1e25), epochs=2, batch_size=5)


@pytest.mark.parametrize("optimizer", [mv.SGD, mv.RMSprop, mv.Adam])
def test_float32_training_stays_near_float64(optimizer):
    """After 300 steps on the same noise, the losses of an epoch differ by less than a millionth."""
    x = np.random.default_rng(0).random((100, 8)).astype(np.float32) ** 3
    losses = [
        mv.fit(make(dtype=dtype), x, epochs=30, batch_size=10, optimizer=optimizer(1e-2))["train_loss"]
        for dtype in ("float32", "float64")
    ]
    drift = np.abs(np.subtract(*losses)) / np.abs(losses[1])
    assert drift.max() < 1e-6


@pytest.mark.parametrize("log_var", [-81.0, -79.0, 79.0, 81.0])
def test_log_var_outside_its_range_has_no_gradient(backend, log_var):
    """Inside +-80 the KL pulls log_var back; outside it is held, so nothing depends on it."""
    vae = make("Gaussian", backend=backend, dtype="float64")
    vae.parameters["encoder.2.W"].fill(0)
    backend.upload(np.array([0, 0, log_var, log_var]), to=vae.parameters["encoder.2.b"])
    vae.loss_and_gradients(images(), np.ones((5, 2)))
    gradient = backend.to_host(vae.gradients["encoder.2.b"])[2:]
    assert (gradient == 0).all() if abs(log_var) > 80 else (gradient * log_var > 0).all()
