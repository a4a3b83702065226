"""Counts, logged or neither: the decision and its evidence, and no second logarithm."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy
import scipy.sparse as sp
from cell_toys import GENES, cells_of, counts_of, embedded, reference, write

from bftembed import BftembedError
from bftembed.errors import UnknownNameError


def logged_cells():
    """Cells as scanpy leaves them: logged X, counts in a layer, and an entry in uns."""
    cells = cells_of()
    cells.layers["counts"] = cells.X.copy()
    scanpy.pp.normalize_total(cells, target_sum=1e4)
    scanpy.pp.log1p(cells)
    return cells


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float64])
@pytest.mark.parametrize("uns", [False, True])
def test_integers_are_counts_even_where_an_entry_of_log1p_was_left_behind(dtype, uns):
    cells = cells_of(counts_of().astype(dtype))
    if uns:
        cells.uns["log1p"] = {"base": None}
    found, told = embedded(cells)
    np.testing.assert_allclose(found, reference(counts_of()), rtol=1e-5, atol=1e-6)
    assert told["normalize"] == "log1p-cp10k"
    assert ("log1p" in told["reason"]) == uns


@pytest.mark.parametrize("uns", [False, True])
@pytest.mark.parametrize("container", ["memory", "h5ad", "zarr3"])
def test_logged_values_are_taken_as_they_are(uns, container, tmp_path):
    cells = logged_cells()
    if not uns:
        del cells.uns["log1p"]
    data = cells if container == "memory" else write(cells, tmp_path, container)[0]
    found, told = embedded(data)
    np.testing.assert_allclose(found, reference(counts_of()), atol=1e-5)
    assert told["normalize"] == "none"
    assert ("log1p" in told["reason"]) == uns
    # The entry of uns is about X alone.
    assert embedded(data, layer="counts")[1]["normalize"] == "log1p-cp10k"


def test_totals_are_over_all_genes_of_the_matrix():
    cells = cells_of()
    found, _ = embedded(cells[:, GENES[:5]].copy(), l2=False)
    part = counts_of()[:, :5]
    np.testing.assert_allclose(found, reference(part, GENES[:5], l2=False), rtol=1e-5, atol=1e-6)
    assert not np.allclose(found * 5, embedded(cells, l2=False)[0] * 6, rtol=1e-3)


@pytest.mark.parametrize("normalize", ["log1p-cp10k", "clr"])
def test_a_second_logarithm_is_an_error_that_points_at_the_counts(normalize):
    with pytest.raises(BftembedError, match="--layer counts"):
        embedded(logged_cells(), normalize=normalize)


@pytest.mark.parametrize("container", ["memory", "h5ad"])
def test_what_is_neither_counts_nor_logged_is_not_guessed(container, tmp_path):
    counts = counts_of()
    totals = counts.sum(axis=1, keepdims=True)
    for values, uns in ((counts / totals * 1e4, False), (counts / totals * 1e4, True), (counts / totals, False)):
        cells = cells_of(values)
        if uns:
            cells.uns["log1p"] = {"base": None}
        data = cells if container == "memory" else write(cells, tmp_path, container)[0]
        with pytest.raises(BftembedError, match="--normalize"):
            embedded(data)
        for normalize, expected in (("log1p-cp10k", reference(counts)), ("none", reference(values, counts=False))):
            found, told = embedded(data, normalize=normalize)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
            assert told["normalize"] == normalize


def corrected_counts():
    """Counts with the ambient RNA taken out, as SoupX leaves them: fractions, the largest below 30."""
    counts = counts_of(60)
    values = counts * (1 - 0.1 * np.random.default_rng(1).random(counts.shape))
    return values.astype(np.float32)


class TestFractionalCounts:
    def test_they_are_not_taken_for_logged(self):
        with pytest.raises(BftembedError, match="--normalize"):
            embedded(cells_of(corrected_counts()))

    def test_what_is_asked_for_is_done(self):
        found, told = embedded(cells_of(corrected_counts()), normalize="log1p-cp10k")
        np.testing.assert_allclose(found, reference(corrected_counts()), rtol=1e-5, atol=1e-5)
        assert told["normalize"] == "log1p-cp10k"


@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("more", [50.5, 0.5])
def test_one_fraction_anywhere_makes_counts_doubtful(position, more):
    cells = cells_of(counts_of().astype(np.float64))
    cells.X.data[position] += more
    with pytest.raises(BftembedError, match="--normalize"):
        embedded(cells, block_rows=2)


def test_the_centered_log_ratio_is_over_all_proteins_of_the_cell():
    counts = counts_of().astype(np.float64)
    clr = np.log1p(counts / np.exp(np.log1p(counts).mean(axis=1, keepdims=True)))
    found, told = embedded(cells_of(sp.csr_matrix(counts).toarray()), normalize="clr")
    np.testing.assert_allclose(found, reference(clr, counts=False), rtol=1e-5, atol=1e-6)
    assert told["normalize"] == "clr"


def test_an_unknown_normalization_is_an_error_with_the_known():
    with pytest.raises(UnknownNameError, match="'log1p-cp10k'"):
        embedded(cells_of(), normalize="log1p")
