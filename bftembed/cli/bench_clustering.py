"""`bftembed bench clustering`."""

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


def clustering(
    data: DataArgument,
    label: Annotated[str, typer.Option("--label", help="Column of .obs with the labels.")],
    out: OutOption,
    keys: KeysOption = "",
    protocol: Annotated[
        str, typer.Option("--protocol", help="strict (extra [scib]), genept, standard, or several: strict,genept.")
    ] = "strict",
    baselines: Annotated[
        str,
        typer.Option("--baselines", help="Made in this run: pca, random:3, shuffled, tfidf, ncbi; commas between."),
    ] = "",
    texts: TextsOption = None,
    genes: GenesOption = None,
    encoder: EncoderOption = ENCODER,
    layer: LayerOption = None,
    use_raw: RawOption = False,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of seeds of the clusterings.")] = 5,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw the scores: .png or .svg.")] = None,
    run: RunOption = None,
    floors: Annotated[bool, typer.Option(help="Score against permuted labels too.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Score cell embeddings by clustering, whether cells that lie together share a label."""
    from bftembed import bench
    from bftembed.bench.reading import listed
    from bftembed.datasets import data_path
    from bftembed.io import refuse_input_as_output
    from bftembed.reports.cell_scores import draw_cell_scores
    from bftembed.reports.clustering import clustering_lines
    from bftembed.reports.drawing import figure_suffix
    from bftembed.reports.tables import summarise

    source = data_path(data)
    if figure is not None:
        figure_suffix(figure)
        refuse_input_as_output(figure, source, *([genes] if genes else []))
    with progress_bar("clustering", quiet=as_json) as progress:
        frame = bench.clustering(
            source,
            keys,
            label,
            protocol=protocol,
            baselines=baselines,
            texts=texts,
            genes=genes,
            encoder=encoder,
            layer=layer,
            use_raw=use_raw,
            seeds=seeds,
            out=out,
            run=run,
            floors=floors,
            progress=progress,
        )
    summary = summarise(frame)
    lines: list[str] = []
    for one in listed(protocol):
        lines += [*([""] if lines else []), *clustering_lines(summary, one)]
    if figure is not None:
        draw_cell_scores(figure, frame)
        lines.append(str(figure))
    finish_bench(frame, summary, out, lines, as_json=as_json)
