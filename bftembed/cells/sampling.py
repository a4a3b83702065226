"""A look at part of an expression matrix: evenly spread cells, or genes where the matrix is stored by genes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bftembed.cells.blocks import Columns, Compressed, Dense, Matrix
from bftembed.cells.examine import Examiner, ValueSummary
from bftembed.cells.preflight import check_indices
from bftembed.cells.rows import Rows, as_float, as_index
from bftembed.cells.slices import Slices
from bftembed.hdf5 import damage_named

#: Most numbers that are read of a matrix by cells, and stored values of one by genes.
MOST_NUMBERS, MOST_BY_GENE = 2**24, 2**23
#: Places that a sample is spread over, and most bytes to be decompressed for it.
PLACES, MOST_UNPACKED = 16, 2**29


@dataclass(frozen=True)
class Sample:
    """What a look at part of a matrix tells.

    Attributes
    ----------
    summary
        Of the values that were read; cells and genes in it count within the sample.
    cells, genes
        int64: rows and columns of the matrix that were read.
    n_filled
        Values in them that are stored, or not zero in a dense matrix.
    """

    summary: ValueSummary
    cells: np.ndarray
    genes: np.ndarray
    n_filled: int


def sample(matrix: Matrix, target_of: np.ndarray, n_cells: int) -> Sample:
    """Look at about `n_cells` evenly spread cells; of a CSC matrix, at all cells and at most 8 million values.

    Parameters
    ----------
    matrix
        (cells, genes).
    target_of
        int32 (n_genes,): row of each gene in the gene matrix, -1 for none.
    n_cells
        About how many cells; fewer where their values are many.

    Raises
    ------
    BftembedError
        When a part of the file cannot be read, or an index is out of range.
    """
    stored = matrix.matrix if isinstance(matrix, Columns) else matrix
    if isinstance(stored, Compressed) and not stored.by_cell:
        return _of_genes(stored, target_of, matrix.kept if isinstance(matrix, Columns) else None)
    runs = _runs_of_cells(stored, n_cells)
    cells = np.concatenate([np.arange(run.start, run.stop) for run in runs])
    examiner, n_filled, at = Examiner(target_of, 0, ValueSummary.of(len(cells))), 0, 0
    for run in runs:
        for rows in matrix.rows(len(run), run):
            n_filled += len(examiner.place(replace(rows, start=at)).values)
            at += len(rows)
    return Sample(examiner.summary, cells, np.arange(matrix.shape[1]), n_filled)


def _runs_of_cells(matrix: Compressed | Dense, wanted: int) -> list[range]:
    n_cells, n_genes = matrix.shape
    if wanted >= n_cells and n_cells * n_genes <= MOST_NUMBERS:
        return [range(n_cells)]
    stored = matrix.data if isinstance(matrix, Compressed) else matrix.values
    chunk = getattr(stored, "chunks", None) or (0,)
    unpacked = int(np.prod(chunk, dtype=object)) * stored.dtype.itemsize
    # The indices beside the values; or a row of chunks.
    unpacked *= 2 if isinstance(matrix, Compressed) else -(-n_genes // max(chunk[-1], 1))
    places = max(1, min(PLACES, MOST_UNPACKED // max(unpacked, 1), wanted, n_cells))
    height, share = -(-min(wanted, n_cells) // places), MOST_NUMBERS // places
    runs: list[range] = []
    stop = 0
    for place in np.linspace(0, max(0, n_cells - height), places).astype(int):
        start = max(int(place), stop)
        if start >= n_cells:
            break
        fits = share // n_genes
        if isinstance(matrix, Compressed):
            fits = int(np.searchsorted(matrix.indptr, matrix.indptr[start] + share, side="right")) - 1 - start
        stop = min(start + max(1, min(height, fits)), n_cells)
        runs.append(range(start, stop))
    return runs


def _of_genes(matrix: Compressed, target_of: np.ndarray, kept: np.ndarray | None) -> Sample:
    """Read runs of genes, and turn them into cells; of the columns that are `kept` alone, all by default."""
    from scipy.sparse import csc_matrix

    n_cells, n_columns = matrix.shape
    kept = np.arange(n_columns) if kept is None else kept
    places = 1 if matrix.n_values <= MOST_BY_GENE else min(PLACES, len(kept))
    genes, cells, values, stop = [], [], [], 0
    for place in np.linspace(0, len(kept), places, endpoint=False).astype(int):
        start = max(int(kept[place]), stop)
        if start >= n_columns:
            break
        fits = int(np.searchsorted(matrix.indptr, matrix.indptr[start] + MOST_BY_GENE // places, "right")) - 1
        stop = min(max(fits, start + 1), n_columns)
        first, last = int(matrix.indptr[start]), int(matrix.indptr[stop])
        with damage_named(matrix.where):
            found, stored = Slices(matrix.indices).read(first, last), Slices(matrix.data).read(first, last)
        check_indices(found, n_cells, matrix.where)
        genes.append(np.arange(start, stop))
        cells.append(as_index(found))
        values.append(as_float(stored))
    columns = np.concatenate(genes)
    indptr = np.concatenate([[0], np.cumsum(np.diff(matrix.indptr)[columns])])
    parts = (np.concatenate(values), np.concatenate(cells), indptr)
    wanted = np.isin(columns, kept)
    by_gene = csc_matrix(parts, shape=(n_cells, len(columns)))
    by_cell = (by_gene if wanted.all() else by_gene[:, wanted]).tocsr()
    rows = Rows(0, by_cell.indptr.astype(np.int64), by_cell.indices, by_cell.data)
    read = np.searchsorted(kept, columns[wanted])
    examiner = Examiner(target_of[read], 0, ValueSummary.of(n_cells))
    examiner.place(rows)
    return Sample(examiner.summary, np.arange(n_cells), read, len(rows.values))
