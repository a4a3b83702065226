"""`bench integration`: embeddings of cells against their types and batches, beside baselines made in the same run."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.bench.reading import check_groups, check_labels, place_of, read_cells, shapes_in
from bftembed.errors import BftembedError, unknown_name
from bftembed.io import refuse_input_as_output
from bftembed.machine import available_memory
from bftembed.progress import Progress, silent
from bftembed.tasks.usable import missing_label

if TYPE_CHECKING:
    from collections.abc import Iterable

    import anndata
    import pandas as pd
    from numpy.typing import NDArray

    from bftembed.cells.reading import Expression

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
        Which expression: ``.X`` unless one is given. Counts are log-normalised (log1p of counts per 10,000), logged
        values taken as they are; the note of the PCR comparison says which.
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
        As `bftembed.bench.clustering`; also for an unknown profile or baseline, a missing extra ``[scib]``,
        baselines of one batch or without expression, and cells that do not fit into the memory: nothing is read then.
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
    where = place_of(data)
    shapes = shapes_in(data, read)
    task.check_memory(shapes, sum(4 * math.prod(shape) for shape in shapes.values()))
    columns, matrices, stem = read_cells(data, read, [label, batch])
    check_labels(columns[label], label, where)
    check_groups(columns[batch], batch, where)
    if cache is not None:
        compilation_cache(str(cache))
    embeddings: dict[str, NDArray[Any]] = {key: matrices[key] for key in wanted}
    components, told = None, f"obsm[{before!r}]"
    if made or not before:
        components, told_of_components = _components(data, layer, use_raw, needed=bool(made))
        told = told if before else told_of_components
    if made and components is not None:
        embeddings |= _baselines(made, components, columns[batch])
    results = task.run(
        embeddings,
        columns[label],
        columns[batch],
        run=run or f"{stem}/{label}/{batch}",
        before=matrices[before] if before else components,
        before_note=told,
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


def _baselines(made: list[str], components: NDArray[Any], batches: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the baselines by name; a cell without a batch has a vector of the PCA alone, and NaN in the others."""
    from bftembed.tasks.baselines import BASELINES

    has = np.array([not missing_label(b) for b in batches], dtype=bool)
    names = np.array([str(b) for b in batches[has]])
    found: dict[str, NDArray[Any]] = {}
    for name in made:
        if name == "pca":
            found[f"{BASELINE}pca"] = components
            continue
        vectors = BASELINES[name](components[has], names)
        whole = np.full((len(has), vectors.shape[1]), np.nan, dtype=np.float32)
        whole[has] = vectors
        found[f"{BASELINE}{name}"] = whole
    return found


def _components(data: Any, layer: str | None, use_raw: bool, *, needed: bool) -> tuple[NDArray[Any] | None, str]:
    """Return the principal components of the expression, and how they were made; or None, and why not."""
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
            _check_expression_memory(expression)
            blocks = [rows.to_csr(expression.n_genes) for rows in expression.matrix.rows(4096)]
            matrix = vstack(blocks, format="csr")
            reason = _log_counts(matrix, expression)
        return pca(matrix), f"principal components of {expression.name}, {reason}"
    except BftembedError as err:
        if needed or layer or use_raw:
            raise
        return None, f"nothing from before the integration to compare with: {err}"


def _check_expression_memory(expression: Expression) -> None:
    """Raise when the expression, as a sparse matrix and once more while it is put together, does not fit."""
    cells, genes = expression.matrix.shape
    needed = 2 * 12 * getattr(expression.matrix, "n_values", cells * genes)
    free = available_memory()
    if free is not None and needed > free:
        raise BftembedError(
            f"{expression.where}: the principal components of {cells:,} cells and {genes:,} genes need about "
            f"{needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free. Give an embedding from before the "
            "integration (before=KEY, --before KEY) and no baselines, or a sample of the cells."
        )


def _log_counts(matrix: Any, expression: Expression) -> str:
    """Turn counts into log1p of counts per 10,000, in place, and leave logged values; say which, or refuse."""
    from bftembed.cells.examine import ValueSummary
    from bftembed.cells.normalize import decide

    values = matrix.data
    bad = int((~np.isfinite(values)).sum()) + int((values < 0).sum())
    if bad:
        raise BftembedError(
            f"{expression.where}: {bad} values are NaN, infinite or negative, so this is no expression (scaled data "
            "are not). Name another matrix: layer=…, --layer."
        )
    totals = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    whole = bool((values == np.round(values)).all())
    summary = ValueSummary(totals, totals, whole, float(values.max(initial=0.0)))
    decision = decide("auto", summary, logged=expression.logged, where=expression.where, others=expression.others)
    if decision.normalize == "log1p-cp10k":
        matrix.data = matrix.data.astype(np.float32, copy=False)
        matrix.data *= np.repeat(1e4 / np.maximum(totals, 1e-12), np.diff(matrix.indptr)).astype(np.float32)
        np.log1p(matrix.data, out=matrix.data)
        return f"log1p of counts per 10,000 ({decision.reason})"
    return decision.reason
