"""The vectors of cells equal a reference program, whatever the form, the container, the blocks and the order."""

from __future__ import annotations

import tracemalloc
import warnings

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from cell_toys import CONTAINERS, EMBEDDINGS, FORMS, GENES, cells_of, counts_of, embedded, reference, replaced, write
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

import bftembed
from bftembed import BftembedError, GeneEmbeddings, GeneIndex, embed_cells

DTYPES = ("float32", "float64", "int8", "int32", "int64", "uint16", "bool")
MATRICES = st.tuples(st.integers(0, 10**6), st.integers(1, 23))


def sparse_counts(seed, n_cells, dtype="float32"):
    """Counts with many zeros and ties; some cells are empty."""
    counts = np.random.default_rng(seed).poisson(0.8, size=(n_cells, len(GENES)))
    return (counts > 0 if dtype == "bool" else counts).astype(dtype)


def cosine_error(found, expected):
    """Return 1 - cosine of each row, in float64."""
    found = np.asarray(found, dtype=np.float64)
    return 1 - (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)


def test_two_cells_by_hand():
    cells = cells_of([[3.0, 0, 1], [0, 2, 2]], ["LYZ", "CD3D", "GNLY"])
    two = GeneEmbeddings(["LYZ", "CD3D"], [[1, 0], [0, 2]])
    for options, expected in (
        ({"normalize": "none"}, [[1, 0], [0, 4 / 3]]),
        ({"normalize": "none", "denominator": "matched-expression"}, [[1, 0], [0, 2]]),
        ({"normalize": "log1p-cp10k"}, [[np.log1p(7500) / 3, 0], [0, 2 * np.log1p(5000) / 3]]),
        ({"normalize": "none", "l2": True}, [[1, 0], [0, 1]]),
    ):
        np.testing.assert_allclose(embedded(cells, two, **{"l2": False, **options})[0], expected, rtol=1e-6)


@settings(max_examples=60)
@given(
    matrix=MATRICES,
    form=st.sampled_from([*FORMS, "csr_array"]),
    dtype=st.sampled_from(DTYPES),
    order=st.permutations(range(len(GENES))),
    block_rows=st.integers(1, 30),
    counts=st.booleans(),
    weights=st.sampled_from(["expression", "rank", "idf"]),
    top_k=st.sampled_from([None, 1, 2, 100]),
    matched=st.booleans(),
    l2=st.booleans(),
)
def test_every_aggregation_equals_the_reference(matrix, form, dtype, order, block_rows, counts, matched, **options):
    values = sparse_counts(*matrix, dtype)
    moved = values[:, order]
    cells = cells_of(moved, [GENES[i] for i in order], "csr" if form == "csr_array" else form)
    if form == "csr_array":
        cells.X = sp.csr_array(moved)
    found, _ = embedded(
        cells,
        normalize="log1p-cp10k" if counts else "none",
        denominator="matched-expression" if matched else "all-genes",
        empty_cells="nan",
        block_rows=block_rows,
        **options,
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, reference(values, counts=counts, matched=matched, **options), rtol=1e-5, atol=1e-5
    )


@settings(max_examples=15)
@given(matrix=MATRICES, form=st.sampled_from(sorted(FORMS)), dtype=st.sampled_from(DTYPES[:6]), rows=st.integers(1, 30))
def test_a_streamed_file_gives_exactly_what_the_anndata_gives(matrix, form, dtype, rows, tmp_path_factory):
    cells = cells_of(sparse_counts(*matrix, dtype), form=form)
    path, _ = write(cells, tmp_path_factory.mktemp("streamed"))
    options = {"empty_cells": "nan", "block_rows": rows}
    (vectors, told), (expected, of_memory) = embedded(path, **options), embedded(cells, **options)
    np.testing.assert_array_equal(vectors, expected)
    assert list(told["empty_cells"]) == list(of_memory["empty_cells"])
    for name in ("n_cells", "n_genes", "n_used", "coverage", "normalize"):
        assert told[name] == of_memory[name]


