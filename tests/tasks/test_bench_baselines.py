"""Baselines made in a run: what they are made of, that they follow the scored embedding, and what they refuse."""

from __future__ import annotations

import sys

import anndata
import numpy as np
import pandas as pd
import pytest

from bftembed import GeneEmbeddings, bench, embed_cells, embed_genes
from bftembed.bench.baselines import asked_baselines, gene_baselines
from bftembed.errors import BftembedError, MissingExtraError

GENES = ["TP53", "BRCA1", "EGFR", "MYC", "CD3E", "CD19", "NKG7", "LYZ", "PPBP", "GNLY", "MS4A1", "CD8A"]
TEXTS = {g: f"{g} is a gene of kind {i % 4}, about {'cells' if i % 2 else 'tissue'}" for i, g in enumerate(GENES[:9])}


def cells(n=120, seed=0):
    draw = np.random.default_rng(seed)
    level = draw.gamma(1.0, 3.0, (3, len(GENES)))[np.arange(n) % 3] + 0.2
    adata = anndata.AnnData(draw.poisson(level).astype(np.float32) + (draw.random((n, len(GENES))) < 0.3))
    adata.var_names, adata.obs_names = GENES, [f"cell{i}" for i in range(n)]
    adata.obs["kind"] = pd.Categorical(np.array(["B", "T", "NK"])[np.arange(n) % 3])
    adata.obs["lot"] = pd.Categorical(np.array(["x", "y"])[(np.arange(n) // 3) % 2])
    return adata


def embedded(**options):
    adata = cells()
    text = embed_genes(TEXTS, "tfidf")
    embed_cells(adata, text, key="X_text", **options)
    return adata


def made(data, names, keys=("X_text",), **options):
    return gene_baselines(asked_baselines(names), data, keys, **options)


def test_names_and_draws_are_read():
    assert asked_baselines("pca, random:3,,tfidf") == {"pca": 1, "random": 3, "tfidf": 1}
    assert asked_baselines(["harmony"]) == {"harmony": 1}
    assert asked_baselines(()) == {}


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ("pcs", "Unknown baseline 'pcs'.*pca"),
        ("pca:3", "Only random and shuffled take draws"),
        ("random:0", "random:5"),
        ("random:x", "random:5"),
        ("random:1000", "random:5"),
    ],
)
def test_names_that_are_not_known_are_refused(names, reason):
    with pytest.raises(BftembedError, match=reason):
        asked_baselines(names)


@pytest.mark.parametrize(
    "options",
    [{}, {"weights": "rank"}, {"gene_matrix": "center"}, {"weights": "idf", "top_k": 4}, {"l2": False}],
)
def test_random_vectors_are_aggregated_as_the_scored_embedding_was(options):
    adata = embedded(**options)
    dim = adata.obsm["X_text"].shape[1]
    found = made(adata, "random", texts=TEXTS)
    random = embed_genes({g: g for g in TEXTS}, f"random:dim={dim},seed=0")
    expected = embed_cells(cells(), random, precision="exact", **options).obsm["X_bft"]
    np.testing.assert_allclose(found.vectors["baseline: random"], expected, atol=1e-5)
    assert f"Gaussian vectors, {dim} dimensions, 9 of 12 genes" in found.about["baseline: random"]


def test_a_file_and_its_anndata_give_the_same_baselines(tmp_path):
    adata = embedded(weights="rank", gene_matrix="center", l2=False)
    adata.write_h5ad(tmp_path / "c.h5ad")
    names = "random:2,tfidf,shuffled"
    genes = embed_genes(TEXTS, "tfidf")
    from_memory, from_file = (made(d, names, texts=TEXTS, genes=genes) for d in (adata, tmp_path / "c.h5ad"))
    assert list(from_memory.vectors) == [f"baseline: {n}" for n in ("random 1", "random 2", "shuffled", "tfidf")]
    assert from_memory.about == from_file.about
    for name, vectors in from_memory.vectors.items():
        np.testing.assert_array_equal(vectors, from_file.vectors[name])
    assert not np.allclose(from_memory.vectors["baseline: random 1"], from_memory.vectors["baseline: random 2"])


def test_the_matrix_of_the_scored_embedding_is_taken(tmp_path):
    adata = cells()
    adata.layers["other"] = adata.X[:, ::-1].copy()
    embed_cells(adata, embed_genes(TEXTS, "tfidf"), key="X_text", layer="other")
    found = made(adata, "random", texts=TEXTS)
    plain = made(adata, "random", keys=("X_none",), texts=TEXTS)
    dim = adata.obsm["X_text"].shape[1]
    expected = embed_cells(cells(), embed_genes({g: g for g in TEXTS}, f"random:dim={dim},seed=0")).obsm["X_bft"]
    assert plain.vectors["baseline: random"].shape == (120, 384)
    assert not np.allclose(found.vectors["baseline: random"], expected)
    adata.write_h5ad(tmp_path / "c.h5ad")
    again = made(tmp_path / "c.h5ad", "random", texts=TEXTS)
    np.testing.assert_array_equal(found.vectors["baseline: random"], again.vectors["baseline: random"])


def test_without_an_embedding_random_vectors_are_those_of_every_known_gene():
    adata = cells()
    adata.var_names = [*GENES[:-1], "no-such-gene"]
    found = made(adata, "random", keys=())
    assert found.vectors["baseline: random"].shape == (120, 384)
    assert "11 of 12 genes" in found.about["baseline: random"]


def test_tfidf_is_that_of_the_texts_and_shuffled_deals_the_same_vectors():
    adata = embedded()
    tfidf = made(adata, "tfidf", texts=TEXTS).vectors["baseline: tfidf"]
    np.testing.assert_allclose(tfidf, adata.obsm["X_text"], atol=1e-3)
    one = GeneEmbeddings(GENES, np.tile(np.arange(1.0, 5), (12, 1)).astype(np.float32))
    dealt = made(adata, "shuffled", genes=one).vectors["baseline: shuffled"]
    np.testing.assert_allclose(dealt, dealt[:1].repeat(120, axis=0), atol=1e-6)
    own = made(adata, "shuffled", genes=embed_genes(TEXTS, "tfidf")).vectors["baseline: shuffled"]
    assert not np.allclose(own, tfidf, atol=1e-2)


@pytest.mark.parametrize(("name", "reason"), [("tfidf", "--texts"), ("shuffled", "--genes")])
def test_what_a_baseline_is_made_of_must_be_given(name, reason):
    with pytest.raises(BftembedError, match=reason):
        made(cells(), name)


@pytest.mark.parametrize("verb", ["clustering", "integration"])
def test_verbs_score_baselines_beside_the_embedding_and_tell_how_they_were_made(verb):
    adata = embedded()
    columns = ("kind",) if verb == "clustering" else ("kind", "lot")
    options = {"protocol": "standard"} if verb == "clustering" else {"profile": "current"}
    frame = getattr(bench, verb)(
        adata, "X_text", *columns, baselines="pca,random:2,tfidf", texts=TEXTS, seeds=1, **options
    )
    baselines = [f"baseline: {n}" for n in ("pca", "random 1", "random 2", "tfidf")]
    assert set(frame["embedding"]) == {"X_text", *baselines}
    of_baselines = frame[frame["embedding"].isin(baselines)]
    assert of_baselines["note"].str.contains("made of: ").all()
    assert not frame[frame["embedding"] == "X_text"]["note"].str.contains("made of").any()
    told = of_baselines[of_baselines["embedding"] == "baseline: random 2"]["note"].iloc[0]
    assert "aggregated by expression, raw, log1p-cp10k" in told


def test_several_protocols_are_several_tables():
    told = []
    frame = bench.clustering(
        embedded(), "X_text", "kind", protocol="standard,genept", seeds=1, progress=lambda *x: told.append(x)
    )
    assert set(frame["protocol"]) == {"standard", "permuted-labels", "genept"}
    assert [x[:2] for x in told] == [(1, 2), (2, 2)]


@pytest.mark.parametrize("name", ["harmony", "scvi"])
def test_baselines_of_batches_have_no_place_in_clustering(name):
    with pytest.raises(BftembedError, match=f"'{name}' integrates batches"):
        bench.clustering(embedded(), "X_text", "kind", baselines=name)


def test_scvi_is_made_of_counts_where_it_is_installed():
    pytest.importorskip("scvi")
    frame = bench.integration(embedded(), "X_text", "kind", "lot", baselines="scvi", seeds=1)
    assert frame[frame["embedding"] == "baseline: scvi"]["note"].str.contains("scVI of the counts in X, 30").all()


def test_scvi_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scvi.model", None)
    with pytest.raises(MissingExtraError, match="pip install scvi-tools"):
        bench.integration(embedded(), "X_text", "kind", "lot", baselines="scvi", seeds=1)


def test_an_unknown_protocol_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(BftembedError, match="Unknown protocol 'strickt'"):
        bench.clustering(tmp_path / "missing.h5ad", "X_text", "kind", protocol="strickt")


@pytest.mark.parametrize("verb", ["clustering", "integration"])
def test_texts_and_genes_are_not_written_over(tmp_path, verb):
    genes = tmp_path / "g.safetensors"
    embed_genes(TEXTS, "tfidf").save(genes)
    before = genes.read_bytes()
    columns = ("kind",) if verb == "clustering" else ("kind", "lot")
    with pytest.raises(BftembedError, match=r"g\.safetensors"):
        getattr(bench, verb)(embedded(), "X_text", *columns, baselines="shuffled", genes=genes, out=genes)
    assert genes.read_bytes() == before


def test_provenance_that_is_no_provenance_is_an_error_or_passed_over():
    adata = embedded()
    adata.uns["bftembed"]["X_text"]["weights"] = "nonsense"
    with pytest.raises(BftembedError, match="Unknown weights 'nonsense'"):
        made(adata, "random")
    adata.uns["bftembed"] = "text"
    assert made(adata, "random").vectors["baseline: random"].shape == (120, 384)


def test_refseq_summaries_are_encoded_as_genept_did(shared_data, monkeypatch):
    monkeypatch.setenv("BFTEMBED_DATA", str(shared_data("cells").parent))
    found = made(embedded(), "ncbi", encoder="tfidf:dim=64")
    assert found.vectors["baseline: ncbi"].shape == (120, 64)
    assert "RefSeq summaries by tfidf:dim=64, 11 of 12 genes" in found.about["baseline: ncbi"]
