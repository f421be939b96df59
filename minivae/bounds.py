"""Lower bounds on log p(x) from L samples, and the loss that each makes.

    loss(log_px, kl, beta) -> terms (3, B)   per example: loss, reconstruction, KL; nats
    backward() -> dlog_px, dkl               of the loss averaged over the batch

log_px is (L, B). kl is (L, B), log q(z given x) - log p(z) of each sample, or (B,), its analytic mean.
beta is an array (1,). The reconstruction is the mean of -log_px over the samples, the KL that of kl.
"""

import math

from .parameters import Module


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


class Bound(Module):
    """The parts of the loss that do not depend on the bound."""

    needs_samples = False  # whether kl must be (L, B)

    def _averages(self, log_px, kl):
        """terms (3, B) and its rows; those of the reconstruction and the KL are filled in."""
        xp, (L, B) = self.xp, log_px.shape
        terms = self.buffers("terms", 3, B)
        loss, reconstruction, mean_kl = terms[0], terms[1], terms[2]
        xp.sum(log_px, axis=0, out=reconstruction)
        xp.multiply(reconstruction, -1 / L, out=reconstruction)
        if kl.ndim == 1:
            xp.copyto(mean_kl, kl)
        else:
            xp.sum(kl, axis=0, out=mean_kl)
            xp.multiply(mean_kl, 1 / L, out=mean_kl)
        return terms, loss, reconstruction, mean_kl


class ELBO(Bound):
    """The evidence lower bound with L samples.

        loss_b = beta kl_b - 1/L sum_l log_px_lb

    Source: Kingma & Welling 2014, equation 7; beta: Higgins et al. 2017, equation 4.
    """

    def loss(self, log_px, kl, beta):
        self.dlog_px = self.buffers("dlog_px", *log_px.shape)
        self.dkl = self.buffers("dkl", *kl.shape)
        self.beta = beta
        terms, loss, reconstruction, mean_kl = self._averages(log_px, kl)
        self.xp.multiply(mean_kl, beta, out=loss)
        self.xp.add(loss, reconstruction, out=loss)
        return terms

    def backward(self):
        self.dlog_px.fill(-1 / self.dlog_px.size)
        self.dkl.fill(1 / self.dkl.size)
        self.xp.multiply(self.dkl, self.beta, out=self.dkl)
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
        terms, loss, _, _ = self._averages(log_px, kl)
        xp.negative(bound[0], out=loss)
        return terms

    def backward(self):
        xp, (L, B) = self.xp, self.weights.shape
        dlog_px, dkl = self.buffers("dlog_px", L, B), self.buffers("dkl", L, B)
        xp.multiply(self.weights, -1 / B, out=dlog_px)
        xp.multiply(dlog_px, self.beta, out=dkl)
        xp.negative(dkl, out=dkl)
        return dlog_px, dkl
