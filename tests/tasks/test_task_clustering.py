"""Clustering: rows equal the metrics computed directly, and every bad input has its outcome."""

from __future__ import annotations

import math
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from bftembed import bench
from bftembed.errors import BftembedError, MissingExtraError, UnknownNameError
from bftembed.metrics.clustering import (
    RESOLUTIONS,
    LeidenGraph,
    kmeans_labels,
    knn_hits,
    nearest_neighbors,
    partition_scores,
    silhouette_samples,
)
from bftembed.tasks.base import read_results, to_frame
from bftembed.tasks.cells import clustering as task

TRUTH = np.array(["B", "T", "NK"])[np.repeat([0, 1, 2], 40)]
PARTITIONS = [p + m for p in ("", "leiden_k_", "leiden_best_") for m in ("ari", "ami", "nmi")]
SILHOUETTES = {"silhouette": "euclidean", "silhouette_cosine": "cosine"}


def blobs(spread=1.0, seed=0, n=40, d=4):
    draw = np.random.default_rng(seed)
    centers = 10 * draw.normal(size=(3, d)) + 1
    return centers[np.repeat([0, 1, 2], n)] + spread * draw.normal(size=(3 * n, d))


def scored(X, labels=TRUTH, protocol="strict", **options):
    embeddings = X if isinstance(X, dict) else {"e": X}
    return to_frame(task.score(embeddings, labels, run="r", protocol=protocol, **options))


def pick(frame, **where):
    for column, value in where.items():
        frame = frame[frame[column].isna() if value is None else frame[column] == value]
    return frame


def whole(frame, metric, kind="subject"):
    (row,) = pick(frame, metric=metric, kind=kind, seed=None).to_dict("records")
    return row


def test_strict_has_every_metric_seed_and_kind_and_equals_the_metrics_on_their_own():
    X = blobs(7.0)
    frame = scored(X, seeds=[5, 9])
    seeded = {*PARTITIONS, "knn_accuracy"}
    for kind, metrics in (("subject", seeded), ("chance", seeded | SILHOUETTES.keys())):
        rows = pick(frame, kind=kind)
        of_seeds = rows[rows["seed"].notna()].groupby("metric")["seed"].agg(sorted).to_dict()
        assert of_seeds == {metric: [5, 9] for metric in metrics}
        assert set(rows.loc[rows["seed"].isna(), "metric"]) == seeded | SILHOUETTES.keys()
    of_subject = pick(frame, kind="subject", seed=None)
    assert (of_subject["low"] < of_subject["value"]).all()
    assert (of_subject["value"] < of_subject["high"]).all()
    graph = LeidenGraph(nearest_neighbors(X, 15))
    best = max((graph.clusters(r, 5) for r in RESOLUTIONS), key=lambda c: partition_scores(TRUTH, c)["nmi"])
    clusters = {"": kmeans_labels(X, 3, 5), "leiden_k_": graph.clusters_of_number(3, 5), "leiden_best_": best}
    expected = {p + m: x for p, found in clusters.items() for m, x in partition_scores(TRUTH, found).items()}
    expected["knn_accuracy"] = np.nanmean(knn_hits(X, TRUTH, 5))
    expected |= {name: silhouette_samples(X, TRUTH, metric=metric).mean() for name, metric in SILHOUETTES.items()}
    for metric, value in expected.items():
        row = pick(frame, metric=metric, kind="subject", seed=None if metric in SILHOUETTES else 5)
        assert row["value"].item() == pytest.approx(value, abs=1e-12)


def test_genept_equals_a_transcription_of_the_notebook():
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, silhouette_score

    X = blobs(8.0)
    frame = scored(X, protocol="genept")
    kmeans = MiniBatchKMeans(n_clusters=3, random_state=2023, batch_size=20, n_init=3).fit(X)
    for metric, score in (("ari", adjusted_rand_score), ("ami", adjusted_mutual_info_score)):
        row = whole(frame, metric)
        assert row["low"] < row["value"] < row["high"]
        assert row["value"] == pytest.approx(score(TRUTH, kmeans.labels_), abs=1e-12)
        assert pick(frame, metric=metric)["seed"].dropna().tolist() == [2023]
    assert whole(frame, "silhouette")["value"] == pytest.approx(silhouette_score(X, TRUTH), abs=1e-12)
    assert set(frame["kind"]) == {"subject"}


