"""Adversarial variational Bayes: a posterior that one can draw from but not write down, and a discriminator for its KL.

The posterior. Noise e from N(0, I), of as many dimensions as z, goes through a network v, and the encoder says how to
mix what comes out:

    z = mu(x) + A(x) (v(e) - m),    of mean mu and covariance S = A C A'

m and C are mean and covariance of v(e); to S 1e-5 I is added, so that it has an inverse. The shape of z's distribution
may be any, and nobody knows its density. The KL needs it:

    log q(z given x) = log q(w given x) - 1/2 log det S,    w = K (z - mu),    K S K' = I

by the change of variables to w, which has mean 0 and covariance I. What is left is learned: a discriminator T(x, w) is
trained to tell w, drawn as above, from e, drawn from n = N(0, I), by the loss

    E_w[log(1 + exp(-T(x, w)))] + E_e[log(1 + exp(T(x, e)))]

For each x and each point w this is q a + n b, with a = log(1 + exp(-T)), b = log(1 + exp(T)) and both densities taken
there. Its derivative by T, -q (1 - s) + n s with s = 1 / (1 + exp(-T)), is 0 at s = q / (q + n), and so

    T*(x, w) = log q(w given x) - log n(w),     log q(z given x) ~ T(x, w) + log n(w) - 1/2 log det S

"Adaptive contrast" is that it is w that is held against N(0, I), or what is the same, z against a Gaussian of its own
mean and covariance: those are then known, and what is left for T is the shape. With `adaptive=False` z is held against
N(0, I), as in the paper's first part.

Mean and covariance of v(e) are averages over draws of e. After training these are some fixed ones, so that q(z given x)
is the same whatever else is in a batch. Training takes the N draws of the batch, which of them an example gets being
chance: over all that it might have got the square of each w_d has the mean 1, for any v (less where S is not large
beside 1e-5). Fixed ones v would learn by heart, leave them where they are and throw all others far out, where T has
seen nothing and log n(w) = -w^2 / 2 promises an ever smaller KL. The price: S is then itself by chance, and log q given
S has a mean that is too large, by about D (D + 1) / 4N nats where N is large beside D^2: 0.2 for N = 100 and D = 8.

The gradient. T stands for log q(u given x) - log n(u), where u is what it is asked about, w or z. That depends on the
weights of the encoder, phi, twice: through the draw u, and because q itself changes. The second has the mean 0:
E_q[d/dphi log q(u)] at fixed u = integral of q (dq/dphi) / q = d/dphi 1 = 0. So T's weights need know nothing of phi;
log det S, which is known, keeps its whole gradient. T's weights get the gradient of the discriminator's loss, in which
u is a constant, and not that of the ELBO, which would have T say what is cheap in place of what is true. Both are
updated in the same step, as in the paper's algorithm 1. With importance weights the second way has another mean than 0
(Tucker, Lawson, Gu & Maddison 2019), so a model takes no other bound than the ELBO.

Source: Mescheder, Nowozin & Geiger 2017, "Adversarial variational Bayes", sections 2 and 3. There each v_i has noise of
its own and goes to one z_d, and the contrast has z's mean and variances; here its covariances too, which are hard for
T.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..arguments import flag, integer, positive
from ..errors import MiniVAEError
from ..model.builders import chosen_likelihood, dense_layers, refuse
from ..model.gaussian import standard_normal_log_prob
from ..model.layers import Layer, ReLU, Sequential, Tanh
from ..model.parameters import Composite, joined, within
from ..model.posteriors import Posterior
from ..model.vae import VAE
from ..randomness import generator
from .branches import WithInput, widths_without_dropout

SMALLEST = 1e-5  # is added to the variances of a covariance that is inverted


def mixture(A, v, v_draws, unit):
    """Mixtures of bent noise, with weights of each example's own, and their covariance.

        r_lb = A_b (v_lb - m),    S_b = A_b C A_b' + 1e-5 I

    A (B, D, M);  v (L, B, M);  v_draws (N, M), of which m is the mean and C the covariance;  unit (D, D), I
    -> r (L, B, D), S (B, D, D)

    With c = v - m:
        dA_b = sum_l dr_lb c_lb' + (dS_b + dS_b') A_b C      dv_lb = A_b' dr_lb
        dC   = sum_b A_b' dS_b A_b                           dm    = -sum_lb dv_lb
    and of the draws v_i, as m = 1/N sum_i v_i and C = 1/N sum_i (v_i - m)(v_i - m)',
        dv_i = 1/N ((dC + dC') (v_i - m) + dm)
    """
    B, D, M = A.shape
    m = np.sum(v_draws, axis=0) * (1 / len(v_draws))
    centred, c, rows = v_draws - m, v - m, A.reshape(B * D, M)
    AC = (rows @ (centred.T @ (centred * (1 / len(v_draws))))).reshape(B, D, M)
    r, S = np.sum(A * c[:, :, None, :], axis=-1), np.sum(A[:, :, None, :] * AC[:, None, :, :], axis=-1)

    def backward(dr, dS):
        dS = dS + np.swapaxes(dS, 1, 2)
        dA = np.sum(dr[..., None] * c[:, :, None, :], axis=0) + np.sum(dS[..., None] * AC[:, None, :, :], axis=2)
        dv = np.sum(dr[..., None] * A, axis=2)
        dm = -np.sum(dv, axis=(0, 1))
        both_dC = rows.T @ np.sum(dS[..., None] * A[:, None, :, :], axis=2).reshape(B * D, M)  # dC + dC'
        return dA, dv, (centred @ both_dC + dm) * (1 / len(v_draws))

    return (r, S + SMALLEST * unit), backward


def inverse_root(S, lower):
    """K (B, D, D), lower triangular, with K S K' = I, and log det K^-1 (B,), of covariances S (B, D, D).

    lower (D, D) : 1 on and below the diagonal, 0 above

    It is what Gauss's elimination makes of I while it takes S to K^-1', whose product with K^-1 is S: the Cholesky
    decomposition.
    """
    left, right, rows, log_det = S, np.broadcast_to(lower * lower.T, S.shape), [], 0
    for d in range(len(lower)):
        root = np.sqrt(left[:, d : d + 1, d])
        rows.append(right[:, d] / root)
        column = left[:, :, d] / root
        left = left - column[:, :, None] * (left[:, d] / root)[:, None, :]
        right = right - column[:, :, None] * rows[-1][:, None, :]
        log_det = log_det + np.log(root[:, 0])
    return np.stack(rows, axis=1), log_det


def whiten(S, r, lower):
    """What has covariance S made to have covariance I, and the logarithm of how much that takes off its volume.

        w_lb = K_b r_lb,    K_b S_b K_b' = I,    log_det_b = log det K_b^-1 = 1/2 log det S_b;    see `inverse_root`

    S (B, D, D), symmetric;  r (L, B, D);  lower (D, D) -> w (L, B, D), log_det (B,)

    dr = K' dw. For S, let P = K^-1, and S change by a small symmetric F, whereby P changes by G. From P P' = S it
    follows that P^-1 G + (P^-1 G)' = K F K', of which the left side is a lower triangle and its mirror image:
    P^-1 G = low(K F K'), where low takes what is below the diagonal and half of what is on it. So w changes by
    -K G w = -low(K F K') w, log_det by the trace of low(K F K'), and
        dS = K' low(dlog_det I - sum_l dw_l w_l') K
    whose mirror image would do as well.
    Source: Murray 2016, "Differentiation of the Cholesky decomposition", section 3.
    """
    K, log_det = inverse_root(S, lower)
    w = np.sum(K * r[:, :, None, :], axis=-1)
    unit = lower * lower.T

    def backward(dw, dlog_det):
        dr = np.sum(K * dw[..., None], axis=2)
        of_both = dlog_det[:, None, None] * unit - np.sum(dw[..., None] * w[:, :, None, :], axis=0)
        low = of_both * (lower - 0.5 * unit)
        low_K = np.sum(low[..., None] * K[:, None, :, :], axis=2)
        return np.sum(K[..., None] * low_K[:, :, None, :], axis=1), dr

    return (w, log_det), backward


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
    """q(z given x) = the distribution of mu + A (v(e) - m), of any shape; see the module.

    noise         : layers of v, from e (rows, D) to (rows, M)
    features      : layers from x to what the discriminator sees of it, (rows, F)
    discriminator : layers of T, from [features, w] (rows, F + D) to (rows, 1)
    adaptive      : whether z is held against a Gaussian of its own mean and covariance, or against N(0, I)
    draws         : over how many fixed e the mean and the covariance of v are taken after training. In training it is
                    over the N of the step, or where these are fewer than 4 D over the fixed ones. |w|^2 is then at most
                    N - 1, for any v: N should be many times D
    pace          : the weights of features and discriminator are kept divided by it, so that a step of Adam or RMSprop,
                    whose length knows nothing of the gradient's, goes so many times as far: T is to follow q closely

    The encoder gives (B, D + D M + X): mu, A, which is divided by the root of M, and x itself; see `WithInput`. The KL
    is an estimate, as good as T is, and no bound: a T that is too weak for q takes it to be smaller than it is. For
    `VAE.log_likelihood` draws come from N(mu, S), whose density is known.
    """

    has_own_loss = of_whole_batches = True

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
        if self.mixed < self.dim:
            raise MiniVAEError(
                f"ImplicitPosterior: noise gives {self.mixed} numbers for the {self.dim} dimensions of z, which would "
                f"then lie in a plane and have no density: let it give {self.dim} or more"
            )
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
        e = np.linalg.solve(np.linalg.cholesky(e.T @ e / self.draws), e.T).T
        return {"draws": e, "lower": np.tri(self.dim)}

    def for_training(self, params, eps):
        own = eps.reshape(-1, self.dim)
        return params | {"draws": own} if len(own) >= 4 * self.dim else params

    def latent_dim(self, stats_dim):
        D, M = self.dim, self.mixed
        wanted = D + D * M + self.n_inputs
        if stats_dim != wanted:
            raise MiniVAEError(
                f"ImplicitPosterior: the encoder should give (B, {wanted}): {D} for mu, {D * M} to mix the noise, and "
                f"the {self.n_inputs} values of x; got (B, {stats_dim}): put its layers into WithInput"
            )
        return self.dim

    def moments(self, params, stats):
        mu, _ = self._parts(stats)
        (_, S), _ = self._mixed(params, stats, np.zeros_like(mu)[None])
        return mu, np.log(np.sum(S * params["lower"] * params["lower"].T, axis=2))

    def proposal(self, params, stats, eps):
        """Draws of N(mu, S), the Gaussian of z's mean and covariance."""
        mu, _ = self._parts(stats)
        (_, S), _ = self._mixed(params, stats, eps)
        K, log_det = inverse_root(S, params["lower"])
        root = np.sum(S[:, :, None, :] * K[:, None, :, :], axis=-1)  # S K' = K^-1, as K S K' = I
        return mu + np.sum(root * eps[:, :, None, :], axis=-1), standard_normal_log_prob(eps)[0] - log_det

    def with_log_q(self, params, stats, eps):
        mu, x = self._parts(stats)
        (r, S), mixed_backward = self._mixed(params, stats, eps)
        z = mu + r
        (seen, log_det), seen_backward = self._seen(params, z, r, S)
        t, t_backward = self._discriminate(params, x, seen)
        log_n, n_backward = standard_normal_log_prob(seen)

        def backward(dz, dlog_q):
            dx, dseen, grads = t_backward(dlog_q)
            dz_of_seen, dr, dS = seen_backward(dseen + n_backward(dlog_q), -np.sum(dlog_q, axis=0))
            dz = dz + dz_of_seen
            dA, of_noise = mixed_backward(dz + dr, dS)
            return np.concatenate([np.sum(dz, axis=0), dA, dx], axis=1), grads | of_noise

        return (z, t + log_n - log_det), backward

    def own_loss(self, params, stats, eps):
        """`contrast_loss` of T, and the gradients of its weights alone.

        The contrast is the noise that made the draws, which is itself from N(0, I): each of the two averages is right
        by itself, and what they share cancels.
        """
        mu, x = self._parts(stats)
        (r, S), _ = self._mixed(params, stats, eps)
        (seen, _), _ = self._seen(params, mu + r, r, S)
        t_drawn, drawn_backward = self._discriminate(params, x, seen)
        t_contrast, contrast_backward = self._discriminate(params, x, eps)
        loss, loss_backward = contrast_loss(t_drawn, t_contrast)

        def backward(dloss):
            dt_drawn, dt_contrast = loss_backward(dloss)
            (_, _, of_drawn), (_, _, of_contrast) = drawn_backward(dt_drawn), contrast_backward(dt_contrast)
            return {name: grad + of_contrast[name] for name, grad in of_drawn.items()}

        return loss, backward

    def _parts(self, stats):
        """mu (B, D) and x (B, X)."""
        return stats[:, : self.dim], stats[:, stats.shape[1] - self.n_inputs :]

    def _mixed(self, params, stats, eps):
        """`mixture` of the noise (L, B, D) by the weights A in stats; the way back goes to A and the weights of v."""
        (L, B, D), M = eps.shape, self.mixed
        A = stats[:, D : D + D * M].reshape(B, D, M)
        e = np.concatenate([eps.reshape(L * B, D), params["draws"]])
        v, v_backward = self.stacks["noise"].forward(within(params, "noise"), e)
        unit = params["lower"] * params["lower"].T
        values, mixture_backward = mixture(A * M**-0.5, v[: L * B].reshape(L, B, M), v[L * B :], unit)

        def backward(dr, dS):
            dA, dv, dv_draws = mixture_backward(dr, dS)
            _, grads = v_backward(np.concatenate([dv.reshape(L * B, M), dv_draws]))
            return dA.reshape(B, D * M) * M**-0.5, joined({"noise": grads})

        return values, backward

    def _seen(self, params, z, r, S):
        """What T is asked about (L, B, D), and log_det (B,) as in `whiten`; the way back goes to z, r and S."""
        if not self.adaptive:
            return (z, np.zeros_like(S[:, 0, 0])), lambda dz, dlog_det: (dz, np.zeros_like(r), np.zeros_like(S))
        values, backward = whiten(S, r, params["lower"])

        def whitened_backward(dw, dlog_det):
            dS, dr = backward(dw, dlog_det)
            return np.zeros_like(z), dr, dS

        return values, whitened_backward

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
    """A VAE with an implicit posterior and its discriminator, dense networks with ReLU.

    n_in    : how many values an example has
    latent  : D, the dimensions of z, and of the noise
    hidden  : the width of hidden layers; for the noise, and of what T sees of x, a quarter of it, but no less than D
    options : of `VAE`, such as likelihood, backend and seed
    others  : as for `ImplicitPosterior`, and for `Dense`

        encoder        x - hidden - hidden - [mu, A], and x
        noise          e - hidden / 4 - hidden / 4, with tanh: of thin tails
        discriminator  [x - hidden - hidden / 4, w] - hidden - hidden - 1
        decoder        z - hidden - hidden - x
    """
    D = integer("avb: latent", latent)
    quarter = max(D, integer("avb: hidden", hidden) // 4)
    cure = "put the layers together with VAE"
    refuse("avb", options, posterior=cure, n_classes=cure)
    likelihood = chosen_likelihood(options)

    stack = partial(dense_layers, activation=ReLU, init=init)
    posterior = ImplicitPosterior(
        dense_layers(D, quarter, quarter, activation=Tanh),
        [*stack(n_in, hidden, quarter), ReLU()],
        stack(quarter + D, hidden, hidden, 1),
        adaptive,
        draws,
        pace,
    )
    encoder = [WithInput(stack(n_in, hidden, hidden, D + D * quarter))]
    decoder = stack(D, hidden, hidden, likelihood.params_dim(n_in))
    return VAE(encoder, decoder, **options | {"likelihood": likelihood, "posterior": posterior})
