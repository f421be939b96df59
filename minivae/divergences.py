"""How far the posterior q(z given x) is from the prior p(z) = N(0, I), in nats."""

import math

LOG_2PI = math.log(2 * math.pi)

# Beyond these bounds exp(log_var) would soon leave the range of float32; log_var is held there.
LOG_VAR_MIN, LOG_VAR_MAX = -80.0, 80.0


def gaussian_kl(backend, mu, log_var, *, kl, work):
    """KL(q || p) between a diagonal Gaussian and the standard normal.

        kl_b = 1/2 sum_d (mu^2 + exp(log_var) - log_var - 1)

    mu, log_var : (B, D)   log_var is log sigma^2
    kl          : (B,)     overwritten; nats
    work        : two arrays (B, D), overwritten
    Source: Kingma & Welling 2014, appendix B.
    """
    terms, square = work
    backend.fuse(gaussian_kl_terms)(backend.xp, mu, log_var, terms=terms, work=square)
    backend.xp.sum(terms, axis=1, out=kl)


def gaussian_kl_terms(xp, mu, log_var, *, terms, work):
    """The KL of each dimension, 1/2 (mu^2 + exp(log_var) - log_var - 1).

    mu, log_var, terms, work : (B, D), the last two overwritten; nats
    """
    xp.exp(log_var, out=terms)
    xp.subtract(terms, log_var, out=terms)
    xp.multiply(mu, mu, out=work)
    xp.add(terms, work, out=terms)
    xp.subtract(terms, 1, out=terms)
    xp.multiply(terms, 0.5, out=terms)


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


def free_bits(backend, mu, log_var, least, *, keep, floor, work):
    """What must be added to the KL so that no dimension costs less than `least` nats, on average over the batch.

        kl_bd   = 1/2 (mu^2 + exp(log_var) - log_var - 1),   keep_d = mean_b kl_bd > least
        floor_b = sum_d (1 - keep_d) (least - kl_bd),  so that  mean_b (kl_b + floor_b) = sum_d max(least, mean_b kl_bd)

    mu, log_var : (B, D);  least : a float
    keep        : (1, D)   overwritten with zeros and ones; the gradient of kl + floor is keep times that of kl
    floor       : (B,)     overwritten; nats
    work        : two arrays (B, D) and one (1, D), overwritten
    Source: Kingma et al. 2016, on free bits; each dimension being a group.
    """
    (terms, square, mean), xp = work, backend.xp
    backend.fuse(gaussian_kl_terms)(xp, mu, log_var, terms=terms, work=square)
    xp.subtract(least, terms, out=terms)
    xp.sum(terms, axis=0, keepdims=True, out=mean)
    xp.less(mean, 0, out=keep)
    xp.subtract(1, keep, out=mean)
    xp.multiply(terms, mean, out=terms)
    xp.sum(terms, axis=1, out=floor)


def standard_normal_log_prob(backend, z, *, log_pz, work):
    """log p(z) under the prior N(0, I).

        log_pz = -1/2 sum_d (z^2 + log 2 pi)

    z : (L, B, D);  log_pz : (L, B), overwritten; nats;  work : (L, B, D), overwritten
    """
    backend.fuse(standard_normal_terms)(backend.xp, z, terms=work)
    backend.xp.sum(work, axis=-1, out=log_pz)


def standard_normal_terms(xp, z, *, terms):
    """The log-density of each dimension, -1/2 (z^2 + log 2 pi);  z, terms : (L, B, D), terms overwritten."""
    xp.multiply(z, z, out=terms)
    xp.add(terms, LOG_2PI, out=terms)
    xp.multiply(terms, -0.5, out=terms)


def standard_normal_log_prob_backward(xp, dkl, z, *, add_to, work):
    """The gradient of `standard_normal_log_prob` as a part of kl = log q - log p(z), since log p(z) falls by z dz.

        dz += dkl z

    dkl : (L, B, 1);  z : (L, B, D);  add_to : dz (L, B, D);  work : (L, B, D), overwritten
    """
    xp.multiply(z, dkl, out=work)
    xp.add(add_to, work, out=add_to)
