"""Every published number is the one of the notes."""

from __future__ import annotations

import re

import pytest
from tests_paths import SHARED

from bftembed.reports import published


def note(name):
    path = SHARED.parent / name
    if not path.is_file():
        pytest.skip("the notes are not beside the repository")
    return path.read_text(encoding="utf-8")


def rows_after(text, heading):
    """Return the cells of the first table after a heading, without its header."""
    table = []
    for line in text[text.index(heading) :].splitlines():
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    return table[2:]


def test_table_4_is_that_of_the_paper():
    told = {}
    for encoder, profiles, *cells in rows_after(note("PAPER.md"), "**Table 4"):
        names = profiles.split(" / ")
        for i, name in enumerate(names):
            told[encoder, name] = tuple(float(cell.split(" / ")[i]) for cell in cells)
    assert told == published.TABLE_4
    assert len(told) == 8


def test_table_2_is_that_of_the_paper():
    rows = rows_after(note("PAPER.md"), "**Table 2")
    assert {name: tuple(map(float, cells)) for name, *cells in rows} == published.TABLE_2
    heads = [
        "isolated labels",
        "KMeans NMI",
        "cLISI",
        "silhouette batch",
        "iLISI",
        "graph conn.",
        "batch",
        "bio",
        "total",
    ]
    assert f"| method | {' | '.join(heads)} |" in note("PAPER.md")
    assert len(heads) == len(published.INTEGRATION_METRICS)


def test_the_notebooks_numbers_are_those_of_the_notes():
    text = note("notes/genept.md")
    names = {"TF range": "tf-range", "Dosage": "dosage", "No-methy": "no-methy", "Lys4": "lys4"}
    rows = {row[0]: row[-1] for row in rows_after(text, "| task | positive | negative |")}
    told = {}
    for name, cell in rows.items():
        numbers = [float(x) for x in re.findall(r"\.\d+", cell)]
        told[names[name]] = (tuple(numbers[:2]), tuple(numbers[2:]))
    assert told == published.NOTEBOOK
    assert "accuracy .9564" in text
    assert published.NOTEBOOK_GENE_TYPE == 0.9564
    assert "GenePT .83, random N(0,1) 1536-d .49, Gene2vec .67" in " ".join(text.split())
    assert published.NOTEBOOK_GGI == {"GenePT": 0.83, "random vectors": 0.49, "Gene2vec": 0.67}


def test_the_frame_holds_every_number_once_and_names_its_source():
    frame = published.published_gene_scores()
    assert list(frame.columns) == ["source", "embedding", "task", "metric", "value"]
    assert not frame.duplicated(["source", "embedding", "task", "metric"]).any()
    assert frame["value"].between(0, 1).all()
    paper = frame[frame["source"] == published.PAPER]
    assert len(paper) == 8 * 6
    assert set(paper["task"]) == set(published.TASKS)
    best = paper[(paper["embedding"] == "ada-002, profiles by bft") & (paper["task"] == "ggi")]
    assert best["value"].item() == 0.823
    forest = frame[(frame["source"] == published.NOTEBOOK_FOREST) & (frame["task"] == "lys4")]
    assert forest.set_index("metric")["value"].to_dict() == {"roc_auc": 0.952, "roc_auc_sd": 0.036}
    assert len(frame) == 48 + 8 + 8 + 1 + 3


def test_table_5_is_that_of_the_paper():
    text = " ".join(note("PAPER.md").split("**Table 5")[1].split("**Figures**")[0].split())
    assert (
        "(phenotype ARI/AMI/ASW | cell type ARI/AMI/ASW)" in text or "phenotype ARI/AMI/ASW | cell type ARI/AMI" in text
    )
    told, encoder = {}, "–"
    numbers = r"((?:\.\d+/){2}\.\d+) \| ((?:\.\d+/){2}\.\d+)"
    for named, name, phenotype, kind in re.findall(rf"(ada-002 |BioBERT )?([A-Za-z]+) {numbers}", text):
        encoder = named.strip() or encoder
        key = ("–" if name in ("PCA", "scGPT", "GenePT") else encoder, name)
        told[key] = tuple(float(x) for x in f"{phenotype}/{kind}".split("/"))
    assert told == published.TABLE_5
    assert len(told) == 9
    assert all(len(values) == len(published.CELL_LABELS) * len(published.CELL_METRICS) for values in told.values())
