"""The tutorials' recipes, run as a user runs them, with tiny settings."""

import importlib
import json
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from test_examples import LAST_LINE, ROOT, run

import minivae as mv
from minivae import data

TINY = "--dataset", "sample", "--limit", 300, "--backend", "numpy"


@pytest.fixture
def example(monkeypatch):
    """A function that imports an example as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module


def test_a_recipe_sets_what_the_command_line_does_not(tmp_path):
    arguments = "--recipe", "pytorch-example", "--latent-dim", 3, "--epochs", 1, "--no-plots", "--out", tmp_path
    process = run("train_mnist.py", *TINY, *arguments)
    config = json.loads((tmp_path / "config.json").read_text())
    wanted = {"hidden": 400, "latent_dim": 3, "optimizer": "adam", "batch_size": 128, "epochs": 1, "beta": 1.0}
    assert {key: config[key] for key in wanted} == wanted
    published, result = process.stdout.splitlines()[-2:]
    assert published == "published: 106.66 on MNIST at epoch 7"
    assert result.endswith("on the bundled sample, first 300 only")
    assert re.fullmatch(LAST_LINE, result)


def test_with_beta_the_loss_is_told_apart_from_the_elbo(tmp_path):
    process = run("train_mnist.py", *TINY, "--recipe", "spanish", "--epochs", 1, "--hidden", 8, "--out", tmp_path)
    loss = float(re.search(r"test loss with beta = 0.1: (\S+) nats", process.stdout)[1])
    _, reconstruction, kl = map(float, re.search(LAST_LINE, process.stdout).groups())
    assert loss == pytest.approx(reconstruction + 0.1 * kl, abs=0.11)
    assert (tmp_path / "manifold.png").exists()


def test_fashion_recipe_is_half_the_squared_error(tmp_path):
    process = run("train_fashion_mnist.py", *TINY, "--epochs", 2, "--out", tmp_path)
    vae = mv.load(tmp_path / "model.safetensors")
    x = data.load("sample", limit=300).x_test
    z = vae.encode(x)[0]
    error = 0.5 * np.square(x.reshape(len(x), -1) / 255 - vae.decode(z)).sum(axis=1).mean()
    # Two epochs leave the decoder nearly blind to z, so that the noise in z hardly matters.
    *_, last = process.stdout.splitlines()
    printed = float(re.fullmatch(r"test loss \S+ = half the squared error (\S+) \+ KL \S+ on the bundled .*", last)[1])
    assert "ELBO" not in process.stdout
    assert printed == pytest.approx(error, rel=0.05)
    assert {path.stem for path in tmp_path.glob("*.png")} == {
        "loss_curves",
        "reconstructions",
        "latent_space",
        "samples",
        "architecture",
        "manifold",
    }


def write_letters(folder, n_train, n_test):
    """Files in the form of Kaggle's EMNIST letters: no header, the label first, images transposed.

    Each "letter" is a bar at a height of its own, with noise.
    """
    rng = np.random.default_rng(0)
    for part, n in (("train", n_train), ("test", n_test)):
        labels = np.arange(26 * n) % 26 + 1
        images = rng.integers(0, 60, (26 * n, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[label] = 250
        rows = np.concatenate([labels[:, None], images.transpose(0, 2, 1).reshape(-1, 784)], axis=1)
        np.savetxt(folder / f"emnist-letters-{part}.csv", rows, fmt="%d", delimiter=",")


def test_letters_stop_early_and_keep_the_best_weights(tmp_path):
    write_letters(tmp_path, n_train=12, n_test=2)
    arguments = "--data-dir", tmp_path, "--only", "AEIOU", "--backend", "numpy", "--out", tmp_path / "out"
    # Large steps on 54 images overfit at once.
    process = run("train_letters.py", *arguments, "--epochs", 60, "--lr", 0.01, "--batch-size", 10, "--no-plots")
    assert "only A, E, I, O, U: 60 training, 10 test images" in process.stdout
    best, last = map(int, re.search(r"best epoch (\d+) of (\d+)", process.stdout).groups())
    assert last == best + 4 < 60
    header, *rows = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    losses = [float(row.split(",")[header.split(",").index("val_loss")]) for row in rows]
    assert best == 1 + int(np.argmin(losses))
    last = process.stdout.splitlines()[-1]
    assert re.fullmatch(LAST_LINE, last) and last.endswith(" on EMNIST letters, only A, E, I, O, U")
    test = data.load("emnist-letters", tmp_path).only("AEIOU").x_test
    losses = mv.load(tmp_path / "out" / "model.safetensors").evaluate(test)
    assert f"test -ELBO {losses.negative_elbo:.1f} nats" in process.stdout


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        ("autoencoder", ["--dataset", "sample", "--limit", 2, "--left-out", 9], "of others, got 2 of [2, 7]"),
        ("sample_quality", [*TINY, "--limit", 7, "--components", 2], "8 test images are needed, got 7 and 7"),
        ("sample_quality", [*TINY, "--components", 300], "--components 300 needs more training images than that"),
        ("sample_quality", [*TINY, "--images", 3], "expected an integer of at least 4, got '3'"),
        ("imputation", ["--tables", "iris", "--shares", 20], "expected a number from 0 to 1, got '20'"),
        ("imputation", ["--tables", "iris", "--shares", 0.3, 0], "--shares 0 leaves no gap"),
        ("imputation", ["--tables", "iris", "--shares", 0.995], "or too few values of a column"),
        ("disentangle", ["--latent-dim", 1], "expected an integer of at least 2, got '1'"),
        ("true_posterior", [*TINY, "--digits", 1], "need two test images, got 1"),
        ("true_posterior", [*TINY, "--points", 1], "expected an integer of at least 3, got '1'"),
        ("iwae_mnist", [*TINY, "--growth", "nan"], "expected a number from 1 to 3, got 'nan'"),
        ("iwae_mnist", [*TINY, "--stages", 12], "invalid choice: 12"),
        ("avb", ["--latent-dim", 3], "--latent-dim means nothing for --dataset four-points"),
        ("compress", ["--no-plots"], "unrecognized arguments: --no-plots"),
        ("reparameterization", ["--seed", -1], "expected an integer of at least 0, got '-1'"),
        ("sprites", ["--out", "nowhere/sprites.npz"], "cannot write nowhere/sprites.npz"),
        ("thumbnail", ["nowhere.png", "copy.png"], "cannot read nowhere.png"),
    ],
)
def test_what_cannot_work_is_refused_before_any_training(
    example, script, arguments, message, tmp_path, monkeypatch, capsys
):
    if script in ("imputation", "sample_quality"):
        pytest.importorskip("sklearn.base")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mv, "fit", None)
    monkeypatch.setattr("sys.argv", [script, *map(str, arguments)])
    with pytest.raises((SystemExit, mv.MiniVAEError)) as error, example("common").RUN:
        example(script).main()
    assert message in str(error.value) + capsys.readouterr().err


def test_only_those_that_can_resume_advise_it(example, tmp_path, monkeypatch):
    (tmp_path / "checkpoint.safetensors").touch()
    for script, advised in (("priors", False), ("deep_latent", True)):
        monkeypatch.setattr("sys.argv", [script, *map(str, TINY), "--out", str(tmp_path)])
        with pytest.raises(mv.MiniVAEError, match="has results already") as error, example("common").RUN:
            example(script).main()
        assert ("--resume" in str(error.value)) == advised


@pytest.mark.slow
def test_letters_figures_and_larger_latents(tmp_path):
    write_letters(tmp_path, n_train=8, n_test=2)
    arguments = "--data-dir", tmp_path, "--backend", "numpy", "--epochs", 1, "--limit", 200
    run("train_letters.py", *arguments, "--latent-dim", 2, "--out", tmp_path / "two")
    run("train_letters.py", *arguments, "--latent-dim", 5, "--out", tmp_path / "five")
    names = [{path.stem for path in (tmp_path / out).glob("*.png")} for out in ("two", "five")]
    assert names[0] - names[1] == {"manifolds"}
    assert names[1] == {"loss_curves", "reconstructions", "latent_space", "samples", "kl_per_dimension"}


@pytest.mark.slow
def test_autoencoder_finds_white_images_strange(tmp_path):
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    white = np.random.default_rng(0).integers(200, 256, (50, 28, 28), dtype=np.uint8)
    for stem in ("train", "t10k"):
        data.write_idx(folder / f"{stem}-images-idx3-ubyte", white)
        data.write_idx(folder / f"{stem}-labels-idx1-ubyte", np.arange(50, dtype=np.uint8) % 10)
    arguments = "--dataset", "sample", "--limit", 300, "--data-dir", tmp_path, "--epochs", 2, "--left-out", 0
    process = run("autoencoder.py", *arguments, "--out", tmp_path / "out")
    (line,) = (line for line in process.stdout.splitlines() if line.startswith("Fashion-MNIST against"))
    assert [float(area) for area in line.split()[3:]] == [1] * 4
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == {
        f"{model}_{figure}" for model in ("autoencoder", "vae") for figure in ("latent_space", "samples")
    }


def test_area_under_the_curve_counts_pairs(example):
    normal, strange = np.array([0.0, 1, 1, 2]), np.array([1.0, 3, 0])
    pairs = [(s > n) + 0.5 * (s == n) for s in strange for n in normal]
    assert example("autoencoder").roc_auc(normal, strange) == pytest.approx(np.mean(pairs))


def test_the_autoencoder_written_by_hand_follows_its_gradient(example):
    model = example("autoencoder").Autoencoder(6, 2, seed=0)
    x = np.random.default_rng(0).random((5, 6), np.float32)
    _, gradient = model.loss_and_gradients(x)
    step = 1e-3 * gradient / np.linalg.norm(gradient)
    model.parameters.flat += step
    above, _ = model.loss_and_gradients(x)
    model.parameters.flat -= 2 * step
    below, _ = model.loss_and_gradients(x)
    assert (above - below) / 2e-3 == pytest.approx(np.linalg.norm(gradient), rel=0.01)


def test_the_autoencoder_goes_on_where_it_was_stopped(example, tmp_path):
    x = np.random.default_rng(0).random((250, 6), np.float32)

    def fit(name, epochs, resume=False):
        model = example("autoencoder").Autoencoder(6, 2, seed=0)
        model.fit(x, epochs, tmp_path / name, resume)
        return model.parameters.flat

    whole = fit("whole.npz", 3)
    fit("parts.npz", 2)
    np.testing.assert_array_equal(fit("parts.npz", 3, resume=True), whole)
    assert not np.array_equal(fit("parts.npz", 1), whole)  # without resume it starts anew


@pytest.mark.parametrize("seed, step", [(3, 1), (0, -1)])  # another seed, or the rows in another order
def test_neither_of_both_autoencoders_goes_on_with_another_run(seed, step, example, tmp_path):
    x, train_both = np.random.default_rng(0).random((250, 6), np.float32), example("autoencoder").train_both
    train_both(Namespace(seed=0, epochs=1, out=tmp_path, resume=False), x, 2, "plane")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(mv.MiniVAEError, match="vae-plane.safetensors is of another training"):
        train_both(Namespace(seed=seed, epochs=2, out=tmp_path, resume=True), x[::step], 2, "plane")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_reparameterization_tells_right_from_wrong(tmp_path):
    text = run("reparameterization.py", "--draws", 20_000, "--out", tmp_path).stdout
    bound = float(re.search(r"below (\S+)", text)[1])
    distances = {
        name: float(re.search(rf"{re.escape(name)} .*distance (\S+)", text)[1])
        for name in ("numpy.normal", "mu + s eps", "mu + s^2 eps")
    }
    assert distances["numpy.normal"] < bound and distances["mu + s eps"] < bound < distances["mu + s^2 eps"]
    apart = [float(each) for each in re.findall(r"\((\S+) errors apart\)", text)]
    assert len(apart) == 3 and max(apart) < 4
    closed = re.search(r"diagonal against N\(0, I\) +(\S+)", text)[1]
    assert f"minivae's diagonal closed form     {closed}" in text
    square = [list(map(float, row.split())) for row in re.findall(r"\|z\|\^2 / 2 +D = (.+)", text)]
    assert len(square) == 7
    for D, slope, score, less_mean in square:  # the variances derived in docs/book/03-reparameterization.md
        assert (slope, score, less_mean) == pytest.approx((1, (D + 2) * (D + 4) / 4, (D + 4) / 2), rel=0.15)
    for slope, score, less_mean in re.findall(r"-log p\(x given z\) +D = +\d+ +(\S+) +(\S+) +(\S+)", text):
        assert 10 * float(slope) < float(less_mean) < float(score) / 10
    assert {path.name for path in tmp_path.iterdir()} == {"samplers.png", "warp.png", "gradient-variance.png"}


def test_thumbnails_are_small(tmp_path):
    from matplotlib.image import imread, imsave

    imsave(tmp_path / "noise.png", np.random.default_rng(0).random((600, 800, 1)).repeat(3, axis=2))
    run("thumbnail.py", tmp_path / "noise.png", tmp_path / "small.png")
    assert (tmp_path / "small.png").stat().st_size <= 150_000
    height, width = imread(tmp_path / "small.png").shape[:2]
    assert width / height == pytest.approx(4 / 3, rel=0.02)


def test_thumbnails_keep_the_colours_of_single_points_beside_a_grey_picture(tmp_path):
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread, imsave

    from minivae.views.plots import COLOURS

    colours = np.array([to_rgb(colour) for colour in COLOURS])[:, None]
    picture, rng = np.ones((300, 300, 3)), np.random.default_rng(0)
    picture[:150] = rng.random((150, 300, 1))
    at = rng.permutation(150 * 300)[:3000].reshape(10, 300) + 150 * 300
    faded = 1 - np.linspace(1, 0.2, 300)[:, None] * (1 - colours)  # as at the rim of a point
    picture.reshape(-1, 3)[at] = faded
    imsave(tmp_path / "figure.png", picture)
    run("thumbnail.py", tmp_path / "figure.png", tmp_path / "small.png", "--width", 300)
    small = imread(tmp_path / "small.png")[..., :3]
    np.testing.assert_allclose(small.reshape(-1, 3)[at], faded, atol=0.05)


def test_figures_of_the_results_page_are_small_and_exist():
    page = (ROOT / "examples" / "README.md").read_text()
    named = {Path(path).name for path in re.findall(r"\]\((figures/[^)]+)\)", page)}
    files = {path.name: path.stat().st_size for path in (ROOT / "examples" / "figures").iterdir()}
    assert named and named <= files.keys()
    assert max(files.values()) <= 150_000


def test_the_one_map_of_the_convolutional_recipe_lets_white_through(example):
    """The first kernel is what the seed drew, or its negative where that would make white pixels 0."""
    recipe, signs = example("conv_mnist"), []
    for seed in range(8):
        arguments = Namespace(latent_dim=2, maps=2, beta=1.0, dtype="float32", seed=seed)
        kernel = recipe.build(arguments, "numpy").parameters["encoder.1.W"]
        drawn = mv.VAE(*recipe.networks(2, 2), seed=seed).parameters["encoder.1.W"]
        assert kernel.sum() > 0
        np.testing.assert_array_equal(kernel, drawn * np.sign(drawn.sum()))
        signs.append(np.sign(drawn.sum()))
    assert set(signs) == {-1, 1}


def test_the_convolutional_recipe_s_learning_rate_falls_only_where_it_is_told_to(example):
    rate = example("conv_mnist").learning_rate
    steady = rate(Namespace(lr=1e-3, epochs=5, fall=None))
    falling = rate(Namespace(lr=1e-3, epochs=5, fall=2))
    assert [steady(epoch) for epoch in range(1, 6)] == [1e-3] * 5
    np.testing.assert_allclose([falling(epoch) for epoch in range(1, 6)], [1e-3, 1e-3, 1e-3, 1e-4, 1e-5])
