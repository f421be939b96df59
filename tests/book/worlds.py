"""What the symbols of each page of the book stand for, and the other ways to the left sides of its equations.

WORLDS[page](heading) -> names, python      for the equations under a heading of the page
    names  : LaTeX -> a number, an array or a function, for `formulas.Formula`
    python : what the checks in the page's comments may use beside this module's names: all that stands in the function
"""

from pathlib import Path
from runpy import run_path

import numpy as np
from formulas import ZeroOutside
from scipy import optimize, signal, special, stats

from minivae import data
from minivae.model.bounds import elbo, importance_weighted  # noqa: F401, the checks of the pages use them
from minivae.model.flows import InverseAutoregressive, gated_step, planar, planar_direction  # noqa: F401
from minivae.model.gaussian import reparameterize
from minivae.model.layers import dense
from minivae.model.optimizers import Adam, RMSprop  # noqa: F401

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def difference(f, at, step=1e-5):
    """f'(at) by central differences; of each number by itself where both are arrays."""
    return (f(at + step) - f(at - step)) / (2 * step)


# The derivatives of a number by each entry of an array, as readers have it for their answers.
gradient = run_path(str(Path(__file__).parents[2] / "docs" / "book" / "exercises.py"))["gradient"]


def jacobian(f, at):
    """The derivatives of all entries of f by each entry of a vector: (outputs, inputs)."""
    one_by_one = [gradient(lambda v, i=i: np.ravel(f(v))[i], at).ravel() for i in range(np.size(f(at)))]
    return np.array(one_by_one)


class Line:
    """One number z with a standard normal prior, x = slope z + noise, and a q: all densities are known."""

    slope, noise, x, mean, std = 0.8, 0.5, 1.1, 0.3, 0.6
    spread = np.hypot(slope, noise)
    true_mean, true_std = slope * x / spread**2, noise / spread
    z = np.linspace(-9, 9, 3001)
    spacing = z[1] - z[0]
    q, prior = stats.norm.pdf(z, mean, std), stats.norm.pdf(z)
    likelihood, evidence = stats.norm.pdf(x, slope * z, noise), stats.norm.pdf(x, 0, spread)
    weight = likelihood * prior / q


def mean_over_q(values):
    return np.sum(values * Line.q) * Line.spacing


def gaussian_kl_1d(mean, std, other_mean, other_std):
    ratio = (std / other_std) ** 2
    return 0.5 * (ratio + ((mean - other_mean) / other_std) ** 2 - np.log(ratio) - 1)


def bound_world(heading):
    rng = np.random.default_rng(1)
    log_px, kl, beta = rng.normal(-3, 1, (3, 4)), rng.uniform(1, 2, 4), 0.7
    to_true = gaussian_kl_1d(Line.mean, Line.std, Line.true_mean, Line.true_std)
    names = {
        "x": Line.x, "z": Line.z, "dz": Line.spacing, "w": Line.weight, "E_q": mean_over_q,
        r"p(x \mid z)": Line.likelihood, "p(z)": Line.prior, "p(x)": Line.evidence, "q(z)": Line.q,
        r"p(z \mid x)": stats.norm.pdf(Line.z, Line.true_mean, Line.true_std),
        r"\mathrm{ELBO}": mean_over_q(np.log(Line.weight)), r"\mathrm{KL}(q \parallel p(z \mid x))": to_true,
        r"\beta": beta, r"\ell": log_px, r"\mathrm{KL}": kl, "L": 3, "indices": {"b": range(4), "l": range(3)},
    }  # fmt: skip
    if heading.startswith("Exercise"):
        names |= {"a": Line.slope, "m": Line.mean, r"\sigma": Line.std}
    return names, vars(Line) | locals()


