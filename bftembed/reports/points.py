"""Points coloured by category: which categories have a look of their own, how they are drawn, what a legend says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.reports.figures import COLOURS, OTHER, SHAPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Points beyond which an SVG holds them as one picture.
MOST_VECTOR_POINTS = 5000
_SLICES = 8
# No seed that labels dealt at random would share: slices and labels would go together.
_SLICES_SEED = (20_071, 8)


def categories(
    names: NDArray[np.object_], most: int, unnamed: Sequence[str] = ("",)
) -> tuple[list[str], NDArray[np.int64]]:
    """Return which categories are told apart, and the place of each point among them.

    Parameters
    ----------
    names
        Shape (n,), a text per point.
    most
        So many categories are kept, the most frequent first.
    unnamed
        Texts that are no category.

    Returns
    -------
    tuple
        The categories that are kept, and int64 (n,): the place of each point's category among them, or their number
        for all that are not kept.
    """
    found, inverse = np.unique(names, return_inverse=True)
    counts = np.bincount(inverse, minlength=len(found))
    order = [i for i in sorted(range(len(found)), key=lambda i: (-counts[i], found[i])) if found[i] not in unnamed]
    kept = order[:most]
    place = np.full(len(found), len(kept), dtype=np.int64)
    place[kept] = np.arange(len(kept))
    return [str(found[i]) for i in kept], place[inverse]


def look(place: int) -> tuple[str, str]:
    """Return colour and shape of the category at that place."""
    return COLOURS[place % len(COLOURS)], SHAPES[place % len(SHAPES)]


def draw_points(
    axes: Any, xy: NDArray[Any], code: NDArray[np.int64], n_kept: int, size: float, *, raster: bool
) -> None:
    """Draw points (n, 2) in the look of their category; those at or beyond `n_kept` in grey, below the others."""
    _scatter(axes, xy[code >= n_kept], size * 0.7, OTHER, "o", 0.35, raster)
    # In slices, each beginning with another label, so that none lies wholly over the others.
    part = np.random.default_rng(_SLICES_SEED).integers(_SLICES, size=len(xy))
    for i in range(_SLICES):
        for j in np.roll(np.arange(n_kept), i):
            _scatter(axes, xy[(part == i) & (code == j)], size, *look(int(j)), 0.85, raster)


def _scatter(axes: Any, xy: NDArray[Any], size: float, colour: str, shape: str, alpha: float, raster: bool) -> None:
    if len(xy):
        axes.scatter(xy[:, 0], xy[:, 1], s=size, c=colour, marker=shape, alpha=alpha, linewidths=0, rasterized=raster)
