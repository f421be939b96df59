"""Assignments are parallel, and no value is overwritten while somebody still reads it, however memory is shared."""

import tracemalloc

import numpy as np
import pytest

import minivae as mv
from minivae import get_backend
from minivae.engine import calls
from minivae.engine.backend import Eager, NumpyBackend
from minivae.engine.convolution import Axis, Windows, correlate, correlate_weights
from minivae.engine.plan import Groups, Plan, is_number, merged, stored, whole_loop
from minivae.engine.tracing import trace
from minivae.training.state import Training

# Integers, so that every engine gets the same values to the last bit.
A = np.arange(1, 7, dtype="float32").reshape(2, 3)
B = 10 * A
C = 100 * A
LONG = np.arange(3 * calls.PIECE, dtype="float32") % 97


def on(backend, **arrays):
    held = {name: backend.empty(array.shape, array.dtype) for name, array in arrays.items()}
    for name, array in arrays.items():
        backend.upload(array, to=held[name])
    return held


def assert_same(backend, step, n_calls=2, compiled=True, **arrays):
    """The step does on a backend what its function does in plain NumPy, which assigns nothing before all is read."""
    expected, held = {name: array.copy() for name, array in arrays.items()}, on(backend, **arrays)
    run = backend.compile(step, held)
    assert isinstance(run, Eager) != compiled
    for _ in range(n_calls):
        run()
        values = {name: np.array(value) for name, value in step({key: x.copy() for key, x in expected.items()}).items()}
        expected |= {name: value.astype(expected[name].dtype) for name, value in values.items()}
    for name in expected:
        np.testing.assert_array_equal(backend.to_host(held[name]), expected[name], err_msg=name)


# -------------------------------------------------------------------------------------- parallel assignment

PARALLEL = {
    "swap": lambda a: {"a": a["b"], "b": a["a"]},
    "rotation": lambda a: {"a": a["b"], "b": a["c"], "c": a["a"]},
    "swap of new values": lambda a: {"a": a["b"] + 1, "b": a["a"] + 1},
    "old value kept": lambda a: {"a": a["a"] * 2 + a["b"], "b": a["a"]},
    "old view kept": lambda a: {"a": a["a"] * 2, "b": np.concatenate([a["a"][1:], a["b"][:1]])},
    "old value read late": lambda a: {"a": a["a"] + 1, "b": np.sum((a["a"] + 1) @ a["b"].T, axis=1)[:, None] + a["a"]},
    "reversed": lambda a: {"a": a["a"][::-1] + 1},
    "reversed and itself": lambda a: {"a": a["a"] + a["a"][::-1]},
    "reversed in both axes": lambda a: {"a": a["a"][::-1, ::-1]},
    "transposed": lambda a: {"s": a["s"].T + a["s"]},
    "a row for all": lambda a: {"a": a["a"] + a["a"][0]},
    "shifted": lambda a: {"a": np.concatenate([a["a"][:, 1:], a["a"][:, :1]], axis=1)},
    "overlapping slices": lambda a: {"a": np.concatenate([a["a"][:, :1] + a["a"][:, 1:2], a["a"][:, :2] * 2], axis=1)},
    "its own sum": lambda a: {"a": a["a"] + np.sum(a["a"], axis=0)},
    "its own product": lambda a: {"s": a["s"] @ a["s"]},
    "one value for two": lambda a: (lambda v: {"a": v, "b": v})(a["a"] + a["b"]),
    "a value and a view of it": lambda a: (lambda v: {"a": v, "b": v[::-1]})(a["a"] + a["b"]),
    "a value and what reads it": lambda a: (lambda v: {"a": v, "b": v * 2 + a["a"]})(a["a"] + a["b"]),
    "itself": lambda a: {"a": a["a"], "b": a["a"] + a["b"]},
    "chosen by itself": lambda a: {"a": np.where(a["a"] > 2, a["a"], a["b"])},
    "chosen from itself last": lambda a: {"a": np.where(a["a"] > 2, a["b"], a["a"])},
    "a mask chosen by itself": lambda a: {"m": np.where(a["m"], a["a"] > 2, a["b"] > 20)},
    "part of what is joined": lambda a: (lambda v: {"a": v, "long": np.concatenate([v, a["b"]])})(a["a"] * 2),
    "new and old joined": lambda a: {"a": a["a"] * 2, "long": np.concatenate([a["a"], a["a"] * 2])},
    "another dtype": lambda a: {"m": a["a"] > 2, "a": a["m"] * a["a"] + a["a"]},
}


