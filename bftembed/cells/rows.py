"""A run of cells as CSR arrays: what every source of expression is read into, and all that kernels see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Rows:
    """Consecutive cells of an expression matrix.

    Attributes
    ----------
    start
        Position of the first cell in the matrix.
    indptr
        int64 (n + 1,), from 0.
    indices
        int32 or int64 (n_values,): columns (genes), all in range; not always rising, nor unique.
    values
        float32 or float64 (n_values,), anything. May share memory with the source: not to be written to.
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
        """Return the same cells with rising columns, values of equal ones summed in float64."""
        matrix = replace(self, values=self.values.astype(np.float64)).to_csr(n_columns)
        matrix.sum_duplicates()
        return replace(
            self, indptr=matrix.indptr.astype(np.int64), indices=matrix.indices.astype(np.int64), values=matrix.data
        )


def as_float(values: np.ndarray) -> np.ndarray:
    """Return real numbers as float32 where it holds them exactly, else float64; a view where nothing changes."""
    small = values.dtype.kind == "b" or (values.dtype.kind == "f" and values.dtype.itemsize <= 4)
    small = small or (values.dtype.kind in "iu" and values.dtype.itemsize <= 2)
    return values.astype(np.float32 if small else np.float64, copy=False)


def as_index(indices: np.ndarray) -> np.ndarray:
    """Return integers as int32 or int64, whichever holds them; a view where nothing changes."""
    if indices.dtype.itemsize < 4 or indices.dtype == np.int32:  # uint32 may exceed int32
        return indices.astype(np.int32, copy=False)
    return indices.astype(np.int64, copy=False)
