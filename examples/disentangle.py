"""Does a latent dimension stand for one factor? beta-VAE and beta-TCVAE on small sprites whose factors are known.

    python examples/disentangle.py

Trains a VAE for each objective and seed on the upright pictures of sprites.py, 576 of them, and measures what the KL is
made of (mutual information, total correlation, dimension-wise KL; nats, over all pictures) and the mutual information
gap. The figure has the information of each dimension about each factor, and what is drawn as one dimension moves.
Sources: Higgins et al. 2017, "beta-VAE"; Chen, Li, Grosse & Duvenaud 2018, "Isolating sources of disentanglement".
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
from common import at_least, at_least_1, command, own_folder, save_figures, write_json
from sprites import FACTORS, SIDE, sprites

import minivae as mv

OBJECTIVES = {
    "VAE": lambda n: {},
    "beta-VAE, beta = 4": lambda n: {"beta": 4.0},
    "beta-TCVAE, tc = 4": lambda n: {"regulariser": mv.BetaTC(n, tc=4.0)},
}


def train(arguments, backend, x, objective, seed):
    vae = mv.mlp(x.shape[1], arguments.latent_dim, (128,), backend=backend, seed=seed, **objective(len(x)))
    schedules = {"lr": lambda epoch: 2e-3 if epoch <= 0.8 * arguments.epochs else 4e-4}
    mv.fit(vae, x, epochs=arguments.epochs, batch_size=64, optimizer=mv.Adam(2e-3), schedules=schedules)
    return vae


def measure(vae, x, factors):
    losses, parts = vae.evaluate(x), mv.kl_parts(vae, x)
    found = mv.mutual_information_gap(*vae.encode(x), factors)
    row = {"reconstruction": losses.reconstruction, "kl": losses.kl, **vars(parts), "mig": found.mig}
    return row, found


def draw(models, names, start):
    """A row for each model: the information of dimensions about factors, and pictures as each dimension moves.

    names : of the factors;  start : the picture (1, 576) from whose code a dimension moves
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.5 * len(models)), layout="constrained")
    panels = figure.subplots(len(models), 2, width_ratios=(1.15, 1), squeeze=False)
    for (left, right), (name, (vae, row, found)) in zip(panels, models.items(), strict=True):
        order = np.argsort(-found.information.max(axis=1) / found.entropies[found.information.argmax(axis=1)])
        share = found.information[order] / found.entropies
        image = left.imshow(share.T, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        left.set_yticks(range(len(names)), names)
        left.set_xticks(range(len(order)), [f"z{j + 1}" for j in order])
        left.set_title(f"{name}: MIG {row['mig']:.2f}, TC {row['total_correlation']:.2f} nats", fontsize=10)
        figure.colorbar(image, ax=left, label="I(z; v) / H(v)")
        z = np.repeat(vae.encode(start)[0], 9 * len(order), axis=0)
        for i, j in enumerate(order):
            z[9 * i : 9 * i + 9, j] = np.linspace(-2, 2, 9)
        tiles = vae.decode(z).reshape(len(order), 9, SIDE, SIDE).transpose(0, 2, 1, 3)
        right.imshow(tiles.reshape(len(order) * SIDE, 9 * SIDE), vmin=0, vmax=1, cmap="gray")
        right.set_yticks(SIDE / 2 + SIDE * np.arange(len(order)), [f"z{j + 1}" for j in order])
        right.set_xticks(SIDE / 2 + SIDE * np.arange(0, 9, 2), np.arange(-2, 3))
        right.set_title("decoded as one dimension goes from -2 to 2", fontsize=10)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=at_least_1, default=400)
    parser.add_argument("--latent-dim", type=at_least(2), default=5)
    parser.add_argument("--rotations", type=int, choices=(1, 4), default=1, help="4: all 2,304 pictures")
    parser.add_argument("--seeds", type=at_least_1, default=3, help="how many, from 0")
    parser.add_argument("--limit", type=at_least_1, help="only so many pictures, drawn at random")
    parser.add_argument("--backend", choices=("auto", "numpy", "numba", "cupy"), default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/disentangle"))
    parser.add_argument("--no-plots", action="store_true", help="leave the figure out")
    arguments = parser.parse_args()
    own_folder(arguments)
    backend, (x, factors), names = mv.get_backend(arguments.backend), sprites(), list(FACTORS)
    if arguments.rotations == 1:
        at = names.index("rotation")
        x, factors = x[factors[:, at] == 0], np.delete(factors[factors[:, at] == 0], at, axis=1)
        names.remove("rotation")
    if arguments.limit:
        rows = np.random.default_rng(0).permutation(len(x))[: arguments.limit]
        x, factors = x[rows], factors[rows]
    results, models = {}, {}
    for name, objective in OBJECTIVES.items():
        for seed in range(arguments.seeds):
            vae = train(arguments, backend, x, objective, seed)
            row, found = measure(vae, x, factors)
            results.setdefault(name, []).append(row)
            print(f"{name}, seed {seed}: " + ", ".join(f"{key} {value:.2f}" for key, value in row.items()), flush=True)
            if seed == 0:
                models[name] = vae, row, found
        migs = [row["mig"] for row in results[name]]
        print(f"{name}: MIG {statistics.mean(migs):.2f} on average, {min(migs):.2f} to {max(migs):.2f}", flush=True)
    write_json(arguments.out / "result.json", results)
    if not arguments.no_plots:
        wanted = {"shape": 2, "size": 2, "rotation": 0, "column": 4, "row": 4}  # a large heart in the middle
        start = np.abs(factors - [wanted[name] for name in names]).sum(axis=1).argmin()
        save_figures(arguments, disentangle=draw(models, names, x[start : start + 1]))
    print(f"results in {arguments.out}")


if __name__ == "__main__":
    command(main)
