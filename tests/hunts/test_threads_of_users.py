"""One model used from many threads at once: each gets the numbers that it gets alone."""

import sys
import threading

import numpy as np
import pytest

import minivae as mv
from minivae.engine.repeated import Repeated

X = np.random.default_rng(0).random((64, 12), np.float32)
Y = np.arange(64) % 3
SIZES = [1, 2, 3, 5, 8, 13, 21, 64]


@pytest.fixture(autouse=True)
def threads_take_turns_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def model(backend="numpy", seed=0, **options):
    encoder = [mv.Dense(12 + 3, 16), mv.ReLU(), mv.Dense(16, 4)]
    decoder = [mv.Dense(2 + 3, 16), mv.Tanh(), mv.Dense(16, 12)]
    return mv.VAE(encoder, decoder, n_classes=3, backend=backend, seed=seed, **options)


# The imaginary GPU is for one thread.
of_processors = pytest.mark.parametrize("backend", ["numpy", "numba"], indirect=True)


def in_threads(n, function):
    """Call function(i) for i < n at once; raises what one of them raised."""
    errors = []

    def run(i):
        try:
            function(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


CALLS = {
    "encode": lambda vae, n: np.hstack(vae.encode(X[:n], Y[:n])),
    "decode": lambda vae, n: vae.decode(X[:n, :2], Y[:n]),
    "reconstruct": lambda vae, n: vae.reconstruct(X[:n], np.ones((2, n, 2)), Y[:n]),
    "sample": lambda vae, n: vae.sample(n, seed=n, y=1),
    "evaluate": lambda vae, n: vae.evaluate(X[:n], samples=2, y=Y[:n]).loss,
    "score": lambda vae, n: vae.score(X[:n], batch_size=4, y=Y[:n]).loss,
    "log_likelihood": lambda vae, n: vae.log_likelihood(X[:n], samples=3, y=Y[:n], progress=False),
    "active_units": lambda vae, n: vae.active_units(X[:n], y=Y[:n]),
}


@of_processors
def test_every_method_in_every_thread_gives_what_it_gives_alone(backend):
    vae = model(backend)
    alone = {(name, n): call(vae, n) for name, call in CALLS.items() for n in SIZES[:5]}

    def use(i):
        order = np.random.default_rng(i).permutation(np.arange(len(alone)).repeat(60))
        for k in order:
            name, n = list(alone)[k]
            np.testing.assert_array_equal(CALLS[name](vae, n), alone[name, n], err_msg=name)

    in_threads(4, use)


@of_processors
def test_what_each_thread_compiles_for_many_batches_is_its_own(backend, monkeypatch):
    monkeypatch.setattr(Repeated, "COMPILED_AFTER", 1)
    vae = model(backend)
    vae.inference_rows = 6
    xs = np.random.default_rng(1).random((4, 64, 12), np.float32)

    def numbers(x):
        return [*vae.score(x, samples=2, y=Y).loss, vae.log_likelihood(x, samples=3, y=Y, progress=False)]

    alone = [numbers(x) for x in xs]

    def use(i):
        for _ in range(10):
            np.testing.assert_array_equal(numbers(xs[i]), alone[i])

    in_threads(4, use)


@of_processors
def test_models_that_are_trained_in_threads_become_what_they_become_alone(backend):
    """Each is traced and compiled while the others are, and used between its epochs."""

    def train(seed):
        vae = model(backend, seed)
        mv.fit(vae, (X, Y), epochs=2, batch_size=9 + seed, callbacks=lambda run: vae.encode(X, Y), progress=False)
        return np.array(backend.to_host(vae.parameters.flat))

    alone, together = [train(seed) for seed in range(3)], {}
    in_threads(3, lambda i: together.update({i: train(i)}))
    for i, weights in enumerate(alone):
        np.testing.assert_array_equal(together[i], weights)


def test_draws_of_one_model_in_many_threads_are_never_the_same_twice():
    """Those without a seed come from one stream."""
    vae, drawn = model(), []
    in_threads(4, lambda i: drawn.extend(vae.sample(1, y=0) for _ in range(50)))
    assert len(np.unique(np.concatenate(drawn), axis=0)) == 200


@pytest.mark.slow
@of_processors
def test_a_million_encodes(backend):
    """Over four threads, in batches of mixed sizes."""
    n_threads, each = 4, 250_000
    vae = model(backend)
    alone = {n: np.hstack(vae.encode(X[:n], Y[:n])) for n in SIZES}
    done = [0] * n_threads

    def use(i):
        sizes = np.random.default_rng(i).choice(SIZES, each)
        for n in sizes.tolist():
            if not np.array_equal(np.hstack(vae.encode(X[:n], Y[:n])), alone[n]):
                raise AssertionError(f"encode of {n} rows gave other numbers in thread {i}")
            done[i] += 1

    in_threads(n_threads, use)
    print(f"{sum(done):,} encodes on {backend.name}")
    assert sum(done) == n_threads * each
