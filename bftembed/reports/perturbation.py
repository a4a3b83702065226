"""Scores of perturbation predictors: the table for a terminal, the verdict, the figure, and what the page shows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.reports import tables
from bftembed.reports.dots import draw_dot
from bftembed.reports.drawing import INK, figure_suffix, new_figure, save_figure, style
from bftembed.reports.figures import COLOURS, OTHER
from bftembed.reports.integration import plain
from bftembed.reports.layout import Page, fitted, text_width
from bftembed.reports.numbers import decimal, with_ends

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import pandas as pd

TASK, CHANCE = "perturbation", "chance"
NAMES = {
    "pds_l1": "PDS (L1)",
    "pds_cosine": "PDS (cosine)",
    "mae": "MAE",
    "pearson_delta": "Pearson delta",
    "de_overlap": "DE overlap",
}
#: What the verdict is made of: an embedding of the target can raise it, knowing what perturbations share cannot.
MAIN = "pds_l1"
LOWER_IS_BETTER = ("mae",)
_LESS = {"random": "random", "shuffled": "shuffled", "perturbed_mean": "perturbed mean"} | {
    "perturbation_mean": "mean of the perturbation"
}
HELPS, NOT_SHOWN = "helps", "does not help (not shown to)"
_MODEL, _REFERENCES = "bilinear: P = ", ("control mean", "perturbed mean", "mean of the perturbation")
EXPLAINED = (
    "PDS: perturbation discrimination, target genes left out; 1 at best, 0.5 by chance. MAE: lower is better. Text "
    "helps where its PDS (L1) is above that of random and of shuffled vectors of the same shape and, where the same "
    "perturbation is known from other cell types, of its mean: each 95 % interval above 0."
)
# Inches.
_ROW, _PANEL, _HEAD, _AXIS, _MARGIN, _WIDEST, _NUMBER = 0.23, 2.0, 0.55, 0.35, 0.15, 3.2, 0.55


def perturbation_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Reduce the results of the perturbation task to one row per run, protocol, predictor and metric.

    Parameters
    ----------
    frame
        Results, as from `bftembed.results.read_results`; rows of other tasks are passed over.

    Returns
    -------
    pandas.DataFrame
        As `bftembed.reports.tables.summarise`, with a column ``verdict``: ``"helps"`` or ``"does not help (not shown
        to)"`` in the rows of the main metric (`MAIN`) of predictors that are compared with drawn vectors, else ``""``.
    """
    summary = tables.summarise(frame[frame["task"] == TASK])
    told = []
    for row in summary.to_dict("records"):
        same = (summary[["run", "protocol", "embedding"]] == [row["run"], row["protocol"], row["embedding"]]).all(
            axis=1
        )
        own = summary[same].set_index("metric")
        needed = [f"{MAIN}_minus_{other}" for other in ("random", "shuffled", "perturbation_mean")]
        compared = [m for m in needed if m in own.index]
        if row["metric"] != MAIN or not compared:
            told.append("")
            continue
        told.append(HELPS if all(own.loc[m, "low"] > 0 for m in compared) else NOT_SHOWN)
    return summary.assign(verdict=told)


