"""Adversarial variational Bayes: what a discriminator says of a KL against closed forms, quadrature and histograms."""

import numpy as np
import pytest
from scipy import integrate, special, stats
from truths.parts import params_of

import minivae as mv
from minivae.model.gaussian import gaussian_kl
from minivae.model.parameters import within
from minivae.zoo.avb import contrast_loss, inverse_root, mixture, whiten


def implicit(D, adaptive, draws=400, X=3):
    """A posterior that sees X values and mixes D functions of the noise, which are the noise itself; and its params."""
    discriminator = [mv.Dense(4 + D, 16), mv.Tanh(), mv.Dense(16, 16), mv.Tanh(), mv.Dense(16, 1)]
    part = mv.ImplicitPosterior([mv.Dense(D, D)], [mv.Dense(X, 4)], discriminator, adaptive, draws)
    return part, params_of(part, **{"noise.0.W": np.eye(D)})


def statistics(mu, log_var, mix=None):
    """What the encoder gives for examples that are the rows of a unit matrix: mu, A = std mix (D, D), and x.

    The mix is I by default. The posterior divides A by the root of how many functions of the noise it mixes, here D.
    """
    (B, D), unit = mu.shape, np.eye(len(mu))
    A = np.exp(log_var / 2)[:, :, None] * (np.eye(D) if mix is None else mix) * np.sqrt(D)
    return np.concatenate([mu, A.reshape(B, D * D), unit], axis=1)


def train_discriminator(part, params, stats, steps=1000, samples=400):
    """The params after steps of Adam on the posterior's own loss; what it gives no gradient of stays as it is."""
    rng, adam, states = np.random.default_rng(0), mv.Adam(), {}
    for step in range(steps):
        eps = rng.standard_normal((samples, len(stats), part.dim))
        _, backward = part.own_loss(params, stats, eps)
        for name, grad in backward(np.ones(len(stats))).items():
            state = states.get(name) or adam.fresh_state(grad)
            rate = {"lr": np.full(1, 4e-3 * (1 - step / steps))}
            new, states[name] = adam.update(grad, params[name], state | rate)
            params = params | {name: new}
    return params


def estimated_kl(part, params, stats, samples=20_000):
    """The mean of log q - log p at draws, for each example; p is N(0, I)."""
    eps = np.random.default_rng(1).standard_normal((samples, len(stats), part.dim))
    (z, log_q), _ = part.with_log_q(params, stats, eps)
    return np.mean(log_q + 0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=-1), axis=0)


@pytest.mark.parametrize("adaptive, correlation, steps", [(False, 0, 1000), (True, 0, 300), (True, 0.8, 300)])
def test_the_estimate_is_the_kl_of_a_gaussian(adaptive, correlation, steps):
    """Within 5% of the closed form, by a discriminator that has seen nothing but draws.

    Without adaptive contrast it is all of log q(z given x) - log p(z) that T has to learn. With it mean and covariance
    are known and nothing is left: T, which begins elsewhere, should become 0, and the estimate is the closed form but
    for T's error.
    """
    part, params = implicit(2, adaptive)
    mu, log_var = np.array([[1.2, 0.0], [-0.5, 0.9], [0.1, -1.4]]), np.array([[-1.5, -0.4], [-2.0, 0.2], [-0.5, -1.0]])
    independent, _ = gaussian_kl(mu, log_var)
    exact = independent - 0.5 * np.log1p(-(correlation**2))
    assert independent.min() > 0.9 and (not correlation or (exact / independent).min() > 1.2)
    stats = statistics(mu, log_var, np.array([[1, 0], [correlation, np.sqrt(1 - correlation**2)]]))
    assert np.abs(estimated_kl(part, params, stats) / exact - 1).min() > 0.12  # so that there is something to learn
    params = train_discriminator(part, params, stats, steps)
    np.testing.assert_allclose(estimated_kl(part, params, stats), exact, rtol=0.05)


