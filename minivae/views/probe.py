"""A model's parts asked one by one, for `diagnose`: in batches, with results as NumPy arrays of float64."""

import math

import numpy as np

from ..arguments import array
from ..errors import MiniVAEError
from ..model.layers import ReLU, Sequential
from ..model.likelihoods import Bernoulli, Categorical
from ..model.parameters import within
from ..model.priors import StandardNormal
from ..randomness import DIAGNOSIS, generator

ROWS, LEAST_ROWS = 10_000, 50  # examples that are looked at


class Probe:
    """A model, and the seed of all that is drawn to diagnose it."""

    def __init__(self, vae, seed):
        self.vae, self.seed, self.params = vae, seed, vae._params

    def data(self, name, given):
        """At most ROWS rows of x as (n, X), and of its labels; only that they lie in [0, 1] is not checked.

        name : which argument of `diagnose` was given
        """
        x, y = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        x = array(f"diagnose: {name}", x)
        n = x.shape[0] if x.ndim else 0
        if n < LEAST_ROWS:
            raise MiniVAEError(f"diagnose: {name} should have at least {LEAST_ROWS} rows, got {n}")
        try:
            return self._rows(x, y, n)
        except MiniVAEError as error:
            raise MiniVAEError(f"diagnose: {name}: {error}") from error

    def _rows(self, x, y, n):
        y = self.vae.labels.check(y, n)
        rows = np.sort(generator(self.seed, DIAGNOSIS).permutation(n)[:ROWS]) if n > ROWS else slice(None)
        x = x[rows].reshape(min(n, ROWS), -1)
        in_unit_interval = isinstance(self.vae.likelihood, (Bernoulli, Categorical))
        fits = x.dtype.kind in "fiub" and x.shape[1] == self.vae.input_dim and np.isfinite(x).all()
        if not (in_unit_interval and fits):
            self.vae.check_input(x)
        return x, None if y is None else y[rows]

    def noise(self, n, purpose=0):
        """eps (n, D)."""
        return generator(self.seed, DIAGNOSIS, purpose).standard_normal((n, self.vae.latent_dim))

    def prior(self, n):
        """Draws of z from the prior, (n, D)."""
        if type(self.vae.prior) is StandardNormal:
            return self.noise(n, 1)
        return self.vae.draw_prior(n, generator(self.seed, DIAGNOSIS, 1)).astype(np.float64)

    def encode(self, x, y):
        """mu and log_var, (n, D)."""
        return [values.astype(np.float64) for values in self.vae.encode(x, y)]

    def draw(self, x, y, eps):
        """The posterior's draws z (n, D) for noise eps (n, D), by the function that `evaluate` calls."""

        def function(batch, labels, eps):
            posterior, params = self.vae.posterior, within(self.params, "posterior")
            statistics = self.vae._encode(self.params, batch, labels)
            closed = self.vae.analytic and not posterior.trains_otherwise
            draw = posterior.with_kl if closed else posterior.with_log_q
            return [draw(params, statistics, eps[None])[0][0][0]]

        return self._batched(x, y, function, eps)[0]

    def log_px(self, x, y, z):
        """log p(x given z) (n,) for z (n, D)."""

        def function(batch, labels, z):
            return [self._log_prob(batch, self.vae._decode(self.params, z[None], labels))]

        return self._batched(x, y, function, z)[0]

    def ratio_of_copies(self, x, y):
        """log p of rows written twice side by side, by log p of the rows; NaN for a likelihood of fixed width."""
        z, _ = self.encode(x, y)

        def function(batch, labels, z):
            out = self.vae._decode(self.params, z[None], labels)
            twice_out = np.concatenate([out, out], axis=-1)
            beside = [np.concatenate([batch, values], axis=-1) for values in (batch, batch[::-1])]
            return [self._log_prob(batch, out), *(self._log_prob(both, twice_out) for both in beside)]

        try:
            once, twice, with_others = self._batched(x, y, function, z)
        except ValueError:  # it has an array with a place for each value
            return math.nan
        if np.array_equal(twice, with_others):  # it takes its columns by their places, and looks at no more
            return math.nan
        return float(twice.mean() / once.mean()) if once.mean() else math.nan

    def alive(self, x, y, part, z=None):
        """For each ReLU of "encoder" or "decoder", its name and which units are above 0 for some row.

        Units of an image are its channels.
        """
        names = []

        def function(batch, labels, z=None):
            rows, _ = self.vae._with_labels(batch if z is None else z, labels)
            found = list(relus(getattr(self.vae, part), within(self.params, part), rows, part))
            names[:] = [name for name, _ in found]
            return [np.max(y.reshape(len(y), -1, y.shape[-1]), axis=1) for _, y in found]

        values = self._batched(x, y, function, *([] if z is None else [z]))
        return [(name, (value > 0).any(axis=0)) for name, value in zip(names, values, strict=True)]

    def _log_prob(self, x, out):
        return self.vae.likelihood.log_prob(within(self.params, "likelihood"), x, out)[0][0]

    def _batched(self, x, y, function, *arrays):
        """The results of function(batch, labels, *rows of the arrays) for all batches, each joined along the rows."""
        vae, start, results = self.vae, 0, []
        for batch, labels in vae._batches(x, y, vae.inference_rows):
            rows = [vae.backend.asarray(array[start : start + len(batch)], vae.dtype) for array in arrays]
            values = function(batch, labels, *rows)
            results.append([vae.backend.to_host(value).astype(np.float64) for value in values])
            start += len(batch)
        return [np.concatenate(values) for values in zip(*results, strict=True)]


def relus(layer, params, x, name):
    """The names and outputs of all ReLUs in a layer, one after another; returns the layer's own output."""
    if isinstance(layer, Sequential):
        for key, part in layer.parts().items():
            x = yield from relus(part, within(params, key), x, f"{name}.{key}")
        return x
    y, _ = layer.forward(params, x)
    if isinstance(layer, ReLU):
        yield name, y
    return y
