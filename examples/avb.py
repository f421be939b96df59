"""Adversarial variational Bayes: posteriors of any shape beside Gaussian ones, on four points and on digits.

    python examples/avb.py                                                   four points, two latent dimensions
    python examples/avb.py --dataset mnist --latent-dim 8 --data-dir DIR     digits

The four points are the toy of the paper: four pixels, of which one is white. With two latent dimensions each point
wants a quarter of the prior for itself, which no Gaussian is the shape of. log p(x) is a sum over a grid there, at most
-log 4 = -1.386, and the KL is looked at once more, without the discriminator: by counting draws in 30 x 30 cells.
Before that, three Gaussians, whose KL is known, show how near to it a discriminator comes that has seen only draws.

Digits are drawn black or white anew in every epoch, those for testing once. log p(x) is by importance sampling, with
draws from a Gaussian of the mean and the covariance of q(z given x): it owes nothing to the discriminator. The ELBO
does, where the posterior is implicit; of the true KL one knows that it is not below that Gaussian's.

Source: Mescheder, Nowozin & Geiger 2017, "Adversarial variational Bayes". Its networks for digits are others.
"""

import time
from itertools import product

import numpy as np
from common import at_least_1, command, data_name, layers, model_parser, own_folder, save_figures, start, write_json
from scipy import special

import minivae as mv
from minivae.model.gaussian import gaussian_kl, standard_normal_log_prob
from minivae.model.parameters import within

POSTERIORS = ("gaussian", "implicit", "adaptive")
CELLS = 30
DEFAULTS = {  # of the four points, and of digits
    True: {"epochs": 500, "hidden": 64, "lr": 5e-4, "batch_size": 4, "samples": 64, "draws": 50_000},
    False: {"epochs": 50, "hidden": 256, "lr": 5e-4, "batch_size": 100, "samples": 1}
    | {"data_dir": None, "limit": None, "latent_dim": 2, "nll_samples": 1000, "nll_images": 1000},
}


def build(posterior, n_in, latent, hidden, **where):
    if posterior == "gaussian":  # the networks of `mv.avb`, and its initial weights, which count in short runs
        encoder = layers(n_in, hidden, hidden, 2 * latent, init="he_normal")
        return mv.VAE(encoder, layers(latent, hidden, hidden, n_in, init="he_normal"), **where)
    return mv.avb(n_in, latent, hidden, adaptive=posterior == "adaptive", **where)


def train(arguments, vae, x, **options):
    """Adam, with a rate that falls to a tenth for the last quarter; a short memory, beta1, suits the game better."""
    epochs, lr = arguments.epochs, arguments.lr
    return mv.fit(
        vae,
        x,
        epochs=epochs,
        batch_size=arguments.batch_size,
        samples=arguments.samples,
        optimizer=mv.Adam(lr, beta1=0.5),
        schedules={"lr": lambda epoch: lr if epoch <= 0.75 * epochs else 0.1 * lr},
        **options,
    )


# -------------------------------------------------------------------------------------------------- Gaussians

MU, LOG_VAR = np.array([[1.2, 0.0], [-0.5, 0.9], [0.1, -1.4]]), np.array([[-1.5, -0.4], [-2.0, 0.2], [-0.5, -1.0]])


def kl_of_gaussians(correlation, adaptive, seed, steps, draws):
    """KL from N(0, I) of three Gaussians in the plane, exact and by a discriminator: (3,) each, nats.

    Noise is mixed, but not bent: q = N(mu, S R S) with S = diag(std) and the correlation in R, whose
        KL = 1/2 sum_d (mu_d^2 + var_d - log_var_d - 1) - 1/2 log(1 - correlation^2)
    Adaptive contrast takes mean and covariance for known, and so leaves T nothing to learn but that.
    """
    T = [mv.Dense(6, 16), mv.Tanh(), mv.Dense(16, 16), mv.Tanh(), mv.Dense(16, 1)]
    posterior = mv.ImplicitPosterior([mv.Dense(2, 2)], [mv.Dense(3, 4)], T, adaptive)
    rng, adam, states = np.random.default_rng(seed), mv.Adam(), {}
    params = posterior.initial(rng) | posterior.constant_arrays() | {"noise.0.W": np.eye(2)}
    root = np.array([[1, 0], [correlation, np.sqrt(1 - correlation**2)]])
    A = np.exp(LOG_VAR / 2)[:, :, None] * root * np.sqrt(2)  # which the posterior divides by that again
    stats = np.concatenate([MU, A.reshape(3, 4), np.eye(3)], axis=1)  # x says which of the three it is
    for step in range(steps):
        _, backward = posterior.own_loss(params, stats, rng.standard_normal((200, 3, 2)))
        for name, grad in backward(np.ones(3)).items():
            state = states.get(name) or adam.fresh_state(grad)
            rate = {"lr": np.full(1, 4e-3 * (1 - step / steps))}
            new, states[name] = adam.update(grad, params[name], state | rate)
            params = params | {name: new}
    (z, log_q), _ = posterior.with_log_q(params, stats, rng.standard_normal((draws, 3, 2)))
    exact, _ = gaussian_kl(MU, LOG_VAR)
    return exact - 0.5 * np.log1p(-(correlation**2)), np.mean(log_q - standard_normal_log_prob(z)[0], axis=0)


