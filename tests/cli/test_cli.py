"""The command line, as somebody meets it who has never seen it."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import minivae as mv
from minivae import cli, data
from minivae.cli import main, parser
from minivae.locks import results_folder

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(mv.__file__).parent.parent)}


def succeed(capsys, *words):
    """The command's output."""
    assert main(list(map(str, words))) == 0
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    words = ["train", "--data", "sample", "--limit", "200", "--encoder", "16", "--epochs", "2", "--backend", "numpy"]
    assert main([*words, "--out", str(out)]) == 0
    return out


def test_train_leaves_all_that_one_needs(trained):
    names = {path.name for path in trained.iterdir()}
    assert names >= {"model.safetensors", "checkpoint.safetensors", "metrics.csv", "config.json"}
    assert names >= {"loss_curves.png", "reconstructions.png", "samples.png", "manifold.png", "latent_space.png"}
    assert mv.load(trained / "model.safetensors").parameters["encoder.0.W"].shape == (784, 16)
    head, *rows = (trained / "metrics.csv").read_text().splitlines()
    assert "test_loss" in head and len(rows) == 2
    config = json.loads((trained / "config.json").read_text())
    assert config["epochs"] == "2" and "bundled sample" in config["data"]


def test_patience_chooses_by_examples_held_back_and_tells_the_loss_of_what_is_kept(tmp_path, capsys):
    words = "--data", "sample", "--limit", 200, "--encoder", 16, "--lr", 0.3, "--epochs", 30, "--no-plots"
    out = succeed(capsys, "train", *words, "--backend", "numpy", "--patience", 2, "--out", tmp_path)
    table = np.genfromtxt(tmp_path / "metrics.csv", delimiter=",", names=True)
    assert "val_loss" in table.dtype.names and len(table) < 30 and "val loss" in out and "test loss  " not in out
    losses = mv.load(tmp_path / "model.safetensors").evaluate(data.load("sample", limit=200).x_test)
    told = f"reconstruction {losses.reconstruction:.2f}, KL {losses.kl:.2f}"
    assert f"\ntest loss {losses.loss:.2f} nats ({told}) on sample; " in out


def test_evaluate(trained, capsys):
    words = "--data", "sample", "--limit", 200, "--backend", "numpy", "--log-likelihood", 20
    out = succeed(capsys, "evaluate", trained, *words)
    vae = mv.load(trained / "model.safetensors")
    x = data.load("sample", limit=200).x_test
    losses = vae.evaluate(x)
    assert out.startswith(f"test -ELBO {losses.negative_elbo:.3f} nats (reconstruction {losses.reconstruction:.3f}")
    assert "on sample, 200 examples\n" in out
    assert f"log p(x) {vae.log_likelihood(mv.binarize(x), samples=20):.3f} nats, of pixels drawn as 0 or 1" in out


def test_pixels_drawn_as_black_or_white_in_training_and_in_what_is_told(tmp_path, capsys):
    words = "--data", "sample", "--limit", 200, "--backend", "numpy"
    train = "train", *words, "--encoder", 16, "--epochs", 2, "--no-plots", "--binarize"
    out = succeed(capsys, *train, "static", "--out", tmp_path / "static")
    digits, options = data.load("sample", limit=200), {"optimizer": mv.Adam(1e-3), "validation": None, "verbose": False}
    vae = mv.mlp(784, hidden=(16,), backend="numpy")
    mv.fit(vae, digits.x_train, epochs=2, batch_size=100, binarize="static", **options)
    losses = vae.evaluate(mv.binarize(digits.x_test))
    assert f"\ntest loss {losses.loss:.2f} nats " in out and "on sample, of pixels drawn as 0 or 1; results" in out
    told = succeed(capsys, "evaluate", tmp_path / "static", *words, "--binarize")
    assert told.startswith(f"test -ELBO {losses.negative_elbo:.3f} nats ")
    assert told.endswith("on sample, 200 examples, of pixels drawn as 0 or 1\n")
    assert succeed(capsys, *train, "dynamic", "--out", tmp_path / "dynamic").splitlines()[-1] != out.splitlines()[-1]


