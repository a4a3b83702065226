"""Clustering of cells: agreement of clusters, nearest neighbors and silhouettes with the labels."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bftembed.errors import BftembedError, examples, require, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.metrics.checks import Undefined
from bftembed.metrics.clustering import (
    NOTEBOOK_SEED,
    RESOLUTIONS,
    LeidenGraph,
    kmeans_labels,
    knn_hits,
    minibatch_labels,
    partition_scores,
)
from bftembed.metrics.intervals import bootstrap_interval, half_sample_interval
from bftembed.metrics.neighbors import nearest_neighbors
from bftembed.metrics.silhouette import silhouette_samples
from bftembed.progress import Progress, silent
from bftembed.report.published import clustering_table
from bftembed.tasks.base import Metric, Result, score_table, to_frame
from bftembed.tasks.data import ENCODER, as_matrix, check_labels, listed, place_of, read_cells, valid_cells

if TYPE_CHECKING:
    import os

    import anndata
    import pandas as pd
    from numpy.typing import NDArray

    from bftembed.embeddings import GeneEmbeddings
    from bftembed.report.table import Table
    from bftembed.tasks.baselines import Texts

TASK = "clustering"
_PARTITION = {"ari": "ARI", "ami": "AMI", "nmi": "NMI"}
#: Metrics with a value per cell: matrix (n_cells, d), labels (n_cells,) → float64 (n_cells,). Their mean over cells is
#: the score, its bootstrap over cells the interval. `strict` has all, the other protocols the first.
PER_CELL: dict[Metric, Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]] = {
    Metric("silhouette", "Euclidean", "silhouette", limits=None): silhouette_samples,
    Metric("silhouette_cosine", "cosine", "silhouette", limits=None): functools.partial(
        silhouette_samples, metric="cosine"
    ),
}
METRICS = (
    *(Metric(m, title, "k-means") for m, title in _PARTITION.items()),
    *(Metric(f"leiden_k_{m}", title, "Leiden (k)") for m, title in _PARTITION.items()),
    # At the resolution of ten whose NMI to the labels is highest: a choice by the labels, which flatters.
    *(Metric(f"leiden_best_{m}", title, "Leiden (best)", concludes=False) for m, title in _PARTITION.items()),
    *PER_CELL,
    Metric("knn_accuracy", "accuracy", "kNN"),
)
DEFAULT_SEEDS = (0, 1, 2, 3, 4)
#: Neighbors, the cell itself included, of the graph of Leiden: those of scanpy and scib.
N_NEIGHBORS = 15
#: Half-samples of the cells, and draws of the seeds, for the intervals of the protocols strict and genept.
N_HALVES = 200


def clustering(
    data: anndata.AnnData | str | os.PathLike[str],
    keys: str | Iterable[str],
    label: str,
    *,
    protocol: str | Iterable[str] = "strict",
    baselines: str | Iterable[str] = (),
    texts: Texts | None = None,
    genes: GeneEmbeddings | str | os.PathLike[str] | None = None,
    encoder: str = ENCODER,
    layer: str | None = None,
    use_raw: bool = False,
    seeds: int | Iterable[int] = 5,
    out: str | os.PathLike[str] | None = None,
    run: str | None = None,
    permuted: bool = True,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Score cell embeddings by how well clusters and nearest neighbors agree with the labels.

    Parameters
    ----------
    data
        AnnData, or path of a h5ad or zarr store. The expression is read for baselines only.
    keys
        Embeddings in ``.obsm``, separated by commas.
    label
        Column of ``.obs`` with the labels: text, categories, or at most 100 distinct integers.
    protocol
        ``strict`` (extra ``scib``), ``genept``, ``standard``, or several separated by commas; see `score`.
    baselines
        Baselines made in the run, separated by commas: ``pca`` of the expression; ``random``, ``shuffled``, ``tfidf``,
        ``symbol`` and ``ncbi`` of gene vectors, aggregated as the first of `keys` was. ``random:5`` are five draws.
    texts
        Texts of the baseline ``tfidf``: profile store, Parquet, TSV of gene and text, or ``dataset:NAME``.
    genes
        Gene embeddings of the baseline ``shuffled``.
    encoder
        Encoder of the baselines ``ncbi`` and ``symbol``.
    layer
        Layer with the expression; default ``.X``.
    use_raw
        Take the expression of ``.raw``.
    seeds
        Number of seeds (0, 1, …), or the seeds themselves.
    out
        Results table to write (Parquet).

    Other Parameters
    ----------------
    run
        Name of the run in the table; default the name of the file and the label.
    permuted
        Score the same embeddings against permuted labels as well, the level of chance.
    progress
        Progress callback, called once per embedding.

    Returns
    -------
    pandas.DataFrame
        The results table (`bftembed.tasks.base`). Cells without a label or vector are left out of all embeddings and
        counted. An embedding that cannot be scored has NaN rows with the reason.

    Raises
    ------
    BftembedError
        For unknown names, labels of one class or continuous ones, baselines without what they need, embeddings that are
        not numeric (n_cells, d), and a file that cannot be read.
    MissingExtraError
        For ``strict`` without the extra ``scib``.
    """
    wanted, made, protocols = listed(keys), listed(baselines), listed(protocol)
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not wanted and not made:
        raise BftembedError("No embedding was named: give at least one key of .obsm, or baselines.")
    if not seed_list or not protocols:
        raise BftembedError("At least one seed and one protocol are needed.")
    for name in protocols:
        check_protocol(name)
    refuse_input_as_output(out, data, texts, genes)
    source = None
    if made:
        from bftembed.tasks.baselines import CellBaselines, parse_baselines  # imports numba, half of the start

        source = CellBaselines(data, parse_baselines(made), layer=layer, use_raw=use_raw)
    columns, embeddings, stem = read_cells(data, wanted, [label])
    check_labels(columns[label], label, place_of(data))
    compared = {}
    if source is not None:
        found = source.of_expression() + source.of_genes(wanted, texts=texts, genes=genes, encoder=encoder)
        compared = {b.name: (b.vectors, b.kind, b.note) for b in found}
    results = []
    for i, name in enumerate(protocols):
        results += score(
            embeddings,
            columns[label],
            run=run or f"{stem}/{label}",
            protocol=name,
            seeds=seed_list,
            permuted=permuted,
            compared=compared,
            progress=lambda done, total, note, i=i: progress(done + i * total, len(protocols) * total, note),  # type: ignore[misc]
        )
    return to_frame(results, out)


