"""Cell embeddings and labels of an AnnData or a h5ad, and which of the cells can be scored."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, UnknownNameError, examples, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import anndata
    from numpy.typing import NDArray

    from bftembed.cells.blocks import Compressed

# A label column of numbers with more distinct values than this is a measurement, not a label.
MAX_NUMERIC_LABELS = 100
# The groups that anndata may read here. Sparse matrices are not among them: SciPy crashes on a damaged one.
_READ_BY_ANNDATA = ("", "categorical", "dataframe", "nullable-boolean", "nullable-integer", "nullable-string-array")


def read_cells(
    data: anndata.AnnData | str | os.PathLike[str], keys: Sequence[str], columns: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], str]:
    """Read embeddings of ``.obsm`` and columns of ``.obs``.

    Parameters
    ----------
    data
        An AnnData, or the path of a h5ad.
    keys
        Names of embeddings.
    columns
        Names of columns of labels.

    Returns
    -------
    tuple
        Column → values, object (n_cells,), None where missing; key → numeric matrix (n_cells, d); and the name of the
        data for the run: the stem of the file, or ``"cells"``.

    Raises
    ------
    BftembedError
        For a file that is missing or damaged, an unknown column or embedding, labels of one class, none at all or
        continuous ones, and embeddings that are not a numeric matrix with one row per cell.
    """
    where = place_of(data)
    if isinstance(data, (str, os.PathLike)):
        stem = Path(data).stem
        found, matrices = _from_file(Path(data), keys, columns)
    elif not hasattr(data, "obsm"):
        raise BftembedError(f"Expected an AnnData or the path of a h5ad, got {type(data).__name__}.")
    else:
        stem = Path(data.filename).stem if data.filename else "cells"
        found, matrices = _from_anndata(data, keys, columns)
    n_cells = len(next(iter(found.values())))
    return found, {key: _as_matrix(value, key, n_cells, where) for key, value in matrices.items()}, stem


def listed(names: str | Iterable[str]) -> list[str]:
    """Return names, each once; a text is split at its commas."""
    parts = names.split(",") if isinstance(names, str) else list(names)
    return list(dict.fromkeys(p.strip() for p in parts if p.strip()))


def place_of(data: object) -> str:
    """Return what messages call the data."""
    return str(data) if isinstance(data, (str, os.PathLike)) else "the AnnData"


def _from_anndata(
    data: Any, keys: Sequence[str], columns: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    obs = data.obs
    for column in columns:
        if column not in obs:
            likely = [c for c in obs if obs[c].dtype.kind not in "fiu"]
            raise _no_column(column, likely, list(obs), "the AnnData")
    _check_keys(keys, list(data.obsm), "the AnnData")
    found = {c: obs[c].to_numpy(dtype=object, na_value=None) for c in columns}
    return found, {k: data.obsm[k] for k in keys}


def _from_file(
    file: Path, keys: Sequence[str], columns: Sequence[str]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    from bftembed.hdf5 import open_h5ad

    with open_h5ad(file) as handle:
        for part in ("obs", "obsm") if keys else ("obs",):
            if part not in handle:
                raise BftembedError(f"{file} has no /{part}: it is not a h5ad of cells with embeddings.")
        obs, obsm = handle["obs"], handle.get("obsm")
        known = _members(obs)
        for column in columns:
            if column not in known:
                likely = [c for c in known if _holds_text(obs, c)]
                raise _no_column(column, likely, known, str(file))
        if keys:
            _check_keys(keys, _members(obsm), str(file))
        found = {c: _read_column(handle, c, file) for c in columns}
        return found, {k: _read_embedding(obsm, k, file) for k in keys}


def _members(group: Any) -> list[str]:
    # Files from before 2019 hold a whole table in one compound data set.
    names = group.dtype.names or () if hasattr(group, "dtype") else group
    index = group.attrs.get("_index", "index")
    return [n for n in group.attrs.get("column-order", names) if n not in ("index", index)]


def _holds_text(obs: Any, column: str) -> bool:
    if hasattr(obs, "dtype"):
        return bool(obs.dtype[column].kind in "SOU" or f"{column}_categories" in obs.file.get("uns", ()))
    member = obs[column]
    return not hasattr(member, "dtype") or "categories" in member.attrs or member.dtype.kind in "SOU"


def _read_column(handle: Any, label: str, file: Path) -> NDArray[Any]:
    """Read one column of obs, missing values as None, in each of the three ways that anndata has stored columns."""
    from bftembed.cells.preflight import check_declared_size

    obs, what = handle["obs"], f"{file}: obs[{label!r}]"
    if hasattr(obs, "dtype"):
        check_declared_size(obs, what)
        values, categories = obs[label], handle.get(f"uns/{label}_categories")
    elif hasattr(obs[label], "dtype"):
        check_declared_size(obs[label], what)
        pointer = obs[label].attrs.get("categories")
        values, categories = obs[label][()], None if pointer is None else handle[pointer]
    else:
        import pandas as pd

        whole = _read_group(obs[label], what)
        if getattr(whole, "ndim", 0) != 1:
            raise BftembedError(f"{what} is a {type(whole).__name__}, not a column of labels. Choose another column.")
        return pd.Series(whole).to_numpy(dtype=object, na_value=None)
    texts: list[Any] = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.tolist()]
    if categories is None:
        return np.array(texts, dtype=object)
    check_declared_size(categories, what)
    known = [c.decode("utf-8", "replace") if isinstance(c, bytes) else str(c) for c in categories[:]]
    if max(texts, default=-1) >= len(known):
        raise BftembedError(f"{what} refers to a category that does not exist. The file is damaged.")
    return np.array([known[c] if c >= 0 else None for c in texts], dtype=object)


def _read_embedding(obsm: Any, key: str, file: Path) -> Any:
    from bftembed.cells.preflight import check_declared_size

    what = f"{file}: obsm[{key!r}]"
    if not hasattr(obsm, "dtype") and not hasattr(obsm[key], "dtype"):
        return _read_group(obsm[key], what)
    check_declared_size(obsm if hasattr(obsm, "dtype") else obsm[key], what)
    return obsm[key] if hasattr(obsm, "dtype") else obsm[key][()]


def _read_group(group: Any, what: str) -> Any:
    """Read a categorical or nullable column, a sparse matrix or a DataFrame."""
    from anndata.io import read_elem

    from bftembed.cells.blocks import Compressed, compressed_format
    from bftembed.cells.preflight import check_declared_size

    check_declared_size(group, what)
    if compressed_format(group):
        matrix = Compressed.from_hdf5(group, what)
        stored = sum(group[part].id.get_storage_size() for part in ("data", "indices", "indptr"))
        return _dense(matrix, stored, what)
    _refuse_kind("", group, what)
    group.visititems(lambda name, member: _refuse_kind(name, member, what))
    try:
        return read_elem(group)
    except Exception as err:  # anndata wraps whatever a damaged element raises
        raise BftembedError(f"{what} cannot be read ({(str(err) or type(err).__name__).splitlines()[0]}).") from err


def _refuse_kind(name: str, member: Any, what: str) -> None:
    kind = str(member.attrs.get("encoding-type", ""))
    if not hasattr(member, "dtype") and ("h5sparse_format" in member.attrs or kind not in _READ_BY_ANNDATA):
        raise BftembedError(f"{what} holds {name or 'values'} of the kind {kind!r}, which is not supported here.")


def _dense(matrix: Compressed, stored: int, what: str) -> NDArray[Any]:
    """Return a sparse matrix, of which `stored` bytes are there, as a dense one; its indices are checked on the way."""
    from bftembed.cells.preflight import check_size

    kind = np.dtype(np.float32 if matrix.data.dtype == np.float32 else np.float64)
    check_size(matrix.shape, kind.itemsize, stored, what)
    dense = np.zeros(matrix.shape, kind)
    for rows in matrix.rows(4096):
        dense[rows.start : rows.stop] = rows.to_csr(matrix.shape[1]).toarray()
    return dense


def _no_column(label: str, likely: list[str], columns: list[str], where: str) -> UnknownNameError:
    return unknown_name("obs column", label, likely or columns, where=where)


def _check_keys(keys: Sequence[str], known: list[str], where: str) -> None:
    for key in keys:
        if key not in known:
            raise unknown_name("obsm key", key, known, where=where)


def check_labels(column: NDArray[Any], label: str, where: str) -> None:
    """Raise when a column is no column of labels: empty, of one class, a measurement, or an identifier."""
    distinct = check_groups(column, label, where)
    if len(distinct) == 1:
        raise BftembedError(
            f"{where}: obs[{label!r}] has one label only ({examples(distinct)}). Scores need two: choose another "
            "column."
        )


def check_groups(column: NDArray[Any], label: str, where: str) -> set[Any]:
    """Return the values of a column of groups (one group is enough), or raise: empty, a measurement, an identifier."""
    present = [x for x in column if not missing_label(x)]
    distinct = set(present)
    what = f"{where}: obs[{label!r}]"
    if not present:
        raise BftembedError(f"{what} has no value for any of the {len(column)} cells. Choose another column.")
    numbers = [x for x in distinct if isinstance(x, (int, float, np.number)) and not isinstance(x, bool)]
    if numbers and (len(numbers) > MAX_NUMERIC_LABELS or not all(float(x).is_integer() for x in numbers)):
        raise BftembedError(
            f"{what} is a number per cell ({examples(numbers, 3)}; {len(distinct)} distinct values), not a label. "
            "Choose a column of categories."
        )
    if len(distinct) > len(present) / 2:
        raise BftembedError(
            f"{what} is an identifier, not a label: {len(distinct)} distinct values for {len(present)} cells "
            f"({examples(sorted(map(str, distinct)), 3)}). Choose a column of categories."
        )
    return distinct


def shapes_in(data: anndata.AnnData | str | os.PathLike[str], keys: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the embeddings of a h5ad file before any is read; of those stored as plain arrays alone."""
    from bftembed.hdf5 import open_h5ad

    if not isinstance(data, (str, os.PathLike)):
        return {}
    with open_h5ad(Path(data)) as handle:
        obsm = handle.get("obsm", {})
        if hasattr(obsm, "dtype"):
            return {}
        return {key: tuple(obsm[key].shape) for key in keys if hasattr(obsm.get(key), "shape")}


