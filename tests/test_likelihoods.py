"""Likelihoods with a learned variance and of levels, against scipy.stats; the examples in their docstrings."""

import copy
import doctest

import fakegpu
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

import minivae as mv
import minivae.likelihoods
from minivae.parameters import allocate
from minivae.training import Trainer


def attached(module, **parameters):
    views, _ = allocate({"module": module}, mv.get_backend("numpy"), "float64", seed=0)
    views.load({f"module.{key}": np.asarray(value, float) for key, value in parameters.items()})
    return module


def test_examples_in_the_docstrings():
    result = doctest.testmod(minivae.likelihoods)
    assert result.attempted > 20 and result.failed == 0


def test_shared_variance_log_prob_is_that_of_scipy():
    rng = np.random.default_rng(0)
    x, mean = rng.random((4, 6)), rng.standard_normal((8, 6))
    log_px = attached(mv.SharedVarianceGaussian(), log_var=[-0.7]).log_prob(x, mean)
    expected = scipy.stats.norm.logpdf(np.tile(x, (2, 1)), mean, np.exp(-0.35)).sum(axis=1)
    np.testing.assert_allclose(log_px.reshape(-1), expected)


def test_predicted_variance_log_prob_is_that_of_scipy():
    rng = np.random.default_rng(1)
    x, mean, log_var = rng.random((4, 6)), *rng.standard_normal((2, 8, 6))
    log_px = attached(mv.PredictedVarianceGaussian()).log_prob(x, np.concatenate([mean, log_var], axis=1))
    expected = scipy.stats.norm.logpdf(np.tile(x, (2, 1)), mean, np.exp(log_var / 2)).sum(axis=1)
    np.testing.assert_allclose(log_px.reshape(-1), expected)


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_categorical_log_prob_is_that_of_scipy(levels):
    rng = np.random.default_rng(2)
    level, logits = rng.integers(0, levels, (4, 6)), rng.normal(0, 3, (8, 6, levels))
    log_px = attached(mv.Categorical(levels)).log_prob(level / (levels - 1), logits.reshape(8, -1))
    p = scipy.special.softmax(logits, axis=-1)
    which = np.tile(level, (2, 1))[..., None]
    expected = scipy.stats.rv_discrete(values=(np.arange(levels), p[0, 0])).logpmf(level[0, 0])
    assert np.log(np.take_along_axis(p, which, axis=-1))[0, 0, 0] == pytest.approx(expected)
    np.testing.assert_allclose(log_px.reshape(-1), np.log(np.take_along_axis(p, which, axis=-1)).sum(axis=(1, 2)))


def test_categorical_takes_uint8_pixels_as_they_are():
    vae = mv.VAE([mv.Dense(256, 4)], [mv.Dense(2, 256 * 256)], likelihood=mv.Categorical(), dtype="float32")
    x = np.arange(256, dtype=np.uint8)[None]
    vae.evaluate(x)
    np.testing.assert_array_equal(vae.likelihood.chosen[0].argmax(axis=-1), np.arange(256))


def test_categorical_of_two_levels_is_bernoulli():
    rng = np.random.default_rng(3)
    x, logits = rng.integers(0, 2, (4, 6)).astype(float), rng.normal(0, 3, (4, 6))
    both = np.stack([np.zeros((4, 6)), logits], axis=-1).reshape(4, 12)
    expected = attached(mv.Bernoulli()).log_prob(x, logits)
    np.testing.assert_allclose(attached(mv.Categorical(2)).log_prob(x, both), expected)


def test_large_logits_do_not_overflow():
    likelihood = attached(mv.Categorical(2))
    assert likelihood.log_prob(np.zeros((1, 1)), np.array([[1e4, -1e4]]))[0, 0] == 0
    assert likelihood.log_prob(np.ones((1, 1)), np.array([[1e4, -1e4]]))[0, 0] == -2e4
    assert likelihood.mean(np.array([[1e4, -1e4]]))[0, 0] == 0


LEARNED = {
    "shared": (lambda log_var: attached(mv.SharedVarianceGaussian(min_std=0.01), log_var=[log_var]), lambda m, v: m),
    "predicted": (
        lambda log_var: attached(mv.PredictedVarianceGaussian(min_std=0.01)),
        lambda m, v: np.concatenate([m, np.full_like(m, v)], axis=1),
    ),
}


