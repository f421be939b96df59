"""What a model is made of, looked at as it is made: errors that say what to change, warnings of usual mistakes."""

import math
import warnings

import numpy as np

from ..arguments import at_least, one_of
from ..errors import MiniVAEError, MiniVAEWarning, named, rows_of, shown
from .bounds import ELBO
from .conv import Flatten, Reshape
from .layers import Activation, Sequential
from .posteriors import DiagonalGaussian
from .priors import Prior, StandardNormal
from .regularisers import Regulariser

# An activation that does not reach so far on either side, from inputs up to +-20, limits what comes out of a network.
REACH, INPUTS = 4, np.linspace(-20, 20, 401)[None]


def check_dtype(dtype):
    """The dtype as NumPy's."""
    try:
        if dtype is not None and np.dtype(dtype) in (np.float32, np.float64):
            return np.dtype(dtype)
    except Exception:  # whatever NumPy raises for what is no dtype
        pass
    raise MiniVAEError(f'VAE: dtype should be "float32" or "float64", got {shown(dtype)}')


def check_part(name, part, kind, default):
    """The part, which must be an instance of the class `kind`; for None one of the class `default`."""
    part = default() if part is None else part
    if not isinstance(part, kind):
        raise MiniVAEError(f"VAE: {name} should be an instance such as {default.__name__}(), got {named(part)}")
    return part


def check_kl(kl, bound, posterior, prior):
    """Whether the KL is analytic."""
    own = posterior.own_prior(prior.dim)
    is_own = type(prior) is type(own) and vars(prior) == vars(own)
    needs_samples = bound.needs_samples or not posterior.has_analytic_kl or not is_own
    if posterior.trains_otherwise and (needs_samples or kl == "monte-carlo"):
        raise MiniVAEError(
            f"VAE: {type(posterior).__name__} is trained by its closed form of the ELBO, against {own!r}: leave kl, "
            "bound and prior out"
        )
    if posterior.has_own_loss and not isinstance(bound, ELBO):
        raise MiniVAEError(
            f"VAE: {type(posterior).__name__} has a gradient for the ELBO only: under the weights of "
            f"{type(bound).__name__} it would be a wrong one. Leave bound out"
        )
    kl = one_of("VAE: kl", kl, ("analytic", "monte-carlo", None)) or ("monte-carlo" if needs_samples else "analytic")
    if kl == "analytic" and needs_samples:
        raise MiniVAEError(
            f"VAE: {type(bound).__name__} with {type(posterior).__name__} and {type(prior).__name__} has no analytic "
            'KL: leave kl out or use kl="monte-carlo"'
        )
    return kl == "analytic"


def check_prior(prior, posterior, input_dim, latent_dim, n_classes):
    """The prior, for None the posterior's own; raises MiniVAEError where it is none of this model's z."""
    prior = posterior.own_prior(latent_dim) if prior is None else prior
    if not isinstance(prior, Prior):
        raise MiniVAEError(f"VAE: prior should be an instance such as MixturePrior({latent_dim}), got {named(prior)}")
    kind = type(prior).__name__
    if prior.dim != latent_dim:
        raise MiniVAEError(f"VAE: {kind} has dim={prior.dim}, but z has {latent_dim} dimensions: make it with that")
    if prior.n_inputs is None:
        return prior
    if prior.n_inputs != input_dim:
        raise MiniVAEError(
            f"VAE: {kind} has n_inputs={prior.n_inputs}, but the encoder takes {input_dim} values: its pseudo-inputs "
            "are examples, so make it with that"
        )
    if not posterior.begins_with_gaussian:
        raise MiniVAEError(
            f"VAE: {kind} needs the density of q(z given u) at any z, which {type(posterior).__name__} does not give: "
            "use a DiagonalGaussian, or another prior"
        )
    if n_classes:
        raise MiniVAEError(f"VAE: {kind} has pseudo-inputs without labels: use another prior, or leave n_classes out")
    return prior


def check_free_bits(free_bits, analytic, posterior):
    free_bits = at_least("VAE: free_bits", free_bits)
    if free_bits and not (analytic and isinstance(posterior, DiagonalGaussian)):
        raise MiniVAEError("VAE: free_bits needs the analytic KL, of each latent dimension by itself")
    return free_bits


