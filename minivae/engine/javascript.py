"""A list as a program in JavaScript, so that a page computes what the equations say, with no server and no library.

All arrays lie in one block of memory, where the plan has put them; a number of the program is a place in it. A group
of elementwise operations is one loop, with the sums along its rows:

    for (let i = 0; i < 25600; i++) {
        const v33 = F4[1024 + i] + F4[400 + i % 256];
        ...

Numbers are computed with the 64 bits that JavaScript has and rounded where they are stored, so results agree with
NumPy's to the rounding of the model's dtype.
"""

import base64
import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .convolution import chunk_steps
from .cuda import EXPRESSIONS
from .plan import Plan, elementwise_of, is_number, merged, over, whole_loop
from .tracing import CAST, START, Untraceable, rows, trace

# The views of the memory. JavaScript's integers of 64 bits are slow; as floats they are exact up to 2^53.
TYPES = {"float32": "F4", "float64": "F8", "int64": "F8", "uint8": "U1", "bool": "U1"}
LOGICAL = (np.logical_and, np.logical_or, np.logical_not, np.logical_xor)
MOST_BYTES = 1 << 31  # of memory that a program may ask for
PATCH_BYTES = 1 << 26  # of a convolution's patches at a time

# From the 16 bits of a float to its value, where that is finite.
FROM_HALF = """h => {
    const sign = h & 0x8000 ? -1 : 1, exponent = h >> 10 & 31, fraction = h & 1023;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}"""

# What the expressions call, under the names that C gives them, and the matrix product.
PRELUDE = """
const {exp, expm1, log, log2, log10, log1p, sqrt, cbrt, sin, cos, tan, sinh, cosh, tanh, floor, ceil, trunc, asin, acos,
    atan, asinh, acosh, atanh, atan2, hypot, abs: fabs} = Math;
const exp2 = x => 2 ** x, rint = x => x - Math.round(x) === -0.5 ? 2 * Math.round(x / 2) : Math.round(x);
const fmax = (x, y) => x !== x ? y : y !== y ? x : Math.max(x, y);
const fmin = (x, y) => x !== x ? y : y !== y ? x : Math.min(x, y);
const copysign = (x, y) => (y < 0 || Object.is(y, -0)) === (x < 0 || Object.is(x, -0)) ? x : -x;
// c = a b, or c += a b, of matrices in memory: where each starts, and how far apart its rows and columns lie. Four
// rows or columns of b at a time: each number that is read serves four products, which is two to four times as fast.
const product = (memory, a, aRow, aColumn, b, bRow, bColumn, c, cRow, m, k, n, add) => {
    const total = new Float64Array(n);
    for (let i = 0; i < m; i++, a += aRow, c += cRow) {
        for (let j = 0; j < n; j++) total[j] = add ? memory[c + j] : 0;
        if (bColumn === 1) {
            let l = 0;
            for (; l + 3 < k; l += 4) {
                const p = a + l * aColumn, q0 = b + l * bRow, q1 = q0 + bRow, q2 = q1 + bRow, q3 = q2 + bRow;
                const x0 = memory[p], x1 = memory[p + aColumn];
                const x2 = memory[p + 2 * aColumn], x3 = memory[p + 3 * aColumn];
                for (let j = 0; j < n; j++)
                    total[j] += x0 * memory[q0 + j] + x1 * memory[q1 + j] + x2 * memory[q2 + j] + x3 * memory[q3 + j];
            }
            for (; l < k; l++) {
                const x = memory[a + l * aColumn], q = b + l * bRow;
                for (let j = 0; j < n; j++) total[j] += x * memory[q + j];
            }
        } else {
            let j = 0;
            for (; j + 3 < n; j += 4) {
                let s0 = 0, s1 = 0, s2 = 0, s3 = 0, p = a, q = b + j * bColumn;
                for (let l = 0; l < k; l++, p += aColumn, q += bRow) {
                    const x = memory[p];
                    s0 += x * memory[q]; s1 += x * memory[q + bColumn];
                    s2 += x * memory[q + 2 * bColumn]; s3 += x * memory[q + 3 * bColumn];
                }
                total[j] += s0; total[j + 1] += s1; total[j + 2] += s2; total[j + 3] += s3;
            }
            for (; j < n; j++)
                for (let l = 0; l < k; l++) total[j] += memory[a + l * aColumn] * memory[b + j * bColumn + l * bRow];
        }
        for (let j = 0; j < n; j++) memory[c + j] = total[j];
    }
};
"""


