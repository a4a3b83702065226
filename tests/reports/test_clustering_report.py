"""The clustering of cells on the terminal and on the page: in groups, floors below, the paper's numbers apart."""

from __future__ import annotations

import math

import pytest
from clustering_toys import STRICT, scored
from test_report_html import NASTY, Page

from bftembed.reports import clustering, tables
from bftembed.reports.clustering import GROUPS, clustering_lines, failures
from bftembed.reports.genes import is_gene_table
from bftembed.reports.html import write_report
from bftembed.reports.tables import METRIC_NAMES, OPTIMISTIC, metric_order, summarise, text_table, verdicts
from bftembed.results import Result, to_frame, write_results
from bftembed.runrecord import EmbeddingNote, RunRecord

NAMES = ["X_bft", "X_sft_whiten64", "baseline: pca", "baseline: random gene vectors"]
LEVELS = [0.48, 0.41, 0.55, 0.52]


def frame(**options):
    return to_frame([r for name, level in zip(NAMES, LEVELS, strict=True) for r in scored(name, level, **options)])


def lines_of(rows, protocol="strict", **options):
    return clustering_lines(summarise(to_frame(rows)), protocol, **options)


def test_every_metric_of_the_strict_protocol_has_a_group_and_a_name():
    placed = [m for metrics in GROUPS.values() for m in metrics]
    assert placed == [*STRICT, "silhouette", "silhouette_cosine", "knn_accuracy"]
    assert set(placed) == set(METRIC_NAMES)
    assert len(set(METRIC_NAMES.values())) == 12
    assert list(GROUPS["Leiden, best (optimistic)"]) == list(OPTIMISTIC)


def test_twelve_metrics_stand_in_groups_within_140_letters_the_best_first():
    lines = clustering_lines(summarise(frame()), "strict")
    assert lines[0] == "pbmc/cell_type · protocol strict · 1,200 cells"
    assert max(map(len, lines[:13])) <= 140
    assert [part.strip() for part in lines[1].split("|")] == [*GROUPS]
    assert lines[2].split() == [*["ARI", "AMI", "NMI", "|"] * 3, "raw", "cosine", "|", "accuracy"]
    bars = {tuple(i for i, c in enumerate(line) if c == "|") for line in lines[1:12]}
    assert len(bars) == 1
    shown = [lines[i].split("  ")[0] + lines[i + 1].split("  ")[0] for i in (3, 5, 7, 9)]
    assert shown == [NAMES[2], NAMES[3], NAMES[0], NAMES[1]]
    assert lines[11].startswith("permuted labels")
    summary = summarise(frame()).set_index(["protocol", "embedding", "metric"])
    row = summary.loc[("strict", "X_bft", "ari")]
    assert lines[7].split()[1] == f"{row['mean']:.3f}" == "0.490"
    assert lines[8].split()[0] == f".{row['low']:.2f}–.{row['high']:.2f}".replace("0.", "")
    assert lines[12].startswith("First line: means of 3 seeds; second: 95 % interval, over cells (and seeds).")
    assert lines[13].startswith("Leiden, best: the labels themselves choose")
    assert len(lines) == 14


def test_the_floor_tells_its_lowest_and_highest_mean():
    summary = summarise(frame())
    means = summary[(summary["protocol"] == "strict/permuted-labels") & (summary["metric"] == "silhouette")]["mean"]
    last = clustering_lines(summary, "strict")[11]
    assert f"-{abs(means.min()):.2f}".replace("0.", ".") in last
    assert clustering.floor_range(summary[summary["protocol"] == "strict"][:0], "ari") == pytest.approx(
        (math.nan, math.nan), nan_ok=True
    )


def test_long_and_hostile_names_take_two_lines_and_lose_their_middle():
    long = "X_" + "very_" * 30 + "end"
    lines = lines_of([*scored(long, 0.4), *scored("a\x1b[2J<b>", 0.5), *scored("b" * 30, 0.3)])
    assert max(map(len, lines)) <= 140
    assert lines[3].startswith("a\\x1b[2J<b>")
    whole = lines[5].split("  ")[0].strip() + lines[6].split("  ")[0].strip()
    assert "…" in whole
    assert whole.endswith("end")
    assert lines[7].split("  ")[0].strip() + lines[8].split("  ")[0].strip() == "b" * 30


def test_what_has_no_value_is_a_dash_with_its_reason():
    rows = [
        *scored("a", 0.4, without=["knn_accuracy"], reason="undefined: a label has 2 cells"),
        *scored("b", 0.5, without=["knn_accuracy"], reason="undefined: a label has 2 cells"),
    ]
    lines = lines_of(rows)
    assert lines[3].startswith("b*")
    assert lines[3].rstrip().endswith("–")
    assert "* all without kNN accuracy: a label has 2 cells." in lines
    one = [r for r in rows if r.embedding == "a" and not (r.metric == "ari" and r.seed == 1 and r.protocol == "strict")]
    one.append(Result("pbmc/cell_type", "a", "clustering", "strict", "ari", seed=1, note="error: x"))
    told = failures(summarise(to_frame(one)).query("protocol == 'strict'"))
    assert told == ["* a without ARI (1 of 3 seeds): x.", "* a without kNN accuracy: a label has 2 cells."]


