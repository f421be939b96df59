"""Models in files: checkpoints of minivae, and weights as PyTorch names them."""

from .checkpoint import load, save
from .torch_weights import from_torch_state_dict, to_torch_state_dict

__all__ = ["from_torch_state_dict", "load", "save", "to_torch_state_dict"]
