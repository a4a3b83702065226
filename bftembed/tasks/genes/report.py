"""Tables of gene-level results: an overview of each protocol, and each task with its baselines."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bftembed.report.published import TASKS, gene_table
from bftembed.report.table import BASELINE_KINDS, Cell, Column, Table, number
from bftembed.tasks.base import Metric, overall, score_table
from bftembed.tasks.genes.benchmark import ALL_GENES, SHARED, STATED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

_METRICS = tuple(
    Metric(m, t, limits=None, concludes=False) for m, t in (("roc_auc", "ROC-AUC"), ("accuracy", "accuracy"))
)
# In the order of tables.
_PROTOCOLS = ("strict/logistic", "strict/ridge", "genept/logistic", "genept/forest")
_MAX_LABELS = 6
_ABOVE, _BELOW, _SAME = "Above the best baseline", "Below it", "No significant difference from it"
_BEST = "Best baseline: the highest of baselines and random vectors. Differences to it are paired over the same genes"


def tables(frame: pd.DataFrame) -> list[Table]:
    """Return an overview per run and protocol, a table per run, task and protocol, and published scores."""
    parts = dict(iter(frame.groupby(["run", "task", "protocol"], sort=False)))

    def place(key: tuple[str, str, str]) -> tuple[Any, ...]:
        run, task, protocol = key
        order = [*_PROTOCOLS, protocol].index(protocol)
        return run != SHARED, run == ALL_GENES, run, [*TASKS, task].index(task), task, order, protocol

    keys = sorted(parts, key=place)
    together: dict[tuple[str, str], dict[tuple[str, str], pd.DataFrame]] = {}
    for run, task, protocol in keys:
        if run != ALL_GENES:
            together.setdefault((run, protocol.partition("/")[0]), {})[task, protocol] = parts[run, task, protocol]
    overviews = [
        _overview(f"all tasks · {protocol} · {run}", of)
        for (run, protocol), of in together.items()
        if len({task for task, _ in of}) > 1
    ]
    of_tasks = [_table(parts[key], f"{key[1]} · {key[2]} · {key[0]}") for key in keys]
    genept = {task for _, task, protocol in keys if protocol.startswith("genept/")}
    return [*overviews, *of_tasks, *([gene_table(genept)] if genept & set(TASKS) else [])]


def _overview(title: str, parts: Mapping[tuple[str, str], pd.DataFrame]) -> Table:
    """Return a row per subject and one of the best baselines, a column per task and classifier."""
    import pandas as pd

    several = len({protocol for _, protocol in parts}) > 1
    metrics, shown, names = [], [], []
    directions: dict[str, dict[str, list[str]]] = {}
    for (task, protocol), frame in parts.items():
        probe = protocol.partition("/")[2] if several else ""
        where = f"{task} ({probe})" if probe else task
        metrics.append(Metric(f"{protocol}/{task}", task, probe, limits=None, concludes=False))
        scores = overall(frame[frame["metric"] != STATED])
        of = scores[scores["kind"] == "subject"]
        for row in of[of["reference"] != ""].to_dict("records"):
            directions.setdefault(row["subject"], {}).setdefault(_direction(row), []).append(where)
        chosen = scores["subject"].isin(of["reference"]) & scores["kind"].isin(BASELINE_KINDS)
        names += [f"{where}: {name}" for name in scores.loc[chosen, "subject"]]
        best = scores[chosen].assign(subject="best baseline", kind="baseline")
        shown.append(pd.concat([of, best]).assign(metric=metrics[-1].name, n_missing=0))
    rows = pd.concat(shown)
    table = score_table(rows.assign(note=rows["note"].where(rows["reason"] != "", "")), metrics, title=title)
    conclusions = []
    for name, found in directions.items():
        above, below = (", ".join(found.get(direction, [])) for direction in (_ABOVE, _BELOW))
        conclusions.append(f"{name}: above the best baseline on {above or 'no task'}, below it on {below or 'none'}.")
    rule = f"{_BEST}; above, below: with a 95 % interval that does not hold 0 ({'; '.join(names)})."
    return replace(table, conclusions=tuple(conclusions), footnotes=(*([rule] if names else []), *table.footnotes))


def _table(frame: pd.DataFrame, title: str) -> Table:
    """Return the scores of one run, task and protocol with their differences to the best baseline."""
    stated, scored = frame["metric"] == STATED, frame["reason"] == ""
    fewer = frame[frame["kind"] == "label-removed"].set_index("subject")["n"].to_dict()
    # Notes hold for all rows, and count the items left out; where a text states the label, others are left out too.
    plain = frame.assign(note=frame["note"].mask(scored, ""), n_missing=0)
    plain["n"] = plain["n"].mask(frame["kind"] == "label-removed", frame.loc[scored & ~stated, "n"].max())
    table = score_table(plain, _METRICS, title=title)
    deviations = {key: _deviation(rows) for key, rows in frame[frame["seed"].notna()].groupby(["kind", "subject"])}
    summaries = overall(frame[~stated & (frame["reference"] != "")])
    compared = {row["subject"]: row for row in summaries.to_dict("records")}
    rows = []
    directions: dict[str, list[str]] = {}
    for row in table.rows:
        text = deviations.get((row.kind, row.name), "")
        text += f", n = {fewer[row.name]:,}" if row.kind == "label-removed" else ""
        cells = {k: replace(c, text=text) if c.value == c.value else c for k, c in row.cells.items()}
        if row.kind == "subject" and row.name in compared:
            of = compared[row.name]
            ends = of["difference"], of["difference_low"], of["difference_high"]
            cells["difference"] = Cell(*ends, f"to {of['reference']}")
            directions.setdefault(_direction(of), []).append(row.name)
        rows.append(replace(row, cells=cells))
    words = [w for w in (_ABOVE, _BELOW, _SAME) if w in {_ABOVE, *directions}]
    conclusion = " ".join(f"{word}: {', '.join(directions.get(word, ['none']))}." for word in words)
    footnotes = (
        "Intervals: 95 %, over genes and fits. ±: standard deviation over seeds, or over folds of one seed.",
        *([f"{_BEST}."] if directions else []),
        *_stated(frame[stated]),
        *table.footnotes,
        *(f"{note}." for note in frame.loc[scored & ~stated, "note"].unique() if note),
    )
    difference = [Column("difference", "− best baseline", better="", signed=True)] if directions else []
    columns, conclusions = (*table.columns, *difference), (conclusion,) if directions else ()
    return replace(table, columns=columns, rows=tuple(rows), conclusions=conclusions, footnotes=footnotes)


def _direction(row: Mapping[str, Any]) -> str:
    """Return where the interval of the difference to the best baseline lies, ``""`` where there is none."""
    if math.isnan(row["difference_low"]):
        return ""
    return _ABOVE if row["difference_low"] > 0 else _BELOW if row["difference_high"] < 0 else _SAME


def _deviation(folds: pd.DataFrame) -> str:
    """Return the standard deviation of the means of the seeds, or that of the folds (population) of one seed."""
    of_seeds, values = folds.groupby("seed")["value"].mean().dropna(), folds["value"].dropna()
    found = of_seeds.std(ddof=1) if len(of_seeds) > 1 else values.std(ddof=0) if len(values) > 1 else math.nan
    return "" if math.isnan(found) else f"± {number(found)}"


def _stated(frame: pd.DataFrame) -> list[str]:
    """Return a sentence for each subject some of whose texts state the label."""
    sentences = []
    for subject, rows in frame[frame["value"] > 0].groupby("subject"):
        most = rows.sort_values("value", ascending=False, kind="stable").head(_MAX_LABELS)
        shares = ", ".join(f"{share:.1%} of {label}" for share, label in zip(most["value"], most["split"], strict=True))
        note = f"; {most['note'].iloc[0]}" if most["note"].iloc[0] else ""
        sentences.append(f"Texts of {subject} that state the label: {shares}, {most['n'].max():,} checked{note}.")
    return sentences
