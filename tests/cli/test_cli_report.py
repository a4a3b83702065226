from __future__ import annotations

import json

import numpy as np
import pytest

from bftembed.results import write_results
from bftembed.tasks import clustering


@pytest.fixture
def results(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        X = np.random.default_rng(seed).normal(size=(20, 3))
        write_results(clustering.run({"X": X}, ["p", "q"] * 10, run=name, seeds=[0]), tmp_path / f"{name}.parquet")
    return tmp_path


def test_report_merges_the_files_and_prints_the_path(run, results):
    out = results / "report.html"
    code, printed, _ = run("report", results / "a.parquet", results / "b.parquet", "--out", out, "--title", "Two runs")
    assert (code, printed) == (0, f"{out}\n")
    page = out.read_text(encoding="utf-8")
    assert "<title>Two runs</title>" in page
    assert "clustering · a" in page
    assert "clustering · b" in page


def test_json_gives_the_path(run, results):
    out = results / "report.html"
    assert json.loads(run("report", results / "a.parquet", "--out", out, "--json")[1]) == {"out": str(out)}


def test_a_missing_file_is_an_error_and_writes_nothing(run, results):
    code, printed, told = run("report", results / "none.parquet", "--out", results / "report.html")
    assert (code, printed) == (1, "")
    assert told.startswith("error: No such results file")
    assert not (results / "report.html").exists()
