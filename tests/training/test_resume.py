"""A training that was stopped at any moment and went on ends with the same bits as one that was not."""

import csv
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import killable
import numpy as np
import pytest

import minivae as mv
from minivae.storage import checkpoint as storage
from minivae.training.state import Training, fingerprint

SMALL = {"epochs": 9, "n": 80}  # 64 to train on: 9 full batches of 7 and one of 1


@pytest.fixture(scope="module")
def expected():
    return killable.digest(*killable.train(None, resume=False, **SMALL))


@pytest.fixture(autouse=True)
def ctrl_c_is_on():
    """Which a shell turns off for what it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Stop(Exception):
    pass


def press_ctrl_c_at(monkeypatch, step, times=1):
    """Interrupt the training in the step of this number, counted from 1 over all epochs."""
    steps, count = Training.steps, iter(range(1, 10**9))

    def counted(self, **options):
        for _ in steps(self, **options):
            if next(count) == step:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
            yield

    monkeypatch.setattr(Training, "steps", counted)


@pytest.mark.parametrize("epoch", [1, 2, 4, 8, 9])
def test_stopped_after_an_epoch(tmp_path, expected, epoch):
    """The callbacks of an epoch that was not kept run again."""
    path = tmp_path / "checkpoint.safetensors"

    def stop(run):
        if run.epoch == epoch:
            raise Stop

    with pytest.raises(Stop):
        killable.train(path, callbacks=[stop], **SMALL)
    assert killable.digest(*killable.train(path, **SMALL)) == expected
    assert killable.digest(*killable.train(path, **SMALL)) == expected, "a finished training was not left as it is"


@pytest.mark.parametrize("step", [1, 5, 9, 10, 11, 14, 36, 89, 90])
def test_stopped_in_the_middle_of_an_epoch_by_ctrl_c(tmp_path, monkeypatch, expected, step):
    path = tmp_path / "checkpoint.npz"
    with monkeypatch.context() as patch:
        press_ctrl_c_at(patch, step)
        with pytest.raises(mv.Interrupted) as error:
            killable.train(path, **SMALL)
    epoch, done = divmod(step, 10)
    where = f"in epoch {epoch + 1} after step {done} of 10" if done else f"after epoch {epoch}"
    kept = f"all is kept in {path}, from which Checkpoint(path, resume=True) goes on"
    assert str(error.value) == f"stopped {where}; {kept}"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert killable.digest(*killable.train(path, **SMALL)) == expected


def test_a_second_ctrl_c_does_not_wait(tmp_path, monkeypatch, expected):
    path = tmp_path / "checkpoint.safetensors"
    with monkeypatch.context() as patch:
        press_ctrl_c_at(patch, 15, times=2)
        with pytest.raises(KeyboardInterrupt) as error:
            killable.train(path, **SMALL)
        assert not isinstance(error.value, mv.Interrupted)
    assert killable.digest(*killable.train(path, **SMALL)) == expected


def test_without_a_checkpoint_ctrl_c_keeps_the_history_and_the_weights(monkeypatch):
    """Those of the step that was finished: 15 steps of which 8 make the first epoch."""
    x = np.random.default_rng(0).random((30, 4), np.float32)

    def small():
        return mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)])

    vae, expected = small(), small()
    history = mv.fit(expected, x, epochs=1, batch_size=4)
    assert expected.history is history
    with monkeypatch.context() as patch:
        press_ctrl_c_at(patch, 8)
        with pytest.raises(mv.Interrupted, match="stopped after epoch 1; the model has the .*vae.history") as error:
            mv.fit(vae, x, epochs=5, batch_size=4)
    assert error.value.checkpoint is None
    assert [row["train_loss"] for row in vae.history] == history["train_loss"]
    np.testing.assert_array_equal(vae.parameters.flat, expected.parameters.flat)
    press_ctrl_c_at(monkeypatch, 11)
    with pytest.raises(mv.Interrupted, match="stopped in epoch 2 after step 3 of 8"):
        mv.fit(small(), x, epochs=5, batch_size=4)


def test_what_a_callback_keeps_and_that_it_stopped_are_resumed(tmp_path):
    """A callback that counts in run.kept what a run that was cut in two would have forgotten."""
    path, x = tmp_path / "checkpoint.safetensors", np.random.default_rng(0).random((30, 4), np.float32)

    def count(run):
        run.kept["epochs"] = run.kept.get("epochs", 0) + 1
        run.kept["numbers"] = np.append(run.kept.get("numbers", np.empty(0)), run.epoch)
        if run.kept["epochs"] == 4:
            run.stop()

    def train(epochs):
        vae = mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)])
        seen = []
        options = {"callbacks": [count, lambda run: seen.append(run.kept)], "checkpoint": mv.Checkpoint(path, True)}
        history = mv.fit(vae, x, epochs=epochs, batch_size=8, **options)
        return len(history), seen[-1] if seen else None

    assert train(2) == (2, {"epochs": 2, "numbers": pytest.approx([1, 2])})
    assert train(9) == (4, {"epochs": 4, "numbers": pytest.approx([1, 2, 3, 4])})
    assert train(9) == (4, None), "a training that was stopped went on"


def test_a_callback_may_keep_what_it_likes_under_any_name(tmp_path):
    """Early stopping's own is beside it; a number of NumPy's comes back as Python's, and columns may have gaps."""
    path, x = tmp_path / "checkpoint.safetensors", np.random.default_rng(0).random((30, 4), np.float32)

    def keep(run):
        run.kept |= {"best": np.int64(run.epoch), "best_weights": [1, 2, 3]}
        if run.epoch % 2 == 0:
            run.history[-1]["score"] = 0.5

    def train(epochs, callback=keep):
        seen, vae = [], mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)])
        callbacks = [callback, lambda run: seen.append(dict(run.kept)), mv.CSVWriter(tmp_path / "metrics.csv")]
        options = {"validation": x[:5], "patience": 9, "callbacks": callbacks}
        mv.fit(vae, x, epochs=epochs, **options, checkpoint=mv.Checkpoint(path, True))
        return seen[0]

    train(2)
    kept = train(3, lambda run: None)
    assert type(kept["best"]) is int and (kept["best"], kept["best_weights"]) == (2, [1, 2, 3])
    head, *rows = csv.reader((tmp_path / "metrics.csv").read_text().splitlines())
    assert head[-1] == "score" and [row[-1] for row in rows] == ["", "0.5", ""]
    with pytest.raises(mv.MiniVAEError, match=r"run.kept\['set'\] cannot be kept .*keep numbers, text"):
        train(4, lambda run: run.kept.update(set={1}))


