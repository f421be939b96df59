"""Images in CSV files, as Kaggle has Fashion-MNIST and EMNIST: a row for each, the label with the pixels."""

import math
import os
from collections.abc import Sequence
from itertools import chain

import numpy as np

from ..arguments import flag, integer
from ..errors import MiniVAEError
from ..files import MAX_BYTES
from .images import check_height_and_width
from .streams import open_stream

LONGEST_LINE = 1 << 24  # bytes; bounds what a file without line ends can take
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_csv(
    path: str | os.PathLike, shape: Sequence[int] | None = None, transposed: bool = False, max_bytes: int = MAX_BYTES
) -> tuple[np.ndarray, np.ndarray]:
    """The images (N, height, width) uint8 and the labels (N,) int64 of a CSV file, plain or .gz.

    Every row has a label and the pixels of one image in C order, whole numbers from 0 to 255. With a header
    line the label is the column that is called `label`, without one it is the first. `shape` is (height,
    width), a square if it is not given; `transposed` is for files that store each image with rows and columns
    exchanged, as Kaggle's EMNIST does. A byte-order mark, Windows line ends and blank lines are accepted. The text may
    have `max_bytes`, decompressed.

    Raises MiniVAEError, with the line number, for a row with too few or too many values, for what is not a
    number from 0 to 255 and for a missing label column; and if the file cannot be read, has no rows or is too long.
    """
    max_bytes, transposed = integer("read_csv: max_bytes", max_bytes), flag("read_csv: transposed", transposed)
    check_height_and_width(shape, "shape")
    with open_stream(path, max_bytes) as stream:
        lines = _Lines(stream)
        label, n_columns, shape, rows = _read_layout(lines, shape, path)
        try:
            values = np.loadtxt(rows, np.uint8, comments=None, delimiter=",", ndmin=2, encoding="latin1")
        except ValueError as error:
            raise _error_in(lines, n_columns, path, error) from error
    labels = values[:, label].astype(np.int64)
    images = np.delete(values, label, axis=1).reshape(-1, *shape)
    return np.ascontiguousarray(images.transpose(0, 2, 1)) if transposed else images, labels


def read_mapping(path: str | os.PathLike) -> dict[int, str]:
    """The class names of EMNIST's mapping file as a dict {label: character}.

    Each line has a label and the decimal codes of one or two characters (upper and lower case), of which
    the first names the class: `1 65 97` is {1: "A"}. Raises MiniVAEError, with the line number, for anything
    else.
    """
    names = {}
    with open_stream(path, MAX_BYTES) as stream:
        for number, line in enumerate(stream.read(LONGEST_LINE).splitlines(), 1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) not in (2, 3) or not all(field.isdigit() and len(field) < 5 for field in fields):
                raise MiniVAEError(
                    f"{path}, line {number}: expected a label and one or two character codes, "
                    f"such as '1 65 97', got {_shown(line)}"
                )
            names[int(fields[0])] = chr(int(fields[1]))
    return names


class _Lines:
    """The lines of a stream that are not blank, as bytes, with the number and the text of the last one read."""

    def __init__(self, stream):
        self._stream = stream
        self.number = 0

    def __iter__(self):
        return self

    def __next__(self):
        while line := self._stream.readline(LONGEST_LINE):
            self.number += 1
            self.text = line.removeprefix(BYTE_ORDER_MARK) if self.number == 1 else line
            if self.text.strip():
                return self.text
        raise StopIteration


def _read_layout(lines, shape, path):
    """What the first line, a header or not, tells: the column of the label, how many there are, the shape of an image.

    And the rows below it, or with it.
    """
    line = next(lines, None)
    if line is None:
        raise MiniVAEError(f"{path}: the file is empty, expected a row for each image")
    place = f"{path}, line {lines.number}"
    names = [field.strip(b' \t\r\n"').lower() for field in line.split(b",")]
    has_header = b"label" in names or not any(name.isdigit() for name in names)
    if has_header and b"label" not in names:
        raise MiniVAEError(
            f"{place}: no label column, expected a header such as 'label,pixel1,...', got {_shown(line)}"
        )
    label = names.index(b"label") if has_header else 0
    shape = _image_shape(shape, len(names), place)
    first_row = next(lines, None) if has_header else line
    if first_row is None:
        raise MiniVAEError(f"{path}: no rows below the header, expected one for each image")
    if len(first_row.split(b",")) != len(names):
        raise _error_in(lines, len(names), path)
    return label, len(names), shape, chain([first_row], lines)


def _error_in(lines, columns, path, reason=""):
    """What is wrong in the last line that was read."""
    place = f"{path}, line {lines.number}"
    fields = lines.text.split(b",")
    if len(fields) != columns:
        return MiniVAEError(f"{place}: expected {columns} values, got {len(fields)}")
    for column, field in enumerate(fields, 1):
        digits = field.strip().lstrip(b"0")
        if not field.strip().isdigit() or len(digits) > 3 or int(digits or 0) > 255:
            return MiniVAEError(f"{place}, column {column}: expected a whole number from 0 to 255, got {_shown(field)}")
    return MiniVAEError(f"{place}: {reason}")


def _image_shape(shape, columns, place):
    """The (height, width) of the images: as given, else a square; it must fit the number of columns."""
    if shape is not None:
        if math.prod(shape) + 1 != columns:
            raise MiniVAEError(
                f"{place}: expected {math.prod(shape) + 1} values, a label and the "
                f"pixels of an image of shape {tuple(shape)}, got {columns}"
            )
        return tuple(shape)
    side = math.isqrt(columns - 1)
    if side == 0 or side * side != columns - 1:
        is_square = math.isqrt(columns) ** 2 == columns
        mend = "is the label column missing?" if is_square else "give shape=(height, width) of other images"
        raise MiniVAEError(
            f"{place}: expected a label and the pixels of a square image, such as 785 "
            f"values for 28 x 28, got {columns}: {mend}"
        )
    return side, side


def _shown(text):
    """Bytes of unknown origin, for a message: printable and not long."""
    text = text[:40].decode("ascii", "backslashreplace").strip()
    return repr(text) if text else "nothing"
