"""N ranks take the steps that one process takes: every model, on threads in place of processes."""

import contextlib
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import MAKE_BACKEND
from ranks import together
from test_equal import SHARED, nothing_runs_uncompiled, train  # noqa: F401

import minivae as mv
from minivae.model import inference
from minivae.training.state import Training
from minivae.training.step import Step

TOLERANCE = {"float64": 1e-12, "float32": 1e-4}  # of the largest; of gradients after six steps with Adam
# Those that share out something of their own, or depend on the whole batch; the others are slow for what they add.
TELLING = ["free bits", "importance-weighted", "dropout", "VampPrior", "conditional", "clipped", "images"]
SMALL = ["ragged last batch of one", "batches of one", "momentum"]


def assert_the_same_numbers(name, size, make_backend=MAKE_BACKEND["numpy"], dtype="float64"):
    """Weights, gradients and losses of a training on so many ranks are those of one process, on each of them."""
    kind = "pixels" if dtype == "float32" else "float64"
    alone = train(make_backend(), name, dtype, kind)
    of_ranks = together(size, lambda ranks: train(make_backend(), name, dtype, kind, parallel=ranks))
    for results in of_ranks:
        for ours, first, expected in zip(results, of_ranks[0], alone, strict=True):
            np.testing.assert_array_equal(ours, first)  # each rank has the same bits
            assert np.abs(ours - expected).max() <= TOLERANCE[dtype] * np.abs(expected).max()


@pytest.mark.parametrize("name", TELLING + SMALL)
def test_a_model(name):
    assert_the_same_numbers(name, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
def test_every_model(name):
    for size, dtype in ((2, "float64"), (4, "float64"), (3, "float32")):
        assert_the_same_numbers(name, size, dtype=dtype)


@pytest.mark.parametrize("engine", ["numba", "fake"])
def test_other_engines(engine):
    """On the imaginary GPUs the sums go through NCCL."""
    assert_the_same_numbers("no ragged batch", 2, MAKE_BACKEND[engine])


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("engine", ["numba", "fake"])
def test_every_model_on_other_engines(engine, name):
    assert_the_same_numbers(name, 2, MAKE_BACKEND[engine])


# ------------------------------------------------------------------------------------------ what a step does


def small(backend=None, dtype="float64", **parts):
    return mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)], backend=backend or "numpy", dtype=dtype, seed=2, **parts)


def data(n=20):
    return np.random.default_rng(5).random((n, 6))


def a_training(ranks, backend=None, n=20):
    return Training(small(backend), mv.Adam(), data(n), None, np.arange(n), 8, 1, False, 0, None, ranks=ranks)


def test_one_sum_over_the_ranks_in_a_step_and_its_noise_is_a_part_of_the_same():
    def program(ranks):
        added, allreduce = [], ranks.allreduce
        ranks.allreduce = lambda array: added.append(array.size) or allreduce(array)
        training = a_training(ranks)
        for _ in training.steps():
            pass
        (step, _), _ = training.parts
        return added, step.arrays["noise"][0]

    (added, first), (_, second) = together(2, program)
    assert added == [small().parameters.flat.size + 3] * 3
    alone = a_training(mv.parallel.ALONE)
    next(alone.steps())
    np.testing.assert_array_equal(alone.parts[0][0].arrays["noise"][0], np.concatenate([first, second]))


def test_on_a_gpu_a_step_is_two_graphs_and_a_sum_that_wait_for_nothing():
    def program(ranks):
        backend = MAKE_BACKEND["fake"]()
        ((step, _),) = (training := a_training(ranks, backend, 32)).parts
        steps = training.steps()
        for _ in range(3):  # after two of which a graph is captured
            next(steps)
        with backend.xp.count() as n:
            step.run()
        return n

    for n in together(2, program):
        assert (n.launches, n.synchronisations, n.transfers, n.allocations) == (3, 0, 0, 0)


