"""The area under the ROC curve against scikit-learn."""

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
def labelled(draw):
    n = draw(st.integers(2, 40))
    labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 1)))
    labels[:2] = 0, 1
    return labels, draw(hnp.arrays(np.float64, n, elements=LEVELS))


@given(labelled(), st.data())
def test_roc_auc_is_that_of_scikit_learn_with_ties_and_weights(case, data):
    labels, scores = case
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-14)
    assert roc_auc(1 - labels, scores) == pytest.approx(1 - roc_auc(labels, scores), abs=1e-14)
    weights = data.draw(hnp.arrays(np.int64, (3, len(labels)), elements=st.integers(0, 4)))
    for value, w in zip(weighted_roc_auc(labels, scores, weights), weights, strict=True):
        if w[labels == 1].sum() and w[labels == 0].sum():
            # A weight is a repeat.
            assert value == pytest.approx(roc_auc_score(np.repeat(labels, w), np.repeat(scores, w)), abs=1e-12)
        else:
            assert math.isnan(value)


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.float32])
def test_known_values_for_any_type_of_labels(kind):
    labels = np.array([0, 0, 1, 1], dtype=kind)
    assert roc_auc(labels, np.array([0.1, 0.2, 0.3, 0.4], np.float32)) == 1.0
    assert [roc_auc(labels, s) for s in ([4, 3, 2, 1], [7, 7, 7, 7], [1, 3, 2, 4])] == [0.0, 0.5, 0.75]


@pytest.mark.parametrize("rare", [0, 1])
def test_blocks_and_comparison_by_pairs_change_nothing(monkeypatch, rare):
    draw = np.random.default_rng(rare)
    labels = np.full(400, 1 - rare)
    labels[:30] = rare
    scores, weights = draw.integers(0, 40, 400) / 7, draw.random((20, 400))
    found = weighted_roc_auc(labels, scores, weights)
    assert found == pytest.approx([roc_auc_score(labels, scores, sample_weight=w) for w in weights], abs=1e-12)
    monkeypatch.setattr(classification, "_FEW", 0)
    monkeypatch.setattr(classification, "_BLOCK", 1200)
    np.testing.assert_allclose(found, weighted_roc_auc(labels, scores, weights), rtol=1e-12)


def test_without_one_of_the_classes_there_is_no_value():
    for labels, scores in (([1, 1], [0.0, 1.0]), ([0, 0], [0.0, 1.0]), ([], [])):
        assert math.isnan(roc_auc(labels, scores))
    assert np.isnan(weighted_roc_auc([], [], np.ones((4, 0)))).tolist() == [True] * 4
    assert weighted_roc_auc([0, 1], [0.0, 1.0], np.ones((0, 2))).shape == (0,)


@pytest.mark.parametrize(
    ("labels", "scores", "weights"),
    [
        ([0, 1], [0.0], np.ones((1, 2))),
        ([[0, 1]], [[0.0, 1.0]], np.ones((1, 2))),
        ([0, 2], [0.0, 1.0], np.ones((1, 2))),
        ([0, math.nan], [0.0, 1.0], np.ones((1, 2))),
        ([0, 1], [0.0, math.nan], np.ones((1, 2))),
        ([0, 1], [0.0, 1.0], np.ones(2)),
        ([0, 1], [0.0, 1.0], np.ones((1, 3))),
    ],
)
def test_broken_input_is_rejected(labels, scores, weights):
    with pytest.raises(ValueError):
        weighted_roc_auc(labels, scores, weights)


def test_the_bootstrap_interval_of_an_auc_covers_about_as_often_as_it_says():
    draw, held = np.random.default_rng(1), []
    for trial in range(120):
        labels = np.repeat([0, 1], 60)
        counts = bootstrap_counts(120, 200, trial)
        low, high = percentile_interval(weighted_roc_auc(labels, draw.normal(labels), counts))
        held.append(low <= 0.760 <= high)  # of two normal distributions one standard deviation apart
    assert 0.87 <= np.mean(held) <= 1.0
