"""Are cells of one type together, and batches mixed? The scIB metrics, each with its library or its reason."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed import __version__
from bftembed.errors import BftembedError, unknown_name
from bftembed.metrics import integration as scib
from bftembed.metrics.bras import bras
from bftembed.metrics.checks import Undefined
from bftembed.metrics.neighbours import nearest_neighbours
from bftembed.metrics.silhouette import isolated_labels, silhouette_batch, silhouette_label, silhouette_samples
from bftembed.progress import Progress, silent
from bftembed.results import Result
from bftembed.tasks.info import TaskInfo
from bftembed.tasks.usable import usable_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

INFO = TaskInfo(
    name="integration",
    kind="cells",
    source="the cells, labels and batches that are given",
    licence="that of the given data",
    split_rule="none: nothing is fitted to the labels",
    main_metric="total",
    direction="higher",
    version=1,
)
DEFAULT_SEEDS = (0, 1, 2, 3, 4)
#: Neighbours, the cell itself included, of LISI, kBET and graph connectivity.
LISI_NEIGHBOURS, KBET_NEIGHBOURS, GRAPH_NEIGHBOURS = 90, 50, 15
BIO_WEIGHT, BATCH_WEIGHT = 0.6, 0.4
BIO, BATCH, TOTAL = "bio_conservation", "batch_correction", "total"


@dataclass(frozen=True)
class Profile:
    """Which metrics a score is made of.

    Attributes
    ----------
    bio, batch
        Names of metrics, as scib-metrics has them.
    """

    bio: tuple[str, ...]
    batch: tuple[str, ...]


_NMI, _ARI = "nmi_ari_cluster_labels_kmeans_nmi", "nmi_ari_cluster_labels_kmeans_ari"
_BIO = ("isolated_labels", _NMI, _ARI, "silhouette_label", "clisi_knn")
_REST = ("ilisi_knn", "kbet_per_label", "graph_connectivity", "pcr_comparison")
#: ``current`` is what scib-metrics shows today; ``paper`` has the older batch silhouette, as table 2 of the paper.
PROFILES = {"current": Profile(_BIO, ("bras", *_REST)), "paper": Profile(_BIO, ("silhouette_batch", *_REST))}


@dataclass(frozen=True, eq=False)
class _Cells:
    """One embedding of the cells that are scored, with what several metrics share."""

    matrix: NDArray[Any]
    labels: NDArray[Any]
    batches: NDArray[Any]
    before: NDArray[Any] | None

    @functools.cached_property
    def neighbours(self) -> Any:
        if len(self.matrix) <= LISI_NEIGHBOURS:
            raise Undefined(f"{len(self.matrix)} cells are too few for {LISI_NEIGHBOURS} neighbours")
        return nearest_neighbours(self.matrix, LISI_NEIGHBOURS)

    @functools.cached_property
    def silhouettes(self) -> NDArray[np.float64]:
        return silhouette_samples(self.matrix, self.labels)

    @functools.cached_property
    def lisi_weights(self) -> NDArray[np.float32]:
        return scib.lisi_weights(self.neighbours)


def _pcr(cells: _Cells) -> float:
    if cells.before is None:
        raise Undefined("no embedding from before the integration was given to compare with")
    return scib.pcr_comparison(cells.before, cells.matrix, cells.batches)


_METRICS: dict[str, Callable[[_Cells], float]] = {
    "isolated_labels": lambda c: isolated_labels(c.matrix, c.labels, c.batches, samples=c.silhouettes),
    "silhouette_label": lambda c: silhouette_label(c.matrix, c.labels, samples=c.silhouettes),
    "silhouette_batch": lambda c: silhouette_batch(c.matrix, c.labels, c.batches),
    "bras": lambda c: bras(c.matrix, c.labels, c.batches),
    "clisi_knn": lambda c: scib.clisi(c.neighbours, c.labels, weights=c.lisi_weights),
    "ilisi_knn": lambda c: scib.ilisi(c.neighbours, c.batches, weights=c.lisi_weights),
    "graph_connectivity": lambda c: scib.graph_connectivity(c.neighbours.subset(GRAPH_NEIGHBOURS), c.labels),
    "kbet_per_label": lambda c: scib.kbet(c.neighbours.subset(KBET_NEIGHBOURS), c.labels, c.batches),
    "pcr_comparison": _pcr,
}


def run(
    embeddings: Mapping[str, NDArray[np.floating[Any]]],
    labels: Sequence[object] | NDArray[Any],
    batches: Sequence[object] | NDArray[Any],
    *,
    run: str,
    before: NDArray[np.floating[Any]] | None = None,
    profile: str = "current",
    seeds: Iterable[int] = DEFAULT_SEEDS,
    progress: Progress = silent,
) -> list[Result]:
    """Score embeddings of the same cells by the metrics of scIB (Luecken et al. 2022).

    Parameters
    ----------
    embeddings
        Name → array of shape ``(n_cells, d)``; d may differ, the cells and their order may not.
    labels, batches
        One cell type and one batch per cell, shape ``(n_cells,)``.
    run
        Name of the run, for the column of that name.
    before
        Embedding from before the integration, ``(n_cells, d)``, for the PCR comparison; without it that metric is a
        row with its reason.
    profile
        One of `PROFILES`; it is the protocol of the rows.
    seeds
        Seeds of k-means. Every seed has a row; the aggregates are made of the means.
    progress
        Called once per embedding.

    Returns
    -------
    list of Result
        Every metric of the profile, all between 0 (bad) and 1 (good), then ``bio_conservation`` and
        ``batch_correction``, the means of the metrics that have a value, and ``total``, 0.6 of the first and 0.4 of the
        second. A metric that cannot be computed is a NaN row with the reason, and the note of the aggregates
        names the metrics they hold. Cells without label, batch or vector are left out of all embeddings and counted.

    Raises
    ------
    BftembedError
        When there is no embedding or seed, the profile is not known, or numbers of cells differ.
    """
    if profile not in PROFILES:
        raise unknown_name("profile", profile, PROFILES)
    seed_list = list(dict.fromkeys(int(s) for s in seeds))
    if not embeddings or not seed_list:
        raise BftembedError("The integration task needs at least one embedding and one seed.")
    compared = dict(embeddings) if before is None else {**embeddings, _BEFORE: np.asarray(before)}
    cells = usable_cells(compared, {"label": labels, "batch": batches})
    results: list[Result] = []
    for i, name in enumerate(embeddings):
        mask = cells.mask
        row = functools.partial(
            Result,
            run=run,
            embedding=name,
            task=INFO.name,
            protocol=profile,
            n_used=int(mask.sum()),
            n_missing=int((~mask).sum()),
        )
        matrix = np.asarray(embeddings[name])[mask]
        one = _Cells(
            matrix,
            cells.values["label"][mask],
            cells.values["batch"][mask],
            None if before is None else np.asarray(before)[mask],
        )
        results += _scored(row, one, PROFILES[profile], seed_list, cells.note)
        progress(i + 1, len(embeddings), name)
    return results


_BEFORE = "the embedding from before"


def _scored(
    row: Callable[..., Result], cells: _Cells, profile: Profile, seeds: list[int], left_out: str
) -> list[Result]:
    told = "; ".join(x for x in (_confounded(cells), left_out) if x)
    ours = f"bftembed {__version__}"
    found: list[Result] = []
    values: dict[str, float] = {}
    for metric in (*profile.bio, *profile.batch):
        if metric in (_NMI, _ARI):
            continue
        value, note = _value(functools.partial(_METRICS[metric], cells), ours)
        values[metric] = value
        found.append(row(metric=metric, value=value, note="; ".join(x for x in (note, told) if x)))
    theirs = ", ".join(f"{package} {version}" for package, version in scib.library().items())
    clusters = [
        _value(functools.partial(scib.kmeans_nmi_ari, cells.matrix, cells.labels, seed), theirs) for seed in seeds
    ]
    for i, metric in enumerate((_NMI, _ARI)):
        of_seeds = [(pair[i] if isinstance(pair, tuple) else pair, note) for pair, note in clusters]
        values[metric] = float(np.mean([v for v, _ in of_seeds]))
        found += [
            row(metric=metric, seed=seed, value=value, note="; ".join(x for x in (note, told) if x))
            for seed, (value, note) in zip(seeds, of_seeds, strict=True)
        ]
    return found + _aggregates(row, values, profile)


def _value(compute: Callable[[], Any], library: str) -> tuple[Any, str]:
    """Return a value and what made it, or NaN and why there is none."""
    try:
        return compute(), library
    except Undefined as err:
        return float("nan"), f"undefined: {err}"
    except ValueError as err:
        return float("nan"), f"error: {err}"


def _aggregates(row: Callable[..., Result], values: Mapping[str, float], profile: Profile) -> list[Result]:
    found, means = [], {}
    for name, metrics in ((BIO, profile.bio), (BATCH, profile.batch)):
        held = [m for m in metrics if not np.isnan(values[m])]
        absent = [m for m in metrics if m not in held]
        means[name] = float(np.mean([values[m] for m in held])) if held else float("nan")
        note = f"mean of {', '.join(held)}" if held else "none of its metrics has a value"
        note += f"; without {', '.join(absent)}" if held and absent else ""
        found.append(row(metric=name, value=means[name], note=note))
    total = BIO_WEIGHT * means[BIO] + BATCH_WEIGHT * means[BATCH]
    note = f"{BIO_WEIGHT} {BIO} + {BATCH_WEIGHT} {BATCH}"
    if np.isnan(total):
        note += ": a part has no value"
    return [*found, row(metric=TOTAL, value=total, note=note)]


def _confounded(cells: _Cells) -> str:
    pairs = len({*zip(cells.labels.tolist(), cells.batches.tolist(), strict=True)})
    if pairs == len(set(cells.labels.tolist())) == len(set(cells.batches.tolist())) > 1:
        return "every batch is one label: mixing batches would mix labels, no batch score can be read"
    return ""
