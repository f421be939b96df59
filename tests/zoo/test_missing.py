"""Tables with gaps: densities of single values, bounds and imputations against closed forms, and in use."""

import copy

import numpy as np
import pytest
import scipy.special
import scipy.stats
from conftest import MAKE_BACKEND
from truths.parts import params_of

import minivae as mv
from minivae.gradcheck import table_columns, table_rows
from minivae.views.explore import explore
from minivae.views.one_step import one_step
from minivae.zoo.counts import log_factorial
from minivae.zoo.missing import log_filled, one_hot_filled, zero_filled

RNG = np.random.default_rng(0)


# ---------------------------------------------------------------------------------------------------- counts


def test_log_factorial_is_that_of_scipy():
    n = np.concatenate([np.arange(300.0), [0.5, 7.3, 1e3, 1e6, 1e12]])
    np.testing.assert_allclose(log_factorial(n), scipy.special.gammaln(n + 1), rtol=1e-13, atol=2e-11)
    np.testing.assert_allclose(log_factorial(n.astype("f4")), scipy.special.gammaln(n + 1), rtol=1e-6, atol=3e-6)


def test_poisson_is_that_of_scipy():
    x, log_rate = RNG.poisson(4, (5, 3)).astype(float), RNG.standard_normal((2, 5, 3))
    log_px, _ = mv.Poisson().log_prob({}, x, log_rate)
    np.testing.assert_allclose(log_px, scipy.stats.poisson.logpmf(x, np.exp(log_rate)).sum(axis=-1))


def test_draws_of_counts_have_their_mean_and_variance():
    log_rate = np.tile(np.log([0.5, 3.0, 200.0]), (40_000, 1))
    drawn = mv.Poisson().sample({}, log_rate, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(axis=0), [0.5, 3, 200], rtol=0.03)
    np.testing.assert_allclose(drawn.var(axis=0), [0.5, 3, 200], rtol=0.04)
    np.testing.assert_allclose(mv.Poisson().mean({}, log_rate[:1])[0], [0.5, 3, 200])


def test_rates_without_bounds_do_no_harm():
    out = np.array([[-1000.0, 1000.0]])
    assert np.isfinite(mv.Poisson().sample({}, out, np.random.default_rng(0))).all()
    log_px, backward = mv.Poisson().log_prob({}, np.ones((1, 2)), out[None])
    assert np.isfinite(log_px).all() and (backward(np.ones((1, 1)))[0] == 0).all()


# ---------------------------------------------------------------------------------- what is there, and only that


def test_each_value_has_its_own_density_and_a_gap_has_none():
    likelihood, x = mv.Observed(table_columns()), table_rows(6, gaps=0)
    params = params_of(likelihood)
    out = RNG.standard_normal((2, 6, likelihood.params_dim(5)))
    std, (mean, log_var) = np.exp(params["0.log_var"] / 2), (out[..., 6], out[..., 7])
    one_by_one = [
        *(scipy.stats.norm.logpdf(x[:, i], out[..., i], std) for i in range(2)),
        np.take_along_axis(
            scipy.special.log_softmax(out[..., 2:5], -1),
            np.broadcast_to(2 * x[:, 2], (2, 6)).astype(int)[..., None],
            -1,
        )[..., 0],
        scipy.stats.poisson.logpmf(x[:, 3], np.exp(out[..., 5])),
        scipy.stats.norm.logpdf(x[:, 4], mean, np.exp(log_var / 2)),
    ]
    for seen in (np.ones((6, 5), bool), RNG.random((6, 5)) < 0.6, np.zeros((6, 5), bool)):
        expected = sum(np.where(seen[:, i], one_by_one[i], 0) for i in range(5))
        log_px, _ = likelihood.log_prob(params, np.where(seen, x, np.nan), out)
        np.testing.assert_allclose(log_px, expected, atol=1e-12)


def test_without_gaps_it_is_the_likelihood_itself():
    x, out = RNG.random((4, 6)), RNG.standard_normal((2, 4, 6))
    for likelihood in (mv.Bernoulli(), mv.Gaussian(0.3), mv.SharedVarianceGaussian(0.5)):
        params = params_of(likelihood)
        plain, backward = likelihood.log_prob(params, x, out)
        named = {f"0.{name}": value for name, value in params.items()}
        log_px, observed_backward = mv.Observed([(likelihood, 6)]).log_prob(named, x, out)
        np.testing.assert_allclose(log_px, plain)
        np.testing.assert_allclose(observed_backward(plain)[0], backward(plain)[0])


