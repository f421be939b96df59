"""The VampPrior, "variational mixture of posteriors": the prior is made of the encoder's own answers.

Of all priors, the one that makes the ELBO largest is the posteriors' average over the data, 1/N sum_n q(z given x_n):
the ELBO, averaged over the data, has the prior in it only as -KL(average posterior || p). That average overfits, and
costs N terms. So it is taken over K made-up examples, the pseudo-inputs u_k, which are trained with everything else:

    p(z) = 1/K sum_k q(z given u_k)

Source: Tomczak & Welling 2018, "VAE with a VampPrior", equations 7 to 9.
"""

import math

import numpy as np

from ..arguments import integer
from ..model.gaussian import hold
from ..model.posteriors import DiagonalGaussian
from ..model.priors import Prior
from .mixture import draw_from_mixture, mixture_log_prob


class VampPrior(Prior):
    """p(z) = 1/K sum_k N(mu(u_k), exp(log_var(u_k))), with the encoder's mu and log_var.

    dim        : D
    n_inputs   : how many values an example has
    components : K, how many pseudo-inputs

    Parameter u (K, n_inputs). What the encoder sees of it is held within [0, 1], where pixels lie; the gradient of a
    value outside is 0. u starts at N(0.05, 0.01^2), nearly black images, as in the authors' programs for MNIST; where
    it should start at K rows u of examples as the model sees them, x[:K], or x[:K] / 255 of uint8 pixels, load them:
    `vae.parameters.load(vae.parameters.to_host() | {"prior.u": u})`.

    The gradient of log p(z) reaches the encoder's weights twice: by z, and by the K components. The model needs a
    posterior whose statistics begin with a diagonal Gaussian's, and no classes.
    """

    def __init__(self, dim: int, n_inputs: int, components: int = 500) -> None:
        self.dim, self.n_inputs = integer("VampPrior: dim", dim), integer("VampPrior: n_inputs", n_inputs)
        self.components = integer("VampPrior: components", components)

    def shapes(self):
        return {"u": (self.components, self.n_inputs)}

    def initial(self, rng):
        return {"u": rng.normal(0.05, 0.01, (self.components, self.n_inputs))}

    def pseudo_inputs(self, params):
        u, hold_backward = hold(params["u"], 0, 1)
        return u, lambda du: {"u": hold_backward(du)}

    def log_prob(self, params, z):
        stats, width = params["stats"], 2 * self.dim
        (mu, log_var), split_backward = DiagonalGaussian().split_with_backward(stats[:, :width])
        log_pz, mixture_backward = mixture_log_prob(z, mu, log_var, -math.log(self.components))

        def backward(dlog_pz):
            dz, dmu, dlog_var, _ = mixture_backward(dlog_pz)
            dstats = split_backward(dmu, dlog_var)
            if stats.shape[1] > width:  # more, of which the prior makes no use
                dstats = np.concatenate([dstats, np.zeros_like(stats[:, width:])], axis=1)
            return dz, {"stats": dstats}

        return log_pz, backward

    def sample(self, params, n, rng):
        mu, log_var = DiagonalGaussian().split(params["stats"][:, : 2 * self.dim])
        return draw_from_mixture(mu, log_var, np.ones(self.components), n, rng)
