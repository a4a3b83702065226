"""An expression matrix in blocks: CSR, CSC or dense, in memory or in a HDF5 file, read alike and checked on the way.

CSR and dense matrices come by rows (cells). A CSC matrix comes by columns (genes): its rows lie scattered over the
whole file, so reading it by rows would read all of it for every block. Each run of genes is cut into runs of cells,
so that no block is taller than `block_rows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.preflight import check_indices, check_kind, checked_indptr
from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy.sparse import csr_matrix

#: Numbers in one dense block: keeps a block of a wide dense matrix near 256 MB.
DENSE_NUMBERS = 2**25


@dataclass(frozen=True)
class Block:
    """A tile of the matrix.

    Attributes
    ----------
    cell, gene
        Position of its first row and first column in the whole matrix.
    values
        (n_rows, n_columns) CSR, float32 or float64, canonical: indices sorted and in range, duplicates summed. A
        copy: changing it does not change the source.
    done
        Share of the matrix that has been read when this block is worked off, in ]0, 1].
    """

    cell: int
    gene: int
    values: csr_matrix
    done: float


@dataclass(frozen=True)
class Dense:
    """A dense matrix: a NumPy array or a HDF5 data set, (n_cells, n_genes)."""

    values: Any
    where: str

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of genes."""
        return int(self.values.shape[0]), int(self.values.shape[1])

    def blocks(self, block_rows: int) -> Iterator[Block]:
        """Yield runs of at most `block_rows` cells, in order."""
        n_cells, n_genes = self.shape
        rows = max(1, min(block_rows, DENSE_NUMBERS // max(1, n_genes)))
        for start in range(0, n_cells, rows):
            part = np.asarray(self.values[start : start + rows])
            yield Block(start, 0, _canonical(_as_float(part)), min(1.0, (start + rows) / n_cells))


@dataclass(frozen=True)
class Compressed:
    """A CSR or CSC matrix: its three arrays, in memory or in a HDF5 file.

    Attributes
    ----------
    data, indices
        (n_values,) arrays or data sets.
    indptr
        (n_major + 1,) int64, checked.
    shape
        Number of cells and of genes.
    by_cell
        True for CSR, False for CSC.
    where
        File and matrix, for messages.
    """

    data: Any
    indices: Any
    indptr: np.ndarray
    shape: tuple[int, int]
    by_cell: bool
    where: str

    @property
    def n_values(self) -> int:
        """Number of stored values."""
        return int(self.indptr[-1])

    @property
    def n_minor(self) -> int:
        """How many different indices there can be: genes of a CSR, cells of a CSC matrix."""
        return self.shape[1] if self.by_cell else self.shape[0]

    @classmethod
    def from_hdf5(cls, group: Any, where: str) -> Compressed:
        """Open a sparse matrix as anndata writes it (also before 0.7), checking its structure.

        Raises
        ------
        BftembedError
            When a part is missing or the parts do not fit together.
        """
        declared = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
        parts = ("data", "indices", "indptr")
        absent = [name for name in parts if len(getattr(group.get(name), "shape", None) or ()) != 1]
        if np.shape(declared) != (2,) or np.asarray(declared).dtype.kind not in "iu" or absent:
            lacks = ", ".join(absent) or "its shape"
            raise BftembedError(f"{where} is a sparse matrix that lacks {lacks}. The file is damaged; write it again.")
        shape = (int(declared[0]), int(declared[1]))
        return cls._checked(
            group["data"], group["indices"], group["indptr"], shape, compressed_format(group) == "csr", where
        )

    @classmethod
    def from_scipy(cls, matrix: Any, where: str) -> Compressed:
        """Wrap a SciPy CSR or CSC matrix without copying it."""
        stored = int(matrix.indptr[-1]) if len(matrix.indptr) else 0
        data, indices = matrix.data[:stored], matrix.indices[:stored]
        return cls._checked(data, indices, matrix.indptr, matrix.shape, matrix.format == "csr", where)

    @classmethod
    def _checked(
        cls, data: Any, indices: Any, indptr: Any, shape: tuple[int, int], by_cell: bool, where: str
    ) -> Compressed:
        if min(shape) < 0 or len(data.shape) != 1 or data.shape != indices.shape:
            raise BftembedError(
                f"{where}: declared shape {shape}, data {tuple(data.shape)} and indices {tuple(indices.shape)} do not "
                f"fit together. The file is damaged; write it again from its source."
            )
        check_kind(data.dtype, where)
        n_major = shape[0] if by_cell else shape[1]
        return cls(data, indices, checked_indptr(indptr, n_major, data.shape[0], where), shape, by_cell, where)

    def blocks(self, block_rows: int) -> Iterator[Block]:
        """Yield the matrix in tiles: runs of cells, within runs of genes for CSC."""
        from scipy.sparse import csc_matrix, csr_matrix

        n_cells, n_genes = self.shape
        if self.by_cell:
            for start in range(0, n_cells, block_rows):
                data, indices, indptr = self._slice(start, min(start + block_rows, n_cells))
                part = csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, n_genes))
                yield Block(start, 0, _canonical(part), min(1.0, (start + block_rows) / n_cells))
            return
        # As many numbers, zeros included, as a run of block_rows cells would have.
        genes = max(1, block_rows * n_genes // max(1, n_cells))
        for first in range(0, n_genes, genes):
            data, indices, indptr = self._slice(first, min(first + genes, n_genes))
            part = csc_matrix((data, indices, indptr), shape=(n_cells, len(indptr) - 1)).tocsr()
            for start in range(0, n_cells, block_rows):
                done = (first + (len(indptr) - 1) * min(1.0, (start + block_rows) / n_cells)) / n_genes
                yield Block(start, first, _canonical(part[start : start + block_rows]), done)

    def _slice(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        indptr = self.indptr[start : stop + 1]
        a, b = int(indptr[0]), int(indptr[-1])
        indices = np.asarray(self.indices[a:b])
        check_indices(indices, self.n_minor, self.where)
        # astype copies: sorting and summing must not reach the caller's arrays.
        return _as_float(np.asarray(self.data[a:b])), indices.astype(np.int64), indptr - a


def compressed_format(group: Any) -> str:
    """Return ``"csr"``, ``"csc"``, or ``""`` where a HDF5 group is no sparse matrix."""
    marked = group.attrs.get("h5sparse_format", group.attrs.get("encoding-type", ""))
    name = marked.decode() if isinstance(marked, bytes) else str(marked)
    return name.removesuffix("_matrix") if name in ("csr", "csc", "csr_matrix", "csc_matrix") else ""


def _as_float(values: np.ndarray) -> np.ndarray:
    # SciPy has no float16; float32 holds it and bool exactly. Large integers need float64.
    small = values.dtype.kind == "b" or (values.dtype.kind == "f" and values.dtype.itemsize <= 4)
    return values.astype(np.float32 if small else np.float64)


def _canonical(part: Any) -> csr_matrix:
    from scipy.sparse import csr_matrix

    rows = csr_matrix(part)
    rows.sum_duplicates()
    return rows
