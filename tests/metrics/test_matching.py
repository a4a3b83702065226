"""FOSCTTM and matching accuracy against brute force and cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.metrics import matching
from bftembed.metrics.checks import Undefined
from bftembed.metrics.matching import (
    chance_of_a_label,
    foscttm,
    label_matching_accuracy,
    matching_accuracy,
    true_ranks,
)


def one_way(X, Y):
    """Of every row of X, exactly: fraction of the others closer than the partner, and its place with ties broken."""
    fractions, places = [], []
    for i, x in enumerate(X):
        distances = ((Y - x) ** 2).sum(axis=1)
        others = np.delete(distances, i)
        closer, tied = (others < distances[i]).sum(), (others == distances[i]).sum()
        fractions.append((closer + tied / 2) / len(others))
        places.append((closer, tied))
    return np.array(fractions), places


def brute_foscttm(X, Y):
    return (one_way(X, Y)[0].mean() + one_way(Y, X)[0].mean()) / 2


def brute_accuracy(X, Y, k):
    """Return the chance of the partner among the k nearest, by all places that it may have among those tied."""
    found = []
    for closer, tied in (*one_way(X, Y)[1], *one_way(Y, X)[1]):
        found.append(np.mean([closer + place < k for place in range(tied + 1)]))
    return np.mean(found)


def brute_labels(X, Y, labels):
    found = []
    for A, B in ((X, Y), (Y, X)):
        for i, a in enumerate(A):
            distances = ((B - a) ** 2).sum(axis=1)
            nearest = np.flatnonzero(distances == distances.min())
            found.append(np.mean([labels[j] == labels[i] for j in nearest]))
    return np.mean(found)


def cells(n=60, d=5, noise=1.0, seed=0):
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(n, d))
    return X, X + noise * draw.normal(size=(n, d)), draw.integers(0, 4, n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", [0.3, 2.0, 20.0])
def test_all_three_equal_brute_force(dtype, noise):
    X, Y, labels = cells(noise=noise)
    X, Y = X.astype(dtype), Y.astype(dtype)
    wide = X.astype(np.float64), Y.astype(np.float64)
    assert foscttm(X, Y) == pytest.approx(brute_foscttm(*wide), abs=1e-12)
    for k in (1, 3, 10, 60):
        assert matching_accuracy(X, Y, k) == pytest.approx(brute_accuracy(*wide, k), abs=1e-12)
    assert label_matching_accuracy(X, Y, labels) == pytest.approx(brute_labels(*wide, labels), abs=1e-12)


@given(st.integers(2, 9), st.integers(1, 3), st.integers(0, 2**31))
def test_ties_of_small_whole_numbers_equal_brute_force(n, d, seed):
    draw = np.random.default_rng(seed)
    X, Y = (draw.integers(1, 4, (n, d)).astype(float) for _ in range(2))
    labels = draw.integers(0, 3, n)
    k = int(draw.integers(1, n + 1))
    assert foscttm(X, Y) == pytest.approx(brute_foscttm(X, Y), abs=1e-12)
    assert matching_accuracy(X, Y, k) == pytest.approx(brute_accuracy(X, Y, k), abs=1e-12)
    assert label_matching_accuracy(X, Y, labels) == pytest.approx(brute_labels(X, Y, labels), abs=1e-12)


def test_by_hand_three_cells_on_a_line():
    X, Y = np.array([[1.0], [2.0], [4.0]]), np.array([[1.5], [2.2], [1.1]])
    # From X the partner is .5 away (one of two is closer), .2 (none), 2.9 (both); from Y .5 (one as close), .2, 2.9.
    assert foscttm(X, Y) == pytest.approx((0.5 + 0 + 1 + 0.25 + 0 + 1) / 6)
    assert matching_accuracy(X, Y) == pytest.approx((0 + 1 + 0 + 0.5 + 1 + 0) / 6)
    assert matching_accuracy(X, Y, 2) == pytest.approx(4 / 6)
    # The nearest of 1, 2, 4 are the 3rd, 2nd, 2nd; those of 1.5, 2.2, 1.1 the 1st or 2nd (a tie), the 2nd, the 1st.
    assert label_matching_accuracy(X, Y, ["a", "b", "a"]) == pytest.approx((1 + 1 + 0 + 0.5 + 1 + 1) / 6)


def test_equal_modalities_are_perfect_and_the_reverse_order_is_the_worst():
    X, _, labels = cells()
    assert (foscttm(X, X), matching_accuracy(X, X), label_matching_accuracy(X, X, labels)) == (0, 1, 1)
    ends = np.array([[-3.0], [3.0]])
    assert foscttm(ends, ends[::-1]) == 1
    assert matching_accuracy(ends, ends[::-1]) == 0
    assert matching_accuracy(ends, ends[::-1], 2) == 1


def test_shuffled_partners_are_at_the_level_of_chance():
    draw = np.random.default_rng(3)
    X = draw.normal(size=(1500, 8))
    Y = X[draw.permutation(1500)]
    labels = np.repeat(["a", "b", "c"], [900, 450, 150])
    assert foscttm(X, Y) == pytest.approx(0.5, abs=0.02)
    assert matching_accuracy(X, Y, 150) == pytest.approx(0.1, abs=0.02)
    assert chance_of_a_label(labels) == pytest.approx(0.6**2 + 0.3**2 + 0.1**2)
    assert label_matching_accuracy(X, Y, labels) == pytest.approx(chance_of_a_label(labels), abs=0.03)


def test_identical_cells_are_ties_not_hits():
    X = np.ones((40, 3))
    assert foscttm(X, X) == 0.5
    assert matching_accuracy(X, X) == pytest.approx(1 / 40)
    assert label_matching_accuracy(X, X, ["a"] * 10 + ["b"] * 30) == pytest.approx(0.25**2 + 0.75**2)


def test_duplicates_far_from_zero_tie_exactly():
    draw = np.random.default_rng(1)
    X = 1e4 + draw.normal(size=(30, 6))
    Y = np.repeat(1e4 + draw.normal(size=(15, 6)), 2, axis=0)
    ranks = true_ranks(X, Y)
    assert (ranks.tied[0] == 1).all()
    assert foscttm(X, Y) == pytest.approx(brute_foscttm(X, Y), abs=1e-12)


@given(st.permutations(range(12)))
def test_the_order_of_the_cells_does_not_matter(order):
    X, Y, labels = cells(12)
    expected = foscttm(X, Y), matching_accuracy(X, Y, 3), label_matching_accuracy(X, Y, labels)
    X, Y, labels = X[order], Y[order], labels[order]
    found = foscttm(X, Y), matching_accuracy(X, Y, 3), label_matching_accuracy(X, Y, labels)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("factor", [1e-160, 0.37, 1e3, 1e160])
def test_scale_and_the_two_directions_do_not_matter(factor):
    X, Y, labels = cells()
    expected = foscttm(X, Y), matching_accuracy(X, Y, 5), label_matching_accuracy(X, Y, labels)
    A, B = Y * factor, X * factor
    found = foscttm(A, B), matching_accuracy(A, B, 5), label_matching_accuracy(A, B, labels)
    assert found == pytest.approx(expected, abs=1e-12)


def test_labels_by_other_names_give_the_same():
    X, Y, labels = cells()
    assert label_matching_accuracy(X, Y, labels) == label_matching_accuracy(X, Y, [f"z{9 - x}" for x in labels])


def test_small_blocks_change_nothing(monkeypatch):
    X, Y, labels = cells(n=101, noise=2)
    Y[7] = Y[8]
    expected = foscttm(X, Y), matching_accuracy(X, Y, 4), label_matching_accuracy(X, Y, labels)
    monkeypatch.setattr(matching, "_BLOCK", 64)
    assert (foscttm(X, Y), matching_accuracy(X, Y, 4), label_matching_accuracy(X, Y, labels)) == expected


def test_known_ranks_are_not_computed_again():
    X, Y, _ = cells()
    ranks = true_ranks(X, Y)
    assert foscttm(X, Y, ranks=ranks) == foscttm(X, Y)
    assert matching_accuracy(X, Y, 7, ranks=ranks) == matching_accuracy(X, Y, 7)


def test_memory_stays_in_blocks():
    import tracemalloc

    draw = np.random.default_rng(0)
    X, Y = (draw.normal(size=(6000, 20)).astype(np.float32) for _ in range(2))
    tracemalloc.start()
    foscttm(X, Y)
    label_matching_accuracy(X, Y, np.arange(6000) % 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6, peak  # the matrix of all distances has 288 MB


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda X, Y: (X[:-1], Y), r"shapes \(59, 5\) and \(60, 5\)"),
        (lambda X, Y: (X, Y[:, :3]), r"shapes \(60, 5\) and \(60, 3\)"),
        (
            lambda X, Y: (X, np.where(np.arange(60)[:, None] == 4, np.nan, Y)),
            "1 cells hold NaN or infinity .first: row 4",
        ),
        (lambda X, Y: (X * (np.arange(60)[:, None] != 2), Y), "1 cells are all zero"),
        (lambda X, Y: (X[:0], Y[:0]), "no cells"),
        (lambda X, Y: (X.astype(str), Y), "real numbers"),
        (lambda X, Y: (X[0], Y[0]), "shape"),
    ],
)
def test_broken_vectors_are_named(change, reason):
    X, Y, labels = cells()
    X, Y = change(X, Y)
    for score in (foscttm, matching_accuracy, lambda X, Y: label_matching_accuracy(X, Y, labels[: len(X)])):
        with pytest.raises(ValueError, match=reason):
            score(X, Y)


def test_what_has_no_value_is_told_apart():
    X, Y, labels = cells(8)
    with pytest.raises(Undefined, match="1 cell: a match needs at least 2"):
        foscttm(X[:1], Y[:1])
    with pytest.raises(Undefined, match="8 cells are fewer than the 10"):
        matching_accuracy(X, Y, 10)
    with pytest.raises(ValueError, match="k = 0"):
        matching_accuracy(X, Y, 0)
    with pytest.raises(ValueError, match="7 labels for 8 cells"):
        label_matching_accuracy(X, Y, labels[:7])
    with pytest.raises(ValueError, match="1 cells have no label"):
        label_matching_accuracy(X, Y, [None, *"aabbccd"])
    assert label_matching_accuracy(X[:1], Y[:1], ["a"]) == 1
