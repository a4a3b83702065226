"""Which gene of a task has which vector, and the part of a task whose genes all have one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bftembed.entities.genes import GeneIndex
from bftembed.errors import examples
from bftembed.tasks.genes.definition import of_both_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bftembed.tasks.genes.definition import GeneTask


def match_rows(genes: Sequence[str], ids: Sequence[str], *, aliases: bool = True) -> NDArray[np.int64]:
    """Return the row of each gene's vector, int64 (n_genes,), -1 for none.

    Parameters
    ----------
    genes
        Names of the genes of a task.
    ids
        Unique ids of the vectors.
    aliases
        Whether a gene that is no id as it stands is looked for under its approved symbol, and among ids under theirs.
        Ambiguous names are never guessed.
    """
    row_of = {name: i for i, name in enumerate(ids)}
    rows = np.array([row_of.get(gene, -1) for gene in genes], dtype=np.int64)
    missing = np.flatnonzero(rows < 0).tolist()
    if not aliases or not missing:
        return rows
    index = GeneIndex.default()
    approved: dict[str, int] = {}
    for found in index.resolve([i for i in ids if i not in index]):
        if found.entity and found.entity not in row_of:
            approved.setdefault(found.entity, row_of[found.name])
    for position, found in zip(missing, index.resolve([genes[i] for i in missing]), strict=True):
        symbol = found.entity
        if symbol:
            rows[position] = row_of.get(symbol, approved.get(symbol, -1))
    return rows


def restricted(task: GeneTask, has_vector: NDArray[np.bool_]) -> GeneTask:
    """Return the items of a task whose genes all have a vector, with the genes renumbered.

    Parameters
    ----------
    task
        The task.
    has_vector
        bool (n_genes,).
    """
    kept = has_vector[task.items].all(axis=1)
    used = np.zeros(len(task.genes), dtype=bool)
    used[task.items[kept]] = True
    number = np.cumsum(used) - 1
    return replace(
        task,
        genes=tuple(g for g, u in zip(task.genes, used, strict=True) if u),
        items=number[task.items[kept]],
        labels=task.labels[kept],
        split=None if task.split is None else task.split[kept],
    )


def unambiguous(task: GeneTask) -> GeneTask:
    """Return a task without the genes of both labels; a note counts and names them."""
    both = of_both_labels(task)
    if not both.any():
        return task
    names = examples(sorted(gene for gene, has_both in zip(task.genes, both, strict=True) if has_both))
    note = f"{int(both.sum())} genes of both classes are left out of both: {names}"
    return replace(restricted(task, ~both), notes=(*task.notes, note))
