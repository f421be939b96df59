"""Says whether answers to the exercises of the book are right: python docs/book/exercises.py answers.py

Each exercise asks for a function of some name. A file with such functions, and with the imports that they need, is all
that this wants. A check knows no solution: it compares with quadrature, with differences, or with minivae.
"""

import sys
from runpy import run_path

import numpy as np
from scipy import optimize, special, stats

import minivae as mv

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def gradient(f, at, step=1e-5):
    """The derivatives of a number by each entry of an array, by central differences."""
    result = np.empty(np.shape(at))
    for index in np.ndindex(*result.shape):
        moved = np.zeros(result.shape)
        moved[index] = step
        result[index] = (f(at + moved) - f(at - moved)) / (2 * step)
    return result


def same(what, answer, expected, tolerance=1e-6):
    """Raises AssertionError, which says what is wrong, where an answer is not as expected."""
    assert answer is not None and answer is not ..., f"{what}: there is no answer yet"
    answer, expected = np.asarray(answer, "f8"), np.asarray(expected)
    assert answer.shape == expected.shape, f"{what}: the shape should be {expected.shape}, not {answer.shape}"
    close = np.isclose(answer, expected, rtol=tolerance, atol=tolerance)
    assert close.all(), f"{what}: should be {expected[~close].flat[0]:.6g}, not {answer[~close].flat[0]:.6g}"


def parts(what, answer, n):
    """The n things that a function should return."""
    assert answer is not None, f"{what}: there is no answer yet"
    assert isinstance(answer, tuple) and len(answer) == n, f"{what}: should return {n} things"
    return answer


def check_elbo_of_line(f):
    for x, slope, noise, mean, std in (
        (1.1, 0.8, 0.5, 0.3, 0.6),
        (-2.0, 1.5, 0.3, 0.0, 1.0),
        (0.4, 0.0, 1.0, 1.0, 0.1),
    ):
        z = mean + std * NODES
        log_w = stats.norm.logpdf(x, slope * z, noise) + stats.norm.logpdf(z) - stats.norm.logpdf(z, mean, std)
        same("the ELBO", f(x, slope, noise, mean, std), WEIGHTS @ log_w)


def check_kl_2d(f):
    points, weights = np.stack(np.meshgrid(NODES, NODES), axis=-1).reshape(-1, 2), np.outer(WEIGHTS, WEIGHTS).ravel()

    def kl(mu, a, b, c):
        q = stats.multivariate_normal(mu, [[a, b], [b, c]])
        z = mu + points @ np.linalg.cholesky(q.cov).T
        return weights @ (q.logpdf(z) - stats.norm.logpdf(z).sum(axis=1))

    for mu, *S in ((np.array([0.3, -0.8]), 1.0, 0.6, 0.9), (np.zeros(2), 0.2, -0.3, 2.0)):
        value, *derivatives = parts("the function", f(mu, *S), 4)
        same("the KL", value, kl(mu, *S))
        expected = gradient(lambda S, mu=mu: kl(mu, *S), np.array(S))
        for name, derivative, right in zip("abc", derivatives, expected, strict=True):
            same(f"the derivative by {name}", derivative, right)


def check_dkl_dlog_std(f):
    log_std = np.array([-2.0, -0.3, 0.0, 0.8])
    expected = gradient(lambda log_std: np.sum(0.5 * np.exp(2 * log_std) - log_std), log_std)
    same("the result", f(log_std), expected)


def check_ds(f):
    rng = np.random.default_rng(0)
    mu, s, eps = rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), rng.normal(size=(4, 3, 2))

    def loss(s):
        std = np.log1p(np.exp(s))
        kl = 0.5 * np.sum(mu**2 + std**2 - np.log(std**2) - 1)
        return np.sin(mu + std * eps).sum() + kl

    dz = np.cos(mu + np.log1p(np.exp(s)) * eps)
    same("the result", f(dz, eps, s), gradient(loss, s))


