"""Gene tasks from arrays and from folders."""

from __future__ import annotations

import numpy as np
import pytest
from gene_toys import card, pair_task
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.tasks.genes import load_task, make_task
from bftembed.tasks.genes.definition import cleaned_pairs

GENES = st.sampled_from(["TP53", "NA", "EGFR", "nan", "KRAS", "1-Mar", "Ünlü", "MT-ND1"])


def naively_cleaned(rows):
    seen = {}
    left_out = {"self-pairs": 0, "repeats": 0, "contradicting": 0}
    for a, b, label in rows:
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
    return kept, [f"{n} {reason} left out" for reason, n in left_out.items() if n]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 1)), max_size=40))
def test_cleaned_pairs_are_those_of_a_loop(rows):
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    items, labels, told = cleaned_pairs(table[:, :2], table[:, 2])
    kept, left_out = naively_cleaned(rows)
    assert [tuple(pair) for pair in items.tolist()] == list(kept)
    assert labels.tolist() == list(kept.values())
    assert told == left_out
    assert items.dtype == labels.dtype == np.int64


def test_a_gene_of_two_labels_is_found_or_kept_as_two_items():
    genes, labels = ["B", "NA", "C", "NA", "D"], [0, 1, 0, 0, 1]
    with pytest.raises(BftembedError, match="'NA'"):
        make_task(card(), "binary", genes, labels)
    task = make_task(card(), "binary", genes, labels, allow_both=True)
    assert [task.genes[i] for i in np.flatnonzero(task.of_both_labels())] == ["NA"]
    clean = task.unambiguous()
    assert (clean.genes, clean.labels.tolist(), len(clean.notes)) == (("B", "C", "D"), [0, 0, 1], 1)


@given(st.lists(st.tuples(GENES, GENES, st.integers(0, 1)), min_size=1, max_size=30))
def test_a_pair_task_gives_every_pair_back(rows):
    rows = [*rows, ("A", "B", 1)]
    task = pair_task(card(), [row[:2] for row in rows], [row[2] for row in rows])
    assert [(task.genes[a], task.genes[b]) for a, b in task.items] == [row[:2] for row in rows]
    assert task.labels.tolist() == [row[2] for row in rows]


def test_a_restricted_task_drops_items_and_renumbers_genes():
    pairs = [("A", "B"), ("B", "C"), ("C", "D"), ("A", "A")]
    task = pair_task(card(), pairs, [1, 0, 1, 0], split=["train", "test"] * 2)
    part = task.restricted(np.array([True, False, True, True]))
    assert part.genes == ("A", "C", "D")
    assert part.items.tolist() == [[1, 2], [0, 0]]
    assert part.labels.tolist() == [1, 0]
    assert part.split.tolist() == ["train", "test"]


@pytest.mark.parametrize(
    ("kind", "items", "labels", "options"),
    [
        ("binary", ["A", " "], [0, 1], {}),
        ("binary", ["A", "B"], [0, 1, 1], {}),
        ("binary", ["A", "B", "C"], [0, 1, 2], {}),
        ("binary", ["A", "B"], [0.0, 1.0], {}),
        ("binary", ["A", "B"], [0, 0], {}),
        ("multilabel", ["A", "B"], [[1], [0]], {}),
        ("multilabel", ["A", "B", "A"], [[1, 0], [0, 0], [1, 1]], {}),
        ("pairs", [("A", "B"), ("A", "C")], [1, 1], {"split": ["train", "dev"]}),
    ],
)
def test_tasks_that_are_none(kind, items, labels, options):
    with pytest.raises(BftembedError, match="Task toy"):
        make_task(card(), kind, items, labels, **options)


# Folders

CARD = "name: mine\nkind: binary\n"
PAIRS = "name: p\nkind: pairs\n"
ENTITIES = "symbol\nTP53\nNA\nEGFR\n"
OUTCOMES = "label\n1\n0\n0\n"


