"""`bench multimodal`: RNA and proteins of the same cells in one space, beside baselines that need no text."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.bench.drawn import RANDOM, SHUFFLED, random_vectors, shuffled_vectors
from bftembed.bench.joined import read_joined
from bftembed.bench.joint_space import How, joint_vectors
from bftembed.bench.linked import linked_features, rna_clusters
from bftembed.bench.modalities import read_modalities
from bftembed.bench.reading import check_labels, listed, place_of
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.progress import Progress, silent
from bftembed.results import BASELINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd
    from numpy.typing import NDArray

    from bftembed.bench.pairing import Modalities
    from bftembed.results import Result
    from bftembed.tasks.multimodal import Pair

    Embeddings = GeneEmbeddings | str | os.PathLike[str]

LINKED = "linked"
#: Made in the run; in the results ``"baseline: NAME"``.
BASELINES = (LINKED, "harmony", "bbknn", RANDOM, SHUFFLED)
#: How the labels are called where none were given.
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
    weights: str = "expression",
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
    """Score how well RNA and proteins of the same cells (CITE-seq) are mixed in one space, and types kept apart.

    Cells of the RNA are sums over gene embeddings, cells of the proteins sums over protein embeddings; the modality is
    the batch. Beside the metrics of scIB stand those of the true pairs: `bftembed.tasks.multimodal`.

    Parameters
    ----------
    data, protein_data, rna, adt, obsm, obsm_names, layer, use_raw, gene_column
        Where the two modalities are: `bftembed.bench.modalities.read_modalities`.
    genes
        Gene embeddings or their ``.safetensors``; or several by name.
    proteins
        Protein embeddings in the same space, likewise, those of one name together (one table alone holds for all
        names); a name without takes the gene embeddings: an antibody is its gene, or the mean of its genes.
    label
        Column of ``.obs`` with the cell type. None takes clusters of the RNA (`bftembed.bench.linked.rna_clusters`),
        which favour what keeps the RNA as it is; the notes and the run say so.
    weights, gene_matrix, normalize, protein_normalize, center_cells
        The aggregation, as in `bftembed.cells.embed.embed_cells`; `protein_normalize` is that of the proteins. Centre
        and components of `gene_matrix` are those of the genes of the RNA, for both modalities.
    baselines
        Of `BASELINES`: ``"linked"``, each protein beside the RNA of its genes, z-scored within the modality
        (`bftembed.bench.linked`); ``"harmony"`` and ``"bbknn"`` on that; ``"random"``, a Gaussian vector for each gene
        in place of the embeddings, its protein with the same one, aggregated alike; ``"shuffled"``, the vectors of each
        of the gene embeddings dealt to other genes, likewise (``"shuffled NAME"`` where there are several).
    draws
        Of the random and of the shuffled vectors: seeds 0, 1, … of the rows, vectors and k-means alike.
    joined, joined_keys
        Joint embeddings of other programs, and which: `bftembed.bench.joined.read_joined`.
    profile, seeds, cache
        As `bftembed.bench.integration`.
    out
        Results file to write (Parquet), whole or not at all; None writes nothing.
    run
        Name of the run; default ``"STEM/LABEL/modality"``.
    progress
        Called once per embedding, and per draw.

    Returns
    -------
    pandas.DataFrame
        The long results table, of the tasks ``integration`` and ``matching``. The PCR comparison compares with the
        linked features before they are scaled (counts normalised within each modality); where there are none, it is a
        row with the reason. The linked baseline, scaled, has a PCR comparison of 1 by its making.

    Raises
    ------
    BftembedError
        For data and names as the functions named here, embeddings of different dimension, proteins that map to nothing,
        labels as `bftembed.bench.integration`, unknown baselines, and cells that do not fit into the memory.
    MissingExtraError
        Without the extra ``scib``.
    """
    from bftembed.metrics.integration import compilation_cache
    from bftembed.results import to_frame, write_results
    from bftembed.tasks import integration as scib
    from bftembed.tasks import multimodal as task

    made, keys = listed(baselines), listed(joined_keys)
    for name in made:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    if profile not in scib.PROFILES:
        raise unknown_name("profile", profile, scib.PROFILES)
    if normalize not in ("auto", "log1p-cp10k", "none"):
        raise unknown_name("normalize", normalize, ("auto", "log1p-cp10k", "none"), where="normalize of the RNA")
    if draws < 1:
        raise BftembedError(f"draws (--draws) is {draws}; give 1 or more.")
    if (joined is None) == bool(keys):
        raise BftembedError("A joint embedding needs both its file (--joined) and its key of .obsm (--joined-key).")
    if out is not None:
        refuse_input_as_output(out, data, protein_data, joined, *_files(genes), *_files(proteins))
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    tables = _tables(genes, proteins)
    _check_names([*tables, *keys])
    how = How(weights, gene_matrix, normalize, protein_normalize, center_cells)
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
    widest = max(of_genes.dim for of_genes, _ in tables.values())
    scib.check_memory({"both modalities": (2 * len(cells.cells), widest)}, 16 * len(tables) * len(cells.cells) * widest)
    if cells.labels is not None:
        check_labels(cells.labels, str(label), place_of(data))
    if cache is not None:
        compilation_cache(str(cache))
    told = {name: "; ".join(cells.notes) for name in (*tables, *keys)}
    pairs: dict[str, Pair] = {}
    normalized = ""
    for name, (of_genes, of_proteins) in tables.items():
        found = joint_vectors(cells, of_genes, of_proteins, how, name)
        pairs[name], normalized = (found.rna, found.protein), found.normalize
        told[name] = "; ".join([found.note, *cells.notes])
    if keys:
        for key, (pair, note) in read_joined(joined, keys, cells.cells).items():
            pairs[key], told[key] = pair, "; ".join([note, *cells.notes])
    labels, labels_note = cells.labels, ""
    if labels is None:
        labels = rna_clusters(cells.rna, normalized)
        labels_note = f"labels are {len(set(labels))} {CLUSTERS} (Leiden), not cell types"
    before, before_note = _linked_baselines(cells, how, made, pairs, told)
    drawn = _drawn(made, tables)
    names = [*pairs, *drawn]
    told = {name: "; ".join(x for x in (labels_note, told.get(name, "; ".join(cells.notes))) if x) for name in names}
    options: dict[str, Any] = {
        "run": run or f"{cells.stem}/{label or CLUSTERS}/modality",
        "before": before,
        "before_note": before_note,
        "profile": profile,
    }
    total = len(pairs) + draws * len(drawn)
    results = task.run(
        pairs, labels, notes=told, seeds=seed_list, progress=lambda i, _, name: progress(i, total, name), **options
    )
    usable, done = task.usable_pairs(pairs, labels).mask, len(pairs)
    for name, one in drawn.items():
        for seed in range(draws):
            results += _one_draw(name, one, seed, cells, how, usable, labels, told[name], options)
            done += 1
            progress(done, total, name.removeprefix(BASELINE))
    frame = to_frame(results)
    if out is not None:
        write_results(frame, out)
    return frame


def _files(given: Any) -> list[Any]:
    return list(given.values()) if isinstance(given, Mapping) else [given]


def _tables(genes: Any, proteins: Any) -> dict[str, tuple[GeneEmbeddings, GeneEmbeddings | None]]:
    """Return name → gene and protein embeddings, all read."""
    named = dict(genes) if isinstance(genes, Mapping) else {_name_of(genes): genes}
    if not named:
        raise BftembedError("No gene embeddings were given.")
    if isinstance(proteins, Mapping):
        strange = [name for name in proteins if name not in named]
        if strange:
            raise unknown_name("name of embeddings", strange[0], named, where="proteins")
        of_name = dict(proteins)
    else:
        of_name = {} if proteins is None else dict.fromkeys(named, proteins)
    return {
        name: (GeneEmbeddings.of(table), GeneEmbeddings.of(of_name[name]) if name in of_name else None)
        for name, table in named.items()
    }


def _name_of(table: Any) -> str:
    return Path(table).stem if isinstance(table, (str, os.PathLike)) else "embeddings"


def _check_names(names: list[str]) -> None:
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise BftembedError(f"Two embeddings are called {twice[0]!r}. Give them different names: NAME=FILE.")
    taken = [name for name in names if name.startswith(BASELINE)]
    if taken:
        raise BftembedError(f"The name {taken[0]!r} is kept for what is made in the run. Choose another.")


def _linked_baselines(
    cells: Modalities, how: How, made: list[str], pairs: dict[str, Pair], told: dict[str, str]
) -> tuple[Pair | None, str]:
    """Add the baselines of the linked features; return these features unscaled for the PCR comparison, or why not."""
    from bftembed.tasks import baselines

    wanted = [name for name in made if name not in (RANDOM, SHUFFLED)]
    try:
        linked = linked_features(cells, how)
    except BftembedError as err:
        if wanted:
            raise
        return None, f"nothing from before the mixing to compare with: {err}"
    if wanted:
        rna, protein = linked.scaled()
        n = len(cells.cells)
        stacked, batches = np.vstack([rna, protein]), np.repeat(["rna", "protein"], n)
        for name in wanted:
            mixed = stacked if name == LINKED else baselines.BASELINES[name](stacked, batches)
            pairs[f"{BASELINE}{name}"] = (mixed[:n], mixed[n:])
            told[f"{BASELINE}{name}"] = "; ".join([f"{linked.note}, z-scored within the modality", *cells.notes])
    return (linked.rna, linked.protein), f"{linked.note}, not scaled"


@dataclass(frozen=True)
class _Drawn:
    """Gene vectors to be drawn anew for every seed, and what they are."""

    about: str
    draw: Callable[[int], GeneEmbeddings]


def _drawn(made: list[str], tables: Mapping[str, tuple[GeneEmbeddings, Any]]) -> dict[str, _Drawn]:
    """Return the baselines that are drawn, by their names in the results."""
    found = {}
    if RANDOM in made:
        ids = {gene for of_genes, _ in tables.values() for gene in of_genes.ids}
        dim = next(iter(tables.values()))[0].dim
        found[f"{BASELINE}{RANDOM}"] = _Drawn(
            f"Gaussian vectors of {len(ids):,} genes", lambda seed: random_vectors(ids, dim, seed)
        )
    if SHUFFLED in made:
        for name, (of_genes, _) in tables.items():
            called = SHUFFLED if len(tables) == 1 else f"{SHUFFLED} {name}"
            found[f"{BASELINE}{called}"] = _Drawn(
                f"vectors of {name} dealt to other genes", functools.partial(shuffled_vectors, of_genes)
            )
    return found


def _one_draw(
    name: str,
    drawn: _Drawn,
    seed: int,
    cells: Modalities,
    how: How,
    mask: NDArray[np.bool_],
    labels: NDArray[Any],
    told: str,
    options: Mapping[str, Any],
) -> list[Result]:
    """Score the draw of one seed, of the cells in `mask`."""
    from bftembed.tasks import multimodal as task

    found = joint_vectors(cells, drawn.draw(seed), None, how, name)
    pair = tuple(np.where(mask[:, None], part, np.float32(np.nan)) for part in (found.rna, found.protein))
    notes = {name: "; ".join(x for x in (told, f"{drawn.about}; {found.note}") if x)}
    rows = task.run({name: pair}, labels, notes=notes, seeds=[seed], **options)  # type: ignore[dict-item]
    return [replace(row, seed=seed) for row in rows]
