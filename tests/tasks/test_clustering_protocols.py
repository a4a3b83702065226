"""The protocols strict and genept of the clustering task."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from bftembed.errors import BftembedError, MissingExtraError
from bftembed.metrics.clustering import kmeans_labels, partition_scores
from bftembed.metrics.knn import knn_hits
from bftembed.metrics.leiden import RESOLUTIONS, LeidenGraph
from bftembed.metrics.neighbours import nearest_neighbours
from bftembed.metrics.silhouette import silhouette_samples
from bftembed.results import to_frame
from bftembed.tasks import clustering as task
from bftembed.tasks.clustering_protocols import PROTOCOLS

TRUTH = np.array(["B", "T", "NK"])[np.repeat([0, 1, 2], 40)]
PARTITIONS = [p + m for p in ("", "leiden_k_", "leiden_best_") for m in ("ari", "ami", "nmi")]


def blobs(spread=1.0, seed=0, n=40, d=4):
    draw = np.random.default_rng(seed)
    centres = 10 * draw.normal(size=(3, d)) + 1
    return centres[np.repeat([0, 1, 2], n)] + spread * draw.normal(size=(3 * n, d))


def scored(X, labels=TRUTH, protocol="strict", **options):
    return to_frame(task.run({"e": X}, labels, run="r", protocol=protocol, **options))


def value(frame, metric, protocol="strict", split="all", seed=None):
    rows = frame[(frame["metric"] == metric) & (frame["protocol"] == protocol) & (frame["split"] == split)]
    rows = rows[rows["seed"].isna()] if seed is None else rows[rows["seed"] == seed]
    assert len(rows) == 1
    return rows["value"].item()


def test_strict_has_a_row_for_every_metric_seed_end_and_floor():
    frame = scored(blobs(6.0), seeds=[3, 9])
    seeded = {*PARTITIONS, "knn_accuracy"}
    own = frame[frame["protocol"] == "strict"]
    assert set(own.loc[own["seed"].notna(), "metric"]) == seeded
    for metric in seeded:
        assert sorted(own[(own["metric"] == metric) & own["seed"].notna()]["seed"]) == [3, 9]
    ends = own[own["split"] != "all"]
    assert set(ends["metric"]) == {*seeded, "silhouette", "silhouette_cosine"}
    assert ends["seed"].isna().all()
    floor = frame[frame["protocol"] == "strict/permuted-labels"]
    assert set(floor["metric"]) == {*seeded, "silhouette", "silhouette_cosine"}
    assert all(sorted(rows["seed"]) == [3, 9] for _, rows in floor.groupby("metric"))
    assert frame["value"].notna().all()


def test_strict_equals_the_metrics_on_their_own():
    X = blobs(7.0)
    frame = scored(X, seeds=[5], floors=False)
    graph = LeidenGraph(nearest_neighbours(X, 15))
    best = max((graph.clusters(r, 5) for r in RESOLUTIONS), key=lambda c: partition_scores(TRUTH, c)["nmi"])
    clusters = {"": kmeans_labels(X, 3, 5), "leiden_k_": graph.clusters_of_number(3, 5), "leiden_best_": best}
    for prefix, found in clusters.items():
        for metric, expected in partition_scores(TRUTH, found).items():
            assert value(frame, prefix + metric, seed=5) == pytest.approx(expected, abs=1e-12)
    assert value(frame, "knn_accuracy", seed=5) == np.nanmean(knn_hits(X, TRUTH, 5))
    for name, metric in (("silhouette", "euclidean"), ("silhouette_cosine", "cosine")):
        assert value(frame, name) == pytest.approx(silhouette_samples(X, TRUTH, metric=metric).mean(), abs=1e-12)


def test_separate_groups_score_one_and_dealt_labels_about_zero():
    frame = scored(blobs(0.1), seeds=range(5))
    own = frame[(frame["protocol"] == "strict") & frame["metric"].isin([*PARTITIONS, "knn_accuracy"])]
    assert own["value"].tolist() == pytest.approx([1.0] * len(own))
    floor = frame[frame["protocol"] == "strict/permuted-labels"].groupby("metric")["value"].mean()
    assert abs(floor["ari"]) < 0.05
    assert abs(floor["leiden_k_ami"]) < 0.05
    assert 0.1 < floor["knn_accuracy"] < 0.6


def test_the_best_resolution_is_named_and_said_to_be_chosen_by_the_labels():
    frame = scored(blobs(6.0), seeds=[0], floors=False)
    notes = frame[frame["metric"] == "leiden_best_nmi"]["note"]
    assert notes.str.contains(r"resolution [\d.]+ of 10 tried, \d+ clusters: chosen by the labels").sum() == 1


def test_leiden_finds_the_wanted_number_of_clusters_without_the_labels():
    graph = LeidenGraph(nearest_neighbours(blobs(5.0, n=100), 15))
    for k in (3, 5, 8):
        assert len(np.unique(graph.clusters_of_number(k, 0))) == k
    # Three parts that do not touch cannot be two clusters.
    apart = LeidenGraph(nearest_neighbours(blobs(0.1), 15))
    assert len(np.unique(apart.clusters_of_number(2, 0))) == 3


def test_more_clusters_than_labels_are_noted():
    labels = np.where(TRUTH == "NK", "T", TRUTH)
    notes = scored(blobs(0.1), labels, seeds=[0], floors=False).set_index("metric")["note"]
    assert set(notes["leiden_k_ari"]) >= {"3 clusters: no resolution was found that gives 2"}


def test_intervals_hold_the_value_and_narrow_with_the_cells():
    widths = []
    for n in (20, 200):
        X, labels = blobs(9.0, n=n), np.repeat(["a", "b", "c"], n)
        frame = scored(X, labels, seeds=range(3), floors=False)
        mean = frame[(frame["metric"] == "knn_accuracy") & (frame["split"] == "all")]["value"].mean()
        low, high = (value(frame, "knn_accuracy", split=s) for s in ("ci95-low", "ci95-high"))
        assert low <= mean <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_the_interval_of_an_accuracy_agrees_with_the_normal_theory():
    n = 500
    X, labels = blobs(14.0, n=n), np.repeat(["a", "b", "c"], n)
    frame = scored(X, labels, seeds=[1], floors=False)
    p, held = value(frame, "knn_accuracy", seed=1), 0.2 * 3 * n
    half = 1.96 * np.sqrt(p * (1 - p) / held)
    low, high = (value(frame, "knn_accuracy", split=s) for s in ("ci95-low", "ci95-high"))
    assert (high - low) / 2 == pytest.approx(half, rel=0.25)
    assert (high + low) / 2 == pytest.approx(p, abs=half / 3)


def test_seeds_that_differ_widen_the_interval():
    X = blobs(9.0, n=60)
    labels = np.repeat(["a", "b", "c"], 60)
    one, five = (scored(X, labels, seeds=s, floors=False) for s in ([0], range(5)))
    values = five[(five["metric"] == "knn_accuracy") & (five["split"] == "all")]["value"]
    assert values.nunique() > 1
    assert (
        value(five, "knn_accuracy", split="ci95-low") < values.mean() < value(five, "knn_accuracy", split="ci95-high")
    )
    assert value(one, "knn_accuracy", seed=0) == values.iloc[0]


def test_votes_equal_scikit_learn_on_the_cells_that_are_not_held_out():
    X = blobs(9.0)
    hits = knn_hits(X, TRUTH, 4)
    held = ~np.isnan(hits)
    assert [int(held[label == TRUTH].sum()) for label in ("B", "T", "NK")] == [8, 8, 8]
    model = KNeighborsClassifier(10).fit(X[~held], TRUTH[~held])
    np.testing.assert_array_equal(hits[held], model.predict(X[held]) == TRUTH[held])
    assert (np.isnan(knn_hits(X, TRUTH, 5)) != np.isnan(hits)).any()


def test_a_label_of_one_cell_votes_and_is_not_held_out():
    labels = TRUTH.copy()
    labels[0], labels[1:3] = "alone", "two"
    hits = knn_hits(blobs(3.0), labels, 0)
    assert np.isnan(hits[0])
    assert (~np.isnan(hits[1:3])).sum() == 1


@pytest.mark.parametrize(
    ("X", "labels", "reason"),
    [
        (blobs(n=3), np.repeat(["a", "b", "c"], 3), "6 cells are too few for a vote of 10"),
        (blobs(n=40), ["a"] * 120, "one label"),
        (blobs(n=40), [f"c{i}" for i in range(120)], "No label has two cells"),
    ],
)
def test_votes_that_cannot_be_held_say_why(X, labels, reason):
    with pytest.raises(ValueError, match=reason):
        knn_hits(X, labels, 0)


def test_too_few_voters_are_a_row_with_the_reason_and_the_rest_is_scored():
    frame = scored(blobs(n=3), np.repeat(["a", "b", "c"], 3), seeds=[0])
    failed = frame[frame["value"].isna()]
    assert set(failed["metric"]) == {"knn_accuracy"}
    assert failed["note"].str.contains("too few for a vote").all()
    assert frame[frame["metric"] == "ari"]["value"].notna().all()


def test_an_embedding_that_fails_has_every_row_with_the_reason():
    good, bad = blobs(2.0), np.zeros((120, 3))
    frame = to_frame(task.run({"good": good, "bad": bad}, TRUTH, run="r", protocol="strict", seeds=[0, 1]))
    failed = frame[frame["embedding"] == "bad"]
    assert failed["value"].isna().all()
    assert failed["note"].str.startswith("error: no cell has both a label and a vector").all()
    own = frame[(frame["embedding"] == "good") & (frame["split"] == "all")]
    assert {tuple(x) for x in failed[["protocol", "metric", "seed"]].fillna(-1).to_numpy()} == {
        tuple(x) for x in own[["protocol", "metric", "seed"]].fillna(-1).to_numpy()
    }


def test_genept_equals_a_transcription_of_the_notebook():
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, silhouette_score

    X = blobs(8.0)
    frame = scored(X, protocol="genept")
    kmeans = MiniBatchKMeans(n_clusters=3, random_state=2023, batch_size=20, n_init=3).fit(X)
    expected = {
        "ari": adjusted_rand_score(TRUTH, kmeans.labels_),
        "ami": adjusted_mutual_info_score(TRUTH, kmeans.labels_),
    }
    for metric, score in expected.items():
        assert value(frame, metric, "genept", seed=2023) == pytest.approx(score, abs=1e-12)
        low, high = (value(frame, metric, "genept", split=s) for s in ("ci95-low", "ci95-high"))
        assert low < score < high
    assert value(frame, "silhouette", "genept") == pytest.approx(silhouette_score(X, TRUTH), abs=1e-12)
    assert set(frame["protocol"]) == {"genept"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols_repeat_themselves_and_do_not_depend_on_the_names_of_labels(protocol):
    X = blobs(8.0)
    renamed = np.array([{"B": "z", "T": "a", "NK": "m"}[x] for x in TRUTH])
    first, again = (scored(X, labels, protocol, seeds=range(2), floors=False) for labels in (TRUTH, TRUTH))
    assert first.equals(again)
    other = scored(X, renamed, protocol, seeds=range(2), floors=False)
    kept = ~first["metric"].isin(["knn_accuracy"])  # which cells are held out follows the order of the labels
    np.testing.assert_allclose(first["value"][kept], other["value"][kept], atol=1e-12)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(BftembedError, match="Unknown protocol 'strikt'.*strict"):
        scored(blobs(), protocol="strikt")


def test_strict_without_the_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(MissingExtraError, match=r"bftembed\[scib\]"):
        scored(blobs())
