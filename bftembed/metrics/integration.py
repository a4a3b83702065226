"""The scIB metrics of mixed batches and conserved biology (Luecken et al. 2022), on shared neighbors.

The values are those of scib-metrics (0.5 and 0.6 agree), which the tests compare them with. They are computed by numpy
and scipy, because JAX compiles the same sums for every shape of data: half a minute for 700 cells. k-means starts where
that of scib-metrics does, whose random numbers are JAX's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import require
from bftembed.metrics.clustering import (
    Undefined,
    checked_codes,
    checked_matrix,
    connectivities,
    nearest_neighbors,
    need_two,
    partition_scores,
    silhouette_samples,
    unit_rows,
    widths,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from bftembed.metrics.clustering import Neighbors

#: Metric → id of its definition, for the notes of results; changed only with the formula.
DEFINITIONS = {
    "isolated_labels": "isolated labels: silhouette of the labels in the fewest batches; scib-metrics 0.5-0.6",
    "nmi_ari_cluster_labels_kmeans_nmi": "k-means NMI: one start per seed, k = labels; scib-metrics 0.5-0.6",
    "nmi_ari_cluster_labels_kmeans_ari": "k-means ARI: one start per seed, k = labels; scib-metrics 0.5-0.6",
    "silhouette_label": "silhouette label: Euclidean, (s + 1) / 2; scib-metrics 0.5-0.6",
    "clisi_knn": "lisi: 89 others, perplexity 30; scib-metrics 0.5-0.6",
    "bras": "bras: cosine, all cells of other batches; scib-metrics 0.5.6-0.6",
    "silhouette_batch": "silhouette batch: Euclidean, nearest other batch; scib-metrics 0.5-0.6",
    "ilisi_knn": "lisi: 89 others, perplexity 30; scib-metrics 0.5-0.6",
    "kbet_per_label": "kbet: 49 others, diffusion map, chi-square at .05 per label; scib-metrics 0.5-0.6",
    "graph_connectivity": "graph connectivity: 14 others, strong components; scib-metrics 0.5-0.6",
    "pcr_comparison": "pcr: all components, batches as categories; scib-metrics 0.5-0.6",
}

_ROWS = 4096  # of neighbors, weighed at a time
_ALPHA, _COMPONENTS, _MIN_CELLS = 0.05, 100, 10  # of kBET, as in scib-metrics
_TOLERANCE, _STEPS = 1e-5, 50  # of the search for a perplexity, as in scib-metrics: nats, and steps


def silhouette_label(X: ArrayLike, labels: ArrayLike, *, samples: ArrayLike | None = None) -> float:
    """Return the silhouette label score of scIB: the mean of ``(s + 1) / 2``, in [0, 1].

    Parameters and errors as in `silhouette_samples`; `samples` is its result where it is at hand, ``(n_cells,)``.
    """
    values = silhouette_samples(X, labels) if samples is None else np.asarray(samples)
    return float((values.mean() + 1) / 2)


def isolated_labels(X: ArrayLike, labels: ArrayLike, batches: ArrayLike, *, samples: ArrayLike | None = None) -> float:
    """Return the isolated label score of scib-metrics, in [0, 1]: how well rare labels lie apart.

    A label is isolated where no other occurs in fewer batches. The score is the mean, over isolated labels, of the mean
    ``(s + 1) / 2`` of their cells, s the Euclidean silhouette under all labels. Where every label occurs in equally
    many batches all are isolated. Parameters and errors as in `silhouette_batch`; `samples` as in `silhouette_label`.
    """
    values = silhouette_samples(X, labels) if samples is None else np.asarray(samples)
    of_label = checked_codes(labels, n_cells=len(values))
    of_batch = checked_codes(batches, "batches", n_cells=len(values))
    pairs = np.unique(np.stack([of_label, of_batch]), axis=1)
    n_batches = np.bincount(pairs[0])
    means = np.bincount(of_label, (values + 1) / 2) / np.bincount(of_label)
    return float(means[n_batches == n_batches.min()].mean())


def silhouette_batch(X: ArrayLike, labels: ArrayLike, batches: ArrayLike) -> float:
    """Return the silhouette batch score of scIB, in [0, 1], higher where batches mix.

    Within each label, s is the Euclidean silhouette of its cells under their *batch*; ``1 - |s|`` is averaged within
    the label, then over labels. A label with one batch, or with as many batches as cells, is left out.

    `X` is an embedding, ``(n_cells, d)``, finite, without all-zero rows; `labels` and `batches` are ``(n_cells,)``,
    none missing. `Undefined` where no label counts.
    """
    return _within_labels(X, labels, batches, "the silhouette of batches", silhouette_samples)


def bras(X: ArrayLike, labels: ArrayLike, batches: ArrayLike) -> float:
    """Return the batch removal adapted silhouette (Rautenstrauch and Ohler 2025), in [0, 1], higher where batches mix.

    As `silhouette_batch`, with cosine distances, and b the mean distance to *all* cells of the other batches; in time
    n_cells · d.
    """
    return _within_labels(X, labels, batches, "BRAS", _bras)


def _within_labels(
    X: ArrayLike, labels: ArrayLike, batches: ArrayLike, metric: str, silhouette: Callable[..., NDArray[Any]]
) -> float:
    """Return the mean over labels of the mean ``1 - |s|`` of the cells of a label under their batches."""
    matrix = checked_matrix(X)
    of_label = checked_codes(labels, n_cells=len(matrix))
    of_batch = checked_codes(batches, "batches", n_cells=len(matrix))
    need_two(of_batch, "batch", metric)
    scores = []
    for cells in np.split(np.argsort(of_label, kind="stable"), np.cumsum(np.bincount(of_label))[:-1]):
        own = np.unique(of_batch[cells], return_inverse=True)[1]
        if 1 < own.max() + 1 < len(cells):
            scores.append(1 - np.abs(silhouette(matrix[cells], own)).mean())
    if not scores:
        raise Undefined("No label has two batches, and more cells than batches: batches cannot be compared within one.")
    return float(np.mean(scores))


def _bras(matrix: NDArray[Any], codes: NDArray[Any]) -> NDArray[np.float64]:
    cells, counts = unit_rows(matrix), np.bincount(codes)
    sums = np.stack([cells[codes == batch].sum(axis=0) for batch in range(len(counts))])
    n = counts[codes]
    to_own = n - np.einsum("ij,ij->i", cells, sums[codes])  # its own distance, 0, included
    to_others = len(cells) - cells @ sums.sum(axis=0) - to_own
    return widths(to_own / np.maximum(n - 1, 1), to_others / (len(cells) - n), n == 1)


def lisi_weights(neighbors: Neighbors) -> NDArray[np.float32]:
    """Return the weights of neighbors 2 to k in LISI, ``(n_cells, k - 1)``, rows sum to 1.

    ``exp(-beta · distance)``, normalized; beta by bisection from 1 until the entropy is within 1e-5 of ``log(k // 3)``,
    as in scib-metrics, where distances above about 90 underflow. `Undefined` for fewer than 6 neighbors.
    """
    if neighbors.k < 6:
        raise Undefined(f"LISI needs at least 6 neighbors of each cell (a perplexity of 2), got {neighbors.k}.")
    target = np.log(neighbors.k // 3)
    weights = np.empty((len(neighbors.indices), neighbors.k - 1), dtype=np.float32)
    for start in range(0, len(weights), _ROWS):
        distances = neighbors.distances[start : start + _ROWS, 1:].astype(np.float64)
        distances -= distances[:, :1]
        rows = np.arange(len(distances))  # those still searched
        beta, low, high = np.ones(len(rows)), np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
        for _ in range(_STEPS + 1):
            w = np.exp(-beta[:, None] * distances)
            total = w.sum(axis=1)
            entropy = np.log(total) + beta * np.einsum("ij,ij->i", distances, w) / total
            weights[start + rows] = w / total[:, None]
            left = np.abs(entropy - target) >= _TOLERANCE
            if not left.any():
                break
            rows, distances, beta, low, high = (x[left] for x in (rows, distances, beta, low, high))
            flat = entropy[left] > target
            low, high = np.where(flat, beta, low), np.where(flat, high, beta)
            beta = np.where(np.isinf(high), 2 * beta, np.where(np.isinf(low), beta / 2, (low + high) / 2))
    return weights


def lisi(neighbors: Neighbors, groups: ArrayLike, *, weights: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
    """Return the local inverse Simpson index of every cell (Korsunsky et al. 2019), float64 ``(n_cells,)``.

    1 (one group among its neighbors) to the number of groups (equal shares). `groups` are labels or batches,
    ``(n_cells,)``; scib-metrics takes 90 neighbors; `weights` are ``lisi_weights(neighbors)`` where they are at hand.
    """
    codes = checked_codes(groups, "groups", n_cells=len(neighbors.indices))
    n_groups = int(codes.max()) + 1
    weights = lisi_weights(neighbors) if weights is None else weights
    found = np.empty(len(codes))
    for start in range(0, len(codes), _ROWS):
        of_neighbor = codes[neighbors.indices[start : start + _ROWS, 1:]]
        at = np.arange(len(of_neighbor))[:, None] * n_groups + of_neighbor
        shares = np.bincount(at.ravel(), weights[start : start + _ROWS].ravel(), minlength=len(at) * n_groups)
        found[start : start + _ROWS] = 1 / (shares.reshape(-1, n_groups) ** 2).sum(axis=1)
    return found


def ilisi(neighbors: Neighbors, batches: ArrayLike, *, weights: NDArray[np.float32] | None = None) -> float:
    """Return iLISI (Luecken et al. 2022), in [0, 1], 1 where batches mix: ``(median LISI - 1) / (n_batches - 1)``.

    Parameters as in `lisi`; `Undefined` for one batch.
    """
    n = need_two(checked_codes(batches, "batches"), "batch", "iLISI")
    return float((np.median(lisi(neighbors, batches, weights=weights)) - 1) / (n - 1))


def clisi(neighbors: Neighbors, labels: ArrayLike, *, weights: NDArray[np.float32] | None = None) -> float:
    """Return cLISI (Luecken et al. 2022), in [0, 1], 1 where labels lie apart: ``(n - median LISI) / (n - 1)``.

    n is the number of labels. Parameters as in `lisi`; `Undefined` for one label.
    """
    n = need_two(checked_codes(labels), "label", "cLISI")
    return float((n - np.median(lisi(neighbors, labels, weights=weights))) / (n - 1))


def graph_connectivity(neighbors: Neighbors, labels: ArrayLike) -> float:
    """Return how connected the cells of each label are, in (0, 1] (Luecken et al. 2022).

    Per label ``(n_cells,)``, the share of its cells in the largest *strongly* connected component of the directed graph
    of `neighbors` (scib-metrics takes 15) among them; the mean over labels. A singleton label scores 1. The original
    scib takes the undirected graph, and so scores higher.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n = len(neighbors.indices)
    codes = checked_codes(labels, n_cells=n)
    rows, columns = np.repeat(np.arange(n), neighbors.k), neighbors.indices.ravel()
    inside = codes[rows] == codes[columns]
    graph = csr_array((np.ones(int(inside.sum())), (rows[inside], columns[inside])), shape=(n, n))
    component = connected_components(graph, connection="strong")[1]
    largest = np.zeros(int(codes.max()) + 1)
    np.maximum.at(largest, codes, np.bincount(component)[component])
    return float((largest / np.bincount(codes)).mean())


def pcr_comparison(X_pre: ArrayLike, X_post: ArrayLike, batches: ArrayLike) -> float:
    """Return how much less of the variance the batches explain after integration: ``(pre - post) / pre``, in [0, 1].

    Principal component regression (Büttner et al. 2019) with batches as categories. The R² of each component, weighted
    by its variance, sums to the variance between batches over the whole variance, so no components are computed. A
    negative value is 0, as in scib-metrics.

    `X_pre` and `X_post` are embeddings of the same cells, ``(n_cells, d)`` and ``(n_cells, e)``, finite; `batches`
    ``(n_cells,)``. `Undefined` for one batch, and where nothing varies or the batches explain nothing to begin with.
    """
    before, after = (_explained(X, batches) for X in (X_pre, X_post))
    if before < 1e-12:
        raise Undefined("The batches explain nothing of the embedding before integration: nothing could be removed.")
    return max(0.0, (before - after) / before)


def _explained(X: ArrayLike, batches: ArrayLike) -> float:
    matrix = checked_matrix(X, zero_rows=True)
    codes = checked_codes(batches, "batches", n_cells=len(matrix))
    n = need_two(codes, "batch", "PCR comparison")
    center = matrix.mean(axis=0, dtype=np.float64)
    within = between = 0.0
    for batch in range(n):
        cells = matrix[codes == batch] - center
        mean = cells.mean(axis=0)
        between += len(cells) * float(mean @ mean)
        within += float(np.square(cells - mean).sum())
    if between + within <= 1e-24 * len(matrix) * float(center @ center):
        raise Undefined("All cells are identical: there is no variance that batches could explain.")
    return between / (between + within)


def kmeans_nmi_ari(X: ArrayLike, labels: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """Return NMI and ARI of the k-means clusters of scib-metrics (one start, k = number of labels).

    `X` is an embedding, ``(n_cells, d)``, finite, without all-zero rows, `labels` are ``(n_cells,)``, none missing.
    scib-metrics has seed 0; `bftembed.metrics.clustering` takes the best of ten starts. `Undefined` for one label,
    MissingExtraError without the extra ``scib``.
    """
    matrix = checked_matrix(X)
    codes = checked_codes(labels, n_cells=len(matrix))
    k = need_two(codes, "label", "a comparison with clusters")
    found = partition_scores(codes, _kmeans(matrix.astype(np.float32), k, seed))
    return found["nmi"], found["ari"]


def _kmeans(matrix: NDArray[np.float32], k: int, seed: int) -> NDArray[np.int64]:
    """Return the clusters of ``scib_metrics.utils.KMeans(k, seed=seed)``: its start, our steps to the same fixed point.

    Its own steps are compiled for every seed and every matrix, since the matrix is a constant of the program.
    """
    from scipy.spatial.distance import cdist

    jax = require("jax", "scib")
    model = require("scib_metrics.utils", "scib").KMeans(k, seed=seed)
    cells = matrix - matrix.mean(axis=0)
    centers = np.asarray(model._initialize(cells, k, jax.random.split(model.seed, 1)[0]))
    clusters = cdist(cells, centers, "sqeuclidean").argmin(axis=1)
    for _ in range(model.max_iter):
        sums = np.zeros((k, cells.shape[1]))
        np.add.at(sums, clusters, cells)
        # A cluster that lost its cells lies at the center of all, as there.
        centers = (sums / np.maximum(np.bincount(clusters, minlength=k), 1)[:, None]).astype(np.float32)
        found = cdist(cells, centers, "sqeuclidean").argmin(axis=1)
        if (found == clusters).all():
            break
        clusters = found
    return clusters


def kbet(neighbors: Neighbors, labels: ArrayLike, batches: ArrayLike) -> float:
    """Return the kBET score of scib-metrics (Büttner et al. 2019), in [0, 1], higher where batches mix.

    Per label: the share of its cells whose neighborhood holds the batches in the proportions of the label, by a
    chi-square test at .05; the mean over labels. A neighborhood is a quarter of the mean batch size, clipped to 10..70,
    and is found on a diffusion map (Coifman et al. 2005) of the label's part of the neighbor graph. A label of fewer
    than 10 cells, or with one batch, is left out. A label whose graph is not connected scores 0, unless components of
    at least three neighborhoods hold 75 % of its cells.

    As there, the diffusion map has 100 components, *or one fewer than the cells of the smallest label so far, in the
    order of the names*. So the names of the labels may move the score a little where a label has under 101 cells.

    `labels` and `batches` are ``(n_cells,)``; scib-metrics takes 50 neighbors. `Undefined` for one batch, or where no
    label counts.
    """
    n = len(neighbors.indices)
    of_label = checked_codes(labels, n_cells=n)
    of_batch = checked_codes(batches, "batches", n_cells=n)
    need_two(of_batch, "batch", "kBET")
    graph = connectivities(neighbors)
    scores, components = [], _COMPONENTS
    for label in range(int(of_label.max()) + 1):
        cells = np.flatnonzero(of_label == label)
        sizes = np.unique(of_batch[cells], return_counts=True)[1]
        if len(cells) < _MIN_CELLS or len(sizes) == 1:
            continue
        k = min(70, max(10, int(sizes.mean() / 4)))
        kept = _connected(graph[cells][:, cells], k)
        if not len(kept):
            scores.append(0.0)
            continue
        components = min(components, len(kept) - 1)
        scores.append(_acceptance(graph[cells[kept]][:, cells[kept]], of_batch[cells[kept]], k, components))
    if not scores:
        raise Undefined(f"No label has two batches and at least {_MIN_CELLS} cells: kBET compares within labels.")
    return float(np.mean(scores))


def _connected(graph: Any, k: int) -> NDArray[np.int64]:
    """Return the cells of components that are large enough for neighborhoods of k: all, many or none."""
    from scipy.sparse.csgraph import connected_components

    n, component = connected_components(graph, directed=False)
    if n == 1:
        return np.arange(len(component))
    kept = np.flatnonzero(np.bincount(component)[component] >= 3 * k)
    return kept if len(kept) / len(component) >= 0.75 else kept[:0]


def _acceptance(graph: Any, batches: NDArray[np.int64], k: int, components: int) -> float:
    """Return the share of cells around which the batches are mixed as in the whole graph."""
    from scipy.special import chdtrc

    codes, sizes = np.unique(batches, return_inverse=True, return_counts=True)[1:]
    if len(sizes) == 1:
        return 0.0
    # Exact, where scib-metrics takes NN-descent: the same neighbors, without half a minute of numba's compilation.
    nearest = codes[nearest_neighbors(_diffusion_map(graph, components), min(k + 1, len(codes))).indices]
    observed = np.stack([(nearest == batch).sum(axis=1) for batch in range(len(sizes))], axis=1)
    expected = sizes / sizes.sum() * nearest.shape[1]
    statistic = ((observed - expected) ** 2 / expected).sum(axis=1)
    return float((chdtrc(len(sizes) - 1, statistic) >= _ALPHA).mean())


def _diffusion_map(graph: Any, components: int) -> NDArray[np.float32]:
    """Return coordinates (n, components) whose Euclidean distance is the diffusion distance over all times."""
    from scipy.sparse import diags
    from scipy.sparse.linalg import eigsh
    from threadpoolctl import threadpool_limits

    density = diags(1 / np.asarray(graph.sum(axis=0)).ravel())
    kernel = density @ graph @ density
    root = diags(1 / np.sqrt(np.asarray(kernel.sum(axis=0)).ravel()))
    transitions = (root @ kernel @ root).astype(np.float64)
    # A start of one's own: scipy's is drawn anew each time, and so the last digits of every eigenvector.
    start = np.random.default_rng(0).uniform(-1, 1, transitions.shape[0])
    with threadpool_limits(limits=1):  # ARPACK's small products: four times slower on two threads
        found = eigsh(transitions, k=components, which="LM", v0=start)
    values, vectors = (x.astype(np.float32) for x in found)
    values = values[::-1] + np.float32(1e-8)
    return vectors[:, ::-1] * np.where(values == 1, values, values / np.where(values == 1, 1, 1 - values))
