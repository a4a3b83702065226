"""Clustering of cells: agreement of clusters, nearest neighbors and silhouettes with the labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.errors import BftembedError, examples, require, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.metrics.clustering import (
    NOTEBOOK_SEED,
    RESOLUTIONS,
    LeidenGraph,
    Undefined,
    kmeans_labels,
    knn_hits,
    minibatch_labels,
    nearest_neighbors,
    partition_scores,
    silhouette_samples,
)
from bftembed.metrics.intervals import bootstrap_interval, half_sample_interval
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
_PER_CELL: dict[Metric, Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]]] = {
    Metric("silhouette", "Euclidean", "silhouette", limits=None): silhouette_samples,
    Metric("silhouette_cosine", "cosine", "silhouette", limits=None): partial(silhouette_samples, metric="cosine"),
}
METRICS = (
    *(Metric(m, title, "k-means") for m, title in _PARTITION.items()),
    *(Metric(f"leiden_k_{m}", title, "Leiden (k)") for m, title in _PARTITION.items()),
    # At the resolution of ten whose NMI to the labels is highest: a choice by the labels, which flatters.
    *(Metric(f"leiden_best_{m}", title, "Leiden (best)", concludes=False) for m, title in _PARTITION.items()),
    *_PER_CELL,
    Metric("knn_accuracy", "accuracy", "kNN"),
)
#: Neighbors, the cell itself included, of the graph of Leiden: those of scanpy and scib.
_N_NEIGHBORS = 15
#: Half-samples of the cells, and draws of the seeds, for the intervals of the protocols strict and genept.
_N_HALVES = 200


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
        not numeric (n_cells, d), a file that cannot be read, and ``strict`` without the extra ``scib``.
    """
    wanted, made, protocols = listed(keys), listed(baselines), listed(protocol)
    options: dict[str, Any] = {"seeds": list(range(seeds) if isinstance(seeds, int) else seeds), "permuted": permuted}
    if not (wanted or made) or not options["seeds"] or not protocols:
        raise BftembedError("Give at least one key of .obsm or baseline, one seed, and one protocol.")
    for name in protocols:
        _check_protocol(name)
    refuse_input_as_output(out, data, texts, genes)
    source = None
    if made:
        from bftembed.tasks.baselines import CellBaselines, parse_baselines  # imports numba, half of the start

        source = CellBaselines(data, parse_baselines(made), layer=layer, use_raw=use_raw)
    columns, embeddings, stem = read_cells(data, wanted, [label])
    check_labels(columns[label], label, place_of(data))
    if source is not None:
        found = source.of_expression() + source.of_genes(wanted, texts=texts, genes=genes, encoder=encoder)
        options["compared"] = {b.name: (b.vectors, b.kind, b.note) for b in found}
    results, n = [], len(protocols)
    for i, name in enumerate(protocols):
        options["progress"] = lambda done, total, note, i=i: progress(done + i * total, n * total, note)
        results += score(embeddings, columns[label], run=run or f"{stem}/{label}", protocol=name, **options)
    return to_frame(results, out)


