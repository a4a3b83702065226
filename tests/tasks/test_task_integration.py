"""The integration task: its metrics, their aggregates, and an outcome with a name for every bad input."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from integration_toys import blobs
from tests_paths import REPOSITORY

from bftembed.errors import BftembedError, MissingExtraError
from bftembed.metrics import integration as scib
from bftembed.metrics.bras import bras
from bftembed.metrics.checks import Undefined
from bftembed.metrics.leiden import connectivities
from bftembed.metrics.memory import integration_memory
from bftembed.metrics.neighbours import nearest_neighbours
from bftembed.metrics.silhouette import isolated_labels, silhouette_batch, silhouette_label
from bftembed.reports.published import INTEGRATION_METRICS, TABLE_2
from bftembed.tasks import integration as task
from bftembed.tasks import scib_original as original

pytest.importorskip("scib_metrics")
NMI, ARI = "nmi_ari_cluster_labels_kmeans_nmi", "nmi_ari_cluster_labels_kmeans_ari"


def scored(X, labels, batches, **options):
    """Return {metric: Result} of one embedding with one seed."""
    rows = task.run({"X": X}, labels, batches, run="r", seeds=[0], **options)
    found = {row.metric: row for row in rows}
    assert len(found) == len(rows)
    return found


def values(rows):
    return {name: row.value for name, row in rows.items()}


@pytest.mark.parametrize("profile", ["current", "paper"])
def test_every_metric_is_the_function_called_directly(profile):
    X, labels, batches, before = blobs()
    near = nearest_neighbours(X, 90)
    nmi, ari = scib.kmeans_nmi_ari(X, labels, 0)
    expected = {
        "isolated_labels": isolated_labels(X, labels, batches),
        NMI: nmi,
        ARI: ari,
        "silhouette_label": silhouette_label(X, labels),
        "clisi_knn": scib.clisi(near, labels),
        "ilisi_knn": scib.ilisi(near, batches),
        "kbet_per_label": scib.kbet(near.subset(50), labels, batches),
        "graph_connectivity": scib.graph_connectivity(near.subset(15), labels),
        "pcr_comparison": scib.pcr_comparison(before, X, batches),
        **({"bras": bras(X, labels, batches)} if profile == "current" else {}),
        **({"silhouette_batch": silhouette_batch(X, labels, batches)} if profile == "paper" else {}),
    }
    rows = scored(X, labels, batches, before=before, profile=profile)
    assert set(rows) == {*expected, "bio_conservation", "batch_correction", "total"}
    for name, value in expected.items():
        assert rows[name].value == pytest.approx(value, abs=1e-12), name
        assert rows[name].protocol == profile
        library = "bftembed 0"
        assert rows[name].note.startswith(library), name
        assert ("starts of scib-metrics 0.5" in rows[name].note) == (name in (NMI, ARI))
    assert "90 exact neighbours" in rows["ilisi_knn"].note
    bio = np.mean([expected[m] for m in task.PROFILES[profile].bio])
    batch = np.mean([expected[m] for m in task.PROFILES[profile].batch])
    assert rows["bio_conservation"].value == pytest.approx(bio)
    assert rows["batch_correction"].value == pytest.approx(batch)
    assert rows["total"].value == pytest.approx(0.6 * bio + 0.4 * batch)
    assert rows["total"].note == "0.6 bio_conservation + 0.4 batch_correction"


def original_cells():
    """Cells of three types in both batches, and of one in the first only."""
    X, labels, batches, before = blobs(200, n_labels=4)
    batches[labels == "t2"] = "b0"
    return X, labels, batches, before


def test_the_profile_scib_is_the_original_package():
    pytest.importorskip("scib")
    X, labels, batches, before = original_cells()
    graph = connectivities(nearest_neighbours(X, 15))
    clusterings = original.leiden_clusterings(graph)
    nmi, ari = original.nmi_ari_leiden_best(clusterings, labels)
    expected = {
        "isolated_labels_f1": original.isolated_labels_f1(clusterings, labels, batches),
        "isolated_labels_asw": original.isolated_labels_asw(X, labels, batches),
        "nmi_leiden_best": nmi,
        "ari_leiden_best": ari,
        "silhouette_label": original.silhouette_label(X, labels),
        "silhouette_batch": original.silhouette_batch(X, labels, batches),
        "graph_connectivity": original.graph_connectivity(graph, labels),
        "pcr_comparison": original.pcr_comparison(before, X, batches),
    }
    for name, score, groups in (("clisi_graph", original.clisi, labels), ("ilisi_graph", original.ilisi, batches)):
        with contextlib.suppress(Undefined):  # its program needs a newer C library than some machines have
            expected[name] = score(graph, groups)
    profile = task.PROFILES["scib"]
    rows = scored(X, labels, batches, before=before, before_note="PCA", profile="scib")
    assert set(rows) == {*profile.bio, *profile.batch, "bio_conservation", "batch_correction", "total"}
    assert set(rows) >= set(expected)
    for name in (*profile.bio, *profile.batch):
        assert rows[name].protocol == "scib"
        if name not in expected:
            assert math.isnan(rows[name].value), name
            assert rows[name].note.startswith("undefined: "), name
            continue
        assert rows[name].value == pytest.approx(expected[name], abs=1e-12), name
        assert rows[name].note.startswith("scib 1.1."), name
    assert rows["nmi_leiden_best"].note.endswith(", 15 exact neighbours, Leiden's seed 0")
    assert rows["graph_connectivity"].note.endswith(", 15 exact neighbours")
    assert rows["pcr_comparison"].note.endswith(", before: PCA")
    assert rows["kbet"].note == f"undefined: {original.NO_KBET}"
    bio, batch = ([expected[m] for m in names if m in expected] for names in (profile.bio, profile.batch))
    assert rows["bio_conservation"].value == pytest.approx(np.mean(bio))
    assert rows["batch_correction"].value == pytest.approx(np.mean(batch))
    assert rows["total"].value == pytest.approx(0.6 * np.mean(bio) + 0.4 * np.mean(batch))
    assert "without" in rows["batch_correction"].note
    assert rows["batch_correction"].note.endswith("kbet") or "kbet, " in rows["batch_correction"].note
    again = scored(X, labels, batches, before=before, before_note="PCA", profile="scib")
    assert [repr(row) for row in again.values()] == [repr(row) for row in rows.values()]


def test_the_profile_scib_names_what_has_no_value_for_its_cells():
    pytest.importorskip("scib")
    X, labels, batches, before = blobs()
    every = {"isolated_labels_f1", "isolated_labels_asw", "kbet"}
    may = {"clisi_graph", "ilisi_graph"}
    rows = scored(X, labels, batches, before=before, profile="scib")
    assert every <= undefined(rows) <= every | may
    assert "Every label is in every batch" in rows["isolated_labels_f1"].note
    one = scored(X, labels, ["b"] * len(X), before=before, profile="scib")
    of_batches = {"silhouette_batch", "ilisi_graph", "pcr_comparison"}
    assert all("All cells have one batch" in one[m].note for m in of_batches)
    assert undefined(one) - may == every | (of_batches - may) | {"batch_correction", "total"}
    alike = scored(X, ["t"] * len(X), batches, before=before, profile="scib")
    own = {"isolated_labels_f1", "isolated_labels_asw", "nmi_leiden_best", "ari_leiden_best", "silhouette_label"}
    assert all("one label" in alike[m].note for m in (*own, "clisi_graph"))
    few = scored(X[:14], labels[:14], batches[:14], before=before[:14], profile="scib")
    assert "14 cells are too few for 15 neighbours" in few["nmi_leiden_best"].note
    same = scored(np.ones((150, 4)), labels, batches, before=before, profile="scib")
    assert undefined(same) == set(same)


def test_the_profile_scib_needs_scib_and_no_more(monkeypatch):
    X, labels, batches, _ = original_cells()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "scib", None)
        patched.setattr(task, "_scored", lambda *_: pytest.fail("something was computed"))
        with pytest.raises(MissingExtraError, match=r'pip install "bftembed\[scib-original\]"'):
            task.run({"X": X}, labels, batches, run="r", profile="scib")
    pytest.importorskip("scib")
    monkeypatch.setitem(sys.modules, "scib_metrics.utils", None)
    assert scored(X, labels, batches, profile="scib")["total"].value > 0


@pytest.mark.slow
def test_the_values_are_those_of_the_benchmarker_on_real_cells(shared_data, monkeypatch):
    """With our neighbours, and in kBET our graph and start of the eigenvectors.

    Its own start is random, and its leading eigenvalue, .99999997 here, is rounded now to 1, now to .99999994. That
    gives the first component a weight of 1 or of 17 million, and this embedding a kBET of .52 or .48.
    """
    import anndata
    import scib_metrics
    import scipy.sparse.linalg
    from scib_metrics.benchmark import Benchmarker
    from scib_metrics.nearest_neighbors import NeighborsResults
    from threadpoolctl import threadpool_limits

    from bftembed.metrics.leiden import connectivities
    from bftembed.metrics.neighbours import Neighbours
    from bftembed.tasks.baselines import harmony, pca

    cells = anndata.read_h5ad(shared_data("cells/symphony_pbmc_3batch.h5ad"))[::3].copy()
    cells.obsm["X_pre"] = pca(cells.X)
    cells.obsm["X_harmony"] = harmony(cells.obsm["X_pre"], cells.obs["batch"].to_numpy().astype(str))

    def ours(X, k):
        near = nearest_neighbours(X, k)
        return NeighborsResults(indices=near.indices, distances=near.distances)

    eigsh = scipy.sparse.linalg.eigsh

    def with_our_start(matrix, **options):
        options["v0"] = np.random.default_rng(0).uniform(-1, 1, matrix.shape[0])
        with threadpool_limits(limits=1):
            return eigsh(matrix, **options)

    def graph(near):
        return connectivities(Neighbours(np.asarray(near.indices), np.asarray(near.distances)))

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
    rows = task.run(embeddings, labels, batches, run="r", before=cells.obsm["X_pre"], seeds=[0])
    aggregates = {"bio_conservation": "Bio conservation", "batch_correction": "Batch correction", "total": "Total"}
    assert len(rows) == 2 * 13
    for row in rows:
        expected = float(table.loc[row.embedding, aggregates.get(row.metric, row.metric)])
        close = 1e-5 if row.metric in ("clisi_knn", "ilisi_knn", "kbet_per_label", *aggregates) else 1e-6
        assert row.value == pytest.approx(expected, abs=close), (row.embedding, row.metric)
    for name, X in embeddings.items():
        found = scored(X, labels, batches, profile="paper")["silhouette_batch"].value
        expected = scib_metrics.silhouette_batch(X, labels, batches)
        assert found == pytest.approx(expected, abs=1e-6), name


def aggregated(of_metric, profile="paper", **options):
    def row(**columns):
        return columns["metric"], columns["value"], columns["note"]

    options = {"one_batch": False, **options}
    rows = task._aggregates(row, of_metric, task.PROFILES[profile], "", **options)
    return {name: (value, note) for name, value, note in rows}


@pytest.mark.parametrize("method", TABLE_2)
def test_the_totals_of_table_2_are_the_paper_s_arithmetic(method):
    printed = dict(zip(INTEGRATION_METRICS, TABLE_2[method], strict=True))
    bio, batch = printed["bio_conservation"], printed["batch_correction"]
    profile = task.PROFILES["paper"]
    made = aggregated(dict.fromkeys(profile.bio, bio) | dict.fromkeys(profile.batch, batch))
    assert made["total"][0] == pytest.approx(printed["total"], abs=0.005)
    # What the printed table hides must fit between 0 and 1, if our five metrics on each side are the paper's.
    for names, mean in ((profile.bio, bio), (profile.batch, batch)):
        hidden = 5 * mean - sum(printed[m] for m in names if m in printed)
        assert sum(m not in printed for m in names) == 2
        assert -0.03 <= hidden <= 2


def test_aggregates_name_what_they_hold_and_what_they_lack():
    profile = task.PROFILES["current"]
    known = {m: i / 10 for i, m in enumerate((*profile.bio, *profile.batch))}
    whole = aggregated(known, "current")
    assert whole["bio_conservation"][1] == f"mean of {', '.join(profile.bio)}"
    part = aggregated(known | {"kbet_per_label": math.nan, "clisi_knn": math.nan}, "current")
    assert part["bio_conservation"] == (
        pytest.approx(np.mean([known[m] for m in profile.bio[:4]])),
        f"mean of {', '.join(profile.bio[:4])}; without clisi_knn",
    )
    assert part["batch_correction"][1].endswith("; without kbet_per_label")
    assert part["total"][1] == "0.6 bio_conservation + 0.4 batch_correction; without clisi_knn, kbet_per_label"
    none = aggregated(known | dict.fromkeys(profile.bio, math.nan), "current")
    assert none["bio_conservation"][1] == "none of its metrics has a value"
    assert math.isnan(none["total"][0])
    assert none["total"][1].endswith(": bio_conservation without a value")


def test_names_of_labels_and_batches_do_not_matter():
    X, labels, batches, before = blobs(330)  # kBET: labels of over 100 cells, see its docstring
    rename = {"t0": "z", "t1": "a", "t2": "m", "b0": "2", "b1": "1"}
    other = [np.vectorize(rename.get)(x) for x in (labels, batches)]
    one, two = (values(scored(X, *names, before=before)) for names in ((labels, batches), other))
    assert one == pytest.approx(two, abs=1e-9)


def test_results_are_the_same_in_another_process():
    code = (
        "import sys; sys.path.insert(0, 'tests'); from integration_toys import blobs\n"
        "from bftembed.tasks import integration as task\n"
        "X, labels, batches, before = blobs()\n"
        "for row in task.run({'X': X}, labels, batches, run='r', before=before, seeds=[0, 1]):\n"
        "    print(row.metric, row.seed, row.value.hex())\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    X, labels, batches, before = blobs()
    here = task.run({"X": X}, labels, batches, run="r", before=before, seeds=[0, 1])
    assert told.splitlines() == [f"{row.metric} {row.seed} {row.value.hex()}" for row in here]


def test_seeds_have_rows_and_the_aggregates_their_mean():
    X, labels, batches, before = blobs(shift=3.0, n_labels=5)
    rows = task.run({"X": X}, labels, batches, run="r", before=before, seeds=[0, 1, 1, 2])
    nmi = [row for row in rows if row.metric == NMI]
    assert [row.seed for row in nmi] == [0, 1, 2]
    means = [np.mean([r.value for r in rows if r.metric == m]) for m in task.PROFILES["current"].bio]
    assert next(r.value for r in rows if r.metric == "bio_conservation") == pytest.approx(np.mean(means))


def undefined(rows):
    return {name for name, row in rows.items() if math.isnan(row.value)}


OF_BATCHES = {"bras", "ilisi_knn", "kbet_per_label", "pcr_comparison"}


def test_one_batch_leaves_the_scores_of_labels():
    X, labels, _, before = blobs()
    rows = scored(X, labels, ["b"] * len(X), before=before)
    assert undefined(rows) == OF_BATCHES | {"batch_correction", "total"}
    assert all("All cells have one batch" in rows[m].note for m in OF_BATCHES)
    assert rows["batch_correction"].note == "undefined: all cells have one batch, there is nothing to correct"
    assert rows["total"].note.endswith("batch_correction without a value")


def test_one_label_leaves_the_scores_of_batches():
    X, _, batches, before = blobs()
    rows = scored(X, ["t"] * len(X), batches, before=before)
    own = {"isolated_labels", "silhouette_label", "clisi_knn", NMI, ARI}
    assert undefined(rows) == own | {"bio_conservation", "total"}
    assert all("one label" in rows[m].note for m in own)


@pytest.mark.parametrize("missing", [None, np.nan, "", "nan"])
def test_cells_without_a_label_or_batch_are_left_out_and_counted(missing):
    X, labels, batches, before = blobs()
    labels, batches = labels.astype(object), batches.astype(object)
    labels[3], batches[[7, 8]] = missing, missing
    rows = scored(X, labels, batches, before=before)
    kept = np.delete(np.arange(len(X)), [3, 7, 8])
    assert values(rows) == values(scored(X[kept], labels[kept], batches[kept], before=before[kept]))
    for row in rows.values():
        assert (row.n_used, row.n_missing) == (147, 3)
        assert row.note.endswith("3 cells left out: 1 without a label, 2 without a batch")


def test_a_label_of_two_cells_counts_where_it_can():
    X, labels, batches, before = blobs()
    labels, batches = labels.copy(), batches.copy()
    labels[:2], batches[0], batches[1] = "rare", "b0", "b1"
    rows = scored(X, labels, batches, before=before)
    assert undefined(rows) == set()
    others = labels != "rare"  # as many batches as cells: neither BRAS nor kBET count it
    assert rows["bras"].value == pytest.approx(bras(X[others], labels[others], batches[others]))


def test_batches_that_are_labels_are_told():
    X, labels, _, before = blobs()
    rows = scored(X, labels, labels, before=before)
    assert undefined(rows) == {"bras", "kbet_per_label"}
    told = "every batch is one label: mixing batches would mix labels, no batch score can be read"
    assert all(row.note.endswith(told) for row in rows.values())
    nested = scored(X, labels, np.where(labels == "t0", "x", "y"), before=before)
    assert "every label is in one batch only: mixing" in nested["ilisi_knn"].note
    assert "mixing" not in scored(X, labels, ["x", "y"] * 75, before=before)["total"].note


def test_cells_that_are_nan_or_zero_are_left_out_of_all_embeddings():
    X, labels, batches, before = blobs()
    broken = X.copy()
    broken[5], broken[6], broken[9] = np.nan, 0, np.inf
    rows = task.run({"X": X, "broken": broken}, labels, batches, run="r", before=before, seeds=[0])
    told = "3 cells left out: 2 NaN or infinite in broken, 1 all-zero in broken"
    assert all((row.n_used, row.n_missing) == (147, 3) and row.note.endswith(told) for row in rows)
    of_each = [[r.value for r in rows if r.embedding == name] for name in ("X", "broken")]
    assert of_each[0] == of_each[1]


def test_a_zero_cell_of_the_embedding_from_before_is_a_cell_like_others():
    X, labels, batches, before = blobs()
    before[4] = 0
    assert scored(X, labels, batches, before=before)["total"].n_missing == 0


@pytest.mark.parametrize(("broken", "reason"), [(np.nan, "no cell has a label"), (0, "no cell has a label")])
def test_an_embedding_without_a_usable_cell_fails_alone(broken, reason):
    X, labels, batches, before = blobs()
    rows = task.run({"X": X, "bad": X * 0 + broken}, labels, batches, run="r", before=before, seeds=[0])
    alone = values(scored(X, labels, batches, before=before))
    assert {r.metric: r.value for r in rows if r.embedding == "X"} == alone
    bad = [r for r in rows if r.embedding == "bad"]
    assert len(bad) == len(alone)
    assert all(math.isnan(r.value) and (r.n_used, r.n_missing) == (0, 150) for r in bad)
    assert all(reason in r.note for r in bad if r.metric in task.PROFILES["current"].batch)


def test_identical_cells_have_no_score_and_duplicates_have():
    X, labels, batches, before = blobs()
    same = scored(np.ones((150, 4)), labels, batches, before=before)
    assert undefined(same) == set(same)
    assert same["bras"].note == "undefined: all cells are identical in this embedding"
    twice = scored(np.repeat(X[:15], 10, axis=0), labels, batches, before=before)
    assert undefined(twice) == set()


def test_fewer_cells_than_neighbours_leave_what_needs_fewer():
    X, labels, batches, before = (x[:89] for x in blobs())
    rows = scored(X, labels, batches, before=before)
    assert undefined(rows) == {"clisi_knn", "ilisi_knn"}
    assert rows["ilisi_knn"].note == "undefined: 89 cells are too few for 90 neighbours of each, itself included"
    assert "without clisi_knn" in rows["bio_conservation"].note
    few = scored(X[:14], labels[:14], batches[:14], before=before[:14])
    assert {"clisi_knn", "ilisi_knn", "kbet_per_label", "graph_connectivity"} <= undefined(few)
    assert "14 cells are too few for 15 neighbours" in few["graph_connectivity"].note
    X, labels, batches, before = (x[:90] for x in blobs())
    assert undefined(scored(X, labels, batches, before=before)) == set()


def test_without_an_embedding_from_before_only_the_pcr_comparison_is_missing():
    X, labels, batches, _ = blobs()
    rows = scored(X, labels, batches)
    assert undefined(rows) == {"pcr_comparison"}
    assert "no embedding from before the integration was given" in rows["pcr_comparison"].note
    told = scored(X, labels, batches, before_note="the file has no expression")["pcr_comparison"].note
    assert told == "undefined: the file has no expression"
    lost = scored(X, labels, batches, before=np.full((150, 2), np.nan))
    assert undefined(lost) == {"pcr_comparison"}
    assert "has no cell without NaN" in lost["pcr_comparison"].note


def test_what_is_no_input_is_refused():
    X, labels, batches, _ = blobs()

    def refused(match, embeddings=None, labels=labels, batches=batches, **options):
        with pytest.raises(BftembedError, match=match):
            task.run({"X": X} if embeddings is None else embeddings, labels, batches, run="r", **options)

    refused("at least one embedding and one seed", {})
    refused("at least one embedding and one seed", seeds=[])
    refused("Unknown profile 'papers'. Did you mean 'paper'.*current", profile="papers")
    refused("'X' has 149 cells, but there are 150", {"X": X[1:]})
    refused("'X' must be a numeric array", {"X": X.astype(str)})
    refused("'X' must be a numeric array", {"X": X[:, 0]})
    refused("149 values of 'batch' for 150 cells", batches=batches[1:])
    refused("from before the integration' has 5 cells, but there are 150", before=X[:5])
    refused("No cell can be scored.*150 without a label", labels=[None] * 150)
    halves = np.where(np.arange(150)[:, None] < 75, X, np.nan), np.where(np.arange(150)[:, None] < 75, np.nan, X)
    refused("No cell can be scored. 150 cells left out: 75 NaN", dict(zip("ab", halves, strict=True)))


def test_three_million_cells_are_told_their_memory_before_anything_is_done(monkeypatch):
    many = np.broadcast_to(np.float32(1), (3_000_000, 50))
    monkeypatch.setattr(task, "available_memory", lambda: 8 * 10**9)
    monkeypatch.setattr(task, "usable_cells", lambda *_: pytest.fail("something was done"))
    with pytest.raises(BftembedError) as caught:
        task.run({"X": many}, many[:, 0], many[:, 0], run="r")
    told = str(caught.value)
    assert "3,000,000 cells in 50 dimensions need about" in told
    for part in ("labels 0.8 GB", "neighbours 2.2 GB", "LISI weights 1.1 GB", "temporary", "and 8.0 GB are free"):
        assert part in told
    fits = int(told.split("at most ")[1].split(" ")[0].replace(",", ""))
    task.check_memory({"X": (fits, 50)})
    monkeypatch.setattr(task, "available_memory", lambda: None)
    task.check_memory({"X": many.shape})


def test_the_original_scib_is_told_its_copies(monkeypatch):
    monkeypatch.setattr(task, "available_memory", lambda: 8 * 10**9)
    many = np.broadcast_to(np.float32(1), (1_000_000, 50))
    with pytest.raises(BftembedError, match="copies of the original scib 8.0 GB"):
        task.run({"X": many}, many[:, 0], many[:, 0], run="r", profile="scib")


def test_the_estimate_of_memory_holds_what_a_run_takes():
    """In a process of its own, above the libraries, which a run of 1,000 cells loads."""
    code = (
        "import sys; sys.path.insert(0, 'tests'); from integration_toys import blobs\n"
        "from bftembed.tasks import integration as task\n"
        "def kilobytes(field):\n"
        "    return next(int(x.split()[1]) for x in open('/proc/self/status') if x.startswith(field))\n"
        "run = lambda X, labels, batches, before: task.run({'X': X}, labels, batches, run='r', seeds=[0])\n"
        "run(*blobs(1000, d=50))\n"
        "cells = blobs(8000, d=50)\n"
        "before = kilobytes('VmRSS')\n"
        "run(*cells)\n"
        "print((kilobytes('VmHWM') - before) * 1024)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    taken = int(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout)
    told = sum(integration_memory(8000, 50, 3).values())
    # What JAX compiles for the new shape is no matter of the cells.
    assert taken < told + 100_000_000
    assert told < 10 * taken


def test_a_missing_extra_is_told_before_anything_is_computed(monkeypatch):
    X, labels, batches, _ = blobs()
    monkeypatch.setitem(sys.modules, "scib_metrics.utils", None)
    monkeypatch.setattr(task, "_scored", lambda *_: pytest.fail("something was computed"))
    with pytest.raises(MissingExtraError, match=r"bftembed\[scib\]"):
        task.run({"X": X}, labels, batches, run="r")


def test_progress_is_told_once_per_embedding_and_nothing_is_changed():
    X, labels, batches, before = blobs()
    kept, told = X.copy(), []
    task.run({"a": X, "b": X}, labels, batches, run="r", before=before, seeds=[0], progress=lambda *x: told.append(x))
    assert told == [(1, 2, "a"), (2, 2, "b")]
    np.testing.assert_array_equal(X, kept)
