"""Genes in the plane, coloured by their class: figure 4a."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bftembed.errors import BftembedError
from bftembed.reports.drawing import INK, figure_suffix, new_figure, save_figure, style
from bftembed.reports.figures import COLOURS, MOST_LABELS, OTHER, SHAPES

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

#: Labels that are drawn in grey and named last.
UNNAMED = ("other", "")
_LONGEST = 36
#: Points beyond which an SVG holds them as one picture.
_MOST_VECTOR_POINTS = 5000


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
    kept, code = _codes(names)
    figure = new_figure(8.4, 5.8, title)
    axes = figure.add_subplot()
    style(axes)
    size = float(np.clip(14_000 / len(xy), 2.5, 22))
    raster = len(xy) > _MOST_VECTOR_POINTS
    _scatter(axes, xy[code == len(kept)], size * 0.7, OTHER, "o", 0.35, raster)
    # In slices, so that no label lies wholly over another: the last one drawn would hide those below it.
    part = np.random.default_rng(0).integers(8, size=len(xy))
    for i in range(8):
        for j in range(len(kept)):
            _scatter(axes, xy[(part == i) & (code == j)], size, *_look(j), 0.85, raster)
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


def _codes(names: NDArray[np.object_]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the labels that are shown, the most frequent first, and for each point its place (their number: grey)."""
    counts = {name: int((names == name).sum()) for name in sorted(set(names) - set(UNNAMED))}
    kept = sorted(counts, key=lambda name: (-counts[name], name))[: MOST_LABELS - 1]
    place = {name: i for i, name in enumerate(kept)}
    return kept, np.array([place.get(name, len(kept)) for name in names], dtype=np.int64)


def _look(j: int) -> tuple[str, str]:
    return COLOURS[j % len(COLOURS)], SHAPES[j % len(SHAPES)]


def _scatter(
    axes: object, xy: NDArray[np.float64], size: float, colour: str, shape: str, alpha: float, raster: bool
) -> None:
    if len(xy):
        axes.scatter(  # type: ignore[attr-defined]
            xy[:, 0], xy[:, 1], s=size, c=colour, marker=shape, alpha=alpha, linewidths=0, rasterized=raster
        )


def _entries(kept: list[str], names: NDArray[np.object_], code: NDArray[np.int64]) -> list[object]:
    from matplotlib.lines import Line2D

    told = [(*_look(j), name, int((code == j).sum())) for j, name in enumerate(kept)]
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
