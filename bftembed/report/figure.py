"""Figures: tables as dots with 95 % intervals, maps of cells and genes; colors, style and files of all figures."""

from __future__ import annotations

import html
import io
import math
import re
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.io import atomic_path
from bftembed.report.table import Table, number, printable

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    #: Text, color and shape (matplotlib's letter) of an entry of a legend.
    _Swatch = tuple[str, str, str]

INK = "#22262b"
# Found by search: every two stay apart under simulated color blindness (CIELAB distance over 15), and each shows on
# white and on near-black (contrast at least 2.2). A test holds them to it. Neighboring labels differ in shape as well.
COLORS = ("#787ee5", "#ec9371", "#217345", "#b504a4", "#55c50b", "#74671e", "#7bacde", "#dc5292", "#901afd")
SHAPES = ("o", "s", "^", "D", "v")
OTHER = "#8a8a8a"
#: Replaced by currentColor in pages: a color that nothing else uses.
PAGE_INK = "#010203"
#: Kind of row → words of the legend, color and shape.
_MARKERS: dict[str, _Swatch] = {
    "subject": ("scored", COLORS[8], "o"),
    "label-masked": ("label masked in the texts", COLORS[0], "o"),
    "label-removed": ("without texts that state the label", COLORS[6], "o"),
    "reference": ("reference", COLORS[1], "D"),
    "baseline": ("baseline", COLORS[2], "s"),
    "shuffled": ("shuffled", OTHER, "v"),
    "random": ("random", OTHER, "^"),
    "chance": ("chance", OTHER, "|"),
    "upper-bound": ("upper bound", INK, "D"),
}
# Inches.
_ROW, _PANEL = 0.23, 1.9
#: Labels that are drawn in gray, below the others.
_UNNAMED = ("", "nan", "other")
#: Beyond these, labels are gray and points one embedded picture, so that a file stays small.
MAX_LABELS, _MAX_VECTOR_POINTS = 14, 2000
_MAX_NAME = 34


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
    drawn = [t for t in tables if not t.published and _panels(t)]
    if not drawn:
        raise BftembedError("There are no scores to draw.")
    save_figure(_dots(drawn, 4, INK, title), path)


def table_svg(table: Table, name: str) -> str:
    """Return a table as an SVG element for a page, ids prefixed by `name`; ``""`` where there is nothing to draw."""
    if not (panels := _panels(table)):
        return ""
    main = panels[0]
    told = ", ".join(f"{r.name} {number(r.cells[main.key].value)}" for r in table.rows if main.key in r.cells)
    return inline_svg(_dots([table], 3, PAGE_INK), f"{main.title} of each row: {told}.", name)


def _panels(table: Table) -> list[Any]:
    scored = {key for row in table.rows for key, cell in row.cells.items() if not math.isnan(cell.value)}
    return [c for c in table.columns if c.drawn and c.key in scored]


