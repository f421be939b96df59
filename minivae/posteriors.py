"""q(z given x): the diagonal Gaussian, sampled by the reparameterization step."""

from .divergences import LOG_2PI, LOG_VAR_MAX, LOG_VAR_MIN, free_bits, gaussian_kl, gaussian_kl_backward
from .errors import MiniVAEError
from .parameters import Module


def standard_deviation(xp, stats, *, log_var, std):
    """The standard deviation of q, from what the encoder says of it.

        log_var = stats held within its bounds,   std = exp(log_var / 2)

    stats (the encoder's log_var), log_var, std : (B, D), the last two overwritten. log_var is log sigma^2, so std
    is its *half*, exponentiated.
    """
    xp.maximum(stats, LOG_VAR_MIN, out=log_var)
    xp.minimum(log_var, LOG_VAR_MAX, out=log_var)
    xp.multiply(log_var, 0.5, out=std)
    xp.exp(std, out=std)


def reparameterize(xp, mu, std, eps, *, z):
    """A sample of N(mu, std^2) as a differentiable function of its parameters.

        z = mu + std eps

    mu, std : (B, D);  eps : noise from N(0, I), (L, B, D);  z : (L, B, D), overwritten
    Source: Kingma & Welling 2014, section 2.4.
    """
    xp.multiply(eps, std, out=z)
    xp.add(z, mu, out=z)


def reparameterize_backward(xp, dz, dz_eps, log_var, std, stats, *, dmu, dlog_var, inside, work):
    """The gradients of `reparameterize` and `standard_deviation`, added to those that are there.

        dmu += sum_l dz,   dlog_var += sum_l dz eps std / 2;   where log_var was out of bounds, dlog_var = 0

    dz, dz_eps : (B, D)   the sums over the L samples of dz and of dz eps
    log_var, std, stats, and dmu, dlog_var, which are added to : (B, D)
    inside (bool), work : (B, D), overwritten
    """
    xp.add(dmu, dz, out=dmu)
    xp.multiply(dz_eps, std, out=work)
    xp.multiply(work, 0.5, out=work)
    xp.add(dlog_var, work, out=dlog_var)
    xp.equal(log_var, stats, out=inside)
    xp.multiply(dlog_var, inside, out=dlog_var)


def gaussian_sample_log_prob(backend, eps, log_var, *, log_q, work):
    """log q(z given x) of the sample z = mu + std eps, in terms of the noise that made it.

        log_q = -1/2 sum_d (eps^2 + log_var + log 2 pi)

    eps : (L, B, D);  log_var : (B, D);  log_q : (L, B), overwritten; nats;  work : (L, B, D), overwritten
    """
    backend.fuse(gaussian_sample_terms)(backend.xp, eps, log_var, terms=work)
    backend.xp.sum(work, axis=-1, out=log_q)


def gaussian_sample_terms(xp, eps, log_var, *, terms):
    """The log-density of each dimension, -1/2 (eps^2 + log_var + log 2 pi);  terms : (L, B, D), overwritten."""
    xp.multiply(eps, eps, out=terms)
    xp.add(terms, log_var, out=terms)
    xp.add(terms, LOG_2PI, out=terms)
    xp.multiply(terms, -0.5, out=terms)


def gaussian_sample_log_prob_backward(xp, dlog_q, *, dmu, dlog_var):
    """The gradients of `gaussian_sample_log_prob`; z itself has dropped out, so mu has none.

        dmu = 0,   dlog_var = -1/2 sum_l dlog_q

    dlog_q : (B, 1), the sum over the L samples;  dmu, dlog_var : (B, D), overwritten
    """
    xp.copyto(dmu, 0)
    xp.copyto(dlog_var, dlog_q)
    xp.multiply(dlog_var, -0.5, out=dlog_var)


def scale_both(xp, factor, *, dmu, dlog_var):
    """Multiply dmu and dlog_var (B, D) by a factor, in place."""
    xp.multiply(dmu, factor, out=dmu)
    xp.multiply(dlog_var, factor, out=dlog_var)


