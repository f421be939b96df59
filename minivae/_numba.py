"""The longest elementwise passes as single loops, compiled by Numba: an optional accelerator.

Each function here does what the function of the same name in optimizers.py does, with the same arguments, and is
tested against it. Measured on two cores of a Zen 4: Adam on 660,000 float32 values takes 0.15 ms in one loop and
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


def rmsprop_update(xp, g, *, p, w, rate, rho, eps, work):
    _rmsprop(g, p, w, rate, rho, eps)


def adam_update(xp, g, *, p, m, v, rate, c_eps, beta1, beta2, work):
    _adam(g, p, m, v, rate, c_eps, beta1, beta2)
