"""Built-in gene tasks: real files, counted independently, and small ones of their format."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
from collections import Counter

import numpy as np
import pytest
from tests_paths import SHARED

from bftembed.datasets import FILES, DataNotFoundError
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError
from bftembed.tasks.genes import builtin
from bftembed.tasks.genes.builtin import TASKS, get_task, list_tasks

ALL = ("tf-range", "dosage", "no-methy", "lys4", "ggi", "ppi", "gene-type", "tf-vs-other", "kegg")


@pytest.fixture(scope="session")
def real(shared_data, tmp_path_factory):
    """Load a task from the shared data, once."""
    shared_data("pairs")
    loaded = {}

    def load(name):
        if name not in loaded:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("BFTEMBED_DATA", str(SHARED))
                patch.setenv("BFTEMBED_CACHE", str(tmp_path_factory.mktemp("cache")))
                loaded[name] = get_task(name)
        return loaded[name]

    return load


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Put a file of the user's own content in the place of a known one; nothing else is on the machine."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("BFTEMBED_DATA", str(root))
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))

    def _put(name, text):
        entry = FILES[name]
        (root / entry.path).parent.mkdir(exist_ok=True)
        (root / entry.path).write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        monkeypatch.setitem(FILES, name, dataclasses.replace(entry, sha256=digest))

    return _put


@pytest.fixture(scope="session")
def ensembl():
    """Give the Ensembl id of a symbol."""
    return lambda symbol: GeneIndex.default().get(symbol).ensembl_gene_id


def lines(relative):
    with gzip.open(SHARED / relative, "rt") as file:
        return file.read().splitlines()


def named(task, label):
    return [task.genes[i] for i in task.items[task.labels == label, 0]]


def pairs_of(task, chosen):
    return [(task.genes[a], task.genes[b]) for a, b in task.items[chosen]]


# The real files


def test_dosage_is_the_lists_of_the_file_in_their_order(real):
    task = real("dosage")
    rows = [line.split(",") for line in (SHARED / FILES["geneformer-dosage"].path).read_text().splitlines()[1:]]
    sensitive, insensitive = ([row[i] for row in rows if row[i]] for i in (0, 1))
    assert (len(sensitive), len(insensitive)) == (122, 368)
    by_ensembl = {record.ensembl_gene_id: s for s in GeneIndex.default() if (record := GeneIndex.default().get(s))}
    assert named(task, 1) == [by_ensembl[gene] for gene in sensitive]
    assert named(task, 0) == [by_ensembl[gene] for gene in insensitive if gene in by_ensembl]
    assert task.labels.tolist() == [1] * 122 + [0] * 365
    assert "geneformer-dosage" in task.info.source
    assert "haploinsufficient" in task.label_words
    assert any("3 of 490 Ensembl ids" in note for note in task.notes)


def test_ggi_is_the_files_of_gene2vec(real):
    task = real("ggi")
    assert Counter(task.split.tolist()) == {"train": 263_016, "unused": 5_568, "test": 21_448}
    text, label = [], []
    for part in ("train", "valid", "test"):
        text += lines(f"pairs/gene2vec_{part}_text.txt.gz")
        label += lines(f"pairs/gene2vec_{part}_label.txt.gz")
    assert [" ".join(pair) for pair in pairs_of(task, slice(None))] == [line.strip() for line in text]
    assert task.labels.tolist() == [int(x) for x in label]


def test_ppi_positives_are_huri_and_its_split_is_disjoint_in_genes(real):
    task = real("ppi")
    rows = [line.split("\t") for line in lines("pairs/huri_table11_union.tsv.gz")[1:]]
    huri = [row[:2] for row in rows if row[2] == "1"]
    assert len(huri) == 52_569
    by_ensembl = {record.ensembl_gene_id: s for s in GeneIndex.default() if (record := GeneIndex.default().get(s))}
    mapped = [(by_ensembl[a], by_ensembl[b]) for a, b in huri if a in by_ensembl and b in by_ensembl]
    assert len(mapped) == 52_222
    assert pairs_of(task, task.labels == 1) == mapped
    assert any("347 of 52569 pairs" in note for note in task.notes)
    parts = {part: task.items[task.split == part] for part in ("train", "test", "unused")}
    train, test = set(parts["train"].ravel().tolist()), set(parts["test"].ravel().tolist())
    assert not train & test
    assert (np.isin(parts["unused"], list(train)).sum(axis=1) <= 1).all()
    negatives = {frozenset(pair) for pair in pairs_of(task, task.labels == 0)}
    assert len(negatives) == (task.labels == 0).sum()
    assert not negatives & {frozenset(pair) for pair in mapped}
    # Seed 2023. Pairs with both genes among 70 % of the genes are about half of all.
    assert {part: len(items) for part, items in parts.items()} == {"train": 53_404, "test": 8_612, "unused": 21_214}


def test_gene_types_are_those_with_more_than_75_names(real):
    import pandas as pd

    task = real("gene-type")
    table = pd.read_csv(SHARED / f"{FILES['gene-biotypes'].path}.gz", dtype=str, keep_default_na=False)
    assert len(table) == 69_299
    one = table[table.gene_name != ""].groupby("gene_name").gene_type.agg(["nunique", "first"])
    one = one[one["nunique"] == 1]["first"]
    sizes = one.value_counts()
    kept = one[one.isin(sizes.index[sizes > 75])]
    assert {task.genes[i]: task.label_names[label] for i, label in zip(task.items[:, 0], task.labels, strict=True)} == (
        kept.to_dict()
    )
    assert len(task) == len(task.genes) == len(kept)
    assert list(task.label_names) == sorted(set(kept))
    assert task.notes[0].startswith("22493 of 69299")


def test_transcription_factors_against_the_other_coding_genes(real):
    task = real("tf-vs-other")
    listed = (SHARED / FILES["transcription-factors"].path).read_text().split()
    assert len(listed) == 1_639
    positive, negative = named(task, 1), named(task, 0)
    assert len(positive) == len(set(positive)) == 1_639
    index = GeneIndex.default()
    assert [r.entity for r in index.resolve(listed)] == positive
    coding = {s for s in index if index.get(s).locus_type == "gene with protein product"}
    assert set(negative) == coding - set(positive)
    # Listed as ARNTL: it must not come back as a negative under its new name.
    assert "BMAL1" in positive
    assert any("earlier name" in note for note in task.notes)


def test_kegg_pathways_of_20_to_300_genes(real):
    task = real("kegg")
    sets = {}
    for line in lines("gene_labels/ylab_KEGG_CPDB.gmt.gz"):
        name, _, *ids = line.split("\t")
        sets[name] = {r.symbol for r in GeneIndex.default().resolve([i.strip() for i in ids]) if r.symbol}
    assert len(sets) == 333
    kept = {name: genes for name, genes in sets.items() if 20 <= len(genes) <= 300}
    assert task.label_names == tuple(kept)
    for j, genes in enumerate(kept.values()):
        assert {task.genes[i] for i in task.items[task.labels[:, j], 0]} == genes
    assert set(task.genes) == set().union(*kept.values())
    assert any("39 of 333 pathways" in note for note in task.notes)


# Small files of the same format


def test_tf_range_keeps_spelling_order_and_repeats(put):
    put(
        "tf-range",
        ",score,assignment\nSOX2,1,long-range TF\nNA,2,short-range TF\nMYC,3,neither\nOldName,4,long-range TF\n"
        "SOX2,5,long-range TF\nKLF4,6,short-range TF\n",
    )
    task = get_task("tf-range")
    assert named(task, 1) == ["SOX2", "OldName", "SOX2"]
    assert named(task, 0) == ["NA", "KLF4"]
    assert task.labels.tolist() == [1, 1, 1, 0, 0]
    assert "long-range" in task.label_words
    assert task.notes == ()
    assert "Chen" in task.info.source


def test_bivalent_genes_against_others(put, ensembl):
    name, others = "no-methy", "geneformer-no-methylation"
    put("geneformer-bivalent", f"{ensembl('PAX6')}\n{ensembl('SOX2')}\nENSG99999999999\n{ensembl('PAX6')}\n")
    put(others, f"{ensembl('ACTB')}\n\n{ensembl('GAPDH')}\n")
    task = get_task(name)
    assert named(task, 1) == ["PAX6", "SOX2", "PAX6"]
    assert named(task, 0) == ["ACTB", "GAPDH"]
    assert "H3K27me3" in task.label_words
    assert task.notes == ("1 of 5 Ensembl ids have no approved symbol, left out: 'ENSG99999999999'",)
    assert others in task.info.source


def test_the_canonical_dosage_file_is_preferred_to_its_public_copy(put, ensembl):
    put("dosage-cx0", f"ensembl_id,gene_name,dosage_insensitive,dosage_sensitive\n{ensembl('PAX6')},A,,Yes\n"
        f"{ensembl('ZNF2')},B,Yes,\n")  # fmt: skip
    task = get_task("dosage")
    assert (named(task, 1), named(task, 0)) == (["PAX6"], ["ZNF2"])
    assert any("geneformer-dosage is not on this machine" in note for note in task.notes)
    put("geneformer-dosage", f"dosage_sensitive,dosage_insensitive\n{ensembl('PAX6')},{ensembl('ZNF200')}\n")
    task = get_task("dosage")
    assert (named(task, 1), named(task, 0), task.notes) == (["PAX6"], ["ZNF200"], ())
    assert "cx0" not in task.info.source


# Names, folders, and what is not there


@pytest.mark.parametrize(("name", "file"), [("dosage", "dosage-cx0"), ("ppi", "huri"), ("kegg", "kegg")])
def test_data_that_are_not_here_are_named(put, name, file):
    with pytest.raises(DataNotFoundError, match=f"^Task {name}: .*{file}"):
        get_task(name)


def test_the_list_of_tasks_reads_nothing(put, monkeypatch):
    assert tuple(TASKS) == ALL
    put("dosage-cx0", "x")
    put("geneformer-bivalent", "x")
    put("geneformer-lys4-only", "x")
    monkeypatch.setattr(builtin, "load", None)
    rows = list_tasks()
    assert [row["name"] for row in rows] == list(ALL)
    assert {row["name"] for row in rows if row["here"]} == {"dosage", "lys4"}
    assert {row["kind"] for row in rows} == {"binary", "pairs", "multiclass", "multilabel"}
    assert all(row["description"] == TASKS[row["name"]] for row in rows)


def test_a_name_is_built_in_or_a_folder(tmp_path, monkeypatch):
    path = tmp_path / "my_task"
    path.mkdir()
    (path / "task.yaml").write_text("name: mine\nkind: binary\n")
    (path / "entities.csv").write_text("symbol\nA\nB\n")
    (path / "outcomes.csv").write_text("label\n1\n0\n")
    monkeypatch.chdir(tmp_path)
    for way in (path, str(path), "./my_task", "my_task"):
        assert get_task(way).info.name == "mine"
    for name, message in (("dosagee", "Did you mean 'dosage'"), ("x" * 5000, "a folder such as"), ("./other", "other")):
        with pytest.raises(BftembedError, match=message):
            get_task(name)
    (path / "task.yaml").write_text("name: dosage\nkind: binary\n")
    with pytest.raises(BftembedError, match="built-in"):
        get_task("./my_task")
