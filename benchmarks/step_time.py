"""Milliseconds per training step: minivae, its peers and the bare matrix products, interleaved in one run.

    python benchmarks/step_time.py [--workloads W1,W2,W3,W4] [--threads 1,2] [--peers torch,jax,keras]
        [--against ../another-checkout]

Every arm lives in a process of its own, and the processes take turns: only one ever computes. In one process
the pools of OpenBLAS, OpenMP and XLA would share the cores, and a pool that has just finished spins for up to
30 ms on the core that the next arm wants. A turn therefore opens with a pass that is not timed, which outlasts
the spinning and brings the arm's own threads and caches back.

The machine's own speed drifts over minutes, so a round gives each arm one turn, the order turns with every
round, and what is quoted are medians and ratios within the run.
"""

import argparse
import importlib
import multiprocessing
import os
import platform
import statistics
import sys
import time
from importlib import metadata

import numpy as np
from options import installed, integers, some_of
from peers import PEERS
from workloads import WORKLOADS, synthetic_images

PASSES = 3  # timed passes in a turn


def serve(connection, module, name, workload, threads, checkout=None):
    """The life of a worker: build the arm, then answer `check` and `turn` until told to stop.

    checkout : the folder of another version of minivae to import, with its own benchmarks
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # None leaves all of them
    if checkout:
        sys.path[:0] = [checkout, os.path.join(checkout, "benchmarks")]
    images, rng = synthetic_images(), np.random.default_rng(1)
    arm_class = getattr(importlib.import_module(module), name)
    arm = arm_class(workload, workload.initial_weights(), images, threads)

    def one_pass():
        order = rng.permutation(len(images))[: workload.steps * workload.batch]
        order = np.resize(order, (workload.steps, workload.batch)).astype("i4")
        start = time.perf_counter()
        arm.train(order)
        return 1e3 * (time.perf_counter() - start) / workload.steps

    def turn():
        one_pass()
        return [one_pass() for _ in range(PASSES)]

    answers = {"check": lambda: losses(arm, workload, images), "turn": turn}
    while request := connection.recv():
        connection.send(answers[request]())


def losses(arm, workload, images):
    """The loss on fixed rows and noise, of the initial weights and after ten steps."""
    if not hasattr(arm, "loss"):
        return None
    x = images[: workload.batch].astype("f4") / 255
    eps = np.random.default_rng(2).standard_normal((workload.batch, workload.latent), dtype="f4")
    before = arm.loss(x, eps)
    arm.train(np.arange(10 * workload.batch, dtype="i4").reshape(10, -1) % len(images))
    return before, arm.loss(x, eps)


class Worker:
    """An arm in a process of its own, started with the thread count already in its environment."""

    def __init__(self, module, name, workload, threads, checkout=None):
        for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS") if threads else ():
            os.environ[variable] = str(threads)
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = (theirs, module, name, workload, threads, checkout)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, request):
        self.connection.send(request)
        return self.connection.recv()

    def stop(self):
        self.connection.send(None)
        self.process.join()


def race(arms, workload, threads, rounds, after_ten_steps=0.02, at_first=1e-5):
    """{arm: sorted milliseconds per step} for arms given as {arm: (module, class name, perhaps a checkout)}.

    threads         : how many cores an arm may use; None for all
    after_ten_steps : by what share the arms' losses may then differ, since each draws noise of its own
    at_first        : likewise on the initial weights, on the same noise
    """
    workers = {arm: Worker(*where[:2], workload, threads, *where[2:]) for arm, where in arms.items()}
    agree({arm: worker.ask("check") for arm, worker in workers.items()}, after_ten_steps, at_first)
    for worker in workers.values():
        worker.ask("turn")
    times, names = {arm: [] for arm in arms}, list(arms)
    for i in range(rounds):
        for arm in names[i % len(names) :] + names[: i % len(names)]:
            times[arm] += workers[arm].ask("turn")
    for worker in workers.values():
        worker.stop()
    return {arm: sorted(ms) for arm, ms in times.items()}


def agree(checks, after_ten_steps, at_first):
    """Refuse to time arms whose losses differ: they would not be doing the same work."""
    checks = {arm: pair for arm, pair in checks.items() if pair}
    for when, (values, tolerance) in {
        "on the initial weights": ({arm: pair[0] for arm, pair in checks.items()}, at_first),
        "after ten steps, each on noise of its own": ({arm: pair[1] for arm, pair in checks.items()}, after_ten_steps),
    }.items():
        if max(values.values()) > min(values.values()) * (1 + tolerance):
            raise SystemExit(f"the losses {when} differ by more than {tolerance:g}: {values}")
        print(f"  loss {when}: {min(values.values()):.3f} to {max(values.values()):.3f}")


def report(times, peers, unit="limit"):
    """A Markdown table, fastest first, with the ratios to the arm `unit` and to the best peer."""
    medians = {arm: statistics.median(ms) for arm, ms in times.items()}
    rivals = [medians[arm] for arm in peers if arm in medians]
    best = min(rivals, default=float("nan"))
    print(f"| arm | median ms | 10% to 90% | x {unit} | x best peer |\n| --- | --- | --- | --- | --- |")
    for arm in sorted(medians, key=medians.get):
        ms, tenth = times[arm], len(times[arm]) // 10
        print(
            f"| {arm} | {medians[arm]:.3f} | {ms[tenth]:.3f} to {ms[-1 - tenth]:.3f} "
            f"| {medians[arm] / medians[unit]:.2f} | {medians[arm] / best:.2f} |",
            flush=True,
        )


def machine(peers):
    """One line: processor, Python and the versions of what is compared."""
    with open("/proc/cpuinfo") as lines:
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    versions = [f"{name} {metadata.version(name)}" for name in ("numpy", *peers)]
    python = f"Python {platform.python_version()}"
    return ", ".join([cpu or platform.machine(), f"{os.cpu_count()} cores", python, *versions])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workloads", type=some_of(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--threads", type=integers, default=[1, 2])
    parser.add_argument("--peers", type=some_of(PEERS), default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--against", help="the folder of another version of minivae, to race both of its backends too")
    options = parser.parse_args()

    frameworks, ours = installed(options.peers), {"": "MiniVAE"}
    if installed(["numba"]):
        ours[", numba"] = "MiniVAENumba"
    peers = {arm: ("peers", peer.__name__) for name in frameworks for arm, peer in PEERS[name].items()}
    arms = {"limit": ("peers", "Limit"), **peers}
    arms |= {f"minivae{engine}": ("minivae_arm", name) for engine, name in ours.items()}
    if options.against:
        checkout = os.path.abspath(options.against)
        arms |= {f"before{engine}": ("minivae_arm", name, checkout) for engine, name in ours.items()}
    print(machine(frameworks))
    for threads in options.threads:
        for name in options.workloads:
            print(f"\n{name}, {threads} thread{'s' * (threads > 1)}")
            report(race(arms, WORKLOADS[name], threads, options.rounds), peers)


if __name__ == "__main__":
    main()
