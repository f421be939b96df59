"""Downloading a named data set from its mirrors into the user's cache, every file whole and checked."""

import queue
import shutil
import sys
import threading
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import MiniVAEError
from ..files import atomic_write

PATIENCE = 5  # seconds for a mirror to answer anything at all
TIMEOUT = (5, 20)  # seconds to connect, and between two arriving pieces
GRACE, SLOWEST = 30, 100_000  # a file may take so many seconds, and one more for each so many bytes
CHUNK = 1 << 16
TOO_SLOW = "it took too long"


def fetch(collection, download=True):
    """The cache folder that holds the collection's files; those that are missing or damaged are downloaded.

    Each file is taken from the first mirror that gives it, with the right checksum and in time, and takes its place in
    the cache only then, so an interrupted download leaves nothing half done and two processes may do it at once.
    Raises MiniVAEError, with everything that was tried, when a file cannot be had or the cache not written.
    """
    import pooch

    folder = Path(pooch.os_cache("minivae")) / collection.name
    missing = [name for name, is_sound in _cached(collection, folder) if not is_sound]
    if missing and not download:
        raise MiniVAEError(f"{collection.title} is not in the cache {folder}, and downloading is off")
    if missing:
        mirrors = _answering(collection, collection.archive.name if collection.archive else missing[0])
        if collection.archive:
            _fetch_archive(collection, mirrors, folder, missing)
        else:
            for name in missing:
                _retrieve(mirrors, name, _checked(collection)[name], folder)
    return folder


def _answering(collection, name):
    """Those of the collection's mirrors that answer within PATIENCE seconds, whatever they say of the file `name`.

    All are asked at once, in threads that nobody waits for: neither a name server nor a host with many addresses, each
    tried for the whole time, keeps to a limit. Raises MiniVAEError where there is none.
    """
    import requests

    answers, outcome = queue.SimpleQueue(), {f"{mirror}/{name}": "no answer in time" for mirror in collection.mirrors}

    def ask(url):
        try:
            requests.head(url, timeout=PATIENCE)
            answers.put((url, None))
        except requests.RequestException as error:
            answers.put((url, _reason(error)))

    hosts = ", ".join(urlsplit(mirror).hostname for mirror in collection.mirrors)
    print(f"minivae: looking for {collection.title} at {hosts} (for at most {PATIENCE} s)", file=sys.stderr)
    end = time.monotonic() + PATIENCE
    for url in outcome:
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    for _ in outcome:
        try:
            url, outcome[url] = answers.get(timeout=max(0, end - time.monotonic()))
        except queue.Empty:
            break
    answering = [mirror for mirror in collection.mirrors if outcome[f"{mirror}/{name}"] is None]
    if not answering:
        raise _not_downloaded(name, outcome.items())
    return answering


def _not_downloaded(name, tried):
    tried = ", ".join(f"{url} ({reason})" for url, reason in tried)
    return MiniVAEError(f"{name} could not be downloaded; tried {tried}")


def _checked(collection):
    """What each file that the cache should hold must be."""
    return {f"{name}.gz": checked for name, checked in zip(collection.files, collection.checked, strict=True)}


def _cached(collection, folder):
    import pooch

    for name, checked in _checked(collection).items():
        path = folder / name
        is_complete = path.is_file() and path.stat().st_size == checked.n_bytes
        yield name, is_complete and pooch.file_hash(str(path), alg="sha256") == checked.sha256


def _retrieve(mirrors, name, checked, folder):
    """Download one file from the first mirror that gives it as it must be; one that is too slow is not asked again."""
    import requests

    tried = []
    for mirror in tuple(mirrors):
        url = f"{mirror}/{name}"
        error = _download(url, name, checked, folder)
        if error is None:
            return
        if isinstance(error, requests.RequestException):
            tried.append((url, _reason(error)))
        elif isinstance(error, _GaveUp):
            tried.append((url, str(error)))
        elif isinstance(error, ValueError):
            tried.append((url, f"its checksum is not {checked.sha256}"))
        elif isinstance(error, OSError):
            raise MiniVAEError(f"the cache {folder} cannot be written: {error.strerror or error}") from error
        else:
            raise error
        if tried[-1][1] == TOO_SLOW:
            mirrors.remove(mirror)
    raise _not_downloaded(name, tried)


def _download(url, name, checked, folder):
    """Download one file; returns the exception that this ended with, or None.

    In a thread, for which nobody waits longer than the file may take: a server that sends a byte now and then keeps to
    any limit between two of them.
    """
    import pooch

    seconds = GRACE + checked.n_bytes / SLOWEST
    end, outcome = time.monotonic() + seconds, queue.SimpleQueue()
    # A server that compresses in transit would spoil the checksum of a file that is gzip already.
    http = pooch.HTTPDownloader(
        timeout=TIMEOUT, chunk_size=CHUNK, progressbar=sys.stderr.isatty(), headers={"Accept-Encoding": "identity"}
    )

    def download(url, path, of):
        with open(path, "wb") as file:
            http(url, _Bounded(file, checked.n_bytes, end), of)

    def work():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            known = f"sha256:{checked.sha256}"
            pooch.retrieve(url, known_hash=known, fname=name, path=folder, downloader=download)
            outcome.put(None)
        except BaseException as error:
            outcome.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return outcome.get(timeout=seconds)
    except queue.Empty:
        return _GaveUp(TOO_SLOW)


class _GaveUp(Exception):
    """A mirror does not keep to what is known of a file."""


class _Bounded:
    """A file to write to that takes at most n_bytes, and none after the time `end`."""

    def __init__(self, file, n_bytes, end):
        self.flush, self._file, self._left, self._end = file.flush, file, n_bytes, end

    def write(self, chunk):
        self._left -= len(chunk)
        if self._left < 0:
            raise _GaveUp("it goes on after the end of the file")
        if time.monotonic() > self._end:
            raise _GaveUp(TOO_SLOW)
        self._file.write(chunk)


def _reason(error):
    import requests

    if isinstance(error, requests.HTTPError):
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    return "no connection"


def _fetch_archive(collection, mirrors, folder, names):
    """Download the collection's zip archive, take out the files `names`, and delete it."""
    archive = collection.archive
    _retrieve(mirrors, archive.name, archive.checked, folder)
    try:
        with zipfile.ZipFile(folder / archive.name) as contents:
            for name in names:
                source = contents.open(f"{archive.inside}/{name}")
                with source, atomic_write(folder / name) as target:
                    shutil.copyfileobj(source, target)
        (folder / archive.name).unlink(missing_ok=True)
    except FileNotFoundError as error:
        # Another process that was doing the same has finished, and has deleted the archive.
        if not all((folder / name).is_file() for name in names):
            raise MiniVAEError(f"{folder / archive.name} has vanished while it was unpacked") from error
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise MiniVAEError(f"{folder / archive.name} cannot be unpacked: {error}") from error
