"""Draws zoo-parts.png, graphs of some parts of the zoo: python docs/zoo_parts.py"""

import math
from pathlib import Path

from matplotlib.figure import Figure

Q, P, PLAIN = "tab:blue", "tab:orange", "0.35"

# title; nodes: name -> (x, y, whether it is a value and round); arrows: from, to, colour, bend
ONE = (
    "one layer",
    {"x": (0, 0, True), "z": (0, 1, True)},
    [("x", "z", Q, -0.35), ("z", "x", P, -0.35)],
)
TWO = (
    "two layers (two_layers.py)",
    {"x": (0, 0, True), "z1": (-0.7, 1, True), "z2": (0.7, 2, True)},
    [
        ("x", "z2", Q, 0.28),
        ("x", "z1", Q, -0.28),
        ("z2", "z1", Q, 0.28),
        ("z2", "z1", P, -0.18),
        ("z1", "x", P, -0.18),
        ("z2", "x", P, -0.05),
    ],
)
GATED = (
    "GatedDense (gated.py)",
    {"x": (0, 0, True), "x W + b": (-0.7, 0.7, False), "sigmoid(x V + c)": (0.7, 0.7, False)}
    | {"times": (0, 1.3, False), "y": (0, 2, True)},
    [
        ("x", "x W + b", PLAIN, 0),
        ("x", "sigmoid(x V + c)", PLAIN, 0),
        ("x W + b", "times", PLAIN, 0),
        ("sigmoid(x V + c)", "times", PLAIN, 0),
        ("times", "y", PLAIN, 0),
    ],
)
RESIDUAL = (
    "Residual (residual.py)",
    {"x": (0, 0, True), "f(x)": (-0.6, 0.7, False), "plus": (0, 1.3, False), "y": (0, 2, True)},
    [("x", "f(x)", PLAIN, 0), ("f(x)", "plus", PLAIN, 0), ("x", "plus", PLAIN, 0.35), ("plus", "y", PLAIN, 0)],
)


def graph(axes, title, nodes, arrows):
    for start, end, colour, bend in arrows:
        style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 17, "shrinkB": 17}
        style |= {"connectionstyle": f"arc3,rad={bend}", "mutation_scale": 14}
        axes.annotate("", nodes[end][:2], nodes[start][:2], arrowprops=style, zorder=1)
    for name, (x, y, value) in nodes.items():
        box = {"boxstyle": "circle,pad=0.35" if value else "round,pad=0.4", "edgecolor": "0.5"}
        box["facecolor"] = "#fff3d6" if name.startswith("z") else "#eeeeee" if value else "white"
        axes.text(x, y, name, ha="center", va="center", fontsize=10, zorder=2, bbox=box)
    axes.set(xlim=(-1.5, 1.5), ylim=(-0.4, 2.4))
    axes.set_title(title, fontsize=11)
    axes.axis("off")


def counts(axes):
    """p(x) = rate^x exp(-rate) / x! of some rates."""
    xs = range(13)
    for rate, marker, colour in ((0.5, "o", "0.6"), (2, "s", "0.4"), (6, "^", "0.1")):
        p = [math.exp(x * math.log(rate) - rate - math.lgamma(x + 1)) for x in xs]
        axes.plot(xs, p, color=colour, marker=marker, linewidth=0.8, markersize=5, label=f"rate {rate:g}")
    axes.set(xlabel="count x", ylabel="p(x)", xticks=xs[::3])
    axes.set_title("Poisson (counts.py)", fontsize=11)
    axes.legend(frameon=False)


def draw():
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    panels = figure.subplots(1, 5, width_ratios=[0.7, 1.1, 1.35, 1, 1])
    for axes, part in zip(panels, (ONE, TWO, GATED, RESIDUAL), strict=False):
        graph(axes, *part)
    panels[0].text(0, -0.75, "blue: q, encoders", color=Q, ha="center")
    panels[1].text(0, -0.75, "orange: p, prior and decoder", color=P, ha="center")
    counts(panels[4])
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("zoo-parts.png"), dpi=110)
