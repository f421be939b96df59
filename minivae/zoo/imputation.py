"""What the gaps of a table may have been: the best guesses, and draws.

What is missing of a row, x_m, has, given what is there, x_o, the distribution

    p(x_m given x_o) = integral p(x_m given z) p(z given x_o) dz

and weighted draws from q stand for p(z given x_o), by self-normalised importance sampling:

    z_l ~ q(z given x_o),   w_l = r_l / sum_j r_j,   r_l = p(x_o given z_l) p(z_l) / q(z_l given x_o)

The weighted mean of E[x_m given z_l] is the best single guess in mean squared error. Draws, z_l with probability w_l
and then x_m from p(x_m given z_l), also show how unsure it is: several of them are several complete tables, and what is
computed of a table, computed of each, comes with its spread (multiple imputation, Rubin 1987).

Source: Mattei & Frellsen 2019, "MIWAE: deep generative modelling and imputation of incomplete data sets", on single
and on multiple imputation; the likelihood is in `missing.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arguments import array, integer, integers
from ..arguments import seed as check_seed
from ..errors import MiniVAEError
from ..model.bounds import ImportanceWeighted
from ..model.builders import check_activation, dense_layers, refuse
from ..model.inference import finite, unwarned
from ..model.layers import Layer, Tanh
from ..model.likelihoods import Likelihood
from ..model.parameters import within
from ..model.vae import VAE, check_vae
from ..randomness import IMPUTATION, generator
from .missing import Observed, ZeroFilled


def miwae(
    columns: Sequence[tuple[Likelihood, int]],
    latent: int = 10,
    hidden: Sequence[int] = (128,),
    activation: type[Layer] = Tanh,
    **options: Any,
) -> VAE:
    """A VAE for tables with gaps: train it with several samples, `fit(vae, x, samples=20)`, where NaN is missing.

    columns    : as for `Observed`
    latent     : D
    hidden     : the widths of the encoder's hidden layers; the decoder has them in reverse order
    activation : the class of the layers between them
    options    : of `VAE`, such as backend and seed; bound is ImportanceWeighted() by default
    """
    refuse("miwae", options, likelihood="it is made of columns", n_classes="put the layers together with VAE")
    likelihood, fill = Observed(columns), ZeroFilled(columns)
    (n_seen,) = fill.output_shape(fill.input_shape)
    latent, hidden = integer("miwae: latent", latent), integers("miwae: hidden", hidden)
    check_activation("miwae", activation)
    encoder = [fill, *dense_layers(n_seen, *hidden, 2 * latent, activation=activation)]
    n_out = likelihood.params_dim(likelihood.n_columns)
    decoder = dense_layers(latent, *reversed(hidden), n_out, activation=activation)
    return VAE(encoder, decoder, **{"bound": ImportanceWeighted()} | options | {"likelihood": likelihood})


@unwarned
def impute(
    vae: VAE,
    x: np.ndarray,
    draws: int | None = None,
    samples: int = 1000,
    seed: int = 0,
    y: np.ndarray | int | None = None,
) -> np.ndarray:
    """x with a guess in place of each NaN, or with draws from p(what is missing given what is there).

    vae     : a VAE with an `Observed` likelihood
    x       : (N, X)
    draws   : None for the guess, (N, X): the mean, of a Categorical column the most probable level. Or how many
              complete tables to draw, (draws, N, X)
    samples : L, of z for each row: either is right in the limit of many
    seed    : keys all that is drawn
    y       : the labels (N,), for a model with n_classes

    Values that are there come back as they are, in the dtype of x. Source: Mattei & Frellsen 2019.
    """
    check_vae("impute: vae", vae)
    if not isinstance(vae.likelihood, Observed):
        raise MiniVAEError(f"impute: the VAE should have an Observed likelihood, got {type(vae.likelihood).__name__}")
    draws = None if draws is None else integer("impute: draws", draws)
    samples, rng = integer("impute: samples", samples), generator(check_seed("impute: seed", seed), IMPUTATION)
    given = array("x", x)
    x = vae.check_input(given)
    given, y = given.reshape(x.shape), vae.labels.check(y, len(x))
    params = {name: vae.backend.to_host(value) for name, value in within(vae._params, "likelihood").items()}
    made = np.array(np.broadcast_to(given, (draws or 1, *given.shape)))
    missing, size = np.isnan(x), max(1, vae.inference_rows // samples)
    with_gaps = np.flatnonzero(missing.any(axis=1))
    for start in range(0, len(with_gaps), size):
        rows = with_gaps[start : start + size]
        out, w = _weighted_draws(vae, x[rows], None if y is None else y[rows], samples, rng)
        below = w.cumsum(axis=0)
        for table in made:
            if draws is None:
                values = vae.likelihood.guess(params, out, w)
            else:
                chosen = np.minimum((below < rng.random(len(rows))).sum(axis=0), samples - 1)
                values = vae.likelihood.sample(params, out[chosen, np.arange(len(rows))], rng)
            table[rows] = np.where(missing[rows], values, given[rows])
    return finite("what was imputed", made[0] if draws is None else made)


def _weighted_draws(vae, x, y, samples, rng):
    """The decoder's output at draws from q(z given x), (L, B, P), and their weights, (L, B), which add up to 1."""
    outs, log_ws = [], []
    batch, labels, of_prior = vae._to_device(x), vae._one_hot(y), vae._of_prior()
    for start in range(0, samples, vae.inference_rows):
        eps = vae._draw(rng, min(vae.inference_rows, samples - start), len(x))
        out, log_w = vae._weighted(vae._params, of_prior, batch, labels, eps)
        outs.append(vae.backend.to_host(out))
        log_ws.append(vae.backend.to_host(log_w))
    log_w = finite("the weights", np.concatenate(log_ws).astype(np.float64))
    w = np.exp(log_w - log_w.max(axis=0))
    return np.concatenate(outs), w / w.sum(axis=0)
