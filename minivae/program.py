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

import ctypes
import functools
import inspect
import math
import os
import sys
import threading
import weakref

import numpy as np
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
    for i, signature in enumerate(ufunc.types):
        if [np.dtype(char) for char in signature.replace("->", "")] == list(dtypes):
            table = _Ufunc.from_address(id(ufunc))
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
        self.instructions, self.kept = [], []
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
        self._keep(rows, out)
        self._add(_numba.gather(), self._addresses(size), arrays, [2], split=out.size >= LEAST_VALUES)

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
            bounds = self._add(_numba.product_rows(), self._product(a, b, out), operands, [2], split, grain=4)
            if split and out.flags.c_contiguous:
                self._owned[out.ctypes.data] = [n * row for row in bounds]
        else:
            operands = [np.broadcast_to(a[:1, 0], n), b[0], out[0]]
            self._add(_numba.product_columns(), self._product(a, b, out), operands, [2], split, grain=16)

    def _sum_of_products(self, a, b, out):
        """Each thread multiplies some columns of `a` with the same rows of `b`, and then the products are added.

        So in the gradient of a convolution's weights a thread reads only those patches that it made, and will make
        anew. Otherwise making them takes 3 times as long while the cores are far from each other.
        """
        parts = np.empty((self.n_workers, *out.shape), out.dtype)
        columns, rows = a[0].reshape(self.n_workers, -1), b[:, 0].reshape(self.n_workers, -1)
        operands = [columns, rows, np.broadcast_to(parts[:, 0, :1], rows.shape)]
        self._add(_numba.product_terms(), self._product(a, b, parts[0]), operands, [2], split=True)
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

    def _add(self, loop, data, operands, written, split, grain=1, bounds=None):
        """Note an instruction on operands that are broadcast together; returns the bounds of the threads' shares."""
        shape, strides = common_axes(operands)
        _require(len(shape) <= _numba.MAX_DIMS and len(operands) <= _numba.MAX_OPERANDS, "an operation")
        axis = next((i for i, step in enumerate(strides) if all(step[k] for k in written)), None)
        split = split and axis is not None
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
    """The BLAS libraries of this process; within `with`, each computes on the thread that calls it."""

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0
        self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self.n_threads = max((library.get_num_threads() for library in self._libraries), default=1)

    def __enter__(self):
        with self._lock:
            if not self._inside:
                self._before = [library.get_num_threads() for library in self._libraries]
                for library in self._libraries:
                    library.set_num_threads(1)
            self._inside += 1

    def __exit__(self, *error):
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for library, n in zip(self._libraries, self._before, strict=True):
                    library.set_num_threads(n)


_blas = _Blas()

_yield = ctypes.windll.kernel32.SwitchToThread if sys.platform == "win32" else ctypes.CDLL(None).sched_yield
_give_way = ctypes.cast(_yield, ctypes.c_void_p).value


class Program:
    """A recorded step; a call runs it once."""

    def __init__(self, recorder):
        self.n_workers = recorder.n_workers
        _require(recorder.instructions, "nothing")
        self._list, self._kept = np.array(recorder.instructions), recorder.kept
        self._process = None

    def __call__(self):
        if self._process != os.getpid():
            self._start()  # threads do not survive a fork
        with _blas:
            while not _numba.launch(self._list, self.n_workers, self._shared, _give_way):
                for bell in self._bells:
                    bell.set()

    def _start(self):
        """Start the helping threads; they end with this object."""
        line = _numba.LINE
        memory = np.zeros((2 * self.n_workers + 2) * line, np.uint8)
        self._shared = memory.ctypes.data + -memory.ctypes.data % line
        self._memory, self._bells, stopped = memory, [], threading.Event()
        for worker in range(1, self.n_workers):
            bell = threading.Event()
            given = self._list, self.n_workers, worker, self._shared, _give_way
            # `memory` goes along because the thread may outlive this object for a moment.
            threading.Thread(target=_help, args=(bell, stopped, given, memory), daemon=True).start()
            self._bells.append(bell)
        weakref.finalize(self, _dismiss, stopped, self._bells)
        self._process = os.getpid()


def _help(bell, stopped, given, memory):
    while True:
        bell.wait()
        bell.clear()
        if stopped.is_set():
            return
        _numba.help_out(*given)


def _dismiss(stopped, bells):
    stopped.set()
    for bell in bells:
        bell.set()
