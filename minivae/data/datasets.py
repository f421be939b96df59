"""Loading a named data set from wherever it is: a folder, the cache, a mirror or the bundled sample."""

import hashlib
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import MiniVAEError, MiniVAEWarning
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
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise MiniVAEError(f"the number of examples must be a whole number of at least 1, got {count!r}")
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
        return replace(
            self,
            x_train=x_train,
            y_train=y_train,
            x_test=x_test,
            y_test=y_test,
            class_names=names,
            source=f"{self.source}, only {', '.join(names)}",
        )

    def _split(self, classes):
        if isinstance(classes, int | np.integer):
            return [classes]
        if not isinstance(classes, str):
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
            f"unknown class {wanted!r}: {self.name} has {', '.join(self.class_names)}, "
            f"or the positions 0 to {len(names) - 1}"
        )


def load(
    name: ArrayLike | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    *,
    limit: int | None = None,
    download: bool = True,
    test: float = 0.1,
    size: int | tuple[int, int] | None = None,
    color: bool = False,
) -> Dataset:
    """The data set "mnist", "fashion-mnist", "emnist-letters" or "sample", or data of one's own, as a Dataset.

    With `data_dir`, it must be there, as IDX files (.gz or not), Kaggle's CSV files or Keras's mnist.npz, in
    that folder or in a sub-folder that bears the data set's name (torchvision's MNIST/raw too). Otherwise it
    is looked for in the folder that the environment variable MINIVAE_DATA names, then in the user's cache,
    then, if `download` is true, on the public mirrors, with checksums. MNIST that is nowhere to be had is
    replaced by "sample", which comes with the package: real MNIST digits, 500 of each class for training, 100
    for test; a MiniVAEWarning then says so, as the Dataset's `note` does. `limit` keeps the first examples of each
    part only.

    Data of one's own are given as an array, or as the path of a folder of pictures (its sub-folders are the classes),
    of an .npy or .npz file, of a CSV table (a column called label, class, target or y has the classes) or an IDX file.
    `test` is the share of them that is set apart at random for the test, unless an .npz file has x_test; pictures are
    scaled to `size` (height, width), and grey unless `color` is true. Without classes y_train and y_test are None.

    Raises MiniVAEError when the data set cannot be found, and says where it was looked for, or is not sound.
    """
    if isinstance(name, str) and name == "sample":
        dataset = _sample()
    elif not isinstance(name, str) or name not in COLLECTIONS:
        dataset = _own(name, test, size, color)
    elif data_dir is not None:
        dataset = _read(COLLECTIONS[name], locate_in(COLLECTIONS[name], data_dir))
    else:
        dataset = _search(COLLECTIONS[name], download)
    if dataset.note:
        warnings.warn(dataset.note, MiniVAEWarning, stacklevel=2)
    return dataset if limit is None else dataset.first(limit)


def _own(source, test, size, color):
    if isinstance(source, str) and not os.path.exists(os.path.expanduser(source)):
        raise MiniVAEError(f"unknown data set {source!r}: expected one of {', '.join(NAMES)}, or a file or a folder")
    x, y, names, x_test, y_test = read_own(source, size, color)
    parts = split(x, y, test) if x_test is None else (x, y, x_test, y_test)
    is_path = isinstance(source, (str, os.PathLike))
    return Dataset(Path(source).name if is_path else "array", *parts, names, str(source) if is_path else "an array")


def _search(collection, download):
    folder = os.environ.get("MINIVAE_DATA")
    found = locate(collection, Path(os.path.expanduser(folder))) if folder else None
    if found:
        return _read(collection, found)
    try:
        return _read(collection, locate_in(collection, fetch(collection, download)))
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
    arrays = read_npz(SAMPLE)
    return _checked(
        MNIST,
        arrays,
        name="sample",
        source="bundled sample of MNIST (first 500 training, 100 test digits of each class)",
    )


def _read(collection, found):
    arrays = READERS[found.form](found.paths)
    return _identified(
        collection,
        _checked(
            collection, arrays, name=collection.name, source=f"{collection.title}, {found.form} files in {found.folder}"
        ),
    )


READERS = {
    "IDX": lambda paths: tuple(map(read_idx, paths)),
    "npz": lambda paths: read_npz(*paths),
    "CSV": lambda paths: tuple(array for path in paths for array in read_csv(path)),
}


def _checked(collection, arrays, *, name, source):
    """The Dataset of four raw arrays, with upright images and labels from 0; unsound ones are an error."""
    x_train, y_train = _checked_part(collection, *arrays[:2], part=f"{source}: training")
    x_test, y_test = _checked_part(collection, *arrays[2:], part=f"{source}: test")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise MiniVAEError(f"{source}: training images are {x_train.shape[1:]}, test images {x_test.shape[1:]}")
    return Dataset(name, x_train, y_train, x_test, y_test, collection.class_names, source)


def _checked_part(collection, images, labels, *, part):
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