def score(
    embeddings: Mapping[str, NDArray[Any]],
    labels: Sequence[object] | NDArray[Any],
    *,
    run: str,
    protocol: str = "standard",
    seeds: Iterable[int] = range(5),
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
        A cell without a label, or with NaN, infinity or only zeros in an embedding, is left out of all embeddings. An
        embedding that leaves no two labels by itself fails alone.

    Raises
    ------
    BftembedError
        When there is no embedding or seed, the protocol is not known, or the numbers of rows and labels differ.
    """
    _check_protocol(protocol)
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
        row = partial(Result, run, name, TASK, protocol, kind=kind, n=int(mask.sum()), n_missing=int((~mask).sum()))
        if reason := _too_few(names[mask]):
            results += [row(metric, reason="too-few", note=reason) for metric in PROTOCOLS[protocol]]
        else:
            found = _scores(row, protocol, matrices[name][mask], cells.labels["label"][mask], seed_list, permuted)
            notes = ("; ".join(filter(None, (r.note, made_of if r.kind != "chance" else ""))) for r in found)
            results += [replace(r, note=note) for r, note in zip(found, notes, strict=True)]
        progress(i + 1, len(given), name)
    return results


def _check_protocol(name: str) -> None:
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    if name == "strict":
        require("igraph", "scib")


def _too_few(labels: NDArray[Any]) -> str:
    """Return why these labels cannot be scored, or ``""``."""
    classes = set(labels.astype(str))
    if len(labels) == 0:
        return "no cell has both a label and a vector"
    if len(classes) == 1:
        return f"all {len(labels)} valid cells have one label ({examples(classes)}); two are needed"
    return "each valid cell has a label of its own" if len(classes) == len(labels) else ""


def _permute(labels: NDArray[Any], seed: int) -> NDArray[Any]:
    # A stream of its own, so that the permutation shares nothing with the k-means starts of the same seed.
    return np.random.default_rng([seed, 1]).permutation(labels)


#: Metric → score on some of the cells, int64 positions.
_OnCells = Callable[["NDArray[np.int64]"], Mapping[str, float]]


def _scores(
    row: Callable[..., Result],
    protocol: str,
    matrix: NDArray[Any],
    labels: NDArray[Any],
    seeds: list[int],
    permuted: bool,
) -> list[Result]:
    """Return the rows of an embedding, (n_cells, d), of each seed and over all of them."""
    strict, genept, k = protocol == "strict", protocol == "genept", len(np.unique(labels))
    seeds, permuted = ([NOTEBOOK_SEED], False) if genept else (seeds, permuted)
    per_cell = {m.name: of_cells for m, of_cells in _PER_CELL.items() if m.name in PROTOCOLS[protocol]}
    graph = LeidenGraph(nearest_neighbors(matrix, min(_N_NEIGHBORS, len(matrix)))) if strict else None
    found: list[Result] = []
    of_seed: dict[int, list[_OnCells]] = {seed: [] for seed in seeds}
    for seed in seeds:
        fixed = {"": minibatch_labels(matrix, k) if genept else kmeans_labels(matrix, k, seed)}
        sweep = []
        if graph is not None:
            fixed["leiden_k_"] = graph.clusters_of_number(k, seed)
            sweep = [graph.clusters(resolution, seed) for resolution in RESOLUTIONS]
        for chance in (False, True)[: 1 + permuted]:
            truth = _permute(labels, seed) if chance else labels
            of_kind = partial(row, seed=seed, kind="chance") if chance else partial(row, seed=seed)
            made = {prefix: (clusters, _few(clusters, k)) for prefix, clusters in fixed.items()}
            for prefix, (clusters, note) in (made | ({"leiden_best_": _best(truth, sweep)} if sweep else {})).items():
                on_cells = _partition(prefix, truth, clusters)
                scores = on_cells(np.arange(len(truth)))
                found += [of_kind(m, value=x, note=note) for m, x in scores.items() if m in PROTOCOLS[protocol]]
                of_seed[seed] += [] if chance else [on_cells]
            if strict:
                try:
                    hits = knn_hits(matrix, truth, seed)
                    found.append(of_kind("knn_accuracy", value=float(np.nanmean(hits))))
                    of_seed[seed] += [] if chance else [partial(_votes, hits)]
                except Undefined as err:
                    found.append(of_kind("knn_accuracy", note=str(err), reason="undefined"))
        if permuted:
            means = {m: float(of_cells(matrix, _permute(labels, seed)).mean()) for m, of_cells in per_cell.items()}
            found += [row(m, seed=seed, value=x, kind="chance") for m, x in means.items()]
    if protocol != "standard":
        found += _over_halves(row, found, len(labels), of_seed)
    for metric, of_cells in per_cell.items():
        samples = of_cells(matrix, labels)
        low, high = bootstrap_interval(samples, seeds[0])
        found.append(row(metric, value=float(samples.mean()), low=low, high=high))
    return found


def _partition(prefix: str, labels: NDArray[Any], clusters: NDArray[Any]) -> _OnCells:
    codes = np.unique(labels, return_inverse=True)[1]
    return lambda cells: {prefix + m: x for m, x in partition_scores(codes[cells], clusters[cells]).items()}


def _votes(hits: NDArray[np.float64], cells: NDArray[np.int64]) -> dict[str, float]:
    held = hits[cells][~np.isnan(hits[cells])]
    return {"knn_accuracy": float(held.mean()) if len(held) else math.nan}


def _best(truth: NDArray[Any], sweep: list[NDArray[Any]]) -> tuple[NDArray[Any], str]:
    """Return the clusters with the highest NMI to the labels, and their resolution."""
    i = int(np.argmax([partition_scores(truth, clusters)["nmi"] for clusters in sweep]))
    return sweep[i], f"resolution {RESOLUTIONS[i]:g} of {len(RESOLUTIONS)}, {int(sweep[i].max()) + 1} clusters"


def _few(clusters: NDArray[Any], k: int) -> str:
    n = len(np.unique(clusters))
    return f"{n} clusters instead of {k}" if n != k else ""


def _over_halves(
    row: Callable[..., Result], scores: list[Result], n_cells: int, of_seed: Mapping[int, list[_OnCells]]
) -> list[Result]:
    """Return the mean over seeds of each score, with its interval from halves of the cells and drawn seeds.

    The clusters stay as they are; only which cells count, and which seeds, is drawn. Cells are drawn without
    replacement: one drawn twice would agree with itself, which lifts AMI by .02 among 700 cells.
    """
    seeds = list(of_seed)
    draw = np.random.default_rng([seeds[0], 2])
    means: dict[str, list[float]] = {}
    for _ in range(_N_HALVES):
        half = draw.permutation(n_cells)[: n_cells // 2]
        values: dict[str, list[float]] = {}
        for i, times in Counter(draw.integers(len(seeds), size=len(seeds)).tolist()).items():
            for on_cells in of_seed[seeds[i]]:
                for metric, value in on_cells(half).items():
                    values.setdefault(metric, []).extend([value] * times)
        for metric, drawn in values.items():
            means.setdefault(metric, []).append(float(np.mean(drawn)))
    found = []
    for metric, drawn in means.items():
        own = [r for r in scores if r.metric == metric and r.kind != "chance"]
        if own:  # NMI is not a metric of the notebook
            value = float(np.nanmean([r.value for r in own]))
            low, high = half_sample_interval(value, drawn, low=-1.0)
            note = own[0].note if len({r.note for r in own}) == 1 else ""
            found.append(row(metric, value=value, low=low, high=high, note=note))
    return found


#: Protocol → its metrics.
PROTOCOLS = {
    "strict": tuple(m.name for m in METRICS),
    "genept": ("ari", "ami", "silhouette"),
    "standard": ("ari", "ami", "silhouette"),
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
