"""A progress bar where somebody looks: on a terminal or in a notebook."""

import sys


def progress_bar(total, unit, shown=None, initial=0):
    """A tqdm bar that vanishes when it is closed; shown=None shows it on a terminal and in a notebook only."""
    in_notebook = "ipykernel" in sys.modules
    if in_notebook:
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm  # what tqdm.auto would give, in half the time

    if shown is None:
        shown = in_notebook or sys.stderr.isatty()
    return tqdm(total=total, unit=unit, disable=not shown, initial=initial, leave=False, dynamic_ncols=True)
