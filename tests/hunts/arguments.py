"""Calls of everything public with arguments that nobody meant, for tests: what comes out is a result or a clear error.

    python tests/hunts/arguments.py 20000 [seed]

A call starts from arguments that suit and replaces one to three of them by whatever a user may have at hand.
"""

import contextlib
import copy
import io
import os
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import sklearn

import minivae as mv
from minivae import data
from minivae.sklearn import VAEEstimator
from minivae.views import explore, one_step, plots

X, D, N = 6, 2, 60  # values, latent dimensions, examples


class Odd:
    """An object that raises whatever it is asked."""

    def __repr__(self):
        raise RuntimeError("no repr")

    def __array__(self, *_, **__):
        raise RuntimeError("no array")

    def __len__(self):
        raise RuntimeError("no length")

    def __iter__(self):
        raise RuntimeError("no iteration")


class OddPath(os.PathLike):
    def __fspath__(self):
        return b"bytes"


def model(**options):
    return mv.VAE([mv.Dense(X, 4), mv.ReLU(), mv.Dense(4, 2 * D)], [mv.Dense(D, X)], **options)


def values(folder):
    """What a user may have at hand, made anew."""
    x = np.random.default_rng(0).random((N, X), np.float32)
    with_nan = x.copy()
    with_nan[2, 3] = np.nan
    numbers = [
        None,
        True,
        False,
        0,
        1,
        2,
        3,
        -1,
        -5,
        2.5,
        0.5,
        1e-3,
        np.nan,
        np.inf,
        -np.inf,
        1e300,
        2**70,
        10**400,
        1j,
    ]
    numbers += [np.float32(0.5), np.float64(2), np.int64(3), np.uint8(1), np.bool_(True), np.array(3), np.array(0.5)]
    texts = ["", "numpy", "float64", "same", "a\0b", b"bytes", bytearray(b"b"), "\ud800", Path("x") / "y", OddPath()]
    texts += [folder / "model.npz", str(folder / "kept"), folder, "val", "analytic"]
    lists = [
        [],
        (),
        {},
        set(),
        [1, 2],
        (3, 2),
        [2.5],
        [[1, 2], [3]],
        [[0.5] * X] * 3,
        ["a"],
        [None],
        {"beta": 1},
        range(3),
    ]
    lists += [{"lr": lambda *_: None}, {"beta": lambda *_: "x"}, {"beta": lambda *_: 0.5, "lr": lambda *_: np.nan}]
    lists += [(x, np.arange(N) % 3), (x, None), (1, 2), (x for _ in range(2)), {1: 2}, memoryview(b"abc")]
    arrays = [x, x[:3], x[0], x[:0], with_nan, x * 300, -x, (x * 255).astype(np.uint8), x.astype(">f8"), x[::-1, ::-1]]
    arrays += [
        x.reshape(N, 2, 3),
        x.astype(object),
        x.astype(str),
        x.astype(complex),
        x > 0.5,
        np.zeros((N, 2)),
        x[None],
    ]
    arrays += [
        np.ma.masked_greater(x, 0.5),
        np.ma.array(x),
        np.arange(N) % 3,
        np.arange(N) % 3 == 0,
        np.zeros((2, N, D)),
    ]
    arrays += [np.zeros(3, "M8[s]"), np.zeros(3, "i4,f8"), np.float16(x), np.matrix(x), np.full((N, X), 2**63, object)]
    parts = [
        mv.Dense,
        mv.Dense(X, 4),
        mv.ReLU(),
        mv.ReLU,
        mv.Sequential([mv.Dense(X, 4)]),
        mv.Bernoulli(),
        mv.Bernoulli,
    ]
    parts += [mv.Gaussian(), mv.Categorical(3), mv.PredictedVarianceGaussian(), mv.DiagonalGaussian(), mv.Planar(D)]
    parts += [mv.ELBO(), mv.ImportanceWeighted(), mv.Adam(), mv.ClipNorm(mv.SGD()), mv.Adam, mv.get_backend("numpy")]
    parts += [mv.MMD(), mv.BetaTC(N), mv.MMD, mv.GumbelSoftmax(D), mv.VectorQuantized(3, D), mv.UniformCodes(D, D)]
    parts += [mv.FlowPosterior([mv.Planar(D)]), [mv.Dense(X, 2 * D)], [mv.Dense(D, X)], [mv.Planar(D)], [mv.ReLU]]
    parts += [mv.InverseAutoregressive(D, 3, 1), mv.Checkpoint(folder / "kept"), mv.History(), mv.EarlyStopping(2)]
    others = [
        object(),
        Odd(),
        Odd,
        lambda *_, **__: None,
        print,
        int,
        float,
        np,
        ...,
        NotImplemented,
        slice(3),
        model(),
    ]
    return [*numbers, *texts, *lists, *arrays, *parts, *others]


