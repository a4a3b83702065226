"""FOSCTTM and matching accuracy against brute force and cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.metrics import matching
from bftembed.metrics.matching import chance_of_a_label, matching_scores


def brute(X, Y, labels, among=(1, 10)):
    """Compute all scores of every row, exactly; a partner tied with others takes each of their places in turn."""
    found = {name: [] for name in ("foscttm", *among, "label_matching_accuracy")}
    for A, B in ((X, Y), (Y, X)):
        for i, a in enumerate(A):
            distances = ((B - a) ** 2).sum(axis=1)
            others = np.delete(distances, i)
            closer, tied = (others < distances[i]).sum(), (others == distances[i]).sum()
            found["foscttm"].append((closer + tied / 2) / len(others))
            for k in among:
                found[k].append(np.mean([closer + place < k for place in range(tied + 1)]))
            nearest = np.flatnonzero(distances == distances.min())
            found["label_matching_accuracy"].append(np.mean([labels[j] == labels[i] for j in nearest]))
    names = {k: "matching_accuracy" if k == 1 else f"matching_accuracy_{k}" for k in among}
    return {names.get(k, k): np.mean(x) for k, x in found.items()}


def cells(n=60, d=5, noise=1.0, seed=0):
    draw = np.random.default_rng(seed)
    X = draw.normal(size=(n, d))
    return X, X + noise * draw.normal(size=(n, d)), draw.integers(0, 4, n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", [0.3, 2.0, 20.0])
def test_scores_equal_brute_force(dtype, noise):
    X, Y, labels = cells(noise=noise)
    X, Y = X.astype(dtype), Y.astype(dtype)
    expected = brute(X.astype(np.float64), Y.astype(np.float64), labels, (1, 3, 60))
    assert matching_scores(X, Y, labels, (1, 3, 60)) == pytest.approx(expected, abs=1e-12)


@given(st.integers(2, 9), st.integers(1, 3), st.integers(0, 2**31))
def test_ties_of_small_whole_numbers_equal_brute_force(n, d, seed):
    draw = np.random.default_rng(seed)
    X, Y = (draw.integers(1, 4, (n, d)).astype(float) for _ in range(2))
    labels = draw.integers(0, 3, n)
    among = (1, int(draw.integers(1, n + 1)))
    assert matching_scores(X, Y, labels, among) == pytest.approx(brute(X, Y, labels, among), abs=1e-12)


def test_by_hand_three_cells_on_a_line():
    X, Y = np.array([[1.0], [2.0], [4.0]]), np.array([[1.5], [2.2], [1.1]])
    # From X the partner is .5 away (one of two is closer), .2 (none), 2.9 (both); from Y .5 (one as close), .2, 2.9.
    # The nearest of 1, 2, 4 are the 3rd, 2nd, 2nd; those of 1.5, 2.2, 1.1 the 1st or 2nd (a tie), the 2nd, the 1st.
    assert matching_scores(X, Y, ["a", "b", "a"], (1, 2)) == pytest.approx(
        {
            "foscttm": (0.5 + 0 + 1 + 0.25 + 0 + 1) / 6,
            "matching_accuracy": (0 + 1 + 0 + 0.5 + 1 + 0) / 6,
            "matching_accuracy_2": 4 / 6,
            "label_matching_accuracy": (1 + 1 + 0 + 0.5 + 1 + 1) / 6,
        }
    )


def test_equal_modalities_are_perfect_and_identical_cells_are_ties():
    X, _, labels = cells()
    assert [*matching_scores(X, X, labels).values()] == [0, 1, 1, 1]
    same = matching_scores(np.ones((40, 3)), np.ones((40, 3)), ["a"] * 10 + ["b"] * 30)
    assert [*same.values()] == pytest.approx([0.5, 1 / 40, 1 / 4, 0.25**2 + 0.75**2])


def test_shuffled_partners_are_at_the_level_of_chance():
    draw = np.random.default_rng(3)
    X = draw.normal(size=(1500, 8))
    labels = np.repeat(["a", "b", "c"], [900, 450, 150])
    assert chance_of_a_label(labels) == pytest.approx(0.6**2 + 0.3**2 + 0.1**2)
    scores = matching_scores(X, X[draw.permutation(1500)], labels, (150,))
    assert [*scores.values()] == pytest.approx([0.5, 0.1, chance_of_a_label(labels)], abs=0.03)


def test_duplicates_far_from_zero_tie_exactly():
    draw = np.random.default_rng(1)
    X, Y = 1e4 + draw.normal(size=(30, 6)), np.repeat(1e4 + draw.normal(size=(15, 6)), 2, axis=0)
    labels = np.arange(30) % 4
    assert matching_scores(X, Y, labels) == pytest.approx(brute(X, Y, labels), abs=1e-12)


@pytest.mark.parametrize("factor", [1e-160, 0.37, 1e160])
def test_scale_directions_and_blocks_do_not_matter(factor, monkeypatch):
    X, Y, labels = cells(n=101, noise=2)
    Y[7] = Y[8]
    expected = matching_scores(X, Y, labels)
    monkeypatch.setattr(matching, "_BLOCK", 640)
    assert matching_scores(Y * factor, X * factor, labels) == pytest.approx(expected, abs=1e-12)


def test_memory_stays_in_blocks():
    import tracemalloc

    draw = np.random.default_rng(0)
    X, Y = (draw.normal(size=(4000, 5)).astype(np.float32) for _ in range(2))
    tracemalloc.start()
    matching_scores(X, Y, np.arange(4000) % 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6, peak  # the matrix of all distances has 128 MB


def test_few_cells_have_no_score_and_broken_input_is_rejected():
    X, Y, labels = cells()
    one = matching_scores(X[:1], Y[:1], ["a"])
    assert [m for m, x in one.items() if np.isnan(x)] == ["foscttm", "matching_accuracy_10"]
    assert one["label_matching_accuracy"] == 1
    for broken in ((X[:-1], Y, labels), (X, Y * np.nan, labels), (X * 0, Y, labels), (X, Y, labels[:7])):
        with pytest.raises(ValueError):
            matching_scores(*broken)
    with pytest.raises(ValueError):
        matching_scores(X, Y, [None, *labels[1:]])
