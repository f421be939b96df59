"""q(z given x), made from the encoder's statistics: the diagonal Gaussian, sampled by the reparameterization step."""

import numpy as np

from ..errors import MiniVAEError
from .gaussian import free_bits_kl, free_bits_lack, gaussian_sample_log_prob, hold, reparameterize
from .parameters import Part
from .priors import StandardNormal


class Posterior(Part):
    """q(z given x), made of the encoder's statistics, `stats` (B, S), and noise, `eps` (L, B, D).

    What a posterior needs:
    latent_dim(stats_dim) -> D                                   raises MiniVAEError for an S that does not fit
    split(stats) -> mu, log_var                                  (B, D) each: where q lies and how wide it is; of a
                                                                 flow, where its base does
    with_log_q(params, stats, eps) -> (z, log_q), backward       draws z (L, B, D) and their log q(z) (L, B)
        backward(dz, dlog_q) -> dstats, grads

    What it may have:
    moments(params, stats) -> mu, log_var                        in place of `split`, with parameters; mu is what
                                                                 `VAE.reconstruct` decodes
    with_kl(params, stats, eps, free_bits) -> (z, kl, floor), backward
        backward(dz, dkl) -> dstats, grads                       where it `has_analytic_kl`: the KL against its own
                                                                 prior, and what free bits add to it, (B,) each
    own_prior(latent_dim) -> prior                               which a model has by default, instead of N(0, I)
    lack(params, stats, free_bits) -> (1, D)                     for rows that are a part of a batch: what they lack of
                                                                 its free bits; the sum over the batch is handed to
                                                                 `with_kl` as the parameter "lack"
    proposal(params, stats, eps) -> z, log_q                     draws for importance sampling, of known density
    for_training(params, eps) -> params                          what training hands to the others: constants may be
                                                                 made of a step's noise. Where that makes examples of
                                                                 one batch depend on each other: `of_whole_batches`
    own_loss(params, stats, eps) -> loss (B,), backward          where it `has_own_loss`: what some of its parameters
        backward(dloss) -> their grads                           are trained by, in place of the model's loss, for
                                                                 which they are constants; with the ELBO only

    Where it `trains_otherwise`, `with_kl` is for training only: its z may be softer than a draw, its floor holds losses
    of its own. All that comes after training is then by `with_log_q`.
    """

    has_analytic_kl = trains_otherwise = has_own_loss = of_whole_batches = False
    begins_with_gaussian = False  # whether the statistics begin with mu and log_var of a diagonal Gaussian

    def latent_dim(self, stats_dim):
        """D for a row of statistics; raises MiniVAEError where it does not fit."""
        raise NotImplementedError

    def split(self, stats):
        raise NotImplementedError

    def moments(self, params, stats):
        return self.split(stats)

    def with_log_q(self, params, stats, eps):
        raise NotImplementedError

    def for_training(self, params, eps):
        return params

    def own_prior(self, latent_dim):
        return StandardNormal(latent_dim)

    def proposal(self, params, stats, eps):
        return self.with_log_q(params, stats, eps)[0]


class DiagonalGaussian(Posterior):
    """q(z given x) = N(mu, diag(exp(log_var))) for stats (B, 2D): mu first, then log_var.

    log_var is held within [-80, 80]; outside, its gradient is 0.
    """

    has_analytic_kl = begins_with_gaussian = True

    def latent_dim(self, stats_dim):
        if stats_dim % 2:
            raise MiniVAEError(
                f"the encoder's last layer should give (B, 2D), mu first and then log_var; got (B, {stats_dim}): "
                "make its width even"
            )
        return stats_dim // 2

    def split(self, stats):
        return self.split_with_backward(stats)[0]

    def split_with_backward(self, stats):
        """(mu, log_var), and the way back: dmu, dlog_var -> dstats."""
        D = stats.shape[1] // 2
        log_var, hold_backward = hold(stats[:, D:])

        def backward(dmu, dlog_var):
            return np.concatenate([dmu, hold_backward(dlog_var)], axis=1)

        return (stats[:, :D], log_var), backward

    def with_log_q(self, params, stats, eps):
        (mu, log_var), split_backward = self.split_with_backward(stats)
        z, z_backward = reparameterize(mu, log_var, eps)
        log_q, log_q_backward = gaussian_sample_log_prob(eps, log_var)

        def backward(dz, dlog_q):
            dmu, dlog_var = z_backward(dz)
            return split_backward(dmu, dlog_var + log_q_backward(dlog_q)), {}

        return (z, log_q), backward

    def with_kl(self, params, stats, eps, free_bits=0.0):
        (mu, log_var), split_backward = self.split_with_backward(stats)
        z, z_backward = reparameterize(mu, log_var, eps)
        (kl, floor), kl_backward = free_bits_kl(mu, log_var, free_bits, params.get("lack"))

        def backward(dz, dkl):
            (dmu, dlog_var), (dmu_of_kl, dlog_var_of_kl) = z_backward(dz), kl_backward(dkl)
            return split_backward(dmu + dmu_of_kl, dlog_var + dlog_var_of_kl), {}

        return (z, kl, floor), backward

    def lack(self, params, stats, free_bits):
        return np.sum(free_bits_lack(*self.split(stats), free_bits), axis=0, keepdims=True)
