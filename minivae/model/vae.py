"""The variational autoencoder: the forward pass from top to bottom, then its mirror image, composed by hand."""

import math
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..arguments import array, integer, number
from ..arguments import seed as check_seed
from ..engine import get_backend
from ..engine.backend import NumpyBackend
from ..errors import MiniVAEError, named, shown
from ..parallel import ALONE, Ranks, check_ranks
from ..progress import progress_bar
from ..randomness import CALL_NOISE, EVALUATION_NOISE, LIKELIHOOD_NOISE, SAMPLING, generator
from . import checks
from .bounds import ELBO, Bound
from .labels import Labels, append_labels
from .layers import Layer, Sequential
from .likelihoods import Bernoulli, Likelihood
from .parameters import allocate, joined, within
from .posteriors import DiagonalGaussian, Posterior
from .priors import Prior

# Decoder rows at a time outside training, and values of a layer: enough for speed, few enough for memory.
INFERENCE_ROWS, INFERENCE_VALUES = 1000, 1 << 23
CHECKED_ROWS = 10_000  # of x at a time
PASSED_OVER = 1 << 20  # numbers drawn at a time for nothing


# Overflow shows in the results, which are checked: that says more than a warning, and works on a GPU too.
unwarned = np.errstate(over="ignore", invalid="ignore")


def finite(name, values):
    """The NumPy array `values`; raises MiniVAEError where one of them is a NaN or an infinity."""
    if not np.isfinite(values).all():
        raise MiniVAEError(
            f"{name} is not finite: the model's weights are damaged or, like x or z, too large. Go back to weights "
            'that worked, scale the data to about 1, or use dtype="float64"'
        )
    return values


@dataclass(frozen=True)
class Losses:
    """Averages over examples (of `score`, arrays), in nats per example; loss is what training minimises."""

    loss: float
    reconstruction: float
    kl: float

    @property
    def negative_elbo(self) -> float:
        """reconstruction + kl: -ELBO, whatever beta is."""
        return self.reconstruction + self.kl

    def as_columns(self, prefix: str) -> dict[str, float]:
        """A dict with the keys prefix_loss, prefix_reconstruction, prefix_kl."""
        return {f"{prefix}_{name}": value for name, value in asdict(self).items()}


def to_unit(pixels, dtype):
    """x in the model's dtype; uint8 pixels are divided by 255."""
    return pixels.astype(dtype) * (1 / 255) if pixels.dtype == np.uint8 else pixels.astype(dtype)


def check_vae(name, value):
    """The value; raises MiniVAEError unless it is a VAE."""
    if not isinstance(value, VAE):
        raise MiniVAEError(f"{name} should be a VAE, got {named(value)}")
    return value


