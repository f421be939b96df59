"""The command line: `minivae train`, `evaluate`, `sample`, `reconstruct`, `explore`, `explain`, `gradcheck`, `info`."""

import argparse
import json
import os
import platform
import sys
import warnings
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .arguments import integer
from .engine import get_backend
from .errors import Interrupted, MiniVAEError
from .files import MAX_BYTES, atomic_write

ENGINES = "numpy", "numba", "cupy"
DRAWN = ", of pixels drawn as 0 or 1"
HELD_BACK = 0.1  # of the training examples, with --patience
LIKELIHOODS = "bernoulli", "gaussian", "predicted-variance"
MODEL, CHECKPOINT = "model.safetensors", "checkpoint.safetensors"  # in --out
OPTIMIZERS = {"adam": "Adam", "rmsprop": "RMSprop", "sgd": "SGD"}


def main(argv=None):
    """Run a command; returns the exit status: 0, 1 for a failed check, 2 for bad input, 130 after Ctrl-C."""
    arguments = parser().parse_args(argv)
    with redirect_stdout(Unheard(sys.stdout)), redirect_stderr(Unheard(sys.stderr)):
        status = _run(arguments)
        sys.stdout.flush()  # or Python, at its end, would find that the reader has gone
    return status


def _run(arguments):
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            return arguments.run(arguments) or 0
    except Interrupted as error:
        print(f"{error}: give the same command with --resume", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except MiniVAEError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


class Unheard:
    """A stream whose reader, such as `head`, may go: what is printed then is dropped, and the command goes on."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self):
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self):
        with open(os.devnull, "wb") as nothing:  # where what the stream still holds goes too
            os.dup2(nothing.fileno(), self._stream.fileno())


def parser():
    whole = argparse.ArgumentParser(prog="minivae", description="Variational autoencoders with every gradient by hand.")
    commands = whole.add_subparsers(dest="command", required=True, metavar="command")

    def command(run, text):
        each = commands.add_parser(
            run.__name__, help=text, description=f"{text[0].upper()}{text[1:]}.",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )  # fmt: skip
        each.set_defaults(run=run)
        return each

    def add_data(each):
        what = "mnist, fashion-mnist, emnist-letters, sample; a folder of pictures, a CSV, IDX, npy or npz file"
        each.add_argument("--data", default="mnist", help=what)
        each.add_argument("--data-dir", help="a folder that has the named data set; without it they are downloaded")
        each.add_argument("--size", type=_pair, help="scale pictures to HEIGHTxWIDTH, such as 32x32")
        each.add_argument("--color", action="store_true", help="keep the colours of pictures")
        each.add_argument("--limit", type=int, help="use only the first examples of each part")
        add_limit(each)

    def add_limit(each):
        what = "of memory that what is read from a file may take"
        each.add_argument("--max-bytes", type=int, default=MAX_BYTES, help=what)

    def add_backend(each, default="auto"):
        each.add_argument("--backend", choices=("auto", *ENGINES), default=default, help="what computes")

    each = command(train, "train a model and leave it, its losses and figures in a folder")
    add_data(each)
    each.add_argument("--out", type=Path, default=Path("runs/model"), help="the folder for results")
    network = each.add_mutually_exclusive_group()
    network.add_argument(
        "--encoder", type=_widths, default="256", help="widths of hidden dense layers, such as 512,256"
    )
    what = "a convolutional network with these channels, such as 32,64, instead of dense layers"
    network.add_argument("--conv", type=_widths, metavar="CHANNELS", help=what)
    each.add_argument("--latent", type=int, default=2, help="the number of latent dimensions")
    what = "p(x given z); auto takes bernoulli for pixels and gaussian for other numbers"
    each.add_argument("--likelihood", choices=("auto", *LIKELIHOODS), default="auto", help=what)
    what = "pixels as they are, or each 0 or 1, drawn anew in every epoch or once"
    each.add_argument("--binarize", choices=("grey", "dynamic", "static"), default="grey", help=what)
    each.add_argument("--beta", type=float, default=1.0, help="the weight of the KL")
    each.add_argument("--epochs", type=int, default=20, help="how often to go through the data")
    each.add_argument("--batch-size", type=int, default=100, help="examples in a step")
    each.add_argument("--optimizer", choices=tuple(OPTIMIZERS), default="adam", help="how weights follow gradients")
    each.add_argument("--lr", type=float, default=1e-3, help="the learning rate")
    each.add_argument(
        "--patience",
        type=int,
        help="hold a tenth of the training examples back; end when their loss has not fallen for so many epochs",
    )
    each.add_argument("--conditional", action="store_true", help="give the classes of the data to the model")
    each.add_argument("--seed", type=int, default=0, help="an integer that keys all random numbers")
    each.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="the numbers' precision")
    each.add_argument("--resume", action="store_true", help="go on where the training in --out was stopped")
    each.add_argument("--no-plots", action="store_true", help="leave the figures out")
    what = "mpi: share the work among the processes that mpiexec started"
    each.add_argument("--parallel", choices=("none", "mpi"), default="none", help=what)
    add_backend(each)

    def add_model(each):
        each.add_argument("model", type=Path, help="a model's file, or the folder of its training, such as runs/model")

    each = command(evaluate, "tell a model's losses on test data")
    add_model(each)
    add_data(each)
    each.add_argument("--samples", type=int, default=1, help="draws of z for each example")
    each.add_argument("--binarize", action="store_true", help="draw each pixel as 0 or 1, for a model trained on such")
    each.add_argument("--log-likelihood", type=int, metavar="SAMPLES", help="also estimate log p(x) with so many draws")
    add_backend(each)

    each = command(sample, "let a model invent examples, as a picture or an npz file")
    add_model(each)
    each.add_argument("--n", type=int, default=100, help="how many")
    each.add_argument("--seed", type=int, default=0, help="of the random numbers")
    each.add_argument("--label", type=int, help="the class, for a conditional model")
    each.add_argument("--shape", type=_shape, help="of an image, as HEIGHTxWIDTH or HEIGHTxWIDTHx3; square if left out")
    each.add_argument("--out", type=_picture, default=Path("samples.png"), help="a .png or an .npz file")
    add_limit(each)
    add_backend(each, "numpy")

    each = command(reconstruct, "draw test examples beside what a model makes of them")
    add_model(each)
    add_data(each)
    each.add_argument("--n", type=int, default=10, help="how many")
    each.add_argument("--out", type=_picture, default=Path("reconstructions.png"), help="a .png or an .npz file")
    add_backend(each, "numpy")

    each = command(explore, "write a page on which one walks through a model's latent space")
    add_model(each)
    add_data(each)
    each.add_argument("--out", type=Path, default=Path("explore.html"), help="an .html file")

    each = command(explain, "show the operations of a compiled training step, their source lines, costs and times")
    what = "what computes; numpy if left out"
    each.add_argument("--engine", choices=ENGINES, default=argparse.SUPPRESS, help=what)
    what = "whose step: dense, convolutional, with flows; mnist if left out"
    each.add_argument("--model", choices=tuple(MODELS), default=argparse.SUPPRESS, help=what)
    what = "instead write a page, an .html file, that shows one step for one digit in all its numbers"
    each.add_argument("--page", type=Path, help=what)
    what = "a model's file, or the folder of its training, for the page; without it a small one is trained first"
    each.add_argument("--weights", type=Path, help=what)
    add_limit(each)

    each = command(gradcheck, "check every backward pass against central differences, in float64")
    add_backend(each, "numpy")

    each = command(info, "tell the versions, the backends that can be used, and what a model's file holds")
    each.add_argument("model", type=Path, nargs="?", help="a model's file")
    add_limit(each)
    return whole


def _integers(text, between, example):
    try:
        return tuple(int(word) for word in text.lower().split(between))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers such as {example}, got {text!r}") from None


def _widths(text):
    return _integers(text, ",", "512,256")


def _shape(text):
    return _integers(text, "x", "28x28")


def _pair(text):
    pair = _shape(text)
    if len(pair) != 2:
        raise argparse.ArgumentTypeError(f"expected a height and a width such as 32x32, got {text!r}")
    return pair


def _picture(text):
    path = Path(text)
    if path.suffix not in (".png", ".npz"):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .png or .npz, got {text!r}")
    return path


# ------------------------------------------------------------------------------------------------- the commands


def train(arguments):
    from . import parallel

    with parallel.mpi() if arguments.parallel == "mpi" else nullcontext(parallel.ALONE) as ranks:
        _train(arguments, ranks)


def _train(arguments, ranks):
    from . import Checkpoint, CSVWriter, EpochPrinter, binarize, convnet, fit, mlp, model
    from .locks import results_folder

    if ranks.rank:
        ranks.broadcast(None)  # comes when rank 0 has the data, which it may have to download, and the folder
    dataset, backend = _data(arguments), get_backend(arguments.backend)
    is_pixels = dataset.x_train.dtype == np.uint8 or (dataset.x_train.min() >= 0 and dataset.x_train.max() <= 1)
    likelihood = arguments.likelihood
    if likelihood == "auto":
        likelihood = "bernoulli" if is_pixels else "gaussian"
    options = {
        "likelihood": {
            "bernoulli": model.likelihoods.Bernoulli,
            "gaussian": model.likelihoods.SharedVarianceGaussian,
            "predicted-variance": model.likelihoods.PredictedVarianceGaussian,
        }[likelihood](),
        "beta": arguments.beta, "seed": arguments.seed, "dtype": arguments.dtype, "backend": backend,
    }  # fmt: skip
    if arguments.conditional:
        if dataset.y_train is None:
            raise MiniVAEError(f"--conditional needs classes, and {dataset.source} has none")
        options["n_classes"] = len(dataset.class_names)
    if arguments.conv:
        vae = convnet(dataset.shape, arguments.latent, arguments.conv, **options)
    else:
        vae = mlp(int(np.prod(dataset.shape)), arguments.latent, arguments.encoder, **options)
    own_folder = nullcontext() if ranks.rank else results_folder(arguments.out, [CHECKPOINT], arguments.resume)
    with own_folder:
        if not ranks.rank:
            ranks.broadcast(None)
        print(f"{dataset!r}\n{vae.parameters.flat.size:,} parameters, {likelihood}, {backend.device}", flush=True)

        def pair(x, y):
            return (x, y) if arguments.conditional else x

        optimizer = getattr(model.optimizers, OPTIMIZERS[arguments.optimizer])(arguments.lr)
        name, validation = "test", pair(dataset.x_test, dataset.y_test)
        if arguments.patience is not None:  # to choose an epoch by the test examples would flatter the result on them
            name, validation = "val", HELD_BACK
            if round(HELD_BACK * len(dataset.x_train)) == 0:
                n = len(dataset.x_train)
                raise MiniVAEError(f"--patience holds a tenth of the training examples back, and there are only {n}")
        history = fit(
            vae,
            pair(dataset.x_train, dataset.y_train),
            validation,
            epochs=arguments.epochs, batch_size=arguments.batch_size, optimizer=optimizer, patience=arguments.patience,
            binarize=arguments.binarize,
            checkpoint=Checkpoint(arguments.out / CHECKPOINT, arguments.resume, arguments.max_bytes),
            callbacks=[EpochPrinter(name), CSVWriter(arguments.out / "metrics.csv", name)], parallel=ranks,
        )  # fmt: skip
        x_test, of = dataset.x_test, ""
        if arguments.binarize != "grey":
            x_test, of = binarize(x_test), DRAWN
        losses = vae.evaluate(x_test, y=_labels(vae, dataset), parallel=ranks)
        if ranks.rank:
            return
        vae.save(arguments.out / MODEL)
        config = {key: str(value) for key, value in vars(arguments).items() if key != "run"} | {"data": dataset.source}
        with atomic_write(arguments.out / "config.json") as file:
            file.write(json.dumps(config, indent=2).encode() + b"\n")
        if not arguments.no_plots:
            _draw(arguments.out, vae, history, name, dataset)
        parts = f"reconstruction {losses.reconstruction:.2f}, KL {losses.kl:.2f}"
        print(f"test loss {losses.loss:.2f} nats ({parts}) on {dataset.name}{of}; results in {arguments.out}")


def _draw(out, vae, history, validation, dataset):
    """The figures that suit the data."""
    from .views import plots

    x, y, names, shape = dataset.x_test, dataset.y_test, dataset.class_names or None, {"image_shape": dataset.shape}
    _save(out / "loss_curves.png", plots.loss_curves(history, validation=validation))
    _save(out / "latent_space.png", plots.latent_space(vae, x, y, names))
    if len(dataset.shape) == 1:
        return
    _save(out / "reconstructions.png", plots.reconstructions(vae, x, y=_labels(vae, dataset), **shape))
    if vae.n_classes:
        _save(out / "styles.png", plots.styles(vae, x[:10], y[:10], names, **shape))
        return
    _save(out / "samples.png", plots.samples(vae, seed=0, **shape))
    if vae.latent_dim == 2:
        _save(out / "manifold.png", plots.manifold(vae, **shape))


def _save(path, figure):
    with atomic_write(path) as file:
        figure.savefig(file, dpi=150, format="png")


def evaluate(arguments):
    from . import Bernoulli, binarize

    if arguments.log_likelihood is not None:
        integer("--log-likelihood", arguments.log_likelihood)
    vae, dataset = _model(arguments), _data(arguments)
    x, of, y = dataset.x_test, "", _labels(vae, dataset)
    if arguments.binarize:
        x, of = binarize(x), DRAWN
    losses = vae.evaluate(x, samples=arguments.samples, y=y)
    print(
        f"test -ELBO {losses.negative_elbo:.3f} nats (reconstruction {losses.reconstruction:.3f}, KL {losses.kl:.3f}) "
        f"on {dataset.name}, {len(x):,} examples{of}"
    )
    if arguments.log_likelihood is not None:
        if isinstance(vae.likelihood, Bernoulli):  # which knows no probability of grey
            x, of = binarize(x), DRAWN
        estimate = vae.log_likelihood(x, samples=arguments.log_likelihood, y=y)
        print(f"test log p(x) {estimate:.3f} nats{of}, with {arguments.log_likelihood:,} draws of z for each example")


def sample(arguments):
    from .views import plots

    vae = _model(arguments)
    if arguments.label is not None and not vae.n_classes:
        raise MiniVAEError("the model is not conditional: leave --label out")
    if vae.n_classes and arguments.label is None:
        raise MiniVAEError(f"the model is conditional: give --label, a class from 0 to {vae.n_classes - 1}")
    if arguments.out.suffix == ".npz":
        if arguments.shape:
            raise MiniVAEError("--shape is for a picture: leave it out, or give --out a name that ends in .png")
        _write_arrays(arguments.out, x=vae.sample(arguments.n, arguments.seed, y=arguments.label))
    else:
        _check_picture(vae, arguments.shape, "give --shape, or --out a name that ends in .npz")
        _save(arguments.out, plots.samples(vae, arguments.n, arguments.seed, arguments.shape, y=arguments.label))
    print(f"{arguments.n} examples in {arguments.out}")


def reconstruct(arguments):
    from .views import plots

    vae, dataset = _model(arguments), _data(arguments)
    x, y = dataset.x_test[: integer("--n", arguments.n)], _labels(vae, dataset)
    y = None if y is None else y[: len(x)]
    if arguments.out.suffix == ".npz":
        _write_arrays(arguments.out, x=x, reconstruction=vae.reconstruct(x, y=y))
    else:
        _check_picture(vae, dataset.shape, "give --out a name that ends in .npz")
        _save(arguments.out, plots.reconstructions(vae, x, arguments.n, image_shape=dataset.shape, y=y))
    print(f"{len(x)} examples in {arguments.out}")


def _check_picture(vae, shape, cure):
    """Raise MiniVAEError where the model's examples are no images of this shape."""
    from .views.plots import image_shape_of

    try:
        image_shape_of(vae, shape)
    except MiniVAEError as error:
        told = f" of shape {'x'.join(map(str, shape))}" if shape else ""
        raise MiniVAEError(f"the model's {vae.input_dim} values are no image{told}: {cure}") from error


def explore(arguments):
    from .views.explore import explore

    arguments.backend = "numpy"
    vae, dataset = _model(arguments), _data(arguments)
    shape = dataset.shape if len(dataset.shape) > 1 else None
    file = _file(arguments.model).absolute()
    name = file.parent.name if file.name == MODEL else file.name
    title = f"The latent space of {name} on {dataset.name}"
    page = explore(vae, dataset.x_test, dataset.y_test, dataset.class_names or None, shape, title)
    _write(arguments.out, page)


def gradcheck(arguments):
    from .gradcheck import run

    backend = get_backend(arguments.backend)
    print(f"backend {backend.name} on {backend.device}")
    return 0 if run(backend) else 1


def info(arguments):
    from . import __version__, load

    print(f"minivae {__version__}, NumPy {np.__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in ENGINES:
        try:
            backend = get_backend(name)
            print(f"backend {name}: {backend.device}")
        except MiniVAEError as error:
            print(f"backend {name}: {error}")
    print("".join(f"{line}\n" for line in sorted(_blas())), end="")
    if arguments.model:
        load(_file(arguments.model), max_bytes=arguments.max_bytes).summary()


def _blas():
    """A line for each library that NumPy and SciPy multiply matrices with, where threadpoolctl can tell."""
    if find_spec("threadpoolctl") is None:
        return set()
    from threadpoolctl import threadpool_info

    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return {
        f"BLAS {library['internal_api']} {library['version']}: "
        f"kernels for {library.get('architecture', 'any processor')}, threads: {library['num_threads']}"
        for library in libraries
    }


def _model(arguments):
    from . import load

    return load(_file(arguments.model), arguments.backend, arguments.max_bytes)


def _file(path):
    return path / MODEL if path.is_dir() else path


def _data(arguments):
    from .data import load

    if arguments.data == "sample" and arguments.data_dir:
        raise MiniVAEError("--data-dir is for data sets that lie in a folder: leave it out for sample")
    names = "limit", "size", "color", "max_bytes"
    return load(arguments.data, arguments.data_dir, **{name: getattr(arguments, name) for name in names})


def _labels(vae, dataset):
    """The classes of the test examples, for a model that is told them."""
    if vae.n_classes and dataset.y_test is None:
        raise MiniVAEError(f"the model is conditional, and {dataset.source} has no classes to tell it")
    return dataset.y_test if vae.n_classes else None


def _write_arrays(path, **arrays):
    with atomic_write(path) as file:
        np.savez(file, **arrays)


def _write(path, page):
    with atomic_write(path) as file:
        file.write(page.encode())
    print(f"{path}: open it in a browser")


# -------------------------------------------------------------------------------------------------- explain


def explain(arguments):
    given = vars(arguments)
    if arguments.page:
        if "engine" in given or "model" in given:
            raise MiniVAEError(
                "--page shows the step of --weights, or of a small model: leave out --engine and --model"
            )
        _explain_on_a_page(arguments)
        return
    if arguments.weights:
        raise MiniVAEError("--weights is for a page: give --page as well, such as --page step.html")
    backend, model = get_backend(given.get("engine", "numpy")), given.get("model", "mnist")
    print(f"Model {model}, batches of 100 digits, RMSprop.\n\n{explained(backend, model)}")


def _explain_on_a_page(arguments):
    """One step of a trained model, since with weights that know nothing the pictures show little."""
    from . import fit, load, mlp
    from .data import load as load_data
    from .views.one_step import one_step

    digits = load_data("sample")
    if arguments.weights:
        vae = load(_file(arguments.weights), max_bytes=arguments.max_bytes)
    else:
        vae = mlp(784, hidden=(48,))
        fit(vae, digits.x_train, epochs=20)
    y = _labels(vae, digits)
    y = None if y is None else y[3:4]
    _write(arguments.page, one_step(vae, digits.x_test[3], y=y, title="One step of training, in all its numbers"))


def explained(backend, name):
    """The text that explains the step of one of MODELS, with batches of 100 digits and RMSprop."""
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
    from . import mlp

    return mlp(784, backend=backend)


def _conv(backend):
    from . import VAE, Conv2d, ConvTranspose2d, Dense, Flatten, ReLU, Reshape

    encoder = [Reshape((28, 28, 1)), Conv2d(1, 16, 3, stride=2, padding="same"), ReLU(), Flatten(), Dense(3136, 4)]
    decoder = [Dense(2, 3136), Reshape((14, 14, 16)), ConvTranspose2d(16, 1, 3, stride=2, padding="same"), Flatten()]
    return VAE(encoder, decoder, backend=backend, seed=4)


def _flow(backend):
    from . import FlowPosterior, InverseAutoregressive, mlp

    stages = [InverseAutoregressive(128, 256, context=64, reverse=reverse) for reverse in (False, True)]
    return mlp(784, latent=128, posterior=FlowPosterior(stages), backend=backend)


MODELS = {"mnist": _mnist, "conv": _conv, "flow": _flow}
