"""Steps as JavaScript compute what NumPy computes; run by Node, where that is installed."""

import shutil
import subprocess

import numpy as np
import pytest
from reference import models
from test_equal import MODELS

import minivae as mv
from minivae.engine import rows
from minivae.engine.backend import Eager
from minivae.engine.cuda import EXPRESSIONS
from minivae.engine.javascript import javascript
from minivae.engine.tracing import Untraceable
from minivae.training.state import Training

node = shutil.which("node")
pytestmark = pytest.mark.skipif(node is None, reason="needs Node")

RUN = """
const fs = require('fs'), step = (%s)();
for (let i = 0; i < %d; i++) step.run();
const out = Object.values(step.arrays).map(array => Buffer.from(Float64Array.from(array).buffer));
fs.writeFileSync(process.argv[2], Buffer.concat(out));
"""


def run(tmp_path, text, arrays, times=1):
    """What the arrays hold, as float64 and by name, after so many runs of a step."""
    (tmp_path / "step.js").write_text(RUN % (text, times))
    process = subprocess.run([node, tmp_path / "step.js", tmp_path / "out"], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    out = np.fromfile(tmp_path / "out")
    ends = np.cumsum([array.size for array in arrays.values()])
    assert len(out) == ends[-1]
    return dict(zip(arrays, np.split(out, ends[:-1]), strict=True))


def same(tmp_path, function, arrays, dtype=None, times=1, rtol=1e-12, atol=1e-12):
    """Whether a step in JavaScript leaves the arrays as it does line by line in NumPy."""
    got = run(tmp_path, javascript(function, arrays, dtype), arrays, times)
    step = Eager(function, arrays)
    with np.errstate(all="ignore"):
        for _ in range(times):
            step()
    for name, array in arrays.items():
        np.testing.assert_allclose(got[name], array.ravel().astype("f8"), rtol, atol, err_msg=name)


def training_step(vae, optimizer, x, y, options):
    options = {"samples": 1, "binarize": False, "batch_size": 7} | options
    training = Training(
        vae, optimizer, vae.check_input(x), y, np.arange(len(x)), options["batch_size"], options["samples"],
        options["binarize"], 0, None,
    )  # fmt: skip
    next(training.steps())  # which draws the noise and the order of the rows
    step = training.parts[0][0]
    step.arrays["cursor"].fill(0)
    return step


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_arrays_begin_with_the_values_that_they_are_given(dtype, tmp_path):
    """However they are written: as one number, in 16 bits, or as they are."""
    halves = np.float16([0.1, -2.5, 6e-8, -65000, 1e-5, -0.0]).astype(dtype)
    arrays = {"same": np.full(50, 1 / 3, dtype), "halves": halves, "minus": np.full(3, -0.0, dtype)}
    arrays |= {"wide": np.array([1e5, 1], dtype), "others": np.array([0.1, 1e-9], dtype), "out": np.zeros(1, dtype)}
    arrays |= {"infinite": np.array([np.inf, -np.inf, np.nan], dtype), "bytes": np.full(7, 3, "uint8")}
    text = javascript(lambda a: {"out": a["same"][:1] * 1}, arrays)
    assert ".fill(0.333" in text and text.count('.set(halves("') == 1
    got = run(tmp_path, text, arrays, times=0)
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)
        np.testing.assert_array_equal(np.signbit(got[name]), np.signbit(array.astype("f8")), err_msg=name)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", models.recipes())
