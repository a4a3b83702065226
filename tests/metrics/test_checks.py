"""Validation before a metric, and what counts as a label."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bftembed.metrics.clustering import Undefined, checked_codes, checked_matrix, need_two

X = np.arange(1.0, 9).reshape(4, 2)


@pytest.mark.parametrize(
    "matrix",
    [
        np.where(X == 3, np.nan, X),
        np.where(X > 6, np.inf, X),
        X * [[1], [0], [0], [1]],
        X[:0],
        X[:, :0],
        X[0],
        np.array([["a"], ["b"]]),
        X.astype(complex),
    ],
)
def test_a_matrix_that_cannot_be_scored_is_rejected(matrix):
    with pytest.raises(ValueError) as caught:
        checked_matrix(matrix)
    assert not isinstance(caught.value, Undefined)


def test_the_first_bad_row_is_named():
    with pytest.raises(ValueError, match=r"2 cells .*row 2"):
        checked_matrix([[1.0, 2], [3, 4], [np.nan, 5], [np.inf, 1]])


def test_float_matrices_are_not_copied_and_others_become_float64():
    for kind in (np.float32, np.float64):
        matrix = X.astype(kind)
        assert checked_matrix(matrix) is matrix
    assert checked_matrix(X.astype(np.int8)).dtype == np.float64
    zero = np.zeros((2, 2))
    assert checked_matrix(zero, zero_rows=True) is zero


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
    found = checked_codes(labels)
    assert found.tolist() == codes
    assert found.dtype == np.int64


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "", "  ", pd.NaT])
def test_a_missing_label_is_never_a_class(missing):
    with pytest.raises(ValueError, match="1 cells .*batches.*row 2"):
        checked_codes(np.array(["a", "b", missing, "a"], dtype=object), "batches")
    with pytest.raises(ValueError, match="2 cells"):
        checked_codes([1.0, np.nan, 2.0, np.nan])


@pytest.mark.parametrize("labels", [[], [[1, 2]], [1, 2, 3]])
def test_broken_labels_are_rejected(labels):
    with pytest.raises(ValueError):
        checked_codes(labels, n_cells=4)


def test_one_label_is_undefined_rather_than_broken():
    with pytest.raises(Undefined, match="one batch"):
        need_two(np.zeros(3, dtype=int), "batch", "iLISI")
    assert need_two(np.array([0, 2, 1]), "batch", "iLISI") == 3
