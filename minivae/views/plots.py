"""Pictures of a model and its training. Every function returns a matplotlib Figure and draws it on no screen.

Save one with `figure.savefig("name.png")`; in a notebook, name it on the last line of a cell. Those with an `ax`
draw into that matplotlib Axes instead of a new Figure. x holds examples as everywhere, (N, X) or (N, ...), uint8
pixels or numbers. `image_shape` is (height, width) or (height, width, 3); without it, images are square and grey.
"""

import math
from dataclasses import replace

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from scipy.special import ndtri

from ..errors import MiniVAEError
from ..model.posteriors import DiagonalGaussian
from ..randomness import generator
from .summary import Row, rows, shape_text

MARKERS = "os^vDP<X>*hpd8H"
GAP = 2  # white pixels between images


def loss_curves(history, validation="validation"):
    """The loss and its parts by epoch, in training and, where it was measured, in validation.

    history    : what `fit` returned
    validation : what to call the validation data in the legend, for example "test"
    """
    if not history:
        raise MiniVAEError("loss_curves: the history has no epoch yet")
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    titles = {"loss": "Loss", "reconstruction": "Reconstruction: -E log p(x | z)", "kl": "KL(q(z | x) || p(z))"}
    for ax, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for prefix, label, style in (("train", "training", "--"), ("val", validation, "-")):
            if f"{prefix}_{name}" in history[0]:
                ax.plot(history["epoch"], history[f"{prefix}_{name}"], style, label=label)
        ax.set(title=title, xlabel="epoch", ylabel="nats per example")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3)
        ax.legend()
    return figure


# -------------------------------------------------------------------------------------------------- images


def reconstructions(vae, x, n=10, columns=10, names=None, image_shape=None, ax=None):
    """The first n examples, each above its reconstruction from the posterior mean, `columns` in a row.

    names : a word or letter for each example, written on it
    """
    shape = _image_shape(vae, image_shape)
    x = x[:n]
    originals, copies = _as_numbers(vae, x), vae.reconstruct(x)
    grid, labels = [], []
    for start in range(0, len(originals), columns):
        grid += [originals[start : start + columns], copies[start : start + columns]]
        labels += ["original", "reconstruction"]
    ax = _show(ax, grid, shape, row_labels=labels)
    for i, name in enumerate(names[:n] if names is not None else ()):
        row, column = divmod(i, columns)
        corner = column * (shape[1] + GAP), 2 * row * (shape[0] + GAP)
        ax.text(*corner, name, color="orange", fontsize=10, fontweight="bold", va="top")
    ax.set_title("Inputs and their reconstructions from the posterior mean")
    return ax.figure


def draws(vae, x, n=10, seed=0, image_shape=None, ax=None):
    """Each example of x (a few) beside the decoder's mean at n draws of z from its posterior."""
    shape = _image_shape(vae, image_shape)
    originals = _as_numbers(vae, x)
    noise = generator(seed).standard_normal((n, len(originals), vae.latent_dim), np.float32)
    copies = vae.reconstruct(x, noise)
    grid = [np.concatenate([originals[i : i + 1], copies[:, i]]) for i in range(len(originals))]
    ax = _show(ax, grid, shape, column_labels=["original", *map(str, range(1, n + 1))])
    ax.set(title="Inputs, and reconstructions from draws of z ~ q(z | x)", xlabel="draw")
    return ax.figure


def samples(vae, n=100, seed=None, image_shape=None, ax=None):
    """What the model invents: the mean of p(x given z) at n draws of z from the prior."""
    shape = _image_shape(vae, image_shape)
    images = vae.sample(n, seed)
    columns = math.ceil(math.sqrt(n))
    ax = _show(ax, [images[start : start + columns] for start in range(0, n, columns)], shape)
    ax.set_title(f"{n} draws from the prior, decoded")
    return ax.figure


def styles(vae, x, y, class_names=None, image_shape=None, ax=None):
    """Each example of x (a few), with its label in y, beside its posterior mean decoded as every class.

    For a conditional model, whose z need not say which class it is: a row keeps its style, a column its class.
    """
    if not vae.n_classes:
        raise MiniVAEError("styles needs a conditional model, VAE(..., n_classes=): this one knows no classes")
    shape = _image_shape(vae, image_shape)
    originals, (mu, _) = _as_numbers(vae, x), vae.encode(x, y=y)
    classes = np.arange(vae.n_classes)
    grid = [
        np.concatenate([originals[i : i + 1], vae.decode(np.repeat(mu[i : i + 1], len(classes), axis=0), y=classes)])
        for i in range(len(mu))
    ]
    ax = _show(ax, grid, shape, column_labels=["original", *map(str, class_names or classes)])
    ax.set(title="The style of each input, in every class", xlabel="class")
    return ax.figure