def score(
    embeddings: Mapping[str, NDArray[Any]],
    labels: Sequence[object] | NDArray[Any],
    *,
    run: str,
    protocol: str = "standard",
    seeds: Iterable[int] = DEFAULT_SEEDS,
    permuted: bool = True,
    compared: Mapping[str, tuple[NDArray[Any], str, str]] | None = None,
    progress: Progress = silent,
) -> list[Result]:
    """Score embeddings of the same cells by clustering.

    Protocols, each with k = number of labels:

    - ``standard``: k-means (10 starts) for each seed, ARI and AMI against the labels; the mean raw silhouette of the
      true labels with its 95 % bootstrap interval over cells.
    - ``strict`` (extra ``scib``): the same k-means with NMI too; Leiden on the graph of 15 neighbors, at the resolution
      that gives k clusters (``leiden_k_ari``, …) and at that of ten whose NMI to the labels is highest
      (``leiden_best_ari``, …: optimistic); raw silhouettes, Euclidean and cosine; the accuracy of the 10 nearest
      cells on a held-out fifth (``knn_accuracy``). Intervals are over cells and seeds: 200 random halves of the cells
      and draws of the seeds (delete-half jackknife), the clusters stay.
    - ``genept``: mini-batch k-means as in GenePT's notebook, with its one seed; ARI, AMI and raw silhouette, with
      intervals over cells.

    Parameters
    ----------
    embeddings
        Name → array of shape ``(n_cells, d)``; d may differ, the cells and their order may not.
    labels
        One label per cell, shape ``(n_cells,)``. None, NaN, ``""`` and ``"nan"`` are missing.
    seeds
        Seeds of k-means, Leiden, the held-out cells, the permutations, and (the first) of the bootstrap.
    compared
        Name → embedding, kind and note of what is shown for comparison.
    run, protocol, permuted, progress
        As in `clustering`; one protocol of the above.

    Returns
    -------
    list of Result
        A cell without a label, or with NaN, infinity or only zeros in an embedding, is left out of all embeddings, so
        that all are scored on the same cells. An embedding that leaves no two labels by itself fails alone.

    Raises
    ------
    BftembedError
        When there is no embedding or seed, the protocol is not known, or the numbers of rows and labels differ.
    """
    chosen = check_protocol(protocol)
    seed_list = list(dict.fromkeys(int(s) for s in seeds))
    given = {name: (matrix, "subject", "") for name, matrix in embeddings.items()} | dict(compared or {})
    if not given or not seed_list:
        raise BftembedError("The clustering task needs at least one embedding and one seed.")
    names = np.asarray(list(labels), dtype=object)
    matrices = {name: as_matrix(name, matrix, len(names)) for name, (matrix, _, _) in given.items()}
    cells = valid_cells(matrices, {"label": names}, lambda mask: not _too_few(names[mask]))
    results: list[Result] = []
    for i, (name, (_, kind, made_of)) in enumerate(given.items()):
        mask = cells.alone.get(name, cells.mask)
        row = functools.partial(Result, run, name, TASK, protocol, n=int(mask.sum()), n_missing=int((~mask).sum()))
        if reason := _too_few(names[mask]):
            results += [row(metric=metric, kind=kind, reason="too-few", note=reason) for metric in chosen.metrics]
        else:
            for s in chosen.score(matrices[name][mask], cells.labels["label"][mask], seed_list, permuted):
                notes = filter(None, (s.note, "" if s.permuted else made_of))
                of_kind = functools.partial(row, kind="chance" if s.permuted else kind, note="; ".join(notes))
                results.append(of_kind(s.metric, seed=s.seed, value=s.value, low=s.low, high=s.high, reason=s.reason))
        progress(i + 1, len(given), name)
    return results


