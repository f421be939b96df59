"""A page on which one walks through a model's latent space: the decoder and the encoder run in the browser.

The page is one HTML file without links: data, weights and programs are in it. The programs are the model's own
equations, traced and written as JavaScript by `minivae.engine.javascript`.
"""

import base64
import html
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..arguments import integer, texts
from ..arguments import text as check_text
from ..engine.javascript import FROM_HALF, javascript
from ..errors import MiniVAEError
from ..model.parameters import within
from ..model.posteriors import DiagonalGaussian
from ..model.priors import StandardNormal
from .plots import check_classes, draw_density, image_shape_of, principal_directions

TEMPLATE = Path(__file__).with_name("pages") / "explore.html"
MOST_WEIGHTS = 500_000  # of 32 bits, so that a page stays below 3 MB; more are rounded to 16 bits
COLOURS = (  # told apart by those who see red and green alike, too (Paul Tol's "muted", and black)
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#000000",
)  # fmt: skip

LOAD = f"""
const numbers = (text, Type) => new Type(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
const halves = bits => Float32Array.from(bits, {FROM_HALF});
"""


def explore(vae, x, y=None, class_names=None, image_shape=None, title="A latent space", n_points=2000, n_examples=30):
    """The text of the page.

    x           : examples that were not trained on, (N, X) or (N, ...); the first of them can be chosen on the page
    y           : (N,) integers, their classes; needed for a conditional model
    class_names : a name for each class
    image_shape : as in `plots`

    With more than two latent dimensions the plane is that of the first two principal components of the posterior
    means, and each dimension has a slider. Grey are the standard normal prior's standard deviations or, in two
    dimensions, the lines of equal density of another prior, as in `plots.latent_space`. Raises MiniVAEError where x are
    no images of grey or coloured pixels.
    """
    shape, title = image_shape_of(vae, image_shape), check_text("explore: title", title)
    n_points, n_examples = integer("explore: n_points", n_points), integer("explore: n_examples", n_examples)
    x = vae.check_input(x)
    if y is None:
        names = texts("explore: class_names", range(vae.n_classes or 0) if class_names is None else class_names)
    else:
        y, names = check_classes("explore", y, len(x), class_names)
        y = y[:n_points]
    x = x[:n_points]
    pixels = x if x.dtype == np.uint8 else np.rint(255 * x)
    if not (pixels.min() >= 0 and pixels.max() <= 255):  # a NaN does not
        raise MiniVAEError(f"explore draws pixels: x should lie in 0 .. 1, got {x.min():g} .. {x.max():g}")
    mu, _ = vae.encode(x, y if vae.n_classes else None)
    mean, directions, labels = _plane(mu)
    points = (mu - mean) @ directions.T
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    reach = float(1.08 * max(3.2, np.abs(points).max()))
    facts = {
        "height": shape[0], "width": shape[1], "channels": 3 if len(shape) == 3 else 1, "X": vae.input_dim,
        "D": vae.latent_dim, "classes": vae.n_classes or 0, "names": names, "colours": COLOURS, "labels": labels,
        "gaussian": isinstance(vae.posterior, DiagonalGaussian), "standardPrior": type(vae.prior) is StandardNormal,
        "mean": mean.tolist(), "directions": directions.tolist(),
        "origin": [*(directions @ mean).tolist(), 0.0][:2], "reach": reach,
        "priorLines": _prior_lines(vae, reach),
        "pointClasses": None if y is None else y.tolist(),
        "exampleClasses": None if y is None else y[:n_examples].tolist(),
    }  # fmt: skip
    weights = vae.backend.to_host(vae.parameters.flat).astype("f4")
    rounded = weights.size > MOST_WEIGHTS
    bits = f"halves({typed_array(weights.astype('f2'), 'Uint16Array')})"
    facts["footer"] = f"{weights.size:,} weights" + ", rounded to 16 bits for this page" * rounded + "."
    program = [
        LOAD,
        f"const page = {json.dumps(facts).replace('<', chr(92) + 'u003c')};",
        f"page.points = {typed_array(points.astype('f4'), 'Float32Array')};",
        f"page.examples = {typed_array(pixels[:n_examples].astype('u1'), 'Uint8Array')};",
        f"const weights = {bits if rounded else typed_array(weights, 'Float32Array')};",
        f"page.decoder = ({decoder(vae)})();",
        f"page.encoder = ({encoder(vae)})();",
        "for (const part of [page.decoder, page.encoder]) part.arrays.parameters.set(weights);",
    ]
    return filled(TEMPLATE, title=html.escape(title), program="\n".join(program))


def filled(template, **texts):
    """A template with texts in the places of their names."""
    page = template.read_text(encoding="utf-8")
    for name, text in texts.items():
        page = page.replace("{{" + name + "}}", text)
    return page


def typed_array(array, kind):
    """A NumPy array as JavaScript."""
    return f'numbers("{base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()}", {kind})'


def _plane(mu):
    """A point, and at most two directions of length 1 from it, in which the points mu (N, D) lie; and their names."""
    D = mu.shape[1]
    if D <= 2:
        return np.zeros(D), np.eye(D), ["z1", "z2" if D == 2 else ""]
    directions, shares = principal_directions(mu)
    labels = [f"principal component {i} ({share:.0%} of the variance)" for i, share in enumerate(shares, 1)]
    return mu.mean(axis=0, dtype=np.float64), directions, labels


def _prior_lines(vae, reach):
    """The lines of equal density of a prior that is not the standard normal, each as [z1, z2, z1, z2, ...]."""
    if type(vae.prior) is StandardNormal or vae.latent_dim != 2:
        return []
    contours = draw_density(Figure().add_subplot(), vae, (0, 0), reach)
    levels = contours.allsegs if contours else []
    return [line.round(3).ravel().tolist() for lines in levels for line in lines]


def decoder(vae, n=1):
    """z -> the mean of p(x given z), of n rows, as JavaScript."""

    def step(a):
        params = vae.parameters.named(a["parameters"]) | vae.constants
        out = vae._decode(params, a["z"], a.get("y"))
        return {"mean": vae.likelihood.mean(within(params, "likelihood"), out)}

    return _program(vae, step, n, z=vae.latent_dim, mean=vae.input_dim)


def encoder(vae, n=1):
    """x and noise eps -> mu and log_var of q(z given x), and a draw z from it, of n rows, as JavaScript."""

    def step(a):
        params = vae.parameters.named(a["parameters"]) | vae.constants
        stats = vae._encode(params, a["x"], a.get("y"))
        of_posterior = within(params, "posterior")
        mu, log_var = vae.posterior.moments(of_posterior, stats)
        (z, _), _ = vae.posterior.with_log_q(of_posterior, stats, a["eps"][None])
        return {"mu": mu, "log_var": log_var, "z": z[0]}

    return _program(vae, step, n, x=vae.input_dim, **dict.fromkeys(("eps", "mu", "log_var", "z"), vae.latent_dim))


def _program(vae, step, n, **widths):
    if vae.n_classes:
        widths["y"] = vae.n_classes
    arrays = {name: np.zeros((n, width), vae.dtype) for name, width in widths.items()}
    return javascript(step, arrays | {"parameters": np.zeros(vae.parameters.flat.size, vae.dtype)}, vae.dtype)
