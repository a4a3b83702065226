"""Weights, top genes and transformed gene matrices, held against plain NumPy."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfTransformer

from bftembed.cells.embed import embed_cells
from bftembed.cells.transforms import transformed
from bftembed.cells.weighting import inverse_document_frequency
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError

GENES = ["CD3D", "LYZ", "MS4A1", "GNLY", "NKG7", "CD8A", "IL7R", "CST3"]
EMBEDDINGS = GeneEmbeddings(GENES[:7], np.random.default_rng(3).normal(size=(7, 5)).astype(np.float32))
OPTIONS = {"normalize": "none", "l2": False, "denominator": "matched-expression", "empty_cells": "nan"}


def cells_of(values: np.ndarray, names=GENES) -> anndata.AnnData:
    cells = anndata.AnnData(sp.csr_matrix(values.astype(np.float32)))
    cells.var_names = list(names)
    return cells


def embedded(values: np.ndarray, names=GENES, **options) -> np.ndarray:
    return embed_cells(cells_of(values, names), EMBEDDINGS, **{**OPTIONS, **options}).obsm["X_bft"]


def expected(values: np.ndarray, weights: str, top_k: int | None) -> np.ndarray:
    """Give each cell's vector by loops and sorts in plain Python."""
    rows = []
    n_with = (values != 0).sum(0)
    idf = np.log((1 + len(values)) / (1 + n_with)) + 1
    for cell in values:
        present = [g for g in range(7) if cell[g] != 0]
        weight = {g: cell[g] * (idf[g] if weights == "idf" else 1) for g in present}
        if weights == "rank":
            n = len(present)
            below = {g: sum(weight[h] < weight[g] for h in present) for g in present}
            equal = {g: sum(weight[h] == weight[g] for h in present) for g in present}
            weight = {g: (below[g] + (equal[g] + 1) / 2) / n for g in present}
        chosen = sorted(present, key=lambda g: (-np.float32(weight[g]), g))[:top_k]
        total = sum(weight[g] for g in chosen)
        vector = sum((weight[g] * EMBEDDINGS.vector(GENES[g]).astype(float) for g in chosen), np.zeros(5))
        rows.append(vector / total if chosen else np.full(5, np.nan))
    return np.array(rows)


@given(
    seed=st.integers(0, 10**6),
    weights=st.sampled_from(["expression", "rank", "idf"]),
    top_k=st.sampled_from([None, 1, 2, 5, 100]),
    order=st.permutations(range(8)),
    block_rows=st.integers(1, 12),
)
def test_weights_and_top_genes_equal_plain_python_in_any_order_of_genes(seed, weights, top_k, order, block_rows):
    values = np.random.default_rng(seed).poisson(1.3, (11, 8)).astype(float)  # many ties
    found = embedded(values[:, order], [GENES[i] for i in order], weights=weights, top_k=top_k, block_rows=block_rows)
    np.testing.assert_allclose(found, expected(values, weights, top_k), rtol=1e-5, atol=1e-6)


def test_idf_is_that_of_scikit_learn():
    values = np.random.default_rng(0).poisson(0.7, (40, 9))
    theirs = TfidfTransformer(norm=None).fit(sp.csr_matrix(values)).idf_
    np.testing.assert_allclose(inverse_document_frequency((values != 0).sum(0), 40), theirs, rtol=1e-6)


class TestTheGeneMatrix:
    MATRIX = np.random.default_rng(5).normal(2, [3, 2, 1, 0.5, 0.1], (60, 5)).astype(np.float32)

    def test_centred_means_are_zero(self):
        np.testing.assert_allclose(transformed(self.MATRIX, "center"), self.MATRIX - self.MATRIX.mean(0), atol=1e-5)

    @pytest.mark.parametrize("k", [1, 3, 5])
    def test_whitened_components_are_those_of_pca(self, k):
        found = transformed(self.MATRIX, f"whiten:{k}")
        theirs = PCA(k, whiten=True, svd_solver="full").fit_transform(self.MATRIX.astype(np.float64))
        np.testing.assert_allclose(found * np.sign((found * theirs).sum(0)), theirs, atol=1e-4)
        np.testing.assert_allclose(np.cov(found.T), np.eye(k).squeeze(), atol=1e-4)

    @pytest.mark.parametrize("how", ["whiten:6", "whiten:0", "whiten", "pca", "whiten:-1"])
    def test_what_cannot_be_is_refused(self, how):
        with pytest.raises(BftembedError, match=r"whiten"):
            transformed(self.MATRIX, how)

    def test_the_data_s_genes_alone_make_it_and_each_once(self):
        values = np.random.default_rng(1).poisson(2, (9, 8)) + 1.0
        own = transformed(EMBEDDINGS.matrix[:5], "whiten:2")
        found = embedded(values[:, :6], [*GENES[:5], GENES[0]], gene_matrix="whiten:2")
        weights = values[:, :5].copy()
        weights[:, 0] += values[:, 5]
        np.testing.assert_allclose(found, weights @ own / weights.sum(1, keepdims=True), rtol=1e-4, atol=1e-5)


def test_the_record_says_how(cells, embeddings):
    embed_cells(cells, embeddings, weights="rank", top_k=3, gene_matrix="center")
    told = cells.uns["bftembed"]["X_bft"]
    assert (told["weights"], told["top_k"], told["gene_matrix"]) == ("rank", 3, "center")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "ranks"}, "Did you mean 'rank'"),
        ({"top_k": 0}, "--top-k"),
        ({"gene_matrix": "whiten:99"}, "have only"),
        ({"precision": "exakt"}, "Did you mean 'exact'"),
    ],
)
def test_wrong_options_are_refused_with_the_remedy(cells, embeddings, options, message):
    with pytest.raises(BftembedError, match=message):
        embed_cells(cells, embeddings, **options)
    assert "X_bft" not in cells.obsm
