"""Whole programs: from the start of Python to the end of the first epoch, and the most memory they took.

    python benchmarks/first_epoch.py [--arms "minivae;JAX lax.scan"] [--rounds 3] [--threads 2]

Each arm is a process of its own that imports its framework, reads 60,000 images of 784 pixels from a file, builds
W1 (784-256-2-256-784, batch 100, RMSprop), compiles what it compiles, and trains one epoch. The images are
synthetic with the make-up of MNIST. Seconds are those of the process; memory is its peak resident set, the data
included.
"""

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from options import installed, some_of
from peers import PEERS
from workloads import WORKLOADS, synthetic_images


def all_arms():
    """{arm: (module, class name)} of what is installed."""
    arms = {"minivae": ("minivae_arm", "MiniVAE")}
    if installed(["numba"]):
        arms["minivae, numba"] = ("minivae_arm", "MiniVAENumba")
    for framework in installed(PEERS):
        arms |= {arm: ("peers", peer.__name__) for arm, peer in PEERS[framework].items()}
    return arms


def train(module, name, path, threads):
    """What a process does: one epoch; prints the mean loss."""
    workload, images = WORKLOADS["W1"], np.load(path)
    arm = getattr(importlib.import_module(module), name)(workload, workload.initial_weights(), images, threads)
    order = np.random.default_rng(0).permutation(len(images)).astype("i4")
    print(arm.train(order.reshape(-1, workload.batch)))


def measure(module, name, path, threads):
    """(seconds, MiB, loss) of one process."""
    counts = {f"{pool}_NUM_THREADS": str(threads) for pool in ("OPENBLAS", "OMP", "MKL")}
    command = [sys.executable, __file__, "--train", module, name, path, str(threads)]
    start = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | counts, stdout=subprocess.PIPE, text=True)
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{name} failed")
    return seconds, usage.ru_maxrss / 1024, float(printed.split()[-1])


def main():
    if sys.argv[1:2] == ["--train"]:
        *arm, path, threads = sys.argv[2:]
        return train(*arm, path, int(threads))
    if sys.argv[1:2] == ["--write"]:
        return np.save(sys.argv[2], synthetic_images(60_000))
    parser, known = argparse.ArgumentParser(description=__doc__.split("\n")[0]), all_arms()
    parser.add_argument("--arms", type=some_of(known, ";"), default=list(known), help="names with ; between them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    arms = {arm: known[arm] for arm in options.arms}
    results = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "images.npy")
        # In a process of its own: Linux counts what a parent has held into the peak of its children.
        subprocess.run([sys.executable, __file__, "--write", path], check=True)
        for _ in range(options.rounds):
            for arm, where in arms.items():
                results[arm].append(measure(*where, path, options.threads))
    print("| arm | median s | range | peak MiB | mean loss |\n| --- | --- | --- | --- | --- |")
    for arm, rows in sorted(results.items(), key=lambda item: statistics.median(item[1])):
        seconds, memory, losses = zip(*rows, strict=True)
        middle, most = statistics.median(seconds), max(memory)
        print(f"| {arm} | {middle:.2f} | {min(seconds):.2f} to {max(seconds):.2f} | {most:.0f} | {losses[0]:.1f} |")


if __name__ == "__main__":
    main()