def fresh(folder):
    """Name -> a function, and arguments that suit it."""
    x, y = np.random.default_rng(1).random((N, X), np.float32), np.arange(N) % 3
    vae, z, eps = model(), np.zeros((4, D)), np.zeros((2, N, D))
    conditional = mv.VAE([mv.Dense(X + 3, 2 * D)], [mv.Dense(D + 3, X)], n_classes=3)
    with_gaps, gaps = mv.miwae([(mv.Gaussian(), X)], D, (4,)), np.where(x < 0.5, np.nan, x)
    layers = {"encoder": [mv.Dense(X, 2 * D)], "decoder": [mv.Dense(D, X)]}
    history = mv.fit(vae, x, 0.2, epochs=1)
    path = folder / "model.safetensors"
    vae.save(path)
    parts = {"likelihood": None, "posterior": None, "bound": None, "kl": None, "free_bits": 0.0, "n_classes": None}
    parts |= {"prior": None, "regulariser": None}
    quantized = mv.mlp(X, D, (4,), posterior=mv.VectorQuantized(3, D))
    plain = {"beta": 1.0, "backend": "numpy", "dtype": "float32", "seed": 0}
    of_fit = {"epochs": 1, "batch_size": 20, "optimizer": mv.SGD(1e-3), "samples": 1, "val_samples": None, "seed": None}
    of_fit |= {
        "binarize": False,
        "patience": None,
        "schedules": None,
        "checkpoint": None,
        "callbacks": (),
        "verbose": False,
    }
    calls = {
        "VAE": (mv.VAE, layers | parts | plain),
        "fit": (mv.fit, {"vae": vae, "x_train": x, "validation": None, "progress": False} | of_fit),
        "fit, classes": (mv.fit, {"vae": conditional, "x_train": (x, y), "validation": (x, y), "epochs": 1}),
        "mlp": (mv.mlp, {"n_in": X, "latent": D, "hidden": (4,), "activation": mv.ReLU} | parts | plain),
        "convnet": (
            mv.convnet,
            {"image_shape": (4, 4), "latent": D, "channels": (2,), "hidden": 3, "activation": mv.ReLU}
            | {"likelihood": None, "posterior": None} | plain,
        ),
        "Dense": (mv.Dense, {"n_in": 3, "n_out": 2, "init": "glorot_normal"}),
        "Conv2d": (mv.Conv2d, {"n_in": 1, "n_out": 2, "kernel": 3, "stride": 2, "padding": 1, "init": "glorot_normal"}),
        "ConvTranspose2d": (
            mv.ConvTranspose2d,
            {"n_in": 1, "n_out": 2, "kernel": 3, "stride": 2, "padding": 1, "output_padding": 1}
            | {"init": "glorot_normal"},
        ),
        "Reshape": (mv.Reshape, {"shape": (2, 3)}),
        "Sequential": (mv.Sequential, {"layers": [mv.Dense(3, 2)]}),
        "LeakyReLU": (mv.LeakyReLU, {"slope": 0.1}),
        "ELU": (mv.ELU, {"alpha": 1.0}),
        "LayerNorm": (mv.LayerNorm, {"n": 3, "eps": 1e-5}),
        "Dropout": (mv.Dropout, {"rate": 0.5}),
        "Gaussian": (mv.Gaussian, {"std": 1.0, "constants": True}),
        "SharedVarianceGaussian": (mv.SharedVarianceGaussian, {"std": 1.0, "min_std": 1e-3}),
        "PredictedVarianceGaussian": (mv.PredictedVarianceGaussian, {"min_std": 1e-3}),
        "Categorical": (mv.Categorical, {"levels": 3}),
        "Observed": (mv.Observed, {"columns": [(mv.Gaussian(), X)]}),
        "ZeroFilled": (mv.ZeroFilled, {"columns": [(mv.Gaussian(), X)]}),
        "miwae": (
            mv.miwae,
            {"columns": [(mv.Gaussian(), X)], "latent": D, "hidden": (4,), "activation": mv.ReLU} | plain,
        ),
        "AggregateSampler": (mv.AggregateSampler, {"vae": vae, "x": x, "components": 2, "seed": 0}),
        "frechet_distance": (mv.frechet_distance, {"a": x, "b": x[:5]}),
        "precision_and_recall": (mv.precision_and_recall, {"real": x, "made": x[:5], "k": 3}),
        "nearest_rows": (mv.nearest_rows, {"rows": x, "others": x[:5]}),
        "impute": (mv.impute, {"vae": with_gaps, "x": gaps, "draws": None, "samples": 3, "seed": 0, "y": None}),
        "Planar": (mv.Planar, {"dim": D}),
        "InverseAutoregressive": (
            mv.InverseAutoregressive,
            {"dim": D, "hidden": 4, "context": 1, "reverse": False, "masks": "full"},
        ),
        "FlowPosterior": (mv.FlowPosterior, {"flows": [mv.Planar(D)], "base": None}),
        "MMD": (mv.MMD, {"weight": 1.0, "widths": [0.5, 1.0]}),
        "BetaTC": (mv.BetaTC, {"n_examples": N, "tc": 2.0, "mi": 1.0, "dimension_wise": 1.0}),
        "GumbelSoftmax": (mv.GumbelSoftmax, {"categories": 3, "temperature": 0.5}),
        "UniformCodes": (mv.UniformCodes, {"dim": 6, "categories": 3}),
        "VectorQuantized": (mv.VectorQuantized, {"codes": 3, "width": 2, "commitment": 0.25}),
        "CodebookPrior": (mv.CodebookPrior, {"dim": 6, "categories": 3, "width": 2}),
        "codebook_use": (mv.codebook_use, {"vae": quantized, "x": x, "y": None}),
        "kl_parts": (mv.kl_parts, {"vae": vae, "x": x, "samples": 1, "seed": 0, "y": None}),
        "mutual_information_gap": (
            mv.mutual_information_gap,
            {"mu": x[:, :2], "log_var": x[:, :2], "factors": y[:, None], "samples": 9, "seed": 0},
        ),
        "Optimizer": (mv.Optimizer, {"lr": 1e-3}),
        "SGD": (mv.SGD, {"lr": 1e-3, "momentum": 0.9}),
        "RMSprop": (mv.RMSprop, {"lr": 1e-3, "rho": 0.9, "eps": 1e-7}),
        "Adam": (mv.Adam, {"lr": 1e-3, "beta1": 0.9, "beta2": 0.9, "eps": 1e-7}),
        "ClipNorm": (mv.ClipNorm, {"optimizer": mv.SGD(), "limit": 1.0}),
        "EarlyStopping": (mv.EarlyStopping, {"patience": 3}),
        "CSVWriter": (mv.CSVWriter, {"path": folder / "m.csv", "validation": "test"}),
        "EpochPrinter": (mv.EpochPrinter, {"validation": "test"}),
        "Checkpoint": (mv.Checkpoint, {"path": folder / "kept", "resume": False}),
        "linear_warmup": (mv.linear_warmup, {"epochs": 3, "end": 1.0, "start": 0.0}),
        "binarize": (mv.binarize, {"x": x, "seed": 0}),
        "get_backend": (mv.get_backend, {"name": "numpy", "tf32": False}),
        "save": (mv.save, {"vae": vae, "path": folder / "again.npz"}),
        "load": (mv.load, {"path": path, "backend": "numpy"}),
        "to_torch_state_dict": (mv.to_torch_state_dict, {"vae": vae}),
        "from_torch_state_dict": (mv.from_torch_state_dict, {"vae": vae, "state": mv.to_torch_state_dict(vae)}),
        "gradcheck": (mv.gradcheck, {"vae": model(dtype="float64"), "x": x[:3], "eps": None, "limit": 2, "y": None}),
        "diagnose": (mv.diagnose, {"vae": vae, "x": x, "train": None, "history": None, "seed": 0}),
        "History.save_csv": (history.save_csv, {"path": folder / "h.csv", "validation": "val"}),
        "vae.beta": (lambda beta: setattr(vae, "beta", beta), {"beta": 1.0}),
        "vae.save": (vae.save, {"path": folder / "v.safetensors"}),
    }  # fmt: skip
    methods = {
        "loss_and_gradients": {"x": x, "eps": eps},
        "evaluate": {"x": x, "samples": 2, "seed": 0, "batch_size": None},
        "score": {"x": x, "samples": 1, "seed": 0, "batch_size": 7},
        "encode": {"x": x},
        "decode": {"z": z},
        "reconstruct": {"x": x, "eps": eps},
        "sample": {"n": 3, "seed": None},
        "log_likelihood": {"x": x, "samples": 3, "seed": 0, "progress": False},
        "active_units": {"x": x, "threshold": 0.01},
    }
    calls |= of_data(folder) | of_plots(vae, x, y, history) | of_estimator(x, y)
    for name, arguments in methods.items():
        calls[f"vae.{name}"] = getattr(vae, name), arguments | {"y": None}
        calls[f"vae.{name}, classes"] = getattr(conditional, name), arguments | {"y": 1}
    return calls


