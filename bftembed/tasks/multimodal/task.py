"""The benchmark of RNA and proteins in one space: embeddings, references and baselines of one run, and its tables."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.metrics.integration import compilation_cache
from bftembed.progress import Progress, silent
from bftembed.tasks.base import over_seeds, score_table, to_frame, write_results
from bftembed.tasks.baselines import OF_BATCHES, random_vectors, shuffled_vectors
from bftembed.tasks.cells import integration
from bftembed.tasks.data import check_labels, listed, place_of
from bftembed.tasks.multimodal.data import read_joined, read_modalities
from bftembed.tasks.multimodal.joint_space import JointAggregation, joint_vectors, linked_features, rna_clusters
from bftembed.tasks.multimodal.scores import METRICS, PROTEIN, RNA, Pair, score, valid_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from bftembed.cells.weighting import Weights
    from bftembed.report.table import Table
    from bftembed.tasks.base import Result
    from bftembed.tasks.multimodal.data import Modalities

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
    joined: Any = None,
    joined_keys: str | Iterable[str] = (),
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
    rna
        Modality of MuData with the RNA; default that of a usual name.
    adt
        Modality of MuData with the proteins; default that of a usual name.
    obsm
        Key of ``.obsm`` with the protein counts; default that of a usual name.
    obsm_names
        Names of its columns, ``uns/KEY``; default ``uns/OBSM_names``.
    layer
        Layer with the RNA; default ``.X``.
    use_raw
        Take the RNA of ``.raw``.
    gene_column
        Column of ``.var`` with the gene names; default its index.
    weights
        Weights of the genes of a cell: ``expression``, ``rank`` or ``idf``.
    gene_matrix
        ``raw``, ``center`` or ``whiten:K``, fitted on the genes of the RNA and applied to both modalities.
    normalize
        Normalization of the RNA: ``auto``, ``log1p-cp10k`` or ``none``.
    protein_normalize
        Normalization of the proteins: ``clr`` or ``none``.
    center_cells
        Subtract the mean of the cells of each modality.
    baselines
        Made in the run, separated by commas: ``linked``, each protein and the RNA of its genes, z-scored within the
        modality; ``harmony`` and ``bbknn`` of these; ``random``, a Gaussian vector per gene; ``shuffled``, the vectors
        of each of `genes` permuted over its genes.
    draws
        Number of draws of random and of shuffled vectors.
    joined
        Joint embeddings of other programs: AnnData or h5ad with a row per cell and modality, named in ``.obs["cell"]``
        and ``.obs["modality"]``.
    joined_keys
        Their keys in ``.obsm``, separated by commas.
    profile
        Set of scIB metrics: ``current``, ``paper`` or ``scib``, as in `bftembed.bench.integration`.
    seeds
        Number of seeds of k-means (0, 1, …), or the seeds themselves.
    out
        Results table to write (Parquet).
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
        embedding, labels of one class or continuous ones, unknown baselines, and cells that do not fit into memory.
    MissingExtraError
        Without the extra ``scib``.
    """
    made, keys = listed(baselines), listed(joined_keys)
    for name in made:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    chosen = integration.check_profile(profile)
    if normalize not in NORMALIZE:
        raise unknown_name("normalize", normalize, NORMALIZE)
    if draws < 1:
        raise BftembedError(f"draws is {draws}; give 1 or more.")
    if (joined is None) == bool(keys):
        raise BftembedError("A joint embedding needs both its file (joined) and its keys in .obsm (joined_keys).")
    if out is not None:
        files = [x for given in (genes, proteins) for x in (given.values() if isinstance(given, Mapping) else [given])]
        refuse_input_as_output(out, data, protein_data, joined, *files)
    named = _by_name(genes, proteins)
    how = JointAggregation(weights, gene_matrix, normalize, protein_normalize, center_cells)
    drawn = _drawn(made, {name: of_genes for name, (of_genes, _) in named.items()})
    names = [*named, *keys, *(name for name in made if name in (LINKED, *OF_BATCHES)), *(one.name for one in drawn)]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise BftembedError(f"Two embeddings have the name {twice[0]!r}. Give them different names: NAME=FILE.")
    cells = read_modalities(
        data,
        protein_data=protein_data,
        label=label,
        rna=rna,
        adt=adt,
        obsm=obsm,
        obsm_names=obsm_names,
        layer=layer,
        use_raw=use_raw,
        gene_column=gene_column,
    )
    n, widest = len(cells.cells), max(of_genes.dim for of_genes, _ in named.values())
    integration.check_memory([(2 * n, widest)], profile=profile, to_read=16 * len(named) * n * widest)
    if cells.labels is not None:
        check_labels(cells.labels, str(label), place_of(data))
    chosen.load()  # before minutes of vectors
    if cache is not None:
        compilation_cache(str(cache))
    given: dict[str, tuple[Pair, str, str]] = {}
    normalized = ""
    for name, (of_genes, of_proteins) in named.items():
        found = joint_vectors(cells, of_genes, of_proteins, how, name)
        given[name], normalized = ((found.rna, found.protein), "subject", found.note), found.normalize
    if keys:
        given |= {k: (pair, "subject", note) for k, (pair, note) in read_joined(joined, keys, cells.cells).items()}
    labels, notes = cells.labels, list(cells.notes)
    if labels is None:
        labels = rna_clusters(cells.rna, normalized)
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
    for one in drawn:
        rows: list[Result] = []
        for seed in range(draws):
            found = joint_vectors(cells, one.draw(seed), None, how, one.name)
            rna_part, protein_part = (np.where(mask, x, np.float32(np.nan)) for x in (found.rna, found.protein))
            entry = ((rna_part, protein_part), one.kind, f"{one.note}; {found.note}")
            of_draw = scored(compared={one.name: entry}, seeds=[seed])
            rows += [replace(r, seed=seed) for r in of_draw if r.seed is None and r.kind == one.kind]
            done += 1
            progress(done, total, one.name)
        results += rows + _over_draws(rows)
    frame = to_frame(results)
    if out is not None:
        write_results(frame, out)
    return frame


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
    return {
        name: (GeneEmbeddings.of(table), None if of_name.get(name) is None else GeneEmbeddings.of(of_name[name]))
        for name, table in named.items()
    }