def test_a_resumed_training_knows_the_best_loss_so_far(tmp_path):
    """The epoch after the interruption is worse than the best one before it, whose weights the model ends with."""
    path, x, results = tmp_path / "checkpoint.safetensors", np.random.default_rng(0).random((30, 8), np.float32), []

    def worsen(run):  # after early stopping has looked
        if run.epoch >= 3:
            run.vae.parameters.flat[...] += 0.5

    def train(epochs, resume):
        vae = mv.VAE([mv.Dense(8, 4)], [mv.Dense(2, 8)], seed=1)
        options = {"callbacks": worsen, "optimizer": mv.SGD(0.05), "checkpoint": mv.Checkpoint(path, resume)}
        history = mv.fit(vae, x, x, epochs=epochs, batch_size=8, patience=9, **options)
        results.append((history["val_loss"], history.best_epoch, vae.parameters.flat.tobytes()))

    train(8, resume=False)
    train(4, resume=False)
    train(8, resume=True)
    losses, best, _ = results[0]
    assert results[0] == results[2] and best == 3 and min(losses[3:]) > losses[2]


def test_the_progress_bar_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    path = tmp_path / "checkpoint.safetensors"
    with monkeypatch.context() as patch:
        press_ctrl_c_at(patch, 25)
        with pytest.raises(mv.Interrupted):
            killable.train(path, **SMALL)
    killable.train(path, progress=True, **SMALL)
    assert re.search(r"\| (\d+)/90 \[", capsys.readouterr().err)[1] == "25"


