"""UMAP figures of gene and cell embeddings: pictures, not scores."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings import GeneEmbeddings
from bftembed.entities.classes import OTHER, functional_classes
from bftembed.errors import BftembedError, examples
from bftembed.io import atomic_path, refuse_input_as_output
from bftembed.metrics.projection import umap_coordinates
from bftembed.progress import silent
from bftembed.report.figure import draw_maps, figure_suffix
from bftembed.tasks.data import check_groups, has_vector, listed, missing_label, place_of, read_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bftembed.progress import Progress

#: With more labels most of a picture would share one gray.
_MAX_LABELS = 60


def map_genes(
    genes: GeneEmbeddings | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    classes: str | os.PathLike[str] | None = None,
    max_genes: int | None = None,
    points: str | os.PathLike[str] | None = None,
    seed: int = 0,
    n_neighbors: int = 15,
) -> dict[str, Any]:
    """Draw gene embeddings as a UMAP, colored by functional class.

    Parameters
    ----------
    genes
        Gene embeddings (.safetensors).
    out
        Figure to write: .png or .svg.
    classes
        CSV file with the columns symbol and label. By default gene families by HGNC name.
    max_genes
        Maximum number of genes, sampled at random. By default all.
    points
        CSV file to write: symbol, x, y and label of each gene.

    Other Parameters
    ----------------
    seed
        Seed of the map and of the sample.
    n_neighbors
        Number of neighbors of each gene in UMAP.

    Returns
    -------
    dict
        Files (``out``, ``points``), number of ``genes`` drawn ``of`` those available, and of each of the ``classes``.

    Raises
    ------
    BftembedError
        For fewer than 3 genes, classes of none of the genes, and files that cannot be read or written.
    """
    import pandas as pd

    _check_outputs(out, points, genes, classes)
    made = GeneEmbeddings.of(genes)
    source = Path(genes).name if isinstance(genes, str | os.PathLike) else "gene embeddings"
    chosen = _sample(len(made), max_genes, seed, source)
    names = [made.ids[i] for i in chosen]
    known = None if classes is None else _read_classes(Path(classes))
    labels = list(functional_classes(names)) if known is None else [known.get(gene, OTHER) for gene in names]
    if known is not None and not known.keys() & set(names):
        raise BftembedError(f"No symbol of {classes} has a vector in {source} ({examples(names)}).")
    xy = umap_coordinates(made.matrix[chosen], seed, n_neighbors=n_neighbors)
    draw_maps(out, {"genes": xy}, {"class": labels}, _title(source, len(names), len(made), "genes"))
    if points is not None:
        frame = pd.DataFrame({"symbol": names, "x": xy[:, 0], "y": xy[:, 1], "label": labels})
        with atomic_path(points) as temporary:
            frame.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    counts = dict(Counter(labels).most_common())
    return {"out": out, "points": points, "genes": len(names), "of": len(made), "classes": counts}


def map_cells(
    data: str | os.PathLike[str],
    keys: str | Sequence[str],
    color: str | Sequence[str],
    out: str | os.PathLike[str],
    *,
    max_cells: int = 20_000,
    points: str | os.PathLike[str] | None = None,
    seed: int = 0,
    n_neighbors: int = 15,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Draw cell embeddings as a grid of UMAPs, a row per embedding and a column per label or batch.

    Parameters
    ----------
    data
        A h5ad file with embeddings in .obsm and labels in .obs, or builtin:NAME.
    keys
        Keys of .obsm, separated by commas. Embeddings of two dimensions are drawn as they are.
    color
        Columns of .obs, separated by commas.
    out
        Figure to write: .png or .svg.
    max_cells
        Maximum number of cells, sampled at random.
    points
        Parquet file to write: x, y and labels of each cell and key.

    Other Parameters
    ----------------
    seed
        Seed of the maps and of the sample.
    n_neighbors
        Number of neighbors of each cell in UMAP.
    progress
        Called with the number of maps done.

    Returns
    -------
    dict
        Files (``out``, ``points``), number of ``cells`` drawn ``of`` those available, ``keys``, number of labels per
        column (``categories``) and of cells without a vector per key (``left_out``).

    Raises
    ------
    BftembedError
        For columns that are not labels, more than 60 labels, embeddings without 3 usable vectors, and files that cannot
        be read or written.
    """
    _check_outputs(out, points, data)
    wanted, columns = listed(keys), listed(color)
    if not wanted or not columns:
        raise BftembedError("keys (--keys) or color (--color) is empty; give names separated by commas.")
    where = place_of(str(data))
    values, _, _ = read_cells(str(data), [], columns)
    for column in columns:
        if (found := len(set(map(str, check_groups(values[column], column, where))))) > _MAX_LABELS:
            raise BftembedError(f"{where}: obs[{column!r}] has {found} labels; a map can show {_MAX_LABELS}.")
    n_cells = len(values[columns[0]])
    chosen = _sample(n_cells, max_cells, seed, where)
    labels = {c: np.array([None if missing_label(x) else x for x in values[c][chosen]], dtype=object) for c in columns}
    # One at a time, so that only one is in memory; all before the first map, which takes its time.
    matrices = {key: read_cells(str(data), [key], columns[:1])[1][key][chosen] for key in wanted}
    coordinates = {}
    for i, (key, matrix) in enumerate(matrices.items()):
        progress(i, len(wanted), key)
        coordinates[key] = _coordinates(f"{where}: obsm[{key!r}]", matrix, seed, n_neighbors)
    progress(len(wanted), len(wanted), "")
    draw_maps(out, coordinates, labels, _title(Path(data).name, len(chosen), n_cells, "cells"))
    if points is not None:
        _write_points(points, chosen, coordinates, labels)
    return {
        **{"out": out, "points": points, "cells": len(chosen), "of": n_cells, "keys": wanted},
        "categories": {name: len({str(x) for x in of if x is not None}) for name, of in labels.items()},
        "left_out": {key: int(np.isnan(xy).any(axis=1).sum()) for key, xy in coordinates.items()},
    }


