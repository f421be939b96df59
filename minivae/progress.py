"""A progress bar where somebody looks: on a terminal or in a notebook."""

import sys


def progress_bar(total, unit, shown=None, initial=0):
    """A tqdm bar that vanishes when it is closed; shown=None shows it on a terminal and in a notebook only."""
    from tqdm.auto import tqdm

    if shown is None:
        shown = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(total=total, unit=unit, disable=not shown, initial=initial, leave=False, dynamic_ncols=True)
