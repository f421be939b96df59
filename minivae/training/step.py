"""One step of training, from a batch's rows to the new weights, as a function of arrays that the backend compiles."""

import math

import numpy as np

from ..engine import rows
from ..model.binarization import thresholds
from ..model.parameters import within
from ..model.vae import to_unit

NOISE_VALUES = 1 << 18  # of noise that lie on the device at a time: a GPU works while the next are drawn


class Step:
    """The step for batches of one size; `run()` runs it once.

    shared : the arrays that the steps of a training share, by name: "data", "labels" (with classes), "permutation",
             "cursor" (how many examples of the permutation are done), "totals" (sums of loss, reconstruction and KL
             over them), "beta", "parameters", "gradients", "constants.(name)", "optimizer.(name)"
    """

    def __init__(self, vae, optimizer, shared, batch_size, samples, binarize=False):
        backend = vae.backend
        self.vae, self.optimizer, self.binarize = vae, optimizer, binarize
        self.batch_size, self.samples = batch_size, samples
        self.arrays = shared | {
            "offsets": backend.asarray(np.arange(batch_size)),
            "noise": self._block(samples * batch_size * vae.latent_dim, vae.dtype),
            "noise_row": backend.zeros((1,), np.int64),
        }
        if binarize:
            dtype = np.uint8 if shared["data"].dtype == np.uint8 else np.float32
            self.arrays["thresholds"] = self._block(batch_size * vae.input_dim, dtype)
        self.uniform_shapes = vae.uniform_shapes(samples, batch_size)
        if self.uniform_shapes:
            self.arrays["uniform"] = self._block(sum(map(math.prod, self.uniform_shapes.values())), np.float32)
        self._compiled = backend.compile(self.step, self.arrays, vae.dtype)

    def _block(self, n_values, dtype):
        """Room for the noise of many steps, a row for each."""
        return self.vae.backend.empty((max(1, NOISE_VALUES // n_values), n_values), dtype)

    def step(self, a):
        """The new values of the arrays `a`, those of `self.arrays`, after one step."""
        vae = self.vae
        index = rows(a["permutation"], a["offsets"] + a["cursor"])
        pixels = rows(a["data"], index)
        if self.binarize:
            x = (pixels > rows(a["thresholds"], a["noise_row"]).reshape(pixels.shape)).astype(vae.dtype)
        else:
            x = to_unit(pixels, vae.dtype)
        y = rows(a["labels"], index) if "labels" in a else None
        eps = rows(a["noise"], a["noise_row"]).reshape(self.samples, self.batch_size, vae.latent_dim)

        params = vae.parameters.named(a["parameters"]) | within(a, "constants") | self._uniform(a)
        losses, gradients = vae.losses_and_gradients(params, x, eps, a["beta"], y)
        parameters, state = self.optimizer.update(gradients, a["parameters"], within(a, "optimizer"))
        return {
            "gradients": gradients,
            "parameters": parameters,
            **{f"optimizer.{name}": array for name, array in state.items()},
            "totals": a["totals"] + np.sum(losses, axis=1),
            "cursor": a["cursor"] + self.batch_size,
            "noise_row": a["noise_row"] + 1,
        }

    def _uniform(self, a):
        """The uniform numbers for the layers of the model, by name."""
        named, start = {}, 0
        for name, shape in self.uniform_shapes.items():
            stop = start + math.prod(shape)
            named[name] = rows(a["uniform"], a["noise_row"])[:, start:stop].reshape(shape)
            start = stop
        return named

    def run(self):
        self._compiled()

    def refill(self, n_steps, rng, pixel_rng=None, uniform_rng=None):
        """New noise for up to n_steps steps; returns for how many.

        eps comes from `rng`, the thresholds of pixels from `pixel_rng`, what layers want from `uniform_rng`.
        """
        a, upload = self.arrays, self.vae.backend.upload
        n_steps = min(n_steps, len(a["noise"]))
        if self.binarize:
            t = a["thresholds"]
            n_steps = min(n_steps, len(t))
            upload(thresholds(pixel_rng, (n_steps, t.shape[1]), t.dtype), to=t[:n_steps])
        if self.uniform_shapes:
            u = a["uniform"]
            n_steps = min(n_steps, len(u))
            upload(uniform_rng.random((n_steps, u.shape[1]), u.dtype), to=u[:n_steps])
        eps = rng.standard_normal((n_steps, a["noise"].shape[1]), np.float32)
        upload(eps.astype(a["noise"].dtype, copy=False), to=a["noise"][:n_steps])
        a["noise_row"].fill(0)
        return n_steps
