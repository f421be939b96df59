"""Two layers of latent variables: densities, bound and draws against quadrature over the plane of (z1, z2)."""

import numpy as np
import pytest
from scipy import special, stats
from truths.parts import params_of

import minivae as mv
from minivae.model.gaussian import gaussian_log_prob_of_sample

X = np.random.default_rng(0).random((5, 4))


def model(top=None, **options):
    """One dimension in each layer, and weights large enough that z1 depends on z2."""
    vae = mv.two_layers(4, (1, 1), 6, top, dtype="float64", seed=6, **options)
    arrays = vae.parameters.to_host()
    rng = np.random.default_rng(8)
    biases = {name: 0.5 * rng.standard_normal(array.shape) for name, array in arrays.items() if array.ndim == 1}
    biases["posterior.joint.1.b"] += [0, 3]  # so wide that its draws reach all of p(z1 given z2)
    if not isinstance(top, mv.VampPrior):  # which would widen too
        biases["encoder.0.2.b"] += [0, 2]
    vae.parameters.load(arrays | biases)
    return vae


TOPS = {
    "standard normal": lambda: None,
    "mixture": lambda: mv.MixturePrior(1, 3),
    "VampPrior": lambda: mv.VampPrior(1, 4, 3),
}


def test_a_gaussian_is_that_of_scipy():
    z, mu, log_var = np.random.default_rng(0).standard_normal((3, 5, 2))
    expected = stats.norm.logpdf(z, mu, np.exp(log_var / 2)).sum(axis=1)
    np.testing.assert_allclose(gaussian_log_prob_of_sample(z, mu, log_var)[0], expected)


def test_log_q_is_the_density_of_the_draws():
    """By the change of variables: log q(z) = log N(eps) - log |det dz/deps|, the last by differences."""
    vae, h = model(), 1e-6
    params = {name.removeprefix("posterior."): value for name, value in vae.parameters.items()}
    stats_of_x = vae._encode(vae._params, X, None)

    def draw(eps):
        return vae.posterior.with_log_q(params, stats_of_x, eps)[0]

    eps = np.random.default_rng(1).standard_normal((4, 5, 2))
    z, log_q = draw(eps)
    columns = [(draw(eps + h * step)[0] - draw(eps - h * step)[0]) / (2 * h) for step in np.eye(2)]
    jacobian = np.stack(columns, axis=-1)
    assert np.abs(jacobian[..., 0, 1]).max() > 0.01  # z1 depends on the draw of z2
    expected = stats.norm.logpdf(eps).sum(axis=-1) - np.log(np.abs(np.linalg.det(jacobian)))
    np.testing.assert_allclose(log_q, expected, atol=1e-7)


@pytest.mark.parametrize("top", TOPS)
def test_bounds_and_draws_against_quadrature(top):
    vae = model(TOPS[top]())
    axis = np.linspace(-24, 24, 801)
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    area = (axis[1] - axis[0]) ** 2
    log_pz, _ = vae.prior.log_prob(vae._of_prior(), z)
    assert np.exp(log_pz).sum() * area == pytest.approx(1, abs=2e-3)
    mean = np.clip(vae.decode(z), 1e-300, 1 - 1e-16)
    log_joint = X @ np.log(mean).T + (1 - X) @ np.log1p(-mean).T + log_pz
    log_px = special.logsumexp(log_joint, axis=1) + np.log(area)
    assert vae.log_likelihood(X, samples=40_000, progress=False) == pytest.approx(log_px.mean(), abs=0.02)
    elbo = -vae.evaluate(X, samples=20_000).loss
    tighter = -model(TOPS[top](), bound=mv.ImportanceWeighted()).evaluate(np.repeat(X, 2000, axis=0), samples=5).loss
    assert elbo < tighter - 0.01 and tighter < log_px.mean() + 0.005
    np.testing.assert_allclose(vae.sample(20_000, seed=1).mean(axis=0), area * np.exp(log_pz) @ mean, atol=0.02)


def test_the_top_may_be_alone():
    """Where p(z1 given z2), q(z1 given x, z2) and the decoder make nothing of their inputs, z1 costs nothing."""
    vae = model()
    arrays = vae.parameters.to_host()
    for name in arrays:
        if name.startswith(("posterior.joint.1", "prior.below.2")):
            arrays[name][...] = 0.0
    vae.parameters.load(arrays)
    eps = np.random.default_rng(0).standard_normal((3, 5, 2))
    of = {part: {k[len(part) + 1 :]: v for k, v in vae.parameters.items() if k.startswith(part)} for part in vae.parts}
    (z, log_q), _ = vae.posterior.with_log_q(of["posterior"], vae._encode(vae._params, X, None), eps)
    np.testing.assert_allclose(z[..., 0], eps[..., 0])
    log_pz, _ = vae.prior.log_prob(of["prior"], z.reshape(-1, 2))
    mu2, log_var2 = vae._encode(vae._params, X, None)[:, :2].T
    kl2 = stats.norm.logpdf(z[..., 1], mu2, np.exp(log_var2 / 2)) - stats.norm.logpdf(z[..., 1])
    np.testing.assert_allclose(log_q - log_pz.reshape(3, 5), kl2, atol=1e-12)


