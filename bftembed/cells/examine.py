"""Looking at every value of an expression matrix once: what it is, what it sums to, where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bftembed.cells import compiled
from bftembed.cells.ahead import ahead
from bftembed.cells.compiled import by_rows
from bftembed.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bftembed.cells.rows import Rows
    from bftembed.progress import Progress


@dataclass
class ValueSummary:
    """What one pass over a matrix tells.

    Attributes
    ----------
    totals
        Sum of the values of each cell over all genes, float64 (n_cells,).
    covered
        The same over the genes with an embedding.
    whole
        Whether all finite values are whole numbers.
    largest
        Largest finite value; 0 for an empty matrix.
    n_not_finite, first_not_finite
        How many values are NaN, infinite or beyond float32, and (cell, gene) of the first; None for none.
    n_negative, first_negative
        The same of negative values.
    """

    totals: np.ndarray
    covered: np.ndarray
    whole: bool = True
    largest: float = 0.0
    n_not_finite: int = 0
    first_not_finite: tuple[int, int] | None = None
    n_negative: int = 0
    first_negative: tuple[int, int] | None = None

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
    """A block that was looked at: `indptr` int64 (n + 1,), and per value its `targets` int32 and `values` float32."""

    start: int
    indptr: np.ndarray
    targets: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1


@dataclass(frozen=True)
class Examiner:
    """Looks at every value of every block once.

    Attributes
    ----------
    target_of
        int32 (n_genes,): row of each gene in the gene matrix, -1 for none.
    first
        Position of the first cell of all.
    summary
        What has been seen so far, by position less `first`.
    """

    target_of: np.ndarray
    first: int
    summary: ValueSummary

    def place(self, rows: Rows) -> Placed:
        """Add the block to the summary, and return it with its values in their places."""
        n = len(rows)
        largest, found = np.zeros(n), np.zeros(n, dtype=np.uint8)
        while True:
            values, targets = (np.empty(len(rows.values), dtype=kind) for kind in (np.float32, np.int32))
            part = slice(rows.start - self.first, rows.stop - self.first)
            totals, covered = self.summary.totals[part], self.summary.covered[part]
            seen = (values, targets, totals, covered, largest, found)
            by_rows(compiled.examine, n, rows.indptr, rows.indices, rows.values, self.target_of, *seen)
            flags = int(np.bitwise_or.reduce(found)) if n else 0
            if not flags & compiled.NOT_RISING:
                break
            rows = rows.canonical(len(self.target_of))
        self.summary.whole = self.summary.whole and not flags & compiled.NOT_WHOLE
        self.summary.largest = max(self.summary.largest, float(largest.max(initial=0.0)))
        if flags & (compiled.NOT_FINITE | compiled.NEGATIVE):
            self._note_bad(rows)
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
