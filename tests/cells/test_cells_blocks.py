"""Blocks: chunked equals in memory, whatever the form, the type, the size of a block or the order."""

from __future__ import annotations

import tempfile
import tracemalloc
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from bftembed.cells import transpose
from bftembed.cells.blocks import Compressed, Dense
from bftembed.cells.embed import embed_cells
from bftembed.cells.examine import summarize
from bftembed.cells.transpose import rows_of_columns
from bftembed.embeddings import GeneEmbeddings

GENES = ["CD3D", "LYZ", "MS4A1", "GNLY", "NKG7", "CD8A", "IL7R"]
EMBEDDINGS = GeneEmbeddings(GENES[:5], np.random.default_rng(3).normal(size=(5, 3)))
FORMS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray, "csr_array": sp.csr_array}
DTYPES = ("float32", "float64", "int8", "int32", "int64", "uint16", "bool", "float16")


def counts_matrix(seed: int, n_cells: int, dtype: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.8, size=(n_cells, len(GENES)))
    return counts.astype(bool).astype(dtype) if dtype == "bool" else counts.astype(dtype)


def as_anndata(values, names=GENES) -> anndata.AnnData:
    data = anndata.AnnData(values)
    data.var_names = list(names)
    return data


def embedded(values, names=GENES, **options) -> np.ndarray:
    options = {"empty_cells": "nan", **options}
    return embed_cells(as_anndata(values, names), EMBEDDINGS, **options).obsm["X_bft"]


matrices = st.tuples(st.integers(0, 10**6), st.integers(1, 23))


@given(
    matrix=matrices,
    form=st.sampled_from(sorted(FORMS)),
    dtype=st.sampled_from(DTYPES),
    block_rows=st.integers(1, 30),
    l2=st.booleans(),
)
def test_every_form_type_and_block_size_gives_the_same_vectors(matrix, form, dtype, block_rows, l2):
    counts = counts_matrix(*matrix, dtype)
    whole = embedded(counts.astype(np.float64), l2=l2, block_rows=10**6)
    if dtype == "float16" and form != "dense":
        form = "dense"  # SciPy has no sparse float16
    found = embedded(FORMS[form](counts), l2=l2, block_rows=block_rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-6)


@settings(max_examples=25)
@given(
    matrix=matrices,
    form=st.sampled_from(["csr", "csc", "dense"]),
    dtype=st.sampled_from(DTYPES[:6]),
    rows=st.integers(1, 30),
)
def test_streamed_file_gives_exactly_what_the_anndata_gives(matrix, form, dtype, rows):
    data = as_anndata(FORMS[form](counts_matrix(*matrix, dtype)))
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "in.h5ad", Path(folder) / "out.h5ad"
        data.write_h5ad(source, compression="gzip")
        embed_cells(source, EMBEDDINGS, out=out, empty_cells="nan", block_rows=rows)
        written = anndata.read_h5ad(out)
    embed_cells(data, EMBEDDINGS, empty_cells="nan", block_rows=rows)
    np.testing.assert_array_equal(written.obsm["X_bft"], data.obsm["X_bft"])
    ours, theirs = data.uns["bftembed"]["X_bft"], written.uns["bftembed"]["X_bft"]
    assert list(ours.pop("empty_cells")) == list(theirs.pop("empty_cells"))
    assert ours == theirs


@given(matrix=matrices, form=st.sampled_from(["csr", "csc", "dense"]), order=st.randoms(use_true_random=False))
def test_permuting_cells_permutes_vectors(matrix, form, order):
    counts = counts_matrix(*matrix, "float32")
    permutation = list(range(len(counts)))
    order.shuffle(permutation)
    moved = embedded(FORMS[form](counts[permutation]), block_rows=4)
    np.testing.assert_allclose(moved, embedded(FORMS[form](counts), block_rows=4)[permutation], rtol=1e-5, atol=1e-6)


@given(matrix=matrices, form=st.sampled_from(["csr", "csc", "dense"]), order=st.permutations(range(len(GENES))))
def test_order_of_genes_does_not_matter(matrix, form, order):
    counts = counts_matrix(*matrix, "float32")
    moved = embedded(FORMS[form](counts[:, order]), [GENES[i] for i in order], block_rows=5)
    np.testing.assert_allclose(moved, embedded(counts), rtol=1e-5, atol=1e-6)


@given(matrix=matrices, form=st.sampled_from(["csr", "csc", "dense"]), l2=st.booleans())
def test_vector_is_finite_exactly_where_a_covered_gene_is_expressed(matrix, form, l2):
    counts = counts_matrix(*matrix, "float32")
    covered = counts[:, :5].sum(axis=1) > 0
    found = embedded(FORMS[form](counts), l2=l2, block_rows=3)
    np.testing.assert_array_equal(np.isfinite(found).all(axis=1), covered)
    assert (np.abs(found[covered]).sum(axis=1) > 0).all()


