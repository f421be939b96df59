"""A GPU for machines without one: a module that behaves like CuPy, only stricter.

It computes with NumPy, but its arrays are a class of their own, so nothing crosses between host and device
unseen. It has only functions that CuPy has, with CuPy's parameters, and it refuses what CuPy would do slowly,
silently or not at all. NumPy's functions find their way to it as they do to CuPy. `count()` tells what a piece of
code cost. Streams record and replay CUDA graphs. The source of a RawModule is compiled for the processor and run.

    backend = fakegpu.backend()
    with backend.xp.count() as n:
        step()
    assert n.synchronisations == 0
"""

import contextlib
import dataclasses
import itertools
import math
import types
import weakref
from typing import ClassVar

import cuda_on_cpu
import numpy as np
import pytest
from ranks import Group

from minivae.engine.backend import CupyBackend
from minivae.engine.cublas import TF32_MATH, TRANSPOSE, Products


class Refused(TypeError):
    """Something that a program for the GPU should not do."""


@dataclasses.dataclass
class Counts:
    """What happened on the device inside a `with xp.count()`."""

    launches: int = 0  # kernels, memory fills and whole graphs
    synchronisations: int = 0  # the host waited for the device
    transfers: int = 0  # arrays copied between host and device
    copies: int = 0  # copies that CuPy makes without being asked
    allocations: int = 0


class Memory:
    """One allocation. Arrays keep it alive; a captured graph does not, as on a GPU."""

    def __init__(self, data):
        self.data = data
        self.address = data.ctypes.data


class Device:
    """The state behind one fake module: what is counted, what is allocated, which stream is current."""

    def __init__(self):
        self.counters = []
        self.memory = weakref.WeakValueDictionary()  # address -> Memory
        self.null_stream = Stream(self)
        self.streams = [self.null_stream]

    # -- what costs something

    def tick(self, what):
        for counter in self.counters:
            setattr(counter, what, getattr(counter, what) + 1)

    @property
    def capturing(self):
        return self.streams[-1].nodes is not None

    def refuse_while_capturing(self, what):
        if self.capturing:
            self.streams[-1].invalidated = what
            raise Refused(f"{what} while a graph is being captured")

    def allocate(self, shape, dtype):
        """An array full of poison: what was never written should be seen."""
        dtype = np.dtype(dtype)
        poison = {"f": math.nan, "b": True}.get(dtype.kind)
        memory = Memory(np.full(shape, np.iinfo(dtype).max if poison is None else poison, dtype))
        self.memory[memory.address] = memory
        self.count_allocation()
        return Array(self, memory.data, memory)

    def count_allocation(self):
        self.refuse_while_capturing("allocation")
        self.tick("allocations")

    def upload(self, host):
        self.tick("transfers")
        array = self.allocate(host.shape, host.dtype)
        array._data[...] = host
        return array

    def synchronise(self):
        self.refuse_while_capturing("synchronisation")
        self.tick("synchronisations")

    def launch(self, work, *arrays):
        """Run `work()` on the current stream, or record it where the stream is capturing."""

        def node():
            with np.errstate(all="ignore"):
                work()

        self.tick("launches")
        self.streams[-1].enqueue(node, arrays)

    # -- what may be an operand

    def check(self, *arrays):
        """The numpy arrays behind device arrays."""
        for array in arrays:
            if not isinstance(array, Array):
                raise Refused(f"expected a device array, got {type(array).__name__}: upload it first")
            if array._device is not self:
                raise Refused("this array belongs to another device")
        return [array._data for array in arrays]

    def operand(self, x):
        """The numpy array behind a device array, or a scalar as it is."""
        if type(x) in (bool, int, float) or isinstance(x, np.generic):
            return x
        return self.check(x)[0]

    def check_out(self, out, shape, dtype, casting="same_kind"):
        (data,) = self.check(out)
        if data.shape != shape:
            raise Refused(f"out has shape {data.shape}, the result {shape}")
        if not np.can_cast(dtype, data.dtype, casting):
            raise Refused(f"a result of {dtype} cannot be cast to out, {data.dtype}, by the rule {casting!r}")

    def count_overlap(self, inputs, out):
        """CuPy copies an input whose memory overlaps out's, unless it is the very same object."""
        for x in inputs:
            if isinstance(x, Array) and x is not out and np.may_share_memory(x._data, out._data):
                self.tick("copies")


