"""Tables of gene-level results: an overview of each protocol, and each task with its baselines."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bftembed.report.published import TASKS, gene_table
from bftembed.report.table import BASELINE_KINDS, Cell, Column, Row, Table, number
from bftembed.tasks.base import Metric, overall, score_table
from bftembed.tasks.genes.benchmark import ALL_GENES, SHARED, STATED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

METRICS = (
    Metric("roc_auc", "ROC-AUC", limits=None, concludes=False),
    Metric("accuracy", "accuracy", limits=None, concludes=False),
)
#: In the order of tables.
PROTOCOLS = ("strict/logistic", "strict/ridge", "strict/mlp", "genept/logistic", "genept/forest")
MAX_LABELS = 6
ABOVE, BELOW, SAME = "above", "below", "same"
_BEST = "Best baseline: the highest of baselines and random vectors. Differences to it are paired over the same genes"


def tables(frame: pd.DataFrame) -> list[Table]:
    """Return an overview per run and protocol, a table per run, task and protocol, and published scores."""
    parts = dict(iter(frame.groupby(["run", "task", "protocol"], sort=False)))

    def order(protocol: str) -> int:
        return [*PROTOCOLS, protocol].index(protocol)

    def place(key: tuple[str, str, str]) -> tuple[Any, ...]:
        run, task, protocol = key
        return run != SHARED, run == ALL_GENES, run, [*TASKS, task].index(task), task, order(protocol), protocol

    keys = sorted(parts, key=place)
    together: dict[tuple[str, str], dict[tuple[str, str], pd.DataFrame]] = {}
    for run, task, protocol in sorted(keys, key=lambda key: (key[0] != SHARED, key[0], order(key[2]))):
        of = together.setdefault((run, protocol.partition("/")[0]), {})
        of[task, protocol] = parts[run, task, protocol]
    overviews = [
        _overview(f"all tasks · {protocol} · {run}", found)
        for (run, protocol), found in together.items()
        if run != ALL_GENES and len({task for task, _ in found}) > 1
    ]
    of_tasks = [_table(parts[key], f"{key[1]} · {key[2]} · {key[0]}") for key in keys]
    genept = {task for _, task, protocol in keys if protocol.startswith("genept/")}
    return [*overviews, *of_tasks, *([gene_table(genept)] if genept & set(TASKS) else [])]


def _overview(title: str, parts: Mapping[tuple[str, str], pd.DataFrame]) -> Table:
    """Return a row per subject and one of the best baselines, a column per task and classifier."""
    several = len({protocol for _, protocol in parts}) > 1
    columns: list[Column] = []
    cells: dict[str, dict[str, Cell]] = {}
    best: dict[str, Cell] = {}
    names: dict[str, str] = {}
    found: dict[str, dict[str, list[str]]] = {}
    for (task, protocol), frame in parts.items():
        probe = protocol.partition("/")[2] if several else ""
        columns.append(column := Column(f"{protocol}/{task}", task, probe))
        where = f"{task} ({probe})" if probe else task
        scores = _summaries(frame)
        for row in scores[scores["kind"] == "subject"].to_dict("records"):
            direction = _direction(row)
            text = row["reason"] or ("" if direction == SAME else direction)
            cells.setdefault(row["subject"], {})[column.key] = Cell(row["value"], row["low"], row["high"], text)
            if row["reference"]:
                found.setdefault(row["subject"], {}).setdefault(direction, []).append(where)
                names[where] = row["reference"]
                of = scores[(scores["subject"] == row["reference"]) & scores["kind"].isin(BASELINE_KINDS)]
                for r in of.to_dict("records"):
                    best[column.key] = Cell(r["value"], r["low"], r["high"])
    rows = [Row(name, of_name) for name, of_name in cells.items()]
    rows.sort(key=lambda row: -sum(c.value for c in row.cells.values() if c.value == c.value))
    told = []
    for name, of_name in found.items():
        above, below = (", ".join(of_name.get(direction, [])) for direction in (ABOVE, BELOW))
        told.append(f"{name}: above the best baseline on {above or 'no task'}, below it on {below or 'none'}.")
    if best:
        rows.append(Row("best baseline", best, "baseline", "; ".join(f"{where}: {names[where]}" for where in names)))
    footnotes = (f"{_BEST}; above, below: with a 95 % interval that does not hold 0.",) if best else ()
    return Table(title, tuple(columns), tuple(rows), tuple(told), footnotes)


def _table(frame: pd.DataFrame, title: str) -> Table:
    """Return the scores of one run, task and protocol with their differences to the best baseline."""
    stated, fewer = frame["metric"] == STATED, frame["kind"] == "label-removed"
    scored = frame[(frame["reason"] == "") & ~stated]
    # Notes hold for all rows, and count the items left out; where a text states the label, others are left out too.
    plain = frame.assign(note=frame["note"].where(frame["reason"] != "", ""), n_missing=0)
    table = score_table(plain.assign(n=frame["n"].mask(fewer, scored["n"].max())), METRICS, title=title)
    of_fewer = frame[fewer].set_index("subject")["n"].to_dict()
    deviations = {key: _deviation(rows) for key, rows in frame[frame["seed"].notna()].groupby(["kind", "subject"])}
    compared = {row["subject"]: row for row in _summaries(frame).to_dict("records") if row["reference"]}
    rows = []
    directions: dict[str, list[str]] = {}
    for row in table.rows:
        deviation = deviations.get((row.kind, row.name), math.nan)
        text = "" if math.isnan(deviation) else f"± {number(deviation)}"
        text += f", n = {of_fewer[row.name]:,}" if row.kind == "label-removed" else ""
        cells = {k: replace(c, text=text) if c.value == c.value else c for k, c in row.cells.items()}
        if row.kind == "subject" and row.name in compared:
            of = compared[row.name]
            ends = of["difference"], of["difference_low"], of["difference_high"]
            cells["difference"] = Cell(*ends, f"to {of['reference']}")
            directions.setdefault(_direction(of), []).append(row.name)
        rows.append(replace(row, cells=cells))
    words = {ABOVE: "Above the best baseline", BELOW: "Below it", SAME: "No significant difference from it"}
    told = [
        f"{words[d]}: {', '.join(directions.get(d, [])) or 'none'}." for d in words if d in directions or d == ABOVE
    ]
    difference = Column("difference", "− best baseline", better="", signed=True)
    return replace(
        table,
        columns=(*table.columns, *([difference] if directions else [])),
        rows=tuple(rows),
        conclusions=(" ".join(told),) if directions else (),
        footnotes=(
            "Intervals: 95 %, over genes and fits. ±: standard deviation over seeds, or over folds of one seed.",
            *([f"{_BEST}."] if directions else []),
            *_stated(frame[stated]),
            *table.footnotes,
            *(f"{note}." for note in scored["note"].unique() if note),
        ),
    )


def _summaries(frame: pd.DataFrame) -> pd.DataFrame:
    return overall(frame[frame["metric"] != STATED])


def _direction(row: Mapping[str, Any]) -> str:
    """Return where the interval of the difference to the best baseline lies, ``""`` where there is none."""
    if math.isnan(row["difference_low"]):
        return ""
    return ABOVE if row["difference_low"] > 0 else BELOW if row["difference_high"] < 0 else SAME


def _deviation(folds: pd.DataFrame) -> float:
    """Return the standard deviation of the means of the seeds, or that of the folds (population) of one seed."""
    of_seeds = folds.groupby("seed")["value"].mean().dropna()
    if len(of_seeds) > 1:
        return float(of_seeds.std(ddof=1))
    values = folds["value"].dropna()
    return float(values.std(ddof=0)) if len(values) > 1 else math.nan


def _stated(frame: pd.DataFrame) -> list[str]:
    """Return a sentence for each subject some of whose texts state the label."""
    sentences = []
    for subject, rows in frame[frame["value"] > 0].groupby("subject"):
        most = rows.sort_values("value", ascending=False, kind="stable")
        shares = [f"{share:.1%} of {label}" for share, label in zip(most["value"], most["split"], strict=True)]
        more = f" … ({len(shares)} labels)" if len(shares) > MAX_LABELS else ""
        note = f"; {most['note'].iloc[0]}" if most["note"].iloc[0] else ""
        told = f"{', '.join(shares[:MAX_LABELS])}{more}, {most['n'].max():,} checked{note}"
        sentences.append(f"Texts of {subject} that state the label: {told}.")
    return sentences
