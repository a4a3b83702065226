"""`bftembed cells umap`: embeddings of cells in, a grid of maps out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bftembed.cli.common import JsonOption, finish, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Beyond so many labels a column is no picture: most would share one grey.
MOST_CATEGORIES = 60


def umap(
    data: Annotated[
        str, typer.Argument(metavar="IN.h5ad", help="Embeddings in .obsm, labels in .obs; or builtin:NAME.")
    ],
    keys: Annotated[str, typer.Option("--keys", help="Embeddings, a row each, separated by commas: X_bft,X_pca.")],
    color: Annotated[str, typer.Option("--color", help="Columns of .obs, a column each: cell_type,batch.")],
    out: Annotated[Path, typer.Option("--out", help="Figure to write: .png or .svg.")],
    max_cells: Annotated[
        int, typer.Option("--max-cells", min=3, help="Draw so many cells at most, taken at random.")
    ] = 20_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the maps, and of the sample of --max-cells.")] = 0,
    neighbors: Annotated[int, typer.Option("--neighbors", min=2, help="Neighbours of each cell in UMAP.")] = 15,
    points: Annotated[
        Path | None, typer.Option("--points", help="Table to write (Parquet): x, y and labels of each cell and key.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Line above the figure; default the file and n.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw cell embeddings as UMAPs, coloured by labels and batches. It is a picture, not a score."""
    from bftembed.datasets import data_path
    from bftembed.errors import BftembedError
    from bftembed.io import refuse_input_as_output
    from bftembed.reports.cell_maps import draw_cell_maps
    from bftembed.reports.drawing import figure_suffix

    figure_suffix(out)
    source = data_path(data)
    wanted, columns = _listed(keys, "--keys"), _listed(color, "--color")
    for path in [p for p in (out, points) if p is not None]:
        refuse_input_as_output(path, source)
    if points is not None and points.resolve() == out.resolve():
        raise BftembedError(f"--points and --out are both {out}. Give two files.")
    labels, matrices, chosen, n_cells = _read(source, wanted, columns, max_cells, seed)
    coordinates, told = {}, []
    for key, matrix in matrices.items():
        if not as_json:
            say(
                f"{key}: UMAP of {len(chosen):,} cells …"
                if matrix.shape[1] != 2
                else f"{key}: two columns, as they are"
            )
        coordinates[key], note = _coordinates(source, key, matrix, seed, neighbors)
        told += [note] if note else []
    whole = f"{len(chosen):,} cells" + (f" of {n_cells:,}" if len(chosen) < n_cells else "")
    draw_cell_maps(out, coordinates, labels, title if title is not None else f"{Path(source).name}: UMAP of {whole}")
    if points is not None:
        _write_points(points, chosen, coordinates, labels)
    summary = {
        "out": str(out),
        "points": None if points is None else str(points),
        "cells": len(chosen),
        "of": n_cells,
        "keys": wanted,
        "categories": {name: len({str(x) for x in values if x is not None}) for name, values in labels.items()},
        "left_out": {k: int((xy != xy).any(axis=1).sum()) for k, xy in coordinates.items()},
    }
    lines = [f"drawn: {whole}, {len(wanted)} × {len(columns)} pictures", *told, f"figure: {out}"]
    if points is not None:
        lines.append(f"points: {points}")
    finish(summary, lines, as_json=as_json)


def _listed(names: str, option: str) -> list[str]:
    from bftembed.errors import BftembedError

    found = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not found:
        raise BftembedError(f"{option} names nothing. Give names separated by commas.")
    return found


def _read(
    source: str, keys: list[str], columns: list[str], max_cells: int, seed: int
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], NDArray[np.int64], int]:
    """Return labels and embeddings of the cells that are drawn, which these are, and how many there are."""
    import numpy as np

    from bftembed.bench.reading import check_groups, place_of, read_cells
    from bftembed.errors import BftembedError
    from bftembed.tasks.usable import missing_label

    where = place_of(source)
    values, _, _ = read_cells(source, [], columns)
    for column in columns:
        found = {str(x) for x in check_groups(values[column], column, where)}
        if len(found) > MOST_CATEGORIES:
            raise BftembedError(
                f"{where}: obs[{column!r}] has {len(found)} labels; a map tells at most {MOST_CATEGORIES} apart. "
                "Choose a coarser column."
            )
    n_cells = len(values[columns[0]])
    if n_cells < 3:
        raise BftembedError(f"{where} holds {n_cells} cells; a map needs at least 3.")
    chosen = np.arange(n_cells)
    if max_cells < n_cells:
        chosen = np.sort(np.random.default_rng(seed).choice(n_cells, max_cells, replace=False))
    labels = {c: np.array([None if missing_label(x) else x for x in values[c][chosen]], dtype=object) for c in columns}
    # One at a time, so that only one is in memory whole; all before the first map, which takes its time.
    matrices = {key: read_cells(source, [key], columns[:1])[1][key][chosen] for key in keys}
    return labels, matrices, chosen, n_cells


def _coordinates(
    source: str, key: str, matrix: NDArray[Any], seed: int, neighbors: int
) -> tuple[NDArray[np.float32], str]:
    """Return where each cell lies (NaN: it has no vector), and what there is to say of those without."""
    import numpy as np

    from bftembed.errors import BftembedError
    from bftembed.metrics.projection import umap_coordinates
    from bftembed.tasks.usable import broken_vectors, has_vector

    planar = matrix.shape[1] == 2
    with np.errstate(over="ignore"):
        matrix = matrix.astype(np.float32)
    # In two columns that are a map already, (0, 0) is a place like any other.
    usable = np.isfinite(matrix).all(axis=1) if planar else has_vector(matrix)
    reasons = (
        [f"{int((~usable).sum())} NaN or infinite"] if planar else broken_vectors("it", matrix, np.ones_like(usable))
    )
    told = (
        ""
        if usable.all()
        else f"{key}: {int((~usable).sum())} cells left out: "
        + ", ".join(reason.removesuffix(" in it") for reason in reasons)
    )
    if usable.sum() < 3:
        raise BftembedError(
            f"{source}: obsm[{key!r}] has a usable vector for {int(usable.sum())} of {len(matrix)} cells; a map needs "
            f"at least 3. Leave it out of --keys.{' ' + told if told else ''}"
        )
    places = np.full((len(matrix), 2), np.nan, dtype=np.float32)
    places[usable] = matrix[usable] if planar else umap_coordinates(matrix[usable], seed, n_neighbors=neighbors)
    return places, told


def _write_points(
    path: Path, chosen: NDArray[np.int64], coordinates: dict[str, NDArray[Any]], labels: dict[str, NDArray[Any]]
) -> None:
    """Write a row per embedding and cell: its row in the file, where it lies (NaN: left out), and its labels."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from bftembed.io import atomic_path

    table: dict[str, Any] = {
        "embedding": pa.array(np.repeat(list(coordinates), len(chosen)), pa.string()),
        "row": pa.array(np.tile(chosen, len(coordinates)), pa.int64()),
    }
    for i, axis in enumerate("xy"):
        table[axis] = pa.array(np.concatenate([xy[:, i] for xy in coordinates.values()]), pa.float32())
    for name, values in labels.items():
        texts = [None if x is None else str(x) for x in values]
        table[f"obs/{name}"] = pa.array(texts * len(coordinates), pa.string())
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(table), temporary, compression="zstd")
