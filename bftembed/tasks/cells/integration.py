"""Integration of batches: the scIB metrics of conserved biology and corrected batches."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bftembed.errors import BftembedError, require, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.machine import available_memory
from bftembed.metrics import integration as scib
from bftembed.metrics.clustering import EXACT_UP_TO, Neighbors, Undefined, nearest_neighbors, silhouette_samples
from bftembed.metrics.intervals import half_sample_interval, half_samples, t_interval
from bftembed.progress import Progress, silent
from bftembed.report.published import integration_table
from bftembed.tasks.base import Metric, Result, score_table, to_frame
from bftembed.tasks.baselines import OF_COMPONENTS, CellBaselines, parse_baselines
from bftembed.tasks.data import (
    ENCODER,
    as_matrix,
    check_groups,
    check_labels,
    listed,
    place_of,
    read_cells,
    valid_cells,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import anndata
    import pandas as pd
    from numpy.typing import NDArray

    from bftembed.embeddings import GeneEmbeddings
    from bftembed.report.table import Table
    from bftembed.tasks.baselines import Texts

TASK = "integration"
TOTAL, BIO, BATCH = AGGREGATES = ("total", "bio_conservation", "batch_correction")
BIO_WEIGHT, BATCH_WEIGHT = 0.6, 0.4
#: By k-means, once per seed.
NMI, ARI = SEEDED = ("nmi_ari_cluster_labels_kmeans_nmi", "nmi_ari_cluster_labels_kmeans_ari")
_BIO = {
    "isolated_labels": "Isolated labels",
    NMI: "KMeans NMI",
    ARI: "KMeans ARI",
    "silhouette_label": "Silhouette label",
    "clisi_knn": "cLISI",
}
_BATCH = {
    "bras": "BRAS",
    "silhouette_batch": "Silhouette batch",
    "ilisi_knn": "iLISI",
    "kbet_per_label": "KBET",
    "graph_connectivity": "Graph connectivity",
    "pcr_comparison": "PCR comparison",
}
#: Conclusions are drawn from the aggregates alone: with ten single metrics some would differ by chance.
METRICS = (
    *(Metric(m, m.replace("_", " ").capitalize(), "Aggregate") for m in AGGREGATES),
    *(Metric(m, title, "Bio conservation", concludes=False) for m, title in _BIO.items()),
    *(Metric(m, title, "Batch correction", concludes=False) for m, title in _BATCH.items()),
)
#: Nearest neighbors, the cell itself included, of LISI, kBET and graph connectivity.
_LISI_NEIGHBORS, _KBET_NEIGHBORS, _GRAPH_NEIGHBORS = 90, 50, 15


def integration(
    data: anndata.AnnData | str | os.PathLike[str],
    keys: str | Iterable[str],
    label: str,
    batch: str,
    *,
    profile: str = "current",
    baselines: str | Iterable[str] = (),
    texts: Texts | None = None,
    genes: GeneEmbeddings | str | os.PathLike[str] | None = None,
    encoder: str = ENCODER,
    before: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    seeds: int | Iterable[int] = 5,
    halves: int = 0,
    out: str | os.PathLike[str] | None = None,
    run: str | None = None,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Score cell embeddings by the scIB metrics: conserved biology and corrected batches.

    Parameters
    ----------
    data
        AnnData, or path of a h5ad or zarr store. The expression is read for baselines and the PCR comparison only.
    keys
        Embeddings in ``.obsm``, separated by commas.
    label
        Column of ``.obs`` with the cell types.
    batch
        Column of ``.obs`` with the batches.
    profile
        Set of metrics: ``current`` (scib-metrics today), or ``paper`` (as in table 2 of the BFT paper).
    baselines
        Baselines made in the run, separated by commas: ``pca``, ``harmony`` and ``bbknn`` of the expression;
        ``random``, ``shuffled``, ``tfidf`` and ``ncbi`` of gene vectors, aggregated as the first of `keys` was.
        ``random:5`` are five draws.
    texts
        Texts of the baseline ``tfidf``: profile store, Parquet, TSV of gene and text, or ``dataset:NAME``.
    genes
        Gene embeddings of the baseline ``shuffled``.
    encoder
        Encoder of the baseline ``ncbi``.
    before
        Embedding before the integration in ``.obsm``, for the PCR comparison; default the principal components of the
        expression, where the data hold it.
    layer
        Layer with the expression; default ``.X``. Counts are log-normalized (log1p of counts per 10,000).
    use_raw
        Take the expression of ``.raw``.
    seeds
        Number of seeds of k-means (0, 1, …), or the seeds themselves.
    halves
        Number of random halves of the cells for 95 % intervals of all metrics: 0 for none, else at least 3. 10 take
        about three times as long.
    out
        Results table to write (Parquet).

    Other Parameters
    ----------------
    run
        Name of the run in the table; default the names of the file, the label and the batch.
    progress
        Progress callback, called once per embedding.

    Returns
    -------
    pandas.DataFrame
        The results table (`bftembed.tasks.base`); see `score`.

    Raises
    ------
    BftembedError
        For unknown names, labels of one class or continuous ones, baselines without what they need, cells that do not
        fit into memory, a file that cannot be read, or a missing extra ``scib``.
    """
    wanted, made = listed(keys), parse_baselines(baselines)
    check_profile(profile)
    if not wanted and not made:
        raise BftembedError("No embedding was named: give at least one key of .obsm, or baselines.")
    refuse_input_as_output(out, data, texts, genes)
    columns, matrices, stem = read_cells(data, listed([*wanted, before or ""]), [label, batch])
    check_memory([matrix.shape for matrix in matrices.values()])
    check_labels(columns[label], label, place_of(data))
    check_groups(columns[batch], batch, place_of(data))
    require("scib_metrics.utils", "scib")  # before minutes of baselines
    source = CellBaselines(data, made, layer=layer, use_raw=use_raw, batches=columns[batch])
    compared = source.of_expression() + source.of_genes(wanted, texts=texts, genes=genes, encoder=encoder)
    try:
        pre, note = (matrices[before], f"obsm[{before!r}]") if before else source.components
    except BftembedError as err:
        if layer or use_raw or any(name in OF_COMPONENTS for name in made):
            raise
        pre, note = None, f"no embedding before the integration: {err}"
    results = score(
        {key: matrices[key] for key in wanted},
        columns[label],
        columns[batch],
        run=run or f"{stem}/{label}/{batch}",
        before=pre,
        before_note=note,
        profile=profile,
        seeds=range(seeds) if isinstance(seeds, int) else seeds,
        halves=halves,
        compared={b.name: (b.vectors, b.kind, b.note) for b in compared},
        progress=progress,
    )
    return to_frame(results, out)


