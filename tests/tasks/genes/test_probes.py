"""Tasks of which the score is known: 1, 0 and one half, for every classifier and protocol."""

from __future__ import annotations

import numpy as np
import pytest
from gene_toys import binary, card, pair_task, scores, signal, symbols, vectors

import bftembed
from bftembed.tasks.genes import _probes, make_task
from bftembed.tasks.genes._probes import _logistic, _summed, _symmetric
from bftembed.tasks.genes.splits import Fold

PROTOCOLS = {"strict/logistic", "genept/logistic", "genept/forest"}


def run(matrix, task, **options):
    options = {"seeds": 1, "baselines": False, "protocols": "strict,genept", **options}
    return bftembed.bench.genes({"mine": vectors(task.genes, matrix)}, task, **options)


def test_vectors_that_hold_the_label_score_one():
    task, labels = binary(60)
    frame = run(np.stack([2.0 * labels - 1, np.ones(60)], axis=1), task)
    assert set(frame["protocol"]) == PROTOCOLS
    for protocol in PROTOCOLS:
        assert scores(frame, "mine", protocol=protocol).tolist() == [1.0] * 5, protocol


def test_constant_vectors_score_one_half():
    task, _ = binary(60)
    frame = run(np.full((60, 3), -3e5, np.float32), task)
    for protocol in PROTOCOLS:
        assert scores(frame, "mine", protocol=protocol) == pytest.approx([0.5] * 5), protocol


def test_pairs_whose_label_is_in_both_genes_together_score_one():
    """Two genes go together when their vectors are equal: the difference tells, the sum does not."""
    genes = symbols(90)
    group = np.arange(90) % 6
    a, b = np.triu_indices(90, 1)
    same = group[a] == group[b]
    pairs = [(genes[i], genes[j]) for i, j in zip(a[same], b[same], strict=True)]
    task = pair_task(card(), pairs, np.ones(len(pairs), int))
    matrix = np.eye(6)[[group[genes.index(g)] for g in task.genes]]
    assert scores(run(matrix, task, protocols="strict"), "mine") == pytest.approx([1.0] * 5)


def test_labels_of_a_multilabel_task_are_scored_one_by_one():
    labels = np.random.default_rng(0).random((90, 3)) < 0.4
    task = make_task(card(), "multilabel", symbols(90), labels, label_names=list("abc"))
    known = run(labels.astype(np.float32), task, protocols="strict")
    assert scores(known, "mine", protocol="strict/ridge") == pytest.approx([1.0] * 5)
    one = run(2.0 * labels[:, :1] - 1, task, protocols="strict", seeds=2)
    assert scores(one, "mine").mean() == pytest.approx((1 + 0.5 + 0.5) / 3, abs=0.08)


def test_neither_labels_nor_scale_of_other_test_items_change_a_score():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 80)
    matrix, items = signal(labels), np.arange(80)[:, None]
    moved = matrix.copy()
    moved[61:] = 1e3 * draw.standard_normal((19, 8))
    fold = Fold(0, 0, items[:60], labels[:60], items[60:], labels[60:])
    turned = Fold(0, 0, items[:60], labels[:60], items[60:], 1 - labels[60:])
    assert (_logistic(fold, matrix) == _logistic(turned, matrix)).all()
    assert _logistic(fold, matrix)[0] == pytest.approx(_logistic(fold, moved)[0], rel=1e-6)


def test_features_of_pairs_are_symmetric_and_those_of_a_loop(monkeypatch):
    draw = np.random.default_rng(0)
    matrix = draw.standard_normal((12, 4)).astype(np.float32)
    items = draw.integers(12, size=(40, 2))
    monkeypatch.setattr(_probes, "_BLOCK_ROWS", 7)
    features, added = _symmetric(matrix, items), _summed(matrix, items)
    assert (features.shape, features.dtype) == ((40, 12), np.float32)
    assert (features == _symmetric(matrix, items[:, ::-1])).all()
    for row, total, (i, j) in zip(features, added, items, strict=True):
        one, other = matrix[i], matrix[j]
        assert (row == np.concatenate([one + other, np.abs(one - other), one * other])).all()
        assert (total == one + other).all()
    assert _summed(matrix.astype(np.float64), items).dtype == np.float64
