"""A step as a list of operations: it runs once on stand-ins for its arrays, which note what is done to them.

A stand-in has the shape and the dtype of an array but no values. NumPy hands every function that meets one over to it
(the protocols `__array_ufunc__` and `__array_function__`), so a step needs to know nothing of all this:

    list = trace(lambda a: {"y": np.exp(a["x"]) * 0.5}, {"x": x, "y": y})

The list is in single-assignment form: each `Value` is made once, by one operation, from values made before. Equal ones
are made once only, and those that nobody needs fall away. Kinds of values:

    input        an array that the step is given, and may give a new value
    constant     any other array, and numbers; element by element, what is made of constants alone is computed at once
    view         the same values in another shape: slices, transposes, reshapes, broadcasts
    elementwise  ufuncs, np.where, np.clip, a cast to another dtype
    reduce       np.sum, np.max, np.min over axes
    matmul       of two matrices
    assemble     np.concatenate, np.stack
    primitive    functions decorated with `primitive`, such as `rows`

Values carry the memory layout that NumPy would give them, since sums of a transposed matrix are rounded differently.
"""

import functools
import hashlib
import inspect
import linecache
import math
import os
import sys
import threading
import weakref

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.lib.mixins import NDArrayOperatorsMixin

from ..errors import MiniVAEError

START = {np.add: 0.0, np.maximum: -math.inf, np.minimum: math.inf}  # of what the kind reduce adds up or compares
FEW_VALUES = 64  # so many may have a wider dtype than the model's: Adam's powers, the sums of losses
FOREIGN = (
    "this value comes from the trace of another step: a part that keeps arrays from one step to the next needs "
    "vae.backend.compiled = False"
)
HERE, NUMPY = (os.path.join(os.path.dirname(os.path.abspath(file)), "") for file in (__file__, np.__file__))


class Untraceable(MiniVAEError):
    """A step does something that cannot stand in a list; the message names the line."""


class Line:
    """Where in the source an operation stands, the one that runs or that of a frame."""

    def __init__(self, frame=None):
        frame = frame or sys._getframe(1)
        while frame.f_code.co_filename.startswith((HERE, NUMPY)):
            frame = frame.f_back
        self.file, self.number, self.function = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name

    @property
    def text(self):
        return linecache.getline(self.file, self.number).strip()

    def __str__(self):
        return f"{os.path.basename(self.file)}:{self.number}"


refused = threading.local()  # `why`: what `refuse` said last in this thread, also where the step has an `except` for it


def refuse(why, frame=None):
    """Raise Untraceable, naming the line of the step that is running, or that of a frame."""
    line = Line(frame)
    refused.why = f"{line}: {line.text or line.function}: {why}"
    raise Untraceable(refused.why)


