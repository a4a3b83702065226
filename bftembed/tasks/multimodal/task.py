"""The benchmark of RNA and proteins in one space: scIB metrics of all cells, and matching of each to its partner."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError, require, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.metrics.matching import chance_of_a_label, matching_scores
from bftembed.progress import Progress, silent
from bftembed.tasks.base import Metric, Result, score_table, to_frame
from bftembed.tasks.baselines import OF_BATCHES, random_vectors, shuffled_vectors
from bftembed.tasks.cells import integration
from bftembed.tasks.data import ValidCells, as_matrix, check_labels, has_vector, listed, place_of, valid_cells
from bftembed.tasks.multimodal._joint_space import (
    JointAggregation,
    joint_vectors,
    linked_features,
    read_modalities,
    rna_clusters,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from bftembed.cells.aggregate import Weights
    from bftembed.report.table import Table
    from bftembed.tasks.multimodal._joint_space import Modalities

Pair = tuple["NDArray[Any]", "NDArray[Any]"]

#: Cells among which the partner counts as found, in the second of the two accuracies.
_WIDER = 10
#: Without intervals over cells, no conclusions are drawn.
METRICS = (
    Metric("foscttm", "FOSCTTM", better="lower", concludes=False),
    Metric("matching_accuracy", "Matching accuracy", concludes=False),
    Metric(f"matching_accuracy_{_WIDER}", f"Among {_WIDER} nearest", concludes=False),
    Metric("label_matching_accuracy", "Label matching", concludes=False),
)
#: Batches of the stacked cells, in the order of their rows.
RNA, PROTEIN = "rna", "protein"

_Embeddings = GeneEmbeddings | str | os.PathLike[str]

_LINKED, _RANDOM, _SHUFFLED = "linked", "random", "shuffled"
#: Made in the run.
_BASELINES = (_LINKED, "harmony", "bbknn", _RANDOM, _SHUFFLED)
#: Name of the labels in the run where no column was named.
_CLUSTERS = "RNA clusters"


def multimodal(
    data: Any,
    genes: _Embeddings | Mapping[str, _Embeddings],
    proteins: _Embeddings | Mapping[str, _Embeddings] | None = None,
    *,
    label: str | None = None,
    protein_data: Any = None,
    rna: str | None = None,
    adt: str | None = None,
    obsm: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    weights: Weights = "expression",
    gene_matrix: str = "raw",
    protein_normalize: str = "clr",
    center_cells: bool = False,
    baselines: str | Iterable[str] = (),
    draws: int = 5,
    profile: str = "current",
    seeds: int | Iterable[int] = 5,
    out: str | os.PathLike[str] | None = None,
    run: str | None = None,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Score how well RNA and proteins of the same cells (CITE-seq) are mixed in one space, and cell types kept apart.

    Cells of the RNA are sums of gene vectors, cells of the proteins sums of protein vectors; the modality is the batch.

    Parameters
    ----------
    data
        MuData or its file; AnnData, h5ad or zarr store with the proteins in ``.obsm`` or among the features
        (``.var["feature_types"]``); 10x ``.h5`` or mtx folder; or, with `protein_data`, the RNA alone. Files are read
        into memory.
    genes
        Gene embeddings or their ``.safetensors``, or several by name.
    proteins
        Protein embeddings in the same space: one for all, or by the names of `genes`. Without them an antibody has the
        vector of its gene, or the mean of those of its genes.
    label
        Column of ``.obs`` with the cell types. Default clusters of the RNA, which favor embeddings that keep the RNA as
        it is.
    protein_data
        AnnData, h5ad or zarr store with the proteins of the same cells as ``.X``.
    obsm
        Key of ``.obsm`` with the protein counts, a DataFrame or with names in ``uns["KEY_names"]``; default that of a
        usual name.
    weights
        Weights of the genes of a cell: ``expression``, ``rank`` or ``idf``.
    gene_matrix
        ``raw``, ``center`` or ``whiten:K``, fitted on the genes of the RNA and applied to both modalities.
    protein_normalize
        Normalization of the proteins: ``clr`` or ``none``.
    center_cells
        Subtract the mean of the cells of each modality.
    baselines
        Made in the run, separated by commas: ``linked``, each protein and the RNA of its genes, z-scored within the
        modality; ``harmony`` and ``bbknn`` of these; ``random``, a Gaussian vector per gene; ``shuffled``, the vectors
        of each of `genes` permuted over its genes.
    profile
        Set of scIB metrics: ``current`` or ``paper``, as in `bftembed.bench.integration`.
    out
        Results table to write (Parquet).

    Other Parameters
    ----------------
    rna
        Modality of MuData with the RNA; default that of a usual name.
    adt
        Modality of MuData with the proteins; default that of a usual name.
    layer
        Layer with the RNA; default ``.X``.
    use_raw
        Take the RNA of ``.raw``.
    gene_column
        Column of ``.var`` with the gene names; default its index.
    draws
        Number of draws of random and of shuffled vectors.
    seeds
        Number of seeds of k-means (0, 1, …), or the seeds themselves.
    run
        Name of the run in the table; default the names of the file and the label.
    progress
        Progress callback, called once per embedding and draw.

    Returns
    -------
    pandas.DataFrame
        The results table (`bftembed.tasks.base`), of the tasks ``integration`` and ``matching``; see
        `bftembed.tasks.multimodal.score`. The PCR comparison is with the linked features before they are scaled, so
        that of the linked features is 1 by construction.

    Raises
    ------
    BftembedError
        For data, names and columns that are not there, embeddings of different dimension, proteins without any
        embedding, labels of one class or continuous ones, too little memory, and without the extra ``scib``.
    """
    made = listed(baselines)
    for name in made:
        if name not in _BASELINES:
            raise unknown_name("baseline", name, _BASELINES)
    integration.check_profile(profile)
    if draws < 1:
        raise BftembedError(f"draws is {draws}; give 1 or more.")
    files = [x for given in (genes, proteins) for x in (given.values() if isinstance(given, Mapping) else [given])]
    refuse_input_as_output(out, data, protein_data, *files)
    named = _by_name(genes, proteins)
    how = JointAggregation(weights, gene_matrix, protein_normalize, center_cells)
    drawn = _drawn(made, {name: of_genes for name, (of_genes, _) in named.items()})
    references = [name for name in made if name in (_LINKED, *OF_BATCHES)]
    names = [*named, *references, *(name for name, *_ in drawn)]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise BftembedError(f"Two embeddings have the name {twice[0]!r}. Give them different names: NAME=FILE.")
    choice: dict[str, Any] = {"label": label, "rna": rna, "adt": adt, "obsm": obsm, "layer": layer}
    cells = read_modalities(data, protein_data=protein_data, use_raw=use_raw, gene_column=gene_column, **choice)
    integration.check_memory([(2 * cells.n_cells, max(of_genes.dim for of_genes, _ in named.values()))])
    if cells.labels is not None:
        check_labels(cells.labels, str(label), place_of(data))
    require("scib_metrics.utils", "scib")  # before minutes of vectors
    made_of = {name: joint_vectors(cells, *pair, how, name) for name, pair in named.items()}
    given = {name: ((x.rna, x.protein), "subject", x.note) for name, x in made_of.items()}
    labels, notes = cells.labels, list(cells.notes)
    if labels is None:
        labels = rna_clusters(cells.rna, next(iter(made_of.values())).normalize)
        notes.insert(0, f"Labels are {len(set(labels))} {_CLUSTERS} (Leiden), not cell types")
    of_linked, before, before_note = _linked(cells, protein_normalize, references)
    given |= of_linked
    options: dict[str, Any] = {"note": ". ".join(notes), "before": before, "before_note": before_note}
    options |= {"run": run or f"{cells.stem}/{label or _CLUSTERS}/modality", "profile": profile}
    wanted, total = range(seeds) if isinstance(seeds, int) else seeds, len(given) + draws * len(drawn)
    results = score(
        {}, labels, compared=given, seeds=wanted, progress=lambda i, _, name: progress(i, total, name), **options
    )
    mask = _valid_pairs({name: pair for name, (pair, _, _) in given.items()}, labels).mask[:, None]
    for i, ((name, kind, note, draw), seed) in enumerate(itertools.product(drawn, range(draws)), len(given) + 1):
        found = joint_vectors(cells, draw(seed), None, how, name)
        pair: Any = tuple(np.where(mask, x, np.float32(np.nan)) for x in (found.rna, found.protein))
        rows = score({}, labels, compared={name: (pair, kind, f"{note}; {found.note}")}, seeds=[seed], **options)
        results += [replace(r, seed=seed) for r in rows if r.seed is None and r.kind == kind]
        progress(i, total, name)
    return to_frame(results, out)


