"""Values of folds, the bootstrap over genes, and the rows that come of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from gene_toys import binary, mean, random_pairs, scores, signal, vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import bftembed
from bftembed.tasks.genes._scoring import _fold_value, _replicates, evaluate
from bftembed.tasks.genes.splits import Fold, Plan

EMPTY = np.empty((0, 1), np.int64)


def fold_on(items, labels, seed=0, fold=0):
    items = np.asarray(items, np.int64)
    return Fold(seed, fold, EMPTY, np.empty(0, int), items.reshape(len(labels), -1), np.asarray(labels))


def plan_of(*folds):
    return Plan(tuple(folds), ("negative", "positive"), sum(len(f.test_labels) for f in folds), ())


def test_the_value_of_a_fold():
    fold = fold_on(range(4), [0, 0, 1, 1])
    assert _fold_value(fold, np.array([0.1, 0.3, 0.2, 0.4])) == 0.75
    assert _fold_value(fold, np.array([0, 1, 1, 1])) == 0.75  # classes: accuracy
    assert math.isnan(_fold_value(fold_on(range(2), [1, 1]), np.array([0.1, 0.2])))
    labels = np.array([[0, 1, 0], [1, 1, 0], [1, 1, 1]], dtype=bool)
    values = np.array([[0.1, 0.0, 0.5], [0.2, 0.0, 0.6], [0.0, 0.0, 0.1]])
    assert _fold_value(fold_on(range(3), labels), values) == pytest.approx(0.25)  # the second label has one class only


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 2))
def test_replicates_are_those_of_a_loop(seed, n_folds, width):
    """A pair counts as often as both of its genes together."""
    draw = np.random.default_rng(seed)
    n_genes, n = 12, 20
    folds = [fold_on(draw.integers(n_genes, size=(8, width)), draw.integers(0, 2, 8), fold=i) for i in range(n_folds)]
    values = [draw.integers(0, 4, 8).astype(float) for _ in folds]
    found = _replicates(plan_of(*folds), values, n_genes, n, seed)
    chance = np.random.default_rng(seed)
    for value in found:
        drawn = np.bincount(chance.integers(n_genes, size=n_genes), minlength=n_genes)
        expected = []
        for fold, s in zip(folds, values, strict=True):
            w = drawn[fold.test_items].prod(axis=1)
            if w[fold.test_labels == 1].sum() and w[fold.test_labels == 0].sum():
                expected.append(roc_auc_score(fold.test_labels, s, sample_weight=w))
        assert value == pytest.approx(np.mean(expected), abs=1e-9) if expected else math.isnan(value)


def test_replicates_of_accuracy_and_of_many_labels():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 30)
    guess = np.where(draw.random(30) < 0.6, labels, 0)
    found = _replicates(plan_of(fold_on(range(30), labels)), [guess], 30, 400)
    assert found.mean() == pytest.approx((guess == labels).mean(), abs=0.02)
    many, values = draw.random((30, 3)) < 0.4, draw.standard_normal((30, 3))
    found = _replicates(plan_of(fold_on(range(30), many)), [values], 30, 400)
    single = [_replicates(plan_of(fold_on(range(30), many[:, j] * 1)), [values[:, j]], 30, 400) for j in range(3)]
    assert found == pytest.approx(np.mean(single, axis=0), abs=1e-9)


def test_draws_are_paired():
    labels = np.random.default_rng(0).integers(0, 2, 200)
    plan = plan_of(fold_on(range(200), labels))
    first, second = (signal(labels, 1.0, 1, seed)[:, 0] for seed in (0, 1))
    a, b, near = (_replicates(plan, [s], 200, 300) for s in (first, second, first + 0.1 * second))
    assert (_replicates(plan, [first], 200, 300) == a).all()
    assert a.mean() == pytest.approx(_fold_value(plan.folds[0], first), abs=0.01)
    # The same genes in the same order: scores that agree are harder or easier together.
    assert np.std(near - a) < np.std(b - a) < np.std(a) + np.std(b)
    same, other = (evaluate(plan, s, 200, 100) for s in ([first], [np.zeros(200)]))
    assert ((same - same).mean, *(same - same).interval()) == (0.0, 0.0, 0.0)
    low, high = (same - other).interval()
    assert low < (same - other).mean < high
    assert math.isnan((same - evaluate(plan, [first])).interval()[0])


def test_permuted_labels_and_random_vectors_are_at_chance_and_never_the_best_baseline():
    task, labels = binary(200, 80)
    mine = {"mine": vectors(task.genes, signal(labels, 1.0, 6))}
    frame = bftembed.bench.genes(mine, task, seeds=2)
    for name, kind in (("mine", "chance"), ("random vectors (6 dimensions)", "random"), ("symbol only", "baseline")):
        row = mean(frame, name, kind)
        assert abs(row["value"] - 0.5) < 0.12, name
        assert row["low"] <= 0.5 <= row["high"], name
    row = mean(frame, "mine")
    assert row["value"] == pytest.approx(scores(frame, "mine").mean(), abs=1e-12)
    assert 0.5 < row["low"] <= row["value"] <= row["high"] < 1
    assert row["high"] - row["low"] < 0.3
    baselines = frame[frame["kind"].isin(["baseline", "random"]) & frame["seed"].isna() & (frame["run"] == "shared")]
    best = baselines.loc[baselines["value"].idxmax()]
    assert row["reference"] == best["subject"]
    assert row["difference"] == pytest.approx(row["value"] - best["value"], abs=1e-12)
    assert 0 < row["difference_low"] <= row["difference"] <= row["difference_high"]
    assert (frame.loc[frame["kind"] != "subject", "reference"] == "").all()


def test_pairs_with_matched_degrees_are_at_chance():
    task = random_pairs(60, 500)
    matrix = np.random.default_rng(0).normal(size=(60, 4))
    frame = bftembed.bench.genes({"mine": vectors(task.genes, matrix)}, task, seeds=1)
    for name, kind in (("mine", "subject"), ("mine", "chance"), ("degree", "upper-bound")):
        row = mean(frame, name, kind)
        assert abs(row["value"] - 0.5) < 0.15, name
        assert row["low"] <= 0.5 <= row["high"], name