class Stream:
    """cupy.cuda.Stream: the order of work, and the recorder of graphs."""

    numbers = itertools.count(1)

    def __init__(self, device, non_blocking=False):
        self.device = device
        self.non_blocking = non_blocking
        self.ptr = next(self.numbers)
        self.nodes = None
        self.invalidated = None

    def enqueue(self, node, arrays):
        if self.nodes is None:
            node()
        else:
            self.nodes.append((node, [weakref.ref(array._memory) for array in arrays]))

    def begin_capture(self, mode=None):
        if not self.non_blocking:
            raise Refused("only a stream made with non_blocking=True can capture safely")
        self.nodes, self.invalidated = [], None

    def end_capture(self):
        nodes, self.nodes = self.nodes, None
        if self.invalidated:
            raise RuntimeError(f"cudaErrorStreamCaptureInvalidated: {self.invalidated}")
        return Graph(self.device, nodes)

    def is_capturing(self):
        return self.nodes is not None

    def synchronize(self):
        self.device.synchronise()

    def __enter__(self):
        self.device.streams.append(self)
        return self

    def __exit__(self, *exception):
        self.device.streams.pop()


class Graph:
    """cupy.cuda.Graph: a recorded list of operations."""

    def __init__(self, device, nodes):
        self._device = device
        self._nodes = nodes

    def launch(self, stream=None):
        self._device.refuse_while_capturing("launch of another graph")
        self._device.tick("launches")
        for node, memories in self._nodes:
            if any(memory() is None for memory in memories):
                raise Refused("the graph touches an array that has been freed since it was captured")
            node()


