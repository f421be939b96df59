"""The page on one step of training: its numbers are NumPy's, and what it says of them is so."""

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import minivae as mv
from minivae import data
from minivae.engine.convolution import Axis, Windows, correlate
from minivae.views.explore import explore
from minivae.views.one_step import _met, one_step

node, chromium = shutil.which("node"), shutil.which("chromium")
PACKAGE = Path(mv.__file__).parent


@pytest.fixture(scope="module")
def digit():
    return data.load("sample", limit=5).x_test[3]


def networks(latent=2, classes=0, n_stats=None):
    encoder = [mv.Dense(784 + classes, 9), mv.ReLU(), mv.Dense(9, n_stats or 2 * latent)]
    return encoder, [mv.Dense(latent + classes, 9), mv.Tanh(), mv.Dense(9, 784)]


def convolutional():
    encoder = [mv.Reshape((28, 28, 1)), mv.Conv2d(1, 3, 3, stride=2), mv.ReLU(), mv.Flatten(), mv.Dense(507, 6)]
    return encoder, [mv.Dense(3, 98), mv.Reshape((7, 7, 2)), mv.ConvTranspose2d(2, 1, 4, stride=4), mv.Flatten()]


MODELS = {
    "ELBO": (networks(), {"beta": 0.7}),
    "float64, Gaussian": (networks(), {"dtype": "float64", "likelihood": mv.Gaussian(1.0)}),
    "importance-weighted": (networks(), {"bound": mv.ImportanceWeighted()}),
    "flow": (networks(n_stats=6), {"posterior": mv.FlowPosterior([mv.InverseAutoregressive(2, 4, context=2)])}),
    "conditional": (networks(classes=10), {"n_classes": 10}),
    "convolutional": (convolutional(), {}),
    "free bits": (networks(), {"free_bits": 0.3}),
    "VampPrior": (networks(), {"prior": mv.VampPrior(2, 784, 5)}),
    "VampPrior, convolutional": (convolutional(), {"prior": mv.VampPrior(3, 784, 4)}),
}


def page_of(name, digit, **options):
    vae = mv.VAE(*MODELS[name][0], seed=3, **MODELS[name][1])
    return vae, one_step(vae, digit, y=[4] if vae.n_classes else None, **options)


def program_of(page):
    return re.findall(r"<script>\n(.*?)</script>", page, re.S)[0]


def facts_of(page):
    return json.loads(re.search(r"^const page = (.*);$", page, re.M)[1])


def in_browser(page, tmp_path):
    """The page's elements, once it has drawn itself; asserts that it complains of nothing."""
    (tmp_path / "page.html").write_text(page)
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += ["--virtual-time-budget=3000", f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path}/page.html"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "CONSOLE" not in out.stderr
    return out.stdout


