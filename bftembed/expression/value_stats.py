"""Statistics of the values of an expression matrix, in one pass: integers, sums, range, values to reject."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bftembed.errors import BftembedError
from bftembed.expression import compiled
from bftembed.expression.compiled import by_rows
from bftembed.expression.prefetch import ahead
from bftembed.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bftembed.expression.matrix import Rows
    from bftembed.expression.source import Expression
    from bftembed.progress import Progress

#: Cells whose values are kept for `bftembed.expression.normalize.decide`.
_KEPT_CELLS = 200


@dataclass
class ValueSummary:
    """Summary of all values of a matrix, from one pass.

    `totals` and `covered` are float64 (n_cells,): sums of each cell over all genes, and over those with an embedding.
    `whole` says whether all finite values are integers, `largest` is 0 for an empty matrix. Values that are NaN,
    infinite or beyond float32, and negative ones, are counted, with (cell, gene) of the first. `first_cells` are the
    values of some cells, for `bftembed.expression.normalize.decide`.
    """

    totals: np.ndarray
    covered: np.ndarray
    whole: bool = True
    largest: float = 0.0
    n_not_finite: int = 0
    first_not_finite: tuple[int, int] | None = None
    n_negative: int = 0
    first_negative: tuple[int, int] | None = None
    first_cells: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def of(cls, n_cells: int) -> ValueSummary:
        """Return the summary of nothing yet."""
        return cls(np.zeros(n_cells), np.zeros(n_cells))

    @property
    def bad(self) -> bool:
        """Whether there are values that cannot be weights."""
        return bool(self.n_not_finite or self.n_negative)


@dataclass(frozen=True)
class Placed:
    """An examined block: `indptr` int64 (n + 1,), and per value its `targets` int32 and `values` float32."""

    start: int
    indptr: np.ndarray
    targets: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1


@dataclass(frozen=True)
class Examiner:
    """Looks at every value of every block once, and adds what it sees to `summary`.

    `target_of` int32 (n_genes,) has the row of each gene in the gene matrix, -1 for none; `first` is the position of
    the first cell of all, that of `summary`.
    """

    target_of: np.ndarray
    first: int
    summary: ValueSummary

    def place(self, rows: Rows) -> Placed:
        """Add the block to the summary, and return it with its values in their places."""
        n, summary = len(rows), self.summary
        largest, found = np.zeros(n), np.zeros(n, dtype=np.uint8)
        while True:
            values, targets = (np.empty(len(rows.values), dtype=kind) for kind in (np.float32, np.int32))
            part = slice(rows.start - self.first, rows.stop - self.first)
            seen = (values, targets, summary.totals[part], summary.covered[part], largest, found)
            by_rows(compiled.examine, n, rows.indptr, rows.indices, rows.values, self.target_of, *seen)
            flags = int(np.bitwise_or.reduce(found)) if n else 0
            if not flags & compiled.NOT_SORTED:
                break
            rows = rows.canonical(len(self.target_of))
        summary.whole = summary.whole and not flags & compiled.NOT_WHOLE
        summary.largest = max(summary.largest, float(largest.max(initial=0.0)))
        if flags & (compiled.NOT_FINITE | compiled.NEGATIVE):
            self._note_bad(rows)
        for row in range(min(n, _KEPT_CELLS - len(summary.first_cells))):
            summary.first_cells.append(rows.values[rows.indptr[row] : rows.indptr[row + 1]].copy())
        return Placed(rows.start, rows.indptr, targets, values)

    def _note_bad(self, rows: Rows) -> None:
        largest = np.finfo(np.float32).max
        for kind, wrong in (("not_finite", ~(np.abs(rows.values) <= largest)), ("negative", rows.values < 0)):
            if not wrong.any():
                continue
            at = int(np.argmax(wrong))
            cell = int(np.searchsorted(rows.indptr, at, side="right")) - 1
            n, first = getattr(self.summary, f"n_{kind}"), getattr(self.summary, f"first_{kind}")
            setattr(self.summary, f"n_{kind}", n + int(wrong.sum()))
            setattr(self.summary, f"first_{kind}", first or (rows.start + cell, int(rows.indices[at])))


def summarize(
    blocks: Iterable[Rows], target_of: np.ndarray, cells: range, *, progress: Progress = silent
) -> ValueSummary:
    """Look at every value of `cells` once; see `ValueSummary`."""
    examiner = Examiner(target_of.astype(np.int32), cells.start, ValueSummary.of(len(cells)))
    for rows in ahead(blocks):
        examiner.place(rows)
        progress(rows.stop - cells.start, len(cells), "checking values")
    return examiner.summary


def reject_bad_values(values: ValueSummary, expression: Expression) -> None:
    """Raise for values that are not expression: not finite, or negative.

    Raises
    ------
    BftembedError
        With their number, the first of them, and other matrices to take.
    """
    for n, first, what in (
        (values.n_not_finite, values.first_not_finite, "NaN, infinite or beyond float32"),
        (values.n_negative, values.first_negative, "negative"),
    ):
        if first is None:
            continue
        (cell,), gene = expression.cell_names(range(first[0], first[0] + 1)), expression.genes[first[1]]
        remedy = f"Other matrices here: {'; '.join(expression.others)}." if expression.others else "They cannot weight."
        raise BftembedError(
            f"{expression.where}: {n} values are {what}, the first in cell {cell!r} (row {first[0]}), gene {gene!r} "
            f"(column {first[1]}). {remedy}"
        )
