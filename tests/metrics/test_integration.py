"""scIB's scores against scib-metrics, harmonypy, umap and graphs made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bftembed.metrics import integration as ours
from bftembed.metrics.clustering import Neighbors, Undefined, connectivities, nearest_neighbors


def cells(sizes, shift, n_batches, scale=1.0, seed=0):
    draw = np.random.default_rng(seed)
    labels, batches = np.repeat(np.arange(len(sizes)), sizes), draw.integers(0, n_batches, sum(sizes))
    centers, shifts = 2 * draw.normal(size=(len(sizes), 10)), shift * draw.normal(size=(n_batches, 10))
    X = ((draw.normal(size=(len(labels), 10)) + centers[labels] + shifts[batches]) * scale).astype(np.float32)
    order = draw.permutation(len(labels))
    names = (np.array([f"{word}{code}" for code in codes])[order] for word, codes in (("t", labels), ("b", batches)))
    return (X[order], *names)


# 330 cells each: JAX compiles once for what depends on the number of cells alone.
CASES = {
    "even": cells([110, 110, 110], 0.5, 2),
    "uneven": cells([200, 90, 28, 10, 2], 1.0, 3),
    "distances in the hundreds": cells([150, 150, 30], 0.3, 2, 100.0),
}


def before(X, batches):
    """Give an embedding with more of the batches in it."""
    return X + 3 * X.std() * (batches == "b1")[:, None].astype(np.float32)


def differences(name):
    """Return metric → our score and that of scib-metrics, of the installed version, where they differ."""
    import scib_metrics as sm
    from scib_metrics.nearest_neighbors import NeighborsResults

    X, labels, batches = CASES[name]
    near = nearest_neighbors(X, 90)
    k90 = NeighborsResults(indices=near.indices.copy(), distances=near.distances.copy())
    k50, k15 = k90.subset_neighbors(50), k90.subset_neighbors(15)
    pre, weights = before(X, batches), ours.lisi_weights(near)
    pairs = {
        "silhouette_label": (ours.silhouette_label(X, labels), sm.silhouette_label(X, labels)),
        "silhouette_batch": (ours.silhouette_batch(X, labels, batches), sm.silhouette_batch(X, labels, batches)),
        "isolated_labels": (ours.isolated_labels(X, labels, batches), sm.isolated_labels(X, labels, batches)),
        "bras": (ours.bras(X, labels, batches), sm.bras(X, labels, batches)),
        "ilisi_knn": (ours.ilisi(near, batches, weights=weights), sm.ilisi_knn(k90, batches)),
        "clisi_knn": (ours.clisi(near, labels, weights=weights), sm.clisi_knn(k90, labels)),
        "graph_connectivity": (ours.graph_connectivity(near.subset(15), labels), sm.graph_connectivity(k15, labels)),
        "kbet_per_label": (ours.kbet(near.subset(50), labels, batches), sm.kbet_per_label(k50, batches, labels)),
        "pcr_comparison": (
            ours.pcr_comparison(pre, X, batches),
            sm.pcr_comparison(pre, X, batches, categorical=True),
        ),
    }
    kmeans = sm.nmi_ari_cluster_labels_kmeans(X.copy(), labels)
    for one, value in zip(("nmi", "ari"), ours.kmeans_nmi_ari(X, labels), strict=True):
        pairs[f"nmi_ari_cluster_labels_kmeans_{one}"] = value, kmeans[one]
    assert set(pairs) == set(ours.DEFINITIONS)
    return {metric: two for metric, two in pairs.items() if not abs(two[0] - two[1]) <= 1e-6}


@pytest.mark.filterwarnings("ignore")
def test_every_score_equals_that_of_scib_metrics(monkeypatch):
    """With our exact search in its kBET: numba needs 20 s to compile its own."""
    pytest.importorskip("scib_metrics")
    from scib_metrics.nearest_neighbors import NeighborsResults
    from scib_metrics.utils import _diffusion_nn

    def search(X, n_neighbors):
        near = nearest_neighbors(X, n_neighbors)
        return NeighborsResults(indices=near.indices, distances=near.distances)

    monkeypatch.setattr(_diffusion_nn.nearest_neighbors, "pynndescent", search)
    assert not differences("even")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*CASES][1:])
def test_every_score_equals_that_of_scib_metrics_with_its_own_search(name):
    assert not differences(name)


@pytest.mark.parametrize("shape", ["blobs", "few distinct"])
def test_kmeans_gives_the_clusters_of_scib_metrics_cell_by_cell(shape):
    KMeans = pytest.importorskip("scib_metrics.utils").KMeans
    draw = np.random.default_rng(3)
    centers = 5 * draw.normal(size=(6, 8))
    X = {
        "blobs": draw.normal(size=(200, 8)) + centers[draw.integers(6, size=200)],
        # Fewer places than clusters: some clusters stay without a cell.
        "few distinct": centers[draw.integers(4, size=200)],
    }[shape].astype(np.float32)
    for seed in range(2):
        theirs, kept = KMeans(6, seed=seed), X.copy()
        theirs.fit(X.copy())
        np.testing.assert_array_equal(ours._kmeans(X, 6, seed), theirs.labels_)
        np.testing.assert_array_equal(X, kept)


def test_lisi_equals_that_of_harmonypy():
    harmonypy = pytest.importorskip("harmonypy")
    for X, labels, batches in CASES.values():
        near = nearest_neighbors(X, 91)  # 90 others: harmonypy does not count the cell itself, scib-metrics does
        for groups in (labels, batches):
            expected = harmonypy.compute_lisi(X, {"g": groups}, ["g"], perplexity=30)[:, 0]
            np.testing.assert_allclose(ours.lisi(near, groups), expected, atol=1e-5)


def graph(indices, distances=None):
    indices = np.array(indices, dtype=np.int32)
    far = np.broadcast_to(np.arange(indices.shape[1]), indices.shape) if distances is None else np.array(distances)
    return Neighbors(indices, far.astype(np.float32))


def test_connectivity_counts_cells_that_reach_each_other_both_ways():
    # 0 ⇄ 1 → 2 ⇄ 3, 4 ⇄ 5: one way from {0, 1} to {2, 3} is not enough
    near = graph([[0, 1], [1, 0], [2, 3], [3, 2], [4, 5], [5, 4]])
    chained = graph([[0, 1, 1], [1, 0, 2], [2, 3, 3], [3, 2, 2], [4, 5, 5], [5, 4, 4]])
    assert ours.graph_connectivity(near, list("aabbcc")) == 1
    for found in (near, chained):
        assert ours.graph_connectivity(found, list("aaaacc")) == pytest.approx((2 / 4 + 1) / 2)
    # 1 and 2 are not neighbors, and what lies between has another label
    assert ours.graph_connectivity(graph([[0, 1], [1, 2], [2, 0]]), list("aba")) == pytest.approx((1 / 2 + 1) / 2)


def test_lisi_of_equal_distances_counts_groups():
    n = 10
    indices = [[i, *(j for j in range(n) if j != i)] for i in range(n)]
    near = graph(indices, [[0] + [500.0] * (n - 1)] * n)
    share = np.array([4 / 9, 5 / 9])
    np.testing.assert_allclose(ours.lisi(near, np.arange(n) % 2), 1 / (share**2).sum())
    np.testing.assert_allclose(ours.lisi(near, np.zeros(n)), 1)
    np.testing.assert_allclose(ours.lisi_weights(near), 1 / 9, rtol=1e-6)


def test_lisi_weights_have_the_perplexity():
    weights = ours.lisi_weights(nearest_neighbors(CASES["distances in the hundreds"][0], 30)).astype(float)
    entropy = -np.where(weights > 0, weights * np.log(np.maximum(weights, 1e-300)), 0).sum(axis=1)
    np.testing.assert_allclose(np.exp(entropy), 10, rtol=2e-5)


def test_pcr_equals_the_regression_of_every_component():
    from sklearn.decomposition import PCA

    def explained(X):
        model = PCA().fit(X.astype(float))
        scores, one_hot = model.transform(X.astype(float)), (batches[:, None] == np.unique(batches)).astype(float)
        residual = scores - one_hot @ np.linalg.lstsq(one_hot, scores, rcond=None)[0]
        return (1 - residual.var(axis=0) / scores.var(axis=0)) @ model.explained_variance_ratio_

    X, _, batches = CASES["uneven"]
    pre, post = explained(before(X, batches)), explained(X)
    assert ours.pcr_comparison(before(X, batches), X, batches) == pytest.approx((pre - post) / pre, abs=1e-9)
    assert ours.pcr_comparison(X + 1000, X, batches) == pytest.approx(0, abs=1e-4)
    assert ours.pcr_comparison(X, before(X, batches), batches) == 0


def test_names_and_order_of_cells_do_not_matter():
    X, labels, batches = cells([120, 110], 0.5, 2)  # kBET: no label under 101 cells
    order = np.random.default_rng(1).permutation(len(X))
    rename = {"t0": "z", "t1": "a", "b0": "2", "b1": "1"}
    other = X[order], np.vectorize(rename.get)(labels)[order], np.vectorize(rename.get)(batches)[order]

    def scores(X, labels, batches):
        near = nearest_neighbors(X, 90)
        return [
            ours.ilisi(near, batches),
            ours.clisi(near, labels),
            ours.graph_connectivity(near.subset(15), labels),
            ours.kbet(near.subset(50), labels, batches),
        ]

    np.testing.assert_allclose(scores(*other), scores(X, labels, batches), atol=1e-6)


@pytest.mark.parametrize("k", [5, 50])
def test_connectivities_equal_those_of_umap(k):
    from scipy.sparse import coo_matrix
    from umap.umap_ import fuzzy_simplicial_set

    X = np.vstack([np.random.default_rng(0).normal(size=(300, 6)), np.ones((60, 6))])  # and duplicates
    near = nearest_neighbors(X, k)
    found = connectivities(near)
    given = {"knn_indices": near.indices, "knn_dists": near.distances}
    assert abs(found - fuzzy_simplicial_set(coo_matrix((len(X), 1)), k, None, None, **given)[0]).max() < 1e-6
    assert (found != found.T).nnz == 0


def test_kbet_of_a_label_in_pieces_is_zero_unless_most_of_it_holds_together():
    draw = np.random.default_rng(0)
    X, batches, piece = draw.normal(size=(120, 4)), draw.integers(0, 2, 120), np.arange(120)[:, None]
    for pieces, bound in ((0 * piece, 0.5), (piece < 20, 0.5)):  # one, and 100 of 120 in one
        assert ours.kbet(nearest_neighbors(X + 1000 * pieces, 12), np.zeros(120), batches) > bound
    assert ours.kbet(nearest_neighbors(X + 1000 * (piece % 5), 12), np.zeros(120), batches) == 0
    same = nearest_neighbors(np.ones((60, 3)), 20)
    assert 0 <= ours.kbet(same, np.zeros(60), np.arange(60) % 2) <= 1


def test_kbet_distinguishes_mixed_batches_from_separate_ones():
    draw = np.random.default_rng(0)
    X, batches, labels = draw.normal(size=(240, 4)), draw.integers(0, 2, 240), np.arange(240) % 2
    mixed, apart = (nearest_neighbors(X + step * batches[:, None], 50) for step in (0, 2))
    assert ours.kbet(mixed, labels, batches) > 0.9
    assert ours.kbet(apart, labels, batches) < 0.2
    tiny = np.where(np.arange(240) < 235, labels, 2)  # a label of 5 cells does not count
    assert ours.kbet(mixed, tiny, np.where(np.arange(240) < 235, batches, 0)) > 0.9


NEAR = nearest_neighbors(np.random.default_rng(0).normal(size=(40, 3)), 12)
ONE, TWO = np.zeros(40), np.arange(40) % 2


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: ours.ilisi(NEAR, ONE), Undefined),
        (lambda: ours.clisi(NEAR, ONE), Undefined),
        (lambda: ours.lisi(NEAR.subset(5), TWO), Undefined),
        (lambda: ours.kbet(NEAR, TWO, ONE), Undefined),
        (lambda: ours.kbet(NEAR, TWO, TWO), Undefined),
        (lambda: ours.kbet(NEAR, np.arange(40) // 5, TWO), Undefined),
        (lambda: ours.pcr_comparison(np.eye(40), np.eye(40), ONE), Undefined),
        (lambda: ours.pcr_comparison(np.full((40, 2), 0.1), np.eye(40), TWO), Undefined),
        (lambda: ours.pcr_comparison(np.repeat([[1.0], [2]], 20, 0), np.eye(40), TWO), Undefined),
        (lambda: ours.kmeans_nmi_ari(np.eye(40), ONE), Undefined),
        (lambda: ours.ilisi(NEAR, TWO[:39]), ValueError),
        (lambda: ours.kbet(NEAR, TWO, np.where(TWO == 0, np.nan, 1)), ValueError),
        (lambda: ours.pcr_comparison(np.eye(40), np.eye(39), TWO), ValueError),
        (lambda: ours.kmeans_nmi_ari(np.zeros((40, 2)), TWO), ValueError),
    ],
)
def test_input_without_a_score_is_undefined_or_rejected(call, kind):
    with pytest.raises(kind):
        call()
