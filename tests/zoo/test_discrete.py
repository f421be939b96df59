"""Discrete codes: Gumbel-softmax and VQ-VAE against the sum over all codes, SciPy, and losses with constants held."""

import itertools
import math

import numpy as np
import pytest
from conftest import MAKE_BACKEND
from scipy import special, stats
from truths.parts import params_of

import minivae as mv
from minivae.zoo.gumbel import categorical_kl, gumbel_of_normal, gumbel_softmax, one_hot_of_largest
from minivae.zoo.vector_quantized import quantize, squared_distance

X = np.random.default_rng(0).integers(0, 2, (3, 4)).astype(float)


def relaxed(temperature=0.5, **options):
    """Two variables of three categories, with weights large enough that codes matter."""
    vae = mv.VAE(
        [mv.Dense(4, 6)],
        [mv.Dense(6, 5), mv.Tanh(), mv.Dense(5, 4)],
        posterior=mv.GumbelSoftmax(3, temperature),
        dtype="float64",
        seed=1,
        **options,
    )
    rng = np.random.default_rng(2)
    scale = {"encoder": 0.6, "decoder": 1.2}
    arrays = {name: scale[name[:7]] * rng.standard_normal(array.shape) for name, array in vae.parameters.items()}
    vae.parameters.load(arrays)
    return vae


def quantized(commitment=0.25, **options):
    """Three vectors of width two, from a codebook of five entries."""
    encoder, decoder = [mv.Dense(4, 6)], [mv.Dense(6, 5), mv.Tanh(), mv.Dense(5, 4)]
    return mv.VAE(encoder, decoder, posterior=mv.VectorQuantized(5, 2, commitment), dtype="float64", seed=4, **options)


def all_codes(V, K):
    """Every z of V one-hot rows of K, (K^V, V K)."""
    return np.array([np.eye(K)[list(code)].ravel() for code in itertools.product(range(K), repeat=V)])


def enumerated(vae, x):
    """All codes, log q of each for each x, (B, K^V), and log p(x given z), (B, K^V)."""
    codes = all_codes(2, 3)
    logits = x @ vae.parameters["encoder.0.W"] + vae.parameters["encoder.0.b"]
    log_q = special.log_softmax(logits.reshape(-1, 2, 3), axis=-1).reshape(-1, 6) @ codes.T
    p = vae.decode(codes)
    return codes, log_q, x @ np.log(p).T + (1 - x) @ np.log1p(-p).T


# --------------------------------------------------------------------------------------- Gumbel-softmax


def test_gumbel_noise_is_that_of_the_uniform_number_of_each_normal_one():
    eps = np.linspace(-8, 8, 4001)
    exact = -np.log(-stats.norm.logcdf(eps))
    np.testing.assert_allclose(gumbel_of_normal(eps), exact, atol=1e-5)
    np.testing.assert_allclose(gumbel_of_normal(eps.astype(np.float32)), exact, atol=1e-4)
    assert gumbel_of_normal(eps.astype(np.float32)).dtype == np.float32


def test_a_draw_is_each_category_as_often_as_its_probability_says():
    posterior, logits = mv.GumbelSoftmax(3), np.array([[0.3, -1.0, 1.2, 2.0, 0.0, -3.0]])
    eps = np.random.default_rng(0).standard_normal((100_000, 1, 6))
    (z, log_q), _ = posterior.with_log_q(params_of(posterior), logits, eps)
    p = special.softmax(logits.reshape(2, 3), axis=1)
    rows = z.reshape(-1, 2, 3)
    assert set(np.unique(z)) == {0, 1} and (rows.sum(axis=-1) == 1).all()
    np.testing.assert_allclose(rows.mean(axis=0), p, atol=0.006)
    np.testing.assert_allclose(rows[:, 0].T @ rows[:, 1] / 1e5, np.outer(p[0], p[1]), atol=0.006)  # independent
    np.testing.assert_allclose(log_q[:, 0], np.log((rows * p).sum(axis=-1)).sum(axis=-1))
    mean, log_var = posterior.split(logits)
    np.testing.assert_allclose(mean, p.reshape(1, 6))
    np.testing.assert_allclose(np.exp(log_var), (p * (1 - p)).reshape(1, 6))


