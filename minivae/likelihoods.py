"""p(x given z): what the decoder's output means, and how well it explains x, in nats.

    log_prob(x, params) -> log_px (L, B)     params (L * B, P) is the decoder's output, x (B, X)
    backward(dlog_px) -> dparams (L * B, P)  after log_prob
    mean(params), sample(params, rng)        (rows, X): the mean of p(x given z), and a draw from it
"""

import math

import numpy as np

from .divergences import LOG_2PI
from .errors import MiniVAEError
from .layers import sigmoid
from .parameters import Module

LOG_2 = math.log(2)


def bernoulli_log_prob(xp, x, logits, *, log_px, prob, work):
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
    xp.multiply(logits, 0.5, out=prob)
    xp.tanh(prob, out=prob)
    xp.absolute(prob, out=terms)
    xp.log1p(terms, out=terms)
    xp.maximum(logits, 0, out=term)
    xp.subtract(terms, term, out=terms)
    xp.multiply(logits, x, out=term)
    xp.add(terms, term, out=terms)
    xp.sum(terms, axis=-1, out=log_px)
    xp.subtract(log_px, LOG_2 * x.shape[-1], out=log_px)
    xp.multiply(prob, 0.5, out=prob)
    xp.add(prob, 0.5, out=prob)


def bernoulli_log_prob_backward(xp, dlog_px, x, prob, *, dlogits):
    """The gradient of `bernoulli_log_prob`.

        dlogits = dlog_px (x - sigmoid(logits))

    dlog_px : (L, B, 1);  x : (B, X);  prob : (L, B, X);  dlogits : (L, B, X), overwritten
    """
    xp.subtract(x, prob, out=dlogits)
    xp.multiply(dlogits, dlog_px, out=dlogits)


def gaussian_log_prob(xp, x, mean, *, log_var, log_px, residual, work):
    """log p(x given z) for x that is Gaussian around the decoder's output with one fixed variance.

        log_px = -1/2 sum_i ((x - mean)^2 / var + log var + log 2 pi),   var = exp(log_var)

    x : (B, X);  mean, residual, work : (L, B, X);  log_var : a float;  log_px : (L, B); nats
    log_px, residual (x - mean) and work are overwritten.
    """
    xp.subtract(x, mean, out=residual)
    xp.multiply(residual, residual, out=work)
    xp.sum(work, axis=-1, out=log_px)
    xp.multiply(log_px, -0.5 * math.exp(-log_var), out=log_px)
    xp.subtract(log_px, 0.5 * x.shape[-1] * (log_var + LOG_2PI), out=log_px)


def gaussian_log_prob_backward(xp, dlog_px, residual, *, log_var, dmean):
    """The gradient of `gaussian_log_prob`.

        dmean = dlog_px (x - mean) / var

    dlog_px : (L, B, 1);  residual, dmean : (L, B, X);  dmean is overwritten
    """
    xp.multiply(residual, dlog_px, out=dmean)
    xp.multiply(dmean, math.exp(-log_var), out=dmean)


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

    x must lie in [0, 1]. Only for x of exactly 0 or 1 is this a normalised probability; grey values are read as
    probabilities, which trains well but is not a density (Loaiza-Ganem & Cunningham 2019).
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
        bernoulli_log_prob(self.xp, x, logits, log_px=log_px, prob=self.prob, work=work)
        return log_px

    def backward(self, dlog_px):
        dlogits = self.buffers("dlogits", *self.prob.shape)
        bernoulli_log_prob_backward(self.xp, dlog_px[..., None], self.x, self.prob, dlogits=dlogits)
        return dlogits.reshape(-1, dlogits.shape[-1])

    def mean(self, logits):
        mean = self.buffers("mean", *logits.shape)
        sigmoid(self.xp, logits, y=mean)
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
        work = self.buffers("dmean", *mean.shape)
        gaussian_log_prob(
            self.xp, x, mean, log_var=self.log_var, log_px=log_px, residual=self.residual, work=work
        )
        if not self.constants:
            self.xp.add(log_px, 0.5 * x.shape[-1] * (self.log_var + LOG_2PI), out=log_px)
        return log_px

    def backward(self, dlog_px):
        dmean = self.buffers("dmean", *self.residual.shape)
        gaussian_log_prob_backward(
            self.xp, dlog_px[..., None], self.residual, log_var=self.log_var, dmean=dmean
        )
        return dmean.reshape(-1, dmean.shape[-1])

    def mean(self, mean):
        return mean

    def sample(self, mean, rng):
        """A NumPy array, drawn with the NumPy generator `rng`."""
        mean = self.backend.to_host(mean)
        return mean + self.std * rng.standard_normal(mean.shape, np.float32).astype(mean.dtype)
