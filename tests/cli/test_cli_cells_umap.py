"""`bftembed cells umap`, as it is typed."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def h5ad(tmp_path):
    rng = np.random.default_rng(0)
    kinds = np.array(["T", "B", "NK"] * 20, dtype=object)
    X = (rng.normal(size=(60, 5)) + 6 * (np.arange(60) % 3)[:, None]).astype(np.float32)
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical([None, *kinds[1:]], categories=["T", "B", "NK", "unused"]),
            "lot": ["1", "2"] * 30,
            "lot number": [1, 2] * 30,
            "depth": rng.normal(size=60),
            "name": [f"cell {i}" for i in range(60)],
            "empty": pd.Categorical([None] * 60, categories=["a"]),
        },
        index=[str(i) for i in range(60)],
    )
    broken = X.copy()
    broken[:4] = np.nan
    broken[4] = 0
    data = anndata.AnnData(obs=obs, obsm={"X_a": X, "X_broken": broken, "X_nan": np.full((60, 3), np.nan)})
    data.obsm["X_umap"] = X[:, :2]
    data.obsm["X_same"] = np.ones((60, 4), dtype=np.float32)
    data.obsm["X_huge"] = X.astype(np.float64) * 1e300
    data.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_draws_a_grid_and_writes_the_points(run, h5ad, tmp_path):
    out, points = tmp_path / "new" / "maps.png", tmp_path / "new" / "points.parquet"
    options = ("--keys", "X_a,X_broken", "--color", "kind,lot,lot number", "--points", points, "--neighbors", 5)
    code, printed, told = run("cells", "umap", h5ad, *options, "--out", out)
    assert code == 0, told
    assert printed.splitlines() == [
        "drawn: 60 cells, 2 × 3 pictures",
        "X_broken: 5 cells left out: 4 NaN or infinite, 1 all-zero",
        f"figure: {out}",
        f"points: {points}",
    ]
    assert out.read_bytes().startswith(b"\x89PNG")
    table = pd.read_parquet(points)
    assert list(table) == ["embedding", "row", "x", "y", "obs/kind", "obs/lot", "obs/lot number"]
    assert table["embedding"].tolist() == ["X_a"] * 60 + ["X_broken"] * 60
    assert table["row"].tolist() == list(range(60)) * 2
    without = table["x"].isna()
    assert table.loc[without, ["embedding", "row"]].to_numpy().tolist() == [["X_broken", i] for i in range(5)]
    assert table["obs/kind"].isna().sum() == 2
    # Three groups that lie apart stay apart: a picture of noise would not.
    found = table[:60].dropna()
    centre = found.groupby("obs/kind")[["x", "y"]].transform("mean")
    spread = np.linalg.norm(found[["x", "y"]] - centre, axis=1).mean()
    assert spread < 0.5 * np.linalg.norm(found[["x", "y"]] - found[["x", "y"]].mean(), axis=1).mean()


def test_a_sample_is_the_same_each_time_and_for_every_embedding(run, h5ad, tmp_path):
    written = []
    for name in ("a", "b"):
        options = ("--max-cells", 30, "--seed", 3, "--points", tmp_path / f"{name}.parquet", "--json", "--neighbors", 5)
        keys = ("--keys", "X_a,X_umap", "--color", "kind")
        code, printed, told = run("cells", "umap", h5ad, *keys, "--out", tmp_path / f"{name}.svg", *options)
        assert (code, told) == (0, "")
        summary = json.loads(printed)
        assert (summary["cells"], summary["of"], summary["categories"]) == (30, 60, {"kind": 3})
        assert summary["left_out"] == {"X_a": 0, "X_umap": 0}
        written.append([(tmp_path / f"{name}{suffix}").read_bytes() for suffix in (".parquet", ".svg")])
    assert written[0] == written[1]
    table = pd.read_parquet(tmp_path / "a.parquet").set_index(["embedding", "row"])
    assert table.loc["X_a"].index.equals(table.loc["X_umap"].index)
    # Two columns are a map already and are drawn as they are.
    given = anndata.read_h5ad(h5ad).obsm["X_umap"][table.loc["X_umap"].index]
    assert np.array_equal(table.loc["X_umap"][["x", "y"]].to_numpy(), given)


def test_cells_of_a_package_are_drawn_by_name(run, tmp_path):
    out = tmp_path / "a.png"
    options = ("--keys", "X_umap", "--color", "bulk_labels,phase", "--out", out)
    code, printed, told = run("cells", "umap", "builtin:pbmc68k_reduced", *options)
    assert code == 0, told
    assert printed.startswith("drawn: 700 cells, 1 × 2 pictures\n")


@pytest.mark.parametrize(
    ("keys", "color", "message"),
    [
        ("X_none", "kind", "X_none"),
        ("X_a", "knd", "'kind'"),
        (",", "kind", "--keys names nothing"),
        ("X_a", " , ", "--color names nothing"),
        ("X_a", "depth", "is a number per cell"),
        ("X_a", "name", "is an identifier"),
        ("X_a", "empty", "has no value for any of the 60 cells"),
        ("X_nan", "kind", "a usable vector for 0 of 60 cells"),
        ("X_huge", "kind", "a usable vector for"),
    ],
)
def test_bad_input_is_one_message_and_no_file(run, h5ad, tmp_path, keys, color, message):
    options = ("--keys", keys, "--color", color, "--out", tmp_path / "a.png", "--points", tmp_path / "p.parquet")
    code, printed, told = run("cells", "umap", h5ad, *options)
    assert (code, printed) == (1, "")
    assert told.splitlines()[-1].startswith("error: ")
    assert message in told
    assert "Traceback" not in told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.h5ad"]


def test_too_many_labels_are_no_picture(run, tmp_path):
    obs = pd.DataFrame({"fine": [f"kind {i % 61}" for i in range(200)]}, index=[str(i) for i in range(200)])
    data = anndata.AnnData(obs=obs, obsm={"X_a": np.random.default_rng(0).normal(size=(200, 3))})
    data.write_h5ad(tmp_path / "c.h5ad")
    told = run("cells", "umap", tmp_path / "c.h5ad", "--keys", "X_a", "--color", "fine", "--out", tmp_path / "a.png")[2]
    assert "obs['fine'] has 61 labels; a map tells at most 60 apart" in told
    assert not (tmp_path / "a.png").exists()


def test_files_are_refused_before_anything_is_read(run, h5ad, tmp_path):
    base = ("cells", "umap", h5ad, "--keys", "X_a", "--color", "kind")
    assert "as .png or .svg, not as '.html'" in run(*base, "--out", tmp_path / "a.html")[2]
    assert "would be overwritten" in run(*base, "--out", tmp_path / "a.png", "--points", h5ad)[2]
    both = tmp_path / "a.svg"
    assert "Give two files" in run(*base, "--out", both, "--points", both)[2]
    gone = ("cells", "umap", tmp_path / "none.h5ad", "--keys", "X_a", "--color", "kind", "--out", tmp_path / "a.png")
    code, _, told = run(*gone)
    assert code == 1
    assert "none.h5ad" in told
    assert not list(tmp_path.glob("a.*"))


def test_equal_cells_are_drawn_or_refused_in_words(run, h5ad, tmp_path):
    options = ("--keys", "X_same", "--color", "kind", "--out", tmp_path / "a.png", "--points", tmp_path / "p.parquet")
    code, _, told = run("cells", "umap", h5ad, *options)
    assert "Traceback" not in told
    assert code == 0, told
    assert np.isfinite(pd.read_parquet(tmp_path / "p.parquet")[["x", "y"]]).all(axis=None)
