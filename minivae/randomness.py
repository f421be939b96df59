"""Where every random number comes from: NumPy generators, each keyed by a seed and a purpose.

All are drawn on the host, so every backend sees the same numbers; the same key gives the same numbers whatever was
drawn before; and NumPy's global random state is never touched.
"""

import numpy as np

# The second word of a generator's key, so that no two purposes share random numbers.
CALL_NOISE, EVALUATION_NOISE, SAMPLING, LIKELIHOOD_NOISE, SHUFFLE, FIT_NOISE, SPLIT = range(1, 8)
BINARIZATION, FIT_BINARIZATION, DIAGNOSIS, FIT_UNIFORM, IMPUTATION, AGGREGATE = 8, 9, 10, 11, 12, 13
# NumPy ignores zeros at the end of a key. With a 0 here, as in version 0.1, initial weights would be the numbers that
# default_rng(seed) gives, from which a user's data may be drawn. These four letters are "init".
INITIALISATION = int.from_bytes(b"init", "big")


def generator(*key):
    """A NumPy generator for one purpose, keyed by integers such as (seed, purpose, epoch)."""
    return np.random.default_rng(key)
