"""A training step recorded as a list of loops, which a few threads work off without Python.

The counterpart of a CUDA graph on a processor, made by `NumbaBackend.graph`. A `Recorder` stands in for NumPy while the
step runs once: it computes nothing and notes each operation as an instruction, the C function behind it and the
addresses of its arrays. A `Program` then runs the list as often as wanted. Each thread has its share of the rows of
every array that is long enough, calls BLAS on one thread for its part of a matrix product, and waits for the others
after each instruction. Most loops are NumPy's own, so the values are the same but for the rounding of products
and of the fused functions in `_numba.py`.

What it saves, by benchmarks/RESULTS.md: the interpreter's time between operations, and the handing over between the
threads of BLAS and the one thread that does all the rest.
"""

import _thread
import contextlib
import ctypes
import functools
import inspect
import math
import os
import sys
import weakref
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from scipy.linalg import cython_blas
from threadpoolctl import ThreadpoolController

from . import _numba

LEAST_VALUES = 4096  # an operation on fewer is left to the first thread
LEAST_PRODUCTS = 1 << 16  # likewise a matrix product of fewer multiplications
BLAS_TAKES_INT = " int *" in str(cython_blas.__pyx_capi__["sgemm"])  # not integers of 64 bits


class NotRecordable(Exception):
    """A step does something that no instruction stands for."""


def _refuse(name, *args, **kwargs):
    raise NotRecordable(name)


def _require(condition, name):
    if not condition:
        raise NotRecordable(f"{name} of arrays whose shapes or dtypes no loop takes, or which overlap")


class Access(NamedTuple):
    """What an instruction does to one array: each thread has its share of an axis, or all of it where that is None."""

    array: np.ndarray
    axis: int | None
    writes: bool


class _Ufunc(ctypes.Structure):
    """The beginning of NumPy's PyUFuncObject, as its C API documents it."""

    _fields_ = [
        ("head", ctypes.c_char * object.__basicsize__),
        ("counts", ctypes.c_int * 4),
        ("functions", ctypes.POINTER(ctypes.c_void_p)),
        ("data", ctypes.POINTER(ctypes.c_void_p)),
    ]


def ufunc_loop(ufunc, dtypes):
    """The addresses of the loop of a ufunc for these dtypes of its operands, and of the loop's data."""
    table = _Ufunc.from_address(id(ufunc))
    if table.counts[:3] != [ufunc.nin, ufunc.nout, ufunc.nargs]:
        raise NotRecordable(f"{ufunc.__name__}, whose structure in this NumPy is another than the one known here")
    for i, signature in enumerate(ufunc.types):
        if [np.dtype(char) for char in signature.replace("->", "")] == list(dtypes):
            return table.functions[i], table.data[i] or 0
    raise NotRecordable(f"{ufunc.__name__} of {', '.join(map(str, dtypes))}")


def common_axes(operands):
    """The shape of operands broadcast together and the strides of each along it, with as few axes as possible."""
    arrays = np.broadcast_arrays(*operands)
    shape, strides = [], []
    for n, *step in zip(arrays[0].shape, *(array.strides for array in arrays), strict=True):
        if n == 1:
            continue
        if shape and all(outer == inner * n for outer, inner in zip(strides[-1], step, strict=True)):
            shape[-1], strides[-1] = shape[-1] * n, step
        else:
            shape.append(n)
            strides.append(step)
    if not shape:
        return [1], [[array.itemsize for array in arrays]]
    return shape, strides


