"""Training: `fit`, its step, where it stands, and what went wrong."""

from .fit import Checkpoint, fit
from .history import History
from .stopping import linear_warmup

__all__ = ["Checkpoint", "History", "fit", "linear_warmup"]