@pytest.mark.parametrize("name", PARALLEL)
def test_all_is_read_before_anything_is_assigned(backend, name):
    arrays = {"a": A, "b": B, "c": C, "s": B[:, :2] % 7, "m": A > 3, "long": np.zeros((4, 3), "float32")}
    assert_same(backend, PARALLEL[name], **arrays)
    assert_same(NumpyBackend(compiled=False), PARALLEL[name], compiled=False, **arrays)


def turned(x):
    return np.concatenate([x[1:], x[:1]])


PARALLEL_LONG = {
    "a value and its reverse": lambda a: {
        "a": (lambda t: t + t[::-1])(a["a"] * 2),
        "b": (lambda t: t - t[:1])(a["b"] + 1),
    },
    "a buffer read from its end": lambda a: {"a": turned((lambda t: t[::-1] * 2 + t)(turned(a["a"])))},
    "in place": lambda a: {"a": (a["a"] * 2 + a["b"]) - a["a"]},
    "reversed": lambda a: {"a": a["a"] * 2 + a["a"][::-1], "b": a["b"] + 1},
    "shifted": lambda a: {"a": a["a"] * 2 + turned(a["a"])},
    "swap": lambda a: {"a": a["b"] * 2 + 1, "b": a["a"] * 2 + 1},
    "old value kept": lambda a: {"a": a["a"] - 3 * a["b"], "b": a["a"] + 1},
    "chosen": lambda a: {"a": np.where(a["a"] > a["b"], a["a"] - 1, a["b"]), "b": np.maximum(a["a"], a["b"])},
    "chosen in place": lambda a: {"a": np.where(a["b"] > 40, a["a"], a["b"] * 2 + 1)},
}


@pytest.mark.parametrize("name", PARALLEL_LONG)
def test_so_it_is_where_arrays_are_worked_on_piece_by_piece(backend, name):
    assert_same(backend, PARALLEL_LONG[name], a=LONG, b=(LONG * 31) % 89)


def test_inputs_that_share_memory(backend):
    """One array is a view of another that the step changes."""
    held = on(backend, whole=np.arange(8, dtype="float32"), other=np.zeros(8, "float32"))
    held["part"] = held["whole"][2:6]

    def step(a):
        return {"whole": a["whole"] * 2, "other": np.concatenate([a["part"], a["part"] + 1])}

    backend.compile(step, held)()
    np.testing.assert_array_equal(backend.to_host(held["whole"]), np.arange(8) * 2)
    np.testing.assert_array_equal(backend.to_host(held["other"]), [2, 3, 4, 5, 3, 4, 5, 6])


@pytest.mark.parametrize("ahead", [True, False])
def test_inputs_that_share_memory_shifted(backend, ahead):
    """Each element is read under one name just before or after it is written under another."""
    whole = on(backend, whole=LONG)["whole"]
    first, second = whole[1:], whole[:-1]
    held = {"a": first, "b": second} if ahead else {"a": second, "b": first}
    expected = LONG.copy()
    a, b = (expected[1:], expected[:-1]) if ahead else (expected[:-1], expected[1:])

    def step(a):
        return {"a": (a["b"] * 2 + 1) - a["a"]}

    backend.compile(step, held)()
    a[...] = step({"a": a, "b": b})["a"]
    np.testing.assert_array_equal(backend.to_host(whole), expected)


def test_assigning_to_arrays_that_share_memory_runs_as_it_stands(capsys):
    whole = np.zeros(4, "float32")
    run = get_backend("numpy").compile(lambda a: {"x": a["x"] + 1, "y": a["y"] + 2}, {"x": whole, "y": whole[2:]})
    run()
    assert "'x' and to 'y', which share memory" in capsys.readouterr().err
    np.testing.assert_array_equal(whole, [1, 1, 2, 2])


# ---------------------------------------------------------------------------------------- shared memory


def twice_in_one(a):
    part = a["a"] * 2
    return {"y": np.concatenate([part, part])}


def itself_and_reversed(a):
    part = a["a"] * 2
    return {"y": np.concatenate([part, part[::-1]])}


def in_two(a):
    part = a["a"] * 2
    return {"y": np.concatenate([part, a["b"]]), "z": np.concatenate([a["b"] + 1, part])}


def in_two_at_one_place(a):
    part = a["a"] * 2
    return {"y": np.concatenate([part, a["b"]]), "z": np.concatenate([part, a["b"] + 1])}


def part_seen_in_another_shape(a):
    """What is made as a vector, and joined as a matrix with a gap behind each row, cannot be made there."""
    return {"wide": np.concatenate([(a["a"].reshape(6) * 2).reshape(2, 3), a["b"]], axis=1)}


