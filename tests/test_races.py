"""No thread touches what another one writes, and the threads together train as plain NumPy does."""

import numpy as np
import pytest
from races import races
from random_models import random_training
from test_graph import VARIANTS, a_trainer, variant

import minivae as mv
from minivae.training import Trainer

pytest.importorskip("numba")
from test_program import MODELS, conv_vae, images, wide_vae  # noqa: E402  needs Numba

from minivae import program  # noqa: E402  needs Numba

THREADS = [2, 3, 5]


def programs(trainer):
    """The recorded steps of a trainer, which are not run."""
    return [trainer.vae.backend.record(step.run) for step, _ in trainer.parts]


def a_random_trainer(seed):
    make, arguments = random_training(seed)
    vae, (x, options) = make("numba"), arguments()
    optimizer, clip_norm = options["optimizer"], options["clip_norm"]
    optimizer = mv.optimizers.ClipNorm(optimizer, clip_norm) if clip_norm else optimizer
    optimizer.attach(vae.parameters, vae.gradients)
    sizes = options["batch_size"], options["samples"]
    return Trainer(vae, optimizer, x, *sizes, seed=0, binarize=options["binarize"], y=options["y_train"])


def trainers():
    """Every model of the suite, each as a function that makes its trainer."""

    def of(vae, optimizer, rows, columns, batch_size, samples=1, clip_norm=None):
        optimizer = mv.optimizers.ClipNorm(optimizer, clip_norm) if clip_norm else optimizer
        optimizer.attach(vae.parameters, vae.gradients)
        return Trainer(vae, optimizer, images(rows, columns), batch_size, samples, seed=0)

    def halves_of_a_small_weight(optimizer, clip_norm=None):
        """A weight of fewer values than are worth sharing out, made by a product that is."""
        vae = mv.VAE(
            [mv.Dense(64, 48), mv.ReLU(), mv.Dense(48, 4)],
            [mv.Dense(2, 48), mv.ReLU(), mv.Dense(48, 64)],
            backend="numba",
        )
        return of(vae, optimizer, 400, 64, 100, clip_norm=clip_norm)

    table = {name: lambda name=name: a_trainer(**variant(name)[1], backend="numba") for name in VARIANTS}
    table |= {name: lambda make=make: of(make("numba"), mv.Adam(), 25, 36, 10, 2) for name, make in MODELS.items()}
    table |= {
        "wide": lambda: of(wide_vae("numba"), mv.Adam(), 300, 200, 128),
        "small weights, Adam": lambda: halves_of_a_small_weight(mv.Adam()),
        "small weights, RMSprop": lambda: halves_of_a_small_weight(mv.RMSprop()),
        "small weights, clipped": lambda: halves_of_a_small_weight(mv.SGD(), 1.0),
        "convolution, clipped": lambda: of(conv_vae("numba"), mv.SGD(), 64, 36, 64, clip_norm=1.0),
    }
    return table


@pytest.mark.parametrize("split", ["as in use", "everything"])
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("name", trainers())
def test_no_model_of_the_suite_has_a_race(name, threads, split, monkeypatch):
    monkeypatch.setattr(program._blas, "n_threads", threads)
    if split == "everything":
        monkeypatch.setattr(program, "LEAST_VALUES", 1)
        monkeypatch.setattr(program, "LEAST_PRODUCTS", 1)
    for recorded in programs(trainers()[name]()):
        assert races(recorded) == []


@pytest.mark.parametrize("seed", range(120))
def test_no_random_model_has_a_race(seed, monkeypatch):
    monkeypatch.setattr(program, "LEAST_VALUES", [4096, 256, 16, 1][seed % 4])
    monkeypatch.setattr(program, "LEAST_PRODUCTS", [1 << 16, 1 << 10, 16, 1][seed // 4 % 4])
    for threads in THREADS:
        monkeypatch.setattr(program._blas, "n_threads", threads)
        for recorded in programs(a_random_trainer(seed)):
            assert races(recorded) == []


def train_both(seed, threads):
    """The losses of the first steps and the weights after them, from each backend."""
    make, arguments = random_training(seed)
    results = []
    for backend in "numpy", "numba":
        vae, (x, options) = make(backend), arguments()
        history = mv.fit(vae, x, **options)
        results.append((history[0]["train_loss"], vae.parameters.flat.copy()))
    return results


def assert_same(seed, threads):
    (loss, weights), (other_loss, other_weights) = train_both(seed, threads)
    assert other_loss == pytest.approx(loss, rel=1e-9), f"seed {seed}, {threads} threads"
    np.testing.assert_allclose(other_weights, weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(1000, 1030))
def test_random_trainings_are_those_of_numpy(seed, monkeypatch):
    threads = [1, 2, 3, 5][seed % 4]
    monkeypatch.setattr(program._blas, "n_threads", threads)
    assert_same(seed, threads)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("hundred", range(5))
def test_five_hundred_random_trainings_are_those_of_numpy(hundred, threads, monkeypatch):
    monkeypatch.setattr(program._blas, "n_threads", threads)
    for seed in range(2000 + 100 * hundred, 2100 + 100 * hundred):
        assert_same(seed, threads)