def check_protocol(name: str) -> Protocol:
    """Return a protocol, or raise when it is not known or what it needs is not installed."""
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    if PROTOCOLS[name].extra:
        require("igraph", PROTOCOLS[name].extra)
    return PROTOCOLS[name]


def _too_few(labels: NDArray[Any]) -> str:
    """Return why these labels cannot be scored, or ``""``."""
    classes = set(labels.astype(str))
    if len(labels) == 0:
        return "no cell has both a label and a vector"
    if len(classes) == 1:
        return f"all {len(labels)} valid cells have one label ({examples(classes)}); two are needed"
    return "each valid cell has a label of its own" if len(classes) == len(labels) else ""


class _Score(NamedTuple):
    """A value of one metric; without a seed, that over all seeds."""

    metric: str
    value: float
    seed: int | None = None
    low: float = math.nan
    high: float = math.nan
    note: str = ""
    reason: str = ""
    permuted: bool = False


class Protocol(NamedTuple):
    """How one embedding is scored: matrix (n_cells, d), labels (n_cells,), seeds, whether to permute labels too."""

    score: Callable[[NDArray[Any], NDArray[Any], list[int], bool], list[_Score]]
    metrics: tuple[str, ...]
    extra: str = ""


def permuted_labels(labels: NDArray[Any], seed: int) -> NDArray[Any]:
    """Return the labels permuted over the same cells."""
    # A stream of its own, so that the permutation shares nothing with the k-means starts of the same seed.
    return np.random.default_rng([seed, 1]).permutation(labels)


