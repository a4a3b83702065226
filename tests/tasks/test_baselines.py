"""Baselines: those of the expression equal their libraries, those of gene vectors follow the scored embedding."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from tests_paths import REPOSITORY

from bftembed import GeneEmbeddings, bench, embed_cells, embed_genes
from bftembed.errors import BftembedError, MissingExtraError
from bftembed.tasks import baselines as module
from bftembed.tasks.baselines import CellBaselines, bbknn, harmony, parse_baselines, pca, scvi, shuffled_vectors

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
    graph = bbknn_matrix.bbknn(components(), BATCHES)[1].toarray().astype(float)
    root = 1 / np.sqrt(graph.sum(axis=1))
    values, vectors = np.linalg.eigh(root[:, None] * graph * root)
    assert (values > 1 - 1e-9).sum() == 4  # four parts: their eigenvectors may be turned, their distances not
    density = (1 / root) / np.linalg.norm(1 / root)
    assert values[::-1][30] > 0
    kept = (vectors * np.where(np.arange(80) >= 80 - 31, values, 0) ** 2) @ vectors.T - np.outer(density, density)
    np.testing.assert_allclose(found @ found.T, kept * np.outer(root, root), atol=1e-5)


def digests():
    made = (components(), harmony(components(), BATCHES), bbknn(components(), BATCHES))
    return [hashlib.sha256(x.tobytes()).hexdigest() for x in made]


def test_all_are_the_same_in_another_process():
    code = "import sys; sys.path[:0] = ['tests', 'tests/tasks']; import test_baselines as t; print(*t.digests())"
    command = [sys.executable, "-W", "ignore", "-c", code]
    printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert printed.split() == digests()


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


@pytest.mark.parametrize(
    ("counts", "batches"),
    [
        (np.log1p(np.arange(12.0)).reshape(4, 3), "xxyy"),
        (-np.ones((4, 3)), "xxyy"),
        (np.full((4, 3), np.inf), "xxyy"),
        (np.ones((4, 3)), "xxxx"),
        (np.array([[1.0], [0], [0], [0]]), "xxyy"),
    ],
)
def test_what_scvi_cannot_model_raises(counts, batches):
    with pytest.raises(BftembedError):
        scvi(scipy.sparse.csr_matrix(counts), np.array(list(batches)))


def test_without_scvi_tools_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scvi.model", None)
    monkeypatch.setitem(sys.modules, "scvi", None)
    with pytest.raises(MissingExtraError, match="pip install scvi-tools"):
        scvi(scipy.sparse.csr_matrix(np.ones((4, 3))), np.array(list("xxyy")))


@pytest.mark.filterwarnings("ignore")
def test_scvi_mixes_batches_keeps_types_and_repeats_itself(tmp_path, monkeypatch):
    pytest.importorskip("scvi")
    from bftembed.metrics.silhouette import silhouette_batch, silhouette_label

    monkeypatch.chdir(tmp_path)
    draw, i = np.random.default_rng(0), np.arange(129)
    types, batches = i % 2, np.array(["x", "y"])[(i // 2) % 2]
    level = draw.gamma(2.0, 2.0, (2, 40))[types]
    level[:, :10] *= np.where(batches == "y", 8.0, 1.0)[:, None]
    counts = scipy.sparse.csr_matrix(draw.poisson(level) * (i != 5)[:, None], dtype=np.float32)
    found, again = (scvi(counts, batches, n_latent=5, max_epochs=60) for _ in "12")
    np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(np.isnan(found).any(axis=1), i == 5)
    assert not list(tmp_path.iterdir())
    has = i != 5
    assert silhouette_label(found[has], types[has]) > 0.6
    before = pca(np.log1p(counts[has]), n_components=5)
    mixed, apart = (silhouette_batch(x, types[has], batches[has]) for x in (found[has], before))
    assert mixed > apart + 0.1


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
    [{}, {"weights": "rank"}, {"gene_matrix": "center"}, {"weights": "idf", "top_k": 4}, {"l2": False}],
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


def test_without_an_embedding_random_vectors_are_those_of_every_known_gene():
    adata = cells()
    adata.var_names = [*GENES[:-1], "no-such-gene"]
    found = made(adata, "random", keys=())["random"]
    assert found.vectors.shape == (120, 384)
    assert "11 of 12 genes" in found.note


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
    for name in ("harmony", "scvi"):
        with pytest.raises(BftembedError):
            bench.clustering(cells(), "", "kind", protocol="standard", baselines=name)
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


def test_a_damaged_provenance_raises_and_a_foreign_one_is_ignored():
    adata = embedded()
    adata.uns["bftembed"]["X_text"]["weights"] = "nonsense"
    with pytest.raises(BftembedError, match="nonsense"):
        made(adata, "random")
    adata.uns["bftembed"] = "text"
    assert made(adata, "random")["random"].vectors.shape == (120, 384)


def test_refseq_summaries_are_encoded_as_genept_did(shared_data, monkeypatch):
    monkeypatch.setenv("BFTEMBED_DATA", str(shared_data("cells").parent))
    found = made(embedded(), "ncbi", encoder="tfidf:dim=64")["ncbi"]
    assert (found.vectors.shape, found.kind) == ((120, 64), "reference")
    assert "11 of 12 genes" in found.note