class LogNormal(mv.Likelihood):
    """log x from N(out, 1): no density, and no slope, at the 0 that stands for a gap."""

    def log_prob(self, params, x, out):
        residual = np.log(x) - out
        return -0.5 * np.sum(residual**2, axis=-1), lambda dlog_px: (dlog_px[..., None] * residual, {})


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_density_may_be_infinite_where_gaps_are():
    likelihood, out = mv.Observed([(LogNormal(), 2)]), np.zeros((1, 2, 2))
    log_px, backward = likelihood.log_prob({}, np.array([[np.e, np.nan], [np.nan, np.nan]]), out)
    np.testing.assert_allclose(log_px, [[-0.5, 0]])
    np.testing.assert_allclose(backward(np.ones((1, 2)))[0], [[[1, 0], [0, 0]]])


def test_a_gap_gives_no_gradient():
    likelihood, x = mv.Observed(table_columns()), table_rows(6, gaps=0)
    x[:, 1:4] = np.nan
    _, backward = likelihood.log_prob(params_of(likelihood), x, RNG.standard_normal((2, 6, 8)))
    dout, _ = backward(np.ones((2, 6)))
    assert (dout[..., 1:6] == 0).all() and (dout[..., [0, 6, 7]] != 0).all()


def test_means_and_draws_of_a_table():
    likelihood = mv.Observed(table_columns())
    params, row = params_of(likelihood), np.array([0.3, -1.0, *np.log([0.2, 0.5, 0.3]), np.log(3.0), 2.0, np.log(0.25)])
    out = np.tile(row, (50_000, 1))
    np.testing.assert_allclose(likelihood.mean(params, out)[0], [0.3, -1, 0.55, 3, 2])
    drawn = likelihood.sample(params, out, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(axis=0), [0.3, -1, 0.55, 3, 2], atol=0.03)
    np.testing.assert_allclose(drawn.var(axis=0), [0.25, 0.25, 0.25 * 0.49, 3, 0.25], rtol=0.03)
    assert set(drawn[:, 2]) == {0, 0.5, 1}


def test_the_encoder_sees_zeros_in_place_of_gaps():
    x = np.array([[1.5, np.nan, 0.5, 3], [np.nan, -2, np.nan, np.nan]])
    layer = mv.ZeroFilled([(mv.Gaussian(), 2), (mv.Categorical(3), 1), (mv.Poisson(), 1)])
    y, backward = layer.forward(params_of(layer), x)
    np.testing.assert_allclose(y, [[1.5, 0, 0, 1, 0, np.log(4)], [0, -2, 0, 0, 0, 0]])
    dx, _ = backward(np.ones((2, 6)))
    np.testing.assert_allclose(dx, [[1, 0, 0, 0.25], [0, 1, 0, 0]])
    assert layer.output_shape((4,)) == (6,)


def test_filling_keeps_the_dtype():
    x = np.array([[1, np.nan]], np.float32)
    for y, backward in (zero_filled(x), log_filled(x), one_hot_filled(x, np.arange(2, dtype=np.float32))):
        assert y.dtype == backward(y).dtype == np.float32


# -------------------------------------------------------------------------------- the linear-Gaussian case, exactly


X, D, STD = 4, 2, 0.6


def linear(**options):
    """x = z W + b + noise, z from N(0, I), and mean and covariance of x; q(z given x) is wider than the posterior."""
    rng = np.random.default_rng(3)
    W, b = rng.standard_normal((D, X)), 0.3 * rng.standard_normal(X)
    vae = mv.miwae([(mv.Gaussian(STD), X)], D, (), dtype="float64", **options)
    arrays = {name: np.zeros(view.shape) for name, view in vae.parameters.items()}
    arrays["encoder.1.W"][:, :D] = 0.1 * W.T
    arrays["encoder.1.b"][D:] = 0.5
    vae.parameters.load(arrays | {"decoder.0.W": W, "decoder.0.b": b})
    return vae, b, W.T @ W + STD**2 * np.eye(X)