def check_score_gradient(f):
    """Its mean over all draws, for two and for three of them: the integral over each is a sum over nodes."""
    mu, std = 0.4, 0.7
    true = gradient(lambda mu: WEIGHTS @ np.cos(mu + std * NODES), np.array(mu))
    nodes, weights = np.polynomial.hermite_e.hermegauss(16)
    for L in (2, 3):
        draws = np.stack(np.meshgrid(*[nodes] * L), axis=-1).reshape(-1, L)
        of_each = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * L), axis=-1).reshape(-1, L), axis=1)
        estimates = [f(np.cos(mu + std * eps), eps, std) for eps in draws]
        same(f"the mean of the estimate from {L} draws", of_each @ np.array(estimates), true)
    spread = np.std([f(1000 + np.cos(mu + std * eps), eps, std) for eps in draws[:50]])
    assert spread < 10, "a constant in f should not make noise"


def check_poisson_log_prob(f):
    rng = np.random.default_rng(1)
    x, out = rng.poisson(3, (4, 5)), rng.normal(size=(2, 4, 5))
    log_px, backward = parts("the function", f(x, out), 2)
    same("log_px", log_px, stats.poisson.logpmf(x, np.exp(out)).sum(axis=-1))
    dlog_px = rng.normal(size=(2, 4))
    same("dout", backward(dlog_px), gradient(lambda out: np.sum(dlog_px * f(x, out)[0]), out), 1e-5)


def check_gated(f):
    rng = np.random.default_rng(2)
    arguments = [rng.normal(size=shape) for shape in ((4, 3), (3, 2), (2,), (3, 2), (2,))]
    x, W, b, V, c = arguments
    y, backward = parts("the function", f(*arguments), 2)
    same("y", y, (x @ W + b) * special.expit(x @ V + c))
    dy = rng.normal(size=(4, 2))
    answers = parts("the backward pass", backward(dy), 5)
    for i, (name, answer) in enumerate(zip(("dx", "dW", "db", "dV", "dc"), answers, strict=True)):

        def loss(value, i=i):
            return np.sum(dy * f(*arguments[:i], value, *arguments[i + 1 :])[0])

        same(name, answer, gradient(loss, arguments[i]))


def check_window_backward(f):
    rng = np.random.default_rng(3)
    for H, K, s, p in ((6, 3, 2, 1), (7, 4, 1, 0), (8, 2, 3, 0), (5, 5, 2, 2)):
        x, W, n = rng.normal(size=H), rng.normal(size=K), (H + 2 * p - K) // s + 1

        def forward(x, W, n=n, K=K, s=s, p=p):
            return np.array([np.pad(x, p)[s * i : s * i + K] @ W for i in range(n)])

        dy = rng.normal(size=n)
        dx, dW = parts("the function", f(x, W, dy, s, p), 2)
        same(f"dx, for {K = }, {s = }, {p = }", dx, gradient(lambda x, W=W, dy=dy: dy @ forward(x, W), x))
        same(f"dW, for {K = }, {s = }, {p = }", dW, gradient(lambda W, x=x, dy=dy: dy @ forward(x, W), W))


def check_bound_of_draws(f):
    log_w = np.random.default_rng(4).normal(0, 2, (5, 3))
    for shift in (0, -1000, 1000):
        with np.errstate(all="ignore"):
            loss, dlog_w = parts("the function", f(log_w + shift), 2)
        same(f"the loss of log-weights near {shift}", loss, np.log(5) - special.logsumexp(log_w, axis=0) - shift)
        same(f"its gradient near {shift}", dlog_w, -special.softmax(log_w, axis=0))


def check_coupling(f):
    rng = np.random.default_rng(5)
    z, w, v = rng.normal(size=(4, 2)), 0.8, -0.6
    (z_out, log_det), backward = parts("the function", f(z, w, v), 2)
    s = np.tanh(w * z[:, 0])
    same("z_out", z_out, np.stack([z[:, 0], z[:, 1] * np.exp(s) + v * z[:, 0]], axis=1))
    for n, one in enumerate(z):
        rows = [gradient(lambda one, i=i: f(one[None], w, v)[0][0][0, i], one) for i in range(2)]
        same("log_det", log_det[n], np.linalg.slogdet(rows)[1])
    dz_out, dlog_det = rng.normal(size=(4, 2)), rng.normal(size=4)

    def loss(z):
        (z_out, log_det), _ = f(z, w, v)
        return np.sum(dz_out * z_out) + np.sum(dlog_det * log_det)

    same("dz", backward(dz_out, dlog_det), gradient(loss, z))


