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
#: Column ``protocol`` → protocol and classifier, in the order of tables.
PROTOCOLS = {
    "strict/logistic": ("strict", "logistic"),
    "strict/ridge": ("strict", "ridge"),
    "strict/mlp": ("strict", "MLP"),
    "genept/logistic": ("genept", "logistic"),
    "genept/forest": ("genept", "forest"),
}
MAX_LABELS = 6
ABOVE, BELOW, SAME = "above", "below", "same"
_BEST = "Best baseline: the highest of baselines and random vectors. Differences to it are paired over the same genes"


def tables(frame: pd.DataFrame) -> list[Table]:
    """Return an overview per run and protocol, a table per run, task and protocol, and published scores."""
    parts = dict(iter(frame.groupby(["run", "task", "protocol"], sort=False)))
    known = list(PROTOCOLS)

    def order(protocol: str) -> int:
        return known.index(protocol) if protocol in known else len(known)

    def place(key: tuple[str, str, str]) -> tuple[Any, ...]:
        run, task, protocol = key
        at = TASKS.index(task) if task in TASKS else len(TASKS)
        return run != SHARED, run == ALL_GENES, run, at, task, order(protocol), protocol

    keys = sorted(parts, key=place)
    together: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for key in keys:
        together.setdefault((key[0], PROTOCOLS.get(key[2], (key[2], ""))[0]), []).append(key)
    overviews = [
        _overview(
            f"all tasks · {protocol} · {run}", {k[1:]: parts[k] for k in sorted(found, key=lambda k: order(k[2]))}
        )
        for (run, protocol), found in together.items()
        if run != ALL_GENES and len({task for _, task, _ in found}) > 1
    ]
    of_tasks = [_table(parts[key], f"{key[1]} · {key[2]} · {key[0]}") for key in keys]
    genept = {task for _, task, protocol in keys if PROTOCOLS.get(protocol, ("", ""))[0] == "genept"}
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
        probe = PROTOCOLS.get(protocol, ("", protocol))[1] if several else ""
        columns.append(column := Column(f"{protocol}/{task}", task, probe))
        scores = _summaries(frame)
        for row in scores[scores["kind"] == "subject"].to_dict("records"):
            direction = _direction(row)
            text = row["reason"] or ("" if direction == SAME else direction)
            cells.setdefault(row["subject"], {})[column.key] = Cell(row["value"], row["low"], row["high"], text)
            if row["reference"]:
                where = f"{task} ({probe})" if probe else task
                found.setdefault(row["subject"], {}).setdefault(direction, []).append(where)
                of = scores[(scores["subject"] == row["reference"]) & scores["kind"].isin(BASELINE_KINDS)]
                for r in of.to_dict("records"):
                    best[column.key], names[where] = Cell(r["value"], r["low"], r["high"]), r["subject"]
    rows = [Row(name, of_name) for name, of_name in cells.items()]
    rows.sort(key=lambda row: -sum(c.value for c in row.cells.values() if c.value == c.value))
    told = []
    for name, of_name in found.items():
        of = [", ".join(of_name.get(d, [])) for d in (ABOVE, BELOW)]
        told.append(f"{name}: above the best baseline on {of[0] or 'no task'}, below it on {of[1] or 'none'}.")
    if best:
        rows.append(Row("best baseline", best, "baseline", "; ".join(f"{where}: {names[where]}" for where in names)))
    footnotes = (f"{_BEST}; above, below: with a 95 % interval that does not hold 0.",) if best else ()
    return Table(title, tuple(columns), tuple(rows), tuple(told), footnotes)


def _table(frame: pd.DataFrame, title: str) -> Table:
    """Return the scores of one run, task and protocol with their differences to the best baseline."""
    scored = frame["reason"] == ""
    stated = frame["metric"] == STATED
    notes = dict.fromkeys(f"{note}." for note in frame.loc[scored & ~stated, "note"] if note)
    # Notes hold for all rows, and count the items left out; where a text states the label, others are left out too.
    n = frame.loc[scored & ~stated, "n"].max()
    fewer = frame["kind"] == "label-removed"
    plain = frame.assign(note=frame["note"].mask(scored, ""), n_missing=0, n=frame["n"].mask(fewer, n))
    table = score_table(plain, METRICS, title=title)
    of_fewer = dict(zip(frame.loc[fewer, "subject"], frame.loc[fewer, "n"], strict=True))
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
        columns=(*table.columns, difference) if directions else table.columns,
        rows=tuple(rows),
        conclusions=(" ".join(told),) if directions else (),
        footnotes=(
            "Intervals: 95 %, over genes and fits. ±: standard deviation over seeds, or over folds of one seed.",
            *([f"{_BEST}."] if directions else []),
            *_stated(frame[stated]),
            *table.footnotes,
            *notes,
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
