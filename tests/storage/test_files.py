"""Writing files: the old contents or the new, whole, whatever happens."""

import os
import resource
import socket
from pathlib import Path

import pytest

from minivae.errors import MiniVAEError
from minivae.files import atomic_write, check_writable, keep_previous, reading, remove_leftovers


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def test_the_new_contents_appear_at_the_end(path):
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file"]


def test_the_bytes_are_on_the_disk_before_the_name(path, monkeypatch):
    steps = []
    monkeypatch.setattr(os, "fsync", lambda _: steps.append({each.read_bytes() for each in path.parent.iterdir()}))
    with atomic_write(path) as file:
        file.write(b"new")
    assert steps == [{b"old", b"new"}]


def test_after_an_error_the_old_contents_remain(path):
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"half of the new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["file"]


def test_a_full_disk_is_one_clear_error(path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(MiniVAEError, match=f"cannot write {path}: File too large"), atomic_write(path) as file:
            file.write(bytes(200))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["file"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(MiniVAEError, match="cannot write .*No such file"), atomic_write(tmp_path / "no" / "file"):
        pass


def test_a_link_stays_a_link_and_the_mode_is_the_usual_one(path):
    link = path.with_name("link")
    link.symlink_to(path)
    with atomic_write(link) as file:
        file.write(b"new")
    assert link.is_symlink() and path.read_bytes() == b"new"
    (path.parent / "other").touch()
    assert path.stat().st_mode == (path.parent / "other").stat().st_mode


def test_permissions_of_a_file_that_is_replaced_are_kept_and_new_ones_follow_the_umask(path):
    private = path.with_name("private")
    private.touch(0o600)
    path.chmod(0o664)
    before = os.umask(0o027)
    try:
        for each in (path, private, path.with_name("new")):
            with atomic_write(each) as file:
                file.write(b"new")
                (temporary,) = path.parent.glob("*.tmp")
                assert not each.exists() or temporary.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    modes = {each.name: oct(each.stat().st_mode & 0o777) for each in path.parent.iterdir()}
    assert modes == {"file": "0o664", "private": "0o600", "new": "0o640"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_that_root_replaces_stays_its_owners(path):
    os.chown(path, 12345, 54321)
    path.chmod(0o640)
    with atomic_write(path) as file:
        file.write(b"new")
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12345, 54321, 0o640)


def test_a_file_that_is_protected_from_writing_stays(path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # which nothing is for root
    with pytest.raises(MiniVAEError, match=f"cannot write {path}: Permission denied"), atomic_write(path):
        pass
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["file"]


def special(folder, name):
    """A FIFO, a socket or a folder in a folder, or a device."""
    path = folder / name
    if name == "FIFO":
        os.mkfifo(path)
    elif name == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif name == "folder":
        path.mkdir()
    else:
        path = Path(os.devnull)
    return path


@pytest.mark.parametrize("name", ["FIFO", "socket", "folder", "device"])
def test_what_is_no_file_is_neither_replaced_nor_renamed(tmp_path, name):
    path = special(tmp_path, name)
    before = path.stat()
    with pytest.raises(MiniVAEError, match=f"cannot write {path}: it is a {name}"), atomic_write(path):
        pass
    with pytest.raises(MiniVAEError, match=f"{path} is a {name}: give the path of a file"):
        keep_previous(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(MiniVAEError, match=f"it is a {name}"), atomic_write(link):
        pass
    assert os.path.samestat(path.stat(), before) and len(os.listdir(tmp_path)) == 1 + (name != "device")


@pytest.mark.parametrize("name", ["FIFO", "socket", "device"])
def test_what_is_no_file_is_not_opened(tmp_path, name, monkeypatch):
    path = special(tmp_path, name)
    monkeypatch.setattr("builtins.open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(MiniVAEError, match=f"cannot read {path}: it is a {name}, give the path of a file"):
        with reading(path):
            pass


def test_previous_files_are_numbered(path):
    for contents in (b"1", b"2", b"3"):
        path.write_bytes(contents)
        keep_previous(path)
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == {
        "file.previous": b"1",
        "file.previous-2": b"2",
        "file.previous-3": b"3",
    }


def test_leftovers_are_told_from_a_users_own_files(path):
    names = ["file.0123abcd.tmp", "file.too-long-a-name.tmp", "file.my-notes.tmp", "other.0123abcd.tmp"]
    for name in names:
        path.with_name(name).touch()
    remove_leftovers(path)
    assert set(os.listdir(path.parent)) == {"file", *names[1:]}


def test_whether_a_path_can_be_written_is_told_without_writing(path):
    check_writable(path)
    check_writable(path.with_name("new"))
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["file"]
    with pytest.raises(MiniVAEError, match="cannot write .*Not a directory"):
        check_writable(path / "below")