SKEW, MU, LOG_VAR = 3.0, 0.7, -1.5  # z = mu + std (w - its mean) / its deviation, w = e + 3 max(e, 0)


def skewed():
    """A posterior in one dimension whose density can be written down; its statistics; mean and deviation of its w."""
    noise, discriminator = [mv.Dense(1, 2), mv.ReLU()], [mv.Dense(2, 16), mv.Tanh(), mv.Dense(16, 16), mv.Tanh()]
    part = mv.ImplicitPosterior(noise, [mv.Dense(1, 1)], [*discriminator, mv.Dense(16, 1)], draws=400)
    params = params_of(part, **{"noise.0.W": [[1, -1]]})  # so that v is max(e, 0) and max(-e, 0)
    e = params["draws"]
    w = e + SKEW * np.maximum(e, 0)
    a = np.exp(LOG_VAR / 2) / w.std() * np.sqrt(2)
    return part, params, np.array([[MU, a * (1 + SKEW), -a, 1]]), w.mean(), w.std()


def skewed_log_q(u, m, s):
    """The density of u = (w - m) / s: half of a normal below w = 0, half of one four times as wide above."""
    w = s * u + m
    return np.log(s) + stats.norm.logpdf(np.where(w < 0, w, w / (1 + SKEW))) - np.log1p(SKEW) * (w >= 0)


def test_the_estimate_is_the_kl_of_a_distribution_of_another_shape():
    part, params, of_x, m, s = skewed()
    std = np.exp(LOG_VAR / 2)

    def term(u):
        log_q = skewed_log_q(u, m, s)
        return np.exp(log_q) * (log_q - np.log(std) - stats.norm.logpdf(MU + std * u))

    exact = integrate.quad(term, -6, 8, points=[-m / s], limit=200)[0]
    gaussian = gaussian_kl(np.array([[MU]]), np.array([[LOG_VAR]]))[0][0]
    assert exact > 1.2 * gaussian  # so that the shape counts
    params = train_discriminator(part, params, of_x)
    assert estimated_kl(part, params, of_x) == pytest.approx(exact, rel=0.05)
    u = np.linspace(-1, 2, 31)  # where most of q lies
    t, _ = part._discriminate(params, np.eye(1), u.reshape(-1, 1, 1))
    error = t[:, 0] - (skewed_log_q(u, m, s) - stats.norm.logpdf(u))
    assert np.abs(error).mean() < 0.15


def test_where_noise_is_handed_through_it_is_a_gaussian():
    part, params = implicit(2, adaptive=True)
    params |= {name: np.zeros_like(value) for name, value in params.items() if name.startswith("discriminator.4")}
    rng = np.random.default_rng(0)
    mu, log_var, eps = rng.standard_normal((3, 2)), rng.standard_normal((3, 2)), rng.standard_normal((5, 3, 2))
    (z, log_q), _ = part.with_log_q(params, statistics(mu, log_var), eps)
    np.testing.assert_allclose(z, mu + np.exp(log_var / 2) * eps, atol=1e-5)
    np.testing.assert_allclose(log_q, stats.norm.logpdf(z, mu, np.exp(log_var / 2)).sum(axis=-1), atol=1e-4)


def covariances(seed=0):
    """Weights A (4, 3, 5), draws of noise (50, 5), and of their mixtures, n (50, 4, 3) and S (4, 3, 3)."""
    rng = np.random.default_rng(seed)
    A, draws = rng.standard_normal((4, 3, 5)), rng.exponential([0.5, 1, 2, 1, 1], (50, 5))
    (n, S), _ = mixture(A, np.broadcast_to(draws[:, None], (50, 4, 5)), draws, np.eye(3))
    return A, draws, n, S


def test_mixtures_of_the_draws_have_mean_0_and_the_covariance():
    A, draws, n, S = covariances()
    np.testing.assert_allclose(n.mean(axis=0), 0, atol=1e-12)
    for b in range(4):
        np.testing.assert_allclose(S[b], np.cov(draws @ A[b].T, rowvar=False, bias=True) + 1e-5 * np.eye(3), rtol=1e-12)
        np.testing.assert_allclose(n[:, b], (draws - draws.mean(axis=0)) @ A[b].T, atol=1e-12)


