"""The GPU engine: a list as generated CUDA kernels and products of cuBLAS, captured as one CUDA graph.

A launch costs a GPU more than most of what a step computes, so there are to be few of them:

- all elementwise operations of a group are one loop, with the sums along its rows;
- what is quickly made, such as rows of a table, is made wherever it is read (`made_anew`);
- short loops that follow each other are one kernel of a single block, whose threads meet between two loops.

The kernels of a step are compiled together, and all memory is there before the first launch.
"""

import contextlib
import math
from functools import partial

import numpy as np

from .convolution import chunk_steps
from .cuda import BLOCK, Code, c_type, check, copy, elements, reductions, row_sums
from .plan import Plan, elementwise_of, overlap, stored, whole_loop
from .tracing import CAST, Untraceable, rows

SMALL = 1024  # elements of a loop that is short enough for a single block
MOST_LOOPS = 32  # of a kernel: its arguments have 4 KB
MOST_ELEMENTS = 1 << 30  # of a loop, which counts with 32 bits
PATCH_BYTES = 1 << 27  # of a convolution's patches at a time: few launches matter more than caches


class Kernels:
    """A compiled step; a call runs it once.

    The first calls launch one kernel after another, which loads them all; then what they launch is captured.
    """

    WARM_UP = 2

    def __init__(self, trace, backend):
        check(trace)
        self.xp, self.products = backend.xp, backend.products
        self.plan = Plan(trace, backend.empty, backend.asarray, whole_loop)
        self.anew = made_anew(self.plan)
        self._work = []  # products, and lists of loops, each of which is a kernel
        for group in self.plan.groups:
            self._add(group)
        for target, value in self.plan.copies:
            self._loop(copy(target, self.plan.array(value)))
        self.source, self._launches = self._compiled()
        self._calls, self._graph = 0, None

    def __call__(self):
        if self._calls < self.WARM_UP:
            self._calls += 1
            self._run()
            return
        self._graph = self._graph or self._captured()
        self._graph.launch()

    def _run(self):
        for launch in self._launches:
            launch()

    def _captured(self):
        """The step as a graph; capturing runs nothing."""
        with self.xp.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            try:
                self._run()
            except BaseException:
                with contextlib.suppress(Exception):  # the first error says more than "capture invalidated"
                    stream.end_capture()
                raise
            return stream.end_capture()

    # --------------------------------------------------------------------------------------- from groups to work

    def _add(self, group):
        values = [value for value in group if value.number not in self.anew]
        loop, sums = elementwise_of(values), [value for value in values if value.kind == "reduce"]
        if loop and sums:
            self._loop(row_sums(self.plan, loop, sums))
        elif loop:
            self._loop(elements(loop))
        elif values and values[0].kind == "primitive" and values[0].function is not rows:
            self._convolution(values)
        else:
            for value in values:
                self._add_one(value)

    def _add_one(self, value):
        if value.kind == "reduce":
            for loop in reductions(self.plan, value):
                self._loop(loop)
        elif value.kind == "matmul":
            self._product(*map(self.plan.array, value.inputs), self.plan.array(value))
        elif value.kind == "assemble":
            for part, place in self.plan.to_copy(value):
                self._loop(copy(self.plan.array(value)[place], self.plan.array(part)))
        else:
            self._loop(elements([value]))

    def _loop(self, loop):
        """Put a loop into a kernel of its own or, where both are short, into the one before."""
        if loop.size > MOST_ELEMENTS:
            raise Untraceable(f"the GPU's kernels go through at most {MOST_ELEMENTS:,} elements, not {loop.size:,}")
        before = self._work[-1] if self._work else None
        if loop.size <= SMALL and isinstance(before, list) and before[0].size <= SMALL and len(before) < MOST_LOOPS:
            before.append(loop)
        else:
            self._work.append([loop])

    def _product(self, a, b, out, add=False):
        """A product, of copies where cuBLAS cannot take a matrix as it lies in memory."""
        operands = []
        for side, x in (("left", a), ("right", b)):
            operands.append(x if stored(x) else self.plan.scratch("", side, x.shape, x.dtype))
            if operands[-1] is not x:
                self._loop(copy(operands[-1], x))
        self._work.append(self.products.bind(*operands, out, add))

    def _convolution(self, group):
        for what, *arrays in chunk_steps(self.plan, group, self.xp.lib.stride_tricks.as_strided, PATCH_BYTES):
            if what == "copy":
                x, out = arrays
                self._loop(copy(out, x))
            else:
                self._product(*arrays)

    # ------------------------------------------------------------------------------------- from work to launches

    def _compiled(self):
        """The source of all kernels, and what to call, in order, to launch the step."""
        functions, kernels, calls = {}, [], []
        for work in self._work:
            if not isinstance(work, list):
                calls.append(work)
                continue
            code, bodies = Code(self.plan, self.anew), []
            for loop in work:
                code.begin()
                bodies.append(loop.write(code))
            functions |= code.reductions
            name, body = f"kernel{len(kernels)}", "    __syncthreads();\n".join(bodies)
            parameters = ", ".join(f"{c_type(dtype)}* p{k}" for k, (_, dtype) in enumerate(code.arrays))
            kernels.append(f'extern "C" __global__ void {name}({parameters}) {{\n{body}}}\n')
            calls.append((name, work[0].grid if len(work) == 1 else (1, 1), (BLOCK,), (*code.arrays.values(),)))
        source = "\n".join([*functions.values(), *kernels])
        module = self.xp.RawModule(code=source)
        return source, [
            partial(module.get_function(call[0]), *call[1:]) if isinstance(call, tuple) else call for call in calls
        ]


