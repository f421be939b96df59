"""What must be true whatever the code looks like: moments, closed forms, other people's implementations."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

import minivae as mv
from minivae.divergences import gaussian_kl
from minivae.parameters import allocate


def attached(module, dtype="float64"):
    allocate({"module": module}, mv.get_backend("numpy"), dtype, seed=0)
    return module


@pytest.fixture
def posterior():
    """N(mu, std^2) with mu = (1, -2, 0.5), std = (0.3, 2, 1), and 400,000 samples."""
    posterior = attached(mv.DiagonalGaussian())
    mu, std = np.array([1.0, -2.0, 0.5]), np.array([0.3, 2.0, 1.0])
    stats = np.concatenate([mu, 2 * np.log(std)])[None]
    eps = np.random.default_rng(0).standard_normal((400_000, 1, 3))
    return posterior, posterior.sample(stats, eps)[:, 0], mu, std


def test_samples_have_the_mean_and_the_standard_deviation_of_q(posterior):
    _, z, mu, std = posterior
    np.testing.assert_allclose(z.mean(axis=0), mu, atol=5 * std.max() / np.sqrt(len(z)))
    np.testing.assert_allclose(z.std(axis=0), std, rtol=0.01)


def test_monte_carlo_kl_tends_to_the_analytic_kl(posterior):
    q, z, mu, std = posterior
    log_q = scipy.stats.norm.logpdf(z, mu, std).sum(axis=1)
    log_p = scipy.stats.norm.logpdf(z).sum(axis=1)
    error = (log_q - log_p).std() / np.sqrt(len(z))
    assert q.kl()[0] == pytest.approx((log_q - log_p).mean(), abs=5 * error)
    assert q.kl()[0] == pytest.approx(0.5 * (mu**2 + std**2 - 2 * np.log(std) - 1).sum())


def test_log_q_is_the_density_of_the_samples(posterior):
    q, z, mu, std = posterior
    np.testing.assert_allclose(q.log_prob()[:, 0], scipy.stats.norm.logpdf(z, mu, std).sum(axis=1))


def test_kl_is_zero_at_the_prior():
    kl, zero = np.full(2, np.nan), np.zeros((2, 3))
    gaussian_kl(mv.get_backend("numpy"), zero, zero, kl=kl, work=(np.empty((2, 3)), np.empty((2, 3))))
    np.testing.assert_array_equal(kl, 0)


def test_each_sample_and_example_has_its_own_noise():
    vae = mv.VAE([mv.Dense(4, 6)], [mv.Dense(3, 4)])
    eps = vae._draw(np.random.default_rng(0), 5, 7)
    assert len(np.unique(eps)) == eps.size


def test_scores_are_the_losses_of_each_example():
    vae = mv.VAE([mv.Dense(4, 6)], [mv.Dense(3, 4)], beta=0.5, dtype="float64")
    x = np.random.default_rng(0).random((7, 4))
    scores = vae.score(x, samples=3, batch_size=2)
    mu, log_var = vae.encode(x)
    np.testing.assert_allclose(scores.kl, 0.5 * (mu**2 + np.exp(log_var) - log_var - 1).sum(axis=1))
    np.testing.assert_allclose(scores.loss, scores.reconstruction + 0.5 * scores.kl)
    np.testing.assert_allclose(vae.score(x[:1], samples=3).negative_elbo, scores.negative_elbo[:1])
    assert vae.evaluate(x, samples=3).reconstruction == pytest.approx(scores.reconstruction.mean())


def test_reconstructions_from_noise_are_decoded_draws_of_z():
    vae = mv.VAE([mv.Dense(4, 6)], [mv.Dense(3, 4)], dtype="float64")
    rng = np.random.default_rng(0)
    x, eps = rng.random((1203, 4)), rng.standard_normal((2, 1203, 3))
    mu, log_var = vae.encode(x)
    for draw, noise in zip(vae.reconstruct(x, eps), eps, strict=True):
        np.testing.assert_allclose(draw, vae.decode(mu + np.exp(log_var / 2) * noise))


def test_bernoulli_log_prob_is_that_of_scipy():
    rng = np.random.default_rng(1)
    x, logits = rng.integers(0, 2, (4, 6)).astype(float), rng.normal(0, 3, (8, 6))
    log_px = attached(mv.Bernoulli()).log_prob(x, logits)
    expected = scipy.stats.bernoulli.logpmf(np.tile(x, (2, 1)), scipy.special.expit(logits)).sum(axis=1)
    np.testing.assert_allclose(log_px.reshape(-1), expected)


def test_bernoulli_of_grey_values_is_minus_the_cross_entropy():
    rng = np.random.default_rng(2)
    x, logits = rng.random((4, 6)), rng.normal(0, 3, (4, 6))
    p = scipy.special.expit(logits)
    expected = (scipy.special.xlogy(x, p) + scipy.special.xlog1py(1 - x, -p)).sum(axis=1)
    np.testing.assert_allclose(attached(mv.Bernoulli()).log_prob(x, logits)[0], expected)


@pytest.mark.parametrize("std", [0.2, 1.0, 3.0])
def test_gaussian_log_prob_is_that_of_scipy(std):
    rng = np.random.default_rng(3)
    x, mean = rng.random((4, 6)), rng.standard_normal((8, 6))
    expected = scipy.stats.norm.logpdf(np.tile(x, (2, 1)), mean, std).sum(axis=1)
    np.testing.assert_allclose(attached(mv.Gaussian(std)).log_prob(x, mean).reshape(-1), expected)


def test_gaussian_without_constants_is_half_the_squared_error():
    rng = np.random.default_rng(4)
    x, mean = rng.random((4, 6)), rng.standard_normal((4, 6))
    log_px = attached(mv.Gaussian(constants=False)).log_prob(x, mean)[0]
    np.testing.assert_allclose(log_px, -0.5 * ((x - mean) ** 2).sum(axis=1))


@pytest.mark.parametrize("likelihood", [mv.Bernoulli(), mv.Gaussian(0.5)])
def test_draws_have_the_mean_of_the_likelihood(likelihood):
    likelihood = attached(likelihood)
    params = np.tile([[-1.0, 0.0, 2.0]], (20_000, 1))
    draws = likelihood.sample(params, np.random.default_rng(5))
    np.testing.assert_allclose(draws.mean(axis=0), likelihood.mean(params)[0], atol=0.02)
    if isinstance(likelihood, mv.Gaussian):
        np.testing.assert_allclose(draws.std(axis=0), 0.5, atol=0.02)


def test_importance_weighting_with_one_sample_is_the_elbo():
    x = np.random.default_rng(6).random((5, 4))
    eps = np.random.default_rng(7).standard_normal((1, 5, 2))
    layers = lambda: {"encoder": [mv.Dense(4, 4)], "decoder": [mv.Dense(2, 4)], "dtype": "float64"}  # noqa: E731
    elbo = mv.VAE(**layers(), kl="monte-carlo")
    weighted = mv.VAE(**layers(), bound=mv.ImportanceWeighted())
    assert elbo.loss_and_gradients(x, eps).loss == pytest.approx(weighted.loss_and_gradients(x, eps).loss)
    np.testing.assert_allclose(elbo.gradients.flat, weighted.gradients.flat)


def test_losses_add_up_with_beta():
    x = np.random.default_rng(8).random((5, 4))
    vae = mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)], beta=0.3)
    losses = vae.loss_and_gradients(x)
    assert losses.loss == pytest.approx(losses.reconstruction + 0.3 * losses.kl)
    assert losses.negative_elbo == pytest.approx(losses.reconstruction + losses.kl)


def test_evaluation_takes_batch_size_examples_at_a_time():
    class Watched(mv.Bernoulli):
        rows = set()

        def log_prob(self, x, logits):
            self.rows.add(len(x))
            return super().log_prob(x, logits)

    mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)], Watched()).evaluate(np.zeros((20, 4)), batch_size=8)
    assert Watched.rows == {8, 4}


@pytest.mark.parametrize("samples", [1, 3])
def test_evaluation_does_not_depend_on_the_batch_size(samples):
    x = np.random.default_rng(9).random((37, 4))
    vae = mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)], dtype="float64")
    whole = vae.evaluate(x, samples, batch_size=37)
    for batch_size in (1, 5, 36, None):
        assert vae.evaluate(x, samples, batch_size=batch_size).loss == pytest.approx(whole.loss, rel=1e-12)
    assert vae.evaluate(x, samples, seed=1).loss != pytest.approx(whole.loss, rel=1e-4)


def test_initial_weights_are_glorots():
    for init, std in (("glorot_uniform", np.sqrt(2 / 700)), ("glorot_normal", np.sqrt(2 / 700))):
        W = mv.VAE([mv.Dense(300, 400, init), mv.Dense(400, 4)], [mv.Dense(2, 300)]).parameters["encoder.0.W"]
        assert W.std() == pytest.approx(std, rel=0.02)
        assert abs(W.mean()) < 0.001
        limit = np.sqrt(6 / 700)
        assert (np.abs(W).max() <= limit) == (init == "glorot_uniform")


TEXTBOOK = {}


def textbook(function):
    TEXTBOOK[function.__name__] = function
    return function


@textbook
def sgd(p, grads, lr=0.05, momentum=0.8):
    velocity = 0.0
    for g in grads:
        velocity = momentum * velocity + g
        p = p - lr * velocity
    return p


@textbook
def rmsprop(p, grads, lr=0.01, rho=0.9, eps=1e-3):
    v = 0.0
    for g in grads:
        v = rho * v + (1 - rho) * g**2
        p = p - lr * g / np.sqrt(v + eps)
    return p


@textbook
def adam(p, grads, lr=0.01, beta1=0.8, beta2=0.99, eps=1e-3):
    m = v = 0.0
    for t, g in enumerate(grads, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        p = p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p


@pytest.mark.parametrize(
    "name, optimizer",
    [
        ("sgd", mv.SGD(0.05, momentum=0.8)),
        ("rmsprop", mv.RMSprop(0.01, rho=0.9, eps=1e-3)),
        ("adam", mv.Adam(0.01, beta1=0.8, beta2=0.99, eps=1e-3)),
    ],
)
def test_optimizers_follow_their_textbook_form(name, optimizer, backend):
    vae = mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)], backend=backend, dtype="float64")
    before = vae.backend.to_host(vae.parameters.flat).copy()
    optimizer.attach(vae.parameters, vae.gradients)
    grads = np.random.default_rng(0).standard_normal((6, before.size))
    for g in grads:
        backend.upload(g, out=vae.gradients.flat)
        optimizer.step()
    np.testing.assert_allclose(backend.to_host(vae.parameters.flat), TEXTBOOK[name](before, grads), rtol=1e-10)


def test_the_learning_rate_can_change_between_steps(backend):
    vae = mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)], backend=backend, dtype="float64")
    optimizer = mv.SGD(0.1)
    optimizer.attach(vae.parameters, vae.gradients)
    before = backend.to_host(vae.parameters.flat).copy()
    vae.gradients.flat.fill(1)
    optimizer.step()
    optimizer.lr = 0.5
    optimizer.step()
    np.testing.assert_allclose(backend.to_host(vae.parameters.flat), before - 0.6)
