"""The expression of a data set: which matrix, its genes, its cells; from a h5ad file or an AnnData, the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from bftembed.cells.blocks import Compressed, Dense, compressed_format
from bftembed.cells.preflight import check_declared_size, check_kind
from bftembed.entities.var_names import read_var_names, refuse_numbers
from bftembed.errors import BftembedError, unknown_name
from bftembed.hdf5 import strings

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData


@dataclass(frozen=True)
class Expression:
    """One expression matrix with what is needed to use it and to speak of it.

    Attributes
    ----------
    matrix
        (n_cells, n_genes), in blocks.
    name
        ``"X"``, ``"layers/NAME"`` or ``"raw/X"``.
    where
        File (or ``AnnData``) and matrix, for messages.
    genes
        n_genes names, in the order of the columns, duplicates kept.
    cell_names
        Reads the n_cells names of the cells.
    logged
        Whether ``uns["log1p"]`` says that this matrix is logged already. It speaks of X alone.
    others
        How to select the other matrices of the data set, for messages: ``"use_raw=True (--raw)"``, …
    """

    matrix: Compressed | Dense
    name: str
    where: str
    genes: list[str]
    cell_names: Callable[[], list[str]]
    logged: bool
    others: tuple[str, ...]

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.matrix.shape[0]

    @property
    def n_genes(self) -> int:
        """Number of genes of this matrix, with or without an embedding."""
        return self.matrix.shape[1]


def expression_of_file(handle: h5py.File, *, layer: str | None, use_raw: bool, gene_column: str | None) -> Expression:
    """Find the expression matrix of an open h5ad file; nothing but names and structure is read.

    Parameters
    ----------
    handle
        From `bftembed.hdf5.open_h5ad`. Must stay open while the blocks are read.
    layer, use_raw
        Which matrix: X by default.
    gene_column
        Column of ``.var`` (of ``.raw.var`` with `use_raw`) with the gene names; the index by default.

    Raises
    ------
    BftembedError
        When the matrix or the names are not there, do not fit together, or are of a kind that is not supported.
    """
    path = handle.filename
    layers = list(handle["layers"]) if isinstance(handle.get("layers"), h5py.Group) else []
    raw = "raw/X" if "raw/X" in handle else "raw.X"
    # anndata may write "no X" as an empty data set, without a shape.
    has_x = "X" in handle and not (isinstance(handle["X"], h5py.Dataset) and handle["X"].shape is None)
    name = _chosen(layer, use_raw, layers, has_raw=raw in handle, has_x=has_x, where=path)
    member = handle[raw if use_raw else name]
    where = f"{path}: {name}"
    check_declared_size(member, path)
    if not isinstance(member, h5py.Group | h5py.Dataset):
        raise BftembedError(f"{where} is neither values nor a group of them. The file is damaged; write it again.")
    if isinstance(member, h5py.Group):
        if not compressed_format(member):
            kind = member.attrs.get("encoding-type", "unknown")
            raise BftembedError(f"{where} is of the kind {kind!r}; expected a CSR, CSC or dense matrix.")
        matrix: Compressed | Dense = Compressed.from_hdf5(member, where)
    else:
        matrix = _dense(member, where)
    _check_filled(matrix, where)
    genes = read_var_names(handle, gene_column, use_raw=use_raw)
    _check_length(len(genes), matrix.shape[1], "genes", "var", where)
    if "obs" not in handle:
        raise BftembedError(f"{path} has no obs: it is not a complete h5ad file. Write it again with anndata.")
    check_declared_size(handle["obs"], path)
    _check_length(_n_rows(handle["obs"]), matrix.shape[0], "cells", "obs", where)
    return Expression(
        matrix=matrix,
        name=name,
        where=where,
        genes=genes,
        cell_names=lambda: _row_names(handle["obs"]),
        logged=name == "X" and isinstance(handle.get("uns"), h5py.Group) and "log1p" in handle["uns"],
        others=_others(name, layers, raw in handle, has_x),
    )


def expression_of_anndata(adata: AnnData, *, layer: str | None, use_raw: bool, gene_column: str | None) -> Expression:
    """Find the expression matrix of an AnnData in memory, as `expression_of_file` does. Nothing is copied.

    Raises
    ------
    BftembedError
        As `expression_of_file`; also for a backed AnnData, whose path is to be given instead.
    """
    from scipy.sparse import issparse

    if adata.isbacked:
        raise BftembedError(
            f"The AnnData is backed by {adata.filename}. Give that path (with out=PATH), or adata.to_memory()."
        )
    layers = [str(name) for name in adata.layers]
    has_raw, has_x = adata.raw is not None, adata.X is not None
    name = _chosen(layer, use_raw, layers, has_raw=has_raw, has_x=has_x, where="the AnnData")
    where = f"AnnData: {name}"
    holder = adata.raw if use_raw else adata
    values = adata.layers[layer] if layer is not None else holder.X
    if issparse(values):
        values = values if values.format in ("csr", "csc") else values.tocsr()
        matrix: Compressed | Dense = Compressed.from_scipy(values, where)
    elif isinstance(values, np.ndarray):
        matrix = _dense(np.asarray(values), where)
    else:
        raise BftembedError(
            f"{where} is a {type(values).__module__}.{type(values).__name__}; expected a NumPy array or a SciPy CSR or "
            f"CSC matrix. Bring it into memory first, or give the path of the h5ad file."
        )
    _check_filled(matrix, where)
    return Expression(
        matrix=matrix,
        name=name,
        where=where,
        genes=_genes_of_anndata(holder.var, gene_column, where),
        cell_names=lambda: [str(name) for name in adata.obs_names],
        logged=name == "X" and "log1p" in adata.uns,
        others=_others(name, layers, has_raw, has_x),
    )


def _genes_of_anndata(var: Any, gene_column: str | None, where: str) -> list[str]:
    columns = [str(column) for column in var.columns]
    index = str(var.index.name or "_index")
    if gene_column is not None and gene_column not in (*columns, index):
        raise unknown_name("column", gene_column, [*columns, index], where=f"var of {where}")
    values = var[gene_column] if gene_column in columns else var.index
    names = ["" if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)]
    if gene_column is None:
        remedy = f"Name the column of .var that holds gene names with gene_column: {', '.join(columns) or '(none)'}."
        refuse_numbers(names, f"{where}: the var names", index, lambda: remedy)
    return names


def _chosen(layer: str | None, use_raw: bool, layers: list[str], *, has_raw: bool, has_x: bool, where: str) -> str:
    if layer is not None and use_raw:
        raise BftembedError("Give either a layer or use_raw (--raw), not both.")
    if layer is not None:
        if layer not in layers:
            raise unknown_name("layer", layer, layers, where=where)
        return f"layers/{layer}"
    name = "raw/X" if use_raw else "X"
    if not (has_raw if use_raw else has_x):
        remedy = " or ".join(_others(name, layers, has_raw, has_x))
        what = "no .raw" if use_raw else "no expression matrix X"
        raise BftembedError(f"{where} has {what}. " + (f"Try {remedy}." if remedy else "It holds no other matrix."))
    return name


def _others(name: str, layers: list[str], has_raw: bool, has_x: bool) -> tuple[str, ...]:
    ways = [f"layer={one!r} (--layer {one})" for one in layers if name != f"layers/{one}"]
    if has_raw and name != "raw/X":
        ways.insert(0, "use_raw=True (--raw)")
    if has_x and name != "X":
        ways.append("X (neither --layer nor --raw)")
    return tuple(ways)


def _dense(values: Any, where: str) -> Dense:
    if len(values.shape or ()) != 2:
        raise BftembedError(f"{where} has shape {values.shape}; expected (cells, genes).")
    check_kind(values.dtype, where)
    return Dense(values, where)


def _check_length(length: int, expected: int, what: str, table: str, where: str) -> None:
    if length != expected:
        raise BftembedError(
            f"{where} declares {expected} {what}, but {table} has {length} rows. The file is damaged; write it again."
        )


def _check_filled(matrix: Compressed | Dense, where: str) -> None:
    if 0 in matrix.shape:
        raise BftembedError(
            f"{where} has {matrix.shape[0]} cells and {matrix.shape[1]} genes: there is nothing to embed. "
            f"Was everything filtered out?"
        )


# The table of cells is a group with one member per column, or (before anndata 0.7) one compound data set.


def _n_rows(table: Any) -> int:
    column = table if isinstance(table, h5py.Dataset) else table.get(_index_name(table))
    if isinstance(column, h5py.Group):
        column = column.get("codes", column.get("values"))
    if column is None or not column.shape:
        raise BftembedError(f"{table.file.filename}: {table.name} has no index. Write the file again with anndata.")
    return int(column.shape[0])


def _row_names(table: Any) -> list[str]:
    name = _index_name(table)
    if isinstance(table, h5py.Dataset):
        return [x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in table[name]]
    return strings(table[name])


def _index_name(table: Any) -> str:
    if isinstance(table, h5py.Dataset):
        fields = list(table.dtype.names or ("",))
        return "index" if "index" in fields else fields[0]
    marked = table.attrs.get("_index", "_index")
    return marked.decode() if isinstance(marked, bytes) else str(marked)
