"""Scores of the predictions of one split, by `bftembed.metrics.perturbation` and by cell-eval2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bftembed.errors import require
from bftembed.metrics import perturbation as metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bftembed.tasks.perturbation.data import Screen, Split

CELL_EVAL2 = "cell-eval2"
#: Metric of cell-eval2 → its name in the results.
OF_CELL_EVAL2 = {"expr_mae": "cell_eval2_mae"} | {name: f"cell_eval2_{name}" for name in ("pds_l1", "pds_cosine")}


class Truth(NamedTuple):
    """The data, true deltas (n_conditions, n_genes), and columns of the changed genes of each condition."""

    screen: Screen
    delta: NDArray[np.float64]
    changed: list[NDArray[np.intp]]

    @classmethod
    def of(cls, screen: Screen, top: int | None = None) -> Truth:
        """Compute true deltas and changed genes: Welch's t test, false discovery rate below 5 %, at most `top`."""
        delta = screen.delta
        changed: list[NDArray[np.intp]] = [np.zeros(0, dtype=np.intp)] * len(delta)
        for rows in by_cell_type(screen, np.arange(len(delta))):
            number = screen.cell_type[rows[0]]
            control = screen.control_mean[number], screen.control_variance[number], int(screen.control_cells[number])
            p = metrics.welch_p_values(screen.mean[rows], screen.variance[rows], screen.cells[rows, None], *control)
            found = metrics.differential_genes(delta[rows], metrics.benjamini_hochberg(p), top)
            for row, genes in zip(rows, found, strict=True):
                changed[row] = genes
        return cls(screen, delta, changed)


def scores_of(truth: Truth, split: Split, predicted: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return metric → scores of predicted deltas (n_test, n_genes), float64 (n_test,), NaN where undefined.

    Perturbation discrimination is among the test conditions of the same cell type.
    """
    rows = np.flatnonzero(split.test)
    true = truth.delta[rows]
    found = {
        "mae": metrics.mean_absolute_error(predicted, true),
        "pearson_delta": metrics.pearson_delta(predicted, true),
        **{name: np.full(len(rows), np.nan) for name in ("pds_l1", "pds_cosine")},
        "de_overlap": metrics.overlap(predicted, [truth.changed[r] for r in rows]),
    }
    for own in by_cell_type(truth.screen, rows):
        part = [truth.screen.targets[truth.screen.label[r]] for r in rows[own]]
        for distance in metrics.DISTANCES:
            found[f"pds_{distance}"][own] = metrics.discrimination(predicted[own], true[own], part, distance)
    return found


def chance_scores(truth: Truth, split: Split) -> dict[str, NDArray[np.float64]]:
    """Return the exact chance level of each test condition, from the numbers of conditions and changed genes."""
    rows = np.flatnonzero(split.test)
    guessed = np.zeros(len(rows))
    for own in by_cell_type(truth.screen, rows):
        guessed[own] = metrics.discrimination_chance(len(own))
    n = np.array([len(truth.changed[r]) for r in rows], dtype=float)
    share = np.where(n > 0, n / truth.delta.shape[1], np.nan)
    return {"pds_l1": guessed, "pds_cosine": guessed, "de_overlap": share}


def by_cell_type(screen: Screen, rows: NDArray[Any]) -> list[NDArray[np.intp]]:
    """Return the positions in `rows` (positions or a mask) of the conditions of each cell type that occurs."""
    types = screen.cell_type[rows]
    return [np.flatnonzero(types == t) for t in np.unique(types)]


def cell_eval2_scores(truth: Truth, split: Split, predicted: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Score the same with cell-eval2 (Arc Institute, MIT; extra ``perturb``), on means instead of cells.

    Targets are named by their columns, of a combination the first; NaN where a cell type has a single condition.
    """
    import anndata
    import pandas as pd

    package = require("cell_eval2", "perturb")
    screen, rows = truth.screen, np.flatnonzero(split.test)
    found = {name: np.full(len(rows), np.nan) for name in OF_CELL_EVAL2.values()}
    var = pd.DataFrame(index=[f"gene{i}" for i in range(len(screen.genes))])
    for own in (own for own in by_cell_type(screen, rows) if len(own) > 1):
        at = {f"condition{i}": i for i in own}
        control = screen.control_mean[screen.cell_type[rows[own[0]]]]
        obs = pd.DataFrame({"gene": pd.Categorical(["control", *at])}, index=["control", *at])
        means = [np.vstack([control, control + delta[own]]) for delta in (predicted, truth.delta[rows])]
        targets = {name: screen.targets[screen.label[rows[i]]] for name, i in at.items()}
        config = package.EvalConfig(
            metrics=list(OF_CELL_EVAL2),
            pert_col="gene",
            control="control",
            input_type="lognorm",
            validate_input=False,
            target_gene_map={name: f"gene{t[0]}" if t else None for name, t in targets.items()},
        )
        pair = [anndata.AnnData(x.astype(np.float32), obs, var) for x in means]
        for name, metric, value in package.compute_metrics(*pair, config=config).iter_rows():
            found[OF_CELL_EVAL2[metric]][at[name]] = value
    return found
