"""A training: the arrays that it changes, how far it has come, and how a checkpoint keeps it."""

import json
import math
import os
import sys
import zlib

import numpy as np

from ..arguments import is_integer, number, positive
from ..errors import MiniVAEError
from ..files import keep_previous, remove_leftovers
from ..model.inference import CHECKED_ROWS, Losses
from ..parallel import ALONE, beside
from ..randomness import FIT_BINARIZATION, FIT_NOISE, FIT_UNIFORM, SHUFFLE, generator
from ..storage import checkpoint
from .history import History
from .step import Step

KEPT = "kept."  # before the names of callbacks' arrays in a checkpoint
BEST, BEST_WEIGHTS = "EarlyStopping.best", "EarlyStopping.best_weights"  # what early stopping keeps


class Training:
    """The steps of all epochs over rows of the data x, and the one place that knows how many of them are done.

    rows     : the numbers of the rows of x to train on
    settings : what the course depends on, as plain data; a training that is taken up again must have the same
    ranks    : the processes that share the work; what a training is, all of them hold alike after each step

    `before` is for how many epochs the model had been trained: order and noise are keyed by its epochs in all, so that
    many trainings of one epoch do not go through the same ones again and again.
    `kept` is what callbacks want to be kept, numbers and arrays by name; `stopped` says whether one ended the training.
    """

    def __init__(
        self, vae, optimizer, x, y, rows, batch_size, samples, binarize, seed, settings, val_samples=1, ranks=ALONE
    ):
        self.vae, self.rows, self.batch_size, self.seed, self.settings = vae, rows, batch_size, seed, settings
        self.samples, self.val_samples, self.ranks = samples, val_samples, beside(ranks, vae.backend)
        backend, p = vae.backend, vae.backend.to_host(vae.parameters.flat)
        self.state = {"lr": np.full(1, optimizer.lr, vae.dtype)} | optimizer.fresh_state(p)
        self.state = {name: _copied(backend, array) for name, array in self.state.items()}
        self.totals = backend.zeros((3,), np.float64)
        self.arrays = {
            "data": backend.asarray(x),
            "permutation": _copied(backend, np.arange(len(rows))),
            "cursor": backend.zeros((1,), np.int64),
            "totals": self.totals,
            "beta": vae.beta_array,
            "parameters": vae.parameters.flat,
            "gradients": vae.gradients.flat,
            **{f"optimizer.{name}": array for name, array in self.state.items()},
            **{f"constants.{name}": array for name, array in vae.constants.items()},
        }
        if y is not None:
            self.arrays["labels"] = backend.asarray(vae.labels.one_hot(y, vae.dtype))
        if ranks.size > 1:
            self.arrays["sums"] = backend.zeros((p.size + 3,), vae.dtype)
            if vae.free_bits:
                self.arrays["lack"] = backend.zeros((1, vae.latent_dim), vae.dtype)
        n_full, n_rest = divmod(len(rows), batch_size)
        sizes = [(batch_size, n_full), (n_rest, 1)] if n_rest else [(batch_size, n_full)]
        self.parts = [(Step(vae, optimizer, self.arrays, size, samples, binarize, self.ranks), n) for size, n in sizes]
        self.n_steps = sum(n for _, n in self.parts)
        self.history, self.done, self.seconds = History(), 0, 0.0  # steps and seconds of the present epoch
        self.history.samples, self.history.val_samples = samples, val_samples
        self.before = vae.epochs
        self.lr = optimizer.lr
        self.kept, self.stopped = {}, False

    @property
    def lr(self):
        return self._lr

    @lr.setter
    def lr(self, lr):
        self._lr = positive("fit: the learning rate of the schedule", lr)
        self.state["lr"].fill(self._lr)

    @property
    def epoch(self):
        """The number of the present epoch, from 1."""
        return len(self.history) + 1

    def is_over(self, epochs):
        return self.stopped or len(self.history) >= epochs

    def steps_done(self):
        """How many steps have been done, in all epochs."""
        return len(self.history) * self.n_steps + self.done

    def where(self):
        """How far the training has come, in words."""
        if self.done:
            return f"in epoch {self.epoch} after step {self.done} of {self.n_steps}"
        return f"after epoch {len(self.history)}"

    # ------------------------------------------------------------------------------------------- its steps

    def steps(self, run=Step.run):
        """Run the steps of the present epoch that are not done yet; yields after each. run(step) runs a Step once."""
        key = self.before + self.epoch
        self.vae.epochs = key
        order = generator(self.seed, SHUFFLE, key).permutation(self.rows)
        self.vae.backend.upload(order, to=self.arrays["permutation"])
        self.arrays["cursor"].fill(self.done * self.batch_size)
        if not self.done:
            self.totals.fill(0)
        purposes = FIT_NOISE, FIT_BINARIZATION, FIT_UNIFORM
        rngs = [generator(self.seed, purpose, key) for purpose in purposes]
        skip = self.done  # what these steps drew is drawn again, so that the others get what is theirs
        for step, left in self.parts:
            while left:
                ready = step.noise.refill(left, *rngs)
                left -= ready
                passed = min(skip, ready)
                skip -= passed
                step.arrays["noise_row"].fill(passed)
                for _ in range(ready - passed):
                    run(step)
                    self.done += 1
                    yield

    def end_epoch(self, totals):
        """The Losses of the present epoch, averaged over its examples, each from before its own update; ends it."""
        self.done, self.seconds = 0, 0.0
        if "sums" in self.arrays:
            self.vae.gradients.flat[...] = self.arrays["sums"][:-3]
        return Losses(*(totals / len(self.rows)).tolist())

    # -------------------------------------------------------------------------------------- among several ranks

    def agree(self, *names):
        """Go on from where rank 0 stands, which may have taken up a checkpoint or let callbacks change something.

        names : of the arrays that may differ, among those that `moving` names
        """
        if self.ranks.size == 1:
            return
        numbers = self.history, vars(self.history), self.done, self.seconds, self.stopped, self.before
        arrays = {name: self.vae.backend.to_host(self.moving()[name]) for name in names}
        given = self.ranks.broadcast((arrays, numbers, self.vae.beta, self.lr))
        if self.ranks.rank:
            arrays, numbers, self.vae.beta, self.lr = given
            self.history[:], of_history, self.done, self.seconds, self.stopped, self.before = numbers
            vars(self.history).update(of_history)
            for name, array in arrays.items():
                self.vae.backend.upload(array, to=self.moving()[name])
            self._count_epochs()

    # ------------------------------------------------------------------------------ in memory, within an epoch

    def moving(self):
        """What every step changes, by name."""
        moving = {f"optimizer.{name}": array for name, array in self.state.items()}
        return {"parameters": self.vae.parameters.flat, "totals": self.totals} | moving

    def finite_totals(self):
        """The sums of losses so far as a NumPy array; None where a NaN or an infinity has turned up.

        Waits for the device once.
        """
        zero_or_nan = [np.sum(array * 0, keepdims=True).reshape(1) for array in self.moving().values()]
        checks = [each.astype("float64") for each in zero_or_nan]
        report = self.vae.backend.to_host(np.concatenate([self.totals, *checks]))
        return None if self.ranks.any(not np.isfinite(report).all()) else np.array(report[:3])

    def snapshot(self):
        return {name: array.copy() for name, array in self.moving().items()}, self.done

    def roll_back(self, snapshot):
        arrays, self.done = snapshot
        self._count_epochs()
        for name, array in self.moving().items():
            array[...] = arrays[name]

    def _count_epochs(self):
        """Tell the model for how many epochs it has been trained, one that has begun included."""
        self.vae.epochs = self.before + len(self.history) + bool(self.done)

    # ------------------------------------------------------------------------------------------------ on disk

    def _arrays(self):
        """The arrays that a checkpoint keeps beside the model, by name, but for those of callbacks."""
        return {f"optimizer.{name}": array for name, array in self.state.items()} | {"totals": self.totals}

    def take_up(self, path, resume, max_bytes):
        """Take up the training that `path` holds, or make room for this one; says whether one was taken up."""
        remove_leftovers(path)
        if os.path.exists(path):
            if resume:
                self.load(path, max_bytes)
                return True
            keep_previous(path)
        elif resume:
            print(f"there is no checkpoint {path} yet: starting from the beginning", file=sys.stderr)
        return False

    def save(self, path):
        of_callbacks = {name: value for name, value in self.kept.items() if getattr(value, "ndim", 0)}
        numbers = {"history": list(self.history), "done": self.done, "seconds": self.seconds, "stopped": self.stopped}
        numbers |= {"beta": self.vae.beta, "lr": self.lr, "before": self.before}
        numbers["kept"] = {name: _plain(name, value) for name, value in self.kept.items() if name not in of_callbacks}
        arrays = self._arrays() | {KEPT + name: array for name, array in of_callbacks.items()}
        arrays = {name: self.vae.backend.to_host(array) for name, array in arrays.items()}
        checkpoint.save(self.vae, path, arrays, settings=self.settings, training=numbers)

    def load(self, path, max_bytes):
        """Take up what `save` wrote; raises MiniVAEError, with nothing changed, where it is of another training."""
        arrays, record = checkpoint.read(path, max_bytes)
        if "training" not in record:
            raise MiniVAEError(f"{path} holds a model but no training: load it with minivae.load and train it anew")
        if not isinstance(record.get("settings"), dict):
            raise MiniVAEError(f"{path} cannot be resumed: its settings should be an object")
        model = checkpoint.describe_model(self.vae)
        # beta may have been changed on the way; where it started is among the settings.
        _check_same(path, checkpoint.renewed(path, record["model"], self.vae) | {"beta": model["beta"]}, model)
        _check_same(path, _renewed(record["settings"], self.settings), self.settings)
        weights, arrays, own = checkpoint.model_arrays(arrays), checkpoint.extra_arrays(arrays), self._arrays()
        numbers = _checked_numbers(path, record["training"], self.n_steps)
        if "best" in numbers and "best" in arrays:  # as version 0.1 kept what early stopping needs
            arrays[KEPT + BEST_WEIGHTS], numbers["kept"] = arrays.pop("best"), {BEST: numbers["best"]}
        known = own | ({KEPT + BEST_WEIGHTS: self.vae.parameters.flat} if BEST in numbers["kept"] else {})
        others = {name for name in arrays if name.startswith(KEPT) and name not in known}
        _check_arrays(path, {name: array for name, array in arrays.items() if name not in others}, known)
        self.vae.parameters.load(weights)
        self.kept.update(numbers["kept"])
        for name, array in arrays.items():
            if name in own:
                self.vae.backend.upload(array, to=own[name])
            else:
                self.kept[name.removeprefix(KEPT)] = _copied(self.vae.backend, array)
        self.history[:] = numbers["history"]
        self.done, self.seconds, self.stopped = numbers["done"], numbers["seconds"], numbers["stopped"]
        self.vae.beta, self.lr, self.before = numbers["beta"], numbers["lr"], numbers["before"]
        self._count_epochs()


