"""p(x given z): what the decoder's output means, and how well it explains x, in nats.

    log_px, backward = bernoulli_log_prob(x, logits)
    dlogits = backward(dlog_px)

x is (B, X), the decoder's output (L, B, P) for L samples of z, and log_px (L, B).
"""

import math

import numpy as np

from ..arguments import at_least, check_unit, flag, integer
from ..errors import MiniVAEError
from .gaussian import LOG_2PI, LOG_VAR_MAX, hold
from .layers import sigmoid
from .parameters import Part

LOG_2 = math.log(2)
STD = 1e-15, 1e15  # within which float32 can hold a standard deviation's square and its inverse


def bernoulli_log_prob(x, logits):
    """log p(x given z) for pixels that are Bernoulli with the given logits l.

        log_px = sum_i (x l - log(1 + exp(l)))
               = sum_i (x l - max(l, 0) + log(1 + |t|) - log 2)   with t = tanh(l / 2)

    The second form never overflows, and t also gives the probability sigmoid(l) = (1 + t) / 2.

    x (B, X) in [0, 1], where grey is read as the probability of white;  logits (L, B, X) -> log_px (L, B)

    dlog_px/dl = x - sigmoid(l).   Source: Kingma & Welling 2014, appendix C.1.
    """
    t = np.tanh(0.5 * logits)
    log_px = np.sum(np.log1p(np.abs(t)) - np.maximum(logits, 0) + x * logits, axis=-1) - LOG_2 * x.shape[-1]
    return log_px, lambda dlog_px: dlog_px[..., None] * (x - (0.5 + 0.5 * t))


def gaussian_log_prob(x, mean, std=1.0, constants=True):
    """log p(x given z) for x that is Gaussian around the decoder's output with one fixed standard deviation.

        log_px = -1/2 sum_i ((x - mean)^2 / std^2 + log std^2 + log 2 pi),   the last two if `constants`

    x (B, X);  mean (L, B, X) -> log_px (L, B)

    dlog_px/dmean = (x - mean) / std^2.
    """
    residual, precision = x - mean, 1 / std**2
    constant = (2 * math.log(std) + LOG_2PI) * x.shape[-1] if constants else 0.0
    log_px = np.sum(residual**2, axis=-1) * (-0.5 * precision) - 0.5 * constant
    return log_px, lambda dlog_px: dlog_px[..., None] * precision * residual


def heteroscedastic_log_prob(x, mean, log_var):
    """log p(x given z) for x that is Gaussian with a mean and a variance for each value.

        log_px = -1/2 sum_i ((x_i - mean_i)^2 / var_i + log_var_i + log 2 pi),   var = exp(log_var)

    x (B, X);  mean (L, B, X);  log_var (L, B, X), or (1, 1, 1) for one variance of all -> log_px (L, B)

    dlog_px/dmean = (x - mean) / var;  dlog_px/dlog_var = 1/2 ((x - mean)^2 / var - 1), summed where it is shared.
    """
    residual, precision = x - mean, np.exp(-log_var)
    square = residual**2 * precision

    def backward(dlog_px):
        dlog_px = dlog_px[..., None]
        dlog_var = dlog_px * (0.5 * (square - 1))
        if log_var.shape != mean.shape:
            dlog_var = np.sum(dlog_var, axis=(0, 1, 2), keepdims=True)
        return dlog_px * (residual * precision), dlog_var  # dmean, dlog_var

    return -0.5 * (np.sum(square + log_var, axis=-1) + LOG_2PI * x.shape[-1]), backward


def log_softmax(logits):
    """Log-probabilities, and probabilities, from logits along the last axis; exp cannot overflow.

    log p_k = l_k - log sum_j exp(l_j)
    """
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    p = np.exp(shifted)
    total = np.sum(p, axis=-1, keepdims=True)
    return shifted - np.log(total), p / total


def categorical_log_prob(chosen, logits):
    """log p(x given z) for values that are one of K levels.

        log_px = sum_i (l_i[x_i] - log sum_k exp(l_i[k]))

    chosen (B, X, K), 1 at the level of each value, else 0;  logits (L, B, X, K) -> log_px (L, B)

    dlog_px/dl_i[k] = (1 if k is x_i else 0) - softmax(l_i)[k].
    """
    log_p, p = log_softmax(logits)
    log_px = np.sum(np.sum(log_p * chosen, axis=-1), axis=-1)
    return log_px, lambda dlog_px: dlog_px[..., None, None] * (chosen - p)


