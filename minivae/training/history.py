"""What a training tells: a row of losses for each epoch."""

import csv
import io

from ..files import atomic_write


class History(list):
    """One dict per epoch: epoch, seconds, train_loss, train_reconstruction, train_kl, and val_... alike.

    `history["train_loss"]` is a column as a list. Losses are nats per example; seconds are those of the epoch's
    training, without validation. `best_epoch` is the one whose weights early stopping kept, else None.
    """

    best_epoch = None

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    def save_csv(self, path, validation="val"):
        """Write the table as CSV; `validation` names the validation columns, for example "test"."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        if self:
            writer.writerow(name.replace("val_", validation + "_") for name in self[0])
        writer.writerows(row.values() for row in self)
        with atomic_write(path) as file:
            file.write(text.getvalue().encode())
