"""Every model through every engine: a compiled training takes the steps of a plain one, on NumPy bit for bit."""

import numpy as np
import pytest
from random_models import random_training
from reference import models

import minivae as mv
from minivae.engine import backend as backends
from minivae.engine.backend import Eager, NumpyBackend
from minivae.gradcheck import flow_prior, table_columns, table_rows
from minivae.training.state import Training

ENGINES = ["numpy", "numba", "fake"]


def networks(n_in=12, n_stats=6, n_z=3, n_out=None, activation=mv.Tanh):
    return [mv.Dense(n_in, 7), activation(), mv.Dense(7, n_stats)], [
        mv.Dense(n_z, 8),
        mv.ReLU(),
        mv.Dense(8, n_out or n_in),
    ]


def images(maps=3):
    encoder = [
        *(mv.Reshape((6, 6, 1)), mv.Conv2d(1, maps, 3, stride=2, padding="same"), mv.Sigmoid()),
        *(mv.Conv2d(maps, 2, 2, padding=1), mv.Flatten(), mv.Dense(32, 4)),
    ]
    decoder = [
        *(mv.Dense(2, 9), mv.Reshape((3, 3, 1)), mv.ConvTranspose2d(1, maps, 3, stride=2, padding=1, output_padding=1)),
        *(mv.ReLU(), mv.ConvTranspose2d(maps, 1, 1), mv.Flatten()),
    ]
    return encoder, decoder


def more_layers():
    encoder = [mv.Dense(12, 7), mv.LayerNorm(7), mv.GELU(), mv.Dense(7, 6), mv.ELU(0.7), mv.Dense(6, 6)]
    decoder = [mv.Dense(3, 8), mv.LeakyReLU(0.1), mv.Reshape((2, 4)), mv.LayerNorm(4), mv.Flatten()]
    return encoder, [*decoder, mv.Dense(8, 6), mv.Softplus(), mv.Dense(6, 12)]


def dropouts():
    encoder = [mv.Dropout(0.1), mv.Dense(12, 7), mv.ReLU(), mv.Dropout(0.4), mv.Dense(7, 6)]
    return encoder, [mv.Dense(3, 8), mv.Tanh(), mv.Dropout(0.5), mv.Dense(8, 12)]


def flows(*steps):
    return {"posterior": mv.FlowPosterior(list(steps))}


def gates():
    encoder = [mv.Dropout(0.2), mv.GatedDense(12, 7), mv.Residual([mv.Dense(7, 3), mv.ReLU(), mv.Dense(3, 7)])]
    return [*encoder, mv.Dense(7, 6)], [mv.SideBySide([[mv.GatedDense(1, 3)], [mv.Dense(2, 5)]]), mv.Dense(8, 12)]


def two_layers(top=None):
    return lambda **options: mv.two_layers(12, (2, 3), 5, top, **options)


def with_gaps(**options):
    return mv.miwae(table_columns(), 3, (6,), **options)


def implicit(adaptive):
    return lambda **options: mv.avb(12, 3, 8, adaptive, draws=4, **options)


