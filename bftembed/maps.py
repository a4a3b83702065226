"""UMAP figures of gene and cell embeddings: pictures, not scores."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings import GeneEmbeddings
from bftembed.entities.classes import OTHER, functional_classes
from bftembed.errors import BftembedError, examples
from bftembed.io import atomic_path, refuse_input_as_output
from bftembed.metrics.projection import umap_coordinates
from bftembed.progress import silent
from bftembed.report.figure import figure_suffix
from bftembed.report.maps import draw_maps
from bftembed.tasks.data import check_groups, has_vector, listed, missing_label, place_of, read_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bftembed.progress import Progress

#: With more labels most of a picture would share one gray.
MAX_LABELS = 60


@dataclass(frozen=True)
class GeneMap:
    """What was drawn: files, genes drawn and available, and the number of genes per class."""

    out: Path
    points: Path | None
    genes: int
    of: int
    classes: dict[str, int]


@dataclass(frozen=True)
class CellMaps:
    """What was drawn: files, cells drawn and available, keys, labels per column, and cells without a vector per key."""

    out: Path
    points: Path | None
    cells: int
    of: int
    keys: tuple[str, ...]
    categories: dict[str, int]
    left_out: dict[str, int]


def map_genes(
    genes: GeneEmbeddings | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    classes: str | os.PathLike[str] | None = None,
    max_genes: int | None = None,
    points: str | os.PathLike[str] | None = None,
    title: str | None = None,
    seed: int = 0,
    n_neighbors: int = 15,
) -> GeneMap:
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
    title
        Title of the figure. By default the file and the number of genes.
    seed
        Seed of the map and of the sample.
    n_neighbors
        Number of neighbors of each gene in UMAP.

    Raises
    ------
    BftembedError
        For fewer than 3 genes, classes of none of the genes, and files that cannot be read or written.
    """
    figure, table = _outputs(out, points, genes, classes)
    made = GeneEmbeddings.of(genes)
    source = Path(genes).name if isinstance(genes, str | os.PathLike) else "gene embeddings"
    if len(made) < 3:
        raise BftembedError(f"{source} holds {len(made)} genes; a map needs at least 3.")
    chosen = _sample(len(made), max_genes, seed)
    names = [made.ids[i] for i in chosen]
    if classes is None:
        labels = list(functional_classes(names))
    else:
        known = _read_classes(Path(classes))
        labels = [known.get(gene, OTHER) for gene in names]
        if not known.keys() & set(names):
            raise BftembedError(
                f"None of the {len(known)} symbols of {classes} has a vector in {source} ({examples(names)})."
            )
    coordinates = umap_coordinates(made.matrix[chosen], seed, n_neighbors=n_neighbors)
    drawn = _drawn(len(names), len(made), "genes")
    draw_maps(
        figure, {"genes": coordinates}, {"class": labels}, f"{source}: UMAP of {drawn}" if title is None else title
    )
    if table is not None:
        import pandas as pd

        frame = pd.DataFrame({"symbol": names, "x": coordinates[:, 0], "y": coordinates[:, 1], "label": labels})
        with atomic_path(table) as temporary:
            frame.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    return GeneMap(figure, table, len(names), len(made), dict(Counter(labels).most_common()))


