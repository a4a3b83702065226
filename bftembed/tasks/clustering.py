"""Do cells that lie together share a label? K-means against the labels, and the silhouette of the labels themselves."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, examples
from bftembed.metrics.clustering import (
    adjusted_mutual_information,
    adjusted_rand_index,
    bootstrap_interval,
    kmeans_labels,
)
from bftembed.metrics.silhouette import silhouette_samples
from bftembed.progress import Progress, silent
from bftembed.results import Result
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
#: The clustering against the true labels, and against the same labels dealt at random to the same cells (the floor).
STANDARD, PERMUTED = "standard", "permuted-labels"
METRICS = ("ari", "ami", "silhouette")
DEFAULT_SEEDS = (0, 1, 2, 3, 4)


def run(
    embeddings: Mapping[str, NDArray[np.floating[Any]]],
    labels: Sequence[object] | NDArray[Any],
    *,
    run: str,
    seeds: Iterable[int] = DEFAULT_SEEDS,
    floors: bool = True,
    progress: Progress = silent,
) -> list[Result]:
    """Score embeddings of the same cells by clustering.

    Protocol ``"standard"``: for each seed, k-means with k = number of labels, and ARI and AMI against the labels (one
    row per seed); the mean raw silhouette of the true labels with its 95 % bootstrap interval over cells (splits
    ``all``, ``ci95-low``, ``ci95-high``). Protocol ``"permuted-labels"``: the same clusterings and embeddings against
    labels dealt at random, one deal per seed.

    Parameters
    ----------
    embeddings
        Name → array of shape ``(n_cells, d)``; d may differ, the cells and their order may not.
    labels
        One label per cell, shape ``(n_cells,)``. None, NaN, ``""`` and ``"nan"`` are missing.
    run
        Name of the run, for the column of that name.
    seeds
        Seeds of k-means, of the label permutations, and (the first) of the bootstrap.
    floors
        Whether to add the protocol ``"permuted-labels"``.
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
        When there is no embedding or no seed, or the number of rows and labels differ.
    """
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
            results += _failures(row, _joined(f"error: {reason}", left_out), seed_list, floors)
        else:
            results += _score(row, left_out, matrix[mask], names[mask].astype(str), seed_list, floors)
        progress(i + 1, len(matrices), name)
    return results


def _failures(row: Callable[..., Result], note: str, seeds: list[int], floors: bool) -> list[Result]:
    failed = [row(protocol=STANDARD, metric=m, seed=s, note=note) for m in ("ari", "ami") for s in seeds]
    failed.append(row(protocol=STANDARD, metric="silhouette", note=note))
    if floors:
        failed += [row(protocol=PERMUTED, metric=m, seed=s, note=note) for m in METRICS for s in seeds]
    return failed


def _score(
    row: Callable[..., Result],
    left_out: str,
    matrix: NDArray[Any],
    labels: NDArray[Any],
    seeds: list[int],
    floors: bool,
) -> list[Result]:
    k = len(np.unique(labels))
    found: list[Result] = []
    for seed in seeds:
        clusters = kmeans_labels(matrix, k, seed)
        n_clusters = len(np.unique(clusters))
        few = (
            f"only {n_clusters} of {k} clusters found: the embedding has too few distinct cells"
            if n_clusters < k
            else ""
        )
        note = _joined(few, left_out)
        # A stream of its own, so that the permutation shares nothing with the k-means starts of the same seed.
        dealt = np.random.default_rng([seed, 1]).permutation(labels)
        for protocol, truth in [(STANDARD, labels), (PERMUTED, dealt)][: 2 if floors else 1]:
            values = {"ari": adjusted_rand_index(truth, clusters), "ami": adjusted_mutual_information(truth, clusters)}
            found += [row(protocol=protocol, metric=m, seed=seed, value=v, note=note) for m, v in values.items()]
        if floors:
            mean = float(silhouette_samples(matrix, dealt).mean())
            found.append(row(protocol=PERMUTED, metric="silhouette", seed=seed, value=mean, note=left_out))
    per_cell = silhouette_samples(matrix, labels)
    low, high = bootstrap_interval(per_cell, seeds[0])
    ends = {"all": float(per_cell.mean()), "ci95-low": low, "ci95-high": high}
    found += [
        row(protocol=STANDARD, metric="silhouette", split=split, value=value, note=left_out)
        for split, value in ends.items()
    ]
    return found


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
