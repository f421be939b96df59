"""No thread touches what another one writes, and the threads together train as plain NumPy does."""

import numpy as np
import pytest
from races import in_turn, races
from random_models import random_training
from reference import models
from reference.models import dense

import minivae as mv
from minivae.engine.backend import NumpyBackend
from minivae.engine.tracing import trace
from minivae.training.state import Training

pytest.importorskip("numba")
from minivae.engine import loops, threads  # noqa: E402  needs Numba

THREADS = [2, 3, 5]


def training(vae, x, batch_size, optimizer, samples=1, binarize=False):
    x, y = x if isinstance(x, tuple) else (x, None)
    x = vae.check_input(x)
    return Training(vae, optimizer, x, y, np.arange(len(x)), batch_size, samples, binarize, 0, None)


def lists(training):
    """The compiled steps of a training, which are not run."""
    return [step.calls[0] for step, _ in training.parts]


def a_random_training(seed):
    make, arguments = random_training(seed)
    x, options = arguments()
    return training(make("numba"), x, *(options[key] for key in ("batch_size", "optimizer", "samples", "binarize")))


def trainings():
    """The models of the suite, each as a function that makes its training."""

    def a_recipe(name):
        vae, optimizer, options = models.recipes()[name](backend="numba")
        x, y = models.digits()
        data = (x, y) if options.pop("labels", False) else x
        return training(vae, data, 30, optimizer, **options)

    def of(encoder, decoder, rows, columns, batch_size, optimizer, samples=1, **parts):
        x = np.random.default_rng(0).random((rows, columns))
        return training(mv.VAE(encoder, decoder, backend="numba", **parts), x, batch_size, optimizer, samples)

    def halves_of_a_small_weight(optimizer):
        """A weight of fewer values than are worth sharing out, made by a product that is."""
        return of(dense(64, 48, 4), dense(2, 48, 64), 400, 64, 100, optimizer)

    def a_convolution(optimizer, rows=32):
        encoder = [mv.Reshape((6, 6, 1)), mv.Conv2d(1, 8, 3, 2, "same"), mv.ReLU(), mv.Flatten(), mv.Dense(72, 4)]
        decoder = [mv.Dense(2, 72), mv.Reshape((3, 3, 8)), mv.ConvTranspose2d(8, 1, 3, 2, "same"), mv.Flatten()]
        return of(encoder, decoder, rows, 36, 16, optimizer)

    table = {name: lambda name=name: a_recipe(name) for name in models.recipes()}
    return table | {
        "wide": lambda: of(dense(200, 300, 20), dense(10, 300, 200), 300, 200, 128, mv.Adam()),
        "small weights, Adam": lambda: halves_of_a_small_weight(mv.Adam()),
        "small weights, RMSprop": lambda: halves_of_a_small_weight(mv.RMSprop()),
        "small weights, clipped": lambda: halves_of_a_small_weight(mv.ClipNorm(mv.SGD(), 1.0)),
        "convolution, clipped": lambda: a_convolution(mv.ClipNorm(mv.SGD(), 1.0)),
        "convolution, one image over": lambda: a_convolution(mv.RMSprop(), rows=33),
        "one row": lambda: of(dense(7, 5, 2), dense(1, 5, 7), 3, 7, 1, mv.Adam(), samples=3),
        "Categorical": lambda: of(
            dense(30, 40, 4), dense(2, 40, 120), 50, 30, 25, mv.Adam(), likelihood=mv.Categorical(4)
        ),
    }


@pytest.fixture
def split_everything(monkeypatch):
    """Even the smallest arrays are shared out."""
    monkeypatch.setattr(loops, "LEAST_VALUES", 1)
    monkeypatch.setattr(loops, "LEAST_PRODUCTS", 1)


def assert_no_race(training):
    for compiled in lists(training):
        assert races(compiled) == []


@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("name", trainings())
def test_no_model_of_the_suite_has_a_race(name, n_threads, monkeypatch):
    monkeypatch.setattr(threads.blas, "n_threads", n_threads)
    assert_no_race(trainings()[name]())


