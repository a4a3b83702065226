"""`bftembed bench integration`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bftembed.cli.common import JsonOption, finish_bench, progress_bar


def integration(
    data: Annotated[
        str, typer.Argument(metavar="IN.h5ad", help="Embeddings in .obsm, labels and batches in .obs; or builtin:NAME.")
    ],
    label: Annotated[str, typer.Option("--label", help="Column of .obs with the cell type.")],
    batch: Annotated[str, typer.Option("--batch", help="Column of .obs with the batch.")],
    out: Annotated[Path, typer.Option("--out", help="Results table to write (Parquet).")],
    keys: Annotated[str, typer.Option("--keys", help="Embeddings to score, separated by commas: X_bft,X_pca.")] = "",
    baselines: Annotated[
        str, typer.Option("--baselines", help="Made of the expression in this run: pca,harmony,bbknn.")
    ] = "",
    profile: Annotated[str, typer.Option("--profile", help="current, or paper: which metrics.")] = "current",
    before: Annotated[
        str | None,
        typer.Option("--before", help="Embedding from before the integration; else PCA."),
    ] = None,
    layer: Annotated[str | None, typer.Option("--layer", help="Expression in this layer instead of .X.")] = None,
    use_raw: Annotated[bool, typer.Option("--raw", help="Expression in .raw instead of .X.")] = False,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of k-means seeds.")] = 5,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw the table: .png or .svg.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Name of the run in the table.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score cell embeddings by the metrics of scIB: are types kept apart, and batches mixed? Extra [scib]."""
    from bftembed import bench
    from bftembed.datasets import data_path
    from bftembed.io import refuse_input_as_output
    from bftembed.models import cache_folder
    from bftembed.reports.drawing import figure_suffix
    from bftembed.reports.integration import integration_summary, text_lines
    from bftembed.reports.integration_figure import draw_integration

    source = data_path(data)
    if figure is not None:
        figure_suffix(figure)
        refuse_input_as_output(figure, source)
    with progress_bar("integration", quiet=as_json) as progress:
        frame = bench.integration(
            source,
            keys,
            label,
            batch,
            profile=profile,
            baselines=baselines,
            before=before,
            layer=layer,
            use_raw=use_raw,
            seeds=seeds,
            out=out,
            run=run,
            cache=cache_folder() / "jax",
            progress=progress,
        )
    summary = integration_summary(frame)
    lines = text_lines(summary)
    if figure is not None:
        draw_integration(figure, summary)
        lines.append(str(figure))
    finish_bench(frame, summary, out, lines, as_json=as_json)