@pytest.mark.parametrize("make, params", LEARNED.values(), ids=LEARNED)
@pytest.mark.parametrize("raw, held", [(-1e3, 2 * np.log(0.01)), (1e3, 80.0), (-1.5, -1.5)])
def test_the_variance_is_held_and_outside_has_no_gradient(make, params, raw, held):
    likelihood, mean, x = make(raw), np.full((1, 3), 0.25), np.full((1, 3), 0.5)
    log_px = likelihood.log_prob(x, params(mean, raw))
    assert log_px[0, 0] == pytest.approx(scipy.stats.norm.logpdf(x, mean, np.exp(held / 2)).sum())
    dparams = likelihood.backward(np.ones((1, 1)))
    gradient = dparams[:, 3:] if dparams.shape[1] == 6 else likelihood.dlog_var
    assert np.isfinite(dparams).all() and (gradient != 0).all() == (raw == held)


def test_draws_have_the_moments_of_the_likelihood():
    rng, n = np.random.default_rng(5), 40_000
    shared, mean = attached(mv.SharedVarianceGaussian(), log_var=[np.log(0.09)]), np.tile([[-1.0, 2.0]], (n, 1))
    np.testing.assert_allclose(shared.sample(mean, rng).mean(axis=0), [-1, 2], atol=0.01)
    np.testing.assert_allclose(shared.sample(mean, rng).std(axis=0), 0.3, rtol=0.02)
    predicted, params = attached(mv.PredictedVarianceGaussian()), np.tile([[-1, 2, np.log(0.04), 0]], (n, 1))
    np.testing.assert_allclose(predicted.mean(params)[0], [-1, 2])
    np.testing.assert_allclose(predicted.sample(params, rng).std(axis=0), [0.2, 1], rtol=0.02)
    p = np.array([[0.1, 0.2, 0.7], [0.5, 0.0001, 0.4999]])
    categorical, logits = attached(mv.Categorical(3)), np.tile(np.log(p).reshape(1, 6), (n, 1))
    np.testing.assert_allclose(categorical.mean(logits)[0], p @ [0, 0.5, 1])
    draws = categorical.sample(logits, rng)
    for k in range(3):
        np.testing.assert_allclose((draws == k / 2).mean(axis=0), p[:, k], atol=0.012)


def test_no_draw_is_narrower_than_min_std():
    rng, narrow = np.random.default_rng(6), np.tile([[0.0, -50.0]], (20_000, 1))
    shared = attached(mv.SharedVarianceGaussian(min_std=0.2), log_var=[-50.0])
    predicted = attached(mv.PredictedVarianceGaussian(min_std=0.2))
    assert shared.sample(narrow[:, :1], rng).std() == pytest.approx(0.2, rel=0.03)
    assert predicted.sample(narrow, rng).std() == pytest.approx(0.2, rel=0.03)


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
    density = lambda x: np.exp(attached(mv.Bernoulli()).log_prob(np.array([[x]]), scipy.special.logit([[p]]))[0, 0])  # noqa: E731
    integral, _ = scipy.integrate.quad(density, 0, 1)
    constant = 2 if p == 0.5 else 2 * np.arctanh(1 - 2 * p) / (1 - 2 * p)
    assert integral == pytest.approx(1 / constant) and constant >= 2


NEW = [mv.SharedVarianceGaussian(), mv.PredictedVarianceGaussian(), mv.Categorical(4)]


@pytest.mark.parametrize("likelihood", NEW, ids=lambda likelihood: type(likelihood).__name__)
def test_a_vae_trains_with_it_and_allocates_nothing(likelihood):
    backend, x = fakegpu.backend(), np.random.default_rng(7).random((30, 6), np.float32)
    layers = lambda: ([mv.Dense(6, 4)], [mv.Dense(2, likelihood.params_dim(6))])  # noqa: E731
    vae, optimizer = mv.VAE(*layers(), likelihood=copy.deepcopy(likelihood), backend=backend), mv.Adam(1e-2)
    optimizer.attach(vae.parameters, vae.gradients)
    step = Trainer(vae, optimizer, x, 10, 2, 0).parts[0][0]
    step.refill(np.random.default_rng(0), 2)
    step.run()
    with backend.xp.count() as n:
        step.run()
    assert (n.allocations, n.transfers, n.synchronisations, n.copies) == (0, 0, 0, 0)
    vae = mv.VAE(*layers(), likelihood=copy.deepcopy(likelihood))
    history = mv.fit(vae, x, epochs=20, batch_size=10, optimizer=mv.Adam(1e-2))
    assert history["train_loss"][-1] < history["train_loss"][0]
    assert vae.reconstruct(x).shape == (30, 6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: mv.SharedVarianceGaussian(0), "std must be positive, got 0"),
        (lambda: mv.PredictedVarianceGaussian(min_std=-1), "min_std must be positive, got -1"),
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
