"""Pictures of a model and its training. Every function returns a matplotlib Figure and draws it on no screen.

Save one with `figure.savefig("name.png")`; in a notebook, name it on the last line of a cell. Those with an `ax`
draw into that matplotlib Axes instead of a new Figure. x holds examples as everywhere, (N, X) or (N, ...), uint8
pixels or numbers. `image_shape` is (height, width) or (height, width, 3); without it, images are square and grey.
A conditional model, VAE(..., n_classes=), needs `y`, as everywhere: a label for each row, or one for all.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure as PlainFigure
from matplotlib.patches import Circle, FancyBboxPatch
from matplotlib.ticker import MaxNLocator
from scipy.special import ndtri

from ..arguments import array, integer, integers, number, one_of, text, texts
from ..arguments import seed as check_seed
from ..errors import MiniVAEError, named, rows_of, shown
from ..model.flows import FlowPosterior
from ..model.posteriors import DiagonalGaussian
from ..model.priors import StandardNormal
from ..model.vae import VAE
from ..randomness import generator
from ..training.history import History
from .summary import Row, rows

GAP = 2  # white pixels between images
# Ten colours that differ in lightness too, so that people with any common colour deficiency tell them apart.
COLOURS = "#2450f0 #ffb080 #0a9b1e #f0649a #50d8ff #701c4c #b06cff #204e12 #b0dc30 #56109a".split()
TRAINING, VALIDATION, INACTIVE = "#777777", "#2450f0", "#bbbbbb"
MOST_LABELLED, MOST_CLASSES = 30, 10_000


class Figure(PlainFigure):
    """A matplotlib Figure that a notebook shows without pyplot, and that is saved without a blank band around it."""

    def savefig(self, fname, **options):
        super().savefig(fname, **({"bbox_inches": "tight"} | options))

    def _repr_png_(self):
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()


def loss_curves(history: History, validation: str = "validation") -> Figure:
    """The loss and its parts by epoch, in training and, where it was measured, in validation.

    history    : what `fit` returned
    validation : what to call the validation data in the legend, for example "test"

    A training loss is a mean over an epoch's steps, each before its own update, so it is drawn at the epoch's middle;
    a validation loss belongs to its end. The first twentieth of the epochs, which would flatten all others, may lie
    outside the axes. A star marks the epoch `history.best_epoch`, or else the one with the least validation loss
    of those with the last one's beta: under another the loss is another.
    """
    validation = text("loss_curves: validation", validation)
    if not isinstance(history, History):
        raise MiniVAEError(f"loss_curves: history should be what fit returned, got {shown(history)}")
    if not history:
        raise MiniVAEError("loss_curves: the history has no epoch yet")
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    titles = {"loss": "Loss", "reconstruction": "Reconstruction: -E log p(x | z)", "kl": "KL(q(z | x) || p(z))"}
    epochs = np.array(history["epoch"])
    marker = "o" if len(epochs) <= 20 else ""
    for ax, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        curves = {"training": history[f"train_{name}"]}
        ax.plot(epochs - 0.5, curves["training"], color=TRAINING, marker=marker, markersize=3)
        if "val_loss" in history[0]:
            curves[validation] = history[f"val_{name}"]
            ax.plot(epochs, curves[validation], color=VALIDATION, marker=marker, markersize=3)
            _mark_best(ax, history, curves[validation])
        _zoom(ax, curves)
        ax.set(title=title, xlabel="epoch", ylabel="nats per example")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
    labels = ["training, mean over the epoch's steps", f"{validation}, after the epoch"]
    lines = figure.axes[0].lines
    labels = labels[: len(lines)] + [line.get_label() for line in lines[2:]]
    figure.legend(lines, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _mark_best(ax, history, values):
    kept = history.best_epoch
    if kept is None:
        comparable = [i for i, row in enumerate(history) if row.get("beta") == history[-1].get("beta")]
        best = min(comparable, key=history["val_loss"].__getitem__)
    else:
        best = history["epoch"].index(kept)
    label = f"{'least loss, in' if kept is None else 'weights kept, of'} epoch {history[best]['epoch']}"
    ax.plot(history[best]["epoch"], values[best], "*", color="black", markersize=11, zorder=3, label=label)


def _zoom(ax, curves):
    """Limit an axis to the values behind the first twentieth of the epochs, and say where it began instead."""
    skipped = math.ceil(len(next(iter(curves.values()))) / 20)
    later = np.concatenate([values[skipped:] for values in curves.values()])
    if not later.size or later.min() == later.max():
        return
    margin = 0.08 * (later.max() - later.min())
    low, high = later.min() - margin, later.max() + margin
    if not all(low <= values[0] <= high for values in curves.values()):
        ax.set_ylim(low, high)
        # On the right there is room on the side where the curves do not end.
        height, align = (0.96, "top") if later[-1] < (low + high) / 2 else (0.04, "bottom")
        text = "epoch 1: " + ", ".join(f"{values[0]:.4g} {name}" for name, values in curves.items())
        ax.text(0.97, height, text, ha="right", va=align, fontsize=9, transform=ax.transAxes)


# -------------------------------------------------------------------------------------------------- images


def reconstructions(
    vae: VAE,
    x: np.ndarray,
    n: int = 10,
    columns: int = 10,
    names: Sequence[str] | None = None,
    image_shape: Sequence[int] | None = None,
    ax: Axes | None = None,
    y: np.ndarray | int | None = None,
) -> Figure:
    """The first n examples, each above its reconstruction from the posterior mean, `columns` in a row.

    names : a word or letter for each example, written on it
    """
    shape = image_shape_of(vae, image_shape)
    x, n = vae.check_input(x), integer("reconstructions: n", n)
    classes = None if y is None else vae.labels.check(y, len(x))
    x, y = x[:n], None if classes is None else classes[:n]
    columns = integer("reconstructions: columns", columns)
    names = texts("reconstructions: names", () if names is None else names)
    originals, copies = _as_numbers(vae, x), vae.reconstruct(x, **_given(y))
    grid, labels = [], []
    for start in range(0, len(originals), columns):
        grid += [originals[start : start + columns], copies[start : start + columns]]
        labels += ["original", "reconstruction"]
    ax = _show(ax, grid, shape, row_labels=labels)
    for i, name in enumerate(names[: len(x)]):
        row, column = divmod(i, columns)
        corner = column * (shape[1] + GAP), 2 * row * (shape[0] + GAP)
        ax.text(*corner, name, color="orange", fontsize=10, fontweight="bold", va="top")
    ax.set_title("Inputs, each above its reconstruction from the posterior mean")
    return ax.figure


def draws(
    vae: VAE,
    x: np.ndarray,
    n: int = 10,
    seed: int = 0,
    image_shape: Sequence[int] | None = None,
    ax: Axes | None = None,
    y: np.ndarray | int | None = None,
) -> Figure:
    """Each example of x (a few) beside the decoder's mean at n draws of z from its posterior."""
    shape = image_shape_of(vae, image_shape)
    originals, n = _as_numbers(vae, x), integer("draws: n", n)
    noise = generator(check_seed("draws: seed", seed)).standard_normal((n, len(originals), vae.latent_dim), np.float32)
    copies = vae.reconstruct(x, noise, **_given(y))
    grid = [np.concatenate([originals[i : i + 1], copies[:, i]]) for i in range(len(originals))]
    ax = _show(ax, grid, shape, column_labels=["original", *map(str, range(1, n + 1))])
    ax.set(title="Inputs, and reconstructions from draws of z ~ q(z | x)", xlabel="draw")
    return ax.figure


