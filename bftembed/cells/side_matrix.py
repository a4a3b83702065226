"""A matrix of ``.obsm`` as the expression, with the names of its columns: the protein counts of CITE-seq."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.blocks import Dense, memory_matrix, refuse_missing_chunks, stored_matrix
from bftembed.cells.preflight import check_kind
from bftembed.errors import BftembedError, unknown_name
from bftembed.hdf5 import as_text, check_declared_size, is_array, is_group, strings

if TYPE_CHECKING:
    from bftembed.cells.blocks import Compressed


@dataclass(frozen=True)
class Side:
    """A matrix of ``.obsm``.

    Attributes
    ----------
    matrix
        (n_cells, n_columns), in blocks.
    names
        Of the n_columns columns.
    """

    matrix: Compressed | Dense
    names: list[str]


def stored_side(root: Any, key: str, names_from: str | None, place: str) -> Side:
    """Find ``.obsm[key]`` in an open h5ad file or zarr store: dense, sparse or a DataFrame.

    Parameters
    ----------
    root
        The group that holds the AnnData.
    key
        Key of ``.obsm``.
    names_from
        ``"uns/KEY"``: the names of the columns. By default those of the DataFrame, or ``uns["{key}_names"]``.
    place
        File, for messages.

    Raises
    ------
    BftembedError
        When the key or the names are not there, or do not fit together.
    """
    obsm, where = root.get("obsm"), f"{place}: obsm/{key}"
    if obsm is not None and not is_group(obsm):
        raise BftembedError(f"{place}: obsm is one table, as anndata wrote it before 0.7. Write it again with anndata.")
    if obsm is None or key not in list(obsm):
        raise unknown_name("key of .obsm", key, list(obsm or ()), where=place)
    member, own = obsm[key], None
    if is_group(member) and _text(member.attrs.get("encoding-type")) == "dataframe":
        own = as_text(member.attrs.get("column-order", ()))
        matrix: Compressed | Dense = _table(member, own, where)
    else:
        matrix = stored_matrix(member, where)

    def read(path: str) -> list[str] | None:
        found = root.get(path)
        if found is None or (is_array(found) and len(found.shape or ()) != 1):
            return None
        check_declared_size(found, place)
        refuse_missing_chunks(found)
        return strings(found)

    return Side(matrix, _names(read, key, names_from, own, matrix.shape[1], where))


def memory_side(adata: Any, key: str, names_from: str | None) -> Side:
    """Find ``.obsm[key]`` of an AnnData in memory, as `stored_side` does."""
    where = f"AnnData: obsm/{key}"
    if key not in adata.obsm:
        raise unknown_name("key of .obsm", key, list(adata.obsm), where="the AnnData")
    values, own = adata.obsm[key], None
    if hasattr(values, "columns"):
        own, values = [str(name) for name in values.columns], values.to_numpy()
    matrix = memory_matrix(values, where)

    def read(path: str) -> list[str] | None:
        found: Any = adata.uns
        for part in path.split("/")[1:]:
            if not isinstance(found, Mapping) or part not in found:
                return None
            found = found[part]
        return None if isinstance(found, str) or np.ndim(found) != 1 else as_text(found)

    return Side(matrix, _names(read, key, names_from, own, matrix.shape[1], where))


class _Columns:
    """The columns of a stored DataFrame, read together as rows of a dense matrix."""

    def __init__(self, columns: list[Any]) -> None:
        self._columns = columns
        self.shape = (int(columns[0].shape[0]) if columns else 0, len(columns))
        self.dtype = np.result_type(*(column.dtype for column in columns)) if columns else np.dtype(np.float32)

    def __getitem__(self, rows: slice) -> np.ndarray:
        parts = [np.asarray(column[rows]) for column in self._columns]
        return np.stack(parts, axis=1).astype(self.dtype, copy=False)


def _table(member: Any, names: list[str], where: str) -> Dense:
    columns = []
    for name in names:
        column = member.get(name)
        check_declared_size(column, where)
        if not is_array(column) or len(column.shape or ()) != 1 or column.shape != member[names[0]].shape:
            raise BftembedError(
                f"{where}: the column {name!r} is no plain column of numbers (missing, categorical or nullable). "
                f"Convert it, for example adata.obsm[key] = adata.obsm[key].astype('float32'), and write it again."
            )
        check_kind(column.dtype, f"{where}: the column {name!r}")
        columns.append(column)
    return Dense(_Columns(columns), where)


def _names(read: Any, key: str, names_from: str | None, own: list[str] | None, n_columns: int, where: str) -> list[str]:
    how = (
        f"Give the {n_columns} names of its columns as an array of text in uns and obsm_names='uns/KEY' "
        f"(--obsm-names uns/KEY), as uns[{key + '_names'!r}], or make it a DataFrame with named columns."
    )
    if names_from is not None:
        if not names_from.startswith("uns/") or not names_from[4:].strip("/"):
            raise BftembedError(f"obsm_names is {names_from!r}. {how}")
        names, source = read(names_from.rstrip("/")), names_from
        if names is None:
            raise BftembedError(f"{where}: there are no names in {names_from}. {how}")
    elif own is not None and not all(name.isdecimal() for name in own):
        names, source = own, "its columns"
    else:
        names, source = read(f"uns/{key}_names"), f"uns/{key}_names"
        if names is None:
            raise BftembedError(f"{where}: its columns have no names. {how}")
    if len(names) != n_columns:
        raise BftembedError(f"{where} has {n_columns} columns, but {source} holds {len(names)} names. {how}")
    if not any(names):
        raise BftembedError(f"{where}: all names in {source} are empty. {how}")
    return names


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
