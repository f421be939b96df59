"""A progress bar where somebody looks: on a terminal or in a notebook."""

import sys
from importlib.util import find_spec

from .arguments import flag


def progress_bar(total, unit, shown=None, initial=0):
    """A tqdm bar that vanishes when it is closed; shown=None shows it on a terminal and in a notebook only."""
    shown = shown if shown is None else flag("progress", shown)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    in_notebook = hasattr(shell, "kernel")
    if in_notebook and find_spec("ipywidgets"):
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm  # what tqdm.auto would give, in half the time and without a warning

    if shown is None:
        shown = in_notebook or sys.stderr.isatty()
    return tqdm(total=total, unit=unit, disable=not shown, initial=initial, leave=False, dynamic_ncols=True)