def _standard(matrix: NDArray[Any], labels: NDArray[Any], seeds: list[int], permuted: bool) -> list[_Score]:
    k = len(np.unique(labels))
    found: list[_Score] = []
    for seed in seeds:
        clusters = kmeans_labels(matrix, k, seed)
        for chance in (False, True)[: 1 + permuted]:
            truth = permuted_labels(labels, seed) if chance else labels
            scores = partition_scores(truth, clusters)
            found += [_Score(m, scores[m], seed, note=_few(clusters, k), permuted=chance) for m in ("ari", "ami")]
        if permuted:
            mean = float(silhouette_samples(matrix, permuted_labels(labels, seed)).mean())
            found.append(_Score("silhouette", mean, seed, permuted=True))
    return [*found, _per_cell("silhouette", silhouette_samples(matrix, labels), seeds[0])]


def _genept(matrix: NDArray[Any], labels: NDArray[Any], seeds: list[int], permuted: bool) -> list[_Score]:
    k = len(np.unique(labels))
    clusters = minibatch_labels(matrix, k)
    scores = partition_scores(labels, clusters)
    found = [_Score(m, scores[m], NOTEBOOK_SEED, note=_few(clusters, k)) for m in ("ari", "ami")]
    found = _with_intervals(found, len(labels), {NOTEBOOK_SEED: [_of_weights("", labels, clusters)]})
    return [*found, _per_cell("silhouette", silhouette_samples(matrix, labels), NOTEBOOK_SEED)]


def _strict(matrix: NDArray[Any], labels: NDArray[Any], seeds: list[int], permuted: bool) -> list[_Score]:
    k = len(np.unique(labels))
    graph = LeidenGraph(nearest_neighbors(matrix, min(N_NEIGHBORS, len(matrix))))
    found: list[_Score] = []
    of_seed: dict[int, list[_OfWeights]] = {seed: [] for seed in seeds}
    for seed in seeds:
        with_k = {"": kmeans_labels(matrix, k, seed), "leiden_k_": graph.clusters_of_number(k, seed)}
        sweep = [graph.clusters(resolution, seed) for resolution in RESOLUTIONS]
        for chance in (False, True)[: 1 + permuted]:
            truth = permuted_labels(labels, seed) if chance else labels
            best, chosen = _best(truth, sweep)
            for prefix, clusters in {**with_k, "leiden_best_": best}.items():
                note = chosen if prefix == "leiden_best_" else _few(clusters, k)
                scores = partition_scores(truth, clusters)
                found += [_Score(prefix + m, x, seed, note=note, permuted=chance) for m, x in scores.items()]
                if not chance:
                    of_seed[seed].append(_of_weights(prefix, truth, clusters))
            vote, of_weights = _votes(matrix, truth, seed)
            found.append(vote._replace(permuted=chance))
            if of_weights and not chance:
                of_seed[seed].append(of_weights)
        if permuted:
            shuffled = permuted_labels(labels, seed)
            for metric, of_cells in PER_CELL.items():
                found.append(_Score(metric.name, float(of_cells(matrix, shuffled).mean()), seed, permuted=True))
    found = _with_intervals(found, len(labels), of_seed)
    return found + [_per_cell(metric.name, of_cells(matrix, labels), seeds[0]) for metric, of_cells in PER_CELL.items()]


#: Scores when each cell counts as often as its weight says, int64 (n_cells,).
_OfWeights = Callable[["NDArray[np.int64]"], Mapping[str, float]]


def _votes(matrix: NDArray[Any], truth: NDArray[Any], seed: int) -> tuple[_Score, _OfWeights | None]:
    """Return the accuracy of the vote of the nearest cells, and the same for weighted cells."""
    try:
        hits = knn_hits(matrix, truth, seed)
    except Undefined as err:
        return _Score("knn_accuracy", math.nan, seed, note=str(err), reason="undefined"), None
    held = np.flatnonzero(~np.isnan(hits))

    def of_weights(weights: NDArray[np.int64]) -> dict[str, float]:
        times = weights[held]
        return {"knn_accuracy": float(times @ hits[held] / times.sum()) if times.any() else math.nan}

    return _Score("knn_accuracy", float(hits[held].mean()), seed), of_weights


