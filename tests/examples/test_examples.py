"""The examples, run as a user runs them: a process of its own, on the bundled sample."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minivae
from minivae import data

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(minivae.__file__).parent.parent)}
SURROUNDINGS = {"minivae_data", "https_proxy", "all_proxy", "no_proxy"}  # where a machine may have MNIST from
LAST_LINE = r"test -ELBO (\d+\.\d) nats \(reconstruction (\d+\.\d), KL (\d+\.\d)\) on [\w ,-]+"


def run(script, *arguments, cwd=None, status=0):
    """The finished process; fails the test on another exit status, or on a traceback."""
    environment = ENVIRONMENT | {"PYTHONWARNINGS": "error"}
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)
    assert "Traceback" not in process.stderr, process.stderr
    assert process.returncode == status, process.stderr
    return process


def train(out, *arguments, **options):
    return run("train_mnist.py", "--dataset", "sample", "--backend", "numpy", "--out", out, *arguments, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("mnist")
    return out, train(out, "--epochs", 3, "--hidden", 64)


def test_output_begins_with_what_the_run_stands_on(finished):
    lines = finished[1].stdout.splitlines()
    assert re.fullmatch(r"backend numpy, device CPU .*, dtype float32, seed 0", lines[0])
    assert "sample" in lines[1] and "5000 training, 1000 test" in lines[1]
    assert lines[2] == "loss = reconstruction + KL, in nats per example"


def test_output_has_a_line_for_each_epoch_and_ends_with_the_result(finished):
    lines = finished[1].stdout.splitlines()
    assert [line.split()[0] for line in lines if "/3 " in line] == ["1/3", "2/3", "3/3"]
    assert lines[-2].startswith("expected on the bundled sample: ") and lines[-1].endswith(" on the bundled sample")
    loss, reconstruction, kl = map(float, re.fullmatch(LAST_LINE, lines[-1]).groups())
    assert loss == pytest.approx(reconstruction + kl, abs=0.11)
    assert 150 < loss < 250


def test_metrics_csv(finished):
    header, *rows = (finished[0] / "metrics.csv").read_text().splitlines()
    assert header == ("epoch,seconds,train_loss,train_reconstruction,train_kl,test_loss,test_reconstruction,test_kl")
    table = np.array([list(map(float, row.split(","))) for row in rows])
    assert table[:, 0].tolist() == [1, 2, 3]
    assert table[-1, 2] < table[0, 2] and table[-1, 5] < table[0, 5]
    np.testing.assert_allclose(table[:, 2], table[:, 3] + table[:, 4], rtol=1e-6)


def test_config_json(finished):
    config = json.loads((finished[0] / "config.json").read_text())
    assert (config["seed"], config["epochs"], config["hidden"], config["backend"]) == (0, 3, 64, "numpy")
    assert config["parameters"] == 784 * 64 + 64 + 64 * 4 + 4 + 2 * 64 + 64 + 64 * 784 + 784


def test_same_seed_gives_the_same_metrics_bit_for_bit(finished, tmp_path):
    train(tmp_path, "--epochs", 3, "--hidden", 64, "--no-plots")

    def without_seconds(folder):
        rows = (folder / "metrics.csv").read_text().splitlines()
        return [row.split(",")[:1] + row.split(",")[2:] for row in rows]

    assert without_seconds(tmp_path) == without_seconds(finished[0])


def test_data_that_stand_in_for_others_are_named_beside_the_result(tmp_path):
    """MNIST asked for and not to be had: one line of warning, and a result that says what it is of."""
    environment = {name: value for name, value in ENVIRONMENT.items() if name.lower() not in SURROUNDINGS}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:1"}
    command = [sys.executable, str(ROOT / "examples" / "train_mnist.py"), "--out", str(tmp_path / "out")]
    arguments = ["--backend", "numpy", "--epochs", "1", "--hidden", "8", "--no-plots"]
    process = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=100)
    asked, *downloading, warning = process.stderr.splitlines()
    assert asked.startswith("minivae: looking for MNIST at ossci-datasets.s3.amazonaws.com, ") and downloading == []
    assert warning.startswith("warning: the bundled sample, 5,000 + 1,000 digits, stands in for MNIST")
    published, expected, result = process.stdout.splitlines()[-3:]
    assert published == "published: 151.05 on MNIST after 50 epochs, 172.6 after the first"
    assert expected.startswith("expected on the bundled sample: 164.7 to 167.4 after 50 epochs")
    assert re.fullmatch(LAST_LINE, result) and result.endswith(" on the bundled sample")


@pytest.mark.parametrize("lines", [1, 4])
def test_a_reader_that_goes_away_ends_a_run_quietly(lines, tmp_path):
    """As `| head` does: after the first line, and after the first epoch."""
    arguments = ["--dataset", "sample", "--backend", "numpy", "--epochs", "50", "--hidden", "8", "--no-plots"]
    command = [sys.executable, str(ROOT / "examples" / "train_mnist.py"), "--out", str(tmp_path), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as run:
        for _ in range(lines):
            assert run.stdout.readline()
        run.stdout.close()
        assert run.stderr.read() == "" and run.wait(60) == 1
    assert not (tmp_path / "model.safetensors").exists()


def test_the_choice_of_auto_is_told_once(tmp_path):
    process = train(tmp_path, "--backend", "auto", "--limit", 100, "--epochs", 1, "--hidden", 8, "--no-plots")
    told = [line for line in (process.stdout + process.stderr).splitlines() if "backend" in line]
    assert len(told) == 1 and re.match("minivae: backend (numpy|numba|cupy): ", told[0])


def test_figures(finished):
    from matplotlib.image import imread

    for name in ("loss_curves", "reconstructions", "latent_space", "manifold", "samples"):
        image = imread(finished[0] / f"{name}.png")
        assert min(image.shape[:2]) > 100 and image[..., :3].std() > 0.01, name


def test_saved_model_reconstructs(finished):
    vae = minivae.load(finished[0] / "model.safetensors")
    losses = vae.evaluate(data.load("sample").x_test)
    assert losses.loss == pytest.approx(float((finished[0] / "metrics.csv").read_text().split(",")[-3]), rel=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--batch-size", 0], "at least 1"),
        (["--epochs", "many"], "at least 1"),
        (["--backend", "tpu"], "invalid choice"),
        (["--lr", -1], "lr should be a positive number"),
        (["--beta", "nan"], "beta should be"),
        (["--seed", -3], "seed should be"),
        (["--dataset", "mnist", "--data-dir", "nowhere"], "nowhere"),
        (["--out", "file/below"], "file"),
    ],
)
def test_bad_arguments_leave_nothing_behind(arguments, message, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    process = train("runs", "--epochs", 1, "--no-plots", *arguments, cwd=tmp_path, status=2)
    assert message in process.stderr
    assert not list((tmp_path / "runs").rglob("*"))


def test_results_of_an_earlier_run_are_neither_replaced_nor_mixed_with(finished):
    before = {path.name: path.read_bytes() for path in finished[0].iterdir()}
    process = train(finished[0], "--epochs", 1, "--hidden", 16, status=2)
    assert process.stderr.startswith(f"error: --out {finished[0]} has results already (architecture.png, check")
    assert "add --resume to go on with that run, give another folder" in process.stderr
    assert {path.name: path.read_bytes() for path in finished[0].iterdir()} == before


def test_ctrl_c_and_resume_give_the_same_results(finished, tmp_path):
    """Stopped by SIGINT after the first epoch was printed, the run says how to go on, and then does."""
    arguments = ["--dataset", "sample", "--backend", "numpy", "--out", str(tmp_path), "--epochs", "3", "--hidden", "64"]
    command = [sys.executable, str(ROOT / "examples" / "train_mnist.py"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as run:
        while not run.stdout.readline().startswith("  1/3 "):
            assert run.poll() is None
        run.send_signal(signal.SIGSTOP)  # or it might come to its end meanwhile
        second = train(tmp_path, "--epochs", 3, "--hidden", 64, "--resume", status=2)
        assert f"error: --out {tmp_path} is in use by process {run.pid}, which began" in second.stderr
        run.send_signal(signal.SIGINT)
        run.send_signal(signal.SIGCONT)
        _, message = run.communicate(timeout=100)
    assert run.returncode == 130
    assert re.search(r"stopped (in|after) epoch .* kept in .*checkpoint.safetensors.*add --resume", message)
    assert not (tmp_path / "model.safetensors").exists()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1].startswith("1,")
    train(tmp_path, "--epochs", 3, "--hidden", 64, "--no-plots", "--resume")

    def metrics(folder):
        rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
        return [row[:1] + row[2:] for row in rows]

    assert metrics(tmp_path) == metrics(finished[0])
    assert (tmp_path / "model.safetensors").read_bytes() == (finished[0] / "model.safetensors").read_bytes()


def test_the_conditional_example_writes_every_digit_in_each_style(tmp_path):
    process = run(
        "conditional_mnist.py", "--dataset", "sample", "--backend", "numpy", "--epochs", 2, "--hidden", 32,
        "--limit", 3, "--out", tmp_path,  # of which the largest label is not 9
    )  # fmt: skip
    assert re.fullmatch(LAST_LINE, process.stdout.splitlines()[-1])
    assert minivae.load(tmp_path / "model.safetensors").n_classes == 10
    assert {"styles.png", "loss_curves.png"} <= {path.name for path in tmp_path.iterdir()}


def test_the_convolutional_example(tmp_path):
    """With two maps instead of 64 and a hundred images: whether it runs to the end."""
    process = run(
        "conv_mnist.py", "--dataset", "sample", "--backend", "numpy", "--epochs", 1, "--maps", 2, "--limit", 100,
        "--out", tmp_path,
    )  # fmt: skip
    assert re.fullmatch(LAST_LINE, process.stdout.splitlines()[-1])
    assert {"manifold.png", "reconstructions.png", "metrics.csv"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_an_explicit_gpu_is_never_replaced(tmp_path):
    process = train(tmp_path, "--backend", "cupy", status=2)
    assert "CuPy is not installed" in process.stderr and "pip install" in process.stderr


def test_a_damaged_data_file_is_named(tmp_path):
    images = data.load("sample").x_test[:20]
    for stem in ("train", "t10k"):
        data.write_idx(tmp_path / f"{stem}-images-idx3-ubyte", images)
        data.write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", np.arange(20, dtype=np.uint8) % 10)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-100])
    process = train(tmp_path / "out", "--dataset", "mnist", "--data-dir", tmp_path, status=2)
    assert "train-images-idx3-ubyte" in process.stderr


def test_gradcheck_command():
    process = subprocess.run(
        [sys.executable, "-m", "minivae", "gradcheck"], capture_output=True, text=True, env=ENVIRONMENT, timeout=100
    )
    assert process.returncode == 0
    assert "VAE, L = 3" in process.stdout and "FAILED" not in process.stdout


def test_importing_minivae_is_light():
    heavy = "matplotlib", "pooch", "cupy", "scipy", "safetensors", "torch"
    code = f"import sys, minivae; print([m for m in {heavy} if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert process.stdout.strip() == "[]", process.stderr
