"""The one kind of error that minivae raises for bad input, and what Ctrl-C becomes while a training is kept."""


class MiniVAEError(ValueError):
    """Bad input, a bad file or an unusable device. The message alone is enough to mend it."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C stopped a training after the step it was in; the message says where, and where all is kept."""