def _plain(name, value):
    """What a callback keeps, as JSON can hold it; a number of NumPy's becomes Python's."""
    value = value.item() if isinstance(value, np.generic) else value
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        fix = "keep numbers, text, lists and dicts of these, None, or an array"
        raise MiniVAEError(f"a callback's run.kept[{name!r}] cannot be kept in a checkpoint: {error}; {fix}") from error
    return value


def _copied(backend, host):
    """A NumPy array on the device, in memory of its own that suits the engine."""
    array = backend.empty(host.shape, host.dtype)
    backend.upload(host, to=array)
    return array


def _renewed(saved, given):
    """The settings in a checkpoint with what version 0.1 did not write.

    It validated with one sample, and its fingerprints knew a thousand rows only: what more is known now of the given
    data is taken for true of its data.
    """
    saved = {"val_samples": 1} | saved
    for name in ("x_train", "x_val", "y_train", "y_val"):
        mark = saved.get(name)
        if isinstance(mark, list) and isinstance(given.get(name), list):
            saved[name] = mark + given[name][len(mark) :]
    return saved


def _check_same(path, saved, given):
    for key in sorted(saved.keys() | given.keys()):
        if saved.get(key) != given.get(key):
            raise MiniVAEError(
                f"{path} is of another training: {key} is {saved.get(key)} there and {given.get(key)} here. Resume "
                "with the same model, settings and data; to train its model on with others, pass minivae.load of it "
                "to fit, without resume and with another checkpoint"
            )


