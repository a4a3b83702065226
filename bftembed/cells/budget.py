"""Cells per block from a memory budget."""

from __future__ import annotations

import re

from bftembed.errors import BftembedError

#: Cells of a block: what is taken without a budget and never exceeded with one, and the fewest that are worth it.
MOST_ROWS, FEWEST_ROWS = 2048, 64

#: Blocks that are there at a time (read, placed, multiplied), and bytes per stored value of one.
BLOCKS_IN_FLIGHT, BYTES_PER_VALUE = 3, 12

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def as_bytes(memory: int | str) -> int:
    """Return a memory budget in bytes: a number, or text such as ``"600MB"`` (KB, MB and GB are powers of 1000).

    Raises
    ------
    BftembedError
        For anything else, and for less than 1.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?B?)\s*", str(memory), re.IGNORECASE)
    unit = found[2].upper() if found else ""
    if found is None or unit not in _UNITS or float(found[1]) * _UNITS[unit] < 1:
        raise BftembedError(f"memory is {memory!r}; give bytes, or a number with KB, MB or GB, for example 600MB.")
    return int(float(found[1]) * _UNITS[unit])


def block_rows_within(memory: int, n_targets: int, dim: int, values_per_cell: float) -> int:
    """Return how many cells a block may have, so that the gene matrix and the blocks fit into `memory`.

    Counted are the gene matrix in float32 and bfloat16, and per cell of a block: its row made dense and its product in
    bfloat16, its vector in float32, and its stored values in the blocks in flight. Not counted are the interpreter
    with its libraries (a few hundred MB) and what all cells need, about 50 bytes each.

    Parameters
    ----------
    memory
        Bytes.
    n_targets, dim
        Shape of the gene matrix.
    values_per_cell
        Stored values of a cell, on average.

    Returns
    -------
    int
        From 64 to 2048.

    Raises
    ------
    BftembedError
        With the smallest budget that would do, when 64 cells do not fit.
    """
    fixed = n_targets * dim * (4 + 2)
    per_row = 2 * n_targets + (4 + 2) * dim + BLOCKS_IN_FLIGHT * BYTES_PER_VALUE * values_per_cell
    rows = int((memory - fixed) // per_row)
    if rows < FEWEST_ROWS:
        smallest = -(-int(fixed + FEWEST_ROWS * per_row + 1) // 10**6)
        raise BftembedError(
            f"memory is {memory / 10**6:g} MB, too little for a gene matrix of {n_targets} × {dim} and "
            f"{FEWEST_ROWS} cells at a time. Give {smallest}MB or more, or gene embeddings of fewer dimensions."
        )
    return min(rows, MOST_ROWS)
