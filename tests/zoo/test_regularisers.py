"""MMD, the parts of the KL and the mutual information gap: against quadrature, SciPy and Gaussians in closed form."""

import math

import numpy as np
import pytest
from scipy import stats

import minivae as mv
from minivae.zoo.mmd import maximum_mean_discrepancy
from minivae.zoo.total_correlation import kl_decomposition

X = np.random.default_rng(0).random((8, 5))
EPS = np.random.default_rng(1).standard_normal((2, 8, 3))


def model(regulariser=None, **options):
    encoder, decoder = [mv.Dense(5, 4), mv.Tanh(), mv.Dense(4, 6)], [mv.Dense(3, 5)]
    return mv.VAE(encoder, decoder, regulariser=regulariser, dtype="float64", seed=1, **options)


# -------------------------------------------------------------------------------------------- MMD


def test_shares_of_the_discrepancy_against_quadrature():
    """Of three codes on a line, with a kernel of two widths, each expectation under N(0, 1) by a grid."""
    z, widths = np.array([-0.7, 0.2, 1.9]), (0.5, 2.0)
    grid = np.linspace(-9, 9, 501)
    p = stats.norm.pdf(grid) * (grid[1] - grid[0])

    def kernel(a, b):
        return np.mean([stats.norm.pdf(a - b, 0, w**0.5) * (2 * np.pi * w) ** 0.5 for w in widths], axis=0)

    within = p @ kernel(grid[:, None], grid) @ p
    for b in range(3):
        others = [kernel(z[b], z[j]) for j in range(3) if j != b]
        expected = np.mean(others) - 2 * (p @ kernel(z[b], grid)) + within
        assert maximum_mean_discrepancy(z.reshape(1, 3, 1), widths)[0][0, b] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.5, 0.6), (-1.0, 2.0)])
def test_the_discrepancy_of_gaussians_is_right_on_average(mean, std):
    """E exp(-|a - b|^2 / (2 s2)) of Gaussians is (s2 / (s2 + v))^(D/2) exp(-d^2 D / (2 (s2 + v))), a - b ~ N(d, v)."""
    D, widths = 3, (0.25, 1.0, 4.0)

    def expected(d, v):
        return np.mean([(w * D / (w * D + v)) ** (D / 2) * math.exp(-D * d**2 / 2 / (w * D + v)) for w in widths])

    exact = expected(0, 2 * std**2) - 2 * expected(mean, std**2 + 1) + expected(0, 2)
    z = mean + std * np.random.default_rng(0).standard_normal((2000, 20, D))
    estimates = maximum_mean_discrepancy(z, widths)[0].mean(axis=1)
    assert exact == pytest.approx(0, abs=1e-15) or exact > 0.005
    assert abs(estimates.mean() - exact) < 4 * estimates.std() / np.sqrt(len(estimates))


def test_samples_are_batches_of_their_own_and_one_code_says_nothing():
    z = np.random.default_rng(0).standard_normal((3, 6, 2))
    whole, _ = maximum_mean_discrepancy(z, (1.0,))
    for sample, alone in zip(z, whole, strict=True):
        np.testing.assert_allclose(maximum_mean_discrepancy(sample[None], (1.0,))[0][0], alone)
    one, backward = maximum_mean_discrepancy(z[:, :1], (1.0,))
    assert one.tolist() == [[0], [0], [0]] and not backward(np.ones((3, 1))).any()
    penalty, _ = mv.MMD(8.0, widths=(1.0,)).penalty(z, np.zeros((6, 4)))
    np.testing.assert_allclose(penalty, 8 * whole.mean(axis=0))


