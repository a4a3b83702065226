"""Tasks of which the score is known: 1, 0 and one half, for every probe and protocol."""

from __future__ import annotations

import numpy as np
import pytest
from gene_toys import binary, card, pair_task, scores, signal, symbols, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

import bftembed
from bftembed.tasks.genes import make_task, probes
from bftembed.tasks.genes.probes import PROBES, summed, symmetric
from bftembed.tasks.genes.splits import Fold

PROTOCOLS = {"strict/logistic", "strict/mlp", "genept/logistic", "genept/forest"}


def run(matrix, task, **options):
    options = {"seeds": 1, "baselines": False, "protocols": "strict,genept", "probes": "logistic,mlp", **options}
    return bftembed.bench.genes({"mine": vectors(task.genes, matrix)}, task, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vectors_that_hold_the_label_score_one(dtype):
    task, labels = binary(80)
    matrix = np.stack([2.0 * labels - 1, np.ones(80)], axis=1).astype(dtype)
    frame = run(matrix, task)
    assert set(frame["protocol"]) == PROTOCOLS
    for protocol in PROTOCOLS:
        assert scores(frame, "mine", protocol=protocol).tolist() == [1.0] * 5, protocol


def test_a_label_that_is_turned_around_between_train_and_test_scores_zero():
    split = np.array(["train"] * 50 + ["test"] * 30)
    task, labels = binary(80, split=split.tolist())
    turned = np.where(split == "train", labels, 1 - labels)
    frame = run(np.stack([turned, np.ones(80)], axis=1), task, protocols="strict")
    for probe in ("logistic", "mlp"):
        assert scores(frame, "mine", protocol=f"strict/{probe}").tolist() == [0.0]


@pytest.mark.parametrize("value", [1.0, -3e5, 1e-7])
def test_constant_vectors_score_one_half(value):
    task, _ = binary(80)
    frame = run(np.full((80, 3), value, np.float32), task)
    for protocol in PROTOCOLS:
        assert scores(frame, "mine", protocol=protocol) == pytest.approx([0.5] * 5), protocol


def test_pairs_whose_label_is_in_both_genes_together_score_one():
    """Two genes go together when their vectors are equal: the difference tells, the sum does not."""
    draw = np.random.default_rng(0)
    genes = symbols(120)
    group = np.arange(120) % 6
    a, b = np.triu_indices(120, 1)
    same = group[a] == group[b]
    pairs = [(genes[i], genes[j]) for i, j in zip(a[same], b[same], strict=True)]
    task = pair_task(card(), pairs, np.ones(len(pairs), int))
    matrix = np.eye(6)[[group[genes.index(g)] for g in task.genes]]
    assert scores(run(matrix, task, protocols="strict", probes="logistic"), "mine") == pytest.approx([1.0] * 5)
    noise = run(draw.standard_normal((len(task.genes), 6)), task, protocols="strict", probes="logistic", seeds=2)
    assert abs(scores(noise, "mine").mean() - 0.5) < 0.1


def test_labels_of_a_multilabel_task_are_scored_one_by_one():
    draw = np.random.default_rng(0)
    labels = draw.random((90, 3)) < 0.4
    task = make_task(card(), "multilabel", symbols(90), labels, label_names=list("abc"))
    known = run(labels.astype(np.float32), task, protocols="strict")
    assert scores(known, "mine", protocol="strict/ridge") == pytest.approx([1.0] * 5)
    one = run(2.0 * labels[:, :1] - 1, task, protocols="strict", seeds=4)
    assert scores(one, "mine").mean() == pytest.approx((1 + 0.5 + 0.5) / 3, abs=0.06)


def fold_of(matrix, labels, n_train, seed=0):
    items = np.arange(len(labels))[:, None]
    return Fold(seed, 0, items[:n_train], labels[:n_train], items[n_train:], labels[n_train:])


@pytest.mark.parametrize("probe", ["logistic", "mlp"])
def test_a_probe_does_not_look_at_the_labels_of_the_test_part(probe):
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 80)
    matrix = signal(labels)
    one, other = fold_of(matrix, labels, 60), fold_of(matrix, labels, 60)
    other = Fold(0, 0, one.train_items, one.train_labels, one.test_items, 1 - one.test_labels)
    assert (PROBES[probe](one, matrix) == PROBES[probe](other, matrix)).all()


@pytest.mark.parametrize("probe", ["logistic", "mlp"])
def test_scaling_is_that_of_the_training_part(probe):
    """Other test items do not change the score of one."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 80)
    matrix = signal(labels)
    moved = matrix.copy()
    moved[61:] = 1e3 * draw.standard_normal((19, 8))
    first, second = (PROBES[probe](fold_of(m, labels, 60), m)[0] for m in (matrix, moved))
    assert first == pytest.approx(second, rel=1e-6)


@pytest.mark.parametrize("probe", ["logistic", "mlp"])
def test_the_smallest_task_is_scored(probe):
    task, labels = binary(10, 5)
    frame = run(np.stack([2.0 * labels - 1] * 3, axis=1), task, protocols="strict", probes=probe)
    assert frame["value"].notna().all()
    assert len(scores(frame, "mine")) == 5
    split = ["train"] * 10 + ["test"] * 10
    genes, few = symbols(20), np.array([1, *[0] * 9, *[1] * 5, *[0] * 5])
    one_positive = make_task(card(), "binary", genes, few, split=split)
    frame = run(np.stack([2.0 * few - 1] * 3, axis=1), one_positive, protocols="strict", probes=probe)
    assert frame["value"].notna().all()


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 1000))
def test_features_of_pairs_are_symmetric_and_those_of_a_loop(n, d, seed):
    draw = np.random.default_rng(seed)
    matrix = draw.standard_normal((12, d)).astype(np.float32)
    items = draw.integers(12, size=(n, 2))
    features = symmetric(matrix, items)
    assert features.shape == (n, 3 * d)
    assert features.dtype == np.float32
    assert (features == symmetric(matrix, items[:, ::-1])).all()
    assert (summed(matrix, items) == summed(matrix, items[:, ::-1])).all()
    for row, added, (i, j) in zip(features, summed(matrix, items), items, strict=True):
        one, other = matrix[i], matrix[j]
        assert (row == np.concatenate([one + other, np.abs(one - other), one * other])).all()
        assert (added == one + other).all()


def test_sums_in_blocks_are_those_of_one(monkeypatch):
    matrix, items = signal(np.zeros(30)), np.random.default_rng(0).integers(30, size=(100, 2))
    whole, before = summed(matrix, items), matrix.copy()
    monkeypatch.setattr(probes, "_BLOCK_ROWS", 7)
    assert (summed(matrix, items) == whole).all()
    assert (matrix == before).all()
    assert summed(matrix.astype(np.float64), items).dtype == np.float64
