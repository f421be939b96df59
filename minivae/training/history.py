"""What a training tells: a row of losses for each epoch."""

import csv
import io
import os

from ..arguments import path as check_path
from ..arguments import text
from ..files import atomic_write
from ..views.tables import html_table, text_table

HEAD_ROWS, TAIL_ROWS = 3, 9  # that are shown of a longer history


class History(list):
    """One dict per epoch: epoch, seconds, train_loss, train_reconstruction, train_kl, and val_... alike; what
    `schedules` change, beta or lr, too.

    `history["train_loss"]` is a column as a list. Losses are nats per example; seconds are those of the epoch's
    training, without validation. `best_epoch` is the one whose weights early stopping kept, else None. `samples` and
    `val_samples` are the draws of z for each example in training and in validation: bounds of another number of them
    are other bounds.
    """

    best_epoch, samples, val_samples = None, 1, 1

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    def __repr__(self):
        """A table of the first and the last epochs."""
        if not self:
            return "History of no epoch"
        table = self._table()
        return "\n".join(filter(None, [text_table(table, ">" * len(table[0])), self._notes()]))

    def _repr_html_(self):
        if not self:
            return repr(self)
        table = self._table()
        return html_table(table, ">" * len(table[0]), self._notes())

    def _columns(self):
        """The names of all columns; a callback may add to some rows only."""
        return list(dict.fromkeys(name for row in self for name in row))

    def _table(self):
        columns = self._columns()
        lines = [[_cell(row, name) for name in columns] for row in self]
        if len(lines) > HEAD_ROWS + TAIL_ROWS + 1:
            lines[HEAD_ROWS:-TAIL_ROWS] = [["..."] * len(columns)]
        return [[_title(name) for name in columns], *lines]

    def _notes(self):
        kept = "" if self.best_epoch is None else f"the weights of epoch {self.best_epoch} were kept"
        draws = f"z is drawn {self.samples} times for each example in training, {self.val_samples} in validation"
        return "; ".join(filter(None, [kept, draws if self.samples != self.val_samples else ""]))

    def save_csv(self, path: str | os.PathLike, validation: str = "val") -> None:
        """Write the table as CSV; `validation` names the validation columns, for example "test"."""
        check_path("History.save_csv: path", path)
        validation = text("History.save_csv: validation", validation)
        lines = io.StringIO(newline="")
        writer = csv.writer(lines, lineterminator="\n")
        columns = self._columns()
        if self:
            writer.writerow(name.replace("val_", validation + "_") for name in columns)
        writer.writerows([row.get(name, "") for name in columns] for row in self)
        with atomic_write(path) as file:
            file.write(lines.getvalue().encode())


def _title(column):
    part, _, name = column.partition("_")
    return {"loss": f"{part} loss", "reconstruction": "reconstr.", "kl": "KL"}.get(name, column)


def _cell(row, column):
    value = row.get(column, "")
    form = {"seconds": ".2f", "beta": ".3g", "lr": ".3g"}.get(column, ".3f")
    return f"{value:{form}}" if isinstance(value, float) else str(value)