def test_what_is_whitened_has_covariance_1_and_the_lost_volume_is_known():
    _, _, n, S = covariances()
    (w, log_det), _ = whiten(S, n, np.tri(3))
    for b in range(4):
        np.testing.assert_allclose(np.cov(w[:, b], rowvar=False, bias=True), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(S)[1] / 2, rtol=1e-12)
    K, _ = inverse_root(S, np.tri(3))
    np.testing.assert_allclose(K, np.linalg.inv(np.linalg.cholesky(S)), atol=1e-9)


def test_a_covariance_without_rank_is_whitened_without_a_nan():
    rng, unit = np.random.default_rng(0), np.eye(4, dtype=np.float32)
    A, v = rng.standard_normal((2, 1, 3)).astype(np.float32), rng.standard_normal((7, 2, 3)).astype(np.float32)
    (r, S), _ = mixture(np.repeat(A, 4, axis=1), v, v[:, 0], unit)  # all four mixtures are the same
    (w, log_det), backward = whiten(S, r, np.tri(4, dtype=np.float32))
    assert all(np.isfinite(array).all() for array in (w, log_det, *backward(w, log_det)))


def test_the_proposal_is_the_gaussian_of_mean_and_covariance():
    part, params = implicit(2, adaptive=True)
    of_x = statistics(np.array([[0.3, -1.0]]), np.array([[-0.5, 0.4]]), np.array([[1, 0], [0.8, -0.6]]))
    S = np.exp([[-0.5, -0.05], [-0.05, 0.4]]) * [[1, 0.8], [0.8, 1]]
    eps = np.random.default_rng(0).standard_normal((40_000, 1, 2))
    z, log_q = part.proposal(params, of_x, eps)
    np.testing.assert_allclose(z[:, 0], [0.3, -1.0] + eps[:, 0] @ np.linalg.cholesky(S).T, atol=1e-3)
    S += 1e-5 * np.eye(2)
    np.testing.assert_allclose(log_q[:, 0], stats.multivariate_normal([0.3, -1.0], S).logpdf(z[:, 0]), rtol=1e-9)


def test_a_batch_is_whitened_by_its_own_noise():
    """By fixed draws, which v knows by heart, w would be beyond all bounds: here v is 0 for all of these."""
    noise, T = [mv.Dense(1, 1), mv.ReLU()], [mv.Dense(2, 1)]
    part = mv.ImplicitPosterior(noise, [mv.Dense(1, 1)], T, draws=50)
    far = np.abs(part.constant_arrays()["draws"]).max()
    params = params_of(part, **{"noise.0.W": [[1]], "noise.0.b": [-far], "discriminator.0.W": [[0], [0]]})
    params |= {"discriminator.0.b": np.zeros(1)}  # so that log q is that of the Gaussian which z is held against
    eps = np.where(np.arange(60) % 20, 0, far + 2).reshape(2, 30, 1)
    of_one_x = np.tile([0.4, 1, 0.7], (30, 1))  # mu, A, and x
    (z, log_q), _ = part.with_log_q(part.for_training(params, eps), of_one_x, eps)
    np.testing.assert_allclose(log_q, stats.norm.logpdf(z, 0.4, z.std())[..., 0], rtol=1e-3)
    (_, log_q), _ = part.with_log_q(params, of_one_x, eps)
    assert log_q.min() < -1e4


def test_few_draws_of_noise_are_standardised_over_the_fixed_ones():
    part, params = implicit(2, adaptive=True)
    eps = np.random.default_rng(0).standard_normal((1, 8, 2))
    assert part.for_training(params, eps[:, :7]) is params
    np.testing.assert_array_equal(part.for_training(params, eps)["draws"], eps[0])