def _linked(
    cells: Modalities, how: JointAggregation, made: list[str]
) -> tuple[dict[str, tuple[Pair, str, str]], Pair | None, str]:
    """Return the linked features and their integrations, those unscaled for the PCR comparison, and what they are."""
    wanted = [name for name in made if name in (LINKED, *OF_BATCHES)]
    try:
        linked = linked_features(cells, how)
    except BftembedError as err:
        if wanted:
            raise
        return {}, None, f"no embedding before the integration: {err}"
    found: dict[str, tuple[Pair, str, str]] = {}
    if wanted:
        stacked, n = np.vstack(linked.scaled()), len(cells.cells)
        batches = np.repeat([RNA, PROTEIN], n)
        for name in wanted:
            mixed = stacked if name == LINKED else OF_BATCHES[name](stacked, batches)
            found[name] = (mixed[:n], mixed[n:]), "reference", f"{linked.note}, z-scored within the modality"
    return found, (linked.rna, linked.protein), f"{linked.note}, not scaled"


@dataclass(frozen=True)
class _Drawn:
    """Gene vectors that are drawn anew for every seed."""

    name: str
    kind: str
    note: str
    draw: Callable[[int], GeneEmbeddings]


def _drawn(made: list[str], named: Mapping[str, GeneEmbeddings]) -> list[_Drawn]:
    found = []
    if RANDOM in made:
        ids = {gene for genes in named.values() for gene in genes.ids}
        dim = next(iter(named.values())).dim
        note = f"Gaussian vectors of {len(ids):,} genes"
        found.append(_Drawn(RANDOM, RANDOM, note, lambda seed: random_vectors(ids, dim, seed)))
    if SHUFFLED in made:
        for name, genes in named.items():
            called = SHUFFLED if len(named) == 1 else f"{SHUFFLED} {name}"
            note = f"vectors of {name} permuted over its genes"
            found.append(_Drawn(called, SHUFFLED, note, functools.partial(shuffled_vectors, genes)))
    return found


def _over_draws(rows: list[Result]) -> list[Result]:
    """Return the mean over draws of each score; a draw without a value is not left out, so the mean has none."""
    of_score: dict[tuple[str, str], list[Result]] = {}
    for row in rows:
        of_score.setdefault((row.task, row.metric), []).append(row)
    failed = {key: next((r for r in found if r.reason), None) for key, found in of_score.items()}
    return [replace(bad, seed=None) if (bad := failed[key]) else over_seeds(found) for key, found in of_score.items()]


EXPLAINED = (
    "FOSCTTM: fraction of the other cells of the other modality that are closer than the cell's own partner (0 is "
    "best). Matching accuracy: the partner is the nearest; among 10 nearest: it is one of ten. Label matching: the "
    "nearest has the cell's label. Each the mean over cells and both directions; Euclidean."
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
