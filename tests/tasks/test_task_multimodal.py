"""The task of two modalities: rows of scIB and of matching, the same cells on both sides."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bftembed.errors import BftembedError
from bftembed.metrics.matching import foscttm, label_matching_accuracy, matching_accuracy
from bftembed.tasks import integration
from bftembed.tasks import multimodal as task

pytest.importorskip("scib_metrics")


@pytest.fixture(autouse=True)
def _few_metrics(monkeypatch):
    """Let the profile ``current`` have a few metrics only: all of them are tested with their own task."""
    profile = integration.PROFILES["current"]
    few = replace(profile, bio=("silhouette_label",), batch=("ilisi_knn", "pcr_comparison"))
    monkeypatch.setitem(integration.PROFILES, "current", few)


def pair(n=100, d=6, noise=0.5, seed=0):
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    rna = draw.normal(size=(n, d)) + 3 * draw.normal(size=(3, d))[labels]
    protein = rna + noise * draw.normal(size=(n, d))
    return (rna.astype(np.float32), protein.astype(np.float32)), np.array([f"t{x}" for x in labels], dtype=object)


def values(results, name, kind):
    return {r.metric: r.value for r in results if r.embedding == name and r.task == kind}


def of(results, name, kind):
    return [r for r in results if r.embedding == name and r.task == kind]


def test_the_rows_are_those_of_the_stacked_cells_and_of_the_metrics():
    both, labels = pair()
    results = task.run({"a": both}, labels, run="r", profile="paper", seeds=[0])
    expected = integration.run(
        {"a": np.vstack(both)},
        np.tile(labels, 2),
        ["rna"] * 100 + ["protein"] * 100,
        run="r",
        profile="paper",
        seeds=[0],
    )
    assert values(results, "a", "integration") == pytest.approx({r.metric: r.value for r in expected}, nan_ok=True)
    assert values(results, "a", "matching") == {
        "foscttm": foscttm(*both),
        "matching_accuracy": matching_accuracy(*both),
        "matching_accuracy_10": matching_accuracy(*both, 10),
        "label_matching_accuracy": label_matching_accuracy(*both, labels),
    }
    assert {(r.protocol, r.n_used, r.n_missing, r.seed) for r in of(results, "a", "matching")} == {
        ("euclidean", 100, 0, None)
    }
    assert {r.n_used for r in of(results, "a", "integration")} == {200}


def test_the_level_of_chance_is_in_the_notes():
    both, labels = pair(n=99)
    notes = {r.metric: r.note for r in of(task.run({"a": both}, labels, run="r", seeds=[0]), "a", "matching")}
    assert notes["foscttm"].startswith("chance 0.5; ")
    assert notes["matching_accuracy"].startswith("chance 0.010101; ")
    assert notes["matching_accuracy_10"].startswith("chance 0.10101; ")
    assert notes["label_matching_accuracy"].startswith("chance 0.333333; ")


def test_well_mixed_pairs_score_better_than_those_far_apart():
    (rna, protein), labels = pair()
    found = task.run({"near": (rna, protein), "far": (rna, protein + 20)}, labels, run="r", seeds=[0])
    near, far = values(found, "near", "integration"), values(found, "far", "integration")
    assert near["ilisi_knn"] > far["ilisi_knn"] + 0.3
    near, far = values(found, "near", "matching"), values(found, "far", "matching")
    assert near["foscttm"] < 0.1 < far["foscttm"]
    assert near["matching_accuracy"] > far["matching_accuracy"]


def test_a_cell_that_lacks_one_vector_is_left_out_on_both_sides_and_counted():
    (rna, protein), labels = pair()
    labels[0] = None
    rna[1] = np.nan
    protein[2] = 0
    rna[3], protein[3] = np.nan, np.nan
    results = task.run({"a": (rna, protein), "b": pair(seed=1)[0]}, labels, run="r", seeds=[0])
    told = (
        "4 cells left out: 1 without a label, 1 without a rna vector in a, 1 without a protein vector in a, "
        "1 without a rna and protein vector in a"
    )
    for name in "ab":
        assert {(r.n_used, r.n_missing) for r in of(results, name, "integration")} == {(192, 8)}
        assert {(r.n_used, r.n_missing) for r in of(results, name, "matching")} == {(96, 4)}
        assert all(told in r.note for r in results)
    alone = task.run({"a": (rna[4:], protein[4:])}, labels[4:], run="r", seeds=[0])
    for kind in ("integration", "matching"):
        assert values(results, "a", kind) == pytest.approx(values(alone, "a", kind), nan_ok=True)


def test_an_embedding_without_any_pair_fails_alone():
    both, labels = pair()
    nothing = (both[0], np.full_like(both[1], np.nan))
    results = task.run({"a": both, "none": nothing}, labels, run="r", seeds=[0])
    alone = task.run({"a": both}, labels, run="r", seeds=[0])
    for kind in ("integration", "matching"):
        assert values(results, "a", kind) == pytest.approx(values(alone, "a", kind), nan_ok=True)
        assert all(math.isnan(v) for v in values(results, "none", kind).values())
    assert {r.note for r in of(results, "none", "matching")} == {
        "undefined: no cell has a label, and a vector in both modalities"
    }
    assert {r.n_missing for r in of(results, "none", "matching")} == {100}


def test_the_comparison_before_and_after_says_what_it_compares_with():
    (rna, protein), labels = pair()
    before = (rna, protein + 5)
    without = task.run({"a": (rna, protein)}, labels, run="r", seeds=[0], before_note="nothing there")
    (row,) = [r for r in without if r.metric == "pcr_comparison"]
    assert math.isnan(row.value)
    assert "nothing there" in row.note
    found = task.run({"a": (rna, protein)}, labels, run="r", seeds=[0], before=before, before_note="shifted")
    (row,) = [r for r in found if r.metric == "pcr_comparison"]
    assert row.value > 0.5
    assert "before: shifted" in row.note


def test_notes_of_an_embedding_are_with_its_aggregates_and_matches_alone():
    both, labels = pair()
    results = task.run({"a": both, "b": both}, labels, run="r", seeds=[0], notes={"a": "made by hand"})
    told = {(r.embedding, r.metric) for r in results if "made by hand" in r.note}
    aggregates = ("bio_conservation", "batch_correction", "total")
    assert told == {("a", m) for m in (*aggregates, *task.METRICS)}


def test_few_cells_are_rows_with_reasons():
    (rna, protein), labels = pair(n=1)
    results = task.run({"a": (rna, protein)}, labels, run="r", seeds=[0])
    reasons = {r.metric: r.note for r in of(results, "a", "matching")}
    assert "undefined: 1 cell: a match needs at least 2" in reasons["foscttm"]
    assert all(math.isnan(r.value) for r in results if r.metric != "label_matching_accuracy")
    (rna, protein), labels = pair(n=6)
    found = {r.metric: r for r in of(task.run({"a": (rna, protein)}, labels, run="r", seeds=[0]), "a", "matching")}
    assert "6 cells are fewer than the 10" in found["matching_accuracy_10"].note
    assert found["foscttm"].value < 0.5


def test_bad_input_is_named():
    (rna, protein), labels = pair()
    with pytest.raises(BftembedError, match="'a' has 6 dimensions of rna and 4 of protein"):
        task.run({"a": (rna, protein[:, :4])}, labels, run="r")
    with pytest.raises(BftembedError, match="'a .protein.' has 99 cells, but there are 100 labels"):
        task.run({"a": (rna, protein[:99])}, labels, run="r")
    with pytest.raises(BftembedError, match="No cell can be scored. 100 cells left out: 100 without a label"):
        task.run({"a": (rna, protein)}, [None] * 100, run="r")
    with pytest.raises(BftembedError, match="Unknown profile 'scibs'"):
        task.run({"a": (rna, protein)}, labels, run="r", profile="scibs")


def test_the_order_of_the_cells_and_the_names_of_the_labels_do_not_matter():
    (rna, protein), labels = pair()
    order = np.random.default_rng(5).permutation(100)
    one = values(task.run({"a": (rna, protein)}, labels, run="r", seeds=[0]), "a", "matching")
    renamed = np.array([f"x{x}" for x in labels[order]])
    two = values(task.run({"a": (rna[order], protein[order])}, renamed, run="r", seeds=[0]), "a", "matching")
    assert one == pytest.approx(two, abs=1e-12)
