"""Tables of scores as text."""

from __future__ import annotations

import io
import math
import shutil
import sys
from typing import TYPE_CHECKING, Any

from bftembed.report.table import SUBJECT_KINDS, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bftembed.report.table import Cell, Column, Table

#: Characters per line where the output is not a terminal.
WIDTH = 160
MAX_NAME = 40


def text(tables: Iterable[Table], width: int | None = None) -> str:
    """Return tables as text: means above their intervals, one column per metric, footnotes below.

    Parameters
    ----------
    tables
        What to show.
    width
        Number of characters per line; None is that of the terminal, or 160 where there is none.
    """
    from rich.console import Console

    terminal = sys.stdout.isatty()
    wide = width or (shutil.get_terminal_size((WIDTH, 24)).columns if terminal else WIDTH)
    written = io.StringIO()
    console = Console(file=written, width=wide, force_terminal=terminal, highlight=False, markup=False, emoji=False)
    for i, table in enumerate(tables):
        if i:
            console.print()
        _print(console, table.plain(), wide)
    return written.getvalue().rstrip("\n")


def _print(console: Any, table: Table, width: int) -> None:
    from rich import box
    from rich.table import Table as Grid

    console.print(table.title, style="bold")
    names = [f"{row.name} ({row.kind})" if row.kind not in ("subject", row.name) else row.name for row in table.rows]
    left = min(MAX_NAME, max(map(len, names), default=0))
    for columns in _fitting(table.columns, width - left):
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
        grid.add_column("", overflow="fold", min_width=left, max_width=MAX_NAME)
        for column in columns:
            grid.add_column("\n".join(filter(None, (column.group, column.title))), justify="right", no_wrap=True)
        for name, row in zip(names, table.rows, strict=True):
            cells = [_cell(row.cells.get(c.key), c, table.is_best(row, c)) for c in columns]
            grid.add_row(name, *cells, style="" if row.kind in SUBJECT_KINDS else "dim")
        console.print(grid)
    notes = [f"{row.name}: {row.note}" for row in table.rows if row.note]
    for line in (*table.conclusions, *table.footnotes, *notes):
        console.print(line)


def _fitting(columns: Sequence[Column], width: int) -> list[list[Column]]:
    """Return the columns in parts that fit beside the names."""
    parts: list[list[Column]] = [[]]
    used = 0
    for column in columns:
        size = 3 + max(len(column.title), len(column.group), 14 if column.signed else 9)
        if parts[-1] and used + size > width:
            parts.append([])
            used = 0
        parts[-1].append(column)
        used += size
    return parts


def _cell(cell: Cell | None, column: Column, best: bool) -> str:
    if cell is None:
        return ""
    if math.isnan(cell.value):
        return cell.text or "–"
    # The best value of a column is marked without color, so that a log file shows it too.
    shown = number(cell.value, column.digits, column.signed) + ("*" if best else "")
    ends = "" if math.isnan(cell.low) else f"{_short(cell.low, column)}, {_short(cell.high, column)}"
    return "\n".join(filter(None, (shown, ends, cell.text)))


def _short(value: float, column: Column) -> str:
    text = number(value, min(column.digits, 2), column.signed)
    return text.replace("0.", ".", 1) if abs(value) < 0.995 and "." in text else text
