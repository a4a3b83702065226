"""The silhouette against scikit-learn and float64 loops, and the scIB scores made of it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_samples as sklearn_silhouette

from bftembed.metrics.checks import Undefined
from bftembed.metrics.silhouette import isolated_labels, silhouette_batch, silhouette_label, silhouette_samples


def naive(X, labels, metric="euclidean"):
    """Rousseeuw's definition on differences in float64, which no cancellation touches."""
    X, labels = np.asarray(X, dtype=float), np.asarray(labels)
    distance = cdist(X, X, metric)
    np.fill_diagonal(distance, 0)
    values = np.zeros(len(X))
    for i, own in enumerate(labels):
        same = labels == own
        if same.sum() > 1:
            a = distance[i, same].sum() / (same.sum() - 1)
            b = min(distance[i, labels == c].mean() for c in set(labels.tolist()) - {own})
            values[i] = (b - a) / max(a, b) if max(a, b) > 0 else 0
    return values


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
    yield "tiny", X * 1e-150, labels
    yield "one cell far away", outlier, labels
    yield "duplicates", np.repeat(X[:60], 5, axis=0), np.repeat(labels[:60], 5)
    yield "duplicates across labels", np.repeat(X[:60], 5, axis=0), np.tile(labels[:100], 3)
    yield "a label of one cell", X, np.where(np.arange(300) == 7, 9, labels)
    yield "a label of two cells", X, np.where(np.arange(300) < 2, 9, labels)
    yield "as many labels as half the cells", X, np.arange(300) // 2


@pytest.mark.parametrize(("X", "labels"), [pytest.param(X, y, id=name) for name, X, y in awkward()])
def test_silhouette_equals_the_definition_on_awkward_data(X, labels):
    # 3e-9: float64 at 1e6 holds a difference of 1 to ten digits
    np.testing.assert_allclose(silhouette_samples(X, labels), naive(X, labels), atol=3e-9)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_silhouette_equals_scikit_learn(metric, dtype):
    X, labels = blobs(n=700, d=20, dtype=dtype)
    np.testing.assert_allclose(
        silhouette_samples(X, labels, metric=metric), sklearn_silhouette(X, labels, metric=metric), atol=1e-6
    )
    np.testing.assert_allclose(silhouette_samples(X, labels, metric=metric), naive(X, labels, metric), atol=1e-12)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_neither_blocks_nor_threads_change_the_values(metric):
    X, labels = blobs(n=211, dtype=np.float32)
    expected = silhouette_samples(X, labels, metric=metric, threads=1)
    for block_bytes in (8 * 7**2, 8 * 64**2, 1 << 24):
        for threads in (1, 3):
            found = silhouette_samples(X, labels, metric=metric, block_bytes=block_bytes, threads=threads)
            np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_identical_cells_have_a_silhouette_of_zero(metric):
    assert not silhouette_samples(np.full((40, 3), 0.1), np.arange(40) % 3, metric=metric).any()


cases = st.tuples(st.integers(0, 2**16), st.integers(2, 4), st.sampled_from(["euclidean", "cosine"]))


@given(cases)
def test_order_of_cells_and_names_of_labels_do_not_matter(case):
    seed, k, metric = case
    X, labels = blobs(n=30, d=3, k=k, seed=seed)
    labels[:k] = np.arange(k)
    draw = np.random.default_rng(seed)
    expected = silhouette_samples(X, labels, metric=metric)
    names = np.array([f"type {i}" for i in draw.permutation(k)])
    order = draw.permutation(30)
    found = silhouette_samples(X[order], names[labels[order]], metric=metric)
    np.testing.assert_allclose(found, expected[order], atol=1e-12)


@given(st.integers(0, 2**16), st.floats(-1e4, 1e4))
def test_moving_all_cells_changes_no_euclidean_score(seed, shift):
    X, labels = blobs(n=40, d=3, k=3, seed=seed)
    labels[:3] = [0, 1, 2]
    batches = np.random.default_rng(seed).integers(0, 2, 40)
    batches[:2] = [0, 1]
    batches[labels == labels[0]] = np.arange((labels == labels[0]).sum()) % 2  # a label in which batches meet
    assume((labels == labels[0]).sum() > 2)
    np.testing.assert_allclose(silhouette_samples(X + shift, labels), silhouette_samples(X, labels), atol=1e-8)
    for score in (silhouette_batch, isolated_labels):
        assert score(X + shift, labels, batches) == pytest.approx(score(X, labels, batches), abs=1e-8)


