"""Tables with gaps: values of several kinds, of which some are missing.

A value is missing where x is NaN. Let x_o be the values of a row that are there, x_m the others. Where the values of x
are independent given z, and the places of the gaps do not depend on x_m, what is missing drops out of the integral:

    p(x_o) = integral p(z) p(x_o given z) dz,    log p(x_o given z) = sum over i that are there of log p(x_i given z)

So the bounds stay what they are, of log p(x_o), with a likelihood that counts what is there: `Observed`. The encoder,
which takes rows of a fixed width, sees 0 for what is missing: `ZeroFilled`; whatever it makes of that is a q(z given
x_o), and the bound holds for any q. Training uses the importance-weighted bound, which forgives a q that is not quite
right, as one from a few values of many must be.

Source: Mattei & Frellsen 2019, "MIWAE: deep generative modelling and imputation of incomplete data sets";
columns of several kinds: Nazabal et al. 2020.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from ..arguments import integer
from ..errors import MiniVAEError, rows_of, shown
from ..model.layers import Layer
from ..model.likelihoods import Categorical, Likelihood, log_softmax
from ..model.parameters import Composite, joined, within
from .branches import blocks
from .counts import Poisson


def checked_columns(kind, columns):
    """A list of pairs (likelihood, how many columns it has), as a list; raises MiniVAEError for anything else."""
    pairs = list(columns) if isinstance(columns, (list, tuple)) else []
    if not pairs or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise MiniVAEError(
            f"{kind}: columns should be a list of pairs such as [(Gaussian(), 5), (Categorical(3), 1)], got "
            f"{shown(columns)}"
        )
    for likelihood, _ in pairs:
        if not isinstance(likelihood, Likelihood) or isinstance(likelihood, Observed):
            raise MiniVAEError(f"{kind}: expected a likelihood of single values such as Gaussian(), got {likelihood!r}")
    return [(likelihood, integer(f"{kind}: the number of columns", n)) for likelihood, n in pairs]


class Observed(Composite, Likelihood):
    """log p of what is there of each row: the sum over its values, without those that are NaN.

        log_px = sum_i seen_i log p(x_i given z),   seen_i = 0 where x_i is NaN, else 1

    columns : pairs of a likelihood and how many columns of x it has, in their order:
              [(PredictedVarianceGaussian(), 5), (Categorical(3), 1), (Poisson(), 2)]

    Each likelihood is asked about one value at a time: the B rows of n columns are handed to it as B n rows of one, so
    that what it gives can be left out or counted. In the decoder's output the parameters of a value lie side by side,
    value after value. What likelihood i learns is called "i.log_var".

    With seen as factor, dlog p(x_i given z) = seen_i dlog_px: what is missing gives no gradient.
    """

    takes_nan = True

    def __init__(self, columns: Sequence[tuple[Likelihood, int]]) -> None:
        self.columns = checked_columns("Observed", columns)
        self.n_columns = sum(n for _, n in self.columns)
        self.from_logits = all(likelihood.from_logits for likelihood, _ in self.columns)

    def parts(self):
        return {str(i): likelihood for i, (likelihood, _) in enumerate(self.columns)}

    def blocks(self) -> Iterator[tuple[str, Likelihood, slice, slice]]:
        """For each likelihood its name, itself, its columns of x, its columns of the decoder's output."""
        start = start_out = 0
        for i, (likelihood, n) in enumerate(self.columns):
            stop, stop_out = start + n, start_out + n * likelihood.params_dim(1)
            yield str(i), likelihood, slice(start, stop), slice(start_out, stop_out)
            start, start_out = stop, stop_out

    def params_dim(self, n_pixels):
        if n_pixels != self.n_columns:
            raise MiniVAEError(f"Observed: its columns are {self.n_columns} in all, but the encoder takes {n_pixels}")
        return sum(n * likelihood.params_dim(1) for likelihood, n in self.columns)

    def check(self, x):
        for _, likelihood, columns, _ in self.blocks():
            there = x[:, columns][~np.isnan(x[:, columns])]
            if len(there):
                likelihood.check(there[:, None])

    def check_pixels(self, x):
        for _, likelihood, columns, _ in self.blocks():
            likelihood.check_pixels(x[:, columns])

    def log_prob(self, params, x, out):
        (L, B, _), log_px, backward_passes = out.shape, 0, {}
        for name, likelihood, columns, of_out in self.blocks():
            values, parameters = x[:, columns], out[..., of_out]
            seen, n = values == values, B * values.shape[1]  # a NaN is not itself
            one_by_one = np.where(seen, values, 0).reshape(n, 1), parameters.reshape(L, n, -1)
            log_p, log_p_backward = likelihood.log_prob(within(params, name), *one_by_one)
            log_px = log_px + np.sum(np.where(seen, log_p.reshape(L, *values.shape), 0), axis=-1)
            backward_passes[name] = seen, log_p_backward

        def backward(dlog_px):
            douts, grads = [], {}
            for name, (seen, log_p_backward) in backward_passes.items():
                dout, grads[name] = log_p_backward((dlog_px[..., None] * seen).reshape(L, -1))
                douts.append(np.where(seen.reshape(-1, 1), dout, 0).reshape(L, B, -1))
            return np.concatenate(douts, axis=-1), joined(grads)

        return log_px, backward

    def mean(self, params, out):
        return self._by_block(params, out, lambda likelihood, of, one_by_one: likelihood.mean(of, one_by_one))

    def sample(self, params, out, rng):
        return self._by_block(params, out, lambda likelihood, of, one_by_one: likelihood.sample(of, one_by_one, rng))

    def _by_block(self, params, out, function):
        """(N, X) from the decoder's output (N, P), by a function that gives one value for each row of one's own."""
        made = []
        for name, likelihood, _, of_out in self.blocks():
            one_by_one = out[:, of_out].reshape(-1, likelihood.params_dim(1))
            made.append(function(likelihood, within(params, name), one_by_one).reshape(len(out), -1))
        return np.concatenate(made, axis=1)

    def guess(self, params: dict[str, np.ndarray], out: np.ndarray, w: np.ndarray) -> np.ndarray:
        """The best single guess (B, X) from weighted draws: out (L, B, P) and w (L, B), NumPy arrays.

        The mean, sum_l w_l E[x_i given z_l]; of a Categorical the level whose probability, averaged alike, is largest.
        """
        L, B, _ = out.shape
        made = []
        for name, likelihood, _, of_out in self.blocks():
            one_by_one = out[..., of_out].reshape(-1, likelihood.params_dim(1))
            if isinstance(likelihood, Categorical):
                _, p = log_softmax(one_by_one)
                p = np.einsum("lb,lbik->bik", w, p.reshape(L, B, -1, likelihood.levels))
                made.append(np.argmax(p, axis=-1) / (likelihood.levels - 1))
            else:
                mean = likelihood.mean(within(params, name), one_by_one)
                made.append(np.einsum("lb,lbi->bi", w, mean.reshape(L, B, -1)))
        return np.concatenate(made, axis=1)


