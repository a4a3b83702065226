"""The long table of results (one Parquet file), the lists of benchmarks and evaluations, and tables of both."""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.io import atomic_path, refuse_input_as_output
from bftembed.registry import Registry
from bftembed.report.table import BASELINE_KINDS, KINDS, Cell, Column, Row, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

SCHEMA_VERSION = 2
_VERSION_KEY = b"bftembed.results.schema"
KEY = ("run", "subject", "kind", "task", "protocol", "metric", "split", "seed", "reference")
SORT = ("run", "task", "protocol", "kind", "subject", "metric", "split", "seed", "reference")
#: Why a value is missing.
REASONS = (
    "undefined",  # the metric is not defined on these data
    "too-few",  # fewer items than the method needs
    "no-vectors",  # no item that has a label has a vector
    "error",  # the computation failed
)


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the results table.

    Attributes
    ----------
    run
        Data and settings, for example the name of the h5ad and the label column.
    subject
        What was scored: an embedding, a model, a baseline.
    task, protocol, metric
        The task, its rules, and the score.
    split
        Part of the data, ``"all"`` where there are no parts.
    seed
        Seed of the row. None for the score over all seeds and folds, which tables show; there is one for each key.
    kind
        One of `bftembed.report.table.KINDS`.
    value, low, high
        The score and the ends of its 95 % interval. NaN: none.
    n, n_missing
        Number of items that were scored and that were left out.
    reference, difference, difference_low, difference_high
        Paired comparison: `value` minus that of the subject `reference`, and the ends of its 95 % interval.
    reason
        Why there is no value, one of `REASONS`; ``""`` where there is one. In a row with a `reference` also why the
        difference has no interval.
    note
        Free text for readers; nothing parses it.

    Raises
    ------
    ValueError
        For an infinite value, NaN without a reason, or an unknown kind or reason.
    """

    run: str
    subject: str
    task: str
    protocol: str
    metric: str
    split: str = "all"
    seed: int | None = None
    kind: str = "subject"
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    n_missing: int = 0
    reference: str = ""
    difference: float = math.nan
    difference_low: float = math.nan
    difference_high: float = math.nan
    reason: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        where = f"{self.subject!r}, {self.metric!r}"
        if math.isinf(self.value):
            raise ValueError(f"The value of {where} is infinite: record NaN with a reason.")
        if math.isnan(self.value) and self.reason not in REASONS:
            raise ValueError(f"The value of {where} is NaN; its reason must be one of {REASONS}, not {self.reason!r}.")
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is not a kind of row ({', '.join(KINDS)}).")


COLUMNS = tuple(field.name for field in dataclasses.fields(Result))
_FLOATS = ("value", "low", "high", "difference", "difference_low", "difference_high")


def over_seeds(rows: Iterable[Result]) -> Result:
    """Return the row over all seeds of rows that differ by the seed: the mean of the values, Student's t interval."""
    from bftembed.metrics.intervals import t_interval

    found = list(rows)
    values = [r.value for r in found if not math.isnan(r.value)]
    low, high = t_interval(values)
    notes = [found[0].note] if len({r.note for r in found}) == 1 or not values else []
    if 0 < len(values) < len(found):
        notes.append(f"{len(found) - len(values)} of {len(found)} seeds without a value")
    return dataclasses.replace(
        found[0],
        seed=None,
        split="all",
        value=sum(values) / len(values) if values else math.nan,
        low=low,
        high=high,
        n=max(r.n for r in found),
        n_missing=max(r.n_missing for r in found),
        reason="" if values else found[0].reason,
        note="; ".join(filter(None, notes)),
    )


