"""`bftembed profiles …`: what is written, JSON, exit codes."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from bftembed.llm import generator_fingerprint, model_from_spec
from bftembed.llm.store import STORE_FILE, AnswerStore
from bftembed.profiles.estimate import expected_seconds, record_seconds
from bftembed.profiles.generate import generate_profiles
from bftembed.profiles.selection import _read_exported

GENES = "TP53,EGFR,MYC,KRAS,CD3D,LYZ,GNLY,ALB"
SCRIPTED = "scripted:refuse=0.3"


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    generate_profiles([*GENES.split(","), "P53", "nonsense1"], generator="facts", out=folder)
    generate_profiles(GENES.split(",")[:6], generator=SCRIPTED, out=folder)
    return folder


def asked(run, *words):
    code, printed, told = run("profiles", *words, "--json")
    return code, json.loads(printed) if printed else told


def test_generate_counts_every_name_and_goes_on(run, tmp_path):
    words = ("generate", "TP53", "P53", "EGFR", "nonsense1", "--generator", "facts", "--out", tmp_path / "s")
    code, told = asked(run, *words, "--dry-run")
    assert (code, told["entities"], told["to_write"]) == (0, 2, 2)
    assert not (tmp_path / "s").exists()
    code, told = asked(run, *words)
    assert code == 3
    assert told["resolution"] == {"used": 2, "mapped": 1, "missing": 1}
    assert (told["written"], told["skipped"], told["failed"], told["marks"]) == (2, ["nonsense1"], [], {"ok": 2})
    assert asked(run, *words)[1]["already_stored"] == 2


def test_tokens_are_estimated_with_the_context(run, tmp_path):
    table = tmp_path / "context.tsv"
    table.write_text("TP53\tin the liver of mice, at length and in detail\n")
    words = ("generate", "TP53", "--out", tmp_path / "s", "--dry-run", "--kind", "cell-type")
    words += ("--generator", "openai:gpt-4o-mini,max_new_tokens=100")
    told = [asked(run, *words, *more)[1] for more in ((), ("--context", table))]
    assert told[1]["prompt_tokens"] > told[0]["prompt_tokens"] > 20
    assert told[0]["most_completion_tokens"] == 100


def test_time_is_estimated_from_the_largest_recorded_run(run, tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    spec = "openai:gpt-4o-mini,max_new_tokens=100"
    words = ("generate", "TP53,EGFR", "--out", tmp_path / "s", "--dry-run", "--generator", spec)
    assert asked(run, *words)[1]["seconds"] is None  # nothing is known of a server
    kind = generator_fingerprint(*model_from_spec(spec))
    for n, seconds in ((1, 2.0), (8, 40.0), (3, 90.0)):
        record_seconds(kind, n, seconds)
    assert asked(run, *words)[1]["seconds"] == 10.0
    assert [expected_seconds(kind, n) for n in (0, 4, 80)] == [0.0, 20.0, 400.0]
    record_seconds("short", 8, 4.0)  # start-up is most of it
    assert [expected_seconds("short", n) for n in (4, 8, 9)] == [2.0, 4.0, None]


def test_show_gives_texts_by_any_name(run, store):
    code, told = asked(run, "show", store)
    assert (code, len(told["profiles"])) == (0, 14)
    code, told = asked(run, "show", store, "P53", "BRCA1")
    assert (code, told["missing"]) == (3, ["BRCA1"])
    assert [p["entity"] for p in told["profiles"]] == ["TP53", "TP53"]
    code, told = asked(run, "show", store, "TP53", "--generator", "facts")
    assert (code, [p["generator"] for p in told["profiles"]]) == (0, ["facts"])
    code, told = asked(run, "show", store, "TP53", "--generator", "fact")
    assert code == 1
    assert "Did you mean 'facts'" in told


def test_status_counts_and_leaves_with_3_where_profiles_are_missing(run, store):
    code, told = asked(run, "status", store)
    assert (code, told["profiles"], told["without_profile"], len(told["origins"])) == (0, 14, 0, 2)
    with AnswerStore.writing(store) as opened:
        opened.add_entities([opened.entities()[0].__class__("gene", "INS", "INS", "used")])
    assert asked(run, "status", store)[0] == 3


def test_export_gives_a_table_with_its_provenance_and_equal_bytes(run, store, tmp_path):
    assert run("profiles", "export", store, "--out", tmp_path / "p.parquet")[0] == 0
    first = (tmp_path / "p.parquet").read_bytes()
    run("profiles", "export", store, "--out", tmp_path / "p.parquet")
    assert (tmp_path / "p.parquet").read_bytes() == first
    assert b"scripted" in pq.read_schema(tmp_path / "p.parquet").metadata[b"bftembed"]
    with AnswerStore.open(store) as opened:
        assert _read_exported(tmp_path / "p.parquet") == opened.answers()


def test_report_prints_what_it_counts(run, store):
    code, told = asked(run, "report", store)
    facts, scripted = told["origins"]
    assert (code, facts["generator"], facts["covered"], facts["resolvable"]) == (0, "facts", 9, 9)
    assert scripted["profiles"] == 6
    printed = run("profiles", "report", store)[1]
    assert f"gene: bft-gene@1 by facts ({facts['generator_id']})" in printed
    assert "resolvable" in printed


@pytest.mark.parametrize(
    "words",
    [
        ("quality", "--out", "q.csv"),
        ("quality", "--texts", "none.tsv"),
        ("quality", "--generator", "none"),
    ],
)
def test_what_cannot_be_done_is_an_error_and_writes_nothing(run, store, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("profiles", words[0], store, *words[1:])
    assert (code, out) == (1, "")
    assert run("profiles", words[0], tmp_path)[0] == 1
    assert not (tmp_path / STORE_FILE).exists()
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_quality_scores_the_genes_that_all_cover(run, store):
    code, told = asked(run, "quality", store)
    assert (code, {(s["n"], s["n_missing"]) for s in told["scores"]}) == (0, {(6, 2)})
    own = {s["kind"]: s["value"] for s in told["scores"] if "facts" in s["subject"]}
    assert own["subject"] == 1.0 > own["shuffled"]
    assert {s["n"] for s in asked(run, "quality", store, "--generator", "facts")[1]["scores"]} == {8}
    code, shown, _ = run("profiles", "quality", store)
    assert "full-name-word-recall" in shown
    generate_profiles(["INS"], generator="scripted:seed=3", out=store)
    assert asked(run, "quality", store)[0] == 1


def test_a_run_without_a_profile_to_use_is_not_a_success(run, tmp_path):
    words = ("profiles", "generate", "TP53,EGFR", "--out", tmp_path / "s", "--generator", "scripted:empty=1")
    code, _, said = run(*words)
    assert code == 3
    assert "2 empty" in said
    words = ("profiles", "generate", "nonsense-x,nonsense-y,TP53", "--unknown", "keep", "--generator", "facts")
    code, _, said = run(*words, "--out", tmp_path / "t")
    assert code == 3
    assert "2 failed, such as nonsense-x: no HGNC record for 'nonsense-x'" in said
