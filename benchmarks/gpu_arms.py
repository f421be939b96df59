"""minivae as arms of the race on a GPU: its step run operation by operation, and as one captured graph."""

from minivae_arm import MiniVAE

import minivae as mv


class Captured(MiniVAE):
    """The step as `fit` runs it, from the third call on one launch."""

    tf32 = False

    def __init__(self, workload, weights, images, threads, backend=None):
        self.backend = backend or mv.get_backend("cupy", tf32=self.tf32)
        super().__init__(workload, weights, images, threads)

    def prepare(self, order):
        """Lay the rows order (steps, B) in the GPU's memory, and noise for them."""
        epoch, step = self.trainer.epoch, self.trainer.parts[0][0]
        self.vae.backend.upload(order.ravel(), out=epoch.permutation[: order.size])
        step.refill(mv.backend.generator(self.passes), len(order))

    def repeat(self):
        """One step on the first of the prepared rows."""
        self.trainer.epoch.cursor.fill(0)
        self.trainer.parts[0][0].noise_row.fill(0)
        self.trainer.parts[0][0].launch()


class Eager(Captured):
    def __init__(self, *args):
        super().__init__(*args)
        step = self.trainer.parts[0][0]
        step.launch = step.run


class CapturedTF32(Captured):
    tf32 = True


class EagerTF32(Eager):
    tf32 = True