# ------------------------------------------------------------------------------------------------- the classes


class Likelihood(Part):
    """p(x given z).

    log_prob(params, x, out) -> log_px, backward           out (L, B, P) is the decoder's output, x (B, X)
        backward(dlog_px) -> dout, grads
    mean(params, out), sample(params, out, rng)            for out (N, P): the mean of p(x given z), and a draw from it
    """

    from_logits = False  # whether the decoder's output is logits, any numbers
    takes_nan = False  # whether a NaN in x is a value that is missing

    def params_dim(self, n_pixels):
        """The width P of the decoder's output for rows of n_pixels values."""
        return n_pixels

    def check(self, x):
        """Raise MiniVAEError where x (a NumPy array) cannot come from this likelihood."""

    def check_pixels(self, x):
        """Raise MiniVAEError where x, a NumPy array of uint8, is not meant as pixels, to be divided by 255."""

    def log_prob(self, params, x, out):
        raise NotImplementedError

    def mean(self, params, out):
        raise NotImplementedError

    def sample(self, params, out, rng):
        """A NumPy array, drawn with the NumPy generator `rng`; params and out are NumPy arrays."""
        raise NotImplementedError


class Bernoulli(Likelihood):
    """Each pixel is 1 with probability sigmoid(logit), else 0; see `bernoulli_log_prob`.

    x must lie in [0, 1]. Only where every x is 0 or 1, as after `mv.binarize`, are these probabilities that add up
    to one. For grey x the same formula is the usual training loss, the cross-entropy of each pixel, but it is no
    log-density: the integral of p^x (1 - p)^(1 - x) over x in [0, 1] is not 1 but 1 / C(p) with

        C(p) = 2 atanh(1 - 2 p) / (1 - 2 p) >= 2,   C(1/2) = 2.

    Adding log C(p) for each pixel, at least 0.69 nats, would make it one: the continuous Bernoulli distribution. So
    never compare a -ELBO of grey pixels with one of black and white pixels, or of a Gaussian, nor call it log p(x).
    Source: Loaiza-Ganem & Cunningham 2019.
    """

    from_logits = True

    def check(self, x):
        cure = "pass uint8 pixels as they are, divide grey values by their maximum, or use likelihood=Gaussian()"
        check_unit("a Bernoulli likelihood expects values", x, cure)

    def log_prob(self, params, x, logits):
        log_px, log_prob_backward = bernoulli_log_prob(x, logits)
        return log_px, lambda dlog_px: (log_prob_backward(dlog_px), {})

    def mean(self, params, logits):
        return sigmoid(logits)[0]

    def sample(self, params, logits, rng):
        mean = self.mean(params, logits)
        return (rng.random(mean.shape, np.float32) < mean).astype(mean.dtype)


class Gaussian(Likelihood):
    """Each pixel is Gaussian around the decoder's output with one fixed standard deviation; see `gaussian_log_prob`.

    std       : 1 makes -log p(x given z) half the squared error plus the constant below
    constants : False leaves out the terms that depend on no parameter, log(std) + 1/2 log 2 pi = 0.9189 nats a
                pixel for std = 1, as tutorials with a squared error do; the result is then no log-likelihood
    """

    def __init__(self, std: float = 1.0, constants: bool = True) -> None:
        self.std, self.constants = at_least("Gaussian: std", std, *STD), flag("Gaussian: constants", constants)

    def log_prob(self, params, x, mean):
        log_px, log_prob_backward = gaussian_log_prob(x, mean, self.std, self.constants)
        return log_px, lambda dlog_px: (log_prob_backward(dlog_px), {})

    def mean(self, params, mean):
        return mean

    def sample(self, params, mean, rng):
        return mean + self.std * rng.standard_normal(mean.shape, np.float32).astype(mean.dtype)


