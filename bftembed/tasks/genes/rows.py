"""Rows of the results table from the scores of one task, protocol and probe."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bftembed.metrics.classification import percentile_interval
from bftembed.results import ENDS, Result
from bftembed.tasks.genes.floors import FLOOR, PERMUTED
from bftembed.tasks.genes.scoring import fit_interval
from bftembed.tasks.genes.splits import Fold, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.tasks.genes.scoring import Evaluation

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

    def rows(self, name: str, found: Evaluation) -> list[Result]:
        """Return a row for every fold, and the two ends of the interval when there are replicates."""
        folds = [
            self.row(name, found.metric, f"fold{fold.fold}", fold.seed, value)
            for fold, value in zip(self.plan.folds, found.values, strict=True)
        ]
        if found.replicated is None:
            return folds
        return folds + self._ends(name, found.metric, found.replicated, found.values)

    def above_floor(self, name: str, found: Mapping[str, Evaluation]) -> list[Result]:
        """Return the difference of an embedding to the best floor, and its interval over the same draws of genes.

        Permuted labels are no floor to be the best: they check the procedure.
        """
        means = {n: e.mean for n, e in found.items() if n.startswith(FLOOR) and not n.startswith(PERMUTED)}
        means = {n: m for n, m in means.items() if not np.isnan(m)}
        if not means:
            return []
        best = max(means, key=lambda n: (means[n], n))
        one, other = found[name], found[best]
        table = replace(self, note=f"best floor: {best}; {self.note}" if self.note else f"best floor: {best}")
        metric = f"{one.metric}{ABOVE_FLOOR}"
        rows = [table.row(name, metric, "all", None, one.mean - other.mean)]
        if one.replicated is None or other.replicated is None:
            return rows
        differences = [a - b for a, b in zip(one.values, other.values, strict=True)]
        return rows + table._ends(name, metric, one.replicated - other.replicated, differences)

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
        return [self.row(name, metric, split, None, float(end)) for split, end in zip(ENDS, ends, strict=True)]
