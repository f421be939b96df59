"""Figures: what they show and how it lies, drawn without a display."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import imread

import minivae as mv
from minivae.randomness import generator
from minivae.views import plots

SIDE = 4


def model(latent_dim=2, n_pixels=SIDE * SIDE, **options):
    C = options.get("n_classes", 0)
    return mv.VAE(
        encoder=[mv.Dense(n_pixels + C, 5), mv.ReLU(), mv.Dense(5, 2 * latent_dim)],
        decoder=[mv.Dense(latent_dim + C, 5), mv.Tanh(), mv.Dense(5, n_pixels)],
        **options,
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


def directions(mu):
    """The first two principal axes of mu, (D, 2)."""
    return np.linalg.svd(mu - mu.mean(axis=0))[2][:2].T


class Given:
    """A model whose posterior means are given."""

    posterior, prior = mv.DiagonalGaussian(), mv.StandardNormal(1)

    def __init__(self, mu):
        self.mu, self.latent_dim = mu, mu.shape[1]

    def encode(self, x):
        return self.mu, np.zeros_like(self.mu)


class Plane:
    """A model whose images are as bright as one coordinate of z."""

    latent_dim, input_dim, prior = 2, SIDE * SIDE, mv.StandardNormal(2)

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
    if grid == "quantile":
        low, high = 0, n - 1
    else:  # the middles of the outer cells
        end *= 1 - 1 / n
        low, high = -end, end
        assert ax.get_xlim() == ax.get_ylim() == limits
    for position, value in ((low, -end), (high, end)):
        for other in (low, high):
            point = (position, other) if coordinate == 0 else (other, position)
            assert grey_at(figure, ax, *point) == pytest.approx(value / 4 + 0.5, abs=0.01)
    if grid == "quantile":
        labels = [label.get_text() for label in ax.get_yticklabels()]
        assert (labels[0], labels[2], labels[-1]) == ("-1.64", "0.00", "1.64")
        assert ax.get_yticks()[-1] > ax.get_yticks()[0] and ax.get_ylim()[1] > ax.get_ylim()[0]


def test_latent_space_puts_the_posterior_means_on_the_same_axes(vae, x):
    ax = plots.latent_space(vae, x).axes[0]
    np.testing.assert_allclose(ax.collections[0].get_offsets(), vae.encode(x)[0], rtol=1e-6)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z1", "z2")
    assert not ax.xaxis.get_inverted() and not ax.yaxis.get_inverted()


def test_latent_space_has_the_priors_circles(vae, x):
    ax = plots.latent_space(vae, x).axes[0]
    assert [(circle.center, circle.radius) for circle in ax.patches] == [((0, 0), 1), ((0, 0), 2), ((0, 0), 3)]
    assert ax.get_xlim()[0] <= -3 and ax.get_ylim()[1] >= 3 and ax.get_aspect() == 1


def test_latent_space_draws_another_priors_density(x):
    """Here N((2, -1), 0.25 I): 90% of it lie within a radius of 0.5 sqrt(-2 log 0.1)."""
    vae = mv.VAE([mv.Dense(16, 4)], [mv.Dense(2, 16)], prior=mv.MixturePrior(2, 1), dtype="float64")
    vae.parameters["prior.mu"][...] = [2, -1]
    vae.parameters["prior.log_var"][...] = np.log(0.25)
    vae.parameters["encoder.0.W"][...] = np.eye(16, 4) * 6  # a plane some six units wide, around the prior
    vae.parameters["encoder.0.b"][:2] = [-1, -4]
    ax = plots.latent_space(vae, x).axes[0]
    assert not ax.patches and ax.get_legend().get_texts()[0].get_text() == "the prior: 10, 50, 90, 99% of it"
    (contours,) = (each for each in ax.collections if hasattr(each, "levels"))
    radii = [np.linalg.norm(path.vertices - [2, -1], axis=1).mean() for path in contours.get_paths()[-3:]]
    np.testing.assert_allclose(radii, 0.5 * np.sqrt(-2 * np.log([0.1, 0.5, 0.9])), rtol=0.06)
    mu = vae.encode(x)[0]
    for d, (low, high) in enumerate((ax.get_xlim(), ax.get_ylim())):
        assert low < mu[:, d].min() and mu[:, d].max() < high
        assert high - low == pytest.approx(1.1 * np.ptp(mu, axis=0).max())
    of_three = mv.VAE([mv.Dense(16, 6)], [mv.Dense(3, 16)], prior=mv.MixturePrior(3, 1))
    ax = plots.latent_space(of_three, x).axes[0]
    assert not ax.patches and ax.get_legend() is None and len(ax.collections) == 1


def test_latent_space_colours_each_example_by_its_class(vae, x):
    y = np.arange(30) % 3
    figure = plots.latent_space(vae, x, y, ("Shirt", "Bag", "Dress"))
    (dots,) = figure.axes[0].collections
    FigureCanvasAgg(figure).draw()
    shown = {tuple(point): colour for point, colour in zip(dots.get_offsets(), dots.get_facecolors(), strict=True)}
    for point, label in zip(vae.encode(x)[0], y, strict=True):
        np.testing.assert_allclose(shown[tuple(point)], to_rgba(plots.COLOURS[label]), atol=1e-6)


def test_no_class_hides_those_before_it(vae, x):
    y = np.repeat([0, 1], 15)
    drawn = plots.latent_space(vae, x, y).axes[0].collections[0].get_array()
    assert sorted(drawn) != list(drawn) and sorted(drawn) == list(y)


def test_each_class_is_named_where_it_lies():
    rng = np.random.default_rng(0)
    centres = np.array([(-2, 1), (2, 2), (0, -2)])
    y = rng.integers(0, 3, 300)
    ax = plots.latent_space(Given(centres[y] + 0.1 * rng.standard_normal((300, 2))), y, y, ("a", "b", "c")).axes[0]
    assert {text.get_text(): tuple(np.round(text.get_position())) for text in ax.texts} == {
        name: tuple(centre) for name, centre in zip("abc", centres, strict=True)
    }
    for text, colour in zip(ax.texts, plots.COLOURS, strict=False):
        assert text.get_bbox_patch().get_facecolor() == to_rgba(colour)


def test_names_of_classes_in_one_place_do_not_overlap():
    y = np.arange(100) % 10
    z = np.random.default_rng(0).standard_normal((100, 2)) * (1, 0.01) + y[:, None] * 1e-3
    figure = plots.latent_space(Given(z), y, y, [f"number {i}" for i in range(10)])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    assert len(boxes) == 10
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_many_classes_get_a_colour_bar(vae, x):
    ax, bar = plots.latent_space(vae, x, np.arange(30) * 3).axes
    assert not ax.texts and bar.get_ylabel() == "class"


def test_latent_plane_shows_both_on_the_same_axes(vae, x):
    left, right = plots.latent_plane(vae, x).axes
    assert left.get_xlim() == right.get_xlim() == right.get_ylim() == left.get_ylim()


def test_colours_are_told_apart_without_red_green_or_blue_cones():
    """The least distance of two class colours in CIELAB; tab10 has 4.6, and 2.3 is just noticeable."""
    # Machado, Oliveira & Fernandes 2009, table 1: protanopia, deuteranopia, tritanopia; of linear RGB.
    sights = [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
    to_xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    rgb = np.array([to_rgb(colour) for colour in plots.COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for sight in sights:
        xyz = np.clip(linear @ np.transpose(sight), 0, 1) @ to_xyz.T / to_xyz.sum(axis=1)
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        lab = np.stack([116 * f[:, 1], 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
        distances = np.linalg.norm(lab[:, None] - lab, axis=-1)[np.triu_indices(len(lab), 1)]
        assert distances.min() > 20


def test_latent_space_projects_on_principal_components(x):
    vae = model(latent_dim=6)
    ax = plots.latent_space(vae, x).axes[0]
    mu = vae.encode(x)[0].astype(np.float64)
    variances = np.linalg.svd(mu - mu.mean(axis=0), compute_uv=False) ** 2
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points.var(axis=0) * len(x), variances[:2], rtol=1e-4)
    # 0 stays 0, where the prior's circles are: these are lengths of projections of mu itself.
    assert (np.linalg.norm(points, axis=1) <= np.linalg.norm(mu, axis=1) + 1e-6).all()
    assert np.linalg.norm(points.mean(axis=0)) == pytest.approx(np.linalg.norm(mu.mean(axis=0) @ directions(mu)))
    assert f"({variances[0] / variances.sum():.0%} of the variance)" in ax.get_xlabel()
    assert "principal component 2 of the 6" in ax.get_ylabel()


def test_latent_space_of_one_dimension(x):
    vae = model(latent_dim=1)
    mu, log_var = vae.encode(x)
    points = plots.latent_space(vae, x).axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points, np.hstack([mu, np.exp(log_var / 2)]), rtol=1e-5)
    bent = model(latent_dim=1, posterior=mv.FlowPosterior([mv.Planar(1)]))
    for each, of in ((vae, "q(z1 | x)"), (bent, "the base of q(z1 | x)")):
        assert plots.latent_space(each, x).axes[0].get_ylabel() == f"standard deviation of {of}"


def test_loss_curves_show_all_parts_of_both(history):
    figure = plots.loss_curves(history, validation="test")
    for ax, name in zip(figure.axes, ("loss", "reconstruction", "kl"), strict=True):
        training, test = ax.lines[:2]
        assert training.get_ydata().tolist() == history[f"train_{name}"]
        assert test.get_ydata().tolist() == history[f"val_{name}"]
        # A training loss is a mean over the epoch, so it stands at its middle.
        assert training.get_xdata().tolist() == [0.5, 1.5] and test.get_xdata().tolist() == [1, 2]
        assert ax.get_ylabel() == "nats per example" and ax.get_title()
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert "mean over the epoch" in labels[0] and labels[1] == "test, after the epoch"


def losses(train, val=None):
    """A History of these losses, without KL."""
    columns = {"train": train} | ({"val": val} if val is not None else {})
    return mv.History(
        {"epoch": i + 1, "seconds": 0.0}
        | {f"{part}_{name}": values[i] for part, values in columns.items() for name in ("loss", "reconstruction")}
        | {f"{part}_kl": 0.0 for part in columns}
        for i in range(len(train))
    )


def test_the_first_epoch_does_not_flatten_the_others():
    train, val = [500.0, *np.linspace(20, 10, 19)], [100.0, *np.linspace(20, 12, 19)]
    ax = plots.loss_curves(losses(train, val)).axes[0]
    low, high = ax.get_ylim()
    assert 8 < low < 10 and 20 < high < 22
    assert [text.get_text() for text in ax.texts] == ["epoch 1: 500 training, 100 validation"]
    assert not plots.loss_curves(losses([11.0, 12, 10, 11])).axes[0].texts  # nothing is left out here


def test_a_star_marks_the_best_epoch():
    history = losses([9.0, 8, 7, 6], [9.0, 7, 8, 8.5])

    def star(history):
        figure = plots.loss_curves(history)
        (line,) = (line for line in figure.axes[0].lines if line.get_marker() == "*")
        return line.get_xdata()[0], line.get_ydata()[0], figure.legends[0].get_texts()[2].get_text()

    assert star(history) == (2, 7, "least loss, in epoch 2")
    history.best_epoch = 3
    assert star(history) == (3, 8, "weights kept, of epoch 3")
    assert len(plots.loss_curves(losses([9.0, 8])).axes[0].lines) == 1


def test_under_a_warm_up_the_star_looks_at_the_last_beta_only():
    history = losses([9.0, 8, 7, 6], [3.0, 9, 7, 8])
    for row, beta in zip(history, (0.5, 0.7, 1.0, 1.0), strict=True):
        row["beta"] = beta
    (line,) = (line for line in plots.loss_curves(history).axes[0].lines if line.get_marker() == "*")
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (3, 7)


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


def test_draws_are_reconstructions_from_noise(vae, x):
    ax = plots.draws(vae, x[:2], n=3, seed=1).axes[0]
    np.testing.assert_allclose(image(ax, 1, 0), x[1] / 255)
    eps = generator(1).standard_normal((3, 2, 2), np.float32)
    for i, draw in enumerate(vae.reconstruct(x[:2], eps)[:, 1], 1):
        np.testing.assert_allclose(image(ax, 1, i), draw.reshape(SIDE, SIDE), rtol=1e-5)


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
    colours = {to_hex(bar.get_facecolor()) for bar in ax.patches}
    assert sum(heights) == pytest.approx(vae.evaluate(x).kl, rel=1e-5)
    assert heights == sorted(heights, reverse=True)
    active = vae.active_units(x).sum()
    assert f"{sum(heights):.2f} nats, {active} of 4 active" in ax.get_title()
    assert (plots.INACTIVE in colours) == (active < 4)


def test_two_bars_do_not_fill_the_picture_and_collapsed_ones_are_grey():
    mu = np.random.default_rng(0).standard_normal((50, 2)) * (0, 2)
    ax = plots.kl_per_dimension(Given(mu), mu).axes[0]
    assert [to_hex(bar.get_facecolor()) for bar in ax.patches] == [plots.COLOURS[0], plots.INACTIVE]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["z2", "z1"]
    assert sum(bar.get_width() for bar in ax.patches) < 0.2 * np.ptp(ax.get_xlim())


def cells(figure):
    """The images of a figure's grid, (rows, columns, pixels)."""
    ax = figure.axes[0]
    height, width = (np.array(ax.images[0].get_array().shape) + plots.GAP) // (SIDE + plots.GAP)
    return np.array([[image(ax, i, j).ravel() for j in range(width)] for i in range(height)])


