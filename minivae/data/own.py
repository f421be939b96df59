"""Data of one's own, from whatever they lie in: a folder of pictures, arrays, a table."""

import csv
import os
from pathlib import Path

import numpy as np

from ..errors import MiniVAEError
from ..randomness import SPLIT, generator
from .idx import read_idx
from .images import picture_files, read_images
from .streams import open_stream

LABELS = ("label", "class", "target", "y")  # what a table's column of classes may be called
ARRAYS = "an .npz file should hold x, or x and y, or x_train and x_test with or without y_train and y_test"


def read_own(source, size=None, color=False):
    """x and y, or None, of one's own data, names of the classes, and x_test and y_test where they come apart.

    source : an array; a folder of pictures, whose sub-folders are classes if there are several; a .npy, .npz, .csv or
             IDX file
    """
    if not isinstance(source, (str, os.PathLike)):
        return _checked("the array", np.asarray(source)), None, (), None, None
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        x = read_images(path, size, color)
        return x, *_classes_by_folder(path, len(x)), None, None
    if not path.is_file():
        raise MiniVAEError(f"no such file or folder: {path}")
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        return *_read_table(path), None, None
    if name.endswith(".npz"):
        return _read_arrays(path)
    x = _read_array(path) if name.endswith(".npy") else read_idx(path)
    return _checked(path, x), None, (), None, None


def split(x, y, share, seed=0):
    """x, y for training and for test, drawn at random: (x_train, y_train, x_test, y_test)."""
    n_test = round(share * len(x))
    if not 0 < n_test < len(x):
        raise MiniVAEError(f"a test share of {share!r} should leave some of the {len(x)} examples on either side")
    order = generator(seed, SPLIT).permutation(len(x))
    test, train = np.sort(order[:n_test]), np.sort(order[n_test:])
    return x[train], None if y is None else y[train], x[test], None if y is None else y[test]


def _checked(where, x):
    if x.ndim < 2 or x.size == 0 or x.dtype.kind not in "fiub":
        what = "numbers of shape (N, ...), a row for each example"
        raise MiniVAEError(f"{where}: expected {what}, got {x.dtype} of shape {x.shape}")
    return x


def _classes_by_folder(folder, n):
    """The class of each of n pictures, in the order of their names, and the names of the classes."""
    parents = [path.relative_to(folder).parts[0] for path in picture_files(folder)]
    names = tuple(sorted({parent for parent in parents if (folder / parent).is_dir()}))
    if len(names) < 2 or not all((folder / parent).is_dir() for parent in parents):
        return None, ()
    return np.array([names.index(parent) for parent in parents]), names


def _read_array(path):
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MiniVAEError(f"cannot read {path}: {error}") from error


def _read_arrays(path):
    arrays = _read_array(path)
    if isinstance(arrays, np.ndarray):
        raise MiniVAEError(f"{path}: {ARRAYS}")
    with arrays:
        found = {name: arrays[name] for name in arrays.files}
    x, y = found.get("x_train", found.get("x")), found.get("y_train", found.get("y"))
    if x is None and len(found) == 1:
        (x,) = found.values()
    if x is None:
        raise MiniVAEError(f"{path}: {ARRAYS}; it has {', '.join(found) or 'nothing'}")
    y, names = _classes(path, y)
    y_test = found.get("y_test")
    return _checked(path, x), y, names, found.get("x_test"), None if y_test is None else _classes(path, y_test)[0]


def _read_table(path):
    """The numbers of a table, its classes, and their names. A first line that is no numbers has the columns' names."""
    with open_stream(path) as stream:
        rows = [row for row in csv.reader(stream.read().decode("utf-8-sig").splitlines()) if row]
    if not rows:
        raise MiniVAEError(f"{path} is empty")
    header = [name.strip().lower() for name in rows[0]] if not all(map(_is_number, rows[0])) else None
    body = rows[1:] if header else rows
    label = next((header.index(name) for name in LABELS if name in header), None) if header else None
    for number, row in enumerate(body, 1 + bool(header)):
        if len(row) != len(body[0]) or not all(_is_number(text) for i, text in enumerate(row) if i != label):
            raise MiniVAEError(f"{path}, row {number}: expected {len(body[0])} numbers, got {','.join(row)[:60]!r}")
    x = np.array([[float(text) for i, text in enumerate(row) if i != label] for row in body])
    return _checked(path, x), *_classes(path, None if label is None else np.array([row[label].strip() for row in body]))


def _classes(path, labels):
    """Labels as numbers from 0, and the names of the classes; None and none where there are no labels."""
    if labels is None:
        return None, ()
    if labels.ndim != 1:
        raise MiniVAEError(f"{path}: labels should be of shape (N,), got {labels.shape}")
    names, y = np.unique(labels, return_inverse=True)
    return y, tuple(map(str, names))


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