def test_training_in_another_thread_leaves_signals_alone(tmp_path, expected):
    digests = []
    arguments = {"checkpoint": tmp_path / "checkpoint.safetensors"} | SMALL
    thread = threading.Thread(target=lambda: digests.append(killable.digest(*killable.train(**arguments))))
    thread.start()
    thread.join()
    assert digests == [expected]


def test_more_epochs_may_follow(tmp_path):
    """Asking for more epochs goes on where the first training ended, as if all had been asked for at once."""

    def train(epochs, **options):
        vae = mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)])
        x = np.random.default_rng(0).random((30, 4), np.float32)
        mv.fit(vae, x, epochs=epochs, batch_size=8, **options)
        return vae.parameters.flat.tobytes()

    path = tmp_path / "checkpoint.safetensors"
    train(2, checkpoint=path)
    assert train(5, checkpoint=mv.Checkpoint(path, resume=True)) == train(5)


def test_a_checkpoint_is_written_before_the_first_epoch(tmp_path):
    """So that a path that cannot be written to costs no training, and a machine that goes down in it no settings."""
    path, x, vae = tmp_path / "checkpoint.safetensors", np.zeros((30, 4)), mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)])
    there = []

    def rate(epoch):  # is asked as an epoch begins
        there.append(path.exists())
        return 1e-3

    mv.fit(vae, x, epochs=2, checkpoint=path, schedules={"lr": rate})
    assert there and all(there)


def test_a_checkpoint_is_a_model_too(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    x = np.random.default_rng(0).random((30, 4), np.float32)
    vae = mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)])
    mv.fit(vae, x, epochs=2, batch_size=8, checkpoint=path)
    np.testing.assert_array_equal(mv.load(path).parameters.flat, vae.parameters.flat)


def test_a_new_training_keeps_the_last_one(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    killable.train(path, **SMALL)
    content = path.read_bytes()
    killable.train(path, epochs=4, n=80, resume=False)
    assert path.read_bytes() != content
    assert Path(f"{path}.previous").read_bytes() == content


def test_what_a_killed_write_left_is_removed(tmp_path, expected):
    path = tmp_path / "checkpoint.safetensors"
    leftover, other = Path(f"{path}.0123abcd.tmp"), tmp_path / "other.safetensors.0123abcd.tmp"
    leftover.touch()
    other.touch()
    assert killable.digest(*killable.train(path, **SMALL)) == expected
    assert not leftover.exists() and other.exists()


def test_a_training_that_version_0_1_had_stopped_early_stays_so(tmp_path):
    """Its checkpoints said nothing of having stopped, and kept the best weights under another name."""
    path, options = tmp_path / "checkpoint.npz", {"epochs": 60, "n": 80, "patience": 2}
    expected = killable.digest(*killable.train(path, **options))
    arrays, record = storage.read(path)
    assert len(record["training"]["history"]) < 60
    record["training"].pop("stopped")
    record["training"]["best"] = record["training"].pop("kept")["EarlyStopping.best"]
    arrays["extra.best"] = arrays.pop("extra.kept.EarlyStopping.best_weights")
    storage.write(path, arrays, {key: record[key] for key in ("model", "settings", "training")})
    assert killable.digest(*killable.train(path, **options)) == expected


# ------------------------------------------------------------------------------------------- what does not fit


def small_fit(path, hidden=4, n=30, model=None, resume=False, **options):
    vae = mv.VAE(
        [mv.Dense(8, hidden), mv.ReLU(), mv.Dense(hidden, 4)], [mv.Dense(2, 8)], **({"seed": 1} | (model or {}))
    )
    x = np.random.default_rng(0).random((n, 8), np.float32)
    return mv.fit(vae, x, **({"epochs": 2, "batch_size": 8, "checkpoint": mv.Checkpoint(path, resume)} | options))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 9}, "batch_size is 8 there and 9 here"),
        ({"seed": 5}, "seed is 1 there and 5 here"),
        ({"samples": 2}, "samples is 1 there and 2 here"),
        ({"optimizer": mv.RMSprop(2e-3)}, "optimizer is .*'lr': 0.001.* there and .*'lr': 0.002"),
        ({"optimizer": mv.SGD()}, "optimizer is .*RMSprop.* there and .*SGD"),
        ({"optimizer": mv.ClipNorm(mv.RMSprop(), 1.0)}, "clip_norm is None there and 1.0 here"),
        ({"validation": 0.1}, "validation_split is None there"),
        ({"validation": np.zeros((5, 8), np.float32)}, r"x_val is None there and \[\[5, 8\]"),
        ({"binarize": True}, "binarize is False there and True here"),
        ({"hidden": 5}, "encoder is .*'n_out': 4.* there and .*'n_out': 5"),
        ({"n": 31}, r"x_train is \[\[30, 8\].* there and \[\[31, 8\]"),
        ({"model": {"beta": 2.0}}, "beta is 1.0 there and 2.0 here"),
        ({"model": {"dtype": "float64"}}, "dtype is float32 there and float64 here"),
        ({"model": {"likelihood": mv.Gaussian()}}, "likelihood is .*Bernoulli.* there and .*Gaussian"),
    ],
)
def test_another_training_is_not_resumed(tmp_path, change, message):
    path = tmp_path / "checkpoint.safetensors"
    small_fit(path)
    content = path.read_bytes()
    with pytest.raises(mv.MiniVAEError, match=f"is of another training: {message}.*Resume with the same"):
        small_fit(path, resume=True, **change)
    assert path.read_bytes() == content