def verdicts(summary: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """Return (run, protocol, name of the embedding) → verdict, from `perturbation_summary`."""
    own = summary[summary["verdict"] != ""]
    return {
        (row["run"], row["protocol"], row["embedding"].removeprefix(_MODEL)): row["verdict"]
        for row in own.to_dict("records")
    }


def text_lines(summary: pd.DataFrame) -> list[str]:
    """Format a summary for a terminal: for each run and protocol the scores, the differences and the verdict.

    Parameters
    ----------
    summary
        From `perturbation_summary`.

    Returns
    -------
    list of str
        Lines, an empty one between protocols. Names are shown without control characters.
    """
    lines: list[str] = []
    for (run, protocol), rows in summary.groupby(["run", "protocol"], sort=False):
        lines += ["", heading(run, protocol, rows)] if lines else [heading(run, protocol, rows)]
        order = ordered(rows)
        cells = [["predictor", *NAMES.values()]]
        for name in [*order, *([CHANCE] if (rows["embedding"] == CHANCE).any() else [])]:
            own = rows[rows["embedding"] == name].set_index("metric")
            cells.append([plain(name), *(_score(own, m, with_interval=m == MAIN) for m in NAMES)])
        lines += _aligned(cells)
        compared = _compared(rows)
        if compared:
            lines += ["", *_aligned([["difference", NAMES[MAIN], NAMES["mae"], "verdict"], *compared])]
        lines += footnotes(rows)
    return lines


def heading(run: str, protocol: str, rows: pd.DataFrame) -> str:
    """Return the title of a table of one run and protocol."""
    used = int(rows["n_used"].max())
    missing = int(rows["n_missing"].max())
    aside = f" · {missing} perturbations left out" if missing else ""
    return plain(f"{run} · {protocol} · {used:,} held-out conditions{aside}")


def footnotes(rows: pd.DataFrame) -> list[str]:
    """Say what the table of one run and protocol does not show: why a claim or a value is missing."""
    lines = []
    notes = [part for note in rows["note"] for part in note.replace(" | ", "; ").split("; ")]
    for part in dict.fromkeys(notes):
        if part.startswith(("no claim: ", "error: ")):
            lines.append(f"{part.partition(': ')[2].capitalize() if part.startswith('no claim') else part[7:]}.")
    return lines


def ordered(rows: pd.DataFrame) -> list[str]:
    """Return the predictors of one protocol: references, bilinear ones by their main metric, then other programs."""
    names = [n for n in dict.fromkeys(rows["embedding"]) if n != CHANCE]
    main = rows[rows["metric"] == MAIN].set_index("embedding")["mean"]

    def place(name: str) -> tuple[int, float, str]:
        group = 0 if name in _REFERENCES else 1 if name.startswith(_MODEL) else 2
        value = float(main.get(name, math.nan))
        return group, 0.0 if group == 0 or math.isnan(value) else -value, name

    return sorted(names, key=place)


def _score(own: pd.DataFrame, metric: str, *, with_interval: bool) -> str:
    if metric not in own.index or math.isnan(own.loc[metric, "mean"]):
        return "–"
    row = own.loc[metric]
    return with_ends(row["mean"], row["low"], row["high"]) if with_interval else decimal(row["mean"])


def _compared(rows: pd.DataFrame) -> list[list[str]]:
    """Return a line per embedding and what it is compared with: the main metric, MAE, and once the verdict."""
    found = []
    told = rows[rows["verdict"] != ""].set_index("embedding")["verdict"]
    for embedding in dict.fromkeys(told.index):
        own = rows[rows["embedding"] == embedding].set_index("metric")
        name, first = plain(embedding.removeprefix(_MODEL)), True
        for other, word in _LESS.items():
            metrics = [f"{m}_minus_{other}" for m in (MAIN, "mae")]
            if not any(m in own.index for m in metrics):
                continue
            found.append([f"{name} − {word}", *(_signed(own, m) for m in metrics), told[embedding] if first else ""])
            first = False
    return found


def _signed(own: pd.DataFrame, metric: str) -> str:
    if metric not in own.index or math.isnan(own.loc[metric, "mean"]):
        return "–"
    row = own.loc[metric]
    ends = "" if math.isnan(row["low"]) else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{row['mean']:+.3f}{ends}"


def _aligned(cells: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]


def draw_perturbation(path: str | os.PathLike[str], summary: pd.DataFrame, title: str = "") -> None:
    """Draw discrimination (L1) and MAE of all predictors as dots with 95 % intervals, a line of panels per protocol.

    Parameters
    ----------
    path
        ``.png`` or ``.svg`` file.
    summary
        From `perturbation_summary`.
    title
        Line above all.

    Raises
    ------
    BftembedError
        For another suffix, a summary without scores, or a file that cannot be written.
    """
    figure_suffix(path)
    sections = [
        (heading(run, protocol, rows), rows, ordered(rows))
        for (run, protocol), rows in summary.groupby(["run", "protocol"], sort=False)
        if rows["mean"].notna().any()
    ]
    if not sections:
        raise BftembedError("There are no scores to draw: the results hold no value of the perturbation task.")
    names = [name for _, _, order in sections for name in order]
    left = _MARGIN + min(_WIDEST, max(text_width(plain(n), 8.5) for n in names)) + 0.12
    width = left + 2 * (_PANEL + _NUMBER) + _MARGIN
    top = _MARGIN + (0.3 if title else 0)
    height = top + sum(_HEAD + _ROW * len(order) + _AXIS + _MARGIN for _, _, order in sections) + 0.35
    figure = new_figure(width, height, "")
    figure.set_layout_engine("none")
    page = Page(figure, width, height)
    if title:
        page.write(_MARGIN, _MARGIN + 0.08, fitted(title, 12, width - 2 * _MARGIN), size=12)
    y = top
    for head, rows, order in sections:
        page.write(_MARGIN, y + 0.1, fitted(head, 9.5, width - 2 * _MARGIN, "bold"), size=9.5, weight="bold")
        for i, metric in enumerate((MAIN, "mae")):
            axes = page.axes(left + i * (_PANEL + _NUMBER), y + _HEAD, _PANEL, _ROW * len(order))
            _panel(axes, rows[rows["metric"] == metric], metric, order, with_names=i == 0)
        y += _HEAD + _ROW * len(order) + _AXIS + _MARGIN
    page.write(
        _MARGIN,
        y + 0.08,
        "Bars: 95 % interval over perturbed genes and seeds. Grey line: chance. Diamonds: random and shuffled vectors.",
        size=8,
    )
    save_figure(figure, path)


def _panel(axes: Any, rows: pd.DataFrame, metric: str, order: list[str], *, with_names: bool) -> None:
    style(axes)
    by_name = {row["embedding"]: row for row in rows.to_dict("records")}
    beyond = axes.get_yaxis_transform()
    for y, name in enumerate(order):
        row = by_name.get(name)
        if y % 2:
            axes.axhspan(y - 0.5, y + 0.5, color="#f4f5f6", linewidth=0, zorder=0)
        if row is None:
            continue
        if not math.isnan(row["mean"]):
            drawn = name.endswith((", shuffled", "'s shape)"))
            colour = COLOURS[1] if drawn else COLOURS[8] if name.startswith(_MODEL) else INK
            shape = "D" if drawn else "o" if name.startswith(_MODEL) else "s"
            draw_dot(axes, y, row["mean"], row["low"], row["high"], colour=colour, shape=shape, size=4.5)
        axes.text(1.03, y, decimal(row["mean"]), transform=beyond, fontsize=7.5, color=INK, va="center_baseline")
    if CHANCE in by_name:
        axes.axvline(by_name[CHANCE]["mean"], color=OTHER, linewidth=1.2, zorder=0.5)
    axes.set_title(NAMES[metric] + (", lower is better" if metric in LOWER_IS_BETTER else ""), loc="left", fontsize=9)
    shown = [fitted(name, 8.5, _WIDEST) for name in order] if with_names else [""] * len(order)
    axes.set(yticks=range(len(order)), yticklabels=shown)
    axes.tick_params(axis="y", labelsize=8.5, length=0)
    axes.tick_params(axis="x", labelsize=7.5, length=3)
    axes.set_ylim(len(order) - 0.5, -0.5)
    if metric == MAIN:
        axes.set_xlim(0, 1.02)
    else:
        axes.set_xlim(left=0)
    axes.grid(axis="x", color=OTHER, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)


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
        The block with a row per protocol and predictor, the verdicts, differences and reasons as sentences; no plots.
    """
    summary = perturbation_summary(frame)
    several = summary["protocol"].nunique() > 1
    shown, told, differences = [], [EXPLAINED], []
    for (_, protocol), rows in summary.groupby(["run", "protocol"], sort=False):
        for name in [*ordered(rows), *([CHANCE] if (rows["embedding"] == CHANCE).any() else [])]:
            own = rows[rows["embedding"] == name].set_index("metric")
            kind = "floor" if name == CHANCE else "reference" if name in _REFERENCES else ""
            cells = [_page_cell(own.loc[m], m, rows) if m in own.index else {} for m in NAMES]
            title = f"{name} ({protocol})" if several else name
            shown.append({"name": title, "kind": kind, "description": "", "cells": cells})
        for line in _compared(rows):
            differences.append(f"{protocol}, {line[0]}: PDS (L1) {line[1]}, MAE {line[2]}")
        told += footnotes(rows)
    sentences = [f"{name}, {protocol}: {word}" for (_, protocol, name), word in verdicts(summary).items()]
    return {
        **block,
        "metrics": list(NAMES.values()),
        "rows": shown,
        "told": told,
        "verdicts": ["Does text help?", *sentences, *differences] if sentences else [],
        "over_cells": [],
        "over_seeds": [],
        "failures": [{**f, "metrics": _named(f["metrics"])} for f in block["failures"]],
        "left_out": sorted({f"{n} perturbations left out" for n in summary["n_missing"] if n}),
        "plots": [],
        "legend": [],
    }


def _page_cell(row: Any, metric: str, rows: pd.DataFrame) -> dict[str, Any]:
    of_metric = rows[(rows["metric"] == metric) & (rows["embedding"] != CHANCE)]["mean"]
    best = of_metric.min() if metric in LOWER_IS_BETTER else of_metric.max()
    shown = {k: row[k] for k in ("mean", "low", "high", "n", "n_failed", "note")}
    failed = math.isnan(row["mean"])
    bounded = not math.isnan(row["low"])
    return shown | {"failed": failed, "bounded": bounded, "best": not failed and row["mean"] == best}


def _named(metrics: str) -> str:
    found = []
    for metric in metrics.split(", "):
        base, _, other = metric.partition("_minus_")
        found.append(NAMES.get(base, base) + (f" less {_LESS.get(other, other)}" if other else ""))
    return ", ".join(found)
