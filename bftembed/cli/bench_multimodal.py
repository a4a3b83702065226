"""`bftembed bench multimodal`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bftembed.cli.common import JsonOption, finish_bench, progress_bar


def multimodal(
    data: Annotated[
        str,
        typer.Argument(metavar="IN", help="RNA and proteins: .h5mu, .h5ad, 10x .h5 or mtx folder; or builtin:NAME."),
    ],
    genes: Annotated[
        list[str], typer.Option("--genes", metavar="[NAME=]FILE", help="Gene embeddings (.safetensors); several times.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Results table to write (Parquet).")],
    proteins: Annotated[
        list[str] | None,
        typer.Option("--proteins", metavar="[NAME=]FILE", help="Protein embeddings; default: those of their genes."),
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Column of .obs with the cell type; default: clusters of the RNA.")
    ] = None,
    protein_data: Annotated[
        str | None, typer.Option("--protein-data", metavar="FILE", help="h5ad of the proteins, where IN has the RNA.")
    ] = None,
    rna: Annotated[str | None, typer.Option("--rna", help="Of MuData: the modality with the RNA.")] = None,
    adt: Annotated[str | None, typer.Option("--adt", help="Of MuData: the modality with the proteins.")] = None,
    obsm: Annotated[str | None, typer.Option("--obsm", help="Key of .obsm with the protein counts.")] = None,
    obsm_names: Annotated[
        str | None, typer.Option("--obsm-names", metavar="uns/KEY", help="Where its names are; default uns/OBSM_names.")
    ] = None,
    layer: Annotated[str | None, typer.Option("--layer", help="RNA in this layer instead of .X.")] = None,
    use_raw: Annotated[bool, typer.Option("--raw", help="RNA in .raw instead of .X.")] = False,
    gene_column: Annotated[
        str | None, typer.Option("--gene-column", help="Column of .var with gene names; default: its index.")
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", help="expression, rank or idf, as of cells embed.")
    ] = "expression",
    gene_matrix: Annotated[
        str, typer.Option("--gene-matrix", help="raw, center or whiten:K, fitted on the genes of the RNA for both.")
    ] = "raw",
    normalize: Annotated[str, typer.Option("--normalize", help="Of the RNA: auto, log1p-cp10k or none.")] = "auto",
    center_cells: Annotated[
        bool, typer.Option("--center-cells", help="Take off the mean of the cells of each modality.")
    ] = False,
    protein_normalize: Annotated[
        str, typer.Option("--protein-normalize", help="Of the proteins: clr, or none where that is done.")
    ] = "clr",
    baselines: Annotated[
        str, typer.Option("--baselines", help="Made in this run: linked,harmony,bbknn,random,shuffled.")
    ] = "linked,random",
    draws: Annotated[int, typer.Option("--draws", min=1, help="Number of draws of random and shuffled vectors.")] = 5,
    joined: Annotated[
        Path | None,
        typer.Option("--joined", metavar="FILE.h5ad", help="Joint embedding of another program; obs: cell, modality."),
    ] = None,
    joined_key: Annotated[str, typer.Option("--joined-key", help="Its keys of .obsm: X_maxfuse,X_scmodal.")] = "",
    profile: Annotated[str, typer.Option("--profile", help="current, or paper: which metrics.")] = "current",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of k-means seeds.")] = 5,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw the scIB table: .png or .svg.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Name of the run in the table.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score RNA and proteins of the same cells in one space: mixed, and each cell beside itself? Extra [scib]."""
    from bftembed import bench
    from bftembed.datasets import data_path
    from bftembed.io import refuse_input_as_output
    from bftembed.models import cache_folder
    from bftembed.reports.drawing import figure_suffix
    from bftembed.reports.integration import integration_summary, text_lines
    from bftembed.reports.integration_figure import draw_integration
    from bftembed.reports.matching import matching_lines, matching_summary, with_matching

    source = data_path(data)
    tables, of_proteins = _named(genes), _named(proteins or [])
    if figure is not None:
        figure_suffix(figure)
        inputs = (source, protein_data, joined, *tables.values(), *of_proteins.values())
        refuse_input_as_output(figure, *inputs)
    with progress_bar("multimodal", quiet=as_json) as progress:
        frame = bench.multimodal(
            source,
            tables,
            _of_one(proteins or [], of_proteins),
            label=label,
            protein_data=protein_data,
            rna=rna,
            adt=adt,
            obsm=obsm,
            obsm_names=obsm_names,
            layer=layer,
            use_raw=use_raw,
            gene_column=gene_column,
            weights=weights,
            gene_matrix=gene_matrix,
            normalize=normalize,
            protein_normalize=protein_normalize,
            center_cells=center_cells,
            baselines=baselines,
            draws=draws,
            joined=joined,
            joined_keys=joined_key,
            profile=profile,
            seeds=seeds,
            out=out,
            run=run,
            cache=cache_folder() / "jax",
            progress=progress,
        )
    summary, matched = integration_summary(frame), matching_summary(frame)
    lines = [*text_lines(summary), "", *matching_lines(matched)]
    if figure is not None:
        draw_integration(figure, summary)
        lines.append(str(figure))
    finish_bench(frame, with_matching(summary, matched), out, lines, as_json=as_json)


def _named(given: list[str]) -> dict[str, str]:
    """Return name → file, of FILE (named by its stem) and NAME=FILE."""
    from bftembed.errors import BftembedError

    found: dict[str, str] = {}
    for one in given:
        name, sign, file = one.partition("=")
        if not sign or Path(one).exists():
            name, file = Path(one).stem, one
        if not name or not file:
            raise BftembedError(f"{one}: write NAME=FILE, or the file alone.")
        if name in found:
            raise BftembedError(f"Two embeddings are called {name!r}. Name them: NAME={one}")
        found[name] = file
    return found


def _of_one(given: list[str], proteins: dict[str, str]) -> dict[str, str] | str | None:
    """Return the protein embeddings by name; one file without a name is for all gene embeddings."""
    if len(given) == 1 and given[0] in proteins.values():
        return given[0]
    return proteins or None
