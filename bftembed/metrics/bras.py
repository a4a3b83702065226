"""BRAS, the batch score that replaced the silhouette of batches, in linear time."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.metrics.checks import Undefined, checked_codes, checked_matrix, need_two
from bftembed.metrics.silhouette import NO_MIXED_LABEL, cosine_distance, unit_rows, width

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

# Numbers of a block of cells in float64: 4 MB.
_BLOCK = 500_000


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
