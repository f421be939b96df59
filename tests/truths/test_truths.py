"""What a whole model must give whatever the code looks like: moments, closed forms, sums that add up."""

import numpy as np
import pytest
from parts import params_of

import minivae as mv


def test_monte_carlo_losses_tend_to_those_with_the_analytic_kl():
    x = np.random.default_rng(0).random((3, 4))
    vae = mv.VAE([mv.Dense(4, 6)], [mv.Dense(3, 4)], beta=0.7, dtype="float64")
    sampled = mv.VAE([mv.Dense(4, 6)], [mv.Dense(3, 4)], beta=0.7, dtype="float64", kl="monte-carlo")
    analytic, monte_carlo = vae.evaluate(x, samples=40_000), sampled.evaluate(x, samples=40_000)
    assert monte_carlo.kl == pytest.approx(analytic.kl, rel=0.01)
    assert monte_carlo.reconstruction == analytic.reconstruction


def test_each_sample_and_example_has_its_own_noise():
    vae = mv.VAE([mv.Dense(4, 6)], [mv.Dense(3, 4)])
    eps = vae._draw(np.random.default_rng(0), 5, 7)
    assert eps.shape == (5, 7, 3) and len(np.unique(eps)) == eps.size


def test_samples_are_decoded_draws_from_the_prior():
    vae = mv.VAE([mv.Dense(4, 6)], [mv.Dense(3, 3), mv.Tanh(), mv.Dense(3, 4)], mv.Gaussian(), dtype="float64")
    identity = {"decoder.0.W": 1e-3 * np.eye(3), "decoder.2.W": 1e3 * np.eye(3, 4)}  # the tanh of little is as little
    vae.parameters.load(vae.parameters.to_host() | identity)
    z = vae.sample(50_000, seed=1)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(np.cov(z.T), np.diag([1, 1, 1, 0]), atol=0.02)


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


def test_importance_weighting_with_one_sample_is_the_elbo():
    x = np.random.default_rng(6).random((5, 4))
    eps = np.random.default_rng(7).standard_normal((1, 5, 2))
    parts = {"encoder": [mv.Dense(4, 4)], "decoder": [mv.Dense(2, 4)], "dtype": "float64"}
    elbo, weighted = mv.VAE(**parts, kl="monte-carlo"), mv.VAE(**parts, bound=mv.ImportanceWeighted())
    assert elbo.loss_and_gradients(x, eps).loss == pytest.approx(weighted.loss_and_gradients(x, eps).loss)
    np.testing.assert_allclose(elbo.gradients.flat, weighted.gradients.flat)


def test_losses_add_up_with_beta():
    x = np.random.default_rng(8).random((5, 4))
    vae = mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)], beta=0.3)
    losses = vae.loss_and_gradients(x)
    assert losses.loss == pytest.approx(losses.reconstruction + 0.3 * losses.kl)
    assert losses.negative_elbo == pytest.approx(losses.reconstruction + losses.kl)


def test_beta_can_be_changed_at_any_time():
    x, eps = np.random.default_rng(8).random((5, 4)), np.zeros((5, 2))
    vae, other = (mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)], beta=beta, dtype="float64") for beta in (0.3, 2.0))
    vae.loss_and_gradients(x, eps)
    vae.beta = 2.0
    assert vae.beta == 2 and vae.evaluate(x) == other.evaluate(x)
    assert vae.loss_and_gradients(x, eps) == other.loss_and_gradients(x, eps)
    np.testing.assert_array_equal(vae.gradients.flat, other.gradients.flat)


def test_evaluation_takes_batch_size_examples_at_a_time():
    class Watched(mv.Bernoulli):
        rows = set()

        def log_prob(self, params, x, logits):
            self.rows.add(len(x))
            return super().log_prob(params, x, logits)

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
    limit = np.sqrt(6 / 700)
    for init in ("glorot_uniform", "glorot_normal"):
        W = mv.VAE([mv.Dense(300, 400, init), mv.Dense(400, 4)], [mv.Dense(2, 300)]).parameters["encoder.0.W"]
        assert W.std() == pytest.approx(np.sqrt(2 / 700), rel=0.02)
        assert abs(W.mean()) < 0.001
        assert (np.abs(W).max() <= limit) == (init == "glorot_uniform")


def test_sequential_is_its_layers_one_after_another():
    layers = [mv.Dense(4, 3), mv.Tanh(), mv.Dense(3, 2)]
    chain, x = mv.Sequential(layers), np.random.default_rng(0).standard_normal((5, 4))
    params = params_of(chain, scale=1)
    y, backward = chain.forward(params, x)
    np.testing.assert_allclose(y, np.tanh(x @ params["0.W"] + params["0.b"]) @ params["2.W"] + params["2.b"])
    dx, grads = backward(np.ones((5, 2)))
    assert dx.shape == x.shape and {name: grad.shape for name, grad in grads.items()} == chain.shapes()
