"""What an embedding of cells as sentences tells of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class SentenceEmbeddingReport:
    """What was encoded, from what, and what was left aside.

    Attributes
    ----------
    key, dim
        Key of ``.obsm`` and number of dimensions.
    matrix
        The expression used: ``"X"``, ``"layers/NAME"`` or ``"raw/X"``.
    n_cells, n_genes
        Its shape, before empty cells are dropped.
    n_other_features
        Features of another type beside them, as in `bftembed.cells.report.CellEmbeddingReport`.
    n_used, n_mapped, n_ambiguous, n_unresolved, n_unnamed, n_duplicates
        Genes (columns) by what they are called, see `bftembed.cells.wording.Words`; all but the last add up to
        `n_genes`.
    normalize, reason
        What kind of values these are, and why, in words. The order of genes in a cell is the same either way.
    top_genes
        Most symbols of a sentence; 0 for no limit.
    n_cut
        Cells that express more genes than `top_genes`.
    coverage
        Share of the sum of all values that lies in genes of the sentences, in [0, 1].
    mean_symbols
        Symbols of a sentence, on average over the cells that have one.
    prefix, separator
        What stands before the symbols, and between two.
    encoder
        Name of the encoder.
    long
        What the encoder does with a text beyond its limit: ``"chunk"``, ``"truncate"``, ``""`` (unknown, or no limit).
    share_over_limit
        Share of the sentences beyond the encoder's limit, in [0, 1].
    mean_symbols_within_limit
        About how many symbols of a sentence lie within the encoder's limit, on average, judged by the mean number of
        tokens of a symbol; `mean_symbols` where no sentence is beyond it.
    encoding
        What the encoder told, as `bftembed.encoders.base.EncodingReport` has it, of the different sentences. Of a cache
        that other data share, it may count some of their sentences too.
    n_encoded, n_reused
        Different sentences (of a block of cells) that were encoded now, and that were in the cache.
    cache
        The file with the vectors of the sentences; None for none.
    empty_cells
        Names of the cells without a vector.
    empty_policy
        What became of them: ``"error"`` (then there is none), ``"nan"`` or ``"drop"``.
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
    n_unnamed: int
    n_duplicates: int
    normalize: str
    reason: str
    top_genes: int
    n_cut: int
    coverage: float
    mean_symbols: float
    prefix: str
    separator: str
    encoder: str
    long: str
    share_over_limit: float
    mean_symbols_within_limit: float
    encoding: dict[str, int | None]
    n_encoded: int
    n_reused: int
    cache: Path | None
    empty_cells: tuple[str, ...]
    empty_policy: str
    out: Path | None = None

    @property
    def n_empty(self) -> int:
        """Number of cells without a vector."""
        return len(self.empty_cells)

    def as_dict(self) -> dict[str, Any]:
        """Return every field and count as what JSON holds."""
        files = {"out": str(self.out) if self.out else None, "cache": str(self.cache) if self.cache else None}
        return {**asdict(self), **files, "empty_cells": list(self.empty_cells), "n_empty": self.n_empty}