def check_adam_step(f):
    for scale in (1e-4, 1.0, 1e4):
        g = scale * np.random.default_rng(6).normal(size=(5, 3))
        p, m, v, optimizer = np.ones(3), np.zeros(3), np.zeros(3), mv.Adam()
        expected, state = p, optimizer.fresh_state(p)
        for t, gradients in enumerate(g, 1):
            expected, state = optimizer.update(gradients, expected, state | {"lr": np.full(1, 1e-3)})
            p, m, v = parts("the function", f(gradients, p, m, v, t), 3)
            same(f"the weights after step {t}", p - 1, expected - 1, 1e-8)


def check_best_gaussian(f):
    for S in (np.array([[1.0, 0.9], [0.9, 1.0]]), np.array([[0.5, -0.3, 0.1], [-0.3, 0.8, 0.2], [0.1, 0.2, 0.3]])):
        precision = np.linalg.inv(S)

        def gap(log_var, precision=precision, S=S):
            spread = np.diag(precision) @ np.exp(log_var) - len(S) + np.linalg.slogdet(S)[1]
            return 0.5 * (spread - log_var.sum())

        best = optimize.minimize(gap, np.zeros(len(S)), tol=1e-10)
        var, least = parts("the function", f(S), 2)
        same("the variances", var, np.exp(best.x), 1e-4)
        same("the gap", least, best.fun)


def check_dlog_var(f):
    rng = np.random.default_rng(7)
    log_var, eps, beta = rng.normal(size=(3, 2)), rng.normal(size=(4, 3, 2)), 0.7

    def loss(log_var):
        """Of L = 4 draws for each example: the mean over them of what the decoder makes of z, and the KL."""
        kl = 0.5 * np.sum(np.exp(log_var) - log_var - 1)
        return np.mean(np.sin(np.exp(log_var / 2) * eps).sum(axis=(1, 2))) + beta * kl

    dz = np.cos(np.exp(log_var / 2) * eps) / 4
    same("the result", f(dz, eps, log_var, beta), gradient(loss, log_var))


def check_backward_of_a_step(f):
    rng = np.random.default_rng(8)
    W3, W4, x = rng.normal(size=(2, 4)), rng.normal(size=(4, 5)), rng.random((3, 5))
    mu, log_var, eps = rng.normal(size=(3, 3, 2))

    def loss(mu, log_var):
        logits = np.maximum((mu + np.exp(log_var / 2) * eps) @ W3, 0) @ W4
        log_px = np.sum(x * special.log_expit(logits) + (1 - x) * special.log_expit(-logits))
        return 0.5 * np.sum(mu**2 + np.exp(log_var) - log_var - 1) - log_px

    dmu, dlog_var = parts("the function", f(x, mu, log_var, eps, W3, W4), 2)
    same("dmu", dmu, gradient(lambda mu: loss(mu, log_var), mu), 1e-5)
    same("dlog_var", dlog_var, gradient(lambda log_var: loss(mu, log_var), log_var), 1e-5)


CHECKS = {name.removeprefix("check_"): f for name, f in list(globals().items()) if name.startswith("check_")}


def main(path):
    answers = {name: answer for name, answer in run_path(path).items() if name in CHECKS}
    if not answers:
        print(f"{path} has no function of an exercise's name; there are {', '.join(CHECKS)}")
    wrong = 0
    for name, answer in answers.items():
        try:
            CHECKS[name](answer)
            print(f"{name}: right")
        except Exception as error:  # whatever it is, the answer is at fault
            wrong += 1
            print(f"{name}: wrong; {error if isinstance(error, AssertionError) else repr(error)}")
    return wrong or not answers


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1])) if len(sys.argv) == 2 else __doc__)
