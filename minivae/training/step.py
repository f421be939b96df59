"""One step of training, from a batch's rows to the new weights, as a function of arrays that the backend compiles."""

from functools import partial

import numpy as np

from ..engine import rows
from ..errors import MiniVAEError
from ..model.inference import to_unit
from ..model.parameters import within
from ..parallel import ALONE
from .noise import Noise

ADDED_UP = "lack", "sums"  # the stages whose result, an array of the same name, all ranks add up


class Step:
    """The step for batches of one size; `run()` runs it once.

        x = rows of the data;  eps = rows of the noise
        losses, gradients = the model's passes forward and back
        parameters = the optimizer's update with the gradients

    This is `step`, a function of arrays. The backend traces it once and compiles it: from then on `run` assigns its
    results to the arrays.

    shared : the arrays that the steps of a training share, by name: "data", "labels" (with classes), "permutation",
             "cursor" (how many examples of the permutation are done), "totals" (sums of loss, reconstruction and KL
             over them), "beta", "parameters", "gradients", "constants.(name)", "optimizer.(name)"; for several ranks
             also "sums" (the gradients, and behind them the sums of a batch's losses), and with free bits "lack"
    ranks  : who shares the batch's rows. Of several, each makes the sums over its own rows, these are added, and each
             updates its weights, which are the same on all: two stages, with an exchange between them. With free bits
             one more comes first, since which dimensions count depends on the whole batch
    """

    def __init__(self, vae, optimizer, shared, batch_size, samples, binarize=False, ranks=ALONE):
        self.vae, self.optimizer, self.binarize, self.ranks = vae, optimizer, binarize, ranks
        self.batch_size, own = batch_size, ranks.share(batch_size)
        of_pixels = np.uint8 if shared["data"].dtype == np.uint8 else np.float32
        self.noise = Noise(vae, samples, batch_size, own, of_pixels if binarize else None)
        self.n_rows = self.noise.n_rows
        offsets = vae.backend.asarray(np.arange(own.start, own.stop))
        self.arrays = shared | {"offsets": offsets} | self.noise.arrays
        if ranks.size == 1:
            self.stages = ["step"]  # the names of functions below
        else:
            self.stages = ["lack", "sums", "update"] if vae.free_bits else ["sums", "update"]
        self.calls = [self._compiled(stage) for stage in self.stages]

    def _compiled(self, stage):
        """A function that runs a stage, and adds up what the ranks have made in it."""
        used = {name: array for name, array in self.arrays.items() if array.size}  # a rank may have no row
        if stage not in ADDED_UP:
            return self.vae.backend.compile(getattr(self, stage), used, self.vae.dtype)
        array = self.arrays[stage]
        if self.n_rows:
            run = self.vae.backend.compile(getattr(self, stage), used, self.vae.dtype)
        else:
            run = partial(array.fill, 0)

        def run_and_add():
            run()
            self.ranks.allreduce(array)

        return run_and_add

    def step(self, a):
        """The new values of the arrays `a`, those of `self.arrays`, after one step."""
        losses, gradients = self._forward_and_backward(a)
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
        losses, gradients = self._forward_and_backward(a)
        return {"sums": np.concatenate([gradients, np.sum(losses, axis=1)]), "noise_row": a["noise_row"] + 1}

    def update(self, a):
        """What remains of the step when the sums are those of the whole batch."""
        updated, totals = self._updated(a, a["sums"][:-3]), a["totals"] + a["sums"][-3:]
        return updated | {"totals": totals, "cursor": a["cursor"] + self.batch_size}

    def _forward_and_backward(self, a):
        x, y, params = self._batch(a)
        if "lack" in a:
            params = params | {"posterior.lack": a["lack"]}
        return self.vae.forward_and_backward(params, x, self.noise.eps(a), a["beta"], y, self.batch_size)

    def _updated(self, a, gradients):
        before = within(a, "optimizer")
        parameters, state = self.optimizer.update(gradients, a["parameters"], before)
        if unknown := state.keys() - before.keys():
            name = type(self.optimizer).__name__
            raise MiniVAEError(f"{name}.update gives the state {', '.join(sorted(unknown))}: begin it in fresh_state")
        return {"parameters": parameters} | {f"optimizer.{name}": array for name, array in state.items()}

    def _batch(self, a):
        """x, the labels or None, and what `VAE.forward` calls params, for this rank's rows of the batch."""
        vae = self.vae
        index = rows(a["permutation"], a["offsets"] + a["cursor"])
        pixels = rows(a["data"], index)
        if self.binarize:
            x = (pixels > self.noise.thresholds(a, pixels.shape)).astype(vae.dtype)
        else:
            x = to_unit(pixels, vae.dtype)
        y = rows(a["labels"], index) if "labels" in a else None
        return x, y, vae.params_of(a) | self.noise.uniform(a)

    def run(self):
        for call in self.calls:
            call()


def parameter_of(vae, value):
    """The name of the tensor that a value is, among the model's parameters; None for any other value."""
    if value.base.kind != "input" or value.base.settings != "parameters":
        return None
    tensors = {_place(view): name for name, view in vae.parameters.named(value.base.ghost).items()}
    return tensors.get(_place(value.ghost))


def _place(array):
    """Where an array begins in memory, and how many values it has."""
    return array.__array_interface__["data"][0], array.size