def check_regulariser(regulariser, posterior, prior):
    """The regulariser or None; raises MiniVAEError where it is none for z of this posterior and prior."""
    if regulariser is None:
        return None
    if not isinstance(regulariser, Regulariser):
        raise MiniVAEError(f"VAE: regulariser should be an instance such as MMD(), got {named(regulariser)}")
    if type(prior) is not StandardNormal:
        raise MiniVAEError(
            f"VAE: {type(regulariser).__name__} is made for the standard normal prior, not {type(prior).__name__}: "
            "leave prior out"
        )
    if regulariser.of_gaussians and not isinstance(posterior, DiagonalGaussian):
        raise MiniVAEError(
            f"VAE: {type(regulariser).__name__} needs the density of q(z given x) at any z, which "
            f"{type(posterior).__name__} does not give: use a DiagonalGaussian"
        )
    return regulariser


def check_sizes(encoder, decoder, posterior, likelihood, n_classes):
    """The number of values X of an example, and of latent dimensions D."""
    for name, part in (("encoder", encoder), ("decoder", decoder)):
        if part.input_shape is None:
            raise MiniVAEError(f"VAE: the {name} has no layer that fixes its input size, such as Dense")
    stats_shape = encoder.output_shape(encoder.input_shape)
    if len(stats_shape) != 1:
        raise MiniVAEError(
            f"VAE: the encoder should give (B, 2D), got {rows_of(stats_shape)}: end it with Flatten() and a Dense"
        )
    (stats_dim,) = stats_shape
    latent_dim = posterior.latent_dim(stats_dim)
    if decoder.input_shape != (latent_dim + n_classes,):
        labels = f" and has {n_classes} classes behind it" if n_classes else ""
        raise MiniVAEError(
            f"VAE: the encoder gives (B, {stats_dim}), so z is (B, {latent_dim}){labels}, but the decoder takes "
            f"{rows_of(decoder.input_shape)}: the encoder's last layer should be "
            "twice as wide as the decoder's first" + " without the classes" * bool(n_classes)
        )
    input_dim = encoder.input_shape[0] - n_classes
    if input_dim < 1:
        raise MiniVAEError(
            f"VAE: the encoder takes (B, {input_dim + n_classes}), which leaves no room for x beside {n_classes} "
            "classes: its first layer should be n_classes wider than x"
        )
    wanted = (likelihood.params_dim(input_dim),)
    got = decoder.output_shape(decoder.input_shape)
    if got != wanted:
        raise MiniVAEError(
            f"VAE: {type(likelihood).__name__} of {input_dim} values a row needs a decoder output of "
            f"{rows_of(wanted)}, got {rows_of(got)}"
        )
    return input_dim, latent_dim


def warn_of_limits(encoder, decoder, likelihood):
    """Warn, at the line that makes the model, where an activation limits what must be any number."""
    last, low, high = limits_of(encoder)
    if limits := _in_words(low, high):
        warnings.warn(
            f"VAE: the encoder ends in {last}, so mu and log_var are {limits}: end it with the layer before, such as "
            "Dense",
            MiniVAEWarning,
            stacklevel=3,
        )
    last, low, high = limits_of(decoder)
    if likelihood.from_logits and (limits := _in_words(low, high)):
        warnings.warn(
            f"VAE: the decoder ends in {last}, so the logits are {limits}. {type(likelihood).__name__} makes "
            f"probabilities of any numbers by itself: leave {last} out",
            MiniVAEWarning,
            stacklevel=3,
        )


def limits_of(network):
    """The name of the activation that a network ends in, and the least and the greatest value that it can give."""
    last = _last_layer(network)
    if not isinstance(last, Activation):
        return "", -math.inf, math.inf
    y, _ = last.forward({}, INPUTS)
    low, high = float(y.min()), float(y.max())
    return type(last).__name__, low if low > -REACH else -math.inf, high if high < REACH else math.inf


def _in_words(low, high):
    limits = [f"never below {round(low, 2):g}"] if low > -math.inf else []
    limits += [f"never above {round(high, 2):g}"] if high < math.inf else []
    return " and ".join(limits)


def _last_layer(network):
    """The last layer that does more than change shapes, or None."""
    layers = [layer for layer in network.layers if not isinstance(layer, (Flatten, Reshape))]
    last = layers[-1] if layers else None
    return _last_layer(last) if isinstance(last, Sequential) else last