def _by_name(genes: Any, proteins: Any) -> dict[str, tuple[GeneEmbeddings, GeneEmbeddings | None]]:
    """Return name → gene and protein embeddings, all read."""
    stem = Path(genes).stem if isinstance(genes, (str, os.PathLike)) else "embeddings"
    named = dict(genes) if isinstance(genes, Mapping) else {stem: genes}
    if not named:
        raise BftembedError("No gene embeddings were given.")
    of_name = dict(proteins) if isinstance(proteins, Mapping) else dict.fromkeys(named, proteins)
    for name in of_name:
        if name not in named:
            raise unknown_name("name of embeddings", name, named, where="proteins")
    own = {name: GeneEmbeddings.of(table) for name, table in of_name.items() if table is not None}
    return {name: (GeneEmbeddings.of(table), own.get(name)) for name, table in named.items()}


def _linked(
    cells: Modalities, protein_normalize: str, wanted: list[str]
) -> tuple[dict[str, tuple[Pair, str, str]], Pair | None, str]:
    """Return the linked features and their integrations, those unscaled for the PCR comparison, and what they are."""
    found: dict[str, tuple[Pair, str, str]] = {}
    try:
        linked = linked_features(cells, protein_normalize)
    except BftembedError as err:
        if wanted:
            raise
        return found, None, f"no embedding before the integration: {err}"
    stacked, batches = np.vstack(linked.scaled()) if wanted else np.empty(0), np.repeat([RNA, PROTEIN], cells.n_cells)
    for name in wanted:
        rna, protein = np.split(stacked if name == _LINKED else OF_BATCHES[name](stacked, batches), 2)
        found[name] = (rna, protein), "reference", f"{linked.note}, z-scored within the modality"
    return found, (linked.rna, linked.protein), f"{linked.note}, not scaled"