class Recorder:
    """Notes what a step does, for so many threads; `xp`, `matmul`, `gather` and `fuse` stand in for a backend's."""

    # What makes arrays or looks at them; a step with any other function that is no operation below is not recordable.
    HARMLESS = "empty zeros ones full empty_like zeros_like ones_like full_like dtype ndarray float32 float64"

    def __init__(self):
        self.n_workers = min(_blas.n_threads, _numba.MAX_WORKERS)
        self.instructions, self.accesses, self.kept = [], [], []  # accesses: of each instruction, in order
        self._owned = {}  # address of rows that a product wrote -> where each thread's share of the values begins
        self.xp = {name: self._stand_in(name, value) for name, value in vars(np).items()}
        self.xp |= {"sum": self._reduction(np.add, 0), "max": self._reduction(np.maximum, -math.inf)}
        self.xp |= {"copyto": self.copyto}

    # --------------------------------------------------------------------------------------- operations

    def _stand_in(self, name, value):
        """What a step finds in NumPy's place under a name."""
        if isinstance(value, np.ufunc):
            return self._ufunc(value)
        if callable(value) and name not in self.HARMLESS.split():
            return functools.partial(_refuse, name)
        return value

    def _ufunc(self, ufunc):
        def record(*inputs, out=None, **others):
            _require(isinstance(out, np.ndarray) and not others, ufunc.__name__)
            kinds = [getattr(x, "dtype", type(x)) for x in inputs]
            try:
                dtypes = ufunc.resolve_dtypes((*kinds, None))
            except TypeError:
                _refuse(ufunc.__name__)
            inputs = [self._as(dtype, x) for x, dtype in zip(inputs, dtypes, strict=False)]
            _require(np.broadcast_shapes(*(x.shape for x in inputs)) == out.shape, ufunc.__name__)
            _require(all(_same(x, out) or not np.shares_memory(x, out) for x in inputs), ufunc.__name__)
            result = out if out.dtype == dtypes[-1] else np.empty(out.shape, dtypes[-1])
            self._elementwise(*ufunc_loop(ufunc, dtypes), [*inputs, result], [len(inputs)])
            if result is not out:
                self.copyto(out, result)
            return out

        return record

    def _reduction(self, ufunc, start):
        def record(a, axis, out, keepdims=False):
            self.copyto(out, start)
            kept = out if keepdims else np.expand_dims(out, axis)
            total = np.broadcast_to(kept, a.shape)  # the same value, stride 0, along the axes that go
            self._elementwise(*ufunc_loop(ufunc, [a.dtype] * 3), [total, a, total], [2])
            return out

        return record

    def copyto(self, out, x, casting="same_kind"):
        x = x if isinstance(x, np.ndarray) else np.array(x, out.dtype)
        _require(np.can_cast(x.dtype, out.dtype, casting) and (out.dtype != bool or x.dtype == bool), "copyto")
        _require(np.broadcast_shapes(x.shape, out.shape) == out.shape and not np.shares_memory(x, out), "copyto")
        kinds = [np.uint8 if array.dtype == bool else array.dtype.type for array in (x, out)]
        self._elementwise(_numba.copy(*kinds), 0, [x, out], [1])

    def gather(self, rows, index, *, out):
        size = rows[:1].nbytes
        dense = rows.flags.c_contiguous and out.flags.c_contiguous
        _require(dense and index.dtype == np.intp and out.shape == (*index.shape, *rows.shape[1:]), "gather")
        arrays = [np.broadcast_to(rows.ravel()[:1], len(index)), index, out.reshape(len(index), -1)[:, 0]]
        accesses = [Access(rows, None, False), Access(index, 0, False), Access(out, 0, True)]
        self._add(_numba.gather(), self._addresses(size), arrays, [2], out.size >= LEAST_VALUES, accesses=accesses)

    def matmul(self, a, b, *, out):
        """Each thread makes some rows of `out`, or some columns, or where the sums are long, a part of each sum."""
        (m, k), n, threads = a.shape, b.shape[1], self.n_workers
        fits = b.shape[0] == k and out.shape == (m, n) and a.dtype == b.dtype == out.dtype
        _require(BLAS_TAKES_INT and fits, "matmul")
        split = m * n * k >= LEAST_PRODUCTS
        if split and k > 2 * max(m, n) and k % threads == 0 and threads > 1:
            self._sum_of_products(a, b, out)
        elif m >= n or (_stored(a)[0] == "T" and m >= 32 * threads):
            operands = [a[:, 0], np.broadcast_to(b[:1, 0], m), out[:, 0]]
            accesses = [Access(a, 0, False), Access(b, None, False), Access(out, 0, True)]
            product = _numba.product_rows(), self._product(a, b, out)
            bounds = self._add(*product, operands, [2], split, grain=4, accesses=accesses)
            if split and out.flags.c_contiguous:
                self._owned[out.ctypes.data] = [n * row for row in bounds]
        else:
            operands = [np.broadcast_to(a[:1, 0], n), b[0], out[0]]
            accesses = [Access(a, None, False), Access(b, 1, False), Access(out, 1, True)]
            product = _numba.product_columns(), self._product(a, b, out)
            self._add(*product, operands, [2], split, grain=16, accesses=accesses)

    def _sum_of_products(self, a, b, out):
        """Each thread multiplies some columns of `a` with the same rows of `b`, and then the products are added.

        So in the gradient of a convolution's weights a thread reads only those patches that it made, and will make
        anew. Otherwise making them takes 3 times as long while the cores are far from each other.
        """
        threads = self.n_workers
        parts = np.empty((threads, *out.shape), out.dtype)
        columns, rows = a.reshape(len(a), threads, -1), b.reshape(threads, -1, b.shape[1])
        operands = [columns[0], rows[..., 0], np.broadcast_to(parts[:, 0, :1], rows.shape[:2])]
        accesses = [Access(columns, 1, False), Access(rows, 0, False), Access(parts, 0, True)]
        product = _numba.product_terms(), self._product(a, b, parts[0])
        self._add(*product, operands, [2], split=True, accesses=accesses)
        self.xp["add"](parts[0], parts[1], out=out)
        for part in parts[2:]:
            self.xp["add"](out, part, out=out)

    def _product(self, a, b, out):
        """The address of what BLAS wants to know of a @ b beside the matrices: it is asked for out' = b' a'."""
        (a_order, a_apart), (b_order, b_apart), (_, out_apart) = map(_stored, (a, b, out))
        orders, scales = np.frombuffer((b_order + a_order).encode(), np.uint8), np.array([1, 0], out.dtype)
        numbers = np.array([b_apart, a_apart, out_apart, b.shape[1], *a.shape], np.int32)
        self._keep(a, b, out, orders, scales, numbers)
        (b_at, a_at), (one, zero) = (array.ctypes.data + np.arange(2) * array.itemsize for array in (orders, scales))
        b_apart, a_apart, out_apart, n, m, k = numbers.ctypes.data + np.arange(6) * numbers.itemsize
        words = _numba.gemm(out.dtype), b_at, a_at, one, b_apart, a_apart, zero, out_apart, n, m, k
        return self._addresses(*words)

    def fuse(self, function):
        """The function as a loop that Numba compiled, where there is one and the arrays suit it."""
        if function.__name__ not in _numba.FUSED:
            return function
        address, vectors, numbers, written, first = _numba.FUSED[function.__name__]

        def record(xp, *operands, **named):
            given = inspect.signature(function).bind(xp, *operands, **named).arguments
            real = given[written[-1]].dtype
            arrays = [given[name] for name in vectors] + [self._as(real, given[name]) for name in numbers]
            _, strides = common_axes(arrays)
            dense = strides[-1] == [array.itemsize for array in arrays[: len(vectors)]] + [0] * len(numbers)
            if not dense or any(array.dtype not in (real, bool) for array in arrays):
                return function(xp, *operands, **named)
            if first:
                first(xp, *operands, **named)
            self._elementwise(address(real.type), 0, arrays, [vectors.index(name) for name in written])

        return record

    # ------------------------------------------------------------------------------------- instructions

    def _elementwise(self, loop, data, operands, written):
        out = operands[written[0]]
        flat = next(array for array in operands if array.shape == out.shape)
        if out.ndim == 1 and out.size >= LEAST_VALUES and flat.flags.c_contiguous:
            for part, bounds in self._shares(flat):
                parts = [array[part] if array.shape == out.shape else array for array in operands]
                self._add(loop, data, parts, written, part.stop - part.start >= LEAST_VALUES, 16, bounds)
        else:
            shape = np.broadcast_shapes(*(array.shape for array in operands))
            self._add(loop, data, operands, written, math.prod(shape) >= LEAST_VALUES, 16)

    def _shares(self, flat):
        """Slices of a long array, each with the bounds by which products shared out its values, or None.

        So each thread updates the weights whose gradients it computed. While the cores are far from each other, RMSprop
        on 784-256-2-256-784 takes 5 times as long on gradients that half come from the other core.
        """
        start, stop, size = flat.ctypes.data, flat.ctypes.data + flat.nbytes, flat.itemsize
        done = 0
        for address in sorted(address for address in self._owned if start <= address < stop):
            first, bounds = (address - start) // size, self._owned[address]
            if done <= first <= flat.size - bounds[-1]:
                if first > done:
                    yield slice(done, first), None
                done = first + bounds[-1]
                yield slice(first, done), bounds
        if done < flat.size:
            yield slice(done, flat.size), None

    def _add(self, loop, data, operands, written, split, grain=1, bounds=None, accesses=None):
        """Note an instruction on operands that are broadcast together; returns the bounds of the threads' shares.

        accesses : what a loop reads and writes that does more than go through its operands once
        """
        shape, strides = common_axes(operands)
        _require(len(shape) <= _numba.MAX_DIMS and len(operands) <= _numba.MAX_OPERANDS, "an operation")
        axis = next((i for i, step in enumerate(strides) if all(step[k] for k in written)), None)
        split = (split or bounds is not None) and axis is not None
        axis = axis or 0
        n, grain = shape[axis], grain if axis == len(shape) - 1 else 1
        if bounds is None:
            shares = range(1, self.n_workers)
            bounds = [0, *(n * w // self.n_workers // grain * grain if split else n for w in shares), n]
        step = np.zeros((), _numba.instruction)
        step["loop"], step["data"], step["n_dims"], step["n_operands"] = loop, data, len(shape), len(operands)
        step["shape"][: len(shape)], step["split"] = shape, axis
        step["first"][: len(operands)] = [array.ctypes.data for array in operands]
        step["strides"][: len(shape), : len(operands)] = strides
        step["bounds"][: len(bounds)] = bounds
        # Between two instructions of the first thread nobody needs to wait.
        step["join"] = split
        if split and self.instructions:
            self.instructions[-1]["join"] = True
        self.instructions.append(step)
        if accesses is None:
            views = [as_strided(array, shape, [apart[k] for apart in strides]) for k, array in enumerate(operands)]
            accesses = [Access(view, axis, k in written) for k, view in enumerate(views)]
        self.accesses.append(accesses)
        self._keep(*operands)
        return bounds

    def _as(self, dtype, x):
        """An operand in this dtype, cast beforehand if need be."""
        if not isinstance(x, np.ndarray):
            return np.array(x, dtype)
        if x.dtype == dtype:
            return x
        result = np.empty(x.shape, dtype)
        self.copyto(result, x, casting="unsafe")
        return result

    def _addresses(self, *words):
        """The address of a block of words."""
        block = np.array(words, np.intp)
        self._keep(block)
        return block.ctypes.data

    def _keep(self, *arrays):
        self.kept += arrays


def _same(x, y):
    """Whether two arrays are the same values in the same order."""
    return x.ctypes.data == y.ctypes.data and x.shape == y.shape and x.strides == y.strides


def _stored(matrix):
    """How BLAS calls a matrix of rows or its transpose, and how many values its rows or columns lie apart."""
    along, across = (stride // matrix.itemsize for stride in matrix.strides)
    if across == 1 or matrix.shape[1] == 1:
        return "N", max(along, matrix.shape[1])
    if along == 1:
        return "T", max(across, matrix.shape[0])
    raise NotRecordable("a matrix whose values lie apart in both directions")


class _Blas:
    """The BLAS libraries of this process, as compiled code calls them: each launch holds them to one thread.

    words : for `_numba.hold_blas` and `release_blas`: a lock, how many launches are running, and for each library the
            addresses of its functions that tell and set the number of threads, and that number before
    """

    NAMES = {
        "openblas": [
            (f"{prefix}openblas_get_num_threads{suffix}", f"{prefix}openblas_set_num_threads{suffix}")
            for prefix in ("", "scipy_")
            for suffix in ("", "64_", "_64")
        ],
        "mkl": [("MKL_Get_Max_Threads", "MKL_Set_Num_Threads")],
        "blis": [("bli_thread_get_num_threads", "bli_thread_set_num_threads")],
    }

    def __init__(self):
        libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self.n_threads = max((library.get_num_threads() for library in libraries), default=1)
        # With OpenMP the number holds for one thread of Python only: a helper sets its own when it starts.
        self.of_each_thread = []
        words = [0, 0]
        for library in libraries:
            with_openmp = getattr(library, "threading_layer", "") == "openmp"
            names = [("omp_get_max_threads", "omp_set_num_threads")] if with_openmp else []
            names += self.NAMES.get(library.internal_api, [])
            for pair in names:
                if all(hasattr(library.dynlib, name) for name in pair):
                    tell, put = (getattr(library.dynlib, name) for name in pair)
                    words += [ctypes.cast(function, ctypes.c_void_p).value for function in (tell, put)] + [0]
                    if with_openmp:
                        self.of_each_thread.append(put)
                    break
        self.words = np.array(words, np.intp)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self):
        """In a new process: the launches that ran in other threads at that moment do not go on there."""
        if self.words[1]:
            for put, before in self.words[2:].reshape(-1, 3)[:, 1:].tolist():
                ctypes.CFUNCTYPE(None, ctypes.c_int)(put)(before)
        self.words[:2] = 0


_blas = _Blas()

_yield = ctypes.windll.kernel32.SwitchToThread if sys.platform == "win32" else ctypes.CDLL(None).sched_yield
_give_way = ctypes.cast(_yield, ctypes.c_void_p).value


class Program:
    """A recorded step; a call runs it once.

    accesses : for each instruction, what it does to which arrays; from these a test can tell that no thread touches
               what another one writes before all have waited for each other
    """

    def __init__(self, recorder):
        self.n_workers = recorder.n_workers
        _require(recorder.instructions, "nothing")
        self._list, self.accesses, self._kept = np.array(recorder.instructions), recorder.accesses, recorder.kept
        self._process = None

    def __call__(self):
        if self._process != os.getpid():
            self._start()  # threads do not survive a fork
        while not _numba.launch(self._list, self.n_workers, self._shared, _give_way, _blas.words):
            for bell in self._bells:
                _ring(bell)

    def _start(self):
        """Start the helping threads; they end with this object."""
        line = _numba.LINE
        memory = np.zeros((2 * self.n_workers + 2) * line, np.uint8)
        self._shared = memory.ctypes.data + -memory.ctypes.data % line
        self._memory, self._bells, owner = memory, [], weakref.ref(self)
        for worker in range(1, self.n_workers):
            bell = _thread.allocate_lock()
            bell.acquire()
            given = self._list, self.n_workers, worker, self._shared, _give_way
            # `memory` goes along because the thread may outlive this object for a moment. Not threading.Thread, whose
            # start waits for an Event, which an interrupt breaks.
            _thread.start_new_thread(_help, (bell, owner, given, memory))
            self._bells.append(bell)
        weakref.finalize(self, _dismiss, self._bells)
        self._process = os.getpid()


def _ring(bell):
    """Wake who waits to acquire a lock. Unlike an Event, a lock has no state that an interrupt can leave half done."""
    with contextlib.suppress(RuntimeError):  # another thread has just released it
        if bell.locked():
            bell.release()


LOOKS = 5.0  # seconds after which a sleeping helper looks whether its program is still there


def _help(bell, owner, given, memory):
    for put in _blas.of_each_thread:
        put(1)
    while True:
        bell.acquire(timeout=LOOKS)  # an interrupt can keep the last ring from coming
        if owner() is None:
            return
        _numba.help_out(*given)


def _dismiss(bells):
    for bell in bells:
        _ring(bell)
