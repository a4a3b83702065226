"""Clusters, nearest neighbors and silhouettes of cells, agreement with labels, and the validation before them.

scikit-learn and igraph compute; added are validation and repeatability. A broken input raises ValueError, since the
usual libraries give a plausible number for it: one NaN cell makes a silhouette of exactly .5, one all-zero cell moves
the BRAS of its label by .17, a missing label becomes a class of its own. A valid input without a value is `Undefined`.
"""

from __future__ import annotations

import dataclasses
import random
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bftembed.errors import require

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# With one start the score of a single seed depends on the luck of that start (ARI of PCA on 700 PBMC: .36 to .54 over
# seeds). Written out because scikit-learn's default has changed (3, 10, then "auto" = 1).
_N_INIT = 10
#: Seed of the clustering in GenePT's notebook.
NOTEBOOK_SEED = 2023
#: Resolutions of Leiden that are tried where the best is taken: those of scib and scib-metrics.
RESOLUTIONS = tuple(step / 5 for step in range(1, 11))
#: Number of cells up to which neighbors are exact. The time of the exact search grows with its square.
EXACT_UP_TO = 100_000
_STEPS = 20  # bisections, at most, of the search for a number of clusters
_VOTERS, _HELD_OUT = 10, 0.2  # neighbors that vote, and the share of the cells that is held out


class Undefined(ValueError):
    """The input is valid, but the metric has no value for it: one batch, one label.

    Attributes
    ----------
    reason
        Reason of the missing value in the results (`bftembed.tasks.base.REASONS`).
    """

    def __init__(self, message: str, reason: str = "undefined") -> None:
        super().__init__(message)
        self.reason = reason


def checked_matrix(X: ArrayLike, *, zero_rows: bool = False) -> NDArray[np.floating[Any]]:
    """Return `X`, real numbers of shape ``(n_cells, d)``, as float32 or float64: itself, or a copy in float64.

    Raises
    ------
    ValueError
        For another shape or type, no cells, NaN or infinity, and, unless `zero_rows`, rows of zeros: they are cells
        without an embedding, and have no direction (cosine).
    """
    matrix = np.asarray(X)
    if matrix.ndim != 2 or not matrix.size or matrix.dtype.kind not in "fiub":
        raise ValueError(f"An embedding is (n_cells, d) real numbers, got {matrix.shape} of {matrix.dtype}.")
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float64)
    bad, zero = ~np.isfinite(matrix).all(axis=1), ~matrix.any(axis=1)
    for wrong, what in ((bad, "hold NaN or infinity"), (zero & (not zero_rows), "are all zero: without an embedding")):
        if wrong.any():
            raise ValueError(f"{int(wrong.sum())} cells {what} (first: row {int(wrong.argmax())}). Leave them out.")
    return matrix


def checked_codes(labels: ArrayLike, what: str = "labels", n_cells: int | None = None) -> NDArray[np.int64]:
    """Return labels as int64 codes, shape ``(n_cells,)``: 0 to n - 1 in the order of their sorted names, all used.

    `labels` are numbers, strings or a categorical, `what` they are called in messages. ValueError for another shape or
    length than `n_cells`, or a missing label: None, NaN, pandas.NA or a blank string.
    """
    import pandas as pd

    array = np.asarray(labels)
    if array.ndim != 1 or len(array) != (len(array) if n_cells is None else n_cells) or not len(array):
        raise ValueError(f"{what} must be one per cell, got shape {array.shape} for {n_cells or 'at least 1'} cells.")
    found, names = pd.factorize(array)  # by hash: sorting a million strings takes seconds
    if array.dtype.kind in "OUS":
        texts = [str(name) for name in names]  # so that names of several types can be sorted
        found[np.isin(found, [code for code, text in enumerate(texts) if not text.strip()])] = -1
        names = np.array(texts, dtype=str)
    missing = found < 0
    if missing.any():
        raise ValueError(f"{int(missing.sum())} cells have no label ({what}; first: row {int(missing.argmax())}).")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)[found]


