"""Integration: its metrics are those called directly, and every bad input has its outcome."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from integration_toys import blobs
from tests_paths import REPOSITORY

from bftembed.errors import BftembedError, MissingExtraError, UnknownNameError
from bftembed.metrics import integration as scib
from bftembed.metrics.clustering import Neighbors, nearest_neighbors
from bftembed.report.published import INTEGRATION_METRICS, TABLE_2
from bftembed.tasks.base import to_frame
from bftembed.tasks.cells import integration as task

pytest.importorskip("scib_metrics")
NMI, ARI = task.SEEDED
BIO, BATCH = set(task.PROFILES["current"].bio), set(task.PROFILES["current"].batch)


def scored(X, labels, batches, **options):
    """Return {metric: Result} of one embedding with one seed."""
    rows = task.score({"X": X}, labels, batches, run="r", seeds=[0], **options)
    return {row.metric: row for row in rows if row.seed is None}


def values(rows):
    return {name: row.value for name, row in rows.items()}


def reasons(rows):
    return {name: row.reason for name, row in rows.items() if math.isnan(row.value)}


@pytest.mark.parametrize("profile", ["current", "paper"])
def test_every_metric_is_the_function_called_directly(profile):
    X, labels, batches, before = blobs()
    near = nearest_neighbors(X, 90)
    expected = {
        "isolated_labels": scib.isolated_labels(X, labels, batches),
        **dict(zip((NMI, ARI), scib.kmeans_nmi_ari(X, labels, 0), strict=True)),
        "silhouette_label": scib.silhouette_label(X, labels),
        "clisi_knn": scib.clisi(near, labels),
        "ilisi_knn": scib.ilisi(near, batches),
        "kbet_per_label": scib.kbet(near.subset(50), labels, batches),
        "graph_connectivity": scib.graph_connectivity(near.subset(15), labels),
        "pcr_comparison": scib.pcr_comparison(before, X, batches),
        **({"bras": scib.bras(X, labels, batches)} if profile == "current" else {}),
        **({"silhouette_batch": scib.silhouette_batch(X, labels, batches)} if profile == "paper" else {}),
    }
    of_bio, of_batch = (
        [expected[m] for m in part] for part in (task.PROFILES[profile].bio, task.PROFILES[profile].batch)
    )
    expected |= {"bio_conservation": np.mean(of_bio), "batch_correction": np.mean(of_batch)}
    expected["total"] = 0.6 * np.mean(of_bio) + 0.4 * np.mean(of_batch)
    rows = scored(X, labels, batches, before=before, profile=profile)
    assert values(rows) == pytest.approx(expected, abs=1e-12)
    assert {(r.protocol, r.kind, r.n, r.n_missing) for r in rows.values()} == {(profile, "subject", 150, 0)}


@pytest.mark.slow
def test_the_values_are_those_of_the_benchmarker_on_real_cells(shared_data, monkeypatch):
    """With our neighbors, and in kBET our graph and start of the eigenvectors.

    Its own start is random, and its leading eigenvalue, .99999997 here, is rounded now to 1, now to .99999994. That
    gives the first component a weight of 1 or of 17 million, and this embedding a kBET of .52 or .48.
    """
    import anndata
    import scib_metrics
    import scipy.sparse.linalg
    from scib_metrics.benchmark import Benchmarker
    from scib_metrics.nearest_neighbors import NeighborsResults
    from threadpoolctl import threadpool_limits

    from bftembed.metrics.clustering import connectivities
    from bftembed.tasks.baselines import harmony, pca

    cells = anndata.read_h5ad(shared_data("cells/symphony_pbmc_3batch.h5ad"))[::3].copy()
    cells.obsm["X_pre"] = pca(cells.X)
    cells.obsm["X_harmony"] = harmony(cells.obsm["X_pre"], cells.obs["batch"].to_numpy().astype(str))

    def ours(X, k):
        near = nearest_neighbors(X, k)
        return NeighborsResults(indices=near.indices, distances=near.distances)

    eigsh = scipy.sparse.linalg.eigsh

    def with_our_start(matrix, **options):
        options["v0"] = np.random.default_rng(0).uniform(-1, 1, matrix.shape[0])
        with threadpool_limits(limits=1):
            return eigsh(matrix, **options)

    def graph(near):
        return connectivities(Neighbors(np.asarray(near.indices), np.asarray(near.distances)))

    embeddings = {key: cells.obsm[key] for key in ("X_pre", "X_harmony")}
    with monkeypatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patched.setattr(scipy.sparse.linalg, "eigsh", with_our_start)
        patched.setattr(NeighborsResults, "knn_graph_connectivities", property(graph))
        theirs = Benchmarker(
            cells, "batch", "cell_type", list(embeddings), pre_integrated_embedding_obsm_key="X_pre", progress_bar=False
        )
        theirs.prepare(neighbor_computer=ours)
        theirs.benchmark()
        table = theirs.get_results(clean_names=False)
    labels, batches = (cells.obs[c].to_numpy() for c in ("cell_type", "batch"))
    rows = task.score(embeddings, labels, batches, run="r", before=cells.obsm["X_pre"], seeds=[0])
    aggregates = {"bio_conservation": "Bio conservation", "batch_correction": "Batch correction", "total": "Total"}
    assert sum(row.seed is None for row in rows) == 2 * 13
    for row in rows:
        expected = float(table.loc[row.subject, aggregates.get(row.metric, row.metric)])
        close = 1e-5 if row.metric in ("clisi_knn", "ilisi_knn", "kbet_per_label", *aggregates) else 1e-6
        assert row.value == pytest.approx(expected, abs=close), (row.subject, row.metric)
    for name, X in embeddings.items():
        found = scored(X, labels, batches, profile="paper")["silhouette_batch"].value
        expected = scib_metrics.silhouette_batch(X, labels, batches)
        assert found == pytest.approx(expected, abs=1e-6), name


@pytest.mark.parametrize("method", TABLE_2)
def test_the_totals_of_table_2_are_the_arithmetic_of_the_paper(method):
    printed = dict(zip(INTEGRATION_METRICS, TABLE_2[method], strict=True))
    bio, batch = printed["bio_conservation"], printed["batch_correction"]
    profile = task.PROFILES["paper"]
    given = dict.fromkeys(profile.bio, bio) | dict.fromkeys(profile.batch, batch)
    made = task._aggregates(given, profile, np.array(["x", "y"]))
    assert made["total"].value == pytest.approx(printed["total"], abs=0.005)
    # What the printed table hides must fit between 0 and 1, if our five metrics on each side are the paper's.
    for names, mean in ((profile.bio, bio), (profile.batch, batch)):
        hidden = 5 * mean - sum(printed[m] for m in names if m in printed)
        assert sum(m not in printed for m in names) == 2
        assert -0.03 <= hidden <= 2


def test_aggregates_are_means_of_the_metrics_that_have_a_value():
    profile, two = task.PROFILES["current"], np.array(["x", "y"])
    known = {m: i / 10 for i, m in enumerate((*profile.bio, *profile.batch))}
    part = task._aggregates(known | {"kbet_per_label": math.nan, "clisi_knn": math.nan}, profile, two)
    assert part["bio_conservation"].value == pytest.approx(np.mean([known[m] for m in list(profile.bio)[:4]]))
    assert part["total"].value == pytest.approx(
        0.6 * part["bio_conservation"].value + 0.4 * part["batch_correction"].value
    )
    none = task._aggregates(known | dict.fromkeys(profile.bio, math.nan), profile, two)
    assert [none[m].reason for m in ("bio_conservation", "batch_correction", "total")] == ["undefined", "", "undefined"]


def test_seeds_have_rows_and_the_aggregates_their_mean():
    X, labels, batches, before = blobs(shift=3.0, n_labels=5)
    rows = task.score({"X": X}, labels, batches, run="r", before=before, seeds=[0, 1, 1, 2])
    of_seeds = [row for row in rows if row.metric == NMI and row.seed is not None]
    assert [row.seed for row in of_seeds] == [0, 1, 2]
    whole = {row.metric: row for row in rows if row.seed is None}
    assert whole[NMI].value == pytest.approx(np.mean([row.value for row in of_seeds]))
    assert whole[NMI].low < whole[NMI].value < whole[NMI].high
    assert math.isnan(whole["total"].low)
    assert whole["bio_conservation"].value == pytest.approx(np.mean([whole[m].value for m in BIO]))


def test_halves_give_every_score_an_interval_and_change_no_value():
    X, labels, batches, before = blobs(200)
    options = {"run": "r", "before": before, "seeds": [0, 1]}
    with_halves, plain = (task.score({"X": X}, labels, batches, halves=n, **options) for n in (3, 0))
    assert [(r.metric, r.seed, r.value) for r in with_halves] == [(r.metric, r.seed, r.value) for r in plain]
    whole = [row for row in with_halves if row.seed is None]
    assert len(whole) == 13
    assert all(0 <= r.low <= r.value + 1e-12 and r.value - 1e-12 <= r.high <= 1 for r in whole)


def test_one_batch_or_one_label_leaves_the_scores_of_the_other():
    X, labels, batches, before = blobs()
    of_labels = reasons(scored(X, labels, ["b"] * len(X), before=before))
    assert of_labels == dict.fromkeys(BATCH - {"graph_connectivity"} | {"batch_correction", "total"}, "undefined")
    of_batches = reasons(scored(X, ["t"] * len(X), batches, before=before))
    assert of_batches == dict.fromkeys(BIO | {"bio_conservation", "total"}, "undefined")


def test_cells_without_a_label_batch_or_vector_are_left_out_of_all_embeddings_and_counted():
    X, labels, batches, before = blobs()
    labels, batches = labels.astype(object), batches.astype(object)
    labels[3], batches[[7, 8]] = None, ("nan", np.nan)
    broken, whole, calls = X.copy(), X.copy(), []
    broken[5], broken[6], broken[9] = np.nan, 0, np.inf
    before[4] = 0  # a point like others
    options = {"run": "r", "before": before, "seeds": [0], "compared": {"pca": (broken, "reference", "50 components")}}
    rows = task.score({"X": X}, labels, batches, **options, progress=lambda *x: calls.append(x))
    kept = np.delete(np.arange(len(X)), [3, 5, 6, 7, 8, 9])
    alone = values(scored(X[kept], labels[kept], batches[kept], before=before[kept]))
    for name in ("X", "pca"):
        assert {r.metric: r.value for r in rows if r.subject == name and r.seed is None} == alone
    assert {(row.n, row.n_missing) for row in rows} == {(144, 6)}
    of_pca = [r for r in rows if r.subject == "pca" and r.metric in BIO]
    assert {(r.kind, r.note.rpartition("; ")[2]) for r in of_pca} == {("reference", "50 components")}
    assert all(r.note.startswith(scib.DEFINITIONS[r.metric]) for r in of_pca if r.metric in scib.DEFINITIONS)
    assert calls == [(1, 2, "X"), (2, 2, "pca")]
    np.testing.assert_array_equal(X, whole)


def test_confounded_batches_are_noted():
    X, labels, _, before = blobs()
    rows = scored(X, labels, labels, before=before)
    assert set(reasons(rows)) == {"bras", "kbet_per_label"}
    assert rows["batch_correction"].note
    assert scored(X, labels, np.where(labels == "t0", "x", "y"), before=before)["batch_correction"].note
    assert not scored(X, labels, ["x", "y"] * 75, before=before)["batch_correction"].note


def test_an_embedding_without_a_valid_cell_fails_alone():
    X, labels, batches, before = blobs()
    rows = task.score({"X": X, "bad": X * np.nan}, labels, batches, run="r", before=before, seeds=[0])
    alone = values(scored(X, labels, batches, before=before))
    assert {r.metric: r.value for r in rows if r.subject == "X"} == alone
    bad = {r.metric: r for r in rows if r.subject == "bad"}
    assert reasons(bad) == dict.fromkeys(alone, "no-vectors")
    assert {(r.n, r.n_missing) for r in bad.values()} == {(0, 150)}


def test_identical_cells_have_no_score_and_duplicates_have():
    X, labels, batches, before = blobs()
    same = scored(np.ones((150, 4)), labels, batches, before=before)
    assert reasons(same) == dict.fromkeys(same, "undefined")
    assert reasons(scored(np.repeat(X[:15], 10, axis=0), labels, batches, before=before)) == {}


def test_metrics_of_more_neighbors_than_cells_have_no_value():
    X, labels, batches, before = (x[:90] for x in blobs())
    assert reasons(scored(X, labels, batches, before=before)) == {}
    X, labels, batches, before = (x[:89] for x in blobs())
    found = reasons(scored(X, labels, batches, before=before))
    assert found == {"clisi_knn": "too-few", "ilisi_knn": "too-few"}
    few = reasons(scored(X[:14], labels[:14], batches[:14], before=before[:14]))
    assert {m for m, reason in few.items() if reason == "too-few"} == {
        *("clisi_knn", "ilisi_knn", "kbet_per_label", "graph_connectivity")
    }


def test_without_an_embedding_before_only_the_pcr_comparison_is_missing():
    X, labels, batches, _ = blobs()
    row = scored(X, labels, batches, before_note="the file has no expression")["pcr_comparison"]
    assert (row.reason, row.note) == ("undefined", "the file has no expression")
    lost = scored(X, labels, batches, before=np.full((150, 2), np.nan))
    assert reasons(lost) == {"pcr_comparison": "undefined"}
    assert lost["total"].n == 150


def test_calls_that_make_no_sense_raise():
    X, labels, batches, _ = blobs()

    def raises(embeddings=None, labels=labels, batches=batches, **options):
        with pytest.raises(BftembedError):
            task.score({"X": X} if embeddings is None else embeddings, labels, batches, run="r", **options)

    raises({})
    raises(seeds=[])
    for halves in (-1, 1, 2):
        raises(halves=halves)
    for matrix in (X[1:], X.astype(str), X[:, 0]):
        raises({"X": matrix})
    raises(batches=batches[1:])
    raises(before=X[:5])
    with pytest.raises(UnknownNameError, match="paper"):
        task.score({"X": X}, labels, batches, run="r", profile="papers")


def test_a_missing_extra_raises_before_anything_is_computed(monkeypatch):
    X, labels, batches, _ = blobs()
    monkeypatch.setitem(sys.modules, "scib_metrics.utils", None)
    monkeypatch.setattr(task, "_scores", lambda *_: pytest.fail("something was computed"))
    with pytest.raises(MissingExtraError):
        task.score({"X": X}, labels, batches, run="r")


def test_cells_that_do_not_fit_into_memory_raise_before_anything_is_done(monkeypatch):
    many = np.broadcast_to(np.float32(1), (1_000_000, 50))
    monkeypatch.setattr(task, "valid_cells", lambda *_: pytest.fail("something was done"))
    monkeypatch.setattr(task, "available_memory", lambda: task._memory_of(999_999, 50))
    with pytest.raises(BftembedError):
        task.score({"X": many}, many[:, 0], many[:, 0], run="r")
    task.check_memory([(999_999, 50)])
    monkeypatch.setattr(task, "available_memory", lambda: None)
    task.check_memory([many.shape])


@pytest.mark.slow
def test_the_estimate_of_memory_holds_what_a_run_takes():
    """In a process of its own, above the libraries, which a run of 1,000 cells loads."""
    code = (
        "import sys; sys.path.insert(0, 'tests'); from integration_toys import blobs\n"
        "from bftembed.tasks.cells import integration as task\n"
        "def kilobytes(field):\n"
        "    return next(int(x.split()[1]) for x in open('/proc/self/status') if x.startswith(field))\n"
        "run = lambda X, labels, batches, before: task.score({'X': X}, labels, batches, run='r', seeds=[0])\n"
        "run(*blobs(1000, d=50))\n"
        "cells = blobs(8000, d=50)\n"
        "before = kilobytes('VmRSS')\n"
        "run(*cells)\n"
        "print((kilobytes('VmHWM') - before) * 1024)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    taken = int(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout)
    expected = task._memory_of(8000, 50)
    assert taken < expected + 100_000_000  # what JAX compiles for the new shape does not depend on the cells
    assert expected < 10 * taken


def made_table(profile="paper", halves=True):
    """Return the tables of a subject with a total of .5, and two baselines."""
    found = []
    for name, kind, level in (("a", "subject", 0.5), ("pca", "reference", 0.6), ("r", "random", 0.2)):
        for metric in (*task.PROFILES[profile].bio, *task.PROFILES[profile].batch, *task.AGGREGATES):
            ends = {"low": level - 0.05, "high": level + 0.05} if halves else {}
            row = {"kind": kind, "n": 9, "value": level, "note": "how"} | ends
            found.append(task.Result("run", name, "integration", profile, metric, **row))
    return task.tables(to_frame(found))


def test_tables_have_the_aggregates_first_and_kinds_in_their_order():
    table, published = made_table()
    assert published.published
    assert [(c.title, c.group) for c in table.columns[:4]] == [
        *((title, "Aggregate") for title in ("Total", "Bio conservation", "Batch correction")),
        ("Isolated labels", "Bio conservation"),
    ]
    assert [(r.name, r.kind, r.note) for r in table.rows] == [
        *(("a", "subject", ""), ("pca", "reference", "how"), ("r, random", "random", "how")),
    ]
    cell = table.rows[0].cells["total"]
    assert (cell.value, cell.low, cell.high) == (0.5, 0.45, 0.55)
    assert len(table.conclusions) == 1
    assert len(made_table("current")) == 1
    assert made_table("current", halves=False)[0].conclusions == ()
