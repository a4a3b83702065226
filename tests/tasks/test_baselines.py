"""Baselines: those of the expression equal their libraries, those of gene vectors follow the scored embedding."""

from __future__ import annotations

import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from bftembed import GeneEmbeddings, bench, embed_cells, embed_genes
from bftembed.errors import BftembedError, MissingExtraError
from bftembed.tasks import baselines as module
from bftembed.tasks.baselines import CellBaselines, bbknn, harmony, parse_baselines, pca, shuffled_vectors

BATCHES = np.array(["x", "y"])[(np.arange(80) // 4) % 2]
GENES = ["TP53", "BRCA1", "EGFR", "MYC", "CD3E", "CD19", "NKG7", "LYZ", "PPBP", "GNLY", "MS4A1", "CD8A"]
TEXTS = {g: f"{g} is a gene of kind {i % 4}, about {'cells' if i % 2 else 'tissue'}" for i, g in enumerate(GENES[:9])}


def expression(n=80, genes=60, seed=0):
    draw = np.random.default_rng(seed)
    level = draw.gamma(1.0, 1.0, (4, genes))[np.arange(n) % 4]
    return scipy.sparse.csr_matrix(np.log1p(draw.poisson(level)).astype(np.float32))


def components(shift=0, d=10):
    found = pca(expression(), n_components=d)
    found[BATCHES == "y"] += shift
    return found


def test_pca_equals_that_of_scanpy_up_to_sign():
    import scanpy

    cells = anndata.AnnData(expression())
    scanpy.pp.pca(cells, n_comps=20)
    expected, found = cells.obsm["X_pca"], pca(cells.X, n_components=20)
    assert (found.shape, found.dtype) == ((80, 20), np.float32)
    np.testing.assert_allclose(found * np.sign((found * expected).sum(axis=0)), expected, atol=1e-4)
    np.testing.assert_allclose(np.abs(pca(cells.X)), np.abs(pca(cells.X.toarray())), atol=1e-3)
    assert pca(cells.X[:10]).shape == (10, 9)


def test_expression_without_components_raises():
    for cells in (np.ones((20, 5)), np.full((20, 5), np.nan), np.ones((1, 8)), np.ones((30, 0))):
        with pytest.raises(BftembedError):
            pca(cells)


def test_harmony_is_that_of_harmonypy():
    harmonypy = pytest.importorskip("harmonypy")
    given = components(shift=1)
    found, kept = harmony(given, BATCHES), given.copy()
    made = harmonypy.run_harmony(
        given.astype(np.float64), pd.DataFrame({"batch": BATCHES}), ["batch"], random_state=0, verbose=False
    ).Z_corr
    np.testing.assert_array_equal(found, np.asarray(made, dtype=np.float32))
    np.testing.assert_array_equal(given, kept)
    gap = [np.linalg.norm(x[BATCHES == "x"].mean(axis=0) - x[BATCHES == "y"].mean(axis=0)) for x in (given, found)]
    assert gap[1] < gap[0] / 2


def test_bbknn_vectors_are_the_leading_eigenvectors_of_its_graph():
    bbknn_matrix = pytest.importorskip("bbknn.matrix")
    found = bbknn(components(), BATCHES)
    assert (found.shape, found.dtype) == ((80, 30), np.float32)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, bbknn(components(), BATCHES))
    graph = bbknn_matrix.bbknn(components(), BATCHES)[1].toarray().astype(float)
    root = 1 / np.sqrt(graph.sum(axis=1))
    values, vectors = np.linalg.eigh(root[:, None] * graph * root)
    assert (values > 1 - 1e-9).sum() == 4  # four parts: their eigenvectors may be turned, their distances not
    density = (1 / root) / np.linalg.norm(1 / root)
    assert values[::-1][30] > 0
    kept = (vectors * np.where(np.arange(80) >= 80 - 31, values, 0) ** 2) @ vectors.T - np.outer(density, density)
    np.testing.assert_allclose(found @ found.T, kept * np.outer(root, root), atol=1e-5)


def test_batches_that_cannot_be_corrected_raise(monkeypatch):
    for make in (harmony, bbknn):
        with pytest.raises(BftembedError):
            make(components(), np.array(["x"] * 80))
    with pytest.raises(BftembedError):
        harmony(components()[:29], BATCHES[:29])
    with pytest.raises(BftembedError, match="rare"):
        bbknn(components(), np.array(["rare", *["x", "y"] * 39, "x"]))
    for make, name in ((harmony, "harmonypy"), (bbknn, "bbknn.matrix")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtraError):
            make(components(), BATCHES)


def cells(n=120, seed=0):
    draw = np.random.default_rng(seed)
    level = draw.gamma(1.0, 3.0, (3, len(GENES)))[np.arange(n) % 3] + 0.2
    adata = anndata.AnnData(draw.poisson(level).astype(np.float32) + (draw.random((n, len(GENES))) < 0.3))
    adata.var_names, adata.obs_names = GENES, [f"cell{i}" for i in range(n)]
    adata.obs["kind"] = pd.Categorical(np.array(["B", "T", "NK"])[np.arange(n) % 3])
    return adata


def embedded(**options):
    adata = cells()
    embed_cells(adata, embed_genes(TEXTS, "tfidf"), key="X_text", **options)
    return adata


def made(data, names, keys=("X_text",), **options):
    return {b.name: b for b in CellBaselines(data, parse_baselines(names)).of_genes(keys, **options)}


def random_cells(dim, **options):
    vectors = embed_genes({g: g for g in TEXTS}, f"random:dim={dim},seed=0")
    return embed_cells(cells(), vectors, precision="exact", **options).obsm["X_bft"]


def test_names_and_draws_are_parsed():
    assert parse_baselines("pca, random:3,,tfidf") == {"pca": 1, "random": 3, "tfidf": 1}
    assert parse_baselines(["harmony"]) == {"harmony": 1}
    for names in ("pcs", "pca:3", "random:0", "random:x", "random:1000"):
        with pytest.raises(BftembedError):
            parse_baselines(names)


@pytest.mark.parametrize(
    "options",
    [{}, {"weights": "idf", "top_k": 4, "gene_matrix": "center", "l2": False}],
)
def test_random_vectors_are_aggregated_as_the_scored_embedding_was(options):
    adata = embedded(**options)
    found = made(adata, "random", texts=TEXTS)["random"]
    np.testing.assert_allclose(found.vectors, random_cells(adata.obsm["X_text"].shape[1], **options), atol=1e-5)
    assert found.kind == "random"


def test_a_file_and_its_anndata_give_the_same_baselines_of_the_scored_matrix(tmp_path):
    adata = cells()
    adata.layers["other"] = adata.X[:, ::-1].copy()
    options = {"weights": "rank", "gene_matrix": "center", "l2": False}
    embed_cells(adata, embed_genes(TEXTS, "tfidf"), key="X_text", layer="other", **options)
    adata.write_h5ad(tmp_path / "c.h5ad")
    given = {"texts": TEXTS, "genes": embed_genes(TEXTS, "tfidf")}
    names = "random:2,tfidf,shuffled"
    from_memory, from_file = (made(data, names, **given) for data in (adata, tmp_path / "c.h5ad"))
    kinds = {"random 1": "random", "random 2": "random", "shuffled": "shuffled", "tfidf": "baseline"}
    assert {b.name: b.kind for b in from_memory.values()} == kinds
    for name, baseline in from_memory.items():
        np.testing.assert_array_equal(baseline.vectors, from_file[name].vectors)
        assert baseline.note == from_file[name].note
    assert not np.allclose(from_memory["random 1"].vectors, from_memory["random 2"].vectors)
    dim = adata.obsm["X_text"].shape[1]
    assert not np.allclose(from_memory["random 1"].vectors, random_cells(dim, **options))  # that is of X
    np.testing.assert_allclose(from_memory["tfidf"].vectors, adata.obsm["X_text"], atol=1e-3)


def test_shuffled_vectors_are_those_of_other_genes():
    vectors = embed_genes(TEXTS, "tfidf")
    found = shuffled_vectors(vectors, 0)
    assert found.ids == vectors.ids
    np.testing.assert_array_equal(np.sort(found.matrix, axis=0), np.sort(vectors.matrix, axis=0))
    assert not np.array_equal(found.matrix, vectors.matrix)
    same = GeneEmbeddings(GENES, np.tile(np.arange(1.0, 5), (12, 1)).astype(np.float32))
    of_cells = made(embedded(), "shuffled", genes=same)["shuffled"].vectors
    np.testing.assert_allclose(of_cells, of_cells[:1].repeat(120, axis=0), atol=1e-6)


def test_what_a_baseline_needs_must_be_given(tmp_path):
    for name in ("tfidf", "shuffled"):
        with pytest.raises(BftembedError):
            made(cells(), name)
    with pytest.raises(BftembedError):
        bench.clustering(cells(), "", "kind", protocol="standard", baselines="harmony")
    genes = tmp_path / "g.safetensors"
    embed_genes(TEXTS, "tfidf").save(genes)
    kept = genes.read_bytes()
    with pytest.raises(BftembedError):
        bench.clustering(
            embedded(), "X_text", "kind", protocol="standard", baselines="shuffled", genes=genes, out=genes
        )
    assert genes.read_bytes() == kept


def test_expression_that_does_not_fit_into_memory_raises_or_is_streamed(monkeypatch):
    expected = made(embedded(), "random")["random"].vectors
    monkeypatch.setattr(module, "available_memory", lambda: 1000)
    with pytest.raises(BftembedError):
        CellBaselines(cells(), {"pca": 1}).of_expression()
    np.testing.assert_array_equal(made(embedded(), "random")["random"].vectors, expected)


def test_a_damaged_provenance_raises_and_without_one_random_vectors_are_those_of_every_known_gene():
    adata = embedded()
    adata.uns["bftembed"]["X_text"]["weights"] = "nonsense"
    with pytest.raises(BftembedError, match="nonsense"):
        made(adata, "random")
    adata.uns["bftembed"] = "text"
    adata.var_names = [*GENES[:-1], "no-such-gene"]
    found = made(adata, "random")["random"]
    assert found.vectors.shape == (120, 384)
    assert "11 of 12 genes" in found.note


def test_refseq_summaries_are_encoded_as_genept_did(shared_data, monkeypatch):
    monkeypatch.setenv("BFTEMBED_DATA", str(shared_data("cells").parent))
    found = made(embedded(), "ncbi", encoder="tfidf:dim=64")["ncbi"]
    assert (found.vectors.shape, found.kind) == ((120, 64), "reference")
    assert "11 of 12 genes" in found.note
