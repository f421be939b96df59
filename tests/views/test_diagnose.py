"""`diagnose`: broken models get the right finding and no wrong one, healthy ones none."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import zoo
from scipy import stats

import minivae as mv
from minivae import data
from minivae.views import references
from minivae.views.diagnose import _told_apart
from minivae.views.probe import Probe

HEALTHY = [
    zoo.plain, zoo.more_dimensions, zoo.conditional, zoo.squared_error, zoo.learned_variance, zoo.gaussian_table,
    zoo.table_with_gaps, zoo.warmed_up,
]  # fmt: skip
SLOW_TO_TRAIN = [zoo.binarized, zoo.beta_of_a_half, zoo.categorical, zoo.importance_weighted, zoo.flow]
BROKEN = {
    zoo.nan_weights: "not-finite",
    zoo.exploded: "not-finite",
    zoo.floats_to_255: "data-scale",
    zoo.floats_to_255_of_bernoulli: "data-scale",
    zoo.divided_twice: "data-scale",
    zoo.zeros_and_ones_as_pixels: "data-scale",
    zoo.relu_ends_the_encoder: "encoder-end",
    zoo.sigmoid_before_logits: "output-range",
    zoo.relu_before_logits: "output-range",
    zoo.standardised_under_sigmoid: "output-range",
    zoo.saturated_log_var: "log-var-bounds",
    zoo.std_is_var: "sampler",
    zoo.half_a_kl: "kl-formula",
    zoo.mean_of_the_pixels: "mean-reduced",
    zoo.dead_encoder: "dead-units",
    zoo.dead_decoder: "dead-units",
    zoo.weights_of_std_is_var: "posterior-width",
    zoo.collapsed: "collapsed",
    zoo.two_of_eight: "unused-dimensions",
    zoo.decoder_ignores_z: "decoder-ignores-z",
    zoo.overfitted: "overfitted",
    zoo.overfitted_by_its_history: "overfitted",
    zoo.one_epoch: "unconverged",
    zoo.three_epochs: "unconverged",
    zoo.averaged_over_pixels: "kl-weight",
    zoo.autoencoder: "kl-weight",
    zoo.shifted_codes: "codes-off-prior",
    zoo.learned_variance_of_0: "variance-floor",
    zoo.untrained: "no-gain",
}


def name(build):
    return build.__name__


@pytest.fixture(scope="module")
def digits():
    """The bundled sample, of 14 x 14 pixels."""
    sample = data.load("sample")
    x_train, x_test = (x[:, ::2, ::2].copy() for x in (sample.x_train, sample.x_test))
    return zoo.Digits(x_train, sample.y_train, x_test, sample.y_test, hidden=48, epochs=40, batch_size=100, rate=5e-3)


@cache
def diagnosis(build, digits):
    vae, x, options = build(digits)
    return mv.diagnose(vae, x, **options)


@pytest.mark.parametrize("build", HEALTHY, ids=name)
def test_a_healthy_model_has_no_findings(build, digits):
    report = diagnosis(build, digits)
    assert report.findings == [], report


@pytest.mark.parametrize("build", BROKEN, ids=name)
def test_a_broken_model_has_what_it_has(build, digits):
    report = diagnosis(build, digits)
    assert report.names == [BROKEN[build]], report
    (finding,) = report.findings
    assert finding.cure and finding.severity in ("error", "warning", "note")
    json.dumps(asdict(finding))  # plain numbers
    assert max(map(len, str(report).splitlines())) <= 80
    assert f"1. {finding.severity} {finding.name}: " in str(report) and "Usual cure: " in str(report)


def test_which_dimensions_are_unused(digits):
    report = diagnosis(zoo.two_of_eight, digits)
    assert "(2, 5)" in report.findings[0].text and report.findings[0].number == 2
    kl = np.array(report.facts["kl_of_dimensions"])
    assert kl.sum() == pytest.approx(report.facts["kl"], rel=1e-4)
    assert report.facts["active"] == 6 and np.allclose(kl[[2, 5]], 0) and (np.delete(kl, [2, 5]) > 0.1).all()


class SecondColumn(mv.Gaussian):
    """A likelihood of one's own that takes a column by its place."""

    def log_prob(self, params, x, out):
        log_px, backward = super().log_prob(params, x[:, 1:2], out[..., 1:2])
        return log_px, lambda dlog_px: (np.pad(backward(dlog_px)[0], [(0, 0), (0, 0), (1, x.shape[1] - 2)]), {})


