"""Genes in the plane, coloured by their class: figure 4a."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bftembed.errors import BftembedError
from bftembed.reports.drawing import INK, figure_suffix, new_figure, save_figure, style
from bftembed.reports.figures import MOST_LABELS, OTHER
from bftembed.reports.points import MOST_VECTOR_POINTS, categories, draw_points, look

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

#: Labels that are drawn in grey and named last.
UNNAMED = ("other", "")
_LONGEST = 36


def draw_gene_map(path: str | os.PathLike[str], coordinates: ArrayLike, labels: Sequence[str], title: str = "") -> None:
    """Draw genes as points coloured by label.

    Parameters
    ----------
    path
        ``.png`` or ``.svg`` file.
    coordinates
        Shape (n, 2), finite numbers, n at least 1.
    labels
        n labels. The 13 most frequent have a colour and shape of their own; the rest share one grey, as do ``"other"``
        and ``""``.
    title
        Line above the picture.

    Raises
    ------
    BftembedError
        For another suffix, coordinates or labels that do not fit together, or a file that cannot be written.
    """
    figure_suffix(path)
    xy = np.asarray(coordinates, dtype=float)
    names = np.array([str(label) for label in labels], dtype=object)
    if xy.ndim != 2 or xy.shape[1:] != (2,) or not len(xy) or len(names) != len(xy):
        raise BftembedError(f"A map needs coordinates (n, 2) and n labels, got {xy.shape} and {len(names)} labels.")
    if not np.isfinite(xy).all():
        raise BftembedError(f"{int((~np.isfinite(xy).all(axis=1)).sum())} of {len(xy)} coordinates are not finite.")
    kept, code = categories(names, MOST_LABELS - 1, UNNAMED)
    figure = new_figure(8.4, 5.8, title)
    axes = figure.add_subplot()
    style(axes)
    size = float(np.clip(14_000 / len(xy), 2.5, 22))
    draw_points(axes, xy, code, len(kept), size, raster=len(xy) > MOST_VECTOR_POINTS)
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    figure.legend(
        handles=_entries(kept, names, code),
        loc="outside right upper",
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        handletextpad=0.3,
        borderaxespad=0.2,
    )
    save_figure(figure, path)


def _entries(kept: list[str], names: NDArray[np.object_], code: NDArray[np.int64]) -> list[object]:
    from matplotlib.lines import Line2D

    told = [(*look(j), name, int((code == j).sum())) for j, name in enumerate(kept)]
    grey = int((code == len(kept)).sum())
    if grey:
        left_out = len(set(names) - set(kept) - set(UNNAMED))
        told.append((OTHER, "o", f"other, and {left_out} more classes" if left_out else "other", grey))
    return [
        Line2D([], [], color=colour, marker=shape, linestyle="none", markersize=5, label=f"{_short(name)} ({n:,})")
        for colour, shape, name, n in told
    ]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
