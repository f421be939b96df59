"""The peers: the same training step in PyTorch, JAX and Keras, each written as its own users write it.

Every arm is built from a workload, initial weights and uint8 images, and offers

    loss(x, eps) -> float    of the current weights on x (B, 784) in [0, 1] and noise eps (B, D)
    train(order) -> float    the mean loss of one step for each row of order (steps, B), noise drawn inside

Frameworks are imported inside the arms, so that a worker process holds only the one that it times.
"""

import os

import numpy as np


class Limit:
    """No peer but a yardstick: the step's matrix products alone, in NumPy, into arrays made beforehand."""

    def __init__(self, workload, weights, images, threads):
        rng = np.random.default_rng(0)
        draw = lambda *shape: rng.standard_normal(shape, dtype="f4")  # noqa: E731
        self.products = []
        for i, (W, _) in enumerate(weights):
            x, dy = draw(workload.batch, W.shape[0]), draw(workload.batch, W.shape[1])
            self.products += [(x, W, np.empty_like(dy)), (x.T, dy, np.empty_like(W))]
            if i > 0:
                self.products.append((dy, W.T, np.empty_like(x)))

    def train(self, order):
        for _ in order:
            for a, b, out in self.products:
                np.matmul(a, b, out=out)


# -------------------------------------------------- PyTorch


class TorchEager:
    fused = False

    def __init__(self, workload, weights, images, threads):
        import torch

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.torch, self.workload = torch, workload
        self.images = torch.from_numpy(images.astype("f4") / 255)
        depth = len(workload.encoder)
        self.encoder, self.decoder = self.sequential(weights[:depth]), self.sequential(weights[depth:])
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        if workload.optimizer == "adam":
            self.optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=self.fused)
        else:  # PyTorch has no fused RMSprop; foreach is its nearest
            self.optimizer = torch.optim.RMSprop(parameters, 1e-3, alpha=0.9, eps=1e-7, foreach=self.fused)

    def sequential(self, weights):
        nn, layers = self.torch.nn, []
        for W, b in weights:
            linear = nn.Linear(*W.shape)
            with self.torch.no_grad():
                linear.weight.copy_(self.torch.from_numpy(W.T.copy()))
                linear.bias.copy_(self.torch.from_numpy(b))
            layers += [linear, nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def negative_elbo(self, x, eps):
        torch, F = self.torch, self.torch.nn.functional
        mu, log_var = self.encoder(x).chunk(2, dim=1)
        logits = self.decoder(mu + torch.exp(0.5 * log_var) * eps)
        if self.workload.likelihood == "bernoulli":
            reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        else:
            reconstruction = 0.5 * F.mse_loss(torch.sigmoid(logits), x, reduction="sum")
        kl = 0.5 * torch.sum(mu**2 + log_var.exp() - log_var - 1)
        return (reconstruction + kl) / len(x)

    def loss(self, x, eps):
        with self.torch.no_grad():
            return float(self.negative_elbo(self.torch.from_numpy(x), self.torch.from_numpy(eps)))

    def train(self, order):
        torch = self.torch
        total = torch.zeros(())
        for rows in torch.from_numpy(order):
            x = self.images[rows]
            eps = torch.randn(len(x), self.workload.latent)
            self.optimizer.zero_grad()
            loss = self.negative_elbo(x, eps)
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        return float(total) / len(order)


class TorchFused(TorchEager):
    fused = True


class TorchCompile(TorchFused):
    def __init__(self, *args):
        super().__init__(*args)
        self.negative_elbo = self.torch.compile(self.negative_elbo)


# -------------------------------------------------- JAX


class JaxStep:
    """One jitted, donated function for a step, called from a Python loop."""

    def __init__(self, workload, weights, images, threads):
        import jax

        self.jax, self.workload = jax, workload
        self.images = jax.numpy.asarray(images.astype("f4") / 255)
        self.parameters = jax.tree.map(jax.numpy.asarray, weights)
        zeros = lambda: jax.tree.map(jax.numpy.zeros_like, self.parameters)  # noqa: E731
        self.state = (jax.numpy.zeros((), "i4"), zeros(), zeros())
        self.key = jax.random.key(0)
        self.compiled_loss = jax.jit(self.negative_elbo)
        self.compile()

    def compile(self):
        self.step = self.jax.jit(self.one_step, donate_argnums=(0, 1))

    def negative_elbo(self, parameters, x, eps):
        jax, jnp = self.jax, self.jax.numpy
        depth = len(self.workload.encoder)
        mu, log_var = jnp.split(self.network(parameters[:depth], x), 2, axis=1)
        logits = self.network(parameters[depth:], mu + jnp.exp(0.5 * log_var) * eps)
        if self.workload.likelihood == "bernoulli":
            reconstruction = jnp.sum(jax.nn.softplus(logits) - x * logits)
        else:
            reconstruction = 0.5 * jnp.sum((x - jax.nn.sigmoid(logits)) ** 2)
        kl = 0.5 * jnp.sum(mu**2 + jnp.exp(log_var) - log_var - 1)
        return (reconstruction + kl) / len(x)

    def network(self, layers, x):
        for W, b in layers[:-1]:
            x = self.jax.nn.relu(x @ W + b)
        W, b = layers[-1]
        return x @ W + b

    def updated(self, parameters, gradients, state):
        jnp, tree = self.jax.numpy, self.jax.tree
        t, m, v = state
        t = t + 1
        if self.workload.optimizer == "rmsprop":
            v = tree.map(lambda v, g: 0.9 * v + 0.1 * g * g, v, gradients)
            parameters = tree.map(lambda p, g, v: p - 1e-3 * g / jnp.sqrt(v + 1e-7), parameters, gradients, v)
            return parameters, (t, m, v)
        m = tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
        v = tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradients)
        first, second = 1 - 0.9**t, 1 - 0.999**t
        parameters = tree.map(lambda p, m, v: p - 1e-3 * (m / first) / (jnp.sqrt(v / second) + 1e-8), parameters, m, v)
        return parameters, (t, m, v)

    def one_step(self, parameters, state, images, rows, key):
        eps = self.jax.random.normal(key, (len(rows), self.workload.latent))
        loss, gradients = self.jax.value_and_grad(self.negative_elbo)(parameters, images[rows], eps)
        return *self.updated(parameters, gradients, state), loss

    def loss(self, x, eps):
        return float(self.compiled_loss(self.parameters, x, eps))

    def train(self, order):
        self.key, key = self.jax.random.split(self.key)
        keys = list(self.jax.random.split(key, len(order)))
        total = 0
        for rows, key in zip(order, keys, strict=True):
            self.parameters, self.state, loss = self.step(self.parameters, self.state, self.images, rows, key)
            total = total + loss
        return float(total) / len(order)


