"""Writing files: the old contents or the new, whole, whatever happens."""

import os
import resource

import pytest

from minivae.errors import MiniVAEError
from minivae.files import atomic_write


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
    monkeypatch.setattr(os, "fsync", lambda _: steps.append(path.read_bytes()))
    steps = []
    with atomic_write(path) as file:
        file.write(b"new")
    assert steps == [b"old"]


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
