"""Where arrays live: NumPy on the processor, or CuPy on a GPU.

A backend is an explicit object that is handed around. Its `xp` is the array module (numpy or cupy), and the
rest of the package is written once against `xp`. Only what truly differs between the two is a method here.
"""

import contextlib
import math
import platform
import threading

import numpy as np

from .errors import MiniVAEError


def generator(*key):
    """A NumPy generator for one purpose, keyed by integers such as (seed, purpose, epoch).

    Both backends draw every random number here, on the host, so they see the same numbers; the same key gives
    the same numbers whatever was drawn before; and NumPy's global random state is never touched.
    """
    return np.random.default_rng(key)


class NumpyBackend:
    """Arrays in main memory."""

    name = "numpy"
    xp = np
    workspace = 4 << 20  # bytes of work arrays that are best used a piece at a time: what the caches hold

    def __init__(self, reason="asked for by name"):
        self.reason = reason
        self._arena = _Arena()

    @property
    def device(self):
        return f"CPU ({platform.machine()})"

    def empty(self, shape, dtype):
        """A new array for work or weights that lives as long as the model; its values are undefined."""
        return self._arena.empty(shape, dtype)

    def asarray(self, host, dtype=None):
        """The array on this backend's device, C-contiguous; no copy where none is needed."""
        return np.ascontiguousarray(host, dtype)

    def upload(self, host, *, out):
        """Copy a NumPy array into an array on the device; the host array may be changed afterwards."""
        np.copyto(out, host)

    def to_host(self, array):
        """The array as a NumPy array; on a GPU this waits for the device."""
        return array

    def matmul(self, a, b, *, out):
        """out = a @ b for matrices or transposes of matrices; `out` is overwritten and overlaps neither."""
        np.matmul(a, b, out=out)

    def gather(self, rows, index, *, out):
        """out[i] = rows[index[i]]; every index must be in range, which is the caller's promise."""
        np.take(rows, index, axis=0, out=out, mode="clip")  # "clip" is three times as fast as "raise"

    def fuse(self, function):
        """A function that does what `function(xp, ...)` does, as one pass over the arrays where that can be.

        Throughout the package, functions that take `xp` first hold elementwise operations only and can be fused;
        those that take `backend` first hold sums and products too.
        """
        return function

    def pieces(self, n):
        """Slices that together cover n values, for several passes over one piece before the next.

        Pieces of 512 KB lie in the cache from the second pass on: Adam on 3.9 million values takes 6.6 ms, not 7.9.
        """
        size = 1 << 17
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def graph(self, step, parts=()):
        """A function that does what `step()` does, as one launch where the device can (a CUDA graph).

        `step` must read everything that changes between calls from arrays, allocate nothing, copy nothing to
        or from the host, and return None. `parts` are the objects whose methods it calls.
        """
        return step

    def synchronize(self):
        """Wait until the device has finished."""


