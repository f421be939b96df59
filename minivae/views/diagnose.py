"""What ails a trained model: the questions that users of VAEs ask most, each answered by a number and its comparison.

First come the faults that make every other number meaningless: weights, the scale of the data, the ends of the
networks, parts of one's own. Then what the model does on the data, from causes to their effects: what stands behind an
error is taken for its effect and left out.
"""

import math
import textwrap
from dataclasses import dataclass, field

import numpy as np

from ..arguments import seed as check_seed
from ..errors import MiniVAEError, shown
from ..model.bounds import ELBO
from ..model.checks import INPUTS, REACH, last_layer
from ..model.gaussian import LOG_VAR_MAX, gaussian_kl
from ..model.inference import to_unit, unwarned
from ..model.layers import Activation, sigmoid
from ..model.likelihoods import Bernoulli, Categorical, Gaussian, SharedVarianceGaussian
from ..model.posteriors import DiagonalGaussian
from ..model.priors import StandardNormal
from ..model.vae import VAE, check_vae
from ..randomness import DIAGNOSIS, generator
from ..zoo.missing import Observed
from .probe import Probe
from .references import WITHOUT_Z, ladder

WIDTH, LABEL = 80, 18
ACTIVE = 0.01  # a dimension is in use where its mean varies more than this over the data (Burda et al. 2016)
COLLAPSED = 0.5  # nats; a z of less than one bit says next to nothing about x
SURE = 4  # standard errors
# Bounds of what healthy models show; docs/diagnose.md has the figures that they were set by.
DEAD, TOLD_APART, STILL_FALLING, CARRIED_OVER = 0.8, 0.9, 0.1, 0.6


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    name     : a fixed word for it; docs/diagnose.md lists them
    severity : "error": the model is of no use as it is; "warning": it could be better; "note": harmless
    number   : what was measured;  expected: what it is compared with, a healthy model's value or its bound
    text     : what it is, in a sentence or two;  cure: what usually helps
    """

    name: str
    severity: str
    number: float
    expected: float
    text: str
    cure: str


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The findings, causes before effects, and the facts: what was measured, by name. Its `str` is the report."""

    title: str
    findings: list = field(default_factory=list)
    facts: dict = field(default_factory=dict)
    lines: list = field(default_factory=list)  # of the report: pairs of a label and a text

    @property
    def names(self):
        """The names of the findings."""
        return [finding.name for finding in self.findings]

    def note(self, label, text, **facts):
        """Add a line to the report, and its numbers to the facts."""
        self.lines.append((label, text))
        self.facts.update(facts)

    def __str__(self):
        text = [self.title, "-" * len(self.title)]
        for label, line in self.lines:
            text += _wrapped(line, label.ljust(LABEL), LABEL)
        if not self.findings:
            text += ["", "Nothing found."]
        for i, finding in enumerate(self.findings, 1):
            text += ["", *_wrapped(f"{finding.severity} {finding.name}: {finding.text}", f"{i}. ", 3)]
            text += _wrapped(f"Usual cure: {finding.cure}", "   ", 3)
        return "\n".join(text)

    __repr__ = __str__


def _wrapped(text, start, indent):
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * indent, break_on_hyphens=False)


@unwarned
def diagnose(
    vae: VAE, x: np.ndarray, *, train: np.ndarray | None = None, history: list | None = None, seed: int = 0
) -> Diagnosis:
    """What ails a trained VAE, judged on data x; returns a Diagnosis, whose `str` is a report to print.

    x       : data that the model was not trained on, in the form in which `fit` takes them: (N, X) or (N, ...), or for
              a model with n_classes a pair (x, y); of more than 10,000 rows 10,000 are drawn
    train   : the data that it was trained on, in the same form: is it overfitted?
    history : what `fit` returned: is it converged?
    seed    : keys all draws; the same seed gives the same Diagnosis

    All numbers are nats per example unless they say otherwise. A healthy model gives no errors and no warnings. Raises
    MiniVAEError for data that are no input of this model, but for their scale, and for fewer than 50 rows.
    """
    probe = Probe(check_vae("diagnose: vae", vae), check_seed("diagnose: seed", seed))
    history = [] if history is None else history
    columns = {"train_loss", "train_reconstruction", "train_kl"}
    if not isinstance(history, list) or not all(isinstance(row, dict) and columns <= row.keys() for row in history):
        raise MiniVAEError(f"diagnose: history should be what fit returned, or None, got {shown(history)}")
    x, y = probe.data("x", x)
    train = None if train is None else probe.data("train", train)
    kind, D = type(vae.likelihood).__name__, vae.latent_dim
    report = Diagnosis(f"{len(x):,} examples of {vae.input_dim:,} values, {D} latent dimension{'s' * (D > 1)}, {kind}")
    try:
        for finding in _findings(probe, report, x, y, train, history):
            report.findings.append(finding)
            if finding.severity == "error":
                break
    except MiniVAEError as error:  # the data are checked, so this is about what the model made of them
        largest = max(float(np.abs(values).max()) for values in vae.parameters.to_host().values())
        cure = "start again with a smaller learning rate or ClipNorm; healthy weights are seldom above 1 or so."
        text = f"{error}. The largest weight is {largest:.3g}."
        report.findings.append(Finding("not-finite", "error", largest, 1, text, cure))
    return report


