"""A task of the user's own: what a folder gives, and what is refused, with file, line and remedy."""

from __future__ import annotations

import os

import numpy as np
import pytest

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.tasks.genes import folder as module
from bftembed.tasks.genes.folder import load_task

CARD = "name: mine\nkind: binary\n"
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


def refused(path, *parts, error=BftembedError):
    with pytest.raises(error) as caught:
        load_task(path)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    return str(caught.value)


def test_the_smallest_task(write):
    task = load_task(write())
    assert (task.info.name, task.info.kind, task.info.version) == ("mine", "genes", 1)
    assert (task.info.source, task.info.licence, task.info.main_metric) == ("folder my_task", "not stated", "roc_auc")
    assert task.kind == "binary"
    assert task.genes == ("TP53", "NA", "EGFR")
    assert task.labels.tolist() == [1, 0, 0]
    assert task.label_names == ("negative", "positive")
    assert task.split is None
    assert task.notes == ()


def test_every_key_arrives(write):
    card = (
        "name: Größe 2-a_b\nkind: binary\nsource: here\nlicence: CC0\ncitation: Me 2026\nsplit: given\n"
        "positive: Sensitive\nlabel_words: [dosage, ' sensitive ', '']\nversion: 3\n"
    )
    entities = "extra,symbol,split\n1,A,train\n2,B,test\n3,C,unused\n"
    task = load_task(write(card, entities, "label\nSensitive\nother\nother\n"))
    assert (task.info.name, task.info.source, task.info.licence, task.info.version) == ("Größe 2-a_b", "here", "CC0", 3)
    assert task.label_names == ("other", "Sensitive")
    assert task.labels.tolist() == [1, 0, 0]
    assert task.split.tolist() == ["train", "test", "unused"]
    assert task.label_words == ("dosage", "sensitive")
    assert task.notes == ("Cite: Me 2026",)


def test_names_that_look_like_gaps_are_genes(write):
    names = ["NA", "nan", "None", "null", "NULL", "N/A", "1-Mar", "007", "1e5", "True", "-", "#N/A"]
    task = load_task(write(entities="\n".join(["symbol", *names]), outcomes="label\n" + "1\n0\n" * 6))
    assert task.genes == tuple(names)


@pytest.mark.parametrize(
    "labels", ["1 0 0", "1.0 0.0 0.0", "true false False", "Yes no NO", "TRUE 0 no"], ids=lambda x: x.replace(" ", "-")
)
def test_ways_to_say_yes_and_no(write, labels):
    task = load_task(write(outcomes="label\n" + "\n".join(labels.split())))
    assert task.labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    "positive, labels, expected",
    [
        ("0", "0 1 1", [1, 0, 0]),
        ("no", "no yes yes", [1, 0, 0]),
        ("yes", "Yes No No", [1, 0, 0]),
        ("2", "2 1 1", [1, 0, 0]),
        ("1", "2 1 1", [0, 1, 1]),
        ("'NA'", "NA b b", [1, 0, 0]),
    ],
)
def test_the_positive_class_can_be_named(write, positive, labels, expected):
    outcomes = "label\n" + "\n".join(labels.split())
    assert load_task(write(f"{CARD}positive: {positive}\n", outcomes=outcomes)).labels.tolist() == expected


def test_multiclass_labels_are_sorted(write):
    task = load_task(write("name: m\nkind: multiclass\n", outcomes="label\nz\n10\nNA\n"))
    assert task.label_names == ("10", "NA", "z")
    assert task.labels.tolist() == [2, 0, 1]


def test_every_column_of_a_multilabel_task_is_a_label(write):
    outcomes = "symbol,repair,cycle\nTP53,1,yes\nNA,0,1\nEGFR,0,0\n"
    task = load_task(write("name: m\nkind: multilabel\n", outcomes=outcomes))
    assert task.label_names == ("repair", "cycle")
    assert task.labels.dtype == bool
    assert task.labels.tolist() == [[True, True], [False, True], [False, False]]


def test_pairs(write):
    card, entities = "name: p\nkind: pairs\nnegatives: given\n", "symbol_a,symbol_b\nNA,B\nB,NA\nC,C\n"
    task = load_task(write(card, entities, "symbol_b,label\nB,1\nNA,1\nC,0\n"))
    assert task.info.kind == task.kind == "pairs"
    assert task.items.tolist() == [[0, 1], [1, 0], [2, 2]]
    assert task.labels.tolist() == [1, 1, 0]
    assert task.negatives == "given"
    assert task.notes == ()


