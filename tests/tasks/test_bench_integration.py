"""`bench.integration`: what it reads, the baselines that it makes, and what it refuses."""

from __future__ import annotations

import math

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from integration_toys import as_anndata

from bftembed import bench
from bftembed.bench import expression
from bftembed.errors import BftembedError
from bftembed.results import read_results
from bftembed.tasks import integration as task
from bftembed.tasks.baselines import pca

pytest.importorskip("scib_metrics")


def table(frame, embedding):
    rows = frame[frame["embedding"] == embedding]
    return rows.set_index("metric")["value"].to_dict()


def note(frame, metric):
    return frame.loc[frame["metric"] == metric, "note"].iloc[0]


@pytest.fixture
def h5ad(tmp_path):
    as_anndata().write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_file_and_anndata_give_the_same_rows_twice(h5ad, tmp_path):
    out = tmp_path / "r.parquet"
    baselines = ["pca", "bbknn"]
    from_file = bench.integration(h5ad, "X_a", "kind", "lot", baselines=baselines, seeds=1, out=out)
    from_memory = bench.integration(as_anndata(), "X_a", "kind", "lot", baselines=baselines, seeds=1)
    assert set(from_file["run"]) == {"cells/kind/lot"}
    assert set(from_file["embedding"]) == {"X_a", "baseline: pca", "baseline: bbknn"}
    pd.testing.assert_frame_equal(from_file, from_memory)
    pd.testing.assert_frame_equal(read_results(out), from_file)
    assert from_file["value"].notna().all()


def test_counts_are_logged_and_logged_values_taken_as_they_are():
    cells = as_anndata()
    counts = bench.integration(cells, "X_a", "kind", "lot", baselines="pca", seeds=1)
    logged = cells.copy()
    logged.X = np.log1p(1e4 * cells.X / cells.X.sum(axis=1, keepdims=True))
    found = bench.integration(logged, "X_a", "kind", "lot", baselines="pca", seeds=1)
    assert table(counts, "baseline: pca") == pytest.approx(table(found, "baseline: pca"), abs=1e-4)
    assert "before: principal components of X, log1p of counts per 10,000 (counts:" in note(counts, "pcr_comparison")
    assert "before: principal components of X, already logged" in note(found, "pcr_comparison")
    expected = task.run(
        {"X_a": cells.obsm["X_a"]}, cells.obs["kind"], cells.obs["lot"], run="r", before=pca(logged.X), seeds=[0]
    )
    assert table(found, "X_a") == pytest.approx({r.metric: r.value for r in expected}, abs=1e-5)


def test_a_key_for_before_is_compared_with_and_baselines_are_still_of_the_expression(h5ad):
    frame = bench.integration(h5ad, "X_a", "kind", "lot", before="X_pre", baselines="pca", seeds=1)
    plain = bench.integration(h5ad, "X_a", "kind", "lot", baselines="pca", seeds=1)
    assert "before: obsm['X_pre']" in note(frame, "pcr_comparison")
    for name in ("X_a", "baseline: pca"):
        one, two = table(frame, name), table(plain, name)
        assert one.pop("pcr_comparison") != two.pop("pcr_comparison")
        for aggregate in ("batch_correction", "total"):
            one.pop(aggregate), two.pop(aggregate)
        assert one == two


