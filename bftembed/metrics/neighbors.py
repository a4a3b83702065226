"""The nearest neighbors of every cell: found once at the largest k, shared by every metric that asks for fewer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.metrics.checks import Undefined, checked_matrix

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: Cells up to which neighbors are exact. The time of the exact search grows with the square of the number of cells.
EXACT_UP_TO = 100_000
# Candidates beyond k, so that a near-tie at the last place is seen and settled.
_SPARE = 8
# Numbers of a block of candidates or of distances: 32 MB.
_BLOCK = 4_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbors:
    """The k nearest neighbors of each of n cells; the first is the cell itself, at distance 0.

    That is the convention of scib-metrics 0.5 (``NeighborsResults``), whose "15 neighbors" are 14 others. In 0.6 a
    cell is no longer its own neighbor.

    Attributes
    ----------
    indices
        int32, shape ``(n_cells, k)``: rows, from the nearest to the farthest.
    distances
        float32, shape ``(n_cells, k)``: Euclidean, at least 0, growing along each row.
    """

    indices: NDArray[np.int32]
    distances: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Refuse arrays that are no neighbors, such as those of a library that leaves out the cell itself."""
        if self.indices.ndim != 2 or self.indices.shape != self.distances.shape or not self.indices.size:
            raise ValueError(
                f"Indices {self.indices.shape} and distances {self.distances.shape} must both be (n_cells, k)."
            )
        if self.indices.min() < 0 or self.indices.max() >= len(self.indices):
            raise ValueError(f"Neighbors of {len(self.indices)} cells must be rows 0 to {len(self.indices) - 1}.")
        other = self.indices[:, 0] != np.arange(len(self.indices))
        if other.any():
            raise ValueError(
                f"The first neighbor of {int(other.sum())} cells is not the cell itself (first: row "
                f"{int(other.argmax())}). Put each cell before its neighbors, at distance 0."
            )

    @property
    def k(self) -> int:
        """Number of neighbors of each cell, itself included."""
        return int(self.indices.shape[1])

    def subset(self, k: int) -> Neighbors:
        """Return the `k` nearest of the neighbors.

        Raises
        ------
        ValueError
            When there are fewer than `k`, or k < 1.
        """
        if not 1 <= k <= self.k:
            raise ValueError(f"{k} neighbors were asked for, of {self.k} that were found.")
        return Neighbors(self.indices[:, :k], self.distances[:, :k])


def nearest_neighbors(X: ArrayLike, k: int, *, exact_up_to: int = EXACT_UP_TO) -> Neighbors:
    """Find the `k` nearest neighbors of every cell, Euclidean, the cell itself first.

    Exact up to `exact_up_to` cells: distances by blocks of a float64 matrix product, and where two distances are within
    its rounding error they are computed again as sums of squared differences, so that duplicates and ties come in the
    order of their rows on every machine. Beyond, NN-descent (pynndescent, seed 0, one thread, the settings of
    scib-metrics): approximate, and so are the metrics made of it.

    Parameters
    ----------
    X
        Embedding, shape ``(n_cells, d)``, finite. All-zero rows are points like others.
    k
        Neighbors of each cell, itself included, 1 to n_cells.
    exact_up_to
        Number of cells up to which the neighbors are exact.

    Raises
    ------
    ValueError
        For a matrix that is broken, or k < 1; `Undefined` for fewer cells than k.
    """
    matrix = checked_matrix(X, zero_rows=True)
    if k < 1:
        raise ValueError(f"k = {k} neighbors: at least 1 is needed, the cell itself.")
    if k > len(matrix):
        raise Undefined(f"{k} neighbors of {len(matrix)} cells: there are fewer cells than neighbors.")
    if len(matrix) > exact_up_to:
        return approximate_neighbors(matrix, k)
    return Neighbors(*_exact(matrix, k))


def _exact(matrix: NDArray[Any], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    from sklearn.neighbors import NearestNeighbors

    n, d = matrix.shape
    cells = matrix - np.median(matrix, axis=0).astype(np.float64)
    candidates = min(n, k + _SPARE)
    search = NearestNeighbors(n_neighbors=candidates, algorithm="brute").fit(cells)
    distances, indices = search.kneighbors(cells)
    # How far a squared distance by the matrix product may be from the true one.
    norms = np.linalg.norm(cells, axis=1)
    error = 1e-15 * (d + 8) * (norms + distances[:, -1] + norms) ** 2
    with np.errstate(over="ignore"):
        squares = distances**2
    unsure = np.flatnonzero((np.diff(squares, axis=1) <= 2 * error[:, None]).any(axis=1))
    step = max(1, _BLOCK // (candidates * d))
    for start in range(0, len(unsure), step):
        rows = unsure[start : start + step]
        found, exact = indices[rows], np.empty((len(rows), candidates))
        difference = cells[found] - cells[rows, None]
        np.sqrt(np.einsum("ijk,ijk->ij", difference, difference, out=exact), out=exact)
        exact[found == rows[:, None]] = -1  # the cell itself before its duplicates
        order = np.lexsort((found, exact), axis=1)
        indices[rows] = np.take_along_axis(found, order, axis=1)
        distances[rows] = np.take_along_axis(exact, order, axis=1)
    if candidates < n and len(unsure):
        # Sure only where the k-th lies nearer than anything that the search left out.
        tied = unsure[distances[unsure, k - 1] ** 2 + error[unsure] >= squares[unsure, -1]]
        _settle(cells, tied, indices, distances, k)
    indices[:, 0], distances[:, 0] = np.arange(n), 0
    return indices[:, :k].astype(np.int32), distances[:, :k].astype(np.float32)


def _settle(
    cells: NDArray[np.float64], rows: NDArray[Any], indices: NDArray[Any], distances: NDArray[Any], k: int
) -> None:
    """Find the first `k` neighbors of some rows among all cells, by differences; ties in the order of the rows."""
    from scipy.spatial.distance import cdist

    step = max(1, _BLOCK // len(cells))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        to_all = cdist(cells[block], cells)
        to_all[np.arange(len(block)), block] = -1
        for row, values in zip(block, to_all, strict=True):
            last = np.partition(values, k - 1)[k - 1]
            nearer = np.flatnonzero(values < last)
            chosen = np.r_[nearer, np.flatnonzero(values == last)[: k - len(nearer)]]
            order = np.lexsort((chosen, values[chosen]))
            indices[row, :k], distances[row, :k] = chosen[order], values[chosen][order]


def approximate_neighbors(matrix: NDArray[Any], k: int) -> Neighbors:
    """Find neighbors by `descent`, and put the cell itself first, which a duplicate may precede.

    Parameters
    ----------
    matrix
        Shape ``(n_cells, d)``, finite.
    k
        Neighbors of each cell, itself included, 1 to n_cells.
    """
    indices, distances = descent(matrix, k)
    itself = indices == np.arange(len(matrix))[:, None]
    place = np.where(itself.any(axis=1), itself.argmax(axis=1), k - 1)  # of a cell that was missed: the last
    for row in np.flatnonzero(place > 0):
        stop = place[row]
        indices[row, 1 : stop + 1], distances[row, 1 : stop + 1] = indices[row, :stop], distances[row, :stop]
    indices[:, 0], distances[:, 0] = np.arange(len(matrix)), 0
    return Neighbors(indices, distances)


def descent(matrix: NDArray[Any], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return indices and distances by NN-descent (Dong, Moses and Li 2011), with the settings of scib-metrics.

    Shapes ``(n_cells, k)``, as pynndescent gives them: index -1 where it found too few.
    """
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
    return indices.astype(np.int32), distances.astype(np.float32)
