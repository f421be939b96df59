"""The ladder of likelihoods: log p(x) of MNIST or Fashion-MNIST, rung by rung, by the recipe of the VampPrior's paper.

    python examples/ladder.py --arm standard --data-dir DIR
    python examples/ladder.py --arm standard --data-dir DIR --resume       goes on where it was stopped

All arms: gated layers of 300 units, 40 latent dimensions a layer, batches of 100, Adam at 5e-4, beta rising from 0 to 1
over 100 epochs, ended when the validation loss has not fallen for 50 epochs, with the weights of the best one. Of the
60,000 training images the last 10,000 are for validation. Training pixels are drawn black or white anew in every epoch;
validation and test pixels once. log p(x) of all test images by importance sampling with 5,000 draws for each. The
authors' optimizer also divides the gradient of each array by its length: --unit-gradients.

Published, in nats (for MNIST and Fashion-MNIST, as reported by Norouzi, Fleet & Norouzi 2020, "Exemplar VAE", table 1):
    standard        one layer, prior N(0, I)                     -84.45  -228.70
    vampprior       one layer, VampPrior of 500 pseudo-inputs    -82.43  -227.35
    two-layers      two layers, prior N(0, I) of z2              -82.39  -227.37
    two-vampprior   two layers, VampPrior of z2                  -81.56  -226.72

Recipe: Tomczak & Welling 2018, "VAE with a VampPrior". Each run adds a row to ladder.csv in `--out`. A run that ended
at `--epochs`, before early stopping, is named as such there and is no reproduction.
"""

import csv
import sys
import time

import numpy as np
from common import at_least_1, command, data_name, kept, recipe_parser, save_results, save_training_figures, start

import minivae as mv

HIDDEN, LATENT, WARM_UP, LOOK_AHEAD = 300, 40, 100, 50
PUBLISHED = {
    "standard": {"mnist": -84.45, "fashion-mnist": -228.70},
    "vampprior": {"mnist": -82.43, "fashion-mnist": -227.35},
    "two-layers": {"mnist": -82.39, "fashion-mnist": -227.37},
    "two-vampprior": {"mnist": -81.56, "fashion-mnist": -226.72},
}


def gated(*widths):
    """Gated layers from each width to the next."""
    return [mv.GatedDense(n_in, n_out, init="he_normal") for n_in, n_out in zip(widths, widths[1:], strict=False)]


class UnitGradients(mv.Optimizer):
    """Another optimizer, which sees the gradient of each array divided by its length, as in the authors' programs.

    sizes : how many values each array has, in the order in which they lie in the flat one
    """

    def __init__(self, optimizer, sizes):
        super().__init__(optimizer.lr)
        self.optimizer, self.sizes = optimizer, sizes

    def fresh_state(self, p):
        return self.optimizer.fresh_state(p)

    def update(self, g, p, state):
        units, start = [], 0
        for size in self.sizes:
            part = g[start : start + size]
            units.append(part / (np.sqrt(np.sum(part**2, keepdims=True)) + 1e-7))
            start += size
        return self.optimizer.update(np.concatenate(units), p, state)


def one_layer(n_in, prior, **where):
    encoder = [*gated(n_in, HIDDEN, HIDDEN), mv.Dense(HIDDEN, 2 * LATENT, init="he_normal")]
    decoder = [*gated(LATENT, HIDDEN, HIDDEN), mv.Dense(HIDDEN, n_in, init="he_normal")]
    return mv.VAE(encoder, decoder, prior=prior, **where)


def build(arm, n_in, components, **where):
    """The model of one arm."""
    prior = mv.VampPrior(LATENT, n_in, components) if arm.endswith("vampprior") else mv.StandardNormal(LATENT)
    if arm.startswith("two"):
        return mv.two_layers(n_in, (LATENT, LATENT), HIDDEN, prior, **where)
    return one_layer(n_in, prior, **where)


