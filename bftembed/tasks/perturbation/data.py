"""Perturbation screens as means and variances per condition, read in blocks of cells, and their splits."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.expression.matrix import stored_matrix
from bftembed.expression.normalize import DEPTH, LARGEST_LOG, examined
from bftembed.expression.source import open_expression
from bftembed.hdf5 import open_h5ad, strings
from bftembed.progress import Progress, silent
from bftembed.tasks.data import missing_label, place_of, read_cells

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import anndata
    from numpy.typing import NDArray

    from bftembed.expression.source import Expression

    Source: TypeAlias = "anndata.AnnData | str | os.PathLike[str]"
    Condition: TypeAlias = tuple[str, str]

UNSEEN_GENE, UNSEEN_CELL_TYPE, HELD_OUT_BY_STATE = "unseen-gene", "unseen-cell-type", "held-out-by-state"
#: Cross-validation folds of the targeted genes.
FOLDS = 5
# Cells read at a time.
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Screen:
    """A perturbation screen: moments of log1p expression per condition, a perturbation in a cell type.

    `members` and `targets` are the genes of each label (two for ``"A+B"``) and their columns; `cell_type` and `label`
    are positions in `cell_types` and `labels` (n_conditions,); moments of controls have a row per cell type; `left_out`
    are perturbations without a vector; `notes` say how the values of each file were taken.
    """

    name: str
    control: str
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
    left_out: list[str]
    notes: list[str]

    @property
    def delta(self) -> NDArray[np.float64]:
        """Mean expression less that of the controls of the same cell type, (n_conditions, n_genes)."""
        return self.mean - self.control_mean[self.cell_type]

    @property
    def targeted(self) -> list[str]:
        """All genes that are targeted, alone or in combination, sorted."""
        return sorted({gene for members in self.members for gene in members})

    def of_genes(self, columns: Sequence[int]) -> Screen:
        """Return the screen with these columns, in this order."""
        at = {column: i for i, column in enumerate(columns)}
        matrices = ("mean", "variance", "control_mean", "control_variance")
        return replace(
            self,
            genes=[self.genes[i] for i in columns],
            targets=[tuple(at[t] for t in targets if t in at) for targets in self.targets],
            **{name: getattr(self, name)[:, list(columns)] for name in matrices},
        )


def read_screen(
    sources: Sequence[Source],
    columns: tuple[str, str],
    control: str,
    *,
    layer: str | None = None,
    known: Mapping[str, set[str]] | None = None,
    allow_missing: bool = False,
    progress: Progress = silent,
) -> Screen:
    """Read a screen block by block into moments per condition; counts become log1p of counts per 10,000.

    `columns` are those of cell type and perturbation in ``.obs``; `known` are the genes with a vector in each
    embedding; all else is as in `bftembed.tasks.perturbation.perturbation`. Genes are in the order of the first file.
    """
    read = [_conditions(source, columns) for source in sources]
    names = sorted(set().union(*(own for own, _ in read)))
    members = _members(names, control, ", ".join(map(place_of, sources)))
    left_out = sorted({x for has in (known or {}).values() for x, own in members.items() if not has.issuperset(own)})
    if left_out and not allow_missing:
        listed = examples(left_out, 20)
        raise BftembedError(f"Perturbations without a vector: {listed}. Embed these genes, or --allow-missing.")
    members = {label: own for label, own in members.items() if label not in left_out}
    if len(members) < 2:
        raise BftembedError(f"{len(members)} perturbations with a vector beside the control; at least two are needed.")
    genes: list[str] = []
    notes = []
    for source, (own, _) in zip(sources, read, strict=True):
        with open_expression(source, layer=layer) as expression:
            if not genes:
                genes, moments = expression.genes, _Moments(names, expression.n_genes)
            notes.append(_add(moments, expression, own, genes, progress))
    column_of: dict[str, list[int]] = {}
    for i, gene in enumerate(GeneIndex.default().resolve(genes)):
        column_of.setdefault(gene.entity, []).append(i)
    labels = list(members)
    types = sorted({cell_type for cell_type, _ in names})
    controls = [i for i, name in enumerate(names) if name[1] == control]
    effects = [i for i, name in enumerate(names) if name[1] in members]
    mean, variance, cells = moments.result()
    return Screen(
        name=read[0][1],
        control=control,
        genes=genes,
        cell_types=types,
        labels=labels,
        members=list(members.values()),
        targets=[tuple(column for gene in own for column in column_of.get(gene, ())) for own in members.values()],
        cell_type=np.searchsorted(types, [names[i][0] for i in effects]),
        label=np.searchsorted(labels, [names[i][1] for i in effects]),
        mean=mean[effects],
        variance=variance[effects],
        cells=cells[effects],
        control_mean=mean[controls],
        control_variance=variance[controls],
        control_cells=cells[controls],
        left_out=left_out,
        notes=list(dict.fromkeys(notes)),
    )


class _Moments:
    """Sums and sums of squares of the expression per condition, added up block by block."""

    def __init__(self, names: Sequence[Condition], n_genes: int) -> None:
        self.at = {name: i for i, name in enumerate(names)}
        self.sums, self.squares = np.zeros((2, len(names), n_genes))
        self.cells = np.zeros(len(names), dtype=np.int64)

    def add(self, block: Any, conditions: Sequence[Condition]) -> None:
        from scipy.sparse import csr_matrix

        present, local = np.unique([self.at[c] for c in conditions], return_inverse=True)
        n = len(conditions)
        member = csr_matrix((np.ones(n), (local, np.arange(n))), shape=(len(present), n))
        values = block.astype(np.float64)
        self.sums[present] += (member @ values).toarray()
        self.squares[present] += (member @ values.power(2)).toarray()
        self.cells[present] += np.bincount(local)

    def result(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Return means and variances, float64 (n_conditions, n_genes), and numbers of cells."""
        mean = self.sums / self.cells[:, None]
        rest = self.squares - self.cells[:, None] * mean**2
        return mean, np.maximum(rest, 0) / np.maximum(self.cells - 1, 1)[:, None], self.cells


