"""`fit`: the epochs of a training, with validation, schedules, callbacks, checkpoints and a progress bar."""

import math
import os
import signal
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np

from ..errors import Interrupted, MiniVAEError, named
from ..locks import locked
from ..model.binarization import binarize as draw_pixels
from ..model.binarization import check_grey
from ..model.optimizers import ClipNorm, Optimizer, RMSprop
from ..progress import progress_bar
from ..randomness import SPLIT, generator
from ..storage import checkpoint as storage
from . import nonfinite
from .callbacks import EarlyStopping, EpochPrinter, Run
from .state import Training, fingerprint

# What arguments of version 0.1 are called now.
OLD_SPELLINGS = {
    "x_val": "validation=x_val",
    "validation_split": "validation=0.1, the share",
    "y_train": "a pair, fit(vae, (x_train, y_train), ...)",
    "y_val": "a pair, validation=(x_val, y_val)",
    "beta_schedule": 'schedules={"beta": ...}',
    "lr_schedule": 'schedules={"lr": ...}',
    "clip_norm": "optimizer=ClipNorm(Adam(1e-3), limit)",
    "resume": "checkpoint=Checkpoint(path, resume=True)",
}


@dataclass(frozen=True)
class Checkpoint:
    """Where a training is kept after each epoch.

    path   : a file; what was there is renamed to (path).previous, or (path).previous-2 and so on where there is one,
             unless it is taken up. The file (path).lock keeps other trainings away from it meanwhile
    resume : go on from `path`, if it is there; model, data and arguments of `fit` must be the same, but for `epochs`.
             The result is the same, bit for bit, as without the interruption
    """

    path: str | os.PathLike
    resume: bool = False


