"""Pseudobulk tables of a perturbation screen: means and variances per condition, never the cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

#: Between the members of a combination.
PLUS = "+"


class GroupSums:
    """Sums and sums of squares of the expression per group of cells, added up block by block.

    Parameters
    ----------
    n_genes
        Columns.
    """

    def __init__(self, n_genes: int) -> None:
        self.groups: dict[tuple[str, str], int] = {}
        self._shape = n_genes
        self._sums = np.zeros((0, n_genes))
        self._squares = np.zeros((0, n_genes))
        self._cells = np.zeros(0, dtype=np.int64)

    def add(self, block: Any, groups: Sequence[tuple[str, str]]) -> None:
        """Add cells.

        Parameters
        ----------
        block
            SciPy CSR (n, n_genes) of log1p expression.
        groups
            (cell type, perturbation) of each of the n cells.
        """
        from scipy.sparse import csr_matrix

        codes = np.array([self.groups.setdefault(g, len(self.groups)) for g in groups], dtype=np.int64)
        missing = len(self.groups) - len(self._cells)
        if missing:
            more = np.zeros((missing, self._shape))
            self._sums, self._squares = np.vstack([self._sums, more]), np.vstack([self._squares, more])
            self._cells = np.concatenate([self._cells, np.zeros(missing, dtype=np.int64)])
        present, local = np.unique(codes, return_inverse=True)
        n = len(codes)
        member = csr_matrix((np.ones(n), (local, np.arange(n))), shape=(len(present), n))
        values = csr_matrix((block.data.astype(np.float64), block.indices, block.indptr), shape=block.shape)
        self._sums[present] += (member @ values).toarray()
        values.data **= 2
        self._squares[present] += (member @ values).toarray()
        self._cells[present] += np.bincount(local)

    def moments(self) -> tuple[list[tuple[str, str]], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return the groups, sorted, with means and variances, float64 (n_groups, n_genes), and cells (n_groups,)."""
        names = sorted(self.groups)
        order = np.array([self.groups[g] for g in names], dtype=np.int64)
        cells = self._cells[order]
        mean = self._sums[order] / np.maximum(cells, 1)[:, None]
        rest = self._squares[order] - cells[:, None] * mean**2
        variance = np.maximum(rest, 0) / np.maximum(cells - 1, 1)[:, None]
        return names, mean, variance, cells


