"""The variational autoencoder: the forward pass from top to bottom, then its mirror image, composed by hand."""

import os
import threading
from collections.abc import Sequence

import numpy as np

from ..arguments import at_least
from ..arguments import seed as check_seed
from ..engine import get_backend
from ..engine.backend import NumpyBackend
from ..errors import MiniVAEError, named
from ..randomness import CALL_NOISE, SAMPLING, generator
from . import checks
from .bounds import ELBO, Bound
from .inference import Inference, Losses, finite, unwarned
from .labels import Labels, append_labels
from .layers import Layer, Sequential
from .likelihoods import Bernoulli, Likelihood
from .parameters import allocate, joined, summed, within
from .posteriors import DiagonalGaussian, Posterior
from .priors import Prior
from .regularisers import Regulariser


def check_vae(name, value):
    """The value; raises MiniVAEError unless it is a VAE."""
    if not isinstance(value, VAE):
        raise MiniVAEError(f"{name} should be a VAE, got {named(value)}")
    return value


class VAE(Inference):
    """A variational autoencoder.

        loss = mean over the batch of  beta KL(q(z given x) || p(z)) - E_q[log p(x given z)]

    encoder    : a list of layers; the last gives the posterior's statistics, (B, 2D), mu first, then log_var
    decoder    : a list of layers from z (rows, D) to the likelihood's parameters (rows, P)
    likelihood : p(x given z), Bernoulli() from logits by default
    beta       : the weight of the KL; may be changed at any time through `vae.beta`
    posterior  : q(z given x), DiagonalGaussian() by default
    bound      : ELBO() by default, or ImportanceWeighted()
    kl         : "analytic", or "monte-carlo" (log q - log p at the samples); None takes what the parts need
    free_bits  : training counts the KL of each latent dimension, averaged over the batch, as at least so many nats,
                 so that none is given up early (Kingma et al. 2016); only the loss in training shows it
    backend    : "numpy", "numba", "cupy", "auto" or a backend
    dtype      : "float32" or "float64"
    seed       : an integer that keys the initial values and all noise
    prior      : p(z), StandardNormal(D) by default, or what the posterior is made for; another one's KL is that of the
                 samples
    regulariser: what training adds to the loss for the codes of a batch, such as MMD(); only the loss in training
                 shows it
    n_classes  : makes the model conditional, p(x given z, y) and q(z given x, y), on labels y = 0 .. n_classes - 1,
                 (N,) or one number for all rows. Encoder and decoder get them one-hot behind x and z, so their first
                 layers are n_classes wider, and all methods want y=

    `history` is the History of the last training, None before. `epochs` counts those of all its trainings.
    `parameters` and `gradients` map names such as "encoder.0.W" to views of the flat arrays in their `.flat`.
    Every method takes and returns NumPy arrays, on all backends, in batches of any size. x is (B, X), or
    (B, ...) with X values a row; uint8 is read as pixels and divided by 255.
    Raises MiniVAEError for parts that do not fit together, and says which.
    Source: Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014.
    """

    def __init__(
        self,
        encoder: Sequence[Layer],
        decoder: Sequence[Layer],
        likelihood: Likelihood | None = None,
        beta: float = 1.0,
        posterior: Posterior | None = None,
        bound: Bound | None = None,
        kl: str | None = None,
        free_bits: float = 0.0,
        backend: str | NumpyBackend = "numpy",
        dtype: str = "float32",
        seed: int = 0,
        n_classes: int | None = None,
        prior: Prior | None = None,
        regulariser: Regulariser | None = None,
    ) -> None:
        self.backend, self.dtype = get_backend(backend), checks.check_dtype(dtype)
        self.seed = check_seed("VAE: seed", seed)
        self.n_classes, self.labels = n_classes, Labels(n_classes)
        self.encoder, self.decoder = Sequential(encoder), Sequential(decoder)
        self.likelihood = checks.check_part("likelihood", likelihood, Likelihood, Bernoulli)
        self.posterior = checks.check_part("posterior", posterior, Posterior, DiagonalGaussian)
        self.bound = checks.check_part("bound", bound, Bound, ELBO)
        self.input_dim, self.latent_dim = checks.check_sizes(
            self.encoder, self.decoder, self.posterior, self.likelihood, self.labels.n_classes
        )
        self.prior = checks.check_prior(prior, self.posterior, self.input_dim, self.latent_dim, self.labels.n_classes)
        self.analytic = checks.check_kl(kl, self.bound, self.posterior, self.prior)
        self.free_bits = checks.check_free_bits(free_bits, self.analytic, self.posterior)
        self.regulariser = checks.check_regulariser(regulariser, self.posterior, self.prior)
        checks.warn_of_limits(self.encoder, self.decoder, self.likelihood)
        self.inference_rows = self._rows_at_a_time()
        self.parts = {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "posterior": self.posterior,
            "likelihood": self.likelihood,
            "bound": self.bound,
            "prior": self.prior,
        }
        self.parameters, self.gradients, self.constants = allocate(self.parts, self.backend, self.dtype, self.seed)
        self.beta_array = self.backend.zeros((1,), self.dtype)
        self.beta, self.history, self.epochs = beta, None, 0
        self.in_training = threading.Lock()
        self._noise, self._prior_noise = generator(self.seed, CALL_NOISE), generator(self.seed, SAMPLING)

    @property
    def beta(self):
        return self._beta

    @beta.setter
    def beta(self, beta):
        self._beta = at_least("VAE: beta", beta)
        self.beta_array.fill(self._beta)

    # --------------------------------------------------------------------------------------- the passes

    def forward(self, params, x, eps, beta, y=None, training=False):
        """The loss of each example and its two parts, and the backward pass of the loss.

        params : arrays by name, parameters and constants;  x (B, X);  eps (L, B, D), noise;  beta (1,)
        y      : one-hot labels (B, C), for a model with classes
        training : whether what only training adds is in the loss: free bits, a regulariser, what a posterior wants.
                   Dropout is there where `params` have its uniform numbers
        Returns (loss, reconstruction, kl), each (B,), nats, and backward(dloss (B,)) -> the gradients by name.

        The chain rule from end to start: the loss depends on log p(x given z) and the KL; the first on the decoder's
        output, which depends on z; z and the KL depend on the encoder's output.
        """
        (L, B, _), params_of = eps.shape, {name: within(params, name) for name in self.parts}
        if training:
            params_of["posterior"] = self.posterior.for_training(params_of["posterior"], eps)

        stats, encoder_backward = self.encoder.forward(params_of["encoder"], self._with_labels(x, y)[0])
        (z, kl, added), z_backward = self._z_and_kl(params_of, stats, eps, beta, training)
        z_and_y, labels_backward = self._with_labels(z, y)
        out, decoder_backward = self.decoder.forward(params_of["decoder"], z_and_y.reshape(L * B, -1))
        log_px, likelihood_backward = self.likelihood.log_prob(params_of["likelihood"], x, out.reshape(L, B, -1))
        (loss, reconstruction, mean_kl), bound_backward = self.bound.loss(log_px, kl, beta)
        for term in added:
            loss = loss + term

        def backward(dloss):
            dlog_px, dkl = bound_backward(dloss)
            dout, likelihood_grads = likelihood_backward(dlog_px)
            dz_and_y, decoder_grads = decoder_backward(dout.reshape(L * B, -1))
            dz = labels_backward(dz_and_y.reshape(L, B, -1))
            dstats, grads = z_backward(dz, dkl, dloss)
            _, encoder_grads = encoder_backward(dstats)
            of_parts = {"likelihood": likelihood_grads, "decoder": decoder_grads, "encoder": encoder_grads}
            return summed(joined(of_parts), grads)

        return (loss, reconstruction, mean_kl), backward

    def _z_and_kl(self, params_of, stats, eps, beta, training):
        """z, drawn from q(z given x), the KL from there to the prior, and what only training adds to the loss.

        params_of : by part;  stats (B, S), the encoder's statistics
        Returns (z (L, B, D), kl, added), and backward(dz, dkl, dloss) -> dstats, grads. kl is (B,) in closed form or
        (L, B), of each draw; `added` is a list of arrays (B,), nats.
        """
        added, free_bits = [], self.free_bits if training else 0.0
        if self.analytic and (training or not self.posterior.trains_otherwise):
            (z, kl, floor), kl_backward = self._closed_kl(params_of, stats, eps, free_bits)
            if free_bits or self.posterior.trains_otherwise:
                added.append(beta * floor)  # whose gradient `kl_backward` has in that of the KL
        else:
            (z, kl), kl_backward = self._sampled_kl(params_of, stats, eps)
        regularised = training and self.regulariser is not None
        if regularised:
            penalty, penalty_backward = self.regulariser.penalty(z, stats)
            added.append(penalty)

        def backward(dz, dkl, dloss):
            if not regularised:
                return kl_backward(dz, dkl)
            dz_of_penalty, dstats_of_penalty = penalty_backward(dloss)
            dstats, grads = kl_backward(dz + dz_of_penalty, dkl)
            return dstats + dstats_of_penalty, grads

        return (z, kl, added), backward

    def _closed_kl(self, params_of, stats, eps, free_bits):
        """z, its KL, and what free bits add to that: (z (L, B, D), kl (B,), floor (B,)), backward(dz, dkl)."""
        values, q_backward = self.posterior.with_kl(params_of["posterior"], stats, eps, free_bits)

        def backward(dz, dkl):
            dstats, posterior_grads = q_backward(dz, dkl)
            return dstats, joined({"posterior": posterior_grads})

        return values, backward

    def _sampled_kl(self, params_of, stats, eps):
        """z, and log q(z given x) - log p(z) of each draw: (z (L, B, D), kl (L, B)), backward(dz, dkl).

        For any posterior and prior. The mean of a draw's kl is the KL, though it may itself be negative. As kl has
        -log p(z) in it, z has one gradient more.
        """
        L, B, D = eps.shape
        (z, log_q), q_backward = self.posterior.with_log_q(params_of["posterior"], stats, eps)
        prior_params, prior_params_backward = self._prior_params(params_of)
        log_pz, p_backward = self.prior.log_prob(prior_params, z.reshape(L * B, D))

        def backward(dz, dkl):
            dz_of_p, prior_grads = p_backward(-dkl.reshape(L * B))
            dstats, posterior_grads = q_backward(dz + dz_of_p.reshape(L, B, D), dkl)
            return dstats, summed(joined({"posterior": posterior_grads}), prior_params_backward(prior_grads))

        return (z, log_q - log_pz.reshape(L, B)), backward

    def _prior_params(self, params_of):
        """What the prior is handed: its parameters and, where it has pseudo-inputs, what the encoder makes of them; one
        that is `of_posterior` is handed the posterior's.

        The way back goes from the gradients of what is handed over to those of the prior's parameters and of the
        encoder's, by name. Pseudo-inputs are encoded without Dropout.
        """
        if not self.prior.n_inputs:
            owner = "posterior" if self.prior.of_posterior else "prior"
            return params_of[owner], lambda grads: joined({"prior": grads})
        drawn = self.encoder.uniform_shapes(self.encoder.input_shape)
        u, u_backward = self.prior.pseudo_inputs(params_of["prior"])
        kept = {name: value for name, value in params_of["encoder"].items() if name not in drawn}
        stats, encoder_backward = self.encoder.forward(kept, u)

        def backward(grads):
            du, encoder_grads = encoder_backward(grads["stats"])
            others = {name: grad for name, grad in grads.items() if name != "stats"}
            return joined({"prior": others | u_backward(du), "encoder": encoder_grads})

        return params_of["prior"] | {"stats": stats}, backward

    def uniform_shapes(self, samples, batch_size):
        """The shapes of the uniform numbers that a step of a training draws for layers such as Dropout, by name."""
        rows = {"encoder": batch_size, "decoder": samples * batch_size}
        return {
            f"{part}.{name}": (n, *shape)
            for part, n in rows.items()
            for name, shape in self.parts[part].uniform_shapes(self.parts[part].input_shape).items()
        }

    def _with_labels(self, x, y):
        """x with the labels behind it, or as it is for a model without classes; and the way back."""
        return append_labels(x, y) if self.labels.n_classes else (x, lambda dx: dx)

    def forward_and_backward(self, params, x, eps, beta, y=None, batch_size=None):
        """The losses (3, B) of `forward`, and the gradients of the mean loss as one array, in the parameters' order.

        batch_size : of how many examples the mean is, where x is a part of them; the gradients of all parts then add up
                     to that of the batch. With free bits, `params` has the `lack` of the batch as "posterior.lack"

        What a posterior trains by a loss of its own, such as a discriminator, has the gradients of that.
        """
        losses, backward = self.forward(params, x, eps, beta, y, training=True)
        dloss = np.full_like(losses[0], 1 / (batch_size or x.shape[0]))
        grads = backward(dloss)
        if self.posterior.has_own_loss:
            stats, _ = self.encoder.forward(within(params, "encoder"), self._with_labels(x, y)[0])
            of_posterior = self.posterior.for_training(within(params, "posterior"), eps)
            _, own_backward = self.posterior.own_loss(of_posterior, stats, eps)
            grads |= joined({"posterior": own_backward(dloss)})
        for name, values in self.parameters.items():
            given = getattr(grads[name], "shape", ()) if name in grads else "none"
            if given != values.shape:
                raise MiniVAEError(f"a backward pass should give the gradient of {name!r}, {values.shape}, got {given}")
        return np.stack(losses), np.concatenate([grads[name].reshape(-1) for name in self.parameters])

    def lack(self, params, x, y=None):
        """What the rows x lack of the free bits, (1, D), nats: summed over a batch, negative for what counts."""
        stats, _ = self.encoder.forward(within(params, "encoder"), self._with_labels(x, y)[0])
        return self.posterior.lack(within(params, "posterior"), stats, self.free_bits)

    @unwarned
    def loss_and_gradients(
        self, x: np.ndarray, eps: np.ndarray | None = None, y: np.ndarray | int | None = None
    ) -> Losses:
        """The losses of one batch as `fit` has them in a step; fills `gradients` with those of `.loss`.

        x   : (B, X)
        eps : noise (L, B, D) or (B, D); None draws one sample, and what Dropout leaves out, from the model's own
              generator. With given noise nothing is left to chance: Dropout lets all through
        Returns Losses, nats per example averaged over the batch; raises MiniVAEError where one of them or a gradient
        is not finite.
        """
        x = self._to_device(self.check_input(x))
        y = self._one_hot(self.labels.check(y, len(x)))
        params = self._params
        if eps is None:
            eps = self._draw(self._noise, 1, len(x))
            shapes = self.uniform_shapes(1, len(x))
            uniform = {name: self._noise.random(shape, np.float32) for name, shape in shapes.items()}
            params |= {name: self.backend.asarray(values) for name, values in uniform.items()}
        else:
            eps = self._check_eps(eps, len(x))
        losses, gradients = self.forward_and_backward(params, x, eps, self.beta_array, y)
        self.gradients.flat[...] = gradients
        losses = self.backend.to_host(losses).mean(axis=1, dtype=np.float64)
        finite("the loss", losses)
        finite("the gradient", self.backend.to_host(np.sum(gradients * 0)))
        return Losses(*losses.tolist())

    def summary(self) -> None:
        """Print a table of the layers with the shapes of their outputs and their numbers of parameters."""
        print(repr(self))

    def __repr__(self):
        from ..views.summary import summary

        return summary(self)

    def _repr_html_(self):
        from ..views.summary import html_summary

        return html_summary(self)

    def save(self, path: str | os.PathLike) -> None:
        """Write weights and architecture to one safetensors file; `minivae.load(path)` reads it back."""
        from ..storage import save

        save(self, path)

    # ---------------------------------------------------------------------------------- copies and pickles

    def __getstate__(self):
        constants = {name: self.backend.to_host(array) for name, array in self.constants.items()}
        return self.__dict__ | {"constants": constants, "beta_array": None, "in_training": None}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.constants = {name: self.backend.asarray(array) for name, array in self.constants.items()}
        self.beta_array = self.backend.zeros((1,), self.dtype)
        self.beta, self.in_training = self._beta, threading.Lock()