def of_data(folder):
    pixels, y = np.random.default_rng(2).integers(0, 256, (6, 4, 4), np.uint8), np.arange(6) % 3
    np.savez(folder / "four.npz", x_train=pixels, y_train=y, x_test=pixels, y_test=y)
    (folder / "pictures").mkdir(exist_ok=True)
    for i, image in enumerate(pixels):
        (folder / "pictures" / f"{i}.pgm").write_bytes(b"P5 4 4 255 " + image.tobytes())
    rows = [",".join(map(str, [label, *image.ravel()])) for label, image in zip(y, pixels, strict=True)]
    (folder / "rows.csv").write_text("\n".join(rows))
    (folder / "mapping.txt").write_text("1 65 97\n")
    data.write_idx(folder / "pixels.idx", pixels)
    own = {"test": 0.5, "size": None, "color": False, "limit": 2, "max_bytes": 10**6, "download": False}
    digits = data.load("sample", limit=20)
    return {
        "data.load": (data.load, {"name": folder / "four.npz", "data_dir": None} | own),
        "data.load, sample": (data.load, {"name": "sample", "data_dir": None, "limit": 3, "download": False}),
        "data.load, pictures": (data.load, {"name": folder / "pictures"} | own),
        "data.load, array": (data.load, {"name": pixels} | own),
        "data.load, csv": (data.load, {"name": folder / "rows.csv"} | own),
        "read_npz": (data.read_npz, {"path": folder / "four.npz", "max_bytes": 10**6}),
        "read_idx": (data.read_idx, {"path": folder / "pixels.idx", "max_bytes": 10**6}),
        "read_csv": (
            data.read_csv,
            {"path": folder / "rows.csv", "shape": (4, 4), "transposed": False, "max_bytes": 10**6},
        ),
        "read_mapping": (data.read_mapping, {"path": folder / "mapping.txt"}),
        "read_images": (
            data.read_images,
            {"source": folder / "pictures", "size": (3, 2), "color": True, "max_bytes": 10**6},
        ),
        "read_images, array": (data.read_images, {"source": pixels, "size": (3, 2), "color": True}),
        "write_idx": (data.write_idx, {"path": folder / "out.idx", "array": pixels}),
        "Dataset.first": (digits.first, {"count": 3}),
        "Dataset.only": (data.load("sample").only, {"classes": ["1", 7]}),
    }


