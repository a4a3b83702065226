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
from bftembed.cells.ahead import Behind, ahead
from bftembed.cells.compiled import by_rows
from bftembed.cells.examine import Examiner, Placed, ValueSummary
from bftembed.cells.kernels import Choice, choose
from bftembed.cells.normalize import DEPTH
from bftembed.errors import BftembedError
from bftembed.progress import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bftembed.cells.normalize import Transform
    from bftembed.cells.rows import Rows
    from bftembed.progress import Progress


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
    _outs: list[np.ndarray] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = (self.recipe.block_rows, self.matrix.shape[1])
        self._outs = [np.empty(shape, dtype=np.float32) for _ in range(2)]

    def vectors(self, block: Placed, transform: Transform, totals: np.ndarray) -> np.ndarray:
        """Return the vectors of a block, float32 (n, d), valid until the next call but one; values are used up.

        `totals` float64 (n,) of its cells. A cell whose vector is zero has NaN in every column, one whose sums are
        beyond float32 has infinity in every column.
        """
        indptr, targets, values = block.indptr, block.targets, block.values
        if transform != "none":
            if transform == "clr":
                logs = np.concatenate([[0], np.cumsum(np.log1p(values), dtype=np.float64)])
                factors = np.exp(-np.diff(logs[indptr]) / self.recipe.n_genes)
            else:
                factors = DEPTH / np.where(totals > 0, totals, 1)
            by_rows(compiled.scale, len(block), indptr, values, factors)
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
        self._outs.reverse()  # one is being written
        out = self._outs[0][: len(block)]
        self.choice.kernel(indptr, targets, values, out)
        divisors = np.full(len(block), float(self.recipe.n_genes))
        if self.recipe.matched_denominator:
            by_rows(compiled.row_sums, len(block), indptr, targets, values, divisors)
        by_rows(compiled.finish, len(block), out, divisors, self.recipe.l2)
        return out


def aggregate(
    blocks: Callable[[], Iterator[Rows]],
    target_of: np.ndarray,
    cells: range,
    aggregator: Aggregator,
    sink: Sink,
    *,
    transform_of: Callable[[ValueSummary], Transform],
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
    transform_of
        Says what is done to values that sum up so, or raises.
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
        What `transform_of` raises.
    """
    target_of = target_of.astype(np.int32)
    guess: Transform | None = None
    while True:
        examiner, useless = Examiner(target_of, cells.start, ValueSummary.of(len(cells))), False
        with Behind(sink.write) as writer:
            for rows in ahead(blocks()):
                placed = examiner.place(rows)
                seen = slice(rows.start - cells.start, rows.stop - cells.start)
                if rows.start == cells.start and guess is None:
                    guess = _guess(transform_of, examiner.summary, seen)
                useless = useless or examiner.summary.bad
                useless = useless or (every_cell and bool((examiner.summary.covered[seen] <= 0).any()))
                if guess is not None and not useless:
                    writer(seen.start, aggregator.vectors(placed, guess, examiner.summary.totals[seen]))
                progress(seen.stop, len(cells), "checking values" if useless else "embedding")
        if useless:
            return examiner.summary
        decided = transform_of(examiner.summary)
        if decided == guess:
            return examiner.summary
        guess = decided  # rare: the first block spoke of other values than the rest


def _guess(transform_of: Callable[[ValueSummary], Transform], summary: ValueSummary, seen: slice) -> Transform | None:
    first = ValueSummary(summary.totals[seen], summary.covered[seen], summary.whole, summary.largest)
    try:
        return transform_of(first)
    except BftembedError:
        return None  # all values may say more than these do
