"""The true posterior of a VAE with two latent dimensions, by brute force, beside the encoder's q.

    python examples/true_posterior.py --backend numba

In a plane the integral over z that makes VAEs necessary is a sum over a grid. So log p(x), the true posterior
p(z given x), and what the ELBO lacks, log p(x) - ELBO = KL(q || p(z given x)), are known for each digit. The gap has
two parts: the best Gaussian is not the true posterior (approximation), and the encoder does not give the best Gaussian
(amortization). A chain of planar flows, fitted to each digit by itself, then shows what a richer q closes.
The page: docs/book/10-true-posterior.md. Source: Cremer, Li & Duvenaud 2018, "Inference suboptimality in variational
autoencoders", section 3.
"""

import numpy as np
from common import CHECKPOINT, at_least, between, command, data_name, data_parser, save_figures, start, write_json

import minivae as mv
from minivae.model.gaussian import reparameterize, standard_normal_log_prob
from minivae.model.parameters import within
from minivae.progress import progress_bar

GAUSSIAN = mv.DiagonalGaussian()
STANDARD = np.zeros((1, 4), np.float32)  # the statistics of N(0, I) in the plane


def train(arguments, backend, dataset):
    """The tutorial's model, as it was after each of the epochs asked for; all are kept in `--out`."""
    paths = {epoch: arguments.out / f"epoch-{epoch}.safetensors" for epoch in sorted(arguments.epochs)}
    vae = mv.mlp(dataset.x_train[0].size, 2, (256,), backend=backend, seed=arguments.seed)

    def keep(run):
        if run.epoch in paths:
            vae.save(paths[run.epoch])

    mv.fit(
        vae,
        dataset.x_train,
        epochs=max(paths),
        checkpoint=mv.Checkpoint(arguments.out / CHECKPOINT, arguments.resume),
        callbacks=[keep, mv.EpochPrinter()],
    )
    if missed := [epoch for epoch, path in paths.items() if not path.exists()]:
        raise mv.MiniVAEError(f"the training in {arguments.out} went past epoch {missed[0]}: train without --resume")
    return {epoch: mv.load(path, "numpy") for epoch, path in paths.items()}


# ------------------------------------------------------------------------------------------------- the grid


def plane(reach, n):
    """n x n points of the plane, (n, n, 2), up to `reach` on either side, and the area of a cell."""
    axis = np.linspace(-reach, reach, n)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1), (axis[1] - axis[0]) ** 2


def decode(vae, z):
    """The decoder's output for z (N, 2), and the way back."""
    params = dict(vae.parameters) | vae.constants
    out, backward = vae.decoder.forward(within(params, "decoder"), z)
    return out, lambda dout: backward(dout)[0]


def log_joint(vae, x, points):
    """log p(x, z) for each point (n, m, 2) and example x (B, X): (n, m, B), nats.

    A Bernoulli's log-probability is linear in x: log p(x given z) = log p(0 given z) + x.l(z), with the logits l.
    So the decoder runs once for each point, whatever the number of examples.
    """
    rows, nothing = [], np.zeros((1, x.shape[1]), np.float32)
    for z in points.astype(np.float32):
        logits, _ = decode(vae, z)
        log_p0, _ = vae.likelihood.log_prob({}, nothing, logits[:, None])
        rows.append(log_p0 + logits @ x.T + standard_normal_log_prob(z)[0][:, None])
    return np.stack(rows)


def integrate(log_f, cell):
    """The logarithm of the integral of exp(log_f) over the plane by the trapezoid rule; log_f (n, m), a float.

    What lies on the rim counts half, and must be next to nothing: the plane has no end.
    """
    largest = log_f.max()
    f = np.exp(log_f - largest, dtype=np.float64)
    whole, inside = f.sum(), f[1:-1, 1:-1].sum()
    if whole - inside > 1e-6 * whole:
        raise mv.MiniVAEError("the true posterior of a digit reaches the rim: add --resume and a larger --reach")
    return float(np.log((whole + inside) / 2 * cell) + largest)


def moments(points, log_posterior):
    """The Gaussian with the mean and the variances of a posterior on the grid, (n, m), of any sum."""
    p = np.exp(log_posterior - log_posterior.max())[..., None]
    mean = np.sum(p * points, axis=(0, 1)) / p.sum()
    variance = np.sum(p * (points - mean) ** 2, axis=(0, 1)) / p.sum()
    return {"mu": np.float32(mean[None]), "log_var": np.float32(np.log(variance)[None])}