class Value(NDArrayOperatorsMixin):
    """A stand-in for an array, and an operation of the list: how that array is made from others.

    kind, function, inputs, settings : the operation; for an elementwise one `function` is a ufunc, np.where, CAST or
        COPY, and `dtypes` are those in which it takes its inputs
    ghost : an array of the same shape, dtype and layout: of an input the step's own, of a constant its values, of all
            others memory that nobody touches
    base  : the value whose memory this is a view into, itself for all that are no views;  `view` makes it from there
    """

    __slots__ = "_base _trace dtypes function ghost inputs kind line number settings view".split()

    def __init__(self, trace, kind, ghost, function=None, inputs=(), settings=None, dtypes=(), base=None, view=None):
        self.kind, self.ghost, self.function, self.inputs = kind, ghost, function, inputs
        self.settings, self.dtypes, self._base, self.view = settings, dtypes, base, view
        self.line, self.number = Line(), len(trace.values)
        self._trace = weakref.ref(trace)  # in a circle of references a step's arrays, its data too, would outlive it
        trace.values.append(self)

    @property
    def base(self):
        return self if self._base is None else self._base

    @property
    def trace(self):
        return self._trace() or refuse(FOREIGN)

    shape = property(lambda self: self.ghost.shape)
    dtype = property(lambda self: self.ghost.dtype)
    ndim = property(lambda self: self.ghost.ndim)
    size = property(lambda self: self.ghost.size)
    T = property(lambda self: self.transpose())

    def __len__(self):
        return len(self.ghost)

    def __repr__(self):
        return f"%{self.number} = {self.name}{self.shape} {self.dtype} at {self.line}"

    @property
    def name(self):
        """What the operation is called in words."""
        return getattr(self.function, "__name__", self.kind)

    def on(self, array):
        """This value in the memory of its base, for an array that holds the base."""
        return self.view(array) if self.view else array

    # ---------------------------------------------------------------------------------------------- views

    def reshape(self, *shape, **named):
        self._take_no(named)
        return self.trace.view(self, lambda array: array.reshape(*shape))

    def ravel(self, **named):
        self._take_no(named)
        return self.trace.compact(self.reshape(-1))

    def transpose(self, *axes):
        return self.trace.view(self, lambda array: array.transpose(*axes))

    def __getitem__(self, key):
        parts = key if isinstance(key, tuple) else (key,)
        known = (int, np.integer, slice, type(None), type(Ellipsis))
        if not all(isinstance(part, known) and not isinstance(part, bool) for part in parts):
            refuse("an index should be made of integers and slices; for positions in an array use rows(table, index)")
        return self.trace.view(self, lambda array: array[key])

    def astype(self, dtype, copy=True, **named):
        self._take_no(named)
        value = self.trace.cast(self, np.dtype(dtype))
        return self.trace.compact(value) if copy else value

    @staticmethod
    def _take_no(named):
        if named:
            refuse(f"a traced step knows arrays in NumPy's own order only: leave out {', '.join(named)}=")

    # ----------------------------------------------------------------------------- what NumPy hands over

    def __array_ufunc__(self, ufunc, method, *inputs, **named):
        if method == "reduce" and ufunc in (np.add, np.maximum, np.minimum):
            return self.trace.reduce(ufunc, *inputs, **named)
        if method != "__call__":
            refuse(f"np.{ufunc.__name__}.{method} is not known to a traced step")
        if named:
            refuse(f"a traced step makes its results itself: leave out {', '.join(named)}=")
        if ufunc is np.matmul:
            return self.trace.matmul(*inputs)
        if ufunc is np.power:
            refuse("powers are 2, 0.5 and -1, written with **; another one is np.exp(p * np.log(x))")
        if ufunc.nout != 1 or ufunc.signature:
            refuse(f"np.{ufunc.__name__} is not known to a traced step: it makes no single result of single elements")
        return self.trace.elementwise(ufunc, inputs)

    def __pow__(self, power):
        functions = {2: np.square, 0.5: np.sqrt, -1: np.reciprocal}
        if type(power) not in (int, float) or power not in functions or self.dtype.kind != "f":
            refuse("powers are 2, 0.5 and -1, of floats; another one is np.exp(p * np.log(x))")
        return functions[power](self)

    def __array_function__(self, function, types, args, named):
        if function not in FUNCTIONS:
            refuse(f"np.{function.__name__} is not known to a traced step")
        try:
            inspect.signature(FUNCTIONS[function]).bind(self.trace, *args, **named)
        except TypeError as error:
            refuse(f"np.{function.__name__}, as a traced step knows it: {error}")
        return FUNCTIONS[function](self.trace, *args, **named)

    sum, mean, max, min = np.sum, np.mean, np.max, np.min  # as methods: x.sum(axis=0) is np.sum(x, axis=0)

    # ------------------------------------------------------------------------------- what has no meaning

    def _no_values(self, *_, **__):
        why = "a traced step cannot look at values, which differ from one step to the next"
        refuse(f"{why}; table[index] is rows(table, index)")

    __bool__ = __float__ = __int__ = __index__ = __complex__ = __array__ = __iter__ = __contains__ = _no_values
    item = tolist = any = all = _no_values

    def __getattr__(self, name):
        if name.startswith("__"):  # NumPy and Python ask for protocols, and take no for an answer
            raise AttributeError(name)
        refuse(f"arrays in a traced step have no .{name}")

    def _in_place(self, *_):
        refuse("a traced step changes no array in place: write x = x + y for x += y")

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __imatmul__ = __ipow__ = __setitem__ = fill = _in_place

    __hash__ = object.__hash__