def test_sample_reconstruct_explore_info(trained, tmp_path, capsys):
    model = trained / "model.safetensors"
    succeed(capsys, "sample", model, "--n", 7, "--out", tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as arrays:
        np.testing.assert_array_equal(arrays["x"], mv.load(model).sample(7, seed=0))
    succeed(capsys, "sample", model, "--out", tmp_path / "s.png")
    succeed(capsys, "reconstruct", model, "--data", "sample", "--n", 4, "--out", tmp_path / "r.png")
    succeed(capsys, "reconstruct", model, "--data", "sample", "--n", 4, "--out", tmp_path / "r.npz")
    for name in "s.png", "r.png":
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with np.load(tmp_path / "r.npz") as arrays:
        assert arrays["x"].shape == (4, 28, 28) and arrays["reconstruction"].shape == (4, 784)
    succeed(capsys, "explore", model, "--data", "sample", "--limit", 50, "--out", tmp_path / "e.html")
    assert f"{trained.name} on sample" in (tmp_path / "e.html").read_text()
    out = succeed(capsys, "info", trained)
    assert mv.__version__ in out and "encoder.0   Dense" in out and "backend numpy: CPU" in out


@pytest.mark.parametrize("told", [True, False])
def test_info_on_blas(told, capsys, monkeypatch):
    libraries = [
        {"user_api": "blas", "internal_api": "openblas", "version": "0.3", "architecture": "Zen", "num_threads": 3},
        {"user_api": "blas", "internal_api": "mkl", "version": "2026", "num_threads": 1},
        {"user_api": "openmp", "internal_api": "openmp", "version": None, "num_threads": 2},
    ]
    monkeypatch.setattr("threadpoolctl.threadpool_info", lambda: libraries)
    monkeypatch.setattr(cli, "find_spec", lambda name: told or None)
    out = succeed(capsys, "info").splitlines()
    assert [line for line in out if line.startswith("BLAS")] == [
        "BLAS mkl 2026: kernels for any processor, threads: 1",
        "BLAS openblas 0.3: kernels for Zen, threads: 3",
    ] * told


def test_explain_on_a_page(trained, tmp_path, capsys):
    succeed(capsys, "explain", "--page", tmp_path / "p.html", "--weights", trained)
    assert "encoder.0" in (tmp_path / "p.html").read_text()


def test_a_table(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(60, 3))
    rows = [",".join(map(str, row)) + f",{'ab'[i % 2]}" for i, row in enumerate(x)]
    (tmp_path / "t.csv").write_text("\n".join(["u,v,w,class", *rows]))
    words = "--data", tmp_path / "t.csv", "--out", tmp_path / "run", "--epochs", 2, "--encoder", 5, "--backend", "numpy"
    out = succeed(capsys, "train", *words)
    assert "gaussian" in out and "test loss" in out and "on t.csv" in out
    words = (*words[:3], tmp_path / "conditional", *words[4:])
    succeed(capsys, "train", *words, "--conditional", "--likelihood", "predicted-variance")
    assert mv.load(tmp_path / "conditional" / "model.safetensors").n_classes == 2
    pictures = {path.name for path in (tmp_path / "conditional").glob("*.png")}
    assert pictures == {"loss_curves.png", "latent_space.png"}


def test_pictures_of_a_conditional_model_are_told_the_classes(tmp_path, capsys):
    words = "--data", "sample", "--limit", 200, "--epochs", 1, "--encoder", 5, "--backend", "numpy", "--conditional"
    succeed(capsys, "train", *words, "--out", tmp_path)
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    assert pictures == {"loss_curves", "latent_space", "reconstructions", "styles"}
    drawn = [
        ("sample", tmp_path, "--label", 3),
        ("sample", tmp_path, "--label", 4),
        ("reconstruct", tmp_path, "--data", "sample", "--n", 4),
    ]
    for i, words in enumerate(drawn):
        succeed(capsys, *words, "--out", tmp_path / f"{i}.png")
    assert len({(tmp_path / f"{i}.png").read_bytes() for i in range(3)}) == 3


def test_a_folder_of_pictures_and_a_convolutional_network(tmp_path, capsys):
    from PIL import Image

    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 256, (9, 12, 3)).astype("u1")
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    words = "--data", tmp_path, "--color", "--size", "8x10", "--out", tmp_path / "run", "--backend", "numpy"
    succeed(capsys, "train", *words, "--latent", 3, "--conv", "3,4", "--epochs", 1)
    assert mv.load(tmp_path / "run" / "model.safetensors").input_dim == 240