def test_encode_gives_mean_and_variance_of_the_draws():
    vae = mv.avb(4, 2, 16, draws=2000, dtype="float64", seed=3)
    vae.parameters["posterior.noise.0.b"][:] = 1
    x, eps = np.eye(4)[:2], np.random.default_rng(0).standard_normal((4000, 2, 2))
    (z, _), _ = vae.posterior.with_log_q(within(vae._params, "posterior"), vae._encode(vae._params, x, None), eps)
    mu, log_var = vae.encode(x)
    std = np.exp(log_var / 2)
    assert np.abs(stats.skew(z, axis=0)).max() > 0.1  # no Gaussian
    np.testing.assert_allclose((z.mean(axis=0) - mu) / std, 0, atol=0.06)
    np.testing.assert_allclose(z.std(axis=0), std, rtol=0.06)


def test_noise_without_effect_has_a_variance_that_has_a_logarithm():
    part, params = implicit(2, adaptive=True)
    of_x = statistics(np.array([[0.3, -1.0]]), np.zeros((1, 2)))
    mu, log_var = part.moments(params | {"noise.0.W": np.zeros((2, 2))}, of_x)
    np.testing.assert_allclose((mu[0], log_var[0]), [[0.3, -1.0], np.log([1e-5, 1e-5])], rtol=1e-6)


def test_without_adaptive_contrast_it_is_z_that_is_told_from_noise():
    part, params = implicit(2, adaptive=False)
    of_x = statistics(np.array([[1.2, 0.0], [-0.5, 0.9], [0.1, -1.4]]), np.zeros((3, 2)))
    eps = np.random.default_rng(0).standard_normal((5, 3, 2))
    (z, log_q), _ = part.with_log_q(params, of_x, eps)
    t_contrast, _ = part._discriminate(params, np.eye(3), eps)
    told, _ = contrast_loss(log_q - stats.norm.logpdf(z).sum(axis=-1), t_contrast)
    np.testing.assert_allclose(part.own_loss(params, of_x, eps)[0], told, rtol=1e-12)


def test_the_loss_of_a_discriminator():
    t, s = np.random.default_rng(0).standard_normal((2, 3, 4))
    right = np.log(special.expit(t)) + np.log(special.expit(-s))
    np.testing.assert_allclose(contrast_loss(t, s)[0], -right.mean(axis=0))
    loss, backward = contrast_loss(np.array([[1e4, -1e4]]), np.array([[-1e4, 1e4]]))
    np.testing.assert_array_equal(loss, [0, 2e4])
    np.testing.assert_array_equal(backward(np.ones(2)), [[[0, -1]], [[0, 1]]])


@pytest.mark.parametrize("adaptive", [True, False])
def test_who_is_trained_by_what(adaptive):
    """The weights of T by its own loss alone, and that knows no others; all else by the ELBO."""
    vae = mv.avb(4, 2, 8, adaptive, draws=6, dtype="float64")
    x, eps = np.random.default_rng(0).random((5, 4)), np.random.default_rng(1).standard_normal((2, 5, 2))
    vae.loss_and_gradients(x, eps)
    params = vae._params | {"posterior.draws": eps.reshape(10, 2)}
    _, backward = vae.forward(params, x, eps, vae.beta_array)
    of_elbo = backward(np.full(5, 1 / 5))
    of_own = vae.posterior.own_loss(within(params, "posterior"), vae._encode(params, x, None), eps)[1](
        np.full(5, 1 / 5)
    )
    own = {f"posterior.{name}" for name in of_own}
    assert own == {name for name in vae.parameters if name.startswith(("posterior.features", "posterior.discr"))}
    for name, gradient in vae.gradients.items():
        np.testing.assert_allclose(gradient, of_own[name[10:]] if name in own else of_elbo[name], atol=1e-14)
        assert name not in own or np.abs(of_elbo[name] - gradient).max() > 1e-3 * np.abs(gradient).max()


