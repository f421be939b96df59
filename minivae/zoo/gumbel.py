"""The Gumbel-softmax: codes that are one of K each, with draws soft enough to have a gradient.

z is V variables, each of them one of K categories and written one-hot, so D = V K. The encoder gives K logits for each,
and q(z given x) is the product of their softmaxes. A draw is the category of the largest of l_k + g_k, where the g are
noise from Gumbel(0, 1): if T_k is exponential with rate p_k, the least of all T is T_k with probability p_k, and
-log T_k = log p_k + Gumbel noise. The largest has no slope, but its soft form has:

    z_k = exp((l_k + g_k) / t) / sum_j exp((l_j + g_j) / t)

As the temperature t falls to 0, z tends to the one-hot draw, its gradient's mean to the exact one, and its gradient's
variance to infinity. At a t above 0 the gradient is that of another model, whose decoder sees soft codes. So it is
trained on soft codes, and `evaluate`, `log_likelihood` and `sample` are of one-hot ones: the ELBO of the model with
discrete codes, a true bound.

The KL against the uniform prior is a sum over the K categories of each variable:

    KL = sum_v (log K + sum_k p_vk log p_vk),   dKL/dl_k = p_k (log p_k - sum_j p_j log p_j)

where the derivative of sum_k p_k log p_k by p_k is log p_k + 1, and the softmax takes the mean of that off.

Sources: Jang, Gu & Poole 2017, "Categorical reparameterization with Gumbel-softmax"; Maddison, Mnih & Teh 2017, "The
concrete distribution". The KL of the categories and not of their soft forms: Jang et al.
"""

import math

import numpy as np

from ..arguments import integer, positive
from ..errors import MiniVAEError
from ..model.gaussian import LOG_VAR_MIN
from ..model.likelihoods import categorical_log_prob, log_softmax
from ..model.posteriors import Posterior
from ..model.priors import Prior

# log(exp(a^2 / 2) P(N(0, 1) > a)) - log(t / 2) as a polynomial in t = 1 / (1 + 0.3 a), a from 0 to infinity, by its
# values at Chebyshev's points: right to 6e-6.
SCALE = 0.3
TAIL = (-1.4297598, 0.9994508, 0.4211392, 0.0703587, 0.2851966, -0.5449825, 0.1986025)


def gumbel_of_normal(eps):
    """Gumbel(0, 1) noise from standard normal noise, a number of the one for each of the other, in the same order.

        gumbel = -log(-log u),   u = P(N(0, 1) < eps), which is uniform

    The tail P(N(0, 1) > |eps|) is worked out as its logarithm, so that both ends of u keep their digits.
    """
    t = 1 / (1 + SCALE * np.abs(eps))
    log_tail = TAIL[-1] * t + TAIL[-2]
    for coefficient in TAIL[-3::-1]:
        log_tail = log_tail * t + coefficient
    log_tail = log_tail + np.log(0.5 * t) - 0.5 * eps**2
    return -np.log(np.where(eps < 0, -log_tail, -np.log1p(-np.exp(log_tail))))


def gumbel_softmax(logits, gumbel, temperature):
    """Soft one-hot draws: the softmax of (logits + gumbel) / temperature.

    logits (B, V, K);  gumbel (L, B, V, K), noise -> z (L, B, V, K), each row of K positive and of sum 1

    dz_j/dl_k = z_j ((1 if j is k else 0) - z_k) / temperature, so  dl = z (dz - sum_j z_j dz_j) / temperature, summed
    over the L samples that share the logits.
    """
    _, z = log_softmax((logits + gumbel) * (1 / temperature))

    def backward(dz):
        return np.sum(z * (dz - np.sum(z * dz, axis=-1, keepdims=True)), axis=0) * (1 / temperature)

    return z, backward


def categorical_kl(logits):
    """KL(q || p) between categories with these logits and the uniform ones.

        kl_b = sum_v (log K + sum_k p_k log p_k),   p = softmax(l)

    logits (B, V, K) -> kl (B,), nats;   dkl/dl_k = p_k (log p_k - sum_j p_j log p_j).
    """
    log_p, p = log_softmax(logits)
    negative_entropy = np.sum(p * log_p, axis=-1, keepdims=True)
    kl = np.sum(negative_entropy + math.log(logits.shape[-1]), axis=1)[:, 0]
    return kl, lambda dkl: dkl[:, None, None] * (p * (log_p - negative_entropy))


