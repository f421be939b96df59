"""A mixture of Gaussians as prior: p(z) = sum_k w_k N(z; mu_k, var_k), all of it learned.

Where the standard normal asks all codes into one ball, a mixture lets them lie in clusters. Its KL has no closed form,
so it is that of the samples, log q(z given x) - log p(z). Source: Dilokthanakul et al. 2016, "Deep unsupervised
clustering with Gaussian mixture VAEs", whose mixture is conditioned on more; Tomczak & Welling 2018, "VAE with a
VampPrior", section 5, where it is the "MoG prior" of the comparison.
"""

import numpy as np

from ..arguments import integer
from ..model.gaussian import LOG_2PI, hold
from ..model.likelihoods import log_softmax
from ..model.priors import Prior


def mixture_log_prob(z, mu, log_var, log_w):
    """log p(z) under a mixture of diagonal Gaussians.

        log_pz_n = log sum_k exp(log_w_k + log N(z_n; mu_k, var_k))
        log N(z; mu, var) = -1/2 sum_d ((z - mu)^2 / var + log_var + log 2 pi),   var = exp(log_var)

    z (N, D);  mu, log_var (K, D);  log_w (K,) -> log_pz (N,), nats;  the largest term is taken out before exp.

    The derivative by the k-th term is its share of the sum, r_nk, and with R = r dlog_pz
        dz_n     = -sum_k R_nk (z_n - mu_k) / var_k
        dmu_k    =  sum_n R_nk (z_n - mu_k) / var_k
        dlog_var = 1/2 sum_n R_nk ((z_n - mu_k)^2 / var_k - 1),   dlog_w_k = sum_n R_nk
    The first two are written out into matrix products, for which no array (N, K, D) is needed. The third is not: in
    float32 the squares of means far apart would leave little of those of small distances.
    """
    precision = np.exp(-log_var)
    squares = (z[:, None, :] - mu) ** 2 * precision
    log_terms = -0.5 * np.sum(squares + (log_var + LOG_2PI), axis=-1) + log_w
    log_pz, r = log_sum_exp(log_terms)

    def backward(dlog_pz):
        R = dlog_pz[:, None] * r
        sum_R = np.sum(R, axis=0)
        R_z, of_k = R.T @ z, sum_R[:, None]
        dz = R @ (precision * mu) - z * (R @ precision)
        dmu = precision * (R_z - of_k * mu)
        dlog_var = 0.5 * (np.sum(R[:, :, None] * squares, axis=0) - of_k)
        return dz, dmu, dlog_var, sum_R  # the last is dlog_w

    return log_pz, backward


def log_sum_exp(terms):
    """log sum_k exp(terms) along axis 1 of terms (N, K, ...), (N, ...), and the share of each term in the sum."""
    largest = np.max(terms, axis=1, keepdims=True)
    parts = np.exp(terms - largest)
    total = np.sum(parts, axis=1, keepdims=True)
    return (largest + np.log(total))[:, 0], parts / total


def log_weights(logits):
    """Logarithms of weights that add up to 1, from any numbers.

    log_w_k = l_k - log sum_j exp(l_j), so  dl = dlog_w - w sum_j dlog_w_j.   logits (K,) -> log_w (K,)
    """
    log_w, w = log_softmax(logits)
    return log_w, lambda dlog_w: dlog_w - w * np.sum(dlog_w, keepdims=True)


def draw_from_mixture(mu, log_var, w, n, rng):
    """n draws (n, D) from a mixture of Gaussians (K, D) with weights w (K,), NumPy arrays."""
    k = rng.choice(len(mu), n, p=w / w.sum())
    return mu[k] + np.exp(0.5 * log_var[k]) * rng.standard_normal((n, mu.shape[1]), np.float32)


class MixturePrior(Prior):
    """p(z) = sum_k w_k N(mu_k, exp(log_var_k)); see `mixture_log_prob`.

    dim        : D
    components : K, how many Gaussians

    Parameters mu, log_var (K, D) and logits (K,), whose softmax are the weights. mu starts at draws from N(0, I),
    log_var and logits at 0. log_var is held within [-80, 80].
    """

    def __init__(self, dim: int, components: int = 10) -> None:
        self.dim = integer("MixturePrior: dim", dim)
        self.components = integer("MixturePrior: components", components)

    def shapes(self):
        return {"mu": (self.components, self.dim), "log_var": (self.components, self.dim), "logits": (self.components,)}

    def initial(self, rng):
        shapes = self.shapes()
        start = {"mu": rng.standard_normal(shapes["mu"])}
        return start | {name: np.zeros(shapes[name]) for name in ("log_var", "logits")}

    def log_prob(self, params, z):
        log_var, hold_backward = hold(params["log_var"])
        log_w, w_backward = log_weights(params["logits"])
        log_pz, mixture_backward = mixture_log_prob(z, params["mu"], log_var, log_w)

        def backward(dlog_pz):
            dz, dmu, dlog_var, dlog_w = mixture_backward(dlog_pz)
            return dz, {"mu": dmu, "log_var": hold_backward(dlog_var), "logits": w_backward(dlog_w)}

        return log_pz, backward

    def sample(self, params, n, rng):
        w = np.exp(log_weights(params["logits"].astype(np.float64))[0])
        return draw_from_mixture(params["mu"], hold(params["log_var"])[0], w, n, rng)
