"""The examples on importance weighting, flows and anomalies, run as a user runs them, as briefly as they can be."""

import csv
import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from test_examples import ROOT, run

import minivae as mv
from minivae import data

BRIEF = ["--dataset", "sample", "--backend", "numpy", "--limit", 200]


@pytest.mark.parametrize("bound", ["vae", "iwae"])
def test_iwae_mnist(bound, tmp_path):
    brief = [*BRIEF, "--k", 2, "--stages", 2, "--growth", 1, "--nll-samples", 10]
    lines = run("iwae_mnist.py", *brief, "--bound", bound, "--out", tmp_path).stdout.splitlines()
    assert "SHORTENED schedule: 2 epochs (published: 3,280)" in lines
    result = json.loads((tmp_path / "result.json").read_text())
    assert lines[-1].startswith(f"test NLL {result['test_nll']:.2f} nats (10 samples)")
    assert result["epochs"] == 2 and 100 < result["test_nll"] < 300 and 0 <= result["active_units"] <= 50


@pytest.mark.parametrize("arm", ["standard", "vampprior", "two-layers", "two-vampprior"])
def test_ladder(arm, tmp_path):
    """Each rung, stopped after two epochs and resumed; one row for each finished run, which says how it ended."""
    brief = [
        "ladder.py",
        *BRIEF,
        "--arm",
        arm,
        "--nll-samples",
        10,
        "--nll-images",
        20,
        "--components",
        3,
        "--no-plots",
    ]
    run(*brief, "--epochs", 2, "--out", tmp_path)
    lines = run(*brief, "--epochs", 3, "--out", tmp_path, "--resume").stdout.splitlines()
    with open(tmp_path / "ladder.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["epochs"], first["ended"]) == ("2", "--epochs 2") and "ladder.py --dataset sample" in first["command"]
    assert (second["epochs"], second["arm"], second["nll_images"]) == ("3", arm, "20")
    assert second["data"] == "the bundled sample, first 200 only" and second["binarize"] == "dynamic"
    assert -784 < float(second["elbo"]) < float(second["log_px"]) < 0
    assert f"log p(x) {float(second['log_px']):.2f} nats (10 draws, 20 images)" in lines[-1]
    assert "ended by --epochs 3" in lines[-2]
    assert (tmp_path / f"sample-dynamic-{arm}-seed0" / "model.safetensors").exists()


def test_ladder_with_unit_gradients(tmp_path, monkeypatch):
    """Each array's gradient has the length 1 when Adam sees it; such a run goes on where it was stopped, too."""
    brief = ["ladder.py", *BRIEF, "--unit-gradients", "--nll-samples", 2, "--nll-images", 5, "--no-plots"]
    run(*brief, "--epochs", 1, "--out", tmp_path)
    run(*brief, "--epochs", 2, "--out", tmp_path, "--resume")
    assert (tmp_path / "sample-dynamic-standard-unit-gradients-seed0" / "model.safetensors").exists()
    monkeypatch.syspath_prepend(ROOT / "examples")
    ladder = importlib.import_module("ladder")
    g, p = np.array([3.0, -4, 5, 0, 12]), np.zeros(5)
    updated, _ = ladder.UnitGradients(mv.SGD(1.0), [2, 3]).update(g, p, {"lr": np.ones(1)})
    np.testing.assert_allclose(-updated, [0.6, -0.8, 5 / 13, 0, 12 / 13], rtol=1e-6)


def test_priors(tmp_path):
    process = run("priors.py", *BRIEF, "--epochs", 1, "--nll-samples", 10, "--nll-images", 60, "--out", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result) == 4 and all(-784 < each["log_px"] < 0 for each in result.values())
    assert all(f"{name}: log p(x) {each['log_px']:.2f} nats" in process.stdout for name, each in result.items())
    assert (tmp_path / "priors.png").stat().st_size > 10_000 and (tmp_path / "flow.safetensors").exists()


def test_info_vae(tmp_path):
    process = run("info_vae.py", *BRIEF, "--epochs", 1, "--out", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result) == 4 and all(each["reconstruction"] > 0 and -0.1 < each["mmd"] < 2 for each in result.values())
    assert f"VAE: reconstruction {result['VAE']['reconstruction']:.4g}, mmd" in process.stdout
    assert (tmp_path / "info_vae.png").stat().st_size > 10_000


def test_disentangle(tmp_path):
    process = run(
        "disentangle.py", "--limit", 150, "--seeds", 1, "--epochs", 1, "--backend", "numpy", "--out", tmp_path
    )
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result) == 3
    for name, (row,) in result.items():
        parts = row["mutual_information"] + row["total_correlation"] + row["dimension_wise"]
        assert parts == pytest.approx(row["kl"], abs=0.2) and 0 <= row["mig"] <= 1
        assert f"{name}: MIG {row['mig']:.2f} on average" in process.stdout
    assert (tmp_path / "disentangle.png").stat().st_size > 10_000


