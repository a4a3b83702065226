"""`bftembed bench perturbation`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bftembed.cli.bench_options import LayerOption, OutOption, RawOption, RunOption
from bftembed.cli.common import JsonOption, finish, progress_bar


def perturbation(
    data: Annotated[list[Path], typer.Argument(metavar="DATA.h5ad…", help="The screen: one file or several.")],
    genes: Annotated[
        list[str],
        typer.Option("--genes", metavar="[NAME=]FILE", help="Gene embeddings; repeat for more, or draws of one NAME."),
    ],
    out: OutOption,
    pert_col: Annotated[str, typer.Option("--pert-col", help="Column of .obs: perturbed gene, also A+B.")] = "gene",
    cell_type_key: Annotated[str, typer.Option("--cell-type-key", help="Column of .obs: cell type.")] = "cell_type",
    control: Annotated[str, typer.Option("--control", help="Label of control cells.")] = "non-targeting",
    split: Annotated[
        str, typer.Option("--split", help="unseen-gene, unseen-cell-type, or both; comma between.")
    ] = "unseen-gene,unseen-cell-type",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of seeds.")] = 5,
    state: Annotated[
        Path | None, typer.Option("--state", help="adata_pred.h5ad of `state tx predict` on these data: one more row.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out perturbations without a vector.")
    ] = False,
    layer: LayerOption = None,
    use_raw: RawOption = False,
    gene_column: Annotated[
        str | None, typer.Option("--gene-column", help="Column of .var with the gene names; else the index.")
    ] = None,
    draws: Annotated[int, typer.Option("--draws", min=2, help="Draws of random and shuffled vectors per seed.")] = 4,
    pca_dim: Annotated[int, typer.Option("--pca-dim", min=1, help="Dimensions of P and G.")] = 10,
    ridge: Annotated[float, typer.Option("--ridge", help="Of the bilinear model, both sides.")] = 0.1,
    top: Annotated[
        int | None, typer.Option("--de-top", min=1, help="At most so many changed genes per condition; else all.")
    ] = None,
    second_scorer: Annotated[
        str | None, typer.Option("--second-scorer", help="cell-eval2: its MAE and PDS beside ours. Extra [perturb].")
    ] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw the scores: .png or .svg.")] = None,
    run: RunOption = None,
    as_json: JsonOption = False,
) -> None:
    """Do gene embeddings tell what perturbing a gene does? Linear predictors, beside random and shuffled vectors."""
    from bftembed import bench
    from bftembed.io import refuse_input_as_output
    from bftembed.reports.drawing import figure_suffix
    from bftembed.reports.perturbation import draw_perturbation, perturbation_summary, text_lines

    if figure is not None:
        figure_suffix(figure)
        refuse_input_as_output(figure, *data, *([state] if state else []))
    with progress_bar("perturbation", quiet=as_json) as progress:
        frame = bench.perturbation(
            list(data),
            genes,
            pert_col=pert_col,
            cell_type_key=cell_type_key,
            control=control,
            split=split,
            seeds=seeds,
            state=state,
            allow_missing=allow_missing,
            layer=layer,
            use_raw=use_raw,
            gene_column=gene_column,
            draws=draws,
            pca_dim=pca_dim,
            ridge=ridge,
            top=top,
            second_scorer=second_scorer,
            out=out,
            run=run,
            progress=progress,
        )
    summary = perturbation_summary(frame)
    lines = text_lines(summary)
    if figure is not None:
        draw_perturbation(figure, summary)
        lines.append(str(figure))
    # What is undefined by its nature (the correlation of a constant) is no failure.
    failed = int((frame["value"].isna() & frame["note"].str.contains("error: ", regex=False)).sum())
    rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
    found = {"out": str(out), "rows": len(frame), "failed": failed, "summary": rows}
    finish(found, [*lines, str(out)], as_json=as_json, failed=failed > 0)
