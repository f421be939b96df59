"""Which step of an epoch went wrong, and which line first, once a NaN or an infinity has turned up.

Looking at every step would make each wait for the device. So `fit` looks once an epoch, and where that finds
something, this module goes through the epoch again, slowly and with its eyes open: the same batches and noise, and of
the step that fails one operation after another.
"""

import numpy as np

from ..engine.interpreter import interpret
from ..engine.tracing import Untraceable, trace
from ..errors import MiniVAEError
from ..parallel import ALONE
from .step import parameter_of

LARGE = 20  # values of x, for weights that begin at the size that suits values of about 1


def explain(training, start):
    """The MiniVAEError that names the step and the line; leaves the training where the snapshot `start` was taken."""
    epoch = training.epoch
    step, culprit = _find(training, start)
    training.roll_back(start)
    where = "a step that did not fail again" if step is None else f"step {step} of {training.n_steps}: {culprit}"
    return MiniVAEError(
        f"training stopped in epoch {epoch}, {where} is not finite. The model is back where it was "
        f"{training.where()}. {_scale(training)}Usual cures: a smaller learning rate, optimizer=ClipNorm(...), a "
        'warm-up of beta, dtype="float64", data scaled to about 1'
    )


def _scale(training):
    """A sentence on the scale of x, where that is the likely cause; uint8 pixels are brought to [0, 1] anyway."""
    x = training.vae.backend.to_host(training.arrays["data"])
    low, high = np.nanmin(x), np.nanmax(x)
    if x.dtype == np.uint8 or -LARGE <= low and high <= LARGE:
        return ""
    return f"x lies in [{low:g}, {high:g}]: divide it by its maximum, or by its standard deviation. "


def _find(training, start):
    """The number of the first bad step, from 1, and what was not finite in it; (None, None) where all go well."""
    training.roll_back(start)
    before = start
    for _ in training.steps():
        if training.finite_totals() is None:
            break
        before = training.snapshot()
    else:
        return None, None
    number = training.done
    training.roll_back(before)
    seen = []
    next(training.steps(run=lambda step: seen.append(first_bad(step, training.ranks))))
    return number, seen[0]


def first_bad(step, ranks=ALONE):
    """In words, the first value of a Step that holds a NaN or an infinity, on whichever rank.

    The step's arrays stay as they are, among them the sums of several ranks from when it ran.
    """
    for stage in step.stages:
        found = ranks.first(_first_bad(step, getattr(step, stage)) if step.n_rows else None)
        if found:
            return found
    return "a tensor"


def _first_bad(step, function):
    """The same for one function of a step on this rank's rows; None where all is finite."""
    vae = step.vae
    try:
        list_ = trace(function, step.arrays, vae.dtype)
    except Untraceable:
        return "a value, which cannot be named because the step cannot be traced,"
    gaps = {list_.inputs["data"].number} if vae.likelihood.takes_nan else set()  # values with a NaN that x has
    for value, array in interpret(list_, step.arrays, vae.backend.asarray):
        array = vae.backend.to_host(array)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            if gaps & {source.base.number for source in value.inputs} and not np.isinf(array).any():
                gaps.add(value.number)
                continue
            used = [name for source in value.inputs if (name := parameter_of(vae, source))]
            return f"{value.name}{' with ' + used[0] if used else ''} ({value.line}: `{value.line.text}`)"
    return None
