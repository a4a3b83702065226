"""From an expression matrix and gene embeddings to vectors: options, matched genes, blocks, report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.aggregate import WEIGHTS, Aggregator, Weighting, embed_blocks, inverse_document_frequency
from bftembed.cells.kernels import TOLERANCE, steady
from bftembed.cells.output import Embedded, Memory
from bftembed.cells.report import CellEmbeddingReport
from bftembed.cells.transforms import transformed
from bftembed.entities.genes import GeneIndex
from bftembed.entities.proteins import ProteinIndex
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.expression.features import match_genes
from bftembed.expression.normalize import NORMALIZE, decide
from bftembed.expression.source import open_expression
from bftembed.expression.value_stats import reject_bad_values
from bftembed.io import canonical_json, sha256_text
from bftembed.progress import silent
from bftembed.shards import parse_shard

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anndata import AnnData

    from bftembed.cells.aggregate import Method, Sink, Weights
    from bftembed.cells.output import SinkOf
    from bftembed.embeddings import GeneEmbeddings
    from bftembed.expression.features import GeneMatch
    from bftembed.expression.matrix import Rows
    from bftembed.expression.normalize import Decision
    from bftembed.expression.source import Expression
    from bftembed.expression.value_stats import ValueSummary
    from bftembed.progress import Progress

EMPTY_CELLS = ("error", "nan", "drop")
_DENOMINATORS = ("all-genes", "matched-expression")
#: Cells of a block.
_BLOCK_ROWS = 2048


@dataclass(frozen=True)
class Aggregation:
    """How gene vectors become cell vectors; the options are those of `bftembed.embed_cells`."""

    kind: str = "gene"
    normalize: str = "auto"
    weights: Weights = "expression"
    top_k: int | None = None
    gene_matrix: str = "raw"
    denominator: str = "all-genes"
    l2: bool = True

    def __str__(self) -> str:
        parts = [self.weights if self.top_k is None else f"{self.weights}, top {self.top_k}", self.gene_matrix]
        return ", ".join([*parts, self.normalize, *([] if self.l2 else ["not scaled"])])


@dataclass(frozen=True)
class EmbedOptions(Aggregation):
    """Options of `bftembed.embed_cells`, checked when made."""

    empty_policy: str = "error"
    precision: str = "fast"
    kernel: str | None = None
    block_rows: int | None = None

    def __post_init__(self) -> None:
        for what, value, known in (
            ("normalize", self.normalize, NORMALIZE),
            ("weights", self.weights, WEIGHTS),
            ("kind", self.kind, ("gene", "protein")),
            ("denominator", self.denominator, _DENOMINATORS),
            ("empty_cells", self.empty_policy, EMPTY_CELLS),
            ("precision", self.precision, tuple(TOLERANCE)),
        ):
            if value not in known:
                raise unknown_name(what, str(value), known)
        for name, count in (("block_rows", self.block_rows), ("top_k (--top-k)", self.top_k)):
            if count is not None and count < 1:
                raise BftembedError(f"{name} is {count}; give 1 or more.")


@dataclass(frozen=True)
class CellEmbedder:
    """Embeds cells by weighted sums of gene embeddings; `key` is that of ``.obsm``, `shard` is ``"i/n"``."""

    embeddings: GeneEmbeddings
    key: str
    options: EmbedOptions
    shard: str | None = None
    progress: Progress = silent

    def run(self, expression: Expression, sink_of: SinkOf | None, scratch: Path | None = None) -> Embedded:
        """Write the vectors of the cells to ``sink_of(shape)``; without one embed the first block and write nothing.

        `scratch` is a folder for a scratch file.
        """
        options, n_cells = self.options, expression.n_cells
        match, target_of, matrix = self._matched(expression)
        height = min(options.block_rows or _BLOCK_ROWS, n_cells)  # for a shard as for the whole
        every = range(n_cells) if sink_of else range(height)
        cells = _shard_cells(self.shard, n_cells, expression.where) if self.shard and sink_of else every
        stored = getattr(expression.matrix, "n_values", n_cells * expression.n_genes)
        density = stored / n_cells / expression.n_genes
        method = Aggregator(
            matrix,
            target_of,
            options.kernel or steady(stored * matrix.shape[1], options.precision, density),
            requested=options.kernel is not None,
            # Rarity is that among all cells, those of other shards included.
            weigh=self._weighting(expression, target_of, len(matrix), height, every, scratch),
            matched_denominator=options.denominator == "matched-expression",
            l2=options.l2,
            precision=options.precision,
            block_rows=height,
        )

        def told() -> dict[str, Any]:
            assert method.kernel is not None  # there is at least one cell
            names = ("weights", "gene_matrix", "denominator", "l2", "precision")
            chosen = {name: getattr(options, name) for name in names}
            return {**chosen, "top_k": options.top_k or 0, "kernel": method.kernel.name}

        about = {
            "embeddings": canonical_json(self.embeddings.provenance),
            "embeddings_sha256": self.embeddings.fingerprint(),
            "kind": options.kind,
        }
        done = run_method(
            method,
            expression,
            sink_of((len(cells), method.dim)) if sink_of else _Discard(),
            match,
            told,
            about,
            key=self.key,
            normalize=options.normalize,
            empty_policy=options.empty_policy,
            cells=cells,
            block_rows=height,
            scratch=scratch,
            progress=self.progress,
        )
        if self.shard:
            genes = sha256_text(canonical_json(expression.genes))
            rows = {"first_row": cells.start, "last_row": cells.stop - 1, "cells_of_all": n_cells}
            done.provenance.update(shard=self.shard, genes_sha256=genes, expression_total=done.total, **rows)
        return done

    def _matched(self, expression: Expression) -> tuple[GeneMatch, np.ndarray, np.ndarray]:
        """Return which gene has which embedding, its row among the vectors to sum (int32, -1 for none), and these."""
        index = ProteinIndex if self.options.kind == "protein" else GeneIndex
        resolve = index.default().resolve
        match = match_genes(expression.genes, self.embeddings.ids, resolve, where=expression.where)
        columns = np.flatnonzero(match.rows >= 0)
        columns = columns[np.argsort(match.rows[columns], kind="stable")]  # the data's order does not matter
        target_of = np.full(len(match.rows), -1, dtype=np.int32)
        target_of[columns] = np.arange(len(columns))
        rows, matrix = match.rows[columns], self.embeddings.matrix
        if self.options.gene_matrix != "raw":  # fitted with each gene counted once
            genes, places = np.unique(rows, return_inverse=True)
            vectors = np.ascontiguousarray(transformed(matrix[genes], self.options.gene_matrix)[places])
        else:
            every = len(rows) == len(matrix) and bool((np.diff(rows) == 1).all())
            vectors = matrix if every else np.ascontiguousarray(matrix[rows])
        return match, target_of, vectors

    def _weighting(
        self,
        expression: Expression,
        target_of: np.ndarray,
        n_targets: int,
        height: int,
        cells: range,
        scratch: Path | None,
    ) -> Weighting | None:
        weights, top_k = self.options.weights, self.options.top_k
        if weights == "expression" and top_k is None:
            return None
        idf = None
        if weights == "idf":
            blocks = expression.matrix.rows(height, cells, scratch=scratch)
            idf = inverse_document_frequency(blocks, target_of, n_targets, len(cells), self.progress)
        return Weighting(weights, top_k, idf)


def run_method(
    method: Method,
    expression: Expression,
    sink: Sink,
    match: GeneMatch,
    told: Callable[[], dict[str, Any]],
    about: dict[str, Any],
    *,
    key: str,
    normalize: str,
    empty_policy: str,
    cells: range,
    block_rows: int,
    scratch: Path | None,
    look_first: bool = False,
    lacking: str = "an embedding",
    n_unnamed: int = 0,
    progress: Progress = silent,
) -> Embedded:
    """Embed cells by any method and check all of their values.

    `told` gives what the method adds to the report once it has run, `about` what is added to the provenance.

    Raises
    ------
    BftembedError
        For bad values, unclear ones, vectors beyond float32, and empty cells unless `empty_policy` allows them.
    """
    from bftembed._version import __version__

    def blocks() -> Iterator[Rows]:
        return expression.matrix.rows(block_rows, cells, scratch=scratch)

    def decision(values: ValueSummary) -> Decision:
        return decide(normalize, values, logged=expression.logged, where=expression.where, others=expression.others)

    watched = _Watched(sink, np.zeros(len(cells), dtype=bool), np.zeros(len(cells), dtype=bool))
    values = embed_blocks(
        blocks,
        cells,
        method,
        watched,
        transform_of=lambda values: decision(values).normalize,
        every_cell=empty_policy == "error",
        look_first=look_first,
        progress=progress,
    )
    reject_bad_values(values, expression)
    if watched.infinite.any():
        rows = cells.start + np.flatnonzero(watched.infinite)
        raise BftembedError(
            f"{expression.where}: the vectors of {len(rows)} cells overflow float32: "
            f"{examples(_names_of(expression, rows))}. Choose normalize='log1p-cp10k' (--normalize log1p-cp10k), or "
            f"scale the data or the gene embeddings down."
        )
    # Uncovered cells, and those whose gene vectors cancel out: they have no direction.
    empty = watched.empty | (values.covered <= 0)
    names = tuple(_names_of(expression, cells.start + np.flatnonzero(empty))) if empty.any() else ()
    if names and (empty_policy == "error" or (empty_policy == "drop" and empty.all())):
        raise BftembedError(
            f"{expression.where}: {len(names)} of {len(cells)} cells express no gene with {lacking} "
            f"({int((values.totals <= 0).sum())} express nothing at all): {examples(names)}. Filter them, or choose "
            f"empty_cells='drop' to leave them out (not all of them) or 'nan' to keep them with a row of NaN "
            f"(--empty-cells drop|nan)."
        )
    total, decided = float(values.totals.sum()), decision(values)
    covered = method.covered(values)
    looked = isinstance(sink, _Discard)
    seen = f", in the first {len(cells):,} cells" if looked and len(cells) < expression.n_cells else ""
    report = CellEmbeddingReport(
        key=key,
        dim=method.dim,
        matrix=expression.name,
        n_cells=expression.n_cells if looked else len(cells),
        n_genes=expression.n_genes,
        n_other_features=expression.n_other_features,
        n_used=match.n_used,
        n_mapped=match.n_mapped,
        n_ambiguous=match.n_ambiguous,
        n_unresolved=match.n_unresolved,
        n_no_embedding=match.n_no_embedding,
        n_unnamed=n_unnamed,
        n_duplicates=match.n_duplicates,
        coverage=float(covered.sum()) / total if total else 0.0,
        normalize=decided.normalize,
        reason=decided.reason + seen,
        empty_cells=names,
        empty_policy=empty_policy,
        method=told(),
    )
    kept = {name: x for name, x in report.as_dict().items() if name not in _NOT_PROVENANCE}
    provenance = {"version": __version__, **kept, **about, "empty_cells": np.array(names, dtype=object)}
    with np.errstate(invalid="ignore"):
        return Embedded(report, provenance, covered / values.totals, empty, cells, total)


#: Fields of a report that say nothing of the vectors, or are no text or number.
_NOT_PROVENANCE = ("out", "key", "encoding", "n_encoded", "n_reused")


class _Discard:
    def write(self, start: int, vectors: np.ndarray) -> None:
        """Take vectors and keep none."""


@dataclass(frozen=True)
class _Watched:
    """A sink that notes which cells have no vector, and which one that is not finite."""

    sink: Sink
    empty: np.ndarray
    infinite: np.ndarray

    def write(self, start: int, vectors: np.ndarray) -> None:
        part = slice(start, start + len(vectors))
        # Whole rows are marked.
        self.empty[part], self.infinite[part] = np.isnan(vectors[:, 0]), np.isinf(vectors[:, 0])
        self.sink.write(start, vectors)


def _names_of(expression: Expression, rows: np.ndarray) -> list[str]:
    """Return the names of the cells at sorted positions `rows`."""
    names = expression.cell_names(range(int(rows[0]), int(rows[-1]) + 1))
    return [names[row - rows[0]] for row in rows.tolist()]


def _shard_cells(shard: str, n_cells: int, where: str) -> range:
    """Return the cells of the i-th of n runs; their sizes differ by at most one."""
    number, count = parse_shard(shard)
    if count > n_cells:
        raise BftembedError(f"{where} has {n_cells} cells, too few for {count} shards (--shard).")
    return range((number - 1) * n_cells // count, number * n_cells // count)


def cell_vectors(
    data: AnnData | str | os.PathLike[str],
    embeddings: GeneEmbeddings,
    aggregation: Aggregation | None = None,
    **choice: Any,
) -> tuple[np.ndarray, CellEmbeddingReport]:
    """Embed the cells of a file or an AnnData, and change neither.

    Parameters
    ----------
    data
        AnnData, h5ad, zarr store or MuData file.
    embeddings
        Gene or protein embeddings.
    aggregation
        How; by default the weighted mean of `Aggregation`.
    **choice
        Which matrix: layer, use_raw, gene_column, modality (of a file), obsm, obsm_names, as in `bftembed.embed_cells`;
        and the kind of its features, by default that of the aggregation.

    Returns
    -------
    tuple
        float32 (n_cells, d), a row of NaN for a cell that expresses no gene with an embedding; and the report.

    Raises
    ------
    BftembedError
        As `bftembed.embed_cells`.
    """
    how = aggregation or Aggregation()
    with open_expression(data, **{"kind": how.kind, **choice}) as expression:
        return vectors_of(expression, embeddings, how)


def vectors_of(
    expression: Expression, embeddings: GeneEmbeddings, aggregation: Aggregation | None = None
) -> tuple[np.ndarray, CellEmbeddingReport]:
    """Embed the cells of an expression matrix that is open; see `cell_vectors`."""
    options = EmbedOptions(**asdict(aggregation or Aggregation()), empty_policy="nan", precision="exact")
    memory = Memory()
    report = CellEmbedder(embeddings, "vectors", options).run(expression, memory.sink).report
    return memory.vectors, report
