"""Perturbation screens as means and variances per condition, read in blocks of cells, and their splits."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bftembed.cells.blocks import memory_matrix, stored_matrix
from bftembed.cells.examine import summarize
from bftembed.cells.feature_types import columns_of_kind
from bftembed.cells.normalize import LARGEST_LOG, decide
from bftembed.cells.refusals import refuse_bad_values
from bftembed.entities.genes import GeneIndex
from bftembed.entities.var_names import read_var_column, read_var_names
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.hdf5 import is_array, is_group, open_h5ad, strings
from bftembed.progress import Progress, silent
from bftembed.tasks.baselines import opened
from bftembed.tasks.data import missing_label, place_of, read_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata
    from numpy.typing import NDArray

    from bftembed.cells.reading import Expression

    Source: TypeAlias = "anndata.AnnData | str | os.PathLike[str]"

UNSEEN_GENE, UNSEEN_CELL_TYPE, HELD_OUT_BY_STATE = "unseen-gene", "unseen-cell-type", "held-out-by-state"
#: Cross-validation folds of the targeted genes.
FOLDS = 5
# Cells read at a time.
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class Screen:
    """A perturbation screen; a condition is a perturbation in a cell type, controls are apart.

    Attributes
    ----------
    genes, cell_types, labels
        Names: n_genes columns, and the perturbations without the control, as in the data.
    members, targets
        Of each label the genes that it targets (two for ``"A+B"``), approved symbols where they are known; and their
        columns, none where they are not measured.
    cell_type, label
        int64 (n_conditions,): positions in `cell_types` and `labels`.
    mean, variance, cells
        float64 (n_conditions, n_genes) of log1p expression, and int64 (n_conditions,) numbers of cells.
    control_mean, control_variance, control_cells
        The same of the controls, a row per cell type.
    left_out
        Perturbations that were left out because they have no vector.
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
        """Return the screen without some of its perturbations."""
        keep = [i for i, name in enumerate(self.labels) if name not in set(labels)]
        number = np.full(len(self.labels), -1, dtype=np.int64)
        number[keep] = np.arange(len(keep))
        rows = number[self.label] >= 0
        return replace(
            self,
            labels=[self.labels[i] for i in keep],
            members=[self.members[i] for i in keep],
            targets=[self.targets[i] for i in keep],
            label=number[self.label[rows]],
            left_out=(*self.left_out, *labels),
            **{name: getattr(self, name)[rows] for name in ("cell_type", "mean", "variance", "cells")},
        )

    def of_genes(self, columns: Sequence[int]) -> Screen:
        """Return the screen with these columns, in this order."""
        at = {column: i for i, column in enumerate(columns)}
        kept = list(columns)
        matrices = ("mean", "variance", "control_mean", "control_variance")
        return replace(
            self,
            genes=[self.genes[i] for i in kept],
            targets=[tuple(at[t] for t in targets if t in at) for targets in self.targets],
            **{name: getattr(self, name)[:, kept] for name in matrices},
        )


def read_screen(
    sources: Sequence[Source],
    columns: tuple[str, str],
    control: str,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    progress: Progress = silent,
) -> tuple[Screen, list[str]]:
    """Read a screen block by block into means per condition; return it, and how the values of each file were taken.

    Genes are matched by name, in the order of the first source. Counts become log1p of counts per 10,000, logged values
    are taken as they are.

    Parameters
    ----------
    sources, columns
        Files or AnnData, and their columns of ``.obs``: cell type, perturbation.
    control, layer, use_raw, gene_column, progress
        As in `bftembed.tasks.perturbation.perturbation`.
    """
    conditions = [_conditions(source, columns) for source in sources]
    names = sorted(set().union(*conditions))
    labels = _perturbations(names, control, ", ".join(map(place_of, sources)))
    genes: list[str] = []
    notes = []
    for source, own in zip(sources, conditions, strict=True):
        with opened(source, layer=layer, use_raw=use_raw, gene_column=gene_column) as expression:
            if not genes:
                genes, moments = expression.genes, _Moments(names, len(expression.genes))
            notes.append(_add(moments, expression, own, _order(genes, expression), progress))
    members = _members(labels, control)
    column_of: dict[str, list[int]] = {}
    for i, found in enumerate(GeneIndex.default().resolve(list(genes))):
        column_of.setdefault(found.entity, []).append(i)
    types = sorted({cell_type for cell_type, _ in names})
    is_control = np.array([label == control for _, label in names])
    effects = [name for name in names if name[1] != control]
    mean, variance, cells = moments.result()
    screen = Screen(
        genes=genes,
        cell_types=types,
        labels=labels,
        members=members,
        targets=[tuple(column for gene in of_label for column in column_of.get(gene, ())) for of_label in members],
        cell_type=np.searchsorted(types, [cell_type for cell_type, _ in effects]),
        label=np.searchsorted(labels, [label for _, label in effects]),
        mean=mean[~is_control],
        variance=variance[~is_control],
        cells=cells[~is_control],
        control_mean=mean[is_control],
        control_variance=variance[is_control],
        control_cells=cells[is_control],
    )
    return screen, list(dict.fromkeys(notes))


