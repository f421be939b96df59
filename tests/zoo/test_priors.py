"""Priors: densities against quadrature and SciPy, draws against densities, the KL of samples against closed forms."""

import numpy as np
import pytest
from scipy import special, stats
from truths.parts import params_of

import minivae as mv
from minivae.zoo.mixture import log_weights, mixture_log_prob


def mixture(D=2):
    """Three components with weights that differ, and its params."""
    prior = mv.MixturePrior(D, 3)
    rng = np.random.default_rng(3)
    mu, log_var = rng.normal(0, 1.5, (3, D)), rng.normal(-0.5, 0.7, (3, D))
    return prior, {"mu": mu, "log_var": log_var, "logits": np.array([0.3, -1.0, 1.1])}


def vamp(D=2):
    """A VampPrior, and its params with what an encoder may make of three pseudo-inputs."""
    _, of_mixture = mixture(D)
    stats = np.concatenate([of_mixture["mu"], of_mixture["log_var"]], axis=1)
    return mv.VampPrior(D, 4, 3), {"u": np.random.default_rng(0).random((3, 4)), "stats": stats}


def flow(D=2):
    prior = mv.FlowPrior([mv.InverseAutoregressive(D, 5), mv.InverseAutoregressive(D, 4, reverse=True)])
    gates = np.concatenate([np.zeros(D), np.ones(D)])  # a gate that is all but closed has an inverse without bounds
    return prior, params_of(prior, seed=2, scale=0.4) | {"0.2.b": gates, "1.2.b": gates}


def two_layers(D=2):
    """z = [z1, z2] with one dimension each; z2 from a mixture."""
    top, of_top = mixture(1)
    prior = mv.TwoLayerPrior(top, [mv.Dense(1, 4), mv.Tanh(), mv.Dense(4, 2)])
    return prior, params_of(prior, seed=5, scale=0.6) | {f"top.{name}": value for name, value in of_top.items()}


PRIORS = {
    "standard normal": lambda D=2: (mv.StandardNormal(D), {}),
    "mixture": mixture,
    "VampPrior": vamp,
    "flow": flow,
    "two layers": two_layers,
}


def grid(n=801, reach=12.0):
    """Points of a square (n * n, 2), and the area that each stands for."""
    axis = np.linspace(-reach, reach, n)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    return z, (axis[1] - axis[0]) ** 2


@pytest.mark.parametrize("name", PRIORS)
def test_a_density_integrates_to_1(name):
    prior, params = PRIORS[name]()
    z, area = grid()
    log_pz, _ = prior.log_prob(params, z)
    assert log_pz.shape == (len(z),)
    assert np.exp(log_pz).sum() * area == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", PRIORS)
def test_draws_have_the_moments_of_the_density(name):
    prior, params = PRIORS[name]()
    z, area = grid()
    p = np.exp(prior.log_prob(params, z)[0]) * area
    drawn = prior.sample(params, 100_000, np.random.default_rng(0))
    assert drawn.shape == (100_000, 2)
    for function in (lambda z: z, lambda z: z**2, lambda z: z**3, lambda z: z[:, :1] * z[:, 1:], lambda z: np.abs(z)):
        values = function(drawn)
        error = values.std(axis=0) / np.sqrt(len(drawn))
        assert (np.abs(values.mean(axis=0) - p @ function(z)) < 5 * error + 1e-3).all()


def test_a_mixture_is_that_of_scipy():
    prior, params = mixture()
    z = np.random.default_rng(0).normal(0, 2, (7, 2))
    w = special.softmax(params["logits"])
    components = zip(w, params["mu"], np.exp(params["log_var"]), strict=True)
    density = sum(weight * stats.multivariate_normal(m, np.diag(v)).pdf(z) for weight, m, v in components)
    np.testing.assert_allclose(prior.log_prob(params, z)[0], np.log(density))
    np.testing.assert_allclose(log_weights(params["logits"])[0], np.log(w))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_mixture_far_away_does_not_overflow(dtype):
    mu, log_var = np.zeros((2, 3), dtype), np.array([[0] * 3, [-8] * 3], dtype)
    z = np.array([[1e3] * 3, [0.0] * 3], dtype)
    log_pz, backward = mixture_log_prob(z, mu, log_var, np.log(np.full(2, 0.5, dtype)))
    assert log_pz.dtype == np.dtype(dtype) and log_pz[0] == pytest.approx(-1.5e6, rel=1e-4)
    assert all(np.isfinite(gradient).all() for gradient in backward(np.ones(2, dtype)))
    weights, _ = log_weights(np.array([-1e4, 0, 1e4], dtype))
    assert np.isfinite(weights).all() and np.exp(weights).sum() == pytest.approx(1)


