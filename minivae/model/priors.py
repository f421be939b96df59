"""p(z): the standard normal. Others, such as mixtures, are in `minivae.zoo`."""

import numpy as np

from ..arguments import integer
from .gaussian import standard_normal_log_prob
from .parameters import Part


class Prior(Part):
    """p(z), for z of `dim` numbers.

    log_prob(params, z) -> log_pz, backward             z (N, D) -> log p(z) (N,), nats
        backward(dlog_pz) -> dz, grads
    sample(params, n, rng) -> z                         n draws (n, D) from NumPy params, with a NumPy generator

    A prior that is made by the encoder says how many numbers its inputs have, `n_inputs`, and gives them by
        pseudo_inputs(params) -> u, backward            u (K, n_inputs);  backward(du) -> grads
    `params` then hold what the encoder makes of u under "stats", (K, S), and `backward` of log_prob gives its gradient
    among the others.

    One that is `of_posterior` has no parameters of its own and is handed the posterior's, such as a table of codes.

    `components` says how many numbers for each number of z it holds at a time, which bounds the rows of a batch outside
    training.
    """

    dim: int | None = None
    n_inputs: int | None = None
    of_posterior = False
    components = 1

    def log_prob(self, params, z):
        raise NotImplementedError

    def pseudo_inputs(self, params):
        raise NotImplementedError

    def sample(self, params, n, rng):
        raise NotImplementedError


class StandardNormal(Prior):
    """p(z) = N(0, I), against which a DiagonalGaussian has its KL in closed form; see `standard_normal_log_prob`."""

    def __init__(self, dim: int) -> None:
        self.dim = integer("StandardNormal: dim", dim)

    def log_prob(self, params, z):
        log_pz, z_backward = standard_normal_log_prob(z)
        return log_pz, lambda dlog_pz: (z_backward(dlog_pz), {})

    def sample(self, params, n, rng):
        return rng.standard_normal((n, self.dim), np.float32)
