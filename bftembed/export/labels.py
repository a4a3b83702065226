"""The labels of the cells of a perturbation screen: read, and refused where STATE would go wrong silently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.hdf5 import is_array, is_group, open_h5ad, strings
from bftembed.tasks.data import missing_label

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Columns:
    """Columns of ``.obs``, and the label of unperturbed cells."""

    pert: str
    cell_type: str
    batch: str
    control: str


@dataclass(frozen=True, eq=False)
class CellLabels:
    """Labels of the cells of one file, object (n_cells,) of str each; `simulated` is whether the file says so."""

    path: Path
    names: NDArray[Any]
    perturbation: NDArray[Any]
    cell_type: NDArray[Any]
    batch: NDArray[Any]
    simulated: bool

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.names)


def read_labels(path: Path, columns: Columns) -> CellLabels:
    """Read the labels of a h5ad file.

    Raises
    ------
    BftembedError
        For a column that is not there, labels that are missing, cell names that occur twice, no control, a cell type
        without controls, and names that TOML cannot hold for STATE.
    """
    from bftembed.cells.tables import n_rows, row_names
    from bftembed.hdf5 import check_declared_size

    with open_h5ad(path) as handle:
        obs = handle.get("obs")
        if not is_group(obs):
            raise BftembedError(f"{path} has no table obs as anndata writes it since 0.7. Write it again with anndata.")
        check_declared_size(obs, str(path))
        n = n_rows(obs)
        names = np.array(row_names(obs, slice(0, n)), dtype=object)
        found = {key: _column(obs, key, path, n) for key in (columns.pert, columns.cell_type, columns.batch)}
        uns = handle.get("uns")
        simulated = is_group(uns) and "simulated" in uns
    distinct, times = np.unique(names.astype(str), return_counts=True)
    if len(distinct) < n:
        raise BftembedError(
            f"{path}: {int((times > 1).sum())} cell names occur more than once ({examples(distinct[times > 1], 3)}). "
            "Make them unique: adata.obs_names_make_unique()."
        )
    labels = CellLabels(
        path, names, found[columns.pert], found[columns.cell_type], found[columns.batch], bool(simulated)
    )
    _refuse_without_controls(labels, columns)
    for what, values in (("perturbation", labels.perturbation), ("cell type", labels.cell_type)):
        _refuse_unwritable(path, what, values)
    return labels


def _column(obs: Any, key: str, path: Path, n: int) -> NDArray[Any]:
    known = [c for c in obs if c != obs.attrs.get("_index", "_index")]
    if key not in known:
        raise unknown_name("obs column", key, known, where=str(path))
    if is_array(obs[key]) and (len(obs[key].shape or ()) != 1 or obs[key].dtype.kind == "f"):
        raise BftembedError(
            f"{path}: obs[{key!r}] holds {obs[key].dtype} of shape {obs[key].shape}, not labels. Choose another column."
        )
    values = np.array(strings(obs[key]), dtype=object)
    if len(values) != n:
        raise BftembedError(f"{path}: obs[{key!r}] has {len(values)} values for {n} cells. Write the file again.")
    missing = np.array([missing_label(x) for x in values], dtype=bool)
    if missing.any():
        raise BftembedError(
            f"{path}: {int(missing.sum())} of {n} cells have no value in obs[{key!r}] (the first in row "
            f"{int(np.argmax(missing))}). STATE cannot read them: label or remove these cells."
        )
    return values


def _refuse_without_controls(labels: CellLabels, columns: Columns) -> None:
    is_control = labels.perturbation == columns.control
    if not is_control.any():
        raise unknown_name(
            "control", columns.control, sorted(set(labels.perturbation)), where=f"{labels.path}, obs[{columns.pert!r}]"
        )
    lacking = sorted(set(labels.cell_type) - set(labels.cell_type[is_control]))
    if lacking:
        raise BftembedError(
            f"{labels.path}: no control cells ({columns.control!r}) of the cell types {examples(lacking)}. STATE pairs "
            "cells with controls of the same cell type in the same file: add them, or leave these cell types out."
        )


def _refuse_unwritable(path: Path, what: str, values: NDArray[Any]) -> None:
    bad = sorted({v for v in values if '"' in v or "\\" in v or not v.isprintable()})
    if bad:
        raise BftembedError(
            f"{path}: the {what} {examples(bad, 3)} holds a quotation mark, a backslash or a control character, which "
            "the TOML reader of STATE cannot read. Rename it."
        )
