"""What a check of a h5ad file tells."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class MatrixFound:
    """The matrix that would be embedded, and how it is stored.

    Attributes
    ----------
    name
        ``"X"``, ``"layers/NAME"`` or ``"raw/X"``.
    form
        ``"CSR"``, ``"CSC"`` or ``"dense"``.
    dtype, index_dtype
        Of the values and of the indices (``""`` for dense).
    n_cells, n_genes, n_values
        Cells and genes, and how many values are stored, those of other features included.
    n_other_features
        Columns beside the genes, of another type by ``.var["feature_types"]``: they would not be embedded.
    density
        Share of values that are stored; of a dense matrix that are not zero, from the sample. None where unknown.
    compression
        ``"gzip"``, ``"lzf"`` or the numbers of HDF5 filters; ``""`` for none.
    chunk
        Shape of a chunk of values; None where they lie in one piece.
    n_bytes
        Bytes of the values in the file, without their indices.
    others
        How to select the other matrices of the file.
    """

    name: str
    form: str
    dtype: str
    index_dtype: str
    n_cells: int
    n_genes: int
    n_other_features: int
    n_values: int
    density: float | None
    compression: str
    chunk: tuple[int, ...] | None
    n_bytes: int
    others: tuple[str, ...]


@dataclass(frozen=True)
class GenesFound:
    """What became of the genes; see `bftembed.cells.matching.GeneMatch`.

    Attributes
    ----------
    matched_to
        The file of gene embeddings, ``"embeddings"``, or ``"HGNC"`` where none was given: then a gene that is known
        counts as covered.
    n_used, n_mapped, n_ambiguous, n_unresolved, n_no_embedding
        Columns, adding up to all.
    n_duplicates
        Columns beyond the first of a gene.
    share
        Covered columns of all.
    """

    matched_to: str
    n_used: int
    n_mapped: int
    n_ambiguous: int
    n_unresolved: int
    n_no_embedding: int
    n_duplicates: int
    share: float


@dataclass(frozen=True)
class ValuesFound:
    """What a sample of the values tells.

    Attributes
    ----------
    sampled
        What was read, in words.
    whole
        Whether that is everything, so that nothing here is an estimate.
    coverage
        Share of the sum of values that lies in covered genes; None where nothing is covered or expressed.
    normalize, reason
        What would be done to the values, and why; ``""`` where that is a problem.
    n_empty
        Cells of the sample that express no covered gene; None where it does not hold whole cells.
    n_not_finite, n_negative
        Values of the sample that cannot be weights.
    """

    sampled: str
    whole: bool
    coverage: float | None
    normalize: str
    reason: str
    n_empty: int | None
    n_not_finite: int
    n_negative: int


@dataclass(frozen=True)
class CellCheck:
    """What `check_cells` found.

    Attributes
    ----------
    path, n_bytes
        The file and its size.
    key, obsm
        The key that was asked about, and those that are there.
    matrix, genes, values
        None where a problem stopped the check before.
    notes
        What is good to know before embedding, one line each.
    problems
        What `embed_cells` would refuse, and the remedy, one line each.
    """

    path: Path
    n_bytes: int
    key: str
    obsm: tuple[str, ...]
    matrix: MatrixFound | None
    genes: GenesFound | None
    values: ValuesFound | None
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether `embed_cells` would work, as far as this look tells."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return everything as what JSON holds."""
        return {"ok": self.ok, **asdict(self), "path": str(self.path)}
