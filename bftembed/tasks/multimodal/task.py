"""The benchmark of RNA and proteins in one space: scIB metrics of all cells, and matching of each to its partner."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.metrics.checks import Undefined
from bftembed.metrics.integration import compilation_cache
from bftembed.metrics.matching import chance_of_a_label, foscttm, label_matching_accuracy, matching_accuracy, true_ranks
from bftembed.progress import Progress, silent
from bftembed.tasks.base import Metric, Result, over_seeds, score_table, to_frame
from bftembed.tasks.baselines import OF_BATCHES, random_vectors, shuffled_vectors
from bftembed.tasks.cells import integration
from bftembed.tasks.data import ValidCells, as_matrix, check_labels, has_vector, listed, place_of, valid_cells
from bftembed.tasks.multimodal.joint_space import (
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

    from bftembed.cells.weighting import Weights
    from bftembed.report.table import Table
    from bftembed.tasks.multimodal.joint_space import Modalities

Pair = tuple["NDArray[Any]", "NDArray[Any]"]

#: Cells among which the partner counts as found, in the second of the two accuracies.
WIDER = 10
#: Without intervals over cells, no conclusions are drawn.
METRICS = (
    Metric("foscttm", "FOSCTTM", better="lower", concludes=False),
    Metric("matching_accuracy", "Matching accuracy", concludes=False),
    Metric(f"matching_accuracy_{WIDER}", f"Among {WIDER} nearest", concludes=False),
    Metric("label_matching_accuracy", "Label matching", concludes=False),
)
#: Batches of the stacked cells, in the order of their rows.
RNA, PROTEIN = "rna", "protein"

Embeddings = GeneEmbeddings | str | os.PathLike[str]

LINKED, RANDOM, SHUFFLED = "linked", "random", "shuffled"
#: Made in the run.
BASELINES = (LINKED, "harmony", "bbknn", RANDOM, SHUFFLED)
NORMALIZE = ("auto", "log1p-cp10k", "none")
#: Name of the labels in the run where no column was named.
CLUSTERS = "RNA clusters"


def multimodal(
    data: Any,
    genes: Embeddings | Mapping[str, Embeddings],
    proteins: Embeddings | Mapping[str, Embeddings] | None = None,
    *,
    label: str | None = None,
    protein_data: Any = None,
    rna: str | None = None,
    adt: str | None = None,
    obsm: str | None = None,
    obsm_names: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    weights: Weights = "expression",
    gene_matrix: str = "raw",
    normalize: str = "auto",
    protein_normalize: str = "clr",
    center_cells: bool = False,
    baselines: str | Iterable[str] = (),
    draws: int = 5,
    profile: str = "current",
    seeds: int | Iterable[int] = 5,
    out: str | os.PathLike[str] | None = None,
    run: str | None = None,
    cache: str | os.PathLike[str] | None = None,
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
        Key of ``.obsm`` with the protein counts; default that of a usual name.
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
        Set of scIB metrics: ``current``, ``paper`` or ``scib``, as in `bftembed.bench.integration`.
    out
        Results table to write (Parquet).

    Other Parameters
    ----------------
    rna
        Modality of MuData with the RNA; default that of a usual name.
    adt
        Modality of MuData with the proteins; default that of a usual name.
    obsm_names
        Names of its columns, ``uns/KEY``; default ``uns/OBSM_names``.
    layer
        Layer with the RNA; default ``.X``.
    use_raw
        Take the RNA of ``.raw``.
    gene_column
        Column of ``.var`` with the gene names; default its index.
    normalize
        Normalization of the RNA: ``auto``, ``log1p-cp10k`` or ``none``.
    draws
        Number of draws of random and of shuffled vectors.
    seeds
        Number of seeds of k-means (0, 1, …), or the seeds themselves.
    run
        Name of the run in the table; default the names of the file and the label.
    cache
        Folder where compiled code of JAX is kept between processes; None keeps none.
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
        embedding, labels of one class or continuous ones, and cells that do not fit into memory.
    MissingExtraError
        Without the extra ``scib``.
    """
    made = listed(baselines)
    for name in made:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    chosen = integration.check_profile(profile)
    if normalize not in NORMALIZE:
        raise unknown_name("normalize", normalize, NORMALIZE)
    if draws < 1:
        raise BftembedError(f"draws is {draws}; give 1 or more.")
    files = [x for given in (genes, proteins) for x in (given.values() if isinstance(given, Mapping) else [given])]
    refuse_input_as_output(out, data, protein_data, *files)
    named = _by_name(genes, proteins)
    how = JointAggregation(weights, gene_matrix, normalize, protein_normalize, center_cells)
    drawn = _drawn(made, {name: of_genes for name, (of_genes, _) in named.items()})
    names = [*named, *(name for name in made if name in (LINKED, *OF_BATCHES)), *(name for name, *_ in drawn)]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise BftembedError(f"Two embeddings have the name {twice[0]!r}. Give them different names: NAME=FILE.")
    parts = {"label": label, "rna": rna, "adt": adt, "obsm": obsm, "obsm_names": obsm_names}
    choice: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_column": gene_column}
    cells = read_modalities(data, protein_data=protein_data, **parts, **choice)
    n, widest = cells.n_cells, max(of_genes.dim for of_genes, _ in named.values())
    integration.check_memory([(2 * n, widest)], profile=profile)
    if cells.labels is not None:
        check_labels(cells.labels, str(label), place_of(data))
    chosen.load()  # before minutes of vectors
    if cache is not None:
        compilation_cache(str(cache))
    made_of = {name: joint_vectors(cells, *pair, how, name) for name, pair in named.items()}
    given = {name: ((x.rna, x.protein), "subject", x.note) for name, x in made_of.items()}
    labels, notes = cells.labels, list(cells.notes)
    if labels is None:
        labels = rna_clusters(cells.rna, next(iter(made_of.values())).normalize)
        notes.insert(0, f"Labels are {len(set(labels))} {CLUSTERS} (Leiden), not cell types")
    references, before, before_note = _linked(cells, how, made)
    given |= references
    scored = functools.partial(
        score,
        {},
        labels,
        run=run or f"{cells.stem}/{label or CLUSTERS}/modality",
        before=before,
        before_note=before_note,
        note=". ".join(notes),
        profile=profile,
    )
    total = len(given) + draws * len(drawn)
    results = scored(
        compared=given,
        seeds=range(seeds) if isinstance(seeds, int) else seeds,
        progress=lambda i, _, name: progress(i, total, name),
    )
    mask = valid_pairs({name: pair for name, (pair, _, _) in given.items()}, labels).mask[:, None]
    done = len(given)
    for name, kind, about, draw in drawn:
        rows: list[Result] = []
        for seed in range(draws):
            found = joint_vectors(cells, draw(seed), None, how, name)
            pair: Any = tuple(np.where(mask, x, np.float32(np.nan)) for x in (found.rna, found.protein))
            of_draw = scored(compared={name: (pair, kind, f"{about}; {found.note}")}, seeds=[seed])
            rows += [replace(r, seed=seed) for r in of_draw if r.seed is None and r.kind == kind]
            done += 1
            progress(done, total, name)
        results += rows + _over_draws(rows)
    return to_frame(results, out)


