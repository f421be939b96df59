"""Four priors for two-dimensional codes of digits, drawn: the standard normal, a mixture, the VampPrior, a flow.

    python examples/priors.py --data-dir DIR

All models are 784-256-2-256-784, trained alike on pixels that are drawn black or white anew in each epoch. Where the
prior is learned, the codes need not be pressed into one ball; how much that is worth in log p(x) is printed beside.
Sources: Kingma & Welling 2014; Tomczak & Welling 2018 for the mixture and the VampPrior; Chen et al. 2017 for the flow.
"""

import numpy as np
from common import at_least_1, command, data_name, model_parser, save_figures, start, write_json

import minivae as mv

PRIORS = {
    "standard normal": lambda n_in: mv.StandardNormal(2),
    "mixture of 20": lambda n_in: mv.MixturePrior(2, 20),
    "VampPrior of 50": lambda n_in: mv.VampPrior(2, n_in, 50),
    "flow": lambda n_in: mv.FlowPrior([mv.InverseAutoregressive(2, 64, reverse=i % 2 == 1) for i in range(4)]),
}


def train(arguments, backend, x_train, prior):
    n_in = int(np.prod(x_train.shape[1:]))
    vae = mv.mlp(n_in, 2, prior=prior(n_in), backend=backend, dtype=arguments.dtype, seed=arguments.seed)
    schedules = {"lr": lambda epoch: 1e-3 if epoch <= 0.8 * arguments.epochs else 2e-4}
    mv.fit(
        vae,
        x_train,
        epochs=arguments.epochs,
        batch_size=100,
        optimizer=mv.Adam(1e-3),
        schedules=schedules,
        binarize="dynamic",
    )
    return vae


def draw(models, x, y):
    """A panel for each model: the codes by digit, and the prior's density as lines."""
    from matplotlib.figure import Figure

    from minivae.views.plots import latent_space

    figure = Figure(figsize=(5 * len(models), 5.4), layout="constrained")
    for axes, (name, (vae, log_px)) in zip(figure.subplots(1, len(models)), models.items(), strict=True):
        latent_space(vae, x, y, ax=axes)
        axes.set_title(f"{name}: log p(x) {log_px:.1f} nats")
    return figure


def main():
    parser = model_parser(__doc__.splitlines()[0], "runs/priors", ("mnist", "fashion-mnist", "sample"))
    parser.add_argument("--epochs", type=at_least_1, default=30)
    parser.add_argument("--nll-samples", type=at_least_1, default=500, help="draws for each test image")
    parser.add_argument("--nll-images", type=at_least_1, default=1000, help="the first test images, for log p(x)")
    arguments = parser.parse_args()
    backend, dataset = start(arguments)
    x, y = mv.binarize(dataset.x_test)[: arguments.nll_images], dataset.y_test[: arguments.nll_images]
    models = {}
    for name, prior in PRIORS.items():
        vae = train(arguments, backend, dataset.x_train, prior)
        models[name] = vae, vae.log_likelihood(x, samples=arguments.nll_samples)
        told = f"{arguments.nll_samples} draws, {len(x)} images of {data_name(arguments, dataset)}"
        print(f"{name}: log p(x) {models[name][1]:.2f} nats ({told})", flush=True)
        vae.save(arguments.out / f"{name.replace(' ', '-')}.safetensors")
    write_json(arguments.out / "result.json", {name: {"log_px": log_px} for name, (_, log_px) in models.items()})
    if not arguments.no_plots:
        save_figures(arguments, priors=draw(models, x, y))
    print(f"results in {arguments.out}")


if __name__ == "__main__":
    command(main)