def test_soft_draws_harden_as_the_temperature_falls():
    posterior, logits = mv.GumbelSoftmax(3), np.array([[0.3, -1.0, 1.2, 2.0, 0.0, -3.0]])
    eps = np.random.default_rng(0).standard_normal((500, 1, 6))
    (hard, _), _ = posterior.with_log_q(params_of(posterior), logits, eps)
    apart = []
    for temperature in (2.0, 0.5, 0.01):
        (soft, _, floor), _ = mv.GumbelSoftmax(3, temperature).with_kl({}, logits, eps)
        np.testing.assert_allclose(soft.reshape(-1, 2, 3).sum(axis=-1), 1)
        assert floor.tolist() == [0]
        apart.append(np.abs(soft - hard).mean())
    assert apart[0] > 2 * apart[1] > 10 * apart[2]
    scaled, _ = gumbel_softmax(logits.reshape(1, 2, 3), np.zeros((1, 1, 2, 3)), 0.5)
    np.testing.assert_allclose(scaled[0, 0], special.softmax(2 * logits.reshape(2, 3), axis=1))


def test_the_kl_is_the_sum_over_all_codes():
    vae = relaxed()
    codes, log_q, _ = enumerated(vae, X)
    exact = (np.exp(log_q) * (log_q + 2 * math.log(3))).sum(axis=1)
    logits = X @ vae.parameters["encoder.0.W"] + vae.parameters["encoder.0.b"]
    np.testing.assert_allclose(categorical_kl(logits.reshape(3, 2, 3))[0], exact)
    assert vae.loss_and_gradients(X).kl == pytest.approx(exact.mean())
    assert categorical_kl(np.ones((1, 2, 3)))[0] == pytest.approx(0)


def exact_gradients(vae, x):
    """Of minus the ELBO of discrete codes, by the encoder's and by the decoder's last bias: sums over all codes.

    With f_z = log p(x given z) - log q(z) + log p(z), dELBO/dl = sum_z q(z) f_z (z - p), as dlog q(z)/dl = z - p.
    """
    codes, log_q, log_px = enumerated(vae, x)
    q, f = np.exp(log_q), log_px - log_q - 2 * math.log(3)
    of_encoder = np.einsum("bz,bz,bzk->bk", q, f, codes[None] - (q @ codes)[:, None])
    of_decoder = x - q @ vae.decode(codes)  # a Bernoulli's log p has the slope x - mean by its logits
    return -of_encoder.mean(axis=0), -of_decoder.mean(axis=0)


def test_gradients_tend_to_the_exact_ones_as_the_temperature_falls():
    eps = np.random.default_rng(0).standard_normal((60_000, 3, 6))
    errors = {}
    for temperature in (1.0, 0.3, 0.05):
        vae = relaxed(temperature)
        exact = exact_gradients(vae, X)
        vae.loss_and_gradients(X, eps)
        ours = vae.gradients["encoder.0.b"], vae.gradients["decoder.2.b"]
        errors[temperature] = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(ours, exact, strict=True)]
    for warm, cool, cold in zip(*errors.values(), strict=True):
        assert warm > 2 * cool > 6 * cold and cold < 0.08, errors


def test_after_training_codes_are_discrete():
    """ELBO, log p(x) and the mean of draws are the sums over all nine codes, not those of soft ones."""
    vae = relaxed(temperature=10.0)
    codes, log_q, log_px = enumerated(vae, X)
    elbo = (np.exp(log_q) * (log_px - log_q - 2 * math.log(3))).sum(axis=1)
    log_p = special.logsumexp(log_px - 2 * math.log(3), axis=1)
    score = vae.score(X, samples=20_000)
    np.testing.assert_allclose(-score.loss, elbo, atol=0.03)
    np.testing.assert_allclose(score.reconstruction, -(np.exp(log_q) * log_px).sum(axis=1), atol=0.05)
    assert vae.log_likelihood(X, samples=20_000) == pytest.approx(log_p.mean(), abs=0.02)
    assert abs(vae.loss_and_gradients(X).loss + elbo.mean()) > 0.1
    drawn = vae.draw_prior(9000, np.random.default_rng(0))
    kinds, counts = np.unique(drawn, axis=0, return_counts=True)
    np.testing.assert_array_equal(kinds, np.unique(codes, axis=0))
    assert (abs(counts - 1000) < 5 * 30).all()
    np.testing.assert_allclose(vae.log_prior(drawn[:3]), -2 * math.log(3))
    assert set(np.unique(vae.decode(drawn).round(9))) == set(np.unique(vae.decode(codes).round(9)))


