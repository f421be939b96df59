"""The four arrays of a data set in one .npz file, as in Keras's mnist.npz."""

import os

import numpy as np

from ..arguments import integer
from ..files import MAX_BYTES, told_as
from ..npy import read_members

NAMES = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> tuple[np.ndarray, ...]:
    """The arrays x_train, y_train, x_test, y_test of an .npz file, in that order; nothing is unpickled.

    Raises MiniVAEError if the file cannot be read, is not .npz, is damaged, lacks one of the four, or if they would
    take more than `max_bytes` of memory.
    """
    max_bytes = integer("read_npz: max_bytes", max_bytes)
    with told_as(f"{path}: expected an .npz file with {', '.join(NAMES)}"):  # a damaged one may raise nearly any kind
        return tuple(read_members(path, max_bytes, NAMES).values())
