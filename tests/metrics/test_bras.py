"""BRAS in linear time against the definition over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from bftembed.metrics.checks import Undefined
from bftembed.metrics.silhouette import bras


def naive(X, labels, batches):
    scores = []
    for label in np.unique(labels):
        cells, own = X[labels == label].astype(float), batches[labels == label]
        if not 1 < len(set(own)) < len(own):
            continue
        distance = cdist(cells, cells, "cosine")
        s = np.zeros(len(own))
        for i, batch in enumerate(own):
            same = own == batch
            if same.sum() > 1:
                a = np.delete(distance[i], i)[np.delete(same, i)].mean()
                b = distance[i, ~same].mean()
                s[i] = (b - a) / max(a, b)
        scores.append((1 - np.abs(s)).mean())
    return np.mean(scores)


def cells(seed=0, n=120, n_labels=3, n_batches=3, dtype=np.float64):
    draw = np.random.default_rng(seed)
    labels, batches = draw.integers(0, n_labels, n), draw.integers(0, n_batches, n)
    labels[:6], batches[:6] = 0, [0, 0, 0, 1, 1, 1]
    return (draw.normal(size=(n, 5)) + 1 + batches[:, None]).astype(dtype), labels, batches


@given(st.integers(0, 2**16), st.integers(6, 40), st.integers(1, 6), st.integers(2, 8))
def test_bras_equals_the_definition_with_batches_of_one_cell(seed, n, n_labels, n_batches):
    case = cells(seed, n, n_labels, n_batches)
    assert bras(*case) == pytest.approx(naive(*case), abs=1e-10)


def test_a_cell_alone_in_its_batch_counts_as_mixed():
    X = np.array([[1.0, 0], [1, 0.1], [0, 1]])
    a, b = cdist(X[:1], X[1:2], "cosine").item(), cdist(X[:1], X[2:], "cosine").item()
    a2, b2 = a, cdist(X[1:2], X[2:], "cosine").item()
    expected = (a / b + a2 / b2 + 1) / 3  # 1 - (b - a) / b, and s = 0 for the third
    assert bras(X, [0, 0, 0], [0, 0, 1]) == pytest.approx(expected)


def test_blocks_change_nothing(monkeypatch):
    case = cells(dtype=np.float32)
    whole = bras(*case)
    monkeypatch.setattr("bftembed.metrics.silhouette._BLOCK", 35)
    assert bras(*case) == pytest.approx(whole, abs=1e-12)


@given(st.integers(0, 2**16))
def test_names_order_and_length_of_cells_do_not_matter(seed):
    X, labels, batches = cells(seed)
    draw = np.random.default_rng(seed)
    order, lengths = draw.permutation(len(X)), draw.uniform(1e-3, 1e3, size=(len(X), 1))
    names = np.array([f"n{i}" for i in draw.permutation(8)])
    found = bras((X * lengths)[order], names[labels[order]], names[batches[order]])
    assert found == pytest.approx(bras(X, labels, batches), abs=1e-10)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_scale_neither_under_nor_overflows(scale):
    X, labels, batches = cells()
    assert bras(X * scale, labels, batches) == pytest.approx(bras(X, labels, batches), abs=1e-12)


def test_identical_cells_are_mixed():
    assert bras(np.full((20, 3), 0.1), np.zeros(20), np.arange(20) % 2) == 1.0


X4 = np.arange(1.0, 9).reshape(4, 2)


@pytest.mark.parametrize(
    ("call", "kind", "reason"),
    [
        (lambda: bras(X4, [0, 0, 1, 1], [0, 0, 0, 0]), Undefined, "one batch"),
        (lambda: bras(X4, [0, 0, 1, 1], [0, 0, 1, 1]), Undefined, "No label has two batches"),
        (lambda: bras(X4, [0, 0, 1, 1], [0, 1, 0, 1]), Undefined, "No label has two batches"),
        (lambda: bras(X4 * [[1], [0], [1], [1]], [0] * 4, [0, 0, 1, 1]), ValueError, "1 cells are all zero"),
        (lambda: bras(np.where(X4 == 3, np.nan, X4), [0] * 4, [0, 0, 1, 1]), ValueError, "1 cells hold NaN"),
        (lambda: bras(X4, [0] * 3, [0, 0, 1, 1]), ValueError, "3 labels for 4"),
    ],
)
def test_input_without_a_score_says_why(call, kind, reason):
    with pytest.raises(kind, match=reason):
        call()


@pytest.mark.slow
def test_a_million_cells():
    draw = np.random.default_rng(0)
    n = 1_000_000
    X = draw.normal(size=(n, 50)).astype(np.float32)
    assert bras(X, draw.integers(0, 20, n), draw.integers(0, 4, n)) > 0.99
