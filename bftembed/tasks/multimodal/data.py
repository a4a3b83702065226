"""The two modalities of a CITE-seq experiment, and joint embeddings of other programs."""

from __future__ import annotations

import functools
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.cells.feature_types import GENE_WORDS, PROTEIN_WORDS, is_of
from bftembed.cells.reading import Expression, expression_of_anndata
from bftembed.cells.vectors import Aggregation, vectors_of
from bftembed.errors import BftembedError, examples, require, unknown_name
from bftembed.hdf5 import open_h5ad
from bftembed.tasks.data import place_of, read_cells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.cells.report import CellEmbeddingReport
    from bftembed.embeddings import GeneEmbeddings

#: Columns of ``.obs`` of a joint embedding: which cell a row is, and of which modality.
CELL, MODALITY = "cell", "modality"


@dataclass(frozen=True, eq=False)
class Modality:
    """One modality of an AnnData in memory.

    Attributes
    ----------
    data
        AnnData.
    choice
        Which matrix and features of it, as in `bftembed.cells.reading.expression_of_anndata`.
    rows
        int64 (n_cells,): row of each paired cell; None for all, in their order.
    """

    data: Any
    choice: Mapping[str, Any]
    rows: NDArray[np.int64] | None = None

    @functools.cached_property
    def expression(self) -> Expression:
        """The expression of all cells of the data, paired or not."""
        return expression_of_anndata(self.data, **{"layer": None, "use_raw": False, "gene_column": None, **self.choice})

    @property
    def features(self) -> list[str]:
        """Names of the features."""
        return self.expression.genes

    def vectors(self, embeddings: GeneEmbeddings, how: Aggregation) -> tuple[NDArray[Any], CellEmbeddingReport]:
        """Return the vectors of the paired cells, float32 (n_cells, d), NaN for those without one, and the report."""
        vectors, report = vectors_of(self.expression, embeddings, how)
        return (vectors if self.rows is None else vectors[self.rows]), report


@dataclass(frozen=True, eq=False)
class Modalities:
    """The RNA and the proteins of the same cells.

    Attributes
    ----------
    rna, protein
        The modalities, whose `rows` are in the order of `cells`.
    cells
        Names of the n_cells cells, in the order of the RNA.
    labels
        object (n_cells,), None where missing; None where no column was named.
    stem
        Name of the data, for the run.
    notes
        What was taken by its usual name, and cells without a partner.
    """

    rna: Modality
    protein: Modality
    cells: list[str]
    labels: NDArray[Any] | None
    stem: str
    notes: tuple[str, ...] = ()


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
    """Read RNA and proteins into memory; the content of a file decides about its kind, not its name.

    Parameters are those of `bftembed.tasks.multimodal.multimodal`. Cells of MuData and of two files are paired by name:
    those of the RNA that the proteins have too, in the order of the RNA. In one table a row is a cell.

    Raises
    ------
    BftembedError
        For a file that cannot be read, a modality, key, column or layer that is not there, cells of two tables that
        have no name in common or one name twice.
    """
    held, stem, where = _in_memory(data)
    choice = {"layer": layer, "use_raw": use_raw, "gene_column": gene_column}
    holders: list[Any] = [held]
    notes: list[str] = []
    if hasattr(held, "mod"):
        if protein_data is not None or obsm is not None:
            raise BftembedError(f"{where} is MuData, which holds both modalities: give neither protein_data nor obsm.")
        parts = [held.mod[_modality(list(held.mod), *asked, where)] for asked in ((rna, "rna"), (adt, "adt"))]
        one, other = Modality(parts[0], choice), Modality(parts[1], {"kind": "protein"})
        holders += parts
    elif rna is not None or adt is not None:
        raise BftembedError(f"{where} is one AnnData: it has no modalities by name (rna, adt).")
    elif protein_data is not None:
        if obsm is not None:
            raise BftembedError("Give the proteins by protein_data or by obsm, not both.")
        proteins = _in_memory(protein_data)[0]
        one, other = Modality(held, choice), Modality(proteins, {"kind": "protein"})
        holders.append(proteins)
    else:
        one, other, notes = _of_one(held, choice, obsm, obsm_names, where)
    if one.data is not other.data:
        one, other, notes = _paired(one, other)
    names = one.data.obs_names if one.rows is None else one.data.obs_names[one.rows]
    labels = None if label is None else _labels(label, holders, names, where)
    return Modalities(one, other, names.astype(str).tolist(), labels, stem, tuple(notes))


