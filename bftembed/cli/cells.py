"""`bftembed cells …`: cell embeddings of h5ad files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bftembed.cli.cells_check import check
from bftembed.cli.cells_merge import merge, merged_lines
from bftembed.cli.cells_sentences import sentences
from bftembed.cli.cells_umap import umap
from bftembed.cli.common import JsonOption, finish, progress_bar

if TYPE_CHECKING:
    from bftembed.cells.report import CellEmbeddingReport

app = typer.Typer(
    help="Cell embeddings: expression times gene embeddings.", no_args_is_help=True, rich_markup_mode=None
)


app.command("merge")(merge)


@app.callback()
def _group() -> None:
    pass


app.command("check")(check)
app.command("sentences")(sentences)
app.command("umap")(umap)


@app.command("embed")
def embed(
    data: Annotated[
        list[str], typer.Argument(metavar="IN.h5ad…", help="Cells × genes (or builtin:NAME); streamed, never modified.")
    ],
    genes: Annotated[Path, typer.Option("--genes", help="Gene embeddings (.safetensors).")],
    out: Annotated[Path | None, typer.Option("--out", help="Copy of IN.h5ad to write, with .obsm[KEY] in it.")] = None,
    sidecar: Annotated[
        Path | None, typer.Option("--sidecar", help="Instead: a .h5ad, .zarr or .parquet of the vectors alone.")
    ] = None,
    shard: Annotated[str | None, typer.Option("--shard", metavar="I/N", help="Only the I-th of N parts.")] = None,
    workers: Annotated[
        Literal["ray"] | None, typer.Option("--workers", help="Embed --shard-count shards at a time, and join them.")
    ] = None,
    shard_count: Annotated[int | None, typer.Option("--shard-count", min=1, help="Shards for --workers.")] = None,
    key: Annotated[str, typer.Option("--key", help="Key of .obsm.")] = "X_bft",
    layer: Annotated[str | None, typer.Option("--layer", help="Use .layers[LAYER] instead of X.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Use .raw instead of X.")] = False,
    modality: Annotated[str | None, typer.Option("--modality", help="Which one of a MuData file.")] = None,
    obsm: Annotated[str | None, typer.Option("--obsm", help="Use .obsm[OBSM], such as protein counts.")] = None,
    obsm_names: Annotated[
        str | None, typer.Option("--obsm-names", metavar="uns/KEY", help="Where its names are; default uns/OBSM_names.")
    ] = None,
    kind: Annotated[
        Literal["gene", "protein"], typer.Option("--kind", help="protein: names of antibodies, UniProt accessions.")
    ] = "gene",
    gene_column: Annotated[
        str | None, typer.Option("--gene-column", help="Column of .var with gene names; default: its index.")
    ] = None,
    normalize: Annotated[
        Literal["auto", "log1p-cp10k", "clr", "none"], typer.Option("--normalize", help="auto decides and says why.")
    ] = "auto",
    weights: Annotated[
        Literal["expression", "rank", "idf"], typer.Option("--weights", help="What a gene counts in a cell.")
    ] = "expression",
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Only the top K genes of each cell.")] = None,
    gene_matrix: Annotated[
        str, typer.Option("--gene-matrix", help="raw, center or whiten:K: the gene embeddings before the sum.")
    ] = "raw",
    denominator: Annotated[
        Literal["all-genes", "matched-expression"], typer.Option("--denominator", help="Matters with --no-l2 only.")
    ] = "all-genes",
    no_l2: Annotated[bool, typer.Option("--no-l2", help="Do not scale vectors to length 1.")] = False,
    empty_cells: Annotated[
        Literal["error", "nan", "drop"], typer.Option("--empty-cells", help="What to do with cells without a gene.")
    ] = "error",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace .obsm[KEY] when IN.h5ad has it.")] = False,
    precision: Annotated[
        Literal["fast", "exact"], typer.Option("--precision", help="exact: float32 throughout.")
    ] = "fast",
    kernel: Annotated[str | None, typer.Option("--kernel", help="Pin the kernel; default: the fastest here.")] = None,
    block_rows: Annotated[
        int | None, typer.Option("--block-rows", min=1, help="Cells read at a time; default 2048.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Budget for gene matrix and blocks, for example 600MB.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Embed cells as the expression-weighted mean of gene embeddings (GenePT-w)."""
    from bftembed.cells.embed import embed_cells
    from bftembed.cells.report import CellEmbeddingReport
    from bftembed.datasets import data_path

    if (out is None) == (sidecar is None):
        raise typer.BadParameter("Give either --out or --sidecar.", param_hint="'--out' / '--sidecar'")
    if (workers is None) != (shard_count is None):
        raise typer.BadParameter("--workers and --shard-count go together.", param_hint="'--workers'")
    if workers is not None and (sidecar is None or shard is not None or len(data) > 1):
        raise typer.BadParameter("It takes one file, --sidecar, and no --shard.", param_hint="'--workers'")
    paths = [data_path(one) for one in data]
    options: dict[str, Any] = {
        "key": key,
        "layer": layer,
        "use_raw": raw,
        "modality": modality,
        "obsm": obsm,
        "obsm_names": obsm_names,
        "kind": kind,
        "gene_column": gene_column,
        "normalize": normalize,
        "weights": weights,
        "top_k": top_k,
        "gene_matrix": gene_matrix,
        "denominator": denominator,
        "l2": not no_l2,
        "empty_cells": empty_cells,
        "precision": precision,
        "kernel": kernel,
        "block_rows": block_rows,
        "memory": memory,
    }
    if workers is not None and sidecar is not None and shard_count is not None:
        from bftembed.cells.spread import embed_with_ray

        with progress_bar("shards", quiet=as_json) as progress:
            joined = embed_with_ray(paths[0], genes, sidecar, shard_count=shard_count, **options, progress=progress)
        finish(joined.as_dict(), merged_lines(joined), as_json=as_json)
        return
    places: dict[str, Any] = {"out": out, "sidecar": sidecar, "shard": shard, "overwrite": overwrite}
    with progress_bar("cells", quiet=as_json) as progress:
        report = embed_cells(paths[0] if len(paths) == 1 else paths, genes, **places, **options, progress=progress)
    assert isinstance(report, CellEmbeddingReport)  # a path was given, not an AnnData
    finish(report.as_dict(), _lines(report), as_json=as_json)


