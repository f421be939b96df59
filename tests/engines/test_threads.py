"""The threads of a compiled step: they come, wait, sleep and end as they should, whatever gets in their way."""

import _thread
import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import scipy

import minivae as mv

pytest.importorskip("llvmlite")
from threadpoolctl import ThreadpoolController, threadpool_info  # noqa: E402  comes with Numba in the extra

from minivae.engine import loops, threads  # noqa: E402  needs llvmlite


def use(monkeypatch, n_workers):
    """So many threads, whatever the machine has."""
    monkeypatch.setattr(threads.blas, "n_threads", n_workers)


@pytest.fixture(params=[5, 3, 2, 1])
def n_workers(request, monkeypatch):
    use(monkeypatch, request.param)
    return request.param


def counter(n=100_000):
    """A step that counts in a long array, and the array."""
    backend = mv.get_backend("numba")
    count = backend.zeros((n,), "float32")
    step = backend.compile(lambda a: {"count": a["count"] + 1}, {"count": count})
    assert isinstance(step, loops.Loops)
    return step, count


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def images(rows=200, columns=200):
    return np.random.default_rng(0).random((rows, columns)).round(3)


def wide_vae(backend="numba", seed=0):
    """Wide enough for shares that no test of small models has: rows and columns of products, flat arrays cut up."""
    encoder = [mv.Dense(200, 300), mv.ReLU(), mv.Dense(300, 150), mv.ReLU(), mv.Dense(150, 16)]
    decoder = [mv.Dense(8, 300), mv.ReLU(), mv.Dense(300, 200)]
    return mv.VAE(encoder, decoder, backend=backend, seed=seed)


def trained(seed=0, backend="numba"):
    """The parameters and the course of a short training."""
    vae = wide_vae(backend, seed)
    history = mv.fit(vae, images(), epochs=2, batch_size=64, seed=seed, optimizer=mv.Adam(), progress=False)
    return vae.parameters.flat.copy(), [epoch["train_loss"] for epoch in history]


def in_threads(*functions):
    """Call functions at the same time; returns when all have ended."""
    started = [threading.Thread(target=function) for function in functions]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


# ----------------------------------------------------------------------------------------------- the same result


