"""Where arrays live: NumPy on the processor, or CuPy on a GPU.

A backend is an explicit object that is handed around. Its `xp` is the array module (numpy or cupy), and the
rest of the package is written once against `xp`. Only what truly differs between the two is a method here.
"""

import platform

import numpy as np

from .errors import MiniVAEError


def generator(*key):
    """A NumPy generator for one purpose, keyed by integers such as (seed, purpose, epoch).

    Both backends draw every random number here, on the host, so they see the same numbers; the same key gives
    the same numbers whatever was drawn before; and NumPy's global random state is never touched.
    """
    return np.random.default_rng(key)


class NumpyBackend:
    """Arrays in main memory."""

    name = "numpy"
    xp = np

    @property
    def device(self):
        return f"CPU ({platform.machine()})"

    def asarray(self, host, dtype=None):
        """The array on this backend's device, C-contiguous; no copy where none is needed."""
        return np.ascontiguousarray(host, dtype)

    def upload(self, host, *, out):
        """Copy a NumPy array into an array on the device; the host array may be changed afterwards."""
        np.copyto(out, host)

    def to_host(self, array):
        """The array as a NumPy array; on a GPU this waits for the device."""
        return array

    def matmul(self, a, b, *, out):
        """out = a @ b for matrices or transposes of matrices; `out` is overwritten and overlaps neither."""
        np.matmul(a, b, out=out)

    def gather(self, rows, index, *, out):
        """out[i] = rows[index[i]]; every index must be in range, which is the caller's promise."""
        np.take(rows, index, axis=0, out=out, mode="clip")  # "clip" is three times as fast as "raise"

    def graph(self, step):
        """A function that does what `step()` does, as one launch where the device can (a CUDA graph).

        `step` must read everything that changes between calls from arrays, allocate nothing, copy nothing to or
        from the host, and return None.
        """
        return step

    def synchronize(self):
        """Wait until the device has finished."""


def get_backend(name="auto"):
    """The backend called "numpy" or "cupy"; "auto" takes a usable GPU, else NumPy, and says which and why.

    An explicit "cupy" without a usable GPU raises MiniVAEError with the reason and the mend.
    """
    if not isinstance(name, str):
        return name
    if name == "numpy":
        return NumpyBackend()
    raise MiniVAEError(f'unknown backend {name!r}: expected "numpy", "cupy" or "auto"')