def memory_in_another_order(a):
    """A value is read for the last time where one of its shape is made, whose axes are in another order in memory."""
    columns = a["a"].T * 2
    rows = columns @ (a["a"] @ a["b"].T)
    both = rows - columns
    return {"y": np.concatenate([both.reshape(2, 3) * 1, rows.reshape(2, 3)])}


def in_one_of_one(a):
    inner = np.concatenate([a["a"] * 2, a["a"] + 1])
    return {"y": np.concatenate([inner[1:3], inner[:2]]), "z": np.concatenate([inner[:2], a["b"]])}


def part_with_another_shape(a):
    """A part lies in columns of a wider array; its other view cannot be a view there."""
    part = a["a"] * 2
    return {"wide": np.concatenate([part, a["b"]], axis=1), "flat": part.reshape(6)}


def part_read_after_the_whole(a):
    """The whole is read for the last time by an operation that could take its memory, while a part of it is needed."""
    part = a["a"][:1] * 2
    whole = np.concatenate([part, a["b"][:1]])
    return {"y": np.concatenate([np.abs((whole * 3 - 1) * (part + a["b"])), a["b"]])}


def transposed_part(a):
    part = (a["a"] * 2).T
    return {"y": np.concatenate([part.reshape(2, 3), part.reshape(2, 3) + 1])}


def broadcast_part(a):
    part = np.broadcast_to(a["a"][:1] * 2, (2, 3))
    return {"y": np.concatenate([part, part + a["a"]])}


def chosen_where_memory_is_free(a):
    """x of np.where is read for the last time, and the result could take its memory."""
    chosen = np.where(a["b"] > 20, a["a"] * 2, a["b"] - 1)
    mask = np.where((a["a"] > 2) & (a["b"] > 0), a["a"] > 4, a["b"] > 50)
    return {"y": np.concatenate([chosen, mask * a["b"]])}


def images_with_gaps(a):
    """A convolution without zeros around its images, whose channels do not lie side by side."""
    axis = Axis(2, 1, 2, 1, 0)
    windows = Windows(axis.convolution(), axis.convolution(), (1, 1), 2)
    x = np.concatenate([a["a"], a["b"]]).reshape(-1)[:8].reshape(1, 2, 2, 2).transpose(0, 3, 1, 2)
    kernel = a["b"].reshape(-1)[:4].reshape(2, 2, 1, 1)
    y = correlate(x[..., :1], kernel, windows)
    odd = (
        a["b"].reshape(-1)[:4].reshape(1, 1, 2, 2).transpose(1, 2, 3, 0)
    )  # contiguous, with any stride for one channel
    y = y + correlate(odd, kernel, windows)
    kernels = np.concatenate([kernel, kernel + 1], axis=2)
    both = np.concatenate([y, correlate(x, kernels, windows), correlate(x * 2, kernels, windows)])
    return {"flat": np.concatenate([both.reshape(-1), both.reshape(-1)])}


def a_kernel_larger_than_the_images(a):
    """No window meets some of the kernel: its gradient there is 0."""
    axis = Axis(1, 1, 3, 3, 1)
    windows = Windows(axis.adjoint(), axis.adjoint(), (1, 1), 3)
    x = a["a"].reshape(6, 1, 1, 1)
    return {"nine": correlate_weights(x, x + 1, windows).reshape(9)}


SHARED = [
    *(in_two_at_one_place, part_seen_in_another_shape, memory_in_another_order),
    *(twice_in_one, itself_and_reversed, in_two, in_one_of_one, part_with_another_shape, part_read_after_the_whole),
    *(transposed_part, broadcast_part, chosen_where_memory_is_free, images_with_gaps),
    a_kernel_larger_than_the_images,
]


@pytest.mark.parametrize("step", SHARED)
def test_no_value_is_overwritten_while_it_is_read(backend, step):
    zeros = {"y": (4, 3), "z": (4, 3), "wide": (2, 6), "flat": (6,), "nine": (9,)}
    arrays = {"a": A, "b": B} | {name: np.zeros(shape, "float32") for name, shape in zeros.items()}
    # What a step left in its memory must not help the next one.
    assert_same(backend, step, n_calls=1, **arrays)
    assert_same(backend, lambda a: step(a) | {"a": a["a"] + 1, "b": a["b"] - 1}, n_calls=3, **arrays)


