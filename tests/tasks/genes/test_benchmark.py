"""`bftembed.bench.genes`: which genes are scored, what is counted, cached and rejected."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from gene_toys import binary, card, mean, pair_task, random_pairs, scores, signal, symbols, vectors
from tests_paths import REPOSITORY

import bftembed
from bftembed.embeddings import GeneEmbeddings, embed_genes
from bftembed.errors import BftembedError
from bftembed.tasks.base import read_results
from bftembed.tasks.genes import make_task, scoring


def bench(embeddings, tasks, **options):
    return bftembed.bench.genes(embeddings, tasks, **{"seeds": 1, **options})


def part_of(found, which):
    """Return vectors with some of the rows."""
    return vectors([g for g, w in zip(found.ids, which, strict=True) if w], found.matrix[which])


@pytest.fixture
def toy():
    task, labels = binary(60)
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
    task, _labels, whole = toy
    less = part_of(whole, np.arange(60) >= 7)
    frame = bench({"whole": whole, "less": less}, task)
    assert set(frame["run"]) == {"shared", "own: whole", "all genes"}
    shared, own, every = (frame[frame["run"] == run] for run in ("shared", "own: whole", "all genes"))
    assert (set(shared["n"]), set(shared["n_missing"])) == ({53}, {7})
    assert (set(own["n"]), set(own["n_missing"])) == ({60}, {0})
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
    assert (set(every["subject"]), set(every["kind"]), set(every["n"])) == (
        {"has a vector in less"},
        {"baseline"},
        {60},
    )


def test_own_rows_are_what_the_embedding_scores_alone(toy):
    task, _, whole = toy
    both = {"whole": whole, "less": part_of(whole, np.arange(60) >= 7)}
    frame, alone = bench(both, task, baselines=False), bench({"whole": whole}, task, baselines=False)
    assert set(alone["run"]) == {"shared"}
    assert (scores(frame, "whole", run="own: whole") == scores(alone, "whole")).all()
    assert set(bench(both, task, baselines=False, own=False)["run"]) == {"shared"}


def test_a_vector_that_tells_by_being_there_is_a_baseline(toy):
    task, labels, whole = toy
    frame = bench({"mine": part_of(whole, (labels == 1) | (np.arange(60) % 3 == 0))}, task)
    assert mean(frame, "has a vector in mine", "baseline", run="all genes")["value"] > 0.75


def test_zero_vectors_are_dropped_by_strict_and_kept_by_genept(toy):
    task, _labels, whole = toy
    matrix = whole.matrix.copy()
    matrix[:4] = 0
    frame = bench({"mine": vectors(whole.ids, matrix)}, task, protocols="strict,genept", baselines=False)
    strict = mean(frame, "mine", protocol="strict/logistic")
    genept = mean(frame, "mine", protocol="genept/logistic")
    assert (strict["n"], strict["n_missing"], genept["n"], genept["n_missing"]) == (56, 4, 60, 0)
    absent = bench({"mine": part_of(whole, np.arange(60) >= 4)}, task, baselines=False)
    assert (scores(absent, "mine") == scores(frame, "mine", protocol="strict/logistic")).all()


def test_one_pair_of_two_absent_genes_is_counted_once():
    task = random_pairs(60, 500)
    absent = set(task.genes[:2])
    n = sum(bool(absent & {task.genes[a], task.genes[b]}) for a, b in task.items)
    mine = vectors(task.genes[2:], np.random.default_rng(0).normal(size=(58, 4)))
    frame = bench({"mine": mine}, task, baselines=False)
    assert (set(frame["n_missing"]), set(frame["n"])) == ({n}, {500 - n})


def test_baselines_of_text_where_texts_are_known(toy):
    task, labels, whole = toy
    texts = {g: "word " * (3 + 40 * y) + "same" for g, y in zip(task.genes, labels, strict=True)}
    other = {g: "kinase of a cell" if y else "keratin of a cell" for g, y in zip(task.genes, labels, strict=True)}
    given = {"a": texts, "b": texts, "c": other}
    frame = bench(dict.fromkeys("abc", whole), task, texts=given, own=False)
    assert "text length of b" not in set(frame["subject"])  # the same texts once
    assert mean(frame, "text length of a", "baseline")["value"] == 1.0
    assert mean(frame, "TF-IDF of the text of c", "baseline")["value"] == 1.0
    assert mean(frame, "a")["difference"] <= 0
    frame = bench({"mine": whole}, task, texts=dict.fromkeys(task.genes, "the"))
    assert scores(frame, "TF-IDF of the text of mine", "baseline").tolist() == [0.5] * 5


def test_pairs_have_degree_and_propensity():
    draw = np.random.default_rng(0)
    genes, worth = symbols(60), np.random.default_rng(1).standard_normal(60)
    a, b = np.triu_indices(60, 1)
    chosen = draw.choice(len(a), 900, replace=False)
    labels = (worth[a[chosen]] + worth[b[chosen]] > 0).astype(int)
    pairs = [(genes[i], genes[j]) for i, j in zip(a[chosen], b[chosen], strict=True)]
    tasks = [pair_task(card(), pairs, labels, negatives="given"), pair_task(card("matched"), pairs, labels)]
    frame = bench({"mine": vectors(genes, np.stack([worth, np.ones(60)], axis=1))}, tasks)
    given, matched = (frame[frame["task"] == n] for n in ("toy", "matched"))
    assert mean(given, "node propensity", "upper-bound")["value"] > 0.7
    assert mean(given, "degree", "upper-bound")["value"] > 0.8
    assert mean(given, "mine")["value"] > 0.9
    # Degree says nothing once it is matched.
    assert abs(mean(matched, "degree", "upper-bound")["value"] - 0.5) < 0.12
    assert "node propensity" not in set(matched["subject"])


def test_every_probe_and_protocol_has_its_rows(toy):
    task, _, whole = toy
    options = {"protocols": ["genept", "strict"], "probes": ["mlp", "logistic"], "baselines": False}
    frame = bench({"mine": whole}, task, seeds=[3, 5], **options)
    expected = {"genept/logistic": [2023], "genept/forest": [2023], "strict/logistic": [3, 5], "strict/mlp": [3, 5]}
    assert set(frame["protocol"]) == set(expected)
    for protocol, seeds in expected.items():
        rows = frame[(frame["protocol"] == protocol) & frame["seed"].notna()]
        assert set(zip(rows["seed"], rows["split"], strict=True)) == {(s, f"fold{i}") for s in seeds for i in range(5)}
        row = mean(frame, "mine", protocol=protocol)
        assert row["value"] == pytest.approx(rows["value"].mean(), abs=1e-12)
        assert row["low"] <= row["value"] <= row["high"]
    twice = bench({"mine": whole}, task, seeds=[5, 3, 5], baselines=False)
    assert (scores(twice, "mine") == scores(frame, "mine", protocol="strict/logistic")).all()


def test_progress_is_reported(toy):
    task, _, whole = toy
    told = []
    bench({"mine": whole}, task, baselines=False, protocols="strict,genept", progress=lambda *a: told.append(a))
    assert told == [(0, 1, "toy, strict"), (0, 1, "toy, genept"), (1, 1, "")]


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
    assert np.isnan(row["low"])
    clean = {g: t.replace("haploinsufficient ", "") for g, t in texts.items()}
    frame = bench(mine, task, baselines=False, texts=clean)
    assert set(frame[frame["metric"] == "label_stated_in_text"]["value"]) == {0.0}
    assert set(frame["kind"]) == {"subject"}


def test_masked_texts_are_encoded_again_in_one_space():
    task, _labels, texts = leaking()
    frame = bench(
        {"mine": embed_genes(texts, "tfidf:dim=6")}, task, baselines=False, texts=texts, encoder="tfidf:dim=6"
    )
    whole, masked = mean(frame, "mine")["value"], mean(frame, "mine", "label-masked")["value"]
    assert whole > 0.7
    assert masked < whole - 0.1
    # What an embedding of all masked texts scores.
    bare = embed_genes({g: t.replace("haploinsufficient ", "") for g, t in texts.items()}, "tfidf:dim=6")
    assert masked == pytest.approx(mean(bench({"bare": bare}, task, baselines=False), "bare")["value"], abs=0.02)


# What is given and what is rejected


def test_files_are_scored_and_rows_written(files):
    options = {"baselines": False, "out": files / "r.parquet", "cache": files / "cache"}
    given = [files / "good.safetensors", f"second={files / 'other.tsv'}"]
    frame = bench(given, str(files / "toy"), **options)
    assert frame.equals(read_results(files / "r.parquet"))
    assert (set(frame["subject"]), set(frame["n"])) == ({"good", "second"}, {30})  # the gene called NA is one
    written = (files / "r.parquet").read_bytes()
    bench(given, files / "toy", **options)
    assert (files / "r.parquet").read_bytes() == written


def test_an_embedding_without_a_gene_of_the_task_fails_beside_one_that_has(files):
    strange = GeneEmbeddings(symbols(9, 4), np.ones((9, 2)))
    frame = bench({"good": files / "good.safetensors", "strange": strange}, files / "toy", baselines=False)
    failed = frame[frame["value"].isna()]
    assert failed[["subject", "reason", "protocol", "n_missing"]].values.tolist() == [
        ["strange", "no-vectors", "strict/logistic", 30]
    ]
    assert mean(frame, "good")["n"] == 30  # they do not share nothing
    with pytest.raises(BftembedError, match="none of the task's genes"):
        bench({"strange": strange}, files / "toy")


def test_a_task_that_cannot_be_divided_fails_beside_one_that_can(toy):
    task, labels, whole = toy
    few = replace(task, info=card("few"), labels=(np.arange(60) < 3).astype(np.int64))
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
    ("options", "message"),
    [
        ({"tasks": "dosag"}, "Did you mean 'dosage'"),
        ({"tasks": " , "}, "At least one"),
        ({"embeddings": {}}, "At least one"),
        ({"seeds": 0}, "At least one"),
        ({"seeds": [-1]}, "-1"),
        ({"seeds": [2**40]}, "Seeds"),
        ({"protocols": "stict"}, "Did you mean 'strict'"),
        ({"probes": "mpl"}, "Did you mean 'mlp'"),
        ({"texts": {"typo": {"TP53": "a gene"}}}, "neither embeddings"),
        ({"texts": {"TP53": "a text"}}, "neither embeddings"),
        ({"encoder": "no-such-encoder", "texts": {"NA": "it has dosage"}}, "nknown"),
        ({"embeddings": ["no.tsv"]}, r"no\.tsv"),
        ({"embeddings": ["=x.tsv"]}, "needs a name"),
        ({"embeddings": ["a=x.tsv", "a=y.tsv"]}, "name of its own"),
    ],
)
def test_calls_that_make_no_sense(files, options, message):
    given = {"embeddings": [files / "good.safetensors"], "tasks": files / "toy", "out": files / "r.parquet", **options}
    with pytest.raises(BftembedError, match=message):
        bench(**given)
    assert not (files / "r.parquet").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_in_memory_that_are_not_finite_name_the_gene(toy, value):
    task, _, whole = toy
    matrix = whole.matrix.copy()
    matrix[7, 2] = value
    with pytest.raises(BftembedError, match=task.genes[7]):
        bench({"mine": vectors(task.genes, matrix)}, task)


def test_a_pickle_needs_the_option_and_runs_nothing_with_it(files):
    genes, labels = ["NA", *binary(30)[0].genes[1:]], binary(30)[1]
    good = dict(zip(genes, signal(labels, dtype=np.float64).tolist(), strict=True))
    (files / "good.pickle").write_bytes(pickle.dumps(good))
    with pytest.raises(BftembedError, match="allow_pickle"):
        bench([files / "good.pickle"], files / "toy")
    assert bench([files / "good.pickle"], files / "toy", allow_pickle=True, baselines=False)["value"].notna().all()

    class Bad:
        def __reduce__(self):
            return ((files / "made").touch, ())

    (files / "bad.pickle").write_bytes(pickle.dumps({"TP53": Bad()}))
    with pytest.raises(BftembedError):
        bench([files / "bad.pickle"], files / "toy", allow_pickle=True)
    assert not (files / "made").exists()


def test_no_input_is_overwritten(files):
    (files / "texts.tsv").write_text("NA\ta kinase\n")
    (files / "link.tsv").symlink_to(files / "texts.tsv")
    before = {p.name: p.read_bytes() for p in files.iterdir() if p.is_file()}
    for out, texts in (
        ("good.safetensors", None),
        ("texts.tsv", files / "texts.tsv"),
        ("link.tsv", {"good": files / "texts.tsv"}),
    ):
        with pytest.raises(BftembedError, match="overwritten"):
            bench([files / "good.safetensors"], files / "toy", texts=texts, out=files / out)
    assert {p.name: p.read_bytes() for p in files.iterdir() if p.is_file()} == before


# Scores that were computed before


def computed(folder):
    return {p.name for p in folder.glob("*.npz")}


def test_a_rerun_computes_nothing_and_one_more_embedding_only_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "REPLICATES_MULTILABEL", 20)
    labels = np.random.default_rng(0).random((40, 2)) < 0.4
    task = make_task(card(), "multilabel", symbols(40), labels, label_names=["x", "y"])
    a, b = (vectors(task.genes, signal(labels[:, 0], d=4, seed=i)) for i in range(2))
    first = bench({"a": a}, task, cache=tmp_path)
    files = computed(tmp_path)
    assert len(files) == 5
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in files}
    assert bench({"a": a}, task, cache=tmp_path).equals(first)
    assert bench({"a": a}, task).equals(first)
    bench({"other name": a}, task, cache=tmp_path)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in computed(tmp_path)} == times
    both = bench({"a": a, "b": b}, task, cache=tmp_path)
    assert len(computed(tmp_path)) == 7  # its scores, and those of its permuted labels
    assert scores(both, "b").tolist() == scores(bench({"b": b}, task), "b").tolist()
    # A damaged file is computed again.
    damaged = tmp_path / sorted(files)[0]
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert bench({"a": a}, task, cache=tmp_path).equals(first)
    assert damaged.stat().st_size > 40


def test_changed_vectors_labels_seeds_and_probes_are_computed_anew(tmp_path):
    task, labels = binary(30)
    matrix = signal(labels, d=4)
    changed = matrix.copy()
    changed[3, 1] = np.nextafter(changed[3, 1], 9)
    turned = replace(task, labels=1 - task.labels)
    calls = [(m, task, {}) for m in (matrix, changed, matrix.astype(np.float64), np.roll(matrix, 1, axis=1))]
    calls += [(matrix, turned, {}), (matrix, task, {"seeds": [1]}), (matrix, task, {"seeds": 2})]
    calls += [(matrix, task, {"probes": "mlp"})]
    for i, (m, of, options) in enumerate(calls):
        bench({"a": vectors(task.genes, m)}, of, baselines=False, cache=tmp_path, **options)
        assert len(computed(tmp_path)) == i + 1


# Processes

_PROGRAM = """
import json, sys
import numpy as np
import bftembed
from gene_toys import binary, card, random_pairs, symbols, vectors
from bftembed.tasks.genes import make_task

