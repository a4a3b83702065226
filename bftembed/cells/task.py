"""From an expression matrix and gene embeddings to vectors: genes matched, values judged, empty cells told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.aggregate import Aggregator, Recipe, aggregate
from bftembed.cells.budget import MOST_ROWS, block_rows_within
from bftembed.cells.kernels import TOLERANCE
from bftembed.cells.matching import GeneMatch, match_genes
from bftembed.cells.names import picked
from bftembed.cells.normalize import NORMALIZE, Decision, decide
from bftembed.cells.refusals import refuse_bad_values
from bftembed.cells.report import CellEmbeddingReport
from bftembed.cells.transforms import transformed
from bftembed.cells.weighting import WEIGHTS, Weighting, cells_with, inverse_document_frequency
from bftembed.cells.writing import Embedded
from bftembed.entities.genes import GeneIndex
from bftembed.entities.proteins import ProteinIndex
from bftembed.errors import BftembedError, examples, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bftembed.cells.aggregate import Sink
    from bftembed.cells.examine import ValueSummary
    from bftembed.cells.kernels import Choice
    from bftembed.cells.reading import Expression
    from bftembed.cells.rows import Rows
    from bftembed.cells.weighting import Weights
    from bftembed.embeddings import GeneEmbeddings
    from bftembed.progress import Progress


DENOMINATORS = ("all-genes", "matched-expression")
EMPTY_CELLS = ("error", "nan", "drop")


@dataclass(frozen=True)
class Aggregation:
    """How gene vectors become cell vectors; the words are those of `bftembed.cells.embed.embed_cells`."""

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
class Asked(Aggregation):
    """Options, checked when made; `memory` in bytes. See `bftembed.cells.embed.embed_cells`."""

    empty_policy: str = "error"
    precision: str = "fast"
    kernel: str | None = None
    block_rows: int | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        for what, value, known in (
            ("normalize", self.normalize, NORMALIZE),
            ("weights", self.weights, WEIGHTS),
            ("kind", self.kind, ("gene", "protein")),
            ("denominator", self.denominator, DENOMINATORS),
            ("empty_cells", self.empty_policy, EMPTY_CELLS),
            ("precision", self.precision, tuple(TOLERANCE)),
        ):
            if value not in known:
                raise unknown_name(what, str(value), known)
        if self.block_rows is not None and self.block_rows < 1:
            raise BftembedError(f"block_rows is {self.block_rows}; give 1 or more.")
        if self.top_k is not None and self.top_k < 1:
            raise BftembedError(f"top_k (--top-k) is {self.top_k}; give 1 or more.")


@dataclass(frozen=True)
class Ready:
    """An expression matrix whose genes are matched.

    Attributes
    ----------
    expression, match
        The matrix, and which of its genes has which embedding.
    target_of
        int32 (n_genes,): row of each gene in `vectors`, -1 for none; no two share one.
    vectors
        float32 (n_targets, d): what is summed.
    scratch
        Folder for a scratch file.
    """

    expression: Expression
    match: GeneMatch
    target_of: np.ndarray
    vectors: np.ndarray
    scratch: Path | None

    def names_of(self, rows: np.ndarray) -> list[str]:
        """Return the names of the cells at rising positions `rows` of the matrix."""
        return picked(self.expression.cell_name_part, rows)

    @property
    def dim(self) -> int:
        """Number of dimensions of the vectors of cells."""
        return int(self.vectors.shape[1])


@dataclass(frozen=True)
class Done:
    """What a run tells beside its vectors; `total` is the sum of all values."""

    report: CellEmbeddingReport
    coverage: np.ndarray
    empty: np.ndarray
    total: float

    @property
    def keep(self) -> np.ndarray | None:
        """Cells to write, bool (n_cells,); None for all."""
        return ~self.empty if self.report.empty_policy == "drop" and self.empty.any() else None


@dataclass(frozen=True)
class Task:
    """What is asked for, and the way from an expression matrix to vectors."""

    embeddings: GeneEmbeddings
    key: str
    asked: Asked
    progress: Progress

    def prepare(self, expression: Expression, *, scratch: Path | None = None) -> Ready:
        """Match the genes; nothing else is read yet."""
        index = ProteinIndex if self.asked.kind == "protein" else GeneIndex
        resolve = index.default().resolve
        match = match_genes(expression.genes, self.embeddings.ids, resolve, where=expression.where)
        columns = np.flatnonzero(match.rows >= 0)
        columns = columns[np.argsort(match.rows[columns], kind="stable")]  # the data's order does not matter
        target_of = np.full(len(match.rows), -1, dtype=np.int32)
        target_of[columns] = np.arange(len(columns))
        return Ready(expression, match, target_of, self._gene_matrix(match.rows[columns]), scratch)

    def run(self, ready: Ready, sink: Sink, *, cells: range | None = None, kernel: str | None = None) -> Done:
        """Give the vectors of `cells` (all by default) to `sink`; `kernel` is taken where none was asked for."""
        expression, match, asked = ready.expression, ready.match, self.asked
        cells = range(expression.n_cells) if cells is None else cells
        height = min(self._block_rows(ready), expression.n_cells)  # for a shard as for the whole

        def blocks(cells: range = cells) -> Iterator[Rows]:
            return expression.matrix.rows(height, cells, scratch=ready.scratch)

        aggregator = Aggregator(
            ready.vectors,
            len(cells),
            Recipe(
                n_genes=expression.n_genes,
                # What is rare is rare among all cells, those of other shards included.
                weigh=self._weighting(lambda: blocks(range(expression.n_cells)), ready, expression.n_cells),
                matched_denominator=asked.denominator == "matched-expression",
                l2=asked.l2,
                precision=asked.precision,
                kernel=asked.kernel or kernel,
                block_rows=height,
            ),
        )

        def decision(values: ValueSummary) -> Decision:
            return decide(
                asked.normalize, values, logged=expression.logged, where=expression.where, others=expression.others
            )

        watched = _Watched(sink, np.zeros(len(cells), dtype=bool), np.zeros(len(cells), dtype=bool))
        values = aggregate(
            blocks,
            ready.target_of,
            cells,
            aggregator,
            watched,
            transform_of=lambda values: decision(values).normalize,
            every_cell=asked.empty_policy == "error",
            progress=self.progress,
        )
        refuse_bad_values(values, expression)
        _refuse_overflow(watched.infinite, ready, cells)
        # Beside uncovered cells those whose gene vectors cancel out: they have no direction.
        empty = watched.empty | (values.covered <= 0)
        names = self._refuse_empty(empty, values, ready, cells)
        assert aggregator.choice is not None  # there is at least one cell
        report = self._report(expression, match, values, decision(values), names, aggregator.choice, ready.dim)
        with np.errstate(invalid="ignore"):
            return Done(report, values.covered / values.totals, empty, float(values.totals.sum()))

    def _block_rows(self, ready: Ready) -> int:
        asked, matrix = self.asked, ready.expression.matrix
        if asked.block_rows is not None or asked.memory is None:
            return asked.block_rows or MOST_ROWS
        stored = matrix.n_values / matrix.shape[0]
        return block_rows_within(asked.memory, len(ready.vectors), ready.dim, stored)

    def _gene_matrix(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of the genes of the data, one row per column; transformed with each gene counted once."""
        if self.asked.gene_matrix == "raw":
            matrix = self.embeddings.matrix
            every = len(rows) == len(matrix) and bool((np.diff(rows) == 1).all())
            return matrix if every else np.ascontiguousarray(matrix[rows])
        genes, places = np.unique(rows, return_inverse=True)
        return np.ascontiguousarray(transformed(self.embeddings.matrix[genes], self.asked.gene_matrix)[places])

    def _weighting(self, blocks: Callable[[], Iterator[Rows]], ready: Ready, n_cells: int) -> Weighting | None:
        weights, top_k = self.asked.weights, self.asked.top_k
        if weights == "expression" and top_k is None:
            return None
        idf = None
        if weights == "idf":
            n_with = cells_with(blocks(), ready.target_of, len(ready.vectors), n_cells, self.progress)
            idf = inverse_document_frequency(n_with, n_cells)
        return Weighting(weights, top_k, idf)

    def embedded(self, done: Done, gene_column: str | None) -> Embedded:
        """Return what is written beside the vectors."""
        return Embedded(self.provenance(done.report, gene_column), done.coverage, done.keep)

    def _refuse_empty(self, empty: np.ndarray, values: ValueSummary, ready: Ready, cells: range) -> tuple[str, ...]:
        if not empty.any():
            return ()
        where, names = ready.expression.where, tuple(ready.names_of(cells.start + np.flatnonzero(empty)))
        what = (
            f"{len(names)} of {len(cells)} cells express no gene with an embedding "
            f"({int((values.totals <= 0).sum())} express nothing at all): {examples(names)}"
        )
        if self.asked.empty_policy == "error":
            raise BftembedError(
                f"{where}: {what}. They can have no vector. Filter them, or choose empty_cells='drop' to "
                f"leave them out or 'nan' to keep them with a row of NaN (--empty-cells drop|nan)."
            )
        if self.asked.empty_policy == "drop" and empty.all():
            raise BftembedError(f"{where}: {what}. Dropping them leaves no cell.")
        return names

    def _report(
        self,
        expression: Expression,
        match: GeneMatch,
        values: ValueSummary,
        decision: Decision,
        names: tuple[str, ...],
        choice: Choice,
        dim: int,
    ) -> CellEmbeddingReport:
        total = float(values.totals.sum())
        return CellEmbeddingReport(
            key=self.key,
            dim=dim,
            matrix=expression.name,
            n_cells=len(values.totals),
            n_genes=expression.n_genes,
            n_other_features=expression.n_other_features,
            n_used=match.n_used,
            n_mapped=match.n_mapped,
            n_ambiguous=match.n_ambiguous,
            n_unresolved=match.n_unresolved,
            n_no_embedding=match.n_no_embedding,
            n_duplicates=match.n_duplicates,
            coverage=float(values.covered.sum()) / total if total else 0.0,
            normalize=decision.normalize,
            reason=decision.reason,
            weights=self.asked.weights,
            top_k=self.asked.top_k or 0,
            gene_matrix=self.asked.gene_matrix,
            denominator=self.asked.denominator,
            l2=self.asked.l2,
            precision=self.asked.precision,
            kernel=choice.kernel.name,
            kernel_reason=choice.reason,
            empty_cells=names,
            empty_policy=self.asked.empty_policy,
        )

    def provenance(self, report: CellEmbeddingReport, gene_column: str | None) -> dict[str, Any]:
        """Return what ``.uns["bftembed"][key]`` holds: flat, and the same for the same input at any time."""
        from bftembed._version import __version__
        from bftembed.io import canonical_json

        # Times differ from run to run.
        left_out = ("out", "key", "empty_cells", "kernel_reason", "file", "files")
        kept = {name: value for name, value in report.as_dict().items() if name not in left_out}
        return {
            "version": __version__,
            "embeddings": canonical_json(self.embeddings.provenance),
            "embeddings_sha256": self.embeddings.fingerprint(),
            "gene_column": gene_column or "",
            "kind": self.asked.kind,
            **kept,
            "empty_cells": np.array(report.empty_cells, dtype=object),
        }


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


def _refuse_overflow(infinite: np.ndarray, ready: Ready, cells: range) -> None:
    rows = np.flatnonzero(infinite)
    if len(rows):
        raise BftembedError(
            f"{ready.expression.where}: the vectors of {len(rows)} cells overflow float32: "
            f"{examples(ready.names_of(cells.start + rows))}. Choose normalize='log1p-cp10k' (--normalize "
            f"log1p-cp10k), or scale the data or the gene embeddings down."
        )
