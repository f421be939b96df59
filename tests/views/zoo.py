"""Models to diagnose, healthy and broken, trained or built on real data. Each function gives (vae, x, options)."""

import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
from reference.models import dense

import minivae as mv
from minivae.errors import MiniVAEWarning
from minivae.model.gaussian import free_bits_kl, hold


@dataclass(frozen=True, eq=False)
class Digits:
    """Images and labels, and how large and how long models are trained on them."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    hidden: int
    epochs: int
    batch_size: int
    rate: float = 1e-3

    @property
    def columns(self):
        return self.x_train[0].size


def model(d, latent=4, end=(), encoder_end=(), columns=None, **options):
    columns, n_classes = columns or d.columns, options.get("n_classes") or 0
    encoder = [*dense(columns + n_classes, d.hidden, 2 * latent), *encoder_end]
    decoder = [*dense(latent + n_classes, d.hidden, columns), *end]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MiniVAEWarning)  # some are broken on purpose
        return mv.VAE(encoder, decoder, **options)


def trained(d, vae, x=None, **options):
    """The history of a training of `vae` on x, the training images by default."""
    x = d.x_train if x is None else x
    options = {"epochs": d.epochs, "batch_size": d.batch_size, "optimizer": mv.Adam(d.rate)} | options
    return mv.fit(vae, x, **options)


@cache
def _weights_and_history(d, **options):
    vae = model(d, **options)
    history = trained(d, vae, validation=d.x_test)
    return vae.parameters.to_host(), history


def usual(d, **options):
    """A trained model and its history: trained once for all that are built from it."""
    vae, (weights, history) = model(d, **options), _weights_and_history(d, **options)
    vae.parameters.load(weights)
    return vae, history


def change(vae, **of_tensors):
    """Apply functions to tensors of a model, by their names with _ for the dots."""
    arrays = vae.parameters.to_host()
    for name, function in of_tensors.items():
        name = name.replace("_", ".")
        arrays[name] = function(arrays[name])
    vae.parameters.load(arrays)


# ------------------------------------------------------------------------------------------------ healthy ones


def plain(d):
    vae, history = usual(d)
    return vae, d.x_test, {"history": history, "train": d.x_train}


def more_dimensions(d):
    vae, history = usual(d, latent=6)
    return vae, d.x_test, {"history": history}


def warmed_up(d):
    """The validation loss rises with beta, while -ELBO falls."""
    vae = model(d, latent=6)
    schedules = {"beta": mv.linear_warmup(5 * d.epochs // 8)}
    return vae, d.x_test, {"history": trained(d, vae, validation=d.x_test, schedules=schedules)}


def conditional(d):
    vae = model(d, n_classes=10)
    history = trained(d, vae, (d.x_train, d.y_train), validation=(d.x_test, d.y_test), epochs=3 * d.epochs // 2)
    return vae, (d.x_test, d.y_test), {"history": history}


def squared_error(d):
    """Squared errors and a sigmoid at the end, as in the Fashion-MNIST recipe."""
    vae = model(d, latent=2, end=[mv.Sigmoid()], likelihood=mv.Gaussian(0.3, constants=False))
    return vae, d.x_test, {"history": trained(d, vae)}


def learned_variance(d):
    vae = model(d, likelihood=mv.SharedVarianceGaussian(std=0.25))
    return vae, d.x_test, {"history": trained(d, vae)}


def categorical(d):
    """Images of 14 x 14 pixels and four grey levels."""
    step = d.x_train.shape[1] // 14
    x_train, x_test = (np.rint(x[:, ::step, ::step] / 85) / 3 for x in (d.x_train, d.x_test))
    vae = mv.VAE(dense(196, d.hidden, 8), dense(4, d.hidden, 4 * 196), likelihood=mv.Categorical(4))
    return vae, x_test, {"history": trained(d, vae, x_train)}


def binarized(d):
    vae = model(d)
    return vae, mv.binarize(d.x_test), {"history": trained(d, vae, binarize=True)}


def importance_weighted(d):
    vae = model(d, bound=mv.ImportanceWeighted())
    return vae, mv.binarize(d.x_test), {"history": trained(d, vae, binarize=True, samples=5)}


def flow(d):
    stages = [mv.InverseAutoregressive(4, 32, 8, reverse) for reverse in (False, True)]
    vae = mv.VAE(dense(d.columns, d.hidden, 8 + 16), dense(4, d.hidden, d.columns), posterior=mv.FlowPosterior(stages))
    return vae, d.x_test, {"history": trained(d, vae)}


def beta_of_a_half(d):
    vae = model(d, beta=0.5)
    return vae, d.x_test, {"history": trained(d, vae)}


def table(rows=4000):
    """Eight standardised columns made from three factors, and noise."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 3)) @ rng.standard_normal((3, 8)) + 0.3 * rng.standard_normal((rows, 8))
    return (x - x.mean(axis=0)) / x.std(axis=0)


