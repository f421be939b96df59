"""A conditional VAE on MNIST: the label says which digit, so z is left to say in what style.

    python examples/conditional_mnist.py

The figure `styles` takes ten test digits and writes all ten digits in the style of each. Where the model knows the
label, its bound is on log p(x given y): smaller than the -ELBO of a model that has to tell the digit through z.
"""

from common import (
    OPTIMIZERS,
    at_least_1,
    command,
    kept,
    print_epoch,
    save_figures,
    save_results,
    start,
    training_parser,
)

import minivae as mv


def build(arguments, backend, n_pixels, n_classes):
    """The model: one hidden ReLU layer on either side, labels beside the pixels and beside z."""
    hidden, latent = arguments.hidden, arguments.latent_dim
    return mv.VAE(
        encoder=[mv.Dense(n_pixels + n_classes, hidden), mv.ReLU(), mv.Dense(hidden, 2 * latent)],
        decoder=[mv.Dense(latent + n_classes, hidden), mv.ReLU(), mv.Dense(hidden, n_pixels)],
        beta=arguments.beta,
        backend=backend,
        dtype=arguments.dtype,
        seed=arguments.seed,
        n_classes=n_classes,
    )


def main():
    parser = training_parser(
        __doc__.splitlines()[0],
        "runs/conditional",
        ("mnist", "fashion-mnist", "sample"),
        latent_dim=8,
        epochs=20,
        batch_size=128,
        optimizer="adam",
    )
    parser.add_argument("--hidden", type=at_least_1, default=512, help="the width of the hidden layers")
    arguments = parser.parse_args()
    backend, dataset = start(arguments)
    n_classes = int(dataset.y_train.max()) + 1
    vae = build(arguments, backend, dataset.x_train[0].size, n_classes)
    history = mv.fit(
        vae,
        dataset.x_train,
        dataset.x_test,
        y_train=dataset.y_train,
        y_val=dataset.y_test,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        optimizer=OPTIMIZERS[arguments.optimizer](arguments.lr),
        samples=arguments.samples,
        callbacks=[print_epoch(arguments.epochs)],
        **kept(arguments),
    )
    save_results(arguments, vae, history, dataset)
    if not arguments.no_plots:
        from minivae import plots

        x, y = dataset.x_test[:10], dataset.y_test[:10]
        figure = plots.styles(vae, x, y, dataset.class_names)
        save_figures(arguments, loss_curves=plots.loss_curves(history, "test"), styles=figure)
    print(f"results in {arguments.out}")
    row = history[-1]
    reconstruction, kl = row["val_reconstruction"], row["val_kl"]
    print(f"test -ELBO {reconstruction + kl:.1f} nats (reconstruction {reconstruction:.1f}, KL {kl:.1f})")


if __name__ == "__main__":
    command(main)