def split(x):
    """What is trained on, and the last sixth, for validation: of MNIST 10,000, as many as Larochelle's split."""
    n = len(x) - max(1, len(x) // 6)
    return x[:n], x[n:]


def train(arguments, vae, x_train, x_val):
    optimizer = mv.Adam(5e-4)
    if arguments.unit_gradients:
        optimizer = UnitGradients(optimizer, [array.size for array in vae.parameters.values()])
    return mv.fit(
        vae,
        x_train,
        validation=x_val,
        epochs=arguments.epochs,
        batch_size=100,
        optimizer=optimizer,
        schedules={"beta": mv.linear_warmup(arguments.warm_up)},
        binarize=arguments.binarize,
        patience=LOOK_AHEAD,
        **kept(arguments, validation="val"),
    )


def evaluate(arguments, vae, x_test):
    """What the trained model is worth on the test images, drawn black or white once."""
    x = mv.binarize(x_test[: arguments.nll_images])
    vae.beta = 1.0
    losses, begin = vae.evaluate(x, parallel=arguments.ranks), time.perf_counter()
    log_px = vae.log_likelihood(x, samples=arguments.nll_samples, parallel=arguments.ranks)
    return {
        "log_px": round(log_px, 4),
        "nll_samples": arguments.nll_samples,
        "nll_images": len(x),
        "elbo": round(-losses.negative_elbo, 4),
        "kl": round(losses.kl, 4),
        "active_units": int(vae.active_units(x).sum()),
        "nll_hours": round((time.perf_counter() - begin) / 3600, 3),
    }


def append_row(path, row):
    """One more line at the end of a CSV file, whose head is the names of the row that was written first."""
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def main():
    parser = recipe_parser(__doc__.splitlines()[0], "runs/ladder", ("mnist", "fashion-mnist", "sample"))
    parser.add_argument("--arm", choices=tuple(PUBLISHED), default="standard", help="which rung")
    parser.add_argument("--epochs", type=at_least_1, default=2000, help="at most; early stopping ends it before")
    parser.add_argument("--components", type=at_least_1, default=500, help="pseudo-inputs of a VampPrior")
    parser.add_argument("--binarize", choices=("dynamic", "static"), default="dynamic", help="of training pixels")
    parser.add_argument("--warm-up", type=at_least_1, default=WARM_UP, help="epochs until beta is 1")
    parser.add_argument("--unit-gradients", action="store_true", help="divide each array's gradient by its length")
    parser.add_argument("--nll-samples", type=at_least_1, default=5000, help="draws for each test image")
    parser.add_argument("--nll-images", type=at_least_1, help="use only the first test images for log p(x)")
    arguments = parser.parse_args()
    results = arguments.out / "ladder.csv"
    arm = arguments.arm + ("-unit-gradients" if arguments.unit_gradients else "")
    arguments.out /= f"{arguments.dataset}-{arguments.binarize}-{arm}-seed{arguments.seed}"
    backend, dataset = start(arguments)
    x_train, x_val = split(dataset.x_train)
    where = {"backend": backend, "dtype": arguments.dtype, "seed": arguments.seed}
    vae = build(arguments.arm, int(np.prod(x_train.shape[1:])), arguments.components, **where)
    history = train(arguments, vae, x_train, x_val)
    ended = "early stopping" if len(history) < arguments.epochs else f"--epochs {arguments.epochs}"
    save_results(arguments, vae, dataset)
    if not arguments.no_plots:
        save_training_figures(arguments, vae, history, "validation")
    result = {
        "command": " ".join(["python examples/ladder.py", *sys.argv[1:]]),
        "data": data_name(arguments, dataset),
        "binarize": arguments.binarize,
        "arm": arguments.arm,
        "seed": arguments.seed,
        "epochs": len(history),
        "best_epoch": history.best_epoch,
        "ended": ended,
        "hours": round(sum(history["seconds"]) / 3600, 3),
        "device": backend.device,
        "parameters": vae.parameters.flat.size,
    } | evaluate(arguments, vae, dataset.x_test)
    if arguments.ranks.rank:
        return
    append_row(results, result)
    published = PUBLISHED[arguments.arm].get(dataset.name)
    print(f"results in {results} and {arguments.out}")
    print(f"published: {published}" if published else "published: nothing for these data")
    print(f"on {result['data']}, ended by {ended}, with the weights of epoch {history.best_epoch} of {len(history)}:")
    told = f"{arguments.nll_samples} draws, {result['nll_images']} images"
    print(f"log p(x) {result['log_px']:.2f} nats ({told}), {result['active_units']} units active")


if __name__ == "__main__":
    command(main)
