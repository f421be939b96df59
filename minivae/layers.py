"""Dense, ReLU, Sigmoid, Tanh and Sequential: for each a pair of pure functions and a thin class.

The functions hold the mathematics. They write to the arrays given by keyword and keep nothing. The classes own
the buffers, remember what the backward pass needs, and check shapes.

    forward(x) -> y       y belongs to the layer until its next forward
    backward(dy) -> dx    after forward; writes the layer's gradients; None when nobody needs dx
"""

import math

import numpy as np

from .errors import MiniVAEError
from .parameters import Composite, Module


class Layer(Module):
    """A differentiable function of rows: x (B, ...) -> y (B, ...)."""

    input_shape = None  # the shape of one input row where the layer fixes it, such as (784,)
    needs_dx = True

    def output_shape(self, input_shape):
        """The shape of one output row for input rows of this shape; raises MiniVAEError where they don't fit."""
        return input_shape


# ------------------------------------------------------------------------------------------------------ Dense


def dense(backend, x, W, b, *, y):
    """An affine map of each row.

        y = x W + b

    x (B, I), W (I, O), b (O,); y (B, O) is overwritten.
    """
    backend.matmul(x, W, out=y)
    backend.xp.add(y, b, out=y)


def dense_backward(backend, dy, x, W, *, dW, db, dx=None):
    """The gradients of `dense`.

        dW = x' dy,  db = sum_b dy,  dx = dy W'

    dy (B, O); dW (I, O), db (O,) and, unless None, dx (B, I) are overwritten.
    """
    backend.matmul(x.T, dy, out=dW)
    backend.xp.sum(dy, axis=0, out=db)
    if dx is not None:
        backend.matmul(dy, W.T, out=dx)


def glorot_uniform(rng, fan_in, fan_out, shape):
    """Values uniform in +-sqrt(6 / (fan_in + fan_out)). Source: Glorot & Bengio 2010, equation 16."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape)


def glorot_normal(rng, fan_in, fan_out, shape):
    """Normal values of variance 2 / (fan_in + fan_out). Source: Glorot & Bengio 2010, equation 12."""
    return rng.normal(0.0, math.sqrt(2 / (fan_in + fan_out)), shape)


INITIALISERS = {"glorot_uniform": glorot_uniform, "glorot_normal": glorot_normal}


class Dense(Layer):
    """y = x W + b with parameters W (n_in, n_out) and b (n_out,).

    init : "glorot_uniform" or "glorot_normal", for W; b starts at zero.
    """

    def __init__(self, n_in, n_out, init="glorot_uniform"):
        for name, size in (("n_in", n_in), ("n_out", n_out)):
            if not isinstance(size, (int, np.integer)) or size < 1:
                raise MiniVAEError(f"Dense: {name} must be a positive integer, got {size!r}")
        if init not in INITIALISERS:
            raise MiniVAEError(f"Dense: init must be one of {', '.join(INITIALISERS)}, got {init!r}")
        self.n_in, self.n_out, self.init = int(n_in), int(n_out), init
        self.input_shape = (self.n_in,)
        self.name = f"{n_in}->{n_out}"

    def shapes(self):
        return {"W": (self.n_in, self.n_out), "b": (self.n_out,)}

    def initial(self, rng):
        fans = self.n_in, self.n_out
        return {"W": INITIALISERS[self.init](rng, *fans, fans), "b": np.zeros(self.n_out)}

    def output_shape(self, input_shape):
        if tuple(input_shape) != self.input_shape:
            got = ", ".join(map(str, ("B", *input_shape)))
            hint = ""
            if input_shape == (2 * self.n_in,):
                hint = ": did you pass the statistics (mu, log_var) instead of z?"
            raise MiniVAEError(f"Dense {self.name!r} expects (B, {self.n_in}), got ({got}){hint}")
        return (self.n_out,)

    def forward(self, x):
        if x.shape[1:] != self.input_shape:
            self.output_shape(x.shape[1:])
        self.x = x
        y = self.buffers("y", len(x), self.n_out)
        dense(self.backend, x, self.W, self.b, y=y)
        return y

    def backward(self, dy):
        dx = self.buffers("dx", len(dy), self.n_in) if self.needs_dx else None
        dense_backward(self.backend, dy, self.x, self.W, dW=self.dW, db=self.db, dx=dx)
        return dx


# ------------------------------------------------------------------------------------------------ Activations


def relu(xp, x, *, mask, y):
    """y = max(x, 0), as x times the mask x > 0, which the backward pass needs too.

    mask (bool) and y have the shape of x and are overwritten.
    """
    xp.greater(x, 0, out=mask)
    xp.multiply(x, mask, out=y)


def relu_backward(xp, dy, mask, *, dx):
    """dx = dy where x > 0, else 0. The kink at 0 has derivative 0; dx is overwritten."""
    xp.multiply(dy, mask, out=dx)


def sigmoid(xp, x, *, y):
    """The logistic function 1 / (1 + exp(-x)), written so that nothing overflows.

    y = 1/2 + 1/2 tanh(x / 2)
    """
    xp.multiply(x, 0.5, out=y)
    xp.tanh(y, out=y)
    xp.multiply(y, 0.5, out=y)
    xp.add(y, 0.5, out=y)


def sigmoid_backward(xp, dy, y, *, dx):
    """dx = dy * y (1 - y); dx is overwritten."""
    xp.subtract(1, y, out=dx)
    xp.multiply(dx, y, out=dx)
    xp.multiply(dx, dy, out=dx)


def tanh(xp, x, *, y):
    """y = tanh(x); y is overwritten."""
    xp.tanh(x, out=y)


def tanh_backward(xp, dy, y, *, dx):
    """dx = dy * (1 - y^2); dx is overwritten."""
    xp.multiply(y, y, out=dx)
    xp.subtract(1, dx, out=dx)
    xp.multiply(dx, dy, out=dx)


class ReLU(Layer):
    """max(x, 0). Source: Nair & Hinton 2010."""

    def forward(self, x):
        y, self.mask = self.buffers("y", *x.shape), self.buffers("mask", *x.shape, dtype=bool)
        self.fuse(relu)(self.xp, x, mask=self.mask, y=y)
        return y

    def backward(self, dy):
        dx = self.buffers("dx", *dy.shape)
        self.fuse(relu_backward)(self.xp, dy, self.mask, dx=dx)
        return dx


class Sigmoid(Layer):
    """1 / (1 + exp(-x)). A Bernoulli likelihood works from logits: don't end its decoder with this."""

    def forward(self, x):
        self.y = self.buffers("y", *x.shape)
        self.fuse(sigmoid)(self.xp, x, y=self.y)
        return self.y

    def backward(self, dy):
        dx = self.buffers("dx", *dy.shape)
        self.fuse(sigmoid_backward)(self.xp, dy, self.y, dx=dx)
        return dx


