"""How far the posterior q(z given x) is from the prior p(z) = N(0, I), in nats."""

import math

LOG_2PI = math.log(2 * math.pi)

# Beyond these bounds exp(log_var) would soon leave the range of float32; log_var is held there.
LOG_VAR_MIN, LOG_VAR_MAX = -80.0, 80.0


def gaussian_kl(xp, mu, log_var, *, kl, work):
    """KL(q || p) between a diagonal Gaussian and the standard normal.

        kl_b = 1/2 sum_d (mu^2 + exp(log_var) - log_var - 1)

    mu, log_var : (B, D)   log_var is log sigma^2
    kl          : (B,)     overwritten; nats
    work        : two arrays (B, D), overwritten
    Source: Kingma & Welling 2014, appendix B.
    """
    terms, square = work
    xp.exp(log_var, out=terms)
    xp.subtract(terms, log_var, out=terms)
    xp.multiply(mu, mu, out=square)
    xp.add(terms, square, out=terms)
    xp.sum(terms, axis=1, out=kl)
    xp.subtract(kl, mu.shape[1], out=kl)
    xp.multiply(kl, 0.5, out=kl)


def gaussian_kl_backward(xp, dkl, mu, log_var, *, dmu, dlog_var):
    """The gradients of `gaussian_kl`.

        dmu = dkl mu,   dlog_var = dkl 1/2 (exp(log_var) - 1)

    dkl : (B, 1);  dmu, dlog_var : (B, D), overwritten.
    """
    xp.multiply(mu, dkl, out=dmu)
    xp.exp(log_var, out=dlog_var)
    xp.subtract(dlog_var, 1, out=dlog_var)
    xp.multiply(dlog_var, 0.5, out=dlog_var)
    xp.multiply(dlog_var, dkl, out=dlog_var)


def free_bits(xp, mu, log_var, least, *, keep, floor, work):
    """What must be added to the KL so that no dimension costs less than `least` nats, on average over the batch.

        kl_bd   = 1/2 (mu^2 + exp(log_var) - log_var - 1),   keep_d = mean_b kl_bd > least
        floor_b = sum_d (1 - keep_d) (least - kl_bd),  so that  mean_b (kl_b + floor_b) = sum_d max(least, mean_b kl_bd)

    mu, log_var : (B, D);  least : a float
    keep        : (1, D)   overwritten with zeros and ones; the gradient of kl + floor is keep times that of kl
    floor       : (B,)     overwritten; nats
    work        : two arrays (B, D) and one (1, D), overwritten
    Source: Kingma et al. 2016, on free bits; each dimension being a group.
    """
    terms, square, mean = work
    xp.exp(log_var, out=terms)
    xp.subtract(terms, log_var, out=terms)
    xp.multiply(mu, mu, out=square)
    xp.add(terms, square, out=terms)
    xp.multiply(terms, -0.5, out=terms)
    xp.add(terms, 0.5 + least, out=terms)  # least - kl_bd
    xp.sum(terms, axis=0, keepdims=True, out=mean)
    xp.less(mean, 0, out=keep)
    xp.subtract(1, keep, out=mean)
    xp.multiply(terms, mean, out=terms)
    xp.sum(terms, axis=1, out=floor)


def standard_normal_log_prob(xp, z, *, log_pz, work):
    """log p(z) under the prior N(0, I).

        log_pz = -1/2 sum_d (z^2 + log 2 pi)

    z : (L, B, D);  log_pz : (L, B), overwritten; nats;  work : (L, B, D), overwritten
    Its gradient is dz = -z dlog_pz.
    """
    xp.multiply(z, z, out=work)
    xp.sum(work, axis=-1, out=log_pz)
    xp.add(log_pz, z.shape[-1] * LOG_2PI, out=log_pz)
    xp.multiply(log_pz, -0.5, out=log_pz)