def _findings(probe, report, x, y, train, history):
    vae, seed = probe.vae, probe.seed
    yield from _weights(vae)
    yield from _scale(vae, x)
    yield from _ends(vae, to_unit(x, vae.dtype))
    yield from _parts(probe, x[:1000], None if y is None else y[:1000])
    scores, (mu, log_var) = vae.score(x, y=y, seed=seed), probe.encode(x, y)
    baseline = _loss(vae, report, x, y, scores)
    z = probe.draw(x, y, probe.noise(len(x)))
    dead = _dead_units(probe, report, x, y, z)
    yield from (finding for finding in dead if finding.severity == "error")
    yield from _posterior_width(probe, x, y, mu, log_var)
    yield from _collapse(vae, report, x, y, mu, log_var, baseline, scores)
    yield from _decoder(vae, report, x, y, z)
    training = list(_overfitting(probe, report, baseline, scores, train, history))
    yield from training or _convergence(vae, report, baseline, scores, history)
    yield from dead
    yield from _samples(probe, report, z)
    yield from _variance(vae)
    if not report.findings:
        yield from _no_gain(baseline, scores)


# --------------------------------------------------------------- faults that make all other numbers meaningless


def _weights(vae):
    bad = {name: int((~np.isfinite(values)).sum()) for name, values in vae.parameters.to_host().items()}
    if count := sum(bad.values()):
        where = ", ".join(name for name in bad if bad[name])
        yield Finding(
            "not-finite", "error", count, 0,
            f"{count:,} of {vae.parameters.flat.size:,} weights are NaN or infinite, in {where}.",
            "go back to weights that worked; a smaller learning rate or ClipNorm, and data scaled to about 1.",
        )  # fmt: skip


def _scale(vae, x):
    if x.dtype == np.uint8:
        if x.max() == 1:
            yield Finding(
                "data-scale", "error", 1 / 255, 1,
                "x is uint8 with no value above 1. uint8 is read as pixels of 0 to 255, so the model sees 0 to 0.0039.",
                "hand zeros and ones over as floats, or as 0 and 255.",
            )  # fmt: skip
        return
    of_unit = isinstance(vae.likelihood, (Bernoulli, Categorical))
    x = x if of_unit else x[:, _of_any_number(vae)]
    x = x[~np.isnan(x)]
    if not x.size:
        return
    low, high, rms = float(x.min()), float(x.max()), math.sqrt(np.square(x, dtype=np.float64).mean())
    pixels = low >= 0 and 1 < high <= 255 and (x[:1_000_000] == np.rint(x[:1_000_000])).all()
    cure = "divide the pixels by 255, or hand them over as uint8." if pixels else (
        "scale x to [0, 1], or take likelihood=Gaussian() for other numbers." if of_unit else
        "subtract the mean of each column and divide by its standard deviation."
    )  # fmt: skip
    if of_unit and (low < 0 or high > 1):
        yield Finding(
            "data-scale", "error", high if high > 1 else low, float(high > 1),
            f"x lies in [{low:.4g}, {high:.4g}], but a {type(vae.likelihood).__name__} needs values in [0, 1].", cure,
        )  # fmt: skip
    elif rms > 20 or pixels and high > 100:
        yield Finding(
            "data-scale", "error", rms, 1,
            f"x lies in [{low:.4g}, {high:.4g}], its root mean square is {rms:.3g}. Networks start for values of about "
            "1, and squared errors of this size leave the KL no weight.", cure,
        )  # fmt: skip
    elif 0 <= low < high < 0.02:
        yield Finding(
            "data-scale", "error", high, 1,
            f"the largest value of x is {high:.3g}, where pixels reach 1: divided by 255 twice?",
            "divide pixels by 255 once; uint8 pixels are divided by the model itself.",
        )  # fmt: skip


