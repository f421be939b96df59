"""Tables as text and as HTML. A table is lines of cells, the first its head; `align` has "<" or ">" for each column."""

from html import escape


def text_table(lines, align):
    """Lines of equal width, columns two blanks apart, with a rule under the head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = list(zip(align, widths, strict=True))
    head, *rest = (
        "  ".join(f"{cell:{side}{width}}" for cell, (side, width) in zip(line, cells, strict=True)) for line in lines
    )
    return "\n".join([head, "-" * len(head), *rest])


def html_table(lines, align, below=""):
    """The table for a notebook, and a line of text below it."""
    sides = [{"<": "left", ">": "right"}[side] for side in align]
    rows = []
    for i, line in enumerate(lines):
        tag = "td" if i else "th"
        cells = zip(line, sides, strict=True)
        rows.append("".join(f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>' for cell, side in cells))
    body = "".join(f"<tr>{row}</tr>" for row in rows[1:])
    below = f"<p>{escape(below)}</p>" if below else ""
    return f"<table><thead><tr>{rows[0]}</tr></thead><tbody>{body}</tbody></table>{below}"
