"""The results table: written atomically, merged without loss, contradictions raise, schema 1 is converted."""

from __future__ import annotations

import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError
from bftembed.tasks.base import (
    COLUMNS,
    Metric,
    Result,
    generic_tables,
    read_results,
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
    types = {c: str(frame[c].dtype) for c in ("seed", "value", "low", "difference", "n", "n_missing")}
    assert types == {
        **{"seed": "Int64", "n": "int64", "n_missing": "int64"},
        **dict.fromkeys(("value", "low", "difference"), "float64"),
    }
    pd.testing.assert_frame_equal(frame, to_frame([*SEEDED[::-1], FAILED]))
    # in the file it is NaN, a value, and not null, the absence of one
    assert pq.read_table(tmp_path / "a.parquet")["value"].null_count == 0


def test_a_score_of_seeds_alone_gets_their_mean_and_its_t_interval():
    frame = to_frame([*SEEDED, row(math.nan, seed=2, reason="error", note="x")])
    (summary,) = frame[frame["seed"].isna()].to_dict("records")
    half = 12.706204736 * 0.25  # t(.975, 1) * sd / sqrt(2)
    assert (summary["value"], summary["n"]) == (0.5, 7)
    assert (summary["low"], summary["high"]) == pytest.approx((0.5 - half, 0.5 + half))
    assert "1 of 3 seeds" in summary["note"]


def test_a_summary_that_a_task_gives_is_kept():
    frame = to_frame([*SEEDED, row(0.1, low=0.0, high=0.2)])
    assert frame[frame["seed"].isna()]["value"].tolist() == [0.1]


@pytest.mark.parametrize(
    "wrong", [{"value": math.nan}, {"value": math.inf}, {"value": math.nan, "reason": "because"}, {"kind": "floor"}]
)
def test_a_value_that_is_not_a_number_needs_a_reason_and_a_kind_is_known(wrong):
    with pytest.raises(ValueError, match="'e'|floor"):
        row(**wrong)


rows = st.lists(
    st.builds(
        row,
        st.floats(-1, 1, allow_nan=False),
        subject=st.sampled_from(["b", "a", "ß", ""]),
        seed=st.integers(-5, 5),
        kind=st.sampled_from(["subject", "chance"]),
    ),
    max_size=12,
    unique_by=lambda r: (r.subject, r.seed, r.kind),
)


@given(rows, st.randoms(use_true_random=False))
def test_order_of_the_rows_and_of_the_files_does_not_matter(tmp_path_factory, results, random):
    folder = tmp_path_factory.mktemp("r")
    whole = to_frame(results)
    write_results(whole, folder / "whole.parquet")
    shuffled = whole.sample(frac=1, random_state=random.randint(0, 99))
    write_results(shuffled, folder / "shuffled.parquet")
    assert (folder / "whole.parquet").read_bytes() == (folder / "shuffled.parquet").read_bytes()
    write_results(shuffled.iloc[:7], folder / "1.parquet")
    write_results(shuffled.iloc[4:], folder / "2.parquet")  # the overlap is identical, so it is kept once
    merged = read_results([folder / "2.parquet", folder / "1.parquet"])
    pd.testing.assert_frame_equal(merged, read_results([folder / "whole.parquet"]))


@pytest.mark.parametrize(
    "changes", [{"value": 0.6}, {"n": 9}, {"note": "other"}, {"low": 0.1}, {"value": math.nan, "reason": "error"}]
)
def test_one_key_with_two_contents_is_an_error(tmp_path, changes):
    write_results([row()], tmp_path / "a.parquet")
    write_results([row(**changes)], tmp_path / "b.parquet")
    with pytest.raises(BftembedError, match=r"a\.parquet.*subject=e"):
        read_results([tmp_path / "a.parquet", tmp_path / "b.parquet"])


def broken(tmp_path, kind):
    path = tmp_path / "x.parquet"
    frame = to_frame([row()])
    if kind == "text":
        path.write_text("run,subject\n")
    elif kind == "truncated":
        write_results([row()], path)
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "columns":
        frame.drop(columns=["value", "note"]).to_parquet(path)
    elif kind == "types":
        frame.assign(value="high").to_parquet(path)
    elif kind == "newer":
        table = pa.Table.from_pandas(frame, preserve_index=False)
        pq.write_table(table.replace_schema_metadata({"bftembed.results.schema": "99"}), path)
    return path


@pytest.mark.parametrize("kind", ["missing", "text", "truncated", "columns", "types", "newer"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, kind):
    with pytest.raises(BftembedError, match=r"x\.parquet"):
        read_results(broken(tmp_path, kind))


def test_a_table_that_pandas_wrote_is_read(tmp_path):
    whole = to_frame([row(), *SEEDED, FAILED])
    whole.astype({"seed": "float64"}).to_parquet(tmp_path / "p.parquet")
    pd.testing.assert_frame_equal(read_results(tmp_path / "p.parquet"), whole)


# -- tables -----------------------------------------------------------------------------------------------------------


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
    assert table.best(table.columns[0]) == 0.6


def test_a_conclusion_needs_intervals_that_do_not_overlap():
    (conclusion,) = score_table(scored(), [Metric("m", "M")], title="x").conclusions
    assert "b on M" in conclusion
    assert "a on M" not in conclusion
    assert score_table(scored(), [Metric("m", "M", concludes=False)], title="x").conclusions == ()


def test_lower_is_better_where_a_metric_says_so():
    table = score_table(scored(), [Metric("m", "M", better="lower")], title="x")
    assert [r.name for r in table.rows[:2]] == ["a", "b"]
    assert table.best(table.columns[0]) == 0.3
    assert "No subject" in table.conclusions[0]


def test_a_task_of_another_program_has_a_table_too():
    assert [c.key for c in generic_tables(scored())[0].columns] == ["m"]
    assert list(tables_of(scored())) == ["T"]


# -- schema 1 ---------------------------------------------------------------------------------------------------------

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


def test_schema_1_clustering(tmp_path):
    def of(name, protocol, split, seed, value):
        return ("r", name, "clustering", protocol, "ari", split, seed, value, 9, 1, "")

    frame = converted(
        tmp_path,
        of("X", "strict", "all", 0, 0.4),
        of("X", "strict", "all", 1, 0.6),
        of("X", "strict", "ci95-low", None, 0.3),
        of("X", "strict", "ci95-high", None, 0.7),
        of("X", "strict/permuted-labels", "all", 0, 0.01),
        of("baseline: random 1", "strict", "all", 0, 0.2),
        of("baseline: pca", "strict", "all", 0, 0.5),
        of("baseline: tfidf", "permuted-labels", "all", 0, 0.0),
    )
    summary = one(frame, subject="X", kind="subject", seed=None)
    assert summary[["value", "low", "high", "n", "n_missing"]].tolist() == [0.5, 0.3, 0.7, 9, 1]
    assert one(frame, kind="chance", subject="X", seed=0)["protocol"] == "strict"
    assert one(frame, kind="random", seed=0)["subject"] == "random 1"
    assert one(frame, kind="reference", seed=0)["subject"] == "pca"
    assert not frame["split"].str.startswith("ci95").any()


def test_schema_1_genes(tmp_path):
    def of(name, metric, split, seed, value, note=""):
        return ("shared", name, "dosage", "strict/logistic", metric, split, seed, value, 80, 0, note)

    best = "best floor: floor: TF-IDF of the text of X; 3 items left out"
    frame = converted(
        tmp_path,
        of("X", "roc_auc", "fold0", 0, 0.7),
        of("X", "roc_auc", "fold1", 0, 0.9),
        of("X", "roc_auc", "ci95-low", None, 0.6),
        of("X", "roc_auc", "ci95-high", None, 0.95),
        of("X", "roc_auc_above_floor", "all", None, 0.1, best),
        of("X", "roc_auc_above_floor", "ci95-low", None, 0.02, best),
        of("X", "roc_auc_above_floor", "ci95-high", None, 0.2, best),
        of("X, label words masked", "roc_auc", "fold0", 0, 0.65),
        of("floor: TF-IDF of the text of X", "roc_auc", "fold0", 0, 0.7),
        of("floor: TF-IDF of the text", "roc_auc", "fold0", 0, 0.6),
        of("floor: permuted labels of X", "roc_auc", "fold0", 0, 0.5),
        of("ceiling: degree", "roc_auc", "fold0", 0, 0.99),
        of("X", "label_stated_in_text", "positive", None, 0.25),
    )
    summary = one(frame, subject="X", kind="subject", seed=None, metric="roc_auc", split="all")
    assert summary[["value", "low", "high"]].tolist() == pytest.approx([0.8, 0.6, 0.95])
    assert summary[["difference", "difference_low", "difference_high"]].tolist() == [0.1, 0.02, 0.2]
    assert summary["reference"] == "TF-IDF of the text of X"
    assert one(frame, kind="label-masked", seed=0)["subject"] == "X"
    assert one(frame, kind="chance", seed=0)["subject"] == "X"
    assert one(frame, kind="upper-bound", seed=0)["subject"] == "degree"
    assert one(frame, metric="label_stated_in_text")["split"] == "positive"


def test_schema_1_perturbation_and_matching(tmp_path):
    def of(name, metric, split, value, task="perturbation", note=""):
        return ("r", name, task, "unseen-gene", metric, split, None, value, 5, 0, note)

    frame = converted(
        tmp_path,
        of("bilinear: P = text", "pds_l1", "all", 0.7),
        of("bilinear: P = text", "pds_l1_minus_random", "all", 0.2),
        of("bilinear: P = text", "pds_l1_minus_random", "ci95-low", 0.1),
        of("bilinear: P = text", "pds_l1_minus_random", "ci95-high", 0.3),
        of("bilinear: P = random (text's shape)", "pds_l1", "all", 0.5),
        of("control mean", "pds_l1", "all", 0.5),
        of("chance", "pds_l1", "all", 0.5),
        of("X", "foscttm", "all", 0.3, "matching", "chance 0.5; bftembed 0.1.0"),
        of("Y", "foscttm", "all", math.nan, "matching", "undefined: one cell"),
    )
    plain = one(frame, subject="text", kind="subject", reference="")
    compared = one(frame, subject="text", kind="subject", reference="random")
    assert (plain["value"], compared["value"]) == (0.7, 0.7)
    assert compared[["difference", "difference_low", "difference_high"]].tolist() == [0.2, 0.1, 0.3]
    assert one(frame, kind="random")["subject"] == "text"
    assert one(frame, kind="baseline")["subject"] == "control mean"
    assert one(frame, kind="chance", task="matching")["value"] == 0.5
    assert one(frame, subject="Y")["reason"] == "undefined"
