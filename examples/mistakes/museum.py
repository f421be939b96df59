"""Mistakes, nearly all found in tutorials and libraries, each as lines of minivae changed, and the test that sees it.

    python examples/mistakes/museum.py                what each amounts to
    python examples/mistakes/museum.py --measure      trains with each on the bundled digits: measured.json, figures
    python examples/thumbnail.py docs/mistakes-samples.png docs/mistakes-samples.png --width 880        makes one small
    python examples/mistakes/museum.py --page         docs/mistakes.md, from measured.json

`mistake.put_in()` changes the function for as long as the block lasts, everywhere, since its code is exchanged. Where
a mistake is made the same way in a value and in its derivative, no gradient check can see it: both are those of
another loss. `gradcheck_sees` says so of each, and tests/examples/test_mistakes.py that it is so.
"""

import argparse
import contextlib
import difflib
import importlib
import inspect
import json
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import minivae as mv
from minivae import data

PAGE = Path(__file__).parents[2] / "docs" / "mistakes.md"
MEASURED = Path(__file__).with_name("measured.json")
CURVES, SAMPLES = PAGE.with_name("mistakes-curves.png"), PAGE.with_name("mistakes-samples.png")
EPOCHS, SEED = 100, 0


@dataclass(frozen=True)
class Setting:
    """Under what circumstances a mistake is trained with, and a model without it beside."""

    words: str
    parts: dict = field(default_factory=dict)
    optimizer: mv.Optimizer = field(default_factory=mv.RMSprop)
    samples: int = 1
    standardized: bool = False
    divided: bool = True  # the pixels, by 255

    def data(self):
        """1,000 digits to train on and the test digits."""
        digits = data.load("sample", limit=1000)
        x = digits.x_train.reshape(len(digits.x_train), -1)
        if not self.divided:
            return x.astype(np.float32), digits.x_test.astype(np.float32)
        return ((x / 255 - 0.13) / 0.31).astype(np.float32) if self.standardized else x, digits.x_test


SETTINGS = {
    "plain": Setting("RMSprop"),
    "fast": Setting("RMSprop at a learning rate of 0.01, ten times the usual", optimizer=mv.RMSprop(0.01)),
    "Adam": Setting("Adam", optimizer=mv.Adam()),
    "SGD": Setting("SGD at a learning rate of 0.01", optimizer=mv.SGD(0.01)),
    "standardized": Setting("RMSprop, pixels less 0.13 and divided by 0.31", standardized=True),
    "undivided": Setting(
        "undivided pixels of 0 to 255, a Gaussian likelihood of standard deviation 1, RMSprop at a learning rate of "
        "0.01 and gradients clipped to a norm of 1",
        {"likelihood": mv.Gaussian()}, mv.ClipNorm(mv.RMSprop(0.01)), divided=False,
    ),
    "Gaussian": Setting("a Gaussian likelihood of standard deviation 1", {"likelihood": mv.Gaussian()}),
    "shared variance": Setting("a Gaussian with a learned variance", {"likelihood": mv.SharedVarianceGaussian()}),
    "importance": Setting("importance weighting with 5 samples", {"bound": mv.ImportanceWeighted()}, samples=5),
    "planar": Setting("a planar flow", {"posterior": mv.FlowPosterior([mv.Planar(2)])}),
}  # fmt: skip


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
    gradcheck_sees: bool = False
    setting: str = "plain"

    def function(self):
        """The function that is changed."""
        module, *names = self.where.split(":")
        found = importlib.import_module(f"minivae.{module}")
        for name in names[0].split("."):
            found = getattr(found, name)
        return found

    def sources(self):
        """The source of the function, right and wrong."""
        right = wrong = textwrap.dedent(inspect.getsource(self.function()))
        for before, after in self.changes:
            if wrong.count(before) != 1:
                raise ValueError(f"{self.name}: {before!r} should stand once in {self.where}")
            wrong = wrong.replace(before, after)
        return right, wrong

    def diff(self):
        """The changed lines, those of the right source with a minus and those of the wrong one with a plus."""
        right, wrong = (source.splitlines() for source in self.sources())
        return [
            line for line in difflib.unified_diff(right, wrong, n=0, lineterm="") if line[:2] not in ("--", "++", "@@")
        ]

    @contextlib.contextmanager
    def put_in(self):
        function, names = self.function(), {}
        exec(compile(self.sources()[1], f"<{self.name}>", "exec"), function.__globals__, names)
        kept = function.__code__
        function.__code__ = names[function.__name__].__code__
        try:
            yield
        finally:
            function.__code__ = kept

    def passes_gradcheck(self):
        """Whether finite differences of a whole model, as things are now, agree with its backward pass."""
        x = np.random.default_rng(0).random((4, 6))
        eps = np.random.default_rng(1).standard_normal((3, 4, 2))
        return mv.gradcheck(small_model(SETTINGS[self.setting].parts), x, eps).passed