def test_a_training_gives_the_same_bits_twice_and_numpys_to_rounding(n_workers):
    (weights, course), (again, course_again), (theirs, their_course) = trained(), trained(), trained(backend="numpy")
    np.testing.assert_array_equal(weights, again)
    assert course == course_again
    np.testing.assert_allclose(weights, theirs, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(course, their_course, rtol=1e-5)


def test_a_resumed_training_gives_the_same_bits(tmp_path, monkeypatch):
    use(monkeypatch, 3)
    weights = []
    for epochs in [3], [1, 3]:
        for until in epochs:
            vae, checkpoint = wide_vae(), mv.Checkpoint(tmp_path / f"{len(epochs)}.safetensors", resume=True)
            mv.fit(vae, images(), epochs=until, batch_size=64, checkpoint=checkpoint, progress=False)
        weights.append(vae.parameters.flat.copy())
    np.testing.assert_array_equal(*weights)


# ------------------------------------------------------------------------------------------- coming and going


def test_helpers_that_fell_asleep_are_woken(n_workers, monkeypatch):
    monkeypatch.setattr(threads, "LOOKS", 60.0)  # nor do they wake by themselves
    step, count = counter()
    start = time.monotonic()
    for i in range(1, 8):
        step()
        assert (count == i).all()
        time.sleep(0.05 if i % 2 else 0)
    assert time.monotonic() - start < 30


def test_helpers_are_started_once(n_workers, monkeypatch):
    started, help_ = [], threads._help
    monkeypatch.setattr(threads, "_help", lambda *given: [started.append(True), help_(*given)])
    step, _ = counter()
    for _ in range(3):
        step()
    assert len(started) == n_workers - 1


def test_each_threads_words_lie_on_lines_of_their_own(n_workers, monkeypatch):
    """In memory that the helpers keep: two lines for each thread, and one for the number of launches."""
    given, help_ = [], threads._help
    monkeypatch.setattr(threads, "_help", lambda *now: [given.append(now), help_(*now)])
    step, _ = counter()
    step()
    for _, _, work, (memory, _) in given:
        *_, shared = work.args
        start = memory.ctypes.data
        assert shared % threads.LINE == 0
        assert start <= shared and shared + (2 * n_workers + 1) * threads.LINE <= start + memory.nbytes


def test_helpers_fall_asleep(monkeypatch):
    """A step that nobody calls takes no processor time."""
    use(monkeypatch, 3)
    step, _ = counter()
    step()
    time.sleep(0.5)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


@pytest.mark.parametrize("rung", [True, False])
def test_helpers_end_with_their_list(rung, monkeypatch):
    """Where an interrupt kept the last ring from coming, they find out by themselves."""
    use(monkeypatch, 2)
    monkeypatch.setattr(threads, "LOOKS", 60.0 if rung else 0.05)
    if not rung:
        monkeypatch.setattr(threads, "_ring", lambda bells: None)
    help_, started, ended = threads._help, [], []

    def watched(*given):
        started.append(True)
        help_(*given)
        ended.append(True)

    monkeypatch.setattr(threads, "_help", watched)
    steps = [counter()[0] for _ in range(5)]
    for step in steps:
        step()
    time.sleep(0.2)
    assert (len(started), len(ended)) == (5, 0)
    del step, steps
    until = time.monotonic() + 10
    while len(ended) < 5 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(ended) == 5


def test_a_list_has_no_helpers_before_it_is_called(monkeypatch):
    use(monkeypatch, 3)
    before = _thread._count()
    step, _ = counter()
    assert _thread._count() <= before
    step()


def test_launches_in_two_threads_of_two_lists(monkeypatch):
    use(monkeypatch, 2)
    steps = [counter() for _ in range(2)]
    in_threads(*(lambda step=step: [step() for _ in range(300)] for step, _ in steps))
    assert all((count == 300).all() for _, count in steps)


def test_one_backend_in_several_threads(monkeypatch):
    """Models are made, compiled and trained at once, and each gets the bits that it gets alone."""
    use(monkeypatch, 2)
    alone = [trained(seed) for seed in range(3)]
    backend, together = mv.get_backend("numba"), {}
    in_threads(*(lambda seed=seed: together.update({seed: trained(seed, backend)}) for seed in range(3)))
    for seed in range(3):
        np.testing.assert_array_equal(together[seed][0], alone[seed][0])
        assert together[seed][1] == alone[seed][1]


# ------------------------------------------------------------------------------------------------------- forks

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def in_child(function):
    """What a function returns in a forked process."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads, which is the point
        child = context.Process(target=lambda: theirs.send(function()))
        child.start()
    result = ours.recv() if ours.poll(60) else None
    child.kill()
    child.join()
    assert result is not None, "the child hung"
    return result


@needs_fork
def test_a_fork_starts_helpers_of_its_own(n_workers):
    step, count = counter()
    step()

    def launch():
        step()
        return count[[0, -1]].tolist()

    assert in_child(launch) == [2, 2]
    step()
    assert (count == 2).all()


@needs_fork
def test_a_fork_in_the_middle_of_a_launch_has_blas_with_its_threads(monkeypatch):
    """The launch goes on in the parent only: the child inherits neither its lock nor its one thread."""
    use(monkeypatch, 2)
    step, count = counter()
    step()
    words = threads.blas.words
    kept = words.copy()
    with ThreadpoolController().limit(limits=1):
        words[:2] = 1, 1  # locked by a launch
        words[5::3] = 2  # so many threads before it

        def launch():
            step()
            return blas_threads(), words[:2].tolist(), count[0]

        found = in_child(launch)
        words[:] = kept
    assert found == ({2}, [0, 0], 2)


@needs_fork
def test_a_fork_in_the_middle_of_a_launch_frees_every_library_of_blas(libraries):
    calls = [libraries(threads=3), libraries(threads=5)]
    blas = threads.Blas()
    words = blas.words
    words[:2] = 1, 1
    words[5::3] = 3, 5
    assert in_child(lambda: (calls, words[:2].tolist())) == ([[3], [5]], [0, 0])
    assert calls == [[], []] and words[:2].tolist() == [1, 1]
    blas._forget()  # the same here, where the mutation run sees which lines a test passes
    assert (calls, words[:2].tolist()) == ([[3], [5]], [0, 0])


# -------------------------------------------------------------------------------------------------------- BLAS


@pytest.fixture
def libraries(monkeypatch):
    """Stands for the BLAS libraries of a process, none at first.

    libraries(threads, api, layer, *names) adds one; the result is the list of the numbers of threads that it is told.
    """
    found = []
    monkeypatch.setattr(
        threads,
        "ThreadpoolController",
        lambda: SimpleNamespace(select=lambda user_api: SimpleNamespace(lib_controllers=found)),
    )

    def add(threads=4, api="openblas", layer="pthreads", *names):
        told = []
        tell, put = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: threads), ctypes.CFUNCTYPE(None, ctypes.c_int)(told.append)
        pairs = names or [("openblas_get_num_threads", "openblas_set_num_threads")]
        functions = {name: function for pair in pairs for name, function in zip(pair, (tell, put), strict=True)}
        found.append(
            SimpleNamespace(
                internal_api=api,
                threading_layer=layer,
                get_num_threads=lambda: threads,
                dynlib=SimpleNamespace(**functions),
            )
        )
        return told

    return add


def launched(monkeypatch, blas):
    """A list that does nothing has been run with these libraries."""
    monkeypatch.setattr(threads, "blas", blas)
    threads.Crew(np.zeros((1, threads.WORDS), np.int64), 1)()


PAIRS = {
    "openblas": ("openblas_get_num_threads", "openblas_set_num_threads"),
    "scipy's": ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    "mkl": ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    "blis": ("bli_thread_get_num_threads", "bli_thread_set_num_threads"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_every_kind_of_blas_is_held_to_one_thread(libraries, monkeypatch, name):
    told = libraries(4, name if name in ("mkl", "blis") else "openblas", "pthreads", PAIRS[name])
    others = libraries(3)
    blas = threads.Blas()
    launched(monkeypatch, blas)
    assert (told, others) == ([1, 4], [1, 3])
    assert not blas.of_each_thread


def test_what_is_no_known_blas_is_left_alone(libraries, monkeypatch):
    unknown, known = libraries(4, "armpl", "pthreads"), libraries(3)
    launched(monkeypatch, threads.Blas())
    assert (unknown, known) == ([], [1, 3])


def test_with_openmp_its_number_of_threads_counts(libraries, monkeypatch):
    """That of BLAS itself is one for the whole process."""
    told = libraries(6, "openblas", "openmp", ("omp_get_max_threads", "omp_set_num_threads"))
    blas = threads.Blas()
    launched(monkeypatch, blas)
    assert told == [1, 6]
    for put in blas.of_each_thread:
        put(1)
    assert told == [1, 6, 1]


@pytest.mark.parametrize("numbers, expected", [([], 1), ([3, 5], 5), ([5, 3], 5), ([64], 16)])
def test_as_many_threads_as_the_largest_blas_has_up_to_16(libraries, numbers, expected):
    for n in numbers:
        libraries(n)
    assert threads.Blas().n_threads == expected


BLAS_MODULE = "scipy.linalg.cython_blas"


@pytest.fixture
def scipy_of_ours(tmp_path, monkeypatch):
    """A SciPy of which there is only the module of BLAS's addresses, which puts itself where modules are looked up."""
    (tmp_path / "linalg").mkdir()
    (tmp_path / "linalg" / "cython_blas.py").write_text("import sys\nsys.modules[__name__] = sys\naddresses = 7\n")
    monkeypatch.setattr(scipy, "__path__", [str(tmp_path)])
    monkeypatch.setitem(sys.modules, BLAS_MODULE, None)


def test_blas_addresses_come_without_the_rest_of_scipy_linalg(scipy_of_ours):
    del sys.modules[BLAS_MODULE]
    assert threads._scipys_blas().addresses == 7
    assert BLAS_MODULE not in sys.modules  # or scipy.linalg would lack it as an attribute


def test_blas_addresses_that_are_there_already(scipy_of_ours):
    sys.modules[BLAS_MODULE] = there = object()
    assert threads._scipys_blas() is there


def test_blas_addresses_where_scipy_lies_elsewhere(monkeypatch):
    """As in an editable installation, whose own finder knows where."""
    pytest.importorskip("scipy.linalg")
    monkeypatch.setattr(scipy, "__path__", [])
    monkeypatch.delitem(sys.modules, BLAS_MODULE, raising=False)
    assert "sgemm" in threads._scipys_blas().__pyx_capi__


def test_blas_has_its_threads_again_after_a_step():
    with ThreadpoolController().limit(limits=2):
        counter()[0]()
        assert blas_threads() == {2}


def test_blas_has_its_threads_again_when_the_last_of_several_steps_ends():
    """Two launches at once, of which one lasts much longer."""
    with ThreadpoolController().limit(limits=2):
        long, short = counter(3_000_000)[0], counter(10)[0]
        in_threads(lambda: [long() for _ in range(20)], lambda: [short() for _ in range(200)])
        assert blas_threads() == {2}
        assert threads.blas.words[:2].tolist() == [0, 0]


def test_blas_is_held_to_one_thread_whoever_launches():
    """Also in a thread that is not the first to do so, where threadpoolctl's own setter does nothing."""
    seen = []
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    look = kernel(lambda *_: seen.append(blas_threads()))
    instruction = np.zeros((1, threads.WORDS), np.int64)
    instruction[0, 0], instruction[0, 4:] = ctypes.cast(look, ctypes.c_void_p).value, 1
    crew = threads.Crew(instruction, 1)
    with ThreadpoolController().limit(limits=2):
        crew()
        in_threads(crew)
        assert seen == [{1}, {1}] and blas_threads() == {2}


def test_with_openmp_each_helper_sets_its_own_number_of_threads(monkeypatch):
    use(monkeypatch, 3)
    numbers = []
    monkeypatch.setattr(threads.blas, "of_each_thread", [numbers.append])
    step, count = counter()
    step()
    assert numbers == [1, 1] and (count == 1).all()


def test_as_many_threads_as_blas_has():
    for n in 1, 2:
        with ThreadpoolController().limit(limits=n):
            assert threads.Blas().n_threads == n


# ----------------------------------------------------------------------------------------------- interrupts

INTERRUPTED = """
import _thread, os, random, signal, sys, time
import numpy as np
import minivae as mv
from minivae.engine import threads
from threadpoolctl import threadpool_info

def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has background jobs ignore it
threads.blas.n_threads = 3
x = np.random.default_rng(0).random((60, 70))
vae = mv.VAE([mv.Dense(70, 60), mv.ReLU(), mv.Dense(60, 4)], [mv.Dense(2, 70)], backend="numba")
mv.fit(vae, x, epochs=1, batch_size=20, progress=False)
before, armed, until, interrupts = blas_threads(), [], time.monotonic() + float(sys.argv[1]), 0

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
    assert interrupts_survived(4) > 10


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_minutes_of_interrupts():
    assert interrupts_survived(180) > 1000
