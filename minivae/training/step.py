"""One step of training, from a batch's rows to the new weights, as a function of arrays that the backend compiles."""

import math
from functools import partial

import numpy as np

from ..engine import rows
from ..model.binarization import thresholds
from ..model.inference import to_unit
from ..model.parameters import within
from ..parallel import ALONE

NOISE_VALUES = 1 << 18  # of noise that lie on the device at a time: a GPU works while the next are drawn


class Step:
    """The step for batches of one size; `run()` runs it once.

    Alone it is one list. Of several ranks each makes the sums over its own rows of the batch, these are added, and each
    updates its weights, which are the same on all: two lists, with an exchange between them. With free bits one more
    list and exchange come first, since which dimensions count depends on the whole batch.

    shared : the arrays that the steps of a training share, by name: "data", "labels" (with classes), "permutation",
             "cursor" (how many examples of the permutation are done), "totals" (sums of loss, reconstruction and KL
             over them), "beta", "parameters", "gradients", "constants.(name)", "optimizer.(name)"; for several ranks
             also "sums" (the gradients, and behind them the sums of a batch's losses), and with free bits "lack"
    ranks  : who shares the batch's rows
    """

    def __init__(self, vae, optimizer, shared, batch_size, samples, binarize=False, ranks=ALONE):
        backend = vae.backend
        self.vae, self.optimizer, self.binarize, self.ranks = vae, optimizer, binarize, ranks
        self.batch_size, self.samples, self.own = batch_size, samples, ranks.share(batch_size)
        self.n_rows = self.own.stop - self.own.start
        self.arrays = shared | {
            "offsets": backend.asarray(np.arange(self.own.start, self.own.stop)),
            "noise": self._block(samples * vae.latent_dim, vae.dtype),
            "noise_row": backend.zeros((1,), np.int64),
        }
        if binarize:
            dtype = np.uint8 if shared["data"].dtype == np.uint8 else np.float32
            self.arrays["thresholds"] = self._block(vae.input_dim, dtype)
        self.uniform_shapes = vae.uniform_shapes(samples, self.n_rows)
        if self.uniform_shapes:
            n_values = sum(map(math.prod, vae.uniform_shapes(samples, 1).values()))
            self.arrays["uniform"] = self._block(n_values, np.float32)
        self.stages = ["step"]  # the names of its functions below
        if ranks.size > 1:
            self.stages = [*["lack"] * bool(vae.free_bits), "sums", "update"]
        self.calls = [self._compiled(name) for name in self.stages]

    def _block(self, n_values, dtype):
        """Room for the noise of many steps, a row for each, with n_values for each of this rank's examples."""
        steps = max(1, NOISE_VALUES // (n_values * self.batch_size))
        return self.vae.backend.empty((steps, n_values * self.n_rows), dtype)

    def _compiled(self, stage):
        """A function that runs a stage; where it makes the array of the same name, the ranks' are added up."""
        array, add = self.arrays.get(stage), self.ranks.allreduce
        if array is not None and not self.n_rows:
            run = partial(array.fill, 0)
        else:
            used = {name: array for name, array in self.arrays.items() if array.size}  # a rank may have no row
            run = self.vae.backend.compile(getattr(self, stage), used, self.vae.dtype)
        if array is None:
            return run

        def run_and_add():
            run()
            add(array)

        return run_and_add

    def step(self, a):
        """The new values of the arrays `a`, those of `self.arrays`, after one step."""
        losses, gradients = self._losses_and_gradients(a)
        updated = self._updated(a, gradients)
        totals = a["totals"] + np.sum(losses, axis=1)
        counts = {"cursor": a["cursor"] + self.batch_size, "noise_row": a["noise_row"] + 1}
        return {"gradients": gradients} | updated | {"totals": totals} | counts

    def lack(self, a):
        """What this rank's rows lack of the free bits."""
        x, y, params = self._batch(a)
        return {"lack": self.vae.lack(params, x, y)}

    def sums(self, a):
        """What this rank's rows add to the gradients and to the sums of the losses."""
        losses, gradients = self._losses_and_gradients(a)
        return {"sums": np.concatenate([gradients, np.sum(losses, axis=1)]), "noise_row": a["noise_row"] + 1}

    def update(self, a):
        """What remains of the step when the sums are those of the whole batch."""
        updated, totals = self._updated(a, a["sums"][:-3]), a["totals"] + a["sums"][-3:]
        return updated | {"totals": totals, "cursor": a["cursor"] + self.batch_size}

    def _losses_and_gradients(self, a):
        x, y, params = self._batch(a)
        if "lack" in a:
            params = params | {"posterior.lack": a["lack"]}
        eps = rows(a["noise"], a["noise_row"]).reshape(self.samples, self.n_rows, self.vae.latent_dim)
        part_of = [self.batch_size] * (self.ranks.size > 1)
        return self.vae.losses_and_gradients(params, x, eps, a["beta"], y, *part_of)

    def _updated(self, a, gradients):
        parameters, state = self.optimizer.update(gradients, a["parameters"], within(a, "optimizer"))
        return {"parameters": parameters} | {f"optimizer.{name}": array for name, array in state.items()}

    def _batch(self, a):
        """x, the labels or None, and what `VAE.forward` calls params, for this rank's rows of the batch."""
        vae = self.vae
        index = rows(a["permutation"], a["offsets"] + a["cursor"])
        pixels = rows(a["data"], index)
        if self.binarize:
            x = (pixels > rows(a["thresholds"], a["noise_row"]).reshape(pixels.shape)).astype(vae.dtype)
        else:
            x = to_unit(pixels, vae.dtype)
        y = rows(a["labels"], index) if "labels" in a else None
        return x, y, vae.parameters.named(a["parameters"]) | within(a, "constants") | self._uniform(a)

    def _uniform(self, a):
        """The uniform numbers for the layers of the model, by name."""
        named, start = {}, 0
        for name, shape in self.uniform_shapes.items():
            stop = start + math.prod(shape)
            named[name] = rows(a["uniform"], a["noise_row"])[:, start:stop].reshape(shape)
            start = stop
        return named

    def run(self):
        for call in self.calls:
            call()

    def refill(self, n_steps, rng, pixel_rng=None, uniform_rng=None):
        """New noise for up to n_steps steps; returns for how many.

        eps comes from `rng`, the thresholds of pixels from `pixel_rng`, what layers want from `uniform_rng`. Each of
        several ranks draws that of whole batches, and keeps what its own rows get.
        """
        a, B = self.arrays, self.batch_size
        n_steps = min(n_steps, len(a["noise"]))
        if self.binarize:
            n_steps = min(n_steps, len(a["thresholds"]))
            shape = B, self.vae.input_dim
            drawn = thresholds(pixel_rng, (n_steps, math.prod(shape)), a["thresholds"].dtype)
            self._put("thresholds", drawn, shape)
        if self.uniform_shapes:
            n_steps = min(n_steps, len(a["uniform"]))
            shapes = self.vae.uniform_shapes(self.samples, B).values()
            drawn = uniform_rng.random((n_steps, sum(map(math.prod, shapes))), a["uniform"].dtype)
            self._put("uniform", drawn, *shapes)
        shape = self.samples * B, self.vae.latent_dim
        self._put("noise", rng.standard_normal((n_steps, math.prod(shape)), np.float32), shape)
        a["noise_row"].fill(0)
        return n_steps

    def _put(self, name, drawn, *shapes):
        """Put what was drawn for whole batches, a row for each step, into the block of that name.

        shapes : of the arrays that lie in such a row one after another; they have as many rows as a batch has examples,
                 or as many for each sample of z
        """
        if self.n_rows < self.batch_size:
            parts = np.split(drawn, np.cumsum([math.prod(shape) for shape in shapes])[:-1], axis=1)
            own = [self._of_own_rows(part, shape) for part, shape in zip(parts, shapes, strict=True)]
            drawn = np.concatenate(own, axis=1)
        if self.n_rows:
            block = self.arrays[name][: len(drawn)]
            self.vae.backend.upload(drawn.astype(block.dtype, copy=False), to=block)

    def _of_own_rows(self, drawn, shape):
        by_example = drawn.reshape(len(drawn), shape[0] // self.batch_size, self.batch_size, -1)
        return by_example[:, :, self.own].reshape(len(drawn), -1)
