"""Which step of an epoch went wrong, and which tensor of it first, once a NaN or an infinity has turned up.

Looking at every step would make each wait for the device. So `fit` looks once an epoch, and where that finds
something, this module goes through the epoch again: the same batches and noise, but slowly and with its eyes open.
"""

from contextlib import contextmanager

import numpy as np

from .errors import MiniVAEError


def read_if_finite(backend, wanted, *arrays):
    """The array `wanted` (n,) as a NumPy array; None where one of the arrays holds a NaN or an infinity.

    Waits for the device once, for all of them.
    """
    xp, n = backend.xp, len(arrays)
    report = xp.empty(n + len(wanted), "float64")
    for i, array in enumerate(arrays):
        xp.sum(xp.isfinite(array.ravel()), axis=0, keepdims=True, dtype="float64", out=report[i : i + 1])
    xp.copyto(report[n:], wanted)
    counts, values = np.split(backend.to_host(report), [n])
    return values.astype(wanted.dtype) if counts.tolist() == [array.size for array in arrays] else None


def is_finite(backend, *arrays):
    """Whether arrays on the device hold no NaN and no infinity; waits for the device."""
    return read_if_finite(backend, backend.xp.empty(0), *arrays) is not None


def explain(state, start):
    """The MiniVAEError that names the step and the tensor; leaves the training where the snapshot `start` was taken."""
    trainer, epoch = state.trainer, len(state.history) + 1
    step, tensor = _find(state, start)
    state.roll_back(start)
    where = "a step that did not fail again" if step is None else f"step {step} of {trainer.n_steps}: {tensor}"
    return MiniVAEError(
        f"training stopped in epoch {epoch}, {where} is not finite. The model is back where it was "
        f"{state.where()}. Usual cures: a smaller learning rate, clip_norm=1.0, a warm-up of beta, "
        'dtype="float64", data scaled to about 1'
    )


def _find(state, start):
    """The number of the first bad step, from 1, and its first bad tensor; (None, None) where all steps go well."""
    trainer = state.trainer
    for step, _ in trainer.parts:
        step.launch = step.run  # a recorded graph would not call the layers
    state.roll_back(start)
    number, before = len(state.history) + 1, start
    for _ in trainer.steps(number):
        if state.totals() is None:
            break
        before = state.snapshot()
    else:
        return None, None
    state.roll_back(before)
    with _watch(state.vae) as seen:
        next(trainer.steps(number))
    return trainer.done, _first_bad(state, seen)


@contextmanager
def _watch(vae):
    """Yields a list which fills with the names of tensors of the forward pass that are not finite, in order."""
    stacks = {"encoder": vae.encoder, "decoder": vae.decoder}
    calls = {
        f"the output of {name}.{i}": (layer, "forward")
        for name, stack in stacks.items()
        for i, layer in enumerate(stack.layers)
    }
    calls |= {"z": (vae.posterior, "sample"), "log p(x given z)": (vae.likelihood, "log_prob")}
    seen = []

    def watched(name, call):
        def watching(*args, **kwargs):
            result = call(*args, **kwargs)
            if not is_finite(vae.backend, result):
                seen.append(name)
            return result

        return watching

    for name, (part, method) in calls.items():
        setattr(part, method, watched(name, getattr(part, method)))
    try:
        yield seen
    finally:
        for part, method in calls.values():
            delattr(part, method)


def _first_bad(state, seen):
    if seen:
        return seen[0]
    tensors = {"the loss": state.trainer.epoch.totals}
    # The backward pass writes the gradients of the last layers first.
    tensors |= {f"the gradient of {name}": array for name, array in reversed(list(state.vae.gradients.items()))}
    tensors |= state.moving()
    return next((name for name, array in tensors.items() if not is_finite(state.vae.backend, array)), "a tensor")
