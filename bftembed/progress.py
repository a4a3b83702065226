"""Progress callbacks: the library prints nothing by itself."""

from __future__ import annotations

from collections.abc import Callable

#: ``progress(done, total, note)``: items finished, items in all, and a short note ("" for none).
Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, note: str) -> None:
    """Ignore all progress. The default of every library function."""


def duration(seconds: float | None) -> str:
    """Return seconds as hours, minutes and seconds; ``"unknown"`` for None."""
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
