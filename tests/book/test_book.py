"""The pages in docs/book: each displayed equation checked as the page states it, each quoted line in the source."""

import re
from pathlib import Path

import numpy as np
import pytest

from minivae.model.gaussian import gaussian_kl

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "book").glob("[0-9]*.md"))


def names():
    rng = np.random.default_rng(0)
    mu, log_var, eps = rng.normal(size=(3, 4, 2))
    return {
        "np": np, "gaussian_kl": gaussian_kl, "mu": mu, "log_var": log_var, "eps": eps, "std": np.exp(0.5 * log_var),
        "norm": lambda z, mean, std: -0.5 * (((z - mean) / std) ** 2 + np.log(2 * np.pi)) - np.log(std),
        "difference": lambda f, at: (f(at + 1e-5) - f(at - 1e-5)) / 2e-5,
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page):
    text = page.read_text()
    after = re.split(r"\$\$.+?\$\$", text, flags=re.S)[1:]
    assert after and all(part.startswith("\n<!-- check: ") for part in after), "a displayed equation has no check"
    for check in re.findall(r"<!-- check: (.+?) -->", text):
        left, right = check.split(" == ")
        np.testing.assert_allclose(eval(left, names()), eval(right, names()), rtol=1e-6, atol=1e-8, err_msg=check)
    quotes = re.findall(r"\]\(([^)]+\.py)\):\n\n```python\n(.+?)```", text, flags=re.S)
    assert quotes
    for path, lines in quotes:
        assert lines in (page.parent / path).resolve().read_text()
