"""A posterior shaped like a crescent, fitted by a diagonal Gaussian and by a chain of flows, and drawn.

    python examples/flow_posterior.py --flow planar

The model has nothing to learn: z is N(0, I) in the plane, and x is z_2 + z_1^2 seen through Gaussian noise. Given
one x, z lies along a parabola. Since log p(x) = ELBO + KL(q || p(z given x)), what a bound lacks of the exact log p(x)
is how far q is from the true posterior. Flows: Rezende & Mohamed 2015; Kingma et al. 2016.
"""

import argparse
from pathlib import Path

import numpy as np
from common import at_least_1, command, own_folder, save_figures, write_json

import minivae as mv
from minivae.model.parameters import within

X, NOISE_STD = 1.0, 0.25


class Parabola(mv.Layer):
    """y = z_2 + z_1^2 for z (B, 2): any layer is a forward pass and its backward pass."""

    input_shape = (2,)

    def output_shape(self, input_shape):
        return (1,)

    def forward(self, params, z):
        z_1, z_2 = z[:, :1], z[:, 1:]

        def backward(dy):
            return np.concatenate([2 * z_1 * dy, dy], axis=1), {}  # dz, and no parameters

        return z_2 + z_1**2, backward


def grid(n=801, reach=4.0):
    """Points of the plane, log p(x, z) there, and the exact log p(x), by summing over the grid."""
    axis = np.linspace(-reach, reach, n)
    z_1, z_2 = np.meshgrid(axis, axis)
    log_pz = -0.5 * (z_1**2 + z_2**2) - np.log(2 * np.pi)
    residual = (X - z_2 - z_1**2) / NOISE_STD
    log_joint = log_pz - 0.5 * residual**2 - np.log(NOISE_STD) - 0.5 * np.log(2 * np.pi)
    return z_1, z_2, log_joint, np.log(np.exp(log_joint).sum()) + 2 * np.log(axis[1] - axis[0])


def fit(arguments, posterior):
    """A VAE whose one observation is X, its posterior fitted by the ELBO with sampled KL."""
    vae = mv.VAE(
        encoder=[mv.Dense(1, 4)],
        decoder=[Parabola()],
        likelihood=mv.Gaussian(NOISE_STD),
        posterior=posterior,
        kl="monte-carlo",
        seed=arguments.seed,
    )
    x = np.full((10_000, 1), X, np.float32)
    optimizer, schedules = mv.ClipNorm(mv.Adam(1e-2), 10.0), {"lr": lambda epoch: 1e-2 * 0.9**epoch}
    mv.fit(vae, x, epochs=arguments.epochs, samples=10, optimizer=optimizer, schedules=schedules)
    elbo = -vae.evaluate(x[:2000], samples=20).loss
    log_p = vae.log_likelihood(x[:20], samples=2000)
    return draws(vae, 4000), elbo, log_p


def draws(vae, n):
    """n draws of z given X, (n, 2)."""
    params, eps = dict(vae.parameters) | vae.constants, np.random.default_rng(1).standard_normal((n, 1, 2), np.float32)
    stats, _ = vae.encoder.forward(within(params, "encoder"), np.full((1, 1), X, np.float32))
    (z, _), _ = vae.posterior.with_log_q(within(params, "posterior"), stats, eps)
    return z[:, 0]


def draw(samples, density, log_px):
    """One panel for each fitted posterior: its draws on the contours of the true one."""
    from matplotlib.figure import Figure

    z_1, z_2, log_joint, _ = density
    figure = Figure(figsize=(4.2 * len(samples), 4.4), layout="constrained")
    for axes, (name, (z, elbo, _)) in zip(figure.subplots(1, len(samples), sharey=True), samples.items(), strict=True):
        axes.plot(z[:, 0], z[:, 1], ".", color="tab:blue", markersize=2, alpha=0.4)
        levels = log_joint.max() + np.array([-6, -4, -2, -0.5])
        axes.contour(z_1, z_2, log_joint, levels=levels, colors="black", linewidths=0.8, linestyles="solid")
        axes.set(xlim=(-3, 3), ylim=(-4, 3), xlabel="$z_1$", aspect="equal")
        axes.set_title(f"{name}\nKL(q || true posterior) = {log_px - elbo:.2f} nats")
    figure.axes[0].set_ylabel("$z_2$")
    figure.suptitle("Draws from q (dots) and the true posterior (contours)")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flow", choices=("planar", "iaf"), default="planar")
    parser.add_argument("--steps", type=at_least_1, default=8, help="of the chain")
    parser.add_argument("--epochs", type=at_least_1, default=30, help="100 optimizer steps each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/flow-posterior"))
    parser.add_argument("--no-plots", action="store_true")
    arguments = parser.parse_args()
    own_folder(arguments)
    make = {
        "planar": lambda i: mv.Planar(2),
        "iaf": lambda i: mv.InverseAutoregressive(2, 32, reverse=i % 2 == 1),
    }[arguments.flow]
    name = f"{arguments.steps} {'planar' if arguments.flow == 'planar' else 'inverse autoregressive'} steps"
    posteriors = {
        "diagonal Gaussian": mv.DiagonalGaussian(),
        name: mv.FlowPosterior([make(i) for i in range(arguments.steps)]),
    }
    density = grid()
    log_px = density[-1]
    print(f"exact log p(x) {log_px:.3f} nats")
    fitted = {name: fit(arguments, posterior) for name, posterior in posteriors.items()}
    for name, (_, elbo, log_p) in fitted.items():
        print(f"{name}: ELBO {elbo:.3f}, importance-sampled log p(x) {log_p:.3f} nats")
    results = {name: {"elbo": elbo, "log_px": log_p} for name, (_, elbo, log_p) in fitted.items()}
    write_json(arguments.out / "result.json", {"exact_log_px": log_px} | results)
    if not arguments.no_plots:
        save_figures(arguments, flow_posterior=draw(fitted, density, log_px))
    print(f"results in {arguments.out}")


if __name__ == "__main__":
    command(main)