def test_the_discrepancy_alone_holds_the_codes():
    """A Wasserstein autoencoder: without a KL, and with the discrepancy, codes look like N(0, I); without both, not."""
    x = np.random.default_rng(0).standard_normal((600, 4)) @ np.diag([3.0, 2, 0.1, 0.1])
    spread = {}
    for weight in (0.0, 500.0):
        networks = [mv.Dense(4, 16), mv.Tanh(), mv.Dense(16, 4)], [mv.Dense(2, 16), mv.Tanh(), mv.Dense(16, 4)]
        vae = mv.VAE(*networks, likelihood=mv.Gaussian(0.5), beta=0.0, regulariser=mv.MMD(weight), seed=1)
        mv.fit(vae, x, epochs=40, batch_size=50, optimizer=mv.Adam(5e-3))
        mu, log_var = vae.encode(x)
        spread[weight] = np.cov(mu.T) + np.diag(np.exp(log_var).mean(axis=0))
    assert np.abs(spread[500.0] - np.eye(2)).max() < 0.25 < np.abs(spread[0.0] - np.eye(2)).max()


# ---------------------------------------------------------------------------------- the parts of the KL


def codes(B=6, D=3):
    rng = np.random.default_rng(2)
    mu, log_var = rng.standard_normal((B, D)), rng.normal(-1, 0.5, (B, D))
    return mu + np.exp(log_var / 2) * rng.standard_normal((2, B, D)), mu, log_var


def test_the_parts_of_the_kl_are_those_of_scipy():
    z, mu, log_var = codes()
    of_each = stats.norm(mu, np.exp(log_var / 2)).pdf(z[:, :, None, :])  # (L, B, B, D)
    log_q, log_product = np.log(of_each.prod(axis=-1).mean(axis=2)), np.log(of_each.mean(axis=2)).sum(axis=-1)
    log_q_of_x = stats.norm(mu, np.exp(log_var / 2)).logpdf(z).sum(axis=-1)
    log_pz = stats.norm.logpdf(z).sum(axis=-1)
    (mi, tc, dw), _ = kl_decomposition(z, mu, log_var, 1)
    np.testing.assert_allclose(mi, log_q_of_x - log_q)
    np.testing.assert_allclose(tc, log_q - log_product)
    np.testing.assert_allclose(dw, log_product - log_pz)
    # Of 50 examples in place of 6 each mean over the batch is divided by 50, that of each of three dimensions too.
    (mi_of_50, tc_of_50, dw_of_50), _ = kl_decomposition(z, mu, log_var, 50)
    np.testing.assert_allclose(mi_of_50 - mi, math.log(50))
    np.testing.assert_allclose(tc_of_50 - tc, 2 * math.log(50))
    np.testing.assert_allclose(dw_of_50 - dw, -3 * math.log(50))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_codes_far_apart_do_not_overflow(dtype):
    z, mu, log_var = (values.astype(dtype) for values in codes())
    values, backward = kl_decomposition(100 * z, 100 * mu, log_var - 20, 9)
    assert all(np.isfinite(value).all() and value.dtype == np.dtype(dtype) for value in values)
    assert all(np.isfinite(gradient).all() for gradient in backward(*values))


def test_the_loss_is_the_sum_of_the_weighed_parts():
    vae = model(mv.BetaTC(40, tc=4.0, mi=0.3, dimension_wise=2.0), kl="monte-carlo")
    mu, log_var = vae.encode(X)
    (mi, tc, dw), _ = kl_decomposition(mu + np.exp(log_var / 2) * EPS, mu, log_var, 40)
    losses = vae.loss_and_gradients(X, EPS)
    assert losses.kl == pytest.approx((mi + tc + dw).mean())
    assert losses.loss == pytest.approx(losses.reconstruction + (0.3 * mi + 4 * tc + 2 * dw).mean())


@pytest.mark.parametrize("regulariser", [mv.MMD(30.0), mv.BetaTC(8, 5.0)])
def test_only_the_loss_in_training_has_the_penalty(regulariser):
    with_it, without = model(regulariser), model()
    assert with_it.evaluate(X, samples=3) == without.evaluate(X, samples=3)
    losses, plain = with_it.loss_and_gradients(X, EPS), without.loss_and_gradients(X, EPS)
    assert (losses.reconstruction, losses.kl) == (plain.reconstruction, plain.kl)
    mu, log_var = without.encode(X)
    z = mu + np.exp(log_var / 2) * EPS
    penalty, _ = regulariser.penalty(z, np.concatenate([mu, log_var], axis=1))
    assert losses.loss - plain.loss == pytest.approx(penalty.mean()) and abs(penalty.mean()) > 0.01


