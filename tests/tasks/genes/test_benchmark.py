"""`bftembed.bench.genes`: which genes are scored, what is counted and rejected."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from gene_toys import binary, card, mean, random_pairs, scores, signal, symbols, vectors
from tests_paths import REPOSITORY

import bftembed
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError
from bftembed.tasks.base import read_results
from bftembed.tasks.genes import make_task
from bftembed.tasks.genes.benchmark import _rows_of


def bench(embeddings, tasks, **options):
    return bftembed.bench.genes(embeddings, tasks, **{"seeds": 1, **options})


def part_of(found, which):
    """Return vectors with some of the rows."""
    return vectors([g for g, w in zip(found.ids, which, strict=True) if w], found.matrix[which])


@pytest.fixture
def toy():
    task, labels = binary(40)
    return task, labels, vectors(task.genes, signal(labels))


@pytest.fixture
def files(tmp_path):
    """Give a folder with a task, ``toy``, and two embeddings of its genes, in two formats."""
    task, labels = binary(30)
    genes = ["NA", *task.genes[1:]]
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "task.yaml").write_text("name: toy\nkind: binary\n")
    (folder / "entities.csv").write_text("symbol\n" + "".join(f"{g}\n" for g in genes))
    (folder / "outcomes.csv").write_text("label\n" + "".join(f"{y}\n" for y in labels))
    GeneEmbeddings(genes, signal(labels)).save(tmp_path / "good.safetensors")
    rows = zip(genes, signal(labels, d=3, seed=1), strict=True)
    (tmp_path / "other.tsv").write_text("".join(g + "\t" + "\t".join(map(str, row)) + "\n" for g, row in rows))
    return tmp_path


# Which genes are scored


def test_embeddings_are_compared_on_the_genes_that_all_have(toy):
    task, _, whole = toy
    less = part_of(whole, np.arange(40) >= 7)
    frame = bench({"whole": whole, "less": less}, task)
    assert set(frame["run"]) == {"shared", "own: whole", "all genes"}
    shared, own, every = (frame[frame["run"] == run] for run in ("shared", "own: whole", "all genes"))
    assert (set(shared["n"]), set(shared["n_missing"])) == ({33}, {7})
    assert (set(own["n"]), set(own["n_missing"])) == ({40}, {0})
    # Its own set of genes has baselines of its own.
    assert set(zip(own["kind"], own["subject"], strict=True)) == {
        ("subject", "whole"),
        ("chance", "whole"),
        ("random", "random vectors (8 dimensions)"),
        ("baseline", "symbol only"),
        ("baseline", "name only"),
    }
    # On the same genes, equal vectors have equal scores.
    assert (scores(frame, "whole") == scores(frame, "less")).all()
    assert (set(every["subject"]), set(every["n"])) == ({"has a vector in less"}, {40})
    alone = bench({"whole": whole}, task, baselines=False)
    assert set(alone["run"]) == {"shared"}
    assert (scores(frame, "whole", run="own: whole") == scores(alone, "whole")).all()
    assert set(bench({"whole": whole, "less": less}, task, baselines=False, own=False)["run"]) == {"shared"}


def test_aliases_are_never_guessed():
    genes = ["HIST1H4A", "TP53", "NOSUCHGENE"]
    assert _rows_of(["H4C1", "P53", "NOSUCH"], genes).tolist() == [0, 1, -1]
    assert _rows_of(["H4C1", "P53", "NOSUCHGENE"], genes, aliases=False).tolist() == [-1, -1, 2]
    assert _rows_of(["TP53"], ["p53x", "TP53"]).tolist() == [1]


def test_a_vector_that_tells_by_being_there_is_a_baseline(toy):
    task, labels, whole = toy
    frame = bench({"mine": part_of(whole, (labels == 1) | (np.arange(40) % 3 == 0))}, task)
    assert mean(frame, "has a vector in mine", "baseline", run="all genes")["value"] > 0.75


def test_zero_vectors_are_dropped_by_strict_and_kept_by_genept(toy):
    task, _, whole = toy
    matrix = whole.matrix.copy()
    matrix[:4] = 0
    frame = bench({"mine": vectors(whole.ids, matrix)}, task, protocols="strict,genept", baselines=False)
    strict, genept = (mean(frame, "mine", protocol=f"{p}/logistic") for p in ("strict", "genept"))
    assert (strict["n"], strict["n_missing"], genept["n"], genept["n_missing"]) == (36, 4, 40, 0)
    absent = bench({"mine": part_of(whole, np.arange(40) >= 4)}, task, baselines=False)
    assert (scores(absent, "mine") == scores(frame, "mine", protocol="strict/logistic")).all()


def test_a_pair_with_an_absent_gene_is_counted_once():
    task = random_pairs(40, 400)
    absent = set(task.genes[:2])
    n = sum(bool(absent & {task.genes[a], task.genes[b]}) for a, b in task.items)
    mine = vectors(task.genes[2:], np.random.default_rng(0).normal(size=(38, 4)))
    frame = bench({"mine": mine}, task, baselines=False)
    assert (set(frame["n_missing"]), set(frame["n"])) == ({n}, {400 - n})


def test_baselines_of_text_where_texts_are_known(toy):
    task, labels, whole = toy
    texts = {g: "word " * (3 + 40 * y) + "same" for g, y in zip(task.genes, labels, strict=True)}
    other = {g: "kinase of a cell" if y else "keratin of a cell" for g, y in zip(task.genes, labels, strict=True)}
    given = {"a": texts, "b": texts, "c": other}
    frame = bench(dict.fromkeys("abc", vectors(whole.ids, whole.matrix[:, :1])), task, texts=given, own=False)
    assert "text length of b" not in set(frame["subject"])  # the same texts once
    assert mean(frame, "text length of a", "baseline")["value"] == 1.0
    assert mean(frame, "TF-IDF of the text of c", "baseline")["value"] == 1.0
    assert mean(frame, "a")["difference"] <= 0


def test_every_classifier_and_protocol_has_its_rows_and_progress_is_reported(toy):
    task, _, whole = toy
    told = []
    options = {"protocols": ["genept", "strict"], "baselines": False, "progress": lambda *a: told.append(a)}
    frame = bench({"mine": whole}, task, seeds=[3, 5, 3], **options)
    expected = {"genept/logistic": [2023], "genept/forest": [2023], "strict/logistic": [3, 5]}
    assert set(frame["protocol"]) == set(expected)
    for protocol, seeds in expected.items():
        rows = frame[(frame["protocol"] == protocol) & frame["seed"].notna()]
        assert set(zip(rows["seed"], rows["split"], strict=True)) == {(s, f"fold{i}") for s in seeds for i in range(5)}
        row = mean(frame, "mine", protocol=protocol)
        assert row["value"] == pytest.approx(rows["value"].mean(), abs=1e-12)
        assert row["low"] <= row["value"] <= row["high"]
    assert told == [(0, 1, "toy, genept"), (0, 1, "toy, strict"), (1, 1, "")]


# Texts that state the label


def leaking(n=60):
    """Return a task, and texts of which those of most positives say the label, beside words that mean nothing."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1], n // 2))
    task = make_task(card("leak"), "binary", symbols(n), labels, label_words=["haploinsufficient"])
    draw = np.random.default_rng(1)
    nouns = ["kinase", "membrane", "ligand", "zinc finger", "mitochondria", "receptor", "cytoskeleton", "splicing"]
    silent = set(np.flatnonzero(labels)[:8].tolist())
    texts = {
        g: f"A gene of {draw.choice(nouns)} and {draw.choice(nouns)}, "
        f"{'haploinsufficient ' if y and i not in silent else ''}in tissue."
        for i, (g, y) in enumerate(zip(task.genes, labels, strict=True))
    }
    return task, labels, texts


