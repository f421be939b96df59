"""Every backward pass against central differences, in float64, on every backend; and that a wrong one is found."""

import re

import numpy as np
import pytest

import minivae as mv
from minivae.gradcheck import (
    check_bound,
    check_flow,
    check_function,
    check_layer,
    check_likelihood,
    check_posterior,
    check_prior,
    checks,
)
from minivae.model import bounds, layers
from minivae.zoo.mixture import log_weights, mixture_log_prob


@pytest.mark.parametrize("name", checks())
def test_backward_pass(name, backend):
    result = checks()[name](backend)
    assert result.checked > 0
    assert result.passed, f"{name}: relative error {result.error:.1e} at {result.where}"


@pytest.mark.parametrize("kind", [mv.Layer, mv.Likelihood, mv.Posterior, mv.Flow, mv.Prior, mv.Regulariser])
def test_the_table_covers_every_part(kind):
    """A part that is exported without a row in the table is a part that nobody checks."""
    classes = [exported for name in mv.__all__ if isinstance(exported := getattr(mv, name), type)]
    parts = {part.__name__ for part in classes if issubclass(part, kind) and part is not kind}
    assert parts and parts - {re.match(r"\w+", name)[0] for name in checks()} == set()


# --------------------------------------------------------------------------------------- wrong backward passes


class Scaled(mv.Layer):
    """y = scale x, with a parameter."""

    def shapes(self):
        return {"scale": (1,)}

    def initial(self, rng):
        return {"scale": np.full(1, 0.7)}

    def forward(self, params, x):
        return params["scale"] * x, lambda dy: (
            params["scale"] * dy,
            {"scale": np.sum(dy * x, keepdims=True).reshape(1)},
        )


class WrongInput(mv.Tanh):
    """A derivative by x that is a thousandth too large."""

    def forward(self, params, x):
        y, backward = super().forward(params, x)
        return y, lambda dy: (1.001 * backward(dy)[0], {})


class WrongParameter(Scaled):
    """A derivative by the parameter of the wrong sign."""

    def forward(self, params, x):
        y, backward = super().forward(params, x)
        return y, lambda dy: (backward(dy)[0], {"scale": -backward(dy)[1]["scale"]})


class WrongLikelihood(mv.Bernoulli):
    """Forgets the label: sigmoid(l) in place of x - sigmoid(l)."""

    def log_prob(self, params, x, logits):
        log_px, backward = super().log_prob(params, x, logits)
        return log_px, lambda dlog_px: (backward(dlog_px)[0] - dlog_px[..., None] * x, {})


class WrongVariance(mv.SharedVarianceGaussian):
    """Forgets the half of log_var's derivative."""

    def log_prob(self, params, x, mean):
        log_px, backward = super().log_prob(params, x, mean)

        def wrong(dlog_px):
            dmean, grads = backward(dlog_px)
            return dmean, {"log_var": 2 * grads["log_var"]}

        return log_px, wrong


class WrongPosterior(mv.DiagonalGaussian):
    """Takes the derivative of the sample by log_var for one by log_std."""

    def with_kl(self, params, stats, eps, free_bits=0.0):
        values, backward = super().with_kl(params, stats, eps, free_bits)
        D = stats.shape[1] // 2

        def wrong(dz, dkl):
            dstats, grads = backward(dz, dkl)
            return np.concatenate([dstats[:, :D], 2 * dstats[:, D:]], axis=1), grads

        return values, wrong


class WrongFlow(mv.Planar):
    """Forgets that log_det depends on z too."""

    def forward(self, params, z, context=None):
        values, backward = super().forward(params, z, context)
        return values, lambda dz_out, dlog_det: (backward(dz_out, 0 * dlog_det)[0], *backward(dz_out, dlog_det)[1:])


class WrongPrior(mv.MixturePrior):
    """Gives the weights' gradients to their logits, as if the weights need not add up to 1."""

    def log_prob(self, params, z):
        log_pz, _ = super().log_prob(params, z)
        log_var, log_w = params["log_var"], log_weights(params["logits"])[0]
        _, backward = mixture_log_prob(z, params["mu"], log_var, log_w)
        return log_pz, lambda dlog_pz: (
            backward(dlog_pz)[0],
            dict(zip(self.shapes(), backward(dlog_pz)[1:], strict=True)),
        )


