"""Every backward pass against central differences, in float64.

For a function with outputs y and random cotangents c, the number sum(c y) has the gradients that `backward(c)`
returns. Each is compared with (f(v + h) - f(v - h)) / 2h. The error of a tensor is the largest difference,
relative to the largest gradient in it; where that is so small that f's own rounding would be an error above
TOLERANCE, relative to a gradient for which it would be one of TOLERANCE.
"""

from dataclasses import dataclass

import numpy as np

from .backend import generator
from .bounds import ELBO, ImportanceWeighted
from .conditioning import Labels
from .conv import Conv2d, ConvTranspose2d, Flatten, Reshape
from .errors import MiniVAEError
from .flows import FlowPosterior, InverseAutoregressive, Planar
from .layers import Dense, ReLU, Sequential, Sigmoid, Tanh
from .likelihoods import Bernoulli, Categorical, Gaussian, PredictedVarianceGaussian, SharedVarianceGaussian
from .parameters import allocate
from .posteriors import DiagonalGaussian
from .vae import VAE

TOLERANCE = 1e-6
STEP = 1e-6


@dataclass
class Result:
    """The outcome of one check; `where` names the worst entry with both its values."""

    name: str
    checked: int
    error: float
    where: str

    @property
    def passed(self):
        return self.error <= TOLERANCE


def compare(name, backend, arrays, forward, backward, cotangents, limit=None, seed=0):
    """Check the gradients that `backward` gives for `arrays`, which `forward` reads.

    arrays          : dict of name -> float64 array on the device
    forward()       : the list of outputs
    backward(list)  : dict of name -> gradient, for these cotangents; called after forward
    cotangents      : a list of NumPy arrays, one for each output
    limit           : at most so many entries of each array, drawn at random; None checks all
    """
    rng = generator(seed)

    def value():
        return sum(float((c * backend.to_host(y)).sum()) for c, y in zip(cotangents, forward(), strict=True))

    rounding = np.finfo(float).eps * abs(value()) / STEP
    gradients = backward([backend.asarray(c) for c in cotangents])
    gradients = {key: np.array(backend.to_host(gradients[key])) for key in arrays}
    result = Result(name, 0, 0.0, "")
    for key, array in arrays.items():
        entries = rng.permutation(array.size)[:limit]
        numeric = _central_differences(backend, array, value, entries)
        analytic = gradients[key].reshape(-1)[entries]
        scale = max(np.abs(numeric).max(), np.abs(analytic).max(), rounding / TOLERANCE, 1e-300)
        errors = np.abs(analytic - numeric) / scale
        worst = int(np.argmax(np.nan_to_num(errors, nan=np.inf)))
        result.checked += len(entries)
        if not errors[worst] <= result.error:
            result.error = float(errors[worst])
            index = tuple(map(int, np.unravel_index(entries[worst], array.shape)))
            result.where = f"{key}{list(index)}: analytic {analytic[worst]:.9g}, numeric {numeric[worst]:.9g}"
    return result


def _central_differences(backend, array, value, entries):
    host = np.array(backend.to_host(array))
    flat, out = host.reshape(-1), np.empty(len(entries))
    for i, entry in enumerate(entries):
        kept = flat[entry]
        ends = []
        for shifted in (kept + STEP, kept - STEP):
            flat[entry] = shifted
            backend.upload(host, out=array)
            ends.append((shifted, value()))
        flat[entry] = kept
        (high, at_high), (low, at_low) = ends
        out[i] = (at_high - at_low) / (high - low)
    backend.upload(host, out=array)
    return out


def gradcheck(vae, x, eps=None, limit=30, y=None):
    """Check the gradients of a whole VAE's loss on a batch; returns a Result.

    vae   : a VAE with dtype="float64"; its parameters come back unchanged
    x     : (B, X), a small batch
    eps   : noise (L, B, D) or (B, D); None draws one sample for each example
    limit : how many entries of each parameter to check, at random; None checks all
    y     : the labels (B,), for a model with n_classes
    """
    if vae.dtype != np.float64:
        raise MiniVAEError('gradcheck needs a VAE with dtype="float64": float32 differences are too coarse')
    x = vae.check_input(x)
    if eps is None:
        eps = generator(0).standard_normal((1, len(x), vae.latent_dim))

    def forward():
        return [vae.backend.asarray([vae.loss_and_gradients(x, eps, y).loss])]

    return compare("VAE", vae.backend, dict(vae.parameters), forward, lambda _: vae.gradients, [np.ones(1)], limit)


