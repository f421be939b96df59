"""`diagnose`: broken models get the right finding and no wrong one, healthy ones none."""

import pytest
import zoo

import minivae as mv
from minivae import data

HEALTHY = [
    zoo.plain, zoo.more_dimensions, zoo.conditional, zoo.squared_error, zoo.learned_variance, zoo.categorical,
    zoo.binarized, zoo.importance_weighted, zoo.flow, zoo.beta_of_a_half, zoo.gaussian_table,
]  # fmt: skip
BROKEN = {
    zoo.collapsed: "collapsed",
    zoo.two_of_eight: "unused-dimensions",
    zoo.averaged_over_pixels: "kl-weight",
    zoo.autoencoder: "kl-weight",
    zoo.one_epoch: "unconverged",
    zoo.three_epochs: "unconverged",
    zoo.floats_to_255: "data-scale",
    zoo.floats_to_255_of_bernoulli: "data-scale",
    zoo.divided_twice: "data-scale",
    zoo.zeros_and_ones_as_pixels: "data-scale",
    zoo.sigmoid_before_logits: "output-range",
    zoo.relu_before_logits: "output-range",
    zoo.standardised_under_sigmoid: "output-range",
    zoo.relu_ends_the_encoder: "encoder-end",
    zoo.overfitted: "overfitted",
    zoo.overfitted_by_its_history: "overfitted",
    zoo.std_is_var: "sampler",
    zoo.weights_of_std_is_var: "posterior-width",
    zoo.mean_of_the_pixels: "mean-reduced",
    zoo.dead_encoder: "dead-units",
    zoo.dead_decoder: "dead-units",
    zoo.decoder_ignores_z: "decoder-ignores-z",
    zoo.saturated_log_var: "log-var-bounds",
    zoo.nan_weights: "not-finite",
    zoo.shifted_codes: "codes-off-prior",
    zoo.untrained: "no-gain",
}


@pytest.fixture(scope="module")
def digits():
    """The bundled sample, of 14 x 14 pixels."""
    sample = data.load("sample")
    x_train, x_test = (x[:, ::2, ::2].copy() for x in (sample.x_train, sample.x_test))
    return zoo.Digits(x_train, sample.y_train, x_test, sample.y_test, hidden=48, epochs=40, batch_size=100, rate=5e-3)


def diagnosis(build, digits):
    vae, x, options = build(digits)
    return mv.diagnose(vae, x, **options)


@pytest.mark.parametrize("build", HEALTHY, ids=lambda build: build.__name__)
def test_a_healthy_model_has_no_findings(build, digits):
    report = diagnosis(build, digits)
    assert report.findings == [], report


@pytest.mark.parametrize("build", BROKEN, ids=lambda build: build.__name__)
def test_a_broken_model_has_what_it_has(build, digits):
    report = diagnosis(build, digits)
    assert report.names == [BROKEN[build]], report
