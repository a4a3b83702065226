"""Files embedded one after the other into one sidecar; or one shard of one file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.kernels import steady
from bftembed.cells.names import Table
from bftembed.cells.reading import expression_in
from bftembed.cells.report import together
from bftembed.cells.sidecar import check_sidecar, sidecar_of
from bftembed.errors import BftembedError
from bftembed.io import canonical_json, sha256_text
from bftembed.shards import parse_shard

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from bftembed.cells.reading import Expression
    from bftembed.cells.report import CellEmbeddingReport
    from bftembed.cells.sidecar import Sidecar
    from bftembed.cells.task import Done, Ready, Task


@dataclass(frozen=True)
class Shard:
    """The `number`-th, from 1, of `count` runs of consecutive cells."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``"2/8"``.

        Raises
        ------
        BftembedError
            For anything but ``"i/n"`` with i from 1 to n.
        """
        return cls(*parse_shard(text))

    def cells(self, n_cells: int, where: str) -> range:
        """Return the cells of this shard; those of all shards differ by one at most.

        Raises
        ------
        BftembedError
            When there are more shards than cells.
        """
        if self.count > n_cells:
            raise BftembedError(f"{where} has {n_cells} cells, too few for {self.count} shards (--shard).")
        return range((self.number - 1) * n_cells // self.count, self.number * n_cells // self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def embed_to_sidecar(
    sources: Sequence[Path],
    sidecar: str | os.PathLike[str],
    task: Task,
    choice: dict[str, Any],
    *,
    shard: Shard | None = None,
    inputs: Sequence[object] = (),
) -> CellEmbeddingReport:
    """Embed the cells of files, one after the other, into a file of their own.

    Parameters
    ----------
    sources
        Files, see `bftembed.cells.reading.expression_in`.
    sidecar
        ``.h5ad``, ``.zarr`` or ``.parquet``, see `bftembed.cells.sidecar`.
    task
        What is asked for.
    choice
        Arguments of `expression_in`.
    shard
        Only these cells of a single file.
    inputs
        Other files that `sidecar` must not be.

    Raises
    ------
    BftembedError
        As `bftembed.cells.embed.embed_cells` does.
    """
    several = len(sources) > 1
    if shard is not None and several:
        raise BftembedError("A shard (--shard) is a part of one file. Give one file, or no shard.")
    if several and task.asked.weights == "idf":
        raise BftembedError(
            "weights='idf' (--weights idf) counts the cells of one file; several would each get other weights. "
            "Join the files first, or choose weights='expression' or 'rank'."
        )
    target = check_sidecar(sidecar, *sources, *inputs)
    n_cells = 0
    for source in sources:
        with expression_in(source, **choice) as found:
            n_cells += len(shard.cells(found.n_cells, found.where)) if shard else found.n_cells
    labels = _labels(sources) if several else []
    drop = task.asked.empty_policy == "drop"
    with sidecar_of(target, task.key, n_cells, files=labels, drop=drop) as destination:
        stream = _Stream(task, destination, choice, target.parent)
        for source in sources:
            stream.add(source, shard)
        report = stream.report(labels)
        provenance = task.provenance(report, choice["gene_column"])
        destination.finish({**provenance, **(stream.of_shard(provenance) if shard else stream.of_files(report))})
    return replace(report, out=target)


def _labels(sources: Sequence[Path]) -> list[str]:
    for names in ([source.name for source in sources], [str(source) for source in sources]):
        if len(set(names)) == len(names):
            return names
    twice = next(source for source in sources if sources.count(source) > 1)
    raise BftembedError(f"{twice} is given twice. Give each file once.")


class _Stream:
    """What is known of the inputs so far."""

    def __init__(self, task: Task, destination: Sidecar, choice: dict[str, Any], scratch: Path) -> None:
        self._task, self._destination, self._choice, self._scratch = task, destination, choice, scratch
        self._runs: list[tuple[Path, Done]] = []
        self._genes: np.ndarray | None = None
        self._shard: dict[str, Any] = {}

    def add(self, source: Path, shard: Shard | None) -> None:
        """Embed one more file."""
        with expression_in(source, **self._choice) as expression:
            ready = self._task.prepare(expression, scratch=self._scratch)
            self._refuse_other_genes(ready, source)
            cells = shard.cells(expression.n_cells, expression.where) if shard else range(expression.n_cells)
            kernel = self._runs[0][1].report.kernel if self._runs else None
            if shard is not None:  # shards of one run must round alike
                stored = getattr(expression.matrix, "n_values", expression.n_cells * expression.n_genes)
                kernel = steady(stored * ready.dim, self._task.asked.precision)
            done = self._task.run(ready, self._destination.sink((len(cells), ready.dim)), cells=cells, kernel=kernel)
            self._refuse_other_values(done, source)
            self._runs.append((source, done))
            table = Table(str(source), expression.cell_name_part, cells, done.coverage, done.keep)
            self._destination.take(table)
            if shard is not None:
                self._shard = _place(shard, cells, expression, done)
        # Memory is for the cells of the file at hand.
        self._runs[-1] = (source, replace(done, coverage=np.empty(0), empty=np.empty(0, dtype=bool)))

    def report(self, labels: Sequence[str]) -> CellEmbeddingReport:
        """Return one report of all files."""
        reports = [done.report for _, done in self._runs]
        if not labels:
            return reports[0]
        named = [replace(report, file=label) for report, label in zip(reports, labels, strict=True)]
        return together(named, [done.total for _, done in self._runs])

    def of_shard(self, provenance: dict[str, Any]) -> dict[str, Any]:
        """Return what a shard says of itself, see `bftembed.cells.merge`."""
        decides = {name: provenance[name] for name in DECIDES}
        fixed = {"genes_sha256": self._shard["genes_sha256"], "cells_of_all": self._shard["cells_of_all"]}
        return {**self._shard, "decides_sha256": sha256_text(canonical_json({**decides, **fixed}))}

    def of_files(self, report: CellEmbeddingReport) -> dict[str, Any]:
        """Return what is said of each of several files: JSON, one text per file."""
        left_out = ("empty_cells", "kernel_reason", "files", "out", "key")
        told = [{k: v for k, v in one.as_dict().items() if k not in left_out} for one in report.files]
        return {"files": np.array([canonical_json(one) for one in told], dtype=object)} if told else {}

    def _refuse_other_genes(self, ready: Ready, source: Path) -> None:
        """Centring and whitening hang on the genes that are there."""
        if self._task.asked.gene_matrix == "raw":
            return
        genes = np.unique(ready.match.rows)
        if self._genes is not None and not np.array_equal(genes, self._genes):
            raise BftembedError(
                f"{self._runs[0][0]} and {source} have not the same genes with an embedding, so gene_matrix="
                f"{self._task.asked.gene_matrix!r} (--gene-matrix) would be another for each. Choose 'raw', or bring "
                f"the files to the same genes."
            )
        self._genes = genes

    def _refuse_other_values(self, done: Done, source: Path) -> None:
        if not self._runs:
            return
        first, before = self._runs[0][0], self._runs[0][1].report
        if done.report.normalize != before.normalize:
            raise BftembedError(
                f"The values of {first} and {source} are not of one kind: {before.normalize!r} for the first "
                f"({before.reason}), {done.report.normalize!r} for the second ({done.report.reason}). Say which with "
                f"normalize='log1p-cp10k' or 'none' (--normalize), or embed them apart."
            )


#: What must be equal for shards of one run, beside normalisation and kernel.
DECIDES = (
    *("version", "embeddings_sha256", "dim", "matrix", "gene_column", "n_genes", "weights", "top_k", "gene_matrix"),
    *("denominator", "l2", "precision", "empty_policy"),
)


def _place(shard: Shard, cells: range, expression: Expression, done: Done) -> dict[str, Any]:
    return {
        "shard": str(shard),
        "first_row": cells.start,
        "last_row": cells.stop - 1,
        "cells_of_all": expression.n_cells,
        "genes_sha256": sha256_text(canonical_json(expression.genes)),
        "expression_total": done.total,
    }
