"""p(x given z): what the decoder's output means, and how well it explains x, in nats.

    log_prob(x, params) -> log_px (L, B)     params (L * B, P) is the decoder's output, x (B, X)
    backward(dlog_px) -> dparams (L * B, P)  after log_prob
    mean(params), sample(params, rng)        (rows, X): the mean of p(x given z), and a draw from it
"""

import math

import numpy as np

from .divergences import LOG_2PI, LOG_VAR_MAX
from .errors import MiniVAEError
from .layers import sigmoid
from .parameters import Module

LOG_2 = math.log(2)


def bernoulli_log_prob(backend, x, logits, *, log_px, prob, work):
    """log p(x given z) for pixels that are Bernoulli with the given logits l.

        log_px = sum_i (x l - log(1 + exp(l)))
               = sum_i (x l - max(l, 0) + log(1 + |t|) - log 2)   with t = tanh(l / 2)

    The second form never overflows, and t also gives the probability (1 + t) / 2 that the backward pass needs:
    one transcendental function serves both.

    x      : (B, X)      in [0, 1]; a grey value is read as the probability of a white pixel
    logits : (L, B, X)
    log_px : (L, B)      overwritten; nats
    prob   : (L, B, X)   overwritten with sigmoid(logits)
    work   : two arrays (L, B, X), overwritten
    Source: Kingma & Welling 2014, appendix C.1.
    """
    terms, term = work
    backend.fuse(bernoulli_terms)(backend.xp, x, logits, terms=terms, prob=prob, work=term)
    backend.xp.sum(terms, axis=-1, out=log_px)
    backend.xp.subtract(log_px, LOG_2 * x.shape[-1], out=log_px)


def bernoulli_terms(xp, x, logits, *, terms, prob, work):
    """What each pixel adds to `bernoulli_log_prob`, but for the constant log 2, and its probability.

        terms = x l - max(l, 0) + log(1 + |t|),   prob = (1 + t) / 2   with t = tanh(l / 2)

    x : (B, X);  logits, terms, prob, work : (L, B, X), the last three overwritten
    """
    xp.multiply(logits, 0.5, out=prob)
    xp.tanh(prob, out=prob)
    xp.absolute(prob, out=terms)
    xp.log1p(terms, out=terms)
    # max(l, 0) as (l + |l|) / 2: in NumPy these three passes take less time than a maximum with a number.
    xp.absolute(logits, out=work)
    xp.add(work, logits, out=work)
    xp.multiply(work, 0.5, out=work)
    xp.subtract(terms, work, out=terms)
    xp.multiply(logits, x, out=work)
    xp.add(terms, work, out=terms)
    xp.multiply(prob, 0.5, out=prob)
    xp.add(prob, 0.5, out=prob)


def bernoulli_log_prob_backward(xp, dlog_px, x, prob, *, dlogits):
    """The gradient of `bernoulli_log_prob`.

        dlogits = dlog_px (x - sigmoid(logits))

    dlog_px : (L, B, 1);  x : (B, X);  prob : (L, B, X);  dlogits : (L, B, X), overwritten
    """
    xp.subtract(x, prob, out=dlogits)
    xp.multiply(dlogits, dlog_px, out=dlogits)


def gaussian_log_prob(backend, x, mean, *, log_var, constant, log_px, residual, work):
    """log p(x given z) for x that is Gaussian around the decoder's output with one fixed variance.

        log_px = -1/2 sum_i ((x - mean)^2 / var + constant),   var = exp(log_var)

    where constant = log_var + log 2 pi makes it a density.

    x : (B, X);  mean, residual, work : (L, B, X);  log_var, constant : floats;  log_px : (L, B); nats
    log_px, residual (x - mean) and work are overwritten.
    """
    backend.fuse(squared_error)(backend.xp, x, mean, residual=residual, square=work)
    backend.xp.sum(work, axis=-1, out=log_px)
    factor, offset = -0.5 * math.exp(-log_var), -0.5 * x.shape[-1] * constant
    backend.fuse(scale_and_shift)(backend.xp, log_px, factor=factor, offset=offset)


