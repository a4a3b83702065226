"""Scores of two modalities: rows of scIB and of matching, the same cells on both sides."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.metrics.matching import matching_scores
from bftembed.tasks import multimodal as task
from bftembed.tasks.cells import integration

pytest.importorskip("scib_metrics")


@pytest.fixture(autouse=True)
def _few_metrics(monkeypatch):
    """Let the profile ``current`` have a few metrics only: all of them are tested with their own task."""
    profile = integration.PROFILES["current"]
    bio = ("silhouette_label",)
    batch = ("ilisi_knn", "pcr_comparison")
    monkeypatch.setitem(integration.PROFILES, "current", profile._replace(bio=bio, batch=batch))


def pair(n=100, d=6, noise=0.5, seed=0):
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    rna = draw.normal(size=(n, d)) + 3 * draw.normal(size=(3, d))[labels]
    protein = rna + noise * draw.normal(size=(n, d))
    return (rna.astype(np.float32), protein.astype(np.float32)), np.array([f"t{x}" for x in labels], dtype=object)


def of(results, name, kind):
    return [r for r in results if r.subject == name and r.task == kind and r.seed is None]


def values(results, name, kind):
    return {r.metric: r.value for r in of(results, name, kind)}


def score(pairs, labels, **options):
    return task.score(pairs, labels, run="r", seeds=[0], **options)


def test_the_rows_are_those_of_the_stacked_cells_and_of_the_metrics():
    both, labels = pair()
    results = score({"a": both}, labels, profile="paper")
    batches = ["rna"] * 100 + ["protein"] * 100
    expected = integration.score(
        {"a": np.vstack(both)}, np.tile(labels, 2), batches, run="r", profile="paper", seeds=[0]
    )
    assert values(results, "a", "integration") == pytest.approx(values(expected, "a", "integration"), nan_ok=True)
    assert values(results, "a", "matching") == matching_scores(*both, labels)
    assert {(r.protocol, r.kind, r.n, r.n_missing) for r in of(results, "a", "matching")} == {
        ("euclidean", "subject", 100, 0)
    }
    assert {r.n for r in of(results, "a", "integration")} == {200}


def test_the_level_of_chance_is_a_row_per_metric():
    both, labels = pair(n=99)
    rows = of(score({"a": both}, labels, note="read this"), "chance", "matching")
    assert {r.metric: r.value for r in rows} == pytest.approx(
        {
            "foscttm": 0.5,
            "matching_accuracy": 1 / 99,
            "matching_accuracy_10": 10 / 99,
            "label_matching_accuracy": 1 / 3,
        }
    )
    assert {(r.kind, r.n, r.note) for r in rows} == {("chance", 99, "read this")}


def test_well_mixed_pairs_score_better_than_those_far_apart():
    (rna, protein), labels = pair()
    found = score({"near": (rna, protein), "far": (rna, protein + 20)}, labels)
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
    results = score({"a": (rna, protein), "b": pair(seed=1)[0]}, labels)
    alone = score({"a": (rna[4:], protein[4:])}, labels[4:])
    for kind, n in (("integration", 2), ("matching", 1)):
        assert {(r.n, r.n_missing) for name in "ab" for r in of(results, name, kind)} == {(96 * n, 4 * n)}
        assert values(results, "a", kind) == pytest.approx(values(alone, "a", kind), nan_ok=True)


def test_an_embedding_without_any_pair_fails_alone():
    both, labels = pair()
    results = score({"a": both, "none": (both[0], np.full_like(both[1], np.nan))}, labels)
    alone = score({"a": both}, labels)
    for kind in ("integration", "matching"):
        assert values(results, "a", kind) == pytest.approx(values(alone, "a", kind), nan_ok=True)
        assert {(r.reason, r.n) for r in of(results, "none", kind)} == {("no-vectors", 0)}
    assert {r.n_missing for r in of(results, "none", "matching")} == {100}


def test_the_pcr_comparison_needs_an_embedding_before():
    (rna, protein), labels = pair()
    for before, note in ((None, "nothing there"), ((rna, protein + 5), "shifted")):
        found = score({"a": (rna, protein)}, labels, before=before, before_note=note)
        (row,) = [r for r in found if r.metric == "pcr_comparison"]
        assert note in row.note
        assert math.isnan(row.value) if before is None else row.value > 0.5


def test_few_cells_are_rows_with_reasons():
    (rna, protein), labels = pair(n=1)
    results = score({"a": (rna, protein)}, labels)
    reasons = {r.metric: r.reason for r in of(results, "a", "matching")}
    assert reasons["foscttm"] == "undefined"
    (rna, protein), labels = pair(n=6)
    found = {r.metric: r for r in of(score({"a": (rna, protein)}, labels), "a", "matching")}
    assert found["matching_accuracy_10"].reason == "undefined"
    assert found["foscttm"].value < 0.5


def test_bad_input_is_an_error():
    (rna, protein), labels = pair()
    for broken in (protein[:, :4], protein[:99]):
        with pytest.raises(BftembedError, match="^a"):
            score({"a": (rna, broken)}, labels)
    with pytest.raises(UnknownNameError):
        score({"a": (rna, protein)}, labels, profile="scibs")