class VAE:
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
    backend    : "numpy", "cupy", "auto" or a backend
    dtype      : "float32" or "float64"
    seed       : an integer that keys the initial values and all noise
    prior      : p(z), StandardNormal(D) by default; another one's KL is that of the samples
    n_classes  : makes the model conditional, p(x given z, y) and q(z given x, y), on labels y = 0 .. n_classes - 1,
                 (N,) or one number for all rows. Encoder and decoder get them one-hot behind x and z, so their first
                 layers are n_classes wider, and all methods want y=

    `history` is the History of the last training, None before. `epochs` counts those of all its trainings.
    `parameters` and `gradients` map names such as "encoder.0.W" to views of the flat arrays in their `.flat`.
    Every method takes and returns NumPy arrays, on either backend, in batches of any size. x is (B, X), or
    (B, ...) with X values a row; uint8 is read as pixels and divided by 255.
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
        self.free_bits = checks.check_free_bits(free_bits, self.analytic)
        checks.warn_of_limits(self.encoder, self.decoder, self.likelihood)
        self.inference_rows = max(1, min(INFERENCE_ROWS, INFERENCE_VALUES // self._widest()))
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

    def _widest(self):
        """The largest number of values in a row between two layers, or in the prior."""
        widths = [self.input_dim, self.prior.components * self.latent_dim]
        for part in (self.encoder, self.decoder):
            shape = part.input_shape
            for layer in part.layers:
                shape = layer.output_shape(shape)
                widths.append(math.prod(shape))
        return max(widths)

    @property
    def beta(self):
        return self._beta

    @beta.setter
    def beta(self, beta):
        if not 0 <= number(beta) < math.inf:
            raise MiniVAEError(f"VAE: beta should be a finite number of at least 0, got {shown(beta)}")
        self._beta = float(beta)
        self.beta_array.fill(self._beta)

    # --------------------------------------------------------------------------------------- the passes

    def forward(self, params, x, eps, beta, y=None, free_bits=0.0):
        """The loss of each example and its two parts, and the backward pass of the loss.

        params : arrays by name, parameters and constants;  x (B, X);  eps (L, B, D), noise;  beta (1,)
        y      : one-hot labels (B, C), for a model with classes
        Returns (loss, reconstruction, kl), each (B,), nats, and backward(dloss (B,)) -> the gradients by name.

        The chain rule from end to start: the loss depends on log p(x given z) and the KL; the first on the decoder's
        output, which depends on z; z and the KL depend on the encoder's output.
        """
        (L, B, _), of = eps.shape, {name: within(params, name) for name in self.parts}

        stats, encoder_backward = self.encoder.forward(of["encoder"], self._with_labels(x, y)[0])
        if self.analytic:
            (z, kl, floor), z_backward = self.posterior.with_kl(of["posterior"], stats, eps, free_bits)
        else:
            (z, log_q), z_backward = self.posterior.with_log_q(of["posterior"], stats, eps)
            of_prior, components_backward = self._prior_params(of)
            log_pz, prior_backward = self.prior.log_prob(of_prior, z.reshape(L * B, -1))
            kl = log_q - log_pz.reshape(L, B)
        z_and_y, labels_backward = self._with_labels(z, y)
        out, decoder_backward = self.decoder.forward(of["decoder"], z_and_y.reshape(L * B, -1))
        log_px, likelihood_backward = self.likelihood.log_prob(of["likelihood"], x, out.reshape(L, B, -1))
        (loss, reconstruction, mean_kl), bound_backward = self.bound.loss(log_px, kl, beta)
        if free_bits:
            loss = loss + beta * floor

        def backward(dloss):
            grads = {}
            dlog_px, dkl = bound_backward(dloss)
            dout, grads["likelihood"] = likelihood_backward(dlog_px)
            dz_and_y, grads["decoder"] = decoder_backward(dout.reshape(L * B, -1))
            dz = labels_backward(dz_and_y.reshape(L, B, -1))
            if not self.analytic:
                dz_of_prior, of_prior = prior_backward(-dkl.reshape(L * B))  # kl = log q - log p(z)
                dz = dz + dz_of_prior.reshape(L, B, -1)
                grads["prior"], of_components = components_backward(of_prior)
            dstats, grads["posterior"] = z_backward(dz, dkl)
            _, grads["encoder"] = encoder_backward(dstats)
            if self.prior.n_inputs:  # whose components are the encoder's work, too
                grads["encoder"] = {name: grad + of_components[name] for name, grad in grads["encoder"].items()}
            return joined(grads)

        return (loss, reconstruction, mean_kl), backward

    def _prior_params(self, of):
        """What the prior is handed: its parameters and, where it has pseudo-inputs, what the encoder makes of them.

        Of the mapping `of` from parts to their params. The way back goes from the gradients of what is handed over to
        those of the prior's parameters and of the encoder's. Pseudo-inputs are encoded without Dropout.
        """
        if not self.prior.n_inputs:
            return of["prior"], lambda grads: (grads, {})
        drawn = self.encoder.uniform_shapes(self.encoder.input_shape)
        u, u_backward = self.prior.pseudo_inputs(of["prior"])
        kept = {name: value for name, value in of["encoder"].items() if name not in drawn}
        stats, encoder_backward = self.encoder.forward(kept, u)

        def backward(grads):
            du, of_encoder = encoder_backward(grads["stats"])
            others = {name: grad for name, grad in grads.items() if name != "stats"}
            return others | u_backward(du), of_encoder

        return of["prior"] | {"stats": stats}, backward

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

    def losses_and_gradients(self, params, x, eps, beta, y=None, batch_size=None):
        """The losses (3, B) of `forward`, and the gradients of the mean loss as one array, in the parameters' order.

        batch_size : of how many examples the mean is, where x is a part of them; the gradients of all parts then add up
                     to that of the batch. With free bits, `params` has the `lack` of the batch as "posterior.lack"
        """
        losses, backward = self.forward(params, x, eps, beta, y, self.free_bits)
        grads = backward(np.full_like(losses[0], 1 / (batch_size or x.shape[0])))
        return np.stack(losses), np.concatenate([grads[name].reshape(-1) for name in self.parameters])

    def lack(self, params, x, y=None):
        """What the rows x lack of the free bits, (1, D), nats: summed over a batch, negative for what counts."""
        stats, _ = self.encoder.forward(within(params, "encoder"), self._with_labels(x, y)[0])
        return self.posterior.lack(within(params, "posterior"), stats, self.free_bits)

    def named(self, flat):
        """What `forward` calls params: views into a flat array of parameters, and the constants."""
        return self.parameters.named(flat) | self.constants

    @property
    def _params(self):
        return dict(self.parameters) | self.constants

    def _encode(self, x, y):
        """The posterior's statistics of a batch on the device."""
        return self.encoder.forward(within(self._params, "encoder"), self._with_labels(x, y)[0])[0]

    def _decode(self, z, y):
        """The likelihood's parameters for z (N, D), or (L, B, D) with labels (B, C)."""
        rows, _ = self._with_labels(z, y)
        out, _ = self.decoder.forward(within(self._params, "decoder"), rows.reshape(-1, rows.shape[-1]))
        return out.reshape(*z.shape[:-1], -1)

    def _of_prior(self):
        """What the prior is handed, see `_prior_params`."""
        return self._prior_params({name: within(self._params, name) for name in self.parts})[0]

    def _log_weights(self, x, y, eps, of_prior=None):
        """The logarithms of the importance weights p(x given z) p(z) / q(z given x), (L, B)."""
        params = self._params
        (z, log_q), _ = self.posterior.with_log_q(within(params, "posterior"), self._encode(x, y), eps)
        log_px, _ = self.likelihood.log_prob(within(params, "likelihood"), x, self._decode(z, y))
        of_prior = self._of_prior() if of_prior is None else of_prior
        log_pz, _ = self.prior.log_prob(of_prior, z.reshape(-1, self.latent_dim))
        return log_px + log_pz.reshape(log_px.shape) - log_q

    # ---------------------------------------------------------------------------- input and its checks

    def check_input(self, x, ranks=ALONE):
        """x as a NumPy array (N, X) of native uint8, float32 or float64; other numbers become the model's dtype.

        Not copied where that is what x holds. Raises MiniVAEError where it is no input for this model; each of several
        ranks looks at the values of its own share of the rows.
        """
        x = array("x", x)
        if x.ndim == 0 or x.size == 0:
            raise MiniVAEError(f"x should be (B, {self.input_dim}) with at least one row, got shape {x.shape}")
        x = x.reshape(len(x), -1)
        if x.shape[1] != self.input_dim:
            raise MiniVAEError(
                f"the encoder expects (B, {self.input_dim}), got {x.shape}: did you pass other images, or one "
                "image without the batch axis?"
            )
        if x.dtype == np.uint8:
            return x
        if x.dtype not in (np.float32, np.float64):  # which also holds for another byte order
            with np.errstate(over="ignore"):
                x = x.astype(self.dtype)  # what overflows is found below
        own = ranks.share(len(x))
        for start in range(own.start, own.stop, CHECKED_ROWS):
            rows = x[start : min(start + CHECKED_ROWS, own.stop)]
            if not np.isfinite(rows).all():
                bad = start + int(np.argmin(np.isfinite(rows).all(axis=1)))
                raise MiniVAEError(f"x has a NaN or an infinity in row {bad}: clean the data first")
            self.likelihood.check(rows)
        return x

    def _to_device(self, rows):
        """A checked NumPy batch (B, X) as an array of the model's dtype on the device."""
        return to_unit(self.backend.asarray(rows), self.dtype)

    def _one_hot(self, y):
        y = self.labels.one_hot(y, self.dtype)
        return None if y is None else self.backend.asarray(y)

    def _batches(self, x, y, rows, ranks=ALONE):
        """Pairs of x (rows, X) and labels (rows, C) or None on the device, of this rank's share of a checked x."""
        y, own = self.labels.check(y, len(x)), ranks.share(len(x))
        for start in range(own.start, own.stop, rows):
            batch = slice(start, min(start + rows, own.stop))
            yield self._to_device(x[batch]), self._one_hot(None if y is None else y[batch])

    def _draw(self, rng, samples, rows):
        """Noise (L, B, D) on the device, drawn example by example, so that it does not depend on the batch size."""
        eps = rng.standard_normal((rows, samples, self.latent_dim), np.float32)
        return self.backend.asarray(eps.transpose(1, 0, 2), self.dtype)

    def _pass_over(self, rng, samples, rows):
        """Draw the noise of rows that are another rank's, so that the next rows get their own."""
        left = rows * samples * self.latent_dim
        while left:
            left -= len(rng.standard_normal(min(left, PASSED_OVER), np.float32))

    def _check_eps(self, eps, rows):
        eps = array("eps", eps)
        if eps.ndim == 2:
            eps = eps[None]
        if eps.ndim != 3 or eps.shape[1:] != (rows, self.latent_dim) or len(eps) == 0:
            raise MiniVAEError(
                f"eps should be (L, {rows}, {self.latent_dim}) or ({rows}, {self.latent_dim}), got {eps.shape}"
            )
        return self.backend.asarray(eps, self.dtype)

    def _check_z(self, z):
        z = array("z", z)
        if z.ndim != 2 or z.shape[1] != self.latent_dim or len(z) == 0:
            hint = ": did you pass the statistics (mu, log_var)?" if z.shape[1:] == (2 * self.latent_dim,) else ""
            raise MiniVAEError(f"z should be (N, {self.latent_dim}) with N at least 1, got {z.shape}{hint}")
        return z

    # ------------------------------------------------------------------------------------- what users call

    @unwarned
    def loss_and_gradients(
        self, x: np.ndarray, eps: np.ndarray | None = None, y: np.ndarray | int | None = None
    ) -> Losses:
        """The losses of one batch; fills `gradients` with those of `.loss`.

        x : (B, X);  eps : noise (L, B, D) or (B, D); None draws one sample from the model's own generator
        Returns Losses, nats per example averaged over the batch; raises MiniVAEError where one of them or a gradient
        is not finite.
        """
        x = self._to_device(self.check_input(x))
        y = self._one_hot(self.labels.check(y, len(x)))
        eps = self._draw(self._noise, 1, len(x)) if eps is None else self._check_eps(eps, len(x))
        losses, gradients = self.losses_and_gradients(self._params, x, eps, self.beta_array, y)
        self.gradients.flat[...] = gradients
        losses = self.backend.to_host(losses).mean(axis=1, dtype=np.float64)
        finite("the loss", losses)
        finite("the gradient", self.backend.to_host(np.sum(gradients * 0)))
        return Losses(*losses.tolist())

    def evaluate(
        self,
        x: np.ndarray,
        samples: int = 1,
        seed: int = 0,
        batch_size: int | None = None,
        y: np.ndarray | int | None = None,
        parallel: Ranks | None = None,
    ) -> Losses:
        """The losses on x (N, X) with `samples` draws of z for each example, without gradients.

        parallel : ranks to share the examples with, see `minivae.parallel.mpi`; all of them must call it

        The noise is keyed by (seed, position of the example): the result does not depend on the batch size.
        Returns Losses, nats per example averaged over N.
        """
        scores = self.score(x, samples, seed, batch_size, y, parallel)
        return Losses(*(float(np.mean(terms)) for terms in (scores.loss, scores.reconstruction, scores.kl)))

    @unwarned
    def score(
        self,
        x: np.ndarray,
        samples: int = 1,
        seed: int = 0,
        batch_size: int | None = None,
        y: np.ndarray | int | None = None,
        parallel: Ranks | None = None,
    ) -> Losses:
        """The losses that `evaluate` averages, of each example: Losses of arrays (N,), nats.

        As anomaly scores, high for what the model finds strange: `negative_elbo`, and `reconstruction` with some
        ten samples, which is minus the reconstruction probability of An & Cho 2015, algorithm 4.
        """
        samples, rng = integer("samples", samples), generator(check_seed("seed", seed), EVALUATION_NOISE)
        batch_size = max(1, self.inference_rows // samples) if batch_size is None else integer("batch_size", batch_size)
        ranks = check_ranks("score: parallel", parallel)
        x = self.check_input(x, ranks)
        start, scores = ranks.share(len(x)).start, np.zeros((3, len(x)))
        self._pass_over(rng, samples, start)
        for batch, labels in self._batches(x, y, batch_size, ranks):
            eps = self._draw(rng, samples, len(batch))
            losses, _ = self.forward(self._params, batch, eps, self.beta_array, labels)
            scores[:, start : start + len(batch)] = self.backend.to_host(np.stack(losses))
            start += len(batch)
        ranks.allreduce(scores)
        return Losses(*finite("the loss", scores))

    @unwarned
    def encode(self, x: np.ndarray, y: np.ndarray | int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """mu and log_var of q(z given x), each (N, D)."""
        x, mus, log_vars = self.check_input(x), [], []
        for batch, labels in self._batches(x, y, self.inference_rows):
            mu, log_var = self.posterior.moments(within(self._params, "posterior"), self._encode(batch, labels))
            mus.append(np.array(self.backend.to_host(mu)))
            log_vars.append(np.array(self.backend.to_host(log_var)))
        return finite("mu", np.concatenate(mus)), finite("log_var", np.concatenate(log_vars))

    @unwarned
    def decode(self, z: np.ndarray, y: np.ndarray | int | None = None) -> np.ndarray:
        """The mean of p(x given z), (N, X), for z (N, D)."""
        z = self._check_z(z)
        means, y = [], self.labels.check(y, len(z))
        for start in range(0, len(z), self.inference_rows):
            batch = slice(start, start + self.inference_rows)
            labels = self._one_hot(None if y is None else y[batch])
            out = self._decode(self.backend.asarray(z[batch], self.dtype), labels)
            mean = self.likelihood.mean(within(self._params, "likelihood"), out)
            means.append(np.array(self.backend.to_host(mean)))
        return finite("the mean of p(x given z)", np.concatenate(means))

    @unwarned
    def reconstruct(
        self, x: np.ndarray, eps: np.ndarray | None = None, y: np.ndarray | int | None = None
    ) -> np.ndarray:
        """The mean of p(x given z) at z = the posterior mean, (N, X).

        eps : noise (L, N, D) or (N, D); the mean is then taken at these draws of z from q(z given x): (L, N, X)
        """
        if eps is None:
            return self.decode(self.encode(x, y)[0], y)
        x = self.check_input(x)
        eps = self._check_eps(eps, len(x))
        z, start = np.empty(eps.shape, self.dtype), 0
        for batch, labels in self._batches(x, y, self.inference_rows):
            rows = np.s_[:, start : start + len(batch)]
            stats = self._encode(batch, labels)
            (drawn, _), _ = self.posterior.with_log_q(within(self._params, "posterior"), stats, eps[rows])
            z[rows] = self.backend.to_host(drawn)
            start += len(batch)
        y = None if y is None else np.broadcast_to(y, eps.shape[:2]).reshape(-1)
        return self.decode(z.reshape(-1, self.latent_dim), y).reshape(*eps.shape[:2], -1)

    def sample(self, n: int, seed: int | None = None, y: np.ndarray | int | None = None) -> np.ndarray:
        """The means of p(x given z), (n, X), at n draws of z from the prior.

        seed : the same gives the same draws; None draws anew at each call, from a stream that the model's seed starts
        """
        n = integer("sample: n", n)
        rng = self._prior_noise if seed is None else generator(check_seed("seed", seed), SAMPLING)
        return self.decode(self.draw_prior(n, rng), y)

    @unwarned
    def log_prior(self, z: np.ndarray) -> np.ndarray:
        """log p(z) of z (N, D), a NumPy array (N,), nats."""
        log_pz, _ = self.prior.log_prob(self._of_prior(), self.backend.asarray(self._check_z(z), self.dtype))
        return finite("log p(z)", np.array(self.backend.to_host(log_pz)))

    def draw_prior(self, n, rng):
        """n draws of z from the prior, (n, D), by a NumPy generator."""
        on_host = {name: self.backend.to_host(value) for name, value in self._of_prior().items()}
        return finite("z", self.prior.sample(on_host, n, rng))

    @unwarned
    def log_likelihood(
        self,
        x: np.ndarray,
        samples: int = 5000,
        seed: int = 0,
        y: np.ndarray | int | None = None,
        progress: bool | None = None,
        parallel: Ranks | None = None,
    ) -> float:
        """An importance-sampling estimate of log p(x), averaged over examples; nats per example.

            log p(x) ~ log(1/L sum_l p(x given z_l) p(z_l) / q(z_l given x)),   z_l ~ q

        progress : whether to show a progress bar with the examples per second; None shows it on a terminal and in a
                   notebook only
        parallel : ranks to share the examples with, see `minivae.parallel.mpi`; all of them must call it

        It lies below log p(x) on average and tends to it as `samples` grows. Memory does not grow with x or with
        `samples`. The noise is keyed by (seed, position of the example).
        Source: Burda, Grosse & Salakhutdinov 2016, section 5.
        """
        ranks = check_ranks("log_likelihood: parallel", parallel)
        x, samples = self.check_input(x, ranks), integer("samples", samples)
        rng, of_prior = generator(check_seed("seed", seed), LIKELIHOOD_NOISE), self._of_prior()
        total, own = np.zeros(1), ranks.share(len(x))
        self._pass_over(rng, samples, own.start)
        with progress_bar(own.stop - own.start, "example", progress) as bar:
            for batch, labels in self._batches(x, y, max(1, self.inference_rows // samples), ranks):
                total += self._log_mean_weight(batch, labels, samples, rng, of_prior).sum()
                bar.update(len(batch))
        ranks.allreduce(total)
        return float(finite("log p(x)", total[0] / len(x)))

    def _log_mean_weight(self, batch, labels, samples, rng, of_prior):
        """The logarithm of the mean importance weight of each example, (B,); float64 on the host."""
        log_sum = np.full(len(batch), -np.inf)
        for start in range(0, samples, self.inference_rows):
            eps = self._draw(rng, min(self.inference_rows, samples - start), len(batch))
            log_w = self.backend.to_host(self._log_weights(batch, labels, eps, of_prior)).astype(np.float64)
            log_sum = np.logaddexp(log_sum, np.logaddexp.reduce(log_w, axis=0))
        return log_sum - math.log(samples)

    def active_units(self, x: np.ndarray, threshold: float = 0.01, y: np.ndarray | int | None = None) -> np.ndarray:
        """Which of the D latent units depend on x, a NumPy array (D,) of bool.

            active_d = Var_x(E_q[z_d given x]) > threshold

        x should hold many examples. With a flow posterior the mean is that of its base.
        Source: Burda, Grosse & Salakhutdinov 2016, section 5.2.
        """
        least = number(threshold)
        if math.isnan(least):
            raise MiniVAEError(f"active_units: threshold should be a number, got {shown(threshold)}")
        return self.encode(x, y)[0].var(axis=0) > least

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
