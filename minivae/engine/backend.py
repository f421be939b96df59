"""Where arrays live and how a step runs: NumPy, threads on the processor's cores, or CuPy on a GPU.

A backend is an explicit object that is handed around. It makes arrays, brings them there and back, and compiles steps;
the mathematics knows nothing of it, since NumPy's functions find their way to the arrays that they meet.
"""

import math
import platform
import sys
import threading
from functools import partial
from importlib.util import find_spec

import numpy as np

from ..errors import MiniVAEError, shown
from .tracing import Untraceable, trace


class Eager:
    """A step that is run as it stands: its function on the arrays themselves, and then the assignments, all at once."""

    def __init__(self, function, arrays):
        self._function, self._arrays = function, arrays

    def __call__(self):
        results = self._function(dict(self._arrays))
        # A new value may be a view of an array that another assignment is about to change.
        values = {name: value.copy() if len(results) > 1 else value for name, value in results.items()}
        for name, value in values.items():
            self._arrays[name][...] = value


class NumpyBackend:
    """Arrays in main memory.

    compiled : whether steps are traced and compiled, or run line by line, for reading and debugging
    """

    name = "numpy"
    _told = ()

    def __init__(self, reason="asked for by name", compiled=True):
        self.reason, self.compiled = reason, compiled
        self._arena = _Arena()

    @property
    def device(self):
        return f"CPU ({platform.machine()})"

    def __deepcopy__(self, memo):
        return self  # the copy of a model runs where the model does

    def __reduce__(self):
        return _unpickled, (self.name, self.reason, self.compiled)

    def empty(self, shape, dtype):
        """A new array that lives as long as a model or a step; its values are undefined."""
        return self._arena.empty(shape, dtype)

    def zeros(self, shape, dtype):
        """A new array of zeros that lives as long as a model."""
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def asarray(self, host, dtype=None):
        """The array on this backend's device, C-contiguous; no copy where none is needed."""
        return np.ascontiguousarray(host, dtype)

    def upload(self, host, *, to):
        """Copy a NumPy array into an array on the device; the host array may be changed afterwards."""
        np.copyto(to, host)

    def to_host(self, array):
        """The array as a NumPy array; on a GPU this waits for the device."""
        return array

    def synchronize(self):
        """Wait until the device has finished."""

    def compile(self, function, arrays, dtype=None):
        """A step: each call of it does the same as

            for name, value in function(arrays).items(): arrays[name][...] = value

        with all new values made before the first is assigned, and much faster.

        function : takes a dict of arrays and returns new values for some of them
        arrays   : the step's arrays by name, which must stay where they are; whatever may change between calls has to
                   be in them, since all else is taken for constant
        dtype    : the model's, above which a step may not compute by accident

        What cannot be traced runs as it stands, after one message that names the line.
        """
        if not self.compiled:
            return Eager(function, arrays)
        try:
            return self._engine(trace(function, arrays, dtype))
        except Untraceable as error:
            self._tell(f"this step runs uncompiled, several times slower: {error}")
            return Eager(function, arrays)

    def _tell(self, message):
        """Say something, once: the steps of a training differ in the batch's size only."""
        if message not in self._told:
            self._told = {*self._told, message}
            print(f"minivae: {message}", file=sys.stderr)

    def _engine(self, list_):
        from .calls import Calls

        return Calls(list_, self)


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


class NumbaBackend(NumpyBackend):
    """Arrays in main memory; a step becomes loops that a thread for each core works through.

    The loops are compiled by LLVM, through the library that comes with Numba (llvmlite).
    """

    name = "numba"

    def __init__(self, reason="asked for by name", compiled=True):
        super().__init__(reason, compiled)
        try:
            if find_spec("numba") is None:
                raise ImportError("numba")
            from . import loops
        except ImportError:
            raise MiniVAEError(
                'backend "numba" needs Numba: pip install "minivae[numba]", or take backend "numpy"'
            ) from None
        self._loops = loops

    def _engine(self, list_):
        try:
            return self._loops.Loops(list_, self)
        except Untraceable as error:
            self._tell(f"this step runs on one core: {error}")
            return super()._engine(list_)