def need_two(codes: NDArray[np.int64], group: str, metric: str) -> int:
    """Return the number of distinct codes, or raise `Undefined` where all cells have one `group` (label, batch)."""
    n = int(codes.max()) + 1
    if n < 2:
        raise Undefined(f"All cells have one {group}: {metric} needs at least two.")
    return n


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbors:
    """The k nearest neighbors of each of n cells; the first is the cell itself, at distance 0.

    That is the convention of ``NeighborsResults`` in scib-metrics (0.5 and 0.6), whose "90 neighbors" are 89 others.
    ValueError for other arrays, such as those of a library that leaves out the cell itself.

    Attributes
    ----------
    indices
        int32, shape ``(n_cells, k)``: rows, from the nearest to the farthest.
    distances
        float32, shape ``(n_cells, k)``: Euclidean, at least 0, ascending along each row.
    """

    indices: NDArray[np.int32]
    distances: NDArray[np.float32]

    def __post_init__(self) -> None:
        n, shape = len(self.indices), self.indices.shape
        if len(shape) != 2 or shape != self.distances.shape or (self.indices[:, 0] != np.arange(n)).any():
            raise ValueError("Indices and distances are both (n_cells, k), and the first neighbor is the cell itself.")
        if self.indices.min() < 0 or self.indices.max() >= n:
            raise ValueError(f"Neighbors of {n} cells must be rows 0 to {n - 1}.")

    @property
    def k(self) -> int:
        """Number of neighbors of each cell, itself included."""
        return int(self.indices.shape[1])

    def subset(self, k: int) -> Neighbors:
        """Return the `k` nearest of the neighbors, 1 to `self.k`."""
        if not 1 <= k <= self.k:
            raise ValueError(f"k = {k} neighbors of {self.k}.")
        return Neighbors(self.indices[:, :k], self.distances[:, :k])


def nearest_neighbors(X: ArrayLike, k: int, *, exact_up_to: int = EXACT_UP_TO) -> Neighbors:
    """Find the `k` nearest neighbors of every cell, Euclidean, the cell itself first.

    Exact up to `exact_up_to` cells (scikit-learn, float64); beyond by NN-descent (Dong, Moses and Li 2011; pynndescent,
    seed 0, one thread, the settings of scib-metrics), so that metrics made of it are approximate.

    `X` is an embedding, ``(n_cells, d)``, finite, whose all-zero rows are points like others; `k` counts the cell
    itself. `Undefined` for fewer cells than k.
    """
    matrix = checked_matrix(X, zero_rows=True)
    if k < 1:
        raise ValueError(f"k = {k} neighbors: at least 1 is needed, the cell itself.")
    if k > len(matrix):
        raise Undefined(f"{len(matrix)} cells are too few for {k} neighbors of each, itself included", "too-few")
    return Neighbors(*(_approximate if len(matrix) > exact_up_to else _exact)(matrix, k))