def _conditions(source: Source, columns: tuple[str, str]) -> tuple[list[Condition], str]:
    """Return cell type and perturbation of each cell, and the name of the data."""
    found, _, name = read_cells(source, [], columns)
    for column, values in found.items():
        if absent := sum(map(missing_label, values)):
            raise BftembedError(f"{place_of(source)}: obs[{column!r}] has no value for {absent} cells.")
    return [(str(cell_type), str(label)) for cell_type, label in zip(*(found[c] for c in columns), strict=True)], name


def _members(names: Sequence[Condition], control: str, where: str) -> dict[str, tuple[str, ...]]:
    """Return perturbation → genes: ``"A+B"`` has two, ``"A+ctrl"`` one when ctrl is the control."""
    labels = sorted({label for _, label in names})
    if control not in labels:
        raise unknown_name("control", control, labels, where=f"the perturbations of {where}")
    if bare := sorted({cell_type for cell_type, _ in names if (cell_type, control) not in names}):
        raise BftembedError(f"{where}: no control cell ({control!r}) in the cell type {examples(bare)}.")
    labels.remove(control)
    parts = [[p.strip() for p in label.split("+") if p.strip() not in ("", control)] or [label] for label in labels]
    found = iter(one.entity for one in GeneIndex.default().resolve([p for one in parts for p in one]))
    return {label: tuple(dict.fromkeys(next(found) for _ in own)) for label, own in zip(labels, parts, strict=True)}


def _add(
    moments: _Moments, expression: Expression, conditions: Sequence[Condition], genes: list[str], progress: Progress
) -> str:
    """Add all cells of a matrix, its columns in the order of `genes`; return what was done to its values."""
    at = {gene: i for i, gene in enumerate(expression.genes)}
    if len(at) < expression.n_genes:
        raise BftembedError(f"{expression.where}: {expression.n_genes - len(at)} genes twice: var_names_make_unique().")
    if other := sorted(at.keys() ^ set(genes)):
        raise BftembedError(f"{expression.where} has other genes than the first file ({examples(other)}).")
    order = None if expression.genes == genes else [at[gene] for gene in genes]
    n_cells, n_genes = expression.matrix.shape
    summary, decision = examined(expression)
    for rows in expression.matrix.rows(_BLOCK):
        block = rows.to_csr(n_genes)
        block.sum_duplicates()
        if decision.normalize == "log1p-cp10k":
            factors = DEPTH / np.maximum(summary.totals[rows.start : rows.stop], 1e-12)
            block.data = np.log1p(block.data * np.repeat(factors, np.diff(block.indptr)))
        moments.add(block if order is None else block[:, order], conditions[rows.start : rows.stop])
        progress(rows.stop, n_cells, "cells")
    return f"{expression.name}: {decision.normalize} ({decision.reason})"


class Predictions(NamedTuple):
    """Predictions of another program: true data in their genes, the predicted conditions (bool), and their effects."""

    name: str
    screen: Screen
    held_out: NDArray[np.bool_]
    delta: NDArray[np.float64]


