"""Writing a file so that nothing is ever lost: the old contents or the new, whole, never a mixture."""

import glob
import os
import secrets
from contextlib import contextmanager

from .errors import MiniVAEError


@contextmanager
def atomic_write(path):
    """A binary file to write to, which takes the place of `path` when the block ends without an error.

        with atomic_write("weights.bin") as file:
            file.write(...)

    The bytes go to a temporary file in the same folder, are forced to the disk, and only then renamed to
    `path`; after an error, or a crash at any moment, `path` still has what it had before. Raises MiniVAEError
    when the folder or the disk refuses.
    """
    target = os.path.realpath(path)
    temporary = f"{target}.{secrets.token_hex(4)}.tmp"
    try:
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            _remove(temporary)
            raise
    except OSError as error:
        raise MiniVAEError(f"cannot write {path}: {error.strerror or error}") from error


def remove_leftovers(path):
    """Remove the temporary files of writes to `path` that were killed; no other process may be writing to it."""
    for leftover in glob.glob(glob.escape(os.path.realpath(path)) + ".????????.tmp"):
        _remove(leftover)


def _remove(path):
    try:
        os.unlink(path)
    except OSError:
        pass  # it was never made, or its folder has gone: there is nothing left to tidy
