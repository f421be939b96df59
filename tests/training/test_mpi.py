"""Processes that mpiexec starts: they train as one, and none is left waiting for one that has gone."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import killable
import pytest
import under_mpi
from ranks import together

pytest.importorskip("mpi4py")
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
if MPIEXEC is None:
    pytest.skip("there is no mpiexec", allow_module_level=True)
# So that Open MPI starts more processes than there are cores, and as root; MPICH wants no such leave.
LEAVE = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
LEAVE |= {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "OMPI_MCA_mpi_yield_when_idle": "1"}
FOLDERS = [*sys.path, str(Path(__file__).parents[1] / "engines")]
THREADS = "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"
SECONDS = 30  # in which all processes end, on a busy machine; they take one or two on an idle one


def start(*words, size=2, **environment):
    """mpiexec, running under_mpi.py."""
    environment = {name: value for name, value in os.environ.items() if name not in THREADS} | LEAVE | environment
    environment["PYTHONPATH"] = os.pathsep.join(FOLDERS)
    command = [MPIEXEC, "-n", str(size), sys.executable, under_mpi.__file__, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run(*words, **options):
    """The lines that it printed, and what it said on stderr, and its exit status."""
    process = start(*words, **options)
    out, err = process.communicate(timeout=900)
    return out.splitlines(), err, process.returncode


def test_processes_train_as_threads_do(tmp_path):
    """Of two ranks to the bit, as a sum of two has one order only; what rank 0 wrote can be taken up."""
    path = tmp_path / "checkpoint.safetensors"
    lines, err, status = run("train", path)
    assert status == 0, err
    assert err == f"there is no checkpoint {path} yet: starting from the beginning\n"
    (expected, same) = together(
        2, lambda ranks: killable.digest(*killable.train(None, parallel=ranks, **under_mpi.SMALL))
    )
    assert lines == [expected, same] == [expected] * 2
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_every_model(size):
    lines, err, status = run("equal", size=size)
    assert (err, status) == ("", 0)
    assert len(lines) > 80
    for line in lines:
        name, dtype, worst = line.split("|")
        limit = 1e-12 if dtype == "float64" else 1e-3
        assert all(float(each) < limit for each in worst.split()), line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message", "expected"),
    [
        (("fails", "1"), "rank 1 of 3: error: this went wrong", 2),
        (("fails", "0"), "rank 0 of 3: error: this went wrong", 2),
        (("fails", "all"), "rank 0 of 3: error: this went wrong", 2),
        (("fails", "bug2"), "ZeroDivisionError: this is a bug", 1),
        (("exits", "1"), "rank 1 of 3: exit: 7", 7),
        (("dies", "2"), "", None),
    ],
)
def test_what_ends_one_ends_all_with_its_message(words, message, expected):
    begin = time.perf_counter()
    lines, err, status = run(*words, size=3)
    assert time.perf_counter() - begin < SECONDS
    assert message in err and "this is the end" not in lines
    assert err.count("rank ") - err.count("(rank ") >= bool(message) and err.count("this went wrong") <= 1
    assert status == expected if expected else status != 0


@pytest.mark.slow
def test_the_program_of_the_page_runs(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "parallel.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "program.py").write_text(program)
    command = [MPIEXEC, "-n", "2", sys.executable, "program.py"]
    environment = os.environ | LEAVE | {"PYTHONPATH": os.pathsep.join(FOLDERS)}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert -400 < float(process.stdout) < -100
    assert (tmp_path / "digits.safetensors").exists()


@pytest.mark.slow
def test_one_thread_for_each_rank_unless_asked_otherwise():
    assert run("threads")[0] == ["1", "1"]
    assert run("threads", OPENBLAS_NUM_THREADS="2")[0] == ["2", "2"]


def trained(path):
    """The hash of a long training, which both ranks should end with."""
    lines, err, status = run("trains", path)
    assert status == 0, err
    first, second = (line for line in lines if not line.startswith("process"))
    assert first == second
    return first


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed(tmp_path):
    """SIGKILL of a rank or of mpiexec; the same bits in the end."""
    begin, rng = time.perf_counter(), random.Random(0)
    expected, seconds = trained(tmp_path / "whole.safetensors"), time.perf_counter() - begin
    for i in range(20):
        path = tmp_path / f"{i}.safetensors"
        process = start("trains", path)
        pids = [int(process.stdout.readline().split()[1]) for _ in range(2)]
        time.sleep(rng.uniform(0.0, seconds))
        victim = rng.choice([*pids, process.pid])
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(victim, signal.SIGKILL)
        process.communicate(timeout=60)
        deadline = time.perf_counter() + SECONDS
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            assert time.perf_counter() < deadline, "a rank outlived the others"
            time.sleep(0.05)
        assert trained(path) == expected


@pytest.mark.slow
def test_ctrl_c_is_kept(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    process = start("trains", path)
    while not path.exists():  # after the first of its epochs
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert trained(path) == trained(tmp_path / "whole.safetensors")
