"""Report of a cell-embedding run."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class CellEmbeddingReport:
    """Cells, genes and values of a run, by sums of gene vectors or by sentences.

    Attributes
    ----------
    key, dim
        Key of ``.obsm`` and number of dimensions.
    matrix
        The expression used: ``"X"``, ``"layers/NAME"``, ``"raw/X"`` or ``"obsm/KEY"``.
    n_cells, n_genes
        Its shape, before empty cells are dropped.
    n_other_features
        Features of another type in it (antibodies, peaks …), by ``.var["feature_types"]``: not embedded, and not part
        of the totals.
    n_used, n_mapped, n_ambiguous, n_unresolved, n_no_embedding, n_unnamed
        Genes (columns) by how they were matched; they add up to `n_genes`: used by their own name, by their approved
        symbol, with a name of several genes, with an unknown name, known without an embedding, without a name
        (of sentences alone).
    n_duplicates
        Columns that share their gene with an earlier column.
    coverage
        Share of the sum of all values that lies in genes that were used, in [0, 1].
    normalize, reason
        What was done to the values, and why, in words.
    empty_cells
        Names of the cells without a vector.
    empty_policy
        What was done with them: ``"error"`` (then there are none), ``"nan"`` or ``"drop"``.
    method
        What the method adds. Sums: the options weights, top_k (0 for all genes), gene_matrix, denominator, l2 and
        precision, and the kernel. Sentences: top_genes (0 for all), n_cut (cells that express more), mean_genes (of a
        sentence), encoder, long (what it does with a text beyond its limit), share_over_limit (of the sentences, in
        [0, 1]), encoding (counts of `bftembed.encoders.base.EncodingReport`), n_encoded and n_reused (different
        sentences of a block that were encoded now, and that were in the cache).
    out
        The file that was written; None for an AnnData.
    """

    key: str
    dim: int
    matrix: str
    n_cells: int
    n_genes: int
    n_other_features: int
    n_used: int
    n_mapped: int
    n_ambiguous: int
    n_unresolved: int
    n_no_embedding: int
    n_unnamed: int
    n_duplicates: int
    coverage: float
    normalize: str
    reason: str
    empty_cells: tuple[str, ...]
    empty_policy: str
    method: dict[str, Any] = field(default_factory=dict)
    out: Path | None = None

    @property
    def n_matched(self) -> int:
        """Genes that were used, by their own name or by their approved symbol."""
        return self.n_used + self.n_mapped

    @property
    def n_empty(self) -> int:
        """Number of cells without a vector."""
        return len(self.empty_cells)

    def as_dict(self) -> dict[str, Any]:
        """Return every field and count as JSON can hold it, those of `method` among them."""
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "method"}
        plain |= {"out": self.out and str(self.out), "empty_cells": list(self.empty_cells)}
        return {**plain, **self.method, "n_matched": self.n_matched, "n_empty": self.n_empty}
