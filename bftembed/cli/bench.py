"""`bftembed bench …`: embeddings in, the results table out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bftembed.cli.bench_genes import genes
from bftembed.cli.bench_integration import integration
from bftembed.cli.common import JsonOption, finish_bench, progress_bar

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Score embeddings; each score beside its floors.")
app.command("genes")(genes)
app.command("integration")(integration)


@app.command("clustering")
def clustering(
    data: Annotated[
        str, typer.Argument(metavar="IN.h5ad", help="Embeddings in .obsm, labels in .obs; or builtin:NAME.")
    ],
    keys: Annotated[str, typer.Option("--keys", help="Embeddings to score, separated by commas: X_bft,X_pca.")],
    label: Annotated[str, typer.Option("--label", help="Column of .obs with the labels.")],
    out: Annotated[Path, typer.Option("--out", help="Results table to write (Parquet).")],
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of k-means seeds.")] = 5,
    run: Annotated[str | None, typer.Option("--run", help="Name of the run in the table.")] = None,
    floors: Annotated[bool, typer.Option(help="Score against permuted labels too.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Score cell embeddings by clustering: ARI and AMI of k-means over several seeds, and the raw silhouette."""
    from bftembed import bench
    from bftembed.datasets import data_path
    from bftembed.reports.tables import summarise, text_table

    names = [k.strip() for k in keys.split(",") if k.strip()]
    with progress_bar("clustering", quiet=as_json) as progress:
        frame = bench.clustering(
            data_path(data), names, label, seeds=seeds, out=out, run=run, floors=floors, progress=progress
        )
    summary = summarise(frame)
    notes = [f"note: {n}" for n in dict.fromkeys(frame["note"]) if n]
    told = f"mean and 95 % interval: ARI and AMI over {seeds} seeds, silhouette (raw) over the cells"
    finish_bench(frame, summary, out, [*text_table(summary), "", told, *notes], as_json=as_json)
