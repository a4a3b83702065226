"""Gene names of a ``.var`` table: one rule for AnnData in memory and for files of any version of anndata."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.hdf5 import as_text, check_declared_size, is_array, open_h5ad, place

if TYPE_CHECKING:
    import pandas as pd

#: Columns that usually hold gene names, suggested first.
_LIKELY = (
    *("gene_name", "gene_names", "feature_name", "gene_symbol", "gene_symbols", "symbol", "gene"),
    "gene_short_name",
)


def read_var_names(source: Any, column: str | None = None, *, use_raw: bool = False) -> list[str]:
    """Read the gene names of a h5ad.

    Parameters
    ----------
    source
        Path of a h5ad, or an open file or group that holds an AnnData.
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
            return read_var_names(handle, column, use_raw=use_raw)
    key = next((key for key in (("raw/var", "raw.var") if use_raw else ("var",)) if key in source), None)
    if key is None:
        raise BftembedError(f"{place(source)}: there is no {'raw/var' if use_raw else 'var'}, so no gene names.")
    return names_in(read_table(source, key), column, f"{place(source)}: {key}")


def read_table(root: Any, key: str) -> pd.DataFrame:
    """Read ``.var`` or another table of an open HDF5 file or zarr store, also as anndata before 0.7 wrote it.

    Raises
    ------
    BftembedError
        When it cannot be read as a table.
    """
    import pandas as pd
    from anndata.io import read_elem

    table = root[key]
    if not hasattr(table, "store_path"):
        check_declared_size(table, place(root))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of members without an encoding
            frame = _first_layout(root, table[:]) if is_array(table) else read_elem(table)
        if not isinstance(frame, pd.DataFrame):
            raise TypeError("it is not a table")
    except Exception as err:  # anndata passes on whatever h5py, zarr and pandas raise
        why = "; ".join([(str(err) or type(err).__name__).splitlines()[0], *getattr(err, "__notes__", [])])
        raise BftembedError(
            f"{place(root)}: {key} cannot be read: it is truncated or damaged ({why}). Write it again with anndata."
        ) from err
    return frame


def _first_layout(root: Any, records: Any) -> pd.DataFrame:
    """Return a table as anndata before 0.7 wrote it: one compound data set, its categories in uns."""
    import pandas as pd

    frame = pd.DataFrame(records)
    for name in frame.columns:
        if f"uns/{name}_categories" in root and frame[name].dtype.kind in "iu":
            frame[name] = pd.Categorical.from_codes(frame[name], as_text(root[f"uns/{name}_categories"][:]))
        elif frame[name].dtype == object:
            frame[name] = as_text(frame[name])
    return frame.set_index("index" if "index" in frame else frame.columns[0])


def names_in(table: pd.DataFrame, column: str | None, where: str, remedy: str = "") -> list[str]:
    """Return the names in the index or a column of a table, ``""`` where missing.

    Parameters
    ----------
    table
        ``.var``, or what else has one row per gene.
    column
        A column, or the index by its name (``"_index"`` where it has none). None for the index, which then may not
        hold numbers alone: even a subset of "0", "1", … would resolve, as Entrez identifiers of other genes.
    where
        File and table, for messages.
    remedy
        What to do about a table without names; by default name a column that holds some.

    Raises
    ------
    BftembedError
        For an unknown column, and an index that holds no names.
    """
    columns, index = [str(name) for name in table.columns], str(table.index.name or "_index")
    if column is not None and column not in (*columns, index):
        raise unknown_name("column", column, [*columns, index], where=where)
    if column is not None:
        return texts(table[column] if column in columns else table.index)
    names = texts(table.index)
    filled = [name for name in names if name]
    if len(names) and not filled:
        raise BftembedError(f"{where}: the names are missing. {remedy or _advice(table)}")
    if filled and all(name.isdecimal() for name in filled):
        raise BftembedError(
            f"{where}: the names are only numbers ({examples(filled)}). {remedy or _advice(table)} If the numbers are "
            f"Entrez identifiers, name the index itself as the column: {index}."
        )
    return names


def texts(values: pd.Series | pd.Index) -> list[str]:
    """Return values as text, ``""`` where missing."""
    return ["" if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)]


def _advice(table: pd.DataFrame) -> str:
    found = []
    for name in sorted(map(str, table.columns), key=lambda name: name.lower() not in _LIKELY):
        filled = [text for text in texts(table[name].head(20)) if text] if name in table else []
        if filled and not any(map(_is_number, filled)):
            found.append(f"{name!r} ({examples(filled[:3])})")
    if found:
        return f"Name a column that holds gene names (--gene-column, or --column for a list): {', '.join(found[:8])}."
    return "No column of it holds names either: set var_names with anndata."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("True", "False")
    return True
