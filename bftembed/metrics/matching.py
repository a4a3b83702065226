"""Agreement of two modalities of the same cells: FOSCTTM, and the share of correct matches.

Distances are Euclidean; of vectors of length 1 these rank as cosine distances do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bftembed.metrics.clustering import checked_codes, checked_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

# Numbers of a block of distances: 32 MB.
_BLOCK = 4_000_000


def matching_scores(X: ArrayLike, Y: ArrayLike, labels: ArrayLike, among: Sequence[int] = (1, 10)) -> dict[str, float]:
    """Compare the distance of each cell to its partner with those to all cells of the other modality.

    All scores are means over cells and both directions. Distances within the rounding error of each other are ties.

    Parameters
    ----------
    X, Y
        Vectors of the same cells in the two modalities, both ``(n_cells, d)``, finite, without all-zero rows; row i of
        both is one cell.
    labels
        Label of each cell, shape ``(n_cells,)``, none missing.
    among
        Numbers k of nearest cells among which a partner counts as found, at least 1.

    Returns
    -------
    dict
        ``"foscttm"``: fraction of samples closer than the true match, 0 where every partner is the closest, .5 by
        chance, one as close counted half (Liu et al. 2019, MMD-MA; by this name in Singh et al. 2020, SCOT).
        ``"matching_accuracy"``, ``"matching_accuracy_10"``, …: share of cells whose partner is among the k nearest,
        k / n_cells by chance; of a partner that ties over the k-th place its chance of a place.
        ``"label_matching_accuracy"``: share whose nearest cell has their label, as MaxFuse (Chen et al. 2023) reports
        it; by chance `chance_of_a_label`. NaN where there are fewer cells than k, or 2 for FOSCTTM.
    """
    one, other = checked_matrix(X), checked_matrix(Y)
    if one.shape != other.shape:
        raise ValueError(f"The modalities have shapes {one.shape} and {other.shape}: row i of both must be one cell.")
    codes, n = checked_codes(labels, n_cells=len(one)), len(one)
    # By a power of two, so that no square leaves the range of float64.
    scale = 2.0 ** -int(np.ceil(np.log2(max(float(np.abs(one).max()), float(np.abs(other).max())))))
    both = one.astype(np.float64) * scale, other.astype(np.float64) * scale
    closer, tied, same = (np.concatenate(x) for x in zip(_ranks(*both, codes), _ranks(*both[::-1], codes), strict=True))
    scores = {"foscttm": float((closer + tied / 2).mean() / (n - 1)) if n > 1 else np.nan}
    for k in among:
        found = float(np.clip((k - closer) / (tied + 1), 0, 1).mean()) if k <= n else np.nan
        scores["matching_accuracy" if k == 1 else f"matching_accuracy_{k}"] = found
    return scores | {"label_matching_accuracy": float(same.mean())}


def chance_of_a_label(labels: ArrayLike) -> float:
    """Return the label matching accuracy of random matches: the sum of the squared shares of the labels."""
    shares = np.bincount(checked_codes(labels)) / len(np.asarray(labels))
    return float(shares @ shares)


def _ranks(
    X: NDArray[np.float64], Y: NDArray[np.float64], codes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return of each row of X how many of Y are closer than its partner, how many others tie, and the label's share."""
    center = Y.mean(axis=0)
    ours, theirs = X - center, Y - center
    squares, their_squares = (np.einsum("ij,ij->i", m, m) for m in (ours, theirs))
    # Of the product, and of the center that was taken off.
    sizes = np.sqrt(squares) + np.sqrt(their_squares.max()) + np.linalg.norm(center)
    errors = 1e-15 * (X.shape[1] + 8) * sizes[:, None] ** 2
    closer, tied = np.empty(len(X), dtype=np.int64), np.empty(len(X), dtype=np.int64)
    same = np.empty(len(X))
    step = max(1, _BLOCK // len(Y))
    for start in range(0, len(X), step):
        rows = np.arange(start, min(start + step, len(X)))
        distances = ours[rows] @ theirs.T
        distances *= -2
        distances += squares[rows, None]
        distances += their_squares
        nearest = distances <= distances.min(axis=1, keepdims=True) + 2 * errors[rows]
        same[rows] = (nearest & (codes[rows, None] == codes)).sum(axis=1) / nearest.sum(axis=1)
        distances -= distances[np.arange(len(rows)), rows][:, None]
        closer[rows] = (distances < -errors[rows]).sum(axis=1)
        tied[rows] = (np.abs(distances, out=distances) <= errors[rows]).sum(axis=1) - 1  # the partner ties with itself
    return closer, tied, same
