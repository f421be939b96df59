"""Lower bounds on log p(x) from L samples, and the loss that each makes.

    loss(log_px, kl, beta) -> terms (3, B)   per example: loss, reconstruction, KL; nats
    backward() -> dlog_px, dkl               of the loss averaged over the batch

log_px is (L, B). kl is (L, B), log q(z given x) - log p(z) of each sample, or (B,), its analytic mean.
beta is an array (1,). The reconstruction is the mean of -log_px over the samples, the KL that of kl.
"""

import math

from .parameters import Module


def averages(xp, log_px, kl, *, reconstruction, mean_kl, log_px_share, kl_share):
    """What every bound reports, from sums over the samples: reconstruction = -log_px / L and mean_kl = kl / L.

    All arrays are (B,), the last two overwritten. The shares are floats: 1 over how many samples a sum has.
    """
    xp.multiply(log_px, -log_px_share, out=reconstruction)
    xp.multiply(kl, kl_share, out=mean_kl)


def elbo_loss(xp, log_px, kl, beta, *, loss, reconstruction, mean_kl, log_px_share, kl_share):
    """loss = beta mean_kl + reconstruction, with the `averages`;  beta (1,), the other arrays (B,)."""
    shares = {"log_px_share": log_px_share, "kl_share": kl_share}
    averages(xp, log_px, kl, reconstruction=reconstruction, mean_kl=mean_kl, **shares)
    xp.multiply(mean_kl, beta, out=loss)
    xp.add(loss, reconstruction, out=loss)


def elbo_loss_backward(xp, beta, *, dkl, share):
    """dkl = share beta, with share 1 over the size of dkl;  beta (1,);  dkl (B,) or (L, B), overwritten."""
    xp.copyto(dkl, beta)
    xp.multiply(dkl, share, out=dkl)


def importance_weights(xp, log_w, *, bound, weights, total):
    """The importance-weighted bound on log p(x), and the share of each sample in it.

        bound_b = log(1/L sum_l exp(log_w_lb)),   weights = softmax of log_w over l = d bound / d log_w

    log_w : (L, B);  bound, total : (1, B) and weights : (L, B) are overwritten; nats
    Source: Burda, Grosse & Salakhutdinov 2016, equations 8 and 14.
    """
    # With the largest log-weight subtracted first, exp cannot overflow.
    xp.max(log_w, axis=0, keepdims=True, out=bound)
    xp.subtract(log_w, bound, out=weights)
    xp.add(bound, -math.log(len(log_w)), out=bound)
    xp.exp(weights, out=weights)
    xp.sum(weights, axis=0, keepdims=True, out=total)
    xp.divide(weights, total, out=weights)
    xp.log(total, out=total)
    xp.add(bound, total, out=bound)


def importance_weights_backward(xp, weights, beta, *, dlog_px, dkl, share):
    """The gradients of the importance-weighted loss averaged over the batch, with share = 1 / B.

        dlog_px = -share weights,   dkl = share beta weights

    weights, dlog_px, dkl : (L, B), the last two overwritten;  beta : (1,)
    """
    xp.multiply(weights, -share, out=dlog_px)
    xp.multiply(weights, share, out=dkl)
    xp.multiply(dkl, beta, out=dkl)


class Bound(Module):
    """The parts of the loss that do not depend on the bound."""

    needs_samples = False  # whether kl must be (L, B)

    def _sums(self, log_px, kl):
        """The first two arguments of `averages`, and the others by name."""
        L, B = log_px.shape
        terms = self.buffers("terms", 3, B)
        named = {"reconstruction": terms[1], "mean_kl": terms[2], "log_px_share": 1 / L, "kl_share": B / kl.size}
        return self.over_samples("log_px", log_px), kl if kl.ndim == 1 else self.over_samples("kl", kl), named


class ELBO(Bound):
    """The evidence lower bound with L samples.

        loss_b = beta kl_b - 1/L sum_l log_px_lb

    Source: Kingma & Welling 2014, equation 7; beta: Higgins et al. 2017, equation 4.
    """

    def loss(self, log_px, kl, beta):
        self.dlog_px = self.buffers("dlog_px", *log_px.shape)
        self.dkl = self.buffers("dkl", *kl.shape)
        self.beta = beta
        *sums, named = self._sums(log_px, kl)
        terms = self.buffers("terms", 3, log_px.shape[1])
        self.fuse(elbo_loss)(self.xp, *sums, beta, loss=terms[0], **named)
        return terms

    def backward(self):
        self.xp.copyto(self.dlog_px, -1 / self.dlog_px.size)
        self.fuse(elbo_loss_backward)(self.xp, self.beta, dkl=self.dkl, share=1 / self.dkl.size)
        return self.dlog_px, self.dkl


class ImportanceWeighted(Bound):
    """The importance-weighted bound of L samples, which is the ELBO for L = 1 and tightens as L grows.

        loss_b = -log(1/L sum_l exp(log_px_lb - beta kl_lb))

    Source: Burda, Grosse & Salakhutdinov 2016, equation 8.
    """

    needs_samples = True

    def loss(self, log_px, kl, beta):
        xp, (L, B) = self.xp, log_px.shape
        self.beta = beta
        self.weights = self.buffers("weights", L, B)
        log_w, bound = self.buffers("dkl", L, B), self.buffers("bound", 1, B)
        xp.multiply(kl, beta, out=log_w)
        xp.subtract(log_px, log_w, out=log_w)
        importance_weights(xp, log_w, bound=bound, weights=self.weights, total=self.buffers("total", 1, B))
        *sums, named = self._sums(log_px, kl)
        self.fuse(averages)(xp, *sums, **named)
        terms = self.buffers("terms", 3, B)
        xp.negative(bound[0], out=terms[0])
        return terms

    def backward(self):
        xp, (L, B) = self.xp, self.weights.shape
        dlog_px, dkl = self.buffers("dlog_px", L, B), self.buffers("dkl", L, B)
        self.fuse(importance_weights_backward)(xp, self.weights, self.beta, dlog_px=dlog_px, dkl=dkl, share=1 / B)
        return dlog_px, dkl