@given(matrix=matrices)
def test_unsorted_and_duplicate_indices_are_summed_and_the_input_stays_as_it_was(matrix):
    counts = counts_matrix(*matrix, "float32")
    coo = sp.coo_matrix(counts)
    # every value in two halves, columns backwards
    order = np.lexsort((-coo.col, coo.row))
    twice = np.repeat(order, 2)
    indptr = np.concatenate([[0], np.cumsum(2 * np.bincount(coo.row, minlength=len(counts)))])
    split = sp.csr_matrix((coo.data[twice] / 2, coo.col[twice], indptr), shape=counts.shape)
    before = split.data.copy(), split.indices.copy()
    found = embedded(split, normalize="log1p-cp10k") if len(coo.data) else embedded(split)
    np.testing.assert_array_equal(split.data, before[0])
    np.testing.assert_array_equal(split.indices, before[1])
    np.testing.assert_allclose(found, embedded(counts), rtol=1e-5, atol=1e-6)


def test_stored_zeros_and_unused_space_change_nothing():
    counts = counts_matrix(2, 9, "float32")
    counts[4] = 0
    stored = sp.csr_matrix(np.ones_like(counts))
    stored.data = counts.ravel().copy()  # zeros stored, a whole row of them
    roomy = sp.csr_matrix(counts)
    roomy.data, roomy.indices = np.append(roomy.data, [9, np.nan]), np.append(roomy.indices, [0, 99])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for values in (stored, roomy):
            np.testing.assert_array_equal(embedded(values), embedded(counts))


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
@pytest.mark.parametrize("block_rows", [1, 3, 8, 100])
def test_rows_follow_one_another_without_gap_or_overlap(form, block_rows, tmp_path):
    counts = counts_matrix(5, 17, "float64") + 1
    as_anndata(FORMS[form](counts)).write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad") as handle:
        member = handle["X"]
        matrix = Dense(member, "X") if form == "dense" else Compressed.from_hdf5(member, "X")
        for cells in (range(17), range(2, 12), range(16, 17)):
            found = list(matrix.rows(block_rows, cells))
            assert all(len(rows) <= block_rows for rows in found)
            assert [rows.start for rows in found] == [cells.start, *(rows.stop for rows in found[:-1])]
            assert found[-1].stop == cells.stop
            np.testing.assert_array_equal(np.concatenate([r.to_csr(7).toarray() for r in found]), counts[cells])


@pytest.mark.parametrize("run", [1, 2, 7, 50, 10**6])
def test_transposing_by_way_of_a_scratch_file_loses_and_moves_nothing(run, tmp_path):
    counts = sp.random(90, 40, density=0.2, format="csc", random_state=1)

    def read(start, stop):
        return counts.indices[start:stop], counts.data[start:stop]

    for cells, block_rows in ((range(90), 11), (range(5, 60), 100)):
        found = list(
            rows_of_columns(read, counts.indptr.astype(np.int64), cells, block_rows, scratch=tmp_path, run=run)
        )
        assert [len(rows) for rows in found] == [min(block_rows, cells.stop - rows.start) for rows in found]
        assert all(
            (np.diff(r.indices) > 0)[np.diff(np.repeat(range(len(r)), np.diff(r.indptr))) == 0].all() for r in found
        )
        np.testing.assert_array_equal(sp.vstack([r.to_csr(40) for r in found]).toarray(), counts.toarray()[cells])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_summary_names_the_first_bad_value_in_any_form(form):
    counts = counts_matrix(1, 12, "float32") + 1
    counts[9, 2], counts[4, 6], counts[7, 0] = np.nan, np.inf, -1
    matrix = Dense(counts, "X") if form == "dense" else Compressed.from_scipy(FORMS[form](counts), "X")
    values = summarize(matrix.rows(5), np.arange(7), range(12))
    assert (values.n_not_finite, values.first_not_finite) == (2, (4, 6))
    assert (values.n_negative, values.first_negative) == (1, (7, 0))


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_memory_is_a_few_blocks_and_not_the_file(form, tmp_path, monkeypatch):
    monkeypatch.setattr(transpose, "RUN", 100_000)
    rng = np.random.default_rng(0)
    values = rng.poisson(3, size=(20_000, 400)) * (rng.random((20_000, 400)) < 0.3) + 0.0
    values[:, 0] = 1
    data = anndata.AnnData(FORMS[form](values))  # 64 MB dense, 29 MB sparse
    data.var_names = [*GENES[:5], *(f"other{i}" for i in range(395))]
    data.write_h5ad(tmp_path / "in.h5ad")
    del values, data
    # Once per process come modules and 20 MB of gene names: not what is measured.
    embed_cells(tmp_path / "in.h5ad", EMBEDDINGS, out=tmp_path / "out.h5ad", block_rows=20_000)
    tracemalloc.start()
    embed_cells(tmp_path / "in.h5ad", EMBEDDINGS, out=tmp_path / "out.h5ad", block_rows=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6


def test_progress_counts_cells_up_to_all_of_them_once():
    told = []
    embedded(counts_matrix(0, 20, "float32") + 1, block_rows=6, progress=lambda *args: told.append(args))
    assert told == [(n, 20, "embedding") for n in (6, 12, 18, 20)]


def test_a_first_block_that_says_little_or_the_wrong_thing_changes_nothing():
    counts = counts_matrix(0, 20, "float32") + 1
    logged = np.log1p(counts)
    # shares of a total at first (unclear), whole numbers at first (would be counts), then logarithms
    for first in (0.01, 2.0):
        values = np.concatenate([np.full((4, len(GENES)), first, dtype=np.float32), logged])
        whole = embedded(values, block_rows=100, normalize="none")
        np.testing.assert_allclose(embedded(values, block_rows=4), whole, rtol=1e-6)
