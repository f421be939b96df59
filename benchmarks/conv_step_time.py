"""Milliseconds per training step of the convolutional VAE: minivae, PyTorch and the bare matrix products, in turns.

    python benchmarks/conv_step_time.py [--threads 1,2] [--rounds 6]

The network is that of examples/conv_mnist.py, batch 100, RMSprop. How the arms take turns: see step_time.py.
"""

import argparse
from dataclasses import dataclass, field

import numpy as np
from minivae_arm import MiniVAE
from peers import TorchEager
from step_time import machine, race, report

import minivae as mv

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


class Limit:
    """The convolutions' matrix products alone, on patches that lie ready in the cache; the dense layers' too."""

    def __init__(self, workload, weights, images, threads):
        rng, n = np.random.default_rng(0), IMAGES_AT_A_TIME
        draw = lambda *shape: rng.standard_normal(shape, dtype="f4")  # noqa: E731
        self.products = []
        for rows, inside, out, times in PRODUCTS:
            a, b, c = draw(n * rows, inside), draw(inside, out), draw(n * rows, out)
            self.products += [(a, b, c)] * (times * workload.batch // n)
        for W in (W for W, _ in weights if W.ndim == 2):
            x, y = draw(workload.batch, W.shape[0]), draw(workload.batch, W.shape[1])
            self.products += [(x, W, y), (x.T, y, np.empty_like(W)), (y, W.T, np.empty_like(x))]

    def train(self, order):
        for _ in order:
            for a, b, out in self.products:
                np.matmul(a, b, out=out)


class MiniVAEConv(MiniVAE):
    def layers(self, weights):
        specs = ENCODER if weights[0][0].ndim == 4 else DECODER
        make = {"dense": mv.Dense, "conv": mv.Conv2d, "transpose": mv.ConvTranspose2d}
        layers = [[make[kind](*arguments), mv.ReLU()] for kind, *arguments in specs]
        before, after = {0: [mv.Reshape((28, 28, 1))], 4: [mv.Flatten()]}, {}
        if specs is DECODER:
            before, after = {2: [mv.Reshape((14, 14, 64))]}, {5: [mv.Flatten()]}
        layers[-1].pop()
        return [x for i, pair in enumerate(layers) for x in (*before.get(i, []), *pair, *after.get(i, []))]


class MiniVAEConvNumba(MiniVAEConv):
    backend = "numba"


class TorchConv(TorchEager):
    """The same network as PyTorch's own users write it, images as (B, channels, height, width)."""

    def sequential(self, weights):
        nn, layers = self.torch.nn, []
        specs = ENCODER if weights[0][0].ndim == 4 else DECODER
        layers.append(nn.Unflatten(1, (1, 28, 28)) if specs is ENCODER else nn.Identity())
        for (kind, n_in, n_out, *geometry), (W, b) in zip(specs, weights, strict=True):
            if kind == "dense":
                W = self.channels_first(W).T
                layers += [nn.Flatten(), nn.Linear(n_in, n_out)]
            else:
                kernel, stride, padding = geometry
                W = W.transpose(3, 2, 0, 1)
                if kernel == 2 and padding == "same":
                    layers += [nn.ZeroPad2d((0, 1, 0, 1))] if stride == 1 else []
                    padding = 0
                make = nn.Conv2d if kind == "conv" else nn.ConvTranspose2d
                layers.append(make(n_in, n_out, kernel, stride, 1 if padding == "same" else padding))
            with self.torch.no_grad():
                layers[-1].weight.copy_(self.torch.from_numpy(W.copy()))
                layers[-1].bias.copy_(self.torch.from_numpy(b))
            layers.append(nn.ReLU())
            if kind == "dense" and n_out == 64 * 14 * 14:
                layers.append(nn.Unflatten(1, (64, 14, 14)))
        layers[-1] = nn.Flatten()
        return nn.Sequential(*layers)

    def channels_first(self, W):
        """A dense matrix beside images: its rows or columns from (height, width, channels) to PyTorch's order."""
        if W.shape[0] == 64 * 14 * 14:
            return W.reshape(14, 14, 64, -1).transpose(2, 0, 1, 3).reshape(W.shape)
        if W.shape[1] == 64 * 14 * 14:
            return W.reshape(-1, 14, 14, 64).transpose(0, 3, 1, 2).reshape(W.shape)
        return W


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    names = {"limit": "Limit", "minivae": "MiniVAEConv", "minivae, numba": "MiniVAEConvNumba", "torch": "TorchConv"}
    arms = {arm: ("conv_step_time", name) for arm, name in names.items()}
    print(machine(["torch"]))
    for threads in map(int, options.threads.split(",")):
        print(f"\nconv, {threads} thread{'s' * (threads > 1)}")
        # RMSprop's first steps are so large that other noise makes another loss for a while.
        report(race(arms, ConvWorkload(), threads, options.rounds, after_ten_steps=1.0), ["torch"])


if __name__ == "__main__":
    main()