# Name -> how to make the networks, the model's other parts, and how it is trained.
MODELS = {
    "ELBO": (networks, {}, {}),
    "three samples": (networks, {}, {"samples": 3}),
    "beta": (networks, {"beta": 0.3}, {"schedules": {"beta": mv.linear_warmup(2), "lr": lambda epoch: 1e-3 / epoch}}),
    "Monte-Carlo KL": (networks, {"kl": "monte-carlo"}, {"samples": 2}),
    "importance-weighted": (networks, {"bound": mv.ImportanceWeighted()}, {"samples": 4}),
    "importance-weighted, one sample": (networks, {"bound": mv.ImportanceWeighted()}, {}),
    "free bits": (networks, {"free_bits": 0.4}, {"samples": 2}),
    "Gaussian": (networks, {"likelihood": mv.Gaussian(0.3)}, {}),
    "Gaussian, no constants": (networks, {"likelihood": mv.Gaussian(constants=False)}, {"samples": 2}),
    "shared variance": (networks, {"likelihood": mv.SharedVarianceGaussian(0.5)}, {"samples": 2}),
    "predicted variance": (lambda: networks(n_out=24), {"likelihood": mv.PredictedVarianceGaussian()}, {"samples": 2}),
    "categorical": (lambda: networks(n_out=48), {"likelihood": mv.Categorical(4)}, {"samples": 2}),
    "planar flows": (networks, flows(mv.Planar(3), mv.Planar(3)), {"samples": 2}),
    "one planar flow": (networks, flows(mv.Planar(3)), {}),
    "autoregressive flows": (
        lambda: networks(n_stats=9),
        flows(mv.InverseAutoregressive(3, 5, context=2), mv.InverseAutoregressive(3, 6, context=1, reverse=True)),
        {"samples": 2},
    ),
    "autoregressive, no context": (networks, flows(mv.InverseAutoregressive(3, 5)), {"bound": mv.ImportanceWeighted()}),
    "conditional": (lambda: networks(15, 6, 6, 12), {"n_classes": 3}, {"samples": 2}),
    "two classes": (lambda: networks(14, 6, 5, 12), {"n_classes": 2}, {"samples": 2}),
    "more layers": (more_layers, {}, {"samples": 2}),
    "dropout": (dropouts, {}, {"samples": 2}),
    "gates": (gates, {}, {"samples": 2}),
    "mixture prior": (networks, {"prior": mv.MixturePrior(3, 4)}, {"samples": 2}),
    "mixture prior of one": (networks, {"prior": mv.MixturePrior(3, 1)}, {}),
    "VampPrior": (networks, {"prior": mv.VampPrior(3, 12, 5)}, {"binarize": True}),
    "VampPrior of one": (networks, {"prior": mv.VampPrior(3, 12, 1)}, {"samples": 2}),
    "VampPrior, dropout": (dropouts, {"prior": mv.VampPrior(3, 12, 11)}, {"bound": mv.ImportanceWeighted()}),
    "VampPrior of images": (images, {"prior": mv.VampPrior(2, 36, 3)}, {}),
    "flow prior": (networks, {"prior": flow_prior()}, {"samples": 2}),
    "flow prior and posterior": (networks, {"prior": flow_prior(), **flows(mv.Planar(3))}, {}),
    "two layers": (two_layers(), {}, {"whole": True, "samples": 2}),
    "two layers, VampPrior": (
        two_layers(mv.VampPrior(3, 12, 4)),
        {"bound": mv.ImportanceWeighted()},
        {"whole": True, "samples": 2},
    ),
    "two layers, VampPrior, one sample": (two_layers(mv.VampPrior(3, 12, 4)), {}, {"whole": True, "binarize": True}),
    "MMD": (networks, {"regulariser": mv.MMD(20.0)}, {"samples": 2}),
    "MMD alone, ragged last batch of one": (networks, {"regulariser": mv.MMD(), "beta": 0.0}, {"batch_size": 22}),
    "BetaTC": (networks, {"regulariser": mv.BetaTC(23, 4.0)}, {}),
    "BetaTC of three weights": (networks, {"regulariser": mv.BetaTC(23, 4.0, 0.5, 2.0)}, {"samples": 2}),
    "BetaTC, importance-weighted": (
        networks,
        {"regulariser": mv.BetaTC(23), "bound": mv.ImportanceWeighted()},
        {"samples": 2, "batch_size": 22},
    ),
    "Gumbel-softmax": (lambda: networks(n_z=6), {"posterior": mv.GumbelSoftmax(3)}, {"samples": 2}),
    "Gumbel-softmax of one variable": (lambda: networks(n_z=6), {"posterior": mv.GumbelSoftmax(6, 0.3)}, {}),
    "codebook": (lambda: networks(n_z=6), {"posterior": mv.VectorQuantized(4, 2)}, {"samples": 2}),
    "codebook, one vector": (lambda: networks(n_z=6), {"posterior": mv.VectorQuantized(3, 6), "beta": 0.5}, {}),
    "gaps": (with_gaps, {}, {"whole": True, "samples": 3, "x": table_rows(23)}),
    "gaps, one sample": (with_gaps, {"bound": mv.ELBO()}, {"whole": True, "x": table_rows(23)}),
    "implicit posterior": (implicit(True), {}, {"whole": True, "samples": 3, "binarize": True}),
    "implicit posterior, not adaptive": (implicit(False), {"prior": mv.MixturePrior(3, 2)}, {"whole": True}),
    "images": (images, {}, {}),
    "images, two samples": (lambda: images(1), {}, {"samples": 2}),
    "binarized": (networks, {}, {"binarize": True, "samples": 2}),
    "one latent dimension": (lambda: networks(n_stats=2, n_z=1), {}, {}),
    "one of each": (lambda: networks(1, 2, 1, 1), {}, {"samples": 1}),
    "one latent dimension, samples": (lambda: networks(n_stats=2, n_z=1), {"kl": "monte-carlo"}, {"samples": 3}),
    "batches of one": (networks, {}, {"batch_size": 1}),
    "batches of one, samples": (networks, {"bound": mv.ImportanceWeighted()}, {"batch_size": 1, "samples": 2}),
    "images one by one": (images, {}, {"batch_size": 1}),
    "ragged last batch of one": (networks, {}, {"batch_size": 22}),
    "no ragged batch": (networks, {}, {"batch_size": 23}),
    "SGD": (networks, {}, {"optimizer": mv.SGD(1e-3)}),
    "momentum": (networks, {}, {"optimizer": mv.SGD(1e-3, momentum=0.9)}),
    "RMSprop": (networks, {}, {"optimizer": mv.RMSprop(1e-3, rho=0.95)}),
    "clipped": (networks, {}, {"optimizer": mv.ClipNorm(mv.Adam(1e-3), 0.1)}),
    "not clipped": (networks, {}, {"optimizer": mv.ClipNorm(mv.SGD(1e-3), 1e6)}),
    "sigmoids": (lambda: networks(activation=mv.Sigmoid), {}, {}),
}