def _of_any_number(vae):
    """Which columns of x (X,) may hold any number: not those of counts, which have no scale to choose."""
    likelihood = vae.likelihood
    columns = likelihood.columns if isinstance(likelihood, Observed) else [(likelihood, vae.input_dim)]
    return np.concatenate([np.full(n, _takes(each, np.full((1, n), -0.5))) for each, n in columns])


def _takes(likelihood, x):
    try:
        likelihood.check(x)
    except MiniVAEError:
        return False
    return True


def _ends(vae, x):
    low, high, end = _range(vae.encoder)
    if low > -REACH:
        yield Finding(
            "encoder-end", "error", low, -math.inf,
            f"the encoder ends in {end}, so mu and log_var lie in [{low:.3g}, {high:.3g}]: codes reach only a part of "
            f"the prior, and no posterior is narrower than a standard deviation of {math.exp(low / 2):.2f}.",
            f"end the encoder with a Dense, without {end}.",
        )  # fmt: skip
    low, high, end = _range(vae.decoder)
    of_logits = isinstance(vae.likelihood, Bernoulli)
    if of_logits:
        (low, high), _ = sigmoid(np.array([low, high]))
    share = float(((x < low - 1e-3) | (x > high + 1e-3)).mean())
    if share > 0.01 and not isinstance(vae.likelihood, Categorical):
        yield Finding(
            "output-range", "error", share, 0.01,
            f"the decoder ends in {end}, so its means lie in [{low:.3g}, {high:.3g}]. {share:.0%} of the values of x "
            "are outside: it can never reach them.",
            f"end the decoder without {end}: a Bernoulli takes logits, and applies the sigmoid itself." if of_logits
            else f"end the decoder with a Dense, or scale x into the range of {end}.",
        )  # fmt: skip


def _range(network):
    """The least and the greatest value that the activation at a network's end can give, and its name."""
    last = last_layer(network)
    if not isinstance(last, Activation):
        return -math.inf, math.inf, None
    y, _ = last.forward({}, INPUTS)
    low, high = (float(v) if abs(v) < REACH else math.copysign(math.inf, v) for v in (y.min(), y.max()))
    return low, high, type(last).__name__


def _parts(probe, x, y):
    """Parts of one's own that do not compute what they should."""
    vae = probe.vae
    if isinstance(vae.posterior, DiagonalGaussian):
        yield from _posterior(probe, x, y)
    ratio = math.nan if type(vae.likelihood) in WITHOUT_Z else probe.ratio_of_copies(x, y)
    if abs(ratio - 1) < 0.01:
        n = vae.input_dim
        yield Finding(
            "mean-reduced", "error", ratio, 2,
            f"{type(vae.likelihood).__name__} averages over the {n} values of x, where a log-probability is their sum: "
            f"a row written twice side by side counts {ratio:.2f} times as much. So the KL weighs {n} times too much.",
            "sum over the values in log_prob; weigh the KL by beta.",
        )  # fmt: skip


def _posterior(probe, x, y):
    mu, log_var = probe.encode(x, y)
    held = float((np.abs(log_var) >= LOG_VAR_MAX).mean())
    if held > 1e-3:
        yield Finding(
            "log-var-bounds", "error", held, 0,
            f"{held:.1%} of the encoder's log_var lie at the bounds, -80 and 80, where they have no gradient.",
            "train again with a smaller learning rate or ClipNorm, and with x scaled to about 1.",
        )  # fmt: skip
        return
    log_std = np.log(np.maximum(np.abs(probe.draw(x, y, np.ones_like(mu)) - mu), 1e-30))
    factor = math.exp(np.median(np.abs(log_std - log_var / 2)))
    if factor > 1.05:
        is_var = np.median(np.abs(log_std - log_var)) < 0.01
        yield Finding(
            "sampler", "error", factor, 1,
            f"the posterior's draws are off by a factor of {factor:.2f} in their standard deviation"
            f"{': it is exp(log_var), which is the variance.' if is_var else ', which should be exp(log_var / 2).'}",
            "z = mu + exp(log_var / 2) eps, as in minivae.model.gaussian.reparameterize.",
        )  # fmt: skip
    kl, ours = probe.vae.score(x, y=y, seed=probe.seed).kl.mean(), gaussian_kl(mu, log_var)[0].mean()
    if probe.vae.analytic and abs(kl - ours) > 0.01 + 0.01 * ours:
        yield Finding(
            "kl-formula", "error", float(kl), float(ours),
            f"the posterior gives a KL of {kl:.4g} nats; the closed form gives {ours:.4g}.",
            "KL = 1/2 sum (mu^2 + exp(log_var) - log_var - 1), as in minivae.model.gaussian.gaussian_kl.",
        )  # fmt: skip


