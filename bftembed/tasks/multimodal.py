"""RNA and proteins of the same cells as two batches: scIB's metrics of all, and whether a cell finds its own partner.

Rows of two tasks: ``integration`` (`bftembed.tasks.integration`, of the cells of both modalities, one below the other)
and ``matching`` (`bftembed.metrics.matching`, of the pairs).
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed._version import __version__
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
from bftembed.results import Result
from bftembed.tasks import integration
from bftembed.tasks.info import TaskInfo
from bftembed.tasks.usable import Usable, as_matrix, has_vector, left_out_note, missing_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Pair = tuple[NDArray[Any], NDArray[Any]]

INFO = TaskInfo(
    name="matching",
    kind="cells",
    source="the cells and labels that are given, measured in two modalities",
    licence="that of the given data",
    split_rule="none: nothing is fitted to the pairs",
    main_metric="foscttm",
    direction="lower",
    version=1,
)
#: Batches of the stacked cells, in the order of their rows.
RNA, PROTEIN = "rna", "protein"
#: Protocol of the rows of this task: which distance ranks the cells.
EUCLIDEAN = "euclidean"
#: Cells among which the partner counts as found, in the second of the two accuracies.
WIDER = 10


def run(
    pairs: Mapping[str, Pair],
    labels: Sequence[object] | NDArray[Any],
    *,
    run: str,
    before: Pair | None = None,
    before_note: str = "",
    notes: Mapping[str, str] | None = None,
    profile: str = "current",
    seeds: Iterable[int] = integration.DEFAULT_SEEDS,
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
        Name of the run, for the column of that name.
    before
        The two modalities in one space before they are mixed, for the PCR comparison; without it that metric is a row
        with its reason.
    before_note
        What `before` is, or why there is none.
    notes
        Name → what else is to be said of an embedding, in the notes of its aggregates and of its matching rows.
    profile, seeds, progress
        As `bftembed.tasks.integration.run`.

    Returns
    -------
    list of Result
        Rows of the task ``integration``: of the 2 · n_cells cells, with the modality as the batch. Rows of the task
        ``matching``: ``foscttm`` (0 is best), ``matching_accuracy``, ``matching_accuracy_10`` (the partner is among the
        10 nearest) and ``label_matching_accuracy``, with the level of chance in their notes; ``n_used`` counts pairs.

        A cell without a label, or without a vector in either modality of any embedding, is left out of both modalities
        and all embeddings, and counted. An embedding that leaves no cell fails alone: NaN rows with the reason.

    Raises
    ------
    BftembedError
        As `bftembed.tasks.integration.run`, and for modalities of different shapes.
    """
    checked = {name: _as_pair(name, pair, len(labels)) for name, pair in pairs.items()}
    cells = usable_pairs(checked, labels)
    scorable = {name for name, pair in checked.items() if (cells.mask & _whole(pair)).any()}
    told = notes or {}
    kept = int(cells.mask.sum())
    if not kept:
        raise BftembedError(f"No cell can be scored. {cells.note}")
    lost = len(cells.mask) - kept
    scored = integration.run(
        {
            # A modality alone is no reason to leave cells out of the others.
            name: _stacked(pair, cells.mask) if name in scorable else np.full((2 * kept, pair[0].shape[1]), np.nan)
            for name, pair in checked.items()
        },
        np.tile(cells.values["label"][cells.mask], 2),
        np.repeat([RNA, PROTEIN], kept),
        run=run,
        before=None
        if before is None
        else _stacked(_as_pair("from before the mixing", before, len(labels)), cells.mask),
        before_note=before_note,
        profile=profile,
        seeds=seeds,
        progress=progress,
    )
    aggregates = (integration.BIO, integration.BATCH, integration.TOTAL)
    results = [
        replace(
            r,
            n_missing=r.n_missing + 2 * lost,
            note=_joined(r.note, cells.note, told.get(r.embedding, "") if r.metric in aggregates else ""),
        )
        for r in scored
    ]
    for name, pair in checked.items():
        mask = cells.mask if name in scorable else np.zeros_like(cells.mask)
        row = functools.partial(
            Result,
            run=run,
            embedding=name,
            task=INFO.name,
            protocol=EUCLIDEAN,
            n_used=int(mask.sum()),
            n_missing=int((~mask).sum()),
        )
        part = (pair[0][mask], pair[1][mask])
        results += _matched(row, part, cells.values["label"][mask], _joined(cells.note, told.get(name, "")))
    return results


