"""The reparameterization step and the Gaussian KL, looked at one by one.

    python examples/reparameterization.py

1. A draw from N(mu, s^2) and mu + s eps with eps from N(0, 1) are the same random variable; but only the second has
   a derivative by mu and s. With s^2 in place of s, a common mistake, it is another one.
2. A deterministic function makes a complicated distribution from a simple one: z / 10 + z / |z| bends a Gaussian
   into a ring. The decoder of a VAE is such a function. Source: Doersch 2016, figure 2.
3. KL(N(mu, S) || N(m, P)) with full covariances, against the diagonal special case that minivae trains with and
   against a mean over samples of log q - log p.
4. Two estimates of the gradient of E_q[f(z)] by mu from one draw of z: the slope of f at z = mu + s eps, and f(z) times
   eps / s, the score of q, with and without the mean of f taken off. All are right on average; how far do they
   scatter? For f = |z|^2 / 2 by the number of dimensions, and for f = -log p(x given z) of VAEs trained for an epoch.
   Source: Kingma & Welling 2014, section 2.2; Williams 1992. Derivation: docs/book/03-reparameterization.md.
"""

import argparse
from pathlib import Path

import numpy as np
from common import at_least, at_least_1, command, own_folder, save_figures
from matplotlib.figure import Figure
from scipy import stats

import minivae as mv
from minivae import data
from minivae.model.gaussian import gaussian_kl, reparameterize
from minivae.model.parameters import within

MU, STD = 2.0, 0.5
ESTIMATES = {"slope of f at mu + s eps": "tab:blue", "score": "tab:red", "score, less the mean of f": "tab:orange"}
DIMENSIONS, LATENTS, DIGITS = (1, 2, 4, 8, 16, 32, 64), (2, 8, 32), 8


def two_samplers(rng, n):
    """n draws from N(MU, STD^2) by NumPy, by the reparameterization step, and by the step with the mistake."""
    eps = rng.standard_normal((n, 1, 1))
    mu, std = np.full((1, 1), MU), np.full((1, 1), STD)
    z, _ = reparameterize(mu, 2 * np.log(std), eps)
    return rng.normal(MU, STD, n), z.ravel(), MU + STD**2 * eps.ravel()


def report_samplers(direct, z, mistaken):
    print(f"1. N({MU:g}, {STD:g}^2) with {len(z):,} draws; Kolmogorov-Smirnov distance to the true distribution")
    bound = stats.kstwobign.ppf(0.999) / np.sqrt(len(z))
    print(f"   expected: below {bound:.4f} for a right sampler (999 times in 1,000)")
    for name, draws in (("numpy.normal", direct), ("mu + s eps", z), ("mu + s^2 eps", mistaken)):
        distance = stats.kstest(draws, stats.norm(MU, STD).cdf).statistic
        print(f"   {name:12}  mean {draws.mean():.4f}  std {draws.std():.4f}  distance {distance:.4f}")


def draw_samplers(direct, z, mistaken):
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    line = np.linspace(MU - 4 * STD, MU + 4 * STD, 200)
    titles = f"z ~ N({MU:g}, {STD:g}²)", "z = mu + s eps", "the mistake: z = mu + s² eps"
    for ax, draws, title in zip(figure.subplots(1, 3, sharey=True), (direct, z, mistaken), titles, strict=True):
        ax.hist(draws, bins=80, range=(line[0], line[-1]), density=True, color="#9fc5e8")
        ax.plot(line, stats.norm.pdf(line, MU, STD), "k", label=f"density of N({MU:g}, {STD:g}²)")
        ax.set(title=title, xlabel="z", ylabel="density")
        ax.legend(fontsize=8)
    return figure


def warp(z):
    return z / 10 + z / np.linalg.norm(z, axis=1, keepdims=True)


def draw_warp(z):
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    titles = "z ~ N(0, I)", "g(z) = z / 10 + z / |z|"
    for ax, points, title in zip(figure.subplots(1, 2), (z, warp(z)), titles, strict=True):
        # The colour is the angle of z, so that one sees where each point goes.
        ax.scatter(*points.T, s=6, c=np.arctan2(*z.T), cmap="twilight", linewidths=0)
        ax.set(title=title, xlabel="1st coordinate", ylabel="2nd coordinate", aspect="equal")
    return figure


def full_gaussian_kl(mu, S, m, P):
    """KL(N(mu, S) || N(m, P)) of D-dimensional Gaussians, in nats.

    1/2 (tr(P^-1 S) + (m - mu)' P^-1 (m - mu) - D + log det P - log det S)
    """
    difference = m - mu
    trace, distance = np.trace(np.linalg.solve(P, S)), difference @ np.linalg.solve(P, difference)
    return 0.5 * (trace + distance - len(mu) + np.linalg.slogdet(P)[1] - np.linalg.slogdet(S)[1])


def sampled_kl(rng, n, mu, S, m, P):
    """The mean of log q - log p over n draws from q = N(mu, S), and its standard error."""
    q, p = stats.multivariate_normal(mu, S), stats.multivariate_normal(m, P)
    z = q.rvs(n, random_state=rng)
    difference = q.logpdf(z) - p.logpdf(z)
    return difference.mean(), difference.std() / np.sqrt(n)


