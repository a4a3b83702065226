"""Metrics of the package scib: those of scib called by hand, and ours against them."""

from __future__ import annotations

import pathlib
import random
import shutil
import subprocess
import warnings

import numpy as np
import pytest
from integration_toys import blobs

from bftembed.metrics import integration as ours
from bftembed.metrics import silhouette
from bftembed.metrics.checks import TooFew, Unavailable, Undefined
from bftembed.metrics.clustering import connectivities
from bftembed.metrics.neighbors import Neighbors, nearest_neighbors
from bftembed.tasks.cells._scib import Scib

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    scib = pytest.importorskip("scib")

# scib warns of many things, and of old ways to call pandas.
pytestmark = pytest.mark.filterwarnings("ignore")
VECTORS = ("silhouette_label", "silhouette_batch", "isolated_labels_asw")


def cells(n=300, shift=2.0, seed=0):
    """Three labels in two batches and one, t2, in the first batch only."""
    X, labels, batches, before = blobs(n, n_labels=4, shift=shift, seed=seed)
    batches[labels == "t2"] = "b0"
    return X, labels, batches, before


def wrapped(X, labels, batches):
    return Scib(X, labels, batches, lambda k: nearest_neighbors(X, k))


def by_hand(X, labels, batches, before):
    """Return the AnnData that a user of scib would make, with scanpy's neighbors."""
    import anndata
    import pandas as pd
    import scanpy

    obs = pd.DataFrame({"kind": pd.Categorical(labels), "lot": pd.Categorical(batches)})
    made = anndata.AnnData(before, obs=obs.set_axis(obs.index.astype(str)))
    made.obsm["X_emb"] = X
    scanpy.pp.neighbors(made, use_rep="X_emb")
    return made


cases = pytest.mark.parametrize("case", [cells(), cells(240, 0.5, seed=3)], ids=["shifted", "mixed"])


@cases
def test_scores_of_vectors_are_those_of_scib_called_by_hand_and_ours(case):
    X, labels, batches, before = case
    made, found = by_hand(*case), wrapped(X, labels, batches)
    groups = {"label_key": "kind", "batch_key": "lot", "embed": "X_emb", "verbose": False}
    expected = {
        "silhouette_label": scib.me.silhouette(made, label_key="kind", embed="X_emb"),
        "silhouette_batch": scib.me.silhouette_batch(made, **groups),
        "isolated_labels_asw": scib.me.isolated_labels_asw(made, **groups),
    }
    assert {m: getattr(found, m)() for m in VECTORS} == pytest.approx(expected, abs=1e-6)
    assert silhouette.silhouette_label(X, labels) == pytest.approx(expected["silhouette_label"], abs=1e-6)
    assert silhouette.silhouette_batch(X, labels, batches) == pytest.approx(expected["silhouette_batch"], abs=1e-6)
    assert silhouette.isolated_labels(X, labels, batches) == pytest.approx(expected["isolated_labels_asw"], abs=1e-6)
    pcr = scib.me.pcr_comparison(made, made, covariate="lot", embed="X_emb")
    assert 0.05 < pcr < 1
    assert found.pcr_comparison(before, X, batches) == pytest.approx(pcr, abs=1e-6)
    assert ours.pcr_comparison(before, X, batches) == pytest.approx(pcr, abs=1e-5)


