from __future__ import annotations

import json

import pytest

from bftembed.results import read_results
from bftembed.testing import simulate_perturbations


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screen")
    adata, genes = simulate_perturbations(n_perturbations=30, n_genes=120, cells_per_perturbation=12)
    adata.write_h5ad(folder / "screen.h5ad")
    genes.save(folder / "genes.safetensors")
    return folder


def test_the_verdict_stands_beside_the_numbers(run, screen, tmp_path):
    out, figure = tmp_path / "r.parquet", tmp_path / "r.svg"
    given = ("--genes", f"text={screen / 'genes.safetensors'}", "--out", out, "--figure", figure)
    code, printed, told = run("bench", "perturbation", screen / "screen.h5ad", "--split", "unseen-gene", *given)
    assert code == 0, told
    lines = printed.splitlines()
    assert lines[0] == "simulated: screen · unseen-gene · 90 held-out conditions"
    (random,) = (line for line in lines if line.startswith("text − random"))
    assert random.endswith("  helps")
    assert lines[-2:] == [str(figure), str(out)]
    assert figure.read_text().startswith("<?xml")
    frame = read_results(out)
    assert set(frame["task"]) == {"perturbation"}
    assert "perturbation: 5/5" in told


def test_json_is_one_object_with_the_verdict(run, screen, tmp_path):
    given = ("--genes", screen / "genes.safetensors", "--out", tmp_path / "r.parquet", "--seeds", 2, "--json")
    code, printed, told = run("bench", "perturbation", screen / "screen.h5ad", *given)
    found = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (code, told, found["failed"]) == (0, "", 0)
    words = {(r["protocol"], r["verdict"]) for r in found["summary"] if r["verdict"]}
    assert ("unseen-cell-type", "does not help (not shown to)") in words


def test_a_row_that_failed_ends_with_3_and_its_reason(run, tmp_path):
    adata, genes = simulate_perturbations(n_perturbations=10, n_genes=40, cells_per_perturbation=5, cell_types=("a",))
    adata.write_h5ad(tmp_path / "one.h5ad")
    genes.save(tmp_path / "g.safetensors")
    given = ("--genes", tmp_path / "g.safetensors", "--out", tmp_path / "r.parquet", "--seeds", 1)
    code, printed, _ = run("bench", "perturbation", tmp_path / "one.h5ad", *given)
    assert code == 3
    assert "there is one cell type only ('a'): none can be held out." in printed
    assert "2 held-out perturbations in a cell type, perturbation discrimination needs 5." in printed


def test_an_error_writes_nothing(run, screen, tmp_path):
    out = tmp_path / "r.parquet"
    given = ("--genes", screen / "genes.safetensors", "--out", out)
    code, _, told = run("bench", "perturbation", screen / "screen.h5ad", *given, "--control", "ctrl")
    assert code == 1
    assert "Unknown control 'ctrl'" in told
    assert not out.exists()
    target = screen / "genes.safetensors"
    code, _, told = run("bench", "perturbation", screen / "screen.h5ad", "--genes", target, "--out", target)
    assert code == 1
    assert "would be overwritten" in told


def test_the_report_shows_the_table_and_the_verdict(run, screen, tmp_path):
    out, page = tmp_path / "r.parquet", tmp_path / "r.html"
    given = ("--genes", f"text={screen / 'genes.safetensors'}", "--out", out)
    assert run("bench", "perturbation", screen / "screen.h5ad", *given)[0] == 0
    assert run("report", out, "--out", page)[0] == 0
    shown = page.read_text()
    assert "PDS (L1)" in shown
    assert "text, unseen-gene: helps" in shown
    assert "perturbed mean (unseen-gene)" in shown
    assert "simulated: screen" in shown
    assert "pds_l1_minus" not in shown