def _drawn(
    made: list[str], named: Mapping[str, GeneEmbeddings]
) -> list[tuple[str, str, str, Callable[[int], GeneEmbeddings]]]:
    """Return gene vectors that are drawn anew for every seed: name, kind, note, and function of the seed."""
    found: list[tuple[str, str, str, Callable[[int], GeneEmbeddings]]] = []
    if _RANDOM in made:
        ids, dim = {gene for genes in named.values() for gene in genes.ids}, next(iter(named.values())).dim
        note = f"Gaussian vectors of {len(ids):,} genes"
        found.append((_RANDOM, _RANDOM, note, lambda seed: random_vectors(ids, dim, seed)))
    for name, genes in named.items() if _SHUFFLED in made else ():
        called = _SHUFFLED if len(named) == 1 else f"{_SHUFFLED} {name}"
        draw = functools.partial(shuffled_vectors, genes)
        found.append((called, _SHUFFLED, f"vectors of {name} permuted over its genes", draw))
    return found


_EXPLAINED = (
    "FOSCTTM: fraction of the other modality's cells closer than the cell's own partner (0 is best). Matching "
    "accuracy: the partner is the nearest, or among 10. Label matching: the nearest has the cell's label. Means over "
    "cells and both directions; Euclidean."
)


def tables(frame: pd.DataFrame) -> list[Table]:
    """Return a table per run from the rows of the task ``matching``, with the level of chance as its last row."""
    found = []
    for (run, _), rows in frame.groupby(["run", "protocol"], sort=False):
        lines = [_EXPLAINED]
        if n := rows["seed"].nunique():
            lines.append(f"Random and shuffled embeddings: mean of {n} draws, 95 % intervals over draws (Student's t).")
        lines += [f"{note}." for note in rows.loc[rows["kind"] == "chance", "note"].unique() if note]
        found.append(score_table(rows, METRICS, title=f"{run} · matching", footnotes=lines))
    return found