def kl_world(heading):
    mu, log_var, eps = np.random.default_rng(0).normal(size=(3, 3))
    std = np.exp(0.5 * log_var)
    z = mu + std * eps
    mean, m, S, P = (
        np.array([0.3, -0.8]),
        np.array([-0.4, 0.5]),
        *np.array([[[1, 0.6], [0.6, 0.9]], [[1.4, -0.6], [-0.6, 1]]]),
    )

    def kl(mu, log_var):
        """By quadrature, from the densities."""
        std = np.exp(0.5 * log_var)
        z = mu + std * NODES[:, None]
        return np.sum(WEIGHTS @ (stats.norm.logpdf(z, mu, std) - stats.norm.logpdf(z)))

    def expectation(f, mean, covariance):
        """By quadrature over two dimensions; f takes points (N, 2)."""
        points = np.stack(np.meshgrid(NODES, NODES), axis=-1).reshape(-1, 2)
        return np.outer(WEIGHTS, WEIGHTS).ravel() @ f(mean + points @ np.linalg.cholesky(covariance).T)

    def quadratic(v, M):
        return np.einsum("ni,ij,nj->n", v, M, v)

    a, b, c, column = S[0, 0], S[0, 1], S[1, 1], np.array([[0.9], [-0.2]])
    to_standard = expectation(
        lambda z: stats.multivariate_normal(mean, S).logpdf(z) - stats.norm.logpdf(z).sum(axis=1), mean, S
    )
    names = {
        "a": a, "b": b, "c": c,
        r"\mu": mu, r"\sigma": std, r"\epsilon": eps, "z": z, "indices": {"d": range(3)}, "D": 2,
        r"\boldsymbol\mu": mean[:, None], r"\boldsymbol m": m[:, None], "S": S, "P": P,
    }  # fmt: skip
    if heading == "Any two Gaussians":
        names["z"] = column
    return names, locals()


def reparameterization_world(heading):
    mu, log_var = 0.4, -0.7
    std = np.exp(0.5 * log_var)
    z = mu + std * NODES

    def f(z):
        return np.sin(z) + z**2

    def mean_of_f(mu, log_var):
        return stats.norm(mu, np.exp(0.5 * log_var)).expect(f, epsabs=1e-11, epsrel=1e-11)

    def with_as_much_below(eps):
        """The z that has as much of q below it (or above, where that is less) as eps of the standard normal."""
        upper, lower = stats.norm.isf(stats.norm.sf(eps), mu, std), stats.norm.ppf(stats.norm.cdf(eps), mu, std)
        return np.where(eps > 0, upper, lower)

    def std_of_draws(log_var):
        z, _ = reparameterize(np.zeros((1, 1)), np.full((1, 1), log_var), NODES[:, None, None])
        return np.sqrt(WEIGHTS @ z.ravel() ** 2)

    def draw(mu, log_var, eps):
        return reparameterize(np.full((1, 1), mu), np.full((1, 1), log_var), eps[:, None, None])[0].ravel()

    def square_mean(estimate):
        """The mean over two dimensions of the square of an estimate whose mean is 0."""
        points = std * np.stack(np.meshgrid(NODES, NODES)).reshape(2, -1)
        weights = np.outer(WEIGHTS, WEIGHTS).ravel()
        assert abs(weights @ estimate(points)) < 1e-9
        return weights @ estimate(points) ** 2

    rng = np.random.default_rng(2)
    mus, log_vars, eps = rng.normal(size=3), rng.normal(size=3), rng.normal(size=(4, 3))

    def draws(mus, log_vars):
        return mus + np.exp(log_vars / 2) * eps

    def loss_of(z):
        return np.sin(z).sum()

    names = {
        r"\mu": mu, r"\sigma": std, r"\epsilon": NODES, "z": z, "f(z)": f(z), "f'(z)": np.cos(z) + 2 * z,
        r"E_q": lambda values: WEIGHTS @ values, r"E_\epsilon": lambda values: WEIGHTS @ values, "D": 2,
        r"\frac{\partial \log q(z)}{\partial\mu}": difference(lambda mu: stats.norm.logpdf(z, mu, std), mu),
    }  # fmt: skip
    if heading == "The line of code":
        names = {
            "dz": np.cos(draws(mus, log_vars)), r"\sigma": np.exp(log_vars / 2), r"\epsilon": eps,
            "indices": {"l": range(4), "d": range(3)},
        }  # fmt: skip
    return names, locals()


def likelihood_world(heading):
    rng = np.random.default_rng(3)
    l, bits, x, m = rng.normal(0, 2, 5), np.array([0, 1, 1, 0, 1]), *rng.normal(size=(2, 5))  # noqa: E741
    logits, levels, std, sigmas = rng.normal(size=(5, 4)), np.array([3, 0, 1, 1, 2]), 0.7, rng.uniform(0.3, 2, 5)
    grey = heading.startswith("Bernoulli")
    names = {
        "x": bits if grey else x, "l": l, "s": special.expit(l), "t": np.tanh(l / 2), "m": m, r"\sigma": std,
        "indices": {"i": range(5), "k": range(4), "j": range(4)},
    }  # fmt: skip
    if heading == "Gaussian: a width that is learned":
        names |= {r"\sigma": sigmas, "r": ((x - m) / sigmas) ** 2}
    if heading.startswith("Categorical"):
        names |= {"l": logits, "s": special.softmax(logits, axis=1), "c": np.eye(4)[levels]}
    if heading.startswith("Exercise"):
        names |= {"x": levels, "c": special.factorial(levels)}

    def categorical(logits):
        return np.sum(special.log_softmax(logits, axis=1)[np.arange(5), levels])

    return names, locals()


