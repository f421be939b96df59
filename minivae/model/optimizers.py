"""SGD, RMSprop and Adam: each a pure update of all parameters at once.

    p, state = optimizer.update(g, p, state)

g and p are the flat arrays (P,) of all gradients and all parameters; `state` maps names to arrays, of which "lr" (1,)
is the learning rate. Whatever changes from step to step is in these arrays and nowhere else; settings such as momentum
are Python numbers, which never change.
"""

import math

import numpy as np

from ..arguments import at_least, positive
from ..errors import MiniVAEError, named
from .parameters import Settings


class Optimizer(Settings):
    """What all share: the learning rate. One of your own needs `update`, and `fresh_state` where it keeps arrays."""

    def __init__(self, lr: float) -> None:
        self.lr = self._positive("lr", lr)

    def _positive(self, name, value, below=math.inf):
        return positive(f"{type(self).__name__}: {name}", value, below)

    def fresh_state(self, p):
        """NumPy arrays by name, beside "lr", for parameters like the NumPy array p (P,)."""
        return {}

    def update(self, g, p, state):
        """The parameters and the state after one step."""
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

        velocity = momentum velocity + g,   p -= lr velocity

    Source: Robbins & Monro 1951; momentum, in this form: Sutskever et al. 2013, equations 1 and 2, with lr taken out.
    """

    def __init__(self, lr: float = 1e-2, momentum: float = 0.0) -> None:
        super().__init__(lr)
        self.momentum = at_least("SGD: momentum", momentum, below=1)

    def fresh_state(self, p):
        return {"velocity": np.zeros_like(p)} if self.momentum else {}

    def update(self, g, p, state):
        if self.momentum:
            velocity = self.momentum * state["velocity"] + g
            return p - state["lr"] * velocity, state | {"velocity": velocity}
        return p - state["lr"] * g, state


class RMSprop(Optimizer):
    """Steps divided by the root of a running mean of squared gradients.

        v = rho v + (1 - rho) g^2,   p -= lr g / sqrt(v + eps)

    eps stands inside the root, as in Keras; PyTorch divides by sqrt(v) + eps instead, and calls rho alpha.

    The state is w = (v + eps) / (1 - rho), for which
        w = rho w + g^2 + eps,   p -= lr / sqrt(1 - rho) g / sqrt(w):
    as many passes, and w is never subnormal, which would make the root twice as slow. From w as it is at first, steps
    are up to 1 / sqrt(1 - rho) = 3.2 learning rates long.
    Source: Tieleman & Hinton 2012, lecture 6e.
    """

    def __init__(self, lr: float = 1e-3, rho: float = 0.9, eps: float = 1e-7) -> None:
        super().__init__(lr)
        self.rho, self.eps = self._positive("rho", rho, below=1), self._positive("eps", eps)

    def fresh_state(self, p):
        return {"w": np.full_like(p, self.eps / (1 - self.rho))}

    def update(self, g, p, state):
        rate = state["lr"] * (1 / math.sqrt(1 - self.rho))
        w = self.rho * state["w"] + (g**2 + self.eps)
        return p - rate * (g / np.sqrt(w)), state | {"w": w}


class Adam(Optimizer):
    """Steps along a running mean of gradients, divided by the root of one of squared gradients.

        m = beta1 m + (1 - beta1) g,        v = beta2 v + (1 - beta2) g^2
        p -= lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    eps is added to the root, as in the paper and in PyTorch; Keras adds it before the bias correction.

    The state, "m" and "v", is M = m / (1 - beta1) and V = v / (1 - beta2), which saves two passes; with
    c = sqrt((1 - beta2^t) / (1 - beta2)) the step is then  lr (1 - beta1) c / (1 - beta1^t) M / (sqrt(V) + c eps).
    Source: Kingma & Ba 2015, algorithm 1.
    """

    def __init__(self, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        super().__init__(lr)
        self.beta1 = self._positive("beta1", beta1, below=1)
        self.beta2 = self._positive("beta2", beta2, below=1)
        self.eps = self._positive("eps", eps)

    def fresh_state(self, p):
        # "powers" are beta1^t and beta2^t: in float32, 1 - beta2^t would lose half its digits in the first steps.
        return {"m": np.zeros_like(p), "v": np.zeros_like(p), "powers": np.ones(2, "float64")}

    def update(self, g, p, state):
        power1, power2 = state["powers"][:1] * self.beta1, state["powers"][1:] * self.beta2
        c = np.sqrt((1 - power2) / (1 - self.beta2))
        rate = (c / (1 - power1) * (1 - self.beta1) * state["lr"]).astype(p.dtype)
        c_eps = (c * self.eps).astype(p.dtype)
        m = self.beta1 * state["m"] + g
        v = self.beta2 * state["v"] + g**2
        powers = np.concatenate([power1, power2])
        return p - rate * (m / (np.sqrt(v) + c_eps)), state | {"m": m, "v": v, "powers": powers}


def clip_by_norm(g, limit):
    """Gradients, scaled down together where their norm is larger than a limit.

        g min(1, limit / |g|),   |g| = sqrt(sum of all g^2)

    g (P,), limit a float.  Source: Pascanu, Mikolov & Bengio 2013, algorithm 1.

    Both |g| and the limit are divided by the larger of the limit and the largest g, so that no square overflows: the
    norm would be infinite, and the gradient 0, from |g| = 2e19 on in float32.
    """
    scale = np.maximum(np.max(np.abs(g), keepdims=True), limit)
    norm, limit = np.sqrt(np.sum((g / scale) ** 2, keepdims=True)), limit / scale
    return g * (limit / np.maximum(norm, limit))


class ClipNorm(Optimizer):
    """Another optimizer, which sees the gradients clipped to a norm of at most `limit`; see `clip_by_norm`."""

    def __init__(self, optimizer: Optimizer, limit: float = 1.0) -> None:
        if not isinstance(optimizer, Optimizer):
            raise MiniVAEError(f"ClipNorm: optimizer should be one such as Adam(1e-3), got {named(optimizer)}")
        self.optimizer, self.limit = optimizer, self._positive("limit", limit)

    @property
    def lr(self):
        return self.optimizer.lr

    def fresh_state(self, p):
        return self.optimizer.fresh_state(p)

    def update(self, g, p, state):
        return self.optimizer.update(clip_by_norm(g, self.limit), p, state)