def squared_error(xp, x, mean, *, residual, square):
    """residual = x - mean,  square = residual^2;  x (B, X), the others (L, B, X)."""
    xp.subtract(x, mean, out=residual)
    xp.multiply(residual, residual, out=square)


def scale_and_shift(xp, values, *, factor, offset):
    """values = factor values + offset, in place, for two floats."""
    xp.multiply(values, factor, out=values)
    xp.add(values, offset, out=values)


def gaussian_log_prob_backward(xp, dlog_px, residual, *, log_var, dmean):
    """The gradient of `gaussian_log_prob`.

        dmean = dlog_px (x - mean) / var

    dlog_px : (L, B, 1);  residual, dmean : (L, B, X);  dmean is overwritten
    """
    xp.multiply(residual, dlog_px, out=dmean)
    xp.multiply(dmean, math.exp(-log_var), out=dmean)


def heteroscedastic_log_prob(xp, x, mean, log_var, *, log_px, residual, precision, work):
    """log p(x given z) for x that is Gaussian with a mean and a variance for each value.

        log_px = -1/2 sum_i ((x_i - mean_i)^2 / var_i + log var_i + log 2 pi),   var = exp(log_var)

    x : (B, X);  mean, residual, work : (L, B, X);  log_px : (L, B); nats
    log_var, precision : (L, B, X), or (1, 1, 1) for one variance of all
    log_px, residual (x - mean), precision (1 / var) and work are overwritten.
    """
    xp.negative(log_var, out=precision)
    xp.exp(precision, out=precision)
    xp.subtract(x, mean, out=residual)
    xp.multiply(residual, residual, out=work)
    xp.multiply(work, precision, out=work)
    xp.add(work, log_var, out=work)
    xp.sum(work, axis=-1, out=log_px)
    xp.add(log_px, x.shape[-1] * LOG_2PI, out=log_px)
    xp.multiply(log_px, -0.5, out=log_px)


def heteroscedastic_log_prob_backward(xp, dlog_px, residual, precision, *, dmean, dlog_var):
    """The gradients of `heteroscedastic_log_prob`.

        dmean = dlog_px (x - mean) / var,   dlog_var = dlog_px 1/2 ((x - mean)^2 / var - 1)

    dlog_px : (L, B, 1);  residual : (L, B, X);  precision : as above
    dmean, dlog_var : (L, B, X), overwritten; one variance of all has the sum of dlog_var
    """
    xp.multiply(residual, precision, out=dmean)
    xp.multiply(residual, residual, out=dlog_var)
    xp.multiply(dlog_var, precision, out=dlog_var)
    xp.subtract(dlog_var, 1, out=dlog_var)
    xp.multiply(dlog_var, 0.5, out=dlog_var)
    xp.multiply(dlog_var, dlog_px, out=dlog_var)
    xp.multiply(dmean, dlog_px, out=dmean)


def categorical_log_prob(xp, chosen, logits, *, log_px, prob, work):
    """log p(x given z) for values that are one of K levels.

        log_px = sum_i (l_i[x_i] - log sum_k exp(l_i[k]))

    chosen : (B, X, K)     1 at the level of each value, else 0
    logits : (L, B, X, K)
    log_px : (L, B)        overwritten; nats
    prob   : (L, B, X, K)  overwritten with the softmax of the logits over k
    work   : (L, B, X, K) and two (L, B, X, 1), overwritten
    """
    terms, top, total = work
    xp.max(logits, axis=-1, keepdims=True, out=top)
    xp.subtract(logits, top, out=terms)  # so that exp cannot overflow
    xp.exp(terms, out=prob)
    xp.sum(prob, axis=-1, keepdims=True, out=total)
    xp.divide(prob, total, out=prob)
    xp.log(total, out=total)
    xp.multiply(terms, chosen, out=terms)
    xp.sum(terms, axis=-1, keepdims=True, out=top)
    xp.subtract(top, total, out=top)
    xp.sum(top, axis=(2, 3), out=log_px)


