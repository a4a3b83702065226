"""Expression times gene embeddings, block by block: two passes, one that looks and one that multiplies.

For cell c with values x (n_genes,), after the normalisation f of `bftembed.cells.normalize`,

    vector(c) = sum over genes g with an embedding of f(x)[g] · matrix[row(g)] / denominator(c)

which is GenePT-w with ``denominator = n_genes``. Both passes cost time proportional to the stored values, and memory
for one block beside the (n_cells, d) result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bftembed.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scipy.sparse import csr_matrix

    from bftembed.cells.blocks import Block
    from bftembed.progress import Progress

#: The depth that `log1p-cp10k` scales a cell to.
DEPTH = 1e4


@dataclass(frozen=True)
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
    whole: bool
    largest: float
    n_not_finite: int
    first_not_finite: tuple[int, int] | None
    n_negative: int
    first_negative: tuple[int, int] | None


def summarize(blocks: Iterable[Block], rows: np.ndarray, n_cells: int, *, progress: Progress = silent) -> ValueSummary:
    """Look at every value once.

    Parameters
    ----------
    blocks
        The matrix in blocks.
    rows
        int64 (n_genes,): row of each gene in the embedding matrix, -1 for a gene without one.
    n_cells
        Number of cells of the matrix.
    progress
        Told the cells that are done.
    """
    totals, covered = np.zeros(n_cells), np.zeros(n_cells)
    whole, largest = True, 0.0
    odd: dict[str, tuple[int, tuple[int, int] | None]] = {"not finite": (0, None), "negative": (0, None)}
    for block in blocks:
        values, cells = block.values.data, _cell_of_value(block.values)
        height = block.values.shape[0]
        fine = np.abs(values) <= np.finfo(np.float32).max  # False for NaN
        for kind, wrong in (("not finite", ~fine), ("negative", values < 0)):
            if wrong.any():
                at = int(np.argmax(wrong))
                first = (block.cell + int(cells[at]), block.gene + int(block.values.indices[at]))
                n, known = odd[kind]
                odd[kind] = (n + int(wrong.sum()), first if known is None else min(first, known))
        finite = values if fine.all() else values[fine]
        whole = whole and bool((finite == np.rint(finite)).all())
        largest = max(largest, float(finite.max(initial=0.0)))
        has_vector = rows[block.gene + block.values.indices] >= 0
        span = slice(block.cell, block.cell + height)
        totals[span] += np.bincount(cells, weights=values, minlength=height)
        covered[span] += np.bincount(cells, weights=np.where(has_vector, values, 0), minlength=height)
        progress(round(block.done * n_cells), n_cells, "checking values")
    return ValueSummary(totals, covered, whole, largest, *odd["not finite"], *odd["negative"])


def aggregate(
    blocks: Iterable[Block],
    rows: np.ndarray,
    matrix: np.ndarray,
    totals: np.ndarray,
    *,
    log1p_cp10k: bool,
    matched_denominator: bool,
    l2: bool,
    progress: Progress = silent,
) -> np.ndarray:
    """Multiply: cells × genes by genes × d, scaled per cell.

    Parameters
    ----------
    blocks
        The matrix in blocks, values finite and not negative.
    rows
        int64 (n_genes,): row of each gene in `matrix`, -1 for none. Several genes may share one.
    matrix
        Gene embeddings, float32 (n_embeddings, d).
    totals
        float64 (n_cells,): `ValueSummary.totals`.
    log1p_cp10k
        Whether values become ``log1p(10,000 · value / total)`` first.
    matched_denominator
        Divide by the cell's sum of (normalised) values over the genes with an embedding, instead of by the number
        of all genes.
    l2
        Scale each vector to length 1 in the end.

    Returns
    -------
    ndarray
        float32 (n_cells, d). A cell whose vector is zero (nothing covered is expressed) has NaN in every column, one
        whose sums are beyond float32 has infinity in every column; all others are finite.
    """
    n_cells = len(totals)
    out = np.zeros((n_cells, matrix.shape[1]), dtype=np.float32)
    weights = np.zeros(n_cells)
    for block in blocks:
        height = block.values.shape[0]
        span = slice(block.cell, block.cell + height)
        kept, cells = _weights(block, rows, totals[span] if log1p_cp10k else None, len(matrix))
        out[span] += kept @ matrix
        weights[span] += np.bincount(cells, weights=kept.data, minlength=height)
        progress(round(block.done * n_cells), n_cells, "embedding")
    step = max(1, 2**22 // out.shape[1])
    for start in range(0, n_cells, step):
        part = out[start : start + step]
        _scale(part, weights[start : start + step] if matched_denominator else len(rows), l2=l2)
    return out


def _weights(
    block: Block, rows: np.ndarray, totals: np.ndarray | None, n_embeddings: int
) -> tuple[csr_matrix, np.ndarray]:
    """Return f(values) as CSR float32 (n_rows, n_embeddings), and the cell of each stored value."""
    from scipy.sparse import csr_matrix

    cells = _cell_of_value(block.values)
    target = rows[block.gene + block.values.indices]
    keep = (target >= 0) & (block.values.data != 0)
    cells, values = cells[keep], block.values.data[keep]
    if totals is not None:
        values = np.log1p(values * (DEPTH / totals[cells]))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=block.values.shape[0]))])
    # Genes that share an embedding stay two entries of a row; the product adds them.
    return csr_matrix(
        (values.astype(np.float32), target[keep], indptr), shape=(block.values.shape[0], n_embeddings)
    ), cells


def _scale(part: np.ndarray, denominator: np.ndarray | int, *, l2: bool) -> None:
    """Divide rows in place; a zero row becomes NaN and an overflown one infinity, on purpose and without a warning."""
    wide = part.astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    divisor = norms if l2 else np.broadcast_to(np.asarray(denominator, dtype=np.float64), norms.shape)
    usable = (norms > 0) & np.isfinite(norms)
    with np.errstate(over="ignore"):
        part[:] = np.divide(wide, divisor[:, None], out=np.full_like(wide, np.nan), where=usable[:, None])
    # Sums of +inf and -inf are NaN, and so is their norm.
    part[~np.isfinite(norms) | np.isinf(part).any(axis=1)] = np.inf


def _cell_of_value(values: csr_matrix) -> np.ndarray:
    return np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
