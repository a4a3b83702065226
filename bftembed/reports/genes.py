"""The report of gene-level tasks: results tables in, one HTML file out. It reads the results alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.io import refuse_input_as_output, write_text
from bftembed.reports.genes_figure import draw_gene_scores, panel_svg, score_legend
from bftembed.reports.genes_summary import (
    ABOVE,
    EMBEDDING_KIND,
    FAILED,
    FLOOR_KIND,
    LEAK_KIND,
    METRIC_NAMES,
    SHARED,
    base_of,
    gene_summary,
    is_gene_table,
    parts,
    run_title,
    spread,
    text_lines,
)
from bftembed.reports.page import own_version, render, shown_record
from bftembed.reports.published import NOTEBOOK_FOREST, TASKS, published_gene_scores
from bftembed.results import paths_of, read_results
from bftembed.runrecord import FILE_NAME, RunRecord

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    import pandas as pd

__all__ = ["draw_gene_scores", "gene_summary", "is_gene_table", "text_lines", "write_gene_report"]

_LOGISTIC, _FOREST = "genept/logistic", "genept/forest"


def write_gene_report(
    results_paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out_html: str | os.PathLike[str],
    title: str | None = None,
) -> Path:
    """Write the report of gene-level results as a single HTML file, whole or not at all.

    It has a section per run: an overview, and for each task the scores with their intervals, what was left out, the
    difference to the best floor and the verdict, the leak checks and a figure. Published numbers stand apart, beside
    those of protocol ``genept`` on the same tasks. Failures are listed with their reasons.

    Parameters
    ----------
    results_paths
        Results tables of gene-level protocols. A ``run.json`` beside one adds what it records.
    out_html
        The HTML file.
    title
        Title; default that of the first run record.

    Returns
    -------
    Path
        `out_html`.

    Raises
    ------
    BftembedError
        When a file cannot be read, holds other results than of gene-level protocols or none, or `out_html` cannot be
        written (an older report is kept).
    """
    paths = paths_of(results_paths)
    refuse_input_as_output(out_html, *paths, *(p.parent / FILE_NAME for p in paths))
    frame = read_results(paths)
    if not is_gene_table(frame):
        names = ", ".join(p.name for p in paths)
        raise BftembedError(f"{names}: not all rows are of gene-level tasks. Write a report of those alone.")
    folders = list(dict.fromkeys(p.parent for p in paths))
    records = {f: RunRecord.load(f) for f in folders if (f / FILE_NAME).is_file()}
    summary = gene_summary(frame)
    own = summary[summary["kind"] == EMBEDDING_KIND]
    page = render(
        "genes.html.j2",
        title=title or next((r.title for r in records.values() if r.title), "Benchmark of gene embeddings"),
        records=[shown_record(record, folder, i) for i, (folder, record) in enumerate(records.items())],
        embeddings=list(dict.fromkeys(own["embedding"])) or ["floors alone"],
        tasks=list(dict.fromkeys(summary["task"])),
        protocols=list(dict.fromkeys(summary["protocol"])),
        runs=[_run(i, key[0], rows) for i, (key, rows) in enumerate(parts(summary, ["run"]))],
        published=_published(summary),
        failures=_failures(frame),
        sources=[p.name for p in paths],
        versions={"written by": own_version()},
    )
    write_text(out_html, page)
    return Path(out_html)


def _run(number: int, run: str, rows: pd.DataFrame) -> dict[str, Any]:
    # The overview is of one protocol: the first in the order of the summary, strict before genept.
    main = next(iter(rows["protocol"]))
    tasks = []
    for i, (key, of_task) in enumerate(parts(rows, ["task"])):
        blocks = [
            _block(f"r{number}t{i}b{j}", protocol, metric, block)
            for j, ((protocol, metric), block) in enumerate(parts(of_task, ["protocol", "metric"]))
        ]
        tasks.append({"task": key[0], "blocks": blocks})
    of_main = rows[rows["protocol"] == main]
    several = of_main["task"].nunique() > 1
    return {
        "title": run_title(run),
        "main": main,
        "told": _told(of_main, main),
        "overview": _overview(of_main) if several and (of_main["kind"] == EMBEDDING_KIND).any() else [],
        "overview_tasks": list(dict.fromkeys(of_main["task"])),
        "legend": score_legend(rows),
        "tasks": tasks,
    }


def _block(name: str, protocol: str, metric: str, block: pd.DataFrame) -> dict[str, Any]:
    rows = [_shown(row) for row in block.to_dict("records")]
    means = {row["embedding"]: row["mean"] for row in rows}
    leaks = [row | {"change": _change(row, means)} for row in rows if row["kind"] == LEAK_KIND]
    kept = [row for row in rows if row["kind"] != LEAK_KIND]
    # What many rows say is said once.
    said = [row["note"] for row in kept if row["note"] and row["verdict"] != FAILED]
    return {
        "protocol": protocol,
        "metric": METRIC_NAMES.get(metric, metric),
        "rows": kept,
        "leaks": leaks,
        "leaks_compared": any(not math.isnan(row["above_floor"]) for row in leaks),
        "stated": [(row["embedding"], row["stated"]) for row in kept if row["stated"]],
        "notes": list(dict.fromkeys(said)),
        "svg": panel_svg(block, name),
    }


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    deviation, _ = spread(row)
    return row | {"deviation": None if math.isnan(deviation) else deviation}


def _change(row: dict[str, Any], means: dict[str, float]) -> float | None:
    change = row["mean"] - means.get(base_of(row["embedding"]), math.nan)
    return None if math.isnan(change) else change


def _told(rows: pd.DataFrame, protocol: str) -> list[str]:
    """Say of how many tasks each embedding is above the best floor."""
    own = rows[rows["kind"] == EMBEDDING_KIND]
    if own.empty:
        return [f"No embedding was scored under {protocol}: these are floors alone."]
    above, failed = own[own["verdict"] == ABOVE], own[own["verdict"] == FAILED]
    first = f"Under {protocol}, {len(above)} of {len(own) - len(failed)} scores of embeddings are above the best floor"
    first += f"; {len(failed)} more without a value." if len(failed) else "."
    n_tasks = own["task"].nunique()
    sentences = []
    for embedding in dict.fromkeys(own["embedding"]):
        mine = above.loc[above["embedding"] == embedding, "task"]
        where = f": {', '.join(mine)}" if len(mine) else ""
        sentences.append(f"{embedding}: above on {len(mine)} of {n_tasks} task{'' if n_tasks == 1 else 's'}{where}.")
    return [first, *sentences]


def _overview(rows: pd.DataFrame) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Return a row per embedding and one of the highest floors, with a cell per task."""
    tasks = list(dict.fromkeys(rows["task"]))
    table: list[tuple[str, list[dict[str, Any] | None]]] = []
    for embedding in dict.fromkeys(rows.loc[rows["kind"] == EMBEDDING_KIND, "embedding"]):
        table.append((embedding, [_first(rows[(rows["task"] == t) & (rows["embedding"] == embedding)]) for t in tasks]))
    floors = rows[(rows["kind"] == FLOOR_KIND) & rows["mean"].notna()].sort_values("mean", ascending=False)
    table.append(("highest floor", [_first(floors[floors["task"] == t]) for t in tasks]))
    return table


