"""Pixels drawn as black or white, each white with the probability that its grey value is."""

import numpy as np

from ..arguments import array, check_unit
from ..arguments import seed as check_seed
from ..errors import MiniVAEError, shown
from ..randomness import BINARIZATION, generator

ROWS = 10_000  # rows at a time


def thresholds(rng, shape, dtype):
    """Noise t for pixels x of this dtype, drawn with the NumPy generator `rng`: x > t is a white pixel.

    Its probability is exactly x for numbers in [0, 1], and x / 255 for uint8 pixels, whose t is one of 0 to 254.
    """
    if dtype == np.uint8:
        return rng.integers(0, 255, shape, np.uint8)
    return rng.random(shape, np.float32)


def binarize(x: np.ndarray, seed: int = 0) -> np.ndarray:
    """One draw of every pixel as black or white: white with probability x, or x / 255 for uint8 pixels.

    x : a NumPy array (N, ...) of uint8 pixels, or of numbers in [0, 1]
    Returns uint8 pixels of 0 or 255 in the shape of x; the same seed gives the same draw. It is meant for
    evaluation: `fit(binarize=True)` draws anew in every epoch.
    Source: Salakhutdinov & Murray 2008; drawn anew: Burda, Grosse & Salakhutdinov 2016, section 5.
    """
    x = array("binarize: x", x)
    if x.ndim == 0:
        raise MiniVAEError(f"binarize: x should be (N, ...), got {shown(x)}")
    check_grey(x)
    rng = generator(check_seed("binarize: seed", seed), BINARIZATION)
    drawn = np.empty(x.shape, np.uint8)
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        white = x[rows] > thresholds(rng, x[rows].shape, x.dtype)
        drawn[rows] = white * np.uint8(255)
    return drawn


def check_grey(x):
    """Raise MiniVAEError unless the NumPy array x holds uint8 pixels or lies in [0, 1]."""
    if x.dtype != np.uint8 and x.size:
        check_unit("binarization expects uint8 pixels or values", x, "divide grey values by their maximum")
