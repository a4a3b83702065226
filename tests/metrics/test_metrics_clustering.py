"""The clustering scores against hand-computed values, naive references and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.metrics.clustering import kmeans_labels, minibatch_labels, partition_scores
from bftembed.metrics.silhouette import silhouette_samples

# On a line, away from 0. a: distance to the other cell of the label, b: mean distance to the other label.
LINE = np.array([[1.0], [2.0], [5.0], [7.0]])
BY_HAND = [(5 - 1) / 5, (4 - 1) / 4, (3.5 - 2) / 3.5, (5.5 - 2) / 5.5]


def naive_silhouette(X, labels):
    values = []
    for i, own in enumerate(labels):
        distance = [float(np.sqrt(((X[i] - x) ** 2).sum())) for x in X]
        mean = {
            c: np.mean([d for j, d in enumerate(distance) if labels[j] == c and j != i] or [np.nan])
            for c in set(labels)
        }
        if list(labels).count(own) == 1:
            values.append(0.0)
            continue
        a, b = mean[own], min(m for c, m in mean.items() if c != own)
        values.append((b - a) / max(a, b))
    return values


def mutual_information(a, b):
    n = len(a)
    joint = {(x, y): sum(p == x and q == y for p, q in zip(a, b, strict=True)) / n for x in set(a) for y in set(b)}
    px, py = ({x: list(v).count(x) / n for x in set(v)} for v in (a, b))
    return sum(p * np.log(p / (px[x] * py[y])) for (x, y), p in joint.items() if p)


def entropy(a):
    return mutual_information(a, a)


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


@pytest.mark.parametrize("clusters", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 2]])
def test_ami_equals_the_mean_over_every_permutation(clusters):
    labels = [0, 0, 0, 1, 1, 2]
    by_chance = np.mean([mutual_information(p, clusters) for p in itertools.permutations(labels)])
    best = (entropy(labels) + entropy(clusters)) / 2
    expected = (mutual_information(labels, clusters) - by_chance) / (best - by_chance)
    assert partition_scores(labels, clusters)["ami"] == pytest.approx(expected, abs=1e-10)


def test_silhouette_of_four_points_by_hand():
    np.testing.assert_allclose(silhouette_samples(LINE, ["a", "a", "b", "b"]), BY_HAND, rtol=1e-12)


def test_silhouette_is_exact_far_from_the_origin():
    # 1e8 away, |x|^2 is 1e16: without centring, differences of 1 are lost in float64.
    np.testing.assert_allclose(silhouette_samples(LINE + 1e8, [0, 0, 1, 1]), BY_HAND, rtol=1e-6)


def test_silhouette_of_a_label_with_one_cell_is_zero():
    assert silhouette_samples(LINE, [0, 0, 0, 1])[3] == 0.0


labelled = st.integers(4, 14).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 2), min_size=n, max_size=n).filter(lambda x: 2 <= len(set(x)) < len(x)),
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
        st.integers(0, 2**16),
    )
)


@given(labelled)
def test_silhouette_equals_the_naive_reference(case):
    labels, _, seed = case
    X = np.random.default_rng(seed).normal(size=(len(labels), 3))
    np.testing.assert_allclose(silhouette_samples(X, labels), naive_silhouette(X, labels), atol=1e-10)


@given(labelled, st.permutations([0, 1, 2, 3]))
def test_names_of_labels_and_clusters_do_not_matter(case, renamed):
    labels, clusters, seed = case
    named = [f"type {renamed[x]}" for x in labels]
    moved = [renamed[x] for x in clusters]
    assert partition_scores(named, moved) == pytest.approx(partition_scores(labels, clusters), abs=1e-12)
    X = np.random.default_rng(seed).normal(size=(len(labels), 2))
    np.testing.assert_allclose(silhouette_samples(X, named), silhouette_samples(X, labels), atol=1e-12)


def test_kmeans_finds_separate_groups_and_repeats_itself():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 40)
    X = rng.normal(size=(120, 5)).astype(np.float32) + 20 * truth[:, None] + 1
    found = kmeans_labels(X, 3, seed=7)
    assert partition_scores(truth, found)["ari"] == 1.0
    noise = rng.normal(size=(600, 8))
    np.testing.assert_array_equal(kmeans_labels(noise, 9, seed=7), kmeans_labels(noise, 9, seed=7))
    assert (kmeans_labels(noise, 9, seed=7) != kmeans_labels(noise, 9, seed=8)).any()


def test_kmeans_equals_scikit_learn_with_ten_starts():
    from sklearn.cluster import KMeans

    X = np.random.default_rng(1).normal(size=(200, 4))
    expected = KMeans(n_clusters=6, n_init=10, random_state=3).fit(X)
    centres = np.array([X[kmeans_labels(X, 6, 3) == c].mean(axis=0) for c in range(6)])
    np.testing.assert_allclose(centres, expected.cluster_centers_, atol=1e-6)


def test_kmeans_of_too_few_distinct_rows_is_quiet(recwarn):
    assert set(kmeans_labels(np.repeat([[1.0], [2.0]], 5, axis=0), 4, seed=0)) <= set(range(4))
    assert not recwarn.list


X4 = np.arange(1.0, 9).reshape(4, 2)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: silhouette_samples(np.where(X4 == 3, np.nan, X4), [0, 0, 1, 1]), "1 cells hold NaN.*row 1"),
        (lambda: kmeans_labels(np.where(X4 == 3, np.inf, X4), 2, 0), "1 cells hold NaN or infinity"),
        (lambda: silhouette_samples(X4 * [[1], [0], [1], [1]], [0, 0, 1, 1]), "1 cells are all zero.*row 1"),
        (lambda: silhouette_samples(X4, [0, 0, 1]), "3 labels for 4 cells"),
        (lambda: silhouette_samples(X4, [0, 0, 0, 0]), "one label"),
        (lambda: silhouette_samples(X4, [0, 1, 2, 3]), "label of its own"),
        (lambda: silhouette_samples(X4, ["a", None, "b", "b"]), "1 cells have no label"),
        (lambda: silhouette_samples(X4, [0.0, np.nan, 1.0, 1.0]), "1 cells have no label"),
        (lambda: silhouette_samples(X4[:0], []), "no cells"),
        (lambda: silhouette_samples(X4[0], [0, 1]), "shape"),
        (lambda: silhouette_samples(np.array([["a"], ["b"]]), [0, 1]), "real numbers"),
        (lambda: kmeans_labels(X4, 5, 0), "k = 5 clusters of 4"),
        (lambda: kmeans_labels(X4, 0, 0), "k = 0"),
        (lambda: partition_scores([0, 0, 1], [0, 1]), "3 labels and 2 clusters"),
        (lambda: partition_scores([0, 0], [0, 1]), "one label"),
        (lambda: partition_scores([], []), "non-empty"),
    ],
)
def test_input_that_cannot_be_scored_is_refused_with_the_reason(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()


@given(labelled, st.integers(0, 10_000))
def test_partition_scores_equal_scikit_learn_on_cells_that_are_written_out(case, seed):
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score

    labels, clusters, _ = case
    weights = np.random.default_rng(seed).multinomial(len(labels), [1 / len(labels)] * len(labels))
    truth, found = np.repeat(labels, weights), np.repeat(clusters, weights)
    scores = partition_scores(labels, clusters, weights)
    if len(set(truth)) in (1, len(truth)):
        assert all(np.isnan(x) for x in scores.values())
        return
    assert scores["ari"] == pytest.approx(adjusted_rand_score(truth, found), abs=1e-12)
    assert scores["ami"] == pytest.approx(adjusted_mutual_info_score(truth, found), abs=1e-9)
    assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(truth, found), abs=1e-12)


def test_minibatches_equal_the_steps_of_the_notebook():
    from sklearn.cluster import MiniBatchKMeans

    X = np.random.default_rng(1).normal(size=(300, 6)) + np.repeat([[0.0], [3.0], [6.0]], 100, axis=0)
    expected = MiniBatchKMeans(n_clusters=3, random_state=2023, batch_size=20, n_init=3).fit(X).labels_
    np.testing.assert_array_equal(minibatch_labels(X, 3), expected)