def of_plots(vae, x, y, history):
    few, image_shape = x[:3], {"image_shape": (2, 3), "ax": None}
    conditional = mv.VAE([mv.Dense(X + 3, 2 * D)], [mv.Dense(D + 3, X)], n_classes=3)
    return {
        "loss_curves": (plots.loss_curves, {"history": history, "validation": "test"}),
        "reconstructions": (
            plots.reconstructions,
            {"vae": vae, "x": few, "n": 2, "columns": 2, "names": ["a", "b"]} | image_shape,
        ),
        "draws": (plots.draws, {"vae": vae, "x": few, "n": 2, "seed": 0} | image_shape),
        "samples": (plots.samples, {"vae": vae, "n": 3, "seed": 0} | image_shape),
        "styles": (
            plots.styles,
            {"vae": conditional, "x": few, "y": y[:3], "class_names": ["a", "b", "c"]} | image_shape,
        ),
        "interpolation": (plots.interpolation, {"vae": vae, "x_from": x[0], "x_to": x[1], "n": 3} | image_shape),
        "manifold": (plots.manifold, {"vae": vae, "n": 3, "limits": (-2, 2), "grid": "linear"} | image_shape),
        "latent_space": (plots.latent_space, {"vae": vae, "x": x, "y": y, "class_names": ["a", "b", "c"], "ax": None}),
        "latent_plane": (
            plots.latent_plane,
            {"vae": vae, "x": x, "y": y, "class_names": ["a", "b", "c"], "n": 3, "image_shape": (2, 3)},
        ),
        "kl_per_dimension": (plots.kl_per_dimension, {"vae": vae, "x": x, "ax": None}),
        "architecture": (plots.architecture, {"vae": vae, "ax": None}),
        "explore": (
            explore.explore,
            {"vae": vae, "x": x, "y": y, "class_names": ["a", "b", "c"], "image_shape": (2, 3), "title": "A page"}
            | {"n_points": 9, "n_examples": 3},
        ),
        "one_step": (
            one_step.one_step,
            {"vae": vae, "x": x[0], "y": None, "optimizer": None, "seed": 0, "image_shape": (2, 3), "title": "A page"},
        ),
    }


