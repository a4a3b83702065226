"""The expression of a data set: matrix, genes and cells of a h5ad, zarr, AnnData, MuData or Cell Ranger file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.entities.var_names import names_in, read_table
from bftembed.errors import BftembedError, unknown_name
from bftembed.expression.features import columns_of_kind
from bftembed.expression.matrix import Columns, Compressed, Dense, compressed_format, memory_matrix, stored_matrix
from bftembed.expression.store import check_complete, guard, index_of, n_rows, open_store, row_names
from bftembed.hdf5 import as_text, is_array, is_group, strings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    from anndata import AnnData

    from bftembed.expression.features import Kind
    from bftembed.expression.matrix import Matrix


@dataclass(frozen=True)
class Expression:
    """One expression matrix (n_cells, n_genes) with what is needed to use it.

    Attributes
    ----------
    name, where
        ``"X"``, ``"layers/NAME"``, ``"raw/X"`` or ``"obsm/KEY"``, of a modality with ``"mod/NAME/"`` before it; and the
        file (or ``AnnData``) with it, for messages.
    genes
        n_genes names, in the order of the columns, duplicates kept.
    read_cell_names
        Reads the names of a range of cells in steps of 1.
    logged
        Whether ``uns["log1p"]`` says that this matrix is logged already. It is about X alone.
    others
        How to select the other matrices of the data set, for messages: ``"use_raw=True (--use-raw)"``, …
    n_other_features
        Columns of the stored matrix that are left out, because ``.var`` says that they are antibodies, peaks ….
    """

    matrix: Matrix
    name: str
    where: str
    genes: list[str]
    read_cell_names: Callable[[range], list[str]]
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

    def cell_names(self, cells: range | None = None) -> list[str]:
        """Read the names of some cells, in steps of 1, or of all."""
        return self.read_cell_names(range(self.n_cells) if cells is None else cells)


@contextlib.contextmanager
def open_expression(
    data: AnnData | str | os.PathLike[str],
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    modality: str | None = None,
    obsm: str | None = None,
    obsm_names: str | None = None,
    kind: Kind | None = "gene",
) -> Iterator[Expression]:
    """Open the expression of a file or an AnnData, read-only; nothing but names and structure is read at first.

    Parameters
    ----------
    data
        A h5ad file, a zarr store (a folder), MuData in either, a ``.h5`` of Cell Ranger, or an AnnData, in memory or
        backed; of a file its content decides, not its name.
    layer, use_raw
        Which matrix: X by default.
    gene_column
        Column of ``.var`` (of ``.raw.var`` with `use_raw`) with the gene names; the index by default.
    modality
        Which AnnData of MuData.
    obsm, obsm_names
        Take ``.obsm[obsm]``; the names of its columns are those of the DataFrame, or of ``uns["{obsm}_names"]``, or
        where ``"uns/KEY"`` says.
    kind
        Genes or proteins alone, of a matrix that ``.var`` says holds several types of features, as
        `bftembed.expression.features.columns_of_kind` has it; None takes all.

    Yields
    ------
    Expression
        To be read inside the block.

    Raises
    ------
    BftembedError
        When the file is missing, damaged or leads out of itself, when matrix or names do not exist or do not fit
        together; and for damage that shows while values are read.
    """
    choice: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_column": gene_column, "kind": kind}
    choice |= {"obsm": obsm, "obsm_names": obsm_names}
    if not isinstance(data, (str, os.PathLike)):
        if modality is not None:
            raise BftembedError("modality is for MuData files. Give the AnnData of the modality: mdata['rna'].")
        if not data.isbacked:
            yield expression_of_anndata(data, **choice)
            return
        data = _backed_path(data)
    with open_store(data) as root:
        yield _expression(_source_in(root, str(data), modality), **choice)


def expression_of_anndata(adata: AnnData, **choice: Any) -> Expression:
    """Return the expression of an AnnData in memory; nothing is copied. See `open_expression`."""
    return _expression(_InMemory(adata), **choice)


def _backed_path(adata: AnnData) -> Path:
    """Return the file of a backed AnnData, with what was changed in it (``.X`` with mode ``"r+"``) written out."""
    path = Path(str(adata.filename))
    if adata.is_view:
        raise BftembedError(
            f"The AnnData is a view of one that is backed by {path}. Load it, adata.to_memory(), or write it to "
            f"its own file, adata.copy(filename=PATH), and give that."
        )
    if not path.exists():
        raise BftembedError(f"The file of the backed AnnData no longer exists: {path}.")
    if adata.file.is_open:
        for name in adata.file:
            adata.file[name].file.flush()
            break
    return path


def _expression(
    source: _Stored | _TenX | _InMemory,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    obsm: str | None = None,
    obsm_names: str | None = None,
    kind: Kind | None = "gene",
) -> Expression:
    if (layer is not None) + use_raw + (obsm is not None) > 1:
        raise BftembedError("Give one of layer (--layer), use_raw (--use-raw) and obsm (--obsm), not several.")
    if obsm is None and obsm_names is not None:
        raise BftembedError("obsm_names (--obsm-names) names the columns of .obsm: give obsm (--obsm) too.")
    if obsm is not None and gene_column is not None:
        raise BftembedError("gene_column (--gene-column) is of .var, not of .obsm: give obsm_names='uns/KEY' instead.")
    there = source.matrices()
    name = f"obsm/{obsm}" if obsm is not None else _chosen(layer, use_raw, there, source.where)
    where, own = f"{source.label}{name}", None
    if obsm is not None:
        matrix, own = source.obsm(obsm, where)
    else:
        matrix = source.matrix(name, where)
    if 0 in matrix.shape:
        raise BftembedError(f"{where} has {matrix.shape[0]} cells and {matrix.shape[1]} genes: nothing to embed.")
    kept = None
    if obsm is not None:
        genes = _obsm_names(source.uns, obsm, obsm_names, own, matrix.shape[1], where)
    else:
        var = source.var(use_raw, gene_column)
        _check_length(len(var), matrix.shape[1], "genes", "var", where)
        genes = names_in(var, gene_column, f"{source.where}: {'raw/var' if use_raw else 'var'}")
        kept = None if kind is None else columns_of_kind(var, kind)
    _check_length(source.n_cells(), matrix.shape[0], "cells", "obs", where)
    found = Expression(
        matrix=matrix,
        name=source.prefix + name,
        where=where,
        genes=genes,
        read_cell_names=source.cell_names,
        logged=name == "X" and source.logged(),
        others=tuple(_way(other) for other in there if other != name),
    )
    if kept is None:
        return found
    n_others = len(genes) - len(kept)
    return replace(found, matrix=Columns(matrix, kept), genes=[genes[i] for i in kept], n_other_features=n_others)


def is_cell_ranger(root: Any) -> bool:
    """Return whether an open HDF5 file is a matrix of Cell Ranger."""
    return is_group(root.get("matrix")) and is_array(root.get("matrix/barcodes"))


def _source_in(root: Any, path: str, modality: str | None) -> _Stored | _TenX:
    if is_cell_ranger(root) and modality is None:
        return _TenX(root["matrix"], path)
    mod = root.get("mod")
    names = list(mod) if is_group(mod) and "X" not in root else []
    if modality is None:
        if names:
            raise BftembedError(
                f"{path} holds MuData with the modalities {', '.join(names)}. Name one: modality={names[0]!r} "
                f"(--modality {names[0]})."
            )
        return _Stored(root, path, "")
    if not names:
        raise BftembedError(
            f"{path} holds one AnnData, no modalities: leave modality={modality!r} (--modality) out. The protein "
            f"counts of CITE-seq may be in .obsm: obsm=KEY (--obsm)."
        )
    if modality not in names:
        raise unknown_name("modality", modality, names, where=path)
    return _Stored(mod[modality], path, f"mod/{modality}/")


# The three sources have the same methods. Names of matrices are "X", "raw/X" and "layers/NAME".


class _Stored:
    """An AnnData in a HDF5 file or a zarr store."""

    def __init__(self, root: Any, path: str, prefix: str) -> None:
        self._root, self.prefix, self.label = root, prefix, f"{path}: {prefix}"
        self.where = self.label.rstrip("/: ")
        self._raw = "raw/" if "raw/X" in root else "raw."

    def matrices(self) -> list[str]:
        layers = self._root.get("layers")
        found = [f"layers/{name}" for name in _leaves(layers)] if is_group(layers) else []
        if f"{self._raw}X" in self._root:
            found.insert(0, "raw/X")
        x = self._root.get("X")
        # anndata may write "none" as a data set without a shape or values.
        if x is None or (is_array(x) and x.shape is None) or as_text([x.attrs.get("encoding-type", "")])[0] == "null":
            return found
        return [*found, "X"]

    def matrix(self, name: str, where: str) -> Compressed | Dense:
        return stored_matrix(self._root[f"{self._raw}X" if name == "raw/X" else name], where)

    def obsm(self, key: str, where: str) -> tuple[Compressed | Dense, list[str] | None]:
        group = self._root.get("obsm")
        keys = _leaves(group) if is_group(group) else []
        if key not in keys:
            raise unknown_name("key of .obsm", key, keys, where=self.where)
        member = group[key]
        if not is_group(member) or as_text([member.attrs.get("encoding-type", "")])[0] != "dataframe":
            return stored_matrix(member, where), None
        guard(member, where)
        return _obsm_matrix(read_table(group, key), where)

    def var(self, use_raw: bool, column: str | None) -> pd.DataFrame:
        key = f"{self._raw}var" if use_raw else "var"
        if key not in self._root:
            raise BftembedError(f"{self.where} has no {key}, so no gene names: it is not complete.")
        table = self._root[key]
        guard(table, self.where)
        if is_group(table):
            check_complete(table.get(column or index_of(table)), self.where)
        return read_table(self._root, key)

    def uns(self, place: str) -> list[str] | None:
        found = self._root.get(place)
        if found is None or (is_array(found) and len(found.shape or ()) != 1):
            return None
        guard(found, place)
        check_complete(found, place)
        return strings(found)

    def n_cells(self) -> int:
        if (obs := self._root.get("obs")) is None:
            raise BftembedError(f"{self.where} has no obs: it is not complete. Write it again with anndata.")
        return n_rows(obs)

    def cell_names(self, cells: range) -> list[str]:
        return row_names(self._root["obs"], slice(cells.start, cells.stop))

    def logged(self) -> bool:
        return is_group(self._root.get("uns")) and "log1p" in self._root["uns"]


class _TenX:
    """A matrix of Cell Ranger (``filtered_feature_bc_matrix.h5``), version 3 and later."""

    prefix = ""

    def __init__(self, group: Any, path: str) -> None:
        self._group, self.where, self.label = group, path, f"{path}: "

    def matrices(self) -> list[str]:
        return ["X"]

    def matrix(self, name: str, where: str) -> Compressed | Dense:
        guard(self._group, where)
        data, indices, indptr, shape = (self._group[part] for part in ("data", "indices", "indptr", "shape"))
        n_features, n_cells = (int(n) for n in shape[:])
        return Compressed.of(data, indices, indptr, (n_cells, n_features), where, by_cell=True)

    def obsm(self, key: str, where: str) -> tuple[Compressed | Dense, list[str] | None]:
        raise unknown_name("key of .obsm", key, [], where=self.where)

    def var(self, use_raw: bool, column: str | None) -> pd.DataFrame:
        import pandas as pd

        features, scanpy = self._group.get("features", {}), {"id": "gene_ids", "feature_type": "feature_types"}
        if "name" not in features:
            raise BftembedError(f"{self.where} has no names of features. Was it written by Cell Ranger 3 or later?")
        shape = features["name"].shape
        names = [name for name in features if is_array(features[name]) and features[name].shape == shape]
        return pd.DataFrame({scanpy.get(name, name): strings(features[name]) for name in names}).set_index("name")

    def uns(self, place: str) -> list[str] | None:
        return None

    def n_cells(self) -> int:
        return int(self._group["barcodes"].shape[0])

    def cell_names(self, cells: range) -> list[str]:
        return strings(self._group["barcodes"], slice(cells.start, cells.stop))

    def logged(self) -> bool:
        return False


class _InMemory:
    """An AnnData in memory."""

    where, label, prefix = "the AnnData", "AnnData: ", ""

    def __init__(self, adata: AnnData) -> None:
        self._adata = adata

    def matrices(self) -> list[str]:
        found = ["raw/X"] if self._adata.raw is not None else []
        return [*found, *(f"layers/{name}" for name in self._adata.layers), *(["X"] * (self._adata.X is not None))]

    def matrix(self, name: str, where: str) -> Compressed | Dense:
        if name.startswith("layers/"):
            return memory_matrix(self._adata.layers[name.removeprefix("layers/")], where)
        return memory_matrix((self._adata.raw if name == "raw/X" else self._adata).X, where)

    def obsm(self, key: str, where: str) -> tuple[Compressed | Dense, list[str] | None]:
        if key not in self._adata.obsm:
            raise unknown_name("key of .obsm", key, list(self._adata.obsm), where=self.where)
        return _obsm_matrix(self._adata.obsm[key], where)

    def var(self, use_raw: bool, column: str | None) -> pd.DataFrame:
        return (self._adata.raw if use_raw else self._adata).var

    def uns(self, place: str) -> list[str] | None:
        found: Any = self._adata.uns
        for part in place.split("/")[1:]:
            if not isinstance(found, Mapping) or part not in found:
                return None
            found = found[part]
        return None if isinstance(found, str) or np.ndim(found) != 1 else as_text(found)

    def n_cells(self) -> int:
        return int(self._adata.n_obs)

    def cell_names(self, cells: range) -> list[str]:
        return [str(name) for name in self._adata.obs_names[cells.start : cells.stop]]

    def logged(self) -> bool:
        return "log1p" in self._adata.uns


def _leaves(group: Any, prefix: str = "") -> list[str]:
    """Return the names of the matrices and tables in a group, those of nested groups joined by ``/``."""
    found: list[str] = []
    for name in group:
        member = group[name]
        kind = as_text([member.attrs.get("encoding-type", "dict")])[0] if is_group(member) else "array"
        nested = kind == "dict" and not compressed_format(member)
        found += _leaves(member, f"{prefix}{name}/") if nested else [f"{prefix}{name}"]
    return found


def _obsm_matrix(values: Any, where: str) -> tuple[Compressed | Dense, list[str] | None]:
    """Return an entry of obsm in memory, and the names of its columns where it has some."""
    if hasattr(values, "columns"):
        return memory_matrix(values.to_numpy(), where), [str(name) for name in values.columns]
    return memory_matrix(values, where), None


def _obsm_names(
    read: Callable[[str], list[str] | None], key: str, uns: str | None, own: list[str] | None, n: int, where: str
) -> list[str]:
    how = (
        f"Give the {n} names of its columns as an array of text in uns and obsm_names='uns/KEY' (--obsm-names "
        f"uns/KEY), as uns[{key + '_names'!r}], or make it a DataFrame with named columns."
    )
    if uns is not None and (not uns.startswith("uns/") or not uns[4:].strip("/")):
        raise BftembedError(f"obsm_names is {uns!r}. {how}")
    place, names = (uns or f"uns/{key}_names").rstrip("/"), own
    if uns is not None or own is None or all(name.isdecimal() for name in own):
        names = read(place)
    if names is None:
        raise BftembedError(f"{where}: there are no names in {place}. {how}")
    if len(names) != n or not any(names):
        n_filled = sum(map(bool, names))
        raise BftembedError(f"{where} has {n} columns, but {n_filled} names that are not empty of {len(names)}. {how}")
    return names


def _chosen(layer: str | None, use_raw: bool, there: list[str], where: str) -> str:
    layers = [name.removeprefix("layers/") for name in there if name.startswith("layers/")]
    if layer is not None and layer not in layers:
        raise unknown_name("layer", layer, layers, where=where)
    name = f"layers/{layer}" if layer is not None else "raw/X" if use_raw else "X"
    if name not in there:
        what = "no .raw" if use_raw else "no expression matrix X"
        ways = " or ".join(_way(other) for other in there)
        raise BftembedError(f"{where} has {what}. " + (f"Try {ways}." if ways else "It holds no other matrix."))
    return name


def _way(name: str) -> str:
    if name.startswith("layers/"):
        layer = name.removeprefix("layers/")
        return f"layer={layer!r} (--layer {layer})"
    return "use_raw=True (--use-raw)" if name == "raw/X" else "X (neither --layer nor --use-raw)"


def _check_length(length: int, expected: int, what: str, table: str, where: str) -> None:
    if length != expected:
        raise BftembedError(
            f"{where} declares {expected} {what}, but {table} has {length} rows. The file is damaged; write it again."
        )
