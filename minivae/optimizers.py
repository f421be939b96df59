"""SGD, RMSprop and Adam, each a few long passes over the flat arrays of values and gradients.

`attach(parameters, gradients)` binds an optimizer to a model with fresh state; `step()` applies one update.
All that changes lies in arrays on the device, by name in `state`: a captured graph and a checkpoint see all of it.
"""

import math

from .errors import MiniVAEError


class Optimizer:
    """What all share: the learning rate, kept in `state["lr"]` (1,), which may be changed between steps."""

    rule = None  # the pure function that makes one update

    def __init__(self, lr):
        self._lr = self._positive("lr", lr)

    def _positive(self, name, value, below=math.inf):
        if not 0 < value < below:
            raise MiniVAEError(
                f"{type(self).__name__}: {name} should lie in (0, {below:g}), got {value!r}"
            )
        return float(value)

    def attach(self, parameters, gradients):
        """Bind to a model's flat arrays, with fresh state."""
        xp = self.xp = parameters.backend.xp
        self.values, self.gradients = parameters.flat, gradients.flat
        self.work = xp.empty_like(self.values)
        self.rate = xp.empty(1, self.values.dtype)
        self.state = {"lr": xp.full(1, self._lr, self.values.dtype)} | self.fresh_state()
        self.update = parameters.backend.fuse(self.rule)

    def fresh_state(self):
        return {}

    @property
    def lr(self):
        return self._lr

    @lr.setter
    def lr(self, lr):
        self._lr = self._positive("lr", lr)
        self.state["lr"].fill(self._lr)


def sgd_update(xp, g, *, p, rate, work):
    """p -= rate g.

    g, p, work : (P,), p updated and work overwritten;  rate : (1,)
    """
    xp.multiply(g, rate, out=work)
    xp.subtract(p, work, out=p)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

    velocity = momentum velocity + g,   p -= lr velocity
    """

    rule = staticmethod(sgd_update)

    def __init__(self, lr=1e-2, momentum=0.0):
        super().__init__(lr)
        if not 0 <= momentum < 1:
            raise MiniVAEError(f"SGD: momentum should lie in [0, 1), got {momentum!r}")
        self.momentum = float(momentum)

    def fresh_state(self):
        return {"velocity": self.xp.zeros_like(self.values)} if self.momentum else {}

    def step(self):
        xp, work, direction = self.xp, self.work, self.gradients
        if self.momentum:
            direction = self.state["velocity"]
            xp.multiply(direction, self.momentum, out=direction)
            xp.add(direction, self.gradients, out=direction)
        self.update(xp, direction, p=self.values, rate=self.state["lr"], work=work)


def rmsprop_update(xp, g, *, p, w, rate, rho, eps, work):
    """w = rho w + g^2 + eps,   p -= rate g / sqrt(w).

    g, p, w, work : (P,), p and w updated and work overwritten;  rate : (1,);  rho, eps : floats
    """
    xp.multiply(g, g, out=work)
    xp.add(work, eps, out=work)
    xp.multiply(w, rho, out=w)
    xp.add(w, work, out=w)
    xp.sqrt(w, out=work)
    xp.divide(g, work, out=work)
    xp.multiply(work, rate, out=work)
    xp.subtract(p, work, out=p)


class RMSprop(Optimizer):
    """Steps divided by the root of a running mean of squared gradients.

        v = rho v + (1 - rho) g^2,   p -= lr g / sqrt(v + eps)

    eps stands inside the root, as in Keras; PyTorch divides by sqrt(v) + eps instead, and calls rho alpha.

    The state is w = (v + eps) / (1 - rho), for which
        w = rho w + g^2 + eps,   p -= lr / sqrt(1 - rho) g / sqrt(w):
    as many passes, and none ever meets a subnormal number, which would make the root twice as slow.
    Source: Tieleman & Hinton 2012, lecture 6e.
    """

    rule = staticmethod(rmsprop_update)

    def __init__(self, lr=1e-3, rho=0.9, eps=1e-7):
        super().__init__(lr)
        self.rho, self.eps = self._positive("rho", rho, below=1), self._positive("eps", eps)

    def fresh_state(self):
        return {"w": self.xp.full_like(self.values, self.eps / (1 - self.rho))}

    def step(self):
        xp = self.xp
        xp.multiply(self.state["lr"], 1 / math.sqrt(1 - self.rho), out=self.rate)
        parts = {"p": self.values, "w": self.state["w"], "rate": self.rate, "work": self.work}
        self.update(xp, self.gradients, **parts, rho=self.rho, eps=self.eps)


def adam_update(xp, g, *, p, m, v, rate, c_eps, beta1, beta2, work):
    """m = beta1 m + g,   v = beta2 v + g^2,   p -= rate m / (sqrt(v) + c_eps).

    g, p, m, v, work : (P,), p, m and v updated and work overwritten;  rate, c_eps : (1,);  beta1, beta2 : floats
    """
    xp.multiply(m, beta1, out=m)
    xp.add(m, g, out=m)
    xp.multiply(g, g, out=work)
    xp.multiply(v, beta2, out=v)
    xp.add(v, work, out=v)
    xp.sqrt(v, out=work)
    xp.add(work, c_eps, out=work)
    xp.divide(m, work, out=work)
    xp.multiply(work, rate, out=work)
    xp.subtract(p, work, out=p)


class Adam(Optimizer):
    """Steps along a running mean of gradients, divided by the root of one of squared gradients.

        m = beta1 m + (1 - beta1) g,        v = beta2 v + (1 - beta2) g^2
        p -= lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    eps is added to the root, as in the paper and in PyTorch; Keras adds it before the bias correction.

    The state is m / (1 - beta1) and v / (1 - beta2), which saves two passes; with c = sqrt((1 - beta2^t) / (1 - beta2))
    the step is then  lr (1 - beta1) c / (1 - beta1^t) m / (sqrt(v) + c eps).
    Source: Kingma & Ba 2015, algorithm 1.
    """

    rule = staticmethod(adam_update)

    def __init__(self, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
        super().__init__(lr)
        self.beta1 = self._positive("beta1", beta1, below=1)
        self.beta2 = self._positive("beta2", beta2, below=1)
        self.eps = self._positive("eps", eps)

    def fresh_state(self):
        xp = self.xp
        return {
            "m": xp.zeros_like(self.values),
            "v": xp.zeros_like(self.values),
            # beta1^t and beta2^t: in float32, 1 - beta2^t would lose half its digits in the first steps.
            "powers": xp.ones(2, "float64"),
        }

    def attach(self, parameters, gradients):
        super().attach(parameters, gradients)
        xp = self.xp
        self.betas = parameters.backend.asarray([self.beta1, self.beta2], "float64")
        self.corrections, self.c = xp.empty(2, "float64"), xp.empty(1, "float64")
        self.c_eps = xp.empty_like(self.rate)

    def _scalars(self):
        """This step's rate lr (1 - beta1) c / (1 - beta1^t) and c eps, as arrays (1,)."""
        xp, powers = self.xp, self.state["powers"]
        xp.multiply(powers, self.betas, out=powers)
        xp.subtract(1, powers, out=self.corrections)
        xp.divide(self.corrections[1:], 1 - self.beta2, out=self.c)
        xp.sqrt(self.c, out=self.c)
        xp.multiply(self.c, self.eps, out=self.c_eps, dtype="float64")
        xp.divide(self.c, self.corrections[:1], out=self.c)
        xp.multiply(self.c, 1 - self.beta1, out=self.c)
        xp.multiply(self.c, self.state["lr"], out=self.rate, dtype="float64")

    def step(self):
        self._scalars()
        parts = {"p": self.values, "m": self.state["m"], "v": self.state["v"], "work": self.work}
        scalars = {"rate": self.rate, "c_eps": self.c_eps, "beta1": self.beta1, "beta2": self.beta2}
        self.update(self.xp, self.gradients, **parts, **scalars)