def test_texts_that_state_the_label_are_counted_and_scored_without():
    task, labels, texts = leaking()
    mine = {"mine": vectors(task.genes, signal(labels))}
    frame = bench(mine, task, baselines=False, texts=texts)
    stated = frame[frame["metric"] == "label_stated_in_text"].set_index("split")["value"]
    assert stated.to_dict() == {"negative": 0.0, "positive": pytest.approx(22 / 30)}
    row = mean(frame, "mine", "label-removed")
    assert (row["n"], row["n_missing"]) == (38, 22)
    assert row["value"] == pytest.approx(scores(frame, "mine", "label-removed").mean())
    clean = {g: t.replace("haploinsufficient ", "") for g, t in texts.items()}
    frame = bench(mine, task, baselines=False, texts=clean)
    assert set(frame[frame["metric"] == "label_stated_in_text"]["value"]) == {0.0}
    assert set(frame["kind"]) == {"subject"}


# What is given and what is rejected


def test_files_are_scored_and_rows_written(files):
    options = {"baselines": False, "out": files / "r.parquet"}
    given = [files / "good.safetensors", f"second={files / 'other.tsv'}"]
    frame = bench(given, str(files / "toy"), **options)
    assert frame.equals(read_results(files / "r.parquet"))
    assert (set(frame["subject"]), set(frame["n"])) == ({"good", "second"}, {30})  # the gene called NA is one