def gaussians(arguments):
    """A row for each kind of Gaussian, contrast and seed: three KLs, exact and estimated, and the errors."""
    rows = []
    print("KL of three Gaussians, nats  exact                estimate             errors in percent")
    seeds = range(arguments.seed, arguments.seed + 3)
    for correlation, adaptive, seed in product((0.0, 0.8), (False, True), seeds):
        exact, told = kl_of_gaussians(correlation, adaptive, seed, 4 * arguments.epochs, arguments.draws)
        row = {"correlation": correlation, "adaptive": adaptive, "seed": seed}
        values = {"exact": exact, "estimate": told, "error_percent": 100 * (told / exact - 1)}
        rows.append(row | {key: value.round(3).tolist() for key, value in values.items()})
        name = f"{correlation}, {'adaptive' if adaptive else 'against N(0, I)'}, seed {seed}"
        print(f"{name:28}", *("".join(f"{each:7.3f}" for each in value) for value in values.values()), flush=True)
    return rows


# ------------------------------------------------------------------------------------------------ four points


def draw_posterior(vae, x, samples):
    """Draws z (L, B, D) from q(z given x), and what is taken for log q of each, (L, B)."""
    params = dict(vae.parameters) | vae.constants
    eps = np.random.default_rng(0).standard_normal((samples, len(x), vae.latent_dim))
    x, eps = (vae.backend.asarray(array, vae.dtype) for array in (x, eps))
    stats, _ = vae.encoder.forward(within(params, "encoder"), x)
    (z, log_q), _ = vae.posterior.with_log_q(within(params, "posterior"), stats, eps)
    return vae.backend.to_host(z), vae.backend.to_host(log_q)


