"""A file and the AnnData that anndata reads from it are the same expression."""

from __future__ import annotations

import anndata
import cite_toys
import h5py
import pytest

from bftembed.errors import BftembedError
from bftembed.expression.source import open_expression

FILES = (
    "cells/scclassify_pancreas_xin.h5ad",
    "cells/citefuse_citeseq_pbmc500.h5ad",
    "perturbation/papalexi2021_eccite_thp1_299genes.h5ad",
)


def content(data, **choice):
    with open_expression(data, **choice) as found:
        first = next(iter(found.matrix.rows(50, range(min(50, found.n_cells))))).to_csr(found.n_genes)
        names = found.cell_names(range(3, 9)), len(found.cell_names())
        return found.name, found.genes, names, found.logged, found.n_other_features, first.toarray().tolist()


@pytest.mark.parametrize("file", FILES)
def test_a_published_file_is_what_anndata_reads(file, shared_data):
    path = shared_data(file)
    assert content(path) == content(anndata.read_h5ad(path))


def test_the_oldest_layout_is_what_anndata_reads(pbmc_path):
    data = anndata.read_h5ad(pbmc_path)
    assert content(pbmc_path) == content(data)
    assert content(pbmc_path, use_raw=True) == content(data, use_raw=True)


def test_features_of_cell_ranger_are_chosen_by_the_names_that_scanpy_gives(tmp_path):
    path = cite_toys.write_tenx_h5(tmp_path / "a.h5", 30)
    with h5py.File(path, "r+") as handle:
        handle["matrix/features"].create_group("target_sets")
    n = len(cite_toys.GENES)
    assert content(path)[1] == list(cite_toys.GENES)
    assert content(path, gene_column="gene_ids")[1] == [f"ENSG{i:011d}" for i in range(n)]
    assert content(path, kind="protein")[1] == list(cite_toys.PANEL)
    with h5py.File(path, "r+") as handle:
        del handle["matrix/features/name"]
    with pytest.raises(BftembedError, match=r"a\.h5"):
        content(path)
