"""Every backward pass against central differences, in float64, as the backend compiles it.

For a function with values y and random cotangents c, the number sum(c y) has the gradients that `backward(c)`
returns. Each is compared with (f(v + h) - f(v - h)) / 2h. The error of a tensor is the largest difference,
relative to the largest gradient in it; where that is so small that f's own rounding would be an error above
TOLERANCE, relative to a gradient for which it would be one of TOLERANCE.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from .arguments import integer
from .errors import MiniVAEError
from .model import bounds, flows, gaussian, labels, layers, likelihoods, more_layers
from .model import vae as vaes
from .model.bounds import ImportanceWeighted
from .model.conv import Conv2d, ConvTranspose2d, Flatten, Reshape
from .model.flows import FlowPosterior, InverseAutoregressive, Planar
from .model.layers import Dense, ReLU, Sequential, Sigmoid, Tanh
from .model.likelihoods import Bernoulli, Categorical, Gaussian, PredictedVarianceGaussian, SharedVarianceGaussian
from .model.more_layers import ELU, GELU, Dropout, LayerNorm, LeakyReLU, Softplus, elu, gelu, leaky_relu, softplus
from .model.posteriors import DiagonalGaussian
from .model.priors import StandardNormal
from .model.vae import VAE
from .randomness import generator
from .zoo import avb, counts, gated, gumbel, missing, mixture, mmd, total_correlation, two_layers, vector_quantized
from .zoo.avb import ImplicitPosterior
from .zoo.branches import SideBySide, WithInput
from .zoo.counts import Poisson
from .zoo.flow_prior import FlowPrior
from .zoo.gated import GatedDense
from .zoo.gumbel import GumbelSoftmax, UniformCodes
from .zoo.imputation import miwae
from .zoo.missing import Observed, ZeroFilled
from .zoo.mixture import MixturePrior
from .zoo.mmd import MMD
from .zoo.residual import Residual
from .zoo.total_correlation import BetaTC
from .zoo.two_layers import TwoLayerPosterior, TwoLayerPrior
from .zoo.vamp import VampPrior
from .zoo.vector_quantized import CodebookPrior, VectorQuantized

TOLERANCE = 1e-6
STEP = 1e-6


@dataclass
class Result:
    """The outcome of one check; `where` names the worst entry with both its values."""

    checked: int
    error: float
    where: str

    @property
    def passed(self):
        return self.error <= TOLERANCE


def compare(backend, function, arrays, others=None, limit=None):
    """Check the gradients that a function's backward pass gives for `arrays`.

    function : takes a dict of arrays and returns (values, backward), where values is a tuple of arrays and
               backward(cotangents), a tuple alike, gives the gradients by name
    arrays   : dict of name -> float64 NumPy array, the arguments to check
    others   : dict of name -> NumPy array, arguments that need no gradient
    limit    : at most so many entries of each array, drawn at random; None checks all
    """
    rng = generator(0)
    values, _ = function(arrays | (others or {}))
    cotangents = {f"c{i}": rng.standard_normal(value.shape) for i, value in enumerate(values)}
    results = {f"y{i}": np.zeros(value.shape) for i, value in enumerate(values)}
    results |= {f"d{key}": np.zeros(array.shape) for key, array in arrays.items()}
    held = {}
    for key, host in (arrays | (others or {}) | cotangents | results).items():
        held[key] = backend.empty(host.shape, host.dtype)
        backend.upload(host, to=held[key])

    def step(a):
        values, backward = function(a)
        gradients = backward(tuple(a[c] for c in cotangents))
        return {f"y{i}": value for i, value in enumerate(values)} | {f"d{key}": gradients[key] for key in arrays}

    launch = backend.compile(step, held, np.float64)

    def value():
        launch()
        return sum(float((c * backend.to_host(held[f"y{i}"])).sum()) for i, c in enumerate(cotangents.values()))

    rounding = np.finfo(float).eps * abs(value()) / STEP
    gradients = {key: np.array(backend.to_host(held[f"d{key}"])) for key in arrays}
    result = Result(0, 0.0, "")
    for key, array in arrays.items():
        entries = rng.permutation(array.size)[:limit]
        numeric = _central_differences(backend, held[key], array, value, entries)
        analytic = gradients[key].reshape(-1)[entries]
        scale = max(np.abs(numeric).max(), np.abs(analytic).max(), rounding / TOLERANCE, 1e-300)
        with np.errstate(invalid="ignore"):
            errors = np.nan_to_num(np.abs(analytic - numeric) / scale, nan=np.inf, posinf=np.inf)
        worst = int(np.argmax(errors))
        result.checked += len(entries)
        if errors[worst] > result.error:
            result.error = float(errors[worst])
            index = tuple(map(int, np.unravel_index(entries[worst], array.shape)))
            result.where = f"{key}{list(index)}: analytic {analytic[worst]:.9g}, numeric {numeric[worst]:.9g}"
    return result


def _central_differences(backend, array, host, value, entries):
    """(f(v + h) - f(v - h)) / 2h for some entries v of an array, whose values are those of `host`."""
    moved, out = host.copy(), np.empty(len(entries))
    flat = moved.reshape(-1)
    for i, entry in enumerate(entries):
        kept = flat[entry]
        ends = []
        for shifted in (kept + STEP, kept - STEP):
            flat[entry] = shifted
            backend.upload(moved, to=array)
            ends.append((shifted, value()))
        flat[entry] = kept
        (high, at_high), (low, at_low) = ends
        out[i] = (at_high - at_low) / (high - low)
    backend.upload(host, to=array)
    return out


def gradcheck(
    vae: VAE, x: np.ndarray, eps: np.ndarray | None = None, limit: int | None = 30, y: np.ndarray | int | None = None
) -> Result:
    """Check the gradients of a whole VAE's loss on a batch; returns a Result.

    vae   : a VAE with dtype="float64"; its parameters come back unchanged
    x     : (B, X), a small batch; not of zeros, which hold the ReLUs of a fresh model at their kink: no difference fits
    eps   : noise (L, B, D) or (B, D); None draws one sample for each example
    limit : how many entries of each parameter to check, at random; None checks all
    y     : the labels (B,), for a model with n_classes
    """
    vaes.check_vae("gradcheck: vae", vae)
    limit = None if limit is None else integer("gradcheck: limit", limit)
    if vae.dtype != np.float64:
        raise MiniVAEError('gradcheck needs a VAE with dtype="float64": float32 differences are too coarse')
    x = vae.check_input(x)
    eps = generator(0).standard_normal((1, len(x), vae.latent_dim)) if eps is None else eps
    host = vae.backend.to_host
    others = {name: host(array) for name, array in vae.constants.items()}
    others |= {"x": host(vae._to_device(x)), "eps": host(vae._check_eps(eps, len(x))), "beta": np.full(1, vae.beta)}
    y = vae.labels.check(y, len(x))
    if y is not None:
        others["y"] = vae.labels.one_hot(y, vae.dtype)

    def function(a):
        (loss, _, _), backward = vae.forward(a, a["x"], a["eps"], a["beta"], a.get("y"), training=True)
        return (loss,), lambda cotangents: backward(*cotangents)

    return compare(vae.backend, function, vae.parameters.to_host(), others, limit)


# ------------------------------------------------------------------------------------- the table of all there is


def _off_kinks(rng, *shape):
    """Values of magnitude 0.1 to 2, so that no difference straddles the kink at 0."""
    return rng.uniform(0.1, 2.0, shape) * rng.choice([-1.0, 1.0], shape)


def _tuple(values):
    return values if isinstance(values, tuple) else (values,)


def check_function(backend, function, **arrays):
    """A function of arrays that returns its value, or a tuple of them, and its backward pass."""

    def named(a):
        value, backward = function(*(a[key] for key in arrays))
        return _tuple(value), lambda cotangents: dict(zip(arrays, _tuple(backward(*cotangents)), strict=True))

    return compare(backend, named, arrays)


def check_part(backend, part, call, others=None, **arrays):
    """A part with parameters, off all kinks: call(params, a) gives the values, and backward -> the gradients.

    `call` gives the gradients as two dicts: those of `arrays`, and those of the parameters.
    """
    rng = generator(1)
    params = {f"params.{key}": _off_kinks(rng, *shape) for key, shape in part.shapes().items()}
    constants = {f"constants.{key}": np.asarray(value, float) for key, value in part.constant_arrays().items()}

    def function(a):
        given = {key.split(".", 1)[1]: a[key] for key in params | constants}
        values, backward = call(given, a)

        def flat(cotangents):
            gradients, grads = backward(*cotangents)
            return gradients | {f"params.{key}": grad for key, grad in grads.items()}

        return values, flat

    return compare(backend, function, arrays | params, constants | (others or {}))


def check_layer(backend, layer, input_shape, x=None):
    """A layer: the gradients of its input and of its parameters; x (4, ...) where not any numbers will do."""

    def call(params, a):
        y, backward = layer.forward(params, a["x"])

        def named(dy):
            dx, grads = backward(dy)
            return {"x": dx}, grads

        return (y,), named

    x = _off_kinks(generator(8), 4, *input_shape) if x is None else x
    return check_part(backend, layer, call, x=x)


def check_posterior(backend, posterior, stats_dim, analytic=False, free_bits=0.0, L=3, B=4):
    """z and log q of the sample, or the analytic KL, as functions of the statistics and the posterior's parameters."""
    rng = generator(2)

    def call(params, a):
        if analytic:
            (z, divergence, floor), backward = posterior.with_kl(params, a["stats"], a["eps"], free_bits)
            values = z, divergence + floor
        else:
            values, backward = posterior.with_log_q(params, a["stats"], a["eps"])

        def named(dz, dother):
            dstats, grads = backward(dz, dother)
            return {"stats": dstats}, grads

        return values, named

    eps = {"eps": rng.standard_normal((L, B, posterior.latent_dim(stats_dim)))}
    return check_part(backend, posterior, call, eps, stats=_off_kinks(rng, B, stats_dim))


