"""A page that shows one step of training in all its numbers: forward through the model, all the way back, the update.

The model's own `forward` is traced, with its parts watched: each notes which operations of the list are its own, what
it was given and what it gave, forward and backward. The page runs the same list as JavaScript, so that it can be run
again with another pixel, other noise or another beta.
"""

import ast
import copy
import html
import inspect
import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from ..arguments import array
from ..arguments import seed as check_seed
from ..arguments import text as check_text
from ..engine.javascript import Program
from ..engine.tracing import Value
from ..errors import MiniVAEError, named
from ..model.inference import to_unit
from ..model.layers import Sequential
from ..model.optimizers import Optimizer, RMSprop
from ..model.parameters import within
from ..model.vae import check_vae
from ..training.step import parameter_of
from .explain import name_of
from .explore import MOST_WEIGHTS, filled
from .plots import image_shape_of

TEMPLATE = Path(__file__).with_name("pages") / "one_step.html"

# The methods that are watched: what they give, and what their backward passes give besides parameters' gradients.
METHODS = {
    "forward": (["y"], ["dx"]),
    "with_kl": (["z", "kl", "floor"], ["dstats"]),
    "with_log_q": (["z", "log_q"], ["dstats"]),
    "log_prob": (["log_px"], ["dout"]),
    "prior.log_prob": (["log_pz"], ["dz"]),
    "pseudo_inputs": (["u"], []),
    "loss": (["loss", "reconstruction", "kl"], ["dlog_px", "dkl"]),
    "update": (["parameters"], []),
}
OF_PSEUDO_INPUTS = (
    "The prior is made of made-up examples u, which go through the encoder as x does: the gradients that both passes "
    "give its weights add up."
)


@dataclass
class Stage:
    """A part of the model at work: the numbers of its operations, and values by name, both ways."""

    name: str
    kind: str
    forward: tuple = (0, 0)
    backward: tuple = (0, 0)
    given: dict = field(default_factory=dict)
    gives: dict = field(default_factory=dict)
    given_back: dict = field(default_factory=dict)
    gives_back: dict = field(default_factory=dict)


def one_step(vae, x, y=None, optimizer=None, seed=0, image_shape=None, title="One step of training"):
    """The text of the page, for one example x (1, X) or (X,), with its label y for a conditional model.

    optimizer : RMSprop(1e-3) by default, in the state in which a training starts
    seed      : of the noise that the page starts with

    A prior's pseudo-inputs u go through the encoder's layers as well: these parts are named "encoder.0 of u".

    The page is one HTML file without links. It stays below 3 MB up to a million weights: where they are more than half
    a million, they are rounded to 16 bits, as the page says.
    """
    check_vae("one_step: vae", vae)
    optimizer = RMSprop() if optimizer is None else optimizer
    if not isinstance(optimizer, Optimizer):
        raise MiniVAEError(f"one_step: optimizer should be an instance such as Adam(1e-3), got {named(optimizer)}")
    title = check_text("one_step: title", title)
    shape = image_shape_of(vae, image_shape)
    x = vae.check_input(np.reshape(array("one_step: x", x), (1, -1)))
    pixels = to_unit(x, vae.dtype)
    if pixels.min() < 0 or pixels.max() > 1:
        raise MiniVAEError(f"one_step draws pixels: x should lie in 0 .. 1, got {x.min():g} .. {x.max():g}")
    labels = vae.labels.one_hot(vae.labels.check(y, 1), vae.dtype)
    weights = vae.backend.to_host(vae.parameters.flat).astype(vae.dtype)
    rounded = weights.nbytes > 4 * MOST_WEIGHTS
    if rounded:
        weights = weights.astype("f2").astype(vae.dtype)
    arrays = {
        "x": pixels,
        "eps": np.random.default_rng(check_seed("one_step: seed", seed))
        .standard_normal((1, 1, vae.latent_dim))
        .astype(vae.dtype),
        "beta": np.array([vae.beta], vae.dtype),
        "parameters": weights,
        "gradients": np.zeros_like(weights),
        "new parameters": np.zeros_like(weights),
        "losses": np.zeros((3, 1), vae.dtype),
        "optimizer.lr": np.array([optimizer.lr], vae.dtype),
        **{f"optimizer.{name}": np.asarray(array) for name, array in optimizer.fresh_state(weights).items()},
    } | ({} if labels is None else {"y": labels})
    stages, step = _watched(vae, optimizer)
    program = Program(step, arrays, vae.dtype, keep=True)
    page = _Page(vae, program)
    facts = {
        "height": shape[0], "width": shape[1], "channels": 3 if len(shape) == 3 else 1, "X": vae.input_dim,
        "D": vae.latent_dim, "K": next((stage.gives["u"].shape[0] for stage in stages if "u" in stage.gives), 1),
        "stages": [page.stage(stage) for stage in stages],
    }  # fmt: skip
    text = json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c")
    about = OF_PSEUDO_INPUTS if vae.prior.n_inputs else ""
    about += " The weights are rounded to 16 bits for this page." if rounded else ""
    program = f"const page = {text};\nconst step = ({program.text})();"
    return filled(TEMPLATE, title=html.escape(title), about=about, program=program)