def usable_pairs(pairs: Mapping[str, Pair], labels: Sequence[object] | NDArray[Any]) -> Usable:
    """Find the cells with a label, and a vector in both modalities of every embedding that has any such cell.

    Parameters
    ----------
    pairs, labels
        As `run`.

    Returns
    -------
    Usable
        Its mask is bool (n_cells,), and may hold no cell.

    Raises
    ------
    BftembedError
        When an embedding is not two numeric matrices of n_cells rows and one width.
    """
    labelled = np.array([not missing_label(x) for x in labels], dtype=bool)
    mask = labelled.copy()
    reasons = [f"{int((~labelled).sum())} without a label"] if not labelled.all() else []
    for name, pair in pairs.items():
        rna, protein = (has_vector(part) for part in _as_pair(name, pair, len(labelled)))
        if not (labelled & rna & protein).any():
            continue  # it fails alone
        mask &= rna & protein
        for what, lacks in (
            (f"{RNA} vector", labelled & ~rna & protein),
            (f"{PROTEIN} vector", labelled & rna & ~protein),
            (f"{RNA} and {PROTEIN} vector", labelled & ~rna & ~protein),
        ):
            reasons += [f"{int(lacks.sum())} without a {what} in {name}"] if lacks.any() else []
    values = np.array([str(x) if has else "" for x, has in zip(labels, labelled, strict=True)])
    return Usable(mask, {"label": values}, left_out_note(mask, reasons))


def _as_pair(name: str, pair: Pair, n_cells: int) -> Pair:
    rna, protein = (
        as_matrix(f"{name} ({what})", part, n_cells) for what, part in zip((RNA, PROTEIN), pair, strict=True)
    )
    if rna.shape != protein.shape:
        raise BftembedError(
            f"The embedding {name!r} has {rna.shape[1]} dimensions of {RNA} and {protein.shape[1]} of {PROTEIN}: both "
            "must lie in one space."
        )
    return rna, protein


def _whole(pair: Pair) -> NDArray[np.bool_]:
    return np.asarray(has_vector(pair[0]) & has_vector(pair[1]))


def _stacked(pair: Pair, mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the cells of `mask`, those of the RNA above those of the proteins."""
    return np.vstack([part[mask] for part in pair])


def _matched(row: Callable[..., Result], pair: Pair, labels: NDArray[Any], told: str) -> list[Result]:
    n = len(labels)
    if not n:
        reason = "undefined: no cell has a label, and a vector in both modalities"
        return [row(metric=metric, note=_joined(reason, told)) for metric in METRICS]
    ranks = functools.cache(lambda: true_ranks(*pair))
    computed: dict[str, tuple[Callable[[], float], float]] = {
        FOSCTTM: (lambda: foscttm(*pair, ranks=ranks()), 0.5),
        ACCURACY: (lambda: matching_accuracy(*pair, ranks=ranks()), 1 / n),
        ACCURACY_10: (lambda: matching_accuracy(*pair, WIDER, ranks=ranks()), WIDER / n),
        LABEL_ACCURACY: (lambda: label_matching_accuracy(*pair, labels), chance_of_a_label(labels)),
    }
    found = []
    for metric, (compute, chance) in computed.items():
        try:
            value, note = compute(), f"chance {chance:.6g}; bftembed {__version__}"
        except ValueError as err:
            value, note = float("nan"), f"{'undefined' if isinstance(err, Undefined) else 'error'}: {err}"
        found.append(row(metric=metric, value=value, note=_joined(note, told)))
    return found


FOSCTTM, ACCURACY, ACCURACY_10, LABEL_ACCURACY = METRICS = (
    "foscttm",
    "matching_accuracy",
    f"matching_accuracy_{WIDER}",
    "label_matching_accuracy",
)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
