"""Figures laid out in inches: how wide a text is, names made to fit, and where things stand on the page."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from bftembed.reports.drawing import INK
from bftembed.reports.integration import plain

_POINTS_PER_INCH = 72
# On a grid of pixels letters come out wider than their outlines.
_HINTING = 1.05
_LONGEST = 500


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Return how many inches a line of text takes in matplotlib's font, at `size` points; a little more than less."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that the font lacks
        font = FontProperties(size=size, weight=weight)
        width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return _HINTING * float(width) / _POINTS_PER_INCH


def fitted(text: str, size: float, inches: float, weight: str = "normal") -> str:
    """Return a text without control characters; one too wide for `inches` keeps both ends around an ellipsis."""
    text = plain(text)
    if len(text) <= _LONGEST and text_width(text, size, weight) <= inches:
        return text
    low, high = 1, min(len(text), _LONGEST)
    while low < high:  # the most letters that fit
        most = (low + high + 1) // 2
        low, high = (most, high) if text_width(middle(text, most), size, weight) <= inches else (low, most - 1)
    return middle(text, low)


def middle(text: str, most: int) -> str:
    """Return a text of at most `most` letters: a longer one keeps both ends around an ellipsis."""
    if len(text) <= most:
        return text
    end = most // 2
    return f"{text[: max(most - end - 1, 0)]}…{text[len(text) - end :]}"


@dataclass(frozen=True)
class Page:
    """A figure that is measured in inches from its upper left corner."""

    figure: Any
    width: float
    height: float

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        """Add axes with the upper left corner at (x, y)."""
        bottom = 1 - (y + height) / self.height
        return self.figure.add_axes((x / self.width, bottom, width / self.width, height / self.height))

    def write(self, x: float, y: float, text: str, *, size: float, **more: Any) -> None:
        """Write a line that begins at x, its middle at height y; `more` goes to matplotlib."""
        self.figure.text(x / self.width, 1 - y / self.height, text, fontsize=size, color=INK, va="center", **more)
