"""Features of one type among others: genes beside antibodies, peaks, guides or spike-ins in one matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Kind = Literal["gene", "protein"]

#: Columns of .var with the type of each feature: of 10x and scanpy, of CELLxGENE, and another spelling.
TYPE_COLUMNS = ("feature_types", "feature_biotype", "feature_type")
#: How data sets call their genes and their proteins, in small letters; modalities are called so too.
GENE_WORDS = ("rna", "gex", "gene expression", "gene_expression", "transcriptome", "gene")
PROTEIN_WORDS = (
    *("adt", "adts", "prot", "protein", "proteins", "antibody capture", "antibody_capture"),
    *("protein_expression", "protein_counts"),
)


def is_of(types: Sequence[str], words: Sequence[str]) -> NDArray[np.bool_]:
    """Return which features have a type that is one of `words`, bool (n,)."""
    return np.array([one.strip().lower() in words for one in types], dtype=bool)


def columns_of_kind(column: Callable[[str], list[str] | None], kind: Kind) -> NDArray[np.int64] | None:
    """Return which columns of a matrix are embedded, where the table of its features states several types.

    Parameters
    ----------
    column
        Reads a column of ``.var`` as text, ``""`` where missing; None where there is no such column.
    kind
        ``"gene"``: genes alone. ``"protein"``: proteins alone; genes where no feature is a protein, since protein
        embeddings may be applied to RNA.

    Returns
    -------
    ndarray or None
        int64, rising; None for all columns: where no column states types, where all features are of one type, and
        where none is of the wanted type (``feature_type`` may hold Ensembl's biotypes).
    """
    for name in TYPE_COLUMNS:
        types = column(name)
        if types is None or len({one for one in types if one.strip()}) < 2:
            continue
        for words in (GENE_WORDS,) if kind == "gene" else (PROTEIN_WORDS, GENE_WORDS):
            wanted = is_of(types, words)
            if wanted.any():
                return None if wanted.all() else np.flatnonzero(wanted)
    return None
