"""Scores as text."""

from __future__ import annotations

import math
from typing import Any


def decimal(value: Any, digits: int = 3) -> str:
    """Return a score with so many decimal places, never minus zero; a dash for NaN."""
    if math.isnan(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def with_ends(value: Any, low: Any, high: Any) -> str:
    """Return a score and its interval, ``"0.512 [0.498, 0.526]"``; without an interval (NaN) the score alone."""
    return decimal(value) if math.isnan(low) else f"{decimal(value)} [{decimal(low)}, {decimal(high)}]"
