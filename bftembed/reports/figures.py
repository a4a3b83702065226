"""Figures as inline SVG, drawn by matplotlib without pyplot, so without state that outlives the call.

Text takes the colour of the page (``currentColor``) and the ground is left clear, so that a figure is readable on
light, dark and paper. Each label has a colour and a shape of its own; the legends are HTML, which wraps on a phone.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.reports.drawing import style

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from matplotlib.figure import Figure

# Found by search: every two stay apart under simulated colour blindness (CIELAB distance over 15), and each shows on
# white and on near-black (contrast at least 2.2). A test holds them to it. Neighbouring labels differ in shape as well.
COLOURS = ("#787ee5", "#ec9371", "#217345", "#b504a4", "#55c50b", "#74671e", "#7bacde", "#dc5292", "#901afd")
SHAPES = ("o", "s", "^", "D", "v")
OTHER = "#8a8a8a"
MOST_LABELS = 14
MOST_VECTOR_POINTS = 2000
#: Replaced by currentColor: a colour that nothing else uses.
PAGE_INK = "#010203"
_KINDS = {"profile": ("o", COLOURS[8]), "floor": ("s", OTHER), "reference": ("D", COLOURS[1]), "": ("o", COLOURS[0])}


@dataclass(frozen=True, slots=True)
class Swatch:
    """One entry of a legend: text, colour (CSS) and shape (matplotlib's letter)."""

    text: str
    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure for the page: the SVG element as text, and its legend."""

    svg: str
    legend: tuple[Swatch, ...] = ()


def scatter(points: pd.DataFrame, alt: str, name: str) -> Plot:
    """Draw points coloured by label.

    Parameters
    ----------
    points
        Columns x, y (finite) and label (``""`` for none); any number of rows. Above 2,000 they become one embedded
        picture, so that the page stays small.
    alt
        What the figure shows, for readers who do not see it.
    name
        Prefix of the ids inside the SVG, unique in the page.

    Returns
    -------
    Plot
        The 13 most frequent labels have an entry in the legend, the rest one together.
    """
    counts = (
        points["label"].value_counts(sort=False).sort_index(kind="stable").sort_values(ascending=False, kind="stable")
    )
    named = [x for x in counts.index if x]
    kept = named if len(named) <= MOST_LABELS else named[: MOST_LABELS - 1]
    swatches = [
        Swatch(f"{x} ({counts[x]:,})", COLOURS[i % len(COLOURS)], SHAPES[i % len(SHAPES)]) for i, x in enumerate(kept)
    ]
    rest = len(points) - int(counts[kept].sum())
    if rest:
        word = (
            "points"
            if not kept
            else "without a label"
            if len(kept) == len(named)
            else f"{len(named) - len(kept)} other labels"
        )
        swatches.append(Swatch(f"{word} ({rest:,})", COLOURS[0] if not kept else OTHER, "o"))
    code = points["label"].map({x: i for i, x in enumerate(kept)}).fillna(len(kept)).astype(int).to_numpy()

    figure, axes = _figure(3.8, 3.7)
    size = float(np.clip(10_000 / max(len(points), 1), 2.5, 26))
    # In slices, so that no label lies wholly over another: the last one drawn would hide those below it.
    part = np.random.default_rng(0).integers(8, size=len(points))
    for i in range(8):
        for j, swatch in enumerate(swatches):
            chosen = points[(part == i) & (code == j)]
            axes.scatter(
                chosen["x"],
                chosen["y"],
                s=size,
                c=swatch.colour,
                marker=swatch.shape,
                alpha=0.85,
                linewidths=0,
                rasterized=len(points) > MOST_VECTOR_POINTS,
            )
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    return Plot(inline_svg(figure, alt, name), tuple(swatches))


def intervals(rows: pd.DataFrame, kinds: Mapping[str, str], metric: str, name: str) -> Plot:
    """Draw one metric: a dot and a 95 % interval per embedding, and a line at the highest floor.

    Parameters
    ----------
    rows
        Rows of `bftembed.reports.tables.summarise` for one metric, in the order to draw them from top to bottom.
    kinds
        Embedding → ``"profile"``, ``"floor"`` or ``"reference"``.
    metric
        Name for the axis.
    name
        Prefix of the ids inside the SVG, unique in the page.
    """
    figure, axes = _figure(3.8, 0.75 + 0.3 * max(len(rows), 1))
    floors: list[float] = []
    told: list[str] = []
    for y, row in enumerate(rows.to_dict("records")):
        kind = kinds.get(row["embedding"], "")
        shape, colour = _KINDS[kind]
        if math.isnan(row["mean"]):
            axes.text(
                0.02,
                y,
                "no value",
                transform=axes.get_yaxis_transform(),
                va="center",
                color=PAGE_INK,
                fontstyle="italic",
            )
            told.append(f"{row['embedding']} no value")
            continue
        if not math.isnan(row["low"]):
            axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot([row["mean"]], [y], marker=shape, markersize=7, color=colour, linestyle="none")
        floors += [row["mean"]] if kind == "floor" else []
        told.append(f"{row['embedding']} {row['mean']:.3f}")
    if floors:
        axes.axvline(max(floors), color=OTHER, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.set(yticks=range(len(rows)), yticklabels=[_short(e) for e in rows["embedding"]], xlabel=metric)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color=OTHER, alpha=0.25, linewidth=0.6)
    return Plot(inline_svg(figure, f"{metric} of each embedding: {', '.join(told)}.", name))


def kind_legend(kinds: Mapping[str, str]) -> tuple[Swatch, ...]:
    """Return the legend of `intervals` for the kinds that occur."""
    words = {
        "profile": "from profiles",
        "reference": "reference",
        "floor": "floor (dashed: the highest)",
        "": "not described",
    }
    return tuple(Swatch(words[k], _KINDS[k][1], _KINDS[k][0]) for k in words if k in set(kinds.values()))


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else f"{name[: most - 9]}…{name[-8:]}"


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    style(axes, PAGE_INK)
    return figure, axes


def inline_svg(figure: Figure, alt: str, name: str) -> str:
    """Return a figure as an SVG element for a page: `alt` for those who do not see it, `name` before every id.

    What was drawn in `PAGE_INK` takes the colour of the page's text.
    """
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name with two $ in it is a name, not a formula
    written = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": name, "savefig.dpi": 200}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that matplotlib's font lacks; the reader's font draws it
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\sid=")', rf"\g<1>{name}-", svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(PAGE_INK, "currentColor")
    width = figure.get_size_inches()[0] * 96
    head = f'<svg role="img" aria-label="{html.escape(alt)}" style="max-width: {width:.0f}px"'
    return re.sub(
        r'<svg([^>]*?) width="[^"]*"', r"<svg\1", re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", svg), count=1
    ).replace("<svg", head, 1)
