"""Scores of predicted perturbation effects, one per held-out condition.

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
    """Return the mean absolute error over genes, float64 (n_conditions,), of expression or deltas to the same control.

    `predicted` and `true` are (n_conditions, n_genes).
    """
    return np.asarray(np.abs(predicted - true).mean(axis=1), dtype=np.float64)


def pearson_delta(predicted: NDArray[Any], true: NDArray[Any]) -> NDArray[np.float64]:
    """Return Pearson's correlation over genes of predicted and true deltas, both (n_conditions, n_genes).

    float64 (n_conditions,) in [-1, 1]; NaN where one of the two is constant. High for every predictor of the shift that
    all perturbations share: alone it says little.
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
    ties by position, and leaves out of row i the target of i alone, so that one prediction for all scores above chance.

    `predicted` and `true` are (n, n_genes) deltas of n conditions of one cell type, `targets` the columns of the genes
    that each condition targets, `distance` is ``"l1"`` or ``"cosine"`` (1 - cosine; 1 where a delta is zero). Returns
    float64 (n,) in [0, 1]; NaN for one condition, and where every gene is a target.
    """
    if distance not in DISTANCES:
        raise unknown_name("distance", distance, DISTANCES)
    n, n_genes = true.shape
    kept = np.ones(n_genes, dtype=bool)
    kept[[column for columns in targets for column in columns]] = False
    if n < 2 or not kept.any():
        return np.full(n, np.nan)
    if distance == "l1":
        from scipy.spatial.distance import cdist

        apart = cdist(predicted[:, kept], true[:, kept], "cityblock")
    else:
        one, other = predicted[:, kept], true[:, kept]
        lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)
        some = lengths > _FLAT
        apart = 1 - np.where(some, one @ other.T / np.where(some, lengths, 1.0), 0.0)
    own = np.diagonal(apart)[:, None]
    near = 1e-9 * np.maximum(np.abs(own), 1e-30)  # equal distances may differ by rounding
    closer, tied = apart < own - near, np.abs(apart - own) <= near
    ranks = closer.sum(axis=1) + (tied.sum(axis=1) - 1) / 2
    return np.asarray(1 - ranks / (n - 1), dtype=np.float64)


def discrimination_chance(n: int) -> float:
    """Return the expected discrimination score of a guess among n conditions: 1/2, NaN for fewer than two."""
    return 0.5 if n > 1 else np.nan


def welch_p_values(
    mean: NDArray[Any],
    variance: NDArray[Any],
    n: NDArray[Any] | int,
    control_mean: NDArray[Any],
    control_variance: NDArray[Any],
    control_n: int,
) -> NDArray[np.float64]:
    """Return two-sided p-values of Welch's t test of a condition against controls, float64 (n_conditions, n_genes).

    `mean` and `variance` (divisor n - 1) are (n_conditions, n_genes), `n` the cells (n_conditions, 1); those of the
    controls are (n_genes,), (n_genes,) and a number. 1 where a group has fewer than two cells or neither varies.
    """
    from scipy.stats import ttest_ind_from_stats

    n = np.asarray(n, dtype=np.float64)
    tested = (n > 1) & (control_n > 1) & ((variance > 0) | (control_variance > 0))
    own, control = (mean, np.sqrt(variance), n), (control_mean, np.sqrt(control_variance), control_n)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(tested, ttest_ind_from_stats(*own, *control, equal_var=False).pvalue, 1.0)


def differential_genes(
    true: NDArray[Any], p_values: NDArray[Any], top: int | None = None, level: float = 0.05
) -> list[NDArray[np.intp]]:
    """Return the changed genes of each condition, sorted columns: the largest changes, as many as are significant.

    By their size alone, not by size among the significant, so that the truth itself has an overlap of 1. `true` deltas
    and `p_values` are (n_conditions, n_genes); the latter are adjusted per condition (Benjamini and Hochberg 1995), and
    significant below `level`. At most `top` genes of a condition.
    """
    from scipy.stats import false_discovery_control

    n_significant = (false_discovery_control(p_values, axis=1) < level).sum(axis=1)
    n_taken = n_significant if top is None else np.minimum(n_significant, top)
    order = np.argsort(-np.abs(true), axis=1, kind="stable")
    return [np.sort(row[:n]) for row, n in zip(order, n_taken, strict=True)]


def overlap(predicted: NDArray[Any], changed: Sequence[NDArray[np.intp]]) -> NDArray[np.float64]:
    """Return the share of the truly changed genes that are among as many genes of the largest predicted change.

    As cell-eval's ``overlap_at_N``, with N counted by Welch's t test in place of Wilcoxon's, and neither list confined
    to significant genes: a predictor gives one mean per condition, no cells to test.

    `predicted` deltas are (n_conditions, n_genes), ordered by their absolute value; ties at the cut count in part, as
    in the mean over all ways to break them. `changed` is of `differential_genes`. float64 (n_conditions,) in [0, 1], by
    chance the number of changed genes / n_genes; NaN for no changed gene.
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