def _in_memory(data: Any) -> tuple[Any, str, str]:
    """Return AnnData or MuData, the name of the data for the run, and what messages call it."""
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        try:
            with warnings.catch_warnings():
                # Columns of one gene are summed, and CD4 is also an antibody.
                warnings.filterwarnings("ignore", message=".*names are not unique")
                found = _read(path)
        except BftembedError:
            raise
        except Exception as err:  # scanpy, anndata, mudata and zarr each raise their own for a damaged file
            told = (str(err) or type(err).__name__).splitlines()[0]
            raise BftembedError(f"{path} cannot be read ({told}).") from err
        return found, path.name.removesuffix(".gz").rsplit(".", 1)[0], str(path)
    if not hasattr(data, "obs_names"):
        raise BftembedError(f"Expected an AnnData, a MuData or a path, got {type(data).__name__}.")
    stem = Path(data.filename).stem if data.filename else "cells"
    return (data.to_memory() if data.isbacked else data), stem, "the MuData" if hasattr(data, "mod") else "the AnnData"


def _read(path: Path) -> Any:
    import anndata
    import scanpy

    if any((path / name).is_file() for name in ("matrix.mtx.gz", "matrix.mtx")):
        return scanpy.read_10x_mtx(path, gex_only=False, make_unique=False)
    if path.is_dir():
        return _mudata().read_zarr(path) if (path / "mod").is_dir() else anndata.read_zarr(path)
    with open_h5ad(path) as handle:
        members = set(handle)
    if "mod" in members and "X" not in members:
        with _mudata().set_options(pull_on_update=False):
            return _mudata().read_h5mu(path)
    return anndata.read_h5ad(path) if "obs" in members else scanpy.read_10x_h5(path, gex_only=False)


def _mudata() -> Any:
    return require("mudata", "scib")


def _modality(known: list[str], name: str | None, what: str, where: str) -> str:
    """Return the modality of that name, or the one with a usual name."""
    if name is not None:
        if name not in known:
            raise unknown_name("modality", name, known, where=where)
        return name
    usual = GENE_WORDS if what == "rna" else PROTEIN_WORDS
    found = [one for one in known if one.lower() in usual]
    if len(found) != 1:
        raise BftembedError(f"{where} has the modalities {', '.join(known) or '(none)'}: name one by {what}.")
    return found[0]


def _of_one(
    held: Any, choice: Mapping[str, Any], obsm: str | None, obsm_names: str | None, where: str
) -> tuple[Modality, Modality, list[str]]:
    """Find the proteins in ``.obsm``, or among the features by their types."""
    rna, notes = Modality(held, choice), []
    usual = [key for key in held.obsm if key.lower() in PROTEIN_WORDS]
    if obsm is None and len(usual) == 1:
        obsm, notes = usual[0], [f"Proteins: obsm[{usual[0]!r}], by its usual name"]
    if obsm is not None:
        return rna, Modality(held, {"obsm": obsm, "obsm_names": obsm_names}), notes
    protein = Modality(held, {**choice, "gene_column": None, "kind": "protein"})
    # Without features of the type protein, `protein` has the genes, too.
    if not rna.expression.n_other_features or protein.features == rna.features:
        raise BftembedError(
            f"{where} has no proteins: no feature type of .var is 'Antibody Capture' beside 'Gene Expression', and "
            f"no key of .obsm is certain ({examples(list(held.obsm)) or 'there is none'}). Name one by obsm, or give "
            "protein_data."
        )
    return rna, protein, notes