@pytest.mark.parametrize("n_threads", THREADS)
@pytest.mark.parametrize("name", trainings())
def test_no_model_of_the_suite_has_a_race_when_all_is_shared_out(name, n_threads, monkeypatch, split_everything):
    monkeypatch.setattr(threads.blas, "n_threads", n_threads)
    assert_no_race(trainings()[name]())


@pytest.mark.parametrize("seed", range(120))
def test_no_random_model_has_a_race(seed, monkeypatch):
    monkeypatch.setattr(loops, "LEAST_VALUES", [4096, 256, 16, 1][seed % 4])
    monkeypatch.setattr(loops, "LEAST_PRODUCTS", [1 << 16, 1 << 10, 16, 1][seed // 4 % 4])
    monkeypatch.setattr(threads.blas, "n_threads", THREADS[seed % 3])
    assert_no_race(a_random_training(seed))


def test_sums_over_one_of_four_axes_have_no_race(split_everything):
    """Their shares are of two axes taken as one; what reads them then has other shares."""
    x, y = np.random.default_rng(0).standard_normal((7, 3, 5, 6)), np.zeros((3, 5, 6))
    for order in ([0, 1], [1, 0]):
        step = trace(lambda a: {"y": np.sum(a["x"], axis=0)[::-1] * 2}, {"x": x, "y": y})
        list_ = loops.Loops(step, NumpyBackend(), n_workers=2)
        assert races(list_) == []
        in_turn(list_, order)
        np.testing.assert_allclose(y, x.sum(axis=0)[::-1] * 2, rtol=1e-12)


def test_sums_of_one_array_wait_for_nothing(split_everything):
    arrays = {"x": np.ones((7, 8, 9)), "y": np.zeros((8, 9)), "z": np.zeros((7, 9))}
    step = trace(lambda a: {"y": np.sum(a["x"], axis=0), "z": np.sum(a["x"], axis=1)}, arrays)
    list_ = loops.Loops(step, NumpyBackend(), n_workers=2)
    assert [instruction.join for instruction in list_.instructions].index(True) == len(list_.instructions) - 1


def after_a_step(training, order):
    """The arrays that change in a step, after one whose threads took turns in this order."""
    step = training.parts[0][0]
    rng = np.random.default_rng(3)
    step.noise.refill(1, rng, rng)
    training.arrays["permutation"][:] = training.rows
    in_turn(step.calls[0], order)
    return {name: array.copy() for name, array in training.moving().items()}


@pytest.mark.parametrize("n_threads", [2, 3])
@pytest.mark.parametrize("name", trainings())
def test_it_makes_no_difference_which_thread_is_the_fastest(name, n_threads, monkeypatch):
    monkeypatch.setattr(threads.blas, "n_threads", n_threads)
    make, order = trainings()[name], list(range(n_threads))
    expected = after_a_step(make(), order)
    for other in (order[::-1], [*order[1:], 0]):
        got = after_a_step(make(), other)
        for key, array in expected.items():
            np.testing.assert_array_equal(got[key], array, err_msg=key)


def train_both(seed):
    """The losses of the first steps and the weights after them, from each backend."""
    make, arguments = random_training(seed)
    results = []
    for backend in "numpy", "numba":
        vae, (x, options) = make(backend), arguments()
        history = mv.fit(vae, x, **options)
        results.append((history[0]["train_loss"], vae.parameters.flat.copy()))
    return results


def assert_same(seed):
    (loss, weights), (other_loss, other_weights) = train_both(seed)
    assert other_loss == pytest.approx(loss, rel=1e-9), f"seed {seed}, {threads.blas.n_threads} threads"
    np.testing.assert_allclose(other_weights, weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(1000, 1030))
def test_random_trainings_are_those_of_numpy(seed, monkeypatch):
    monkeypatch.setattr(threads.blas, "n_threads", [1, 2, 3, 5][seed % 4])
    assert_same(seed)


@pytest.mark.slow
@pytest.mark.parametrize("n_threads", [1, 2, 3, 5])
@pytest.mark.parametrize("hundred", range(5))
def test_five_hundred_random_trainings_are_those_of_numpy(hundred, n_threads, monkeypatch):
    monkeypatch.setattr(threads.blas, "n_threads", n_threads)
    for seed in range(2000 + 100 * hundred, 2100 + 100 * hundred):
        assert_same(seed)
