"""Early stopping, and a schedule that warms up."""

import math

from ..errors import MiniVAEError


def linear_warmup(epochs, end=1.0, start=0.0):
    """A schedule for beta or the learning rate: from `start`, linearly, to `end` at epoch `epochs` and from then on.

        value(epoch) = start + (end - start) min(1, epoch / epochs)

    epoch counts from 1, so the first value lies one step above `start`.
    Source, for the weight of the KL: Bowman et al. 2016, section 3.1; Sonderby et al. 2016, section 2.3.
    """
    if not epochs >= 1:
        raise MiniVAEError(f"linear_warmup: epochs should be at least 1, got {epochs!r}")
    return lambda epoch: start + (end - start) * min(1.0, epoch / epochs)


class EarlyStopping:
    """Says when the validation loss has not fallen for `patience` epochs, and keeps the weights of the best one.

    Losses under another beta cannot be compared with those before, so a change of beta starts the count anew.
    """

    def __init__(self, vae, patience):
        self.vae, self.patience = vae, patience
        self.weights = vae.parameters.flat.copy()
        self.best_epoch, self.best_loss, self.beta = 0, math.inf, vae.beta

    def update(self, epoch, loss):
        if loss < self.best_loss or self.vae.beta != self.beta:
            self.best_epoch, self.best_loss, self.beta = epoch, loss, self.vae.beta
            self.weights[...] = self.vae.parameters.flat

    def is_over(self, epoch):
        return epoch - self.best_epoch >= self.patience

    def restore_best(self):
        self.vae.parameters.flat[...] = self.weights