# ------------------------------------------------------------------------------------------- is the loss good?


def _loss(vae, report, x, y, scores):
    """-log p(x) of a model without z, or None where it is not known."""
    loss, reconstruction, kl = (float(a.mean()) for a in (scores.negative_elbo, scores.reconstruction, scores.kl))
    text = f"{loss:.1f} nats = reconstruction {reconstruction:.1f} + KL {kl:.1f}"
    whole = getattr(vae.likelihood, "constants", True)
    report.note("-ELBO" if whole else "error + KL", text, negative_elbo=loss, reconstruction=reconstruction, kl=kl)
    if type(vae.likelihood) not in WITHOUT_Z:
        return None
    x = to_unit(x, np.dtype(np.float64))
    without_z = WITHOUT_Z[type(vae.likelihood)]
    groups = [x] if y is None else [x[y == label] for label in np.unique(y)]
    baseline = sum(len(rows) * without_z(vae.likelihood, rows) for rows in groups) / len(x)
    constant = without_z(vae.likelihood, x.reshape(-1, 1)) * x.shape[1]
    gain, of = baseline - loss, " of its class" * (y is not None)
    report.note("without z", f"{baseline:.1f} nats, every value by its own mean{of}; {constant:.1f} with one mean "
                f"for all. The model is {abs(gain):.1f} nats {'better' if gain > 0 else 'worse'}",
                without_z=baseline, constant=constant)  # fmt: skip
    if rungs := ladder(vae, x):
        report.note("others reach", rungs)
    return baseline


def _no_gain(baseline, scores):
    loss = float(scores.loss.mean())
    if baseline is not None and loss >= baseline:
        yield Finding(
            "no-gain", "error", loss, baseline,
            f"the loss is {loss:.1f} nats; a model without z, that only knows the mean of each value, has "
            f"{baseline:.1f}.",
            "train it, or for longer; if it was trained: are these its weights, and are x prepared as in training? A "
            "smaller learning rate; more data, if it was trained on few.",
        )  # fmt: skip


# ------------------------------------------------------------------------------------ what z and the networks do


def _dead_units(probe, report, x, y, z):
    findings, worst = [], (0.0, "")
    for name, alive in [*probe.alive(x, y, "encoder"), *probe.alive(x, y, "decoder", z)]:
        share = float(1 - alive.mean())
        worst = max(worst, (share, name))
        if share > DEAD:
            findings.append(Finding(
                "dead-units", "error" if share == 1 else "warning", share, DEAD,
                f"{(~alive).sum()} of the {len(alive)} units of {name} ({share:.0%}) are 0 for every example: no "
                "gradient reaches them.",
                "a smaller learning rate, inputs scaled to about 1, or an activation without a flat side, such as "
                "Tanh; then train from new initial weights.",
            ))  # fmt: skip
    if worst[1]:
        report.note("dead ReLU units", f"at most {worst[0]:.0%} of a layer ({worst[1]})", dead_units=worst[0])
    return findings


def _posterior_width(probe, x, y, mu, log_var):
    """Whether the decoder wants draws of standard deviation exp(log_var), as from weights trained with that mistake."""
    vae = probe.vae
    of_standard = type(vae.posterior) is DiagonalGaussian and type(vae.prior) is StandardNormal
    if not of_standard or not isinstance(vae.bound, ELBO):
        return
    eps = probe.noise(len(x))
    losses = []
    for scaled in (log_var, 2 * log_var):
        log_px = probe.log_px(x, y, mu + np.exp(scaled / 2) * eps)
        losses.append(vae.beta * gaussian_kl(mu, scaled)[0] - log_px)
    gain = losses[0] - losses[1]
    error = gain.std() / math.sqrt(len(x))
    if gain.mean() > max(SURE * error, 1e-2 * abs(losses[0].mean())):
        yield Finding(
            "posterior-width", "error", float(gain.mean()), 0,
            f"with a posterior of standard deviation exp(log_var), in place of exp(log_var / 2), the loss would be "
            f"{gain.mean():.1f} nats lower: the weights seem to be trained with log_var read as log of the standard "
            "deviation.",
            "double the encoder's weights and biases for log_var, or train again; log_var is log sigma^2.",
        )  # fmt: skip


