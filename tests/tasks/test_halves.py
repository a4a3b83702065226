"""Intervals from halves of the cells."""

from __future__ import annotations

import numpy as np
import pytest
from integration_toys import blobs

from bftembed.errors import BftembedError
from bftembed.results import to_frame
from bftembed.tasks import integration as task
from bftembed.tasks.halves import half_interval, half_samples


def test_halves_keep_labels_and_batches_in_their_shares():
    labels, batches = np.repeat(["a", "b", "c"], [40, 21, 1]), np.tile(["x", "y"], 31)
    sizes = []
    for half in half_samples(labels, batches, 40, seed=0):
        assert (np.diff(half) > 0).all()
        assert abs(int((labels[half] == "a").sum()) - 20) <= 1
        assert len(half) == 31
        sizes.append(int((labels[half] == "c").sum()))
    assert 0 < np.mean(sizes) < 1


def test_halves_repeat_and_differ():
    labels, batches = np.repeat(["a", "b"], 20), np.tile(["x", "y"], 20)
    first, again = ([h.tolist() for h in half_samples(labels, batches, 5, seed=s)] for s in (3, 3))
    assert first == again
    assert len({tuple(h) for h in first}) == 5


def test_the_interval_of_a_mean_covers_as_often_as_it_says():
    draw = np.random.default_rng(0)
    covered = 0
    for i in range(400):
        cells = draw.normal(0.5, 0.1, 60)
        none = np.zeros(60, dtype=str)
        halves = [cells[h].mean() for h in half_samples(none, none, 10, seed=i)]
        low, high = half_interval(cells.mean(), halves)
        covered += low <= 0.5 <= high
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize(("value", "halves"), [(np.nan, [0.1, 0.2, 0.3]), (0.5, [0.4, 0.6]), (0.5, [np.nan] * 10)])
def test_no_value_or_too_few_halves_have_no_interval(value, halves):
    assert all(np.isnan(half_interval(value, halves)))


def test_an_interval_stays_within_the_range_of_the_score():
    assert half_interval(0.98, [0.9, 1.0, 0.8]) == (pytest.approx(0.5498, abs=1e-3), 1.0)


def test_every_metric_and_aggregate_has_an_interval_around_its_value():
    X, labels, batches, before = blobs(400)
    asked = {"run": "r", "before": before, "seeds": [0, 1]}
    frame = to_frame(task.run({"e": X}, labels, batches, halves=4, **asked))
    values = frame[frame["split"] == "all"].groupby("metric")["value"].mean()
    ends = frame[frame["split"] != "all"].pivot(index="metric", columns="split", values="value")
    assert set(ends.index) == set(values.index)
    assert (ends["ci95-low"] <= values[ends.index] + 1e-12).all()
    assert (ends["ci95-high"] >= values[ends.index] - 1e-12).all()
    plain = to_frame(task.run({"e": X}, labels, batches, **asked))
    assert plain.equals(frame[frame["split"] == "all"].reset_index(drop=True))


@pytest.mark.parametrize("halves", [-1, 1, 2])
def test_a_number_that_gives_no_interval_is_refused(halves):
    X, labels, batches, _ = blobs()
    with pytest.raises(BftembedError, match="give 0 for no interval"):
        task.run({"e": X}, labels, batches, run="r", halves=halves)