class Posterior(Module):
    """q(z given x), made from the encoder's statistics.

    latent_dim(stats_dim) -> D
    sample(stats, eps) -> z (L, B, D)           the methods below speak of this sample
    log_prob() -> log_q (L, B)                  log q(z given x) of it
    kl() -> kl (B,)                             against N(0, I), where it `has_analytic_kl`
    free_bits(least) -> floor (B,)              likewise; to be added to the loss beside kl, which then is floored
    backward(dz, dkl=, dlog_q=) -> dstats       with dkl (B,) or dlog_q (L, B) where that part was used
    """

    has_analytic_kl = False


class DiagonalGaussian(Posterior):
    """q(z given x) = N(mu, diag(exp(log_var))) for stats (B, 2D): mu first, then log_var.

    log_var is held within [-80, 80]; outside, its gradient is 0.
    """

    has_analytic_kl = True

    def latent_dim(self, stats_dim):
        """D for a row of statistics; raises MiniVAEError where it cannot be split into mu and log_var."""
        if stats_dim % 2:
            raise MiniVAEError(
                f"the encoder's last layer should give (B, 2D), mu first and then log_var; got (B, {stats_dim}): "
                "make its width even"
            )
        return stats_dim // 2

    def split(self, stats):
        """mu and log_var, (B, D) each, from stats (B, 2D); log_var is a guarded copy."""
        B, D = len(stats), stats.shape[1] // 2
        log_var, self.std = self.buffers("log_var", B, D), self.buffers("std", B, D)
        self.fuse(standard_deviation)(self.xp, stats[:, D:], log_var=log_var, std=self.std)
        return stats[:, :D], log_var

    def sample(self, stats, eps):
        self.stats, self.eps = stats, eps
        self.mu, self.log_var = self.split(stats)
        self.z = self.buffers("z", *eps.shape)
        self.keep = None
        self.fuse(reparameterize)(self.xp, self.mu, self.std, eps, z=self.z)
        return self.z

    def kl(self):
        B, D = self.mu.shape
        kl = self.buffers("kl", B)
        work = self.buffers("work", B, D), self.buffers("square", B, D)
        gaussian_kl(self.backend, self.mu, self.log_var, kl=kl, work=work)
        return kl

    def free_bits(self, least):
        B, D = self.mu.shape
        self.keep, floor = self.buffers("keep", 1, D), self.buffers("floor", B)
        work = self.buffers("work", B, D), self.buffers("square", B, D), self.buffers("mean", 1, D)
        free_bits(self.backend, self.mu, self.log_var, least, keep=self.keep, floor=floor, work=work)
        return floor

    def log_prob(self):
        L, B, D = self.eps.shape
        log_q = self.buffers("log_q", L, B)
        work = self.buffers("work", L, B, D)
        gaussian_sample_log_prob(self.backend, self.eps, self.log_var, log_q=log_q, work=work)
        return log_q

    def backward(self, dz, *, dkl=None, dlog_q=None):
        xp, (B, D) = self.xp, self.mu.shape
        dstats = self.buffers("dstats", B, 2 * D)
        grads = {"dmu": dstats[:, :D], "dlog_var": dstats[:, D:]}
        if dkl is not None:
            self.fuse(gaussian_kl_backward)(xp, dkl[:, None], self.mu, self.log_var, **grads)
            if self.keep is not None:
                self.fuse(scale_both)(xp, self.keep, **grads)
        elif dlog_q is not None:
            total = self.over_samples("dlog_q", dlog_q)[:, None]
            self.fuse(gaussian_sample_log_prob_backward)(xp, total, **grads)
        else:
            xp.copyto(dstats, 0)
        dz_eps = self.buffers("work", *dz.shape)
        xp.multiply(dz, self.eps, out=dz_eps)
        sums = self.over_samples("dz", dz), self.over_samples("dz_eps", dz_eps)
        work = {"inside": self.buffers("inside", B, D, dtype=bool), "work": self.buffers("total", B, D)}
        forward = self.log_var, self.std, self.stats[:, D:]
        self.fuse(reparameterize_backward)(xp, *sums, *forward, **grads, **work)
        return dstats
