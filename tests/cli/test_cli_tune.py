"""`bftembed tune` as a user types it."""

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
    assert code == 0
    assert json.loads(printed) == {"pairs": 1, "out": str(out)}
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert [m["content"] for m in row["messages"]] == ["Tell me about the gene TP53.", "A tumour suppressor."]


def test_tune_takes_a_config_without_the_word_run(run, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(f"recipe: tune\nout: {tmp_path}/run\ndata: {{train: {tmp_path}/nothing.jsonl}}\n")
    for words in (("tune",), ("tune", "run")):
        code, _, told = run(*words, config)
        assert code == 1
        assert "No such data file" in told
    config.write_text("recipe: demo\n")
    code, _, told = run("tune", config)
    assert code == 1
    assert "expected 'recipe: tune'" in told
    code, _, told = run("tune", "nothing.yaml")
    assert code == 1
    assert "No such config file" in told


def test_the_recipe_tune_is_shown_with_its_defaults(run):
    code, printed, _ = run("config", "show", "tune")
    assert code == 0
    assert "sample_coefficient: one_minus_min" in printed


def test_a_folder_for_llamafactory_is_written(run, table, tmp_path):
    pairs, config = tmp_path / "pairs.jsonl", tmp_path / "c.yaml"
    run("tune", "pairs", table, "--out", pairs)
    config.write_text(f"recipe: tune\ndata: {{train: {pairs}}}\n")
    code, printed, _ = run("tune", "llamafactory", config, "--out", tmp_path / "lf", "--json")
    assert code == 0
    assert {"train.json", "dataset_info.json", "train.yaml", "bft_hook.py"} <= set(json.loads(printed)["files"])
