"""A score as a dot, and its interval as a bar."""

from __future__ import annotations

import math
from typing import Any


def draw_dot(
    axes: Any,
    y: float,
    mean: float,
    low: float,
    high: float,
    *,
    colour: str,
    shape: str,
    face: str | None = None,
    size: float = 5.5,
) -> None:
    """Draw a mean at height `y`, and the bar from `low` to `high` where these are not NaN; a `face` fills the dot."""
    if not math.isnan(low):
        axes.plot([low, high], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt")
    axes.plot(
        [mean],
        [y],
        color=colour,
        marker=shape,
        markersize=size,
        markerfacecolor=face or colour,
        markeredgecolor=colour,
        markeredgewidth=1.4,
        linestyle="none",
    )
