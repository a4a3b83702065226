"""A matrix stored by genes, read once and given by cells, in constant memory.

The cells of a CSC matrix lie scattered over all of it. Runs of stored values are sorted by block of cells and set
aside in a nameless scratch file; then each block is gathered from it. A matrix of one run never touches the disk.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.compiled import compiled
from bftembed.cells.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Stored values that are sorted at a time: about 80 MB with their copies.
RUN = 4_000_000


def rows_of_columns(
    read: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
    indptr: np.ndarray,
    cells: range,
    block_rows: int,
    *,
    scratch: Path | None = None,
    run: int | None = None,
) -> Iterator[Rows]:
    """Yield the cells of a CSC matrix in blocks.

    Parameters
    ----------
    read
        Gives the cells (int32 or int64, in range) and values (float32 or float64) stored from one place to another.
    indptr
        int64 (n_genes + 1,).
    cells
        Which cells to give, in steps of 1.
    block_rows
        Cells of a block.
    scratch
        Folder of the scratch file; default the system's. It holds at most 16 bytes per stored value.
    run
        Stored values that are sorted at a time; default 4 million.

    Raises
    ------
    OSError
        When the scratch file cannot be written.
    """
    run = run or RUN
    n_blocks = -(-len(cells) // block_rows)
    n_values = int(indptr[-1])
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile(dir=scratch, buffering=0)) if n_values > run else None
        runs = [
            _Run(file, *_sorted(read, indptr, a, min(a + run, n_values), cells, block_rows, n_blocks))
            for a in range(0, max(n_values, 1), run)
        ]
        for block in range(n_blocks):
            parts = [one.block(block) for one in runs]
            local, genes, values = (np.concatenate([part[i] for part in parts]) for i in range(3))
            height = min(block_rows, len(cells) - block * block_rows)
            starts, order = _order(local, height)
            yield Rows(cells.start + block * block_rows, starts, genes[order], values[order])


class _Run:
    """One run of values sorted by block: three arrays, in memory or in the scratch file."""

    def __init__(self, file: Any, bounds: np.ndarray, *arrays: np.ndarray) -> None:
        self._bounds, self._file = bounds, file
        self._arrays = arrays if file is None else ()
        self._places: list[tuple[int, np.dtype[Any]]] = []
        for array in arrays if file is not None else ():
            self._places.append((file.seek(0, os.SEEK_END), array.dtype))
            left = array.view(np.uint8)
            while len(left):
                left = left[file.write(left) :]

    def block(self, number: int) -> list[np.ndarray]:
        """Return cell within the block, gene and value of each entry of a block, in the order of genes."""
        a, b = int(self._bounds[number]), int(self._bounds[number + 1])
        if self._file is None:
            return [array[a:b] for array in self._arrays]
        found = []
        for place, dtype in self._places:
            self._file.seek(place + a * dtype.itemsize)
            found.append(np.frombuffer(self._file.read((b - a) * dtype.itemsize), dtype))
        return found


def _sorted(
    read: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
    indptr: np.ndarray,
    start: int,
    stop: int,
    cells: range,
    block_rows: int,
    n_blocks: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return where each block begins, and per value its cell within the block, its gene and itself, by block."""
    at, values = read(start, stop)
    first, last = np.searchsorted(indptr, [start, max(start, stop - 1)], side="right") - 1
    edges = np.clip(indptr[first : last + 2], start, stop) - start
    bounds = np.zeros(n_blocks + 1, dtype=np.int64)
    local, genes = np.empty(len(at), dtype=np.uint32), np.empty(len(at), dtype=np.int32)
    moved = np.empty_like(values)
    kept = _by_block(at, values, edges, first, cells.start, cells.stop, block_rows, bounds, local, genes, moved)
    return bounds, local[:kept], genes[:kept], moved[:kept]


@compiled
def _by_block(at, values, edges, first_gene, first, end, block_rows, bounds, local, genes, moved):  # type: ignore[no-untyped-def]
    """Sort values by block of cells, stable; give how many lie in the range of cells."""
    for i in range(len(at)):
        if first <= at[i] < end:
            bounds[(at[i] - first) // block_rows + 1] += 1
    for block in range(1, len(bounds)):
        bounds[block] += bounds[block - 1]
    place = bounds[:-1].copy()
    for gene in range(len(edges) - 1):
        for i in range(edges[gene], edges[gene + 1]):
            if first <= at[i] < end:
                block = (at[i] - first) // block_rows
                to = place[block]
                local[to] = at[i] - first - block * block_rows
                genes[to] = first_gene + gene
                moved[to] = values[i]
                place[block] = to + 1
    return bounds[-1]


@compiled
def _by_cell(local, starts, order):  # type: ignore[no-untyped-def]
    for i in range(len(local)):
        starts[local[i] + 1] += 1
    for cell in range(1, len(starts)):
        starts[cell] += starts[cell - 1]
    place = starts[:-1].copy()
    for i in range(len(local)):
        order[place[local[i]]] = i
        place[local[i]] += 1


def _order(local: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    starts = np.zeros(height + 1, dtype=np.int64)
    order = np.empty(len(local), dtype=np.int64)
    _by_cell(local, starts, order)
    return starts, order
