"""Mistakes that tutorials, libraries and papers make, each as lines of minivae changed, and the test that catches it.

    python examples/mistakes/museum.py                what each amounts to
    python examples/mistakes/museum.py --measure      trains with each on the bundled digits: measured.json, a figure
    python examples/mistakes/museum.py --page         docs/mistakes.md

`mistake.put_in()` changes the function for as long as the block lasts, everywhere, since its code is exchanged. Where
a mistake is made the same way in a value and in its derivative, no gradient check can see it: both are those of
another loss. `gradcheck_sees` says so of each, and tests/examples/test_mistakes.py that it is so.
"""

import argparse
import contextlib
import importlib
import inspect
import json
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import minivae as mv
from minivae import data

PAGE = Path(__file__).parents[2] / "docs" / "mistakes.md"
MEASURED = Path(__file__).with_name("measured.json")
FIGURE = PAGE.with_name("mistakes.png")
EPOCHS = 10
UNRECORDED = "no sighting recorded"


@dataclass(frozen=True)
class Mistake:
    """`changes` are pairs of the right text and the wrong one in the source of the function `where`."""

    name: str
    seen_in: str
    where: str
    changes: tuple
    equation: str
    effect: str
    caught_by: str
    gradcheck_sees: bool
    model: str = "Bernoulli"

    def function(self):
        """The function that is changed."""
        module, *names = self.where.split(":")
        found = importlib.import_module(f"minivae.{module}")
        for name in names[0].split("."):
            found = getattr(found, name)
        return found

    @contextlib.contextmanager
    def put_in(self):
        function = self.function()
        source = textwrap.dedent(inspect.getsource(function))
        for right, wrong in self.changes:
            if source.count(right) != 1:
                raise ValueError(f"{self.name}: {right!r} should stand once in {self.where}")
            source = source.replace(right, wrong)
        names = {}
        exec(compile(source, f"<{self.name}>", "exec"), function.__globals__, names)
        kept = function.__code__
        function.__code__ = names[function.__name__].__code__
        try:
            yield
        finally:
            function.__code__ = kept

    def passes_gradcheck(self):
        """Whether finite differences of a whole model, as things are now, agree with its backward pass."""
        x = np.random.default_rng(0).random((4, 6))
        return mv.gradcheck(small_model(self.model), x, np.random.default_rng(1).standard_normal((3, 4, 2))).passed


def small_model(kind):
    """A VAE in float64, of which the mistake's function is a part."""
    parts = {
        "Bernoulli": {},
        "Gaussian": {"likelihood": mv.Gaussian()},
        "ImportanceWeighted": {"bound": mv.ImportanceWeighted()},
        "Planar": {"posterior": mv.FlowPosterior([mv.Planar(2)])},
    }[kind]
    encoder = [mv.Dense(6, 5), mv.ReLU(), mv.Dense(5, 4)]
    decoder = [mv.Dense(2, 5), mv.ReLU(), mv.Dense(5, 6)]
    return mv.VAE(encoder, decoder, dtype="float64", **parts)


