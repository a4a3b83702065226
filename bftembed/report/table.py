"""The table of scores that every task gives and every renderer takes, and its forms as text."""

from __future__ import annotations

import io
import math
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

#: What a row of results is of, in the order in which tables show them. The first three are embeddings or models under
#: test (the last two of them with the label masked in the texts, or without the texts that state it), ``reference`` is
#: another method, the next three know less than a text does, ``chance`` and ``upper-bound`` limit the score.
KINDS: tuple[str, ...] = (
    *("subject", "label-masked", "label-removed"),
    *("reference", "baseline", "shuffled", "random"),
    *("chance", "upper-bound"),
)
#: Kinds that are under test.
SUBJECT_KINDS = KINDS[:3]
#: Kinds that a subject has to exceed.
BASELINE_KINDS = ("baseline", "shuffled", "random")
#: Kinds that limit the score.
LIMITS = ("chance", "upper-bound")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of scores."""

    #: Name of the column in `Row.cells`.
    key: str
    title: str
    #: Header above neighboring columns of the same group, ``""`` for none.
    group: str = ""
    #: Which values are better. Decides the cell that is marked as best.
    better: Literal["higher", "lower", ""] = "higher"
    #: Number of decimals.
    digits: int = 3
    #: Range of the axis in figures; None leaves it to the data.
    limits: tuple[float, float] | None = None
    #: Whether values are differences, shown with their sign.
    signed: bool = False
    #: Whether figures have a panel of it.
    drawn: bool = True

    def number(self, value: float) -> str:
        """Return a value with the decimals of the column."""
        return number(value, self.digits, self.signed)

    def interval(self, cell: Cell) -> str:
        """Return the ends of the interval of a cell, ``"0.498, 0.526"``; empty without one."""
        known = not (math.isnan(cell.low) or math.isnan(cell.high))
        return f"{self.number(cell.low)}, {self.number(cell.high)}" if known else ""

    def line(self, cell: Cell | None) -> str:
        """Return a cell on one line: ``"0.512 [0.498, 0.526]"``."""
        if cell is None or math.isnan(cell.value):
            return "" if cell is None else cell.text or "–"
        ends = self.interval(cell)
        return " ".join(filter(None, (self.number(cell.value), ends and f"[{ends}]", cell.text)))


@dataclass(frozen=True, slots=True)
class Cell:
    """A score with the ends of its 95 % interval, NaN where there is none; `text` is shown after or in place of it."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    text: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row: what was scored, of which of `KINDS`, and a cell per column that it has."""

    name: str
    cells: Mapping[str, Cell]
    kind: str = "subject"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Scores of one run under one protocol; columns and rows in the order in which they are shown."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    #: What the scores say, in sentences; shown above the table.
    conclusions: tuple[str, ...] = ()
    #: What the table does not show: intervals, items left out, why a value is missing.
    footnotes: tuple[str, ...] = ()
    #: Whether the scores were published by others on other data.
    published: bool = False

    def is_best(self, row: Row, column: Column) -> bool:
        """Return whether a row has the best value of a column."""
        cell = row.cells.get(column.key)
        return cell is not None and row.kind not in LIMITS and cell.value == self.best(column)

    def best(self, column: Column) -> float:
        """Return the best value of a column among all rows but chance and upper bounds; NaN for none."""
        cells = [r.cells[column.key] for r in self.rows if column.key in r.cells and r.kind not in LIMITS]
        finite = [c.value for c in cells if not math.isnan(c.value)]
        if not finite or not column.better:
            return math.nan
        return max(finite) if column.better == "higher" else min(finite)

    def frame(self) -> pd.DataFrame:
        """Return the table as a DataFrame of formatted cells for papers: index the rows, columns (group, title)."""
        import pandas as pd

        data = [[c.line(row.cells.get(c.key)) for c in self.columns] for row in self.rows]
        titles = pd.MultiIndex.from_tuples([(c.group, c.title) for c in self.columns])
        columns = titles if any(c.group for c in self.columns) else titles.get_level_values(1)
        return pd.DataFrame(data, pd.Index([row.name for row in self.rows], name=""), columns)