def wrong_bound(log_px, kl, beta):
    """Forgets beta."""
    values, backward = bounds.elbo(log_px, kl, beta)
    return values, lambda dloss: (backward(dloss)[0], backward(dloss)[1] * (1 / beta))


def wrong_function(x):
    """As if the kink of ReLU were at the mean."""
    return layers.relu(x)[0], lambda dy: dy * (x > np.mean(x, axis=1, keepdims=True))


PIXELS = np.random.default_rng(0).random((4, 5))
WRONG = {
    "input of a layer": (lambda b: check_layer(b, WrongInput(), (6,)), "x["),
    "parameter of a layer": (lambda b: check_layer(b, WrongParameter(), (6,)), "params.scale["),
    "likelihood": (lambda b: check_likelihood(b, WrongLikelihood(), PIXELS), "out["),
    "parameter of a likelihood": (lambda b: check_likelihood(b, WrongVariance(), PIXELS), "params.log_var["),
    "posterior": (lambda b: check_posterior(b, WrongPosterior(), 6, analytic=True), "stats["),
    "flow": (lambda b: check_flow(b, WrongFlow(3)), "z["),
    "prior": (lambda b: check_prior(b, WrongPrior(3, 4)), "params.logits["),
    "bound": (lambda b: check_bound(b, wrong_bound, (4,)), "kl["),
    "function": (lambda b: check_function(b, wrong_function, x=PIXELS - 0.5), "x["),
}


@pytest.mark.parametrize("check, where", WRONG.values(), ids=WRONG)
def test_a_wrong_backward_pass_is_found_and_named(check, where):
    result = check(mv.get_backend("numpy"))
    assert not result.passed and result.where.startswith(where)


@pytest.mark.parametrize("factor", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_is_found(factor):
    """Though that of another argument, which is looked at later, is right."""

    def product(x, y):
        return x * y, lambda dxy: (dxy * y * factor, dxy * x)

    result = check_function(mv.get_backend("numpy"), product, x=PIXELS, y=PIXELS)
    assert not result.passed and result.where.startswith("x[")


def test_errors_are_relative_to_the_gradient_or_to_what_rounding_leaves_of_it():
    backend = mv.get_backend("numpy")
    assert not check_function(backend, lambda x: (1e-7 * x, lambda dy: 2e-7 * dy), x=PIXELS).passed
    assert check_function(backend, lambda x: (1e-4 * x + 1e8, lambda dy: 1e-4 * dy), x=PIXELS).passed


def test_a_right_layer_of_ones_own_passes():
    assert check_layer(mv.get_backend("numpy"), Scaled(), (6,)).passed


@pytest.mark.parametrize(
    "wrong, where",
    [
        ({"encoder": [mv.Dense(5, 4), WrongInput(), mv.Dense(4, 4)]}, "encoder.0."),
        ({"encoder": [mv.Dense(5, 4), WrongParameter(), mv.Dense(4, 4)]}, "encoder.1.scale"),
        ({"decoder": [mv.Dense(2, 3), WrongInput(), mv.Dense(3, 5)]}, "decoder.0."),
        ({"likelihood": WrongVariance()}, "likelihood.log_var"),
        ({"posterior": WrongPosterior()}, "encoder.0."),
    ],
)
def test_gradcheck_finds_a_wrong_part_of_a_model(wrong, where):
    """The first wrong gradient on the way back from the loss, or one that it spoils."""
    right = {"encoder": [mv.Dense(5, 4)], "decoder": [mv.Dense(2, 5)]}
    x, eps = np.random.default_rng(0).random((3, 5)), np.random.default_rng(1).standard_normal((1, 3, 2))
    assert mv.gradcheck(mv.VAE(**right, dtype="float64"), x, eps).passed
    result = mv.gradcheck(mv.VAE(**right | wrong, dtype="float64"), x, eps)
    assert not result.passed and result.where.startswith(where)


def test_gradcheck_leaves_the_parameters_alone():
    vae = mv.VAE([mv.Dense(5, 4)], [mv.Dense(2, 5)], dtype="float64")
    before = vae.parameters.flat.copy()
    assert mv.gradcheck(vae, np.random.default_rng(0).random((3, 5))).passed
    np.testing.assert_array_equal(vae.parameters.flat, before)


def test_gradcheck_asks_for_float64():
    vae = mv.VAE([mv.Dense(5, 4)], [mv.Dense(2, 5)])
    with pytest.raises(mv.MiniVAEError, match="float64"):
        mv.gradcheck(vae, np.zeros((3, 5)))
