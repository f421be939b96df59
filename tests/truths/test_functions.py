"""The functions that hold the mathematics, on plain NumPy arrays, against closed forms, SciPy and Monte Carlo.

Their backward passes are checked in tests/gradients; here it is what they compute.
"""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from minivae.model.bounds import average, elbo, importance_weighted
from minivae.model.gaussian import (
    free_bits_kl,
    gaussian_kl,
    gaussian_sample_log_prob,
    hold,
    reparameterize,
    standard_normal_log_prob,
)
from minivae.model.labels import append_labels
from minivae.model.layers import dense, relu, sigmoid, tanh
from minivae.model.likelihoods import (
    bernoulli_log_prob,
    categorical_log_prob,
    gaussian_log_prob,
    heteroscedastic_log_prob,
    log_softmax,
)

L, B, X = 2, 4, 6


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# ------------------------------------------------------------------------------------------------------ layers


def test_dense_is_an_affine_map_of_each_row():
    x, W, b = draw(B, 3), draw(3, 2, seed=1), draw(2, seed=2)
    y, backward = dense(x, W, b)
    for row, result in zip(x, y, strict=True):
        np.testing.assert_allclose(result, [row @ W[:, 0] + b[0], row @ W[:, 1] + b[1]])
    dx, dW, db = backward(np.eye(B, 2))  # dy is 1 at the first value of row 0 and the second of row 1
    np.testing.assert_allclose(dx, [W[:, 0], W[:, 1], np.zeros(3), np.zeros(3)])
    np.testing.assert_allclose(dW, x[:2].T)
    np.testing.assert_allclose(db, [1, 1])


def test_relu_has_the_derivative_0_at_its_kink():
    y, backward = relu(np.array([-2.0, 0.0, 3.0]))
    np.testing.assert_array_equal(y, [0, 0, 3])
    np.testing.assert_array_equal(backward(np.array([5.0, 6.0, 7.0])), [0, 0, 7])


@pytest.mark.parametrize("function", [relu, tanh, sigmoid])
def test_a_nan_stays_a_nan(function):
    assert np.isnan(function(np.array([np.nan]))[0])


def test_sigmoid_is_the_logistic_function_and_never_overflows():
    x = np.array([-1e4, -30.0, -1.0, 0.0, 0.3, 30.0, 1e4])
    y, backward = sigmoid(x)
    np.testing.assert_allclose(y, scipy.special.expit(x), atol=1e-16)
    np.testing.assert_allclose(backward(np.ones(7)), scipy.special.expit(x) * scipy.special.expit(-x), atol=1e-16)