def test_data_that_differ_in_any_row_are_other_data(tmp_path):
    """Version 0.1 looked at a thousand rows; its checkpoints are compared in those."""
    path, x = tmp_path / "checkpoint.safetensors", np.random.default_rng(0).random((3001, 8), np.float32)
    options = {"checkpoint": mv.Checkpoint(path, resume=True), "batch_size": 1000}

    def train(x, others, epochs):
        return len(mv.fit(mv.VAE([mv.Dense(8, 4)], [mv.Dense(2, 8)]), x, others, epochs=epochs, **options))

    def with_another(row):
        changed = x.copy()
        changed[row, 5] = 0.5
        return changed

    assert train(x, x[:2500], 1) == 1
    with pytest.raises(mv.MiniVAEError, match=r"x_val is \[\[2500, 8\], .* there and None here"):
        train(x, None, 2)
    for row in (1, 2, 1501, 3000):
        with pytest.raises(mv.MiniVAEError, match=r"x_train is \[\[3001, 8\], 'float32'"):
            train(with_another(row), x[:2500], 2)
    with pytest.raises(mv.MiniVAEError, match=r"x_val is \[\[2500, 8\], 'float32'"):
        train(x, with_another(1)[:2500], 2)
    assert train(x, x[:2500], 2) == 2
    arrays, record = storage.read(path)
    for name in "x_train", "x_val":
        record["settings"][name] = record["settings"][name][:3]
    del record["settings"]["val_samples"]
    storage.write(path, arrays, record)
    with pytest.raises(mv.MiniVAEError, match="x_train is"):
        train(with_another(3000), x[:2500], 3)
    assert train(x, x[:2500], 3) == 3


def test_every_row_of_large_data_has_its_part_in_the_fingerprint():
    x = np.zeros((20_003, 3), np.uint8)
    marks = [fingerprint(x)]
    for row in (9_999, 10_001, 20_001):
        x[row] = 1
        marks.append(fingerprint(x))
    assert len({mark[3] for mark in marks}) == 4 and marks[0][:2] == [[20_003, 3], "uint8"]
    assert fingerprint(np.asfortranarray(x)) == marks[-1]


