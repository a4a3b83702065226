from __future__ import annotations

import math

import numpy as np
import pytest

from bftembed.reports.tables import kind_of_name, summarise, t_interval, text_table, verdicts
from bftembed.results import Result, to_frame


def rows(embedding, values, metric="ari", protocol="standard", **more):
    return [
        Result(
            "r",
            embedding,
            "clustering",
            protocol,
            metric,
            seed=i,
            value=v,
            n_used=9,
            note="bad" if v != v else "",
            **more,
        )
        for i, v in enumerate(values)
    ]


def silhouette(embedding, mean, low, high):
    ends = {"all": mean, "ci95-low": low, "ci95-high": high}
    return [Result("r", embedding, "clustering", "standard", "silhouette", s, None, v, 9) for s, v in ends.items()]


def test_interval_over_seeds_is_students_t():
    # mean 2, s = 1, n = 3: t(0.975, 2) = 4.302653, so 2 -+ 4.302653 / sqrt(3)
    low, high = t_interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert all(math.isnan(x) for x in t_interval(np.array([1.0])))


def test_summary_has_means_and_the_right_interval_of_each_metric():
    frame = to_frame(rows("e", [0.1, 0.2, 0.3]) + silhouette("e", 0.5, 0.4, 0.7) + rows("one", [0.9]))
    summary = summarise(frame).set_index(["embedding", "metric"])
    ari, sil, one = summary.loc[("e", "ari")], summary.loc[("e", "silhouette")], summary.loc[("one", "ari")]
    assert ari["mean"] == pytest.approx(0.2)
    assert (ari["n"], ari["interval"]) == (3, "seeds")
    assert (ari["low"], ari["high"]) == pytest.approx(t_interval(np.array([0.1, 0.2, 0.3])))
    assert (sil["mean"], sil["low"], sil["high"], sil["n"], sil["interval"]) == (0.5, 0.4, 0.7, 1, "cells")
    assert math.isnan(one["low"])
    assert one["interval"] == ""


def test_failures_are_counted_and_never_averaged():
    summary = summarise(to_frame(rows("e", [0.1, math.nan, 0.3]) + rows("f", [math.nan, math.nan])))
    assert summary["mean"].tolist()[0] == pytest.approx(0.2)
    assert math.isnan(summary["mean"].tolist()[1])
    assert summary["n_failed"].tolist() == [1, 2]
    assert summary["note"].tolist() == ["bad", "bad"]


def test_summary_of_nothing_is_empty():
    assert summarise(to_frame([])).empty


def test_text_table_is_aligned_and_puts_permuted_labels_last():
    frame = to_frame(
        rows("long name", [0.25, 0.25])
        + rows("b", [math.nan])
        + rows("b", [0.0, 0.0], protocol="permuted-labels")
        + silhouette("b", -0.5, -0.6, -0.4)
    )
    assert text_table(summarise(frame)) == [
        "embedding            ARI                   silhouette",
        "b                    failed                -0.500 [-0.600, -0.400]",
        "long name            0.250 [0.250, 0.250]",
        "b / permuted-labels  0.000 [0.000, 0.000]",
    ]


def test_text_table_of_several_protocols_names_them():
    frame = to_frame(
        rows("a", [0.1]) + rows("a", [0.2], protocol="strict") + rows("a", [0.0], protocol="strict/permuted-labels")
    )
    assert [line.split("  ")[0] for line in text_table(summarise(frame))] == [
        "embedding",
        "a / standard",
        "a / strict",
        "a / strict/permuted-labels",
    ]


KINDS = {"text": "profile", "text2": "profile", "random": "floor", "tfidf": "floor", "pca": "reference"}


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ([0.8, 0.805, 0.81], "on 1 of 1 metrics: ARI", "above tfidf (0.105), random (0.405)."),
        ([0.3, 0.305, 0.31], "No embedding made from profiles", "above tfidf (0.105); below random (0.405)."),
        ([0.1, 0.7], "No embedding made from profiles", "not told apart from tfidf (0.105), random (0.405)."),
        ([0.8], "No embedding made from profiles", "not told apart from tfidf (0.105), random (0.405)."),
    ],
)
def test_verdict_follows_the_intervals(text, first, second):
    frame = to_frame(
        rows("text", text)
        + rows("random", [0.4, 0.405, 0.41])
        + rows("tfidf", [0.1, 0.105, 0.11])
        + rows("pca", [0.99, 0.99])
    )
    told = verdicts(summarise(frame), KINDS)
    assert first in told[0]
    assert told[1].startswith("ARI: the best from profiles, text")
    assert told[1].endswith(second)


def test_verdict_takes_the_best_profile_embedding_and_counts_a_failed_floor_as_not_beaten():
    frame = to_frame(rows("text", [0.2, 0.2]) + rows("text2", [0.9, 0.9]) + rows("random", [math.nan]))
    told = verdicts(summarise(frame), KINDS)
    assert told == [
        "No embedding made from profiles is above every floor on any metric.",
        "ARI: the best from profiles, text2 (0.900), is not told apart from random (no value).",
    ]


@pytest.mark.parametrize("kinds", [{}, {"text": "profile"}, {"random": "floor"}])
def test_no_verdict_without_both_sides(kinds):
    assert verdicts(summarise(to_frame(rows("text", [0.2, 0.3]) + rows("random", [0.1, 0.1]))), kinds) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("baseline: random 2", "floor"),
        ("baseline: shuffled", "floor"),
        ("baseline: tfidf", "floor"),
        ("baseline: ncbi", "reference"),
        ("baseline: pca", "reference"),
        ("X_random", ""),
    ],
)
def test_the_name_of_a_baseline_says_what_it_is(name, kind):
    assert kind_of_name(name) == kind
