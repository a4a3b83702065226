"""How items are divided under protocol strict: disjoint, whole, stratified; pairs whose genes do not meet."""

from __future__ import annotations

import numpy as np
import pytest
from gene_toys import binary, card, pair_task, random_pairs, symbols
from hypothesis import given, settings
from hypothesis import strategies as st

from bftembed.errors import BftembedError
from bftembed.tasks.genes import make_task, splits
from bftembed.tasks.genes.splits import _matched_negatives, plan_strict


def keys(items):
    return [tuple(sorted(item)) for item in np.asarray(items).tolist()]


@settings(max_examples=15)
@given(st.integers(5, 20), st.integers(5, 40), st.integers(0, 1000))
def test_folds_of_genes_are_disjoint_whole_and_stratified(n_positive, n_negative, seed):
    task, labels = binary(n_positive + n_negative, n_positive, seed)
    plan = plan_strict(task, [seed, seed + 1])
    assert [(f.seed, f.fold) for f in plan.folds] == [(s, i) for s in (seed, seed + 1) for i in range(5)]
    assert (plan.n_items, plan.notes) == (len(labels), ())
    for of_seed in (plan.folds[:5], plan.folds[5:]):
        assert sorted(np.concatenate([f.test_items[:, 0] for f in of_seed])) == list(range(len(labels)))
        for fold in of_seed:
            assert sorted([*fold.test_items[:, 0], *fold.train_items[:, 0]]) == list(range(len(labels)))
            assert (fold.train_labels == labels[fold.train_items[:, 0]]).all()
            assert (fold.test_labels == labels[fold.test_items[:, 0]]).all()
            assert n_positive // 5 <= fold.test_labels.sum() <= -(-n_positive // 5)
    again = plan_strict(task, [seed])
    assert all((a.test_items == b.test_items).all() for a, b in zip(again.folds, plan.folds, strict=False))


def test_the_split_of_the_task_is_honored_and_holds_no_gene_twice():
    task, labels = binary(40, split=["train"] * 20 + ["test"] * 12 + ["unused"] * 8)
    plan = plan_strict(task, [0, 1, 2])
    (fold,) = plan.folds
    assert fold.train_items[:, 0].tolist() == list(range(20))
    assert fold.test_items[:, 0].tolist() == list(range(20, 32))
    assert (fold.test_labels == labels[20:32]).all()
    assert plan.n_items == 32
    assert "8 items that the split leaves unused" in plan.notes
    genes = symbols(20)
    split = ["train"] * 10 + ["test"] * 10 + ["test", "unused"]
    twice = make_task(card(), "binary", [*genes, genes[0], genes[1]], [0, 1] * 11, split=split)
    for wrong in (twice, binary(40, 4)[0]):  # the second has a class of four
        with pytest.raises(BftembedError):
            plan_strict(wrong, [0])


def test_classes_become_one_column_each_and_rare_labels_are_left_out():
    labels = np.random.default_rng(0).integers(0, 3, 60)
    labels[:9] = 3
    task = make_task(card(), "multiclass", symbols(60), labels, label_names=["a", "b", "c", "rare"])
    plan = plan_strict(task, [0])
    assert plan.label_names == ("a", "b", "c")
    assert any("1 of 4 labels" in note for note in plan.notes)
    for fold in plan.folds:
        assert fold.test_labels.dtype == bool
        assert (fold.test_labels == (labels[fold.test_items[:, 0]][:, None] == np.arange(3))).all()


@st.composite
def graphs(draw):
    n_genes = draw(st.integers(6, 40))
    n_pairs = draw(st.integers(5, 200))
    chance = np.random.default_rng(draw(st.integers(0, 10**6)))
    # Some genes have many partners.
    worth = chance.pareto(1.5, n_genes) + 0.1
    a, b = chance.choice(n_genes, (2, n_pairs), p=worth / worth.sum())
    return np.unique(np.sort(np.stack([a, b], axis=1)[a != b], axis=1), axis=0), chance


