"""`python -m minivae` is the command line of `minivae`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