def test_given_negatives_that_strict_does_not_take_are_said(write):
    task = load_task(write("name: p\nkind: pairs\n", "symbol_a,symbol_b\nA,B\nB,C\nA,C\n"))
    assert task.negatives == "degree-matched"
    assert "2 given ones" in task.notes[0]
    assert "negatives: given" in task.notes[0]


@pytest.mark.parametrize("split, given", [("", True), ("split: given\n", True), ("split: random\n", False)])
def test_a_split_column_counts_unless_told_otherwise(write, split, given):
    task = load_task(write(CARD + split, "symbol,split\nA,train\nB,train\nC,test\n"))
    assert (task.split is not None) == given
    assert bool(task.notes) != given


@pytest.mark.parametrize("mark, suffix", [("\t", "tsv"), ("\t", "csv"), (";", "csv")])
def test_other_separators(write, mark, suffix):
    entities = f"symbol{mark}split\r\nA{mark}train\r\nB{mark}test\r\nC{mark}test\r\n"
    assert load_task(write(entities=entities, suffix=suffix)).genes == ("A", "B", "C")


def test_byte_order_mark_quotes_and_blank_end(write):
    task = load_task(write(entities='\ufeff"symbol"\r\n" TP53"\r\n"A,B"\r\nC\r\n\r\n\r\n'))
    assert task.genes == ("TP53", "A,B", "C")


def test_a_link_to_the_folder_and_one_inside_it_are_fine(write, tmp_path):
    path = write()
    (path / "entities.csv").rename(path / "v1.csv")
    (path / "entities.csv").symlink_to("v1.csv")
    (tmp_path / "link").symlink_to(path)
    assert load_task(tmp_path / "link").genes == ("TP53", "NA", "EGFR")


# Refusals: the folder and its files


def test_no_folder(write, tmp_path):
    refused(tmp_path / "nowhere", "No such task folder", "nowhere", "entities.csv")
    refused(tmp_path / ("x" * 3000), "No such task folder")
    refused(write() / "task.yaml", "is no folder")


@pytest.mark.parametrize("missing", ["task.yaml", "entities.csv", "outcomes.csv"])
def test_a_missing_file(write, missing):
    path = write()
    (path / missing).unlink()
    refused(path, f"holds no {missing}", "it holds '")


def test_an_empty_folder(tmp_path):
    refused(tmp_path, "it holds nothing")


def test_two_tables_of_one_name(write):
    path = write()
    (path / "entities.tsv").write_text("symbol\nA\n")
    refused(path, "holds both entities.csv and entities.tsv", "Remove one")


@pytest.mark.parametrize("name", ["task.yaml", "entities.csv", "outcomes.csv"])
@pytest.mark.parametrize("way", ["absolute", "relative", "folder"])
def test_a_link_that_leads_out(write, tmp_path, name, way):
    path = write()
    outside = tmp_path / "outside"
    outside.mkdir()
    (path / name).rename(outside / name)
    if way == "folder":
        (path / "sub").symlink_to("../outside")
    target = {"absolute": outside / name, "relative": f"../outside/{name}", "folder": f"sub/{name}"}[way]
    (path / name).symlink_to(target)
    refused(path, str(path / name), "leads out of the folder", "Put the file itself")
    refused(path / ".." / "my_task", "leads out of the folder")


def test_broken_and_circular_links(write):
    path = write(entities=None)
    (path / "entities.csv").symlink_to("nothing.csv")
    refused(path, "entities.csv is a link that leads nowhere")
    (path / "entities.csv").unlink()
    (path / "entities.csv").symlink_to("entities.csv")
    refused(path, "entities.csv is a link that leads nowhere")


def test_no_regular_file(write):
    path = write(entities=None)
    (path / "entities.csv").mkdir()
    refused(path, "entities.csv is no regular file")
    (path / "entities.csv").rmdir()
    os.mkfifo(path / "entities.csv")
    refused(path, "entities.csv is no regular file")


