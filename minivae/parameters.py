"""One flat array of values and one of gradients, with a named view for each tensor.

The optimizers work on the flat arrays in a few long passes; the layers see only their own views.
"""

import math
from collections.abc import Mapping

import numpy as np

from .backend import generator
from .errors import MiniVAEError

INITIALISATION = 0  # the second word of the key of every generator that draws initial values


class Parameters(Mapping):
    """A mapping from names such as "encoder.0.W" to views into one flat array, `flat`.

    shapes : dict of name -> shape; the views lie in `flat` in this order, without gaps.
    """

    def __init__(self, backend, shapes, dtype):
        self.backend = backend
        self.dtype = np.dtype(dtype)
        self.flat = backend.empty((sum(math.prod(shape) for shape in shapes.values()),), self.dtype)
        self.flat.fill(0)
        self._views = {}
        start = 0
        for name, shape in shapes.items():
            stop = start + math.prod(shape)
            self._views[name] = self.flat[start:stop].reshape(shape)
            start = stop

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
            raise MiniVAEError(
                f"tensors do not fit this model: missing {sorted(missing)}, unknown {sorted(unknown)}"
            )
        for name, view in self._views.items():
            if arrays[name].shape != view.shape:
                raise MiniVAEError(f"tensor {name!r} should be {view.shape}, got {arrays[name].shape}")
        for name, view in self._views.items():
            self.backend.upload(np.asarray(arrays[name], self.dtype), out=view)

    def to_host(self):
        """A dict of name -> NumPy copy."""
        return {name: np.array(self.backend.to_host(view)) for name, view in self._views.items()}


class Buffers:
    """Work arrays that are allocated once and used again in every step.

    `buffers("y", 100, 256)` is the same array each time it is asked for. Shapes of one name share memory, so a
    short last batch is a leading view of the buffer of a full one. An array that was handed out stays valid
    when a larger one is needed later, because a captured graph may still write to it.
    """

    def __init__(self, backend, dtype):
        self.backend = backend
        self.dtype = np.dtype(dtype)
        self._arrays = {}
        self._views = {}

    def __call__(self, name, *shape, dtype=None):
        key = (name, shape)
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = self._view(name, shape, dtype or self.dtype)
        return view

    def _view(self, name, shape, dtype):
        size = math.prod(shape)
        held = self._arrays.get(name)
        if held is None or held.size < size:
            # Growing at least twofold keeps all the arrays of one name within twice the largest.
            capacity = size if held is None else max(size, 2 * held.size)
            held = self._arrays[name] = self.backend.empty((capacity,), dtype)
        return held[:size].reshape(shape)


class Module:
    """Anything that owns buffers and perhaps parameters: a layer, a likelihood, a posterior, a bound.

    `shapes()` tells the parameters' shapes by name, `initial(rng)` draws their values on the host, and
    `attach` hands over the backend, the views and the buffers' dtype before first use.
    """

    def shapes(self):
        return {}

    def initial(self, rng):
        return {}

    def everything(self):
        """This module and all those that it is made of."""
        return [self]

    def attach(self, name, backend, parameters, gradients):
        self._use(name, backend, parameters.dtype)
        for key in self.shapes():
            setattr(self, key, parameters[f"{name}.{key}"])
            setattr(self, "d" + key, gradients[f"{name}.{key}"])

    def over_samples(self, name, values):
        """sum_l values_l for values (L, ...), in the buffer `name`; of one sample it is the values themselves."""
        if len(values) == 1:
            return values[0]
        return self.xp.sum(values, axis=0, out=self.buffers(name, *values.shape[1:]))

    def _use(self, name, backend, dtype):
        if hasattr(self, "buffers"):
            raise MiniVAEError(
                f"{name!r} is in use already, as {self.name!r} of this or another model: make a new "
                f"{type(self).__name__}, since each holds the arrays of one model"
            )
        self.name, self.backend, self.xp, self.fuse = name, backend, backend.xp, backend.fuse
        self.buffers = Buffers(backend, dtype)


class Composite(Module):
    """A module made of others: the parameter "W" of the part called "0" is "0.W"."""

    def parts(self):
        """The modules by name."""
        raise NotImplementedError

    def everything(self):
        return [self, *(inner for part in self.parts().values() for inner in part.everything())]

    def shapes(self):
        return {f"{name}.{key}": shape for name, part in self.parts().items() for key, shape in part.shapes().items()}

    def initial(self, rng):
        return {
            f"{name}.{key}": value for name, part in self.parts().items() for key, value in part.initial(rng).items()
        }

    def attach(self, name, backend, parameters, gradients):
        self._use(name, backend, parameters.dtype)
        for key, part in self.parts().items():
            part.attach(f"{name}.{key}", backend, parameters, gradients)


def allocate(modules, backend, dtype, seed):
    """Parameters and gradients of several modules, given by name, with initial values keyed by `seed`.

    Values are drawn on the host in float64, so both backends and both dtypes start equal up to rounding.
    """
    shapes, values = {}, {}
    rng = generator(seed, INITIALISATION)
    for name, module in modules.items():
        shapes |= {f"{name}.{key}": shape for key, shape in module.shapes().items()}
        values |= {f"{name}.{key}": value for key, value in module.initial(rng).items()}
    parameters, gradients = Parameters(backend, shapes, dtype), Parameters(backend, shapes, dtype)
    parameters.load(values)
    for name, module in modules.items():
        module.attach(name, backend, parameters, gradients)
    return parameters, gradients
