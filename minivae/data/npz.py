"""The four arrays of a data set in one .npz file, as in Keras's mnist.npz."""

import os

import numpy as np

from ..errors import MiniVAEError

NAMES = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: str | os.PathLike) -> tuple[np.ndarray, ...]:
    """The arrays x_train, y_train, x_test, y_test of an .npz file, in that order; nothing is unpickled.

    Raises MiniVAEError if the file cannot be read, is not .npz, is damaged or lacks one of the four.
    """
    try:
        with open(path, "rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            with arrays:
                parts = tuple(arrays[name] for name in NAMES)
        if not all(isinstance(part, np.ndarray) for part in parts):
            raise ValueError("what it holds are not arrays")
        return parts
    except FileNotFoundError as error:
        raise MiniVAEError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # for a damaged file NumPy and zipfile raise nearly every kind
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MiniVAEError(f"{path}: expected an .npz file with {', '.join(NAMES)}: {reason}") from error
