"""Clusters and their agreement with labels against hand-computed values, naive references and scikit-learn."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score

from bftembed.errors import MissingExtraError
from bftembed.metrics.clustering import (
    LeidenGraph,
    kmeans_labels,
    minibatch_labels,
    nearest_neighbors,
    partition_scores,
)


def mutual_information(a, b):
    n = len(a)
    joint = {(x, y): sum(p == x and q == y for p, q in zip(a, b, strict=True)) / n for x in set(a) for y in set(b)}
    px, py = ({x: list(v).count(x) / n for x in set(v)} for v in (a, b))
    return sum(p * np.log(p / (px[x] * py[y])) for (x, y), p in joint.items() if p)


@pytest.mark.parametrize(
    ("labels", "clusters", "value"),
    [
        ([0, 0, 1, 1], [1, 1, 0, 0], 1.0),
        # one pair together in both, 2 and 1 together in each, of 6: (1 - 2/6) / (1.5 - 2/6)
        ([0, 0, 1, 1], [0, 0, 1, 2], 4 / 7),
        # no pair together in both: (0 - 4/6) / (2 - 4/6)
        ([0, 0, 1, 1], [0, 1, 0, 1], -0.5),
        (["B", "B", "T"], [0, 0, 0], 0.0),
    ],
)
def test_ari_of_known_tables(labels, clusters, value):
    assert partition_scores(labels, clusters)["ari"] == pytest.approx(value)


@pytest.mark.parametrize("clusters", [[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]])
def test_ami_equals_the_mean_over_every_permutation(clusters):
    labels = [0, 0, 0, 1, 1, 2]
    by_chance = np.mean([mutual_information(p, clusters) for p in itertools.permutations(labels)])
    best = (mutual_information(labels, labels) + mutual_information(clusters, clusters)) / 2
    expected = (mutual_information(labels, clusters) - by_chance) / (best - by_chance)
    assert partition_scores(labels, clusters)["ami"] == pytest.approx(expected, abs=1e-10)


labelled = st.integers(4, 14).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 2), min_size=n, max_size=n).filter(lambda x: 2 <= len(set(x)) < len(x)),
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
    )
)


@given(labelled, st.permutations([0, 1, 2, 3]))
def test_partition_scores_equal_scikit_learn_whatever_the_names(case, renamed):
    labels, clusters = case
    scores = partition_scores([f"type {renamed[x]}" for x in labels], clusters)
    assert scores["ari"] == pytest.approx(adjusted_rand_score(labels, clusters), abs=1e-12)
    assert scores["ami"] == pytest.approx(adjusted_mutual_info_score(labels, clusters), abs=1e-9)
    assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters), abs=1e-12)


def test_one_label_or_one_for_each_cell_has_no_score():
    for labels in ([0, 0, 0], [0, 1, 2]):
        assert all(np.isnan(x) for x in partition_scores(labels, [0, 1, 1]).values())


def test_kmeans_repeats_itself_and_equals_scikit_learn_with_ten_starts():
    X = np.random.default_rng(1).normal(size=(200, 4))
    found = kmeans_labels(X, 6, 3)
    np.testing.assert_array_equal(found, kmeans_labels(X, 6, 3))
    assert (found != kmeans_labels(X, 6, 4)).any()
    expected = KMeans(n_clusters=6, n_init=10, random_state=3).fit(X)
    centers = np.array([X[found == c].mean(axis=0) for c in range(6)])
    np.testing.assert_allclose(centers, expected.cluster_centers_, atol=1e-6)


def test_kmeans_of_too_few_distinct_rows_is_quiet(recwarn):
    assert set(kmeans_labels(np.repeat([[1.0], [2.0]], 5, axis=0), 4, seed=0)) <= set(range(4))
    assert not recwarn.list


def test_minibatches_equal_the_steps_of_the_notebook():
    X = np.random.default_rng(1).normal(size=(300, 6)) + np.repeat([[0.0], [3.0], [6.0]], 100, axis=0)
    expected = MiniBatchKMeans(n_clusters=3, random_state=2023, batch_size=20, n_init=3).fit(X).labels_
    np.testing.assert_array_equal(minibatch_labels(X, 3), expected)


def test_leiden_repeats_itself_and_finds_the_number_of_clusters():
    pytest.importorskip("igraph")
    truth = np.repeat(np.arange(4), 30)
    X = np.random.default_rng(0).normal(size=(120, 5)) + 9 * np.eye(4, 5)[truth]
    graph = LeidenGraph(nearest_neighbors(X, 15))
    np.testing.assert_array_equal(graph.clusters(1.0, 3), graph.clusters(1.0, 3))
    assert partition_scores(truth, graph.clusters_of_number(4, 0))["ari"] == 1


def test_leiden_without_the_extra_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(MissingExtraError):
        LeidenGraph(nearest_neighbors(np.eye(3), 2))


X4 = np.arange(1.0, 9).reshape(4, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: kmeans_labels(np.where(X4 == 3, np.inf, X4), 2, 0),
        lambda: kmeans_labels(X4, 5, 0),
        lambda: minibatch_labels(X4, 0),
        lambda: partition_scores([0, 0, 1], [0, 1]),
        lambda: partition_scores([], []),
    ],
)
def test_input_that_cannot_be_scored_is_rejected(call):
    with pytest.raises(ValueError):
        call()
