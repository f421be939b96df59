"""The pages in docs/book: each displayed equation is computed as it is displayed, each quoted line is in its source.

Behind every displayed equation stands a comment for each of its statements,

    <!-- check: PYTHON -->            the left side by another way, such as quadrature, finite differences or scipy (the
                                      names are in worlds.py), compared with the other sides, read from the LaTeX
    <!-- check: as displayed -->      all sides are read from the LaTeX
"""

import re
from pathlib import Path

import numpy as np
import pytest
import worlds
from formulas import Formula, statements
from links import linked

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "book").glob("[0-9]*.md"))
DISPLAY = re.compile(r"^\$\$(.+?)\$\$\n((?:<!-- check: .+? -->\n)*)", re.M | re.S)
COMPARE = {
    "=": lambda left, right: np.testing.assert_allclose(right, left, rtol=1e-5, atol=1e-7),
    r"\approx": lambda left, right: np.testing.assert_allclose(right, left, rtol=1e-4),
    r"\ge": lambda left, right: np.testing.assert_array_less(right, left),
    r"\le": lambda left, right: np.testing.assert_array_less(left, right),
}


def displays():
    for page in PAGES:
        text = page.read_text()
        for number, display in enumerate(DISPLAY.finditer(text)):
            heading = re.findall(r"^## (.+)$", text[: display.start()], re.M)
            yield pytest.param(page.stem, (heading or [""])[-1], *display.groups(), id=f"{page.stem}-{number}")


def read(side, left, names):
    """The value of a side; for free indices an array, whose axes are in the order of the left side's subscripts."""
    formula = Formula(side, names)
    order = "".join(a or b for a, b in re.findall(r"_(?:\{([^{}]*)\}|(\w))", left)) + "".join(sorted(formula.free))
    return formula.over(sorted(formula.free, key=order.index))


@pytest.mark.parametrize("page, heading, display, comments", list(displays()))
def test_equation(page, heading, display, comments):
    names, python = worlds.WORLDS[page](heading)
    equations, checks = list(statements(display)), re.findall("<!-- check: (.+?) -->", comments)
    assert len(equations) == len(checks), "an equation has no check, or a check no equation"
    for (left, *others), check in zip(equations, checks, strict=True):
        assert others, "an equation has two sides"
        value = read(left, left, names) if check == "as displayed" else np.asarray(eval(check, vars(worlds) | python))
        for relation, side in zip(others[::2], others[1::2], strict=True):
            right = read(side, left, names)
            assert np.shape(value) in (np.shape(right), ()) or np.shape(right) == (), (value, right)
            COMPARE[relation](value, right)
            value = right if relation in (r"\ge", r"\le") else value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page):
    text = page.read_text()
    assert text.count("$$") == 2 * len(DISPLAY.findall(text)), "a display should begin a line, and end one"
    with_links, n_links = linked(page)
    assert text == with_links, "a link leads to another line than the quoted one: python tests/book/links.py mends that"
    assert n_links == text.count("```python") > 0, "quoted code should follow a link to its file"


def test_the_step_of_one_digit_is_that_of_by_hand():
    """Each row of the tables is run, stands in by_hand.py, and gives what the page says."""
    text, source = (ROOT / "docs/book/11-one-step.md").read_text(), (ROOT / "examples/by_hand.py").read_text()
    _, names = worlds.one_step_world("")
    shown = re.search(r"`eps` was drawn before: (.+?)\. The", text)[1]
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \|", text, re.M)
    assert len(rows) == 17 and shown
    for code, value in rows:
        assert code.removeprefix("logits = ") in source, code
        exec(code, names | {"np": np}, names)
        result = np.concatenate([np.ravel(names[name]) for name in code.split(" = ")[0].split(", ")])
        if value.startswith("("):
            assert value == str(names[code.split(" = ")[0]].shape)
        else:
            np.testing.assert_allclose(result, [float(n) for n in re.findall(r"-?[\d.]+", value)], atol=6e-4)
    np.testing.assert_allclose(names["eps"].ravel(), [float(n) for n in shown.split(", ")], atol=6e-4)
    through_z, through_kl = map(float, re.search(r"the two are (\S+) and (\S+)\. The", text).groups())
    assert through_z + through_kl == pytest.approx(names["dlog_var"][0, 0], abs=1e-3)
    assert through_kl == pytest.approx((names["std"][0, 0] ** 2 - 1) / 2, abs=6e-4)


def test_the_first_page_counts_the_checks():
    checks = [check for page in PAGES for check in re.findall("<!-- check: (.+?) -->", page.read_text())]
    sides = checks.count("as displayed")
    text = " ".join((ROOT / "docs/book/README.md").read_text().split())
    assert f"{len(checks)} equations are displayed in these chapters" in text
    assert f"{len(checks) - sides} against the same thing got in another way" in text and f"; {sides}, such as" in text


def test_the_first_page_leads_to_each_chapter():
    links = set(re.findall(r"\]\((\d\d-[\w-]+\.md)\)", (ROOT / "docs/book/README.md").read_text()))
    assert links == {page.name for page in PAGES}