def check_own_loss(backend, posterior, stats_dim, L=3, B=4):
    """The loss that a posterior has of its own, as a function of the parameters that are trained by it."""
    rng = generator(11)
    everything = {key: _off_kinks(rng, *shape) for key, shape in posterior.shapes().items()}
    everything |= {key: np.asarray(value, float) for key, value in posterior.constant_arrays().items()}
    everything["stats"] = _off_kinks(rng, B, stats_dim)
    everything["eps"] = rng.standard_normal((L, B, posterior.latent_dim(stats_dim)))
    _, backward = posterior.own_loss(everything, everything["stats"], everything["eps"])
    trained = backward(np.ones(B)).keys()

    def function(a):
        loss, backward = posterior.own_loss(a, a["stats"], a["eps"])
        return (loss,), lambda cotangents: backward(*cotangents)

    arrays, others = ({k: v for k, v in everything.items() if (k in trained) is side} for side in (True, False))
    return compare(backend, function, arrays, others)


def check_flow(backend, flow, N=5):
    """z' and log_det of a flow as functions of z, the context and the parameters."""
    rng = generator(7)
    arrays = {"z": rng.standard_normal((N, flow.dim))}
    if flow.context:
        arrays["context"] = rng.standard_normal((N, flow.context))

    def call(params, a):
        values, backward = flow.forward(params, a["z"], a.get("context"))

        def named(dz_out, dlog_det):
            dz, dcontext, grads = backward(dz_out, dlog_det)
            return {"z": dz, "context": dcontext}, grads

        return values, named

    return check_part(backend, flow, call, **arrays)