def small_model(parts):
    """A VAE in float64 with these parts."""
    encoder = [mv.Dense(6, 5), mv.ReLU(), mv.Dense(5, 4)]
    return mv.VAE(encoder, [mv.Dense(2, 5), mv.ReLU(), mv.Dense(5, 6)], dtype="float64", **parts)


def thread(repository, *numbers):
    """Links to issues and pull requests of a repository on GitHub."""
    links = [f"[{repository} #{n}](https://github.com/{repository}/issues/{n})" for n in numbers[:1]]
    return ", ".join(links + [f"[#{n}](https://github.com/{repository}/issues/{n})" for n in numbers[1:]])


def source(repository, path, commit):
    """A link to a file in a repository on GitHub, as it was at a commit."""
    return f"[{repository}, {path}](https://github.com/{repository}/blob/{commit}/{path})"


FUNCTIONS = "tests/truths/test_functions.py::"
TRUTHS = "tests/truths/test_truths.py::"
NUMERICS = "tests/truths/test_numerics.py::"
SAMPLER = FUNCTIONS + "test_samples_have_the_mean_and_the_standard_deviation_of_q"
KL = FUNCTIONS + "test_the_monte_carlo_kl_tends_to_the_analytic_kl"
DEZERO, NUMPY_ML = "011aa1e0c31cc434b5e91d794d1036bf2737f1f2", "4aacd9203db19ee97fc10a53847f2ea8273133e3"  # commits
BERT, XQDING = "02102dba5529d74095111e7387a151817a0fdce8", "03b916e54dfc0276750341d0ee8ac05097b773a3"
IWAE = source("xqding/Importance_Weighted_Autoencoders", "model/vae_models.py", XQDING)
MISTAKES = [
    Mistake(
        "The variance as standard deviation",
        "two libraries written from scratch, "
        + source("ddbourgin/numpy-ml", "numpy_ml/neural_nets/models/vae.py", NUMPY_ML)
        + " (the backward pass has it too) and "
        + source("oreilly-japan/deep-learning-from-scratch-3", "examples/vae.py", DEZERO)
        + f"; reported in {thread('keras-team/keras', 9972)} and {thread('rachtsingh/ibp_vae', 3)}; "
        + f"asked in {thread('ctallec/world-models', 13)}",
        "model.gaussian:reparameterize",
        (("std = np.exp(0.5 * log_var)", "std = np.exp(log_var)"), ("* std * 0.5", "* std")),
        "z = mu + sigma^2 eps",
        "Samples are too narrow where sigma < 1: q is not the Gaussian whose KL is paid.", SAMPLER,
    ),
    Mistake(
        "Noise with a standard deviation of 0.01",
        f"the Keras examples: `epsilon_std = 0.01`, put right in {thread('keras-team/keras', 4211)}: "
        "an objective of about 60 was seen where 90 to 100 is to be expected",
        "model.gaussian:reparameterize",
        (("np.sum(dz * eps, axis=0) * std * 0.5", "np.sum(dz * eps, axis=0) * std * 0.005"),
         ("return mu + std * eps", "return mu + 0.01 * std * eps")),
        "z = mu + 0.01 sigma eps",
        "Almost an autoencoder: the loss in training is far too good, since q is narrower than the KL takes it to be.",
        SAMPLER,
    ),
    Mistake(
        "The decoder gets mu",
        "evaluation in the PyTorch example, whose `reparameterize` gave mu outside training: "
        f"{thread('pytorch/examples', 419)}, from the author of the VAE; asked in {thread('dmis-lab/VAECox', 6)}",
        "model.gaussian:reparameterize",
        (("np.sum(dz * eps, axis=0) * std * 0.5", "np.sum(dz * eps, axis=0) * std * 0"),
         ("return mu + std * eps", "return mu + 0 * std * eps")),
        "z = mu",
        "What is computed is not the ELBO. In training too, as here: an autoencoder with a penalty; log_var goes to 0.",
        SAMPLER,
    ),
    Mistake(
        "One noise for the whole batch",
        f"outside VAEs, in {thread('freyavoiceai/FreyaTTS', 4)}, where a user asks whether one draw "
        "for all is meant; in a VAE, nowhere that we have a link to",
        "training.noise:Noise.eps",
        (("return rows(", "eps = rows("),
         ("self.vae.latent_dim)\n", "self.vae.latent_dim)\n    return 0 * eps + eps[:, :1]\n")),
        "z_b = mu_b + sigma_b eps, with one eps for all b",
        "Each gradient is right on average, but its noise no longer averages out over the batch.",
        "tests/training/test_promises.py::test_no_two_steps_share_their_noise",
    ),
    Mistake(
        "A quarter where a half is meant",
        f"the Gaussian criterion's backward pass in {thread('y0ast/VAE-Torch', 5)}, written by hand as here",
        "model.likelihoods:heteroscedastic_log_prob",
        (("(0.5 * (square - 1))", "(0.5 * square - 0.25)"),),
        "dlog p/dlog_var = 1/2 (x - mean)^2 / var - 1/4",
        "The learned variance settles at twice the mean squared error. This one a gradient check sees.",
        "tests/gradients/test_gradients.py::test_backward_pass", True, "shared variance",
    ),
    Mistake(
        "KL times 0.05",
        "the tutorial of the recipe `spanish` (see examples/README.md); with 5e-4 in "
        + thread("fchollet/deep-learning-with-python-notebooks", 120),
        "model.gaussian:gaussian_kl",
        (("dkl * mu, dkl * (0.5 * (var - 1))", "dkl * 0.1 * mu, dkl * (0.05 * (var - 1))"),
         ("return 0.5 * np.sum(", "return 0.05 * np.sum(")),
        "0.05 sum(...) in the place of 1/2 sum(...): beta = 0.1",
        "Sharper reconstructions; the posterior means spread beyond the prior.", KL,
    ),
    Mistake(
        "KL averaged over latent dimensions",
        f"{thread('maxhodak/keras-molecules', 59)}, {thread('mkusner/grammarVAE', 2)}, "
        f"{thread('keras-team/keras-io', 270)}, {thread('podgorskiy/VAE', 1)}; "
        f"{thread('orybkin/sigma-vae-tensorflow', 2)}, whose author calls it wrong",
        "model.gaussian:gaussian_kl",
        (("dkl * mu, dkl * (0.5 * (var - 1))", "dkl * mu / mu.shape[1], dkl * (0.5 * (var - 1)) / mu.shape[1]"),
         ("return 0.5 * np.sum(", "return 0.5 / mu.shape[1] * np.sum(")),
        "KL / D: beta = 1 / D", "As a small beta, and smaller the larger the latent space.", KL,
    ),
    Mistake(
        "The KL's sign",
        f"what is reported in {thread('AntixK/PyTorch-VAE', 68)}, -KL, while the loss is right; "
        f"signs that began wrong in {thread('ssemeniuta/textvae', 4)}; asked again and again, as in "
        + thread("pytorch/examples", 298, 824),
        "model.gaussian:gaussian_kl",
        (("dkl * mu, dkl * (0.5 * (var - 1))", "-dkl * mu, -dkl * (0.5 * (var - 1))"),
         ("return 0.5 * np.sum(", "return -0.5 * np.sum(")),
        "loss = -KL - E log p(x given z)", "The loss falls without end while q runs away from the prior.", KL,
    ),
    Mistake(
        "The square of log sigma for log sigma^2",
        f"the VAE of Flux's model zoo, {thread('FluxML/model-zoo', 147)}, where the sign was wrong as well",
        "model.gaussian:gaussian_kl",
        (("dkl * (0.5 * (var - 1))", "dkl * (0.5 * (var + 0.5 * log_var))"),
         ("mu**2 + var - log_var - 1", "mu**2 + var + 0.25 * log_var**2 - 1")),
        "1/2 sum (mu^2 + sigma^2 + (log sigma)^2 - 1), with the least value at sigma = 0.65",
        "The price of a narrow q rises with the square of log sigma, and an unused dimension is no N(0, 1).", KL,
    ),
    Mistake(
        "Pixels averaged, KL summed",
        f"{thread('y0ast/VAE-Torch', 11)}, with the symptom; {thread('orybkin/sigma-vae-pytorch', 12)}, "
        f"{thread('zdebruine/MMVAE', 19)}; asked in {thread('pytorch/examples', 817)}; in "
        f"{thread('AntixK/PyTorch-VAE', 56)} a KL weight of 0.00025 makes up for it",
        "model.likelihoods:bernoulli_log_prob",
        (("log_px = np.sum(np.log1p(np.abs(t)) - np.maximum(logits, 0) + x * logits, axis=-1) - LOG_2 * x.shape[-1]",
          "log_px = np.sum(np.log1p(np.abs(t)) - np.maximum(logits, 0) + x * logits, axis=-1) / x.shape[-1] - LOG_2"),
         ("* (x - (0.5 + 0.5 * t))", "* (x - (0.5 + 0.5 * t)) / x.shape[-1]")),
        "log p / X: beta = X = 784", "The KL goes to 0 and every input gives the same blurred output.",
        FUNCTIONS + "test_bernoulli_log_prob_is_that_of_scipy",
    ),
    Mistake(
        "log(1 - sigmoid(l)) as it stands",
        f"{IWAE}; NaN from it in {thread('hwalsuklee/tensorflow-mnist-VAE', 4)} and {thread('RasmussenLab/vamb', 12)}",
        "model.likelihoods:bernoulli_log_prob",
        (("np.sum(np.log1p(np.abs(t)) - np.maximum(logits, 0) + x * logits, axis=-1) - LOG_2 * x.shape[-1]",
          "np.sum(x * np.log(0.5 + 0.5 * t) + (1 - x) * np.log(0.5 - 0.5 * t), axis=-1)"),),
        "x log p + (1 - x) log(1 - p), p rounded: log 0 in float32 for l near 20 and above",
        "Nothing, until a logit is large: then infinity and NaN.",
        NUMERICS + "test_bernoulli_agrees_with_higher_precision_for_all_logits", setting="fast",
    ),
    Mistake(
        "The sigmoid applied twice",
        f"outside VAEs, in {thread('hunglc007/tensorflow-yolov4-tflite', 157)} and "
        f"{thread('itakurah/focal-loss-pytorch', 5)}; in a VAE, nowhere that we have a record of",
        "model.likelihoods:bernoulli_log_prob",
        (("t = np.tanh(0.5 * logits)", "s, ds = sigmoid(logits)\n    logits = s\n    t = np.tanh(0.5 * logits)"),
         ("dlog_px[..., None] * (x - (0.5 + 0.5 * t))", "ds(dlog_px[..., None] * (x - (0.5 + 0.5 * t)))")),
        "p = sigmoid(sigmoid(l)), within 0.5 and 0.73", "No pixel can be as black as the data: the loss stays high.",
        FUNCTIONS + "test_bernoulli_log_prob_is_that_of_scipy",
    ),
    Mistake(
        "Cross-entropy of data outside [0, 1]",
        f"{thread('Lightning-Universe/lightning-bolts', 177)}; asked in {thread('clementchadebec/benchmark_VAE', 36)} "
        f"(pythae); a negative loss from it in {thread('milesial/Pytorch-UNet', 65)}, no VAE",
        "model.likelihoods:Bernoulli.check",
        (("if low < 0 or high > 1:", "if False:"),), "x l - log(1 + exp(l)) with x > 1: no maximum",
        "A loss far below 0 that falls without end. Without the mistake minivae refuses such data.",
        "tests/training/test_bad_input.py::test_bad_x", setting="standardized",
    ),
    Mistake(
        "Gaussian constants dropped",
        f"{thread('Qinyu-Allen-Zhao/Arinar', 1)}; asked in {thread('orybkin/sigma-vae-pytorch', 6)} and "
        f"{thread('bojone/vae', 3)}",
        "model.likelihoods:gaussian_log_prob",
        (("if constants else 0.0", "if False else 0.0"),),
        "-1/2 sum (x - mean)^2: 0.9189 nats a pixel too high",
        "The same training, with a loss that is 720.45 nats lower for 784 pixels and may not be compared.",
        FUNCTIONS + "test_gaussian_log_prob_is_that_of_scipy", setting="Gaussian",
    ),
    Mistake(
        "The average of logarithms for IWAE",
        f"asked about in {thread('arahuja/generative-tf', 1)}, whose objective is a weighted mean of the logarithms",
        "model.bounds:importance_weighted",
        (("share = dloss * (w / total)", "share = dloss * (0 * w + 1 / len(w))"),
         ("largest + (np.log(total) - math.log(len(log_w)))", "np.sum(log_w, axis=0, keepdims=True) / len(log_w)")),
        "mean_l log w_l in the place of log mean_l w_l", "More samples do not tighten the bound: it is the ELBO.",
        FUNCTIONS + "test_the_importance_weighted_bound_is_the_logarithm_of_the_mean_weight", setting="importance",
    ),
    Mistake(
        "logsumexp without the maximum",
        f"the test loss of {IWAE}, asked about in {thread('xqding/Importance_Weighted_Autoencoders', 3)}",
        "model.bounds:importance_weighted",
        (("largest = np.max(log_w, axis=0, keepdims=True)", "largest = 0 * np.max(log_w, axis=0, keepdims=True)"),),
        "log sum_l exp(log w_l), where exp(-150) = 0 in float32", "-infinity or NaN on images; right on toys.",
        FUNCTIONS + "test_the_importance_weighted_bound_of_one_sample_is_the_elbo_and_never_overflows",
        setting="importance",
    ),
    Mistake(
        "The kink of ReLU at the wrong side",
        f"a book's `relu2deriv`, which looks at the output: {thread('iamtrask/Grokking-Deep-Learning', 13)}, "
        "where a reader says that it changes the accuracy",
        "model.layers:relu",
        (("(y > 0)", "(y >= 0)"),), "y = max(x, 0) is at least 0 everywhere, so dy/dx = 1 everywhere",
        "The gradient passes units that are off. This one a gradient check sees.",
        FUNCTIONS + "test_relu_has_the_derivative_0_at_its_kink", True,
    ),
    Mistake(
        "The gradient of ReLU at 0", f"{thread('tensorflow/playground', 19)}, {thread('pytorch/tutorials', 269)}",
        "model.layers:relu",
        (("(y > 0)", "(x >= 0)"),), "dy/dx = 1 at x = 0",
        "A convention that others do not share; it shows where inputs are exactly 0, as with zero weights.",
        FUNCTIONS + "test_relu_has_the_derivative_0_at_its_kink",
    ),
    Mistake(
        "The slope counted twice in a planar flow's determinant",
        f"a draft with a leaky ReLU, put right in review: {thread('danielward27/flowjax', 170)}",
        "model.flows:planar",
        (("dlog_det / (1 + s * c)", "dlog_det / (1 + s * s * c)"),
         ("2 * h * (ratio * c)", "2 * h * (2 * s * ratio * c)"),
         ("np.sum(ratio * s,", "np.sum(ratio * s * s,"), ("np.log1p(s * c)", "np.log1p(s * s * c)")),
        "log_det = log(1 + h'^2 v.w) in the place of log(1 + h' v.w)",
        "q does not integrate to 1, so its 'bound' may exceed log p(x).",
        "tests/truths/test_flows.py::test_the_functions_log_determinants_are_those_of_their_jacobians",
        setting="planar",
    ),
    Mistake(
        "Adam without bias correction",
        source("google-research/bert", "optimization.py", BERT)
        + f" (on purpose); {thread('ml-explore/mlx', 1640)}, where it did harm",
        "model.optimizers:Adam.update",
        (("c = np.sqrt((1 - power2) / (1 - self.beta2))", "c = np.sqrt((1 - 0 * power2) / (1 - self.beta2))"),
         ("(c / (1 - power1)", "(c / (1 - 0 * power1)")),
        "p -= lr m / (sqrt(v) + eps)", "First steps some three times too long, since v starts lower than m.",
        "tests/truths/test_optimizers.py::test_optimizers_follow_their_textbook_form", setting="Adam",
    ),
    Mistake(
        "log_var not held", f"{thread('vanderschaarlab/synthcity', 331)}, with NaN losses",
        "model.gaussian:hold",
        (("np.minimum(np.maximum(value, low), high)", "value * 1"),), "exp(log_var) = infinity from 89 on in float32",
        "Nothing, until one batch makes a NaN of all weights.", NUMERICS + "test_extreme_log_var", setting="undivided",
    ),
    Mistake(
        "The loss summed over the batch",
        f"{thread('y0ast/VAE-Torch', 7)} (on purpose); asked in {thread('pytorch/examples', 652)}",
        "model.vae:VAE.forward_and_backward", (("1 / (batch_size or x.shape[0]))", "1.0)"),),
        "the gradient of B times the mean loss", "With SGD a learning rate B times too high; Adam and RMSprop hide it.",
        "tests/examples/test_mistakes.py::test_the_gradient_does_not_grow_with_the_batch", setting="SGD",
    ),
]  # fmt: skip