def interpolation(vae, x_from, x_to, n=10, image_shape=None, ax=None):
    """n decoded points of the straight line between two examples' posterior means, between the two themselves."""
    shape = _image_shape(vae, image_shape)
    ends = np.stack([x_from, x_to])
    originals, (mu, _) = _as_numbers(vae, ends), vae.encode(ends)
    shares = np.linspace(0, 1, n, dtype=mu.dtype)[:, None]
    between = vae.decode((1 - shares) * mu[0] + shares * mu[1])
    labels = ["from", *(f"{share:.2f}" for share in shares[:, 0]), "to"]
    ax = _show(ax, [np.concatenate([originals[:1], between, originals[1:]])], shape, column_labels=labels)
    ax.set(title="Interpolation between two inputs", xlabel="share of the way in latent space")
    return ax.figure


def manifold(vae, n=15, limits=(0.05, 0.95), grid="quantile", image_shape=None, ax=None):
    """What the decoder makes of an n x n grid of z: z1 grows to the right and z2 upwards, as in `latent_space`.

    grid : "quantile" takes `limits` as probabilities, so that each cell is equally likely under the prior, and
           "linear" as values of z, for example (-3, 3)
    """
    if vae.latent_dim != 2:
        raise MiniVAEError(
            f"manifold needs 2 latent dimensions, this model has {vae.latent_dim}: see samples or interpolation"
        )
    shape = _image_shape(vae, image_shape)
    values, centres = _grid_values(n, limits, grid)
    z1, z2 = np.meshgrid(values, values[::-1])  # the first row of a picture is its top, where z2 is largest
    images = vae.decode(np.stack([z1.ravel(), z2.ravel()], axis=1))
    picture = _mosaic(images.reshape(n, n, -1), shape, gap=0)
    half = (centres[1] - centres[0]) / 2
    ends = centres[0] - half, centres[-1] + half
    ax = _axes(ax, 8, 8 * shape[0] / shape[1])
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=(*ends, *ends), aspect=shape[0] / shape[1])
    if grid == "quantile":
        shown = np.unique(np.linspace(0, n - 1, min(n, 7)).round().astype(int))
        ticks = centres[shown], [f"{value + 0:.2f}" for value in values[shown].round(2)]  # + 0: no "-0.00"
        ax.set_xticks(*ticks)
        ax.set_yticks(*ticks)
    spacing = f"quantiles {limits[0]:g} to {limits[1]:g} of the prior" if grid == "quantile" else "equal steps"
    ax.set(title=f"Decoded latent plane, {n} x {n}, {spacing}", xlabel="z1", ylabel="z2")
    return ax.figure


def _grid_values(n, limits, grid):
    """The n values of each coordinate, and where their cells are centred in the drawing."""
    if n < 2:
        raise MiniVAEError(f"manifold: n should be at least 2, got {n!r}")
    low, high = limits
    if grid == "quantile":
        if not 0 < low < high < 1:
            raise MiniVAEError(
                f"manifold: a quantile grid needs limits within (0, 1), low before high, got {limits!r}: "
                'for values of z use grid="linear"'
            )
        return ndtri(np.linspace(low, high, n)), np.arange(n)
    if grid == "linear":
        if not low < high:
            raise MiniVAEError(f"manifold: limits should be low before high, got {limits!r}")
        return (np.linspace(low, high, n),) * 2
    raise MiniVAEError(f'manifold: grid should be "quantile" or "linear", got {grid!r}')


def _image_shape(vae, image_shape):
    """(height, width) or (height, width, 3) of images of the model's X values."""
    if image_shape is None:
        side = math.isqrt(vae.input_dim)
        image_shape = (side, side)
    shape = tuple(image_shape)
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,), (3,)) or math.prod(shape) != vae.input_dim:
        raise MiniVAEError(
            f"{vae.input_dim} values are no image of shape {shape}: pass image_shape=(height, width) or "
            "(height, width, 3), or, for data that are no images, see loss_curves, latent_space, kl_per_dimension"
        )
    return shape if shape[2:] == (3,) else shape[:2]


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
    return ax if ax is not None else Figure(figsize=(width, height), layout="constrained").add_subplot()


# -------------------------------------------------------------------------------------------- latent space


def latent_space(vae, x, y=None, class_names=None, ax=None):
    """The posterior means of x as points, coloured by class.

    y           : (N,) integers, the classes
    class_names : a name for each class; without it, or where all are numbers, a colour bar tells them apart,
                  otherwise a legend with a marker for each class

    With one latent dimension the posterior's standard deviation is the vertical axis. More than two are
    projected on their first two principal components.
    """
    points, labels = _plane(*vae.encode(x))
    ax = _axes(ax, 8, 6.5)
    look = {"s": 9, "alpha": 0.7, "linewidths": 0}
    if y is None:
        ax.scatter(*points, **look)
    else:
        y = _check_classes(y, points.shape[1], class_names)
        if class_names is None or all(name.isdecimal() for name in class_names):
            _scatter_with_colour_bar(ax, points, y, class_names, look)
        else:
            _scatter_with_markers(ax, points, y, class_names, look)
    ax.set(title=f"Posterior means of {points.shape[1]:,} examples", xlabel=labels[0], ylabel=labels[1])
    ax.set_aspect("equal", adjustable="datalim")
    return ax.figure


