"""VAE and importance-weighted autoencoder on dynamically binarized MNIST: 784-200-200-50, tanh.

    python examples/iwae_mnist.py --bound iwae --k 50 --full

The full schedule is 3^i epochs at a learning rate of 1e-3 * 10^(-i/7), i = 0 to 7: 3,280 epochs. Without --full the
same rates get fewer epochs each, --growth^i of them, and the result is no reproduction of the published one.
Published test NLL in nats (5,000 samples) for k = 1, 5, 50: VAE 86.76, 86.47, 86.35; IWAE 86.76, 85.54, 84.78.
Source: Burda, Grosse & Salakhutdinov 2016, section 5 and table 1 (one stochastic layer).
"""

import numpy as np
from common import (
    at_least_1,
    between,
    command,
    data_name,
    kept,
    recipe_parser,
    save_results,
    save_training_figures,
    start,
    write_json,
)

import minivae as mv


def build(arguments, backend, x_train):
    """The model; the biases of the output start at the logits of the pixels' means."""
    hidden, latent, bound = 200, 50, mv.ELBO() if arguments.bound == "vae" else mv.ImportanceWeighted()
    vae = mv.VAE(
        encoder=[mv.Dense(784, hidden), mv.Tanh(), mv.Dense(hidden, hidden), mv.Tanh(), mv.Dense(hidden, 2 * latent)],
        decoder=[mv.Dense(latent, hidden), mv.Tanh(), mv.Dense(hidden, hidden), mv.Tanh(), mv.Dense(hidden, 784)],
        bound=bound,
        backend=backend,
        dtype=arguments.dtype,
        seed=arguments.seed,
    )
    mean = np.clip(x_train.reshape(len(x_train), -1).mean(axis=0) / 255, 1e-3, 1 - 1e-3)
    backend.upload(np.log(mean / (1 - mean)), to=vae.parameters["decoder.4.b"])
    return vae


def learning_rates(growth, stages):
    """The learning rate of each epoch."""
    return [1e-3 * 10 ** (-i / 7) for i in range(stages) for _ in range(round(growth**i))]


def train(arguments, vae, dataset):
    rates = learning_rates(*(3, 8) if arguments.full else (arguments.growth, arguments.stages))
    print(f"{'full' if arguments.full else 'SHORTENED'} schedule: {len(rates)} epochs (published: 3,280)", flush=True)
    history = mv.fit(
        vae,
        dataset.x_train,
        validation=dataset.x_test,
        epochs=len(rates),
        batch_size=20,
        samples=arguments.k,
        binarize="dynamic",
        optimizer=mv.Adam(rates[0], eps=1e-4),
        schedules={"lr": lambda epoch: rates[epoch - 1]},
        **kept(arguments),
    )
    save_results(arguments, vae, dataset)
    return history


def main():
    parser = recipe_parser(__doc__.splitlines()[0], "runs/iwae", ("mnist", "sample"))
    parser.add_argument("--bound", choices=("vae", "iwae"), default="iwae")
    parser.add_argument("--k", type=at_least_1, default=5, help="samples of z for each example in a step")
    parser.add_argument("--growth", type=between(1, 3), default=1.4, help="of the epochs from one rate to the next")
    parser.add_argument("--stages", type=int, choices=range(1, 9), default=8, help="how many of the eight rates")
    parser.add_argument("--full", action="store_true", help="the published schedule: --growth 3")
    parser.add_argument("--nll-samples", type=at_least_1, default=5000, help="for the test NLL")
    arguments = parser.parse_args()
    backend, dataset = start(arguments)
    vae = build(arguments, backend, dataset.x_train)
    history = train(arguments, vae, dataset)
    x_test = mv.binarize(dataset.x_test)
    nll = -vae.log_likelihood(x_test, samples=arguments.nll_samples, parallel=arguments.ranks)
    active = int(vae.active_units(x_test).sum())
    result = {"bound": arguments.bound, "k": arguments.k, "epochs": len(history), "full": arguments.full}
    result |= {"test_nll": nll, "nll_samples": arguments.nll_samples, "active_units": active}
    result |= {"training_seconds": sum(history["seconds"])}
    if arguments.ranks.rank:
        return
    write_json(arguments.out / "result.json", result)
    if not arguments.no_plots:
        save_training_figures(arguments, vae, history)
    print(f"results in {arguments.out}")
    print("published, on MNIST after 3,280 epochs, for k = 1, 5, 50: VAE 86.76, 86.47, 86.35; IWAE 86.76, 85.54, 84.78")
    print(f"on {data_name(arguments, dataset)}, binarized:")
    print(f"test NLL {nll:.2f} nats ({arguments.nll_samples} samples), {active} of {vae.latent_dim} units active")


if __name__ == "__main__":
    command(main)