class Trace:
    """The list of a step: `values` in the order in which they were noted, `inputs` and `assigned` by name.

    arrays : the step's arrays by name
    dtype  : the model's; more than a few values of a wider one are refused, since a single float64 number would make
             all that it meets four times slower

    `_memo` maps what makes a value to the value, so that equal ones are shared; `_shared` holds the numbers of those
    that stand for several arrays of the step.
    """

    def __init__(self, arrays, dtype=None):
        self.values, self.assigned, self._memo, self._shared = [], {}, {}, set()
        self.dtype = None if dtype is None else np.dtype(dtype)
        self.arrays = arrays
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray) and not array.flags.c_contiguous:
                raise Untraceable(f"the array {name!r} should be C-contiguous, as it lies on a GPU")
            if not array.ndim or not array.size:
                raise Untraceable(f"the array {name!r} should have an axis and a value, got shape {array.shape}")
        self.inputs = {
            name: Value(self, "input", array if isinstance(array, np.ndarray) else np.empty(array.shape, array.dtype),
                        settings=name)
            for name, array in arrays.items()
        }  # fmt: skip

    def run(self, function):
        """Note what a function of the inputs does; it returns new values for some of them, by name."""
        refused.why = None
        try:
            results = function(dict(self.inputs))
        except MiniVAEError:
            raise
        except Exception as error:  # of what takes arrays only; a mistake shows again in the eager run
            refuse(f"{type(error).__name__}: {error}", inspect.trace(0)[-1].frame)
        if refused.why:
            raise Untraceable(refused.why)
        if not isinstance(results, dict) or not results.keys() <= self.inputs.keys():
            raise Untraceable(f"a step should return new values for some of {', '.join(self.inputs)}, got {results!r}")
        for name, value in results.items():
            value, target = self.lift(value), self.inputs[name]
            if value.shape != target.shape:
                raise Untraceable(f"a step's new {name!r} should have the shape {target.shape}, got {value.shape}")
            if value.base.kind in ("input", "constant") and value is not target:
                value = self._copied(value, np.empty_like(value.ghost))
            self.assigned[name] = self.cast(value, target.dtype)
        return self

    def live(self):
        """The values that the assignments need, in order; views are left out, their bases count."""
        needed, stack = set(), [value.base for value in self.assigned.values()]
        while stack:
            value = stack.pop()
            if value.number not in needed:
                needed.add(value.number)
                stack += [source.base for source in value.inputs]
        return [value for value in self.values if value.number in needed]

    # ------------------------------------------------------------------------------------------ operations

    def _add(self, kind, ghost, function=None, inputs=(), settings=None, dtypes=()):
        """The value that this operation makes; the one that is there already, where one is."""
        numbers = tuple(value.number for value in inputs)
        key = kind, function, numbers, repr(settings), dtypes, ghost.dtype, ghost.strides
        if key in self._memo:
            self._shared.add(self._memo[key].number)
        return self._once(key, kind, ghost, function, inputs, settings, dtypes)

    def _once(self, key, *noted, **named):
        if key not in self._memo:
            self._memo[key] = Value(self, *noted, **named)
        return self._memo[key]

    def lift(self, x, dtype=None):
        """Anything that may be an operand as a value; a plain number in this dtype."""
        if isinstance(x, Value):
            if x.trace is not self:
                refuse(FOREIGN)
            return x
        if isinstance(x, np.ndarray):
            for name, array in self.arrays.items():
                if isinstance(array, np.ndarray) and np.may_share_memory(x, array):
                    refuse(f"it reads the memory of {name!r} past the stand-in, so what it holds now would be frozen")
            if not x.size:
                refuse(f"an array of shape {x.shape} holds no value")
            return self.constant(np.array(x))  # a copy: a step may go on to change it
        if isinstance(x, (bool, int, float, np.generic)):
            try:
                return self.constant(np.array(x, None if isinstance(x, np.generic) else dtype))
            except OverflowError as error:
                refuse(error)
        return refuse(f"{type(x).__name__} is no operand of a traced step")

    def constant(self, array):
        key = "constant", array.dtype, array.shape, array.strides, hashlib.sha256(array.tobytes()).digest()
        return self._once(key, "constant", array)

    def _copied(self, value, ghost):
        return self._add("elementwise", ghost, COPY, (value,), dtypes=(value.dtype,))

    def compact(self, value, ghost=None):
        """The value in memory without gaps, as NumPy's copies are (and `ghost`): the layout shows in rounded sums."""
        ghost = np.empty_like(value.ghost) if ghost is None else ghost
        if ghost.squeeze().strides != value.ghost.squeeze().strides:
            return self._copied(value, ghost)
        self._shared.add(value.base.number)
        return value

    def view(self, value, function):
        """The value, seen through a function that makes a view of an array, or a copy where it cannot."""
        ghost = function(value.ghost)
        if not ghost.ndim or not ghost.size:
            values = "no value" if ghost.ndim else "a single value"
            refuse(f"{ghost.shape} is the shape of {values}: take a slice such as x[i : i + 1]")
        if value.kind == "constant":
            return self.constant(ghost)
        if not np.may_share_memory(ghost, value.ghost):
            copy = self._copied(value, np.empty(value.shape, value.dtype))
            if not np.may_share_memory(function(copy.ghost), copy.ghost):
                refuse("it makes a copy of an array where a traced step knows views")
            return self.view(copy, function)
        offset = ghost.__array_interface__["data"][0] - value.base.ghost.__array_interface__["data"][0]
        key = "view", value.base.number, offset, ghost.shape, ghost.strides
        return self._once(
            key, "view", ghost, inputs=(value,), base=value.base, view=lambda array: function(value.on(array))
        )

    def elementwise(self, function, inputs, dtypes=None):
        """A function of each element; dtypes are those of its inputs and of its result, by default NumPy's own."""
        if dtypes is None:
            inputs = [x if type(x) in (int, float) else self.lift(x) for x in inputs]
            kinds = [type(x) if type(x) in (int, float) else x.dtype for x in inputs]
            try:
                dtypes = function.resolve_dtypes((*kinds, None))
            except TypeError:
                refuse(f"np.{function.__name__} does not take {', '.join(map(str, kinds))}")
        inputs = tuple(self.lift(x, dtype) for x, dtype in zip(inputs, dtypes, strict=False))
        if all(value.kind == "constant" for value in inputs):
            with np.errstate(all="ignore"):
                return self.constant(np.asarray(function(*(value.ghost for value in inputs)), dtypes[-1]))
        try:
            ghost = _allocated([value.ghost for value in inputs], dtypes[-1])
        except ValueError:
            refuse(f"shapes {', '.join(str(value.shape) for value in inputs)} do not fit together")
        self._check_width(ghost, inputs)
        return self._add("elementwise", ghost, function, inputs, dtypes=tuple(dtypes[:-1]))

    def _check_width(self, ghost, inputs):
        wide = ghost.dtype.kind == "f" and self.dtype is not None and ghost.dtype.itemsize > self.dtype.itemsize
        if wide and ghost.size > FEW_VALUES:
            given = ", ".join(str(value.dtype) for value in inputs)
            refuse(f"{given} make {ghost.dtype}, wider than the model's {self.dtype}: cast with .astype({self.dtype})")

    def cast(self, value, dtype):
        if value.dtype == dtype:
            return value
        if value.kind == "constant":
            return self.constant(value.ghost.astype(dtype))
        ghost = np.empty_like(value.ghost, dtype)
        self._check_width(ghost, [value])
        return self._add("elementwise", ghost, CAST, (value,), dtypes=(value.dtype,))

    def reduce(self, ufunc, x, axis=0, *others, keepdims=False, **named):
        if any(value is not None for value in (*others, *named.values())):
            refuse(f"a traced {ufunc.__name__}.reduce knows axis= and keepdims= only")
        x = self.lift(x)
        axes = normalize_axis_tuple(range(x.ndim) if axis is None else axis, x.ndim)
        if len(axes) == x.ndim and not keepdims:
            refuse("a full sum should keep an axis: add keepdims=True, so that it is an array in every step")
        if x.dtype.kind != "f" or x.dtype.itemsize < 4:
            refuse(f"sums and maxima are of float32 or float64; this is {x.dtype}: cast it with .astype")
        rest = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        ghost = _reduced(x.ghost, axes)
        if any(x.shape[i] != 1 for i in axes):
            value = self._add("reduce", ghost, ufunc, (x,), settings=axes)
        elif ufunc is np.add:  # 0 + x, since a sum starts from 0, which makes 0 of -0
            value = self._add("elementwise", ghost, np.add, (x, self.lift(0, x.dtype)), dtypes=(x.dtype, x.dtype))
        else:
            value = self.compact(x, ghost)
        return value if keepdims else value.reshape(rest)

    def matmul(self, a, b):
        a, b = self.lift(a), self.lift(b)
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            refuse(f"@ takes two matrices that fit, got {a.shape} and {b.shape}")
        if a.dtype != b.dtype or a.dtype.kind != "f":
            refuse(f"@ takes two matrices of one float dtype, got {a.dtype} and {b.dtype}")
        if a.base.number in self._shared and same_memory(a.ghost, b.ghost.T):
            # NumPy rounds x.T @ x differently where x is one array; here it could be one or two.
            refuse("both factors are the same value, which is computed twice: compute it once")
        return self._add("matmul", np.empty((a.shape[0], b.shape[1]), a.dtype), np.matmul, (a, b))

    def concatenate(self, parts, axis=0):
        if axis is None:
            refuse("np.concatenate joins along an axis: flatten the parts first")
        parts = tuple(self.lift(part) for part in parts)
        (axis,) = normalize_axis_tuple(axis, parts[0].ndim)
        if any(part.dtype != parts[0].dtype for part in parts):
            refuse(f"parts of one dtype are expected, got {', '.join(str(part.dtype) for part in parts)}")
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        if any(part.shape[:axis] + part.shape[axis + 1 :] != (*shape[:axis], *shape[axis + 1 :]) for part in parts):
            refuse(f"shapes {', '.join(str(part.shape) for part in parts)} do not fit together along axis {axis}")
        # NumPy orders the result's axes by the parts' strides: let it do so for the first few elements.
        corners = np.concatenate([part.ghost[tuple(slice(0, 2) for _ in shape)] for part in parts], axis=axis)
        ghost = laid_out(np.empty(math.prod(shape), parts[0].dtype), shape, corners)
        if len(parts) == 1:
            return self.compact(parts[0], ghost)
        return self._add("assemble", ghost, np.concatenate, parts, settings=axis)


