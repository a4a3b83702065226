"""`bftembed cells sentences`: cells as sentences of their genes, encoded (GenePT-s)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bftembed.cli.common import JsonOption, finish, progress_bar

if TYPE_CHECKING:
    from bftembed.cells.sentence_report import SentenceEmbeddingReport


def sentences(
    data: Annotated[
        str, typer.Argument(metavar="IN.h5ad", help="Cells × genes (or builtin:NAME); streamed, never modified.")
    ],
    encoder: Annotated[
        str | None, typer.Option("--encoder", help="Encoder with fixed weights, e.g. builtin:all-minilm-l6-v2.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Copy of IN.h5ad to write, with .obsm[KEY] in it.")] = None,
    show: Annotated[
        int | None, typer.Option("--show", min=1, help="Print the first N sentences; encode and write nothing.")
    ] = None,
    key: Annotated[str, typer.Option("--key", help="Key of .obsm.")] = "X_sentence",
    layer: Annotated[str | None, typer.Option("--layer", help="Use .layers[LAYER] instead of X.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Use .raw instead of X.")] = False,
    gene_column: Annotated[
        str | None, typer.Option("--gene-column", help="Column of .var with gene names; default: its index.")
    ] = None,
    normalize: Annotated[
        Literal["auto", "log1p-cp10k", "clr", "none"],
        typer.Option("--normalize", help="What the values are; the order of genes is the same."),
    ] = "auto",
    top_genes: Annotated[
        int, typer.Option("--top-genes", min=0, help="Most genes of a sentence; 0 for no limit.")
    ] = 1000,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help='Before the genes; default: "A cell with genes ranked by …: ".')
    ] = None,
    batch_cells: Annotated[int, typer.Option("--batch-cells", min=1, help="Cells read at a time.")] = 512,
    empty_cells: Annotated[
        Literal["error", "nan", "drop"], typer.Option("--empty-cells", help="What to do with cells without a gene.")
    ] = "error",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace .obsm[KEY] when IN.h5ad has it.")] = False,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="File that keeps vectors; default: OUT.sentences.sqlite.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no vectors; a killed run begins again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Embed cells as the sentences of their genes by falling expression (GenePT-s)."""
    from bftembed.cells.sentence_report import SentenceEmbeddingReport
    from bftembed.cells.sentences import PREFIX, cell_sentences, embed_cells_as_sentences
    from bftembed.datasets import data_path
    from bftembed.errors import BftembedError

    path, before, most = data_path(data), PREFIX if prefix is None else prefix, top_genes or None
    if show is not None:
        made = cell_sentences(
            path, first=show, layer=layer, use_raw=raw, gene_column=gene_column, top_genes=most, prefix=before
        )
        finish({"sentences": made}, made, as_json=as_json)
        return
    if encoder is None or out is None:
        raise BftembedError("Give --encoder SPEC and --out OUT.h5ad, or --show N to print the first N sentences.")
    if cache is not None and no_cache:
        raise BftembedError("Give either --cache or --no-cache, not both.")
    with progress_bar("cells", quiet=as_json) as progress:
        report = embed_cells_as_sentences(
            path,
            encoder=encoder,
            key=key,
            out=out,
            layer=layer,
            use_raw=raw,
            gene_column=gene_column,
            normalize=normalize,
            top_genes=most,
            prefix=before,
            batch_cells=batch_cells,
            empty_cells=empty_cells,
            overwrite=overwrite,
            cache=False if no_cache else cache,
            progress=progress,
        )
    assert isinstance(report, SentenceEmbeddingReport)  # a path was given, not an AnnData
    finish(report.as_dict(), _lines(report), as_json=as_json)


def _lines(report: SentenceEmbeddingReport) -> list[str]:
    from bftembed.errors import examples

    known = report.n_used + report.n_mapped
    aside = [
        f"{n} {what}"
        for n, what in (
            (report.n_unresolved, "unknown, by their own name"),
            (report.n_ambiguous, "ambiguous, by their own name"),
            (report.n_unnamed, "without a name, left out"),
            (report.n_duplicates, "of the same gene as another column, named once"),
        )
        if n
    ]
    cut = f"; {report.n_cut} cells express more than {report.top_genes}" if report.n_cut else ""
    lines = [
        f"cells      {report.n_cells} × {report.dim} dimensions, from {report.matrix}",
        f"values     {report.normalize} ({report.reason})",
        f"genes      {known} of {report.n_genes} by their approved symbol"
        + (f", {report.n_mapped} of them under another name" if report.n_mapped else "")
        + (f"; {'; '.join(aside)}" if aside else ""),
        f"sentences  {report.mean_symbols:.1f} symbols on average, {report.coverage:.1%} of all expression{cut}",
        f"encoder    {report.encoder}: {_limit(report)}",
        f"cache      {report.cache or 'none'}: {report.n_encoded} sentences encoded, {report.n_reused} found",
    ]
    if report.n_other_features:
        lines.append(f"features   {report.n_other_features} of another type by .var left out")
    if report.n_empty:
        done = "left out" if report.empty_policy == "drop" else "NaN"
        lines.append(f"empty      {report.n_empty} cells express no gene, {done}: {examples(report.empty_cells)}")
    return [*lines, f"written    {report.out}: .obsm[{report.key!r}]"]


def _limit(report: SentenceEmbeddingReport) -> str:
    limit = report.encoding["max_tokens"]
    if limit is None:
        return "no limit of length"
    if not report.share_over_limit:
        return f"every sentence is within its {limit} tokens"
    rest = {"truncate": "the rest is cut off", "chunk": "the rest is encoded in further pieces and averaged"}
    return (
        f"{report.share_over_limit:.1%} of the sentences exceed its {limit} tokens; about "
        f"{report.mean_symbols_within_limit:.1f} of {report.mean_symbols:.1f} symbols are within, "
        f"{rest.get(report.long, 'what becomes of the rest is not known')}"
    )
