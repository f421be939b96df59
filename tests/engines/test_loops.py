"""Compiled loops: each operation computes what NumPy computes, for all values and layouts, whoever shares the work."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

import minivae as mv
from minivae.engine.backend import Eager, NumpyBackend
from minivae.engine.convolution import Axis, Windows, correlate, correlate_weights
from minivae.engine.tracing import Untraceable, rows, trace

pytest.importorskip("llvmlite")
from minivae.engine import llvm, loops, threads  # noqa: E402  needs llvmlite
from minivae.engine.loops import Loops  # noqa: E402

FLOATS, DTYPES = ["float32", "float64"], ["float32", "float64", "int64", "uint8", "bool"]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """What these tests compile stays out of the user's folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llvm.platformdirs, "user_cache_dir", lambda name: str(folder))
        yield


WORKERS = [1, 2, 3, 5]


@pytest.fixture(params=WORKERS)
def n_workers(request):
    return request.param


@pytest.fixture
def split_everything(monkeypatch):
    """Even the smallest arrays are shared out."""
    monkeypatch.setattr(loops, "LEAST_VALUES", 1)
    monkeypatch.setattr(loops, "LEAST_PRODUCTS", 1)


def compiled(step, arrays, n_workers=1):
    """Run a step as loops, once; its arrays hold the results."""
    list_ = Loops(trace(step, arrays), NumpyBackend(), n_workers=n_workers)
    list_()
    return list_


def copied(array):
    """A copy that lies in memory as the array does, gaps and all."""
    whole = array
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    start = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return np.ndarray(array.shape, array.dtype, whole.copy(order="K"), start, array.strides)


def agree(step, arrays, n_workers=1, rtol=0.0, atol=0.0, calls=2):
    """Run a step as loops and with NumPy, and compare all arrays after each call."""
    arrays = {name: copied(array) for name, array in arrays.items()}
    expected = {name: array.copy() for name, array in arrays.items()}
    list_ = Loops(trace(step, arrays), NumpyBackend(), n_workers=n_workers)
    eager = Eager(step, expected)
    for _ in range(calls):
        with np.errstate(all="ignore"):
            eager()
        list_()
        for name, array in expected.items():
            if array.dtype.kind == "f" and (rtol or atol):
                np.testing.assert_allclose(arrays[name], array, rtol, atol, err_msg=name)
            else:
                np.testing.assert_array_equal(arrays[name], array, err_msg=name)
    return list_


