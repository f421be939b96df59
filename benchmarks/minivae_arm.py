"""minivae as an arm of the race: the same three calls as the peers, on its own training loop."""

import minivae as mv
from minivae.training import Trainer


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
            self.vae.backend.upload(value, out=view)
        optimizer = mv.Adam(1e-3) if workload.optimizer == "adam" else mv.RMSprop(1e-3)
        optimizer.attach(self.vae.parameters, self.vae.gradients)
        self.trainer = Trainer(self.vae, optimizer, images, workload.batch, samples=1, seed=0)
        self.passes = 0

    def layers(self, weights):
        layers = []
        for W, _ in weights:
            layers += [mv.Dense(*W.shape), mv.ReLU()]
        return layers[:-1]

    def loss(self, x, eps):
        return self.vae.loss_and_gradients(x, eps).loss

    def train(self, order):
        epoch, step, left = self.trainer.epoch, self.trainer.parts[0][0], len(order)
        self.vae.backend.upload(order.ravel(), out=epoch.permutation[: order.size])
        epoch.cursor.fill(0)
        epoch.totals.fill(0)
        self.passes += 1
        rng = mv.backend.generator(self.passes)
        while left:
            ready = step.refill(rng, left)
            for _ in range(ready):
                step.launch()
            left -= ready
        return self.vae.backend.to_host(epoch.totals)[0] / order.size


class MiniVAENumba(MiniVAE):
    backend = "numba"
