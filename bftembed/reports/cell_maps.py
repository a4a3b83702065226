"""Cells in the plane: a row of pictures per embedding, a column per label, points coloured by that label."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.reports.drawing import INK, figure_suffix, new_figure, save_figure, style
from bftembed.reports.figures import MOST_LABELS, OTHER
from bftembed.reports.layout import Page, fitted, text_width
from bftembed.reports.points import MOST_VECTOR_POINTS, categories, draw_points, look

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

# Inches.
_LEFT, _TOP, _HEAD, _GAP, _MARGIN, _LINE, _SWATCH = 0.42, 0.34, 0.28, 0.14, 0.12, 0.175, 0.2
_WIDEST_LEGEND = 3.0
_HEAD_SIZE, _LEGEND_SIZE, _TEXT_SIZE = 10.0, 9.0, 8.0
#: Most rows or columns of pictures → inches of one; beyond the last, `_SMALLEST`.
_PANELS = {1: 4.2, 2: 3.2, 4: 2.7}
_SMALLEST = 2.3
_WITHOUT = "#c3c7cb"


def draw_cell_maps(
    path: str | os.PathLike[str],
    coordinates: Mapping[str, ArrayLike],
    columns: Mapping[str, Sequence[object] | NDArray[Any]],
    title: str = "",
) -> None:
    """Draw embeddings of the same cells, each once per column of labels.

    Parameters
    ----------
    path
        ``.png`` or ``.svg`` file.
    coordinates
        Embedding → (n, 2) numbers, one row of pictures each. A cell with NaN or infinity is left out of that row; how
        many are stands beside the name.
    columns
        Name → n labels, one column of pictures each. None, NaN, ``""`` and ``"nan"`` are missing and grey. Up to 14
        labels have a colour and shape of their own; of more the 13 most frequent, the rest share one grey.
    title
        Line above all.

    Raises
    ------
    BftembedError
        For another suffix, no embedding or column, numbers of cells that differ, coordinates that are not (n, 2)
        numbers or none of which is finite, or a file that cannot be written.
    """
    figure_suffix(path)
    places = {name: _places(name, values) for name, values in coordinates.items()}
    legends = [_Legend(name, labels) for name, labels in columns.items()]
    _check(places, legends)
    n_rows, n_columns = len(places), len(legends)
    side = next((inches for most, inches in _PANELS.items() if max(n_rows, n_columns) <= most), _SMALLEST)
    beside = n_columns == 1  # the legend stands right of a single column, and below several
    for legend in legends:
        legend.fit(_WIDEST_LEGEND if beside else side - 0.05, columns=1 if beside else 3)
    top = _MARGIN + (_TOP if title else 0) + _HEAD
    grid = n_rows * side + (n_rows - 1) * _GAP
    width = _LEFT + n_columns * side + (n_columns - 1) * _GAP + _MARGIN
    deepest = max(legend.height for legend in legends)
    if beside:
        width, height = width + 0.1 + legends[0].width, top + max(grid, deepest) + _MARGIN
    else:
        height = top + grid + _GAP + deepest + _MARGIN
    figure = new_figure(width, height, "")
    figure.set_layout_engine("none")
    figure.set_dpi(150)  # of the picture that holds the points in a large SVG
    page = Page(figure, width, height)
    if title:
        shown = fitted(title, 11, width - 2 * _MARGIN)
        page.write(_MARGIN, _MARGIN + 0.1, shown, size=11)
    raster = n_columns * sum(map(len, places.values())) > MOST_VECTOR_POINTS
    for i, (name, xy) in enumerate(places.items()):
        y = top + i * (side + _GAP)
        _write_name(page, name, int((~np.isfinite(xy).all(axis=1)).sum()), y + side / 2, side)
        for j, legend in enumerate(legends):
            axes = page.axes(_LEFT + j * (side + _GAP), y, side, side)
            if i == 0:
                shown = fitted(legend.name, _HEAD_SIZE, side)
                axes.set_title(shown, fontsize=_HEAD_SIZE, color=INK, pad=5)
            _draw_panel(axes, xy, legend, side, raster)
    for j, legend in enumerate(legends):
        x, y = (width - legend.width, top) if beside else (_LEFT + j * (side + _GAP), top + grid + _GAP)
        legend.draw(page.axes(x, y, legend.width, legend.height))
    save_figure(figure, path)


def _places(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        xy = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as err:
        raise BftembedError(f"The coordinates of {name!r} are not numbers: {err}.") from err
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy):
        raise BftembedError(f"A map of cells needs coordinates (n, 2), got {xy.shape} for {name!r}.")
    return xy


def _check(places: Mapping[str, NDArray[np.float64]], legends: Sequence[_Legend]) -> None:
    if not places or not legends:
        raise BftembedError("A map of cells needs at least one embedding and one column of labels.")
    first = next(iter(places))
    n_cells = len(places[first])
    for name, xy in places.items():
        if len(xy) != n_cells:
            raise BftembedError(f"{name!r} has coordinates of {len(xy)} cells, {first!r} of {n_cells}.")
        if not np.isfinite(xy).all(axis=1).any():
            raise BftembedError(f"None of the {n_cells} cells has finite coordinates in {name!r}. Leave it out.")
    for legend in legends:
        if len(legend.code) != n_cells:
            raise BftembedError(f"There are {len(legend.code)} labels of {legend.name!r} for {n_cells} cells.")


def _missing(label: object) -> bool:
    import pandas as pd

    return bool(pd.isna(label)) if not isinstance(label, str) else label.strip().lower() in ("", "nan")


class _Legend:
    """A column of labels: the look of each cell, and the list that explains it."""

    def __init__(self, name: str, labels: Sequence[object] | NDArray[Any]) -> None:
        texts = np.array(["" if _missing(x) else str(x) for x in labels], dtype=object)
        named = len(set(texts) - {""})
        self.name = str(name)
        self.kept, self.code = categories(texts, MOST_LABELS if named <= MOST_LABELS else MOST_LABELS - 1)
        n = len(self.kept)
        self.code[texts == ""] = n + 1
        counts = np.bincount(self.code, minlength=n + 2)
        self.entries = [(*look(j), label, f" ({counts[j]:,})") for j, label in enumerate(self.kept)]
        if counts[n]:
            left = named - n
            self.entries.append((OTHER, "o", f"{left} other label{'s' if left > 1 else ''}", f" ({counts[n]:,})"))
        if counts[n + 1]:
            self.entries.append((_WITHOUT, "o", "without a label", f" ({counts[n + 1]:,})"))
        self.heading, self.shown = "", [""]
        self.width, self.height, self.step, self.per_column = 0.0, 0.0, 0.0, 1

    def fit(self, widest: float, columns: int) -> None:
        """Lay the entries out in as many columns, up to `columns`, as their words leave room for."""
        self.shown = [
            fitted(text, _TEXT_SIZE, widest - _SWATCH - text_width(count, _TEXT_SIZE)) + count
            for *_, text, count in self.entries
        ]
        each = _SWATCH + max(text_width(text, _TEXT_SIZE) for text in self.shown) + 0.1
        n_columns = max(1, min(columns, int((widest + 0.1) / each), len(self.shown)))
        self.heading = fitted(self.name, _LEGEND_SIZE, widest - 0.1, "bold")
        needed = max(each * n_columns, text_width(self.heading, _LEGEND_SIZE, "bold") + 0.1)
        self.width = min(needed, widest)
        self.step = each
        self.per_column = math.ceil(len(self.shown) / n_columns)
        self.height = _LINE * (self.per_column + 1.4)

    def draw(self, axes: Any) -> None:
        axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        axes.set_axis_off()
        bold = {"fontsize": _LEGEND_SIZE, "weight": "bold"}
        axes.text(0.02, _LINE * 0.6, self.heading, color=INK, va="center", **bold)
        for i, ((colour, shape, _, _), text) in enumerate(zip(self.entries, self.shown, strict=True)):
            x, y = self.step * (i // self.per_column), _LINE * (1.7 + i % self.per_column)
            axes.plot([x + 0.08], [y], marker=shape, markersize=5, color=colour, linestyle="none", clip_on=False)
            axes.text(x + _SWATCH, y, text, fontsize=_TEXT_SIZE, color=INK, va="center_baseline")


def _write_name(page: Page, name: str, n_without: int, y: float, side: float) -> None:
    lines = [(fitted(name, _HEAD_SIZE, side), _HEAD_SIZE, 0.15)]
    if n_without:
        told = f"{n_without:,} cell{'s' if n_without > 1 else ''} left out"
        lines.append((fitted(told, _TEXT_SIZE, side), _TEXT_SIZE, 0.33))
    for text, size, x in lines:
        page.write(x, y, text, size=size, rotation=90, ha="center")


def _draw_panel(axes: Any, xy: NDArray[np.float64], legend: _Legend, side: float, raster: bool) -> None:
    style(axes)
    for spine in axes.spines.values():
        spine.set(visible=True, color=INK, alpha=0.3)
    axes.set(xticks=[], yticks=[])
    finite = np.isfinite(xy).all(axis=1)
    size = float(np.clip(900 * side**2 / int(finite.sum()), 1.2, 22))
    code, n = legend.code[finite], len(legend.kept)
    points = xy[finite]
    without = code == n + 1
    if without.any():  # lowest, and paler than labels that only lack a colour
        axes.scatter(
            points[without, 0],
            points[without, 1],
            s=size * 0.7,
            c=_WITHOUT,
            marker="o",
            alpha=0.6,
            linewidths=0,
            rasterized=raster,
        )
    draw_points(axes, points[~without], code[~without], n, size, raster=raster)