def score(
    embeddings: Mapping[str, NDArray[Any]],
    labels: Sequence[object] | NDArray[Any],
    batches: Sequence[object] | NDArray[Any],
    *,
    run: str,
    before: NDArray[Any] | None = None,
    before_note: str = "",
    profile: str = "current",
    seeds: Iterable[int] = range(5),
    halves: int = 0,
    compared: Mapping[str, tuple[NDArray[Any], str, str]] | None = None,
    progress: Progress = silent,
) -> list[Result]:
    """Score embeddings of the same cells by the metrics of scIB (Luecken et al. 2022).

    Parameters
    ----------
    embeddings
        Name → array of shape ``(n_cells, d)``; d may differ, the cells and their order may not.
    labels, batches
        Cell type and batch of each cell, shape ``(n_cells,)``. None, NaN, ``""`` and ``"nan"`` are missing.
    before, before_note
        Embedding before the integration, ``(n_cells, e)``, for the PCR comparison; what it is, or why there is none.
    compared
        Name → embedding, kind and note of what is shown for comparison.
    run, profile, seeds, halves, progress
        As in `integration`. Each half (delete-half jackknife) takes the next seed of k-means.

    Returns
    -------
    list of Result
        The metrics of the profile, in [0, 1] but for ARI, and their aggregates: ``bio_conservation`` and
        ``batch_correction``, means of the metrics that have a value, and ``total``, 0.6 of the first and 0.4 of the
        second. Cells without a label, batch or vector are left out of all embeddings; an embedding that leaves no cell
        fails alone, with a reason in its rows.

    Raises
    ------
    BftembedError
        For no embedding or seed, 1 or 2 halves, other numbers of cells, too little memory, or a missing extra ``scib``.
    """
    chosen = check_profile(profile)
    seed_list = list(dict.fromkeys(int(s) for s in seeds))
    given = {name: (matrix, "subject", "") for name, matrix in embeddings.items()} | dict(compared or {})
    if not given or not seed_list:
        raise BftembedError("The integration task needs at least one embedding and one seed.")
    if halves < 0 or halves in (1, 2):
        raise BftembedError(f"halves = {halves}: give 0 for no interval, or at least 3; 10 is usual.")
    check_memory([np.shape(matrix) for matrix, _, _ in given.values()])
    require("scib_metrics.utils", "scib")
    pre = "the embedding before the integration"
    matrices = {name: as_matrix(name, matrix, len(labels)) for name, (matrix, _, _) in given.items()}
    needed = dict(matrices)
    if before is not None:
        before = as_matrix(pre, before, len(labels))
        # An all-zero row is a point like others to the PCR comparison.
        needed[pre] = np.where(np.isfinite(before).all(axis=1, keepdims=True), 1.0, np.nan)
    valid = valid_cells(needed, {"label": labels, "batch": batches})
    if pre in valid.alone:
        before, before_note = None, f"{pre} has no cell without NaN"
    results: list[Result] = []
    for i, (name, (_, kind, made_of)) in enumerate(given.items()):
        mask = valid.alone.get(name, valid.mask)
        cells = _Cells(matrices[name], valid.labels["label"], valid.labels["batch"], before, before_note)
        cells = cells if mask.all() else cells.part(mask)
        n = int(mask.sum())
        row = functools.partial(Result, run, name, TASK, profile, kind=kind, n=n, n_missing=len(mask) - n)
        results += _rows(row, cells, chosen, seed_list, halves, made_of)
        progress(i + 1, len(given), name)
    return results


