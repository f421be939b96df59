"""A VAE on MNIST with two latent dimensions: 784-256-2-256-784, as in the best-known tutorial.

    python examples/train_mnist.py --backend cupy
    mpiexec -n 4 python examples/train_mnist.py --parallel mpi

Other tutorials' settings go by `--recipe`; what you add on the command line counts more.
Published: a test -ELBO of 151.05 nats after 50 epochs (172.6 after the first). Seeds differ by about 1.
"""

from common import at_least_1, command, layers, print_result, save_figures, start, train, training_parser

import minivae as mv

RECIPES = {
    "keras-mnist": {},
    "keras-mc-samples": {"samples": 25},
    "pytorch-example": {"hidden": 400, "latent_dim": 20, "optimizer": "adam", "batch_size": 128, "epochs": 10},
    "spanish": {"epochs": 5, "beta": 0.1},
}
PUBLISHED = {
    "keras-mnist": "151.05 on MNIST after 50 epochs, 172.6 after the first",
    "keras-mc-samples": "152.2 on MNIST with 25 samples",
    "pytorch-example": "106.66 on MNIST at epoch 7",
    "spanish": "a loss, with beta = 0.1, that falls from 155.4 to 153.5 on MNIST",
}
EXPECTED_ON_SAMPLE = "164.7 to 167.4 after 50 epochs, for seeds 0 to 4"


def build(arguments, backend, n_pixels):
    """The model: one hidden ReLU layer on either side."""
    hidden, latent = arguments.hidden, arguments.latent_dim
    return mv.VAE(
        encoder=layers(n_pixels, hidden, 2 * latent),
        decoder=layers(latent, hidden, n_pixels),
        likelihood=mv.Bernoulli(),
        beta=arguments.beta,
        backend=backend,
        dtype=arguments.dtype,
        seed=arguments.seed,
    )


def draw(arguments, vae, history, dataset):
    from minivae.views import plots

    figures = {
        "loss_curves": plots.loss_curves(history, validation="test"),
        "reconstructions": plots.reconstructions(vae, dataset.x_test, n=10),
        "latent_space": plots.latent_space(vae, dataset.x_test, dataset.y_test, dataset.class_names),
        "draws": plots.draws(vae, dataset.x_test[:4], n=10),
        "samples": plots.samples(vae, n=100, seed=arguments.seed),
        "kl_per_dimension": plots.kl_per_dimension(vae, dataset.x_test),
        "architecture": plots.architecture(vae),
    }
    if vae.latent_dim == 2 and arguments.recipe == "spanish":
        figures["manifold"] = plots.manifold(vae, n=30, limits=(-3, 3))
    elif vae.latent_dim == 2:  # on the axes of the other, to look from one to the other
        figures["manifold"] = plots.manifold(vae, limits=figures["latent_space"].axes[0].get_xlim())
    save_figures(arguments, **figures)


def read_arguments():
    parser = training_parser(__doc__.splitlines()[0], "runs/mnist", ("mnist", "fashion-mnist", "sample"))
    parser.add_argument("--hidden", type=at_least_1, default=256, help="the width of the hidden layers")
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="keras-mnist", help="whose settings to start from")
    parser.set_defaults(**RECIPES[parser.parse_known_args()[0].recipe])
    return parser.parse_args()


def main():
    arguments = read_arguments()
    backend, dataset = start(arguments)
    vae = build(arguments, backend, dataset.x_train[0].size)
    history = train(arguments, vae, dataset)
    if not arguments.no_plots:
        draw(arguments, vae, history, dataset)
    published = PUBLISHED[arguments.recipe]
    if dataset.name == "sample" and arguments.recipe == "keras-mnist":
        published += f"\nexpected on the bundled sample: {EXPECTED_ON_SAMPLE}"
    print_result(arguments, history, dataset, published)


if __name__ == "__main__":
    command(main)