FUNCTIONS = "tests/truths/test_functions.py::"
TRUTHS = "tests/truths/test_truths.py::"
NUMERICS = "tests/truths/test_numerics.py::"
MISTAKES = [
    Mistake(
        "The variance as standard deviation", "two from-scratch libraries", "model.gaussian:reparameterize",
        (("std = np.exp(0.5 * log_var)", "std = np.exp(log_var)"), ("* std * 0.5", "* std")),
        "z = mu + sigma^2 eps", "Samples are too narrow where sigma < 1: q is not the Gaussian whose KL is paid.",
        FUNCTIONS + "test_samples_have_the_mean_and_the_standard_deviation_of_q", False,
    ),
    Mistake(
        "One noise for the whole batch", "two from-scratch libraries", "model.vae:VAE._draw",
        (("(rows, samples, self.latent_dim)", "(1, samples, self.latent_dim)"),
         ("eps.transpose(1, 0, 2)", "eps.repeat(rows, 0).transpose(1, 0, 2)")),
        "z_b = mu_b + sigma_b eps",
        "The noise no longer averages out over the batch. Here evaluation only: fit draws its own.",
        TRUTHS + "test_each_sample_and_example_has_its_own_noise", False,
    ),
    Mistake(
        "The decoder gets mu", UNRECORDED, "model.gaussian:reparameterize",
        (("np.sum(dz * eps, axis=0) * std * 0.5", "np.sum(dz * eps, axis=0) * std * 0"),
         ("return mu + std * eps", "return mu + 0 * std * eps")),
        "z = mu", "An autoencoder with a penalty; log_var goes to 0 and draws from the prior look bad.",
        FUNCTIONS + "test_samples_have_the_mean_and_the_standard_deviation_of_q", False,
    ),
    Mistake(
        "The half forgotten in dlog_var", UNRECORDED, "model.gaussian:reparameterize",
        (("* std * 0.5", "* std"),), "dz/dlog_var = sigma eps",
        "The reconstruction pulls twice as hard on the variance, so that q becomes too narrow.",
        "tests/gradients/test_gradients.py::test_backward_pass", True,
    ),
    Mistake(
        "KL times 0.05", "the tutorial of the recipe `spanish`", "model.gaussian:gaussian_kl",
        (("dkl * mu, dkl * (0.5 * (var - 1))", "dkl * 0.1 * mu, dkl * (0.05 * (var - 1))"),
         ("return 0.5 * np.sum(", "return 0.05 * np.sum(")),
        "0.05 sum(...) in the place of 1/2 sum(...): beta = 0.1",
        "Sharper reconstructions; the posterior means spread beyond the prior.",
        FUNCTIONS + "test_the_monte_carlo_kl_tends_to_the_analytic_kl", False,
    ),
    Mistake(
        "KL averaged over latent dimensions", "tutorials and libraries; PyTorch-VAE #11, #23, #35, #56",
        "model.gaussian:gaussian_kl",
        (("dkl * mu, dkl * (0.5 * (var - 1))", "dkl * mu / mu.shape[1], dkl * (0.5 * (var - 1)) / mu.shape[1]"),
         ("return 0.5 * np.sum(", "return 0.5 / mu.shape[1] * np.sum(")),
        "KL / D: beta = 1 / D", "As a small beta, and smaller the larger the latent space.",
        FUNCTIONS + "test_the_monte_carlo_kl_tends_to_the_analytic_kl", False,
    ),
    Mistake(
        "The KL's sign", "comments in tutorials; asked in PyTorch-VAE #68, #69", "model.gaussian:gaussian_kl",
        (("dkl * mu, dkl * (0.5 * (var - 1))", "-dkl * mu, -dkl * (0.5 * (var - 1))"),
         ("return 0.5 * np.sum(", "return -0.5 * np.sum(")),
        "loss = -KL - E log p(x given z)", "The loss falls without end while q runs away from the prior.",
        FUNCTIONS + "test_the_monte_carlo_kl_tends_to_the_analytic_kl", False,
    ),
    Mistake(
        "log_var taken for sigma", "asked in world-models #13", "model.gaussian:gaussian_kl",
        (("var = np.exp(log_var)", "var = np.exp(2 * log_var)"), ("0.5 * (var - 1)", "var - 1"),
         ("mu**2 + var - log_var", "mu**2 + var - 2 * log_var")),
        "KL with log sigma where the sampler has log sigma^2", "The KL paid is that of a wider or narrower Gaussian.",
        FUNCTIONS + "test_the_monte_carlo_kl_tends_to_the_analytic_kl", False,
    ),
    Mistake(
        "Pixels averaged, KL summed", "PyTorch-VAE #11, #23, #35, #56; pytorch/examples #234, #290, #294, #652",
        "model.likelihoods:bernoulli_log_prob",
        (("log_px = np.sum(np.log1p(np.abs(t)) - np.maximum(logits, 0) + x * logits, axis=-1) - LOG_2 * x.shape[-1]",
          "log_px = np.sum(np.log1p(np.abs(t)) - np.maximum(logits, 0) + x * logits, axis=-1) / x.shape[-1] - LOG_2"),
         ("* (x - (0.5 + 0.5 * t))", "* (x - (0.5 + 0.5 * t)) / x.shape[-1]")),
        "log p / X: beta = X = 784", "The KL goes to 0 and every input gives the same grey output.",
        FUNCTIONS + "test_bernoulli_log_prob_is_that_of_scipy", False,
    ),
    Mistake(
        "log(1 - sigmoid(l)) as it stands", "tutorials and libraries (REFERENCES: overflows from 17 on in float32)",
        "model.likelihoods:bernoulli_log_prob",
        (("np.sum(np.log1p(np.abs(t)) - np.maximum(logits, 0) + x * logits, axis=-1) - LOG_2 * x.shape[-1]",
          "np.sum(x * np.log(0.5 + 0.5 * t) + (1 - x) * np.log(0.5 - 0.5 * t), axis=-1)"),),
        "x log p + (1 - x) log(1 - p), p rounded", "Nothing, until a logit is large: then infinity and NaN.",
        NUMERICS + "test_bernoulli_agrees_with_higher_precision_for_all_logits", False,
    ),
    Mistake(
        "The sigmoid applied twice", UNRECORDED, "model.likelihoods:bernoulli_log_prob",
        (("t = np.tanh(0.5 * logits)", "s, ds = sigmoid(logits)\n    logits = s\n    t = np.tanh(0.5 * logits)"),
         ("dlog_px[..., None] * (x - (0.5 + 0.5 * t))", "ds(dlog_px[..., None] * (x - (0.5 + 0.5 * t)))")),
        "p = sigmoid(sigmoid(l)), within 0.5 and 0.73", "No pixel can be black: the loss stays high, outputs grey.",
        FUNCTIONS + "test_bernoulli_log_prob_is_that_of_scipy", False,
    ),
    Mistake(
        "Cross-entropy of data outside [0, 1]", "asked in pythae #36", "model.likelihoods:Bernoulli.check",
        (("if low < 0 or high > 1:", "if False:"),), "x l - log(1 + exp(l)) with x > 1: no maximum",
        "A loss far below 0 that falls without end.",
        "tests/training/test_bad_input.py::test_bad_x", False,
    ),
    Mistake(
        "Gaussian constants dropped", "tutorials and libraries", "model.likelihoods:gaussian_log_prob",
        (("if constants else 0.0", "if constants else 0.0\n    constant = 0.0"),),
        "-1/2 sum (x - mean)^2: 0.9189 nats a pixel too high", "The same training, 720.45 nats lower for 784 pixels.",
        FUNCTIONS + "test_gaussian_log_prob_is_that_of_scipy", False, "Gaussian",
    ),
    Mistake(
        "The average of logarithms for IWAE", UNRECORDED, "model.bounds:importance_weighted",
        (("share = dloss * (w / total)", "share = dloss * (0 * w + 1 / len(w))"),
         ("largest + (np.log(total) - math.log(len(log_w)))", "np.sum(log_w, axis=0, keepdims=True) / len(log_w)")),
        "mean_l log w_l in the place of log mean_l w_l", "More samples do not tighten the bound: it is the ELBO.",
        FUNCTIONS + "test_the_importance_weighted_bound_is_the_logarithm_of_the_mean_weight", False,
        "ImportanceWeighted",
    ),
    Mistake(
        "logsumexp without the maximum", UNRECORDED, "model.bounds:importance_weighted",
        (("largest = np.max(log_w, axis=0, keepdims=True)", "largest = 0 * np.max(log_w, axis=0, keepdims=True)"),),
        "log sum_l exp(log w_l), exp(-150) = 0 in float32", "-infinity or NaN on images; right on toys.",
        FUNCTIONS + "test_the_importance_weighted_bound_of_one_sample_is_the_elbo_and_never_overflows", False,
        "ImportanceWeighted",
    ),
    Mistake(
        "The kink of ReLU at the wrong side", UNRECORDED, "model.layers:relu",
        (("(y > 0)", "(y >= 0)"),), "y = max(x, 0) is at least 0 everywhere, so dy/dx = 1 everywhere",
        "The gradient passes units that are off.",
        FUNCTIONS + "test_relu_has_the_derivative_0_at_its_kink", True,
    ),
    Mistake(
        "The gradient of ReLU at 0", UNRECORDED, "model.layers:relu",
        (("(y > 0)", "(x >= 0)"),), "dy/dx = 1 at x = 0", "Units at exactly 0, as with zero weights, get a gradient.",
        FUNCTIONS + "test_relu_has_the_derivative_0_at_its_kink", False,
    ),
    Mistake(
        "The determinant of a planar flow without tanh'", UNRECORDED, "model.flows:planar",
        (("dlog_det / (1 + s * c)", "dlog_det / (1 + c)"), ("(ratio * c))", "(0 * ratio * c))"),
         ("np.sum(ratio * s,", "np.sum(ratio,"), ("np.log1p(s * c)", "np.log1p(c + 0 * s)")),
        "log_det = log(1 + v.w)", "The 'bound' exceeds log p(x): its q does not integrate to 1.",
        "tests/truths/test_flows.py::test_the_functions_log_determinants_are_those_of_their_jacobians", False, "Planar",
    ),
    Mistake(
        "Adam without bias correction", UNRECORDED, "model.optimizers:Adam.update",
        (("c = np.sqrt((1 - power2) / (1 - self.beta2))", "c = np.sqrt((1 - 0 * power2) / (1 - self.beta2))"),
         ("(c / (1 - power1)", "(c / (1 - 0 * power1)")),
        "p -= lr m / (sqrt(v) + eps)", "First steps some three times too long, since v starts lower than m.",
        "tests/truths/test_optimizers.py::test_optimizers_follow_their_textbook_form", False,
    ),
    Mistake(
        "log_var not held", "tutorials and libraries (REFERENCES: exp overflows from 89 on)", "model.gaussian:hold",
        (("np.minimum(np.maximum(raw, low), high)", "raw * 1"),), "exp(log_var) = infinity from 89 on in float32",
        "Nothing, until one batch makes a NaN of all weights.", NUMERICS + "test_extreme_log_var", False,
    ),
    Mistake(
        "The loss summed over the batch", "conventions asked about in PyTorch-VAE #11 and pytorch/examples #234",
        "model.vae:VAE.losses_and_gradients", (("1 / x.shape[0])", "1.0)"),),
        "gradient of B times the mean loss", "With SGD a learning rate B times too high; Adam hides it.",
        "tests/examples/test_mistakes.py::test_the_gradient_does_not_grow_with_the_batch", False,
    ),
]  # fmt: skip


