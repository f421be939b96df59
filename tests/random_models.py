"""Models, data and settings of a training, all drawn at random from one seed: small and odd shapes above all."""

import numpy as np

import minivae as mv

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 31, 33, 48, 64, 100]


def random_training(seed):
    """A function of a backend that makes a model, and the arguments of `fit` for it, the data first."""
    rng = np.random.default_rng([seed, 0x7A11])

    def pick(*choices):
        return choices[rng.integers(len(choices))]

    D, n_classes = int(rng.choice(SIZES[:8])), pick(None, None, None, 2, 3)
    likelihood = pick("Bernoulli", "Bernoulli", "Gaussian", "shared", "predicted", "categorical")
    image = rng.random() < 0.25
    if image:
        image = (*(int(side) for side in rng.integers(4, 10, 2)), pick(1, 1, 2, 3))
    X = int(np.prod(image)) if image else int(rng.choice(SIZES))
    P = {"predicted": 2 * X, "categorical": 3 * X}.get(likelihood, X)
    posterior, n_stats = pick("diagonal", "diagonal", "planar", "autoregressive"), 2 * D
    context = pick(0, 2, 3)
    if posterior == "autoregressive":
        n_stats += context
    hidden = [int(n) for n in rng.choice([*SIZES, 128, 256], size=rng.integers(0, 4))]
    activation = [pick("ReLU", "Tanh", "Sigmoid", None) for _ in range(6)]
    kernel, stride, channels = pick(2, 3, 4), pick(1, 2), int(rng.choice([1, 2, 3, 8, 16]))
    settings = {"bound": pick("ELBO", "ELBO", "ImportanceWeighted"), "kl": pick(None, None, "monte-carlo")}
    beta, free_bits = pick(1.0, 0.5, 4.0, 0.0), pick(0.0, 0.0, 0.2)
    analytic = posterior == "diagonal" and settings["bound"] == "ELBO" and settings["kl"] is None

    def dense_stack(sizes):
        layers = []
        for i, (n_in, n_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            layers.append(mv.Dense(n_in, n_out))
            if i < len(sizes) - 2 and activation[i]:
                layers.append(getattr(mv, activation[i])())
        return layers

    def encoder():
        extra = n_classes or 0
        if not image or extra:
            return dense_stack([X + extra, *hidden, n_stats])
        shape = (*(-(-side // stride) for side in image[:2]), channels)
        convolution = mv.Conv2d(image[2], channels, max(kernel, stride), stride, padding="same")
        return [mv.Reshape(image), convolution, mv.ReLU(), mv.Flatten(), *dense_stack([int(np.prod(shape)), n_stats])]

    def decoder():
        extra = n_classes or 0
        if not image or P != X or any(side % stride for side in image[:2]):
            return dense_stack([D + extra, *reversed(hidden), P])
        shape = (image[0] // stride, image[1] // stride, channels)
        convolution = mv.ConvTranspose2d(channels, image[2], max(kernel, stride), stride, padding="same")
        return [*dense_stack([D + extra, int(np.prod(shape))]), mv.Reshape(shape), convolution, mv.Flatten()]

    def make(backend, dtype="float64"):
        parts = {
            "Bernoulli": mv.Bernoulli,
            "Gaussian": lambda: mv.Gaussian(0.7),
            "shared": mv.SharedVarianceGaussian,
            "predicted": mv.PredictedVarianceGaussian,
            "categorical": lambda: mv.Categorical(3),
            "diagonal": mv.DiagonalGaussian,
            "planar": lambda: mv.FlowPosterior([mv.Planar(D), mv.Planar(D)]),
            "autoregressive": lambda: mv.FlowPosterior([mv.InverseAutoregressive(D, 9, context=context)]),
        }
        return mv.VAE(
            encoder(),
            decoder(),
            likelihood=parts[likelihood](),
            posterior=parts[posterior](),
            bound=getattr(mv, settings["bound"])(),
            kl=settings["kl"],
            beta=beta,
            free_bits=free_bits if analytic else 0.0,
            n_classes=n_classes,
            backend=backend,
            dtype=dtype,
            seed=seed,
        )

    n, batch_size = int(rng.integers(20, 150)), int(rng.choice([1, 2, 3, 7, 16, 33, 64, 100]))
    x = rng.random((n, X)) if rng.random() < 0.5 else rng.integers(0, 256, (n, X), np.uint8)
    optimizer = pick("SGD", "momentum", "RMSprop", "RMSprop", "Adam", "Adam")
    options = {
        "batch_size": max(min(batch_size, n), n // 12),  # a dozen steps or so
        "samples": pick(1, 1, 2, 3),
    }
    limit, options["binarize"] = pick(None, None, 0.5, 100.0), rng.random() < 0.25
    if n_classes is not None:
        x = x, rng.integers(n_classes, size=n)

    def arguments():
        optimizers = {
            "SGD": lambda: mv.SGD(1e-4),
            "momentum": lambda: mv.SGD(1e-4, momentum=0.9),
            "RMSprop": lambda: mv.RMSprop(1e-3),
            "Adam": lambda: mv.Adam(1e-3),
        }
        chosen = optimizers[optimizer]()
        chosen = mv.ClipNorm(chosen, limit) if limit else chosen
        return x, {"epochs": 1, "progress": False, "optimizer": chosen, **options}

    return make, arguments
