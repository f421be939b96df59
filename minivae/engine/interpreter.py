"""A list, run slowly: each operation by itself, with its value there to be looked at."""

import numpy as np

from .tracing import CAST, COPY

REDUCTIONS = {np.add: np.sum, np.maximum: np.max, np.minimum: np.min}


def interpret(trace, arrays, upload=lambda constant: constant):
    """Yields (value, array) for each operation of a list, in order; `arrays` are the step's, which stay as they are.

    upload : puts a constant, a NumPy array, where the arrays are
    """
    made = {}
    for value in trace.live():
        if value.kind == "input":
            made[value.number] = arrays[value.settings]
        elif value.kind == "constant":
            made[value.number] = upload(value.ghost)
        else:
            inputs = [source.on(made[source.base.number]) for source in value.inputs]
            array = made[value.number] = _compute(value, inputs)
            yield value, array


def _compute(value, inputs):
    if value.function in (CAST, COPY):
        return inputs[0].astype(value.dtype)
    if value.kind == "elementwise" or value.kind == "matmul":
        return value.function(*inputs)
    if value.kind == "reduce":
        return REDUCTIONS[value.function](inputs[0], axis=value.settings, keepdims=True)
    if value.kind == "assemble":
        return np.concatenate(inputs, axis=value.settings)
    return value.function.definition(*inputs, *value.settings)
