"""Which gene of the data has which embedding. No gene is lost silently: every column is counted once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bftembed.errors import BftembedError, examples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bftembed.entities.genes import Resolution
    from bftembed.entities.proteins import ProteinResolution


@dataclass(frozen=True)
class GeneMatch:
    """The columns of an expression matrix beside the rows of gene embeddings.

    Attributes
    ----------
    rows
        int64 (n_genes,): row of each column's gene in the embedding matrix, -1 for none.
    n_used
        Columns whose name is the id of an embedding.
    n_mapped
        Columns whose gene has an embedding under its approved symbol (by alias, previous symbol, Ensembl id, …).
    n_ambiguous
        Columns whose name may mean several genes, and is not itself the id of an embedding.
    n_unresolved
        Columns whose name is not known.
    n_no_embedding
        Columns whose gene is known, but has no embedding.
    n_duplicates
        Columns beyond the first with the same embedding; all of them add to the cell.
    duplicates
        Names of embeddings with several columns.
    """

    rows: np.ndarray
    n_used: int
    n_mapped: int
    n_ambiguous: int
    n_unresolved: int
    n_no_embedding: int
    n_duplicates: int
    duplicates: tuple[str, ...]


def match_genes(
    names: Sequence[str],
    ids: Sequence[str],
    resolve: Callable[[Sequence[str]], Sequence[Resolution | ProteinResolution]],
    *,
    where: str,
) -> GeneMatch:
    """Match the gene names of a data set to the ids of gene embeddings.

    A name that is an id matches it as it stands; only else is it resolved to an approved symbol. An ambiguous name
    is not guessed.

    Parameters
    ----------
    names
        n_genes names of the columns.
    ids
        Unique ids of the embeddings.
    resolve
        `GeneIndex.resolve` or `ProteinIndex.resolve`.
    where
        File and matrix, for the message.

    Raises
    ------
    BftembedError
        When no name matches; shows five of each side.
    """
    row_of = {name: i for i, name in enumerate(ids)}
    rows = np.full(len(names), -1, dtype=np.int64)
    counts = dict.fromkeys(("used", "mapped", "ambiguous", "unresolved", "no embedding"), 0)
    rest: list[int] = []
    for column, name in enumerate(names):
        if name in row_of:
            rows[column] = row_of[name]
            counts["used"] += 1
        else:
            rest.append(column)
    resolved = resolve([names[column] for column in rest]) if rest else []
    for column, gene in zip(rest, resolved, strict=True):
        if gene.status == "ambiguous":
            counts["ambiguous"] += 1
        elif gene.status == "missing":
            counts["unresolved"] += 1
        elif gene.entity in row_of:
            rows[column] = row_of[gene.entity]
            counts["mapped"] += 1
        else:
            counts["no embedding"] += 1
    matched = rows[rows >= 0]
    if not len(matched):
        raise BftembedError(
            f"{where}: none of its {len(names)} genes has an embedding. Its genes begin with {examples(names)}; the "
            f"embeddings with {examples(ids)}. Is it another species or another kind of name? A column of .var with "
            f"symbols or Ensembl identifiers can be chosen with gene_column (--gene-column)."
        )
    shared, times = np.unique(matched, return_counts=True)
    return GeneMatch(
        rows=rows,
        n_used=counts["used"],
        n_mapped=counts["mapped"],
        n_ambiguous=counts["ambiguous"],
        n_unresolved=counts["unresolved"],
        n_no_embedding=counts["no embedding"],
        n_duplicates=int(len(matched) - len(shared)),
        duplicates=tuple(str(ids[row]) for row in shared[times > 1]),
    )
