"""Counts: 0, 1, 2, ... as values of x, with a Poisson distribution whose rate the decoder gives.

A Gaussian would give probability to -0.3 of something, and the same width to counts around 2 and around 200. Source:
Nazabal, Olmos, Ghahramani & Valera 2020, "Handling incomplete heterogeneous data using VAEs", section 3.1; the
logarithm of a factorial: Stirling's series, Abramowitz & Stegun 1964, 6.1.41.
"""

import numpy as np

from ..errors import MiniVAEError
from ..model.gaussian import LOG_2PI, hold
from ..model.likelihoods import Likelihood

LARGEST_RATE = 1e18  # for which NumPy still draws


def log_factorial(n):
    """log n! of numbers n from 0 to 1e12, to rounding.

    With y = n + 8,  log n! = log (y - 1)! - log((n + 1) (n + 2) ... (n + 7)),  and Stirling's series
        log (y - 1)! = (y - 1/2) log y - y + 1/2 log 2 pi + 1/(12 y) - 1/(360 y^3) + 1/(1260 y^5) - 1/(1680 y^7) + ...
    whose first term left out is below 1e-11 for y >= 8. The product is taken in parts that don't overflow.
    """
    y = n + 8
    r = 1 / y
    squared = r * r
    series = r * (1 / 12 - squared * (1 / 360 - squared * (1 / 1260 - squared * (1 / 1680))))
    product = np.log((n + 1) * (n + 2) * (n + 3)) + np.log((n + 4) * (n + 5) * (n + 6)) + np.log(n + 7)
    return (y - 0.5) * np.log(y) - y + 0.5 * LOG_2PI + series - product


def poisson_log_prob(x, log_rate):
    """log p(x given z) for counts that are Poisson with the given logarithms of their rates.

        log_px = sum_i (x_i l_i - exp(l_i) - log x_i!)

    x (B, X), counts;  log_rate (L, B, X) -> log_px (L, B), nats

    dlog_px/dl = x - exp(l).
    """
    rate = np.exp(log_rate)
    log_px = np.sum(x * log_rate - rate - log_factorial(x), axis=-1)
    return log_px, lambda dlog_px: dlog_px[..., None] * (x - rate)


class Poisson(Likelihood):
    """Each value is a count, Poisson with rate exp(decoder's output); see `poisson_log_prob`.

    x must hold 0, 1, 2, ..., and be no uint8, which is for pixels. The logarithm of the rate is held within [-80, 80].
    """

    def check(self, x):
        bad = x[(x < 0) | (x != np.rint(x))]
        if len(bad):
            raise MiniVAEError(f"a Poisson likelihood expects counts 0, 1, 2, ..., got {bad[0]:g}")

    def check_pixels(self, x):
        raise MiniVAEError('x is uint8, which is read as pixels and divided by 255: pass counts as x.astype("int64")')

    def log_prob(self, params, x, out):
        log_rate, hold_backward = hold(out)
        log_px, log_prob_backward = poisson_log_prob(x, log_rate)
        return log_px, lambda dlog_px: (hold_backward(log_prob_backward(dlog_px)), {})

    def mean(self, params, out):
        return np.exp(hold(out)[0])

    def sample(self, params, out, rng):
        return rng.poisson(np.minimum(self.mean(params, out), LARGEST_RATE)).astype(out.dtype)