class JaxScan(JaxStep):
    """The whole epoch as one compiled `lax.scan`: Python is entered once."""

    def compile(self):
        self.epoch = self.jax.jit(self.scan, donate_argnums=(0, 1))

    def scan(self, parameters, state, images, order, key):
        def body(carry, inputs):
            rows, key = inputs
            *carry, loss = self.one_step(*carry, images, rows, key)
            return tuple(carry), loss

        keys = self.jax.random.split(key, len(order))
        (parameters, state), losses = self.jax.lax.scan(body, (parameters, state), (order, keys))
        return parameters, state, losses.mean()

    def train(self, order):
        self.key, key = self.jax.random.split(self.key)
        self.parameters, self.state, loss = self.epoch(self.parameters, self.state, self.images, order, key)
        return float(loss)


# -------------------------------------------------- Keras on JAX


class KerasJax:
    """Keras 3 in its stateless form for JAX: layers and optimizer are Keras's, the step is jitted."""

    def __init__(self, workload, weights, images, threads):
        os.environ["KERAS_BACKEND"] = "jax"
        import jax
        import keras

        self.jax, self.keras, self.workload = jax, keras, workload
        self.images = jax.numpy.asarray(images.astype("f4") / 255)
        depth = len(workload.encoder)
        self.encoder, self.decoder = self.sequential(weights[:depth]), self.sequential(weights[depth:])
        if workload.optimizer == "adam":
            self.optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-8)
        else:
            self.optimizer = keras.optimizers.RMSprop(1e-3, rho=0.9, epsilon=1e-7)
        self.optimizer.build(self.encoder.trainable_variables + self.decoder.trainable_variables)
        values = lambda variables: [v.value for v in variables]  # noqa: E731
        self.parameters = (values(self.encoder.variables), values(self.decoder.variables))
        self.state = values(self.optimizer.variables)
        self.key = jax.random.key(0)
        self.compiled_loss = jax.jit(self.negative_elbo)
        self.step = jax.jit(self.one_step, donate_argnums=(0, 1))

    def sequential(self, weights):
        layers, last = self.keras.layers, len(weights) - 1
        network = self.keras.Sequential([self.keras.Input((weights[0][0].shape[0],))])
        for i, (W, b) in enumerate(weights):
            network.add(layers.Dense(len(b), activation="relu" if i < last else None))
            network.layers[-1].set_weights([W, b])
        return network

    def negative_elbo(self, parameters, x, eps):
        ops = self.keras.ops
        encoder, decoder = parameters
        stats, _ = self.encoder.stateless_call(encoder, [], x)
        mu, log_var = ops.split(stats, 2, axis=1)
        logits, _ = self.decoder.stateless_call(decoder, [], mu + ops.exp(0.5 * log_var) * eps)
        if self.workload.likelihood == "bernoulli":
            reconstruction = ops.sum(ops.binary_crossentropy(x, logits, from_logits=True))
        else:
            reconstruction = 0.5 * ops.sum(ops.square(x - ops.sigmoid(logits)))
        kl = 0.5 * ops.sum(ops.square(mu) + ops.exp(log_var) - log_var - 1)
        return (reconstruction + kl) / x.shape[0]

    def one_step(self, parameters, state, images, rows, key):
        eps = self.jax.random.normal(key, (len(rows), self.workload.latent))
        loss, gradients = self.jax.value_and_grad(self.negative_elbo)(parameters, images[rows], eps)
        depth = len(parameters[0])
        flat, state = self.optimizer.stateless_apply(
            state, [*gradients[0], *gradients[1]], [*parameters[0], *parameters[1]]
        )
        return (flat[:depth], flat[depth:]), state, loss

    loss, train = JaxStep.loss, JaxStep.train


PEERS = {
    "torch": {
        "torch eager": TorchEager,
        "torch fused optimizer": TorchFused,
        "torch.compile": TorchCompile,
    },
    "jax": {"JAX jitted step": JaxStep, "JAX lax.scan": JaxScan},
    "keras": {"Keras on JAX": KerasJax},
}