@pytest.mark.parametrize(
    ("container", "form"),
    [*zip(CONTAINERS, ("dense", "csr", "csc", "csr", "csr"), strict=True), ("zarr3", "csr"), ("zarr3", "dense")],
)
def test_every_container_gives_what_the_anndata_gives(container, form, tmp_path):
    cells = cells_of(counts_of(40), form=form)
    path, options = write(cells, tmp_path, container)
    (vectors, told), (expected, of_memory) = embedded(path, block_rows=7, **options), embedded(cells)
    np.testing.assert_array_equal(vectors, expected)
    assert (told["n_used"], told["coverage"]) == (of_memory["n_used"], of_memory["coverage"])


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_backed_anndata_is_read_from_its_file(mode, tmp_path):
    cells = cells_of(form="dense")
    path, _ = write(cells, tmp_path)
    backed = anndata.read_h5ad(path, backed=mode)
    if mode == "r+":
        cells.X[3] = 7
        backed.X[3] = 7  # what was changed in the file counts
    found, _ = embedded(backed)
    with pytest.raises(BftembedError, match="to_memory"):
        embed_cells(backed[:3], EMBEDDINGS, key="X_part")
    backed.file.close()
    np.testing.assert_array_equal(found, embedded(cells)[0])
    path.unlink()
    with pytest.raises(BftembedError, match=r"cells\.h5ad"):
        embed_cells(backed, EMBEDDINGS, key="X_gone")


@pytest.mark.parametrize("storage", [{}, {"compression": "lzf"}, {"chunks": (7,), "compression": "gzip"}])
def test_every_storage_of_hdf5_is_read(cells, path, storage):
    with h5py.File(path, "r+") as handle:
        for part in ("data", "indices", "indptr"):
            replaced(handle, f"X/{part}", handle[f"X/{part}"][:], **storage)
    np.testing.assert_array_equal(embedded(path)[0], embedded(cells)[0])


