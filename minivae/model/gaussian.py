"""Gaussians: drawing from them by reparameterization, their log-densities, and how far one is from another, in nats.

Each function returns its value and its backward pass, as in layers.py. log_var is log sigma^2; the standard deviation
is the exponential of its half.
"""

import math

import numpy as np

LOG_2PI = math.log(2 * math.pi)

# Beyond these bounds exp(log_var) would soon leave the range of float32; log_var is held there.
LOG_VAR_MIN, LOG_VAR_MAX = -80.0, 80.0


def hold(value, low=LOG_VAR_MIN, high=LOG_VAR_MAX):
    """y = value, held within [low, high];  dvalue = dy inside, 0 where the value was out of bounds."""
    y = np.minimum(np.maximum(value, low), high)
    return y, lambda dy: dy * (y == value)


def reparameterize(mu, log_var, eps):
    """A sample of N(mu, exp(log_var)) as a differentiable function of its parameters.

        z = mu + std eps,   std = exp(log_var / 2)

    mu, log_var (B, D);  eps (L, B, D), noise from N(0, I) -> z (L, B, D)

    dz/dmu = 1 and dz/dlog_var = eps std / 2, summed over the L samples that share mu and log_var.
    Source: Kingma & Welling 2014, section 2.4.
    """
    std = np.exp(0.5 * log_var)

    def backward(dz):
        return np.sum(dz, axis=0), np.sum(dz * eps, axis=0) * std * 0.5  # dmu, dlog_var

    return mu + std * eps, backward


def gaussian_kl(mu, log_var):
    """KL(q || p) between a diagonal Gaussian and the standard normal.

        kl_b = 1/2 sum_d (mu^2 + var - log_var - 1),   var = exp(log_var)

    mu, log_var (B, D) -> kl (B,), nats

    dkl/dmu = mu,   dkl/dlog_var = 1/2 (var - 1).   Source: Kingma & Welling 2014, appendix B.
    """
    var = np.exp(log_var)

    def backward(dkl):
        dkl = dkl[:, None]
        return dkl * mu, dkl * (0.5 * (var - 1))  # dmu, dlog_var

    return 0.5 * np.sum(mu**2 + var - log_var - 1, axis=1), backward


def free_bits_lack(mu, log_var, least):
    """How much the KL of each dimension of each example lacks of `least` nats, (B, D); see `free_bits_kl`."""
    return least - 0.5 * (mu**2 + np.exp(log_var) - log_var - 1)


def free_bits_kl(mu, log_var, least, whole_lack=None):
    """The KL of `gaussian_kl`, and what to add so that no dimension costs less than `least` nats on average.

        kl_bd   = 1/2 (mu^2 + var - log_var - 1),   keep_d = 1 where mean_b kl_bd > least, else 0
        floor_b = sum_d (1 - keep_d) (least - kl_bd)

    so that  mean_b (kl_b + floor_b) = sum_d max(least, mean_b kl_bd).  With least = 0 the floor is 0.

    mu, log_var (B, D);  least, a float -> kl, floor (B,), nats
    whole_lack : where these rows are a part of the batch, the `free_bits_lack` summed over all of it, (1, D):
                 dimensions are kept where it is negative

    `dkl` is the gradient of kl + floor, in which the KL of a dimension counts only where it is kept.
    Source: Kingma et al. 2016, on free bits; each dimension being a group.
    """
    kl, kl_backward = gaussian_kl(mu, log_var)
    if not least:
        return (kl, np.zeros_like(kl)), kl_backward
    lack = free_bits_lack(mu, log_var, least)
    keep = (np.sum(lack, axis=0, keepdims=True) if whole_lack is None else whole_lack) < 0

    def backward(dkl):
        dmu, dlog_var = kl_backward(dkl)
        return dmu * keep, dlog_var * keep

    return (kl, np.sum(np.where(keep, 0, lack), axis=1)), backward


def gaussian_sample_log_prob(eps, log_var):
    """log q(z) of the sample z = mu + std eps, in terms of the noise that made it.

        log_q = -1/2 sum_d (eps^2 + log_var + log 2 pi)

    eps (L, B, D);  log_var (B, D) -> log_q (L, B), nats

    z itself has dropped out, so mu has no gradient;  dlog_q/dlog_var = -1/2, summed over the samples.
    """

    def backward(dlog_q):
        dlog_var = -0.5 * np.sum(dlog_q, axis=0)[:, None]
        return np.broadcast_to(dlog_var, log_var.shape)

    return -0.5 * np.sum(eps**2 + log_var + LOG_2PI, axis=-1), backward


def gaussian_log_prob_of_sample(z, mu, log_var):
    """log N(z; mu, exp(log_var)) of a z that is itself no constant.

        log_pz = -1/2 sum_d ((z - mu)^2 / var + log_var + log 2 pi),   var = exp(log_var)

    z, mu, log_var (N, D) -> log_pz (N,), nats

    With n = (z - mu) / var:  dz = -n,  dmu = n,  dlog_var = 1/2 ((z - mu) n - 1), each times dlog_pz.
    """
    residual = z - mu
    n = residual * np.exp(-log_var)

    def backward(dlog_pz):
        dlog_pz = dlog_pz[:, None]
        return -dlog_pz * n, dlog_pz * n, dlog_pz * (0.5 * (residual * n - 1))  # dz, dmu, dlog_var

    return -0.5 * np.sum(residual * n + log_var + LOG_2PI, axis=-1), backward


def standard_normal_log_prob(z):
    """log p(z) under the prior N(0, I).

        log_pz = -1/2 sum_d (z^2 + log 2 pi),   dlog_pz/dz = -z

    z (L, B, D) -> log_pz (L, B), nats
    """
    return -0.5 * np.sum(z**2 + LOG_2PI, axis=-1), lambda dlog_pz: -dlog_pz[..., None] * z
