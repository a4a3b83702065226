"""One h5ad for STATE, without torch: its layout is the same on every version of anndata and pandas."""

from __future__ import annotations

import anndata
import h5py
import numpy as np

from bftembed.export._cells import Columns, choose_genes, read_screen, write_cells, write_embeddings
from bftembed.progress import silent


def test_tables_are_plain_arrays_that_cell_load_reads_with_h5py(write, screen, tmp_path):
    columns, out = Columns("gene", "cell_type", "gem_group", "non-targeting"), tmp_path / "out.h5ad"
    data, genes = screen
    one = read_screen(write(), columns, {})
    report = write_embeddings(one, out, genes, "auto", silent)
    kept, _ = choose_genes([one], [report], 20, set(data.obs["gene"]), seed=0)
    write_cells(out, one, report, columns, kept, {"simulated": True}, silent)
    with h5py.File(out) as file:
        for key in ("X", "obsm/X_bft", "obsm/X_hvg", "var/_index", "var/gene_name", "obs/_index", "uns/hvg_names"):
            assert isinstance(file[key], h5py.Dataset), key
        for key in ("var/_index", "var/gene_name", "obs/_index", "uns/hvg_names"):
            assert file[key].attrs["encoding-type"] == "string-array", key
        for column in ("gene", "cell_type", "gem_group"):
            assert isinstance(file[f"obs/{column}/categories"], h5py.Dataset)
        assert file["var"].attrs["_index"] == "_index"
    found = anndata.read_h5ad(out)
    assert list(found.obs_names) == list(data.obs_names)
    np.testing.assert_allclose(found.X, data[:, found.var_names].X, rtol=1e-6)
    np.testing.assert_array_equal(found.obsm["X_hvg"], found.X[:, found.var["highly_variable"]])
