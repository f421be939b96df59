"""What holds codes where the prior is: the KL, nothing, or the maximum mean discrepancy. Codes of digits in a plane.

    python examples/info_vae.py --data-dir DIR

All models are 784-256-2-256-784 and trained alike, apart from beta and MMD. Beside the figure of their codes stand the
reconstruction, the discrepancy of all codes from N(0, I), and what the KL is made of on 2,000 test digits: how much z
says about x, and how far its dimensions go together. Sources: Zhao, Song & Ermon 2019, "InfoVAE"; Tolstikhin, Bousquet,
Gelly & Schoelkopf 2018, "Wasserstein auto-encoders".
"""

import numpy as np
from common import at_least_1, command, data_name, model_parser, save_figures, start, write_json

import minivae as mv
from minivae.zoo.mmd import maximum_mean_discrepancy

WEIGHT, IMAGES = 500.0, 2000
OBJECTIVES = {
    "VAE": {},
    "autoencoder: beta = 0": {"beta": 0.0},
    "WAE: beta = 0, MMD": {"beta": 0.0, "regulariser": mv.MMD(WEIGHT)},
    "InfoVAE: beta = 0.2, MMD": {"beta": 0.2, "regulariser": mv.MMD(WEIGHT)},
}


def train(arguments, backend, x_train, objective):
    n_in = int(np.prod(x_train.shape[1:]))
    vae = mv.mlp(n_in, 2, backend=backend, dtype=arguments.dtype, seed=arguments.seed, **objective)
    schedules = {"lr": lambda epoch: 1e-3 if epoch <= 0.8 * arguments.epochs else 2e-4}
    mv.fit(vae, x_train, epochs=arguments.epochs, batch_size=100, optimizer=mv.Adam(1e-3), schedules=schedules)
    return vae


def measure(vae, x):
    mu, log_var = vae.encode(x)
    z = mu + np.exp(0.5 * log_var) * np.random.default_rng(0).standard_normal(mu.shape)
    discrepancy = float(maximum_mean_discrepancy(z[None], (0.25, 1.0, 4.0))[0].mean())
    return {"reconstruction": vae.evaluate(x).reconstruction, "mmd": discrepancy, **vars(mv.kl_parts(vae, x))}


def draw(models, x, y):
    """A panel for each model: the codes by digit, around the circles of 1, 2 and 3 standard deviations of N(0, I)."""
    from matplotlib.figure import Figure

    from minivae.views.plots import latent_space

    figure = Figure(figsize=(5 * len(models), 5.4), layout="constrained")
    for axes, (name, (vae, row)) in zip(figure.subplots(1, len(models)), models.items(), strict=True):
        latent_space(vae, x, y, ax=axes)
        axes.set_title(f"{name}\nreconstruction {row['reconstruction']:.1f} nats, MMD {row['mmd']:.4f}")
    return figure


def main():
    parser = model_parser(__doc__.splitlines()[0], "runs/info-vae", ("mnist", "fashion-mnist", "sample"))
    parser.add_argument("--epochs", type=at_least_1, default=10)
    arguments = parser.parse_args()
    backend, dataset = start(arguments)
    x, y = dataset.x_test[:IMAGES].reshape(-1, dataset.x_test[0].size), dataset.y_test[:IMAGES]
    models = {}
    for name, objective in OBJECTIVES.items():
        vae = train(arguments, backend, dataset.x_train, objective)
        models[name] = vae, measure(vae, x)
        told = ", ".join(f"{key} {value:.4g}" for key, value in models[name][1].items())
        print(f"{name}: {told} ({len(x)} images of {data_name(arguments, dataset)})", flush=True)
    write_json(arguments.out / "result.json", {name: row for name, (_, row) in models.items()})
    if not arguments.no_plots:
        save_figures(arguments, info_vae=draw(models, x, y))
    print(f"results in {arguments.out}")


if __name__ == "__main__":
    command(main)