def gaussian_table(d):
    x = table()
    vae = model(d, latent=3, columns=8, likelihood=mv.SharedVarianceGaussian())
    options = {"epochs": 40, "batch_size": 50, "optimizer": mv.Adam(5e-3)}
    history = trained(d, vae, x[:3000], validation=x[3000:], **options)
    return vae, x[3000:], {"history": history, "train": x[:3000]}


@cache
def table_with_gaps(d):
    """Numbers, levels and counts of which a fifth is missing; the counts are as large as they are."""
    rng = np.random.default_rng(1)
    numbers = table(2000)
    levels, counts = np.digitize(numbers[:, 4:5], [-0.5, 0.5]) / 2, rng.poisson(np.exp(4.5 + 0.5 * numbers[:, 5:6]))
    x = np.concatenate([numbers[:, :4], levels, counts], axis=1)
    x = np.where(rng.random(x.shape) < 0.2, np.nan, x)
    vae = mv.miwae([(mv.PredictedVarianceGaussian(), 4), (mv.Categorical(3), 1), (mv.Poisson(), 1)], 3, (32,))
    options = {"epochs": 40, "batch_size": 50, "optimizer": mv.Adam(5e-3), "samples": 5}
    history = trained(d, vae, x[:1500], validation=x[1500:], **options)
    return vae, x[1500:], {"history": history, "train": x[:1500]}


# ------------------------------------------------------------------------------------------------- broken ones


def collapsed(d):
    vae = model(d, beta=20.0)
    return vae, d.x_test, {"history": trained(d, vae)}


def two_of_eight(d):
    """Six dimensions that were trained, and two that neither encoder nor decoder uses: dimensions 2 and 5."""
    (trained_on, history), vae = usual(d, latent=6), model(d, latent=8)
    arrays = trained_on.parameters.to_host()
    arrays["encoder.2.W"] = np.insert(arrays["encoder.2.W"], [2, 4, 8, 10], 0, axis=1)
    arrays["encoder.2.b"] = np.insert(arrays["encoder.2.b"], [2, 4, 8, 10], 0)
    arrays["decoder.0.W"] = np.insert(arrays["decoder.0.W"], [2, 4], 0, axis=0)
    vae.parameters.load(arrays)
    return vae, d.x_test, {"history": history}


def averaged_over_pixels(d):
    vae = model(d, beta=1 / d.columns)
    return vae, d.x_test, {"history": trained(d, vae)}


def autoencoder(d):
    vae = model(d, beta=0.0)
    return vae, d.x_test, {"history": trained(d, vae)}


def one_epoch(d):
    vae = model(d)
    return vae, d.x_test, {"history": trained(d, vae, epochs=1)}


