"""One HTML file that needs nothing else: style and figures inside, no script, every text from outside escaped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.io import refuse_input_as_output, write_text
from bftembed.reports import clustering, figures, integration, matching, perturbation, tables
from bftembed.reports.integration_figure import table_svgs, tables_of
from bftembed.reports.page import own_version, render, shown_record
from bftembed.reports.published import CELL_LABELS
from bftembed.results import ordered, paths_of, read_results
from bftembed.runrecord import FILE_NAME, RunRecord

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    import pandas as pd

_RANK = {"profile": 0, "": 1, "reference": 2, "floor": 3}


def write_report(
    results_paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    title: str | None = None,
) -> Path:
    """Write the report of one or several results files as a single HTML file, whole or not at all.

    Parameters
    ----------
    results_paths
        Results tables. A ``run.json`` in the folder of one adds what ran, coverage, profiles, UMAPs, settings and
        versions, and says which embeddings are floors; see `bftembed.runrecord`.
    out
        The HTML file.
    title
        Title; default that of the first run record.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    BftembedError
        When a results file or a run record cannot be read, or `out` cannot be written (an older report is kept).
    """
    import pandas as pd

    paths = paths_of(results_paths)
    refuse_input_as_output(out, *paths, *(p.parent / FILE_NAME for p in paths))
    if not paths:
        raise BftembedError("No results file was given.")
    parts = {p: read_results([p]) for p in paths}
    frame = ordered(pd.concat(parts.values(), ignore_index=True), ", ".join(map(str, paths)))
    folders = list(dict.fromkeys(p.parent for p in paths))
    records = {f: RunRecord.load(f) for f in folders if (f / FILE_NAME).is_file()}
    # A name means what the record beside its own results says: two runs may call different things "X_bft".
    described = {
        (run, note.name): note
        for path in paths
        if path.parent in records
        for run in parts[path]["run"].unique()
        for note in records[path.parent].embeddings
    }
    summary = tables.summarise(frame)
    blocks = [
        _block(
            i,
            run,
            task,
            protocol,
            _of_block(summary, run, task, protocol),
            _of_block(frame, run, task, protocol),
            described,
        )
        for i, (run, task, protocol) in enumerate(_blocks(summary))
    ]
    first = next(iter(records.values()), RunRecord())
    page = render(
        "report.html.j2",
        title=title or first.title or "Benchmark of embeddings",
        records=[shown_record(record, folder, i) for i, (folder, record) in enumerate(records.items())],
        blocks=blocks,
        sources=[p.name for p in paths],
        versions={"written by": own_version()},
    )
    write_text(out, page)
    return Path(out)


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    kind: str
    description: str
    cells: tuple[dict[str, Any], ...]


def _blocks(summary: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return run, task and protocol of each table of the page; ``""`` for protocols that need none of their own."""
    keys = summary[["run", "task", "protocol"]].itertuples(index=False, name=None)
    return list(dict.fromkeys((run, task, clustering.block_of(task, protocol)) for run, task, protocol in keys))


def _of_block(rows: pd.DataFrame, run: str, task: str, protocol: str) -> pd.DataFrame:
    own = rows["protocol"].map(lambda p: clustering.block_of(task, p) == protocol).astype(bool)
    return rows[(rows["run"] == run) & (rows["task"] == task) & own]