def dense_world(heading):
    rng = np.random.default_rng(4)
    x, W, b, c = rng.normal(size=(4, 3)), rng.normal(size=(3, 2)), rng.normal(size=2), rng.normal(size=(4, 3))

    def loss(x, W, b):
        return np.sin(dense(x, W, b)[0]).sum()

    def relu(x):
        return np.where(x > 0, x, 0)

    def through(activation, x):
        return np.sum(c * activation(x))

    dy = c if heading == "Activations" else np.cos(x @ W + b)
    names = {
        "x": x, "W": W, "b": b, "dy": dy, "s": special.expit(x), "t": np.tanh(x),
        "indices": {"b": range(4), "i": range(3), "o": range(2)},
    }  # fmt: skip
    return names, locals()


def convolution_world(heading):
    rng = np.random.default_rng(5)
    K, s, p, H, C, O = 3, 2, 1, 6, 2, 3  # noqa: E741
    x, W, b = rng.normal(size=(H, C)), rng.normal(size=(K, C, O)), rng.normal(size=O)

    def by_scipy(x, W, bias=b, padding=p):
        """Each pair of channels by itself, at every place, of which every s-th is kept."""
        x = np.pad(x, ((padding, padding), (0, 0)))
        return bias + np.stack(
            [sum(signal.correlate(x[:, c], W[:, c, o], "valid")[::s] for c in range(C)) for o in range(O)], axis=1
        )

    def loss(*given, **how):
        return np.sin(by_scipy(*given, **how)).sum()

    def pixels_of_phases(padded):
        return padded.reshape(n + 1, s, C)

    y = by_scipy(x, W)
    n = len(y)
    names = {
        "x": ZeroOutside(x), "W": ZeroOutside(W), "b": b, "dy": ZeroOutside(np.cos(y)), "s": s, "p": p,
        "indices": {
            "i": range(n), "k": range(K), "c": range(C), "o": range(O), "j": range(H), "r": range(s), "t": range(2),
            "m": range(n + 1),
        },
    }  # fmt: skip
    return names, locals()


def importance_world(heading):
    rng = np.random.default_rng(6)
    log_px, kl, beta = rng.normal(-3, 1, (3, 4)), rng.normal(2, 1, (3, 4)), 0.7
    log_w = log_px - beta * kl
    first, second = np.meshgrid(Line.mean + Line.std * NODES, Line.mean + Line.std * NODES)
    pairs = np.stack([first.ravel(), second.ravel()])
    weights = np.outer(WEIGHTS, WEIGHTS).ravel()
    log_weights = (
        stats.norm.logpdf(Line.x, Line.slope * pairs, Line.noise)
        + stats.norm.logpdf(pairs)
        - stats.norm.logpdf(pairs, Line.mean, Line.std)
    )
    bound_of_two_draws = weights @ (np.logaddexp(*log_weights) - np.log(2))
    names, _ = bound_world(heading)
    names |= {
        "w(z)": Line.weight, "E": lambda values: weights @ values, "w": np.exp(log_weights), "L": 2,
        r"\mathcal{L}": bound_of_two_draws, "indices": {"l": range(2)},
    }  # fmt: skip
    if heading in ("The loss", "The gradient"):
        names |= {
            "L": 3, r"\ell": log_px, r"\mathrm{KL}": kl, r"\beta": beta, "a": log_w, "c": log_w.max(axis=0),
            "indices": {"b": range(4), "l": range(3), "k": range(3)},
        }  # fmt: skip
    return names, vars(Line) | locals()


