"""Likelihoods as parts: what they read from the decoder's output, their draws, and training with them."""

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from parts import params_of

import minivae as mv


def log_prob(likelihood, x, out, **given):
    return likelihood.log_prob(params_of(likelihood, **given), x, out)[0]


@pytest.mark.parametrize("likelihood", [mv.Bernoulli(), mv.Gaussian(0.5)])
def test_draws_have_the_mean_and_the_width_of_the_likelihood(likelihood):
    out = np.tile([[-1.0, 0.0, 2.0]], (20_000, 1))
    draws = likelihood.sample({}, out, np.random.default_rng(5))
    np.testing.assert_allclose(draws.mean(axis=0), likelihood.mean({}, out)[0], atol=0.02)
    if isinstance(likelihood, mv.Gaussian):
        np.testing.assert_allclose(draws.std(axis=0), 0.5, atol=0.02)


def test_shared_variance_log_prob_is_that_of_scipy():
    rng = np.random.default_rng(0)
    x, mean = rng.random((4, 6)), rng.standard_normal((2, 4, 6))
    log_px = log_prob(mv.SharedVarianceGaussian(), x, mean, log_var=[-0.7])
    np.testing.assert_allclose(log_px, scipy.stats.norm.logpdf(x, mean, np.exp(-0.35)).sum(axis=-1))