def _by_name(genes: Any, proteins: Any) -> dict[str, tuple[GeneEmbeddings, GeneEmbeddings | None]]:
    """Return name → gene and protein embeddings, all read."""
    stem = Path(genes).stem if isinstance(genes, (str, os.PathLike)) else "embeddings"
    named = dict(genes) if isinstance(genes, Mapping) else {stem: genes}
    of_name = dict(proteins) if isinstance(proteins, Mapping) else dict.fromkeys(named, proteins)
    if not named:
        raise BftembedError("No gene embeddings were given.")
    for name in of_name:
        if name not in named:
            raise unknown_name("name of embeddings", name, named, where="proteins")
    return {
        name: (GeneEmbeddings.of(table), None if of_name.get(name) is None else GeneEmbeddings.of(of_name[name]))
        for name, table in named.items()
    }


def _linked(
    cells: Modalities, how: JointAggregation, made: list[str]
) -> tuple[dict[str, tuple[Pair, str, str]], Pair | None, str]:
    """Return the linked features and their integrations, those unscaled for the PCR comparison, and what they are."""
    found: dict[str, tuple[Pair, str, str]] = {}
    wanted = [name for name in made if name in (LINKED, *OF_BATCHES)]
    try:
        linked = linked_features(cells, how)
    except BftembedError as err:
        if wanted:
            raise
        return found, None, f"no embedding before the integration: {err}"
    stacked = np.vstack(linked.scaled()) if wanted else np.empty(0)
    for name in wanted:
        batches = np.repeat([RNA, PROTEIN], cells.n_cells)
        mixed = stacked if name == LINKED else OF_BATCHES[name](stacked, batches)
        rna, protein = np.split(mixed, 2)
        found[name] = (rna, protein), "reference", f"{linked.note}, z-scored within the modality"
    return found, (linked.rna, linked.protein), f"{linked.note}, not scaled"


