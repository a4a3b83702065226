"""Predictions of one split against the truth: a value per metric and held-out condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bftembed.metrics import perturbation as metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bftembed.tasks.perturbation.data import Screen
    from bftembed.tasks.perturbation.splits import Split

METRICS = ("mae", "pearson_delta", "pds_l1", "pds_cosine", "de_overlap")


@dataclass(frozen=True, eq=False)
class Truth:
    """What predictions are compared with.

    Attributes
    ----------
    screen
        The data.
    delta
        (n_conditions, n_genes).
    changed
        Columns of the truly changed genes of each condition.
    """

    screen: Screen
    delta: NDArray[np.float64]
    changed: list[NDArray[np.intp]]

    @classmethod
    def of(cls, screen: Screen, top: int | None = None) -> Truth:
        """Compute the true deltas and changed genes: Welch's t test, false discovery rate below 5 %, at most `top`."""
        delta = screen.delta
        changed: list[NDArray[np.intp]] = [np.zeros(0, dtype=np.intp)] * len(delta)
        for number in range(len(screen.cell_types)):
            rows = np.flatnonzero(screen.cell_type == number)
            if not len(rows):
                continue
            p = metrics.welch_p_values(
                screen.mean[rows],
                screen.variance[rows],
                screen.cells[rows, None],
                screen.control_mean[number],
                screen.control_variance[number],
                int(screen.control_cells[number]),
            )
            found = metrics.differential_genes(delta[rows], metrics.benjamini_hochberg(p), top)
            for row, genes in zip(rows, found, strict=True):
                changed[row] = genes
        return cls(screen, delta, changed)


def score(truth: Truth, split: Split, predicted: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Score the predicted deltas of the test conditions of a split.

    Parameters
    ----------
    truth
        Of the screen.
    split
        Which conditions were held out.
    predicted
        (n_test, n_genes) deltas, in the order of the conditions.

    Returns
    -------
    dict
        Metric → float64 (n_test,); NaN where it is undefined for a condition. Perturbation discrimination is among
        the held-out conditions of the same cell type.
    """
    rows = np.flatnonzero(split.test)
    true = truth.delta[rows]
    found = {
        "mae": metrics.mean_absolute_error(predicted, true),
        "pearson_delta": metrics.pearson_delta(predicted, true),
        "pds_l1": np.full(len(rows), np.nan),
        "pds_cosine": np.full(len(rows), np.nan),
        "de_overlap": metrics.overlap(predicted, [truth.changed[r] for r in rows]),
    }
    targets = [truth.screen.targets[truth.screen.label[r]] for r in rows]
    for own in of_one_cell_type(truth.screen, rows):
        part = [targets[i] for i in own]
        for distance in metrics.DISTANCES:
            found[f"pds_{distance}"][own] = metrics.discrimination(predicted[own], true[own], part, distance)
    return found


def chance(truth: Truth, split: Split) -> dict[str, NDArray[np.float64]]:
    """Return the chance level of each held-out condition, exact: of numbers of conditions and changed genes alone."""
    rows = np.flatnonzero(split.test)
    guessed = np.zeros(len(rows))
    for own in of_one_cell_type(truth.screen, rows):
        guessed[own] = metrics.discrimination_chance(len(own))
    n = np.array([len(truth.changed[r]) for r in rows], dtype=float)
    share = np.where(n > 0, n / truth.delta.shape[1], np.nan)
    return {"pds_l1": guessed, "pds_cosine": guessed, "de_overlap": share}


def of_one_cell_type(screen: Screen, rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Return the positions in `rows` of the conditions of each cell type that occurs."""
    types = screen.cell_type[rows]
    return [np.flatnonzero(types == t) for t in np.unique(types)]
