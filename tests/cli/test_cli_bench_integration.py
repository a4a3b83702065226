from __future__ import annotations

import json

import numpy as np
import pytest
from integration_toys import as_anndata

from bftembed.results import read_results

pytest.importorskip("scib_metrics")


@pytest.fixture
def h5ad(tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    as_anndata().write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


OPTIONS = ("--label", "kind", "--batch", "lot", "--seeds", 1)


def test_the_table_has_short_headers_and_the_best_total_first(run, h5ad, tmp_path):
    import jax

    jax.clear_caches()  # what another test had compiled would not be written again
    out, figure = tmp_path / "r.parquet", tmp_path / "table.svg"
    given = ("--keys", "X_a,X_pre", "--baselines", "harmony", "--out", out, "--figure", figure)
    code, printed, told = run("bench", "integration", h5ad, *OPTIONS, *given)
    assert code == 0, told
    lines = printed.splitlines()
    assert lines[0] == "cells/kind/lot · profile current · 150 cells"
    assert lines[2].split()[-1] == "Total"
    totals = [float(line.split()[-1]) for line in lines[3:6]]
    assert totals == sorted(totals, reverse=True)
    frame = read_results(out)
    assert totals == pytest.approx(sorted(frame.loc[frame["metric"] == "total", "value"], reverse=True), abs=5e-4)
    assert lines[-2:] == [str(figure), str(out)]
    assert "Table 2" not in printed
    assert figure.read_text().startswith("<?xml")
    assert "integration: 3/3" in told
    assert any((tmp_path / "cache" / "jax").iterdir())


def test_the_paper_s_table_stands_apart_under_its_profile_alone(run, h5ad, tmp_path):
    given = ("--keys", "X_a", "--profile", "paper", "--out", tmp_path / "r.parquet")
    code, printed, _ = run("bench", "integration", h5ad, *OPTIONS, *given)
    assert code == 0
    own, _, paper = printed.partition("\n\nTable 2 of the BFT paper")
    assert "scMODAL" not in own
    assert [line.split()[0] for line in paper.splitlines()[3:7]] == ["scMODAL", "BFT", "Harmony", "BBKNN"]


def test_json_is_one_object_that_any_parser_reads(run, h5ad, tmp_path):
    given = ("--keys", "X_a", "--before", "X_pre", "--out", tmp_path / "r.parquet", "--json")
    code, printed, told = run("bench", "integration", h5ad, *OPTIONS, *given)
    summary = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (code, told, summary["failed"]) == (0, "", 0)
    (row,) = summary["summary"]
    assert row["embedding"] == "X_a"
    assert row["sd"] is None
    assert 0 < row["total"] < 1


def test_a_metric_without_a_value_gives_exit_code_3_and_its_reason(run, tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    cells = as_anndata(60)
    cells.obsm["X_a"][3] = np.nan
    cells.write_h5ad(tmp_path / "few.h5ad")
    given = ("--keys", "X_a", "--out", tmp_path / "r.parquet")
    code, printed, _ = run("bench", "integration", tmp_path / "few.h5ad", *OPTIONS, *given)
    assert code == 3
    assert "X_a*" in printed
    assert "* X_a without cLISI, iLISI: 59 cells are too few for 90 neighbours" in printed
    assert "1 cells left out: 1 NaN or infinite in X_a." in printed


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("--keys", "X_b"), "Did you mean"),
        (("--keys", "X_a", "--profile", "papers"), "Did you mean 'paper'"),
        (("--baselines", "bbkn"), "Did you mean 'bbknn'"),
        ((), "No embedding was named"),
        (("--keys", "X_a", "--figure", "table.pdf"), ".png or .svg"),
    ],
)
def test_an_error_is_one_message_and_exit_code_1(run, h5ad, tmp_path, given, reason):
    out = tmp_path / "r.parquet"
    code, printed, told = run("bench", "integration", h5ad, *OPTIONS, *given, "--out", out)
    assert (code, printed) == (1, "")
    assert told.startswith("error: ")
    assert reason in told
    assert not out.exists()


def test_the_figure_is_never_the_input(run, h5ad, tmp_path):
    kept = h5ad.read_bytes()
    link = tmp_path / "cells.png"
    link.symlink_to(h5ad)
    given = ("--keys", "X_a", "--out", tmp_path / "r.parquet", "--figure", link)
    code, _, told = run("bench", "integration", h5ad, *OPTIONS, *given)
    assert code == 1
    assert "is the input" in told
    assert h5ad.read_bytes() == kept


def test_the_report_shows_the_table_with_short_names(run, h5ad, tmp_path):
    out, page = tmp_path / "r.parquet", tmp_path / "r.html"
    run("bench", "integration", h5ad, *OPTIONS, "--keys", "X_a,X_pre", "--profile", "paper", "--out", out)
    assert run("report", out, "--out", page)[0] == 0
    text = page.read_text()
    assert ">KMeans NMI</th>" in text
    assert "nmi_ari_cluster_labels" not in text
    assert "bftembed 0.1.0, 90 exact" not in text
    assert text.count("<svg") == 1
    assert "Table 2 of the BFT paper" in text
