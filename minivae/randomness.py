"""Where every random number comes from: NumPy generators, each keyed by a seed and a purpose.

All are drawn on the host, so every backend sees the same numbers; the same key gives the same numbers whatever was
drawn before; and NumPy's global random state is never touched.
"""

import numpy as np

from .arguments import number
from .errors import MiniVAEError, shown

# The second word of a generator's key, so that no two purposes share random numbers.
CALL_NOISE, EVALUATION_NOISE, SAMPLING, LIKELIHOOD_NOISE, SHUFFLE, FIT_NOISE, SPLIT = range(1, 8)
BINARIZATION, FIT_BINARIZATION, DIAGNOSIS, FIT_UNIFORM, IMPUTATION, AGGREGATE = 8, 9, 10, 11, 12, 13
# NumPy ignores zeros at the end of a key. With a 0 here, as in version 0.1, initial weights would be the numbers that
# default_rng(seed) gives, from which a user's data may be drawn. These four letters are "init".
INITIALISATION = int.from_bytes(b"init", "big")


def generator(*key):
    """A NumPy generator for one purpose, keyed by integers such as (seed, purpose, epoch)."""
    return np.random.default_rng(key)


def drawn_share(name, share, n, seed):
    """A share of n rows, drawn at random, and the others: their numbers, in ascending order.

    Raises MiniVAEError, in which the share is called `name`, where it leaves nothing on either side.
    """
    n_drawn = round(number(share) * n) if 0 < number(share) < 1 else 0
    if not 0 < n_drawn < n:
        raise MiniVAEError(
            f"{name}={shown(share)} should be a share that leaves some of the {n} examples on either side"
        )
    order = generator(seed, SPLIT).permutation(n)
    return np.sort(order[:n_drawn]), np.sort(order[n_drawn:])
