"""How long work tells how far it is: a callable, so that the library prints nothing by itself."""

from __future__ import annotations

from collections.abc import Callable

#: ``progress(done, total, note)``: items finished, items in all, and a short note ("" for none).
Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, note: str) -> None:
    """Ignore all progress. The default of every library function."""
