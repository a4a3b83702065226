"""Which cells can be scored: those with a vector in every embedding, and with every label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Usable:
    """The cells that can be scored.

    Attributes
    ----------
    mask
        bool (n_cells,).
    values
        Name of a column → its values as text, (n_cells,); what is missing is ``""``.
    note
        What is left out and why, ``""`` when nothing is.
    """

    mask: NDArray[np.bool_]
    values: Mapping[str, NDArray[Any]]
    note: str


def usable_cells(
    embeddings: Mapping[str, NDArray[Any]], columns: Mapping[str, Sequence[object] | NDArray[Any]]
) -> Usable:
    """Find the cells with a finite vector that is not zero in every embedding, and a value in every column.

    Parameters
    ----------
    embeddings
        Name → (n_cells, d) numbers.
    columns
        Name → (n_cells,) labels; None, NaN, ``""`` and ``"nan"`` are missing.

    Raises
    ------
    BftembedError
        When an embedding is not a numeric matrix, numbers of cells differ, or no cell is left.
    """
    n_cells = len(next(iter(columns.values())))
    for name, column in columns.items():
        if len(column) != n_cells:
            raise BftembedError(f"There are {len(column)} values of {name!r} for {n_cells} cells.")
    matrices = {name: as_matrix(name, values, n_cells) for name, values in embeddings.items()}
    present = {name: np.array([not missing_label(x) for x in column], dtype=bool) for name, column in columns.items()}
    mask = np.ones(n_cells, dtype=bool)
    reasons = []
    for name, has in present.items():
        mask &= has
        reasons += [f"{int((~has).sum())} without a {name}"] if not has.all() else []
    labelled = mask.copy()
    for name, matrix in matrices.items():
        mask &= has_vector(matrix)
        reasons += broken_vectors(name, matrix, labelled)
    note = left_out_note(mask, reasons)
    if not mask.any():
        raise BftembedError(f"No cell can be scored. {note}")
    values = {
        name: np.array([str(x) if has else "" for x, has in zip(column, present[name], strict=True)])
        for name, column in columns.items()
    }
    return Usable(mask, values, note)


def has_vector(matrix: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows of an embedding are finite and not zero, bool (n_cells,)."""
    return np.asarray(np.isfinite(matrix).all(axis=1) & matrix.any(axis=1))


def broken_vectors(name: str, matrix: NDArray[Any], among: NDArray[np.bool_]) -> list[str]:
    """Say how many of some cells have no vector in an embedding, and why: ``["2 all-zero in X_bft"]``."""
    broken = among & ~np.isfinite(matrix).all(axis=1)
    zero = among & ~matrix.any(axis=1)
    counts = ((int(broken.sum()), "NaN or infinite"), (int(zero.sum()), "all-zero"))
    return [f"{n} {word} in {name}" for n, word in counts if n]


def left_out_note(mask: NDArray[np.bool_], reasons: Sequence[str]) -> str:
    """Say what `mask` leaves out: ``"12 cells left out: 10 without a label, 2 all-zero in X_bft"``, or ``""``."""
    return "" if mask.all() else f"{int((~mask).sum())} cells left out: {', '.join(reasons)}"


def as_matrix(name: str, values: NDArray[Any], n_cells: int) -> NDArray[Any]:
    """Return an embedding as an array, or refuse what is no numeric matrix with a row per cell."""
    matrix = np.asarray(values)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
        raise BftembedError(
            f"The embedding {name!r} must be a numeric array (cells x d), got {matrix.dtype}{matrix.shape}."
        )
    if len(matrix) != n_cells:
        raise BftembedError(f"The embedding {name!r} has {len(matrix)} cells, but there are {n_cells} labels.")
    return matrix


def missing_label(label: object) -> bool:
    """Return whether a label is missing: None, NaN, pandas.NA, an empty text, or "nan" as text."""
    if label is None or isinstance(label, str):
        return label is None or label.strip().lower() in ("", "nan")
    try:
        return bool(label != label)
    except TypeError:  # pandas.NA has no truth value
        return True
