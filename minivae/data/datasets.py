"""Loading a named data set from wherever it is: a folder, the cache, a mirror or the bundled sample."""

import hashlib
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import flag, integer
from ..arguments import path as check_path
from ..errors import MiniVAEError, MiniVAEWarning, shown
from ..files import MAX_BYTES
from .catalogue import COLLECTIONS, MNIST
from .csv import read_csv
from .download import fetch
from .idx import idx_bytes, read_idx
from .locate import locate, locate_in
from .npz import read_npz
from .own import read_own, split

SAMPLE = Path(__file__).with_name("mnist_sample.npz")
NAMES = (*COLLECTIONS, "sample")


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images with their classes, split for training and test.

    x_train, x_test : (N, height, width) uint8, or what one's own data are
    y_train, y_test : (N,) int64    positions in `class_names`; None where there are no classes
    source          : one line that says where the data came from
    note            : one line that the user should see, such as a fall-back; empty if there is none
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple
    source: str
    note: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width) of an image, or the shape of an example of another kind."""
        return self.x_train.shape[1:]

    def __repr__(self):
        size = " x ".join(map(str, self.shape))
        classes = f"{len(self.class_names)} classes" if self.class_names else "no classes"
        return (
            f"Dataset({self.name}: {len(self.x_train):,} training and {len(self.x_test):,} test examples of "
            f"{size}, {classes}; {self.source})"
        )

    def first(self, count: int) -> "Dataset":
        """The Dataset of the first `count` training and `count` test examples, or of all there are."""
        count = integer("the number of examples", count)
        arrays = {name: getattr(self, name) for name in ("x_train", "y_train", "x_test", "y_test")}
        first: dict[str, Any] = {name: x if x is None else x[:count].copy() for name, x in arrays.items()}
        return replace(self, **first)

    def only(self, classes: ArrayLike) -> "Dataset":
        """The Dataset of some classes only, numbered anew in the order given.

        `classes` is a class name or a position in `class_names`, or a list of these; a string is a class name, several
        separated by commas, or, where names are single characters, those characters: `letters.only("AEIOU")`.
        Upper and lower case are not told apart. Raises MiniVAEError for a class that does not exist.
        """
        chosen = list(dict.fromkeys(self._position(each) for each in self._split(classes)))
        if not chosen:
            raise MiniVAEError(f"no class was named: choose among {', '.join(self.class_names)}")
        x_train, y_train = _keep(self.x_train, self.y_train, chosen, len(self.class_names))
        x_test, y_test = _keep(self.x_test, self.y_test, chosen, len(self.class_names))
        names = tuple(self.class_names[position] for position in chosen)
        if len(x_train) == 0 or len(x_test) == 0:
            raise MiniVAEError(
                f"no training or no test example of {', '.join(names)} is left: "
                "choose the classes before limiting the number of examples"
            )
        source = f"{self.source}, only {', '.join(names)}"
        return replace(
            self, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, class_names=names, source=source
        )

    def _split(self, classes):
        if isinstance(classes, int | np.integer):
            return [classes]
        if not isinstance(classes, str):
            classes = classes.tolist() if isinstance(classes, np.ndarray) else classes
            if not isinstance(classes, (list, tuple, range)):
                raise MiniVAEError(f"classes should be a name, a number or a list of these, got {shown(classes)}")
            return classes
        if classes.casefold() in (name.casefold() for name in self.class_names):
            return [classes]
        return [part.strip() for part in classes.split(",")] if "," in classes else classes.replace(" ", "")

    def _position(self, wanted):
        if isinstance(wanted, int | np.integer) and 0 <= wanted < len(self.class_names):
            return int(wanted)
        names = [name.casefold() for name in self.class_names]
        if isinstance(wanted, str) and wanted.casefold() in names:
            return names.index(wanted.casefold())
        raise MiniVAEError(
            f"unknown class {shown(wanted)}: {self.name} has {', '.join(self.class_names)}, "
            f"or the positions 0 to {len(names) - 1}"
        )


def load(
    name: ArrayLike | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    *,
    limit: int | None = None,
    download: bool = True,
    test: float = 0.1,
    size: tuple[int, int] | None = None,
    color: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Dataset:
    """The data set "mnist", "fashion-mnist", "emnist-letters" or "sample", or data of one's own, as a Dataset.

    With `data_dir`, it must be there, as IDX files (.gz or not), Kaggle's CSV files or Keras's mnist.npz, in
    that folder or in a sub-folder that bears the data set's name (torchvision's MNIST/raw too). Otherwise it
    is looked for in the folder that the environment variable MINIVAE_DATA names, then in the user's cache,
    then, if `download` is true, on the public mirrors, with checksums. MNIST that is nowhere to be had is
    replaced by "sample", which comes with the package: real MNIST digits, 500 of each class for training, 100
    for test; a MiniVAEWarning then says so, as the Dataset's `note` does. For "sample" no `data_dir` is looked at.
    `limit` keeps the first examples of each part only.

    Data of one's own are given as an array, or as the path of a folder of pictures (its sub-folders are the classes),
    of an .npy or .npz file, of a CSV table (a column called label, class, target or y has the classes) or an IDX file.
    `test` is the share of them that is set apart at random for the test, unless an .npz file has x_test; pictures are
    scaled to `size` (height, width), and grey unless `color` is true. Without classes y_train and y_test are None.

    `max_bytes` is how much memory what is in a file, or all pictures of a folder together, may take; a small file can
    be a large array. Raises MiniVAEError when the data set cannot be found, and says where it was looked for, or is not
    sound, or would take more; and where `size` and `color` are given for other than a folder, or `data_dir` for data of
    one's own.
    """
    max_bytes, download = integer("load: max_bytes", max_bytes), flag("load: download", download)
    color = flag("load: color", color)
    if not isinstance(name, str) or name not in NAMES:
        dataset = _own(name, data_dir, test, size, color, max_bytes)
    elif size is not None or color:
        raise MiniVAEError(f"load: size and color are for a folder of pictures: leave them out for {name}")
    elif name == "sample":
        dataset = _sample()
    elif data_dir is not None:
        folder = check_path("load: data_dir", data_dir)
        dataset = _read(COLLECTIONS[name], locate_in(COLLECTIONS[name], folder), max_bytes)
    else:
        dataset = _search(COLLECTIONS[name], download, max_bytes)
    if dataset.note:
        warnings.warn(dataset.note, MiniVAEWarning, stacklevel=2)
    return dataset if limit is None else dataset.first(limit)


def _own(source, data_dir, test, size, color, max_bytes):
    if isinstance(source, str) and not os.path.exists(os.path.expanduser(check_path("load: name", source))):
        raise MiniVAEError(
            f"unknown data set {shown(source)}: expected one of {', '.join(NAMES)}, or a file or a folder"
        )
    if data_dir is not None:
        raise MiniVAEError(f"load: data_dir is for {', '.join(COLLECTIONS)}: leave it out for data of your own")
    x, y, names, x_test, y_test = read_own(source, size, color, max_bytes)
    parts = split(x, y, test) if x_test is None else (x, y, x_test, y_test)
    is_path = isinstance(source, (str, os.PathLike))
    return Dataset(Path(source).name if is_path else "array", *parts, names, str(source) if is_path else "an array")


def _search(collection, download, max_bytes):
    folder = os.environ.get("MINIVAE_DATA")
    found = locate(collection, Path(os.path.expanduser(folder))) if folder else None
    if found:
        return _read(collection, found, max_bytes)
    try:
        return _read(collection, locate_in(collection, fetch(collection, download)), max_bytes)
    except MiniVAEError as error:
        reason = f"no {collection.title} in {folder} (MINIVAE_DATA), and {error}" if folder else str(error)
        if collection.name != MNIST.name:
            raise MiniVAEError(f"{reason}. Give a data directory that has {collection.title}") from error
        return replace(
            _sample(),
            note="the bundled sample, 5,000 + 1,000 digits, stands in for MNIST; a folder that "
            f"has MNIST may be given as data_dir or MINIVAE_DATA. {reason}",
        )


def _sample():
    source = "bundled sample of MNIST (first 500 training, 100 test digits of each class)"
    return _checked(MNIST, read_npz(SAMPLE), "sample", source)


def _read(collection, found, max_bytes):
    arrays = READERS[found.form](found.paths, max_bytes)
    source = f"{collection.title}, {found.form} files in {found.folder}"
    return _identified(collection, _checked(collection, arrays, collection.name, source))


READERS = {
    "IDX": lambda paths, max_bytes: tuple(read_idx(path, max_bytes) for path in paths),
    "npz": lambda paths, max_bytes: read_npz(paths[0], max_bytes),
    "CSV": lambda paths, max_bytes: tuple(a for path in paths for a in read_csv(path, max_bytes=max_bytes)),
}


def _checked(collection, arrays, name, source):
    """The Dataset of four raw arrays, with upright images and labels from 0; unsound ones are an error."""
    x_train, y_train = _checked_part(collection, *arrays[:2], f"{source}: training")
    x_test, y_test = _checked_part(collection, *arrays[2:], f"{source}: test")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise MiniVAEError(f"{source}: training images are {x_train.shape[1:]}, test images {x_test.shape[1:]}")
    return Dataset(name, x_train, y_train, x_test, y_test, collection.class_names, source)


def _checked_part(collection, images, labels, part):
    if images.ndim != 3 or images.dtype != np.uint8:
        raise MiniVAEError(
            f"{part} images should be uint8 of shape (N, height, width), got {images.dtype} of shape {images.shape}"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise MiniVAEError(
            f"{part} labels should be integers of shape (N,), got {labels.dtype} of shape {labels.shape}"
        )
    if len(images) != len(labels):
        raise MiniVAEError(
            f"{part} part has {len(images):,} images but {len(labels):,} labels: do the files belong together?"
        )
    if len(images) == 0:
        raise MiniVAEError(f"{part} part is empty")
    first, last = collection.first_label, collection.first_label + len(collection.class_names) - 1
    if labels.min() < first or labels.max() > last:
        raise MiniVAEError(
            f"{part} labels should be {first} to {last}, "
            f"got {labels.min()} to {labels.max()}: is this {collection.title}?"
        )
    if collection.transposed:
        images = np.ascontiguousarray(images.transpose(0, 2, 1))
    return images, labels.astype(np.int64) - first


def _identified(collection, dataset):
    """The Dataset with what the checksum of its training labels tells: the standard one, or another."""
    checksum = hashlib.md5(idx_bytes(dataset.y_train.astype(np.uint8)), usedforsecurity=False).hexdigest()
    if checksum == collection.train_labels_md5:
        return replace(dataset, source=f"{dataset.source} (standard split and order, by checksum)")
    for other in COLLECTIONS.values():
        if checksum == other.train_labels_md5:
            return replace(
                dataset,
                note=f"The labels in {dataset.source} are those of {other.title}: is this really {collection.title}?",
            )
    return dataset


def _keep(images, labels, chosen, n_classes):
    """The examples whose label is in `chosen`, each labelled with its place there."""
    renumbered = np.full(n_classes, -1)
    renumbered[chosen] = np.arange(len(chosen))
    labels = renumbered[labels]
    return images[labels >= 0], labels[labels >= 0]
