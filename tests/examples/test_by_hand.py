"""The page that has it all: it computes what the framework computes, and it trains."""

import ast
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import minivae as mv
from minivae import data

PAGE = Path(__file__).parents[2] / "examples" / "by_hand.py"


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("by_hand", PAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def framework_model(p):
    """The framework's model with the weights of the page."""
    n_pixels, hidden = p[0].shape
    vae = mv.VAE(
        [mv.Dense(n_pixels, hidden), mv.ReLU(), mv.Dense(hidden, 4)],
        [mv.Dense(2, hidden), mv.ReLU(), mv.Dense(hidden, n_pixels)],
        dtype="float64",
    )
    vae.parameters.load(dict(zip(vae.parameters, p, strict=True)))
    return vae


def initial(page, rng, n_pixels=20):
    """The page's own initial weights, with biases that are not 0."""
    return [w if w.ndim == 2 else rng.standard_normal(w.shape) for w in page.initial(rng, n_pixels)]


def assert_close(a, b):
    assert np.abs(a - b).max() <= 1e-12 * np.abs(b).max()


def test_losses_and_gradients_are_those_of_the_framework(page):
    rng = np.random.default_rng(0)
    p = initial(page, rng)
    x, eps = rng.random((7, 20)), rng.standard_normal((7, 2))
    (reconstruction, kl), dp = page.losses_and_gradients(p, x, eps)
    vae = framework_model(p)
    losses = vae.loss_and_gradients(x, eps)
    assert (reconstruction, kl) == pytest.approx((losses.reconstruction, losses.kl), rel=1e-12)
    for (name, theirs), ours in zip(vae.gradients.items(), dp, strict=True):
        assert np.abs(theirs).max() > 0, name
        assert_close(ours, theirs)


def test_the_update_is_that_of_the_framework(page):
    rng = np.random.default_rng(1)
    p = initial(page, rng)
    vae, optimizer, means = framework_model(p), mv.RMSprop(page.LR), [np.zeros_like(w) for w in p]
    weights = vae.parameters.flat
    state = {"lr": np.full(1, page.LR)} | optimizer.fresh_state(weights)
    for _ in range(3):
        x, eps = rng.random((7, 20)), rng.standard_normal((7, 2))
        _, dp = page.losses_and_gradients(p, x, eps)
        page.update(p, dp, means)
        vae.loss_and_gradients(x, eps)
        weights[...], state = optimizer.update(vae.gradients.flat, weights, state)
    assert_close(np.concatenate([w.ravel() for w in p]), weights)


def test_it_trains_and_draws_what_it_has_learnt(page, capsys, tmp_path):
    digits = data.load("sample", limit=1000)
    x, rng = digits.x_train.reshape(-1, 784) / 255, np.random.default_rng(0)
    p = page.initial(rng, 784)
    page.train(p, x, rng, epochs=4)
    losses = [float(line.split()[2]) for line in capsys.readouterr().out.splitlines()]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 240 < losses[0]
    figure = page.picture(p, x[:100], digits.y_train[:100], n=5)
    digits_drawn, images = figure.axes[0].texts, figure.axes[1].images[0].get_array()
    mu = page.encode(p, x[:100])[1]
    np.testing.assert_array_equal([text.get_position() for text in digits_drawn], mu)
    assert [text.get_text() for text in digits_drawn] == list(map(str, digits.y_train[:100]))
    middle = -(np.abs(mu).max() + 0.1) * 4 / 5  # of the cell at the bottom on the left, one of five
    bottom_left = page.sigmoid(page.decode(p, np.array([[middle, middle]]))[1])
    np.testing.assert_allclose(images[-28:, :28], bottom_left.reshape(28, 28), rtol=1e-9)
    figure.savefig(tmp_path / "picture.png")


def test_it_needs_nothing_of_minivae_but_the_digits():
    imports = [node for node in ast.walk(ast.parse(PAGE.read_text())) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {ast.unparse(node) for node in imports if "minivae" in ast.unparse(node)} == {"from minivae import data"}
