"""One process at a time: the second is told who is first, and whoever dies, however, leaves no lock behind."""

import errno
import fcntl
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import minivae
from minivae import locks
from minivae.errors import MiniVAEError
from minivae.locks import locked, results_folder

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(minivae.__file__).parent.parent)}
HOLD = """
import sys
from minivae.locks import locked
with locked(sys.argv[1], "it"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def holder(path):
    """Another process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_the_second_is_told_who_is_first(path, holder):
    message = rf"it is in use by process {holder.pid}, which began \d+ seconds ago: wait .* or choose another"
    with pytest.raises(MiniVAEError, match=message), locked(path, "it"):
        pass
    holder.stdin.close()
    holder.wait()
    assert not path.exists()
    with locked(path, "it"):
        pass


def test_a_killed_process_leaves_no_lock(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert path.exists()  # the file stays, the lock on it does not
    with locked(path, "it"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_the_same_process_is_kept_out_too_also_its_threads(path):
    def enter():
        with pytest.raises(MiniVAEError, match=rf"process {os.getpid()} \(this one\)"), locked(path, "it"):
            pass
        refused.append(True)

    refused = []
    with locked(path, "it"):
        enter()
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert len(refused) == 2
    with locked(path, "it"):
        pass


def test_no_descriptor_stays_open(path):
    before = os.listdir("/dev/fd")
    with locked(path, "it"), pytest.raises(MiniVAEError, match="in use"), locked(path, "it"):
        pass
    assert os.listdir("/dev/fd") == before


@pytest.mark.parametrize("age, told", [(5, "5 seconds"), (130, "2 minutes"), (8000, "2 hours"), (500_000, "6 days")])
def test_the_age_in_words(path, monkeypatch, age, told):
    with locked(path, "it"):
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + age)
        with pytest.raises(MiniVAEError, match=f"which began {told} ago"), locked(path, "it"):
            pass


@pytest.mark.parametrize("text", ["", "junk", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_a_lock_that_does_not_tell_its_holder(path, text):
    with locked(path, "it"):
        path.write_text(text)
        with pytest.raises(MiniVAEError, match="it is in use by another process"), locked(path, "it"):
            pass


def take_turns(path, counter, times):
    """Count in a file, where two at once would lose counts."""
    while times:
        try:
            with locked(path, "it"):
                number = int(counter.read_text())
                time.sleep(0.0005)
                counter.write_text(str(number + 1))
                times -= 1
        except MiniVAEError:
            time.sleep(0.0002)


def test_a_lock_that_is_removed_as_it_is_given_back_keeps_others_out(path, tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=take_turns, args=(path, counter, 60)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert counter.read_text() == "180" and not path.exists()


@pytest.mark.parametrize("other, refused", [("alive", True), ("dead", False), ("elsewhere", True), ("nobody", False)])
def test_without_locks_in_the_file_system_the_number_of_a_living_process_counts(path, monkeypatch, other, refused):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with locked(path, "it"):
        record = json.loads(path.read_text())
    changes = {"alive": {"pid": os.getppid()}, "dead": {"pid": dead.pid}, "elsewhere": {"host": "far", "pid": dead.pid}}
    if other in changes:
        path.write_text(json.dumps(record | changes[other]))
    if refused:
        with pytest.raises(MiniVAEError, match="is in use by process"), locked(path, "it"):
            pass
    else:
        with locked(path, "it"):
            pass


def test_a_link_in_the_place_of_a_lock_is_not_followed(path, tmp_path):
    (tmp_path / "valuable").write_text("do not touch")
    path.symlink_to(tmp_path / "valuable")
    with pytest.raises(MiniVAEError, match=f"cannot write {path}"), locked(path, "it"):
        pass
    assert (tmp_path / "valuable").read_text() == "do not touch"


def test_a_full_disk_does_not_keep_anybody_from_working(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(locks.os, "write", full)
    with locked(path, "it"):
        pass
    assert not path.exists()


# ------------------------------------------------------------------------------------------ a folder of results


@pytest.mark.parametrize("name", ["", "new", "new/below"])
def test_a_new_or_an_empty_folder(tmp_path, name):
    folder = tmp_path / name
    with results_folder(folder):
        assert os.listdir(folder) == [".lock"]
        with pytest.raises(MiniVAEError, match=f"--out {folder} is in use by process"), results_folder(folder):
            pass
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    "names, resume, message",
    [
        (["model"], False, r"has results already \(model\): give another folder"),
        (["a", "b", "c", "d"], False, r"has results already \(a, b, c, ...\): give another"),
        (["checkpoint", "model"], False, r"\(checkpoint, model\): add --resume to go on with that run, give another"),
        (["checkpoint", "model"], True, None),
        (["model"], True, r"\(model\) and none of checkpoint to go on from: give another"),
        ([], True, None),
        ([".hidden"], False, None),
    ],
)
def test_results_are_not_replaced_without_being_asked(tmp_path, names, resume, message):
    for name in names:
        (tmp_path / name).write_text("precious")
    if message is None:
        with results_folder(tmp_path, ["checkpoint"], resume):
            pass
    else:
        with pytest.raises(MiniVAEError, match=f"--out {re.escape(str(tmp_path))} .*{message}"):
            with results_folder(tmp_path, ["checkpoint"], resume):
                pytest.fail("it was given away")
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    assert all((tmp_path / name).read_text() == "precious" for name in names)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    for folder, reason in (("file", "File exists"), ("file/below", "Not a directory")):
        with pytest.raises(MiniVAEError, match=f"--out .*{folder} cannot be made: {reason}"):
            with results_folder(tmp_path / folder):
                pass