def test_what_cannot_be_scored_fails_beside_what_can(toy):
    task, labels, whole = toy
    strange = GeneEmbeddings(symbols(9, 4), np.ones((9, 2)))
    frame = bench({"good": whole, "strange": strange}, task, baselines=False)
    failed = frame.loc[frame["value"].isna(), ["subject", "reason", "protocol", "n_missing"]]
    assert failed.values.tolist() == [["strange", "no-vectors", "strict/logistic", 40]]
    assert mean(frame, "good")["n"] == 40  # they do not share nothing
    with pytest.raises(BftembedError, match="none of the task's genes"):
        bench({"strange": strange}, task)
    few = replace(task, info=card("few"), labels=(np.arange(40) < 3).astype(np.int64))
    many = make_task(card("many"), "multilabel", task.genes, np.stack([labels, 1 - labels], 1), label_names="ab")
    frame = bench({"mine": whole}, [task, few, many], protocols="strict,genept", baselines=False)
    failed = frame[frame["value"].isna()]
    assert sorted(zip(failed["task"], failed["protocol"], failed["reason"], strict=True)) == [
        ("few", "genept/forest", "too-few"),
        ("few", "genept/logistic", "too-few"),
        ("few", "strict/logistic", "too-few"),
        ("many", "genept/forest", "undefined"),
        ("many", "genept/logistic", "undefined"),
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"tasks": "dosag"},
        {"embeddings": {}},
        {"seeds": 0},
        {"seeds": [2**40]},
        {"protocols": "stict"},
        {"texts": {"typo": {"TP53": "a gene"}}},
        {"embeddings": ["no.tsv"]},
    ],
    ids=str,
)
def test_calls_that_make_no_sense(files, options):
    given = {"embeddings": [files / "good.safetensors"], "tasks": files / "toy", "out": files / "r.parquet", **options}
    with pytest.raises(BftembedError):
        bench(**given)
    assert not (files / "r.parquet").exists()


def test_vectors_in_memory_that_are_not_finite_name_the_gene(toy):
    task, _, whole = toy
    matrix = whole.matrix.copy()
    matrix[7, 2] = np.nan
    with pytest.raises(BftembedError, match=task.genes[7]):
        bench({"mine": vectors(task.genes, matrix)}, task)


def test_no_input_is_overwritten(files):
    (files / "texts.tsv").write_text("NA\ta kinase\n")
    (files / "link.tsv").symlink_to(files / "texts.tsv")
    before = {p.name: p.read_bytes() for p in files.iterdir() if p.is_file()}
    for out, texts in (("good.safetensors", None), ("link.tsv", {"good": files / "texts.tsv"})):
        with pytest.raises(BftembedError, match="overwritten"):
            bench([files / "good.safetensors"], files / "toy", texts=texts, out=files / out)
    assert {p.name: p.read_bytes() for p in files.iterdir() if p.is_file()} == before


# Processes

_PROGRAM = """
import json, sys
import numpy as np
import bftembed
from gene_toys import binary, vectors

def main(jobs):
    draw = np.random.default_rng(0)
    task, _ = binary(20)
    mine = {"mine": vectors(task.genes, draw.normal(size=(20, 40)))}
    frame = bftembed.bench.genes(mine, task, protocols="strict,genept", seeds=1, baselines=False, jobs=jobs)
    print(json.dumps([[repr(x) for x in row] for row in frame.values.tolist()]))

main(int(sys.argv[1]))
"""


def test_results_do_not_depend_on_processes_threads_and_hashes(tmp_path):
    (tmp_path / "program.py").write_text(_PROGRAM)
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    running = []
    for jobs, threads, hash_seed in ((1, 1, 0), (2, 2, 1)):
        numbers = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        environment = {**os.environ, **numbers, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": paths}
        command = [sys.executable, str(tmp_path / "program.py"), str(jobs)]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    first, other = (json.loads(p.communicate(timeout=500)[0]) for p in running)
    assert len(first) == 18
    assert other == first