# ---------------------------------------------------------------------------------------- what is made where it is read


def made_anew(plan):
    """The numbers of values that are made wherever they are read, from arrays that are still what they were.

    These are rows of tables, and sums and products of integers or of single numbers: positions in the permutation,
    the pixels of a batch, its noise, the learning rate times a number.
    """
    assigned = {value.base.number for value in plan.trace.assigned.values()}
    written = _first_writes(plan)
    anew = {value.number: value for value in plan.values if _is_quick(value) and value.number not in assigned}

    def readers(value):
        return [reader for reader, _ in plan.readers[value.number]]

    def last_made(value):
        """The last group in which a value is made."""
        return max(last_made(reader) if reader.number in anew else plan.at[reader.number] for reader in readers(value))

    def lasts(base, group):
        """Whether an array is the same in a group as it is before."""
        if base.kind == "input":
            return written.get(base.settings, math.inf) > group
        return base.kind == "constant" or base.number in anew

    def stays(value):
        in_loops = all(
            reader.kind == "elementwise" or (reader.function is rows and reader.inputs[0].base is not value)
            for reader in readers(value)
        )
        return in_loops and all(lasts(source.base, last_made(value)) for source in value.inputs)

    while gone := [number for number, value in anew.items() if not stays(value)]:
        for number in gone:
            del anew[number]
    return set(anew)


def _is_quick(value):
    if value.function is rows:
        return True
    quick = value.kind == "elementwise" and value.function in (np.add, np.subtract, np.multiply, CAST)
    return quick and value.ghost.flags.c_contiguous and (value.size == 1 or value.dtype.kind in "iu")


def _first_writes(plan):
    """By the name of an input, the first group that writes to its array."""
    first, arrays = {}, plan.trace.arrays
    for name, value in plan.trace.assigned.items():
        if value.base.number in plan.direct:
            parts = [part for part, (whole, _) in plan.inside.items() if whole is value.base]
            group = min(plan.at[number] for number in (value.base.number, *parts))
            for other in arrays:
                if overlap(arrays[name], arrays[other]):
                    first[other] = min(group, first.get(other, group))
    return first
