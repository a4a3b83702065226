"""Counts or logged values? Decided from all values and from what the file says of itself, and said in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bftembed.errors import BftembedError, unknown_name

if TYPE_CHECKING:
    from bftembed.cells.examine import ValueSummary

Normalize = Literal["auto", "log1p-cp10k", "clr", "none"]
NORMALIZE: tuple[Normalize, ...] = ("auto", "log1p-cp10k", "clr", "none")
#: What is done to values in the end.
Transform = Literal["log1p-cp10k", "clr", "none"]

#: Counts of a cell are scaled to this sum before the logarithm.
DEPTH = 1e4
#: No logarithm of an expression value is larger: log2 of a billion is 29.9, ln of it 20.7.
LARGEST_LOG = 30.0
#: Logged expression that reaches less than this anywhere is more likely a share of a total.
SMALLEST_LOG = 0.5
#: A logarithm of normalised counts has totals that differ from cell to cell; the normalised counts themselves do not.
EQUAL_TOTALS = 1e-3
FEWEST_CELLS_FOR_TOTALS = 10


@dataclass(frozen=True)
class Decision:
    """What is done to the values before they weight the gene embeddings.

    Attributes
    ----------
    normalize
        ``"log1p-cp10k"``: log1p(10,000 · value / total of the cell over all genes). ``"clr"``: log1p(value / g), with
        log g the mean of log1p over all features of the cell: the centred log ratio of Seurat and muon within cells,
        for protein counts. ``"none"``: as they are.
    reason
        Why, in words, for the report.
    """

    normalize: Transform
    reason: str


def decide(asked: str, values: ValueSummary, *, logged: bool, where: str, others: tuple[str, ...] = ()) -> Decision:
    """Decide the normalisation of a matrix, or refuse to guess.

    Parameters
    ----------
    asked
        ``"auto"``, ``"log1p-cp10k"``, ``"clr"`` or ``"none"``.
    values
        Summary of all values, finite and not negative.
    logged
        Whether ``uns["log1p"]`` says that this matrix is logged.
    where
        File and matrix, for messages.
    others
        How to select other matrices, for messages.

    Raises
    ------
    BftembedError
        For a logarithm of logged values; for `auto` where the values are neither counts nor logarithms.
    """
    if asked not in NORMALIZE:
        raise unknown_name("normalize", str(asked), NORMALIZE)
    kind, evidence = _kind(values, logged)
    if asked == "none":
        return Decision("none", f"asked for; {evidence}")
    if kind == "logged" and asked in ("log1p-cp10k", "clr"):
        counts = f" If the counts are elsewhere, select them: {' or '.join(others)}." if others else ""
        raise BftembedError(
            f"{where} is logged already ({evidence}); a second logarithm is refused. Use normalize='auto' or "
            f"'none'.{counts} If these are estimated counts, round them first."
        )
    if kind == "unclear" and asked == "auto":
        raise BftembedError(
            f"{where} is neither counts nor logged ({evidence}): TPM, CP10k without a logarithm, or estimated counts? "
            f"Say which: normalize='log1p-cp10k' (--normalize log1p-cp10k) scales each cell to 10,000 and takes "
            f"log1p, normalize='none' takes the values as they are."
        )
    if asked == "log1p-cp10k" or asked == "clr":
        return Decision(asked, f"asked for; {evidence}")
    if kind == "counts":
        return Decision("log1p-cp10k", f"counts: {evidence}")
    return Decision("none", f"already logged: {evidence}")


def _kind(values: ValueSummary, logged: bool) -> tuple[Literal["counts", "logged", "unclear"], str]:
    largest = f"largest {values.largest:g}"
    if values.whole:
        aside = ""
        if logged:
            aside = '; uns["log1p"] says logged, but a logarithm of counts is not whole: it is taken as left behind'
        return "counts", f"all values are whole numbers, {largest}{aside}"
    if values.largest > LARGEST_LOG:
        says = ', though uns["log1p"] says logged' if logged else ""
        return "unclear", f"not whole numbers, and {largest} is more than any logarithm{says}"
    if not logged and 0 < values.largest < SMALLEST_LOG:
        return "unclear", f"not whole numbers, and {largest} is less than logged expression has: shares of a total?"
    if logged:
        return "logged", f'uns["log1p"] is there, not whole numbers, {largest}'
    total = _common_total(values.totals)
    if total is not None:
        return "unclear", f"not whole numbers, and every cell has the same total, {total:g}"
    return "logged", f"not whole numbers, {largest}"


def _common_total(totals: np.ndarray) -> float | None:
    filled = totals[totals > 0]
    if len(filled) < FEWEST_CELLS_FOR_TOTALS or filled.max() - filled.min() > EQUAL_TOTALS * filled.mean():
        return None
    return float(filled.mean())


def log_cp10k(matrix: Any) -> None:
    """Turn counts into log1p of counts per 10,000, in place.

    Parameters
    ----------
    matrix
        Counts, SciPy CSR (n_cells, n_genes); its values become float32. A cell without counts stays empty.
    """
    totals = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    matrix.data = matrix.data.astype(np.float32, copy=False)
    matrix.data *= np.repeat(DEPTH / np.maximum(totals, 1e-12), np.diff(matrix.indptr)).astype(np.float32)
    np.log1p(matrix.data, out=matrix.data)