@settings(max_examples=30)
@given(graphs())
def test_negatives_have_the_degrees_of_the_positives_and_are_none(case):
    known, chance = case
    if not len(known):
        return
    positives = known[chance.random(len(known)) < 0.7]
    negatives = _matched_negatives(positives, known, chance)
    assert negatives.dtype == np.int64
    assert negatives.shape == (len(negatives), 2)
    assert (negatives[:, 0] < negatives[:, 1]).all()
    assert len(set(keys(negatives))) == len(negatives) <= len(positives)
    assert not set(keys(negatives)) & set(keys(known))
    wanted, found = (np.bincount(x.ravel(), minlength=int(known.max()) + 1) for x in (positives, negatives))
    assert (found <= wanted).all()
    assert len(negatives) < len(positives) or (found == wanted).all()


@settings(max_examples=6)
@given(st.integers(15, 40), st.integers(0, 10**5))
def test_no_gene_is_on_both_sides_of_a_fold(n_genes, seed):
    task = random_pairs(n_genes, n_genes * (n_genes - 1) // 6, seed)
    try:
        plan = plan_strict(task, [seed])
    except BftembedError:
        return  # too few pairs inside a group
    known = set(keys(task.items))
    assert plan.n_items == len(known)
    shortfall = 0
    for fold in plan.folds:
        assert not set(fold.train_items.ravel()) & set(fold.test_items.ravel())
        for items, labels in ((fold.train_items, fold.train_labels), (fold.test_items, fold.test_labels)):
            assert len(set(keys(items))) == len(items) == len(labels)
            positive, negative = set(keys(items[labels == 1])), set(keys(items[labels == 0]))
            assert positive <= known
            assert not negative & known
            shortfall += len(positive) - len(negative)
    said = [note for note in plan.notes if "negatives fewer than positives" in note]
    assert [int(note.split()[0]) for note in said] == [shortfall] * bool(shortfall)


def test_what_is_wrong_with_pairs_is_counted():
    task = random_pairs(40, 300)
    rows = [(task.genes[a], task.genes[b], 1) for a, b in task.items]
    extra = [(b, a, 1) for a, b, _ in rows[:3]] + [rows[4]] + [(task.genes[0], task.genes[0], 1)] * 2
    rows += [*extra, (rows[5][1], rows[5][0], 0), (rows[6][0], rows[6][1], 0)]
    plan = plan_strict(pair_task(card(), [r[:2] for r in rows], [r[2] for r in rows]), [0])
    assert plan.n_items == 298
    assert {"4 repeats left out", "2 self-pairs left out", "4 contradicting left out"} <= set(plan.notes)


def test_given_negatives_are_kept_and_none_is_drawn():
    draw = np.random.default_rng(0)
    genes = symbols(50)
    a, b = np.triu_indices(50, 1)
    chosen = draw.choice(len(a), 500, replace=False)
    labels = draw.integers(0, 2, 500)
    pairs = [(genes[i], genes[j]) for i, j in zip(a[chosen], b[chosen], strict=True)]
    task = pair_task(card(), pairs, labels, negatives="given")
    label_of = dict(zip(keys(task.items), labels.tolist(), strict=True))
    plan = plan_strict(task, [0])
    assert (plan.n_items, plan.notes) == (500, ())
    for fold in plan.folds:
        assert not set(fold.train_items.ravel()) & set(fold.test_items.ravel())
        for items, found in ((fold.train_items, fold.train_labels), (fold.test_items, fold.test_labels)):
            assert [label_of[k] for k in keys(items)] == found.tolist()


def test_the_positives_that_were_thinned_out_are_no_negatives(monkeypatch):
    monkeypatch.setattr(splits, "_MAX_TRAIN_PAIRS", 100)
    monkeypatch.setattr(splits, "_MAX_TEST_PAIRS", 20)
    task = random_pairs(40, 500)
    known = set(keys(task.items))
    for fold in plan_strict(task, [0]).folds:
        assert (len(fold.train_items) <= 100, len(fold.test_items) <= 20) == (True, True)
        assert not known & set(keys(fold.train_items[fold.train_labels == 0]))