def test_a_training_of_a_model_that_had_been_trained_goes_on_with_its_own_noise(tmp_path):
    """Two epochs before, and then three, in one go or in two, of which the second begins with a model made anew."""
    path, x = tmp_path / "checkpoint.safetensors", np.random.default_rng(0).random((30, 8), np.float32)

    def trained():
        vae = mv.VAE([mv.Dense(8, 4)], [mv.Dense(2, 8)])
        mv.fit(vae, x, epochs=2, batch_size=8)
        return vae

    expected, vae = trained(), trained()
    mv.fit(expected, x, epochs=3, batch_size=8)
    mv.fit(vae, x, epochs=1, batch_size=8, checkpoint=path)
    vae = mv.VAE([mv.Dense(8, 4)], [mv.Dense(2, 8)])
    mv.fit(vae, x, epochs=3, batch_size=8, checkpoint=mv.Checkpoint(path, resume=True))
    assert vae.epochs == expected.epochs == 5
    ended = mv.VAE([mv.Dense(8, 4)], [mv.Dense(2, 8)])
    mv.fit(ended, x, epochs=3, batch_size=8, checkpoint=mv.Checkpoint(path, resume=True))
    assert ended.epochs == 5
    np.testing.assert_array_equal(vae.parameters.flat, expected.parameters.flat)


def test_validation_with_another_number_of_samples_is_another_training(tmp_path):
    """A checkpoint of version 0.1 names none: it validated with one."""
    path = tmp_path / "checkpoint.safetensors"
    small_fit(path, samples=3, validation=0.2, val_samples=1)
    for change in False, True:
        if change:
            arrays, record = storage.read(path)
            del record["settings"]["val_samples"]
            storage.write(path, arrays, record)
        with pytest.raises(mv.MiniVAEError, match="val_samples is 1 there and 3 here"):
            small_fit(path, samples=3, validation=0.2, resume=True)
    assert len(small_fit(path, samples=3, validation=0.2, val_samples=1, resume=True, epochs=3)) == 3


def test_the_seconds_of_an_epoch_hold_those_before_an_interruption(tmp_path, monkeypatch):
    """A clock that goes on by a second whenever it is read: once before the steps and once after."""
    clock, path = itertools.count(100.0), tmp_path / "checkpoint.safetensors"
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    press_ctrl_c_at(monkeypatch, 6)  # the second of epoch 2
    with pytest.raises(mv.Interrupted):
        small_fit(path)
    assert small_fit(path, resume=True)["seconds"] == [1, 2]


