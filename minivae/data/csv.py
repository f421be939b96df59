"""Images in CSV files, as Kaggle has Fashion-MNIST and EMNIST: a row for each, the label with the pixels."""

import math
from dataclasses import dataclass

import numpy as np

from ..errors import MiniVAEError
from .streams import open_stream

BLOCK = 1 << 20  # bytes parsed at a time: more would fall out of the processor's cache
LONGEST_LINE = 1 << 24
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_csv(path, shape=None, transposed=False):
    """The images (N, height, width) uint8 and the labels (N,) int64 of a CSV file, plain or .gz.

    Every row has a label and the pixels of one image in C order, whole numbers from 0 to 255. With a header
    line the label is the column that is called `label`, without one it is the first. `shape` is (height,
    width), a square if it is not given; `transposed` is for files that store each image with rows and columns
    exchanged, as Kaggle's EMNIST does. A byte-order mark, Windows line ends and blank lines are accepted.

    Raises MiniVAEError, with the line number, for a row with too few or too many values, for what is not a
    number from 0 to 255 and for a missing label column; and if the file cannot be read or has no rows.
    """
    with open_stream(path) as stream:
        first_line = stream.readline(LONGEST_LINE).removeprefix(BYTE_ORDER_MARK)
        layout = _read_layout(first_line, shape, path)
        blocks = _whole_lines(stream, path, first_line, has_header=layout.has_header)
        parts = [_parse(rows, layout.columns, path, number) for number, rows in blocks]
    if not sum(map(len, parts)):
        raise MiniVAEError(f"{path}: no rows, expected one for each image")
    labels = np.concatenate([part[:, layout.label] for part in parts]).astype(np.int64)
    parts = [np.delete(part, layout.label, axis=1) for part in parts]
    images = np.concatenate(parts).reshape(-1, *layout.shape)
    return np.ascontiguousarray(images.transpose(0, 2, 1)) if transposed else images, labels


def read_mapping(path):
    """The class names of EMNIST's mapping file as a dict {label: character}.

    Each line has a label and the decimal codes of one or two characters (upper and lower case), of which
    the first names the class: `1 65 97` is {1: "A"}. Raises MiniVAEError, with the line number, for anything
    else.
    """
    names = {}
    with open_stream(path) as stream:
        for number, line in enumerate(stream.read(BLOCK).splitlines(), 1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) not in (2, 3) or not all(field.isdigit() and len(field) < 5 for field in fields):
                raise MiniVAEError(f"{path}, line {number}: expected a label and one or two character codes, "
                                   f"such as '1 65 97', got {_shown(line)}")
            names[int(fields[0])] = chr(int(fields[1]))
    return names


@dataclass(frozen=True)
class _Layout:
    has_header: bool
    columns: int
    label: int  # the column of the label
    shape: tuple


def _read_layout(line, shape, path):
    """What the file's first line, a header or not, tells about all its rows."""
    names = [field.strip(b' \t\r\n"').lower() for field in line.split(b",")]
    if names == [b""]:
        raise MiniVAEError(f"{path}: the first line is empty, expected a header or an image")
    has_header = b"label" in names or not any(name.isdigit() for name in names)
    if has_header and b"label" not in names:
        raise MiniVAEError(f"{path}, line 1: no label column, expected a header such as 'label,pixel1,...', "
                           f"got {_shown(line)}")
    label = names.index(b"label") if has_header else 0
    return _Layout(has_header, len(names), label, _image_shape(shape, len(names), path))


def _image_shape(shape, columns, path):
    """The (height, width) of the images: as given, else a square; it must fit the number of columns."""
    if shape is not None:
        if math.prod(shape) + 1 != columns:
            raise MiniVAEError(f"{path}, line 1: expected {math.prod(shape) + 1} values, a label and the "
                               f"pixels of an image of shape {tuple(shape)}, got {columns}")
        return tuple(shape)
    side = math.isqrt(columns - 1)
    if side == 0 or side * side != columns - 1:
        is_square = math.isqrt(columns) ** 2 == columns
        mend = "is the label column missing?" if is_square else "give shape=(height, width) of other images"
        raise MiniVAEError(f"{path}, line 1: expected a label and the pixels of a square image, such as 785 "
                           f"values for 28 x 28, got {columns}: {mend}")
    return side, side


def _whole_lines(stream, path, first_line, *, has_header):
    """Blocks of whole lines, each with the number of its first; every line ends in a single newline."""
    number, rest = (2, b"") if has_header else (1, first_line)
    while chunk := stream.read(BLOCK):
        lines, newline, rest = (rest + chunk).rpartition(b"\n")
        if newline:
            yield number, (lines + newline).replace(b"\r\n", b"\n")
            number += lines.count(b"\n") + 1
        elif len(rest) > LONGEST_LINE:
            raise MiniVAEError(f"{path}, line {number}: more than {LONGEST_LINE:,} bytes long: is this CSV?")
    if rest:
        yield number, (rest + b"\n").replace(b"\r\n", b"\n")


def _parse(rows, columns, path, first_number):
    """The (n, columns) uint8 values of a block of lines."""
    values = _parse_regular(rows, columns)
    return _parse_line_by_line(rows, columns, path, first_number) if values is None else values


def _parse_regular(rows, columns):
    """The values, if the block is nothing but numbers of one to three digits, commas and newlines; else None.

    All bytes are worked on at once: where a number ends, it is the digit there, plus ten times the one
    before, plus a hundred times the one before that, each as long as only digits lie between.
    """
    text = np.frombuffer(b"\n\n\n" + rows, np.uint8)
    digit = text - np.uint8(ord("0"))
    is_digit = digit < 10
    digit *= is_digit
    separators = text[3:][~is_digit[3:]]
    if separators.size % columns:
        return None
    separators = separators.reshape(-1, columns)
    is_regular = ((separators[:, :-1] == ord(",")).all() and (separators[:, -1] == ord("\n")).all()
                  and (is_digit[3:] | is_digit[2:-1]).all()  # no empty field
                  and not (is_digit[3:] & is_digit[2:-1] & is_digit[1:-2] & is_digit[:-3]).any())
    if not is_regular:
        return None
    value = digit[2:].astype(np.uint16)
    value += digit[1:-1] * np.uint8(10)
    value += digit[:-2] * is_digit[1:-1] * np.uint16(100)
    values = value[:-1][~is_digit[3:]]
    return values.astype(np.uint8).reshape(-1, columns) if values.max() <= 255 else None


def _parse_line_by_line(rows, columns, path, first_number):
    """The values of a block that is regular but for blanks, or the error in it."""
    values = []
    for number, line in enumerate(rows.split(b"\n"), first_number):
        if not line.strip():
            continue
        fields = line.split(b",")
        if len(fields) != columns:
            raise MiniVAEError(f"{path}, line {number}: expected {columns} values, got {len(fields)}")
        for column, field in enumerate(fields, 1):
            digits = field.strip()
            if not digits.isdigit() or len(digits.lstrip(b"0")) > 3 or int(digits) > 255:
                raise MiniVAEError(f"{path}, line {number}, column {column}: expected a whole number "
                                   f"from 0 to 255, got {_shown(field)}")
            values.append(int(digits))
    return np.array(values, np.uint8).reshape(-1, columns)


def _shown(text):
    """Bytes of unknown origin, for a message: printable and not long."""
    text = text[:40].decode("ascii", "backslashreplace").strip()
    return repr(text) if text else "nothing"