def _drawn(
    made: list[str], named: Mapping[str, GeneEmbeddings]
) -> list[tuple[str, str, str, Callable[[int], GeneEmbeddings]]]:
    """Return gene vectors that are drawn anew for every seed: name, kind, note, and function of the seed."""
    found: list[tuple[str, str, str, Callable[[int], GeneEmbeddings]]] = []
    if RANDOM in made:
        ids = {gene for genes in named.values() for gene in genes.ids}
        dim = next(iter(named.values())).dim
        note = f"Gaussian vectors of {len(ids):,} genes"
        found.append((RANDOM, RANDOM, note, lambda seed: random_vectors(ids, dim, seed)))
    for name, genes in named.items() if SHUFFLED in made else ():
        called = SHUFFLED if len(named) == 1 else f"{SHUFFLED} {name}"
        draw = functools.partial(shuffled_vectors, genes)
        found.append((called, SHUFFLED, f"vectors of {name} permuted over its genes", draw))
    return found


def _over_draws(rows: list[Result]) -> list[Result]:
    """Return the mean over draws of each score; a draw without a value is not left out, so the mean has none."""
    of_score: dict[tuple[str, str], list[Result]] = {}
    for row in rows:
        of_score.setdefault((row.task, row.metric), []).append(row)
    bad = ([r for r in found if r.reason] for found in of_score.values())
    return [replace(b[0], seed=None) if b else over_seeds(f) for b, f in zip(bad, of_score.values(), strict=True)]


EXPLAINED = (
    "FOSCTTM: fraction of the other modality's cells closer than the cell's own partner (0 is best). Matching "
    "accuracy: the partner is the nearest, or among 10. Label matching: the nearest has the cell's label. Means over "
    "cells and both directions; Euclidean."
)


def tables(frame: pd.DataFrame) -> list[Table]:
    """Return a table per run from the rows of the task ``matching``, with the level of chance as its last row."""
    found = []
    for (run, _), rows in frame.groupby(["run", "protocol"], sort=False):
        lines = [EXPLAINED]
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
    before
        The two modalities in one space before they are mixed, for the PCR comparison, which has no value without it.
    before_note
        What `before` is, or why there is none.
    note
        What limits the reading of all scores, shown below the tables.
    run, profile, seeds, progress
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
    """
    given = {name: (pair, "subject", "") for name, pair in pairs.items()} | dict(compared or {})
    valid = valid_pairs({name: pair for name, (pair, _, _) in given.items()}, labels)
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
        for metric, value in zip(METRICS, (0.5, 1 / n, min(1.0, WIDER / n), of_label), strict=True):
            results.append(row(subject="chance", kind="chance", metric=metric.name, value=value, n=n, note=note))
    return results


def valid_pairs(pairs: Mapping[str, Pair], labels: Sequence[object] | NDArray[Any]) -> ValidCells:
    """Find the cells with a label, and a vector in both modalities of every embedding that has any such cell."""
    whole = {}
    for name, pair in pairs.items():
        rna, protein = (as_matrix(name, part, len(labels)) for part in pair)
        if rna.shape != protein.shape:
            raise BftembedError(f"{name}: RNA is {rna.shape}, proteins {protein.shape}: both must be in one space.")
        whole[name] = (has_vector(rna) & has_vector(protein))[:, None].astype(float)
    return valid_cells(whole, {"label": labels})


def _matched(row: Callable[..., Result], pair: Pair, labels: NDArray[Any]) -> list[Result]:
    if not len(labels):
        row = functools.partial(row, reason="no-vectors", note="no cell has a label, and a vector in both modalities")
        return [row(metric=metric.name) for metric in METRICS]
    ranks = functools.cache(lambda: true_ranks(*pair))
    compute: tuple[Callable[[], float], ...] = (
        lambda: foscttm(*pair, ranks=ranks()),
        lambda: matching_accuracy(*pair, ranks=ranks()),
        lambda: matching_accuracy(*pair, WIDER, ranks=ranks()),
        lambda: label_matching_accuracy(*pair, labels),
    )
    found = []
    for metric, value in zip((m.name for m in METRICS), compute, strict=True):
        try:
            found.append(row(metric=metric, value=value()))
        except ValueError as err:
            reason = err.reason if isinstance(err, Undefined) else "error"
            found.append(row(metric=metric, reason=reason, note=str(err).rstrip(".")))
    return found