def _best(truth: NDArray[Any], sweep: list[NDArray[Any]]) -> tuple[NDArray[Any], str]:
    """Return the clusters with the highest NMI to the labels, and their resolution."""
    i = int(np.argmax([partition_scores(truth, clusters)["nmi"] for clusters in sweep]))
    return sweep[i], f"resolution {RESOLUTIONS[i]:g} of {len(RESOLUTIONS)}, {int(sweep[i].max()) + 1} clusters"


def _of_weights(prefix: str, labels: NDArray[Any], clusters: NDArray[Any]) -> _OfWeights:
    codes = np.unique(labels, return_inverse=True)[1]
    return lambda weights: {prefix + m: x for m, x in partition_scores(codes, clusters, weights).items()}


def _with_intervals(scores: list[_Score], n_cells: int, of_seed: Mapping[int, list[_OfWeights]]) -> list[_Score]:
    """Return the scores, and the mean over seeds of each with its interval from halves of the cells and drawn seeds.

    The clusters stay as they are; only which cells count, and which seeds, is drawn. Cells are drawn without
    replacement: one drawn twice would agree with itself, which lifts AMI by .02 among 700 cells.
    """
    seeds = list(of_seed)
    draw = np.random.default_rng([seeds[0], 2])
    means: dict[str, list[float]] = {}
    for _ in range(N_HALVES):
        half = np.zeros(n_cells, dtype=np.int64)
        half[draw.permutation(n_cells)[: n_cells // 2]] = 1
        values: dict[str, list[float]] = {}
        for i, times in Counter(draw.integers(len(seeds), size=len(seeds)).tolist()).items():
            for of_weights in of_seed[seeds[i]]:
                for metric, value in of_weights(half).items():
                    values.setdefault(metric, []).extend([value] * times)
        for metric, drawn in values.items():
            means.setdefault(metric, []).append(float(np.mean(drawn)))
    found = list(scores)
    for metric, drawn in means.items():
        own = [s for s in scores if s.metric == metric and not s.permuted]
        if not own:  # NMI is not a metric of the notebook
            continue
        value = float(np.mean([s.value for s in own if not np.isnan(s.value)]))
        low, high = half_sample_interval(value, drawn, low=-1.0)
        found.append(_Score(metric, value, None, low, high, own[0].note if len({s.note for s in own}) == 1 else ""))
    return found


def _per_cell(name: str, per_cell: NDArray[np.float64], seed: int) -> _Score:
    low, high = bootstrap_interval(per_cell, seed)
    return _Score(name, float(per_cell.mean()), None, low, high)


def _few(clusters: NDArray[Any], k: int) -> str:
    n = len(np.unique(clusters))
    return f"{n} clusters instead of {k}" if n != k else ""


PROTOCOLS = {
    "strict": Protocol(_strict, tuple(m.name for m in METRICS), extra="scib"),
    "genept": Protocol(_genept, ("ari", "ami", "silhouette")),
    "standard": Protocol(_standard, ("ari", "ami", "silhouette")),
}
_INTERVALS = {
    "strict": "Intervals: 95 %, over cells and seeds. Leiden (best): the resolution is chosen by the labels, which "
    "flatters every embedding.",
    "genept": "Intervals: 95 %, over cells; one seed, as in GenePT's notebook.",
    "standard": "Intervals: 95 %; of ARI and AMI over seeds (Student's t), of the silhouette over cells.",
}


def tables(frame: pd.DataFrame) -> list[Table]:
    """Return a table per run and protocol from the rows of this task, and the paper's table 5 below ``genept``."""
    found: list[Table] = []
    for (run, protocol), rows in frame.groupby(["run", "protocol"], sort=False):
        notes = [_INTERVALS[protocol]] if protocol in _INTERVALS else []
        title = f"{run} · clustering, protocol {protocol}"
        found.append(score_table(rows, METRICS, title=title, sort_by="ari", footnotes=notes))
        if protocol == "genept":
            found.append(clustering_table())
    return found
