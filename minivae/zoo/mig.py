"""The mutual information gap: is each factor of the data found in one latent dimension, and in one only?

Needs data whose true factors v_k, such as position or shape, are known: those that a script has drawn. For every
dimension j of z and every factor k the mutual information is estimated,

    I(z_j; v_k) = E[log q(z_j given v_k) - log q(z_j)],    z_j ~ q(z_j given x)

where both densities are means of q(z_j given x): over all examples, and over those with this value of v_k. The gap of a
factor is by how much the dimension that knows most of it is ahead of the next, in parts of all that there is to know:

    MIG = mean over k of 1/H(v_k) (I(z_first; v_k) - I(z_second; v_k)),    H(v_k) the entropy of v_k

1 where every factor has a dimension to itself, 0 where two know the same of it. Source: Chen, Li, Grosse & Duvenaud
2018, "Isolating sources of disentanglement in variational autoencoders", section 4.
"""

from dataclasses import dataclass

import numpy as np

from ..arguments import array, integer
from ..arguments import seed as check_seed
from ..errors import MiniVAEError
from ..model.gaussian import LOG_2PI
from ..randomness import EVALUATION_NOISE, generator

VALUES = 1 << 22  # of q(z_j given x) at a time


@dataclass(frozen=True)
class Disentanglement:
    """What the dimensions of z know of the factors.

    information : I(z_j; v_k), a NumPy array (D, F), nats;  entropies : H(v_k), (F,), nats
    """

    information: np.ndarray
    entropies: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """The gap of each factor, (F,)."""
        second, first = np.sort(self.information, axis=0)[-2:]
        return (first - second) / self.entropies

    @property
    def mig(self) -> float:
        """The mean of the gaps."""
        return float(self.gaps.mean())


def mutual_information_gap(
    mu: np.ndarray, log_var: np.ndarray, factors: np.ndarray, samples: int = 10_000, seed: int = 0
) -> Disentanglement:
    """The mutual information of each dimension of z and each factor, from which the gap follows: a Disentanglement.

    mu, log_var : of q(z given x) for all examples, (N, D), as `vae.encode(x)` gives them; D at least 2
    factors     : integers (N, F), the value of each factor in each example, of at least two values each. The examples
                  should be all combinations of values, or draws of them
    samples     : draws of z, from examples drawn at random
    """
    mu, log_var = (np.asarray(array("mutual_information_gap", each), np.float64) for each in (mu, log_var))
    factors = array("mutual_information_gap: factors", factors)
    if mu.ndim != 2 or mu.shape[1] < 2 or mu.shape != log_var.shape:
        raise MiniVAEError(
            f"mutual_information_gap: mu and log_var should be (N, D) with D at least 2, got {mu.shape} and "
            f"{log_var.shape}"
        )
    if not (np.isfinite(mu).all() and np.isfinite(log_var).all()):
        raise MiniVAEError(
            "mutual_information_gap: mu or log_var has a NaN or an infinity: are the model's weights sound?"
        )
    if factors.ndim != 2 or len(factors) != len(mu) or not factors.shape[1] or factors.dtype.kind not in "iub":
        raise MiniVAEError(
            f"mutual_information_gap: factors should be integers ({len(mu)}, F), a row for each example, got "
            f"{factors.dtype} {factors.shape}"
        )
    values = [np.unique(column, return_inverse=True)[1] for column in factors.T]
    if least := [k for k, of in enumerate(values) if not of.any()]:
        raise MiniVAEError(f"mutual_information_gap: factor {least[0]} has one value only, so there is nothing to know")
    rng = generator(check_seed("mutual_information_gap: seed", seed), EVALUATION_NOISE)
    rows = rng.integers(0, len(mu), integer("mutual_information_gap: samples", samples))
    z = mu[rows] + np.exp(0.5 * log_var[rows]) * rng.standard_normal((len(rows), mu.shape[1]))
    shares = [np.bincount(of) / len(of) for of in values]
    information = [_information(*each, rows, values) for each in zip(z.T, mu.T, log_var.T, strict=True)]
    return Disentanglement(np.array(information), np.array([-(p * np.log(p)).sum() for p in shares]))


def _information(z, mu, log_var, rows, values):
    """I(z; v_k) of one dimension for each factor, (F,): z (S,) is drawn from the examples `rows` (S,).

    mu, log_var, and each of the `values` of factors, are of all examples, (N,)
    """
    kinds = [np.eye(of.max() + 1)[of] for of in values]  # one-hot
    total, step = np.zeros(len(values)), max(1, VALUES // len(mu))
    for start in range(0, len(z), step):
        here = slice(start, start + step)
        log_q = -0.5 * ((z[here, None] - mu) ** 2 * np.exp(-log_var) + log_var + LOG_2PI)
        q = np.exp(log_q - log_q.max(axis=1, keepdims=True))  # what is taken out drops out of the ratio
        for k, (of, kind) in enumerate(zip(values, kinds, strict=True)):
            given = (q @ kind / kind.sum(axis=0))[np.arange(len(q)), of[rows[here]]]
            total[k] += np.log(given / q.mean(axis=1)).sum()
    return total / len(z)