def test_tanh_has_the_derivative_of_its_identity():
    x = draw(50)
    y, backward = tanh(x)
    np.testing.assert_allclose(y, 2 * scipy.special.expit(2 * x) - 1, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(backward(np.ones(50)), 1 / np.cosh(x) ** 2)


def test_append_labels_puts_the_label_behind_each_sample_of_its_row():
    x, y = draw(L, B, 3), np.eye(2)[[0, 1, 1, 0]]
    joined, backward = append_labels(x, y)
    for sample, rows in zip(x, joined, strict=True):
        np.testing.assert_array_equal(rows, np.hstack([sample, y]))
    np.testing.assert_array_equal(backward(joined), x)


# --------------------------------------------------------------------------------------------------- Gaussians


def test_hold_has_no_gradient_out_of_bounds():
    y, backward = hold(np.array([-3.0, -2.0, 0.5, 4.0, 5.0]), -2.0, 4.0)
    np.testing.assert_array_equal(y, [-2, -2, 0.5, 4, 4])
    np.testing.assert_array_equal(backward(np.full(5, 7.0)), [0, 7, 7, 7, 0])


MU, STD = np.array([[1.0, -2.0, 0.5]]), np.array([[0.3, 2.0, 1.0]])
LOG_VAR = 2 * np.log(STD)


@pytest.fixture(scope="module")
def sample():
    """400,000 draws from N(MU, STD^2), and the noise that made them."""
    eps = np.random.default_rng(0).standard_normal((400_000, 1, 3))
    return reparameterize(MU, LOG_VAR, eps)[0], eps


def test_samples_have_the_mean_and_the_standard_deviation_of_q(sample):
    z = sample[0][:, 0]
    np.testing.assert_allclose(z.mean(axis=0), MU[0], atol=5 * STD.max() / np.sqrt(len(z)))
    np.testing.assert_allclose(z.std(axis=0), STD[0], rtol=0.01)


def test_each_example_is_drawn_around_its_own_mean():
    mu, eps = draw(B, 3), draw(L, B, 3, seed=1)
    for b in range(B):
        z, _ = reparameterize(mu[b : b + 1], LOG_VAR, eps[:, b : b + 1])
        np.testing.assert_allclose(reparameterize(mu, np.tile(LOG_VAR, (B, 1)), eps)[0][:, b], z[:, 0])
        np.testing.assert_allclose(z[:, 0], mu[b] + STD * eps[:, b])


def test_log_q_is_the_density_of_the_samples(sample):
    z, eps = sample
    log_q, _ = gaussian_sample_log_prob(eps, LOG_VAR)
    np.testing.assert_allclose(log_q[:, 0], scipy.stats.norm.logpdf(z[:, 0], MU, STD).sum(axis=1))


def test_log_p_is_the_density_of_the_standard_normal(sample):
    log_p, _ = standard_normal_log_prob(sample[0])
    np.testing.assert_allclose(log_p, scipy.stats.norm.logpdf(sample[0]).sum(axis=-1))


def test_the_monte_carlo_kl_tends_to_the_analytic_kl(sample):
    z = sample[0][:, 0]
    ratio = scipy.stats.norm.logpdf(z, MU, STD).sum(axis=1) - scipy.stats.norm.logpdf(z).sum(axis=1)
    kl, _ = gaussian_kl(MU, LOG_VAR)
    assert kl.shape == (1,)
    assert kl[0] == pytest.approx(ratio.mean(), abs=5 * ratio.std() / np.sqrt(len(z)))
    assert kl[0] == pytest.approx(0.5 * (MU**2 + STD**2 - 2 * np.log(STD) - 1).sum())


def test_kl_is_zero_at_the_prior_and_nowhere_else():
    np.testing.assert_array_equal(gaussian_kl(np.zeros((2, 3)), np.zeros((2, 3)))[0], 0)
    assert (gaussian_kl(draw(50, 3), draw(50, 3, seed=1))[0] > 0).all()


@pytest.mark.parametrize("least", [0.0, 0.4, 1.0, 9.0])
def test_free_bits_count_each_dimension_as_at_least_so_many_nats_on_average(least):
    mu, log_var = draw(B, 3), draw(B, 3, seed=1) * 0.3
    each = 0.5 * (mu**2 + np.exp(log_var) - log_var - 1)
    (kl, floor), backward = free_bits_kl(mu, log_var, least)
    np.testing.assert_allclose(kl, each.sum(axis=1))
    assert (kl + floor).mean() == pytest.approx(np.maximum(least, each.mean(axis=0)).sum())
    kept = each.mean(axis=0) > least
    for gradient, plain in zip(backward(np.ones(B)), gaussian_kl(mu, log_var)[1](np.ones(B)), strict=True):
        np.testing.assert_allclose(gradient, plain * kept)


# ------------------------------------------------------------------------------------------------- likelihoods


def test_bernoulli_log_prob_is_that_of_scipy():
    x, logits = np.random.default_rng(1).integers(0, 2, (B, X)).astype(float), 3 * draw(L, B, X)
    expected = scipy.stats.bernoulli.logpmf(x, scipy.special.expit(logits)).sum(axis=-1)
    np.testing.assert_allclose(bernoulli_log_prob(x, logits)[0], expected)


def test_bernoulli_of_grey_values_is_minus_the_cross_entropy():
    x, logits = np.random.default_rng(2).random((B, X)), 3 * draw(L, B, X)
    p = scipy.special.expit(logits)
    expected = (scipy.special.xlogy(x, p) + scipy.special.xlog1py(1 - x, -p)).sum(axis=-1)
    np.testing.assert_allclose(bernoulli_log_prob(x, logits)[0], expected)


@pytest.mark.parametrize("std", [0.2, 1.0, 3.0])
def test_gaussian_log_prob_is_that_of_scipy(std):
    x, mean = draw(B, X), draw(L, B, X, seed=1)
    np.testing.assert_allclose(gaussian_log_prob(x, mean, std)[0], scipy.stats.norm.logpdf(x, mean, std).sum(axis=-1))
    without = -0.5 * ((x - mean) ** 2).sum(axis=-1) / std**2
    np.testing.assert_allclose(gaussian_log_prob(x, mean, std, constants=False)[0], without)


@pytest.mark.parametrize("shape", [(L, B, X), (1, 1, 1)])
def test_heteroscedastic_log_prob_is_that_of_scipy(shape):
    x, mean, log_var = draw(B, X), draw(L, B, X, seed=1), draw(*shape, seed=2)
    expected = scipy.stats.norm.logpdf(x, mean, np.exp(log_var / 2)).sum(axis=-1)
    np.testing.assert_allclose(heteroscedastic_log_prob(x, mean, log_var)[0], expected)


def test_log_softmax_is_that_of_scipy_and_never_overflows():
    logits = np.concatenate([3 * draw(5, X), [[1e4, -1e4, 0, 0, 0, 1e4]]])
    log_p, p = log_softmax(logits)
    np.testing.assert_allclose(log_p, scipy.special.log_softmax(logits, axis=-1), atol=1e-12)
    np.testing.assert_allclose(p, scipy.special.softmax(logits, axis=-1))


@pytest.mark.parametrize("levels", [2, 5])
def test_categorical_log_prob_is_that_of_scipy(levels):
    level, logits = np.random.default_rng(2).integers(0, levels, (B, X)), 3 * draw(L, B, X, levels)
    log_px, _ = categorical_log_prob(np.eye(levels)[level], logits)
    p = scipy.special.softmax(logits, axis=-1)
    for l, b in np.ndindex(L, B):  # noqa: E741
        each = [scipy.stats.multinomial.logpmf(np.eye(levels)[level[b, i]], 1, p[l, b, i]) for i in range(X)]
        assert log_px[l, b] == pytest.approx(sum(each))


# ------------------------------------------------------------------------------------------------------ bounds


@pytest.mark.parametrize("kl_shape", [(3, 5), (5,)])
def test_elbo_is_the_mean_over_samples_with_the_kl_times_beta(kl_shape):
    log_px, kl, beta = draw(3, 5), draw(*kl_shape, seed=1), np.full(1, 0.3)
    (loss, reconstruction, mean_kl), backward = elbo(log_px, kl, beta)
    np.testing.assert_allclose(reconstruction, -log_px.mean(axis=0))
    np.testing.assert_allclose(mean_kl, kl.mean(axis=0) if kl.ndim == 2 else kl)
    np.testing.assert_allclose(loss, reconstruction + 0.3 * mean_kl)
    dlog_px, dkl = backward(np.ones(5))
    np.testing.assert_allclose(dlog_px, np.full((3, 5), -1 / 3))
    np.testing.assert_allclose(dkl, np.full(kl_shape, 0.3 / 3 if kl.ndim == 2 else 0.3))


def test_the_importance_weighted_bound_is_the_logarithm_of_the_mean_weight():
    log_px, kl, beta = 10 * draw(3, 5), draw(3, 5, seed=1), np.full(1, 0.3)
    log_w = log_px - 0.3 * kl
    (loss, reconstruction, mean_kl), backward = importance_weighted(log_px, kl, beta)
    np.testing.assert_allclose(loss, np.log(3) - scipy.special.logsumexp(log_w, axis=0))
    np.testing.assert_allclose(reconstruction, -average(log_px))
    np.testing.assert_allclose(mean_kl, average(kl))
    dlog_px, dkl = backward(np.full(5, 2.0))
    np.testing.assert_allclose(dlog_px, -2 * scipy.special.softmax(log_w, axis=0))
    np.testing.assert_allclose(dkl, 0.6 * scipy.special.softmax(log_w, axis=0))


def test_the_importance_weighted_bound_of_one_sample_is_the_elbo_and_never_overflows():
    log_px, kl, beta = 1e6 * draw(1, 5), 1e6 * draw(1, 5, seed=1), np.full(1, 0.3)
    for one, other in zip(importance_weighted(log_px, kl, beta)[0], elbo(log_px, kl, beta)[0], strict=True):
        np.testing.assert_allclose(one, other)
    far = importance_weighted(np.array([[0.0], [-1e6]]), np.zeros((2, 1)), beta)[0][0]
    np.testing.assert_allclose(far, np.log(2))
