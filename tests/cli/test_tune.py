"""`bftembed tune …` as a user types it; tuning itself is in tests/tuning, the diagnostic in tests/tasks."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "texts.tsv"
    file.write_text("symbol\tsummary\nTP53\tA tumour suppressor.\nEGFR\tA receptor of growth factors.\nLYZ\t\n")
    return file


def test_pairs_are_made_of_a_table_without_the_genes_left_out(run, table, tmp_path):
    out, leave = tmp_path / "pairs.jsonl", tmp_path / "leave.txt"
    leave.write_text("EGFR\n")
    code, printed, _ = run("tune", "pairs", table, "--out", out, "--leave-out", leave, "--json")
    assert (code, json.loads(printed)) == (0, {"pairs": 1, "out": str(out)})
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert [m["content"] for m in row["messages"]] == ["Tell me about the gene TP53.", "A tumour suppressor."]
    assert run("tune", "pairs", table, "--out", table)[0] == 1


def test_synthesize_prints_its_counts_and_says_what_failed(run, table, tmp_path, monkeypatch):
    from bftembed.llm import BACKENDS

    monkeypatch.setitem(BACKENDS.entries, "teacher", "synthesis_tools:Teacher")
    monkeypatch.delenv("BFTEMBED_DATA", raising=False)
    words = ("tune", "synthesize", "--teacher", f"teacher:{tmp_path}/log", "--out", tmp_path / "out", "--json")
    code, printed, _ = run(*words, table)
    found = json.loads(printed)
    assert (code, found["chunks"], found["rows"], found["pairs"]) == (0, 2, 2, str(tmp_path / "out" / "pairs.jsonl"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("SUBJECT-A")
    (tmp_path / "texts" / "bad.txt").write_bytes(b"\xff")
    code, printed, told = run(*words, tmp_path / "texts")
    assert (code, json.loads(printed)["rows"]) == (3, 1)
    assert "bad.txt" in told
    assert run(*words, tmp_path / "nothing")[0] == 1


def test_tune_takes_a_config_with_and_without_the_word_run(run, tmp_path):
    pytest.importorskip("trl")
    config = tmp_path / "c.yaml"
    config.write_text(f"recipe: tune\nout: {tmp_path}/run\ndata: {{train: {tmp_path}/nothing.jsonl}}\n")
    for words in (("tune",), ("tune", "run")):
        code, _, told = run(*words, config)
        assert code == 1
        assert "nothing.jsonl" in told
    config.write_text("recipe: genes embed\nprofiles: x\n")
    code, _, told = run("tune", config)
    assert code == 1
    assert "recipe: tune" in told
