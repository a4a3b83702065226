"""scIB's scores of mixing and of kept structure on shared neighbors. Arrays in, floats out.

The values are those of scib-metrics 0.5, which the tests hold them to. LISI, graph connectivity, kBET and PCR are
computed here by numpy and scipy, because the same sums in JAX are compiled anew for every shape of data: half a minute
for 700 cells. k-means starts where that of scib-metrics does, for its random numbers are JAX's.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import require
from bftembed.metrics.checks import Undefined, checked_codes, checked_matrix, need_two
from bftembed.metrics.clustering import RESOLUTIONS, LeidenGraph, connectivities
from bftembed.metrics.neighbors import nearest_neighbors

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from bftembed.metrics.neighbors import Neighbors

_ROWS = 4096  # of neighbors, weighed at a time
_BLOCK = 2_000_000  # numbers of a block of differences
_ALPHA, _COMPONENTS, _MIN_CELLS = 0.05, 100, 10  # of kBET, as in scib-metrics
_TOLERANCE, _STEPS = 1e-5, 50  # of the search for a perplexity, as in scib-metrics: nats, and steps


def lisi_weights(neighbors: Neighbors) -> NDArray[np.float32]:
    """Return how much each neighbor counts in LISI: Gaussian-like weights of perplexity k // 3.

    ``w = exp(-beta · distance)``, normalised, the cell itself left out; beta by bisection from 1 until the entropy of
    the weights is within 1e-5 of ``log(k // 3)``, as in scib-metrics. There distances above about 90 underflow; here
    they are counted from the nearest neighbor, which changes no weight.

    Parameters
    ----------
    neighbors
        Neighbors of each cell, at least 6; scib-metrics takes 90.

    Returns
    -------
    ndarray of float32, shape ``(n_cells, k - 1)``
        Weights of neighbors 2 to k; rows sum to 1.

    Raises
    ------
    Undefined
        For fewer than 6 neighbors.
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
    """Return the local inverse Simpson index of every cell (Korsunsky et al. 2019): how many groups lie around it.

    Parameters
    ----------
    neighbors
        Neighbors of each cell, at least 6; scib-metrics takes 90.
    groups
        Label or batch of each cell, shape ``(n_cells,)``, none missing.
    weights
        ``lisi_weights(neighbors)`` where it is at hand; it does not depend on the groups.

    Returns
    -------
    ndarray of float64, shape ``(n_cells,)``
        1 (one group) to the number of groups (all alike).

    Raises
    ------
    ValueError
        For broken groups; `Undefined` for fewer than 6 neighbors.
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
    """Return how far the cells of a label hang together, in (0, 1] (Luecken et al. 2022).

    Per label, the share of its cells in the largest *strongly* connected component of the directed neighbor graph
    among them; the mean over labels. A label of one cell scores 1. The original scib takes the undirected graph, and
    so scores higher.

    Parameters
    ----------
    neighbors
        Neighbors of each cell; scib-metrics takes 15.
    labels
        Label of each cell, shape ``(n_cells,)``, none missing.

    Raises
    ------
    ValueError
        For broken labels.
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

    Principal component regression (Büttner et al. 2019) with batches as categories: the R² of each component, weighted
    by its variance, sums to the variance between batches over the whole variance, whatever the axes, so no components
    are computed. Below 0 (batches explain more than before) it is 0, as in scib-metrics.

    Parameters
    ----------
    X_pre, X_post
        Embeddings of the same cells before and after, shapes ``(n_cells, d)`` and ``(n_cells, e)``, finite.
    batches
        Batch of each cell, shape ``(n_cells,)``, none missing.

    Raises
    ------
    ValueError
        For broken embeddings or batches, or other cells; `Undefined` for one batch, and where nothing varies or the
        batches explain nothing to begin with.
    """
    before, after = (_explained(X, batches) for X in (X_pre, X_post))
    if before < 1e-12:
        raise Undefined("The batches explain nothing of the embedding before integration: nothing could be removed.")
    return max(0.0, (before - after) / before)


def _explained(X: ArrayLike, batches: ArrayLike) -> float:
    matrix = checked_matrix(X, zero_rows=True)
    codes = checked_codes(batches, "batches", n_cells=len(matrix))
    n = need_two(codes, "batch", "PCR comparison")
    centre = matrix.mean(axis=0, dtype=np.float64)
    within = between = 0.0
    for batch in range(n):
        cells = matrix[codes == batch] - centre
        mean = cells.mean(axis=0)
        between += len(cells) * float(mean @ mean)
        within += float(np.square(cells - mean).sum())
    if between + within <= 1e-24 * len(matrix) * float(centre @ centre):
        raise Undefined("All cells are identical: there is no variance that batches could explain.")
    return between / (between + within)


def leiden_nmi_ari(neighbors: Neighbors, labels: ArrayLike, seed: int = 42) -> tuple[float, float]:
    """Return NMI and ARI of the Leiden clustering that fits the labels best, as in scib-metrics.

    Ten resolutions .2 to 2, igraph, modularity, on UMAP's connectivities. *The best is chosen by its NMI against the
    true labels, so both numbers are optimistic.*

    Parameters
    ----------
    neighbors
        Neighbors of each cell; scib-metrics takes 15.
    labels
        Label of each cell, shape ``(n_cells,)``, none missing.
    seed
        Seed of Leiden, the same for each resolution.

    Raises
    ------
    ValueError
        For broken labels; `Undefined` for one label.
    MissingExtraError
        Without the extra ``scib``.
    """
    codes = checked_codes(labels, n_cells=len(neighbors.indices))
    need_two(codes, "label", "a comparison with clusters")
    graph = LeidenGraph(neighbors)
    scores = [_nmi_ari(codes, graph.clusters(resolution, seed)) for resolution in RESOLUTIONS]
    return max(scores, key=lambda pair: pair[0])


def kmeans_nmi_ari(X: ArrayLike, labels: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """Return NMI and ARI of the k-means clusters of scib-metrics (one start, k = number of labels).

    Parameters
    ----------
    X
        Embedding, shape ``(n_cells, d)``, finite, without all-zero rows.
    labels
        Label of each cell, shape ``(n_cells,)``, none missing.
    seed
        Seed of the start; scib-metrics has 0. One start is luck to a degree: see `metrics.clustering` for ten.

    Raises
    ------
    ValueError
        For a matrix or labels that are broken; `Undefined` for one label.
    MissingExtraError
        Without the extra ``scib``.
    """
    matrix = checked_matrix(X)
    codes = checked_codes(labels, n_cells=len(matrix))
    k = need_two(codes, "label", "a comparison with clusters")
    return _nmi_ari(codes, _kmeans(matrix.astype(np.float32), k, seed))


def _kmeans(matrix: NDArray[np.float32], k: int, seed: int) -> NDArray[np.int64]:
    """Return the clusters that ``scib_metrics.utils.KMeans(k, seed=seed)`` gives.

    The starts are its own, drawn by JAX. Its steps, 300 of them whatever happens, are compiled anew for every seed and
    every matrix, since the matrix is a constant of the program; Lloyd's steps here end at the same fixed point.
    """
    jax = require("jax", "scib")
    model = require("scib_metrics.utils", "scib").KMeans(k, seed=seed)
    cells = matrix - matrix.mean(axis=0)
    centres = np.asarray(model._initialize(cells, k, jax.random.split(model.seed, 1)[0]))
    clusters = np.full(len(cells), -1)
    for _ in range(model.max_iter):
        found = _nearest(cells, centres)
        if (found == clusters).all():
            break
        clusters = found
        sums = np.zeros((k, cells.shape[1]))
        np.add.at(sums, clusters, cells)
        # A cluster that lost its cells lies at the centre of all, as there.
        centres = (sums / np.maximum(np.bincount(clusters, minlength=k), 1)[:, None]).astype(np.float32)
    return _nearest(cells, centres)


def _nearest(cells: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the nearest centre of each cell, the first of equally near ones."""
    found = np.empty(len(cells), dtype=np.int64)
    step = max(1, _BLOCK // centres.size)
    for start in range(0, len(cells), step):
        apart = cells[start : start + step, None, :] - centres[None]
        found[start : start + step] = np.einsum("ijk,ijk->ij", apart, apart).argmin(axis=1)
    return found


def _nmi_ari(labels: NDArray[Any], clusters: NDArray[Any]) -> tuple[float, float]:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    nmi = normalized_mutual_info_score(labels, clusters, average_method="arithmetic")
    return float(nmi), float(adjusted_rand_score(labels, clusters))


def kbet(neighbors: Neighbors, labels: ArrayLike, batches: ArrayLike) -> float:
    """Return the kBET score of scib-metrics (Büttner et al. 2019), in [0, 1], higher where batches mix.

    Per label: the share of its cells whose neighborhood holds the batches in the proportions of the label, by a
    chi-square test at .05; the mean over labels. A neighborhood is a quarter of the mean batch size, held to 10..70,
    and is found on a diffusion map (Coifman et al. 2005) of the label's part of the neighbor graph. A label of fewer
    than 10 cells, or with one batch, is left out. A label whose graph falls apart scores 0, unless components of at
    least three neighborhoods hold 75 % of its cells.

    As there, the diffusion map has 100 components, *or one fewer than the cells of the smallest label so far, in the
    order of the names*. So the names of the labels may move the score a little where a label has under 101 cells.

    Parameters
    ----------
    neighbors
        Neighbors of each cell; scib-metrics takes 50.
    labels, batches
        Label and batch of each cell, shape ``(n_cells,)``, none missing.

    Raises
    ------
    ValueError
        For broken labels or batches; `Undefined` for one batch, or when no label counts.
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


def compilation_cache(folder: str) -> None:
    """Let JAX keep what it compiles in `folder`, from now on in this process and in later ones, however small."""
    jax = require("jax", "scib")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A cache that was opened before, for another folder or none, would stay.
    require("jax.experimental.compilation_cache.compilation_cache", "scib").reset_cache()


def library() -> dict[str, str]:
    """Return the versions of scib-metrics and JAX, ``{"scib-metrics": "0.5.10", "jax": …}``, those installed."""
    found = {}
    for name in ("scib-metrics", "jax"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
