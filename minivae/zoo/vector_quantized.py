"""The VQ-VAE: codes that are entries of a learned table, the nearest to what the encoder gives.

The encoder gives V vectors s_v of width d, and z is made of the nearest entries of a codebook e_1 .. e_K, D = V d:

    z_v = e_k,   k = argmin_j |s_v - e_j|

q(z given x) puts all its weight on that one z, the prior 1/K on each entry for each v. So the KL is V log K whatever
the weights are, and the ELBO is log p(x given z) - V log K. The nearest is a step of s, without a slope; so the encoder
gets the gradient of another function. dz is handed on to s as if z were s (straight-through), which is right where s
and its entry are near each other; and two more losses see to that:

    codebook loss   |sg(s) - e|^2      moves entries to what the encoder gives
    commitment      c |s - sg(e)|^2    keeps the encoder near its entries

where sg, "stop gradient", is its argument taken for a constant. The two are the same distance, so the loss holds
(1 + c) |s - e|^2, of whose gradient e gets the part of the first and s that of the second. The entries get nothing of
the decoder's dz. These gradients are no derivatives of the loss: `mv.gradcheck` of such a model fails for all that lies
before z, as it should. They are those of the loss with all that is under sg held, to which the tests compare them.

Entries that are never the nearest get no gradient, and are of no use: `codebook_use` tells.

Source: van den Oord, Vinyals & Kavukcuoglu 2017, "Neural discrete representation learning", equations 1 to 3;
straight-through: Bengio, Leonard & Courville 2013.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..arguments import at_least, integer
from ..errors import MiniVAEError
from ..model.gaussian import LOG_VAR_MIN
from ..model.inference import finite
from ..model.parameters import within
from ..model.posteriors import Posterior
from ..model.vae import VAE, check_vae
from .gumbel import UniformCodes, one_hot_of_largest


def quantize(s, codebook, positions):
    """The entry of the codebook that is nearest to each row, and which it is, one-hot.

        |s - e_k|^2 = |s|^2 - 2 (s e_k - 1/2 |e_k|^2),   so the nearest has the largest s e_k - 1/2 |e_k|^2

    s (N, d);  codebook (K, d);  positions, 0 to K - 1 -> z (N, d), chosen (N, K)

    z is chosen @ codebook, so dcodebook = chosen' dz; and between its steps z does not depend on s.
    """
    chosen = one_hot_of_largest(s @ codebook.T - 0.5 * np.sum(codebook**2, axis=1), positions)
    return (chosen @ codebook, chosen), lambda dz: chosen.T @ dz


def squared_distance(a, b):
    """|a - b|^2 of each row.   a, b (N, d) -> (N,);   da = 2 (a - b), db = -da, each times the row's gradient."""
    residual = a - b

    def backward(dsquares):
        da = 2 * dsquares[:, None] * residual
        return da, -da

    return np.sum(residual**2, axis=1), backward


class CodebookPrior(UniformCodes):
    """p(z) = K^-V for z of V entries of the posterior's codebook, side by side.

    dim        : D = V d
    categories : K, how many entries there are
    width      : d
    """

    of_posterior = True

    def __init__(self, dim: int, categories: int, width: int) -> None:
        self.dim, self.width = integer("CodebookPrior: dim", dim), integer("CodebookPrior: width", width)
        self.categories = integer("CodebookPrior: categories", categories)
        if self.dim % self.width:
            raise MiniVAEError(f"CodebookPrior: dim should be a multiple of width={width}, got {dim}")
        self.variables = self.dim // self.width

    def sample(self, params, n, rng):
        drawn = rng.integers(0, self.categories, (n, self.variables))
        return params["codebook"][drawn].reshape(n, self.dim)


