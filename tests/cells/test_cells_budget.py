"""The memory budget: cells per block, and what is too little."""

from __future__ import annotations

import re

import anndata
import numpy as np
import pytest

from bftembed.cells.budget import FEWEST_ROWS, MOST_ROWS, as_bytes, block_rows_within
from bftembed.cells.embed import embed_cells
from bftembed.errors import BftembedError


@pytest.mark.parametrize(
    ("text", "expected"),
    [(600, 600), ("600", 600), ("64 kb", 64_000), ("600MB", 600_000_000), ("1.5GB", 1_500_000_000), ("2gb", 2 * 10**9)],
)
def test_budget_is_bytes_or_text(text, expected):
    assert as_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "MB", "-5", 0, "0MB", "6e8", "600 miles", "1,5GB", None, "nan", "12TB", "2g"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(BftembedError, match="for example 600MB"):
        as_bytes(text)


def test_rows_are_what_fits_beside_the_gene_matrix():
    # 20,000 × 1,000 numbers of 6 bytes; a row of 40,000 + 6,000 + 3 · 12 · 2,000 bytes.
    fixed, row = 120_000_000, 118_000
    assert block_rows_within(fixed + 100 * row, 20_000, 1_000, 2_000) == 100
    assert block_rows_within(fixed + 101 * row - 1, 20_000, 1_000, 2_000) == 100
    assert block_rows_within(10**12, 20_000, 1_000, 2_000) == MOST_ROWS == 2048
    assert block_rows_within(fixed + 64 * row, 20_000, 1_000, 2_000) == FEWEST_ROWS == 64


@pytest.mark.parametrize("values", [0, 0.1, 7.3, 2_000, 33_333.3])
@pytest.mark.parametrize("n_targets", [1, 977, 20_000])
def test_budget_that_the_error_names_is_enough_and_a_megabyte_less_is_not(n_targets, values):
    with pytest.raises(BftembedError, match="memory") as error:
        block_rows_within(1, n_targets, 768, values)
    smallest = as_bytes(re.search(r"Give (\S+) or more", str(error.value))[1])
    assert block_rows_within(smallest, n_targets, 768, values) >= FEWEST_ROWS
    if smallest > 10**6:
        with pytest.raises(BftembedError, match="too little"):
            block_rows_within(smallest - 10**6, n_targets, 768, values)


def test_budget_sets_the_blocks_and_rows_that_are_given_win(cells_file, embeddings, tmp_path, monkeypatch):
    from bftembed.cells import task

    asked = []
    monkeypatch.setattr(task, "block_rows_within", lambda memory, *shape: asked.append((memory, *shape)) or 7)
    seen = []
    options = {"sidecar": tmp_path / "a.h5ad", "progress": lambda done, total, note: seen.append(done)}
    embed_cells(cells_file, embeddings, **options, memory="1MB")
    stored = anndata.read_h5ad(cells_file).X.nnz / 30
    assert asked == [(10**6, 5, 4, stored)]
    assert seen[:2] == [7, 14]
    seen.clear()
    embed_cells(cells_file, embeddings, **options, memory="1MB", block_rows=13)
    assert len(asked) == 1
    assert seen[:2] == [13, 26]


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_budget_that_is_too_small_is_an_error_and_a_fair_one_changes_nothing(make_cells, embeddings, tmp_path, form):
    path, out = tmp_path / "cells.h5ad", tmp_path / "out.h5ad"
    make_cells(form=form).write_h5ad(path)
    with pytest.raises(BftembedError, match=r"0\.001 MB, too little for a gene matrix of 5 × 4"):
        embed_cells(path, embeddings, sidecar=out, memory=1000)
    assert not out.exists()
    embed_cells(path, embeddings, sidecar=out, memory="20MB")
    embed_cells(path, embeddings, sidecar=tmp_path / "free.h5ad")
    np.testing.assert_array_equal(
        anndata.read_h5ad(out).obsm["X_bft"], anndata.read_h5ad(tmp_path / "free.h5ad").obsm["X_bft"]
    )