def read_predictions(
    source: str | os.PathLike[str], variable: Sequence[str], columns: tuple[str, str], screen: Screen
) -> Predictions:
    """Read predicted log1p expression, ``adata_pred.h5ad`` of ``state tx predict``; its genes have no names.

    `variable` are the genes of ``X_hvg``; effects are measured from the true controls in `screen`.
    """
    where = place_of(source)
    conditions, stem = _conditions(source, columns)
    names = sorted(set(conditions))
    types, labels = np.array(screen.cell_types), np.array(screen.labels)
    at = {name: i for i, name in enumerate(zip(types[screen.cell_type], labels[screen.label], strict=True))}
    wanted = [name for name in names if name[1] not in (screen.control, *screen.left_out)]
    if not wanted or not at.keys() >= set(wanted):
        unknown = [f"{name[1]} in {name[0]}" for name in wanted if name not in at]
        raise BftembedError(f"{where} predicts {examples(unknown) or 'no condition'}, which the data do not have.")
    with open_h5ad(source) as handle:
        matrix = stored_matrix(handle["X"], where)
        n_genes = matrix.shape[1]
        if n_genes != len(screen.genes):
            column = {gene: i for i, gene in enumerate(screen.genes)}
            screen = screen.of_genes([column[gene] for gene in variable if gene in column])
        if n_genes != len(screen.genes):
            raise BftembedError(f"{where} predicts {n_genes} genes, which are neither all nor X_hvg of the data.")
        moments = _Moments(names, n_genes)
        for rows in matrix.rows(_BLOCK):
            block = rows.to_csr(n_genes)
            if not np.isfinite(block.data).all() or block.data.max(initial=0.0) > LARGEST_LOG:
                raise BftembedError(f"{where}: X is not log1p expression. Predict with output_space gene or all.")
            moments.add(block, conditions[rows.start : rows.stop])
    wanted.sort(key=at.__getitem__)
    held = np.zeros(len(screen.label), dtype=bool)
    held[[at[name] for name in wanted]] = True
    mean = moments.result()[0][[moments.at[name] for name in wanted]]
    return Predictions(f"STATE: {stem}", screen, held, mean - screen.control_mean[screen.cell_type[held]])


def about(source: Source) -> tuple[bool, list[str]]:
    """Return whether data are simulated, and the genes of their ``X_hvg`` in its order, none where unknown."""
    if isinstance(source, (str, os.PathLike)):
        from anndata.io import read_elem

        with open_h5ad(source) as handle:
            var, uns = read_elem(handle["var"]), handle.get("uns", {})
            names: Any = strings(uns["hvg_names"]) if "hvg_names" in uns else None
            simulated = "simulated" in uns
    else:
        var, simulated, names = source.var, "simulated" in source.uns, source.uns.get("hvg_names")
    if names is None:  # as STATE's own preparation leaves it
        names = var.index[var["highly_variable"].to_numpy(bool)] if "highly_variable" in var else ()
    return simulated, [str(name) for name in names]


class Split(NamedTuple):
    """Training and test conditions, bool (n_conditions,); controls are always in training."""

    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


def splits_of(protocol: str, screen: Screen, seed: int, predictions: Predictions | None = None) -> list[Split]:
    """Return the splits of a protocol, or raise when the data allow none.

    ``unseen-gene`` holds out each fifth of the shuffled targeted genes in turn, in every cell type, with the
    combinations that have one; ``unseen-cell-type`` each cell type in turn, those of its perturbations that others
    have; with `predictions` the conditions that these hold.
    """
    if protocol == UNSEEN_CELL_TYPE:
        of_types = [screen.cell_type == i for i in range(len(screen.cell_types))]
        splits = [Split(~own, own & np.isin(screen.label, screen.label[~own])) for own in of_types]
        why = "no perturbation is in two cell types"
    elif predictions is not None:
        splits = [Split(~predictions.held_out, predictions.held_out)]
        why = "the predictions hold every condition of the data"
    else:
        genes = screen.targeted
        order = np.random.default_rng([seed, 1]).permutation(len(genes))
        folds = [{genes[i] for i in fold} for fold in np.array_split(order, min(FOLDS, len(genes)))]
        tests = [np.array([not held.isdisjoint(own) for own in screen.members])[screen.label] for held in folds]
        splits = [Split(~test, test) for test in tests]
        why = "too few genes, or all in combinations"
    splits = [split for split in splits if split.train.any() and split.test.any()]
    if not splits:
        raise BftembedError(f"nothing is left to train on or to test: {why}")
    return splits


def has_unseen_genes(screen: Screen, split: Split) -> bool:
    """Return whether a test condition has a perturbation that training does not."""
    return not np.isin(screen.label[split.test], screen.label[split.train]).all()