class _Arena:
    """Arrays that lie one after another in large blocks of memory, each on a cache line's start.

    Elementwise passes are a tenth faster than on arrays from np.empty, which start 16 bytes into a line, and blocks of
    4 MB or more get huge pages, where the kernel grants them: up to 6% more.
    """

    BLOCK, LINE = 8 << 20, 64

    def __init__(self):
        self._block, self._start, self._lock = np.empty(0, np.uint8), 0, threading.Lock()

    def empty(self, shape, dtype):
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with self._lock:
            if self._start + size > self._block.size:
                self._block = np.empty(max(size, self.BLOCK) + self.LINE, np.uint8)
                self._start = -self._block.ctypes.data % self.LINE
            start, self._start = self._start, self._start + -(-size // self.LINE) * self.LINE
            return self._block[start : start + size].view(dtype).reshape(shape)


class _Names:
    """NumPy, but in a thread that is recording a step a Recorder's stand-ins for it."""

    def __init__(self, recording):
        self.__dict__["_recording"] = recording

    def __getattr__(self, name):
        recorder = self._recording.recorder
        return getattr(np, name) if recorder is None else recorder.xp[name]


class _Recording(threading.local):
    """The Recorder that the present thread records a step with, or None."""

    recorder = None


class NumbaBackend(NumpyBackend):
    """Arrays in main memory; a training step becomes a list of loops that a thread for each core works off."""

    name = "numba"

    def __init__(self, reason="asked for by name"):
        super().__init__(reason)
        try:
            from . import program
        except ImportError:
            raise MiniVAEError(
                'backend "numba" needs Numba: pip install "minivae[numba]", or take backend "numpy"'
            ) from None
        self._program, self.not_recordable = program, program.NotRecordable
        self._recording = _Recording()
        self.xp = _Names(self._recording)

    def matmul(self, a, b, *, out):
        (self._recording.recorder or super()).matmul(a, b, out=out)

    def gather(self, rows, index, *, out):
        (self._recording.recorder or super()).gather(rows, index, out=out)

    def fuse(self, function):
        return (self._recording.recorder or super()).fuse(function)

    def pieces(self, n):
        return [slice(0, n)]

    def graph(self, step, parts=()):
        """A function that does what `step()` does, as a list of loops recorded at the first call.

        A step with something that cannot be recorded is run as it is, and so is one with parts from elsewhere: of this
        package's own it is known that they do all their work through `xp` and the methods here.
        """
        ours = all(type(part).__module__.startswith(f"{__package__}.") for part in parts)
        return _Recorded(self, step) if ours else step

    def record(self, step):
        """The Program that does what `step()` does; recording runs nothing. Raises NotRecordable."""
        recorder = self._recording.recorder = self._program.Recorder()
        try:
            step()
            return self._program.Program(recorder)
        finally:
            self._recording.recorder = None


class CupyBackend:
    """Arrays on the current GPU.

    xp       : the array module: cupy, or one that behaves like it
    products : the matrix products, an object with `matmul(a, b, out=)`
    """

    name = "cupy"
    workspace = 64 << 20  # as for NumPy, but large: few launches matter more than caches

    def __init__(self, xp, products, reason="asked for by name"):
        self.xp = xp
        self.reason = reason
        self._products = products
        self._fused = {}

    @property
    def device(self):
        xp = self.xp
        properties = xp.cuda.runtime.getDeviceProperties(xp.cuda.runtime.getDevice())
        return f"GPU ({properties['name'].decode()})"

    def empty(self, shape, dtype):
        """A new array for work or weights; its values are undefined."""
        return self.xp.empty(shape, dtype)

    def asarray(self, host, dtype=None):
        """The array on this backend's device, C-contiguous; no copy where none is needed."""
        return self.xp.asarray(host, dtype, order="C")

    def upload(self, host, *, out):
        """Copy a NumPy array into an array on the device; the host array may be changed afterwards."""
        out.set(np.ascontiguousarray(host, out.dtype))

    def to_host(self, array):
        """The array as a NumPy array; on a GPU this waits for the device."""
        return self.xp.asnumpy(array)

    def matmul(self, a, b, *, out):
        """out = a @ b for matrices or transposes of matrices; `out` is overwritten and overlaps neither."""
        self._products.matmul(a, b, out=out)

    def gather(self, rows, index, *, out):
        """out[i] = rows[index[i]]; every index must be in range, which is the caller's promise."""
        self.xp.take(rows, index, axis=0, out=out)

    def pieces(self, n):
        """One slice that covers n values: a fused function makes a single pass."""
        return [slice(0, n)]

    def fuse(self, function):
        """A function that does what `function(xp, ...)` does, as one kernel: elementwise operations only.

        `function` takes arrays and numbers, no tuples of them, and returns nothing. Arrays may be broadcast, but what
        is written has the full shape. It is compiled once, however often it is asked for.
        """
        if function not in self._fused:
            self._fused[function] = _Fused(self.xp, function)
        return self._fused[function]

    def graph(self, step, parts=()):
        """A function that does what `step()` does, as one launch where the device can (a CUDA graph).

        `step` must read everything that changes between calls from arrays, allocate nothing, copy nothing to
        or from the host, and return None. Every call does the work of one step. The first two run `step`
        itself, which compiles its kernels; the third records it and launches the recording; later ones only
        launch. `step` must use `backend.matmul`, not `xp.matmul`, and its arrays must stay alive.
        """
        return _Captured(self.xp, step)

    def synchronize(self):
        """Wait until the device has finished."""
        self.xp.cuda.Device().synchronize()


class _Fused:
    """A chain of elementwise operations as one kernel, for each set of arguments that are no arrays."""

    def __init__(self, xp, function):
        self._xp, self._function, self._kernels = xp, function, {}

    def __call__(self, xp, *operands, **named):
        arrays = {name: value for name, value in named.items() if hasattr(value, "dtype")}
        constants = {name: value for name, value in named.items() if name not in arrays}
        key = (*arrays, *constants.items())
        if key not in self._kernels:
            self._kernels[key] = self._kernel(len(operands), tuple(arrays), constants)
        self._kernels[key](*operands, *arrays.values())

    def _kernel(self, n_operands, names, constants):
        def body(*values):  # CuPy fuses functions of positional arguments only
            named = dict(zip(names, values[n_operands:], strict=True))
            self._function(self._xp, *values[:n_operands], **named, **constants)

        return self._xp.fuse(body)


class _Captured:
    """A step that becomes a CUDA graph when it is called for the third time."""

    WARM_UP = 2

    def __init__(self, xp, step):
        self.xp = xp
        self._step = step
        self._calls = 0
        self._graph = None

    def __call__(self):
        if self._graph is None:
            if self._calls < self.WARM_UP:
                self._calls += 1
                self._step()
                return
            self._graph = self._capture()
        self._graph.launch()

    def _capture(self):
        """The recorded step; recording runs nothing."""
        xp = self.xp
        # What CuPy itself allocates on the way (for a sum, say) belongs to the graph for as long as it lives.
        self._memory = xp.cuda.MemoryPool()
        stream = xp.cuda.Stream(non_blocking=True)
        with xp.cuda.using_allocator(self._memory.malloc), stream:
            stream.begin_capture()
            try:
                self._step()
            except BaseException:
                with contextlib.suppress(Exception):  # the first error says more than "capture invalidated"
                    stream.end_capture()
                raise
            return stream.end_capture()


class _Recorded:
    """A step that becomes a program when it is first called."""

    def __init__(self, backend, step):
        self._backend, self._step, self._launch = backend, step, None

    def __call__(self):
        if self._launch is None:
            try:
                self._launch = self._backend.record(self._step)
            except self._backend.not_recordable:
                self._launch = self._step
        self._launch()


class NoGPU(MiniVAEError):
    """There is no usable GPU; `problem` says why."""

    def __init__(self, problem, mend):
        super().__init__(f'no usable GPU: {problem}. {mend}, or take backend "numpy".')
        self.problem = problem


def _import_cupy():
    try:
        import cupy
    except Exception as error:  # besides ImportError, whatever a broken installation raises
        extra = 'Install it: pip install "minivae[cuda12x]" (or cuda13x, for a driver of CUDA 13)'
        if isinstance(error, ImportError) and error.name == "cupy":
            raise NoGPU("CuPy is not installed", extra) from None
        raise NoGPU(f"CuPy cannot be imported ({_last_line(error)})", extra) from error
    return cupy


def _gpu_backend(tf32, reason):
    """A CupyBackend that has multiplied two matrices; raises NoGPU where something is missing."""
    cupy = _import_cupy()
    from . import _cublas

    def first_product():
        backend = CupyBackend(cupy, _cublas.Products(cupy, _cublas.load(), tf32), reason)
        ones = cupy.ones((2, 2), "float32")
        product = ones + ones
        backend.matmul(ones, ones, out=product)
        backend.synchronize()
        return backend

    look = "Look at what nvidia-smi says"
    extra = f'Install it: pip install "minivae[cuda{cupy.cuda.runtime.runtimeGetVersion() // 1000}x]"'
    for attempt, problem, mend in (
        (cupy.cuda.runtime.getDeviceCount, "no GPU, or no driver that suits this CuPy", look),
        (cupy.cuda.nvrtc.getVersion, "NVRTC, CUDA's compiler, is missing", extra),
        (_cublas.load, "cuBLAS is missing", extra),
        (first_product, "the first product on it failed", look),
    ):
        try:
            result = attempt()
        except Exception as error:  # whatever it is, this GPU cannot be used
            raise NoGPU(f"{problem} ({_last_line(error)})", mend) from error
    return result


def _last_line(error):
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def get_backend(name="auto", *, tf32=False):
    """The backend called "numpy", "numba" or "cupy"; "auto" takes a usable GPU, else NumPy.

    tf32 : let a GPU round the operands of float32 products to TF32: about 3e-4 relative error, and faster

    The result's `.reason` says in a few words why it was chosen. A backend is given back as it is. An
    explicit "cupy" without a usable GPU raises MiniVAEError with the reason and the mend; "auto" never does.
    """
    if isinstance(name, (NumpyBackend, CupyBackend)):
        return name
    if not isinstance(name, str) or name not in ("numpy", "numba", "cupy", "auto"):
        raise MiniVAEError(f'unknown backend {name!r}: expected "numpy", "numba", "cupy" or "auto"')
    if name == "numpy":
        return NumpyBackend()
    if name == "numba":
        return NumbaBackend()
    if name == "cupy":
        return _gpu_backend(tf32, "asked for by name")
    try:
        return _gpu_backend(tf32, "a GPU is usable")
    except NoGPU as error:
        return NumpyBackend(reason=f"no usable GPU: {error.problem}")