def around_summit(points, log_posterior, log_var):
    """A posterior on the grid without what is farther from its highest point than 3 standard deviations, (1, 2)."""
    summit = points[np.unravel_index(log_posterior.argmax(), log_posterior.shape)]
    near = (np.abs(points - summit) <= 3 * np.exp(0.5 * log_var)).all(axis=-1)
    return np.where(near, log_posterior, -np.inf)


def grid_kl(points, cell, log_posterior, mu, log_var):
    """KL(q || p(z given x)) of one Gaussian q, (2,) each, by summing over the grid; log_posterior (n, m)."""
    log_q = -0.5 * np.sum((points - mu) ** 2 / np.exp(log_var) + log_var + np.log(2 * np.pi), axis=-1)
    return float(np.sum(np.exp(log_q) * (log_q - log_posterior)) * cell)


# ------------------------------------------------------------------------------------------- fitting q to a digit


def nodes(n):
    """Noise eps (n^2, 1, 2) and weights (n^2, 1) whose weighted means stand for means under N(0, I): Gauss-Hermite.

    They are exact for polynomials of degree up to 2n - 1 in each coordinate, so the ELBO of a Gaussian has no sampling
    noise. A flow would learn to bend between so few points: it gets `draws`.
    """
    t, w = np.polynomial.hermite_e.hermegauss(n)
    eps = np.stack(np.meshgrid(t, t, indexing="ij"), axis=-1).reshape(-1, 1, 2)
    weights = np.outer(w, w).reshape(-1, 1)
    return eps.astype(np.float32), (weights / weights.sum()).astype(np.float32)


def draws(rng, n):
    """The same for n draws from N(0, I), whose weights are equal."""
    return rng.standard_normal((n, 1, 2), np.float32), np.full((n, 1), 1 / n, np.float32)


def log_weights(vae, x, q, chain, eps):
    """log p(x, z) - log q(z) at the z made of the noise eps (L, 1, 2), (L, 1); x is one example, (1, X).

    q     : "mu" and "log_var" (1, 2), and the parameters of `chain`
    chain : DiagonalGaussian(), or a FlowPosterior that bends the noise u before  z = mu + std u

    Returns them and backward(dlog_w (L, 1)) -> the gradients by what is in q. From end to start: dz is that of
    log p(x, z);  du = dz std beside what log q gives;  log q(z) = log q(u) - 1/2 sum log_var.
    """
    (u, log_qu), chain_backward = chain.with_log_q(q, STANDARD, eps)
    z, z_backward = reparameterize(q["mu"], q["log_var"], u)
    log_q = log_qu - 0.5 * np.sum(q["log_var"], axis=1)
    log_pz, prior_backward = standard_normal_log_prob(z)
    out, decoder_backward = decode(vae, z[:, 0])
    log_px, likelihood_backward = vae.likelihood.log_prob({}, x, out[:, None])

    def backward(dlog_w):
        dout, _ = likelihood_backward(dlog_w)
        dz = decoder_backward(dout[:, 0])[:, None] + prior_backward(dlog_w)
        dmu, dlog_var = z_backward(dz)
        _, grads = chain_backward(dz * np.exp(0.5 * q["log_var"]), -dlog_w)
        return grads | {"mu": dmu, "log_var": dlog_var + 0.5 * np.sum(dlog_w)}

    return log_px + log_pz - log_q, backward


def elbo(vae, x, q, noise, chain=GAUSSIAN):
    """E_q[log p(x, z) - log q(z)] of one example, nats, as a mean over the noise, a pair of eps and weights."""
    eps, weights = noise
    return float(np.sum(weights * log_weights(vae, x, q, chain, eps)[0]))


def fit(vae, x, q, noise, chain=GAUSSIAN, steps=300, lr=0.02):
    """q with the largest ELBO for one example that Adam finds from q, its rate falling to 0; `noise()` at each step."""
    names, optimizer = list(q), mv.Adam(lr)
    flat = np.concatenate([q[name].ravel() for name in names])
    state = optimizer.fresh_state(flat)
    for step in range(steps):
        eps, weights = noise()
        grads = log_weights(vae, x, q, chain, eps)[1](weights)
        g = -np.concatenate([grads[name].ravel() for name in names])
        flat, state = optimizer.update(g, flat, state | {"lr": np.float32([lr * (1 - step / steps)])})
        values = np.split(flat, np.cumsum([q[name].size for name in names])[:-1])
        q = {name: value.reshape(q[name].shape) for name, value in zip(names, values, strict=True)}
    return q


