"""Reading what another program made of both modalities: MaxFuse, scMODAL, or any other joint embedding."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.bench.reading import place_of, read_cells
from bftembed.cells.feature_types import GENE_WORDS, PROTEIN_WORDS
from bftembed.errors import BftembedError, examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Columns of obs that say which cell a row is, and of which modality.
CELL, MODALITY = "cell", "modality"


def read_joined(
    data: Any, keys: Sequence[str], cells: Sequence[str]
) -> dict[str, tuple[tuple[NDArray[Any], NDArray[Any]], str]]:
    """Read joint embeddings: an AnnData or h5ad with a row for each cell and modality, in any order.

    ``.obs["cell"]`` holds the name of the cell, ``.obs["modality"]`` is ``"rna"`` or ``"protein"`` (or another usual
    name, see `bftembed.bench.modalities`), and ``.obsm[key]`` the vectors.

    Parameters
    ----------
    data
        The AnnData or the path of the h5ad.
    keys
        Keys of ``.obsm``.
    cells
        The n_cells cells that are scored.

    Returns
    -------
    dict
        Key → (vectors of the RNA and of the proteins, both float32 (n_cells, d) in the order of `cells`, with NaN for
        a cell that has no row), and what is to be said of them.

    Raises
    ------
    BftembedError
        As `bftembed.bench.reading.read_cells`; for another modality, a cell twice in one, and no cell in common.
    """
    where = place_of(data)
    columns, matrices, _ = read_cells(data, keys, [CELL, MODALITY])
    kinds = [_kind(value, where) for value in columns[MODALITY]]
    place = {cell: i for i, cell in enumerate(cells)}
    rows: list[NDArray[np.int64]] = []
    for i, (wanted, what) in enumerate((("rna", "RNA"), ("protein", "proteins"))):
        found = np.full(len(cells), -1, dtype=np.int64)
        own = [(row, str(name)) for row, name in enumerate(columns[CELL]) if kinds[row] == i]
        names = [name for _, name in own]
        twice = sorted(name for name, n in Counter(names).items() if n > 1)
        if twice:
            raise BftembedError(f"{where}: the {what} of {len(twice)} cells occur more than once ({examples(twice)}).")
        for row, name in own:
            if name in place:
                found[place[name]] = row
        if not (found >= 0).any():
            raise BftembedError(
                f"{where}: no row of {MODALITY!r} {wanted!r} is a cell of the data by obs[{CELL!r}]: it holds "
                f"{examples(names) or 'none'}; the data {examples(cells)}."
            )
        rows.append(found)
    note = f"{int(((rows[0] >= 0) & (rows[1] >= 0)).sum())} of {len(cells)} cells, read from a file"
    return {key: ((_picked(matrix, rows[0]), _picked(matrix, rows[1])), note) for key, matrix in matrices.items()}


def _kind(value: Any, where: str) -> int:
    for i, names in enumerate((GENE_WORDS, PROTEIN_WORDS)):
        if str(value).strip().lower() in names:
            return i
    raise BftembedError(f"{where}: obs[{MODALITY!r}] holds {str(value)!r}; give 'rna' or 'protein' for each row.")


def _picked(matrix: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    found = np.full((len(rows), matrix.shape[1]), np.nan, dtype=np.float32)
    found[rows >= 0] = matrix[rows[rows >= 0]]
    return found
