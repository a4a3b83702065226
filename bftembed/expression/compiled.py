"""Loops over stored values, compiled by numba: each visits every value of the rows from `first` to `last` once.

All take a block of CSR rows: `indptr` int64 (n + 1,) from 0, and arrays of one entry per stored value. None checks its
arguments: an index out of range would write foreign memory. `bftembed.expression.matrix` gives no such rows.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from bftembed.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

#: What `examine` finds in a row, added up.
NOT_SORTED, NOT_FINITE, NEGATIVE, NOT_WHOLE = 1, 2, 4, 8

#: Fewer rows than this are not worth a thread.
_MIN_ROWS = 64
_LARGEST = float(np.finfo(np.float32).max)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, without the interpreter's lock; kept on disk where there is a place to keep it."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder that can be written
        return numba.njit(**options)(function)


def by_rows(function: Callable[..., Any], n_rows: int, *arguments: Any) -> None:
    """Call ``function(first, last, *arguments)`` for runs of rows, on all cores.

    Threads of our own and not numba's: those of GNU OpenMP end a process that was forked.
    """
    threads = usable_cores()
    step = max(_MIN_ROWS, -(-n_rows // (4 * threads)))
    if n_rows <= step or threads == 1:
        function(0, n_rows, *arguments)
        return
    runs = [(first, min(first + step, n_rows)) for first in range(0, n_rows, step)]
    for _ in _pool(os.getpid()).map(lambda run: function(*run, *arguments), runs):
        pass


@functools.cache
def _pool(pid: int) -> ThreadPoolExecutor:
    """Return the threads of this process; a forked one has lost those of its parent."""
    return ThreadPoolExecutor(usable_cores(), thread_name_prefix="rows")


@compiled
def examine(first, last, indptr, indices, values, target_of, values_out, targets, totals, covered, largest, found):  # type: ignore[no-untyped-def]
    """Look at every value and place it.

    `indices` int32 or int64 in [0, n_columns); `values` float32 or float64, anything; `target_of` int32 (n_columns,):
    row of the gene matrix, -1 for none. Written: `values_out` float32 and `targets` int32 (-1: does not count) per
    value; `totals`, `covered`, `largest` float64 and `found` uint8 per row.
    """
    for row in range(first, last):
        total, with_target, most, flags, previous = 0.0, 0.0, 0.0, 0, -1
        for at in range(indptr[row], indptr[row + 1]):
            column, value = indices[at], values[at]
            targets[at] = -1
            values_out[at] = value
            if column <= previous:
                flags |= NOT_SORTED
            previous = column
            if not abs(value) <= _LARGEST:
                flags |= NOT_FINITE
                continue
            if value < 0:
                flags |= NEGATIVE
            if value != np.rint(value):
                flags |= NOT_WHOLE
            total += value
            most = max(most, value)
            target = target_of[column]
            if target >= 0 and value != 0:
                with_target += value
                targets[at] = target
        totals[row], covered[row], largest[row], found[row] = total, with_target, most, flags


@compiled
def scale(first, last, indptr, values, factors):  # type: ignore[no-untyped-def]
    """Multiply the `values` of each row by its entry of `factors`, in place."""
    for row in range(first, last):
        factor = factors[row]
        for at in range(indptr[row], indptr[row + 1]):
            values[at] = values[at] * factor


@compiled
def row_sums(first, last, indptr, targets, values, sums):  # type: ignore[no-untyped-def]
    """Write the sum of the values that count, float64 (n,)."""
    for row in range(first, last):
        total = 0.0
        for at in range(indptr[row], indptr[row + 1]):
            if targets[at] >= 0:
                total += values[at]
        sums[row] = total


@compiled
def fill_bf16(first, last, indptr, targets, bits, dense):  # type: ignore[no-untyped-def]
    """Write rows as dense bfloat16, rounded to nearest even.

    `bits` uint32: the float32 values, reinterpreted; `dense` uint16 (≥ n, n_targets).
    """
    half, one, sixteen = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)
    for row in range(first, last):
        dense[row] = 0
        for at in range(indptr[row], indptr[row + 1]):
            target = targets[at]
            if target >= 0:
                u = bits[at]
                dense[row, target] = np.uint16((u + half + ((u >> sixteen) & one)) >> sixteen)


@compiled
def finish(first, last, out, divisors, l2):  # type: ignore[no-untyped-def]
    """Divide each row of `out` float32 (n, d) by its length (`l2`) or by its entry of `divisors` float64 (n,).

    A zero row becomes NaN throughout, one that is not finite before or after becomes infinite throughout.
    """
    for row in range(first, last):
        vector, squares = out[row], 0.0
        for k in range(len(vector)):
            squares += np.float64(vector[k]) * np.float64(vector[k])
        if squares == 0:
            vector[:] = np.nan
            continue
        divisor = np.sqrt(squares) if l2 else divisors[row]
        whole = np.isfinite(squares)
        for k in range(len(vector)):
            vector[k] = vector[k] / divisor
            whole = whole and abs(vector[k]) <= _LARGEST
        if not whole:
            vector[:] = np.inf
