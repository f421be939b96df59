"""A VAE on handwritten letters (EMNIST), with early stopping on a validation split and the letters one wants.

    python examples/train_letters.py --data-dir folder/with/emnist --only AEIOU

The data may be the IDX files of EMNIST (they are downloaded where none are found; 560 MB) or Kaggle's CSV files
emnist-letters-train.csv and emnist-letters-test.csv. A tenth of the training images is held out; training ends when
the loss on it has not fallen for four epochs, and the weights of the best epoch are kept. The test images are looked
at once, at the end: those who stop by them report too good a loss.

In training z is a draw; a model that is used should not be random, so reconstructions are made from mu.
A small model of digits is trained beside, on the digits that come with minivae, to lay both latent planes side by side.

Published: no figures for this recipe.
"""

import numpy as np
from common import (
    OPTIMIZERS,
    command,
    data_name,
    kept,
    layers,
    print_data,
    save_figures,
    save_results,
    start,
    training_parser,
)

import minivae as mv
from minivae import data

HIDDEN, PATIENCE, HELD_OUT = 256, 4, 0.1


def build(arguments, backend, n_pixels):
    latent = arguments.latent_dim
    return mv.VAE(
        encoder=layers(n_pixels, HIDDEN, 2 * latent),
        decoder=layers(latent, HIDDEN, n_pixels),
        beta=arguments.beta,
        backend=backend,
        dtype=arguments.dtype,
        seed=arguments.seed,
    )


def fit(arguments, vae, x, **options):
    """Train until the loss on the held-out images has not fallen for PATIENCE epochs; the best weights are kept."""
    history = mv.fit(
        vae,
        x,
        validation=HELD_OUT,
        patience=PATIENCE,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        optimizer=OPTIMIZERS[arguments.optimizer](arguments.lr),
        samples=arguments.samples,
        **options,
    )
    print(f"best epoch {history.best_epoch} of {len(history)}: its weights are kept")
    return history


def print_test(arguments, vae, dataset):
    """The test loss with z drawn, as in training, and the reconstruction from mu."""
    x = dataset.x_test
    losses = vae.evaluate(x)
    decoded, target = vae.reconstruct(x).astype(np.float64), x.reshape(len(x), -1) / 255
    decoded = decoded.clip(1e-7, 1 - 1e-7)
    from_mu = -(target * np.log(decoded) + (1 - target) * np.log1p(-decoded)).sum(axis=1).mean()
    drawn, kl = losses.reconstruction, losses.kl
    print(f"reconstruction of test images from mu {from_mu:.1f} nats, from a draw of z {drawn:.1f}")
    print("published: nothing for this recipe")
    result = f"test -ELBO {drawn + kl:.1f} nats (reconstruction {drawn:.1f}, KL {kl:.1f})"
    only = f", only {', '.join(dataset.class_names)}" if arguments.only else ""
    print(f"{result} on {data_name(arguments, dataset)}{only}")


def draw(arguments, vae, history, dataset):
    from minivae.views import plots

    names = [dataset.class_names[label] for label in dataset.y_test]
    figures = {
        "loss_curves": plots.loss_curves(history),
        "reconstructions": plots.reconstructions(vae, dataset.x_test, n=30, names=names),
        "latent_space": plots.latent_space(vae, dataset.x_test, dataset.y_test, dataset.class_names),
        "samples": plots.samples(vae, n=100, seed=arguments.seed),
        "kl_per_dimension": plots.kl_per_dimension(vae, dataset.x_test),
    }
    if vae.latent_dim == 2:
        figures["manifolds"] = draw_beside_digits(arguments, vae)
    save_figures(arguments, **figures)


def draw_beside_digits(arguments, vae):
    """The latent plane of the letters beside that of a model of digits, trained here."""
    from minivae.views import plots

    print("digits, for comparison:")
    digits = data.load("sample", limit=arguments.limit)
    other = build(arguments, vae.backend, digits.x_train[0].size)
    fit(arguments, other, digits.x_train)
    figure = plots.Figure(figsize=(14, 7.3), layout="constrained")
    for ax, model, name in zip(figure.subplots(1, 2), (vae, other), ("Letters", "Digits"), strict=True):
        plots.manifold(model, ax=ax)
        ax.set_title(f"{name}: decoded latent plane")
    return figure


def main():
    parser = training_parser(__doc__.splitlines()[0], "runs/letters", ("emnist-letters",))
    parser.add_argument("--only", metavar="LETTERS", help='the letters to keep, for example the vowels "AEIOU"')
    arguments = parser.parse_args()
    backend, dataset = start(arguments)
    if arguments.only:
        dataset = dataset.only(arguments.only)
        print_data(dataset)
    vae = build(arguments, backend, dataset.x_train[0].size)
    history = fit(arguments, vae, dataset.x_train, **kept(arguments, "val"))
    save_results(arguments, vae, dataset)
    if not arguments.no_plots:
        draw(arguments, vae, history, dataset)
    print(f"results in {arguments.out}")
    print_test(arguments, vae, dataset)


if __name__ == "__main__":
    command(main)