def test_resume(tmp_path, capsys):
    words = ["train", "--data", "sample", "--limit", 60, "--encoder", 8, "--no-plots", "--backend", "numpy"]
    succeed(capsys, *words, "--epochs", 3, "--out", tmp_path / "whole")
    succeed(capsys, *words, "--epochs", 1, "--out", tmp_path / "parts")
    succeed(capsys, *words, "--epochs", 3, "--out", tmp_path / "parts", "--resume")
    whole, parts = (mv.load(tmp_path / name / "model.safetensors").parameters.flat for name in ("whole", "parts"))
    np.testing.assert_array_equal(whole, parts)


def test_a_second_run_does_not_touch_the_results_of_the_first(trained, capsys):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    words = ["train", "--data", "sample", "--limit", "60", "--backend", "numpy", "--out", str(trained)]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --out {trained} has results already") and "add --resume to go on" in line
    with results_folder(trained, ["checkpoint.safetensors"], resume=True):
        assert main([*words, "--resume"]) == 2
    assert "is in use by process" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


@pytest.mark.parametrize(
    "words, what",
    [
        (["train", "--data", "nonsense"], "unknown data set 'nonsense'"),
        (["evaluate", "none.safetensors"], "cannot read none.safetensors"),
        (["train", "--data", "sample", "--latent", "0"], "latent should be"),
        (["train", "--data", "sample", "--limit", "40", "--epochs", "0"], "epochs should be an integer of at least 1"),
    ],
)
def test_bad_input_is_one_line(words, what, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--backend", "numpy"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and what in line


@pytest.mark.parametrize(
    "words, what",
    [
        ("train --data sample --limit 9 --size 14x14", "size and color are for a folder of pictures"),
        ("train --data sample --limit 9 --data-dir nosuch", "--data-dir is for data sets that lie in a folder"),
        ("evaluate MODEL --data sample --log-likelihood 0", "--log-likelihood should be an integer of at least 1"),
        ("explain --page p.html --model mnist", "--page shows .*: leave out --engine and --model"),
        ("explain --page p.html --engine numpy", "--page shows .*: leave out --engine and --model"),
        ("explain --weights MODEL", "--weights is for a page: give --page"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(trained, words, what, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(trained) if word == "MODEL" else word for word in words.split()]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and re.search(what, line)


@pytest.mark.parametrize(
    "words, what",
    [
        ("sample conditional --out s.npz", "the model is conditional: give --label, a class from 0 to 9"),
        ("sample conditional --out s.png", "the model is conditional: give --label, a class from 0 to 9"),
        ("sample table --label 3 --out s.png", "not conditional: leave --label out"),
        ("sample table --out s.png", "20 values are no image: give --shape, or --out a name that ends in .npz"),
        ("sample table --shape 7x3 --out s.png", "20 values are no image of shape 7x3: give --shape"),
        ("sample table --shape 4x5 --out s.npz", "--shape is for a picture: leave it out, or give --out"),
        ("reconstruct conditional --data x.npy --out r.png", "conditional, and x.npy has no classes to tell it"),
        ("reconstruct conditional --data x.npy --out r.npz", "conditional, and x.npy has no classes to tell it"),
        ("reconstruct table --data x.npy --out r.png", "20 values are no image of shape 20: give --out a name that"),
        ("reconstruct table --data x.npy --n -1 --out r.npz", "--n should be an integer of at least 1, got -1"),
        ("train --data sample --limit 3 --patience 2", "--patience holds a tenth .* back, and there are only 3"),
    ],
)
def test_errors_speak_of_what_one_can_give_here(words, what, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mv.VAE, "sample", None)  # which would only take time
    mv.mlp(784, hidden=(3,), n_classes=10).save("conditional")
    mv.mlp(20, hidden=(3,)).save("table")
    np.save("x.npy", np.zeros((20, 20)))
    assert main(words.split()) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and re.search(what, line)
    assert not {"s.png", "s.npz", "r.png", "r.npz"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "MODEL", "--data", "sample"],
        ["sample", "MODEL", "--out", "s.npz"],
        ["info", "MODEL"],
        ["explain", "--weights", "MODEL", "--page", "step.html"],
        ["train", "--data", "x.npy"],
    ],
    ids=lambda words: words[0],
)
def test_a_large_file_is_refused_unless_that_is_allowed(trained, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((300, 40), np.float32))
    words = [str(trained / "model.safetensors") if word == "MODEL" else word for word in words]
    assert main([*words, "--max-bytes", "40000"]) == 2
    assert "the limit is 40,000: if you trust it, give more as max_bytes (--max-bytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, what",
    [
        (["train", "--encoder", "wide"], "--encoder: expected integers such as 512,256, got 'wide'"),
        (["train", "--size", "28"], "--size: expected a height and a width such as 32x32, got '28'"),
        (["sample", "m.safetensors", "--shape", "ax3"], "--shape: expected integers such as 28x28, got 'ax3'"),
        (["sample", "m", "--out", "s.npy"], "--out: expected a name that ends in .png or .npz, got 's.npy'"),
        (["reconstruct", "m", "--out", "r.NPZ"], "--out: expected a name that ends in .png or .npz, got 'r.NPZ'"),
        (["train", "--conv", "4", "--encoder", "7,7"], "--encoder: not allowed with argument --conv"),
    ],
)
def test_an_option_says_what_it_expects(words, what, capsys):
    with pytest.raises(SystemExit):
        main(words)
    assert what in capsys.readouterr().err


def test_a_warning_is_one_line(monkeypatch, capsys):
    def info(arguments):
        warnings.simplefilter("always")
        warnings.warn("the sample stands in", mv.MiniVAEWarning, stacklevel=1)

    monkeypatch.setattr(cli, "info", info)
    before = warnings.showwarning
    assert main(["info"]) == 0
    assert capsys.readouterr().err == "warning: the sample stands in\n" and warnings.showwarning is before


def test_every_option_has_a_sentence_and_every_command_is_listed():
    (commands,) = (action for action in parser()._actions if hasattr(action, "choices") and action.choices)
    names = {"train", "evaluate", "sample", "reconstruct", "explore", "explain", "gradcheck", "info"}
    assert set(commands.choices) == names
    for each in commands.choices.values():
        for action in each._actions:
            assert action.help and len(action.help) > 5, action


def test_a_reader_that_has_seen_enough(trained):
    command = [sys.executable, "-m", "minivae", "explain", "--model", "mnist"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as run:
        run.stdout.readline()
        run.stdout.close()
        assert run.wait(60) == 0 and run.stderr.read() == b""


def test_a_training_goes_on_to_its_end_when_its_reader_has_gone(tmp_path, monkeypatch):
    """Otherwise `minivae train | head` would leave no model, and a script would not see it."""
    reader, writer = os.pipe()
    os.close(reader)
    words = ["train", "--data", "sample", "--limit", "60", "--encoder", "8", "--no-plots", "--backend", "numpy"]
    with open(writer, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        assert main([*words, "--epochs", "3", "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 1 + 3
