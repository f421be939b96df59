"""The true posterior on a grid, and what is fitted to it: against a linear decoder, for which all is known."""

import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from test_examples import ROOT, run

import minivae as mv


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module("true_posterior")


@pytest.fixture
def linear():
    """A VAE whose x is z W + b with noise of width 1, three examples, and their true posteriors.

    p(x) = N(b, W'W + I) and p(z given x) = N(mean, 1 / precision) with precision = I + W W'.
    """
    rng = np.random.default_rng(4)
    vae = mv.VAE([mv.Dense(5, 4)], [mv.Dense(2, 5)], likelihood=mv.Gaussian(1.0), seed=1)
    W, b = rng.standard_normal((2, 5)) + rng.standard_normal(5), rng.standard_normal(5)
    encoder = {"encoder.0.W": 0.1 * vae.parameters["encoder.0.W"], "encoder.0.b": np.array([0, 0, -1, -1])}
    vae.parameters.load(encoder | {"decoder.0.W": W, "decoder.0.b": b})
    x = (rng.standard_normal((3, 2)) @ W + b + rng.standard_normal((3, 5))).astype("f4")
    precision = np.eye(2) + W @ W.T
    log_px = stats.multivariate_normal(b, W.T @ W + np.eye(5)).logpdf(x)
    return vae, x, log_px, np.linalg.solve(precision, W @ (x - b).T).T, precision


class Bar:
    def update(self):
        pass


def test_all_that_is_looked_at_is_that_of_a_linear_decoder(example, linear):
    vae, x, log_px, mean, precision = linear
    points, cell = example.plane(6, 301)
    arguments = SimpleNamespace(seed=0, fit_steps=200, flow_steps=2)
    found, log_posterior, ellipses = example.look(vae, x, points, cell, arguments, Bar())
    # `log_joint` leaves out what does not depend on z; a Bernoulli has no such part, this Gaussian has -1/2 |x|^2.
    np.testing.assert_allclose(found["log_px"] - 0.5 * np.sum(x**2, axis=1), log_px, atol=1e-4)
    for i in range(len(x)):
        true = stats.multivariate_normal(mean[i], np.linalg.inv(precision))
        near = np.abs(points - mean[i]).max(axis=-1) < 1
        np.testing.assert_allclose(log_posterior[near, i], true.logpdf(points[near]), atol=1e-3)

    # KL(N(mu, diagonal) || N(mean, 1 / precision)); least with mu = mean and the precision's diagonal
    def kl(mu, log_var):
        away, var = mu - mean, np.exp(log_var)
        distance = np.einsum("bi,ij,bj->b", away, precision, away)
        spread = var @ np.diag(precision) - 2 - np.log(np.linalg.det(precision)) - np.sum(log_var, axis=1)
        return 0.5 * (distance + spread)

    np.testing.assert_allclose(found["grid_kl"], kl(*vae.encode(x)), atol=1e-3)
    np.testing.assert_allclose(log_px - found["elbo"], kl(*vae.encode(x)), atol=1e-3)
    best = -np.log(np.diag(precision))
    assert kl(mean, best[None]).min() > 0.1  # the two dimensions depend on each other
    np.testing.assert_allclose(log_px - found["gaussian"], kl(mean, best[None]), atol=1e-3)
    for i, (_, q) in enumerate(ellipses):
        np.testing.assert_allclose(q["mu"][0], mean[i], atol=0.01)
        np.testing.assert_allclose(q["log_var"][0], best, atol=0.03)
    assert (np.abs(found["sampled"] - log_px) < 4 * found["error"]).all() and found["error"].max() < 0.05


def test_a_grid_that_is_too_small_is_refused(example, linear):
    vae, x, _, mean, _ = linear
    points, cell = example.plane(np.abs(mean[0]).max(), 101)
    with pytest.raises(mv.MiniVAEError, match="reaches the rim: add --resume and a larger --reach"):
        example.integrate(example.log_joint(vae, x[:1], points)[..., 0], cell)


@pytest.mark.parametrize("flow", [False, True])
def test_the_gradient_of_one_q(example, flow):
    vae = mv.VAE([mv.Dense(5, 4)], [mv.Dense(2, 6), mv.Tanh(), mv.Dense(6, 5)], dtype="float64", seed=3)
    rng = np.random.default_rng(0)
    chain = mv.FlowPosterior([mv.Planar(2)] * 2) if flow else mv.DiagonalGaussian()
    x, q = rng.random((1, 5)), {"mu": rng.standard_normal((1, 2)), "log_var": rng.standard_normal((1, 2))}
    q |= {name: rng.standard_normal(shape) for name, shape in chain.shapes().items()} if flow else {}
    noise = tuple(array.astype("f8") for array in example.nodes(4))
    grads = example.log_weights(vae, x, q, chain, noise[0])[1](noise[1])
    assert set(grads) == set(q)
    for name, values in q.items():
        for at in np.ndindex(values.shape):
            moved = np.zeros(values.shape)
            moved[at] = 1e-5
            up, down = (example.elbo(vae, x, q | {name: values + d}, noise, chain) for d in (moved, -moved))
            assert grads[name][at] == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-8)


def test_it_runs(tmp_path):
    brief = ["--dataset", "sample", "--backend", "numpy", "--limit", 300, "--epochs", 4, 8, "--digits", 2]
    brief += ["--points", 201, "--fit-steps", 20, "--out", tmp_path]
    small = run("true_posterior.py", *brief, "--reach", 2, status=2)
    assert "201 x 201 points, up to 2 on either side" in small.stdout and "add --resume and a larger" in small.stderr
    process = run("true_posterior.py", *brief, "--reach", 14, "--resume")  # with the models that are there
    assert "loss = reconstruction" not in process.stdout
    nats = json.loads((tmp_path / "result.json").read_text())["nats"]
    assert list(nats) == ["4", "8"] and "2 test digits" in process.stdout
    for values in nats.values():
        parts = np.add(values["amortization"], values["approximation"])
        np.testing.assert_allclose(parts, values["gap"], atol=1e-9)
        assert min(values["approximation"]) > -0.01
    assert (tmp_path / "true_posterior.png").stat().st_size > 10_000
    brief[brief.index("--epochs") + 1] = 5
    assert "went past epoch 5: train without" in run("true_posterior.py", *brief, "--resume", status=2).stderr
