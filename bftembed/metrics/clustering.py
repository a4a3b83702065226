"""Clusters of cells (k-means, Leiden), votes of the nearest cells, and their agreement with labels (ARI, AMI, NMI).

Arrays in, arrays or floats out. scikit-learn and igraph compute; what is added here is the check before them
(`bftembed.metrics.checks`), and repeatability.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import require
from bftembed.metrics.checks import Undefined, checked_codes, checked_matrix, checked_pair, need_two

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from bftembed.metrics.neighbors import Neighbors

# Ten starts, the best by inertia. With one start the score of a single seed swings with the luck of that start (ARI of
# PCA on 700 PBMC: .36 to .54 over seeds) and says little of the embedding. The number is written out because
# scikit-learn's default has changed (3, 10, then "auto" = 1).
N_INIT = 10
#: Of the clustering in GenePT's notebook.
NOTEBOOK_SEED = 2023
#: Resolutions of Leiden that are tried where the best is taken: those of scib and scib-metrics.
RESOLUTIONS = tuple(step / 5 for step in range(1, 11))
#: Bisections, at most, of the search for a number of clusters.
_STEPS = 20
#: Neighbors that vote, and the share of the cells that is held out.
VOTERS, HELD_OUT = 10, 0.2


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


class LeidenGraph:
    """UMAP's connectivities as a graph whose clusters Leiden finds (Traag, Waltman and van Eck 2019), by igraph.

    Modularity, two iterations, as scib-metrics does and scanpy advises.

    Parameters
    ----------
    neighbors
        Neighbors of each cell; 15 are usual.

    Raises
    ------
    MissingExtraError
        Without the extra ``scib``.
    """

    def __init__(self, neighbors: Neighbors) -> None:
        self._igraph = require("igraph", "scib")
        self._graph = self._igraph.Graph.Weighted_Adjacency(connectivities(neighbors), mode="directed")
        self._graph.to_undirected(mode="each")

    def clusters(self, resolution: float, seed: int) -> NDArray[np.int64]:
        """Return the cluster of each cell, int64 (n_cells,); equal seeds give equal clusters.

        Parameters
        ----------
        resolution
            Above 0: the higher, the more clusters.
        seed
            Of the order in which cells are visited.
        """
        self._igraph.set_random_number_generator(random.Random(seed))
        try:
            found = self._graph.community_leiden(
                objective_function="modularity", weights="weight", resolution=resolution
            )
        finally:
            self._igraph.set_random_number_generator(random)
        return np.asarray(found.membership, dtype=np.int64)

    def clusters_of_number(self, k: int, seed: int) -> NDArray[np.int64]:
        """Return clusters whose number comes closest to `k`, by bisection over the resolution from 0.01 to 100.

        Labels are not looked at. Where the graph has more components than k, there are more clusters than k.

        Parameters
        ----------
        k
            Wanted number, at least 1.
        seed
            Of Leiden, the same in every step.
        """
        low, high = np.log(0.01), np.log(100.0)
        best = self.clusters(1.0, seed)
        for step in range(_STEPS):
            n_best = int(best.max()) + 1
            if n_best == k:
                break
            middle = 0.0 if step == 0 else (low + high) / 2
            found = best if step == 0 else self.clusters(float(np.exp(middle)), seed)
            n = int(found.max()) + 1
            if abs(n - k) < abs(n_best - k):
                best = found
            low, high = (middle, high) if n < k else (low, middle)
        return best


def connectivities(neighbors: Neighbors) -> Any:
    """Return the neighbor graph of UMAP (McInnes, Healy and Melville 2018), as ``umap.umap_.fuzzy_simplicial_set``.

    ``w = exp(-(distance - distance of the nearest) / sigma)``, sigma such that the weights around a cell sum to
    ``log2(k)``; the two weights of a pair become ``w + v - w · v``.

    Parameters
    ----------
    neighbors
        Neighbors of each cell, at least 2.

    Returns
    -------
    scipy CSR matrix of float32, shape ``(n_cells, n_cells)``
        Symmetric, weights in (0, 1], none on the diagonal.
    """
    from scipy.sparse import csr_matrix

    n, k = neighbors.indices.shape
    distances = neighbors.distances
    nearest = np.where(distances > 0, distances, np.inf).min(axis=1)
    nearest = np.where(np.isfinite(nearest), nearest, 0).astype(np.float32)
    # Where nothing else bounds it, a sigma of a thousandth of the mean distance.
    mean = np.where(nearest > 0, distances.mean(axis=1), distances.mean())
    beyond = np.maximum(distances - nearest[:, None], 0)
    sigma = np.maximum(_sigma(beyond[:, 1:].astype(np.float64), np.log2(k)), 1e-3 * mean).astype(np.float32)
    with np.errstate(invalid="ignore"):  # 0 / 0, of identical cells
        weights = np.where(beyond > 0, np.exp(-beyond / sigma[:, None]), np.float32(1))
    weights[:, 0] = 0
    rows, places = np.nonzero(weights)
    graph = csr_matrix((weights[rows, places], (rows, neighbors.indices[rows, places])), shape=(n, n))
    union = (graph + graph.T - graph.multiply(graph.T)).tocsr()
    union.eliminate_zeros()
    union.sort_indices()
    return union


def _sigma(beyond: NDArray[np.float64], target: float) -> NDArray[np.float64]:
    """Return the widths at which the weights of each row sum to `target`, by the bisection of UMAP."""
    width, low, high = np.ones(len(beyond)), np.zeros(len(beyond)), np.full(len(beyond), np.inf)
    rows = np.arange(len(beyond))
    for _ in range(64):
        total = np.exp(-beyond[rows] / width[rows, None]).sum(axis=1)
        left = np.abs(total - target) >= 1e-5
        rows, above = rows[left], total[left] > target
        if not len(rows):
            break
        high[rows] = np.where(above, width[rows], high[rows])
        low[rows] = np.where(above, low[rows], width[rows])
        width[rows] = np.where(np.isinf(high[rows]), 2 * width[rows], (low[rows] + high[rows]) / 2)
    return width


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


def knn_hits(X: ArrayLike, labels: ArrayLike, seed: int) -> NDArray[np.float64]:
    """Hold out a fifth of the cells, and let the 10 nearest of the others vote on the label of each.

    Within each label a fifth of its cells, rounded, is held out at random; of a label with one cell none is, of one
    with two at least one. Distances are Euclidean; a tie goes to the label that sorts first.

    Parameters
    ----------
    X
        Embedding, shape ``(n_cells, d)``, finite, without all-zero rows.
    labels
        Label of each cell, shape ``(n_cells,)``, none missing.
    seed
        Of the choice of cells.

    Returns
    -------
    ndarray of float64, shape ``(n_cells,)``
        1 where the vote gave the label of a held-out cell, 0 where not, NaN for the cells that voted. The mean of the
        others is the accuracy.

    Raises
    ------
    ValueError
        For a matrix or labels that are broken; `Undefined` for one label, no label of two cells, or fewer than 10
        voters.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from threadpoolctl import threadpool_limits

    matrix = checked_matrix(X)
    codes = checked_codes(labels, n_cells=len(matrix))
    need_two(codes, "label", "a vote of neighbors")
    draw = np.random.default_rng([seed, 3])
    held = np.zeros(len(codes), dtype=bool)
    for code in range(int(codes.max()) + 1):
        cells = np.flatnonzero(codes == code)
        n = max(1, round(HELD_OUT * len(cells))) if len(cells) > 1 else 0
        held[draw.permutation(cells)[:n]] = True
    if not held.any():
        raise Undefined("No label has two cells: none can be held out.")
    if int((~held).sum()) < VOTERS:
        raise Undefined(f"{int((~held).sum())} cells are too few for a vote of {VOTERS}.")
    model = KNeighborsClassifier(VOTERS, algorithm="brute")
    with threadpool_limits(limits=1):
        voted = model.fit(matrix[~held], codes[~held]).predict(matrix[held])
    hits = np.full(len(codes), np.nan)
    hits[held] = voted == codes[held]
    return hits