def test_without_expression_the_pcr_comparison_says_so_and_baselines_are_refused(h5ad):
    with h5py.File(h5ad, "r+") as handle:
        del handle["X"]
    frame = bench.integration(h5ad, "X_a", "kind", "lot", seeds=1)
    assert frame.loc[frame["value"].isna(), "metric"].tolist() == ["pcr_comparison"]
    assert "nothing from before the integration to compare with: " in note(frame, "pcr_comparison")
    with pytest.raises(BftembedError, match="cells.h5ad"):
        bench.integration(h5ad, "X_a", "kind", "lot", baselines="pca", seeds=1)
    with pytest.raises(BftembedError, match="Unknown layer 'counts'|layer"):
        bench.integration(h5ad, "X_a", "kind", "lot", layer="counts", seeds=1)


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "1 values are NaN"), (-1, "1 values are NaN, infinite or neg")])
def test_expression_that_is_none_is_named(value, reason):
    cells = as_anndata()
    cells.X[3, 5] = value
    frame = bench.integration(cells, "X_a", "kind", "lot", seeds=1)
    assert reason in note(frame, "pcr_comparison")
    with pytest.raises(BftembedError, match=reason):
        bench.integration(cells, "X_a", "kind", "lot", baselines="pca", seeds=1)


def test_baselines_alone_need_no_obsm(h5ad):
    with h5py.File(h5ad, "r+") as handle:
        del handle["obsm"]
    frame = bench.integration(h5ad, "", "kind", "lot", baselines="pca", seeds=1)
    assert set(frame["embedding"]) == {"baseline: pca"}
    with pytest.raises(BftembedError, match="no /obsm"):
        bench.integration(h5ad, "X_a", "kind", "lot", seeds=1)


def test_cells_without_a_batch_are_no_batch_of_their_own_to_the_baselines():
    cells = as_anndata()
    cells.obs["lot"] = cells.obs["lot"].where(np.arange(150) > 4)
    known = cells[5:].copy()
    frame = bench.integration(cells, "X_a", "kind", "lot", before="X_pre", baselines="harmony,bbknn", seeds=1)
    assert set(frame["n_missing"]) == {5}
    assert "5 cells left out: 5 without a batch" in note(frame, "total")
    # As before the cells were thrown out, but for the components, which need no batch.
    of_known = bench.integration(known, "X_a", "kind", "lot", before="X_pre", baselines="harmony", seeds=1)
    assert table(frame, "X_a") == table(of_known, "X_a")
    assert table(frame, "baseline: harmony") == pytest.approx(table(of_known, "baseline: harmony"), abs=0.1)


def test_unused_levels_data_frames_and_sparse_matrices_change_nothing(tmp_path):
    cells = as_anndata()
    expected = bench.integration(cells, "X_a", "kind", "lot", before="X_pre", seeds=1)
    dense = cells.obsm["X_a"]
    cells.obsm["X_f"] = pd.DataFrame(dense, index=cells.obs_names, columns=[f"d{i}" for i in range(8)])
    cells.obsm["X_s"] = scipy.sparse.csr_matrix(dense)
    cells.obs["kind"] = cells.obs["kind"].cat.remove_unused_categories()
    cells.write_h5ad(tmp_path / "c.h5ad")
    for data in (cells, tmp_path / "c.h5ad"):
        frame = bench.integration(data, "X_f,X_s", "kind", "lot", before="X_pre", seeds=1)
        for key in ("X_f", "X_s"):
            assert table(frame, key) == table(expected, "X_a")


def test_one_batch_is_a_table_with_reasons_and_an_error_for_baselines():
    cells = as_anndata()
    cells.obs["lot"] = "one"
    frame = bench.integration(cells, "X_a", "kind", "lot", before="X_pre", seeds=1)
    assert math.isnan(table(frame, "X_a")["total"])
    assert frame["value"].notna().any()
    with pytest.raises(BftembedError, match="Harmony corrects batches, and there is one only"):
        bench.integration(cells, "X_a", "kind", "lot", baselines="harmony", seeds=1)


