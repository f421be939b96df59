"""Figures: what they show and how it lies, drawn without a display."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import minivae as mv
from minivae.views import plots

SIDE = 4


def model(latent_dim=2, n_pixels=SIDE * SIDE):
    return mv.VAE(
        encoder=[mv.Dense(n_pixels, 5), mv.ReLU(), mv.Dense(5, 2 * latent_dim)],
        decoder=[mv.Dense(latent_dim, 5), mv.Tanh(), mv.Dense(5, n_pixels)],
    )


@pytest.fixture
def vae():
    return model()


@pytest.fixture
def x():
    return np.random.default_rng(0).integers(0, 256, (30, SIDE, SIDE), dtype=np.uint8)


@pytest.fixture
def history(vae, x):
    return mv.fit(vae, x, x[:10], epochs=2, batch_size=10)


def grey_at(figure, ax, *point):
    """The brightness (0 to 1) of the rendered figure at a point in data coordinates."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    column, row = ax.transData.transform(point).round().astype(int)
    pixels = np.asarray(canvas.buffer_rgba())
    return pixels[len(pixels) - 1 - row, column, :3].mean() / 255


class Plane:
    """A model whose images are as bright as one coordinate of z."""

    latent_dim, input_dim = 2, SIDE * SIDE

    def __init__(self, coordinate):
        self.coordinate = coordinate

    def decode(self, z):
        return np.repeat(np.clip(z[:, self.coordinate, None] / 4 + 0.5, 0, 1), self.input_dim, axis=1)


@pytest.mark.parametrize("grid, limits, end", [("quantile", (0.05, 0.95), 1.6449), ("linear", (-2, 2), 2)])
@pytest.mark.parametrize("coordinate", [0, 1])
def test_manifold_has_z1_to_the_right_and_z2_upwards(coordinate, grid, limits, end):
    n = 5
    figure = plots.manifold(Plane(coordinate), n=n, grid=grid, limits=limits)
    ax = figure.axes[0]
    low, high = (0, n - 1) if grid == "quantile" else limits
    for position, value in ((low, -end), (high, end)):
        for other in (low, high):
            point = (position, other) if coordinate == 0 else (other, position)
            assert grey_at(figure, ax, *point) == pytest.approx(value / 4 + 0.5, abs=0.01)
    if grid == "quantile":
        labels = [label.get_text() for label in ax.get_yticklabels()]
        assert (labels[0], labels[2], labels[-1]) == ("-1.64", "0.00", "1.64")
        assert ax.get_yticks()[-1] > ax.get_yticks()[0] and ax.get_ylim()[1] > ax.get_ylim()[0]


def test_latent_space_puts_the_posterior_means_on_the_same_axes(vae, x):
    ax = plots.latent_space(vae, x, np.arange(30) % 10).axes[0]
    np.testing.assert_allclose(ax.collections[0].get_offsets(), vae.encode(x)[0], rtol=1e-6)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z1", "z2")
    assert not ax.xaxis.get_inverted() and not ax.yaxis.get_inverted()


def test_latent_space_gives_named_classes_a_marker_each_and_digits_a_colour_bar(vae, x):
    y = np.arange(30) % 3
    figure = plots.latent_space(vae, x, y, ("Shirt", "Bag", "Dress"))
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Shirt", "Bag", "Dress"]
    assert len({path.vertices.tobytes() for points in ax.collections for path in points.get_paths()}) == 3
    mu = vae.encode(x)[0]
    for i, points in enumerate(ax.collections):
        np.testing.assert_allclose(points.get_offsets(), mu[y == i], rtol=1e-6)
    ax, bar = plots.latent_space(vae, x, y, ("0", "1", "7")).axes
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0", "1", "7"]


def test_latent_space_projects_on_principal_components(x):
    vae = model(latent_dim=6)
    ax = plots.latent_space(vae, x).axes[0]
    mu = vae.encode(x)[0].astype(np.float64)
    variances = np.linalg.svd(mu - mu.mean(axis=0), compute_uv=False) ** 2
    np.testing.assert_allclose((ax.collections[0].get_offsets() ** 2).sum(axis=0), variances[:2], rtol=1e-4)
    assert f"({variances[0] / variances.sum():.0%} of the variance)" in ax.get_xlabel()
    assert "principal component 2 of the 6" in ax.get_ylabel()


def test_latent_space_of_one_dimension(x):
    vae = model(latent_dim=1)
    mu, log_var = vae.encode(x)
    points = plots.latent_space(vae, x).axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, np.hstack([mu, np.exp(log_var / 2)]), rtol=1e-5)


def test_loss_curves_show_all_parts_of_both(history):
    figure = plots.loss_curves(history, validation="test")
    for ax, name in zip(figure.axes, ("loss", "reconstruction", "kl"), strict=True):
        for line, column in zip(ax.lines, (f"train_{name}", f"val_{name}"), strict=True):
            assert line.get_xdata().tolist() == [1, 2]
            assert line.get_ydata().tolist() == history[column]
        assert ax.get_ylabel() == "nats per example" and ax.get_title()
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "test"]


def image(ax, row, column):
    """Image (row, column) of a grid with its gaps."""
    step = SIDE + plots.GAP
    return ax.images[0].get_array()[row * step : row * step + SIDE, column * step : column * step + SIDE]


def test_reconstructions_stand_below_their_originals(vae, x):
    ax = plots.reconstructions(vae, x, n=7, columns=4).axes[0]
    copies = vae.reconstruct(x).reshape(x.shape)
    for i in range(7):
        row, column = divmod(i, 4)
        np.testing.assert_allclose(image(ax, 2 * row, column), x[i] / 255)
        np.testing.assert_allclose(image(ax, 2 * row + 1, column), copies[i], rtol=1e-5)
    assert (image(ax, 2, 3) == 1).all()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["original", "reconstruction"] * 2


