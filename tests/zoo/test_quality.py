"""After training: estimators of the quality of draws against closed forms, and the mixture fitted to the codes."""

import sys

import numpy as np
import pytest
import scipy.linalg
from scipy.spatial import distance

import minivae as mv
from minivae.zoo import quality

RNG = np.random.default_rng(0)


def with_moments(n, mean, cov):
    """n rows whose mean and covariance are exactly these."""
    x = RNG.standard_normal((n, len(mean)))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return mean + x @ np.linalg.cholesky(cov).T


def covariance(F):
    A = RNG.standard_normal((F, F))
    return A @ A.T + 0.1 * np.eye(F)


# -------------------------------------------------------------------------------------------- Frechet distance


def test_the_distance_of_gaussians_with_axes_of_their_own():
    """Where covariances are diagonal, |mu_a - mu_b|^2 + sum_i (std_a - std_b)^2."""
    mu_a, mu_b, std_a, std_b = RNG.random((4, 5)) + 0.1
    a, b = with_moments(60, mu_a, np.diag(std_a**2)), with_moments(90, mu_b, np.diag(std_b**2))
    expected = np.sum((mu_a - mu_b) ** 2) + np.sum((std_a - std_b) ** 2)
    assert mv.frechet_distance(a, b) == pytest.approx(expected)
    assert mv.frechet_distance(a[:, :1], b[:, :1]) == pytest.approx((mu_a - mu_b)[0] ** 2 + (std_a - std_b)[0] ** 2)


def test_the_distance_of_any_gaussians():
    C_a, C_b, mu = covariance(4), covariance(4), RNG.standard_normal(4)
    a, b = with_moments(50, np.zeros(4), C_a), with_moments(50, mu, C_b)
    expected = mu @ mu + np.trace(C_a + C_b - 2 * scipy.linalg.sqrtm(C_a @ C_b).real)
    assert mv.frechet_distance(a, b) == pytest.approx(expected) == pytest.approx(mv.frechet_distance(b, a))
    Q = scipy.linalg.qr(RNG.standard_normal((4, 4)))[0]
    assert mv.frechet_distance(3 + a @ Q, 3 + b @ Q) == pytest.approx(expected)


def test_the_distance_of_a_set_and_itself_is_0_also_where_features_never_vary():
    a = np.concatenate([RNG.standard_normal((30, 3)), np.zeros((30, 2))], axis=1)
    assert mv.frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-7)
    assert mv.frechet_distance(a, a + [0, 0, 0, 2, 0]) == pytest.approx(4)
    few = RNG.standard_normal((5, 20))  # covariances of rank 4
    assert mv.frechet_distance(few, few) == pytest.approx(0, abs=1e-6)


# ---------------------------------------------------------------------------------------- precision and recall


def by_the_book(rows, members, k):
    """Pair by pair, as the equations say."""
    radii = [
        np.sort(distance.cdist([member], np.delete(members, i, axis=0))[0])[k - 1] for i, member in enumerate(members)
    ]
    return np.mean([any(distance.cdist([row], members)[0] <= radii) for row in rows])


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_the_equations(k, monkeypatch):
    real, made = RNG.standard_normal((40, 2)), 0.5 + RNG.standard_normal((30, 2)) * [1, 0.4]
    expected = by_the_book(made, real, k), by_the_book(real, made, k)
    assert mv.precision_and_recall(real, made, k) == pytest.approx(expected)
    assert expected[0] != expected[1]
    monkeypatch.setattr(quality, "PAIRS", 100)
    assert mv.precision_and_recall(real, made, k) == pytest.approx(expected)


def test_what_is_made_of_one_kind_only_has_precision_and_no_recall():
    kinds = np.array([[0.0, 0], [100, 0]])
    real = kinds[np.arange(400) % 2] + RNG.standard_normal((400, 2))
    one_kind = RNG.standard_normal((400, 2))
    precision, recall = mv.precision_and_recall(real, one_kind)
    assert precision > 0.9 and recall == pytest.approx(0.5, abs=0.05)
    assert mv.precision_and_recall(one_kind, real) == (recall, precision)
    assert mv.precision_and_recall(real, real + 1000) == (0, 0) and mv.precision_and_recall(real, real) == (1, 1)


# ------------------------------------------------------------------------------------------- nearest neighbours


def test_nearest_rows_are_those_of_scipy(monkeypatch):
    rows, others = 1e4 + RNG.standard_normal((20, 3)), 1e4 + RNG.standard_normal((50, 3))
    all_ = distance.cdist(rows, others)
    for pairs in (1 << 22, 60):
        monkeypatch.setattr(quality, "PAIRS", pairs)
        index, far = mv.nearest_rows(rows, others)
        np.testing.assert_array_equal(index, all_.argmin(axis=1))
        np.testing.assert_allclose(far, all_.min(axis=1), atol=1e-6)
    images = RNG.integers(0, 256, (5, 4, 4)).astype("u1")
    index, far = mv.nearest_rows(images[3:], images)
    assert index.tolist() == [3, 4] and (far == 0).all()


# --------------------------------------------------------------------------------- the mixture of the codes


