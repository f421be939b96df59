"""The convolutional workload: the network of examples/conv_mnist.py, batch 100, RMSprop."""

from dataclasses import dataclass, field

import numpy as np

# (kind, channels or units in, out, kernel, stride, padding); a ReLU stands between any two of one network.
ENCODER = [
    ("conv", 1, 1, 2, 1, "same"),
    ("conv", 1, 64, 2, 2, "same"),
    ("conv", 64, 64, 3, 1, "same"),
    ("conv", 64, 64, 3, 1, "same"),
    ("dense", 64 * 14 * 14, 128),
    ("dense", 128, 4),
]
DECODER = [
    ("dense", 2, 128),
    ("dense", 128, 64 * 14 * 14),
    ("transpose", 64, 64, 3, 1, "same"),
    ("transpose", 64, 64, 3, 1, "same"),
    ("transpose", 64, 64, 3, 2, 0),
    ("conv", 64, 1, 2, 1, 0),
]
PRODUCTS = [  # per image: rows of the patches, values in a row, columns of the weights, times a step does it
    (28 * 28, 4, 1, 2),
    (14 * 14, 4, 64, 3),
    (14 * 14, 9 * 64, 64, 5 * 3),  # the stride-2 transposed convolution does as many products in four phases
    (28 * 28, 4 * 64, 1, 3),
]
IMAGES_AT_A_TIME = 10


@dataclass(frozen=True)
class ConvWorkload:
    encoder: list = field(default_factory=lambda: ENCODER)
    decoder: list = field(default_factory=lambda: DECODER)
    latent: int = 2
    batch: int = 100
    likelihood: str = "bernoulli"
    optimizer: str = "rmsprop"
    steps: int = 3

    def initial_weights(self, seed=0):
        """[(W, b), ...] in minivae's layouts; those of the single first map are positive, so that it sees."""
        rng, layers = np.random.default_rng(seed), []
        for kind, n_in, n_out, *geometry in ENCODER + DECODER:
            area = geometry[0] ** 2 if geometry else 1
            limit = np.sqrt(6 / (area * (n_in + n_out)))
            shape = {"conv": (n_in, n_out), "transpose": (n_out, n_in), "dense": (n_in, n_out)}[kind]
            W = rng.uniform(-limit, limit, (*geometry[:1] * 2, *shape)).astype("f4")
            layers.append((np.abs(W) if n_in == n_out == 1 else W, np.zeros(n_out, "f4")))
        return layers
