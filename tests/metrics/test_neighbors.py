"""Nearest neighbors against all distances in float64, duplicates included."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from bftembed.metrics.clustering import Neighbors, Undefined, nearest_neighbors


def data():
    draw = np.random.default_rng(0)
    X = draw.normal(size=(300, 6))
    yield "plain", X
    yield "float32", X.astype(np.float32)
    yield "grid", draw.integers(0, 3, size=(300, 3))
    yield "duplicates", np.repeat(X[:30], 10, axis=0)
    yield "identical", np.full((60, 3), 0.1)
    yield "far from 0", X + 1e6
    yield "one cell far away", np.vstack([X, np.full((1, 6), 1e9)])
    yield "with a cell of zeros", np.vstack([X, np.zeros((1, 6))])


@pytest.mark.parametrize("X", [pytest.param(X, id=name) for name, X in data()])
@pytest.mark.parametrize("k", [1, 2, 20, 60])
def test_neighbors_are_exact_and_the_cell_comes_first(X, k):
    found, pairs = nearest_neighbors(X, k), cdist(np.asarray(X, float), np.asarray(X, float))
    assert (found.indices.dtype, found.distances.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(len(X)))
    assert all(len(set(row)) == k for row in found.indices.tolist())
    np.testing.assert_allclose(found.distances, np.sort(pairs, axis=1)[:, :k], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.distances, np.take_along_axis(pairs, found.indices, 1), rtol=1e-6, atol=1e-12)


def test_a_subset_is_what_a_smaller_search_finds():
    X = np.random.default_rng(0).normal(size=(80, 4))
    large, small = nearest_neighbors(X, 30), nearest_neighbors(X, 7)
    np.testing.assert_array_equal(large.subset(7).indices, small.indices)
    assert (large.k, large.subset(7).k) == (30, 7)


def test_the_approximate_search_puts_each_cell_first(monkeypatch):
    class Descent:
        def __init__(self, matrix, **options):
            indices = np.array([[1, 0, 2], [1, 0, 2], [0, 1, 3], [3, 2, 1]])
            self.neighbor_graph = indices, np.array([[0, 0, 1], [0, 0, 1], [1, 2, 3], [0, 1, 2]])

    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=Descent))  # its import compiles for 15 s
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


X4 = np.arange(1.0, 9).reshape(4, 2)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: nearest_neighbors(X4, 5), Undefined),
        (lambda: nearest_neighbors(X4, 0), ValueError),
        (lambda: nearest_neighbors(X4 * np.nan, 2), ValueError),
        (lambda: nearest_neighbors(X4, 3).subset(4), ValueError),
        (lambda: Neighbors(np.array([0, 1]), np.zeros(2)), ValueError),
        (lambda: Neighbors(np.array([[0, 1], [1, 0]]), np.zeros((2, 3))), ValueError),
        (lambda: Neighbors(np.array([[0, 1], [1, 2]]), np.zeros((2, 2))), ValueError),
        (lambda: Neighbors(np.array([[0, 1], [0, 1]]), np.zeros((2, 2))), ValueError),
    ],
)
def test_what_are_not_neighbors_is_rejected(call, kind):
    with pytest.raises(kind):
        call()
