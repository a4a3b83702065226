"""`bftembed bench multimodal`: what it prints, and what the report shows of it."""

from __future__ import annotations

import json

import cite_toys as toys
import numpy as np
import pytest

from bftembed.results import read_results

pytest.importorskip("scib_metrics")


@pytest.fixture
def h5ad(tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    toys.with_obsm().write_h5ad(tmp_path / "cells.h5ad")
    toys.embeddings().save(tmp_path / "text.safetensors")
    toys.embeddings(seed=4).save(tmp_path / "other.safetensors")
    return tmp_path / "cells.h5ad"


def options(tmp_path, *more):
    return ("--genes", tmp_path / "text.safetensors", "--label", "kind", "--seeds", 1, "--draws", 2, *more)


def test_two_tables_are_printed_and_the_report_shows_both(run, h5ad, tmp_path):
    out, figure, page = tmp_path / "r.parquet", tmp_path / "f.png", tmp_path / "r.html"
    given = ("--genes", f"two={tmp_path / 'other.safetensors'}", "--profile", "paper")
    given += ("--baselines", "linked,harmony,bbknn,random", "--out", out, "--figure", figure)
    code, printed, told = run("bench", "multimodal", h5ad, *options(tmp_path, *given))
    assert code == 0, told
    scib, _, matching = printed.partition("cells/kind/modality · matching · 120 pairs of RNA and protein\n")
    assert scib.startswith("cells/kind/modality · profile paper · 240 cells\n")
    assert "Table 2 of the BFT paper" in scib
    lines = matching.splitlines()
    assert lines[0].split("  ")[-1] == "Label matching"
    names = [line[: lines[0].index("FOSCTTM")].strip() for line in lines[1:8]]
    baselines = {f"baseline: {name}" for name in ("linked", "harmony", "bbknn", "random")}
    assert set(names[:-1]) == {"text", "two", *baselines}
    assert names[-1] == "chance"
    scores = [float(line.split()[-4]) for line in lines[1:7]]
    assert scores == sorted(scores)
    assert lines[7].split() == ["chance", "0.500", "0.008", "0.083", "0.333"]
    assert "baseline: random: mean of 2 draws." in lines
    assert lines[-2:] == [str(figure), str(out)]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "multimodal: 7/7" in told
    frame = read_results(out)
    found = frame[(frame["metric"] == "foscttm") & (frame["embedding"] == "text")]["value"].iloc[0]
    assert f"{found:.3f}" in next(line for line in lines if line.startswith("text"))

    assert run("report", out, "--out", page)[0] == 0
    text = page.read_text()
    for header in ("FOSCTTM", "Matching accuracy", "Among 10 nearest", "Label matching"):
        assert text.count(f">{header}</th>") == 1
    assert "foscttm" not in text
    assert "matching_accuracy" not in text
    assert "cells matched at random: what is expected, not measured" in text
    assert "chance 0.5;" not in text
    assert "KMeans NMI" in text
    # The lowest of this column is marked, the best of every column once.
    _, _, block = text.partition("<h3>matching ·")
    row = next(r for r in block.split("<tr") if f">{names[0]}" in r)
    assert f'class="best">{scores[0]:.3f}<' in row
    assert block.count('class="tag best"') >= 4


def test_json_has_both_tables_in_one_summary(run, h5ad, tmp_path):
    given = ("--baselines", "", "--out", tmp_path / "r.parquet", "--json")
    code, printed, told = run("bench", "multimodal", h5ad, *options(tmp_path, *given))
    summary = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (code, told, summary["failed"]) == (0, "", 0)
    (row,) = summary["summary"]
    assert row["embedding"] == "text"
    assert 0 < row["foscttm"] < 1
    assert row["foscttm_chance"] == 0.5
    assert 0 < row["total"] < 1


def test_clusters_in_place_of_labels_are_said_and_left_out_cells_counted(run, h5ad, tmp_path):
    toys.rna_data().write_h5ad(tmp_path / "rna.h5ad")
    toys.protein_data()[4:].copy().write_h5ad(tmp_path / "adt.h5ad")
    given = ("--genes", tmp_path / "text.safetensors", "--protein-data", tmp_path / "adt.h5ad", "--seeds", 1)
    given += (
        "--baselines",
        "",
        "--proteins",
        f"text={tmp_path / 'proteins.safetensors'}",
        "--out",
        tmp_path / "r.parquet",
    )
    from bftembed.embeddings import GeneEmbeddings

    matrix = np.random.default_rng(0).normal(size=(3, toys.DIM))
    GeneEmbeddings(["CD3", "CD4", "CD14"], matrix).save(tmp_path / "proteins.safetensors")
    code, printed, told = run("bench", "multimodal", tmp_path / "rna.h5ad", *given)
    assert code in (0, 3), told
    matching = printed.partition("· matching ·")[2]
    assert "RNA clusters (Leiden), not cell types" in matching
    assert "Cells left out: 4 of the RNA and 0 of the proteins without a partner" in matching.replace("; c", "; C")
    assert "3 of 8 antibodies with a vector" in read_results(tmp_path / "r.parquet")["note"].str.cat()


def test_a_metric_without_a_value_gives_exit_code_3_and_its_reason(run, tmp_path, monkeypatch):
    monkeypatch.setenv("BFTEMBED_CACHE", str(tmp_path / "cache"))
    data = toys.with_obsm()
    data.obsm["ADT"][6:] = 0
    data.write_h5ad(tmp_path / "few.h5ad")
    toys.embeddings().save(tmp_path / "text.safetensors")
    given = ("--baselines", "", "--out", tmp_path / "r.parquet")
    code, printed, _ = run("bench", "multimodal", tmp_path / "few.h5ad", *options(tmp_path, *given))
    assert code == 3
    assert "text without a value: undefined: 6 cells are fewer than the 10" in printed
    assert run("report", tmp_path / "r.parquet", "--out", tmp_path / "r.html")[0] == 0
    assert "6 cells are fewer than the 10" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("--baselines", "linkd"), "Did you mean 'linked'"),
        (("--genes", "=x.safetensors"), "write NAME=FILE"),
        (("--genes", "text=other.safetensors"), "Two embeddings are called 'text'"),
        (("--proteins", "txt=other.safetensors"), "Unknown name of embeddings 'txt'"),
        (("--genes", "b=nothing.safetensors"), "No such file: nothing.safetensors"),
        (("--figure", "f.pdf"), ".png or .svg"),
        (("--joined", "m.h5ad"), "needs both its file (--joined) and its key"),
        (("--obsm", "ATD"), "Did you mean 'ADT'"),
        (("--label", "knd"), "Did you mean 'kind'"),
    ],
)
def test_an_error_is_one_message_and_exit_code_1(run, h5ad, tmp_path, given, reason):
    out = tmp_path / "r.parquet"
    code, printed, told = run("bench", "multimodal", h5ad, *options(tmp_path, "--out", out, *given))
    assert (code, printed) == (1, "")
    assert told.startswith("error: ")
    assert reason in told
    assert not out.exists()


def test_the_figure_is_never_an_input(run, h5ad, tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "text.safetensors")
    code, _, told = run(
        "bench", "multimodal", h5ad, *options(tmp_path, "--out", tmp_path / "r.parquet", "--figure", link)
    )
    assert code == 1
    assert "is the input" in told