# ------------------------------------------------------------------------------------- the table of all there is


def _off_kinks(rng, *shape):
    """Values of magnitude 0.1 to 2, so that no difference straddles the kink at 0."""
    return rng.uniform(0.1, 2.0, shape) * rng.choice([-1.0, 1.0], shape)


def check_layer(backend, layer, input_shape, name=None, rows=4):
    """A layer with random parameters: the gradients of its input and of its parameters."""
    rng = generator(1)
    parameters, gradients = allocate({"layer": layer}, backend, "float64", seed=0)
    parameters.load({key: _off_kinks(rng, *view.shape) for key, view in parameters.items()})
    x = backend.asarray(_off_kinks(rng, rows, *input_shape))
    cotangent = rng.standard_normal((rows, *layer.output_shape(input_shape)))
    return compare(
        name or type(layer).__name__,
        backend,
        {"x": x, **parameters},
        lambda: [layer.forward(x)],
        lambda dy: {"x": layer.backward(*dy), **gradients},
        [cotangent],
    )


def check_posterior(backend, posterior, stats_dim, part, L=3, B=4):
    """One output of a posterior, "z", "kl" or "log_q", as a function of the statistics and its parameters."""
    rng = generator(2)
    parameters, gradients = allocate({"posterior": posterior}, backend, "float64", seed=0)
    stats = backend.asarray(_off_kinks(rng, B, stats_dim))
    eps = backend.asarray(rng.standard_normal((L, B, posterior.latent_dim(stats_dim))))
    shape = {"z": eps.shape, "kl": (B,), "log_q": (L, B)}[part]
    zero = backend.asarray(np.zeros(eps.shape))

    def forward():
        z = posterior.sample(stats, eps)
        return [z if part == "z" else posterior.kl() if part == "kl" else posterior.log_prob()]

    def backward(cotangents):
        given = {"d" + part: cotangents[0]}
        return {"stats": posterior.backward(given.pop("dz", zero), **given), **gradients}

    names = {"z": "reparameterization", "kl": "analytic KL", "log_q": "log q(z given x)"}
    name = f"{type(posterior).__name__}: {names[part]}"
    return compare(name, backend, {"stats": stats, **parameters}, forward, backward, [rng.standard_normal(shape)])


def check_flow(backend, flow, name, N=5):
    """z' and log_det of a flow as functions of z, the context and the parameters."""
    rng = generator(7)
    parameters, gradients = allocate({"flow": flow}, backend, "float64", seed=0)
    parameters.load({key: rng.standard_normal(view.shape) for key, view in parameters.items()})
    z, context = (backend.asarray(rng.standard_normal((N, width))) for width in (flow.dim, flow.context))

    def backward(cotangents):
        dz, dcontext = flow.backward(*cotangents)
        return {"z": dz, "context": dcontext, **gradients}

    arrays = {"z": z, "context": context} if flow.context else {"z": z}
    cotangents = [rng.standard_normal((N, flow.dim)), rng.standard_normal((N, 1))]
    return compare(name, backend, arrays | dict(parameters), lambda: flow.forward(z, context), backward, cotangents)


def check_likelihood(backend, likelihood, x, name=None, L=3):
    """log p(x given z) as a function of the decoder's output and the likelihood's parameters."""
    rng = generator(3)
    parameters, gradients = allocate({"likelihood": likelihood}, backend, "float64", seed=0)
    params = backend.asarray(_off_kinks(rng, L * len(x), likelihood.params_dim(x.shape[1])))
    x = backend.asarray(x)
    return compare(
        name or f"{type(likelihood).__name__} likelihood",
        backend,
        {"params": params, **parameters},
        lambda: [likelihood.log_prob(x, params)],
        lambda dlog_px: {"params": likelihood.backward(*dlog_px), **gradients},
        [rng.standard_normal((L, len(x)))],
    )


