"""Vectors of cells in memory, with nothing written: for benchmarks, where the same cells are embedded several ways."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bftembed.cells.reading import backed_path, expression_in, expression_of_anndata
from bftembed.cells.sinks import Memory
from bftembed.cells.task import Aggregation, Asked, Task
from bftembed.progress import silent

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from bftembed.cells.reading import Expression
    from bftembed.cells.report import CellEmbeddingReport
    from bftembed.embeddings import GeneEmbeddings


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
        Which matrix: layer, use_raw, gene_column, modality (of a file), obsm, obsm_names, as in `embed_cells`; and
        the kind of its features, by default that of the aggregation.

    Returns
    -------
    tuple
        float32 (n_cells, d), a row of NaN for a cell that expresses no gene with an embedding; and the report.

    Raises
    ------
    BftembedError
        As `bftembed.cells.embed.embed_cells`.
    """
    how = aggregation or Aggregation()
    with opened(data, **{"kind": how.kind, **choice}) as expression:
        return vectors_of(expression, embeddings, how)


def opened(data: AnnData | str | os.PathLike[str], **choice: Any) -> AbstractContextManager[Expression]:
    """Open the expression of a file or an AnnData; `choice` as in `bftembed.cells.reading.expression_in`."""
    if isinstance(data, (str, os.PathLike)):
        return expression_in(data, **choice)
    if data.isbacked:
        return expression_in(backed_path(data), **choice)
    return nullcontext(expression_of_anndata(data, **choice))


def vectors_of(
    expression: Expression, embeddings: GeneEmbeddings, aggregation: Aggregation | None = None
) -> tuple[np.ndarray, CellEmbeddingReport]:
    """Embed the cells of an expression matrix that is open; see `cell_vectors`."""
    # The kernel is pinned: the fastest of a first block is another one at another time.
    how = asdict(aggregation or Aggregation())
    task = Task(embeddings, "vectors", Asked(**how, empty_policy="nan", precision="exact", kernel="scipy"), silent)
    prepared = task.prepare(expression)
    memory = Memory(expression.n_cells, prepared.dim)
    done = task.run(prepared, memory)
    return memory.vectors, done.report
