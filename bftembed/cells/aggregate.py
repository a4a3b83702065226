"""Expression times gene embeddings, block by block, in one pass over the values.

For cell c with values x (n_genes,), after the normalization f of `bftembed.expression.normalize` and the weighting w,

    vector(c) = sum over genes g with an embedding of w(f(x))[g] · matrix[row(g)] / denominator(c)

which is GenePT-w with ``w = f`` and ``denominator = n_genes``. Memory is a few blocks of cells beside the matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from bftembed.cells.kernels import Kernel, checked_kernel
from bftembed.errors import BftembedError
from bftembed.expression import compiled
from bftembed.expression.compiled import by_rows
from bftembed.expression.normalize import DEPTH
from bftembed.expression.prefetch import Behind, ahead
from bftembed.expression.value_stats import Examiner, Placed, ValueSummary
from bftembed.progress import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from bftembed.expression.matrix import Rows
    from bftembed.expression.normalize import Transform
    from bftembed.progress import Progress

Weights = Literal["expression", "rank", "idf"]
WEIGHTS: tuple[Weights, ...] = ("expression", "rank", "idf")


class Sink(Protocol):
    """Destination of vectors."""

    def write(self, start: int, vectors: np.ndarray) -> None:
        """Take float32 (n, d) vectors of the cells from `start`, counted from the first of the run.

        The array is used again afterwards.
        """


class Method(Protocol):
    """A way from the values of a block of cells to vectors.

    `target_of` int32 (n_genes,) is -1 for genes that do not count.
    """

    target_of: np.ndarray

    def vectors(self, rows: Rows, placed: Placed, transform: Transform, totals: np.ndarray) -> np.ndarray:
        """Return float32 (n, d), valid until the next call but one: NaN in every column of a cell without a vector.

        `placed` holds the values of `rows` by their target, and may be changed; `totals` float64 (n,) of the cells. A
        cell whose vector is beyond float32 has infinity in every column.
        """

    @property
    def dim(self) -> int:
        """Number of dimensions."""

    def covered(self, values: ValueSummary) -> np.ndarray:
        """Return the sum of each cell's values in genes that were used, float64 (n_cells,)."""


def embed_blocks(
    blocks: Callable[[], Iterator[Rows]],
    cells: range,
    method: Method,
    sink: Sink,
    *,
    transform_of: Callable[[ValueSummary], Transform],
    every_cell: bool = False,
    look_first: bool = False,
    progress: Progress = silent,
) -> ValueSummary:
    """Embed cells in one pass, where what the first block says of the values holds for all of them; else in two.

    Parameters
    ----------
    blocks
        Gives the matrix in blocks, from the beginning at each call.
    cells
        Which cells `blocks` gives.
    method, sink
        Make and take the vectors; those of a cell may come twice, the later ones count.
    transform_of
        Decides the normalization from a summary of values, or raises.
    every_cell
        Whether a cell that expresses no gene with an embedding makes the vectors useless.
    look_first
        Look at all values before any vector is made, for methods that are slower than reading.
    progress
        Called with the number of cells done.

    Returns
    -------
    ValueSummary
        Of all values. Where it has bad ones, or cells that must not be, the vectors in `sink` are incomplete.
    """
    guess: Transform | None = None
    n_passes = 0
    while True:
        examiner, useless = Examiner(method.target_of, cells.start, ValueSummary.of(len(cells))), False
        summary = examiner.summary
        with Behind(sink.write) as writer:
            for rows in ahead(blocks()):
                placed = examiner.place(rows)
                seen = slice(rows.start - cells.start, rows.stop - cells.start)
                if seen.start == 0 and n_passes == 0 and not look_first:
                    guess = _guess(transform_of, summary, seen)
                useless = useless or summary.bad
                useless = useless or (every_cell and bool((summary.covered[seen] <= 0).any()))
                embeds = guess is not None and not useless
                if embeds:
                    writer(seen.start, method.vectors(rows, placed, guess, summary.totals[seen]))  # type: ignore[arg-type]
                progress(seen.stop, len(cells), "embedding" if embeds else "checking values")
        if useless:
            return summary
        decided = transform_of(summary)
        if decided == guess:
            return summary
        guess, n_passes = decided, n_passes + 1  # rare: the first block spoke of other values than the rest


def _guess(transform_of: Callable[[ValueSummary], Transform], summary: ValueSummary, seen: slice) -> Transform | None:
    first = replace(summary, totals=summary.totals[seen], covered=summary.covered[seen])
    try:
        return transform_of(first)
    except BftembedError:
        return None  # all values may say more than these do


