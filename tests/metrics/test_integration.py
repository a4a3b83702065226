"""scIB's scores against scib-metrics, harmonypy, umap and graphs made by hand."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest

from bftembed.errors import MissingExtraError
from bftembed.metrics import integration as ours
from bftembed.metrics.checks import Undefined
from bftembed.metrics.neighbors import Neighbors, nearest_neighbors
from bftembed.metrics.silhouette import bras, isolated_labels, silhouette_batch, silhouette_label


def cells(sizes, shift, n_batches, scale=1.0, seed=0):
    draw = np.random.default_rng(seed)
    labels, batches = np.repeat(np.arange(len(sizes)), sizes), draw.integers(0, n_batches, sum(sizes))
    centres, shifts = 2 * draw.normal(size=(len(sizes), 10)), shift * draw.normal(size=(n_batches, 10))
    X = ((draw.normal(size=(len(labels), 10)) + centres[labels] + shifts[batches]) * scale).astype(np.float32)
    order = draw.permutation(len(labels))
    names = (np.array([f"{word}{code}" for code in codes])[order] for word, codes in (("t", labels), ("b", batches)))
    return (X[order], *names)


# 330 cells each: JAX compiles once for what depends on the number of cells alone.
CASES = {
    "even": cells([110, 110, 110], 0.5, 2),
    "uneven": cells([200, 90, 28, 10, 2], 1.0, 3),
    "distances in the hundreds": cells([150, 150, 30], 0.3, 2, 100.0),
}


def own_scores(X, labels, batches):
    near = nearest_neighbors(X, 90)
    weights = ours.lisi_weights(near)
    nmi, ari = ours.leiden_nmi_ari(near.subset(15), labels, seed=42)
    return {
        "silhouette_label": silhouette_label(X, labels),
        "silhouette_batch": silhouette_batch(X, labels, batches),
        "isolated_labels": isolated_labels(X, labels, batches),
        "bras": bras(X, labels, batches),
        "ilisi": ours.ilisi(near, batches, weights=weights),
        "clisi": ours.clisi(near, labels, weights=weights),
        "graph_connectivity": ours.graph_connectivity(near.subset(15), labels),
        "kbet": ours.kbet(near.subset(50), labels, batches),
        "pcr_comparison": ours.pcr_comparison(before(X, batches), X, batches),
        "leiden_nmi": nmi,
        "leiden_ari": ari,
    }


def before(X, batches):
    """Give an embedding with more of the batches in it."""
    return X + 3 * X.std() * (batches == "b1")[:, None].astype(np.float32)


@functools.cache
def scores_of_scib_metrics(name):
    import scib_metrics as sm
    from scib_metrics.nearest_neighbors import NeighborsResults

    X, labels, batches = CASES[name]
    near = nearest_neighbors(X, 90)
    k90 = NeighborsResults(indices=near.indices.copy(), distances=near.distances.copy())
    k50, k15 = k90.subset_neighbors(50), k90.subset_neighbors(15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        leiden = sm.nmi_ari_cluster_labels_leiden(k15, labels, seed=42)
        return {
            "silhouette_label": sm.silhouette_label(X, labels),
            "silhouette_batch": sm.silhouette_batch(X, labels, batches),
            "isolated_labels": sm.isolated_labels(X, labels, batches),
            "bras": sm.bras(X, labels, batches),
            "ilisi": sm.ilisi_knn(k90, batches),
            "clisi": sm.clisi_knn(k90, labels),
            "graph_connectivity": sm.graph_connectivity(k15, labels),
            "kbet": sm.kbet_per_label(k50, batches, labels),
            "pcr_comparison": sm.pcr_comparison(before(X, batches), X, batches, categorical=True),
            "leiden_nmi": leiden["nmi"],
            "leiden_ari": leiden["ari"],
        }


def agree(name):
    found, expected = own_scores(*CASES[name]), scores_of_scib_metrics(name)
    wrong = {k: (v, expected[k]) for k, v in found.items() if not abs(v - expected[k]) <= 1e-6}
    assert not wrong, wrong


def test_every_score_equals_that_of_scib_metrics(monkeypatch):
    """With our exact search in its kBET: numba needs 20 s to compile its own."""
    pytest.importorskip("scib_metrics")
    from scib_metrics.nearest_neighbors import NeighborsResults
    from scib_metrics.utils import _diffusion_nn

    def search(X, n_neighbors):
        near = nearest_neighbors(X, n_neighbors)
        return NeighborsResults(indices=near.indices, distances=near.distances)

    monkeypatch.setattr(_diffusion_nn.nearest_neighbors, "pynndescent", search)
    agree("even")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CASES][1:])
def test_every_score_equals_that_of_scib_metrics_with_its_own_search(name):
    agree(name)


def test_kmeans_is_that_of_scib_metrics_and_leaves_the_data_alone():
    sm = pytest.importorskip("scib_metrics")
    X, labels, _ = CASES["even"]
    kept = X.copy()
    expected = sm.nmi_ari_cluster_labels_kmeans(X.copy(), labels)
    assert ours.kmeans_nmi_ari(X, labels) == (expected["nmi"], expected["ari"])
    np.testing.assert_array_equal(X, kept)


def test_lisi_equals_that_of_harmonypy():
    harmonypy = pytest.importorskip("harmonypy")
    for X, labels, batches in CASES.values():
        near = nearest_neighbors(X, 91)  # 90 others: harmonypy does not count the cell itself, scib-metrics 0.5 does
        for groups in (labels, batches):
            expected = harmonypy.compute_lisi(X, {"g": groups}, ["g"], perplexity=30)[:, 0]
            np.testing.assert_allclose(ours.lisi(near, groups), expected, atol=1e-5)


def graph(indices, distances=None):
    indices = np.array(indices, dtype=np.int32)
    far = np.broadcast_to(np.arange(indices.shape[1]), indices.shape) if distances is None else np.array(distances)
    return Neighbors(indices, far.astype(np.float32))


def test_no_score_changes_the_neighbors():
    X, labels, batches = CASES["uneven"]
    near = nearest_neighbors(X, 50)
    indices, distances = near.indices.copy(), near.distances.copy()
    for score in (lambda: ours.kbet(near, labels, batches), lambda: ours.lisi(near, labels)):
        score()
    ours.leiden_nmi_ari(near.subset(15), labels)
    np.testing.assert_array_equal(near.indices, indices)
    np.testing.assert_array_equal(near.distances, distances)


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
    groups = np.arange(n) % 2
    share = np.array([4 / 9, 5 / 9])
    np.testing.assert_allclose(ours.lisi(near, groups), 1 / (share**2).sum())
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
    draw = np.random.default_rng(1)
    order = draw.permutation(len(X))
    rename = {"t0": "z", "t1": "a", "b0": "2", "b1": "1"}
    other = X[order], np.vectorize(rename.get)(labels)[order], np.vectorize(rename.get)(batches)[order]

    def scores(X, labels, batches, pre):
        near = nearest_neighbors(X, 90)
        return [
            ours.ilisi(near, batches),
            ours.clisi(near, labels),
            ours.graph_connectivity(near.subset(15), labels),
            ours.kbet(near.subset(50), labels, batches),
            ours.pcr_comparison(pre, X, batches),
        ]

    pre = before(X, batches)
    np.testing.assert_allclose(scores(*other, pre[order]), scores(X, labels, batches, pre), atol=1e-6)


def test_leiden_and_kbet_repeat_themselves():
    X, labels, batches = CASES["uneven"]
    near = nearest_neighbors(X, 50)
    assert ours.leiden_nmi_ari(near.subset(15), labels, 3) == ours.leiden_nmi_ari(near.subset(15), labels, 3)
    assert ours.kbet(near, labels, batches) == ours.kbet(near, labels, batches)


NEAR = nearest_neighbors(np.random.default_rng(0).normal(size=(40, 3)), 12)
ONE, TWO = np.zeros(40), np.arange(40) % 2


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: ours.ilisi(NEAR, ONE), "one batch: iLISI"),
        (lambda: ours.clisi(NEAR, ONE), "one label: cLISI"),
        (lambda: ours.lisi(NEAR.subset(5), TWO), "at least 6 neighbors"),
        (lambda: ours.kbet(NEAR, TWO, ONE), "one batch: kBET"),
        (lambda: ours.kbet(NEAR, TWO, TWO), "No label has two batches and at least 10 cells"),
        (lambda: ours.kbet(NEAR, np.arange(40) // 5, TWO), "at least 10 cells"),
        (lambda: ours.pcr_comparison(np.eye(40), np.eye(40), ONE), "one batch: PCR"),
        (lambda: ours.pcr_comparison(np.full((40, 2), 0.1), np.eye(40), TWO), "identical"),
        (lambda: ours.pcr_comparison(np.repeat([[1.0], [2]], 20, 0), np.eye(40), TWO), "explain nothing"),
        (lambda: ours.leiden_nmi_ari(NEAR, ONE), "one label"),
        (lambda: ours.kmeans_nmi_ari(np.eye(40), ONE), "one label"),
    ],
)
def test_scores_without_a_value_say_why(call, reason):
    with pytest.raises(Undefined, match=reason):
        call()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: ours.ilisi(NEAR, TWO[:39]), "39 groups for 40 cells"),
        (lambda: ours.graph_connectivity(NEAR, TWO[:39]), "39 labels for 40 cells"),
        (lambda: ours.kbet(NEAR, TWO, np.where(TWO == 0, np.nan, 1)), "20 cells have no label .batches"),
        (lambda: ours.pcr_comparison(np.eye(40), np.eye(39), TWO), "40 batches for 39 cells"),
        (lambda: ours.pcr_comparison(np.eye(40), np.eye(40) * np.nan, TWO), "40 cells hold NaN"),
        (lambda: ours.kmeans_nmi_ari(np.zeros((40, 2)), TWO), "40 cells are all zero"),
    ],
)
def test_broken_input_is_refused(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()


def test_library_names_the_versions():
    import importlib.metadata

    assert ours.library() == {name: importlib.metadata.version(name) for name in ("scib-metrics", "jax")}


def test_without_the_extra_the_install_line_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "igraph", None)
    with pytest.raises(MissingExtraError, match=r"bftembed\[scib\]"):
        ours.leiden_nmi_ari(NEAR, TWO)


def test_the_compilation_cache_keeps_small_kernels(tmp_path):
    jax = pytest.importorskip("jax")
    ours.compilation_cache(str(tmp_path))
    try:
        jax.jit(lambda x: x * 3 + 1)(np.arange(7.0)).block_until_ready()
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
    assert any(tmp_path.iterdir())


@pytest.mark.parametrize("shape", ["blobs", "noise", "few distinct"])
def test_kmeans_gives_the_clusters_of_scib_metrics_cell_by_cell(shape):
    from scib_metrics.utils import KMeans

    draw = np.random.default_rng(3)
    centres = 5 * draw.normal(size=(6, 8))
    X = {
        "blobs": draw.normal(size=(400, 8)) + centres[draw.integers(6, size=400)],
        "noise": draw.normal(size=(300, 5)),
        # Fewer places than clusters: some clusters stay without a cell.
        "few distinct": centres[draw.integers(4, size=200)],
    }[shape].astype(np.float32)
    for seed in range(3):
        theirs = KMeans(6, seed=seed)
        theirs.fit(X.copy())
        np.testing.assert_array_equal(ours._kmeans(X.copy(), 6, seed), theirs.labels_)
