"""The examples on importance weighting, flows and anomalies, run as a user runs them, as briefly as they can be."""

import csv
import json

import pytest
from test_examples import run

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


def test_priors(tmp_path):
    process = run("priors.py", *BRIEF, "--epochs", 1, "--nll-samples", 10, "--nll-images", 60, "--out", tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result) == 4 and all(-784 < each["log_px"] < 0 for each in result.values())
    assert all(f"{name}: log p(x) {each['log_px']:.2f} nats" in process.stdout for name, each in result.items())
    assert (tmp_path / "priors.png").stat().st_size > 10_000 and (tmp_path / "flow.safetensors").exists()


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
    assert list(result)[:3] == ["other test images", "reconstructions", "standard normal"] and len(result) == 8
    assert all(f"{each['frechet']:8.2f} {each['precision']:9.3f}" in process.stdout for each in result.values())
    real, drawn = result["other test images"], result["standard normal"]
    assert real["frechet"] < drawn["frechet"] and real["nearest"] == pytest.approx(1, abs=0.2)
    assert real["precision"] > 0.7 and real["recall"] > 0.7 > drawn["recall"]
    assert [name for name, each in result.items() if each["as told"] is not None] == ["with classes"]
    assert (tmp_path / "sample_quality.png").stat().st_size > 10_000