def train(mistake, dataset):
    """A model trained with the mistake, or with none, and its losses on the test digits as the right code has them.

    The losses are None where the training broke off.
    """
    parts = {
        "Gaussian": {"likelihood": mv.Gaussian()},
        "ImportanceWeighted": {"bound": mv.ImportanceWeighted()},
        "Planar": {"posterior": mv.FlowPosterior([mv.Planar(2)])},
    }.get(mistake.model if mistake else None, {})
    encoder = [mv.Dense(784, 64), mv.ReLU(), mv.Dense(64, 4)]
    vae = mv.VAE(encoder, [mv.Dense(2, 64), mv.ReLU(), mv.Dense(64, 784)], **parts)
    samples = 5 if "bound" in parts else 1
    with mistake.put_in() if mistake else contextlib.nullcontext():
        try:
            optimizer = mv.Adam() if mistake and "Adam" in mistake.name else mv.RMSprop()
            mv.fit(vae, dataset.x_train, epochs=EPOCHS, optimizer=optimizer, samples=samples, progress=False)
        except mv.MiniVAEError:
            return vae, None
    try:
        losses = vae.evaluate(dataset.x_test, samples=samples)
    except mv.MiniVAEError:
        return vae, None
    return vae, [round(losses.reconstruction, 2), round(losses.kl, 2)]