def test_sprites(tmp_path):
    process = run("sprites.py", "--out", tmp_path / "sprites")
    assert process.stdout.endswith(f"in {tmp_path / 'sprites'}\n")
    assert "2304 pictures of 3 of shape, 3 of size, 4 of rotation, 8 of column, 8 of row" in process.stdout
    with np.load(tmp_path / "sprites") as made:
        x, factors = made["x"].astype(float), made["factors"]
    assert len(np.unique(factors, axis=0)) == len(np.unique(x, axis=0)) == 2304  # no two look alike
    down, across = ((x.sum(axis=axis) @ np.arange(24.0)) / x.sum(axis=(1, 2)) for axis in (2, 1))
    for place, factor in ((across, 3), (down, 4)):
        assert [place[factors[:, factor] == k].mean() for k in range(8)] == pytest.approx(
            6.5 + np.arange(8) * 10 / 7, abs=0.3
        )
    assert (np.diff([x[factors[:, 1] == k].mean() for k in range(3)]) > 0).all()


def test_discrete(tmp_path):
    brief = [*BRIEF, "--limit", 20, "--epochs", 1, "--nll-samples", 10]  # fewer than the figure has room for
    process = run("discrete.py", *brief, "--out", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result) == 3 and all(-784 < each["elbo"] < 0 for each in result.values())
    used = result["VQ-VAE, 8 of 128"]
    assert 1 <= used["perplexity"] <= used["entries_used"] <= 128 and "perplexity" in process.stdout
    assert (tmp_path / "discrete.png").stat().st_size > 10_000 and (tmp_path / "vq-vae.safetensors").exists()