def test_separate_groups_score_one_and_permuted_labels_about_zero():
    frame = scored(blobs(0.1), seeds=range(3))
    rows = pick(frame, kind="subject")
    rows = rows[rows["metric"].isin([*PARTITIONS, "knn_accuracy"])]
    assert rows["value"].tolist() == pytest.approx([1.0] * len(rows))
    by_chance = {m: whole(frame, m, "chance")["value"] for m in ("ari", "leiden_k_ami", "knn_accuracy")}
    assert abs(by_chance["ari"]) < 0.05
    assert abs(by_chance["leiden_k_ami"]) < 0.05
    assert 0.1 < by_chance["knn_accuracy"] < 0.6
    assert pick(frame, kind="chance", metric="ari")["value"].nunique() > 1


def test_leiden_finds_the_number_of_clusters_without_the_labels():
    graph = LeidenGraph(nearest_neighbors(blobs(5.0, n=100), 15))
    for k in (3, 5, 8):
        assert len(np.unique(graph.clusters_of_number(k, 0))) == k
    # Three parts that do not touch cannot be two clusters.
    frame = scored(blobs(0.1), np.where(TRUTH == "NK", "T", TRUTH), seeds=[0], permuted=False)
    assert whole(frame, "leiden_k_ari")["note"] == "3 clusters instead of 2"


def test_the_interval_of_an_accuracy_agrees_with_the_normal_theory():
    n = 500
    row = whole(scored(blobs(14.0, n=n), np.repeat(["a", "b", "c"], n), seeds=[1], permuted=False), "knn_accuracy")
    p, held = row["value"], 0.2 * 3 * n
    half = 1.96 * np.sqrt(p * (1 - p) / held)
    assert (row["high"] - row["low"]) / 2 == pytest.approx(half, rel=0.25)
    assert (row["high"] + row["low"]) / 2 == pytest.approx(p, abs=half / 3)


def test_votes_equal_scikit_learn_on_the_cells_that_are_not_held_out():
    X = blobs(9.0)
    hits = knn_hits(X, TRUTH, 4)
    held = ~np.isnan(hits)
    assert [int(held[label == TRUTH].sum()) for label in ("B", "T", "NK")] == [8, 8, 8]
    model = KNeighborsClassifier(10).fit(X[~held], TRUTH[~held])
    np.testing.assert_array_equal(hits[held], model.predict(X[held]) == TRUTH[held])
    assert (np.isnan(knn_hits(X, TRUTH, 5)) != np.isnan(hits)).any()
    labels = TRUTH.copy()
    labels[0], labels[1:3] = "alone", "two"
    hits = knn_hits(X, labels, 0)
    assert np.isnan(hits[0])  # a singleton label votes and is not held out
    assert (~np.isnan(hits[1:3])).sum() == 1


def test_cells_without_label_or_vector_are_left_out_of_all_embeddings_and_counted():
    a, b = blobs(3.0), blobs(3.0, seed=1)
    labels = TRUTH.astype(object)
    labels[0], a[10], b[11, 2] = None, 0, np.nan
    keep = np.delete(np.arange(120), [0, 10, 11])
    given, alone = ({"a": a, "b": b}, labels), ({"a": a[keep], "b": b[keep]}, TRUTH[keep])
    frame, expected = (scored(*x, protocol="standard", seeds=[0]) for x in (given, alone))
    assert frame["value"].tolist() == expected["value"].tolist()
    assert set(zip(frame["n"], frame["n_missing"], strict=True)) == {(117, 3)}


@pytest.mark.parametrize("protocol", task.PROTOCOLS)
def test_an_embedding_without_vectors_fails_alone(protocol):
    good = blobs(3.0)
    frame = scored({"good": good, "bad": np.full((120, 2), np.nan)}, protocol=protocol, seeds=[0])
    bad = pick(frame, subject="bad")
    assert set(bad["reason"]) == {"too-few"}
    assert sorted(bad["metric"]) == sorted(task.PROTOCOLS[protocol])
    assert pick(frame, subject="good")["value"].tolist() == scored(good, protocol=protocol, seeds=[0])["value"].tolist()


def test_labels_that_cannot_be_scored_give_rows_with_the_reason():
    halves = np.arange(120)[:, None] < 60
    apart = {"a": np.where(halves, blobs(), np.nan), "b": np.where(halves, np.nan, blobs())}
    for X, labels in (
        (blobs(), ["T"] * 120),
        (blobs(), [None] * 120),
        (blobs(), [f"cell {i}" for i in range(120)]),
        (blobs(), ["T"] * 60 + [None] * 60),
        (apart, TRUTH),
    ):
        frame = scored(X, labels, protocol="standard")
        assert set(frame["reason"]) == {"too-few"}
        assert frame["value"].isna().all()
    few = scored(blobs(n=3), np.repeat(["a", "b", "c"], 3), seeds=[0]).query("value != value")
    assert set(zip(few["metric"], few["reason"], strict=True)) == {("knn_accuracy", "undefined")}
    two = np.repeat([[1.0, 1.0], [2.0, 2.0]], 60, axis=0)
    assert whole(scored(two, protocol="standard"), "ari")["note"] == "2 clusters instead of 3"


