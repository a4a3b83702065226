"""What is refused before a metric, by name, and what counts as a label."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bftembed.metrics import checks

X = np.arange(1.0, 9).reshape(4, 2)


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (np.where(X == 3, np.nan, X), "1 cells hold NaN.*row 1"),
        (np.where(X > 6, np.inf, X), "1 cells hold NaN or infinity.*row 3"),
        (X * [[1], [0], [0], [1]], "2 cells are all zero.*row 1"),
        (X[:0], "no cells"),
        (X[:, :0], "shape"),
        (X[0], "shape"),
        (np.array([["a"], ["b"]]), "real numbers"),
        (X.astype(complex), "real numbers"),
    ],
)
def test_a_matrix_that_cannot_be_scored_is_refused(matrix, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        checks.checked_matrix(matrix)
    assert not isinstance(caught.value, checks.Undefined)


def test_the_row_is_named_whatever_the_block(monkeypatch):
    monkeypatch.setattr(checks, "_BLOCK_BYTES", 16)
    with pytest.raises(ValueError, match=r"2 cells hold NaN.*row 2"):
        checks.checked_matrix([[1.0, 2], [3, 4], [np.nan, 5], [np.inf, 1]])


def test_float_matrices_are_not_copied_and_others_become_float64():
    for kind in (np.float32, np.float64):
        matrix = X.astype(kind)
        assert checks.checked_matrix(matrix) is matrix
    assert checks.checked_matrix(X.astype(np.int8)).dtype == np.float64
    zero = np.zeros((2, 2))
    assert checks.checked_matrix(zero, zero_rows=True) is zero


@pytest.mark.parametrize(
    ("labels", "codes"),
    [
        (["b", "a", "b"], [1, 0, 1]),
        ([10, 9, 9], [1, 0, 0]),
        (np.array(["b", 1, "b"], dtype=object), [1, 0, 1]),
        (pd.Categorical(["x", "y", "x"], categories=["unused", "y", "x"]), [0, 1, 0]),
        (pd.Series([True, False], index=[7, 7]), [1, 0]),
        ([" a", "a"], [0, 1]),
    ],
)
def test_labels_are_numbered_in_the_order_of_their_names(labels, codes):
    found = checks.checked_codes(labels)
    assert found.tolist() == codes
    assert found.dtype == np.int64


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "", "  ", pd.NaT])
def test_a_missing_label_is_never_a_class(missing):
    with pytest.raises(ValueError, match=r"1 cells have no label \(batches; first: row 2\)"):
        checks.checked_codes(np.array(["a", "b", missing, "a"], dtype=object), "batches")
    with pytest.raises(ValueError, match="2 cells have no label"):
        checks.checked_codes([1.0, np.nan, 2.0, np.nan])


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: checks.checked_codes([]), "non-empty"),
        (lambda: checks.checked_codes([[1, 2]]), "shape"),
        (lambda: checks.checked_codes([1, 2, 3], "batches", 4), "3 batches for 4 cells"),
        (lambda: checks.checked_pair([1, 2], [1, 2, 3]), "2 labels and 3 clusters"),
    ],
)
def test_broken_labels_are_refused(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()


def test_one_label_is_undefined_rather_than_broken():
    with pytest.raises(checks.Undefined, match="one label"):
        checks.checked_pair([1, 1], [1, 2])
    with pytest.raises(checks.Undefined, match="one batch: iLISI"):
        checks.need_two(np.zeros(3, dtype=int), "batch", "iLISI")
    assert checks.need_two(np.array([0, 2, 1]), "batch", "iLISI") == 3
