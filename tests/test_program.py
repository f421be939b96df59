"""A training step as a list of loops for several threads: it computes what NumPy computes, whatever gets in its way."""

import _thread
import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from test_graph import VARIANTS, a_trainer, variant

import minivae as mv
from minivae.training import Trainer

pytest.importorskip("numba")
from threadpoolctl import ThreadpoolController, threadpool_info  # noqa: E402  comes with Numba in the extra

from minivae import program  # noqa: E402  needs Numba


@pytest.fixture(params=[1, 2, 3])
def n_workers(request, monkeypatch):
    """So many threads, whatever the machine has."""
    monkeypatch.setattr(program._blas, "n_threads", request.param)
    return request.param


@pytest.fixture
def split_everything(monkeypatch):
    """Even the smallest arrays are shared out."""
    monkeypatch.setattr(program, "LEAST_VALUES", 1)
    monkeypatch.setattr(program, "LEAST_PRODUCTS", 1)


def is_recorded(trainer):
    return all(isinstance(step.launch._launch, program.Program) for step, _ in trainer.parts)


def assert_same_training(program_trainer, numpy_trainer, rtol, atol=1e-7, epochs=(1, 2)):
    for epoch in epochs:
        for _ in zip(program_trainer.steps(epoch), numpy_trainer.steps(epoch), strict=True):
            pairs = [(t.vae.parameters.flat, t.vae.gradients.flat) for t in (program_trainer, numpy_trainer)]
            for ours, theirs in zip(*pairs, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)
        ours, theirs = (trainer.finish(trainer.epoch.totals) for trainer in (program_trainer, numpy_trainer))
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=rtol)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_program_trains_as_numpy_does(name, n_workers, split_everything):
    ours, theirs = (a_trainer(**variant(name)[1], backend=backend, dtype="float64") for backend in ("numba", "numpy"))
    assert_same_training(ours, theirs, rtol=1e-9, atol=1e-12)
    assert is_recorded(ours)


def conv_vae(backend, dtype="float64"):
    encoder = [mv.Reshape((6, 6, 1)), mv.Conv2d(1, 3, 3, stride=2, padding="same"), mv.ReLU(), mv.Flatten()]
    decoder = [mv.Dense(2, 27), mv.Reshape((3, 3, 3)), mv.ConvTranspose2d(3, 1, 3, stride=2, padding="same")]
    return mv.VAE([*encoder, mv.Dense(27, 4)], [*decoder, mv.Flatten()], backend=backend, dtype=dtype)


def flow_vae(flow):
    def make(backend, dtype="float64"):
        encoder = [mv.Dense(36, 8), mv.Tanh(), mv.Dense(8, 6 if flow is mv.InverseAutoregressive else 4)]
        decoder = [mv.Dense(2, 8), mv.Sigmoid(), mv.Dense(8, 36)]
        flows = [mv.InverseAutoregressive(2, 5, context=2)] if flow is mv.InverseAutoregressive else [mv.Planar(2)]
        return mv.VAE(encoder, decoder, posterior=mv.FlowPosterior(flows), backend=backend, dtype=dtype)

    return make


def likelihood_vae(likelihood, width):
    def make(backend, dtype="float64"):
        encoder, decoder = [mv.Dense(36, 8), mv.Tanh(), mv.Dense(8, 4)], [mv.Dense(2, 8), mv.Dense(8, width)]
        return mv.VAE(encoder, decoder, likelihood=likelihood(), backend=backend, dtype=dtype)

    return make


MODELS = {
    "convolution": conv_vae,
    "planar flow": flow_vae(mv.Planar),
    "autoregressive flow": flow_vae(mv.InverseAutoregressive),
    "shared variance": likelihood_vae(mv.SharedVarianceGaussian, 36),
}


def images(rows, columns):
    return np.random.default_rng(0).random((rows, columns)).round(3)


@pytest.mark.parametrize("name", MODELS)
def test_all_parts_can_be_recorded(name, n_workers, split_everything):
    trainers = []
    for backend in "numba", "numpy":
        vae, optimizer = MODELS[name](backend), mv.Adam(1e-2)
        optimizer.attach(vae.parameters, vae.gradients)
        trainers.append(Trainer(vae, optimizer, images(25, 36), 10, 2, seed=0))
    assert_same_training(*trainers, rtol=1e-8, atol=1e-10)
    assert is_recorded(trainers[0])