class Array:
    """cupy.ndarray."""

    __hash__ = None

    def __init__(self, device, data, memory):
        self._device = device
        self._data = data
        self._memory = memory

    # -- what is known without asking the device

    dtype = property(lambda self: self._data.dtype)
    ndim = property(lambda self: self._data.ndim)
    size = property(lambda self: self._data.size)
    itemsize = property(lambda self: self._data.itemsize)
    nbytes = property(lambda self: self._data.nbytes)
    strides = property(lambda self: self._data.strides)
    flags = property(lambda self: self._data.flags)
    data = property(lambda self: types.SimpleNamespace(ptr=self._data.ctypes.data))
    shape = property(lambda self: self._data.shape)
    T = property(lambda self: self.transpose())

    def __len__(self):
        return len(self._data)

    def __repr__(self):
        return f"<device array {self._data.shape} {self._data.dtype}>"

    # -- what would read the device behind the reader's back

    def _refuse_host(self, *args, **kwargs):
        raise Refused("implicit conversion of a device array to the host: use backend.to_host")

    __array__ = _refuse_host
    __float__ = __int__ = __bool__ = __index__ = __complex__ = __iter__ = __contains__ = _refuse_host

    # -- how NumPy's functions find their way here; as with CuPy, arrays of NumPy's are not taken

    def __array_ufunc__(self, ufunc, method, *inputs, **named):
        function = getattr(self._device.module, ufunc.__name__)
        if method != "__call__":
            function = getattr(function, method)
        if "out" in named:
            (named["out"],) = named["out"]
        return function(*inputs, **named)

    def __array_function__(self, function, types, args, named):
        if function.__module__ != "numpy":
            raise Refused(f"{function.__module__}.{function.__name__} of a device array")
        return getattr(self._device.module, function.__name__)(*args, **named)

    def get(self, stream=None, order="C", out=None, blocking=True):
        self._device.synchronise()
        self._device.tick("transfers")
        host = self._data.copy() if out is None else out
        host[...] = self._data
        return host

    def item(self):
        return self.get().item()

    def set(self, arr, stream=None):
        if arr.dtype != self.dtype or arr.shape != self._data.shape:
            raise Refused(f"set: {arr.shape} {arr.dtype} into {self._data.shape} {self.dtype}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise Refused("set: the array is not contiguous")
        self._device.refuse_while_capturing("transfer")
        self._device.tick("transfers")
        self._data[...] = arr

    # -- views

    def _view(self, data):
        if data.size and not np.may_share_memory(data, self._data):
            raise Refused("this view would need a copy: make the array contiguous yourself")
        return Array(self._device, data, self._memory)

    def __getitem__(self, key):
        if isinstance(key, Array) and key.dtype.kind in "iu":
            return self._device.module.take(self, key, axis=0)
        return self._view(self._data[self._basic(key)])

    @staticmethod
    def _basic(key):
        key = key if isinstance(key, tuple) else (key,)
        for part in key:
            if not (part is None or part is Ellipsis or isinstance(part, (int, np.integer, slice))):
                kind = type(part).__name__
                raise Refused(f"index of type {kind}: a mask synchronises; positions are one array of integers")
        return key if Ellipsis in key else (*key, Ellipsis)  # so that a single element is a view as well

    def reshape(self, *shape, order="C"):
        data = self._data.reshape(*shape, order=order)
        if data.size and not np.may_share_memory(data, self._data):
            self._device.tick("copies")
            return self.copy().reshape(*shape, order=order)
        return Array(self._device, data, self._memory)

    def ravel(self, order="C"):
        return self.reshape(-1, order=order)

    def transpose(self, *axes):
        return self._view(self._data.transpose(*axes))

    def swapaxes(self, axis1, axis2):
        return self._view(self._data.swapaxes(axis1, axis2))

    def squeeze(self, axis=None):
        return self._view(self._data.squeeze(axis))

    def view(self, dtype=None):
        return self._view(self._data.view(dtype))

    # -- work

    def __matmul__(self, other):
        return self._device.module.matmul(self, other)

    def take(self, indices, axis=None, out=None):
        return self._device.module.take(self, indices, axis, out)

    def __setitem__(self, key, value):
        _copyto(self._device, self if key is Ellipsis else self[key], value)

    def fill(self, value):
        if isinstance(value, Array):
            raise Refused("fill takes a number: use copyto")
        _copyto(self._device, self, value)

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        if not copy and self.dtype == dtype:
            return self
        return self._new(dtype, lambda data: data)

    def copy(self, order="C"):
        return self._new(self.dtype, lambda data: data)

    def _new(self, dtype, function):
        result = self._device.allocate(self._data.shape, dtype)

        def work():
            result._data[...] = function(self._data)

        self._device.launch(work, self, result)
        return result


def _copyto(device, dst, src, where=None):
    (target,), source = device.check(dst), device.operand(src)
    arrays = [x for x in (dst, src, where) if isinstance(x, Array)]
    mask = True if where is None else device.check(where)[0]
    device.count_overlap((src,), dst)
    device.launch(lambda: np.copyto(target, source, where=mask), *arrays)


class Ufunc:
    """cupy.ufunc: elementwise, with no `where`, an exact `out`, and no float64 by accident."""

    def __init__(self, device, ufunc):
        self._device = device
        self._ufunc = ufunc

    def __call__(self, *args, out=None, dtype=None, casting="same_kind"):
        nin = self._ufunc.nin
        if len(args) == nin + 1 and out is None:
            *args, out = args
        if len(args) != nin:
            raise Refused(f"{self._ufunc.__name__} takes {nin} operands, got {len(args)}")
        operands = [self._device.operand(x) for x in args]
        shape = np.broadcast_shapes(*(np.shape(x) for x in operands))
        result = self._resolve(operands, out, dtype)
        if out is None:
            out = self._device.allocate(shape, result)
        else:
            self._device.check_out(out, shape, result, casting)
        self._device.count_overlap(args, out)
        arrays = [x for x in (*args, out) if isinstance(x, Array)]
        target = out._data
        self._device.launch(lambda: self._ufunc(*operands, out=target, dtype=dtype, casting=casting), *arrays)
        return out

    def _resolve(self, operands, out, dtype):
        """The dtype of the result; refuses to compute in float64 what is float32 before or after."""
        kinds = [type(x) if type(x) in (int, float) else np.asarray(x).dtype for x in operands]
        if dtype is not None:
            return np.dtype(dtype)
        resolved = self._ufunc.resolve_dtypes((*kinds, None))
        if np.dtype(np.float64) in resolved:
            single = np.dtype(np.float32)
            to_single = out is not None and getattr(out, "dtype", None) == single
            to_double = out is not None and getattr(out, "dtype", None) == np.float64
            if to_single or (single in kinds and not to_double):
                raise Refused(f"{self._ufunc.__name__} of {kinds} computes in float64, silently and slowly")
        return resolved[-1]

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        if self._ufunc not in (np.add, np.multiply):
            raise Refused(f"CuPy has reduce for add and multiply only, not for {self._ufunc.__name__}")
        return _reduce(self._device, self._ufunc.reduce, array, axis, out, keepdims, dtype=dtype)


def _reduce(device, function, a, axis, out, keepdims, dtype=None):
    """Launch `function` over some axes of `a`."""
    (data,) = device.check(a)
    options = {"axis": axis, "keepdims": keepdims} | ({} if dtype is None else {"dtype": dtype})
    like = function(np.zeros((1,) * data.ndim, a.dtype), **options)  # for its dtype and number of axes
    reduced = range(data.ndim) if axis is None else np.atleast_1d(axis) % data.ndim
    lengths = [1 if i in reduced else n for i, n in enumerate(data.shape)]
    shape = tuple(n for i, n in enumerate(lengths) if keepdims or i not in reduced)
    return _write(device, lambda: function(data, **options), (a,), shape, like.dtype, out)


def _write(device, function, inputs, shape, dtype, out):
    """Launch `out[...] = function()`, into a new array where out is None."""
    if out is None:
        out = device.allocate(shape, dtype)
    else:
        device.check_out(out, shape, dtype)
    device.count_overlap(inputs, out)
    target = out._data

    def work():
        target[...] = function()

    device.launch(work, *(x for x in inputs if isinstance(x, Array)), out)
    return out


def _operator(name, reflected=False):
    def method(self, other):
        ufunc = Ufunc(self._device, getattr(np, name))
        return ufunc(other, self) if reflected else ufunc(self, other)

    return method


def _in_place(name):
    return lambda self, other: Ufunc(self._device, getattr(np, name))(self, other, out=self)


for _symbol, _name in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power",
    "floordiv": "floor_divide", "mod": "remainder", "and": "bitwise_and", "or": "bitwise_or",
}.items():  # fmt: skip
    setattr(Array, f"__{_symbol}__", _operator(_name))
    setattr(Array, f"__r{_symbol}__", _operator(_name, reflected=True))
    setattr(Array, f"__i{_symbol}__", _in_place(_name))
