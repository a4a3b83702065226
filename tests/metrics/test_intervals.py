"""Intervals: they cover as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from bftembed.metrics.intervals import (
    bootstrap_interval,
    half_sample_interval,
    half_samples,
    resampled_t_interval,
    t_interval,
)


def test_t_interval_equals_scipy():
    values = [1.0, 2.0, 4.0]
    expected = scipy.stats.t.interval(0.95, 2, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert t_interval(values) == pytest.approx(expected)
    assert all(math.isnan(x) for x in t_interval([1.0]))
    assert all(math.isnan(x) for x in resampled_t_interval([1.0, math.nan], 5))


def test_the_resampled_t_interval_is_wider_by_the_overlap_of_training_parts():
    values = [0.6, 0.7, 0.65, 0.8, 0.75]
    (low, high), (narrow, _) = resampled_t_interval(values, 5), t_interval(values)
    assert (low + high) / 2 == pytest.approx(np.mean(values))
    assert np.mean(values) - low == pytest.approx((np.mean(values) - narrow) * np.sqrt(1 + 5 / 4))


def test_bootstrap_interval_agrees_with_the_normal_theory():
    values = np.random.default_rng(0).normal(2, 3, size=900)
    half = 1.96 * values.std() / 30
    assert bootstrap_interval(values, 1) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert bootstrap_interval(values, 1) == bootstrap_interval(values, 1) != bootstrap_interval(values, 2)
    wide, narrow = bootstrap_interval(values, 3), bootstrap_interval(values, 3, level=0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert bootstrap_interval([0.25] * 8, 0) == (0.25, 0.25)
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(ValueError):
            bootstrap_interval(bad, 0)


def test_half_samples_keep_labels_and_batches_in_their_shares():
    labels, batches = np.repeat(["a", "b", "c"], [40, 21, 1]), np.tile(["x", "y"], 31)
    halves = list(half_samples(labels, batches, 40, seed=0))
    for half in halves:
        assert (np.diff(half) > 0).all()
        assert abs(int((labels[half] == "a").sum()) - 20) <= 1
        assert len(half) == 31
    assert 0 < np.mean([(labels[half] == "c").sum() for half in halves]) < 1
    assert [h.tolist() for h in halves] == [h.tolist() for h in half_samples(labels, batches, 40, seed=0)]
    assert len({tuple(h) for h in halves}) == 40


def test_the_half_sample_interval_of_a_mean_covers_as_often_as_it_says():
    draw = np.random.default_rng(0)
    covered = 0
    for i in range(400):
        cells = draw.normal(0.5, 0.1, 60)
        none = np.zeros(60, dtype=str)
        halves = [cells[h].mean() for h in half_samples(none, none, 10, seed=i)]
        low, high = half_sample_interval(cells.mean(), halves)
        covered += low <= 0.5 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_half_sample_intervals_are_clipped_and_need_three_values():
    assert half_sample_interval(0.98, [0.9, 1.0, 0.8]) == (pytest.approx(0.5498, abs=1e-3), 1.0)
    for value, halves in ((np.nan, [0.1, 0.2, 0.3]), (0.5, [0.4, 0.6]), (0.5, [np.nan] * 10)):
        assert all(math.isnan(x) for x in half_sample_interval(value, halves))
