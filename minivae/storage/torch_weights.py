"""Weights to and from PyTorch, as NumPy arrays under PyTorch's names; PyTorch itself is not needed.

    vae's name, shape                  PyTorch's name, shape
    encoder.0.W  (n_in, n_out)         encoder.0.weight  (n_out, n_in)
    encoder.0.b  (n_out,)              encoder.0.bias    (n_out,)
    Conv2d           W  (K, K, n_in, n_out)   weight  (n_out, n_in, K, K)
    LayerNorm        gain  (n,), bias  (n,)   weight  (n,), bias  (n,)
    ConvTranspose2d  W  (K, K, n_out, n_in)   weight  (n_in, n_out, K, K)

These are the names in torch.nn.ModuleDict({"encoder": Sequential(Linear, ReLU, Linear), "decoder": ...}) with the
same layers in the same places. A module with other names needs its keys renamed, nothing else. Images have their
channels last here and first there, so a Dense beside Flatten or Reshape fits only a module that permutes likewise.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arguments import array
from ..errors import MiniVAEError, shown
from ..model.vae import VAE, check_vae

NAMES = {"W": "weight", "b": "bias", "gain": "weight"}


def _torch_name(name):
    *path, last = name.split(".")
    return ".".join([*path, NAMES.get(last, last)])


def _transposed(array, kernel_axes):
    """A matrix transposed, and the axes of a kernel in this order; what has other axes stays as it is."""
    axes = {2: (1, 0), 4: kernel_axes}.get(array.ndim)
    return np.ascontiguousarray(array.transpose(axes)) if axes else array


def to_torch_state_dict(vae: VAE) -> dict[str, np.ndarray]:
    """A dict of PyTorch's names and NumPy arrays in PyTorch's layout.

    module.load_state_dict({name: torch.from_numpy(array) for name, array in to_torch_state_dict(vae).items()})
    """
    arrays = check_vae("to_torch_state_dict: vae", vae).parameters.to_host()
    return {_torch_name(name): _transposed(array, (3, 2, 0, 1)) for name, array in arrays.items()}


def from_torch_state_dict(vae: VAE, state: Mapping[str, Any]) -> None:
    """Take the weights of a `state_dict()` whose names and shapes are those of `to_torch_state_dict(vae)`.

    state : dict of name -> tensor on the CPU, or NumPy array
    Raises MiniVAEError where a tensor is missing, unknown or of another shape; the model is then unchanged.
    """
    names = {_torch_name(name): name for name in check_vae("from_torch_state_dict: vae", vae).parameters}
    if not isinstance(state, Mapping):
        raise MiniVAEError(f"from_torch_state_dict: state should be a dict of names and tensors, got {shown(state)}")
    if state.keys() != names.keys():
        raise MiniVAEError(
            f"the state dict does not fit this model: missing {sorted(names.keys() - state.keys())}, "
            f"unknown {sorted(map(str, state.keys() - names.keys()))}"
        )
    arrays = {name: array(f"from_torch_state_dict: {name}", tensor) for name, tensor in state.items()}
    vae.parameters.load({names[name]: _transposed(values, (2, 3, 1, 0)) for name, values in arrays.items()})
