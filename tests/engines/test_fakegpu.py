"""The imaginary GPU itself: it refuses what it should, counts what it should, and its graphs replay truly."""

import ctypes

import fakegpu
import numpy as np
import pytest
from fakegpu import Refused


@pytest.fixture
def xp():
    return fakegpu.FakeCupy()


@pytest.fixture
def a(xp):
    return xp.asarray(np.arange(12, dtype=np.float32).reshape(3, 4))


REFUSALS = {
    "np.asarray": lambda xp, a: np.asarray(a),
    "a NumPy ufunc of an array on either side": lambda xp, a: np.add(a, np.ones((3, 4), np.float32)),
    "a NumPy function that gets arrays of both": lambda xp, a: np.concatenate([a, np.ones((3, 4), np.float32)]),
    "a NumPy function that CuPy has elsewhere": lambda xp, a: np.linalg.norm(a),
    "float": lambda xp, a: float(a[0, 0]),
    "int": lambda xp, a: int(a[0, 0]),
    "bool": lambda xp, a: bool(a[0, 0] > 0),
    "iteration": lambda xp, a: list(a),
    "unpacking": lambda xp, a: [*a],
    "membership": lambda xp, a: 1.0 in a,
    "as an index": lambda xp, a: [1, 2, 3][xp.asarray(np.array(1))],
    "a NumPy operand": lambda xp, a: a + np.ones((3, 4), np.float32),
    "a NumPy operand on the left": lambda xp, a: np.ones((3, 4), np.float32) + a,
    "a NumPy scalar array": lambda xp, a: xp.multiply(a, np.array(2.0)),
    "a list operand": lambda xp, a: xp.add(a, [1, 2, 3, 4]),
    "a NumPy out": lambda xp, a: xp.exp(a, out=np.empty((3, 4), np.float32)),
    "a sum of a NumPy array": lambda xp, a: xp.sum(np.ones(3)),
    "an array of another device": lambda xp, a: xp.add(a, fakegpu.FakeCupy().ones((3, 4), "float32")),
    "a NumPy array assigned": lambda xp, a: a.__setitem__(0, np.ones(4, np.float32)),
    "copyto from NumPy": lambda xp, a: xp.copyto(a, np.ones((3, 4), np.float32)),
    "fill with an array": lambda xp, a: a.fill(a[0, 0]),
    "a float64 scalar": lambda xp, a: a * np.float64(2),
    "a float64 scalar on the left": lambda xp, a: np.sqrt(2.0) * a,
    "a float64 scalar with out": lambda xp, a: xp.multiply(a, np.float64(2), out=a),
    "a float64 array of one element": lambda xp, a: xp.multiply(a, xp.ones(1), out=a),
    "a float64 scalar compared": lambda xp, a: a > np.float64(2),
    "int64 made float64 on the way": lambda xp, a: xp.multiply(a, xp.arange(4), out=a),
    "uint8 made float64 on the way": lambda xp, a: xp.multiply(xp.zeros((3, 4), "uint8"), 0.5, out=a),
    "where in a ufunc": lambda xp, a: xp.exp(a, where=a > 0),
    "initial in a sum": lambda xp, a: xp.sum(a, initial=1),
    "a ufunc with too few operands": lambda xp, a: xp.add(a),
    "out larger than the result": lambda xp, a: xp.add(a[0], 1, out=a),
    "out smaller than the result": lambda xp, a: xp.add(a, 1, out=a[0]),
    "a sum's out of another shape": lambda xp, a: xp.sum(a, axis=0, out=xp.empty((1, 4), "float32")),
    "out of a narrower kind": lambda xp, a: xp.add(a, 1, out=xp.empty((3, 4), "int32")),
    "copyto of a narrower kind": lambda xp, a: xp.copyto(xp.empty((3, 4), "int32"), a),
    "reduce of maximum": lambda xp, a: xp.maximum.reduce(a),
    "take with a mode": lambda xp, a: xp.take(a, xp.arange(2), axis=0, mode="clip"),
    "take with NumPy indices": lambda xp, a: xp.take(a, np.arange(2), axis=0),
    "take into another dtype": lambda xp, a: xp.take(a, xp.arange(3), axis=0, out=xp.empty((3, 4))),
    "take past the end": lambda xp, a: xp.take(a, xp.arange(1, 4), axis=0),
    "take before the start": lambda xp, a: xp.take(a, xp.arange(-1, 2), axis=0),
    "a mask": lambda xp, a: a[a > 0],
    "positions past the end, in brackets": lambda xp, a: a[xp.arange(1, 4)],
    "positions of NumPy's in brackets": lambda xp, a: a[np.arange(2)],
    "positions along two axes": lambda xp, a: a[xp.arange(2), 0],
    "where with one argument": lambda xp, a: xp.where(a > 0),
    "set with a device array": lambda xp, a: a.set(a),
    "set of another dtype": lambda xp, a: a.set(np.zeros((3, 4))),
    "set of another shape": lambda xp, a: a.set(np.zeros((1, 4), np.float32)),
    "set of strided memory": lambda xp, a: a[:, :2].set(np.zeros((3, 2), np.float32)),
    "capture on a blocking stream": lambda xp, a: xp.cuda.Stream().begin_capture(),
}


