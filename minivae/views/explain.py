"""A compiled step as a text: its operations by group, the source line of each, what they cost, and the time they take.

Floating-point operations are counted as follows: 1 for each element of an elementwise operation, be it an addition or a
tanh; 1 for each element that is summed; 2 m n k for a matrix product; 2 for each multiplication and addition of a
convolution, those with the zeros around an image included; none for copies, casts and integers.
"""

import shutil
import statistics
import textwrap
import time
from functools import partial

import numpy as np

from ..engine.calls import Calls
from ..engine.tracing import CAST, COPY
from ..errors import MiniVAEError
from ..training.step import parameter_of

WIDEST, COLUMNS = 120, 54  # of a line; and what the columns behind an operation take of it
SECONDS, MOST_RUNS = 3.0, 50  # for the measurements: runs of the step until the one or the other is reached
REDUCTIONS = {np.add: "sum", np.maximum: "max", np.minimum: "min"}


def explain(vae, step, begin):
    """A text on one compiled step of training.

    step  : what `vae.backend.compile` made
    begin : is called before each run; it puts back what says which rows and which noise come next
    """
    if not hasattr(step, "plan"):
        raise MiniVAEError("this step runs line by line: there is no list of operations to explain")
    plan, backend = step.plan, vae.backend
    (times,) = _times([step], begin, backend)
    groups = [statistics.median(each) for each in _times(_runs_of_groups(step), begin, backend)]
    width = max(COLUMNS + 26, min(WIDEST, shutil.get_terminal_size((WIDEST, 0)).columns))
    lines = _introduction(vae, width)
    for i, group in enumerate(plan.groups):
        lines += ["", _heading(i, len(group), groups, width), *_operations(vae, plan, group, width)]
    return "\n".join([*lines, "", *_totals(plan, times, groups)])


def flops(value):
    """The floating-point operations of an operation, counted as said above."""
    if not value.inputs or all(source.dtype.kind != "f" for source in value.inputs):
        return 0
    x = value.inputs[0]
    if value.kind == "matmul":
        return 2 * value.size * x.shape[1]
    if value.kind == "reduce":
        return x.size
    if value.kind == "elementwise":
        return 0 if value.function in (CAST, COPY) else value.size
    if value.kind == "primitive" and value.settings:  # windows that sweep over images
        phases = value.settings[0].phases()
        per_image = sum(down.count * across.count * down.n_taps * across.n_taps for down, across in phases)
        return 2 * x.shape[0] * per_image * x.shape[3] * value.shape[3]
    return 0


# ------------------------------------------------------------------------------------------------- the text


def _introduction(vae, width):
    said = (
        "A group of operations runs as one; each operation stands below its line of the source. %7 is the value of "
        "operation 7, other names are arrays of the step and tensors among its parameters. Bytes are those written to "
        "memory: none where only the operation's own group reads the value. Flops are 1 for each element added or "
        "multiplied, but also for an exp or a tanh of it, and 2 m n k for a matrix product."
    )
    return [
        f"One step of training on {vae.backend.name}, {vae.backend.device}: {vae.parameters.flat.size:,} parameters",
        "",
        *textwrap.wrap(said, width),
        "",
        f"{'    operation'.ljust(width - COLUMNS)}{'shape':<19}{'dtype':<9}{'bytes':>12}{'flops':>14}",
    ]


def _heading(i, n, groups, width):
    title = f"group {i + 1}, {n} operation{'s' * (n > 1)} "
    if not groups:
        return title.ljust(width, "-")
    share = groups[i] / sum(groups)
    return title.ljust(width - 22, "-") + f" {groups[i] * 1e3:9.3f} ms {share:7.1%}"


def _operations(vae, plan, group, width):
    line = None
    for value in group:
        if str(value.line) != line:
            line = str(value.line)
            yield _cut(f"  {line}  {value.line.text}", width)
        operands = ", ".join(_operand(vae, source) for source in value.inputs)
        call = _cut(f"    %{value.number} = {name_of(value)}({operands})", width - COLUMNS - 1)
        written = _bytes_written(plan, value)
        yield f"{call.ljust(width - COLUMNS)}{_shape(value):<19}{value.dtype!s:<9}{written:>12,}{flops(value):>14,}"


def _totals(plan, times, groups):
    seconds = statistics.median(times)
    n, written = sum(map(flops, plan.values)), sum(_bytes_written(plan, value) for value in plan.values)
    yield f"{len(plan.values)} operations in {len(plan.groups)} groups"
    yield f"{n:,} floating-point operations, {written:,} bytes written, {plan.bytes:,} bytes of buffers"
    yield f"{seconds * 1e3:.3f} ms a step, the median of {len(times)} runs: {n / seconds / 1e9:.1f} billion a second"
    if groups:
        yield f"{sum(groups) * 1e3:.3f} ms when each group is timed by itself"
    else:
        yield "this engine runs all groups at once, so they are not timed one by one"


def _bytes_written(plan, value):
    """What an operation writes to memory; a concatenation only those parts that were not made in their places."""
    if value.kind == "assemble":
        written = [part for part in value.inputs if plan.inside.get(part.base.number, (None,))[0] is not value]
    else:
        written = [value] if plan.in_memory(value) else []
    return sum(part.size * part.dtype.itemsize for part in written)


def _cut(text, width):
    return text if len(text) <= width else f"{text[: width - 3]}..."


def name_of(value):
    """What an operation is called: a ufunc's name, or what it is as a reduction."""
    return REDUCTIONS[value.function] if value.kind == "reduce" else value.name


def _shape(value):
    return str(value.shape).replace(" ", "")


def _operand(vae, value):
    base = value.base
    if base.kind == "input":
        return parameter_of(vae, value) or base.settings
    if base.kind == "constant":
        return f"{base.ghost.item():.4g}" if base.size == 1 else f"constant {_shape(base)}"
    return f"%{base.number}"


# --------------------------------------------------------------------------------------------- measurements


def _runs_of_groups(step):
    """For each group a function that runs it, for an engine that can run one by itself; else an empty list."""

    def run(calls):
        for call in calls:
            call()

    return [partial(run, calls) for _, calls in step.groups] if isinstance(step, Calls) else []


def _times(parts, begin, backend):
    """For each of some functions that together are a step, the seconds that it took in each run."""
    times, end = [[] for _ in parts], time.perf_counter() + SECONDS
    for i in range(MOST_RUNS if parts else 0):
        begin()
        for part, seconds in zip(parts, times, strict=True):
            backend.synchronize()
            start = time.perf_counter()
            part()
            backend.synchronize()
            seconds.append(time.perf_counter() - start)
        if i >= 3 and time.perf_counter() > end:
            break
    return times
