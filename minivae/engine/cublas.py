"""Matrix products on a GPU that a CUDA graph may capture: a cuBLAS handle of our own, called through ctypes.

CuPy refuses its own cuBLAS calls on a capturing stream (its issue 6290). nvmath-python has bindings that
would serve, but it is a large dependency for the seven functions used here.
"""

import contextlib
import ctypes
import threading
import weakref
from ctypes import POINTER, byref, c_double, c_float, c_int, c_size_t, c_void_p

from .plan import stored

NO_TRANSPOSE, TRANSPOSE = 0, 1  # cublasOperation_t
TF32_MATH = 3  # CUBLAS_TF32_TENSOR_OP_MATH
WORKSPACE_BYTES = 32 * 2**20  # what NVIDIA advises for Hopper; smaller GPUs need less


def load():
    """The cuBLAS library, found where CuPy finds it; RuntimeError where there is none."""
    from cuda import pathfinder  # comes with CuPy

    library = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
    library.cublasCreate_v2.argtypes = [POINTER(c_void_p)]
    library.cublasDestroy_v2.argtypes = [c_void_p]
    library.cublasSetStream_v2.argtypes = [c_void_p, c_void_p]
    library.cublasSetWorkspace_v2.argtypes = [c_void_p, c_void_p, c_size_t]
    library.cublasSetMathMode.argtypes = [c_void_p, c_int]
    for gemm, real in ((library.cublasSgemm_v2, c_float), (library.cublasDgemm_v2, c_double)):
        scale, matrix = POINTER(real), (c_void_p, c_int)
        gemm.argtypes = [c_void_p, *[c_int] * 5, scale, *matrix, *matrix, scale, *matrix]
    return library


_unused: list[tuple[ctypes.CDLL, c_void_p]] = []  # the handles of products that are gone, each with its library


def _destroy_unused():
    """Called where a handle is made. Destroying one waits for the GPU, which would spoil a graph that is being captured
    at the moment when products happen to be collected.
    """
    with contextlib.suppress(IndexError):  # there are no more
        while True:
            library, handle = _unused.pop()
            library.cublasDestroy_v2(handle)


class Products:
    """out = a @ b for float32 or float64 matrices.

    library : what `load` gives
    tf32    : let float32 products round their operands to TF32 (about 3e-4 relative), which is faster

    Work goes to CuPy's current stream; one stream at a time, since the workspace is shared.
    """

    def __init__(self, xp, library, tf32=False):
        self.xp, self.tf32 = xp, tf32
        self._library = library
        self._handle = c_void_p()
        _destroy_unused()
        self._call("cublasCreate_v2", byref(self._handle))
        weakref.finalize(self, _unused.append, (library, self._handle))
        if tf32:
            self._call("cublasSetMathMode", self._handle, TF32_MATH)
        # A workspace of our own: cuBLAS would otherwise allocate one in the middle of a capture.
        self._workspace = xp.cuda.alloc(WORKSPACE_BYTES)
        self._stream, self._lock = None, threading.Lock()
        self._kinds = {"f": ("cublasSgemm_v2", c_float), "d": ("cublasDgemm_v2", c_double)}

    def matmul(self, a, b, *, out):
        """out = a @ b, overwritten; it must overlap neither a nor b."""
        self.bind(a, b, out)()

    def bind(self, a, b, out, add=False):
        """A function that does out = a @ b, or out += a @ b; the arrays must stay alive."""
        (m, k), n = a.shape, b.shape[1]
        if b.shape != (k, n) or out.shape != (m, n):
            raise ValueError(f"matmul: shapes {a.shape} @ {b.shape} do not give {out.shape}")
        if not (a.dtype == b.dtype == out.dtype and out.dtype.char in self._kinds):
            raise TypeError(f"matmul: {a.dtype} @ {b.dtype} -> {out.dtype}: expected one of float32, float64")
        name, real = self._kinds[out.dtype.char]
        # cuBLAS counts by columns, and out in C order read by columns is out' = b' a'.
        for x in (out, b, a):
            if stored(x) is None:
                raise ValueError(f"matmul: {x.shape} with strides {x.strides} would need a copy")
        (out_operation, out_leading), (b_operation, b_leading), (a_operation, a_leading) = map(stored, (out, b, a))
        if out_operation != NO_TRANSPOSE:
            raise ValueError(f"matmul: the rows of out should be contiguous; its strides are {out.strides}")
        arguments = (
            self._handle, b_operation, a_operation, n, m, k, byref(real(1)),
            b.data.ptr, b_leading, a.data.ptr, a_leading, byref(real(add)), out.data.ptr, out_leading,
        )  # fmt: skip

        def product():
            with self._lock:  # or a thread that captures a graph would find the handle on another one's stream
                self._follow_current_stream()
                self._call(name, *arguments)

        return product

    def _follow_current_stream(self):
        stream = self.xp.cuda.get_current_stream().ptr
        if stream != self._stream:
            # Setting the stream resets the workspace, so the order matters.
            self._call("cublasSetStream_v2", self._handle, stream)
            self._call("cublasSetWorkspace_v2", self._handle, self._workspace.ptr, WORKSPACE_BYTES)
            self._stream = stream

    def _call(self, name, *arguments):
        status = getattr(self._library, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} failed with cuBLAS status {status}")
