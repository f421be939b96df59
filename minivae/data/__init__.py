"""Data sets: loading the named ones, and reading the forms in which people have images."""

from .csv import read_csv, read_mapping
from .datasets import NAMES, Dataset, load
from .idx import read_idx, write_idx
from .images import read_images
from .npz import read_npz

__all__ = ["NAMES", "Dataset", "load", "read_csv", "read_idx", "read_images", "read_mapping", "read_npz", "write_idx"]
