"""`bftembed genes umap`: gene embeddings in, a map of the genes out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bftembed.cli.common import JsonOption, finish, say

if TYPE_CHECKING:
    import numpy as np


def umap(
    embeddings: Annotated[Path, typer.Argument(metavar="EMB.safetensors", help="From `bftembed genes embed`.")],
    out: Annotated[Path, typer.Option("--out", help="Figure to write: .png or .svg.")],
    classes: Annotated[
        Path | None,
        typer.Option("--classes", help="CSV with the columns symbol,label. Default: families by the gene's HGNC name."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the map, and of the sample of --max-genes.")] = 0,
    neighbors: Annotated[int, typer.Option("--neighbors", min=2, help="Neighbours of each gene in UMAP.")] = 15,
    max_genes: Annotated[
        int | None, typer.Option("--max-genes", min=3, help="Draw so many genes at most, taken at random.")
    ] = None,
    points: Annotated[
        Path | None, typer.Option("--points", help="CSV to write: symbol, x, y and label of each gene.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Line above the figure; default the file and n.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw gene embeddings as a UMAP, coloured by functional class. It is a picture, not a score."""
    import numpy as np

    from bftembed.embeddings import GeneEmbeddings
    from bftembed.entities.classes import OTHER, functional_classes
    from bftembed.errors import BftembedError
    from bftembed.io import refuse_input_as_output
    from bftembed.metrics.projection import umap_coordinates
    from bftembed.reports.drawing import figure_suffix
    from bftembed.reports.gene_map import draw_gene_map

    figure_suffix(out)
    written = [path for path in (out, points) if path is not None]
    for path in written:
        refuse_input_as_output(path, embeddings, *([classes] if classes else []))
    if points is not None and points.resolve() == out.resolve():
        raise BftembedError(f"--points and --out are both {out}. Give two files.")
    made = GeneEmbeddings.load(embeddings)
    if len(made) < 3:
        raise BftembedError(f"{embeddings} holds {len(made)} genes; a map needs at least 3.")
    chosen = np.arange(len(made))
    if max_genes is not None and max_genes < len(made):
        chosen = np.sort(np.random.default_rng(seed).choice(len(made), max_genes, replace=False))
    genes = [made.ids[i] for i in chosen]
    if classes is None:
        labels = functional_classes(genes)
    else:
        known = _read_classes(classes)
        labels = [known.get(gene, OTHER) for gene in genes]
        if not any(gene in known for gene in genes):
            raise BftembedError(
                f"None of the {len(known)} symbols of {classes} has a vector in {embeddings}, which holds "
                f"{', '.join(genes[:5])} … Both must name genes alike."
            )
    say(f"UMAP of {len(genes)} genes …")
    coordinates = umap_coordinates(made.matrix[chosen], seed, n_neighbors=neighbors)
    whole = f"{len(genes):,} genes" + (f" of {len(made):,}" if len(genes) < len(made) else "")
    draw_gene_map(out, coordinates, labels, title if title is not None else f"{embeddings.name}: UMAP of {whole}")
    if points is not None:
        _write_points(points, genes, coordinates, labels)
    counts = dict(Counter(labels).most_common())
    summary = {
        "out": str(out),
        "points": None if points is None else str(points),
        "genes": len(genes),
        "of": len(made),
        "classes": counts,
    }
    lines = [f"drawn: {whole}", ", ".join(f"{label} {n:,}" for label, n in counts.items()), f"figure: {out}"]
    if points is not None:
        lines.append(f"points: {points}")
    finish(summary, lines, as_json=as_json)


def _read_classes(path: Path) -> dict[str, str]:
    """Read symbol → label; a gene belongs to one class."""
    import csv

    from bftembed.errors import BftembedError

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as err:
        raise BftembedError(f"Cannot read the classes {path}: {err.strerror}.") from err
    except UnicodeDecodeError as err:
        raise BftembedError(f"{path} is not UTF-8 text. Save it as CSV in UTF-8.") from err
    rows = csv.DictReader(lines)
    lacking = [c for c in ("symbol", "label") if c not in (rows.fieldnames or ())]
    if lacking:
        raise BftembedError(f"{path} lacks the column {' and '.join(lacking)}: its first line must be symbol,label.")
    found: dict[str, str] = {}
    try:
        for row in rows:
            symbol, label = (row["symbol"] or "").strip(), (row["label"] or "").strip()
            if not symbol:
                continue
            if not label:
                raise BftembedError(f"{path}, line {rows.line_num}: {symbol!r} has no label.")
            if found.setdefault(symbol, label) != label:
                raise BftembedError(
                    f"{path}, line {rows.line_num}: {symbol!r} is {label!r}, but above it is {found[symbol]!r}. "
                    "A gene belongs to one class."
                )
    except csv.Error as err:
        raise BftembedError(f"{path}, line {rows.line_num}: {err}.") from err
    return found


def _write_points(path: Path, genes: list[str], coordinates: np.ndarray, labels: list[str]) -> None:
    import csv
    import io

    from bftembed.io import write_text

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["symbol", "x", "y", "label"])
    for gene, (x, y), label in zip(genes, coordinates.tolist(), labels, strict=True):
        writer.writerow([gene, f"{x:.6g}", f"{y:.6g}", label])
    write_text(path, text.getvalue())