def to_frame(results: Iterable[Result], out: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Return rows as the results table, and write it to `out` where that is given.

    A score that has rows of seeds alone gets the row over all seeds (see `over_seeds`).

    Raises
    ------
    BftembedError
        When one key occurs with two values, or as `write_results`.
    """
    import pandas as pd

    rows = list(results)

    def key(row: Result) -> tuple[Any, ...]:
        return tuple(getattr(row, k) for k in KEY if k not in ("seed", "reference"))

    summarized = {key(r) for r in rows if r.seed is None}
    of_seeds: dict[tuple[Any, ...], list[Result]] = {}
    for row in rows:
        if row.split == "all" and key(row) not in summarized:
            of_seeds.setdefault(key(row), []).append(row)
    rows += [over_seeds(found) for found in of_seeds.values()]
    frame = ordered(pd.DataFrame([dataclasses.astuple(r) for r in rows], columns=list(COLUMNS)), "the results")
    if out is not None:
        write_results(frame, out)
    return frame


def write_results(results: Iterable[Result] | pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write the table as Parquet, atomically; equal tables give equal bytes.

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
    # NaN is a value here, null is not: so no from_pandas conversion of the scores.
    arrays = [pa.array(frame[f.name].to_numpy() if f.name in _FLOATS else frame[f.name], f.type) for f in schema]
    table = pa.Table.from_arrays(arrays, schema=schema.with_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode()}))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_results(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> pd.DataFrame:
    """Read one results file or merge several; files of schema 1 are converted.

    Rows are sorted by key, with ``seed`` as nullable Int64; one that occurs several times is kept once.

    Raises
    ------
    BftembedError
        For no path, a missing, damaged or foreign file, missing columns, a newer schema, or one key with two values.
    """
    import pandas as pd

    files = [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(p) for p in paths]
    if not files:
        raise BftembedError("No results file was given.")
    return ordered(pd.concat([_read_one(f) for f in files], ignore_index=True), ", ".join(map(str, files)))


def _schema() -> Any:
    import pyarrow as pa

    types = {"seed": pa.int64(), "n": pa.int64(), "n_missing": pa.int64()} | dict.fromkeys(_FLOATS, pa.float64())
    return pa.schema([pa.field(c, types.get(c, pa.string())) for c in COLUMNS])


def _read_one(file: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bftembed.tasks import _schema1

    if not file.is_file():
        raise BftembedError(f"No such results file: {file}.")
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as err:
        raise BftembedError(f"{file} is not a complete Parquet file ({str(err).splitlines()[0]}).") from err
    # Other writers leave out the metadata.
    guess = "1" if "embedding" in table.column_names else str(SCHEMA_VERSION)
    version = (table.schema.metadata or {}).get(_VERSION_KEY, guess.encode()).decode(errors="replace")
    if version not in ("1", str(SCHEMA_VERSION)):
        raise BftembedError(f"{file} has results schema {version}; this bftembed reads up to {SCHEMA_VERSION}: update.")
    columns = _schema1.COLUMNS if version == "1" else COLUMNS
    if missing := [c for c in columns if c not in table.column_names]:
        raise BftembedError(f"{file} is not a results table: columns {examples(missing, len(columns))} are missing.")
    if version == "1":
        return to_frame(_schema1.convert(table.to_pandas(integer_object_nulls=True), Result, over_seeds))
    try:
        frame = table.select(list(COLUMNS)).cast(_schema()).to_pandas(integer_object_nulls=True)
    except (pa.ArrowException, ValueError) as err:
        raise BftembedError(f"{file}: a column has the wrong type ({str(err).splitlines()[0]}).") from err
    # Other writers (pandas) store NaN as null.
    return frame.fillna({"note": "", "reason": "", "reference": "", "n": 0, "n_missing": 0})


def ordered(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return a results table with typed columns, rows sorted by key and repeats dropped; `where` is for messages.

    Raises
    ------
    BftembedError
        For missing columns, or one key with two values.
    """
    if missing := [c for c in COLUMNS if c not in frame.columns]:
        raise BftembedError(f"{where}: columns {examples(missing, len(COLUMNS))} are missing from the results table.")
    types = dict.fromkeys(COLUMNS, "object") | dict.fromkeys(_FLOATS, "float64")
    table = frame[list(COLUMNS)].astype(types | {"seed": "Int64", "n": "int64", "n_missing": "int64"})
    table = table.drop_duplicates().sort_values(list(SORT), kind="stable", na_position="first", ignore_index=True)
    twice = table.duplicated(list(KEY), keep=False)
    if twice.any():
        first = table[twice].iloc[:2]
        name, values = ", ".join(f"{k}={first.iloc[0][k]}" for k in KEY), " and ".join(map(str, first["value"]))
        raise BftembedError(
            f"{where}: the row ({name}) occurs twice, with the values {values}. Give the runs different names."
        )
    return table


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a task, as a column of its table.

    Attributes
    ----------
    name
        As in the column ``metric`` of the results.
    title, group, better, limits
        As in `bftembed.report.table.Column`.
    concludes
        Whether conclusions are drawn from it: not from a score that the labels help to choose, nor from an aggregate
        that others decide.
    """

    name: str
    title: str
    group: str = ""
    better: Literal["higher", "lower", ""] = "higher"
    limits: tuple[float, float] | None = (0.0, 1.0)
    concludes: bool = True

    def column(self) -> Column:
        """Return the column of this metric."""
        return Column(self.name, self.title, self.group, self.better, limits=self.limits)


def named_files(given: Mapping[str, Any] | str | os.PathLike[str] | Iterable[Any]) -> dict[str, Any]:
    """Return name → what is scored, of a mapping, or of files, each ``NAME=FILE`` or named by its stem."""
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Any] = {}
    for text in map(str, [given] if isinstance(given, (str, os.PathLike)) else given):
        name, sign, file = text.partition("=")
        if not sign or Path(text).exists():
            name, file = Path(text).stem, text
        if not name or name in found:
            raise BftembedError(f"{text}: an embedding needs a name of its own, NAME={text}.")
        found[name] = file
    return found


#: Benchmark → module with the verb of that name and with ``tables``, which makes tables of its rows of the results. The
#: command line, ``bftembed.bench`` and the report have no other list.
TASKS = {
    "genes": "bftembed.tasks.genes",
    "clustering": "bftembed.tasks.cells.clustering",
    "integration": "bftembed.tasks.cells.integration",
    "multimodal": "bftembed.tasks.multimodal",
    "perturbation": "bftembed.tasks.perturbation",
}
#: Evaluation → ``"module:object"``.
EVALUATIONS = Registry(
    "evaluation",
    {
        "mmlu": "bftembed.tasks.llm.multiple_choice:MMLU",
        "mmlu-generated": "bftembed.tasks.llm.multiple_choice:MMLU_GENERATED",
        "cmmlu": "bftembed.tasks.llm.multiple_choice:CMMLU",
        "cmmlu-generated": "bftembed.tasks.llm.multiple_choice:CMMLU_GENERATED",
        "pubmedqa": "bftembed.tasks.llm.multiple_choice:PUBMEDQA",
        "pubmedqa-generated": "bftembed.tasks.llm.multiple_choice:PUBMEDQA_GENERATED",
        "questions": "bftembed.tasks.llm.own:QUESTIONS",
        "responses": "bftembed.tasks.llm.responses:RESPONSES",
        "subliminal": "bftembed.tasks.llm.subliminal:SUBLIMINAL",
        "subliminal-teacher": "bftembed.tasks.llm.subliminal:SUBLIMINAL_TEACHER",
        "geneagent": "bftembed.tasks.llm.geneagent:GENEAGENT",
        "geneagent-go": "bftembed.tasks.llm.geneagent:GENEAGENT_GO",
        "geneagent-online": "bftembed.tasks.llm.geneagent:GENEAGENT_ONLINE",
        "geneagent-no-tools": "bftembed.tasks.llm.geneagent:GENEAGENT_NO_TOOLS",
        "geneagent-go-no-tools": "bftembed.tasks.llm.geneagent:GENEAGENT_GO_NO_TOOLS",
        "healthbench": "bftembed.tasks.llm.healthbench:HEALTHBENCH",
        "healthbench-hard": "bftembed.tasks.llm.healthbench:HEALTHBENCH_HARD",
        "healthbench-consensus": "bftembed.tasks.llm.healthbench:HEALTHBENCH_CONSENSUS",
        "healthbench-judge": "bftembed.tasks.llm.healthbench:HEALTHBENCH_JUDGE",
        **{
            name: f"bftembed.tasks.llm.vcworld:{name}"
            for data in ("perturbqa", "tahoe", "vcworld")
            for kind in ("de", "dir")
            for ending in ("", "-generated", "-word", "-word-evidence", "-random-evidence")
            for name in (f"{data}-{kind}{ending}",)
        },
    },
    group="bftembed.evaluations",
)
#: Benchmark of rows whose task has another name; gene-level tasks are known by their protocols.
_BENCHMARK_OF = {"matching": "multimodal"}
_GENE_PROTOCOLS = ("strict", "genept")


def tables_of(frame: pd.DataFrame) -> dict[str, list[Table]]:
    """Return the tables of results of any mix of tasks: heading → tables, in the order of `TASKS`.

    Of a task that is not known here, a table per run and protocol with a column per metric.
    """
    of_cells = {*TASKS, *_BENCHMARK_OF}
    of_genes = frame["protocol"].str.partition("/")[0].isin(_GENE_PROTOCOLS)
    benchmark = frame["task"].replace(_BENCHMARK_OF).where(~of_genes | frame["task"].isin(of_cells), "genes")
    benchmark = benchmark.where(~benchmark.isin(EVALUATIONS.names()), "evaluation")
    modules = {**TASKS, "evaluation": "bftembed.tasks.llm.scores"}
    sections = {}
    for name in sorted(set(benchmark), key=lambda b: ([*TASKS, b].index(b), b)):
        rows = frame[benchmark == name]
        if name in modules:
            sections[name.capitalize()] = importlib.import_module(modules[name]).tables(rows)
            continue
        for (run, protocol), part in rows.groupby(["run", "protocol"], sort=False):
            metrics = [Metric(m, m, limits=None, concludes=False) for m in dict.fromkeys(part["metric"])]
            table = score_table(part, metrics, title=f"{name} · {protocol} · {run}")
            sections.setdefault(name.capitalize(), []).append(table)
    return sections


def overall(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of results that tables show: the scores over all seeds and parts."""
    return frame[(frame["split"] == "all") & frame["seed"].isna()]


def score_table(
    frame: pd.DataFrame,
    metrics: Sequence[Metric],
    *,
    title: str,
    sort_by: str = "",
    footnotes: Sequence[str] = (),
) -> Table:
    """Return the table of the scores of one run under one protocol: a row per subject, a column per metric.

    Parameters
    ----------
    frame
        Rows of the results of one run, task and protocol. The scores over all seeds and parts are shown.
    metrics
        Columns, in this order; those that do not occur are left out.
    title
        Title of the table; the number of items is added.
    sort_by
        Metric by which rows of one kind are sorted, the best first; default the first.
    footnotes
        Shown first; reasons of missing values, and how many items were left out, follow.

    Returns
    -------
    Table
        Rows in the order of `KINDS`; those of kind ``chance`` are one row with their range.
    """
    # One value is compared with several references.
    records = overall(frame).drop_duplicates(["kind", "subject", "metric"]).to_dict("records")
    present = [m for m in metrics if any(r["metric"] == m.name for r in records)]
    by_row: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        name = record["subject"]
        if record["kind"] in ("random", "shuffled") and record["kind"] not in name:
            name = f"{name}, {record['kind']}"  # drawn in the shape of a subject
        key = (record["kind"], "chance" if record["kind"] == "chance" else name)
        by_row.setdefault(key, {}).setdefault(record["metric"], []).append(record)
    rows = []
    for (kind, name), cells in by_row.items():
        notes = [r["note"] for found in cells.values() for r in found if r["note"] and not r["reason"]]
        common = [n for n in dict.fromkeys(notes) if notes.count(n) > len(cells) / 2]
        made = {m.name: _cell(cells[m.name]) for m in present if m.name in cells}
        rows.append(Row(name, made, kind, common[0] if common and kind not in ("subject", "chance") else ""))
    main = next((m for m in present if m.name == sort_by), present[0] if present and not sort_by else None)

    def place(row: Row) -> tuple[Any, ...]:
        value = row.cells[main.name].value if main and main.name in row.cells else math.nan
        sign = 1 if main and main.better == "lower" else -1
        return KINDS.index(row.kind), math.isnan(value), 0.0 if math.isnan(value) else sign * value, row.name

    rows.sort(key=place)
    used = sorted({r["n"] for r in records if r["kind"] != "chance" and not math.isnan(r["value"])})
    count = f" · n = {used[-1]:,}" if len(used) == 1 else f" · n = {used[0]:,} to {used[-1]:,}" if used else ""
    columns = tuple(m.column() for m in present)
    told = _conclusions(rows, [m.column() for m in present if m.concludes])
    return Table(f"{title}{count}", columns, tuple(rows), told, (*footnotes, *_left_out(records, present)))


def _cell(records: list[dict[str, Any]]) -> Cell:
    values = [r["value"] for r in records if not math.isnan(r["value"])]
    if len(records) == 1 or not values:
        r = records[0]
        return Cell(r["value"], r["low"], r["high"], r["reason"] if math.isnan(r["value"]) else "")
    return Cell(sum(values) / len(values), min(values), max(values))


def _conclusions(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[str, ...]:
    """Return one sentence: on which metrics a subject exceeds every baseline, by intervals that do not overlap."""
    subjects = [r for r in rows if r.kind == "subject"]
    baselines = [r for r in rows if r.kind in BASELINE_KINDS]
    if not subjects or not baselines or not columns:
        return ()
    exceeded = []
    for column in columns:
        sign = -1 if column.better == "lower" else 1
        ends = [(sign * c.low, sign * c.high) for r in baselines if (c := r.cells.get(column.key))]
        highest = [math.inf if math.isnan(high) else max(low, high) for low, high in ends]
        for row in subjects:
            cell = row.cells.get(column.key)
            if cell and highest and min(sign * cell.low, sign * cell.high) > max(highest):
                exceeded.append(f"{row.name} on {f'{column.group} {column.title}'.strip()}")
    if not exceeded:
        return ("No subject differs from every baseline (95 % intervals overlap on every metric).",)
    return (f"Above every baseline, by 95 % intervals that do not overlap: {', '.join(exceeded)}.",)


def _left_out(records: list[dict[str, Any]], metrics: Sequence[Metric]) -> list[str]:
    """Return how many items were left out, and why values are missing; subjects that are alike together."""
    counts: dict[int, dict[str, None]] = {}
    why: dict[tuple[str, str], dict[str, None]] = {}
    title = {m.name: f"{m.group} {m.title}".strip() for m in metrics}
    for r in records:
        if r["reason"]:
            why.setdefault((r["note"], r["subject"]), {})[title.get(r["metric"], r["metric"])] = None
        elif r["n_missing"] and r["kind"] != "chance":
            counts.setdefault(r["n_missing"], {})[r["subject"]] = None
    alike: dict[tuple[str, str], list[str]] = {}
    for (note, subject), names in why.items():
        what = "any metric" if 1 < len(title) == len(names) else ", ".join(names)
        alike.setdefault((what, note), []).append(subject)
    told = [
        f"{n:,} items left out of {'all rows' if len(counts) == 1 else examples(subjects)}."
        for n, subjects in counts.items()
    ]
    return told + [f"No value of {what} for {examples(of)}: {note}." for (what, note), of in alike.items()]


def report(
    results: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    title: str | None = None,
) -> Path:
    """Write the tables of one or several results files, in the format of the suffix of `out`.

    Parameters
    ----------
    results
        Results tables (Parquet) of any tasks. The ``run.json`` in the folder of one adds to an HTML page what ran,
        coverage, profiles, maps, settings and versions.
    out
        File to write: ``.html`` (one page that needs nothing else), ``.png`` or ``.svg`` (dots with intervals),
        ``.csv``, ``.tex`` or ``.md``.
    title
        Title of the page or figure; default that of the run.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    BftembedError
        For an unknown suffix, results that cannot be read, or rows that contradict each other.
    """
    from bftembed.report.manifest import FILE_NAME, Manifest

    paths = [Path(results)] if isinstance(results, (str, os.PathLike)) else [Path(p) for p in results]
    file, suffix = Path(out), Path(out).suffix.lower()
    formats = (".html", ".png", ".svg", ".csv", ".tex", ".md")
    if suffix not in formats:
        raise unknown_name("suffix", suffix, formats, where=str(file))
    folders = dict.fromkeys(p.parent for p in paths)
    refuse_input_as_output(file, *paths, *(f / FILE_NAME for f in folders))
    sections = tables_of(read_results(paths))
    tables = [table for found in sections.values() for table in found]
    if suffix == ".html":
        from bftembed.report.html import write_page

        manifests = {f: Manifest.load(f) for f in folders if (f / FILE_NAME).is_file()}
        write_page(file, sections, title=title or "", manifests=manifests, sources=[p.name for p in paths])
    elif suffix in (".png", ".svg"):
        from bftembed.report.figure import draw_tables

        draw_tables(file, tables, title or "")
    else:
        from bftembed.report.table import write_tables

        write_tables(tables, file)
    return file
