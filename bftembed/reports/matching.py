"""Whether cells find their own partner in the other modality, in short: one row per embedding, chance below them."""

from __future__ import annotations

import math
import re
import textwrap
from typing import TYPE_CHECKING, Any

from bftembed.reports.integration import cells_told, plain
from bftembed.reports.numbers import decimal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

TASK = "matching"
#: Metric → header.
NAMES = {
    "foscttm": "FOSCTTM",
    "matching_accuracy": "Matching accuracy",
    "matching_accuracy_10": "Among 10 nearest",
    "label_matching_accuracy": "Label matching",
}
#: Of these the lowest is the best.
LOWER_IS_BETTER = ("foscttm",)
CHANCE = "chance"
_CHANCE_IN_NOTE = re.compile(r"(?:^|; )chance ([-+.\de]+)(?:;|$)")
# What a matching note says of the labels, which a reader of the table has to know.
_LABELS = "labels are "
EXPLAINED = (
    "FOSCTTM: share of the other cells of the other modality that are closer than the cell's own partner (0 is best, "
    "so the lowest value leads). Matching accuracy: the partner is the nearest of them; among 10 nearest: it "
    "is one of ten. Label matching: the nearest has the cell's label. Each the mean over cells and both directions; "
    "Euclidean."
)


def matching_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Reduce the results of the matching task to one row per run and embedding.

    Parameters
    ----------
    frame
        Results, as from `bftembed.results.read_results`; rows of other tasks are passed over.

    Returns
    -------
    pandas.DataFrame
        Columns run, embedding; a column per metric that occurs, in the order of `NAMES`, with the mean over draws (NaN:
        no value), and ``METRIC_chance``, what matching at random reaches (NaN: not noted); ``n_used`` and ``n_missing``
        pairs; ``n_draws``, 0 where nothing was drawn; ``reasons``, why there is no value; ``told``, what the notes tell
        of cells and labels. The lowest FOSCTTM comes first within a run, those without one last.
    """
    import pandas as pd

    own = frame[frame["task"] == TASK]
    metrics = [m for m in NAMES if (own["metric"] == m).any()]
    rows = []
    for (run, embedding), group in own.groupby(["run", "embedding"], sort=True):
        row: dict[str, Any] = {"run": run, "embedding": embedding}
        for metric in metrics:
            part = group[group["metric"] == metric]
            row[metric] = float(part["value"].mean(skipna=False)) if len(part) else math.nan
            chances = [float(found[1]) for note in part["note"] if (found := _CHANCE_IN_NOTE.search(note))]
            row[f"{metric}_{CHANCE}"] = chances[0] if chances else math.nan
        failed = group[group["value"].isna()]
        reasons = dict.fromkeys(note.split("; ")[0] for note in failed["note"])
        told = [part for note in group["note"] for part in note.split("; ") if part.startswith(_LABELS)]
        row |= {"n_used": int(group["n_used"].max()), "n_missing": int(group["n_missing"].max())}
        row |= {"n_draws": int(group["seed"].nunique()), "reasons": "; ".join(reasons)}
        row |= {"told": "; ".join(dict.fromkeys([*told, *cells_told(group["note"])]))}
        rows.append(row)
    values = [column for m in metrics for column in (m, f"{m}_{CHANCE}")]
    summary = pd.DataFrame(
        rows, columns=["run", "embedding", *values, "n_used", "n_missing", "n_draws", "reasons", "told"]
    )
    by = ["run", *(["foscttm"] if "foscttm" in metrics else []), "embedding"]
    return summary.sort_values(by, na_position="last", kind="stable", ignore_index=True)


def with_matching(summary: pd.DataFrame, matched: pd.DataFrame) -> pd.DataFrame:
    """Return a summary of the integration task with the columns of metrics and chance of the same embeddings."""
    columns = [c for c in matched if c.removesuffix(f"_{CHANCE}") in NAMES]
    return summary.merge(matched[["run", "embedding", *columns]], on=["run", "embedding"], how="left")


def matching_lines(summary: pd.DataFrame) -> list[str]:
    """Format a summary (of `matching_summary`) for a terminal: a table per run, chance as its last row."""
    lines: list[str] = []
    for run, rows in summary.groupby("run", sort=False):
        metrics = _metrics(rows)
        cells = [[plain(row["embedding"]), *(decimal(row[m]) for m in metrics)] for row in rows.to_dict("records")]
        cells.append([CHANCE, *(decimal(value) for value in _chance(rows, metrics))])
        table = [["", *(NAMES[m] for m in metrics)], *cells]
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines += ["", heading(str(run), rows)] if lines else [heading(str(run), rows)]
        lines += [
            "  ".join((c.rjust if i else c.ljust)(widths[i]) for i, c in enumerate(row)).rstrip() for row in table
        ]
        lines += [*textwrap.wrap(EXPLAINED, 120), *footnotes(rows)]
    return lines


def heading(run: str, rows: pd.DataFrame) -> str:
    """Return the title of the table of one run."""
    used = sorted(set(rows["n_used"]))
    pairs = f"{used[-1]:,}" if len(used) == 1 else f"{used[0]:,} to {used[-1]:,}"
    return plain(f"{run} · matching · {pairs} pairs of RNA and protein")


def footnotes(rows: pd.DataFrame) -> list[str]:
    """Say what a table of one run does not show: where its labels are from, what was left out, draws, and reasons."""
    lines = [f"{told[:1].upper()}{told[1:]}." for told in dict.fromkeys(map(plain, rows["told"])) if told]
    for row in rows.to_dict("records"):
        if row["n_draws"] > 1:
            lines.append(f"{plain(row['embedding'])}: mean of {row['n_draws']} draws.")
        if row["reasons"]:
            lines.append(f"{plain(row['embedding'])} without a value: {plain(row['reasons'])}.")
    return lines


def page_block(block: Mapping[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    """Return what the page shows of one run of this task.

    Parameters
    ----------
    block
        What `bftembed.reports.html` gathered of it, as for any task.
    frame
        The rows of the results that it is of.

    Returns
    -------
    dict
        The block with short names in their order, the best of each column marked by its direction, chance as the last
        row, and what the notes say as sentences; without plots.
    """
    if frame["protocol"].nunique() > 1:  # of another program: there is one
        return dict(block)
    rows = matching_summary(frame)
    metrics = _metrics(rows)
    of_name = {row.name: row for row in block["rows"]}
    raw = [m for m in sorted(set(frame["metric"])) if m not in NAMES]
    shown = []
    for embedding in rows["embedding"]:
        old = of_name[embedding]
        by_metric = dict(zip(block["metrics"], old.cells, strict=True))
        cells = []
        for metric in metrics:
            best = rows[metric].min() if metric in LOWER_IS_BETTER else rows[metric].max()
            cell = by_metric[metric]
            cells.append({**cell, "best": cell["mean"] == best} if cell else cell)
        cells += [by_metric[m] for m in raw]
        shown.append({"name": old.name, "kind": old.kind, "description": old.description, "cells": cells})
    blank = {"low": math.nan, "high": math.nan, "n": 0, "n_failed": 0, "note": "", "bounded": False, "best": False}
    levels = [blank | {"mean": value, "failed": math.isnan(value)} for value in _chance(rows, metrics)]
    about = "cells matched at random: what is expected, not measured"
    shown.append({"name": CHANCE, "kind": "floor", "description": about, "cells": [*levels, *({} for _ in raw)]})
    return {
        **block,
        "metrics": [*(NAMES[m] for m in metrics), *raw],
        "rows": shown,
        "told": [EXPLAINED, *footnotes(rows)],
        "over_seeds": [NAMES.get(m, m) for m in block["over_seeds"]],
        "failures": [{**f, "metrics": _named(f["metrics"])} for f in block["failures"]],
        "left_out": [],
        "plots": [],
        "legend": [],
        "undescribed": False,
    }


def _metrics(rows: pd.DataFrame) -> list[str]:
    return [m for m in NAMES if m in rows]


def _chance(rows: pd.DataFrame, metrics: list[str]) -> list[float]:
    """Return the level of chance of each metric: that of the most pairs, where embeddings have different ones."""
    levels = rows.sort_values("n_used", kind="stable")[[f"{m}_{CHANCE}" for m in metrics]]
    return [float(known.iloc[-1]) if len(known := levels[column].dropna()) else math.nan for column in levels]


def _named(metrics: str) -> str:
    return ", ".join(NAMES.get(m, m) for m in metrics.split(", "))
