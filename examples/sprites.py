"""Small pictures whose factors are known, after dSprites: a shape, its size, its rotation, and where it lies.

    python examples/sprites.py --out sprites.npz

Each of the 2,304 combinations of 3 shapes (square, ellipse, heart), 3 sizes, 4 rotations, 8 columns and 8 rows is one
picture of 24 x 24 grey pixels. Source of the idea: Matthey, Higgins, Hassabis & Lerchner 2017, "dSprites".
"""

import argparse
from pathlib import Path

import numpy as np
from common import command

from minivae.files import atomic_write

SIDE, FINE = 24, 4  # pixels, and points in each pixel along each side
FACTORS = {"shape": 3, "size": 3, "rotation": 4, "column": 8, "row": 8}


def inside(shape, u, v):
    """Whether points lie in a shape of about unit area: the square, the ellipse, the heart."""
    if shape == 0:
        return (np.abs(u) < 0.5) & (np.abs(v) < 0.5)
    if shape == 1:
        return (u / 0.8) ** 2 + (v / 0.4) ** 2 < 1
    u, v = 1.7 * u, -1.7 * v + 0.2
    return (u**2 + v**2 - 0.6) ** 3 < 1.5 * u**2 * v**3


def sprites():
    """All pictures, uint8 (2304, 24 * 24), and the values of their factors, int (2304, 5)."""
    factors = np.stack(np.meshgrid(*map(np.arange, FACTORS.values()), indexing="ij"), axis=-1).reshape(-1, 5)
    x = np.empty((len(factors), SIDE * SIDE), np.uint8)
    points = (np.arange(SIDE * FINE) + 0.5) / FINE
    across, down = np.meshgrid(points, points)
    for picture, (shape, size, rotation, column, row) in zip(x, factors, strict=True):
        angle, side = rotation * np.pi / 8, (4.5, 6.0, 8.0)[size]
        a, d = (across - (7 + 10 * column / 7)) / side, (down - (7 + 10 * row / 7)) / side
        u, v = np.cos(angle) * a + np.sin(angle) * d, np.cos(angle) * d - np.sin(angle) * a
        covered = inside(shape, u, v).reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3))
        picture[:] = np.rint(255 * covered).reshape(-1)
    return x, factors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("sprites.npz"))
    arguments = parser.parse_args()
    x, factors = sprites()
    with atomic_write(arguments.out) as file:
        np.savez_compressed(file, x=x.reshape(-1, SIDE, SIDE), factors=factors, names=list(FACTORS))
    print(f"{len(x)} pictures of {', '.join(f'{n} of {name}' for name, n in FACTORS.items())} in {arguments.out}")


if __name__ == "__main__":
    command(main)