def test_silhouette_label_is_the_rescaled_mean():
    X, labels = blobs()
    raw = silhouette_samples(X, labels)
    assert silhouette_label(X, labels) == pytest.approx((raw.mean() + 1) / 2)
    assert silhouette_label(X, labels, samples=raw) == silhouette_label(X, labels)


def test_silhouette_batch_leaves_out_labels_that_cannot_be_mixed():
    X, _ = blobs(n=60)
    labels = np.repeat([0, 1, 2, 3], [25, 25, 8, 2])
    batches = np.r_[np.arange(25) % 2, np.arange(25) % 3, np.zeros(8, int), [0, 1]]
    expected = [1 - np.abs(naive(X[labels == c], batches[labels == c])).mean() for c in (0, 1)]
    assert silhouette_batch(X, labels, batches) == pytest.approx(np.mean(expected), abs=1e-12)


def test_isolated_labels_are_those_in_the_fewest_batches():
    X, _ = blobs(n=60)
    labels = np.repeat(["a", "b", "c"], 20)
    batches = np.r_[np.arange(20) % 3, np.arange(20) % 2, np.arange(20) % 2]
    scaled = (naive(X, labels) + 1) / 2
    expected = np.mean([scaled[labels == c].mean() for c in "bc"])
    assert isolated_labels(X, labels, batches) == pytest.approx(expected, abs=1e-12)
    assert isolated_labels(X, labels, batches, samples=silhouette_samples(X, labels)) == isolated_labels(
        X, labels, batches
    )


def test_labels_in_every_batch_are_all_isolated():
    X, _ = blobs(n=60)
    labels, batches = np.repeat(["a", "b", "c"], 20), np.arange(60) % 2
    scaled = (naive(X, labels) + 1) / 2
    expected = np.mean([scaled[labels == c].mean() for c in "abc"])
    assert isolated_labels(X, labels, batches) == pytest.approx(expected, abs=1e-12)


X4 = np.arange(1.0, 9).reshape(4, 2)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: silhouette_samples(X4, [0, 0, 0, 0]), "one label"),
        (lambda: silhouette_samples(X4, [0, 1, 2, 3]), "label of its own"),
        (lambda: silhouette_label(X4, [0, 0, 0, 0]), "one label"),
        (lambda: silhouette_batch(X4, [0, 0, 1, 1], [0, 0, 0, 0]), "one batch"),
        (lambda: silhouette_batch(X4, [0, 0, 1, 1], [0, 0, 1, 1]), "No label has two batches"),
        (lambda: silhouette_batch(X4, [0, 0, 1, 1], [0, 1, 0, 1]), "No label has two batches"),
    ],
)
def test_scores_without_a_value_say_why(call, reason):
    with pytest.raises(Undefined, match=reason):
        call()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: silhouette_samples(X4, [0, 0, 1, 1], metric="manhattan"), "manhattan"),
        (lambda: silhouette_batch(X4 * np.nan, [0, 0, 1, 1], [0, 1, 0, 1]), "4 cells hold NaN"),
        (lambda: silhouette_batch(X4, [0, 0, 1, 1], [0, 1, 0]), "3 batches for 4 cells"),
        (lambda: isolated_labels(X4, [0, 0, 1, 1], [0, None, 0, 1]), "1 cells have no label .batches"),
    ],
)
def test_broken_input_is_refused(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()


def peak_bytes(n):
    X, labels = blobs(n=n, d=50, k=20, dtype=np.float32)
    tracemalloc.start()
    found = silhouette_samples(X, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.isfinite(found).all()
    return peak


def test_memory_does_not_grow_with_the_number_of_pairs():
    assert peak_bytes(20_000) < 200e6  # the pairs in float32: 1.6 GB


@pytest.mark.slow
def test_a_hundred_thousand_cells_need_less_than_a_gigabyte():
    assert peak_bytes(100_000) < 1e9