def clip_by_norm(xp, gradients, *, limit, norm, work):
    """Scale all gradients down together where their norm is larger than a limit.

        g = g min(1, limit / |g|),   |g| = sqrt(sum of all g^2)

    gradients (P,) are changed in place; norm (1,) and work (P,) are overwritten; limit : a float
    Source: Pascanu, Mikolov & Bengio 2013, algorithm 1.
    """
    xp.multiply(gradients, gradients, out=work)
    xp.sum(work, axis=0, keepdims=True, out=norm)
    xp.sqrt(norm, out=norm)
    xp.maximum(norm, limit, out=norm)
    xp.divide(limit, norm, out=norm)
    xp.multiply(gradients, norm, out=gradients)


class ClipNorm(Optimizer):
    """Another optimizer, which sees the gradients clipped to a norm of at most `limit`."""

    def __init__(self, optimizer, limit):
        self.optimizer, self.limit = optimizer, self._positive("limit", limit)

    def attach(self, parameters, gradients):
        self.optimizer.attach(parameters, gradients)
        self.xp, self.state, self.gradients = parameters.backend.xp, self.optimizer.state, gradients.flat
        self.work, self.norm = self.xp.empty_like(self.gradients), self.xp.empty(1, self.gradients.dtype)

    @property
    def lr(self):
        return self.optimizer.lr

    @lr.setter
    def lr(self, lr):
        self.optimizer.lr = lr

    def step(self):
        clip_by_norm(self.xp, self.gradients, limit=self.limit, norm=self.norm, work=self.work)
        self.optimizer.step()
