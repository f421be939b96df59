"""Opening a data file, plain or gzip, so that whatever is wrong with it comes out as one kind of error."""

import gzip
import os
import zlib
from contextlib import contextmanager

from ..errors import MiniVAEError

GZIP_MAGIC = b"\x1f\x8b"
DEFLATE_BEST_RATIO = 1032  # bytes out for each byte in, at most (zlib's technical notes)


@contextmanager
def open_stream(path):
    """The file's bytes as a binary stream, decompressed if they begin as gzip does, whatever the file's name.

    Raises MiniVAEError, also from inside the block, when the file cannot be read or its gzip data is damaged.
    """
    try:
        with open(path, "rb") as file:
            yield gzip.GzipFile(fileobj=file) if _is_gzip(file) else file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise MiniVAEError(f"{path}: damaged or truncated gzip data ({error}), fetch it again") from error
    except OSError as error:
        raise MiniVAEError(f"cannot read {path}: {error.strerror or error}") from error


def most_bytes(path):
    """The largest number of bytes that `open_stream(path)` can possibly yield."""
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size * (DEFLATE_BEST_RATIO if _is_gzip(file) else 1)


def _is_gzip(file):
    return file.peek(2)[:2] == GZIP_MAGIC
