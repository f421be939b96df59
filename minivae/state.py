"""Where a training stands: taken back after a step went wrong, kept in a checkpoint, and taken up again from it."""

import os
import signal
import sys
import threading
import zlib
from contextlib import contextmanager

import numpy as np

from . import checkpoint
from .errors import MiniVAEError
from .files import remove_leftovers
from .nonfinite import read_if_finite


class TrainingState:
    """All that a training changes, of which some lies in arrays on the device and some in a few numbers.

    settings : what the course of the training depends on, as plain data; it must be the same when it goes on
    """

    def __init__(self, vae, optimizer, trainer, history, stopping, settings):
        self.vae, self.optimizer, self.trainer = vae, optimizer, trainer
        self.history, self.stopping = history, stopping
        self.settings = {key: checkpoint.describe(value) for key, value in settings.items()}
        self.arrays = {f"optimizer.{name}": array for name, array in optimizer.state.items()}
        self.arrays["totals"] = trainer.epoch.totals
        if stopping:
            self.arrays["best"] = stopping.weights

    def is_over(self, epochs):
        done = len(self.history)
        return done >= epochs or bool(self.stopping) and self.stopping.is_over(done)

    def steps(self):
        """How many steps have been done, in all epochs."""
        return len(self.history) * self.trainer.n_steps + self.trainer.done

    def where(self):
        """How far the training has come, in words."""
        if self.trainer.done:
            return f"in epoch {len(self.history) + 1} after step {self.trainer.done} of {self.trainer.n_steps}"
        return f"after epoch {len(self.history)}"

    # ------------------------------------------------------------------------------ in memory, within an epoch

    def moving(self):
        """What every step changes, by name."""
        return {f"parameter {name}": array for name, array in self.vae.parameters.items()} | self.arrays

    def totals(self):
        """The sums of losses so far as a NumPy array; None where a NaN or an infinity has turned up."""
        arrays = self.vae.parameters.flat, *self.arrays.values()
        return read_if_finite(self.vae.backend, self.trainer.epoch.totals, *arrays)

    def snapshot(self):
        return {name: array.copy() for name, array in self.moving().items()}, self.trainer.done

    def roll_back(self, snapshot):
        arrays, self.trainer.done = snapshot
        for name, array in self.moving().items():
            self.vae.xp.copyto(array, arrays[name])

    # ------------------------------------------------------------------------------------------------ on disk

    def begin(self, path, resume):
        """Take up the training that `path` holds, or make `path` hold this one before its first step."""
        remove_leftovers(path)
        if os.path.exists(path):
            if resume:
                self.load(path)
                return
            os.replace(path, f"{os.fspath(path)}.previous")
        elif resume:
            print(f"there is no checkpoint {path} yet: starting from the beginning", file=sys.stderr)
        self.save(path)

    def save(self, path):
        numbers = {
            "history": list(self.history),
            "done": self.trainer.done,
            "seconds": self.trainer.seconds,
            "beta": self.vae.beta,
            "lr": self.optimizer.lr,
        }
        if self.stopping:
            numbers["best"] = [self.stopping.best_epoch, self.stopping.best_loss, self.stopping.beta]
        arrays = {name: self.vae.backend.to_host(array) for name, array in self.arrays.items()}
        checkpoint.save(self.vae, path, arrays, settings=self.settings, training=numbers)

    def load(self, path):
        """Take up what `save` wrote; raises MiniVAEError, with nothing changed, where it is of another training."""
        arrays, record = checkpoint.read(path)
        if "training" not in record:
            raise MiniVAEError(f"{path} holds a model but no training: load it with minivae.load and train it anew")
        model = checkpoint.describe_model(self.vae)
        # beta may have been changed on the way; where it started is among the settings.
        _check_same(path, record["model"] | {"beta": model["beta"]}, model)
        _check_same(path, record["settings"], self.settings)
        self.vae.parameters.load(checkpoint.model_arrays(arrays))
        for name, array in checkpoint.extra_arrays(arrays).items():
            self.vae.backend.upload(array, out=self.arrays[name])
        numbers = record["training"]
        self.history[:] = numbers["history"]
        self.trainer.done, self.trainer.seconds = numbers["done"], numbers["seconds"]
        self.vae.beta, self.optimizer.lr = numbers["beta"], numbers["lr"]
        if self.stopping:
            self.stopping.best_epoch, self.stopping.best_loss, self.stopping.beta = numbers["best"]


def _check_same(path, saved, given):
    for key in sorted(saved.keys() | given.keys()):
        if saved.get(key) != given.get(key):
            raise MiniVAEError(
                f"{path} is of another training: {key} is {saved.get(key)} there and {given.get(key)} here. Resume "
                "with the same model, settings and data; to train its model on with others, pass minivae.load of it "
                "to fit, without resume and with another checkpoint"
            )


def fingerprint(x):
    """Plain data that tells one data set from another: its shape, its dtype, a checksum of rows all over it."""
    rows = x[:: max(1, len(x) // 1000)]
    return [list(x.shape), x.dtype.name, zlib.crc32(np.ascontiguousarray(rows))]


@contextmanager
def ctrl_c(hold):
    """Yields a function that says whether Ctrl-C was pressed; pressed a second time, it interrupts at once.

    hold : False, or a thread other than the main one, which gets no signals, leave Ctrl-C as it is
    """
    pressed = []

    def handle(*_):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    if not hold or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