# ---------------------------------------------------------------------------------------------- watching a model


def _watched(vae, optimizer):
    """A list that each run of the step fills with Stages, and the step, a function of arrays."""
    stages = []

    def watch(part, method, name):
        watched, run = copy.copy(part), getattr(part, method)
        setattr(watched, method, _watching(stages, name, type(part).__name__, method, run))
        return watched

    def network(sequential, name, of=""):
        return Sequential([watch(layer, "forward", f"{name}.{i}{of}") for i, layer in enumerate(sequential.layers)])

    model, of_u = copy.copy(vae), copy.copy(vae)
    model.prior, model._prior_params = watch(vae.prior, "log_prob", "prior"), of_u._prior_params
    of_u.prior = watch(vae.prior, "pseudo_inputs", "pseudo-inputs")
    of_u.encoder = network(vae.encoder, "encoder", " of u")
    model.encoder, model.decoder = network(vae.encoder, "encoder"), network(vae.decoder, "decoder")
    model.posterior = watch(vae.posterior, "with_kl" if vae.analytic else "with_log_q", "posterior")
    model.likelihood, model.bound = watch(vae.likelihood, "log_prob", "likelihood"), watch(vae.bound, "loss", "bound")
    update = _watching(stages, "update", type(optimizer).__name__, "update", optimizer.update)
    constants = {name: vae.backend.to_host(array) for name, array in vae.constants.items()}

    def step(a):
        stages.clear()
        params = vae.parameters.named(a["parameters"]) | constants
        losses, gradients = model.forward_and_backward(params, a["x"], a["eps"], a["beta"], a.get("y"))
        parameters, _ = update(gradients, a["parameters"], within(a, "optimizer"))
        return {"losses": losses, "gradients": gradients, "new parameters": parameters}

    return stages, step


def _watching(stages, name, kind, method, run):
    outputs, gradients = METHODS.get(f"{name}.{method}", METHODS[method])

    def watched(*given, **more):
        stage = Stage(name, kind, given=_flat(inspect.signature(run).bind(*given, **more).arguments))
        list_ = next(value for value in stage.given.values() if isinstance(value, Value)).trace
        start = len(list_.values)
        values, backward = run(*given, **more)
        stage.forward = start, len(list_.values)
        stage.gives = _flat(dict(zip(outputs, _tuple(values), strict=False)))
        stages.append(stage)

        def watched_backward(*given):
            start = len(list_.values)
            result = backward(*given)
            stage.backward = start, len(list_.values)
            *values, grads = _tuple(result) if method != "loss" else (*result, {})
            stage.given_back = _flat(dict(zip(inspect.signature(backward).parameters, given, strict=False)))
            of_parameters = {f"d{name}": value for name, value in grads.items()}
            stage.gives_back = _flat(dict(zip(gradients, values, strict=False)) | of_parameters)
            return result

        return values, watched_backward if callable(backward) else backward

    return watched


def _tuple(values):
    return values if isinstance(values, tuple) else (values,)


def _flat(named):
    """Values by name, those of a dict of parameters among them."""
    flat = {}
    for name, value in named.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return {name: value for name, value in flat.items() if isinstance(value, (Value, np.ndarray))}