class Tanh(Layer):
    """The hyperbolic tangent."""

    def forward(self, x):
        self.y = self.buffers("y", *x.shape)
        self.fuse(tanh)(self.xp, x, y=self.y)
        return self.y

    def backward(self, dy):
        dx = self.buffers("dx", *dy.shape)
        self.fuse(tanh_backward)(self.xp, dy, self.y, dx=dx)
        return dx


# ------------------------------------------------------------------------------------------------- Sequential


class Sequential(Composite, Layer):
    """Layers one after another; the parameters of layer i are called "i.W", "i.b".

    needs_dx : False when nobody reads the gradient of the input; backward then stops at the first layer that
               has parameters, and returns None.
    """

    def __init__(self, layers, needs_dx=True):
        self.layers = list(layers)
        if not self.layers:
            raise MiniVAEError("Sequential: expected at least one layer, got an empty list")
        for i, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise MiniVAEError(f"Sequential: layer {i} should be a layer such as Dense, got {layer!r}")
            if any(layer is other for other in self.layers[:i]):
                raise MiniVAEError(f"Sequential: layer {i} stands twice in the list; make two layers instead")
        self.needs_dx = needs_dx
        self.input_shape = next((layer.input_shape for layer in self.layers if layer.input_shape), None)

    def parts(self):
        return {str(i): layer for i, layer in enumerate(self.layers)}

    def output_shape(self, input_shape):
        for layer in self.layers:
            input_shape = layer.output_shape(input_shape)
        return input_shape

    def attach(self, name, backend, parameters, gradients):
        needs_dx = self.needs_dx
        for layer in self.layers:
            layer.needs_dx = needs_dx
            needs_dx = needs_dx or bool(layer.shapes())
        super().attach(name, backend, parameters, gradients)

    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy):
        for layer in reversed(self.layers):
            if not (layer.needs_dx or layer.shapes()):
                return None
            dy = layer.backward(dy)
        return dy
