"""The random numbers of the steps of a training: drawn on the host for many steps at once, read on the device."""

import math

import numpy as np

from ..engine import rows
from ..model.binarization import thresholds
from ..model.parameters import named_views

NOISE_VALUES = 1 << 18  # of noise that lie on the device at a time: a GPU works while the next are drawn


class Noise:
    """What the steps for batches of one size draw: eps, thresholds of pixels, uniform numbers for layers.

    samples    : L, the draws of z for each example
    batch_size : the examples of a batch;  own, a slice: those of them that are this rank's
    pixels     : the dtype of pixels that are drawn black or white, or None

    `arrays`, by name: "noise" and, where they are drawn, "thresholds" and "uniform" have a row for each of many steps;
    "noise_row" (1,) says which row is the next step's. Functions of `a` are part of the step: they see its arrays.
    """

    def __init__(self, vae, samples, batch_size, own, pixels=None):
        self.vae, self.samples, self.batch_size, self.own = vae, samples, batch_size, own
        self.n_rows = own.stop - own.start
        self.uniform_shapes = vae.uniform_shapes(samples, self.n_rows)
        self.arrays = {
            "noise": self._block(samples * vae.latent_dim, vae.dtype),
            "noise_row": vae.backend.zeros((1,), np.int64),
        }
        if pixels is not None:
            self.arrays["thresholds"] = self._block(vae.input_dim, pixels)
        if self.uniform_shapes:
            n_values = sum(map(math.prod, vae.uniform_shapes(samples, 1).values()))
            self.arrays["uniform"] = self._block(n_values, np.float32)

    def _block(self, n_values, dtype):
        """Room for the noise of many steps, with n_values for each of this rank's examples."""
        steps = max(1, NOISE_VALUES // (n_values * self.batch_size))
        return self.vae.backend.empty((steps, n_values * self.n_rows), dtype)

    def eps(self, a):
        """The noise of this step, (L, B, D)."""
        return rows(a["noise"], a["noise_row"]).reshape(self.samples, self.n_rows, self.vae.latent_dim)

    def thresholds(self, a, shape):
        """What pixels of this shape, (B, X), must exceed to be white."""
        return rows(a["thresholds"], a["noise_row"]).reshape(shape)

    def uniform(self, a):
        """The uniform numbers for the layers of the model, by name."""
        shapes = self.uniform_shapes
        return named_views(rows(a["uniform"], a["noise_row"]).reshape(-1), shapes) if shapes else {}

    def refill(self, n_steps, rng, pixel_rng=None, uniform_rng=None):
        """New noise for up to n_steps steps; returns for how many.

        eps comes from `rng`, the thresholds of pixels from `pixel_rng`, what layers want from `uniform_rng`. Each of
        several ranks draws that of whole batches, and keeps what its own rows get.
        """
        a, B = self.arrays, self.batch_size
        n_steps = min([n_steps, *(len(a[name]) for name in ("noise", "thresholds", "uniform") if name in a)])
        if "thresholds" in a:
            shape = B, self.vae.input_dim
            drawn = thresholds(pixel_rng, (n_steps, math.prod(shape)), a["thresholds"].dtype)
            self._put("thresholds", drawn, shape)
        if "uniform" in a:
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
