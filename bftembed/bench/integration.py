"""`bench integration`: embeddings of cells against their types and batches, beside baselines made in the same run."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from bftembed.bench.baselines import (
    ENCODER,
    OF_EXPRESSION,
    Baselines,
    asked_baselines,
    count_baselines,
    expression_baselines,
    gene_baselines,
    with_about,
)
from bftembed.bench.expression import principal_components
from bftembed.bench.reading import check_groups, check_labels, listed, place_of, read_cells, shapes_in
from bftembed.errors import BftembedError, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Iterable

    import anndata
    import pandas as pd
    from numpy.typing import NDArray

    from bftembed.bench.texts import Texts
    from bftembed.embeddings import GeneEmbeddings


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
    cache: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Score cell embeddings by the metrics of scIB: whether types are kept apart, and batches mixed.

    Parameters
    ----------
    data
        An AnnData, or the path of a h5ad. The expression is read only for baselines and the PCR comparison.
    keys
        Names of embeddings in ``.obsm``: a list, or names separated by commas.
    label, batch
        Columns of ``.obs`` with the cell type and the batch.
    profile
        ``"current"``, ``"paper"`` or ``"scib"`` (extra ``scib-original``); see `bftembed.tasks.scib_profiles`.
    baselines
        Names, or names separated by commas; in the results ``"baseline: pca"`` and so on. ``"pca"``, ``"harmony"`` and
        ``"bbknn"`` are made of the expression (`bftembed.tasks.baselines`), ``"scvi"`` of counts; ``"random"``,
        ``"shuffled"``, ``"tfidf"`` and ``"ncbi"`` of gene vectors, aggregated as the first of `keys` was
        (`bftembed.bench.baselines.gene_baselines`). ``"random:5"`` are five draws.
    texts, genes, encoder
        For ``tfidf``, ``shuffled`` and ``ncbi``.
    before
        Key of an embedding from before the integration, for the PCR comparison; when None, the principal components
        of the expression, where the data hold it.
    layer, use_raw
        Which expression: ``.X`` unless one is given. Counts are log-normalised (log1p of counts per 10,000), logged
        values taken as they are; the note of the PCR comparison says which.
    seeds
        Number of k-means seeds, or the seeds.
    halves
        Random halves of the cells for 95 % intervals of all metrics; 0 for none, 10 is usual.
    out
        Results file to write (Parquet), whole or not at all; None writes nothing.
    run
        Name of the run; default ``"STEM/LABEL/BATCH"``.
    cache
        Folder where compiled code of jax is kept between processes; None keeps none.
    progress
        Called once per embedding.

    Returns
    -------
    pandas.DataFrame
        The long results table; see `bftembed.tasks.integration.run`.

    Raises
    ------
    BftembedError
        As `bftembed.bench.clustering`; also for an unknown profile or baseline, a missing extra ``[scib]``,
        baselines of one batch or without expression, and cells that do not fit into the memory: nothing is read then.
    """
    from bftembed.metrics.integration import compilation_cache
    from bftembed.results import to_frame, write_results
    from bftembed.tasks import integration as task

    wanted = listed(keys)
    made = asked_baselines(baselines)
    if profile not in task.PROFILES:
        raise unknown_name("profile", profile, task.PROFILES)
    if not wanted and not made:
        raise BftembedError("No embedding was named: give keys of .obsm, or baselines.")
    if out is not None:
        refuse_input_as_output(out, *(x for x in (data, texts, genes) if isinstance(x, (str, os.PathLike))))
    read = list(dict.fromkeys([*wanted, *([before] if before else [])]))
    where = place_of(data)
    shapes = shapes_in(data, read)
    task.check_memory(
        shapes, sum(4 * math.prod(shape) for shape in shapes.values()), per_cell=task.PROFILES[profile].memory
    )
    columns, matrices, stem = read_cells(data, read, [label, batch])
    check_labels(columns[label], label, where)
    check_groups(columns[batch], batch, where)
    if cache is not None:
        compilation_cache(str(cache))
    components, told = None, f"obsm[{before!r}]"
    if not before or any(name in OF_EXPRESSION for name in made):
        components, of_components = _components(data, layer, use_raw, needed=any(n in OF_EXPRESSION for n in made))
        told = told if before else of_components
    compared = Baselines()
    if components is not None:
        compared = expression_baselines(made, components, columns[batch], of_components)
    compared |= count_baselines(made, data, columns[batch], layer=layer, use_raw=use_raw)
    compared |= gene_baselines(
        made, data, wanted, texts=texts, genes=genes, encoder=encoder, layer=layer, use_raw=use_raw
    )
    results = task.run(
        {key: matrices[key] for key in wanted} | compared.vectors,
        columns[label],
        columns[batch],
        run=run or f"{stem}/{label}/{batch}",
        before=matrices[before] if before else components,
        before_note=told,
        profile=profile,
        seeds=range(seeds) if isinstance(seeds, int) else seeds,
        halves=halves,
        progress=progress,
    )
    frame = to_frame(with_about(results, compared))
    if out is not None:
        write_results(frame, out)
    return frame


def _components(
    data: anndata.AnnData | str | os.PathLike[str], layer: str | None, use_raw: bool, *, needed: bool
) -> tuple[NDArray[Any] | None, str]:
    """Return the principal components of the expression, and how they were made; or None, and why not."""
    try:
        return principal_components(data, layer=layer, use_raw=use_raw)
    except BftembedError as err:
        if needed or layer or use_raw:
            raise
        return None, f"nothing from before the integration to compare with: {err}"