def _dots(tables: Sequence[Table], abreast: int, ink: str, title: str = "") -> Figure:
    """Return the figure of tables, so many panels in a row; in a page a table stands below its own title."""
    every = [(t, _panels(t)) for t in tables]
    strips = [(t, panels[i : i + abreast], i) for t, panels in every for i in range(0, len(panels), abreast)]
    titled, most = ink == INK, max(min(abreast, len(panels)) for _, panels in every)
    heights = [0.75 + _ROW * len(t.rows) + (0.25 if titled and i == 0 else 0) for t, _, i in strips]
    names = max((len(row.name) for t in tables for row in t.rows), default=0)
    width = min(2.6, 0.075 * names + 0.3) + _PANEL * most + 0.3
    figure = new_figure(max(width, 6), sum(heights) + (0.4 if title else 0) + 0.3, title)
    figure.patch.set_alpha(1 if titled else 0)
    parts = figure.subfigures(len(strips), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (table, panels, i) in zip(parts, strips, strict=True):
        part.patch.set_alpha(0)
        if titled and i == 0:
            part.suptitle(
                "\n".join(textwrap.wrap(printable(table.title), 100)), fontsize=10, weight="bold", x=0.01, ha="left"
            )
        grid = part.subplots(1, min(abreast, len(_panels(table))), squeeze=False, sharey=True)[0]
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes, column in zip(grid, panels, strict=False):
            _draw_panel(axes, table, column, ink)
    kinds = {row.kind for table in tables for row in table.rows}
    _legend(figure, [swatch for kind, swatch in _MARKERS.items() if kind in kinds], ink, "outside lower left", ncols=6)
    return figure


def _draw_panel(axes: Any, table: Table, column: Any, ink: str) -> None:
    style(axes, ink)
    for y, row in enumerate(table.rows):
        cell = row.cells.get(column.key)
        if cell is None or math.isnan(cell.value):
            continue
        _, color, shape = _MARKERS[row.kind]
        color = ink if color == INK else color
        if not math.isnan(cell.low):
            axes.plot([cell.low, cell.high], [y, y], color=color, linewidth=1.8, solid_capstyle="butt")
        axes.plot([cell.value], [y], color=color, marker=shape, markersize=5, linestyle="none", mew=1.4)
    if column.signed:
        axes.axvline(0, color=OTHER, linewidth=1, zorder=0)
    arrow = " (lower is better)" if column.better == "lower" else ""
    head = "\n".join(textwrap.wrap(f"{column.group} {column.title}{arrow}".strip(), 26))
    axes.set_title(head, loc="left", fontsize=8.5, color=ink)
    names = [
        name if len(name) <= 36 else f"{name[:23]}…{name[-12:]}" for name in (printable(r.name) for r in table.rows)
    ]
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.tick_params(axis="x", labelsize=7.5)
    if column.limits:
        axes.set_xlim(min(column.limits[0], axes.dataLim.x0) - 0.02, column.limits[1] + 0.02)
    axes.grid(axis="x", color=OTHER, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(on: Any, swatches: Iterable[_Swatch], ink: str, loc: str, **options: Any) -> None:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"linestyle": "none", "markersize": 5}
    every = [
        Line2D([], [], color=ink if c == INK else c, marker=shape, label=text, **look) for text, c, shape in swatches
    ]
    on.legend(handles=every, loc=loc, labelcolor=ink, frameon=False, fontsize=8, handletextpad=0.3, **options)


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
    return f'{root} role="img" aria-label="{html.escape(printable(alt))}" style="max-width: {width:.0f}px">{rest}'


def draw_maps(
    path: str | os.PathLike[str],
    coordinates: Mapping[str, ArrayLike],
    labels: Mapping[str, Sequence[object] | NDArray[Any]],
    title: str = "",
) -> None:
    """Draw coordinates of the same cells or genes, a row per embedding and a column per set of labels.

    Parameters
    ----------
    path
        ``.png`` or ``.svg`` file, written atomically.
    coordinates
        Embedding → (n, 2) numbers. Rows that are not finite are left out of that embedding and counted.
    labels
        Name → n labels. None, NaN, ``""`` and ``"other"`` are gray. Up to 14 labels have a color and shape of their
        own; of more the 13 most frequent.
    title
        Line above all.

    Raises
    ------
    BftembedError
        For another suffix, numbers of points that differ, or coordinates none of which is finite.
    """
    figure_suffix(path)
    places = {name: np.asarray(xy, dtype=float) for name, xy in coordinates.items()}
    columns = {name: _categories(values) for name, values in labels.items()}
    sizes = {len(x) for x in places.values()} | {len(code) for code, _ in columns.values()}
    if not places or not columns or len(sizes) != 1 or any(x.ndim != 2 or x.shape[1] != 2 for x in places.values()):
        shapes = {name: xy.shape for name, xy in places.items()}
        raise BftembedError(f"Maps need coordinates (n, 2) and n labels each, got {shapes} and {sorted(sizes)} labels.")
    save_figure(_maps(places, columns, title, INK, below=len(columns) > 1), path)


def scatter(points: pd.DataFrame, alt: str, name: str) -> str:
    """Return points colored by label as an SVG element for a page, with its legend.

    Parameters
    ----------
    points
        Columns x, y (finite) and label (``""`` for none); any number of rows.
    alt
        What the figure shows, for readers who do not see it.
    name
        Prefix of the ids inside the SVG, unique in the page.
    """
    places, columns = {"": points[["x", "y"]].to_numpy()}, {"": _categories(points["label"])}
    return inline_svg(_maps(places, columns, "", PAGE_INK, below=True), alt, name)


def _maps(
    places: Mapping[str, NDArray[Any]],
    columns: Mapping[str, tuple[NDArray[np.int64], list[_Swatch]]],
    title: str,
    ink: str,
    *,
    below: bool,
) -> Figure:
    """Return the figure of maps, their legends below or to the right."""
    side = 4.6 if len(places) == len(columns) == 1 and not below else 3.4
    extra = 0.19 * (max(len(swatches) for _, swatches in columns.values()) + 1) if below else 0
    figure = new_figure((side + (0 if extra else 2.2)) * len(columns), side * len(places) + extra + 0.4, title)
    figure.patch.set_alpha(1 if ink == INK else 0)
    figure.set_dpi(150)  # of the picture that holds the points in a large SVG
    grid = figure.subplots(len(places), len(columns), squeeze=False)
    raster = len(columns) * sum(map(len, places.values())) > _MAX_VECTOR_POINTS
    for i, (name, xy) in enumerate(places.items()):
        finite = np.isfinite(xy).all(axis=1)
        if not finite.any():
            raise BftembedError(f"None of the {len(xy)} coordinates of {name!r} is finite.")
        for j, (column, (code, swatches)) in enumerate(columns.items()):
            axes = grid[i, j]
            _draw_points(axes, xy[finite], code[finite], swatches, ink, raster)
            if i == 0:
                axes.set_title(printable(column)[:_MAX_NAME], fontsize=10, color=ink, loc="left")
            if j == 0:
                lost = f"\n{int((~finite).sum()):,} left out" if not finite.all() else ""
                axes.set_ylabel(f"{printable(name)[:_MAX_NAME]}{lost}", fontsize=10)
            if i == len(places) - 1:
                _legend(axes, swatches, ink, "upper left", bbox_to_anchor=(0, -0.03) if below else (1.02, 1))
    return figure


def _categories(labels: Sequence[object] | NDArray[Any] | pd.Series[Any]) -> tuple[NDArray[np.int64], list[_Swatch]]:
    """Return the place of each point's label in the legend, and the legend; gray is the last."""
    import pandas as pd

    texts = pd.Series(list(labels), dtype=object).map(lambda x: "" if pd.isna(x) else str(x).strip())
    counts = texts[~texts.str.lower().isin(_UNNAMED)].value_counts()
    order = sorted(counts.index, key=lambda label: (-counts[label], label))
    kept = order if len(order) <= MAX_LABELS else order[: MAX_LABELS - 1]
    code = texts.map({label: i for i, label in enumerate(kept)}).fillna(len(kept)).to_numpy(dtype=np.int64)
    swatches = [
        (f"{printable(label)[:_MAX_NAME]} ({counts[label]:,})", COLORS[i % len(COLORS)], SHAPES[i % len(SHAPES)])
        for i, label in enumerate(kept)
    ]
    rest = int((code == len(kept)).sum())
    return code, [*swatches, *([(f"other ({rest:,})", OTHER, "o")] if rest else [])]


def _draw_points(axes: Any, xy: NDArray[Any], code: Any, swatches: list[_Swatch], ink: str, raster: bool) -> None:
    style(axes, ink)
    axes.set(xticks=[], yticks=[])
    size = float(np.clip(12_000 / max(len(xy), 1), 1.5, 22))
    gray = [j for j, (_, color, _) in enumerate(swatches) if color == OTHER]
    colored = list(range(len(swatches) - len(gray)))
    # In slices, each beginning with another label, so that none lies wholly over the others; gray lies below.
    part = np.random.default_rng([20_071, 8]).integers(8, size=len(xy))
    layers = [(code == j, j) for j in gray]
    layers += [((part == i) & (code == j), j) for i in range(8) for j in np.roll(colored, i).tolist()]
    for chosen, j in layers:
        look = {"c": swatches[j][1], "marker": swatches[j][2], "alpha": 0.35 if j in gray else 0.85}
        axes.scatter(*xy[chosen].T, s=size, linewidths=0, rasterized=raster, **look)
