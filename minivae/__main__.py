"""The command line: `python -m minivae gradcheck [--backend {auto,numpy,numba,cupy}]`."""

import argparse
import sys

from .backend import get_backend
from .errors import MiniVAEError
from .gradcheck import run


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m minivae", description="Variational autoencoders by hand.")
    commands = parser.add_subparsers(dest="command", required=True)
    gradcheck = commands.add_parser(
        "gradcheck", help="check every backward pass against central differences, in float64"
    )
    gradcheck.add_argument("--backend", choices=("auto", "numpy", "numba", "cupy"), default="numpy")
    arguments = parser.parse_args(argv)
    try:
        backend = get_backend(arguments.backend)
        print(f"backend {backend.name} on {backend.device}")
        return 0 if run(backend) else 1
    except MiniVAEError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
