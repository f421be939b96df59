"""Milliseconds per training step on one GPU: minivae eager and captured, PyTorch three ways, JAX; and how it scales.

    python benchmarks/gpu.py [--workloads W1,W2,W3,W4] [--peers torch,jax] [--rounds 10] [--eager] [--tf32]
                             [--batches 100,1024,4096,16384] [--hidden 256,1024,4096]

First the arms take turns on each workload, every one in a process of its own that holds all its data on the GPU,
after all have given the same loss on the same weights and noise. Then minivae alone, captured, runs one model
784-H-64-H-784 at growing batches and widths, to show where a step becomes bound by arithmetic: its floating-point
operations per second are set beside those of one large matrix product on the same device. Peers that are not
installed are left out with a line.
"""

import argparse
import dataclasses
import time
from importlib import metadata

import numpy as np
import step_time
from gpu_peers import PEERS
from options import installed, integers, some_of
from workloads import PIXELS, WORKLOADS, Workload, synthetic_images

import minivae as mv

MATRIX = 8192  # the side of the product that tells the device's rate
SECONDS = 0.5  # how long a measurement of scale lasts


def seconds_per_call(backend, call, seconds):
    """The time of one call, from as many as fit; the first, which compile and record, do not count."""
    for _ in range(5):
        call()
    backend.synchronize()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(10):
            call()
        calls += 10
        backend.synchronize()
    return (time.perf_counter() - start) / calls


def matrix_rate(backend, side, seconds=SECONDS):
    """Floating-point operations per second of a square float32 product."""
    a, b, out = (backend.xp.ones((side, side), "float32") for _ in range(3))
    return 2 * side**3 / seconds_per_call(backend, lambda: backend.products.matmul(a, b, out=out), seconds)


def products_flops(workload):
    """Floating-point operations of a step's products: one a layer forward, two backward, less the first layer's dx."""
    layers = workload.encoder + workload.decoder
    weights = sum(n_in * n_out for n_in, n_out in layers)
    return 2 * workload.batch * (3 * weights - layers[0][0] * layers[0][1])


def scale(backend, batches, widths, side=MATRIX, seconds=SECONDS):
    """Print a table of one model over batch sizes and widths."""
    from gpu_arms import Captured

    peak, images = matrix_rate(backend, side, seconds), synthetic_images()
    print(f"\nOne product of {side} x {side}: {peak / 1e12:.1f} TFLOP/s")
    print("| hidden | batch | ms per step | million examples/s | TFLOP/s | of the product's |\n" + "| --- " * 6 + "|")
    for width in widths:
        for batch in batches:
            workload = Workload((width,), 64, batch, "bernoulli", "adam", steps=1)
            rows = np.resize(images, (max(len(images), batch), PIXELS))
            arm = Captured(workload, workload.initial_weights(), rows, 1, backend)
            arm.prepare(np.arange(batch, dtype="i4")[None])
            took = seconds_per_call(backend, arm.repeat, seconds)
            rate = products_flops(workload) / took
            print(
                f"| {width} | {batch} | {1e3 * took:.3f} | {batch / took / 1e6:.2f} | {rate / 1e12:.1f} "
                f"| {100 * rate / peak:.0f}% |",
                flush=True,
            )


def compare(names, frameworks, rounds, tf32, eager):
    """Print a table for each workload, fastest first."""
    arms = {
        "minivae captured": ("gpu_arms", "CapturedTF32" if tf32 else "Captured"),
        **({"minivae eager": ("gpu_arms", "EagerTF32" if tf32 else "Eager")} if eager else {}),
    }
    peers = {arm: ("gpu_peers", name + "TF32" * tf32) for kind in frameworks for arm, name in PEERS[kind].items()}
    for name in names:
        print(f"\n{name}")
        # A turn ends before the next begins, so the arms never share the GPU; ten times the steps drown a call's cost.
        workload = dataclasses.replace(WORKLOADS[name], steps=10 * WORKLOADS[name].steps)
        times = step_time.race({**arms, **peers}, workload, None, rounds, at_first=1e-3 if tf32 else 1e-5)
        step_time.report(times, peers, "minivae captured")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = '"" leaves the comparison out'
    parser.add_argument("--workloads", type=some_of(WORKLOADS), default=list(WORKLOADS), help=what)
    parser.add_argument("--peers", type=some_of(PEERS), default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--eager", action="store_true", help="time minivae's step uncompiled, too, which takes long")
    parser.add_argument("--tf32", action="store_true", help="round the operands of products to TF32, in every arm")
    parser.add_argument("--batches", type=integers, default=[100, 1024, 4096, 16384], help='"" leaves scale out')
    parser.add_argument("--hidden", type=integers, default=[256, 1024, 4096])
    options = parser.parse_args()
    try:
        backend = mv.get_backend("cupy", tf32=options.tf32)
    except mv.MiniVAEError as error:
        raise SystemExit(str(error)) from None
    frameworks = installed(options.peers)
    precision = "TF32 products" if options.tf32 else "float32"
    versions = [f"{name} {metadata.version(name)}" for name in ("numpy", *frameworks)]
    cuda, cupy = backend.xp.cuda.runtime.runtimeGetVersion(), backend.xp.__version__
    print(", ".join([backend.device, f"CUDA {cuda}", f"cupy {cupy}", *versions, precision]), flush=True)
    compare(options.workloads, frameworks, options.rounds, options.tf32, options.eager)
    scale(backend, options.batches, options.hidden)


if __name__ == "__main__":
    main()
