"""The GPU engine: generated kernels compute what NumPy computes, in few launches; here on the imaginary GPU.

With `-m gpu` the comparisons run on a real one, too. Where NVRTC is installed, which needs no GPU, it compiles the
source of every kernel.
"""

import fakegpu
import numpy as np
import nvrtc
import pytest
from conftest import MAKE_BACKEND
from reference import models

import minivae as mv
from minivae.engine import cuda, kernels
from minivae.engine.backend import Eager
from minivae.engine.convolution import Axis, Windows, correlate, correlate_weights
from minivae.engine.kernels import Kernels
from minivae.engine.tracing import Untraceable, rows, trace
from minivae.gradcheck import conditional_networks, conv_networks, small_flows
from minivae.training.state import Training


@pytest.fixture(params=["fake", pytest.param("cupy", marks=pytest.mark.gpu)])
def gpu(request):
    return MAKE_BACKEND[request.param]()


def compile_step(gpu, step, host, dtype=None):
    """The compiled step, and its arrays on the device."""
    arrays = {}
    for name, array in host.items():
        arrays[name] = gpu.empty(array.shape, array.dtype)
        gpu.upload(array, to=arrays[name])
    compiled = gpu.compile(step, arrays, dtype)
    assert isinstance(compiled, Kernels)
    return compiled, arrays


def run(gpu, step, host, calls=4, **tolerance):
    """Run a step on the GPU, as kernels and as a graph, and on NumPy; compare all arrays after each call."""
    compiled, arrays = compile_step(gpu, step, host)
    expected = {name: array.copy() for name, array in host.items()}
    eager = Eager(step, expected)
    for call in range(calls):
        compiled()
        with np.errstate(all="ignore"):
            eager()
        for name, array in expected.items():
            np.testing.assert_allclose(gpu.to_host(arrays[name]), array, err_msg=f"{name}, call {call}", **tolerance)
    return compiled


