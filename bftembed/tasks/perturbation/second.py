"""The same predictions scored by cell-eval2 (Arc Institute, MIT; extra ``perturb``): a second opinion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bftembed.errors import require
from bftembed.tasks.perturbation.scoring import of_one_cell_type

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bftembed.tasks.perturbation.scoring import Truth
    from bftembed.tasks.perturbation.splits import Split

CELL_EVAL2 = "cell-eval2"
#: cell-eval2's metric → ours, whose name with ``cell_eval2_`` before it stands in the results.
_METRICS = {"expr_mae": "mae", "pds_l1": "pds_l1", "pds_cosine": "pds_cosine"}
_CONTROL = "control"


def second_scores(truth: Truth, split: Split, predicted: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Score the predicted deltas of the test conditions of a split with cell-eval2.

    Each cell type is given to it as two AnnData of means, one row per condition and one of the true controls; targets
    are named by their columns, of a combination the first.

    Parameters
    ----------
    truth, split, predicted
        As in `bftembed.tasks.perturbation.scoring.score`.

    Returns
    -------
    dict
        ``cell_eval2_mae``, ``cell_eval2_pds_l1``, ``cell_eval2_pds_cosine`` → float64 (n_test,); NaN where a cell type
        has one condition alone.

    Raises
    ------
    MissingExtraError
        When cell-eval2 is not installed.
    """
    import anndata
    import pandas as pd

    package = require("cell_eval2", "perturb")
    screen, rows = truth.screen, np.flatnonzero(split.test)
    found = {f"cell_eval2_{name}": np.full(len(rows), np.nan) for name in _METRICS.values()}
    var = pd.DataFrame(index=pd.Index([f"gene{i}" for i in range(len(screen.genes))]))
    for own in of_one_cell_type(screen, rows):
        if len(own) < 2:
            continue
        names = [f"condition{i}" for i in range(len(own))]
        control = screen.control_mean[screen.cell_type[rows[own[0]]]]
        obs = pd.DataFrame({"perturbation": pd.Categorical([_CONTROL, *names])}, index=pd.Index([_CONTROL, *names]))
        pair = [
            anndata.AnnData(np.vstack([control, control + delta[own]]).astype(np.float32), obs, var)
            for delta in (predicted, truth.delta[rows])
        ]
        targets = [screen.targets[screen.label[rows[i]]] for i in own]
        config = package.EvalConfig(
            metrics=list(_METRICS),
            pert_col="perturbation",
            control=_CONTROL,
            input_type="lognorm",
            validate_input=False,
            target_gene_map={n: f"gene{t[0]}" if t else None for n, t in zip(names, targets, strict=True)},
        )
        at = dict(zip(names, own, strict=True))
        for name, metric, value in package.compute_metrics(*pair, config=config).iter_rows():
            found[f"cell_eval2_{_METRICS[metric]}"][at[name]] = value
    return found