# ------------------------------------------------------------------------------------------------------ measuring


def train(setting, mistake=None):
    """The model trained in a setting, with a mistake or without, and what was seen.

    "reported" is the loss of each epoch as the code at hand has it, up to where the training broke off; "right" is the
    reconstruction and the KL of the test digits by the right code, None where a value is not finite.
    """
    encoder = [mv.Dense(784, 64), mv.ReLU(), mv.Dense(64, 4)]
    vae = mv.VAE(encoder, [mv.Dense(2, 64), mv.ReLU(), mv.Dense(64, 784)], seed=SEED, **setting.parts)
    x_train, x_test = setting.data()
    seen = {"reported": [], "right": None}
    with mistake.put_in() if mistake else contextlib.nullcontext(), contextlib.suppress(mv.MiniVAEError):
        options = {"optimizer": setting.optimizer, "samples": setting.samples, "progress": False}
        mv.fit(vae, x_train, epochs=EPOCHS, callbacks=[lambda run: report(seen, run)], **options)
    with contextlib.suppress(mv.MiniVAEError):
        if len(seen["reported"]) == EPOCHS:
            losses = vae.evaluate(x_test, samples=setting.samples)
            seen["right"] = [round(losses.reconstruction, 2), round(losses.kl, 2)]
    return vae, seen