for _symbol, _name in {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "eq": "equal", "ne": "not_equal",
}.items():  # fmt: skip
    setattr(Array, f"__{_symbol}__", _operator(_name))
for _symbol, _name in {"neg": "negative", "abs": "absolute", "invert": "invert"}.items():
    setattr(Array, f"__{_symbol}__", lambda self, name=_name: Ufunc(self._device, getattr(np, name))(self))


UFUNCS = """
    absolute add arctan2 bitwise_and bitwise_or cbrt ceil copysign cos cosh divide equal exp exp2 expm1
    floor floor_divide fmax fmin greater greater_equal invert isfinite isinf isnan less less_equal log
    log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor maximum minimum multiply
    negative not_equal power reciprocal remainder rint sign signbit sin sinh sqrt square subtract tan
    tanh true_divide
""".split()


class FakeCupy:
    """The module `cupy`, as far as a variational autoencoder needs it."""

    ndarray = Array
    newaxis = None
    e, inf, nan, pi = math.e, math.inf, math.nan, math.pi
    bool_, dtype, finfo = np.bool_, np.dtype, np.finfo
    float16, float32, float64 = np.float16, np.float32, np.float64
    int8, int16, int32, int64, uint8, uint32 = np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32

    def __init__(self):
        self._device = Device()
        self._device.module = self
        for name in UFUNCS:
            setattr(self, name, Ufunc(self._device, getattr(np, name)))
        self.abs = self.absolute
        self.cuda = Cuda(self._device)
        self.lib = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=self._as_strided))

    def __getattr__(self, name):
        raise AttributeError(f"the fake CuPy has no {name!r}; if CuPy has it, add it to tests/fakegpu.py")

    @contextlib.contextmanager
    def count(self):
        """The one thing that CuPy lacks: what the code inside the `with` costs, as `Counts`."""
        counts = Counts()
        self._device.counters.append(counts)
        try:
            yield counts
        finally:
            self._device.counters.remove(counts)

    # -- making arrays

    def empty(self, shape, dtype=float, order="C"):
        return self._device.allocate(shape, dtype)

    def full(self, shape, fill_value, dtype=None, order="C"):
        array = self.empty(shape, np.asarray(fill_value).dtype if dtype is None else dtype)
        array.fill(fill_value)
        return array

    def zeros(self, shape, dtype=float, order="C"):
        return self.full(shape, 0, dtype)

    def ones(self, shape, dtype=float, order="C"):
        return self.full(shape, 1, dtype)

    def empty_like(self, prototype, dtype=None, order="K", subok=None, shape=None):
        return self.empty(prototype.shape if shape is None else shape, dtype or prototype.dtype)

    def zeros_like(self, a, dtype=None, order="K", subok=None, shape=None):
        return self.full_like(a, 0, dtype, shape=shape)

    def ones_like(self, a, dtype=None, order="K", subok=None, shape=None):
        return self.full_like(a, 1, dtype, shape=shape)

    def full_like(self, a, fill_value, dtype=None, order="K", subok=None, shape=None):
        return self.full(a.shape if shape is None else shape, fill_value, dtype or a.dtype)

    def array(self, obj, dtype=None):
        if isinstance(obj, Array):
            return obj.astype(obj.dtype if dtype is None else dtype)
        return self._device.upload(np.asarray(obj, dtype))

    def asarray(self, a, dtype=None, order=None):
        if isinstance(a, Array) and (dtype is None or a.dtype == dtype):
            return self.ascontiguousarray(a) if order == "C" else a
        return self.array(a, dtype)

    def ascontiguousarray(self, a, dtype=None):
        self._device.check(a)
        return a if a.flags.c_contiguous and dtype in (None, a.dtype) else a.astype(dtype or a.dtype)

    def arange(self, start, stop=None, step=1, dtype=None):
        bounds = (0, start) if stop is None else (start, stop)
        values = np.arange(*bounds, step, dtype)
        array = self.empty(values.shape, values.dtype)
        self._device.launch(lambda: np.copyto(array._data, values), array)
        return array

    def asnumpy(self, a, stream=None, order="C", out=None):
        return a.get(out=out) if isinstance(a, Array) else np.asarray(a)

    # -- views

    def reshape(self, a, newshape):
        return a.reshape(newshape)

    def ravel(self, a):
        return a.ravel()

    def transpose(self, a, axes=None):
        return a.transpose(axes)

    def swapaxes(self, a, axis1, axis2):
        return a.swapaxes(axis1, axis2)

    def moveaxis(self, a, source, destination):
        return a._view(np.moveaxis(a._data, source, destination))

    def expand_dims(self, a, axis):
        return a._view(np.expand_dims(a._data, axis))

    def squeeze(self, a, axis=None):
        return a.squeeze(axis)

    def pad(self, array, pad_width):
        sizes = [(before, n, after) for n, (before, after) in zip(array.shape, pad_width, strict=True)]
        padded = self.zeros([sum(size) for size in sizes], array.dtype)
        padded[tuple(slice(before, before + n) for before, n, _ in sizes)] = array
        return padded

    def broadcast_to(self, array, shape):
        return array._view(np.broadcast_to(array._data, shape))

    def _as_strided(self, x, shape=None, strides=None):
        return x._view(np.lib.stride_tricks.as_strided(x._data, shape, strides))

    # -- copies and gathers

    def copyto(self, dst, src, casting="same_kind", where=None):
        source = self._device.operand(src)
        kind = np.min_scalar_type(source) if isinstance(source, (bool, int, float)) else source.dtype
        if not np.can_cast(kind, dst.dtype, casting):
            raise Refused(f"copyto: {kind} into {dst.dtype}")
        _copyto(self._device, dst, src, where)

    def take(self, a, indices, axis=None, out=None):
        data, index = self._device.check(a, indices)
        length = data.size if axis is None else data.shape[axis]
        like = np.take(np.broadcast_to(np.zeros((), a.dtype), data.shape), np.zeros(index.shape, int), axis)
        if out is not None and out.dtype != a.dtype:
            raise Refused(f"take: out is {out.dtype}, the array {a.dtype}")

        def gather():
            if index.size and not (0 <= index.min() and index.max() < length):
                raise Refused("take: an index is out of range, where CuPy wraps and NumPy clips, silently")
            return np.take(data, index, axis)

        return _write(self._device, gather, (a, indices), like.shape, a.dtype, out)

    def where(self, condition, x=None, y=None):
        if x is None or y is None:
            raise Refused("where with one argument synchronises")
        operands = [self._device.operand(v) for v in (condition, x, y)]
        kinds = [v if isinstance(v, (int, float)) else v.dtype for v in operands[1:]]
        shape = np.broadcast_shapes(*map(np.shape, operands))
        return _write(self._device, lambda: np.where(*operands), (condition, x, y), shape, np.result_type(*kinds), None)

    def concatenate(self, tup, axis=0, out=None):
        return self._join(np.concatenate, tup, axis, out)

    def stack(self, tup, axis=0, out=None):
        return self._join(np.stack, tup, axis, out)

    def _join(self, function, tup, axis, out):
        parts = self._device.check(*tup)
        like = function([np.broadcast_to(np.zeros((), p.dtype), p.shape) for p in parts], axis=axis)
        return _write(self._device, lambda: function(parts, axis=axis), tup, like.shape, like.dtype, out)

    def clip(self, a, a_min, a_max, out=None):
        return self.minimum(self.maximum(a, a_min, out=out), a_max, out=out)

    # -- reductions

    def sum(self, a, axis=None, dtype=None, out=None, keepdims=False):
        return _reduce(self._device, np.sum, a, axis, out, keepdims, dtype=dtype)

    def mean(self, a, axis=None, dtype=None, out=None, keepdims=False):
        return _reduce(self._device, np.mean, a, axis, out, keepdims, dtype=dtype)

    def max(self, a, axis=None, out=None, keepdims=False):
        return _reduce(self._device, np.max, a, axis, out, keepdims)

    def min(self, a, axis=None, out=None, keepdims=False):
        return _reduce(self._device, np.min, a, axis, out, keepdims)

    # -- products, which CuPy hands to its own cuBLAS

    def matmul(self, *args, out=None):
        a, b = args
        if self._device.capturing:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        left, right = self._device.check(a, b)
        for x in (a, b):
            if not (x.flags.c_contiguous or x.flags.f_contiguous):
                self._device.tick("copies")
        result = np.matmul(left, right)
        return _write(self._device, lambda: result, (a, b), result.shape, result.dtype, out)

    # -- kernels of one's own

    def RawModule(self, code=None, path=None, options=()):  # noqa: N802
        return RawModule(self._device, code)


