"""The silhouette, exact and in little memory, and the scIB scores that are made of it. Arrays in, arrays out.

Euclidean distances are computed tile by tile: both directions are cut, so no more than a few megabytes of them exist at
a time. Everything is float64. In float32 a distance of 0 between duplicate cells comes out as 3e-4 of their norm, which
no later sum repairs, and the tiles are small enough that float64 costs only 1.6 times as much.

Cosine distances need no pairs at all: the sum of 1 - u·v over the cells v of a label is their number less u·(sum of v).
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bftembed.machine import usable_cores
from bftembed.metrics.checks import Undefined, checked_codes, checked_matrix, need_two

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

Metric = Literal["euclidean", "cosine"]

# One tile of float64 distances, 512 x 512: it stays in the cache of a core through all the passes over it.
BLOCK_BYTES = 2 << 20
# Numbers of a block of cells in float64: 4 MB.
_BLOCK = 500_000


def silhouette_samples(
    X: ArrayLike,
    labels: ArrayLike,
    *,
    metric: Metric = "euclidean",
    block_bytes: int = BLOCK_BYTES,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Return the raw silhouette of every cell under its label, in [-1, 1] (Rousseeuw 1987).

    ``s = (b - a) / max(a, b)``, a the mean distance to the other cells of the label, b the smallest mean distance to
    the cells of another label; 0 for a label of one cell, and where a = b = 0. This is the value of GenePT-style
    tables; scIB rescales it, see `silhouette_label`. Equals ``sklearn.metrics.silhouette_samples``.

    Parameters
    ----------
    X
        Embedding, shape ``(n_cells, d)``, finite, without all-zero rows.
    labels
        Label of each cell, shape ``(n_cells,)``, none missing; 2 to n_cells - 1 distinct ones.
    metric
        Distance: ``"euclidean"`` takes time n_cells² · d, ``"cosine"`` n_cells · n_labels · d.
    block_bytes
        Size of a tile of distances. Each thread holds one, so the memory is that of the embedding and its copy in the
        order of the labels, whatever the number of cells.
    threads
        How many tiles are computed side by side; None for one per core. Neither number changes the values.

    Returns
    -------
    ndarray of float64, shape ``(n_cells,)``

    Raises
    ------
    ValueError
        For a matrix or labels that are broken; `Undefined` for one label, or one per cell. The message says which.
    """
    if metric not in ("euclidean", "cosine"):
        raise ValueError(f"metric = {metric!r} is unknown; known: 'euclidean', 'cosine'.")
    matrix = checked_matrix(X)
    codes = checked_codes(labels, n_cells=len(matrix))
    if need_two(codes, "label", "a silhouette") == len(matrix):
        raise Undefined("Every cell has a label of its own: a silhouette needs a label with two cells.")
    return _samples(matrix, codes, metric, block_bytes, threads)


def silhouette_label(X: ArrayLike, labels: ArrayLike, *, samples: ArrayLike | None = None) -> float:
    """Return the silhouette label score of scIB (Luecken et al. 2022): the mean of ``(s + 1) / 2``, in [0, 1].

    Parameters
    ----------
    X, labels
        As in `silhouette_samples`; Euclidean.
    samples
        The result of ``silhouette_samples(X, labels)`` where it is at hand, shape ``(n_cells,)``.

    Raises
    ------
    ValueError
        As `silhouette_samples`.
    """
    values = silhouette_samples(X, labels) if samples is None else np.asarray(samples)
    return float((values.mean() + 1) / 2)


def silhouette_batch(X: ArrayLike, labels: ArrayLike, batches: ArrayLike) -> float:
    """Return the silhouette batch score of scIB (Luecken et al. 2022), in [0, 1], higher where batches mix.

    Within each label, s is the Euclidean silhouette of its cells under their *batch*; ``1 - |s|`` is averaged within
    the label, then over labels. A label with one batch, or with as many batches as cells, is left out.

    Parameters
    ----------
    X
        Embedding, shape ``(n_cells, d)``, finite, without all-zero rows.
    labels, batches
        Label and batch of each cell, shape ``(n_cells,)``, none missing.

    Raises
    ------
    ValueError
        For a matrix, labels or batches that are broken; `Undefined` when no label counts.
    """
    matrix = checked_matrix(X)
    of_label = checked_codes(labels, n_cells=len(matrix))
    of_batch = checked_codes(batches, "batches", n_cells=len(matrix))
    need_two(of_batch, "batch", "the silhouette of batches")
    scores = []
    for cells in _cells_of(of_label):
        _, within = np.unique(of_batch[cells], return_inverse=True)
        if 1 < within.max() + 1 < len(cells):
            scores.append(1 - np.abs(_samples(matrix[cells], within, "euclidean")).mean())
    if not scores:
        raise Undefined(NO_MIXED_LABEL)
    return float(np.mean(scores))