def check_memory(shapes: Iterable[tuple[int, ...]]) -> None:
    """Raise when scoring embeddings of these shapes (n_cells, d), one at a time, takes more memory than there is."""
    free = available_memory()
    needed, n_cells = max(((_memory_of(*s), s[0]) for s in shapes if len(s) == 2), default=(0, 0))
    if free is not None and needed > free:
        raise BftembedError(
            f"The integration metrics of {n_cells:,} cells need about {needed / 1e9:.1f} GB of memory, and "
            f"{free / 1e9:.1f} GB are free. Take a random sample of at most {int(n_cells * free / needed):,} cells, "
            "drawn within each label and batch."
        )


def _memory_of(n_cells: int, n_dimensions: int) -> int:
    """Return the bytes that scoring one embedding takes; a test compares them with a measured peak."""
    return n_cells * ((7_400 if n_cells <= EXACT_UP_TO else 17_400) + 16 * n_dimensions)


def check_profile(name: str) -> Profile:
    """Return a profile, or raise when it is not known."""
    if name not in PROFILES:
        raise unknown_name("profile", name, PROFILES)
    return PROFILES[name]


class Profile(NamedTuple):
    """Names of the metrics that make the two aggregates."""

    bio: tuple[str, ...]
    batch: tuple[str, ...]


#: ``paper`` has the older batch silhouette, as table 2 of the paper.
PROFILES = {
    "current": Profile(tuple(_BIO), tuple(m for m in _BATCH if m != "silhouette_batch")),
    "paper": Profile(tuple(_BIO), tuple(m for m in _BATCH if m != "bras")),
}


@dataclass(frozen=True, eq=False)
class _Cells:
    """The cells of one embedding (n_cells, d), that before the integration (n_cells, e), and what metrics share."""

    matrix: NDArray[Any]
    labels: NDArray[Any]
    batches: NDArray[Any]
    before: NDArray[Any] | None
    before_note: str

    def part(self, rows: Any) -> _Cells:
        before = None if self.before is None else self.before[rows]
        return _Cells(self.matrix[rows], self.labels[rows], self.batches[rows], before, self.before_note)

    def neighbors(self, k: int) -> Neighbors:
        if len(self.matrix) < k:
            raise Undefined(f"{len(self.matrix)} cells are too few for {k} neighbors, itself included", "too-few")
        return self._neighbors.subset(k)

    @functools.cached_property
    def _neighbors(self) -> Neighbors:
        return nearest_neighbors(self.matrix, min(_LISI_NEIGHBORS, len(self.matrix)))

    @functools.cached_property
    def silhouettes(self) -> NDArray[np.float64]:
        return silhouette_samples(self.matrix, self.labels)

    @functools.cached_property
    def lisi_weights(self) -> NDArray[np.float32]:
        return scib.lisi_weights(self.neighbors(_LISI_NEIGHBORS))

    @functools.cached_property
    def kmeans(self) -> Callable[[int], tuple[float, float]]:
        """Seed → NMI and ARI of k-means."""
        return functools.cache(functools.partial(scib.kmeans_nmi_ari, self.matrix, self.labels))

    def pcr(self) -> float:
        if self.before is None:
            raise Undefined(self.before_note or "no embedding before the integration was given")
        return scib.pcr_comparison(self.before, self.matrix, self.batches)


