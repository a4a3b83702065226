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
from bftembed.tasks.genes.scoring import evaluate, fold_value, node_propensity, replicates
from bftembed.tasks.genes.splits import Fold, Plan

EMPTY = np.empty((0, 1), np.int64)


def fold_on(items, labels, seed=0, fold=0):
    items = np.asarray(items, np.int64)
    return Fold(seed, fold, EMPTY, np.empty(0, int), items.reshape(len(labels), -1), np.asarray(labels))


def plan_of(*folds):
    return Plan(tuple(folds), ("negative", "positive"), sum(len(f.test_labels) for f in folds), ())


def test_the_value_of_a_fold():
    fold = fold_on(range(4), [0, 0, 1, 1])
    assert fold_value(fold, np.array([0.1, 0.3, 0.2, 0.4])) == 0.75
    assert fold_value(fold, np.array([0, 1, 1, 1])) == 0.75  # classes: accuracy
    assert math.isnan(fold_value(fold_on(range(2), [1, 1]), np.array([0.1, 0.2])))
    labels = np.array([[0, 1, 0], [1, 1, 0], [1, 1, 1]], dtype=bool)
    many = fold_on(range(3), labels)
    values = np.array([[0.1, 0.0, 0.5], [0.2, 0.0, 0.6], [0.0, 0.0, 0.1]])
    assert fold_value(many, values) == pytest.approx((0.5 + 0.0) / 2)  # the second label has one class only


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 3))
def test_replicates_are_those_of_a_loop(seed, n_folds):
    draw = np.random.default_rng(seed)
    n_genes, n = 12, 20
    folds, values = [], []
    for i in range(n_folds):
        items = draw.integers(n_genes, size=8)
        folds.append(fold_on(items, draw.integers(0, 2, 8), fold=i))
        values.append(draw.integers(0, 4, 8).astype(float))
    found = replicates(plan_of(*folds), values, n_genes, n, seed)
    chance = np.random.default_rng(seed)
    for value in found:
        drawn = np.bincount(chance.integers(n_genes, size=n_genes), minlength=n_genes)
        expected = []
        for fold, s in zip(folds, values, strict=True):
            w = drawn[fold.test_items[:, 0]]
            if w[fold.test_labels == 1].sum() and w[fold.test_labels == 0].sum():
                expected.append(roc_auc_score(fold.test_labels, s, sample_weight=w))
        assert value == pytest.approx(np.mean(expected), abs=1e-9) if expected else math.isnan(value)


def test_a_pair_counts_as_often_as_both_of_its_genes_together():
    draw = np.random.default_rng(0)
    items, labels = draw.integers(8, size=(30, 2)), draw.integers(0, 2, 30)
    values = draw.standard_normal(30)
    found = replicates(plan_of(fold_on(items, labels)), [values], 8, 10, 3)
    chance = np.random.default_rng(3)
    for value in found:
        drawn = np.bincount(chance.integers(8, size=8), minlength=8)
        w = drawn[items[:, 0]] * drawn[items[:, 1]]
        assert value == pytest.approx(roc_auc_score(labels, values, sample_weight=w), abs=1e-9)


def test_replicates_of_accuracy_and_of_many_labels():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 30)
    guess = np.where(draw.random(30) < 0.6, labels, 0)
    found = replicates(plan_of(fold_on(range(30), labels)), [guess], 30, 400)
    assert found.mean() == pytest.approx((guess == labels).mean(), abs=0.02)
    many = labels[:, None] == np.arange(3)
    values = draw.standard_normal((30, 3)) + many
    found = replicates(plan_of(fold_on(range(30), many)), [values], 30, 400)
    single = [
        replicates(plan_of(fold_on(range(30), many[:, j].astype(int))), [values[:, j]], 30, 400) for j in range(3)
    ]
    assert found == pytest.approx(np.mean(single, axis=0), abs=1e-9)


