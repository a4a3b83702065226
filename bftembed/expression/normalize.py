"""Counts or logged values? Decided from all values and from what the file says of itself, and said in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bftembed.errors import BftembedError, unknown_name
from bftembed.expression.value_stats import reject_bad_values, summarize

if TYPE_CHECKING:
    from bftembed.expression.source import Expression
    from bftembed.expression.value_stats import ValueSummary

Normalize = Literal["auto", "log1p-cp10k", "clr", "none"]
NORMALIZE: tuple[Normalize, ...] = ("auto", "log1p-cp10k", "clr", "none")
#: What is done to values in the end.
Transform = Literal["log1p-cp10k", "clr", "none"]

#: Cells that are looked at at once.
_BLOCK = 2048
#: Counts of a cell are scaled to this sum before the logarithm.
DEPTH = 1e4
#: No logarithm of an expression value is larger: log2 of a billion is 29.9, ln of it 20.7.
LARGEST_LOG = 30.0
#: Logged expression that reaches less than this anywhere is more likely a share of a total.
_SMALLEST_LOG = 0.5
#: A logarithm of normalized counts has totals that differ from cell to cell; the normalized counts themselves do not.
_EQUAL_TOTALS, _MIN_CELLS_FOR_TOTALS = 1e-3, 10
#: Of `_are_logarithms`: ratios to the smallest value that are used, how near an integer they must be (less the larger
#: they are, since values may have been rounded), and how many of them.
_LARGEST_RATIO, _NEAR, _SHARE_OF_MULTIPLES = 20.0, 0.02, 0.8


@dataclass(frozen=True)
class Decision:
    """What is done to the values before they weight the gene embeddings, and why.

    ``"log1p-cp10k"`` is log1p(10,000 · value / total of the cell over all genes). ``"clr"`` is log1p(value / g), with
    log g the mean of log1p over all features of the cell: the centered log ratio of Seurat and muon within cells, for
    protein counts. ``"none"``: as they are.
    """

    normalize: Transform
    reason: str


def decide(asked: str, values: ValueSummary, *, logged: bool, where: str, others: tuple[str, ...] = ()) -> Decision:
    """Decide the normalization of a matrix from `asked` (one of `NORMALIZE`), or refuse to guess.

    `logged` says whether ``uns["log1p"]`` is there; `others` how to select other matrices, for messages.

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
            f"{where} is logged already ({evidence}): use normalize='auto' or 'none'.{counts} Round estimated counts."
        )
    if kind == "unclear" and asked == "auto":
        raise BftembedError(
            f"{where} is neither counts nor logged ({evidence}). Choose: normalize='log1p-cp10k' (--normalize "
            f"log1p-cp10k) scales each cell to 10,000 and takes log1p, normalize='none' takes the values as they are."
        )
    if asked == "log1p-cp10k" or asked == "clr":
        return Decision(asked, f"asked for; {evidence}")
    if kind == "counts":
        return Decision("log1p-cp10k", f"counts: {evidence}")
    return Decision("none", f"already logged: {evidence}")


def examined(expression: Expression) -> tuple[ValueSummary, Decision]:
    """Look at every value of an expression matrix once, and decide on its normalization (`decide`, ``"auto"``).

    Raises
    ------
    BftembedError
        For values that are not finite or negative, and as `decide`.
    """
    n_cells, n_genes = expression.matrix.shape
    summary = summarize(expression.matrix.rows(_BLOCK), np.zeros(n_genes, dtype=np.int32), range(n_cells))
    reject_bad_values(summary, expression)
    where, others = expression.where, expression.others
    return summary, decide("auto", summary, logged=expression.logged, where=where, others=others)


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
    if not logged and 0 < values.largest < _SMALLEST_LOG:
        return "unclear", f"not whole numbers, and {largest} is less than logged expression has: shares of a total?"
    if logged:
        return "logged", f'uns["log1p"] is there, not whole numbers, {largest}'
    total = _common_total(values.totals)
    if total is not None:
        return "unclear", f"not whole numbers, and every cell has the same total, {total:g}"
    if not _are_logarithms(values.first_cells):
        return "unclear", f"not whole numbers, {largest}, and not logarithms of counts: corrected counts?"
    return "logged", f"not whole numbers, {largest}"


def _are_logarithms(cells: list[np.ndarray]) -> bool:
    """Return whether the values of some cells look like logarithms of expression.

    Undone, logarithms of scaled counts are multiples of one number within a cell, whatever genes were left out, and
    those of values of equal totals (TPM) have equal totals again.
    """
    cells = [cell[cell > 0].astype(np.float64) for cell in cells]
    cells = [cell for cell in cells if len(cell) > 1]
    for base in (np.e, 2.0, 10.0):
        undone = [base ** np.minimum(cell, LARGEST_LOG) - 1 for cell in cells]
        if _common_total(np.array([cell.sum() for cell in undone])) is not None:
            return True
        # Integers prove nothing: undone, they are multiples for any whole base.
        parts = [made[cell != np.rint(cell)] / made.min() for cell, made in zip(cells, undone, strict=True)]
        ratios = np.concatenate([part[part > 1] for part in parts] or [np.empty(0)])
        for smallest in (1, 2, 3):  # the count behind the smallest value of a cell
            scaled = ratios[ratios < _LARGEST_RATIO] * smallest
            near = np.abs(scaled - np.rint(scaled)) <= _NEAR * (1 + scaled / 10)
            if len(scaled) and near.mean() >= _SHARE_OF_MULTIPLES:
                return True
    return not cells


def _common_total(totals: np.ndarray) -> float | None:
    filled = totals[totals > 0]
    if len(filled) < _MIN_CELLS_FOR_TOTALS or filled.max() - filled.min() > _EQUAL_TOTALS * filled.mean():
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