VISIBLE = "None", "KL times 0.05", "Pixels averaged, KL summed", "The sigmoid applied twice", "The decoder gets mu"


def measure(known=None):
    """Train with each mistake whose numbers are not known or that is drawn; write the numbers and the figure."""
    from matplotlib.figure import Figure

    dataset, numbers = data.load("sample", limit=1000), dict(known or {})
    figure = Figure(figsize=(12, 2.9), layout="constrained")
    panels = iter(figure.subplots(1, len(VISIBLE)).flat)
    for mistake in [None, *MISTAKES]:
        name = mistake.name if mistake else "None"
        if name in numbers and name not in VISIBLE:
            continue
        vae, numbers[name] = train(mistake, dataset)
        print(name, numbers[name], flush=True)
        if name in VISIBLE:
            axes = next(panels)
            images = vae.sample(16, seed=0).reshape(4, 4, 28, 28)
            axes.imshow(np.block([list(row) for row in images]), cmap="gray", vmin=0, vmax=1)
            axes.set_title("No mistake" if mistake is None else name, fontsize=9)
            axes.axis("off")
    figure.savefig(FIGURE, dpi=80)
    MEASURED.write_text(json.dumps(numbers, indent=1) + "\n")


def measured(numbers):
    if numbers is None:
        return "the training broke off with a value that is not finite"
    return f"reconstruction {numbers[0]:.2f}, KL {numbers[1]:.2f}, -ELBO {sum(numbers):.2f} nats"