def wide_vae(backend, dtype="float32"):
    """Wide enough for shares that no test of small models has: rows and columns of products, flat arrays cut up."""
    encoder = [mv.Dense(200, 300), mv.ReLU(), mv.Dense(300, 150), mv.ReLU(), mv.Dense(150, 16)]
    decoder = [mv.Dense(8, 300), mv.ReLU(), mv.Dense(300, 200)]
    return mv.VAE(encoder, decoder, backend=backend, dtype=dtype)


@pytest.mark.parametrize("dtype, rtol", [("float32", 2e-4), ("float64", 1e-11)])
@pytest.mark.parametrize("optimizer", [mv.SGD, mv.Adam])
def test_wide_layers(dtype, rtol, optimizer, n_workers):
    trainers = []
    for backend in "numba", "numpy":
        vae, rule = wide_vae(backend, dtype), optimizer()
        rule.attach(vae.parameters, vae.gradients)
        trainers.append(Trainer(vae, rule, images(300, 200), 128, 1, seed=0))
    assert_same_training(*trainers, rtol=rtol, atol=1e-5 if dtype == "float32" else 1e-12, epochs=[1])
    assert is_recorded(trainers[0])


def test_fit_gives_the_same_history_twice(n_workers):
    histories = []
    for _ in range(2):
        vae = wide_vae("numba")
        mv.fit(vae, images(300, 200), epochs=3, batch_size=64, optimizer=mv.Adam())
        histories.append(vae.parameters.flat.copy())
    np.testing.assert_array_equal(*histories)


def test_a_resumed_training_gives_the_same_bits(tmp_path):
    weights = []
    for epochs in [3], [1, 3]:
        for until in epochs:
            vae, path = wide_vae("numba"), tmp_path / f"{len(epochs)}.safetensors"
            mv.fit(vae, images(300, 200), epochs=until, batch_size=64, checkpoint=path, resume=True, progress=False)
        weights.append(vae.parameters.flat.copy())
    np.testing.assert_array_equal(*weights)


# ------------------------------------------------------------------------------------ what cannot be recorded


class Doubled(mv.Tanh):
    """A user's own layer, which works on arrays without `xp`."""

    def backward(self, dy):
        dx = super().backward(dy)
        dx *= 2
        return dx