def report(seen, run):
    seen["reported"].append(round(run.history[-1]["train_loss"], 2))


def measure():
    """Train in each setting without a mistake and then with each; write the numbers and the figures."""
    found = {"without": {}, "with": {}}
    pictures = {}
    for name, setting in SETTINGS.items():
        vae, found["without"][name] = train(setting)
        pictures.setdefault("No mistake", vae.sample(16, seed=0))
        print(f"{name}: {found['without'][name]}", flush=True)
    for mistake in MISTAKES:
        vae, seen = train(SETTINGS[mistake.setting], mistake)
        found["with"][mistake.name] = seen
        pictures[mistake.name] = vae.sample(16, seed=0) if len(seen["reported"]) == EPOCHS else None
        print(f"{mistake.name}: {seen}", flush=True)
    MEASURED.write_text(json.dumps(found).replace("}, ", "},\n") + "\n")  # a line for each training
    draw_samples(pictures)
    draw_curves(found)


def panels(n, height):
    """A figure of n panels, six in a row, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, height * -(-n // 6)), layout="constrained")
    axes = figure.subplots(-(-n // 6), 6).flat
    for spare in axes[n:]:
        spare.axis("off")
    return figure, axes


def draw_samples(pictures):
    """Draws from the prior of each model."""
    figure, axes = panels(len(pictures), 2.0)
    for panel, (name, images) in zip(axes, pictures.items(), strict=False):
        if images is None:
            panel.text(0.5, 0.5, "broke off", ha="center", va="center", transform=panel.transAxes)
        else:
            panel.imshow(np.block([list(row) for row in images.reshape(4, 4, 28, 28)]), cmap="gray", vmin=0, vmax=1)
        panel.set_title(textwrap.fill(name, 27), fontsize=8)
        panel.axis("off")
    figure.savefig(SAMPLES, dpi=80)


def draw_curves(found):
    """The loss that each training reports by epoch, beside that without the mistake."""
    figure, axes = panels(len(MISTAKES), 1.9)
    for panel, mistake in zip(axes, MISTAKES, strict=False):
        for seen, style in ((found["without"][mistake.setting], "0.6"), (found["with"][mistake.name], "tab:red")):
            panel.plot(range(1, 1 + len(seen["reported"])), seen["reported"], ".-", color=style, markersize=3)
        if not SETTINGS[mistake.setting].divided:
            panel.set_yscale("log")  # 34 orders of magnitude
        panel.set_title(textwrap.fill(mistake.name, 22), fontsize=8)
        panel.set_xlim(0.5, EPOCHS + 0.5)
        panel.tick_params(labelsize=7)
        panel.yaxis.set_major_formatter("{x:.3g}")  # no factor of its own above, where the title is
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel("loss as it is reported, nats", fontsize=8)
    figure.savefig(CURVES, dpi=80)


# ------------------------------------------------------------------------------------------------------- the page


def told(seen):
    """What was seen of a training, in words."""
    reported, right = seen["reported"], seen["right"]
    if len(reported) < EPOCHS:
        return f"the training breaks off in epoch {len(reported) + 1} with a value that is not finite"
    words = f"the loss goes from {nats(reported[0])} to {nats(reported[-1])}"
    if right is None:
        return words + "; by the right code the test digits' loss is not finite"
    return words + f"; test digits: reconstruction {nats(right[0])}, KL {nats(right[1])}, -ELBO {nats(sum(right))}"


def nats(number):
    return f"{number:.2f}" if abs(number) < 1e9 else f"{number:.1e}"


def without(name, found):
    """The same of the training without a mistake in the setting of that name: the likelihood refuses some data."""
    return "these data are refused" if SETTINGS[name].standardized else told(found["without"][name])


def page():
    """The text of docs/mistakes.md."""
    found = json.loads(MEASURED.read_text())
    seen = sum(mistake.gradcheck_sees for mistake in MISTAKES)
    lines = [
        "# Museum of mistakes", "",
        f"{len(MISTAKES)} mistakes, each put into minivae by a test and caught by the test that is named. A gradient "
        f"check of the whole model sees {seen} of them and misses {len(MISTAKES) - seen}: it says that the backward "
        "pass belongs to the forward pass, and nothing of whether the forward pass is right.", "",
        f"Measured: {EPOCHS} epochs of training on 1,000 of the bundled digits (784-64-2-64-784, batches of 100, seed "
        f"{SEED}), with the mistake and, in the same setting, without. The loss is what the training itself reports, "
        "in nats per digit: with the mistake in it, if it is one of the loss. What follows the words 'test digits' is "
        "by the right code. Compare within a mistake only: some have a setting of their own, which is named. One "
        "training each: differences of a nat or two say little.", "",
        "Red: the loss as the training with the mistake reports it; grey: without the mistake.", "",
        f"![losses by epoch]({CURVES.name})", "",
        "Draws from the prior after the training:", "",
        f"![draws from the prior]({SAMPLES.name})", "",
        "Written by `python examples/mistakes/museum.py --measure --page`. "
        "[A page](../examples/mistakes/page.py) trains some of them in the browser.",
    ]  # fmt: skip
    for mistake in MISTAKES:
        lines += [
            "", f"## {mistake.name}", "", f"In `{mistake.where}`:", "", "```diff", *mistake.diff(), "```", "",
            f"- It amounts to: `{mistake.equation}`", f"- What follows: {mistake.effect}",
            f"- Measured, with {SETTINGS[mistake.setting].words}: {told(found['with'][mistake.name])}",
            f"- Without the mistake: {without(mistake.setting, found)}",
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
    elif not arguments.measure:
        print(page())
