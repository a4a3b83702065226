"""Two modalities of the same cells, and which row of one is which row of the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.bench.expression import opened
from bftembed.cells.vectors import cell_vectors
from bftembed.errors import BftembedError, examples

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from bftembed.cells.reading import Expression
    from bftembed.cells.report import CellEmbeddingReport
    from bftembed.cells.vectors import Aggregation
    from bftembed.embeddings import GeneEmbeddings


@dataclass(frozen=True, eq=False)
class Modality:
    """One modality, as `bftembed.cells.vectors.cell_vectors` takes it.

    Attributes
    ----------
    data
        AnnData, or the path of a h5ad, zarr store or MuData file.
    choice
        Which matrix of it: layer, use_raw, gene_column, modality, obsm, obsm_names.
    rows
        int64 (n_cells,): the row of each paired cell; None for all, in their order.
    """

    data: Any
    choice: Mapping[str, Any]
    rows: NDArray[np.int64] | None = None

    def opened(self) -> AbstractContextManager[Expression]:
        """Open the expression, read-only; its rows are all cells of the data, paired or not."""
        return opened(self.data, **self.choice)

    def features(self) -> list[str]:
        """Read the names of the features."""
        with self.opened() as expression:
            return expression.genes

    def cells(self) -> list[str]:
        """Read the names of all cells of the data."""
        with self.opened() as expression:
            return expression.cell_names()

    def where(self) -> str:
        """Return file and matrix, for messages."""
        with self.opened() as expression:
            return expression.where

    def vectors(self, embeddings: GeneEmbeddings, how: Aggregation) -> tuple[NDArray[Any], CellEmbeddingReport]:
        """Return the vectors of the paired cells, float32 (n_cells, d), NaN for those without one, and the report."""
        vectors, report = cell_vectors(self.data, embeddings, how, **self.choice)
        return (vectors if self.rows is None else vectors[self.rows]), report


@dataclass(frozen=True, eq=False)
class Modalities:
    """The RNA and the proteins of the same cells.

    Attributes
    ----------
    rna, protein
        The two modalities; their `rows` are in the order of `cells`.
    cells
        n_cells names, in the order of the RNA.
    labels
        object (n_cells,) values of the column that was asked for, None where missing; None when none was.
    stem
        Name of the data, for the run.
    notes
        What is to be said: another order, cells without a partner, what was taken by its usual name.
    """

    rna: Modality
    protein: Modality
    cells: tuple[str, ...]
    labels: NDArray[Any] | None
    stem: str
    notes: tuple[str, ...]


def paired(rna: Modality, protein: Modality) -> tuple[Modality, Modality, tuple[str, ...], tuple[str, ...]]:
    """Pair the cells of two tables by name: those of the RNA that the proteins have too, in the order of the RNA.

    Returns
    -------
    tuple
        Both modalities with their rows; the n_cells names; what is to be said (another order, cells left out).

    Raises
    ------
    BftembedError
        When a name occurs twice in one of them, or none in both.
    """
    places: list[dict[str, int]] = []
    for side in (rna, protein):
        names = side.cells()
        places.append({name: i for i, name in enumerate(names)})
        if len(places[-1]) < len(names):
            twice = sorted({name for i, name in enumerate(names) if places[-1][name] != i})
            raise BftembedError(
                f"{side.where()}: {len(twice)} cell names occur more than once ({examples(twice)}), so cells cannot be "
                "paired by name. Make them unique alike in both modalities, for example with the name of the sample."
            )
    shared = tuple(name for name in places[0] if name in places[1])
    if not shared:
        raise BftembedError(
            f"No cell of {rna.where()} is a cell of {protein.where()} by name. The first have the names "
            f"{examples(places[0])}; the second {examples(places[1])}. Were suffixes such as '-1' added to one of them?"
        )
    rows = [np.array([place[name] for name in shared], dtype=np.int64) for place in places]
    notes = []
    if (np.diff(rows[1]) < 0).any():
        notes.append("cells paired by name, their order differed between the modalities")
    alone = [len(place) - len(shared) for place in places]
    if any(alone):
        notes.append(f"cells left out: {alone[0]} of the RNA and {alone[1]} of the proteins without a partner")
    return replace(rna, rows=rows[0]), replace(protein, rows=rows[1]), shared, tuple(notes)
