"""The results table: written atomically, merged without loss, contradictions raise; schema 1; tables and reports."""

from __future__ import annotations

import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bftembed.errors import BftembedError, UnknownNameError
from bftembed.report.manifest import Manifest
from bftembed.tasks.base import (
    COLUMNS,
    Metric,
    Result,
    named_files,
    read_results,
    report,
    score_table,
    tables_of,
    to_frame,
    write_results,
)


def row(value=0.5, **changes):
    base = {"run": "r", "subject": "e", "task": "t", "protocol": "p", "metric": "m", "value": value}
    return Result(**base | changes)


FAILED = row(math.nan, subject="f", reason="too-few", note="no cells", n_missing=3)
SEEDED = [row(0.25, seed=0, n=7), row(0.75, seed=1, n=7)]


def test_a_table_survives_the_file_with_types_and_order(tmp_path):
    write_results([FAILED, *SEEDED], tmp_path / "a.parquet")
    frame = read_results(tmp_path / "a.parquet")
    assert tuple(frame.columns) == COLUMNS
    types = {c: str(frame[c].dtype) for c in ("seed", "value", "difference", "n", "n_missing")}
    assert list(types.values()) == ["Int64", "float64", "float64", "int64", "int64"]
    pd.testing.assert_frame_equal(frame, to_frame([*SEEDED[::-1], FAILED]))
    # in the file it is NaN, a value, and not null, the absence of one
    assert pq.read_table(tmp_path / "a.parquet")["value"].null_count == 0
    # pandas writes another table of the same rows
    frame.astype({"seed": "float64"}).to_parquet(tmp_path / "p.parquet")
    pd.testing.assert_frame_equal(read_results(tmp_path / "p.parquet"), frame)


def test_a_score_of_seeds_alone_gets_their_mean_and_its_t_interval():
    frame = to_frame([*SEEDED, row(math.nan, seed=2, reason="error", note="x")])
    (summary,) = frame[frame["seed"].isna()].to_dict("records")
    half = 12.706204736 * 0.25  # t(.975, 1) * sd / sqrt(2)
    assert (summary["value"], summary["n"]) == (0.5, 7)
    assert (summary["low"], summary["high"]) == pytest.approx((0.5 - half, 0.5 + half))
    assert "1 of 3 seeds" in summary["note"]
    frame = to_frame([*SEEDED, row(0.1, low=0.0, high=0.2)])  # what a task gives is kept
    assert frame[frame["seed"].isna()]["value"].tolist() == [0.1]


@pytest.mark.parametrize("wrong", [{"value": math.nan}, {"value": math.inf}, {"kind": "floor"}])
def test_a_value_that_is_not_a_number_needs_a_reason_and_a_kind_is_known(wrong):
    with pytest.raises(ValueError, match="'e'|floor"):
        row(**wrong)


rows = st.lists(
    st.builds(row, st.floats(-1, 1), subject=st.sampled_from(["b", "a", "ß", ""]), seed=st.integers(-5, 5)),
    max_size=12,
    unique_by=lambda r: (r.subject, r.seed),
)


@settings(max_examples=12)
@given(rows, st.integers(0, 99))
def test_order_of_the_rows_and_of_the_files_does_not_matter(tmp_path_factory, results, seed):
    folder = tmp_path_factory.mktemp("r")
    whole = to_frame(results)
    write_results(whole, folder / "whole.parquet")
    shuffled = whole.sample(frac=1, random_state=seed)
    write_results(shuffled, folder / "shuffled.parquet")
    assert (folder / "whole.parquet").read_bytes() == (folder / "shuffled.parquet").read_bytes()
    write_results(shuffled.iloc[:7], folder / "1.parquet")
    write_results(shuffled.iloc[4:], folder / "2.parquet")  # the overlap is identical, so it is kept once
    merged = read_results([folder / "2.parquet", folder / "1.parquet"])
    pd.testing.assert_frame_equal(merged, read_results([folder / "whole.parquet"]))


def test_one_key_with_two_contents_is_an_error(tmp_path):
    write_results([row()], tmp_path / "a.parquet")
    write_results([row(0.6)], tmp_path / "b.parquet")
    with pytest.raises(BftembedError, match=r"a\.parquet.*subject=e"):
        read_results([tmp_path / "a.parquet", tmp_path / "b.parquet"])


