"""Dots and intervals of gene-level scores, beside their floors: as a file, or for a page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.reports.dots import draw_dot
from bftembed.reports.drawing import INK, figure_suffix, new_figure, save_figure, style
from bftembed.reports.figures import COLOURS, OTHER, PAGE_INK, Swatch, inline_svg
from bftembed.reports.genes_summary import (
    ABOVE,
    CEILING,
    EMBEDDING_KIND,
    FAILED,
    FLOOR,
    FLOOR_KIND,
    LEAK_ENDINGS,
    METRIC_NAMES,
    NOT_COMPARED,
    parts,
)
from bftembed.reports.layout import middle

if TYPE_CHECKING:
    import os

    import pandas as pd

#: What a row is → colour, shape, whether it is filled, and words for the legend.
_LOOKS = {
    "above": (COLOURS[8], "o", True, "above the best floor"),
    "not above": (COLOURS[8], "o", False, "not above the best floor"),
    "not compared": (COLOURS[0], "o", True, "not compared with the floors"),
    "leak": (COLOURS[3], "^", True, "leak check: without what states the label"),
    "floor": (OTHER, "s", True, "floor (dashed: the highest)"),
    "ceiling": (COLOURS[1], "D", True, "ceiling (uses the labels)"),
}
_LONGEST_LABEL, _LONGEST_ON_PAGE = 34, 28
_WIDTH, _ROW, _FRAME = 4.6, 0.21, 0.85
#: Columns of panels → entries of the legend in one line.
_ENTRIES = {1: 2, 2: 3, 3: 5}
#: Replaced by the colour of the page's ground: a colour that nothing else uses.
_PAGE_GROUND = "#030201"


def draw_gene_scores(path: str | os.PathLike[str], summary: pd.DataFrame, title: str = "") -> None:
    """Draw a panel per task, and in it a dot and a 95 % interval per embedding and floor.

    Embeddings come first, floors (grey squares) below, the ceiling last. A filled dot is above the best floor, a
    hollow one is not; the dashed line is at the highest floor, the dotted one at chance.

    Parameters
    ----------
    path
        ``.png`` or ``.svg`` file.
    summary
        From `bftembed.reports.genes.gene_summary`. Several runs, protocols or metrics get panels of their own, whose
        headings name them.
    title
        Line above all.

    Raises
    ------
    BftembedError
        For another suffix, a summary without rows, or a file that cannot be written.
    """
    figure_suffix(path)
    panels = parts(summary, ("run", "protocol", "task", "metric"))
    if not panels:
        raise BftembedError("There are no scores to draw: the results hold no row of a gene-level protocol.")
    columns = 1 if len(panels) == 1 else 2 if len(panels) <= 4 else 3
    grid = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [_FRAME + _ROW * max(len(rows) for _, rows in line) for line in grid]
    entries = _legend_entries(summary)
    for_legend = 0.12 + 0.19 * math.ceil(len(entries) / _ENTRIES[columns])
    figure = new_figure(_WIDTH * columns, sum(heights) + for_legend + (0.25 if title else 0), title)
    halves: Any = figure.subfigures(2, 1, height_ratios=(sum(heights), for_legend))
    axes = halves[0].subplots(len(grid), columns, squeeze=False, height_ratios=heights)
    varying = [i for i in (2, 0, 1, 3) if i == 2 or len({key[i] for key, _ in panels}) > 1]
    for i, axis in enumerate(axes.flat):
        if i >= len(panels):
            axis.set_axis_off()
            continue
        key, rows = panels[i]
        _draw_panel(axis, rows, INK, "white", _LONGEST_LABEL)
        axis.set_title(" · ".join(key[j] for j in varying), loc="left", fontsize=9.5, color=INK)
    halves[1].legend(
        handles=entries, loc="upper left", ncols=_ENTRIES[columns], frameon=False, fontsize=8, labelcolor=INK
    )
    save_figure(figure, path)


def panel_svg(rows: pd.DataFrame, name: str) -> str:
    """Return one panel as an SVG element for a page; `name` begins its ids."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH - 0.3, _FRAME - 0.3 + _ROW * 1.1 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    _draw_panel(axes, rows, PAGE_INK, _PAGE_GROUND, _LONGEST_ON_PAGE)
    told = ", ".join(
        f"{r['embedding']} {'no value' if math.isnan(r['mean']) else format(r['mean'], '.3f')}"
        for r in rows.to_dict("records")
    )
    task = rows["task"].iloc[0]
    return inline_svg(figure, f"Scores of {task}: {told}.", name).replace(_PAGE_GROUND, "var(--ground)")


