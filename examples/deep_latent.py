"""A deep latent Gaussian model on dynamically binarized MNIST: 128 latent dimensions, two ReLU layers of 256.

    python examples/deep_latent.py
    python examples/deep_latent.py --posterior flow --start runs/deep-latent/model.safetensors --lr 1e-4 --epochs 40

--posterior mean-field is a diagonal Gaussian; flow follows it with two stages of inverse autoregressive flow. Trained
from the first step on, the flow ends a little behind: its gradients are noisier, and more latent dimensions are given
up early. So --start takes over the weights of a mean-field model, and the flow begins as nearly the identity.
Published for static binarization, in nats: mean-field ELBO -103.31 and log p(x) -97.10; flow -101.64 and -95.33.
"""

from pathlib import Path

from common import (
    at_least_1,
    command,
    kept,
    layers,
    print_epoch,
    recipe_parser,
    save_results,
    save_training_figures,
    start,
    write_json,
)

import minivae as mv


def build(arguments, backend):
    hidden, latent, context = 256, 128, 64
    posterior, n_stats = mv.DiagonalGaussian(), 2 * latent
    if arguments.posterior == "flow":
        gate_bias = 6.0 if arguments.start else 2.0
        stages = [mv.InverseAutoregressive(latent, hidden, context, reverse, gate_bias) for reverse in (False, True)]
        posterior, n_stats = mv.FlowPosterior(stages), 2 * latent + 2 * context
    return mv.VAE(
        encoder=layers(784, hidden, hidden, n_stats),
        decoder=layers(latent, hidden, hidden, 784),
        posterior=posterior,
        backend=backend,
        dtype=arguments.dtype,
        seed=arguments.seed,
    )


def start_from(path, vae):
    """Take over a model's weights; where a layer here is wider, its first columns."""
    values = vae.parameters.to_host()
    for name, value in mv.load(path).parameters.to_host().items():
        values[name][..., : value.shape[-1]] = value
    vae.parameters.load(values)


def learning_rate(first, epochs):
    """The same for three quarters of the epochs, then falling evenly on a log scale to a hundredth at the end.

    RMSprop's steps do not shrink with the gradient: large ones leave the noise of the samples in the weights.
    """
    return lambda epoch: first * 0.01 ** max(0.0, 4 * epoch / epochs - 3)


def main():
    parser = recipe_parser(__doc__.splitlines()[0], "runs/deep-latent", ("mnist", "sample"))
    parser.add_argument("--posterior", choices=("mean-field", "flow"), default="mean-field")
    parser.add_argument("--epochs", type=at_least_1, default=140, help="469 steps each; the published run: 65,000")
    parser.add_argument("--lr", type=float, default=1e-3, help="the learning rate of the first three quarters")
    parser.add_argument("--start", type=Path, help="a mean-field model.safetensors whose weights to start from")
    parser.add_argument("--nll-samples", type=at_least_1, default=128, help="importance samples for log p(x)")
    arguments = parser.parse_args()
    backend, dataset = start(arguments)
    vae = build(arguments, backend)
    if arguments.start:
        start_from(arguments.start, vae)
    history = mv.fit(
        vae,
        dataset.x_train,
        dataset.x_test,
        epochs=arguments.epochs,
        batch_size=128,
        binarize=True,
        optimizer=mv.RMSprop(),
        lr_schedule=learning_rate(arguments.lr, arguments.epochs),
        callbacks=[print_epoch(arguments.epochs)],
        **kept(arguments),
    )
    save_results(arguments, vae, history, dataset)
    x_test = mv.binarize(dataset.x_test)
    elbo = -vae.evaluate(x_test).negative_elbo
    log_p = vae.log_likelihood(x_test, samples=arguments.nll_samples)
    steps = arguments.epochs * -(-len(dataset.x_train) // 128)
    result = {"posterior": arguments.posterior, "steps": steps, "training_seconds": sum(history["seconds"])}
    result |= {"test_elbo": elbo, "test_log_px": log_p, "nll_samples": arguments.nll_samples}
    write_json(arguments.out / "result.json", result)
    if not arguments.no_plots:
        save_training_figures(arguments, vae, history)
    print(f"results in {arguments.out}")
    print(f"test ELBO {elbo:.2f} nats, log p(x) {log_p:.2f} nats ({arguments.nll_samples} samples), {steps} steps")


if __name__ == "__main__":
    command(main)