class VectorQuantized(Posterior):
    """z of V entries of a codebook, the nearest to each of the encoder's V vectors; stats (B, V d).

    codes      : K, how many entries the codebook has
    width      : d; what the encoder gives should be a multiple of it
    commitment : c, the weight of |s - sg(e)|^2 in training

    Parameter codebook (K, d), one for all v. It starts at draws from N(0, I), about as wide as what a fresh encoder
    gives; near 0, where the authors start, a few entries were the nearest to all. Both losses are weighed by beta, as
    the KL is.
    """

    has_analytic_kl = trains_otherwise = True

    def __init__(self, codes: int = 128, width: int = 8, commitment: float = 0.25) -> None:
        self.codes, self.width = integer("VectorQuantized: codes", codes, 2), integer("VectorQuantized: width", width)
        self.commitment = at_least("VectorQuantized: commitment", commitment)

    def shapes(self):
        return {"codebook": (self.codes, self.width)}

    def initial(self, rng):
        return {"codebook": rng.standard_normal((self.codes, self.width))}

    def constant_arrays(self):
        return {"positions": np.arange(self.codes)}

    def latent_dim(self, stats_dim):
        if stats_dim % self.width:
            raise MiniVAEError(
                f"VectorQuantized: the encoder's last layer should give (B, V d), vectors of width d = {self.width}; "
                f"got (B, {stats_dim}): make it a multiple of {self.width}"
            )
        return stats_dim

    def own_prior(self, latent_dim):
        return CodebookPrior(latent_dim, self.codes, self.width)

    def moments(self, params, stats):
        """z, and log_var at its lower bound, as there is one z for each x."""
        (z, _), _ = quantize(stats.reshape(-1, self.width), params["codebook"], params["positions"])
        return z.reshape(stats.shape), np.full_like(stats, LOG_VAR_MIN)

    def with_log_q(self, params, stats, eps):
        (z, _), z_backward = quantize(stats.reshape(-1, self.width), params["codebook"], params["positions"])

        def backward(dz, dlog_q):  # as z is, by steps
            return np.zeros_like(stats), {"codebook": z_backward(np.sum(dz, axis=0).reshape(z.shape))}

        return (np.broadcast_to(z.reshape(stats.shape), eps.shape), np.zeros_like(eps[..., 0])), backward

    def with_kl(self, params, stats, eps, free_bits=0.0):
        s = stats.reshape(-1, self.width)
        (z, _), z_backward = quantize(s, params["codebook"], params["positions"])
        squares, squares_backward = squared_distance(s, z)
        losses = (1 + self.commitment) * np.sum(squares.reshape(stats.shape[0], -1), axis=1)
        kl = np.full_like(losses, s.shape[0] // stats.shape[0] * math.log(self.codes))

        def backward(dz, dkl):
            of_rows = np.broadcast_to(dkl[:, None], squares.reshape(stats.shape[0], -1).shape).reshape(-1)
            ds, de = squares_backward(of_rows)
            dstats = np.sum(dz, axis=0) + self.commitment * ds.reshape(stats.shape)  # straight through, and committed
            return dstats, {"codebook": z_backward(de)}

        return (np.broadcast_to(z.reshape(stats.shape), eps.shape), kl, losses), backward


@dataclass(frozen=True)
class CodebookUse:
    """How often each entry of a codebook is chosen; `counts` is a NumPy array (K,)."""

    counts: np.ndarray

    @property
    def used(self) -> int:
        """How many entries are chosen at all."""
        return int(np.count_nonzero(self.counts))

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the choices: as many entries, chosen equally often, would be chosen as evenly."""
        p = self.counts[self.counts > 0] / self.counts.sum()
        return float(np.exp(-(p * np.log(p)).sum()))


def codebook_use(vae: VAE, x: np.ndarray, y: np.ndarray | None = None) -> CodebookUse:
    """How often each entry of the codebook of a model with a VectorQuantized posterior is chosen on x: CodebookUse."""
    posterior = check_vae("codebook_use: vae", vae).posterior
    if not isinstance(posterior, VectorQuantized):
        raise MiniVAEError(f"codebook_use needs a VectorQuantized posterior, this model has {posterior!r}")
    params, counts = within(vae._params, "posterior"), 0
    for batch, labels in vae._batches(vae.check_input(x), y, vae.inference_rows):
        s = vae._encode(vae._params, batch, labels).reshape(-1, posterior.width)
        (_, chosen), _ = quantize(s, params["codebook"], params["positions"])
        counts = counts + vae.backend.to_host(np.sum(chosen, axis=0)).astype(np.float64)
    return CodebookUse(np.rint(finite("the choice of entries", counts)).astype(np.int64))
