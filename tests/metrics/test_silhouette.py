"""The silhouette, BRAS and isolated labels against scikit-learn and their definitions over all pairs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_samples as sklearn_silhouette

from bftembed.metrics.clustering import Undefined, silhouette_samples
from bftembed.metrics.integration import bras, isolated_labels, silhouette_batch, silhouette_label


def naive(X, labels, metric="euclidean", b_of=min):
    """Rousseeuw's definition on differences in float64, which no cancellation touches; `b_of` the means of others."""
    X, labels = np.asarray(X, dtype=float), np.asarray(labels)
    distance = cdist(X, X, metric)
    np.fill_diagonal(distance, 0)
    values = np.zeros(len(X))
    for i, own in enumerate(labels):
        same = labels == own
        if same.sum() > 1:
            a = distance[i, same].sum() / (same.sum() - 1)
            b = distance[i, ~same].mean()
            if b_of is min:
                b = min(distance[i, labels == c].mean() for c in set(labels.tolist()) - {own})
            values[i] = (b - a) / max(a, b) if max(a, b) > 0 else 0
    return values


def within_labels(X, labels, batches, **options):
    scores = []
    for label in np.unique(labels):
        cells, own = X[labels == label], batches[labels == label]
        if 1 < len(set(own)) < len(own):
            scores.append((1 - np.abs(naive(cells, own, **options))).mean())
    return np.mean(scores)


def blobs(n=300, d=8, k=5, seed=0, dtype=np.float64):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, k, n)
    return (draw.normal(size=(n, d)) + 2 * draw.normal(size=(k, d))[labels] + 0.5).astype(dtype), labels


def awkward():
    X, labels = blobs()
    outlier = X.copy()
    outlier[3] *= 1e7
    yield "plain", X, labels
    yield "scales of the axes 1e-4 to 1e4", X * np.logspace(-4, 4, 8), labels
    yield "far from 0", X + 1e6, labels
    yield "one cell far away", outlier, labels
    yield "duplicates", np.repeat(X[:60], 5, axis=0), np.repeat(labels[:60], 5)
    yield "duplicates across labels", np.repeat(X[:60], 5, axis=0), np.tile(labels[:100], 3)
    yield "a singleton label", X, np.where(np.arange(300) == 7, 9, labels)
    yield "as many labels as half the cells", X, np.arange(300) // 2


