"""Options that the benchmarks of cells share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataArgument = Annotated[
    str, typer.Argument(metavar="IN.h5ad", help="Embeddings in .obsm, labels in .obs; or builtin:NAME.")
]
KeysOption = Annotated[str, typer.Option("--keys", help="Embeddings to score, separated by commas: X_bft,X_pca.")]
TextsOption = Annotated[
    str | None,
    typer.Option(
        "--texts", help="For baseline tfidf: a profile store, its Parquet, a TSV of gene and text, or dataset:NAME."
    ),
]
GenesOption = Annotated[Path | None, typer.Option("--genes", help="For baseline shuffled: gene embeddings.")]
EncoderOption = Annotated[str, typer.Option("--encoder", help="For baseline ncbi: the encoder of RefSeq summaries.")]
LayerOption = Annotated[str | None, typer.Option("--layer", help="Expression in this layer instead of .X.")]
RawOption = Annotated[bool, typer.Option("--raw", help="Expression in .raw instead of .X.")]
RunOption = Annotated[str | None, typer.Option("--run", help="Name of the run in the table.")]
OutOption = Annotated[Path, typer.Option("--out", help="Results table to write (Parquet).")]

#: The default of `EncoderOption`.
ENCODER = "builtin:all-minilm-l6-v2"
