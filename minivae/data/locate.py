"""Finding a named data set's files under a folder, in any of the layouts in which people have them."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import MiniVAEError
from .catalogue import MNIST, named_by


@dataclass(frozen=True)
class Found:
    """A complete data set: its form ("IDX", "npz" or "CSV"), its files, and the folder that has them."""

    form: str
    paths: tuple
    folder: Path


def locate(collection, root):
    """The files of `collection` under the folder `root`, or None.

    Looked for in `root`, in its sub-folders that bear the data set's name, and in the `raw` and `gzip` of
    each. MNIST and Fashion-MNIST have the same IDX file names, so for those a folder that is named after
    another data set is passed over.
    """
    for folder in _folders(collection, root):
        for find in (_find_idx, _find_npz, _find_csv):
            found = find(collection, folder)
            if found:
                return found
    return None


def locate_in(collection, data_dir):
    """As `locate`, but what is not found is a MiniVAEError that says what was looked for, and where."""
    root = Path(os.path.expanduser(data_dir))
    if not os.path.isdir(root):
        is_file = os.path.isfile(root)
        problem = "it is a file, give the folder that holds it" if is_file else "no such folder can be opened"
        raise MiniVAEError(f"the data directory {root} cannot be used: {problem}")
    found = locate(collection, root)
    if found is None:
        raise MiniVAEError(f"no {collection.title} in {root}: {_what_was_looked_for(collection, root)}")
    return found


def _folders(collection, root):
    for folder in (root, *(root / name for name in collection.folders)):
        yield from (folder, folder / "raw", folder / "gzip")


def _find_idx(collection, folder):
    if _is_named_after_another(collection, folder):
        return None
    paths = _idx_paths(collection, folder)
    return Found("IDX", paths, folder) if all(paths) else None


def _idx_paths(collection, folder):
    """For each of the four IDX files: the path under which `folder` has it, or None."""

    def first(name):
        spellings = (name, name.replace("-idx", ".idx"))
        choices = (folder / (spelling + ending) for ending in ("", ".gz") for spelling in spellings)
        return next(filter(os.path.isfile, choices), None)

    return tuple(map(first, collection.files))


def _find_npz(collection, folder):
    path = folder / (collection.npz_file or "")
    return Found("npz", (path,), folder) if os.path.isfile(path) else None


def _find_csv(collection, folder):
    paths = tuple(folder / name for name in collection.csv_files)
    return Found("CSV", paths, folder) if all(map(os.path.isfile, paths)) else None


def _is_named_after_another(collection, folder):
    if collection.files != MNIST.files:
        return False
    folder = Path(folder).absolute()
    while folder.name in ("raw", "gzip"):
        folder = folder.parent
    name = named_by(folder.name)
    return name is not None and not collection.title.startswith(name)


def _what_was_looked_for(collection, root):
    wanted = [", ".join(collection.files) + " (or .idx for -idx, or with .gz)"]
    wanted += [collection.npz_file] if collection.npz_file else []
    wanted += [" and ".join(collection.csv_files)]
    folders = ", ".join(f"{name}/" for name in collection.folders)
    message = f"looked there and in {folders} (and in raw/, gzip/ of each) for {'; or '.join(wanted)}"
    passed_over = _is_named_after_another(collection, root)
    if passed_over:
        message += f". IDX files in {root} itself do not count, since its name says {named_by(root.name)}"
    present = [path.name for folder in _folders(collection, root) for path in _idx_paths(collection, folder) if path]
    if present and not passed_over:
        message += f". Found only {', '.join(present)}"
    return message
