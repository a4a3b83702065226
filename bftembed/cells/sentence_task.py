"""From an expression matrix to the vectors of its cells' sentences: values judged, texts encoded, empty cells told."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.examine import summarize
from bftembed.cells.normalize import decide
from bftembed.cells.refusals import refuse_bad_values
from bftembed.cells.sentence_report import SentenceEmbeddingReport
from bftembed.cells.wording import worded, words_of
from bftembed.cells.writing import Embedded
from bftembed.errors import BftembedError, examples

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bftembed.cells.aggregate import Sink
    from bftembed.cells.examine import ValueSummary
    from bftembed.cells.normalize import Decision
    from bftembed.cells.reading import Expression
    from bftembed.cells.wording import Worded, Words
    from bftembed.encoders.base import Encoder, EncodingReport
    from bftembed.encoders.cache import CachedEncoder
    from bftembed.progress import Progress

#: Cells that are looked at together where no text is made of them.
BLOCK_ROWS = 2048


@dataclass(frozen=True)
class Wording:
    """How genes become a sentence."""

    top_genes: int | None
    prefix: str
    separator: str

    def blocks(
        self, expression: Expression, words: Words, cells: range, height: int, scratch: Path | None
    ) -> Iterator[Worded]:
        """Yield `cells` in words, at most `height` at a time."""
        for rows in expression.matrix.rows(height, cells, scratch=scratch):
            yield worded(rows, words, top_genes=self.top_genes, prefix=self.prefix, separator=self.separator)


@dataclass(frozen=True)
class Ready:
    """An expression matrix whose values are judged and whose genes are named."""

    expression: Expression
    words: Words
    values: ValueSummary
    decision: Decision
    empty: np.ndarray
    empty_names: tuple[str, ...]
    scratch: Path | None

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.expression.n_cells


@dataclass(frozen=True)
class SentenceTask:
    """What is asked for, and the way from an expression matrix to vectors."""

    encoder: Encoder
    key: str
    wording: Wording
    normalize: str
    empty_policy: str
    batch_cells: int
    cache: Path | None

    @property
    def dim(self) -> int:
        """Number of dimensions of the vectors."""
        return self.encoder.spec.dim

    def prepare(self, expression: Expression, scratch: Path | None, progress: Progress) -> Ready:
        """Look at all values, and refuse what must be refused."""
        words = named_genes(expression)
        values = summary_of(expression, words, range(expression.n_cells), scratch, progress)
        refuse_bad_values(values, expression)
        where, others = expression.where, expression.others
        decision = decide(self.normalize, values, logged=expression.logged, where=where, others=others)
        empty = values.covered <= 0
        return Ready(expression, words, values, decision, empty, self._refuse_empty(empty, expression), scratch)

    def run(
        self, ready: Ready, sink: Sink, gene_column: str | None, progress: Progress
    ) -> tuple[SentenceEmbeddingReport, Embedded]:
        """Give the vectors of all cells to `sink`."""
        from bftembed.encoders.cache import CachedEncoder, VectorCache

        n = ready.n_cells
        n_named, covered, n_cut = np.zeros(n, dtype=np.int64), np.zeros(n), 0
        with contextlib.ExitStack() as stack:
            cache = stack.enter_context(VectorCache(self.cache)) if self.cache else None
            encoder = CachedEncoder(self.encoder, cache)
            blocks = self.wording.blocks(ready.expression, ready.words, range(n), self.batch_cells, ready.scratch)
            for block in blocks:
                part = slice(block.start, block.start + len(block.sentences))
                n_named[part], covered[part] = block.n_named, block.covered
                n_cut += int((block.n_expressed > block.n_named).sum())
                vectors = np.full((len(block.sentences), self.dim), np.nan, dtype=np.float32)
                filled = np.flatnonzero(block.n_named)
                if len(filled):
                    texts = [block.sentences[i] for i in filled]
                    vectors[filled] = encoder.encode(texts, _cells_of(progress, part, n))
                sink.write(block.start, vectors)
                progress(part.stop, n, "encoding")
        report = self._report(ready, encoder, n_named, covered, n_cut)
        with np.errstate(invalid="ignore"):
            coverage = covered / ready.values.totals
        keep = ~ready.empty if self.empty_policy == "drop" and ready.empty.any() else None
        return report, Embedded(self._provenance(report, gene_column), coverage, keep)

    def _refuse_empty(self, empty: np.ndarray, expression: Expression) -> tuple[str, ...]:
        if not empty.any():
            return ()
        cells = expression.cell_names()
        names = tuple(cells[i] for i in np.flatnonzero(empty))
        what = f"{len(names)} of {expression.n_cells} cells express no gene with a name: {examples(names)}"
        if self.empty_policy == "error":
            raise BftembedError(
                f"{expression.where}: {what}. They can have no sentence. Filter them, or choose empty_cells='drop' to "
                f"leave them out or 'nan' to keep them with a row of NaN (--empty-cells drop|nan)."
            )
        if self.empty_policy == "drop" and empty.all():
            raise BftembedError(f"{expression.where}: {what}. Dropping them leaves no cell.")
        return names

    def _report(
        self, ready: Ready, encoder: CachedEncoder, n_named: np.ndarray, covered: np.ndarray, n_cut: int
    ) -> SentenceEmbeddingReport:
        words, expression, told = ready.words, ready.expression, encoder.total_report
        total, lengths = float(ready.values.totals.sum()), n_named[n_named > 0]
        return SentenceEmbeddingReport(
            key=self.key,
            dim=self.dim,
            matrix=expression.name,
            n_cells=expression.n_cells,
            n_genes=expression.n_genes,
            n_other_features=expression.n_other_features,
            n_used=words.n_used,
            n_mapped=words.n_mapped,
            n_ambiguous=words.n_ambiguous,
            n_unresolved=words.n_unresolved,
            n_unnamed=words.n_unnamed,
            n_duplicates=words.n_duplicates,
            normalize=ready.decision.normalize,
            reason=ready.decision.reason,
            top_genes=self.wording.top_genes or 0,
            n_cut=n_cut,
            coverage=float(covered.sum()) / total if total else 0.0,
            mean_symbols=float(lengths.mean()) if len(lengths) else 0.0,
            prefix=self.wording.prefix,
            separator=self.wording.separator,
            encoder=self.encoder.spec.name,
            long=self.encoder.spec.long,
            share_over_limit=told.n_over_limit / told.n_texts if told.n_texts else 0.0,
            mean_symbols_within_limit=_within_limit(lengths, told),
            encoding=told.to_dict(),
            n_encoded=encoder.n_encoded,
            n_reused=encoder.n_reused,
            cache=self.cache,
            empty_cells=ready.empty_names,
            empty_policy=self.empty_policy,
        )

    def _provenance(self, report: SentenceEmbeddingReport, gene_column: str | None) -> dict[str, Any]:
        """Return what ``.uns["bftembed"][key]`` holds: flat, and the same for the same input at any time."""
        from bftembed._version import __version__
        from bftembed.io import canonical_json

        left_out = ("out", "key", "empty_cells", "cache", "n_encoded", "n_reused", "encoder", "encoding")
        kept = {name: value for name, value in report.as_dict().items() if name not in left_out}
        return {
            "version": __version__,
            "method": "genept-s",
            "encoder": canonical_json(self.encoder.spec.to_dict()),
            "encoding": canonical_json(report.encoding),
            "gene_column": gene_column or "",
            **kept,
            "empty_cells": np.array(report.empty_cells, dtype=object),
        }


def named_genes(expression: Expression) -> Words:
    """Return what the genes of a matrix are called."""
    from bftembed.entities.genes import GeneIndex

    return words_of(expression.genes, GeneIndex.default().resolve, where=expression.where)


def summary_of(
    expression: Expression, words: Words, cells: range, scratch: Path | None, progress: Progress
) -> ValueSummary:
    """Look at every value of `cells` once; `covered` counts genes with a name."""
    named = np.where(words.word_of >= 0, np.arange(len(words.word_of)), -1)
    return summarize(expression.matrix.rows(BLOCK_ROWS, cells, scratch=scratch), named, cells, progress=progress)


def _within_limit(lengths: np.ndarray, told: EncodingReport) -> float:
    """Return about how many symbols lie within the limit, on average; `lengths` int (n,) symbols per sentence."""
    if not len(lengths):
        return 0.0
    mean = float(lengths.mean())
    if not told.n_over_limit or not told.n_tokens_total or told.max_tokens is None:
        return mean
    tokens_of_symbol = told.n_tokens_total / told.n_texts / mean
    return float(np.minimum(lengths, told.max_tokens / tokens_of_symbol).mean())


def _cells_of(progress: Progress, part: slice, n_cells: int) -> Progress:
    """Return what tells the sentences of a block as cells of all."""

    def told(done: int, total: int, note: str) -> None:
        progress(part.start + (part.stop - part.start) * done // max(1, total), n_cells, note or "encoding")

    return told
