"""The longest elementwise passes as single loops, compiled by Numba: an optional accelerator.

Each function here does what the function of the same name elsewhere does, with the same arguments, and is tested
against it. Measured on two cores of a Zen 4: Adam on 660,000 float32 values takes 0.15 ms in one loop and
0.70 ms in ten NumPy passes, on 4.9 million 4.3 ms and 12.6 ms; a loop reads and writes each array once, and NumPy's
square root has no wide vectors.
"""

import numpy as np
from numba import njit

# One thread, because a second would compete with the idle, but spinning, threads of the matrix products.
compiled = njit(cache=True, error_model="numpy", fastmath={"contract", "arcp"})


@compiled
def _rmsprop(g, p, w, rate, rho, eps):
    real = p.dtype.type
    rate, rho, eps = rate[0], real(rho), real(eps)
    for i in range(p.size):
        w[i] = rho * w[i] + g[i] * g[i] + eps
        p[i] -= rate * g[i] / np.sqrt(w[i])


@compiled
def _adam(g, p, m, v, rate, c_eps, beta1, beta2):
    real = p.dtype.type
    rate, c_eps, beta1, beta2 = rate[0], c_eps[0], real(beta1), real(beta2)
    for i in range(p.size):
        m[i] = beta1 * m[i] + g[i]
        v[i] = beta2 * v[i] + g[i] * g[i]
        p[i] -= rate * m[i] / (np.sqrt(v[i]) + c_eps)


@compiled
def _bernoulli_terms(x, logits, terms, prob):
    zero, half = prob.dtype.type(0), prob.dtype.type(0.5)
    for i in range(prob.shape[0]):
        for j in range(prob.shape[1]):
            for k in range(prob.shape[2]):
                terms[i, j, k] += x[j, k] * logits[i, j, k] - max(logits[i, j, k], zero)
                prob[i, j, k] = half + half * prob[i, j, k]


@compiled
def _bernoulli_log_prob_backward(dlog_px, x, prob, dlogits):
    for i in range(prob.shape[0]):
        for j in range(prob.shape[1]):
            for k in range(prob.shape[2]):
                dlogits[i, j, k] = dlog_px[i, j, 0] * (x[j, k] - prob[i, j, k])


@compiled
def _relu(x, mask, y):
    zero = y.dtype.type(0)
    for i in range(x.size):
        mask[i] = x[i] > zero
        y[i] = zero if x[i] <= zero else x[i]  # this way round, NaN stays NaN


@compiled
def _relu_backward(dy, mask, dx):
    zero = dx.dtype.type(0)
    for i in range(dy.size):
        dx[i] = dy[i] if mask[i] else zero


def rmsprop_update(xp, g, *, p, w, rate, rho, eps, work):
    _rmsprop(g, p, w, rate, rho, eps)


def adam_update(xp, g, *, p, m, v, rate, c_eps, beta1, beta2, work):
    _adam(g, p, m, v, rate, c_eps, beta1, beta2)


def bernoulli_terms(xp, x, logits, *, terms, prob, work):
    # These stay in NumPy: its tanh and log1p have wide vectors, Numba's have not.
    np.multiply(logits, 0.5, out=prob)
    np.tanh(prob, out=prob)
    np.absolute(prob, out=terms)
    np.log1p(terms, out=terms)
    _bernoulli_terms(x, logits, terms, prob)


def bernoulli_log_prob_backward(xp, dlog_px, x, prob, *, dlogits):
    _bernoulli_log_prob_backward(dlog_px, x, prob, dlogits)


def relu(xp, x, *, mask, y):
    _relu(x.ravel(), mask.ravel(), y.ravel())


def relu_backward(xp, dy, mask, *, dx):
    _relu_backward(dy.ravel(), mask.ravel(), dx.ravel())
