"""Gaps in real tables, filled by a VAE that was trained on the table with its gaps, beside scikit-learn's imputers.

    pip install ".[sklearn]" && python examples/imputation.py

Values of tables that come with scikit-learn are taken out completely at random, and compared with what each imputer
puts there: the numbers by their root mean squared error in units of the column's standard deviation, where the
column's mean has an error of about 1; the one column of categories by the share of right ones. The classes of breast
cancer, wine and iris and the sex of diabetes are such columns: scikit-learn's imputers get one column of 0 and 1 for
each category but one, and the largest of all counts. All settings are the same for all tables. Source: Mattei &
Frellsen 2019, "MIWAE: deep generative modelling and imputation of incomplete data sets".
"""

import argparse
import warnings
from itertools import product
from pathlib import Path

import numpy as np
from common import at_least_1, between, command, own_folder, save_figures, write_json
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  or scikit-learn does not show the class
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

import minivae as mv

MASKS = 1  # with a seed the key of a mask, other than those on which settings were tried


def tables():
    """Each table's name with its numbers (N, X) and its categories (N,), 0, 1, ..."""
    cancer, wine, iris, diabetes = load_breast_cancer(), load_wine(), load_iris(), load_diabetes(scaled=False)
    return {
        "breast cancer": (cancer.data, cancer.target),
        "wine": (wine.data, wine.target),
        "diabetes": (np.delete(diabetes.data, 1, axis=1), diabetes.data[:, 1].astype(int) - 1),
        "iris": (iris.data, iris.target),
    }


def with_gaps(numbers, categories, share, seed):
    """Standardised numbers without and with gaps, and where the gaps are, of numbers and of categories.

    Raises MiniVAEError where nothing is missing, or a column has too few values left to be standardised.
    """
    rng = np.random.default_rng((seed, MASKS))
    gaps, category_gaps = rng.random(numbers.shape) < share, rng.random(len(categories)) < share
    ranges = np.ma.filled(np.ma.ptp(np.ma.array(numbers, mask=gaps), axis=0), 0)
    if not (gaps.any() and category_gaps.any() and ranges.all()) or category_gaps.all():
        raise mv.MiniVAEError(
            f"--shares {share:g} leaves no gap, or too few values of a column (seed {seed}): give one nearer to 0.5"
        )
    seen = np.where(gaps, np.nan, numbers)
    numbers = (numbers - np.nanmean(seen, axis=0)) / np.nanstd(seen, axis=0)
    return numbers, np.where(gaps, np.nan, numbers), gaps, category_gaps


def miwae(numbers, categories, n_categories, arguments, seed):
    """The guesses of a VAE for numbers and categories, of which those that are NaN are missing."""
    columns = [(mv.SharedVarianceGaussian(), numbers.shape[1]), (mv.Categorical(n_categories), 1)]
    vae = mv.miwae(columns, latent=20, hidden=(128,), seed=seed)
    x = np.concatenate([numbers, categories[:, None] / (n_categories - 1)], axis=1)
    schedules = {"lr": lambda epoch: 2e-3 if epoch <= 0.7 * arguments.epochs else 4e-4}
    mv.fit(vae, x, epochs=arguments.epochs, batch_size=64, samples=20, optimizer=mv.Adam(), schedules=schedules)
    made = mv.impute(vae, x, samples=arguments.samples)
    return made[:, :-1], np.rint(made[:, -1] * (n_categories - 1))


def of_sklearn(imputer):
    """A function as `miwae` that imputes as an estimator of scikit-learn does."""

    def impute(numbers, categories, n_categories, arguments, seed):
        # With a column for 0 too, each would follow from the others.
        columns = categories[:, None] == np.arange(1, n_categories)
        one_hot = np.where(np.isnan(categories)[:, None], np.nan, columns)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # more rounds change the third digit at most
            made = imputer(seed).fit_transform(np.concatenate([numbers, one_hot], axis=1))
        numbers, one_hot = np.split(made, [numbers.shape[1]], axis=1)
        return numbers, np.argmax(np.column_stack([1 - one_hot.sum(axis=1), one_hot]), axis=1)

    return impute


IMPUTERS = {
    "mean": of_sklearn(lambda seed: SimpleImputer()),
    "nearest neighbours": of_sklearn(lambda seed: KNNImputer()),
    "iterative": of_sklearn(lambda seed: IterativeImputer(max_iter=20, random_state=seed)),
    "VAE": miwae,
}


