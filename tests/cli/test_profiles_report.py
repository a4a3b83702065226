"""`bftembed profiles report`, `quality` and `show --diff` as a user types them."""

from __future__ import annotations

import gzip
import json

import pytest

from bftembed.profiles.runner import generate_profiles
from bftembed.profiles.store import STORE_FILE
from bftembed.results import read_results

GENES = "TP53,EGFR,MYC,KRAS,CD3D,LYZ,GNLY,ALB"
SCRIPTED = "scripted:refuse=0.3"


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    generate_profiles([*GENES.split(","), "P53", "nonsense1"], generator="facts", out=folder)
    generate_profiles(GENES.split(",")[:6], generator=SCRIPTED, out=folder)
    return folder


@pytest.fixture
def table(tmp_path):
    from bftembed.entities.genes import GeneIndex

    file = tmp_path / "texts.tsv.gz"
    genes = [*GENES.split(",")[:5], "INS", "ACTB"]
    rows = [f"{g}\tThe {GeneIndex.default().get(g).name} of a cell, number {i}." for i, g in enumerate(genes)]
    file.write_bytes(gzip.compress("\n".join(["symbol\tsummary", *rows]).encode()))
    return file


def test_report_says_what_the_store_holds(run, store):
    code, out, err = run("profiles", "report", store)
    assert (code, err) == (0, "")
    assert "names (gene): 1 mapped, 1 missing, 8 used" in out
    assert "gene: bft-gene@1 by facts" in out
    assert "8 of 8 entities; 8 with text, 8 unmarked" in out
    assert "100.0% of 9 resolvable names without a mark" in out
    assert "are nearly another entity's" in out


def test_report_writes_what_it_prints(run, store, tmp_path):
    html, record, figure = (tmp_path / name for name in ("r.html", "r.json", "f.png"))
    code, out, _ = run("profiles", "report", store, "--out", html, "--figure", figure)
    assert code == 0
    assert out.splitlines()[-2:] == [str(figure), str(html)]
    assert figure.read_bytes().startswith(b"\x89PNG")
    page = html.read_text(encoding="utf-8")
    assert "Profiles of store" in page
    assert "names (gene): 1 mapped, 1 missing, 8 used" in page
    code, out, _ = run("profiles", "report", store, "--out", record, "--json")
    told, written = json.loads(out), json.loads(record.read_text())
    assert told["origins"] == written["origins"]
    facts, scripted = told["origins"]
    assert (facts["generator"], facts["covered"], facts["resolvable"]) == ("facts", 9, 9)
    assert (scripted["profiles"], scripted["text_coverage"]) == (6, pytest.approx(7 / 9))
    assert scripted["near_duplicates"]["compared"] == 6
    assert told["files"] == [str(record)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "r.txt"], "ends in .html or .json"),
        (["--figure", "f.jpg"], "ends in .png"),
        (["--threshold", "0"], "above 0, up to 1"),
        (["--threshold", "nan"], "above 0, up to 1"),
    ],
)
def test_report_refuses_before_any_work(run, store, arguments, message):
    code, out, err = run("profiles", "report", store, *arguments)
    assert (code, out) == (1, "")
    assert message in err


def test_a_folder_without_a_store_is_named(run, tmp_path):
    for command in ("report", "quality"):
        code, _, err = run("profiles", command, tmp_path)
        assert code == 1
        assert "No profile store" in err
        assert not (tmp_path / STORE_FILE).exists()


def test_show_diff_sets_profiles_side_by_side(run, store):
    code, out, _ = run("profiles", "show", store, "P53", "--diff")
    assert code == 0
    first, second = (line for line in out.splitlines() if line.startswith("TP53  bft-gene@1 by "))
    assert "facts" in first
    assert "of the words as in the first" not in first
    assert "scripted" in second
    assert "of the words as in the first" in second
    assert "[-human gene." in out
    _, turned, _ = run("profiles", "show", store, "TP53", "--diff", "--generator", "scripted", "--generator", "facts")
    assert turned.index("by scripted") < turned.index("by facts")
    assert "{+human gene." in turned