@pytest.fixture
def write(tmp_path):
    """Write a task folder; None leaves a file out."""

    def _write(card=CARD, entities=ENTITIES, outcomes=OUTCOMES, suffix="csv"):
        path = tmp_path / "my_task"
        path.mkdir(exist_ok=True)
        files = {"task.yaml": card, f"entities.{suffix}": entities, f"outcomes.{suffix}": outcomes}
        for name, content in files.items():
            if content is not None:
                (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


def test_the_smallest_task(write):
    task = load_task(write())
    assert task.info.name == "mine"
    assert (task.info.source, task.info.license) == ("folder my_task", "not stated")
    assert (task.kind, task.genes, task.labels.tolist()) == ("binary", ("TP53", "NA", "EGFR"), [1, 0, 0])
    assert (task.label_names, task.split, task.notes) == (("negative", "positive"), None, ())


def test_every_key_arrives(write):
    card = (
        "name: Größe 2-a_b\nkind: binary\nsource: here\nlicense: CC0\n"
        "positive: Sensitive\nlabel_words: [dosage, ' sensitive ', '']\n"
    )
    entities = "extra,symbol,split\n1,A,train\n2,B,test\n3,C,unused\n"
    task = load_task(write(card, entities, "label\nSensitive\nother\nother\n"))
    assert (task.info.name, task.info.source, task.info.license) == ("Größe 2-a_b", "here", "CC0")
    assert (task.label_names, task.labels.tolist()) == (("other", "Sensitive"), [1, 0, 0])
    assert task.split.tolist() == ["train", "test", "unused"]
    assert task.label_words == ("dosage", "sensitive")
    names = ["NA", "nan", "None", "N/A", "1-Mar", "007", "1e5", "-"]  # look like gaps and numbers, and are genes
    task = load_task(write(entities="\n".join(["symbol", *names]), outcomes="label\n" + "1\n0\n" * 4))
    assert task.genes == tuple(names)


@pytest.mark.parametrize(
    ("positive", "labels", "expected"),
    [
        (None, "1.0 0.0 0.0", [1, 0, 0]),
        ("0", "0 1 1", [1, 0, 0]),
        ("2", "2 1 1", [1, 0, 0]),
        ("'NA'", "NA b b", [1, 0, 0]),
    ],
)
def test_the_positive_class(write, positive, labels, expected):
    card = CARD if positive is None else f"{CARD}positive: {positive}\n"
    assert load_task(write(card, outcomes="label\n" + "\n".join(labels.split()))).labels.tolist() == expected


def test_multiclass_and_multilabel(write):
    task = load_task(write("name: m\nkind: multiclass\n", outcomes="label\nz\n10\nNA\n"))
    assert (task.label_names, task.labels.tolist()) == (("10", "NA", "z"), [2, 0, 1])
    task = load_task(
        write("name: m\nkind: multilabel\n", outcomes="symbol,repair,cycle\nTP53,1,yes\nNA,0,1\nEGFR,0,0\n")
    )
    assert (task.label_names, task.labels.dtype) == (("repair", "cycle"), bool)
    assert task.labels.tolist() == [[True, True], [False, True], [False, False]]


def test_pairs(write):
    entities, outcomes = "symbol_a,symbol_b\nNA,B\nB,NA\nC,C\n", "symbol_b,label\nB,1\nNA,1\nC,0\n"
    task = load_task(write(f"{PAIRS}negatives: given\n", entities, outcomes))
    assert task.kind == "pairs"
    assert task.items.tolist() == [[0, 1], [1, 0], [2, 2]]
    assert (task.labels.tolist(), task.negatives, task.notes) == ([1, 1, 0], "given", ())
    other = load_task(write(PAIRS, entities, outcomes))
    assert other.negatives == "degree-matched"


@pytest.mark.parametrize(("mark", "suffix"), [("\t", "tsv"), (";", "csv")])
def test_separators_byte_order_mark_quotes_and_blank_end(write, mark, suffix):
    entities = f'\ufeffsymbol{mark} split\r\n" TP53"{mark}train\r\n"A{mark}B"{mark}test\r\nC{mark}test\r\n\r\n\r\n'
    assert load_task(write(entities=entities, suffix=suffix)).genes == ("TP53", f"A{mark}B", "C")


@pytest.mark.parametrize(
    ("card", "entities", "outcomes"),
    [
        (CARD, None, OUTCOMES),
        (CARD, "", OUTCOMES),
        (CARD, b"symbol\nA\n\xff\xfe\nB\n", OUTCOMES),
        (CARD, "symbol\nA\n\nB\nC\n", "label\n1\n0\n0\n1\n"),
        (CARD, "Symbol\nA\nB\nC\n", OUTCOMES),
        (CARD, ENTITIES, "label\n1\n0\n0\n1\n"),
        (CARD, ENTITIES, "symbol,label\nTP53,1\nEGFR,0\nNA,0\n"),
        (CARD, ENTITIES, "label\n1\n0\nmaybe\n"),
        (CARD + "positive: sensitive\n", ENTITIES, "label\nsensitive\na\nb\n"),
        ("name: x\nkind: multiclass\n", ENTITIES, "label\na\na\na\n"),
        (CARD + "source: !!python/object/apply:os.system ['true']\n", ENTITIES, OUTCOMES),
    ],
)
def test_folders_that_are_no_task_are_named(write, card, entities, outcomes):
    with pytest.raises(BftembedError, match="my_task"):
        load_task(write(card, entities, outcomes))


def test_no_folder_and_an_unknown_key(write, tmp_path):
    with pytest.raises(BftembedError, match="nowhere"):
        load_task(tmp_path / "nowhere")
    with pytest.raises(UnknownNameError, match="Did you mean"):
        load_task(write(CARD + "label_wrods: [a]\n"))
