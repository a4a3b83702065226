"""An expression matrix in blocks of cells: CSR, CSC or dense; in memory, in HDF5 or in zarr; every index checked."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bftembed.errors import BftembedError
from bftembed.expression.store import check_complete, guard
from bftembed.hdf5 import as_text, is_array, is_group, read_values

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scipy.sparse import csr_matrix

#: Numbers in one dense block, and stored values in one sparse block: about 128 MB each.
_DENSE_NUMBERS, _BLOCK_VALUES = 2**25, 2**23
#: Stored values of a CSC matrix that are transposed at a time: about 128 MB with their copies.
_TRANSPOSED_VALUES = 2**23
_DAMAGED = "The file is damaged; write it again from its source."


@dataclass(frozen=True)
class Rows:
    """Consecutive cells of an expression matrix from position `start`, as CSR arrays, all indices in range.

    `indptr` int64 (n + 1,) starts at 0; `indices` int32 or int64 are not always sorted, nor unique; `values` float32 or
    float64 may share memory with the source: not to be written to.
    """

    start: int
    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def stop(self) -> int:
        """Position after the last cell."""
        return self.start + len(self)

    def to_csr(self, n_columns: int) -> csr_matrix:
        """Return a SciPy matrix with copies of the arrays."""
        from scipy.sparse import csr_matrix

        parts = (self.values.copy(), self.indices.astype(np.int64), self.indptr)
        return csr_matrix(parts, shape=(len(self), n_columns))

    def canonical(self, n_columns: int) -> Rows:
        """Return the same cells with sorted columns, values of equal ones summed in float64."""
        matrix = replace(self, values=self.values.astype(np.float64)).to_csr(n_columns)
        matrix.sum_duplicates()
        indptr, indices = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
        return replace(self, indptr=indptr, indices=indices, values=matrix.data)


@dataclass(frozen=True)
class Dense:
    """A dense matrix: a NumPy array, a HDF5 data set or a zarr array, (n_cells, n_genes)."""

    values: Any
    where: str

    @classmethod
    def of(cls, values: Any, where: str) -> Dense:
        """Check that `values` is a matrix of real numbers; nothing is copied."""
        if len(values.shape or ()) != 2:
            raise BftembedError(f"{where} has shape {values.shape}; expected (cells, genes).")
        _check_kind(values.dtype, where)
        return cls(values, where)

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
        n_cells, n_genes = self.shape
        wanted = range(n_cells) if cells is None else cells
        step = max(1, min(block_rows, _DENSE_NUMBERS // max(1, n_genes)))
        for start in range(wanted.start, wanted.stop, step):
            part = read_values(self.values, start, min(start + step, wanted.stop))
            part = _as_float(np.ascontiguousarray(part))
            filled = part != 0
            indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(filled, axis=1), dtype=np.int64)])
            at = np.flatnonzero(filled)
            yield Rows(start, indptr, (at % n_genes).astype(np.int32), part.reshape(-1)[at])


@dataclass(frozen=True)
class Compressed:
    """A CSR or CSC matrix: its three arrays, in memory, in HDF5 or in zarr.

    `data` and `indices` are (n_values,) arrays or data sets, `indptr` int64 (n_major + 1,), `shape` (cells, genes);
    `by_cell` is True for CSR. Made by `of`, which checks the parts.
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

    @classmethod
    def of(cls, data: Any, indices: Any, indptr: Any, shape: Any, where: str, *, by_cell: bool) -> Compressed:
        """Make a matrix of its parts after checking that they fit together; nothing is copied but `indptr`.

        Raises
        ------
        BftembedError
            When they do not, or values are not real numbers.
        """
        n_cells, n_genes = (int(n) for n in shape)
        if min(n_cells, n_genes) < 0 or len(data.shape) != 1 or data.shape != indices.shape:
            raise BftembedError(
                f"{where}: declared shape {n_cells, n_genes}, data {tuple(data.shape)} and indices "
                f"{tuple(indices.shape)} do not fit together. {_DAMAGED}"
            )
        _check_kind(data.dtype, where)
        n_major, n_values = n_cells if by_cell else n_genes, data.shape[0]
        if tuple(indptr.shape) != (n_major + 1,) or np.dtype(indptr.dtype).kind not in "iu":
            raise BftembedError(
                f"{where}: indptr is {np.dtype(indptr.dtype)} of shape {tuple(indptr.shape)}, but the declared matrix "
                f"needs {n_major + 1} integers. {_DAMAGED}"
            )
        bounds = read_values(indptr, 0, n_major + 1).astype(np.int64)
        if bounds[0] != 0 or (np.diff(bounds) < 0).any() or bounds[-1] != n_values:
            raise BftembedError(f"{where}: indptr does not rise from 0 to the {n_values} stored values. {_DAMAGED}")
        return cls(data, indices, bounds, (n_cells, n_genes), by_cell, where)

    @classmethod
    def from_scipy(cls, matrix: Any, where: str) -> Compressed:
        """Wrap a SciPy CSR or CSC matrix without copying its values."""
        stored = int(matrix.indptr[-1]) if len(matrix.indptr) else 0
        by_cell = matrix.format == "csr"
        return cls.of(
            matrix.data[:stored], matrix.indices[:stored], matrix.indptr, matrix.shape, where, by_cell=by_cell
        )

    def check_indices(self) -> None:
        """Read and check every index: SciPy, given one out of range, reads or writes foreign memory."""
        for start in range(0, self.n_values, 2**22):
            self._indices(start, min(start + 2**22, self.n_values))

    def rows(self, block_rows: int, cells: range | None = None, *, scratch: Path | None = None) -> Iterator[Rows]:
        """Yield runs of at most `block_rows` of `cells` (in steps of 1; all by default), in order.

        `scratch` is the folder of the unnamed scratch file of a large CSC matrix, which is transposed.

        Raises
        ------
        BftembedError
            At the first block with an index out of range, before the block is given.
        """
        wanted = range(self.shape[0]) if cells is None else cells
        if not self.by_cell:
            yield from self._transposed(block_rows, wanted, scratch)
            return
        start = wanted.start
        while start < wanted.stop:
            fits = int(np.searchsorted(self.indptr, self.indptr[start] + _BLOCK_VALUES, side="right")) - 1
            stop = min(start + block_rows, max(fits, start + 1), wanted.stop)
            first, last = int(self.indptr[start]), int(self.indptr[stop])
            indptr = self.indptr[start : stop + 1] - first
            yield Rows(start, indptr, self._indices(first, last), _as_float(read_values(self.data, first, last)))
            start = stop

    def _indices(self, start: int, stop: int) -> np.ndarray:
        found = read_values(self.indices, start, stop)
        n_minor = self.shape[1] if self.by_cell else self.shape[0]
        if found.dtype.kind not in "iu":
            raise BftembedError(f"{self.where}: indices have type {found.dtype}, expected integers: damaged.")
        if found.size and (found.min() < 0 or found.max() >= n_minor):
            bad = (found < 0) | (found >= n_minor)
            raise BftembedError(
                f"{self.where}: {int(bad.sum())} stored indices are out of range, the first is "
                f"{int(found[np.argmax(bad)])} where 0 to {n_minor - 1} are possible. {_DAMAGED}"
            )
        return found.astype(np.int32 if n_minor < 2**31 else np.int64, copy=False)

    def _transposed(self, block_rows: int, cells: range, scratch: Path | None) -> Iterator[Rows]:
        """Transpose runs of genes, set them aside in an unnamed file, and put each block of cells together from all."""
        from scipy.sparse import csc_matrix, csr_matrix, hstack

        n_cells, n_genes = self.shape
        runs: list[tuple[int, int, np.dtype[Any]]] = []  # genes, place in the file, and type of the values
        with tempfile.TemporaryFile(dir=scratch) as file:
            first = 0
            while first < n_genes:
                fits = int(np.searchsorted(self.indptr, self.indptr[first] + _TRANSPOSED_VALUES, side="right")) - 1
                last = min(max(fits, first + 1), n_genes)
                a, b = int(self.indptr[first]), int(self.indptr[last])
                values = _as_float(read_values(self.data, a, b))
                parts = (values, self._indices(a, b), self.indptr[first : last + 1] - a)
                run = csc_matrix(parts, shape=(n_cells, last - first)).tocsr()
                if (first, last) == (0, n_genes):
                    yield from Compressed.from_scipy(run, self.where).rows(block_rows, cells)
                    return
                runs.append((last - first, file.tell(), values.dtype))
                for array in (run.indptr.astype(np.int64), run.indices.astype(np.int32), run.data):
                    file.write(array.data)
                first = last

            def read(place: int, dtype: Any, start: int, stop: int) -> np.ndarray:
                file.seek(place + start * np.dtype(dtype).itemsize)
                return np.frombuffer(file.read((stop - start) * np.dtype(dtype).itemsize), dtype)

            height = max(1, min(block_rows, _BLOCK_VALUES * n_cells // max(1, self.n_values)))
            for start in range(cells.start, cells.stop, height):
                stop = min(start + height, cells.stop)
                blocks = []
                for width, place, dtype in runs:
                    indptr = read(place, np.int64, start, stop + 1)
                    n_values = int(read(place, np.int64, n_cells, n_cells + 1)[0])
                    a, b = int(indptr[0]), int(indptr[-1])
                    indices = read(place + 8 * (n_cells + 1), np.int32, a, b)
                    data = read(place + 8 * (n_cells + 1) + 4 * n_values, dtype, a, b)
                    blocks.append(csr_matrix((data, indices, indptr - a), shape=(stop - start, width)))
                block = hstack(blocks, format="csr")
                yield Rows(start, block.indptr.astype(np.int64), block.indices, block.data)


@dataclass(frozen=True)
class Columns:
    """Some columns of a matrix, all of whose values are read; `kept` int64 (n_genes,), sorted."""

    matrix: Compressed | Dense
    kept: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of genes."""
        return self.matrix.shape[0], len(self.kept)

    @property
    def n_values(self) -> int:
        """Number of values that are read: those of the whole matrix."""
        return self.matrix.n_values

    def rows(self, block_rows: int, cells: range | None = None, *, scratch: Path | None = None) -> Iterator[Rows]:
        """Yield runs of at most `block_rows` cells, in order; see `Compressed.rows`."""
        numbers = np.full(self.matrix.shape[1], -1, dtype=np.int32)
        numbers[self.kept] = np.arange(len(self.kept), dtype=np.int32)
        for rows in self.matrix.rows(block_rows, cells, scratch=scratch):
            columns = numbers[rows.indices]
            kept = columns >= 0
            indptr = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])[rows.indptr]
            yield Rows(rows.start, indptr, columns[kept], rows.values[kept])


#: An expression matrix.
Matrix: TypeAlias = Compressed | Dense | Columns


def compressed_format(group: Any) -> str:
    """Return ``"csr"``, ``"csc"``, or ``""`` where a group is not a sparse matrix."""
    name = as_text([group.attrs.get("h5sparse_format", group.attrs.get("encoding-type", ""))])[0]
    return name.removesuffix("_matrix") if name in ("csr", "csc", "csr_matrix", "csc_matrix") else ""


def stored_matrix(member: Any, where: str) -> Compressed | Dense:
    """Open a matrix of a HDF5 file or a zarr store, as anndata writes it, checking its structure.

    Raises
    ------
    BftembedError
        When it is not a matrix of real numbers, parts are missing, or they do not fit together.
    """
    guard(member, where)
    if is_array(member):
        return Dense.of(member, where)
    if not is_group(member) or not compressed_format(member):
        kind = member.attrs.get("encoding-type", "unknown")
        raise BftembedError(f"{where} is of the kind {kind!r}; expected a CSR, CSC or dense matrix.")
    declared = member.attrs.get("shape", member.attrs.get("h5sparse_shape"))
    parts = {name: member.get(name) for name in ("data", "indices", "indptr")}
    missing = [name for name, part in parts.items() if not is_array(part) or len(part.shape or ()) != 1]
    if np.shape(declared) != (2,) or np.asarray(declared).dtype.kind not in "iu" or missing:
        raise BftembedError(f"{where} is a sparse matrix without {', '.join(missing) or 'its shape'}. {_DAMAGED}")
    data, indices, indptr = parts.values()
    matrix = Compressed.of(data, indices, indptr, declared, where, by_cell=compressed_format(member) == "csr")
    check_complete(matrix.data, where)
    if matrix.n_values >= len(matrix.indptr):  # fewer may all have index 0, which zarr does not write
        check_complete(matrix.indices, where)
    return matrix


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
        return Dense.of(np.asarray(values), where)
    raise BftembedError(f"{where} is a {type(values).__name__}; expected a NumPy array or a SciPy CSR or CSC matrix.")


def _check_kind(dtype: Any, where: str) -> None:
    if np.dtype(dtype).kind not in "biuf":
        raise BftembedError(
            f"{where} holds values of type {np.dtype(dtype)}; expected real numbers. Convert the matrix, for example "
            f"adata.X = adata.X.astype('float32'), and write the file again."
        )


def _as_float(values: np.ndarray) -> np.ndarray:
    """Return real numbers as float32 where it holds them exactly, else float64; a view where nothing changes."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    small = kind == "b" or (kind == "f" and size <= 4) or (kind in "iu" and size <= 2)
    return values.astype(np.float32 if small else np.float64, copy=False)