def same_memory(x, y):
    """Whether two arrays hold the same values in the same order, but for axes of length 1."""
    x, y = x.squeeze(), y.squeeze()
    return x.shape == y.shape and x.strides == y.strides and x.ctypes.data == y.ctypes.data


def laid_out(buffer, shape, like):
    """An array in a flat buffer whose axes lie in memory in the order of those of another one."""
    order = sorted(range(len(shape)), key=lambda i: (-abs(like.strides[i]), i))
    array = buffer[: math.prod(shape)].reshape([shape[i] for i in order])
    return array.transpose([order.index(i) for i in range(len(shape))])


def _allocated(ghosts, dtype):
    """An array as a ufunc would allocate it for these inputs: broadcast, in the order of their memory."""
    return np.nditer([*ghosts, None], op_dtypes=[None] * len(ghosts) + [dtype]).operands[-1]


def _reduced(ghost, axes):
    """An array as a reduction would allocate it, with length 1 along the axes."""
    kept = [i for i in range(ghost.ndim) if i not in axes]
    places = [kept.index(i) if i in kept else -1 for i in range(ghost.ndim)]
    flags = [["readonly"], ["readwrite", "allocate"]]
    iterator = np.nditer([ghost, None], ["reduce_ok"], flags, op_axes=[list(range(ghost.ndim)), places], order="K")
    return iterator.operands[-1].reshape([1 if i in axes else n for i, n in enumerate(ghost.shape)])


