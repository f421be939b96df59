"""Training: `fit`, its step, where it stands, what is called after each epoch, and what went wrong."""

from .callbacks import CSVWriter, EarlyStopping, EpochPrinter, Run
from .fit import Checkpoint, fit
from .history import History
from .schedules import linear_warmup

__all__ = ["CSVWriter", "Checkpoint", "EarlyStopping", "EpochPrinter", "History", "Run", "fit", "linear_warmup"]