@pytest.mark.parametrize(
    ("keys", "label", "batch", "options", "reason"),
    [
        ("X_b", "kind", "lot", {}, "Unknown obsm key 'X_b'.*Did you mean .*'X_a'"),
        ("X_a", "kinds", "lot", {}, "Unknown obs column 'kinds'.*Did you mean 'kind'"),
        ("X_a", "kind", "batch", {}, "Unknown obs column 'batch'"),
        ("X_a", "kind", "lot", {"profile": "scab"}, "Unknown profile 'scab'.*Did you mean 'scib'"),
        ("X_a", "kind", "lot", {"baselines": "harmny"}, "Unknown baseline 'harmny'.*Did you mean 'harmony'"),
        ("X_a", "kind", "lot", {"before": "X_prae"}, "Unknown obsm key 'X_prae'.*Did you mean 'X_pre'"),
        (" , ", "kind", "lot", {}, "No embedding was named: give keys of .obsm, or baselines"),
        ("X_a", "same", "lot", {}, r"obs\['same'\] has one label only \('x'\). Scores need two"),
        ("X_a", "empty", "lot", {}, r"obs\['empty'\] has no value for any of the 150 cells"),
        ("X_a", "kind", "empty", {}, r"obs\['empty'\] has no value for any of the 150 cells"),
        ("X_a", "kind", "depth", {}, r"obs\['depth'\] is a number per cell"),
        ("X_a", "kind", "barcode", {}, r"obs\['barcode'\] is an identifier, not a label: 150 distinct"),
        ("X_a", "barcode", "lot", {}, r"obs\['barcode'\] is an identifier"),
        ("X_a", "kind", "lot", {"seeds": []}, "at least one embedding and one seed"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_the_remedy(tmp_path, keys, label, batch, options, reason):
    cells = as_anndata()
    cells.obs["same"], cells.obs["empty"] = "x", pd.Categorical([None] * 150, categories=["a"])
    cells.obs["depth"], cells.obs["barcode"] = np.random.default_rng(0).normal(size=150), cells.obs_names
    out = tmp_path / "r.parquet"
    with pytest.raises(BftembedError, match=reason):
        bench.integration(cells, keys, label, batch, out=out, **{"seeds": 1} | options)
    assert not out.exists()


def test_the_input_is_never_the_output(h5ad):
    kept = h5ad.read_bytes()
    with pytest.raises(BftembedError, match="is the input .* itself"):
        bench.integration(h5ad, "X_a", "kind", "lot", out=h5ad)
    assert h5ad.read_bytes() == kept


def test_three_million_cells_are_refused_before_they_are_read(h5ad, monkeypatch):
    with h5py.File(h5ad, "r+") as handle:  # declared, and nothing stored
        del handle["obsm/X_a"]
        handle["obsm"].create_dataset("X_a", shape=(3_000_000, 50), dtype="f4", chunks=(1000, 50))
    monkeypatch.setattr(task, "available_memory", lambda: 8 * 10**9)
    with pytest.raises(
        BftembedError, match=r"3,000,000 cells in 50 dimensions need .*embeddings 0.6 GB.* 8.0 GB are free"
    ):
        bench.integration(h5ad, "X_a", "kind", "lot", seeds=1)


def test_expression_that_does_not_fit_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(expression, "available_memory", lambda: 1000)
    with pytest.raises(BftembedError, match="150 cells and 40 genes need about .* --before KEY"):
        bench.integration(as_anndata(), "X_a", "kind", "lot", baselines="pca", seeds=1)


def test_real_cells_are_scored(shared_data):
    path = shared_data("cells/symphony_pbmc_3batch.h5ad")
    frame = bench.integration(path, "", "cell_type", "batch", baselines="pca,harmony", profile="paper", seeds=1)
    assert set(frame["n_used"]) == {1200}
    assert frame["value"].between(0, 1).all()
    assert set(frame["metric"]) == {*task.PROFILES["paper"].bio, *task.PROFILES["paper"].batch} | {
        "bio_conservation",
        "batch_correction",
        "total",
    }
    before, after = (table(frame, f"baseline: {name}") for name in ("pca", "harmony"))
    assert before["pcr_comparison"] == 0
    assert after["batch_correction"] > before["batch_correction"] + 0.3
    assert anndata.read_h5ad(path, backed="r").n_obs == 1200
