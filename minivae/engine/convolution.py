"""Windows that sweep over images: the two operations that all convolutions are made of, as their definition says.

An operation goes through the batch in chunks of a few images, for each copies the windows into the rows of a matrix,
the patches, and multiplies it by the kernel. This bounds the memory, and on a processor keeps the patches in the cache:
for 64 channels and a 3x3 kernel the copy then costs an eighth of the product.
"""

import math
from dataclasses import dataclass
from functools import partial

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

    def unused(self):
        """The pairs of sweeps that make no pixels; no window meets their parts of the kernel."""
        return [(down, across) for down in self.down for across in self.across if not (down.count and across.count)]

    def padding(self, height, width):
        """How many zeros the windows need around an image: (above, below), (left, right)."""
        return _padding(self.down, height), _padding(self.across, width)

    def chunks(self, shape, dtype, patch_bytes=PATCH_BYTES):
        """Slices of a batch of images of this shape, as even as can be; they depend on nothing else."""
        B, *_, C = shape
        values = max(d.count * a.count * d.n_taps * a.n_taps for d, a in self.phases()) * C
        n = -(-B // max(1, patch_bytes // (values * np.dtype(dtype).itemsize)))
        ends = [B * i // n for i in range(n + 1)]
        return [slice(start, stop) for start, stop in zip(ends, ends[1:], strict=False)]

    def pad(self, x):
        """Images x (n, H, W, C) with the zeros around them that the windows need."""
        n, H, W, C = x.shape
        (top, bottom), (left, right) = self.padding(H, W)
        padded = np.zeros_like(x, shape=(n, top + H + bottom, left + W + right, C))
        padded[:, top : top + H, left : left + W] = x
        return padded

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

    Yields ("copy", x, out), ("matmul", a, b, out) and ("accumulate", a, b, scratch, out), which is scratch = a @ b and
    out = out + scratch. The patches of a chunk are made once for all.
    """
    by_name = {value.function.__name__: value for value in group}
    x, windows = plan.array(group[0].inputs[0]), group[0].settings[0]
    first, last = images or (0, len(x))
    scratch, products = partial(plan.scratch, name), []
    if "correlate" in by_name:
        value = by_name["correlate"]
        products.append(Product(scratch, plan.array(value.inputs[1]), plan.array(value)[first:last]))
    if "correlate_weights" in by_name:
        value = by_name["correlate_weights"]
        dkernel = plan.array(value) if dkernel is None else dkernel
        products.append(WeightProduct(scratch, dkernel, plan.array(value.inputs[1])[first:last]))
        for down, across in windows.unused():
            part = dkernel[down.taps, across.taps]
            yield "copy", as_strided(plan.zeros((1,), x.dtype), part.shape, (0,) * part.ndim), part
    x = x[first:last]
    chunks, phases = windows.chunks(x.shape, x.dtype, patch_bytes), windows.phases()
    largest, (_, H, W, C) = max(rows.stop - rows.start for rows in chunks), x.shape
    (top, bottom), (left, right) = windows.padding(H, W)
    padded = x
    if top or bottom or left or right or not x.flags.c_contiguous:
        padded = plan.zeros((largest, top + H + bottom, left + W + right, C), x.dtype)
    sizes = [down.count * across.count * down.n_taps * across.n_taps * C for down, across in phases]
    patches = scratch("patches", (largest * max(sizes),), x.dtype)
    for product in products:
        yield from product.begin(phases)
    for rows in chunks:
        n = rows.stop - rows.start
        if padded is x:
            large = x[rows]
        else:
            large = padded[:n]
            yield "copy", x[rows], large[:, top : top + H, left : left + W]
        for i, (down, across) in enumerate(phases):
            per_image, per_row, per_pixel, _ = large.strides
            seen = as_strided(
                large[:, top + down.start :, left + across.start :],
                (n, down.count, across.count, down.n_taps, across.n_taps * C),
                (per_image, per_row * down.step, per_pixel * across.step, per_row, large.itemsize),
            )
            made = patches[: n * sizes[i]].reshape(seen.shape)
            yield "copy", seen, made
            matrix = made.reshape(n * down.count * across.count, -1)
            for product in products:
                yield from product.chunk(i, (down, across), rows, matrix)
    for product in products:
        yield from product.end(phases)


class Product:
    """`correlate`: the patches times the kernel."""

    def __init__(self, scratch, kernel, y):
        self.scratch, self.kernel, self.y, self.weights = scratch, kernel, y, []

    def begin(self, phases):
        for i, (down, across) in enumerate(phases):
            part = self.kernel[down.taps, across.taps]
            matrix = part.reshape(-1, part.shape[3]) if part.flags.c_contiguous else None
            if matrix is None:
                matrix = self.scratch(f"kernel {i}", (math.prod(part.shape[:3]), part.shape[3]), part.dtype)
                yield "copy", part, matrix.reshape(part.shape)
            self.weights.append(matrix)

    def chunk(self, i, phase, rows, patches):
        pixels = self.y[rows, phase[0].pixels, phase[1].pixels]
        if pixels.flags.c_contiguous:
            yield "matmul", patches, self.weights[i], pixels.reshape(len(patches), -1)
        else:
            values = self.scratch("values", (len(patches), pixels.shape[3]), pixels.dtype)
            yield "matmul", patches, self.weights[i], values
            yield "copy", values.reshape(pixels.shape), pixels

    def end(self, phases):
        return ()


class WeightProduct:
    """`correlate_weights`: the transposed patches times the pixels, summed over the chunks."""

    def __init__(self, scratch, kernel, y):
        self.scratch, self.kernel, self.y, self.sums = scratch, kernel, y, []

    def begin(self, phases):
        for i, (down, across) in enumerate(phases):
            part = self.kernel[down.taps, across.taps]
            shape = math.prod(part.shape[:3]), part.shape[3]
            whole = part.flags.c_contiguous
            self.sums.append(part.reshape(shape) if whole else self.scratch(f"sum {i}", shape, part.dtype))
        return ()

    def chunk(self, i, phase, rows, patches):
        pixels, total = self.y[rows, phase[0].pixels, phase[1].pixels], self.sums[i]
        if not pixels.flags.c_contiguous:
            column = self.scratch("pixels", pixels.shape, pixels.dtype)
            yield "copy", pixels, column
            pixels = column
        pixels = pixels.reshape(len(patches), -1)
        if rows.start == 0:
            yield "matmul", patches.T, pixels, total
        else:
            product = self.scratch("product", total.shape, total.dtype)
            yield "accumulate", patches.T, pixels, product, total

    def end(self, phases):
        for (down, across), total in zip(phases, self.sums, strict=True):
            part = self.kernel[down.taps, across.taps]
            if not part.flags.c_contiguous:
                yield "copy", total.reshape(part.shape), part
