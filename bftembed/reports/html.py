"""One HTML file that needs nothing else: style and figures inside, no script, every text from outside escaped."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.io import refuse_input_as_output, write_text
from bftembed.reports import figures, tables
from bftembed.results import ordered, paths_of, read_results
from bftembed.runrecord import FILE_NAME, RunRecord, read_points

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    import pandas as pd

    from bftembed.runrecord import ExampleProfile

LONGEST_TEXT = 2000
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
    blocks = [_block(i, run, task, summary, frame, described) for i, (run, task) in enumerate(_pairs(summary))]
    first = next(iter(records.values()), RunRecord())
    page = _render(
        title=title or first.title or "Benchmark of embeddings",
        records=[_shown(record, folder, i) for i, (folder, record) in enumerate(records.items())],
        blocks=blocks,
        sources=[p.name for p in paths],
        versions={"written by": _own_version()},
        longest=LONGEST_TEXT,
    )
    write_text(out, page)
    return Path(out)


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    kind: str
    description: str
    cells: tuple[dict[str, Any], ...]


def _pairs(summary: pd.DataFrame) -> list[tuple[str, str]]:
    return list(summary[["run", "task"]].drop_duplicates().itertuples(index=False, name=None))


def _block(
    number: int, run: str, task: str, summary: pd.DataFrame, frame: pd.DataFrame, described: dict[tuple[str, str], Any]
) -> dict[str, Any]:
    """Gather what the page shows of one task of one run: table, figures, sentences."""
    here = summary[(summary["run"] == run) & (summary["task"] == task)]
    permuted = here[here["protocol"] == tables.PERMUTED]
    real = here[here["protocol"] != tables.PERMUTED]
    told = real if len(real) else permuted  # chance alone, where nothing else was scored
    scored = told[told["mean"].notna()]
    notes = {e: described.get((run, e)) for e in real["embedding"]}
    kinds = {e: n.kind if n else "" for e, n in notes.items()}
    metrics = tables.metric_order(told)
    order = sorted(kinds, key=lambda e: (_RANK[kinds[e]], list(notes).index(e)))
    rows, failures = [], frame[(frame["run"] == run) & (frame["task"] == task) & frame["value"].isna()]
    several = real.groupby("embedding")["protocol"].nunique().max() > 1
    for protocol in dict.fromkeys(real["protocol"]):
        part = real[real["protocol"] == protocol]
        best = {m: part.loc[part["metric"] == m, "mean"].max() for m in metrics if m in tables.METRIC_NAMES}
        for embedding in [e for e in order if (part["embedding"] == e).any()]:
            by_metric = part[part["embedding"] == embedding].set_index("metric")
            cells = tuple(_cell(by_metric.loc[m], best.get(m)) if m in by_metric.index else {} for m in metrics)
            name = f"{embedding} ({protocol})" if several else embedding
            rows.append(_Row(name, kinds[embedding], getattr(notes[embedding], "description", ""), cells))
    plots = []
    for j, metric in enumerate(tables.metric_order(real)):
        drawn = real[real["metric"] == metric].drop_duplicates("embedding").set_index("embedding")
        drawn = drawn.loc[[e for e in order if e in drawn.index]].reset_index()
        plots.append(figures.intervals(drawn, kinds, tables.METRIC_NAMES.get(metric, metric), f"r{number}m{j}"))
    return {
        "run": run,
        "task": task,
        "metrics": [tables.METRIC_NAMES.get(m, m) for m in metrics],
        "rows": rows,
        "chance": [_chance(permuted[permuted["metric"] == m]["mean"].dropna()) for m in metrics]
        if len(permuted)
        else [],
        "plots": plots,
        "legend": figures.kind_legend(kinds),
        "verdicts": tables.verdicts(real, kinds),
        "undescribed": bool(kinds) and not any(kinds.values()),
        "over_seeds": [tables.METRIC_NAMES.get(m, m) for m in metrics if _comes_from(real, m, tables.OVER_SEEDS)],
        "over_cells": [tables.METRIC_NAMES.get(m, m) for m in metrics if _comes_from(real, m, tables.OVER_CELLS)],
        "n_seeds": int(told["n"].max()),
        "n_used": sorted(set(scored["n_used"])) or [0],
        "left_out": sorted({n for n in scored.loc[scored["n_failed"] == 0, "note"] if n}),
        "failures": _failures(failures),
    }


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


def _shown(record: RunRecord, folder: Path, number: int) -> dict[str, Any]:
    """Give the record with its UMAPs drawn; points that cannot be read leave their reason in the figure's place."""
    drawn = []
    for i, umap in enumerate(record.umaps):
        try:
            points = read_points(umap, folder)
            plot = figures.scatter(points, f"{umap.title}: {len(points):,} points. {umap.caption}", f"u{number}n{i}")
            drawn.append({"title": umap.title, "caption": umap.caption, "plot": plot, "missing": ""})
        except BftembedError as err:
            drawn.append({"title": umap.title, "caption": umap.caption, "plot": None, "missing": str(err)})
    return {"record": record, "umaps": drawn, "profiles": _side_by_side(record.profiles)}


def _side_by_side(profiles: tuple[ExampleProfile, ...]) -> list[dict[str, Any]]:
    """Give a row per entity where several generators wrote of one; else all profiles as one row without a heading."""
    of_entity: dict[str, list[ExampleProfile]] = {}
    for profile in profiles:
        of_entity.setdefault(profile.entity, []).append(profile)
    if len(of_entity) == len(profiles):
        return [{"entity": "", "profiles": profiles}]
    return [{"entity": entity, "profiles": written} for entity, written in of_entity.items()]


def _own_version() -> str:
    from bftembed import __version__

    return f"bftembed {__version__}"


def _render(**values: Any) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda x: f"{x:.3f}".replace("-", "−")
    environment.filters["duration"] = _duration
    source = resources.files("bftembed.reports").joinpath("report.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(source).render(**values)
    # Control characters and halves of surrogate pairs have no place in HTML; a model may emit them all the same.
    page = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "�", page)
    return page.encode("utf-8", "replace").decode("utf-8")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
