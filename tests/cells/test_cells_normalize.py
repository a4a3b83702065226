"""Counts or logged: the decision, its words, and the refusal of a second logarithm."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy

from bftembed.cells.embed import embed_cells
from bftembed.errors import BftembedError


def decision(cells, embeddings, **options):
    entry = embed_cells(cells, embeddings, **options).uns["bftembed"]["X_bft"]
    return entry["normalize"], entry["reason"]


def logged(cells):
    cells.layers["counts"] = cells.X.copy()
    scanpy.pp.normalize_total(cells, target_sum=1e4)
    scanpy.pp.log1p(cells)
    return cells


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float64])
def test_whole_numbers_are_counts(make_cells, embeddings, dtype):
    normalize, reason = decision(make_cells(dtype=dtype), embeddings)
    assert normalize == "log1p-cp10k"
    assert "all values are whole numbers" in reason


def test_counts_and_scanpys_normalisation_give_the_same_vectors(make_cells, embeddings):
    by_us = embed_cells(make_cells(), embeddings).obsm["X_bft"]
    by_scanpy = embed_cells(logged(make_cells()), embeddings)
    np.testing.assert_allclose(by_us, by_scanpy.obsm["X_bft"], atol=1e-6)
    assert by_scanpy.uns["bftembed"]["X_bft"]["normalize"] == "none"


def test_what_uns_says_is_believed_and_named(cells, embeddings):
    normalize, reason = decision(logged(cells), embeddings)
    assert normalize == "none"
    assert 'uns["log1p"]' in reason


def test_logged_values_are_known_without_uns(cells, embeddings):
    del logged(cells).uns["log1p"]
    normalize, reason = decision(cells, embeddings)
    assert normalize == "none"
    assert reason.startswith("already logged: not whole numbers, largest")


@pytest.mark.parametrize("keep_uns", [True, False])
def test_second_logarithm_is_refused_and_the_counts_are_pointed_at(cells, embeddings, keep_uns):
    logged(cells)
    if not keep_uns:
        del cells.uns["log1p"]
    with pytest.raises(BftembedError, match=r"second logarithm is refused.*--layer counts"):
        embed_cells(cells, embeddings, normalize="log1p-cp10k")
    assert "X_bft" not in cells.obsm


def test_uns_speaks_of_x_alone(cells, embeddings):
    normalize, reason = decision(logged(cells), embeddings, layer="counts")
    assert normalize == "log1p-cp10k"
    assert "log1p" not in reason


def test_counts_win_over_a_log1p_entry_left_behind_and_it_is_said(cells, embeddings):
    cells.uns["log1p"] = {"base": None}
    normalize, reason = decision(cells, embeddings)
    assert normalize == "log1p-cp10k"
    assert "left behind" in reason


@pytest.mark.parametrize("say_logged", [True, False])
def test_large_values_that_are_not_whole_are_not_guessed(cells, embeddings, say_logged):
    scanpy.pp.normalize_total(cells, target_sum=1e4)
    if say_logged:
        cells.uns["log1p"] = {"base": None}
    with pytest.raises(BftembedError, match="neither counts nor logged.*--normalize"):
        embed_cells(cells, embeddings)
    assert decision(cells, embeddings, normalize="log1p-cp10k")[0] == "log1p-cp10k"


def test_shares_that_add_up_to_one_are_not_taken_for_logarithms(cells, embeddings):
    scanpy.pp.normalize_total(cells, target_sum=1)
    with pytest.raises(BftembedError, match="every cell has the same total, 1"):
        embed_cells(cells, embeddings)


def test_normalisation_is_by_the_total_over_all_genes(cells, embeddings):
    by_hand = cells.copy()
    by_hand.X = np.log1p(cells.X.toarray() / cells.X.sum(axis=1).A1[:, None] * 1e4)
    expected = embed_cells(by_hand, embeddings, normalize="none", l2=False).obsm["X_bft"]
    found = embed_cells(cells, embeddings, l2=False).obsm["X_bft"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("position", [0, -1])
def test_one_fraction_in_any_block_changes_the_decision(cells, embeddings, position):
    cells.X = cells.X.astype(np.float64)
    cells.X.data[position] += 0.5
    assert decision(cells, embeddings, block_rows=2)[0] == "none"


def test_file_is_decided_as_the_anndata_is(cells, embeddings, tmp_path):
    logged(cells)
    cells.layers["other"] = cells.X.copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    for layer in (None, "other"):
        report = embed_cells(tmp_path / "cells.h5ad", embeddings, out=tmp_path / "out.h5ad", layer=layer)
        assert report.normalize == "none"
        assert ('uns["log1p"]' in report.reason) == (layer is None)
        assert (report.normalize, report.reason) == decision(cells, embeddings, layer=layer, overwrite=True)
