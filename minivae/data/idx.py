"""The IDX format of the MNIST distribution: a big-endian header (type, dimensions), then the values.

    byte 0, 1   zero
    byte 2      type of the values: 8 uint8, 9 int8, 11 int16, 12 int32, 13 float32, 14 float64
    byte 3      number of dimensions
    then        the size of each dimension, as 32-bit integers, then the values in C order

Source: Y. LeCun, C. Cortes, C. J. C. Burges, The MNIST database of handwritten digits.
"""

import gzip
import math
import os
import struct

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import array as check_array
from ..arguments import integer
from ..arguments import path as check_path
from ..errors import MiniVAEError
from ..files import MAX_BYTES, atomic_write, check_fits
from .streams import most_bytes, open_stream

TYPES = {
    code: np.dtype(name) for code, name in {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}.items()
}
CODES = {dtype.newbyteorder("="): code for code, dtype in TYPES.items()}
CHUNK = 1 << 20
MOST_DIMENSIONS = 64  # of a NumPy array


def read_idx(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """The array in an IDX file, plain or .gz, in its own type and the machine's byte order.

    Raises MiniVAEError if the file cannot be read, is not IDX, or does not hold exactly what its header
    promises; a header that promises more than the file could hold, or more than `max_bytes`, is refused before any
    memory is taken.
    """
    max_bytes = integer("read_idx: max_bytes", max_bytes)
    with open_stream(path) as stream:
        dtype, shape = _read_header(stream, path)
        promised = dtype.itemsize * math.prod(shape)
        if promised > most_bytes(path):
            raise MiniVAEError(
                f"{path}: the header promises shape {shape}, {promised:,} bytes, "
                "more than the file can hold: it is truncated or damaged"
            )
        check_fits(path, promised, max_bytes)
        values = _read_at_most(stream, promised + 1)
    if len(values) != promised:
        found = f"only {len(values):,}" if len(values) < promised else "more"
        raise MiniVAEError(
            f"{path}: the header promises shape {shape}, {promised:,} bytes, but {found} "
            "follow: the file is truncated or damaged, fetch it again"
        )
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def write_idx(path: str | os.PathLike, array: ArrayLike) -> None:
    """Write an array as an IDX file, gzip-compressed if the name ends in .gz; the same array, the same bytes.

    The file appears whole or not at all. Raises MiniVAEError for a type that IDX lacks, for an empty array
    and when the path cannot be written.
    """
    values, path = check_array("write_idx: array", array), check_path("write_idx: path", path)
    if values.dtype.newbyteorder("=") not in CODES:
        raise MiniVAEError(f"IDX files hold {', '.join(map(str, CODES))}, got {values.dtype}: convert the array first")
    if values.size == 0 or values.ndim == 0:
        raise MiniVAEError(f"an IDX file holds at least one value in one dimension, got shape {values.shape}")
    contents = idx_bytes(values)
    if os.fspath(path).endswith(".gz"):
        contents = gzip.compress(contents, mtime=0)
    with atomic_write(path) as file:
        file.write(contents)


def idx_bytes(array):
    """The contents of an uncompressed IDX file that holds `array`."""
    code = CODES[array.dtype.newbyteorder("=")]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(TYPES[code]).tobytes()


def _read_header(stream, path):
    start = _read_at_most(stream, 4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise MiniVAEError(
            f"{path}: not an IDX file: it should begin with two zero bytes, a type and a "
            f"number of dimensions, but begins with {bytes(start).hex(' ') or 'nothing'}"
        )
    code, ndim = start[2:]
    if code not in TYPES:
        raise MiniVAEError(f"{path}: IDX type code {code} is unknown: expected one of {', '.join(map(str, TYPES))}")
    if not 1 <= ndim <= MOST_DIMENSIONS:
        raise MiniVAEError(f"{path}: the IDX header says {ndim} dimensions: expected 1 to {MOST_DIMENSIONS}")
    sizes = _read_at_most(stream, 4 * ndim)
    if len(sizes) < 4 * ndim:
        raise MiniVAEError(f"{path}: truncated inside the IDX header")
    shape = struct.unpack(f">{ndim}I", sizes)
    if 0 in shape:
        raise MiniVAEError(f"{path}: the IDX header says shape {shape}, which holds nothing")
    return TYPES[code], shape


def _read_at_most(stream, count):
    """The next `count` bytes, or fewer at the end; memory grows with what is there, not with `count`."""
    values = bytearray()
    while len(values) < count:
        chunk = stream.read(min(CHUNK, count - len(values)))
        if not chunk:
            break
        values += chunk
    return values
