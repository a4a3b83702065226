"""The metrics of the original scib: each as scib called by hand, ours against it, and reasons for the rest."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from integration_toys import blobs
from tests_paths import REPOSITORY

from bftembed.errors import MissingExtraError
from bftembed.metrics import integration as of_metrics
from bftembed.metrics import silhouette as of_silhouette
from bftembed.metrics.checks import Undefined
from bftembed.metrics.leiden import connectivities
from bftembed.metrics.neighbours import Neighbours, nearest_neighbours
from bftembed.tasks import scib_original as original

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    scib = pytest.importorskip("scib")

# scib warns of many things, and of old ways to call pandas.
pytestmark = pytest.mark.filterwarnings("ignore")


def cells(n=300, shift=2.0, seed=0):
    """Three labels in two batches and one, t2, in the first batch only."""
    X, labels, batches, before = blobs(n, n_labels=4, shift=shift, seed=seed)
    batches[labels == "t2"] = "b0"
    return X, labels, batches, before


def by_hand(X, labels, batches, before):
    """Return the AnnData that a user of scib would make, with scanpy's neighbours."""
    import anndata
    import pandas as pd
    import scanpy

    obs = pd.DataFrame({"kind": pd.Categorical(labels), "lot": pd.Categorical(batches)})
    made = anndata.AnnData(before, obs=obs.set_axis(obs.index.astype(str)))
    made.obsm["X_emb"] = X
    scanpy.pp.neighbors(made, use_rep="X_emb")
    return made


def graph_of(X):
    return connectivities(nearest_neighbours(X, 15))


CASES = [cells(), cells(240, 0.5, seed=3)]


@pytest.mark.parametrize("case", CASES, ids=["shifted", "mixed"])
def test_scores_of_vectors_are_those_of_scib_called_by_hand(case):
    X, labels, batches, before = case
    made = by_hand(*case)
    expected = scib.me.silhouette(made, label_key="kind", embed="X_emb")
    assert original.silhouette_label(X, labels) == pytest.approx(expected, abs=1e-6)
    expected = scib.me.silhouette_batch(made, batch_key="lot", label_key="kind", embed="X_emb", verbose=False)
    assert original.silhouette_batch(X, labels, batches) == pytest.approx(expected, abs=1e-6)
    expected = scib.me.isolated_labels_asw(made, label_key="kind", batch_key="lot", embed="X_emb", verbose=False)
    assert original.isolated_labels_asw(X, labels, batches) == pytest.approx(expected, abs=1e-6)
    expected = scib.me.pcr_comparison(made, made, covariate="lot", embed="X_emb")
    assert original.pcr_comparison(before, X, batches) == pytest.approx(expected, abs=1e-6)
    assert 0.05 < expected < 1


@pytest.mark.parametrize("case", CASES, ids=["shifted", "mixed"])
def test_scores_of_graphs_are_those_of_scib_called_by_hand(case):
    X, labels, batches, _ = case
    made, graph = by_hand(*case), graph_of(X)
    np.testing.assert_allclose(graph.toarray(), made.obsp["connectivities"].toarray(), atol=1e-5)
    expected = scib.me.graph_connectivity(made, label_key="kind")
    assert original.graph_connectivity(graph, labels) == pytest.approx(expected, abs=1e-12)
    _, nmi = scib.cl.cluster_optimal_resolution(made, label_key="kind", cluster_key="cluster", verbose=False)
    ari = scib.me.ari(made, cluster_key="cluster", label_key="kind")
    clusterings = original.leiden_clusterings(graph)
    assert sorted(clusterings) == pytest.approx([step / 5 for step in range(1, 11)])
    assert original.nmi_ari_leiden_best(clusterings, labels) == pytest.approx((nmi, ari), abs=1e-12)
    by_sklearn = [of_metrics._nmi_ari(labels, found) for found in clusterings.values()]
    assert (nmi, ari) == pytest.approx(max(by_sklearn, key=lambda pair: pair[0]))
    expected = scib.me.isolated_labels_f1(made, label_key="kind", batch_key="lot", embed=None, verbose=False)
    assert original.isolated_labels_f1(clusterings, labels, batches) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected <= 1


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Compile scib's program for LISI, as its remedy says, but elsewhere."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("scib") / "knn_graph"
    shutil.copytree(pathlib.Path(scib.__file__).parent / "knn_graph", folder)
    command = original.RECOMPILE.split(": ")[1].split()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "knn_graph.o"