def compare(table, share, arguments):
    """For each imputer its errors and its shares of right categories, a list of each over the seeds."""
    numbers, categories = tables()[table]
    n_categories, found = categories.max() + 1, {name: ([], []) for name in IMPUTERS}
    for seed in range(arguments.seeds):
        whole, seen, gaps, category_gaps = with_gaps(numbers, categories, share, seed)
        known = np.where(category_gaps, np.nan, categories)
        for name, imputer in IMPUTERS.items():
            made, level = imputer(seen, known, n_categories, arguments, seed)
            found[name][0].append(float(np.sqrt(np.mean((made - whole)[gaps] ** 2))))
            found[name][1].append(float(np.mean((level == categories)[category_gaps])))
    return found


def ring(n=2000, share=0.35, seed=0):
    """Points around a circle, some of which lack one of their two coordinates."""
    rng = np.random.default_rng(seed)
    angle, radius = rng.uniform(0, 2 * np.pi, n), 1 + 0.07 * rng.standard_normal(n)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    lacking = rng.random(n) < share
    x[lacking, rng.integers(0, 2, lacking.sum())] = np.nan
    return x


def draw(epochs=150):
    """A ring with gaps, as two imputers complete it: by one guess each, and by draws."""
    from matplotlib.figure import Figure

    x = ring()
    vae = mv.miwae([(mv.SharedVarianceGaussian(0.3), 2)], latent=2, hidden=(64, 64), seed=0)
    mv.fit(vae, x, epochs=epochs, batch_size=50, samples=20, optimizer=mv.Adam(1e-3), progress=False)
    lacks = np.isnan(x)
    rows = lacks.any(axis=1)
    panels = {
        "iterative imputation": IterativeImputer().fit_transform(x),
        "the VAE's best guesses": mv.impute(vae, x),
        "the VAE's draws": mv.impute(vae, x, draws=1)[0],
    }
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    first, *others = figure.subplots(1, 4, sharex=True, sharey=True)
    first.scatter(*x[~rows].T, s=3, color="tab:gray")
    first.plot(x[lacks[:, 1], 0], np.full(lacks[:, 1].sum(), -1.45), "|", color="tab:blue", alpha=0.4)
    first.plot(np.full(lacks[:, 0].sum(), -1.45), x[lacks[:, 0], 1], "_", color="tab:orange", alpha=0.4)
    first.set_title("what is known")
    for axes, (title, made) in zip(others, panels.items(), strict=True):
        axes.scatter(*made[lacks[:, 1]].T, s=3, color="tab:blue")
        axes.scatter(*made[lacks[:, 0]].T, s=3, color="tab:orange")
        axes.set_title(title)
    for axes in (first, *others):
        axes.set(aspect="equal", xlim=(-1.55, 1.55), ylim=(-1.55, 1.55))
    return figure


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=tuple(tables()), default=tuple(tables()), help="which of them")
    parser.add_argument("--shares", nargs="+", type=between(0, 1), default=(0.2, 0.5), help="of values to take out")
    parser.add_argument("--seeds", type=at_least_1, default=3, help="masks and trainings to average over")
    parser.add_argument("--epochs", type=at_least_1, default=400)
    parser.add_argument("--samples", type=at_least_1, default=5000, help="draws of z for each row that has a gap")
    parser.add_argument("--out", type=Path, default=Path("runs/imputation"), help="the folder for results")
    parser.add_argument("--no-plots", action="store_true", help="leave the figure out")
    arguments = parser.parse_args()
    for table, share, seed in product(arguments.tables, arguments.shares, range(arguments.seeds)):
        with_gaps(*tables()[table], share, seed)  # raises where there is nothing to compare
    own_folder(arguments)
    results = []
    for table in arguments.tables:
        for share in arguments.shares:
            print(f"{table}, {share:.0%} missing: error of numbers, share of right categories; {arguments.seeds} seeds")
            for name, (errors, right) in compare(table, share, arguments).items():
                results.append({"table": table, "share": share, "imputer": name, "errors": errors, "right": right})
                of_numbers = f"{np.mean(errors):.3f} +- {np.std(errors):.3f}"
                print(f"    {name:19} {of_numbers}   {np.mean(right):.3f} +- {np.std(right):.3f}", flush=True)
            write_json(arguments.out / "result.json", results)
    if not arguments.no_plots:
        save_figures(arguments, imputation=draw())
    print(f"results in {arguments.out}")


if __name__ == "__main__":
    command(main)
