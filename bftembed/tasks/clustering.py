"""Do cells that lie together share a label? Clusters and near cells against the labels, and the labels' silhouette."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, examples, require, unknown_name
from bftembed.progress import Progress, silent
from bftembed.results import Result
from bftembed.tasks.clustering_protocols import PROTOCOLS, Protocol, Score
from bftembed.tasks.info import TaskInfo
from bftembed.tasks.usable import as_matrix, broken_vectors, has_vector, left_out_note, missing_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

INFO = TaskInfo(
    name="clustering",
    kind="cells",
    source="the cells and labels that are given",
    licence="that of the given data",
    split_rule="none: nothing is fitted to the labels",
    main_metric="ari",
    direction="higher",
    version=1,
)
#: The light protocol, and the word for labels that are dealt at random to the same cells (the floor).
STANDARD, PERMUTED = "standard", "permuted-labels"
DEFAULT_SEEDS = (0, 1, 2, 3, 4)


def run(
    embeddings: Mapping[str, NDArray[np.floating[Any]]],
    labels: Sequence[object] | NDArray[Any],
    *,
    run: str,
    protocol: str = STANDARD,
    seeds: Iterable[int] = DEFAULT_SEEDS,
    floors: bool = True,
    progress: Progress = silent,
) -> list[Result]:
    """Score embeddings of the same cells by clustering.

    Protocols, each with k = number of labels:

    - ``"standard"``: k-means (10 starts) for each seed, ARI and AMI against the labels, one row per seed; the mean raw
      silhouette of the true labels with its 95 % bootstrap interval over cells (splits ``ci95-low``, ``ci95-high``).
    - ``"strict"`` (extra ``scib``): the same k-means with NMI too; Leiden on the graph of 15 neighbours, at the
      resolution that gives k clusters (``leiden_k_ari``, …) and at that of ten whose NMI to the labels is highest
      (``leiden_best_ari``, …: optimistic, the notes say which); raw silhouettes, Euclidean and cosine; the accuracy of
      the 10 nearest cells on a held-out fifth (``knn_accuracy``). Intervals are over cells and seeds: 200 random halves
      of the cells and draws of the seeds (`bftembed.tasks.halves`), the clusters stay.
    - ``"genept"``: mini-batch k-means as in GenePT's notebook, with its one seed; ARI, AMI and raw silhouette, with
      intervals over cells.

    Floors: ``"permuted-labels"`` and ``"strict/permuted-labels"``, the same against labels dealt at random, one deal
    per seed; the notebook has none.

    Parameters
    ----------
    embeddings
        Name → array of shape ``(n_cells, d)``; d may differ, the cells and their order may not.
    labels
        One label per cell, shape ``(n_cells,)``. None, NaN, ``""`` and ``"nan"`` are missing.
    run
        Name of the run, for the column of that name.
    protocol
        One of the above.
    seeds
        Seeds of k-means, Leiden, the held-out cells, the label permutations, and (the first) of the bootstrap.
    floors
        Whether to add the floors.
    progress
        Called once per embedding.

    Returns
    -------
    list of Result
        A cell without a label, or with NaN, infinity or only zeros in an embedding, is left out for all embeddings,
        so that all are scored on the same cells; it is counted in ``n_missing`` and explained in ``note``. An
        embedding that leaves no two labels by itself fails alone: its rows are NaN with the reason.

    Raises
    ------
    BftembedError
        When there is no embedding or no seed, the protocol is not known, or the number of rows and labels differ.
    MissingExtraError
        Without the extra ``scib``, for ``"strict"``.
    """
    chosen = check_protocol(protocol)
    seed_list = list(dict.fromkeys(int(s) for s in seeds))
    if not embeddings or not seed_list:
        raise BftembedError("The clustering task needs at least one embedding and one seed.")
    names = np.asarray(list(labels), dtype=object)
    matrices = {name: as_matrix(name, x, len(names)) for name, x in embeddings.items()}
    labelled = np.array([not missing_label(x) for x in names], dtype=bool)
    usable = {name: labelled & has_vector(x) for name, x in matrices.items()}
    fit = {name: _too_few(names[mask]) == "" for name, mask in usable.items()}
    shared = np.logical_and.reduce([usable[n] for n in usable if fit[n]], axis=0) if any(fit.values()) else labelled

    results: list[Result] = []
    for i, (name, matrix) in enumerate(matrices.items()):
        mask = shared if fit[name] else usable[name]
        compared = {n: x for n, x in matrices.items() if fit[n]} if fit[name] else {name: matrix}
        left_out = _left_out(labelled, compared, mask)
        row = functools.partial(
            Result, run=run, embedding=name, task=INFO.name, n_used=int(mask.sum()), n_missing=int((~mask).sum())
        )
        reason = _too_few(names[mask])
        if reason:
            scores = chosen.failures(f"error: {reason}", seed_list, floors)
        else:
            scores = chosen.score(matrix[mask], names[mask].astype(str), seed_list, floors)
        results += [_row(row, score, protocol, left_out) for score in scores]
        progress(i + 1, len(matrices), name)
    return results


def check_protocol(name: str) -> Protocol:
    """Return a protocol, or raise when it is not known or what it needs is not installed."""
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    if PROTOCOLS[name].extra:
        require("igraph", PROTOCOLS[name].extra)
    return PROTOCOLS[name]


def _row(row: Callable[..., Result], score: Score, protocol: str, left_out: str) -> Result:
    floor = PERMUTED if protocol == STANDARD else f"{protocol}/{PERMUTED}"
    return row(
        protocol=floor if score.floor else protocol,
        metric=score.metric,
        split=score.split,
        seed=score.seed,
        value=score.value,
        note=_joined(score.note, left_out),
    )


def _joined(*notes: str) -> str:
    return "; ".join(n for n in notes if n)


def _too_few(labels: NDArray[Any]) -> str:
    """Say why these labels cannot be scored, or return an empty string."""
    classes = set(labels.astype(str))
    if len(labels) == 0:
        return "no cell has both a label and a vector"
    if len(classes) == 1:
        return f"all {len(labels)} usable cells have one label ({examples(classes)}); two are needed"
    return "every usable cell has a label of its own" if len(classes) == len(labels) else ""


def _left_out(labelled: NDArray[np.bool_], matrices: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]) -> str:
    reasons = [f"{int((~labelled).sum())} without a label"] if not labelled.all() else []
    for name, matrix in matrices.items():
        reasons += broken_vectors(name, matrix, labelled)
    return left_out_note(mask, reasons)