def categorical_log_prob_backward(xp, dlog_px, chosen, prob, *, dlogits):
    """The gradient of `categorical_log_prob`.

        dl_i[k] = dlog_px ((1 if k is x_i else 0) - softmax(l_i)[k])

    dlog_px : (L, B, 1, 1);  chosen : (B, X, K);  prob, dlogits : (L, B, X, K);  dlogits is overwritten
    """
    xp.subtract(chosen, prob, out=dlogits)
    xp.multiply(dlogits, dlog_px, out=dlogits)


def hold(xp, raw, low, *, log_var, inside):
    """log_var = raw, held within [low, 80]; the mask `inside` is 1 where it was already. Both are overwritten."""
    xp.maximum(raw, low, out=log_var)
    xp.minimum(log_var, LOG_VAR_MAX, out=log_var)
    xp.equal(log_var, raw, out=inside)


class Likelihood(Module):
    """What all likelihoods share: the decoder's output has one row for each of the L * B samples."""

    def params_dim(self, n_pixels):
        """The width P of the decoder's output for rows of n_pixels values."""
        return n_pixels

    def check(self, x):
        """Raise MiniVAEError where x (a NumPy array) cannot come from this likelihood."""

    def by_sample(self, params, x):
        """params (L * B, P) as (L, B, P), without a copy."""
        return params.reshape(-1, len(x), params.shape[1])


class Bernoulli(Likelihood):
    """Each pixel is 1 with probability sigmoid(logit), else 0.

    x must lie in [0, 1]. Only where every x is 0 or 1, as after `mv.binarize`, are these probabilities that add up
    to one. For grey x the same formula is the usual training loss, the cross-entropy of each pixel, but it is no
    log-density: the integral of p^x (1 - p)^(1 - x) over x in [0, 1] is not 1 but 1 / C(p) with

        C(p) = 2 atanh(1 - 2 p) / (1 - 2 p) >= 2,   C(1/2) = 2.

    Adding log C(p) for each pixel, at least 0.69 nats, would make it one: the continuous Bernoulli distribution. So
    never compare a -ELBO of grey pixels with one of black and white pixels, or of a Gaussian, nor call it log p(x).
    Source: Loaiza-Ganem & Cunningham 2019.
    """

    def check(self, x):
        low, high = x.min(), x.max()
        if low < 0 or high > 1:
            raise MiniVAEError(
                f"a Bernoulli likelihood expects values in [0, 1], got [{low:g}, {high:g}]: pass uint8 pixels "
                "as they are, divide grey values by their maximum, or use likelihood=Gaussian()"
            )

    def log_prob(self, x, logits):
        logits = self.by_sample(logits, x)
        self.x, self.prob = x, self.buffers("prob", *logits.shape)
        log_px = self.buffers("log_px", *logits.shape[:2])
        work = self.buffers("terms", *logits.shape), self.buffers("dlogits", *logits.shape)
        bernoulli_log_prob(self.backend, x, logits, log_px=log_px, prob=self.prob, work=work)
        return log_px

    def backward(self, dlog_px):
        dlogits = self.buffers("dlogits", *self.prob.shape)
        self.fuse(bernoulli_log_prob_backward)(self.xp, dlog_px[..., None], self.x, self.prob, dlogits=dlogits)
        return dlogits.reshape(-1, dlogits.shape[-1])

    def mean(self, logits):
        mean = self.buffers("mean", *logits.shape)
        self.fuse(sigmoid)(self.xp, logits, y=mean)
        return mean

    def sample(self, logits, rng):
        """A NumPy array of zeros and ones, drawn with the NumPy generator `rng`."""
        mean = self.backend.to_host(self.mean(logits))
        return (rng.random(mean.shape, np.float32) < mean).astype(mean.dtype)