def flow_world(heading):
    rng = np.random.default_rng(7)
    z, w, u = rng.normal(size=(3, 3, 1))
    b, k = 0.3, 0.7
    c = np.log1p(np.exp((w * u).sum())) - 1
    v = u + (c - (w * u).sum()) / (w * w).sum() * w
    h = np.tanh((w * z).sum() + b)
    dz_1 = rng.normal(size=(3, 1))

    def planar_columns(z, b=b):
        return planar(z.reshape(1, 3), w.T, np.full((1, 1), b), v.T, np.full((1, 1), c))[0][0].reshape(3, 1)

    def planar_loss(z, b):
        log_det = np.linalg.slogdet(jacobian(lambda z: planar_columns(z, b), z))[1]
        return np.sum(dz_1 * planar_columns(z, b)) + k * log_det

    def bent(z):
        return z + 0.9 * np.tanh(0.8 * z + 0.2)

    def unbent(z_1):
        return optimize.brentq(lambda z: bent(z) - z_1, -9, 9, xtol=1e-14)

    flow = InverseAutoregressive(3, 4)
    params = {name: rng.normal(size=shape) for name, shape in flow.shapes().items()} | flow.constant_arrays()
    z_row, dz_row = rng.normal(size=(2, 1, 3))
    hidden = np.maximum(z_row @ (params["0.W"] * params["0.mask"]) + params["0.b"], 0)
    m_row, s_row = np.split(hidden @ (params["2.W"] * params["2.mask"]) + params["2.b"], 2, axis=1)

    def gated_loss(z, m, s):
        (z_out, log_det), _ = gated_step(z, m, s)
        return np.sum(dz_row * z_out) + k * log_det.item()

    z_0 = 0.6
    density_of_bent = difference(lambda z_1: stats.norm.cdf(unbent(z_1)), bent(z_0))
    names = {
        "q_0(z_0)": stats.norm.pdf(z_0), "J": np.array([[difference(bent, z_0)]]), "I": np.eye(3),
        "z": z, "v": v, "w": w, "u": u, "b": b, "h": h, "s": 1 - h**2, "c": c, "k": k, "dz_1": dz_1,
        "da": difference(lambda b: planar_loss(z, b), b),
    }  # fmt: skip
    if heading.startswith("Inverse"):
        names = {
            "z": z_row[0], "m": m_row[0], "s": s_row[0], "g": special.expit(s_row[0]), "dz'": dz_row[0], "k": k,
            "indices": {"d": range(3)},
        }  # fmt: skip
    return names, locals()


def optimizer_world(heading):
    n_steps, rng = 4, np.random.default_rng(8)
    g = np.concatenate([[0], rng.normal(0, 1e-3, n_steps)])
    rho, eta, epsilon, beta1, beta2, start = 0.9, 0.01, 1e-7, 0.8, 0.95, 0.5
    adam = heading in ("Adam", "As written")

    def weights_of_mean(rate, t):
        """The shares that a running mean gives to the gradients 1 to t."""
        return (1 - rate) * rate ** np.arange(t - 1, -1, -1)

    def means_by_weights(rate, values):
        return np.array([weights_of_mean(rate, t) @ values[:t] for t in range(1, n_steps + 1)])

    def steps_of(optimizer):
        """The weight after each step, from minivae."""
        p, weights = np.full(1, start), []
        state = {"lr": np.full(1, eta)} | optimizer.fresh_state(p)
        for gradient_of_step in g[1:]:
            p, state = optimizer.update(np.full(1, gradient_of_step), p, state)
            weights.append(p.item())
        return weights

    rate = beta2 if adam else rho
    m, v = np.r_[0, means_by_weights(beta1, g[1:])], np.r_[0, means_by_weights(rate, g[1:] ** 2)]
    t = np.arange(n_steps + 1)
    published_adam = eta * m[1:] / (1 - beta1 ** t[1:]) / (np.sqrt(v[1:] / (1 - beta2 ** t[1:])) + epsilon)
    published_rmsprop = eta * g[1:] / np.sqrt(v[1:] + epsilon)
    published = start - np.cumsum(published_adam if adam else published_rmsprop)
    names = {
        "g": g, "v": v, "m": m, "w": (v + epsilon) / (1 - rho), "M": m / (1 - beta1), "V": v / (1 - beta2),
        "c": np.sqrt((1 - beta2**t) / (1 - beta2)), "p": np.r_[start, published], r"\rho": rho, r"\eta": eta,
        r"\varepsilon": epsilon, r"\beta_1": beta1, r"\beta_2": beta2,
        "indices": {"t": range(1, n_steps + 1)},
    }  # fmt: skip
    return names, locals()


