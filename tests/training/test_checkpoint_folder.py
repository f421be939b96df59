"""What lies where a training wants to keep its checkpoint, or its callbacks their files, and who else is there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import killable
import numpy as np
import pytest

import minivae as mv

X = np.random.default_rng(0).random((30, 4), np.float32)


def fit(checkpoint=None, **options):
    vae = mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)])
    return mv.fit(vae, X, epochs=1, batch_size=8, checkpoint=checkpoint, **options)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_is_not_moved_away(tmp_path, resume):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "precious").touch()
    with pytest.raises(mv.MiniVAEError, match=f"{folder}.* (is a folder: give the path of a file|Is a directory)"):
        fit(mv.Checkpoint(folder, resume))
    assert os.listdir(tmp_path) == ["results"] and os.listdir(folder) == ["precious"]


def test_no_earlier_training_is_lost(tmp_path):
    path, contents = tmp_path / "checkpoint.safetensors", []
    for _ in range(3):
        fit(path, seed=len(contents))
        contents.append(path.read_bytes())
    names = "checkpoint.safetensors.previous", "checkpoint.safetensors.previous-2", "checkpoint.safetensors"
    assert [(tmp_path / name).read_bytes() for name in names] == contents and len(os.listdir(tmp_path)) == 3


def test_a_second_training_is_refused_and_disturbs_nothing(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    link = tmp_path / "link"
    link.symlink_to(path)

    def start_another(run):
        leftover = Path(f"{path}.0123abcd.tmp")  # which the first may be writing
        leftover.touch()
        for name in (path, link):
            with pytest.raises(mv.MiniVAEError, match=rf"the checkpoint {name} is in use by process {os.getpid()}"):
                fit(name)
        assert leftover.exists()
        leftover.unlink()
        seen.append(run.epoch)

    seen = []
    fit(path, callbacks=start_another)
    assert seen == [1] and sorted(os.listdir(tmp_path)) == ["checkpoint.safetensors", "link"]


def test_a_training_that_was_killed_keeps_nobody_out(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    environment = os.environ | {"PYTHONPATH": str(Path(mv.__file__).parent.parent)}
    command = [sys.executable, killable.__file__, str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.01)
        with pytest.raises(mv.MiniVAEError, match=f"is in use by process {process.pid}, which began"):
            fit(path)
        process.send_signal(signal.SIGKILL)
    fit(path)
    assert Path(f"{path}.previous").exists() and not Path(f"{path}.lock").exists()


def test_a_failed_training_gives_its_checkpoint_back(tmp_path):
    path = tmp_path / "checkpoint.safetensors"

    def fail(run):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose") as error:
        fit(path, callbacks=fail)
    fit(path)  # while `error` still holds the frames of the first
    assert error


def test_a_table_that_cannot_be_written_is_told_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()
    for path, reason in ((tmp_path / "file" / "metrics.csv", "Not a directory"), (tmp_path, "it is a folder")):
        with pytest.raises(mv.MiniVAEError, match=f"cannot write {path}: {reason}"):
            fit(callbacks=[lambda run: pytest.fail("trained"), mv.CSVWriter(path)])


@pytest.mark.parametrize("method", ["begin", "__call__", "end"])
def test_what_the_system_refuses_to_a_callback_names_the_callback_and_the_path(tmp_path, method):
    (tmp_path / "file").touch()

    def make_a_folder(self, run):
        (tmp_path / "file" / "below").mkdir()

    class Pictures:
        def __call__(self, run):
            pass

    setattr(Pictures, method, make_a_folder)
    with pytest.raises(mv.MiniVAEError, match="fit: the callback Pictures failed: .*Not a directory: .*file/below"):
        fit(callbacks=Pictures())
