"""All backends keep the same promises; `get_backend` says what it chose, or what is missing and the mend."""

import sys

import fakegpu
import numpy as np
import pytest

import minivae as mv
from minivae import _cublas
from minivae.errors import MiniVAEError


def matrix(rows, columns, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(dtype)


# ------------------------------------------------------------------------------------ what a backend does


@pytest.mark.parametrize("dtype", [None, "float32", "float64"])
def test_arrays_go_to_the_device_and_back(backend, dtype):
    host = matrix(4, 3, "float64").T  # not in C order
    array = backend.asarray(host, dtype)
    assert isinstance(array, backend.xp.ndarray)
    assert array.flags.c_contiguous and array.dtype == (dtype or host.dtype)
    back = backend.to_host(array)
    assert isinstance(back, np.ndarray)
    np.testing.assert_array_equal(back, host.astype(array.dtype))
    assert backend.asarray(array) is array
    assert backend.asarray(array.T).flags.c_contiguous


def test_upload_copies_into_an_array(backend):
    array = backend.xp.zeros((3, 2), "float32")
    host = matrix(2, 2, "float64")
    backend.upload(host, out=array[1:])
    expected = host.astype("float32")
    host[...] = 0
    np.testing.assert_array_equal(backend.to_host(array), np.vstack([np.zeros((1, 2)), expected]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m, k, n", [(5, 3, 7), (1, 4, 2), (4, 1, 3), (3, 2, 1), (1, 1, 1)])
@pytest.mark.parametrize("a_transposed", [False, True])
@pytest.mark.parametrize("b_transposed", [False, True])
def test_matmul(backend, dtype, m, k, n, a_transposed, b_transposed):
    a, b = matrix(m, k, dtype, 1), matrix(k, n, dtype, 2)
    on_device = [
        backend.asarray(x.T).T if transposed else backend.asarray(x)
        for x, transposed in ((a, a_transposed), (b, b_transposed))
    ]
    out = backend.asarray(np.full((m, n), np.nan, dtype))
    backend.matmul(*on_device, out=out)
    np.testing.assert_allclose(backend.to_host(out), a @ b, rtol=1e-5, atol=1e-6)


def test_matmul_of_row_ranges(backend):
    """The leading views that a short last batch gives."""
    a, b = matrix(6, 4), matrix(4, 5)
    out = backend.asarray(np.zeros((6, 5), "float32"))
    backend.matmul(backend.asarray(a)[1:3], backend.asarray(b), out=out[1:3])
    expected = np.zeros((6, 5))
    expected[1:3] = a[1:3] @ b
    np.testing.assert_allclose(backend.to_host(out), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
@pytest.mark.parametrize("shape", [(6,), (6, 3)])
def test_gather(backend, dtype, shape):
    rows = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    index = np.array([5, 0, 0, 3])
    out = backend.xp.zeros((4, *shape[1:]), dtype)
    backend.gather(backend.asarray(rows), backend.asarray(index), out=out)
    np.testing.assert_array_equal(backend.to_host(out), rows[index])


class Recurrence:
    """A step that depends on its own results, on a product, and on a counter that only the device knows."""

    def __init__(self, backend):
        self.backend, self.xp, self.calls = backend, backend.xp, 0
        self.W = backend.asarray(matrix(4, 4) / 4)
        self.x = backend.asarray(matrix(3, 4, seed=1))
        self.y = self.xp.empty_like(self.x)
        self.count = self.xp.zeros(1, "float32")

    def step(self):
        self.calls += 1
        self.backend.matmul(self.x, self.W.T, out=self.y)
        self.xp.add(self.y, self.count, out=self.y)
        self.xp.tanh(self.y, out=self.x)
        self.xp.add(self.count, 1, out=self.count)

    def state(self):
        return self.backend.to_host(self.x).copy()


def test_a_graph_does_one_step_a_call(backend):
    eager, graphed = Recurrence(backend), Recurrence(backend)
    launch = backend.graph(graphed.step)
    for call in range(1, 8):
        eager.step()
        assert launch() is None
        np.testing.assert_array_equal(graphed.state(), eager.state())
        assert backend.to_host(graphed.count) == call


def test_two_graphs_and_eager_work_take_turns(backend):
    """As full batches, a short last batch and the evaluation between epochs do."""
    eager, graphed = Recurrence(backend), Recurrence(backend)
    first, second = backend.graph(graphed.step), backend.graph(graphed.step)
    for launch in (first, second, graphed.step) * 5:
        eager.step()
        launch()
    np.testing.assert_array_equal(graphed.state(), eager.state())


def test_a_captured_step_costs_one_launch():
    backend = fakegpu.backend()
    recurrence = Recurrence(backend)
    launch = backend.graph(recurrence.step)
    for expected in (4, 4, 5, 1, 1):  # two warm-ups; the four recorded and the first launch; launches
        with backend.xp.count() as n:
            launch()
        assert n == fakegpu.Counts(launches=expected, allocations=n.allocations)
        assert n.allocations == (1 if expected == 4 and recurrence.calls == 0 else 0)
    assert recurrence.calls == 3


@pytest.mark.parametrize("wrong", ["empty", "matmul"])
def test_what_cannot_be_captured_fails_with_its_own_reason(monkeypatch, wrong):
    backend = fakegpu.backend()
    xp, x = backend.xp, backend.asarray(matrix(3, 3))
    out, streams, make_stream = xp.empty_like(x), [], xp.cuda.Stream
    monkeypatch.setattr(xp.cuda, "Stream", lambda **kind: streams.append(make_stream(**kind)) or streams[-1])
    launch = backend.graph(lambda: xp.empty(3) if wrong == "empty" else xp.matmul(x, x, out=out))
    launch()
    launch()
    with pytest.raises((fakegpu.Refused, NotImplementedError), match="allocation|cuBLAS"):
        launch()
    assert [stream.is_capturing() for stream in streams] == [False]
    backend.matmul(x, x, out=out)  # the backend is still of use
    np.testing.assert_allclose(backend.to_host(out), matrix(3, 3) @ matrix(3, 3), rtol=1e-5)


@pytest.mark.parametrize(
    "a, b, out, problem",
    [
        (matrix(3, 4), matrix(5, 2), matrix(3, 2), r"\(3, 4\) @ \(5, 2\)"),
        (matrix(3, 4), matrix(4, 2), matrix(2, 3), r"\(2, 3\)"),
        (matrix(3, 4), matrix(4, 2, "float64"), matrix(3, 2), "float64"),
        (matrix(3, 4).astype(int), matrix(4, 2).astype(int), matrix(3, 2).astype(int), "int64"),
    ],
)
def test_a_gpu_product_that_makes_no_sense(a, b, out, problem):
    backend = fakegpu.backend()
    with pytest.raises((ValueError, TypeError), match=problem):
        backend.matmul(*map(backend.asarray, (a, b)), out=backend.asarray(out))


def test_a_gpu_product_never_copies():
    backend = fakegpu.backend()
    a, b, out = (backend.asarray(matrix(4, 4)) for _ in range(3))
    with pytest.raises(ValueError, match="would need a copy"):
        backend.matmul(a[:, :2], b[:2], out=out)
    with pytest.raises(ValueError, match="C-contiguous"):
        backend.matmul(a, b, out=out.T)
    with backend.xp.count() as n:
        backend.matmul(a.T, b, out=out)
        backend.matmul(a, b.T, out=out)
    assert n.copies == 0 and n.launches == 2


def test_a_product_follows_the_current_stream():
    backend = fakegpu.backend()
    a, out = backend.asarray(matrix(3, 3)), backend.asarray(matrix(3, 3))
    for _ in range(2):
        backend.matmul(a, a, out=out)
        with backend.xp.cuda.Stream(non_blocking=True):
            backend.matmul(a, a, out=out)  # the imaginary cuBLAS refuses any other stream than the current


# -------------------------------------------------------------------------------------- choosing a backend


class Missing:
    """Stands for something that is not there."""

    def __init__(self, message):
        self.message = message

    def __call__(self, *args):
        raise RuntimeError(self.message)


@pytest.fixture
def machine(monkeypatch):
    """A machine with CuPy and a GPU, both imaginary."""
    cupy = fakegpu.FakeCupy()
    cupy.library = fakegpu.FakeCublas(cupy._device)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(_cublas, "load", lambda: cupy.library)
    return cupy


def no_cupy(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)


def no_driver(machine, monkeypatch):
    machine.cuda.runtime.getDeviceCount = Missing("cudaErrorInsufficientDriver: too old")


def no_nvrtc(machine, monkeypatch):
    machine.cuda.nvrtc.getVersion = Missing('Failure finding "libnvrtc.so.12"\n')


def no_cublas(machine, monkeypatch):
    monkeypatch.setattr(_cublas, "load", Missing("Failure finding libcublas.so.12"))


def no_memory(machine, monkeypatch):
    machine.cuda.alloc = Missing("cudaErrorMemoryAllocation: out of memory")


def no_handle(machine, monkeypatch):
    machine.library.cublasCreate_v2 = lambda handle: 1


PROBLEMS = [
    (no_cupy, "CuPy is not installed", 'pip install "minivae[cuda12x]"'),
    (no_driver, "cudaErrorInsufficientDriver", "nvidia-smi"),
    (no_nvrtc, "NVRTC", 'pip install "minivae[cuda12x]"'),
    (no_cublas, "cuBLAS is missing", 'pip install "minivae[cuda12x]"'),
    (no_memory, "out of memory", "nvidia-smi"),
    (no_handle, "cublasCreate_v2 failed with cuBLAS status 1", "nvidia-smi"),
]


@pytest.mark.parametrize("happens, problem, mend", PROBLEMS)
def test_cupy_without_a_usable_gpu(machine, monkeypatch, happens, problem, mend):
    happens(machine, monkeypatch)
    with pytest.raises(MiniVAEError) as error:
        mv.get_backend("cupy")
    message = str(error.value)
    assert problem in message and mend in message and "\n" not in message

    backend = mv.get_backend("auto")
    assert backend.name == "numpy"
    assert problem in backend.reason and "\n" not in backend.reason


@pytest.mark.parametrize("kind", ["ImportError", "AttributeError"])
def test_a_cupy_that_cannot_be_imported(machine, monkeypatch, tmp_path, kind):
    (tmp_path / "cupy.py").write_text(f"raise {kind}('====\\nlibcudart.so.12: no such file')\n")
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MiniVAEError, match=r"cannot be imported \(libcudart.so.12: .*pip install"):
        mv.get_backend("cupy")
    assert "libcudart" in mv.get_backend("auto").reason


def test_auto_takes_a_usable_gpu(machine):
    backend = mv.get_backend("auto")
    assert backend.name == "cupy" and backend.xp is machine
    assert backend.device == "GPU (imaginary)"
    assert "GPU" in backend.reason


def test_numpy_never_looks_for_a_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", Missing("touched"))
    backend = mv.get_backend("numpy")
    assert backend.xp is np
    assert backend.device.startswith("CPU")


@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_a_choice(machine, tf32):
    mv.get_backend("cupy", tf32=tf32)
    assert machine.library.tf32 == tf32


def test_a_backend_is_given_back_as_it_is(backend):
    assert mv.get_backend(backend) is backend


@pytest.mark.parametrize("name", ["cuda", "", "NumPy", None, 0, np, np.array(["numpy"])])
def test_an_unknown_backend(name):
    with pytest.raises(MiniVAEError, match='expected "numpy", "numba", "cupy" or "auto"'):
        mv.get_backend(name)
