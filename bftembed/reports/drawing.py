"""What every figure here looks like, and how it is written."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.io import atomic_path

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure

INK, GRID = "#22262b", "#d9dce0"
SUFFIXES = (".png", ".svg")


def new_figure(width: float, height: float, title: str) -> Figure:
    """Return an empty figure of that many inches, with its title on the left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    if title:
        figure.suptitle(title, fontsize=10, color=INK, x=0.01, ha="left")
    return figure


def style(axes: Any, ink: str = INK) -> None:
    """Draw the left and lower spine alone, and all in one colour."""
    axes.tick_params(color=ink, labelcolor=ink, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set(color=ink, alpha=0.45, visible=side in ("left", "bottom"))
    axes.xaxis.label.set(color=ink, size=9)
    axes.yaxis.label.set(color=ink, size=9)


def save_png(figure: Figure, path: str | os.PathLike[str], *, dpi: int) -> None:
    """Write a PNG file, whole or not at all; texts are shown as they are, with two $ in them too.

    Raises
    ------
    BftembedError
        When it cannot be written.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that matplotlib's font lacks
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})


def figure_suffix(path: str | os.PathLike[str]) -> str:
    """Return ``".png"`` or ``".svg"``, whatever its case; refuse another."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise BftembedError(f"{path}: a figure is written as .png or .svg, not as {suffix or 'no suffix'!r}.")
    return suffix


def save_svg(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write an SVG file, whole or not at all; equal figures give equal bytes."""
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    settings = {"svg.hashsalt": "bftembed"}
    with atomic_path(path) as temporary, matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that matplotlib's font lacks
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> None:
    """Write a PNG or SVG file, as its suffix says; see `save_png` and `save_svg`."""
    if figure_suffix(path) == ".png":
        save_png(figure, path, dpi=dpi)
    else:
        save_svg(figure, path)
