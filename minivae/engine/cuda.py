"""CUDA C for the operations of a list: the loops of which kernels are made.

Shapes, strides and numbers stand in the source, so that a kernel's arguments are nothing but arrays:

    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < 25600; i += gridDim.x * blockDim.x) {
        const float x0 = p0[i];
        const float x1 = p1[i % 256];
        const float v33 = x0 + x1;
        p2[i] = v33;
    }
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .plan import is_number, merged, over, squeezed
from .tracing import CAST, COPY, START, Untraceable, rows

BLOCK = 256  # threads in a block
MAX_PARTS = 128  # of a long sum
SHORT = 16  # numbers that a thread may well reduce by itself

TYPES = {
    "float32": "float", "float64": "double", "bool": "bool", "int8": "signed char", "uint8": "unsigned char",
    "int16": "short", "uint16": "unsigned short", "int32": "int", "uint32": "unsigned int", "int64": "long long",
}  # fmt: skip

# For each function an expression: {0}, {1}, {2} are its inputs; {f}, the suffix of functions of float32, stands where
# they must be floats. Comparisons with a NaN are false, and x != x holds for a NaN alone: so maximum and minimum pass
# it on, as NumPy's do.
EXPRESSIONS: dict = {
    CAST: "{0}", COPY: "{0}", np.positive: "{0}", np.negative: "-{0}", np.where: "{0} ? {1} : {2}",
    np.add: "{0} + {1}", np.subtract: "{0} - {1}", np.multiply: "{0} * {1}", np.divide: "{0} / {1}",
    np.square: "{0} * {0}", np.reciprocal: "1 / {0}", np.absolute: "{0} < 0 ? -{0} : {0} + 0",
    np.sign: "{0} != {0} ? {0} : ({0} > 0) - ({0} < 0)",
    np.maximum: "{0} > {1} || {0} != {0} ? {0} : {1}", np.minimum: "{0} < {1} || {0} != {0} ? {0} : {1}",
    np.greater: "{0} > {1}", np.greater_equal: "{0} >= {1}", np.less: "{0} < {1}", np.less_equal: "{0} <= {1}",
    np.equal: "{0} == {1}", np.not_equal: "{0} != {1}", np.isnan: "{0} != {0}", np.isfinite: "{0} - {0} == 0",
    np.logical_and: "{0} && {1}", np.logical_or: "{0} || {1}", np.logical_not: "!{0}", np.logical_xor: "!{0} != !{1}",
    np.bitwise_and: "{0} & {1}", np.bitwise_or: "{0} | {1}", np.bitwise_xor: "{0} ^ {1}",
    np.logaddexp: "{0} == {1} ? {0} + 0.6931471805599453{f} : "
                  "fmax{f}({0}, {1}) + log1p{f}(exp{f}(-fabs{f}({0} - {1})))",
    **{function: f"{function.__name__}{{f}}({{0}})" for function in (
        np.exp, np.exp2, np.expm1, np.log, np.log2, np.log10, np.log1p, np.sqrt, np.cbrt, np.sin, np.cos, np.tan,
        np.sinh, np.cosh, np.tanh, np.rint, np.floor, np.ceil, np.trunc, np.fabs)},
    **{function: f"a{function.__name__[3:]}{{f}}({{0}})" for function in (
        np.arcsin, np.arccos, np.arctan, np.arcsinh, np.arccosh, np.arctanh)},
    np.arctan2: "atan2{f}({0}, {1})", np.hypot: "hypot{f}({0}, {1})", np.copysign: "copysign{f}({0}, {1})",
    np.fmax: "fmax{f}({0}, {1})", np.fmin: "fmin{f}({0}, {1})",
}  # fmt: skip

# What `lanes` threads have found that work on the same row and lie `apart`; the first of them gets the result.
REDUCE = """
__device__ {type} {name}({type} x, int lanes, int apart) {{
    __shared__ {type} found[{block}];
    const int t = threadIdx.x, lane = t / apart % lanes;
    found[t] = x;
    __syncthreads();
    for (int n = lanes / 2; n; n /= 2) {{
        if (lane < n) {{
            const {type} a = found[t], b = found[t + n * apart];
            found[t] = {expression};
        }}
        __syncthreads();
    }}
    return found[t];
}}
"""


def check(trace):
    """Raise Untraceable where a list holds a function or a dtype that has no C here."""
    for value in trace.live():
        what = None if value.dtype.name in TYPES else value.dtype
        if value.kind == "elementwise":
            of_floats = "{f}" in EXPRESSIONS.get(value.function, "{f}")
            if value.function not in EXPRESSIONS or of_floats and value.dtypes[-1].kind != "f":
                what = f"np.{value.name} of {value.dtypes[-1]}"
        if what:
            raise Untraceable(f"{value.line}: {value.line.text}: the GPU's kernels do not know {what}")


def c_type(dtype):
    return TYPES[np.dtype(dtype).name]


def expression(function, inputs, dtype):
    """C for a function of inputs, C too, that are of this dtype."""
    return EXPRESSIONS[function].format(*inputs, f="f" if dtype == np.float32 else "")


def literal(x, dtype):
    """A number as C, of exactly this dtype."""
    x = dtype.type(x)
    if dtype.kind == "b":
        return str(x).lower()
    if dtype.kind != "f":
        return f"({c_type(dtype)}){x}"
    suffix = "f" if dtype == np.float32 else ""
    if np.isfinite(x):
        return f"({x!s}{suffix})"
    return f"({'0' if np.isnan(x) else '1' if x > 0 else '-1'}.0{suffix} / 0.0{suffix})"


def offset(array, shape, i):
    """C for where element i of a shape, counted in C order, lies in an array that is broadcast to it."""
    sizes, (steps,) = merged(squeezed(shape), [over(array, shape)])
    terms = []
    for k, (n, step) in enumerate(zip(sizes, steps, strict=True)):
        behind, apart = math.prod(sizes[k + 1 :]), step // array.dtype.itemsize
        place = i if behind == 1 else f"{i} / {behind}"
        place = f"{place} % {n}" if k else place
        if n > 1 and apart:
            terms.append(place if apart == 1 else f"{place} * {apart}")
    return " + ".join(terms) or "0"


class Code:
    """The source of a kernel while it is written, and the arrays that are its arguments.

    anew : the numbers of values that are made wherever they are read
    """

    def __init__(self, plan, anew):
        self.plan, self.anew, self.arrays, self.reductions = plan, anew, {}, {}

    def begin(self):
        """Begin another loop: what was computed in the last one is forgotten."""
        self.lines, self.stores, self.made = [], [], {}

    def statements(self, indent):
        """What one round of the loop does; everything is read before anything is written."""
        return "".join(f"{indent}{line}\n" for line in self.lines + self.stores)

    def pointer(self, array):
        """The parameter that points to an array's first element."""
        key = array.data.ptr, array.dtype
        self.arrays.setdefault(key, array)
        return f"p{[*self.arrays].index(key)}"

    def let(self, dtype, text, name=None):
        """A variable with the value of an expression."""
        key = text, c_type(dtype)
        if key not in self.made:
            self.made[key] = name or f"x{len(self.lines)}"
            self.lines.append(f"const {c_type(dtype)} {self.made[key]} = {text};")
        return self.made[key]

    def load(self, array, place):
        return self.let(array.dtype, f"{self.pointer(array)}[{place}]")

    def store(self, array, place, text):
        self.stores.append(f"{self.pointer(array)}[{place}] = {text};")

    def read(self, source, shape, i):
        """C for element i, in C order, of an operand that is broadcast to a shape."""
        base = source.base
        if base.number in self.anew:
            bases = base.ghost.__array_interface__["data"][0]
            start = (source.ghost.__array_interface__["data"][0] - bases) // base.dtype.itemsize
            place = offset(source.ghost, shape, i)
            place = f"{place} + {start}" if start else place
            return self.compute(base, place if place.isalnum() else self.let("int32", place))
        if (base.number, i) in self.made:  # by this loop, for the same element
            return self.made[base.number, i]
        if is_number(base):
            return literal(base.ghost.flat[0], base.dtype)
        array = self.plan.array(source)
        return self.load(array, offset(array, shape, i))

    def compute(self, value, i):
        """The variable that holds element i of a value."""
        if (value.number, i) not in self.made:
            if value.function is rows:
                text = self._row(*value.inputs, i)
            else:
                inputs = []
                for source, dtype in zip(value.inputs, value.dtypes, strict=True):
                    text = self.read(source, value.shape, i)
                    inputs.append(text if source.dtype == dtype else f"({c_type(dtype)}){text}")
                text = expression(value.function, inputs, value.dtypes[-1])
            name = f"v{value.number}" if i == "i" else f"v{value.number}_{i}"
            self.made[value.number, i] = self.let(value.dtype, text, name)
        return self.made[value.number, i]

    def make(self, value):
        """Compute element i of a value of the loop's group, and keep it where somebody else reads it."""
        variable = self.compute(value, "i")
        if self.plan.in_memory(value):
            array = self.plan.array(value)
            self.store(array, offset(array, value.shape, "i"), variable)

    def _row(self, table, index, i):
        """C for element i of rows(table, index)."""
        array, width, column = self.plan.array(table), math.prod(table.shape[1:]), "0"
        if width > 1:
            i, column = self.let("int32", f"{i} / {width}"), self.let("int32", f"{i} % {width}")
        place = f"(long long){self.read(index, index.shape, i)} * {array.strides[0] // array.dtype.itemsize}"
        return f"{self.pointer(array)}[{place} + {offset(array[0], table.shape[1:], column)}]"

    def reduced(self, function, dtype, text, lanes, apart):
        """C for what the threads that share a row have found together."""
        if lanes == 1:
            return text
        name = f"{function.__name__}_{c_type(dtype)}"
        made = expression(function, ("a", "b"), dtype)
        self.reductions[name] = REDUCE.format(name=name, type=c_type(dtype), block=BLOCK, expression=made)
        return f"{name}({text}, {lanes}, {apart})"