REASONS = {"a mask": "synchronises", "where with one argument": "synchronises"}


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses(xp, a, name):
    with pytest.raises(TypeError, match=REASONS.get(name)) as error:
        REFUSALS[name](xp, a)
    # An unknown keyword such as where= is Python's to refuse; all else has a reason of its own.
    assert isinstance(error.value, Refused) or "unexpected keyword" in str(error.value)


def test_has_nothing_beyond_what_it_has(xp):
    for name in "errstate", "block", "vecdot", "nditer":
        with pytest.raises(AttributeError, match="fakegpu"):
            getattr(xp, name)


def test_what_was_never_written_is_seen(xp):
    assert np.isnan(xp.empty(3, "float32").get()).all()
    assert (xp.empty(3, "int32").get() == np.iinfo("int32").max).all()


def test_numpys_functions_find_their_way(xp, a):
    """To the functions of the same name, as CuPy's arrays bring them there."""
    host = a.get()
    for function in (
        np.tanh,
        lambda x: np.maximum(x, 2) * (x > 3),
        lambda x: np.sum(x, axis=(0, 1), keepdims=True),
        lambda x: np.max(x, axis=-1, keepdims=True),
        lambda x: np.concatenate([x, x[:1]], axis=0),
        lambda x: np.stack([x, x * 2]),
        lambda x: np.where(x > 3, x, 0),
        lambda x: np.zeros_like(x, shape=(2,)),
        lambda x: np.broadcast_to(x[:, None], (3, 2, 4)),
        lambda x: x.T @ x,
    ):
        result = function(a)
        assert isinstance(result, fakegpu.Array)
        np.testing.assert_allclose(result.get(), function(host), rtol=1e-6)


def test_float64_where_it_is_meant(xp, a):
    total = xp.zeros(3)
    xp.add(total, xp.sum(a, axis=1), out=total)
    assert total.dtype == np.float64
    pixels = xp.full((3, 4), 255, "uint8")
    xp.multiply(pixels, 1 / 255, out=a, dtype=np.float32)
    np.testing.assert_array_equal(a.get(), np.float32(1))


@pytest.mark.parametrize(
    "function, launches, synchronisations, transfers, copies, allocations",
    [
        (lambda xp, a: xp.exp(a, out=a), 1, 0, 0, 0, 0),
        (lambda xp, a: a * 2.0, 1, 0, 0, 0, 1),
        (lambda xp, a: xp.sum(a, axis=0), 1, 0, 0, 0, 1),
        (lambda xp, a: xp.zeros(3), 1, 0, 0, 0, 1),
        (lambda xp, a: xp.empty(3), 0, 0, 0, 0, 1),
        (lambda xp, a: a.T[:, None].reshape(4, 3), 0, 0, 0, 0, 0),
        (lambda xp, a: a.get(), 0, 1, 1, 0, 0),
        (lambda xp, a: a[0, 0].item(), 0, 1, 1, 0, 0),
        (lambda xp, a: xp.asarray(np.zeros(3)), 0, 0, 1, 0, 1),
        (lambda xp, a: a.set(np.zeros((3, 4), np.float32)), 0, 0, 1, 0, 0),
        (lambda xp, a: xp.cuda.Device().synchronize(), 0, 1, 0, 0, 0),
        (lambda xp, a: xp.cuda.get_current_stream().synchronize(), 0, 1, 0, 0, 0),
        (lambda xp, a: xp.negative(a[1:], out=a[:2]), 1, 0, 0, 1, 0),
        (lambda xp, a: xp.negative(a[:], out=a[:]), 1, 0, 0, 1, 0),
        (lambda xp, a: xp.negative(a[1], out=a[0]), 1, 0, 0, 0, 0),
        (lambda xp, a: xp.copyto(a[0], a[1]), 1, 0, 0, 0, 0),
        (lambda xp, a: xp.copyto(a[1:], a[:2]), 1, 0, 0, 1, 0),
        (lambda xp, a: xp.sum(a, axis=1, out=a[0, :3]), 1, 0, 0, 1, 0),
        (lambda xp, a: xp.matmul(a[:, :2], a[:2, :].T[:2]), 1, 0, 0, 2, 1),
        (lambda xp, a: xp.matmul(a, a.T), 1, 0, 0, 0, 1),
        (lambda xp, a: a.T.reshape(12), 1, 0, 0, 1, 1),
        (lambda xp, a: xp.ravel(a[:, :2]), 1, 0, 0, 1, 1),
        (lambda xp, a: np.exp(a), 1, 0, 0, 0, 1),
        (lambda xp, a: np.sum(a, axis=0, keepdims=True), 1, 0, 0, 0, 1),
        (lambda xp, a: a[xp.arange(2)], 2, 0, 0, 0, 2),
    ],
)
def test_counts(xp, a, function, launches, synchronisations, transfers, copies, allocations):
    with xp.count() as n:
        function(xp, a)
    assert n == fakegpu.Counts(launches, synchronisations, transfers, copies, allocations)


