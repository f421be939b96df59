"""Files: nothing is ever lost in writing, old contents or new; and reading takes neither for ever nor all memory."""

import errno
import glob
import itertools
import os
import secrets
import stat
from contextlib import contextmanager, suppress

from .arguments import path as check_path
from .errors import MiniVAEError

MAX_BYTES = 1 << 30  # of memory that what one reads may take; 2 MB of gzip can become 2 GB


@contextmanager
def told_as(what, kinds=Exception):
    """What the block raises, of some kind or kinds, comes out as a MiniVAEError that says what failed, and why."""
    try:
        yield
    except MiniVAEError:
        raise
    except kinds as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0] or type(error).__name__
        raise MiniVAEError(f"{what}: {reason}") from error


@contextmanager
def atomic_write(path):
    """A binary file to write to, which takes the place of `path` when the block ends without an error.

        with atomic_write("weights.bin") as file:
            file.write(...)

    The bytes go to a temporary file in the same folder, are forced to the disk, and only then renamed to
    `path`; after an error, or a crash at any moment, `path` still has what it had before. A file that was there
    leaves its permissions and its owner to the new one. Raises MiniVAEError when the folder or the disk refuses, when
    `path` may not be written to, and when it is something else than a file, such as a device.
    """
    check_path("the path to write to", path)
    with told_as(f"cannot write {path}", OSError):
        target = os.path.realpath(path)
        before = _replaceable(target)
        temporary = f"{target}.{secrets.token_hex(4)}.tmp"
        # What replaces a private file is private from its first byte.
        mode = 0o666 if before is None else stat.S_IMODE(before.st_mode) & 0o600
        try:
            with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                yield file
                file.flush()
                if before is not None:
                    _take_over(file.fileno(), temporary, before)
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            _remove(temporary)
            raise


def _replaceable(target):
    """The status of the file that is to be replaced, or None where there is none."""
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise MiniVAEError(f"cannot write {target}: it is {kind(status)}, give the path of a file")
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return status


def _take_over(descriptor, path, before):
    """Give a file the owner, where the system allows that, and the permissions of the one that it replaces."""
    if hasattr(os, "fchown"):
        now = os.fstat(descriptor)
        if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
            with suppress(OSError):
                os.fchown(descriptor, before.st_uid, before.st_gid)
    os.chmod(path, stat.S_IMODE(before.st_mode))


def check_writable(path):
    """Raise MiniVAEError where `atomic_write` could not begin to write to `path`; changes nothing."""
    try:
        with atomic_write(path):
            raise _Enough
    except _Enough:
        pass


class _Enough(Exception):
    pass


def remove_leftovers(path):
    """Remove the temporary files of writes to `path` that were killed; no other process may be writing to it."""
    for leftover in glob.glob(glob.escape(os.path.realpath(path)) + "." + "[0-9a-f]" * 8 + ".tmp"):
        _remove(leftover)


def keep_previous(path):
    """Rename a file to `path`.previous, or to `path`.previous-2 and so on where that is taken: none is ever lost.

    Raises MiniVAEError where `path` is no file, such as a folder, and where it cannot be renamed.
    """
    with told_as(f"cannot rename {path}", OSError):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise MiniVAEError(f"{path} is {kind(status)}: give the path of a file")
        names = (f"{os.fspath(path)}.previous{f'-{n}' * (n > 1)}" for n in itertools.count(1))
        os.rename(path, next(name for name in names if not os.path.lexists(name)))


def _remove(path):
    try:
        os.unlink(path)
    except OSError:
        pass  # it was never made, or its folder has gone: there is nothing left to tidy


@contextmanager
def reading(path):
    """A file, opened to read its bytes. Raises MiniVAEError, also from inside the block, where that fails.

    A device, a socket and a FIFO are refused before they are opened: to open one may wait for ever, and one may never
    end.
    """
    check_path("the path to read from", path)
    try:
        status = os.stat(path)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # open() says of folders what they are
            raise MiniVAEError(f"cannot read {path}: it is {kind(status)}, give the path of a file")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise MiniVAEError(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise MiniVAEError(f"cannot read {path}: it does not fit into memory") from error


def check_fits(where, n_bytes, max_bytes):
    """Raise MiniVAEError where what a file holds would take more memory than it may; ask before it is taken."""
    if n_bytes > max_bytes:
        raise MiniVAEError(
            f"{where} would take {n_bytes:,} bytes of memory or more, and the limit is {max_bytes:,}: if you trust it, "
            "give more as max_bytes (--max-bytes on the command line)"
        )


def kind(status):
    """What a path that is no file leads to, in words, from `os.stat` of it."""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(status.st_mode), "a device")