@pytest.mark.parametrize(("X", "labels"), [pytest.param(X, y, id=name) for name, X, y in awkward()])
def test_silhouette_equals_the_definition_on_awkward_data(X, labels):
    np.testing.assert_allclose(silhouette_samples(X, labels), naive(X, labels), atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_cosine_silhouette_equals_scikit_learn(dtype):
    X, labels = blobs(n=300, d=20, dtype=dtype)
    found = silhouette_samples(X, labels, metric="cosine")
    np.testing.assert_allclose(found, sklearn_silhouette(X, labels, metric="cosine"), atol=1e-6)
    np.testing.assert_allclose(found, naive(X, labels, "cosine"), atol=1e-10)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_identical_cells_have_a_silhouette_of_zero(metric):
    X = np.full((40, 3), 0.1)
    assert not silhouette_samples(X, np.arange(40) % 3, metric=metric).any()
    assert bras(X, np.zeros(40), np.arange(40) % 2) == 1.0


@given(st.integers(0, 2**16), st.integers(2, 4))
def test_order_of_cells_and_names_of_labels_do_not_matter(seed, k):
    X, labels = blobs(n=40, d=3, k=k, seed=seed)
    labels[:k] = np.arange(k)
    draw = np.random.default_rng(seed)
    batches = draw.integers(0, 2, 40)
    batches[:2], labels[:5], batches[:5] = 0, 0, [0, 1, 0, 1, 1]
    labels[5] = 1
    order, names = draw.permutation(40), np.array([f"type {i}" for i in draw.permutation(4)])
    other = X[order], names[labels[order]], names[batches[order]]
    for metric in ("euclidean", "cosine"):
        expected = silhouette_samples(X, labels, metric=metric)
        np.testing.assert_allclose(silhouette_samples(*other[:2], metric=metric), expected[order], atol=1e-9)
    for score in (silhouette_batch, isolated_labels, bras):
        assert score(*other) == pytest.approx(score(X, labels, batches), abs=1e-9)


def test_silhouette_label_is_the_rescaled_mean():
    X, labels = blobs()
    raw = silhouette_samples(X, labels)
    assert silhouette_label(X, labels) == pytest.approx((raw.mean() + 1) / 2)


def test_silhouette_batch_leaves_out_labels_that_cannot_be_mixed():
    X, _ = blobs(n=60)
    labels = np.repeat([0, 1, 2, 3], [25, 25, 8, 2])
    batches = np.r_[np.arange(25) % 2, np.arange(25) % 3, np.zeros(8, int), [0, 1]]
    assert silhouette_batch(X, labels, batches) == pytest.approx(within_labels(X, labels, batches), abs=1e-12)


@given(st.integers(0, 2**16), st.integers(6, 40), st.integers(1, 6), st.integers(2, 8))
def test_bras_equals_the_definition_with_batches_of_one_cell(seed, n, n_labels, n_batches):
    draw = np.random.default_rng(seed)
    labels, batches = draw.integers(0, n_labels, n), draw.integers(0, n_batches, n)
    labels[:6], batches[:6] = 0, [0, 0, 0, 1, 1, 1]
    X = draw.normal(size=(n, 5)) + 1 + batches[:, None]
    expected = within_labels(X, labels, batches, metric="cosine", b_of="all")
    assert bras(X, labels, batches) == pytest.approx(expected, abs=1e-10)
    for scale in (1e-200, draw.uniform(1e-3, 1e3, size=(n, 1)), 1e200):  # lengths do not matter
        assert bras(X * scale, labels, batches) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("n_batches", "isolated"), [((3, 2, 2), "bc"), ((2, 2, 2), "abc")])
def test_isolated_labels_are_those_in_the_fewest_batches(n_batches, isolated):
    X, _ = blobs(n=60)
    labels = np.repeat(["a", "b", "c"], 20)
    batches = np.concatenate([np.arange(20) % n for n in n_batches])
    scaled = (naive(X, labels) + 1) / 2
    expected = np.mean([scaled[labels == c].mean() for c in isolated])
    assert isolated_labels(X, labels, batches) == pytest.approx(expected, abs=1e-12)


X4 = np.arange(1.0, 9).reshape(4, 2)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: silhouette_samples(X4, [0, 0, 0, 0]), Undefined),
        (lambda: silhouette_samples(X4, [0, 1, 2, 3]), Undefined),
        (lambda: silhouette_batch(X4, [0, 0, 1, 1], [0, 0, 0, 0]), Undefined),
        (lambda: silhouette_batch(X4, [0, 0, 1, 1], [0, 0, 1, 1]), Undefined),
        (lambda: bras(X4, [0, 0, 1, 1], [0, 1, 0, 1]), Undefined),
        (lambda: silhouette_samples(X4, [0, 0, 1, 1], metric="manhattan"), ValueError),
        (lambda: silhouette_samples(X4 * [[1], [0], [1], [1]], [0, 0, 1, 1]), ValueError),
        (lambda: silhouette_batch(X4 * np.nan, [0, 0, 1, 1], [0, 1, 0, 1]), ValueError),
        (lambda: bras(X4, [0, 0, 1, 1], [0, 1, 0]), ValueError),
        (lambda: isolated_labels(X4, [0, 0, 1, 1], [0, None, 0, 1]), ValueError),
    ],
)
def test_input_without_a_score_is_undefined_or_rejected(call, kind):
    with pytest.raises(kind):
        call()


def test_memory_does_not_grow_with_the_number_of_pairs():
    X, labels = blobs(n=8_000, d=50, k=20, dtype=np.float32)
    tracemalloc.start()
    assert np.isfinite(silhouette_samples(X, labels)).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6  # the pairs: 512 MB