def capture(xp, function):
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        function()
        return stream.end_capture()


def test_a_graph_records_without_running_and_replays_with_frozen_scalars(xp, a):
    before, scale = a.get(), 2.0

    def double():
        xp.multiply(a, scale, out=a)

    graph = capture(xp, double)
    np.testing.assert_array_equal(a.get(), before)
    scale = 3.0
    for replays in 1, 2, 3:
        with xp.count() as n:
            graph.launch()
        assert n == fakegpu.Counts(launches=1)
        np.testing.assert_array_equal(a.get(), before * 2**replays)


@pytest.mark.parametrize(
    "function",
    [
        lambda xp, a: xp.empty(3),
        lambda xp, a: a + 1,
        lambda xp, a: xp.cuda.alloc(3),
        lambda xp, a: xp.asarray(np.zeros(3)),
        lambda xp, a: a.set(np.zeros((3, 4), np.float32)),
        lambda xp, a: a.get(),
        lambda xp, a: xp.cuda.Device().synchronize(),
        lambda xp, a: capture(xp, lambda: None) and xp.cuda.get_current_stream().synchronize(),
    ],
)
def test_what_a_capture_cannot_hold_spoils_it(xp, a, function):
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        with pytest.raises(Refused):
            function(xp, a)
        with pytest.raises(RuntimeError, match="Invalidated"):
            stream.end_capture()
        assert not stream.is_capturing()


def test_cupys_own_products_cannot_be_captured(xp, a):
    with pytest.raises(NotImplementedError, match="cuBLAS"):
        capture(xp, lambda: xp.matmul(a, a.T))


def test_a_graph_cannot_touch_freed_memory(xp, a):
    arrays = [xp.ones(3, "float32")]
    graph = capture(xp, lambda: arrays[0].fill(0))
    graph.launch()
    arrays.clear()
    with pytest.raises(Refused, match="freed"):
        graph.launch()


def test_a_graph_cannot_launch_inside_a_capture(xp, a):
    graph = capture(xp, lambda: a.fill(0))
    with pytest.raises(Refused, match="another graph"):
        capture(xp, graph.launch)


GEMM = {
    "on another stream": dict(stream=None),
    "without a workspace": dict(workspace=None),
    "into an operand": dict(c="a"),
    "of freed memory": dict(a=None),
    "past the end of a matrix": dict(k=5),
    "with overlapping columns": dict(leading=3),
    "with scalars of another dtype": dict(real=ctypes.c_double),
    "with a handle that is gone": dict(destroyed=True),
}


def cublas(xp):
    """The imaginary library, and a handle."""
    library, handle = fakegpu.FakeCublas(xp._device), ctypes.c_void_p()
    library.cublasCreate_v2(ctypes.byref(handle))
    return library, handle