def trace(function, arrays, dtype=None):
    """The list of what function(arrays) -> {name: new value} does.

    The function runs twice: where the lists differ, something changes from step to step that is not in the arrays, such
    as random numbers or a counter in a Python variable.
    """
    first, second = Trace(arrays, dtype).run(function), Trace(arrays, dtype).run(function)
    for one, other in (second, first), (first, second):
        notes, others = ({**t._memo, **{(name, v.number): v for name, v in t.assigned.items()}} for t in (one, other))
        for value in (value for key, value in notes.items() if key not in others):
            why = "this differs from one step to the next: what changes should be in the step's arrays"
            raise Untraceable(f"{value.line}: {value.line.text}: {why}")
    return second


# ---------------------------------------------------------------------------- functions of NumPy's that are no ufuncs


def CAST(x):  # noqa: N802  stands where a ufunc stands
    raise NotImplementedError


def COPY(x):  # noqa: N802
    raise NotImplementedError


CAST.__name__, COPY.__name__ = "cast", "copy"


def _where(trace, condition, x, y):
    dtype = np.result_type(*(v if type(v) in (int, float) else trace.lift(v).dtype for v in (x, y)))
    condition = trace.lift(condition)
    condition = condition if condition.dtype == bool else condition != 0
    return trace.elementwise(np.where, (condition, x, y), (np.dtype(bool), dtype, dtype, dtype))


