"""Which genes are scored, what is counted, and that nothing depends on processes, threads and hashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from gene_toys import binary, card, end, random_pairs, scores, signal, symbols, vectors
from tests_paths import REPOSITORY

import bftembed
from bftembed.errors import BftembedError
from bftembed.tasks.genes import suite
from bftembed.tasks.genes.definition import pair_task, single_task
from bftembed.tasks.genes.matching import match_rows, restricted
from bftembed.tasks.genes.setup import Embedding, Settings


def part_of(found, which):
    """Return vectors with some of the rows."""
    return vectors([g for g, w in zip(found.ids, which, strict=True) if w], found.matrix[which])


@pytest.fixture
def toy():
    task, labels = binary(60)
    return task, labels, vectors(task.genes, signal(labels))


def test_embeddings_are_compared_on_the_genes_that_all_have(toy):
    task, _labels, whole = toy
    less = part_of(whole, np.arange(60) >= 7)
    frame = bftembed.bench.genes({"whole": whole, "less": less}, task, seeds=1)
    assert set(frame["run"]) == {"shared", "own: whole", "all genes"}
    shared = frame[frame["run"] == "shared"]
    assert set(shared["n_used"]) == {53}
    assert set(shared["n_missing"]) == {7}
    assert shared["note"].str.contains("7 of 60 items left out: a gene without a vector").all()
    own = frame[frame["run"] == "own: whole"]
    assert set(own["n_used"]) == {60}
    assert set(own["n_missing"]) == {0}
    assert "less" not in set(own["embedding"])
    # Its own set of genes has floors of its own.
    assert {"floor: random vectors (8 dimensions)", "floor: symbol only", "floor: permuted labels of whole"} <= set(
        own["embedding"]
    )
    # On the same genes, equal vectors have equal scores.
    assert (scores(frame, "whole") == scores(frame, "less")).all()
    every = frame[frame["run"] == "all genes"]
    assert set(every["embedding"]) == {"floor: has a vector in less"}
    assert set(every["n_used"]) == {60}


def test_own_rows_are_what_the_embedding_scores_alone(toy):
    task, _, whole = toy
    less = part_of(whole, np.arange(60) >= 7)
    both = bftembed.bench.genes({"whole": whole, "less": less}, task, seeds=1, floors=False)
    alone = bftembed.bench.genes({"whole": whole}, task, seeds=1, floors=False)
    assert set(alone["run"]) == {"shared"}
    assert (scores(both, "whole", run="own: whole") == scores(alone, "whole")).all()
    none = bftembed.bench.genes({"whole": whole, "less": less}, task, seeds=1, floors=False, own=False)
    assert set(none["run"]) == {"shared"}


def test_a_vector_that_tells_by_being_there_is_a_floor(toy):
    task, labels, whole = toy
    kept = (labels == 1) | (np.arange(60) % 3 == 0)
    frame = bftembed.bench.genes({"mine": part_of(whole, kept)}, task, seeds=1)
    assert scores(frame, "floor: has a vector in mine", run="all genes").mean() > 0.75


def test_genes_that_no_task_asks_for_change_nothing(toy):
    task, _, whole = toy
    more = vectors(
        [*symbols(20, 5), *whole.ids[::-1]], np.concatenate([np.ones((20, 8)), whole.matrix[::-1]]).astype("f4")
    )
    frames = [bftembed.bench.genes({"mine": v}, task, seeds=1, floors=False) for v in (whole, more)]
    assert frames[0].equals(frames[1])
    assert set(frames[0]["run"]) == {"shared"}


def test_zero_vectors_are_dropped_by_strict_and_kept_by_genept(toy):
    task, _labels, whole = toy
    matrix = whole.matrix.copy()
    matrix[:4] = 0
    frame = bftembed.bench.genes(
        {"mine": vectors(whole.ids, matrix)}, task, protocols="strict,genept", seeds=1, floors=False
    )
    strict = frame[frame["protocol"].str.startswith("strict")]
    genept = frame[frame["protocol"].str.startswith("genept")]
    assert set(strict["n_used"]) == {56}
    assert set(strict["n_missing"]) == {4}
    assert set(genept["n_used"]) == {60}
    assert set(genept["n_missing"]) == {0}
    assert frame["note"].str.contains("4 zero vectors among mine").all()
    # For strict, a zero vector is as good as none.
    absent = bftembed.bench.genes({"mine": part_of(whole, np.arange(60) >= 4)}, task, seeds=1, floors=False)
    assert (scores(absent, "mine") == scores(frame, "mine", protocol="strict/logistic")).all()


def test_aliases_are_found_by_strict_alone():
    genes = ["HIST1H4A", "TP53", "NOSUCHGENE"]
    assert match_rows(["H4C1", "P53", "NOSUCH"], genes).tolist() == [0, 1, -1]
    assert match_rows(["H4C1", "P53", "NOSUCHGENE"], genes, aliases=False).tolist() == [-1, -1, 2]
    assert match_rows(["TP53"], ["p53x", "TP53"]).tolist() == [1]


def test_a_gene_called_na_is_a_gene(toy, tmp_path):
    task, labels, whole = toy
    genes = ["NA", *task.genes[1:-1], "nan"]
    odd = single_task(card(), "binary", genes, labels)
    file = tmp_path / "vectors.tsv"
    file.write_text(
        "".join(g + "\t" + "\t".join(map(str, row)) + "\n" for g, row in zip(genes, whole.matrix, strict=True))
    )
    frame = bftembed.bench.genes([file], odd, seeds=1, floors=False)
    assert set(frame["n_used"]) == {60}
    assert set(frame["embedding"]) == {"vectors"}


def test_restricted_drops_items_and_renumbers_genes():
    task = pair_task(
        card(), [("A", "B"), ("B", "C"), ("C", "D"), ("A", "A")], [1, 0, 1, 0], split=["train", "test"] * 2
    )
    part = restricted(task, np.array([True, False, True, True]))
    assert part.genes == ("A", "C", "D")
    assert part.items.tolist() == [[1, 2], [0, 0]]
    assert part.labels.tolist() == [1, 0]
    assert part.split.tolist() == ["train", "test"]


def test_one_pair_of_two_absent_genes_is_counted_once():
    task = random_pairs(60, 500)
    matrix = np.random.default_rng(0).normal(size=(60, 4))
    absent = set(task.genes[:2])
    n = sum(bool(absent & {task.genes[a], task.genes[b]}) for a, b in task.items)
    mine = vectors(task.genes[2:], matrix[2:])
    frame = bftembed.bench.genes({"mine": mine}, task, seeds=1, floors=False)
    assert set(frame["n_missing"]) == {n}
    assert set(frame["n_used"]) == {500 - n}


def test_embeddings_of_different_dimension_have_floors_of_their_own(toy):
    task, labels, whole = toy
    frame = bftembed.bench.genes({"eight": whole, "three": vectors(task.genes, signal(labels, d=3))}, task, seeds=1)
    assert {"floor: random vectors (8 dimensions)", "floor: random vectors (3 dimensions)"} <= set(frame["embedding"])
    assert {"floor: permuted labels of eight", "floor: permuted labels of three"} <= set(frame["embedding"])
    assert frame["value"].notna().all()
    assert end(frame, "three", "ci95-low", "roc_auc_above_floor") <= end(
        frame, "three", "ci95-high", "roc_auc_above_floor"
    )


def test_floors_of_text_where_texts_are_known(toy):
    task, labels, whole = toy
    texts = {g: "word " * (3 + 40 * y) + "same" for g, y in zip(task.genes, labels, strict=True)}
    other = {g: "kinase of a cell" if y else "keratin of a cell" for g, y in zip(task.genes, labels, strict=True)}
    frame = bftembed.bench.genes(
        {"a": whole, "b": whole, "c": whole}, task, seeds=1, texts={"a": texts, "b": texts, "c": other}, own=False
    )
    found = set(frame["embedding"])
    assert {"floor: text length of a", "floor: TF-IDF of the text of a", "floor: text length of c"} <= found
    assert "floor: text length of b" not in found  # the same texts once
    assert scores(frame, "floor: text length of a").mean() == 1.0
    assert scores(frame, "floor: TF-IDF of the text of c").mean() == 1.0
    assert end(frame, "a", "all", "roc_auc_above_floor") <= 0


def test_texts_without_a_word_in_common_are_a_floor_that_knows_nothing(toy):
    task, _, whole = toy
    frame = bftembed.bench.genes({"mine": whole}, task, seeds=1, texts=dict.fromkeys(task.genes, "the"))
    assert scores(frame, "floor: TF-IDF of the text of mine").tolist() == [0.5] * 5


def test_pairs_have_degree_and_propensity():
    draw = np.random.default_rng(0)
    genes, worth = symbols(60), np.random.default_rng(1).standard_normal(60)
    a, b = np.triu_indices(60, 1)
    chosen = draw.choice(len(a), 900, replace=False)
    labels = (worth[a[chosen]] + worth[b[chosen]] > 0).astype(int)
    pairs = [(genes[i], genes[j]) for i, j in zip(a[chosen], b[chosen], strict=True)]
    given = pair_task(card(), pairs, labels, negatives="given")
    matched = pair_task(card("matched"), pairs, labels)
    mine = {"mine": vectors(genes, np.stack([worth, np.ones(60)], axis=1))}
    frame = bftembed.bench.genes(mine, [given, matched], seeds=1)
    toy, drawn = (frame[frame["task"] == n] for n in ("toy", "matched"))
    assert scores(toy, "ceiling: node propensity").mean() > 0.7
    assert scores(toy, "ceiling: degree").mean() > 0.8
    assert scores(toy, "mine").mean() > 0.9
    # Degree says nothing once it is matched.
    assert abs(scores(drawn, "ceiling: degree").mean() - 0.5) < 0.12
    assert "ceiling: node propensity" not in set(drawn["embedding"])


def test_every_probe_and_protocol_has_its_rows(toy):
    task, _, whole = toy
    options = {"protocols": ["genept", "strict"], "probes": ["mlp", "logistic"], "floors": False}
    frame = bftembed.bench.genes({"mine": whole}, task, seeds=[3, 5], **options)
    assert set(frame["protocol"]) == {"genept/logistic", "genept/forest", "strict/logistic", "strict/mlp"}
    for protocol, part in frame[frame["embedding"] == "mine"].groupby("protocol"):
        folds = part[part["split"].str.startswith("fold")]
        expected = {(s, f"fold{i}") for s in ([2023] if "genept" in protocol else [3, 5]) for i in range(5)}
        assert set(zip(folds["seed"], folds["split"], strict=True)) == expected
        low, high = (
            part[(part["split"] == f"ci95-{e}") & (part["metric"] == "roc_auc")]["value"].item()
            for e in ("low", "high")
        )
        assert low <= folds["value"].mean() <= high
        assert set(part["metric"]) == {"roc_auc"}
    twice = bftembed.bench.genes({"mine": whole}, task, seeds=[5, 3, 5], floors=False)
    assert (scores(twice, "mine") == scores(frame, "mine", protocol="strict/logistic")).all()


def test_what_the_suite_refuses(toy):
    task, _, whole = toy
    mine = {"mine": Embedding(whole)}
    for embeddings, settings, message in (
        ({}, Settings(), "No embedding was given"),
        (mine, Settings(seeds=()), "At least one seed"),
        ({"floor: x": Embedding(whole)}, Settings(), "'floor: x' is that of a floor"),
        ({"ceiling: x": Embedding(whole)}, Settings(), "is that of a floor or ceiling"),
        (mine, Settings(protocols=("stric",)), "Did you mean 'strict'"),
        (mine, Settings(probes=("logistik",)), "Did you mean 'logistic'"),
    ):
        with pytest.raises(BftembedError, match=message):
            suite.run(embeddings, [task], settings)


def test_progress_is_told(toy):
    task, _, whole = toy
    told = []
    bftembed.bench.genes(
        {"mine": whole}, task, seeds=1, floors=False, protocols="strict,genept", progress=lambda *a: told.append(a)
    )
    assert told == [(0, 1, "toy, strict"), (0, 1, "toy, genept"), (1, 1, "")]


_PROGRAM = """
import json, sys
sys.path.insert(0, "tests")
import numpy as np
import bftembed
from gene_toys import binary, card, random_pairs, signal, symbols, vectors
from bftembed.tasks.genes.definition import single_task