@pytest.mark.parametrize("name", ["card", "entities", "outcomes"])
@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"symbol\n\0\1\2", "is a binary file (a zero at byte 7)"),
        ("symbol,label\n".encode("utf-16"), "is a binary file"),
        (b"symbol\nA\n\xff\xfe", "is not UTF-8 at byte 9 (line 3). Save it as UTF-8"),
    ],
)
def test_files_that_are_no_text(write, name, content, message):
    file = {"card": "task.yaml", "entities": "entities.csv", "outcomes": "outcomes.csv"}[name]
    refused(write(**{name: content}), file, message)


def test_a_file_that_is_too_large_is_not_read(write, monkeypatch):
    path = write()
    with (path / "outcomes.csv").open("r+b") as file:
        file.truncate(10**9 + 1)  # sparse
    refused(path, "outcomes.csv has 1,000,000,001 bytes", "Make it smaller")
    with (path / "task.yaml").open("r+b") as file:
        file.truncate(10**6 + 1)
    refused(path, "task.yaml has 1,000,001 bytes")
    assert module._MOST_BYTES == 10**9


# Refusals: task.yaml


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/b", "a\\b", "x..y", "'a\\b'", '"a\\nb"', '"\\e[31m"', "' a'", '"\\u202ea"']
)
def test_names_that_could_be_paths_or_cannot_be_read(write, name):
    refused(write(f"name: {name}\nkind: binary\n"), "task.yaml", "key 'name'", "could be a path", "Use letters")


@pytest.mark.parametrize("name", ["''", "x" * 101])
def test_names_that_are_empty_or_too_long(write, name):
    refused(write(f"name: {name}\nkind: binary\n"), "task.yaml", "key 'name'")


def test_unknown_keys_and_kinds(write):
    refused(write(CARD + "licnece: CC0\n"), "licnece", "Did you mean 'licence'?", error=UnknownNameError)
    refused(write("name: x\nkind: ternary\n"), "key 'kind'", "'binary', 'multiclass', 'multilabel' or 'pairs'")
    refused(write("kind: binary\n"), "key 'name'", "Field required")
    refused(write(CARD + "version: 0\n"), "key 'version'")
    refused(write(CARD + "extends: other.yaml\n"), "Unknown key 'extends'")
    refused(write("- a\n- b\n"), "holds no keys", "'name: my task'")


def test_keys_that_do_not_belong_to_the_kind(write):
    refused(write(CARD + "negatives: given\n"), "key 'negatives' is for pairs", "Remove it")
    refused(write("name: x\nkind: multiclass\npositive: a\n"), "key 'positive' is for binary", "Remove it")


