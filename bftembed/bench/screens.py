"""Reading perturbation screens: cells of one or several files into means per condition, in blocks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bftembed.bench.expression import opened
from bftembed.bench.reading import place_of, read_cells
from bftembed.cells.blocks import memory_matrix, stored_matrix
from bftembed.cells.examine import summarize
from bftembed.cells.feature_types import columns_of_kind
from bftembed.cells.normalize import LARGEST_LOG, decide
from bftembed.cells.refusals import refuse_bad_values
from bftembed.errors import BftembedError, examples
from bftembed.hdf5 import is_array, is_group, open_h5ad, strings
from bftembed.tasks.perturbation.data import GroupSums, Screen, screen_of
from bftembed.tasks.usable import missing_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    import anndata
    from numpy.typing import NDArray

    from bftembed.cells.reading import Expression
    from bftembed.progress import Progress

    Source: TypeAlias = "anndata.AnnData | str | os.PathLike[str]"

#: Cells read at a time.
_BLOCK = 4096


def read_screen(
    sources: Sequence[Source],
    columns: tuple[str, str],
    control: str,
    *,
    layer: str | None,
    use_raw: bool,
    gene_column: str | None,
    progress: Progress,
) -> tuple[Screen, list[str]]:
    """Read the cells of a screen into means per cell type and perturbation; the matrix is never held whole.

    Parameters
    ----------
    sources
        Files or AnnData. Their genes are matched by name; those of the first say the order.
    columns
        Of ``.obs``: cell type, perturbation.
    control
        Label of control cells.
    layer, use_raw, gene_column
        Which expression and which gene names. Counts are turned into log1p of counts per 10,000 of all genes of the
        file, logged values are taken as they are.
    progress
        Called for every block.

    Returns
    -------
    tuple
        The screen; and notes, how the values of each file were taken.

    Raises
    ------
    BftembedError
        For files that cannot be read, cells without a label, values that are no expression or neither counts nor
        logged, genes that occur twice or differ between files; and as `screen_of`.
    """
    genes: list[str] = []
    sums = GroupSums(0)
    notes: list[str] = []
    for source in sources:
        where = place_of(source)
        found, _, _ = read_cells(source, [], list(columns))
        groups = _groups(found, columns, where)
        with opened(source, layer=layer, use_raw=use_raw, gene_column=gene_column) as expression:
            if not genes:
                genes = _once(expression)
                sums = GroupSums(len(genes))
            order = _order(genes, expression)
            notes.append(_add(sums, expression, groups, order, progress))
    place = place_of(sources[0]) if len(sources) == 1 else f"{place_of(sources[0])} and {len(sources) - 1} more"
    return screen_of(sums, genes, control, place), list(dict.fromkeys(notes))


def _groups(found: dict[str, NDArray[Any]], columns: tuple[str, str], where: str) -> list[tuple[str, str]]:
    for column in columns:
        absent = [i for i, x in enumerate(found[column]) if missing_label(x)]
        if absent:
            raise BftembedError(
                f"{where}: obs[{column!r}] has no value for {len(absent)} of {len(found[column])} cells (the first in "
                f"row {absent[0]}). Label them, or take these cells out."
            )
    types, labels = (found[c] for c in columns)
    return [(str(t), str(p)) for t, p in zip(types, labels, strict=True)]


def _once(expression: Expression) -> list[str]:
    seen: set[str] = set()
    twice = [g for g in expression.genes if g in seen or seen.add(g)]  # type: ignore[func-returns-value]
    if twice:
        raise BftembedError(
            f"{expression.where}: the gene {examples(twice, 3)} occurs twice. Genes are matched by name: name them "
            "with another column (gene_column=, --gene-column), or adata.var_names_make_unique()."
        )
    return expression.genes


def _order(genes: list[str], expression: Expression) -> NDArray[np.int64] | None:
    """Return the column of each gene, or None where they are in order already."""
    own = _once(expression)
    if own == genes:
        return None
    ours, theirs = set(genes), set(own)
    if ours != theirs:
        lack, more = [g for g in genes if g not in theirs], [g for g in own if g not in ours]
        raise BftembedError(
            f"{expression.where} has other genes than the first file: it lacks {examples(lack) or 'none'}, and has "
            f"besides {examples(more) or 'none'}. Take the genes that all files share: adata[:, shared]."
        )
    at = {gene: i for i, gene in enumerate(own)}
    return np.array([at[g] for g in genes], dtype=np.int64)


def _add(
    sums: GroupSums,
    expression: Expression,
    groups: list[tuple[str, str]],
    order: NDArray[np.int64] | None,
    progress: Progress,
) -> str:
    """Add all cells of a matrix; return what was done to its values."""
    n_cells, n_genes = expression.matrix.shape
    summary = summarize(expression.matrix.rows(_BLOCK), np.zeros(n_genes, dtype=np.int32), range(n_cells))
    if summary.bad:
        refuse_bad_values(summary, expression)
    decision = decide("auto", summary, logged=expression.logged, where=expression.where, others=expression.others)
    for rows in expression.matrix.rows(_BLOCK):
        block = rows.to_csr(n_genes)
        block.sum_duplicates()
        if decision.normalize == "log1p-cp10k":
            factors = 1e4 / np.maximum(summary.totals[rows.start : rows.stop], 1e-12)
            block.data = np.log1p(block.data * np.repeat(factors, np.diff(block.indptr)))
        sums.add(block if order is None else block[:, order], groups[rows.start : rows.stop])
        progress(rows.stop, n_cells, "cells")
    done = "log1p of counts per 10,000" if decision.normalize == "log1p-cp10k" else "values as they are"
    return f"{expression.name}: {done} ({decision.reason})"


def is_simulated(source: Source) -> bool:
    """Return whether the data say of themselves that they are simulated, ``uns["simulated"]``."""
    if not isinstance(source, (str, os.PathLike)):
        return "simulated" in source.uns
    with open_h5ad(source) as handle:
        return is_group(handle.get("uns")) and "simulated" in handle["uns"]


def highly_variable(source: Source) -> list[int]:
    """Return the genes of X that ``X_hvg`` holds, in its order: ``uns["hvg_names"]``, else ``var.highly_variable``.

    Positions among the genes, without features of another type. Empty where the data tell neither.
    """
    if not isinstance(source, (str, os.PathLike)):
        kept = columns_of_kind(lambda c: list(map(str, source.var[c])) if c in source.var else None, "gene")
        if "hvg_names" in source.uns:
            names = list(map(str, source.uns["hvg_names"]))
            return _among(_columns(names, list(map(str, source.var_names))), kept)
        marked = source.var.get("highly_variable")
        return [] if marked is None else _among(np.flatnonzero(np.asarray(marked, dtype=bool)).tolist(), kept)
    from bftembed.entities.var_names import read_var_column, read_var_names

    with open_h5ad(source) as handle:
        kept = columns_of_kind(lambda c: read_var_column(handle, c), "gene")
        names = handle.get("uns/hvg_names")
        if names is not None:
            return _among(_columns(strings(names), read_var_names(handle)), kept)
        marked = handle.get("var/highly_variable")
        if marked is None or not is_array(marked):
            return []
        return _among(np.flatnonzero(np.asarray(marked[:], dtype=bool)).tolist(), kept)


def _among(columns: list[int], kept: NDArray[np.int64] | None) -> list[int]:
    """Return the place of each column among the `kept` ones, without those that are not."""
    if kept is None:
        return columns
    place = {column: i for i, column in enumerate(kept.tolist())}
    return [place[column] for column in columns if column in place]


def _columns(names: list[str], genes: list[str]) -> list[int]:
    at = {gene: i for i, gene in enumerate(genes)}
    return [at[name] for name in names if name in at]


def read_predictions(
    source: Source, columns: tuple[str, str], screen: Screen, control: str, variable: Sequence[int]
) -> tuple[Screen, NDArray[np.bool_], NDArray[np.float64]]:
    """Read what STATE predicted: ``adata_pred.h5ad`` of ``state tx predict``, whose genes have lost their names.

    Parameters
    ----------
    source
        File or AnnData: predicted log1p expression in ``X``, rows are cells.
    columns
        Of ``.obs``: cell type, perturbation.
    screen
        The true data.
    control
        Label of control cells; those predicted are passed over, for deltas are counted from the true controls.
    variable
        Columns of the true data that ``X_hvg`` holds.

    Returns
    -------
    tuple
        The screen in the gene space of the predictions; which of its conditions are predicted, bool (n_conditions,);
        and their predicted deltas, float64 (n_predicted, n_genes), in the order of the conditions.

    Raises
    ------
    BftembedError
        When the number of genes is neither that of X nor that of X_hvg, values are not finite or no logarithm,
        a condition is not in the data, or none is left.
    """
    where = place_of(source)
    found, _, _ = read_cells(source, [], list(columns))
    groups = _groups(found, columns, where)
    if isinstance(source, (str, os.PathLike)):
        with open_h5ad(Path(source)) as handle:
            if "X" not in handle:
                raise BftembedError(f"{where} has no X: it is no adata_pred.h5ad of `state tx predict`.")
            sums, own = _summed(stored_matrix(handle["X"], f"{where}: X"), groups, screen, variable, where)
    else:
        sums, own = _summed(memory_matrix(source.X, f"{where}: X"), groups, screen, variable, where)
    names, mean, _, _ = sums.moments()
    at = {
        (own.cell_types[t], own.labels[label]): i
        for i, (t, label) in enumerate(zip(own.cell_type.tolist(), own.label.tolist(), strict=True))
    }
    left_out = set(screen.left_out)
    wanted = [(i, g) for i, g in enumerate(names) if g[1] != control and g[1] not in left_out]
    unknown = [f"{label} in {t}" for _, (t, label) in wanted if (t, label) not in at]
    if unknown:
        raise BftembedError(
            f"{where}: {len(unknown)} predicted conditions are not in the data: {examples(unknown)}. Give the data "
            "that STATE was trained on."
        )
    if not wanted:
        raise BftembedError(f"{where} predicts no condition beside the control {control!r} that can be scored.")
    rows = np.array([at[g] for _, g in wanted])
    order = np.argsort(rows)
    held = np.zeros(len(own.label), dtype=bool)
    held[rows] = True
    predicted = mean[[i for i, _ in wanted]][order]
    return own, held, predicted - own.control_mean[own.cell_type[held]]


def _summed(
    matrix: Any, groups: list[tuple[str, str]], screen: Screen, variable: Sequence[int], where: str
) -> tuple[GroupSums, Screen]:
    n_cells, n_genes = matrix.shape
    if n_cells != len(groups):
        raise BftembedError(f"{where}: X has {n_cells} rows for {len(groups)} cells of obs. The file is damaged.")
    if n_genes == len(screen.genes):
        own = screen
    elif n_genes == len(variable):
        own = screen.of_genes(variable)
    else:
        hvg = f"{len(variable)} in X_hvg" if len(variable) else 'none are marked as X_hvg (var["highly_variable"])'
        raise BftembedError(
            f"{where} predicts {n_genes} genes; the data have {len(screen.genes)}, {hvg}. The predictions bear no gene "
            "names, so their number has to agree: give the data that STATE was trained on."
        )
    sums = GroupSums(n_genes)
    for rows in matrix.rows(_BLOCK):
        block = rows.to_csr(n_genes)
        if not np.isfinite(block.data).all() or block.data.max(initial=0.0) > LARGEST_LOG:
            raise BftembedError(
                f"{where}: X holds values that are not finite, or more than any logarithm of expression. Predictions "
                "are compared as log1p expression: output_space gene or all."
            )
        sums.add(block, groups[rows.start : rows.stop])
    return sums, own