@dataclass(frozen=True, eq=False)
class Screen:
    """A perturbation screen as means per condition; a condition is a perturbation in a cell type, controls are apart.

    Attributes
    ----------
    genes
        n_genes names of the columns.
    cell_types, labels
        Names; the labels are the perturbations without the control, as in the data.
    members
        Of each label: the genes that it targets, as approved symbols where they are known. Two for ``"A+B"``.
    targets
        Of each label: the columns of those genes, none where they are not measured.
    cell_type, label
        int64 (n_conditions,): positions in `cell_types` and `labels`.
    mean, variance
        float64 (n_conditions, n_genes) of log1p expression.
    cells
        int64 (n_conditions,).
    control_mean, control_variance, control_cells
        The same of the controls, a row per cell type.
    left_out
        Perturbations that were left out, for want of a vector.
    """

    genes: list[str]
    cell_types: list[str]
    labels: list[str]
    members: list[tuple[str, ...]]
    targets: list[tuple[int, ...]]
    cell_type: NDArray[np.int64]
    label: NDArray[np.int64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    cells: NDArray[np.int64]
    control_mean: NDArray[np.float64]
    control_variance: NDArray[np.float64]
    control_cells: NDArray[np.int64]
    left_out: tuple[str, ...] = ()

    @property
    def delta(self) -> NDArray[np.float64]:
        """Mean expression less that of the controls of the same cell type, (n_conditions, n_genes)."""
        return self.mean - self.control_mean[self.cell_type]

    @property
    def targeted(self) -> list[str]:
        """All genes that are targeted, alone or in combination, sorted."""
        return sorted({gene for members in self.members for gene in members})

    def without(self, labels: Sequence[str]) -> Screen:
        """Return the screen without some perturbations, which are counted as left out."""
        keep = [i for i, name in enumerate(self.labels) if name not in set(labels)]
        if not keep:
            raise BftembedError(f"None of the {len(self.labels)} perturbations is left. Left out: {examples(labels)}.")
        number = np.full(len(self.labels), -1, dtype=np.int64)
        number[keep] = np.arange(len(keep))
        rows = number[self.label] >= 0
        return replace(
            self,
            labels=[self.labels[i] for i in keep],
            members=[self.members[i] for i in keep],
            targets=[self.targets[i] for i in keep],
            cell_type=self.cell_type[rows],
            label=number[self.label[rows]],
            mean=self.mean[rows],
            variance=self.variance[rows],
            cells=self.cells[rows],
            left_out=(*self.left_out, *labels),
        )

    def of_genes(self, columns: Sequence[int]) -> Screen:
        """Return the screen in the space of some genes, in the order given."""
        at = {column: i for i, column in enumerate(columns)}
        kept = list(columns)
        return replace(
            self,
            genes=[self.genes[i] for i in kept],
            targets=[tuple(at[t] for t in targets if t in at) for targets in self.targets],
            mean=self.mean[:, kept],
            variance=self.variance[:, kept],
            control_mean=self.control_mean[:, kept],
            control_variance=self.control_variance[:, kept],
        )


def screen_of(sums: GroupSums, genes: Sequence[str], control: str, where: str) -> Screen:
    """Make the tables of a screen of the sums over its cells.

    Parameters
    ----------
    sums
        Of all cells, groups named (cell type, perturbation).
    genes
        Names of the columns.
    control
        Label of the control cells.
    where
        What messages call the data.

    Raises
    ------
    BftembedError
        For no control, none in a cell type, or fewer than two perturbations.
    """
    names, mean, variance, cells = sums.moments()
    types = sorted({cell_type for cell_type, _ in names})
    found = sorted({label for _, label in names})
    if control not in found:
        raise unknown_name("control", control, found, where=f"the perturbations of {where}")
    bare = [t for t in types if (t, control) not in sums.groups]
    if bare:
        raise BftembedError(
            f"{where}: no control cell ({control!r}) in the cell type {examples(bare)}. The effect of a perturbation "
            "is counted from the controls of its own cell type: add them, or leave the cell type out of the data."
        )
    labels = [label for label in found if label != control]
    if len(labels) < 2:
        raise BftembedError(
            f"{where} has {len(labels)} perturbation beside the control ({examples(labels) or 'none'}). At least two "
            "are needed, to train on one and to predict the other."
        )
    members = _members(labels, control)
    columns: dict[str, list[int]] = {}
    for i, found_as in enumerate(GeneIndex.default().resolve(list(genes))):
        columns.setdefault(found_as.entity, []).append(i)
    is_control = np.array([label == control for _, label in names])
    own = np.flatnonzero(~is_control)
    at, place = {t: i for i, t in enumerate(types)}, {label: i for i, label in enumerate(labels)}
    return Screen(
        genes=list(genes),
        cell_types=types,
        labels=labels,
        members=members,
        targets=[tuple(c for gene in genes_of for c in columns.get(gene, ())) for genes_of in members],
        cell_type=np.array([at[names[i][0]] for i in own], dtype=np.int64),
        label=np.array([place[names[i][1]] for i in own], dtype=np.int64),
        mean=mean[own],
        variance=variance[own],
        cells=cells[own],
        control_mean=mean[is_control],
        control_variance=variance[is_control],
        control_cells=cells[is_control],
    )


def _members(labels: Sequence[str], control: str) -> list[tuple[str, ...]]:
    """Return the genes of each label: ``"A+B"`` has two, ``"A+ctrl"`` one when ctrl is the control."""
    parts = [[p.strip() for p in label.split(PLUS) if p.strip() not in ("", control)] or [label] for label in labels]
    flat = GeneIndex.default().resolve([p for one in parts for p in one])
    names = iter(found.entity for found in flat)
    return [tuple(dict.fromkeys(next(names) for _ in one)) for one in parts]
