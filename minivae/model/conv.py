"""Conv2d, ConvTranspose2d, Reshape and Flatten: functions and thin classes, as in layers.py.

An image is a row of shape (height, width, channels). A convolution maps a large image to a small one; a transposed
convolution is its adjoint and maps a small image to a large one. Along one axis, for kernel size K, stride s and
`before` zeros in front of the large image (W[k] is a matrix: channels of the large by channels of the small image),

    convolution     small[i] = sum_k large[s i + k - before] W[k],                k = 0 .. K - 1
    its adjoint     large[s m + p - before] = sum_t small[m - t] W[p + s t].T,    p = 0 .. s - 1

The second line is the first one's transpose, sorted by the *phase* p: each phase is a convolution of stride 1 with
every s-th part of the kernel, in reverse order. So every pass here is made of two operations, which sweep windows over
an image (`correlate`) or sum over all of them (`correlate_weights`).
Source: Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning".
"""

import math
from collections.abc import Sequence

import numpy as np

from ..arguments import integer, is_integer, one_of
from ..engine.convolution import Axis, Windows, correlate, correlate_weights
from ..errors import MiniVAEError, rows_of, shown
from .layers import INITIALISERS, Layer


def convolution(x, kernel, b, there, back):
    """Windows of images times a kernel, plus a bias.

        y[pixel] = b + sum_t x[window + t] kernel[t]        t runs over the taps of the pixel's window

    x (B, H, W, C);  kernel (K, K, C, O);  b (O,) -> y (B, H', W', O)
    there : the windows over x that make y;  back : those over y that make x, from the other side of the same axes

    y is linear in x and in the kernel. Each pixel of x met the windows whose adjoint are those of `back`, so
        dx[pixel] = sum_t dy[window + t] kernel[t].T,   dkernel[t] = sum over pixels of x[pixel].T dy[window + t]
        db = sum of dy.
    """
    swapped = kernel.transpose(0, 1, 3, 2)

    def backward(dy):
        dkernel = correlate_weights(dy, x, back).transpose(0, 1, 3, 2)
        return correlate(dy, swapped, back), dkernel, np.sum(dy, axis=(0, 1, 2))  # dx, dkernel, db

    return correlate(x, kernel, there) + b, backward


# ------------------------------------------------------------------------------------------------ the layers


class _Convolution(Layer):
    """What Conv2d and ConvTranspose2d share.

    A subclass has `sweeps(size)`, which for one axis of the input gives the output's size, the sweeps over the input
    that make the output, and those over the output for the way back; and says whether it is `transposed`.
    """

    transposed = False  # whether the last two axes of W are (n_out, n_in)

    def __init__(
        self, n_in: int, n_out: int, kernel: int, stride: int = 1, padding: int | str = 0, init: str = "glorot_uniform"
    ) -> None:
        name = type(self).__name__
        self.n_in, self.n_out = integer(f"{name}: n_in", n_in), integer(f"{name}: n_out", n_out)
        self.kernel, self.stride = integer(f"{name}: kernel", kernel), integer(f"{name}: stride", stride)
        same = isinstance(padding, str) and padding == "same"
        if not same and not (is_integer(padding) and int(padding) >= 0):
            raise MiniVAEError(f'{name}: padding should be an integer of at least 0 or "same", got {shown(padding)}')
        if stride > kernel:
            raise MiniVAEError(
                f"{name}: stride {stride} leaves out pixels between windows of {kernel}: use a kernel of at least "
                f"{stride}"
            )
        self.padding = "same" if same else int(padding)
        self.init = one_of(f"{name}: init", init, INITIALISERS)

    def shapes(self):
        channels = (self.n_out, self.n_in) if self.transposed else (self.n_in, self.n_out)
        return {"W": (self.kernel, self.kernel, *channels), "b": (self.n_out,)}

    def initial(self, rng):
        fans = self.kernel**2 * self.n_in, self.kernel**2 * self.n_out
        return {"W": INITIALISERS[self.init](rng, *fans, self.shapes()["W"]), "b": np.zeros(self.n_out)}

    def output_shape(self, input_shape):
        if len(input_shape) != 3 or input_shape[2] != self.n_in:
            raise MiniVAEError(
                f"{type(self).__name__}({self.n_in}, {self.n_out}) expects (B, height, width, {self.n_in}), "
                f"got {rows_of(input_shape)}: is a Reshape((height, width, channels)) missing before it?"
            )
        height, width = (self.sweeps(size)[0] for size in input_shape[:2])
        if height < 1 or width < 1:
            raise MiniVAEError(
                f"{type(self).__name__}({self.n_in}, {self.n_out}): images of {input_shape[0]} x {input_shape[1]} are "
                f"too small for kernel {self.kernel} with padding {self.padding}"
            )
        return height, width, self.n_out

    def forward(self, params, x):
        self.output_shape(x.shape[1:])
        sizes, there, back = zip(*map(self.sweeps, x.shape[1:3]), strict=True)
        kernel = params["W"].transpose(0, 1, 3, 2) if self.transposed else params["W"]
        there, back = Windows(*there, sizes, self.kernel), Windows(*back, x.shape[1:3], self.kernel)
        y, convolution_backward = convolution(x, kernel, params["b"], there, back)

        def backward(dy):
            dx, dkernel, db = convolution_backward(dy)
            return dx, {"W": dkernel.transpose(0, 1, 3, 2) if self.transposed else dkernel, "b": db}

        return y, backward


