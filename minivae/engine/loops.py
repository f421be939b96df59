"""The engine of several cores: a list as loops that LLVM compiles, which a thread for each core works through.

Each group of elementwise operations becomes one loop, with the sums along its rows; what only the group reads never
leaves the processor's registers. Matrix products go to BLAS. An instruction is such a loop or product with its arrays.
The threads share out its rows, or its columns where these are more; as long as a thread reads only rows that it made
itself, as in a batch's way through a network, nobody needs to wait. Where a thread would touch what another one has
written since they last met, all threads wait for each other first: they *join*. The new weights are shared out as their
gradients were, so each thread updates those whose gradients lie in the caches of its core.
"""

import ctypes
import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from . import llvm
from .convolution import PATCH_BYTES, chunk_steps, correlate_weights
from .llvm import TYPES, Code, Register, function_of, type_of
from .plan import Plan, elementwise_of, is_number, merged, over, squeezed, stored, whole_loop
from .threads import MAX_WORKERS, WORDS, Crew, blas, cython_blas, product_kernel
from .tracing import START, Untraceable, rows

LEAST_VALUES = 4096  # work on fewer is left to the first thread where the others would have to wait for it
LEAST_PRODUCTS = 1 << 16  # likewise a matrix product of fewer multiplications
GRAIN = 16  # of long arrays: a cache line
LONG_SUM = 1 << 16  # sums of so many values in all are made in parts
BLAS_TAKES_INT = " int *" in str(cython_blas.__pyx_capi__["sgemm"])  # not integers of 64 bits


class Access(NamedTuple):
    """What an instruction does to one array, whose first `outer` axes are what the threads share out; 0 for no axis."""

    array: np.ndarray
    outer: int
    writes: bool


@dataclass
class Instruction:
    """A kernel's name, the words of its table, and where the share of each thread begins and the last one ends.

    accesses : what it does to which arrays, from which one can tell which threads touch the same bytes
    join     : whether all threads wait for each other afterwards
    """

    kernel: str
    table: np.ndarray
    shares: list
    accesses: list
    join: bool = False


