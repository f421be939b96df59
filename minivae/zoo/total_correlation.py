"""What the KL is made of, and the beta-TCVAE, which weighs the part of it that ties dimensions together.

Averaged over the data, with q(z) = mean over x of q(z given x), the KL of the ELBO falls into three parts, as each log
added here is taken off there:

    E KL = E[log q(z given x) - log q(z)]             mutual information of z and the index of the example
         + E[log q(z) - sum_d log q(z_d)]             total correlation: how much dimensions go together
         + E[sum_d log q(z_d) - sum_d log p(z_d)]     dimension-wise KL: how far each by itself is from the prior

A large beta presses on all three. To have dimensions that mean different things only the second has to be small, while
the first is what z says about x. So the beta-TCVAE weighs each by itself, by default only the second.

q(z) is a mixture of as many Gaussians as there are examples. In training it is estimated by those of the batch:

    log q(z_b) ~ log 1/(n B) sum_j q(z_b given x_j)                        minibatch-weighted, n examples in all

and each log q(z_bd) alike. It lies below log q(z) on average; n moves the values only, not the gradients. Source: Chen,
Li, Grosse & Duvenaud 2018, "Isolating sources of disentanglement in variational autoencoders", equations 2 to 4 and
appendix C.1.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..arguments import at_least, integer
from ..arguments import seed as check_seed
from ..errors import MiniVAEError
from ..model.gaussian import LOG_2PI, gaussian_log_prob_of_sample, standard_normal_log_prob
from ..model.posteriors import DiagonalGaussian
from ..model.priors import StandardNormal
from ..model.regularisers import Regulariser
from ..model.vae import VAE, check_vae
from ..randomness import EVALUATION_NOISE, generator
from .mixture import log_sum_exp

VALUES = 1 << 22  # of log q(z_nd given x_j) at a time, outside training


def log_aggregate(z, mu, log_var):
    """The log-density of z under the mean of Gaussians, and the sum over d of that of z_d under the mean of theirs.

        log_q_n       = log 1/M sum_j exp(sum_d l_njd),      l_njd = log N(z_nd; mu_jd, var_jd),   var = exp(log_var)
        log_product_n = sum_d log 1/M sum_j exp(l_njd)

    z (N, D);  mu, log_var (M, D) -> log_q, log_product (N,), nats;  the largest term is taken out before exp

    The derivative of a log of a sum by its j-th term is that term's share, R_nj and r_njd, so with
        dl_njd = dlog_q_n R_nj + dlog_product_n r_njd   and   s_njd = (z_nd - mu_jd) / var_jd
        dz_n = -sum_j dl s,   dmu_j = sum_n dl s,   dlog_var_j = 1/2 sum_n dl ((z_n - mu_j) s - 1)
    """
    residual = z[:, None, :] - mu
    slope = residual * np.exp(-log_var)
    terms = -0.5 * (residual * slope + (log_var + LOG_2PI))
    log_q, shares = log_sum_exp(np.sum(terms, axis=-1, keepdims=True))
    log_marginals, shares_of_each = log_sum_exp(terms)
    (M, D), log_product = mu.shape, np.sum(log_marginals, axis=1)

    def backward(dlog_q, dlog_product):
        dterms = dlog_q[:, None, None] * shares + dlog_product[:, None, None] * shares_of_each
        dz_of_each = dterms * slope
        dlog_var = 0.5 * np.sum(dz_of_each * residual - dterms, axis=0)
        return -np.sum(dz_of_each, axis=1), np.sum(dz_of_each, axis=0), dlog_var  # dz, dmu, dlog_var

    return (log_q[:, 0] - math.log(M), log_product - D * math.log(M)), backward


def kl_decomposition(z, mu, log_var, n):
    """The three parts of log q(z given x) - log p(z) at each draw, by the minibatch-weighted estimate of q(z).

        mi  = log q(z given x) - log q(z),   tc = log q(z) - log product,   dw = log product - log p(z)
        log q(z) = log_aggregate - log n,    log product = sum_d (log_aggregate_d - log n)

    z (L, B, D), draws from N(mu, exp(log_var));  mu, log_var (B, D);  n, of how many examples the batch is a part; with
    n = 1, and all examples in the batch, q(z) is exact -> mi, tc, dw (L, B), nats

    So  dlog q(z given x) = dmi,  dlog q(z) = dtc - dmi,  dlog product = ddw - dtc,  dlog p(z) = -ddw.
    """
    L, B, D = z.shape
    rows = z.reshape(L * B, D)
    (log_q, log_product), aggregate_backward = log_aggregate(rows, mu, log_var)
    log_q, log_product = log_q - math.log(n), log_product - D * math.log(n)
    of_rows = [np.broadcast_to(values, z.shape).reshape(L * B, D) for values in (mu, log_var)]
    log_q_of_x, own_backward = gaussian_log_prob_of_sample(rows, *of_rows)
    log_pz, prior_backward = standard_normal_log_prob(rows)
    values = log_q_of_x - log_q, log_q - log_product, log_product - log_pz

    def backward(dmi, dtc, ddw):
        dmi, dtc, ddw = (dvalue.reshape(L * B) for dvalue in (dmi, dtc, ddw))
        dz, dmu, dlog_var = aggregate_backward(dtc - dmi, ddw - dtc)
        dz_of_x, *of_x = own_backward(dmi)
        dmu_of_x, dlog_var_of_x = (np.sum(dvalues.reshape(L, B, D), axis=0) for dvalues in of_x)
        dz = dz + dz_of_x + prior_backward(-ddw)
        return dz.reshape(L, B, D), dmu + dmu_of_x, dlog_var + dlog_var_of_x

    return tuple(value.reshape(L, B) for value in values), backward


class BetaTC(Regulariser):
    """The beta-TCVAE: training weighs the three parts of the KL each by itself; see `kl_decomposition`.

        penalty = (mi - 1) MI + (tc - 1) TC + (dimension_wise - 1) DW

    so that with beta = 1 the loss is reconstruction + mi MI + tc TC + dimension_wise DW.

    n_examples     : how many examples there are to train on
    tc             : the weight of the total correlation, the paper's beta
    mi             : that of the mutual information, its alpha
    dimension_wise : that of the sum over the dimensions of KL(q(z_d) || p(z_d)), its gamma
    """

    of_gaussians = True

    def __init__(self, n_examples: int, tc: float = 6.0, mi: float = 1.0, dimension_wise: float = 1.0) -> None:
        self.n_examples = integer("BetaTC: n_examples", n_examples)
        self.tc, self.mi = at_least("BetaTC: tc", tc), at_least("BetaTC: mi", mi)
        self.dimension_wise = at_least("BetaTC: dimension_wise", dimension_wise)

    def penalty(self, z, stats):
        (mu, log_var), split_backward = DiagonalGaussian().split_with_backward(stats)
        terms, terms_backward = kl_decomposition(z, mu, log_var, self.n_examples)
        weights = [(weight - 1) / len(z) for weight in (self.mi, self.tc, self.dimension_wise)]
        mi, tc, dw = (weight * np.sum(term, axis=0) for weight, term in zip(weights, terms, strict=True))

        def backward(dpenalty):
            dz, dmu, dlog_var = terms_backward(*(np.broadcast_to(w * dpenalty, z.shape[:2]) for w in weights))
            return dz, split_backward(dmu, dlog_var)

        return mi + tc + dw, backward


@dataclass(frozen=True)
class KLParts:
    """The three parts of a model's KL on a data set, nats per example; see `kl_parts`."""

    mutual_information: float
    total_correlation: float
    dimension_wise: float


