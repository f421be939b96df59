"""NumPy's own files, .npy and .npz: nothing is unpickled, and what would not fit is refused before memory is taken."""

import math

import numpy as np

from .files import check_fits, reading

NPY_MAGIC, ZIP_MAGIC = b"\x93NUMPY", b"PK"


def read_npy(path, max_bytes):
    """The array in a .npy file. What is wrong with the file's contents may be raised as any exception."""
    with reading(path) as file:
        check_fits(path, _array_bytes(file), max_bytes)
        return np.lib.format.read_array(file, allow_pickle=False)


def read_members(path, max_bytes, names=None):
    """The arrays in an .npz file, {name: array}: all, or those that are named. Exceptions are as in `read_npy`."""
    import zipfile

    with reading(path) as file:
        if file.peek(len(NPY_MAGIC)).startswith(NPY_MAGIC):
            raise ValueError("it holds a single array")
        with zipfile.ZipFile(file) as archive:
            members = {each.filename.removesuffix(".npy"): each for each in archive.infolist()}
            if names is not None:
                if missing := [name for name in names if name not in members]:
                    raise ValueError(f"it has no {', '.join(missing)}")
                members = {name: members[name] for name in names}
            for name, member in members.items():
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # as NumPy writes them
                    raise ValueError(f"{name} is compressed in an unknown way")
            n_bytes = 0
            for member in members.values():
                with archive.open(member) as stream:
                    n_bytes += _array_bytes(stream)
            check_fits(path, n_bytes, max_bytes)
            arrays = {}
            for name, member in members.items():
                with archive.open(member) as stream:
                    arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
            return arrays


def _array_bytes(stream):
    """How many bytes the array takes whose header begins here, with pickles refused; the stream stays where it was."""
    start = stream.tell()
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"its arrays have version {version} of NumPy's format, which only tables need")
    stream.seek(start)
    if dtype.hasobject:
        raise ValueError("it holds a pickle, which is not opened: it could run any program")
    if dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(f"it holds {dtype} of shape {shape}")
    return math.prod(shape) * dtype.itemsize
