"""The long results table: written whole, merged without loss, contradictions refused."""

from __future__ import annotations

import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bftembed.errors import BftembedError
from bftembed.results import COLUMNS, Result, append_results, read_results, to_frame, write_results


def row(value=0.5, **changes):
    return Result(
        **{"run": "r", "embedding": "e", "task": "t", "protocol": "p", "metric": "m", "seed": 0, "value": value}
        | changes
    )


FAILED = row(math.nan, seed=1, note="error: no cells", n_missing=3)
UNSEEDED = row(0.25, seed=None, n_used=7)


def test_a_table_survives_the_file_with_types_and_order(tmp_path):
    write_results([FAILED, UNSEEDED, row()], tmp_path / "a.parquet")
    frame = read_results(tmp_path / "a.parquet")
    assert tuple(frame.columns) == COLUMNS
    assert [str(frame[c].dtype) for c in ("seed", "value", "n_used", "n_missing")] == [
        "Int64",
        "float64",
        "int64",
        "int64",
    ]
    assert [None if pd.isna(s) else int(s) for s in frame["seed"]] == [None, 0, 1]
    assert frame["value"].iloc[:2].tolist() == [0.25, 0.5]
    pd.testing.assert_frame_equal(frame, to_frame([row(), FAILED, UNSEEDED]))


def test_a_failure_keeps_its_nan_and_its_reason(tmp_path):
    write_results([FAILED], tmp_path / "a.parquet")
    again = append_results([row()], tmp_path / "a.parquet")
    kept = again[again["seed"] == 1].iloc[0]
    assert math.isnan(kept["value"])
    assert (kept["note"], kept["n_missing"]) == ("error: no cells", 3)
    # in the file it is NaN, a value, and not null, the absence of one
    assert pq.read_table(tmp_path / "a.parquet")["value"].null_count == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_needs_a_reason(value):
    with pytest.raises(ValueError, match="note"):
        row(value)


rows = st.lists(
    st.builds(
        row,
        st.floats(-1, 1, allow_nan=False),
        embedding=st.sampled_from(["b", "a", "ß", ""]),
        seed=st.one_of(st.none(), st.integers(-5, 5)),
        split=st.sampled_from(["all", "ci95-low"]),
    ),
    max_size=12,
    unique_by=lambda r: (r.embedding, r.seed, r.split),
)


@given(rows, st.randoms(use_true_random=False))
def test_order_of_the_rows_and_of_the_files_does_not_matter(tmp_path_factory, results, random):
    folder = tmp_path_factory.mktemp("r")
    write_results(results, folder / "whole.parquet")
    shuffled = random.sample(results, len(results))
    write_results(shuffled, folder / "shuffled.parquet")
    assert (folder / "whole.parquet").read_bytes() == (folder / "shuffled.parquet").read_bytes()
    write_results(shuffled[:7], folder / "1.parquet")
    write_results(shuffled[4:], folder / "2.parquet")  # the overlap is identical, so it is kept once
    merged = read_results([folder / "2.parquet", folder / "1.parquet"])
    pd.testing.assert_frame_equal(merged, read_results([folder / "whole.parquet"]))


@pytest.mark.parametrize(
    "changes", [{"value": 0.6}, {"n_used": 9}, {"note": "other"}, {"value": math.nan, "note": "error"}]
)
def test_one_key_with_two_contents_is_refused_by_name(tmp_path, changes):
    write_results([row()], tmp_path / "a.parquet")
    write_results([row(**changes)], tmp_path / "b.parquet")
    with pytest.raises(BftembedError, match=r"a\.parquet.*run=r, embedding=e.*seed=0"):
        read_results([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    before = (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(BftembedError, match="different content"):
        append_results([row(**changes)], tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == before


def test_append_makes_the_file_and_adds_to_it(tmp_path):
    path = tmp_path / "new" / "a.parquet"
    append_results([row()], path)
    append_results(to_frame([row(), UNSEEDED]), path)
    assert len(read_results(path)) == 2


def broken(tmp_path, kind):
    path = tmp_path / "x.parquet"
    frame = to_frame([row()])
    if kind == "text":
        path.write_text("run,embedding\n")
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
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "No such results file"),
        ("folder", "No such results file"),
        ("text", "not a whole Parquet"),
        ("truncated", "not a whole Parquet"),
        ("columns", "lacks the columns 'value', 'note'"),
        ("types", "wrong type"),
        ("newer", "newer bftembed.*99"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, kind, reason):
    with pytest.raises(BftembedError, match=f"x.parquet.*{reason}|{reason}.*x.parquet"):
        read_results(broken(tmp_path, kind))


def test_a_table_that_pandas_wrote_is_read(tmp_path):
    pd.DataFrame(to_frame([row(), UNSEEDED, FAILED])).astype({"seed": "float64"}).to_parquet(tmp_path / "p.parquet")
    pd.testing.assert_frame_equal(read_results(tmp_path / "p.parquet"), to_frame([row(), UNSEEDED, FAILED]))


def test_no_file_and_no_columns_are_said_so(tmp_path):
    with pytest.raises(BftembedError, match="No results file"):
        read_results([])
    with pytest.raises(BftembedError, match="'run'"):
        write_results(pd.DataFrame({"value": [1.0]}), tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists()
