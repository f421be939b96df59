"""Windows that sweep over images: the two operations that all convolutions are made of, as their definition says.

An operation goes through the batch in chunks of a few images, for each copies the windows into the rows of a matrix,
the patches, and multiplies it by the kernel. This bounds the memory, and on a processor keeps the patches in the cache:
for 64 channels and a 3x3 kernel the copy then costs an eighth of the product.
"""

import math
from dataclasses import dataclass

import numpy as np

from .tracing import primitive

PATCH_BYTES = 1 << 20  # of patches at a time: what the caches hold


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

    def every_start(self, offset):
        """The slice of a padded source that holds, of each window, the pixel so far from its start."""
        first = self.start + offset
        return slice(first, first + (self.count - 1) * self.step + 1, self.step)


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


@dataclass(frozen=True)
class Windows:
    """The windows over an image that make another one.

    down, across : the sweeps along both axes; each pair of them is a phase
    size         : height and width of the result
    kernel       : K, of the kernel (K, K, C, O)
    """

    down: list
    across: list
    size: tuple
    kernel: int

    def phases(self):
        """The pairs of sweeps that make any pixels."""
        return [(down, across) for down in self.down for across in self.across if down.count and across.count]

    def padding(self, height, width):
        """How many zeros the windows need around an image: (above, below), (left, right)."""
        return _padding(self.down, height), _padding(self.across, width)

    def most_values(self, n_channels):
        """How many values the patches of an image have, in the phase where they have most."""
        return max(d.count * a.count * d.n_taps * a.n_taps for d, a in self.phases()) * n_channels

    def chunks(self, shape, dtype, patch_bytes=PATCH_BYTES):
        """Slices of a batch of images of this shape, as even as can be; they depend on nothing else."""
        B, *_, C = shape
        n = -(-B // max(1, patch_bytes // (self.most_values(C) * np.dtype(dtype).itemsize)))
        ends = [B * i // n for i in range(n + 1)]
        return [slice(start, stop) for start, stop in zip(ends, ends[1:], strict=False)]

    def pad(self, x):
        """Images x (n, H, W, C) with the zeros around them that the windows need."""
        return np.pad(x, ((0, 0), *self.padding(*x.shape[1:3]), (0, 0)))

    def patches(self, padded, phase, size):
        """The windows of one phase, a row each: (n rows columns, taps taps C), from images of this size, padded."""
        (down, across), ((top, _), (left, _)), (n, *_, C) = phase, self.padding(*size), padded.shape
        patches = np.empty_like(padded, shape=(n, down.count, across.count, down.n_taps, across.n_taps, C))
        for u in range(down.n_taps):
            for v in range(across.n_taps):
                rows = down.every_start(top + u)
                columns = across.every_start(left + v)
                patches[:, :, :, u, v] = padded[:, rows, columns]
        return patches.reshape(n * down.count * across.count, -1)


def _padding(sweeps, size):
    """How many zeros the windows of all sweeps need in front of a source of this size, and behind it."""
    last = max(sweep.start + (sweep.count - 1) * sweep.step + sweep.n_taps for sweep in sweeps)
    return max(0, -min(sweep.start for sweep in sweeps)), max(0, last - size)


@primitive(lambda x, kernel, windows: (x.shape[0], *windows.size, kernel.shape[3]))
def correlate(x, kernel, windows):
    """Windows of images times a kernel.

        y[pixel] = sum_t x[window + t] kernel[t]        t runs over the taps of the pixel's phase

    x (B, H, W, C), kernel (K, K, C, O) -> y (B, H', W', O)
    """
    y = np.empty_like(x, order="C", shape=(x.shape[0], *windows.size, kernel.shape[3]))
    for rows in windows.chunks(x.shape, x.dtype):
        padded = windows.pad(x[rows])
        for phase in windows.phases():
            down, across = phase
            part = kernel[down.taps, across.taps].copy()  # a product with another layout is rounded differently
            values = windows.patches(padded, phase, x.shape[1:3]) @ part.reshape(-1, part.shape[3])
            y[rows, down.pixels, across.pixels] = values.reshape(-1, down.count, across.count, part.shape[3])
    return y


@primitive(lambda x, y, windows: (windows.kernel, windows.kernel, x.shape[3], y.shape[3]))
def correlate_weights(x, y, windows):
    """The kernel's gradient of `correlate`, for the gradient y of its value.

        dkernel[t] = sum over pixels of x[window + t]' y[pixel]

    x (B, H, W, C), y (B, H', W', O) -> dkernel (K, K, C, O)
    """
    kernel = np.zeros_like(x, order="C", shape=(windows.kernel, windows.kernel, x.shape[3], y.shape[3]))
    for i, rows in enumerate(windows.chunks(x.shape, x.dtype)):
        padded = windows.pad(x[rows])
        for phase in windows.phases():
            down, across = phase
            pixels = y[rows, down.pixels, across.pixels].copy().reshape(-1, y.shape[3])
            part = kernel[down.taps, across.taps]
            product = windows.patches(padded, phase, x.shape[1:3]).T @ pixels
            part[...] = product.reshape(part.shape) if i == 0 else part + product.reshape(part.shape)
    return kernel


def chunk_steps(plan, group, as_strided, patch_bytes=PATCH_BYTES, images=None, dkernel=None, name=""):
    """The steps of a group of operations on the same windows, for arrays that the plan has ready.

    images  : the first and the end of those to go through, for an engine whose threads have some each; None for all
    dkernel : where the sum of `correlate_weights` over these images goes, if not to its value's array
    name    : tells apart the scratch memory of those who run at the same time

    Yields ("copy", x, out) and ("product", a, b, out, add), which is out = a @ b, or where `add` says so out + a @ b.
    The patches of a chunk are made once for all.
    """
    by_name = {value.function.__name__: value for value in group}
    x, windows = plan.array(group[0].inputs[0]), group[0].settings[0]
    some = slice(*images or (0, len(x)))

    def matrix(part, purpose):
        """A part of an array as a matrix: itself, or where it has gaps scratch memory to copy it from or to."""
        shape = math.prod(part.shape[:-1]), part.shape[-1]
        return part.reshape(shape) if part.flags.c_contiguous else plan.scratch(name, purpose, shape, part.dtype)

    phases, weights = windows.phases(), []
    if "correlate" in by_name:
        kernel, y = plan.array(by_name["correlate"].inputs[1]), plan.array(by_name["correlate"])[some]
        for i, (down, across) in enumerate(phases):
            part = kernel[down.taps, across.taps]
            weights.append(matrix(part, f"kernel {i}"))
            if not part.flags.c_contiguous:
                yield "copy", part, weights[i].reshape(part.shape)
    if "correlate_weights" in by_name:
        dy = plan.array(by_name["correlate_weights"].inputs[1])[some]
        dkernel = plan.array(by_name["correlate_weights"]) if dkernel is None else dkernel
        parts = [dkernel[down.taps, across.taps] for down, across in phases]
        sums = [matrix(part, f"sum {i}") for i, part in enumerate(parts)]
        if len(phases) < len(windows.down) * len(windows.across):  # some of the kernel meets no window
            yield "copy", np.broadcast_to(plan.zeros((1,), x.dtype), dkernel.shape), dkernel
    x = x[some]
    chunks, (_, H, W, C) = windows.chunks(x.shape, x.dtype, patch_bytes), x.shape
    largest = max(rows.stop - rows.start for rows in chunks)
    (top, bottom), (left, right) = windows.padding(H, W)
    padded = x
    if top or bottom or left or right or not x.flags.c_contiguous:
        padded = plan.zeros((largest, top + H + bottom, left + W + right, C), x.dtype)
    patches = plan.scratch(name, "patches", (largest * windows.most_values(C),), x.dtype)
    for rows in chunks:
        large = x[rows]
        if padded is not x:
            large = padded[: rows.stop - rows.start]
            yield "copy", x[rows], large[:, top : top + H, left : left + W]
        for i, (down, across) in enumerate(phases):
            per_image, per_row, per_pixel, _ = large.strides
            seen = as_strided(
                large[:, top + down.start :, left + across.start :],
                (len(large), down.count, across.count, down.n_taps, across.n_taps * C),
                (per_image, per_row * down.step, per_pixel * across.step, per_row, large.itemsize),
            )
            made = patches[: seen.size].reshape(seen.shape)
            yield "copy", seen, made
            made = made.reshape(math.prod(seen.shape[:3]), -1)
            if "correlate" in by_name:
                pixels = y[rows, down.pixels, across.pixels]
                values = matrix(pixels, "values")
                yield "product", made, weights[i], values, False
                if not pixels.flags.c_contiguous:
                    yield "copy", values.reshape(pixels.shape), pixels
            if "correlate_weights" in by_name:
                pixels = dy[rows, down.pixels, across.pixels]
                values = matrix(pixels, "pixels")
                if not pixels.flags.c_contiguous:
                    yield "copy", pixels, values.reshape(pixels.shape)
                yield "product", made.T, values, sums[i], rows.start > 0
    if "correlate_weights" in by_name:
        for part, total in zip(parts, sums, strict=True):
            if not part.flags.c_contiguous:
                yield "copy", total.reshape(part.shape), part
