"""The params that a part is handed, as plain float64 arrays."""

import numpy as np


def params_of(part, seed=0, scale=None, **given):
    """Initial values, or scale times standard normal ones, with the constants; and what is given by name instead."""
    rng = np.random.default_rng(seed)
    params = part.initial(rng)
    if scale is not None:
        params = {name: scale * rng.standard_normal(shape) for name, shape in part.shapes().items()}
    constants = {name: np.asarray(value, float) for name, value in part.constant_arrays().items()}
    return params | constants | {name: np.asarray(value, float) for name, value in given.items()}
