"""The four training workloads that every benchmark times, defined once for minivae and all its peers.

A step is the whole of it: rows gathered in shuffled order from the training images, noise drawn, forward,
backward, optimizer, loss accumulated. The loss is the negative ELBO in nats per example, averaged over the
batch.
"""

from dataclasses import dataclass

import numpy as np

PIXELS = 784


@dataclass(frozen=True)
class Workload:
    """One model with its batch size and optimizer; the decoder mirrors the encoder, hidden units are ReLU.

    likelihood : "bernoulli" on logits, or "gaussian" of unit variance around a sigmoid: 1/2 sum (x - mean)^2
    optimizer  : "rmsprop" (1e-3, rho 0.9, epsilon 1e-7) or "adam" (1e-3, 0.9, 0.999, epsilon 1e-8)
    steps      : in one timed pass: enough to drown the fixed cost of a call, few enough to take turns
    """

    hidden: tuple
    latent: int
    batch: int
    likelihood: str
    optimizer: str
    steps: int

    @property
    def encoder(self):
        """(inputs, outputs) of each dense layer of the encoder; the last gives mu and log_var."""
        widths = (PIXELS, *self.hidden, 2 * self.latent)
        return list(zip(widths[:-1], widths[1:], strict=True))

    @property
    def decoder(self):
        widths = (self.latent, *reversed(self.hidden), PIXELS)
        return list(zip(widths[:-1], widths[1:], strict=True))

    def initial_weights(self, seed=0):
        """[(W, b), ...] for the encoder's layers and then the decoder's; W is (inputs, outputs), float32."""
        rng = np.random.default_rng(seed)
        layers = []
        for n_in, n_out in self.encoder + self.decoder:
            limit = np.sqrt(6 / (n_in + n_out))
            layers.append((rng.uniform(-limit, limit, (n_in, n_out)).astype("f4"), np.zeros(n_out, "f4")))
        return layers


WORKLOADS = {
    "W1": Workload((256,), 2, 100, "bernoulli", "rmsprop", steps=100),
    "W2": Workload((400,), 20, 128, "bernoulli", "adam", steps=60),
    "W3": Workload((1024, 1024), 64, 512, "bernoulli", "adam", steps=8),
    "W4": Workload((400, 200, 100, 20), 2, 200, "gaussian", "adam", steps=40),
}


def synthetic_images(n=10_000, seed=0):
    """(n, 784) uint8 with the make-up of MNIST: four pixels in five black, the others any grey."""
    rng = np.random.default_rng(seed)
    greys = rng.integers(1, 256, (n, PIXELS), dtype=np.uint8)
    return greys * (rng.random((n, PIXELS), dtype=np.float32) < 0.2)
