"""What test_mpi.py starts several processes of: `mpiexec -n 2 python under_mpi.py train`, with its PYTHONPATH.

train PATH        the training of killable.py, with a checkpoint where a path is given; prints each rank's hash
trains PATH       a long one, which says on each rank when it begins, and its process
fails RANK        an error on one rank, or on all of them, in the middle of a training
exits RANK        one rank ends the program
dies RANK         one rank is killed
threads           prints how many threads BLAS has
equal NAMES...    models of tests/engines/test_equal.py, in float64 and float32, beside the same in one process
"""

import os
import signal
import sys

import killable
import numpy as np

import minivae as mv
from minivae import parallel

SMALL = {"epochs": 4, "n": 80, "progress": False}


def tell(ranks, text):
    """Let every rank have its say, rank 0 for all."""
    for root in range(ranks.size):
        print(ranks.broadcast(text, root), flush=True)


def train(ranks, path=None):
    tell(ranks, killable.digest(*killable.train(path, parallel=ranks, **SMALL)))


def trains(ranks, path):
    sys.__stdout__.write(f"process {os.getpid()}\n")
    sys.__stdout__.flush()
    tell(ranks, killable.digest(*killable.train(path, parallel=ranks, epochs=12, progress=False)))


def fails(ranks, rank):
    def schedule(epoch):
        if epoch == 3 and rank in (str(ranks.rank), "all"):
            raise mv.MiniVAEError("this went wrong")
        if epoch == 3 and rank == f"bug{ranks.rank}":
            raise ZeroDivisionError("this is a bug")
        return 1e-3

    small_training(ranks, schedule)


def exits(ranks, rank):
    small_training(ranks, lambda epoch: sys.exit(7) if epoch == 3 and ranks.rank == int(rank) else 1e-3)


def dies(ranks, rank):
    def schedule(epoch):
        if epoch == 3 and ranks.rank == int(rank):
            os.kill(os.getpid(), signal.SIGKILL)
        return 1e-3

    small_training(ranks, schedule)


def small_training(ranks, schedule):
    vae = mv.VAE([mv.Dense(6, 4)], [mv.Dense(2, 6)])
    mv.fit(vae, np.zeros((50, 6)), epochs=100, batch_size=5, schedules={"lr": schedule}, parallel=ranks)
    print("this is the end")


def threads(ranks):
    from threadpoolctl import ThreadpoolController

    tell(ranks, max(library.num_threads for library in ThreadpoolController().select(user_api="blas").lib_controllers))


def equal(ranks, *names):
    from test_equal import SHARED, train

    for name in names or SHARED:
        for dtype, kind in (("float64", "float64"), ("float32", "pixels")):
            found = train(mv.get_backend("numpy"), name, dtype, kind, parallel=ranks)
            alone = train(mv.get_backend("numpy"), name, dtype, kind)
            worst = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(found, alone, strict=True)]
            everywhere = np.array([*worst])
            ranks.allreduce(everywhere)
            print(f"{name}|{dtype}|{' '.join(f'{each:.0e}' for each in everywhere)}", flush=True)


if __name__ == "__main__":
    with parallel.mpi() as ranks:
        globals()[sys.argv[1]](ranks, *sys.argv[2:])
