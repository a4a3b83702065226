"""Genes beside antibodies and peaks in one matrix: genes alone are embedded, wherever the matrix lies."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import bftembed
from bftembed.cells.check import check_cells
from bftembed.cells.feature_types import columns_of_kind
from bftembed.cells.reading import expression_in
from bftembed.cells.sentences import cell_sentences
from bftembed.export import export_state
from bftembed.tasks.baselines import CellBaselines
from bftembed.tasks.perturbation.data import about
from bftembed.testing import simulate_perturbations

TYPES = {"gene": "Gene Expression", "antibody": "Antibody Capture", "peak": "Peaks"}
FORMS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*names are not unique"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2"),
]


def beside(genes, form="csr", column="feature_types", types=TYPES):
    """Put antibodies named like genes before the genes, and peaks among them; their counts are far higher."""
    rng = np.random.default_rng(3)
    n = genes.n_obs
    counts = genes.X.toarray() if sp.issparse(genes.X) else genes.X
    antibodies, peaks = rng.poisson(150, (n, 2)), rng.poisson(4, (n, 3))
    names = [*genes.var_names[:2], *genes.var_names[:3], "chr1:1-9", "chr1:11-19", "chr2:1-9", *genes.var_names[3:]]
    kinds = ["antibody"] * 2 + ["gene"] * 3 + ["peak"] * 3 + ["gene"] * (genes.n_vars - 3)
    X = np.hstack([antibodies, counts[:, :3], peaks, counts[:, 3:]]).astype(np.float32)
    mixed = anndata.AnnData(FORMS[form](X), obs=genes.obs.copy())
    mixed.var_names = names
    mixed.var[column] = pd.Categorical([types[kind] for kind in kinds])
    mixed.raw = mixed
    return mixed


def embedded(data, embeddings, tmp_path, **options):
    """Return vectors and provenance, of a file by way of a sidecar."""
    if isinstance(data, anndata.AnnData):
        found = bftembed.embed_cells(data.copy(), embeddings, **options)
    else:
        bftembed.embed_cells(data, embeddings, sidecar=tmp_path / "sidecar.h5ad", **options)
        found = anndata.read_h5ad(tmp_path / "sidecar.h5ad")
    return found.obsm["X_bft"], found.uns["bftembed"]["X_bft"]


@pytest.mark.parametrize("use_raw", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("container", ["memory", "h5ad", "zarr"])
def test_genes_alone_are_embedded(make_cells, embeddings, tmp_path, container, form, use_raw):
    genes = make_cells()
    expected, _ = embedded(genes, embeddings, tmp_path)
    mixed = beside(genes, form)
    if container != "memory":
        getattr(mixed, f"write_{container}")(tmp_path / f"mixed.{container}")
        mixed = tmp_path / f"mixed.{container}"
    vectors, told = embedded(mixed, embeddings, tmp_path, use_raw=use_raw)
    np.testing.assert_array_equal(vectors, expected)
    assert (told["n_genes"], told["n_other_features"], told["n_duplicates"]) == (genes.n_vars, 5, 0)


def test_real_cite_seq_in_one_matrix(shared_data, tmp_path):
    """500 cells of CITE-seq in one matrix, as 10x writes them: the embedding is that of the RNA alone."""
    rna = anndata.read_h5ad(shared_data("cells/citefuse_citeseq_pbmc500.h5ad"))
    genes = anndata.AnnData(rna.X, obs=rna.obs[[]], var=rna.var[[]])
    names = [str(name) for name in rna.uns["ADT_names"]]
    antibodies = anndata.AnnData(sp.csr_matrix(rna.obsm["ADT"]).astype(rna.X.dtype), obs=rna.obs[[]])
    antibodies.var_names = [name.split("_")[0].split("-")[0].upper() for name in names]  # named like their genes
    both = anndata.concat({"Gene Expression": genes, "Antibody Capture": antibodies}, axis="var", label="feature_types")
    both.write_h5ad(tmp_path / "both.h5ad")
    rng = np.random.default_rng(0)
    chosen = [*dict.fromkeys([*rng.choice(genes.var_names, 2000, replace=False), *antibodies.var_names])]
    vectors = bftembed.GeneEmbeddings(chosen, rng.normal(size=(len(chosen), 16)).astype(np.float32))
    expected, _ = embedded(genes, vectors, tmp_path)
    found, told = embedded(tmp_path / "both.h5ad", vectors, tmp_path)
    assert (told["n_genes"], told["n_other_features"]) == (genes.n_vars, len(names))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert check_cells(tmp_path / "both.h5ad").matrix.n_other_features == len(names)


def test_antibodies_alone_are_embedded_as_proteins(make_cells, embeddings, tmp_path):
    genes = make_cells()
    mixed = beside(genes)
    antibodies = mixed[:, mixed.var["feature_types"] == "Antibody Capture"].copy()
    expected, _ = embedded(antibodies, embeddings, tmp_path, kind="protein", normalize="clr")
    vectors, told = embedded(mixed, embeddings, tmp_path, kind="protein", normalize="clr")
    np.testing.assert_array_equal(vectors, expected)
    assert (told["n_genes"], told["n_other_features"]) == (2, mixed.n_vars - 2)
    # Protein embeddings of RNA: without antibodies, genes alone.
    without = mixed[:, mixed.var["feature_types"] != "Antibody Capture"].copy()
    vectors, told = embedded(without, embeddings, tmp_path, kind="protein")
    assert (told["n_genes"], told["n_other_features"]) == (genes.n_vars, 3)


@pytest.mark.parametrize(
    ("column", "values", "gene", "protein"),
    [
        ("feature_types", ["Gene Expression", "Antibody Capture", "Gene Expression"], [0, 2], [1]),
        ("feature_types", ["GEX", "ADT", "GEX"], [0, 2], [1]),
        ("feature_types", ["GEX", "ATAC", "GEX"], [0, 2], [0, 2]),
        ("feature_types", ["Gene Expression", "Peaks", ""], [0], [0]),
        ("feature_biotype", ["gene", "spike-in", "gene"], [0, 2], [0, 2]),
        ("feature_type", ["Gene Expression", "CRISPR Guide Capture", "Peaks"], [0], [0]),
        # One type, or not stated which of them are genes: all columns.
        ("feature_types", ["Antibody Capture"] * 3, None, None),
        ("feature_types", ["Gene Expression", "", ""], None, None),
        ("feature_type", ["protein_coding", "lncRNA", "protein_coding"], None, None),
        ("other", ["gene", "Antibody Capture", "gene"], None, None),
    ],
)
def test_columns_of_a_kind(column, values, gene, protein):
    for kind, expected in (("gene", gene), ("protein", protein)):
        found = columns_of_kind({column: values}.get, kind)
        assert (None if found is None else found.tolist()) == expected


@pytest.mark.parametrize("form", FORMS)
def test_sentences_baselines_and_check_take_genes_alone(make_cells, tmp_path, form):
    genes = make_cells()
    mixed = beside(genes, form, "feature_biotype", {"gene": "gene", "antibody": "adt", "peak": "peak"})
    mixed.write_h5ad(tmp_path / "mixed.h5ad")
    genes.write_h5ad(tmp_path / "genes.h5ad")
    for data in (mixed, tmp_path / "mixed.h5ad"):
        assert cell_sentences(data) == cell_sentences(genes)
        np.testing.assert_array_equal(*(CellBaselines(x, {}).components[0] for x in (data, genes)))
    found, alone = (check_cells(tmp_path / f"{name}.h5ad") for name in ("mixed", "genes"))
    assert found.ok
    assert (found.matrix.n_genes, found.matrix.n_other_features) == (genes.n_vars, 5)
    assert (found.genes, found.values) == (alone.genes, alone.values)
    with expression_in(tmp_path / "mixed.h5ad", kind=None) as expression:
        assert expression.matrix.shape == mixed.shape


def test_state_gets_genes_alone(tmp_path):
    data, embeddings = simulate_perturbations(
        n_perturbations=6, n_genes=30, cells_per_perturbation=6, cell_types=("k562", "rpe1"), dim=16, seed=3
    )
    X = np.hstack([np.ones((data.n_obs, 1), dtype=np.float32), data.X])
    mixed = anndata.AnnData(X, obs=data.obs, uns=data.uns)
    mixed.var_names = ["CD3", *data.var_names]
    mixed.var["feature_types"] = ["Antibody Capture"] + ["Gene Expression"] * data.n_vars
    mixed.var["highly_variable"] = [True, False, True, *[False] * (data.n_vars - 2)]
    written = []
    for name, one in (("mixed", mixed), ("genes", data)):
        one.write_h5ad(tmp_path / f"{name}.h5ad")
        export_state([tmp_path / f"{name}.h5ad"], embeddings, tmp_path / name, output_space="all")
        written.append(anndata.read_h5ad(next((tmp_path / name / "cells").glob("*.h5ad"))))
    assert list(written[0].var_names) == list(written[1].var_names) == list(data.var_names)
    np.testing.assert_array_equal(written[0].X, written[1].X)
    np.testing.assert_array_equal(written[0].obsm["X_bft"], written[1].obsm["X_bft"])
    assert about(mixed)[1] == about(tmp_path / "mixed.h5ad")[1] == ["CD3", data.var_names[1]]
