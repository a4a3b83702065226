"""Nearest neighbors against all differences in float64, ties and duplicates included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from bftembed.metrics import neighbors as module
from bftembed.metrics.checks import Undefined
from bftembed.metrics.neighbors import Neighbors, nearest_neighbors


def naive(X, k):
    distance = cdist(np.asarray(X, float), np.asarray(X, float))
    np.fill_diagonal(distance, -1)
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return order, np.maximum(np.take_along_axis(distance, order, axis=1), 0)


def data():
    draw = np.random.default_rng(0)
    X = draw.normal(size=(300, 6))
    yield "plain", X
    yield "float32", X.astype(np.float32)
    yield "grid", draw.integers(0, 3, size=(300, 3))
    yield "duplicates", np.repeat(X[:30], 10, axis=0)
    yield "identical", np.ones((60, 3))
    yield "far from 0", X + 1e6
    yield "one cell far away", np.vstack([X, np.full((1, 6), 1e9)])


@pytest.mark.parametrize("X", [pytest.param(X, id=name) for name, X in data()])
@pytest.mark.parametrize("k", [1, 2, 20, 60])
def test_neighbors_are_exact_and_ties_come_in_the_order_of_the_rows(X, k, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 5000)
    found = nearest_neighbors(X, k)
    indices, distances = naive(X, k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)
    assert (found.indices.dtype, found.distances.dtype) == (np.int32, np.float32)


@given(st.integers(0, 2**16), st.integers(5, 40))
def test_order_of_cells_and_their_place_do_not_matter(seed, n):
    draw = np.random.default_rng(seed)
    X, order = draw.normal(size=(n, 3)), draw.permutation(n)
    expected, found = nearest_neighbors(X, 4), nearest_neighbors(X[order] + 100, 4)
    np.testing.assert_array_equal(order[found.indices], expected.indices[order])


def test_a_subset_is_what_a_smaller_search_finds():
    X = np.random.default_rng(0).normal(size=(80, 4))
    large, small = nearest_neighbors(X, 30), nearest_neighbors(X, 7)
    np.testing.assert_array_equal(large.subset(7).indices, small.indices)
    np.testing.assert_array_equal(large.subset(7).distances, small.distances)
    assert (large.k, large.subset(7).k) == (30, 7)


def test_the_approximate_search_puts_each_cell_first(monkeypatch):
    indices = np.array([[1, 0, 2], [1, 0, 2], [0, 1, 3], [3, 2, 1]], dtype=np.int32)
    distances = np.array([[0, 0, 1], [0, 0, 1], [1, 2, 3], [0, 1, 2]], dtype=np.float32)
    monkeypatch.setattr(module, "descent", lambda X, k: (indices, distances))
    found = nearest_neighbors(np.arange(4.0)[:, None], 3, exact_up_to=3)
    assert found.indices.tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1], [3, 2, 1]]
    assert found.distances.tolist() == [[0, 0, 1], [0, 0, 1], [0, 1, 2], [0, 1, 2]]


@pytest.mark.slow
def test_the_approximate_search_finds_nearly_all_and_repeats_itself():
    X = np.random.default_rng(0).normal(size=(1500, 10)).astype(np.float32)
    exact, found = nearest_neighbors(X, 15), nearest_neighbors(X, 15, exact_up_to=1000)
    shared = [len(set(a) & set(b)) / 15 for a, b in zip(exact.indices, found.indices, strict=True)]
    assert np.mean(shared) > 0.99
    np.testing.assert_array_equal(nearest_neighbors(X, 15, exact_up_to=1000).indices, found.indices)


def made(indices, distances=None):
    indices = np.array(indices)
    return Neighbors(indices, np.zeros(indices.shape, np.float32) if distances is None else distances)


X4 = np.arange(1.0, 9).reshape(4, 2)


@pytest.mark.parametrize(
    ("call", "kind", "reason"),
    [
        (lambda: nearest_neighbors(X4, 5), Undefined, "5 neighbors of 4 cells"),
        (lambda: nearest_neighbors(X4, 0), ValueError, "k = 0"),
        (lambda: nearest_neighbors(np.where(X4 == 3, np.nan, X4), 2), ValueError, "1 cells hold NaN"),
        (lambda: nearest_neighbors(X4, 3).subset(4), ValueError, "4 neighbors were asked for, of 3"),
        (lambda: nearest_neighbors(X4, 3).subset(0), ValueError, "0 neighbors"),
        (lambda: made([0, 1]), ValueError, "must both be"),
        (lambda: made([[0, 1], [1, 0]], np.zeros((2, 3))), ValueError, "must both be"),
        (lambda: made([[0, 1], [1, 2]]), ValueError, "rows 0 to 1"),
        (lambda: made([[0, 1], [0, 1]]), ValueError, "1 cells is not the cell itself.*row 1"),
    ],
)
def test_what_are_no_neighbors_is_refused(call, kind, reason):
    with pytest.raises(kind, match=reason):
        call()


def test_all_zero_cells_are_points_like_others():
    assert nearest_neighbors([[0.0, 0], [1, 0], [3, 0]], 2).indices.tolist() == [[0, 1], [1, 0], [2, 1]]
