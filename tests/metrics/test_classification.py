"""The area under the ROC curve against scikit-learn, and the bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

from bftembed.metrics import classification
from bftembed.metrics.classification import roc_auc, weighted_roc_auc
from bftembed.metrics.intervals import bootstrap_counts, percentile_interval

LEVELS = st.sampled_from([-1e300, -2.0, -1e-300, 0.0, 1e-300, 0.25, 1.0, 1.0 + 2**-52, 3.0, 1e300])


@st.composite
def labelled(draw, numbers=LEVELS, least=2):
    n = draw(st.integers(least, 40))
    labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 1)))
    labels[:2] = 0, 1
    return labels, draw(hnp.arrays(np.float64, n, elements=numbers))


@given(labelled())
def test_roc_auc_is_that_of_scikit_learn_with_ties(case):
    labels, scores = case
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-14)


@given(labelled(st.integers(-3, 3).map(float)))
def test_roc_auc_is_the_chance_that_a_positive_wins(case):
    labels, scores = case
    positive, negative = scores[labels == 1], scores[labels == 0]
    won = [(p > q) + (p == q) / 2 for p in positive for q in negative]
    assert roc_auc(labels, scores) == pytest.approx(np.mean(won), abs=1e-14)


@given(labelled(st.floats(-5, 5)), st.integers(0, 10**6))
def test_only_the_order_of_scores_counts_and_neither_that_of_items(case, seed):
    labels, scores = case
    found = roc_auc(labels, scores)
    assert 0 <= found <= 1
    order = np.random.default_rng(seed).permutation(len(labels))
    assert roc_auc(labels[order], scores[order]) == pytest.approx(found, abs=1e-14)
    _, ranks = np.unique(scores, return_inverse=True)
    assert roc_auc(labels, ranks**3) == pytest.approx(found, abs=1e-14)
    assert roc_auc(labels, -scores) == pytest.approx(1 - found, abs=1e-14)
    assert roc_auc(1 - labels, scores) == pytest.approx(1 - found, abs=1e-14)


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.float32])
def test_known_values_for_any_type_of_labels(kind):
    labels = np.array([0, 0, 1, 1], dtype=kind)
    assert roc_auc(labels, np.array([0.1, 0.2, 0.3, 0.4], np.float32)) == 1.0
    assert roc_auc(labels, [4, 3, 2, 1]) == 0.0
    assert roc_auc(labels, [7, 7, 7, 7]) == 0.5
    assert roc_auc(labels, [1, 3, 2, 4]) == 0.75


@given(labelled(), st.data())
def test_weighted_roc_auc_is_that_of_scikit_learn_with_sample_weights(case, data):
    labels, scores = case
    weights = data.draw(hnp.arrays(np.int64, (3, len(labels)), elements=st.integers(0, 4)))
    found = weighted_roc_auc(labels, scores, weights)
    assert found.shape == (3,)
    assert found.dtype == np.float64
    for value, w in zip(found, weights, strict=True):
        if w[labels == 1].sum() and w[labels == 0].sum():
            kept = w > 0
            expected = roc_auc_score(labels[kept], scores[kept], sample_weight=w[kept])
            assert value == pytest.approx(expected, abs=1e-12)
            # A weight is a repeat.
            assert value == pytest.approx(roc_auc(np.repeat(labels, w), np.repeat(scores, w)), abs=1e-12)
        else:
            assert math.isnan(value)


def test_weights_may_be_fractions_and_blocks_change_nothing(monkeypatch):
    draw = np.random.default_rng(0)
    labels, scores, weights = draw.integers(0, 2, 50), draw.integers(0, 9, 50).astype(float), draw.random((17, 50))
    found = weighted_roc_auc(labels, scores, weights)
    assert found == pytest.approx([roc_auc_score(labels, scores, sample_weight=w) for w in weights], abs=1e-12)
    monkeypatch.setattr(classification, "_BLOCK", 120)
    assert (weighted_roc_auc(labels, scores, weights) == found).all()
    assert weighted_roc_auc(labels, scores, weights.astype(np.float32)) == pytest.approx(found, abs=1e-6)


def test_without_one_of_the_classes_there_is_no_value():
    assert math.isnan(roc_auc([1, 1], [0.0, 1.0]))
    assert math.isnan(roc_auc([0, 0], [0.0, 1.0]))
    assert math.isnan(roc_auc([], []))
    assert np.isnan(weighted_roc_auc([], [], np.ones((4, 0)))).tolist() == [True] * 4
    assert weighted_roc_auc([0, 1], [0.0, 1.0], np.ones((0, 2))).shape == (0,)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.0], "shapes"),
        ([[0, 1]], [[0.0, 1.0]], "shapes"),
        ([0, 2], [0.0, 1.0], "0 or 1"),
        ([0, -1], [0.0, 1.0], "0 or 1"),
        ([0, math.nan], [0.0, 1.0], "0 or 1"),
        ([0, 1], [0.0, math.nan], "1 of 2 scores are not finite"),
        ([0, 1], [-math.inf, math.inf], "2 of 2 scores"),
    ],
)
def test_what_is_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        roc_auc(labels, scores)
    with pytest.raises(ValueError, match=message):
        weighted_roc_auc(labels, scores, np.ones((1, 2)))


@pytest.mark.parametrize("shape", [(3,), (1, 2), (3, 1), (1, 1, 3)])
def test_weights_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="weights have shape"):
        weighted_roc_auc([0, 1, 1], [0.0, 1.0, 2.0], np.ones(shape))


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 2**31))
def test_every_replicate_draws_as_many_units_as_there_are(n_units, n_replicates, seed):
    counts = bootstrap_counts(n_units, n_replicates, seed)
    assert counts.shape == (n_replicates, n_units)
    assert counts.dtype == np.uint16
    assert (counts.sum(axis=1) == n_units).all()
    assert (bootstrap_counts(n_units, n_replicates, seed) == counts).all()
    # More replicates go on from fewer.
    assert (bootstrap_counts(n_units, n_replicates + 3, seed)[:n_replicates] == counts).all()


def test_units_are_drawn_equally_often_and_seeds_differ():
    counts = bootstrap_counts(50, 4000, 0)
    assert counts.mean(axis=0) == pytest.approx(1.0, abs=0.1)
    assert counts.var() == pytest.approx(1 - 1 / 50, abs=0.05)
    assert (bootstrap_counts(50, 4000, 1) != counts).any()


def test_the_interval_is_of_quantiles_and_passes_over_what_has_no_value():
    values = np.arange(1001.0)
    assert percentile_interval(values) == pytest.approx((25.0, 975.0))
    assert percentile_interval(values, 0.5) == pytest.approx((250.0, 750.0))
    assert percentile_interval(np.r_[np.nan, values, np.nan]) == pytest.approx((25.0, 975.0))
    assert percentile_interval([3.0]) == (3.0, 3.0)
    assert all(math.isnan(x) for x in percentile_interval([math.nan, math.nan]))
    assert all(math.isnan(x) for x in percentile_interval([]))


def test_the_bootstrap_interval_of_an_auc_holds_the_truth_about_as_often_as_it_says():
    draw = np.random.default_rng(1)
    held = []
    truth = 0.760  # of two normal distributions one standard deviation apart
    for trial in range(120):
        labels = np.repeat([0, 1], 60)
        low, high = percentile_interval(
            weighted_roc_auc(labels, draw.normal(labels), bootstrap_counts(120, 200, trial))
        )
        held.append(low <= truth <= high)
    assert 0.87 <= np.mean(held) <= 1.0


@pytest.mark.parametrize("rare", [0, 1])
def test_a_small_class_is_compared_pair_by_pair_with_the_same_result(monkeypatch, rare):
    draw = np.random.default_rng(rare)
    labels = np.full(400, 1 - rare)
    labels[:30] = rare
    scores, weights = draw.integers(0, 40, 400) / 7, draw.integers(0, 4, (50, 400))
    found = classification.weighted_roc_auc(labels, scores, weights)
    monkeypatch.setattr(classification, "_FEW", 0)
    np.testing.assert_array_equal(found, classification.weighted_roc_auc(labels, scores, weights))
    expected = [roc_auc_score(labels, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