def test_predicted_variance_log_prob_is_that_of_scipy():
    rng = np.random.default_rng(1)
    x, mean, log_var = rng.random((4, 6)), *rng.standard_normal((2, 2, 4, 6))
    log_px = log_prob(mv.PredictedVarianceGaussian(), x, np.concatenate([mean, log_var], axis=-1))
    np.testing.assert_allclose(log_px, scipy.stats.norm.logpdf(x, mean, np.exp(log_var / 2)).sum(axis=-1))


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_categorical_reads_the_logits_of_a_pixel_side_by_side(levels):
    rng = np.random.default_rng(2)
    level, logits = rng.integers(0, levels, (4, 6)), rng.normal(0, 3, (2, 4, 6, levels))
    log_px = log_prob(mv.Categorical(levels), level / (levels - 1), logits.reshape(2, 4, -1))
    log_p = scipy.special.log_softmax(logits, axis=-1)
    which = np.broadcast_to(level, (2, 4, 6))[..., None]
    np.testing.assert_allclose(log_px, np.take_along_axis(log_p, which, axis=-1).sum(axis=(-2, -1)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_categorical_takes_uint8_pixels_as_they_are(dtype):
    """Every level is told from its neighbours, through the division by 255 and in either dtype."""
    logits = np.arange(256.0)  # log p of level k is k, but for a constant
    vae = mv.VAE([mv.Dense(256, 4)], [mv.Dense(2, 256 * 256)], likelihood=mv.Categorical(), dtype=dtype)
    vae.parameters.load(
        {name: np.zeros(view.shape) for name, view in vae.parameters.items()} | {"decoder.0.b": np.tile(logits, 256)}
    )
    pixels = np.tile(np.arange(256, dtype=np.uint8)[:, None], 256)
    expected = 256 * (scipy.special.logsumexp(logits) - logits)
    np.testing.assert_allclose(vae.score(pixels).reconstruction, expected, rtol=1e-5, atol=1e-2)


def test_categorical_takes_another_x_for_the_nearest_level():
    out = np.log([0.2, 0.5, 0.3]) * np.ones((1, 1, 1))
    for x, level in ((0.24, 0), (0.26, 1), (0.74, 1), (0.76, 2)):
        assert log_prob(mv.Categorical(3), np.full((1, 1), x), out)[0, 0] == pytest.approx(out[0, 0, level])


def test_categorical_of_two_levels_is_bernoulli():
    rng = np.random.default_rng(3)
    x, logits = rng.integers(0, 2, (4, 6)).astype(float), rng.normal(0, 3, (1, 4, 6))
    both = np.stack([np.zeros((1, 4, 6)), logits], axis=-1).reshape(1, 4, 12)
    np.testing.assert_allclose(log_prob(mv.Categorical(2), x, both), log_prob(mv.Bernoulli(), x, logits))


def test_large_logits_do_not_overflow():
    likelihood, out = mv.Categorical(2), np.array([[[1e4, -1e4]]])
    assert log_prob(likelihood, np.zeros((1, 1)), out)[0, 0] == 0
    assert log_prob(likelihood, np.ones((1, 1)), out)[0, 0] == -2e4
    assert likelihood.mean(params_of(likelihood), out[0])[0, 0] == 0


# ------------------------------------------------------------------------------------------- learned variances

LEARNED = {"shared": mv.SharedVarianceGaussian(min_std=0.01), "predicted": mv.PredictedVarianceGaussian(min_std=0.01)}


def log_prob_of_variance(likelihood, x, mean, log_var):
    """log_px where all variances are exp(log_var), and its gradient by log_var."""
    if isinstance(likelihood, mv.SharedVarianceGaussian):
        log_px, backward = likelihood.log_prob(params_of(likelihood, log_var=[log_var]), x, mean[None])
        dout, grads = backward(np.ones((1, 1)))
        return log_px, dout, grads["log_var"]
    out = np.concatenate([mean, np.full_like(mean, log_var)], axis=1)[None]
    log_px, backward = likelihood.log_prob({}, x, out)
    dout, _ = backward(np.ones((1, 1)))
    return log_px, dout, dout[..., 3:]


@pytest.mark.parametrize("likelihood", LEARNED.values(), ids=LEARNED)
@pytest.mark.parametrize("raw, held", [(-1e3, 2 * np.log(0.01)), (1e3, 80.0), (-1.5, -1.5)])
def test_the_variance_is_held_and_outside_has_no_gradient(likelihood, raw, held):
    mean, x = np.full((1, 3), 0.25), np.full((1, 3), 0.5)
    log_px, dout, dlog_var = log_prob_of_variance(likelihood, x, mean, raw)
    assert log_px[0, 0] == pytest.approx(scipy.stats.norm.logpdf(x, mean, np.exp(held / 2)).sum())
    assert np.isfinite(dout).all() and (dlog_var != 0).all() == (raw == held)


def test_draws_have_the_moments_of_the_likelihood():
    rng, n = np.random.default_rng(5), 40_000
    shared, mean = mv.SharedVarianceGaussian(), np.tile([[-1.0, 2.0]], (n, 1))
    draws = shared.sample({"log_var": np.log([0.09])}, mean, rng)
    np.testing.assert_allclose(draws.mean(axis=0), [-1, 2], atol=0.01)
    np.testing.assert_allclose(draws.std(axis=0), 0.3, rtol=0.02)
    np.testing.assert_array_equal(shared.mean({}, mean), mean)
    predicted, out = mv.PredictedVarianceGaussian(), np.tile([[-1, 2, np.log(0.04), 0]], (n, 1))
    np.testing.assert_allclose(predicted.mean({}, out)[0], [-1, 2])
    draws = predicted.sample({}, out, rng)
    np.testing.assert_allclose(draws.mean(axis=0), [-1, 2], atol=0.02)
    np.testing.assert_allclose(draws.std(axis=0), [0.2, 1], rtol=0.02)
    p = np.array([[0.1, 0.2, 0.7], [0.5, 0.0001, 0.4999]])
    categorical, logits = mv.Categorical(3), np.tile(np.log(p).reshape(1, 6), (n, 1))
    np.testing.assert_allclose(categorical.mean(params_of(categorical), logits)[0], p @ [0, 0.5, 1])
    draws = categorical.sample({}, logits, rng)
    for k in range(3):
        np.testing.assert_allclose((draws == k / 2).mean(axis=0), p[:, k], atol=0.012)


def test_no_draw_is_narrower_than_min_std():
    rng, narrow = np.random.default_rng(6), np.tile([[0.0, -50.0]], (20_000, 1))
    shared, predicted = mv.SharedVarianceGaussian(min_std=0.2), mv.PredictedVarianceGaussian(min_std=0.2)
    assert shared.sample({"log_var": np.full(1, -50.0)}, narrow[:, :1], rng).std() == pytest.approx(0.2, rel=0.03)
    assert predicted.sample({}, narrow, rng).std() == pytest.approx(0.2, rel=0.03)


def test_the_shared_variance_starts_from_std():
    vae = mv.VAE([mv.Dense(5, 2)], [mv.Dense(1, 5)], likelihood=mv.SharedVarianceGaussian(0.3))
    assert np.exp(vae.parameters["likelihood.log_var"] / 2) == pytest.approx(0.3)


def test_the_shared_variance_becomes_the_mean_squared_error():
    x = np.random.default_rng(6).normal(0.3, 0.5, (400, 5)).astype(np.float32)
    vae = mv.VAE([mv.Dense(5, 2)], [mv.Dense(1, 5)], likelihood=mv.SharedVarianceGaussian(2.0))
    mv.fit(vae, x, epochs=40, batch_size=50, optimizer=mv.Adam(0.02))
    error = ((x - vae.reconstruct(x)) ** 2).mean()
    assert np.exp(vae.parameters["likelihood.log_var"][0]) == pytest.approx(error, rel=0.15)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.9])