def samples(
    vae: VAE,
    n: int = 100,
    seed: int | None = None,
    image_shape: Sequence[int] | None = None,
    ax: Axes | None = None,
    y: np.ndarray | int | None = None,
) -> Figure:
    """What the model invents: the mean of p(x given z) at n draws of z from the prior."""
    shape, n = image_shape_of(vae, image_shape), integer("samples: n", n)
    images = vae.sample(n, seed, **_given(y))
    columns = math.ceil(math.sqrt(n))
    ax = _show(ax, [images[start : start + columns] for start in range(0, n, columns)], shape)
    ax.set_title(f"{n} draws from the prior, decoded")
    return ax.figure


def styles(
    vae: VAE,
    x: np.ndarray,
    y: np.ndarray,
    class_names: Sequence[str] | None = None,
    image_shape: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Each example of x (a few), with its label in y, beside its posterior mean decoded as every class.

    For a conditional model, whose z need not say which class it is: a row keeps its style, a column its class.
    """
    _check_model(vae, "n_classes")
    if not vae.n_classes:
        raise MiniVAEError("styles needs a conditional model, VAE(..., n_classes=): this one knows no classes")
    shape = image_shape_of(vae, image_shape)
    originals, (mu, _) = _as_numbers(vae, x), vae.encode(x, y=y)
    classes = np.arange(vae.n_classes)
    names = texts("styles: class_names", classes if class_names is None else class_names)
    if len(names) != len(classes):
        raise MiniVAEError(f"styles: class_names should be {len(classes)} names, got {shown(class_names)}")
    grid = [
        np.concatenate([originals[i : i + 1], vae.decode(np.repeat(mu[i : i + 1], len(classes), axis=0), y=classes)])
        for i in range(len(mu))
    ]
    ax = _show(ax, grid, shape, column_labels=["original", *names])
    ax.set(title="The style of each input, in every class", xlabel="class")
    return ax.figure


def interpolation(
    vae: VAE,
    x_from: np.ndarray,
    x_to: np.ndarray,
    n: int = 10,
    image_shape: Sequence[int] | None = None,
    ax: Axes | None = None,
    y: int | None = None,
) -> Figure:
    """n decoded points of the straight line between two examples' posterior means, between the two themselves.

    y : for a conditional model, the class of both, as which the points are decoded
    """
    shape = image_shape_of(vae, image_shape)
    given = {"x_from": x_from, "x_to": x_to}
    ends = [vae.check_input(array(f"interpolation: {name}", x)[None]) for name, x in given.items()]
    originals = np.concatenate([_as_numbers(vae, x) for x in ends])
    mu = np.concatenate([vae.encode(x, **_given(y))[0] for x in ends])
    shares = np.linspace(0, 1, integer("interpolation: n", n), dtype=mu.dtype)[:, None]
    between = vae.decode((1 - shares) * mu[0] + shares * mu[1], **_given(y))
    labels = ["from", *(f"{share:.2f}" for share in shares[:, 0]), "to"]
    ax = _show(ax, [np.concatenate([originals[:1], between, originals[1:]])], shape, column_labels=labels)
    ax.set(title="Interpolation between two inputs", xlabel="share of the way in latent space")
    return ax.figure


def manifold(
    vae: VAE,
    n: int = 20,
    limits: Sequence[float] | None = None,
    grid: str = "linear",
    image_shape: Sequence[int] | None = None,
    ax: Axes | None = None,
    y: int | None = None,
) -> Figure:
    """What the decoder makes of an n x n grid of z: z1 grows to the right and z2 upwards, as in `latent_space`.

    grid   : "linear", in equal steps as the axes of `latent_space`, or "quantile", where each cell is equally likely
             under the prior, which is then to be the standard normal
    limits : of z, (-3, 3) by default; of a quantile grid the probabilities of the first and last cell, (0.05, 0.95)
    y      : for a conditional model, the class as which all is decoded
    """
    if _check_model(vae, "latent_dim", "decode").latent_dim != 2:
        raise MiniVAEError(
            f"manifold needs 2 latent dimensions, this model has {vae.latent_dim}: see samples or interpolation"
        )
    shape = image_shape_of(vae, image_shape)
    values, centres, ends, spacing = _grid_values(n, limits, grid)
    if grid == "quantile" and type(_check_model(vae, "prior").prior) is not StandardNormal:
        raise MiniVAEError(
            f"manifold: a quantile grid has the quantiles of N(0, 1), this model's prior is {shown(vae.prior)}: use "
            'grid="linear" with limits of your own, or latent_plane'
        )
    z1, z2 = np.meshgrid(values, values[::-1])  # the first row of a picture is its top, where z2 is largest
    images = vae.decode(np.stack([z1.ravel(), z2.ravel()], axis=1), **_given(y))
    picture = _mosaic(images.reshape(n, n, -1), shape, gap=0)
    ax = _axes(ax, 7, 7 * shape[0] / shape[1])
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(*ends, *ends), aspect=shape[0] / shape[1])
    if grid == "quantile":
        marked = np.unique(np.linspace(0, n - 1, min(n, 7)).round().astype(int))
        ticks = centres[marked], [f"{value + 0:.2f}" for value in values[marked].round(2)]  # + 0: no "-0.00"
        ax.set_xticks(*ticks)
        ax.set_yticks(*ticks)
    ax.set(title=f"Decoded latent plane, {n} x {n}{spacing}", xlabel="z1", ylabel="z2")
    return ax.figure


def _grid_values(n, limits, grid):
    """The n values of each coordinate, where their cells are centred and end in the drawing, and words for the title.

    A linear grid fills its limits with n cells; a quantile grid's cells are numbered.
    """
    integer("manifold: n", n, 2)
    one_of("manifold: grid", grid, ("linear", "quantile"))
    if limits is None:
        limits = (0.05, 0.95) if grid == "quantile" else (-3, 3)
    is_pair = isinstance(limits, (tuple, list, np.ndarray)) and len(limits) == 2
    low, high = map(number, limits) if is_pair else (math.nan, math.nan)
    if grid == "quantile":
        if not 0 < low < high < 1:
            raise MiniVAEError(
                f"manifold: a quantile grid needs limits within (0, 1), low before high, got {shown(limits)}: "
                'for values of z use grid="linear"'
            )
        spacing = f", at quantiles {low:g} to {high:g} of the prior"
        return ndtri(np.linspace(low, high, n)), np.arange(n), (-0.5, n - 0.5), spacing
    if not -math.inf < low < high < math.inf:
        raise MiniVAEError(f"manifold: limits should be two numbers, low before high, got {shown(limits)}")
    centres = low + (high - low) * (np.arange(n) + 0.5) / n
    return centres, centres, (low, high), ""


def image_shape_of(vae, image_shape):
    """(height, width) or (height, width, 3) of images of the model's X values."""
    side = math.isqrt(_check_model(vae, "input_dim").input_dim)
    shape = (side, side) if image_shape is None else tuple(integers("image_shape", image_shape))
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,)) or math.prod(shape) != vae.input_dim:
        raise MiniVAEError(
            f"{vae.input_dim} values are no image of shape {shape}: pass image_shape=(height, width) or "
            "(height, width, 3), or, for data that are no images, see loss_curves, latent_space, kl_per_dimension"
        )
    return shape if shape[2:] == (3,) else shape[:2]


