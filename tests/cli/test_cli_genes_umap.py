"""`bftembed genes umap`, as it is typed."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from bftembed.embeddings import GeneEmbeddings

FAMILIES = {
    "kinase": [f"CDK{i}" for i in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)],
    "keratin": [f"KRT{i}" for i in range(1, 11)],
    "ribosomal protein": ["RPL3", "RPL4", "RPL5", "RPL6", "RPL7", "RPL8", "RPS2", "RPS3", "RPS5", "RPS6"],
    "other": ["TP53", "NA", *(f"MYSTERY{i}" for i in range(28))],
}
GENES = [gene for family in FAMILIES.values() for gene in family]


@pytest.fixture
def embeddings(tmp_path):
    file = tmp_path / "genes.safetensors"
    GeneEmbeddings(GENES, np.random.default_rng(0).normal(size=(len(GENES), 8))).save(file)
    return file


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_draws_the_genes_by_the_class_of_their_name(run, embeddings, tmp_path):
    out, points = tmp_path / "new" / "map.png", tmp_path / "new" / "points.csv"
    code, printed, _ = run("genes", "umap", embeddings, "--out", out, "--points", points, "--neighbors", 5)
    assert code == 0
    assert printed.splitlines()[:2] == ["drawn: 60 genes", "other 30, kinase 10, keratin 10, ribosomal protein 10"]
    assert out.read_bytes().startswith(b"\x89PNG")
    rows = rows_of(points)
    assert [row["symbol"] for row in rows] == GENES
    assert {row["label"] for row in rows[:10]} == {"kinase"}
    xy = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    assert np.isfinite(xy).all()
    assert xy.std(axis=0).min() > 0


def test_classes_of_ones_own_a_sample_and_the_seed(run, embeddings, tmp_path):
    classes = tmp_path / "classes.csv"
    classes.write_text("\ufefflabel,symbol,more\nmine,TP53,x\nmine,NA,x\nmine,NA,y\nyours,CDK1,\n", encoding="utf-8")
    outcomes = []
    for name in ("a", "b"):
        options = ("--classes", classes, "--max-genes", 50, "--seed", 3, "--points", tmp_path / f"{name}.csv", "--json")
        code, printed, _ = run("genes", "umap", embeddings, "--out", tmp_path / f"{name}.svg", *options)
        assert code == 0
        summary = json.loads(printed)
        assert (summary["genes"], summary["of"]) == (50, 60)
        assert set(summary["classes"]) <= {"mine", "yours", "other"}
        outcomes.append([(tmp_path / f"{name}{suffix}").read_bytes() for suffix in (".csv", ".svg")])
    assert outcomes[0][0] == outcomes[1][0]
    labels = {row["symbol"]: row["label"] for row in rows_of(tmp_path / "a.csv")}
    assert labels.get("NA", "mine") == "mine"
    assert "other" in labels.values()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("gene,label\nTP53,a\n", "lacks the column symbol"),
        ("", "lacks the column symbol and label"),
        ("symbol,label\nTP53,a\nTP53,b\n", "A gene belongs to one class"),
        ("symbol,label\nTP53,\n", "line 2: 'TP53' has no label"),
        ("symbol,label\nXYZ,a\n", "None of the 1 symbols"),
        (b"\xff\xfe\x00symbol", "not UTF-8"),
        (None, "Cannot read the classes"),
    ],
)
def test_bad_classes_are_one_message_and_no_figure(run, embeddings, tmp_path, content, message):
    classes = tmp_path / "classes.csv"
    if content is not None:
        classes.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, printed, told = run("genes", "umap", embeddings, "--out", tmp_path / "a.png", "--classes", classes)
    assert (code, printed) == (1, "")
    assert told.startswith("error: ")
    assert message in told
    assert not (tmp_path / "a.png").exists()


def test_bad_files_are_refused_before_anything_is_drawn(run, embeddings, tmp_path):
    assert "as .png or .svg, not as '.html'" in run("genes", "umap", embeddings, "--out", tmp_path / "a.html")[2]
    assert (
        "would be overwritten"
        in run("genes", "umap", embeddings, "--out", tmp_path / "a.png", "--points", embeddings)[2]
    )
    both = tmp_path / "a.svg"
    assert "Give two files" in run("genes", "umap", embeddings, "--out", both, "--points", both)[2]
    assert "No such file" in run("genes", "umap", tmp_path / "none.safetensors", "--out", tmp_path / "a.png")[2]
    GeneEmbeddings(["A", "B"], np.eye(2)).save(tmp_path / "two.safetensors")
    assert "needs at least 3" in run("genes", "umap", tmp_path / "two.safetensors", "--out", tmp_path / "a.png")[2]
    assert not list(tmp_path.glob("a.*"))
