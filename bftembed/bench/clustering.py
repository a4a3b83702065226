"""`bench clustering`: embeddings of cells against their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bftembed.bench.reading import check_labels, place_of, read_cells
from bftembed.errors import BftembedError
from bftembed.io import refuse_input_as_output
from bftembed.progress import Progress, silent

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    import anndata
    import pandas as pd


def clustering(
    data: anndata.AnnData | str | os.PathLike[str],
    keys: str | Iterable[str],
    label: str,
    *,
    seeds: int | Iterable[int] = 5,
    out: str | os.PathLike[str] | None = None,
    run: str | None = None,
    floors: bool = True,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Score cell embeddings by clustering: ARI and AMI of k-means over several seeds, and the raw silhouette.

    Parameters
    ----------
    data
        An AnnData, or the path of a h5ad. Of a path only the label column and the embeddings are read, never the
        expression.
    keys
        Names of embeddings in ``.obsm``: a list, or one name.
    label
        Column of ``.obs`` with the labels; text, categories, or at most 100 distinct whole numbers.
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
        For a file that is missing or damaged, an unknown label column or embedding, labels of one class, none at all
        or continuous ones, and embeddings that are not a numeric matrix with one row per cell.
    """
    from bftembed.results import to_frame, write_results
    from bftembed.tasks import clustering as task

    wanted = list(dict.fromkeys([keys] if isinstance(keys, str) else keys))
    if not wanted:
        raise BftembedError("No embedding was named: give at least one key of .obsm.")
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not seed_list:
        raise BftembedError("At least one seed is needed.")
    if out is not None:
        refuse_input_as_output(out, data)
    columns, embeddings, stem = read_cells(data, wanted, [label])
    check_labels(columns[label], label, place_of(data))
    results = task.run(
        embeddings, columns[label], run=run or f"{stem}/{label}", seeds=seed_list, floors=floors, progress=progress
    )
    frame = to_frame(results)
    if out is not None:
        write_results(frame, out)
    return frame
