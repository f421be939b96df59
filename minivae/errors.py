"""The one kind of error that minivae raises for bad input: what was expected, what came, how to mend it."""


class MiniVAEError(ValueError):
    """Bad input, a bad file or an unusable device. The message alone is enough to mend it."""
