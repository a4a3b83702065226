"""UMAP figures of genes and cells, from Python and as `genes umap` and `cells umap`."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest

from bftembed.cli import run
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError
from bftembed.maps import map_cells, map_genes

GENES = [
    *(f"CDK{i}" for i in range(1, 11)),
    *(f"KRT{i}" for i in range(1, 11)),
    "TP53",
    "NA",
    *(f"MYSTERY{i}" for i in range(28)),
]


@pytest.fixture
def genes(tmp_path):
    file = tmp_path / "genes.safetensors"
    GeneEmbeddings(GENES, np.random.default_rng(0).normal(size=(len(GENES), 8))).save(file)
    return file


@pytest.fixture
def cells(tmp_path):
    rng = np.random.default_rng(0)
    kinds = np.array(["T", "B", "NK"] * 20, dtype=object)
    X = (rng.normal(size=(60, 5)) + 6 * (np.arange(60) % 3)[:, None]).astype(np.float32)
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical([None, *kinds[1:]], categories=["T", "B", "NK", "unused"]),
            "lot": [1, 2] * 30,
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
    data.obsm["X_umap"], data.obsm["X_huge"] = X[:, :2], X.astype(np.float64) * 1e300
    data.obsm["X_same"] = np.ones((60, 4), dtype=np.float32)
    data.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_genes_have_the_class_of_their_name_or_ones_own(genes, tmp_path):
    points, classes = tmp_path / "new" / "points.csv", tmp_path / "classes.csv"
    made = map_genes(genes, tmp_path / "new" / "map.png", points=points, n_neighbors=5)
    assert made["classes"] == {"other": 30, "kinase": 10, "keratin": 10}
    assert made["out"].read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(points, keep_default_na=False)
    assert table["symbol"].tolist() == GENES
    assert np.isfinite(table[["x", "y"]]).all(axis=None)
    classes.write_text("\ufefflabel,symbol,more\nmine,TP53,x\nmine,NA,x\nmine,NA,y\nyours,CDK1,\n", encoding="utf-8")
    written = []
    for name in "ab":
        files = {"out": tmp_path / f"{name}.svg", "points": tmp_path / f"{name}.csv"}
        made = map_genes(genes, classes=classes, max_genes=45, seed=3, n_neighbors=5, **files)
        assert (made["genes"], made["of"]) == (45, 50)
        assert set(made["classes"]) <= {"mine", "yours", "other"}
        written.append(files["points"].read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize(
    "content",
    [
        "gene,label\nTP53,a\n",
        "symbol,label\nTP53,a\nTP53,b\n",
        "symbol,label\nXYZ,a\n",
        b"\xff\xfe\x00symbol",
    ],
)
def test_bad_classes_draw_nothing(genes, tmp_path, content):
    classes = tmp_path / "classes.csv"
    classes.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BftembedError, match=r"classes\.csv"):
        map_genes(genes, tmp_path / "a.png", classes=classes)
    assert not (tmp_path / "a.png").exists()


def test_cells_are_drawn_in_a_grid(cells, tmp_path, capsys):
    out, points = tmp_path / "new" / "maps.png", tmp_path / "new" / "points.parquet"
    words = ["cells", "umap", cells, "--keys", "X_a,X_broken", "--color", "kind,lot", "--points", points, "--out", out]
    assert run([*map(str, words), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["cells"], told["of"], told["categories"]) == (60, 60, {"kind": 3, "lot": 2})
    assert told["left_out"] == {"X_a": 0, "X_broken": 5}
    table = pd.read_parquet(points)
    assert list(table) == ["embedding", "row", "x", "y", "obs/kind", "obs/lot"]
    assert table["row"].tolist() == list(range(60)) * 2
    assert table.loc[table["x"].isna(), ["embedding", "row"]].to_numpy().tolist() == [["X_broken", i] for i in range(5)]
    assert table["obs/kind"].isna().sum() == 2
    # Three groups that lie apart stay apart: a picture of noise would not.
    found = table[:60].dropna()
    center = found.groupby("obs/kind")[["x", "y"]].transform("mean")
    spread = np.linalg.norm(found[["x", "y"]] - center, axis=1).mean()
    assert spread < 0.5 * np.linalg.norm(found[["x", "y"]] - found[["x", "y"]].mean(), axis=1).mean()


def test_a_sample_is_the_same_each_time_and_for_every_embedding(cells, tmp_path):
    written = []
    for name in "ab":
        points = tmp_path / f"{name}.parquet"
        options = {"max_cells": 30, "seed": 3, "n_neighbors": 5, "points": points}
        made = map_cells(cells, ["X_a", "X_umap"], "kind", tmp_path / f"{name}.svg", **options)
        assert (made["cells"], made["of"]) == (30, 60)
        written.append(points.read_bytes())
    assert written[0] == written[1]
    table = pd.read_parquet(tmp_path / "a.parquet").set_index(["embedding", "row"])
    assert table.loc["X_a"].index.equals(table.loc["X_umap"].index)
    # Two columns are a map already and are drawn as they are.
    given = anndata.read_h5ad(cells).obsm["X_umap"][table.loc["X_umap"].index]
    assert np.array_equal(table.loc["X_umap"][["x", "y"]].to_numpy(), given)


@pytest.mark.parametrize(
    ("keys", "color"),
    [
        ("X_none", "kind"),
        ("X_a", "knd"),
        (",", "kind"),
        ("X_a", "depth"),
        ("X_a", "name"),
        ("X_a", "empty"),
        ("X_nan", "kind"),
        ("X_huge", "kind"),
    ],
)
def test_bad_input_writes_no_file(cells, tmp_path, keys, color):
    with pytest.raises(BftembedError):
        map_cells(cells, keys, color, tmp_path / "a.png", points=tmp_path / "p.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["cells.h5ad"]


def test_too_many_labels_or_too_few_points_are_no_picture(tmp_path):
    obs = pd.DataFrame({"fine": [f"kind {i % 61}" for i in range(200)]}, index=[str(i) for i in range(200)])
    data = anndata.AnnData(obs=obs, obsm={"X_a": np.random.default_rng(0).normal(size=(200, 3))})
    data.write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(BftembedError, match="61 labels"):
        map_cells(tmp_path / "c.h5ad", "X_a", "fine", tmp_path / "a.png")
    GeneEmbeddings(["A", "B"], np.eye(2)).save(tmp_path / "two.safetensors")
    with pytest.raises(BftembedError, match="at least 3"):
        map_genes(tmp_path / "two.safetensors", tmp_path / "a.png")
