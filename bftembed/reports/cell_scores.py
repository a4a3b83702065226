"""Scores of cell embeddings as dots: a panel per metric, a line per embedding, intervals where there are any."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.reports import clustering, integration, tables
from bftembed.reports.dots import draw_dot
from bftembed.reports.drawing import INK, figure_suffix, new_figure, save_figure, style
from bftembed.reports.figures import COLOURS, OTHER
from bftembed.reports.integration import plain
from bftembed.reports.layout import Page, fitted, text_width
from bftembed.reports.numbers import decimal
from bftembed.results import BASELINE

if TYPE_CHECKING:
    import os

    import pandas as pd

    #: Words, and how matplotlib draws what they explain.
    _Entry = tuple[str, dict[str, Any]]

_MAIN = {clustering.TASK: clustering.MAIN_METRIC, integration.TASK: integration.TOTAL}
_SCORED, _COMPARED = (COLOURS[8], "o"), (COLOURS[1], "D")
# Inches.
_ROW, _PANEL_HEAD, _AXIS, _HEAD, _LINE, _MARGIN = 0.21, 0.3, 0.32, 0.24, 0.19, 0.15
_WIDEST_NAME, _NUMBER, _PADDING = 2.4, 0.42, 0.2
_NAME_SIZE, _NOTE_SIZE = 8.5, 8.5
_LETTER = 0.067
_LEIDEN = f"Leiden (k): as many clusters as labels. Leiden (best): {clustering.FLATTERS}"
#: Embeddings beyond which the panels stand six abreast and not three.
_MANY = 10


def draw_cell_scores(path: str | os.PathLike[str], scores: pd.DataFrame, title: str = "") -> None:
    """Draw the scores of clustering and integration: per metric a dot per embedding, with its 95 % interval.

    Embeddings stand in the same order in all panels, the highest ARI (of integration: total) first. Baselines made in
    the run have a colour and shape of their own; a grey tick is the same embedding against labels dealt at random. The
    axis goes from 0 to 1, and below 0 where a value does. A dash is a score without a value; the foot says why.

    Parameters
    ----------
    path
        ``.png`` or ``.svg`` file.
    scores
        The long results table, or its summary (`bftembed.reports.tables.summarise`). Each run, task and protocol has
        panels of its own; rows of other tasks are passed over.
    title
        Line above all.

    Raises
    ------
    BftembedError
        For another suffix, a table without a score of an embedding of cells, or a file that cannot be written.
    """
    figure_suffix(path)
    summary = scores if "mean" in scores else tables.summarise(scores)
    sections = _sections(summary)
    if not sections:
        raise BftembedError(
            "There are no scores to draw: the results hold no row of the clustering or integration of cells."
        )
    width = max(section.width for section in sections)
    top = 2 * _MARGIN + (0.22 if title else -_MARGIN)
    for section in sections:
        section.wrap(width)
    legend = _in_lines(_legend(sections), width - 2 * _MARGIN)
    height = top + sum(section.height for section in sections) + _LINE * len(legend) + _MARGIN
    figure = new_figure(width, height, "")
    figure.set_layout_engine("none")
    page = Page(figure, width, height)
    if title:
        page.write(_MARGIN, _MARGIN + 0.1, fitted(title, 12, width - 2 * _MARGIN), size=12)
    y = top
    for section in sections:
        section.draw(page, y)
        y += section.height
    for line in legend:
        _draw_legend(page, line, y)
        y += _LINE
    save_figure(figure, path)


@dataclass
class _Section:
    """One run under one task and protocol."""

    heading: str
    rows: pd.DataFrame
    floors: pd.DataFrame
    main: str
    metrics: list[str] = field(init=False)
    names: list[str] = field(init=False)
    notes: list[str] = field(init=False)
    shown: list[str] = field(init=False)
    left: float = field(init=False)
    columns: int = field(init=False)
    panel: float = field(init=False)
    width: float = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = tables.metric_order(self.rows)
        if self.main in integration.SCORES:  # what counts first stands first
            self.metrics = [*reversed(integration.SCORES), *(m for m in self.metrics if m not in integration.SCORES)]
            self.metrics = [m for m in self.metrics if (self.rows["metric"] == m).any()]
        self.names = clustering.by_main_metric(self.rows, self.main)
        self.shown = [fitted(name, _NAME_SIZE, _WIDEST_NAME) for name in self.names]
        self.left = _MARGIN + max(text_width(name, _NAME_SIZE) for name in self.shown) + 0.12
        self.columns = min(len(self.metrics), 6 if len(self.names) > _MANY else 3)
        self.panel = 1.35 if self.columns > 3 else 1.75
        self.width = max(self.left + self.columns * (self.panel + _NUMBER + _PADDING), 5.4)
        of_leiden = any(m in tables.OPTIMISTIC for m in self.metrics)
        self.notes = [_LEIDEN] * of_leiden + clustering.failures(self.rows)

    def wrap(self, width: float) -> None:
        """Break the lines at the foot to the width of the page."""
        letters = int((width - 2 * _MARGIN) / _LETTER)
        self.notes = [line for note in self.notes for line in textwrap.wrap(note, letters, subsequent_indent="  ")]

    @property
    def panel_height(self) -> float:
        return _ROW * len(self.names) + 0.08

    @property
    def height(self) -> float:
        lines = math.ceil(len(self.metrics) / self.columns)
        return _HEAD + lines * (_PANEL_HEAD + self.panel_height + _AXIS) + _LINE * len(self.notes) + _MARGIN

    def draw(self, page: Page, top: float) -> None:
        page.write(
            _MARGIN, top + 0.1, fitted(self.heading, 10, page.width - 2 * _MARGIN, "bold"), size=10, weight="bold"
        )
        y = top + _HEAD
        for i, metric in enumerate(self.metrics):
            column = i % self.columns
            y += (_PANEL_HEAD + self.panel_height + _AXIS) * (i > 0 and column == 0)
            x = self.left + column * (self.panel + _NUMBER + _PADDING)
            axes = page.axes(x, y + _PANEL_HEAD, self.panel, self.panel_height)
            self._draw_panel(axes, metric, with_names=column == 0)
        y += _PANEL_HEAD + self.panel_height + _AXIS
        for line in self.notes:
            page.write(_MARGIN, y + _LINE / 2, line, size=_NOTE_SIZE)
            y += _LINE

    def _draw_panel(self, axes: Any, metric: str, *, with_names: bool) -> None:
        style(axes)
        rows = {row["embedding"]: row for row in self.rows[self.rows["metric"] == metric].to_dict("records")}
        of_metric = self.floors[self.floors["metric"] == metric]
        floors = dict(zip(of_metric["embedding"], of_metric["mean"], strict=True))
        low = _lower_limit([*rows.values(), *({"mean": v} for v in floors.values())])
        beyond = axes.get_yaxis_transform()
        for y, name in enumerate(self.names):
            row = rows.get(name)
            if y % 2:
                axes.axhspan(y - 0.5, y + 0.5, color="#f4f5f6", linewidth=0, zorder=0)
            floor = floors.get(name, math.nan)
            if not math.isnan(floor):
                axes.plot([floor], [y], marker="|", markersize=9, markeredgewidth=2, color=OTHER, linestyle="none")
            if row is None:
                continue
            if math.isnan(row["mean"]):
                text = "–"
            else:
                colour, shape = _COMPARED if name.startswith(BASELINE) else _SCORED
                draw_dot(axes, y, row["mean"], row["low"], row["high"], colour=colour, shape=shape, size=4.5)
                text = decimal(row["mean"]) + ("*" if row["n_failed"] else "")
            axes.text(1.04, y, text, transform=beyond, fontsize=7.5, color=INK, va="center_baseline")
        axes.set_title(tables.SHOWN_NAMES.get(metric, plain(metric)), loc="left", fontsize=9, color=INK, pad=4)
        axes.set(yticks=range(len(self.names)), yticklabels=self.shown if with_names else [""] * len(self.names))
        axes.tick_params(axis="y", labelsize=_NAME_SIZE, length=0)
        axes.tick_params(axis="x", labelsize=7.5, length=3)
        axes.set_ylim(len(self.names) - 0.5, -0.5)
        axes.set_xlim(low - 0.025, 1.025)
        ticks = [t for t in (-1.0, -0.5, 0.0, 0.5, 1.0) if t >= low]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.grid(axis="x", color=OTHER, alpha=0.3, linewidth=0.6)
        if low < 0:
            axes.axvline(0, color=INK, alpha=0.45, linewidth=0.8, zorder=0.5)
        axes.set_axisbelow(True)


def _lower_limit(rows: list[dict[str, Any]]) -> float:
    values = [row[k] for row in rows for k in ("mean", "low") if k in row and not math.isnan(row[k])]
    least = min(values, default=0.0)
    return 0.0 if least >= 0 else max(-1.0, -math.ceil(-least * 10) / 10)


def _sections(summary: pd.DataFrame) -> list[_Section]:
    own = summary[summary["task"].isin(_MAIN)]
    floor = own["protocol"].map(tables.is_floor).astype(bool)
    found = []
    for (run, task, protocol), rows in own[~floor].groupby(["run", "task", "protocol"], sort=False):
        same = floor & (own["run"] == run) & (own["task"] == task) & (own["protocol"] == tables.floor_of(protocol))
        used = sorted(set(rows["n_used"]))
        cells = f"{used[-1]:,}" if len(used) == 1 else f"{used[0]:,} to {used[-1]:,}"
        heading = plain(f"{run} · {task}, {protocol} · {cells} cells")
        found.append(_Section(heading, rows, own[same], _MAIN[task]))
    return found


def _legend(sections: list[_Section]) -> list[_Entry]:
    names = [name for section in sections for name in section.names]
    dot = {"linestyle": "none", "markersize": 5}
    entries: list[_Entry] = []
    for words, (colour, shape), is_baseline in (("embedding", _SCORED, False), ("baseline", _COMPARED, True)):
        if any(name.startswith(BASELINE) == is_baseline for name in names):
            entries.append((words, dot | {"color": colour, "marker": shape}))
    origins = {o for section in sections for o in section.rows["interval"]} - {""}
    if origins:
        over = {frozenset([tables.OVER_CELLS]): "over cells and seeds", frozenset([tables.OVER_SEEDS]): "over seeds"}
        words = f"95 % interval {over.get(frozenset(origins), 'over cells, or over seeds alone')}"
        entries.append((words, {"color": INK, "linewidth": 1.8}))
    if any(len(section.floors) for section in sections):
        entries.append(("labels dealt at random", dot | {"color": OTHER, "marker": "|", "markersize": 9, "mew": 2}))
    return entries


def _in_lines(entries: list[_Entry], inches: float) -> list[list[_Entry]]:
    lines: list[list[_Entry]] = [[]]
    for entry in entries:
        if lines[-1] and sum(_entry_width(e) for e in [*lines[-1], entry]) > inches:
            lines.append([])
        lines[-1].append(entry)
    return lines


def _entry_width(entry: _Entry) -> float:
    return 0.28 + text_width(entry[0], _NOTE_SIZE) + 0.25


def _draw_legend(page: Page, entries: list[_Entry], top: float) -> None:
    axes = page.axes(0, top, page.width, _LINE)
    axes.set(xlim=(0, page.width), ylim=(0, 1))
    axes.set_axis_off()
    x = _MARGIN
    for entry in entries:
        words, look = entry
        at = [x, x + 0.2] if "linewidth" in look else [x + 0.1]
        axes.plot(at, [0.5] * len(at), **look)
        axes.text(x + 0.28, 0.47, words, fontsize=_NOTE_SIZE, color=INK, va="center")
        x += _entry_width(entry)