def three_epochs(d):
    vae = model(d)
    return vae, d.x_test, {"history": trained(d, vae, d.x_train[: len(d.x_train) // 4], epochs=3)}


def floats_to_255(d):
    """Not trained: `fit` stops in the first steps, since the KL overflows."""
    return model(d, likelihood=mv.Gaussian()), d.x_test / np.float32(1), {}


def floats_to_255_of_bernoulli(d):
    vae, _ = usual(d)
    return vae, d.x_test / np.float32(1), {}


def divided_twice(d):
    vae = model(d)
    history = trained(d, vae, d.x_train / np.float32(255**2), epochs=1)
    return vae, d.x_test / np.float32(255**2), {"history": history}


def zeros_and_ones_as_pixels(d):
    vae = model(d)
    history = trained(d, vae, mv.binarize(d.x_train) // 255, epochs=1)
    return vae, mv.binarize(d.x_test) // 255, {"history": history}


def sigmoid_before_logits(d):
    vae = model(d, end=[mv.Sigmoid()])
    return vae, d.x_test, {"history": trained(d, vae, epochs=1)}


def relu_before_logits(d):
    vae = model(d, end=[mv.ReLU()])
    return vae, d.x_test, {"history": trained(d, vae, epochs=1)}


def standardised_under_sigmoid(d):
    mean, std = d.x_train.mean(), d.x_train.std()
    vae = model(d, end=[mv.Sigmoid()], likelihood=mv.Gaussian())
    history = trained(d, vae, (d.x_train - mean) / std, epochs=1)
    return vae, (d.x_test - mean) / std, {"history": history}


def relu_ends_the_encoder(d):
    vae = model(d, encoder_end=[mv.ReLU()])
    return vae, d.x_test, {"history": trained(d, vae, epochs=1)}


@cache
def _overfitted(d):
    vae = model(d)
    return vae, trained(d, vae, d.x_train[:200], epochs=200, batch_size=20, validation=d.x_test[:500])


def overfitted(d):
    vae, _ = _overfitted(d)
    return vae, d.x_test, {"train": d.x_train[:200]}


def overfitted_by_its_history(d):
    vae, history = _overfitted(d)
    return vae, d.x_test, {"history": history}


class StdIsVar(mv.DiagonalGaussian):
    """The mistake of two libraries: z = mu + exp(log_var) eps."""

    def with_kl(self, params, stats, eps, free_bits=0.0):
        D = stats.shape[1] // 2
        mu, (log_var, hold_backward) = stats[:, :D], hold(stats[:, D:])
        std = np.exp(log_var)
        (kl, floor), kl_backward = free_bits_kl(mu, log_var, free_bits)

        def backward(dz, dkl):
            dmu, dlog_var = kl_backward(dkl)
            dlog_var = dlog_var + np.sum(dz * eps, axis=0) * std
            return np.concatenate([dmu + np.sum(dz, axis=0), hold_backward(dlog_var)], axis=1), {}

        return (mu + std * eps, kl, floor), backward

    def with_log_q(self, params, stats, eps):
        (_, log_q), backward = super().with_log_q(params, stats, eps)
        return (self.with_kl(params, stats, eps)[0][0], log_q), backward


def std_is_var(d):
    vae = model(d, posterior=StdIsVar())
    return vae, d.x_test, {"history": trained(d, vae, epochs=1)}


def weights_of_std_is_var(d):
    """Trained elsewhere with the mistake, for more epochs, and loaded into a model without it."""
    wrong, vae = model(d, posterior=StdIsVar()), model(d)
    history = trained(d, wrong)
    vae.parameters.load(wrong.parameters.to_host())
    return vae, d.x_test, {"history": history}


class MeanBernoulli(mv.Bernoulli):
    """Averages over the pixels."""

    def log_prob(self, params, x, logits):
        log_px, backward = super().log_prob(params, x, logits)
        return log_px * (1 / x.shape[-1]), lambda dlog_px: backward(dlog_px * (1 / x.shape[-1]))


def mean_of_the_pixels(d):
    vae = model(d, likelihood=MeanBernoulli())
    return vae, d.x_test, {"history": trained(d, vae, epochs=1)}


def dead_encoder(d):
    """Hidden units of the encoder pushed below zero, where no gradient brings them back; trained on."""
    vae, _ = usual(d)
    change(vae, encoder_0_b=lambda b: b - 100)
    return vae, d.x_test, {"history": trained(d, vae)}


def dead_decoder(d):
    """The same with seven of eight of the decoder's."""
    vae, _ = usual(d)
    change(vae, decoder_0_b=lambda b: b - 100 * (np.arange(len(b)) % 8 > 0))
    return vae, d.x_test, {"history": trained(d, vae)}


def decoder_ignores_z(d):
    vae, history = usual(d)
    change(vae, decoder_0_W=np.zeros_like)
    return vae, d.x_test, {"history": history}


def saturated_log_var(d):
    vae, history = usual(d)
    change(vae, encoder_2_b=lambda b: b - 200 * (np.arange(len(b)) >= 4))
    return vae, d.x_test, {"history": history}


def nan_weights(d):
    vae, history = usual(d)
    change(vae, decoder_2_b=lambda b: np.where(np.arange(len(b)) == 7, np.nan, b))
    return vae, d.x_test, {"history": history}


def exploded(d):
    """Finite weights that give infinite losses."""
    vae, history = usual(d)
    change(vae, decoder_0_W=lambda W: W * 1e20, decoder_2_W=lambda W: W * 1e20)
    return vae, d.x_test, {"history": history}


def shifted_codes(d):
    """Codes around 1.5, not 0, and a decoder that knows it: reconstructions stay good, draws from the prior are bad."""
    vae, history = usual(d)
    W = vae.parameters.to_host()["decoder.0.W"]
    change(vae, encoder_2_b=lambda b: b + 1.5 * (np.arange(8) < 4), decoder_0_b=lambda b: b - 1.5 * W.sum(axis=0))
    return vae, d.x_test, {"history": history}


def untrained(d):
    return model(d), d.x_test, {}


class HalfTheKL(mv.DiagonalGaussian):
    """The factor 1/2 twice: 1/4 sum_d (mu^2 + var - log_var - 1)."""

    def with_kl(self, params, stats, eps, free_bits=0.0):
        (z, kl, floor), backward = super().with_kl(params, stats, eps, free_bits)
        return (z, kl * 0.5, floor), lambda dz, dkl: backward(dz, dkl * 0.5)


def half_a_kl(d):
    vae = model(d, posterior=HalfTheKL())
    return vae, d.x_test, {"history": trained(d, vae, epochs=1)}


def learned_variance_of_0(d):
    """A column that two others give exactly: its variance has no lower end."""
    x = table()[:, :1] * np.ones((1, 8))
    vae = model(d, latent=1, columns=8, likelihood=mv.SharedVarianceGaussian(min_std=0.1))
    history = trained(d, vae, x[:3000], epochs=60, batch_size=50, optimizer=mv.Adam(5e-3))
    return vae, x[3000:], {"history": history}


# ---------------------------------------------------------------------------------- published recipes, all of the data


def _recipe(dataset, vae, **options):
    history = mv.fit(vae, dataset.x_train, validation=dataset.x_test, **options)
    return vae, dataset.x_test, {"history": history, "train": dataset.x_train}


def keras_mnist(dataset):
    return _recipe(dataset, mv.VAE(dense(784, 256, 4), dense(2, 256, 784)), epochs=50)


def pytorch_example(dataset):
    vae = mv.VAE(dense(784, 400, 40), dense(20, 400, 784))
    return _recipe(dataset, vae, epochs=10, batch_size=128, optimizer=mv.Adam(1e-3))


def fashion_mse(dataset):
    hidden = 400, 200, 100, 20
    vae = mv.VAE(
        dense(784, *hidden, 4),
        [*dense(2, *hidden[::-1], 784), mv.Sigmoid()],
        likelihood=mv.Gaussian(constants=False),
    )
    return _recipe(dataset, vae, epochs=15, batch_size=200, optimizer=mv.Adam(1e-3))


def fashion_of_ten_dimensions(dataset):
    vae = mv.VAE(dense(784, 400, 20), dense(10, 400, 784))
    return _recipe(dataset, vae, epochs=8, batch_size=128, optimizer=mv.Adam(1e-3))


RECIPES = [keras_mnist, pytorch_example, fashion_mse, fashion_of_ten_dimensions]