def main(jobs):
    draw = np.random.default_rng(0)
    task, labels = binary(40)
    many = single_task(card("many"), "multilabel", symbols(150), draw.random((150, 5)) < .3, label_names=list("abcde"))
    pairs = random_pairs(30, 150)
    texts = {g: f"a {draw.choice(['kinase', 'keratin', 'ligase'])} of {g}" for g in many.genes}
    mine = {"mine": vectors(many.genes, draw.normal(size=(150, 60)))}
    frames = [
        bftembed.bench.genes(
            mine, [task, pairs, many], protocols="strict,genept", probes="logistic,mlp", seeds=1, floors=False,
            jobs=jobs,
        ),
        bftembed.bench.genes({"a": vectors(many.genes, draw.normal(size=(150, 300)))}, many, seeds=1, texts=texts),
    ]
    rows = [f.astype(object).where(f.notna(), None).values.tolist() for f in frames]
    print(json.dumps([[*row[:7], repr(row[7]), *row[8:]] for part in rows for row in part]))

if __name__ == "__main__":
    main(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Give a function that starts the program in a process of its own, with other settings."""
    program = tmp_path_factory.mktemp("program") / "program.py"
    program.write_text(_PROGRAM)

    def start(jobs, threads, hash_seed):
        numbers = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        return subprocess.Popen(
            [sys.executable, str(program), str(jobs)],
            cwd=REPOSITORY,
            env={**os.environ, **numbers, "PYTHONHASHSEED": str(hash_seed)},
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


def test_results_do_not_depend_on_processes_threads_and_hashes(elsewhere):
    running = [elsewhere(1, 1, 0), elsewhere(1, 2, 1), elsewhere(2, 1, 2)]
    printed = [p.communicate(timeout=300)[0] for p in running]
    assert [p.returncode for p in running] == [0, 0, 0]
    first, *others = (json.loads(text) for text in printed)
    assert len(first) > 70
    for other in others:
        assert other == first
