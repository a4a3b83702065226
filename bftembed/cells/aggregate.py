"""Expression times gene embeddings, block by block, in one pass over the values.

For cell c with values x (n_genes,), after the normalisation f of `bftembed.cells.normalize` and the weighting w of
`bftembed.cells.weighting`,

    vector(c) = sum over genes g with an embedding of w(f(x))[g] · matrix[row(g)] / denominator(c)

which is GenePT-w with ``w = f`` and ``denominator = n_genes``. Memory is a few blocks of cells beside the matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from bftembed.cells import compiled
from bftembed.cells.ahead import ahead
from bftembed.cells.compiled import by_rows
from bftembed.cells.kernels import Choice, choose
from bftembed.errors import BftembedError
from bftembed.progress import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bftembed.cells.rows import Rows
    from bftembed.progress import Progress

#: The depth that `log1p-cp10k` scales a cell to.
DEPTH = 1e4


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


class Sink(Protocol):
    """Where vectors go."""

    def write(self, start: int, vectors: np.ndarray) -> None:
        """Take float32 (n, d) vectors of the cells from `start`, counted from the first of the run.

        The array is used again afterwards.
        """


@dataclass(frozen=True)
class Recipe:
    """How values become weights, and sums become vectors.

    Attributes
    ----------
    weigh
        Changes values in place and may set targets to -1, given `indptr`, `targets` and `values` of a block; None
        leaves them.
    matched_denominator
        Divide by the cell's sum of weights, instead of by `n_genes`.
    n_genes
        Number of all genes.
    l2
        Scale each vector to length 1 in the end.
    precision, kernel
        See `bftembed.cells.kernels.choose`.
    block_rows
        Most cells of a block.
    """

    n_genes: int
    weigh: Callable[[np.ndarray, np.ndarray, np.ndarray], None] | None = None
    matched_denominator: bool = False
    l2: bool = True
    precision: str = "fast"
    kernel: str | None = None
    block_rows: int = 2048


@dataclass
class Aggregator:
    """Multiplies one block after the other.

    Attributes
    ----------
    matrix
        Gene embeddings, float32 (n_targets, d), C-contiguous.
    n_cells
        Cells of the run.
    recipe
        See `Recipe`.
    choice
        The kernel, once the first block has been seen.
    """

    matrix: np.ndarray
    n_cells: int
    recipe: Recipe
    choice: Choice | None = None
    _out: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._out = np.empty((self.recipe.block_rows, self.matrix.shape[1]), dtype=np.float32)

    def vectors(self, block: Placed, totals: np.ndarray | None) -> np.ndarray:
        """Return the vectors of a block, float32 (n, d), valid until the next call; values are used up.

        `totals` float64 (n,) of its cells for log1p(10,000 · value / total); None takes values as they are. A cell
        whose vector is zero has NaN in every column, one whose sums are beyond float32 has infinity in every column.
        """
        indptr, targets, values = block.indptr, block.targets, block.values
        if totals is not None:
            by_rows(compiled.scale, len(block), indptr, values, DEPTH / np.where(totals > 0, totals, 1))
            np.log1p(values, out=values)
        if self.recipe.weigh is not None:
            self.recipe.weigh(indptr, targets, values)
        if self.choice is None:
            self.choice = choose(
                self.matrix,
                self.recipe.block_rows,
                self.n_cells,
                (indptr, targets, values),
                precision=self.recipe.precision,
                asked=self.recipe.kernel,
            )
        out = self._out[: len(block)]
        self.choice.kernel(indptr, targets, values, out)
        divisors = np.full(len(block), float(self.recipe.n_genes))
        if self.recipe.matched_denominator:
            by_rows(compiled.row_sums, len(block), indptr, targets, values, divisors)
        by_rows(compiled.finish, len(block), out, divisors, self.recipe.l2)
        return out


def summarize(
    blocks: Iterable[Rows], target_of: np.ndarray, cells: range, *, progress: Progress = silent
) -> ValueSummary:
    """Look at every value of `cells` once; see `ValueSummary`."""
    examiner = Examiner(target_of.astype(np.int32), cells.start, ValueSummary.of(len(cells)))
    for rows in ahead(blocks):
        examiner.place(rows)
        progress(rows.stop - cells.start, len(cells), "checking values")
    return examiner.summary


def aggregate(
    blocks: Callable[[], Iterator[Rows]],
    target_of: np.ndarray,
    cells: range,
    aggregator: Aggregator,
    sink: Sink,
    *,
    log1p_of: Callable[[ValueSummary], bool],
    every_cell: bool = False,
    progress: Progress = silent,
) -> ValueSummary:
    """Embed cells in one pass, where what the first block says of the values holds for all of them; else in two.

    Parameters
    ----------
    blocks
        Gives the matrix in blocks, from the beginning at each call.
    target_of
        int (n_genes,): row of each gene in the matrix of `aggregator`, -1 for none; no two genes share one.
    cells
        Which cells `blocks` gives.
    aggregator
        Multiplies.
    sink
        Takes the vectors; those of a cell may come twice, the later ones count.
    log1p_of
        Says whether values that sum up so are to be scaled and logged, or raises.
    every_cell
        Whether a cell that expresses no gene with an embedding makes the vectors useless.
    progress
        Told the cells that are done.

    Returns
    -------
    ValueSummary
        Of all values. Where it has bad ones, or cells that must not be, what `sink` holds is not whole: the rest was
        looked at, and not multiplied.

    Raises
    ------
    BftembedError
        What `log1p_of` raises.
    """
    target_of = target_of.astype(np.int32)
    logs: bool | None = None
    while True:
        examiner, useless = Examiner(target_of, cells.start, ValueSummary.of(len(cells))), False
        for rows in ahead(blocks()):
            placed = examiner.place(rows)
            seen = slice(rows.start - cells.start, rows.stop - cells.start)
            if rows.start == cells.start and logs is None:
                logs = _guess(log1p_of, examiner.summary, seen)
            useless = useless or examiner.summary.bad
            useless = useless or (every_cell and bool((examiner.summary.covered[seen] <= 0).any()))
            if logs is not None and not useless:
                totals = examiner.summary.totals[seen] if logs else None
                sink.write(seen.start, aggregator.vectors(placed, totals))
            progress(seen.stop, len(cells), "checking values" if useless else "embedding")
        if useless:
            return examiner.summary
        decided = log1p_of(examiner.summary)
        if decided == logs:
            return examiner.summary
        logs = decided  # rare: the first block spoke of other values than the rest


def _guess(log1p_of: Callable[[ValueSummary], bool], summary: ValueSummary, seen: slice) -> bool | None:
    first = ValueSummary(summary.totals[seen], summary.covered[seen], summary.whole, summary.largest)
    try:
        return log1p_of(first)
    except BftembedError:
        return None  # all values may say more than these do
