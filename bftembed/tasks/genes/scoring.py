"""From the scores of test items to values: one for each fold, and the bootstrap over genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.metrics.classification import bootstrap_counts, roc_auc, weighted_roc_auc
from bftembed.tasks.genes.splits import N_FOLDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bftembed.tasks.genes.splits import Fold, Plan

#: Replicates of the bootstrap; of tasks with hundreds of labels fewer, for the time they take.
REPLICATES, REPLICATES_MULTILABEL = 1000, 200


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the scores of the test items come to.

    Attributes
    ----------
    metric
        ``"roc_auc"``, or ``"accuracy"`` of predicted classes.
    values
        One for each fold; NaN where there is none.
    replicated
        float64 (n,): the mean over folds for n bootstrap samples of the genes; None where there are none.
    """

    metric: str
    values: tuple[float, ...]
    replicated: NDArray[np.float64] | None = None

    @property
    def mean(self) -> float:
        """The mean over the folds that have a value."""
        return _mean(self.values)


def evaluate(plan: Plan, scores: Sequence[NDArray[Any]], n_genes: int = 0, n: int = 0) -> Evaluation:
    """Return the value of every fold, and `n` bootstrap replicates of their mean (see `replicates`)."""
    metric = "accuracy" if scores[0].dtype.kind == "i" else "roc_auc"
    values = tuple(fold_value(fold, s) for fold, s in zip(plan.folds, scores, strict=True))
    return Evaluation(metric, values, replicates(plan, scores, n_genes, n) if n else None)


def fold_value(fold: Fold, scores: NDArray[Any]) -> float:
    """Return the score of one fold: ROC-AUC; the mean of it over labels; accuracy where `scores` are classes (int).

    Labels with one class in the test part are left out of the mean; NaN when none is left.
    """
    labels = fold.test_labels
    if labels.ndim == 2:
        return _mean([roc_auc(labels[:, j], scores[:, j]) for j in range(labels.shape[1])])
    if scores.dtype.kind == "i":
        return float((scores == labels).mean())
    return roc_auc(labels, scores)


def replicates(plan: Plan, scores: Sequence[NDArray[Any]], n_genes: int, n: int, seed: int = 0) -> NDArray[np.float64]:
    """Return the mean over folds for n bootstrap samples of the genes, float64 (n,).

    Each replicate draws n_genes genes with replacement; an item counts as often as its gene was drawn, a pair as the
    product of its two (the pigeonhole bootstrap of Owen 2007, which is on the wide side). Every fold of every seed
    sees the same draw, and so does every embedding with equal `n_genes`, `n` and `seed`: differences of two are paired.
    Models are not fitted again, so this speaks of the genes that are scored; for the fits see `fit_interval`.
    """
    counts = bootstrap_counts(n_genes, n, seed)
    total, number = np.zeros(n), np.zeros(n)
    for fold, values in zip(plan.folds, scores, strict=True):
        weights = counts[:, fold.test_items[:, 0]].astype(np.float32)
        if fold.test_items.shape[1] == 2:
            weights *= counts[:, fold.test_items[:, 1]]
        found = _weighted(fold.test_labels, values, weights)
        total += np.nan_to_num(found)
        number += ~np.isnan(found)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(number > 0, total / number, np.nan)


def _weighted(labels: NDArray[Any], scores: NDArray[Any], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    if labels.ndim == 2:
        total, number = np.zeros(len(weights)), np.zeros(len(weights))
        for j in range(labels.shape[1]):
            found = weighted_roc_auc(labels[:, j].astype(np.int8), scores[:, j], weights)
            total += np.nan_to_num(found)
            number += ~np.isnan(found)
        return np.where(number > 0, total / np.maximum(number, 1), np.nan)
    if scores.dtype.kind == "i":
        drawn = weights.sum(axis=1, dtype=np.float64)
        return np.where(drawn > 0, weights @ (scores == labels) / np.maximum(drawn, 1), np.nan)
    return weighted_roc_auc(labels, scores, weights)


def fit_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the corrected resampled t interval of the mean over folds (Nadeau and Bengio 2003); NaN for one fold.

    The variance of the fold values, times 1/n + 1/(k - 1) for n values of k-fold divisions: training parts overlap, so
    the values are not independent. It covers what a bootstrap of the test items leaves out, the chance in the fit.
    """
    from scipy.stats import t

    finite = [v for v in values if not np.isnan(v)]
    if len(finite) < 2:
        return np.nan, np.nan
    half = t.ppf((1 + level) / 2, len(finite) - 1) * np.std(finite, ddof=1)
    half *= np.sqrt(1 / len(finite) + 1 / (N_FOLDS - 1))
    return float(np.mean(finite) - half), float(np.mean(finite) + half)


def node_propensity(fold: Fold) -> NDArray[np.float64]:
    """Score test pairs by the labels of the other test pairs of their genes: a ceiling that no embedding sees.

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