def score_legend(summary: pd.DataFrame) -> tuple[Swatch, ...]:
    """Return the legend of `panel_svg` for what occurs; hollow marks have a shape of their own, with ``-open``."""
    present = _present(summary)
    return tuple(
        Swatch(words, colour, shape if filled else f"{shape}-open")
        for look, (colour, shape, filled, words) in _LOOKS.items()
        if look in present
    )


def _look(row: dict[str, Any]) -> str:
    if row["kind"] != EMBEDDING_KIND:
        return str(row["kind"])
    return "not compared" if row["verdict"] == NOT_COMPARED else "above" if row["verdict"] == ABOVE else "not above"


def _present(summary: pd.DataFrame) -> set[str]:
    return {_look(row) for row in summary.to_dict("records") if row["verdict"] != FAILED}


def _draw_panel(axes: Any, rows: pd.DataFrame, ink: str, ground: str, longest: int) -> None:
    style(axes, ink)
    records = rows.to_dict("records")
    floors = [r["mean"] for r in records if r["kind"] == FLOOR_KIND and not math.isnan(r["mean"])]
    metric = records[0]["metric"]
    if metric == "roc_auc":
        axes.axvline(0.5, color=OTHER, linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)
    if floors:
        axes.axvline(max(floors), color=OTHER, linewidth=1.1, linestyle=(0, (4, 3)), zorder=0)
    for y, row in enumerate(records):
        if math.isnan(row["mean"]):
            place = axes.get_yaxis_transform()
            box = {"facecolor": ground, "linewidth": 0, "pad": 1}
            axes.text(0.02, y, "no value", transform=place, va="center", fontsize=8, color=ink, bbox=box)
            continue
        colour, shape, filled, _ = _LOOKS[_look(row)]
        face, size = colour if filled else ground, 5.5 if shape != "D" else 5
        draw_dot(axes, y, row["mean"], row["low"], row["high"], colour=colour, shape=shape, face=face, size=size)
    axes.set(yticks=range(len(records)), yticklabels=[_label(r["embedding"], longest) for r in records])
    axes.set_xlabel(METRIC_NAMES.get(metric, metric))
    axes.tick_params(axis="y", labelsize=8.5 if longest == _LONGEST_ON_PAGE else 8, length=0)
    axes.set_ylim(len(records) - 0.4, -0.6)
    axes.set_xlim(*_limits(records, metric))
    axes.grid(axis="x", color=OTHER, alpha=0.22, linewidth=0.6)
    axes.set_axisbelow(True)


def _limits(records: list[dict[str, Any]], metric: str) -> tuple[float, float]:
    values = [r[k] for r in records for k in ("mean", "low", "high") if not math.isnan(r[k])]
    values += [0.5] if metric == "roc_auc" else []
    if not values:
        return 0.0, 1.0
    margin = max(0.02, 0.05 * (max(values) - min(values)))
    return min(values) - margin, max(values) + margin


def _legend_entries(summary: pd.DataFrame) -> list[Any]:
    from matplotlib.lines import Line2D

    entries = []
    for look, (colour, shape, filled, words) in _LOOKS.items():
        if look in _present(summary):
            face = colour if filled else "white"
            entries.append(
                Line2D([], [], color=colour, marker=shape, markerfacecolor=face, markersize=5.5, label=words)
            )
    if (summary["metric"] == "roc_auc").any():
        entries.append(Line2D([], [], color=OTHER, linewidth=0.9, linestyle=(0, (1, 2)), label="chance"))
    return entries


def _label(name: str, most: int) -> str:
    """Return a name for its row: what marks and place tell already goes, and a long one keeps both ends."""
    for ending, words in zip(LEAK_ENDINGS, ("– label words masked", "– texts stating it left out"), strict=True):
        if name.endswith(ending):  # it stands below its embedding
            return words
    return middle(name.removeprefix(FLOOR).removeprefix(CEILING), most)