def importance(vae, x, q, rng, samples=5000):
    """log p(x) of one example by importance sampling, and its standard error.

    The samples are those of q with twice its variance, so that no weight is much larger than the others.
    """
    q = q | {"log_var": q["log_var"] + np.float32(np.log(2))}
    log_w, _ = log_weights(vae, x, q, GAUSSIAN, rng.standard_normal((samples, 1, 2), np.float32))
    largest = log_w.max()
    w = np.exp(log_w.astype(np.float64) - largest)
    return float(np.log(w.mean()) + largest), float(w.std() / w.mean() / np.sqrt(samples))


def look(vae, x, points, cell, arguments, bar):
    """All numbers of each example x (B, X) under one model, by name, and log p(z given x) on the grid."""
    joint = log_joint(vae, x, points)
    log_px = np.array([integrate(joint[..., i], cell) for i in range(len(x))])
    mu, log_var = vae.encode(x)
    rng, chain = np.random.default_rng(arguments.seed), mv.FlowPosterior([mv.Planar(2)] * arguments.flow_steps)
    few, many, rows, ellipses = nodes(10), nodes(40), [], []
    for i, one in enumerate(x[:, None]):
        log_posterior = joint[..., i] - log_px[i]
        encoders = {"mu": mu[i : i + 1], "log_var": log_var[i : i + 1]}
        whole = moments(points, log_posterior)
        # Adam goes to the nearest summit, so it starts from the best of these.
        starts = encoders, whole, moments(points, around_summit(points, log_posterior, encoders["log_var"]))
        start = max(starts, key=lambda q: elbo(vae, one, q, few))
        best = fit(vae, one, start, lambda: few, steps=arguments.fit_steps)
        flow = best | {name: value.astype(np.float32) for name, value in chain.initial(rng).items()}
        flow = fit(vae, one, flow, lambda: draws(rng, 100), chain, steps=2 * arguments.fit_steps)
        sampled, error = importance(vae, one, whole, rng)  # not from `best`, which may sit on one summit of several
        rows.append({
            "log_px": log_px[i],
            "coarse": integrate(joint[::2, ::2, i], 4 * cell),
            "sampled": sampled,
            "error": error,
            "elbo": elbo(vae, one, encoders, many),
            "gaussian": elbo(vae, one, best, many),
            "flow": elbo(vae, one, flow, draws(rng, 10_000), chain),
            "grid_kl": grid_kl(points, cell, log_posterior, mu[i], log_var[i]),
        })  # fmt: skip
        ellipses.append((encoders, best))
        bar.update()
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}, joint - log_px, ellipses


# -------------------------------------------------------------------------------------------------- the results


def gaps(found):
    """The gap and its parts for each example, from the numbers of `look`."""
    return {
        "log p(x)": found["log_px"],
        "ELBO": found["elbo"],
        "gap": found["log_px"] - found["elbo"],
        "amortization": found["gaussian"] - found["elbo"],
        "approximation": found["log_px"] - found["gaussian"],
        "left by a flow": found["log_px"] - found["flow"],
    }


