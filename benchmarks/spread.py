"""How far seeds scatter: the test loss of keras-mnist after 50 epochs, in minivae and in the same network in PyTorch.

    python benchmarks/spread.py --data-dir DATA [--arms minivae,torch] [--seeds 11] [--epochs 50] [--threads 1]

A seed keys the initial weights (Glorot's), the order of the examples and, in PyTorch, the noise. Losses are
-ELBO in nats, the mean of the 10,000 test images with one draw of z each, the same for all.
"""

import argparse
import csv
import statistics
import sys

import numpy as np
from minivae_arm import MiniVAENumba
from options import some_of
from peers import TorchEager
from workloads import PIXELS, WORKLOADS

from minivae import data

ARMS = {"minivae": MiniVAENumba, "torch": TorchEager}
ROWS = 1000  # test images at a time


def test_loss(arm, images, latent):
    eps = np.random.default_rng(0).standard_normal((len(images), latent), dtype="f4")
    x = images.astype("f4") / 255
    return statistics.fmean(arm.loss(x[i : i + ROWS], eps[i : i + ROWS]) for i in range(0, len(x), ROWS))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", help="the folder that has mnist/")
    parser.add_argument("--arms", type=some_of(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=11)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; minivae's are NUMBA_NUM_THREADS")
    arguments = parser.parse_args()
    workload, digits = WORKLOADS["W1"], data.load("mnist", data_dir=arguments.data_dir)
    train, test = (x.reshape(-1, PIXELS) for x in (digits.x_train, digits.x_test))
    table = csv.writer(sys.stdout)
    table.writerow(["arm", "seed", "test_loss"])
    for name in arguments.arms:
        for seed in range(arguments.seeds):
            arm = ARMS[name](workload, workload.initial_weights(seed), train, arguments.threads)
            if name == "torch":
                arm.torch.manual_seed(seed)
            rng = np.random.default_rng(seed)
            for _ in range(arguments.epochs):
                arm.train(rng.permutation(len(train)).astype("i4").reshape(-1, workload.batch))
            table.writerow([name, seed, f"{test_loss(arm, test, workload.latent):.2f}"])
            sys.stdout.flush()


if __name__ == "__main__":
    main()
