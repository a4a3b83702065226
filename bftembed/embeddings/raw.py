"""What the readers of others' vectors have in common: what they give, which numbers they take, how much."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from array import array
    from pathlib import Path

#: No table of gene vectors is as large; what claims to be is damaged or hostile.
MOST_BYTES = 8 * 2**30
#: Deflate packs at most 1,032 bytes into one.
_MOST_PACKED = 1100


@dataclass(frozen=True)
class RawVectors:
    """Ids and numbers as a file holds them, before duplicates, zeros and NaN are looked for.

    Attributes
    ----------
    ids
        One per row.
    matrix
        (n, d), float32 or float64.
    provenance
        What the reader knows of the file besides, as JSON can hold it.
    lines
        Of a text file, the line of every row.
    """

    ids: list[str]
    matrix: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)
    lines: array[int] | None = None

    def place(self, row: int) -> str:
        """Return where a row stands in the file: ``"line 7"`` or ``"row 6"`` (from 0)."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"


def float_type(dtype: np.dtype, where: str) -> np.dtype:
    """Return float32 or float64: the type in which numbers of type `dtype` are kept.

    Raises
    ------
    BftembedError
        When `dtype` is no plain type of real numbers (objects, text, complex numbers, fields).
    """
    if dtype.kind not in "fiu":
        raise BftembedError(f"{where} has the type {dtype}; gene vectors are real numbers. Save it as float32.")
    return np.dtype(np.float64 if dtype.kind == "f" and dtype.itemsize > 4 else np.float32)


def check_declared(file: Path, where: str, shape: tuple[int, ...], itemsize: int) -> None:
    """Refuse an array that is larger than its file can hold, before memory is asked for.

    Raises
    ------
    BftembedError
        Names the declared shape and the size of the file.
    """
    n_bytes, size = itemsize, file.stat().st_size
    for length in shape:
        n_bytes *= int(length)
    if n_bytes > min(size * _MOST_PACKED, MOST_BYTES):
        raise BftembedError(
            f"{where} claims the shape {shape}, {n_bytes:,} bytes, in a file of {size:,} bytes. "
            f"Refused: more than the file can hold, or than gene vectors need ({MOST_BYTES:,} bytes)."
        )
