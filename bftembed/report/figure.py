"""Figures of tables: dots with 95 % intervals; colors, style and files of all figures."""

from __future__ import annotations

import html
import io
import math
import re
import textwrap
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.io import atomic_path
from bftembed.report.table import Table, number

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

INK, GRID = "#22262b", "#d9dce0"
# Found by search: every two stay apart under simulated color blindness (CIELAB distance over 15), and each shows on
# white and on near-black (contrast at least 2.2). A test holds them to it. Neighboring labels differ in shape as well.
COLORS = ("#787ee5", "#ec9371", "#217345", "#b504a4", "#55c50b", "#74671e", "#7bacde", "#dc5292", "#901afd")
SHAPES = ("o", "s", "^", "D", "v")
OTHER = "#8a8a8a"
#: Replaced by currentColor in pages: a color that nothing else uses.
PAGE_INK = "#010203"
#: Kind of row → (shape, color, words of the legend).
MARKERS = {
    "subject": ("o", COLORS[8], "scored"),
    "label-masked": ("o", COLORS[0], "label masked in the texts"),
    "label-removed": ("o", COLORS[6], "without texts that state the label"),
    "reference": ("D", COLORS[1], "reference"),
    "baseline": ("s", COLORS[2], "baseline"),
    "shuffled": ("v", OTHER, "shuffled"),
    "random": ("^", OTHER, "random"),
    "chance": ("|", OTHER, "chance"),
    "upper-bound": ("D", INK, "upper bound"),
}
# Inches.
_ROW, _PANEL = 0.23, 1.9


@dataclass(frozen=True, slots=True)
class Swatch:
    """One entry of a legend: text, color (CSS) and shape (matplotlib's letter)."""

    text: str
    color: str
    shape: str


def draw_tables(path: str | os.PathLike[str], tables: Sequence[Table], title: str = "") -> None:
    """Draw tables as dots with 95 % intervals: a panel per column, a line per row.

    Parameters
    ----------
    path
        ``.png`` or ``.svg`` file, written atomically.
    tables
        Published tables and those without a value are passed over.
    title
        Line above all.

    Raises
    ------
    BftembedError
        For another suffix or without any value to draw.
    """
    figure_suffix(path)
    drawn = [t.plain() for t in tables if not t.published and _panels(t)]
    if not drawn:
        raise BftembedError("There are no scores to draw.")
    # Panels of a table stand four abreast, so that a figure fits on a page.
    strips = [(t, panels, i == 0) for t in drawn for i, panels in enumerate(_chunks(_panels(t), 4))]
    heights = [0.75 + _ROW * len(t.rows) + (0.25 if first else 0) for t, _, first in strips]
    width = max(_name_width(t) + _PANEL * len(p) for t, p, _ in strips) + 0.3
    figure = new_figure(max(width, 6), sum(heights) + (0.4 if title else 0) + 0.3, title)
    parts = figure.subfigures(len(strips), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (table, panels, first) in zip(parts, strips, strict=True):
        if first:
            part.suptitle("\n".join(textwrap.wrap(table.title, 100)), fontsize=10, weight="bold", x=0.01, ha="left")
        _draw(part, table, panels, INK, min(4, len(_panels(table))))
    figure.legend(handles=handles(legend(drawn)), loc="outside lower left", ncols=6, fontsize=8, frameon=False)
    save_figure(figure, path)


def table_svg(table: Table, name: str) -> str:
    """Return a table as an SVG element for a page, ids prefixed by `name`; ``""`` where there is nothing to draw."""
    table = table.plain()
    panels = _panels(table)
    if not panels:
        return ""
    strips = list(_chunks(panels, 3))
    height = 0.6 + _ROW * len(table.rows)
    figure = new_figure(_name_width(table) + _PANEL * len(strips[0]) + 0.2, height * len(strips), "")
    figure.patch.set_alpha(0)
    for part, chunk in zip(figure.subfigures(len(strips), 1, squeeze=False)[:, 0], strips, strict=True):
        part.patch.set_alpha(0)
        _draw(part, table, chunk, PAGE_INK, len(strips[0]))
    main = panels[0]
    told = ", ".join(f"{r.name} {number(r.cells[main.key].value)}" for r in table.rows if main.key in r.cells)
    return inline_svg(figure, f"{main.title} of each row: {told}.", name)


def _panels(table: Table) -> list[Any]:
    return [
        c
        for c in table.columns
        if c.drawn and any(not math.isnan(r.cells[c.key].value) for r in table.rows if c.key in r.cells)
    ]


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _name_width(table: Table) -> float:
    return min(2.6, 0.075 * max((len(row.name) for row in table.rows), default=0) + 0.3)


def _draw(figure: Any, table: Table, columns: list[Any], ink: str, abreast: int) -> None:
    grid = figure.subplots(1, abreast, squeeze=False, sharey=True)[0]
    for axes in grid[len(columns) :]:
        axes.set_visible(False)
    names = [row.name if len(row.name) <= 36 else f"{row.name[:23]}…{row.name[-12:]}" for row in table.rows]
    for axes, column in zip(grid, columns, strict=False):
        style(axes, ink)
        for y, row in enumerate(table.rows):
            cell = row.cells.get(column.key)
            if cell is None or math.isnan(cell.value):
                continue
            shape, color, _ = MARKERS[row.kind]
            color = ink if color == INK else color
            if not math.isnan(cell.low):
                axes.plot([cell.low, cell.high], [y, y], color=color, linewidth=1.8, solid_capstyle="butt")
            axes.plot([cell.value], [y], color=color, marker=shape, markersize=5, linestyle="none", mew=1.4)
        if column.signed:
            axes.axvline(0, color=OTHER, linewidth=1, zorder=0)
        arrow = " (lower is better)" if column.better == "lower" else ""
        head = "\n".join(textwrap.wrap(f"{column.group} {column.title}{arrow}".strip(), 26))
        axes.set_title(head, loc="left", fontsize=8.5, color=ink)
        axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        axes.tick_params(axis="y", length=0, labelsize=8.5)
        axes.tick_params(axis="x", labelsize=7.5)
        if column.limits:
            axes.set_xlim(min(column.limits[0], axes.dataLim.x0) - 0.02, column.limits[1] + 0.02)
        axes.grid(axis="x", color=OTHER, alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)


def handles(swatches: Iterable[Swatch]) -> list[Line2D]:
    """Return entries for a legend of matplotlib."""
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"linestyle": "none", "markersize": 5}
    return [Line2D([], [], color=s.color, marker=s.shape, label=s.text, **look) for s in swatches]


