"""The benchmarks' own arithmetic, and that the one for GPUs runs: here on the imaginary one."""

import importlib
import importlib.util
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


@pytest.mark.parametrize(
    "name, option",
    [
        ("step_time", "--workloads"),
        ("step_time", "--peers"),
        ("conv_step_time", "--peers"),
        ("first_epoch", "--arms"),
        ("parallel", "--workloads"),
        ("gpu", "--peers"),
    ],
)
def test_what_no_benchmark_knows_is_refused_in_one_line(name, option, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, option, "W9"])
    with pytest.raises(SystemExit):
        importlib.import_module(name).main()
    assert f"argument {option}: unknown 'W9': expected some of" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["step_time", "conv_step_time"])
def test_a_race_is_run_without_what_is_not_installed(name, monkeypatch, capsys):
    benchmark, raced = importlib.import_module(name), []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(
        benchmark, "race", lambda arms, *_, **__: raced.append(list(arms)) or dict.fromkeys(arms, [1.0])
    )
    monkeypatch.setattr(sys, "argv", [name, "--threads", "1"])
    benchmark.main()
    assert raced[0] == ["limit", "minivae"]
    assert "torch is not installed: its arms are left out" in capsys.readouterr().out


def test_whole_programs_are_timed_without_what_is_not_installed(monkeypatch):
    import first_epoch

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "jax", "numba") else name)
    assert list(first_epoch.all_arms()) == ["minivae"]  # nor Keras, which runs on JAX
