"""What the benchmarks' command lines share: lists of names that are known, and frameworks that are installed."""

import argparse
import importlib.util

NEEDS = {"keras": ("keras", "jax")}  # which runs on JAX here


def some_of(known, between=","):
    """A `type` for argparse: a list of words, each of them one of `known`; "" is none of them."""

    def words(text):
        given = [word for word in text.split(between) if word]
        for word in given:
            if word not in known:
                raise argparse.ArgumentTypeError(f"unknown {word!r}: expected some of {between.join(known)}")
        return given

    return words


def integers(text):
    """A `type` for argparse: a list of integers with commas between them."""
    return [int(word) for word in text.split(",") if word]


def installed(names):
    """The frameworks among `names` that can be imported; says which cannot."""
    missing = [name for name in names if not all(map(importlib.util.find_spec, NEEDS.get(name, (name,))))]
    for name in missing:
        print(f"{name} is not installed: its arms are left out")
    return [name for name in names if name not in missing]