class _Moments:
    """Sums and sums of squares of the expression per condition, added up block by block."""

    def __init__(self, names: Sequence[tuple[str, str]], n_genes: int) -> None:
        self.at = {name: i for i, name in enumerate(names)}
        self.sums, self.squares = np.zeros((2, len(names), n_genes))
        self.cells = np.zeros(len(names), dtype=np.int64)

    def add(self, block: Any, conditions: Sequence[tuple[str, str]]) -> None:
        """Add the cells of a block, SciPy CSR (n, n_genes)."""
        from scipy.sparse import csr_matrix

        present, local = np.unique([self.at[c] for c in conditions], return_inverse=True)
        n = len(conditions)
        member = csr_matrix((np.ones(n), (local, np.arange(n))), shape=(len(present), n))
        values = csr_matrix((block.data.astype(np.float64), block.indices, block.indptr), shape=block.shape)
        self.sums[present] += (member @ values).toarray()
        values.data **= 2
        self.squares[present] += (member @ values).toarray()
        self.cells[present] += np.bincount(local)

    def result(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Return means and variances, float64 (n_conditions, n_genes), and numbers of cells."""
        mean = self.sums / self.cells[:, None]
        rest = self.squares - self.cells[:, None] * mean**2
        return mean, np.maximum(rest, 0) / np.maximum(self.cells - 1, 1)[:, None], self.cells


def _conditions(source: Source, columns: tuple[str, str]) -> list[tuple[str, str]]:
    """Read cell type and perturbation of each cell."""
    found, _, _ = read_cells(source, [], list(columns))
    for column in columns:
        absent = [i for i, x in enumerate(found[column]) if missing_label(x)]
        if absent:
            raise BftembedError(
                f"{place_of(source)}: obs[{column!r}] has no value for {len(absent)} of {len(found[column])} cells "
                f"(the first in row {absent[0]}). Label or remove them."
            )
    return [(str(cell_type), str(label)) for cell_type, label in zip(*(found[c] for c in columns), strict=True)]


def _perturbations(names: Sequence[tuple[str, str]], control: str, where: str) -> list[str]:
    """Return the perturbations without the control, or raise: no control in a cell type, fewer than two."""
    found = sorted({label for _, label in names})
    if control not in found:
        raise unknown_name("control", control, found, where=f"the perturbations of {where}")
    types = sorted({cell_type for cell_type, _ in names})
    bare = [t for t in types if (t, control) not in names]
    if bare:
        raise BftembedError(
            f"{where}: no control cell ({control!r}) in the cell type {examples(bare)}. Effects are measured from the "
            "controls of the same cell type: add them, or leave the cell type out."
        )
    labels = [label for label in found if label != control]
    if len(labels) < 2:
        raise BftembedError(f"{where} has {len(labels)} perturbation beside the control; at least two are needed.")
    return labels


def _members(labels: Sequence[str], control: str) -> list[tuple[str, ...]]:
    """Return the genes of each label: ``"A+B"`` has two, ``"A+ctrl"`` one when ctrl is the control."""
    parts = [[p.strip() for p in label.split("+") if p.strip() not in ("", control)] or [label] for label in labels]
    names = iter(found.entity for found in GeneIndex.default().resolve([p for one in parts for p in one]))
    return [tuple(dict.fromkeys(next(names) for _ in one)) for one in parts]


def _order(genes: list[str], expression: Expression) -> list[int] | None:
    """Return the column of each gene, None where they are in order already."""
    own = expression.genes
    at = {gene: i for i, gene in enumerate(own)}
    if len(at) < len(own):
        twice = [g for i, g in enumerate(own) if at[g] != i]
        raise BftembedError(
            f"{expression.where}: the gene {examples(twice, 3)} occurs twice. Name genes with another column "
            "(gene_column=, --gene-column), or adata.var_names_make_unique()."
        )
    if own == genes:
        return None
    lacking, more = [g for g in genes if g not in at], sorted(set(own) - set(genes))
    if lacking or more:
        raise BftembedError(
            f"{expression.where} has other genes than the first file: it lacks {examples(lacking) or 'none'}, and has "
            f"besides {examples(more) or 'none'}. Take the genes that all files share: adata[:, shared]."
        )
    return [at[gene] for gene in genes]


def _add(
    moments: _Moments,
    expression: Expression,
    conditions: Sequence[tuple[str, str]],
    order: list[int] | None,
    progress: Progress,
) -> str:
    """Add all cells of a matrix; return what was done to its values."""
    n_cells, n_genes = expression.matrix.shape
    summary = summarize(expression.matrix.rows(_BLOCK), np.zeros(n_genes, dtype=np.int32), range(n_cells))
    if summary.bad:
        refuse_bad_values(summary, expression)
    decision = decide("auto", summary, logged=expression.logged, where=expression.where, others=expression.others)
    counts = decision.normalize == "log1p-cp10k"
    for rows in expression.matrix.rows(_BLOCK):
        block = rows.to_csr(n_genes)
        block.sum_duplicates()
        if counts:
            factors = 1e4 / np.maximum(summary.totals[rows.start : rows.stop], 1e-12)
            block.data = np.log1p(block.data * np.repeat(factors, np.diff(block.indptr)))
        moments.add(block if order is None else block[:, order], conditions[rows.start : rows.stop])
        progress(rows.stop, n_cells, "cells")
    done = "log1p of counts per 10,000" if counts else "values as they are"
    return f"{expression.name}: {done} ({decision.reason})"


def stem_of(source: Source) -> str:
    """Return the name of the data: the stem of the file, or ``"cells"``."""
    file = source if isinstance(source, (str, os.PathLike)) else source.filename
    return Path(file).stem if file else "cells"


def is_simulated(source: Source) -> bool:
    """Return whether the data are simulated, by their ``uns["simulated"]``."""
    if not isinstance(source, (str, os.PathLike)):
        return "simulated" in source.uns
    with open_h5ad(source) as handle:
        return is_group(handle.get("uns")) and "simulated" in handle["uns"]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of another program: name in the results, and the true data in the gene space of the predictions.

    `held_out`, bool (n_conditions,), are the conditions that are predicted, and `delta`, float64 (n_predicted,
    n_genes), their predicted effects, from the true controls.
    """

    name: str
    screen: Screen
    held_out: NDArray[np.bool_]
    delta: NDArray[np.float64]


def read_predictions(
    source: Source, data: Source, columns: tuple[str, str], screen: Screen, control: str
) -> Predictions:
    """Read predicted log1p expression of cells, ``adata_pred.h5ad`` of ``state tx predict``; its genes have no names.

    Those of control cells are passed over. The true data, `data`, read as `screen`, say by ``uns["hvg_names"]`` or
    ``var["highly_variable"]`` which genes ``X_hvg`` holds.
    """
    where = place_of(source)
    conditions = _conditions(source, columns)
    names = sorted(set(conditions))
    types, labels = np.array(screen.cell_types), np.array(screen.labels)
    at = {name: i for i, name in enumerate(zip(types[screen.cell_type], labels[screen.label], strict=True))}
    wanted = [name for name in names if name[1] != control and name[1] not in screen.left_out]
    unknown = [f"{label} in {cell_type}" for cell_type, label in wanted if (cell_type, label) not in at]
    if unknown:
        raise BftembedError(
            f"{where}: {len(unknown)} predicted conditions are not in the data: {examples(unknown)}. Give the data "
            "that STATE was trained on."
        )
    if not wanted:
        raise BftembedError(f"{where} predicts no condition beside the control {control!r} that can be scored.")
    variable = highly_variable(data)
    with open_h5ad(source) if isinstance(source, (str, os.PathLike)) else nullcontext(source) as held_in:
        x = held_in.X if hasattr(held_in, "X") else held_in.get("X")
        if x is None:
            raise BftembedError(f"{where} has no X: it is not an adata_pred.h5ad of `state tx predict`.")
        matrix: Any = memory_matrix(x, where) if hasattr(held_in, "X") else stored_matrix(x, where)
        n_genes = matrix.shape[1]
        if n_genes != len(screen.genes):
            if n_genes != len(variable):
                raise BftembedError(
                    f"{where} predicts {n_genes} genes; the data have {len(screen.genes)}, and {len(variable)} in "
                    "X_hvg. Predictions have no gene names, so the numbers must agree: give the data that STATE was "
                    "trained on."
                )
            screen = screen.of_genes(variable)
        moments = _Moments(names, n_genes)
        for rows in matrix.rows(_BLOCK):
            block = rows.to_csr(n_genes)
            if not np.isfinite(block.data).all() or block.data.max(initial=0.0) > LARGEST_LOG:
                raise BftembedError(
                    f"{where}: X holds values that are not finite, or larger than any logarithm of expression. "
                    "Predictions are compared as log1p expression: output_space gene or all."
                )
            moments.add(block, conditions[rows.start : rows.stop])
    wanted.sort(key=at.__getitem__)
    held = np.zeros(len(screen.label), dtype=bool)
    held[[at[name] for name in wanted]] = True
    mean = moments.result()[0][[moments.at[name] for name in wanted]]
    return Predictions(f"STATE: {stem_of(source)}", screen, held, mean - screen.control_mean[screen.cell_type[held]])


def highly_variable(source: Source) -> list[int]:
    """Return the genes of X that ``X_hvg`` holds, in its order, as positions among the features that are genes.

    By ``uns["hvg_names"]``, else ``var["highly_variable"]``; empty where the data tell neither.
    """
    if not isinstance(source, (str, os.PathLike)):
        names, marked, genes = source.uns.get("hvg_names"), source.var.get("highly_variable"), list(source.var_names)
        kept = columns_of_kind(lambda c: list(map(str, source.var[c])) if c in source.var else None, "gene")
    else:
        with open_h5ad(source) as handle:
            stored, marked, genes = handle.get("uns/hvg_names"), handle.get("var/highly_variable"), []
            names = None if stored is None else strings(stored)
            marked = marked[:] if marked is not None and is_array(marked) else None
            if names is not None:
                genes = read_var_names(handle)
            kept = columns_of_kind(lambda c: read_var_column(handle, c), "gene")
    if names is not None:
        at = {gene: i for i, gene in enumerate(genes)}
        columns = [at[name] for name in map(str, names) if name in at]
    else:
        columns = [] if marked is None else np.flatnonzero(np.asarray(marked, dtype=bool)).tolist()
    if kept is None:
        return columns
    place = {column: i for i, column in enumerate(kept.tolist())}
    return [place[column] for column in columns if column in place]


@dataclass(frozen=True, eq=False)
class Split:
    """Training and test conditions, bool (n_conditions,); they do not overlap. Controls are always in training."""

    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


def unseen_gene(screen: Screen, seed: int) -> list[Split]:
    """Hold out each fifth of the shuffled targeted genes in turn, in every cell type.

    A combination is held out with any of its members, and so may be predicted twice.
    """
    genes = screen.targeted
    order = np.random.default_rng([seed, 1]).permutation(len(genes))
    splits = []
    for fold in np.array_split(order, min(FOLDS, len(genes))):
        held = {genes[i] for i in fold}
        test = np.array([not held.isdisjoint(members) for members in screen.members])[screen.label]
        if test.any() and not test.all():
            splits.append(Split(~test, test))
    if not splits:
        raise BftembedError("no split leaves perturbations to train on: too few genes, or all in combinations")
    return splits


def unseen_cell_type(screen: Screen) -> list[Split]:
    """Hold out each cell type in turn, all of its perturbations; its controls are in training, as in STATE.

    Conditions whose perturbation no other cell type has are neither trained on nor predicted.
    """
    if len(screen.cell_types) < 2:
        raise BftembedError(f"there is one cell type only ({screen.cell_types[0]!r}): none can be held out")
    splits = []
    for number in range(len(screen.cell_types)):
        train = screen.cell_type != number
        test = ~train & np.isin(screen.label, screen.label[train])
        if test.any():
            splits.append(Split(train, test))
    if not splits:
        raise BftembedError("no perturbation is in two cell types: no cell type can be predicted from others")
    return splits


def splits_of(protocol: str, screen: Screen, seed: int, predictions: Predictions | None = None) -> list[Split]:
    """Return the splits of a protocol, or raise when the data allow none."""
    if predictions is not None:
        if predictions.held_out.all():
            raise BftembedError("the predictions hold every condition of the data: nothing is left to train on")
        return [Split(~predictions.held_out, predictions.held_out)]
    return unseen_gene(screen, seed) if protocol == UNSEEN_GENE else unseen_cell_type(screen)


def has_unseen_genes(screen: Screen, split: Split) -> bool:
    """Return whether a test condition has a perturbation that training does not."""
    return not np.isin(screen.label[split.test], screen.label[split.train]).all()
