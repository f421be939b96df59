"""Downloads, against a server on this machine: whatever goes wrong, the cache holds whole files or none."""

import contextlib
import hashlib
import http.server
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from minivae import data
from minivae.data import catalogue, download
from minivae.errors import MiniVAEError, MiniVAEWarning

FIRST, SECOND = "first", "second"
ENDLESS = 1 << 29  # bytes, after which an endless file of a mirror ends


class Mirrors(http.server.ThreadingHTTPServer):
    """Two mirrors on 127.0.0.1 that serve `files`, and do as `behave[mirror]` says; `requests` tells who asked."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.behave, self.requests, self.sent = {}, {}, [], 0
        self.released = threading.Event()
        self.stalled = threading.Event()

    def urls(self, *mirrors):
        return tuple(f"http://127.0.0.1:{self.server_port}/{mirror}" for mirror in mirrors)


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        _, mirror, name = self.path.split("/")
        self.server.requests.append((mirror, name))
        behaviour, contents = self.server.behave.get(mirror), self.server.files.get(name)
        if behaviour == "missing" or contents is None:
            self.send_error(404)
            return
        self.send_response(200)
        if behaviour != "endless":
            self.send_header("Content-Length", str(len(contents)))
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            self.send_header("Content-Encoding", "gzip")  # as some servers say of files that are gzip themselves
        self.end_headers()
        if behaviour == "wrong":
            contents = bytes(len(contents))
        if behaviour in ("cut", "stall"):
            contents = contents[: len(contents) // 2]
        try:
            while behaviour == "endless" and self.server.sent < ENDLESS:
                self.server.sent += self.wfile.write(bytes(1 << 20))
            while behaviour == "slow" and not self.server.released.wait(0.05):
                self.wfile.write(b"x")
        except OSError:  # the client has had enough
            return
        self.wfile.write(contents)
        if behaviour == "stall":
            self.server.stalled.set()
            self.server.released.wait(20)

    def log_message(self, *_):
        pass


@pytest.fixture
def mirrors():
    server = Mirrors()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("MINIVAE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("no_proxy", raising=False)  # which would count instead
    return tmp_path / "cache" / "minivae"


def make_files(folder, collection):
    """A small data set in the collection's own files, gzip-compressed: {name: contents}."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    files = {}
    for name in collection.files:
        path = folder / f"{name}.gz"
        data.write_idx(path, pixels if "images" in name else np.array([1, 2, 3], np.uint8))
        files[path.name] = path.read_bytes()
    return files


def checked(contents):
    return catalogue.Checked(len(contents), hashlib.sha256(contents).hexdigest())


@pytest.fixture
def clothes(mirrors, cache, monkeypatch, tmp_path):
    """Fashion-MNIST, three images large, on the two mirrors."""
    collection = catalogue.FASHION_MNIST
    mirrors.files = make_files(tmp_path / "made", collection)
    collection = replace(
        collection, mirrors=mirrors.urls(FIRST, SECOND), checked=tuple(map(checked, mirrors.files.values()))
    )
    monkeypatch.setitem(catalogue.COLLECTIONS, collection.name, collection)
    return collection


@pytest.fixture
def letters(mirrors, cache, monkeypatch, tmp_path):
    """EMNIST letters, three images large, in its zip archive."""
    collection = catalogue.EMNIST_LETTERS
    path, files = tmp_path / "gzip.zip", make_files(tmp_path / "made", collection)
    with zipfile.ZipFile(path, "w") as archive:
        for name, contents in files.items():
            archive.writestr(f"gzip/{name}", contents)
        archive.writestr("gzip/emnist-digits-train-labels-idx1-ubyte.gz", b"not wanted")
    mirrors.files = {path.name: path.read_bytes()}
    collection = replace(
        collection,
        mirrors=mirrors.urls(FIRST),
        archive=replace(collection.archive, checked=checked(path.read_bytes())),
        checked=tuple(map(checked, files.values())),
    )
    monkeypatch.setitem(catalogue.COLLECTIONS, collection.name, collection)
    return collection


def cached(cache):
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_download_then_cache(clothes, mirrors, cache):
    assert data.load("fashion-mnist").y_train.tolist() == [1, 2, 3]
    assert mirrors.requests == [(FIRST, name) for name in mirrors.files]
    assert cached(cache) == sorted(mirrors.files)
    found = data.load("fashion-mnist", download=False)
    assert len(mirrors.requests) == 4 and str(cache) in found.source


@pytest.mark.parametrize("behaviour", ["missing", "wrong", "cut", "endless"])
def test_the_next_mirror_is_taken(clothes, mirrors, cache, behaviour):
    mirrors.behave[FIRST] = behaviour
    assert len(data.load("fashion-mnist").x_train) == 3
    assert mirrors.requests == [(mirror, name) for name in mirrors.files for mirror in (FIRST, SECOND)]
    assert cached(cache) == sorted(mirrors.files)