def test_runs_and_protocols_stand_apart_and_nothing_is_nothing():
    rows = [*scored("a", 0.4), *scored("a", 0.5, run="b/kind"), *scored("a", 0.6, protocol="standard")]
    lines = lines_of(rows)
    assert [line for line in lines if "· protocol" in line] == [
        "b/kind · protocol strict · 1,200 cells",
        "pbmc/cell_type · protocol strict · 1,200 cells",
    ]
    standard = lines_of(rows, "standard")
    assert standard[1].split() == ["k-means", "|", "silhouette"]
    assert any(line.startswith("permuted labels") for line in standard)
    assert lines_of(rows, "genept") == []
    assert lines_of([], "strict") == []
    only = [r for r in scored("a", 0.4) if r.protocol != "strict"]
    assert lines_of(only)[-1] == "Labels dealt at random only: no score of an embedding."
    notes = lines_of(scored("a", 0.4, note="igraph 1.0; 3 cells left out: 3 without a label"))
    assert notes[-2:] == ["Igraph 1.0.", "3 cells left out: 3 without a label."]
    two = lines_of([*scored("a", 0.4, note="made of PCA; igraph 1.0"), *scored("b", 0.3, note="igraph 1.0")])
    assert two[-2:] == ["Igraph 1.0.", "a: made of PCA."]


def test_table_5_stands_below_the_notebook_s_protocol_under_a_heading_of_its_own():
    lines = lines_of([*scored("X_bft", 0.3, protocol="genept"), *scored("X_pca", 0.2, protocol="genept")], "genept")
    at = lines.index(clustering.PAPER_TITLE)
    assert lines[at - 1] == ""
    assert "First line: values of one seed; second: 95 % interval" in lines[at - 2]
    assert lines[at + 1].split("|")[1].strip() == "phenotype"
    rows = {line.split("  | ")[0].strip(): line.split("  | ")[1:] for line in lines[at + 3 : at + 12]}
    assert rows["GenePT"] == ["0.13  0.12  0.019", "0.30  0.46  0.041"]
    assert rows["ada-002, profiles by bft"] == ["0.17  0.25  0.022", "0.34  0.58  0.061"]
    assert "(inferred)" in " ".join(lines[-2:])
    assert max(map(len, lines)) <= 140
    assert not any("Table 5" in line for line in clustering_lines(summarise(frame()), "strict"))


def test_the_order_of_metrics_and_the_light_table_are_those_of_before():
    summary = summarise(to_frame(scored("a", 0.4, protocol="standard")))
    assert metric_order(summary) == ["ari", "ami", "silhouette"]
    assert [line.split("  ")[0] for line in text_table(summary)] == ["embedding", "a", "a / permuted-labels"]
    strict = summarise(frame())
    assert metric_order(strict) == list(METRIC_NAMES)
    assert [tables.is_floor(p) for p in ("strict", "strict/permuted-labels", "permuted-labels")] == [False, True, True]
    assert tables.floor_of("standard") == "permuted-labels"


def test_no_verdict_rests_on_a_resolution_that_the_labels_chose():
    real = summarise(frame(floors=False))
    told = verdicts(real, {"X_bft": "profile", "baseline: random gene vectors": "floor"})
    assert len(told) == 1 + 9
    assert not any("(best)" in sentence for sentence in told)


def test_clustering_under_protocols_of_the_gene_tasks_names_is_no_gene_table():
    assert not is_gene_table(frame())
    assert not is_gene_table(to_frame(scored("a", 0.4, protocol="genept")))


@pytest.fixture
def page(tmp_path):
    rows = [
        *frame().itertuples(index=False),
        *to_frame(scored("X_bft", 0.3, protocol="genept")).itertuples(index=False),
    ]
    rows = [Result(*r[:6], None if r[6] is None or r[6] != r[6] else int(r[6]), *r[7:]) for r in map(clean, rows)]
    rows += scored(NASTY, 0.1, without=["knn_accuracy", "silhouette_cosine"], reason=f"error: {NASTY}")
    rows += scored("X_bft", 0.7, protocol="standard")
    write_results(to_frame(rows), tmp_path / "r.parquet")
    notes = (EmbeddingNote(name="X_bft", kind="profile"), EmbeddingNote(name=NAMES[3], kind="floor"))
    RunRecord(title="Cells", embeddings=notes).save(tmp_path)
    return Page(write_report(tmp_path / "r.parquet", tmp_path / "r.html").read_text(encoding="utf-8"))


def clean(row):
    import pandas as pd

    return tuple(None if x is pd.NA else x for x in row)


def test_the_page_has_a_table_per_protocol_with_its_groups_and_table_5_apart(page):
    text = page.text
    for heading in (
        "clustering · pbmc/cell_type",
        "clustering, protocol strict · pbmc/cell_type",
        "clustering, protocol genept · pbmc/cell_type",
    ):
        assert text.count(heading) >= 1, heading
    assert (
        "embedding k-means Leiden, k matched Leiden, best (optimistic) silhouette kNN ARI AMI NMI ARI AMI NMI" in text
    )
    assert text.count(clustering.PAPER_TITLE) == 1
    assert "ada-002, profiles by bft 0.17 0.25 0.022 0.34 0.58 0.061" in text
    assert "Leiden, best: the labels themselves choose among ten resolutions" in text
    assert "nan" not in text.lower().split()
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.tags
    assert text.count("<script>alert(1)</script>") >= 3
    assert "is above every floor" in text


def test_permuted_labels_of_each_protocol_stand_in_its_own_table(page):
    strict = page.text.split("protocol strict · ")[1].split("protocol genept")[0]
    assert strict.count("permuted labels chance") <= 1
    assert page.text.count("permuted labels chance") == 2  # standard and strict; the notebook's protocol has no floor
