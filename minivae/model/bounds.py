"""Lower bounds on log p(x) from L samples, and the loss that each makes.

    (loss, reconstruction, mean_kl), backward = elbo(log_px, kl, beta)
    dlog_px, dkl = backward(dloss)

log_px is (L, B). kl is (L, B), log q(z given x) - log p(z) of each sample, or (B,), its analytic mean. beta is an array
(1,). Losses are (B,), in nats; reconstruction is the mean of -log_px over the samples and mean_kl that of kl. Only the
loss has a gradient: the other two are for people to read.

They are bounds for beta = 1, the ELBO also for a larger one. With another beta the w of `importance_weighted` are no
importance weights, and its loss may lie on either side of -log p(x).
"""

import math

import numpy as np

from .parameters import Part


def average(values):
    """The mean over the samples of values (L, B), or values (B,), which have none, as they are."""
    return np.sum(values, axis=0) * (1 / len(values)) if values.ndim == 2 else values


def elbo(log_px, kl, beta):
    """The evidence lower bound with L samples, as a loss.

        loss_b = beta mean_l kl_lb - mean_l log_px_lb

    dloss/dlog_px = -1/L;  dloss/dkl = beta/L, or beta where kl is the analytic mean.
    Source: Kingma & Welling 2014, equation 7; beta: Higgins et al. 2017, equation 4.
    """
    reconstruction, mean_kl = -average(log_px), average(kl)

    def backward(dloss):
        samples = len(kl) if kl.ndim == 2 else 1
        return np.broadcast_to(dloss * (-1 / len(log_px)), log_px.shape), np.broadcast_to(
            dloss * (1 / samples) * beta, kl.shape
        )  # dlog_px, dkl

    return (beta * mean_kl + reconstruction, reconstruction, mean_kl), backward


def importance_weighted(log_px, kl, beta):
    """The importance-weighted bound of L samples, as a loss: the ELBO for L = 1, and for beta = 1 tighter as L grows.

        loss_b = -log(1/L sum_l w_lb),   log w_lb = log_px_lb - beta kl_lb

    kl must be (L, B). The largest weight is taken out first, so that exp cannot overflow.

    dloss/dlog w is minus the softmax of log w over l, so dlog_px = -softmax dloss and dkl = beta softmax dloss.
    Source: Burda, Grosse & Salakhutdinov 2016, equations 8 and 14.
    """
    log_w = log_px - kl * beta
    largest = np.max(log_w, axis=0, keepdims=True)
    w = np.exp(log_w - largest)
    total = np.sum(w, axis=0, keepdims=True)

    def backward(dloss):
        share = dloss * (w / total)
        return -share, share * beta  # dlog_px, dkl

    bound = largest + (np.log(total) - math.log(len(log_w)))
    return (-bound[0], -average(log_px), average(kl)), backward


class Bound(Part):
    """How log p(x given z) and the KL make the loss; `loss(log_px, kl, beta)` is a function as described above."""

    needs_samples = False  # whether kl must be (L, B)

    def loss(self, log_px, kl, beta):
        raise NotImplementedError


class ELBO(Bound):
    """The evidence lower bound; see `elbo`."""

    loss = staticmethod(elbo)


class ImportanceWeighted(Bound):
    """The importance-weighted bound; see `importance_weighted`."""

    needs_samples = True
    loss = staticmethod(importance_weighted)
