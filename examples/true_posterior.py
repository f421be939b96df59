"""The true posterior p(z given x) of a two-dimensional latent space by brute force, beside q, and what q costs.

    python examples/true_posterior.py --backend numba

For each digit log p(x, z) is summed over a grid of z, which gives log p(x). Then, in nats,
    amortization gap = best ELBO of any diagonal Gaussian - the encoder's ELBO
    approximation gap = log p(x) - best ELBO of any diagonal Gaussian.
Source of the two gaps: Cremer, Li & Duvenaud 2018.
"""

import numpy as np
from common import command, recipe_parser, write_json

import minivae as mv
from minivae import data
from minivae.model.gaussian import standard_normal_log_prob
from minivae.model.likelihoods import bernoulli_log_prob
from minivae.model.parameters import within

EPOCHS = 1, 5, 20  # after which we look


def log_joint_on_grid(vae, x, n=401, reach=5.0, rows=4000):
    """The axis of the grid, log p(x, z) on it, (B, n, n) with z_1 along the last axis, and log p(x), (B,)."""
    axis = np.linspace(-reach, reach, n)
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    params, parts = within(vae.parameters.to_host(), "decoder"), []
    for start in range(0, len(z), rows):
        logits, _ = vae.decoder.forward(params, z[start : start + rows].astype(np.float32))
        parts.append(x @ logits.T - np.logaddexp(logits, 0).sum(axis=1))
    log_joint = np.concatenate(parts, axis=1).astype(float) + standard_normal_log_prob(z)[0]
    largest = log_joint.max(axis=1, keepdims=True)
    log_px = largest[:, 0] + np.log(np.exp(log_joint - largest).sum(axis=1)) + 2 * np.log(axis[1] - axis[0])
    return axis, log_joint.reshape(-1, n, n), log_px


class OneDigit:
    """The ELBO of one x as a function of the posterior's statistics and parameters, all free."""

    def __init__(self, vae, x, posterior, stats, seed=0):
        self.decoder, self.x, self.posterior = vae.decoder, x[None], posterior
        self.decoder_params = within(vae.parameters.to_host(), "decoder")
        self.rng = np.random.default_rng(seed)
        self.p = {"stats": stats[None].astype(float)} | posterior.initial(np.random.default_rng(seed))

    def elbo(self, samples):
        """The ELBO, and its gradient by name."""
        eps = self.rng.standard_normal((samples, 1, 2))
        params = {name: value for name, value in self.p.items() if name != "stats"} | self.posterior.constant_arrays()
        (z, log_q), posterior_backward = self.posterior.with_log_q(params, self.p["stats"], eps)
        log_pz, prior_backward = standard_normal_log_prob(z)
        logits, decoder_backward = self.decoder.forward(self.decoder_params, z[:, 0])
        log_px, likelihood_backward = bernoulli_log_prob(self.x, logits[:, None])

        def backward():
            share = np.full((samples, 1), 1 / samples)
            dz, _ = decoder_backward(likelihood_backward(share)[:, 0])
            dstats, grads = posterior_backward(dz[:, None] + prior_backward(share), -share)
            return {"stats": dstats} | grads

        return float((log_px + log_pz - log_q).mean()), backward

    def fit(self, steps=400, samples=32):
        """Climb by Adam with a falling learning rate."""
        adam = mv.Adam()
        states = {name: adam.fresh_state(value) for name, value in self.p.items()}
        for step in range(steps):
            _, backward = self.elbo(samples)
            lr = np.full(1, 0.03 * (1 - step / steps))
            for name, gradient in backward().items():
                self.p[name], states[name] = adam.update(-gradient, self.p[name], states[name] | {"lr": lr})
        return self


def gaps(vae, x):
    """The numbers of each digit, a list of dicts in nats, and what there is to draw."""
    mu, log_var = vae.encode(x)
    axis, log_joint, log_px = log_joint_on_grid(vae, x)
    rows, ellipses = [], []
    for i, stats in enumerate(np.concatenate([mu, log_var], axis=1)):
        amortized = OneDigit(vae, x[i], mv.DiagonalGaussian(), stats)
        row = {"log_px": log_px[i], "encoder": amortized.elbo(4000)[0]}
        best = amortized.fit()
        row["best_gaussian"] = best.elbo(4000)[0]
        flow = OneDigit(vae, x[i], mv.FlowPosterior([mv.Planar(2) for _ in range(4)]), best.p["stats"][0])
        row["flow"] = flow.fit().elbo(4000)[0]
        row["amortization_gap"] = row["best_gaussian"] - row["encoder"]
        row["approximation_gap"] = row["log_px"] - row["best_gaussian"]
        rows.append({name: round(float(value), 3) for name, value in row.items()})
        ellipses.append((stats, best.p["stats"][0]))
    return rows, (axis, log_joint, ellipses)


def draw(stages):
    """A row for each stage of training: the true posterior, the encoder's ellipse and the best one, at 2 sigma."""
    from matplotlib.figure import Figure

    columns = len(stages[0][1][2])
    figure = Figure(figsize=(2.6 * columns, 2.8 * len(stages)), layout="constrained")
    angle = np.linspace(0, 2 * np.pi, 100)
    for row, (epoch, (axis, log_joint, ellipses)) in zip(
        figure.subplots(len(stages), columns, squeeze=False), stages, strict=True
    ):
        for axes, joint, pair in zip(row, log_joint, ellipses, strict=True):
            axes.contourf(axis, axis, np.exp(joint - joint.max()), levels=12, cmap="Greys")
            for stats, colour, name in zip(pair, ("tab:red", "tab:blue"), ("encoder", "best Gaussian"), strict=True):
                std = np.exp(0.5 * stats[2:])
                points = stats[:2, None] + 2 * std[:, None] * np.stack([np.cos(angle), np.sin(angle)])
                axes.plot(*points, color=colour, linewidth=1, label=name)
            centre, reach = pair[1][:2], 5 * np.exp(0.5 * pair[1][2:]).max()
            axes.set(xlim=centre[0] + np.array([-reach, reach]), ylim=centre[1] + np.array([-reach, reach]))
        row[0].set_ylabel(f"epoch {epoch}")
    figure.axes[0].legend(fontsize=7)
    return figure


def main():
    parser = recipe_parser(__doc__.split("\n")[0], "results/true-posterior", ("mnist", "sample"))
    arguments = parser.parse_args()
    dataset = data.load(arguments.dataset, arguments.data_dir, limit=arguments.limit)
    vae = mv.VAE(
        [mv.Dense(784, 256), mv.ReLU(), mv.Dense(256, 4)],
        [mv.Dense(2, 256), mv.ReLU(), mv.Dense(256, 784)],
        backend=arguments.backend, seed=arguments.seed,
    )  # fmt: skip
    x = mv.binarize(dataset.x_test[:4]).reshape(4, -1).astype(np.float32) / 255
    stages, table, before = [], {}, 0
    for epoch in EPOCHS:
        mv.fit(vae, dataset.x_train, epochs=epoch - before, binarize=True, seed=epoch, optimizer=mv.RMSprop())
        before = epoch
        table[epoch], drawn = gaps(vae, x)
        stages.append((epoch, drawn))
        for row in table[epoch]:
            print(epoch, row, flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / "result.json", table)
    draw(stages).savefig(arguments.out / "true_posterior.png", dpi=80)


if __name__ == "__main__":
    command(main)