def main(jobs):
    draw = np.random.default_rng(0)
    task, labels = binary(40)
    many = make_task(card("many"), "multilabel", symbols(150), draw.random((150, 5)) < .3, label_names=list("abcde"))
    pairs = random_pairs(30, 150)
    texts = {g: f"a {draw.choice(['kinase', 'keratin', 'ligase'])} of {g}" for g in many.genes}
    mine = {"mine": vectors(many.genes, draw.normal(size=(150, 60)))}
    frames = [
        bftembed.bench.genes(
            mine, [task, pairs, many], protocols="strict,genept", probes="logistic,mlp", seeds=1, baselines=False,
            jobs=jobs,
        ),
        bftembed.bench.genes({"a": vectors(many.genes, draw.normal(size=(150, 300)))}, many, seeds=1, texts=texts),
    ]
    print(json.dumps([[repr(x) for x in row] for f in frames for row in f.values.tolist()]))

main(int(sys.argv[1]))
"""


def test_results_do_not_depend_on_processes_threads_and_hashes(tmp_path):
    (tmp_path / "program.py").write_text(_PROGRAM)
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    running = []
    for jobs, threads, hash_seed in ((1, 1, 0), (1, 2, 1), (2, 1, 2)):
        numbers = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        environment = {**os.environ, **numbers, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": paths}
        command = [sys.executable, str(tmp_path / "program.py"), str(jobs)]
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    printed = [p.communicate(timeout=500)[0] for p in running]
    assert [p.returncode for p in running] == [0, 0, 0]
    first, *others = (json.loads(text) for text in printed)
    assert len(first) > 70
    for other in others:
        assert other == first
