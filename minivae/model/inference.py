"""What a model is used for beside its training: NumPy arrays in, NumPy arrays out, in batches of any size."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..arguments import array, integer, number
from ..arguments import seed as check_seed
from ..engine.backend import NumpyBackend
from ..engine.repeated import Repeated
from ..errors import MiniVAEError, shown
from ..parallel import ALONE, Ranks, check_ranks
from ..progress import progress_bar
from ..randomness import EVALUATION_NOISE, LIKELIHOOD_NOISE, SAMPLING, generator
from .labels import Labels
from .layers import Sequential
from .likelihoods import Likelihood
from .parameters import Parameters, joined, within
from .posteriors import Posterior
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
    """Averages over examples (of `score`, arrays, one number for each), in nats per example.

    loss is what training minimises: beta kl + reconstruction, or what the bound makes of them. `loss_and_gradients` and
    `fit` have in it what only training adds, such as free bits.
    """

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


class Inference:
    """The methods of a VAE that need no gradient: codes, draws, scores and likelihoods. `VAE` makes its parts."""

    encoder: Sequential
    decoder: Sequential
    posterior: Posterior
    likelihood: Likelihood
    prior: Prior
    labels: Labels
    parameters: Parameters
    forward: Callable[..., Any]
    backend: NumpyBackend
    dtype: np.dtype
    input_dim: int
    latent_dim: int
    inference_rows: int  # of a batch
    beta_array: np.ndarray
    _prior_noise: np.random.Generator

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
        losses = self._repeated(self._losses, {"beta": self.beta_array})
        for batch, labels in self._batches(x, y, batch_size, ranks):
            eps = self._draw(rng, samples, len(batch))
            scores[:, start : start + len(batch)] = losses(x=batch, y=labels, eps=eps)
            start += len(batch)
        ranks.allreduce(scores)
        return Losses(*finite("the loss", scores))

    @unwarned
    def encode(self, x: np.ndarray, y: np.ndarray | int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """mu and log_var of q(z given x), each (N, D).

        Of a flow posterior, mu is the mean of its base taken through the flows, which is a point of the decoder's space
        though not the mean of q, and log_var is that of its base.
        """
        x, mus, log_vars = self.check_input(x), [], []
        for batch, labels in self._batches(x, y, self.inference_rows):
            stats = self._encode(self._params, batch, labels)
            mu, log_var = self.posterior.moments(within(self._params, "posterior"), stats)
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
            out = self._decode(self._params, self.backend.asarray(z[batch], self.dtype), labels)
            mean = self.likelihood.mean(within(self._params, "likelihood"), out)
            means.append(np.array(self.backend.to_host(mean)))
        return finite("the mean of p(x given z)", np.concatenate(means))

    @unwarned
    def reconstruct(
        self, x: np.ndarray, eps: np.ndarray | None = None, y: np.ndarray | int | None = None
    ) -> np.ndarray:
        """The mean of p(x given z) at z = mu of `encode`, (N, X).

        eps : noise (L, N, D) or (N, D); the mean is then taken at these draws of z from q(z given x): (L, N, X)
        """
        if eps is None:
            return self.decode(self.encode(x, y)[0], y)
        x = self.check_input(x)
        eps = self._check_eps(eps, len(x))
        z, start = np.empty(eps.shape, self.dtype), 0
        for batch, labels in self._batches(x, y, self.inference_rows):
            rows = np.s_[:, start : start + len(batch)]
            stats = self._encode(self._params, batch, labels)
            (drawn, _), _ = self.posterior.with_log_q(within(self._params, "posterior"), stats, eps[rows])
            z[rows] = self.backend.to_host(drawn)
            start += len(batch)
        y = None if y is None else np.broadcast_to(y, eps.shape[:2]).reshape(-1)
        return self.decode(z.reshape(-1, self.latent_dim), y).reshape(*eps.shape[:2], -1)

    def sample(self, n: int, seed: int | None = None, y: np.ndarray | int | None = None) -> np.ndarray:
        """What the model invents: means of p(x given z), (n, X), at n draws of z from the prior. No x is drawn.

        seed : the same gives the same draws; None draws anew at each call, from a stream that the model's seed starts
        """
        n = integer("sample: n", n)
        rng = self._prior_noise if seed is None else generator(check_seed("seed", seed), SAMPLING)
        return self.decode(self.draw_prior(n, rng), y)

    @unwarned
    def log_prior(self, z: np.ndarray) -> np.ndarray:
        """log p(z) of z (N, D), a NumPy array (N,), nats."""
        z, of_prior, log_pzs = self._check_z(z), self._of_prior(), []
        for start in range(0, len(z), self.inference_rows):
            rows = self.backend.asarray(z[start : start + self.inference_rows], self.dtype)
            log_pz, _ = self.prior.log_prob(of_prior, rows)
            log_pzs.append(np.array(self.backend.to_host(log_pz)))
        return finite("log p(z)", np.concatenate(log_pzs))

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
        rng = generator(check_seed("seed", seed), LIKELIHOOD_NOISE)
        log_weights = self._repeated(self._log_weights, joined({"of_prior": self._of_prior()}))
        total, own = np.zeros(1), ranks.share(len(x))
        self._pass_over(rng, samples, own.start)
        with progress_bar(own.stop - own.start, "example", progress) as bar:
            for batch, labels in self._batches(x, y, max(1, self.inference_rows // samples), ranks):
                total += self._log_mean_weight(log_weights, batch, labels, samples, rng).sum()
                bar.update(len(batch))
        ranks.allreduce(total)
        return float(finite("log p(x)", total[0] / len(x)))

    def _log_mean_weight(self, log_weights, batch, labels, samples, rng):
        """The logarithm of the mean importance weight of each example, (B,); float64 on the host."""
        log_sum = np.full(len(batch), -np.inf)
        for start in range(0, samples, self.inference_rows):
            eps = self._draw(rng, min(self.inference_rows, samples - start), len(batch))
            log_w = log_weights(x=batch, y=labels, eps=eps).astype(np.float64)
            log_sum = np.logaddexp(log_sum, np.logaddexp.reduce(log_w, axis=0))
        return log_sum - math.log(samples)

    def active_units(self, x: np.ndarray, threshold: float = 0.01, y: np.ndarray | int | None = None) -> np.ndarray:
        """Which of the D latent units depend on x, a NumPy array (D,) of bool.

            active_d = Var_x(E_q[z_d given x]) > threshold

        x should hold many examples. The mean is mu of `encode`, with a flow posterior too.
        Source: Burda, Grosse & Salakhutdinov 2016, section 5.2.
        """
        least = number(threshold)
        if math.isnan(least):
            raise MiniVAEError(f"active_units: threshold should be a number, got {shown(threshold)}")
        return self.encode(x, y)[0].var(axis=0) > least

    # ---------------------------------------------------------------------------- batches on the device

    def _rows_at_a_time(self):
        """How many rows a batch has: fewer where there are many values in a row between two layers, or in the prior."""
        widths = [self.input_dim, self.prior.components * self.latent_dim]
        for part in (self.encoder, self.decoder):
            shape = part.input_shape
            for layer in part.layers:
                shape = layer.output_shape(shape)
                widths.append(math.prod(shape))
        return max(1, min(INFERENCE_ROWS, INFERENCE_VALUES // max(widths)))

    @property
    def _params(self):
        return dict(self.parameters) | self.constants

    def _encode(self, params, x, y):
        """The posterior's statistics of a batch on the device."""
        return self.encoder.forward(within(params, "encoder"), self._with_labels(x, y)[0])[0]

    def _decode(self, params, z, y):
        """The likelihood's parameters for z (N, D), or (L, B, D) with labels (B, C)."""
        rows, _ = self._with_labels(z, y)
        out, _ = self.decoder.forward(within(params, "decoder"), rows.reshape(-1, rows.shape[-1]))
        return out.reshape(*z.shape[:-1], -1)

    def _of_prior(self):
        """What the prior is handed, see `_prior_params`."""
        return self._prior_params({name: within(self._params, name) for name in self.parts})[0]

    def _weighted(self, params, of_prior, x, y, eps):
        """The decoder's output at draws of z from q(z given x), (L, B, P), and the logarithms of their importance
        weights p(x given z) p(z) / q(z given x), (L, B)."""
        z, log_q = self.posterior.proposal(within(params, "posterior"), self._encode(params, x, y), eps)
        out = self._decode(params, z, y)
        log_px, _ = self.likelihood.log_prob(within(params, "likelihood"), x, out)
        log_pz, _ = self.prior.log_prob(of_prior, z.reshape(-1, self.latent_dim))
        return out, log_px + log_pz.reshape(log_px.shape) - log_q

    def _losses(self, a):
        """The losses of a batch, (3, B), as a function of arrays."""
        losses, _ = self.forward(self.params_of(a), a["x"], a["eps"], a["beta"], a.get("y"))
        return np.stack(losses)

    def _log_weights(self, a):
        """The logarithms of the importance weights, (L, B), as a function of arrays."""
        return self._weighted(self.params_of(a), within(a, "of_prior"), a["x"], a.get("y"), a["eps"])[1]

    def params_of(self, a):
        """What `forward` calls params, of the arrays `a` that a list sees."""
        return self.parameters.named(a["parameters"]) | within(a, "constants")

    def _repeated(self, function, arrays):
        """A function of arrays for many batches: it sees these, those of the model, and a batch's."""
        arrays = arrays | {"parameters": self.parameters.flat} | joined({"constants": self.constants})
        return Repeated(function, self.backend, self.dtype, arrays)

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
        own = ranks.share(len(x))
        if x.dtype == np.uint8:
            self.likelihood.check_pixels(x[own.start : own.stop])
            return x
        if x.dtype not in (np.float32, np.float64):  # which also holds for another byte order
            with np.errstate(over="ignore"):
                x = x.astype(self.dtype)  # what overflows is found below
        gaps = self.likelihood.takes_nan and self.encoder.fills_nan
        for start in range(own.start, own.stop, CHECKED_ROWS):
            rows = x[start : min(start + CHECKED_ROWS, own.stop)]
            usable = ~np.isinf(rows) if gaps else np.isfinite(rows)
            if not usable.all():
                bad = start + int(np.argmin(usable.all(axis=1)))
                hint = "" if gaps else ", or leave out what is NaN, with ZeroFilled in the encoder and Observed columns"
                raise MiniVAEError(f"x has a NaN or an infinity in row {bad}: clean the data first{hint}")
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