def test_recipes(name, dtype, tmp_path):
    vae, optimizer, options = models.recipes()[name](dtype=dtype)
    x, y = models.digits()
    y = y if options.pop("labels", False) else None
    step = training_step(vae, optimizer, x, y, options)
    tolerance = {"float64": (1e-9, 1e-10), "float32": (1e-4, 1e-5)}[dtype]
    few = {name: step.arrays[name][:4] for name in ("noise", "thresholds") if name in step.arrays}
    arrays = {name: array.copy() for name, array in (step.arrays | few).items()}
    same(tmp_path, step.step, arrays, vae.dtype, 2, *tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_small_models(name, tmp_path):
    make, parts, options = MODELS[name]
    settings = parts | {"dtype": "float64", "seed": 1}
    vae = make(**settings) if options.get("whole") else mv.VAE(*make(), **settings)
    x = np.random.default_rng(0).random((40, vae.input_dim)).round()
    y = np.arange(40) % vae.n_classes if vae.n_classes else None
    known = ("samples", "binarize", "batch_size")
    options = {"batch_size": 5} | {name: options[name] for name in known if name in options}
    # A gradient may be 0 but for rounding, as that of a bias whose mean is taken off; a usual eps would blow it up.
    step = training_step(vae, mv.Adam(1e-2, eps=1e-6), x, y, options)
    few = {name: step.arrays[name][:8] for name in ("noise", "thresholds", "uniform") if name in step.arrays}
    same(tmp_path, step.step, {k: v.copy() for k, v in (step.arrays | few).items()}, vae.dtype, 1, 1e-9, 1e-11)


SPECIAL = [0.0, -0.0, 1, -1, 0.5, 1.5, 2.5, -0.5, -1.5, 3.7, -3.7, 1e-30, 1e30, np.inf, -np.inf, np.nan]


def test_every_function(tmp_path):
    """On numbers of all kinds, infinities and NaN among them."""
    x, y = (array.ravel() for array in np.meshgrid(SPECIAL, SPECIAL))
    arrays, functions = {"x": x, "y": y}, {}
    for function in EXPRESSIONS:
        if isinstance(function, np.ufunc) and "d" in "".join(t[0] for t in function.types) and function.nout == 1:
            functions[function.__name__] = function
            arrays[function.__name__] = np.zeros(x.shape)

    def step(a):
        results = {"where": np.where(a["x"] > a["y"], a["x"], a["y"])}
        for name, function in functions.items():
            results[name] = function(*(a["x"], a["y"])[: function.nin]).astype("f8")
        return results

    assert len(functions) > 40
    same(tmp_path, step, arrays | {"where": np.zeros(x.shape)}, rtol=1e-14, atol=0)


def test_casts(tmp_path):
    x = np.array([0.0, -0.0, 0.3, 2.9, -2.9, 200.2, 255.0])
    arrays = {"x": x, "n": np.zeros(7, np.int64), "u": np.zeros(7, np.uint8), "b": np.zeros(7, bool), "f": np.zeros(7)}

    def step(a):
        size = np.absolute(a["x"])
        return {"n": a["x"].astype("int64"), "u": size.astype("uint8"), "b": a["x"].astype(bool),
                "f": (a["x"] > 0.3).astype("f8") + size.astype("int64").astype("f8")}  # fmt: skip

    same(tmp_path, step, arrays)


def test_views_rows_and_reductions(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "x": rng.random((4, 5, 6)), "i": np.array([2, 0, 2]), "y": np.zeros((3, 5, 6)), "z": np.zeros((6, 4)),
        "m": np.zeros((5, 1)), "p": np.zeros((6, 6)), "w": np.zeros((2, 5)),
    }  # fmt: skip

    def step(a):
        x = a["x"]
        flat = x.reshape(20, 6)
        return {
            "x": x[::-1] * 2, "y": rows(x, a["i"]), "z": np.sum(x, axis=1).T, "m": np.max(x, axis=(0, 2))[:, None],
            "p": flat.T @ flat[:, ::-1], "w": np.stack([np.min(x, axis=(0, 2)), x[1, :, 2]]),
        }  # fmt: skip

    same(tmp_path, step, arrays, times=3)


def test_a_sum_of_an_array_beside_operations_on_it(tmp_path):
    """The sum runs over the elements of the array, not of its own shape."""
    arrays = {"x": np.arange(20.0).reshape(4, 5), "y": np.zeros((4, 5)), "s": np.zeros((4, 1))}
    same(tmp_path, lambda a: {"y": a["x"] * 2, "s": np.sum(a["x"], axis=1, keepdims=True)}, arrays)


def test_what_has_no_javascript_is_refused(monkeypatch):
    x = {"x": np.zeros(3)}
    with pytest.raises(Untraceable, match="test_javascript.py:.*there is no JavaScript for spacing"):
        javascript(lambda a: {"x": np.spacing(a["x"])}, x)
    with pytest.raises(Untraceable, match="test_javascript.py:.*does not know float16"):
        javascript(lambda a: {"x": a["x"].astype("f2").astype("f8")}, x)
    monkeypatch.setattr("minivae.engine.javascript.MOST_BYTES", 63)
    with pytest.raises(Untraceable, match="may use 63 bytes; this step needs more"):
        javascript(lambda a: {"x": a["x"] * 2}, x)


def test_what_it_starts_with(tmp_path):
    """An instance starts from the values that the arrays had, and two instances share nothing."""
    arrays = {"x": np.array([1.0, 2.0]), "n": np.array([3, 2**40])}
    text = javascript(lambda a: {"x": a["x"] + 1, "n": a["n"] + 1}, arrays)
    (tmp_path / "two.js").write_text(
        f"const make = {text};\nconst a = make(), b = make(); a.run(); a.run(); b.run();\n"
        "console.log([...a.arrays.x, ...b.arrays.x, ...b.arrays.n].join(' '));"
    )
    out = subprocess.run([node, tmp_path / "two.js"], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["3", "4", "2", "3", "4", str(2**40 + 1)]
    assert arrays["x"].tolist() == [1, 2]
