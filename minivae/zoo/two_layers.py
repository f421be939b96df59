"""Two layers of latent variables: z2 says what kind of example it is, z1 the rest, given z2.

    p(x, z1, z2) = p(z2) p(z1 given z2) p(x given z1, z2)          q(z1, z2 given x) = q(z2 given x) q(z1 given x, z2)

The bound. With z = (z1, z2) nothing changes: log p(x) >= E_q[log p(x given z) + log p(z) - log q(z given x)], and both
densities of z are products, so

    log p(x) >= E_q[log p(x given z1, z2) + log p(z1 given z2) + log p(z2) - log q(z1 given x, z2) - log q(z2 given x)]

This is an ordinary VAE whose posterior and whose prior have two storeys. Its KL, log q - log p at the draws, has no
closed form, as p(z1 given z2) depends on the draw of z2.

The gradient. With z2 = mu2(x) + std2(x) eps2 and then z1 = mu1(x, z2) + std1(x, z2) eps1, the loss of one draw,
-log p(x given z1, z2) + log q(z given x) - log p(z), depends on z2 on five ways:

    dz2 = -d/dz2 log p(x given z1, z2) - d/dz2 log p(z2) - d/dz2 log p(z1 given z2)
          + (dz1/dz2)' dz1 + d/dz2 log q(z1 given x, z2),    dz1 = -d/dz1 [log p(x given z1, z2) + log p(z1 given z2)]

The first three, with z1 held, and dz1 come from outside, by the decoder and the prior. The last two, with eps1 held,
go through the network of q(z1 given x, z2), which makes both mu1 and log_var1 of z2:

    dz1/dz2 = dmu1/dz2 + 1/2 std1 eps1 dlog_var1/dz2,    d/dz2 log q(z1 given x, z2) = -1/2 sum_d dlog_var1_d/dz2

In `with_log_q` they are dz2_of_stats1, and the sum of all goes on to mu2 and std2.

Source: Tomczak & Welling 2018, "VAE with a VampPrior", section 4, equations 12 to 16; two stochastic layers before:
Rezende, Mohamed & Wierstra 2014; Burda, Grosse & Salakhutdinov 2016.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arguments import integers
from ..errors import MiniVAEError, shown
from ..model.builders import chosen_likelihood, refuse
from ..model.gaussian import gaussian_log_prob_of_sample
from ..model.layers import Dense, Layer, Sequential
from ..model.parameters import Composite, joined, within
from ..model.posteriors import DiagonalGaussian, Posterior
from ..model.priors import Prior, StandardNormal
from ..model.vae import VAE
from .branches import SideBySide, WithInput, widths_without_dropout
from .gated import GatedDense


def half(name, n_stats):
    """D1 for the statistics of z1; raises MiniVAEError where they are no mu and log_var."""
    if n_stats % 2:
        raise MiniVAEError(f"{name} should give (B, 2 D1), mu first and then log_var, got (B, {n_stats}): make it even")
    return n_stats // 2


class TwoLayerPosterior(Composite, Posterior):
    """q(z1, z2 given x) = q(z2 given x) q(z1 given x, z2), diagonal Gaussians; z = [z1, z2].

    of_x  : layers from x to what q(z1) sees of it
    of_z2 : layers from z2 to what q(z1) sees of it
    joint : layers from both, side by side, to the statistics of z1: (rows, 2 D1), mu first, then log_var

    The encoder gives the statistics of z2 and then x itself, (B, 2 D2 + X), see `WithInput`; so what x has to say about
    z1 is worked out once for all draws of z2. With a draw z2:
        stats1 = joint([of_x(x), of_z2(z2)]),   log q(z) = log q(z1; stats1) + log q(z2; stats2)
    """

    begins_with_gaussian = True

    def __init__(self, of_x: Sequence[Layer], of_z2: Sequence[Layer], joint: Sequence[Layer]) -> None:
        self.stacks = {
            name: Sequential(layers) for name, layers in (("of_x", of_x), ("of_z2", of_z2), ("joint", joint))
        }
        self.of_x, self.of_z2, self.joint = (stack.layers for stack in self.stacks.values())
        (self.n_inputs, h_x), (self.dim2, h_z2), (seen, stats1) = (
            widths_without_dropout(f"TwoLayerPosterior: {name}", stack) for name, stack in self.stacks.items()
        )
        if seen != h_x + h_z2:
            raise MiniVAEError(
                f"TwoLayerPosterior: of_x and of_z2 give {h_x} + {h_z2} numbers, but joint takes {seen}: make its "
                "first layer as wide"
            )
        self.dim1 = half("TwoLayerPosterior: joint", stats1)

    def parts(self):
        return self.stacks

    def latent_dim(self, stats_dim):
        wanted = 2 * self.dim2 + self.n_inputs
        if stats_dim != wanted:
            raise MiniVAEError(
                f"TwoLayerPosterior: the encoder should give (B, {wanted}), the {2 * self.dim2} statistics of z2 and "
                f"the {self.n_inputs} values of x, got (B, {stats_dim}): put its layers into WithInput"
            )
        return self.dim1 + self.dim2

    def moments(self, params, stats):
        """mu and log_var of q(z1 given x, z2 = mu2) and of q(z2 given x), side by side: (B, D1 + D2) each."""
        mu2, log_var2 = DiagonalGaussian().split(stats[:, : 2 * self.dim2])
        stats1, _ = self._statistics1(params, stats[:, 2 * self.dim2 :], mu2[None])
        mu1, log_var1 = DiagonalGaussian().split(stats1)
        return np.concatenate([mu1, mu2], axis=1), np.concatenate([log_var1, log_var2], axis=1)

    def with_log_q(self, params, stats, eps):
        (L, B, _), D1, D2 = eps.shape, self.dim1, self.dim2
        gaussian = DiagonalGaussian()
        (z2, log_q2), z2_backward = gaussian.with_log_q({}, stats[:, : 2 * D2], eps[..., D1:])
        stats1, stats1_backward = self._statistics1(params, stats[:, 2 * D2 :], z2)
        (z1, log_q1), z1_backward = gaussian.with_log_q({}, stats1, eps[..., :D1].reshape(1, L * B, D1))

        def backward(dz, dlog_q):
            dz1, dz2 = dz[..., :D1], dz[..., D1:]
            dstats1, _ = z1_backward(dz1.reshape(1, L * B, D1), dlog_q.reshape(1, L * B))
            dx, dz2_of_stats1, grads = stats1_backward(dstats1)
            dstats2, _ = z2_backward(dz2 + dz2_of_stats1, dlog_q)
            return np.concatenate([dstats2, dx], axis=1), grads

        return (np.concatenate([z1.reshape(L, B, D1), z2], axis=-1), log_q1.reshape(L, B) + log_q2), backward

    def _statistics1(self, params, x, z2):
        """The statistics of q(z1 given x, z2), (L*B, 2 D1), from x (B, X) and z2 (L, B, D2); and back to both."""
        L, B, _ = z2.shape
        of = {name: within(params, name) for name in self.stacks}
        h_x, x_backward = self.stacks["of_x"].forward(of["of_x"], x)
        h_z2, z2_backward = self.stacks["of_z2"].forward(of["of_z2"], z2.reshape(L * B, -1))
        H = h_x.shape[1]
        h = np.concatenate([np.broadcast_to(h_x, (L, B, H)).reshape(L * B, H), h_z2], axis=1)
        stats1, joint_backward = self.stacks["joint"].forward(of["joint"], h)

        def backward(dstats1):
            grads = {}
            dh, grads["joint"] = joint_backward(dstats1)
            dz2, grads["of_z2"] = z2_backward(dh[:, H:])
            dx, grads["of_x"] = x_backward(np.sum(dh[:, :H].reshape(L, B, H), axis=0))  # all L draws saw the same x
            return dx, dz2.reshape(z2.shape), joined(grads)

        return stats1, backward


class TwoLayerPrior(Composite, Prior):
    """p(z1, z2) = p(z2) p(z1 given z2); z = [z1, z2].

    top   : the prior of z2, such as StandardNormal(40) or VampPrior(40, 784)
    below : layers from z2 to the statistics of z1: (rows, 2 D1), mu first, then log_var

    log p(z) = log p(z2) + log N(z1; mu1(z2), exp(log_var1(z2))); so z2 gets a gradient from either.
    """

    def __init__(self, top: Prior, below: Sequence[Layer]) -> None:
        if not isinstance(top, Prior):
            raise MiniVAEError(f"TwoLayerPrior: top should be a prior such as StandardNormal(40), got {top!r}")
        self.top, self.stack = top, Sequential(below)
        n_in, stats1 = widths_without_dropout("TwoLayerPrior: below", self.stack)
        if n_in != top.dim:
            raise MiniVAEError(
                f"TwoLayerPrior: {type(top).__name__} gives z2 of {top.dim} dimensions, but the layers below take "
                f"{n_in}: make the first of them as wide"
            )
        self.below, self.n_inputs, self.components = self.stack.layers, top.n_inputs, top.components
        self.dim1, self.dim2 = half("TwoLayerPrior: below", stats1), top.dim
        self.dim = self.dim1 + self.dim2

    def parts(self):
        return {"top": self.top, "below": self.stack}

    def pseudo_inputs(self, params):
        u, u_backward = self.top.pseudo_inputs(within(params, "top"))
        return u, lambda du: joined({"top": u_backward(du)})

    def _of_top(self, params):
        made = {"stats": params["stats"]} if "stats" in params else {}
        return within(params, "top") | made

    def log_prob(self, params, z):
        z1, z2 = z[:, : self.dim1], z[:, self.dim1 :]
        log_p2, top_backward = self.top.log_prob(self._of_top(params), z2)
        stats1, below_backward = self.stack.forward(within(params, "below"), z2)
        (mu1, log_var1), split_backward = DiagonalGaussian().split_with_backward(stats1)
        log_p1, normal_backward = gaussian_log_prob_of_sample(z1, mu1, log_var1)

        def backward(dlog_pz):
            dz1, dmu1, dlog_var1 = normal_backward(dlog_pz)
            dz2_of_below, of_below = below_backward(split_backward(dmu1, dlog_var1))
            dz2, of_top = top_backward(dlog_pz)
            made = {"stats": of_top.pop("stats")} if "stats" in of_top else {}
            grads = joined({"top": of_top, "below": of_below}) | made
            return np.concatenate([dz1, dz2 + dz2_of_below], axis=1), grads

        return log_p1 + log_p2, backward

    def sample(self, params, n, rng):
        z2 = self.top.sample(self._of_top(params), n, rng)
        stats1, _ = self.stack.forward(within(params, "below"), z2)
        mu1, log_var1 = DiagonalGaussian().split(stats1)
        z1 = mu1 + np.exp(0.5 * log_var1) * rng.standard_normal((n, self.dim1), np.float32)
        return np.concatenate([z1, z2], axis=1)


def two_layers(
    n_in: int,
    latent: Sequence[int] = (40, 40),
    hidden: int = 300,
    top: Prior | None = None,
    init: str = "he_normal",
    **options: Any,
) -> VAE:
    """A VAE of two stochastic layers with gated networks, as in the VampPrior's paper.

    n_in    : how many values an example has
    latent  : D1 and D2, the dimensions of z1 and z2
    hidden  : the width of all hidden layers
    top     : the prior of z2, StandardNormal(D2) by default; such as VampPrior(D2, n_in, 500)
    init    : as for `Dense`
    options : of `VAE`, such as likelihood, backend and seed

    In `encode`, `decode` and `sample` z is [z1, z2], of D1 + D2 dimensions. Its networks:
        q(z2 given x)      x - hidden - hidden - 2 D2
        q(z1 given x, z2)  [x - hidden, z2 - hidden] - hidden - 2 D1
        p(z1 given z2)     z2 - hidden - hidden - 2 D1
        p(x given z1, z2)  [z1 - hidden, z2 - hidden] - hidden - x
    """
    D = integers("two_layers: latent", latent)
    if len(D) != 2:
        raise MiniVAEError(f"two_layers: latent should be the sizes of z1 and z2, as (40, 40), got {shown(latent)}")
    (D1, D2), cure = D, "put the layers together with VAE"
    refuse("two_layers", options, prior="the prior of z2 is top=", posterior=cure, n_classes=cure)
    likelihood = chosen_likelihood(options)

    def gated(*widths):
        return [GatedDense(n, m, init) for n, m in zip(widths, widths[1:], strict=False)]

    def ending(n_out):
        return Dense(hidden, n_out, init)

    encoder = [WithInput([*gated(n_in, hidden, hidden), ending(2 * D2)])]
    decoder = [SideBySide([gated(D1, hidden), gated(D2, hidden)]), *gated(2 * hidden, hidden)]
    joint = [*gated(2 * hidden, hidden), ending(2 * D1)]
    posterior = TwoLayerPosterior(gated(n_in, hidden), gated(D2, hidden), joint)
    prior = TwoLayerPrior(top or StandardNormal(D2), [*gated(D2, hidden, hidden), ending(2 * D1)])
    decoder.append(ending(likelihood.params_dim(n_in)))
    return VAE(encoder, decoder, **options | {"likelihood": likelihood, "posterior": posterior, "prior": prior})
