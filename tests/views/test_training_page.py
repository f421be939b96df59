"""The page on which a model trains: its steps are those of `fit`."""

import re
import shutil
import subprocess

import numpy as np
import pytest

import minivae as mv
from minivae import data
from minivae.training.state import Training
from minivae.views.training_page import STEPS, training_page

node = shutil.which("node")


def model(D=2, **options):
    encoder = [mv.Dense(784, 8), mv.ReLU(), mv.Dense(8, 2 * D)]
    return mv.VAE(encoder, [mv.Dense(D, 8), mv.ReLU(), mv.Dense(8, 784)], **options)


@pytest.fixture(scope="module")
def digits():
    return data.load("sample", limit=60)


def program_of(page):
    return re.findall(r"<script>\n(.*?)</script>", page, re.S)[0]


@pytest.mark.skipif(node is None, reason="needs Node")
@pytest.mark.parametrize("k", [0, 1])
def test_steps_on_the_same_noise_are_those_of_numpy(k, digits, tmp_path):
    variants = {"plain": (model(dtype="float64"), "a"), "three": (model(3, beta=2.0, dtype="float64"), "b")}
    page = training_page(variants, digits.x_train, digits.x_test, digits.y_test, batch_size=20)
    vae, _ = list(variants.values())[k]
    training = Training(
        vae, mv.RMSprop(), vae.check_input(digits.x_train), None, np.arange(60), 20, 1, False, 0, None
    )  # fmt: skip
    steps = training.steps()
    next(steps)  # draws noise and order; then begin again
    arrays = training.parts[0][0].arrays
    for array in training.moving().values():
        array.fill(0)
    training.lr = 1e-3
    vae.parameters.flat[...] = np.random.default_rng(0).standard_normal(vae.parameters.flat.size) / 9
    arrays["cursor"].fill(0)
    arrays["noise_row"].fill(0)
    given = {"data": digits.x_train, "optimizer.lr": [1e-3], "beta": [vae.beta]}
    given |= {name: arrays[name] for name in ("permutation", "parameters")} | {"noise": arrays["noise"][:STEPS]}
    lines = []
    for i, (name, array) in enumerate(given.items()):
        np.asarray(array, "f8").tofile(tmp_path / f"{i}")
        lines.append(f"s.arrays['{name}'].set(new Float64Array(new Uint8Array(fs.readFileSync('{i}')).buffer));")
    (tmp_path / "page.js").write_text(
        f"{program_of(page)}\nconst fs = require('fs'), s = programs[{k}].step();\n" + "\n".join(lines)
        + "\nfor (let i = 0; i < 3; i++) s.run();\nconsole.log([...s.arrays.totals, ...s.arrays.parameters].join(' '));"
    )  # fmt: skip
    out = subprocess.run([node, "page.js"], capture_output=True, text=True, cwd=tmp_path)
    assert out.returncode == 0, out.stderr[-2000:]
    for _ in range(3):
        training.parts[0][0].run()
    got = np.array(out.stdout.split(), "f8")
    np.testing.assert_allclose(got, [*training.totals, *vae.parameters.flat], 1e-8, 1e-10)


@pytest.mark.skipif(node is None, reason="needs Node")
def test_the_pixels_of_the_page(digits, tmp_path):
    page = training_page({"a": (model(), "")}, digits.x_train, digits.x_test, digits.y_test)
    (tmp_path / "page.js").write_text(
        f"{program_of(page)}\nconst bytes = require('zlib').gunzipSync(numbers(pixels, Uint8Array));\n"
        "require('fs').writeFileSync('out', bytes);"
    )
    subprocess.run([node, "page.js"], check=True, cwd=tmp_path)
    pixels = np.fromfile(tmp_path / "out", np.uint8).reshape(-1, 28, 28)
    np.testing.assert_array_equal(pixels, np.concatenate([digits.x_train, digits.x_test]))


def test_a_page_of_5000_digits_is_below_3_megabytes():
    digits = data.load("sample")
    page = training_page({"a": (model(64), "")}, digits.x_train, digits.x_test, digits.y_test)
    assert len(page) < 3e6 and not re.search(r"https?://|src=|@import|<link", page)


def test_no_more_images_than_fit(digits, monkeypatch):
    n_all = len(digits.x_train)
    monkeypatch.setattr("minivae.views.training_page.MOST_CHARACTERS", 8_000)
    page = training_page({"a": (model(), "")}, digits.x_train, digits.x_test[:20], digits.y_test[:20])
    assert 5 < int(re.search(r'"N": (\d+)', page)[1]) < n_all
    assert 6_000 < len(re.search(r'const pixels = "(.*?)"', page)[1]) <= 8_000


def test_bad_input(digits):
    with pytest.raises(mv.MiniVAEError, match=r"x should be \(N, height, width\) of uint8, got"):
        training_page({"a": (model(), "")}, digits.x_train / 255, digits.x_test, digits.y_test)