def fit(
    vae,
    x_train,
    validation=None,
    *,
    epochs=10,
    batch_size=100,
    optimizer=None,
    samples=1,
    binarize=False,
    seed=None,
    patience=None,
    schedules=None,
    checkpoint=None,
    callbacks=(),
    verbose=False,
    progress=None,
    **others,
):
    """Train a VAE by stochastic gradient descent on its loss, and return the History.

    x_train    : (N, X) or (N, ...), uint8 pixels or numbers; it may be a memory map, and is not copied on processors.
                 For a model with n_classes a pair (x, y) with the labels (N,)
    validation : data like x_train, or a share such as 0.1 of x_train, drawn at random, that is then not trained on;
                 looked at after each epoch with one draw of z for each example
    batch_size : the examples in a step; where there are fewer, all of them
    optimizer  : RMSprop(1e-3) by default; it starts with fresh state
    samples    : L, the draws of z for each example in a step
    binarize   : draw each training pixel as 0 or 1 with probability x (or x / 255), anew in every epoch; validation
                 data are drawn once, as `mv.binarize` does
    seed       : keys shuffling and noise together with the epoch; None takes the model's
    patience   : end when the validation loss has not fallen for so many epochs, and take the weights of the best one:
                 short for callbacks=[EarlyStopping(patience)]
    schedules  : {"beta": f, "lr": g} or one of them, functions of the epoch, from 1; see `linear_warmup`
    checkpoint : a path, or a Checkpoint, to keep all in after each epoch
    callbacks  : functions called after each epoch with the Run, which has the model, the epoch and the history and can
                 `stop()`; such as EarlyStopping, CSVWriter, EpochPrinter, or one function by itself
    verbose    : whether to print a line for each epoch: short for callbacks=[EpochPrinter()]
    progress   : whether to show a progress bar; None shows it on a terminal and in a notebook only

    Ctrl-C, or a notebook's stop button, finishes the step and raises Interrupted, a KeyboardInterrupt: a script ends,
    and in a notebook the model has the weights of that step, `vae.history` the epochs that were finished. With a
    checkpoint all is kept there too. Pressed again, it does not wait for the step.

    Same seed and machine give the same History but for the seconds, bit for bit. Raises MiniVAEError for arguments
    and data that cannot be trained on, and where a loss or a weight becomes NaN or infinite; the model then is as it
    was before that epoch.
    """
    for name in others:
        if name in OLD_SPELLINGS:
            raise MiniVAEError(f"fit: {name}= is now {OLD_SPELLINGS[name]}")
        raise TypeError(f"fit() got an unexpected keyword argument {name!r}")
    seed = vae.seed if seed is None else seed
    optimizer = RMSprop() if optimizer is None else optimizer
    if isinstance(checkpoint, (str, os.PathLike)):
        checkpoint = Checkpoint(checkpoint)
    schedules = schedules or {}
    callbacks = _callbacks(callbacks, patience, verbose)
    patience = next((each.patience for each in callbacks if isinstance(each, EarlyStopping)), None)
    x_train, y_train = _checked_pair(vae, x_train)
    rows, x_val, y_val = _validation_data(vae, x_train, y_train, validation, seed)
    _check_arguments(epochs, batch_size, samples, optimizer, patience, x_val, schedules, checkpoint)
    batch_size = min(batch_size, len(rows))
    if binarize:
        check_grey(x_train)
        x_val = None if x_val is None else draw_pixels(x_val)
    clipping = isinstance(optimizer, ClipNorm)
    settings = {
        **{"batch_size": batch_size, "samples": samples, "seed": seed, "beta": vae.beta, "patience": patience},
        **{"binarize": binarize, "clip_norm": optimizer.limit if clipping else None},
        **{"optimizer": optimizer.optimizer if clipping else optimizer},
        **{"validation_split": validation if isinstance(validation, float) else None},
        **{"x_train": fingerprint(x_train), "x_val": None if x_val is None else fingerprint(x_val)},
        **{name: fingerprint(y) for name, y in (("y_train", y_train), ("y_val", y_val)) if y is not None},
    }
    settings = {key: storage.describe(value) for key, value in settings.items()} if checkpoint else None
    training = Training(vae, optimizer, x_train, y_train, rows, batch_size, samples, binarize, seed, settings)
    with _alone_with(checkpoint):
        resumed = checkpoint and training.take_up(checkpoint.path, checkpoint.resume)
        vae.history, run = training.history, Run(training, epochs)
        _call(callbacks, "begin", run)
        if checkpoint and not resumed:
            training.save(checkpoint.path)

        bar = progress_bar(epochs * training.n_steps, "step", progress, training.steps_done())
        with bar, ctrl_c() as pressed:
            while not training.is_over(epochs):
                if "beta" in schedules:
                    vae.beta = schedules["beta"](training.epoch)
                if "lr" in schedules:
                    training.lr = schedules["lr"](training.epoch)
                totals = _run_steps(training, bar, pressed)
                if training.done == training.n_steps:
                    _end_epoch(training, totals, x_val, y_val)
                    bar.clear()  # so that what is printed now stands on lines of its own
                    _call(callbacks, "__call__", run)
                    bar.set_postfix(loss=f"{training.history[-1]['train_loss']:.2f}")
                if checkpoint:
                    training.save(checkpoint.path)
                if pressed():
                    raise _interrupted(training, checkpoint)
        _call(callbacks, "end", run)
    return training.history


def _alone_with(checkpoint):
    """Hold a checkpoint for one training; raises MiniVAEError where another one does, in whichever process."""
    if not checkpoint:
        return nullcontext()
    return locked(f"{os.path.realpath(checkpoint.path)}.lock", f"the checkpoint {checkpoint.path}")


def _run_steps(training, bar, pressed):
    """The steps of an epoch, or those until Ctrl-C is pressed, and the totals; raises where a step went wrong."""
    before = training.snapshot()
    start = time.perf_counter() - training.seconds
    # Overflow is looked for after the epoch, on every backend, and then explained; a warning would say less.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in training.steps():
            bar.update()
            if pressed():
                break
        totals = training.finite_totals()
        if totals is None:
            raise nonfinite.explain(training, before)
    training.seconds = time.perf_counter() - start
    return totals


def _end_epoch(training, totals, x_val, y_val):
    """Validate and add a row to the history."""
    vae, number = training.vae, training.epoch
    row = {"epoch": number, "seconds": training.seconds} | training.end_epoch(totals).as_columns("train")
    if x_val is not None:
        try:
            row |= vae.evaluate(x_val, y=y_val).as_columns("val")
        except MiniVAEError as error:
            raise MiniVAEError(f"validation after epoch {number}: {error}") from error
    training.history.append(row)