def check_bound(backend, bound, name, kl_shape, L=3, B=4):
    """The averaged loss of a bound as a function of log p(x given z) and the KL."""
    rng = generator(4)
    allocate({"bound": bound}, backend, "float64", seed=0)
    log_px, kl = (backend.asarray(rng.standard_normal(shape)) for shape in ((L, B), kl_shape))
    beta = backend.asarray([0.7])
    cotangent = np.zeros((3, B))
    cotangent[0] = 1 / B  # the loss averaged over the batch
    return compare(
        name,
        backend,
        {"log_px": log_px, "kl": kl},
        lambda: [bound.loss(log_px, kl, beta)],
        lambda _: dict(zip(("log_px", "kl"), bound.backward(), strict=True)),
        [cotangent],
    )


def check_vae(backend, name, L, limit=None, **parts):
    """A small VAE as a whole, or at most `limit` entries of each of its parameters."""
    rng = generator(5)
    parts.setdefault("encoder", [Dense(12, 9), ReLU(), Dense(9, 7), Tanh(), Dense(7, 6)])
    parts.setdefault("decoder", [Dense(3, 8), ReLU(), Dense(8, 12)])
    vae = VAE(beta=0.7, backend=backend, dtype="float64", **parts)
    y = rng.integers(vae.n_classes, size=5) if vae.n_classes else None
    result = gradcheck(vae, rng.random((5, vae.input_dim)), rng.standard_normal((L, 5, 3)), limit, y)
    result.name = name
    return result


def small_flows():
    """Three dimensions, nine statistics."""
    flows = [InverseAutoregressive(3, 5, context=2), Planar(3), InverseAutoregressive(3, 5, context=1, reverse=True)]
    return FlowPosterior(flows)


def conv_networks():
    """The encoder and decoder of a small convolutional VAE, for images of 4 x 4."""
    to_stats = [Reshape((4, 4, 1)), Conv2d(1, 2, 2, stride=2, padding="same"), Tanh(), Flatten(), Dense(8, 6)]
    to_image = [Dense(3, 4), Reshape((2, 2, 1)), ConvTranspose2d(1, 2, 3, stride=2), Tanh(), Conv2d(2, 1, 2), Flatten()]
    return {"encoder": to_stats, "decoder": to_image}


def conditional_networks():
    """The encoder and decoder of a small VAE that knows two classes, for twelve pixels."""
    return {"encoder": [Dense(14, 8), Tanh(), Dense(8, 6)], "decoder": [Dense(5, 12)], "n_classes": 2}


def check_labels(backend, L=3, B=4):
    """Labels behind rows, as a function of the rows."""
    rng = generator(7)
    labels = Labels(3)
    allocate({"labels": labels}, backend, "float64", seed=0)
    x = backend.asarray(rng.standard_normal((L * B, 5)))
    y = labels.one_hot(rng.integers(3, size=B))
    return compare(
        "labels behind rows",
        backend,
        {"x": x},
        lambda: [labels.append("x", x, y)],
        lambda djoined: {"x": labels.backward(*djoined)},
        [rng.standard_normal((L * B, 8))],
    )


def convolution_checks():
    """Both convolutions, by kernel size, stride and padding, on images of two channels."""
    table = {
        (5, 4): [Conv2d(2, 3, 3), Conv2d(2, 3, 2, padding="same"), Conv2d(2, 3, 2, 2, "same"), Conv2d(2, 1, 4, 3, 2)],
        (3, 2): [
            ConvTranspose2d(2, 3, 3),
            ConvTranspose2d(2, 3, 3, padding="same"),
            ConvTranspose2d(2, 3, 3, 2, 1, output_padding=1),
            ConvTranspose2d(2, 1, 5, 3, "same"),
        ],
    }
    rows = {}
    for size, layers in table.items():
        for layer in layers:
            kernel = f"{layer.kernel}x{layer.kernel}"
            name = f"{type(layer).__name__} {kernel}, stride {layer.stride}, padding {layer.padding}"
            rows[name] = lambda b, layer=layer, size=size, name=name: check_layer(b, layer, (*size, 2), name)
    return rows


