"""An expression matrix in blocks of cells: CSR, CSC or dense, in memory, in HDF5 or in zarr, read alike and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bftembed.cells.preflight import check_indices, check_kind, checked_indptr
from bftembed.cells.rows import Rows, as_float, as_index
from bftembed.cells.slices import Slices
from bftembed.errors import BftembedError
from bftembed.hdf5 import check_declared_size, damage_named, is_array, is_group

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Numbers in one dense block, and stored values in one sparse block: about 128 MB each.
DENSE_NUMBERS, BLOCK_VALUES = 2**25, 2**23


@dataclass(frozen=True)
class Dense:
    """A dense matrix: a NumPy array, a HDF5 data set or a zarr array, (n_cells, n_genes)."""

    values: Any
    where: str

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of genes."""
        return int(self.values.shape[0]), int(self.values.shape[1])

    @property
    def n_values(self) -> int:
        """Number of stored values: all of them."""
        return self.shape[0] * self.shape[1]

    def rows(self, block_rows: int, cells: range | None = None, *, scratch: Path | None = None) -> Iterator[Rows]:
        """Yield runs of at most `block_rows` cells, in order; see `Compressed.rows`."""
        from bftembed.cells.compiled import compress, count_filled

        n_cells, n_genes = self.shape
        wanted = range(n_cells) if cells is None else cells
        step = max(1, min(block_rows, DENSE_NUMBERS // max(1, n_genes)))
        for start in range(wanted.start, wanted.stop, step):
            with damage_named(self.where):
                part = np.asarray(self.values[start : min(start + step, wanted.stop)])
            part = as_float(part if part.dtype.isnative else part.astype(part.dtype.newbyteorder("=")))
            indptr = np.zeros(len(part) + 1, dtype=np.int64)
            count_filled(0, len(part), part, indptr[1:])
            np.cumsum(indptr, out=indptr)
            indices, values = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1], dtype=part.dtype)
            compress(0, len(part), part, indptr, indices, values)
            yield Rows(start, indptr, indices, values)