def _call(callbacks, method, run):
    for callback in callbacks:
        if hasattr(callback, method):
            try:
                getattr(callback, method)(run)
            except OSError as error:  # whose text names the path
                raise MiniVAEError(f"fit: the callback {_name(callback)} failed: {error}") from error


def _name(callback):
    return getattr(callback, "__name__", type(callback).__name__)


def _interrupted(training, checkpoint):
    where = f"stopped {training.where()}"
    if checkpoint:
        message = f"{where}; all is kept in {checkpoint.path}, from which Checkpoint(path, resume=True) goes on"
        return Interrupted(message, checkpoint.path)
    return Interrupted(f"{where}; the model has the weights of that step, vae.history the epochs that were finished")


# ------------------------------------------------------------------------------------------------- arguments


def _callbacks(callbacks, patience, verbose):
    """The callbacks as a list, with those that `patience` and `verbose` stand for."""
    callbacks = [callbacks] if callable(callbacks) else list(callbacks or ())
    for callback in callbacks:
        if not callable(callback) or isinstance(callback, type):
            raise MiniVAEError(
                "fit: callbacks should be functions of the run, or objects such as CSVWriter(path), got "
                + named(callback)
            )
    stopping = [] if patience is None else [EarlyStopping(patience)]
    return stopping + callbacks + [EpochPrinter()] * bool(verbose)


def _checked_pair(vae, data):
    """x and its labels, or None, from x or a pair (x, y)."""
    x, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    x = vae.check_input(x)
    return x, vae.labels.check(y, len(x))


def _validation_data(vae, x_train, y_train, validation, seed):
    """The rows of x_train to train on, and the data to validate on with their labels, or None."""
    n = len(x_train)
    if validation is None:
        return np.arange(n), None, None
    if not isinstance(validation, float):
        shape = () if isinstance(validation, tuple) else np.shape(validation)
        if shape[:1] == (n,) and math.prod(shape) != n * vae.input_dim:
            raise MiniVAEError(
                f"fit: validation is of shape {shape}, which looks like labels of x_train: a VAE learns without them. "
                "With n_classes they go beside the data, fit(vae, (x, y)); data to validate on must be like x_train"
            )
        return np.arange(n), *_checked_pair(vae, validation)
    n_val = round(validation * n) if 0 < validation < 1 else 0
    if not 0 < n_val < n:
        raise MiniVAEError(
            f"fit: validation={validation!r} should be a share that leaves some of the {n} examples on either side"
        )
    order = generator(seed, SPLIT).permutation(n)
    val = np.sort(order[:n_val])
    return np.sort(order[n_val:]), x_train[val], None if y_train is None else y_train[val]


def _check_arguments(epochs, batch_size, samples, optimizer, patience, x_val, schedules, checkpoint):
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("samples", samples)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise MiniVAEError(f"fit: {name} should be an integer of at least 1, got {value!r}")
    if not isinstance(optimizer, Optimizer):
        raise MiniVAEError(f"fit: optimizer should be one such as Adam(1e-3), got {named(optimizer)}")
    if patience is not None and x_val is None:
        raise MiniVAEError("fit: patience needs validation data: give validation=, such as 0.1 of x_train")
    known = isinstance(schedules, dict) and schedules.keys() <= {"beta", "lr"}
    if not known or not all(map(callable, schedules.values())):
        raise MiniVAEError(
            'fit: schedules should be a dict of functions of the epoch, under "beta" or "lr", such as '
            f'{{"beta": linear_warmup(10)}}, got {schedules!r}'
        )
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        raise MiniVAEError(f"fit: checkpoint should be a path or Checkpoint(path, resume=True), got {checkpoint!r}")


@contextmanager
def ctrl_c():
    """Yields a function that says whether Ctrl-C was pressed; pressed a second time, it interrupts at once.

    In a thread other than the main one, which gets no signals, Ctrl-C is left as it is.
    """
    pressed = []

    def handle(*_):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
