"""Cell embeddings and labels of an AnnData or a h5ad, and which of the cells can be scored."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, examples, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import anndata
    from numpy.typing import NDArray

#: Encoder of the baselines ``ncbi`` and ``symbol``.
ENCODER = "builtin:all-minilm-l6-v2"
# A label column of numbers with more distinct values than this is a measurement, not a label.
_MAX_NUMERIC_LABELS = 100


def read_cells(
    data: anndata.AnnData | str | os.PathLike[str], keys: Sequence[str], columns: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], str]:
    """Read embeddings of ``.obsm`` and columns of ``.obs``, of an AnnData or a h5ad; of a file nothing else is read.

    Returns
    -------
    tuple
        Column → values, object (n_cells,), None where missing; key → numeric matrix (n_cells, d); and the name of the
        data for the run: the stem of the file, or ``"cells"``.

    Raises
    ------
    BftembedError
        For a missing or damaged file, unknown names, and embeddings that are not numeric with one row per cell.
    """
    where = place_of(data)
    if isinstance(data, (str, os.PathLike)):
        stem = Path(data).stem
        found, matrices = _from_file(Path(data), keys, columns)
    elif not hasattr(data, "obsm"):
        raise BftembedError(f"Expected an AnnData or the path of a h5ad, got {type(data).__name__}.")
    else:
        stem = Path(data.filename).stem if data.filename else "cells"
        _check_names("obs column", columns, data.obs, where)
        _check_names("obsm key", keys, data.obsm, where)
        found, matrices = {c: data.obs[c] for c in columns}, {k: data.obsm[k] for k in keys}
    labels = {c: column.to_numpy(dtype=object, na_value=None) for c, column in found.items()}
    n_cells = len(next(iter(labels.values())))
    return labels, {k: _as_matrix(v, f"{where}: obsm[{k!r}]", n_cells) for k, v in matrices.items()}, stem


def listed(names: str | Iterable[str]) -> list[str]:
    """Return names, each once; a text is split at its commas."""
    parts = names.split(",") if isinstance(names, str) else list(names)
    return list(dict.fromkeys(p.strip() for p in parts if p.strip()))


def place_of(data: object) -> str:
    """Return what messages call the data."""
    return str(data) if isinstance(data, (str, os.PathLike)) else "the AnnData"


def _check_names(what: str, names: Sequence[str], known: Iterable[str], where: str) -> None:
    there = list(known)
    for name in names:
        if name not in there:
            raise unknown_name(what, name, there, where=where)


def _from_file(file: Path, keys: Sequence[str], columns: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    from bftembed.hdf5 import open_h5ad

    with open_h5ad(file) as handle:
        for part in ("obs", "obsm") if keys else ("obs",):
            if part not in handle:
                raise BftembedError(f"{file} has no /{part}: it is not a h5ad of cells with embeddings.")
        obs, obsm = handle["obs"], handle.get("obsm", {})
        _check_names("obs column", columns, _names(obs), str(file))
        _check_names("obsm key", keys, _names(obsm), str(file))
        labels = {c: _column(handle, c, f"{file}: obs[{c!r}]") for c in columns}
        return labels, {k: _member(obsm, k, f"{file}: obsm[{k!r}]") for k in keys}


def _names(table: Any) -> Iterable[str]:
    # Files from before 2019 hold a whole table in one compound data set.
    return table.dtype.names or () if hasattr(table, "dtype") else table


def _member(table: Any, name: str, what: str) -> Any:
    """Read a column or an embedding after its size is known to be true; sparse indices are checked by `_as_matrix`."""
    from anndata.io import read_elem

    from bftembed.hdf5 import check_declared_size

    compound = hasattr(table, "dtype")
    check_declared_size(table if compound else table[name], what)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of members without an encoding, from before 2021
            return table[name] if compound else read_elem(table[name])
    except Exception as err:  # anndata wraps whatever a damaged member raises
        raise BftembedError(f"{what} cannot be read ({(str(err) or type(err).__name__).splitlines()[0]}).") from err


def _column(handle: Any, name: str, what: str) -> Any:
    """Read a column of obs as a Series; until 2021 the categories were stored elsewhere."""
    import pandas as pd

    from bftembed.hdf5 import as_text, check_declared_size

    obs = handle["obs"]
    values = _member(obs, name, what)
    if getattr(values, "ndim", 0) != 1:
        raise BftembedError(f"{what} is a {type(values).__name__}, not a column of labels. Choose another column.")
    pointer = f"uns/{name}_categories" if hasattr(obs, "dtype") else obs[name].attrs.get("categories")
    if pointer is not None and (not isinstance(pointer, str) or pointer in handle):
        check_declared_size(handle[pointer], what)
        known = [*as_text(handle[pointer][:]), None]
        if values.dtype.kind not in "iu" or values.astype(np.int64).max(initial=-1) > len(known) - 2:
            raise BftembedError(f"{what} refers to a category that does not exist. The file is damaged.")
        values = np.array(known, dtype=object)[np.maximum(values.astype(np.int64), -1)]
    elif isinstance(values, np.ndarray) and values.dtype.kind in "SO":
        values = [as_text([v])[0] if isinstance(v, bytes) else v for v in values]
    return pd.Series(values)


def check_labels(column: NDArray[Any], label: str, where: str) -> None:
    """Raise when a column is no column of labels: empty, of one class, a measurement, or an identifier."""
    if len(found := check_groups(column, label, where)) == 1:
        raise BftembedError(f"{where}: obs[{label!r}] has one label only ({examples(found)}): scores need two.")


def check_groups(column: NDArray[Any], label: str, where: str) -> set[Any]:
    """Return the values of a column of groups (one group is enough), or raise: empty, a measurement, an identifier."""
    present = [x for x in column if not missing_label(x)]
    distinct = set(present)
    numbers = [x for x in distinct if isinstance(x, (int, float, np.number)) and not isinstance(x, bool)]
    wrong = ""
    if not present:
        wrong = f"has no value for any of the {len(column)} cells"
    elif numbers and (len(numbers) > _MAX_NUMERIC_LABELS or not all(float(x).is_integer() for x in numbers)):
        wrong = f"is a number per cell, not a label ({len(distinct)} distinct values: {examples(numbers, 3)})"
    elif len(distinct) > len(present) / 2:
        wrong = f"is an identifier, not a label: {len(distinct)} distinct values for {len(present)} cells"
    if wrong:
        raise BftembedError(f"{where}: obs[{label!r}] {wrong}. Choose a column of categories.")
    return distinct


def _as_matrix(value: Any, what: str, n_cells: int) -> NDArray[Any]:
    from bftembed.expression.matrix import Compressed
    from bftembed.hdf5 import check_size

    if hasattr(value, "toarray"):  # SciPy crashes on indices out of range, so they are checked on the way
        rows = value if value.format in ("csr", "csc") else value.tocsr()
        kind = np.dtype(np.float32 if rows.dtype == np.float32 else np.float64)
        check_size(rows.shape, kind.itemsize, rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes, what)
        value = np.zeros(rows.shape, kind)
        for block in Compressed.from_scipy(rows, what).rows(4096):
            value[block.start : block.stop] = block.to_csr(rows.shape[1]).toarray()
    return as_matrix(what, value, n_cells)


@dataclass(frozen=True, eq=False)
class ValidCells:
    """The cells that can be scored: those with all labels, and a finite vector, not zero, in every embedding.

    `labels` are text, ``""`` where missing; `alone` has the cells of embeddings that leave too few, which are scored by
    themselves or fail alone.
    """

    mask: NDArray[np.bool_]
    labels: dict[str, NDArray[Any]]
    alone: dict[str, NDArray[np.bool_]]


def valid_cells(
    embeddings: Mapping[str, NDArray[Any]],
    columns: Mapping[str, Sequence[object] | NDArray[Any]],
    fits: Callable[[NDArray[np.bool_]], bool] = lambda mask: bool(mask.any()),
) -> ValidCells:
    """Find the cells on which all embeddings can be compared, but those whose own cells do not do for `fits`."""
    n_cells = len(next(iter(columns.values())))
    present = {name: np.array([not missing_label(x) for x in column], dtype=bool) for name, column in columns.items()}
    if any(len(has) != n_cells for has in present.values()):
        raise BftembedError(f"Columns of labels differ in length: { {k: len(v) for k, v in present.items()} }.")
    labeled = np.logical_and.reduce(list(present.values()))
    own = {name: labeled & has_vector(as_matrix(name, values, n_cells)) for name, values in embeddings.items()}
    alone = {name: mask for name, mask in own.items() if not fits(mask)}
    mask = np.logical_and.reduce([labeled, *(one for name, one in own.items() if name not in alone)])
    pairs = {name: zip(column, present[name], strict=True) for name, column in columns.items()}
    return ValidCells(
        mask, {name: np.array([str(x) if has else "" for x, has in of]) for name, of in pairs.items()}, alone
    )


def has_vector(matrix: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows of an embedding are finite and not zero, bool (n_cells,)."""
    return np.asarray(np.isfinite(matrix).all(axis=1) & matrix.any(axis=1))


def as_matrix(name: str, values: Any, n_cells: int) -> NDArray[Any]:
    """Return an embedding as an array; raise for what is not a numeric matrix with a row per cell."""
    matrix = np.asarray(values)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub" or len(matrix) != n_cells:
        raise BftembedError(f"{name} must be numeric of shape ({n_cells}, d), got {matrix.dtype} {matrix.shape}.")
    return matrix


def missing_label(label: object) -> bool:
    """Return whether a label is missing: None, NaN, pandas.NA, an empty text, or "nan" as text."""
    if label is None or isinstance(label, str):
        return label is None or label.strip().lower() in ("", "nan")
    try:
        return bool(label != label)
    except TypeError:  # pandas.NA has no truth value
        return True