#: Metric → function of the cells and a seed.
_COMPUTE: dict[str, Callable[[_Cells, int], float]] = {
    "isolated_labels": lambda c, _: scib.isolated_labels(c.matrix, c.labels, c.batches, samples=c.silhouettes),
    NMI: lambda c, seed: c.kmeans(seed)[0],
    ARI: lambda c, seed: c.kmeans(seed)[1],
    "silhouette_label": lambda c, _: scib.silhouette_label(c.matrix, c.labels, samples=c.silhouettes),
    "clisi_knn": lambda c, _: scib.clisi(c.neighbors(_LISI_NEIGHBORS), c.labels, weights=c.lisi_weights),
    "bras": lambda c, _: scib.bras(c.matrix, c.labels, c.batches),
    "silhouette_batch": lambda c, _: scib.silhouette_batch(c.matrix, c.labels, c.batches),
    "ilisi_knn": lambda c, _: scib.ilisi(c.neighbors(_LISI_NEIGHBORS), c.batches, weights=c.lisi_weights),
    "kbet_per_label": lambda c, _: scib.kbet(c.neighbors(_KBET_NEIGHBORS), c.labels, c.batches),
    "graph_connectivity": lambda c, _: scib.graph_connectivity(c.neighbors(_GRAPH_NEIGHBORS), c.labels),
    "pcr_comparison": lambda c, _: c.pcr(),
}


class _Score(NamedTuple):
    value: float = math.nan
    reason: str = ""
    note: str = ""


def _rows(
    row: Callable[..., Result], cells: _Cells, profile: Profile, seeds: list[int], halves: int, made_of: str
) -> list[Result]:
    """Return the rows of one embedding: of each seed where there are seeds, and the score with its interval."""
    of_halves: dict[str, list[float]] = {}
    if len(cells.matrix):
        for i, half in enumerate(half_samples(cells.labels, cells.batches, halves, seeds[0])):
            for metric, of_seed in _scores(cells.part(half), profile, [seeds[i % len(seeds)]]).items():
                of_halves.setdefault(metric, []).append(_mean(of_seed).value)
    # These two say what limits their reading, which is shown below the table; the others how the embedding was made.
    notes = {BATCH: _confounded(cells)}
    notes["pcr_comparison"] = f"PCR comparison with {cells.before_note}" if cells.before_note else ""
    found = []
    for metric, of_seed in _scores(cells, profile, seeds).items():
        # A seed without a value is not left out of the mean, so its row is not left to `over_seeds`.
        whole = _mean(of_seed)
        note = "; ".join(filter(None, (scib.DEFINITIONS.get(metric), notes.get(metric, made_of))))
        over = half_sample_interval(whole.value, of_halves.get(metric, [])) if halves else None
        low, high = over or t_interval([one.value for one in of_seed])
        rows: list[tuple[int | None, _Score]] = [*zip(seeds, of_seed, strict=True)] if metric in SEEDED else []
        for seed, (value, reason, why) in [*rows, (None, whole)]:
            found.append(row(metric=metric, seed=seed, value=value, reason=reason, note=why or note))
        found[-1] = replace(found[-1], low=low, high=high)
    return found


def _mean(of_seed: list[_Score]) -> _Score:
    failed = next((s for s in of_seed if s.reason), None)
    return failed or _Score(float(np.mean([s.value for s in of_seed])))


