"""The NumPy engine: a list as NumPy's own calls, each into memory that the plan has ready.

Each call computes what the line of the step computes eagerly, so the results are the same bit for bit. What is saved is
allocation and, where a group's arrays are larger than the caches, memory traffic: such a group runs piece by piece, all
of its operations on one piece before the next.
"""

from functools import partial

import numpy as np

from .convolution import chunk_steps
from .plan import Plan, elementwise_of, over, squeezed
from .tracing import CAST, COPY, rows

PIECE = 1 << 17  # values of each array in a piece
# NumPy (2.4, with AVX-512) leaves out some of their results where these are to lie with gaps between them.
WITHOUT_GAPS = (np.isnan, np.isinf, np.isfinite, np.signbit)


class Calls:
    """A compiled step; a call runs it once."""

    def __init__(self, trace, backend):
        self.plan = Plan(trace, backend.empty, lambda constant: constant, _loop)
        self.groups = [(group, _calls(self.plan, group)) for group in self.plan.groups]
        copies = [partial(np.copyto, target, self.plan.array(value)) for target, value in self.plan.copies]
        self._calls = [call for _, calls in self.groups for call in calls] + copies

    def __call__(self):
        for call in self._calls:
            call()


def _loop(group):
    """Those values of a group that run piece by piece.

    What reads backwards does not: by how many rows there are NumPy chooses its loops, with other last bits, for that.
    """
    loop = elementwise_of(group)
    return loop if len(loop) > 1 and loop[0].size > PIECE and not any(map(_backwards, loop)) else []


def _backwards(value):
    return any(step < 0 for source in value.inputs for step in source.ghost.strides)


def _calls(plan, group):
    if group[0].kind == "primitive" and group[0].function is not rows:
        return list(_convolution(plan, group))
    loop = _loop(group)
    alone = [value for value in group if value not in set(loop)]
    return [*_in_pieces(plan, loop), *(call for value in alone for call in _call(plan, value))]


def _call(plan, value):
    """The calls that make one value."""
    inputs, out = [plan.array(source) for source in value.inputs], plan.array(value)
    if value.kind == "elementwise":
        yield _elementwise(value, inputs, out)
    elif value.kind == "reduce":
        reduce = partial(value.function.reduce, axis=value.settings, keepdims=True)
        # Told where to write, NumPy 2.0 adds up what lies backwards in another order.
        yield partial(_anew, reduce, inputs[0], out=out) if _backwards(value) else partial(reduce, inputs[0], out=out)
    elif value.kind == "matmul":
        yield partial(np.matmul, *inputs, out)
    elif value.kind == "assemble":
        for part, place in plan.to_copy(value):
            yield partial(np.copyto, out[place], plan.array(part))
    else:
        table, index = inputs
        # "clip" is three times as fast as "raise"; where the positions come from, they are checked.
        yield partial(np.take, table, index, axis=0, out=out, mode="clip")


def _elementwise(value, inputs, out):
    if value.function in (CAST, COPY):
        return partial(np.copyto, out, inputs[0], casting="unsafe")
    read_late = value.function is np.where and any(np.may_share_memory(x, out) for x in inputs[:2])
    if read_late or (value.function in WITHOUT_GAPS and not out.flags.c_contiguous):
        return partial(_anew, value.function, *inputs, out=out)
    if value.function is np.where:
        return partial(_where, *inputs, out)
    return partial(value.function, *inputs, out=out)


def _where(condition, x, y, out):
    np.copyto(out, y)
    np.copyto(out, x, where=condition)


def _anew(function, *inputs, out):
    np.copyto(out, function(*inputs))


def _in_pieces(plan, loop):
    """The calls of a group of elementwise operations on long arrays, piece by piece along their first axis.

    What only the group reads is made in scratch memory of a piece's size, which stays in the cache.
    """
    if not loop:
        return
    space = squeezed(loop[0].shape)
    step = max(1, PIECE // (loop[0].size // space[0]))
    last = {source.base.number: value.number for value in loop for source in value.inputs}
    scratch = {}  # dtype -> arrays of a piece's size that nobody is using
    for start in range(0, space[0], step):
        piece, made, held = slice(start, min(start + step, space[0])), {}, {}
        for value in loop:
            inputs = [
                made[source.base.number] if source.base.number in made else over(plan.array(source), value.shape)[piece]
                for source in value.inputs
            ]
            if plan.in_memory(value):
                out = over(plan.array(value), value.shape)[piece]
            else:
                if not scratch.get(value.dtype):
                    scratch[value.dtype] = [plan.empty((step, *space[1:]), value.dtype)]
                held[value.number] = scratch[value.dtype].pop()
                out = held[value.number][: piece.stop - start]
            made[value.number] = out
            yield _elementwise(value, inputs, out)
            for number in {source.base.number for source in value.inputs} & held.keys():
                if last[number] == value.number:
                    array = held.pop(number)
                    scratch[array.dtype].append(array)


def _convolution(plan, group):
    for what, *arrays in chunk_steps(plan, group, np.lib.stride_tricks.as_strided):
        if what == "copy":
            x, out = arrays
            yield partial(np.copyto, out, x)
        else:
            a, b, out, add = arrays
            product = plan.scratch("", "product", out.shape, out.dtype) if add else out
            yield partial(np.matmul, a, b, product)
            if add:
                yield partial(np.add, out, product, out)
