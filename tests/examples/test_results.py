"""The tables of examples/README.md say what examples/results has."""

import csv
import json
import re
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
RESULTS = EXAMPLES / "results"


def section(name):
    (text,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", (EXAMPLES / "README.md").read_text(), re.M | re.S)
    return text


def rows(name):
    """The rows of the tables of a section, without their heads."""
    tables = re.findall(r"(?:^\|.*\n)+", section(name), re.M)
    return [row for table in tables for row in table.splitlines()[2:]]


def say(text, value):
    """Whether one of the numbers of a text is this one: an integer, or one rounded to the decimals that stand there."""
    numbers = [number.replace(",", "") for number in re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)]
    rounded = [f"{value:.{len(number.partition('.')[2])}f}" for number in numbers]
    return any(a == b and ("." in a or value == int(value)) for a, b in zip(numbers, rounded, strict=True))


def read(name):
    with open(RESULTS / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def found(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def columns(runs):
    """The mean over runs of each quantity."""
    return {key: fmean(run[key] for run in runs) for key in runs[0]}


def imputed():
    groups = {}
    for row in read("imputation"):
        of_table = groups.setdefault((row["table"], row["share"]), {})
        of_table.setdefault(row["imputer"], []).append((float(row["error"]), float(row["right"])))
    for imputers in groups.values():
        errors, right = zip(*(zip(*runs, strict=True) for runs in imputers.values()), strict=True)
        yield [*map(fmean, errors), *map(pstdev, errors), *(round(100 * fmean(shares)) for shares in right)]


TABLES = {
    "anomalies": [[v for m in t.values() for v in (m["mean"], m["std"])] for t in found("anomalies").values()],
    "discrete": [[v for v in model.values() if isinstance(v, float)] for model in found("discrete").values()],
    "disentangle": [columns(runs).values() for runs in found("disentangle").values()],
    "imputation": list(imputed()),
    "info-vae": [model.values() for model in found("info-vae").values()],
    "priors": [model.values() for model in found("priors").values()],
    "sample-quality": [
        [100 * v if name == "as told" else v for name, v in arm.items() if v is not None]
        for arm in found("sample-quality").values()
        if isinstance(arm, dict)
    ],
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_numbers_of_its_results(name):
    for row, values in zip(rows(name), TABLES[name], strict=True):
        for value in values:
            assert say(row, value), f"{value} is not in {row}"


def test_the_estimates_of_known_kls():
    groups = {}
    for row in found("avb-gaussians"):
        groups.setdefault((row["correlation"], row["adaptive"]), []).append(row)
    table = [row for row in rows("avb") if row.startswith(("| diagonal", "| correlated"))]
    for row, runs in zip(table, groups.values(), strict=True):
        largest = max(abs(error) for run in runs for error in run["error_percent"])
        for value in (*runs[0]["exact"], *(each for run in runs for each in run["estimate"]), largest):
            assert say(row, value), f"{value} is not in {row}"


def test_adversarial_posteriors_of_four_points():
    table = [row for row in rows("avb") if row.startswith(("| Gaussian", "| implicit"))]
    of_seeds = found("avb-four-points").values()
    for row, *results in zip(table, *(result.values() for result in of_seeds), strict=True):
        for result, key in product(results, ("log_px", "kl", "kl_counted", "elbo_counted")):
            assert say(row, result[key]), f"{key} {result[key]} is not in {row}"


def test_adversarial_posteriors_of_digits():
    groups = {}
    for name, result in found("avb-mnist").items():
        groups.setdefault(name.rpartition(",")[0], []).append(result)
    table = [row for row in rows("avb") if re.match(r"\| [28] \|", row)]
    for row, results in zip(table, groups.values(), strict=True):
        for result, key in product(results, ("log_px", "elbo", "kl_of_those", "kl_of_those_at_least")):
            assert say(row, result[key]), f"{key} {result[key]} is not in {row}"


def test_the_ladder():
    table = rows("ladder")
    for run in read("ladder"):
        of_run = [row for row in table if say(row, float(run["log_px"])) and say(row, float(run["elbo"]))]
        assert len(of_run) == 1, run
        for key in ("active_units", "epochs", "best_epoch"):
            assert say(of_run[0], int(run[key])), (key, of_run)


def test_the_code_length():
    told = "".join(rows("compress"))
    for name, value in found("compress").items():
        assert not isinstance(value, float) or say(told, value), name


CURVES = [
    ("conv", "conv-mnist-seed0", 50),
    ("conv", "conv-mnist-fall-seed0", 50),
    ("conv", "conv-mnist-seed1", 10),
    ("conv", "conv-mnist-seed2", 10),
    ("conv", "conv-fashion-mnist-fall-seed0", 30),
    ("spanish", "spanish-seed0", 5),
    ("spanish", "spanish-seed0", 50),
    ("keras-mc-samples", "keras-mc-samples-seed0", 50),
]


@pytest.mark.parametrize("name, results, epoch", CURVES)
def test_the_loss_after_an_epoch(name, results, epoch):
    (row,) = [row for row in read(results) if int(row["epoch"]) == epoch]
    assert say(section(name), float(row["test_loss"]))


def test_importance_weighting():
    for path in RESULTS.glob("iwae-*.json"):
        result = json.loads(path.read_text())
        told = [result[key] for key in ("test_nll", "active_units", "epochs")]
        assert len([row for row in rows("iwae") if all(say(row, value) for value in told)]) == 1, path.name