def _check_model(vae, *wanted):
    """The model; raises MiniVAEError unless it is a VAE, or what looks like one as far as the drawing goes."""
    if isinstance(vae, type) or not all(hasattr(vae, name) for name in wanted):
        raise MiniVAEError(f"vae should be a VAE, got {named(vae)}")
    return vae


def _given(y):
    """Labels as an argument; without them there is none, so that what looks like a VAE need not take any."""
    return {} if y is None else {"y": y}


def _as_numbers(vae, x):
    """Examples as the model reads them, (N, X): uint8 pixels divided by 255."""
    x = vae.check_input(x)
    return x / 255 if x.dtype == np.uint8 else x


def _show(ax, grid, shape, row_labels=(), column_labels=()):
    """Draw rows of images, given as arrays (n, X), with a label for each row or column."""
    n_rows, n_columns = len(grid), max(map(len, grid))
    height, width = shape[0] + GAP, shape[1] + GAP
    size = min(1.0, 12 / n_columns)  # inches for an image
    ax = _axes(ax, n_columns * size + bool(row_labels), n_rows * size * height / width + 0.6)
    ax.imshow(_mosaic(grid, shape, GAP), cmap="gray", vmin=0, vmax=1)
    ax.set_xticks([j * width + (shape[1] - 1) / 2 for j in range(len(column_labels))], column_labels)
    ax.set_yticks([i * height + (shape[0] - 1) / 2 for i in range(len(row_labels))], row_labels)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def _mosaic(grid, shape, gap):
    """One picture, in [0, 1], of rows of images; what no image covers is white."""
    height, width = shape[0] + gap, shape[1] + gap
    picture = np.ones((len(grid) * height - gap, max(map(len, grid)) * width - gap, *shape[2:]))
    low = min(0, *(images.min() for images in grid))
    high = max(1, *(images.max() for images in grid))
    for i, images in enumerate(grid):
        for j, image in enumerate(images):
            place = np.s_[i * height : i * height + shape[0], j * width : j * width + shape[1]]
            picture[place] = (image.reshape(shape) - low) / (high - low)
    return picture