def test_narrow_components_keep_their_density_in_float32():
    """(z - mu)^2 / var, written as the square of a difference, loses nothing where var is far below mu^2."""
    rng = np.random.default_rng(0)
    mu, log_var, log_w = rng.normal(0, 2, (5, 4)), np.full((5, 4), -11.0), np.zeros(5)
    z = (mu + np.exp(-5.5) * rng.standard_normal(mu.shape)).astype(np.float32)
    single = [array.astype(np.float32) for array in (z, mu, log_var, log_w)]
    doubled = [array.astype(np.float64) for array in single]
    np.testing.assert_allclose(mixture_log_prob(*single)[0], mixture_log_prob(*doubled)[0], rtol=1e-5)


def test_narrow_components_far_apart_keep_their_gradients_in_float32():
    rng = np.random.default_rng(0)
    mu = 30 * rng.standard_normal((8, 3))
    z, log_var, log_w = np.repeat(mu, 20, axis=0), np.full((8, 3), -6.0), np.full(8, -np.log(8))
    z = z + np.exp(-3) * rng.standard_normal(z.shape)
    given = [values.astype(np.float32) for values in (z, mu, log_var, log_w)]
    gradients = [mixture_log_prob(*(a.astype(d) for a in given))[1](np.ones(160, d)) for d in ("f4", "f8")]
    for rounded, exact in zip(*gradients, strict=True):
        np.testing.assert_allclose(rounded, exact, atol=1e-3 * np.abs(exact).max())


def test_a_vampprior_is_the_mean_of_the_posteriors_of_its_pseudo_inputs():
    prior, params = vamp()
    z = np.random.default_rng(0).normal(0, 2, (7, 2))
    mu, std = params["stats"][:, :2], np.exp(0.5 * params["stats"][:, 2:])
    density = np.mean([stats.norm.pdf(z, m, s).prod(axis=1) for m, s in zip(mu, std, strict=True)], axis=0)
    np.testing.assert_allclose(prior.log_prob(params, z)[0], np.log(density))


def test_pseudo_inputs_are_held_where_pixels_lie():
    prior = mv.VampPrior(2, 3, 2)
    u, backward = prior.pseudo_inputs({"u": np.array([[-0.5, 0.25, 1.5], [0.75, 2.0, 0.5]])})
    np.testing.assert_array_equal(u, [[0, 0.25, 1], [0.75, 1, 0.5]])
    np.testing.assert_array_equal(backward(np.ones((2, 3)))["u"], [[0, 1, 0], [1, 0, 1]])
    start = mv.VampPrior(2, 784, 50).initial(np.random.default_rng(0))["u"]
    assert start.mean() == pytest.approx(0.05, abs=1e-3) and start.std() == pytest.approx(0.01, rel=0.02)


def test_a_flow_prior_goes_back_to_where_it_came_from():
    """Its draws, taken through the chain, are the noise that they were made of."""
    prior, params = flow(4)
    z = prior.sample(params, 50, np.random.default_rng(1))
    for name, part in prior.parts().items():
        (z, _), _ = part.forward({key[2:]: value for key, value in params.items() if key.startswith(name)}, z)
    np.testing.assert_allclose(z, np.random.default_rng(1).standard_normal((50, 4), np.float32), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_inverse_of_an_autoregressive_step_with_context(reverse):
    part, rng = mv.InverseAutoregressive(3, 7, context=2, reverse=reverse), np.random.default_rng(0)
    params, z, context = params_of(part, scale=0.7), rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    (z_out, _), _ = part.forward(params, z, context)
    np.testing.assert_allclose(part.inverse(params, z_out, context), z, rtol=1e-10)


# ------------------------------------------------------------------------------------------------ within a model


def model(prior=None, D=2, **options):
    encoder, decoder = [mv.Dense(4, 5), mv.Tanh(), mv.Dense(5, 2 * D)], [mv.Dense(D, 5), mv.Tanh(), mv.Dense(5, 4)]
    return mv.VAE(encoder, decoder, prior=prior, dtype="float64", seed=4, **options)


def widened(vae, log_var):
    """The model with posteriors so wide that their draws reach all of a prior."""
    arrays = vae.parameters.to_host()
    arrays["encoder.2.b"] = arrays["encoder.2.b"] + np.repeat([0.0, log_var], vae.latent_dim)
    vae.parameters.load(arrays)
    return vae


def set_prior(vae, **arrays):
    named = {f"prior.{name}": np.asarray(array, float) for name, array in arrays.items()}
    vae.parameters.load(vae.parameters.to_host() | named)


X = np.random.default_rng(0).random((6, 4))


def test_a_mixture_of_one_standard_normal_is_the_standard_normal():
    plain, mixed = model(kl="monte-carlo"), model(mv.MixturePrior(2, 1))
    set_prior(mixed, mu=np.zeros((1, 2)), log_var=np.zeros((1, 2)), logits=[3.0])
    eps = np.random.default_rng(1).standard_normal((3, 6, 2))
    ours, theirs = mixed.loss_and_gradients(X, eps), plain.loss_and_gradients(X, eps)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12) and ours.kl == pytest.approx(theirs.kl, rel=1e-12)
    np.testing.assert_allclose(mixed.gradients["encoder.0.W"], plain.gradients["encoder.0.W"], atol=1e-14)