def _exact(matrix: NDArray[Any], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    from sklearn.neighbors import NearestNeighbors

    n, d = matrix.shape
    indices, distances = np.arange(n, dtype=np.int32)[:, None], np.zeros((n, 1), dtype=np.float32)
    if k == 1:
        return indices, distances
    cells = _centered(matrix)
    far, others = NearestNeighbors(n_neighbors=k - 1, algorithm="brute").fit(cells).kneighbors()
    # What is within the rounding error of the matrix product is a duplicate.
    error = 1e-15 * (d + 8) * (2 * np.linalg.norm(cells, axis=1)[:, None] + far) ** 2
    far[far**2 <= error] = 0
    return np.hstack([indices, others.astype(np.int32)]), np.hstack([distances, far.astype(np.float32)])


def _approximate(matrix: NDArray[Any], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    from pynndescent import NNDescent

    n = len(matrix)
    indices, distances = NNDescent(
        matrix,
        n_neighbors=k,
        random_state=0,
        low_memory=True,
        n_jobs=1,
        compressed=False,
        n_trees=min(64, 5 + round(n**0.5 / 20)),
        n_iters=max(5, round(np.log2(n))),
        max_candidates=60,
    ).neighbor_graph
    indices, distances = indices.astype(np.int32), distances.astype(np.float32)
    itself = indices == np.arange(n)[:, None]
    place = np.where(itself.any(axis=1), itself.argmax(axis=1), k - 1)  # of a cell that was missed: the last
    for row in np.flatnonzero(place > 0):  # a duplicate came before the cell itself
        stop = place[row]
        indices[row, 1 : stop + 1], distances[row, 1 : stop + 1] = indices[row, :stop], distances[row, :stop]
    indices[:, 0], distances[:, 0] = np.arange(n), 0
    return indices, distances


def kmeans_labels(X: ArrayLike, k: int, seed: int) -> NDArray[np.int64]:
    """Cluster the rows of `X` by Lloyd's k-means (k-means++ starts, the best of 10 by inertia).

    `X` is an embedding, ``(n_cells, d)``, finite, without all-zero rows; `k` is 1 to n_cells. Returns the cluster of
    each row, int64 ``(n_cells,)``, 0 to k - 1, equal for equal seeds; fewer than k where `X` has fewer distinct rows.
    """
    from sklearn.cluster import KMeans

    return _clusters(KMeans(n_clusters=k, n_init=_N_INIT, algorithm="lloyd", random_state=seed), X, k)


def minibatch_labels(X: ArrayLike, k: int) -> NDArray[np.int64]:
    """Cluster the rows of `X` as GenePT's notebook does: mini-batches of 20, seed 2023, the best of 3 starts.

    The three starts were scikit-learn's default then; it has one today. Parameters and result as in `kmeans_labels`.

    References
    ----------
    github.com/yiqunchen/GenePT, ``aorta_data_analysis.ipynb``.
    """
    from sklearn.cluster import MiniBatchKMeans

    return _clusters(MiniBatchKMeans(n_clusters=k, random_state=NOTEBOOK_SEED, batch_size=20, n_init=3), X, k)


def _clusters(model: Any, X: ArrayLike, k: int) -> NDArray[np.int64]:
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    matrix = checked_matrix(X)
    if not 1 <= k <= len(matrix):
        raise ValueError(f"k = {k} clusters of {len(matrix)} cells: k must lie between 1 and the number of cells.")
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than k: the labels show it
        return np.asarray(model.fit(matrix).labels_, dtype=np.int64)


class LeidenGraph:
    """Leiden clustering (Traag, Waltman and van Eck 2019; igraph) of UMAP's graph of `neighbors`, usually 15.

    Modularity, two iterations, as in scib-metrics. MissingExtraError without the extra ``scib``.
    """

    def __init__(self, neighbors: Neighbors) -> None:
        self._igraph = require("igraph", "scib")
        self._graph = self._igraph.Graph.Weighted_Adjacency(connectivities(neighbors), mode="directed")
        self._graph.to_undirected(mode="each")

    def clusters(self, resolution: float, seed: int) -> NDArray[np.int64]:
        """Return the cluster of each cell, int64 (n_cells,); a higher resolution gives more of them.

        The seed is that of the order in which cells are visited; equal seeds give equal clusters.
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

        Where the graph has more components than k, there are more clusters than k.
        """
        low, high, tried = -np.log(100.0), np.log(100.0), []
        for _ in range(_STEPS):
            middle = (low + high) / 2
            tried.append(self.clusters(float(np.exp(middle)), seed))
            n = int(tried[-1].max()) + 1
            if n == k:
                break
            low, high = (middle, high) if n < k else (low, middle)
        return min(tried, key=lambda found: abs(int(found.max()) + 1 - k))


def connectivities(neighbors: Neighbors) -> Any:
    """Return the neighbor graph of UMAP (McInnes, Healy and Melville 2018), as ``umap.umap_.fuzzy_simplicial_set``.

    ``w = exp(-(distance - distance of the nearest) / sigma)``, sigma such that the weights around a cell sum to
    ``log2(k)``; the two weights of a pair become ``w + v - w · v``. A symmetric SciPy CSR matrix of float32, shape
    ``(n_cells, n_cells)``, with weights in (0, 1] and none on the diagonal.
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


def partition_scores(labels: ArrayLike, clusters: ArrayLike) -> dict[str, float]:
    """Return ARI, AMI and NMI of a clustering, equal to scikit-learn's: ``"ari"``, ``"ami"``, ``"nmi"``.

    ARI (Hubert and Arabie 1985) in [-0.5, 1] and AMI (Vinh, Epps and Bailey 2010, over the arithmetic mean of the
    entropies) are 1 for equal partitions and about 0 by chance; NMI, in [0, 1], is not corrected for chance.

    `labels` and `clusters` are integers or strings, shape ``(n_cells,)``, none missing. NaN where all cells have one
    label, or each its own.
    """
    from scipy.special import comb
    from sklearn.metrics.cluster import expected_mutual_information

    truth = checked_codes(labels)
    found = checked_codes(clusters, "clusters", len(truth))
    # One table for all three: scikit-learn sorts the cells anew for each.
    size = int(truth.max()) + 1, int(found.max()) + 1
    table = np.bincount(truth * size[1] + found, minlength=size[0] * size[1]).reshape(size)
    rows, columns, n = table.sum(axis=1), table.sum(axis=0), len(truth)
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
    """Hold out a fifth of the cells, and classify them by their 10 nearest neighbors among the others (Euclidean).

    Within each label a fifth of its cells, rounded, is held out at random: none of a singleton label, at least one of
    a larger one. A tied vote goes to the label that sorts first.

    `X` is an embedding, ``(n_cells, d)``, finite, without all-zero rows, `labels` are ``(n_cells,)``, none missing.
    Returns float64 ``(n_cells,)``: 1 for a held-out cell whose label was found, 0 for another, NaN for those that
    voted. `Undefined` for one label, singleton labels alone, or fewer than 10 voters.
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
        n = max(1, round(_HELD_OUT * len(cells))) if len(cells) > 1 else 0
        held[draw.permutation(cells)[:n]] = True
    if not held.any():
        raise Undefined("No label has two cells: none can be held out.")
    if int((~held).sum()) < _VOTERS:
        raise Undefined(f"{int((~held).sum())} cells are too few for a vote of {_VOTERS}.")
    model = KNeighborsClassifier(_VOTERS, algorithm="brute")
    with threadpool_limits(limits=1):
        voted = model.fit(matrix[~held], codes[~held]).predict(matrix[held])
    hits = np.full(len(codes), np.nan)
    hits[held] = voted == codes[held]
    return hits


def silhouette_samples(
    X: ArrayLike, labels: ArrayLike, *, metric: Literal["euclidean", "cosine"] = "euclidean"
) -> NDArray[np.float64]:
    """Return the raw silhouette of every cell under its label, in [-1, 1] (Rousseeuw 1987).

    ``s = (b - a) / max(a, b)``, a the mean distance to the other cells of the label, b the smallest mean distance to
    the cells of another label; 0 for a singleton label, and where a = b = 0. Equals
    ``sklearn.metrics.silhouette_samples``; scIB rescales it, see `bftembed.metrics.integration.silhouette_label`.

    Parameters
    ----------
    X
        Embedding, shape ``(n_cells, d)``, finite, without all-zero rows.
    labels
        Label of each cell, shape ``(n_cells,)``, none missing. `Undefined` for one label, or one per cell.
    metric
        Distance: ``"euclidean"`` takes time n_cells² · d, ``"cosine"`` n_cells · n_labels · d.

    Returns
    -------
    ndarray of float64, shape ``(n_cells,)``
    """
    if metric not in ("euclidean", "cosine"):
        raise ValueError(f"metric = {metric!r} is unknown; known: 'euclidean', 'cosine'.")
    matrix = checked_matrix(X)
    codes = checked_codes(labels, n_cells=len(matrix))
    if need_two(codes, "label", "a silhouette") == len(matrix):
        raise Undefined("Every cell has a label of its own: a silhouette needs a label with two cells.")
    if metric == "euclidean":
        from sklearn import config_context
        from sklearn.metrics import silhouette_samples as of_pairs

        with config_context(working_memory=32):  # MB of distances at a time
            return np.asarray(of_pairs(_centered(matrix), codes), dtype=np.float64)
    # The sum of 1 - u·v over the cells v of a label is their number less u·(sum of v): no pairs are needed.
    cells, rows, n = unit_rows(matrix), np.arange(len(matrix)), np.bincount(codes)[codes]
    means = 1 - cells @ np.stack([cells[codes == code].mean(axis=0) for code in range(int(codes.max()) + 1)]).T
    within = means[rows, codes] * (n / np.maximum(n - 1, 1))
    means[rows, codes] = np.inf
    return widths(within, means.min(axis=1), n == 1)


def _centered(matrix: NDArray[Any]) -> NDArray[np.float64]:
    # Near the median, squared norms are small and their differences exact; the mean follows a single far cell.
    return np.asarray(matrix - np.median(matrix, axis=0).astype(np.float64), dtype=np.float64)


def unit_rows(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return rows scaled to length 1, float64, whatever their size."""
    scaled = rows / np.abs(rows).max(axis=1, keepdims=True).astype(np.float64)  # so that no square overflows
    return np.asarray(scaled / np.linalg.norm(scaled, axis=1, keepdims=True), dtype=np.float64)


def widths(within: NDArray[Any], other: NDArray[Any], alone: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return silhouettes ``(other - within) / max(within, other)`` of mean cosine distances, all (n_cells,).

    0 for a cell that is alone, and where both are 0, or rounding error alone (an angle of a millionth).
    """
    within, other = (np.where(mean < 1e-12, 0.0, mean) for mean in (within, other))
    largest = np.maximum(within, other)
    return np.divide(other - within, largest, out=np.zeros(len(largest)), where=(largest > 0) & ~alone)
