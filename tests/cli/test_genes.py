"""`bftembed genes resolve` and `embed`: what is written, JSON, exit codes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pyarrow.parquet
import pytest

from bftembed.embeddings import GeneEmbeddings
from bftembed.llm.base import Answer
from bftembed.llm.store import AnswerStore


def resolved(run, *words):
    code, printed, told = run("genes", "resolve", *words, "--json")
    return code, json.loads(printed) if printed else told


def test_every_name_has_a_row(run, tmp_path, pbmc_path):
    code, told = resolved(run, "TP53,p53,EGFR,EGFR,,QARS,ZZZ9Q")
    assert code == 3
    counts = told["counts"]
    assert [counts[k] for k in ("total", "used", "mapped", "ambiguous", "missing", "entities")] == [5, 2, 1, 1, 1, 2]
    assert counts["merged"] == {"TP53": ["TP53", "p53"]}
    assert (told["duplicates"], told["blank"]) == ({"EGFR": 1}, 1)
    assert [row["entity"] for row in told["rows"]][:3] == ["TP53", "TP53", "EGFR"]
    path = tmp_path / "genes.csv"
    path.write_text("symbol,ensembl_id\nTP53,ENSG00000146648\n")
    assert resolved(run, path, "--column", "ensembl_id")[1]["rows"][0]["symbol"] == "EGFR"
    counts = resolved(run, pbmc_path)[1]["counts"]
    assert (counts["used"], counts["mapped"], counts["missing"]) == (700, 54, 11)
    rows = resolved(run, "CD3,IgG1", "--kind", "protein")[1]["rows"]
    assert rows[0]["genes"] == "CD3D,CD3E,CD3G"


def test_names_that_need_a_look_are_printed_fit_for_a_terminal(run, tmp_path):
    path = tmp_path / "list.txt"
    names = ["\x1b[2J\x07evil", "A" * 100_000, "TP53", "QARS", *(f"ZZQ{i}" for i in range(100))]
    path.write_text("\n".join(names) + "\n")
    code, printed, _ = run("genes", "resolve", path)
    lines = printed.splitlines()
    assert code == 3
    assert lines[1].startswith("QARS")
    assert "TP53" not in printed
    assert "\x1b" not in printed
    assert max(map(len, lines)) < 200
    assert len(lines) < 50


@pytest.mark.parametrize("suffix", ["tsv", "csv", "parquet"])
def test_every_row_is_written(run, tmp_path, suffix):
    source, out = tmp_path / "genes.txt", tmp_path / "new" / f"table.{suffix}"
    source.write_text('TP53\np53\nQARS\n"a, ""b\tc"\n')
    assert run("genes", "resolve", source, "--out", out)[0] == 3
    if suffix == "parquet":
        rows = pyarrow.parquet.read_table(out).to_pylist()
    else:
        with out.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if suffix == "tsv" else ","))
    assert list(rows[0]) == ["name", "status", "entity", "symbol", "genes", "via", "candidates", "note"]
    assert [row["status"] for row in rows] == ["used", "mapped", "ambiguous", "missing"]
    assert rows[2]["candidates"] == "EPRS1,QARS1"


def test_a_list_is_never_overwritten_and_another_suffix_is_an_error(run, tmp_path):
    path = tmp_path / "genes.tsv"
    path.write_text("gene\tscore\nTP53\t1\n")
    assert run("genes", "resolve", path, "--out", path)[0] == 1
    assert run("genes", "resolve", path, "--out", tmp_path / "table.xlsx")[0] == 1
    assert [p.read_text() for p in tmp_path.iterdir()] == ["gene\tscore\nTP53\t1\n"]


@pytest.fixture
def store(tmp_path):
    texts = {
        "TP53": ("a tumour suppressor of the nucleus", ()),
        "ACTB": ("an actin of the nucleus", ()),
        "EGFR": ("a receptor kinase", ("truncated",)),
        "EVIL\x1b[31m": ("", ("failed",)),
    }
    made = [
        Answer(f"{i:064d}", entity, "gene", text, "stop", marks, "bft-gene@1", "facts")
        for i, (entity, (text, marks)) in enumerate(texts.items())
    ]
    with AnswerStore.writing(tmp_path / "store") as opened:
        identifier = opened.add_generator("facts", {"engine": "facts"})
        opened.add([replace(one, generator_id=identifier) for one in made], {p.key: [] for p in made})
    return tmp_path / "store"


def test_embed_counts_what_was_left_out(run, store, tmp_path):
    out = tmp_path / "new" / "genes.safetensors"
    code, printed, _ = run("genes", "embed", store, "--encoder", "random:dim=8", "--out", out)
    assert code == 0
    assert "\x1b" not in printed
    assert GeneEmbeddings.load(out).ids == ["ACTB", "TP53"]
    options = ("--allow-marks", "looping, truncated", "--prompt", "bft-gene", "--generator", "facts", "--json")
    code, printed, _ = run("genes", "embed", store, "--encoder", "tfidf:dim=2", "--out", out, *options)
    told, made = json.loads(printed), GeneEmbeddings.load(out)
    assert (code, made.ids) == (0, ["ACTB", "EGFR", "TP53"])
    assert told["counts"] == {"profiles": 4, "embedded": 3, "left_out": 1, "unique_texts": 3}
    assert told["left_out"] == {"failed": 1}
    assert (told["dim"], told["fingerprint"]) == (made.dim, made.fingerprint())


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--encoder", "tfid", "--out", "g"), 1),
        (("--encoder", "tfidf", "--allow-marks", "truncate", "--out", "g"), 1),
        (("--encoder", "tfidf", "--generator", "nobody", "--out", "g"), 1),
        (("--encoder", "tfidf"), 2),
    ],
)
def test_embed_errors_leave_no_file(run, store, tmp_path, monkeypatch, words, code):
    monkeypatch.chdir(tmp_path)
    assert run("genes", "embed", store, *words)[0] == code
    assert [p.name for p in tmp_path.iterdir()] == ["store"]
