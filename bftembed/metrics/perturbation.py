"""Scores of predicted perturbation effects, one per held-out condition: plain functions of arrays.

Names and definitions follow cell-eval and cell-eval2 (Arc Institute, MIT); where they differ it is said. A delta is the
mean expression (log1p) of a condition less that of the control cells of the same cell type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DISTANCES = ("l1", "cosine")
# A delta whose values differ by less than this has no direction: what is left is rounding.
_FLAT = 1e-12


def mean_absolute_error(predicted: NDArray[Any], true: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean absolute error over genes of each condition.

    Parameters
    ----------
    predicted, true
        (n_conditions, n_genes) expression, or deltas to the same control: the difference is the same.

    Returns
    -------
    numpy.ndarray
        float64 (n_conditions,), 0 at best.
    """
    return np.asarray(np.abs(predicted - true).mean(axis=1), dtype=np.float64)


def pearson_delta(predicted: NDArray[Any], true: NDArray[Any]) -> NDArray[np.float64]:
    """Return Pearson's correlation over genes of the predicted and the true delta of each condition.

    High for every predictor that knows the shift that all perturbations share: alone it says little.

    Parameters
    ----------
    predicted, true
        (n_conditions, n_genes) deltas.

    Returns
    -------
    numpy.ndarray
        float64 (n_conditions,) in [-1, 1]; NaN where one of the two is the same for every gene.
    """
    x = predicted - predicted.mean(axis=1, keepdims=True)
    y = true - true.mean(axis=1, keepdims=True)
    norms = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    flat = (np.abs(x).max(axis=1) <= _FLAT) | (np.abs(y).max(axis=1) <= _FLAT)
    return np.where(flat, np.nan, np.clip((x * y).sum(axis=1) / np.where(flat, 1.0, norms), -1, 1))


def discrimination(
    predicted: NDArray[Any], true: NDArray[Any], targets: Sequence[Sequence[int]], distance: str = "l1"
) -> NDArray[np.float64]:
    """Return the perturbation discrimination score: whether the true effect is nearest to its own prediction.

    For prediction i, all n true deltas are ranked by their distance to it; the score is ``1 - rank / (n - 1)`` with the
    rank of the true delta i from 0 and ties counted one half, so that nothing depends on the order of conditions. The
    genes that any of the n conditions targets are left out of all distances. This is ``pds_l1`` and ``pds_cosine`` of
    cell-eval2 0.20 with true controls. ``discrimination_score_l1`` of cell-eval 0.8 differs: it divides by n, breaks
    ties by position, and leaves out of row i the target of i alone (by name, which fails silently where the genes have
    lost their names), so that one prediction for all scores above chance.

    Parameters
    ----------
    predicted, true
        (n, n_genes) deltas of n conditions of one cell type.
    targets
        Columns of the genes that each condition targets; may be empty.
    distance
        ``"l1"``, or ``"cosine"`` (1 - cosine; 1 where a delta is zero).

    Returns
    -------
    numpy.ndarray
        float64 (n,) in [0, 1]; NaN for one condition, and where every gene is a target.

    Raises
    ------
    UnknownNameError
        For another distance.
    """
    if distance not in DISTANCES:
        raise unknown_name("distance", distance, DISTANCES)
    n, n_genes = true.shape
    kept = np.ones(n_genes, dtype=bool)
    kept[[column for columns in targets for column in columns]] = False
    if n < 2 or not kept.any():
        return np.full(n, np.nan)
    apart = (_l1 if distance == "l1" else _cosine)(predicted[:, kept], true[:, kept])
    own = np.diagonal(apart)[:, None]
    near = 1e-9 * np.maximum(np.abs(own), 1e-30)  # equal distances may differ by rounding
    closer, tied = apart < own - near, np.abs(apart - own) <= near
    ranks = closer.sum(axis=1) + (tied.sum(axis=1) - 1) / 2
    return np.asarray(1 - ranks / (n - 1), dtype=np.float64)


def discrimination_chance(n: int) -> float:
    """Return the expected discrimination score of a guess among n conditions: exactly 1/2, for every n of at least 2.

    It is the mean of ``1 - rank / (n - 1)`` over the ranks 0 to n - 1. NaN for fewer than two.
    """
    return 0.5 if n > 1 else np.nan


def _l1(predicted: NDArray[Any], true: NDArray[Any]) -> NDArray[np.float64]:
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(predicted, true, "cityblock"), dtype=np.float64)


