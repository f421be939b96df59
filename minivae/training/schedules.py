"""Schedules: functions of the epoch for beta and the learning rate."""

import math
from collections.abc import Callable

from ..arguments import at_least, number
from ..errors import MiniVAEError, shown


def linear_warmup(epochs: float, end: float = 1.0, start: float = 0.0) -> Callable[[int], float]:
    """A schedule for beta or the learning rate: from `start`, linearly, to `end` at epoch `epochs` and from then on.

        value(epoch) = start + (end - start) min(1, epoch / epochs)

    epoch counts from 1, so the first value lies one step above `start`.
    Source, for the weight of the KL: Bowman et al. 2016, section 3.1; Sonderby et al. 2016, section 2.3.
    """
    epochs = at_least("linear_warmup: epochs", epochs, 1)
    for name, value in (("end", end), ("start", start)):
        if not math.isfinite(number(value)):
            raise MiniVAEError(f"linear_warmup: {name} should be a finite number, got {shown(value)}")
    return lambda epoch: start + (end - start) * min(1.0, epoch / epochs)
