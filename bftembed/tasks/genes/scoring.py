"""Scores of the test items of a plan to values: one for each fold, their mean and its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.metrics.classification import roc_auc, weighted_roc_auc
from bftembed.metrics.intervals import bootstrap_counts, percentile_interval, resampled_t_interval
from bftembed.tasks.genes.splits import N_FOLDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bftembed.tasks.genes.splits import Fold, Plan

#: Replicates of the bootstrap; of tasks with hundreds of labels fewer, for the time they take.
REPLICATES, REPLICATES_MULTILABEL = 1000, 200


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The values of one embedding."""

    #: ``"roc_auc"``, or ``"accuracy"`` of predicted classes.
    metric: str
    #: One for each fold; NaN where there is none.
    values: tuple[float, ...]
    #: The mean over folds for bootstrap samples of the genes, (n,); None where there are none.
    replicated: NDArray[np.float64] | None = None

    @property
    def mean(self) -> float:
        """Mean over the folds that have a value."""
        return _mean(self.values)

    def __sub__(self, other: Evaluation) -> Evaluation:
        values = tuple(a - b for a, b in zip(self.values, other.values, strict=True))
        paired = self.replicated is not None and other.replicated is not None
        return Evaluation(self.metric, values, self.replicated - other.replicated if paired else None)  # type: ignore[operator]

    def interval(self) -> tuple[float, float]:
        """Return the outer ends of two 95 % intervals of the mean: of the scored genes, and of the fits.

        The first is the percentile interval of the bootstrap over genes, whose models are not fitted again; the second
        the corrected resampled t interval of the folds.
        """
        if self.replicated is None:
            return math.nan, math.nan
        both = np.array([percentile_interval(self.replicated), resampled_t_interval(self.values, N_FOLDS)])
        both = both[~np.isnan(both).any(axis=1)]
        return (float(both[:, 0].min()), float(both[:, 1].max())) if len(both) else (math.nan, math.nan)


def evaluate(plan: Plan, scores: Sequence[NDArray[Any]], n_genes: int = 0, n: int = 0) -> Evaluation:
    """Return the value of each fold and, where `n_genes` is given, `n` replicates of their mean (0: the default)."""
    metric = "accuracy" if scores[0].dtype.kind == "i" else "roc_auc"
    values = tuple(fold_value(fold, s) for fold, s in zip(plan.folds, scores, strict=True))
    n = n or (REPLICATES_MULTILABEL if plan.folds[0].test_labels.ndim == 2 else REPLICATES)
    return Evaluation(metric, values, replicates(plan, scores, n_genes, n) if n_genes else None)


def fold_value(fold: Fold, scores: NDArray[Any]) -> float:
    """Return the score of one fold: ROC-AUC; the mean of it over labels; accuracy where `scores` are classes (int).

    Labels with one class in the test part are left out of the mean; NaN when none is left.
    """
    labels = fold.test_labels
    if labels.ndim == 2:
        return _mean([roc_auc(column, s) for column, s in zip(labels.T, scores.T, strict=True)])
    if scores.dtype.kind == "i":
        return float((scores == labels).mean())
    return roc_auc(labels, scores)


def replicates(plan: Plan, scores: Sequence[NDArray[Any]], n_genes: int, n: int, seed: int = 0) -> NDArray[np.float64]:
    """Return the mean over folds for n bootstrap samples of the genes, float64 (n,).

    Each replicate draws n_genes genes with replacement; an item counts as often as its gene was drawn, a pair as the
    product of its two (the pigeonhole bootstrap of Owen 2007, which is on the wide side). All folds, seeds and
    embeddings with equal `n_genes`, `n` and `seed` see the same draws: differences of two embeddings are paired.
    """
    counts = bootstrap_counts(n_genes, n, seed)
    found = []
    for fold, values in zip(plan.folds, scores, strict=True):
        weights = counts[:, fold.test_items[:, 0]].astype(np.float32)
        if fold.test_items.shape[1] == 2:
            weights *= counts[:, fold.test_items[:, 1]]
        found.append(_weighted(fold.test_labels, values, weights))
    return _mean_of(found)


def _weighted(labels: NDArray[Any], scores: NDArray[Any], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    if labels.ndim == 2:
        columns = zip(labels.T.astype(np.int8), scores.T, strict=True)
        return _mean_of([weighted_roc_auc(column, s, weights) for column, s in columns])
    if scores.dtype.kind == "i":
        n = weights.sum(axis=1, dtype=np.float64)
        return np.where(n > 0, weights @ (scores == labels) / np.maximum(n, 1), np.nan)
    return weighted_roc_auc(labels, scores, weights)


def _mean_of(found: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the mean of arrays without their NaN; NaN where all are."""
    values = np.stack(found)
    number = (~np.isnan(values)).sum(axis=0)
    return np.where(number > 0, np.nansum(values, axis=0) / np.maximum(number, 1), np.nan)


def node_propensity(fold: Fold) -> NDArray[np.float64]:
    """Score test pairs by the labels of the other test pairs of their genes, an upper bound that uses these labels.

    The mean label of the other pairs of each gene (the mean of the fold for a gene without others), added for both.
    Where this is near 1, the label is a property of single genes.
    """
    items, labels = fold.test_items, fold.test_labels.astype(float)
    n = int(items.max()) + 1
    ones = np.bincount(items.ravel(), np.repeat(labels, 2), n)
    pairs = np.bincount(items.ravel(), minlength=n)
    others = pairs[items] - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(others > 0, (ones[items] - labels[:, None]) / others, labels.mean())
    return share.sum(axis=1)


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if not np.isnan(v)]
    return float(np.mean(finite)) if finite else float("nan")
