"""Usual models in one line: `mlp` and `convnet` work out all sizes."""

from collections.abc import Sequence
from typing import Any

from ..arguments import integer, integers
from ..errors import MiniVAEError, shown
from .checks import check_part
from .conv import Conv2d, ConvTranspose2d, Flatten, Reshape
from .labels import Labels
from .layers import Dense, Layer, ReLU
from .likelihoods import Bernoulli, Likelihood, PredictedVarianceGaussian
from .posteriors import DiagonalGaussian, Posterior
from .vae import VAE


def mlp(
    n_in: int, latent: int = 2, hidden: Sequence[int] = (256,), activation: type[Layer] = ReLU, **options: Any
) -> VAE:
    """A VAE of dense layers: n_in - hidden - latent - hidden backwards - n_in.

    hidden     : the widths of the encoder's hidden layers; the decoder has them in reverse order
    activation : the class of the layers between them, such as ReLU
    options    : of `VAE`, such as likelihood, n_classes, backend and seed
    """
    n_in, latent = integer("mlp: n_in", n_in), integer("mlp: latent", latent)
    hidden = integers("mlp: hidden", hidden)
    check_activation("mlp", activation)
    classes = Labels(options.get("n_classes")).n_classes
    likelihood, posterior = _parts(options)
    encoder = dense_layers(n_in + classes, *hidden, _n_stats(posterior, latent), activation=activation)
    decoder = dense_layers(latent + classes, *reversed(hidden), likelihood.params_dim(n_in), activation=activation)
    return VAE(encoder, decoder, **options | {"likelihood": likelihood, "posterior": posterior})


def convnet(
    image_shape: Sequence[int],
    latent: int = 2,
    channels: Sequence[int] = (32, 64),
    hidden: int = 128,
    activation: type[Layer] = ReLU,
    **options: Any,
) -> VAE:
    """A convolutional VAE for images of any size, (height, width) or (height, width, colours).

    channels : of the encoder's 3 x 3 convolutions, each of which halves the image, rounding up; where just one of
               height and width is odd, it keeps the size. The decoder is the mirror image, of transposed convolutions
    hidden   : the width of the dense layer between the convolutions and the latent space

    The others are as for `mlp`. A model with n_classes, whose labels are no pixels, or with a
    PredictedVarianceGaussian has to be put together by hand.
    """
    image_shape = integers("convnet: image_shape", image_shape)
    if len(image_shape) not in (2, 3):
        raise MiniVAEError(
            f"convnet: image_shape should be (height, width) or (height, width, colours), got {shown(image_shape)}"
        )
    height, width, colours = (*image_shape, 1)[:3]
    latent, hidden = integer("convnet: latent", latent), integer("convnet: hidden", hidden)
    channels = integers("convnet: channels", channels)
    check_activation("convnet", activation)
    likelihood, posterior = _parts(options)
    cure = "use mlp, or put the layers together with VAE"
    refuse("convnet", options, n_classes=cure)
    if isinstance(likelihood, PredictedVarianceGaussian):
        raise MiniVAEError(f"convnet does not know a PredictedVarianceGaussian: {cure}")
    encoder: list[Layer] = [Reshape((height, width, colours))]
    decoder: list[Layer] = [Flatten()]
    n_before, n_out = colours, likelihood.params_dim(height * width * colours) // (height * width)
    for n in channels:
        stride = 2 if height % 2 == width % 2 else 1
        encoder += [Conv2d(n_before, n, 3, stride, padding="same"), activation()]
        # From n pixels a transposed convolution makes 2 n - 1 of them, or one more.
        extra = stride - 1 if height % 2 == 0 else 0
        decoder = [ConvTranspose2d(n, n_out, 3, stride, padding=1, output_padding=extra), *decoder]
        decoder = [activation(), *decoder]
        height, width = -(-height // stride), -(-width // stride)
        n_before = n_out = n
    n_values = height * width * n_before
    encoder += [Flatten(), *dense_layers(n_values, hidden, _n_stats(posterior, latent), activation=activation)]
    into = [*dense_layers(latent, hidden, n_values, activation=activation), Reshape((height, width, n_before))]
    return VAE(encoder, [*into, *decoder], **options | {"likelihood": likelihood, "posterior": posterior})


def dense_layers(*widths, activation, init="glorot_uniform"):
    """Dense layers from each width to the next, with an activation between them."""
    layers = []
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        layers += [Dense(n_in, n_out, init), activation()]
    return layers[:-1]


def refuse(name, options, **cures):
    """Raise MiniVAEError where one of these options of `VAE`, which the function `name` makes no use of, is given."""
    for option, cure in cures.items():
        if options.get(option) is not None:
            raise MiniVAEError(f"{name} does not know {option}: {cure}")


def chosen_likelihood(options):
    """The likelihood among the options of `VAE`, or the one that it takes by default."""
    return check_part("likelihood", options.get("likelihood"), Likelihood, Bernoulli)


def _parts(options):
    posterior = check_part("posterior", options.get("posterior"), Posterior, DiagonalGaussian)
    return chosen_likelihood(options), posterior


def _n_stats(posterior, latent):
    """How many numbers the encoder gives."""
    reason = ""
    for n in range(latent, 20 * latent + 1000):
        try:
            if posterior.latent_dim(n) == latent:
                return n
        except MiniVAEError as error:
            reason = reason or f": {error}"
    raise MiniVAEError(f"{type(posterior).__name__} does not fit {latent} latent dimensions{reason}")


def check_activation(name, activation):
    try:
        made = activation()
    except Exception as error:  # whatever what is no class of layers raises
        raise MiniVAEError(
            f"{name}: activation should be the class of a layer, such as ReLU, got {shown(activation)}: {error}"
        ) from error
    if not isinstance(made, Layer):
        raise MiniVAEError(f"{name}: activation should be the class of a layer, such as ReLU, got {shown(activation)}")
