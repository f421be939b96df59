"""How good the draws of a VAE are, by which prior they come from: the model's own, or a mixture fitted to the codes.

    pip install ".[sklearn]" && python examples/sample_quality.py --data-dir DIR

A small classifier of digits, 784-256-64-10 and trained here, sees the images; the values of its layer of 64 are what
is compared. All models are 784-400-20-400-784 and trained alike, on pixels that are drawn black or white in each
epoch; what is looked at are the means of p(x given z). Beside them stand what no prior can spoil, the reconstructions
of test images, and real images that nobody has seen. The last arm knows classes, and the classifier reads the digits
that it was told to draw. Sources: Heusel et al. 2017 for the Frechet distance, Kynkaanniemi et al. 2019 for precision
and recall, Ghosh et al. 2020 for the mixture.
"""

import numpy as np
from common import at_least, at_least_1, command, data_name, layers, model_parser, save_figures, start, write_json

import minivae as mv
from minivae.model.likelihoods import categorical_log_prob
from minivae.model.parameters import Parameters
from minivae.randomness import INITIALISATION, SHUFFLE, generator

FEW = 300  # images whose nearest training images are looked for
PRIORS = {
    "standard normal": lambda n_in, K: mv.StandardNormal(20),
    "mixture prior": lambda n_in, K: mv.MixturePrior(20, K),
    "VampPrior": lambda n_in, K: mv.VampPrior(20, n_in, K),
}


