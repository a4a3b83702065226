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

# Replicates of the bootstrap; of tasks with hundreds of labels fewer, for the time they take.
_REPLICATES, _REPLICATES_MULTILABEL = 1000, 200


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The values of one embedding.

    `metric` is ``"roc_auc"``, or ``"accuracy"`` of predicted classes; `values` has one for each fold, NaN where there
    is none; `replicated` is the mean over folds for bootstrap samples of the genes, (n,), or None.
    """

    metric: str
    values: tuple[float, ...]
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
    values = tuple(_fold_value(fold, s) for fold, s in zip(plan.folds, scores, strict=True))
    n = n or (_REPLICATES_MULTILABEL if plan.folds[0].test_labels.ndim == 2 else _REPLICATES)
    return Evaluation(metric, values, _replicates(plan, scores, n_genes, n) if n_genes else None)


def _fold_value(fold: Fold, scores: NDArray[Any]) -> float:
    """Return ROC-AUC, its mean over the labels that have both classes, or accuracy where `scores` are classes (int)."""
    labels = fold.test_labels
    if labels.ndim == 2:
        return _mean([roc_auc(column, s) for column, s in zip(labels.T, scores.T, strict=True)])
    if scores.dtype.kind == "i":
        return float((scores == labels).mean())
    return roc_auc(labels, scores)


def _replicates(plan: Plan, scores: Sequence[NDArray[Any]], n_genes: int, n: int, seed: int = 0) -> NDArray[np.float64]:
    """Return the mean over folds for n bootstrap samples of the genes, float64 (n,).

    An item counts as often as its gene was drawn, a pair as the product of its two (the pigeonhole bootstrap of Owen
    2007). Equal `n_genes`, `n` and `seed` give the same draws: differences of two embeddings are paired.
    """
    counts = bootstrap_counts(n_genes, n, seed)
    found = []
    for fold, values in zip(plan.folds, scores, strict=True):
        labels, weights = fold.test_labels, counts[:, fold.test_items].astype(np.float32).prod(axis=2)
        if labels.ndim == 2:
            columns = zip(labels.T.astype(np.int8), values.T, strict=True)
            found.append(_mean_of([weighted_roc_auc(column, s, weights) for column, s in columns]))
        elif values.dtype.kind == "i":
            total = weights.sum(axis=1, dtype=np.float64)
            right = weights @ (values == labels)
            found.append(np.divide(right, total, out=np.full(n, np.nan), where=total > 0))
        else:
            found.append(weighted_roc_auc(labels, values, weights))
    return _mean_of(found)


def _mean_of(found: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the mean of arrays without their NaN; NaN where all are."""
    values = np.stack(found)
    number = (~np.isnan(values)).sum(axis=0)
    return np.where(number > 0, np.nansum(values, axis=0) / np.maximum(number, 1), np.nan)


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if not np.isnan(v)]
    return float(np.mean(finite)) if finite else math.nan