def test_columns_that_are_taken_by_their_places_are_no_mean_over_the_values(digits):
    ratio = Probe(zoo.model(digits, likelihood=SecondColumn()), 0).ratio_of_copies(digits.x_test[:100], None)
    assert np.isnan(ratio)


def test_gaps_do_not_hide_the_scale_and_counts_have_none(digits):
    assert diagnosis(zoo.table_with_gaps, digits).findings == []
    vae, x, _ = zoo.table_with_gaps(digits)
    assert np.nanmean(x**2) > 20**2
    (finding,) = mv.diagnose(vae, x * [100, 1, 1, 1, 1, 1]).findings
    assert finding.name == "data-scale" and finding.number == pytest.approx(50, rel=0.1)  # by the columns of numbers


def test_gaps_are_left_out_of_the_variance_of_the_data(digits):
    vae, x, _ = zoo.table_with_gaps(digits)
    probe, report = Probe(vae, 0), diagnosis(zoo.table_with_gaps, digits)
    decoded = vae.decode(probe.draw(x, None, probe.noise(len(x)))).var(axis=0, dtype=np.float64)
    assert report.facts["decoded_variance"] == pytest.approx(decoded.sum() / np.nanvar(x, axis=0).sum(), rel=1e-5)


def test_what_an_odd_weight_comes_from(digits):
    (finding,) = diagnosis(zoo.averaged_over_pixels, digits).findings
    assert "1/196: the KL divided by the number of values" in finding.text and finding.number == 1 / 196
    assert "beta = 20 makes the KL heavy." in diagnosis(zoo.collapsed, digits).findings[0].text
    vae, x, _ = zoo.two_of_eight(digits)
    vae.beta = 196
    (finding,) = mv.diagnose(vae, x).findings
    assert "196: errors averaged over the values, while the KL is summed" in finding.text


def test_the_same_seed_gives_the_same_diagnosis_and_leaves_the_model_alone(digits):
    vae, x, options = zoo.plain(digits)
    weights, noise = vae.parameters.flat.copy(), vae._noise.bit_generator.state
    first, second, other = (mv.diagnose(vae, x, seed=seed, **options) for seed in (3, 3, 4))
    assert str(first) == str(second) and first.facts == second.facts and first.facts != other.facts
    np.testing.assert_array_equal(vae.parameters.flat, weights)
    assert vae._noise.bit_generator.state == noise
    assert first.facts["negative_elbo"] == pytest.approx(vae.evaluate(x).negative_elbo, abs=0.5)


def convolutional(**options):
    """Of 14 x 14 pixels, not trained, with a dead channel among the first four."""
    vae = mv.VAE(
        [mv.Reshape((14, 14, 1)), mv.Conv2d(1, 4, 3, stride=2, padding="same"), mv.ReLU(), mv.Flatten(),
         mv.Sequential([mv.Dense(196, 12), mv.ReLU()]), mv.Dense(12, 4)],
        [mv.Dense(2, 8), mv.ReLU(), mv.Dense(8, 196)],
        **options,
    )  # fmt: skip
    zoo.change(vae, encoder_1_b=lambda b: b - 100 * (np.arange(4) == 2))
    return vae


def test_every_backend_gives_the_same(backend, digits):
    x = digits.x_test[:100]
    report, expected = (mv.diagnose(convolutional(backend=each), x) for each in (backend, "numpy"))
    assert report.names == expected.names and report.lines == expected.lines
    for name, value in expected.facts.items():
        assert report.facts[name] == pytest.approx(value, rel=1e-3), name


def test_units_of_images_are_channels_and_nested_layers_are_looked_into(digits):
    (conv, channels), (dense, units) = Probe(convolutional(), 0).alive(digits.x_test, None, "encoder")
    assert conv == "encoder.2" and channels.tolist() == [True, True, False, True]
    assert dense == "encoder.4.1" and len(units) == 12 and units.any()


