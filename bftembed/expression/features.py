"""Features of a matrix: those of one type among others, and which of them has which embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bftembed.entities.var_names import texts
from bftembed.errors import BftembedError, examples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from bftembed.entities.genes import Resolution
    from bftembed.entities.proteins import ProteinResolution

    Kind = Literal["gene", "protein"]

#: Columns of .var with the type of each feature: of 10x and scanpy, of CELLxGENE, and another spelling.
_TYPE_COLUMNS = ("feature_types", "feature_biotype", "feature_type")
#: Names that data sets give to their genes and their proteins, in lower case; names of modalities, too.
GENE_WORDS = ("rna", "gex", "gene expression", "gene_expression", "transcriptome", "gene")
PROTEIN_WORDS = (
    *("adt", "adts", "prot", "protein", "proteins", "antibody capture", "antibody_capture"),
    *("protein_expression", "protein_counts"),
)


def columns_of_kind(var: pd.DataFrame, kind: Kind) -> NDArray[np.int64] | None:
    """Return which columns of a matrix are embedded, sorted, where `var` states several types of features.

    For ``"gene"`` genes alone; for ``"protein"`` proteins alone, or genes where no feature is a protein, since protein
    embeddings may be applied to RNA. None stands for all columns: where no column of `var` states types, where all
    features are of one type, and where none is of the wanted type (``feature_type`` may hold Ensembl's biotypes).
    """
    for name in _TYPE_COLUMNS:
        types = [one.strip().lower() for one in texts(var[name])] if name in var else []
        if len({one for one in types if one}) < 2:
            continue
        for words in (GENE_WORDS,) if kind == "gene" else (PROTEIN_WORDS, GENE_WORDS):
            wanted = np.array([one in words for one in types], dtype=bool)
            if wanted.any():
                return None if wanted.all() else np.flatnonzero(wanted)
    return None


@dataclass(frozen=True)
class GeneMatch:
    """The columns of an expression matrix and the rows of gene embeddings; every column is counted once.

    `rows` int64 (n_genes,) has the row of each column's gene, -1 for none. Of the columns, the name of `n_used` is the
    id of an embedding; the gene of `n_mapped` has one under its approved symbol; `n_ambiguous` names may mean several
    genes, `n_unresolved` are not known, and the gene of `n_no_embedding` is known, but has none. `n_duplicates` come
    after the first with the same embedding; all of them add to the cell.
    """

    rows: np.ndarray
    n_used: int
    n_mapped: int
    n_ambiguous: int
    n_unresolved: int
    n_no_embedding: int
    n_duplicates: int


def match_genes(
    names: Sequence[str],
    ids: Sequence[str],
    resolve: Callable[[Sequence[str]], Sequence[Resolution | ProteinResolution]],
    *,
    where: str,
) -> GeneMatch:
    """Match the gene names of a data set to the ids of gene embeddings.

    A name that is an id matches it as it stands; only else is it resolved to an approved symbol, by
    `GeneIndex.resolve` or `ProteinIndex.resolve`. An ambiguous name is not guessed.

    Raises
    ------
    BftembedError
        When no name matches; shows five of each side, and `where`.
    """
    row_of = {name: i for i, name in enumerate(ids)}
    rows = np.array([row_of.get(name, -1) for name in names], dtype=np.int64)
    n_used, counts = int((rows >= 0).sum()), dict.fromkeys(("mapped", "ambiguous", "missing", "no embedding"), 0)
    rest = np.flatnonzero(rows < 0).tolist()
    for column, gene in zip(rest, resolve([names[i] for i in rest]) if rest else [], strict=True):
        rows[column] = row_of.get(gene.entity, -1) if gene.status not in ("ambiguous", "missing") else -1
        known = "mapped" if rows[column] >= 0 else "no embedding"
        counts[gene.status if gene.status in ("ambiguous", "missing") else known] += 1
    matched = rows[rows >= 0]
    if not len(matched):
        raise BftembedError(
            f"{where}: none of its {len(names)} genes has an embedding. Its genes begin with {examples(names)}; the "
            f"embeddings with {examples(ids)}. Is it another species or another kind of name? A column of .var with "
            f"symbols or Ensembl identifiers can be chosen with gene_column (--gene-column)."
        )
    duplicates = len(matched) - len(np.unique(matched))
    return GeneMatch(
        rows, n_used, counts["mapped"], counts["ambiguous"], counts["missing"], counts["no embedding"], duplicates
    )
