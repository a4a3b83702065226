"""The verb: cell embeddings from expression and gene embeddings, for a h5ad file or an AnnData."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bftembed.cells.aggregate import aggregate, summarize
from bftembed.cells.matching import GeneMatch, match_genes
from bftembed.cells.normalize import NORMALIZE, Decision, decide
from bftembed.cells.preflight import check_destination, check_key
from bftembed.cells.reading import expression_of_anndata, expression_of_file
from bftembed.cells.writing import check_free, has_key, put, write_copy
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.hdf5 import open_h5ad
from bftembed.io import refuse_input_as_output
from bftembed.progress import silent

if TYPE_CHECKING:
    from anndata import AnnData

    from bftembed.cells.aggregate import ValueSummary
    from bftembed.cells.reading import Expression
    from bftembed.embeddings import GeneEmbeddings
    from bftembed.progress import Progress

DENOMINATORS = ("all-genes", "matched-expression")
EMPTY_CELLS = ("error", "nan", "drop")


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
    n_used, n_mapped, n_ambiguous, n_unresolved, n_no_embedding
        Genes (columns) by what became of them, see `bftembed.cells.matching.GeneMatch`; they add up to `n_genes`.
    n_duplicates
        Columns that share their embedding with an earlier column; all are summed.
    coverage
        Share of the sum of all values that lies in genes with an embedding, in ]0, 1].
    normalize, reason
        What was done to the values, and why, in words.
    denominator, l2
        As asked for.
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
    n_used: int
    n_mapped: int
    n_ambiguous: int
    n_unresolved: int
    n_no_embedding: int
    n_duplicates: int
    coverage: float
    normalize: str
    reason: str
    denominator: str
    l2: bool
    empty_cells: tuple[str, ...]
    empty_policy: str
    out: Path | None = None

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
        fields = {**asdict(self), "empty_cells": list(self.empty_cells), "out": str(self.out) if self.out else None}
        return {**fields, **counts}


def embed_cells(
    data: AnnData | str | os.PathLike[str],
    embeddings: GeneEmbeddings | str | os.PathLike[str],
    *,
    key: str = "X_bft",
    out: str | os.PathLike[str] | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    normalize: Literal["auto", "log1p-cp10k", "none"] = "auto",
    denominator: Literal["all-genes", "matched-expression"] = "all-genes",
    l2: bool = True,
    empty_cells: Literal["error", "nan", "drop"] = "error",
    overwrite: bool = False,
    block_rows: int = 2048,
    progress: Progress = silent,
) -> CellEmbeddingReport | AnnData:
    """Embed cells as the expression-weighted mean of gene embeddings (GenePT-w).

    For a cell with normalised expression w (n_genes,) and gene embeddings G (n_genes, d; zero rows for genes without
    one): ``vector = w @ G / n_genes``, then divided by its length. Two columns of one gene both add.

    Parameters
    ----------
    data
        A h5ad file, which is streamed in blocks and never modified, or an AnnData in memory, whose ``.obsm[key]`` and
        ``.uns["bftembed"][key]`` are set (its ``.X`` is never changed).
    embeddings
        Gene embeddings, or the `.safetensors` file with them. A gene name of the data finds its embedding by its own
        text, or by the approved symbol that `GeneIndex` resolves it to.
    key
        Key of ``.obsm``.
    out
        For a file: the copy to write, with the embedding in it; replaced only when the new one is whole. Not for an
        AnnData.
    layer, use_raw
        Take ``.layers[layer]`` or ``.raw`` (with its own genes) instead of ``.X``.
    gene_column
        Column of ``.var`` with the gene names; the index by default.
    normalize
        ``"log1p-cp10k"``: log1p(10,000 · value / total of the cell over all its genes). ``"none"``: values as they
        are. ``"auto"``: the former for whole numbers, the latter for what is logged already, an error for neither.
        The decision and its reason are in the report. A second logarithm is refused.
    denominator
        ``"all-genes"``: the number of all genes of the matrix, as in the GenePT notebook; ``"matched-expression"``: the
        cell's sum of w over the genes with an embedding. Without effect after `l2`.
    l2
        Scale each vector to Euclidean length 1.
    empty_cells
        Cells that express no gene with an embedding have no vector: ``"error"``, ``"nan"`` (a row of NaN) or
        ``"drop"`` (left out of the output; a file is then read into memory as a whole).
    overwrite
        Replace ``.obsm[key]`` when it is there.
    block_rows
        Cells per block; memory is the result and a few blocks.
    progress
        Told the cells that are done, in two passes.

    Returns
    -------
    CellEmbeddingReport or AnnData
        For a file the report. For an AnnData the same object, or with ``empty_cells="drop"`` and empty cells a copy
        without them; the report is then what ``.uns["bftembed"][key]`` holds. Vectors are float32 (n_cells, d).

    Raises
    ------
    BftembedError
        For a file that is missing, damaged or hostile, a matrix, layer or column that is not there, no gene in
        common, NaN, infinite or negative values, logged or unclear values as said, empty cells, a key that is taken,
        an output that is the input or cannot be written. Nothing is changed or written then.

    References
    ----------
    Chen and Zou, GenePT (2024): the weighted aggregation "GenePT-w".
    """
    check_key(key)
    for what, value, known in (
        ("normalize", normalize, NORMALIZE),
        ("denominator", denominator, DENOMINATORS),
        ("empty_cells", empty_cells, EMPTY_CELLS),
    ):
        if value not in known:
            raise unknown_name(what, str(value), known)
    if block_rows < 1:
        raise BftembedError(f"block_rows (--block-rows) is {block_rows}; give 1 or more.")
    task = _Task(_loaded(embeddings), key, normalize, denominator, l2, empty_cells, block_rows, progress)
    choice: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_column": gene_column}
    if not isinstance(data, str | os.PathLike):
        return _embed_anndata(data, task, choice, out=out, overwrite=overwrite)
    source = Path(data)
    target = check_destination(source, out)
    refuse_input_as_output(target, embeddings)
    with open_h5ad(source) as handle:
        check_free(key, has_key(handle, key), overwrite, str(source))
        vectors, empty, report = task.run(expression_of_file(handle, **choice))
    keep = ~empty if empty_cells == "drop" and empty.any() else None
    write_copy(source, target, key, vectors, task.provenance(report, gene_column), keep=keep)
    return replace(report, out=target)


def _embed_anndata(adata: AnnData, task: _Task, choice: dict[str, Any], *, out: Any, overwrite: bool) -> AnnData:
    if not hasattr(adata, "obsm"):
        raise BftembedError(f"data is a {type(adata).__name__}; give the path of a h5ad file or an AnnData.")
    if out is not None:
        raise BftembedError(
            "out is for files. For an AnnData leave it out, and call adata.write_h5ad(path) afterwards."
        )
    check_free(task.key, task.key in adata.obsm, overwrite, "The AnnData")
    vectors, empty, report = task.run(expression_of_anndata(adata, **choice))
    if task.empty_policy == "drop" and empty.any():
        adata, vectors = adata[~empty].copy(), vectors[~empty]
    put(adata, task.key, vectors, task.provenance(report, choice["gene_column"]))
    return adata


def _loaded(embeddings: GeneEmbeddings | str | os.PathLike[str]) -> GeneEmbeddings:
    from bftembed.embeddings import GeneEmbeddings

    if isinstance(embeddings, str | os.PathLike):
        return GeneEmbeddings.load(embeddings)
    if not isinstance(embeddings, GeneEmbeddings):
        raise BftembedError(
            f"embeddings is a {type(embeddings).__name__}; give GeneEmbeddings(ids, matrix) or a .safetensors path."
        )
    return embeddings


@dataclass(frozen=True)
class _Task:
    """Checked options, and the way from an expression matrix to vectors."""

    embeddings: GeneEmbeddings
    key: str
    normalize: str
    denominator: str
    l2: bool
    empty_policy: str
    block_rows: int
    progress: Progress

    def run(self, expression: Expression) -> tuple[np.ndarray, np.ndarray, CellEmbeddingReport]:
        """Return vectors float32 (n_cells, d), which cells have none (n_cells,), and the report."""
        from bftembed.entities.genes import GeneIndex

        where = expression.where
        match = match_genes(expression.genes, self.embeddings.ids, GeneIndex.default().resolve, where=where)
        values = summarize(
            expression.matrix.blocks(self.block_rows), match.rows, expression.n_cells, progress=self.progress
        )
        _refuse_bad_values(values, expression)
        decision = decide(self.normalize, values, logged=expression.logged, where=where, others=expression.others)
        self._refuse_empty(values.covered <= 0, values, expression)
        vectors = aggregate(
            expression.matrix.blocks(self.block_rows),
            match.rows,
            self.embeddings.matrix,
            values.totals,
            log1p_cp10k=decision.normalize == "log1p-cp10k",
            matched_denominator=self.denominator == "matched-expression",
            l2=self.l2,
            progress=self.progress,
        )
        _refuse_overflow(vectors, expression)
        # Beside uncovered cells those whose gene vectors cancel out: they have no direction.
        empty = np.isnan(vectors[:, 0])
        names = self._refuse_empty(empty, values, expression)
        return vectors, empty, self._report(expression, match, values, decision, names)

    def _refuse_empty(self, empty: np.ndarray, values: ValueSummary, expression: Expression) -> tuple[str, ...]:
        if not empty.any():
            return ()
        cells = expression.cell_names()
        names = tuple(cells[i] for i in np.flatnonzero(empty))
        what = (
            f"{len(names)} of {expression.n_cells} cells express no gene with an embedding "
            f"({int((values.totals <= 0).sum())} express nothing at all): {examples(names)}"
        )
        if self.empty_policy == "error":
            raise BftembedError(
                f"{expression.where}: {what}. They can have no vector. Filter them, or choose empty_cells='drop' to "
                f"leave them out or 'nan' to keep them with a row of NaN (--empty-cells drop|nan)."
            )
        if self.empty_policy == "drop" and empty.all():
            raise BftembedError(f"{expression.where}: {what}. Dropping them leaves no cell.")
        return names

    def _report(
        self,
        expression: Expression,
        match: GeneMatch,
        values: ValueSummary,
        decision: Decision,
        names: tuple[str, ...],
    ) -> CellEmbeddingReport:
        total = float(values.totals.sum())
        return CellEmbeddingReport(
            key=self.key,
            dim=self.embeddings.dim,
            matrix=expression.name,
            n_cells=expression.n_cells,
            n_genes=expression.n_genes,
            n_used=match.n_used,
            n_mapped=match.n_mapped,
            n_ambiguous=match.n_ambiguous,
            n_unresolved=match.n_unresolved,
            n_no_embedding=match.n_no_embedding,
            n_duplicates=match.n_duplicates,
            coverage=float(values.covered.sum()) / total if total else 0.0,
            normalize=decision.normalize,
            reason=decision.reason,
            denominator=self.denominator,
            l2=self.l2,
            empty_cells=names,
            empty_policy=self.empty_policy,
        )

    def provenance(self, report: CellEmbeddingReport, gene_column: str | None) -> dict[str, Any]:
        """Return what ``.uns["bftembed"][key]`` holds: flat, and the same for the same input at any time."""
        from bftembed import __version__
        from bftembed.io import canonical_json

        kept = {name: value for name, value in report.as_dict().items() if name not in ("out", "key", "empty_cells")}
        return {
            "version": __version__,
            "embeddings": canonical_json(self.embeddings.provenance),
            "embeddings_sha256": self.embeddings.fingerprint(),
            "gene_column": gene_column or "",
            **kept,
            "empty_cells": np.array(report.empty_cells, dtype=object),
        }


def _refuse_overflow(vectors: np.ndarray, expression: Expression) -> None:
    rows = np.flatnonzero(np.isinf(vectors[:, 0]))  # `aggregate` marks the whole row.
    if len(rows):
        cells = expression.cell_names()
        raise BftembedError(
            f"{expression.where}: the vectors of {len(rows)} cells overflow float32: "
            f"{examples(cells[i] for i in rows)}. Choose normalize='log1p-cp10k' (--normalize log1p-cp10k), or scale "
            f"the data or the gene embeddings down."
        )


def _refuse_bad_values(values: ValueSummary, expression: Expression) -> None:
    for n, first, what, cause in (
        (values.n_not_finite, values.first_not_finite, "NaN, infinite or beyond float32", "Repair or remove them"),
        (values.n_negative, values.first_negative, "negative", "Scaled or regressed values cannot be weights"),
    ):
        if first is None:
            continue
        cell, gene = expression.cell_names()[first[0]], expression.genes[first[1]]
        remedy = (
            f"Other matrices here: {'; '.join(expression.others)}."
            if expression.others
            else ("There is no other matrix in the data: go back to the counts or the logged values.")
        )
        raise BftembedError(
            f"{expression.where}: {n} values are {what}, the first in cell {cell!r} (row {first[0]}), gene {gene!r} "
            f"(column {first[1]}). {cause}. {remedy}"
        )
