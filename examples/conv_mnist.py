"""A convolutional VAE on MNIST or Fashion-MNIST with two latent dimensions, as in the best-known tutorial.

    python examples/conv_mnist.py --dataset mnist --epochs 50

Published: a test -ELBO of 141.76 nats on MNIST after 50 epochs, and of 257.9 on Fashion-MNIST after 30. A step costs
about a hundred times that of the dense model: stop it at will, and go on with --resume.

All of an image passes the one map of the first layer, whose four weights are drawn around 0. Where their sum is
negative, white becomes 0 at the ReLU behind it, the encoder sees next to nothing, and the posterior collapses at 206
nats. So of W and -W, which are equally likely, the one with the larger sum is taken: see `build`.
"""

from common import at_least_1, command, print_result, save_figures, start, train, training_parser

import minivae as mv

PUBLISHED = {"mnist": "141.76 on MNIST after 50 epochs", "fashion-mnist": "257.9 on Fashion-MNIST after 30"}


def networks(latent, maps):
    """Images of 28 x 28 pixels to the posterior's mean and log-variance, and z to the logits of the pixels."""
    small = (14, 14, maps)
    encoder = [
        mv.Reshape((28, 28, 1)),
        mv.Conv2d(1, 1, 2, padding="same"),
        mv.ReLU(),
        mv.Conv2d(1, maps, 2, stride=2, padding="same"),
        mv.ReLU(),
        mv.Conv2d(maps, maps, 3, padding="same"),
        mv.ReLU(),
        mv.Conv2d(maps, maps, 3, padding="same"),
        mv.ReLU(),
        mv.Flatten(),
        mv.Dense(14 * 14 * maps, 128),
        mv.ReLU(),
        mv.Dense(128, 2 * latent),
    ]
    decoder = [
        mv.Dense(latent, 128),
        mv.ReLU(),
        mv.Dense(128, 14 * 14 * maps),
        mv.ReLU(),
        mv.Reshape(small),
        mv.ConvTranspose2d(maps, maps, 3, padding="same"),
        mv.ReLU(),
        mv.ConvTranspose2d(maps, maps, 3, padding="same"),
        mv.ReLU(),
        mv.ConvTranspose2d(maps, maps, 3, stride=2),
        mv.ReLU(),
        mv.Conv2d(maps, 1, 2),
        mv.Flatten(),
    ]
    return encoder, decoder


def build(arguments, backend):
    """The model, with a first map that lets white pixels through."""
    encoder, decoder = networks(arguments.latent_dim, arguments.maps)
    where = {"backend": backend, "dtype": arguments.dtype, "seed": arguments.seed}
    vae = mv.VAE(encoder, decoder, beta=arguments.beta, **where)
    kernel = vae.parameters["encoder.1.W"]
    if kernel.sum() < 0:
        kernel *= -1
    return vae


def learning_rate(arguments):
    """Steady, as published; with --fall it falls in the last epochs, evenly on a log scale.

    RMSprop's steps do not shrink with the gradient, so that at a steady rate the test loss goes up and down by half a
    nat from one epoch to the next.
    """
    if not arguments.fall:
        return lambda epoch: arguments.lr
    steady = arguments.epochs - arguments.fall
    return lambda epoch: arguments.lr * 0.01 ** max(0.0, (epoch - steady) / arguments.fall)


def draw(arguments, vae, history, dataset):
    from minivae.views import plots

    figures = {
        "loss_curves": plots.loss_curves(history, validation="test"),
        "reconstructions": plots.reconstructions(vae, dataset.x_test, n=10),
        "latent_space": plots.latent_space(vae, dataset.x_test, dataset.y_test, dataset.class_names),
        "samples": plots.samples(vae, n=100, seed=arguments.seed),
    }
    if vae.latent_dim == 2:
        figures["manifold"] = plots.manifold(vae, limits=figures["latent_space"].axes[0].get_xlim())
    save_figures(arguments, **figures)


def main():
    parser = training_parser(__doc__.splitlines()[0], "runs/conv", ("mnist", "fashion-mnist", "sample"))
    parser.add_argument("--maps", type=at_least_1, default=64, help="the channels of the hidden layers")
    parser.add_argument("--fall", type=at_least_1, help="the last epochs, in which the learning rate falls to 1%%")
    arguments = parser.parse_args()
    backend, dataset = start(arguments)
    vae = build(arguments, backend)
    history = train(arguments, vae, dataset, schedules={"lr": learning_rate(arguments)})
    if not arguments.no_plots:
        draw(arguments, vae, history, dataset)
    print_result(arguments, history, dataset, PUBLISHED.get(dataset.name, "nothing for this data set"))


if __name__ == "__main__":
    command(main)