def of_estimator(x, y):
    made = {
        "n_components": 2, "hidden_layer_sizes": (3,), "image_shape": None, "likelihood": "gaussian", "beta": 1.0,
        "batch_size": 20, "learning_rate": 1e-3, "max_iter": 1, "contamination": 0.1, "backend": "numpy",
        "random_state": 0, "verbose": False,
    }  # fmt: skip
    fitted = VAEEstimator(max_iter=1, random_state=0).fit(x)
    return {
        "VAEEstimator": (lambda **given: VAEEstimator(**given).fit(x), made),
        "estimator.fit": (lambda **given: VAEEstimator(max_iter=1).fit(**given), {"X": x, "y": y}),
        "estimator.partial_fit": (lambda **given: VAEEstimator().partial_fit(**given), {"X": x, "y": y}),
        "estimator.transform": (fitted.transform, {"X": x}),
        "estimator.inverse_transform": (fitted.inverse_transform, {"X": np.zeros((4, 2), np.float32)}),
        "estimator.score_samples": (fitted.score_samples, {"X": x}),
        "estimator.score": (fitted.score, {"X": x, "y": y}),
        "estimator.sample": (fitted.sample, {"n_samples": 3, "random_state": 0}),
        "estimator.predict": (fitted.predict, {"X": x}),
    }


def base_calls():
    """The calls that do not go well as they are, and what comes out."""
    with tempfile.TemporaryDirectory() as folder, silence():
        calls = fresh(Path(folder))
        return {name: out for name, (function, given) in calls.items() if (out := call(function, given)) != "done"}


def hunt(n, seed=0):
    """Make n calls; returns how many came out how, and one traceback for each way in which something raw did."""
    rng, outcomes, raw = np.random.default_rng(seed), Counter(), {}
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), silence():
        warnings.simplefilter("ignore")
        os.chdir(folder)  # where names such as "val" end up
        try:
            for i in range(n):
                if i % 200 == 0:
                    calls, pool = fresh(Path(folder)), values(Path(folder))
                name = list(calls)[rng.integers(len(calls))]
                function, arguments = calls[name]
                n_changed = min(len(arguments), rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))
                changed = rng.choice(list(arguments), n_changed, replace=False)
                given = arguments | {key: another(rng, pool, arguments[key]) for key in changed}
                outcome = call(function, given)
                if isinstance(outcome, str):
                    outcomes[outcome] += 1
                    continue
                outcomes["raw"] += 1
                at = traceback.extract_tb(outcome.__traceback__)[-1]
                key = name, type(outcome).__name__, at.name
                raw.setdefault(key, (", ".join(f"{key}={kind(given[key])}" for key in changed), outcome))
        finally:
            os.chdir(here)
    return outcomes, raw


@contextlib.contextmanager
def silence():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def another(rng, pool, value):
    """One of the pool, half the time one of the same type as the value: what is nearly right gets further."""
    alike = [each for each in pool if type(each) is type(value)]
    chosen = alike if alike and rng.random() < 0.5 else pool
    return chosen[rng.integers(len(chosen))]


def call(function, given):
    try:
        function(**copy.copy(given))
    except mv.MiniVAEError as error:
        return "clear" if str(error) else "empty"
    except MemoryError:
        return "memory"
    except Exception as error:
        # scikit-learn's own checks have errors of their own, which its users know.
        folders = tuple(os.path.dirname(package.__file__) for package in (sklearn, mv))
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        last = next((file for file in reversed(files) if file.startswith(folders)), "")
        return "clear" if last.startswith(folders[0]) and str(error) else error
    return "done"


def kind(value):
    try:
        return f"{type(value).__name__} {value!r}"[:100]
    except Exception:
        return type(value).__name__


if __name__ == "__main__":
    print("calls that do not go well as they are:", base_calls())
    outcomes, raw = hunt(int(sys.argv[1]), *map(int, sys.argv[2:]))
    for (name, error, where), (changed, outcome) in sorted(raw.items()):
        print(f"{name}: {error} in {where}: {str(outcome)[:150]}\n    {changed}")
        at = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(outcome.__traceback__)]
        print("   ", " ".join(at[-5:]))
    print(dict(outcomes))