def _block(
    number: int,
    run: str,
    task: str,
    protocol: str,
    here: pd.DataFrame,
    frame: pd.DataFrame,
    described: dict[tuple[str, str], Any],
) -> dict[str, Any]:
    """Gather what the page shows of one task of one run: table, figures, sentences."""
    of_chance = here["protocol"].map(tables.is_floor).astype(bool)
    permuted, real = here[of_chance], here[~of_chance]
    told = real if len(real) else permuted  # chance alone, where nothing else was scored
    scored = told[told["mean"].notna()]
    notes = {e: described.get((run, e)) for e in real["embedding"]}
    kinds = {e: n.kind if n else tables.kind_of_name(e) for e, n in notes.items()}
    metrics = tables.metric_order(told)
    order = sorted(kinds, key=lambda e: (_RANK[kinds[e]], list(notes).index(e)))
    of_scib = task == integration.TASK
    scib = integration.integration_summary(frame) if of_scib else None
    if scib is not None:  # by total
        order = list(dict.fromkeys(scib["embedding"]))
    groups = clustering.grouped_metrics(metrics) if protocol else []
    if groups:
        metrics = [m for _, found in groups for m in found]
        order = sorted(clustering.by_main_metric(real), key=lambda e: _RANK[kinds[e]])
    rows = []
    several = real.groupby("embedding")["protocol"].nunique().max() > 1
    for rules in dict.fromkeys(real["protocol"]):
        part = real[real["protocol"] == rules]
        best = {m: part.loc[part["metric"] == m, "mean"].max() for m in metrics if m in tables.SHOWN_NAMES}
        for embedding in [e for e in order if (part["embedding"] == e).any()]:
            by_metric = part[part["embedding"] == embedding].set_index("metric")
            cells = tuple(_cell(by_metric.loc[m], best.get(m)) if m in by_metric.index else {} for m in metrics)
            name = f"{embedding} ({rules})" if several else embedding
            rows.append(_Row(name, kinds[embedding], getattr(notes[embedding], "description", ""), cells))
    plots = []
    for j, metric in enumerate([] if of_scib else tables.metric_order(real)):
        drawn = real[real["metric"] == metric].drop_duplicates("embedding").set_index("embedding")
        drawn = drawn.loc[[e for e in order if e in drawn.index]].reset_index()
        plots.append(figures.intervals(drawn, kinds, tables.SHOWN_NAMES.get(metric, metric), f"r{number}m{j}"))
    block = {
        "run": run,
        "task": f"{task}, protocol {protocol}" if protocol else task,
        "groups": [(name, len(found)) for name, found in groups],
        "starts": [sum(len(found) for _, found in groups[:i]) for i in range(len(groups))],
        "short": [clustering.short_name(m) for m in metrics] if groups else [],
        "optimistic": bool(set(metrics) & set(tables.OPTIMISTIC)),
        "published": _published() if protocol == clustering.GENEPT else None,
        "metrics": [tables.SHOWN_NAMES.get(m, m) for m in metrics],
        "rows": rows,
        "chance": [_chance(permuted[permuted["metric"] == m]["mean"].dropna()) for m in metrics]
        if len(permuted)
        else [],
        "plots": plots,
        "wide": [] if scib is None else table_svgs(scib, f"r{number}"),
        "told": [] if scib is None else [line for rows in tables_of(scib) for line in integration.footnotes(rows)],
        "legend": [] if of_scib else figures.kind_legend(kinds),
        "verdicts": tables.verdicts(real, kinds),
        "undescribed": bool(kinds) and not any(kinds.values()),
        "over_seeds": [tables.SHOWN_NAMES.get(m, m) for m in metrics if _comes_from(real, m, tables.OVER_SEEDS)],
        "over_cells": [tables.SHOWN_NAMES.get(m, m) for m in metrics if _comes_from(real, m, tables.OVER_CELLS)],
        "n_seeds": int(told["n"].max()),
        "n_used": sorted(set(scored["n_used"])) or [0],
        "left_out": []
        if of_scib
        else clustering.notes_told(real)
        if groups
        else sorted({n for n in scored.loc[scored["n_failed"] == 0, "note"] if n}),
        "failures": _failures(frame[frame["value"].isna()]),
    }
    own = {matching.TASK: matching.page_block, perturbation.TASK: perturbation.page_block}.get(task)
    return own(block, frame) if own else block


def _published() -> dict[str, Any]:
    rows = [
        (name, [f"{v:.2f}" if i % 3 < 2 else f"{v:.3f}" for i, v in enumerate(values)])
        for name, values in clustering.published_cell_rows()
    ]
    return {"title": clustering.PAPER_TITLE, "note": clustering.PAPER_NOTE, "labels": CELL_LABELS, "rows": rows}


def _cell(row: Any, best: float | None) -> dict[str, Any]:
    shown = {k: row[k] for k in ("mean", "low", "high", "n", "n_failed", "note")}
    failed = math.isnan(row["mean"])
    return shown | {"failed": failed, "bounded": not math.isnan(row["low"]), "best": not failed and row["mean"] == best}


def _chance(means: pd.Series) -> dict[str, float]:
    return {"low": float(means.min()), "high": float(means.max())} if len(means) else {}


def _comes_from(rows: pd.DataFrame, metric: str, interval: str) -> bool:
    return bool(((rows["metric"] == metric) & (rows["interval"] == interval)).any())


def _failures(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One line per embedding and reason, however many seeds and metrics it took down."""
    grouped = rows.groupby(["embedding", "note"], sort=True)
    return [
        {"embedding": e, "note": n, "metrics": ", ".join(dict.fromkeys(g["metric"])), "n": len(g)}
        for (e, n), g in grouped
    ]