def _as_matrix(value: Any, key: str, n_cells: int, where: str) -> NDArray[Any]:
    what = f"{where}: obsm[{key!r}]"
    if hasattr(value, "toarray"):
        from bftembed.cells.blocks import Compressed

        rows = value if value.format in ("csr", "csc") else value.tocsr()
        stored = rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes
        value = _dense(Compressed.from_scipy(rows, what), stored, what)
    elif hasattr(value, "columns"):
        text = [str(c) for c, kind in value.dtypes.items() if kind.kind not in "fiub"]
        if text:
            raise BftembedError(f"{what} has columns that are not numbers: {examples(text)}.")
        value = value.to_numpy()
    matrix = np.asarray(value)
    if matrix.dtype.kind not in "fiub" or matrix.ndim != 2:
        raise BftembedError(f"{what} is {matrix.dtype} of shape {matrix.shape}; an embedding is numeric, (n_cells, d).")
    if len(matrix) != n_cells:
        raise BftembedError(f"{what} has {len(matrix)} rows for {n_cells} cells.")
    return matrix


@dataclass(frozen=True, eq=False)
class ValidCells:
    """The cells that can be scored.

    Attributes
    ----------
    mask
        bool (n_cells,): cells with a label, and with a finite vector that is not zero in every shared embedding.
    labels
        Column → labels as text, (n_cells,); ``""`` where missing.
    alone
        Embeddings that leave too few cells: they are scored by themselves, or fail alone.
    note
        What is left out and why, ``""`` when nothing is.
    """

    mask: NDArray[np.bool_]
    labels: dict[str, NDArray[Any]]
    alone: dict[str, NDArray[np.bool_]]
    note: str