def score(
    pairs: Mapping[str, Pair],
    labels: Sequence[object] | NDArray[Any],
    *,
    run: str,
    before: Pair | None = None,
    before_note: str = "",
    note: str = "",
    profile: str = "current",
    seeds: Iterable[int] = range(5),
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
    before, before_note
        The two modalities in one space before they are mixed, for the PCR comparison; what it is, or why there is none.
    note
        What limits the reading of all scores, shown below the tables.
    compared
        Name → vectors, kind and note of more embeddings.
    run, profile, seeds, progress
        As in `bftembed.tasks.cells.integration.score`.

    Returns
    -------
    list of Result
        Rows of the task ``integration``: of the 2 · n_cells cells, with the modality as the batch. Rows of the task
        ``matching``: the scores of `bftembed.metrics.matching.matching_scores`, whose `n` counts pairs, and rows of
        kind ``chance``. A cell without a label, or without a vector in either modality of any embedding, is left out of
        both modalities and all embeddings. An embedding that leaves no cell fails alone.
    """
    given = {name: (pair, "subject", "") for name, pair in pairs.items()} | dict(compared or {})
    valid = _valid_pairs({name: pair for name, (pair, _, _) in given.items()}, labels)
    masks = {name: valid.alone.get(name, valid.mask) for name in given}
    stacked = {
        name: (np.vstack([np.where(masks[name][:, None], part, np.float32(np.nan)) for part in pair]), kind, made)
        for name, (pair, kind, made) in given.items()
    }
    results = integration.score(
        {},
        np.tile(np.asarray(labels, dtype=object), 2),
        np.repeat([RNA, PROTEIN], len(labels)),
        run=run,
        before=None if before is None else np.vstack(before),
        before_note=before_note,
        profile=profile,
        seeds=seeds,
        compared=stacked,
        progress=progress,
    )
    for i, r in enumerate(results):
        if r.metric == integration.BATCH and not r.reason:
            results[i] = replace(r, note=". ".join(filter(None, (r.note, note))))
    row = functools.partial(Result, run=run, task="matching", protocol="euclidean")
    for name, (pair, kind, made) in given.items():
        mask = masks[name]
        n, missing = int(mask.sum()), int((~mask).sum())
        of_name = functools.partial(row, subject=name, kind=kind, n=n, n_missing=missing, note=made)
        results += _matched(of_name, (pair[0][mask], pair[1][mask]), valid.labels["label"][mask])
    if n := int(valid.mask.sum()):
        of_label = chance_of_a_label(valid.labels["label"][valid.mask])
        for metric, value in zip(METRICS, (0.5, 1 / n, min(1.0, _WIDER / n), of_label), strict=True):
            results.append(row(subject="chance", kind="chance", metric=metric.name, value=value, n=n, note=note))
    return results


def _valid_pairs(pairs: Mapping[str, Pair], labels: Sequence[object] | NDArray[Any]) -> ValidCells:
    """Find the cells with a label, and a vector in both modalities of every embedding that has any such cell."""
    whole = {}
    for name, pair in pairs.items():
        rna, protein = (as_matrix(name, part, len(labels)) for part in pair)
        if rna.shape != protein.shape:
            raise BftembedError(f"{name}: RNA is {rna.shape}, proteins {protein.shape}: both must be in one space.")
        whole[name] = (has_vector(rna) & has_vector(protein))[:, None].astype(float)
    return valid_cells(whole, {"label": labels})


def _matched(row: Callable[..., Result], pair: Pair, labels: NDArray[Any]) -> list[Result]:
    reason, note, scores = "undefined", f"{len(labels)} cells are too few", {}
    if not len(labels):
        reason, note = "no-vectors", "no cell has a label, and a vector in both modalities"
    else:
        scores = matching_scores(*pair, labels, among=(1, _WIDER))
    values = {metric.name: scores.get(metric.name, np.nan) for metric in METRICS}
    without = {"reason": reason, "note": note}
    return [row(metric=m, value=x, **(without if np.isnan(x) else {})) for m, x in values.items()]