class RawModule:
    """cupy.RawModule: CUDA source with kernels in it, which is truly run, on the processor; see cuda_on_cpu.py."""

    def __init__(self, device, code):
        if not cuda_on_cpu.COMPILER:
            pytest.skip("the imaginary GPU runs the source of kernels, which needs a C compiler: gcc, cc or clang")
        self._device, self._code = device, code

    def get_function(self, name):
        return RawKernel(self._device, cuda_on_cpu.compiled(self._code)[name])


C_TYPES = {
    "float32": "float*", "float64": "double*", "bool": "bool*", "int8": "signed char*", "uint8": "unsigned char*",
    "int16": "short*", "uint16": "unsigned short*", "int32": "int*", "uint32": "unsigned int*", "int64": "long long*",
}  # fmt: skip


class RawKernel:
    """cupy.RawKernel: a kernel; a GPU would not notice arguments of another type, or memory that is not theirs."""

    def __init__(self, device, function):
        self._device, self._function = device, function

    def __call__(self, grid, block, args):
        (threads,) = block
        if not all(type(n) is int and n > 0 for n in (*grid, threads)) or len(grid) != 2 or grid[1] > 65535:
            raise Refused(f"a grid of {grid} blocks of {threads} threads")
        if threads > cuda_on_cpu.MAX_THREADS:
            raise Refused(f"{threads} threads in a block: at most {cuda_on_cpu.MAX_THREADS}")
        self._device.check(*args)
        types = [C_TYPES[x.dtype.name] for x in args]
        if types != self._function.types:
            raise Refused(f"{self._function.name} takes {self._function.types}, got {types}")
        pointers, bounds = [x.data.ptr for x in args], []
        for x in args:
            first = (x._memory.address - x.data.ptr) // x.itemsize
            bounds.append((first, first + x._memory.data.nbytes // x.itemsize))
        self._device.launch(self._function.prepare(grid, threads, pointers, bounds), *args)


class Cuda:
    """cupy.cuda."""

    def __init__(self, device):
        self._device = device
        self.nccl = FakeNccl(device)
        self.nvrtc = types.SimpleNamespace(getVersion=lambda: (12, 9))
        self.runtime = types.SimpleNamespace(
            getDevice=lambda: 0,
            getDeviceCount=lambda: 1,
            getDeviceProperties=lambda device: {"name": b"imaginary"},
            runtimeGetVersion=lambda: 12090,
        )

    def Stream(self, null=False, non_blocking=False, ptds=False, priority=None):
        return Stream(self._device, non_blocking)

    def get_current_stream(self, device_id=-1):
        return self._device.streams[-1]

    def Device(self, device=None):
        return types.SimpleNamespace(synchronize=self._device.synchronise)

    def alloc(self, size):
        self._device.count_allocation()
        return types.SimpleNamespace(ptr=1)  # no memory behind it, because nothing reads a workspace


class FakeNccl:
    """cupy.cuda.nccl, for ranks that are threads: each of them has a device of its own."""

    available = True
    NCCL_SUM, NCCL_FLOAT32, NCCL_FLOAT64 = 0, 7, 8
    groups: ClassVar = {}  # by the unique ids that were given out

    def __init__(self, device):
        self._device = device

    def get_unique_id(self):
        number = len(self.groups)
        self.groups[number] = None
        return (number, *[0] * 127)

    def NcclCommunicator(self, ndev, commId, rank):  # noqa: N802, N803
        if not (isinstance(commId, tuple) and len(commId) == 128 and commId[0] in self.groups):
            raise Refused("NCCL: no unique id of get_unique_id, as rank 0 has to give it to all")
        self.groups[commId[0]] = self.groups[commId[0]] or Group(ndev)
        return FakeNcclCommunicator(self._device, self.groups[commId[0]], rank)


class FakeNcclCommunicator:
    def __init__(self, device, group, rank):
        self._device, self._group, self._rank = device, group, rank
        if device in group.exchange(rank, device)[:rank]:
            raise Refused("NCCL: two ranks on one GPU")

    def allReduce(self, sendbuf, recvbuf, count, datatype, op, stream):  # noqa: N802
        if stream != self._device.streams[-1].ptr:
            raise Refused("NCCL would work on another stream than the current one")
        self._device.refuse_while_capturing("an exchange between ranks")
        if op != FakeNccl.NCCL_SUM or sendbuf != recvbuf:
            raise Refused("NCCL: only sums in place are known here")
        dtype = {FakeNccl.NCCL_FLOAT32: np.float32, FakeNccl.NCCL_FLOAT64: np.float64}[datatype]
        memory = self._device.memory.get(sendbuf)
        if memory is None or memory.data.dtype != dtype or memory.data.size != count:
            raise Refused(f"NCCL: no array of {count} {np.dtype(dtype)} is allocated at {sendbuf}")
        self._device.tick("launches")
        memory.data[...] = sum(self._group.exchange(self._rank, memory.data.copy()))


class FakeCublas:
    """The library cuBLAS: matrices are addresses, read by columns, checked against what is allocated."""

    def __init__(self, device):
        self._device = device
        self._stream = self._workspace = None
        self.tf32 = False
        self.handles, self._numbers = set(), itertools.count(1)

    def cublasCreate_v2(self, handle):
        handle._obj.value = next(self._numbers)
        self.handles.add(handle._obj.value)
        return 0

    def cublasDestroy_v2(self, handle):
        self._device.synchronise()
        self.handles.remove(handle.value)
        return 0

    def cublasSetMathMode(self, handle, mode):
        self.tf32 = mode == TF32_MATH
        return 0

    def cublasSetStream_v2(self, handle, stream):
        self._stream, self._workspace = stream, None
        return 0

    def cublasSetWorkspace_v2(self, handle, workspace, size):
        self._workspace = workspace
        return 0

    def cublasSgemm_v2(self, *arguments):
        return self._gemm(np.float32, *arguments)

    def cublasDgemm_v2(self, *arguments):
        return self._gemm(np.float64, *arguments)

    def _gemm(self, dtype, handle, a_op, b_op, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        if handle.value not in self.handles:
            raise Refused("cuBLAS: no handle, or one that has been destroyed")
        if self._stream != self._device.streams[-1].ptr:
            raise Refused("cuBLAS would work on another stream than the current one")
        if not np.dtype(type(alpha._obj)) == np.dtype(type(beta._obj)) == dtype:
            raise Refused("cuBLAS: alpha and beta should have the matrices' dtype")
        if self._workspace is None:
            raise Refused("cuBLAS would allocate a workspace of its own")
        a = self._matrix(dtype, a, (k, m) if a_op == TRANSPOSE else (m, k), lda)
        b = self._matrix(dtype, b, (n, k) if b_op == TRANSPOSE else (k, n), ldb)
        c = self._matrix(dtype, c, (m, n), ldc)
        if any(np.shares_memory(c._data, x._data) for x in (a, b)):
            raise Refused("matmul: out overlaps an operand")
        left = a._data.T if a_op == TRANSPOSE else a._data
        right = b._data.T if b_op == TRANSPOSE else b._data
        target, scale, keep = c._data, dtype(alpha._obj.value), dtype(beta._obj.value)
        self._device.launch(lambda: np.copyto(target, scale * (left @ right) + (keep * target if keep else 0)), a, b, c)
        return 0

    def _matrix(self, dtype, address, shape, leading):
        if leading < shape[0]:
            raise Refused(f"cuBLAS: columns of {shape[0]} values cannot lie {leading} values apart")
        for memory in self._device.memory.values():
            offset = address - memory.address
            if 0 <= offset < max(memory.data.nbytes, 1):
                size = np.dtype(dtype).itemsize
                data = np.ndarray(shape, dtype, memory.data, offset, (size, leading * size))
                return Array(self._device, data, memory)
        raise Refused(f"cuBLAS: nothing is allocated at {address}")


def backend():
    """A fresh CupyBackend on a fresh device."""
    xp = FakeCupy()
    return CupyBackend(xp, Products(xp, FakeCublas(xp._device)))
