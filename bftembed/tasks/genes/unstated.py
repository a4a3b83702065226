"""The score of an embedding on the items whose texts do not state the label."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.tasks.genes.leaks import find_leaks
from bftembed.tasks.genes.scoring import evaluate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.results import Result
    from bftembed.tasks.genes.definition import GeneTask
    from bftembed.tasks.genes.rows import Table

UNSTATED = ", without texts that state the label"
STATED = "label_stated_in_text"


def unstated_rows(
    table: Table, task: GeneTask, name: str, scores: Sequence[NDArray[Any]], texts: Mapping[str, str]
) -> list[Result]:
    """Return the share of texts that state the label, for each label, and the score of an embedding without them.

    Parameters
    ----------
    table
        Of the task, protocol and probe.
    task
        The task, with only the genes that are scored.
    name, scores
        The embedding and its scores of every fold's test items. The probe has seen all training items.
    texts
        Gene → text.

    Returns
    -------
    list of Result
        Metric ``label_stated_in_text``, with the label as ``split``: the share in [0, 1]. When any item states its
        label, the rows of ``"NAME, without texts that state the label"``. Empty without texts, or where nothing can
        be looked for (no label words).
    """
    items = np.concatenate([np.sort(f.test_items, axis=1) for f in table.plan.folds])
    labels = np.concatenate([f.test_labels for f in table.plan.folds])
    if task.kind == "pairs":
        # Negatives are drawn for each fold: what is looked at are the pairs that are scored.
        items, first = np.unique(items, axis=0, return_index=True)
        task = replace(task, items=items, labels=labels[first], split=None)
    elif not task.label_words:
        return []
    leaks = find_leaks(task, texts)
    if not leaks.n_checked:
        return []
    found = [
        replace(
            table.row(name, STATED, label, None, share),
            n_used=leaks.n_checked,
            note=f"words found: {', '.join(leaks.words)}" if leaks.words else "",
        )
        for label, share in leaks.share_by_label.items()
        if not np.isnan(share)
    ]
    if not leaks.leaking.any():
        return found
    if task.kind == "pairs":
        width = len(task.genes)
        stated = items[leaks.leaking]
        codes = stated[:, 0] * width + stated[:, 1]
        kept = [~np.isin(f.test_items.min(axis=1) * width + f.test_items.max(axis=1), codes) for f in table.plan.folds]
    else:
        kept = [~leaks.leaking[f.test_items[:, 0]] for f in table.plan.folds]
    if not any(k.any() for k in kept):
        return found
    values = [s[k] for s, k in zip(scores, kept, strict=True)]
    part = table.restricted(kept)
    rows = part.rows(f"{name}{UNSTATED}", evaluate(part.plan, values))
    # A fold that is left with one class has no score; where all are, the shares above say why.
    return found + [row for row in rows if not np.isnan(row.value)]
