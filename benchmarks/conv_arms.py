"""The convolutional VAE of examples/conv_mnist.py as arms of a race: minivae, PyTorch, and the bare matrix products."""

import numpy as np
from conv_workload import DECODER, ENCODER, IMAGES_AT_A_TIME, PRODUCTS
from minivae_arm import MiniVAE
from peers import TorchEager

import minivae as mv


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