def _clip(trace, x, a_min, a_max):
    return np.minimum(np.maximum(x, a_min), a_max)


def _reduction(ufunc):
    def reduction(trace, x, axis=None, *others, keepdims=False, **named):
        return trace.reduce(ufunc, x, axis, *others, keepdims=keepdims, **named)

    return reduction


def _mean(trace, x, axis=None, *others, keepdims=False, **named):
    total = trace.reduce(np.add, x, axis, *others, keepdims=keepdims, **named)
    return total / (x.size // total.size)


def _full_like(trace, x, fill_value, dtype=None, *, shape=None):
    return np.full_like(x.ghost, fill_value, dtype, shape=shape)


def _stack(trace, parts, axis=0):
    return trace.concatenate([np.expand_dims(trace.lift(part), axis) for part in parts], axis)


def _viewing(function):
    def viewing(trace, x, *args, **named):
        return trace.view(trace.lift(x), lambda array: function(array, *args, **named))

    return viewing


FUNCTIONS = {
    np.sum: _reduction(np.add),
    np.max: _reduction(np.maximum),
    np.min: _reduction(np.minimum),
    np.mean: _mean,
    np.where: _where,
    np.clip: _clip,
    np.concatenate: lambda trace, parts, axis=0: trace.concatenate(parts, axis),
    np.stack: _stack,
    np.zeros_like: lambda trace, x, dtype=None, *, shape=None: _full_like(trace, x, 0, dtype, shape=shape),
    np.ones_like: lambda trace, x, dtype=None, *, shape=None: _full_like(trace, x, 1, dtype, shape=shape),
    np.full_like: _full_like,
    np.shape: lambda trace, x: x.shape,
    np.ndim: lambda trace, x: x.ndim,
}
for _function in (np.reshape, np.transpose, np.broadcast_to, np.expand_dims, np.squeeze, np.swapaxes, np.moveaxis):
    FUNCTIONS[_function] = _viewing(_function)


# ----------------------------------------------------------------------------------------------- primitives


def primitive(shape):
    """A decorator: the function notes itself as one operation where an argument is a stand-in.

    shape(*arguments) gives the shape of its value, whose dtype is that of the first argument and which is C-contiguous.
    The function itself is the definition, in NumPy; arguments that are no arrays are settings.
    """

    def decorate(function):
        @functools.wraps(function)
        def call(*arguments):
            values = [x for x in arguments if isinstance(x, Value)]
            if not values:
                return function(*arguments)
            trace = values[0].trace
            arrays = [x for x in arguments if isinstance(x, (Value, np.ndarray))]
            settings = tuple(x for x in arguments if not isinstance(x, (Value, np.ndarray)))
            inputs = tuple(trace.lift(x) for x in arrays)
            ghost = np.empty(shape(*arguments), inputs[0].dtype)
            return trace._add("primitive", ghost, call, inputs, settings)

        call.definition = function
        return call

    return decorate


def _rows_shape(table, index):
    if index.dtype.kind not in "iu":
        refuse(f"rows(table, index) takes integers as index, got {index.dtype}")
    return *index.shape, *table.shape[1:]


@primitive(_rows_shape)
def rows(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Rows of a table: y[i] = table[index[i]].

    table (N, ...), index (n,), integers from 0 to N - 1 -> y (n, ...)

    No range is checked here: what holds the positions is checked when it is made.
    """
    return table.take(index, axis=0)
