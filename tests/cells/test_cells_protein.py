"""Protein counts of CITE-seq: antibody names, the centred log ratio, and the real file end to end."""

from __future__ import annotations

import json
import subprocess
import sys

import anndata
import numpy as np
import pytest

from bftembed.cells.embed import embed_cells
from bftembed.embeddings import GeneEmbeddings
from bftembed.entities.proteins import ProteinIndex
from bftembed.errors import BftembedError


def protein_embeddings(names, dim=12):
    found = ProteinIndex.default().resolve([str(name) for name in names])
    ids = list(dict.fromkeys(p.entity for p in found if p.status in ("used", "mapped")))
    return GeneEmbeddings(ids, np.random.default_rng(2).normal(size=(len(ids), dim)).astype(np.float32)), found


def expected(counts, found, embeddings):
    """Give what one loop over cells and proteins makes of it, in float64."""
    rows = []
    for cell in counts.astype(np.float64):
        values = np.log1p(cell / np.exp(np.mean(np.log1p(cell))))
        vector = np.zeros(embeddings.dim)
        for value, protein in zip(values, found, strict=True):
            if protein.entity in embeddings:
                vector += value * embeddings.vector(protein.entity).astype(np.float64)
        rows.append(vector / np.linalg.norm(vector))
    return np.array(rows)


def test_adt_counts_of_the_real_file_equal_the_reference(shared_data, tmp_path):
    path = shared_data("cells/citefuse_citeseq_pbmc500.h5ad")
    data = anndata.read_h5ad(path)
    embeddings, found = protein_embeddings(data.uns["ADT_names"])
    options = {"obsm": "ADT", "kind": "protein", "normalize": "clr", "key": "X_adt"}
    report = embed_cells(path, embeddings, out=tmp_path / "out.h5ad", **options)
    assert report.matrix == "obsm/ADT"
    assert report.n_genes == 49
    assert report.n_matched > 40
    assert report.coverage > 0.9
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    wanted = expected(np.asarray(data.obsm["ADT"]), found, embeddings)
    np.testing.assert_allclose(written.obsm["X_adt"], wanted, atol=2e-6)
    assert written.uns["bftembed"]["X_adt"]["kind"] == "protein"
    in_memory = embed_cells(data, embeddings, **options)
    np.testing.assert_array_equal(in_memory.obsm["X_adt"], written.obsm["X_adt"])


def test_rna_and_adt_of_one_file_by_the_commands(shared_data, tmp_path):
    path = shared_data("cells/citefuse_citeseq_pbmc500.h5ad")
    proteins, _ = protein_embeddings(anndata.read_h5ad(path, backed="r").uns["ADT_names"])
    proteins.save(tmp_path / "proteins.safetensors")

    def run(*arguments):
        command = [sys.executable, "-c", "from bftembed.cli import main; main()", "cells", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    genes = tmp_path / "genes.safetensors"
    names = [str(name) for name in anndata.read_h5ad(path, backed="r").var_names[:3000]]
    GeneEmbeddings(list(dict.fromkeys(names)), np.random.default_rng(0).normal(size=(3000, 8))).save(genes)
    rna = run("embed", path, "--genes", genes, "--out", tmp_path / "rna.h5ad", "--json", "--empty-cells", "nan")
    adt = run(
        "embed", tmp_path / "rna.h5ad", "--genes", tmp_path / "proteins.safetensors", "--out", tmp_path / "both.h5ad",
        "--obsm", "ADT", "--kind", "protein", "--normalize", "clr", "--key", "X_adt", "--json",
    )  # fmt: skip
    assert (rna["normalize"], adt["normalize"]) == ("log1p-cp10k", "clr")
    both = anndata.read_h5ad(tmp_path / "both.h5ad")
    assert {"X_bft", "X_adt", "ADT"} <= set(both.obsm)
    assert {"X_bft_coverage", "X_adt_coverage"} <= set(both.obs)


def test_clr_of_logged_values_is_refused(cells, embeddings):
    cells.X = np.log1p(cells.X.toarray())
    with pytest.raises(BftembedError, match="logged already"):
        embed_cells(cells, embeddings, normalize="clr")


def test_a_taken_coverage_column_is_refused_and_replaced_when_asked(cells, embeddings):
    cells.obs["X_bft_coverage"] = "mine"
    with pytest.raises(BftembedError, match=r"\.obs\['X_bft_coverage'\] already"):
        embed_cells(cells, embeddings)
    embed_cells(cells, embeddings, overwrite=True)
    assert (cells.obs["X_bft_coverage"] <= 1).all()


def test_modality_of_an_anndata_is_refused(cells, embeddings):
    with pytest.raises(BftembedError, match="mdata"):
        embed_cells(cells, embeddings, modality="rna")