def check_prior(backend, prior, stats_shape=None, N=5):
    """log p(z) of a prior as a function of z and its parameters.

    Where it has pseudo-inputs these are looked at too, and log p(z) as a function of the encoder's output for them,
    of shape `stats_shape`.
    """
    rng = generator(9)
    arrays = {"z": rng.standard_normal((N, prior.dim))}
    if prior.n_inputs:
        arrays["stats"] = _off_kinks(rng, *stats_shape)

    def call(params, a):
        made = {"stats": a["stats"]} if prior.n_inputs else {}
        log_pz, backward = prior.log_prob(params | made, a["z"])
        u, u_backward = prior.pseudo_inputs(params) if prior.n_inputs else (None, None)

        def named(dlog_pz, du=None):
            dz, grads = backward(dlog_pz)
            gradients = {"z": dz} | {key: grads[key] for key in made}
            others = {key: grad for key, grad in grads.items() if key not in made}
            return gradients, others | (u_backward(du) if prior.n_inputs else {})

        return (log_pz,) if u is None else (log_pz, u), named

    return check_part(backend, prior, call, **arrays)


def check_regulariser(backend, regulariser, L=2, B=4, D=3):
    """The penalty of a regulariser as a function of z and of the encoder's statistics."""
    rng = generator(10)
    stats = _off_kinks(rng, B, 2 * D)
    z = stats[:, :D] + 0.5 * rng.standard_normal((L, B, D))
    return check_function(backend, regulariser.penalty, z=z, stats=stats)