@pytest.mark.parametrize(
    "behaviour, reason",
    [
        ("missing", "HTTP status 404"),
        ("wrong", "its checksum is not"),
        ("cut", "the connection broke off"),
        ("stall", "no answer in time"),
    ],
)
def test_an_error_tells_what_was_tried(clothes, mirrors, cache, monkeypatch, behaviour, reason):
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.2))
    mirrors.behave = {FIRST: behaviour, SECOND: behaviour}
    with pytest.raises(MiniVAEError, match=rf"tried .*/first/.*({reason}).*/second/.*({reason})"):
        data.load("fashion-mnist")
    assert cached(cache) == []


def test_files_that_are_whole_are_kept_and_damaged_ones_replaced(clothes, mirrors, cache):
    labels = "train-labels-idx1-ubyte.gz"
    whole = mirrors.files.pop(labels)
    with pytest.raises(MiniVAEError, match=f"{labels} could not be downloaded"):
        data.load("fashion-mnist")
    mirrors.files[labels] = whole
    (cache / "fashion-mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"damaged")
    mirrors.requests.clear()
    data.load("fashion-mnist")
    assert (FIRST, "train-images-idx3-ubyte.gz") in mirrors.requests
    assert (cache / "fashion-mnist" / labels).read_bytes() == whole
    (cache / "fashion-mnist" / labels).write_bytes(whole[:-1])
    with pytest.raises(MiniVAEError, match="not in the cache .*downloading is off"):
        data.load("fashion-mnist", download=False)


def test_mnist_falls_back_to_the_sample_and_says_why(clothes, mirrors, cache, monkeypatch):
    mnist = replace(catalogue.MNIST, mirrors=mirrors.urls("none"))
    monkeypatch.setitem(catalogue.COLLECTIONS, "mnist", mnist)
    mirrors.behave["none"] = "missing"
    with pytest.warns(MiniVAEWarning, match="the bundled sample, .* stands in for MNIST; .*HTTP status 404"):
        assert data.load("mnist").name == "sample"


def test_mirrors_that_do_not_answer_are_given_up_together(clothes, cache, monkeypatch, capsys):
    """However long it takes: a name server does not keep to the time limit of a connection."""
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(100)
        port = silent.getsockname()[1]
        monkeypatch.setitem(
            catalogue.COLLECTIONS, "fashion-mnist", replace(clothes, mirrors=(f"http://127.0.0.1:{port}/first",))
        )
        lookup = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **kw: time.sleep(3) or lookup(*a, **kw))
        start = time.perf_counter()
        with pytest.raises(MiniVAEError, match=r"tried .*/first/.* \(no answer in time\)"):
            data.load("fashion-mnist")
        assert time.perf_counter() - start < 2
    assert "minivae: looking for Fashion-MNIST at 127.0.0.1 (for at most 0.3 s)" in capsys.readouterr().err


