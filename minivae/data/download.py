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
CHUNK = 1 << 16


def fetch(collection, download=True):
    """The cache folder that holds the collection's files; those that are missing or damaged are downloaded.

    Each file is taken from the first mirror that has it with the right checksum, and takes its place in the
    cache only then, so an interrupted download leaves nothing half done and two processes may do it at once.
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
                _retrieve(mirrors, name, _md5s(collection)[name], folder)
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


def _md5s(collection):
    """The checksum of each file that the cache should hold; None for those that come out of an archive."""
    md5s = collection.md5s or (None,) * len(collection.files)
    return {f"{name}.gz": md5 for name, md5 in zip(collection.files, md5s, strict=True)}


def _cached(collection, folder):
    import pooch

    for name, md5 in _md5s(collection).items():
        path = folder / name
        yield name, path.is_file() and (md5 is None or pooch.file_hash(str(path), alg="md5") == md5)


def _retrieve(mirrors, name, md5, folder):
    """Download one file from the first mirror that gives it with the right checksum."""
    import pooch
    import requests

    # A server that compresses in transit would spoil the checksum of a file that is gzip already.
    downloader = pooch.HTTPDownloader(
        timeout=TIMEOUT, chunk_size=CHUNK, progressbar=sys.stderr.isatty(), headers={"Accept-Encoding": "identity"}
    )
    tried = []
    for mirror in mirrors:
        url = f"{mirror}/{name}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pooch.retrieve(url, known_hash=f"md5:{md5}", fname=name, path=folder, downloader=downloader)
            return
        except requests.RequestException as error:
            tried.append((url, _reason(error)))
        except ValueError:
            tried.append((url, f"its checksum is not {md5}"))
        except OSError as error:
            raise MiniVAEError(f"the cache {folder} cannot be written: {error.strerror or error}") from error
    raise _not_downloaded(name, tried)


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
    _retrieve(mirrors, archive.name, archive.md5, folder)
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
