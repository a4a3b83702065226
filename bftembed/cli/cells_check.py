"""`bftembed cells check`: whether `cells embed` would work on a file, and what it would do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bftembed.cli.common import ERROR, JsonOption, finish, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bftembed.cells.check import CellCheck


def check(
    data: Annotated[str, typer.Argument(metavar="IN.h5ad", help="Cells × genes (or builtin:NAME); only read.")],
    genes: Annotated[
        Path | None, typer.Option("--genes", help="Gene embeddings (.safetensors); default: look genes up in HGNC.")
    ] = None,
    key: Annotated[str, typer.Option("--key", help="Key of .obsm that is to be written.")] = "X_bft",
    layer: Annotated[str | None, typer.Option("--layer", help="Use .layers[LAYER] instead of X.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Use .raw instead of X.")] = False,
    gene_column: Annotated[
        str | None, typer.Option("--gene-column", help="Column of .var with gene names; default: its index.")
    ] = None,
    normalize: Annotated[
        Literal["auto", "log1p-cp10k", "none"], typer.Option("--normalize", help="auto decides and says why.")
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace .obsm[KEY] when IN.h5ad has it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what `cells embed` would do and refuse, in seconds; exit code 1 when it would refuse."""
    from bftembed.cells.check import check_cells
    from bftembed.datasets import data_path

    found = check_cells(
        data_path(data),
        genes,
        layer=layer,
        use_raw=raw,
        gene_column=gene_column,
        normalize=normalize,
        key=key,
        overwrite=overwrite,
    )
    finish(found.as_dict(), list(_lines(found)), as_json=as_json)
    if not found.ok:
        if not as_json:
            for problem in found.problems:
                say(f"error: {problem}")
        raise typer.Exit(ERROR)


def _lines(found: CellCheck) -> Iterator[str]:
    yield f"file       {found.path} ({found.n_bytes:,} bytes)"
    matrix, genes, values = found.matrix, found.genes, found.values
    if matrix is not None:
        density = "" if matrix.density is None else f", {matrix.density:.1%} filled"
        kind = " and ".join(filter(None, (matrix.dtype, matrix.index_dtype)))
        yield f"matrix     {matrix.name}: {matrix.n_cells:,} cells × {matrix.n_genes:,} genes, {matrix.form} of {kind}"
        if matrix.n_other_features:
            yield f"features   {matrix.n_other_features:,} of another type by .var are left out"
        yield f"stored     {matrix.n_values:,} values{density}; {_stored(matrix.compression, matrix.chunk)}"
        yield f"others     {'; '.join(matrix.others) or 'no other matrix'}"
    yield f"obsm       {', '.join(found.obsm) or 'nothing'}"
    if genes is not None:
        what = "known to HGNC" if genes.matched_to == "HGNC" else "with an embedding"
        aside = [
            f"{n:,} {word}"
            for n, word in (
                (genes.n_mapped, "of them under another name"),
                (genes.n_no_embedding, "known but without an embedding"),
                (genes.n_unresolved, "unknown"),
                (genes.n_ambiguous, "ambiguous"),
                (genes.n_duplicates, "sharing their gene with another column: summed"),
            )
            if n
        ]
        covered = f"{genes.n_used + genes.n_mapped:,} {what} ({genes.share:.1%} of all)"
        yield f"genes      {'; '.join([covered, *aside])}"
    if values is not None:
        estimate = "" if values.whole else ", an estimate"
        yield f"sample     {values.sampled}"
        if values.coverage is not None:
            yield f"coverage   {values.coverage:.1%} of the expression lies in these genes{estimate}"
        if values.normalize:
            yield f"values     {values.normalize} ({values.reason})"
        if values.n_empty is None:
            yield "empty      not known: that takes whole cells, good values and covered genes"
        else:
            yield f"empty      {values.n_empty:,} cells express none of these genes{estimate}"
    for note in found.notes:
        yield f"note       {note}"
    yield "result     cells embed would refuse this" if found.problems else "result     cells embed would work"


def _stored(compression: str, chunk: tuple[int, ...] | None) -> str:
    if chunk is None:
        return "not compressed, in one piece"
    return f"{compression or 'not compressed'}, in chunks of {' × '.join(f'{n:,}' for n in chunk)}"