def check_likelihood(backend, likelihood, x, L=3):
    """log p(x given z) as a function of the decoder's output and the likelihood's parameters."""

    def call(params, a):
        log_px, backward = likelihood.log_prob(params, a["x"], a["out"])

        def named(dlog_px):
            dout, grads = backward(dlog_px)
            return {"out": dout}, grads

        return (log_px,), named

    out = _off_kinks(generator(3), L, len(x), likelihood.params_dim(x.shape[1]))
    return check_part(backend, likelihood, call, {"x": x}, out=out)


def check_bound(backend, bound, kl_shape, L=3, B=4):
    """The loss of a bound as a function of log p(x given z) and the KL."""
    rng = generator(4)

    def function(log_px, kl):
        (loss, _, _), backward = bound(log_px, kl, np.full(1, 0.7))
        return loss, backward

    return check_function(backend, function, log_px=rng.standard_normal((L, B)), kl=rng.standard_normal(kl_shape))


def check_whole(backend, L, limit=None, make=VAE, x=None, **parts):
    """A small VAE as a whole, or at most `limit` entries of each of its parameters; `make` takes its parts.

    x : five examples, where not any pixels will do
    """
    rng = generator(5)
    if make is VAE:
        parts.setdefault("encoder", [Dense(12, 9), ReLU(), Dense(9, 7), Tanh(), Dense(7, 6)])
        parts.setdefault("decoder", [Dense(3, 8), ReLU(), Dense(8, 12)])
    vae = make(beta=0.7, backend=backend, dtype="float64", **parts)
    y = rng.integers(vae.n_classes, size=5) if vae.n_classes else None
    x = rng.random((5, vae.input_dim)) if x is None else x
    return gradcheck(vae, x, rng.standard_normal((L, 5, vae.latent_dim)), limit, y)


def small_flows():
    """Three dimensions, nine statistics."""
    flows = [InverseAutoregressive(3, 5, context=2), Planar(3), InverseAutoregressive(3, 5, context=1, reverse=True)]
    return FlowPosterior(flows)


def small_implicit(adaptive=True):
    """Two dimensions and five values in a row: 2 + 2 x 3 + 5 statistics."""
    noise, features = [Dense(2, 3), Tanh()], [Dense(5, 3), Tanh()]
    return ImplicitPosterior(noise, features, [Dense(5, 4), Tanh(), Dense(4, 1)], adaptive, draws=5, pace=0.5)


def implicit_networks(adaptive=True):
    """The parts of a small VAE whose posterior is implicit, for five values in a row."""
    encoder = [WithInput([Dense(5, 6), Tanh(), Dense(6, 8)])]
    return {"encoder": encoder, "decoder": [Dense(2, 5)], "posterior": small_implicit(adaptive)}


def flow_prior(dim=3):
    return FlowPrior([InverseAutoregressive(dim, 5), InverseAutoregressive(dim, 4, reverse=True)])


def small_two_layers(top=None):
    """A function of a model's options that makes a small model of two stochastic layers, for twelve pixels."""
    return lambda **options: two_layers.two_layers(12, (2, 3), 4, top, **options)


def table_columns():
    """Five columns of three kinds, one of which has a parameter of its own."""
    return [(SharedVarianceGaussian(0.5), 2), (Categorical(3), 1), (Poisson(), 1), (PredictedVarianceGaussian(), 1)]


