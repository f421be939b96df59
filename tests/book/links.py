"""Links in the book to the lines of code that it quotes: `python tests/book/links.py` puts their numbers right.

A quotation is a block of Python; the last link before it to a file of Python says where it is from.
"""

import re
from pathlib import Path

BOOK = Path(__file__).resolve().parents[2] / "docs" / "book"
QUOTE = re.compile(r"(\]\([^)#]+\.py)(?:#L\d+)?(?=\)((?:(?!\.py\)|\.py#|```).)*?\n```python\n(.+?)```))", re.S)


def linked(page):
    """The text of a page whose links lead to the quoted lines, and how many there are.

    Raises ValueError where a quotation is not in its source.
    """

    def right(quote):
        link, lines = quote[1], quote[3]
        source = (page.parent / link[2:]).resolve().read_text()
        if lines not in source:
            raise ValueError(f"{page.name} quotes lines that are not in {link[2:]}:\n{lines}")
        return f"{link}#L{source[: source.index(lines)].count(chr(10)) + 1}"

    return QUOTE.subn(right, page.read_text())


if __name__ == "__main__":
    for page in sorted(BOOK.glob("[0-9]*.md")):
        page.write_text(linked(page)[0])