def test_draws_differ_and_scatter_about_the_mean(vae, x):
    ax = plots.draws(vae, x[:2], n=3, seed=1).axes[0]
    np.testing.assert_allclose(image(ax, 1, 0), x[1] / 255)
    assert not np.allclose(image(ax, 1, 1), image(ax, 1, 2))


def test_interpolation_goes_from_one_reconstruction_to_the_other(vae, x):
    ax = plots.interpolation(vae, x[0], x[1], n=3).axes[0]
    mu, _ = vae.encode(x[:2])
    wanted = [x[0] / 255, *vae.decode(np.stack([mu[0], mu.mean(axis=0), mu[1]])), x[1] / 255]
    for column, picture in enumerate(wanted):
        np.testing.assert_allclose(image(ax, 0, column), picture.reshape(SIDE, SIDE), rtol=1e-5)


def test_samples_are_those_of_the_model(vae):
    ax = plots.samples(vae, n=5, seed=3).axes[0]
    np.testing.assert_allclose(image(ax, 1, 1), vae.sample(5, seed=3)[4].reshape(SIDE, SIDE))


def test_values_beyond_0_and_1_are_scaled():
    vae = mv.VAE([mv.Dense(4, 4)], [mv.Dense(2, 4)], likelihood=mv.Gaussian())
    pixels = plots.reconstructions(vae, np.array([[-3.0, 0, 1, 5]])).axes[0].images[0].get_array()
    assert pixels.min() == 0 and pixels.max() == 1


def test_kl_per_dimension_adds_up_to_the_kl(x):
    vae = model(latent_dim=4)
    ax = plots.kl_per_dimension(vae, x).axes[0]
    heights = [bar.get_height() for bar in ax.patches]
    assert sum(heights) == pytest.approx(vae.evaluate(x).kl, rel=1e-5)
    assert heights == sorted(heights, reverse=True)
    assert f"{sum(heights):.2f} nats" in ax.get_title()


def test_architecture_names_layers_shapes_and_counts(vae):
    text = "\n".join(each.get_text() for each in plots.architecture(vae).axes[0].texts)
    for words in ("Encoder: 109 parameters", "Decoder: 111 parameters", "input  (B, 16)",
                  "Dense  (B, 5)\n85 parameters", "ReLU  (B, 5)",
                  "z ~ q(z | x): DiagonalGaussian  (B, 2)", "p(x | z): Bernoulli  (B, 16)"):
        assert words in text


def every_figure(vae, x, **options):
    y = np.arange(len(x)) % 10
    yield plots.reconstructions(vae, x, **options)
    yield plots.draws(vae, x[:2], **options)
    yield plots.samples(vae, **options)
    yield plots.interpolation(vae, x[0], x[1], **options)
    yield plots.manifold(vae, **options)
    options.pop("image_shape", None)
    yield plots.latent_space(vae, x, y, **options)
    yield plots.kl_per_dimension(vae, x, **options)
    yield plots.architecture(vae, **options)


def test_figures_draw_into_given_axes_and_have_titles(vae, x):
    ax = Figure().add_subplot()
    for figure in every_figure(vae, x, ax=ax):
        assert figure is ax.figure and ax.get_title()
        FigureCanvasAgg(figure).draw()
        ax.clear()


def test_colour_and_oblong_images():
    x = np.random.default_rng(0).random((12, 2 * 3 * 3))
    vae = model(n_pixels=18)
    for shape in ((2, 3, 3), (9, 2)):
        for figure in every_figure(vae, x, image_shape=shape):
            FigureCanvasAgg(figure).draw()


def test_needs_no_display_and_leaves_pyplot_alone(tmp_path):
    code = f"""if True:
        import sys, numpy as np, minivae as mv
        from minivae.views import plots
        vae = mv.VAE([mv.Dense(16, 4)], [mv.Dense(2, 16)])
        plots.samples(vae).savefig({str(tmp_path / "samples.png")!r})
        plots.latent_space(vae, np.ones((3, 16)), np.arange(3)).savefig({str(tmp_path / "latent.png")!r})
        assert "matplotlib.pyplot" not in sys.modules
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND")}
    environment["PYTHONPATH"] = str(Path(mv.__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
    assert {path.name for path in tmp_path.iterdir()} == {"samples.png", "latent.png"}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda vae, x: plots.samples(model(n_pixels=15)), "image_shape"),
        (lambda vae, x: plots.samples(vae, image_shape=(5, 5)), "16 values are no image of shape"),
        (lambda vae, x: plots.manifold(model(latent_dim=3)), "2 latent dimensions, this model has 3"),
        (lambda vae, x: plots.manifold(vae, grid="square"), '"quantile" or "linear"'),
        (lambda vae, x: plots.manifold(vae, limits=(-3, 3)), 'grid="linear"'),
        (lambda vae, x: plots.manifold(vae, n=1), "at least 2"),
        (lambda vae, x: plots.latent_space(vae, x, np.arange(29)), "30 integers"),
        (lambda vae, x: plots.latent_space(vae, x, np.arange(30), ("a", "b")), "2 class names"),
        (lambda vae, x: plots.loss_curves(mv.History()), "no epoch"),
        (lambda vae, x: plots.reconstructions(vae, x[:0]), "at least one row"),
    ],
)
def test_bad_input_is_one_clear_error(vae, x, call, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        call(vae, x)