def _collapse(vae, report, x, y, mu, log_var, baseline, scores):
    D, kl, loss = vae.latent_dim, float(scores.kl.mean()), float(scores.negative_elbo.mean())
    active = np.full(D, True)
    if type(vae.posterior) is DiagonalGaussian:
        active = mu.var(axis=0) > ACTIVE
        used, facts = f"{active.sum()} of {D}", {"active": int(active.sum())}
        if type(vae.prior) is StandardNormal:
            of_dims = (0.5 * (mu**2 + np.exp(log_var) - log_var - 1)).mean(axis=0)
            used += "; KL of each: " + " ".join(f"{each:.2f}" for each in of_dims[:12]) + " ..." * (D > 12) + " nats"
            facts["kl_of_dimensions"] = of_dims.tolist()
        report.note("dimensions used", used, **facts)
    untrained = baseline is not None and loss - baseline > 0.05 * abs(baseline)
    if not active.any() or kl < COLLAPSED and not untrained:
        yield Finding(
            "collapsed", "error", kl, COLLAPSED,
            f"the posterior has collapsed: q(z given x) is all but the same for every x, and its KL {kl:.3f} nats."
            f"{_weight(vae, x, y, mu)}",
            "a KL that weighs less: smaller beta, a warm-up by schedules={\"beta\": linear_warmup(10)}, free_bits=; "
            "a smaller learning rate; for a Gaussian a smaller or a learned standard deviation.",
        )  # fmt: skip
    elif not active.all():
        unused = np.flatnonzero(~active)
        which = ", ".join(map(str, unused[:8])) + ", ..." * (len(unused) > 8)
        yield Finding(
            "unused-dimensions", "note", len(unused), 0,
            f"{len(unused)} of {D} latent dimensions say nothing about x ({which}): their mean varies by less than "
            f"{ACTIVE}.{_weight(vae, x, y, mu)}",
            f"none is needed, {D - len(unused)} dimensions would do. To use all, free_bits=0.1 or a warm-up of beta.",
        )  # fmt: skip


def _weight(vae, x, y, mu):
    """A sentence on what makes the KL heavy, or nothing."""
    if vae.beta > 1:
        return f" beta = {vae.beta:g} makes the KL heavy{_convention(vae)}."
    if type(vae.likelihood) is Gaussian:
        residual = (to_unit(x, np.dtype(np.float64)) - vae.decode(mu, y)).std()
        if vae.likelihood.std > 2 * residual:
            return (f" The Gaussian's std = {vae.likelihood.std:g} is {vae.likelihood.std / residual:.1f} times the "
                    f"residuals', {residual:.3g}: this weighs the KL as beta = {(vae.likelihood.std / residual)**2:.0f}"
                    " would.")  # fmt: skip
    return ""


def _convention(vae):
    """What an odd beta may come from."""
    if vae.beta == 0:
        return " (0: a plain autoencoder)"
    X, D = vae.input_dim, vae.latent_dim
    for weight, text in (
        (1 / X, f" (1/{X}: the KL divided by the number of values, whose errors are summed)"),
        (1 / D, f" (1/{D}: the KL averaged over the latent dimensions, while values are summed)"),
        (X, f" ({X}: errors averaged over the values, while the KL is summed)"),
        (X / D, f" ({X}/{D}: errors averaged over the values, the KL over the latent dimensions)"),
    ):
        if math.isclose(vae.beta, weight, rel_tol=0.05) and weight != 1:
            return text
    return ""