@pytest.mark.skipif(node is None, reason="needs Node")
@pytest.mark.parametrize("name", MODELS)
def test_numbers_are_those_of_numpy(name, digit, tmp_path):
    """At first, and again with another pixel, other noise and another beta; gradients and the update as well."""
    vae, page = page_of(name, digit, optimizer=mv.Adam(1e-2), seed=5)
    (tmp_path / "page.js").write_text(
        f"{program_of(page)}\n"
        "const told = () => console.log([...step.arrays.losses, ...step.arrays.gradients].join(' '));\n"
        "step.run(); told(); console.log([...step.arrays['new parameters']].join(' '));\n"
        "step.arrays.x[300] = 1; step.arrays.eps[0] = -2.5; step.arrays.beta[0] = 3; step.run(); told();"
    )
    out = subprocess.run([node, tmp_path / "page.js"], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    first, updated, second = (np.array(line.split(), "f8") for line in out.stdout.splitlines())
    x, y = digit.reshape(1, -1) / 255, [4] if vae.n_classes else None
    eps = np.random.default_rng(5).standard_normal((1, 1, vae.latent_dim))

    def expected():
        arrays = x.astype(vae.dtype), eps.astype(vae.dtype), vae.beta_array, vae._one_hot(vae.labels.check(y, 1))
        return np.concatenate([part.ravel() for part in vae.forward_and_backward(vae._params, *arrays)])

    expectation = expected()
    np.testing.assert_allclose(first, expectation, 1e-5, 1e-5)
    adam = mv.Adam(1e-2)
    p = vae.parameters.flat
    state = adam.fresh_state(p) | {"lr": np.array([1e-2], vae.dtype)}
    step = np.abs(expectation[3:]) > 1e-4  # where Adam's first step does not hang on the rounding of the gradient
    new, _ = adam.update(expectation[3:].astype(vae.dtype), p, state)
    np.testing.assert_allclose(updated[step], new[step], 1e-4, 1e-6)
    x[0, 300], eps[0, 0, 0], vae.beta = 1, -2.5, 3.0
    np.testing.assert_allclose(second, expected(), 1e-5, 2e-5)


@pytest.mark.skipif(node is None, reason="needs Node")
def test_many_weights_are_rounded_to_16_bits(digit, tmp_path, monkeypatch):
    """The page says so, and its losses are those of the rounded weights."""
    monkeypatch.setattr("minivae.views.one_step.MOST_WEIGHTS", 1000)
    vae, page = page_of("ELBO", digit, seed=5)
    assert "rounded to 16 bits" in page
    (tmp_path / "page.js").write_text(
        f"{program_of(page)}\nstep.run(); console.log([...step.arrays.losses].join(' '));"
    )
    out = subprocess.run([node, tmp_path / "page.js"], capture_output=True, text=True, check=True).stdout
    vae.parameters.flat[...] = vae.parameters.flat.astype("f2")
    losses = vae.loss_and_gradients(digit.reshape(1, -1), np.random.default_rng(5).standard_normal((1, 1, 2)))
    np.testing.assert_allclose(float(out.split()[0]), losses.loss, 1e-6)


def test_a_convolutional_model_makes_a_page_below_3_megabytes(digit):
    page = one_step(mv.convnet((28, 28)), digit)
    assert len(page.encode()) < 3e6 and "rounded to 16 bits" in page


@pytest.mark.parametrize("name", MODELS)
def test_what_is_said_of_operations(name, digit):
    vae, page = page_of(name, digit)
    stages = facts_of(page)["stages"]
    encoder, decoder = ([f"{n}.{i}" for i in range(len(getattr(vae, n).layers))] for n in ("encoder", "decoder"))
    of_u = ["pseudo-inputs", *(f"{name} of u" for name in encoder)] if vae.prior.n_inputs else []
    prior = [] if vae.analytic else [*of_u, "prior"]
    names = [*encoder, "posterior", *prior, *decoder, "likelihood", "bound", "update"]
    assert [stage["name"] for stage in stages] == names
    sources = {path.name: path.read_text().splitlines() for path in PACKAGE.glob("[mz]o[do]*/*.py")}
    known = set(vae.parameters) | {"x", "y", "eps", "beta", "constant", "optimizer.lr", "optimizer.w", "parameters"}
    for stage in stages:
        for operation in stage["forward"] + stage["backward"]:
            assert sources[operation["file"]][operation["line"] - 1].strip() == operation["text"]
            for text in operation["inputs"]:
                assert text in known or re.match(r"%\d+|-?[\d.]", text), text
            if stage["name"] != "update":  # its line is in the sources that are shown
                lines = {(f["file"], number) for f in stage["functions"] for number, _ in f["source"]}
                assert (operation["file"], operation["line"]) in lines


@pytest.mark.parametrize("way", ["convolution", "adjoint"])
def test_the_products_of_a_convolution_add_up_to_its_value(way):
    down, across = (getattr(Axis(large, small, 3, stride, 1), way)() for large, small, stride in ((7, 4, 2), (6, 6, 1)))
    source, size = ((7, 6), (4, 6)) if way == "convolution" else ((4, 6), (7, 6))
    windows, rng = Windows(down, across, size, 3), np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, *source, 2)), rng.normal(size=(3, 3, 2, 3))
    rows, columns = _met(SimpleNamespace(settings=(windows,), inputs=(x, kernel)))
    y = np.zeros((1, *size, 3))
    for i, j in np.ndindex(size):
        for (row, k), (column, part) in itertools.product(rows[i], columns[j]):
            y[0, i, j] += x[0, row, column] @ kernel[k, part]
    np.testing.assert_allclose(y, correlate(x, kernel, windows))


