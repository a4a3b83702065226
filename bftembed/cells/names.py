"""The names of cells, read in chunks: millions of them never lie in memory at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bftembed.hdf5 import damage_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Names that are read and written at a time.
CHUNK = 100_000


def picked(read: Callable[[range], list[str]], rows: np.ndarray) -> list[str]:
    """Return the names of the cells at rising `rows`; `read` gives those of a run of cells."""
    names: list[str] = []
    for chunk in np.unique(rows // CHUNK):
        wanted = rows[rows // CHUNK == chunk].tolist()
        part = read(range(wanted[0], wanted[-1] + 1))
        names += [part[row - wanted[0]] for row in wanted]
    return names


@dataclass(frozen=True)
class Table:
    """What goes beside the vectors of one input.

    Attributes
    ----------
    where
        The input, for messages.
    read_names
        Gives the names of a run of its cells, while it is open.
    cells
        Those with vectors, in order.
    coverage
        float64 (len(cells),).
    keep
        bool (len(cells),): cells to write; None for all.
    """

    where: str
    read_names: Callable[[range], list[str]]
    cells: range
    coverage: np.ndarray
    keep: np.ndarray | None = None

    def parts(self, rows: int = CHUNK) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """Yield, for runs of cells, the names and coverage of those to write, and which they are (bool)."""
        for start in range(0, len(self.cells), rows):
            stop = min(start + rows, len(self.cells))
            keep = np.ones(stop - start, dtype=bool) if self.keep is None else self.keep[start:stop]
            with damage_named(self.where):
                names = self.read_names(self.cells[start:stop])
            yield [name for name, kept in zip(names, keep, strict=True) if kept], self.coverage[start:stop][keep], keep
