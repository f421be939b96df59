"""Anomalies in real tables, found by a VAE that never saw one, beside scikit-learn's own detectors.

    pip install ".[sklearn]" && python examples/anomalies.py

Each detector is fitted to half of the rows of the normal classes and scores the other half together with all rows of
the class that was kept from it. What counts is how well the score tells them apart: the area under the ROC curve, 0.5
for chance and 1 for a score that puts every anomaly above every normal row. The tables come with scikit-learn. All
settings are the same for all tables; the VAE's were chosen by the likelihood of held-out rows, none by an area.
"""

import argparse
from pathlib import Path

import numpy as np
from common import at_least_1, command, own_folder, save_figures, write_json
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from minivae.sklearn import VAEEstimator

N_COMPONENTS = 8  # of the VAE and of PCA


def vae(x_train, x_test, seed, **options):
    return VAEEstimator(N_COMPONENTS, random_state=seed, **options).fit(x_train).score_samples(x_test)


def isolation_forest(x_train, x_test, seed):
    return IsolationForest(random_state=seed).fit(x_train).score_samples(x_test)


def local_outlier_factor(x_train, x_test, seed):
    return LocalOutlierFactor(novelty=True).fit(x_train).score_samples(x_test)


def pca_reconstruction(x_train, x_test, seed):
    pca = PCA(N_COMPONENTS).fit(x_train)
    return -np.sum((x_test - pca.inverse_transform(pca.transform(x_test))) ** 2, axis=1)


DETECTORS = {
    "VAE": vae,
    "isolation forest": isolation_forest,
    "local outlier factor": local_outlier_factor,
    "PCA reconstruction": pca_reconstruction,
}


def tables():
    """Each table's name with its rows, its labels, the classes that are anomalies in turn, its scaler and detectors."""
    cancer, wine, digits = load_breast_cancer(), load_wine(), load_digits()
    pixels = FunctionTransformer(lambda x: (x / 16).astype("float32"))
    images = DETECTORS | {"convolutional VAE": lambda *split: vae(*split, image_shape=(8, 8))}
    return {
        "breast cancer": (cancer.data, cancer.target, [0], StandardScaler(), DETECTORS),  # 0 is malignant
        "wine": (wine.data, wine.target, range(3), StandardScaler(), DETECTORS),
        "digits": (digits.data, digits.target, range(10), pixels, images),
    }


def split(x, labels, anomaly, scaler, seed):
    """Training rows, test rows, and which of the latter are anomalies."""
    x_train, x_normal = train_test_split(x[labels != anomaly], test_size=0.5, random_state=seed)
    x_test = np.concatenate([x_normal, x[labels == anomaly]])
    scaler.fit(x_train)
    return scaler.transform(x_train), scaler.transform(x_test), np.arange(len(x_test)) >= len(x_normal)


def areas(x, labels, anomalies, scaler, detectors, seeds):
    """The area under the ROC curve for each detector, (seeds, anomalies)."""
    found = {name: np.empty((seeds, len(anomalies))) for name in detectors}
    for seed in range(seeds):
        for column, anomaly in enumerate(anomalies):
            x_train, x_test, is_anomaly = split(x, labels, anomaly, scaler, seed)
            for name, detector in detectors.items():
                found[name][seed, column] = roc_auc_score(is_anomaly, -detector(x_train, x_test, seed))
    return found


def draw(digit=4, n=20, seed=0):
    """The test digits that the convolutional VAE finds most and least likely; a frame marks those it never saw."""
    from matplotlib.figure import Figure

    x, labels, _, scaler, detectors = tables()["digits"]
    x_train, x_test, is_anomaly = split(x, labels, digit, scaler, seed)
    order = np.argsort(detectors["convolutional VAE"](x_train, x_test, seed))
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    figure.suptitle(f"Trained without {digit}s")
    for part, rows, title in zip(
        figure.subfigures(2, 1), (order[:n], order[: -n - 1 : -1]), ("least likely", "most likely"), strict=True
    ):
        part.supylabel(title)
        for axes, row in zip(part.subplots(2, n // 2).flat, rows, strict=True):
            axes.imshow(x_test[row].reshape(8, 8), cmap="gray_r")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(color="tab:red" if is_anomaly[row] else "lightgray", linewidth=2)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=tuple(tables()), default=tuple(tables()), help="which of them")
    parser.add_argument("--seeds", type=at_least_1, default=5, help="splits and trainings to average over")
    parser.add_argument("--out", type=Path, default=Path("runs/anomalies"), help="the folder for results")
    parser.add_argument("--no-plots", action="store_true", help="leave the figure out")
    arguments = parser.parse_args()
    own_folder(arguments)
    results = {}
    for table in arguments.tables:
        print(f"{table}: area under the ROC curve, mean and standard deviation over {arguments.seeds} seeds")
        results[table] = {}
        for name, area in areas(*tables()[table], arguments.seeds).items():
            of_seeds, of_classes = area.mean(axis=1), area.mean(axis=0).tolist()
            results[table][name] = {"mean": of_seeds.mean(), "std": of_seeds.std(), "classes": of_classes}
            each = "  ".join(f"{value:.2f}" for value in of_classes) if len(of_classes) > 1 else ""
            print(f"    {name:21} {of_seeds.mean():.3f} +- {of_seeds.std():.3f}  {each}", flush=True)
    write_json(arguments.out / "result.json", results)
    if "digits" in arguments.tables and not arguments.no_plots:
        save_figures(arguments, anomalies=draw())
    print(f"results in {arguments.out}")


if __name__ == "__main__":
    command(main)
