"""The exercises of the book: what each begins with is not right yet, its solution is, and each chapter has one."""

import importlib.util
import re
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[2] / "docs" / "book"
spec = importlib.util.spec_from_file_location("exercises", BOOK / "exercises.py")
exercises = importlib.util.module_from_spec(spec)
spec.loader.exec_module(exercises)

SOLUTION = r"^<details>\n<summary>Solution</summary>\n\n(.+?)^</details>$"
EXERCISE = re.compile(rf"^## Exercise: (.+?)\n(.+?){SOLUTION}", re.M | re.S)
PAGES = sorted(BOOK.glob("[0-9]*.md"))
FOUND = {
    f"{page.stem[:2]}: {title}": (before, solution)
    for page in PAGES
    for title, before, solution in EXERCISE.findall(page.read_text())
}


def function(text):
    """The function of the only block of code in a text, and its name."""
    (code,) = re.findall(r"^```py\n(.*?)^```$", text, re.M | re.S)
    names = {}
    exec(code, names)
    (name,) = set(names) & set(exercises.CHECKS)
    return name, names[name], code


@pytest.mark.parametrize("title", FOUND)
def test_the_check_fails_on_the_start_and_passes_on_the_solution(title):
    before, solution = FOUND[title]
    name, start, _ = function(before)
    same_name, solved, _ = function(solution)
    assert name == same_name
    with pytest.raises(AssertionError):
        exercises.CHECKS[name](start)
    exercises.CHECKS[name](solved)


def test_each_chapter_has_exercises_and_each_check_its_exercise():
    assert {title[:2] for title in FOUND} == {page.stem[:2] for page in PAGES}
    assert sum(page.read_text().count("## Exercise") for page in PAGES) == len(FOUND)
    assert sorted(function(before)[0] for before, _ in FOUND.values()) == sorted(exercises.CHECKS)


def test_the_command_says_what_is_right_and_what_is_not(tmp_path, capsys):
    answers = tmp_path / "answers.py"
    answers.write_text(function(FOUND["11: dlog_var, with the book closed"][1])[2])
    assert not exercises.main(str(answers)) and capsys.readouterr().out == "dlog_var: right\n"
    answers.write_text(answers.read_text() + "\n\ndef ds(dz, eps, s):\n    return s\n")
    assert exercises.main(str(answers))
    assert re.search(r"^ds: wrong; the result: should be \S+, not ", capsys.readouterr().out, re.M)
    answers.write_text("answer = 42\n")
    assert exercises.main(str(answers)) and "has no function of an exercise's name" in capsys.readouterr().out
