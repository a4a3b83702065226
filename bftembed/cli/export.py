"""`bftembed export …`: folders that other people's models take unmodified, and their check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bftembed.cli.common import JsonOption, finish, progress_bar

app = typer.Typer(
    help="Inputs for models of others (STATE), and a check of them.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _group() -> None:
    pass


@app.command("state")
def state(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA.h5ad…", help="Perturbed cells and controls (or builtin:NAME).")
    ],
    genes: Annotated[Path, typer.Option("--genes", help="Gene embeddings (.safetensors).")],
    out: Annotated[Path, typer.Option("--out", help="Folder to make; must not be there, or be empty.")],
    pert_col: Annotated[str, typer.Option("--pert-col", help="Column of .obs: the perturbed gene.")] = "gene",
    cell_type_key: Annotated[str, typer.Option("--cell-type-key", help="Column of .obs.")] = "cell_type",
    batch_col: Annotated[str, typer.Option("--batch-col", help="Column of .obs.")] = "gem_group",
    control: Annotated[str, typer.Option("--control", help="Label of unperturbed cells.")] = "non-targeting",
    separator: Annotated[str, typer.Option("--separator", help="Between genes of a combination.")] = "+",
    hvg: Annotated[int, typer.Option("--hvg", min=1, help="Highly variable genes, X_hvg.")] = 2000,
    all_genes: Annotated[
        bool, typer.Option("--all-genes", help="X holds all genes, not the variable and the perturbed ones alone.")
    ] = False,
    holdout_cell_type: Annotated[
        str, typer.Option("--holdout-cell-type", metavar="A,B", help="Test cell types; default: one is drawn.")
    ] = "",
    val_cell_type: Annotated[
        str, typer.Option("--val-cell-type", metavar="A,B", help="Validation cell types; default: one is drawn.")
    ] = "",
    holdout_genes: Annotated[
        str | None, typer.Option("--holdout-genes", metavar="A,B", help="Test genes, in any spelling.")
    ] = None,
    holdout_share: Annotated[
        float, typer.Option("--holdout-share", help="Share of the genes for test, where they are not named.")
    ] = 0.2,
    val_share: Annotated[float, typer.Option("--val-share", help="Share of the genes for validation.")] = 0.1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of every draw.")] = 0,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Perturbations without a vector get zeros, and are listed.")
    ] = False,
    gene_matrix: Annotated[
        str, typer.Option("--gene-matrix", help="raw, center or whiten:K, for the cell embeddings.")
    ] = "raw",
    normalize: Annotated[
        Literal["auto", "log1p-cp10k", "none"], typer.Option("--normalize", help="auto decides and says why.")
    ] = "auto",
    layer: Annotated[str | None, typer.Option("--layer", help="Use .layers[LAYER] instead of X.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Use .raw instead of X.")] = False,
    gene_column: Annotated[
        str | None, typer.Option("--gene-column", help="Column of .var with gene names; default: its index.")
    ] = None,
    output_space: Annotated[
        str, typer.Option("--output-space", help="What STATE predicts: gene (X_hvg) or all (X).")
    ] = "gene",
    dataset: Annotated[str, typer.Option("--dataset", help="Name in the TOML files, without a dot.")] = "bft",
    as_json: JsonOption = False,
) -> None:
    """Write h5ad files, perturbation features, splits and scripts that STATE takes unmodified."""
    from bftembed.datasets import data_path
    from bftembed.export.state import export_state, summary

    options: dict[str, Any] = {
        "pert_col": pert_col,
        "cell_type_key": cell_type_key,
        "batch_col": batch_col,
        "control": control,
        "separator": separator,
        "hvg": hvg,
        "every_gene": all_genes,
        "holdout_cell_types": _listed(holdout_cell_type),
        "val_cell_types": _listed(val_cell_type),
        "holdout_genes": None if holdout_genes is None else _listed(holdout_genes),
        "holdout_share": holdout_share,
        "val_share": val_share,
        "seed": seed,
        "allow_missing": allow_missing,
        "gene_matrix": gene_matrix,
        "normalize": normalize,
        "layer": layer,
        "use_raw": raw,
        "gene_column": gene_column,
        "output_space": output_space,
        "dataset": dataset,
    }
    with progress_bar("cells", quiet=as_json) as progress:
        done = export_state([data_path(one) for one in data], genes, out, **options, progress=progress)
    finish(done.as_dict(), [*summary(done), f"written: {done.out}"], as_json=as_json)


@app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder for STATE, of bftembed or made by hand.")],
    pert_col: Annotated[str | None, typer.Option("--pert-col", help="Default: as the folder says, or gene.")] = None,
    cell_type_key: Annotated[str | None, typer.Option("--cell-type-key", help="Default: cell_type.")] = None,
    batch_col: Annotated[str | None, typer.Option("--batch-col", help="Default: gem_group.")] = None,
    control: Annotated[str | None, typer.Option("--control", help="Default: non-targeting.")] = None,
    output_space: Annotated[str | None, typer.Option("--output-space", help="Default: gene.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find what STATE would fail on, or go wrong with silently; exit code 3 when there is a FAIL."""
    from bftembed.export.check import check_state, has_failures, lines

    found = check_state(
        folder,
        pert_col=pert_col,
        cell_type_key=cell_type_key,
        batch_col=batch_col,
        control=control,
        output_space=output_space,
    )
    failed = has_failures(found)
    summary = {"folder": str(folder), "ok": not failed, "findings": [one.as_dict() for one in found]}
    finish(summary, list(lines(found)), as_json=as_json, failed=failed)


def _listed(names: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