@dataclass
class Aggregator:
    """Weighted sums of gene vectors, a `Method`.

    Attributes
    ----------
    matrix
        Gene embeddings, float32 (n_targets, d), C-contiguous.
    target_of
        int32 (n_genes,): row of each gene in `matrix`, -1 for none; no two genes share one.
    kernel_name, requested, precision
        See `bftembed.cells.kernels.checked_kernel`; `kernel` is what it gave for the first block.
    weigh
        None for the normalized values themselves.
    matched_denominator
        Divide by the cell's sum of weights, instead of by the number of all genes.
    l2
        Scale each vector to length 1 in the end.
    block_rows
        Maximum number of cells of a block.
    """

    matrix: np.ndarray
    target_of: np.ndarray
    kernel_name: str
    requested: bool = False
    weigh: Weighting | None = None
    matched_denominator: bool = False
    l2: bool = True
    precision: str = "fast"
    block_rows: int = 2048
    kernel: Kernel | None = None
    _outs: list[np.ndarray] = field(default_factory=list)

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return int(self.matrix.shape[1])

    def covered(self, values: ValueSummary) -> np.ndarray:
        """See `Method`."""
        return values.covered

    def vectors(self, rows: Rows, placed: Placed, transform: Transform, totals: np.ndarray) -> np.ndarray:
        """See `Method`; the values of `placed` are used up."""
        indptr, targets, values = placed.indptr, placed.targets, placed.values
        n_genes = len(self.target_of)
        if transform != "none":
            if transform == "clr":
                logs = np.concatenate([[0], np.cumsum(np.log1p(values), dtype=np.float64)])
                factors = np.exp(-np.diff(logs[indptr]) / n_genes)
            else:
                factors = DEPTH / np.where(totals > 0, totals, 1)
            by_rows(compiled.scale, len(placed), indptr, values, factors)
            np.log1p(values, out=values)
        if self.weigh is not None:
            self.weigh(indptr, targets, values)
        if self.kernel is None:
            block = (indptr, targets, values)
            self.kernel = checked_kernel(
                self.kernel_name,
                self.matrix,
                self.block_rows,
                block,
                precision=self.precision,
                requested=self.requested,
            )
            self._outs = [np.empty((self.block_rows, self.dim), dtype=np.float32) for _ in range(2)]
        self._outs.reverse()  # one is being written
        out = self._outs[0][: len(placed)]
        self.kernel(indptr, targets, values, out)
        divisors = np.full(len(placed), float(n_genes))
        if self.matched_denominator:
            by_rows(compiled.row_sums, len(placed), indptr, targets, values, divisors)
        by_rows(compiled.finish, len(placed), out, divisors, self.l2)
        return out


@dataclass(frozen=True)
class Weighting:
    """Turns the normalized values of a block into weights, in place.

    Only values that count take part: genes with an embedding, other than 0.

    Attributes
    ----------
    weights
        ``"expression"``: the values. ``"rank"``: 1 for the highest value of the cell, descending in equal steps to
        1 / n for the lowest of its n; equal values share their mean rank. ``"idf"``: value times `idf` of the gene.
    top_k
        Take only so many genes of each cell, those of the largest weight; of equal ones those earlier in the gene
        matrix. None takes all.
    idf
        float32 (n_targets,), for ``"idf"``.
    """

    weights: Weights = "expression"
    top_k: int | None = None
    idf: np.ndarray | None = None

    def __call__(self, indptr: np.ndarray, targets: np.ndarray, values: np.ndarray) -> None:
        """Change `values` float32 in place, and set `targets` int32 to -1 for what no longer counts."""
        if self.idf is not None:
            counts = targets >= 0
            values[counts] *= self.idf[targets[counts]]
        if self.weights == "rank" or self.top_k is not None:
            limit = -1 if self.top_k is None else self.top_k
            by_rows(_rank_weights, len(indptr) - 1, indptr, targets, values, self.weights == "rank", limit)


def inverse_document_frequency(
    blocks: Iterable[Rows], target_of: np.ndarray, n_targets: int, n_cells: int, progress: Progress
) -> np.ndarray:
    """Return ``log((1 + n_cells) / (1 + n_cells_with_gene)) + 1`` of each gene, float32: scikit-learn's smooth idf.

    Genes found in every cell have 1, rarer ones more. Reads all of the matrix.
    """
    counts, done = np.zeros(n_targets, dtype=np.int64), 0
    for rows in ahead(blocks):
        filled = target_of[rows.indices[rows.values != 0]]
        counts += np.bincount(filled[filled >= 0], minlength=n_targets)
        done += len(rows)
        progress(done, n_cells, "counting cells of each gene")
    return (np.log((1 + n_cells) / (1 + counts.astype(np.float64))) + 1).astype(np.float32)


@compiled.compiled
def _rank_weights(first, last, indptr, targets, values, as_rank, top_k):  # type: ignore[no-untyped-def]
    for row in range(first, last):
        start, stop = indptr[row], indptr[row + 1]
        places = np.flatnonzero(targets[start:stop] >= 0) + start
        n = len(places)
        # The second sort is stable: equal values come in the order of the gene matrix.
        places = places[np.argsort(targets[places])]
        order = places[np.argsort(-values[places], kind="mergesort")]
        if as_rank:
            at = 0
            while at < n:
                end = at + 1
                while end < n and values[order[end]] == values[order[at]]:
                    end += 1
                shared = np.float32((n - (at + end - 1) / 2) / n)
                for i in range(at, end):
                    values[order[i]] = shared
                at = end
        if top_k >= 0:
            for i in range(top_k, n):
                targets[order[i]] = -1
