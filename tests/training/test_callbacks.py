"""What `fit` calls after each epoch: what it is told, what it may do, and what comes with minivae."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import minivae as mv
from minivae.training.callbacks import loss_formula


def make(**options):
    return mv.VAE([mv.Dense(8, 6), mv.ReLU(), mv.Dense(6, 4)], [mv.Dense(2, 6), mv.Tanh(), mv.Dense(6, 8)], **options)


def data(n=40, seed=0):
    return np.random.default_rng(seed).random((n, 8), np.float32)


def fit(vae, **options):
    return mv.fit(vae, data(), **{"epochs": 3, "batch_size": 10} | options)


# --------------------------------------------------------------------------------------------- the contract


def test_a_callback_gets_the_run():
    seen, vae = [], make()
    history = fit(vae, callbacks=[lambda run: seen.append((run, run.epoch, run.epochs, len(run.history)))])
    assert [each[1:] for each in seen] == [(1, 3, 1), (2, 3, 2), (3, 3, 3)]
    run = seen[0][0]
    assert run.vae is vae and run.history is history and run is seen[2][0]


def test_a_callback_can_stop_the_training():
    """After the epoch in which it says so, whose other callbacks are still called."""
    seen = []

    def stop(run):
        if run.epoch == 2:
            run.stop()

    vae, same = make(), make()
    assert len(fit(vae, epochs=9, callbacks=[stop, lambda run: seen.append(run.epoch)])) == 2
    fit(same, epochs=2)
    assert seen == [1, 2]
    np.testing.assert_array_equal(vae.parameters.flat, same.parameters.flat)


def test_an_object_may_look_at_the_beginning_and_the_end():
    class Diary(list):
        def begin(self, run):
            self.append(("begin", run.epoch))

        def __call__(self, run):
            self.append(run.epoch)

        def end(self, run):
            self.append(("end", run.epoch))

    diary = Diary()
    fit(make(), callbacks=[diary])
    assert diary == [("begin", 0), 1, 2, 3, ("end", 3)]


def test_one_function_does_for_a_list(capsys):
    history = fit(make(), epochs=2, validation=data(8, 1), callbacks=print)
    losses = [f"train_loss {row['train_loss']:.3f}, val_loss {row['val_loss']:.3f}" for row in history]
    assert capsys.readouterr().out.splitlines() == [f"epoch 1/2, {losses[0]}", f"epoch 2/2, {losses[1]}"]


# ------------------------------------------------------------------------------------------- early stopping


def test_patience_is_short_for_early_stopping(tmp_path):
    """In memory as in a checkpoint, where it is part of what must be the same; one object serves many trainings."""
    options = {"validation": data(20, 1), "epochs": 50, "optimizer": mv.SGD(1e-2)}
    options |= {"schedules": {"lr": lambda epoch: 1e-2 if epoch <= 5 else 2.0}}
    short, stopping, results = make(), mv.EarlyStopping(3), []
    history = fit(short, patience=3, checkpoint=tmp_path / "checkpoint.npz", **options)
    assert history.best_epoch == 5 and len(history) == 8
    for checkpoint in None, mv.Checkpoint(tmp_path / "checkpoint.npz", resume=True):
        vae = make()
        results.append(fit(vae, callbacks=[stopping], checkpoint=checkpoint, **options))
        np.testing.assert_array_equal(vae.parameters.flat, short.parameters.flat)
    for again in results:
        assert again["val_loss"] == history["val_loss"] and again.best_epoch == history.best_epoch
    with pytest.raises(mv.MiniVAEError, match="patience is 3 there and 4 here"):
        fit(make(), callbacks=[mv.EarlyStopping(4)], checkpoint=checkpoint, **options)


def test_early_stopping_looks_at_the_validation_loss():
    """Not at a part of it, nor at the loss of training: only the second epoch has the lowest loss of validation."""
    vae, history = make(), mv.History()
    run = SimpleNamespace(vae=vae, history=history, kept={}, epoch=0, stop=lambda: stopped.append(run.epoch))
    stopping, stopped, weights = mv.EarlyStopping(2), [], []
    stopping.begin(run)
    rows = [(5.0, 3.0, 2.0), (4.0, 3.5, 0.5), (4.5, 2.0, 2.5), (4.1, 1.0, 3.1)]
    for run.epoch, (loss, reconstruction, kl) in enumerate(rows, 1):
        history.append({"train_loss": -run.epoch, "val_loss": loss, "val_reconstruction": reconstruction, "val_kl": kl})
        vae.parameters.flat.fill(run.epoch)
        weights.append(vae.parameters.flat.copy())
        stopping(run)
    stopping.end(run)
    assert stopped == [4] and history.best_epoch == 2
    np.testing.assert_array_equal(vae.parameters.flat, weights[1])


def test_early_stopping_needs_validation_data():
    with pytest.raises(mv.MiniVAEError, match="patience needs validation data"):
        fit(make(), callbacks=[mv.EarlyStopping(3)])


# ---------------------------------------------------------------------------------------------- the CSV file


def test_the_csv_file_is_whole_after_each_epoch(tmp_path):
    path, lengths = tmp_path / "metrics.csv", []
    callbacks = [mv.CSVWriter(path, "test"), lambda run: lengths.append(len(path.read_text().splitlines()))]
    history = fit(make(), validation=data(8, 1), callbacks=callbacks)
    assert lengths == [2, 3, 4]
    history.save_csv(tmp_path / "expected.csv", "test")
    assert path.read_bytes() == (tmp_path / "expected.csv").read_bytes()


def test_the_csv_file_of_a_resumed_training_has_all_epochs(tmp_path):
    """Also where that had ended already."""
    path, checkpoint = tmp_path / "metrics.csv", mv.Checkpoint(tmp_path / "checkpoint.npz", resume=True)
    for epochs in 2, 4, 4:
        path.unlink(missing_ok=True)
        fit(make(), epochs=epochs, callbacks=mv.CSVWriter(path), checkpoint=checkpoint)
        assert [line.split(",")[0] for line in path.read_text().splitlines()[1:]] == [*map(str, range(1, epochs + 1))]


# ------------------------------------------------------------------------------------------- a line an epoch


def printed(capsys, vae, **options):
    history = fit(vae, **options)
    return capsys.readouterr().out.splitlines(), history


def test_nothing_is_printed_unless_asked_for(capsys):
    assert printed(capsys, make())[0] == []


def test_each_epoch_is_a_row_under_what_the_loss_is_made_of(capsys):
    lines, history = printed(capsys, make(), validation=data(8, 1), verbose=True)
    assert lines[0] == "loss = reconstruction + KL, in nats per example"
    assert lines[1].split() == "epoch seconds train loss reconstr. KL val loss reconstr. KL".split()
    assert len(lines) == 5 and max(map(len, lines)) <= 79
    for line, row in zip(lines[2:], history, strict=True):
        losses = [row[f"{part}_{name}"] for part in ("train", "val") for name in ("loss", "reconstruction", "kl")]
        columns = [f"{value:.3f}" for value in losses]
        assert line.split() == [f"{row['epoch']}/3", f"{row['seconds']:.2f}", *columns]
    printer = mv.EpochPrinter("test")
    for _ in range(2):
        again, _ = printed(capsys, make(), callbacks=printer, validation=data(8, 1))
        assert again[1].split()[6:] == "test loss reconstr. KL".split()


def test_a_beta_has_its_own_column_until_it_is_1(capsys):
    lines, _ = printed(capsys, make(), verbose=True, schedules={"beta": mv.linear_warmup(2)})
    assert lines[0] == "loss = reconstruction + beta KL, in nats per example" and lines[1].split()[-1] == "beta"
    assert lines[2].split()[-1] == "0.5"
    assert lines[3] == "loss = reconstruction + KL, in nats per example" and "beta" not in lines[4]
    assert [line.split()[0] for line in lines[5:]] == ["2/3", "3/3"]


def test_rows_stay_under_their_titles_however_many_epochs(capsys):
    lines, _ = printed(capsys, make(), epochs=1000, verbose=True, callbacks=lambda run: run.epoch == 10 and run.stop())
    assert len(lines) == 12 and {len(line) for line in lines[1:]} == {len(lines[1])}


def test_rows_stay_under_their_titles_to_the_last_epoch(capsys):
    lines, _ = printed(capsys, make(), epochs=100, batch_size=40, verbose=True)
    assert len(lines) == 102 and {len(line) for line in lines[1:]} == {len(lines[1])}


def test_a_gaussian_with_its_constants_leaves_nothing_out():
    assert loss_formula(make(likelihood=mv.Gaussian())) == loss_formula(make())


def test_the_printed_parts_add_up_as_the_formula_says(capsys):
    lines, _ = printed(capsys, make(beta=0.1), verbose=True)
    loss, reconstruction, kl, beta = map(float, lines[-1].split()[2:])
    assert loss == pytest.approx(reconstruction + beta * kl, abs=0.002)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"bound": mv.ImportanceWeighted()}, "minus the ImportanceWeighted bound of 1 sample, .* do not add up to it"),
        ({"free_bits": 0.5}, "reconstruction . KL, .* each dimension counts as at least 0.5 nats"),
        ({"regulariser": mv.MMD()}, "reconstruction . KL, .* in training MMD is added for the codes of each batch"),
        ({"likelihood": mv.Gaussian(constants=False)}, "reconstruction . KL, .*leaves out the Gaussian's constants"),
    ],
)
def test_other_losses_are_called_what_they_are(options, words):
    assert re.search(words, loss_formula(make(**options)).replace("\n", " "))


def test_what_is_trained_otherwise_than_evaluated_is_told():
    vae = mv.mlp(8, latent=4, posterior=mv.GumbelSoftmax(2))
    assert loss_formula(vae).endswith("GumbelSoftmax trains otherwise than it is evaluated: see its docstring")


def test_the_head_says_how_many_samples_a_bound_has(capsys):
    options = {"validation": data(8, 1), "samples": 5, "verbose": True}
    lines, _ = printed(capsys, make(bound=mv.ImportanceWeighted()), **options)
    assert lines[0] == "loss = minus the ImportanceWeighted bound of 5 samples, in nats per example"
    assert lines[1].startswith("reconstruction and KL")
    lines, _ = printed(capsys, make(bound=mv.ImportanceWeighted()), val_samples=1, **options)
    assert lines[1] == "validation takes 1 sample: its loss is another bound"


# ------------------------------------------------------------------------------------------------ a terminal

PROGRAM = """
import numpy as np
import minivae as mv
vae = mv.VAE([mv.Dense(8, 4)], [mv.Dense(2, 8)])
mv.fit(vae, np.full((3000, 8), 0.5, np.float32), epochs=3, batch_size=10, verbose=True, callbacks=print)
print("end")
"""


def screen(text, width):
    """The lines that a terminal of this width shows after the characters: carriage returns and line feeds only."""
    lines, column = [[]], 0
    for character in text:
        if character == "\r":
            column = 0
        elif character == "\n":
            lines.append([])
        else:
            if column == width:
                lines.append([])
                column = 0
            lines[-1][column : column + 1] = [character]
            column += 1
    return ["".join(line).rstrip() for line in lines]


@pytest.mark.parametrize("width", [80, 160])
def test_the_bar_and_what_is_printed_do_not_mix_on_a_terminal(width):
    main, terminal = pty.openpty()
    fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("4H", 24, width, 0, 0))
    environment = os.environ | {"PYTHONPATH": str(Path(mv.__file__).parent.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    text = b""
    while True:
        try:
            text += os.read(main, 1 << 16)
        except OSError:  # the terminal's other end is closed
            break
    os.close(main)
    assert process.wait() == 0 and b"/900 [" in text
    lines = screen(text.decode(), width)
    assert not any("step/s" in line or "|" in line for line in lines)
    words = [line.split()[0] for line in lines if line]
    assert words == ["epoch", "loss", "epoch", "1/3", "epoch", "2/3", "epoch", "3/3", "end"]