def test_a_rank_reads_no_rows_of_a_memory_map_but_its_own(tmp_path):
    """In its copy of the file the other ranks' rows are nonsense."""
    x, batch_size = data(23), 5
    order = mv.randomness.generator(2, mv.randomness.SHUFFLE, 1).permutation(23)

    def program(ranks):
        own = []
        for start in range(0, 23, batch_size):
            rows = order[start : start + batch_size]
            own.extend(rows[ranks.share(len(rows))])
        path = tmp_path / f"{ranks.rank}.npy"
        np.save(path, np.full_like(x, 0.123))
        mine = np.load(path, mmap_mode="r+")
        mine[own] = x[own]
        assert len(own) < 15
        vae = small()
        mv.fit(vae, mine, epochs=1, batch_size=batch_size, parallel=ranks, progress=False)
        return vae.parameters.flat

    expected = small()
    mv.fit(expected, x, epochs=1, batch_size=batch_size, progress=False)
    for found in together(2, program):
        np.testing.assert_allclose(found, expected.parameters.flat, rtol=1e-12)


def test_each_rank_checks_its_share_of_the_data():
    x = data(30)
    x[20] = np.nan

    def program(ranks):
        with pytest.raises(mv.MiniVAEError, match="row 20") if ranks.rank == 2 else contextlib.nullcontext():
            small().check_input(x, ranks)

    together(3, program)


# --------------------------------------------------------------------------------------- evaluation and likelihood


@pytest.mark.parametrize("n", [2, 31])
@pytest.mark.parametrize("size", [2, 3])
def test_evaluation_is_shared_out(n, size):
    vae, x = small(), data(n)
    vae.inference_rows = 8  # so that there are several batches, and several for the draws of one example
    for samples in (1, 3, 20):
        expected = [
            *vars(vae.score(x, samples=samples, seed=4)).values(),
            list(vars(vae.evaluate(x, samples=samples, seed=4)).values()),
            vae.log_likelihood(x, samples=samples, seed=4, progress=False),
        ]

        def program(ranks, samples=samples):
            return [
                *vars(vae.score(x, samples=samples, seed=4, parallel=ranks)).values(),
                list(vars(vae.evaluate(x, samples=samples, seed=4, parallel=ranks)).values()),
                vae.log_likelihood(x, samples=samples, seed=4, progress=False, parallel=ranks),
            ]

        for found in together(size, program):
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-13)


def test_each_ranks_progress_is_that_of_its_own_examples(monkeypatch):
    totals = []
    monkeypatch.setattr(inference, "progress_bar", lambda n, *_: totals.append(n) or contextlib.nullcontext(Mock()))
    together(3, lambda ranks: small().log_likelihood(data(20), samples=2, parallel=ranks))
    assert sorted(totals) == [6, 7, 7]


def test_labels_are_shared_out_with_their_rows():
    vae = mv.VAE([mv.Dense(8, 4)], [mv.Dense(4, 6)], n_classes=2, dtype="float64")
    x, y = data(9), np.arange(9) % 2
    expected = vae.evaluate(x, y=y), vae.log_likelihood(x, samples=3, y=y)

    def program(ranks):
        return vae.evaluate(x, y=y, parallel=ranks), vae.log_likelihood(x, samples=3, y=y, parallel=ranks)

    for losses, log_px in together(2, program):
        assert losses.loss == pytest.approx(expected[0].loss, rel=1e-13)
        assert log_px == pytest.approx(expected[1], rel=1e-13)


def test_what_ranks_are_is_checked():
    for call in (mv.fit, lambda vae, x, **options: vae.evaluate(x, **options), small().log_likelihood.__func__):
        with pytest.raises(mv.MiniVAEError, match="parallel should be the ranks of"):
            call(small(), data(), parallel="mpi")


def test_alone_a_step_is_one_list():
    step = a_training(mv.parallel.ALONE).parts[0][0]
    assert isinstance(step, Step) and step.stages == ["step"] and "sums" not in step.arrays