def legend(tables: Iterable[Table]) -> tuple[Swatch, ...]:
    """Return the legend of the kinds of rows that occur in tables."""
    kinds = {row.kind for table in tables for row in table.rows}
    return tuple(Swatch(words, color, shape) for kind, (shape, color, words) in MARKERS.items() if kind in kinds)


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return an empty figure of that many inches, with its title on the left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=12, color=INK, x=0.01, ha="left")
    return figure


def style(axes: Any, ink: str = INK) -> None:
    """Draw the left and lower spine alone, and all in one color."""
    axes.tick_params(color=ink, labelcolor=ink, labelsize=9)
    axes.patch.set_alpha(0)
    for side, spine in axes.spines.items():
        spine.set(color=ink, alpha=0.45, visible=side in ("left", "bottom"))
    axes.xaxis.label.set(color=ink, size=9)
    axes.yaxis.label.set(color=ink, size=9)


def figure_suffix(path: str | os.PathLike[str]) -> str:
    """Return ``".png"`` or ``".svg"``, or raise for another suffix."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg"):
        raise BftembedError(f"{path}: a figure is written as .png or .svg, not as {suffix or 'no suffix'!r}.")
    return suffix


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write a PNG or SVG file atomically, as its suffix says; equal figures give equal bytes."""
    suffix = figure_suffix(path)
    metadata = {"Software": None} if suffix == ".png" else {"Date": None, "Creator": None}
    with atomic_path(path) as temporary:
        _save(figure, temporary, suffix[1:], metadata, {"svg.hashsalt": "bftembed"}, dpi=dpi)


def _save(figure: Figure, target: Any, format: str, metadata: Any, settings: dict[str, Any], **more: Any) -> None:
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name with two $ in it is a name, not a formula
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that matplotlib's font lacks
        figure.savefig(target, format=format, metadata=metadata, **more)


def inline_svg(figure: Figure, alt: str, name: str) -> str:
    """Return a figure as an SVG element for a page: `alt` for those who do not see it, `name` before every id.

    What was drawn in `PAGE_INK` takes the color of the page's text.
    """
    written = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": name, "savefig.dpi": 200}
    _save(figure, written, "svg", {"Date": None, "Creator": None}, settings)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg).replace(PAGE_INK, "currentColor")
    root, rest = svg.split(">", 1)
    width = figure.get_size_inches()[0] * 96
    root = re.sub(r' (width|height)="[^"]*"', "", root)
    return f'{root} role="img" aria-label="{html.escape(alt)}" style="max-width: {width:.0f}px">{rest}'