def linear(**options):
    """q(z given x) = N(x A, std^2 I), whose average over x from N(m, C) is N(m A, A' C A + std^2 I); x = z decoded."""
    vae = mv.VAE([mv.Dense(3, 4)], [mv.Dense(2, 3)], mv.Gaussian(), **options)
    A = np.array([[1.0, 0.5], [-0.3, 1.0], [0.2, 0.2]])
    arrays = {name: np.zeros(view.shape) for name, view in vae.parameters.items()}
    arrays["encoder.0.W"][:, :2], arrays["encoder.0.b"][2:] = A, 2 * np.log(0.7)
    vae.parameters.load(arrays | {"decoder.0.W": np.eye(2, 3), "decoder.0.b": np.full(3, 5.0)})
    return vae, A


def test_one_component_is_the_average_posterior_of_a_linear_encoder():
    pytest.importorskip("sklearn.mixture")
    vae, A = linear()
    m, C = np.array([1.0, -2, 0.5]), covariance(3)
    x = with_moments(10_000, m, C)
    sampler = mv.AggregateSampler(vae, x, components=1)
    mean, cov = m @ A, A.T @ C @ A + 0.49 * np.eye(2)
    np.testing.assert_allclose(sampler.mixture.means_[0], mean, atol=0.04)
    np.testing.assert_allclose(sampler.mixture.covariances_[0], cov, atol=0.03 * cov.max())
    z = sampler.draw(20_000, seed=1)
    np.testing.assert_allclose(z.mean(axis=0), mean, atol=0.05 * np.sqrt(cov.max()))
    np.testing.assert_allclose(np.cov(z.T), cov, atol=0.05 * cov.max())
    images = sampler.sample(7, seed=1)
    np.testing.assert_allclose(images, vae.decode(sampler.draw(7, seed=1)))
    np.testing.assert_allclose(images[:, :2], sampler.draw(7, seed=1) + 5, rtol=1e-5)
    assert (images[:, :2] != sampler.sample(7, seed=2)[:, :2]).all()


def test_components_find_clusters_and_their_shares():
    pytest.importorskip("sklearn.mixture")
    vae, A = linear(backend="numpy")
    kinds = np.array([[0.0, 0, 0], [30, 0, 0], [0, 30, 0]])
    of = np.random.default_rng(0).choice(3, 6000, p=[0.5, 0.3, 0.2])
    x = kinds[of] + RNG.standard_normal((6000, 3))
    z = mv.AggregateSampler(vae, x, components=3, seed=4).draw(6000)
    index, far = mv.nearest_rows(z, kinds @ A)
    np.testing.assert_allclose(np.bincount(index) / 6000, [0.5, 0.3, 0.2], atol=0.03)
    assert np.sqrt(np.mean(far**2)) == pytest.approx(np.sqrt(np.trace(A.T @ A) + 2 * 0.49), rel=0.05)


def test_models_of_other_kinds_and_backends_are_drawn_from():
    pytest.importorskip("sklearn.mixture")
    x = RNG.integers(0, 2, (40, 12)).astype("float32")
    for vae in (
        mv.two_layers(12, (2, 1), 4),
        mv.mlp(12, 3, prior=mv.VampPrior(3, 12, 4), backend="numba"),
        mv.mlp(12, 2, posterior=mv.FlowPosterior([mv.Planar(2)])),
    ):
        sampler = mv.AggregateSampler(vae, x, components=2)
        assert sampler.draw(4).shape == (4, vae.latent_dim) and sampler.sample(4).shape == (4, 12)


def test_without_scikit_learn_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    with pytest.raises(ImportError, match=r'pip install "minivae\[sklearn\]"'):
        mv.AggregateSampler(mv.mlp(3), np.ones((5, 3)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: mv.frechet_distance(np.ones(3), np.ones((2, 3))), r"frechet_distance: a should be rows .* got \(3,\)"),
        (lambda: mv.frechet_distance(np.ones((3, 2)), np.ones((1, 2))), "b should be rows of numbers .* at least 2"),
        (lambda: mv.frechet_distance(np.ones((3, 2)), np.ones((3, 4))), "equal width, got 2 and 4"),
        (lambda: mv.precision_and_recall(np.ones((3, 2)), np.ones((9, 2)), 3), "k=3 needs more than 3 rows of each"),
        (lambda: mv.precision_and_recall(np.ones((3, 2)), np.ones((9, 2)), 0), "k should be an integer of at least 1"),
        (lambda: mv.nearest_rows(np.full((3, 2), np.nan), np.ones((3, 2))), "nearest_rows: rows has a NaN"),
        (lambda: mv.AggregateSampler(mv.mlp(3, n_classes=2), np.ones((5, 3))), "the codes of a model with n_classes"),
        (lambda: mv.AggregateSampler(mv.mlp(3), np.ones((5, 3)), 5), "5 components need more examples than 5"),
        (lambda: mv.AggregateSampler(mv.mlp(3), np.ones((5, 3)), 0), "components should be an integer of at least 1"),
        (lambda: mv.AggregateSampler("vae", np.ones((5, 3))), "AggregateSampler: vae should be a VAE"),
    ],
)
def test_bad_arguments(make, message):
    pytest.importorskip("sklearn.mixture")
    with pytest.raises(mv.MiniVAEError, match=message):
        make()
