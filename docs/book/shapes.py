"""Draws shapes.png, the picture that the chapters of the book point into: python docs/book/shapes.py"""

from pathlib import Path

from matplotlib.figure import Figure

# name: (shape, column, row)
ARRAYS = {
    "x": ("(B, X)", 0, 1),
    "h": ("(B, H)", 1, 1),
    "mu": ("(B, D)", 2, 1.55),
    "log_var": ("(B, D)", 2, 0.45),
    "eps": ("(L, B, D)", 3, 0),
    "kl": ("(B,)", 3, 2.35),
    "z": ("(L, B, D)", 3, 1),
    "g": ("(L B, H)", 4, 1),
    "logits": ("(L, B, X)", 5, 1),
    "log_px": ("(L, B)", 6, 1),
    "loss": ("(B,)", 7, 1.7),
}
# from, to, the chapter with the formula, where its number stands between the two
STEPS = [
    ("x", "h", 5, 0.5),
    ("h", "mu", 5, 0.5),
    ("h", "log_var", 5, 0.5),
    ("mu", "kl", 2, 0.5),
    ("log_var", "kl", 2, 0.3),
    ("mu", "z", 3, 0.5),
    ("log_var", "z", 3, 0.5),
    ("eps", "z", 3, 0.5),
    ("z", "g", 5, 0.5),
    ("g", "logits", 5, 0.5),
    ("logits", "log_px", 4, 0.5),
    ("log_px", "loss", 1, 0.5),
    ("kl", "loss", 1, 0.5),
]
WITHOUT_GRADIENT = {"x", "eps", "loss"}  # data, noise, and where the way back begins
ACROSS = 1.25  # from one column to the next, in rows


def place(name):
    _, column, row = ARRAYS[name]
    return column * ACROSS, row


def draw():
    figure = Figure(figsize=(12, 4.3), layout="constrained")
    axes = figure.subplots()
    words = {"ha": "center", "va": "center", "fontsize": 10}
    for start, end, chapter, share in STEPS:
        (x0, y0), (x1, y1) = place(start), place(end)
        arrow = {"arrowstyle": "-|>", "color": "0.35", "shrinkA": 24, "shrinkB": 25, "linewidth": 1.3}
        axes.annotate("", (x1, y1), (x0, y0), arrowprops=arrow, zorder=1)
        at, disc = (
            (x0 + share * (x1 - x0), y0 + share * (y1 - y0)),
            {"boxstyle": "circle,pad=0.22", "color": "tab:blue"},
        )
        axes.text(*at, chapter, color="white", weight="bold", zorder=3, bbox=disc, **words)
    for name, (shape, _, _) in ARRAYS.items():
        given = name in WITHOUT_GRADIENT
        box = {"boxstyle": "round,pad=0.35", "facecolor": "#eeeeee" if given else "#fff3d6", "edgecolor": "0.5"}
        lines = [name, shape] if given else [name, shape, f"d{name}"]
        axes.text(*place(name), "\n".join(lines), linespacing=1.35, zorder=2, bbox=box, **words)
    legend = (
        "forward: along the arrows\nback: against them, dname has the shape of name\n"
        "blue: the chapter with the formula and its derivative"
    )
    axes.text(1.1, 2.55, legend, **words)
    axes.text(6.7, 0.05, "B examples, L draws of z for each\nX pixels, H hidden units, D latent dimensions", **words)
    axes.set(xlim=(-0.5, 7 * ACROSS + 0.5), ylim=(-0.4, 2.85))
    axes.axis("off")
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_suffix(".png"), dpi=110)