class CupyBackend(NumpyBackend):
    """Arrays on the current GPU; a step becomes a CUDA graph.

    xp       : the array module: cupy, or one that behaves like it
    products : the matrix products, an object with `matmul(a, b, out=)`
    """

    name = "cupy"

    def __init__(self, xp, products, reason="asked for by name", compiled=True):
        self.reason, self.compiled = reason, compiled
        self.xp, self.products = xp, products

    def __reduce__(self):
        return partial(_unpickled, tf32=self.products.tf32), (self.name, self.reason, self.compiled)

    @property
    def device(self):
        xp = self.xp
        properties = xp.cuda.runtime.getDeviceProperties(xp.cuda.runtime.getDevice())
        return f"GPU ({properties['name'].decode()})"

    def empty(self, shape, dtype):
        return self.xp.empty(shape, dtype)

    def asarray(self, host, dtype=None):
        return self.xp.asarray(host, dtype, order="C")

    def upload(self, host, *, to):
        to.set(np.ascontiguousarray(host, to.dtype))

    def to_host(self, array):
        return self.xp.asnumpy(array)

    def synchronize(self):
        self.xp.cuda.Device().synchronize()

    def _engine(self, list_):
        from .kernels import Kernels

        return Kernels(list_, self)


class NoGPU(MiniVAEError):
    """There is no usable GPU; `problem` says why."""

    def __init__(self, problem, fix):
        super().__init__(f'no usable GPU: {problem}. {fix}, or take backend "numpy".')
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
    from . import cublas

    def first_product():
        backend = CupyBackend(cupy, cublas.Products(cupy, cublas.load(), tf32), reason)
        ones = cupy.ones((2, 2), "float32")
        product = ones + ones
        backend.products.matmul(ones, ones, out=product)
        backend.synchronize()
        return backend

    look = "Look at what nvidia-smi says"
    extra = f'Install it: pip install "minivae[cuda{cupy.cuda.runtime.runtimeGetVersion() // 1000}x]"'
    for attempt, problem, fix in (
        (cupy.cuda.runtime.getDeviceCount, "no GPU, or no driver that suits this CuPy", look),
        (cupy.cuda.nvrtc.getVersion, "NVRTC, CUDA's compiler, is missing", extra),
        (cublas.load, "cuBLAS is missing", extra),
        (first_product, "the first product on it failed", look),
    ):
        try:
            result = attempt()
        except Exception as error:  # whatever it is, this GPU cannot be used
            raise NoGPU(f"{problem} ({_last_line(error)})", fix) from error
    return result


def _last_line(error):
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def get_backend(name: str | NumpyBackend = "auto", *, tf32: bool = False) -> NumpyBackend:
    """The backend called "numpy", "numba" or "cupy"; "auto" takes a usable GPU, else Numba, else NumPy, and says so.

    tf32 : let a GPU round the operands of float32 products to TF32: about 3e-4 relative error, and faster

    The result's `.reason` says in a few words why it was chosen. A backend is given back as it is. An explicit "cupy"
    without a usable GPU, or "numba" without Numba, raises MiniVAEError with the reason and the fix; "auto" never does.
    """
    if isinstance(name, NumpyBackend):
        return name
    if not isinstance(name, str) or name not in ("numpy", "numba", "cupy", "auto"):
        raise MiniVAEError(f'unknown backend {shown(name)}: expected "numpy", "numba", "cupy" or "auto"')
    if name == "numpy":
        return NumpyBackend()
    if name == "numba":
        return NumbaBackend()
    if name == "cupy":
        return _gpu_backend(tf32, "asked for by name")
    backend = _best_backend(tf32)
    print(f"minivae: backend {backend.name}: {backend.reason}", file=sys.stderr)
    return backend


def _unpickled(name, reason, compiled, **options):
    """The backend of this process that is like one that was pickled, maybe in another."""
    try:
        backend = get_backend(name, **options)
    except MiniVAEError as error:
        raise MiniVAEError(
            f'what was pickled is on backend "{name}", which this process cannot have: {error} What mv.save wrote can '
            'be loaded on any backend: mv.load(path, backend="numpy")'
        ) from error
    backend.reason, backend.compiled = reason, compiled
    return backend


def _best_backend(tf32):
    try:
        return _gpu_backend(tf32, "a GPU is usable")
    except NoGPU as error:
        problem = f"no usable GPU: {error.problem}"
    try:
        return NumbaBackend(f"{problem}; Numba is installed")
    except MiniVAEError:
        return NumpyBackend(f"{problem}; Numba is not installed")
