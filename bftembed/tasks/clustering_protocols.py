"""How the clustering task scores one embedding: the light protocol, GenePT's notebook, and the strict one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.metrics.checks import Undefined
from bftembed.metrics.clustering import (
    NOTEBOOK_SEED,
    bootstrap_interval,
    kmeans_labels,
    minibatch_labels,
    partition_scores,
)
from bftembed.metrics.knn import knn_hits
from bftembed.metrics.leiden import RESOLUTIONS, LeidenGraph
from bftembed.metrics.neighbours import nearest_neighbours
from bftembed.metrics.silhouette import silhouette_samples
from bftembed.results import ENDS
from bftembed.tasks.halves import half_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from bftembed.metrics.silhouette import Metric

    #: Scores when each cell counts as often as its whole number says, int64 (n_cells,).
    _OfDrawnCells = Callable[[NDArray[np.int64]], Mapping[str, float]]

ALL, (LOW, HIGH) = "all", ENDS
#: Neighbours, the cell itself included, of the graph that Leiden cuts: those of scanpy and scib.
GRAPH_NEIGHBOURS = 15
#: Draws of halves of the cells, and of seeds, for the intervals of the strict protocol and of the notebook's.
N_DRAWS = 200


@dataclass(frozen=True)
class Score:
    """A value of one metric, or why there is none; `floor` for labels dealt at random to the same cells."""

    metric: str
    value: float
    seed: int | None = None
    split: str = ALL
    note: str = ""
    floor: bool = False


@dataclass(frozen=True)
class Protocol:
    """A way to score one embedding.

    Attributes
    ----------
    score
        Of a matrix (n_cells, d), labels (n_cells,), seeds, and whether to score labels dealt at random too.
    seeded, whole
        Metrics that have a value per seed, and those that have one value.
    seeds
        The seed that is always taken, or None for those that are given.
    floors
        Whether there are floors.
    extra
        The extra it needs, or ``""``.
    """

    score: Callable[[NDArray[Any], NDArray[Any], list[int], bool], list[Score]]
    seeded: tuple[str, ...]
    whole: tuple[str, ...]
    seeds: tuple[int, ...] | None = None
    floors: bool = True
    extra: str = ""

    def failures(self, note: str, seeds: Iterable[int], floors: bool) -> list[Score]:
        """Return a row without a value for every score that there would have been."""
        nan, wanted = float("nan"), list(self.seeds or seeds)
        found = [Score(m, nan, seed=s, note=note) for m in self.seeded for s in wanted]
        found += [Score(m, nan, note=note) for m in self.whole]
        if floors and self.floors:
            found += [Score(m, nan, seed=s, note=note, floor=True) for m in (*self.seeded, *self.whole) for s in wanted]
        return found


def dealt_labels(labels: NDArray[Any], seed: int) -> NDArray[Any]:
    """Return the labels dealt at random to the same cells."""
    # A stream of its own, so that the permutation shares nothing with the k-means starts of the same seed.
    return np.random.default_rng([seed, 1]).permutation(labels)


def _standard(matrix: NDArray[Any], labels: NDArray[Any], seeds: list[int], floors: bool) -> list[Score]:
    k = len(np.unique(labels))
    found: list[Score] = []
    for seed in seeds:
        clusters = kmeans_labels(matrix, k, seed)
        truths = [labels, dealt_labels(labels, seed)][: 2 if floors else 1]
        for truth, floor in zip(truths, (False, True), strict=False):
            scores, note = partition_scores(truth, clusters), _few(clusters, k)
            found += [Score(m, scores[m], seed=seed, note=note, floor=floor) for m in ("ari", "ami")]
        if floors:
            mean = float(silhouette_samples(matrix, truths[1]).mean())
            found.append(Score("silhouette", mean, seed=seed, floor=True))
    return found + _silhouette("silhouette", silhouette_samples(matrix, labels), seeds[0])


def _genept(matrix: NDArray[Any], labels: NDArray[Any], seeds: list[int], floors: bool) -> list[Score]:
    k = len(np.unique(labels))
    clusters = minibatch_labels(matrix, k)
    scores, note = partition_scores(labels, clusters), _few(clusters, k)
    found = [Score(m, scores[m], seed=NOTEBOOK_SEED, note=note) for m in ("ari", "ami")]
    ends = _intervals(len(labels), {NOTEBOOK_SEED: [_of_drawn_cells("", labels, clusters)]})
    found += [end for end in ends if end.metric in ("ari", "ami")]
    return found + _silhouette("silhouette", silhouette_samples(matrix, labels), NOTEBOOK_SEED)


def _strict(matrix: NDArray[Any], labels: NDArray[Any], seeds: list[int], floors: bool) -> list[Score]:
    k = len(np.unique(labels))
    graph = LeidenGraph(nearest_neighbours(matrix, min(GRAPH_NEIGHBOURS, len(matrix))))
    found: list[Score] = []
    of_seed: dict[int, list[_OfDrawnCells]] = {seed: [] for seed in seeds}
    for seed in seeds:
        with_k = {"": kmeans_labels(matrix, k, seed), "leiden_k_": graph.clusters_of_number(k, seed)}
        sweep = [graph.clusters(resolution, seed) for resolution in RESOLUTIONS]
        for floor in (False, True)[: 2 if floors else 1]:
            truth = dealt_labels(labels, seed) if floor else labels
            best, told = _best(truth, sweep)
            for prefix, clusters in {**with_k, "leiden_best_": best}.items():
                note = told if prefix == "leiden_best_" else _not_k(clusters, k) if prefix else _few(clusters, k)
                scores = partition_scores(truth, clusters)
                found += [Score(prefix + m, x, seed=seed, note=note, floor=floor) for m, x in scores.items()]
                if not floor:
                    of_seed[seed].append(_of_drawn_cells(prefix, truth, clusters))
            score, of_drawn = _votes(matrix, truth, seed)
            found.append(replace(score, floor=floor))
            if of_drawn and not floor:
                of_seed[seed].append(of_drawn)
        if floors:
            dealt = dealt_labels(labels, seed)
            for name, distance in _SILHOUETTES.items():
                mean = float(silhouette_samples(matrix, dealt, metric=distance).mean())
                found.append(Score(name, mean, seed=seed, floor=True))
    found += _intervals(len(labels), of_seed)
    for name, distance in _SILHOUETTES.items():
        found += _silhouette(name, silhouette_samples(matrix, labels, metric=distance), seeds[0])
    return found


def _votes(matrix: NDArray[Any], truth: NDArray[Any], seed: int) -> tuple[Score, _OfDrawnCells | None]:
    """Score the vote of the nearest cells; beside it, the same for drawn cells."""
    try:
        hits = knn_hits(matrix, truth, seed)
    except Undefined as err:
        return Score("knn_accuracy", float("nan"), seed=seed, note=f"undefined: {err}"), None
    held = np.flatnonzero(~np.isnan(hits))

    def of_drawn(weights: NDArray[np.int64]) -> dict[str, float]:
        times = weights[held]
        return {"knn_accuracy": float(times @ hits[held] / times.sum()) if times.any() else float("nan")}

    return Score("knn_accuracy", float(hits[held].mean()), seed=seed), of_drawn


def _best(truth: NDArray[Any], sweep: list[NDArray[Any]]) -> tuple[NDArray[Any], str]:
    """Return the clusters with the highest NMI to the labels, and their resolution in words."""
    i = int(np.argmax([partition_scores(truth, clusters)["nmi"] for clusters in sweep]))
    n = int(sweep[i].max()) + 1
    return sweep[i], f"resolution {RESOLUTIONS[i]:g} of {len(RESOLUTIONS)} tried, {n} clusters: chosen by the labels"


def _of_drawn_cells(prefix: str, labels: NDArray[Any], clusters: NDArray[Any]) -> _OfDrawnCells:
    codes = np.unique(labels, return_inverse=True)[1]
    return lambda weights: {prefix + m: x for m, x in partition_scores(codes, clusters, weights).items()}


def _intervals(n_cells: int, of_seed: Mapping[int, list[_OfDrawnCells]]) -> list[Score]:
    """Return the ends of the 95 % intervals of means over seeds, from random halves of the cells and drawn seeds.

    The clusters stay as they are; only which cells count, and which seeds, is drawn. Cells are drawn without
    replacement: one drawn twice would agree with itself, which lifts AMI by .02 among 700 cells.
    """
    seeds = list(of_seed)
    draw = np.random.default_rng([seeds[0], 2])
    every = np.ones(n_cells, dtype=np.int64)
    whole = [_scores(of_seed[seed], every) for seed in seeds]
    means: dict[str, list[float]] = {}
    for _ in range(N_DRAWS):
        half = np.zeros(n_cells, dtype=np.int64)
        half[draw.permutation(n_cells)[: n_cells // 2]] = 1
        values: dict[str, list[float]] = {}
        for i, times in Counter(draw.integers(len(seeds), size=len(seeds)).tolist()).items():
            for metric, value in _scores(of_seed[seeds[i]], half).items():
                values.setdefault(metric, []).extend([value] * times)
        for metric, drawn in values.items():
            means.setdefault(metric, []).append(float(np.mean(drawn)))
    found = []
    for metric, drawn in means.items():
        low, high = half_interval(float(np.mean([scores[metric] for scores in whole])), drawn, low=-1.0)
        if not np.isnan(low):
            found += [Score(metric, low, split=LOW), Score(metric, high, split=HIGH)]
    return found


def _scores(of_drawn: list[_OfDrawnCells], weights: NDArray[np.int64]) -> dict[str, float]:
    return {metric: value for score in of_drawn for metric, value in score(weights).items()}


def _silhouette(name: str, per_cell: NDArray[np.float64], seed: int) -> list[Score]:
    low, high = bootstrap_interval(per_cell, seed)
    return [Score(name, x, split=s) for s, x in ((ALL, float(per_cell.mean())), (LOW, low), (HIGH, high))]


def _few(clusters: NDArray[Any], k: int) -> str:
    n = len(np.unique(clusters))
    return f"only {n} of {k} clusters found: the embedding has too few distinct cells" if n < k else ""


def _not_k(clusters: NDArray[Any], k: int) -> str:
    n = len(np.unique(clusters))
    return f"{n} clusters: no resolution was found that gives {k}" if n != k else ""


_SILHOUETTES: dict[str, Metric] = {"silhouette": "euclidean", "silhouette_cosine": "cosine"}
#: What precedes ari, ami and nmi: k-means, Leiden at k clusters, Leiden at the resolution of the best NMI.
_PARTITIONS = [prefix + metric for prefix in ("", "leiden_k_", "leiden_best_") for metric in ("ari", "ami", "nmi")]

PROTOCOLS = {
    "standard": Protocol(_standard, ("ari", "ami"), ("silhouette",)),
    "genept": Protocol(_genept, ("ari", "ami"), ("silhouette",), seeds=(NOTEBOOK_SEED,), floors=False),
    "strict": Protocol(_strict, (*_PARTITIONS, "knn_accuracy"), tuple(_SILHOUETTES), extra="scib"),
}