def valid_cells(
    embeddings: Mapping[str, NDArray[Any]],
    columns: Mapping[str, Sequence[object] | NDArray[Any]],
    fits: Callable[[NDArray[np.bool_]], bool] = lambda mask: bool(mask.any()),
) -> ValidCells:
    """Find the cells on which all embeddings can be compared.

    Parameters
    ----------
    embeddings
        Name → (n_cells, d) numbers.
    columns
        Name → (n_cells,) labels; None, NaN, ``""`` and ``"nan"`` are missing.
    fits
        Whether the cells of a mask suffice for a score. An embedding whose own cells do not is compared with none.

    Raises
    ------
    BftembedError
        When an embedding is not a numeric matrix with a row per cell, or the columns differ in length.
    """
    n_cells = len(next(iter(columns.values())))
    present = {name: np.array([not missing_label(x) for x in column], dtype=bool) for name, column in columns.items()}
    if any(len(has) != n_cells for has in present.values()):
        raise BftembedError(f"Columns of labels differ in length: { {k: len(v) for k, v in present.items()} }.")
    labeled = np.logical_and.reduce(list(present.values()))
    reasons = [f"{int((~has).sum())} without a {name}" for name, has in present.items() if not has.all()]
    mask, alone = labeled.copy(), {}
    for name, values in embeddings.items():
        matrix = as_matrix(name, values, n_cells)
        own = labeled & has_vector(matrix)
        if not fits(own):
            alone[name] = own
            continue
        mask &= own
        broken, zero = ~np.isfinite(matrix).all(axis=1), ~matrix.any(axis=1)
        for lost, word in ((labeled & broken, "NaN or infinite"), (labeled & zero & ~broken, "all-zero")):
            reasons += [f"{int(lost.sum())} {word} in {name}"] if lost.any() else []
    note = "" if mask.all() else f"{int((~mask).sum())} cells left out: {', '.join(reasons)}"
    texts = {
        name: np.array([str(x) if has else "" for x, has in zip(column, present[name], strict=True)])
        for name, column in columns.items()
    }
    return ValidCells(mask, texts, alone, note)


def has_vector(matrix: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows of an embedding are finite and not zero, bool (n_cells,)."""
    return np.asarray(np.isfinite(matrix).all(axis=1) & matrix.any(axis=1))


def as_matrix(name: str, values: NDArray[Any], n_cells: int) -> NDArray[Any]:
    """Return an embedding as an array; raise for what is not a numeric matrix with a row per cell."""
    matrix = np.asarray(values)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub" or len(matrix) != n_cells:
        raise BftembedError(
            f"The embedding {name!r} must be numeric of shape ({n_cells}, d), got {matrix.dtype} {matrix.shape}."
        )
    return matrix


def missing_label(label: object) -> bool:
    """Return whether a label is missing: None, NaN, pandas.NA, an empty text, or "nan" as text."""
    if label is None or isinstance(label, str):
        return label is None or label.strip().lower() in ("", "nan")
    try:
        return bool(label != label)
    except TypeError:  # pandas.NA has no truth value
        return True