def table_rows(n, gaps=0.3):
    """n rows of such a table, of which a share is missing."""
    rng = generator(10)
    columns = [rng.standard_normal((n, 2)), rng.integers(0, 3, (n, 1)) / 2, rng.poisson(2, (n, 1)), rng.random((n, 1))]
    x = np.concatenate(columns, axis=1)
    return np.where(rng.random(x.shape) < gaps, np.nan, x)


def conv_networks():
    """The encoder and decoder of a small convolutional VAE, for images of 4 x 4."""
    to_stats = [Reshape((4, 4, 1)), Conv2d(1, 2, 2, stride=2, padding="same"), Tanh(), Flatten(), Dense(8, 6)]
    to_image = [Dense(3, 4), Reshape((2, 2, 1)), ConvTranspose2d(1, 2, 3, stride=2), Tanh(), Conv2d(2, 1, 2), Flatten()]
    return {"encoder": to_stats, "decoder": to_image}


def conditional_networks():
    """The encoder and decoder of a small VAE that knows two classes, for twelve pixels."""
    return {"encoder": [Dense(14, 8), Tanh(), Dense(8, 6)], "decoder": [Dense(5, 12)], "n_classes": 2}


def discrete_networks():
    """The encoder and decoder of a small VAE whose encoder gives as many numbers as z has, for twelve pixels."""
    return {"encoder": [Dense(12, 8), Tanh(), Dense(8, 6)], "decoder": [Dense(6, 12)]}


def convolution_checks():
    """Both convolutions, by kernel size, stride and padding, on images of two channels."""
    table = {
        (5, 4): [Conv2d(2, 3, 3), Conv2d(2, 3, 2, padding="same"), Conv2d(2, 3, 2, 2, "same"), Conv2d(2, 1, 4, 3, 2)],
        (3, 2): [
            ConvTranspose2d(2, 3, 3),
            ConvTranspose2d(2, 3, 3, padding="same"),
            ConvTranspose2d(2, 3, 3, 2, 1, output_padding=1),
            ConvTranspose2d(2, 1, 5, 3, "same"),
        ],
    }
    rows = {}
    for size, layers_ in table.items():
        for layer in layers_:
            kernel = f"{layer.kernel}x{layer.kernel}"
            name = f"{type(layer).__name__} {kernel}, stride {layer.stride}, padding {layer.padding}"
            rows[name] = partial(check_layer, layer=layer, input_shape=(*size, 2))
    return rows


def whiten_symmetric(half, r):
    """`whiten` of a covariance that stays symmetric when half of it changes by itself: H + H' + 2 I."""
    values, backward = avb.whiten(half + np.swapaxes(half, 1, 2) + 2 * np.eye(3), r, np.tri(3))

    def symmetric_backward(*cotangents):
        dS, dr = backward(*cotangents)
        return dS + np.swapaxes(dS, 1, 2), dr

    return values, symmetric_backward


