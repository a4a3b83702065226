"""The expression of the cells that are scored, for baselines that are made of it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.reading import expression_in, expression_of_anndata
from bftembed.errors import BftembedError
from bftembed.machine import available_memory

if TYPE_CHECKING:
    import anndata
    from numpy.typing import NDArray

    from bftembed.cells.reading import Expression


_OR_BEFORE = (
    "Give an embedding from before the integration (before=KEY, --before KEY) and no baselines, "
    "or a sample of the cells."
)


def opened(data: anndata.AnnData | str | os.PathLike[str], **choice: Any) -> AbstractContextManager[Expression]:
    """Open the expression of a file or an AnnData; `choice` as in `bftembed.cells.reading.expression_in`."""
    if isinstance(data, (str, os.PathLike)):
        return expression_in(data, **choice)
    return nullcontext(expression_of_anndata(data, **{"layer": None, "use_raw": False, "gene_column": None, **choice}))


def principal_components(
    data: anndata.AnnData | str | os.PathLike[str], *, layer: str | None = None, use_raw: bool = False
) -> tuple[NDArray[np.float32], str]:
    """Return the principal components of the expression, and how they were made.

    Counts are turned into log1p of counts per 10,000, logged values are taken as they are.

    Parameters
    ----------
    data
        AnnData, or a file.
    layer, use_raw
        Which matrix: ``.X`` unless one is given.

    Returns
    -------
    tuple
        float32 (n_cells, at most 50), see `bftembed.tasks.baselines.pca`; and words for a note.

    Raises
    ------
    BftembedError
        Where there is no such matrix, it is no expression (NaN, negative), or does not fit into the memory.
    """
    from bftembed.tasks.baselines import pca

    with opened(data, layer=layer, use_raw=use_raw) as expression:
        matrix = whole_matrix(expression, _OR_BEFORE)
        reason = _log_counts(matrix, expression)
        others = expression.n_other_features
    left_out = f", {others} features of another type left out" if others else ""
    return pca(matrix), f"principal components of {expression.name}, {reason}{left_out}"


def matrix_of(
    data: anndata.AnnData | str | os.PathLike[str], *, layer: str | None = None, use_raw: bool = False
) -> tuple[Any, str]:
    """Return the expression as it is, SciPy CSR (n_cells, n_genes), and the name of the matrix.

    Raises
    ------
    BftembedError
        Where there is no such matrix, or it does not fit into the memory.
    """
    with opened(data, layer=layer, use_raw=use_raw) as expression:
        return whole_matrix(expression), expression.name


def whole_matrix(expression: Expression, remedy: str = "Give a sample of the cells.") -> Any:
    """Return the whole matrix, SciPy CSR (n_cells, n_genes), or refuse with the `remedy` what does not fit.

    Raises
    ------
    BftembedError
        When the matrix, and once more while it is put together, takes more memory than is free.
    """
    from scipy.sparse import vstack

    cells, genes = expression.matrix.shape
    check_fits(cells, genes, expression.matrix.n_values, expression.where, remedy)
    return vstack([rows.to_csr(expression.n_genes) for rows in expression.matrix.rows(4096)], format="csr")


def check_fits(cells: int, genes: int, n_values: int, where: str, remedy: str = "Give a sample of the cells.") -> None:
    """Refuse a sparse matrix that does not fit into the memory, twice: it is there once more while it is put together.

    Raises
    ------
    BftembedError
        With the size, what is free, and the `remedy`.
    """
    needed = 2 * 12 * n_values
    free = available_memory()
    if free is not None and needed > free:
        raise BftembedError(
            f"{where}: {cells:,} cells and {genes:,} genes need about {needed / 1e9:.1f} GB of memory, and "
            f"{free / 1e9:.1f} GB are free. {remedy}"
        )


def _log_counts(matrix: Any, expression: Expression) -> str:
    """Turn counts into log1p of counts per 10,000, in place, and leave logged values; say which, or refuse."""
    from bftembed.cells.examine import ValueSummary
    from bftembed.cells.normalize import decide, log_cp10k

    values = matrix.data
    bad = int((~np.isfinite(values)).sum()) + int((values < 0).sum())
    if bad:
        raise BftembedError(
            f"{expression.where}: {bad} values are NaN, infinite or negative, so this is no expression (scaled data "
            "are not). Name another matrix: layer=…, --layer."
        )
    totals = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    whole = bool((values == np.round(values)).all())
    summary = ValueSummary(totals, totals, whole, float(values.max(initial=0.0)))
    decision = decide("auto", summary, logged=expression.logged, where=expression.where, others=expression.others)
    if decision.normalize == "log1p-cp10k":
        log_cp10k(matrix)
        return f"log1p of counts per 10,000 ({decision.reason})"
    return decision.reason
