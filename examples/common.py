"""What the examples share: arguments, the lines that they print, and the files that they leave."""

import argparse
import json
import math
import os
import platform
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import minivae as mv
from minivae import data, parallel
from minivae.files import atomic_write
from minivae.locks import results_folder

CHECKPOINT = "checkpoint.safetensors"
RUN = ExitStack()  # what a run holds until it ends: its processes and its folder
OPTIMIZERS = {"rmsprop": mv.RMSprop, "adam": mv.Adam, "sgd": mv.SGD}


def at_least(least):
    """The type of an argument that is an integer of at least 0, 1 or so."""

    def integer(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {text!r}")
        return int(text)

    return integer


def between(low, high):
    """The type of an argument that is a number from `low` to `high`."""

    def number(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low} to {high}, got {text!r}")
        return value

    return number


at_least_1 = at_least(1)


def data_parser(description, out, datasets, plots=True):
    """The arguments of every example that reads data: which, where from, and where results go.

    plots : whether it draws figures
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dataset", choices=datasets, default=datasets[0])
    parser.add_argument("--data-dir", help="a folder that has the data set; otherwise $MINIVAE_DATA or a download")
    parser.add_argument("--limit", type=at_least_1, help="use only the first examples of each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(out), help="the folder for results")
    if plots:
        parser.add_argument("--no-plots", action="store_true", help="leave the figures out")
    return parser


def model_parser(description, out, datasets, plots=True):
    """The arguments of an example that reads data and makes models: also where these live."""
    parser = data_parser(description, out, datasets, plots)
    backends = ("auto", "numpy", "numba", "cupy")
    parser.add_argument("--backend", choices=backends, default="auto", help="where arrays live")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    return parser


def recipe_parser(description, out, datasets):
    """The arguments of an example whose recipe fixes the model and how it is trained."""
    parser = model_parser(description, out, datasets)
    parser.add_argument("--resume", action="store_true", help="go on where the run in --out was stopped")
    parser.add_argument("--parallel", choices=("none", "mpi"), default="none", help="mpi: all processes of mpiexec")
    return parser


def training_parser(description, out, datasets, **defaults):
    """The arguments of an example that leaves the training to its user; `defaults` are those of the recipe."""
    parser = recipe_parser(description, out, datasets)
    parser.add_argument("--epochs", type=at_least_1, default=50)
    parser.add_argument("--batch-size", type=at_least_1, default=100)
    parser.add_argument("--latent-dim", type=at_least_1, default=2)
    parser.add_argument("--samples", type=at_least_1, default=1, help="draws of z for each example in a step")
    parser.add_argument("--beta", type=float, default=1.0, help="the weight of the KL")
    parser.add_argument("--optimizer", choices=tuple(OPTIMIZERS), default="rmsprop")
    parser.add_argument("--lr", type=float, default=1e-3, help="the learning rate")
    parser.set_defaults(**defaults)
    return parser


def start(arguments):
    """The backend and the data set; prints what the run stands on, and takes `--out` for this run.

    arguments.ranks become the processes of the run, of which number 0 alone writes and draws.
    """
    several = getattr(arguments, "parallel", "none") == "mpi"
    arguments.ranks = ranks = RUN.enter_context(parallel.mpi()) if several else parallel.ALONE
    backend = mv.get_backend(arguments.backend)
    if ranks.rank:
        arguments.no_plots = True
        ranks.broadcast(None)  # comes when rank 0 has the data, which it may have to download
    dataset = data.load(arguments.dataset, data_dir=arguments.data_dir, limit=arguments.limit)
    if not ranks.rank:
        own_folder(arguments, *([CHECKPOINT] if hasattr(arguments, "resume") else []))
        ranks.broadcast(None)
    told = "" if arguments.backend == "auto" else f"backend {backend.name}, "  # "auto" said what it chose
    print(f"{told}device {backend.device}, dtype {arguments.dtype}, seed {arguments.seed}")
    if several:
        print(f"{ranks.size} processes")
    print_data(dataset)
    return backend, dataset


def print_data(dataset):
    print(f"data {dataset.source}: {len(dataset.x_train)} training, {len(dataset.x_test)} test images")


def data_name(arguments, dataset):
    """What a result is of, in a few words: the data that were found, not those that were asked for."""
    names = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "emnist-letters": "EMNIST letters"}
    limit = f", first {arguments.limit} only" if arguments.limit else ""
    return names.get(dataset.name, "the bundled sample") + limit


def own_folder(arguments, *checkpoints):
    """Make `--out` and hold it until the program ends; raises MiniVAEError where it has results, or another run has it.

    checkpoints : the names of files from which `--resume` goes on
    """
    RUN.enter_context(results_folder(arguments.out, checkpoints, getattr(arguments, "resume", False)))


def kept(arguments, validation="test"):
    """The arguments of `fit` that print each epoch and keep all in `--out`; `--resume` goes on with what is there.

    Among them are the processes of the run.

    validation : what the validation data are called, "test" or "val"
    """
    return {
        "checkpoint": mv.Checkpoint(arguments.out / CHECKPOINT, resume=arguments.resume),
        "callbacks": [mv.EpochPrinter(validation), mv.CSVWriter(arguments.out / "metrics.csv", validation)],
        "parallel": arguments.ranks,
    }


def layers(*widths, init="glorot_uniform"):
    """Dense layers from each width to the next, with a ReLU between them."""
    stack = []
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        stack += [mv.Dense(n_in, n_out, init), mv.ReLU()]
    return stack[:-1]


def train(arguments, vae, dataset, schedules=None):
    """Fit as the arguments say, with a look at the test images after each epoch; leaves the results in `--out`."""

    def with_labels(x, y):
        return x if vae.n_classes is None else (x, y)

    history = mv.fit(
        vae,
        with_labels(dataset.x_train, dataset.y_train),
        validation=with_labels(dataset.x_test, dataset.y_test),
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        optimizer=OPTIMIZERS[arguments.optimizer](arguments.lr),
        samples=arguments.samples,
        schedules=schedules,
        **kept(arguments),
    )
    save_results(arguments, vae, dataset)
    return history


def print_result(arguments, history, dataset, published):
    """The last lines: where the results are, what was published for the recipe, and the last epoch's test loss."""
    print(f"results in {arguments.out}")
    print(f"published: {published}")
    row = history[-1]
    reconstruction, kl = row["val_reconstruction"], row["val_kl"]
    if arguments.beta != 1:
        print(f"test loss with beta = {arguments.beta:g}: {row['val_loss']:.1f} nats")
    elbo = f"test -ELBO {reconstruction + kl:.1f} nats (reconstruction {reconstruction:.1f}, KL {kl:.1f})"
    print(f"{elbo} on {data_name(arguments, dataset)}")


def save_results(arguments, vae, dataset):
    """config.json and model.safetensors in `--out`, each written whole or not at all."""
    if arguments.ranks.rank:
        return
    config = {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()}
    config |= {
        "ranks": arguments.ranks.size,
        "backend": vae.backend.name,
        "device": vae.backend.device,
        "data": dataset.source,
        "parameters": vae.parameters.flat.size,
        "versions": {"minivae": mv.__version__, "numpy": np.__version__, "python": platform.python_version()},
    }
    write_json(arguments.out / "config.json", config)
    vae.save(arguments.out / "model.safetensors")


def write_json(path, value):
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")


def save_training_figures(arguments, vae, history, validation="test"):
    """The loss curves and draws from the prior, for a model whose latent space cannot be drawn.

    validation : what the validation data are called in the legend
    """
    from minivae.views import plots

    save_figures(
        arguments,
        loss_curves=plots.loss_curves(history, validation),
        samples=plots.samples(vae, n=100, seed=arguments.seed),
    )


def save_figures(arguments, **figures):
    """Each figure as PNG in `--out`, under its name."""
    for name, figure in figures.items():
        with atomic_write(arguments.out / f"{name}.png") as file:
            figure.savefig(file, dpi=150, format="png")


def command(main):
    """Run an example's `main`; bad input ends with one line and exit status 2, Ctrl-C with one line and 130.

    A warning is one line too. Where nobody reads any more, as behind `| head`, the run ends without a word.
    """
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        with RUN:
            main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python, at its end, would try again
        sys.exit(1)
    except mv.Interrupted as error:
        print(f"{error}: add --resume to the same command" if error.checkpoint else error, file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except mv.MiniVAEError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