def function_checks():
    """The functions that the parts are made of, each by itself."""
    rng = generator(6)
    x, y, L, B, D = rng.random((4, 5)), np.eye(3)[[0, 2, 1, 1]], 3, 4, 2
    mu, log_var, eps = _off_kinks(rng, B, D), _off_kinks(rng, B, D), rng.standard_normal((L, B, D))
    u, w, z = rng.standard_normal((1, D)), rng.standard_normal((1, D)), rng.standard_normal((B, D))
    one = np.full((1, 1), 0.3)
    activations = layers.relu, layers.sigmoid, layers.tanh, leaky_relu, elu, softplus, gelu
    table = {
        "dense": (layers.dense, {"x": x, "W": _off_kinks(rng, 5, 3), "b": _off_kinks(rng, 3)}),
        **{activation.__name__: (activation, {"x": _off_kinks(rng, 4, 5)}) for activation in activations},
        "layer_norm": (
            lambda x, gain, bias: more_layers.layer_norm(x, gain, bias, 1e-5),
            {"x": x, "gain": rng.random(5), "bias": rng.random(5)},
        ),
        "dropout": (lambda x: more_layers.dropout(x, generator(7).random((4, 5)), 0.3), {"x": x}),
        "hold": (lambda raw: gaussian.hold(raw, -0.05, 1.5), {"raw": np.array([[-2, 0.4, 1.2, 3]])}),
        "reparameterize": (lambda m, s: gaussian.reparameterize(m, s, eps), {"m": mu, "s": log_var}),
        "gaussian_kl": (gaussian.gaussian_kl, {"mu": mu, "log_var": log_var}),
        "gaussian_sample_log_prob": (
            lambda log_var: gaussian.gaussian_sample_log_prob(eps, log_var), {"log_var": log_var},
        ),
        "standard_normal_log_prob": (gaussian.standard_normal_log_prob, {"z": eps}),
        "planar_direction": (flows.planar_direction, {"u": u, "w": w}),
        "planar": (flows.planar, {"z": z, "w": w, "b": one, "v": u, "c": one}),
        "gated_step": (flows.gated_step, {"z": z, "m": mu, "s": log_var}),
        "bernoulli_log_prob": (
            lambda logits: likelihoods.bernoulli_log_prob(x, logits),
            {"logits": _off_kinks(rng, L, B, 5)},
        ),
        "gaussian_log_prob": (lambda m: likelihoods.gaussian_log_prob(x, m, 0.5), {"mean": _off_kinks(rng, L, B, 5)}),
        "heteroscedastic_log_prob": (
            lambda m, v: likelihoods.heteroscedastic_log_prob(x, m, v),
            {"mean": _off_kinks(rng, L, B, 5), "log_var": _off_kinks(rng, L, B, 5)},
        ),
        "gated_dense": (
            gated.gated_dense,
            {"x": x, **{name: _off_kinks(rng, *shape) for name, shape in GatedDense(5, 3).shapes().items()}},
        ),
        "mixture_log_prob": (
            mixture.mixture_log_prob,
            {"z": z, "mu": mu[:3], "log_var": log_var[:3], "log_w": _off_kinks(rng, 3)},
        ),
        "log_weights": (mixture.log_weights, {"logits": _off_kinks(rng, 5)}),
        "gaussian_log_prob_of_sample": (
            gaussian.gaussian_log_prob_of_sample, {"z": z, "mu": mu, "log_var": log_var},
        ),
        "maximum_mean_discrepancy": (lambda z: mmd.maximum_mean_discrepancy(z, [0.5, 2.0]), {"z": eps}),
        "log_aggregate": (
            total_correlation.log_aggregate, {"z": _off_kinks(rng, 5, D), "mu": mu, "log_var": log_var},
        ),
        "kl_decomposition": (
            lambda z, mu, log_var: total_correlation.kl_decomposition(z, mu, log_var, 50),
            {"z": mu + 0.5 * eps, "mu": mu, "log_var": log_var},
        ),
        "gumbel_softmax": (
            lambda logits: gumbel.gumbel_softmax(logits, generator(8).gumbel(size=(L, B, 2, 3)), 0.7),
            {"logits": _off_kinks(rng, B, 2, 3)},
        ),
        "categorical_kl": (gumbel.categorical_kl, {"logits": _off_kinks(rng, B, 2, 3)}),
        "squared_distance": (vector_quantized.squared_distance, {"a": mu, "b": log_var}),
        "poisson_log_prob": (
            lambda log_rate: counts.poisson_log_prob(np.rint(4 * x), log_rate), {"log_rate": _off_kinks(rng, L, B, 5)},
        ),
        "zero_filled": (missing.zero_filled, {"x": _off_kinks(rng, 4, 5)}),
        "log_filled": (missing.log_filled, {"x": x}),
        "mixture": (
            lambda A, v, v_draws: avb.mixture(A, v, v_draws, np.eye(D)),
            {"A": _off_kinks(rng, B, D, 5), "v": rng.random((L, B, 5)), "v_draws": rng.random((7, 5))},
        ),
        "whiten": (whiten_symmetric, {"half": rng.random((B, 3, 3)), "r": rng.standard_normal((L, B, 3))}),
        "contrast_loss": (
            avb.contrast_loss, {"t_drawn": rng.standard_normal((L, B)), "t_contrast": rng.standard_normal((L, B))},
        ),
        "append_labels": (lambda x: labels.append_labels(x, y), {"x": rng.random((L, B, 5))}),
    }  # fmt: skip
    return {name: partial(check_function, function=function, **arrays) for name, (function, arrays) in table.items()}