def test_gradients_stand_beside_their_values(digit):
    """Of the same shape, from part to part: what one gives is what the one before takes."""
    _, page = page_of("ELBO", digit)
    stages = {stage["name"]: stage for stage in facts_of(page)["stages"]}
    for name, after in (("encoder.0", "encoder.1"), ("encoder.1", "encoder.2"), ("decoder.0", "decoder.1")):
        assert stages[name]["gives"]["y"] == stages[after]["given"]["x"]
        assert stages[name]["given_back"]["dy"] == stages[after]["gives_back"]["dx"]
        assert stages[name]["given_back"]["dy"]["shape"] == stages[name]["gives"]["y"]["shape"]
    assert stages["encoder.0"]["gives_back"]["dx"] is None
    assert stages["decoder.0"]["gives_back"]["dW"]["shape"] == [2, 9]
    assert stages["likelihood"]["given_back"]["dlog_px"] == {"constant": -1.0, "shape": [1, 1]}


@pytest.mark.skipif(node is None, reason="needs Node")
def test_the_encoders_two_passes_have_a_gradient_each(digit, tmp_path):
    """Of x, and of the prior's pseudo-inputs; the sum is the gradient of its weights."""
    vae, page = page_of("VampPrior", digit)
    (tmp_path / "page.js").write_text(
        f"{program_of(page)}\nstep.run();\n"
        "for (const {name, gives_back: {dW}} of page.stages) if (name.startsWith('encoder.0'))\n"
        "    console.log([...step[dW.view].subarray(dW.first, dW.first + 784 * 9)].join(' '));\n"
        "console.log([...step.arrays.gradients].join(' '));"
    )
    out = subprocess.run([node, tmp_path / "page.js"], capture_output=True, text=True, check=True).stdout
    of_x, of_u, gradients = (np.array(line.split(), "f8") for line in out.splitlines())
    np.testing.assert_allclose(of_x + of_u, vae.parameters.named(gradients)["encoder.0.W"].ravel(), 1e-5, 1e-7)
    assert np.abs(of_u).max() > 1e-4 and (of_x.reshape(784, 9)[digit.ravel() == 0] == 0).all()


def test_bad_input(digit):
    vae = mv.VAE(*networks(), likelihood=mv.Gaussian(1.0))
    with pytest.raises(mv.MiniVAEError, match="x should lie in 0 .. 1"):
        one_step(vae, digit.astype("f4"))


PRODUCTS = """
const apart = walk.flatMap(({operation}) => {
    const index = indexOf(operation, largestOf(operation)), [a, b] = operation.operands, value = at(operation, index);
    const sum = productsOf(operation, index)?.reduce((sum, [i, j]) => sum + at(a, i) * at(b, j), 0);
    return sum === undefined ? [] : [Math.abs(sum - value) / (Math.abs(value) + 1e-6)];
});
document.title = `${apart.length} ${Math.max(...apart)}`;
"""


@pytest.mark.skipif(chromium is None, reason="needs Chromium")
def test_the_products_that_are_told_add_up_to_each_value(digit, tmp_path):
    """Of matrix products and convolutions, of one row and of several."""
    _, page = page_of("VampPrior, convolutional", digit)
    count, apart = re.findall(
        r"<title>(\d+) (\S+)</title>",
        in_browser(page.replace("</script>\n</body>", PRODUCTS + "</script>\n</body>"), tmp_path),
    )[0]
    assert int(count) == 20 and float(apart) < 1e-4


@pytest.mark.skipif(chromium is None, reason="needs Chromium")
@pytest.mark.parametrize("make", ["one step", "explore"])
def test_in_a_browser_without_a_network(make, digit, tmp_path):
    """No error on the console, and the page has drawn itself."""
    vae = mv.VAE(*networks())
    page = one_step(vae, digit) if make == "one step" else explore(vae, digit[None], np.array([3]))
    assert ("operation 1 of" if make == "one step" else "decoded in") in in_browser(page, tmp_path)
