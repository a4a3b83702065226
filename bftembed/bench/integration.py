"""`bench integration`: embeddings of cells against their types and batches, beside baselines made in the same run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.bench.reading import check_labels, place_of, read_cells
from bftembed.errors import BftembedError, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Iterable

    import anndata
    import pandas as pd
    from numpy.typing import NDArray

#: Begins the name of an embedding that was made in the run.
BASELINE = "baseline: "


def integration(
    data: anndata.AnnData | str | os.PathLike[str],
    keys: str | Iterable[str],
    label: str,
    batch: str,
    *,
    profile: str = "current",
    baselines: str | Iterable[str] = (),
    before: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    seeds: int | Iterable[int] = 5,
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
        ``"current"`` or ``"paper"``; see `bftembed.tasks.integration.PROFILES`.
    baselines
        Of ``"pca"``, ``"harmony"``, ``"bbknn"`` (`bftembed.tasks.baselines`), made of the expression; in the results
        ``"baseline: pca"`` and so on.
    before
        Key of an embedding from before the integration, for the PCR comparison; when None, the principal components
        of the expression, where the data hold it.
    layer, use_raw
        Which expression: ``.X`` unless one is given. It must be log-normalised.
    seeds
        Number of k-means seeds, or the seeds.
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
        As `bftembed.bench.clustering`; also for an unknown profile or baseline, and a missing extra ``[scib]``.
    """
    from bftembed.metrics.integration import compilation_cache
    from bftembed.results import to_frame, write_results
    from bftembed.tasks import integration as task
    from bftembed.tasks.baselines import BASELINES

    wanted = _listed(keys)
    made = _listed(baselines)
    for name in made:
        if name not in ("pca", *BASELINES):
            raise unknown_name("baseline", name, ["pca", *BASELINES])
    if profile not in task.PROFILES:
        raise unknown_name("profile", profile, task.PROFILES)
    if not wanted and not made:
        raise BftembedError("No embedding was named: give keys of .obsm, or baselines.")
    if out is not None:
        refuse_input_as_output(out, data)
    read = list(dict.fromkeys([*wanted, *([before] if before else [])]))
    columns, matrices, stem = read_cells(data, read, [label, batch])
    check_labels(columns[label], label, place_of(data))
    if cache is not None:
        compilation_cache(str(cache))
    embeddings: dict[str, NDArray[Any]] = {key: matrices[key] for key in wanted}
    components = matrices[before] if before else _components(data, layer, use_raw, needed=bool(made))
    if made and components is not None:
        batches = np.array([str(b) for b in columns[batch]])
        for name in made:
            embeddings[f"{BASELINE}{name}"] = components if name == "pca" else BASELINES[name](components, batches)
    results = task.run(
        embeddings,
        columns[label],
        columns[batch],
        run=run or f"{stem}/{label}/{batch}",
        before=components,
        profile=profile,
        seeds=range(seeds) if isinstance(seeds, int) else seeds,
        progress=progress,
    )
    frame = to_frame(results)
    if out is not None:
        write_results(frame, out)
    return frame


def _listed(names: str | Iterable[str]) -> list[str]:
    parts = names.split(",") if isinstance(names, str) else list(names)
    return list(dict.fromkeys(p.strip() for p in parts if p.strip()))


def _components(data: Any, layer: str | None, use_raw: bool, *, needed: bool) -> NDArray[Any] | None:
    """Return the principal components of the expression; None where there is none and none is needed."""
    from contextlib import nullcontext

    from scipy.sparse import vstack

    from bftembed.cells.reading import expression_in, expression_of_anndata
    from bftembed.tasks.baselines import pca

    try:
        opened = (
            expression_in(data, layer=layer, use_raw=use_raw)
            if isinstance(data, (str, os.PathLike))
            else nullcontext(expression_of_anndata(data, layer=layer, use_raw=use_raw, gene_column=None))
        )
        with opened as expression:
            blocks = [rows.to_csr(expression.n_genes) for rows in expression.matrix.rows(4096)]
    except BftembedError:
        if needed or layer or use_raw:
            raise
        return None
    return pca(vstack(blocks, format="csr"))
