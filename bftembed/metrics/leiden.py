"""The graph of neighbors, and Leiden's clusters of it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bftembed.metrics.neighbors import Neighbors

#: Resolutions that are tried where the best is taken: those of scib and scib-metrics.
RESOLUTIONS = tuple(step / 5 for step in range(1, 11))
#: Bisections, at most, of the search for a number of clusters.
_STEPS = 20


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