def test_a_step_with_a_layer_from_elsewhere_runs_as_it_is():
    losses = []
    for backend in "numba", "numpy":
        encoder, decoder = [mv.Dense(36, 8), Doubled(), mv.Dense(8, 4)], [mv.Dense(2, 36)]
        vae = mv.VAE(encoder, decoder, backend=backend, dtype="float64")
        losses.append(mv.fit(vae, images(30, 36), epochs=3, batch_size=10)[-1]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def arrays():
    x = np.arange(12, dtype="float32").reshape(3, 4)
    return x, np.zeros_like(x)


@pytest.mark.parametrize(
    "step",
    [
        lambda xp, x, y: xp.cumsum(x, axis=0, out=y),
        lambda xp, x, y: xp.add(x[:, 1:], x[:, :-1], out=x[:, 1:]),  # NumPy itself makes a copy first
        lambda xp, x, y: xp.add(x, xp.int16(1), out=y),
        lambda xp, x, y: xp.add(x.view("S4"), x.view("S4"), out=np.empty(x.shape, "S8")),
        lambda xp, x, y: xp.copyto(y[1:], y[:-1]),
        lambda xp, x, y: xp.greater(x, 3, out=y.view("int32"), casting="unsafe"),
        lambda xp, x, y: None,
    ],
    ids=["function", "overlap", "conversion", "dtypes", "overlapping copy", "keyword", "nothing"],
)
def test_what_no_loop_stands_for_is_run_as_it_is(step):
    backend = mv.get_backend("numba")
    (x, y), (x_numpy, y_numpy) = arrays(), arrays()
    launch = backend.graph(lambda: step(backend.xp, x, y))
    for _ in range(3):
        launch()
        step(np, x_numpy, y_numpy)
        np.testing.assert_array_equal(x, x_numpy)
        np.testing.assert_array_equal(y, y_numpy)
    assert backend.xp.cumsum is np.cumsum


def test_an_error_in_a_step_is_raised_and_the_backend_is_still_of_use():
    backend = mv.get_backend("numba")
    x, y = arrays()
    with pytest.raises(ZeroDivisionError):
        backend.graph(lambda: 1 / 0)()
    backend.xp.add(x, 1, out=y)
    np.testing.assert_array_equal(y, x + 1)


# --------------------------------------------------------------------------------------- operations one by one

OPERATIONS = {
    "of a number": lambda xp, x, y: xp.multiply(x, 0.5, out=y),
    "of two types": lambda xp, x, y: xp.multiply(x, (np.arange(4) > 1), out=y),
    "to another type": lambda xp, x, y: xp.less(x, 5, out=y),
    "broadcast": lambda xp, x, y: xp.add(x[:, :1], x[1], out=y),
    "transposed": lambda xp, x, y: xp.tanh(x[::-1, ::-1], out=y),
    "sum of columns": lambda xp, x, y: xp.sum(x, axis=0, out=y[1]),
    "sum of rows": lambda xp, x, y: xp.sum(x, axis=1, keepdims=True, out=y[:, 2:3]),
    "sum of all": lambda xp, x, y: xp.sum(x, axis=(0, 1), out=y[0, 0:1].reshape(())),
    "largest": lambda xp, x, y: xp.max(x, axis=1, out=y[:, 0]),
    "number copied": lambda xp, x, y: xp.copyto(y, 3),
    "mask copied": lambda xp, x, y: xp.copyto(y, np.eye(3, 4) > 0),
    "column copied": lambda xp, x, y: xp.copyto(y[:, 1], x[:, 2]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name, n_workers, split_everything):
    step, backend = OPERATIONS[name], mv.get_backend("numba")
    (x, y), (x_numpy, y_numpy) = arrays(), arrays()
    launch = backend.graph(lambda: step(backend.xp, x, y))
    step(np, x_numpy, y_numpy)
    launch()
    assert isinstance(launch._launch, program.Program)
    np.testing.assert_array_equal(y, y_numpy)


@pytest.mark.parametrize("dtype, rtol", [("float32", 1e-4), ("float64", 1e-12)])
@pytest.mark.parametrize(
    "m, k, n", [(100, 30, 40), (40, 30, 100), (100, 30, 200), (8, 600, 5), (7, 601, 5), (1, 90, 1)]
)
@pytest.mark.parametrize("transposed", ["neither", "a", "b", "both"])
def test_products(m, k, n, dtype, rtol, transposed, n_workers, split_everything):
    backend, rng = mv.get_backend("numba"), np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    a = np.asfortranarray(a) if transposed in ("a", "both") else a
    b = np.asfortranarray(b) if transposed in ("b", "both") else b
    out = np.full((m, n), np.nan, dtype)
    launch = backend.graph(lambda: backend.matmul(a, b, out=out))
    launch()
    assert isinstance(launch._launch, program.Program)
    np.testing.assert_allclose(out, a @ b, rtol=rtol, atol=rtol)


def test_a_blas_of_other_integers_is_not_called(monkeypatch):
    monkeypatch.setattr(program, "BLAS_TAKES_INT", False)
    backend, a, out = mv.get_backend("numba"), np.eye(3, dtype="float32"), np.zeros((3, 3), "float32")
    launch = backend.graph(lambda: backend.matmul(a, a, out=out))
    launch()
    assert not isinstance(launch._launch, program.Program)
    np.testing.assert_array_equal(out, a)


def test_a_part_of_a_product_is_worked_on_by_itself(n_workers, split_everything):
    """The share of a thread in a flat array follows its share in the product there, but never leaves the array."""
    backend, a = mv.get_backend("numba"), np.ones((4, 3), "float32")
    y = backend.empty((4, 4), "float32")

    def step(xp, matmul):
        matmul(a, a.T, out=y)
        xp.multiply(y.ravel()[:10], 2, out=y.ravel()[:10])

    launch = backend.graph(lambda: step(backend.xp, backend.matmul))
    launch()
    assert isinstance(launch._launch, program.Program)
    np.testing.assert_array_equal(y.ravel(), [6] * 10 + [3] * 6)


def test_fused_functions_of_arrays_with_gaps(n_workers, split_everything):
    backend, rng = mv.get_backend("numba"), np.random.default_rng(0)
    x, wide = rng.random((5, 1)), rng.standard_normal((5, 8))
    dlog_px, prob, results = rng.random((1, 5, 1)), rng.random((1, 5, 1)), []
    for recorded in True, False:
        dlogits, y, mask = np.zeros_like(prob), np.zeros((5, 4)), np.zeros((5, 4), bool)

        def step(xp, fuse, dlogits=dlogits, y=y, mask=mask):
            fuse(mv.likelihoods.bernoulli_log_prob_backward)(xp, dlog_px, x, prob, dlogits=dlogits)
            fuse(mv.layers.relu)(xp, wide[:, ::2], mask=mask, y=y)

        backend.graph(lambda: step(backend.xp, backend.fuse))() if recorded else step(np, lambda function: function)
        results.append((dlogits, y, mask))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relu_at_its_kink_and_beyond_numbers(dtype):
    backend, x = mv.get_backend("numba"), np.array([-2, -0.0, 0, 3, np.nan, np.inf, -np.inf], dtype)
    (y, mask), (y_numpy, mask_numpy) = ((np.zeros_like(x), np.zeros(x.shape, bool)) for _ in range(2))
    backend.graph(lambda: backend.fuse(mv.layers.relu)(backend.xp, x, mask=mask, y=y))()
    with np.errstate(invalid="ignore"):
        mv.layers.relu(np, x, mask=mask_numpy, y=y_numpy)
    np.testing.assert_array_equal(mask, mask_numpy)
    np.testing.assert_array_equal(y[:-1], y_numpy[:-1])
    assert y[-1] == 0  # where NumPy's product with the mask has a NaN


# --------------------------------------------------------------------------------------------------- threads


def counter(n=100_000):
    """A step that counts in a long array, and the array."""
    backend = mv.get_backend("numba")
    count = backend.empty((n,), "float32")
    count.fill(0)
    return backend.graph(lambda: backend.xp.add(count, 1, out=count)), count


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_helpers_that_fell_asleep_are_woken(n_workers):
    launch, count = counter()
    for i in range(1, 6):
        launch()
        assert (count == i).all()
        time.sleep(0.05 if i % 2 else 0)


@pytest.mark.parametrize("rung", [True, False])
def test_helpers_end_with_their_program(rung, monkeypatch):
    """Where an interrupt kept the last ring from coming, they find out by themselves."""
    monkeypatch.setattr(program._blas, "n_threads", 2)
    monkeypatch.setattr(program, "LOOKS", 5.0 if rung else 0.05)
    if not rung:
        monkeypatch.setattr(program, "_dismiss", lambda bells: None)
    time.sleep(0.2)  # the helpers of earlier programs are on their way out
    before = _thread._count()
    launches = [counter()[0] for _ in range(5)]
    for launch in launches:
        launch()
    assert _thread._count() == before + 5
    del launch, launches
    until = time.monotonic() + 2
    while _thread._count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert _thread._count() == before


def test_launches_in_two_threads_of_two_programs(monkeypatch):
    monkeypatch.setattr(program._blas, "n_threads", 2)
    steps = [counter() for _ in range(2)]

    def launch_often(launch):
        for _ in range(300):
            launch()

    threads = [threading.Thread(target=launch_often, args=(launch,)) for launch, _ in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((count == 300).all() for _, count in steps)


def _launch_in_child(launch, count, connection):
    launch()
    connection.send(count[[0, -1]].tolist())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_starts_helpers_of_its_own(monkeypatch):
    monkeypatch.setattr(program._blas, "n_threads", 2)
    launch, count = counter()
    launch()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads, which is the point
        child = context.Process(target=_launch_in_child, args=(launch, count, theirs))
        child.start()
    assert ours.poll(60) and ours.recv() == [2, 2]
    child.join()
    launch()
    assert (count == 2).all()


def test_blas_has_its_threads_again_after_a_step():
    with ThreadpoolController().limit(limits=2):
        counter()[0]()
        assert blas_threads() == {2}


def test_blas_has_its_threads_again_when_the_last_of_several_steps_ends():
    """Two launches at once, of which one lasts much longer."""
    with ThreadpoolController().limit(limits=2):
        launches = [counter(3_000_000)[0], counter(10)[0]]
        for launch in launches:
            launch()
        long = threading.Thread(target=lambda: [launches[0]() for _ in range(20)])
        long.start()
        for _ in range(200):
            launches[1]()
        long.join()
        assert blas_threads() == {2}
        assert program._blas.words[:2].tolist() == [0, 0]


def train_here(seed=0, backend="numba"):
    vae = wide_vae(backend)
    mv.fit(vae, images(300, 200), epochs=2, batch_size=100, seed=seed, progress=False)
    return vae.parameters.flat.copy()


def test_blas_is_held_to_one_thread_whoever_launches():
    """Also in a thread that is not the first to do so, where threadpoolctl's own setter does nothing."""
    with ThreadpoolController().limit(limits=2):
        counter()[0]()
        long, seen, done = counter(3_000_000)[0], set(), []
        thread = threading.Thread(target=lambda: done.append([long() for _ in range(50)]))
        thread.start()
        while not done:
            seen |= blas_threads()
        thread.join()
        assert 1 in seen and blas_threads() == {2}


def test_one_backend_in_several_threads(monkeypatch):
    """Models are made, recorded and trained at once, and plain methods called beside them, on one backend object."""
    monkeypatch.setattr(program._blas, "n_threads", 2)
    alone = [train_here(seed) for seed in range(4)]
    backend, together = mv.get_backend("numba"), {}

    def train(seed):
        for _ in range(3):
            together[seed] = train_here(seed, backend)

    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        np.testing.assert_array_equal(together[seed], alone[seed])


INTERRUPTED = """
import _thread, os, random, signal, sys, time
import numpy as np
import minivae as mv
from minivae import program
from threadpoolctl import threadpool_info

def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

program._blas.n_threads = 3
before, x = blas_threads(), np.random.default_rng(0).random((60, 70))
vae = mv.VAE([mv.Dense(70, 60), mv.ReLU(), mv.Dense(60, 4)], [mv.Dense(2, 70)], backend="numba")
mv.fit(vae, x, epochs=1, batch_size=20, progress=False)
armed, until, interrupts = [], time.monotonic() + float(sys.argv[1]), 0

def interrupt():
    while True:
        time.sleep(random.expovariate(300))
        if armed:
            armed.clear()  # one at a time: what is to be tested is minivae, not this loop
            os.kill(os.getpid(), signal.SIGINT)

_thread.start_new_thread(interrupt, ())
while time.monotonic() < until:
    try:
        armed.append(True)
        for _ in range(9):  # an interrupt that hits a finalizer is lost
            mv.fit(vae, x, epochs=100, batch_size=20, progress=False)
            time.sleep(0.002)  # helpers fall asleep
    except KeyboardInterrupt:
        interrupts += 1
    if blas_threads() != before:
        sys.exit(f"BLAS has {blas_threads()} threads after an interrupt, {before} before")
print(interrupts)
"""


def interrupts_survived(seconds):
    """How many interrupts a training took in so many seconds; an error where it hung or left BLAS at one thread."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(seconds)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=seconds + 60,
    )
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_interrupts_neither_hang_a_step_nor_leave_blas_at_one_thread():
    assert interrupts_survived(4) > 20


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_minutes_of_interrupts():
    print(interrupts_survived(180), "interrupts")


# ------------------------------------------------------------------------------------------ another NumPy


def test_a_ufunc_of_another_structure_is_not_called(monkeypatch):
    """As if a later NumPy had put something before the counts: the step runs as it is."""

    class Shifted(ctypes.Structure):
        _fields_ = [("more", ctypes.c_int), *program._Ufunc._fields_]

    monkeypatch.setattr(program, "_Ufunc", Shifted)
    backend, x, y = mv.get_backend("numba"), np.ones(3, "float32"), np.zeros(3, "float32")
    launch = backend.graph(lambda: backend.xp.add(x, 1, out=y))
    launch()
    assert not isinstance(launch._launch, program.Program)
    np.testing.assert_array_equal(y, 2)


def test_every_ufunc_that_a_step_may_use_shows_its_counts_where_they_are_expected():
    for ufunc in vars(np).values():
        if isinstance(ufunc, np.ufunc):
            table = program._Ufunc.from_address(id(ufunc))
            assert table.counts[:3] == [ufunc.nin, ufunc.nout, ufunc.nargs]