# -------------------------------------------------------------------------------------------------------- loops


class Loop(NamedTuple):
    """A loop of a kernel: how many elements it has, the grid of blocks that suits it, and write(code) -> its source."""

    size: int
    grid: tuple
    write: Callable


def _over(size, write):
    """A loop over so many elements, a thread for each."""
    head = f"for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < {size}; i += gridDim.x * blockDim.x)"

    def written(code):
        write(code)
        return f"    {head} {{\n{code.statements('        ')}    }}\n"

    return Loop(size, (-(-size // BLOCK), 1), written)


def elements(values):
    """A loop over the elements of a group."""

    def write(code):
        for value in values:
            code.make(value)

    return _over(values[0].size, write)


def copy(out, x):
    """A loop that copies an array."""

    def write(code):
        code.store(out, offset(out, out.shape, "i"), code.load(x, offset(x, out.shape, "i")))

    return _over(out.size, write)


def row_sums(plan, values, sums):
    """A loop over the elements of a group that makes sums along its rows, too."""
    n = next(n for n in reversed(values[0].shape) if n != 1)

    def numbers(code):
        code.lines.append(f"const int i = r * {n} + c;")
        for value in values:
            code.make(value)
        return [code.read(total.inputs[0], total.inputs[0].shape, "i") for total in sums]

    results = [(np.add, plan.array(total), total.shape) for total in sums]
    return _reduction(values[0].size // n, n, numbers, results)


def reductions(plan, value):
    """The loops that make a sum or a maximum over some axes of an array: one, or two where it is long."""
    x, out, axes = plan.array(value.inputs[0]), plan.array(value), value.settings
    kept = [axis for axis in range(x.ndim) if axis not in axes]

    def place(along, i):
        part = x[tuple(slice(None if axis in along else 1) for axis in range(x.ndim))]
        return offset(part, part.shape, i)

    def numbers(code):
        return [code.load(x, f"{place(kept, 'r')} + {place(axes, 'c')}")]

    def nearest(along):
        return min((abs(x.strides[axis]) for axis in along if x.shape[axis] > 1), default=math.inf)

    n_rows, n, across = value.size, x.size // value.size, nearest(kept) < nearest(axes)
    lanes = _lanes(n, across)
    n_parts = min(MAX_PARTS, n // (SHORT * lanes), 4 * BLOCK // -(-n_rows * lanes // BLOCK))
    if n_parts <= 4:
        return [_reduction(n_rows, n, numbers, [(value.function, out, value.shape)], across)]
    parts = plan.scratch("", "parts", (n_parts, n_rows), x.dtype)
    return [
        _reduction(n_rows, n, numbers, [(value.function, parts, parts.shape)], across, n_parts),
        _reduction(
            n_rows, n_parts, lambda code: [code.load(parts, f"r + c * {n_rows}")],
            [(value.function, out, value.shape)], across=True,
        ),
    ]  # fmt: skip


def _lanes(n, across):
    """How many threads share a row of n numbers: a power of two, less where neighbouring threads are in other rows."""
    return 1 << min(n.bit_length() - 1, 5 if across else 8)


def _reduction(n_rows, n, numbers, results, across=False, n_parts=1):
    """A loop over n_rows rows of n numbers each that reduces every row.

    numbers : writes the code for column c of row r; returns the numbers to reduce, as C
    results : (function, array, shape) for each of them: the result of row r is element r of the shape
    across  : neighbouring threads are in neighbouring rows instead of in one, as neighbours should read neighbours
    n_parts : each row is reduced in so many parts; a part's results lie behind those of the parts before it
    """
    lanes = _lanes(n, across)
    at_once = BLOCK // lanes  # rows that a block works on

    def write(code):
        before, after = "", ""
        for k, (number, (function, array, shape)) in enumerate(zip(numbers(code), results, strict=True)):
            before += f"        {c_type(array.dtype)} s{k} = {literal(START[function], array.dtype)};\n"
            code.stores.append(f"s{k} = {expression(function, (f's{k}', number), array.dtype)};")
            reduced = code.reduced(function, array.dtype, f"s{k}", lanes, at_once if across else 1)
            place = f"{code.pointer(array)}[{offset(array, shape, 'o')}]"
            after += f"        s{k} = {reduced};\n        if (lane == 0 && r < {n_rows}) {place} = s{k};\n"
        row, lane = ("%", "/") if across else ("/", "%")
        unit = at_once if across else lanes
        return (
            f"    for (int first = blockIdx.x * {at_once}; first < {n_rows}; first += gridDim.x * {at_once}) {{\n"
            f"        const int r = first + threadIdx.x {row} {unit}, lane = threadIdx.x {lane} {unit};\n"
            f"        const int o = blockIdx.y * {n_rows} + r;\n"
            f"{before}"
            f"        for (int c = blockIdx.y * {lanes} + lane; r < {n_rows} && c < {n}; c += gridDim.y * {lanes}) {{\n"
            f"{code.statements(' ' * 12)}        }}\n"
            f"{after}    }}\n"
        )

    return Loop(n_rows * n, (-(-n_rows // at_once), n_parts), write)