class LearnedVariance(Likelihood):
    """What the Gaussians with a learned variance share; see `heteroscedastic_log_prob`.

    Where x can be predicted exactly, as pixels that are always black, log p(x given z) grows without end as the
    variance goes to 0: the standard deviation is held above `min_std`. Outside, log_var has no gradient: a shared one
    that has fallen below stays there.
    """

    def __init__(self, min_std: float = 1e-3) -> None:
        self.min_std = at_least(f"{type(self).__name__}: min_std", min_std, *STD)

    def _log_prob(self, x, mean, raw_log_var):
        """log_px, and the way back: dlog_px -> dmean, dlog_var."""
        log_var, hold_backward = hold(raw_log_var, 2 * math.log(self.min_std), LOG_VAR_MAX)
        log_px, log_prob_backward = heteroscedastic_log_prob(x, mean, log_var)

        def backward(dlog_px):
            dmean, dlog_var = log_prob_backward(dlog_px)
            return dmean, hold_backward(dlog_var)

        return log_px, backward

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

    def __init__(self, std: float = 1.0, min_std: float = 1e-3) -> None:
        super().__init__(min_std)
        self.std = at_least("SharedVarianceGaussian: std, which is held above min_std,", std, self.min_std, STD[1])

    def shapes(self):
        return {"log_var": (1,)}

    def initial(self, rng):
        return {"log_var": np.full(1, 2 * math.log(self.std))}

    def log_prob(self, params, x, mean):
        log_px, log_prob_backward = self._log_prob(x, mean, params["log_var"].reshape(1, 1, 1))

        def backward(dlog_px):
            dmean, dlog_var = log_prob_backward(dlog_px)
            return dmean, {"log_var": dlog_var.reshape(1)}

        return log_px, backward

    def mean(self, params, mean):
        return mean

    def sample(self, params, mean, rng):
        return self._draw(mean, params["log_var"], rng)


class PredictedVarianceGaussian(LearnedVariance):
    """Each pixel is Gaussian with a mean and a variance that the decoder predicts: P = 2X, means, then log_var.

    min_std : the least standard deviation

    With x in the place of z it is regression that also says how sure it is (Nix & Weigend 1994):
    `tests/truths/test_likelihoods.py` does that in a few lines.
    """

    def params_dim(self, n_pixels):
        return 2 * n_pixels

    def log_prob(self, params, x, out):
        X = x.shape[1]
        log_px, log_prob_backward = self._log_prob(x, out[..., :X], out[..., X:])
        return log_px, lambda dlog_px: (np.concatenate(log_prob_backward(dlog_px), axis=-1), {})

    def mean(self, params, out):
        return out[:, : out.shape[1] // 2]

    def sample(self, params, out, rng):
        return self._draw(*np.split(out, 2, axis=1), rng)


class Categorical(Likelihood):
    """Each pixel is one of K = `levels` values, each with a logit: P = X K, the logits of a pixel side by side.

    x : level k of K is the number k / (K - 1), so uint8 pixels are right as they are for K = 256; another x in
        [0, 1] is taken for the nearest level. For a smaller K, uint8 with no value above K - 1 is refused: that is how
        levels look, not pixels

    Unlike the cross-entropy of grey pixels this is a true log-probability of all X levels, in nats; divided by X log 2
    it is in bits per value. See `categorical_log_prob`.
    Source: van den Oord, Kalchbrenner & Kavukcuoglu 2016 (pixels as discrete variables).
    """

    from_logits = True

    def __init__(self, levels: int = 256) -> None:
        self.levels = integer("Categorical: levels", levels, 2)

    def constant_arrays(self):
        return {"level": np.arange(self.levels)}

    def params_dim(self, n_pixels):
        return n_pixels * self.levels

    def check(self, x):
        cure = "pass uint8 pixels as they are, or divide levels by their maximum"
        check_unit(f"a Categorical likelihood expects values k / {self.levels - 1}", x, cure)

    def check_pixels(self, x):
        if 0 < x.max(initial=0) < self.levels < 256:
            raise MiniVAEError(
                f"x is uint8, which is read as pixels and divided by 255, but its largest value is {x.max()}: pass the "
                f"levels of Categorical({self.levels}) as x / {self.levels - 1}, or dark pixels as x / 255"
            )

    def log_prob(self, params, x, logits):
        chosen = np.rint(x * (self.levels - 1))[..., None] == params["level"]
        split = logits.reshape(*logits.shape[:2], x.shape[1], self.levels)
        log_px, log_prob_backward = categorical_log_prob(chosen, split)
        return log_px, lambda dlog_px: (log_prob_backward(dlog_px).reshape(logits.shape), {})

    def mean(self, params, logits):
        _, p = log_softmax(logits.reshape(len(logits), -1, self.levels))
        return np.sum(p * params["level"], axis=-1) * (1 / (self.levels - 1))

    def sample(self, params, logits, rng):
        """Numbers k / (K - 1)."""
        _, p = log_softmax(logits.reshape(len(logits), -1, self.levels))
        below = p.cumsum(axis=-1)
        level = (below[..., :-1] < rng.random((*below.shape[:2], 1), np.float32)).sum(axis=-1)
        return (level / (self.levels - 1)).astype(below.dtype)
