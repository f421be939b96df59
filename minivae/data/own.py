"""Data of one's own, from whatever they lie in: a folder of pictures, arrays, a table."""

import array
import csv
import io
import itertools
import os
from pathlib import Path

import numpy as np

from ..arguments import array as check_array
from ..arguments import path as check_path
from ..errors import MiniVAEError
from ..files import check_fits, told_as
from ..npy import read_members, read_npy
from ..randomness import drawn_share
from .idx import read_idx
from .images import picture_files, read_images
from .streams import open_stream

LONGEST_LINE = 1 << 24  # characters; bounds what a file without line ends can take
CLASS_BYTES = 200  # that the name of a class takes, beside its text
LABELS = ("label", "class", "target", "y")  # what a table's column of classes may be called
ARRAYS = "an .npz file should hold x, or x and y, or x_train and x_test with or without y_train and y_test"


def read_own(source, size, color, max_bytes):
    """x and y, or None, of one's own data, names of the classes, and x_test and y_test where they come apart.

    source : an array; a folder of pictures, whose sub-folders are classes if there are several; a .npy, .npz, .csv or
             IDX file
    max_bytes : of memory that it may take
    """
    if not isinstance(source, (str, os.PathLike)):
        _check_no_scaling("an array", size, color, "; data.read_images scales arrays of them")
        return _checked("the array", check_array("load: an array", source)), None, (), None, None
    path = Path(os.path.expanduser(check_path("load: the path", source)))
    if path.is_dir():
        x = read_images(path, size, color, max_bytes)
        return x, *_classes_by_folder(path, len(x)), None, None
    if not os.path.exists(path):
        raise MiniVAEError(f"no such file or folder: {path}")
    _check_no_scaling(path, size, color)
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        return *_read_table(path, max_bytes), None, None
    if name.endswith(".npz"):
        return _read_arrays(path, max_bytes)
    with told_as(f"cannot read {path}"):
        x = (read_npy if name.endswith(".npy") else read_idx)(path, max_bytes)
    return _checked(path, x), None, (), None, None


def _check_no_scaling(source, size, color, hint=""):
    """Raise MiniVAEError where what is no folder of pictures should be scaled or keep its colours."""
    if size is not None or color:
        raise MiniVAEError(f"load: size and color are for a folder of pictures: leave them out for {source}{hint}")


def split(x, y, share):
    """x, y for training and for test, drawn at random: (x_train, y_train, x_test, y_test)."""
    test, train = drawn_share("load: test", share, len(x), seed=0)
    return x[train], None if y is None else y[train], x[test], None if y is None else y[test]


def _checked(where, x):
    if x.ndim < 2 or x.size == 0 or x.dtype.kind not in "fiub":
        what = "numbers of shape (N, ...), a row for each example"
        raise MiniVAEError(f"{where}: expected {what}, got {x.dtype} of shape {x.shape}")
    return x


def _classes_by_folder(folder, n):
    """The class of each of n pictures, in the order of their names, and the names of the classes."""
    parents = [path.relative_to(folder).parts[0] for path in picture_files(folder)]
    names = tuple(sorted(set(parents)))
    if len(names) < 2 or not all((folder / parent).is_dir() for parent in parents):
        return None, ()
    return np.array([names.index(parent) for parent in parents]), names


def _read_arrays(path, max_bytes):
    with told_as(f"cannot read {path}"):  # for a damaged file NumPy and zipfile raise nearly every kind
        found = read_members(path, max_bytes)
    x, y = found.get("x_train", found.get("x")), found.get("y_train", found.get("y"))
    x_test, y_test = found.get("x_test"), found.get("y_test")
    if len(found) == 1:
        (x,) = found.values()
    if x is None:
        raise MiniVAEError(f"{path}: {ARRAYS}; it has {', '.join(found) or 'nothing'}")
    parts = [(_checked(path, part), labels) for part, labels in ((x, y), (x_test, y_test)) if part is not None]
    if len({(part.shape[1:], labels is None) for part, labels in parts}) > 1:
        raise MiniVAEError(
            f"{path}: training and test examples should be of one shape, and have labels both or neither"
        )
    if y is None:
        return x, None, (), x_test, None
    for part, labels in parts:
        if labels.shape != (len(part),) or labels.dtype.kind not in "iubfUS":
            what = f"labels should be of shape (N,), here ({len(part)},), whole numbers or texts"
            raise MiniVAEError(f"{path}: {what}, got {labels.dtype} of shape {labels.shape}")
    names, numbers = np.unique(np.concatenate([labels for _, labels in parts]), return_inverse=True)
    return x, numbers[: len(x)], tuple(map(str, names)), x_test, None if x_test is None else numbers[len(x) :]


def _read_table(path, max_bytes):
    """The numbers of a table, its classes, and their names. A first line that is no numbers has the columns' names."""
    with open_stream(path, max_bytes) as stream, told_as(f"cannot read {path}", (csv.Error, UnicodeDecodeError)):
        return _table(path, _rows(stream), max_bytes)


def _rows(stream):
    """The rows of a table that are not blank, each a list of texts."""
    text = io.TextIOWrapper(stream, "utf-8-sig")
    return filter(None, csv.reader(iter(lambda: text.readline(LONGEST_LINE), "")))


def _table(path, rows, max_bytes):
    first = next(rows, None)
    if first is None:
        raise MiniVAEError(f"{path} is empty")
    header = [] if all(map(_is_number, first)) else [name.strip().lower() for name in first]
    label = next((header.index(name) for name in LABELS if name in header), None)
    numbers, labels, classes, n = array.array("d"), array.array("q"), {}, 0
    for n, row in enumerate(rows if header else itertools.chain([first], rows), 1):
        values = row if label is None else row[:label] + row[label + 1 :]
        if len(row) != len(first) or not all(map(_is_number, values)):
            where = f"{path}, row {n + bool(header)}"
            raise MiniVAEError(f"{where}: expected {len(first)} numbers, got {','.join(row)[:60]!r}")
        numbers.extend(map(float, values))
        if label is not None:
            labels.append(classes.setdefault(row[label].strip(), len(classes)))
        check_fits(path, 8 * (len(numbers) + len(labels)) + CLASS_BYTES * len(classes), max_bytes)
    x = _checked(path, np.array(numbers).reshape(n, len(first) - (label is not None)))
    names = sorted(classes)
    order = {name: i for i, name in enumerate(names)}
    return x, None if label is None else np.array([order[name] for name in classes])[labels], tuple(names)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