def _decoder(vae, report, x, y, z):
    """Whether what is decoded depends on z."""
    means = vae.decode(z, y)
    groups = [means] if y is None else [means[y == label] for label in np.unique(y)]
    spread = sum(group.var(axis=0, dtype=np.float64).sum() for group in groups) / len(groups)
    of_data = np.ma.masked_invalid(to_unit(x, np.dtype(np.float64))).var(axis=0).filled(0).sum()  # without the gaps
    share = float(spread / max(of_data, 1e-30))
    report.note("decoded variance", f"{share:.0%} of the data's", decoded_variance=share)
    if share < 1e-3:
        yield Finding(
            "decoder-ignores-z", "error", share, 1e-3,
            f"what is decoded hardly depends on z: its variance is {share:.1e} of the data's, though the encoder puts "
            "information there.",
            "look for weights of 0 in the decoder's first layer, dead units, weights of another model; train again.",
        )  # fmt: skip


def _samples(probe, report, z):
    """Do draws from the prior look like the codes of data?"""
    order = generator(probe.seed, DIAGNOSIS, 2).permutation(len(z))  # data may come sorted
    vae, prior = probe.vae, probe.prior(len(z))
    share = _told_apart(z[order], prior, type(vae.prior) is StandardNormal)
    chance = 0.5 / math.sqrt(len(z) // 2 * 2)
    report.note("codes, prior", f"told apart in {share:.0%} of cases, where 50% +- {chance:.1%} is chance",
                told_apart=share)  # fmt: skip
    if share < TOLD_APART:
        return
    spread = f"codes have standard deviations of {z.std(axis=0).min():.2g} to {z.std(axis=0).max():.2g} and means of "
    spread += f"{z.mean(axis=0).min():.2g} to {z.mean(axis=0).max():.2g}, the prior "
    spread += "1 and 0. " if type(vae.prior) is StandardNormal else (
        f"{prior.std(axis=0).min():.2g} to {prior.std(axis=0).max():.2g} and {prior.mean(axis=0).min():.2g} to "
        f"{prior.mean(axis=0).max():.2g}. "
    )  # fmt: skip
    if vae.beta < 1:
        yield Finding(
            "kl-weight", "warning", vae.beta, 1,
            f"beta = {vae.beta:.4g} gives the KL so little weight{_convention(vae)} that the codes leave the prior: "
            f"{spread}Draws from the prior are told from codes in {share:.0%} of cases, so `sample` decodes places "
            "that training never saw.",
            "beta = 1 is the ELBO of errors that are summed over the values; for a fit as sharp, a likelihood with a "
            "smaller or a learned variance.",
        )  # fmt: skip
    elif not {"unconverged", "overfitted"} & set(report.names):  # whose effect it may be
        yield Finding(
            "codes-off-prior", "warning", share, TOLD_APART,
            f"draws from the prior are told from the codes of data in {share:.0%} of cases: {spread}`sample` decodes "
            "places that training never saw.",
            "train longer; a larger beta; or draw z from a Gaussian fitted to `encode`'s mu.",
        )  # fmt: skip


def _told_apart(z, prior, is_standard=True):
    """How often a draw is rightly said to be a code or to be from the prior, by its ratio of Gaussian densities.

    The codes' Gaussian is fitted to the first half of z, and that of a prior other than N(0, I) to the first half of
    its draws; the others are judged, half of each kind.
    """
    from scipy import stats

    half, D = len(z) // 2, z.shape[1]
    (fitted, judged), (of_prior, others) = (z[:half], z[half:]), (prior[:half], prior[half:])
    codes = _gaussian_of(fitted)
    drawn = stats.multivariate_normal(np.zeros(D)) if is_standard else _gaussian_of(of_prior)
    right = [codes.logpdf(judged) > drawn.logpdf(judged), codes.logpdf(others) <= drawn.logpdf(others)]
    return float(np.mean(np.concatenate([np.atleast_1d(each) for each in right])))


def _gaussian_of(z):
    """The Gaussian with the mean and the covariance of z (n, D); of few rows for D without correlations."""
    from scipy import stats

    cov = np.atleast_2d(np.cov(z.T)) + 1e-6 * np.eye(z.shape[1])
    if len(z) < 10 * z.shape[1]:
        cov = np.diag(np.diag(cov))
    return stats.multivariate_normal(z.mean(axis=0), cov, allow_singular=True)


def _variance(vae):
    if type(vae.likelihood) is SharedVarianceGaussian:
        std = math.exp(0.5 * float(vae.parameters.to_host()["likelihood.log_var"][0]))
        if std <= vae.likelihood.min_std * 1.01:
            yield Finding(
                "variance-floor", "warning", std, vae.likelihood.min_std,
                f"the learned standard deviation lies at its floor, {vae.likelihood.min_std:g}: -ELBO says more of the "
                "floor than of the model.",
                "add noise to data that can be predicted exactly, or take a larger min_std.",
            )  # fmt: skip


# ------------------------------------------------------------------------------------------------- the training


def _validation(history):
    return "val" if history and "val_loss" in history[0] else "train"


def _overfitting(probe, report, baseline, scores, train, history):
    """How much of what the model gains over one without z, on training data, is left on new data."""
    new = float(scores.negative_elbo.mean())
    if train is not None:
        x, y = train
        old = probe.vae.evaluate(x, y=y, seed=probe.seed).negative_elbo
    elif _validation(history) == "val" and len(history) > 2:
        row = history[(getattr(history, "best_epoch", None) or len(history)) - 1]
        old, new = (row[f"{name}_reconstruction"] + row[f"{name}_kl"] for name in ("train", "val"))
    else:
        return
    report.note("training data", f"-ELBO {old:.1f} nats; on new data {new - old:+.1f}", training=old)
    if baseline is None or old >= baseline:
        return
    carried, (rise, lowest, epoch) = (baseline - new) / (baseline - old), _since_lowest(probe.vae, history)
    risen = epoch and rise > STILL_FALLING * abs(baseline - lowest) and carried < 1 - STILL_FALLING
    if carried < CARRIED_OVER or risen:
        when = f" The validation loss was lowest after epoch {epoch} of {len(history)}." if epoch else ""
        yield Finding(
            "overfitted", "warning", carried, CARRIED_OVER,
            f"-ELBO is {old:.1f} nats on training data and {new:.1f} on new data, {baseline:.1f} without z: "
            f"{max(carried, 0):.0%} of what is gained in training is gained on new data.{when}",
            "more data, early stopping (patience=), a smaller network, or binarize=True, which draws pixels anew.",
        )  # fmt: skip


def _under_one_beta(vae, history, data):
    """reconstruction + beta KL of each epoch (E,), with the model's beta: that of the epoch may have been another."""
    return np.array([row[f"{data}_reconstruction"] + vae.beta * row[f"{data}_kl"] for row in history])


def _losses(vae, history, data):
    """The loss of each epoch (E,): of the ELBO under one beta, of another bound, which has no such sum, as it was."""
    if isinstance(vae.bound, ELBO):
        return _under_one_beta(vae, history, data)
    return np.array([row[f"{data}_loss"] for row in history])


def _since_lowest(vae, history):
    """By how much the validation loss has risen since it was lowest, how low it was and in which epoch.

    The epoch is None without validation and where the best weights were kept. A warm-up of beta raises another bound
    than the ELBO too, so that has risen by no more than the sum under one beta.
    """
    if _validation(history) == "train" or getattr(history, "best_epoch", None):
        return 0.0, math.nan, None
    losses, sums = _losses(vae, history, "val"), _under_one_beta(vae, history, "val")
    lowest = int(losses.argmin())
    rise = min(values[-1] - values.min() for values in (losses, sums))
    return float(rise), float(losses[lowest]), history[lowest]["epoch"]


def _convergence(vae, report, baseline, scores, history):
    """How far the loss would fall, going on like this, in a third as many epochs as were trained."""
    from scipy import stats

    if not history:
        return
    values = _losses(vae, history, _validation(history))
    n = len(values)
    if n < 3:  # a training loss is the mean over its epoch, and so lies behind
        before, last = (_losses(vae, history, "train")[0], scores.loss.mean()) if n == 1 else values
        span, slope, error = 1, float(last - before), 0.0
    else:
        span = max(3, n // 3)
        line = stats.linregress(np.arange(span), values[-span:])
        slope, error = float(line.slope), float(line.stderr)
    report.note("convergence", f"the loss changes by {slope:+.3f} +- {error:.3f} nats an epoch over the last {span}",
                slope=slope, slope_error=error)  # fmt: skip
    scale = float(abs(values[-1] - (baseline or 0.0)))
    if -slope * span > STILL_FALLING * scale and -slope > 2 * error:
        yield Finding(
            "unconverged", "warning", slope, -STILL_FALLING * scale / span,
            f"after {n} epoch{'s' * (n > 1)} the loss still falls, by {-slope:.2f} +- {error:.2f} nats an epoch.",
            "train longer: until the validation loss has not fallen for some epochs (patience=).",
        )  # fmt: skip