def test_bernoulli_of_grey_values_is_no_density_but_for_the_constant_in_its_docstring(p):
    def density(x):
        return np.exp(log_prob(mv.Bernoulli(), np.full((1, 1), x), scipy.special.logit(np.full((1, 1, 1), p)))[0, 0])

    integral, _ = scipy.integrate.quad(density, 0, 1)
    constant = 2 if p == 0.5 else 2 * np.arctanh(1 - 2 * p) / (1 - 2 * p)
    assert integral == pytest.approx(1 / constant) and constant >= 2


NEW = [mv.SharedVarianceGaussian(), mv.PredictedVarianceGaussian(), mv.Categorical(4)]


@pytest.mark.parametrize("likelihood", NEW, ids=lambda likelihood: type(likelihood).__name__)
def test_a_vae_trains_with_it(likelihood, backend):
    x = np.random.default_rng(7).random((30, 6), np.float32)
    vae = mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, likelihood.params_dim(6))], likelihood=likelihood, backend=backend)
    history = mv.fit(vae, x, epochs=20, batch_size=10, optimizer=mv.Adam(1e-2))
    assert history["train_loss"][-1] < history["train_loss"][0]
    assert vae.reconstruct(x).shape == (30, 6)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: mv.SharedVarianceGaussian(0),
            "std, .* above min_std, should be a finite number of at least 0.001 and below 1e.15, got 0",
        ),
        (lambda: mv.SharedVarianceGaussian(1e-4), "std, .* of at least 0.001 and below 1e.15, got 0.0001"),
        (
            lambda: mv.PredictedVarianceGaussian(min_std=-1),
            "min_std should be a finite number of at least 1e-15 .*, got -1",
        ),
        (lambda: mv.Gaussian(1e-200), "std should be a finite number of at least 1e-15 and below 1e.15, got 1e-200"),
        (lambda: mv.Gaussian(1e200), "std should be a finite number of at least 1e-15 and below 1e.15, got 1e.200"),
        (lambda: mv.Categorical(1), "levels should be an integer of at least 2, got 1"),
        (
            lambda: mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)], likelihood=mv.PredictedVarianceGaussian()),
            r"PredictedVarianceGaussian of 6 values a row needs a decoder output of \(B, 12\), got \(B, 6\)",
        ),
        (
            lambda: mv.VAE([mv.Dense(2, 4)], [mv.Dense(2, 20)], likelihood=mv.Categorical(10)).evaluate([[0.0, 9.0]]),
            r"values k / 9 in \[0, 1\], got \[0, 9\]",
        ),
    ],
)
def test_bad_likelihoods_are_refused(make, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        make()


# -------------------------------------------------------------------------------- a likelihood without a VAE


def trained(layer, likelihood, a, target, optimizer, steps):
    """The params of a layer after so many steps on the mean of -log p(target given layer(a))."""
    params = params_of(layer)
    states = {name: {"lr": np.full(1, optimizer.lr)} | optimizer.fresh_state(p) for name, p in params.items()}
    of_likelihood, shape = params_of(likelihood), (1, len(a))  # one sample for each row
    for _ in range(steps):
        out, layer_backward = layer.forward(params, a)
        _, likelihood_backward = likelihood.log_prob(of_likelihood, target, out[None])
        dout, _ = likelihood_backward(np.full(shape, -1 / len(a)))
        _, grads = layer_backward(dout[0])
        for name in params:
            params[name], states[name] = optimizer.update(grads[name], params[name], states[name])
    return params


def test_regression_that_says_how_sure_it_is():
    """The noise of the target grows with a: the predicted standard deviation follows it."""
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, (500, 1))
    target = 2 * a + 0.1 * np.exp(a) * rng.standard_normal((500, 1))
    layer = mv.Dense(1, 2)
    params = trained(layer, mv.PredictedVarianceGaussian(), a, target, mv.Adam(0.03), 600)
    mean, log_var = layer.forward(params, np.array([[-1.0], [1.0]]))[0].T
    np.testing.assert_allclose(mean, [-2, 2], atol=0.05)
    np.testing.assert_allclose(np.exp(log_var / 2), 0.1 * np.exp([-1, 1]), rtol=0.15)


def test_classification():
    """A label k of three classes is the level k / 2."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 300)
    a = 4 * np.eye(3)[label] + rng.standard_normal((300, 3))
    layer = mv.Dense(3, 3)
    params = trained(layer, mv.Categorical(levels=3), a, label[:, None] / 2, mv.Adam(0.1), 100)
    assert (layer.forward(params, a)[0].argmax(axis=1) == label).mean() > 0.97