def test_pace_changes_how_far_a_step_goes_and_nothing_else():
    x, eps = np.random.default_rng(0).random((5, 4)), np.random.default_rng(1).standard_normal((2, 5, 2))
    losses, steps = [], []
    for pace in (1, 4):
        vae = mv.avb(4, 2, 8, draws=6, pace=pace, dtype="float64")
        losses.append(vae.loss_and_gradients(x, eps).loss)
        before = vae.parameters.to_host()
        mv.fit(vae, x, epochs=1, optimizer=mv.Adam(1e-3, eps=1e-30), progress=False)
        own = {name: name.startswith(("posterior.features", "posterior.discr")) for name in before}
        steps.append({name: (vae.parameters[name] - before[name]) * (pace if own[name] else 1) for name in before})
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)
    for name, step in steps[0].items():  # +-1e-3 where the gradient is not 0
        np.testing.assert_allclose(steps[1][name], (4 if own[name] else 1) * step, rtol=1e-6)


def test_log_likelihood_is_true_whatever_the_discriminator_says():
    """Against a grid; the draws are from a Gaussian of known density, and T, here untrained, has no part in it."""
    vae = mv.avb(4, 2, 16, dtype="float64", seed=1)
    rng = np.random.default_rng(1)
    vae.parameters["encoder.0.4.b"][2:] = 8 * rng.standard_normal(8)  # untrained draws are too narrow to sample by
    x = np.random.default_rng(0).random((5, 4))
    axis = np.linspace(-8, 8, 401)
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    mean = np.clip(vae.decode(z), 1e-300, 1 - 1e-16)
    log_joint = x @ np.log(mean).T + (1 - x) @ np.log1p(-mean).T + vae.log_prior(z)
    exact = special.logsumexp(log_joint, axis=1) + 2 * np.log(axis[1] - axis[0])
    assert vae.log_likelihood(x, samples=40_000, progress=False) == pytest.approx(exact.mean(), abs=0.03)


def parts(noise=None, features=None, discriminator=None, **options):
    """A posterior of three functions of two numbers of noise, but for what is given."""
    noise, features = noise or [mv.Dense(2, 3)], features or [mv.Dense(4, 3)]
    return mv.ImplicitPosterior(noise, features, discriminator or [mv.Dense(5, 1)], **options)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: parts(noise=[mv.Tanh()]), "noise should begin with a layer of known width"),
        (lambda: parts(discriminator=[mv.Dense(5, 2)]), "should take 5 and give 1; it takes 5 and gives 2"),
        (lambda: parts(noise=[mv.Dense(2, 1)]), "noise gives 1 numbers for the 2 dimensions of z, .* give 2 or more"),
        (lambda: parts(discriminator=[mv.Dense(4, 1)]), "it takes 4 and gives 1"),
        (lambda: parts(features=[mv.Dense(4, 3), mv.Dropout()]), "ImplicitPosterior: features has a Dropout"),
        (lambda: parts(adaptive="yes"), "adaptive should be True or False"),
        (lambda: parts(draws=2), "draws should be an integer of at least 3"),
        (lambda: parts(pace=0), "pace should be a positive number, got 0"),
        (
            lambda: mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)], posterior=parts()),
            r"should give \(B, 12\): 2 for mu, 6 to mix the noise, and the 4 values of x; got \(B, 4\)",
        ),
        (lambda: mv.avb(4, 0), "avb: latent should be an integer of at least 1"),
        (lambda: mv.avb(4, bound=mv.ImportanceWeighted()), "a gradient for the ELBO only.* Leave bound out"),
        (lambda: mv.avb(4, kl="analytic"), "no analytic KL"),
        (lambda: mv.avb(4, prior=mv.VampPrior(2, 4)), "needs the density of q"),
        (lambda: mv.avb(4, n_classes=3), "avb does not know n_classes: put the layers together with VAE"),
        (lambda: mv.avb(4, posterior=mv.DiagonalGaussian()), "avb does not know posterior"),
        (lambda: mv.avb(4, likelihood="grey"), "likelihood should be an instance such as .*, got 'grey'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        make()
