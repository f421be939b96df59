"""All backends keep the same promises; `get_backend` says what it chose, or what is missing and the fix."""

import ctypes
import gc
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import cuda_on_cpu
import fakegpu
import numpy as np
import pytest

import minivae as mv
from minivae.engine import backend as backends
from minivae.engine import cublas
from minivae.engine.backend import Eager
from minivae.errors import MiniVAEError


def matrix(rows, columns, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(dtype)


# ------------------------------------------------------------------------------------ what a backend does


@pytest.mark.parametrize("dtype", [None, "float32", "float64"])
def test_arrays_go_to_the_device_and_back(backend, dtype):
    host = matrix(4, 3, "float64").T  # not in C order
    array = backend.asarray(host, dtype)
    assert array.flags.c_contiguous and array.dtype == (dtype or host.dtype)
    back = backend.to_host(array)
    assert isinstance(back, np.ndarray)
    np.testing.assert_array_equal(back, host.astype(array.dtype))
    assert backend.asarray(array) is array
    assert backend.asarray(array.T).flags.c_contiguous


def test_upload_copies_into_an_array(backend):
    array = backend.zeros((3, 2), "float32")
    host = matrix(2, 2, "float64")
    backend.upload(host, to=array[1:])
    expected = host.astype("float32")
    host[...] = 0
    np.testing.assert_array_equal(backend.to_host(array), np.vstack([np.zeros((1, 2)), expected]))


def test_arrays_of_a_backend_do_not_overlap_and_start_on_a_cache_line():
    backend = mv.get_backend("numpy")
    shapes = [(3,), (100, 7), (3 << 20,), (1,), (2, 2)]
    arrays = [backend.empty(shape, dtype) for shape in shapes for dtype in ("float32", "float64", "bool")]
    for i, array in enumerate(arrays):
        array.fill(i % 2)
        assert array.ctypes.data % 64 == 0
        assert not any(np.shares_memory(array, other) for other in arrays[:i])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m, k, n", [(5, 3, 7), (1, 4, 2), (4, 1, 3), (3, 2, 1), (1, 1, 1)])
@pytest.mark.parametrize("transposed", ["neither", "a", "b", "both"])
def test_matmul(backend, dtype, m, k, n, transposed):
    a, b = matrix(m, k, dtype, 1), matrix(k, n, dtype, 2)
    hosts = {"a": a.T if transposed in ("a", "both") else a, "b": b.T if transposed in ("b", "both") else b}
    held = {name: backend.asarray(np.ascontiguousarray(host)) for name, host in hosts.items()}
    held["y"] = backend.asarray(np.full((m, n), np.nan, dtype))

    def step(arrays):
        a = arrays["a"].T if transposed in ("a", "both") else arrays["a"]
        return {"y": a @ (arrays["b"].T if transposed in ("b", "both") else arrays["b"])}

    backend.compile(step, held)()
    np.testing.assert_allclose(backend.to_host(held["y"]), a @ b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
@pytest.mark.parametrize("shape", [(6,), (6, 3)])
def test_rows(backend, dtype, shape):
    table = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    index = np.array([5, 0, 0, 3])
    held = {
        "table": backend.asarray(table),
        "index": backend.asarray(index),
        "y": backend.zeros((4, *shape[1:]), dtype),
    }
    backend.compile(lambda a: {"y": mv.rows(a["table"], a["index"])}, held)()
    np.testing.assert_array_equal(backend.to_host(held["y"]), table[index])


class Recurrence:
    """A step that depends on its own results, on a product, and on a counter that only the device knows."""

    def __init__(self, backend):
        self.backend, self.traced = backend, 0
        arrays = {"W": matrix(4, 4) / 4, "x": matrix(3, 4, seed=1), "count": np.zeros(1, "float32")}
        self.arrays = {name: backend.asarray(array) for name, array in arrays.items()}

    def step(self, a):
        self.traced += 1
        return {"x": np.tanh(a["x"] @ a["W"].T + a["count"]), "count": a["count"] + 1}

    def compiled(self):
        return self.backend.compile(self.step, self.arrays, "float32")

    def plain(self):
        return Eager(self.step, self.arrays)

    def state(self):
        return np.array(self.backend.to_host(self.arrays["x"]))


def test_a_compiled_step_does_one_step_a_call(backend):
    plain, compiled = Recurrence(backend), Recurrence(backend)
    launch, expected = compiled.compiled(), plain.plain()
    for call in range(1, 8):
        expected()
        assert launch() is None
        np.testing.assert_allclose(compiled.state(), plain.state(), rtol=1e-5)
        assert backend.to_host(compiled.arrays["count"]) == call


def test_two_compiled_steps_and_plain_ones_take_turns(backend):
    """As full batches, a short last batch and the evaluation between epochs do."""
    plain, compiled = Recurrence(backend), Recurrence(backend)
    expected, calls = plain.plain(), (compiled.compiled(), compiled.compiled(), compiled.plain())
    for launch in calls * 5:
        expected()
        launch()
    np.testing.assert_allclose(compiled.state(), plain.state(), rtol=1e-5)


def test_a_compiled_step_does_not_run_its_function_again(backend):
    recurrence = Recurrence(backend)
    launch = recurrence.compiled()
    before = recurrence.traced
    for _ in range(3):
        launch()
    assert recurrence.traced == before


def test_a_message_comes_once(capsys):
    """The steps of a training for full batches and for the last one are compiled by themselves."""
    backend = mv.get_backend("numpy")
    for n in (3, 2):
        arrays = {"x": np.ones(n, "float32")}
        backend.compile(lambda a: {"x": np.cumsum(a["x"])}, arrays)()
        np.testing.assert_array_equal(arrays["x"], np.arange(1, n + 1))
    assert capsys.readouterr().err.count("runs uncompiled") == 1


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
        backend.products.matmul(*map(backend.asarray, (a, b)), out=backend.asarray(out))


def test_a_gpu_product_never_copies():
    backend = fakegpu.backend()
    a, b, out = (backend.asarray(matrix(4, 4)) for _ in range(3))
    with pytest.raises(ValueError, match="would need a copy"):
        backend.products.matmul(a[:, ::2], b[:2], out=out)
    with pytest.raises(ValueError, match="rows of out should be contiguous"):
        backend.products.matmul(a, b, out=out.T)
    with backend.xp.count() as n:
        backend.products.matmul(a.T, b, out=out)
        backend.products.matmul(a, b.T, out=out)
        backend.products.matmul(a[:, :2], b[1:3], out=out)
    assert n.copies == 0 and n.launches == 3
    np.testing.assert_allclose(backend.to_host(out), matrix(4, 4)[:, :2] @ matrix(4, 4)[1:3], rtol=1e-5, atol=1e-6)


def test_a_product_follows_the_current_stream():
    backend = fakegpu.backend()
    a, out = backend.asarray(matrix(3, 3)), backend.asarray(matrix(3, 3))
    for _ in range(2):
        backend.products.matmul(a, a, out=out)
        with backend.xp.cuda.Stream(non_blocking=True):
            backend.products.matmul(a, a, out=out)  # the imaginary cuBLAS refuses any other stream than the current


def test_handles_are_destroyed_after_their_products_and_what_reads_them():
    xp = fakegpu.FakeCupy()
    library = fakegpu.FakeCublas(xp._device)

    def make():
        return backends.CupyBackend(xp, cublas.Products(xp, library))

    recurrence = Recurrence(make())
    launch = recurrence.compiled()
    recurrence.backend = None  # only the step is left of it
    for _ in range(3):
        make()
    last = make()
    assert len(library.handles) == 2
    launch()
    with xp.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        del last  # as when garbage is collected: destroying would wait for the device, which a capture forbids
        stream.end_capture()
    del launch
    gc.collect()
    make()
    assert len(library.handles) == 1


CUBLAS = """
#define NOTE(...) { long long now[] = {__VA_ARGS__}; for (int i = 0; i < sizeof now / 8; i++) noted[n++] = now[i]; }
long long noted[99], n;
int cublasCreate_v2(long long *handle) { *handle = 1LL << 41; return 0; }
int cublasDestroy_v2(long long handle) { NOTE(handle) return 0; }
int cublasSetMathMode(long long handle, int mode) { NOTE(handle, mode) return 0; }
int cublasSetStream_v2(long long handle, long long stream) { NOTE(handle, stream) return 0; }
int cublasSetWorkspace_v2(long long handle, long long start, long long size) { NOTE(handle, start, size) return 0; }
#define GEMM(name, real) int name(long long handle, int a_op, int b_op, int m, int n_, int k, real *alpha, \\
    long long a, int lda, long long b, int ldb, real *beta, long long c, int ldc) { \\
    NOTE(handle, a_op, b_op, m, n_, k, *alpha, a, lda, b, ldb, *beta, c, ldc) return 0; }
GEMM(cublasSgemm_v2, float)
GEMM(cublasDgemm_v2, double)
"""


@pytest.mark.skipif(not cuda_on_cpu.COMPILER, reason="needs a C compiler")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_cublas_is_called_with(tmp_path, monkeypatch, dtype):
    """A library with its functions' types notes what arrives: addresses have 64 bits, sizes 32."""
    (tmp_path / "cublas.c").write_text(CUBLAS)
    path = str(tmp_path / "libcublas.so")
    subprocess.run([cuda_on_cpu.COMPILER, "-shared", "-fPIC", "-w", "-o", path, str(tmp_path / "cublas.c")], check=True)
    pathfinder = SimpleNamespace(load_nvidia_dynamic_lib=lambda name: SimpleNamespace(abs_path=path))
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(pathfinder=pathfinder))
    cuda = SimpleNamespace(
        alloc=lambda size: SimpleNamespace(ptr=1 << 42), get_current_stream=lambda: SimpleNamespace(ptr=1 << 43)
    )
    backend, library = fakegpu.backend(), cublas.load()
    a, b, out = (backend.zeros(shape, dtype) for shape in ((3, 5), (5, 2), (3, 2)))
    cublas.Products(SimpleNamespace(cuda=cuda), library, tf32=True).bind(a, b, out, add=True)()
    cublas._destroy_unused()
    handle, n = 1 << 41, ctypes.c_longlong.in_dll(library, "n").value
    assert list((ctypes.c_longlong * n).in_dll(library, "noted")) == [
        *(handle, cublas.TF32_MATH),
        *(handle, 1 << 43),
        *(handle, 1 << 42, cublas.WORKSPACE_BYTES),
        *(handle, 0, 0, 2, 3, 5, 1, b.data.ptr, 2, a.data.ptr, 5, 1, out.data.ptr, 2),
        handle,
    ]


def test_a_thread_that_captures_keeps_its_stream():
    """Two threads, each with a stream of its own, multiply with one handle."""
    found = []

    def stream():
        return SimpleNamespace(ptr=threading.get_ident())

    class Library:
        def __getattr__(self, name):
            return lambda *_: 0

        def cublasSetStream_v2(self, handle, stream):
            self.stream = stream
            time.sleep(1e-4)  # for the other thread
            return 0

        def cublasSgemm_v2(self, *_):
            found.append(self.stream == stream().ptr)
            return 0

    cuda = SimpleNamespace(alloc=lambda size: SimpleNamespace(ptr=0), get_current_stream=stream)
    products, a = cublas.Products(SimpleNamespace(cuda=cuda), Library()), fakegpu.backend().asarray(matrix(3, 3))
    product = products.bind(a, a, a)
    threads = [threading.Thread(target=lambda: [product() for _ in range(50)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 100


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
    monkeypatch.setattr(cublas, "load", lambda: cupy.library)
    return cupy


def no_cupy(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)


def no_driver(machine, monkeypatch):
    machine.cuda.runtime.getDeviceCount = Missing("cudaErrorInsufficientDriver: too old")


def no_nvrtc(machine, monkeypatch):
    machine.cuda.nvrtc.getVersion = Missing('Failure finding "libnvrtc.so.12"\n')


def no_cublas(machine, monkeypatch):
    monkeypatch.setattr(cublas, "load", Missing("Failure finding libcublas.so.12"))


def no_memory(machine, monkeypatch):
    machine.cuda.alloc = Missing("cudaErrorMemoryAllocation: out of memory")


def no_handle(machine, monkeypatch):
    machine.library.cublasCreate_v2 = lambda handle: 1


def no_product(machine, monkeypatch):
    machine.library.cublasSgemm_v2 = lambda *arguments: 13


def no_result(machine, monkeypatch):
    """What a kernel does wrong is said only where somebody waits for it."""
    machine.cuda.Device = lambda: SimpleNamespace(synchronize=Missing("cudaErrorIllegalAddress"))


def no_words(machine, monkeypatch):
    machine.cuda.runtime.getDeviceCount = Missing("")


PROBLEMS = [
    (no_cupy, "CuPy is not installed", 'pip install "minivae[cuda12x]"'),
    (no_driver, "cudaErrorInsufficientDriver", "nvidia-smi"),
    (no_nvrtc, "NVRTC", 'pip install "minivae[cuda12x]"'),
    (no_cublas, "cuBLAS is missing", 'pip install "minivae[cuda12x]"'),
    (no_memory, "out of memory", "nvidia-smi"),
    (no_handle, "cublasCreate_v2 failed with cuBLAS status 1", "nvidia-smi"),
    (no_product, "cublasSgemm_v2 failed with cuBLAS status 13", "nvidia-smi"),
    (no_result, "cudaErrorIllegalAddress", "nvidia-smi"),
    (no_words, "(RuntimeError)", "nvidia-smi"),
]


@pytest.mark.parametrize("happens, problem, fix", PROBLEMS)
def test_cupy_without_a_usable_gpu(machine, monkeypatch, capsys, happens, problem, fix):
    happens(machine, monkeypatch)
    with pytest.raises(MiniVAEError) as error:
        mv.get_backend("cupy")
    message = str(error.value)
    assert message.startswith("no usable GPU: ") and message.endswith(', or take backend "numpy".')
    assert problem in message and fix in message and "\n" not in message

    backend = mv.get_backend("auto")
    assert backend.name in ("numba", "numpy")
    assert problem in backend.reason and "\n" not in backend.reason
    assert capsys.readouterr().err == f"minivae: backend {backend.name}: {backend.reason}\n"


@pytest.mark.parametrize("kind", ["ImportError", "AttributeError", "OSError"])
def test_a_cupy_that_cannot_be_imported(machine, monkeypatch, tmp_path, kind):
    (tmp_path / "cupy.py").write_text(f"raise {kind}('====\\nlibcudart.so.12: no such file')\n")
    monkeypatch.delitem(sys.modules, "cupy")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MiniVAEError, match=r"cannot be imported \(libcudart.so.12: .*pip install"):
        mv.get_backend("cupy")
    assert "libcudart" in mv.get_backend("auto").reason


@pytest.mark.parametrize("installed", [True, False])
def test_auto_without_a_gpu_takes_numba_where_it_is_installed(machine, monkeypatch, installed):
    no_driver(machine, monkeypatch)
    if installed:
        pytest.importorskip("llvmlite")
    else:
        monkeypatch.setitem(sys.modules, "minivae.engine.loops", None)
        monkeypatch.delattr("minivae.engine.loops", raising=False)
    backend = mv.get_backend("auto")
    assert backend.name == ("numba" if installed else "numpy")
    assert backend.reason.endswith("is installed" if installed else "is not installed")


@pytest.mark.parametrize("missing", ["numba", "llvmlite"])
def test_numba_where_it_is_not_installed(monkeypatch, missing):
    """Loops would do with llvmlite alone, but then nobody keeps its version to those that are known to work."""
    if missing == "numba":
        monkeypatch.setattr(backends, "find_spec", lambda name: None)
    else:
        monkeypatch.setitem(sys.modules, "minivae.engine.loops", None)
        monkeypatch.delattr("minivae.engine.loops", raising=False)
    with pytest.raises(MiniVAEError, match=r'pip install "minivae\[numba\]"'):
        mv.get_backend("numba")


def test_auto_takes_a_usable_gpu(machine):
    backend = mv.get_backend("auto")
    assert backend.name == "cupy" and backend.xp is machine
    assert backend.device == "GPU (imaginary)"
    assert "GPU" in backend.reason


def test_numpy_never_looks_for_a_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", Missing("touched"))
    backend = mv.get_backend("numpy")
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