def _check_outputs(out: Any, points: Any, *inputs: Any) -> None:
    figure_suffix(out)
    for file in (out, points):
        refuse_input_as_output(file, *inputs)
    if points is not None and Path(out).resolve() == Path(points).resolve():
        raise BftembedError(f"The points and the figure are both {out}. Give two files.")


def _sample(n: int, most: int | None, seed: int, where: str) -> NDArray[np.int64]:
    if min(n, n if most is None else most) < 3:
        raise BftembedError(f"A map needs at least 3 points: {where} has {n}, at most {most} are drawn.")
    if most is None or most >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def _title(source: str, n: int, of: int, what: str) -> str:
    return f"{source}: UMAP of {n:,} {what}" + (f" of {of:,}" if n < of else "")


def _read_classes(path: Path) -> dict[str, str]:
    """Read symbol → label; a gene belongs to one class."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, usecols=["symbol", "label"], encoding="utf-8-sig", keep_default_na=False)
    except (OSError, ValueError) as err:
        raise BftembedError(f"{path} is not a CSV file with the columns symbol and label: {err}.") from err
    table = table.drop_duplicates()
    if table["symbol"].duplicated().any():
        wrong = table["symbol"][table["symbol"].duplicated()]
        raise BftembedError(f"{path}: a gene needs exactly one label; see {examples(wrong)}.")
    return dict(zip(table["symbol"], table["label"], strict=True))


def _coordinates(where: str, matrix: NDArray[Any], seed: int, n_neighbors: int) -> NDArray[np.float32]:
    """Return the position of each cell, NaN for one without a vector."""
    planar = matrix.shape[1] == 2
    with np.errstate(over="ignore"):
        matrix = matrix.astype(np.float32)
    # In two columns that are a map already, (0, 0) is a place like any other.
    usable = np.isfinite(matrix).all(axis=1) if planar else has_vector(matrix)
    if usable.sum() < 3:
        raise BftembedError(
            f"{where} has vectors (finite, not zero) for {int(usable.sum())} of {len(matrix)} cells; 3 are needed."
        )
    places = np.full((len(matrix), 2), np.nan, dtype=np.float32)
    places[usable] = matrix[usable] if planar else umap_coordinates(matrix[usable], seed, n_neighbors=n_neighbors)
    return places


def _write_points(path: Any, chosen: NDArray[np.int64], coordinates: dict[str, Any], labels: dict[str, Any]) -> None:
    """Write a row per embedding and cell: its row in the file, its position (NaN: left out), and its labels."""
    import pandas as pd

    table = pd.DataFrame({"embedding": np.repeat(list(coordinates), len(chosen))})
    table["row"] = np.tile(chosen, len(coordinates))
    table[["x", "y"]] = np.concatenate(list(coordinates.values()))
    for name, values in labels.items():
        texts = [None if x is None else str(x) for x in values]
        table[f"obs/{name}"] = pd.Series(texts * len(coordinates), dtype=object)
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")
