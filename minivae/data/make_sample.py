"""Make the bundled sample from the whole of MNIST: `python -m minivae.data.make_sample FOLDER`.

Takes the first 500 training and the first 100 test digits of each class, in the standard order. The same
digits, and with the same zlib the same file, come out every time.
"""

import argparse
import sys

import numpy as np

from ..errors import MiniVAEError
from ..files import atomic_write
from .datasets import SAMPLE, load


def first_of_each_class(labels, count):
    """The positions of the first `count` examples of each class, in ascending order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


def make_sample(data_dir, out=SAMPLE):
    """Write the sample of the standard MNIST files in `data_dir` to the .npz file `out`."""
    mnist = load("mnist", data_dir)
    if "standard" not in mnist.source:
        raise MiniVAEError(f"{data_dir} does not hold the standard MNIST in its standard order")
    train, test = first_of_each_class(mnist.y_train, 500), first_of_each_class(mnist.y_test, 100)
    with atomic_write(out) as file:
        np.savez_compressed(
            file,
            x_train=mnist.x_train[train],
            y_train=mnist.y_train[train].astype(np.uint8),
            x_test=mnist.x_test[test],
            y_test=mnist.y_test[test].astype(np.uint8),
        )


def main():
    parser = argparse.ArgumentParser(description="Make the bundled sample of MNIST.")
    parser.add_argument("data_dir", help="folder with the standard MNIST files")
    parser.add_argument("--out", default=SAMPLE, help="the .npz file to write (default: the package's)")
    arguments = parser.parse_args()
    try:
        make_sample(arguments.data_dir, arguments.out)
    except MiniVAEError as error:
        sys.exit(f"make_sample: {error}")


if __name__ == "__main__":
    main()