def mean_and_error(values):
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def table(results):
    """The lines of a Markdown table: for each model the means over the examples with standard errors, and medians."""
    columns = list(next(iter(results.values())))
    lines = ["| after epoch | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for epoch, values in results.items():
        means = [f"{mean:.2f} ± {error:.2f}" for mean, error in map(mean_and_error, values.values())]
        medians = [f"{np.median(value):.2f}" for value in values.values()]
        lines += [
            f"| {epoch}, mean | " + " | ".join(means) + " |",
            f"| {epoch}, median | " + " | ".join(medians) + " |",
        ]
    return lines


def draw(images, panels, points):
    """A row for each model and a column for each digit: the true posterior, and both Gaussians at two sigma."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Ellipse

    figure = Figure(figsize=(1.7 * len(images), 1.75 * len(panels) + 1.2), layout="constrained")
    ratios = [0.5] + [1] * len(panels)
    axes = figure.subplots(1 + len(panels), len(images), squeeze=False, height_ratios=ratios)
    for panel, image in zip(axes[0], images, strict=True):
        panel.imshow(image.reshape(28, 28), cmap="gray_r")
        panel.axis("off")
    for row, (epoch, (log_posterior, ellipses)) in zip(axes[1:], panels.items(), strict=True):
        for i, (panel, qs) in enumerate(zip(row, ellipses, strict=True)):
            p = np.exp(log_posterior[..., i] - log_posterior[..., i].max())
            shown = [points[p > 0.01]]
            for q, color in zip(qs, ("tab:red", "black"), strict=True):
                mu, two_std = q["mu"][0], 2 * np.exp(0.5 * q["log_var"][0])
                panel.add_patch(Ellipse(mu, *(2 * two_std), fill=False, color=color, linewidth=1.2, zorder=3))
                shown += [mu + two_std, mu - two_std]
            low, high = np.vstack(shown).min(axis=0), np.vstack(shown).max(axis=0)
            center, half = (low + high) / 2, 0.55 * (high - low).max()
            levels = np.exp([-4.5, -3, -2, -1.125, -0.5, -0.125, 0])  # 3, ..., 1, 1/2 standard deviations of a Gaussian
            panel.contourf(points[:, 0, 0], points[0, :, 1], p.T, levels=levels, cmap="Blues")
            panel.set(xlim=center[0] + [-half, half], ylim=center[1] + [-half, half], aspect="equal")
            panel.locator_params(nbins=3)
            panel.tick_params(labelsize=7)
        row[0].set_ylabel(f"epoch {epoch}")
    lines = [Line2D([], [], color=color) for color in ("tab:red", "black")]
    figure.legend(lines, ["the encoder's q", "the best Gaussian"], loc="outside lower center", ncols=2)
    return figure


def read_arguments():
    parser = data_parser(__doc__.splitlines()[0], "runs/true-posterior", ("mnist", "sample"))
    parser.add_argument("--backend", choices=("auto", "numpy", "numba", "cupy"), default="auto", help="to train on")
    parser.set_defaults(dtype="float32")
    parser.add_argument("--resume", action="store_true", help="go on with the training that is in --out")
    parser.add_argument("--epochs", type=at_least(1), nargs="+", default=[1, 5, 50], help="when to look")
    parser.add_argument("--digits", type=at_least(1), default=30, help="how many test images to look at")
    parser.add_argument("--reach", type=between(1, 1000), default=8.0, help="how far the grid goes from 0 on each axis")
    parser.add_argument("--points", type=at_least(3), default=1001, help="of the grid on each axis")
    parser.add_argument("--flow-steps", type=at_least(1), default=8, help="planar steps of the flow")
    parser.add_argument("--fit-steps", type=at_least(1), default=300, help="of Adam for each digit and each q")
    return parser.parse_args()


def main():
    arguments = read_arguments()
    backend, dataset = start(arguments)
    x = dataset.x_test[: arguments.digits].reshape(-1, dataset.x_test[0].size).astype(np.float32) / 255
    if len(x) < 2:
        raise mv.MiniVAEError("standard errors need two test images, got 1: give a larger --digits or --limit")
    models = train(arguments, backend, dataset)
    points, cell = plane(arguments.reach, arguments.points)
    print(f"{arguments.points} x {arguments.points} points, up to {arguments.reach:g} on either side of 0", flush=True)
    found, panels = {}, {}
    with progress_bar(len(models) * len(x), "digit") as bar:
        for epoch, vae in models.items():
            found[epoch], log_posterior, ellipses = look(vae, x, points, cell, arguments, bar)
            panels[epoch] = log_posterior[..., :5].copy(), ellipses[:5]
    results = {epoch: gaps(values) for epoch, values in found.items()}
    checks = {
        "grid, against one of twice the spacing": float(
            max(np.abs(v["log_px"] - v["coarse"]).max() for v in found.values())
        ),
        "log p(x) - ELBO, against KL(q || p(z given x)) on the grid": float(
            max(np.abs(v["log_px"] - v["elbo"] - v["grid_kl"]).max() for v in found.values())
        ),
    }
    away = np.concatenate([(v["sampled"] - v["log_px"]) / v["error"] for v in found.values()])
    off = float(np.sqrt(np.mean(away**2)))
    every = {epoch: {name: value.tolist() for name, value in values.items()} for epoch, values in results.items()}
    write_json(arguments.out / "result.json", {"nats": every, "checks": checks | {"importance sampling": off}})
    if not arguments.no_plots:
        save_figures(arguments, true_posterior=draw(x[:5], panels, points))
    print(f"results in {arguments.out}")
    for name, value in checks.items():
        print(f"{name}: {value:.1e} nats apart at most")
    print(f"importance sampling: {off:.2f} of its standard errors off, root mean square")
    print(f"nats on {data_name(arguments, dataset)}, {len(x)} test digits, mean ± standard error:")
    print("\n".join(table(results)))


if __name__ == "__main__":
    command(main)