def _lines(report: CellEmbeddingReport) -> list[str]:
    from bftembed.errors import examples

    aside = [
        f"{n} {what}"
        for n, what in (
            (report.n_no_embedding, "known but without an embedding"),
            (report.n_unresolved, "unknown"),
            (report.n_ambiguous, "ambiguous"),
        )
        if n
    ]
    lines = [
        f"cells      {report.n_cells} × {report.dim} dimensions, from {report.matrix}",
        f"values     {report.normalize} ({report.reason})",
        f"genes      {report.n_matched} of {report.n_genes} have an embedding"
        + (f", {report.n_mapped} of them under another name" if report.n_mapped else "")
        + (f"; {', '.join(aside)}" if aside else ""),
        f"coverage   {report.coverage:.1%} of all expression lies in genes with an embedding",
    ]
    if report.n_other_features:
        lines.append(f"features   {report.n_other_features} of another type by .var left out, also of the totals")
    if report.files:
        parts = [f"{one.file} {one.n_cells} cells, {one.n_matched} genes, {one.coverage:.1%}" for one in report.files]
        lines.append(f"files      {'; '.join(parts)} (genes above: those of the lowest coverage)")
    if report.n_duplicates:
        lines.append(f"duplicates {report.n_duplicates} columns share their gene with another column: summed")
    if report.n_empty:
        done = "left out" if report.empty_policy == "drop" else "NaN"
        names = examples(report.empty_cells)
        lines.append(f"empty      {report.n_empty} cells express no gene with an embedding, {done}: {names}")
    scaled = "length 1" if report.l2 else f"divided by {report.denominator}"
    how = [report.weights] + ([f"top {report.top_k} genes"] if report.top_k else [])
    lines.append(f"weights    {', '.join(how)}; gene matrix {report.gene_matrix}; kernel {report.kernel}")
    lines.append(f"written    {report.out}: .obsm[{report.key!r}] ({scaled})")
    return lines
