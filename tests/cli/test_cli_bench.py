from __future__ import annotations

import json

import pytest

from bftembed.results import read_results


def test_bench_clustering_prints_a_table_and_writes_the_rows(run, pbmc_path, tmp_path):
    out = tmp_path / "results.parquet"
    options = ("--keys", "X_pca, X_umap", "--label", "bulk_labels", "--out", out, "--seeds", 2, "--run", "mine")
    code, printed, told = run("bench", "clustering", pbmc_path, *options)
    assert code == 0
    lines = printed.splitlines()
    assert lines[0] == "mine · protocol strict · 700 cells"
    assert "Leiden, k matched" in lines[1]
    assert {"X_pca", "X_umap", "permuted"} <= {line.split()[0] for line in lines if line}
    assert lines[-1] == str(out)
    assert "clustering: 2/2" in told
    frame = read_results(out)
    assert set(frame["run"]) == {"mine"}
    assert set(frame["seed"].dropna()) == {0, 1}


def test_json_is_one_object_that_any_parser_reads(run, pbmc_path, tmp_path):
    out = tmp_path / "r.parquet"
    options = ("--keys", "X_pca", "--label", "bulk_labels", "--out", out, "--seeds", 1, "--no-floors", "--json")
    options += ("--protocol", "standard")
    code, printed, told = run("bench", "clustering", pbmc_path, *options)
    summary = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (code, told) == (0, "")
    assert (summary["out"], summary["rows"], summary["failed"]) == (str(out), 5, 0)
    ari = next(row for row in summary["summary"] if row["metric"] == "ari")
    assert ari["low"] is None
    assert 0 < ari["mean"] < 1


def test_an_embedding_that_fails_gives_exit_code_3(run, tmp_path):
    import anndata
    import numpy as np

    adata = anndata.AnnData(np.ones((6, 2), dtype=np.float32))
    adata.obs["kind"] = ["a", "b"] * 3
    adata.obsm["X_bad"] = np.full((6, 2), np.nan)
    adata.obsm["X_good"] = np.random.default_rng(0).normal(size=(6, 2))
    adata.write_h5ad(tmp_path / "c.h5ad")
    out = tmp_path / "r.parquet"
    code, printed, _ = run(
        "bench", "clustering", tmp_path / "c.h5ad", "--keys", "X_bad,X_good", "--label", "kind", "--out", out
    )
    assert code == 3
    assert "* X_bad without " in printed
    assert "no cell has both a label and a vector" in printed
    assert read_results(out)["value"].notna().any()


@pytest.mark.parametrize(
    ("keys", "label", "reason"), [("X_pca", "bulk", "Did you mean 'bulk_labels'"), ("X_bft", "bulk_labels", "X_umap")]
)
def test_an_error_is_one_message_and_exit_code_1(run, pbmc_path, tmp_path, keys, label, reason):
    out = tmp_path / "r.parquet"
    code, printed, told = run("bench", "clustering", pbmc_path, "--keys", keys, "--label", label, "--out", out)
    assert (code, printed) == (1, "")
    assert told.startswith("error: Unknown")
    assert reason in told
    assert not out.exists()


def test_a_missing_option_is_a_usage_error(run, pbmc_path):
    code, _, told = run("bench", "clustering", pbmc_path, "--keys", "X_pca")
    assert code == 2
    assert "--label" in told
