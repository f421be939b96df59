"""A plain autoencoder from the same layers, what a VAE adds to it, and both as detectors of anomalies.

    python examples/autoencoder.py --data-dir folder/with/mnist/and/fashion-mnist

1. Two latent dimensions, for pictures. The autoencoder reconstructs better, since nothing holds its code back; but
   its codes lie anywhere, so that draws from N(0, I) decode to little. The VAE's KL puts them where the prior is.
2. Twenty latent dimensions, trained without one digit: how well do three scores tell it from the others? And, trained
   on all digits, Fashion-MNIST from MNIST? Given is the area under the ROC curve: 1 is perfect, 0.5 is guessing.
     error       squared error of the reconstruction, of the autoencoder and of the VAE
     -ELBO       of the VAE
     -log prob   minus the reconstruction probability E_q[log p(x | z)], with ten draws of z (An & Cho 2015)

Published: no figures for these settings. Some digits are far easier to leave out than others: a 1 is simpler than all
that the model knows, so that it is reconstructed well and passes as normal, with an area far below 0.5.
"""

import numpy as np
from common import at_least_1, command, data_parser, layers, own_folder, print_data, save_figures
from scipy.stats import rankdata

import minivae as mv
from minivae import data
from minivae.files import atomic_write
from minivae.model.parameters import allocate, joined, within
from minivae.randomness import generator

HIDDEN, BATCH_SIZE, DETECTOR_DIM = 256, 100, 20


class Autoencoder:
    """x -> code z -> logits of x, trained on the cross-entropy: a training loop by hand, in a page."""

    def __init__(self, n_pixels, latent_dim, seed):
        self.input_dim, self.latent_dim, self.seed = n_pixels, latent_dim, seed
        self.encoder = mv.Sequential(layers(n_pixels, HIDDEN, latent_dim))
        self.decoder = mv.Sequential(layers(latent_dim, HIDDEN, n_pixels))
        self.likelihood, self.prior = mv.Bernoulli(), mv.StandardNormal(latent_dim)  # for those who draw it
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        self.parameters, _, _ = allocate(parts, mv.get_backend("numpy"), "float32", seed)

    def loss_and_gradients(self, x):
        """The mean of -log p(x given z) over the batch, and its gradients as one flat array like the parameters'."""
        z, encoder_backward = self.encoder.forward(within(self.parameters, "encoder"), x)
        logits, decoder_backward = self.decoder.forward(within(self.parameters, "decoder"), z)
        log_px, likelihood_backward = self.likelihood.log_prob({}, x, logits[None])
        dlogits, _ = likelihood_backward(np.full_like(log_px, -1 / len(x)))
        dz, ddecoder = decoder_backward(dlogits[0])
        _, dencoder = encoder_backward(dz)
        grads = joined({"encoder": dencoder, "decoder": ddecoder})
        return -float(log_px.mean()), np.concatenate([grads[name].reshape(-1) for name in self.parameters])

    def fit(self, x, epochs, checkpoint, resume):
        optimizer, p, done = mv.Adam(1e-3), self.parameters.flat, 0
        state = {"lr": np.full(1, optimizer.lr, p.dtype)} | optimizer.fresh_state(p)
        if resume and checkpoint.exists():
            with np.load(checkpoint) as kept:
                done, state = int(kept["epochs"]), {name: kept[name] for name in state}
                p[...] = kept["weights"]
        for epoch in range(done, epochs):
            order = generator(self.seed, epoch).permutation(len(x))
            for start in range(0, len(x), BATCH_SIZE):
                _, g = self.loss_and_gradients(x[order[start : start + BATCH_SIZE]])
                p[...], state = optimizer.update(g, p, state)
            with atomic_write(checkpoint) as file:
                np.savez(file, epochs=epoch + 1, weights=p, **state)

    def encode(self, x):
        """The codes as the means of Gaussians without width, so that what draws a VAE's posterior draws them too."""
        z, _ = self.encoder.forward(within(self.parameters, "encoder"), x)
        return z, np.full_like(z, -np.inf)

    def decode(self, z):
        logits, _ = self.decoder.forward(within(self.parameters, "decoder"), np.asarray(z, np.float32))
        return self.likelihood.mean({}, logits)

    def reconstruct(self, x):
        return self.decode(self.encode(x)[0])

    def sample(self, n, seed):
        return self.decode(generator(seed).standard_normal((n, self.latent_dim)))


