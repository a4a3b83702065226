"""`bftembed bench integration`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bftembed.cli.bench_options import (
    ENCODER,
    DataArgument,
    EncoderOption,
    GenesOption,
    KeysOption,
    LayerOption,
    OutOption,
    RawOption,
    RunOption,
    TextsOption,
)
from bftembed.cli.common import JsonOption, finish_bench, progress_bar


def integration(
    data: DataArgument,
    label: Annotated[str, typer.Option("--label", help="Column of .obs with the cell type.")],
    batch: Annotated[str, typer.Option("--batch", help="Column of .obs with the batch.")],
    out: OutOption,
    keys: KeysOption = "",
    baselines: Annotated[
        str,
        typer.Option(
            "--baselines",
            help="Made in this run: pca, harmony, bbknn, scvi, random:3, shuffled, tfidf, ncbi; commas between.",
        ),
    ] = "",
    texts: TextsOption = None,
    genes: GenesOption = None,
    encoder: EncoderOption = ENCODER,
    profile: Annotated[str, typer.Option("--profile", help="current, paper or scib: which metrics.")] = "current",
    before: Annotated[
        str | None,
        typer.Option("--before", help="Embedding from before the integration; else PCA."),
    ] = None,
    layer: LayerOption = None,
    use_raw: RawOption = False,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of k-means seeds.")] = 5,
    halves: Annotated[
        int, typer.Option("--halves", min=0, help="Random halves of the cells, for intervals of all metrics: 10.")
    ] = 0,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw the table: .png or .svg.")] = None,
    dots: Annotated[Path | None, typer.Option("--dots", help="Draw each metric as dots with intervals.")] = None,
    run: RunOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score cell embeddings by the metrics of scIB: are types kept apart, and batches mixed? Extra [scib]."""
    from bftembed import bench
    from bftembed.datasets import data_path
    from bftembed.io import refuse_input_as_output
    from bftembed.models import cache_folder
    from bftembed.reports.cell_scores import draw_cell_scores
    from bftembed.reports.drawing import figure_suffix
    from bftembed.reports.integration import integration_summary, text_lines
    from bftembed.reports.integration_figure import draw_integration

    source = data_path(data)
    for drawing in (figure, dots):
        if drawing is not None:
            figure_suffix(drawing)
            refuse_input_as_output(drawing, source, *([genes] if genes else []))
    with progress_bar("integration", quiet=as_json) as progress:
        frame = bench.integration(
            source,
            keys,
            label,
            batch,
            profile=profile,
            baselines=baselines,
            texts=texts,
            genes=genes,
            encoder=encoder,
            before=before,
            layer=layer,
            use_raw=use_raw,
            seeds=seeds,
            halves=halves,
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
    if dots is not None:
        draw_cell_scores(dots, frame)
        lines.append(str(dots))
    finish_bench(frame, summary, out, lines, as_json=as_json)