def history_of(reconstruction, kl, beta=1.0, loss_less=0.0):
    """Rows for the numbers of each epoch's validation; an importance-weighted loss is less. Training does not rise."""
    rows = np.array(np.broadcast_arrays(reconstruction, kl, beta, loss_less)).T
    names = "loss", "reconstruction", "kl"
    return [
        {"epoch": epoch}
        | dict(zip([f"val_{name}" for name in names], (r + b * k - less, r, k), strict=True))
        | dict(zip([f"train_{name}" for name in names], (least + b * k - less, least, k), strict=True))
        for epoch, (r, k, b, less) in enumerate(rows, 1)
        for least in (rows[:, 0].min(),)
    ]


UP, SAME, DOWN = np.linspace(0, 4, 9), np.zeros(9), np.linspace(10, 0, 9)
WARM_UP = np.linspace(0.1, 1, 9)


@pytest.mark.parametrize(
    "options, history, expected",
    [
        ({}, history_of(20 + SAME, 15 + DOWN, WARM_UP), ["unconverged"]),  # though its loss rises
        ({}, history_of(20 + 0.7 * UP, 15 + 0.4 * DOWN, WARM_UP), []),
        ({}, history_of(20 + UP, 5 + SAME, WARM_UP[::-1]), ["overfitted"]),  # though its loss falls
        ({"beta": 2.0}, history_of(25 + DOWN, 5 + 1.25 * UP, 2), []),  # though -ELBO falls
        ({"beta": 0.5}, history_of(20 + UP, 10 + SAME, 0.5), ["overfitted"]),
        ({"beta": 2.0}, history_of(40 + UP / 12, 4.5 + SAME, 2), []),  # the loss is near that without z
        ({"bound": mv.ImportanceWeighted()}, history_of(20 + 0.7 * UP, 15 + 0.4 * DOWN, WARM_UP, 1), []),
        ({"bound": mv.ImportanceWeighted()}, history_of(20 + UP, 5 + SAME, 1, 1), ["overfitted"]),
        ({"bound": mv.ImportanceWeighted()}, history_of(20 + UP, 5 + SAME, 1, 1 + 1.1 * UP), []),  # a tighter bound
        ({"bound": mv.ImportanceWeighted()}, history_of(20 + SAME, 10 + DOWN, 1, 1), ["unconverged"]),
    ],
)  # fmt: skip
def test_epochs_are_compared_under_one_beta(options, history, expected, digits):
    (trained, _), vae = zoo.usual(digits), zoo.model(digits, **options)
    vae.parameters.load(trained.parameters.to_host())
    names = mv.diagnose(vae, digits.x_test, history=history).names
    assert [name for name in names if name in ("overfitted", "unconverged")] == expected


def test_the_order_of_the_data_does_not_matter(digits):
    """Sorted by their first code, half of the data would lie on one side of the other."""
    vae, x, _ = zoo.plain(digits)
    by_first_code = x[np.argsort(vae.encode(x)[0][:, 0])]
    shares = [mv.diagnose(vae, each).facts["told_apart"] for each in (x, by_first_code)]
    assert shares[0] == pytest.approx(shares[1], abs=0.04)


def test_bad_input_says_what_is_wanted(digits):
    vae, x, _ = zoo.untrained(digits)
    with pytest.raises(mv.MiniVAEError, match="^diagnose: x should have at least 50 rows, got 49"):
        mv.diagnose(vae, x[:49])
    with pytest.raises(mv.MiniVAEError, match="^diagnose: train should have at least 50 rows, got 10"):
        mv.diagnose(vae, x, train=x[:10])
    with pytest.raises(mv.MiniVAEError, match="^diagnose: train should hold real numbers"):
        mv.diagnose(vae, x, train="x")
    with pytest.raises(mv.MiniVAEError, match="^diagnose: train: the encoder expects"):
        mv.diagnose(vae, x, train=x[:, :13])
    with pytest.raises(mv.MiniVAEError, match="encoder expects"):
        mv.diagnose(vae, x[:, :13])
    with pytest.raises(mv.MiniVAEError, match="NaN"):
        mv.diagnose(vae, np.full((60, 196), np.nan))
    with pytest.raises(mv.MiniVAEError, match="labels"):
        mv.diagnose(zoo.model(digits, n_classes=10), x)