def test_draws_are_paired_and_their_mean_is_the_score():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 200)
    plan = plan_of(fold_on(range(200), labels))
    first, second = (signal(labels, 1.0, 1, seed)[:, 0] for seed in (0, 1))
    a, b = (replicates(plan, [s], 200, 500) for s in (first, second))
    assert (replicates(plan, [first], 200, 500) == a).all()
    assert (replicates(plan, [first + 0], 200, 500) - a == 0).all()
    assert a.mean() == pytest.approx(fold_value(plan.folds[0], first), abs=0.01)
    # The same genes in the same order: scores that agree are harder or easier together.
    near = replicates(plan, [first + 0.1 * second], 200, 500)
    assert np.std(near - a) < np.std(b - a) < np.std(a) + np.std(b)


def naive_propensity(items, labels):
    found = []
    for k, (a, b) in enumerate(items):
        total = 0.0
        for gene in (a, b):
            others = [labels[m] for m, pair in enumerate(items) if m != k and gene in pair]
            total += np.mean(others) if others else np.mean(labels)
        found.append(total)
    return found


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_node_propensity_is_that_of_a_loop(seed):
    draw = np.random.default_rng(seed)
    a, b = np.triu_indices(9, 1)
    chosen = draw.choice(36, 15, replace=False)
    items, labels = np.stack([a, b], axis=1)[chosen], draw.integers(0, 2, 15)
    assert node_propensity(fold_on(items, labels)) == pytest.approx(naive_propensity(items.tolist(), labels))


def test_permuted_labels_and_random_vectors_are_at_chance_and_never_the_best_baseline():
    seeds = [0, 1, 2]
    task, labels = binary(300, 110)
    mine = {"mine": vectors(task.genes, signal(labels, 1.0, 6))}
    frame = bftembed.bench.genes(mine, task, seeds=seeds)
    for name, kind in (("mine", "chance"), ("random vectors (6 dimensions)", "random"), ("symbol only", "baseline")):
        row = mean(frame, name, kind)
        assert abs(row["value"] - 0.5) < 0.1, name
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
    assert sorted(frame["seed"].dropna().unique()) == seeds
    assert (frame.loc[frame["kind"] != "subject", "reference"] == "").all()


def test_an_embedding_that_is_its_baseline_differs_by_nothing():
    draw = np.random.default_rng(0)
    plan = plan_of(fold_on(range(50), draw.integers(0, 2, 50)))
    values = [draw.standard_normal(50) + plan.folds[0].test_labels]
    same, other = (evaluate(plan, s, 50, 100) for s in (values, [np.zeros(50)]))
    assert ((same - same).mean, *(same - same).interval()) == (0.0, 0.0, 0.0)
    low, high = (same - other).interval()
    assert low < (same - other).mean < high
    assert math.isnan((same - evaluate(plan, values)).interval()[0])


def test_permuted_labels_of_pairs_are_at_chance():
    task = random_pairs(80, 700)
    frame = bftembed.bench.genes(
        {"mine": vectors(task.genes, np.random.default_rng(0).normal(size=(80, 4)))}, task, seeds=2
    )
    for name, kind in (("mine", "subject"), ("mine", "chance"), ("degree", "upper-bound")):
        row = mean(frame, name, kind)
        assert abs(row["value"] - 0.5) < 0.12, name
        assert row["low"] <= 0.5 <= row["high"], name
    assert "node propensity" not in set(frame["subject"])  # degrees are matched: it would say nothing


def test_a_fold_of_one_class_has_no_value_and_is_left_out_of_the_mean():
    plan = plan_of(fold_on(range(2), [1, 1]), fold_on(range(2, 6), [0, 1, 0, 1], fold=1))
    found = evaluate(plan, [np.zeros(2), np.array([0.0, 1.0, 0.0, 1.0])])
    assert math.isnan(found.values[0])
    assert (found.values[1], found.mean) == (1.0, 1.0)