def _plane(mu, log_var):
    """Points (2, N) for posteriors of any dimension, and what the two axes are."""
    if mu.shape[1] == 1:
        return np.stack([mu[:, 0], np.exp(log_var[:, 0] / 2)]), ("z1", "standard deviation of q(z1 | x)")
    if mu.shape[1] == 2:
        return mu.T, ("z1", "z2")
    centred = mu - mu.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    directions = directions[:, :-3:-1]
    # A direction's sign is arbitrary: let its largest coefficient be positive.
    directions = directions * np.sign(np.take_along_axis(directions, np.abs(directions).argmax(axis=0)[None], axis=0))
    shares = variances[:-3:-1] / max(variances.sum(), np.finfo(float).tiny)
    labels = [f"principal component {i} of the {mu.shape[1]} dimensions ({share:.0%} of the variance)"
              for i, share in enumerate(shares, 1)]
    return (centred @ directions).T, labels


def _check_classes(y, n, class_names):
    y = np.asarray(y)
    if y.shape != (n,) or y.dtype.kind not in "iu":
        raise MiniVAEError(f"latent_space: y should be {n} integers, one for each example, got {y.dtype} {y.shape}")
    if y.min() < 0 or (class_names is not None and y.max() >= len(class_names)):
        names = "" if class_names is None else f" for {len(class_names)} class names"
        raise MiniVAEError(f"latent_space: classes should be counted from 0, got {y.min()} to {y.max()}{names}")
    return y


def _class_colours(n):
    """n colours that are told apart as well as may be."""
    from matplotlib import colormaps

    return colormaps["tab10"].colors[:n] if n <= 10 else colormaps["turbo"](np.linspace(0.03, 0.97, n))


def _scatter_with_colour_bar(ax, points, y, class_names, look):
    n = len(class_names) if class_names else int(y.max()) + 1
    norm = BoundaryNorm(np.arange(n + 1) - 0.5, n)
    dots = ax.scatter(*points, c=y, cmap=ListedColormap(_class_colours(n)), norm=norm, **look)
    bar = ax.figure.colorbar(dots, ax=ax, ticks=range(n), label="class")
    bar.solids.set_alpha(1)
    bar.ax.set_yticklabels(class_names or range(n))


def _scatter_with_markers(ax, points, y, class_names, look):
    for i, (name, colour) in enumerate(zip(class_names, _class_colours(len(class_names)), strict=True)):
        # A letter is its own best marker.
        is_letter = len(name) == 1 and name.isalpha()
        marker, size = (f"${name}$", 36) if is_letter else (MARKERS[i % len(MARKERS)], 16)
        ax.scatter(*points[:, y == i], color=colour, marker=marker, label=name, **(look | {"s": size}))
    legend = ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), markerscale=1.5, ncols=1 + len(class_names) // 15)
    for handle in legend.legend_handles:
        handle.set_alpha(1)


def kl_per_dimension(vae, x, ax=None):
    """The mean KL of each latent dimension, largest first; one near 0 has collapsed onto the prior.

        kl_d = mean over x of  1/2 (mu_d^2 + exp(log_var_d) - log_var_d - 1)

    nats per example. Raises MiniVAEError where the posterior is no diagonal Gaussian.
    """
    if type(vae.posterior) is not DiagonalGaussian:
        raise MiniVAEError(
            f"kl_per_dimension needs a DiagonalGaussian posterior, whose KL is a sum over dimensions, "
            f"got {type(vae.posterior).__name__}"
        )
    mu, log_var = (stats.astype(np.float64) for stats in vae.encode(x))
    kl = (0.5 * (mu**2 + np.exp(log_var) - log_var - 1)).mean(axis=0)
    order = np.argsort(-kl, kind="stable")
    ax = _axes(ax, 8, 4)
    ax.bar(np.arange(len(kl)), kl[order])
    if len(kl) <= 32:
        ax.set_xticks(np.arange(len(kl)), [f"z{d + 1}" for d in order])
    ax.set(title=f"KL of each latent dimension, {kl.sum():.2f} nats in all",
           xlabel="latent dimension, largest KL first", ylabel="nats per example")
    return ax.figure


# -------------------------------------------------------------------------------------------- architecture


def architecture(vae, ax=None):
    """The model as a drawing: down the encoder on the left, z at the bottom, up the decoder on the right.

    Each box is a layer with the shape of its output and its number of parameters; B stands for the batch. A box
    is the wider, the more values a row has.
    """
    table = rows(vae)
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
    ax.text(centre, height, f"{row.layer}  {shape_text(row.output)}{count}", ha="center", va="center", fontsize=9)


def _draw_arrow(ax, start, end):
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#555555"})