class Gaussian(Likelihood):
    """Each pixel is Gaussian around the decoder's output with one fixed standard deviation.

    std       : 1 makes -log p(x given z) half the squared error plus the constant below
    constants : False leaves out the terms that depend on no parameter, log(std) + 1/2 log 2 pi = 0.9189 nats a
                pixel for std = 1, as tutorials with a squared error do; the result is then no log-likelihood
    """

    def __init__(self, std=1.0, constants=True):
        if not std > 0:
            raise MiniVAEError(f"Gaussian: std must be positive, got {std!r}")
        self.std, self.constants = float(std), bool(constants)
        self.log_var = 2 * math.log(self.std)

    def log_prob(self, x, mean):
        mean = self.by_sample(mean, x)
        self.residual = self.buffers("residual", *mean.shape)
        log_px = self.buffers("log_px", *mean.shape[:2])
        constant = self.log_var + LOG_2PI if self.constants else 0.0
        parts = {"log_px": log_px, "residual": self.residual, "work": self.buffers("dmean", *mean.shape)}
        gaussian_log_prob(self.backend, x, mean, log_var=self.log_var, constant=constant, **parts)
        return log_px

    def backward(self, dlog_px):
        dmean = self.buffers("dmean", *self.residual.shape)
        dlog_px = dlog_px[..., None]
        self.fuse(gaussian_log_prob_backward)(self.xp, dlog_px, self.residual, log_var=self.log_var, dmean=dmean)
        return dmean.reshape(-1, dmean.shape[-1])

    def mean(self, mean):
        return mean

    def sample(self, mean, rng):
        """A NumPy array, drawn with the NumPy generator `rng`."""
        mean = self.backend.to_host(mean)
        return mean + self.std * rng.standard_normal(mean.shape, np.float32).astype(mean.dtype)


class LearnedVariance(Likelihood):
    """What the Gaussians with a learned variance share.

    Where x can be predicted exactly, as pixels that are always black, log p(x given z) grows without end as the
    variance goes to 0: the standard deviation is held above `min_std`. Outside, log_var has no gradient.
    """

    def __init__(self, min_std=1e-3):
        if not 0 < min_std < math.inf:
            raise MiniVAEError(f"{type(self).__name__}: min_std must be positive, got {min_std!r}")
        self.min_std = float(min_std)

    def _log_prob(self, x, mean, raw_log_var):
        xp, buffers, shape = self.xp, self.buffers, raw_log_var.shape
        log_var, self.inside = buffers("log_var_held", *shape), buffers("inside", *shape, dtype=bool)
        hold(xp, raw_log_var, 2 * math.log(self.min_std), log_var=log_var, inside=self.inside)
        self.residual, self.precision = buffers("residual", *mean.shape), buffers("precision", *shape)
        log_px, work = buffers("log_px", *mean.shape[:2]), buffers("work", *mean.shape)
        outputs = {"log_px": log_px, "residual": self.residual, "precision": self.precision}
        heteroscedastic_log_prob(xp, x, mean, log_var, **outputs, work=work)
        return log_px

    def _backward(self, dlog_px, dmean, dlog_var):
        given = self.residual, self.precision
        heteroscedastic_log_prob_backward(self.xp, dlog_px[..., None], *given, dmean=dmean, dlog_var=dlog_var)
        self.xp.multiply(dlog_var, self.inside, out=dlog_var)

    def _draw(self, mean, log_var, rng):
        std = np.exp(0.5 * np.clip(log_var, 2 * math.log(self.min_std), LOG_VAR_MAX))
        return mean + std * rng.standard_normal(mean.shape, np.float32).astype(mean.dtype)


class SharedVarianceGaussian(LearnedVariance):
    """Each pixel is Gaussian around the decoder's output; one variance for all of them is learned.

    std     : the standard deviation at first; the parameter is "likelihood.log_var" (1,)
    min_std : the least standard deviation

    At the optimum the variance is the mean squared error: what beta is to a fixed variance is found by training.
    Source: Rybkin, Daniilidis & Levine 2021.
    """

    def __init__(self, std=1.0, min_std=1e-3):
        super().__init__(min_std)
        if not 0 < std < math.inf:
            raise MiniVAEError(f"SharedVarianceGaussian: std must be positive, got {std!r}")
        self.std = float(std)

    def shapes(self):
        return {"log_var": (1,)}

    def initial(self, rng):
        return {"log_var": np.full(1, 2 * math.log(self.std))}

    def log_prob(self, x, mean):
        return self._log_prob(x, self.by_sample(mean, x), self.log_var.reshape(1, 1, 1))

    def backward(self, dlog_px):
        dmean, dlog_var = (self.buffers(name, *self.residual.shape) for name in ("dmean", "dlog_var_each"))
        self._backward(dlog_px, dmean, dlog_var)
        self.xp.sum(dlog_var.reshape(1, -1), axis=1, out=self.dlog_var)
        return dmean.reshape(-1, dmean.shape[-1])

    def mean(self, mean):
        return mean

    def sample(self, mean, rng):
        """A NumPy array, drawn with the NumPy generator `rng`."""
        return self._draw(self.backend.to_host(mean), self.backend.to_host(self.log_var), rng)


