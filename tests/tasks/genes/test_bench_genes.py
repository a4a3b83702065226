"""`bftembed.bench.genes` and `bftembed bench genes`: what is read, written and refused, and the leak check."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from bftembed.results import read_results
from gene_toys import binary, card, scores, signal, symbols, vectors

import bftembed
from bftembed.cli import main
from bftembed.embeddings import GeneEmbeddings, embed_genes
from bftembed.errors import BftembedError
from bftembed.tasks.genes.definition import single_task


@pytest.fixture
def run(monkeypatch, capsys):
    """A command run in this process: (exit code, standard output, standard error)."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["bftembed", "bench", "genes", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return left.value.code or 0, printed.out, printed.err

    return call


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Give a folder with a task, ``toy``, and two embeddings of its genes, in two formats."""
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
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


def quick(folder, *more):
    return ("--tasks", folder / "toy", "--seeds", 1, "--out", folder / "r.parquet", *more)


def test_the_verb_scores_files_and_writes_the_rows(run, files):
    code, printed, _ = run(
        files / "good.safetensors", f"second={files / 'other.tsv'}", *quick(files), "--figure", files / "f.svg"
    )
    assert code == 0
    frame = read_results(files / "r.parquet")
    assert {"good", "second"} < set(frame["embedding"])
    assert set(frame["n_used"]) == {30}  # the gene called NA is one
    assert b"<svg" in (files / "f.svg").read_bytes()
    assert list((files / "cache" / "gene-scores").glob("*.npz"))
    written = (files / "r.parquet").read_bytes()
    code, again, _ = run(
        files / "good.safetensors", f"second={files / 'other.tsv'}", *quick(files), "--figure", files / "f.svg"
    )
    assert (code, again) == (0, printed)
    assert (files / "r.parquet").read_bytes() == written


def test_json_is_one_object(run, files):
    code, printed, told = run(files / "good.safetensors", *quick(files, "--json", "--protocols", "genept"))
    summary = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (code, told) == (0, "")
    assert summary["out"] == str(files / "r.parquet")
    assert summary["rows"] == len(read_results(files / "r.parquet"))
    assert summary["failed"] == 0
    assert {row["protocol"] for row in summary["summary"]} == {"genept/logistic", "genept/forest"}


def test_a_usage_error_is_code_2(run, files):
    assert run(*quick(files))[0] == 2
    code, _, told = run(files / "good.safetensors", "--tasks", files / "toy")
    assert (code, "--out" in told) == (2, True)


def test_an_embedding_without_a_gene_of_the_task_is_code_3_beside_one_that_has(run, files):
    GeneEmbeddings(symbols(9, 4), np.ones((9, 2))).save(files / "strange.safetensors")
    code, printed, _ = run(files / "good.safetensors", files / "strange.safetensors", *quick(files, "--json"))
    assert code == 3
    assert json.loads(printed)["failed"] == 1
    frame = read_results(files / "r.parquet")
    failed = frame[frame["value"].isna()]
    assert failed["embedding"].tolist() == ["strange"]
    assert "none of the task's genes" in failed["note"].item()
    assert set(frame[frame["embedding"] == "good"]["n_used"]) == {30}  # they do not share nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "dosag"], "Did you mean 'dosage'"),
        (["--tasks", ""], "No task was named"),
        (["--tasks", " , "], "No task was named"),
        (["--protocols", "stict"], "Did you mean 'strict'"),
        (["--seeds", "0"], ""),
        (["--texts", "a.tsv", "--texts", "b.tsv"], "neither embeddings"),
        (["--texts", "godo=x.tsv"], "neither embeddings"),
        (["--encoder", "no-such-encoder", "--texts", "good=TEXTS"], "nknown"),
    ],
)
def test_an_error_is_one_message_and_code_1(run, files, arguments, message):
    (files / "texts.tsv").write_text("NA\tit has dosage\n")
    (files / "toy" / "task.yaml").write_text("name: toy\nkind: binary\nlabel_words: [dosage]\n")
    arguments = [a.replace("TEXTS", str(files / "texts.tsv")) for a in arguments]
    code, printed, told = run(files / "good.safetensors", *quick(files, *arguments))
    assert (code, printed) == (1, "")
    assert message in told
    assert "Traceback" not in told
    assert told.count("error: ") == 1
    assert not (files / "r.parquet").exists()


def test_files_that_are_no_embeddings_are_named(run, files):
    (files / "empty.tsv").write_text("")
    (files / "nan.tsv").write_text("TP53\t1\t2\nEGFR\tnan\t2\nKRAS\t1\t3\n")
    (files / "binary.npz").write_bytes(bytes(range(200)))
    for name, message in (
        ("empty.tsv", "is empty"),
        ("nan.tsv", "EGFR"),
        ("binary.npz", "binary.npz"),
        ("no.tsv", "No such"),
    ):
        code, _, told = run(files / name, *quick(files))
        assert code == 1
        assert message in told, told
    assert not (files / "r.parquet").exists()


def test_a_pickle_is_refused_without_the_option_and_runs_nothing_with_it(run, files):
    genes = ["NA", *binary(30)[0].genes[1:]]
    labels = binary(30)[1]
    good = dict(zip(genes, signal(labels, dtype=np.float64).tolist(), strict=True))
    (files / "good.pickle").write_bytes(pickle.dumps(good))
    code, _, told = run(files / "good.pickle", *quick(files))
    assert (code, "--allow-pickle" in told or "allow_pickle" in told) == (1, True)
    assert run(files / "good.pickle", *quick(files, "--allow-pickle"))[0] == 0

    class Bad:
        def __reduce__(self):
            return ((files / "made").touch, ())

    (files / "bad.pickle").write_bytes(pickle.dumps({"TP53": Bad()}))
    assert run(files / "bad.pickle", *quick(files, "--allow-pickle"))[0] == 1
    assert not (files / "made").exists()


def test_no_input_is_overwritten(files):
    (files / "texts.tsv").write_text("NA\ta kinase\n")
    (files / "link.tsv").symlink_to(files / "texts.tsv")
    before = {p.name: p.read_bytes() for p in files.iterdir() if p.is_file()}
    options = {"seeds": 1, "floors": False}
    for out in ("good.safetensors", "texts.tsv", "link.tsv"):
        for texts in (files / "texts.tsv", {"good": files / "texts.tsv"}):
            with pytest.raises(BftembedError, match="itself and would be overwritten"):
                bftembed.bench.genes(
                    [files / "good.safetensors"], files / "toy", texts=texts, out=files / out, **options
                )
            if out == "good.safetensors":
                break
    assert {p.name: p.read_bytes() for p in files.iterdir() if p.is_file()} == before


def test_names_of_embeddings(files):
    good = files / "good.safetensors"
    with pytest.raises(BftembedError, match="Two embeddings are called 'good'"):
        bftembed.bench.genes([good, good], files / "toy")
    with pytest.raises(BftembedError, match="'floor: mine' is that of a floor"):
        bftembed.bench.genes([f"floor: mine={good}"], files / "toy")
    with pytest.raises(BftembedError, match="needs a name"):
        bftembed.bench.genes([f"={good}"], files / "toy")
    odd = files / "a=b.safetensors"
    good.rename(odd)
    frame = bftembed.bench.genes([odd, f"second={odd}"], files / "toy", seeds=1, floors=False)
    assert set(frame["embedding"]) == {"a=b", "second"}


def test_a_task_of_no_gene_is_an_error_with_five_of_theirs_and_five_of_ours():
    task, _labels = binary(30)
    with pytest.raises(BftembedError) as caught:
        bftembed.bench.genes({"mine": vectors([f"X{i}" for i in range(9)], np.ones((9, 2)))}, task)
    for name in [*(f"'X{i}'" for i in range(5)), *map(repr, task.genes[:5])]:
        assert name in str(caught.value)
    assert "'X5'" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_in_memory_that_are_not_finite_name_the_gene(value):
    task, labels = binary(30)
    matrix = signal(labels)
    matrix[7, 2] = value
    with pytest.raises(BftembedError, match=task.genes[7]):
        bftembed.bench.genes({"mine": vectors(task.genes, matrix)}, task, seeds=1)


@pytest.mark.parametrize("seeds", [0, [], [-1], [2**40]])
def test_seeds_that_are_none(seeds):
    task, labels = binary(30)
    with pytest.raises(BftembedError, match="seed"):
        bftembed.bench.genes({"mine": vectors(task.genes, signal(labels))}, task, seeds=seeds, floors=False)


def test_texts_must_be_of_the_embeddings_or_their_genes(files):
    good, text = files / "good.safetensors", {"TP53": "a gene"}
    for texts in ({"typo": text}, {"good": text, "typo": text}, {"typo": "file.tsv"}, {"TP53": "a text"}):
        with pytest.raises(BftembedError, match="neither embeddings"):
            bftembed.bench.genes([good], files / "toy", texts=texts, seeds=1)


def leaking(n=60, words=("haploinsufficient",)):
    """Return a task, and texts of which those of most positives say the label, beside words that mean nothing."""
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1], n // 2))
    task = single_task(card("leak"), "binary", symbols(n), labels, label_words=words)
    draw = np.random.default_rng(1)
    nouns = ["kinase", "membrane", "ligand", "zinc finger", "mitochondria", "receptor", "cytoskeleton", "splicing"]
    said = {0: "", 1: "haploinsufficient "}
    silent = set(np.flatnonzero(labels)[:8].tolist())
    texts = {
        g: f"A gene of {draw.choice(nouns)} and {draw.choice(nouns)}, {said[int(y) * (i not in silent)]}in tissue."
        for i, (g, y) in enumerate(zip(task.genes, labels, strict=True))
    }
    return task, labels, texts


def test_texts_that_state_the_label_are_counted_and_scored_without():
    task, labels, texts = leaking()
    frame = bftembed.bench.genes(
        {"mine": vectors(task.genes, signal(labels))}, task, seeds=1, floors=False, texts=texts
    )
    stated = frame[frame["metric"] == "label_stated_in_text"].set_index("split")["value"]
    assert stated.to_dict() == {"negative": 0.0, "positive": pytest.approx(22 / 30)}
    without = frame[frame["embedding"] == "mine, without texts that state the label"]
    assert set(without["n_used"]) == {38}
    assert set(without["n_missing"]) == {22}
    assert without["split"].str.startswith("fold").all()
    assert "words found: haploinsufficient" in frame[frame["metric"] == "label_stated_in_text"]["note"].iloc[0]
    clean = {g: t.replace("haploinsufficient ", "") for g, t in texts.items()}
    frame = bftembed.bench.genes(
        {"mine": vectors(task.genes, signal(labels))}, task, seeds=1, floors=False, texts=clean
    )
    assert set(frame[frame["metric"] == "label_stated_in_text"]["value"]) == {0.0}
    assert not frame["embedding"].str.contains("without texts").any()


def test_tfidf_is_encoded_again_on_all_texts():
    task, _labels, texts = leaking()
    made = embed_genes(texts, "tfidf:dim=6")
    frame = bftembed.bench.genes({"mine": made}, task, seeds=1, floors=False, texts=texts, encoder="tfidf:dim=6")
    masked = scores(frame, "mine, label words masked").mean()
    assert scores(frame, "mine").mean() > 0.7
    assert masked < scores(frame, "mine").mean() - 0.1
    # Vectors of one space: what an embedding of all masked texts scores.
    bare = embed_genes({g: t.replace("haploinsufficient ", "") for g, t in texts.items()}, "tfidf:dim=6")
    alone = bftembed.bench.genes({"bare": bare}, task, seeds=1, floors=False)
    assert masked == pytest.approx(scores(alone, "bare").mean(), abs=0.02)


def test_a_text_of_which_nothing_is_left_has_no_vector_that_tells():
    task, labels, _ = leaking()
    texts = {g: "haploinsufficient" if y else "kinase" for g, y in zip(task.genes, labels, strict=True)}
    matrix = np.where(labels[:, None] == 1, 5.0, -5.0) * np.ones(384)
    matrix = (matrix + np.random.default_rng(0).standard_normal(matrix.shape)).astype(np.float32)
    from bftembed.bench.genes import _masked

    mine = vectors(task.genes, matrix)
    found = _masked(mine, texts, [task], "random:dim=384", lambda *a: None)["leak"]
    assert sorted(found.ids) == sorted(g for g, y in zip(task.genes, labels, strict=True) if y)
    assert not found.matrix.any()


def test_an_encoder_of_another_dimension_is_refused():
    task, labels, texts = leaking()
    with pytest.raises(BftembedError, match="gives 5 dimensions, the embedding memory has 8"):
        bftembed.bench.genes(
            {"mine": vectors(task.genes, signal(labels))}, task, seeds=1, texts=texts, encoder="random:dim=5"
        )


def test_a_gene_of_another_name_in_the_task_is_masked_too():
    from bftembed.bench.genes import _masked

    task = single_task(card("alias"), "binary", ["H4C1", "TP53"], [1, 0], label_words=["bivalent"])
    mine = vectors(["HIST1H4A", "TP53"], np.ones((2, 4)))
    found = _masked(mine, {"HIST1H4A": "a bivalent gene"}, [task], "random:dim=4", lambda *a: None)["alias"]
    assert found.ids == ("HIST1H4A",)


@pytest.mark.model
def test_the_score_falls_when_the_label_is_masked():
    task, _, texts = leaking()
    made = embed_genes(texts, "builtin:all-minilm-l6-v2")
    frame = bftembed.bench.genes(
        {"mine": made}, task, seeds=2, floors=False, texts=texts, encoder="builtin:all-minilm-l6-v2"
    )
    before, after = (scores(frame, name).mean() for name in ("mine", "mine, label words masked"))
    assert before > 0.7
    assert after < before - 0.1