def identity(x, log_var=-1.0):
    """A model whose mu are the first two numbers of x, and whose log_var are the same for all."""
    vae = mv.VAE([mv.Dense(2, 4)], [mv.Dense(2, 2)], likelihood=mv.Gaussian(), dtype="float64")
    arrays = vae.parameters.to_host()
    arrays |= {"encoder.0.W": np.eye(2, 4), "encoder.0.b": np.array([0, 0, log_var, log_var])}
    vae.parameters.load(arrays)
    return vae


def test_the_parts_of_a_models_kl_for_gaussian_codes():
    """For mu ~ N(0, S) all of z is N(0, S + var): TC and MI are logarithms of determinants."""
    S = np.array([[1.0, 0.8], [0.8, 1.5]])
    x = np.random.default_rng(0).multivariate_normal([0, 0], S, 1000)
    S_of_z = np.cov(x.T) + math.exp(-1) * np.eye(2)
    variances = np.diag(S_of_z)
    parts = mv.kl_parts(identity(x), x, samples=3)
    assert parts.total_correlation == pytest.approx(0.5 * np.log(variances.prod() / np.linalg.det(S_of_z)), abs=0.03)
    assert parts.mutual_information == pytest.approx(0.5 * np.log(np.linalg.det(S_of_z)) + 1, abs=0.03)
    exact = 0.5 * (variances + x.mean(axis=0) ** 2 - 1 - np.log(variances)).sum()
    assert parts.dimension_wise == pytest.approx(exact, abs=0.03)


def test_the_parts_of_a_few_examples_are_those_of_the_batch(monkeypatch):
    """In blocks, and averaged over many samples, they tend to the mean of `kl_decomposition` with all of the data."""
    x = np.random.default_rng(3).standard_normal((5, 2))
    monkeypatch.setattr("minivae.zoo.total_correlation.VALUES", 20)
    parts = mv.kl_parts(identity(x), x, samples=1500)
    z = x + math.exp(-0.5) * np.random.default_rng(4).standard_normal((5000, 5, 2))
    values, _ = kl_decomposition(z, x, np.full((5, 2), -1.0), 1)
    expected = [value.mean() for value in values]
    told = [parts.mutual_information, parts.total_correlation, parts.dimension_wise]
    np.testing.assert_allclose(told, expected, atol=0.03)
    assert sum(told) == pytest.approx(identity(x).evaluate(x).kl, abs=0.03)
    assert parts.mutual_information < math.log(5)


# ------------------------------------------------------------------------------- the mutual information gap


def grid_of_factors(*counts):
    return np.stack(np.meshgrid(*map(np.arange, counts), indexing="ij"), axis=-1).reshape(-1, len(counts))


def test_a_dimension_for_each_factor_has_a_gap_of_1():
    factors = grid_of_factors(3, 4)
    mu = np.column_stack([5.0 * factors[:, 1], np.zeros(12), -3.0 * factors[:, 0]])
    found = mv.mutual_information_gap(mu, np.full((12, 3), -4.0), factors, samples=3000)
    np.testing.assert_allclose(found.entropies, np.log([3, 4]))
    np.testing.assert_allclose(found.information, [[0, np.log(4)], [0, 0], [np.log(3), 0]], atol=1e-6)
    np.testing.assert_allclose(found.gaps, 1, atol=1e-6)
    assert found.mig == pytest.approx(1)


def test_two_dimensions_that_know_the_same_leave_no_gap():
    factors = grid_of_factors(3, 4)
    mu = np.column_stack([factors[:, 0], factors[:, 0], factors[:, 1] * 9.0])
    found = mv.mutual_information_gap(mu, np.full((12, 3), -2.0), factors, samples=40_000)
    assert found.gaps[0] == pytest.approx(0, abs=0.01) and found.gaps[1] == pytest.approx(1, abs=0.01)


