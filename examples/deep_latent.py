"""A deep latent Gaussian model on dynamically binarized MNIST: 128 latent dimensions, two ReLU layers of 256.

    python examples/deep_latent.py --posterior flow

--posterior mean-field is a diagonal Gaussian; flow follows it with two stages of inverse autoregressive flow. In the
first epochs the KL counts for less: with its full weight from the start, both end worse, and the flow behind the other.
RMSprop averages over a hundred steps, as PyTorch's does.
Published for static binarization, in nats: mean-field ELBO -103.31 and log p(x) -97.10; flow -101.64 and -95.33.
"""

from common import (
    at_least_1,
    command,
    data_name,
    kept,
    layers,
    recipe_parser,
    save_results,
    save_training_figures,
    start,
    write_json,
)

import minivae as mv

WARM_UP_EPOCHS = 20
PUBLISHED = {"mean-field": "ELBO -103.31, log p(x) -97.10", "flow": "ELBO -101.64, log p(x) -95.33"}


def build(arguments, backend):
    hidden, latent, context = 256, 128, 64
    posterior, n_stats = mv.DiagonalGaussian(), 2 * latent
    if arguments.posterior == "flow":
        stages = [mv.InverseAutoregressive(latent, hidden, context, reverse) for reverse in (False, True)]
        posterior, n_stats = mv.FlowPosterior(stages), 2 * latent + 2 * context
    return mv.VAE(
        encoder=layers(784, hidden, hidden, n_stats),
        decoder=layers(latent, hidden, hidden, 784),
        posterior=posterior,
        backend=backend,
        dtype=arguments.dtype,
        seed=arguments.seed,
    )


def learning_rate(epochs):
    """1e-3 for three quarters of the epochs, then falling evenly on a log scale to 1e-5 at the end.

    RMSprop's steps do not shrink with the gradient, so that at 1e-3 the noise of the samples stays in the weights.
    """
    return lambda epoch: 1e-3 * 0.01 ** max(0.0, 4 * epoch / epochs - 3)


def main():
    parser = recipe_parser(__doc__.splitlines()[0], "runs/deep-latent", ("mnist", "sample"))
    parser.add_argument("--posterior", choices=("mean-field", "flow"), default="mean-field")
    parser.add_argument("--epochs", type=at_least_1, default=140, help="469 steps each; the published run: 65,000")
    parser.add_argument("--nll-samples", type=at_least_1, default=128, help="importance samples for log p(x)")
    arguments = parser.parse_args()
    backend, dataset = start(arguments)
    vae = build(arguments, backend)
    history = mv.fit(
        vae,
        dataset.x_train,
        validation=dataset.x_test,
        epochs=arguments.epochs,
        batch_size=128,
        binarize="dynamic",
        optimizer=mv.RMSprop(rho=0.99),
        schedules={"beta": mv.linear_warmup(WARM_UP_EPOCHS), "lr": learning_rate(arguments.epochs)},
        **kept(arguments),
    )
    save_results(arguments, vae, dataset)
    x_test = mv.binarize(dataset.x_test)
    elbo = -vae.evaluate(x_test, parallel=arguments.ranks).negative_elbo
    log_p = vae.log_likelihood(x_test, samples=arguments.nll_samples, parallel=arguments.ranks)
    steps = len(history) * -(-len(dataset.x_train) // 128)
    result = {"posterior": arguments.posterior, "steps": steps, "training_seconds": sum(history["seconds"])}
    result |= {"test_elbo": elbo, "test_log_px": log_p, "nll_samples": arguments.nll_samples}
    if arguments.ranks.rank:
        return
    write_json(arguments.out / "result.json", result)
    if not arguments.no_plots:
        save_training_figures(arguments, vae, history)
    print(f"results in {arguments.out}")
    print(f"published: {PUBLISHED[arguments.posterior]} on statically binarized MNIST after 65,000 steps")
    print(f"on {data_name(arguments, dataset)}, binarized:")
    print(f"test ELBO {elbo:.2f} nats, log p(x) {log_p:.2f} nats ({arguments.nll_samples} samples) after {steps} steps")


if __name__ == "__main__":
    command(main)
