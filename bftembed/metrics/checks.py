"""The checks before every metric: what is broken is refused by name, what has no value is told apart.

The usual libraries give a plausible number for broken input: one NaN cell makes a silhouette of exactly .5, one
all-zero cell moves the BRAS of its label by .17, a missing label becomes a class of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Bytes of a matrix that are looked at in one go.
_BLOCK_BYTES = 32_000_000


class Undefined(ValueError):
    """The input is valid, but the metric has no value for it: one batch, one label.

    Attributes
    ----------
    reason
        Reason of the missing value in the results (`bftembed.tasks.base.REASONS`).
    """

    reason = "undefined"


class TooFew(Undefined):
    """There are fewer items than the metric needs."""

    reason = "too-few"


class Unavailable(Undefined):
    """A program that the metric needs does not run here."""

    reason = "unavailable"


def checked_matrix(X: ArrayLike, *, zero_rows: bool = False) -> NDArray[np.floating[Any]]:
    """Return `X` as an array that can be scored.

    Parameters
    ----------
    X
        Embedding, shape ``(n_cells, d)``, real numbers.
    zero_rows
        Whether rows of only zeros may pass. They are cells without an embedding, and have no direction (cosine).

    Returns
    -------
    ndarray of float32 or float64, shape ``(n_cells, d)``
        `X` itself where it has one of these types, else a copy in float64.

    Raises
    ------
    ValueError
        For another shape or type, no cells, NaN or infinity, and rows of only zeros unless allowed.
    """
    matrix = np.asarray(X)
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise ValueError(f"An embedding has shape (n_cells, d), got {matrix.shape}.")
    if matrix.dtype.kind not in "fiub":
        raise ValueError(f"An embedding holds real numbers, got dtype {matrix.dtype}.")
    if len(matrix) == 0:
        raise ValueError("The embedding has no cells.")
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float64)
    bad, zero = (np.empty(len(matrix), dtype=bool) for _ in range(2))
    step = max(1, _BLOCK_BYTES // (matrix.itemsize * matrix.shape[1]))
    for start in range(0, len(matrix), step):
        rows = matrix[start : start + step]
        bad[start : start + step] = ~np.isfinite(rows).all(axis=1)
        zero[start : start + step] = ~rows.any(axis=1)
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} cells hold NaN or infinity (first: row {int(bad.argmax())}). Leave them out."
        )
    if zero.any() and not zero_rows:
        raise ValueError(
            f"{int(zero.sum())} cells are all zero, so without an embedding (first: row {int(zero.argmax())}). "
            "Leave them out."
        )
    return matrix


def checked_codes(labels: ArrayLike, what: str = "labels", n_cells: int | None = None) -> NDArray[np.int64]:
    """Return labels as numbers, in the order of their sorted names.

    Parameters
    ----------
    labels
        One per cell, shape ``(n_cells,)``: numbers, strings or a categorical (levels that do not occur do not count).
    what
        What they are, for messages: ``"labels"``, ``"batches"``, ``"clusters"``.
    n_cells
        How many there must be; None for any number.

    Returns
    -------
    ndarray of int64, shape ``(n_cells,)``
        0 to the number of distinct labels - 1, each of which occurs.

    Raises
    ------
    ValueError
        For another shape or length, or a missing label: None, NaN, pandas.NA or a blank text.
    """
    import pandas as pd

    array = np.asarray(labels)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"{what} must be a non-empty list with one entry per cell, got shape {array.shape}.")
    found, names = pd.factorize(array)  # by hash: sorting a million texts takes seconds
    if array.dtype.kind in "OUS":
        # As text, so that names of several types can be sorted.
        texts = [str(name) for name in names]
        found[np.isin(found, [code for code, text in enumerate(texts) if not text.strip()])] = -1
        names = np.array(texts, dtype=str)
    missing = found < 0
    if missing.any():
        raise ValueError(f"{int(missing.sum())} cells have no label ({what}; first: row {int(missing.argmax())}).")
    if n_cells is not None and len(array) != n_cells:
        raise ValueError(f"{len(array)} {what} for {n_cells} cells: there must be one per cell.")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)[found]


def checked_pair(labels: ArrayLike, clusters: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return two labellings of the same cells as numbers, the first with at least two labels.

    Raises
    ------
    ValueError
        For unequal lengths or missing labels; `Undefined` for a single true label.
    """
    true, found = checked_codes(labels), checked_codes(clusters, "clusters")
    if len(true) != len(found):
        raise ValueError(f"{len(true)} labels and {len(found)} clusters: there must be one of each per cell.")
    need_two(true, "label", "the score")
    return true, found


def need_two(codes: NDArray[np.int64], group: str, metric: str) -> int:
    """Return the number of distinct codes, or raise `Undefined` where all cells have one `group` (label, batch)."""
    n = int(codes.max()) + 1
    if n < 2:
        raise Undefined(f"All cells have one {group}: {metric} needs at least two.")
    return n
