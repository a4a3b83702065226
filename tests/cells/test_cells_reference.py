"""The cell embedding equals a plain NumPy reference, on real data and on data whose answer is known by hand."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pytest

from bftembed.cells.embed import embed_cells
from bftembed.embeddings import GeneEmbeddings
from bftembed.entities.genes import GeneIndex


def reference(x, names, embeddings, *, counts, matched=False, l2=True):
    """GenePT-w, written down a second time: dense, float64, one gene after the other."""
    x = np.asarray(x, dtype=np.float64)
    f = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4) if counts else x
    vectors = np.zeros((len(x), embeddings.matrix.shape[1]))
    weights = np.zeros(len(x))
    for column, name in enumerate(names):
        gene = name if name in embeddings else GeneIndex.default().resolve([name])[0].entity
        if gene in embeddings:
            vectors += np.outer(f[:, column], embeddings.vector(gene).astype(np.float64))
            weights += f[:, column]
    vectors /= weights[:, None] if matched else len(names)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if l2 else vectors


def embeddings_for(names, dim=16):
    """Random vectors of four genes in five of those that the data has."""
    entities = dict.fromkeys(r.entity for r in GeneIndex.default().resolve(list(names)) if r.symbol)
    ids = [name for i, name in enumerate(entities) if i % 5]
    return GeneEmbeddings(ids, np.random.default_rng(1).normal(size=(len(ids), dim)).astype(np.float32))


def assert_same_direction(found, expected):
    found = found.astype(np.float64)
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert (1 - cosine).max() <= 1e-6


@pytest.mark.parametrize(
    "file, counts",
    [
        ("citefuse_citeseq_pbmc500.h5ad", True),
        ("scclassify_pancreas_wang.h5ad", False),
        ("scclassify_pancreas_xin.h5ad", False),
        ("symphony_pbmc_3batch.h5ad", False),
    ],
)
def test_shared_cells_equal_the_reference(shared_data, tmp_path, file, counts):
    path = shared_data(f"cells/{file}")
    data = anndata.read_h5ad(path)
    embeddings = embeddings_for(data.var_names)
    report = embed_cells(path, embeddings, out=tmp_path / "out.h5ad", block_rows=128)
    expected = reference(data.X.toarray(), data.var_names, embeddings, counts=counts)
    found = anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_bft"]
    assert report.normalize == ("log1p-cp10k" if counts else "none")
    assert 0.5 < report.coverage < 1
    assert_same_direction(found, expected)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_packaged_pbmc_in_the_oldest_layout_equals_the_reference(pbmc_path, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = anndata.read_h5ad(pbmc_path)
    embeddings = embeddings_for(data.raw.var_names)
    report = embed_cells(pbmc_path, embeddings, out=tmp_path / "out.h5ad", use_raw=True)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    expected = reference(data.raw.X.toarray(), data.raw.var_names, embeddings, counts=False)
    assert report.matrix == "raw/X"
    assert "already logged" in report.reason
    assert_same_direction(written.obsm["X_bft"], expected)
    assert list(written.obs["bulk_labels"]) == list(data.obs["bulk_labels"])
    np.testing.assert_array_equal(written.obsm["X_pca"], data.obsm["X_pca"])
    np.testing.assert_array_equal(written.raw.X.toarray(), data.raw.X.toarray())


@pytest.mark.parametrize("matched", [False, True])
@pytest.mark.parametrize("l2", [False, True])
@pytest.mark.parametrize("normalize", ["log1p-cp10k", "none"])
def test_every_variant_equals_the_reference(cells, embeddings, matched, l2, normalize):
    denominator = "matched-expression" if matched else "all-genes"
    embed_cells(cells, embeddings, normalize=normalize, denominator=denominator, l2=l2)
    expected = reference(
        cells.X.toarray(), cells.var_names, embeddings, counts=normalize == "log1p-cp10k", matched=matched, l2=l2
    )
    np.testing.assert_allclose(cells.obsm["X_bft"], expected, rtol=2e-6, atol=1e-7)


def test_two_cells_by_hand():
    data = anndata.AnnData(np.array([[3.0, 0, 1], [0, 2, 2]], dtype=np.float32))
    data.var_names = ["LYZ", "CD3D", "GNLY"]
    embeddings = GeneEmbeddings(["LYZ", "CD3D"], [[1, 0], [0, 2]])
    embed_cells(data, embeddings, normalize="none", l2=False)
    np.testing.assert_allclose(data.obsm["X_bft"], [[1, 0], [0, 4 / 3]], rtol=1e-7)
    embed_cells(data, embeddings, normalize="none", l2=False, denominator="matched-expression", overwrite=True)
    np.testing.assert_allclose(data.obsm["X_bft"], [[1, 0], [0, 2]], rtol=1e-7)
    embed_cells(data, embeddings, normalize="log1p-cp10k", l2=False, overwrite=True)
    np.testing.assert_allclose(data.obsm["X_bft"], [[np.log1p(7500) / 3, 0], [0, 2 * np.log1p(5000) / 3]], rtol=1e-6)


def test_names_of_any_kind_reach_their_embedding_and_are_counted(embeddings):
    data = anndata.AnnData(np.ones((1, 6), dtype=np.float32) * [[1, 2, 3, 4, 5, 6]])
    # symbol · Ensembl with version (LYZ) · previous symbol of MS4A1 · unknown · known without vector · symbol again
    data.var_names = ["CD3D", "ENSG00000090382.7", "CD20", "no-such-gene", "TP53", "CD3D"]
    embed_cells(data, embeddings, normalize="none", l2=False)
    cd3d, lyz, ms4a1 = (embeddings.vector(gene).astype(np.float64) for gene in ("CD3D", "LYZ", "MS4A1"))
    np.testing.assert_allclose(data.obsm["X_bft"], [((1 + 6) * cd3d + 2 * lyz + 3 * ms4a1) / 6], rtol=1e-6)
    counted = data.uns["bftembed"]["X_bft"]
    counts = {name: counted[f"n_{name}"] for name in ("used", "mapped", "unresolved", "no_embedding", "duplicates")}
    assert counts == {"used": 2, "mapped": 2, "unresolved": 1, "no_embedding": 1, "duplicates": 1}
    assert counted["coverage"] == pytest.approx((1 + 6 + 2 + 3) / 21)


def test_ambiguous_name_matches_by_its_own_text_only():
    index = GeneIndex.default()
    ambiguous = next(
        r for r in index.resolve(["STRA13", "MT1", "AIM1", "B3GALT5", "ASP", "CAP"]) if r.status == "ambiguous"
    )
    data = anndata.AnnData(np.ones((1, 2), dtype=np.float32))
    data.var_names = [ambiguous.name, "LYZ"]
    ids = ["LYZ", *ambiguous.candidates]
    guessed = embed_cells(data.copy(), GeneEmbeddings(ids, np.eye(len(ids))))
    assert guessed.uns["bftembed"]["X_bft"]["n_ambiguous"] == 1
    np.testing.assert_allclose(guessed.obsm["X_bft"], np.eye(len(ids))[:1])
    exact = embed_cells(data.copy(), GeneEmbeddings(["LYZ", ambiguous.name], np.eye(2)))
    assert exact.uns["bftembed"]["X_bft"]["n_ambiguous"] == 0
    assert (exact.obsm["X_bft"] > 0).all()


def test_raw_with_its_own_genes_and_layer_and_column_are_used(cells, embeddings):
    full = cells.copy()
    subset = full[:, ["CD8A", "LYZ"]].copy()
    subset.raw = full
    subset.layers["counts"] = subset.X * 2
    subset.var["symbol"] = list(subset.var_names)
    subset.var_names = ["1", "2"]
    embed_cells(subset, embeddings, key="raw", use_raw=True)
    embed_cells(subset, embeddings, key="layer", layer="counts", gene_column="symbol", normalize="none", l2=False)
    expected = reference(full.X.toarray(), full.var_names, embeddings, counts=True)
    np.testing.assert_allclose(subset.obsm["raw"], expected, rtol=2e-6, atol=1e-7)
    doubled = reference(2 * subset.X.toarray(), ["CD8A", "LYZ"], embeddings, counts=False, l2=False)
    np.testing.assert_allclose(subset.obsm["layer"], doubled, rtol=2e-6, atol=1e-7)
