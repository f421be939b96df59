"""One flat array of values and one of gradients, with a named view for each tensor; and what owns such tensors.

The optimizers see the flat arrays, the layers their own views.
"""

import inspect
import math
from collections.abc import Mapping

import numpy as np

from ..errors import MiniVAEError
from ..randomness import INITIALISATION, generator


class Parameters(Mapping):
    """A mapping from names such as "encoder.0.W" to views into one flat array, `flat`, which takes new values in place.

    shapes : dict of name -> shape; the views lie in `flat` in this order, without gaps.
    """

    def __init__(self, backend, shapes, dtype):
        self.backend, self.dtype, self.shapes = backend, np.dtype(dtype), dict(shapes)
        self._flat = backend.zeros((sum(map(math.prod, self.shapes.values())),), self.dtype)
        self._views = self.named(self.flat)

    @property
    def flat(self):
        return self._flat

    @flat.setter
    def flat(self, values):
        self._flat[...] = values

    def named(self, flat):
        """The views into any array of the same length as `flat`, by name."""
        return named_views(flat, self.shapes)

    def __getitem__(self, name):
        try:
            return self._views[name]
        except KeyError:
            raise KeyError(f"{name!r}: the tensors are {', '.join(self._views)}") from None

    def __iter__(self):
        return iter(self._views)

    def __len__(self):
        return len(self._views)

    def load(self, arrays):
        """Copy NumPy arrays, given by name, into the views; names and shapes must agree exactly."""
        missing, unknown = self._views.keys() - arrays.keys(), arrays.keys() - self._views.keys()
        if missing or unknown:
            raise MiniVAEError(f"tensors do not fit this model: missing {sorted(missing)}, unknown {sorted(unknown)}")
        for name, view in self._views.items():
            if arrays[name].shape != view.shape:
                raise MiniVAEError(f"tensor {name!r} should be {view.shape}, got {arrays[name].shape}")
        for name, view in self._views.items():
            self.backend.upload(np.asarray(arrays[name], self.dtype), to=view)

    def to_host(self):
        """A dict of name -> NumPy copy."""
        return {name: np.array(self.backend.to_host(view)) for name, view in self._views.items()}

    def __reduce__(self):
        """A copy or a pickle holds one NumPy array, from which the views are made again."""
        return _restored, (self.backend, self.shapes, self.dtype, self.backend.to_host(self.flat))


def _restored(backend, shapes, dtype, values):
    parameters = Parameters(backend, shapes, dtype)
    backend.upload(values, to=parameters.flat)
    return parameters


class Settings:
    """What is made from settings that it keeps as attributes of the same names; its repr is the call that makes it."""

    def __repr__(self):
        signature = inspect.signature(type(self)).parameters
        values = {name: repr(getattr(self, name)) for name in signature if hasattr(self, name)}
        arguments = [
            text if signature[name].default is inspect.Parameter.empty else f"{name}={text}"
            for name, text in values.items()
        ]
        return f"{type(self).__name__}({', '.join(arguments)})"


class Part(Settings):
    """What a model is made of: a layer, a likelihood, a posterior, a bound, a flow.

    It says which parameters and constants it needs and computes with those that it is handed, as a mapping from names
    to arrays; it keeps no array itself. So one part may serve many models, batches and threads at once.
    """

    def shapes(self):
        """The shapes of its parameters: {"W": (n_in, n_out), ...}."""
        return {}

    def initial(self, rng):
        """The parameters' initial values by name, NumPy arrays drawn with the NumPy generator `rng`."""
        return {}

    def constant_arrays(self):
        """Arrays that never change, such as masks, by name: handed in with the parameters, on the device."""
        return {}


class Composite(Part):
    """A part made of others: the parameter "W" of the one called "0" is "0.W"."""

    def parts(self):
        """The parts by name."""
        raise NotImplementedError

    def shapes(self):
        return joined({name: part.shapes() for name, part in self.parts().items()})

    def initial(self, rng):
        return joined({name: part.initial(rng) for name, part in self.parts().items()})

    def constant_arrays(self):
        return joined({name: part.constant_arrays() for name, part in self.parts().items()})


def named_views(flat, shapes):
    """The arrays of these shapes, by name, of which a flat array is made, one after another and without gaps."""
    views, start = {}, 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        views[name] = flat[start:stop].reshape(shape)
        start = stop
    return views


def within(params, name):
    """What a mapping holds for one part: {"W": ...} for the part "0" of {"0.W": ..., "2.W": ...}."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in params.items() if key.startswith(start)}


def joined(of_parts):
    """The inverse of `within` for all parts: {"0.W": ...} for {"0": {"W": ...}}."""
    return {f"{name}.{key}": value for name, values in of_parts.items() for key, value in values.items()}


def summed(grads, others):
    """Gradients by name; that of a parameter which two of them are for, since it was used twice, is their sum."""
    return grads | others | {name: grads[name] + others[name] for name in grads if name in others}


def allocate(parts, backend, dtype, seed):
    """Parameters, gradients and constants of several parts, given by name, with initial values keyed by `seed`.

    Values are drawn on the host in float64, so all backends and both dtypes start equal up to rounding.
    """
    rng = generator(seed, INITIALISATION)
    shapes = joined({name: part.shapes() for name, part in parts.items()})
    values = joined({name: part.initial(rng) for name, part in parts.items()})
    constants = joined({name: part.constant_arrays() for name, part in parts.items()})
    parameters, gradients = Parameters(backend, shapes, dtype), Parameters(backend, shapes, dtype)
    parameters.load(values)
    return parameters, gradients, {name: backend.asarray(value, dtype) for name, value in constants.items()}
