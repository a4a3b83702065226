"""The long results table: one row type, one Parquet file, append, read, merge.

Columns, in this order: run, embedding, task, protocol, metric, split, seed (nullable integer: null where nothing was
seeded), value (float64; NaN for a failure, whose note says why), n_used, n_missing, note. The first seven are the
key of a row. Tables, plots and the report are views of this table.
"""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, examples
from bftembed.io import atomic_path, exclusive_lock

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

SCHEMA_VERSION = 1
_VERSION_KEY = b"bftembed.results.schema"
KEY = ("run", "embedding", "task", "protocol", "metric", "split", "seed")
#: Splits of the ends of a 95 % interval.
ENDS = ("ci95-low", "ci95-high")
#: Begins the name of an embedding that was made in the run, to compare with.
BASELINE = "baseline: "
SORT = ["run", "task", "protocol", "embedding", "metric", "split", "seed"]


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One row of the results table.

    Attributes
    ----------
    run
        Which data and settings, for example the name of the h5ad and the label column.
    embedding
        What was scored.
    task, protocol, metric
        What was asked of it, under which rules, and the score.
    split
        Which part of the data, ``"all"`` where there are no parts; ``"ci95-low"`` and ``"ci95-high"`` are the ends of
        the interval of the ``"all"`` row.
    seed
        Seed of the run, None where nothing was seeded.
    value
        The score; NaN for a failure.
    n_used, n_missing
        Items that were scored and items that were left out.
    note
        Why items were left out, or why there is no value. Never empty beside a NaN.

    Raises
    ------
    ValueError
        For an infinite value, or NaN without a note.
    """

    run: str
    embedding: str
    task: str
    protocol: str
    metric: str
    split: str = "all"
    seed: int | None = None
    value: float = math.nan
    n_used: int = 0
    n_missing: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        where = f"{self.embedding!r}, {self.metric!r}"
        if math.isinf(self.value):
            raise ValueError(f"The value of {where} is infinite: record a NaN with a note instead.")
        if math.isnan(self.value) and not self.note:
            raise ValueError(f"The value of {where} is NaN without a note that says why.")


COLUMNS = tuple(field.name for field in dataclasses.fields(Result))


def to_frame(results: Iterable[Result]) -> pd.DataFrame:
    """Return the rows as a DataFrame with the columns, dtypes and order of the file; identical rows once.

    Raises
    ------
    BftembedError
        When one key occurs with two values.
    """
    import pandas as pd

    rows = [dataclasses.astuple(r) for r in results]
    return ordered(pd.DataFrame(rows, columns=list(COLUMNS)), "the results")


def write_results(results: Iterable[Result] | pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write the table as Parquet, whole or not at all; equal tables give equal bytes.

    Raises
    ------
    BftembedError
        When columns are missing, one key occurs with two values, or the file cannot be written.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame = ordered(results, "the results") if isinstance(results, pd.DataFrame) else to_frame(results)
    schema = _schema()
    # NaN is a value here (a failure), null is not: so no from_pandas conversion of the scores.
    arrays = [
        pa.array(frame[f.name].to_numpy(), f.type) if f.name == "value" else pa.array(frame[f.name], f.type)
        for f in schema
    ]
    table = pa.Table.from_arrays(arrays, schema=schema.with_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode()}))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def append_results(results: Iterable[Result] | pd.DataFrame, path: str | os.PathLike[str]) -> pd.DataFrame:
    """Add rows to the file `path` (made when missing) and return the whole table.

    Raises
    ------
    BftembedError
        When a row contradicts one in the file, another process is appending, or as `read_results` and `write_results`.
    """
    import pandas as pd

    file = Path(path)
    with exclusive_lock(file.with_name(f".{file.name}.lock"), holder=str(file)):
        new = results if isinstance(results, pd.DataFrame) else to_frame(results)
        parts = [read_results([file]), new] if file.exists() else [new]
        merged = ordered(pd.concat(parts, ignore_index=True), f"{file} and the new rows")
        write_results(merged, file)
    return merged


def read_results(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> pd.DataFrame:
    """Read one results file or merge several.

    Parameters
    ----------
    paths
        One path or several. A row that occurs several times with the same content is kept once.

    Returns
    -------
    pandas.DataFrame
        Columns in the order of the file, ``seed`` as nullable Int64, rows sorted by key.

    Raises
    ------
    BftembedError
        For no path, a missing, damaged or foreign file, missing columns, a newer schema, or one key with two values.
    """
    import pandas as pd

    files = paths_of(paths)
    if not files:
        raise BftembedError("No results file was given.")
    return ordered(pd.concat([_read_one(f) for f in files], ignore_index=True), ", ".join(map(str, files)))


def paths_of(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return one path or several as a list."""
    return [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(p) for p in paths]


def _schema() -> Any:
    import pyarrow as pa

    types = {"seed": pa.int64(), "value": pa.float64(), "n_used": pa.int64(), "n_missing": pa.int64()}
    return pa.schema([pa.field(c, types.get(c, pa.string())) for c in COLUMNS])


def _read_one(file: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.is_file():
        raise BftembedError(f"No such results file: {file}. Write one with `bftembed bench … --out {file.name}`.")
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as err:
        raise BftembedError(
            f"{file} is not a whole Parquet file ({str(err).splitlines()[0]}). Run the benchmark that wrote it again."
        ) from err
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"1").decode(errors="replace")
    if not version.isdigit() or int(version) > SCHEMA_VERSION:
        raise BftembedError(
            f"{file} was written by a newer bftembed (results schema {version}; this one reads {SCHEMA_VERSION}). "
            "Update bftembed."
        )
    lacking = [c for c in COLUMNS if c not in table.column_names]
    if lacking:
        raise BftembedError(f"{file} is not a results table: it lacks the columns {examples(lacking, 11)}.")
    try:
        frame = table.select(list(COLUMNS)).cast(_schema()).to_pandas(integer_object_nulls=True)
    except (pa.ArrowException, ValueError) as err:
        raise BftembedError(f"{file}: a column has the wrong type ({str(err).splitlines()[0]}).") from err
    # Other writers (pandas) store NaN as null.
    return frame.fillna({"note": "", "n_used": 0, "n_missing": 0})


def ordered(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return a results table in its one form: columns typed, rows sorted, repeats dropped, contradictions refused.

    Parameters
    ----------
    frame
        Rows of one or several tables.
    where
        Where they come from, for messages.
    """
    lacking = [c for c in COLUMNS if c not in frame.columns]
    if lacking:
        raise BftembedError(f"{where}: the columns {examples(lacking, 11)} are missing from the results table.")
    table = frame[list(COLUMNS)].astype(
        dict.fromkeys(COLUMNS, "object")
        | {"seed": "Int64", "value": "float64", "n_used": "int64", "n_missing": "int64"}
    )
    table = table.drop_duplicates().sort_values(SORT, kind="stable", na_position="first", ignore_index=True)
    twice = table.duplicated(list(KEY), keep=False)
    if twice.any():
        first = table[twice].iloc[:2]
        name = ", ".join(f"{k}={first.iloc[0][k]}" for k in KEY)
        raise BftembedError(
            f"{where}: the row ({name}) occurs with different content: value {first.iloc[0]['value']} and "
            f"{first.iloc[1]['value']}. Give the runs different names (run=), or leave one file out."
        )
    return table
