"""Milliseconds per training step of the convolutional VAE: minivae, PyTorch and the bare matrix products, in turns.

    python benchmarks/conv_step_time.py [--threads 1,2] [--rounds 6] [--peers torch] [--against ../another-checkout]

The network is that of examples/conv_mnist.py, batch 100, RMSprop. How the arms take turns: see step_time.py.
"""

import argparse
import importlib
import os

from options import installed, integers, some_of
from step_time import machine, race, report


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=integers, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--peers", type=some_of(["torch"]), default=["torch"])
    parser.add_argument("--against", help="the folder of another version of minivae, to race both of its backends too")
    options = parser.parse_args()
    peers, ours = installed(options.peers), {"minivae": "MiniVAEConv"}
    if installed(["numba"]):
        ours["minivae, numba"] = "MiniVAEConvNumba"
    arms = {arm: ("conv_arms", name) for arm, name in ({"limit": "Limit"} | ours).items()}
    arms |= {peer: ("conv_arms", "TorchConv") for peer in peers}
    if options.against:
        checkout = os.path.abspath(options.against)
        arms |= {arm.replace("minivae", "before"): ("conv_arms", name, checkout) for arm, name in ours.items()}
    workload = importlib.import_module("conv_workload").ConvWorkload()
    print(machine(peers))
    for threads in options.threads:
        print(f"\nconv, {threads} thread{'s' * (threads > 1)}")
        # RMSprop's first steps are so large that other noise makes another loss for a while.
        report(race(arms, workload, threads, options.rounds, after_ten_steps=1.0), peers)


if __name__ == "__main__":
    main()
