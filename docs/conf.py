"""How Sphinx builds these pages and the reference of all public names: `nox -s docs`."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import minivae  # noqa: E402

project, author, version = "minivae", "The minivae authors", minivae.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode", "myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"minivae {version}"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more: shapes and units
exclude_patterns = ["build"]

# "x_train    : what it is": a line that describes an argument; what is indented further goes on with it.
ARGUMENT = re.compile(r"^(\w[\w., ]*?) +: +(\S.*)$")


def as_restructured_text(app, what, name, obj, options, lines):
    """minivae's docstrings are plain text; write their equations and lists of arguments as Sphinx wants them."""
    result, lines[:] = [], [line.rstrip() for line in lines]
    for line in lines:
        argument = ARGUMENT.match(line)
        indented = line.startswith(" ")
        if argument:
            result += ["", f"``{argument[1]}``", f"    {escaped(argument[2])}"]
        elif indented and result and result[-1].startswith("    ") and not result[-1].startswith("     "):
            result.append(f"    {escaped(line.strip())}")
        elif indented:
            result += ([] if result and result[-1].startswith("     ") else ["", "::", ""]) + [f"     {line}"]
        elif line or (result and result[-1]):
            result += [""] * bool(line and result and result[-1].startswith("    ")) + [escaped(line)]
    lines[:] = result


def escaped(text):
    """Text in which stars, underscores and bars mean themselves; `code` stays."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(f"`{part}`" if part.startswith("`") else re.sub(r"([*_|\\])", r"\\\1", part) for part in parts)


def setup(app):
    app.connect("autodoc-process-docstring", as_restructured_text)