def test_lisi_is_that_of_scib_called_by_hand(program, monkeypatch):
    X, labels, batches, _ = cells()
    made, graph = by_hand(*cells()), graph_of(X)
    monkeypatch.setattr(scib, "__file__", str(program.parent.parent / "__init__.py"))
    expected = scib.me.clisi_graph(made, label_key="kind", type_="knn")
    assert original.clisi(graph, labels) == pytest.approx(expected, abs=1e-5)
    assert 0 < expected < 1
    expected = scib.me.ilisi_graph(made, batch_key="lot", type_="embed", use_rep="X_emb")
    assert original.ilisi(graph, batches, program=program) == pytest.approx(expected, abs=1e-5)
    assert 0 < expected < 1


def ring(n):
    """Cells on a ring, each joined to the next."""
    import scipy.sparse

    i = np.arange(n)
    graph = scipy.sparse.coo_matrix((np.ones(n, dtype=np.float32), (i, (i + 1) % n)), shape=(n, n))
    return (graph + graph.T).tocsr()


def test_lisi_of_a_ring_is_what_one_counts(program):
    """With batches in turn, all neighbourhoods on a ring are alike and even, and with halves nearly all are of one."""
    n = 400
    turns, halves = np.array(["a", "b"])[np.arange(n) % 2], np.array(["a", "b"])[(np.arange(n) < n // 2).astype(int)]
    assert original.ilisi(ring(n), turns, program=program) == pytest.approx(1, abs=0.05)
    assert original.ilisi(ring(n), halves, program=program) < 0.1
    assert original.clisi(ring(n), halves, program=program) > 0.9


def test_a_program_that_does_not_run_is_a_reason_with_its_remedy(tmp_path, monkeypatch):
    X, labels, batches, _ = cells()
    graph = graph_of(X)

    def script(text, mode=0o755):
        path = tmp_path / "knn_graph.o"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(mode)
        return path

    def reason(path):
        with pytest.raises(Undefined) as caught:
            original.clisi(graph, labels, program=path)
        return str(caught.value)

    old = script('echo "x: /lib/libc.so.6: version \\`GLIBC_2.38\' not found (required by x)" >&2; exit 1')
    told = reason(old)
    assert told.startswith("scib's program knn_graph.o does not run on this machine: it needs GLIBC_2.38. Recompile it")
    assert "g++ -std=c++11 -O3 knn_graph.cpp -o knn_graph.o" in told
    assert "; " not in told  # notes are cut there
    assert str(tmp_path) not in told
    assert "exit status 3. Recompile" in reason(script("exit 3"))
    assert "exit status 0. Recompile" in reason(script("exit 0"))  # it said nothing and wrote nothing
    assert "cannot be started (Permission denied). Recompile" in reason(script("exit 0", 0o644))
    assert "cannot be started (No such file or directory)" in reason(tmp_path / "none")
    monkeypatch.setattr(original, "TIME_LIMIT", 0.2)
    assert "did not end within 0 seconds" in reason(script("exec sleep 30"))
    with pytest.raises(Undefined, match="90 cells are too few for 90 others"):
        original.ilisi(graph_of(X[:90]), batches[:90])


def test_the_program_that_scib_brings_works_or_says_why():
    X, labels, _, _ = cells()
    try:
        assert 0 < original.clisi(graph_of(X), labels) <= 1
    except Undefined as err:
        assert original.RECOMPILE in str(err)  # noqa: PT017


def undirected(near):
    """Make both directions of each neighbour a neighbour: a `Neighbours` as wide as the cell with the most."""
    graph = connectivities(near).tolil()
    width = 1 + max(len(row) for row in graph.rows)
    indices = np.array([[i, *row, *[i] * (width - 1 - len(row))] for i, row in enumerate(graph.rows)], dtype=np.int32)
    return Neighbours(indices, np.zeros(indices.shape, dtype=np.float32))


@pytest.mark.parametrize("case", CASES, ids=["shifted", "mixed"])
def test_our_own_metrics_are_those_of_scib_where_they_should_be(case):
    X, labels, batches, before = case
    made = by_hand(*case)
    expected = scib.me.silhouette(made, label_key="kind", embed="X_emb")
    assert of_silhouette.silhouette_label(X, labels) == pytest.approx(expected, abs=1e-6)
    expected = scib.me.silhouette_batch(made, batch_key="lot", label_key="kind", embed="X_emb", verbose=False)
    assert of_silhouette.silhouette_batch(X, labels, batches) == pytest.approx(expected, abs=1e-6)
    expected = scib.me.isolated_labels_asw(made, label_key="kind", batch_key="lot", embed="X_emb", verbose=False)
    assert of_silhouette.isolated_labels(X, labels, batches) == pytest.approx(expected, abs=1e-6)
    expected = scib.me.pcr_comparison(made, made, covariate="lot", embed="X_emb")
    assert of_metrics.pcr_comparison(before, X, batches) == pytest.approx(expected, abs=1e-5)


def test_our_graph_connectivity_is_that_of_scib_on_its_undirected_graph():
    """On a graph of two neighbours, where labels fall apart."""
    import anndata
    import pandas as pd

    X, labels, _, _ = blobs(60, d=2)
    near = nearest_neighbours(X, 3)
    made = anndata.AnnData(obs=pd.DataFrame({"kind": pd.Categorical(labels)}, index=[str(i) for i in range(60)]))
    made.obsp["connectivities"], made.uns["neighbors"] = connectivities(near), {}
    expected = scib.me.graph_connectivity(made, label_key="kind")
    assert of_metrics.graph_connectivity(undirected(near), labels) == pytest.approx(expected, abs=1e-12)
    assert of_metrics.graph_connectivity(near, labels) < expected < 0.9


def test_our_leiden_scores_are_close_to_those_of_scib():
    """Another implementation of Leiden: the best of ten resolutions differs little where types lie apart."""
    X, labels, _, _ = cells()
    near = nearest_neighbours(X, 15)
    ours = of_metrics.leiden_nmi_ari(near, labels)
    theirs = original.nmi_ari_leiden_best(original.leiden_clusterings(connectivities(near)), labels)
    assert ours == pytest.approx(theirs, abs=0.05)


def test_labels_in_every_batch_are_not_isolated():
    X, labels, batches, _ = blobs(150)
    for score in (original.isolated_labels_asw, lambda _, *of: original.isolated_labels_f1({0.2: labels}, *of)):
        with pytest.raises(Undefined, match="Every label is in every batch"):
            score(X, labels, batches)


def test_clusters_that_say_nothing_of_the_labels_score_zero():
    labels = ["a", "b"] * 20
    assert original.nmi_ari_leiden_best({0.2: np.zeros(40, int), 0.4: np.zeros(40, int)}, labels) == (0, 0)


def test_kbet_needs_r():
    with pytest.raises(Undefined, match=r"R program.*kbet_per_label"):
        original.kbet()


def test_names_and_order_of_labels_batches_and_cells_do_not_matter():
    X, labels, batches, before = cells()
    order = np.random.default_rng(0).permutation(len(X))
    rename = {"t0": "z", "t1": "1", "t2": "m", "t3": "10", "b0": "2", "b1": "1"}
    other = [np.vectorize(rename.get)(x) for x in (labels, batches)]

    def scores(X, labels, batches, before):
        return [
            original.silhouette_label(X, labels),
            original.silhouette_batch(X, labels, batches),
            original.isolated_labels_asw(X, labels, batches),
            original.pcr_comparison(before, X, batches),
            original.graph_connectivity(graph_of(X), labels),
        ]

    expected = scores(X, labels, batches, before)
    assert scores(X, *other, before) == pytest.approx(expected, abs=1e-6)
    assert scores(X[order], labels[order], batches[order], before[order]) == pytest.approx(expected, abs=1e-6)
    clusterings = original.leiden_clusterings(graph_of(X))
    assert original.nmi_ari_leiden_best(clusterings, labels) == original.nmi_ari_leiden_best(clusterings, other[0])
    f1 = original.isolated_labels_f1(clusterings, labels, batches)
    assert f1 == original.isolated_labels_f1(clusterings, *other)


def test_broken_input_is_told_before_scib_is_called(monkeypatch):
    X, labels, batches, before = cells()
    graph, clusters = graph_of(X), {0.2: np.arange(len(X)) % 3}
    monkeypatch.setattr(original, "load", lambda: pytest.fail("scib was called"))
    broken, zero, one = X.copy(), X.copy(), ["x"] * len(X)
    broken[3], zero[4] = np.nan, 0
    missing = labels.astype(object)
    missing[7] = None

    def refused(match, error, call, *values):
        with pytest.raises(error, match=match):
            call(*values)

    for call, rest in (
        (original.silhouette_label, (labels,)),
        (original.silhouette_batch, (labels, batches)),
        (original.isolated_labels_asw, (labels, batches)),
    ):
        refused("1 cells hold NaN", ValueError, call, broken, *rest)
        refused("1 cells are all zero", ValueError, call, zero, *rest)
        refused("1 cells have no label", ValueError, call, X, missing, *rest[1:])
        refused("299 cells|299 labels", ValueError, call, X, labels[1:], *rest[1:])
    refused("1 cells hold NaN", ValueError, original.pcr_comparison, before, broken, batches)
    for call, values in (
        (original.silhouette_label, (X, one)),
        (original.isolated_labels_asw, (X, one, batches)),
        (original.nmi_ari_leiden_best, (clusters, one)),
        (original.isolated_labels_f1, (clusters, one, batches)),
        (original.clisi, (graph, one)),
    ):
        refused("All cells have one label", Undefined, call, *values)
    for call, values in (
        (original.silhouette_batch, (X, labels, one)),
        (original.isolated_labels_asw, (X, labels, one)),
        (original.isolated_labels_f1, (clusters, labels, one)),
        (original.pcr_comparison, (before, X, one)),
        (original.ilisi, (graph, one)),
    ):
        refused("All cells have one batch", Undefined, call, *values)
    for call, values in ((original.graph_connectivity, (graph, missing)), (original.clisi, (graph, missing))):
        refused("1 cells have no label", ValueError, call, *values)
    refused("All cells are identical", Undefined, original.pcr_comparison, np.ones_like(X), X, batches)
    refused("Every cell has a label of its own", Undefined, original.silhouette_label, X, np.arange(len(X)))


def test_batches_that_explain_nothing_or_are_labels_have_no_score():
    X, labels, _, _ = cells()
    twice = np.repeat(X[:50], 2, axis=0)
    with pytest.raises(Undefined, match="explain nothing"):
        original.pcr_comparison(twice, twice, ["a", "b"] * 50)
    with pytest.raises(Undefined, match="No label has two batches"):
        original.silhouette_batch(X, labels, labels)


def test_nothing_is_printed_warned_changed_or_left_behind(capfd, tmp_path, monkeypatch):
    X, labels, batches, before = cells()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(original.tempfile, "tempdir", None)
    kept, filters = (X.copy(), before.copy()), list(warnings.filters)
    states = random.getstate(), np.random.get_state()[1].copy()
    graph = graph_of(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clusterings = original.leiden_clusterings(graph)
        original.nmi_ari_leiden_best(clusterings, labels)
        original.isolated_labels_f1(clusterings, labels, batches)
        original.isolated_labels_asw(X, labels, batches)
        original.silhouette_label(X, labels)
        original.silhouette_batch(X, labels, batches)
        original.graph_connectivity(graph, labels)
        original.pcr_comparison(before, X, batches)
        try:
            original.clisi(graph, labels)
        except Undefined as err:
            assert original.RECOMPILE in str(err)  # noqa: PT017
    assert capfd.readouterr() == ("", "")
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    assert warnings.filters == filters
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    for now, then in zip((X, before), kept, strict=True):
        np.testing.assert_array_equal(now, then)


def test_importing_scib_leaves_the_warnings_of_the_process_alone():
    code = (
        "import warnings; before = list(warnings.filters)\n"
        "from bftembed.tasks import scib_original\n"
        "scib_original.load()\n"
        "print([f for f in warnings.filters if f[:3] == ('default', None, Warning)], scib_original.library())"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert told.stdout.startswith("[] scib 1.")


def test_without_scib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scib", None)
    with pytest.raises(MissingExtraError, match=r'pip install "bftembed\[scib-original\]"'):
        original.silhouette_label(*cells()[:2])