def test_a_convolution_that_reads_another_over_the_same_windows(backend):
    """The second needs what the first makes of all images, so they cannot share the patches of a few at a time."""
    axis = Axis(16, 14, 3, 1, 0)
    windows = Windows(axis.convolution(), axis.convolution(), (14, 14), 3)
    shapes = {"images": (40, 16, 16, 4), "kernel": (3, 3, 4, 2), "dkernel": (3, 3, 4, 2)}
    arrays = {name: (np.arange(np.prod(shape)) % 3).reshape(shape).astype("float32") for name, shape in shapes.items()}
    assert len(windows.chunks(shapes["images"], "float32")) > 1

    def step(a):
        y = correlate(a["images"], a["kernel"], windows)
        return {"dkernel": correlate_weights(a["images"], y[::-1], windows)}

    assert_same(backend, step, n_calls=1, **arrays)  # the next would find what this one made


def test_a_part_is_not_made_between_those_of_another():
    """NumPy's loops give other bits where input and output are interleaved in memory."""
    values = np.random.default_rng(0).standard_normal((200, 1)).astype("float32")

    def step(a):
        first = a["x"] @ a["w"]
        return {"y": np.concatenate([np.expm1(first), first], axis=1)}

    arrays = {"x": values, "w": np.ones((1, 1), "float32"), "y": np.zeros((200, 2), "float32")}
    bits = []
    for compiled in (True, False):
        NumpyBackend(compiled=compiled).compile(step, arrays)()
        bits.append(arrays["y"].copy())
    np.testing.assert_array_equal(*bits)


# ------------------------------------------------------------------------------------- memory, bit for bit


def of_one_pixel(a):
    """The columns of a 1x1 kernel, transposed, are a matrix that BLAS would read in another order."""
    axis = Axis(7, 7, 1, 1, 0)
    windows = Windows(axis.convolution(), axis.convolution(), (7, 7), 1)
    x = a["x"].reshape(-1)[: 49 * 20].reshape(4, 7, 7, 5)
    return correlate(x, a["w"].reshape(-1)[:30].reshape(1, 1, 6, 5).transpose(0, 1, 3, 2), windows)


