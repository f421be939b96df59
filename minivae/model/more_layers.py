"""More activations, layer normalization and dropout: functions and thin classes in the style of `layers`."""

import math

import numpy as np

from ..arguments import at_least, integer, positive
from ..errors import MiniVAEError, rows_of
from .layers import Activation, Layer

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
CUBIC = 0.044715  # of GELU's approximation


def leaky_relu(x, slope=0.01):
    """y = x where x > 0, else slope x.

    dy/dx is 1 where x > 0, else slope.  Source: Maas, Hannun & Ng 2013.
    """
    return np.where(x > 0, x, slope * x), lambda dy: np.where(x > 0, dy, slope * dy)


def elu(x, alpha=1.0):
    """y = x where x > 0, else alpha (exp(x) - 1).

    dy/dx is 1 where x > 0, else alpha exp(x) = y + alpha.  Source: Clevert, Unterthiner & Hochreiter 2016.
    """
    y = np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))  # exp of a large x, which is not taken, would overflow
    return y, lambda dy: np.where(x > 0, dy, dy * (y + alpha))


def softplus(x):
    """y = log(1 + exp(x)), a smooth max(x, 0);   dy/dx = 1 / (1 + exp(-x)).  Source: Dugas et al. 2001."""
    return np.logaddexp(x, 0), lambda dy: dy * (0.5 + 0.5 * np.tanh(0.5 * x))


def gelu(x):
    """x times about the probability that a standard normal number is below x.

        y = x/2 (1 + t),   t = tanh(u),   u = sqrt(2 / pi) (x + 0.044715 x^3)

    dy/dx = 1/2 (1 + t) + x/2 (1 - t^2) du/dx,   du/dx = sqrt(2 / pi) (1 + 3 * 0.044715 x^2).
    Source: Hendrycks & Gimpel 2016, the approximation by tanh.
    """
    t = np.tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x**2))

    def backward(dy):
        du = SQRT_2_OVER_PI * (1 + 3 * CUBIC * x**2)
        return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * du)

    return 0.5 * x * (1 + t), backward


def layer_norm(x, gain, bias, eps):
    """The last axis of x brought to mean 0 and variance 1, and then scaled and shifted.

        y = gain n + bias,   n = (x - m) / s,   s = sqrt(mean((x - m)^2) + eps),   m = mean(x)

    x (..., C), gain (C,), bias (C,) -> y (..., C)

    With dn = gain dy:  dx = (dn - mean(dn) - n mean(n dn)) / s, since both m and s depend on every x of a row;
    dgain = sum n dy and dbias = sum dy over all rows.   Source: Ba, Kiros & Hinton 2016, section 3.
    """
    centred = x - np.mean(x, axis=-1, keepdims=True)
    s = np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + eps)
    n = centred / s

    def backward(dy):
        dn, rows = dy * gain, tuple(range(dy.ndim - 1))
        dx = (dn - np.mean(dn, axis=-1, keepdims=True) - n * np.mean(n * dn, axis=-1, keepdims=True)) / s
        return dx, np.sum(n * dy, axis=rows), np.sum(dy, axis=rows)  # dx, dgain, dbias

    return gain * n + bias, backward


def dropout(x, u, rate):
    """Each value of x is dropped with probability `rate`; the others grow, so that the mean stays.

        y = x / (1 - rate) where u >= rate, else 0

    x, u (B, ...), u uniform in [0, 1) -> y (B, ...);   dy/dx = 1 / (1 - rate) where u >= rate, else 0.
    Source: Srivastava et al. 2014.
    """
    scale = 1 / (1 - rate)
    return np.where(u >= rate, x * scale, 0), lambda dy: np.where(u >= rate, dy * scale, 0)


class LeakyReLU(Activation):
    """max(x, slope x); see `leaky_relu`."""

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = at_least("LeakyReLU: slope", slope, below=1)

    def function(self, x):
        return leaky_relu(x, self.slope)


class ELU(Activation):
    """x, or alpha (exp(x) - 1) below 0; see `elu`."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = positive("ELU: alpha", alpha)

    def function(self, x):
        return elu(x, self.alpha)


class Softplus(Activation):
    """log(1 + exp(x)); see `softplus`."""

    function = staticmethod(softplus)


class GELU(Activation):
    """x P(N(0, 1) < x), nearly; see `gelu`. PyTorch's is the same with GELU(approximate="tanh")."""

    function = staticmethod(gelu)


class LayerNorm(Layer):
    """Normalizes the n values of each row, or the n channels of each pixel; see `layer_norm`.

    Parameters gain (n,), which starts at 1, and bias (n,), at 0.
    """

    def __init__(self, n: int, eps: float = 1e-5) -> None:
        self.n, self.eps = integer("LayerNorm: n", n), positive("LayerNorm: eps", eps)

    def shapes(self):
        return {"gain": (self.n,), "bias": (self.n,)}

    def initial(self, rng):
        return {"gain": np.ones(self.n), "bias": np.zeros(self.n)}

    def output_shape(self, input_shape):
        if input_shape[-1] != self.n:
            raise MiniVAEError(f"LayerNorm({self.n}) expects (B, ..., {self.n}), got {rows_of(input_shape)}")
        return input_shape

    def forward(self, params, x):
        self.output_shape(x.shape[1:])
        y, norm_backward = layer_norm(x, params["gain"], params["bias"], self.eps)

        def backward(dy):
            dx, dgain, dbias = norm_backward(dy)
            return dx, {"gain": dgain, "bias": dbias}

        return y, backward


class Dropout(Layer):
    """Drops values at random in the steps of `fit`, and changes nothing anywhere else; see `dropout`.

    It has its place in the encoder and the decoder; networks of a posterior or a prior refuse it.
    """

    def __init__(self, rate: float = 0.5) -> None:
        self.rate = at_least("Dropout: rate", rate, below=1)

    def uniform_shapes(self, input_shape):
        return {"u": input_shape}

    def forward(self, params, x):
        if "u" not in params:
            return x, lambda dy: (dy, {})
        y, dropout_backward = dropout(x, params["u"], self.rate)
        return y, lambda dy: (dropout_backward(dy), {})