def test_mutual_information_against_quadrature():
    """Of a factor whose values are not equally frequent, and codes that overlap: H(z) - H(z given v) by a grid."""
    v = np.array([0, 0, 0, 1])
    mu, std = np.array([-1.0, 0.0, 0.5, 1.5]), np.array([0.5, 0.8, 0.3, 1.0])
    grid = np.linspace(-9, 9, 20_001)
    q = stats.norm(mu[:, None], std[:, None]).pdf(grid)

    def entropy(density):
        return -np.sum(density * np.log(np.maximum(density, 1e-300))) * (grid[1] - grid[0])

    exact = entropy(q.mean(axis=0)) - 0.75 * entropy(q[:3].mean(axis=0)) - 0.25 * entropy(q[3])
    codes = np.column_stack([mu, np.zeros(4)]), np.column_stack([2 * np.log(std), np.zeros(4)])
    found = mv.mutual_information_gap(*codes, v[:, None], samples=100_000)
    assert found.information[0, 0] == pytest.approx(exact, abs=0.01) and exact > 0.1
    assert found.information[1, 0] == pytest.approx(0, abs=1e-9)
    assert found.entropies[0] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert found.mig == pytest.approx(exact / found.entropies[0], abs=0.02)


# -------------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: mv.MMD(-1.0), "MMD: weight should be a finite number of at least 0, got -1"),
        (lambda: mv.MMD(1.0, widths=[]), "MMD: widths should be a list of positive numbers"),
        (lambda: mv.MMD(1.0, widths=(1, 0)), "MMD: widths"),
        (lambda: mv.BetaTC(0), "BetaTC: n_examples should be an integer of at least 1, got 0"),
        (lambda: mv.BetaTC(9, mi=-2), "BetaTC: mi should be a finite number of at least 0, got -2"),
        (lambda: model("MMD"), r"regulariser should be an instance such as MMD\(\), got 'MMD'"),
        (lambda: model(mv.MMD), "regulariser should be an instance"),
        (lambda: model(mv.MMD(), prior=mv.MixturePrior(3)), "MMD is made for the standard normal prior, not Mixture"),
        (
            lambda: model(mv.BetaTC(9), posterior=mv.FlowPosterior([mv.Planar(3)])),
            "BetaTC needs the density of q.*FlowPosterior does not give",
        ),
        (
            lambda: mv.kl_parts(model(posterior=mv.FlowPosterior([mv.Planar(3)])), X),
            "kl_parts needs a DiagonalGaussian, this model has a FlowPosterior",
        ),
        (
            lambda: mv.kl_parts(model(prior=mv.MixturePrior(3)), X),
            "kl_parts needs a StandardNormal, this model has a MixturePrior",
        ),
        (lambda: mv.kl_parts(3, X), "kl_parts: vae should be a VAE"),
        (
            lambda: mv.mutual_information_gap(np.zeros((4, 1)), np.zeros((4, 1)), np.zeros((4, 1), int)),
            r"\(N, D\) with D at least 2, got \(4, 1\)",
        ),
        (
            lambda: mv.mutual_information_gap(np.zeros((4, 2)), np.zeros((4, 2)), np.zeros((3, 1), int)),
            r"factors should be integers \(4, F\).*got int64 \(3, 1\)",
        ),
        (
            lambda: mv.mutual_information_gap(np.zeros((4, 2)), np.zeros((4, 2)), np.zeros((4, 1))),
            "factors should be integers",
        ),
        (
            lambda: mv.mutual_information_gap(
                np.zeros((4, 2)), np.zeros((4, 2)), np.array([[0, 3]] * 2 + [[1, 3]] * 2)
            ),
            "factor 1 has one value only",
        ),
        (
            lambda: mv.mutual_information_gap(np.full((4, 2), np.nan), np.zeros((4, 2)), np.arange(4)[:, None]),
            "mu or log_var has a NaN",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        make()
