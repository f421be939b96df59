"""Class labels beside the rows that enter the encoder and the decoder: the conditional VAE."""

import numpy as np

from ..arguments import array, is_integer
from ..errors import MiniVAEError, shown


def append_labels(x, y):
    """Each row of x with its label behind it: [x, y].

    x (L, B, X);  y (B, C), one-hot, the same for all L samples -> (L, B, X + C)

    dx are the columns of the gradient that hold x; y is data and needs none.
    Source: Kingma, Rezende, Mohamed & Welling 2014, section 2; Sohn, Lee & Yan 2015.
    """
    X = x.shape[-1]
    y = np.broadcast_to(y, (*x.shape[:-1], y.shape[-1]))
    return np.concatenate([x, y], axis=-1), lambda djoined: djoined[..., :X]


class Labels:
    """The labels of a model that knows n_classes classes, numbered from 0; without classes it lets all pass."""

    def __init__(self, n_classes=None):
        if n_classes is not None and (not is_integer(n_classes) or n_classes < 2):
            raise MiniVAEError(f"VAE: n_classes should be None or an integer of at least 2, got {shown(n_classes)}")
        self.n_classes = 0 if n_classes is None else int(n_classes)

    def check(self, y, rows) -> np.ndarray | None:
        """y as integers (rows,), or None without classes; one number stands for as many rows.

        Raises MiniVAEError for what is no label.
        """
        if not self.n_classes:
            if y is not None:
                raise MiniVAEError("this model knows no labels: make it with VAE(..., n_classes=), or leave y out")
            return None
        if y is None:
            raise MiniVAEError(
                f"this model was made with n_classes={self.n_classes}: pass the labels too, as y=, or in fit as pairs "
                "(x, y)"
            )
        y = array("y", y)
        if y.ndim == 0:
            y = np.broadcast_to(y, rows)
        if y.shape != (rows,) or y.dtype.kind not in "iu":
            raise MiniVAEError(f"y should hold {rows} integers, one for each row, got {y.dtype} of shape {y.shape}")
        if y.min() < 0 or y.max() >= self.n_classes:
            raise MiniVAEError(f"y should lie in 0 .. {self.n_classes - 1}, got {y.min()} to {y.max()}")
        return y

    def one_hot(self, y, dtype):
        """A NumPy array (N, n_classes) for checked labels (N,); None for None."""
        return None if y is None else np.eye(self.n_classes, dtype=dtype)[y]