def _checked_numbers(path, numbers, n_steps):
    """The numbers of a checkpoint; raises MiniVAEError where they are none that a training has."""

    def is_row(i, row):
        is_whole = isinstance(row, dict) and row.get("epoch") == i and "train_loss" in row
        return is_whole and all(math.isfinite(number(value)) for value in row.values())

    def is_history(value):
        return isinstance(value, list) and all(is_row(i, row) for i, row in enumerate(value, 1))

    def is_kept(value):  # by callbacks, among them EarlyStopping
        best = value.get(BEST, [0, 0.0, 0.0]) if isinstance(value, dict) else None
        return isinstance(best, list) and len(best) == 3 and all(isinstance(x, (int, float)) for x in best)

    expected = {
        "history": (is_history, "a row of numbers for each epoch, counted from 1"),
        "done": (lambda done: is_integer(done) and 0 <= done < n_steps, f"a number of steps from 0 to {n_steps - 1}"),
        "seconds": (lambda seconds: 0 <= number(seconds) < math.inf, "a number of at least 0"),
        "beta": (lambda beta: 0 <= number(beta) < math.inf, "a number of at least 0"),
        "lr": (lambda lr: 0 < number(lr) < math.inf, "a positive number"),
        "before": (lambda before: is_integer(before) and before >= 0, "a number of epochs of at least 0"),
        "stopped": (lambda stopped: isinstance(stopped, bool), "true or false"),
        "kept": (is_kept, f"an object whose {BEST!r}, if any, is three numbers"),
    }
    if not isinstance(numbers, dict):
        raise MiniVAEError(f"{path} cannot be resumed: its training should be an object, got {numbers!r:.60}")
    numbers = {"stopped": False, "kept": {}, "before": 0} | numbers  # which version 0.1 did not write
    for name, (fits, what) in expected.items():
        if not fits(numbers.get(name)):
            got = f"got {numbers.get(name)!r:.60}"
            raise MiniVAEError(f"{path} cannot be resumed: {name} of its training should be {what}, {got}")
    return numbers


def _check_arrays(path, arrays, own):
    """Raise MiniVAEError where a checkpoint has other arrays than the training's own."""
    for name in sorted(arrays.keys() | own.keys()):
        told = [f"{x.dtype} {x.shape}" if x is not None else "none" for x in (own.get(name), arrays.get(name))]
        if told[0] != told[1]:
            raise MiniVAEError(f"{path} cannot be resumed: its array {name!r} should be {told[0]}, got {told[1]}")


def fingerprint(x):
    """Plain data that tells one data set from another: its shape, its dtype, checksums of some rows and of all.

    The first is what version 0.1 wrote. The second takes a second for 4 GB.
    """
    some, whole = zlib.crc32(np.ascontiguousarray(x[:: max(1, len(x) // 1000)])), 0
    for start in range(0, len(x), CHECKED_ROWS):
        whole = zlib.crc32(np.ascontiguousarray(x[start : start + CHECKED_ROWS]), whole)
    return [list(x.shape), x.dtype.name, some, whole]