def test_show_diff_tells_json_and_what_is_missing(run, store):
    code, out, _ = run("profiles", "show", store, "TP53", "BRCA1", "--diff", "--generator", "facts", "--json")
    assert code == 3
    told = json.loads(out)
    assert (told["missing"], len(told["profiles"]), told["profiles"][0]["same"]) == (["BRCA1"], 1, 1.0)


def test_show_without_diff_can_choose_too(run, store):
    code, out, _ = run("profiles", "show", store, "TP53", "--generator", "facts")
    assert code == 0
    assert "scripted" not in out


def test_show_diff_refuses_what_it_does_not_know(run, store):
    code, _, err = run("profiles", "show", store, "--diff")
    assert code == 1
    assert "--diff needs a gene" in err
    code, _, err = run("profiles", "show", store, "TP53", "--diff", "--generator", "fact")
    assert code == 1
    assert "Did you mean 'facts'" in err


def test_quality_scores_the_genes_that_all_cover(run, store):
    code, out, err = run("profiles", "quality", store, "--json")
    assert code == 0
    assert "quality: 6 genes, covered by every origin (2); 2 left out" in err
    told = json.loads(out)
    assert (told["genes"], told["left_out"], told["candidates"]) == (6, 2, 0)
    own = [s for s in told["scores"] if s["metric"] == "mentions-own-gene" and "facts" in s["generator"]]
    assert {s["texts"]: s["value"] for s in own} == {"profiles": 1.0, "shuffled": 0.0}


def test_quality_with_texts_adds_retrieval_and_a_results_table(run, store, table, tmp_path):
    results = tmp_path / "q.parquet"
    code, out, err = run("profiles", "quality", store, "--texts", table, "--out", results)
    assert code == 0
    assert "5 genes" in err
    assert "its summary among 7, names removed" in out
    assert "its summary among 7, names kept" in out
    frame = read_results(results)
    assert set(frame["split"]) == {"all", "ci95-low", "ci95-high"}
    assert set(frame["protocol"]) == {"names", "names kept", "names removed"}
    assert set(frame["embedding"]) == {
        "symbol alone",
        *(f"bft-gene@1 by {g}{floor}" for g in ("facts", SCRIPTED) for floor in ("", " (shuffled)")),
    }
    rank = frame[(frame["metric"] == "recall@1") & (frame["protocol"] == "names kept") & (frame["split"] == "all")]
    assert rank.set_index("embedding").loc["bft-gene@1 by facts", "value"] == 1
    code, out, _ = run("profiles", "quality", store, "--texts", table, "--candidates", "covered", "--json")
    assert (code, json.loads(out)["candidates"]) == (0, 5)


def test_quality_of_chosen_generators_covers_more(run, store):
    code, _, err = run("profiles", "quality", store, "--generator", "facts")
    assert code == 0
    assert "8 genes, covered by every origin (1)" in err


def test_quality_refuses_what_cannot_be_compared(run, store, table, tmp_path):
    generate_profiles(["INS"], generator="scripted:seed=3", out=store)
    code, _, err = run("profiles", "quality", store)
    assert code == 1
    assert "Only 0 genes of HGNC have a profile of every origin" in err
    assert "Choose origins with --generator" in err
    for arguments, message in (
        (["--candidates", "some"], "Unknown candidates 'some'"),
        (["--out", "q.csv"], "ends in .parquet"),
        (["--texts", table, "--text", "body"], "Unknown column 'body'"),
        (["--generator", "none"], "Unknown generator"),
        (["--texts", tmp_path / "none.tsv"], "No such data file"),
    ):
        code, _, err = run("profiles", "quality", store, *arguments)
        assert code == 1
        assert message in err
    cells = tmp_path / "cells"
    generate_profiles(["T cell"], generator="scripted", kind="cell-type", out=cells)
    code, _, err = run("profiles", "quality", cells)
    assert code == 1
    assert "no profiles of genes" in err
