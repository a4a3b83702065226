"""`bench clustering`: embeddings of cells against their labels."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

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
from bftembed.bench.reading import check_labels, listed, place_of, read_cells
from bftembed.errors import BftembedError
from bftembed.io import refuse_input_as_output
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Iterable

    import anndata
    import pandas as pd

    from bftembed.bench.texts import Texts
    from bftembed.embeddings import GeneEmbeddings


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
    floors: bool = True,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Score cell embeddings by clustering, whether cells that lie together share a label.

    Parameters
    ----------
    data
        An AnnData, or the path of a h5ad. The expression is read only for
        baselines.
    keys
        Names of embeddings in ``.obsm``: a list, or names separated by commas.
    label
        Column of ``.obs`` with the labels; text, categories, or at most 100 distinct whole numbers.
    protocol
        ``"strict"`` (extra ``scib``), ``"genept"``, ``"standard"``, or several; see `bftembed.tasks.clustering.run`.
    baselines
        Names, or names separated by commas; in the results ``"baseline: pca"`` and so on. ``"pca"`` is made of the
        expression; ``"random"``, ``"shuffled"``, ``"tfidf"`` and ``"ncbi"`` of gene vectors, aggregated as the first
        of `keys` was (`bftembed.bench.baselines.gene_baselines`). ``"random:5"`` are five draws.
    texts, genes, encoder
        For ``tfidf``, ``shuffled`` and ``ncbi``.
    layer, use_raw
        Which expression: ``.X`` unless one is given.
    seeds
        Number of seeds (0, 1, …), or the seeds themselves.
    out
        Results file to write (Parquet), whole or not at all; None writes nothing.
    run
        Name of the run in the table; default the name of the file and the label, ``"pbmc/bulk_labels"``
        (``"cells/bulk_labels"`` for an AnnData that has no file).
    floors
        Whether to score the same embeddings against permuted labels too.
    progress
        Called once per embedding.

    Returns
    -------
    pandas.DataFrame
        The long results table (see `bftembed.results`). Cells without a label or vector are left out of all
        embeddings and counted. An embedding that cannot be scored has NaN rows whose note says why.

    Raises
    ------
    BftembedError
        For an unknown protocol or baseline, a file that is missing or damaged, an unknown label column or embedding,
        labels of one class, none at all or continuous ones, and embeddings that are not a numeric matrix with one row
        per cell; and as `bftembed.bench.baselines`.
    MissingExtraError
        For ``"strict"`` without the extra ``scib``.
    """
    from bftembed.results import to_frame, write_results
    from bftembed.tasks import clustering as task

    wanted = listed(keys)
    made = asked_baselines(baselines)
    if not wanted and not made:
        raise BftembedError("No embedding was named: give at least one key of .obsm, or baselines.")
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not seed_list:
        raise BftembedError("At least one seed is needed.")
    if out is not None:
        refuse_input_as_output(out, *(x for x in (data, texts, genes) if isinstance(x, (str, os.PathLike))))
    asked = listed(protocol)
    for one in asked:
        task.check_protocol(one)
    columns, embeddings, stem = read_cells(data, wanted, [label])
    check_labels(columns[label], label, place_of(data))
    compared = Baselines()
    if any(name in OF_EXPRESSION for name in made):
        components, about = principal_components(data, layer=layer, use_raw=use_raw)
        compared = expression_baselines(made, components, None, about)
    compared |= count_baselines(made, data, None)
    compared |= gene_baselines(
        made, data, wanted, texts=texts, genes=genes, encoder=encoder, layer=layer, use_raw=use_raw
    )
    results = []
    for i, one in enumerate(asked):
        scored = task.run(
            embeddings | compared.vectors,
            columns[label],
            run=run or f"{stem}/{label}",
            protocol=one,
            seeds=seed_list,
            floors=floors,
            progress=_part(progress, i, len(asked)),
        )
        results += with_about(scored, compared)
    frame = to_frame(results)
    if out is not None:
        write_results(frame, out)
    return frame


def _part(progress: Progress, i: int, n: int) -> Progress:
    """Return the progress of the i-th of n parts of equal length."""
    return lambda done, total, note: progress(done + i * total, n * total, note)