def normal(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# -------------------------------------------------------------------------------------- functions of one element


def special(dtype):
    """Where functions tend to go wrong."""
    if dtype == "bool":
        return np.array([False, True])
    if dtype == "uint8":
        return np.array([0, 1, 2, 127, 128, 254, 255], dtype)
    if dtype == "int64":
        return np.array([0, 1, -1, 5, -7, 2**62, -(2**63), 2**63 - 1, 255, 256], dtype)
    info = np.finfo(dtype)
    edges = [
        info.max,
        info.max / 1.4,
        info.tiny,
        info.tiny / 2,
        info.smallest_subnormal,
        info.eps,
        1 - info.eps,
        1 + info.eps,
    ]
    exponents = [
        87.3,
        88.7228,
        88.73,
        103.9,
        104.1,
        708.3,
        709.78,
        709.79,
        744.4,
        745.2,
    ]  # of the first and last floats
    numbers = [0, 1, 0.25, 0.5, 0.75, 1.5, 2.5, 3.5, 1e-3, 9, 10, 123456.7, 2**23 - 0.5, 1e10, np.inf]
    positive = np.array([*edges, *exponents, *numbers], "float64")
    with np.errstate(all="ignore"):
        return np.concatenate([positive, -positive, [np.nan]]).astype(dtype)


def units(got, exact):
    """How many units in the last place floats lie from their exact values, which are float64s."""
    info = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        got, exact = got.astype("float64"), exact.astype("float64")
        nan = np.isnan(exact)
        if info.bits == 32:
            got, exact = (np.clip(x, -(2.0**128), 2.0**128) for x in (got, exact))  # what infinity stands for
            unit = np.ldexp(1.0, np.maximum(np.frexp(exact)[1] - 24, -149))
        else:
            unit = np.spacing(np.abs(exact))
        error = np.where(got == exact, 0.0, np.abs(got - exact) / unit)
    return np.where(nan == np.isnan(got), np.where(nan, 0.0, error), np.inf)


# How far results may be from NumPy's in float64, in units of the last place; what is not here has to be equal. The C
# library's functions differ by a unit or two from NumPy's own.
APPROXIMATE = {np.exp: 2, np.log: 2, np.log1p: 2, np.tanh: 5.5, np.expm1: 3, np.sinh: 4, np.cosh: 3}
APPROXIMATE |= {np.sin: 2, np.cos: 2, np.arctan: 2}
OF_ONE = [f for f in llvm.FUNCTIONS if getattr(f, "nin", 0) == 1]
OF_TWO = [f for f in llvm.FUNCTIONS if getattr(f, "nin", 0) == 2 and f is not np.logaddexp]


def test_all_functions_are_tested():
    others = {np.where, np.logaddexp, llvm.CAST, llvm.COPY}
    assert {*OF_ONE, *OF_TWO} | others == llvm.FUNCTIONS.keys()


def of_arguments(function, *arguments):
    """What loops make of a function of these arrays, and what NumPy makes of it."""
    with np.errstate(all="ignore"):
        expected = function(*arguments)
    arrays = {f"x{i}": x for i, x in enumerate(arguments)} | {"y": np.zeros_like(expected)}
    compiled(lambda a: {"y": function(*(a[f"x{i}"] for i in range(len(arguments))))}, arrays)
    return arrays["y"], expected


def assert_same(function, got, expected, *arguments):
    if function in APPROXIMATE and got.dtype.kind == "f":
        if got.dtype == np.float32:
            with np.errstate(all="ignore"):
                exact = function(*(x.astype("float64") for x in arguments))
        else:
            exact = expected
        wrong = units(got, exact) > APPROXIMATE[function]
    else:
        wrong = (got != expected) & ~((got != got) & (expected != expected))
    if got.dtype.kind == "f" and function not in (np.maximum, np.minimum):  # NumPy takes either of 0 and -0
        wrong |= (expected == 0) & (np.signbit(got) != np.signbit(expected))
    i = np.flatnonzero(wrong)[:5]
    assert not i.size, f"{function.__name__} of {[x[i] for x in arguments]} is {expected[i]}, got {got[i]}"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("function", OF_ONE, ids=lambda f: f.__name__)
def test_functions_of_one_float(function, dtype):
    x = np.concatenate([special(dtype), normal(1000, dtype=dtype) * 3, normal(1000, dtype=dtype) * 50])
    assert_same(function, *of_arguments(function, x), x)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("function", OF_TWO, ids=lambda f: f.__name__)
def test_functions_of_two_floats(function, dtype):
    pairs = np.meshgrid(special(dtype), special(dtype))
    x, y = (np.concatenate([pairs[i].ravel(), normal(1000, dtype=dtype, seed=i)]) for i in (0, 1))
    y[-100:] = x[-100:]
    assert_same(function, *of_arguments(function, x, y), x, y)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
@pytest.mark.parametrize("function", OF_ONE + OF_TWO, ids=lambda f: f.__name__)
def test_functions_of_integers(function, dtype):
    """Equal, wrapped around where they overflow, or refused; 255 is no -1."""
    arguments = [x.ravel() for x in np.meshgrid(*[special(dtype)] * function.nin)]
    try:
        got, expected = of_arguments(function, *arguments)
    except (Untraceable, TypeError):
        refused_by_numpy = dtype == "bool" and function in (np.subtract, np.positive)
        assert function not in llvm.OF_INTEGERS or refused_by_numpy or (dtype == "bool" and function is np.square)
    else:
        assert got.dtype == expected.dtype
        assert_same(function, got, expected, *arguments)


@pytest.mark.parametrize("dtype", FLOATS)
def test_logaddexp(dtype):
    x, y = (v.ravel() for v in np.meshgrid(special(dtype), special(dtype)))
    got, expected = of_arguments(np.logaddexp, x, y)
    np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(dtype).eps)
    x, y = normal(1000, dtype=dtype) * 5, normal(1000, dtype=dtype, seed=1) * 5
    got, expected = of_arguments(np.logaddexp, x, y)
    np.testing.assert_allclose(got, expected, rtol=0, atol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where(dtype):
    x = np.tile(special(dtype), 2)
    condition = np.repeat([False, True], len(x) // 2)
    got, expected = of_arguments(np.where, condition, x, x[::-1].copy())
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_clip(dtype):
    x = special(dtype)
    agree(lambda a: {"y": np.clip(a["x"], -2, 0.5)}, {"x": x, "y": np.zeros_like(x)})
    agree(lambda a: {"y": np.clip(a["x"], -np.inf, np.inf)}, {"x": x, "y": np.zeros_like(x)})


@pytest.mark.parametrize("dtype", FLOATS)
def test_relu_and_its_mask(dtype):
    x = special(dtype)
    arrays = {"x": x, "y": np.zeros_like(x), "mask": np.zeros(x.shape, bool)}
    agree(lambda a: {"y": np.maximum(a["x"], 0), "mask": a["x"] > 0}, arrays)


@pytest.mark.parametrize("new", DTYPES)
@pytest.mark.parametrize("old", DTYPES)
def test_casts(old, new):
    x = special(old)
    if np.dtype(old).kind == "f" and np.dtype(new).kind in "iu":  # beyond their range NumPy's result is undefined
        largest = 256 if new == "uint8" else 2.0**62
        x = x[(x > (-1 if new == "uint8" else -largest)) & (x < largest)]
    agree(lambda a: {"y": a["x"].astype(new)}, {"x": x, "y": np.zeros(x.shape, new)})
    agree(lambda a: {"y": a["x"]}, {"x": x, "y": np.zeros(x.shape, new)})


@pytest.mark.parametrize("one, other", [*itertools.combinations(DTYPES, 2)])
def test_arguments_of_two_dtypes(one, other):
    x, y = special(one), special(other)
    if "int64" in (one, other):
        x, y = (
            v[np.abs(v) < 1e6] if v.dtype.kind != "b" else v for v in (x, y)
        )  # NumPy compares with Python's integers
    x, y = (v.ravel() for v in np.meshgrid(x, y))
    for function in np.add, np.multiply, np.maximum, np.greater, np.equal:
        got, expected = of_arguments(function, x, y)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("number", [0.1, -0.0, 1 / 3, 1e300, 1e-320, np.inf, -np.inf, np.nan, 2, True, np.float64(0.1)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_are_rounded_as_numpy_rounds_them(number, dtype):
    x = special(dtype)
    with np.errstate(all="ignore"):
        y = np.zeros_like(x * number)
        agree(lambda a: {"y": a["x"] * number}, {"x": x, "y": y})
        agree(lambda a: {"y": number - a["x"]}, {"x": x, "y": y})


def test_constant_arrays_and_inputs_of_one_number(n_workers):
    """Neither is a number that can stand in the code: one has several, the other changes."""
    arrays = {"x": normal(4, 9), "y": normal(4, 9), "rate": np.ones(1, "float32")}
    row = np.arange(9, dtype="float32")
    agree(lambda a: {"y": a["x"] * row * a["rate"], "rate": a["rate"] * 2}, arrays, n_workers, calls=3)


def test_conditions_are_joined():
    arrays = {"x": normal(9, 7), "y": normal(9, 7)}

    def step(a):
        inside, low = np.logical_and(a["x"] > 0, np.logical_not(a["x"] > 1)), a["x"] < -1
        return {"y": np.where(np.logical_or(inside, low), a["x"], 0)}

    agree(step, arrays)


def test_numbers_with_integers():
    x = special("uint8")
    agree(lambda a: {"y": a["x"] > 127, "z": 3 * a["x"]}, {"x": x, "y": np.zeros(x.shape, bool), "z": np.zeros_like(x)})
    agree(lambda a: {"y": a["x"] * np.float32(1 / 255)}, {"x": x, "y": np.zeros(x.shape, "float32")}, rtol=1e-7)


# How far our functions of float32 are from the exact values at most, of all floats there are.
WORST = {np.exp: 1.1, np.log: 1, np.log1p: 1.5, np.tanh: 5.5}


def of_bits(function, blocks, n):
    """The largest error of a function of floats, in units, over blocks of n floats, given as their bits."""
    x, worst = np.zeros(n, "uint32"), 0.0
    floats = x.view("float32")
    arrays = {"x": floats, "y": np.zeros_like(floats)}
    list_ = Loops(trace(lambda a: {"y": function(a["x"])}, arrays), NumpyBackend(), n_workers=2)
    for block in blocks:
        x[:] = block
        list_()
        with np.errstate(all="ignore"):
            exact = function(floats.astype("float64"))
        error = units(arrays["y"], exact)
        worst = max(worst, error.max())
        i = error.argmax()
        assert error[i] <= WORST[function], f"{function.__name__}({floats[i]!r}) is {exact[i]}, got {arrays['y'][i]!r}"
    return worst


@pytest.mark.parametrize("function", WORST, ids=lambda f: f.__name__)
def test_accuracy_of_float32(function):
    """Over the whole range, and around the numbers where the formulas change."""
    n = 1 << 19
    everywhere = np.arange(n, dtype="uint32") * (2**32 // n) + np.random.default_rng(0).integers(
        0, 2**32 // n, n, "uint32"
    )
    edges = np.array(
        [0, 2.0**-126, 1, 0.75, 1.5, -0.25, 0.5, 9, 88.72, -87.34, -103.97, -1, 3.4e38, 2.5521178e38], "float32"
    )
    near = (edges.view("uint32")[:, None] + np.arange(-(n // 28), n // 28)).astype("uint32").ravel()
    of_bits(function, [everywhere, np.resize(near, n)], n)


@pytest.mark.slow
@pytest.mark.parametrize("function", WORST, ids=lambda f: f.__name__)
def test_accuracy_of_all_float32(function):
    n = 1 << 22
    blocks = (np.arange(start, start + n).astype("uint32") for start in range(0, 2**32, n))
    print(function.__name__, of_bits(function, blocks, n))


# ------------------------------------------------------------------------------------------------- layouts

VIEWS = {
    "whole": lambda x: x,
    "every other": lambda x: x[::2],
    "columns with gaps": lambda x: x[:, 1::3],
    "transposed": lambda x: x.transpose(2, 0, 1),
    "backwards": lambda x: x[::-1, :, ::-1],
    "a row for all": lambda x: np.broadcast_to(x[1:2], x.shape),
    "a column for all": lambda x: np.broadcast_to(x[..., 2:3], x.shape),
    "a number for all": lambda x: np.broadcast_to(x[:1, :1, :1], x.shape),
    "one column": lambda x: x[:, :, 4:5],
    "reshaped": lambda x: x.reshape(14, 30),
    "seen as a vector": lambda x: x[2:4].reshape(-1),
    "without an axis": lambda x: x[3],
}


@pytest.mark.parametrize("name", VIEWS)
def test_operands_of_any_layout(name, n_workers, split_everything):
    view, x = VIEWS[name], normal(6, 7, 10)
    y = view(x)
    arrays = {"x": x, "z": normal(*y.shape, seed=1), "y": np.zeros(y.shape, "float32"), "w": np.zeros(y.shape, bool)}
    agree(lambda a: {"y": np.maximum(view(a["x"]), a["z"]), "w": view(a["x"]) > a["z"]}, arrays, n_workers)
    agree(lambda a: {"x": a["x"] + 1, "y": view(a["x"]) * 2}, arrays, n_workers)  # also of a new value


@pytest.mark.parametrize("name", ["every other", "columns with gaps", "transposed", "backwards", "one column"])
def test_targets_of_any_layout(name, n_workers, split_everything):
    """Each target is a view of a larger array, whose other values stay as they are."""
    whole = np.zeros((6, 7, 10), "float32")
    target = VIEWS[name](whole)
    arrays = {"x": normal(*target.shape), "y": target, "z": VIEWS[name](np.zeros((6, 7, 10), "uint8"))}
    compiled(lambda a: {"y": np.abs(a["x"]), "z": a["x"] > 0}, arrays, n_workers)
    expected = np.zeros_like(whole)
    VIEWS[name](expected)[...] = np.abs(arrays["x"])
    np.testing.assert_array_equal(whole, expected)
    np.testing.assert_array_equal(arrays["z"], arrays["x"] > 0)


@pytest.mark.parametrize(
    "shape", [(1,), (1, 1), (3, 1), (1, 3), (2, 1, 3), (4097,), (5, 1000), (1000, 5), (3, 1, 70_001)]
)
def test_arrays_of_any_shape(shape, n_workers):
    x = normal(*shape)
    arrays = {"x": x, "row": x[..., :1].copy(), "y": np.zeros_like(x)}
    agree(lambda a: {"y": a["x"] - a["row"], "x": np.abs(a["x"]), "row": -a["row"]}, arrays, n_workers)


def test_arrays_that_a_step_reads_and_changes(n_workers, split_everything):
    arrays = {"a": normal(40, 30), "b": normal(40, 30, seed=1), "c": normal(40, 30, seed=2)}
    agree(lambda a: {"a": a["b"], "b": a["a"], "c": a["c"] + a["a"]}, arrays, n_workers, calls=3)
    agree(lambda a: {"a": a["a"][::-1], "b": a["b"][:, ::-1] + a["a"]}, arrays, n_workers, calls=3)
    square = {"a": normal(30, 30)}
    agree(lambda a: {"a": a["a"].T - a["a"]}, square, n_workers, calls=3)


# ------------------------------------------------------------------------------------------------ sums and maxima

# Small ones, and those that are summed in parts: along the first axis or the last, tall, thin, with axes of length 1.
SHAPES = [(1,), (5,), (4, 1), (1, 4), (3, 1, 4), (4, 5, 6, 7)]
LONG = [
    (300, 257),
    (70_001,),
    (35_001, 3),
    (3, 35_001),
    (1, 66_000, 1),
    (2, 3, 12_000),
    (64, 1025),
    (63, 1100),
    (1200, 7, 9),
]
LAYOUTS = {"whole": lambda x: x, "transposed": np.transpose, "backwards": lambda x: x[::-1, ...].T[::-1]}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, *LONG], ids=str)
def test_reductions_over_any_axes(shape, layout, monkeypatch):
    monkeypatch.setattr(loops, "LEAST_VALUES", 1 if shape in SHAPES else loops.LEAST_VALUES)
    x, view = np.random.default_rng(0).integers(-9, 99, shape).astype("float32"), LAYOUTS[layout]  # sums are exact
    axes = [some for n in range(1, x.ndim + 1) for some in itertools.combinations(range(x.ndim), n)]
    functions = itertools.cycle([np.max, np.min])
    cases = {f"sum {some}": (np.sum, some) for some in axes} | {
        f"limit {some}": (next(functions), some) for some in axes
    }

    def step(a):
        return {name: function(view(a["x"]), axis=some, keepdims=True) for name, (function, some) in cases.items()}

    expected = step({"x": x})
    results = {name: np.zeros_like(value) for name, value in expected.items()}
    for n_workers in WORKERS:
        for result in results.values():
            result.fill(np.nan)
        compiled(step, {"x": x, **results}, n_workers)
        for name, result in results.items():
            np.testing.assert_array_equal(result, expected[name], err_msg=f"{name}, {n_workers} threads")


@pytest.mark.parametrize("shape, axis", [((70_001,), 0), ((70_001, 3), 0), ((3, 70_001), 1), ((4000, 30), 0)])
def test_rounding_of_long_sums(shape, axis):
    """They are made in parts, so that errors do not add up as they do one number after another."""
    x = np.random.default_rng(0).random(shape, "float32")
    exact = np.sum(x.astype("float64"), axis=axis, keepdims=True)
    arrays = {"x": x, "y": np.zeros(exact.shape, "float32")}
    compiled(lambda a: {"y": np.sum(a["x"], axis=axis, keepdims=True)}, arrays, 2)
    np.testing.assert_allclose(arrays["y"], exact, rtol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(70_000,), (30, 9)])
def test_reductions_of_what_is_no_number(shape, dtype, n_workers):
    x = normal(*shape, dtype=dtype)
    columns = [f"{f.__name__} {axis}" for f in (np.sum, np.max, np.min) for axis in range(x.ndim)]

    def step(a):
        return {name: getattr(np, name[:3])(a["x"], axis=int(name[4:]), keepdims=True) for name in columns}

    results = {name: np.zeros_like(value) for name, value in step({"x": x}).items()}
    for value in np.nan, np.inf, -np.inf:
        x[shape[0] // 2] = value
        agree(step, {"x": x, **results}, n_workers, rtol=1e-4)
    x[0], x[1] = np.inf, -np.inf
    agree(step, {"x": x, **results}, n_workers, rtol=1e-4)
    x[...] = -np.inf
    agree(step, {"x": x, **results}, n_workers)
    x[...] = -0.0
    agree(step, {"x": x, **results}, n_workers)


@pytest.mark.parametrize("shape", [(7, 9), (130, 33), (1, 40), (40, 1), (2, 3, 50), (3, 1, 2, 5), (5000, 2)])
def test_sums_along_rows(shape, n_workers, split_everything):
    """They are made in the loop that makes what they sum, however many they are."""
    x, w = normal(*shape, dtype="float64"), normal(*shape[1:], seed=1, dtype="float64")
    sums = np.zeros(shape[:-1])
    arrays = {"x": x, "w": w, "one": sums, "two": sums[..., None].copy(), "y": np.zeros_like(x)}

    def step(a):
        y = a["x"] * a["w"] + 1
        return {"one": np.sum(y, axis=-1), "two": np.sum(np.abs(a["x"]), axis=-1, keepdims=True), "y": y * 2}

    agree(step, arrays, n_workers, rtol=1e-12, atol=1e-13)


def test_a_sum_that_comes_before_the_loop_that_it_joins(n_workers, split_everything):
    arrays = {"x": normal(13, 9), "s": normal(13), "y": normal(13, 9)}
    agree(lambda a: {"s": np.sum(a["x"], axis=1), "y": np.abs(a["x"])}, arrays, n_workers, rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("shape", [(9,), (9, 1), (9, 3), (9, 7), (9, 8), (9, 3, 5)], ids=str)
def test_rows_of_all_sizes(shape, n_workers, split_everything):
    """Rows of 3 bytes, of 8, of 28: as words of any length."""
    dtypes = [*DTYPES, "int32", "float16"]
    arrays = {dtype: (normal(*shape) * 50).astype(dtype) for dtype in dtypes} | {
        "index": np.array([7, 0, 0, 3, 5, 7, 1])
    }
    arrays |= {
        f"{name} of {dtype}": np.zeros((7, *shape[1:]), dtype) for dtype in dtypes for name in ("rows", "others")
    }

    def step(a):
        rows_of = {f"rows of {dtype}": rows(a[dtype], a["index"]) for dtype in dtypes}
        return rows_of | {f"others of {dtype}": rows(a[dtype][1:], a["index"]) for dtype in dtypes}

    agree(step, arrays, n_workers)


def test_rows_by_parts_of_an_order(n_workers, split_everything):
    table, order = normal(40, 6), np.random.default_rng(0).permutation(40)
    arrays = {"table": table, "order": order, "y": np.zeros((10, 6), "float32"), "z": np.zeros((20, 6), "float32")}
    arrays |= {"one": np.zeros((1, 6), "float32")}

    def step(a):
        order = a["order"]
        return {
            "y": rows(a["table"], order[5:15]),
            "z": rows(a["table"], order[::-2]),
            "one": rows(a["table"], order[39:]),
        }

    agree(step, arrays, n_workers)
    agree(step, arrays | {"order": order.astype("uint8")}, n_workers)


def test_rows_that_do_not_lie_one_after_another(n_workers, split_everything):
    """From a table with a gap behind each row, and into a part of a concatenation."""
    arrays = {
        "table": normal(20, 9)[:, 2:7],
        "index": np.array([19, 3, 3, 0]),
        "w": normal(4, 2),
        "y": np.zeros((4, 7), "float32"),
    }
    agree(lambda a: {"y": np.concatenate([rows(a["table"], a["index"]), a["w"]], axis=1)}, arrays, n_workers)
    arrays["table"] = normal(20, 5)[::-2]
    arrays["index"] = np.array([9, 3, 3, 0])
    agree(lambda a: {"y": np.concatenate([a["w"], rows(a["table"], a["index"])], axis=1)}, arrays, n_workers)


def test_rows_of_what_the_step_makes(n_workers, split_everything):
    arrays = {"x": normal(30, 4), "index": np.arange(29, -1, -3), "y": np.zeros((10, 4), "float32")}
    agree(lambda a: {"y": rows(np.abs(a["x"]), a["index"]), "x": -a["x"]}, arrays, n_workers)


@pytest.mark.parametrize("step", [
    lambda a: rows(a["table"][:, ::2], a["index"]),
    lambda a: rows(a["table"], a["index"].reshape(2, 2)).reshape(4, 4),
    lambda a: np.concatenate([rows(a["table"].reshape(20, 2, 2), a["index"]), a["table"][:4].reshape(4, 2, 2)], axis=2),
])  # fmt: skip
def test_rows_of_other_kinds_are_left_to_numpy(step, capsys):
    arrays = {"table": normal(20, 4), "index": np.array([19, 3, 3, 0])}
    expected = step(arrays)
    arrays["y"] = np.zeros_like(expected)
    mv.get_backend("numba").compile(lambda a: {"y": step(a)}, arrays)()
    np.testing.assert_array_equal(arrays["y"], expected)
    assert "table whose rows have no gaps" in capsys.readouterr().err


def test_threads_that_read_one_table_do_not_wait(split_everything):
    arrays = {"table": normal(20, 4), "index": np.array([19, 3, 3, 0]), "x": normal(4, 4), "y": normal(4, 4)}
    step = lambda a: {"x": rows(a["table"], a["index"]), "y": rows(a["table"], a["index"][::-1])}  # noqa: E731
    assert [instruction.join for instruction in compiled(step, arrays, 2).instructions] == [False, True]


# --------------------------------------------------------------------------------------------------- products

MATRICES = {
    "whole": lambda m, n: normal(m, n),
    "transposed": lambda m, n: normal(n, m).T,
    "a part": lambda m, n: normal(m + 3, n + 5)[2:-1, 3:-2],
    "a part, transposed": lambda m, n: normal(n + 3, m + 5)[2:-1, 3:-2].T,
    "with gaps": lambda m, n: normal(m, 2 * n)[:, ::2],
    "every other row": lambda m, n: normal(2 * m, n)[::2],
    "backwards": lambda m, n: normal(m, n)[::-1],
    "backwards along": lambda m, n: normal(m, n)[:, ::-1],
    "one row": lambda m, n: np.broadcast_to(normal(1, n), (m, n)),
    "one column": lambda m, n: np.broadcast_to(normal(m, 1), (m, n)),
}


def assert_products(pairs, n_workers):
    """Products of pairs of matrices, into arrays, into parts of concatenations, and of transposed ones."""
    arrays = {}
    for i, (a, b) in enumerate(pairs):
        arrays |= {f"a{i}": a, f"b{i}": b, f"y{i}": np.full((len(a), b.shape[1]), np.nan, a.dtype)}
        arrays |= {
            f"z{i}": np.full_like(arrays[f"y{i}"], np.nan),
            f"part{i}": np.full((len(a), b.shape[1] + 2), np.nan, a.dtype),
        }

    def step(arrays):
        results = {}
        for i in range(len(pairs)):
            a, b = arrays[f"a{i}"], arrays[f"b{i}"]
            part = np.abs(a) @ np.abs(b)
            results |= {f"y{i}": a @ b, f"z{i}": (b.T @ a.T).T}
            results[f"part{i}"] = np.concatenate([part, part[:, :1], part[:, :1]], axis=1)
        return results

    compiled(step, arrays, n_workers)
    for i, (a, b) in enumerate(pairs):
        exact, largest = a.astype("float64") @ b, np.abs(a).astype("float64") @ np.abs(b)
        rtol = (10 + a.shape[1] / 10) * np.finfo(a.dtype).eps
        for got, expected in (
            ("y", exact),
            ("z", exact),
            ("part", np.hstack([largest, largest[:, :1], largest[:, :1]])),
        ):
            error = np.abs(arrays[f"{got}{i}"] - expected)
            assert (error <= rtol * (largest if got != "part" else expected)).all(), f"{got} of pair {i}"


@pytest.mark.parametrize("one", MATRICES)
def test_products_of_any_layout(one, n_workers, split_everything):
    sizes = (9, 7, 11), (11, 6, 4)
    assert_products([(MATRICES[one](m, k), two(k, n)) for two in MATRICES.values() for m, k, n in sizes], n_workers)


# LEAST_PRODUCTS multiplications and a few more or less, tall, wide, thin ones, single rows and columns.
SIZES = [
    (40, 41, 40),
    (40, 40, 40),
    (1, 90, 1),
    (1, 1, 1),
    (1, 300, 400),
    (400, 300, 1),
    (1, 1, 300),
    (300, 1, 300),
    (3, 700, 200),
]
SIZES += [(200, 700, 3), (500, 20, 30), (30, 20, 500), (33, 300, 31), (2, 2, 70_000), (70_000, 2, 2)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_of_any_size(size, dtype, n_workers):
    m, k, n = size
    assert_products([(normal(m, k, dtype=dtype), normal(k, n, dtype=dtype, seed=1))], n_workers)


def test_a_blas_of_other_integers_is_not_called(monkeypatch, capsys):
    monkeypatch.setattr(loops, "BLAS_TAKES_INT", False)
    a = normal(3, 3)
    arrays = {"a": a, "y": np.zeros_like(a)}
    mv.get_backend("numba").compile(lambda a: {"y": a["a"] @ a["a"]}, arrays)()
    np.testing.assert_array_equal(arrays["y"], a @ a)
    assert "BLAS takes integers of 64 bits" in capsys.readouterr().err


def test_new_weights_from_gradients_that_products_make(n_workers, split_everything):
    """The update's shares follow those of the products, part by part, in whatever order these lie in the flat array."""
    flat = normal(40 * 30 + 30 + 50 * 7, dtype="float64")
    arrays = {
        "x": normal(20, 40, dtype="float64"),
        "h": normal(20, 30, dtype="float64"),
        "y": normal(20, 50, dtype="float64"),
    }
    arrays |= {
        "z": normal(20, 7, dtype="float64"),
        "flat": flat,
        "momentum": np.zeros_like(flat),
        "g": np.zeros_like(flat),
    }

    def step(a):
        dW, db, dV = a["x"].T @ a["h"], np.sum(a["h"], axis=0), a["y"].T @ a["z"]
        g = np.concatenate([dV.reshape(-1), db, dW.reshape(-1)])
        momentum = 0.9 * a["momentum"] + g
        return {"g": g, "momentum": momentum, "flat": a["flat"] - 0.01 * momentum}

    agree(step, arrays, n_workers, rtol=1e-11, atol=1e-12, calls=3)


@pytest.mark.parametrize("shape, axis", [((70_001,), 0), ((70_001, 2), 0), ((3, 70_001), 1)])
def test_a_long_sum_of_few_values_is_shared_out(shape, axis):
    """Each thread sums a part of what is much longer than there are results, which one of them then puts together."""
    arrays = {"x": normal(*shape), "y": np.zeros_like(np.sum(normal(*shape), axis=axis, keepdims=True))}
    first, *_ = compiled(lambda a: {"y": np.sum(a["x"], axis=axis, keepdims=True)}, arrays, 5).instructions
    assert len(set(first.shares)) == 6


def test_shares_of_a_long_array_begin_where_a_cache_line_does():
    arrays = {"x": normal(100_003)}
    (step,) = compiled(lambda a: {"x": a["x"] * 2}, arrays, 3).instructions
    assert step.shares[0] == 0 and step.shares[-1] == 100_003
    assert all(start % 16 == 0 for start in step.shares[:-1])


def test_threads_wait_only_where_one_reads_what_another_one_wrote():
    """A batch's way through a network is a thread's own, row by row; the gradient of a weight is of all rows."""
    arrays = {name: normal(200, 200) for name in "xWVhydzu"}

    def step(a):
        h = np.tanh(a["x"] @ a["W"])
        y = h @ a["V"]
        dW = a["x"].T @ y
        return {"h": h, "y": y, "d": dW, "z": np.exp(dW), "u": y.T @ a["W"]}

    list_ = compiled(step, arrays, 2).instructions
    assert [instruction.join for instruction in list_] == [False, False, True, False, False, True]
    assert all(instruction.shares[1] == instruction.shares[2] / 2 for instruction in list_)


def test_little_work_is_shared_out_only_where_nobody_waits_for_it():
    arrays = {"x": normal(40, 30), "h": normal(40, 30), "s": normal(1, 30), "w": normal(1, 30)}

    def step(a):
        h = np.exp(a["x"])
        s = np.sum(h, axis=0, keepdims=True)
        return {"h": h, "s": s, "w": a["w"] - s}

    list_ = compiled(step, arrays, 2).instructions
    assert [instruction.shares for instruction in list_] == [[0, 600, 1200], [0, 30, 30], [0, 30, 30]]
    assert [instruction.join for instruction in list_] == [True, False, True]


@pytest.mark.parametrize("shape, flat, with_gaps", [
    ((40, 30), [0, 390, 780, 1200], [0, 13, 26, 40]),  # by rows, whether a loop has a row in a pass or a value
    ((2, 7, 30), [0, 120, 270, 420], [0, 4, 9, 14]),  # few samples: by the rows of both
    ((24, 3, 5), [0, 120, 240, 360], [0, 24, 48, 72]),
    ((23, 3, 5), [0, 115, 230, 345], [0, 23, 46, 69]),
    ((2, 30), [0, 20, 40, 60], [0, 0, 1, 2]),  # fewer rows than threads
    ((100,), [0, 33, 66, 100], [0, 33, 66, 100]),
])  # fmt: skip
def test_all_loops_over_a_batch_give_a_thread_the_same_rows(shape, flat, with_gaps):
    """A thread goes on with the rows that it made itself, and waits for no other."""
    arrays = {"x": normal(*shape), "y": normal(*shape), "z": normal(*shape[:-1], shape[-1] + 1)}
    (of_x,) = compiled(lambda a: {"x": a["x"] * 2}, arrays, 3).instructions
    (of_z,) = compiled(lambda a: {"y": a["z"][..., 1:] * 2}, arrays, 3).instructions
    assert of_x.shares == flat and of_z.shares == with_gaps


def test_each_thread_updates_the_weights_whose_gradients_it_computed(split_everything):
    arrays = {name: normal(*shape) for name, shape in {"x": (100, 151), "u": (100, 50), "W": (50, 50)}.items()}
    arrays |= {"h": normal(100, 50), "g": normal(151 * 50 + 7 + 50 * 50), "p": normal(151 * 50 + 7 + 50 * 50)}

    def step(a):
        h = a["u"] @ a["W"]  # a product too, though not one of gradients
        g = np.concatenate([(a["x"].T @ h).reshape(-1), a["p"][:7] * 2, (a["u"].T @ h).reshape(-1)])
        return {"h": h, "g": g, "p": a["p"] * 0.99 - 0.1 * g}

    _, of_x, _, of_u, *update = (instruction.shares for instruction in compiled(step, arrays, 2).instructions)
    assert of_x == [0, 75, 151] and of_u == [0, 25, 50]
    behind = 151 * 50 + 7
    assert update[0] == [50 * row for row in of_x] and update[2] == [behind + 50 * row for row in of_u]
    assert update[1][0] == update[0][-1] and update[1][-1] == update[2][0]


@pytest.mark.parametrize("m, n, transposed, shares", [
    (100, 20, False, [0, 50, 100]),  # by rows
    (20, 100, False, [0, 48, 100]),  # by columns, from a cache line on
    (20, 50, False, [0, 25, 50]),
    (64, 200, True, [0, 32, 64]),  # by rows, as the gradient of a wide layer's weights
    (62, 200, True, [0, 96, 200]),
    (64, 200, False, [0, 96, 200]),
])  # fmt: skip
def test_products_are_shared_out_by_rows_or_by_columns(m, n, transposed, shares):
    arrays = {"a": normal(90, m) if transposed else normal(m, 90), "b": normal(90, n), "y": normal(m, n)}
    step = lambda a: {"y": (a["a"].T if transposed else a["a"]) @ a["b"]}  # noqa: E731
    (product,) = compiled(step, arrays, 2).instructions
    assert product.shares == shares


def elements_of(array, outer, start, stop):
    """The indices of a share's elements, of a matrix whose first `outer` axes are shared out."""
    rows, columns = array.shape
    if outer == 2:
        return [divmod(n, columns) for n in range(start, stop)]
    return itertools.product(range(start, stop) if outer else range(rows), range(columns))


@pytest.mark.parametrize("outer", [0, 1, 2])
@pytest.mark.parametrize("view", [np.s_[:], np.s_[::-1], np.s_[:, ::-1], np.s_[1::2, 1:]], ids=str)
def test_all_bytes_that_a_share_touches_are_known(view, outer):
    for array in (np.zeros((6, 4))[view], np.zeros((4, 6)).T[view]):
        start_of_array = array.__array_interface__["data"][0]
        n = array.size if outer == 2 else len(array)
        for start, stop in itertools.combinations(range(n + 1), 2):
            first, end = loops._range(loops.Access(array, outer, False), start, stop)
            for index in elements_of(array, outer, start, stop):
                address = start_of_array + np.dot(index, array.strides)
                assert first <= address and address + array.itemsize <= end


@pytest.mark.parametrize("m, n", [(100, 20), (20, 100)], ids=["by rows", "by columns"])
def test_products_of_the_same_matrices_wait_for_nothing(m, n):
    shapes = {"a": (m, 90), "b": (90, n), "c": (m, 90), "d": (90, n), "y": (m, n), "z": (m, n), "u": (m, n)}
    arrays = {name: normal(*shape) for name, shape in (shapes | {"v": (90, 90), "w": (n, n)}).items()}

    def step(a):
        across = {"v": a["a"].T @ a["c"], "w": a["b"].T @ a["d"]}  # which read what the others share out as a whole
        return {"y": a["a"] @ a["b"], "z": a["a"] @ a["d"], "u": a["c"] @ a["b"]} | across

    assert [product.join for product in compiled(step, arrays, 2).instructions] == [False] * 4 + [True]


@pytest.mark.parametrize("rows, shares", [(5_000, [0, 2, 2]), (20_000, [0, 1, 2])])
def test_a_small_product_of_what_several_threads_made_is_one_thread_s(rows, shares):
    arrays = {"x": normal(rows, 2), "h": normal(rows, 2), "y": normal(2, 2)}

    def step(a):
        h = np.exp(a["x"])
        return {"h": h, "y": a["x"].T @ h}

    assert compiled(step, arrays, 2).instructions[-1].shares == shares


def test_a_part_of_a_product_is_worked_on_by_itself(n_workers, split_everything):
    """The share of a thread in a flat array follows its share in the product there, but never leaves the array."""
    arrays = {"a": normal(4, 3, dtype="float64"), "y": np.zeros(10), "z": np.zeros((4, 4))}

    def step(a):
        product = a["a"] @ a["a"].T
        return {"z": product, "y": product.reshape(-1)[:10] * 2}

    agree(step, arrays, n_workers, rtol=1e-12)


# ----------------------------------------------------------------------------------- concatenations, convolution


def test_concatenations(n_workers, split_everything):
    arrays = {"x": normal(12, 5), "w": normal(12, 3, seed=1), "b": normal(5, seed=2)}
    arrays |= {
        "across": np.zeros((12, 13), "float32"),
        "down": np.zeros((20, 5), "float32"),
        "stack": np.zeros((12, 2, 5), "float32"),
    }

    def step(a):
        x, w = a["x"], a["w"]
        return {
            "across": np.concatenate([np.abs(x), w, x], axis=1),
            "down": np.concatenate([x[::-1], x[:1] + a["b"], x[4:11]], axis=0),
            "stack": np.stack([x, -x], axis=1),
        }

    agree(step, arrays, n_workers)


@pytest.mark.parametrize("n_workers", [1, 3])
@pytest.mark.parametrize("patch_bytes, dtype", [(1, "float64"), (1 << 20, "float64"), (3000, "float32")])
@pytest.mark.parametrize("n_images", [1, 2, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolution(stride, n_images, patch_bytes, dtype, n_workers, monkeypatch):
    """In chunks of an image or of many, for more threads than images and less."""
    monkeypatch.setattr(loops, "PATCH_BYTES", patch_bytes)
    (H, W), K, n_in, n_out = (7, 6), 3, 2, 3
    axes = [Axis(n, -(-n // stride), K, stride, 1) for n in (H, W)]
    there = Windows(*(axis.convolution() for axis in axes), tuple(axis.small for axis in axes), K)
    back = Windows(*(axis.adjoint() for axis in axes), (H, W), K)
    x, kernel = normal(n_images, H, W, n_in, dtype=dtype), normal(K, K, n_in, n_out, dtype=dtype, seed=1)
    y = np.zeros((n_images, *there.size, n_out), dtype)
    arrays = {"x": x, "kernel": kernel, "y": y, "dx": np.zeros_like(x), "dkernel": np.zeros_like(kernel)}

    def step(a):
        y = correlate(a["x"], a["kernel"], there)
        dx, dkernel = correlate(y, a["kernel"].transpose(0, 1, 3, 2), back), correlate_weights(a["x"], y, there)
        return {"y": y, "dx": dx, "dkernel": dkernel + correlate_weights(y, a["x"], back).transpose(0, 1, 3, 2)}

    tolerance = 1e-4 if dtype == "float32" else 1e-12
    instructions = agree(step, arrays, n_workers, rtol=tolerance, atol=tolerance).instructions
    shares = [step.shares for step in instructions if step.kernel == "product"]
    busy = {w for share in shares for w in range(n_workers) if share[w] < share[w + 1]}
    assert len(busy) == min(n_workers, n_images)


# ------------------------------------------------------------------------------- what loops do not know, the cache

UNKNOWN = {
    "arctan2": lambda x: np.arctan2(x, x + 1),
    "cbrt": np.cbrt,
    "float16": lambda x: x.astype("float16") * np.float16(2),
    "int32": lambda x: x.astype("int32") * np.int32(2),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_loops_do_not_know_runs_on_one_core_after_one_message(name, capsys):
    backend = mv.get_backend("numba")
    for n in 5, 8, 5:
        arrays = {"x": normal(n), "y": np.zeros(n, UNKNOWN[name](normal(n)).dtype)}
        step = backend.compile(lambda a: {"y": UNKNOWN[name](a["x"])}, arrays)
        step()
        np.testing.assert_array_equal(arrays["y"], UNKNOWN[name](arrays["x"]))
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("minivae: this step runs on one core: ") and name in message
    assert "test_loops.py:" in message


@pytest.mark.parametrize("dtype, said", [("float16", "float16"), ("int64", "BLAS multiplies floats")])
def test_convolutions_of_other_numbers_run_on_one_core_after_one_message(dtype, said, capsys):
    axis = Axis(5, 4, 2, 1, 0).convolution()
    windows = Windows(axis, axis, (4, 4), 2)
    x, w = np.arange(50).reshape(2, 5, 5, 1).astype(dtype), np.arange(12).reshape(2, 2, 1, 3).astype(dtype)
    arrays = {"x": x, "w": w, "y": np.zeros((2, 4, 4, 3), dtype)}
    mv.get_backend("numba").compile(lambda a: {"y": correlate(a["x"], a["w"], windows)}, arrays)()
    np.testing.assert_array_equal(arrays["y"], correlate(x, w, windows))
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("minivae: this step runs on one core: ") and said in message


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where compiled code is kept, which is empty."""
    threads.product_kernel()  # that of all lists is compiled
    monkeypatch.setattr(llvm.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    return tmp_path / "minivae" / "compiled"


def tripled(factor=3.0, n=10):
    arrays = {"x": normal(n), "y": np.zeros(n, "float32")}
    compiled(lambda a: {"y": a["x"] * factor}, arrays)
    np.testing.assert_array_equal(arrays["y"], arrays["x"] * np.float32(factor))


def not_called(*_):
    raise AssertionError("what is in the cache should not be compiled again")


def test_what_has_been_compiled_is_kept(folder, monkeypatch):
    tripled()
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(llvm, "_compile", not_called)
    tripled()
    with pytest.raises(AssertionError, match="compiled again"):
        tripled(4.0)


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:20], lambda b: b[:-1], lambda b: b[:100] + bytes(9) + b[109:]]
)
def test_a_damaged_file_is_made_anew(folder, damage, monkeypatch):
    tripled()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    tripled()
    assert [f.read_bytes() for f in folder.iterdir()] == [whole]


def test_what_was_not_used_for_longest_goes_where_it_gets_too_much(folder, monkeypatch):
    tripled(1.0)
    (first,) = folder.iterdir()
    monkeypatch.setattr(llvm, "CACHE_BYTES", 5 * first.stat().st_size // 2)
    os.utime(first, (1, 1))
    tripled(2.0)
    (second,) = set(folder.iterdir()) - {first}
    os.utime(second, (2, 2))
    tripled(1.0)  # which is now the one used last
    (folder / "0.tmp").write_bytes(bytes(10**6))  # left behind by a process that was killed
    os.utime(folder / "0.tmp", (3, 3))
    tripled(3.0)
    assert first.exists() and not second.exists() and len(list(folder.iterdir())) == 2


CROWD = """
import sys
import numpy as np
from minivae.engine import llvm
llvm.platformdirs.user_cache_dir = lambda name: sys.argv[1]
llvm.CACHE_BYTES = 5000
for i in range(30):
    text = f"define i64 @f() {{ ret i64 {i % 12} }}"
    engine, (address,) = llvm.compile_module(text, ["f"])
    assert llvm.ctypes.CFUNCTYPE(llvm.ctypes.c_int64)(address)() == i % 12
"""


def test_processes_that_clear_the_cache_under_each_other(tmp_path):
    command = [sys.executable, "-W", "error", "-c", CROWD, str(tmp_path)]
    crowd = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in crowd:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert sum(file.stat().st_size for file in (tmp_path / "compiled").iterdir()) <= 5000


@pytest.mark.parametrize("name, other", [
    ("get_host_cpu_name", lambda: "x86-64"),
    ("llvm_version_info", (1, 2, 3)),
    ("get_host_cpu_features", type(llvm.llvm.get_host_cpu_features())),
])  # fmt: skip
def test_another_processor_or_llvm_has_files_of_its_own(name, other, folder, monkeypatch):
    tripled()
    monkeypatch.setattr(llvm.llvm, name, other)
    tripled()
    assert len(list(folder.iterdir())) == 2


def test_a_folder_that_cannot_be_written_to_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(llvm.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "file" / name))
    tripled()
    monkeypatch.setattr(llvm.os, "makedirs", lambda *_, **__: None)  # as if it were there
    tripled()


MISSING = """
import sys
sys.modules[sys.argv[1]] = None
import minivae as mv
try:
    mv.get_backend("numba")
except mv.MiniVAEError as error:
    print(error)
print(mv.get_backend("auto").name != "numba")
"""


@pytest.mark.parametrize("package", ["llvmlite", "threadpoolctl"])
def test_what_the_engine_needs_is_said_where_it_is_missing(package):
    run = subprocess.run([sys.executable, "-c", MISSING, package], capture_output=True, text=True, env=os.environ)
    assert run.returncode == 0, run.stderr
    message, auto_takes_another = run.stdout.splitlines()
    assert message == 'backend "numba" needs Numba: pip install "minivae[numba]", or take backend "numpy"'
    assert auto_takes_another == "True"
