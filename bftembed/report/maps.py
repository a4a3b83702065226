"""Maps of cells and genes: a grid of scatter plots, embeddings by labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.report.figure import (
    COLORS,
    INK,
    MAX_LABELS,
    MAX_VECTOR_POINTS,
    OTHER,
    SHAPES,
    figure_suffix,
    new_figure,
    save_figure,
    style,
)
from bftembed.report.table import printable

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

#: Labels that are drawn in grey, below the others.
UNNAMED = ("", "nan", "other")
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
    sizes = {len(x) for x in places.values()} | {len(code) for _, code, _ in columns.values()}
    if not places or not columns or len(sizes) != 1 or any(x.ndim != 2 or x.shape[1] != 2 for x in places.values()):
        shapes = {name: xy.shape for name, xy in places.items()}
        raise BftembedError(f"Maps need coordinates (n, 2) and n labels each, got {shapes} and {sorted(sizes)} labels.")
    side = 4.6 if len(places) == len(columns) == 1 else 3.2
    n_legend = max(len(kept) for kept, _, _ in columns.values())
    extra = 0.19 * (n_legend + 2) if len(columns) > 1 else 0
    figure = new_figure((side + (0 if extra else 2.2)) * len(columns), side * len(places) + extra + 0.4, title)
    figure.set_dpi(150)  # of the picture that holds the points in a large SVG
    grid = figure.subplots(len(places), len(columns), squeeze=False)
    raster = len(columns) * len(places) * sizes.pop() > MAX_VECTOR_POINTS
    for i, (name, xy) in enumerate(places.items()):
        finite = np.isfinite(xy).all(axis=1)
        if not finite.any():
            raise BftembedError(f"None of the {len(xy)} coordinates of {name!r} is finite.")
        for j, (column, (kept, code, counts)) in enumerate(columns.items()):
            axes = grid[i, j]
            style(axes)
            axes.set(xticks=[], yticks=[])
            _draw(axes, xy[finite], code[finite], len(kept), raster)
            if i == 0:
                axes.set_title(printable(column)[:_MAX_NAME], fontsize=10, color=INK, loc="left")
            if j == 0:
                lost = f"\n{int((~finite).sum()):,} left out" if not finite.all() else ""
                axes.set_ylabel(f"{printable(name)[:_MAX_NAME]}{lost}", fontsize=10)
            if i == len(places) - 1:
                _legend(axes, kept, counts, below=bool(extra))
    save_figure(figure, path)


def _categories(labels: Sequence[object] | NDArray[Any]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels with a look of their own, the place of each point among them, and counts; the last is grey."""
    import pandas as pd

    texts = pd.Series(list(labels), dtype=object).map(lambda x: "" if pd.isna(x) else str(x).strip())
    counts = texts[~texts.str.lower().isin(UNNAMED)].value_counts()
    order = sorted(counts.index, key=lambda label: (-counts[label], label))
    kept = order if len(order) <= MAX_LABELS else order[: MAX_LABELS - 1]
    code = texts.map({label: i for i, label in enumerate(kept)}).fillna(len(kept)).to_numpy(dtype=np.int64)
    return kept, code, np.bincount(code, minlength=len(kept) + 1)


def _draw(axes: Any, xy: NDArray[Any], code: NDArray[np.int64], n_kept: int, raster: bool) -> None:
    size = float(np.clip(12_000 / len(xy), 1.5, 22))

    def scatter(chosen: NDArray[np.bool_], color: str, shape: str, alpha: float) -> None:
        points = xy[chosen]
        axes.scatter(
            points[:, 0], points[:, 1], s=size, c=color, marker=shape, alpha=alpha, linewidths=0, rasterized=raster
        )

    scatter(code == n_kept, OTHER, "o", 0.35)
    # In slices, each beginning with another label, so that none lies wholly over the others.
    part = np.random.default_rng([20_071, 8]).integers(8, size=len(xy))
    for i in range(8):
        for j in np.roll(np.arange(n_kept), i).tolist():
            scatter((part == i) & (code == j), COLORS[j % len(COLORS)], SHAPES[j % len(SHAPES)], 0.85)


def _legend(axes: Any, kept: Sequence[str], counts: NDArray[np.int64], *, below: bool) -> None:
    from matplotlib.lines import Line2D

    looks = [(COLORS[j % len(COLORS)], SHAPES[j % len(SHAPES)], label) for j, label in enumerate(kept)]
    looks += [(OTHER, "o", "other")] if counts[-1] else []
    handles = [
        Line2D(
            [],
            [],
            color=color,
            marker=shape,
            linestyle="none",
            markersize=5,
            label=f"{printable(label)[:_MAX_NAME]} ({n:,})",
        )
        for (color, shape, label), n in zip(looks, counts[: len(looks)], strict=True)
    ]
    place = {"loc": "upper left", "bbox_to_anchor": (0, -0.03) if below else (1.02, 1)}
    axes.legend(handles=handles, frameon=False, fontsize=8, labelcolor=INK, handletextpad=0.3, **place)