def kl_parts(vae: VAE, x: np.ndarray, samples: int = 1, seed: int = 0, y: np.ndarray | None = None) -> KLParts:
    """What the KL on x is made of, with q(z) the mean of q(z given x) over all rows of x: KLParts.

    It takes len(x)^2 densities for each dimension and sample: some thousand rows are a matter of seconds. The mutual
    information is at most log len(x). Raises MiniVAEError for a model whose q(z given x) is no DiagonalGaussian, or
    whose p(z) is no StandardNormal.
    """
    check_vae("kl_parts: vae", vae)
    for part, kind in ((vae.posterior, DiagonalGaussian), (vae.prior, StandardNormal)):
        if not isinstance(part, kind):
            raise MiniVAEError(f"kl_parts needs a {kind.__name__}, this model has a {type(part).__name__}")
    samples = integer("kl_parts: samples", samples)
    mu, log_var = (values.astype(np.float64) for values in vae.encode(x, y))
    rng, totals = generator(check_seed("kl_parts: seed", seed), EVALUATION_NOISE), np.zeros(4)
    step = max(1, VALUES // mu.size)
    for start in (start for _ in range(samples) for start in range(0, len(mu), step)):
        own = mu[start : start + step], log_var[start : start + step]
        z = own[0] + np.exp(0.5 * own[1]) * rng.standard_normal(own[0].shape)
        log_q, log_product = log_aggregate(z, mu, log_var)[0]
        logs = gaussian_log_prob_of_sample(z, *own)[0], log_q, log_product, standard_normal_log_prob(z)[0]
        totals += [values.sum() for values in logs]
    return KLParts(*(-np.diff(totals) / (samples * len(mu))).tolist())