@pytest.mark.parametrize("name", [*GEMM, None])
def test_cublas_refuses(xp, name):
    """A product of two 4 x 4 matrices with one thing wrong."""
    wrong = GEMM.get(name, {})
    a, b, c = (xp.ones((4, 4), "float32") for _ in range(3))
    pointers = {"a": a.data.ptr, "b": b.data.ptr, "c": c.data.ptr}
    if "c" in wrong:
        pointers["c"] = pointers["a"]
    if "a" in wrong:
        del a
    library, handle = cublas(xp)
    if "stream" not in wrong:
        library.cublasSetStream_v2(handle, xp.cuda.get_current_stream().ptr)
    if "workspace" not in wrong:
        library.cublasSetWorkspace_v2(handle, 1, 1)
    if "destroyed" in wrong:
        library.cublasDestroy_v2(handle)
    real = wrong.get("real", ctypes.c_float)
    one, beta = (ctypes.byref(real(value)) for value in (1, wrong.get("beta", 0)))
    k, leading = wrong.get("k", 4), wrong.get("leading", 4)
    arguments = handle, 0, 0, 4, 4, k, one, pointers["a"], leading, pointers["b"], k, beta, pointers["c"], 4
    if name is None:
        library.cublasSgemm_v2(*arguments)
        np.testing.assert_array_equal(c.get(), np.full((4, 4), 4))
    else:
        with pytest.raises((Refused, ValueError)):
            library.cublasSgemm_v2(*arguments)


def test_cublas_adds_to_what_is_there(xp):
    a, c = xp.ones((4, 4), "float32"), xp.ones((4, 4), "float32")
    library, handle = cublas(xp)
    library.cublasSetStream_v2(handle, xp.cuda.get_current_stream().ptr)
    library.cublasSetWorkspace_v2(handle, 1, 1)
    one = ctypes.byref(ctypes.c_float(1))
    library.cublasSgemm_v2(handle, 0, 0, 4, 4, 4, one, a.data.ptr, 4, a.data.ptr, 4, one, c.data.ptr, 4)
    np.testing.assert_array_equal(c.get(), np.full((4, 4), 5))


# ------------------------------------------------------------------------------------------ kernels of one's own

SOURCE = """
extern "C" __global__ void shift(float* p0, float* p1) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < 12; i += gridDim.x * blockDim.x) {
        p1[i] = p0[i] + 1.0f;
    }
}

extern "C" __global__ void beyond(float* p0) {
    p0[threadIdx.x] = 0.0f;
}

__device__ float last(float x) {
    __shared__ float found[64];
    found[threadIdx.x] = x;
    __syncthreads();
    return found[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void reverse(float* p0) {
    p0[blockIdx.x * 4 + threadIdx.x] = last(p0[blockIdx.x * 4 + threadIdx.x]);
}

extern "C" __global__ void hasty(float* p0) {
    __shared__ float found[64];
    found[threadIdx.x] = p0[blockIdx.x * 4 + threadIdx.x];
    p0[blockIdx.x * 4 + threadIdx.x] = found[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void apart(float* p0) {
    if (threadIdx.x == 1) __syncthreads();
    p0[threadIdx.x] = 0.0f;
}
"""


@pytest.fixture
def kernel(xp):
    return xp.RawModule(code=SOURCE).get_function


def test_the_source_of_kernels_is_run(xp, a, kernel):
    out, host = xp.empty((3, 4), "float32"), a.get()
    with xp.count() as n:
        kernel("shift")((2, 1), (4,), (a, out))
    assert n == fakegpu.Counts(launches=1)
    np.testing.assert_array_equal(out.get(), host + 1)
    kernel("reverse")((3, 1), (4,), (a,))
    np.testing.assert_array_equal(a.get(), host[:, ::-1])


def test_kernels_are_captured(xp, a, kernel):
    host = a.get()
    graph = capture(xp, lambda: kernel("shift")((1, 1), (32,), (a, a)))
    np.testing.assert_array_equal(a.get(), host)
    for _ in range(3):
        graph.launch()
    np.testing.assert_array_equal(a.get(), host + 3)


@pytest.mark.parametrize(
    "name, grid, block, problem",
    [
        ("beyond", (1, 1), (16,), "outside the memory"),
        ("apart", (1, 1), (4,), "do not meet"),
        ("reverse", (1, 1), (2048,), "at most 1024"),
        ("reverse", (0, 1), (4,), "a grid of"),
        ("shift", (1, 1), (4,), "takes"),
    ],
)
def test_kernels_that_go_wrong(xp, a, kernel, name, grid, block, problem):
    with pytest.raises((Refused, MemoryError), match=problem):
        kernel(name)(grid, block, (a,))


def test_a_kernel_takes_arrays_of_its_types(xp, a, kernel):
    with pytest.raises(Refused, match="double"):
        kernel("reverse")((1, 1), (4,), (a.astype("float64"),))
    with pytest.raises(Refused, match="upload"):
        kernel("reverse")((1, 1), (4,), (a.get(),))


def test_a_missing_barrier_is_seen(xp, a, kernel):
    host = a.get()
    kernel("hasty")((3, 1), (4,), (a,))
    assert (a.get() != host[:, ::-1]).any()