SUMS = {
    "transposed product": lambda a: np.sum((a["x"] @ a["w"]).T, axis=0),
    "transposed": lambda a: np.sum(a["x"].T * a["s"][:, 0], axis=1),
    "slice": lambda a: np.sum(a["x"][:, 3:50], axis=(0, 1), keepdims=True),
    "reversed": lambda a: np.sum(a["x"][::-1, ::-2], axis=(0, 1), keepdims=True),
    "joined": lambda a: np.sum(np.concatenate([a["x"], a["x"] * 2], axis=1), axis=0),
    "joined parts": lambda a: (lambda v: np.concatenate([np.sum(v, axis=0, keepdims=True), v]))(a["x"] * 2),
    "part of columns": lambda a: (lambda v: np.concatenate([v, v + 1], 1) * np.sum(v, (0, 1), keepdims=True))(-a["x"]),
    "stacked": lambda a: np.sum(np.stack([a["x"], a["x"] * 2, a["x"] + 1], axis=1), axis=(0, 2)),
    "3-D, first axis": lambda a: np.sum(a["c"], axis=0),
    "3-D, middle axis": lambda a: np.sum(a["c"], axis=1),
    "3-D, last axis": lambda a: np.sum(a["c"], axis=2),
    "3-D, two axes": lambda a: np.sum(a["c"].transpose(2, 0, 1) * 3, axis=(0, 2)),
    "3-D, all": lambda a: np.sum(a["c"].transpose(1, 2, 0) + 1, axis=(0, 1, 2), keepdims=True),
    "mean": lambda a: np.mean(a["c"].transpose(1, 2, 0), axis=(0, 1)),
    "axis of one": lambda a: np.sum(np.sum(a["x"][None, :, 5:], axis=0), axis=(0, 1), keepdims=True),
    "one part": lambda a: np.sum(np.concatenate([a["x"][:, 5:]]), axis=(0, 1), keepdims=True),
    "cast to the same": lambda a: np.sum(a["x"][:, 5:].astype("float32"), axis=(0, 1), keepdims=True),
    "flattened": lambda a: np.sum(a["x"][:, 5:].ravel(), keepdims=True),
    "broadcast": lambda a: np.sum(np.broadcast_to(a["s"], (5, 91, 1)), axis=1),
    "chosen rows": lambda a: np.sum(mv.rows(a["x"].T, a["i"]), axis=(0, 1), keepdims=True),
    "minus zero": lambda a: np.sum(a["s"][None] * -0.0, axis=0),
    "Gram matrix": lambda a: a["x"].T @ a["x"],
    "square in columns": lambda a: a["x"].T[::2] @ a["x"][:, 3:9],
    "convolution": lambda a: np.sum(of_one_pixel(a), axis=(0, 1, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", SUMS)
def test_rounding_is_that_of_plain_numpy(name):
    rng = np.random.default_rng(0)
    shapes = {"x": (91, 97), "w": (97, 13), "s": (91, 1), "c": (5, 33, 67)}
    arrays = {key: rng.standard_normal(shape).astype("float32") for key, shape in shapes.items()}
    arrays["i"] = np.array([5, 3, 3])
    expected = SUMS[name](arrays)
    arrays["y"] = np.zeros(expected.shape, "float32")
    run = get_backend("numpy").compile(lambda a: {"y": SUMS[name](a)}, arrays)
    assert isinstance(run, calls.Calls)
    run()
    np.testing.assert_array_equal(arrays["y"].view(np.uint32), expected.view(np.uint32))


def test_what_is_finite_in_pieces_of_transposed_arrays():
    """Several versions of NumPy leave out results of np.isfinite that are to lie with gaps between them."""
    x = np.random.default_rng(0).standard_normal((calls.PIECE, 3)).astype("float32")
    arrays = {"x": x, "y": np.zeros(x.T.shape, bool), "z": np.zeros(x.T.shape, "float32")}
    get_backend("numpy").compile(lambda a: {"y": np.isfinite(a["x"].T), "z": np.isnan(a["x"].T * 2) + 1}, arrays)()
    assert arrays["y"].view(np.uint8).min() == arrays["z"].min() == arrays["z"].max() == 1


def test_a_new_value_that_is_summed_up_keeps_its_layout():
    arrays = {"x": np.random.default_rng(0).standard_normal((91, 97)).astype("float32")}
    arrays |= {"y": np.zeros((97, 91), "float32"), "sum": np.zeros((1, 1), "float32")}

    def step(a):
        y = a["x"].T * 1.1
        return {"y": y, "sum": np.sum(y, axis=(0, 1), keepdims=True)}

    expected = step(arrays)
    get_backend("numpy").compile(step, arrays)()
    for name, value in expected.items():
        np.testing.assert_array_equal(arrays[name], value)


# --------------------------------------------------------------------------------------------- how much memory


def the_plan(step, **arrays):
    return Plan(trace(step, arrays), get_backend("numpy").empty, lambda constant: constant, lambda group: [])


def test_memory_is_used_again():
    """A chain of products needs two buffers, however long it is."""

    def step(a):
        x = a["x"]
        for _ in range(20):
            x = np.tanh(x @ a["w"]) + 1
        return {"y": x}

    x, w = np.ones((10, 10), "float32"), np.ones((10, 10), "float32")
    assert the_plan(step, x=x, w=w, y=np.zeros_like(x)).bytes == 2 * x.nbytes


def test_a_plan_tells_how_much_memory_it_takes():
    """All that it has made, patches of convolutions and the zeros around images included."""
    made, backend, axis = [], NumpyBackend(), Axis(5, 5, 3, 1, 1)
    windows = Windows(axis.convolution(), axis.convolution(), (5, 5), 3)
    arrays = {"x": np.ones((4, 5, 5, 2), "float32"), "kernel": np.ones((3, 3, 2, 2), "float32")}
    backend.empty = lambda shape, dtype: made.append(np.empty(shape, dtype)) or made[-1]
    step = calls.Calls(trace(lambda a: {"x": np.tanh(correlate(a["x"], a["kernel"], windows))}, arrays), backend)
    assert step.plan.bytes == sum(array.nbytes for array in made) > 5 * arrays["x"].nbytes


def test_a_long_list_whose_first_and_last_operation_are_one_loop():
    def step(a):
        x = a["x"]
        for _ in range(1500):
            x = np.tanh(x @ a["w"])
        return {"x": x + (a["x"] + 1)}

    arrays = {"x": np.ones((2, 3), "float32"), "w": np.eye(3, dtype="float32")}
    expected = step(arrays)["x"]
    get_backend("numpy").compile(step, arrays)()
    np.testing.assert_array_equal(arrays["x"], expected)


def test_what_only_a_loop_reads_needs_no_memory():
    x = np.ones(1000, "float32")
    list_ = trace(lambda a: {"y": np.exp(a["x"] * 2 + 1) - 3}, {"x": x, "y": x.copy()})
    assert Plan(list_, get_backend("numpy").empty, lambda constant: constant, lambda group: group).bytes == 0


def test_what_is_summed_along_its_rows_by_the_loop_that_makes_it_needs_no_memory():
    x, s = np.ones((100, 50), "float32"), np.ones(100, "float32")
    list_ = trace(lambda a: {"s": np.sum(np.exp(a["x"]) * 2, axis=1)}, {"x": x, "s": s})
    assert Plan(list_, get_backend("numpy").empty, lambda constant: constant, whole_loop).bytes == s.nbytes


WINDOWS = [Windows(axis.convolution(), axis.convolution(), (5, 5), 3) for axis in [Axis(5, 5, 3, 1, 1)] * 2]
TURNED = Windows(Axis(5, 5, 3, 1, 1).adjoint(), Axis(5, 5, 3, 1, 1).adjoint(), (5, 5), 3)


def products_between(a):
    y = a["x"] * 2
    return {"x": y + y @ a["w"]}


def a_product_beside(a):
    y = a["x"] * 2
    return {"x": y + a["v"] @ a["w"]}


def a_product_behind(a):
    y = a["x"] * 2
    return {"v": y @ a["w"], "x": y + 1}


def both_gradients(a, image="image", windows=WINDOWS[1]):
    y = correlate(a["image"], a["kernel"], WINDOWS[0])
    return {"y": y, "kernel": correlate_weights(a[image], a["y"], windows)}


# What a step is; and which operations are one group each, besides the copies that some new values need.
GROUPS = {
    "a chain": (lambda a: {"x": np.tanh(a["x"] * 2)}, ["multiply tanh"]),
    "two that read the same": (lambda a: {"x": a["x"] * 2, "v": a["x"] - 1}, ["multiply subtract"]),
    "two that have nothing in common": (lambda a: {"x": a["x"] * 2, "v": a["v"] - 1}, ["multiply", "subtract"]),
    "a product between": (products_between, ["multiply", "matmul", "add"]),
    "a product beside": (a_product_beside, ["matmul", "multiply add"]),
    "a product behind": (a_product_behind, ["multiply add", "matmul"]),
    "a product of what is made": (lambda a: {"x": (a["x"] * 2) @ a["w"]}, ["multiply", "matmul"]),
    "another shape": (lambda a: {"x": a["x"] * (a["row"] - 1)}, ["subtract", "multiply"]),
    "axes of one": (lambda a: {"x": (a["x"][:, None] * 2)[:, 0] - 1}, ["multiply subtract"]),
    "backwards": (lambda a: {"x": (lambda y: y - y[::-1])(a["x"] * 2)}, ["multiply", "subtract"]),
    "single numbers": (lambda a: {"one": np.exp(a["one"] * 2)}, ["multiply", "exp"]),
    "sum of rows": (lambda a: {"s": np.sum(a["x"] * 2, axis=1)}, ["multiply add"]),
    "sum of rows, first": (lambda a: {"s": np.sum(a["x"], axis=1), "v": a["x"] * 2}, ["add multiply"]),
    "sum of rows of another shape": (
        lambda a: {"two": np.sum(a["x"].reshape(2, 6), axis=1), "v": a["x"] * 2}, ["add", "multiply"]
    ),
    "sum of rows between ones": (
        lambda a: {"s": np.sum((a["x"] * 2)[:, None, :, None], axis=(1, 2, 3))}, ["multiply add"]
    ),
    "sum of columns": (lambda a: {"row": np.sum(a["x"] * 2, axis=0)}, ["multiply", "add"]),
    "sum of all": (lambda a: {"one": np.sum(a["x"] * 2, keepdims=True)[0]}, ["multiply", "add"]),
    "sum of rows, turned": (lambda a: {"row": np.sum((a["x"] * 2).T, axis=1)}, ["multiply", "add"]),
    "sum of a vector": (lambda a: {"one": np.sum(a["row"] * 2, keepdims=True)}, ["multiply", "add"]),
    "largest of rows": (lambda a: {"s": np.max(a["x"] * 2, axis=1)}, ["multiply", "maximum"]),
    "share of a sum": (lambda a: {"x": a["x"] / np.sum(a["x"], axis=1)[:, None]}, ["add", "divide"]),
    "sum of a part": (lambda a: {"s": np.sum((a["x"] * 2)[:, 1:], axis=1)}, ["multiply", "add"]),
    "sum of a sum": (
        lambda a: {"one": np.sum(np.sum(a["x"] * 2, axis=1), keepdims=True)}, ["multiply add", "add"]
    ),
    "two over the same windows": (both_gradients, ["correlate correlate_weights"]),
    "over windows of other images": (lambda a: both_gradients(a, "y"), ["correlate", "correlate_weights"]),
    "over other windows": (lambda a: both_gradients(a, windows=TURNED), ["correlate", "correlate_weights"]),
    "three over the same windows": (
        lambda a: both_gradients(a) | {"other": correlate_weights(a["image"], a["image"], WINDOWS[0])},
        ["correlate correlate_weights", "correlate_weights"],
    ),
    "two of a kind": (
        lambda a: {"kernel": correlate_weights(a["image"], a["y"], WINDOWS[0]),
                   "other": correlate_weights(a["image"], a["image"], WINDOWS[0])},
        ["correlate_weights", "correlate_weights"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_what_runs_as_one(name):
    step, expected = GROUPS[name]
    shapes = {"x": (3, 4), "v": (3, 4), "w": (4, 4), "s": (3,), "row": (4,), "one": (1,), "two": (2,)}
    shapes |= {"image": (2, 5, 5, 2), "y": (2, 5, 5, 2), "kernel": (3, 3, 2, 2), "other": (3, 3, 2, 2)}
    list_ = trace(step, {name: np.ones(shape, "float32") for name, shape in shapes.items()})
    groups = Groups(list_.live()).in_order()
    assert [" ".join(value.name for value in group) for group in groups] == expected


@pytest.mark.parametrize("shape, steps, expected", [
    ((3, 4), (4, 1), (0, 4)),
    ((3, 4), (5, 1), (0, 5)),
    ((3, 4), (1, 3), (1, 3)),
    ((3, 4), (1, 5), (1, 5)),
    ((3, 1), (2, 7), (0, 2)),
    ((1, 4), (0, 1), (0, 4)),
    ((1, 3), (5, 2), (1, 2)),
    ((3, 4), (2, 1), None),
    ((4, 3), (1, 2), None),
    ((2, 4), (9, 2), None),
    ((3, 4), (-4, 1), None),
    ((3, 4), (4, -1), None),
])  # fmt: skip
def test_as_blas_reads_a_matrix(shape, steps, expected):
    """Row by row, or its transpose so, with this distance between rows; None where it would need a copy."""
    memory = np.zeros(100, "float32")[50:]
    matrix = np.lib.stride_tricks.as_strided(memory, shape, [4 * step for step in steps])
    assert stored(matrix) == expected


@pytest.mark.parametrize("constant, expected", [
    (np.full((2, 3), 0.5, "float32"), True),
    (np.array([7.0]), True),
    (np.array([0.5, 0.5, 0.25], "float32"), False),
    (np.array([0.0, -0.0]), False),
])  # fmt: skip
def test_what_is_one_number(constant, expected):
    list_ = trace(lambda a: {"x": a["x"] + constant}, {"x": np.zeros(constant.shape, constant.dtype)})
    (value,) = (value for value in list_.values if value.kind == "constant")
    assert is_number(value) == expected
    assert not is_number(list_.inputs["x"])


@pytest.mark.parametrize("keep_last", [False, True])
@pytest.mark.parametrize("views, expected", [
    ([lambda x: x], [60]),
    ([lambda x: x, lambda x: x + 1], [60]),
    ([lambda x: x, lambda x: x[:, :, ::-1]], [12, 5]),
    ([lambda x: x[:, :2]], [3, 10]),
    ([lambda x: x[::2, ::-1]], [2, 4, 5]),
    ([lambda x: np.broadcast_to(x[:1], x.shape), lambda x: x], [3, 20]),
    ([lambda x: np.broadcast_to(x[..., :1], x.shape)], [12, 5]),
    ([lambda x: x.transpose(1, 2, 0)], [20, 3]),
    ([lambda x: x[1, 2], lambda x: x[0, 0]], [5]),
])  # fmt: skip
def test_as_few_axes_as_possible(views, expected, keep_last):
    """They walk over the same elements in the same order; the last one can be kept as it is, with one before it."""
    x = np.arange(60.0).reshape(3, 4, 5)
    arrays = [view(x) for view in views]
    sizes, strides = merged(arrays[0].shape, arrays, keep_last)
    for array, steps in zip(arrays, strides, strict=True):
        np.testing.assert_array_equal(np.lib.stride_tricks.as_strided(array, sizes, steps).ravel(), array.ravel())
    if keep_last:
        last = arrays[0].shape[-1]
        outer = expected[:-1] if expected[-1] == last else [*expected[:-1], expected[-1] // last]
        expected = [*(outer or [1]), last]
    assert sizes == expected


def a_training(batch_size, samples=1, optimizer=None, **parts):
    encoder = [mv.Dense(64, 48), mv.ReLU(), mv.Dense(48, 32), mv.Tanh(), mv.Dense(32, 8)]
    decoder = [mv.Dense(4, 32), mv.Sigmoid(), mv.Dense(32, 64)]
    vae = mv.VAE(**{"encoder": encoder, "decoder": decoder} | parts)
    data = np.random.default_rng(0).integers(0, 256, (batch_size, 64), np.uint8)
    optimizer, rows = optimizer or mv.Adam(), np.arange(batch_size)
    return Training(vae, optimizer, data, None, rows, batch_size, samples, False, 0, {})


def test_gradients_and_weights_are_made_where_they_end_up():
    training = a_training(50)
    step = training.parts[0][0]
    plan = step.calls[0].plan
    arrays = [array for array, _ in plan.copies]
    assert not any(array is step.arrays[name] for array in arrays for name in ("gradients", "parameters"))
    assert not any(array is step.arrays[f"optimizer.{name}"] for array in arrays for name in "mv")
    (flat,) = [value for value in plan.values if plan.direct.get(value.number) is step.arrays["gradients"]]
    assert list(plan.to_copy(flat)) == []


CONVOLUTIONAL = {
    "encoder": [
        *(mv.Reshape((8, 8, 1)), mv.Conv2d(1, 3, 2, stride=2, padding="same"), mv.Tanh()),
        *(mv.Conv2d(3, 2, 3, padding="same"), mv.Flatten(), mv.Dense(32, 8)),
    ],
    "decoder": [
        *(mv.Dense(4, 32), mv.Reshape((4, 4, 2)), mv.ConvTranspose2d(2, 3, 3, stride=2)),
        *(mv.ReLU(), mv.Conv2d(3, 1, 2), mv.Flatten()),
    ],
}
MODELS = {
    "analytic KL": {},
    "Monte-Carlo KL": {"kl": "monte-carlo"},
    "importance-weighted": {"bound": mv.ImportanceWeighted()},
    "Gaussian": {"likelihood": mv.Gaussian(0.5)},
    "convolutional": CONVOLUTIONAL,
}
OPTIMIZERS = dict(zip(MODELS, [mv.Adam(), mv.SGD(1e-3, momentum=0.9), mv.RMSprop(), mv.SGD(), mv.Adam()], strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_a_step_allocates_no_array(name):
    """The smallest array that grows with the batch is (B,), 80 KB here; all of NumPy's casting buffers are less."""
    batch_size = 20_000
    step = a_training(batch_size, optimizer=OPTIMIZERS[name], **MODELS[name]).parts[0][0]
    step.noise.refill(2, np.random.default_rng(0), None)
    step.run()
    tracemalloc.start()
    step.run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < batch_size * np.dtype(np.float32).itemsize


@pytest.mark.parametrize("n_rows", [3, 4, 5, 67])
def test_what_reads_backwards_runs_whole(n_rows, monkeypatch):
    """NumPy (2.4, with AVX-512) computes a few rows by other loops than many."""
    monkeypatch.setattr(calls, "PIECE", 80)
    x = np.random.default_rng(0).standard_normal((n_rows, 33)).astype("float32")
    arrays = {"x": x, "y": np.zeros_like(x)}
    step = lambda a: {"y": np.expm1(a["x"][:, ::-1]) + np.arctan2(a["x"][:, ::-1], a["x"][::-1])}  # noqa: E731
    expected = step(arrays)["y"]
    get_backend("numpy").compile(step, arrays)()
    np.testing.assert_array_equal(arrays["y"], expected)


def test_a_group_runs_piece_by_piece_with_the_same_results():
    """Uneven pieces, rows longer than a piece, and values of several dtypes."""
    rng = np.random.default_rng(0)
    for shape in [(calls.PIECE * 2 + 7,), (3, calls.PIECE + 1), (701, 1, 331), (2, 5, calls.PIECE // 4)]:
        arrays = {
            "x": rng.standard_normal(shape).astype("float32"),
            "s": rng.standard_normal(shape[-1:]).astype("float32"),
        }
        arrays |= {"y": np.zeros(shape, "float32"), "m": np.zeros(shape, bool), "z": np.zeros(shape, "float64")}

        def step(a):
            t = np.tanh(a["x"] * a["s"])
            mask = t > 0.1
            return {"y": np.log1p(np.abs(t)) * mask + a["y"], "m": mask, "z": t * 2 + np.expm1(a["x"])}

        expected = {name: array.astype(arrays[name].dtype) for name, array in step(arrays).items()}
        run = get_backend("numpy").compile(step, arrays)
        assert len(run._calls) > 2 * 9
        run()
        for name, array in expected.items():
            np.testing.assert_array_equal(arrays[name], array)
