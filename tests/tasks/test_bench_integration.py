"""`bench.integration`: the data that it reads and the baselines that it makes."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest
from integration_toys import as_anndata

from bftembed import bench
from bftembed.errors import BftembedError
from bftembed.tasks.base import read_results
from bftembed.tasks.baselines import pca
from bftembed.tasks.cells import integration as task

pytest.importorskip("scib_metrics")


def run(data, keys="X_a", label="kind", batch="lot", **options):
    return bench.integration(data, keys, label, batch, **{"seeds": 1} | options)


def table(frame, subject="X_a"):
    rows = frame[(frame["subject"] == subject) & frame["seed"].isna()]
    return rows.set_index("metric")["value"].to_dict()


@pytest.fixture
def h5ad(tmp_path):
    as_anndata().write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_file_and_anndata_give_the_same_rows(h5ad, tmp_path):
    out = tmp_path / "r.parquet"
    from_file = run(h5ad, baselines="pca,bbknn,random:2", out=out)
    from_memory = run(as_anndata(), baselines=["pca", "bbknn", "random:2"])
    assert set(from_file["run"]) == {"cells/kind/lot"}
    kinds = from_file.drop_duplicates("subject").set_index("subject")["kind"].to_dict()
    of_baselines = {"pca": "reference", "bbknn": "reference", "random 1": "random", "random 2": "random"}
    assert kinds == {"X_a": "subject", **of_baselines}
    pd.testing.assert_frame_equal(from_file, from_memory)
    pd.testing.assert_frame_equal(read_results(out), from_file)
    assert from_file["value"].notna().all()
    notes = from_file[(from_file["kind"] != "subject") & ~from_file["metric"].isin([task.BATCH])]["note"]
    assert (notes != "").all()


def test_counts_are_logged_and_logged_values_taken_as_they_are():
    cells = as_anndata()
    logged = cells.copy()
    logged.X = np.log1p(1e4 * cells.X / cells.X.sum(axis=1, keepdims=True))
    counts, found = (run(data, baselines="pca") for data in (cells, logged))
    assert table(counts, "pca") == pytest.approx(table(found, "pca"), abs=1e-4)
    columns = {"labels": cells.obs["kind"], "batches": cells.obs["lot"]}
    expected = task.score({"X_a": cells.obsm["X_a"]}, **columns, run="r", before=pca(logged.X), seeds=[0])
    assert table(found) == pytest.approx({r.metric: r.value for r in expected if r.seed is None}, abs=1e-5)


def test_before_replaces_the_components_of_the_expression(h5ad):
    given, plain = (run(h5ad, before=key, baselines="pca") for key in ("X_pre", None))
    for name in ("X_a", "pca"):
        one, two = table(given, name), table(plain, name)
        assert {m for m in one if one[m] != two[m]} == {"pcr_comparison", "batch_correction", "total"}


def test_without_expression_there_is_no_pcr_comparison_and_no_baseline(h5ad):
    with h5py.File(h5ad, "r+") as handle:
        del handle["X"]
    frame = run(h5ad)
    assert frame.loc[frame["value"].isna(), "metric"].tolist() == ["pcr_comparison"]
    for options in ({"baselines": "pca"}, {"layer": "counts"}):
        with pytest.raises(BftembedError):
            run(h5ad, **options)
    cells = as_anndata()
    cells.X[3, 5] = -1
    with pytest.raises(BftembedError):
        run(cells, baselines="pca")
    cells = as_anndata()
    cells.obs["lot"] = "one"
    with pytest.raises(BftembedError):
        run(cells, baselines="harmony")


def test_cells_without_a_batch_are_no_batch_of_their_own_to_the_baselines():
    cells = as_anndata()
    cells.obs["lot"] = cells.obs["lot"].where(np.arange(150) > 4)
    frame = run(cells, before="X_pre", baselines="harmony,bbknn")
    assert set(frame["n_missing"]) == {5}
    # As if the cells were removed before, but for the components, which need no batch.
    of_known = run(cells[5:].copy(), before="X_pre", baselines="harmony")
    assert table(frame) == table(of_known)
    assert table(frame, "harmony") == pytest.approx(table(of_known, "harmony"), abs=0.1)


@pytest.mark.parametrize(
    "given",
    [
        {"keys": "X_b"},
        {"label": "kinds"},
        {"label": "same"},
        {"label": "depth"},
        {"batch": "empty"},
        {"batch": "barcode"},
        {"profile": "scab"},
        {"baselines": "harmny"},
        {"before": "X_prae"},
        {"seeds": []},
    ],
    ids=str,
)
def test_what_cannot_be_scored_raises_and_writes_nothing(tmp_path, given):
    cells = as_anndata()
    cells.obs["same"], cells.obs["empty"] = "x", pd.Categorical([None] * 150, categories=["a"])
    cells.obs["depth"], cells.obs["barcode"] = np.random.default_rng(0).normal(size=150), cells.obs_names
    with pytest.raises(BftembedError):
        run(cells, out=tmp_path / "r.parquet", **given)
    assert not list(tmp_path.iterdir())


def test_the_input_is_never_the_output(h5ad):
    kept = h5ad.read_bytes()
    with pytest.raises(BftembedError):
        run(h5ad, out=h5ad)
    assert h5ad.read_bytes() == kept