def _scores(cells: _Cells, profile: Profile, seeds: list[int]) -> dict[str, list[_Score]]:
    """Return the score of each metric for each seed, once where it has none."""
    failure = _failure(cells.matrix)
    found = {
        metric: [failure or _score(metric, cells, seed) for seed in (seeds if metric in SEEDED else seeds[:1])]
        for metric in (*profile.bio, *profile.batch)
    }
    of_all = _aggregates({metric: _mean(of_seed).value for metric, of_seed in found.items()}, profile, cells.batches)
    return found | {metric: [failure or one] for metric, one in of_all.items()}


def _failure(matrix: NDArray[Any]) -> _Score | None:
    """Return why an embedding cannot be scored at all."""
    if not len(matrix):
        return _Score(reason="no-vectors", note="no cell has a label, a batch, and a finite vector")
    # Identical cells have no neighbors and no clusters, but every formula gives some number for them.
    same = bool((matrix == matrix[0]).all())
    return _Score(reason="undefined", note="all cells are identical in this embedding") if same else None


def _score(metric: str, cells: _Cells, seed: int) -> _Score:
    try:
        return _Score(_COMPUTE[metric](cells, seed))
    except Undefined as err:
        return _Score(reason=err.reason, note=str(err).rstrip("."))
    except ValueError as err:
        return _Score(reason="error", note=str(err).rstrip("."))


def _aggregates(values: Mapping[str, float], profile: Profile, batches: NDArray[Any]) -> dict[str, _Score]:
    found = {}
    for name, metrics in ((BIO, profile.bio), (BATCH, profile.batch)):
        held = [values[m] for m in metrics if not math.isnan(values[m])]
        why = "" if held else "none of its metrics has a value"
        if name == BATCH and len(set(batches.tolist())) == 1:  # the graph connectivity alone is no batch correction
            why = "all cells have one batch, there is nothing to correct"
        found[name] = _Score(reason="undefined", note=why) if why else _Score(float(np.mean(held)))
    total = BIO_WEIGHT * found[BIO].value + BATCH_WEIGHT * found[BATCH].value
    without = _Score(reason="undefined", note="bio conservation or batch correction has no value")
    return found | {TOTAL: without if math.isnan(total) else _Score(total)}


def _confounded(cells: _Cells) -> str:
    labels, batches = set(cells.labels.tolist()), set(cells.batches.tolist())
    pairs = len({*zip(cells.labels.tolist(), cells.batches.tolist(), strict=True)})
    if pairs > len(labels) or len(batches) < 2:
        return ""
    what = "Every batch is one label" if pairs == len(batches) else "Every label is in one batch only"
    return f"{what}: mixing batches would mix labels, batch scores cannot be interpreted"


def tables(frame: pd.DataFrame) -> list[Table]:
    """Return a table per run and profile from the rows of this task, and the paper's table 2 below ``paper``."""
    found: list[Table] = []
    for (run, profile), rows in frame.groupby(["run", "protocol"], sort=False):
        totals = rows[rows["metric"] == TOTAL]
        # Of random embeddings of two modalities there are several draws, and intervals over these.
        drawn = rows["subject"].isin(totals.loc[totals["seed"].notna(), "subject"])
        of_cells = bool(totals.loc[~drawn, "low"].notna().any())
        notes = ["Total: 0.6 bio conservation + 0.4 batch correction, the means of the metrics that have a value."]
        if rows.loc[~drawn, "low"].notna().any():
            over = "cells (random halves)" if of_cells else "seeds of KMeans (Student's t)"
            notes.append(f"Intervals: 95 %, over {over}.")
        if n := rows.loc[drawn, "seed"].nunique():
            notes.append(f"Random and shuffled embeddings: mean of {n} draws, 95 % intervals over draws (Student's t).")
        limits = rows[rows["metric"].isin(["pcr_comparison", BATCH]) & rows["value"].notna()]
        notes += [f"{note}." for note in dict.fromkeys(limits["note"]) if note]
        if rows["n"].max() > EXACT_UP_TO:
            notes.append("Neighbors are approximate (NN-descent).")
        title = f"{run} · integration, profile {profile}"
        table = score_table(rows, METRICS, title=title, sort_by=TOTAL, footnotes=notes)
        # Intervals of k-means over seeds are no ground for conclusions.
        found.append(table if of_cells else replace(table, conclusions=()))
        if profile == "paper":
            found.append(integration_table())
    return found