def test_the_kl_of_samples_tends_to_the_closed_form():
    """Of N(mu, s^2) from a prior of one component, N(m, v): 1/2 sum ((s^2 + (mu - m)^2) / v - 1 + log(v / s^2))."""
    vae, m, v = model(mv.MixturePrior(2, 1)), np.array([0.4, -0.8]), np.array([0.5, 2.0])
    set_prior(vae, mu=[m], log_var=[np.log(v)], logits=[0.0])
    mu, log_var = vae.encode(X)
    exact = 0.5 * ((np.exp(log_var) + (mu - m) ** 2) / v - 1 + np.log(v) - log_var).sum(axis=1)
    np.testing.assert_allclose(vae.score(X, samples=40_000).kl, exact, atol=0.03)
    assert exact.min() > 0.1


@pytest.mark.parametrize("D", [1, 2])
@pytest.mark.parametrize("name", ["mixture", "VampPrior", "flow"])
def test_log_likelihood_against_quadrature(name, D):
    """log p(x) = log of the integral of p(x given z) p(z), by a grid."""
    prior, params = PRIORS[name](D)
    vae = widened(model(prior, D), log_var=3.0)
    set_prior(vae, **{key: params[key] for key in prior.shapes()})
    axis = np.linspace(-14, 14, 401)
    z = np.stack(np.meshgrid(*[axis] * D), axis=-1).reshape(-1, D)
    log_pz, _ = vae.prior.log_prob(vae._of_prior(), z)
    mean = vae.decode(z)
    log_px = X @ np.log(mean).T + (1 - X) @ np.log1p(-mean).T
    exact = special.logsumexp(log_px + log_pz, axis=1) + D * np.log(axis[1] - axis[0])
    assert vae.log_likelihood(X, samples=40_000, progress=False) == pytest.approx(exact.mean(), abs=0.02)
    assert -vae.evaluate(X, samples=2000).loss < exact.mean() + 0.01
    mean_of_draws = vae.sample(20_000, seed=1).mean(axis=0)
    weights = np.exp(log_pz) * (axis[1] - axis[0]) ** D
    np.testing.assert_allclose(mean_of_draws, weights @ mean, atol=0.02)


def test_the_prior_of_a_vampprior_moves_with_the_encoder():
    vae = model(mv.VampPrior(2, 4, 3))
    vae.loss_and_gradients(X)
    assert np.abs(vae.gradients["prior.u"]).max() > 0
    mu, log_var = vae.encode(np.clip(vae.parameters["prior.u"], 0, 1))
    np.testing.assert_allclose(vae._of_prior()["stats"], np.concatenate([mu, log_var], axis=1))
    # The encoder's own last bias moves all components alike, and so each posterior and the prior together: where q is
    # the prior itself, K = B examples at the pseudo-inputs, the KL does not change by it.
    before = vae.draw_prior(1000, np.random.default_rng(0)).mean(axis=0)
    arrays = vae.parameters.to_host()
    arrays["encoder.2.b"] = arrays["encoder.2.b"] + [1, 2, 0, 0]
    vae.parameters.load(arrays)
    np.testing.assert_allclose(vae.draw_prior(1000, np.random.default_rng(0)).mean(axis=0), before + [1, 2])


def test_log_prior_and_its_input():
    prior, params = mixture()
    vae = model(mv.MixturePrior(2, 3))
    set_prior(vae, **params)
    z = np.random.default_rng(0).standard_normal((5, 2))
    np.testing.assert_allclose(vae.log_prior(z), prior.log_prob(params, z)[0])
    np.testing.assert_allclose(model().log_prior(z), stats.norm.logpdf(z).sum(axis=1))
    with pytest.raises(mv.MiniVAEError, match=r"z should be \(N, 2\) with N at least 1, got \(5, 4\): did you pass"):
        vae.log_prior(np.zeros((5, 4)))
    vae.parameters["prior.mu"][...] = np.nan
    for ask in (lambda: vae.log_prior(z), lambda: vae.sample(3)):
        with pytest.raises(mv.MiniVAEError, match="is not finite"):
            ask()


