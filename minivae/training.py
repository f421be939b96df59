"""`fit`: epochs, shuffling, noise, history and a progress bar around one training step."""

import csv
import io
import sys
import time

import numpy as np

from .backend import generator
from .errors import MiniVAEError
from .files import atomic_write
from .optimizers import Optimizer, RMSprop
from .vae import FIT_NOISE, SHUFFLE, Losses

NOISE_VALUES = 1 << 20  # how many values of noise lie on the device at a time, at most


class History(list):
    """One dict per epoch: epoch, seconds, train_loss, train_reconstruction, train_kl, and val_... alike.

    `history["train_loss"]` is a column as a list. Losses are nats per example; seconds are those of the epoch's
    training, without validation.
    """

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

    def __init__(self, vae, data):
        backend, xp = vae.backend, vae.xp
        self.data = backend.asarray(data)
        self.permutation = backend.asarray(np.arange(len(data)))
        self.cursor = xp.zeros(1, self.permutation.dtype)  # how many examples of the permutation are done
        self.totals = xp.zeros(3, "float64")  # sums over these examples of loss, reconstruction, KL


class Step:
    """One optimizer step on one batch: gather, noise, passes, update, sums.

    Everything that changes from one step to the next lies in arrays on the device, so that `launch()` may be
    this code or a graph that was captured from it.
    """

    def __init__(self, vae, optimizer, epoch, batch_size, samples):
        backend, xp = vae.backend, vae.xp
        self.vae, self.optimizer, self.epoch, self.batch_size = vae, optimizer, epoch, batch_size
        index_dtype = epoch.permutation.dtype
        self.offsets = backend.asarray(np.arange(batch_size, dtype=index_dtype))
        self.positions, self.index = xp.empty_like(self.offsets), xp.empty_like(self.offsets)
        self.rows = xp.empty((batch_size, vae.input_dim), epoch.data.dtype)
        self.x = xp.empty((batch_size, vae.input_dim), vae.dtype)
        noise_shape = samples, batch_size, vae.latent_dim
        n_values = samples * batch_size * vae.latent_dim
        self.noise = xp.empty((max(1, NOISE_VALUES // n_values), n_values), vae.dtype)
        self.noise_row = xp.zeros(1, index_dtype)
        self.eps_row = xp.empty((1, n_values), vae.dtype)
        self.eps = self.eps_row.reshape(noise_shape)
        self.sums = xp.empty(3, vae.dtype)
        self.launch = backend.graph(self.run)

    def refill(self, rng, n_steps):
        """New noise for up to n_steps steps; returns for how many."""
        n_steps = min(n_steps, len(self.noise))
        noise = rng.standard_normal((n_steps, self.noise.shape[1]), np.float32)
        self.vae.backend.upload(noise.astype(self.vae.dtype, copy=False), out=self.noise[:n_steps])
        self.noise_row.fill(0)
        return n_steps

    def run(self):
        vae, epoch, xp, gather = self.vae, self.epoch, self.vae.xp, self.vae.backend.gather
        xp.add(self.offsets, epoch.cursor, out=self.positions)
        gather(epoch.permutation, self.positions, out=self.index)
        gather(epoch.data, self.index, out=self.rows)
        vae.to_unit(self.rows, x=self.x)
        gather(self.noise, self.noise_row, out=self.eps_row)
        terms = vae.losses_and_gradients(self.x, self.eps)
        self.optimizer.step()
        xp.sum(terms, axis=1, out=self.sums)
        xp.add(epoch.totals, self.sums, out=epoch.totals)
        xp.add(epoch.cursor, self.batch_size, out=epoch.cursor)
        xp.add(self.noise_row, 1, out=self.noise_row)


class Trainer:
    """The steps of one epoch, full batches and perhaps a short last one, over one set of training data."""

    def __init__(self, vae, optimizer, x, batch_size, samples, seed):
        self.vae, self.seed = vae, seed
        self.epoch = Epoch(vae, x)
        n_full, n_rest = divmod(len(x), batch_size)
        self.parts = [(Step(vae, optimizer, self.epoch, batch_size, samples), n_full)]
        if n_rest:
            self.parts.append((Step(vae, optimizer, self.epoch, n_rest, samples), 1))
        self.n_steps = sum(n for _, n in self.parts)

    def run_epoch(self, number, bar):
        """Train for one epoch; returns Losses averaged over its examples, each before its own update."""
        epoch, n_examples = self.epoch, len(self.epoch.data)
        order = generator(self.seed, SHUFFLE, number).permutation(n_examples)
        self.vae.backend.upload(order, out=epoch.permutation)
        epoch.cursor.fill(0)
        epoch.totals.fill(0)
        rng = generator(self.seed, FIT_NOISE, number)
        for step, left in self.parts:
            while left:
                ready = step.refill(rng, left)
                for _ in range(ready):
                    step.launch()
                    bar.update()
                left -= ready
        return Losses(*(self.vae.backend.to_host(epoch.totals) / n_examples).tolist())


def fit(
    vae,
    x_train,
    x_val=None,
    *,
    epochs=10,
    batch_size=100,
    optimizer=None,
    samples=1,
    seed=None,
    callbacks=(),
    progress=None,
):
    """Train a VAE by stochastic gradient descent on its loss, and return the History.

    x_train, x_val : (N, X) or (N, ...), uint8 pixels or numbers; x_train may be a memory map, and is not copied
                     on the NumPy backend
    optimizer      : RMSprop(1e-3) by default; it starts with fresh state
    samples        : L, the draws of z for each example in a step
    seed           : keys shuffling and noise together with the epoch; None takes the model's
    callbacks      : functions called after each epoch with the History so far
    progress       : whether to show a progress bar; None shows it on a terminal only

    Same seed and machine give the same History but for the seconds, bit for bit. Raises MiniVAEError for
    arguments and data that cannot be trained on.
    """
    from tqdm import tqdm

    x_train = vae.check_input(x_train)
    x_val = None if x_val is None else vae.check_input(x_val)
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("samples", samples)):
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise MiniVAEError(f"fit: {name} should be an integer of at least 1, got {value!r}")
    if batch_size > len(x_train):
        raise MiniVAEError(
            f"fit: batch_size={batch_size} is larger than the {len(x_train)} training examples: "
            f"use at most {len(x_train)}"
        )
    optimizer = RMSprop() if optimizer is None else optimizer
    if not isinstance(optimizer, Optimizer):
        raise MiniVAEError(f"fit: optimizer should be one such as Adam(1e-3), got {optimizer!r}")
    optimizer.attach(vae.parameters, vae.gradients)
    trainer = Trainer(vae, optimizer, x_train, batch_size, samples, vae.seed if seed is None else seed)

    history = History()
    hidden = not (sys.stderr.isatty() if progress is None else progress)
    with tqdm(total=epochs * trainer.n_steps, unit="step", disable=hidden, leave=False) as bar:
        for number in range(1, epochs + 1):
            start = time.perf_counter()
            losses = trainer.run_epoch(number, bar)
            row = {"epoch": number, "seconds": time.perf_counter() - start} | losses.as_columns("train")
            if x_val is not None:
                row |= vae.evaluate(x_val).as_columns("val")
            history.append(row)
            bar.set_postfix(loss=f"{losses.loss:.2f}")
            for callback in callbacks:
                callback(history)
    return history