def test_a_mirror_that_does_not_answer_is_passed_over(clothes, mirrors, cache, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setitem(catalogue.COLLECTIONS, clothes.name, replace(clothes, mirrors=(dead, clothes.mirrors[1])))
        start = time.perf_counter()
        assert len(data.load("fashion-mnist").x_train) == 3
        assert time.perf_counter() - start < 3
    assert {mirror for mirror, _ in mirrors.requests} == {SECOND}


def test_a_mirror_that_sends_a_byte_now_and_then_is_asked_once(clothes, mirrors, cache, monkeypatch):
    monkeypatch.setattr(download, "GRACE", 0.5)
    mirrors.behave[FIRST] = "slow"
    start = time.perf_counter()
    assert len(data.load("fashion-mnist").x_train) == 3
    assert 0.5 < time.perf_counter() - start < 3
    assert [mirror for mirror, _ in mirrors.requests] == [FIRST] + [SECOND] * 4
    mirrors.behave[SECOND] = "slow"
    (cache / "fashion-mnist" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(MiniVAEError, match=r"tried .*/first/.*\(it took too long\).*/second/.*\(it took too long\)"):
        data.load("fashion-mnist")
    mirrors.released.set()


def test_a_file_without_end_is_given_up_where_it_should_end(clothes, mirrors, cache):
    mirrors.behave = {FIRST: "endless", SECOND: "endless"}
    with pytest.raises(MiniVAEError, match=r"tried .*/first/.*\(it goes on after the end of the file\).*/second/"):
        data.load("fashion-mnist")
    assert cached(cache) == [] and mirrors.sent < ENDLESS / 4


def test_a_host_whose_eight_addresses_drop_all_packets(clothes, cache, monkeypatch):
    """Each would be tried for the whole time, one after the other."""
    monkeypatch.setattr(download, "PATIENCE", 0.5)
    with contextlib.ExitStack() as sockets:
        listening = [sockets.enter_context(socket.socket()) for _ in range(8)]
        addresses = []
        for i, each in enumerate(listening):
            each.bind((f"127.0.0.{i + 2}", 0))
            each.listen(0)
            addresses.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", each.getsockname()))
            for _ in range(3):  # who wait to be accepted; the system drops the packets of more
                waiting = sockets.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(each.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        monkeypatch.setitem(catalogue.COLLECTIONS, clothes.name, replace(clothes, mirrors=("http://127.0.0.2:9/x",)))
        start = time.perf_counter()
        with pytest.raises(MiniVAEError, match="no answer in time"):
            data.load("fashion-mnist")
        assert 0.4 < time.perf_counter() - start < 1.5


def test_mirrors_with_https_come_first():
    for collection in catalogue.COLLECTIONS.values():
        schemes = [mirror.split(":")[0] for mirror in collection.mirrors]
        assert schemes == sorted(schemes, reverse=True) and schemes[0] == "https"


def test_a_cache_that_cannot_be_written(clothes, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(MiniVAEError, match="cache .* cannot be written"):
        data.load("fashion-mnist")


LOAD = """
import resource
import sys
from dataclasses import replace
from minivae import data
from minivae.data import catalogue
limit, name, mirror, *files = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
collection = catalogue.COLLECTIONS[name]
*files, last = (catalogue.Checked(int(n), sha256) for n, sha256 in zip(files[::2], files[1::2]))
archive = collection.archive and replace(collection.archive, checked=last)
collection = replace(collection, mirrors=(mirror,), archive=archive, checked=tuple(files))
catalogue.COLLECTIONS[name] = collection
print(data.load(name).y_train.tolist())
"""


def load_in_another_process(collection, limit=resource.RLIM_INFINITY):
    """Start loading in a process that may write no file of more than `limit` bytes, as on a full disk."""
    files = (*collection.checked, collection.archive.checked if collection.archive else catalogue.Checked(0, ""))
    files = (str(value) for file in files for value in (file.n_bytes, file.sha256))
    return subprocess.Popen(
        [sys.executable, "-c", LOAD, str(limit), collection.name, collection.mirrors[0], *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_full_disk(clothes, mirrors, cache):
    process = load_in_another_process(clothes, limit=1000)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "MiniVAEError: the cache" in errors and "cannot be written" in errors
    assert cached(cache) == []


def test_a_killed_download_leaves_nothing_that_is_taken_for_a_file(clothes, mirrors, cache):
    mirrors.behave[FIRST] = "stall"
    process = load_in_another_process(clothes)
    try:
        assert mirrors.stalled.wait(20)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    mirrors.behave.clear()
    assert not set(cached(cache)) & set(mirrors.files)
    assert len(data.load("fashion-mnist").x_train) == 3


@pytest.mark.parametrize("name", ["clothes", "letters"])
def test_two_processes_at_once(name, request, cache):
    collection = request.getfixturevalue(name)
    processes = [load_in_another_process(collection) for _ in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert output.strip() == ("[1, 2, 3]" if name == "clothes" else "[0, 1, 2]")
    assert cached(cache) == sorted(f"{file}.gz" for file in collection.files)


def test_an_archive_is_unpacked_and_removed(letters, mirrors, cache):
    assert data.load("emnist-letters").y_train.tolist() == [0, 1, 2]
    assert cached(cache) == sorted(f"{file}.gz" for file in letters.files)
    assert len(data.load("emnist-letters", download=False).x_test) == 3 and len(mirrors.requests) == 1


def test_another_process_removed_the_archive_first(letters, mirrors, cache, monkeypatch, tmp_path):
    def retrieve(_mirrors, _name, _checked, folder):
        folder.mkdir(parents=True)
        if others_are_done:
            for path in (tmp_path / "made").iterdir():
                shutil.copy(path, folder)

    monkeypatch.setattr(download, "_retrieve", retrieve)
    others_are_done = True
    assert len(data.load("emnist-letters").x_train) == 3
    shutil.rmtree(cache)
    others_are_done = False
    with pytest.raises(MiniVAEError, match="has vanished"):
        data.load("emnist-letters")


def test_a_damaged_file_out_of_an_archive_is_unpacked_again(letters, mirrors, cache):
    data.load("emnist-letters")
    path = cache / "emnist-letters" / "emnist-letters-train-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    assert data.load("emnist-letters").y_train.tolist() == [0, 1, 2] and path.read_bytes() == whole


def test_an_archive_without_the_files_is_an_error(letters, mirrors, monkeypatch):
    wrong = replace(letters, archive=replace(letters.archive, inside="elsewhere"))
    monkeypatch.setitem(catalogue.COLLECTIONS, letters.name, wrong)
    with pytest.raises(MiniVAEError, match="cannot be unpacked"):
        data.load("emnist-letters")