def one_hot_of_largest(values, positions):
    """1 at the largest of the values along the last axis, the first of them where there are more, and 0 elsewhere.

    positions : 0, 1, ... (K,).   Where a value is NaN, all of its row become NaN: the largest is not known
    """
    largest = np.max(values, axis=-1, keepdims=True)
    first = np.min(np.where(values == largest, positions, values.shape[-1]), axis=-1, keepdims=True)
    return (positions == first) + 0 * largest


class UniformCodes(Prior):
    """p(z) = K^-V for z of V one-hot rows of K, side by side.

    dim        : D = V K
    categories : K
    """

    def __init__(self, dim: int, categories: int) -> None:
        self.dim = integer("UniformCodes: dim", dim)
        self.categories = integer("UniformCodes: categories", categories)
        if self.dim % self.categories:
            raise MiniVAEError(f"UniformCodes: dim should be a multiple of categories={categories}, got {dim}")
        self.variables = self.dim // self.categories

    def log_prob(self, params, z):
        log_pz = -self.variables * math.log(self.categories)
        return np.full_like(z[:, 0], log_pz), lambda dlog_pz: (np.zeros_like(z), {})

    def sample(self, params, n, rng):
        drawn = rng.integers(0, self.categories, (n, self.variables))
        return np.eye(self.categories, dtype=np.float32)[drawn].reshape(n, self.dim)


class GumbelSoftmax(Posterior):
    """q(z given x) = prod_v Categorical(softmax(l_v)), z one-hot, for stats l (B, V K); trained on soft draws.

    categories  : K; what the encoder gives should be a multiple of it
    temperature : t of `gumbel_softmax`

    `encode` gives the mean of the one-hot z, which are the probabilities p, and the log of their variance p (1 - p);
    `reconstruct` decodes that mean, or with noise `eps` one-hot draws.
    """

    has_analytic_kl = trains_otherwise = True

    def __init__(self, categories: int, temperature: float = 2 / 3) -> None:
        self.categories = integer("GumbelSoftmax: categories", categories, 2)
        self.temperature = positive("GumbelSoftmax: temperature", temperature)

    def constant_arrays(self):
        return {"positions": np.arange(self.categories)}

    def latent_dim(self, stats_dim):
        if stats_dim % self.categories:
            raise MiniVAEError(
                f"GumbelSoftmax: the encoder's last layer should give (B, V K), {self.categories} logits for each of V "
                f"variables; got (B, {stats_dim}): make it a multiple of {self.categories}"
            )
        return stats_dim

    def own_prior(self, latent_dim):
        return UniformCodes(latent_dim, self.categories)

    def split(self, stats):
        _, p = log_softmax(self._rows(stats))
        p = p.reshape(stats.shape)
        return p, np.log(np.maximum(p * (1 - p), math.exp(LOG_VAR_MIN)))

    def with_log_q(self, params, stats, eps):
        logits, gumbel = self._rows(stats), self._rows(gumbel_of_normal(eps))
        z = one_hot_of_largest(logits + gumbel, params["positions"])
        log_q, log_q_backward = categorical_log_prob(z, logits)

        def backward(dz, dlog_q):  # a draw changes by steps: it has no slope
            return np.sum(log_q_backward(dlog_q), axis=0).reshape(stats.shape), {}

        return (z.reshape(eps.shape), log_q), backward

    def with_kl(self, params, stats, eps, free_bits=0.0):
        logits = self._rows(stats)
        z, z_backward = gumbel_softmax(logits, self._rows(gumbel_of_normal(eps)), self.temperature)
        kl, kl_backward = categorical_kl(logits)

        def backward(dz, dkl):
            return (z_backward(self._rows(dz)) + kl_backward(dkl)).reshape(stats.shape), {}

        return (z.reshape(eps.shape), kl, np.zeros_like(kl)), backward

    def _rows(self, values):
        """A row of K for each variable."""
        return values.reshape(*values.shape[:-1], values.shape[-1] // self.categories, self.categories)