# ------------------------------------------------------------------------------------------ what the page is told


class _Page:
    def __init__(self, vae, program):
        self.vae, self.program, self.plan = vae, program, program.plan
        self.live = {value.number: value for value in self.plan.values}

    def stage(self, stage):
        forward, backward = (
            [self.live[n] for n in range(*numbers) if n in self.live] for numbers in (stage.forward, stage.backward)
        )
        return {
            "name": stage.name,
            "kind": stage.kind,
            "functions": _functions(forward + backward),
            "forward": list(map(self.operation, forward)),
            "backward": list(map(self.operation, backward)),
            **{key: self.named(getattr(stage, key)) for key in ("given", "gives", "given_back", "gives_back")},
        }

    def named(self, values):
        """Where values lie, by name; a number for an array that is the same in every step, and None for one that nobody
        needs, and that is not computed.
        """
        return {name: self.where(value) for name, value in values.items()}

    def where(self, value):
        array = value if isinstance(value, np.ndarray) else value.ghost
        if isinstance(value, np.ndarray) or value.base.kind == "constant":
            return {"constant": float(array.flat[0]), "shape": array.shape}
        return self.program.at(value) if value.base.number in self.plan.arrays else None

    def operation(self, value):
        line = value.line
        return self.program.at(value) | {
            "number": value.number,
            "name": name_of(value),
            "inputs": [self.operand(source) for source in value.inputs],
            "kind": value.kind,
            "operands": [self.where(source) for source in value.inputs],
            "file": Path(line.file).name, "line": line.number, "text": line.text,
        } | ({"windows": _met(value)} if value.name in ("correlate", "correlate_weights") else {})  # fmt: skip

    def operand(self, value):
        base = value.base
        if base.kind == "input":
            return parameter_of(self.vae, value) or base.settings
        if base.kind == "constant":
            return f"{base.ghost.flat[0]:.4g}" if (base.ghost == base.ghost.flat[0]).all() else "constant"
        return f"%{base.number}" if value is base else f"%{base.number} seen as {value.shape}".replace(",)", ")")


def _met(value):
    """What meets in the windows of a convolution, along both axes: for each pixel of the windows' result, pairs of a
    pixel of x and a part of the kernel.
    """
    (windows,), (_, *sizes, _) = value.settings, value.inputs[0].shape
    axes = []
    for sweeps, size, result in zip((windows.down, windows.across), sizes, windows.size, strict=True):
        pairs = [[] for _ in range(result)]
        for sweep in sweeps:
            parts = range(windows.kernel)[sweep.taps]
            for i, pixel in enumerate(range(result)[sweep.pixels]):
                start = sweep.start + i * sweep.step
                pairs[pixel] += [[start + t, part] for t, part in enumerate(parts) if 0 <= start + t < size]
        axes.append(pairs)
    return axes


def _functions(values):
    """The functions in which operations stand: name, file, equations of the docstring, and the lines of the source."""
    found = {}
    for value in values:
        node, lines = _function_at(value.line.file, value.line.number)
        key = node and (value.line.file, node.lineno)
        if key and key not in found:
            found[key] = {
                "name": node.name,
                "file": Path(value.line.file).name,
                "about": ast.get_docstring(node) or "",
                "source": _without_docstring(node, lines[node.lineno - 1 : node.end_lineno]),
            }
    return list(found.values())


def _without_docstring(node, source):
    """The lines as [number, text], those of the docstring left out."""
    text = node.body[0]
    gone = range(text.lineno, text.end_lineno + 1) if ast.get_docstring(node) else ()
    numbered = [[node.lineno + i, line] for i, line in enumerate(source) if node.lineno + i not in gone]
    margin = min(len(re.match(" *", line)[0]) for _, line in numbered if line.strip())
    return [[number, line[margin:]] for number, line in numbered]


@cache
def _parsed(file):
    text = Path(file).read_text(encoding="utf-8")
    return ast.parse(text), text.splitlines()


def _function_at(file, number):
    """The outermost function, or method, around a line."""
    tree, lines = _parsed(file)
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    for node in (node for body in bodies for node in body):
        if isinstance(node, ast.FunctionDef) and node.lineno <= number <= node.end_lineno:
            return node, lines
    return None, lines
