"""Reading the RNA and the proteins of the same cells: MuData, .obsm, 10x files with feature types, or two files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.bench.expression import whole_matrix
from bftembed.bench.pairing import Modalities, Modality, paired
from bftembed.bench.reading import read_cells
from bftembed.bench.tenx import is_tenx_file, is_tenx_folder, names_may_repeat, read_tenx, split_by_type
from bftembed.cells.feature_types import GENE_WORDS, PROTEIN_WORDS, is_of
from bftembed.cells.preflight import check_declared_size
from bftembed.cells.reading import backed_path, expression_in
from bftembed.cells.tables import check_index
from bftembed.cells.zarr_store import open_zarr
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.hdf5 import is_group, open_h5ad, strings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray


_FEATURE_TYPES = "feature_types"


def read_modalities(
    data: Any,
    *,
    protein_data: Any = None,
    label: str | None = None,
    rna: str | None = None,
    adt: str | None = None,
    obsm: str | None = None,
    obsm_names: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
) -> Modalities:
    """Find the two modalities; what is in a file decides, not its name. No expression is read, but of 10x files.

    Parameters
    ----------
    data
        MuData or its file; AnnData, h5ad or zarr store with the proteins in ``.obsm`` or told apart by
        ``.var["feature_types"]``; a 10x ``.h5`` (version 3) or the folder of a 10x ``matrix.mtx.gz``; or, with
        `protein_data`, the RNA alone.
    protein_data
        AnnData, h5ad or zarr store with the proteins of the same cells as ``.X``.
    label
        Column of ``.obs`` with the cell types: of MuData itself, of its RNA, or of its proteins, whichever has it.
    rna, adt
        Names of the modalities of MuData; by default those of a usual name, see `bftembed.cells.feature_types`.
    obsm, obsm_names
        Where the protein counts and their names are, as in `bftembed.cells.embed.embed_cells`; by default the key of a
        usual name.
    layer, use_raw, gene_column
        Which matrix and names of the RNA, likewise.

    Returns
    -------
    Modalities
        Of two tables of cells (MuData, two files) the cells are paired by name: those of the RNA that the proteins have
        too, in the order of the RNA. In one table a row is a cell.

    Raises
    ------
    BftembedError
        For a file that is missing, damaged or of another kind, one modality alone, a name that is not there, and cells
        of two tables that have no name in common or one name twice.
    """
    choice = {"layer": layer, "use_raw": use_raw, "gene_column": gene_column}
    place = _Place.of(data)
    if place.kind == "mudata":
        if protein_data is not None or obsm is not None:
            raise BftembedError(f"{place.name} holds its modalities itself: leave out the protein file and obsm.")
        return _of_mudata(place, choice, label, rna, adt)
    if rna is not None or adt is not None:
        raise BftembedError(
            f"{place.name} holds no modalities by name: leave out rna={rna!r}, adt={adt!r} (--rna, --adt)."
        )
    if protein_data is not None:
        if obsm is not None:
            raise BftembedError("Give either a file of the proteins (--protein-data) or a key of .obsm (--obsm).")
        return _of_two(place, _Place.of(protein_data), choice, label)
    if place.kind == "tenx":
        if obsm is not None or layer is not None or use_raw:
            raise BftembedError(f"{place.name} is a 10x matrix: it has no obsm, layers or raw.")
        place = _Place(read_tenx(place.data), "anndata", place.name, place.stem)
        return _of_types(place, {"gene_column": gene_column}, label)
    return _of_one(place, choice, label, obsm, obsm_names)


@dataclass(frozen=True, eq=False)
class _Place:
    """Data of a known kind ("mudata", "anndata", "tenx"): a path, or an object in memory."""

    data: Any
    kind: str
    name: str
    stem: str

    @classmethod
    def of(cls, data: Any) -> _Place:
        if isinstance(data, (str, os.PathLike)):
            path = Path(data)
            return cls(path, _kind_of(path), str(path), path.name.removesuffix(".gz").rsplit(".", 1)[0])
        if isinstance(getattr(data, "mod", None), Mapping):
            return cls(data, "mudata", "the MuData", "cells")
        if not hasattr(data, "obsm"):
            raise BftembedError(f"Expected an AnnData, a MuData or a path, got {type(data).__name__}.")
        if data.isbacked:
            return cls.of(backed_path(data))
        return cls(data, "anndata", "the AnnData", "cells")

    @property
    def in_file(self) -> bool:
        return isinstance(self.data, Path)

    def root(self) -> AbstractContextManager[Any]:
        """Open the file or the store."""
        return open_zarr(self.data) if self.data.is_dir() else open_h5ad(self.data)

    def modalities(self) -> list[str]:
        if not self.in_file:
            return [str(name) for name in self.data.mod]
        with self.root() as root:
            return list(root["mod"])

    def obsm_keys(self) -> list[str]:
        if not self.in_file:
            return [str(key) for key in self.data.obsm]
        with self.root() as root:
            return list(root["obsm"]) if is_group(root.get("obsm")) else []

    def column(self, table: str, column: str) -> list[str] | None:
        """Read a column of a table of a file ("obs", "mod/rna/obs") as text, "" where missing; None if absent."""
        with self.root() as root:
            found = root.get(table)
            if not is_group(found) or column not in list(found):
                return None
            check_declared_size(found[column], self.name)
            return strings(found[column])


def _kind_of(path: Path) -> str:
    if path.is_dir():
        if is_tenx_folder(path):
            return "tenx"
        with open_zarr(path) as root:
            return "mudata" if is_group(root.get("mod")) and "X" not in root else "anndata"
    with open_h5ad(path) as handle:
        if is_tenx_file(handle):
            return "tenx"
        return "mudata" if is_group(handle.get("mod")) and "X" not in handle else "anndata"


def _of_mudata(
    place: _Place, choice: Mapping[str, Any], label: str | None, rna: str | None, adt: str | None
) -> Modalities:
    known = place.modalities()
    names = [
        _modality(known, asked, usual, what, place.name)
        for asked, usual, what in ((rna, GENE_WORDS, "rna"), (adt, PROTEIN_WORDS, "adt"))
    ]
    if names[0] == names[1]:
        raise BftembedError(f"{place.name}: {names[0]!r} was given for the RNA and for the proteins.")
    if place.in_file:
        choices = {"modality": names[0], **choice}, {"modality": names[1], "kind": "protein"}
        sides = [Modality(place.data, one) for one in choices]
    else:
        sides = [Modality(place.data.mod[names[0]], choice), Modality(place.data.mod[names[1]], {"kind": "protein"})]
    of_rna, of_protein, cells, notes = paired(*sides)
    labels = None if label is None else _labels_of_mudata(place, names, label, sides, cells)
    return Modalities(of_rna, of_protein, cells, labels, place.stem, notes)


def _modality(known: list[str], asked: str | None, usual: tuple[str, ...], what: str, where: str) -> str:
    if asked is not None:
        if asked not in known:
            raise unknown_name("modality", asked, known, where=where)
        return asked
    found = [name for name in known if name.lower() in usual]
    if len(found) != 1:
        raise BftembedError(
            f"{where} has the modalities {', '.join(known) or '(none)'}; which of them is the "
            f"{'RNA' if what == 'rna' else 'protein'} is {'not clear' if found else 'not known'}. Name it: {what}=NAME "
            f"(--{what} NAME); both modalities are needed."
        )
    return found[0]


def _labels_of_mudata(
    place: _Place, names: list[str], label: str, sides: list[Modality], cells: tuple[str, ...]
) -> NDArray[Any]:
    tables: list[tuple[list[str], Any]] = []
    columns: list[str] = []
    if place.in_file:
        for i, table in enumerate(("obs", f"mod/{names[0]}/obs", f"mod/{names[1]}/obs")):
            values = place.column(table, label)
            if values is not None:
                rows = place.column(table, _index_of(place, table)) or [] if i == 0 else sides[i - 1].cells()
                tables.append((rows, values))
        with place.root() as root:
            columns = [c for t in ("obs", f"mod/{names[0]}/obs") if is_group(root.get(t)) for c in list(root[t])]
    else:
        for holder in (place.data, *(place.data.mod[name] for name in names)):
            columns += [str(c) for c in holder.obs]
            if label in holder.obs:
                values = holder.obs[label].to_numpy(dtype=object, na_value=None)
                tables.append(([str(name) for name in holder.obs_names], values))
    if not tables:
        raise unknown_name("obs column", label, dict.fromkeys(columns), where=place.name)
    rows, values = tables[0]
    of_cell = dict(zip(rows, values, strict=True))
    return _objects([of_cell.get(cell) for cell in cells])


def _index_of(place: _Place, table: str) -> str:
    with place.root() as root:
        check_index(root[table])
        name = root[table].attrs.get("_index", "_index")
        return name.decode() if isinstance(name, bytes) else str(name)


def _of_two(place: _Place, other: _Place, choice: Mapping[str, Any], label: str | None) -> Modalities:
    for one in (place, other):
        if one.kind != "anndata":
            raise BftembedError(
                f"{one.name} is no AnnData: with a file of the proteins both are h5ad files or zarr stores."
            )
    sides = [Modality(place.data, choice), Modality(other.data, {"kind": "protein"})]
    rna, protein, cells, notes = paired(*sides)
    labels = None
    if label is not None:
        holder, values = _labels(label, place, other)
        by_name = dict(zip(sides[holder].cells(), values, strict=True))
        labels = _objects([by_name[cell] for cell in cells])
    return Modalities(rna, protein, cells, labels, place.stem, notes)


def _of_one(
    place: _Place, choice: Mapping[str, Any], label: str | None, obsm: str | None, obsm_names: str | None
) -> Modalities:
    notes: tuple[str, ...] = ()
    if obsm is None:
        keys = place.obsm_keys()
        found = [key for key in keys if key.lower() in PROTEIN_WORDS]
        if len(found) != 1:
            types = _types(place)
            if types is not None and is_of(types, PROTEIN_WORDS).any() and not choice["use_raw"]:
                if not place.in_file:
                    return _of_types(place, choice, label)
                held = _Place(_in_memory(place, choice, types), "anndata", place.name, place.stem)
                return _of_types(held, {}, label, place)
            what = f"several of its keys of .obsm may be ({examples(found)})" if found else "none was found"
            raise BftembedError(
                f"{place.name}: proteins were looked for in .obsm (its keys: {', '.join(keys) or 'none'}) and by "
                f".var[{_FEATURE_TYPES!r}], and {what}. Say where they are: obsm=KEY (--obsm), or give the file of the "
                "proteins (--protein-data)."
            )
        obsm, notes = found[0], (f"proteins: obsm[{found[0]!r}], by its usual name",)
    rna = Modality(place.data, choice)
    protein = Modality(place.data, {"obsm": obsm, "obsm_names": obsm_names})
    labels = None if label is None else _labels(label, place)[1]
    protein.where()  # names and shape are checked before anything is computed
    return Modalities(rna, protein, tuple(rna.cells()), labels, place.stem, notes)


def _of_types(place: _Place, choice: Mapping[str, Any], label: str | None, source: _Place | None = None) -> Modalities:
    """Divide an AnnData by the types of its features; the labels are those of `source`, where that is another."""
    parts = split_by_type(place.data, place.name)
    rna, protein = Modality(parts[0], choice), Modality(parts[1], {"layer": choice.get("layer"), "kind": "protein"})
    labels = None if label is None else _labels(label, source or place)[1]
    return Modalities(rna, protein, tuple(rna.cells()), labels, place.stem, ())


def _types(place: _Place) -> list[str] | None:
    """Return the type of each feature, where the table of features tells."""
    if place.in_file:
        return place.column("var", _FEATURE_TYPES)
    return [str(x) for x in place.data.var[_FEATURE_TYPES]] if _FEATURE_TYPES in place.data.var else None


def _in_memory(place: _Place, choice: Mapping[str, Any], types: list[str]) -> Any:
    """Read the expression of a file into an AnnData, to be divided by the types of its features."""
    from anndata import AnnData
    from pandas import DataFrame

    with expression_in(place.data, **choice, kind=None) as expression:
        matrix = whole_matrix(expression)
        with names_may_repeat():
            found = AnnData(matrix, obs=DataFrame(index=expression.cell_names()), var=DataFrame(index=expression.genes))
        found.var[_FEATURE_TYPES] = types
        found.uns |= {"log1p": {}} if expression.logged else {}
    return found


def _labels(label: str, *places: _Place) -> tuple[int, NDArray[Any]]:
    """Return which of the places has a column of obs, the first by preference, and its values."""
    errors: list[BftembedError] = []
    for i, place in enumerate(places):
        try:
            if not place.in_file or not place.data.is_dir():
                return i, read_cells(place.data, [], [label])[0][label]
            values = place.column("obs", label)
            if values is not None:
                return i, _objects(values)
            with place.root() as root:
                raise unknown_name("obs column", label, list(root["obs"]), where=place.name)
        except BftembedError as err:
            errors.append(err)
    raise errors[0]


def _objects(values: list[Any]) -> NDArray[Any]:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found