@pytest.mark.parametrize("form", FORMS)
def test_zarr_of_many_chunks_and_shards_is_read_across_them(form, tmp_path):
    import zarr

    cells = cells_of(counts_of(200), form=form)
    path, _ = write(cells, tmp_path, "zarr3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.open_group(path, mode="r+", use_consolidated=False)
        names = {"data": 37, "indices": 41, "indptr": 50} if form != "dense" else {"": (10, 3)}
        for name, size in names.items():
            old = group[f"X/{name}".rstrip("/")]
            kept, about = old[...], dict(old.attrs)
            shards = tuple(2 * x for x in size) if form == "dense" else (2 * size,)
            chunks = size if form == "dense" else (size,)
            group.create_array(old.path, data=kept, chunks=chunks, shards=shards, attributes=about, overwrite=True)
    np.testing.assert_array_equal(embedded(path, block_rows=23)[0], embedded(cells)[0])


def test_repeated_unsorted_and_stored_zero_entries_are_summed_and_the_input_stays():
    counts = sparse_counts(2, 12)
    coo = sp.coo_matrix(counts)
    twice = np.repeat(np.lexsort((-coo.col, coo.row)), 2)  # every value in two halves, columns backwards
    indptr = np.concatenate([[0], np.cumsum(2 * np.bincount(coo.row, minlength=12))])
    split = sp.csr_matrix((coo.data[twice] / 2, coo.col[twice], indptr), shape=counts.shape)
    zeros = sp.csr_matrix(np.ones_like(counts))
    zeros.data = counts.ravel().copy()
    roomy = sp.csr_matrix(counts)
    roomy.data, roomy.indices = np.append(roomy.data, [9, np.nan]), np.append(roomy.indices, [0, 99])
    for values in (split, zeros, roomy):
        cells = cells_of(counts)
        cells.X = values
        before = [getattr(values, part).copy() for part in ("data", "indices", "indptr")]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            embed_cells(cells, EMBEDDINGS, normalize="log1p-cp10k", empty_cells="nan")
        np.testing.assert_allclose(cells.obsm["X_bft"], reference(counts), rtol=1e-5, atol=1e-6)
        for part, kept in zip(("data", "indices", "indptr"), before, strict=True):
            np.testing.assert_array_equal(getattr(cells.X, part), kept)


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_large_products_keep_their_precision_and_a_cell_s_vector_its_value(precision):
    """So much work that a faster kernel than SciPy is chosen, on genes and cells of real density."""
    rng = np.random.default_rng(0)
    genes, n_cells, some = list(GeneIndex.default())[:2000], 2100, slice(1990, 2090)
    counts = rng.poisson(0.7, size=(n_cells, 2000)).astype(np.float32)
    embeddings = GeneEmbeddings(genes, rng.normal(0.1, 1, (2000, 1024)).astype(np.float32))
    found, told = embedded(cells_of(counts, genes), embeddings, l2=False, precision=precision)
    scaled = np.log1p(counts[some] / counts[some].sum(axis=1, keepdims=True, dtype=np.float64) * 1e4)
    expected = scaled @ embeddings.matrix.astype(np.float64) / 2000
    assert told.get("kernel") != "scipy"
    assert cosine_error(found[some], expected).max() <= (1e-5 if precision == "fast" else 1e-6)
    np.testing.assert_allclose(
        found[some], expected, atol=(2**-6 if precision == "fast" else 1e-5) * abs(expected).max()
    )
    if precision == "fast":
        blocks, _ = embedded(cells_of(counts, genes), embeddings, l2=False, block_rows=999)
        assert np.abs(blocks - found).max() <= 2**-7 * np.abs(expected).max()


class TestTheGeneMatrix:
    """Cells that express one gene each have the transformed gene embeddings as vectors."""

    MATRIX = np.random.default_rng(5).normal(2, [3, 2, 1, 0.5], (5, 4)).astype(np.float32)
    OPTIONS = {"normalize": "none", "denominator": "matched-expression", "l2": False}

    def of_genes(self, how, genes=GENES[:5]):
        cells = cells_of(np.eye(len(genes), dtype=np.float32), genes)
        return embedded(cells, GeneEmbeddings([*GENES[:5], "TP53"], np.vstack([self.MATRIX, [[9] * 4]])),
                        gene_matrix=how, **self.OPTIONS)[0]  # fmt: skip

    def test_centered_means_are_zero(self):
        np.testing.assert_allclose(self.of_genes("center"), self.MATRIX - self.MATRIX.mean(0), atol=1e-5)

    @pytest.mark.parametrize("k", [1, 3])
    def test_whitened_components_are_those_of_pca(self, k):
        found = self.of_genes(f"whiten:{k}")
        theirs = PCA(k, whiten=True, svd_solver="full").fit_transform(self.MATRIX.astype(np.float64))
        np.testing.assert_allclose(found * np.sign((found * theirs).sum(0)), theirs, atol=1e-4)

    def test_a_gene_of_two_columns_counts_once(self):
        twice = self.of_genes("center", [*GENES[:5], "CD3D"])
        np.testing.assert_allclose(twice[:5], self.of_genes("center"), atol=1e-5)

    def test_what_cannot_be_is_rejected(self):
        for how in ("whiten:6", "whiten:0", "whiten", "pca"):
            with pytest.raises(BftembedError, match="whiten"):
                self.of_genes(how)


def test_a_cell_whose_gene_vectors_cancel_is_empty():
    cells = cells_of([[2.0, 2], [1, 3]], ["LYZ", "CD3D"])
    opposite = GeneEmbeddings(["LYZ", "CD3D"], [[1, 1], [-1, -1]])
    with pytest.raises(BftembedError, match="cell0"):
        embedded(cells, opposite)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = embedded(cells, opposite, empty_cells="nan")
    assert np.isnan(found).all(axis=1).tolist() == [True, False]


@pytest.mark.parametrize("vectors", [[[1, 30], [1, 1]], [[30, 30], [1, 1]], [[1, 30], [1, -30]]])
@pytest.mark.parametrize("policy", ["error", "nan"])
def test_a_vector_that_overflows_is_an_error_that_names_the_cell(vectors, policy):
    cells = cells_of(np.array([[1, 2], [3e37, 3e37], [0, 1]], dtype=np.float32), ["LYZ", "CD3D"])
    two = GeneEmbeddings(["LYZ", "CD3D"], np.array(vectors))
    with pytest.raises(BftembedError, match="overflow.*cell1"):
        embedded(cells, two, normalize="none", empty_cells=policy)
    assert not np.isinf(embedded(cells, two, normalize="log1p-cp10k", empty_cells=policy)[0]).any()


@pytest.mark.parametrize("form", FORMS)
def test_memory_is_a_few_blocks_and_not_the_file(form, tmp_path):
    rng = np.random.default_rng(0)
    values = (rng.poisson(3, size=(8_000, 400)) * (rng.random((8_000, 400)) < 0.3)).astype(np.float32)
    values[:, 0] = 1
    cells = cells_of(values, [*GENES[:5], *(f"other{i}" for i in range(395))], form)  # 13 MB dense, 8 MB sparse
    path, _ = write(cells, tmp_path, compression=None)
    del values, cells
    embedded(path)  # what is loaded once per process is not measured
    tracemalloc.start()
    embed_cells(path, EMBEDDINGS, sidecar=tmp_path / "out.h5ad", block_rows=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A matrix by genes is transposed, at this size in memory.
    assert peak < (30e6 if form == "csc" else 5e6)


def test_progress_ends_with_all_cells(cells):
    told = []
    embed_cells(cells, EMBEDDINGS, block_rows=7, progress=lambda done, total, note: told.append((done, total)))
    assert told[-1] == (30, 30)
    assert len(told) > 3


def test_a_first_block_of_another_kind_changes_nothing():
    logged = np.log1p(counts_of(20))
    for first in (0.01, 2.0):  # shares of a total, or integers, before logarithms
        cells = cells_of(np.concatenate([np.full((4, 6), first, dtype=np.float32), logged]))
        cells.uns["log1p"] = {"base": None}
        whole, _ = embedded(cells, normalize="none")
        np.testing.assert_allclose(embedded(cells, block_rows=4)[0], whole, rtol=1e-6)


@pytest.mark.parametrize(
    ("file", "counts"), [("citefuse_citeseq_pbmc500.h5ad", True), ("scclassify_pancreas_xin.h5ad", False)]
)
def test_real_cells_equal_the_reference(shared_data, file, counts, tmp_path):
    path = shared_data(f"cells/{file}")
    cells = anndata.read_h5ad(path)
    entities = [gene.entity for gene in GeneIndex.default().resolve(list(cells.var_names))]
    ids = [
        name
        for i, name in enumerate(dict.fromkeys(entities))
        if i % 5 and GeneIndex.default().resolve([name])[0].symbol
    ]
    embeddings = GeneEmbeddings(ids, np.random.default_rng(1).normal(size=(len(ids), 16)).astype(np.float32))
    report = bftembed.embed_cells(path, embeddings, sidecar=tmp_path / "out.h5ad", block_rows=128)
    row_of = {name: i for i, name in enumerate(ids)}
    # A name that is the id of an embedding is that gene; only else is it resolved.
    rows = [row_of.get(name, row_of.get(entity, -1)) for name, entity in zip(cells.var_names, entities, strict=True)]
    matrix = np.vstack([embeddings.matrix, np.zeros((1, 16))]).astype(np.float64)[rows]
    x = cells.X.toarray().astype(np.float64)
    weights = np.log1p(x / x.sum(axis=1, keepdims=True) * 1e4) if counts else x
    found = anndata.read_h5ad(tmp_path / "out.h5ad").obsm["X_bft"]
    assert cosine_error(found, weights @ matrix / len(rows)).max() <= 1e-6
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    assert report.normalize == ("log1p-cp10k" if counts else "none")
    assert 0.5 < report.coverage < 1
    assert report.n_used + report.n_mapped == (np.array(rows) >= 0).sum()


def test_proteins_of_a_real_cite_seq_file_equal_the_reference(shared_data):
    from bftembed.entities.proteins import ProteinIndex

    path = shared_data("cells/citefuse_citeseq_pbmc500.h5ad")
    cells = anndata.read_h5ad(path)
    proteins = ProteinIndex.default().resolve([str(name) for name in cells.uns["ADT_names"]])
    ids = list(dict.fromkeys(p.entity for p in proteins if p.status in ("used", "mapped")))
    embeddings = GeneEmbeddings(ids, np.random.default_rng(2).normal(size=(len(ids), 12)).astype(np.float32))
    counts = np.asarray(cells.obsm["ADT"], dtype=np.float64)
    clr = np.log1p(counts / np.exp(np.log1p(counts).mean(axis=1, keepdims=True)))
    rows = [ids.index(p.entity) if p.entity in ids else len(ids) for p in proteins]
    expected = clr @ np.vstack([embeddings.matrix, np.zeros((1, 12))])[rows]
    options = {"obsm": "ADT", "kind": "protein", "normalize": "clr", "key": "X_adt"}
    found, told = embedded(cells, embeddings, **options)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=2e-6)
    assert (told["matrix"], told["n_genes"], told["kind"]) == ("obsm/ADT", 49, "protein")
    assert told["coverage"] > 0.9