class Loops:
    """A compiled step; a call runs it once.

    instructions : the list, of Instruction
    n_workers    : how many threads work through it
    """

    def __init__(self, trace, backend, n_workers=None):
        self.n_workers = n_workers or blas.n_threads
        self.plan = Plan(trace, backend.empty, lambda constant: constant, whole_loop)
        self.instructions = []
        self._kernels, self._kept = {}, []  # text -> name; what tables hold the addresses of
        self._phase = [[] for _ in range(self.n_workers)]  # what each thread touches since the last join
        self._owner = None  # the one thread that shall run what is added; None for all
        self._owned = {}  # the address of rows that a product made -> where each thread's share of the values begins
        for group in self.plan.groups:
            self._add_group(group)
        for target, value in self.plan.copies:
            self._add_copy(self.plan.array(value), target)
        if self.instructions:
            self.instructions[-1].join = True
        self._crew = None

    def __call__(self):
        if not self.instructions:
            return
        if self._crew is None:
            self._crew = Crew(self.compiled(), self.n_workers)
        self._crew()

    def compiled(self):
        """The list as the threads read it, with the addresses of compiled code."""
        names = self._kernels.values()
        text = "\n".join(kernel.replace("NAME", name) for kernel, name in self._kernels.items())
        self._code, addresses = llvm.compile_module(text, names)
        address = dict(zip(names, addresses, strict=True)) | {"product": product_kernel()}
        list_ = np.zeros((len(self.instructions), WORDS), np.int64)
        for words, step in zip(list_, self.instructions, strict=True):
            words[:3] = address[step.kernel], step.table.ctypes.data, step.join
            words[3 : 3 + len(step.shares)] = step.shares
        return list_

    # --------------------------------------------------------------------------------------- instructions

    def _add_group(self, group):
        first = group[0]
        for value in group:
            for dtype in (value.dtype, *value.dtypes) if value.function is not rows else ():
                type_of(dtype, value.line)
        if first.function is rows:
            self._add_rows(*map(self.plan.array, first.inputs), self.plan.array(first), first.line)
        elif first.kind == "primitive":
            self._add_convolution(group)
        elif first.kind == "matmul":
            self._add_product(*map(self.plan.array, first.inputs), self.plan.array(first))
        elif first.kind == "assemble":
            for part, place in self.plan.to_copy(first):
                self._add_copy(self.plan.array(part), self.plan.array(first)[place])
        elif first.kind == "reduce" and len(group) == 1:
            x, out = self.plan.array(first.inputs[0]), self.plan.array(first)
            self._add_reduction(first.function, x, out, first.settings)
        else:
            self._add_loop(group)

    def _add(self, kernel, words, shares, accesses, size):
        """Note an instruction; returns the shares of the threads.

        words  : what its table holds: arrays, whose addresses it takes, and integers
        shares : where each thread's share begins, and the end
        size   : how much work it is; a little is left to the first thread where sharing it out makes others wait
        """
        self._kept += [word for word in words if isinstance(word, np.ndarray)]
        table = np.array([word.ctypes.data if isinstance(word, np.ndarray) else word for word in words], np.int64)
        options = [shares, self._alone(shares, 0)] if self._owner is None else [self._alone(shares, self._owner)]
        touched = [_touched(accesses, option) for option in options]
        free = [i for i, touches in enumerate(touched) if not self._clash(touches)]
        chosen = 0 if size >= LEAST_VALUES or 0 in free else len(options) - 1
        if chosen not in free:
            self.instructions[-1].join = True
            self._phase = [[] for _ in range(self.n_workers)]
        for phase, touches in zip(self._phase, touched[chosen], strict=True):
            phase += touches
        self.instructions.append(Instruction(kernel, table, options[chosen], accesses))
        return options[chosen]

    def _alone(self, shares, worker):
        """All for one thread."""
        return [shares[0]] * (worker + 1) + [shares[-1]] * (self.n_workers - worker)

    def _clash(self, touched):
        """Whether a thread would touch what another one writes, or write what another one touches, in this phase."""
        return any(
            (writes or wrote) and low < stop and start < high
            for w, touches in enumerate(touched)
            for u, phase in enumerate(self._phase)
            if u != w
            for low, high, writes in touches
            for start, stop, wrote in phase
        )

    def _kernel(self, code, arrays):
        """The name of the kernel with this code, for arrays %a0, %a1, ... that do not overlap where one is written."""
        # One number at a time where it goes backwards: LLVM 22, as llvmlite 0.50 has it, may abort when it counts what
        # several at a time would cost.
        attributes = "noimplicitfloat " if any(stride < 0 for array in arrays for stride in array.strides) else ""
        names = [f"%a{k}" for k in range(len(arrays))]
        loads = [
            line
            for k in range(len(arrays))
            for line in (f"  %at{k} = getelementptr ptr, ptr %table, i64 {k}", f"  %a{k} = load ptr, ptr %at{k}")
        ]
        inner = ", ".join(f"ptr noalias {name}" for name in names)
        given = ", ".join(f"ptr {name}" for name in names)
        text = [
            f"define internal void @NAME_body({inner}, i64 %start, i64 %stop) {attributes}alwaysinline {{\nentry:",
            *(*code.lines, "  ret void\n}"),
            f"define void @NAME(ptr %table, i64 %start, i64 %stop) {attributes}{{\nentry:",
            *loads,
            f"  call void @NAME_body({given}, i64 %start, i64 %stop)\n  ret void\n}}\n",
        ]
        return self._kernels.setdefault("\n".join(text), f"loop{len(self._kernels)}")

    def _shares(self, n, per=1, first=0, grain=1):
        """Where each thread's share of n rows begins, and the end, in steps of which a row has so many."""
        starts = [n * w // self.n_workers // grain * grain for w in range(self.n_workers)]
        return [(first + start) * per for start in (*starts, n)]

    # -------------------------------------------------------------------------------------- loops over elements

    def _add_copy(self, x, target):
        """target = x, perhaps in another dtype."""
        arrays = [over(x, target.shape), over(target, target.shape)]
        type_ = type_of(target.dtype)
        self._add_elements(arrays, lambda _, load: {1: load(0).to(type_)})

    def _add_loop(self, group):
        """The elementwise operations of a group as one loop, with the sums along its rows."""
        values, sums = elementwise_of(group), [value for value in group if value.kind == "reduce"]
        arrays, places = [], {}

        def place(array, shape):
            """The number of an array among the loop's; the same one where the elements are the same."""
            array = over(array, shape)
            key = array.ctypes.data, array.strides, array.dtype
            if key not in places:
                places[key] = len(arrays)
                arrays.append(array)
            return places[key]

        made, reads = {value.number for value in values}, {}
        for value in group:
            for source in value.inputs:
                if source.base.number not in made and not is_number(source):
                    shape = value.shape if value.kind == "elementwise" else source.shape
                    reads[value, source] = place(self.plan.array(source), shape)
        writes = {value: place(self.plan.array(value), value.shape) for value in values if self.plan.in_memory(value)}
        totals = {value: place(self.plan.array(value), value.inputs[0].shape) for value in sums}

        def body(code, load):
            registers = {}

            def given(value, source):
                if source.base.number in made:
                    return registers[source.base.number]
                if is_number(source):
                    return code.number(source.ghost.flat[0], type_of(source.dtype))
                return load(reads[value, source])

            for value in values:
                given_as = zip(value.inputs, value.dtypes, strict=True)
                inputs = [given(value, x).to(type_of(dtype)) for x, dtype in given_as]
                registers[value.number] = function_of(value)(*inputs).to(type_of(value.dtype))
            stores = {k: registers[value.number] for value, k in writes.items()}
            return stores | {k: given(value, value.inputs[0]) for value, k in totals.items()}

        self._add_elements(arrays, body, list(totals.values()))

    def _add_elements(self, arrays, body, totals=(), function=np.add):
        """A loop over the elements of arrays of one shape, without axes of length 1.

        body(code, load) : writes the code for one element, of which load(k) is array k's; returns what to store, by
                           array
        totals           : the arrays, of stride 0 along the last axis, that take the sums of what is stored there,
                           or what else `function` makes of it
        """
        space = arrays[0].shape
        sizes, strides = merged(space, arrays, keep_last=bool(totals))
        flat, code = len(sizes) == 1, Code()
        n, units, written = sizes[-1], math.prod(sizes[:-1]), set()

        def row(r):
            offsets = [offset(code, r, sizes[:-1], step[:-1]) for step in strides]
            firsts = [pointer(code, f"%a{k}", bytes_) for k, bytes_ in enumerate(offsets)]
            start, stop = ("%start", "%stop") if flat else (0, n)

            def element(j, sums):
                def place(k):
                    return firsts[k], j * strides[k][-1] if strides[k][-1] else None

                @functools.cache
                def load(k):
                    return load_at(code, *place(k), type_of(arrays[k].dtype))

                stores = body(code, load)
                written.update(stores)
                for k, x in stores.items():
                    if k not in totals:
                        store_at(code, *place(k), x)
                return [fold(function, total, stores[k]) for k, total in zip(totals, sums, strict=True)]

            starts = [code.number(START[function], type_of(arrays[k].dtype)) for k in totals]
            for k, total in zip(totals, repeat(code, start, stop, element, starts), strict=True):
                store_at(code, firsts[k], None, total)

        if flat:
            row(None)
        else:
            repeat(code, "%start", "%stop", lambda r, _: row(r))
        kernel = self._kernel(code, arrays)
        outer = 1 if flat else len(sizes) - 1
        accesses = [
            Access(as_strided(array, sizes, step), outer, k in written)
            for k, (array, step) in enumerate(zip(arrays, strides, strict=True))
        ]
        for shares in self._row_shares(space, arrays, n if flat else units, flat):
            self._add(kernel, arrays, shares, accesses, math.prod(space))

    def _row_shares(self, space, arrays, units, flat):
        """The shares of the threads, so that as many instructions as possible give a thread the same rows."""
        if len(space) == 1 and flat and units >= LEAST_VALUES:
            return self._owned_shares(arrays, units)
        lead = space[0] if space else 1
        if len(space) > 1 and lead < 8 * self.n_workers:
            lead = math.prod(space[:-1])  # (L, B, ...)
        if lead < self.n_workers or units % lead:
            lead = units
        return [self._shares(lead, units // lead)]

    def _owned_shares(self, arrays, n):
        """Shares of a long array: the parts that products wrote are shared out as they were there.

        So each thread updates the weights whose gradients it computed. While the cores are far from each other, RMSprop
        on 784-256-2-256-784 takes 5 times as long on gradients that half come from the other core.
        """
        dense = [array for array in arrays if array.strides == (array.itemsize,)]
        flat = next((a for a in dense if any(0 <= address - a.ctypes.data < a.nbytes for address in self._owned)), None)
        done, shares = 0, []
        for address in [] if flat is None else sorted(self._owned):
            first, owned = (address - flat.ctypes.data) // flat.itemsize, self._owned[address]
            if done <= first <= n - owned[-1]:
                if first > done:
                    shares.append(self._shares(first - done, 1, done, GRAIN))
                shares.append([first + start for start in owned])
                done = first + owned[-1]
        return [*shares, self._shares(n - done, 1, done, GRAIN)] if done < n else shares

    # ------------------------------------------------------------------------------------------ rows and sums

    def _add_rows(self, table, index, out, line):
        """out[i] = table[index[i]]; a row is copied in words as long as its bytes allow."""
        code, row = Code(), table[:1].nbytes
        if index.ndim != 1 or not (table[0].flags.c_contiguous and out[0].flags.c_contiguous):
            why = "compiled loops take rows by a vector of positions, from a table whose rows have no gaps"
            raise Untraceable(f"{line}: {why}")
        whole = math.gcd(row, table.ctypes.data, out.ctypes.data, table.strides[0], out.strides[0])
        type_, size = next((type_, size) for type_, size in (("i8", 8), ("bits", 4), ("u1", 1)) if whole % size == 0)

        def copy(i, _):
            at = load_at(code, "%a1", i * index.strides[0], type_of(index.dtype, line)).to("i8")
            source, target = pointer(code, "%a0", at * table.strides[0]), pointer(code, "%a2", i * out.strides[0])
            return repeat(code, 0, row // size, lambda j, _: copy_word(j * size, source, target))

        def copy_word(offset, source, target):
            store_at(code, target, offset, load_at(code, source, offset, type_))

        repeat(code, "%start", "%stop", copy)
        accesses = [Access(table, 0, False), Access(index, 1, False), Access(out, 1, True)]
        arrays = [table, index, out]
        self._add(self._kernel(code, arrays), arrays, self._shares(len(index)), accesses, out.size)

    def _add_reduction(self, function, x, out, axes):
        """out = the sum, or the largest, or the smallest, of x along these axes, which have length 1 in out."""
        gone = len(squeezed([x.shape[i] for i in axes]))
        x, out = np.moveaxis(x, axes, range(len(axes))).squeeze(), out.squeeze()
        sizes, (strides,) = merged(x.shape[:gone], [x])
        x = as_strided(x, (*sizes, *out.shape), (*strides, *x.strides[gone:]))
        while x.ndim > out.ndim + 1:
            between = self.plan.empty(x.shape[1:], x.dtype)
            self._add_fold(function, x, between)
            x = between
        self._add_fold(function, x, out)

    def _add_fold(self, function, x, out):
        """out = x folded along its first axis."""
        n = len(x)
        if x.size >= LONG_SUM and out.size < LEAST_VALUES and n >= 4 * MAX_WORKERS:
            length, rest = divmod(n, MAX_WORKERS)
            parts = self.plan.empty((MAX_WORKERS + (rest > 0), *out.shape), out.dtype)
            strides = x.strides[0], length * x.strides[0], *x.strides[1:]
            self._add_fold_loop(
                function, as_strided(x, (length, MAX_WORKERS, *x.shape[1:]), strides), parts[:MAX_WORKERS]
            )
            if rest:
                self._add_fold_loop(function, x[n - rest :], parts[MAX_WORKERS, ...])
            x = parts
        self._add_fold_loop(function, x, out)

    def _add_fold_loop(self, function, x, out):
        fast = min(range(x.ndim), key=lambda i: abs(x.strides[i]))
        if fast == 0:
            x = x.transpose([*range(1, x.ndim), 0])
            self._add_elements(
                [x, np.broadcast_to(out[..., None], x.shape)], lambda _, load: {1: load(0)}, [1], function
            )
            return
        # The innermost loop runs along the values that lie side by side, each of which has a total of its own.
        kept = [i for i in range(1, x.ndim) if i != fast]
        x, out = x.transpose([*kept, 0, fast]), out.transpose([i - 1 for i in (*kept, fast)])
        code, type_, (n, m) = Code(), type_of(x.dtype), x.shape[-2:]
        ends = (0, m) if kept else ("%start", "%stop")

        def row(r):
            at, total = (
                pointer(code, name, offset(code, r, out.shape[:-1], array.strides[: len(kept)]))
                for name, array in (("%a0", x), ("%a1", out))
            )

            def begin(j, _):
                store_at(code, total, j * out.strides[-1], code.number(START[function], type_))

            def add_row(i, _):
                values = pointer(code, at, i * row_step)
                repeat(code, *ends, lambda j, _: add(values, j))

            def add(values, j):
                so_far = load_at(code, total, j * out.strides[-1], type_)
                result = fold(function, so_far, load_at(code, values, j * step, type_))
                store_at(code, total, j * out.strides[-1], result)

            repeat(code, *ends, begin)
            repeat(code, 0, n, add_row)

        row_step, step = x.strides[-2:]
        if kept:
            repeat(code, "%start", "%stop", lambda r, _: row(r))
        else:
            row(None)
            x = x.T
        accesses = [Access(x, max(1, len(kept)), False), Access(out, max(1, len(kept)), True)]
        shares = self._shares(math.prod(out.shape[:-1]) if kept else m)
        self._add(self._kernel(code, [x, out]), [x, out], shares, accesses, x.size)

    def _add_convolution(self, group):
        """Each thread goes through its share of the images by itself, chunk by chunk; nobody waits in between."""
        images = self._shares(len(self.plan.array(group[0].inputs[0])))
        busy = [worker for worker in range(self.n_workers) if images[worker] < images[worker + 1]]
        (weights,) = [value for value in group if value.function is correlate_weights] or [None]
        sums = [None] * len(busy)  # where each puts its part of a sum over all images
        if weights is not None and len(busy) > 1:
            sums = self.plan.scratch("all", "sums", (len(busy), *weights.shape), weights.dtype)
        for worker, dkernel in zip(busy, sums, strict=True):
            self._owner, some = worker, images[worker : worker + 2]
            for what, *arrays in chunk_steps(self.plan, group, as_strided, PATCH_BYTES, some, dkernel, str(worker)):
                if what == "copy":
                    self._add_copy(*arrays)
                else:
                    self._add_product(*arrays)
        self._owner = None
        if weights is not None and len(busy) > 1:
            self._add_reduction(np.add, sums, self.plan.array(weights)[None], (0,))

    # ---------------------------------------------------------------------------------------------- products

    def _add_product(self, a, b, out, accumulate=False):
        """out = a @ b, or out += a @ b. Each thread makes some rows of `out`, or some columns."""
        a, b = map(self._dense, (a, b))
        (m, k), n = a.shape, b.shape[1]
        size = LEAST_VALUES if m * n * k >= LEAST_PRODUCTS else 0
        if m >= n or (stored(a)[0] == 1 and m >= 32 * self.n_workers):
            words = self._product(a, b, out, accumulate, (a.strides[0], 0, out.strides[0]))
            accesses = [Access(a, 1, False), Access(b, 0, False), Access(out, 1, True)]
            shares = self._add("product", words, self._shares(m), accesses, size)
            if out.flags.c_contiguous:
                self._owned[out.ctypes.data] = [n * row for row in shares]
        else:
            words = self._product(a, b, out, accumulate, (0, b.strides[1], out.strides[1]))
            accesses = [Access(a, 0, False), Access(b.T, 1, False), Access(out.T, 1, True)]
            grain = GRAIN if n >= 2 * GRAIN * self.n_workers else 1
            self._add("product", words, self._shares(n, grain=grain), accesses, size)

    def _dense(self, matrix):
        """The matrix, or where BLAS cannot read it a copy."""
        if stored(matrix):
            return matrix
        copy = self.plan.empty(matrix.shape, matrix.dtype)
        self._add_copy(matrix, copy)
        return copy

    def _product(self, a, b, out, accumulate, steps):
        """The table of "product" in runner.ll. BLAS, which stores matrices by columns, is asked for out' = b' a'.

        steps : how many bytes further the next row or column of a, of b and of `out` lies; b has none, by rows
        """
        if out.dtype.kind != "f":
            raise Untraceable(f"BLAS multiplies floats, not {out.dtype}")
        if not BLAS_TAKES_INT:
            raise Untraceable("this SciPy's BLAS takes integers of 64 bits")
        (a_order, a_apart), (b_order, b_apart), (_, out_apart) = map(stored, (a, b, out))
        orders = np.array([ord("NT"[b_order]), ord("NT"[a_order])], np.uint8)
        scales = np.array([1, accumulate], out.dtype)
        numbers = np.array([b.shape[1], *a.shape, b_apart, a_apart, out_apart], np.int32)
        return [gemm(out.dtype), a, b, out, *steps, orders, scales, numbers, scales.itemsize, int(steps[1] == 0)]


@functools.cache
def gemm(dtype):
    """The address of BLAS's matrix product for a dtype."""
    capsule = cython_blas.__pyx_capi__[{"float32": "sgemm", "float64": "dgemm"}[dtype.name]]
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return get(capsule, name(capsule))


# --------------------------------------------------------------------------------------------- who touches what


def _touched(accesses, shares):
    """For each thread, the ranges of bytes that it touches and whether it writes: (first, end, writes)."""
    return [
        [(*_range(access, start, stop), access.writes) for access in accesses] if start < stop else []
        for start, stop in zip(shares, shares[1:], strict=False)
    ]


def _range(access, start, stop):
    """The first byte and the end of what a share touches, or a little more."""
    array = access.array
    if access.outer:
        per = math.prod(array.shape[1 : access.outer])
        array = array[start // per : -(-stop // per)]
    spans = [stride * (n - 1) for n, stride in zip(array.shape, array.strides, strict=True)]
    first = array.__array_interface__["data"][0]
    return first + sum(min(0, s) for s in spans), first + sum(max(0, s) for s in spans) + array.itemsize


# ------------------------------------------------------------------------------------------------- writing code


def repeat(code, start, stop, body, carried=()):
    """The code of `for i in range(start, stop): carried = body(i, carried)`, which runs at least once."""
    before, head = code.block, code.new("again")
    code.line(f"br label %{head}")
    code.line(f"{head}:")
    code.block, at = head, len(code.lines)
    i = Register(code, code.new(), "i8")
    inside = [Register(code, code.new(), x.type) for x in carried]
    results = body(i, inside) or []
    following = i + 1
    more = following.compare("olt", Register(code, stop, "i8"))
    phis = [f"{i.name} = phi i64 [ {start}, %{before} ], [ {following.name}, %{code.block} ]"]
    phis += [
        f"{x.name} = phi {x.llvm} [ {first.name}, %{before} ], [ {last.name}, %{code.block} ]"
        for x, first, last in zip(inside, carried, results, strict=True)
    ]
    code.lines[at:at] = phis
    end = code.new("done")
    code.line(f"br i1 {more.name}, label %{head}, label %{end}")
    code.line(f"{end}:")
    code.block = end
    return results


def pointer(code, at, offset):
    """An address so many bytes further on; offset is a register, or None for 0."""
    if offset is None:
        return at
    name = code.new("%p")
    code.line(f"{name} = getelementptr i8, ptr {at}, i64 {offset.name}")
    return name


def load_at(code, at, offset, type_):
    at = pointer(code, at, offset)
    if type_ == "b1":
        return code.set("u1", f"load i8, ptr {at}").to("b1")
    return code.set(type_, f"load {TYPES[type_]}, ptr {at}")


def store_at(code, at, offset, x):
    x = code.set("u1", f"zext {x.typed} to i8") if x.type == "b1" else x
    code.line(f"store {x.typed}, ptr {pointer(code, at, offset)}")


def offset(code, r, sizes, strides):
    """How many bytes behind the first the element number r of these axes lies, as a register; None where it is 0."""
    total = None
    for i, (n, stride) in reversed(list(enumerate(zip(sizes, strides, strict=True)))):
        index = code.set("i8", f"urem {r.typed}, {n}") if i else r
        r = code.set("i8", f"udiv {r.typed}, {n}") if i else r
        if stride:
            total = index * stride if total is None else total + index * stride
    return total


def fold(function, total, x):
    """One more number in a sum, or in a search for the largest or smallest, in any order."""
    if function is np.add:
        return x.code.set(x.type, f"fadd reassoc {llvm.FLAGS} {total.typed}, {x.name}")
    return total.intrinsic("maximum" if function is np.maximum else "minimum", x)
