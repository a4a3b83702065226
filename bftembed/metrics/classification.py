"""Area under the ROC curve, with weights of the items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Numbers in a block of (replicates × items): 32 MB of float64.
_BLOCK = 4_000_000
# A class of so few items is compared with the other pair by pair.
_FEW = 64


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve, in [0, 1]: the chance that a positive is above a negative, ties one half.

    `labels` (n,) are 0 or 1, `scores` (n,) finite numbers, of which only the order counts. NaN where a class is empty.
    """
    return float(weighted_roc_auc(labels, scores, np.ones((1, len(np.atleast_1d(labels)))))[0])


def weighted_roc_auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """Return the area under the ROC curve for several weightings of the same items, as `roc_auc` for one.

    `weights` are (n_replicates, n) numbers of at least 0, for example how often a bootstrap drew each item. Returns
    float64 (n_replicates,), NaN where a class has no weight.
    """
    y, s, w = np.asarray(labels), np.asarray(scores), np.asarray(weights)
    if y.ndim != 1 or y.shape != s.shape:
        raise ValueError(f"labels and scores have shapes {y.shape} and {s.shape}; expected one number each, (n,).")
    if not np.isin(y, (0, 1)).all():
        raise ValueError("labels are 0 or 1.")
    if not np.isfinite(s).all():
        raise ValueError(f"{int((~np.isfinite(s)).sum())} of {len(s)} scores are not finite.")
    if w.ndim != 2 or w.shape[1] != len(y):
        raise ValueError(f"weights have shape {w.shape}, expected (n_replicates, {len(y)}).")
    if not len(y):
        return np.full(len(w), np.nan)
    if 0 < min(int((y == 1).sum()), int((y == 0).sum())) <= _FEW:
        return _by_pairs(y == 1, s, w)
    order = np.argsort(s, kind="stable")
    positive = y[order] == 1
    starts = np.flatnonzero(np.r_[True, np.diff(s[order]) > 0])  # of each group of equal scores
    found = np.empty(len(w))
    step = max(1, _BLOCK // len(y))
    for first in range(0, len(w), step):
        block = w[first : first + step][:, order].astype(np.float64)
        ones = np.add.reduceat(np.where(positive, block, 0.0), starts, axis=1)
        zeros = np.add.reduceat(np.where(positive, 0.0, block), starts, axis=1)
        below = np.cumsum(zeros, axis=1)
        pairs = ones.sum(axis=1) * below[:, -1]
        won = (ones * (below - zeros / 2)).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[first : first + step] = np.where(pairs > 0, won / pairs, np.nan)
    return found


def _by_pairs(positive: NDArray[np.bool_], scores: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float64]:
    """Compare each positive with each negative; where one class is small this is less work than sorting all weights."""
    if positive.sum() > len(positive) / 2:  # then negatives above positives are counted instead
        return _by_pairs(~positive, -scores, weights)
    of_few = weights[:, positive].astype(np.float64)
    few = scores[positive][:, None]
    won = np.where(positive, 0.0, (few > scores) + 0.5 * (few == scores))
    sums = np.einsum("ij,ij->i", of_few @ won, weights)
    ones = of_few.sum(axis=1)
    pairs = ones * (weights.sum(axis=1, dtype=np.float64) - ones)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, sums / pairs, np.nan)