class _Memory:
    """One block in which a program's arrays lie one after another, each on a cache line's start."""

    def __init__(self):
        self.block, self.used = np.empty(MOST_BYTES, np.uint8), 0

    def empty(self, shape, dtype):
        size = math.prod(shape) * np.dtype(dtype).itemsize
        start, self.used = self.used, self.used + -(-size // 64) * 64
        if self.used > MOST_BYTES:
            raise Untraceable(f"a program in JavaScript may use {MOST_BYTES:,} bytes; this step needs more")
        return self.block[start : start + size].view(dtype).reshape(shape)

    def copy(self, array):
        out = self.empty(array.shape, array.dtype)
        out[...] = array
        return out

    def place(self, array):
        """Where an array's first element lies, counted in elements, as the index of a view of the memory."""
        return (array.__array_interface__["data"][0] - self.block.ctypes.data) // array.itemsize


def javascript(function, arrays, dtype=None):
    """A step as JavaScript: the text of an expression, a function that makes a new instance of the step.

        const step = (TEXT)();
        step.arrays.x.set([1, 2, 3]);
        step.run();

    `step.arrays` holds the step's arrays by name, as typed arrays in C order, at first with the values that `arrays`
    has; integers are floats there. The arguments are those of a backend's `compile`; raises Untraceable where a step
    cannot be traced or does what has no JavaScript here.
    """
    return Program(function, arrays, dtype).text


class _Everything(Plan):
    """A plan that keeps each value of a list, in memory of its own, for those who want to look at it."""

    def in_memory(self, value):
        return True

    def _inherited(self, value, i, last):
        return None

    def _taken(self, value, free):
        return super()._taken(value, [])


class Program:
    """What `javascript` writes.

    keep : whether all values stay in memory until the next run, where `at(value)` says how to find them
    """

    def __init__(self, function, arrays, dtype=None, keep=False):
        self.memory = memory = _Memory()
        self.lines, self.indent, self._constants = [], 2, []
        list_ = trace(function, {name: memory.copy(array) for name, array in arrays.items()}, dtype)
        self.plan = (_Everything if keep else Plan)(list_, memory.empty, self._constant, whole_loop)
        for value in self.plan.values:
            for dtype in (value.dtype, *value.dtypes):
                if dtype.name not in TYPES:
                    raise Untraceable(f"{value.line}: {value.line.text}: the JavaScript engine does not know {dtype}")
            if value.kind == "elementwise" and value.function not in EXPRESSIONS:
                raise Untraceable(f"{value.line}: {value.line.text}: there is no JavaScript for {value.name} here")
        for group in self.plan.groups:
            self._add(group)
        for target, value in self.plan.copies:
            self._copy(self.plan.array(value), target)

    @property
    def text(self):
        views = {name: (TYPES[array.dtype.name], array) for name, array in self.plan.trace.arrays.items()}
        kinds = {"F4": "Float32Array", "F8": "Float64Array", "U1": "Uint8Array"}
        lines = [
            "() => {",
            PRELUDE,
            f"    const memory = new ArrayBuffer({-(-self.memory.used // 64) * 64});",
            *(f"    const {name} = new {kind}(memory);" for name, kind in kinds.items()),
            "    const decoded = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));",
            f"    const halves = text => Float32Array.from(new Uint16Array(decoded(text).buffer), {FROM_HALF});",
            *(self._filled(array) for array in [*self._constants, *(array for _, array in views.values())]),
            "    const arrays = {",
            *(
                f"        {name!r}: {kind}.subarray({place}, {place + array.size}),"
                for name, (kind, array) in views.items()
                for place in [self.memory.place(array)]
            ),
            "    };",
            "    const run = () => {",
            *self.lines,
            "    };",
            "    return {arrays, run, F4, F8, U1};",
            "}",
        ]
        return "\n".join(line for line in lines if line)

    def at(self, value):
        """Where a value lies: the view of the memory, the first element, the shape, and the steps along its axes."""
        array = self.plan.array(value)
        steps = [step // array.itemsize for step in array.strides]
        view = TYPES[array.dtype.name]
        return {"view": view, "first": self.memory.place(array), "shape": array.shape, "steps": steps}

    def _constant(self, value):
        self._constants.append(self.memory.copy(value))
        return self._constants[-1]

    def _filled(self, array):
        """The statement that puts an array's values into the memory; none where all are 0.

        Short where it can be: one number where all are the same, 16 bits for each where these have the same values.
        """
        if not array.tobytes().strip(b"\0"):
            return ""
        kept = array.astype("float64") if array.dtype == np.int64 else array
        view, place, first = TYPES[array.dtype.name], self.memory.place(array), kept.flat[0]
        if np.isfinite(first) and kept.tobytes() == first.tobytes() * kept.size:
            return f"    {view}.fill({float(first)!r}, {place}, {place + kept.size});"
        if kept.dtype.kind == "f" and np.isfinite(kept).all() and np.abs(kept).max() < np.finfo("f2").max:
            halves = kept.astype("f2")
            if halves.astype(kept.dtype).tobytes() == kept.tobytes():
                return f'    {view}.set(halves("{base64.b64encode(halves.tobytes()).decode()}"), {place});'
        text = base64.b64encode(kept.tobytes()).decode()
        return f'    U1.set(decoded("{text}"), {place * array.itemsize});'

    # -------------------------------------------------------------------------------------------- statements

    def _line(self, text):
        self.lines.append("    " * self.indent + text)

    def _loops(self, sizes, body, name="i"):
        """Loops over some axes, around what body(indices) writes."""
        indices = [f"{name}{axis}" for axis in range(len(sizes))]
        for index, n in zip(indices, sizes, strict=True):
            self._line(f"for (let {index} = 0; {index} < {n}; {index}++) {{")
            self.indent += 1
        body(indices)
        for _ in sizes:
            self.indent -= 1
            self._line("}")

    def _element(self, array, *places):
        """An element of an array, for pairs of indices and how many bytes they lead on."""
        terms = [str(self.memory.place(array))]
        for indices, steps in places:
            terms += [f"{i} * {step // array.itemsize}" for i, step in zip(indices, steps, strict=True) if step]
        return f"{TYPES[array.dtype.name]}[{' + '.join(terms)}]"

    def _add(self, group):
        first, array = group[0], self.plan.array
        if first.kind == "primitive" and first.function is rows:
            self._rows(*map(array, first.inputs), array(first))
        elif first.kind == "primitive":
            for what, *arrays in chunk_steps(self.plan, group, as_strided, PATCH_BYTES):
                if what == "copy":
                    self._copy(*arrays)
                else:
                    self._product(*arrays)
        elif first.kind == "matmul":
            self._product(*map(array, first.inputs), array(first))
        elif first.kind == "assemble":
            for part, place in self.plan.to_copy(first):
                self._copy(array(part), array(first)[place])
        elif first.kind == "reduce" and len(group) == 1:
            self._reduction(first)
        else:
            self._elementwise(group)

    def _copy(self, x, target):
        arrays = [over(x, target.shape), over(target, target.shape)]
        sizes, strides = merged(arrays[0].shape, arrays)

        def body(indices):
            source, out = (self._element(a, (indices, step)) for a, step in zip(arrays, strides, strict=True))
            self._line(f"{out} = {cast(source, x.dtype, target.dtype)};")

        self._loops(sizes, body)

    def _rows(self, table, index, out):
        sizes = table.shape[1:]

        def body(indices):
            self._line(f"const row = {self._element(index, (indices, index.strides))};")
            self._loops(sizes, lambda inner: copy(indices, inner), "j")

        def copy(indices, inner):
            source = self._element(table, (["row", *inner], table.strides))
            self._line(f"{self._element(out, ([*indices, *inner], out.strides))} = {source};")

        self._loops(index.shape, body)

    def _reduction(self, value):
        x, out = self.plan.array(value.inputs[0]), self.plan.array(value)
        kept, gone = ([i for i in range(x.ndim) if (i in value.settings) == reduced] for reduced in (False, True))

        def body(indices):
            total = f"t{value.number}"
            self._line(f"let {total} = {number(START[value.function])};")
            steps = [x.strides[i] for i in kept]

            def fold(inner):
                element = self._element(x, (indices, steps), (inner, [x.strides[i] for i in gone]))
                self._line(f"{total} = {expression(value.function, [total, element])};")

            self._loops([x.shape[i] for i in gone], fold, "j")
            self._line(f"{self._element(out, (indices, [out.strides[i] for i in kept]))} = {total};")

        self._loops([x.shape[i] for i in kept], body)

    def _elementwise(self, group):
        values, sums = elementwise_of(group), [value for value in group if value.kind == "reduce"]
        made = {value.number for value in values}
        operands = {}  # an array as the loop needs it, for each value and source that it reads or writes
        for value in group:
            for source in value.inputs:
                if source.base.number not in made and not is_number(source):
                    shape = value.shape if value.kind == "elementwise" else source.shape
                    operands[value, source] = over(self.plan.array(source), shape)
            if value.kind == "elementwise" and self.plan.in_memory(value):
                operands[value, value] = over(self.plan.array(value), value.shape)
        for total in sums:
            shape = total.inputs[0].shape
            operands[total, total] = over(np.broadcast_to(self.plan.array(total), shape), shape)
        space = next(iter(operands.values())).shape
        sizes, strides = merged(space, list(operands.values()), keep_last=bool(sums))
        steps = dict(zip(operands, strides, strict=True))
        outer = len(sizes) - bool(sums)

        def given(value, source, indices):
            if source.base.number in made:
                return f"v{source.base.number}"
            if is_number(source):
                return number(source.ghost.flat[0])
            return self._element(operands[value, source], (indices, steps[value, source]))

        def body(indices):
            for value in values:
                inputs = [
                    cast(given(value, source, indices), source.dtype, dtype)
                    for source, dtype in zip(value.inputs, value.dtypes, strict=True)
                ]
                if value.function is CAST:
                    text = cast(inputs[0], value.dtypes[0], value.dtype)
                else:
                    text = expression(value.function, inputs)
                self._line(f"const v{value.number} = {text};")
            for value, source in operands:
                if value is source and value.kind == "elementwise":
                    out = self._element(operands[value, value], (indices, steps[value, value]))
                    self._line(f"{out} = v{value.number};")
            for total in sums:
                self._line(f"s{total.number} += {given(total, total.inputs[0], indices)};")

        def row(indices):
            for total in sums:
                self._line(f"let s{total.number} = 0;")
            self._loops(sizes[outer:], lambda inner: body([*indices, *inner]), "j")
            for total in sums:
                out = self._element(operands[total, total], (indices, steps[total, total][:outer]))
                self._line(f"{out} = s{total.number};")

        self._loops(sizes[:outer], row)

    def _product(self, a, b, out, add=False):
        numbers = []
        for matrix in (a, b):
            numbers += [self.memory.place(matrix), *(step // matrix.itemsize for step in matrix.strides)]
        numbers += [self.memory.place(out), out.strides[0] // out.itemsize, *a.shape, b.shape[1]]
        self._line(f"product({TYPES[out.dtype.name]}, {', '.join(map(str, numbers))}, {str(add).lower()});")


def number(x):
    """A number as JavaScript."""
    if isinstance(x, np.bool_):
        return str(int(x))
    x = float(x)
    return repr(x) if math.isfinite(x) else "NaN" if math.isnan(x) else "Infinity" if x > 0 else "(-Infinity)"


def expression(function, inputs):
    """JavaScript for a function of inputs: what C has, too."""
    if function in LOGICAL:
        inputs = [f"({x} != 0)" for x in inputs]
    return f"({EXPRESSIONS[function].format(*inputs, f='')})"


def cast(text, given, dtype):
    """JavaScript for the same number in another dtype."""
    if dtype == given or dtype.kind == "f":
        return text if given.kind != "b" or dtype.kind != "f" else f"+{text}"
    if dtype.kind == "b":
        return f"({text} != 0)"
    return f"trunc({text})" if dtype == np.int64 else f"(trunc({text}) & 255)"