def _paired(rna: Modality, protein: Modality) -> tuple[Modality, Modality, list[str]]:
    """Pair the cells of two tables by name."""
    ours, theirs = rna.data.obs_names, protein.data.obs_names
    for names, what in ((ours, "RNA"), (theirs, "proteins")):
        if not names.is_unique:
            twice = examples(names[names.duplicated()].unique())
            raise BftembedError(f"Cells cannot be paired: names of the {what} occur more than once ({twice}).")
    shared = ours.intersection(theirs, sort=False)
    if shared.empty:
        raise BftembedError(
            f"No cell has RNA and proteins by name: the RNA has {examples(ours)}; the proteins have {examples(theirs)}."
        )
    rows = [names.get_indexer(shared) for names in (ours, theirs)]
    notes = []
    if (np.diff(rows[1]) < 0).any():
        notes.append("Cells paired by name, their order differed between the modalities")
    alone = len(ours) - len(shared), len(theirs) - len(shared)
    if any(alone):
        notes.append(f"Cells left out: {alone[0]} of the RNA and {alone[1]} of the proteins without a partner")
    return Modality(rna.data, rna.choice, rows[0]), Modality(protein.data, protein.choice, rows[1]), notes


def _labels(label: str, holders: list[Any], cells: Any, where: str) -> NDArray[Any]:
    """Return a column of the first of the tables that has it, None where missing."""
    for holder in holders:
        if label in holder.obs:
            column = holder.obs[label] if len(holders) == 1 else holder.obs[label].reindex(cells)
            return column.to_numpy(dtype=object, na_value=None)
    raise unknown_name("obs column", label, dict.fromkeys(c for h in holders for c in h.obs), where=where)


def read_joined(
    data: Any, keys: Sequence[str], cells: Sequence[str]
) -> dict[str, tuple[tuple[NDArray[Any], NDArray[Any]], str]]:
    """Read joint embeddings of other programs (MaxFuse, scMODAL): a row for each cell and modality, in any order.

    Parameters
    ----------
    data
        AnnData or path of a h5ad. ``.obs["cell"]`` has the names of the cells, ``.obs["modality"]`` is ``"rna"`` or
        ``"protein"``, or another usual name.
    keys
        Keys of ``.obsm``.
    cells
        The n_cells cells that are scored.

    Returns
    -------
    dict
        Key → (vectors of the RNA and of the proteins, both float32 (n_cells, d), NaN for a cell without a row), and
        a note.

    Raises
    ------
    BftembedError
        As `bftembed.tasks.data.read_cells`; for another modality, a cell twice in one, and no cell in common.
    """
    import pandas as pd

    where = place_of(data)
    columns, matrices, _ = read_cells(data, keys, [CELL, MODALITY])
    kinds = [str(kind) for kind in columns[MODALITY]]
    of_kind = [is_of(kinds, words) for words in (GENE_WORDS, PROTEIN_WORDS)]
    strange = [kind for kind, known in zip(kinds, of_kind[0] | of_kind[1], strict=True) if not known]
    if strange:
        raise unknown_name("modality", strange[0], ("rna", "protein"), where=f"{where}: obs[{MODALITY!r}]")
    rows = []
    for own in map(np.flatnonzero, of_kind):
        names = pd.Index(columns[CELL][own]).astype(str)
        if not names.is_unique:
            twice = examples(names[names.duplicated()].unique())
            raise BftembedError(f"{where}: cells occur more than once in one modality ({twice}).")
        found = names.get_indexer(list(cells))
        if (found < 0).all():
            raise BftembedError(f"{where}: no obs[{CELL!r}] is a cell of the data ({examples(names)}).")
        rows.append(np.where(found < 0, -1, own[found]))
    note = f"{int(((rows[0] >= 0) & (rows[1] >= 0)).sum())} of {len(cells)} cells, read from a file"
    return {key: ((_picked(matrix, rows[0]), _picked(matrix, rows[1])), note) for key, matrix in matrices.items()}


def _picked(matrix: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    return np.where(rows[:, None] >= 0, matrix[rows], np.nan).astype(np.float32)
