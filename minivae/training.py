"""`fit`: epochs, shuffling, noise, history and a progress bar around one training step."""

import csv
import io
import math
import sys
import time

import numpy as np

from . import nonfinite
from .backend import generator
from .binarization import binarize as draw_pixels
from .binarization import check_grey, thresholds
from .errors import Interrupted, MiniVAEError
from .files import atomic_write
from .optimizers import ClipNorm, Optimizer, RMSprop
from .state import TrainingState, ctrl_c, fingerprint
from .stopping import EarlyStopping
from .vae import FIT_BINARIZATION, FIT_NOISE, SHUFFLE, SPLIT, Losses

NOISE_VALUES = 1 << 20  # how many values of noise lie on the device at a time, at most


class History(list):
    """One dict per epoch: epoch, seconds, train_loss, train_reconstruction, train_kl, and val_... alike.

    `history["train_loss"]` is a column as a list. Losses are nats per example; seconds are those of the epoch's
    training, without validation. `best_epoch` is the one whose weights early stopping kept, else None.
    """

    best_epoch = None

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    def save_csv(self, path, validation="val"):
        """Write the table as CSV; `validation` names the validation columns, for example "test"."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        if self:
            writer.writerow(name.replace("val_", validation + "_") for name in self[0])
        writer.writerows(row.values() for row in self)
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())


class Epoch:
    """What lies on the device during an epoch and is the same for every step: data, order, position, sums."""

    def __init__(self, vae, data, y, n_rows):
        backend, xp = vae.backend, vae.xp
        self.data = backend.asarray(data)
        self.y = vae.labels.one_hot(y)
        self.permutation = backend.asarray(np.arange(n_rows))
        self.cursor = xp.zeros(1, self.permutation.dtype)  # how many examples of the permutation are done
        self.totals = xp.zeros(3, "float64")  # sums over these examples of loss, reconstruction, KL


class Noise:
    """A block of noise on the device, one row for each step to come; `now` is the current one, in its shape."""

    def __init__(self, backend, shape, dtype):
        self.backend = backend
        n_values = math.prod(shape)
        self.block = backend.empty((max(1, NOISE_VALUES // n_values), n_values), dtype)
        self._row = backend.empty((1, n_values), dtype)
        self.now = self._row.reshape(shape)

    def refill(self, n_steps, draw):
        """New rows for n_steps steps; draw(shape) gives them as a NumPy array."""
        rows = draw((n_steps, self.block.shape[1])).astype(self.block.dtype, copy=False)
        self.backend.upload(rows, out=self.block[:n_steps])

    def move_to(self, row):
        """Make row number `row`, an array (1,) on the device, the current one."""
        self.backend.gather(self.block, row, out=self._row)


def advance(xp, *, cursor, noise_row, batch_size):
    """cursor += batch_size and noise_row += 1;  both (1,), integers."""
    xp.add(cursor, batch_size, out=cursor)
    xp.add(noise_row, 1, out=noise_row)


def white_pixels(xp, pixels, thresholds, *, white, x):
    """white = pixels > thresholds, and x the same as zeros and ones;  all (B, X), the last two overwritten."""
    xp.greater(pixels, thresholds, out=white)
    xp.copyto(x, white)


class Step:
    """One optimizer step on one batch: gather, noise, passes, update, sums.

    Everything that changes from one step to the next lies in arrays on the device, so that `launch()` may be
    this code or a graph that was captured from it.
    """

    def __init__(self, vae, optimizer, epoch, batch_size, samples, binarize=False):
        backend, xp = vae.backend, vae.xp
        self.vae, self.optimizer, self.epoch, self.batch_size = vae, optimizer, epoch, batch_size
        index_dtype = epoch.permutation.dtype
        self.offsets = backend.asarray(np.arange(batch_size, dtype=index_dtype))
        self.positions, self.index = xp.empty_like(self.offsets), xp.empty_like(self.offsets)
        self.rows = backend.empty((batch_size, vae.input_dim), epoch.data.dtype)
        self.x = backend.empty((batch_size, vae.input_dim), vae.dtype)
        self.y = None if epoch.y is None else backend.empty((batch_size, epoch.y.shape[1]), vae.dtype)
        self.noise_row = xp.zeros(1, index_dtype)
        self.noise = Noise(backend, (samples, batch_size, vae.latent_dim), vae.dtype)
        self.eps = self.noise.now
        self.thresholds = None
        if binarize:
            dtype = np.uint8 if self.rows.dtype == np.uint8 else np.float32
            self.thresholds = Noise(backend, self.rows.shape, dtype)
            self.white = backend.empty(self.rows.shape, bool)
        self.sums = xp.empty(3, vae.dtype)
        parts = [inner for part in (*vae.modules.values(), optimizer) for inner in part.everything()]
        self.launch = backend.graph(self.run, parts)

    def refill(self, rng, n_steps, pixel_rng=None):
        """New noise for up to n_steps steps, eps from `rng`, thresholds from `pixel_rng`; returns for how many."""
        n_steps = min(n_steps, len(self.noise.block))
        if self.thresholds:
            n_steps = min(n_steps, len(self.thresholds.block))
            self.thresholds.refill(n_steps, lambda shape: thresholds(pixel_rng, shape, self.rows.dtype))
        self.noise.refill(n_steps, lambda shape: rng.standard_normal(shape, np.float32))
        self.noise_row.fill(0)
        return n_steps

    def run(self):
        vae, epoch, xp, backend = self.vae, self.epoch, self.vae.xp, self.vae.backend
        gather, fuse = backend.gather, backend.fuse
        xp.add(self.offsets, epoch.cursor, out=self.positions)
        gather(epoch.permutation, self.positions, out=self.index)
        gather(epoch.data, self.index, out=self.rows)
        if self.y is not None:
            gather(epoch.y, self.index, out=self.y)
        if self.thresholds:
            self.thresholds.move_to(self.noise_row)
            fuse(white_pixels)(xp, self.rows, self.thresholds.now, white=self.white, x=self.x)
        else:
            vae.to_unit(self.rows, x=self.x)
        self.noise.move_to(self.noise_row)
        terms = vae.losses_and_gradients(self.x, self.eps, self.y)
        self.optimizer.step()
        xp.sum(terms, axis=1, out=self.sums)
        xp.add(epoch.totals, self.sums, out=epoch.totals)
        fuse(advance)(xp, cursor=epoch.cursor, noise_row=self.noise_row, batch_size=self.batch_size)


class Trainer:
    """The steps of one epoch, full batches and perhaps a short last one, over the given rows of the data."""

    def __init__(self, vae, optimizer, x, batch_size, samples, seed, rows=None, binarize=False, y=None):
        self.vae, self.seed = vae, seed
        self.rows = np.arange(len(x)) if rows is None else rows
        self.epoch = Epoch(vae, x, y, len(self.rows))
        n_full, n_rest = divmod(len(self.rows), batch_size)
        self.parts = [(Step(vae, optimizer, self.epoch, batch_size, samples, binarize), n_full)]
        if n_rest:
            self.parts.append((Step(vae, optimizer, self.epoch, n_rest, samples, binarize), 1))
        self.batch_size, self.n_steps = batch_size, sum(n for _, n in self.parts)
        self.done, self.seconds = 0, 0.0  # of the present epoch

    def steps(self, number):
        """Run the steps of an epoch, given by its number, that are not done yet; yields after each."""
        epoch = self.epoch
        order = generator(self.seed, SHUFFLE, number).permutation(self.rows)
        self.vae.backend.upload(order, out=epoch.permutation)
        epoch.cursor.fill(self.done * self.batch_size)
        if not self.done:
            epoch.totals.fill(0)
        rng, pixel_rng = (generator(self.seed, purpose, number) for purpose in (FIT_NOISE, FIT_BINARIZATION))
        skip = self.done  # what these steps drew is drawn again, so that the others get what is theirs
        for step, left in self.parts:
            while left:
                ready = step.refill(rng, left, pixel_rng)
                left -= ready
                passed = min(skip, ready)
                skip -= passed
                step.noise_row.fill(passed)
                for _ in range(ready - passed):
                    step.launch()
                    self.done += 1
                    yield

    def finish(self, totals):
        """End the epoch, whose totals are a NumPy array by now; returns the Losses averaged over its examples.

        Each example's are those before its own update.
        """
        losses = Losses(*(totals / len(self.rows)).tolist())
        self.done, self.seconds = 0, 0.0
        return losses


def fit(
    vae,
    x_train,
    x_val=None,
    *,
    epochs=10,
    batch_size=100,
    optimizer=None,
    samples=1,
    binarize=False,
    seed=None,
    validation_split=None,
    patience=None,
    beta_schedule=None,
    lr_schedule=None,
    clip_norm=None,
    checkpoint=None,
    resume=False,
    callbacks=(),
    progress=None,
    y_train=None,
    y_val=None,
):
    """Train a VAE by stochastic gradient descent on its loss, and return the History.

    x_train, x_val   : (N, X) or (N, ...), uint8 pixels or numbers; x_train may be a memory map, and is not copied
                       on the NumPy backend
    optimizer        : RMSprop(1e-3) by default; it starts with fresh state
    samples          : L, the draws of z for each example in a step
    binarize         : draw each training pixel as 0 or 1 with probability x (or x / 255), anew in every epoch;
                       validation data are drawn once, as `mv.binarize` does
    seed             : keys shuffling and noise together with the epoch; None takes the model's
    validation_split : the share of x_train, drawn at random, to validate on instead of an x_val
    patience         : end when the validation loss has not fallen for so many epochs; in any case the model then
                       has the weights of the best epoch, `history.best_epoch`
    beta_schedule    : a function of the epoch, from 1, that gives beta; see `linear_warmup`
    lr_schedule      : a function of the epoch, from 1, that gives the learning rate
    clip_norm        : scale down gradients whose norm over all parameters is larger than this
    checkpoint       : a path where all is kept after each epoch; what was there is renamed to (path).previous
    resume           : go on from `checkpoint`, if it is there; model, data and arguments must be the same, but for
                       `epochs`. The result is the same, bit for bit, as without the interruption
    callbacks        : functions called after each epoch with the History so far
    progress         : whether to show a progress bar; None shows it on a terminal only
    y_train, y_val   : the labels (N,) of x_train and x_val, for a model with n_classes

    With a checkpoint, Ctrl-C finishes the step, keeps all, and raises Interrupted, a KeyboardInterrupt.
    Same seed and machine give the same History but for the seconds, bit for bit. Raises MiniVAEError for
    arguments and data that cannot be trained on, and where a loss, gradient or weight becomes NaN or infinite;
    the model then is as it was before that epoch.
    """
    from tqdm import tqdm

    seed = vae.seed if seed is None else seed
    optimizer = RMSprop() if optimizer is None else optimizer
    x_train = vae.check_input(x_train)
    y_train = vae.labels.check(y_train, len(x_train))
    rows, x_val, y_val = _validation_data(vae, x_train, x_val, validation_split, seed, y_train, y_val)
    _check_arguments(len(rows), epochs, batch_size, samples, optimizer, patience, x_val, checkpoint, resume)
    if binarize:
        check_grey(x_train)
        x_val = None if x_val is None else draw_pixels(x_val)
    settings = {
        **{"batch_size": batch_size, "samples": samples, "seed": seed, "beta": vae.beta, "patience": patience},
        **{"binarize": binarize, "clip_norm": clip_norm, "optimizer": optimizer, "validation_split": validation_split},
        **{"x_train": fingerprint(x_train), "x_val": None if x_val is None else fingerprint(x_val)},
        **{name: fingerprint(y) for name, y in (("y_train", y_train), ("y_val", y_val)) if y is not None},
    }
    optimizer = optimizer if clip_norm is None else ClipNorm(optimizer, clip_norm)
    optimizer.attach(vae.parameters, vae.gradients)
    trainer = Trainer(vae, optimizer, x_train, batch_size, samples, seed, rows, binarize, y_train)
    state = TrainingState(vae, optimizer, trainer, History(), patience and EarlyStopping(vae, patience), settings)
    if checkpoint is not None:
        state.begin(checkpoint, resume)

    hidden = not (sys.stderr.isatty() if progress is None else progress)
    bar = tqdm(total=epochs * trainer.n_steps, initial=state.steps(), unit="step", disable=hidden, leave=False)
    with bar, ctrl_c(checkpoint is not None) as pressed:
        while not state.is_over(epochs):
            number = len(state.history) + 1
            if beta_schedule is not None:
                vae.beta = beta_schedule(number)
            if lr_schedule is not None:
                optimizer.lr = lr_schedule(number)
            totals = _run_steps(state, number, bar, pressed)
            if trainer.done == trainer.n_steps:
                _end_epoch(state, totals, x_val, y_val, callbacks)
                bar.set_postfix(loss=f"{state.history[-1]['train_loss']:.2f}")
            if checkpoint is not None:
                state.save(checkpoint)
            if pressed():
                raise Interrupted(f"stopped {state.where()}; all is kept in {checkpoint}, from which resume goes on")
    if state.stopping:
        state.stopping.restore_best()
        state.history.best_epoch = state.stopping.best_epoch
    return state.history


def _run_steps(state, number, bar, pressed):
    """The steps of an epoch, or those until Ctrl-C is pressed, and the totals; raises where a step went wrong."""
    trainer, before = state.trainer, state.snapshot()
    start = time.perf_counter() - trainer.seconds
    # Overflow is looked for after the epoch, on either backend, and then explained; a warning would say less.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for _ in trainer.steps(number):
            bar.update()
            if pressed():
                break
        totals = state.totals()
        if totals is None:
            raise nonfinite.explain(state, before)
    trainer.seconds = time.perf_counter() - start
    return totals


def _end_epoch(state, totals, x_val, y_val, callbacks):
    """Validate and add a row to the history."""
    vae, history, trainer, number = state.vae, state.history, state.trainer, len(state.history) + 1
    row = {"epoch": number, "seconds": trainer.seconds} | trainer.finish(totals).as_columns("train")
    if x_val is not None:
        try:
            row |= vae.evaluate(x_val, y=y_val).as_columns("val")
        except MiniVAEError as error:
            raise MiniVAEError(f"validation after epoch {number}: {error}") from error
    history.append(row)
    if state.stopping:
        state.stopping.update(number, row["val_loss"])
    for callback in callbacks:
        callback(history)


def _validation_data(vae, x_train, x_val, share, seed, y_train, y_val):
    """The rows of x_train to train on, and the data to validate on with their labels, or None."""
    n = len(x_train)
    if share is None:
        if x_val is None:
            return np.arange(n), None, None
        return np.arange(n), vae.check_input(x_val), vae.labels.check(y_val, len(x_val))
    if x_val is not None or y_val is not None:
        raise MiniVAEError("fit: give x_val or validation_split, not both")
    n_val = round(share * n) if 0 < share < 1 else 0
    if not 0 < n_val < n:
        raise MiniVAEError(f"fit: validation_split={share!r} should leave some of the {n} examples on either side")
    order = generator(seed, SPLIT).permutation(n)
    val = np.sort(order[:n_val])
    return np.sort(order[n_val:]), x_train[val], None if y_train is None else y_train[val]


def _check_arguments(n_rows, epochs, batch_size, samples, optimizer, patience, x_val, checkpoint, resume):
    counts = {"epochs": epochs, "batch_size": batch_size, "samples": samples}
    for name, value in counts.items() if patience is None else (counts | {"patience": patience}).items():
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise MiniVAEError(f"fit: {name} should be an integer of at least 1, got {value!r}")
    if batch_size > n_rows:
        raise MiniVAEError(
            f"fit: batch_size={batch_size} is larger than the {n_rows} training examples: use at most {n_rows}"
        )
    if not isinstance(optimizer, Optimizer):
        raise MiniVAEError(f"fit: optimizer should be one such as Adam(1e-3), got {optimizer!r}")
    if patience is not None and x_val is None:
        raise MiniVAEError("fit: patience needs validation data: give x_val or validation_split")
    if resume and checkpoint is None:
        raise MiniVAEError("fit: resume=True needs checkpoint=, the path of what is to be resumed")
