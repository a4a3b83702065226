"""kBET per label as scib-metrics computes it, with the chi-square test outside JAX and the eigenvectors repeatable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.metrics.checks import Undefined, checked_codes, need_two
from bftembed.metrics.leiden import connectivities
from bftembed.metrics.neighbors import nearest_neighbors

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from bftembed.metrics.neighbors import Neighbors

_ALPHA = 0.05
_COMPONENTS = 100
_FEWEST_CELLS = 10


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
        if len(cells) < _FEWEST_CELLS or len(sizes) == 1:
            continue
        k = min(70, max(10, int(sizes.mean() / 4)))
        kept = _connected(graph[cells][:, cells], k)
        if not len(kept):
            scores.append(0.0)
            continue
        components = min(components, len(kept) - 1)
        scores.append(_acceptance(graph[cells[kept]][:, cells[kept]], of_batch[cells[kept]], k, components))
    if not scores:
        raise Undefined(f"No label has two batches and at least {_FEWEST_CELLS} cells: kBET compares within labels.")
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
