"""minivae as arms of the race on a GPU: its step run operation by operation, and as one captured graph."""

from minivae_arm import MiniVAE

import minivae as mv
from minivae.randomness import generator


class Captured(MiniVAE):
    """The step as `fit` runs it, from the third call on one launch."""

    tf32, compiled = False, True

    def __init__(self, workload, weights, images, threads, backend=None):
        self.backend = backend or mv.get_backend("cupy", tf32=self.tf32)
        self.backend.compiled = self.compiled
        super().__init__(workload, weights, images, threads)

    def prepare(self, order):
        """Lay the rows order (steps, B) in the GPU's memory, and noise for them."""
        step, _ = self.training.parts[0]
        self.vae.backend.upload(order.ravel(), to=step.arrays["permutation"][: order.size])
        step.noise.refill(len(order), generator(self.passes), None)

    def repeat(self):
        """One step on the first of the prepared rows."""
        step, _ = self.training.parts[0]
        step.arrays["cursor"].fill(0)
        step.arrays["noise_row"].fill(0)
        step.run()


class Eager(Captured):
    """The step as its equations stand, operation by operation."""

    compiled = False


class CapturedTF32(Captured):
    tf32 = True


class EagerTF32(Eager):
    tf32 = True