@dataclass(frozen=True)
class Compressed:
    """A CSR or CSC matrix: its three arrays, in memory, in HDF5 or in zarr.

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
        """Open a sparse matrix as anndata writes it to HDF5 (also before 0.7) or zarr, checking its structure.

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
        shape, by_cell = (int(declared[0]), int(declared[1])), compressed_format(group) == "csr"
        data, indices, indptr = (group[name] for name in parts)
        matrix = cls._checked(data, indices, indptr, shape, by_cell, where)
        refuse_missing_chunks(data)
        if matrix.n_values >= len(matrix.indptr):  # fewer may all have index 0, which zarr does not write
            refuse_missing_chunks(indices)
        return matrix

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

    def rows(self, block_rows: int, cells: range | None = None, *, scratch: Path | None = None) -> Iterator[Rows]:
        """Yield runs of at most `block_rows` cells, in order.

        Parameters
        ----------
        block_rows
            Cells of a block.
        cells
            Which cells, in steps of 1; all by default.
        scratch
            Folder for the scratch file of a large CSC matrix, see `bftembed.cells.transpose`.

        Raises
        ------
        BftembedError
            At the first block with an index out of range, before the block is given.
        """
        wanted = range(self.shape[0]) if cells is None else cells
        data, indices = Slices(self.data), Slices(self.indices)

        def read(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            with damage_named(self.where):
                found, values = indices.read(start, stop), data.read(start, stop)
            check_indices(found, self.n_minor, self.where)
            return as_index(found), as_float(values)

        if not self.by_cell:
            from bftembed.cells.transpose import rows_of_columns

            height = max(1, min(block_rows, BLOCK_VALUES * self.shape[0] // max(1, self.n_values)))
            yield from rows_of_columns(read, self.indptr, wanted, height, scratch=scratch)
            return
        start = wanted.start
        while start < wanted.stop:
            fits = int(np.searchsorted(self.indptr, self.indptr[start] + BLOCK_VALUES, side="right")) - 1
            stop = min(start + block_rows, max(fits, start + 1), wanted.stop)
            indptr = self.indptr[start : stop + 1]
            yield Rows(start, indptr - indptr[0], *read(int(indptr[0]), int(indptr[-1])))
            start = stop


@dataclass(frozen=True)
class Columns:
    """Some columns of a matrix, as if there were no others.

    Attributes
    ----------
    matrix
        The whole matrix; all of its values are read.
    kept
        int64 (n_genes,), rising: the columns of it.
    """

    matrix: Compressed | Dense
    kept: np.ndarray

    @property
    def where(self) -> str:
        """File and matrix, for messages."""
        return self.matrix.where

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of genes."""
        return self.matrix.shape[0], len(self.kept)

    @property
    def n_values(self) -> int:
        """Number of values that are read: those of the whole matrix."""
        return self.matrix.n_values

    def numbers(self) -> np.ndarray:
        """Return the place of each column of the whole matrix among the kept ones, int32, -1 for none."""
        numbers = np.full(self.matrix.shape[1], -1, dtype=np.int32)
        numbers[self.kept] = np.arange(len(self.kept), dtype=np.int32)
        return numbers

    def rows(self, block_rows: int, cells: range | None = None, *, scratch: Path | None = None) -> Iterator[Rows]:
        """Yield runs of at most `block_rows` cells, in order; see `Compressed.rows`."""
        numbers = self.numbers()
        for rows in self.matrix.rows(block_rows, cells, scratch=scratch):
            columns = numbers[rows.indices]
            kept = columns >= 0
            indptr = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])[rows.indptr]
            yield Rows(rows.start, indptr, columns[kept], rows.values[kept])


#: An expression matrix.
Matrix: TypeAlias = Compressed | Dense | Columns


def compressed_format(group: Any) -> str:
    """Return ``"csr"``, ``"csc"``, or ``""`` where a group is no sparse matrix."""
    marked = group.attrs.get("h5sparse_format", group.attrs.get("encoding-type", ""))
    name = marked.decode() if isinstance(marked, bytes) else str(marked)
    return name.removesuffix("_matrix") if name in ("csr", "csc", "csr_matrix", "csc_matrix") else ""


def refuse_missing_chunks(member: Any) -> None:
    """Refuse an array of a zarr store of which chunk files lack; HDF5 finds such damage itself.

    Of a group, the column of text that it holds: its ``values``, or its ``categories`` and ``codes``. Not its ``mask``,
    of which zarr leaves out the chunks where nothing is missing.

    Raises
    ------
    BftembedError
        Naming the array.
    """
    if is_group(member):
        for name in ("values", "categories", "codes"):
            if name in member:
                refuse_missing_chunks(member[name])
    elif hasattr(member, "check_whole"):
        member.check_whole()


def stored_matrix(member: Any, where: str) -> Compressed | Dense:
    """Open a matrix of a HDF5 file or a zarr store, as anndata writes it, checking its structure.

    Parameters
    ----------
    member
        An array, or the group of a sparse matrix.
    where
        File and matrix, for messages.

    Raises
    ------
    BftembedError
        When it is neither, is no matrix of real numbers, or its parts do not fit together.
    """
    check_declared_size(member, where)
    if is_array(member):
        return _dense(member, where)
    if not is_group(member):
        raise BftembedError(f"{where} is neither values nor a group of them. The file is damaged; write it again.")
    if not compressed_format(member):
        kind = member.attrs.get("encoding-type", "unknown")
        raise BftembedError(f"{where} is of the kind {kind!r}; expected a CSR, CSC or dense matrix.")
    return Compressed.from_hdf5(member, where)


def memory_matrix(values: Any, where: str) -> Compressed | Dense:
    """Wrap a NumPy array or a SciPy sparse matrix; CSR, CSC and dense ones are not copied.

    Raises
    ------
    BftembedError
        When it is something else, or holds no real numbers.
    """
    from scipy.sparse import issparse

    if issparse(values):
        return Compressed.from_scipy(values if values.format in ("csr", "csc") else values.tocsr(), where)
    if isinstance(values, np.ndarray):
        return _dense(np.asarray(values), where)
    raise BftembedError(
        f"{where} is a {type(values).__module__}.{type(values).__name__}; expected a NumPy array or a SciPy CSR or "
        f"CSC matrix. Bring it into memory first, or give the path of the h5ad file."
    )


def _dense(values: Any, where: str) -> Dense:
    if len(values.shape or ()) != 2:
        raise BftembedError(f"{where} has shape {values.shape}; expected (cells, genes).")
    check_kind(values.dtype, where)
    return Dense(values, where)
