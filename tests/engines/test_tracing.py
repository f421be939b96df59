"""A traced step freezes nothing that may change; what cannot be traced is named, and runs as it stands."""

import linecache
import re
import sys
import threading

import numpy as np
import pytest

import minivae as mv
from minivae import get_backend, rows
from minivae.engine.backend import Eager, NumpyBackend
from minivae.engine.tracing import Untraceable, trace
from minivae.training.state import Training


def x(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# --------------------------------------------------------------------------------------------- frozen values


def whole_training(backend):
    """A training whose step reads every kind of array that there is."""
    flow = mv.InverseAutoregressive(3, 5, context=2)
    encoder, decoder = [mv.Dense(9, 5), mv.ReLU(), mv.Dense(5, 8)], [mv.Dense(6, 6)]
    vae = mv.VAE(encoder, decoder, posterior=mv.FlowPosterior([flow]), n_classes=3, backend=backend)
    data = np.random.default_rng(0).integers(0, 256, (20, 6), np.uint8)
    optimizer = mv.ClipNorm(mv.Adam(1e-2), 0.1)
    training = Training(vae, optimizer, data, np.arange(20) % 3, np.arange(20), 5, 2, True, 0, {})
    step = training.parts[0][0]
    step.noise.refill(4, np.random.default_rng(1), np.random.default_rng(2))
    return step


def changed(host):
    """Other values that make sense in the array's place."""
    if host.dtype.kind in "iu":
        return np.roll(host, 1) if host.size > 1 else host + 1
    with np.errstate(all="ignore"):  # not all of the noise has been drawn yet
        return host * 0.5 + 0.125 if host.size > 1 else host * 0.5


READ = [
    *("data", "labels", "permutation", "cursor", "offsets", "noise", "noise_row", "thresholds", "totals", "beta"),
    *("parameters", "optimizer.lr", "optimizer.m", "optimizer.v", "optimizer.powers"),
    *("constants.posterior.0.0.mask", "constants.posterior.0.2.mask"),
]


def test_the_list_of_what_a_step_reads_is_complete():
    assert set(READ) == whole_training("numpy").arrays.keys() - {"gradients"}


@pytest.mark.parametrize("name", READ)
def test_no_array_that_a_step_reads_is_frozen(backend, name):
    """A change after tracing is seen, and does what it does in plain NumPy."""
    results = {}
    for where, change in ((backend, True), (NumpyBackend(compiled=False), True), (NumpyBackend(compiled=False), False)):
        step = whole_training(where)
        step.run()
        if change:
            array = step.arrays[name]
            where.upload(changed(np.array(where.to_host(array))), to=array)
        step.run()
        moved = ("parameters", "gradients", "totals", "cursor", "noise_row")
        results[where.name, change] = {key: np.array(where.to_host(step.arrays[key])) for key in moved}
        last = results[where.name, change]
        if where is backend:
            ours = last
    theirs, unchanged = results["numpy", True], results["numpy", False]
    assert any((theirs[key] != unchanged[key]).any() for key in theirs)
    for key in ours:
        if backend.name == "numpy":
            np.testing.assert_array_equal(ours[key], theirs[key])
        else:
            np.testing.assert_allclose(ours[key], theirs[key], rtol=2e-3, atol=1e-5)


def test_arrays_of_a_parts_own_are_constants_even_when_changed_later():
    scale = np.full(3, 2, "float32")
    arrays = {"x": x(4, 3), "y": np.zeros((4, 3), "float32")}
    step = get_backend("numpy").compile(lambda a: {"y": a["x"] * scale + (1 - scale)}, arrays)
    scale[...] = 5
    step()
    np.testing.assert_array_equal(arrays["y"], arrays["x"] * np.float32(2) - 1)


def test_a_constant_that_a_step_goes_on_to_change_is_read_when_it_is_used():
    def step(a):
        scale, y = np.ones(3, "float32"), a["x"]
        for i in range(3):
            scale[...] = i
            y = y + scale
        return {"y": y}

    assert_same(step, {"x": x(4, 3), "y": x(4, 3)})


def test_what_differs_by_its_sign_or_type_only_is_not_the_same_constant():
    assert_same(
        lambda a: {"y": np.copysign(a["x"], 0.0), "z": np.copysign(a["x"], -0.0)},
        dict(zip("xyz", x(3, 2, 4), strict=True)),
    )


def test_clip_by_the_names_of_its_bounds():
    step = lambda a: {"y": np.clip(a["x"], a_min=-0.5, a_max=a["x"] * 2)}  # noqa: E731
    assert_same(step, dict(zip("xy", x(2, 3, 4), strict=True)))


def test_equal_operations_are_shared_and_what_nobody_needs_falls_away():
    def step(a):
        y = np.exp(a["x"]) + np.exp(a["x"])
        a["x"] @ a["x"].T  # nobody needs it
        return {"y": y}

    assert [value.name for value in trace(step, {"x": x(3, 3), "y": x(3, 3)}).live()] == ["input", "exp", "add"]


def test_the_first_layers_dx_is_not_computed():
    step = whole_training("numpy")
    list_ = trace(step.step, step.arrays, np.float32)
    assert not any(value.shape == (5, 9) and value.kind == "matmul" for value in list_.live()[1:])
    assert any(value.shape == (5, 9) and value.kind == "matmul" for value in list_.values[1:])


def test_values_know_their_line():
    step = whole_training("numpy")
    list_ = trace(step.step, step.arrays, np.float32)
    files = {value.line.file.rsplit("/", 1)[-1] for value in list_.live() if value.kind != "input"}
    assert {"layers.py", "flows.py", "likelihoods.py", "optimizers.py", "step.py"} <= files
    assert not files & {"tracing.py", "fromnumeric.py", "mixins.py"}
    products = {value.line.text for value in list_.live() if value.kind == "matmul"}
    assert "return x @ W + b, backward" in products


# ------------------------------------------------------------------------------------ what cannot be traced


def assert_same(step, arrays, dtype=None, compiled=True):
    """The step does the same compiled as it does plainly, in two calls; arrays are the first values."""
    results = []
    for kind in (True, False):
        held = {name: array.copy() for name, array in arrays.items()}
        run = NumpyBackend(compiled=kind).compile(step, held, dtype)
        assert isinstance(run, Eager) != (kind and compiled)
        run()
        run()
        results.append(held)
    for name in arrays:
        np.testing.assert_array_equal(results[0][name], results[1][name], err_msg=name)


class Dropout:
    """A layer as people write it: random numbers of its own."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, a):
        return a["x"] * (self.rng.random(a["x"].shape) < 0.5).astype("float32")


class Started:
    """A rule that does something more in its first step."""

    def __init__(self):
        self.fresh = True

    def __call__(self, a):
        y = a["x"] + 1
        y = y * 2 if self.fresh else y
        self.fresh = False
        return y


class Alternating:
    """A rule that gives one of two values in turn."""

    def __init__(self):
        self.t = 0

    def __call__(self, a):
        self.t += 1
        values = a["x"] + 1, a["x"] + 2
        return values[self.t % 2]


class Counted:
    """A rule whose step size depends on how often it was called."""

    def __init__(self):
        self.t = 0

    def __call__(self, a):
        self.t += 1
        return a["x"] * (1 - 0.5**self.t)


def swallow(a):
    try:
        scale = 2 if (a["x"] > 0).any() else 1
    except ValueError:
        scale = 3
    return a["x"] * scale


def take_arrays_only(a):
    if not isinstance(a["x"], np.ndarray):
        raise TypeError("arrays only")
    return a["x"] * 2


TABLE = np.arange(12, dtype="float32").reshape(4, 3)


def add_in_place(a):
    y = a["x"] * 1
    y += 1
    return y


def write_in_place(a):
    y = a["x"] * 1
    y[0] = 1
    return y


def write_into_own_array(a):
    y = np.zeros((4, 3), "float32")
    np.add(a["x"], 1, out=y)
    return y


def write_into_own_slice(a):
    y = np.zeros((4, 3), "float32")
    y[1:] = a["x"][1:]
    return y


# Name -> what a step does with x (4, 3), i (4,) integers from 0 to 3, s (1,) float64, u (4, 30) uint8, which is the new
# value of y, or z; and what the message says.
UNTRACEABLE = {
    "if": (lambda a: a["x"] * (2 if (a["x"] > 0).any() else 1), "look at values"),
    "if of an array": (lambda a: a["x"] * (2 if a["s"] > 0 else 1), "look at values"),
    "float": (lambda a: a["x"] * a["s"].item(), "look at values"),
    "except": (swallow, "look at values"),
    "isinstance": (take_arrays_only, "TypeError: arrays only"),
    "function of arrays": (lambda a: np.ndarray.copy(a["x"]), "TypeError: descriptor 'copy'"),
    "argument of a method": (lambda a: a["x"].ravel("F").reshape(4, 3), "TypeError: .*positional arg"),
    "flat join": (lambda a: np.concatenate([a["x"], a["x"]], axis=None)[:12].reshape(4, 3), "joins along an axis"),
    "asarray": (lambda a: np.asarray(a["x"]) * 2, "look at values"),
    "array of values": (lambda a: np.array([a["x"][0], *a["x"][1:4].tolist()]), "look at values"),
    "for": (lambda a: np.stack([row * 2 for row in a["x"]]), "look at values"),
    "sum": (lambda a: a["x"] + sum(a["x"]), "look at values"),
    "in": (lambda a: a["x"] * (2 if 0.5 in a["x"] else 1), "look at values"),
    "+=": (add_in_place, r"x = x \+ y for x \+= y"),
    "assignment": (write_in_place, "changes no array in place"),
    "out=": (write_into_own_array, "leave out out="),
    "own array": (write_into_own_slice, "look at values"),
    "where=": (lambda a: np.exp(a["x"], where=a["x"] > 0, out=np.zeros_like(TABLE)), "leave out"),
    "sum where=": (lambda a: a["x"] + np.sum(a["x"], axis=0, where=a["x"] > 0), "axis= and keepdims= only"),
    "sum dtype=": (lambda a: a["x"] + a["x"].sum(0, np.float64), "axis= and keepdims= only"),
    "sum initial=": (lambda a: a["x"] + np.max(a["x"], 0, initial=1), "axis= and keepdims= only"),
    "full sum": (lambda a: a["x"] + np.sum(a["x"]), "keepdims=True"),
    "sum of float16": (lambda a: a["x"] + np.sum(a["x"].astype("float16"), keepdims=True), "cast it with .astype"),
    "sum of integers": (lambda a: a["x"] + np.sum(a["i"], keepdims=True), "cast it with .astype"),
    "single value": (lambda a: a["x"] + a["s"][0], r"x\[i : i \+ 1\]"),
    "no value": (lambda a: np.concatenate([a["x"], a["x"][:0]]), "no value"),
    "array of no value": (lambda a: np.concatenate([a["x"], TABLE[:0]]), "holds no value"),
    "3-D product": (lambda a: (a["x"].reshape(2, 2, 3) @ np.eye(3, dtype="float32")).reshape(4, 3), "two matrices"),
    "product of wide": (lambda a: a["u"][:, :4].astype("float32") @ np.eye(4, 30), "float32 and float64"),
    "wide product of integers": (lambda a: a["u"][:, :4] @ a["u"], "uint8 and uint8"),
    "product of vectors": (lambda a: (a["x"] @ TABLE[0])[:, None] + 0 * a["x"], "two matrices"),
    "table[i]": (lambda a: TABLE[a["i"]], r"rows\(table, index\)"),
    "list as index": (lambda a: a["x"][[0, 1, 3, 2]], r"rows\(table, index\)"),
    "list beside a slice": (lambda a: a["x"][:, [1, 0, 2]], r"rows\(table, index\)"),
    "mask as index": (lambda a: a["x"] + np.sum(a["x"][a["x"][:, 0] > 0], axis=0), r"rows\(table, index\)"),
    "positions from the end": (lambda a: a["x"][a["i"] - 1], r"rows\(table, index\)"),
    "bool as index": (lambda a: a["x"][True][0], "integers and slices"),
    "unknown function": (lambda a: np.cumsum(a["x"], axis=0), "np.cumsum is not known"),
    "unknown method": (lambda a: a["x"].cumsum(axis=0), "no .cumsum"),
    "unknown argument": (lambda a: np.concatenate([a["x"]], dtype="float64"), "np.concatenate, as .* argument 'dtype'"),
    "parts of two dtypes": (lambda a: np.concatenate([a["x"][:2], TABLE[:2].astype(int)]), "parts of one dtype"),
    "argument in a place": (lambda a: a["x"] + np.mean(a["x"], 0, np.float64), "axis= and keepdims= only"),
    "accumulate": (lambda a: np.add.accumulate(a["x"]), "np.add.accumulate"),
    "two results": (lambda a: np.modf(a["x"])[0], "np.modf is not known"),
    "reduction": (lambda a: a["x"] + np.multiply.reduce(a["x"]), "np.multiply.reduce"),
    "generalized ufunc": (lambda a: np.vecdot(a["x"], TABLE)[:, None] + 0 * a["x"], "np.vecdot"),
    "other order": (lambda a: np.reshape(a["x"], (2, 6), order="F").reshape(4, 3), "it makes a copy"),
    "order=": (lambda a: a["x"].reshape(2, 6, order="F").reshape(4, 3), "leave out order="),
    "order of a vector": (lambda a: a["x"].ravel(order="F").reshape(4, 3), "leave out order="),
    "order of a cast": (lambda a: a["x"].astype("float64", order="F"), "leave out order="),
    "own product": (lambda a: (lambda p, q: p @ q.T @ p)(a["x"] * 2, a["x"] * 2), "compute it once"),
    "product with a copy": (lambda a: (lambda p: p @ p.astype("float32").T @ p)(a["x"] * 2), "compute it once"),
    "power": (lambda a: a["x"] ** 3, "powers are"),
    "power of integers": (lambda a: a["x"] * (a["i"] ** 0.5)[:, None], "powers are"),
    "power by an array": (lambda a: 2.0 ** a["x"], "powers are"),
    "pixels become wide": (lambda a: a["u"] * (1 / 255), "uint8, float64 make float64"),
    "mask becomes wide": (lambda a: (a["u"] > 3) * 0.5, "bool, float64 make float64"),
    "one wide value": (lambda a: a["u"].astype("float32") * a["s"], "float32, float64 make float64"),
    "wide scalar": (lambda a: a["u"].astype("float32") * np.float64(0.5), "float32, float64 make float64"),
    "wide cast": (lambda a: a["u"].astype("float64"), "uint8 make float64"),
    "wide choice": (lambda a: np.where(a["u"] > 3, 1.0, 0.0), r"make float64.*\.astype\(float32\)"),
    "number out of range": (lambda a: (a["u"] < 300).astype("float32"), "300 out of bounds"),
    "random numbers": (Dropout(), "differs from one step to the next"),
    "counter": (Counted(), "differs from one step to the next"),
    "first step": (Started(), "differs from one step to the next"),
    "alternation": (Alternating(), "differs from one step to the next"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_what_cannot_be_traced_is_named_and_runs_as_it_stands(name, capsys):
    function, message = UNTRACEABLE[name]
    target = "z" if re.search("wide|range", name) else "y"
    arrays = {"x": x(4, 3), "i": np.array([2, 0, 3, 1]), "s": np.full(1, 0.3)}
    arrays |= {"u": np.arange(120, dtype="uint8").reshape(4, 30)}
    arrays |= {"y": np.zeros((4, 3), "float32"), "z": np.zeros((4, 30), "float32")}
    original = {key: array.copy() for key, array in arrays.items()}
    run = get_backend("numpy").compile(lambda a: {target: function(a)}, arrays, "float32")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "runs uncompiled" in said
    (line,) = re.findall(r"test_tracing.py:(\d+)", said)
    first = (function if hasattr(function, "__code__") else type(function).__call__).__code__.co_firstlineno
    assert first <= int(line) < first + 4
    _, why = said.split(linecache.getline(__file__, int(line)).strip())
    assert re.search(message, why)
    run()
    if name not in ("random numbers", "counter", "first step", "alternation"):
        np.testing.assert_array_equal(arrays[target], function(original).astype("float32"))


def test_random_numbers_and_counters_run_on():
    first, second = Dropout(), Counted()
    arrays = {"x": x(100, 30), "y": x(100, 30), "z": x(100, 30)}
    run = get_backend("numpy").compile(lambda a: {"y": first(a), "z": second(a)}, arrays)
    seen = []
    for _ in range(2):
        run()
        seen.append((arrays["y"].copy(), arrays["z"].copy()))
    assert (seen[0][0] != seen[1][0]).any() and (seen[0][1] != seen[1][1]).any()


def test_a_constant_that_shares_memory_with_an_input_is_refused(capsys):
    data = x(4, 3)
    arrays = {"x": data, "y": np.zeros((2, 3), "float32")}
    run = get_backend("numpy").compile(lambda a: {"y": a["x"][:2] + data[1:3]}, arrays)
    assert "reads the memory of 'x' past the stand-in" in capsys.readouterr().err
    data[...] = 1
    run()
    assert (arrays["y"] == 2).all()


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_inputs_without_axes_or_values_are_refused_and_run(shape, capsys):
    arrays = {"x": np.ones(shape, "float32"), "y": np.zeros(shape, "float32")}
    get_backend("numpy").compile(lambda a: {"y": a["x"] + 1}, arrays)()
    assert "'x' should have an axis and a value" in capsys.readouterr().err
    assert (arrays["y"] == 2).all()


@pytest.mark.parametrize(
    "results, message", [(None, "new values"), ({"z": 1}, "new values"), ({"y": 1.0}, r"shape \(3,\)")]
)
def test_a_step_returns_new_values_by_name(results, message):
    with pytest.raises(Untraceable, match=message):
        trace(lambda a: results, {"x": x(3), "y": x(3)})


def test_values_of_two_traces_do_not_mix():
    kept = []

    def keep(a):
        kept.append(a["x"])
        return {"y": a["x"] + 1}

    arrays = {"x": x(3), "y": x(3)}
    alive, gone = trace(keep, arrays), kept[0]  # which was kept when the step was traced first
    for value in kept[-1], gone:
        with pytest.raises(Untraceable, match="trace of another step"):
            trace(lambda a, value=value: {"y": a["x"] + value}, arrays)
    assert kept[-1].trace is alive and gone._trace() is None


def test_a_part_that_keeps_arrays_learns_how_it_may():
    def running_mean():
        kept = [np.zeros(3, "float32")]

        def step(a):
            kept[0] = 0.5 * kept[0] + 0.5 * np.mean(a["x"], axis=0)
            return {"y": a["x"] - kept[0]}

        return step

    arrays = {"x": np.ones((4, 3), "float32"), "y": np.zeros((4, 3), "float32")}
    with pytest.raises(mv.MiniVAEError, match="needs vae.backend.compiled = False"):
        get_backend("numpy").compile(running_mean(), arrays)()
    run = NumpyBackend(compiled=False).compile(running_mean(), arrays)
    for left in 0.5, 0.25:
        run()
        assert (arrays["y"] == left).all()


@pytest.mark.parametrize(
    "step, message",
    [
        (lambda a: rows(a["x"], a["x"]), "takes integers as index, got float32"),
        (lambda a: ~a["x"], "np.invert does not take float32"),
        (lambda a: a["x"] + a["x"][:3], "do not fit together"),
        (lambda a: np.concatenate([a["x"], a["x"][:, :2]]), "do not fit together along axis 0"),
    ],
)
def test_what_numpy_itself_does_not_do(step, message):
    with pytest.raises(Untraceable, match=f"{message}$"):  # the end, since the line itself stands before it
        trace(lambda a: {"x": step(a)}, {"x": x(4, 3)})
    with pytest.raises((TypeError, ValueError)):
        step({"x": x(4, 3)})


def test_a_step_without_source_is_named_by_its_function():
    scope = {}
    exec("def look(a):\n    return {'y': a['x'] if a['x'].any() else a['x']}", scope)
    with pytest.raises(Untraceable, match="<string>:2: look: a traced step cannot look at values"):
        trace(scope["look"], {"x": x(3), "y": x(3)})


def test_an_error_of_a_step_is_its_own():
    with pytest.raises(ZeroDivisionError):
        get_backend("numpy").compile(lambda a: {"y": 1 / 0}, {"y": x(3)})()


# ------------------------------------------------------------------------------------- what can be traced

TRACEABLE = {
    "few wide values": lambda a: {"y": a["x"] * (a["s"] * 3).astype("float32")},
    "numpy integers as index": lambda a: {"y": a["x"][:: np.int64(-1)] + a["x"][np.int64(2)]},
    "rows": lambda a: {"y": rows(a["x"], a["i"]) + rows(TABLE, a["i"])},
    "condition of floats": lambda a: {"y": np.where(a["x"], 1, a["x"])},
    "clip": lambda a: {"y": np.clip(a["x"], -0.1, a["s"].astype("float32"))},
    "methods": lambda a: {"y": a["x"] - a["x"].mean(0) + a["x"].max(1, keepdims=True) + a["x"].min(axis=0)},
    "sum as a method": lambda a: {"y": a["x"] - a["x"].sum(0) * a["x"].sum((0, 1), keepdims=True)},
    "sum over no axis": lambda a: {"y": np.sum(a["x"], axis=()) + np.max(a["x"][:, :1], axis=1)[:, None]},
    "constant condition": lambda a: {"y": np.where(TABLE, a["x"], 1)},
    "all of it": lambda a: {"y": a["x"][...] + a["x"].T[..., 2].reshape([3])},
    "constants of arrays": lambda a: {"y": a["x"] * np.ones_like(a["x"]) + np.full_like(a["x"], fill_value=3)},
    "ufunc's own reduce": lambda a: {"y": a["x"] + np.add.reduce(a["x"]) - np.maximum.reduce(a["x"], 1, keepdims=True)},
    "python's operators": lambda a: {"y": -abs(a["x"]) / 2 + (2 - a["x"]) // 1 + (a["x"] > 0) * a["x"]},
    "copies in two orders": lambda a: {"y": a["x"].T[::-1].astype("float32").T + a["x"].T[::-1].reshape(4, 3)},
    "an input as it is": lambda a: {"x": a["x"], "y": a["x"]},
    "a constant": lambda a: {"y": TABLE, "x": np.ones_like(a["x"])},
    "another dtype": lambda a: {"y": a["x"] > 0, "s": np.sum(a["x"], keepdims=True).reshape(1)},
}  # fmt: skip


@pytest.mark.parametrize("name", TRACEABLE)
def test_what_can_be_traced(name):
    assert_same(
        TRACEABLE[name], {"x": x(4, 3), "i": np.array([2, 0, 3, 1]), "s": np.full(1, 0.3), "y": TABLE}, "float32"
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinity_go_through(backend, dtype):
    special = np.array([np.nan, -np.inf, np.inf, -0.0, 0, 1, -1, 0.5, np.nan, 2], dtype)
    functions = {
        "maximum": lambda x: np.maximum(x, 0),
        "other way round": lambda x: np.maximum(0, x),
        "minimum": lambda x: np.minimum(x, 0.25),
        "clip": lambda x: np.clip(x, -0.5, 0.75),
        "relu": lambda x: mv.model.layers.relu(x)[0],
        "of two": lambda x: np.maximum(x, x[::-1]),
        "largest": lambda x: np.max(x, keepdims=True) + 0 * x,
        "sum": lambda x: np.sum(x, keepdims=True) + 0 * x,
        "exp": lambda x: np.exp(x),
        "tanh": lambda x: np.tanh(x),
        "log1p": lambda x: np.log1p(np.abs(x)),
        "sqrt": lambda x: np.abs(x) ** 0.5,
    }
    arrays = {name: special.copy() for name in ("x", *functions)}
    held = {name: backend.empty(array.shape, array.dtype) for name, array in arrays.items()}
    for name, array in arrays.items():
        backend.upload(array, to=held[name])

    def step(a):
        return {name: function(a["x"]) for name, function in functions.items()}

    with np.errstate(all="ignore"):
        backend.compile(step, held, dtype)()
        for name, expected in step(arrays).items():
            np.testing.assert_allclose(backend.to_host(held[name]), expected, rtol=1e-6, err_msg=name)


# --------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("backend", ["numpy", "numba"], indirect=True)
def test_two_threads_train_two_models_of_one_backend(backend):
    data = np.random.default_rng(0).random((60, 12))

    def train(seed, results):
        vae = mv.VAE([mv.Dense(12, 7), mv.ReLU(), mv.Dense(7, 4)], [mv.Dense(2, 12)], backend=backend, seed=seed)
        for _ in range(5):
            mv.fit(vae, data, epochs=2, batch_size=20, progress=False)
        results[seed] = np.array(backend.to_host(vae.parameters.flat))

    alone, together = {}, {}
    for seed in range(2):
        train(seed, alone)
    threads = [threading.Thread(target=train, args=(seed, together)) for seed in range(2)]
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switching)
    for seed in range(2):
        np.testing.assert_array_equal(together[seed], alone[seed])