# Those that several processes can train: a regulariser wants all codes of a batch.
SHARED = [name for name, (_, parts, _) in MODELS.items() if "regulariser" not in parts]


def train(backend, name, dtype, kind, **more):
    """The weights, the gradients and the losses after two epochs; the ragged last batch has 3 rows where not said."""
    make, parts, options = MODELS[name]
    options = options | more
    options = {"optimizer": mv.Adam(1e-3), "batch_size": 10, "epochs": 2} | options
    if "bound" in options:
        parts, options = parts | {"bound": options["bound"]}, {k: v for k, v in options.items() if k != "bound"}
    settings = {"backend": backend, "dtype": dtype, "seed": 1} | parts
    vae = make(**settings) if options.pop("whole", False) else mv.VAE(*make(), **settings)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (23, vae.input_dim), np.uint8)
    x = x if kind == "pixels" else rng.random(x.shape).astype(kind)
    x = options.pop("x", x)
    data = (x, np.arange(23) % vae.n_classes) if vae.n_classes else x
    history = mv.fit(vae, data, progress=False, **options)
    losses = [[row[f"train_{part}"] for part in ("loss", "reconstruction", "kl")] for row in history]
    return [np.array(vae.backend.to_host(flat)) for flat in (vae.parameters.flat, vae.gradients.flat)] + [
        np.array(losses)
    ]


def assert_same(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        assert np.isfinite(b).all()
        if tolerance is None:
            np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))
        else:
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.fixture(autouse=True)
def nothing_runs_uncompiled(monkeypatch):
    """Where a compiled step was asked for, a plain one would prove nothing."""
    compile_ = backends.NumpyBackend.compile

    def strict(self, *args):
        compiled = compile_(self, *args)
        assert isinstance(compiled, Eager) != self.compiled
        return compiled

    monkeypatch.setattr(backends.NumpyBackend, "compile", strict)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", ENGINES, indirect=True)
def test_a_compiled_training_takes_the_steps_of_a_plain_one(backend, name):
    """In float64 for engines that round differently, so that a difference of 1e-6 is a mistake."""
    tolerance = None if backend.name == "numpy" else 1e-6
    for dtype, kind in (
        [("float32", "pixels"), ("float64", "float32")] if tolerance is None else [("float64", "float64")]
    ):
        plain = train(NumpyBackend(compiled=False), name, dtype, kind)
        assert_same(train(backend, name, dtype, kind), plain, tolerance)


@pytest.mark.parametrize("name", models.recipes())
@pytest.mark.parametrize("backend", ENGINES, indirect=True)
def test_the_recipes(backend, name):
    results = []
    x, y = models.digits()
    tolerance = None if backend.name == "numpy" else 1e-6
    for where in (backend, NumpyBackend(compiled=False)):
        vae, optimizer, options = models.recipes()[name](
            backend=where, dtype="float32" if tolerance is None else "float64"
        )
        data = (x[:33], y[:33]) if options.pop("labels", False) else x[:33]
        history = mv.fit(
            vae, data, epochs=1, batch_size=models.BATCH_SIZE, optimizer=optimizer, progress=False, **options
        )
        flats = vae.parameters.flat, vae.gradients.flat
        results.append([*(np.array(where.to_host(flat)) for flat in flats), np.array([history[-1]["train_loss"]])])
    assert_same(*results, tolerance)


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_models_at_random(first):
    for seed in range(first, first + 10):
        make, arguments = random_training(seed)
        results = []
        for compiled in (True, False):
            vae = make(NumpyBackend(compiled=compiled), "float32")
            data, options = arguments()
            mv.fit(vae, data, **options)
            results.append([vae.parameters.flat.copy(), vae.gradients.flat.copy()])
        assert_same(*results, None)


def test_a_step_as_wide_as_a_real_one():
    """Arrays larger than the pieces that the engine works on."""
    results = []
    for compiled in (True, False):
        backend = NumpyBackend(compiled=compiled)
        encoder = [mv.Dense(784, 256), mv.ReLU(), mv.Dense(256, 40)]
        decoder = [mv.Dense(20, 256), mv.Tanh(), mv.Dense(256, 784)]
        vae = mv.VAE(encoder, decoder, backend=backend)
        data = np.random.default_rng(0).integers(0, 256, (150, 784), np.uint8)
        training = Training(vae, mv.Adam(), data, None, np.arange(150), 100, 2, False, 0, {})
        for _ in training.steps():
            pass
        results.append([vae.parameters.flat.copy(), vae.gradients.flat.copy(), training.totals.copy()])
    assert_same(*results, None)