#: Why a score of batches within labels has no value.
NO_MIXED_LABEL = "No label has two batches, and more cells than batches: batches cannot be compared within a label."


def bras(X: ArrayLike, labels: ArrayLike, batches: ArrayLike) -> float:
    """Return the batch removal adapted silhouette (Rautenstrauch and Ohler 2025), in [0, 1], higher where batches mix.

    Within each label, with cosine distances: a the mean distance to the other cells of the batch, b the mean distance
    to all cells of the other batches, ``s = (b - a) / max(a, b)``, 0 for a cell alone in its batch. ``1 - |s|`` is
    averaged within the label, then over labels. A label with one batch, or with as many batches as cells, is left out.

    For unit vectors the distances of u to a set sum to its size less u·(sum of the set), so two passes over the cells
    take the place of all pairs: time n_cells · d, and memory for the cells in float64 only block by block.

    Parameters
    ----------
    X
        Embedding, shape ``(n_cells, d)``, finite, without all-zero rows.
    labels, batches
        Label and batch of each cell, shape ``(n_cells,)``, none missing.

    Raises
    ------
    ValueError
        For a matrix, labels or batches that are broken; `Undefined` when no label counts.
    """
    matrix = checked_matrix(X)
    of_label = checked_codes(labels, n_cells=len(matrix))
    of_batch = checked_codes(batches, "batches", n_cells=len(matrix))
    n_batches = need_two(of_batch, "batch", "BRAS")
    # A group is a batch within a label; groups are numbered label by label.
    pairs, group = np.unique(of_label * n_batches + of_batch, return_inverse=True)
    label_of = pairs // n_batches
    size, size_of_label = np.bincount(group), np.bincount(of_label)
    n_groups = np.bincount(label_of)
    counts = (n_groups > 1) & (n_groups < size_of_label)
    if not counts.any():
        raise Undefined(NO_MIXED_LABEL)

    order = np.argsort(group, kind="stable")
    sums = np.zeros((len(pairs), matrix.shape[1]))
    for rows, units in _unit_blocks(matrix, order):
        starts = np.flatnonzero(np.r_[True, np.diff(group[rows]) > 0])
        sums[group[rows[starts]]] += np.add.reduceat(units, starts, axis=0)
    sums_of_label = np.add.reduceat(sums, np.flatnonzero(np.r_[True, np.diff(label_of) > 0]), axis=0)

    score = np.zeros(len(n_groups))
    for rows, units in _unit_blocks(matrix, order):
        g, label = group[rows], of_label[rows]
        to_group = size[g] - _dot(units, sums, g)  # its own distance, 0, included
        to_others = size_of_label[label] - _dot(units, sums_of_label, label) - to_group
        within = cosine_distance(to_group / np.maximum(size[g] - 1, 1))
        other = cosine_distance(to_others / np.maximum(size_of_label[label] - size[g], 1))
        score += np.bincount(label, 1 - np.abs(width(within, other, size[g] == 1)), minlength=len(score))
    return float((score[counts] / size_of_label[counts]).mean())


def isolated_labels(X: ArrayLike, labels: ArrayLike, batches: ArrayLike, *, samples: ArrayLike | None = None) -> float:
    """Return the isolated label score of scib-metrics, in [0, 1]: how well rare labels lie apart.

    A label is isolated when it occurs in at most as many batches as the label with the fewest. The score is the mean,
    over isolated labels, of the mean ``(s + 1) / 2`` of their cells, s the Euclidean silhouette under all labels.

    When every label occurs in equally many batches all are isolated, and the score is that of all labels alike (the
    original scib has no value there).

    Parameters
    ----------
    X
        Embedding, shape ``(n_cells, d)``, finite, without all-zero rows.
    labels, batches
        Label and batch of each cell, shape ``(n_cells,)``, none missing.
    samples
        The result of ``silhouette_samples(X, labels)`` where it is at hand, shape ``(n_cells,)``.

    Raises
    ------
    ValueError
        As `silhouette_samples`, and for broken batches.
    """
    values = silhouette_samples(X, labels) if samples is None else np.asarray(samples)
    of_label = checked_codes(labels, n_cells=len(values))
    of_batch = checked_codes(batches, "batches", n_cells=len(values))
    pairs = np.unique(np.stack([of_label, of_batch]), axis=1)
    n_batches = np.bincount(pairs[0])
    means = np.bincount(of_label, (values + 1) / 2) / np.bincount(of_label)
    return float(means[n_batches == n_batches.min()].mean())


def _cells_of(codes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])