def checks():
    """The table, of every backward pass there is: what is checked -> a function of the backend that gives a Result."""
    rows = [
        Dense(6, 5), ReLU(), Sigmoid(), Tanh(), LeakyReLU(0.2), ELU(0.7), Softplus(), GELU(), GatedDense(6, 5),
        LayerNorm(6), Reshape((3, 2)), Sequential([Dense(6, 5), Tanh(), Dense(5, 4)]),
        WithInput([Dense(6, 5), Tanh(), Dense(5, 4)]), Residual([Dense(6, 5), Tanh(), Dense(5, 6)]),
    ]  # fmt: skip
    pixels = generator(6).random((4, 5))
    of_pixels = [Bernoulli(), Gaussian(0.5), SharedVarianceGaussian(0.5), PredictedVarianceGaussian(), Categorical(3)]
    return {
        **function_checks(),
        **{type(layer).__name__: partial(check_layer, layer=layer, input_shape=(6,)) for layer in rows},
        "Dropout, outside training": lambda b: check_layer(b, Dropout(0.3), (6,)),
        "LayerNorm, of each pixel": lambda b: check_layer(b, LayerNorm(3), (2, 2, 3)),
        "SideBySide": lambda b: check_layer(b, SideBySide([[Dense(2, 5), Tanh(), Dense(5, 3)], [Dense(4, 2)]]), (6,)),
        "ZeroFilled": lambda b: check_layer(b, ZeroFilled(table_columns()), (5,), table_rows(4, 0)),
        "Flatten": lambda b: check_layer(b, Flatten(), (3, 2)),
        **convolution_checks(),
        "DiagonalGaussian: z, log q(z given x)": lambda b: check_posterior(b, DiagonalGaussian(), 6),
        "DiagonalGaussian: z, analytic KL": lambda b: check_posterior(b, DiagonalGaussian(), 6, True),
        "DiagonalGaussian: z, analytic KL, free bits": lambda b: check_posterior(b, DiagonalGaussian(), 6, True, 0.6),
        "Planar": lambda b: check_flow(b, Planar(3)),
        "InverseAutoregressive": lambda b: check_flow(b, InverseAutoregressive(4, 6)),
        "InverseAutoregressive, context, reversed": lambda b: check_flow(b, InverseAutoregressive(4, 6, 2, True)),
        "FlowPosterior": lambda b: check_posterior(b, small_flows(), 9),
        "TwoLayerPosterior": lambda b: check_posterior(
            b, TwoLayerPosterior([Dense(5, 3)], [Dense(2, 4), Tanh()], [Dense(7, 6)]), 9
        ),
        "GumbelSoftmax: z, log q(z given x)": lambda b: check_posterior(b, GumbelSoftmax(3), 6),
        "GumbelSoftmax: z, analytic KL": lambda b: check_posterior(b, GumbelSoftmax(3), 6, True),
        "VectorQuantized: z, log q(z given x)": lambda b: check_posterior(b, VectorQuantized(4, 2), 6),
        "ImplicitPosterior": lambda b: check_posterior(b, small_implicit(), 13),
        "ImplicitPosterior, not adaptive": lambda b: check_posterior(b, small_implicit(False), 13),
        "ImplicitPosterior, its own loss": lambda b: check_own_loss(b, small_implicit(), 13),
        "ImplicitPosterior, its own loss, not adaptive": lambda b: check_own_loss(b, small_implicit(False), 13),
        "StandardNormal": lambda b: check_prior(b, StandardNormal(3)),
        "UniformCodes": lambda b: check_prior(b, UniformCodes(6, 3)),
        "CodebookPrior": lambda b: check_prior(b, CodebookPrior(6, 4, 2)),
        "MixturePrior": lambda b: check_prior(b, MixturePrior(3, 4)),
        "MixturePrior, one component": lambda b: check_prior(b, MixturePrior(1, 1)),
        "VampPrior": lambda b: check_prior(b, VampPrior(3, 5, 4), (4, 6)),
        "VampPrior, of the first statistics": lambda b: check_prior(b, VampPrior(3, 5, 4), (4, 9)),
        "FlowPrior": lambda b: check_prior(b, flow_prior()),
        "TwoLayerPrior": lambda b: check_prior(b, TwoLayerPrior(MixturePrior(2, 3), [Dense(2, 6)])),
        "TwoLayerPrior, VampPrior on top": lambda b: check_prior(
            b, TwoLayerPrior(VampPrior(2, 5, 4), [Dense(2, 6)]), (4, 9)
        ),
        "MMD": lambda b: check_regulariser(b, MMD(3.0)),
        "BetaTC": lambda b: check_regulariser(b, BetaTC(50, 4.0, 0.5, 2.0)),
        **{type(part).__name__: partial(check_likelihood, likelihood=part, x=pixels) for part in of_pixels},
        "Poisson": lambda b: check_likelihood(b, Poisson(), np.rint(4 * pixels)),
        "Observed": lambda b: check_likelihood(b, Observed(table_columns()), table_rows(4)),
        "elbo, analytic KL": lambda b: check_bound(b, bounds.elbo, (4,)),
        "elbo, Monte-Carlo KL": lambda b: check_bound(b, bounds.elbo, (3, 4)),
        "importance_weighted": lambda b: check_bound(b, bounds.importance_weighted, (3, 4)),
        "VAE, L = 1": lambda b: check_whole(b, 1),
        "VAE, L = 3": lambda b: check_whole(b, 3),
        "VAE, Monte-Carlo KL, L = 3": lambda b: check_whole(b, 3, kl="monte-carlo"),
        "VAE, importance-weighted": lambda b: check_whole(b, 3, bound=ImportanceWeighted()),
        "VAE, planar flow": lambda b: check_whole(
            b, 2, 8, posterior=FlowPosterior([Planar(3)]), bound=ImportanceWeighted()
        ),
        "VAE, free bits": lambda b: check_whole(b, 2, 8, free_bits=0.3),
        "VAE, mixture prior, L = 2": lambda b: check_whole(b, 2, 8, prior=MixturePrior(3, 4)),
        "VAE, VampPrior": lambda b: check_whole(b, 1, 8, prior=VampPrior(3, 12, 4)),
        "VAE, VampPrior, importance-weighted": lambda b: check_whole(
            b, 3, 8, prior=VampPrior(3, 12, 2), bound=ImportanceWeighted()
        ),
        "VAE, flow prior, L = 2": lambda b: check_whole(b, 2, 8, prior=flow_prior()),
        "VAE, two layers, L = 2": lambda b: check_whole(b, 2, 8, small_two_layers()),
        "VAE, two layers, VampPrior, L = 2": lambda b: check_whole(b, 2, 8, small_two_layers(VampPrior(3, 12, 4))),
        "VAE, MMD, L = 2": lambda b: check_whole(b, 2, 8, regulariser=MMD(5.0)),
        "VAE, BetaTC, importance-weighted": lambda b: check_whole(
            b, 3, 8, regulariser=BetaTC(9, 3.0), bound=ImportanceWeighted()
        ),
        "VAE, Gumbel-softmax, L = 2": lambda b: check_whole(b, 2, 8, posterior=GumbelSoftmax(3), **discrete_networks()),
        "VAE, columns of three kinds with gaps": lambda b: check_whole(
            b, 3, 8, lambda **options: miwae(table_columns(), 2, (4,), **options), table_rows(5)
        ),
        "VAE, implicit posterior, L = 2": lambda b: check_whole(b, 2, **implicit_networks()),
        "VAE, implicit posterior, not adaptive": lambda b: check_whole(b, 1, **implicit_networks(False)),
        "VAE, Gaussian likelihood": lambda b: check_whole(b, 1, likelihood=Gaussian(0.3)),
        "VAE, conditional, L = 2": lambda b: check_whole(b, 2, **conditional_networks()),
        "VAE, convolutional": lambda b: check_whole(b, 2, **conv_networks()),
    }


def run(backend):
    """Check everything on one backend and print the table; returns whether all passed."""
    print(f"{'backward pass':<47} {'checked':>8} {'largest relative error':>24}  verdict")
    passed = True
    for name, check in checks().items():
        result = check(backend)
        passed &= result.passed
        verdict = "ok" if result.passed else f"FAILED at {result.where}"
        print(f"{name:<47} {result.checked:>8} {result.error:>24.1e}  {verdict}")
    return passed
