"""The threads that work through a list of instructions without Python.

An instruction is a compiled loop `kernel(table, start, stop)`, where `table` holds the addresses of its arrays, and
the share of each thread: thread w runs it from bounds[w] to bounds[w + 1]. After an instruction that says so, all
threads wait for each other: they join. BLAS computes on the thread that calls it for as long as a list runs.

What the threads run is written in LLVM's language, in runner.ll. A helper sleeps in Python, in `_help`. It goes asleep
(0) -> ready (1) by itself and back after a while; whoever launches makes it busy (2), and it makes itself ready again
when it has done its share.
"""

import _thread
import contextlib
import ctypes
import functools
import importlib.machinery
import importlib.util
import os
import sys
import weakref
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import scipy
from threadpoolctl import ThreadpoolController

from .llvm import compile_module

MAX_WORKERS = 16
LINE = 64  # bytes of a cache line: one for each thread's words, or writing one would take the others from their readers
WORDS = 4 + MAX_WORKERS  # of an instruction: kernel, table, join, shares; runner.ll counts on these three numbers


@functools.cache
def _runner():
    """The functions `help_out` and `launch`, and the address of `product`."""
    give_way = ctypes.windll.kernel32.SwitchToThread if sys.platform == "win32" else ctypes.CDLL(None).sched_yield
    llvm.add_symbol("give_way", ctypes.cast(give_way, ctypes.c_void_p).value)
    text = Path(__file__).with_name("runner.ll").read_text()
    code, (help_out, launch, product) = compile_module(text, ["help_out", "launch", "product"])
    word, address = ctypes.c_int64, ctypes.c_void_p
    functions = (
        ctypes.CFUNCTYPE(None, address, word, word, word, address)(help_out),
        ctypes.CFUNCTYPE(word, address, word, word, address, address)(launch),
    )
    return *functions, product, code  # which lives as long as they do


def product_kernel():
    """The address of the kernel of a matrix product."""
    return _runner()[2]


def _scipys_blas():
    """SciPy's module of BLAS's addresses, without the rest of scipy.linalg: that takes 25 MiB and a quarter second."""
    name = "scipy.linalg.cython_blas"
    spec = importlib.machinery.PathFinder.find_spec(name, [os.path.join(path, "linalg") for path in scipy.__path__])
    if spec is None or name in sys.modules:
        return importlib.import_module(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop(name, None)  # who imports it later shall get it as a part of scipy.linalg
    return module


cython_blas = _scipys_blas()  # before `Blas` looks which libraries are loaded


class Blas:
    """The BLAS libraries of this process, as compiled code calls them: each launch holds them to one thread.

    words : as `hold_blas` reads them
    """

    NAMES = {
        "openblas": [
            (f"{prefix}openblas_get_num_threads{suffix}", f"{prefix}openblas_set_num_threads{suffix}")
            for prefix in ("", "scipy_")
            for suffix in ("", "64_", "_64")
        ],
        "mkl": [("MKL_Get_Max_Threads", "MKL_Set_Num_Threads")],
        "blis": [("bli_thread_get_num_threads", "bli_thread_set_num_threads")],
    }

    def __init__(self):
        libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self.n_threads = min(MAX_WORKERS, max((library.get_num_threads() for library in libraries), default=1))
        # With OpenMP the number holds for one thread of Python only: a helper sets its own when it starts.
        self.of_each_thread = []
        words = []
        for library in libraries:
            with_openmp = getattr(library, "threading_layer", "") == "openmp"
            names = [("omp_get_max_threads", "omp_set_num_threads")] if with_openmp else []
            names += self.NAMES.get(library.internal_api, [])
            for pair in names:
                if hasattr(library.dynlib, pair[0]):
                    tell, put = (getattr(library.dynlib, name) for name in pair)
                    words += [ctypes.cast(function, ctypes.c_void_p).value for function in (tell, put)] + [0]
                    if with_openmp:
                        self.of_each_thread.append(put)
                    break
        self.words = np.array([0, 0, len(words) // 3, *words], np.int64)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self):
        """In a new process: the launches that ran in other threads at that moment do not go on there."""
        if self.words[1]:
            for put, before in self.words[3:].reshape(-1, 3)[:, 1:].tolist():
                ctypes.CFUNCTYPE(None, ctypes.c_int)(put)(before)
        self.words[:2] = 0


blas = Blas()


class Crew:
    """The threads of one list; a call runs it once.

    instructions : an array (n, WORDS) of int64, which must stay as it is
    """

    def __init__(self, instructions, n_workers):
        self._list, self.n_workers, self._process = instructions, n_workers, None

    def __call__(self):
        if self._process != os.getpid():
            self._start()  # threads do not survive a fork
        while not self._launch(*self._given):
            _ring(self._bells)

    def _start(self):
        """Start the helping threads; they end with this object."""
        help_out, self._launch, *_ = _runner()
        memory = np.zeros((2 * self.n_workers + 2) * LINE, np.uint8)
        shared = memory.ctypes.data + -memory.ctypes.data % LINE
        list_ = self._list.ctypes.data, len(self._list), self.n_workers
        self._memory, self._bells, owner = memory, [], weakref.ref(self)
        for worker in range(1, self.n_workers):
            bell = _thread.allocate_lock()
            # The arrays go along because the thread may outlive this object for a moment. Not threading.Thread, whose
            # start waits for an Event, which an interrupt breaks.
            given = functools.partial(help_out, *list_, worker, shared)
            _thread.start_new_thread(_help, (bell, owner, given, (memory, self._list)))
            self._bells.append(bell)
        weakref.finalize(self, _ring, self._bells)
        self._given = *list_, shared, blas.words.ctypes.data
        self._process = os.getpid()


def _ring(bells):
    """Wake who waits to acquire a lock. Unlike an Event, a lock has no state that an interrupt can leave half done."""
    for bell in bells:
        with contextlib.suppress(RuntimeError):  # another thread has just released it
            if bell.locked():
                bell.release()


LOOKS = 5.0  # seconds after which a sleeping helper looks whether its list is still there


def _help(bell, owner, work, kept):
    for put in blas.of_each_thread:
        put(1)
    while True:
        bell.acquire(timeout=LOOKS)  # an interrupt can keep the last ring from coming
        if owner() is None:
            return
        work()
