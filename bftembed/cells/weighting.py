"""Which genes of a cell count, and how much: expression as it is, ranks, idf over cells, the top genes only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bftembed.cells.ahead import ahead
from bftembed.cells.compiled import by_rows, compiled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bftembed.cells.rows import Rows
    from bftembed.progress import Progress

Weights = Literal["expression", "rank", "idf"]
WEIGHTS: tuple[Weights, ...] = ("expression", "rank", "idf")


@dataclass(frozen=True)
class Weighting:
    """Turns the normalised values of a block into weights, in place.

    Only values that count take part: genes with an embedding, other than 0.

    Attributes
    ----------
    weights
        ``"expression"``: the values. ``"rank"``: 1 for the highest value of the cell, falling in equal steps to 1 / n
        for the lowest of its n; equal values share their mean rank. ``"idf"``: value times `idf` of the gene.
    top_k
        Take only so many genes of each cell, those of the largest weight; of equal ones those earlier in the gene
        matrix. None takes all.
    idf
        float32 (n_targets,), for ``"idf"``.
    """

    weights: Weights = "expression"
    top_k: int | None = None
    idf: np.ndarray | None = None

    def __call__(self, indptr: np.ndarray, targets: np.ndarray, values: np.ndarray) -> None:
        """Change `values` float32 in place, and set `targets` int32 to -1 for what no longer counts."""
        if self.idf is not None:
            counts = targets >= 0
            values[counts] *= self.idf[targets[counts]]
        if self.weights == "rank" or self.top_k is not None:
            limit = -1 if self.top_k is None else self.top_k
            by_rows(_rank, len(indptr) - 1, indptr, targets, values, self.weights == "rank", limit)


def inverse_document_frequency(n_cells_with: np.ndarray, n_cells: int) -> np.ndarray:
    """Return ``log((1 + n_cells) / (1 + n_cells_with)) + 1`` of each gene, float32: scikit-learn's smooth idf.

    Genes found in every cell have 1, rarer ones more.

    Parameters
    ----------
    n_cells_with
        int (n_genes,): cells with a value other than 0.
    n_cells
        Cells in all.
    """
    return (np.log((1 + n_cells) / (1 + n_cells_with.astype(np.float64))) + 1).astype(np.float32)


def cells_with(
    blocks: Iterable[Rows], target_of: np.ndarray, n_targets: int, n_cells: int, progress: Progress
) -> np.ndarray:
    """Return in how many cells each target has a value other than 0, int64 (n_targets,); reads all of the matrix."""
    counts = np.zeros(n_targets, dtype=np.int64)
    done = 0
    for rows in ahead(blocks):
        filled = target_of[rows.indices[rows.values != 0]]
        counts += np.bincount(filled[filled >= 0], minlength=n_targets)
        done += len(rows)
        progress(done, n_cells, "counting cells of each gene")
    return counts


@compiled
def _rank(first, last, indptr, targets, values, as_rank, top_k):  # type: ignore[no-untyped-def]
    for row in range(first, last):
        start, stop = indptr[row], indptr[row + 1]
        places = np.flatnonzero(targets[start:stop] >= 0) + start
        n = len(places)
        # The second sort is stable: equal values come in the order of the gene matrix.
        places = places[np.argsort(targets[places])]
        order = places[np.argsort(-values[places], kind="mergesort")]
        if as_rank:
            at = 0
            while at < n:
                end = at + 1
                while end < n and values[order[end]] == values[order[at]]:
                    end += 1
                shared = np.float32((n - (at + end - 1) / 2) / n)
                for i in range(at, end):
                    values[order[i]] = shared
                at = end
        if top_k >= 0:
            for i in range(top_k, n):
                targets[order[i]] = -1
