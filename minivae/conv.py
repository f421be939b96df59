"""Conv2d, ConvTranspose2d, Reshape and Flatten: pairs of pure functions and thin classes, as in layers.py.

An image is a row of shape (height, width, channels). A convolution maps a large image to a small one; a transposed
convolution is its adjoint and maps a small image to a large one. Along one axis, for kernel size K, stride s and
`before` zeros in front of the large image (W[k] is a matrix: channels of the large by channels of the small image),

    convolution     small[i] = sum_k large[s i + k - before] W[k],                k = 0 .. K - 1
    its adjoint     large[s m + p - before] = sum_t small[m - t] W[p + s t]',     p = 0 .. s - 1

The second line is the first one's transpose, sorted by the *phase* p: each phase is a convolution of stride 1 with
every s-th part of the kernel, in reverse order. So every pass here is made of the same two steps: copy the windows
of the images into the rows of a matrix, the patches, and multiply it by a matrix of weights.

The patches are made for a few images at a time, which bounds the memory, and on a processor keeps them in the cache:
for 64 channels and a 3x3 kernel the copy then costs an eighth of the product.
Source: Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning".
"""

import math
from dataclasses import dataclass

import numpy as np

from .errors import MiniVAEError
from .layers import INITIALISERS, Layer

# ------------------------------------------------------------------------------------------------ the geometry


