"""What `fit` calls after each epoch, callback(run), and the callbacks that come with minivae.

A function of the run is all that it takes; an object may also have `begin(run)`, which is called before the first step,
and `end(run)`, called after the last epoch, though not after an error or Ctrl-C.
"""

import math
import os

from ..arguments import integer, text
from ..arguments import path as check_path
from ..files import check_writable
from ..model.bounds import ELBO
from ..model.likelihoods import Gaussian
from .state import BEST, BEST_WEIGHTS


class Run:
    """A training as its callbacks see it.

    vae           : the model; its weights and `vae.beta` may be changed
    history       : the History; `history[-1]` is the row of the epoch that has just ended
    epoch, epochs : the number of that epoch, from 1, and how many were asked for
    samples, val_samples : the draws of z for each example, in training and in validation
    kept          : a dict for what a callback must remember, as JSON can hold it, or arrays (not single numbers) of the
                    model's backend; a checkpoint keeps it and resuming brings it back, as it does the history
    """

    def __init__(self, training, epochs):
        self.vae, self.history, self.kept, self.epochs = training.vae, training.history, training.kept, epochs
        self.samples, self.val_samples = training.samples, training.val_samples
        self._training = training

    @property
    def epoch(self) -> int:
        return len(self.history)

    def stop(self) -> None:
        """End the training after this epoch; it stays ended where it is resumed."""
        self._training.stopped = True

    def __repr__(self):
        row = self.history[-1] if self.history else {}
        losses = "".join(f", {name} {row[name]:.3f}" for name in ("train_loss", "val_loss") if name in row)
        return f"epoch {self.epoch}/{self.epochs}{losses}"


class EarlyStopping:
    """Ends a training when the validation loss has not fallen for `patience` epochs.

    In any case the model ends with the weights of its best epoch, and the history names that as `best_epoch`. Losses
    under another beta cannot be compared with those before, so a change of beta starts the count anew.
    """

    def __init__(self, patience: int) -> None:
        self.patience = integer("EarlyStopping: patience", patience)

    def begin(self, run):
        if BEST not in run.kept:
            self._keep(run, math.inf)
        self._stop_if_over(run)

    def __call__(self, run: Run) -> None:
        _, loss, beta = run.kept[BEST]
        if run.history[-1]["val_loss"] < loss or run.vae.beta != beta:
            self._keep(run, run.history[-1]["val_loss"])
        self._stop_if_over(run)

    def end(self, run):
        run.vae.parameters.flat[...] = run.kept[BEST_WEIGHTS]
        run.history.best_epoch = run.kept[BEST][0]

    def _keep(self, run, loss):
        run.kept[BEST] = [run.epoch, loss, run.vae.beta]
        run.kept[BEST_WEIGHTS] = run.vae.parameters.flat.copy()

    def _stop_if_over(self, run):
        if run.epoch - run.kept[BEST][0] >= self.patience:
            run.stop()


class CSVWriter:
    """Writes the history to a CSV file after each epoch, whole or not at all.

    path, validation : see `History.save_csv`
    """

    def __init__(self, path: str | os.PathLike, validation: str = "val") -> None:
        self.path, self.validation = check_path("CSVWriter: path", path), text("CSVWriter: validation", validation)

    def __call__(self, run: Run) -> None:
        run.history.save_csv(self.path, self.validation)

    def begin(self, run):
        check_writable(self.path)  # rather than find out after the first epoch

    end = __call__  # for a training that was resumed when it had ended


class EpochPrinter:
    """Prints a row for each epoch, and above the first what the loss is made of; it starts anew where that changes.

    validation : what to call the validation data, for example "test"
    """

    def __init__(self, validation: str = "val") -> None:
        self.validation = text("EpochPrinter: validation", validation)

    def begin(self, run):
        self._head = None

    def __call__(self, run: Run) -> None:
        row = run.history[-1]
        digits = len(str(run.epochs))
        table = [("epoch", 2 * digits + 1, f"{run.epoch}/{run.epochs}"), ("seconds", 8, f"{row['seconds']:.2f}")]
        for prefix, name in (("train", "train"), ("val", self.validation)):
            if f"{prefix}_loss" in row:
                titles = (f"{name} loss", 10, "loss"), ("reconstr.", 9, "reconstruction"), ("KL", 7, "kl")
                table += [(title, width, f"{row[f'{prefix}_{key}']:.3f}") for title, width, key in titles]
        if run.vae.beta != 1:
            table.append(("beta", 6, f"{run.vae.beta:.3g}"))
        widths = [max(len(title), width) for title, width, _ in table]
        head = " ".join(f"{title:>{width}}" for width, (title, _, _) in zip(widths, table, strict=True))
        head = f"{loss_formula(run.vae, run.samples, run.val_samples)}\n{head}"
        if head != self._head:
            self._head = head
            print(head)
        print(" ".join(f"{text:>{width}}" for width, (_, _, text) in zip(widths, table, strict=True)), flush=True)


def loss_formula(vae, samples=1, val_samples=1):
    """What the loss of a model is made of, in words, a line or more.

    samples, val_samples : the draws of z for each example, in training and in validation
    """
    if type(vae.bound) is ELBO:
        lines = [f"loss = reconstruction + {'KL' if vae.beta == 1 else 'beta KL'}, in nats per example"]
    else:
        lines = [f"loss = minus the {type(vae.bound).__name__} bound of {_samples(samples)}, in nats per example"]
        if val_samples != samples:
            lines.append(f"validation takes {_samples(val_samples)}: its loss is another bound")
        lines.append("reconstruction and KL are means over the samples, and do not add up to it")
    if vae.free_bits:
        lines.append(f"in training the KL of each dimension counts as at least {vae.free_bits:g} nats (free bits)")
    if vae.regulariser is not None:
        lines.append(f"in training {type(vae.regulariser).__name__} is added for the codes of each batch")
    if vae.posterior.trains_otherwise:
        lines.append(f"{type(vae.posterior).__name__} trains otherwise than it is evaluated: see its docstring")
    if isinstance(vae.likelihood, Gaussian) and not vae.likelihood.constants:
        lines.append("reconstruction leaves out the Gaussian's constants")
    return "\n".join(lines)


def _samples(n):
    return f"{n} sample" + "s" * (n > 1)
