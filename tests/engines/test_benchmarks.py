"""The benchmarks' own arithmetic, and that the one for GPUs runs: here on the imaginary one."""

import sys
from pathlib import Path

import fakegpu
import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """The benchmarks' modules can be imported, and are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == BENCHMARKS:
            del sys.modules[name]


def arm(kind, workload, backend):
    from workloads import synthetic_images

    return kind(workload, workload.initial_weights(), synthetic_images(300), 1, backend)


@pytest.fixture
def workload():
    from workloads import Workload

    return Workload((32,), 4, 20, "bernoulli", "adam", steps=3)


def test_the_floating_point_operations_of_a_step_are_those_of_its_products(workload):
    import gpu
    from gpu_arms import Captured

    backend, counted = fakegpu.backend(), []
    bind = backend.products.bind
    backend.products.bind = lambda a, b, *out: counted.append(2 * a.size * b.shape[1]) or bind(a, b, *out)
    arm(Captured, workload, backend)
    assert sum(counted) == gpu.products_flops(workload)


def test_a_captured_step_repeats_the_first_of_the_prepared_rows(workload):
    from gpu_arms import Captured

    captured = arm(Captured, workload, fakegpu.backend())
    captured.prepare(np.arange(20, dtype="i4")[None])
    losses = []
    for _ in range(60):
        captured.training.totals.fill(0)
        captured.repeat()
        losses.append(captured.vae.backend.to_host(captured.training.totals)[0])
    assert losses[-1] < 0.9 * losses[0]  # it trains, on the same rows again and again
    assert captured.training.parts[0][0].calls[0]._graph is not None


def test_scale_prints_a_row_for_each_batch_and_width(capsys):
    import gpu

    gpu.scale(fakegpu.backend(), [8, 16], [4], side=16, seconds=1e-4)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 4 ")]
    assert [row.split("|")[2].strip() for row in rows] == ["8", "16"]
    assert all(float(cell.strip(" %")) >= 0 for row in rows for cell in row.split("|")[3:-1])