@dataclass(frozen=True)
class Sweep:
    """Windows along one axis of an image, and the part of the other image that is made from them.

    Window i < count starts at source[start + i step] (zeros lie outside the source) and has n_taps pixels. They
    meet the kernel's parts kernel[taps], and the results are the pixels result[pixels].
    """

    start: int
    step: int
    count: int
    n_taps: int
    taps: slice
    pixels: slice


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution: the sizes of both images, of the kernel, the stride, and the zeros in front."""

    large: int
    small: int
    kernel: int
    stride: int
    before: int

    def convolution(self):
        """The sweep over the large image that makes the small one."""
        return [Sweep(-self.before, self.stride, self.small, self.kernel, slice(None), slice(None))]

    def adjoint(self):
        """The sweeps over the small image, one for each phase, that make the large one."""
        return [self._phase(p) for p in range(self.stride)]

    def _phase(self, p):
        n_taps = -(-(self.kernel - p) // self.stride)
        m = -(-(self.before - p) // self.stride)  # the first whose pixel s m + p - before exists
        first = m * self.stride + p - self.before
        count = max(0, -(-(self.large - first) // self.stride))
        last = p + (n_taps - 1) * self.stride
        taps = slice(last, p - 1 if p else None, -self.stride)
        return Sweep(m - n_taps + 1, 1, count, n_taps, taps, slice(first, None, self.stride))


def _padding(sweeps, size):
    """How many zeros the windows of all sweeps need in front of a source of this size, and behind it."""
    last = max(sweep.start + (sweep.count - 1) * sweep.step + sweep.n_taps for sweep in sweeps)
    return max(0, -min(sweep.start for sweep in sweeps)), max(0, last - size)


class Phase:
    """The work arrays of one pair of sweeps for a chunk of n images.

    windows : a view of the padded images, (n, rows, columns, taps, taps C)
    patches : a copy of it; `matrix` is the same memory as (n rows columns, taps taps C)
    values  : (n, rows, columns, O); `column` is the same memory as (n rows columns, O)
    """

    def __init__(self, xp, buffers, padded, n_out, sweeps, corner):
        down, across = sweeps
        n, channels = len(padded), padded.shape[-1]
        per_image, per_row, per_pixel, per_value = padded.strides
        self.windows = xp.lib.stride_tricks.as_strided(
            padded[:, corner[0] + down.start :, corner[1] + across.start :],
            (n, down.count, across.count, down.n_taps, across.n_taps * channels),
            (per_image, per_row * down.step, per_pixel * across.step, per_row, per_value),
        )
        self.patches = buffers("patches", *self.windows.shape)
        self.matrix = self.patches.reshape(n * down.count * across.count, -1)
        self.values = buffers("values", n, down.count, across.count, n_out)
        self.column = self.values.reshape(-1, n_out)
        self.pixels = down.pixels, across.pixels


class Windows:
    """All that a pass over a batch of images needs beside the images: chunks, phases, and their work arrays.

    axes     : the sweeps down and across, from Axis.convolution() or Axis.adjoint()
    channels : of the source and of the result

    The patches of a chunk take at most `backend.workspace` bytes, or those of a single image.
    """

    def __init__(self, backend, buffers, batch_size, size, axes, channels):
        self.pairs = [(down, across) for down in axes[0] for across in axes[1] if down.count and across.count]
        n_in, n_out = channels
        sizes = [down.n_taps * across.n_taps * n_in for down, across in self.pairs]
        self.weights = [buffers(f"weights {i}", size, n_out) for i, size in enumerate(sizes)]
        self.dweights = [buffers(f"dweights {i}", size, n_out) for i, size in enumerate(sizes)]
        self.more_dweights = [buffers("more dweights", size, n_out) for size in sizes]

        patches = max(d.count * a.count * size for (d, a), size in zip(self.pairs, sizes, strict=True))
        most = max(1, backend.workspace // (patches * buffers.dtype.itemsize))
        n_chunks = -(-batch_size // most)
        ends = [batch_size * i // n_chunks for i in range(n_chunks + 1)]
        self.rows = [slice(start, stop) for start, stop in zip(ends, ends[1:], strict=False)]

        (top, bottom), (left, right) = (_padding(*axis) for axis in zip(axes, size, strict=True))
        height, width = size
        n_largest = -(-batch_size // n_chunks)
        padded = backend.xp.zeros((n_largest, top + height + bottom, left + width + right, n_in), buffers.dtype)
        inside = padded[:, top : top + height, left : left + width]
        self.chunks = {
            n: (inside[:n], [Phase(backend.xp, buffers, padded[:n], n_out, s, (top, left)) for s in self.pairs])
            for n in sorted({rows.stop - rows.start for rows in self.rows}, reverse=True)
        }

    def __iter__(self):
        """(rows of the batch, where to copy them, phases) for each chunk."""
        for rows in self.rows:
            yield rows, *self.chunks[rows.stop - rows.start]

    def kernel_parts(self, kernel):
        """The part of the kernel that each phase uses, as a view."""
        return [kernel[down.taps, across.taps] for down, across in self.pairs]


# ------------------------------------------------------------------------------------------------ the passes


def correlate(backend, x, kernel, b, *, y, windows):
    """Windows of images times a kernel: a convolution, or phase by phase its adjoint.

        y[pixel] = b + sum_t x[window + t] kernel[t]        t runs over the taps of the pixel's phase

    x (B, H, W, C), b (O,); y (B, H', W', O) is overwritten.
    kernel : (K, K, C, O): W for a convolution, W with its last two axes exchanged for the adjoint
    windows: the Windows over x; its work arrays are overwritten
    """
    xp = backend.xp
    for weights, part in zip(windows.weights, windows.kernel_parts(kernel), strict=True):
        xp.copyto(weights.reshape(part.shape), part)
    for rows, inside, phases in windows:
        xp.copyto(inside, x[rows])
        for phase, weights in zip(phases, windows.weights, strict=True):
            xp.copyto(phase.patches, phase.windows)
            backend.matmul(phase.matrix, weights, out=phase.column)
            xp.add(phase.values, b, out=y[(rows, *phase.pixels)])


def correlate_backward(backend, dy, x, kernel, *, dkernel, db, dx=None, windows):
    """The gradients of `correlate`, all from the windows of dy, under the adjoint.

        dx[pixel] = sum_t dy[window + t] kernel[t],   dkernel[t] = sum over pixels of dy[window + t]' x[pixel]
        db = sum of dy

    dy (B, H', W', O), x (B, H, W, C)
    kernel : (K, K, O, C), the forward pass's with its last two axes exchanged
    windows: the Windows over dy, from the other side of the same Axis; its work arrays are overwritten
    dkernel (K, K, O, C), db (O,) and, unless None, dx (B, H, W, C) are overwritten.
    """
    xp = backend.xp
    for weights, part in zip(windows.weights, windows.kernel_parts(kernel), strict=True):
        xp.copyto(weights.reshape(part.shape), part)
    for rows, inside, phases in windows:
        xp.copyto(inside, dy[rows])
        for i, phase in enumerate(phases):
            xp.copyto(phase.patches, phase.windows)
            if dx is not None:
                backend.matmul(phase.matrix, windows.weights[i], out=phase.column)
                xp.copyto(dx[(rows, *phase.pixels)], phase.values)
            xp.copyto(phase.values, x[(rows, *phase.pixels)])
            if rows.start == 0:
                backend.matmul(phase.matrix.T, phase.column, out=windows.dweights[i])
            else:
                backend.matmul(phase.matrix.T, phase.column, out=windows.more_dweights[i])
                xp.add(windows.dweights[i], windows.more_dweights[i], out=windows.dweights[i])
    for dweights, part in zip(windows.dweights, windows.kernel_parts(dkernel), strict=True):
        xp.copyto(part, dweights.reshape(part.shape))
    xp.sum(dy.reshape(-1, dy.shape[-1]), axis=0, out=db)


# ------------------------------------------------------------------------------------------------ the layers


def _swap_channels(kernel):
    """(K, K, I, O) as (K, K, O, I), without a copy."""
    return kernel.transpose(0, 1, 3, 2)


class _Convolution(Layer):
    """What Conv2d and ConvTranspose2d share.

    A subclass has `channels`, the last two axes of W, and `sweeps(size)`, which for one axis of the input gives the
    output's size, the sweeps over the input that make the output, and those over the output for the way back.
    """

    def __init__(self, n_in, n_out, kernel, stride, padding, init):
        for name, value in (("n_in", n_in), ("n_out", n_out), ("kernel", kernel), ("stride", stride)):
            self._check_integer(name, value, 1)
        if padding != "same":
            self._check_integer("padding", padding, 0, ' or "same"')
        if stride > kernel:
            raise MiniVAEError(
                f"{type(self).__name__}: stride {stride} leaves out pixels between windows of {kernel}: use a kernel "
                f"of at least {stride}"
            )
        if init not in INITIALISERS:
            raise MiniVAEError(f"{type(self).__name__}: init must be one of {', '.join(INITIALISERS)}, got {init!r}")
        self.n_in, self.n_out, self.kernel, self.stride = int(n_in), int(n_out), int(kernel), int(stride)
        self.padding, self.init = padding, init
        self.name = f"{n_in}->{n_out}"

    def _check_integer(self, name, value, least, otherwise=""):
        if not isinstance(value, (int, np.integer)) or value < least:
            wanted = f"an integer of at least {least}{otherwise}"
            raise MiniVAEError(f"{type(self).__name__}: {name} must be {wanted}, got {value!r}")

    def shapes(self):
        return {"W": (self.kernel, self.kernel, *self.channels), "b": (self.n_out,)}

    def initial(self, rng):
        fans = self.kernel**2 * self.n_in, self.kernel**2 * self.n_out
        return {"W": INITIALISERS[self.init](rng, *fans, self.shapes()["W"]), "b": np.zeros(self.n_out)}

    def output_shape(self, input_shape):
        if len(input_shape) != 3 or input_shape[2] != self.n_in:
            got = ", ".join(map(str, ("B", *input_shape)))
            raise MiniVAEError(
                f"{type(self).__name__} {self.name!r} expects (B, height, width, {self.n_in}), got ({got}): is a "
                "Reshape((height, width, channels)) missing before it?"
            )
        height, width = (self.sweeps(size)[0] for size in input_shape[:2])
        if height < 1 or width < 1:
            raise MiniVAEError(
                f"{type(self).__name__} {self.name!r}: images of {input_shape[0]} x {input_shape[1]} are too small "
                f"for kernel {self.kernel} with padding {self.padding}"
            )
        return height, width, self.n_out

    def attach(self, name, backend, parameters, gradients):
        super().attach(name, backend, parameters, gradients)
        self._bound = {}

    def _bind(self, shape):
        """The shape of y, the Windows over x and those over dy, for an x of this shape; made once."""
        if shape not in self._bound:
            B, *size, _ = shape
            *y_size, n_out = self.output_shape(shape[1:])
            _, forward, backward = zip(*map(self.sweeps, size), strict=True)
            self._bound[shape] = (
                (B, *y_size, n_out),
                Windows(self.backend, self.buffers, B, size, forward, (self.n_in, n_out)),
                Windows(self.backend, self.buffers, B, y_size, backward, (n_out, self.n_in)),
            )
        return self._bound[shape]

    def _correlate(self, x, kernel):
        y_shape, windows, _ = self._bind(x.shape)
        self.x, y = x, self.buffers("y", *y_shape)
        correlate(self.backend, x, kernel, self.b, y=y, windows=windows)
        return y

    def _correlate_backward(self, dy, kernel, dkernel):
        *_, windows = self._bind(self.x.shape)
        dx = self.buffers("dx", *self.x.shape) if self.needs_dx else None
        correlate_backward(
            self.backend, dy, self.x, kernel, dkernel=dkernel, db=self.db, dx=dx, windows=windows
        )
        return dx


class Conv2d(_Convolution):
    """A convolution (in the sense of deep learning: a cross-correlation) of images.

        y[i, j] = b + sum_uv x[s i + u - top, s j + v - left] W[u, v],   x is 0 outside

    n_in, n_out : channels of x (B, H, W, n_in) and y (B, H', W', n_out)
    kernel      : K, for K x K windows; W is (K, K, n_in, n_out), b (n_out,)
    stride      : s, at most K
    padding     : zeros on each side, H' = (H + 2 padding - K) // s + 1; or "same", H' = ceil(H / s), where the zeros
                  are (H' - 1) s + K - H in all and an odd one goes behind, as in Keras
    init        : "glorot_uniform" or "glorot_normal", for W; b starts at zero
    """

    def __init__(self, n_in, n_out, kernel, stride=1, padding=0, init="glorot_uniform"):
        super().__init__(n_in, n_out, kernel, stride, padding, init)
        self.channels = self.n_in, self.n_out

    def sweeps(self, size):
        if self.padding == "same":
            small = -(-size // self.stride)
            before = max(0, (small - 1) * self.stride + self.kernel - size) // 2
        else:
            small, before = (size + 2 * self.padding - self.kernel) // self.stride + 1, self.padding
        axis = Axis(size, small, self.kernel, self.stride, before)
        return small, axis.convolution(), axis.adjoint()

    def forward(self, x):
        return self._correlate(x, self.W)

    def backward(self, dy):
        return self._correlate_backward(dy, _swap_channels(self.W), _swap_channels(self.dW))


class ConvTranspose2d(_Convolution):
    """A transposed convolution: the adjoint of the Conv2d from n_out to n_in channels with the same W, plus b.

        y[s i + u - top, s j + v - left] += x[i, j] W[u, v]'   for all i, j, u, v, from y = b

    n_in, n_out    : channels of x (B, H, W, n_in) and y (B, H', W', n_out)
    kernel         : K, for K x K windows; W is (K, K, n_out, n_in), b (n_out,)
    stride         : s, at most K
    padding        : rows cut off on each side, H' = (H - 1) s + K - 2 padding + output_padding; or "same", H' = H s
    output_padding : more rows below and columns on the right, less than s: which of the s sizes that a Conv2d would
                     map to H is wanted
    init           : "glorot_uniform" or "glorot_normal", for W; b starts at zero
    """

    def __init__(self, n_in, n_out, kernel, stride=1, padding=0, output_padding=0, init="glorot_uniform"):
        super().__init__(n_in, n_out, kernel, stride, padding, init)
        self._check_integer("output_padding", output_padding, 0)
        if output_padding >= stride or (output_padding and padding == "same"):
            raise MiniVAEError(
                f"ConvTranspose2d: output_padding should be less than the stride, {stride}, and 0 with "
                f'padding="same", got {output_padding}'
            )
        self.output_padding = int(output_padding)
        self.channels = self.n_out, self.n_in

    def sweeps(self, size):
        if self.padding == "same":
            large, before = size * self.stride, (self.kernel - self.stride) // 2
        else:
            large = (size - 1) * self.stride + self.kernel - 2 * self.padding + self.output_padding
            before = self.padding
        axis = Axis(large, size, self.kernel, self.stride, before)
        return large, axis.adjoint(), axis.convolution()

    def forward(self, x):
        return self._correlate(x, _swap_channels(self.W))

    def backward(self, dy):
        return self._correlate_backward(dy, self.W, self.dW)


# ------------------------------------------------------------------------------------------- Reshape, Flatten


class Reshape(Layer):
    """Rows (B, X) as (B, *shape), without a copy: Reshape((28, 28, 1)) makes images of one channel."""

    def __init__(self, shape):
        sizes = tuple(shape) if isinstance(shape, (tuple, list)) else ()
        if not sizes or not all(isinstance(size, (int, np.integer)) and size > 0 for size in sizes):
            raise MiniVAEError(f"Reshape: shape must be a tuple of positive integers, got {shape!r}")
        self.shape = tuple(map(int, sizes))
        self.input_shape = (math.prod(self.shape),)

    def output_shape(self, input_shape):
        if math.prod(input_shape) != math.prod(self.shape):
            got, made = (", ".join(map(str, ("B", *sizes))) for sizes in (input_shape, self.shape))
            raise MiniVAEError(f"Reshape cannot make ({made}) of ({got})")
        return self.shape

    def forward(self, x):
        if x.shape[1:] != self.input_shape:
            self.output_shape(x.shape[1:])
        self.x_shape = x.shape
        return x.reshape(len(x), *self.shape)

    def backward(self, dy):
        return dy.reshape(self.x_shape)


class Flatten(Layer):
    """Rows of any shape as (B, X), without a copy."""

    def output_shape(self, input_shape):
        return (math.prod(input_shape),)

    def forward(self, x):
        self.x_shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy):
        return dy.reshape(self.x_shape)