def test_calls_that_make_no_sense_raise(monkeypatch):
    X = blobs()
    for embeddings, options in (
        ({}, {}),
        ({"e": X}, {"seeds": []}),
        ({"a": X, "e": X[1:]}, {}),
        ({"e": X[:, 0]}, {}),
        ({"e": X.astype(str)}, {}),
    ):
        with pytest.raises(BftembedError):
            scored(embeddings, **options)
    with pytest.raises(UnknownNameError, match="strict"):
        scored(X, protocol="strikt")
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(MissingExtraError):
        scored(X)


def anndata_of(X):
    adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (120, 5)).astype(np.float32))
    adata.var_names = list("abcde")
    adata.obs["kind"], adata.obsm["X_a"], adata.obsm["X_b"] = pd.Categorical(TRUTH), X, X + 1
    return adata


def test_the_verb_scores_several_protocols_and_writes_the_table(tmp_path):
    adata, calls, out = anndata_of(blobs(3.0)), [], tmp_path / "r.parquet"
    adata.write_h5ad(tmp_path / "cells.h5ad")
    options = {"protocol": "standard,genept", "seeds": 1, "baselines": "pca"}
    frame = bench.clustering(tmp_path / "cells.h5ad", "X_a,X_b,X_a", "kind", out=out, **options)
    same = bench.clustering(adata, ["X_a", "X_b"], "kind", progress=lambda *x: calls.append(x[:2]), **options)
    pd.testing.assert_frame_equal(frame, same)
    pd.testing.assert_frame_equal(read_results(out), frame)
    assert calls == [(i, 6) for i in range(1, 7)]
    assert set(frame["run"]) == {"cells/kind"}
    assert set(frame["protocol"]) == {"standard", "genept"}
    direct = scored(adata.obsm["X_a"], protocol="genept")
    assert pick(frame, subject="X_a", protocol="genept")["value"].tolist() == direct["value"].tolist()
    assert set(pick(frame, subject="pca")["kind"]) == {"reference", "chance"}
    for given in ({"keys": ""}, {"protocol": "strickt"}, {"seeds": []}, {"out": tmp_path / "cells.h5ad"}):
        with pytest.raises(BftembedError):
            bench.clustering(**{"data": tmp_path / "cells.h5ad", "keys": "X_a", "label": "kind"} | given)


def test_tables_have_a_row_per_subject_and_one_of_chance():
    compared = {
        "pca": (blobs(5.0, seed=2), "reference", "50 components"),
        "random 1": (blobs(20.0), "random", "Gaussian"),
    }
    rows = task.score({"X": blobs(2.0)}, TRUTH, run="pbmc", protocol="strict", seeds=[0, 1], compared=compared)
    rows += task.score({"X": np.full((120, 2), np.nan)}, TRUTH, run="pbmc", protocol="genept")
    genept, published, strict = task.tables(to_frame(rows))
    assert published.published
    assert [c.key for c in strict.columns] == [*PARTITIONS, *SILHOUETTES, "knn_accuracy"]
    assert [(r.name, r.kind, r.note) for r in strict.rows] == [
        *(("X", "subject", ""), ("pca", "reference", "50 components")),
        *(("random 1", "random", "Gaussian"), ("chance", "chance", "")),
    ]
    frame = to_frame(rows)
    row = pick(frame, subject="X", protocol="strict", metric="ari", kind="subject", seed=None).iloc[0]
    cell = strict.rows[0].cells["ari"]
    assert (cell.value, cell.low, cell.high) == (row["value"], row["low"], row["high"])
    by_chance = pick(frame, protocol="strict", metric="ari", kind="chance", seed=None)["value"]
    assert (strict.rows[3].cells["ari"].low, strict.rows[3].cells["ari"].high) == (by_chance.min(), by_chance.max())
    assert not any("best" in sentence for sentence in strict.conclusions)
    assert math.isnan(genept.rows[0].cells["ari"].value)
    assert genept.rows[0].cells["ari"].text == "too-few"
