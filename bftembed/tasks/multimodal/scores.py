"""Scores of two modalities in one space: scIB metrics of all cells, and matching of each cell to its partner."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError
from bftembed.metrics.checks import Undefined
from bftembed.metrics.matching import (
    chance_of_a_label,
    foscttm,
    label_matching_accuracy,
    matching_accuracy,
    true_ranks,
)
from bftembed.progress import Progress, silent
from bftembed.tasks.base import Metric, Result, TaskInfo
from bftembed.tasks.cells import integration
from bftembed.tasks.data import ValidCells, as_matrix, has_vector, valid_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

Pair = tuple["NDArray[Any]", "NDArray[Any]"]

INFO = TaskInfo(
    name="matching",
    kind="cells",
    source="the given cells and labels, measured in two modalities",
    license="that of the given data",
    split_rule="none: nothing is fitted to the pairs",
    main_metric="foscttm",
    direction="lower",
    version=1,
)
#: Cells among which the partner counts as found, in the second of the two accuracies.
WIDER = 10
FOSCTTM, ACCURACY, ACCURACY_10, LABEL_ACCURACY = (
    *("foscttm", "matching_accuracy", f"matching_accuracy_{WIDER}"),
    "label_matching_accuracy",
)
#: Without intervals over cells, no conclusions are drawn.
METRICS = (
    Metric(FOSCTTM, "FOSCTTM", better="lower", concludes=False),
    Metric(ACCURACY, "Matching accuracy", concludes=False),
    Metric(ACCURACY_10, f"Among {WIDER} nearest", concludes=False),
    Metric(LABEL_ACCURACY, "Label matching", concludes=False),
)
#: Batches of the stacked cells, in the order of their rows.
RNA, PROTEIN = "rna", "protein"
#: Protocol of the rows: the distance that ranks the cells.
EUCLIDEAN = "euclidean"


def score(
    pairs: Mapping[str, Pair],
    labels: Sequence[object] | NDArray[Any],
    *,
    run: str,
    before: Pair | None = None,
    before_note: str = "",
    note: str = "",
    profile: str = "current",
    seeds: Iterable[int] = integration.DEFAULT_SEEDS,
    compared: Mapping[str, tuple[Pair, str, str]] | None = None,
    progress: Progress = silent,
) -> list[Result]:
    """Score vectors of the RNA and of the proteins of the same cells, in one space.

    Parameters
    ----------
    pairs
        Name → vectors of the RNA and of the proteins, both ``(n_cells, d)``; row i of both is one cell.
    labels
        Cell type of each cell, shape ``(n_cells,)``.
    run
        Name of the run.
    before
        The two modalities in one space before they are mixed, for the PCR comparison, which has no value without it.
    before_note
        What `before` is, or why there is none.
    note
        What limits the reading of all scores, shown below the tables.
    profile, seeds, progress
        As in `bftembed.tasks.cells.integration.score`.
    compared
        Name → vectors, kind and note of more embeddings.

    Returns
    -------
    list of Result
        Rows of the task ``integration``: of the 2 · n_cells cells, with the modality as the batch. Rows of the task
        ``matching``: ``foscttm`` (0 is best), ``matching_accuracy``, ``matching_accuracy_10`` (the partner is among the
        10 nearest) and ``label_matching_accuracy``, whose `n` counts pairs, and rows of kind ``chance``. A cell without
        a label, or without a vector in either modality of any embedding, is left out of both modalities and all
        embeddings. An embedding that leaves no cell fails alone.

    Raises
    ------
    BftembedError
        As `bftembed.tasks.cells.integration.score`, and for modalities of different shapes.
    """
    given = {name: (pair, "subject", "") for name, pair in pairs.items()} | dict(compared or {})
    valid = valid_pairs({name: pair for name, (pair, _, _) in given.items()}, labels)
    masks = {name: valid.alone.get(name, valid.mask) for name in given}
    results = integration.score(
        {},
        np.tile(np.asarray(labels, dtype=object), 2),
        np.repeat([RNA, PROTEIN], len(labels)),
        run=run,
        before=None if before is None else np.vstack(before),
        before_note=before_note,
        profile=profile,
        seeds=seeds,
        compared={name: (_stacked(pair, masks[name]), kind, made) for name, (pair, kind, made) in given.items()},
        progress=progress,
    )
    if note:
        results = [
            replace(r, note=f"{r.note}. {note}" if r.note else note)
            if r.metric == integration.BATCH and not r.reason
            else r
            for r in results
        ]
    row = functools.partial(Result, run=run, task=INFO.name, protocol=EUCLIDEAN)
    for name, (pair, kind, made) in given.items():
        mask = masks[name]
        counts = {"n": int(mask.sum()), "n_missing": int((~mask).sum())}
        of_name = functools.partial(row, subject=name, kind=kind, **counts)
        results += _matched(of_name, (pair[0][mask], pair[1][mask]), valid.labels["label"][mask], made)
    if n := int(valid.mask.sum()):
        of_label = chance_of_a_label(valid.labels["label"][valid.mask])
        for metric, value in zip(METRICS, (0.5, 1 / n, min(1.0, WIDER / n), of_label), strict=True):
            results.append(row(subject="chance", kind="chance", metric=metric.name, value=value, n=n, note=note))
    return results


def valid_pairs(pairs: Mapping[str, Pair], labels: Sequence[object] | NDArray[Any]) -> ValidCells:
    """Find the cells with a label, and a vector in both modalities of every embedding that has any such cell.

    Raises
    ------
    BftembedError
        When an embedding is not two numeric matrices of n_cells rows and one width.
    """
    whole = {}
    for name, pair in pairs.items():
        rna, protein = (
            as_matrix(f"{name}: {what}", x, len(labels)) for what, x in zip((RNA, PROTEIN), pair, strict=True)
        )
        if rna.shape != protein.shape:
            raise BftembedError(
                f"The embedding {name!r} has {rna.shape[1]} dimensions of the RNA and {protein.shape[1]} of the "
                "proteins: both must be in one space."
            )
        whole[name] = (has_vector(rna) & has_vector(protein))[:, None].astype(float)
    return valid_cells(whole, {"label": labels})


def _stacked(pair: Pair, mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the cells of the RNA above those of the proteins, NaN where they are left out."""
    return np.vstack([np.where(mask[:, None], part, np.float32(np.nan)) for part in pair])


def _matched(row: Callable[..., Result], pair: Pair, labels: NDArray[Any], made: str) -> list[Result]:
    if not len(labels):
        why = {"reason": "no-vectors", "note": "no cell has a label, and a vector in both modalities"}
        return [row(metric=metric.name, **why) for metric in METRICS]
    ranks = functools.cache(lambda: true_ranks(*pair))
    compute: dict[str, Callable[[], float]] = {
        FOSCTTM: lambda: foscttm(*pair, ranks=ranks()),
        ACCURACY: lambda: matching_accuracy(*pair, ranks=ranks()),
        ACCURACY_10: lambda: matching_accuracy(*pair, WIDER, ranks=ranks()),
        LABEL_ACCURACY: lambda: label_matching_accuracy(*pair, labels),
    }
    found = []
    for metric, value in compute.items():
        try:
            found.append(row(metric=metric, value=value(), note=made))
        except ValueError as err:
            reason = err.reason if isinstance(err, Undefined) else "error"
            found.append(row(metric=metric, reason=reason, note=str(err).rstrip(".")))
    return found