def train_both(arguments, x, latent_dim, name):
    """An autoencoder and a VAE of the same widths, trained alike on x, and kept in `--out` under a name.

    The VAE comes first: its checkpoint refuses to go on with other data or another seed.
    """
    n_pixels, seed = x.shape[1], arguments.seed
    checkpoint = mv.Checkpoint(arguments.out / f"vae-{name}.safetensors", resume=arguments.resume)
    vae = mv.VAE(layers(n_pixels, HIDDEN, 2 * latent_dim), layers(latent_dim, HIDDEN, n_pixels), seed=seed)
    mv.fit(vae, x, epochs=arguments.epochs, batch_size=BATCH_SIZE, optimizer=mv.Adam(1e-3), checkpoint=checkpoint)
    plain = Autoencoder(n_pixels, latent_dim, seed)
    plain.fit(x, arguments.epochs, arguments.out / f"autoencoder-{name}.npz", arguments.resume)
    return plain, vae


def squared_error(model, x):
    return np.square(x - model.reconstruct(x)).sum(axis=1)


def scores(plain, vae, x):
    """The anomaly scores of each row of x, by name: high for what is strange."""
    losses = vae.score(x, samples=10)
    return {
        "error (AE)": squared_error(plain, x),
        "error (VAE)": squared_error(vae, x),
        "-ELBO": losses.negative_elbo,
        "-log prob": losses.reconstruction,
    }


def roc_auc(normal, strange):
    """The probability that a strange example scores higher than a normal one, ties counting half."""
    ranks = rankdata(np.concatenate([normal, strange]))[len(normal) :]
    return (ranks.sum() - len(strange) * (len(strange) + 1) / 2) / (len(normal) * len(strange))


def print_areas(title, normal, strange):
    areas = "".join(f"{roc_auc(normal[name], strange[name]):12.3f}" for name in normal)
    print(f"{title:28}{areas}", flush=True)


def pixels(images):
    return images.reshape(len(images), -1).astype(np.float32) / 255


def compare(arguments, dataset):
    """Part 1: the two models with a latent plane, in numbers and pictures."""
    x_train, x_test = pixels(dataset.x_train), pixels(dataset.x_test)
    for name, model in zip(("autoencoder", "vae"), train_both(arguments, x_train, 2, "plane"), strict=True):
        codes = model.encode(x_test)[0]
        print(
            f"{name:12} squared error of test images {squared_error(model, x_test).mean():6.2f}, "
            f"codes' standard deviations {codes.std(axis=0).round(2)}, furthest {np.abs(codes).max():.1f}"
        )
        if not arguments.no_plots:
            from minivae.views import plots

            save_figures(
                arguments,
                **{
                    f"{name}_latent_space": plots.latent_space(model, x_test, dataset.y_test, dataset.class_names),
                    f"{name}_samples": plots.samples(model, n=64, seed=arguments.seed),
                },
            )


def detect(arguments, dataset):
    """Part 2: the areas under the ROC curve."""
    x_train, x_test = pixels(dataset.x_train), pixels(dataset.x_test)
    names = "error (AE)", "error (VAE)", "-ELBO", "-log prob"
    print(f"{'area under the ROC curve':28}" + "".join(f"{name:>12}" for name in names))
    for digit in arguments.left_out:
        models = train_both(arguments, x_train[dataset.y_train != digit], DETECTOR_DIM, f"without-{digit}")
        left_out = dataset.y_test == digit
        print_areas(f"digit {digit} left out", scores(*models, x_test[~left_out]), scores(*models, x_test[left_out]))
    try:
        fashion = data.load("fashion-mnist", arguments.data_dir, limit=arguments.limit)
    except mv.MiniVAEError as error:
        print(f"Fashion-MNIST is left out: {error}")
        return
    models = train_both(arguments, x_train, DETECTOR_DIM, "all-digits")
    print_areas("Fashion-MNIST against MNIST", scores(*models, x_test), scores(*models, pixels(fashion.x_test)))


def main():
    parser = data_parser(__doc__.splitlines()[0], "runs/autoencoder", ("mnist", "sample"))
    parser.add_argument("--epochs", type=at_least_1, default=10)
    parser.add_argument("--resume", action="store_true", help="go on where the run in --out was stopped")
    parser.add_argument(
        "--left-out",
        type=int,
        nargs="+",
        choices=range(10),
        default=[0, 1, 4],
        metavar="DIGIT",
        help="the digits to leave out, one after another",
    )
    arguments = parser.parse_args()
    dataset = data.load(arguments.dataset, arguments.data_dir, limit=arguments.limit)
    for digit in arguments.left_out:
        if len(set(dataset.y_test == digit)) < 2:
            raise mv.MiniVAEError(
                f"the test images should be of digit {digit} and of others, got {len(dataset.y_test)} "
                f"of {sorted(set(dataset.y_test.tolist()))}: give another --left-out, or a larger --limit"
            )
    own_folder(arguments, "vae-plane.safetensors")
    print_data(dataset)
    compare(arguments, dataset)
    detect(arguments, dataset)
    if not arguments.no_plots:
        print(f"figures in {arguments.out}")


if __name__ == "__main__":
    command(main)