def conditional():
    vae = model(n_classes=3, dtype="float64")
    for name, values in vae.parameters.items():  # so that the labels make a difference
        values += np.random.default_rng(len(name)).normal(0, 0.5, values.shape)
    return vae


@pytest.mark.parametrize("y", [np.arange(30) % 3, 1], ids=["a label for each", "one for all"])
def test_figures_of_a_conditional_model_take_its_labels(x, y):
    """Each shows what the model gives for them."""
    vae, four = conditional(), 1 if np.isscalar(y) else y[:4]
    x, eps = x.reshape(30, -1), generator(1).standard_normal((2, 4, 2), np.float32)
    for drawn, wanted in (
        (cells(plots.reconstructions(vae, x, n=4, y=y))[1], vae.reconstruct(x[:4], y=four)),
        (cells(plots.draws(vae, x[:4], n=2, seed=1, y=four))[:, 1:].swapaxes(0, 1), vae.reconstruct(x[:4], eps, four)),
        (cells(plots.samples(vae, n=4, seed=3, y=four)).reshape(4, -1), vae.sample(4, seed=3, y=four)),
    ):
        np.testing.assert_allclose(drawn, wanted, rtol=1e-6)
    bars = plots.kl_per_dimension(vae, x, y=y).axes[0].patches
    assert sum(bar.get_height() for bar in bars) == pytest.approx(vae.evaluate(x, y=y).kl)