def test_the_first_of_equal_values_is_chosen():
    values = np.array([[1.0, 3, 3], [2, 2, 2], [-1, -2, -0.5]], np.float32)
    chosen = one_hot_of_largest(values, np.arange(3))
    assert chosen.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]] and chosen.dtype == np.float32


@pytest.mark.parametrize("where", ["numpy", "numba", "fake"])
@pytest.mark.parametrize("make", [relaxed, quantized])
def test_a_nan_of_the_encoder_is_no_code(make, where):
    """Line by line, as in encode, and compiled, as in score and fit."""
    vae = make(backend=MAKE_BACKEND[where]())
    arrays = vae.parameters.to_host()
    arrays["encoder.0.W"][...] = np.nan
    vae.parameters.load(arrays)
    for call in (vae.encode, vae.reconstruct, vae.evaluate, vae.loss_and_gradients, vae.log_likelihood):
        with pytest.raises(mv.MiniVAEError, match="is not finite"):
            call(np.tile(X, (20, 1)))


def test_training_finds_the_kind_of_each_row():
    """Rows of four patterns, and one variable of four categories: the code says which, and the bound is sharp."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (4, 12))
    kind = rng.integers(0, 4, 400)
    x = np.where(rng.random((400, 12)) < 0.05, 1 - patterns[kind], patterns[kind]).astype(np.float32)
    vae = mv.mlp(12, 4, hidden=(16,), posterior=mv.GumbelSoftmax(4), seed=1)
    assert vae.decoder.layers[0].n_in == 4 and isinstance(vae.prior, mv.UniformCodes)
    mv.fit(vae, x, epochs=40, batch_size=20, optimizer=mv.Adam(1e-2))
    code = vae.encode(x)[0].argmax(axis=1)
    assert (
        all(len(set(code[kind == k])) == 1 for k in range(4))
        or np.mean([np.bincount(code[kind == k]).max() / (kind == k).sum() for k in range(4)]) > 0.95
    )
    assert len({np.bincount(code[kind == k]).argmax() for k in range(4)}) == 4
    entropy = 12 * stats.bernoulli(0.05).entropy() + math.log(4)
    assert vae.evaluate(x).loss < entropy + 0.5


# ---------------------------------------------------------------------------------------------- VQ-VAE


def test_the_nearest_entry_is_chosen():
    rng = np.random.default_rng(0)
    s, codebook = rng.standard_normal((50, 3)), rng.standard_normal((7, 3))
    (z, chosen), backward = quantize(s, codebook, np.arange(7))
    nearest = ((s[:, None] - codebook) ** 2).sum(axis=-1).argmin(axis=1)
    np.testing.assert_array_equal(chosen.argmax(axis=1), nearest)
    np.testing.assert_allclose(z, codebook[nearest])
    dz = rng.standard_normal(z.shape)
    np.testing.assert_allclose(backward(dz), [dz[nearest == k].sum(axis=0) for k in range(7)], atol=1e-12)
    np.testing.assert_allclose(squared_distance(s, z)[0], ((s - z) ** 2).sum(axis=1))


class Held(mv.VectorQuantized):
    """The posterior with all that is under sg held at what it was for some statistics and a codebook."""

    def __init__(self, part, stats, codebook):
        super().__init__(part.codes, part.width, part.commitment)
        self.s = stats.reshape(-1, self.width)
        self.chosen = np.eye(self.codes)[((self.s[:, None] - codebook) ** 2).sum(axis=-1).argmin(axis=1)]
        self.e = self.chosen @ codebook

    def with_kl(self, params, stats, eps, free_bits=0.0):
        s = stats.reshape(self.s.shape)
        to_codebook, codebook_backward = squared_distance(self.s, self.chosen @ params["codebook"])
        to_encoder, encoder_backward = squared_distance(s, self.e)
        rows, per_row = stats.shape[0], len(s) // len(stats)
        losses = (to_codebook + self.commitment * to_encoder).reshape(rows, -1).sum(axis=1)
        z = (s + (self.e - self.s)).reshape(stats.shape)  # straight through: z + (s - sg(s))

        def backward(dz, dkl):
            of_rows = np.repeat(dkl, per_row)
            ds = self.commitment * encoder_backward(of_rows)[0].reshape(stats.shape)
            return dz.sum(axis=0) + ds, {"codebook": self.chosen.T @ codebook_backward(of_rows)[1]}

        return (z + 0 * eps, np.full(rows, per_row * math.log(self.codes)), losses), backward


@pytest.mark.parametrize("samples", [1, 2])
def test_gradients_are_those_of_the_loss_with_constants_held(samples):
    vae = quantized(commitment=0.4)
    codebook = vae.parameters["posterior.codebook"]
    posterior = Held(vae.posterior, vae._encode(vae._params, X, None), codebook)
    held = mv.VAE(vae.encoder.layers, vae.decoder.layers, posterior=posterior, dtype="float64")
    held.parameters.load(vae.parameters.to_host())
    eps = np.random.default_rng(0).standard_normal((samples, 3, 6))
    result = mv.gradcheck(held, X, eps, limit=None)
    assert result.passed, result.where
    assert vae.loss_and_gradients(X, eps).loss == pytest.approx(held.loss_and_gradients(X, eps).loss)
    np.testing.assert_allclose(vae.gradients.flat, held.gradients.flat, atol=1e-12)
    assert np.abs(vae.gradients["encoder.0.W"]).max() > 0.01
    assert not mv.gradcheck(vae, X, eps).passed  # its own gradients are no derivatives


def test_the_loss_in_training_and_after():
    vae = quantized(commitment=0.4)
    codebook, s = vae.parameters["posterior.codebook"], vae._encode(vae._params, X, None).reshape(3, 3, 2)
    nearest = ((s[:, :, None] - codebook) ** 2).sum(axis=-1).argmin(axis=-1)
    z = codebook[nearest].reshape(3, 6)
    p = vae.decode(z)
    log_px = (X * np.log(p) + (1 - X) * np.log1p(-p)).sum(axis=1)
    losses, kl = vae.loss_and_gradients(X), 3 * math.log(5)
    distance = ((s - codebook[nearest]) ** 2).sum(axis=(1, 2))
    assert losses.reconstruction == pytest.approx(-log_px.mean()) and losses.kl == pytest.approx(kl)
    assert losses.loss == pytest.approx((kl - log_px + 1.4 * distance).mean())
    np.testing.assert_allclose(vae.score(X).loss, kl - log_px)
    assert vae.log_likelihood(X, samples=7) == pytest.approx((log_px - kl).mean())
    np.testing.assert_allclose(vae.encode(X)[0], z)
    np.testing.assert_allclose(vae.reconstruct(X), p)


def test_draws_are_entries_of_the_codebook():
    vae = quantized()
    codebook = vae.parameters["posterior.codebook"]
    z = vae.draw_prior(5000, np.random.default_rng(0)).reshape(5000, 3, 2)
    chosen = (z[:, :, None] == codebook).all(axis=-1)
    assert (chosen.sum(axis=-1) == 1).all()
    np.testing.assert_allclose(chosen.mean(axis=0), 0.2, atol=0.03)
    np.testing.assert_allclose(vae.log_prior(z[:4].reshape(4, 6)), -3 * math.log(5))
    assert isinstance(vae.prior, mv.CodebookPrior) and vae.prior.variables == 3


def test_how_often_entries_are_used():
    vae = quantized()
    x = np.random.default_rng(1).random((2300, 4))
    s = vae._encode(vae._params, x, None).reshape(-1, 2)
    nearest = ((s[:, None] - vae.parameters["posterior.codebook"]) ** 2).sum(axis=-1).argmin(axis=-1)
    use = mv.codebook_use(vae, x)
    np.testing.assert_array_equal(use.counts, np.bincount(nearest, minlength=5))
    assert use.counts.sum() == 3 * 2300 and use.used == len(set(nearest)) < 5
    assert use.perplexity == pytest.approx(np.exp(stats.entropy(np.bincount(nearest))))
    assert mv.CodebookUse(np.array([3, 3, 0, 3])).perplexity == pytest.approx(3)


def test_training_learns_a_codebook_for_the_kinds_of_rows():
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (4, 12))
    kind = rng.integers(0, 4, 400)
    x = np.where(rng.random((400, 12)) < 0.05, 1 - patterns[kind], patterns[kind]).astype(np.float32)
    vae = mv.mlp(12, 2, hidden=(16,), posterior=mv.VectorQuantized(8, 2), seed=0)
    mv.fit(vae, x, epochs=60, batch_size=20, optimizer=mv.Adam(1e-2))
    nearest = (vae.encode(x)[0][:, None] == vae.parameters["posterior.codebook"]).all(axis=-1).argmax(axis=1)
    of_kinds = np.array([np.bincount(nearest[kind == k], minlength=8) for k in range(4)])
    assert of_kinds.max(axis=0).sum() > 0.95 * len(x)  # an entry is one kind's
    entropy = 12 * stats.bernoulli(0.05).entropy() + math.log(8)  # where the choice of entries is no further help
    assert vae.evaluate(x).loss < entropy + 0.2


# -------------------------------------------------------------------------------------------------- bad arguments


def small(posterior, **options):
    return mv.VAE([mv.Dense(4, 6)], [mv.Dense(6, 4)], posterior=posterior, **options)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: mv.GumbelSoftmax(1), "GumbelSoftmax: categories should be an integer of at least 2, got 1"),
        (lambda: mv.GumbelSoftmax(3, 0), "GumbelSoftmax: temperature should be a positive number, got 0"),
        (lambda: small(mv.GumbelSoftmax(4)), r"4 logits for each of V variables; got \(B, 6\)"),
        (lambda: mv.UniformCodes(5, 2), "UniformCodes: dim should be a multiple of categories=2, got 5"),
        (lambda: mv.UniformCodes(4, 0), "UniformCodes: categories should be an integer of at least 1, got 0"),
        (lambda: small(mv.GumbelSoftmax(3), kl="monte-carlo"), "trained by its closed form of the ELBO, against Unif"),
        (lambda: small(mv.GumbelSoftmax(3), bound=mv.ImportanceWeighted()), "GumbelSoftmax is trained by its closed"),
        (lambda: small(mv.GumbelSoftmax(3), prior=mv.UniformCodes(6, 2)), r"against UniformCodes\(6, 3\): leave kl"),
        (lambda: small(mv.GumbelSoftmax(3), prior=mv.StandardNormal(6)), "leave kl, bound and prior out"),
        (lambda: small(mv.GumbelSoftmax(3), free_bits=0.1), "free_bits needs the analytic KL"),
        (lambda: small(mv.GumbelSoftmax(3), regulariser=mv.MMD()), "MMD is made for the standard normal prior"),
        (lambda: mv.VectorQuantized(1), "VectorQuantized: codes should be an integer of at least 2, got 1"),
        (lambda: mv.VectorQuantized(4, 2, -1), "VectorQuantized: commitment should be a finite number of at least 0"),
        (lambda: small(mv.VectorQuantized(9, 4)), r"vectors of width d = 4; got \(B, 6\)"),
        (lambda: mv.CodebookPrior(5, 4, 2), "CodebookPrior: dim should be a multiple of width=2, got 5"),
        (lambda: small(mv.VectorQuantized(4, 2), prior=mv.CodebookPrior(6, 5, 2)), r"against CodebookPrior\(6, 4, 2\)"),
        (
            lambda: mv.codebook_use(small(mv.GumbelSoftmax(3)), X),
            r"needs a VectorQuantized posterior.*GumbelSoftmax\(3",
        ),
        (lambda: mv.codebook_use(3, X), "codebook_use: vae should be a VAE"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        make()
