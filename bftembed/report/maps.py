"""Maps of cells and genes: scatter plots colored by labels, as a file or for a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.report.figure import (
    COLORS,
    INK,
    OTHER,
    PAGE_INK,
    SHAPES,
    Swatch,
    figure_suffix,
    handles,
    inline_svg,
    new_figure,
    save_figure,
    style,
)
from bftembed.report.table import printable

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

#: Labels that are drawn in grey, below the others.
UNNAMED = ("", "nan", "other")
#: Beyond these, labels are grey and points one embedded picture, so that a file stays small.
MAX_LABELS, MAX_VECTOR_POINTS = 14, 2000
_MAX_NAME = 34


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
        Name → n labels. None, NaN, ``""`` and ``"other"`` are grey. Up to 14 labels have a color and shape of their
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
    side = 4.6 if len(places) == len(columns) == 1 else 3.2
    extra = 0.19 * (max(len(swatches) for _, swatches in columns.values()) + 1) if len(columns) > 1 else 0
    figure = new_figure((side + (0 if extra else 2.2)) * len(columns), side * len(places) + extra + 0.4, title)
    figure.set_dpi(150)  # of the picture that holds the points in a large SVG
    grid = figure.subplots(len(places), len(columns), squeeze=False)
    raster = len(columns) * len(places) * sizes.pop() > MAX_VECTOR_POINTS
    legend = {"loc": "upper left", "bbox_to_anchor": (0, -0.03) if extra else (1.02, 1), "labelcolor": INK}
    for i, (name, xy) in enumerate(places.items()):
        finite = np.isfinite(xy).all(axis=1)
        if not finite.any():
            raise BftembedError(f"None of the {len(xy)} coordinates of {name!r} is finite.")
        for j, (column, (code, swatches)) in enumerate(columns.items()):
            axes = grid[i, j]
            style(axes)
            axes.set(xticks=[], yticks=[])
            _draw(axes, xy[finite], code[finite], swatches, raster)
            if i == 0:
                axes.set_title(printable(column)[:_MAX_NAME], fontsize=10, color=INK, loc="left")
            if j == 0:
                lost = f"\n{int((~finite).sum()):,} left out" if not finite.all() else ""
                axes.set_ylabel(f"{printable(name)[:_MAX_NAME]}{lost}", fontsize=10)
            if i == len(places) - 1:
                axes.legend(handles=handles(swatches), frameon=False, fontsize=8, handletextpad=0.3, **legend)
    save_figure(figure, path)


def scatter(points: pd.DataFrame, alt: str, name: str) -> tuple[str, list[Swatch]]:
    """Return points colored by label as an SVG element for a page, and its legend.

    Parameters
    ----------
    points
        Columns x, y (finite) and label (``""`` for none); any number of rows.
    alt
        What the figure shows, for readers who do not see it.
    name
        Prefix of the ids inside the SVG, unique in the page.
    """
    figure = new_figure(3.8, 3.7, "")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    style(axes, PAGE_INK)
    code, swatches = _categories(points["label"])
    _draw(axes, points[["x", "y"]].to_numpy(), code, swatches, len(points) > MAX_VECTOR_POINTS)
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    return inline_svg(figure, alt, name), swatches


def _categories(labels: Sequence[object] | NDArray[Any] | pd.Series[Any]) -> tuple[NDArray[np.int64], list[Swatch]]:
    """Return the place of each point's label in the legend, and the legend; grey is the last."""
    import pandas as pd

    texts = pd.Series(list(labels), dtype=object).map(lambda x: "" if pd.isna(x) else str(x).strip())
    counts = texts[~texts.str.lower().isin(UNNAMED)].value_counts()
    order = sorted(counts.index, key=lambda label: (-counts[label], label))
    kept = order if len(order) <= MAX_LABELS else order[: MAX_LABELS - 1]
    code = texts.map({label: i for i, label in enumerate(kept)}).fillna(len(kept)).to_numpy(dtype=np.int64)
    swatches = [
        Swatch(f"{printable(label)[:_MAX_NAME]} ({counts[label]:,})", COLORS[i % len(COLORS)], SHAPES[i % len(SHAPES)])
        for i, label in enumerate(kept)
    ]
    rest = int((code == len(kept)).sum())
    return code, [*swatches, *([Swatch(f"other ({rest:,})", OTHER, "o")] if rest else [])]


def _draw(axes: Any, xy: NDArray[Any], code: NDArray[np.int64], swatches: list[Swatch], raster: bool) -> None:
    size = float(np.clip(12_000 / max(len(xy), 1), 1.5, 22))
    grey = [j for j, swatch in enumerate(swatches) if swatch.color == OTHER]
    colored = list(range(len(swatches) - len(grey)))
    # In slices, each beginning with another label, so that none lies wholly over the others; grey lies below.
    part = np.random.default_rng([20_071, 8]).integers(8, size=len(xy))
    layers = [(code == j, j) for j in grey]
    layers += [((part == i) & (code == j), j) for i in range(8) for j in np.roll(colored, i).tolist()]
    for chosen, j in layers:
        look = {"c": swatches[j].color, "marker": swatches[j].shape, "alpha": 0.35 if j in grey else 0.85}
        axes.scatter(*xy[chosen].T, s=size, linewidths=0, rasterized=raster, **look)
