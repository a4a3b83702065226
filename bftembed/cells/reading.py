"""The expression of a data set: which matrix, its genes, its cells; from a file, a store or an AnnData alike."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bftembed.cells.blocks import Columns, memory_matrix, stored_matrix
from bftembed.cells.feature_types import columns_of_kind
from bftembed.cells.side_matrix import memory_side, stored_side
from bftembed.cells.tables import check_index, n_rows, row_names
from bftembed.cells.zarr_store import open_zarr
from bftembed.entities.var_names import read_var_column, read_var_names, refuse_numbers
from bftembed.errors import BftembedError, unknown_name
from bftembed.hdf5 import as_text, check_declared_size, is_array, is_group, open_h5ad

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from anndata import AnnData

    from bftembed.cells.blocks import Matrix
    from bftembed.cells.feature_types import Kind

#: Names of cells read at a time where all are wanted.
_NAMES_AT_ONCE = 2**16


@dataclass(frozen=True)
class Expression:
    """One expression matrix with what is needed to use it and to speak of it.

    Attributes
    ----------
    matrix
        (n_cells, n_genes), in blocks.
    name
        ``"X"``, ``"layers/NAME"``, ``"raw/X"`` or ``"obsm/KEY"``; of a modality with ``"mod/NAME/"`` before it.
    where
        File (or ``AnnData``) and matrix, for messages.
    genes
        n_genes names, in the order of the columns, duplicates kept.
    cell_name_part
        Reads the names of a run of cells: a range in steps of 1.
    logged
        Whether ``uns["log1p"]`` says that this matrix is logged already. It speaks of X alone.
    others
        How to select the other matrices of the data set, for messages: ``"use_raw=True (--use-raw)"``, …
    n_other_features
        Columns of the stored matrix that are left out of `matrix` and `genes`, because ``.var`` says that they are of
        another type (antibodies, peaks …); see `bftembed.cells.feature_types.columns_of_kind`.
    """

    matrix: Matrix
    name: str
    where: str
    genes: list[str]
    cell_name_part: Callable[[range], list[str]]
    logged: bool
    others: tuple[str, ...]
    n_other_features: int = 0

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.matrix.shape[0]

    @property
    def n_genes(self) -> int:
        """Number of genes of this matrix, with or without an embedding."""
        return self.matrix.shape[1]

    def cell_names(self) -> list[str]:
        """Read the n_cells names of all cells. Of millions, rather read a part: see `cell_name_part`."""
        names: list[str] = []
        for start in range(0, self.n_cells, _NAMES_AT_ONCE):
            names += self.cell_name_part(range(start, min(start + _NAMES_AT_ONCE, self.n_cells)))
        return names


@contextlib.contextmanager
def expression_in(
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    modality: str | None = None,
    obsm: str | None = None,
    obsm_names: str | None = None,
    kind: Kind | None = "gene",
) -> Iterator[Expression]:
    """Open the expression of a h5ad file, a zarr store (a folder) or a MuData file of either kind, read-only.

    Parameters
    ----------
    path
        File or folder; what is in it decides, not its name.
    layer, use_raw, gene_column, modality, obsm, obsm_names, kind
        See `expression_of_file`.

    Yields
    ------
    Expression
        To be read inside the block.

    Raises
    ------
    BftembedError
        As `expression_of_file`; also when the file or store is missing, damaged or leads out of itself, and for damage
        that shows while values are read.
    """
    with open_zarr(path) if Path(path).is_dir() else open_h5ad(path) as root:
        yield expression_of_file(
            root,
            layer=layer,
            use_raw=use_raw,
            gene_column=gene_column,
            modality=modality,
            obsm=obsm,
            obsm_names=obsm_names,
            kind=kind,
        )


def backed_path(adata: AnnData) -> Path:
    """Return the file of a backed AnnData, so that it can be streamed like any other.

    What was changed in memory (``.obs``, ``.var``, ``.uns``) is not in the file; what was changed in the file itself
    (``.X`` with mode ``"r+"``) is written out here.

    Raises
    ------
    BftembedError
        When it is in memory, is a view (a subset) of a backed AnnData, or its file is gone.
    """
    if not adata.isbacked:
        raise BftembedError("The AnnData is in memory, not backed by a file. Give it as it is.")
    path = Path(str(adata.filename))
    if adata.is_view:
        raise BftembedError(
            f"The AnnData is a part of one that is backed by {path}. Bring the part into memory, adata.to_memory(), or "
            f"write it to a file of its own, adata.copy(filename=PATH), and give that."
        )
    if not path.exists():
        raise BftembedError(f"The file of the backed AnnData is gone: {path}. Was it moved, or the folder changed?")
    if adata.file.is_open:
        for name in adata.file:
            adata.file[name].file.flush()
            break
    return path


def expression_of_file(
    handle: Any,
    *,
    layer: str | None,
    use_raw: bool,
    gene_column: str | None,
    modality: str | None = None,
    obsm: str | None = None,
    obsm_names: str | None = None,
    kind: Kind | None = "gene",
) -> Expression:
    """Find the expression matrix of an open file or store; nothing but names and structure is read.

    Parameters
    ----------
    handle
        From `bftembed.hdf5.open_h5ad` or `bftembed.cells.zarr_store.open_zarr`. Must stay open while the blocks are
        read.
    layer, use_raw
        Which matrix: X by default.
    gene_column
        Column of ``.var`` (of ``.raw.var`` with `use_raw`) with the gene names; the index by default.
    modality
        Which AnnData of a MuData file.
    obsm, obsm_names
        Take ``.obsm[obsm]``; the names of its columns are those of the DataFrame, or of ``uns["{obsm}_names"]``, or
        where ``"uns/KEY"`` says.
    kind
        Which features to take of a matrix that ``.var`` says holds several types: genes or proteins alone, as
        `bftembed.cells.feature_types.columns_of_kind` has it; None takes all.

    Raises
    ------
    BftembedError
        When the matrix or the names are not there, do not fit together, or are of a kind that is not supported.
    """
    root = _modality(handle, modality)
    prefix = f"mod/{modality}/" if modality is not None else ""
    path = f"{handle.filename}: mod/{modality}" if modality is not None else str(handle.filename)
    _check_side(layer, use_raw, gene_column, obsm, obsm_names)
    layers = list(root["layers"]) if is_group(root.get("layers")) else []
    raw = "raw/X" if "raw/X" in root else "raw.X"
    has_x, has_raw = _has_values(root, "X"), raw in root
    if obsm is not None:
        name, side = f"obsm/{obsm}", stored_side(root, obsm, obsm_names, path)
        matrix, genes = side.matrix, side.names
    else:
        name = _chosen(layer, use_raw, layers, has_raw=has_raw, has_x=has_x, where=path)
        matrix = stored_matrix(root[raw if use_raw else name], f"{handle.filename}: {prefix}{name}")
    where = f"{handle.filename}: {prefix}{name}"
    _check_filled(matrix, where)
    if obsm is None:
        genes = read_var_names(root, gene_column, use_raw=use_raw)
        check_index(root.get("raw/var" if use_raw else "var"), gene_column)
        _check_length(len(genes), matrix.shape[1], "genes", "var", where)
    if "obs" not in root:
        raise BftembedError(f"{path} has no obs: it is not complete. Write it again with anndata.")
    check_declared_size(root["obs"], path)
    _check_length(n_rows(root["obs"]), matrix.shape[0], "cells", "obs", where)
    found = Expression(
        matrix=matrix,
        name=prefix + name,
        where=where,
        genes=genes,
        cell_name_part=lambda cells: row_names(root["obs"], slice(cells.start, cells.stop)),
        logged=name == "X" and is_group(root.get("uns")) and "log1p" in root["uns"],
        others=_others(name, layers, has_raw, has_x),
    )
    if obsm is not None or kind is None:
        return found
    return _of_kind(found, kind, lambda column: read_var_column(root, column, use_raw=use_raw))


def expression_of_anndata(
    adata: AnnData,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    obsm: str | None = None,
    obsm_names: str | None = None,
    kind: Kind | None = "gene",
) -> Expression:
    """Find the expression matrix of an AnnData in memory, as `expression_of_file` does. Nothing is copied.

    Raises
    ------
    BftembedError
        As `expression_of_file`; also for a backed AnnData, whose path is to be given instead.
    """
    if adata.isbacked:
        raise BftembedError(
            f"The AnnData is backed by {adata.filename}. Give that path (with out=PATH), or adata.to_memory()."
        )
    _check_side(layer, use_raw, gene_column, obsm, obsm_names)
    layers = [str(name) for name in adata.layers]
    has_raw, has_x = adata.raw is not None, adata.X is not None
    if obsm is not None:
        name, side = f"obsm/{obsm}", memory_side(adata, obsm, obsm_names)
        matrix, genes = side.matrix, side.names
    else:
        name = _chosen(layer, use_raw, layers, has_raw=has_raw, has_x=has_x, where="the AnnData")
        holder = adata.raw if use_raw else adata
        matrix = memory_matrix(adata.layers[layer] if layer is not None else holder.X, f"AnnData: {name}")
    where = f"AnnData: {name}"
    _check_filled(matrix, where)
    found = Expression(
        matrix=matrix,
        name=name,
        where=where,
        genes=genes if obsm is not None else _genes_of_anndata(holder.var, gene_column, where),
        cell_name_part=lambda cells: [str(name) for name in adata.obs_names[cells.start : cells.stop]],
        logged=name == "X" and "log1p" in adata.uns,
        others=_others(name, layers, has_raw, has_x),
    )
    if obsm is not None or kind is None:
        return found
    var = holder.var
    return _of_kind(found, kind, lambda column: _texts_of_anndata(var[column]) if column in var else None)


def _genes_of_anndata(var: Any, gene_column: str | None, where: str) -> list[str]:
    columns = [str(column) for column in var.columns]
    index = str(var.index.name or "_index")
    if gene_column is not None and gene_column not in (*columns, index):
        raise unknown_name("column", gene_column, [*columns, index], where=f"var of {where}")
    values = var[gene_column] if gene_column in columns else var.index
    names = _texts_of_anndata(values)
    if gene_column is None:
        remedy = f"Name the column of .var that holds gene names with gene_column: {', '.join(columns) or '(none)'}."
        refuse_numbers(names, f"{where}: the var names", index, lambda: remedy)
    return names


def _texts_of_anndata(values: Any) -> list[str]:
    return ["" if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)]


def _of_kind(expression: Expression, kind: Kind, column: Callable[[str], list[str] | None]) -> Expression:
    """Return the features of a kind alone, where the columns of ``.var`` that `column` reads state several types."""

    def read(name: str) -> list[str] | None:
        types = column(name)
        if types is not None:
            _check_length(len(types), len(expression.genes), "genes", f"var/{name}", expression.where)
        return types

    kept = columns_of_kind(read, kind)
    if kept is None:
        return expression
    assert not isinstance(expression.matrix, Columns)  # no column was left out yet
    genes = [expression.genes[i] for i in kept]
    n_others = len(expression.genes) - len(genes)
    return replace(expression, matrix=Columns(expression.matrix, kept), genes=genes, n_other_features=n_others)


def _modality(handle: Any, modality: str | None) -> Any:
    """Return the group that holds the AnnData: the root of a h5ad, or a modality of MuData."""
    mod = handle.get("mod")
    names = list(mod) if is_group(mod) and "X" not in handle else []
    if modality is None:
        if names:
            first = names[0]
            raise BftembedError(
                f"{handle.filename} holds MuData with the modalities {', '.join(names)}. Name one: "
                f"modality={first!r} (--modality {first})."
            )
        return handle
    if not names:
        raise BftembedError(
            f"{handle.filename} holds one AnnData, no modalities: leave modality={modality!r} (--modality) out. The "
            f"protein counts of CITE-seq may be in .obsm: obsm=KEY (--obsm)."
        )
    if modality not in names:
        raise unknown_name("modality", modality, names, where=str(handle.filename))
    return mod[modality]


def _check_side(layer: str | None, use_raw: bool, gene_column: str | None, obsm: str | None, names: str | None) -> None:
    if obsm is None:
        if names is not None:
            raise BftembedError("obsm_names (--obsm-names) names the columns of .obsm: give obsm (--obsm) too.")
        return
    if layer is not None or use_raw:
        raise BftembedError("Give one of layer, use_raw (--use-raw) and obsm, not several.")
    if gene_column is not None:
        raise BftembedError(
            "gene_column (--gene-column) is of .var, which does not speak of .obsm. Give obsm_names='uns/KEY' "
            "(--obsm-names) instead."
        )


def _has_values(root: Any, name: str) -> bool:
    """Return whether there is such a matrix; anndata may write "none" as a data set without a shape or values."""
    member = root.get(name)
    if member is None or (is_array(member) and member.shape is None):
        return False
    return as_text([member.attrs.get("encoding-type", "")])[0] != "null"


def _chosen(layer: str | None, use_raw: bool, layers: list[str], *, has_raw: bool, has_x: bool, where: str) -> str:
    if layer is not None and use_raw:
        raise BftembedError("Give either a layer or use_raw (--use-raw), not both.")
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
        ways.insert(0, "use_raw=True (--use-raw)")
    if has_x and name != "X":
        ways.append("X (neither --layer nor --use-raw)")
    return tuple(ways)


def _check_length(length: int, expected: int, what: str, table: str, where: str) -> None:
    if length != expected:
        raise BftembedError(
            f"{where} declares {expected} {what}, but {table} has {length} rows. The file is damaged; write it again."
        )


def _check_filled(matrix: Matrix, where: str) -> None:
    if 0 in matrix.shape:
        raise BftembedError(
            f"{where} has {matrix.shape[0]} cells and {matrix.shape[1]} genes: there is nothing to embed. "
            f"Was everything filtered out?"
        )
