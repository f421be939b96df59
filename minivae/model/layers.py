"""Dense, ReLU, Sigmoid, Tanh and Sequential: for each a function that holds the mathematics, and a thin class.

A function takes arrays and returns its value and its backward pass, a function from the gradient of the loss by the
value to those by the arguments. `dy` is d loss / d y and has the shape of y; written as a fraction, dy/dx is the
derivative of y by x.

    y, backward = dense(x, W, b)
    dx, dW, db = backward(dy)

The classes say what the parameters are called and check shapes:

    y, backward = layer.forward(params, x)
    dx, grads = backward(dy)                  params and grads map names such as "W" to arrays
"""

import math
from collections.abc import Sequence

import numpy as np

from ..arguments import integer, one_of
from ..errors import MiniVAEError, named, rows_of
from .parameters import Composite, Part, joined, within

# ------------------------------------------------------------------------------------------------------ Dense


def dense(x, W, b):
    """An affine map of each row.

        y = x W + b

    x (B, I), W (I, O), b (O,) -> y (B, O)

    y_bo = sum_i x_bi W_io + b_o, so  dx = dy W.T,  dW = x.T dy,  db = sum_b dy_b.
    """

    def backward(dy):
        return dy @ W.T, x.T @ dy, np.sum(dy, axis=0)  # dx, dW, db

    return x @ W + b, backward


# ------------------------------------------------------------------------------------------------ activations


def relu(x):
    """y = max(x, 0).

    dy/dx is 1 where y > 0, else 0; the kink at 0 has derivative 0.  Source: Nair & Hinton 2010.
    """
    y = np.maximum(x, 0)
    return y, lambda dy: dy * (y > 0)


def sigmoid(x):
    """The logistic function 1 / (1 + exp(-x)), written so that nothing overflows.

    y = 1/2 + 1/2 tanh(x / 2),   dy/dx = y (1 - y)
    """
    y = 0.5 + 0.5 * np.tanh(0.5 * x)
    return y, lambda dy: dy * (y * (1 - y))


def tanh(x):
    """y = tanh(x),   dy/dx = 1 - y^2."""
    y = np.tanh(x)
    return y, lambda dy: dy * (1 - y**2)


# ------------------------------------------------------------------------------------------------- initial values


def glorot_uniform(rng, fan_in, fan_out, shape):
    """Values uniform in +-sqrt(6 / (fan_in + fan_out)), of variance 2 / (fan_in + fan_out).

    Between 1 / fan_in, with which y = x W has the variance of x, and 1 / fan_out, with which dx has that of dy.
    Source: Glorot & Bengio 2010, equation 16.
    """
    limit = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape)


def glorot_normal(rng, fan_in, fan_out, shape):
    """Normal values of the same variance as those of `glorot_uniform`. Source: Glorot & Bengio 2010, equation 12."""
    return rng.normal(0.0, math.sqrt(2 / (fan_in + fan_out)), shape)


def he_normal(rng, fan_in, fan_out, shape):
    """Normal values of variance 2 / fan_in, for ReLUs, which let half through. Source: He et al. 2015, equation 10."""
    return rng.normal(0.0, math.sqrt(2 / fan_in), shape)


INITIALISERS = {"glorot_uniform": glorot_uniform, "glorot_normal": glorot_normal, "he_normal": he_normal}


# ------------------------------------------------------------------------------------------------- the classes


class Layer(Part):
    """A differentiable function of rows: x (B, ...) -> y (B, ...).

    A layer of your own needs `forward(params, x) -> y, backward` with `backward(dy) -> dx, grads`; with parameters
    also `shapes` and `initial`, and where rows change their shape `output_shape`.
    """

    input_shape: tuple[int, ...] | None = None  # the shape of one input row where the layer fixes it, such as (784,)
    fills_nan = False  # whether it makes numbers of NaN

    def output_shape(self, input_shape):
        """The shape of one output row for input rows of this shape; raises MiniVAEError where they don't fit."""
        return input_shape

    def uniform_shapes(self, input_shape):
        """The shapes, for one row, of numbers that each step of a training draws anew, uniform in [0, 1), by name.

        `forward` finds them among its params in training, and only there.
        """
        return {}

    def forward(self, params, x):
        """y (B, ...), and the backward pass: dy -> dx and the gradients of `params` by name."""
        raise NotImplementedError