def test_models_without_z_are_what_their_likelihoods_say():
    """Against the likelihoods themselves, with the best output that is the same for all examples."""
    rng = np.random.default_rng(0)
    x = np.rint(rng.random((300, 4)) * [1, 2, 3, 3]) / 3
    mean, var = x.mean(axis=0), x.var(axis=0)
    counts = (np.rint(x * 3)[..., None] == np.arange(4)).mean(axis=0) + 1e-300
    for likelihood, params, out in (
        (mv.Bernoulli(), {}, np.log(mean / (1 - mean))),
        (mv.Gaussian(0.7), {}, mean),
        (mv.Gaussian(0.7, constants=False), {}, mean),
        (mv.SharedVarianceGaussian(), {"log_var": np.log([var.mean()])}, mean),
        (mv.PredictedVarianceGaussian(), {}, np.concatenate([mean, np.log(var)])),
        (mv.Categorical(4), {"level": np.arange(4)}, np.log(counts).ravel()),
    ):
        log_px, _ = likelihood.log_prob(params, x, np.tile(out, (1, len(x), 1)))
        assert references.WITHOUT_Z[type(likelihood)](likelihood, x) == pytest.approx(-log_px.mean(), rel=1e-6)


def test_codes_and_prior_are_told_apart_as_often_as_theory_says():
    rng = np.random.default_rng(0)
    z, prior = rng.standard_normal((2, 20_000, 3))
    chance = _told_apart(z, prior)
    assert abs(chance - 0.5) < 4 * 0.5 / np.sqrt(20_000)
    # Two Gaussians at a distance of 2 are told apart by the side of the middle.
    assert _told_apart(z + [2, 0, 0], prior) == pytest.approx(stats.norm.cdf(1), abs=0.01)
    # N(0, 9) is wider than N(0, 1) beyond |z| = c.
    c = np.sqrt(2 * np.log(3) / (1 - 1 / 9))
    right = (2 * stats.norm.sf(c / 3) + stats.norm.cdf(c) - stats.norm.cdf(-c)) / 2
    assert _told_apart(3 * z[:, :1], prior[:, :1]) == pytest.approx(right, abs=0.01)


def test_digits_are_recognised():
    sample = data.load("sample")
    assert references.recognised(sample.x_test.reshape(-1, 784) / 255) == "MNIST"
    assert references.recognised(sample.x_test.transpose(0, 2, 1).reshape(-1, 784) / 255) is None
    assert references.recognised(1 - sample.x_test.reshape(-1, 784) / 255) is None


def test_importing_minivae_stays_light():
    code = "import minivae as m, sys; print(callable(m.diagnose), *{'matplotlib', 'scipy.stats'} & sys.modules.keys())"
    environment = os.environ | {"PYTHONPATH": str(Path(mv.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert process.stdout.split() == ["True"], process.stdout + process.stderr


PAGE = (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text()


def test_the_page_lists_every_finding():
    listed = {name for names in re.findall(r"^\| ([a-z, -]+) \|", PAGE, re.M) for name in names.split(", ")}
    assert listed - {"name", "---"} == {*BROKEN.values()}


@pytest.mark.slow
def test_the_program_of_the_page(capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    exec(code, names := {})
    assert names["report"].names == ["kl-weight"] and str(names["report"]) in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------- at full size


def full(collection):
    """A data set from $MINIVAE_DATA or the cache; skips the test where there is none."""
    try:
        dataset = data.load(collection, download=False)
    except mv.MiniVAEError as error:
        pytest.skip(str(error))
    if dataset.note:
        pytest.skip(dataset.note)
    return dataset


@pytest.fixture(scope="module")
def mnist():
    d = full("mnist")
    rows = slice(20_000)
    return zoo.Digits(d.x_train[rows], d.y_train[rows], d.x_test, d.y_test, hidden=256, epochs=15, batch_size=100)


@pytest.mark.slow
@pytest.mark.parametrize("build", [*HEALTHY, *SLOW_TO_TRAIN], ids=name)
def test_healthy_models_of_mnist(build, mnist):
    test_a_healthy_model_has_no_findings(build, mnist)


@pytest.mark.slow
@pytest.mark.parametrize("build", BROKEN, ids=name)
def test_broken_models_of_mnist(build, mnist):
    test_a_broken_model_has_what_it_has(build, mnist)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", zoo.RECIPES, ids=name)
def test_recipes(recipe):
    collection = "fashion-mnist" if "fashion" in recipe.__name__ else "mnist"
    vae, x, options = recipe(full(collection))
    report = mv.diagnose(vae, x, **options)
    assert report.findings == [], report
    assert "others reach" in str(report)