class PredictedVarianceGaussian(LearnedVariance):
    """Each pixel is Gaussian with a mean and a variance that the decoder predicts: P = 2X, means, then log_var.

    min_std : the least standard deviation

    With x in the place of z it is regression that also says how sure it is (Nix & Weigend 1994):

    >>> import numpy as np
    >>> import minivae as mv
    >>> from minivae.parameters import allocate
    >>> rng = np.random.default_rng(0)
    >>> a = rng.uniform(-1, 1, (500, 1))
    >>> target = 2 * a + 0.1 * np.exp(a) * rng.standard_normal((500, 1))  # the noise grows with a
    >>> network, likelihood = mv.Sequential([mv.Dense(1, 2)]), mv.PredictedVarianceGaussian()
    >>> parts = {"network": network, "likelihood": likelihood}
    >>> parameters, gradients = allocate(parts, mv.get_backend("numpy"), "float64", seed=0)
    >>> optimizer = mv.Adam(0.03)
    >>> optimizer.attach(parameters, gradients)
    >>> for _ in range(600):
    ...     log_px = likelihood.log_prob(target, network.forward(a))  # (1, 500): one sample for each example
    ...     _ = network.backward(likelihood.backward(np.full_like(log_px, -1 / 500)))
    ...     optimizer.step()
    >>> mean, log_var = network.forward(np.array([[-1.0], [1.0]])).T
    >>> bool(np.allclose(mean, [-2, 2], atol=0.05))
    True
    >>> bool(np.allclose(np.exp(log_var / 2), 0.1 * np.exp([-1, 1]), rtol=0.15))
    True
    """

    def params_dim(self, n_pixels):
        return 2 * n_pixels

    def log_prob(self, x, params):
        params, X = self.by_sample(params, x), x.shape[1]
        return self._log_prob(x, params[..., :X], params[..., X:])

    def backward(self, dlog_px):
        L, B, X = self.residual.shape
        dparams = self.buffers("dparams", L, B, 2 * X)
        self._backward(dlog_px, dparams[..., :X], dparams[..., X:])
        return dparams.reshape(L * B, 2 * X)

    def mean(self, params):
        return params[:, : params.shape[1] // 2]

    def sample(self, params, rng):
        """A NumPy array, drawn with the NumPy generator `rng`."""
        mean, log_var = np.split(self.backend.to_host(params), 2, axis=1)
        return self._draw(mean, log_var, rng)


class Categorical(Likelihood):
    """Each pixel is one of K = `levels` values, each with a logit: P = X K, the logits of a pixel side by side.

    x : level k of K is the number k / (K - 1), so uint8 pixels are right as they are for K = 256; another x in
        [0, 1] is taken for the nearest level

    Unlike the cross-entropy of grey pixels this is a true log-probability, in nats for 8 bits.
    Source: van den Oord, Kalchbrenner & Kavukcuoglu 2016 (pixels as discrete variables).

    With x in the place of z it is classification:

    >>> import numpy as np
    >>> import minivae as mv
    >>> from minivae.parameters import allocate
    >>> rng = np.random.default_rng(0)
    >>> label = rng.integers(0, 3, 300)
    >>> a = 4 * np.eye(3)[label] + rng.standard_normal((300, 3))
    >>> network, likelihood = mv.Sequential([mv.Dense(3, 3)]), mv.Categorical(levels=3)
    >>> parts = {"network": network, "likelihood": likelihood}
    >>> parameters, gradients = allocate(parts, mv.get_backend("numpy"), "float64", seed=0)
    >>> optimizer = mv.Adam(0.1)
    >>> optimizer.attach(parameters, gradients)
    >>> for _ in range(100):
    ...     log_px = likelihood.log_prob(label[:, None] / 2, network.forward(a))  # -log_px is the cross-entropy
    ...     _ = network.backward(likelihood.backward(np.full_like(log_px, -1 / 300)))
    ...     optimizer.step()
    >>> bool((network.forward(a).argmax(axis=1) == label).mean() > 0.97)
    True
    """

    def __init__(self, levels=256):
        if not isinstance(levels, (int, np.integer)) or levels < 2:
            raise MiniVAEError(f"Categorical: levels should be an integer of at least 2, got {levels!r}")
        self.levels = int(levels)

    def params_dim(self, n_pixels):
        return n_pixels * self.levels

    def check(self, x):
        low, high = x.min(), x.max()
        if low < 0 or high > 1:
            raise MiniVAEError(
                f"a Categorical likelihood expects values k / {self.levels - 1} in [0, 1], got [{low:g}, {high:g}]: "
                "pass uint8 pixels as they are, or divide levels by their maximum"
            )

    def attach(self, name, backend, parameters, gradients):
        super().attach(name, backend, parameters, gradients)
        self.values = backend.asarray(np.arange(self.levels), parameters.dtype)

    def _chosen(self, x):
        """1 at the level of each value, else 0: (B, X, K)."""
        level = self.buffers("level", *x.shape)
        self.xp.multiply(x, self.levels - 1, out=level)
        self.xp.rint(level, out=level)
        chosen = self.buffers("chosen", *x.shape, self.levels, dtype=bool)
        self.xp.equal(level[..., None], self.values, out=chosen)
        return chosen

    def log_prob(self, x, logits):
        logits = logits.reshape(-1, *x.shape, self.levels)
        self.chosen, self.prob = self._chosen(x), self.buffers("prob", *logits.shape)
        log_px, column = self.buffers("log_px", *logits.shape[:2]), (*logits.shape[:3], 1)
        work = self.buffers("dlogits", *logits.shape), self.buffers("top", *column), self.buffers("total", *column)
        categorical_log_prob(self.xp, self.chosen, logits, log_px=log_px, prob=self.prob, work=work)
        return log_px

    def backward(self, dlog_px):
        dlogits = self.buffers("dlogits", *self.prob.shape)
        dlog_px = dlog_px[..., None, None]
        categorical_log_prob_backward(self.xp, dlog_px, self.chosen, self.prob, dlogits=dlogits)
        L, B, X, K = dlogits.shape
        return dlogits.reshape(L * B, X * K)

    def _probabilities(self, logits):
        """The softmax of logits (rows, X K) over the K of each pixel: (rows, X, K)."""
        xp, logits = self.xp, logits.reshape(len(logits), -1, self.levels)
        prob, column = self.buffers("mean_prob", *logits.shape), self.buffers("column", *logits.shape[:2], 1)
        xp.max(logits, axis=-1, keepdims=True, out=column)
        xp.subtract(logits, column, out=prob)
        xp.exp(prob, out=prob)
        xp.sum(prob, axis=-1, keepdims=True, out=column)
        xp.divide(prob, column, out=prob)
        return prob

    def mean(self, logits):
        prob = self._probabilities(logits)
        self.xp.multiply(prob, self.values, out=prob)
        mean = self.buffers("mean", *prob.shape[:2])
        self.xp.sum(prob, axis=-1, out=mean)
        self.xp.multiply(mean, 1 / (self.levels - 1), out=mean)
        return mean

    def sample(self, logits, rng):
        """A NumPy array of numbers k / (K - 1), drawn with the NumPy generator `rng`."""
        below = self.backend.to_host(self._probabilities(logits)).cumsum(axis=-1)
        level = (below[..., :-1] < rng.random((*below.shape[:2], 1), np.float32)).sum(axis=-1)
        return (level / (self.levels - 1)).astype(below.dtype)