def _samples(
    matrix: NDArray[Any],
    codes: NDArray[np.int64],
    metric: Metric,
    block_bytes: int = BLOCK_BYTES,
    threads: int | None = None,
) -> NDArray[np.float64]:
    from threadpoolctl import threadpool_limits

    order = np.argsort(codes, kind="stable")
    own, counts = codes[order], np.bincount(codes)
    cells = matrix[order]  # every label a range of rows
    side = max(1, math.isqrt(block_bytes // 8))
    # With very many labels the sums per label would outgrow the tile.
    height = max(1, min(side, block_bytes // (8 * len(counts))))
    if metric == "cosine":
        cells = unit_rows(cells)
        means_of_label = np.add.reduceat(cells, np.cumsum(counts) - counts, axis=0) / counts[:, None]
    found = np.empty(len(cells))

    def score(start: int) -> None:
        rows = slice(start, min(start + height, len(cells)))
        if metric == "cosine":
            means = cosine_distance(1 - cells[rows] @ means_of_label.T)
        else:
            means = _distance_sums(cells, own, rows, side) / counts
        found[order[rows]] = _silhouette(means, own[rows], counts)

    # Threads over tiles, not within: products as small as a tile's are slower on two cores than on one.
    with threadpool_limits(limits=1), ThreadPoolExecutor(threads or usable_cores()) as pool:
        list(pool.map(score, range(0, len(cells), height)))
    return found


def _distance_sums(cells: NDArray[Any], own: NDArray[np.int64], rows: slice, side: int) -> NDArray[np.float64]:
    """Return the sums of the distances of some rows to the cells of each label, (n_rows, n_labels)."""
    # The squared distance is a difference of squared norms: small ones, and so an exact difference, near the rows.
    # The median, because one far cell would draw the mean away from all others.
    centre = np.median(cells[rows], axis=0)
    left = cells[rows] - centre.astype(np.float64)
    # Norms less the rounding error of a product, so that duplicates come out below 0, and the clamp makes that 0.
    slack = 1 - 1e-15 * math.sqrt(cells.shape[1])
    # (-2x, |x|², 1)·(y, 1, |y|²) = |x - y|²: one product in place of a product and two additions.
    left = np.column_stack([-2 * left, slack * np.einsum("ij,ij->i", left, left), np.ones(len(left))])
    sums = np.zeros((len(left), int(own[-1]) + 1))
    for start in range(0, len(cells), side):
        right = cells[start : start + side] - centre.astype(np.float64)
        norms = slack * np.einsum("ij,ij->i", right, right)
        tile = left @ np.column_stack([right, np.ones(len(right)), norms]).T
        np.sqrt(np.maximum(tile, 0, out=tile), out=tile)
        same = np.arange(max(rows.start, start), min(rows.stop, start + len(right)))
        tile[same - rows.start, same - start] = 0
        columns = own[start : start + side]
        firsts = np.flatnonzero(np.r_[True, np.diff(columns) > 0])
        sums[:, columns[firsts]] += np.add.reduceat(tile, firsts, axis=1)
    return sums


def unit_rows(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the rows in float64 and of length 1."""
    scaled = rows.astype(np.float64)
    if rows.dtype == np.float64:  # the square of a float32 always fits
        scaled /= np.abs(scaled).max(axis=1, keepdims=True)
    scaled /= np.sqrt(np.einsum("ij,ij->i", scaled, scaled))[:, None]
    return scaled


def _silhouette(means: NDArray[np.float64], own: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the silhouettes from the mean distances to all cells of each label, the cell itself among its own."""
    rows, n = np.arange(len(means)), counts[own]
    within = means[rows, own] * (n / np.maximum(n - 1, 1))
    means[rows, own] = np.inf
    return width(within, means.min(axis=1), n == 1)


def _unit_blocks(
    matrix: NDArray[Any], order: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    step = max(1, _BLOCK // matrix.shape[1])
    for start in range(0, len(order), step):
        rows = order[start : start + step]
        yield rows, unit_rows(matrix[rows])


def _dot(units: NDArray[np.float64], sums: NDArray[np.float64], sorted_codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the product of each row with the sum that belongs to it."""
    found = np.empty(len(units))
    edges = np.flatnonzero(np.r_[True, np.diff(sorted_codes) > 0, True])
    for start, stop in itertools.pairwise(edges):
        # Not BLAS: on a product this thin its threads spend twice the time waiting for each other.
        found[start:stop] = np.einsum("ij,j->i", units[start:stop], sums[sorted_codes[start]])
    return found


def cosine_distance(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return mean cosine distances with 0 for what is rounding error alone (an angle of a millionth)."""
    return np.where(mean < 1e-12, 0.0, mean)


def width(within: NDArray[Any], other: NDArray[Any], alone: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return ``(other - within) / max(within, other)``: 0 for a cell that is alone, and where both are 0."""
    largest = np.maximum(within, other)
    found = np.zeros(len(largest))
    np.divide(other - within, largest, out=found, where=(largest > 0) & ~alone)
    return found
