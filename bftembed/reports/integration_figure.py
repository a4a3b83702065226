"""The table of scIB as a picture: a circle per score, bars for the aggregates."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.reports.drawing import INK, figure_suffix, new_figure, save_figure
from bftembed.reports.figures import COLOURS, OTHER, PAGE_INK, inline_svg
from bftembed.reports.integration import (
    NAMES,
    PAPER_PROFILE,
    PAPER_TITLE,
    TOTAL,
    footnotes,
    heading,
    plain,
    published_rows,
    shown_metrics,
)
from bftembed.reports.numbers import decimal

if TYPE_CHECKING:
    import os

    import pandas as pd

# Inches.
_ROW, _HEAD, _LINE, _MARGIN, _GAP = 0.42, 0.78, 0.2, 0.15, 0.3
_METRIC, _SCORE, _LETTER = 0.82, 1.15, 0.082
_GROUPS = (("Bio conservation", "#6a51a3"), ("Batch correction", COLOURS[2]), ("Aggregate score", COLOURS[0]))
_LONGEST_NAME = 34


def draw_integration(path: str | os.PathLike[str], summary: pd.DataFrame, title: str = "") -> None:
    """Draw the scores of embeddings as scIB's table: rows by total, circles for metrics, bars for aggregates.

    A circle's colour goes from white (0) to full (1): the scale is that of the metrics, not of the best and worst row.
    A dash is a metric without a value; lines below say which and why. Under profile ``paper`` the paper's table 2
    stands below, apart.

    Parameters
    ----------
    path
        ``.png`` or ``.svg`` file.
    summary
        From `bftembed.reports.integration.integration_summary`. Each run and profile has a table of its own.
    title
        Line above all.

    Raises
    ------
    BftembedError
        For another suffix, a summary without rows, or a file that cannot be written.
    """
    figure_suffix(path)
    if summary.empty:
        raise BftembedError("There are no scores to draw: the results hold no row of the integration task.")
    tables = [_Table(rows) for rows in tables_of(summary)]
    width = max(table.width for table in tables)
    height = sum(table.height for table in tables) + _GAP * (len(tables) - 1) + 2 * _MARGIN + (0.35 if title else 0)
    figure = new_figure(width, height, "")
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    y = _MARGIN
    if title:
        axes.text(_MARGIN, y + 0.15, title, fontsize=12, color=INK, va="center")
        y += 0.35
    for table in tables:
        table.draw(axes, y)
        y += table.height + _GAP
    save_figure(figure, path)


def tables_of(summary: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the parts of a summary that are a table each: one run under one profile."""
    return [rows for _, rows in summary.groupby(["run", "protocol"], sort=False)]


def table_svgs(summary: pd.DataFrame, name: str) -> list[str]:
    """Return the tables as SVG elements for a page, without the lines below them; `name` begins their ids."""
    from matplotlib.figure import Figure

    found = []
    for i, rows in enumerate(tables_of(summary)):
        table = _Table(rows, PAGE_INK)
        table.notes = []
        figure = Figure(figsize=(table.width, table.bare_height + 0.05))
        figure.patch.set_alpha(0)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, table.width), ylim=(table.bare_height + 0.05, 0))
        axes.set_axis_off()
        table.draw(axes, 0)
        told = "; ".join(f"{r['embedding']} {r.get(TOTAL, math.nan):.3f}" for r in table.records)
        found.append(inline_svg(figure, f"Table of scores, {heading(rows)}. Total: {told}.", f"{name}t{i}"))
    return found


