"""The one kind of error for bad input, the one kind of warning, and what Ctrl-C becomes in `fit`."""

import os


class MiniVAEError(ValueError):
    """Bad input, a bad file or an unusable device. The message alone is enough to mend it."""


class MiniVAEWarning(UserWarning):
    """What works but is most likely not what was meant; silenced or made an error by `warnings.filterwarnings`."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C stopped a training after the step it was in; the message says where, and what is kept.

    checkpoint : the file that holds the training, or None
    """

    def __init__(self, message: str, checkpoint: str | os.PathLike | None = None) -> None:
        super().__init__(message)
        self.checkpoint = checkpoint


def named(value):
    """What an error calls a value that was given; a class where an object is wanted gets the cure with it."""
    return f"the class {value.__name__}: write {value.__name__}(...)" if isinstance(value, type) else shown(value)


def rows_of(shape):
    """How a batch of rows of this shape is written: (B, 784) for (784,)."""
    return f"({', '.join(map(str, ('B', *shape)))})"


def shown(value):
    """What an error says of a value: its repr, in a line or so."""
    try:
        text = " ".join(repr(value).split())
    except Exception as error:  # a value that cannot even be shown is still the wrong one
        text = f"a {type(value).__name__} whose repr raises {type(error).__name__}"
    return text if len(text) <= 100 else f"{text[:100]}..."
