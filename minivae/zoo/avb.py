"""Adversarial variational Bayes: a posterior that one can draw from but not write down, and a discriminator for its KL.

The posterior. Noise e from N(0, I), of as many dimensions as z, goes through a network v, and what the encoder makes of
x says how to mix what comes out:

    z = mu(x) + std(x) u,    u_d = sum_i A_di(x) (v_i(e) - mean v_i) / s_d(x),    s_d^2 = A_d' C A_d

C is the covariance of the v_i(e), so that every u_d has mean 0 and variance 1, and z the mean mu and the variances
std^2, like a diagonal Gaussian; but the shape may be any, and nobody knows the density.

The KL needs log q(z given x). By the change of variables it is log q(u given x) - sum_d log std_d, and the first is
learned: a discriminator T(x, u) is trained to tell u, drawn as above, from e, drawn from n = N(0, I), by the loss

    E_u[log(1 + exp(-T(x, u)))] + E_e[log(1 + exp(T(x, e)))]

For each x and each point u this is q a + n b, with a = log(1 + exp(-T)), b = log(1 + exp(T)) and both densities taken
there. Its derivative by T, -q (1 - s) + n s with s = 1 / (1 + exp(-T)), is 0 at s = q / (q + n), and so

    T*(x, u) = log q(u given x) - log n(u),     log q(z given x) ~ T(x, u) + log n(u) - sum_d log std_d

"Adaptive contrast" is that u is held against N(0, I), and not z against the prior: mean and spread are then alike, and
what is left for T is the shape. With `adaptive=False` it is z that is told from N(0, I), as in the paper's first part.

The gradient. log q depends on the weights of the encoder twice, by the draw and by itself. The second has the mean 0:
E_q[d/dw log q] = integral of q (dq/dw) / q = d/dw 1. So T may stand for log q although its own weights know nothing of
the encoder's: the way through the draw u is all there is. T's weights get the gradient of the discriminator's loss, in
which u is a constant, and not that of the ELBO, which would have T say what is cheap in place of what is true. Both are
updated in the same step, as in the paper's algorithm 1. With importance weights the second way has another mean than 0
(Tucker, Lawson, Gu & Maddison 2019), so a model takes no other bound than the ELBO.

Source: Mescheder, Nowozin & Geiger 2017, "Adversarial variational Bayes", sections 2 and 3. There each v_i has noise of
its own, so that C is diagonal, and its averages are taken over the batch; here over some fixed e.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..arguments import flag, integer, positive
from ..errors import MiniVAEError
from ..model.builders import chosen_likelihood, dense_layers, refuse
from ..model.gaussian import reparameterize, standard_normal_log_prob
from ..model.layers import Layer, ReLU, Sequential
from ..model.parameters import Composite, joined, within
from ..model.posteriors import DiagonalGaussian, Posterior
from ..model.vae import VAE
from ..randomness import generator
from .branches import WithInput, widths_without_dropout

SMALLEST = 1e-6  # is added to a variance that is divided by


def standard_mixture(A, v, draws):
    """Mixtures of noise, with weights of each example's own, of mean 0 and variance 1.

        u_lbd = sum_i A_bdi (v_lbi - m_i) / s_bd,    s_bd^2 = A_bd' C A_bd + 1e-6

    A (B, D, M);  v (L, B, M);  draws (K, M), of which m is the mean and C the covariance -> u (L, B, D)

    With c = v - m, the numerator n = A c, dn = du / s, and r_bd = d/d(s^2) = -1/(2 s^2) sum_l du_lbd u_lbd:
        dA_bd   = sum_l dn_lbd c_lb + 2 r_bd C A_bd          dv_lb = sum_d dn_lbd A_bd
        dC      = sum_bd r_bd A_bd A_bd'                     dm    = -sum_lb dv_lb
    and, as m = 1/K sum_k draws_k and C = 1/K sum_k (draws_k - m)(draws_k - m)',
        ddraws_k = 1/K (2 dC (draws_k - m) + dm)
    """
    B, D, M = A.shape
    m = np.sum(draws, axis=0) * (1 / len(draws))
    centred, c, rows = draws - m, v - m, A.reshape(B * D, M)
    AC = rows @ (centred.T @ (centred * (1 / len(draws))))
    s = np.sqrt(np.sum(AC * rows, axis=1) + SMALLEST).reshape(B, D)
    u = np.sum(A * c[:, :, None, :], axis=-1) / s

    def backward(du):
        dn = (du / s)[..., None]
        r = (np.sum(du * u, axis=0) * (-0.5 / s**2)).reshape(B * D, 1)
        dA = np.sum(dn * c[:, :, None, :], axis=0) + (2 * r * AC).reshape(B, D, M)
        dv = np.sum(dn * A, axis=2)
        dC, dm = (r * rows).T @ rows, -np.sum(dv, axis=(0, 1))
        return dA, dv, (2 * (centred @ dC) + dm) * (1 / len(draws))  # the last is ddraws

    return u, backward


def contrast_loss(t_drawn, t_contrast):
    """How badly a discriminator tells what was drawn from q from what was drawn from the contrast.

        loss_b = mean_l log(1 + exp(-t_drawn_lb)) + mean_l log(1 + exp(t_contrast_lb))

    t_drawn, t_contrast (L, B), its answers -> loss (B,), nats; 2 log 2 where it knows nothing

    With s(t) = 1 / (1 + exp(-t)):  dt_drawn = -s(-t_drawn) / L,  dt_contrast = s(t_contrast) / L, times dloss.
    Source: Mescheder, Nowozin & Geiger 2017, equation 5.
    """
    L = len(t_drawn)
    of_drawn, of_contrast = np.logaddexp(0, -t_drawn), np.logaddexp(0, t_contrast)

    def backward(dloss):
        # s(t) = exp(t - log(1 + exp(t))), which cannot overflow
        return -np.exp(-t_drawn - of_drawn) * dloss * (1 / L), np.exp(t_contrast - of_contrast) * dloss * (1 / L)

    return np.sum(of_drawn + of_contrast, axis=0) * (1 / L), backward


class ImplicitPosterior(Composite, Posterior):
    """q(z given x) = the distribution of mu + std u, with u of mean 0, variance 1 and any shape; see the module.

    noise         : layers of v, from e (rows, D) to (rows, M)
    features      : layers from x to what the discriminator sees of it, (rows, F)
    discriminator : layers of T, from [features, u] (rows, F + D) to (rows, 1)
    adaptive      : whether u is told from N(0, I), or else z itself
    draws         : K, over how many fixed e the mean and the covariance of v are taken
    pace          : the weights of features and discriminator are kept divided by it, so that a step of Adam or RMSprop,
                    whose length knows nothing of the gradient's, goes so many times as far: T is to follow q closely

    The encoder gives (B, 2 D + D M + X): mu, log_var, A, and x itself; see `WithInput`. The KL is an estimate, as good
    as T is, and no bound: a T that is too weak for q takes it to be smaller than it is. For `VAE.log_likelihood` draws
    come from N(mu, std^2), whose density is known.
    """

    has_own_loss = True

    def __init__(
        self,
        noise: Sequence[Layer],
        features: Sequence[Layer],
        discriminator: Sequence[Layer],
        adaptive: bool = True,
        draws: int = 500,
        pace: float = 5.0,
    ) -> None:
        self.pace = positive("ImplicitPosterior: pace", pace)
        self.adaptive = flag("ImplicitPosterior: adaptive", adaptive)
        self.stacks = {
            name: Sequential(layers)
            for name, layers in (("noise", noise), ("features", features), ("discriminator", discriminator))
        }
        self.noise, self.features, self.discriminator = (stack.layers for stack in self.stacks.values())
        (self.dim, self.mixed), (self.n_inputs, n_features), (seen, answers) = (
            widths_without_dropout(f"ImplicitPosterior: {name}", stack) for name, stack in self.stacks.items()
        )
        self.draws = integer("ImplicitPosterior: draws", draws, self.dim + 1)
        if (seen, answers) != (n_features + self.dim, 1):
            raise MiniVAEError(
                f"ImplicitPosterior: with noise that takes {self.dim} numbers and features that give {n_features}, "
                f"discriminator should take {n_features + self.dim} and give 1; it takes {seen} and gives {answers}"
            )

    def parts(self):
        return self.stacks

    def initial(self, rng):
        values = super().initial(rng)
        return {name: value / (1 if name.startswith("noise") else self.pace) for name, value in values.items()}

    def constant_arrays(self):
        e = generator(0).standard_normal((self.draws, self.dim))
        e -= e.mean(axis=0)
        # Now the covariance, which is made I: these e have the mean and the covariance of all noise.
        return {"draws": np.linalg.solve(np.linalg.cholesky(e.T @ e / self.draws), e.T).T}

    def latent_dim(self, stats_dim):
        D, M = self.dim, self.mixed
        wanted = 2 * D + D * M + self.n_inputs
        if stats_dim != wanted:
            raise MiniVAEError(
                f"ImplicitPosterior: the encoder should give (B, {wanted}): {2 * D} for mu and log_var, {D * M} to mix "
                f"the noise, and the {self.n_inputs} values of x; got (B, {stats_dim}): put its layers into WithInput"
            )
        return self.dim

    def split(self, stats):
        return DiagonalGaussian().split(stats[:, : 2 * self.dim])

    def proposal(self, params, stats, eps):
        (z, log_q), _ = DiagonalGaussian().with_log_q({}, stats[:, : 2 * self.dim], eps)
        return z, log_q

    def with_log_q(self, params, stats, eps):
        D, x_start = self.dim, stats.shape[1] - self.n_inputs
        (mu, log_var), split_backward = DiagonalGaussian().split_with_backward(stats[:, : 2 * D])
        u, u_backward = self._standard_draw(params, stats[:, 2 * D : x_start], eps)
        z, z_backward = reparameterize(mu, log_var, u)
        seen = u if self.adaptive else z
        t, t_backward = self._discriminate(params, stats[:, x_start:], seen)
        log_n, n_backward = standard_normal_log_prob(seen)
        log_q = t + log_n - 0.5 * np.sum(log_var, axis=1) if self.adaptive else t + log_n

        def backward(dz, dlog_q):
            dx, dseen, grads = t_backward(dlog_q)
            dseen = dseen + n_backward(dlog_q)
            dz = dz if self.adaptive else dz + dseen
            dmu, dlog_var = z_backward(dz)
            du = dz * np.exp(0.5 * log_var)
            if self.adaptive:
                du, dlog_var = du + dseen, dlog_var - 0.5 * np.sum(dlog_q, axis=0)[:, None]
            dA, of_noise = u_backward(du)
            return np.concatenate([split_backward(dmu, dlog_var), dA, dx], axis=1), grads | of_noise

        return (z, log_q), backward

    def own_loss(self, params, stats, eps):
        """`contrast_loss` of T, and the gradients of its weights alone.

        The contrast is the noise that made the draws, which is itself from N(0, I): each of the two averages is right
        by itself, and what they share cancels.
        """
        D, x_start = self.dim, stats.shape[1] - self.n_inputs
        seen, _ = self._standard_draw(params, stats[:, 2 * D : x_start], eps)
        if not self.adaptive:
            seen, _ = reparameterize(*self.split(stats), seen)
        t_drawn, drawn_backward = self._discriminate(params, stats[:, x_start:], seen)
        t_contrast, contrast_backward = self._discriminate(params, stats[:, x_start:], eps)
        loss, loss_backward = contrast_loss(t_drawn, t_contrast)

        def backward(dloss):
            dt_drawn, dt_contrast = loss_backward(dloss)
            (_, _, of_drawn), (_, _, of_contrast) = drawn_backward(dt_drawn), contrast_backward(dt_contrast)
            return {name: grad + of_contrast[name] for name, grad in of_drawn.items()}

        return loss, backward

    def _standard_draw(self, params, A, eps):
        """u (L, B, D) from A (B, D M) and noise (L, B, D); the way back goes to A and the weights of v."""
        (L, B, D), M = eps.shape, self.mixed
        e = np.concatenate([eps.reshape(L * B, D), params["draws"]])
        v, v_backward = self.stacks["noise"].forward(within(params, "noise"), e)
        u, u_backward = standard_mixture(A.reshape(B, D, M), v[: L * B].reshape(L, B, M), v[L * B :])

        def backward(du):
            dA, dv, ddraws = u_backward(du)
            _, grads = v_backward(np.concatenate([dv.reshape(L * B, M), ddraws]))
            return dA.reshape(B, D * M), joined({"noise": grads})

        return u, backward

    def _discriminate(self, params, x, u):
        """T(x, u) (L, B) of x (B, X) and u (L, B, D); the way back goes to x, u and the weights of T."""
        (L, B, D), of = u.shape, {}
        for part in ("features", "discriminator"):
            of[part] = {name: self.pace * value for name, value in within(params, part).items()}
        f, f_backward = self.stacks["features"].forward(of["features"], x)
        F = f.shape[1]
        f_and_u = np.concatenate([np.broadcast_to(f, (L, B, F)), u], axis=2).reshape(L * B, F + D)
        t, t_backward = self.stacks["discriminator"].forward(of["discriminator"], f_and_u)

        def backward(dt):
            grads = {}
            df_and_u, grads["discriminator"] = t_backward(dt.reshape(L * B, 1))
            df_and_u = df_and_u.reshape(L, B, F + D)
            dx, grads["features"] = f_backward(np.sum(df_and_u[..., :F], axis=0))  # all L draws saw the same x
            return dx, df_and_u[..., F:], {name: self.pace * grad for name, grad in joined(grads).items()}

        return t.reshape(L, B), backward


def avb(
    n_in: int,
    latent: int = 2,
    hidden: int = 256,
    adaptive: bool = True,
    draws: int = 500,
    pace: float = 5.0,
    init: str = "he_normal",
    **options: Any,
) -> VAE:
    """A VAE with an implicit posterior and its discriminator, dense networks with ReLU throughout.

    n_in    : how many values an example has
    latent  : D, the dimensions of z, and of the noise
    hidden  : the width of hidden layers; where noise enters and of what T sees of x, a quarter of it
    options : of `VAE`, such as likelihood, backend and seed
    others  : as for `ImplicitPosterior`, and for `Dense`

        encoder        x - hidden - hidden - [mu, log_var, A], and x
        noise          e - hidden / 4 - hidden / 4
        discriminator  [x - hidden - hidden / 4, u] - hidden - hidden - 1
        decoder        z - hidden - hidden - x
    """
    D, quarter = integer("avb: latent", latent), max(1, integer("avb: hidden", hidden) // 4)
    cure = "put the layers together with VAE"
    refuse("avb", options, posterior=cure, n_classes=cure)
    likelihood = chosen_likelihood(options)

    stack = partial(dense_layers, activation=ReLU, init=init)
    posterior = ImplicitPosterior(
        [*stack(D, quarter, quarter), ReLU()],
        [*stack(n_in, hidden, quarter), ReLU()],
        stack(quarter + D, hidden, hidden, 1),
        adaptive,
        draws,
        pace,
    )
    encoder = [WithInput(stack(n_in, hidden, hidden, 2 * D + D * quarter))]
    decoder = stack(D, hidden, hidden, likelihood.params_dim(n_in))
    return VAE(encoder, decoder, **options | {"likelihood": likelihood, "posterior": posterior})