def test_planes_of_a_conditional_model_show_one_class(x):
    vae, y = conditional(), np.arange(30) % 3
    z = np.stack(np.meshgrid([-1.5, 1.5], [1.5, -1.5]), axis=-1).reshape(4, 2)
    left, right = plots.latent_plane(vae, x, y, ["a", "b", "c"], label=2).axes
    assert right.get_title() == "What the decoder draws there, as class c"
    without_name = plots.latent_plane(vae, x, y % 2, ["a", "b"], label=2).axes[1]
    assert without_name.get_title() == "What the decoder draws there, as class 2"
    codes = vae.encode(x, y)[0][generator(0).permutation(30)]
    np.testing.assert_allclose(left.collections[0].get_offsets(), codes)
    plane = plots.manifold(vae, limits=right.get_xlim(), y=2).axes[0].images[0].get_array()
    np.testing.assert_array_equal(right.images[0].get_array(), plane)
    picture = plots.manifold(vae, n=2, y=2).axes[0].images[0].get_array()
    for i, mean in enumerate(vae.decode(z, 2)):
        row, column = SIDE * (i // 2), SIDE * (i % 2)
        np.testing.assert_allclose(picture[row : row + SIDE, column : column + SIDE].ravel(), mean)
    way = cells(plots.interpolation(vae, x[0], x[1], n=2, y=1))[0, 1:3]
    np.testing.assert_allclose(way, vae.reconstruct(x[:2], y=1), rtol=1e-6)
    with pytest.raises(mv.MiniVAEError, match="latent_plane: with a conditional model pass label="):
        plots.latent_plane(vae, x, y)


def test_architecture_names_layers_shapes_and_counts(vae):
    text = "\n".join(each.get_text() for each in plots.architecture(vae).axes[0].texts)
    for words in (
        "Encoder: 109 parameters",
        "Decoder: 111 parameters",
        "input  (B, 16)",
        "Dense  (B, 5)\n85 parameters",
        "ReLU  (B, 5)",
        "z ~ q(z | x): DiagonalGaussian  (B, 2)",
        "p(x | z): Bernoulli  (B, 16)",
    ):
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


def test_figures_are_saved_without_a_blank_band(vae, x, tmp_path):
    """In the picture's outermost rows and columns, but for a narrow margin, something is drawn."""
    for figure in (plots.samples(vae, n=9), plots.reconstructions(vae, x), plots.draws(vae, x[:2])):
        figure.savefig(tmp_path / "figure.png", dpi=50)
        picture = imread(tmp_path / "figure.png")[..., :3].min(axis=2)
        for axis in (0, 1):
            (drawn,) = np.nonzero(picture.min(axis=axis) < 0.9)
            assert drawn[0] < 10 and drawn[-1] > picture.shape[1 - axis] - 10


def test_a_figure_is_a_picture_to_a_notebook(vae):
    assert plots.samples(vae, n=4)._repr_png_().startswith(b"\x89PNG")


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
        (lambda vae, x: plots.manifold(vae, grid="square"), '"linear" or "quantile"'),
        (lambda vae, x: plots.manifold(vae, limits=(-3, 3), grid="quantile"), 'grid="linear"'),
        (lambda vae, x: plots.manifold(vae, n=1), "at least 2"),
        (
            lambda vae, x: plots.manifold(model(prior=mv.MixturePrior(2, 3)), grid="quantile"),
            'quantiles of N\\(0, 1\\), this model\'s prior is MixturePrior.*: use grid="linear"',
        ),
        (lambda vae, x: plots.latent_space(vae, x, np.arange(29)), "30 integers"),
        (lambda vae, x: plots.latent_space(vae, x, np.arange(30), ("a", "b")), "2 class names"),
        (lambda vae, x: plots.loss_curves(mv.History()), "no epoch"),
        (lambda vae, x: plots.reconstructions(vae, x[:0]), "at least one row"),
    ],
)
def test_bad_input_is_one_clear_error(vae, x, call, message):
    with pytest.raises(mv.MiniVAEError, match=message):
        call(vae, x)
