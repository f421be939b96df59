"""Weights to and from PyTorch, as NumPy arrays under PyTorch's names; PyTorch itself is not needed.

    vae's name, shape                  PyTorch's name, shape
    encoder.0.W  (n_in, n_out)         encoder.0.weight  (n_out, n_in)
    encoder.0.b  (n_out,)              encoder.0.bias    (n_out,)

These are the names in torch.nn.ModuleDict({"encoder": Sequential(Linear, ReLU, Linear), "decoder": ...}) with the
same layers in the same places. A module with other names needs its keys renamed, nothing else.
"""

import numpy as np

from .errors import MiniVAEError

NAMES = {"W": "weight", "b": "bias"}


def _torch_name(name):
    *path, last = name.split(".")
    return ".".join([*path, NAMES.get(last, last)])


def _swap(array):
    """A Dense weight matrix from one layout to the other; whatever has not two axes stays as it is."""
    return np.ascontiguousarray(array.T) if array.ndim == 2 else array


def to_torch_state_dict(vae):
    """A dict of PyTorch's names and NumPy arrays in PyTorch's layout.

    module.load_state_dict({name: torch.from_numpy(array) for name, array in to_torch_state_dict(vae).items()})
    """
    return {_torch_name(name): _swap(array) for name, array in vae.parameters.to_host().items()}


def from_torch_state_dict(vae, state):
    """Take the weights of a `state_dict()` whose names and shapes are those of `to_torch_state_dict(vae)`.

    state : dict of name -> tensor on the CPU, or NumPy array
    Raises MiniVAEError where a tensor is missing, unknown or of another shape; the model is then unchanged.
    """
    names = {_torch_name(name): name for name in vae.parameters}
    if state.keys() != names.keys():
        raise MiniVAEError(
            f"the state dict does not fit this model: missing {sorted(names.keys() - state.keys())}, "
            f"unknown {sorted(state.keys() - names.keys())}"
        )
    vae.parameters.load({names[name]: _swap(np.asarray(tensor)) for name, tensor in state.items()})