def map_cells(
    data: str | os.PathLike[str],
    keys: str | Sequence[str],
    color: str | Sequence[str],
    out: str | os.PathLike[str],
    *,
    max_cells: int = 20_000,
    points: str | os.PathLike[str] | None = None,
    title: str | None = None,
    seed: int = 0,
    n_neighbors: int = 15,
    progress: Progress = silent,
) -> CellMaps:
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
    title
        Title of the figure. By default the file and the number of cells.
    seed
        Seed of the maps and of the sample.
    n_neighbors
        Number of neighbors of each cell in UMAP.
    progress
        Called with the number of maps done.

    Raises
    ------
    BftembedError
        For columns that are not labels, more than 60 labels, embeddings without 3 usable vectors, and files that cannot
        be read or written.
    """
    figure, table = _outputs(out, points, data)
    wanted, columns = _chosen(keys, "keys"), _chosen(color, "color")
    source, where = str(data), place_of(str(data))
    values, _, _ = read_cells(source, [], columns)
    for column in columns:
        found = {str(x) for x in check_groups(values[column], column, where)}
        if len(found) > MAX_LABELS:
            raise BftembedError(
                f"{where}: obs[{column!r}] has {len(found)} labels, more than a map can show ({MAX_LABELS})."
            )
    n_cells = len(values[columns[0]])
    if n_cells < 3:
        raise BftembedError(f"{where} holds {n_cells} cells; a map needs at least 3.")
    chosen = _sample(n_cells, max_cells, seed)
    labels = {c: np.array([None if missing_label(x) else x for x in values[c][chosen]], dtype=object) for c in columns}
    # One at a time, so that only one is in memory; all before the first map, which takes its time.
    matrices = {key: read_cells(source, [key], columns[:1])[1][key][chosen] for key in wanted}
    coordinates = {}
    for i, (key, matrix) in enumerate(matrices.items()):
        progress(i, len(matrices), key)
        coordinates[key] = _coordinates(f"{where}: obsm[{key!r}]", matrix, seed, n_neighbors)
    progress(len(matrices), len(matrices), "")
    drawn = _drawn(len(chosen), n_cells, "cells")
    draw_maps(figure, coordinates, labels, f"{Path(source).name}: UMAP of {drawn}" if title is None else title)
    if table is not None:
        _write_points(table, chosen, coordinates, labels)
    return CellMaps(
        figure,
        table,
        len(chosen),
        n_cells,
        tuple(wanted),
        {name: len({str(x) for x in of if x is not None}) for name, of in labels.items()},
        {key: int(np.isnan(xy).any(axis=1).sum()) for key, xy in coordinates.items()},
    )


def _outputs(out: Any, points: Any, *inputs: Any) -> tuple[Path, Path | None]:
    """Return the files to write, which are neither an input nor one file."""
    figure_suffix(Path(out))
    files = [Path(out), *([Path(points)] if points is not None else [])]
    for file in files:
        refuse_input_as_output(file, *(x for x in inputs if isinstance(x, str | os.PathLike)))
    if len({file.resolve() for file in files}) < len(files):
        raise BftembedError(f"The points and the figure are both {out}. Give two files.")
    return files[0], files[1] if len(files) > 1 else None


def _chosen(names: str | Sequence[str], option: str) -> list[str]:
    found = listed(names)
    if not found:
        raise BftembedError(f"{option} (--{option}) is empty; give names separated by commas.")
    return found


def _sample(n: int, most: int | None, seed: int) -> NDArray[np.int64]:
    if most is not None and most < 3:
        raise BftembedError(f"A map of {most} points was asked for; it needs at least 3.")
    if most is None or most >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def _drawn(n: int, of: int, what: str) -> str:
    return f"{n:,} {what}" + (f" of {of:,}" if n < of else "")


def _read_classes(path: Path) -> dict[str, str]:
    """Read symbol → label; a gene belongs to one class."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, usecols=["symbol", "label"], encoding="utf-8-sig", keep_default_na=False)
    except (OSError, ValueError) as err:
        raise BftembedError(f"{path} is not a CSV file with the columns symbol and label: {err}.") from err
    table = table.apply(lambda column: column.str.strip()).query("symbol != ''").drop_duplicates()
    wrong = table[(table["label"] == "") | table["symbol"].duplicated()]
    if len(wrong):
        raise BftembedError(f"{path}: a gene needs exactly one label; see {examples(wrong['symbol'])}.")
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


def _write_points(
    path: Path, chosen: NDArray[np.int64], coordinates: dict[str, NDArray[Any]], labels: dict[str, NDArray[Any]]
) -> None:
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
