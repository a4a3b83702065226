"""The index of ``.obs`` or ``.var`` in a file or store: a group with one member per column, or one compound array.

The compound array is the layout before anndata 0.7.
"""

from __future__ import annotations

from typing import Any

from bftembed.cells.blocks import refuse_missing_chunks
from bftembed.errors import BftembedError
from bftembed.hdf5 import as_text, is_array, is_group, strings


def n_rows(table: Any) -> int:
    """Return the number of rows, which is the length of the index.

    Raises
    ------
    BftembedError
        When there is no index, or a part of it is missing.
    """
    column = table if is_array(table) else table.get(_index_name(table))
    if is_group(column):
        column = column.get("codes", column.get("values"))
    if column is None or not column.shape:
        raise BftembedError(f"{table.file.filename}: {table.name} has no index. Write the file again with anndata.")
    check_index(table)
    return int(column.shape[0])


def check_index(table: Any, column: str | None = None) -> None:
    """Refuse an index, or another column of names, of which chunks are missing in a zarr store.

    They would be read as empty names, or as the first category.
    """
    if is_group(table):
        refuse_missing_chunks(table.get(_index_name(table) if column is None else column))


def row_names(table: Any, rows: slice) -> list[str]:
    """Read the names of some rows, in steps of 1."""
    name = _index_name(table)
    if is_array(table):
        return as_text(table[rows][name])
    return strings(table[name], rows)


def _index_name(table: Any) -> str:
    if is_array(table):
        fields = list(table.dtype.names or ("",))
        return "index" if "index" in fields else fields[0]
    return as_text([table.attrs.get("_index", "_index")])[0]