def broken(path, kind):
    frame = to_frame([row()])
    if kind == "text":
        path.write_text("run,subject\n")
    elif kind == "columns":
        frame.drop(columns=["value", "note"]).to_parquet(path)
    elif kind == "types":
        frame.assign(value="high").to_parquet(path)
    elif kind == "newer":
        table = pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(table.replace_schema_metadata({"bftembed.results.schema": "99"}), path)


@pytest.mark.parametrize("kind", ["missing", "text", "columns", "types", "newer"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, kind):
    broken(tmp_path / "x.parquet", kind)
    with pytest.raises(BftembedError, match=r"x\.parquet"):
        read_results(tmp_path / "x.parquet")


def test_files_are_named_by_their_stem_or_by_the_user(tmp_path):
    assert named_files("a/b.tsv") == {"b": "a/b.tsv"}
    assert named_files(["x=a.tsv", "y=b.tsv"]) == {"x": "a.tsv", "y": "b.tsv"}
    (tmp_path / "k=v.tsv").touch()
    assert named_files([tmp_path / "k=v.tsv"]) == {"k=v": str(tmp_path / "k=v.tsv")}
    for wrong in (["=x.tsv"], ["a=x.tsv", "a=y.tsv"]):
        with pytest.raises(BftembedError):
            named_files(wrong)


# Tables


def scored():
    baseline = [row(0.3, subject="tfidf", kind="baseline", low=0.2, high=0.4, n=10)]
    chance = [row(v, subject=s, kind="chance", n=10) for s, v in (("a", 0.0), ("b", 0.1))]
    best = [row(0.6, subject="b", low=0.5, high=0.7, n=10, n_missing=2)]
    return to_frame([*baseline, *chance, row(0.5, subject="a", low=0.35, high=0.6, n=10, n_missing=2), *best, FAILED])


def test_a_table_has_a_row_per_subject_by_kind_and_score():
    table = score_table(scored(), [Metric("m", "M")], title="x")
    assert [(r.name, r.kind) for r in table.rows] == [
        *(("b", "subject"), ("a", "subject"), ("f", "subject")),
        *(("tfidf", "baseline"), ("chance", "chance")),
    ]
    cells = {r.name: r.cells["m"] for r in table.rows}
    assert (cells["b"].value, cells["b"].low, cells["b"].high) == (0.6, 0.5, 0.7)
    assert (cells["chance"].value, cells["chance"].low, cells["chance"].high) == (0.05, 0.0, 0.1)
    assert (math.isnan(cells["f"].value), cells["f"].text) == (True, "too-few")
    assert [note for note in table.footnotes if "2 items" in note or "no cells" in note] == list(table.footnotes)
    lower = score_table(scored(), [Metric("m", "M", better="lower")], title="x")
    assert [r.name for r in lower.rows[:2]] == ["a", "b"]
    assert [t.best(t.columns[0]) for t in (table, lower)] == [0.6, 0.3]


def test_a_conclusion_needs_intervals_that_do_not_overlap():
    (conclusion,) = score_table(scored(), [Metric("m", "M")], title="x").conclusions
    assert ("b on M" in conclusion, "a on M" in conclusion) == (True, False)
    assert score_table(scored(), [Metric("m", "M", concludes=False)], title="x").conclusions == ()


MIX = [
    Result("pbmc/type", "X", "clustering", "standard", "ari", value=0.5, low=0.4, high=0.6, n=9),
    Result("pbmc/type/batch", "X", "integration", "current", "total", value=0.6, n=9),
    Result("shared", "X", "dosage", "strict/logistic", "roc_auc", value=0.7, low=0.6, high=0.8, n=9),
    Result("screen", "X", "perturbation", "unseen-gene", "pds_l1", value=0.8, n=9),
    Result("cite", "X", "matching", "euclidean", "foscttm", value=0.3, n=9),
    Result("other", "X", "of another program", "", "score", value=3.0, n=9),
]


@pytest.mark.parametrize("suffix", ["html", "png", "csv", "tex", "md"])
def test_results_of_all_tasks_stand_in_one_file(tmp_path, suffix):
    write_results(MIX[:3], tmp_path / "a.parquet")
    write_results(MIX[3:], tmp_path / "b.parquet")
    Manifest(title="All of it").save(tmp_path)
    out = report([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / f"r.{suffix}")
    assert out.stat().st_size > 300
    if suffix in ("html", "md"):
        text = out.read_text()
        assert all(value in text for value in ("0.500", "0.600", "0.700", "0.800", "0.300", "3.000"))
    order = ["Genes", "Clustering", "Integration", "Multimodal", "Perturbation", "Of another program"]
    assert list(tables_of(to_frame(MIX))) == order


def test_an_input_is_never_the_output_and_a_suffix_is_known(tmp_path):
    write_results(MIX, tmp_path / "a.parquet")
    with pytest.raises(UnknownNameError):
        report(tmp_path / "a.parquet", tmp_path / "r.docx")
    for results, out in (("a.parquet", "a.parquet"), ("none.parquet", "r.html")):
        with pytest.raises(BftembedError):
            report(tmp_path / results, tmp_path / out)


# Schema 1

V1 = ("run", "embedding", "task", "protocol", "metric", "split", "seed", "value", "n_used", "n_missing", "note")


def converted(tmp_path, *records):
    table = pd.DataFrame(records, columns=list(V1)).astype({"seed": "Int64"})
    written = pa.Table.from_pandas(table, preserve_index=False)
    path = tmp_path / "v1.parquet"
    pq.write_table(written.replace_schema_metadata({"bftembed.results.schema": "1"}), path)
    return read_results(path)


def one(frame, **where):
    for key, value in where.items():
        frame = frame[frame[key].isna()] if value is None else frame[frame[key] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]


def test_schema_1_is_converted(tmp_path):
    def cells(name, protocol, split, seed, value):
        return ("r", name, "clustering", protocol, "ari", split, seed, value, 9, 1, "")

    def genes(name, metric, split, seed, value):
        return ("shared", name, "dosage", "strict/logistic", metric, split, seed, value, 80, 0, "")

    def screen(name, metric, split, value):
        return ("r", name, "perturbation", "unseen-gene", metric, split, None, value, 5, 0, "")

    frame = converted(
        tmp_path,
        cells("X", "strict", "all", 0, 0.4),
        cells("X", "strict", "all", 1, 0.6),
        cells("X", "strict", "ci95-low", None, 0.3),
        cells("X", "strict", "ci95-high", None, 0.7),
        cells("X", "strict/permuted-labels", "all", 0, 0.01),
        cells("baseline: random 1", "strict", "all", 0, 0.2),
        cells("baseline: pca", "strict", "all", 0, 0.5),
        genes("X", "roc_auc", "fold0", 0, 0.7),
        genes("X", "roc_auc", "fold1", 0, 0.9),
        genes("X", "roc_auc", "ci95-low", None, 0.6),
        genes("X", "roc_auc", "ci95-high", None, 0.95),
        genes("X", "roc_auc_above_floor", "all", None, 0.1),
        genes("X", "roc_auc_above_floor", "ci95-low", None, 0.02),
        genes("X", "roc_auc_above_floor", "ci95-high", None, 0.2),
        genes("X", "label_stated_in_text", "positive", None, 0.25),
        screen("bilinear: P = text", "pds_l1", "all", 0.7),
        screen("bilinear: P = text", "pds_l1_minus_random", "all", 0.2),
        screen("bilinear: P = text", "pds_l1_minus_random", "ci95-low", 0.1),
        screen("bilinear: P = random (text's shape)", "pds_l1", "all", 0.5),
        ("r", "Y", "matching", "euclidean", "foscttm", "all", None, math.nan, 5, 0, "undefined: one cell"),
    )
    of_cells, of_genes, of_screen = (frame[frame["task"] == t] for t in ("clustering", "dosage", "perturbation"))
    summary = one(of_cells, subject="X", kind="subject", seed=None)
    assert summary[["value", "low", "high", "n", "n_missing"]].tolist() == [0.5, 0.3, 0.7, 9, 1]
    assert one(of_cells, kind="chance", subject="X", seed=0)["protocol"] == "strict"
    for kind, subject in (("random", "random 1"), ("reference", "pca")):
        assert one(of_cells, kind=kind, seed=0)["subject"] == subject
    assert not frame["split"].str.startswith("ci95").any()
    summary = one(of_genes, subject="X", kind="subject", seed=None, metric="roc_auc", split="all")
    assert summary[["value", "low", "high"]].tolist() == pytest.approx([0.8, 0.6, 0.95])
    assert summary[["difference", "difference_low", "difference_high"]].tolist() == [0.1, 0.02, 0.2]
    assert one(of_genes, metric="label_stated_in_text")["split"] == "positive"
    plain, compared = (one(of_screen, subject="text", kind="subject", reference=of) for of in ("", "random"))
    assert (plain["value"], compared["value"], compared["difference"]) == (0.7, 0.7, 0.2)
    assert one(of_screen, kind="random")["subject"] == "text"
    assert one(frame, subject="Y")["reason"] == "undefined"
