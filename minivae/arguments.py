"""Arguments of all kinds: what they should be, and one error that says so for what they are not."""

import math
import os
import sys

import numpy as np

from .errors import MiniVAEError, shown


def is_integer(value):
    """Whether a value is a whole number, of Python's or NumPy's, which True and False are not meant to be."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def integer(name, value, least=1):
    """The value as an int; raises MiniVAEError unless it is an integer of at least `least` that can count something."""
    if not is_integer(value) or not least <= value <= sys.maxsize:
        raise MiniVAEError(f"{name} should be an integer of at least {least}, got {shown(value)}")
    return int(value)


def seed(name, value):
    """The value as an int; raises MiniVAEError unless it is an integer of at least 0, of any length."""
    if not is_integer(value) or value < 0:
        raise MiniVAEError(f"{name} should be an integer of at least 0, got {shown(value)}")
    return int(value)


def flag(name, value):
    """The value as a bool; raises MiniVAEError unless it is True or False, or 1 or 0."""
    if not isinstance(value, (bool, np.bool_)) and not (is_integer(value) and value in (0, 1)):
        raise MiniVAEError(f"{name} should be True or False, got {shown(value)}")
    return bool(value)


def number(value):
    """The value as a float; NaN, which lies in no range, where it is no real number: text, None, True, an array."""
    is_scalar = isinstance(value, (int, float, np.number)) or (isinstance(value, np.ndarray) and value.ndim == 0)
    if not is_scalar or isinstance(value, bool) or np.asarray(value).dtype.kind not in "fiuO":
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an int of hundreds of digits
        return math.inf if value > 0 else -math.inf


def positive(name, value, below=math.inf):
    """The value as a float; raises MiniVAEError unless it is a number above 0 and below `below`."""
    if not 0 < number(value) < below:
        and_below = "" if below == math.inf else f" below {below:g}"
        raise MiniVAEError(f"{name} should be a positive number{and_below}, got {shown(value)}")
    return float(value)


def at_least(name, value, least=0, below=math.inf):
    """The value as a float; raises MiniVAEError unless it is a finite number of at least `least` and below `below`."""
    if not least <= number(value) < below:
        and_below = "" if below == math.inf else f" and below {below:g}"
        raise MiniVAEError(f"{name} should be a finite number of at least {least:g}{and_below}, got {shown(value)}")
    return float(value)


def one_of(name, value, choices):
    """The value; raises MiniVAEError unless it is one of some texts, or None where that is among them."""
    if not isinstance(value, (str, type(None))) or value not in choices:
        told = [f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in choices]
        raise MiniVAEError(f"{name} should be {', '.join(told[:-1])} or {told[-1]}, got {shown(value)}")
    return value


def text(name, value):
    """The value; raises MiniVAEError unless it is a text that can be written."""
    try:
        str.encode(value)
    except (TypeError, UnicodeEncodeError) as error:
        raise MiniVAEError(f"{name} should be a text, got {shown(value)}") from error
    return value


def texts(name, values):
    """The values, texts or integers such as names of classes, as a list of texts; raises MiniVAEError for others."""
    values = values.tolist() if isinstance(values, np.ndarray) else values
    is_list = isinstance(values, (list, tuple, range, str))
    if not is_list or not all(isinstance(value, str) or is_integer(value) for value in values):
        raise MiniVAEError(f"{name} should be a list of texts, got {shown(values)}")
    return [text(name, str(value)) for value in values]


def integers(name, values):
    """The values as a list of ints; raises MiniVAEError unless they are a list of integers of at least 1."""
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(values, (list, tuple, range)):
        raise MiniVAEError(f"{name} should be a list of integers such as (32, 64), got {shown(values)}")
    return [integer(f"{name}[{i}]", value) for i, value in enumerate(values)]


def array(name, value):
    """The value as a NumPy array, not copied where it is one; raises MiniVAEError for what is no array of numbers."""
    if np.ma.is_masked(value):
        raise MiniVAEError(f"{name} is a masked array with masked values, which would count: fill or drop them first")
    try:
        made = np.asarray(value)
    except Exception as error:  # whatever an object that is no array raises when it is asked to become one
        raise MiniVAEError(f"{name} should be an array of numbers, got {shown(value)}: {error}") from error
    if made.dtype.kind not in "fiub":
        raise MiniVAEError(f"{name} should hold real numbers, got dtype {made.dtype}")
    return made


def check_unit(expecting, x, cure):
    """Raise MiniVAEError unless the NumPy array x lies in [0, 1]; `expecting` says what expects what there."""
    low, high = x.min(), x.max()
    if not (low >= 0 and high <= 1):  # a NaN does not
        raise MiniVAEError(f"{expecting} in [0, 1], got [{low:g}, {high:g}]: {cure}")


def path(name, value):
    """The value as it is; raises MiniVAEError unless it is a path that a file can have."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text:
        raise MiniVAEError(f"{name} should be a path, as text or a pathlib.Path, got {shown(value)}")
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise MiniVAEError(f"{name} cannot be the name of a file: {error}") from error
    if b"\0" in encoded:
        raise MiniVAEError(f"{name} holds the character NUL, which no file's name can: {shown(value)}")
    return value