def test_where_encode_says_a_draw_without_noise_lies():
    vae = model()
    mu, log_var = vae.encode(X)
    assert mu.shape == log_var.shape == (5, 2)
    params = {name.removeprefix("posterior."): value for name, value in vae.parameters.items()}
    at = [
        vae.posterior.with_log_q(params, vae._encode(vae._params, X, None), np.full((1, 5, 2), e) * [1, 0])[0][0]
        for e in (0, 1)
    ]
    np.testing.assert_allclose(at[0][0], mu)
    np.testing.assert_allclose((at[1] - at[0])[0, :, 0], np.exp(log_var[:, 0] / 2))
    np.testing.assert_allclose(vae.reconstruct(X), vae.decode(mu))
    np.testing.assert_allclose(vae.reconstruct(X, np.zeros((5, 2)))[0], vae.decode(mu))


def test_draws_of_one_example_differ_in_both_layers_and_share_x():
    part = mv.TwoLayerPosterior([mv.Dense(3, 2)], [mv.Dense(2, 2)], [mv.Dense(4, 2)])
    params, rng = params_of(part, scale=0.5), np.random.default_rng(0)
    stats_of_x, eps = rng.standard_normal((4, 7)), rng.standard_normal((2, 4, 3))
    (z, log_q), _ = part.with_log_q(params, stats_of_x, eps)
    for l in range(2):  # noqa: E741
        (alone, log_q_alone), _ = part.with_log_q(params, stats_of_x, eps[l : l + 1])
        np.testing.assert_allclose(z[l], alone[0])
        np.testing.assert_allclose(log_q[l], log_q_alone[0])


def test_the_networks_are_those_of_the_paper():
    """Counted by hand: a gated layer of n_in x n_out has 2 (n_in + 1) n_out parameters, a dense one half of that."""
    vae = mv.two_layers(784, (40, 40), 300, mv.VampPrior(40, 784, 500))

    def gated(n_in, n_out):
        return 2 * (n_in + 1) * n_out

    q2 = gated(784, 300) + gated(300, 300) + 301 * 80
    q1 = gated(784, 300) + gated(40, 300) + gated(600, 300) + 301 * 80
    p1 = gated(40, 300) + gated(300, 300) + 301 * 80
    px = 2 * gated(40, 300) + gated(600, 300) + 301 * 784
    assert vae.parameters.flat.size == q2 + q1 + p1 + px + 500 * 784
    assert vae.latent_dim == 80 and vae.input_dim == 784


@pytest.mark.parametrize("likelihood, widths", [(mv.Gaussian(), 4), (mv.PredictedVarianceGaussian(), 8)])
def test_other_likelihoods(likelihood, widths):
    vae = mv.two_layers(4, (2, 1), 5, likelihood=likelihood)
    assert vae.parameters["decoder.2.W"].shape == (5, widths)
    assert vae.sample(3).shape == (3, 4)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: mv.TwoLayerPosterior([mv.Tanh()], [mv.Dense(2, 2)], [mv.Dense(4, 2)]), "of_x should begin with"),
        (lambda: mv.TwoLayerPosterior([mv.Dense(3, 2)], [mv.Dense(2, 2)], [mv.Dense(4, 3)]), "joint should .*even"),
        (
            lambda: mv.TwoLayerPosterior([mv.Dense(3, 2)], [mv.Dense(2, 2)], [mv.Dense(5, 4)]),
            "2 . 2 .*joint takes 5",
        ),
        (
            lambda: mv.TwoLayerPosterior([mv.Dense(3, 2)], [mv.Dense(2, 2)], [mv.Dense(4, 3), mv.Dense(2, 2)]),
            r"TwoLayerPosterior: joint: Dense\(2, 2\) expects \(B, 2\), got \(B, 3\)",
        ),
        (
            lambda: mv.TwoLayerPosterior([mv.Dense(3, 2)], [mv.Dropout(), mv.Dense(2, 2)], [mv.Dense(4, 2)]),
            "TwoLayerPosterior: of_z2 has a Dropout, which drops in the encoder and the decoder only: leave it out",
        ),
        (lambda: mv.TwoLayerPrior(mv.StandardNormal(2), [mv.Dense(2, 3)]), "TwoLayerPrior: below should give .*even"),
        (lambda: mv.TwoLayerPrior(mv.StandardNormal(2), [mv.Dense(2, 2), mv.Dropout()]), "below has a Dropout"),
        (
            lambda: mv.VAE(
                [mv.Dense(3, 4)],
                [mv.Dense(3, 3)],
                posterior=mv.TwoLayerPosterior([mv.Dense(3, 2)], [mv.Dense(2, 2)], [mv.Dense(4, 2)]),
            ),
            r"the encoder should give \(B, 7\).*got \(B, 4\): put its layers into WithInput",
        ),
        (lambda: mv.TwoLayerPrior("normal", [mv.Dense(2, 2)]), "top should be a prior such as"),
        (lambda: mv.TwoLayerPrior(mv.StandardNormal(3), [mv.Dense(2, 2)]), "gives z2 of 3 dimensions"),
        (lambda: mv.two_layers(4, (1, 2), 5, mv.VampPrior(2, 3)), "n_inputs=3, but the encoder takes 4"),
        (lambda: mv.two_layers(4, (1, 2), 5, n_classes=3), "two_layers does not know n_classes: put the layers"),
        (lambda: mv.two_layers(4, prior=mv.MixturePrior(80)), "does not know prior: the prior of z2 is top="),
        (lambda: mv.two_layers(4, posterior=mv.DiagonalGaussian()), "two_layers does not know posterior"),
        (lambda: mv.two_layers(4, 3), r"latent should be a list of integers such as \(32, 64\), got 3"),
        (lambda: mv.two_layers(4, (3, 2, 1)), r"the sizes of z1 and z2, as \(40, 40\), got \(3, 2, 1\)"),
        (lambda: mv.two_layers(4, likelihood=mv.Gaussian), r"likelihood should be .*, got the class Gaussian"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        make()
