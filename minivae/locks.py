"""Folders and files that one process holds at a time, so that two runs never write over each other's results."""

import errno
import json
import os
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import MiniVAEError
from .files import told_as

TAKEN = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}  # what asking for a lock answers where another process has it
# What it answers where the file system has no locks, as some that lie on other machines.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def results_folder(folder, checkpoints=(), resume=False):
    """Make a folder for the results of a run, `--out` of a command, which has it for itself while the block runs.

    checkpoints : the names of files in it from which a run can be resumed
    resume      : whether the run is to go on from them

    Raises MiniVAEError where the folder cannot be made or written to, where another process has it, and where it is
    not empty, but for hidden files, unless a run in it is resumed: results of two runs are never mixed, nor replaced
    without being asked.
    """
    folder = Path(folder)
    with told_as(f"give another folder: --out {folder} cannot be made", OSError):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", f"--out {folder}"):
        _check_results(folder, checkpoints, resume)
        yield


def _check_results(folder, checkpoints, resume):
    """Raise MiniVAEError where a run would mix its results with others."""
    with told_as(f"cannot read --out {folder}", OSError):
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    can_resume = not set(names).isdisjoint(checkpoints)
    if names and not (can_resume and resume):
        shown = ", ".join(names[:3] + ["..."] * (len(names) > 3))
        to_resume = "add --resume to go on with that run, " if can_resume else ""
        nothing = f" and none of {', '.join(checkpoints)} to go on from" if resume else ""
        raise MiniVAEError(
            f"--out {folder} has results already ({shown}){nothing}: {to_resume}give another folder, or remove this one"
        )


@contextmanager
def locked(path, what):
    """Hold the lock file `path` while the block runs; raises MiniVAEError where another process, or thread, holds it.

    what : what the lock stands for, to be named in the error

    The lock is the operating system's, which takes it away from a process that has ended, however it ended. Where a
    file system has none, the number of a living process in the file counts as one.
    """
    with told_as(f"cannot write {path}", OSError):
        descriptor = _take(path)
        if descriptor is None:
            raise MiniVAEError(f"{what} is in use by {_holder(path)}: wait until that has ended, or choose another one")
    try:
        with suppress(OSError):  # a full disk: then nobody can be told who holds it
            os.ftruncate(descriptor, 0)
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
            os.write(descriptor, json.dumps(holder).encode())
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)  # while it is held: who has opened it meanwhile sees in `_take` that it has gone
        os.close(descriptor)


def _take(path):
    """The descriptor of a lock file that is now held, or None where another process holds it."""
    # A link there would lead the writing below into another file.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            if not _lock(descriptor, path):
                os.close(descriptor)
                return None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has removed it since it was opened: a lock on it would keep nobody out


def _lock(descriptor, path):
    """Whether the lock of an open file could be taken."""
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # a byte behind the text, which others are to read
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return not _is_alive(_read_holder(path))
        if error.errno in TAKEN:
            return False
        raise
    return True


def _read_holder(path):
    """What the holder of a lock wrote into it; empty where that cannot be told."""
    try:
        with open(path, "rb") as file:
            holder = json.loads(file.read(1000))
        return {"pid": int(holder["pid"]), "host": str(holder["host"]), "since": float(holder["since"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_alive(holder):
    """Whether the holder may still run: a process of this machine that has gone does not."""
    if not holder or holder["host"] != socket.gethostname():
        return bool(holder)
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # it is another user's
    return True


def _holder(path):
    """Who holds a lock, and for how long already, in words."""
    holder = _read_holder(path)
    if not holder:
        return "another process"
    here = "" if holder["host"] == socket.gethostname() else f" on {holder['host']}"
    this = " (this one)" if not here and holder["pid"] == os.getpid() else ""
    seconds = max(0, time.time() - holder["since"])
    age = next(
        f"{seconds / size:.0f} {unit}"
        for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
        if seconds >= 2 * size or size == 1
    )
    return f"process {holder['pid']}{here}{this}, which began {age} ago"
