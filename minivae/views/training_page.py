"""A page on which a model trains: the latent plane orders itself while one watches, and turns beta up or down.

The step is that of `fit`, traced and written as JavaScript. The page has several variants of a model to choose from, so
that one sees what a mistake does.
"""

import base64
import gzip
import html
import json
from pathlib import Path

import numpy as np

from ..engine.javascript import javascript
from ..errors import MiniVAEError
from ..model.optimizers import RMSprop
from ..training.state import Training
from .explore import COLOURS, LOAD, decoder, encoder, filled

TEMPLATE = Path(__file__).with_name("pages") / "training.html"
STEPS = 64  # for which the page draws noise at a time
GRID = 12  # decoded images along each side of the plane
N_TEST = 300  # examples whose place in the plane is shown
MOST_CHARACTERS = 2_600_000  # for pixels, so that a page stays below 3 MB


def training_page(variants, x, x_test, y_test, class_names=None, batch_size=100, title="A training to watch"):
    """The text of the page, one HTML file without links.

    variants : title -> (a VAE, what is to be said about it); the first is chosen at first. All are trained with
               RMSprop from weights that the page draws anew, as `Dense` does
    x        : images in uint8 to train on, (N, height, width), of which the page takes as many as fit into 3 MB;
               5,000 digits make one of 1.3 MB
    x_test   : images whose posterior means are shown, with their classes y_test (N,)
    """
    if x.dtype != np.uint8 or x.ndim != 3:
        raise MiniVAEError(f"training_page: x should be (N, height, width) of uint8, got {x.shape} of {x.dtype}")
    x_test, y_test = x_test[:N_TEST], np.asarray(y_test)[:N_TEST]
    pixels = _packed(x, x_test)
    while len(pixels) > MOST_CHARACTERS and len(x) > 1:
        x = x[: max(1, int(0.98 * len(x) * MOST_CHARACTERS / len(pixels)))]
        pixels = _packed(x, x_test)
    batch_size = min(batch_size, len(x))
    facts = {
        "height": x.shape[1], "width": x.shape[2], "N": len(x), "nTest": len(x_test), "batch": batch_size,
        "names": list(map(str, class_names or range(int(y_test.max()) + 1))), "classes": y_test.tolist(),
        "colours": COLOURS, "grid": GRID, "steps": STEPS,
        "variants": [_facts(name, vae, about) for name, (vae, about) in variants.items()],
    }  # fmt: skip
    programs = [_programs(vae, x, len(x_test), batch_size) for vae, _ in variants.values()]
    program = [
        LOAD,
        f"const page = {json.dumps(facts).replace('<', chr(92) + 'u003c')};",
        f'const pixels = "{pixels}";',
        f"const programs = [{', '.join(programs)}];",
    ]
    return filled(TEMPLATE, title=html.escape(title), program="\n".join(program))


def _packed(x, x_test):
    return base64.b64encode(gzip.compress(np.concatenate([x, x_test]).tobytes(), 9, mtime=0)).decode()


def _facts(name, vae, about):
    """What the page says of a variant, and how it draws its weights: where each tensor starts, its fans, or 0 for 0."""
    tensors, start = [], 0
    for values in vae.parameters.values():
        fans = sum(values.shape) if values.ndim == 2 else 0
        tensors.append([start, values.size, fans])
        start += values.size
    return {"name": name, "about": about, "D": vae.latent_dim, "beta": vae.beta, "lr": 1e-3, "tensors": tensors}


def _programs(vae, x, n_test, batch_size):
    """The step, the encoder of the test images and the decoder of a grid, as JavaScript."""
    rows = np.arange(len(x) // batch_size * batch_size)
    training = Training(vae, RMSprop(), vae.check_input(x), None, rows, batch_size, 1, False, 0, None)
    step, _ = training.parts[0]
    arrays = {name: np.zeros(array.shape, array.dtype) for name, array in step.arrays.items()}
    arrays["noise"] = np.zeros((STEPS, arrays["noise"].shape[1]), vae.dtype)
    arrays["offsets"] = np.arange(batch_size)
    texts = javascript(step.step, arrays, vae.dtype), encoder(vae, n_test), decoder(vae, GRID**2)
    return f"{{step: {texts[0]}, encoder: {texts[1]}, decoder: {texts[2]}}}"