class _Table:
    """One run under one profile."""

    def __init__(self, rows: pd.DataFrame, ink: str = INK) -> None:
        self.rows, self.ink = rows, ink
        self.groups = shown_metrics(rows)
        self.metrics = [m for group in self.groups for m in group]
        self.records = rows.to_dict("records")
        self.paper = published_rows(self.metrics) if self.records[0]["protocol"] == PAPER_PROFILE else []
        names = [_short(r["embedding"]) for r in self.records] + [name for name, _ in self.paper]
        self.left = 2 * _MARGIN + _LETTER * max(8, *map(len, names))
        bio, batch, scores = map(len, self.groups)
        self.width = self.left + _METRIC * (bio + batch) + _SCORE * scores + _MARGIN
        letters = int((self.width - 2 * _MARGIN) / 0.067)
        self.notes = [line for note in footnotes(rows) for line in textwrap.wrap(note, letters, subsequent_indent="  ")]
        self.bare_height = 0.3 + _HEAD + _ROW * len(self.records) + 0.12
        if self.paper:
            self.bare_height += 0.61 + _ROW * len(self.paper) + _LINE
        self.height = self.bare_height + _LINE * len(self.notes)

    def draw(self, axes: Any, top: float) -> None:
        axes.text(_MARGIN, top + 0.12, heading(self.rows), fontsize=10.5, color=self.ink, va="center", weight="bold")
        y = self._head(axes, top + 0.3)
        for row in self.records:
            name = _short(row["embedding"]) + ("*" if row["lacking"] else "")
            if TOTAL in self.metrics and not math.isnan(row["total_low"]):
                self._interval(axes, y, row["total_low"], row["total_high"])
            y = self._row(axes, y, name, [row[m] for m in self.metrics], 3)
        y += 0.12
        for line in self.notes:
            axes.text(_MARGIN, y + _LINE / 2, line, fontsize=8.5, color=self.ink, va="center")
            y += _LINE
        if not self.paper:
            return
        axes.plot(
            [_MARGIN, self.width - _MARGIN], [y + 0.2, y + 0.2], color=self.ink, linewidth=1.2, linestyle=(0, (4, 3))
        )
        axes.text(_MARGIN, y + 0.4, PAPER_TITLE, fontsize=9.5, color=self.ink, va="center", weight="bold")
        y += 0.55
        for name, values in self.paper:
            y = self._row(axes, y, name, values, 2, published=True)
        y += 0.06
        told = "–: not shown in it, but in its aggregates."
        axes.text(_MARGIN, y + _LINE / 2, told, fontsize=8.5, color=self.ink, va="center")

    def _interval(self, axes: Any, y: float, low: float, high: float) -> None:
        """Draw the interval of the total as a line below the middle of its bar."""
        left, width = self._places()[self.metrics.index(TOTAL)]
        ends = [left + 0.08 + (width - 0.16) * min(max(x, 0.0), 1.0) for x in (low, high)]
        axes.plot(ends, [y + _ROW / 2 + 0.1] * 2, color=INK, linewidth=1.6, zorder=3, solid_capstyle="butt")

    def _places(self) -> list[tuple[float, float]]:
        """Return left edge and width of each column of numbers."""
        few = len(self.groups[0]) + len(self.groups[1])
        widths = [_METRIC if i < few else _SCORE for i in range(len(self.metrics))]
        return [(self.left + sum(widths[:i]), w) for i, w in enumerate(widths)]

    def _group_of(self, column: int) -> int:
        ends = [len(self.groups[0]), len(self.groups[0]) + len(self.groups[1])]
        return sum(column >= end for end in ends)

    def _head(self, axes: Any, y: float) -> float:
        places = self._places()
        for group, (name, colour) in enumerate(_GROUPS):
            mine = [p for i, p in enumerate(places) if self._group_of(i) == group]
            if mine:
                left, right = mine[0][0] + 0.06, sum(mine[-1]) - 0.06
                axes.text((left + right) / 2, y + 0.1, name, ha="center", va="center", fontsize=9, color=self.ink)
                axes.plot([left, right], [y + 0.23, y + 0.23], color=colour, linewidth=1.5)
        for (x, w), metric in zip(places, self.metrics, strict=True):
            name = NAMES[metric].replace(" ", "\n", 1)
            axes.text(x + w / 2, y + _HEAD - 0.07, name, ha="center", va="bottom", fontsize=8, color=self.ink)
        axes.text(_MARGIN, y + _HEAD - 0.07, "Embedding", va="bottom", fontsize=8, color=self.ink)
        axes.plot([_MARGIN, self.width - _MARGIN], [y + _HEAD, y + _HEAD], color=self.ink, linewidth=1)
        return y + _HEAD

    def _row(
        self, axes: Any, y: float, name: str, values: list[float], digits: int, *, published: bool = False
    ) -> float:
        from matplotlib.patches import Circle, Rectangle

        middle = y + _ROW / 2
        axes.text(_MARGIN, middle, name, va="center", fontsize=9.5, color=self.ink)
        for i, ((x, w), value) in enumerate(zip(self._places(), values, strict=True)):
            group = self._group_of(i)
            colour = OTHER if published else _GROUPS[group][1]
            text, ink, at = decimal(value, digits).removeprefix("0"), INK, x + w / 2
            if math.isnan(value):
                text, ink = "–", self.ink
            elif group < 2:
                share = min(max(value, 0.0), 1.0)
                face = _mixed(colour, share)
                axes.add_patch(Circle((at, middle), 0.185, facecolor=face, edgecolor=colour, linewidth=0.8))
                ink = "white" if _dark(face) else INK
            else:
                full = w - 0.16
                axes.add_patch(Rectangle((x + 0.08, middle - 0.14), full, 0.28, facecolor="#f1f2f4", linewidth=0))
                at = x + 0.16
                length = full * min(max(value, 0.0), 1.0)
                axes.add_patch(Rectangle((x + 0.08, middle - 0.14), length, 0.28, facecolor=colour, alpha=0.75, lw=0))
            axes.text(at, middle, text, ha="center" if at == x + w / 2 else "left", va="center", fontsize=8, color=ink)
        axes.plot([_MARGIN, self.width - _MARGIN], [y + _ROW, y + _ROW], color=OTHER, alpha=0.35, linewidth=0.8)
        return y + _ROW


def _mixed(colour: str, share: float) -> tuple[float, ...]:
    """Return a colour between white and that of its group."""
    from matplotlib.colors import to_rgb

    return tuple(1 - share * (1 - c) for c in to_rgb(colour))


def _dark(colour: tuple[float, ...]) -> bool:
    red, green, blue = colour[:3]
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.55


def _short(name: str) -> str:
    name = plain(name)
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"
