"""What an embedding of cells tells of itself."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class CellEmbeddingReport:
    """What was embedded, from what, and what was left aside.

    Attributes
    ----------
    key, dim
        Key of ``.obsm`` and number of dimensions.
    matrix
        The expression used: ``"X"``, ``"layers/NAME"`` or ``"raw/X"``.
    n_cells, n_genes
        Its shape, before empty cells are dropped.
    n_other_features
        Features of another type beside them (antibodies, peaks …), by ``.var["feature_types"]``: not embedded, and not
        part of the totals.
    n_used, n_mapped, n_ambiguous, n_unresolved, n_no_embedding
        Genes (columns) by what became of them, see `bftembed.cells.matching.GeneMatch`; they add up to `n_genes`.
    n_duplicates
        Columns that share their embedding with an earlier column; all are summed.
    coverage
        Share of the sum of all values that lies in genes with an embedding, in ]0, 1].
    normalize, reason
        What was done to the values, and why, in words.
    weights, top_k, gene_matrix, denominator, l2, precision
        As asked for; `top_k` is 0 for all genes.
    kernel, kernel_reason
        How blocks were multiplied, see `bftembed.cells.kernels`, and why so.
    empty_cells
        Names of the cells without a vector.
    empty_policy
        What became of them: ``"error"`` (then there is none), ``"nan"`` or ``"drop"``.
    out
        The file that was written; None for an AnnData.
    file
        Label of the input, where there are several.
    files
        One report per input, where there are several: cells and coverage are then those of all together, genes those
        of the file with the lowest coverage.
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
    n_duplicates: int
    coverage: float
    normalize: str
    reason: str
    weights: str
    top_k: int
    gene_matrix: str
    denominator: str
    l2: bool
    precision: str
    kernel: str
    kernel_reason: str
    empty_cells: tuple[str, ...]
    empty_policy: str
    out: Path | None = None
    file: str = ""
    files: tuple[CellEmbeddingReport, ...] = ()

    @property
    def n_matched(self) -> int:
        """Genes with an embedding."""
        return self.n_used + self.n_mapped

    @property
    def n_missing(self) -> int:
        """Genes that are not known, or known without an embedding."""
        return self.n_unresolved + self.n_no_embedding

    @property
    def n_empty(self) -> int:
        """Number of cells without a vector."""
        return len(self.empty_cells)

    def as_dict(self) -> dict[str, Any]:
        """Return every field and count as what JSON holds."""
        counts = {"n_matched": self.n_matched, "n_missing": self.n_missing, "n_empty": self.n_empty}
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        told = {
            "empty_cells": list(self.empty_cells),
            "out": str(self.out) if self.out else None,
            "files": [one.as_dict() for one in self.files],
        }
        return {**plain, **told, **counts}


def together(reports: Sequence[CellEmbeddingReport], totals: Sequence[float]) -> CellEmbeddingReport:
    """Return one report of several inputs, whose values sum up to `totals`; see `CellEmbeddingReport.files`."""
    worst = min(reports, key=lambda report: report.coverage)
    weighted = sum(report.coverage * total for report, total in zip(reports, totals, strict=True))
    return replace(
        worst,
        n_cells=sum(report.n_cells for report in reports),
        coverage=weighted / sum(totals) if sum(totals) else 0.0,
        empty_cells=tuple(name for report in reports for name in report.empty_cells),
        file="",
        files=tuple(reports),
    )
