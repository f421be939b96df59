"""A conditional VAE on MNIST: the label says which digit, so z is left to say in what style.

    python examples/conditional_mnist.py

The figure `styles` takes ten test digits and writes all ten digits in the style of each. Since the model is told the
label, its bound is on log p(x given y): it is above that of a model that has to tell the digit through z.
"""

from common import at_least_1, command, layers, print_result, save_figures, start, train, training_parser

import minivae as mv


def build(arguments, backend, n_pixels, n_classes):
    """The model: one hidden ReLU layer on either side, labels beside the pixels and beside z."""
    hidden, latent = arguments.hidden, arguments.latent_dim
    return mv.VAE(
        encoder=layers(n_pixels + n_classes, hidden, 2 * latent),
        decoder=layers(latent + n_classes, hidden, n_pixels),
        beta=arguments.beta,
        backend=backend,
        dtype=arguments.dtype,
        seed=arguments.seed,
        n_classes=n_classes,
    )


def draw(arguments, vae, history, dataset):
    from minivae.views import plots

    x, y = dataset.x_test[:10], dataset.y_test[:10]
    figures = {
        "loss_curves": plots.loss_curves(history, validation="test"),
        "styles": plots.styles(vae, x, y, dataset.class_names),
    }
    save_figures(arguments, **figures)


def main():
    recipe = {"latent_dim": 8, "epochs": 20, "batch_size": 128, "optimizer": "adam"}
    parser = training_parser(
        __doc__.splitlines()[0], "runs/conditional", ("mnist", "fashion-mnist", "sample"), **recipe
    )
    parser.add_argument("--hidden", type=at_least_1, default=512, help="the width of the hidden layers")
    arguments = parser.parse_args()
    backend, dataset = start(arguments)
    vae = build(arguments, backend, dataset.x_train[0].size, n_classes=len(dataset.class_names))
    history = train(arguments, vae, dataset)
    if not arguments.no_plots:
        draw(arguments, vae, history, dataset)
    print_result(arguments, history, dataset, "nothing for this model")


if __name__ == "__main__":
    command(main)
