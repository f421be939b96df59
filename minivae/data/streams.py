"""Opening a data file, plain or gzip, so that whatever is wrong with it comes out as one kind of error."""

import gzip
import io
import math
import os
import zlib
from contextlib import contextmanager

from ..errors import MiniVAEError
from ..files import check_fits, reading

GZIP_MAGIC = b"\x1f\x8b"
BUFFER = 1 << 16
DEFLATE_BEST_RATIO = 1032  # bytes out for each byte in, at most (zlib's technical notes)


@contextmanager
def open_stream(path, max_bytes=math.inf):
    """The file's bytes as a binary stream, decompressed if they begin as gzip does, whatever the file's name.

    Raises MiniVAEError, also from inside the block, when the file cannot be read, its gzip data is damaged, or more
    than max_bytes come out of it.
    """
    with reading(path) as file:
        try:
            source = gzip.GzipFile(fileobj=file) if _is_gzip(file) else file
            yield io.BufferedReader(_Limited(source, path, max_bytes), BUFFER)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise MiniVAEError(f"{path}: damaged or truncated gzip data ({error}), fetch it again") from error


class _Limited(io.RawIOBase):
    """What comes out of a stream, until it is more than max_bytes."""

    def __init__(self, source, path, max_bytes):
        self._source, self._path, self._max_bytes, self._n_bytes = source, path, max_bytes, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        n = self._source.readinto(buffer)
        self._n_bytes += n
        check_fits(self._path, self._n_bytes, self._max_bytes)
        return n


def most_bytes(path):
    """The largest number of bytes that `open_stream(path)` can possibly yield."""
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size * (DEFLATE_BEST_RATIO if _is_gzip(file) else 1)


def _is_gzip(file):
    return file.peek(2)[:2] == GZIP_MAGIC