class Conv2d(_Convolution):
    """A convolution (in the sense of deep learning: a cross-correlation) of images.

        y[i, j] = b + sum_uv x[s i + u - top, s j + v - left] W[u, v],   x is 0 outside

    n_in, n_out : channels of x (B, H, W, n_in) and y (B, H', W', n_out)
    kernel      : K, for K x K windows; W is (K, K, n_in, n_out), b (n_out,)
    stride      : s, at most K
    padding     : zeros on each side, H' = (H + 2 padding - K) // s + 1; or "same", H' = ceil(H / s), where the zeros
                  are (H' - 1) s + K - H in all and an odd one goes behind, as in Keras
    init        : as for `Dense`, for W; b starts at zero
    """

    def sweeps(self, size):
        if self.padding == "same":
            small = -(-size // self.stride)
            before = max(0, (small - 1) * self.stride + self.kernel - size) // 2
        else:
            small, before = (size + 2 * self.padding - self.kernel) // self.stride + 1, self.padding
        axis = Axis(size, small, self.kernel, self.stride, before)
        return small, axis.convolution(), axis.adjoint()


class ConvTranspose2d(_Convolution):
    """A transposed convolution: the adjoint of the Conv2d from n_out to n_in channels with the same W, plus b.

        y[s i + u - top, s j + v - left] += x[i, j] W[u, v].T   for all i, j, u, v, from y = b

    n_in, n_out    : channels of x (B, H, W, n_in) and y (B, H', W', n_out)
    kernel         : K, for K x K windows; W is (K, K, n_out, n_in), b (n_out,)
    stride         : s, at most K
    padding        : rows cut off on each side, H' = (H - 1) s + K - 2 padding + output_padding; or "same", H' = H s
    output_padding : more rows below and columns on the right, less than s: which of the s sizes that a Conv2d would
                     map to H is wanted
    init           : as for `Dense`, for W; b starts at zero
    """

    transposed = True

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        stride: int = 1,
        padding: int | str = 0,
        output_padding: int = 0,
        init: str = "glorot_uniform",
    ) -> None:
        super().__init__(n_in, n_out, kernel, stride, padding, init)
        output_padding = integer("ConvTranspose2d: output_padding", output_padding, 0)
        if output_padding >= stride or (output_padding and padding == "same"):
            raise MiniVAEError(
                f"ConvTranspose2d: output_padding should be less than the stride, {stride}, and 0 with "
                f'padding="same", got {output_padding}'
            )
        self.output_padding = output_padding

    def sweeps(self, size):
        if self.padding == "same":
            large, before = size * self.stride, (self.kernel - self.stride) // 2
        else:
            large = (size - 1) * self.stride + self.kernel - 2 * self.padding + self.output_padding
            before = self.padding
        axis = Axis(large, size, self.kernel, self.stride, before)
        return large, axis.adjoint(), axis.convolution()


# ------------------------------------------------------------------------------------------- Reshape, Flatten


class Reshape(Layer):
    """Rows (B, X) as (B, *shape), without a copy: Reshape((28, 28, 1)) makes images of one channel."""

    def __init__(self, shape: Sequence[int]) -> None:
        sizes = tuple(shape) if isinstance(shape, (tuple, list)) else ()
        if not sizes or not all(is_integer(size) and size > 0 for size in sizes):
            raise MiniVAEError(f"Reshape: shape should be a tuple of integers of at least 1, got {shown(shape)}")
        self.shape = tuple(map(int, sizes))
        self.input_shape = (math.prod(self.shape),)

    def output_shape(self, input_shape):
        if math.prod(input_shape) != math.prod(self.shape):
            raise MiniVAEError(f"Reshape cannot make {rows_of(self.shape)} of {rows_of(input_shape)}")
        return self.shape

    def forward(self, params, x):
        self.output_shape(x.shape[1:])
        return x.reshape(len(x), *self.shape), lambda dy: (dy.reshape(x.shape), {})


class Flatten(Layer):
    """Rows of any shape as (B, X), without a copy."""

    def output_shape(self, input_shape):
        return (math.prod(input_shape),)

    def forward(self, params, x):
        return x.reshape(len(x), -1), lambda dy: (dy.reshape(x.shape), {})
