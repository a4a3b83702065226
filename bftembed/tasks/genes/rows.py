"""Rows of the results table from the scores of one task, protocol and probe."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.metrics.classification import percentile_interval
from bftembed.results import Result
from bftembed.tasks.genes.floors import FLOOR, PERMUTED
from bftembed.tasks.genes.scoring import fit_interval, fold_value
from bftembed.tasks.genes.splits import Fold, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

#: Ends the name of a metric that is the paired difference to the best floor.
ABOVE_FLOOR = "_above_floor"


@dataclass(frozen=True, eq=False)
class Table:
    """What the rows of one task, protocol and probe have in common.

    Attributes
    ----------
    run, task, protocol
        As in `bftembed.results.Result`.
    plan
        The folds that were scored.
    n_missing
        Items of the task that are not among them.
    note
        What was left out, for every row.
    """

    run: str
    task: str
    protocol: str
    plan: Plan
    n_missing: int
    note: str

    def rows(self, name: str, scores: Sequence[NDArray[Any]], replicated: NDArray[np.float64] | None) -> list[Result]:
        """Return a row for every fold, and the two ends of the interval when there are `replicated` values."""
        metric = _metric(scores)
        found = []
        for fold, values in zip(self.plan.folds, scores, strict=True):
            value = fold_value(fold, values)
            found.append(self.row(name, metric, f"fold{fold.fold}", fold.seed, value))
        if replicated is None:
            return found
        return found + self._ends(name, metric, replicated, [row.value for row in found])

    def above_floor(
        self, name: str, scores: Mapping[str, Sequence[NDArray[Any]]], replicated: Mapping[str, NDArray[np.float64]]
    ) -> list[Result]:
        """Return the difference of an embedding to the best floor, and its interval over the same draws of genes.

        Permuted labels are no floor to be the best: they check the procedure.
        """
        means = {n: self._mean(s) for n, s in scores.items() if n.startswith(FLOOR) and not n.startswith(PERMUTED)}
        means = {n: m for n, m in means.items() if not np.isnan(m)}
        if not means:
            return []
        best = max(means, key=lambda n: (means[n], n))
        table = replace(self, note=f"best floor: {best}; {self.note}" if self.note else f"best floor: {best}")
        metric = f"{_metric(scores[name])}{ABOVE_FLOOR}"
        difference = self._mean(scores[name]) - means[best]
        return [
            table.row(name, metric, "all", None, difference),
            *table._ends(name, metric, replicated[name] - replicated[best], self._paired(scores[name], scores[best])),
        ]

    def restricted(self, kept: Sequence[NDArray[np.bool_]]) -> Table:
        """Return the table of the same folds with some of their test items, bool (n_test,) for each fold."""
        folds = [
            Fold(f.seed, f.fold, f.train_items, f.train_labels, f.test_items[k], f.test_labels[k])
            for f, k in zip(self.plan.folds, kept, strict=True)
        ]
        n = len(np.unique(np.concatenate([f.test_items for f in folds]), axis=0))
        gone = max(0, self.plan.n_items - n)
        plan = Plan(tuple(folds), self.plan.label_names, n, self.plan.notes)
        return replace(self, plan=plan, n_missing=self.n_missing + gone)

    def row(self, name: str, metric: str, split: str, seed: int | None, value: float) -> Result:
        """Return one row; a NaN gets a reason."""
        note = self.note
        if np.isnan(value):
            note = f"no value: one class only among the items that are scored; {note}"
        return Result(
            run=self.run,
            embedding=name,
            task=self.task,
            protocol=self.protocol,
            metric=metric,
            split=split,
            seed=seed,
            value=float(value),
            n_used=self.plan.n_items,
            n_missing=self.n_missing,
            note=note,
        )

    def _ends(self, name: str, metric: str, replicated: NDArray[np.float64], values: Sequence[float]) -> list[Result]:
        """Return the outer ends of both intervals: of the genes that are scored, and of the fits."""
        both = np.array([percentile_interval(replicated), fit_interval(values)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # neither has a value
            ends = [np.nanmin(both[:, 0]), np.nanmax(both[:, 1])]
        if not metric.endswith(ABOVE_FLOOR):
            ends = [min(max(end, 0.0), 1.0) for end in ends]
        return [
            self.row(name, metric, split, None, float(end))
            for split, end in zip(("ci95-low", "ci95-high"), ends, strict=True)
        ]

    def _paired(self, scores: Sequence[NDArray[Any]], others: Sequence[NDArray[Any]]) -> list[float]:
        folds = zip(self.plan.folds, scores, others, strict=True)
        return [fold_value(fold, one) - fold_value(fold, other) for fold, one, other in folds]

    def _mean(self, scores: Sequence[NDArray[Any]]) -> float:
        values = [fold_value(f, s) for f, s in zip(self.plan.folds, scores, strict=True)]
        finite = [v for v in values if not np.isnan(v)]
        return float(np.mean(finite)) if finite else float("nan")


def _metric(scores: Sequence[NDArray[Any]]) -> str:
    return "accuracy" if scores[0].dtype.kind == "i" else "roc_auc"