def printable(text: str) -> str:
    """Return a text with its control characters escaped."""
    return text if text.isprintable() else ascii(text)[1:-1]


def number(value: float, digits: int = 3, signed: bool = False) -> str:
    """Return a score with so many decimals, never minus zero; a dash for NaN."""
    if math.isnan(value):
        return "–"
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def write_tables(tables: list[Table], path: Any) -> None:
    """Write tables as CSV, LaTeX or Markdown, by the suffix ``.csv``, ``.tex`` or ``.md``, atomically.

    CSV has one line per score: table, row, kind, column, value, low, high, note.
    """
    import pandas as pd

    from bftembed.io import write_text

    suffix = str(path).rpartition(".")[2].lower()
    if suffix == "csv":
        lines = [
            (t.title, r.name, r.kind, c.key, cell.value, cell.low, cell.high, cell.text or r.note)
            for t in tables
            for r in t.rows
            for c in t.columns
            if (cell := r.cells.get(c.key))
        ]
        header = ["table", "row", "kind", "column", "value", "low", "high", "note"]
        write_text(path, pd.DataFrame(lines, columns=header).to_csv(index=False))
    elif suffix == "tex":
        write_text(path, "\n".join(f"% {printable(t.title)}\n{t.frame().to_latex(escape=True)}" for t in tables))
    else:
        write_text(path, "\n".join(f"## {t.title}\n\n{_markdown(t)}\n" for t in tables))


def _markdown(table: Table) -> str:
    frame = table.frame()
    head = ["", *(" ".join(filter(None, [name] if isinstance(name, str) else name)) for name in frame.columns)]
    body = [[str(name), *cells] for name, cells in zip(frame.index, frame.to_numpy(), strict=True)]
    lines = [[text.replace("|", "\\|") for text in line] for line in (head, ["---"] * len(head), *body)]
    notes = "".join(f"\n{note}\n" for note in (*table.conclusions, *table.footnotes))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n" + notes


#: Characters per line where the output is not a terminal.
_WIDTH = 160
_MAX_NAME = 40


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
    wide = width or (shutil.get_terminal_size((_WIDTH, 24)).columns if terminal else _WIDTH)
    written = io.StringIO()
    console = Console(file=written, width=wide, force_terminal=terminal, highlight=False, markup=False, emoji=False)
    for i, table in enumerate(tables):
        if i:
            console.print()
        _print(console, table, wide)
    return written.getvalue().rstrip("\n")


def _print(console: Any, table: Table, width: int) -> None:
    from rich import box
    from rich.table import Table as Grid

    console.print(printable(table.title), style="bold")
    names = [printable(row.name) + f" ({row.kind})" * (row.kind not in ("subject", row.name)) for row in table.rows]
    left = min(_MAX_NAME, max(map(len, names), default=0))
    for columns in _fitting(table.columns, width - left):
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
        grid.add_column("", overflow="fold", min_width=left, max_width=_MAX_NAME)
        for column in columns:
            grid.add_column("\n".join(filter(None, (column.group, column.title))), justify="right", no_wrap=True)
        for name, row in zip(names, table.rows, strict=True):
            cells = [_cell(row.cells.get(c.key), c, table.is_best(row, c)) for c in columns]
            grid.add_row(name, *cells, style="" if row.kind in SUBJECT_KINDS else "dim")
        console.print(grid)
    notes = [f"{row.name}: {row.note}" for row in table.rows if row.note]
    for line in (*table.conclusions, *table.footnotes, *notes):
        console.print(printable(line))


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
        return printable(cell.text) or "–"
    # The best value of a column is marked without color, so that a log file shows it too.
    shown = column.number(cell.value) + ("*" if best else "")
    ends = "" if math.isnan(cell.low) else f"{_short(cell.low, column)}, {_short(cell.high, column)}"
    return "\n".join(filter(None, (shown, ends, printable(cell.text))))


def _short(value: float, column: Column) -> str:
    text = number(value, min(column.digits, 2), column.signed)
    return text.replace("0.", ".", 1) if abs(value) < 0.995 and "." in text else text