def test_damaged_checkpoints_stop_the_resumption_and_stay(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    small_fit(path)
    content = path.read_bytes()
    mv.VAE([mv.Dense(8, 4)], [mv.Dense(2, 8)]).save(tmp_path / "model.safetensors")
    model = (tmp_path / "model.safetensors").read_bytes()
    for bad, message in ((content[:-9], "truncated"), (b"", "no checkpoint"), (model, "a model but no training")):
        path.write_bytes(bad)
        with pytest.raises(mv.MiniVAEError, match=message):
            small_fit(path, resume=True)
        assert path.read_bytes() == bad


def test_a_checkpoint_that_cannot_be_written_is_an_error_before_training(tmp_path):
    with pytest.raises(mv.MiniVAEError, match="cannot write .*No such file"):
        small_fit(tmp_path / "nowhere" / "checkpoint.safetensors", callbacks=[lambda run: pytest.fail("trained")])


def test_resuming_nothing_begins_and_says_so(tmp_path, capsys):
    path = tmp_path / "checkpoint.safetensors"
    assert len(small_fit(path, resume=True)) == 2
    assert f"no checkpoint {path} yet: starting from the beginning" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- SIGKILL


def start(path):
    environment = os.environ | {"PYTHONPATH": str(Path(mv.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, killable.__file__, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def killed_at_random(tmp_path, times, seed):
    """Kill the training at so many moments of its life, each in a life of its own; return how many end the same."""
    begin = time.perf_counter()
    expected = start(tmp_path / "expected.safetensors").communicate()[0]
    seconds = time.perf_counter() - begin
    assert len(expected) == 65
    same = 0
    for i, moment in enumerate(np.random.default_rng(seed).uniform(0.1, 1, times)):
        path = tmp_path / f"{i}.safetensors"
        process = start(path)
        time.sleep(moment * seconds)
        process.kill()
        process.communicate()
        same += start(path).communicate()[0] == expected
    return same


def test_killed(tmp_path):
    assert killed_at_random(tmp_path, 2, seed=0) == 2


@pytest.mark.slow
def test_killed_at_20_random_moments(tmp_path):
    assert killed_at_random(tmp_path, 20, seed=1) == 20


# ------------------------------------------------------------------------------------------- edited checkpoints


EDITS = {
    "done": [-5, 10**9, 10, 1.5, True, None, "3"],
    "history": [None, [1], [{"epoch": 1}], [{"epoch": 2, "train_loss": 1.0}], [{"epoch": 1, "train_loss": "x"}], {}],
    "seconds": [-1, None, "1", float("nan")],
    "before": [-1, None, 1.5, True, "3"],
    "beta": [-1, None, float("nan"), float("inf"), [1]],
    "lr": [0, -1, None, float("inf"), "0.1"],
    "stopped": [1, None, "no"],
    "kept": [None, [], 3, *({"EarlyStopping.best": best} for best in (None, [1], [1, "x", 1]))],
}


@pytest.fixture
def kept_training(tmp_path):
    """A checkpoint of two epochs, and a function that goes on from it; its model has to stay as it was on an error."""
    path = tmp_path / "training.npz"
    x = np.random.default_rng(0).random((40, 6))

    def vae():
        return mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)], seed=1)

    def go_on(epochs=3, **options):
        model = vae()
        before = model.parameters.flat.copy()
        options = {"optimizer": mv.Adam(), "patience": 2, "checkpoint": mv.Checkpoint(path, resume=True)} | options
        try:
            return mv.fit(model, x, x[:10], epochs=epochs, batch_size=4, progress=False, **options)
        except mv.MiniVAEError:
            np.testing.assert_array_equal(model.parameters.flat, before)
            raise

    go_on(2)
    return path, go_on


@pytest.mark.parametrize("name, value", [(name, value) for name, values in EDITS.items() for value in values])
def test_a_record_that_was_edited_is_refused(kept_training, name, value):
    """With a valid checksum; before anything changes."""
    path, go_on = kept_training
    arrays, record = storage.read(path)
    record["training"][name] = value
    storage.write(path, arrays, record)
    with pytest.raises(mv.MiniVAEError, match=f"{name} of its training should be"):
        go_on()


def test_a_record_that_is_none(kept_training):
    path, go_on = kept_training
    arrays, record = storage.read(path)
    storage.write(path, arrays, record | {"training": [1]})
    with pytest.raises(mv.MiniVAEError, match="its training should be an object"):
        go_on()


@pytest.mark.parametrize("settings", ["none at all", None, [1], "x"])
def test_settings_that_are_none(kept_training, settings):
    path, go_on = kept_training
    arrays, record = storage.read(path)
    record["settings"] = settings
    if settings == "none at all":
        del record["settings"]
    storage.write(path, arrays, record)
    with pytest.raises(mv.MiniVAEError, match="its settings should be an object"):
        go_on()


@pytest.mark.parametrize("which", ["optimizer.m", "totals", "kept.EarlyStopping.best_weights"])
@pytest.mark.parametrize("edit", ["missing", "shape", "dtype", "more"])
def test_arrays_that_were_edited_are_refused(kept_training, edit, which):
    path, go_on = kept_training
    arrays, record = storage.read(path)
    name = next(name for name in arrays if name.startswith(f"extra.{which}"))
    if edit == "missing":
        del arrays[name]
    elif edit == "more":
        arrays["extra.optimizer.z"] = np.zeros(3)
    else:
        arrays[name] = arrays[name][:-1] if edit == "shape" else arrays[name].astype("f2")
    storage.write(path, arrays, record)
    with pytest.raises(mv.MiniVAEError, match="its array '[A-Za-z_.]+' should be"):
        go_on()


def test_a_record_of_a_format_without_end(tmp_path):
    path = tmp_path / "model.npz"
    mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)]).save(path)
    arrays, record = storage.read(path)
    storage.write(path, arrays, record | {"format": float("inf")})
    with pytest.raises(mv.MiniVAEError, match="its record cannot be read"):
        mv.load(path)
