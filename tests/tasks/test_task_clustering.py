"""The clustering task: what rows it gives, which cells it counts, and how it fails."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from bftembed.errors import BftembedError
from bftembed.metrics import clustering as metrics
from bftembed.metrics.silhouette import silhouette_samples
from bftembed.results import to_frame
from bftembed.tasks import clustering as task

TRUTH = np.array(["B", "T", "NK"])[np.repeat([0, 1, 2], 20)]


def blobs(spread=1.0, seed=0, d=4):
    rng = np.random.default_rng(seed)
    centres = 10 * rng.normal(size=(3, d)) + 1
    return centres[np.repeat([0, 1, 2], 20)] + spread * rng.normal(size=(60, d))


def score(embeddings, labels=TRUTH, **options):
    return to_frame(task.run(embeddings, labels, run="r", **options))


def pick(frame, **where):
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def test_rows_are_complete_and_equal_the_metrics():
    X = blobs(6.0)
    frame = score({"e": X}, seeds=[3, 9])
    assert len(frame) == 2 * 2 + 3 + 3 * 2
    for seed in (3, 9):
        found = metrics.kmeans_labels(X, 3, seed)
        for name in ("ari", "ami"):
            row = pick(frame, protocol="standard", metric=name, seed=seed)
            assert row["value"].tolist() == [metrics.partition_scores(TRUTH, found)[name]]
    silhouette = pick(frame, protocol="standard", metric="silhouette").set_index("split")
    per_cell = silhouette_samples(X, TRUTH)
    assert silhouette.loc["all", "value"] == pytest.approx(per_cell.mean())
    assert silhouette.loc["ci95-low", "value"] < per_cell.mean() < silhouette.loc["ci95-high", "value"]
    assert silhouette["seed"].isna().all()
    assert set(frame["n_used"]) == {60}
    assert set(frame["n_missing"]) == {0}
    assert set(frame["note"]) == {""}


def test_separate_groups_score_one_and_permuted_labels_about_zero():
    frame = score({"e": blobs(0.1)}, seeds=range(10))
    assert pick(frame, protocol="standard", metric="ari")["value"].tolist() == [1.0] * 10
    by_chance = pick(frame, protocol="permuted-labels", metric="ari")["value"]
    assert by_chance.nunique() > 1
    assert abs(by_chance.mean()) < 0.05
    assert pick(frame, protocol="permuted-labels", metric="silhouette")["value"].max() < 0.2


def test_the_task_repeats_itself():
    embeddings = {"a": blobs(5.0), "b": blobs(5.0, seed=1)}
    assert score(embeddings).equals(score(embeddings))


def test_floors_can_be_left_out():
    assert set(score({"e": blobs()}, floors=False)["protocol"]) == {"standard"}


def test_cells_without_label_or_vector_are_left_out_of_all_embeddings_and_counted():
    a, b = blobs(3.0), blobs(3.0, seed=1)
    labels = TRUTH.astype(object)
    labels[0], labels[1], labels[2], labels[3] = None, np.nan, " ", "nan"
    a[10], b[11, 2], b[12] = 0, np.nan, np.inf
    frame = score({"a": a, "b": b}, labels)
    note = "7 cells left out: 4 without a label, 1 all-zero in a, 2 NaN or infinite in b"
    assert set(frame["note"]) == {note}
    assert set(frame["n_used"]) == {53}
    assert set(frame["n_missing"]) == {7}
    keep = np.ones(60, dtype=bool)
    keep[[0, 1, 2, 3, 10, 11, 12]] = False
    alone = score({"a": a[keep], "b": b[keep]}, TRUTH[keep])
    assert frame["value"].tolist() == alone["value"].tolist()


def test_an_embedding_without_vectors_fails_alone_and_says_why():
    frame = score({"good": blobs(3.0), "bad": np.full((60, 2), np.nan)}, seeds=[0, 1])
    bad = pick(frame, embedding="bad")
    assert bad["value"].isna().all()
    assert set(zip(bad["protocol"], bad["metric"], strict=True)) == {
        (p, m) for p in ("standard", "permuted-labels") for m in ("ari", "ami", "silhouette")
    }
    assert set(bad["note"]) == {
        "error: no cell has both a label and a vector; 60 cells left out: 60 NaN or infinite in bad"
    }
    good = pick(frame, embedding="good")
    assert good["value"].tolist() == score({"good": blobs(3.0)}, seeds=[0, 1])["value"].tolist()


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["T"] * 60, "one label ('T'); two are needed"),
        ([None] * 60, "no cell has both a label and a vector"),
        ([f"cell {i}" for i in range(60)], "label of its own"),
        (["T"] * 30 + [None] * 30, "all 30 usable cells have one label"),
    ],
)
def test_labels_that_cannot_be_scored_give_rows_with_the_reason(labels, reason):
    frame = score({"e": blobs()}, labels)
    assert frame["value"].isna().all()
    assert all(n.startswith("error: ") and reason in n for n in frame["note"])


def test_missing_cells_that_leave_one_label_in_common_are_a_failure_of_all():
    a, b = blobs(), blobs()
    labels = np.repeat(["T", "B"], 30)
    a[:29], b[31:] = np.nan, np.nan
    frame = score({"a": a, "b": b}, labels)
    assert frame["value"].isna().all()
    assert all("label of its own" in n and "NaN or infinite in a" in n for n in frame["note"])


def test_too_few_distinct_cells_are_noted():
    X = np.repeat([[1.0, 1.0], [2.0, 2.0]], 30, axis=0)
    frame = pick(score({"e": X}), protocol="standard", metric="ari")
    assert all("only 2 of 3 clusters" in n for n in frame["note"])


def test_missing_labels_of_every_kind_are_known():
    import pandas as pd

    assert all(task.missing_label(x) for x in (None, math.nan, np.float32("nan"), pd.NA, pd.NaT, "", "  ", "NaN"))
    assert not any(task.missing_label(x) for x in ("T", 0, False, "NA", "none"))


@pytest.mark.parametrize(
    ("embeddings", "options", "reason"),
    [
        ({}, {}, "at least one embedding"),
        ({"e": np.ones((60, 2))}, {"seeds": []}, "one seed"),
        ({"a": np.ones((60, 2)), "e": np.ones((59, 2))}, {}, "'e' has 59 cells, but there are 60 labels"),
        ({"e": np.ones(60)}, {}, "'e' must be a numeric array"),
        ({"e": np.full((60, 1), "x")}, {}, "'e' must be a numeric array"),
    ],
)
def test_calls_that_make_no_sense_are_refused(embeddings, options, reason):
    with pytest.raises(BftembedError, match=reason):
        score(embeddings, **options)


def test_the_card_of_the_task_is_frozen():
    assert (task.INFO.name, task.INFO.main_metric, task.INFO.direction) == ("clustering", "ari", "higher")
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.INFO.version = 2  # type: ignore[misc]
