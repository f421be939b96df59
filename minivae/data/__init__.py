"""Data sets: loading the named ones, and reading the forms in which people have images."""

from .datasets import NAMES, Dataset, load
from .idx import read_idx, write_idx
from .npz import read_npz

__all__ = ["NAMES", "Dataset", "load", "read_idx", "read_npz", "write_idx"]
