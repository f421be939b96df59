"""The command line: `python -m minivae gradcheck` and `python -m minivae explain`."""

import argparse
import os
import sys

from .engine import get_backend
from .errors import MiniVAEError
from .gradcheck import run

ENGINES = "numpy", "numba", "cupy"


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m minivae", description="Variational autoencoders by hand.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("gradcheck", help="check every backward pass against central differences, in float64")
    check.add_argument("--backend", choices=("auto", *ENGINES), default="numpy")
    show = commands.add_parser("explain", help="show the operations of a compiled training step, and what they cost")
    show.add_argument("--engine", choices=ENGINES, default="numpy", dest="backend")
    models = tuple(MODELS)
    show.add_argument("--model", choices=models, default="mnist", help="whose step: dense, convolutional, with flows")
    arguments = parser.parse_args(argv)
    try:
        backend = get_backend(arguments.backend)
        if arguments.command == "explain":
            print(f"Model {arguments.model}, batches of 100 digits, RMSprop.\n\n{explain(backend, arguments.model)}")
            return 0
        print(f"backend {backend.name} on {backend.device}")
        return 0 if run(backend) else 1
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MiniVAEError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


# -------------------------------------------------------------------------------------------------- explain


def explain(backend, name):
    """The text that explains the step of one of MODELS, with batches of 100 digits and RMSprop."""
    import numpy as np

    from .data import load
    from .model.optimizers import RMSprop
    from .training.state import Training
    from .views.explain import explain

    vae = MODELS[name](backend)
    x = vae.check_input(load("sample", limit=1000).x_train)
    training = Training(vae, RMSprop(), x, None, np.arange(len(x)), 100, 1, False, vae.seed, None)
    next(training.steps())  # fills the noise and the order of the rows
    ((step, _),) = training.parts

    def begin():
        step.arrays["cursor"].fill(0)
        step.arrays["noise_row"].fill(0)

    return explain(vae, backend.compile(step.step, step.arrays, vae.dtype), begin)


def _mnist(backend):
    from . import VAE, Dense, ReLU

    return VAE([Dense(784, 256), ReLU(), Dense(256, 4)], [Dense(2, 256), ReLU(), Dense(256, 784)], backend=backend)


def _conv(backend):
    from . import VAE, Conv2d, ConvTranspose2d, Dense, Flatten, ReLU, Reshape

    encoder = [Reshape((28, 28, 1)), Conv2d(1, 16, 3, stride=2, padding="same"), ReLU(), Flatten(), Dense(3136, 4)]
    decoder = [Dense(2, 3136), Reshape((14, 14, 16)), ConvTranspose2d(16, 1, 3, stride=2, padding="same"), Flatten()]
    return VAE(encoder, decoder, backend=backend, seed=4)


def _flow(backend):
    from . import VAE, Dense, FlowPosterior, InverseAutoregressive, ReLU

    stages = [InverseAutoregressive(128, 256, context=64, reverse=reverse) for reverse in (False, True)]
    return VAE(
        [Dense(784, 256), ReLU(), Dense(256, 2 * 128 + 2 * 64)],
        [Dense(128, 256), ReLU(), Dense(256, 784)],
        posterior=FlowPosterior(stages),
        backend=backend,
    )


MODELS = {"mnist": _mnist, "conv": _conv, "flow": _flow}

if __name__ == "__main__":
    sys.exit(main())