def _cosine(predicted: NDArray[Any], true: NDArray[Any]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(predicted, axis=1)[:, None] * np.linalg.norm(true, axis=1)
    some = lengths > _FLAT
    return np.asarray(1 - np.where(some, predicted @ true.T / np.where(some, lengths, 1.0), 0.0), dtype=np.float64)


def welch_p_values(
    mean: NDArray[Any],
    variance: NDArray[Any],
    n: NDArray[Any] | int,
    control_mean: NDArray[Any],
    control_variance: NDArray[Any],
    control_n: int,
) -> NDArray[np.float64]:
    """Return two-sided p-values of Welch's t test of each gene, cells of a condition against control cells.

    Parameters
    ----------
    mean, variance
        (n_conditions, n_genes); the variance has the divisor n - 1.
    n
        (n_conditions, 1) cells.
    control_mean, control_variance, control_n
        (n_genes,), (n_genes,) and cells of the controls of the cell type.

    Returns
    -------
    numpy.ndarray
        float64 (n_conditions, n_genes); 1 where a group has fewer than two cells or neither varies.
    """
    from scipy.stats import t

    cells = np.broadcast_to(np.asarray(n, dtype=np.float64), mean.shape)
    enough = (cells > 1) & (control_n > 1)
    one = np.where(enough, variance / np.maximum(cells, 1), 0.0)
    other = control_variance / max(control_n, 1)
    pooled = one + other
    some = enough & (pooled > 0)
    freedom = one**2 / np.maximum(cells - 1, 1) + other**2 / max(control_n - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(some, np.abs(mean - control_mean) / np.sqrt(pooled), 0.0)
        freedom = np.where(some & (freedom > 0), pooled**2 / freedom, 1.0)
    return np.where(some, 2 * t.sf(statistic, freedom), 1.0)


def benjamini_hochberg(p_values: NDArray[Any]) -> NDArray[np.float64]:
    """Return adjusted p-values (false discovery rate) of each row, (n, n_genes), by Benjamini and Hochberg (1995)."""
    n = p_values.shape[1]
    order = np.argsort(p_values, axis=1, kind="stable")
    scaled = np.take_along_axis(p_values, order, axis=1) * n / np.arange(1, n + 1)
    falling = np.minimum.accumulate(scaled[:, ::-1], axis=1)[:, ::-1]
    adjusted = np.empty_like(falling)
    np.put_along_axis(adjusted, order, np.minimum(falling, 1.0), axis=1)
    return adjusted


def differential_genes(
    true: NDArray[Any], adjusted: NDArray[Any], top: int | None = None, level: float = 0.05
) -> list[NDArray[np.intp]]:
    """Return the truly changed genes of each condition: the largest changes, as many as are significant.

    By their size alone, not by size among the significant, for so the truth itself has an overlap of 1.

    Parameters
    ----------
    true, adjusted
        (n_conditions, n_genes) deltas and adjusted p-values.
    top
        At most so many of each condition.
    level
        Of significance.

    Returns
    -------
    list of numpy.ndarray
        Columns, rising.
    """
    n_significant = (adjusted < level).sum(axis=1)
    n_taken = n_significant if top is None else np.minimum(n_significant, top)
    order = np.argsort(-np.abs(true), axis=1, kind="stable")
    return [np.sort(row[:n]) for row, n in zip(order, n_taken, strict=True)]


def overlap(predicted: NDArray[Any], changed: Sequence[NDArray[np.intp]]) -> NDArray[np.float64]:
    """Return the share of the truly changed genes that are among as many genes of the largest predicted change.

    cell-eval's ``overlap_at_N`` compares two lists of significant genes, of true and of predicted cells, each ordered
    by the absolute fold change, and cuts both after N, the length of the true list. Here N is counted by
    Welch's t test in place of Wilcoxon's, and neither list is confined to significant genes: a predictor gives one mean
    per condition, no cells to test. A condition without a changed gene has no value here, 0 there.

    Parameters
    ----------
    predicted
        (n_conditions, n_genes) deltas, ordered by their absolute value; ties at the cut count in part, as in the mean
        over all ways to break them.
    changed
        From `differential_genes`.

    Returns
    -------
    numpy.ndarray
        float64 (n_conditions,) in [0, 1]; by chance the number of changed genes / n_genes; NaN for no changed gene.
    """
    scores = np.full(len(predicted), np.nan)
    for i, (row, genes) in enumerate(zip(np.abs(predicted), changed, strict=True)):
        n = len(genes)
        if n == 0:
            continue
        cut = np.partition(row, len(row) - n)[len(row) - n]
        above, at = row > cut, row == cut
        inside = (n - above.sum()) / at.sum()
        scores[i] = (above[genes].sum() + inside * at[genes].sum()) / n
    return scores
