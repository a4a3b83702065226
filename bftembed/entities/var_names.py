"""Gene names out of a h5ad's var, whatever anndata version wrote it, without loading anything else."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.hdf5 import as_text, is_array, is_group, open_h5ad, place, strings

if TYPE_CHECKING:
    from collections.abc import Callable

#: More genes than any assembly has; a larger shape is damage or malice, and reading it would fill the memory.
_MOST_GENES = 5_000_000
_LIKELY = (
    "gene_name",
    "gene_names",
    "feature_name",
    "gene_symbol",
    "gene_symbols",
    "symbol",
    "gene",
    "gene_short_name",
)


def read_var_names(source: Any, column: str | None = None, *, use_raw: bool = False) -> list[str]:
    """Read the gene names of a h5ad.

    Parameters
    ----------
    source
        Path of a h5ad; or a file opened by `bftembed.hdf5.open_h5ad`, one of its groups that holds an AnnData (a
        modality of MuData), or what answers like them (a zarr store).
    column
        Column of var to read instead of the var names. Named, it may hold only numbers (Entrez identifiers); the index
        counts as a column.
    use_raw
        Read the var of ``.raw``.

    Returns
    -------
    list of str
        One per variable, in file order, duplicates kept; a missing value is ``""``.

    Raises
    ------
    BftembedError
        When there is no var, no such column, or the var names are only numbers; names columns that hold names.
    """
    if isinstance(source, str | os.PathLike):
        with open_h5ad(source) as handle:
            return _read(handle, column, use_raw)
    return _read(source, column, use_raw)


def read_var_column(handle: Any, column: str, *, use_raw: bool = False) -> list[str] | None:
    """Read a column of var as text; `handle` as `read_var_names` takes it. None where there is no such column.

    Raises
    ------
    BftembedError
        When it cannot be read as text.
    """
    key = _key(handle, use_raw)
    if key is None or column not in _columns(handle[key]):
        return None
    return _texts(handle, handle[key], key, column)


def refuse_numbers(names: list[str], what: str, index: str, remedy: Callable[[], str]) -> None:
    """Raise when names that nobody chose are only numbers; the one rule for h5ad files and AnnData in memory.

    Even a subset of "0", "1", … would resolve, as Entrez identifiers of some other genes.

    Parameters
    ----------
    names
        The var names; blank ones are passed over.
    what
        What they are the names of, to begin the message with.
    index
        What the index is called as a column, for those who mean the numbers.
    remedy
        Gives a sentence on what to choose instead.

    Raises
    ------
    BftembedError
        When there are names, and all are whole numbers.
    """
    filled = [name for name in names if name]
    if filled and all(name.isdecimal() for name in filled):
        raise BftembedError(
            f"{what} are only numbers ({examples(filled)}). {remedy()} If the numbers are Entrez identifiers, name the "
            f"index itself as the column: {index}."
        )


def _read(handle: Any, column: str | None, use_raw: bool) -> list[str]:
    path = place(handle)
    key = _key(handle, use_raw)
    if key is None:
        table = "raw/var" if use_raw else "var"
        raise BftembedError(f"{path}: there is no {table}, so no gene names. Is it a h5ad of anndata?")
    var = handle[key]
    columns = _columns(var)
    if column is not None:
        if column not in columns:
            raise unknown_name("column", column, columns, where=f"{key} of {path}")
        return _texts(handle, var, key, column)
    index = _index(var, columns)
    names = _texts(handle, var, key, index) if index is not None else []
    if index is None or not any(names):
        raise BftembedError(f"{path}: the names of {key} are missing. {_advice(handle, var, key, columns, index)}")
    refuse_numbers(names, f"{path}: the names of {key}", index, lambda: _advice(handle, var, key, columns, index))
    return names


def _key(handle: Any, use_raw: bool) -> str | None:
    return next((key for key in (("raw/var", "raw.var") if use_raw else ("var",)) if key in handle), None)


def _columns(var: Any) -> list[str]:
    if is_array(var):
        return list(var.dtype.names or ())
    return [name for name in var if name != "__categories"]


def _index(var: Any, columns: list[str]) -> str | None:
    given = var.attrs.get("_index")
    given = given.decode() if isinstance(given, bytes) else given
    for name in (given, "_index", "index"):
        if isinstance(name, str) and name in columns:
            return name
    # Before version 0.7 anndata wrote var as one table with the index first.
    return columns[0] if columns and is_array(var) else None


def _texts(handle: Any, var: Any, key: str, column: str) -> list[str]:
    where = f"{place(handle)}: {key}/{column}"
    try:
        if is_array(var):
            _check_size(var, where)
            categories = f"uns/{column}_categories"
            if column in var.dtype.names and var.dtype[column].kind in "iu" and categories in handle:
                return _decoded(var[column], handle[categories], where)
            return as_text(var[column])
        member = var[column]
        _check_size(member, where)
        if is_array(member) and "categories" in member.attrs:
            return _decoded(member[:], var["__categories"][column], where)
        return strings(member)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as err:
        raise BftembedError(
            f"{where} cannot be read as a column of names ({err}). Choose another column, or rewrite it with anndata."
        ) from err


def _decoded(codes: Any, categories: Any, where: str) -> list[str]:
    _check_size(categories, where)
    texts = strings(categories)
    return [texts[code] if code >= 0 else "" for code in codes]


def _check_size(member: Any, where: str, depth: int = 2) -> None:
    # A categorical is a group whose categories may be a group again (nullable strings); nothing lies deeper.
    if is_group(member) and depth:
        for part in member.values():
            _check_size(part, where, depth - 1)
    elif not is_array(member) or len(member.shape) != 1 or member.shape[0] > _MOST_GENES:
        shape = getattr(member, "shape", None)
        raise BftembedError(f"{where} has the shape {shape}, which no column of gene names has.")


def _advice(handle: Any, var: Any, key: str, columns: list[str], index: str | None) -> str:
    found = []
    for name in sorted((c for c in columns if c != index), key=lambda c: (c.lower() not in _LIKELY, columns.index(c))):
        with contextlib.suppress(BftembedError):
            texts = [t for t in _texts(handle, var, key, name) if t]
            if texts and not any(_is_number(t) for t in texts[:20]):
                found.append(f"{name!r} ({examples(texts[:3])})")
    if found:
        return f"Name a column that holds gene names (--gene-column, or --column for a list): {', '.join(found[:8])}."
    return "No column of it holds names either: set var_names with anndata."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("True", "False")
    return True
