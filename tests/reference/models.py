"""Seven recipes, small enough for a test, whose course with version 0.1 is kept in version-0.1.json."""

import numpy as np

import minivae as mv
from minivae import data

BATCH_SIZE, N = 20, 80  # four steps an epoch


def dense(*sizes, activation=mv.ReLU):
    layers = []
    for n_in, n_out in zip(sizes, sizes[1:], strict=False):
        layers += [mv.Dense(n_in, n_out), activation()]
    return layers[:-1]


def flow_posterior(latent=16, context=8):
    flows = [mv.InverseAutoregressive(latent, 32, context, reverse, masks="0.1") for reverse in (False, True)]
    return {"posterior": mv.FlowPosterior([*flows, mv.Planar(latent)])}, 2 * latent + 2 * context


def conv_networks(maps=8):
    encoder = [
        *(mv.Reshape((28, 28, 1)), mv.Conv2d(1, 1, 2, padding="same"), mv.ReLU()),
        *(mv.Conv2d(1, maps, 2, stride=2, padding="same"), mv.ReLU(), mv.Conv2d(maps, maps, 3, padding="same")),
        *(mv.ReLU(), mv.Flatten(), mv.Dense(14 * 14 * maps, 32), mv.ReLU(), mv.Dense(32, 4)),
    ]
    decoder = [
        *(mv.Dense(2, 14 * 14 * maps), mv.ReLU(), mv.Reshape((14, 14, maps))),
        *(mv.ConvTranspose2d(maps, maps, 3, padding="same"), mv.ReLU()),
        *(mv.ConvTranspose2d(maps, maps, 3, stride=2), mv.ReLU(), mv.Conv2d(maps, 1, 2), mv.Flatten()),
    ]
    return encoder, decoder


def recipes():
    """name -> a function of backend and dtype that gives the model, its optimizer, and options of the training."""

    def keras_mnist(**where):
        return mv.VAE(dense(784, 256, 4), dense(2, 256, 784), seed=3, **where), mv.RMSprop(), {}

    def pytorch_example(**where):
        return mv.VAE(dense(784, 400, 40), dense(20, 400, 784), seed=4, **where), mv.Adam(), {}

    def deep_latent(**where):
        parts, n_stats = flow_posterior()
        networks = dense(784, 64, 64, n_stats), dense(16, 64, 64, 784)
        return mv.VAE(*networks, **parts, seed=5, **where), mv.RMSprop(rho=0.99), {"binarize": True}

    def conv(**where):
        return mv.VAE(*conv_networks(), seed=6, **where), mv.RMSprop(), {}

    def iwae(**where):
        networks = dense(784, 100, 20, activation=mv.Tanh), dense(10, 100, 784, activation=mv.Tanh)
        return mv.VAE(*networks, bound=mv.ImportanceWeighted(), seed=7, **where), mv.Adam(eps=1e-4), {"samples": 5}

    def conditional(**where):
        networks = dense(794, 128, 8), dense(14, 128, 784)
        return mv.VAE(*networks, n_classes=10, beta=0.5, seed=8, **where), mv.Adam(), {"labels": True}

    def binarized(**where):
        networks = dense(784, 128, 8), dense(4, 128, 784)
        return mv.VAE(*networks, free_bits=0.1, seed=9, **where), mv.SGD(1e-4, 0.9), {"binarize": True, "samples": 2}

    return {
        "keras-mnist": keras_mnist,
        "pytorch-example": pytorch_example,
        "deep-latent with flows": deep_latent,
        "conv": conv,
        "iwae, k = 5": iwae,
        "conditional": conditional,
        "binarized": binarized,
    }


def digits():
    """uint8 pixels and labels, from the sample that comes with minivae."""
    sample = data.load("sample")
    return sample.x_train[:N].reshape(N, -1), sample.y_train[:N].astype(np.int64)


def course(name, train, epochs, **where):
    """The losses of each epoch, and the sum and the sum of squares of each parameter after the last.

    train(vae, x, y, epochs, optimizer, options) -> history
    """
    vae, optimizer, options = recipes()[name](**where)
    x, y = digits()
    y = y if options.pop("labels", False) else None
    history = train(vae, x, y, epochs, optimizer, options)
    columns = ("train_loss", "train_reconstruction", "train_kl")
    weights = {key: value.astype(np.float64) for key, value in vae.parameters.to_host().items()}
    return {
        "losses": [[row[column] for column in columns] for row in history],
        "weights": {key: [float(value.sum()), float((value**2).sum())] for key, value in weights.items()},
    }
