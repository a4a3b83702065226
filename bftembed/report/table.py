"""The table of scores that every task gives and every renderer takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    """A column of scores.

    Attributes
    ----------
    key
        Name of the column in `Row.cells`.
    title
        Header.
    group
        Header above neighboring columns of the same group, ``""`` for none.
    better
        Which values are better: ``"higher"``, ``"lower"`` or ``""``. Decides the cell that is marked as best.
    digits
        Number of decimals.
    limits
        Range of the axis in figures; None leaves it to the data.
    signed
        Whether values are differences, shown with their sign.
    drawn
        Whether figures have a panel of it.
    """

    key: str
    title: str
    group: str = ""
    better: Literal["higher", "lower", ""] = "higher"
    digits: int = 3
    limits: tuple[float, float] | None = None
    signed: bool = False
    drawn: bool = True


@dataclass(frozen=True, slots=True)
class Cell:
    """A score with its 95 % interval; NaN where there is none.

    Attributes
    ----------
    value, low, high
        The score and the ends of its interval.
    text
        Shown after the number, or in place of a value that is NaN.
    """

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
    """Scores of one run under one protocol.

    Attributes
    ----------
    title
        What was scored on which data.
    columns, rows
        In the order in which they are shown.
    conclusions
        What the scores say, in sentences; shown above the table.
    footnotes
        What the table does not show: intervals, items left out, why a value is missing.
    published
        Whether the scores were published by others on other data.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    conclusions: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()
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

    def plain(self) -> Table:
        """Return the table with all texts free of control characters, which a model or a file may emit."""
        return self.changed(printable)

    def changed(self, change: Callable[[str], str]) -> Table:
        """Return the table with all of its texts changed by a function."""
        columns = (replace(c, title=change(c.title), group=change(c.group)) for c in self.columns)
        rows = (
            Row(
                change(r.name), {k: replace(c, text=change(c.text)) for k, c in r.cells.items()}, r.kind, change(r.note)
            )
            for r in self.rows
        )
        notes = tuple(map(change, self.conclusions)), tuple(map(change, self.footnotes))
        return Table(change(self.title), tuple(columns), tuple(rows), *notes, self.published)

    def frame(self) -> pd.DataFrame:
        """Return the table as a DataFrame of formatted cells for papers: index the rows, columns (group, title)."""
        import pandas as pd

        data = [[formatted(row.cells.get(c.key), c) for c in self.columns] for row in self.rows]
        index = pd.Index([row.name for row in self.rows], name="")
        if any(c.group for c in self.columns):
            return pd.DataFrame(data, index, pd.MultiIndex.from_tuples([(c.group, c.title) for c in self.columns]))
        return pd.DataFrame(data, index, pd.Index([c.title for c in self.columns]))


def printable(text: str) -> str:
    """Return a text with its control characters escaped."""
    return text if text.isprintable() else ascii(text)[1:-1]


def number(value: float, digits: int = 3, signed: bool = False) -> str:
    """Return a score with so many decimals, never minus zero; a dash for NaN."""
    if math.isnan(value):
        return "–"
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def interval(cell: Cell, column: Column) -> str:
    """Return the ends of the interval of a cell, ``"0.498, 0.526"``; empty without one."""
    if math.isnan(cell.low) or math.isnan(cell.high):
        return ""
    return f"{number(cell.low, column.digits, column.signed)}, {number(cell.high, column.digits, column.signed)}"


def formatted(cell: Cell | None, column: Column) -> str:
    """Return a cell on one line: ``"0.512 [0.498, 0.526]"``."""
    if cell is None:
        return ""
    if math.isnan(cell.value):
        return cell.text or "–"
    ends = interval(cell, column)
    return " ".join(x for x in (number(cell.value, column.digits, column.signed), ends and f"[{ends}]", cell.text) if x)


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
        escaped = [t.changed(_latex) for t in tables]
        write_text(path, "\n".join(t.frame().style.to_latex(caption=t.title, hrules=True) for t in escaped))
    else:
        write_text(path, "\n".join(f"## {t.title}\n\n{_markdown(t)}\n" for t in tables))


def _markdown(table: Table) -> str:
    head = ["", *(f"{c.group} {c.title}".strip() for c in table.columns)]
    body = [[row.name, *(formatted(row.cells.get(c.key), c) for c in table.columns)] for row in table.rows]
    lines = [[text.replace("|", "\\|") for text in line] for line in (head, ["---"] * len(head), *body)]
    notes = "".join(f"\n{note}\n" for note in (*table.conclusions, *table.footnotes))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n" + notes


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
