"""`python -m minivae explain`: the list of a training step, where it stands in the source, and what it costs."""

import glob
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minivae as mv
from minivae.cli import MODELS
from minivae.cli import explained as explain
from minivae.engine.backend import NumpyBackend
from minivae.engine.tracing import trace
from minivae.views.explain import flops

PACKAGE = Path(mv.__file__).parent


@pytest.fixture(autouse=True, scope="module")
def no_terminal():
    """Lines are as wide as nobody's window."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield


@pytest.fixture(scope="module")
def text(no_terminal):
    return explain(mv.get_backend("numpy"), "mnist")


def operations(text):
    """(source line, name, operands, shape, bytes, flops) for each operation."""
    found, line = [], None
    for row in text.splitlines():
        if match := re.fullmatch(r"  (\w+\.py:\d+)  (.*)", row):
            line = match.groups()
        elif match := re.fullmatch(r"    %\d+ = (\w+)\((.*?)\)? +\(([\d,]+)\) +\w+ +([\d,]+) +([\d,]+)", row):
            name, operands, shape, written, count = match.groups()
            shape = tuple(int(n) for n in shape.split(",") if n)
            found.append((line, name, operands, shape, *(int(n.replace(",", "")) for n in (written, count))))
    return found


def test_every_operation_stands_below_its_line(text):
    sources = {os.path.basename(path): Path(path).read_text().splitlines() for path in glob.glob(f"{PACKAGE}/*/*.py")}
    for (where, shown), *_ in operations(text):
        file, number = where.split(":")
        start = shown.removesuffix("...")
        assert sources[file][int(number) - 1].strip().startswith(start), where
        assert len(start) > 20 or start == sources[file][int(number) - 1].strip()


def test_the_network_can_be_recognised(text):
    rows = operations(text)
    products = [(operands, shape) for _, name, operands, shape, *_ in rows if name == "matmul"]
    assert [shape for _, shape in products] == [
        (100, 256), (100, 4), (100, 256), (100, 784),  # forward
        (100, 256), (256, 784), (100, 2), (2, 256), (100, 256), (256, 4), (784, 256),  # backward, without dx
    ]  # fmt: skip
    weights = [operands.split(", ")[1] for operands, _ in products[:4]]
    assert weights == ["encoder.0.W", "encoder.2.W", "decoder.0.W", "decoder.2.W"]
    assert any("optimizers.py" in where for (where, _), *_ in rows)
    assert ("subtract", (404244,)) in [(row[1], row[3]) for row in rows if row[2].startswith("parameters, ")]


def test_totals_are_sums_of_what_is_listed(text):
    rows = operations(text)
    n, written = sum(row[5] for row in rows), sum(row[4] for row in rows)
    groups = len(re.findall("^group ", text, re.M))
    assert f"{len(rows)} operations in {groups} groups" in text
    assert f"{n:,} floating-point operations, {written:,} bytes written" in text
    products = 2 * 100 * (2 * 784 * 256 + 3 * (256 * 4 + 2 * 256 + 256 * 784))  # no dx in the first layer
    assert sum(row[5] for row in rows if row[1] == "matmul") == products
    assert 0.9 < products / n < 1
    in_memory = {(row[1], row[3]): row[4] for row in rows}
    assert in_memory["matmul", (100, 784)] == 100 * 784 * 4
    # What only its own piece of a loop reads, and gradients made in their places, are not written again.
    assert in_memory["sqrt", (404244,)] == in_memory["concatenate", (404244,)] == 0


def test_times_of_the_groups_are_shares_of_a_step(text):
    shares = [float(share) for share in re.findall(r"ms +([\d.]+)%", text)]
    assert len(shares) == text.count("\ngroup ") and sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    times = [float(ms) for ms in re.findall(r"^group .* ([\d.]+) ms", text, re.M)]
    total = float(re.search(r"([\d.]+) ms when each", text)[1])
    assert sum(times) == pytest.approx(total, abs=0.001 * len(times))
    assert float(re.search(r"([\d.]+) ms a step", text)[1]) > 0


@pytest.mark.parametrize("name", MODELS)
def test_it_fits_into_a_terminal(name):
    text = explain(mv.get_backend("numpy"), name)
    assert max(map(len, text.splitlines())) <= 120
    assert len(operations(text)) > 50
    if name == "conv":
        assert {"correlate", "correlate_weights"} <= {row[1] for row in operations(text)}


def test_floating_point_operations_of_a_convolution():
    """A 3 x 3 kernel on 5 x 6 images without padding: 3 x 4 pixels, each of 9 taps, 2 channels in and 7 out."""
    layer = mv.Conv2d(2, 7, 3)
    shapes = layer.shapes() | {"x": (4, 5, 6, 2), "y": (4, 3, 4, 7)}
    arrays = {name: np.zeros(shape) for name, shape in shapes.items()}
    values = trace(lambda a: {"y": layer.forward(a, a["x"])[0]}, arrays).values
    (correlate,) = (value for value in values if value.kind == "primitive")
    assert flops(correlate) == 2 * 4 * 3 * 4 * 9 * 2 * 7


def test_copies_casts_and_integers_are_no_floating_point_operations():
    arrays = {"x": np.zeros((4, 5), np.float32), "n": np.zeros(4, np.int64), "y": np.zeros((5, 4), np.float64)}
    list_ = trace(lambda a: {"y": a["x"].T.astype("float64"), "n": a["n"] + 1}, arrays)
    assert [flops(value) for value in list_.live()] == [0] * len(list_.live())
    list_ = trace(lambda a: {"y": np.exp(a["y"]) * np.sum(a["y"], axis=1, keepdims=True)}, arrays)
    assert sorted(flops(value) for value in list_.live()) == [0, 20, 20, 20]


def test_a_step_that_is_not_compiled_has_no_list():
    with pytest.raises(mv.MiniVAEError, match="runs line by line"):
        explain(NumpyBackend(compiled=False), "mnist")


def test_the_command():
    command = [sys.executable, "-W", "error", "-m", "minivae", "explain"]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    options = {"capture_output": True, "text": True, "env": environment, "timeout": 60}
    process = subprocess.run(command, **options)
    assert process.returncode == 0, process.stderr
    assert "encoder.0.W" in process.stdout and "ms a step" in process.stdout and not process.stderr
    process = subprocess.run([*command, "--engine", "abacus"], **options)
    assert process.returncode == 2 and "invalid choice" in process.stderr


def test_every_engine_can_be_explained(backend, monkeypatch):
    monkeypatch.setattr("minivae.views.explain.SECONDS", 0.1)
    text = explain(backend, "mnist")
    assert text.startswith(f"One step of training on {backend.name}, ")
    assert max(map(len, text.splitlines())) <= 120
    assert sum(row[1] == "matmul" for row in operations(text)) == 11
    assert ("not timed one by one" in text) == (backend.name != "numpy")
    assert float(re.search(r"([\d.]+) ms a step", text)[1]) > 0
    monkeypatch.setenv("COLUMNS", "80")
    narrow = explain(backend, "mnist")
    lines = [line for line in narrow.splitlines() if re.match("    %| *operation|group", line)]
    assert max(map(len, lines)) == 80 and "%12 = add(offsets,... (100,)" in narrow