def report_kl(rng, n):
    mu, log_var = np.array([[1.0, -0.5, 0.2]]), np.log([[0.3, 1.5, 0.8]])
    diagonal, origin, identity = np.diag(np.exp(log_var[0])), np.zeros(3), np.eye(3)
    kl, _ = gaussian_kl(mu, log_var)
    factor, other = rng.standard_normal((2, 3, 3))
    full, prior = factor @ factor.T + 0.1 * identity, other @ other.T + 0.1 * identity
    print(f"3. KL in nats: closed form, mean of log q - log p over {n:,} draws; expected: within 4 standard errors")
    for name, arguments in (
        ("diagonal against N(0, I)", (mu[0], diagonal, origin, identity)),
        ("full covariance against N(0, I)", (mu[0], full, origin, identity)),
        ("full against full", (mu[0], full, origin, prior)),
    ):
        mean, error = sampled_kl(rng, n, *arguments)
        exact = full_gaussian_kl(*arguments)
        print(f"   {name:31}  {exact:9.5f}  {mean:9.5f} +- {error:.5f}  ({abs(mean - exact) / error:.1f} errors apart)")
    print(f"   minivae's diagonal closed form   {kl[0]:9.5f}  as the first line")
    lost = full_gaussian_kl(mu[0], full, origin, identity) - full_gaussian_kl(
        mu[0], np.diag(np.diag(full)), origin, identity
    )
    print(f"   the full covariance's diagonal alone would give {lost:.5f} nats less")


def variances(f, slope, eps, std):
    """The variance of each estimate of dE[f]/dmu from one draw, averaged over the dimensions.

    f (L,) at L draws z = mu + std eps, its slope (L, D) there, eps (L, D), std (D,) -> one number for each of ESTIMATES
    """
    score = eps / std
    estimates = slope, f[:, None] * score, (f - f.mean())[:, None] * score
    return [estimate.var(axis=0).mean() for estimate in estimates]


def variances_of_square(rng, n, D):
    """For f = |z|^2 / 2, whose slope is z, and z from N(0, I)."""
    z = rng.standard_normal((n, D))
    return variances(0.5 * np.sum(z**2, axis=1), z, z, np.ones(D))


def variances_of_decoder(rng, n, D, digits):
    """For f = -log p(x given z) of a VAE after one epoch, averaged over some test digits x."""
    vae = mv.mlp(784, hidden=(256,), latent=D)
    mv.fit(vae, digits.x_train, epochs=1, batch_size=100, optimizer=mv.RMSprop(1e-3))
    params, rows = dict(vae.parameters), []
    x = digits.x_test[:DIGITS].reshape(DIGITS, 784) / 255
    for one, mu, log_var in zip(x, *vae.encode(x), strict=True):
        eps = rng.standard_normal((n, D))
        logits, decoder_backward = vae.decoder.forward(within(params, "decoder"), mu + np.exp(0.5 * log_var) * eps)
        log_px, likelihood_backward = vae.likelihood.log_prob({}, one[None], logits[:, None])
        dlogits, _ = likelihood_backward(-np.ones_like(log_px))  # of f = -log p(x given z)
        slope, _ = decoder_backward(dlogits[:, 0])
        rows.append(variances(-log_px[:, 0], slope, eps, np.exp(0.5 * log_var)))
    return np.mean(rows, axis=0)


def report_gradients(square, decoder):
    print("4. Variance of a gradient by mu from one draw: " + "; ".join(ESTIMATES))
    for name, rows in (("|z|^2 / 2", square), ("-log p(x given z)", decoder)):
        for D, row in rows.items():
            print(f"   {name:17}  D = {D:2}  " + "  ".join(f"{value:12.4g}" for value in row))


def draw_gradients(square, decoder):
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    D = np.array(DIMENSIONS)
    formulas = np.ones(len(D)), (D + 2) * (D + 4) / 4, (D + 4) / 2
    for i, ((name, color), formula) in enumerate(zip(ESTIMATES.items(), formulas, strict=True)):
        left.plot(D, formula, color=color, linewidth=1)
        left.plot(D, [square[d][i] for d in DIMENSIONS], "o", color=color, label=name)
        right.plot(LATENTS, [decoder[d][i] for d in LATENTS], "o--", color=color, linewidth=1, label=name)
    left.set(title="f(z) = |z|² / 2: measured (points), formula (lines)")
    right.set(title="f(z) = -log p(x given z) of VAEs on digits")
    for ax in (left, right):
        ax.set(xscale="log", yscale="log", xlabel="dimensions of z", ylabel="variance of a gradient from one draw")
        ax.set_xticks(DIMENSIONS, DIMENSIONS)
        ax.minorticks_off()
    left.legend(fontsize=9)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=at_least_1, default=200_000)
    parser.add_argument("--seed", type=at_least(0), default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/reparameterization"), help="the folder for figures")
    arguments = parser.parse_args()
    own_folder(arguments)
    rng = np.random.default_rng(arguments.seed)
    samplers = two_samplers(rng, arguments.draws)
    report_samplers(*samplers)
    z = rng.standard_normal((2000, 2))
    radii = np.linalg.norm(warp(z), axis=1)
    print(f"2. The warp puts points {radii.min():.2f} to {radii.max():.2f} away from 0; expected: 1 or more")
    report_kl(rng, arguments.draws)
    square = {D: variances_of_square(rng, arguments.draws, D) for D in DIMENSIONS}
    digits = data.load("sample")
    decoder = {D: variances_of_decoder(rng, min(2000, arguments.draws), D, digits) for D in LATENTS}
    report_gradients(square, decoder)
    figures = {"samplers": draw_samplers(*samplers), "warp": draw_warp(z)}
    save_figures(arguments, **figures, **{"gradient-variance": draw_gradients(square, decoder)})
    print(f"figures in {arguments.out}")


if __name__ == "__main__":
    command(main)