class Classifier:
    """784-256-64-10, trained by Adam on -log p(class given image), with a learning rate that falls to 0."""

    def __init__(self, n_in, seed=0):
        self.stack = mv.Sequential(layers(n_in, 256, 64, 10, init="he_normal"))
        self.parameters = Parameters(mv.get_backend("numpy"), self.stack.shapes(), "float32")
        self.parameters.load(self.stack.initial(generator(seed, INITIALISATION)))

    def fit(self, x, y, epochs, seed=0, batch_size=100):
        optimizer, p = mv.Adam(1e-3), self.parameters.flat
        state, done, steps = optimizer.fresh_state(p), 0, epochs * -(-len(x) // batch_size)
        for epoch in range(epochs):
            order = generator(seed, SHUFFLE, epoch).permutation(len(x))
            for rows in np.split(order, range(batch_size, len(x), batch_size)):
                logits, backward = self.stack.forward(self.parameters.named(p), x[rows])
                chosen = (y[rows, None] == np.arange(10))[:, None]  # (B, 1, 10)
                _, log_p_backward = categorical_log_prob(chosen, logits[None, :, None])
                dlogits = log_p_backward(np.full((1, len(rows)), -1 / len(rows), np.float32))
                _, grads = backward(dlogits[0, :, 0])
                g = np.concatenate([grads[name].ravel() for name in self.parameters])
                lr = np.full(1, 1e-3 * (1 - done / steps), np.float32)
                p, state = optimizer.update(g, p, state | {"lr": lr})
                done += 1
        self.parameters.flat[...] = p

    def features_and_classes(self, x):
        """The values of the layer of 64, (N, 64), and which class has the largest logit, (N,)."""
        params = dict(self.parameters)
        features, _ = mv.Sequential(self.stack.layers[:-1]).forward(params, x)
        logits, _ = self.stack.forward(params, x)
        return features, logits.argmax(axis=1)


def train(arguments, backend, dataset, prior=None, classes=False):
    x = dataset.x_train.reshape(len(dataset.x_train), -1)
    options = {"n_classes": 10} if classes else {"prior": prior(x.shape[1], arguments.components)}
    vae = mv.mlp(x.shape[1], 20, (400,), backend=backend, dtype=arguments.dtype, seed=arguments.seed, **options)
    mv.fit(
        vae,
        (x, dataset.y_train) if classes else x,
        epochs=arguments.epochs,
        batch_size=100,
        optimizer=mv.Adam(1e-3),
        binarize="dynamic",
    )
    return vae


def draws(arguments, backend, dataset, n):
    """Yields the name of each arm, n of its images (n, X), and the classes that were asked for, or None."""
    x_train, others = dataset.x_train.reshape(len(dataset.x_train), -1), dataset.x_test[n : 2 * n].reshape(n, -1)
    yield "other test images", others / 255, None
    for name, prior in PRIORS.items():
        vae = train(arguments, backend, dataset, prior)
        if name == "standard normal":
            yield "reconstructions", vae.reconstruct(mv.binarize(others)), None
        yield name, vae.sample(n, seed=arguments.seed), None
        if name == "standard normal":
            x = mv.binarize(x_train[:20_000])
            for K in dict.fromkeys((1, arguments.components)):  # once, where they are the same
                sampler = mv.AggregateSampler(vae, x, K, arguments.seed)
                yield f"its codes, {K} Gaussian{'s' * (K > 1)}", sampler.sample(n, arguments.seed), None
    vae, y = train(arguments, backend, dataset, classes=True), np.arange(n) % 10
    yield "with classes", vae.sample(n, seed=arguments.seed, y=y), y
    y = dataset.y_test[n : 2 * n]
    yield "its reconstructions", vae.reconstruct(mv.binarize(others), y=y), y


def draw(shown, x_train):
    """Ten draws of each arm above the training images nearest to them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 1.3 * len(shown) / 2), layout="constrained")
    for part, (name, images) in zip(figure.subfigures(-(-len(shown) // 2), 2).flat, shown.items(), strict=False):
        part.suptitle(name, fontsize=10)
        nearest = x_train[mv.nearest_rows(images, x_train)[0]]
        for axes, image in zip(part.subplots(2, len(images)).flat, (*images, *nearest), strict=True):
            axes.imshow(image.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
            axes.axis("off")
    return figure


def main():
    parser = model_parser(__doc__.splitlines()[0], "runs/sample-quality", ("mnist", "sample"))
    parser.add_argument("--epochs", type=at_least_1, default=12)
    parser.add_argument("--components", type=at_least_1, default=20, help="of all mixtures")
    parser.add_argument("--images", type=at_least(4), default=3000, help="test images, and draws, that are compared")
    parser.add_argument("--classifier-epochs", type=at_least_1, default=3)
    arguments = parser.parse_args()
    backend, dataset = start(arguments)
    n = min(arguments.images, len(dataset.x_test) // 2)
    if n < 4 or len(dataset.x_train) <= arguments.components:
        raise mv.MiniVAEError(
            f"--components {arguments.components} needs more training images than that, and 8 test images are needed, "
            f"got {len(dataset.x_train)} and {len(dataset.x_test)}: give a larger --limit, or fewer --components"
        )
    x_test = dataset.x_test.reshape(len(dataset.x_test), -1) / np.float32(255)
    x_train = dataset.x_train.reshape(len(dataset.x_train), -1) / np.float32(255)
    classifier = Classifier(x_train.shape[1], arguments.seed)
    classifier.fit(x_train, dataset.y_train, arguments.classifier_epochs, arguments.seed)
    real, classes = classifier.features_and_classes(x_test)
    accuracy, real = float(np.mean(classes == dataset.y_test)), real[:n]
    print(f"the classifier is right on {accuracy:.2%} of {len(x_test)} test images of {data_name(arguments, dataset)}")
    _, new = mv.nearest_rows(x_test[:FEW], x_train)
    results, shown = {"classifier": accuracy, "nearest of test images": new.mean()}, {}
    print(f"{'':20} {'Frechet':>8} {'precision':>9} {'recall':>7} {'nearest':>8} {'as told':>8}")
    for name, images, told in draws(arguments, backend, dataset, n):
        features, classes = classifier.features_and_classes(images.astype(np.float32))
        precision, recall = mv.precision_and_recall(real, features)
        result = {"frechet": mv.frechet_distance(real, features), "precision": precision, "recall": recall}
        result["nearest"] = mv.nearest_rows(images[:FEW], x_train)[1].mean() / new.mean()
        result["as told"] = None if told is None else float(np.mean(classes == told))
        of_told = "" if told is None else f"{result['as told']:8.2%}"
        numbers = f"{result['frechet']:8.2f} {precision:9.3f} {recall:7.3f} {result['nearest']:8.2f}"
        print(f"{name:20} {numbers} {of_told}".rstrip(), flush=True)
        results[name] = result
        if name not in ("other test images", "reconstructions"):
            shown[name] = images[:10]
        write_json(arguments.out / "result.json", results)
    if not arguments.no_plots:
        save_figures(arguments, sample_quality=draw(shown, x_train))
    print(f"results in {arguments.out}")


if __name__ == "__main__":
    command(main)