@cases
def test_scores_of_graphs_are_those_of_scib_called_by_hand(case):
    X, labels, batches, _ = case
    made, found = by_hand(*case), wrapped(X, labels, batches)
    np.testing.assert_allclose(found.graph.toarray(), made.obsp["connectivities"].toarray(), atol=1e-5)
    expected = scib.me.graph_connectivity(made, label_key="kind")
    assert found.graph_connectivity() == pytest.approx(expected, abs=1e-12)
    _, nmi = scib.cl.cluster_optimal_resolution(made, label_key="kind", cluster_key="cluster", verbose=False)
    ari = scib.me.ari(made, cluster_key="cluster", label_key="kind")
    assert sorted(found.clusterings) == pytest.approx([step / 5 for step in range(1, 11)])
    assert found.best == pytest.approx((nmi, ari), abs=1e-12)
    by_sklearn = [ours._nmi_ari(labels, clusters) for clusters in found.clusterings.values()]
    assert (nmi, ari) == pytest.approx(max(by_sklearn, key=lambda pair: pair[0]))
    expected = scib.me.isolated_labels_f1(made, label_key="kind", batch_key="lot", embed=None, verbose=False)
    assert found.isolated_labels_f1() == pytest.approx(expected, abs=1e-12)
    assert 0 < expected <= 1


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Compile scib's program for LISI in a copy of its folder, and let scib find it there."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder = tmp_path / "knn_graph"
    shutil.copytree(pathlib.Path(scib.__file__).parent / "knn_graph", folder)
    command = ["g++", "-std=c++11", "-O3", "knn_graph.cpp", "-o", "knn_graph.o"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    monkeypatch.setattr(scib, "__file__", str(tmp_path / "__init__.py"))
    return folder / "knn_graph.o"


def test_lisi_is_that_of_scib_called_by_hand(program):
    made, found = by_hand(*cells()), wrapped(*cells()[:3])
    expected = scib.me.clisi_graph(made, label_key="kind", type_="knn")
    assert found.clisi() == pytest.approx(expected, abs=1e-5)
    assert 0 < expected < 1
    expected = scib.me.ilisi_graph(made, batch_key="lot", type_="embed", use_rep="X_emb")
    assert found.ilisi() == pytest.approx(expected, abs=1e-5)
    assert 0 < expected < 1


def test_a_program_that_does_not_run_is_unavailable(program):
    found = wrapped(*cells()[:3])
    for text, mode in (("exit 3", 0o755), ("exit 0", 0o755), ("exit 0", 0o644)):
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(mode)
        with pytest.raises(Unavailable):
            found.clisi()
    program.unlink()
    with pytest.raises(Unavailable):
        found.ilisi()
    with pytest.raises(TooFew):
        wrapped(*(x[:90] for x in cells()[:3])).ilisi()
    with pytest.raises(Unavailable):
        found.kbet()


def test_our_graph_connectivity_is_that_of_scib_on_its_undirected_graph():
    """On a graph of two neighbors, where labels fall apart."""
    X, labels, batches, _ = blobs(60, d=2)
    near = nearest_neighbors(X, 3)
    theirs = Scib(X, labels, batches, lambda _: near).graph_connectivity()
    graph = connectivities(near).tolil()
    width = 1 + max(len(row) for row in graph.rows)
    both = np.array([[i, *row, *[i] * (width - 1 - len(row))] for i, row in enumerate(graph.rows)], dtype=np.int32)
    undirected = Neighbors(both, np.zeros(both.shape, dtype=np.float32))
    assert ours.graph_connectivity(undirected, labels) == pytest.approx(theirs, abs=1e-12)
    assert ours.graph_connectivity(near, labels) < theirs < 0.9


def test_our_leiden_scores_are_close_to_those_of_scib():
    """Another implementation of Leiden: the best of ten resolutions differs little where types are separate."""
    X, labels, batches, _ = cells()
    assert ours.leiden_nmi_ari(nearest_neighbors(X, 15), labels) == pytest.approx(
        wrapped(X, labels, batches).best, abs=0.05
    )


def test_names_and_order_of_labels_batches_and_cells_do_not_matter():
    X, labels, batches, before = cells()
    order = np.random.default_rng(0).permutation(len(X))
    rename = {"t0": "z", "t1": "1", "t2": "m", "t3": "10", "b0": "2", "b1": "1"}
    other = [np.vectorize(rename.get)(x) for x in (labels, batches)]

    def scores(X, labels, batches, before):
        found = wrapped(X, labels, batches)
        of_graph = found.graph_connectivity(), found.pcr_comparison(before, X, batches)
        return [*(getattr(found, m)() for m in VECTORS), *of_graph]

    expected = scores(X, labels, batches, before)
    assert scores(X, *other, before) == pytest.approx(expected, abs=1e-6)
    assert scores(X[order], labels[order], batches[order], before[order]) == pytest.approx(expected, abs=1e-6)
    one, two = wrapped(X, labels, batches), wrapped(X, *other)
    assert (one.best, one.isolated_labels_f1()) == (two.best, two.isolated_labels_f1())


def test_what_scib_gives_a_wrong_number_for_is_undefined():
    X, labels, batches, before = cells()
    one, own = ["x"] * len(X), np.arange(len(X))
    f1 = ("isolated_labels_f1",)
    for found, metrics in (
        (wrapped(X, one, batches), ("silhouette_label", "isolated_labels_asw", "clisi", *f1)),
        (wrapped(X, labels, one), ("silhouette_batch", "isolated_labels_asw", "ilisi", *f1)),
        (wrapped(X, own, batches), ("silhouette_label", "isolated_labels_asw")),
        (wrapped(X, labels, labels), ("silhouette_batch",)),
        (wrapped(*blobs(150)[:3]), ("isolated_labels_asw", *f1)),
    ):
        for metric in metrics:
            with pytest.raises(Undefined):
                getattr(found, metric)()
    with pytest.raises(Undefined):
        _ = wrapped(X, one, batches).best
    twice = np.repeat(X[:50], 2, axis=0)
    for pre, post, of_batch in ((before, X, one), (np.ones_like(X), X, batches), (twice, twice, ["a", "b"] * 50)):
        with pytest.raises(Undefined):
            wrapped(post, own[: len(post)] % 2, of_batch).pcr_comparison(pre, post, of_batch)


def test_nothing_is_printed_warned_or_changed(capfd):
    X, labels, batches, before = cells()
    kept, filters = X.copy(), list(warnings.filters)
    states = random.getstate(), np.random.get_state()[1].copy()
    found = wrapped(X, labels, batches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for metric in (*VECTORS, "isolated_labels_f1", "graph_connectivity"):
            getattr(found, metric)()
        assert found.best
        found.pcr_comparison(before, X, batches)
    assert capfd.readouterr() == ("", "")
    assert (warnings.filters, random.getstate()) == (filters, states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    np.testing.assert_array_equal(X, kept)
