"""`fit`: the epochs of a training, with validation, schedules, callbacks, checkpoints and a progress bar."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments import array, at_least, flag, integer, number, one_of
from ..arguments import path as check_path
from ..arguments import seed as check_seed
from ..errors import Interrupted, MiniVAEError, named, shown
from ..files import MAX_BYTES
from ..locks import locked
from ..model.binarization import binarize as draw_pixels
from ..model.binarization import check_grey
from ..model.optimizers import ClipNorm, Optimizer, RMSprop
from ..model.vae import VAE, check_vae
from ..parallel import Ranks, check_ranks
from ..progress import progress_bar
from ..randomness import drawn_share
from ..storage import checkpoint as storage
from . import nonfinite
from .callbacks import EarlyStopping, EpochPrinter, Run
from .history import History
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

# What `binarize` may be, and how a checkpoint names it: as when there were two of them.
PROTOCOLS = {"grey": False, "dynamic": True, "static": "static"}
STATIC_SEED = 1  # validation data are drawn with 0, so that no row shares its noise with one of them


@dataclass(frozen=True)
class Checkpoint:
    """Where a training is kept after each epoch.

    path   : a file; what was there is renamed to (path).previous, or (path).previous-2 and so on where there is one,
             unless it is taken up. The file (path).lock keeps other trainings away from it meanwhile
    resume : go on from `path`, if it is there; model, data and arguments of `fit` must be the same, but for `epochs`.
             The result is the same, bit for bit, as without the interruption
    max_bytes : of memory that what is in the file may take when it is taken up
    """

    path: str | os.PathLike
    resume: bool = False
    max_bytes: int = MAX_BYTES

    def __post_init__(self):
        check_path("Checkpoint: path", self.path)
        flag("Checkpoint: resume", self.resume)
        integer("Checkpoint: max_bytes", self.max_bytes)


def fit(
    vae: VAE,
    x_train: np.ndarray | tuple[np.ndarray, np.ndarray],
    validation: np.ndarray | tuple[np.ndarray, np.ndarray] | float | None = None,
    *,
    epochs: int = 10,
    batch_size: int = 100,
    optimizer: Optimizer | None = None,
    samples: int = 1,
    val_samples: int | None = None,
    binarize: str | bool = "grey",
    seed: int | None = None,
    patience: int | None = None,
    schedules: Mapping[str, Callable[[int], float]] | None = None,
    checkpoint: str | os.PathLike | Checkpoint | None = None,
    callbacks: Callable[[Run], None] | Sequence[Callable[[Run], None]] = (),
    verbose: bool = False,
    progress: bool | None = None,
    parallel: Ranks | None = None,
    **others: Any,
) -> History:
    """Train a VAE by stochastic gradient descent on its loss, and return the History.

    x_train    : (N, X) or (N, ...), uint8 pixels or numbers; it may be a memory map, and is not copied on processors.
                 For a model with n_classes a pair (x, y) with the labels (N,)
    validation : data like x_train, or a share such as 0.1 of x_train, drawn at random, that is then not trained on;
                 looked at after each epoch
    epochs     : how many, of this training in all: one that is resumed has fewer left
    batch_size : the examples in a step; where there are fewer, all of them
    optimizer  : RMSprop(1e-3) by default; it starts with fresh state
    samples    : L, the draws of z for each example in a step
    val_samples: the draws of z for each example in validation; None takes `samples`, so that the losses of training
                 and of validation are the same bound
    binarize   : the protocol of pixels. "grey" (or False): as they are. "dynamic" (or True): each training pixel is 0
                 or 1 with probability x (or x / 255), drawn anew in every epoch. "static": drawn once, as
                 `mv.binarize(x_train, seed=1)` does; it stands for Larochelle's file of binarized digits, which is
                 another draw. Validation data are then drawn once, as `mv.binarize` does. Losses of different
                 protocols cannot be compared
    seed       : keys shuffling and noise, together with `vae.epochs`, for how many epochs the model has been trained:
                 many trainings of one epoch see other orders and noise each, as one of many does. None takes the
                 model's seed
    patience   : end when the validation loss has not fallen for so many epochs, and take the weights of the best one:
                 short for callbacks=[EarlyStopping(patience)]
    schedules  : {"beta": f, "lr": g} or one of them, functions of the epoch, from 1; see `linear_warmup`
    checkpoint : a path, or a Checkpoint, to keep all in after each epoch
    callbacks  : functions called after each epoch with the Run, which has the model, the epoch and the history and can
                 `stop()`; such as EarlyStopping, CSVWriter, EpochPrinter, or one function by itself
    verbose    : whether to print a line for each epoch: short for callbacks=[EpochPrinter()]
    progress   : whether to show a progress bar; None shows it on a terminal and in a notebook only
    parallel   : the ranks of `with minivae.parallel.mpi() as ranks:`, the processes that train this model together.
                 Each of them calls `fit` with the same arguments and ends with the same model and History. Callbacks
                 are called, checkpoints read and written on rank 0 only

    Ctrl-C, or a notebook's stop button, finishes the step and raises Interrupted, a KeyboardInterrupt: a script ends,
    and in a notebook the model has the weights of that step, `vae.history` the epochs that were finished. With a
    checkpoint all is kept there too. Pressed again, it does not wait for the step.

    Same model, seed and machine give the same History but for the seconds, bit for bit. Raises MiniVAEError for
    arguments and data that cannot be trained on, where the model is being trained already, and where a loss, also of
    validation, or a weight becomes NaN or infinite; the model then is as it was before that epoch. Other threads may
    use the model meanwhile, and see weights in the middle of a step.
    """
    for name in others:
        if name in OLD_SPELLINGS:
            raise MiniVAEError(f"fit: {name}= is now {OLD_SPELLINGS[name]}")
        raise TypeError(f"fit() got an unexpected keyword argument {name!r}")
    check_vae("fit: vae", vae)
    ranks = check_ranks("fit: parallel", parallel)
    of_batch = vae.posterior if vae.posterior.of_whole_batches else vae.regulariser
    if ranks.size > 1 and of_batch is not None:
        raise MiniVAEError(
            f"fit: {type(of_batch).__name__} depends on all codes of a batch, of which each process has a part: "
            "train in one process"
        )
    seed = vae.seed if seed is None else check_seed("fit: seed", seed)
    optimizer = RMSprop() if optimizer is None else optimizer
    if isinstance(checkpoint, (str, bytes, os.PathLike)):
        checkpoint = Checkpoint(checkpoint)
    schedules = {} if schedules is None else schedules
    protocol, verbose = _protocol(binarize), flag("fit: verbose", verbose)
    callbacks = _callbacks(callbacks, patience, verbose)
    patience = next((each.patience for each in callbacks if isinstance(each, EarlyStopping)), None)
    epochs, samples = integer("fit: epochs", epochs), integer("fit: samples", samples)
    batch_size = integer("fit: batch_size", batch_size)
    val_samples = samples if val_samples is None else integer("fit: val_samples", val_samples)
    x_train, y_train = _checked_pair(vae, x_train, ranks)
    rows, x_val, y_val = _validation_data(vae, x_train, y_train, validation, seed, ranks)
    _check_arguments(optimizer, patience, x_val, schedules, checkpoint)
    if ranks.rank:
        checkpoint, callbacks, progress = None, [], False
    batch_size = min(batch_size, len(rows))
    if protocol != "grey":
        check_grey(x_train)
        x_val = None if x_val is None else draw_pixels(x_val)
    if protocol == "static":
        x_train = draw_pixels(x_train, STATIC_SEED)
    with _alone(vae), _alone_with(checkpoint):
        settings = None
        if checkpoint:
            labels = {name: y for name, y in (("y_train", y_train), ("y_val", y_val)) if y is not None}
            settings = _settings(
                {"x_train": x_train, "x_val": x_val} | labels,
                batch_size=batch_size,
                samples=samples,
                val_samples=val_samples,
                seed=seed,
                beta=vae.beta,
                patience=patience,
                binarize=PROTOCOLS[protocol],
                clip_norm=optimizer.limit if isinstance(optimizer, ClipNorm) else None,
                optimizer=optimizer.optimizer if isinstance(optimizer, ClipNorm) else optimizer,
                validation_split=number(validation) if np.isscalar(validation) else None,
            )
        dynamic = protocol == "dynamic"
        training = Training(
            vae, optimizer, x_train, y_train, rows, batch_size, samples, dynamic, seed, settings, val_samples, ranks
        )
        resumed = checkpoint and training.take_up(checkpoint.path, checkpoint.resume, checkpoint.max_bytes)
        vae.history, run = training.history, Run(training, epochs)
        _call(callbacks, "begin", run)
        if checkpoint and not resumed:
            training.save(checkpoint.path)
        training.agree(*training.moving())

        bar = progress_bar(epochs * training.n_steps, "step", progress, training.steps_done())
        with bar, ctrl_c() as pressed:
            while not training.is_over(epochs):
                _run_epoch(training, schedules, bar, pressed, x_val, y_val)
                if not training.done:  # it has not been stopped in its middle
                    bar.clear()  # so that what is printed now stands on lines of its own
                    _call(callbacks, "__call__", run)
                    bar.set_postfix(loss=f"{training.history[-1]['train_loss']:.2f}")
                if checkpoint:
                    training.save(checkpoint.path)
                training.agree("parameters")
                if ranks.any(pressed()):
                    raise _interrupted(training, checkpoint)
        _call(callbacks, "end", run)
        training.agree("parameters")
    return training.history


def _alone_with(checkpoint):
    """Hold a checkpoint for one training; raises MiniVAEError where another one does, in whichever process."""
    if not checkpoint:
        return nullcontext()
    return locked(f"{os.path.realpath(checkpoint.path)}.lock", f"the checkpoint {checkpoint.path}")


@contextmanager
def _alone(vae):
    """Hold the model for one training; raises MiniVAEError where another one does, which would share its arrays."""
    if not vae.in_training.acquire(blocking=False):
        raise MiniVAEError(
            "fit: this model is being trained already, in another thread or by the fit that called this function: "
            "wait for it, or train a copy.deepcopy of the model"
        )
    try:
        yield
    finally:
        vae.in_training.release()


def _run_epoch(training, schedules, bar, pressed, x_val, y_val):
    """An epoch with its row in the history, or as much of it as there is until Ctrl-C is pressed.

    Raises MiniVAEError, with the model as it was before, where something is not finite or a schedule gives no number.
    """
    vae, beta = training.vae, training.vae.beta
    try:
        if "beta" in schedules:
            vae.beta = at_least("fit: beta of the schedule", schedules["beta"](training.epoch))
        if "lr" in schedules:
            training.lr = schedules["lr"](training.epoch)
        before = training.snapshot()
        totals = _run_steps(training, before, bar, pressed)
        if training.done == training.n_steps:
            _end_epoch(training, before, totals, x_val, y_val, schedules)
    except MiniVAEError:
        vae.beta = beta
        raise


def _run_steps(training, before, bar, pressed):
    """The steps of an epoch, or those until Ctrl-C is pressed, and the totals; raises where a step went wrong.

    before : the snapshot from which they start
    """
    start = time.perf_counter() - training.seconds
    # Overflow is looked for after the epoch, on every backend, and then explained; a warning would say less.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in training.steps():
            bar.update()
            if training.ranks.any(pressed()):
                break
        totals = training.finite_totals()
        if totals is None:
            raise nonfinite.explain(training, before)
    training.seconds = time.perf_counter() - start
    return totals


def _end_epoch(training, before, totals, x_val, y_val, schedules):
    """Validate and add a row to the history; where that is not finite, go back to the snapshot `before`."""
    vae, epoch = training.vae, training.epoch
    row = {"epoch": epoch, "seconds": training.seconds} | training.end_epoch(totals).as_columns("train")
    if x_val is not None:
        try:
            losses = vae.evaluate(x_val, training.val_samples, y=y_val, parallel=training.ranks)
            row |= losses.as_columns("val")
        except MiniVAEError as error:
            training.roll_back(before)
            raise MiniVAEError(
                f"validation after epoch {epoch}: {error}. The model is back where it was {training.where()}"
            ) from error
    row |= {name: value for name, value in (("beta", vae.beta), ("lr", training.lr)) if name in schedules}
    training.history.append(row)


def _call(callbacks, method, run):
    for callback in callbacks:
        if hasattr(callback, method):
            try:
                getattr(callback, method)(run)
            except BrokenPipeError:  # the reader of what it prints has gone, which is no fault
                raise
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


def _settings(data, **settings):
    """What must be the same where a training is resumed: the settings, and fingerprints of the data, by name."""
    settings |= {name: None if x is None else fingerprint(x) for name, x in data.items()}
    return {key: storage.describe(value) for key, value in settings.items()}


def _callbacks(callbacks, patience, verbose) -> list:
    """The callbacks as a list, with those that `patience` and `verbose` stand for."""
    callbacks = () if callbacks is None else [callbacks] if callable(callbacks) else callbacks
    if not isinstance(callbacks, (list, tuple)):
        raise MiniVAEError(f"fit: callbacks should be a list of functions of the run, got {shown(callbacks)}")
    for callback in callbacks:
        if not callable(callback) or isinstance(callback, type):
            raise MiniVAEError(
                "fit: callbacks should be functions of the run, or objects such as CSVWriter(path), got "
                + named(callback)
            )
    stopping = [] if patience is None else [EarlyStopping(patience)]
    printing = [EpochPrinter()] if verbose else []
    return [*stopping, *callbacks, *printing]


def _checked_pair(vae, data, ranks) -> tuple[np.ndarray, np.ndarray | None]:
    """x and its labels, or None, from x or a pair (x, y)."""
    x, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    x = vae.check_input(x, ranks)
    return x, vae.labels.check(y, len(x))


def _validation_data(vae, x_train, y_train, validation, seed, ranks):
    """The rows of x_train to train on, and the data to validate on with their labels, or None."""
    n = len(x_train)
    if validation is None:
        return np.arange(n), None, None
    if not np.isscalar(validation):
        shape = () if isinstance(validation, tuple) else array("fit: validation", validation).shape
        if shape[:1] == (n,) and math.prod(shape) != n * vae.input_dim:
            raise MiniVAEError(
                f"fit: validation is of shape {shape}, which looks like labels of x_train: a VAE learns without them. "
                "With n_classes they go beside the data, fit(vae, (x, y)); data to validate on must be like x_train"
            )
        return np.arange(n), *_checked_pair(vae, validation, ranks)
    val, train = drawn_share("fit: validation", validation, n, seed)
    return train, x_train[val], None if y_train is None else y_train[val]


def _protocol(binarize):
    """The name of what is done with pixels, for a name or a bool."""
    if isinstance(binarize, (bool, np.bool_)):
        return "dynamic" if binarize else "grey"
    return one_of("fit: binarize", binarize, PROTOCOLS)


def _check_arguments(optimizer, patience, x_val, schedules, checkpoint):
    if not isinstance(optimizer, Optimizer):
        raise MiniVAEError(f"fit: optimizer should be one such as Adam(1e-3), got {named(optimizer)}")
    if patience is not None and x_val is None:
        raise MiniVAEError("fit: patience needs validation data: give validation=, such as 0.1 of x_train")
    known = isinstance(schedules, dict) and schedules.keys() <= {"beta", "lr"}
    if not known or not all(map(callable, schedules.values())):
        raise MiniVAEError(
            'fit: schedules should be a dict of functions of the epoch, under "beta" or "lr", such as '
            f'{{"beta": linear_warmup(10)}}, got {shown(schedules)}'
        )
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        raise MiniVAEError(
            f"fit: checkpoint should be a path or Checkpoint(path, resume=True), got {shown(checkpoint)}"
        )


@contextmanager
def ctrl_c():
    """Yields a function that says whether Ctrl-C was pressed; pressed a second time, it interrupts at once.

    In a thread other than the main one, which gets no signals, and where C code handles it, which could not be given
    it back, Ctrl-C is left as it is.
    """
    pressed = []

    def handle(*_):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