def checks():
    """The table: name -> a function of the backend that returns a Result, for every backward pass there is."""
    pixels = generator(6).random((4, 5))
    return {
        "Dense": lambda b: check_layer(b, Dense(6, 5), (6,)),
        "ReLU": lambda b: check_layer(b, ReLU(), (6,)),
        "Sigmoid": lambda b: check_layer(b, Sigmoid(), (6,)),
        "Tanh": lambda b: check_layer(b, Tanh(), (6,)),
        "Sequential": lambda b: check_layer(b, Sequential([Dense(6, 5), Tanh(), Dense(5, 4)]), (6,)),
        **convolution_checks(),
        "Reshape": lambda b: check_layer(b, Reshape((3, 2)), (6,)),
        "Flatten": lambda b: check_layer(b, Flatten(), (3, 2)),
        "labels": check_labels,
        "reparameterization": lambda b: check_posterior(b, DiagonalGaussian(), 6, "z"),
        "analytic KL": lambda b: check_posterior(b, DiagonalGaussian(), 6, "kl"),
        "log q": lambda b: check_posterior(b, DiagonalGaussian(), 6, "log_q"),
        "planar": lambda b: check_flow(b, Planar(3), "planar flow"),
        "IAF": lambda b: check_flow(b, InverseAutoregressive(4, 6), "inverse autoregressive flow"),
        "IAF context": lambda b: check_flow(
            b, InverseAutoregressive(4, 6, context=2, reverse=True), "inverse autoregressive flow, context, reversed"
        ),
        "flows z": lambda b: check_posterior(b, small_flows(), 9, "z"),
        "flows log q": lambda b: check_posterior(b, small_flows(), 9, "log_q"),
        "Bernoulli": lambda b: check_likelihood(b, Bernoulli(), pixels),
        "Gaussian": lambda b: check_likelihood(b, Gaussian(std=0.5), pixels),
        "shared variance": lambda b: check_likelihood(b, SharedVarianceGaussian(0.5), pixels),
        "predicted variance": lambda b: check_likelihood(b, PredictedVarianceGaussian(), pixels),
        "Categorical": lambda b: check_likelihood(b, Categorical(3), pixels),
        "ELBO": lambda b: check_bound(b, ELBO(), "ELBO, analytic KL", (4,)),
        "ELBO samples": lambda b: check_bound(b, ELBO(), "ELBO, Monte-Carlo KL", (3, 4)),
        "ImportanceWeighted": lambda b: check_bound(b, ImportanceWeighted(), "importance-weighted bound", (3, 4)),
        "VAE L=1": lambda b: check_vae(b, "VAE, L = 1", 1),
        "VAE L=3": lambda b: check_vae(b, "VAE, L = 3", 3),
        "VAE Monte-Carlo KL": lambda b: check_vae(b, "VAE, Monte-Carlo KL, L = 3", 3, kl="monte-carlo"),
        "VAE importance-weighted": lambda b: check_vae(b, "VAE, importance-weighted", 3, bound=ImportanceWeighted()),
        "VAE flows": lambda b: check_vae(
            b, "VAE, planar flow", 2, limit=8, posterior=FlowPosterior([Planar(3)]), bound=ImportanceWeighted()
        ),
        "VAE free bits": lambda b: check_vae(b, "VAE, free bits", 2, limit=8, free_bits=0.3),
        "VAE Gaussian": lambda b: check_vae(b, "VAE, Gaussian likelihood", 1, likelihood=Gaussian(0.3)),
        "VAE conditional": lambda b: check_vae(b, "VAE, conditional, L = 2", 2, **conditional_networks()),
        "VAE convolutional": lambda b: check_vae(b, "VAE, convolutional", 2, **conv_networks()),
    }


def run(backend):
    """Check everything on one backend and print the table; returns whether all passed."""
    print(f"{'backward pass':<47} {'checked':>8} {'largest relative error':>24}  verdict")
    passed = True
    for check in checks().values():
        result = check(backend)
        passed &= result.passed
        verdict = "ok" if result.passed else f"FAILED at {result.where}"
        print(f"{result.name:<47} {result.checked:>8} {result.error:>24.1e}  {verdict}")
    return passed
