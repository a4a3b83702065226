"""STATE's predictions as one more row: genes by number, deltas from the true controls, our predictors on the same."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from bftembed import bench
from bftembed.errors import BftembedError
from bftembed.testing import simulate_perturbations

CONTROL, STATE = "non-targeting", ("reference", "STATE: adata_pred")


@pytest.fixture(scope="module")
def simulated():
    return simulate_perturbations(n_perturbations=12, n_genes=50, cells_per_perturbation=8)


def predicted_file(adata, path, *, columns=None, held=lambda obs: obs["cell_type"] == "jurkat", shift=0.0):
    """Write what `state tx predict` writes: the test cells and their controls, genes named 0, 1, …"""
    own = adata[held(adata.obs) | ((adata.obs["gene"] == CONTROL) & (adata.obs["cell_type"] == "jurkat"))]
    x = own.X if columns is None else own.X[:, columns]
    obs = pd.DataFrame({c: own.obs[c].astype(str).to_numpy() for c in ("gene", "cell_type")})
    obs.index = obs.index.astype(str)
    made = anndata.AnnData(np.clip(x + np.float32(shift), 0, 14), obs)
    made.var_names = [str(i) for i in range(made.n_vars)]
    made.write_h5ad(path)
    return path


def scores(frame):
    own = frame[(frame["protocol"] == "held-out-by-state") & (frame["reference"] == "") & frame["seed"].isna()]
    return own.set_index(["kind", "subject", "metric"])["value"].unstack()


def test_perfect_predictions_score_best_beside_predictors_trained_on_the_rest(simulated, tmp_path):
    adata, genes = simulated
    path = predicted_file(adata, tmp_path / "adata_pred.h5ad")
    frame = bench.perturbation(adata, {"text": genes}, split="unseen-cell-type", seeds=2, state=path)
    table = scores(frame)
    assert table.loc[STATE, ["mae", "pds_l1", "pearson_delta"]].tolist() == pytest.approx([0, 1, 1], abs=1e-6)
    assert frame.loc[frame["subject"] == STATE[1], "n"].max() == 12
    # One cell type is held out: as the split of that cell type.
    assert ("baseline", "mean of the perturbation") in table.index
    assert table.loc[("baseline", "perturbed mean"), "mae"] > 0.05


def test_predictions_of_variable_genes_put_every_row_in_their_space(simulated, tmp_path):
    adata, genes = simulated[0].copy(), simulated[1]
    marked = np.random.default_rng(0).random(50) < 0.5
    adata.var["highly_variable"] = marked
    adata.write_h5ad(tmp_path / "data.h5ad")
    path = predicted_file(adata, tmp_path / "adata_pred.h5ad", columns=marked)
    for data in (adata, tmp_path / "data.h5ad"):
        table = scores(bench.perturbation(data, {"text": genes}, seeds=1, split="unseen-gene", state=path))
        assert table.loc[STATE, "mae"] == pytest.approx(0, abs=1e-6)
    # The same order, said by name.
    adata.uns["hvg_names"] = list(adata.var_names[marked])[::-1]
    order = [adata.var_names.get_loc(g) for g in adata.uns["hvg_names"]]
    path = predicted_file(adata, tmp_path / "again.h5ad", columns=order)
    table = scores(bench.perturbation(adata, {"text": genes}, seeds=1, split="unseen-gene", state=path))
    assert table.loc[("reference", "STATE: again"), "mae"] == pytest.approx(0, abs=1e-6)


def test_unseen_genes_of_state_are_unseen_by_our_predictors_too(simulated, tmp_path):
    adata, genes = simulated
    labels = [g for g in adata.obs["gene"].cat.categories if g != CONTROL][:6]
    path = predicted_file(adata, tmp_path / "adata_pred.h5ad", held=lambda obs: obs["gene"].isin(labels))
    table = scores(bench.perturbation(adata, {"text": genes}, seeds=1, split="unseen-gene", state=path))
    assert ("baseline", "mean of the perturbation") not in table.index
    assert ("reference", "identity") not in table.index
    assert table.loc[("chance", "chance"), "pds_l1"] == 0.5


def test_predictions_that_do_not_fit_are_an_error(simulated, tmp_path):
    adata, genes = simulated
    other = simulate_perturbations(n_perturbations=12, n_genes=50, cells_per_perturbation=8, seed=5)[0]
    logged = adata.copy()
    logged.X = np.expm1(adata.X)
    anndata.AnnData(logged.X, logged.obs).write_h5ad(tmp_path / "wild.h5ad")
    for path in (
        predicted_file(adata, tmp_path / "few.h5ad", columns=range(7)),
        predicted_file(other, tmp_path / "other.h5ad"),
        predicted_file(adata, tmp_path / "none.h5ad", held=lambda obs: obs["gene"] == CONTROL),
        tmp_path / "wild.h5ad",
    ):
        with pytest.raises(BftembedError):
            bench.perturbation(adata, {"text": genes}, seeds=1, state=path)