class Dense(Layer):
    """y = x W + b with parameters W (n_in, n_out) and b (n_out,); see `dense`.

    init : "glorot_uniform", "glorot_normal" or "he_normal", for W; b starts at zero.
    """

    def __init__(self, n_in: int, n_out: int, init: str = "glorot_uniform") -> None:
        kind = type(self).__name__
        self.n_in, self.n_out = integer(f"{kind}: n_in", n_in), integer(f"{kind}: n_out", n_out)
        self.init = one_of(f"{kind}: init", init, INITIALISERS)
        self.input_shape = (self.n_in,)

    def shapes(self):
        return {"W": (self.n_in, self.n_out), "b": (self.n_out,)}

    def initial(self, rng):
        fans = self.n_in, self.n_out
        return {"W": INITIALISERS[self.init](rng, *fans, fans), "b": np.zeros(self.n_out)}

    def output_shape(self, input_shape):
        if tuple(input_shape) != self.input_shape:
            kind, is_stats = type(self).__name__, input_shape == (2 * self.n_in,)
            hint = ": did you pass the statistics (mu, log_var) instead of z?" if is_stats else ""
            raise MiniVAEError(
                f"{kind}({self.n_in}, {self.n_out}) expects (B, {self.n_in}), got {rows_of(input_shape)}{hint}"
            )
        return (self.n_out,)

    def forward(self, params, x):
        self.output_shape(x.shape[1:])
        y, dense_backward = dense(x, params["W"], params["b"])

        def backward(dy):
            dx, dW, db = dense_backward(dy)
            return dx, {"W": dW, "b": db}

        return y, backward


class Activation(Layer):
    """A function of each value by itself, without parameters."""

    def function(self, x):
        raise NotImplementedError

    def forward(self, params, x):
        y, activation_backward = self.function(x)
        return y, lambda dy: (activation_backward(dy), {})


class ReLU(Activation):
    """max(x, 0); see `relu`."""

    function = staticmethod(relu)


class Sigmoid(Activation):
    """1 / (1 + exp(-x)); see `sigmoid`. A Bernoulli likelihood works from logits: don't end its decoder with this."""

    function = staticmethod(sigmoid)


class Tanh(Activation):
    """The hyperbolic tangent; see `tanh`."""

    function = staticmethod(tanh)


class Sequential(Composite, Layer):
    """Layers one after another; the parameters of layer i are called "i.W", "i.b".

    The chain rule in one loop: backward goes through the layers from the last to the first, and hands each the dx of
    the one behind it as its dy.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        if isinstance(layers, Layer):  # one by itself
            layers = layers.layers if type(layers) is Sequential else [layers]
        try:
            self.layers = list(layers)
        except Exception as error:  # whatever an object that is no list raises
            raise MiniVAEError(f"Sequential: expected a list of layers, got {named(layers)}") from error
        if not self.layers:
            raise MiniVAEError("Sequential: expected at least one layer, got an empty list")
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise MiniVAEError(f"Sequential: layer {i} should be a layer such as Dense, got {named(layer)}")
        self.input_shape = next((layer.input_shape for layer in self.layers if layer.input_shape), None)
        self.fills_nan = self.layers[0].fills_nan  # behind a layer that doesn't, a row with a gap is all NaN

    def parts(self):
        return {str(i): layer for i, layer in enumerate(self.layers)}

    def output_shape(self, input_shape):
        for layer in self.layers:
            input_shape = layer.output_shape(input_shape)
        return input_shape

    def uniform_shapes(self, input_shape):
        shapes = {}
        for name, layer in self.parts().items():
            shapes[name] = layer.uniform_shapes(input_shape)
            input_shape = layer.output_shape(input_shape)
        return joined(shapes)

    def forward(self, params, x):
        backward_passes = {}
        for name, layer in self.parts().items():
            x, backward_passes[name] = layer.forward(within(params, name), x)

        def backward(dx):
            grads = {}
            for name, layer_backward in reversed(backward_passes.items()):
                dx, grads[name] = layer_backward(dx)
            return dx, joined(grads)

        return x, backward
