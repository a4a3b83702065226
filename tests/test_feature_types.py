"""Where .var states several types of features, what is made of cells elsewhere is made of genes alone, too."""

from __future__ import annotations

import anndata
import cite_toys
import numpy as np
import pytest

from bftembed.tasks.baselines import CellBaselines
from bftembed.testing import simulate_perturbations


def test_baselines_of_cells_take_genes_alone(tmp_path):
    mixed, genes = cite_toys.with_types(60), cite_toys.rna_data(60)
    mixed.write_h5ad(tmp_path / "mixed.h5ad")
    for data in (mixed, tmp_path / "mixed.h5ad"):
        found, expected = (CellBaselines(one, {}).components[0] for one in (data, genes))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_state_gets_genes_alone(tmp_path):
    pytest.importorskip("torch")
    from bftembed.export import export_state

    data, embeddings = simulate_perturbations(
        n_perturbations=6, n_genes=30, cells_per_perturbation=6, cell_types=("k562", "rpe1"), dim=16, seed=3
    )
    X = np.hstack([np.ones((data.n_obs, 1), dtype=np.float32), data.X])
    mixed = anndata.AnnData(X, obs=data.obs, uns=data.uns)
    mixed.var_names = ["CD3", *data.var_names]
    mixed.var["feature_types"] = ["Antibody Capture"] + ["Gene Expression"] * data.n_vars
    written = []
    for name, one in (("mixed", mixed), ("genes", data)):
        one.write_h5ad(tmp_path / f"{name}.h5ad")
        export_state([tmp_path / f"{name}.h5ad"], embeddings, tmp_path / name)
        written.append(anndata.read_h5ad(next((tmp_path / name / "cells").glob("*.h5ad"))))
    assert list(written[0].var_names) == list(written[1].var_names) == list(data.var_names)
    np.testing.assert_array_equal(written[0].X, written[1].X)
    np.testing.assert_array_equal(written[0].obsm["X_bft"], written[1].obsm["X_bft"])