def conditional(row, mean, cov):
    """Mean and covariance of what is missing of a row, given what is there."""
    o, m = np.isfinite(row), np.isnan(row)
    slope = cov[np.ix_(m, o)] @ np.linalg.inv(cov[np.ix_(o, o)])
    return mean[m] + slope @ (row[o] - mean[o]), cov[np.ix_(m, m)] - slope @ cov[np.ix_(o, m)]


GAPS = np.array([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)


def rows_with_gaps(mean, cov):
    return np.where(GAPS, np.nan, np.random.default_rng(5).multivariate_normal(mean, cov, len(GAPS)))


def test_the_likelihood_of_what_is_there_is_that_of_its_gaussian():
    vae, mean, cov = linear()
    x = rows_with_gaps(mean, cov)
    for row in x:
        o = np.isfinite(row)
        exact = scipy.stats.multivariate_normal(mean[o], cov[np.ix_(o, o)]).logpdf(row[o]) if o.any() else 0.0
        assert vae.log_likelihood(row[None], samples=40_000) == pytest.approx(exact, abs=0.05)


def test_guesses_are_the_conditional_means():
    vae, mean, cov = linear()
    x = rows_with_gaps(mean, cov)
    guess = mv.impute(vae, x, samples=40_000)
    for row, made in zip(x[:4], guess, strict=False):
        np.testing.assert_allclose(made[np.isnan(row)], conditional(row, mean, cov)[0], atol=0.04)
    np.testing.assert_array_equal(guess[~GAPS], x[~GAPS])


def test_values_that_are_there_come_back_bit_for_bit():
    """From a model in float32, whatever x holds."""
    vae, table = mv.miwae([(mv.Gaussian(), 2)], 2, (4,)), np.array([[123456789.0, 0.1], [np.nan, 0.3]])
    for draws in (None, 2):
        for x in (table, (table / 1e5).astype("f2"), table.astype(">f8"), table.astype("f8")[:1].astype("i8")):
            made = mv.impute(vae, x, draws, samples=10)
            there = np.broadcast_to(~np.isnan(x), made.shape)
            assert made.dtype == x.dtype and np.isfinite(made).all()
            np.testing.assert_array_equal(made[there], np.broadcast_to(x, made.shape)[there])


def test_draws_have_the_conditional_mean_and_covariance():
    vae, mean, cov = linear()
    x = rows_with_gaps(mean, cov)
    drawn = mv.impute(vae, x, draws=4000, samples=2000)
    assert drawn.shape == (4000, 5, 4)
    for i, row in enumerate(x[:4]):
        exact_mean, exact_cov = conditional(row, mean, cov)
        found = drawn[:, i, GAPS[i]]
        widest = exact_cov.max()
        np.testing.assert_allclose(found.mean(axis=0), exact_mean, atol=0.1 * np.sqrt(widest))
        np.testing.assert_allclose(np.cov(found.T).reshape(exact_cov.shape), exact_cov, atol=0.1 * widest)
    np.testing.assert_array_equal(drawn[:, ~GAPS], np.broadcast_to(x[~GAPS], (4000, (~GAPS).sum())))


def test_training_on_gaps_finds_the_covariance_of_all():
    """From rows of which a third is missing: the covariance that the decoder then implies, beside that of the data."""
    _, mean, cov = linear()
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal(mean, cov, 2000)
    x[rng.random(x.shape) < 0.33] = np.nan
    columns = [(mv.SharedVarianceGaussian(), X)]
    encoder = [mv.ZeroFilled(columns), mv.Dense(X, 32), mv.Tanh(), mv.Dense(32, 2 * D)]
    vae = mv.VAE(encoder, [mv.Dense(D, X)], mv.Observed(columns), bound=mv.ImportanceWeighted())
    mv.fit(vae, x, epochs=40, batch_size=50, samples=20, optimizer=mv.Adam(1e-2), schedules={"lr": falling})
    W, b = vae.parameters["decoder.0.W"].astype(float), vae.parameters["decoder.0.b"]
    found = W.T @ W + np.exp(vae.parameters["likelihood.0.log_var"]) * np.eye(X)
    np.testing.assert_allclose(b, mean, atol=0.15)
    np.testing.assert_allclose(found, cov, atol=0.12 * np.abs(cov).max())


def falling(epoch):
    return 1e-2 * 0.92**epoch


def test_a_category_that_follows_from_others_is_found():
    """Two columns that say the same: the level, and a number close to it."""
    rng = np.random.default_rng(0)
    level = rng.integers(0, 3, 600)
    x = np.stack([level / 2, level - 1 + 0.05 * rng.standard_normal(600)], axis=1)
    vae = mv.miwae([(mv.Categorical(3), 1), (mv.SharedVarianceGaussian(), 1)], 1, (16,), seed=0)
    mv.fit(vae, x[:500], epochs=60, batch_size=50, samples=5, optimizer=mv.Adam(1e-2))
    gaps = x[500:].copy()
    gaps[::2, 0], gaps[1::2, 1] = np.nan, np.nan
    made = mv.impute(vae, gaps, samples=200)
    np.testing.assert_allclose(made[:, 0], x[500:, 0])
    assert np.abs(made[:, 1] - x[500:, 1]).max() < 0.5
    drawn = mv.impute(vae, gaps, draws=3, samples=200)
    assert set(drawn[..., 0].ravel()) <= {0, 0.5, 1} and np.mean(drawn[..., 0] == x[500:, 0]) > 0.95


# ----------------------------------------------------------------------------------------------------- in use


def model(**options):
    return mv.miwae(table_columns(), 2, (6,), seed=2, **options)


def test_training_resumes_and_models_come_back(tmp_path):
    x = table_rows(60)
    vae, again = model(), model()
    options = {"batch_size": 16, "samples": 3, "progress": False}
    mv.fit(vae, x[:40], x[40:], epochs=6, **options)
    mv.fit(again, x[:40], x[40:], epochs=2, checkpoint=tmp_path / "a.safetensors", **options)
    checkpoint = mv.Checkpoint(tmp_path / "a.safetensors", resume=True)
    mv.fit(again, x[:40], x[40:], epochs=6, checkpoint=checkpoint, **options)
    np.testing.assert_array_equal(again.parameters.flat, vae.parameters.flat)
    vae.save(tmp_path / "model.npz")
    for other in (mv.load(tmp_path / "model.npz"), copy.deepcopy(vae)):
        assert repr(other.likelihood) == repr(vae.likelihood)
        np.testing.assert_array_equal(mv.impute(other, x, draws=2), mv.impute(vae, x, draws=2))


@pytest.mark.parametrize("where", ["numba", "fake"])
def test_every_backend_answers_alike(where):
    x, ours, theirs = table_rows(20), model(dtype="float64"), model(dtype="float64", backend=MAKE_BACKEND[where]())
    for draws in (None, 2):
        made = [mv.impute(vae, x, draws, samples=30) for vae in (ours, theirs)]
        np.testing.assert_allclose(*made, rtol=1e-6)
    assert theirs.log_likelihood(x, 50) == pytest.approx(ours.log_likelihood(x, 50), rel=1e-9)


def test_the_size_of_a_batch_changes_no_guess():
    vae, x = model(dtype="float64"), table_rows(20)
    whole = mv.impute(vae, x, samples=500)
    vae.inference_rows = 130
    in_parts = mv.impute(vae, x, samples=500)  # of other draws
    np.testing.assert_allclose(in_parts, whole, atol=0.3)
    assert not np.isnan(in_parts).any()


def test_a_model_with_classes_takes_labels():
    fill, likelihood = mv.ZeroFilled([(mv.Gaussian(), 5)]), mv.Observed([(mv.Gaussian(), 3)])
    vae = mv.VAE([fill, mv.Dense(5, 4)], [mv.Dense(4, 3)], likelihood, n_classes=2)
    x = np.where(RNG.random((6, 3)) < 0.5, np.nan, RNG.random((6, 3)))
    one, two = (mv.impute(vae, x, y=np.full(6, label)) for label in (0, 1))
    assert (one != two)[np.isnan(x)].all() and (one == two)[~np.isnan(x)].all()


def test_what_is_not_finite_is_named_though_x_has_gaps():
    x = table_rows(40)
    with pytest.raises(mv.MiniVAEError, match=r"epoch 1, step 2 of 4: square \(gaussian.py:\d+"):
        mv.fit(model(), x, epochs=3, batch_size=10, optimizer=mv.SGD(1e30), progress=False)


def test_diagnose_and_pages():
    x, vae = table_rows(300), model()
    history = mv.fit(vae, x, epochs=10, samples=3, progress=False)
    assert "not-finite" not in str(mv.diagnose(vae, x, history=history))
    with pytest.raises(mv.MiniVAEError, match="explore draws pixels"):
        explore(vae, x, image_shape=(1, 5))
    pixels = mv.miwae([(mv.Bernoulli(), 6)], 2, (4,))
    assert "<html" in explore(pixels, RNG.random((9, 6)), image_shape=(2, 3))
    assert "<html" in one_step(pixels, RNG.random(6), image_shape=(2, 3))


def filled_only():
    """A model whose likelihood knows nothing of gaps."""
    return mv.VAE([mv.ZeroFilled([(mv.Gaussian(), 3)]), mv.Dense(3, 2)], [mv.Dense(1, 3)], likelihood=mv.Gaussian())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: mv.Observed([]), r"Observed: columns should be a list of pairs such as \[\(Gaussian\(\), 5\)"),
        (lambda: mv.Observed([mv.Gaussian()]), "list of pairs"),
        (lambda: mv.Observed([(mv.Gaussian(), 0)]), "number of columns should be an integer of at least 1"),
        (lambda: mv.Observed([(mv.Observed([(mv.Gaussian(), 1)]), 1)]), "a likelihood of single values"),
        (lambda: mv.ZeroFilled([("gaussian", 2)]), "ZeroFilled: expected a likelihood"),
        (
            lambda: mv.ZeroFilled([(mv.Gaussian(), 2)]).forward({}, np.ones((2, 3))),
            r"ZeroFilled expects \(B, 2\), got \(B, 3\)",
        ),
        (
            lambda: mv.mlp(4, likelihood=mv.Observed([(mv.Gaussian(), 3)])),
            "its columns are 3 in all, but the encoder takes 4",
        ),
        (lambda: model().evaluate(table_rows(5, 0) - [0, 0, 0, 100, 0]), "expects counts 0, 1, 2, ..., got -"),
        (lambda: model().evaluate(table_rows(5, 0) + [0, 0, 9, 0, 0]), r"expects values k / 2 in \[0, 1\]"),
        (lambda: model().evaluate(np.full((2, 5), np.inf)), "an infinity in row 0: clean the data first$"),
        (lambda: mv.mlp(3).evaluate(np.full((2, 3), np.nan)), "leave out what is NaN, with ZeroFilled in the encoder"),
        (lambda: filled_only().evaluate(np.full((2, 3), np.nan)), "leave out what is NaN, with .* Observed columns"),
        (
            lambda: mv.mlp(3, likelihood=mv.Observed([(mv.Gaussian(), 3)])).evaluate(np.full((2, 3), np.nan)),
            "leave out what is NaN, with ZeroFilled in the encoder",
        ),
        (
            lambda: mv.VAE(
                [mv.Dense(3, 3), mv.ZeroFilled([(mv.Gaussian(), 3)]), mv.Dense(3, 4)],
                [mv.Dense(2, 3)],
                mv.Observed([(mv.Gaussian(), 3)]),
            ).encode(np.full((2, 3), np.nan)),
            "leave out what is NaN, with ZeroFilled in the encoder",
        ),
        (lambda: mv.impute(mv.mlp(3), np.zeros((2, 3))), "should have an Observed likelihood, got Bernoulli"),
        (lambda: mv.impute(model(), table_rows(3), draws=0), "impute: draws should be an integer of at least 1"),
        (lambda: mv.impute(model(), table_rows(3), samples=0), "impute: samples should be"),
        (lambda: mv.miwae(table_columns(), 0), "miwae: latent should be an integer of at least 1"),
        (lambda: model(likelihood=mv.Bernoulli()), "miwae does not know likelihood: it is made of columns"),
        (lambda: model(n_classes=3), "miwae does not know n_classes"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        make()