def page():
    """The text of docs/mistakes.md."""
    numbers = json.loads(MEASURED.read_text())
    blind = sum(not mistake.gradcheck_sees for mistake in MISTAKES)
    lines = [
        "# Museum of mistakes", "",
        f"{len(MISTAKES)} mistakes, each put into minivae by a test and caught by the test that is named. A gradient "
        f"check of the whole model sees {len(MISTAKES) - blind} of them and misses {blind}: it says that the backward "
        "pass belongs to the forward pass, and nothing of whether the forward pass is right.", "",
        "Measured: the test digits of the bundled sample, by the right code, after 10 epochs of training with the "
        "mistake on 1,000 digits (784-64-2-64-784). With a Gaussian likelihood, importance weighting (5 samples) or a "
        "flow the numbers belong to that model and compare with no other. Without a mistake: "
        f"{measured(numbers['None'])}. What is said to follow is read from the equation, not measured.", "",
        "Written by `python examples/mistakes/museum.py --page`.",
    ]  # fmt: skip
    for mistake in MISTAKES:
        removed = [f"- {line.strip()}" for right, _ in mistake.changes for line in right.split("\n")]
        added = [f"+ {line.strip()}" for _, wrong in mistake.changes for line in wrong.split("\n")]
        lines += [
            "", f"## {mistake.name}", "", f"In `{mistake.where}`:", "", "```diff", *removed, *added, "```", "",
            f"- It amounts to: `{mistake.equation}`", f"- What follows: {mistake.effect}",
            f"- Measured: {measured(numbers[mistake.name]) if mistake.name in numbers else 'not yet'}",
            f"- Seen in: {mistake.seen_in}", f"- Caught by: `{mistake.caught_by}`",
            f"- The gradient check {'sees' if mistake.gradcheck_sees else 'misses'} it.",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--page", action="store_true", help="write docs/mistakes.md")
    parser.add_argument("--measure", action="store_true", help="train with each mistake first")
    arguments = parser.parse_args()
    if arguments.measure:
        measure()
    if arguments.page:
        PAGE.write_text(page())
    else:
        print(page())
