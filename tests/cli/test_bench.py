"""`bftembed bench …` and `report`: options reach the verbs, JSON, exit codes, figures."""

from __future__ import annotations

import json

import anndata
import cite_toys
import numpy as np
import pytest

from bftembed.tasks.base import read_results, write_results
from bftembed.tasks.cells import clustering


def asked(run, *words):
    code, printed, told = run(*words, "--json")
    found = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) if printed else told
    return code, found


def test_clustering(run, pbmc_path, tmp_path):
    out, figure = tmp_path / "r.parquet", tmp_path / "f.svg"
    words = ("bench", "clustering", pbmc_path, "--label", "bulk_labels", "--out", out, "--protocol", "standard")
    code, found = asked(
        run, *words, "--keys", "X_pca, X_umap", "--baselines", "random", "--use-raw", "--figure", figure
    )
    assert code == 0, found
    frame = read_results(out)
    assert (found["out"], found["rows"], found["failed"]) == (str(out), len(frame), 0)
    assert {"X_pca", "X_umap", "random"} == set(frame["subject"])
    assert {row["metric"] for row in found["scores"]} == set(frame["metric"])
    assert all(row["seed"] is None for row in found["scores"])
    assert figure.read_text().startswith("<?xml")


def test_an_embedding_that_fails_gives_exit_code_3(run, tmp_path):
    adata = anndata.AnnData(np.ones((6, 2), dtype=np.float32))
    adata.obs["kind"] = ["a", "b"] * 3
    adata.obsm["X_bad"] = np.full((6, 2), np.nan)
    adata.obsm["X_good"] = np.random.default_rng(0).normal(size=(6, 2))
    adata.write_h5ad(tmp_path / "c.h5ad")
    words = ("--keys", "X_bad,X_good", "--label", "kind", "--out", tmp_path / "r.parquet", "--protocol", "standard")
    code, found = asked(run, "bench", "clustering", tmp_path / "c.h5ad", *words)
    assert code == 3
    assert 0 < found["failed"] < found["rows"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--keys", "X_pca", "--label", "bulk"), 1),
        (("--label", "bulk_labels"), 1),
        (("--keys", "X_pca", "--label", "bulk_labels", "--figure", "table.pdf"), 1),
        (("--keys", "X_pca"), 2),
    ],
)
def test_an_error_writes_nothing(run, pbmc_path, tmp_path, words, code):
    assert run("bench", "clustering", pbmc_path, *words, "--out", tmp_path / "r.parquet")[0] == code
    assert list(tmp_path.iterdir()) == []


def test_multimodal(run, tmp_path, monkeypatch):
    pytest.importorskip("scib_metrics")
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    cite_toys.with_obsm().write_h5ad(tmp_path / "cells.h5ad")
    cite_toys.embeddings().save(tmp_path / "text.safetensors")
    cite_toys.embeddings(seed=4).save(tmp_path / "other.safetensors")
    base = ("bench", "multimodal", tmp_path / "cells.h5ad", "--label", "kind", "--out", tmp_path / "r.parquet")
    files = ("--genes", tmp_path / "text.safetensors", "--genes", f"two={tmp_path / 'other.safetensors'}")
    code, found = asked(run, *base, *files, "--baselines", "linked")
    assert code == 0, found
    assert {row["subject"] for row in found["scores"]} == {"text", "two", "linked", "chance"}
    for wrong in (("--genes", "=x"), ("--genes", "text=y"), ("--proteins", "txt=y")):
        assert run(*base, *files, *wrong)[0] == 1


def test_tasks_are_listed(run):
    code, found = asked(run, "bench", "tasks")
    assert code == 0
    assert {"name", "kind", "description", "here"} == set(found["tasks"][0])


def test_report_joins_the_files(run, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        X = np.random.default_rng(seed).normal(size=(20, 3))
        write_results(clustering.score({"X": X}, ["p", "q"] * 10, run=name, seeds=[0]), tmp_path / f"{name}.parquet")
    out = tmp_path / "report.html"
    words = ("report", tmp_path / "a.parquet", tmp_path / "b.parquet", "--out", out)
    assert asked(run, *words) == (0, {"out": str(out)})
    page = out.read_text(encoding="utf-8")
    assert "a · clustering" in page
    assert "b · clustering" in page
    assert run("report", tmp_path / "none.parquet", "--out", tmp_path / "none.html")[0] == 1
    assert not (tmp_path / "none.html").exists()
