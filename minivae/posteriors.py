"""q(z given x): the diagonal Gaussian, sampled by the reparameterization step."""

from .divergences import LOG_2PI, LOG_VAR_MAX, LOG_VAR_MIN, free_bits, gaussian_kl, gaussian_kl_backward
from .errors import MiniVAEError
from .parameters import Module


def reparameterize(xp, mu, log_var, eps, *, std, z):
    """A sample of N(mu, exp(log_var)) as a differentiable function of its parameters.

        std = exp(log_var / 2),  z = mu + std eps

    mu, log_var : (B, D)      log_var is log sigma^2, so the factor of eps is its *half*, exponentiated
    eps         : (L, B, D)   noise from N(0, I)
    std         : (B, D)      overwritten
    z           : (L, B, D)   overwritten
    Source: Kingma & Welling 2014, section 2.4.
    """
    xp.multiply(log_var, 0.5, out=std)
    xp.exp(std, out=std)
    xp.multiply(eps, std, out=z)
    xp.add(z, mu, out=z)


def reparameterize_backward(xp, dz, eps, std, *, add_to, work):
    """The gradients of `reparameterize`, summed over the L samples.

        dmu += sum_l dz,   dlog_var += sum_l dz eps std / 2

    dz, eps : (L, B, D);  std : (B, D)
    add_to  : (dmu, dlog_var), each (B, D); the gradients are added to them
    work    : (L, B, D) and (B, D), overwritten
    """
    dmu, dlog_var = add_to
    product, total = work
    xp.sum(dz, axis=0, out=total)
    xp.add(dmu, total, out=dmu)
    xp.multiply(dz, eps, out=product)
    xp.sum(product, axis=0, out=total)
    xp.multiply(total, std, out=total)
    xp.multiply(total, 0.5, out=total)
    xp.add(dlog_var, total, out=dlog_var)


def gaussian_sample_log_prob(xp, eps, log_var, *, log_q, work):
    """log q(z given x) of the sample z = mu + std eps, in terms of the noise that made it.

        log_q = -1/2 sum_d (eps^2 + log_var + log 2 pi)

    eps : (L, B, D);  log_var : (B, D);  log_q : (L, B), overwritten; nats;  work : (L, B, D), overwritten
    z itself has dropped out, so mu has no gradient and dlog_var = -1/2 sum_l dlog_q.
    """
    xp.multiply(eps, eps, out=work)
    xp.add(work, log_var, out=work)
    xp.sum(work, axis=-1, out=log_q)
    xp.add(log_q, eps.shape[-1] * LOG_2PI, out=log_q)
    xp.multiply(log_q, -0.5, out=log_q)


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
        mu, raw_log_var = stats[:, :D], stats[:, D:]
        log_var = self.buffers("log_var", B, D)
        self.xp.maximum(raw_log_var, LOG_VAR_MIN, out=log_var)
        self.xp.minimum(log_var, LOG_VAR_MAX, out=log_var)
        return mu, log_var

    def sample(self, stats, eps):
        self.stats, self.eps = stats, eps
        self.mu, self.log_var = self.split(stats)
        self.std = self.buffers("std", *self.mu.shape)
        self.z = self.buffers("z", *eps.shape)
        self.keep = None
        reparameterize(self.xp, self.mu, self.log_var, eps, std=self.std, z=self.z)
        return self.z

    def kl(self):
        B, D = self.mu.shape
        kl = self.buffers("kl", B)
        work = self.buffers("work", B, D), self.buffers("square", B, D)
        gaussian_kl(self.xp, self.mu, self.log_var, kl=kl, work=work)
        return kl

    def free_bits(self, least):
        B, D = self.mu.shape
        self.keep, floor = self.buffers("keep", 1, D), self.buffers("floor", B)
        work = self.buffers("work", B, D), self.buffers("square", B, D), self.buffers("mean", 1, D)
        free_bits(self.xp, self.mu, self.log_var, least, keep=self.keep, floor=floor, work=work)
        return floor

    def log_prob(self):
        L, B, D = self.eps.shape
        log_q = self.buffers("log_q", L, B)
        gaussian_sample_log_prob(self.xp, self.eps, self.log_var, log_q=log_q, work=self.buffers("work", L, B, D))
        return log_q

    def backward(self, dz, *, dkl=None, dlog_q=None):
        xp, (B, D) = self.xp, self.mu.shape
        dstats = self.buffers("dstats", B, 2 * D)
        dmu, dlog_var = dstats[:, :D], dstats[:, D:]
        if dkl is not None:
            gaussian_kl_backward(xp, dkl[:, None], self.mu, self.log_var, dmu=dmu, dlog_var=dlog_var)
            if self.keep is not None:
                xp.multiply(dmu, self.keep, out=dmu)
                xp.multiply(dlog_var, self.keep, out=dlog_var)
        else:
            dstats.fill(0)
        if dlog_q is not None:
            total = self.buffers("dlog_q", B)
            xp.sum(dlog_q, axis=0, out=total)
            xp.multiply(total, -0.5, out=total)
            xp.add(dlog_var, total[:, None], out=dlog_var)
        work = self.buffers("work", *dz.shape), self.buffers("total", B, D)
        reparameterize_backward(xp, dz, self.eps, self.std, add_to=(dmu, dlog_var), work=work)
        inside = self.buffers("inside", B, D, dtype=bool)
        xp.equal(self.log_var, self.stats[:, D:], out=inside)
        xp.multiply(dlog_var, inside, out=dlog_var)
        return dstats