def zero_filled(x):
    """y = x, or 0 where x is NaN;  dy/dx = 1 where it is there, else 0."""
    seen = x == x
    return np.where(seen, x, 0), lambda dy: dy * seen


def log_filled(x):
    """y = log(1 + x) of counts, or 0 where x is NaN;  dy/dx = 1 / (1 + x) where it is there, else 0."""
    seen, (filled, _) = x == x, zero_filled(x)
    return np.log1p(filled), lambda dy: dy * seen / (1 + filled)


def one_hot_filled(x, level):
    """1 at the level of each value, else 0: only zeros where x is NaN, which equals no level.  x (B, n) -> (B, n K).

    Its derivative is 0 everywhere but where it jumps.
    """
    y = (np.rint(x * (len(level) - 1))[..., None] == level).astype(x.dtype)
    return y.reshape(len(x), -1), lambda dy: np.zeros_like(x)


class ZeroFilled(Layer):
    """What an encoder can work with of a row with gaps: x, with 0 for what is NaN.

    columns : as for `Observed`. A Categorical column becomes one of 0 and 1 for each level, a Poisson one log(1 + x)
    """

    fills_nan = True

    def __init__(self, columns: Sequence[tuple[Likelihood, int]]) -> None:
        self.columns = checked_columns("ZeroFilled", columns)
        self.widths = [n for _, n in self.columns]
        self.input_shape = (sum(self.widths),)

    def constant_arrays(self):
        return joined({str(i): likelihood.constant_arrays() for i, (likelihood, _) in enumerate(self.columns)})

    def output_shape(self, input_shape):
        if tuple(input_shape) != self.input_shape:
            raise MiniVAEError(f"ZeroFilled expects (B, {self.input_shape[0]}), got {rows_of(input_shape)}")
        return (sum(n * (of.levels if isinstance(of, Categorical) else 1) for of, n in self.columns),)

    def forward(self, params, x):
        self.output_shape(x.shape[1:])
        filled = []
        for i, ((likelihood, _), values) in enumerate(zip(self.columns, blocks(x, self.widths), strict=True)):
            if isinstance(likelihood, Categorical):
                filled.append(one_hot_filled(values, params[f"{i}.level"]))
            else:
                filled.append((log_filled if isinstance(likelihood, Poisson) else zero_filled)(values))
        ys, backward_passes = zip(*filled, strict=True)

        def backward(dy):
            dys = blocks(dy, [y.shape[1] for y in ys])
            dxs = [of_block(columns) for of_block, columns in zip(backward_passes, dys, strict=True)]
            return np.concatenate(dxs, axis=1), {}

        return np.concatenate(ys, axis=1), backward