def least_kl(vae, x, samples=1000):
    """The KL from N(0, I) of Gaussians with the mean and the covariance of draws from q(z given x); nats per example.

    No q of this mean and covariance has a smaller KL: E log p(z) depends on nothing else, and a Gaussian has the most
    entropy.
    """
    kls = []
    for part in np.array_split(x, -(-len(x) // 100)):
        z, _ = draw_posterior(vae, part, samples)
        mean = z.mean(axis=0)
        S = np.einsum("lbi,lbj->bij", z - mean, z - mean) / samples
        trace, log_det = np.trace(S, axis1=1, axis2=2), np.linalg.slogdet(S)[1]
        kls.extend(0.5 * (trace + np.sum(mean**2, axis=1) - log_det - vae.latent_dim))
    return float(np.mean(kls))


def log_bernoulli(x, mean):
    """log p(x given z) of x (B, X) with pixels 0 or 1, for means (N, X): (N, B), nats."""
    mean = np.clip(mean.astype(np.float64), 1e-15, 1 - 1e-15)
    return np.log(mean) @ x.T + np.log1p(-mean) @ (1 - x.T)


def counted_kl(z):
    """KL from N(0, I) of the distribution that z (N, 2) were drawn from, by counting in cells that are alike under it.

    sum_i q_i log(q_i / p_i). Coarse cells lower it; drawing by chance raises it, by at most about CELLS^2 / 2N.
    """
    u = special.ndtr(z.astype(np.float64))
    counts, *_ = np.histogram2d(u[:, 0], u[:, 1], bins=CELLS, range=[[0, 1], [0, 1]])
    q = counts / len(z)
    return float(np.sum(special.xlogy(q, q * CELLS**2)))


def judge(vae, x, draws):
    """What a model of points x (B, X) in two latent dimensions is worth, in nats per point; and draws of z."""
    levels = special.ndtri((np.arange(200) + 0.5) / 200)
    grid = np.stack(np.meshgrid(levels, levels), axis=-1).reshape(-1, 2)
    log_px = special.logsumexp(log_bernoulli(x, vae.decode(grid)), axis=0) - np.log(len(grid))
    z, log_q = draw_posterior(vae, x, draws)
    log_pz = -0.5 * np.sum(z**2 + np.log(2 * np.pi), axis=-1)
    means = [vae.decode(z[:, b]) for b in range(len(x))]
    error = -np.mean([log_bernoulli(x[b : b + 1], mean) for b, mean in enumerate(means)])
    kl, counted = float(np.mean(log_q - log_pz)), float(np.mean([counted_kl(z[:, b]) for b in range(len(x))]))
    result = {
        "log_px": float(log_px.mean()),
        "reconstruction": float(error),
        "kl": kl,
        "kl_counted": counted,
        "elbo": -error - kl,
        "elbo_counted": -error - counted,
        "kl_of_average": counted_kl(z.reshape(-1, 2)),
    }
    return {name: round(float(value), 4) for name, value in result.items()}, z


def draw_points(results):
    """A panel for each posterior: draws of z for each of the points, in colours."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(results), 4.6), layout="constrained")
    for axes, (name, (result, z)) in zip(np.atleast_1d(figure.subplots(1, len(results))), results.items(), strict=True):
        for b in range(z.shape[1]):
            axes.plot(*z[:2000, b].T, ".", markersize=2)
        axes.set(title=f"{name}: log p(x) {result['log_px']:.3f} nats", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect=1)
        axes.set(xlabel="z1", ylabel="z2")
    return figure


def four_points(arguments):
    own_folder(arguments)
    estimates = gaussians(arguments)
    x, results = np.eye(4, dtype=np.float32), {}
    print(f"at best, log p(x) is -log 4 = {-np.log(4):.3f} nats")
    for name in arguments.posteriors:
        where = {"backend": arguments.backend, "dtype": arguments.dtype, "seed": arguments.seed}
        vae = build(name, 4, 2, arguments.hidden, **where)
        train(arguments, vae, np.tile(x, (25, 1)))
        results[name] = judge(vae, x, arguments.draws)
        told = ", ".join(f"{key} {value:.3f}" for key, value in results[name][0].items())
        print(f"{name}: {told}", flush=True)
        vae.save(arguments.out / f"{name}.safetensors")
    judged = {name: result for name, (result, _) in results.items()}
    write_json(arguments.out / "result.json", judged | {"gaussians": estimates})
    if not arguments.no_plots:
        save_figures(arguments, posteriors=draw_points(results))


# ----------------------------------------------------------------------------------------------------- digits


def digits(arguments):
    backend, dataset = start(arguments)
    x, results = mv.binarize(dataset.x_test), {}
    for name in arguments.posteriors:
        n_in = int(np.prod(dataset.x_train.shape[1:]))
        where = {"backend": backend, "dtype": arguments.dtype, "seed": arguments.seed}
        vae = build(name, n_in, arguments.latent_dim, arguments.hidden, **where)
        begin = time.perf_counter()
        curve = mv.CSVWriter(arguments.out / f"metrics-{name}.csv", "test")
        callbacks = [mv.EpochPrinter("test"), curve]
        train(arguments, vae, dataset.x_train, validation=x, binarize="dynamic", callbacks=callbacks)
        seconds, losses = time.perf_counter() - begin, vae.evaluate(x)
        some = x[: arguments.nll_images]
        results[name] = {
            "log_px": vae.log_likelihood(some, samples=arguments.nll_samples),
            "elbo": -losses.negative_elbo,
            "kl": losses.kl,
            "kl_of_those": vae.evaluate(some).kl,
            "kl_of_those_at_least": least_kl(vae, (some > 0).reshape(len(some), -1)),
            "seconds": seconds,
        }
        told = f"{arguments.nll_samples} draws, {len(some)} images of {data_name(arguments, dataset)}"
        bound = "ELBO" if name == "gaussian" else "ELBO, as the discriminator has it,"
        print(f"{name}: log p(x) {results[name]['log_px']:.2f} nats ({told}); {bound} {results[name]['elbo']:.2f}")
        kl, least = results[name]["kl_of_those"], results[name]["kl_of_those_at_least"]
        print(f"KL of those images {kl:.2f}, by mean and covariance of draws at least {least:.2f}")
        vae.save(arguments.out / f"{name}.safetensors")
        if not arguments.no_plots:
            from minivae.views.plots import samples

            save_figures(arguments, **{f"samples-{name}": samples(vae, n=100, seed=arguments.seed)})
    write_json(arguments.out / "result.json", results)


def main():
    parser = model_parser(__doc__.splitlines()[0], "runs/avb", ("four-points", "mnist", "fashion-mnist", "sample"))
    parser.add_argument("--posteriors", nargs="+", choices=POSTERIORS, default=POSTERIORS, help="which to train")
    parser.add_argument("--latent-dim", type=at_least_1, help="for digits; 2 unless given")
    parser.add_argument("--epochs", type=at_least_1, help="of 25 steps for the four points")
    parser.add_argument("--draws", type=at_least_1, help="for each of the four points; 50,000 unless given")
    parser.add_argument("--nll-samples", type=at_least_1, help="draws for each test image; 1000 unless given")
    parser.add_argument("--nll-images", type=at_least_1, help="the first test images, for log p(x); 1000 unless given")
    arguments = parser.parse_args()
    toy = arguments.dataset == "four-points"
    for name in DEFAULTS[not toy].keys() - DEFAULTS[toy].keys():
        if getattr(arguments, name) is not None:
            parser.error(f"--{name.replace('_', '-')} means nothing for --dataset {arguments.dataset}: leave it out")
    for name, value in DEFAULTS[toy].items():
        setattr(arguments, name, getattr(arguments, name, None) or value)
    four_points(arguments) if toy else digits(arguments)
    print(f"results in {arguments.out}")


if __name__ == "__main__":
    command(main)
