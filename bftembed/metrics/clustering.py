"""Clustering scores: k-means, ARI and AMI. Arrays in, arrays or floats out.

scikit-learn computes; what is added here is the check before it (`bftembed.metrics.checks`).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from bftembed.metrics.checks import checked_matrix, checked_pair

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Ten starts, the best by inertia. With one start the score of a single seed swings with the luck of that start (ARI of
# PCA on 700 PBMC: .36 to .54 over seeds) and says little of the embedding. The number is written out because
# scikit-learn's default has changed (3, 10, then "auto" = 1).
N_INIT = 10


def kmeans_labels(X: ArrayLike, k: int, seed: int) -> NDArray[np.int64]:
    """Cluster the rows of `X` by Lloyd's k-means (k-means++ starts, the best of 10 by inertia).

    Parameters
    ----------
    X
        Embedding, shape ``(n_cells, d)``, finite, without all-zero rows.
    k
        Number of clusters, 1 to n_cells.
    seed
        Seed of the starts. Equal seeds give equal labels: one thread, because the order in which threads add up their
        partial means is left to chance.

    Returns
    -------
    ndarray of int64, shape ``(n_cells,)``
        Cluster of each row, 0 to k - 1. Fewer than k occur where `X` has fewer distinct rows.

    Raises
    ------
    ValueError
        For a matrix that cannot be scored, or k out of range. The message says which.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    matrix = checked_matrix(X)
    if not 1 <= k <= len(matrix):
        raise ValueError(f"k = {k} clusters of {len(matrix)} cells: k must lie between 1 and the number of cells.")
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # fewer distinct rows than k: the caller sees it in the labels
        found = KMeans(n_clusters=k, n_init=N_INIT, algorithm="lloyd", random_state=seed).fit(matrix).labels_
    return np.asarray(found, dtype=np.int64)


def adjusted_rand_index(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Return the Rand index corrected for chance (Hubert and Arabie 1985): 1 equal, about 0 by chance, at least -0.5.

    Parameters
    ----------
    labels, clusters
        True label and cluster of each cell, shape ``(n_cells,)``; integers or strings, none missing. The names do not
        matter, only which cells share one.

    Raises
    ------
    ValueError
        For unequal lengths, missing labels, or a single true class.
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*checked_pair(labels, clusters)))


def adjusted_mutual_information(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Return the mutual information corrected for chance, normalised by the arithmetic mean of the two entropies.

    Vinh, Epps and Bailey 2010. 1 for equal partitions, about 0 by chance, slightly negative below it. Parameters and
    errors as in `adjusted_rand_index`.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(*checked_pair(labels, clusters), average_method="arithmetic"))


def bootstrap_interval(values: ArrayLike, seed: int, n: int = 1000, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of `values`.

    Parameters
    ----------
    values
        One value per cell, shape ``(n_cells,)``, finite.
    seed
        Seed of the resampling.
    n
        Number of resamples.
    level
        Share of the resampled means inside the interval, between 0 and 1.

    Returns
    -------
    (float, float)
        Lower and upper end. Cells are resampled as if independent: for a silhouette, whose cells share their
        neighbours, the interval says how much the mean hangs on which cells are averaged, and no more.

    Raises
    ------
    ValueError
        For no values, values that are not finite, or a level or n out of range.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0:
        raise ValueError(f"A bootstrap needs a non-empty list of values, got shape {sample.shape}.")
    if not np.isfinite(sample).all():
        raise ValueError(f"{int((~np.isfinite(sample)).sum())} of {len(sample)} values are not finite.")
    if not 0 < level < 1 or n < 1:
        raise ValueError(f"level = {level} must lie between 0 and 1, and n = {n} must be at least 1.")
    rng = np.random.default_rng(seed)
    # One resample at a time: n x n_cells indices at once would be 8 GB for a million cells.
    means = [sample[rng.integers(len(sample), size=len(sample))].mean() for _ in range(n)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
