"""SGD, RMSprop and Adam, each a few long passes over the flat arrays of values and gradients.

`attach(parameters, gradients)` binds an optimizer to a model with fresh state; `step()` applies one update.
All that changes lies in arrays on the device, by name in `state`: a captured graph and a checkpoint see all of it.
"""

import math

from .errors import MiniVAEError


class Optimizer:
    """What all share: the learning rate, kept in `state["lr"]` (1,), which may be changed between steps."""

    rule = None  # the pure function that makes one update
    moments = ()  # the names of those arrays in `state` that have a value for each parameter

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
        backend = self.backend = parameters.backend
        xp = self.xp = backend.xp
        self.values, self.gradients = parameters.flat, gradients.flat
        self.pieces = backend.pieces(self.values.size)
        self.work = backend.empty(self.values[self.pieces[0]].shape, self.values.dtype)
        self.rate = xp.empty(1, self.values.dtype)
        self.state = {"lr": xp.full(1, self._lr, self.values.dtype)} | self.fresh_state()
        self.fuse = backend.fuse

    def everything(self):
        """This optimizer and all those that it is made of."""
        return [self]

    def fresh_state(self):
        return {}

    def moment(self, value=0.0):
        """An array for `state` with a number for each parameter, at first `value`."""
        moment = self.backend.empty(self.values.shape, self.values.dtype)
        moment.fill(value)
        return moment

    def update(self, g, **scalars):
        """Apply the rule to all parameters, piece by piece."""
        rule, arrays = self.fuse(self.rule), {"p": self.values} | {name: self.state[name] for name in self.moments}
        for piece in self.pieces:
            views = {name: array[piece] for name, array in arrays.items()}
            rule(self.xp, g[piece], **views, work=self.work[: len(views["p"])], **scalars)

    @property
    def lr(self):
        return self._lr

    @lr.setter
    def lr(self, lr):
        self._lr = self._positive("lr", lr)
        self.state["lr"].fill(self._lr)


def add_momentum(xp, g, *, velocity, momentum):
    """velocity = momentum velocity + g;  g, velocity (P,), momentum a float."""
    xp.multiply(velocity, momentum, out=velocity)
    xp.add(velocity, g, out=velocity)


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
        return {"velocity": self.moment()} if self.momentum else {}

    def step(self):
        direction = self.gradients
        if self.momentum:
            direction = self.state["velocity"]
            self.fuse(add_momentum)(self.xp, self.gradients, velocity=direction, momentum=self.momentum)
        self.update(direction, rate=self.state["lr"])


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

    rule, moments = staticmethod(rmsprop_update), ("w",)

    def __init__(self, lr=1e-3, rho=0.9, eps=1e-7):
        super().__init__(lr)
        self.rho, self.eps = self._positive("rho", rho, below=1), self._positive("eps", eps)

    def fresh_state(self):
        return {"w": self.moment(self.eps / (1 - self.rho))}

    def step(self):
        self.xp.multiply(self.state["lr"], 1 / math.sqrt(1 - self.rho), out=self.rate)
        self.update(self.gradients, rate=self.rate, rho=self.rho, eps=self.eps)


def adam_scalars(xp, lr, *, power1, power2, rate, c_eps, beta1, beta2, eps, c, work):
    """The numbers that the next step of Adam needs, with c = sqrt((1 - beta2^t) / (1 - beta2)).

        rate = lr (1 - beta1) c / (1 - beta1^t),   c_eps = c eps

    power1, power2, c, work : (1,) float64, beta1^t and beta2^t, updated from t - 1, and two that are overwritten
    lr, rate, c_eps         : (1,) in the parameters' dtype, the last two overwritten;  beta1, beta2, eps : floats
    """
    xp.multiply(power1, beta1, out=power1)
    xp.multiply(power2, beta2, out=power2)
    xp.subtract(1, power2, out=c)
    xp.divide(c, 1 - beta2, out=c)
    xp.sqrt(c, out=c)
    xp.multiply(c, eps, out=work)
    xp.copyto(c_eps, work)
    xp.subtract(1, power1, out=work)
    xp.divide(c, work, out=c)
    xp.multiply(c, 1 - beta1, out=c)
    xp.multiply(c, lr, out=c)
    xp.copyto(rate, c)


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

    rule, moments = staticmethod(adam_update), ("m", "v")

    def __init__(self, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
        super().__init__(lr)
        self.beta1 = self._positive("beta1", beta1, below=1)
        self.beta2 = self._positive("beta2", beta2, below=1)
        self.eps = self._positive("eps", eps)

    def fresh_state(self):
        return {
            "m": self.moment(),
            "v": self.moment(),
            # beta1^t and beta2^t: in float32, 1 - beta2^t would lose half its digits in the first steps.
            "powers": self.xp.ones(2, "float64"),
        }

    def attach(self, parameters, gradients):
        super().attach(parameters, gradients)
        xp, powers = self.xp, self.state["powers"]
        self.c_eps = xp.empty_like(self.rate)
        self.doubles = {"power1": powers[:1], "power2": powers[1:]}
        self.doubles |= {name: xp.empty(1, "float64") for name in ("c", "work")}

    def step(self):
        scalars = {"rate": self.rate, "c_eps": self.c_eps, "beta1": self.beta1, "beta2": self.beta2}
        self.fuse(adam_scalars)(self.xp, self.state["lr"], **self.doubles, **scalars, eps=self.eps)
        self.update(self.gradients, **scalars)


def clip_by_norm(backend, gradients, *, limit, norm, work):
    """Scale all gradients down together where their norm is larger than a limit.

        g = g min(1, limit / |g|),   |g| = sqrt(sum of all g^2)

    gradients (P,) are changed in place; norm (1,) and work (P,) are overwritten; limit : a float
    Source: Pascanu, Mikolov & Bengio 2013, algorithm 1.
    """
    xp = backend.xp
    xp.multiply(gradients, gradients, out=work)
    xp.sum(work, axis=0, keepdims=True, out=norm)
    backend.fuse(clip_factor)(xp, norm=norm, limit=limit)
    xp.multiply(gradients, norm, out=gradients)


def clip_factor(xp, *, norm, limit):
    """min(1, limit / sqrt(norm)), in place;  norm (1,), the squared norm;  limit a float."""
    xp.sqrt(norm, out=norm)
    xp.maximum(norm, limit, out=norm)
    xp.divide(limit, norm, out=norm)


class ClipNorm(Optimizer):
    """Another optimizer, which sees the gradients clipped to a norm of at most `limit`."""

    def __init__(self, optimizer, limit):
        self.optimizer, self.limit = optimizer, self._positive("limit", limit)

    def attach(self, parameters, gradients):
        self.optimizer.attach(parameters, gradients)
        self.backend, self.state, self.gradients = parameters.backend, self.optimizer.state, gradients.flat
        xp = self.backend.xp
        self.work = self.backend.empty(self.gradients.shape, self.gradients.dtype)
        self.norm = xp.empty(1, self.gradients.dtype)

    def everything(self):
        return [self, *self.optimizer.everything()]

    @property
    def lr(self):
        return self.optimizer.lr

    @lr.setter
    def lr(self, lr):
        self.optimizer.lr = lr

    def step(self):
        clip_by_norm(self.backend, self.gradients, limit=self.limit, norm=self.norm, work=self.work)
        self.optimizer.step()