def _first(rows: pd.DataFrame) -> dict[str, Any] | None:
    return rows.iloc[0].to_dict() if len(rows) else None


def _published(summary: pd.DataFrame) -> dict[str, Any] | None:
    """Return the published scores and ours of protocol genept, for the tasks that both have; None without any."""
    theirs = published_gene_scores()
    known = {(t, m) for t, m in zip(theirs["task"], theirs["metric"], strict=True)}
    kinds = (EMBEDDING_KIND, FLOOR_KIND)
    ours = summary[summary["protocol"].isin([_LOGISTIC, _FOREST]) & summary["kind"].isin(kinds)]
    ours = ours[(ours["run"] == SHARED) | (ours["kind"] == EMBEDDING_KIND)]
    same = np.array([(t, m) in known for t, m in zip(ours["task"], ours["metric"], strict=True)], dtype=bool)
    ours = ours[same & ours["mean"].notna()]
    if ours.empty:
        return None
    order = [*TASKS, *(t for t in dict.fromkeys(theirs["task"]) if t not in TASKS)]
    tasks = [t for t in order if t in set(ours["task"])]
    forest = (ours["protocol"] == _FOREST).any()
    rows: list[dict[str, Any]] = []
    for (source, embedding), part in parts(theirs, ["source", "embedding"]):
        values = {(r["task"], r["metric"]): r["value"] for r in part.to_dict("records")}
        cells = [_published_cell(values, task) for task in tasks]
        if any(cells) and (forest or source != NOTEBOOK_FOREST):
            rows.append({"name": embedding, "source": source, "theirs": True, "first": False, "cells": cells})
    # All embeddings before all floors, whatever the first task says of their order.
    ranked = ours.assign(rank=ours["kind"] == FLOOR_KIND).sort_values(["protocol", "rank"], kind="stable")
    ranked = ranked.sort_values("protocol", key=lambda p: p != _LOGISTIC, kind="stable")
    n_theirs = len(rows)
    for (run, protocol, embedding), part in parts(ranked, ["run", "protocol", "embedding"]):
        of_task = {r["task"]: r for r in part.to_dict("records")}
        cells = [_own_cell(of_task.get(task)) for task in tasks]
        where = "" if run == SHARED else ", all its genes"
        source = f"this run, {protocol}{where}"
        rows.append(
            {"name": embedding, "source": source, "theirs": False, "first": len(rows) == n_theirs, "cells": cells}
        )
    return {"tasks": tasks, "rows": rows}


def _published_cell(values: dict[tuple[str, str], float], task: str) -> dict[str, float | None] | None:
    for metric in ("roc_auc", "accuracy"):
        if (task, metric) in values:
            return {"value": values[task, metric], "deviation": values.get((task, f"{metric}_sd"))}
    return None


def _own_cell(row: dict[str, Any] | None) -> dict[str, float | None] | None:
    if row is None:
        return None
    return {"value": row["mean"], "deviation": row["fold_sd"] if row["n_folds"] > 1 else None}


def _failures(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one line per run, task, embedding and reason, however many protocols, folds and seeds it took down."""
    failed = frame[frame["value"].isna()]
    return [
        {"run": run, "task": task, "embedding": embedding, "note": note, "n": len(rows)}
        | {"protocols": ", ".join(dict.fromkeys(rows["protocol"]))}
        for (run, task, embedding, note), rows in parts(failed, ["run", "task", "embedding", "note"])
    ]
