"""Clustering scores: k-means, ARI, AMI and NMI. Arrays in, arrays or floats out.

scikit-learn computes; what is added here is the check before it (`bftembed.metrics.checks`).
"""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.metrics.checks import checked_matrix, checked_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

# Ten starts, the best by inertia. With one start the score of a single seed swings with the luck of that start (ARI of
# PCA on 700 PBMC: .36 to .54 over seeds) and says little of the embedding. The number is written out because
# scikit-learn's default has changed (3, 10, then "auto" = 1).
N_INIT = 10
#: Of the clustering in GenePT's notebook.
NOTEBOOK_SEED = 2023


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

    matrix = _clusterable(X, k)
    with _quiet_single_thread():
        found = KMeans(n_clusters=k, n_init=N_INIT, algorithm="lloyd", random_state=seed).fit(matrix).labels_
    return np.asarray(found, dtype=np.int64)


def minibatch_labels(X: ArrayLike, k: int) -> NDArray[np.int64]:
    """Cluster the rows of `X` as GenePT's notebook does: mini-batches of 20, seed 2023, the best of 3 starts.

    The three starts were scikit-learn's default then; it has one today.

    Parameters
    ----------
    X
        Embedding, shape ``(n_cells, d)``, finite, without all-zero rows.
    k
        Number of clusters, 1 to n_cells.

    Returns
    -------
    ndarray of int64, shape ``(n_cells,)``
        Cluster of each row. Fewer than k occur where `X` has fewer distinct rows.

    Raises
    ------
    ValueError
        As `kmeans_labels`.

    References
    ----------
    github.com/yiqunchen/GenePT, ``aorta_data_analysis.ipynb``.
    """
    from sklearn.cluster import MiniBatchKMeans

    matrix = _clusterable(X, k)
    with _quiet_single_thread():
        model = MiniBatchKMeans(n_clusters=k, random_state=NOTEBOOK_SEED, batch_size=20, n_init=3)
        return np.asarray(model.fit(matrix).labels_, dtype=np.int64)


def _clusterable(X: ArrayLike, k: int) -> NDArray[np.floating[Any]]:
    matrix = checked_matrix(X)
    if not 1 <= k <= len(matrix):
        raise ValueError(f"k = {k} clusters of {len(matrix)} cells: k must lie between 1 and the number of cells.")
    return matrix


@contextlib.contextmanager
def _quiet_single_thread() -> Iterator[None]:
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1), warnings.catch_warnings():
        # Fewer distinct rows than k: the caller sees it in the labels.
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def partition_scores(labels: ArrayLike, clusters: ArrayLike, weights: ArrayLike | None = None) -> dict[str, float]:
    """Return ARI, AMI and NMI of a clustering, with each cell counted as often as its weight says.

    ARI (Hubert and Arabie 1985): the Rand index corrected for chance, 1 for equal partitions, about 0 by chance, at
    least -0.5. AMI (Vinh, Epps and Bailey 2010): the mutual information corrected for chance, over the arithmetic mean
    of the entropies; 1 for equal partitions, about 0 by chance. NMI: the same not corrected, 0 to 1; more clusters give
    more of it. The names of labels and clusters do not matter. Equal to scikit-learn's.

    Parameters
    ----------
    labels, clusters
        True label and cluster of each cell, shape ``(n_cells,)``; integers or strings, none missing.
    weights
        Whole numbers, at least 0, shape ``(n_cells,)``: how often each cell was drawn in a bootstrap; None for once.

    Returns
    -------
    dict
        ``"ari"``, ``"ami"``, ``"nmi"``; NaN where the drawn cells have one label, or each its own.

    Raises
    ------
    ValueError
        For unequal lengths, missing labels, or a single true class.
    """
    from scipy.special import comb
    from sklearn.metrics.cluster import expected_mutual_information

    truth, found = checked_pair(labels, clusters)
    counts = np.ones(len(truth), dtype=np.int64) if weights is None else np.asarray(weights, dtype=np.int64)
    width = int(found.max()) + 1
    table = np.bincount(truth * width + found, weights=counts, minlength=(int(truth.max()) + 1) * width)
    table = table.reshape(-1, width).astype(np.int64)
    table = table[table.any(axis=1)][:, table.any(axis=0)]
    rows, columns, n = table.sum(axis=1), table.sum(axis=0), int(table.sum())
    if len(rows) < 2 or len(rows) == n:  # no pair of cells to tell apart, or none to hold together
        return dict.fromkeys(("ari", "ami", "nmi"), float("nan"))
    pairs, of_rows, of_columns = (float(comb(x, 2).sum()) for x in (table, rows, columns))
    chance = of_rows * of_columns / comb(n, 2)
    held = table[table > 0]
    outer = np.outer(rows, columns)[table > 0]
    shared = float((held / n * (np.log(held) + np.log(n) - np.log(outer))).sum())
    mean = -sum(float((x / n * np.log(x / n)).sum()) for x in (rows, columns)) / 2
    by_chance = float(expected_mutual_information(table, n))
    return {
        "ari": float((pairs - chance) / ((of_rows + of_columns) / 2 - chance)),
        "ami": (shared - by_chance) / (mean - by_chance),
        "nmi": shared / mean,
    }