def posterior_world(heading):
    """x = z W + b with noise of width 0.8: the true posterior is normal, and slanted."""
    rng, n, width = np.random.default_rng(9), 61, 0.8
    W, b, x = np.array([[1.2, 0.4, 0.9], [0.3, 1.1, 0.8]]), *rng.normal(size=(2, 3))
    precision = np.eye(2) + W @ W.T / width**2
    true = stats.multivariate_normal(np.linalg.solve(precision, W @ (x - b)) / width**2, np.linalg.inv(precision))
    evidence = stats.multivariate_normal(b, W.T @ W + width**2 * np.eye(3)).pdf(x)
    axis = np.linspace(-5, 5, n)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    mu, log_var = np.array([0.1, 0.3]), np.array([-1.2, -1.6])
    std = np.exp(log_var / 2)
    nodes = np.stack(np.meshgrid(NODES, NODES), axis=-1).reshape(-1, 2)
    weights = np.outer(WEIGHTS, WEIGHTS).ravel()

    def log_joint(z):
        return stats.norm.logpdf(x, z @ W + b, width).sum(axis=-1) + stats.norm.logpdf(z).sum(axis=-1)

    def elbo_of(mu, log_var):
        """Log p(x) less the divergence of two Gaussians, which has a closed form."""
        return np.log(evidence) - kl_to_true(mu, log_var)

    def kl_to_true(mu, log_var):
        away, var = mu - true.mean, np.exp(log_var)
        spread = np.diag(precision) @ var - 2 - np.log(np.linalg.det(precision)) - log_var.sum()
        return 0.5 * (away @ precision @ away + spread)

    best = optimize.minimize(lambda q: kl_to_true(q[:2], q[2:]), np.zeros(4), tol=1e-12, method="BFGS")
    z = mu + std * nodes
    q = stats.multivariate_normal(mu, np.diag(std**2))
    l, bits = rng.normal(size=5), np.array([0, 1, 1, 0, 1])  # noqa: E741
    u, q_1 = rng.normal(size=2), stats.multivariate_normal([0.2, -0.3], [[0.5, 0.2], [0.2, 0.4]])
    scaled = stats.multivariate_normal(mu + std * q_1.mean, std[:, None] * q_1.cov * std)
    names = {
        "a": log_joint(points), "c": log_joint(points).max(), r"\Delta": axis[1] - axis[0], "p(x)": evidence,
        "p": true.pdf(points), "q": q.pdf(points), "x": bits, "l": l,
        r"p(x \mid z_{jk})": np.exp(log_joint(points)) / stats.norm.pdf(points).prod(axis=-1),
        "p(z_{jk})": stats.multivariate_normal(np.zeros(2)).pdf(points),
        r"p(0 \mid z)": stats.bernoulli.pmf(0, special.expit(l)).prod(),
        r"\mathrm{ELBO}": elbo_of(mu, log_var), r"\mathrm{ELBO}^*": np.log(evidence) - best.fun,
        r"E_\epsilon": lambda values: weights @ values, r"p(x, z)": np.exp(log_joint(z)),
        "g": np.array([difference(lambda d, e=e: log_joint(z + d * e), 0.0) for e in np.eye(2)]),
        r"\epsilon": nodes.T, r"\sigma": std, r"\Lambda": precision, "q_1(u)": q_1.pdf(u), "D": 2,
        "indices": {"j": range(n), "k": range(n), "i": range(5), "d": range(2)},
    }  # fmt: skip
    return names, locals()


BY_HAND = run_path(str(Path(__file__).parents[2] / "examples" / "by_hand.py"))


def one_step_world(heading):
    """What examples/by_hand.py has for the first of the bundled digits, before its first step."""
    rng, B = np.random.default_rng(0), 1
    x = data.load("sample", limit=1).x_train.reshape(B, 784) / 255
    p = BY_HAND["initial"](rng, 784)
    W1, b1, W2, b2, W3, b3, W4, b4 = p
    eps, sigmoid = rng.standard_normal((B, 2)), BY_HAND["sigmoid"]

    _, (mu,), (log_var,) = BY_HAND["encode"](p, x)
    std = np.exp(log_var / 2)

    def reconstruction_loss(z):
        _, logits = BY_HAND["decode"](p, z)
        return -np.sum(x * special.log_expit(logits) + (1 - x) * special.log_expit(-logits))

    def loss(mu, log_var):
        std = np.exp(log_var / 2)
        z = mu + std * NODES[:, None]
        kl = np.sum(WEIGHTS @ (stats.norm.logpdf(z, mu, std) - stats.norm.logpdf(z)))
        return reconstruction_loss(mu + std * eps) + kl

    dz = gradient(reconstruction_loss, mu + std * eps)
    names = {r"\epsilon": eps[0], r"\sigma": std, "dz": dz[0], "indices": {"d": range(2)}}
    return names, locals()


WORLDS = {
    "01-elbo": bound_world,
    "02-closed-form-kl": kl_world,
    "03-reparameterization": reparameterization_world,
    "04-likelihoods": likelihood_world,
    "05-dense": dense_world,
    "06-convolution": convolution_world,
    "07-importance-weighting": importance_world,
    "08-flows": flow_world,
    "09-optimizers": optimizer_world,
    "10-true-posterior": posterior_world,
    "11-one-step": one_step_world,
}