def test_log_prior_asks_about_a_batch_at_a_time(monkeypatch):
    vae = mv.mlp(4, 2, (5,), prior=mv.VampPrior(2, 4, 6), dtype="float64")
    z, seen, log_prob = np.random.default_rng(0).standard_normal((50, 2)), [], mv.VampPrior.log_prob
    whole = vae.log_prior(z)
    monkeypatch.setattr(mv.VampPrior, "log_prob", lambda *args: seen.append(len(args[2])) or log_prob(*args))
    vae.inference_rows = 20
    np.testing.assert_allclose(vae.log_prior(z), whole, rtol=1e-12)
    assert seen == [20, 20, 10]


def test_pseudo_inputs_are_encoded_without_dropout():
    encoder = [mv.Dropout(0.9), mv.Dense(4, 4)]
    vae = mv.VAE(encoder, [mv.Dense(2, 4)], prior=mv.VampPrior(2, 4, 3), dtype="float64")
    params = dict(vae.parameters) | {"encoder.0.u": np.zeros((6, 4))}  # everything is dropped
    of = {name: {k[len(name) + 1 :]: v for k, v in params.items() if k.startswith(name)} for name in vae.parts}
    np.testing.assert_array_equal(vae._prior_params(of)[0]["stats"], vae._of_prior()["stats"])


def test_training_lowers_the_loss_and_a_learned_prior_helps():
    """Data of two clusters of codes: the mixture finds them, and gives a higher bound than one Gaussian."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(3, 0.3, (300, 2)), rng.normal(-3, 0.3, (300, 2))])
    losses = {}
    for name, prior in (("normal", None), ("mixture", mv.MixturePrior(2, 3))):
        networks = [mv.Dense(2, 16), mv.Tanh(), mv.Dense(16, 4)], [mv.Dense(2, 16), mv.Tanh(), mv.Dense(16, 2)]
        vae = mv.VAE(*networks, likelihood=mv.Gaussian(0.3), prior=prior, seed=1)
        mv.fit(vae, x, epochs=60, batch_size=50, optimizer=mv.Adam(5e-3))
        losses[name] = -vae.log_likelihood(x, samples=200, progress=False)
    assert losses["mixture"] < losses["normal"] - 0.1, losses


# -------------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: model(mv.MixturePrior(3)), "MixturePrior has dim=3, but z has 2 dimensions"),
        (lambda: model("normal"), r"prior should be an instance such as MixturePrior\(2\), got 'normal'"),
        (lambda: model(mv.MixturePrior), "prior should be an instance"),
        (lambda: model(mv.MixturePrior(2), kl="analytic"), "MixturePrior has no analytic KL"),
        (lambda: model(mv.MixturePrior(2), free_bits=0.1), "free_bits needs the analytic KL"),
        (lambda: model(mv.VampPrior(2, 5)), "n_inputs=5, but the encoder takes 4 values"),
        (
            lambda: model(mv.VampPrior(2, 4), posterior=mv.FlowPosterior([mv.Planar(2)])),
            "needs the density of q.*FlowPosterior does not give",
        ),
        (
            lambda: mv.VAE([mv.Dense(6, 4)], [mv.Dense(4, 4)], prior=mv.VampPrior(2, 4), n_classes=2),
            "pseudo-inputs without labels",
        ),
        (lambda: mv.VampPrior(2, 4, 0), "VampPrior: components should be an integer of at least 1, got 0"),
        (lambda: mv.MixturePrior(2.0), "MixturePrior: dim should be an integer of at least 1, got 2.0"),
        (lambda: mv.StandardNormal(0), "StandardNormal: dim should be"),
        (lambda: mv.StandardNormal(True), "StandardNormal: dim should be an integer of at least 1, got True"),
        (lambda: mv.FlowPrior([]), "FlowPrior: flows should be a list"),
        (lambda: mv.FlowPrior(None), "FlowPrior: flows should be a list of .*, got None"),
        (
            lambda: mv.FlowPrior(mv.InverseAutoregressive(2, 3)),
            "should be a list of .*, got InverseAut",
        ),
        (
            lambda: mv.FlowPrior([mv.Planar(2)]),
            "which can be gone through backwards.*got Planar",
        ),
        (lambda: mv.FlowPrior([mv.InverseAutoregressive(2, 3, context=1)]), "context=0"),
        (
            lambda: mv.FlowPrior([mv.InverseAutoregressive(2, 3), mv.InverseAutoregressive(3, 3)]),
            r"the same dim, got \[2, 3\]",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        make()
