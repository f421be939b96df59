"""What a model's draws are worth, beside real examples: how alike in distribution, how good, how varied, how new.

Each looks at rows of numbers. Of images these should be features that a classifier has found, such as the values of its
last hidden layer, rather than pixels, of which a shift by one changes nearly all: `examples/sample_quality.py`.
"""

import numpy as np

from ..arguments import array, integer
from ..errors import MiniVAEError

PAIRS = 1 << 22  # of rows whose distances are held at a time


def _rows(name, values, least=1):
    values = array(name, values)
    if values.ndim < 2 or len(values) < least or values.size == 0:
        raise MiniVAEError(f"{name} should be rows of numbers (N, F), at least {least} of them, got {values.shape}")
    values = values.reshape(len(values), -1).astype(np.float64)
    if not np.isfinite(values).all():
        raise MiniVAEError(f"{name} has a NaN or an infinity")
    return values


def _pair(function, of_a, of_b, least=1):
    a, b = (_rows(f"{function}: {name}", values, least) for name, values in (of_a, of_b))
    if a.shape[1] != b.shape[1]:
        raise MiniVAEError(f"{function}: both should have rows of equal width, got {a.shape[1]} and {b.shape[1]}")
    return a, b


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """How far apart two sets of rows are, taken for Gaussians; 0 where means and covariances agree.

        d^2 = |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))

    a (N, F), b (M, F), features -> d^2, a float, as which the Frechet inception distance is published

    C_a C_b has the eigenvalues of the symmetric S C_b S with S = C_a^(1/2), and the trace of a root is the sum of the
    roots of the eigenvalues. Few rows make it too large: compare figures of equal N and M.
    Source: Dowson & Landau 1982; Heusel et al. 2017, "GANs trained by a two time-scale update rule", equation 6.
    """
    a, b = _pair("frechet_distance", ("a", a), ("b", b), least=2)
    C_a, C_b = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (a, b))
    values, vectors = np.linalg.eigh(C_a)
    S = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(S @ C_b @ S), 0))
    difference = a.mean(axis=0) - b.mean(axis=0)
    return float(max(difference @ difference + np.trace(C_a) + np.trace(C_b) - 2 * roots.sum(), 0.0))


def precision_and_recall(real: np.ndarray, made: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Precision, the share of made rows that could be real; recall, the share of real rows that could have been made.

    real (N, F), made (M, F), features -> two numbers in [0, 1]

    A row could be one of a set where it lies no farther from some member than that one's k-th nearest other member: the
    balls around all members stand for where the set's distribution has its mass. Blurred or odd draws cost precision,
    kinds of examples that are never drawn cost recall. Source: Kynkaanniemi et al. 2019, "Improved precision and recall
    metric for assessing generative models", equations 1 and 2.
    """
    real, made = _pair("precision_and_recall", ("real", real), ("made", made), least=2)
    k = integer("precision_and_recall: k", k)
    if k >= min(len(real), len(made)):
        raise MiniVAEError(
            f"precision_and_recall: k={k} needs more than {k} rows of each, got {len(real)}, {len(made)}"
        )
    return _share_inside(made, real, k), _share_inside(real, made, k)


def _share_inside(rows, members, k):
    """The share of rows within the ball of any member, which reaches to its k-th nearest other."""
    radii = np.concatenate([np.partition(d, k, axis=1)[:, k] for d in _squared_distances(members, members)])
    return float(np.mean(np.concatenate([(d <= radii).any(axis=1) for d in _squared_distances(rows, members)])))


def nearest_rows(rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the nearest one of others, by Euclidean distance: its index and how far it is, (N,) each.

    rows (N, F), others (M, F). Draws much nearer to training examples than new examples are were learned by heart.
    """
    rows, others = _pair("nearest_rows", ("rows", rows), ("others", others))
    found = [(d.argmin(axis=1), d.min(axis=1)) for d in _squared_distances(rows, others)]
    return np.concatenate([index for index, _ in found]), np.sqrt(np.concatenate([squared for _, squared in found]))


def _squared_distances(rows, others):
    """|a - b|^2 = |a|^2 - 2 a b + |b|^2 of all pairs, some rows at a time; seen from the mean, for less rounding."""
    centre = others.mean(axis=0)
    rows, others = rows - centre, others - centre
    squares = np.sum(others**2, axis=1)
    for start in range(0, len(rows), size := max(1, PAIRS // len(others))):
        part = rows[start : start + size]
        yield np.maximum(np.sum(part**2, axis=1)[:, None] - 2 * part @ others.T + squares, 0)