def _axes(ax, width, height):
    if ax is not None and not isinstance(ax, Axes):
        raise MiniVAEError(f"ax should be a matplotlib Axes, got {shown(ax)}")
    return ax if ax is not None else Figure(figsize=(width, height), layout="constrained").add_subplot()


# -------------------------------------------------------------------------------------------- latent space


def latent_plane(
    vae: VAE,
    x: np.ndarray,
    y: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    n: int = 20,
    image_shape: Sequence[int] | None = None,
    label: int | None = None,
) -> Figure:
    """Where the examples lie in a latent plane, and beside it, on the same axes, what the decoder draws there.

    label : for a conditional model, the class as which the decoder draws; y are those of the examples
    """
    if getattr(vae, "n_classes", None) and label is None:
        raise MiniVAEError("latent_plane: with a conditional model pass label=, the class as which the decoder draws")
    figure = Figure(figsize=(13, 6.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    latent_space(vae, x, y, class_names, ax=left)
    manifold(vae, n, left.get_xlim(), image_shape=image_shape, ax=right, y=label)
    title = "What the decoder draws there"
    if label is not None:
        title += f", as class {label if class_names is None or label >= len(class_names) else class_names[label]}"
    right.set(title=title, ylabel="")
    return figure


def latent_space(
    vae: VAE,
    x: np.ndarray,
    y: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Where examples lie in the latent space: their posterior means as points, coloured by class.

    y           : (N,) integers, the classes; a conditional model also encodes with them
    class_names : a name for each class, written where most of it lies; its number by default

    Circles are one, two and three standard deviations of the prior; another prior than the standard normal is drawn in
    the plane as lines of equal density, which hold 10, 50, 90 and 99% of it. With one latent dimension the posterior's
    standard deviation is the vertical axis, and there are none. More than two are projected on the first two principal
    components of the means, where 0 stays 0.
    """
    of_model = _given(y if getattr(vae, "n_classes", None) else None)
    mu, log_var = _check_model(vae, "encode", "latent_dim", "prior").encode(x, **of_model)
    points, labels = _plane(mu, log_var, getattr(vae, "posterior", None))
    ax = _axes(ax, 7, 7)
    order = generator(0).permutation(points.shape[1])  # so that no class hides those before it
    look = {"s": min(18, max(5, 4e4 / len(order))), "linewidths": 0}
    if y is None:
        ax.scatter(*points, color=COLOURS[0], alpha=0.6, **look)
    else:
        y, names = check_classes("latent_space", y, len(order), class_names)
        colours = _class_colours(len(names))
        dots = ax.scatter(
            *points[:, order], c=y[order], cmap=ListedColormap(colours), vmin=-0.5, vmax=len(names) - 0.5, **look
        )
        if len(names) > MOST_LABELLED:
            ax.figure.colorbar(dots, ax=ax, label="class")
    if vae.latent_dim > 1:
        _draw_prior(vae, ax, np.asarray(points))
    if y is not None and len(names) <= MOST_LABELLED:
        _label_classes(ax, points, y, names, colours)
    ax.set(title=f"{len(order):,} examples in the latent space", xlabel=labels[0], ylabel=labels[1])
    return ax.figure


def _draw_prior(vae, ax, points):
    """The standard normal's circles, in a square around 0 that holds all points (2, N); or another prior's density.

    That is drawn as lines, where the plane is all of the latent space, in a square around the points.
    """
    line = {"color": "black", "linewidth": 0.8, "alpha": 0.55}
    if type(vae.prior) is StandardNormal:
        middle, reach = np.zeros(2), max(1.04 * np.abs(points).max(), 3.2)
        for radius in (1, 2, 3):
            ax.add_patch(Circle((0, 0), radius, fill=False, **line))
        ax.plot([], [], label="the prior's 1, 2, 3 standard deviations", **line)
    else:
        ends = np.array([points.min(axis=1), points.max(axis=1)])
        middle, reach = ends.mean(axis=0), max(0.55 * np.ptp(ends, axis=0).max(), 1e-3)
    if type(vae.prior) is not StandardNormal and vae.latent_dim == 2 and draw_density(ax, vae, middle, reach):
        ax.plot([], [], label="the prior: 10, 50, 90, 99% of it", **line)
    if ax.lines:
        ax.legend(loc="lower right", fontsize=8, framealpha=0.9)
    (left, bottom), (right, top) = middle - reach, middle + reach
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")


def draw_density(ax, vae, middle, reach):
    """Lines of equal density of the prior of z (N, 2), which hold 10, 50, 90 and 99% of it, in a square around middle.

    Returns the contours; None where no such line crosses the square, or where all codes are equally likely.
    """
    z1, z2 = (np.linspace(centre - reach, centre + reach, 201) for centre in middle)
    log_pz = vae.log_prior(np.stack(np.meshgrid(z1, z2), axis=-1).reshape(-1, 2)).reshape(201, 201)
    levels = np.unique(np.quantile(vae.log_prior(vae.draw_prior(4000, generator(0))), [0.01, 0.1, 0.5, 0.9]))
    if not ((log_pz.min() < levels) & (levels < log_pz.max())).any():
        return None
    return ax.contour(z1, z2, log_pz, levels, colors="black", linewidths=0.8, linestyles="solid", alpha=0.55)


def _label_classes(ax, points, y, names, colours):
    """Write each class's name at the median of its points, in its colour; names that would overlap move apart."""
    present = [i for i in range(len(names)) if (y == i).any()]
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    size = np.array([right - left, top - bottom])
    # What a name takes up, as shares of an axes of some 500 points.
    room = np.array([[0.022 * len(names[i]) + 0.025, 0.045] for i in present])
    place = np.array([np.median(points[:, y == i], axis=1) for i in present]) / size
    for _ in range(200):
        apart = place[:, None] - place[None]
        overlap = (room[:, None] + room[None]) / 2 - np.abs(apart)
        clash = (overlap > 0).all(axis=-1) & ~np.eye(len(place), dtype=bool)
        if not clash.any():
            break
        # Along the axis on which less is to be moved; half of it each.
        axis = overlap.argmin(axis=-1)[..., None] == np.arange(2)
        move = np.where(clash[..., None] & axis, np.where(apart < 0, -0.3, 0.3) * overlap, 0)
        place = place + move.sum(axis=1)
    for i, at in zip(present, place * size, strict=True):
        ink = "black" if np.dot(to_rgb(colours[i]), (0.3, 0.59, 0.11)) > 0.5 else "white"
        box = {"boxstyle": "round,pad=0.25", "facecolor": colours[i], "edgecolor": "white", "linewidth": 1.2}
        ax.text(*at, names[i], color=ink, ha="center", va="center", fontsize=10, fontweight="bold", bbox=box)


def _plane(mu, log_var, posterior):
    """Points (2, N) for posteriors of any dimension, and what the two axes are."""
    if mu.shape[1] == 1:
        of = "the base of q(z1 | x)" if isinstance(posterior, FlowPosterior) else "q(z1 | x)"
        return np.stack([mu[:, 0], np.exp(log_var[:, 0] / 2)]), ("z1", f"standard deviation of {of}")
    if mu.shape[1] == 2:
        return mu.T, ("z1", "z2")
    directions, shares = principal_directions(mu)
    labels = [
        f"principal component {i} of the {mu.shape[1]} dimensions ({share:.0%} of the variance)"
        for i, share in enumerate(shares, 1)
    ]
    return directions @ mu.T, labels


def principal_directions(mu):
    """The first two principal components of points mu (N, D), (2, D), and the shares of the variance that they hold.

    Where the points do not vary, the directions are any two, and the shares 0.
    """
    mu = mu.astype(np.float64)
    centred = mu - mu.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    directions = directions[:, :-3:-1]
    # A direction's sign is arbitrary: let its largest coefficient be positive.
    directions = directions * np.sign(np.take_along_axis(directions, np.abs(directions).argmax(axis=0)[None], axis=0))
    return directions.T, variances[:-3:-1] / max(variances.sum(), np.finfo(float).tiny)


def check_classes(who, y, n, class_names):
    """y as n integers counted from 0, and a name for each class; raises MiniVAEError for what is none."""
    y, names = array(f"{who}: y", y), None if class_names is None else texts(f"{who}: class_names", class_names)
    if y.shape != (n,) or y.dtype.kind not in "iu":
        raise MiniVAEError(f"{who}: y should be {n} integers, one for each example, got {y.dtype} {y.shape}")
    if y.min() < 0 or y.max() >= (MOST_CLASSES if names is None else len(names)):
        of = "" if names is None else f" for {len(names)} class names"
        raise MiniVAEError(f"{who}: classes should be counted from 0, got {y.min()} to {y.max()}{of}")
    return y, [str(i) for i in range(y.max() + 1)] if names is None else names


def _class_colours(n):
    """n colours that are told apart as well as may be."""
    return COLOURS[:n] if n <= len(COLOURS) else list(colormaps["turbo"](np.linspace(0.03, 0.97, n)))


def kl_per_dimension(vae: VAE, x: np.ndarray, ax: Axes | None = None, y: np.ndarray | int | None = None) -> Figure:
    """The mean KL of each latent dimension, largest first; one whose mean does not vary has collapsed onto the prior.

        kl_d = mean over x of  1/2 (mu_d^2 + exp(log_var_d) - log_var_d - 1)

    nats per example. Grey are those that are no active units, see `VAE.active_units`. Raises MiniVAEError where the
    posterior is no diagonal Gaussian, or the prior not the standard normal.
    """
    _check_model(vae, "encode", "posterior", "prior")
    if type(vae.posterior) is not DiagonalGaussian or type(vae.prior) is not StandardNormal:
        raise MiniVAEError(
            f"kl_per_dimension needs a DiagonalGaussian posterior and the standard normal prior, whose KL is a sum "
            f"over dimensions, got {type(vae.posterior).__name__} and {type(vae.prior).__name__}"
        )
    mu, log_var = (stats.astype(np.float64) for stats in vae.encode(x, **_given(y)))
    kl = (0.5 * (mu**2 + np.exp(log_var) - log_var - 1)).mean(axis=0)
    order = np.argsort(-kl, kind="stable")
    active = (mu.var(axis=0) > 0.01)[order]
    n, room = len(kl), max(len(kl), 8)  # two bars need not fill the picture
    ax = _axes(ax, min(12, 2 + 0.35 * room), 3.5)
    ax.bar(np.arange(n), kl[order], width=0.7, color=np.where(active, COLOURS[0], INACTIVE))
    ax.set_xlim((n - 1 - room) / 2, (n - 1 + room) / 2)
    ax.set_xticks(np.arange(n) if n <= 32 else [], [f"z{d + 1}" for d in order] if n <= 32 else [])
    ax.set(
        title=f"KL of each latent dimension: {kl.sum():.2f} nats, {active.sum()} of {n} active",
        xlabel="latent dimension, largest KL first",
        ylabel="nats per example",
    )
    return ax.figure


# -------------------------------------------------------------------------------------------- architecture


def architecture(vae: VAE, ax: Axes | None = None) -> Figure:
    """The model as a drawing: down the encoder on the left, z at the bottom, up the decoder on the right.

    Each box is a layer with the shape of its output and its number of parameters; B stands for the batch. A box
    is the wider, the more values a row has.
    """
    table = rows(_check_model(vae, "encoder", "decoder", "likelihood"))
    parts = {part: [row for row in table if row.part == part] for part in ("encoder", "decoder")}
    posterior, likelihood = (next(row for row in table if row.part == part) for part in ("posterior", "likelihood"))
    depth = max(map(len, parts.values())) + 1
    ax = _axes(ax, 9, 0.75 * depth + 1.6)
    x = Row("encoder", "x", "input", vae.encoder.input_shape, 0)
    _draw_column(ax, -1, [*parts["encoder"][::-1], x], depth)
    _draw_column(ax, 1, [*parts["decoder"], replace(likelihood, layer=f"p(x | z): {likelihood.layer}")], depth)
    _draw_box(ax, 0, 0, replace(posterior, layer=f"z ~ q(z | x): {posterior.layer}"), 1.5)
    for start, end in (((-1, 0.68), (-0.5, 0.32)), ((0.5, 0.32), (1, 0.68))):
        _draw_arrow(ax, start, end)
    counts = [sum(row.parameters for row in parts[part]) for part in ("encoder", "decoder")]
    for side, name, count in zip((-1, 1), ("Encoder", "Decoder"), counts, strict=True):
        ax.text(side, depth + 0.6, f"{name}: {count:,} parameters", ha="center", fontweight="bold")
    ax.set(xlim=(-2, 2), ylim=(-0.5, depth + 0.9), title=f"{vae.parameters.flat.size:,} parameters")
    ax.set_axis_off()
    return ax.figure


def _draw_column(ax, side, boxes, depth):
    """Boxes from bottom to top, spread over the heights 1 to depth; arrows lead down on the left, up on the right."""
    heights = np.linspace(1, depth, len(boxes))
    sizes = np.log1p([math.prod(row.output) for row in boxes])
    for height, row, size in zip(heights, boxes, sizes, strict=True):
        _draw_box(ax, side, height, row, 0.8 + 0.8 * size / sizes.max())
    for low, high in zip(heights, heights[1:], strict=False):
        start, end = (low + 0.32, high - 0.32) if side > 0 else (high - 0.32, low + 0.32)
        _draw_arrow(ax, (side, start), (side, end))


def _draw_box(ax, centre, height, row, width):
    colour = "#cfe2f3" if row.parameters else "#eeeeee"
    corner = centre - width / 2, height - 0.3
    ax.add_patch(FancyBboxPatch(corner, width, 0.6, "round,pad=0,rounding_size=0.08", fc=colour, ec="#555555"))
    count = f"\n{row.parameters:,} parameters" if row.parameters else ""
    ax.text(centre, height, f"{row.layer}  {rows_of(row.output)}{count}", ha="center", va="center", fontsize=9)


def _draw_arrow(ax, start, end):
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#555555"})