def normal(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ------------------------------------------------------------------------------------------------- operations

EDGES = [0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.5, 1e-30, -3e5, 88.0, 120.0, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_one_number_as_numpy_has_them(gpu, dtype):
    """NaNs, infinities, the sign of zero and overflow included."""
    functions = [f for f in cuda.EXPRESSIONS if isinstance(f, np.ufunc) and f.nin == 1]
    x = np.array(EDGES, dtype)

    def step(a):
        return {f.__name__: f(a["x"]).astype(dtype) for f in functions}

    host = {"x": x} | {f.__name__: np.zeros_like(x) for f in functions}
    run(gpu, step, host, rtol=4e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_two_numbers_as_numpy_has_them(gpu, dtype):
    bitwise = {np.bitwise_and, np.bitwise_or, np.bitwise_xor}
    functions = [f for f in cuda.EXPRESSIONS if isinstance(f, np.ufunc) and f.nin == 2 and f not in bitwise]
    x, y = (np.ravel(array).astype(dtype) for array in np.meshgrid(EDGES, EDGES))

    def step(a):
        return {f.__name__: f(a["x"], a["y"]).astype(dtype) for f in functions}

    host = {"x": x, "y": y} | {f.__name__: np.zeros_like(x) for f in functions}
    run(gpu, step, host, rtol=4e-6 if dtype == "float32" else 1e-14)


def test_zeros_of_either_sign_are_not_one_number(gpu):
    zeros = np.array([0.0, -0.0], "float32")
    run(gpu, lambda a: {"y": np.copysign(a["x"], zeros)}, {"x": np.ones(2, "float32"), "y": normal(2)})


def test_an_array_that_is_not_contiguous_is_refused(gpu):
    whole = gpu.empty((4, 6), np.float32)
    with pytest.raises(Untraceable, match="the array 'x' should be C-contiguous, as it lies on a GPU"):
        trace(lambda a: {"x": a["x"] + 1}, {"x": whole[:, :3]})


def test_maximum_and_minimum_keep_a_nan(gpu):
    x = np.array([np.nan, 1, -1, np.nan], np.float32)

    def step(a):
        return {"low": np.maximum(0, np.minimum(a["x"], 1)), "high": np.clip(a["x"], -0.5, 0.5)}

    _, arrays = compiled = compile_step(gpu, step, {"x": x, "low": x * 0, "high": x * 0})
    compiled[0]()
    np.testing.assert_array_equal(gpu.to_host(arrays["low"]), np.array([np.nan, 1, 0, np.nan], np.float32))
    np.testing.assert_array_equal(gpu.to_host(arrays["high"]), np.array([np.nan, 0.5, -0.5, np.nan], np.float32))


def test_integers_and_truth_values(gpu):
    n, m = np.arange(-3, 5) + (1 << 24), np.arange(8, dtype=np.uint8)[::-1].copy()

    def step(a):
        odd = (a["n"] & 1) == 1
        return {
            "sum": a["n"] + a["m"],
            "wrapped": a["m"] + np.uint8(250),
            "size": np.absolute(a["n"]) * 3 - 1,
            "truth": np.where(odd ^ (a["m"] > 3), 1, -1).astype("float32"),
            "both": (odd & np.logical_not(a["n"] < 0) | (a["n"] == 0)).astype("float32"),
            "cast": (a["n"] * 0.7).astype("int64"),
            "single": a["n"].astype("float32"),
            "double": a["n"].astype("float64"),
            "wide": a["n"] + a["half"],
        }

    host = {"n": n, "m": m, "sum": n, "wrapped": m, "size": n, "cast": n}
    host |= {"half": np.full(8, 0.5, np.float32)}  # with an integer of 25 bits it is more than a float32 holds
    host |= {name: normal(8, dtype="float64") for name in ("double", "wide")} | {
        name: normal(8) for name in ("truth", "both", "single")
    }
    run(gpu, step, host, rtol=0)


def test_numbers_have_the_dtype_they_have_in_numpy():
    assert cuda.literal(0.1, np.dtype("float32")) == "(0.1f)"
    assert cuda.literal(0.1, np.dtype("float64")) == "(0.1)"
    assert cuda.literal(3, np.dtype("float32")) == "(3.0f)"
    assert cuda.literal(-np.inf, np.dtype("float32")) == "(-1.0f / 0.0f)"
    assert cuda.literal(True, np.dtype(bool)) == "true"
    assert cuda.literal(7, np.dtype("int64")) == "(long long)7"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_float64_in_a_kernel_of_float32(dtype):
    """One number without an f would make the arithmetic around it several times slower."""
    (step,) = compiled_steps("keras-mnist", dtype)
    kernel = next(text for text in step.calls[0].source.split("extern") if "sqrt" in text)
    assert ("double" in kernel) == (dtype == "float64")
    assert ("f)" in kernel) == (dtype == "float32")


@pytest.mark.parametrize(
    "key, shape",
    [(np.s_[:, 1:3], (4, 2)), (np.s_[::-1], (4, 6)), (np.s_[::2, None, ::-2], (2, 1, 3)), (np.s_[1], (6,))],
)
def test_views(gpu, key, shape):
    def step(a):
        return {"y": a["x"][key] + np.reshape(a["x"].T[: shape[-1], :1], (-1,))[: shape[-1]]}

    run(gpu, step, {"x": normal(4, 6), "y": normal(*shape)}, rtol=1e-6)


def test_broadcasting(gpu):
    def step(a):
        rows_, columns = a["x"][:, :1], a["x"][:1]
        return {"y": a["x"] * rows_ - columns, "z": np.broadcast_to(rows_.T, (3, 2, 5)) + a["one"]}

    run(gpu, step, {"x": normal(5, 7), "y": normal(5, 7), "z": normal(3, 2, 5), "one": normal(1)}, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(7,), (100, 3), (3, 784), (5, 1, 6, 4), (2, 40_000), (70_000, 2), (300_000,)])
@pytest.mark.parametrize("function", [np.sum, np.max, np.min])
def test_reductions(gpu, shape, function):
    """Along rows and across them, short ones and those that are made in two parts."""
    axes = [0, tuple(range(len(shape))), len(shape) - 1, *([(0, 2)] if len(shape) > 2 else [])]

    def step(a):
        return {f"y{k}": function(a["x"], axis=axis, keepdims=True) for k, axis in enumerate(axes)}

    x = normal(*shape, dtype="float64")
    results = {f"y{k}": np.sum(x, axis=axis, keepdims=True) for k, axis in enumerate(axes)}
    run(gpu, step, {"x": x} | results, rtol=1e-9, atol=1e-9)


def test_long_sums_are_made_in_parts(gpu):
    """By many blocks, though there are few results."""
    host = {"x": normal(300_000, dtype="float64"), "y": normal(1, dtype="float64")}
    compiled = run(gpu, lambda a: {"y": np.sum(a["x"], keepdims=True)}, host, rtol=1e-9)
    first, second = (launch.args[0] for launch in compiled._launches)
    assert np.prod(first) > 64 and second == (1, 1)


@pytest.mark.parametrize("axis, neighbours", [(0, "r = first + threadIdx.x % 8"), (1, "lane = threadIdx.x % 256")])
def test_neighbouring_threads_read_neighbouring_numbers(gpu, axis, neighbours):
    host = {"x": normal(300, 700), "y": normal(*np.sum(normal(300, 700), axis, keepdims=True).shape)}
    compiled, _ = compile_step(gpu, lambda a: {"y": np.sum(a["x"], axis=axis, keepdims=True)}, host)
    assert neighbours in compiled.source


@pytest.mark.parametrize("function", [np.max, np.min])
def test_reductions_keep_a_nan(gpu, function):
    x = normal(3, 300)
    x[1, 17] = np.nan
    run(gpu, lambda a: {"y": function(a["x"], axis=1)}, {"x": x, "y": normal(3)}, rtol=0)


def test_sums_along_rows_are_in_the_loop_that_makes_the_rows(gpu):
    def step(a):
        e = np.exp(a["x"])
        return {"y": e * 2} | {name: np.sum(x, axis=1, keepdims=True) for name, x in (("s", e), ("t", e * a["x"]))}

    host = {"x": normal(50, 300), "y": normal(50, 300), "s": normal(50, 1), "t": normal(50, 1)}
    compiled = run(gpu, step, host, rtol=1e-5)
    assert len(compiled._launches) == 1


def test_sums_along_rows_between_axes_of_one(gpu):
    def step(a):
        y = a["x"][:, None, :, None] * 2
        return {"y": y, "s": np.sum(y, axis=2)}

    run(gpu, step, {"x": normal(5, 7), "y": normal(5, 1, 7, 1), "s": normal(5, 1, 1)}, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_any_matrices(gpu, dtype):
    """Of transposes, of rows and columns of others, and of what cuBLAS cannot take as it lies there."""

    def step(a):
        x, w = a["x"], a["w"]
        return {
            "plain": x @ w,
            "turned": x.T @ x,
            "rows": x[1:3] @ w,
            "columns": x[:, 1:3] @ w[2:4],
            "strided": x[:, ::2] @ w[::2],
            "reversed": x[::-1] @ w[:, ::-1],
            "joined": np.concatenate([x @ w, x], axis=1),
        }

    shapes = {"x": (5, 4), "w": (4, 3), "plain": (5, 3), "turned": (4, 4), "rows": (2, 3), "columns": (5, 3)}
    shapes |= {"strided": (5, 3), "reversed": (5, 3), "joined": (5, 7)}
    host = {name: normal(*shape, dtype=dtype) for name, shape in shapes.items()}
    run(gpu, step, host, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("patch_bytes", [1 << 27, 1000])
def test_convolutions_in_any_number_of_chunks(gpu, monkeypatch, patch_bytes):
    monkeypatch.setattr(kernels, "PATCH_BYTES", patch_bytes)
    axis = Axis(9, 4, 3, 2, 0)
    there = Windows(axis.convolution(), axis.convolution(), (4, 4), 3)
    back = Windows(axis.adjoint(), axis.adjoint(), (9, 9), 3)

    def step(a):
        y = correlate(a["x"], a["kernel"], there)
        dx = correlate(y, a["kernel"].transpose(0, 1, 3, 2), back)
        return {"y": y, "dx": dx, "dkernel": correlate_weights(a["x"], y, there)}

    host = {"x": normal(6, 9, 9, 2), "kernel": normal(3, 3, 2, 5), "y": normal(6, 4, 4, 5), "dx": normal(6, 9, 9, 2)}
    run(gpu, step, host | {"dkernel": normal(3, 3, 2, 5)}, rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------- what changes between two steps


def test_nothing_that_may_change_is_frozen(gpu):
    """Arrays are read anew by every launch of the graph."""
    host = {"x": normal(300), "lr": np.full(1, 0.5, np.float32), "n": np.zeros(1, np.int64), "y": normal(300)}

    def step(a):
        return {"y": a["x"] * (a["lr"] * 3.0) + a["n"], "n": a["n"] + 1}

    compiled, arrays = compile_step(gpu, lambda a: step(a) | {"y": step(a)["y"].astype("float32")}, host)
    for call in range(5):
        gpu.upload(np.full(1, call, np.float32), to=arrays["lr"])
        gpu.upload(normal(300, seed=call), to=arrays["x"])
        compiled()
        np.testing.assert_allclose(gpu.to_host(arrays["y"]), normal(300, seed=call) * (3 * call) + call, rtol=1e-5)


def test_assignments_are_made_at_once(gpu):
    def step(a):
        x, y, w = a["x"], a["y"], a["w"]
        return {"x": y, "y": x, "w": w[::-1] + x[:1], "old": w * 1}

    host = {"x": normal(5), "y": normal(5, seed=1), "w": normal(5, seed=2), "old": normal(5)}
    run(gpu, step, host, rtol=1e-6)


def test_rows_are_made_where_they_are_read(gpu):
    """Without a launch of their own, if their table and the positions are still the same there."""
    order = np.array([4, 2, 8, 0, 1, 3, 5, 7, 6])
    host = {"table": normal(9, 40), "order": order, "at": np.arange(2), "y": normal(2, 40)}

    def step(a):
        x = rows(a["table"], rows(a["order"], a["at"] + 1))
        return {"y": np.tanh(x) * 2 + x[:, 3:4]}

    compiled = run(gpu, step, host, rtol=1e-5, atol=1e-6)
    assert len(compiled._launches) == 1
    assert "[(long long)" in compiled.source  # tables may have more than 2^31 numbers


def product(a):
    """Something that takes a while: what it is joined with is computed in a later kernel."""
    return np.tanh(a["v"] @ a["w"]) @ a["w"]


def parts_first(first, second, y):
    """New values of "p" and "y": those of "p" are noted last, and yet its parts are made before `y`."""
    return {"y": y, "p": np.concatenate([first, second])}


def early_and_late(a, small, first):
    """The number is read before its array changes and after that."""
    return {"p": a["p"] * 0.5, "y": small * product(a | {"v": first})}


# Steps in which rows of a table, or a small number, are noted first and read last, when the table, the positions or
# what the number is made of has changed; and rows that have never been in memory.
HASTY = {
    "positions": lambda a, x, small: {"n": a["n"] + 1, "y": x + product(a)},
    "the table": lambda a, x, small: {"table": a["table"] * 0.9, "y": x + product(a)},
    "a number": lambda a, x, small: {"p": a["p"] * 0.5, "y": small * product(a)},
    "parts of the number's array": lambda a, x, small: parts_first(
        np.square(a["v"][0, :1]), np.tanh(a["v"][0, 1:2]), product(a) * small
    ),
    "a number, between": lambda a, x, small: early_and_late(a, small, a["v"] * small),
    "a sum": lambda a, x, small: {"y": product(a) * np.sum(a["p"], keepdims=True), "p": a["p"] * 0.5},
    "rows as a table": lambda a, x, small: {"y": rows(rows(a["table"], a["few"]), a["n"] + 1) + product(a)},
    "rows in a product": lambda a, x, small: {"n": a["n"] + 1, "y": x @ a["w"]},
}


@pytest.mark.parametrize("names", ["its own", "another"])
@pytest.mark.parametrize("what", HASTY)
def test_what_is_made_where_it_is_read_has_the_values_of_before_the_step(gpu, what, names):
    """Also where the step knows the changing arrays under another name, too."""
    host = {"table": normal(9, 3), "n": np.zeros(1, np.int64), "few": np.array([4, 2, 8, 1, 3, 0]), "p": normal(2)}
    host |= {"v": normal(1, 3, seed=1), "w": normal(3, 3, seed=2), "y": normal(1, 3)}
    arrays = {name: gpu.asarray(array.copy()) for name, array in host.items()}

    def step(a):
        given = {name: a[f"{name} again" if names == "another" else name] for name in ("table", "n", "p")}
        return HASTY[what](a, rows(given["table"], given["n"]), given["p"][:1] * 3)

    def twice(arrays):
        return arrays | {f"{name} again": arrays[name] for name in ("table", "n", "p")}

    compiled, eager = gpu.compile(step, twice(arrays)), Eager(step, twice(host))
    assert isinstance(compiled, Kernels)
    for _ in range(5):
        compiled()
        eager()
        np.testing.assert_allclose(gpu.to_host(arrays["y"]), host["y"], rtol=1e-5)


def test_a_number_of_an_array_of_which_parts_change_early_and_late(gpu):
    host = {"whole": normal(4), "v": normal(1, 3, seed=1), "w": normal(3, 3, seed=2), "y": normal(1, 3)}
    arrays = {name: gpu.asarray(array.copy()) for name, array in host.items()}

    def step(a):
        small = a["whole"][:1] * 3
        first = a["v"] * small
        p = a["p"] * 0.5
        y = small * product(a | {"v": first})
        return {"p": p, "y": y, "q": a["q"] + product(a | {"v": y})[0, :2]}

    def with_parts(arrays):
        return arrays | {"p": arrays["whole"][:2], "q": arrays["whole"][2:]}

    compiled, eager = gpu.compile(step, with_parts(arrays)), Eager(step, with_parts(host))
    assert isinstance(compiled, Kernels)
    for _ in range(2):
        compiled()
        eager()
        for name in "y", "whole":
            np.testing.assert_allclose(gpu.to_host(arrays[name]), host[name], rtol=1e-5)


def test_short_loops_share_a_kernel(gpu):
    """Each reads what other threads made in the one before."""
    n = 200

    def step(a):
        x = a["x"] + 1
        y = np.sum(x[::-1] * np.arange(n, dtype=np.float32), keepdims=True)
        z = x[::-1] * y
        return {"x": z * 1e-4, "total": np.sum(z, keepdims=True), "count": a["count"] + 1}

    compiled = run(gpu, step, {"x": normal(n), "total": normal(1), "count": np.zeros(1, np.int64)}, rtol=1e-3)
    assert len(compiled._launches) == 1


def test_loops_that_would_count_too_far_are_left_to_others(gpu, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "MOST_ELEMENTS", 99)
    for n in 99, 100:
        compiled = gpu.compile(lambda a: {"x": a["x"] * 2}, {"x": gpu.zeros((n,), "float32")})
        assert isinstance(compiled, Kernels if n == 99 else Eager)
    assert "at most 99 elements, not 100" in capsys.readouterr().err


UNKNOWN = {
    "np.spacing of float32": lambda x: np.spacing(x),
    "np.floor of int64": lambda x: np.floor(x.astype("int64")),
    "float16": lambda x: x.astype("float16"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_has_no_kernel_runs_eagerly_and_says_why(gpu, capsys, what):
    arrays = {name: gpu.asarray(normal(3)) for name in ("x", "y")}
    step = gpu.compile(lambda a: {"y": UNKNOWN[what](a["x"]).astype("float32")}, arrays)
    assert isinstance(step, Eager)
    message = capsys.readouterr().err
    assert "test_kernels.py:" in message and f"do not know {what}" in message


# --------------------------------------------------------------------------------------------------- whole models


def train(vae, x, y, epochs, optimizer, options):
    x, options = x if y is None else (x, y), options | {"optimizer": optimizer, "progress": False}
    return mv.fit(vae, x, epochs=epochs, batch_size=models.BATCH_SIZE, **options)


@pytest.mark.parametrize("name", models.recipes())
def test_recipes_train_as_on_numpy(gpu, name, capsys):
    here, there = (models.course(name, train, 2, backend=b, dtype="float64") for b in (gpu, "numpy"))
    np.testing.assert_allclose(here["losses"], there["losses"], rtol=1e-10)
    for key, (total, squares) in there["weights"].items():
        np.testing.assert_allclose(here["weights"][key], [total, squares], rtol=1e-10, atol=1e-10, err_msg=key)
    assert "uncompiled" not in capsys.readouterr().err


def small(**parts):
    """A function of a backend that makes a small model of twelve pixels, unless other networks are given."""
    networks = {"encoder": [mv.Dense(12, 8), mv.Tanh(), mv.Dense(8, 6)], "decoder": [mv.Dense(3, 12)]}
    return lambda backend: mv.VAE(**networks | parts, backend=backend, dtype="float64")


SMALL = {
    "flows": small(encoder=[mv.Dense(12, 9)], posterior=small_flows()),
    "convolutional": small(**conv_networks()),
    "two classes": small(**conditional_networks()),
    "categorical": small(likelihood=mv.Categorical(3), decoder=[mv.Dense(3, 36)]),
    "shared variance": small(likelihood=mv.SharedVarianceGaussian()),
    "predicted variance": small(likelihood=mv.PredictedVarianceGaussian(), decoder=[mv.Dense(3, 24)]),
    "free bits": small(free_bits=0.4),
    "importance-weighted": small(bound=mv.ImportanceWeighted()),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_models_train_as_on_numpy(gpu, name):
    """Clipped gradients, several samples and a short last batch."""
    courses = []
    for backend in gpu, "numpy":
        vae = SMALL[name](backend)
        x = np.random.default_rng(0).integers(0, 256, (50, vae.input_dim), np.uint8)
        x = (x, np.arange(50) % 2) if vae.n_classes else x
        optimizer = mv.ClipNorm(mv.Adam(1e-2), 1.0)
        history = mv.fit(vae, x, epochs=3, batch_size=20, samples=2, optimizer=optimizer, progress=False)
        weights = np.concatenate([array.ravel() for array in vae.parameters.to_host().values()])
        courses.append([*weights, *(row["train_loss"] for row in history)])
    np.testing.assert_allclose(*courses, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", SMALL)
def test_small_models_line_by_line(name):
    """Without compiling, the equations run on the device's arrays: NumPy's functions find their way to CuPy's."""
    courses = []
    for backend in fakegpu.backend(), mv.get_backend("numpy"):
        backend.compiled = False
        vae = SMALL[name](backend)
        x = np.random.default_rng(0).integers(0, 256, (20, vae.input_dim), np.uint8)
        y = np.arange(20) % 2 if vae.n_classes else None
        mv.fit(vae, x if y is None else (x, y), epochs=1, batch_size=10, samples=2, progress=False)
        weights = np.concatenate([array.ravel() for array in vae.parameters.to_host().values()])
        score, z = vae.evaluate(x, samples=3, y=y), vae.encode(x, y)[0]
        likelihood = vae.log_likelihood(x[:4], samples=20, y=None if y is None else y[:4])
        courses.append([*weights, score.loss, likelihood, *z.ravel(), *vae.reconstruct(x, y=y).ravel()])
    np.testing.assert_allclose(*courses, rtol=1e-9, atol=1e-10)


def compiled_steps(name, dtype="float32"):
    """The steps of a training of a recipe, or of a small model, on the imaginary GPU."""
    if name in SMALL:
        vae, optimizer, options = SMALL[name](fakegpu.backend()), mv.ClipNorm(mv.Adam(), 1.0), {"samples": 2}
        x, y = np.zeros((50, vae.input_dim), np.uint8), np.arange(50) % 2
    else:
        vae, optimizer, options = models.recipes()[name](backend=fakegpu.backend(), dtype=dtype)
        x, y = models.digits()
    samples, binarize = options.get("samples", 1), options.get("binarize", False)
    y = y if vae.n_classes else None
    training = Training(vae, optimizer, x, y, np.arange(len(x)), 20, samples, binarize, 0, None)
    return [step for step, _ in training.parts]


# ---------------------------------------------------------------------------------------------- CUDA's own compiler


needs_nvrtc = pytest.mark.skipif(nvrtc.library() is None, reason="needs NVRTC, which minivae[cuda12x] brings")


@needs_nvrtc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", [*models.recipes(), *SMALL])
def test_cudas_compiler_takes_every_kernel(name, architecture):
    for step in compiled_steps(name):
        assert nvrtc.machine_code(step.calls[0].source, architecture).startswith(b"\x7fELF")


@needs_nvrtc
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_cudas_compiler_knows_every_function(dtype):
    lines, bitwise = [], (np.bitwise_and, np.bitwise_or, np.bitwise_xor)
    for function, text in cuda.EXPRESSIONS.items():
        if "{f}" not in text if dtype == "int64" else function not in bitwise:
            expression = cuda.expression(function, ("p0[1]", "p0[2]", "p0[3]"), np.dtype(dtype))
            lines.append(f"    p0[{len(lines)}] = {expression};\n")
    assert len(lines) > 20
    nvrtc.machine_code(f'extern "C" __global__ void all({cuda.c_type(dtype)}* p0) {{\n{"".join(lines)}}}\n', "sm_80")
    with pytest.raises(RuntimeError, match="undefined"):
        nvrtc.machine_code('extern "C" __global__ void wrong(float* p0) { p0[0] = expm2f(p0[0]); }', "sm_80")
