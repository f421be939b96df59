"""Digits in discrete codes: the Gumbel-softmax and the VQ-VAE beside a Gaussian VAE.

    python examples/discrete.py --data-dir DIR

All models are 784-400-z-400-784, trained alike on pixels that are drawn black or white anew in each epoch, and measured
with codes that are discrete: the bound and log p(x) are those of the model that `sample` draws from. The figure has
digits as the VQ-VAE gives them back, draws from both priors, and how often each entry of the codebook is used. Sources:
Jang, Gu & Poole 2017; Maddison, Mnih & Teh 2017; van den Oord, Vinyals & Kavukcuoglu 2017.
"""

import math

import numpy as np
from common import at_least_1, command, data_name, model_parser, save_figures, start, write_json

import minivae as mv

# Name -> the width of z, and the posterior.
MODELS = {
    "Gaussian, 20 dimensions": (20, lambda: mv.DiagonalGaussian()),
    "Gumbel-softmax, 20 of 10": (200, lambda: mv.GumbelSoftmax(10)),
    "VQ-VAE, 8 of 128": (32, lambda: mv.VectorQuantized(128, 4)),
}


def train(arguments, backend, dataset, latent, posterior):
    vae = mv.mlp(
        math.prod(dataset.x_train.shape[1:]),
        latent,
        hidden=(400,),
        posterior=posterior(),
        backend=backend,
        dtype=arguments.dtype,
        seed=arguments.seed,
    )
    schedules = {"lr": lambda epoch: 1e-3 if epoch <= 0.8 * arguments.epochs else 2e-4}
    options = {"batch_size": 100, "optimizer": mv.Adam(1e-3), "schedules": schedules, "binarize": "dynamic"}
    mv.fit(vae, dataset.x_train, epochs=arguments.epochs, **options)
    return vae


def measure(arguments, vae, x):
    losses = vae.evaluate(x)
    few = x[: arguments.nll_images]
    row = {"elbo": -losses.loss, "kl": losses.kl, "log_px": vae.log_likelihood(few, samples=arguments.nll_samples)}
    if isinstance(vae.posterior, mv.VectorQuantized):
        use = mv.codebook_use(vae, x)
        row |= {"entries_used": use.used, "perplexity": use.perplexity}
    return row


def tiles(rows, n, side):
    return rows.reshape(n, n, side, side).transpose(0, 2, 1, 3).reshape(n * side, n * side)


def draw(models, x):
    """Digits and what the VQ-VAE makes of them, draws from the models with discrete codes, the use of the codebook."""
    from matplotlib.figure import Figure

    figure, side = Figure(figsize=(11, 6.2), layout="constrained"), math.isqrt(x[0].size)
    n = min(6, math.isqrt(len(x)))
    panels = figure.subplot_mosaic([["digits", "back", "gumbel", "vq"], ["use"] * 4], height_ratios=(1.6, 1))
    _, gumbel, vq = models.values()
    shown = {
        "digits": ("test digits", x[: n * n] / 255),
        "back": ("given back by the VQ-VAE", vq.reconstruct(x[: n * n])),
        "gumbel": ("draws, Gumbel-softmax", gumbel.sample(n * n, seed=0)),
        "vq": ("draws, VQ-VAE, uniform prior", vq.sample(n * n, seed=0)),
    }
    for name, (title, rows) in shown.items():
        panels[name].imshow(tiles(rows, n, side), vmin=0, vmax=1, cmap="gray")
        panels[name].set_title(title, fontsize=10)
        panels[name].set_axis_off()
    use = mv.codebook_use(vq, x)
    panels["use"].bar(np.arange(len(use.counts)), np.sort(use.counts)[::-1] / use.counts.sum(), width=0.9)
    panels["use"].axhline(1 / len(use.counts), color="black", linewidth=0.8, linestyle="--")
    panels["use"].set(xlabel="entry of the codebook, by use", ylabel="share of the choices", xlim=(-1, len(use.counts)))
    panels["use"].set_title(
        f"{use.used} of {len(use.counts)} entries used, perplexity {use.perplexity:.0f}", fontsize=10
    )
    return figure


def main():
    parser = model_parser(__doc__.splitlines()[0], "runs/discrete", ("mnist", "fashion-mnist", "sample"))
    parser.add_argument("--epochs", type=at_least_1, default=10)
    parser.add_argument("--nll-samples", type=at_least_1, default=500, help="draws for each test image")
    parser.add_argument("--nll-images", type=at_least_1, default=1000, help="the first test images, for log p(x)")
    arguments = parser.parse_args()
    backend, dataset = start(arguments)
    x = mv.binarize(dataset.x_test).reshape(len(dataset.x_test), -1)
    models, results = {}, {}
    for name, parts in MODELS.items():
        models[name] = train(arguments, backend, dataset, *parts)
        results[name] = measure(arguments, models[name], x)
        told = ", ".join(f"{key} {value:.2f}" for key, value in results[name].items())
        print(f"{name}: {told} ({data_name(arguments, dataset)})", flush=True)
        models[name].save(arguments.out / f"{name.split(',')[0].lower()}.safetensors")
    write_json(arguments.out / "result.json", results)
    if not arguments.no_plots:
        save_figures(arguments, discrete=draw(models, x))
    print(f"results in {arguments.out}")


if __name__ == "__main__":
    command(main)