@pytest.mark.parametrize(
    "card",
    [
        CARD + "source: !!python/object/apply:os.system ['touch hacked']\n",
        CARD + "source: !something x\n",
        CARD + "source: [a\n",
        CARD + "a: &a [x, x]\nb: &b [*a, *a]\nlabel_words: [*b, *b]\n",
        "a: &a {x: 1}\n"
        + "".join(
            f"{n}: &{n} {{<<: [{', '.join([f'*{m}'] * 9)}]}}\n" for m, n in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        CARD + "label_words: " + "[" * 5000,
        CARD + "source: 2026-99-99\n",
    ],
    ids=["python tag", "unknown tag", "open bracket", "alias bomb", "merge bomb", "deep nesting", "impossible date"],
)
def test_yaml_that_is_broken_or_malicious(write, card, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(write(card), "task.yaml", "not valid YAML")
    assert not (tmp_path / "hacked").exists()


# Refusals: the tables


@pytest.mark.parametrize(
    "outcomes, line", [("label\n1\n0\n0\n1\n", "outcomes.csv, line 5"), ("label\n1\n0\n", "entities.csv, line 4")]
)
def test_tables_of_different_length(write, outcomes, line):
    refused(write(outcomes=outcomes), "entities.csv 3", "one to one", f"{line} is the first without a partner")


def test_symbols_in_another_order(write):
    message = refused(write(outcomes="symbol,label\nTP53,1\nEGFR,0\nNA,0\n"), "outcomes.csv, line 3", "one order")
    assert "symbol is 'EGFR', but 'NA'" in message


def test_missing_and_double_columns(write):
    refused(write(entities="Symbol\nA\nB\nC\n"), "'symbol'", "entities.csv", "'Symbol'", error=UnknownNameError)
    refused(write(outcomes="lable\n1\n0\n0\n"), "Did you mean 'lable'?", "outcomes.csv", error=UnknownNameError)
    pairs = "name: p\nkind: pairs\n"
    refused(write(pairs, "symbol_a,symbolb\nA,B\nA,B\nA,B\n"), "Did you mean 'symbolb'", error=UnknownNameError)
    refused(write(CARD + "split: given\n"), "column 'split'", error=UnknownNameError)
    refused(write(entities="symbol,symbol\nA,B\nA,B\nA,B\n"), "2 columns called 'symbol'", "Rename one")


def test_multilabel_columns(write):
    card = "name: m\nkind: multilabel\n"
    refused(write(card, outcomes="symbol\nTP53\nNA\nEGFR\n"), "outcomes.csv has no column of a label")
    refused(write(card, outcomes=",x\n0,1\n1,0\n2,0\n"), "a column without a name")
    refused(write(card, outcomes="x,y\n1,0\n0,0\n1,0\n"), "no gene has the label 'y'", "Remove the column")
    refused(write(card, outcomes="x,y\n1,0\n0,NA\n1,0\n"), "line 3", "'NA'", "column 'y'", "Write 0 and 1")


@pytest.mark.parametrize("label", ["maybe", "2", "NA", "0.5"])
def test_an_unknown_label(write, label):
    refused(write(outcomes=f"label\n1\n0\n{label}\n"), "outcomes.csv, line 4", f"'{label}'", "'positive'")


def test_an_unknown_positive_and_a_third_label(write):
    card = CARD + "positive: sensitive\n"
    outcomes = "label\nsensitiv\nother\nother\n"
    refused(write(card, outcomes=outcomes), "Did you mean 'sensitiv'?", "task.yaml", error=UnknownNameError)
    refused(write(card, outcomes="label\nsensitive\na\nb\n"), "outcomes.csv, line", "third label", "multiclass")


def test_a_class_without_a_member(write):
    refused(write(outcomes="label\n1\n1\n1\n"), "my_task", "no gene has the label 'negative'")
    refused(write(CARD + "positive: a\n", outcomes="label\na\na\na\n"), "no gene has the label 'negative'")
    refused(
        write("name: x\nkind: multiclass\n", outcomes="label\na\na\na\n"), "outcomes.csv", "every gene", "two classes"
    )
    refused(
        write("name: x\nkind: pairs\n", "symbol_a,symbol_b\nA,B\nB,C\nA,C\n", "label\n0\n0\n0\n"), "no positive pair"
    )


def test_a_gene_in_both_classes(write):
    refused(write(entities="symbol\nTP53\nTP53\nEGFR\n"), "my_task", "'TP53'", "belongs to one class")


def test_empty_cells(write):
    refused(write(entities="symbol,x\nTP53,1\n,2\nEGFR,3\n"), "entities.csv, line 3", "'symbol' is empty")
    for kind in ("binary", "multiclass"):
        card = f"name: x\nkind: {kind}\n"
        refused(write(card, outcomes='label\n1\n" "\n0\n'), "outcomes.csv, line 3", "label is empty")


def test_rows_that_are_blank_ragged_or_not_closed(write):
    refused(write(entities="symbol\nA\n\nB\nC\n"), "entities.csv, line 3 is blank")
    refused(write(entities="symbol,x\nA,1\nB\nC,1\n"), "entities.csv, line 3 has 1 cells, the header 2")
    refused(write(entities='symbol\nA\n"B\nC\n'), "entities.csv, line", "quotation mark")
    refused(write(entities="symbol\n"), "a header, but no rows")


def test_an_unknown_or_one_sided_split(write):
    refused(write(entities="symbol,split\nA,train\nB,dev\nC,test\n"), "entities.csv, line 3", "'dev'", "'unused'")
    refused(write(entities="symbol,split\nA,train\nB,train\nC,unused\n"), "my_task", "no 'test' row")


def test_many_pairs_are_read_exactly(write):
    rng = np.random.default_rng(0)
    pairs = rng.integers(1000, size=(20_000, 2))
    labels = rng.integers(2, size=20_000)
    entities = "symbol_a,symbol_b\n" + "".join(f"G{a},G{b}\n" for a, b in pairs)
    outcomes = "label\n" + "".join(f"{label}\n" for label in labels)
    task = load_task(write("name: p\nkind: pairs\nnegatives: given\n", entities, outcomes))
    names = np.array([int(gene[1:]) for gene in task.genes])
    assert (names[task.items] == pairs).all()
    assert (task.labels == labels).all()
