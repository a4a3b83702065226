"""What makes a gene task: names, positions and labels against a naive loop, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from bftembed.tasks.info import TaskInfo
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError
from bftembed.tasks.genes.definition import cleaned_pairs, pair_task, single_task

CARD = TaskInfo("toy", "genes", "a test", "CC0", "random", "roc_auc", "higher", 1)
GENES = st.sampled_from(["TP53", "NA", "EGFR", "nan", "KRAS", "1-Mar", "Ünlü", "MT-ND1"])


def naively_cleaned(items, labels):
    seen, left_out = {}, {"self-pairs": 0, "repeats": 0, "contradicting": 0}
    for (a, b), label in zip(items.tolist(), labels.tolist(), strict=True):
        if a == b:
            left_out["self-pairs"] += 1
        else:
            seen.setdefault((min(a, b), max(a, b)), []).append(label)
    kept = {}
    for pair, values in sorted(seen.items()):
        if len(set(values)) > 1:
            left_out["contradicting"] += len(values)
        else:
            left_out["repeats"] += len(values) - 1
            kept[pair] = values[0]
    return kept, {reason: n for reason, n in left_out.items() if n}


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 1)), max_size=40))
def test_cleaned_pairs_are_those_of_a_loop(rows):
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    items, labels = table[:, :2], table[:, 2]
    before = items.copy()
    clean = cleaned_pairs(items, labels)
    kept, left_out = naively_cleaned(items, labels)
    assert [tuple(pair) for pair in clean.items.tolist()] == list(kept)
    assert clean.labels.tolist() == list(kept.values())
    assert clean.left_out == left_out
    assert len(clean.items) + sum(clean.left_out.values()) == len(items)
    assert clean.items.dtype == clean.labels.dtype == np.int64
    assert clean.items.shape == (len(kept), 2)
    assert (items == before).all()


def test_a_mirrored_pair_is_a_repeat_and_a_contradiction_takes_both():
    items = np.array([[0, 1], [1, 0], [2, 0], [0, 2], [1, 1]])
    clean = cleaned_pairs(items, np.array([1, 1, 1, 0, 1]))
    assert clean.items.tolist() == [[0, 1]]
    assert clean.labels.tolist() == [1]
    assert clean.left_out == {"self-pairs": 1, "repeats": 1, "contradicting": 2}


@given(st.lists(GENES, min_size=1, max_size=30), st.data())
def test_a_single_task_gives_every_row_back(names, data):
    label_of = {name: data.draw(st.integers(0, 1)) for name in dict.fromkeys(names)}
    # Both classes are needed.
    names, label_of = [*names, "ONE", "ZERO"], {**label_of, "ONE": 1, "ZERO": 0}
    labels = [label_of[name] for name in names]
    task = single_task(CARD, "binary", names, labels)
    assert task.genes == tuple(dict.fromkeys(names))
    assert task.items.shape == (len(names), 1)
    assert task.items.dtype == task.labels.dtype == np.int64
    assert [task.genes[i] for i in task.items[:, 0]] == names
    assert task.labels.tolist() == labels
    assert len(task) == len(names)


@given(st.lists(GENES, min_size=2, max_size=20), st.integers(0, 10**6))
def test_a_gene_of_two_labels_is_always_found(names, draw):
    twice = names[draw % len(names)]
    others = [name for name in names if name != twice]
    rows = [(name, 0) for name in others] + [(twice, 1), (twice, 0)]
    rows = [rows[i] for i in np.random.default_rng(draw).permutation(len(rows))]
    with pytest.raises(BftembedError, match=f"1 genes have two labels \\('{twice}'\\)"):
        single_task(CARD, "binary", [name for name, _ in rows], [label for _, label in rows])


@given(st.lists(st.tuples(GENES, GENES, st.integers(0, 1)), min_size=1, max_size=30))
def test_a_pair_task_gives_every_pair_back(rows):
    rows = [*rows, ("A", "B", 1)]
    task = pair_task(CARD, [row[:2] for row in rows], [row[2] for row in rows])
    assert task.kind == "pairs"
    assert task.items.shape == (len(rows), 2)
    assert [(task.genes[a], task.genes[b]) for a, b in task.items] == [row[:2] for row in rows]
    assert task.genes == tuple(dict.fromkeys(gene for row in rows for gene in row[:2]))
    assert task.labels.tolist() == [row[2] for row in rows]


def test_names_are_stripped_and_a_repeat_of_equal_label_is_kept():
    task = single_task(CARD, "binary", [" NA", "TP53", "NA "], [1, 0, 1], split=["train", "test", "unused"])
    assert task.genes == ("NA", "TP53")
    assert task.items.tolist() == [[0], [1], [0]]
    assert task.split.tolist() == ["train", "test", "unused"]


def test_multilabel_rows_are_compared_as_a_whole():
    labels = [[1, 0], [0, 0], [1, 0]]
    task = single_task(CARD, "multilabel", ["A", "B", "A"], labels, label_names=["x", "y"])
    assert task.labels.dtype == bool
    assert task.labels.tolist() == [[True, False], [False, False], [True, False]]
    with pytest.raises(BftembedError, match="'A'"):
        single_task(CARD, "multilabel", ["A", "B", "A"], [[1, 0], [0, 0], [1, 1]], label_names=["x", "y"])


@pytest.mark.parametrize(
    "message, kind, genes, labels",
    [
        ("the kind 'pairs' is not one of", "pairs", ["A"], [1]),
        ("has no genes", "binary", [], []),
        ("1 gene names are empty, the first in row 2", "binary", ["A", " "], [0, 1]),
        ("2 rows of genes, but 3 labels", "binary", ["A", "B"], [0, 1, 1]),
        ("the label 2 is not one of 0 to 1", "binary", ["A", "B", "C"], [0, 1, 2]),
        ("the label -1 is not one of", "binary", ["A", "B"], [1, -1]),
        ("expected whole numbers", "binary", ["A", "B"], [0.0, 1.0]),
        ("no gene has the label 'positive'", "binary", ["A", "B"], [0, 0]),
        ("labels have shape", "multilabel", ["A", "B"], [[1], [0]]),
        ("no gene has any of the 2 labels", "multilabel", ["A", "B"], [[0, 0], [0, 0]]),
    ],
)
def test_what_a_single_task_refuses(message, kind, genes, labels):
    with pytest.raises(BftembedError, match=message) as caught:
        single_task(CARD, kind, genes, labels)
    assert str(caught.value).startswith("Task toy")


@pytest.mark.parametrize(
    "message, pairs, labels, options",
    [
        ("has no pairs", [], [], {}),
        ("1 rows of genes, but 2 labels", [("A", "B")], [1, 0], {}),
        ("no positive pair", [("A", "B")], [0], {}),
        ("takes its negatives as given, but has none", [("A", "B")], [1], {"negatives": "given"}),
        ("not 'drawn'", [("A", "B")], [1], {"negatives": "drawn"}),
        ("gene names are empty", [("A", "")], [1], {}),
        ("2 of the split", [("A", "B")], [1], {"split": ["train", "test"]}),
        ("the split names 'dev'", [("A", "B"), ("A", "C")], [1, 1], {"split": ["train", "dev"]}),
        ("the split has no 'test' row", [("A", "B"), ("A", "C")], [1, 1], {"split": ["train", "unused"]}),
    ],
)
def test_what_a_pair_task_refuses(message, pairs, labels, options):
    with pytest.raises(BftembedError, match=message):
        pair_task(CARD, pairs, labels, **options)
