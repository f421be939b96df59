"""minivae as an arm of the race: the same three calls as the peers, on its own training loop."""

import numpy as np

import minivae as mv
from minivae.randomness import generator
from minivae.training.state import Training


class MiniVAE:
    backend = "numpy"

    def __init__(self, workload, weights, images, threads):
        depth = len(workload.encoder)
        likelihood, last = mv.Bernoulli(), []
        if workload.likelihood == "gaussian":
            likelihood, last = mv.Gaussian(constants=False), [mv.Sigmoid()]
        self.vae = mv.VAE(
            encoder=self.layers(weights[:depth]),
            decoder=self.layers(weights[depth:]) + last,
            likelihood=likelihood,
            backend=self.backend,
        )
        for view, value in zip(
            self.vae.parameters.values(), (tensor for layer in weights for tensor in layer), strict=True
        ):
            self.vae.backend.upload(value, to=view)
        optimizer = mv.Adam(1e-3) if workload.optimizer == "adam" else mv.RMSprop(1e-3)
        # Where a timed pass is longer than one over the images, it goes through them several times.
        rows = np.resize(np.arange(len(images)), max(len(images), workload.steps * workload.batch))
        self.training = Training(self.vae, optimizer, images, None, rows, workload.batch, 1, False, 0, None)
        self.passes = 0

    def layers(self, weights):
        layers = []
        for W, _ in weights:
            layers += [mv.Dense(*W.shape), mv.ReLU()]
        return layers[:-1]

    def loss(self, x, eps):
        return self.vae.loss_and_gradients(x, eps).loss

    def train(self, order):
        (step, _), left = self.training.parts[0], len(order)
        arrays = step.arrays
        self.vae.backend.upload(order.ravel(), to=arrays["permutation"][: order.size])
        arrays["cursor"].fill(0)
        arrays["totals"].fill(0)
        self.passes += 1
        rng = generator(self.passes)
        while left:
            ready = step.noise.refill(left, rng, None)
            for _ in range(ready):
                step.run()
            left -= ready
        return self.vae.backend.to_host(arrays["totals"])[0] / order.size


class MiniVAENumba(MiniVAE):
    backend = "numba"
