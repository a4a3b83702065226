"""How much memory the integration metrics take, from the numbers of cells and dimensions alone."""

from __future__ import annotations

from bftembed.metrics.neighbours import EXACT_UP_TO

# Bytes of a cell, counted from the arrays that live at the same time; a test holds the sum to a measured peak.
_SEARCH, _APPROXIMATE_SEARCH, _GRAPH, _TEXT = 6_000, 16_000, 5_000, 250


def integration_memory(n_cells: int, n_dimensions: int, n_labels: int = 50, *, k: int = 90) -> dict[str, int]:
    """Return the bytes that scoring one embedding takes besides the embedding itself: part → bytes, in order of use.

    Parameters
    ----------
    n_cells, n_dimensions
        Shape of the embedding.
    n_labels
        Number of labels: k-means holds a distance of each cell to each of as many centres.
    k
        Neighbours of each cell.

    Returns
    -------
    dict
        ``"labels"``, ``"copy of the embedding"``, ``"neighbours"`` and ``"LISI weights"`` are held while an embedding
        is scored; ``"temporary"`` is the most that the search for neighbours, the graph of kBET, the silhouette or
        k-means take at a time.
    """
    matrix = 8 * n_cells * n_dimensions
    search = n_cells * (_SEARCH if n_cells <= EXACT_UP_TO else _APPROXIMATE_SEARCH) * k // 90 + matrix
    return {
        "labels": _TEXT * n_cells,
        "copy of the embedding": matrix,
        "neighbours": 8 * k * n_cells,
        "LISI weights": 4 * (k - 1) * n_cells,
        "temporary": max(search, _GRAPH * n_cells, matrix, matrix + 12 * n_labels * n_cells),
    }