def test_avb_on_four_points(tmp_path):
    process = run("avb.py", "--backend", "numpy", "--epochs", 2, "--draws", 10_000, "--out", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    gaussians = result.pop("gaussians")
    assert [row["seed"] for row in gaussians] == [0, 1, 2] * 4 and "0.8, adaptive, seed 2 " in process.stdout
    std = np.exp(np.array([-2.0, 0.2]) / 2)  # of the second, whose KL is that of its mean and covariance
    for row in gaussians:
        covariance = np.array([[1, row["correlation"]], [row["correlation"], 1]]) * std * std[:, None]
        exact = (0.5**2 + 0.9**2 + np.trace(covariance) - 2 - np.linalg.slogdet(covariance)[1]) / 2
        assert row["exact"][1] == pytest.approx(exact, abs=1e-3)
        errors = 100 * (np.array(row["estimate"]) / row["exact"] - 1)
        np.testing.assert_allclose(row["error_percent"], errors, atol=0.2)
    assert result.keys() == {"gaussian", "implicit", "adaptive"}
    gaussian = result["gaussian"]  # whose KL is known, and its bound true
    assert gaussian["kl_counted"] == pytest.approx(gaussian["kl"], abs=0.1)
    assert gaussian["elbo"] < gaussian["log_px"] < -1.386
    for name, each in result.items():
        assert each["elbo"] == pytest.approx(-each["reconstruction"] - each["kl"], abs=1e-3)
        assert each["elbo_counted"] < each["log_px"] + 0.05 and f"{name}: log_px {each['log_px']:.3f}" in process.stdout
    assert (tmp_path / "posteriors.png").stat().st_size > 10_000 and (tmp_path / "adaptive.safetensors").exists()


@pytest.mark.slow
def test_avb_shares_the_plane_out_and_its_discriminator_follows(tmp_path):
    """Above what Gaussians reach, -1.57; the KL, of a q that still moves, near what counting draws gives."""
    run("avb.py", "--backend", "numpy", "--epochs", 300, "--posteriors", "implicit", "adaptive", "--out", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    for row in result.pop("gaussians"):
        assert np.abs(row["error_percent"]).max() < 10
    for each in result.values():
        assert each["log_px"] > -1.45 and each["kl"] == pytest.approx(each["kl_counted"], rel=0.15)


def test_avb_on_digits(tmp_path):
    brief = [*BRIEF, "--latent-dim", 3, "--epochs", 1, "--nll-samples", 10, "--nll-images", 60, "--no-plots"]
    process = run("avb.py", *brief, "--posteriors", "gaussian", "adaptive", "--out", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    gaussian = result.pop("gaussian")  # whose KL is that of its draws' mean and covariance
    assert gaussian["kl_of_those_at_least"] == pytest.approx(gaussian["kl_of_those"], rel=0.02)
    with open(tmp_path / "metrics-adaptive.csv") as file:
        (row,) = csv.DictReader(file)
    assert float(row["test_kl"]) == pytest.approx(result["adaptive"]["kl"], rel=0.05)
    assert result.keys() == {"adaptive"} and -784 < result["adaptive"]["log_px"] < 0
    assert f"adaptive: log p(x) {result['adaptive']['log_px']:.2f} nats (10 draws, 60 images" in process.stdout


def test_compress(tmp_path):
    pytest.importorskip("constriction")
    brief = ["compress.py", "--dataset", "sample", "--backend", "numpy", "--epochs", 1, "--out", tmp_path]
    process = run(*brief)
    result = json.loads((tmp_path / "result.json").read_text())
    assert "1000 binarized test images of the bundled sample restored exactly" in process.stdout
    assert result["bits back"] == pytest.approx(result["-ELBO"], rel=0.01)
    assert result["gzip"] < result["as they are"] == 784
    mv.mlp(784, likelihood=mv.Gaussian()).save(tmp_path / "other.safetensors")
    refused = run(*brief[:-1], tmp_path / "again", "--model", tmp_path / "other.safetensors", status=2)
    assert "should be a VAE of Bernoulli pixels" in refused.stderr


def test_compressed_images_come_back_with_the_words_before_them(monkeypatch):
    """In batches of which the last is smaller, by a model that knows nothing of them."""
    pytest.importorskip("constriction")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    compress = importlib.import_module("compress")
    vae = mv.mlp(12, latent=2, hidden=(8,))
    x = np.random.default_rng(0).integers(0, 2, (23, 12), np.uint8)
    words, n_start = compress.compress(vae, x, 5)
    restored, before = compress.restore(vae, words, 23, 5)
    np.testing.assert_array_equal(restored, x)
    np.testing.assert_array_equal(before, np.random.default_rng(0).integers(1, 1 << 32, n_start, np.uint32))


@pytest.mark.parametrize("posterior", ["mean-field", "flow"])
def test_deep_latent(posterior, tmp_path):
    brief = [*BRIEF, "--epochs", 2, "--nll-samples", 10]
    run("deep_latent.py", *brief, "--posterior", posterior, "--out", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["steps"] == 4 and result["test_elbo"] < result["test_log_px"] < 0


def test_flow_posterior(tmp_path):
    run("flow_posterior.py", "--epochs", 6, "--steps", 4, "--seed", 4, "--out", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    exact, gaussian, flow = result["exact_log_px"], result["diagonal Gaussian"], result["4 planar steps"]
    assert gaussian["elbo"] < exact - 0.5 and exact - 0.4 < flow["elbo"] < exact + 0.02
    assert flow["log_px"] == pytest.approx(exact, abs=0.05)
    assert (tmp_path / "flow_posterior.png").stat().st_size > 10_000


def test_anomalies(tmp_path):
    """On the smallest table, where each detector finds the classes that it never saw."""
    pytest.importorskip("sklearn.base")
    process = run("anomalies.py", "--tables", "wine", "--seeds", 1, "--out", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())["wine"]
    assert len(result) == 4 and all(f"{area['mean']:.3f}" in process.stdout for area in result.values())
    assert all(0.8 < area["mean"] < 1 for area in result.values())
    assert len(result["VAE"]["classes"]) == 3 and min(result["VAE"]["classes"]) > 0.85


def test_imputation(tmp_path):
    """On the smallest table, briefly trained."""
    pytest.importorskip("sklearn.base")
    brief = ["--tables", "iris", "--shares", 0.3, "--seeds", 1, "--epochs", 60, "--samples", 100, "--no-plots"]
    process = run("imputation.py", *brief, "--out", tmp_path)
    result = {each["imputer"]: each for each in json.loads((tmp_path / "result.json").read_text())}
    assert list(result) == ["mean", "nearest neighbours", "iterative", "VAE"] and "iris, 30% missing" in process.stdout
    mean, vae = result["mean"], result["VAE"]
    assert all(0.9 < error < 1.1 for error in mean["errors"]) and all(right < 0.6 for right in mean["right"])
    assert all(error < 0.85 for error in vae["errors"]) and all(right > 0.6 for right in vae["right"])


def test_sample_quality(tmp_path):
    pytest.importorskip("sklearn.mixture")
    brief = ["--dataset", "sample", "--backend", "numpy", "--limit", 600, "--epochs", 1, "--components", 2]
    process = run("sample_quality.py", *brief, "--images", 200, "--classifier-epochs", 8, "--out", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result.pop("classifier") > 0.7 and result.pop("nearest of test images") > 0
    assert list(result)[:3] == ["other test images", "reconstructions", "standard normal"] and len(result) == 9
    assert all(f"{each['frechet']:8.2f} {each['precision']:9.3f}" in process.stdout for each in result.values())
    real, drawn = result["other test images"], result["standard normal"]
    assert real["frechet"] < drawn["frechet"] and real["nearest"] == pytest.approx(1, abs=0.2)
    assert real["precision"] > 0.7 and real["recall"] > 0.7 > drawn["recall"]
    told = [name for name, each in result.items() if each["as told"] is not None]
    assert told == ["with classes", "its reconstructions"]
    assert (tmp_path / "sample_quality.png").stat().st_size > 10_000


def test_sample_quality_of_one_component_and_few_images(monkeypatch):
    """The two mixtures are one then; with untrained models."""
    pytest.importorskip("sklearn.mixture")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    example, dataset = importlib.import_module("sample_quality"), data.load("sample", limit=30)
    monkeypatch.setattr(mv, "fit", lambda *_, **__: None)
    arguments = SimpleNamespace(components=1, dtype="float32", seed=0, epochs=1)
    arms = [(name, images) for name, images, _ in example.draws(arguments, "numpy", dataset, 5)]
    assert [name for name, _ in arms].count("its codes, 1 Gaussian") == 1 and len(arms) == 8
    figure = example.draw(dict(arms), dataset.x_train.reshape(30, 784) / 255)
    assert len(figure.axes) == 8 * 2 * 5
