"""The verb: perturbation data and gene embeddings → a folder that STATE (arc-state, cell-load) takes unmodified."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bftembed.cells.kernels import steady
from bftembed.cells.reading import expression_in
from bftembed.cells.task import Asked, Task
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError, examples, require, unknown_name
from bftembed.export import scripts, splits
from bftembed.export.features import refuse_missing, resolve_labels, vectors_of, write_features
from bftembed.export.labels import CellLabels, Columns, read_labels
from bftembed.export.record import Plan, StateExport, about_export, hashes_of, manifest_of, report_of, summary
from bftembed.export.state_cells import (
    EMBED_KEY,
    HVG_KEY,
    Embedded,
    values_per_cell,
    write_expression,
    write_tables,
    write_vectors,
)
from bftembed.export.variable_genes import check_same_genes, choose_genes, sampled_cells
from bftembed.io import atomic_folder, canonical_json
from bftembed.progress import silent

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from bftembed.progress import Progress

OUTPUT_SPACES = ("gene", "all")
MANIFEST, CELLS = "manifest.json", "cells"
#: STATE's bottleneck to all genes has ``dimensions // 8`` units.
FEWEST_DIMENSIONS = 8


def export_state(
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    genes: GeneEmbeddings | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pert_col: str = "gene",
    cell_type_key: str = "cell_type",
    batch_col: str = "gem_group",
    control: str = "non-targeting",
    separator: str = "+",
    hvg: int = 2000,
    all_genes: bool = False,
    holdout_cell_types: Sequence[str] = (),
    val_cell_types: Sequence[str] = (),
    holdout_genes: Sequence[str] | None = None,
    holdout_share: float = 0.2,
    val_share: float = 0.1,
    seed: int = 0,
    allow_missing: bool = False,
    gene_matrix: str = "raw",
    normalize: Literal["auto", "log1p-cp10k", "none"] = "auto",
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    output_space: Literal["gene", "all"] = "gene",
    dataset: str = "bft",
    progress: Progress = silent,
) -> StateExport:
    """Write h5ad files, perturbation features, splits and scripts that STATE takes unmodified.

    The folder holds the cells (one h5ad file per input, with cell embeddings in .obsm["X_bft"]), pert_features.pt (gene
    embeddings of the perturbed genes), zeroshot_celltype.toml, unseen_gene.toml, train.sh, predict.sh, manifest.json
    and README.md. It is written as a whole or not at all.

    Parameters
    ----------
    data
        Perturbed cells and controls: h5ad files with counts or logged values, or builtin:NAME. Values are written as
        log1p of counts per 10,000.
    genes
        Gene embeddings (.safetensors).
    out
        Folder to create.
    pert_col
        Column of .obs with the perturbed gene.
    cell_type_key
        Column of .obs with the cell type.
    batch_col
        Column of .obs with the batch.
    control
        Label of control cells in `pert_col`. Each cell type of each file needs some.
    separator
        Separator of the genes of a combination. Its vector is their sum.
    hvg
        Number of highly variable genes for X_hvg (flavor seurat of scanpy).
    holdout_cell_types
        Test cell types, separated by commas. By default one is drawn.
    val_cell_types
        Validation cell types, separated by commas. By default one is drawn.
    holdout_genes
        Test genes in any spelling, separated by commas. By default a share of 0.2 is drawn.
    allow_missing
        Give perturbations without a vector zeros, and list them. By default they are an error.
    layer
        Layer with the expression. By default .X.
    use_raw
        Take expression and genes from .raw.
    gene_column
        Column of .var with the gene names. By default the index.
    output_space
        What STATE predicts: the highly variable genes (gene) or all of X (all).

    Other Parameters
    ----------------
    seed
        Seed of all draws.
    all_genes
        Write all genes to X, which is dense. By default the highly variable and the perturbed ones.
    holdout_share
        Share of the perturbed genes for test.
    val_share
        Share of the perturbed genes for validation.
    gene_matrix
        Transformation of the gene embeddings for the cell embeddings, as in `bftembed.cells.embed.embed_cells`.
    normalize
        ``"log1p-cp10k"`` or ``"none"`` where the values do not tell.
    dataset
        Name in the TOML files, without a dot.
    progress
        Called with the cells done, of twice as many: vectors, then expression.

    Returns
    -------
    StateExport
        What the manifest says, in short.

    Raises
    ------
    BftembedError
        For what STATE would fail on or go wrong with silently: missing labels, no controls, unknown perturbations,
        negative or unclear values, different genes, cell types or genes that are not there, an empty split, an output
        folder that is not empty, an output space that cannot be. Nothing is written then.
    """
    target = _checked_out(out)
    _check_names(output_space, dataset)
    require("torch", "local")
    vectors = GeneEmbeddings.of(genes)
    asked = Asked(normalize=_checked_normalize(normalize), gene_matrix=gene_matrix, empty_policy="nan")
    columns = Columns(pert_col, cell_type_key, batch_col, control)
    if len({pert_col, cell_type_key, batch_col}) < 3:
        raise BftembedError(f"pert_col, cell_type_key and batch_col must be three columns, not {columns}.")
    files = [read_labels(path, columns) for path in _paths(data)]
    targets = resolve_labels(
        (x for one in files for x in one.perturbation), vectors, control=control, separator=separator
    )
    missing = refuse_missing(targets, allow=allow_missing)
    labels, how = splits.split_genes(
        targets, held_out=holdout_genes, share=holdout_share, val_share=val_share, seed=seed
    )
    cell_types = sorted({x for one in files for x in one.cell_type})
    zeroshot = splits.zeroshot_celltype(cell_types, holdout_cell_types, val_cell_types, labels, seed=seed)
    asked_for = [one for one in (zeroshot, splits.unseen_gene(cell_types, labels, how)) if one is not None]
    plan = Plan(
        files,
        columns,
        targets,
        missing,
        [splits.counted(one, files, control) for one in asked_for],
        scripts.set_length(_median_cells(files, control)),
        bool(vectors.provenance.get("simulated")) or any(one.simulated for one in files),
    )
    choice: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_column": gene_column}
    with atomic_folder(target) as folder:
        cells = folder / CELLS
        cells.mkdir()
        names = _file_names(files)
        embedded = _embed(plan, [cells / name for name in names], vectors, asked, choice, seed, progress)
        _check_dimensions(embedded, output_space)
        reordered = check_same_genes([one.path for one in files], embedded)
        perturbed = {gene for one in targets.values() for gene in one.genes}
        genes_of_x, chosen = choose_genes(embedded, hvg, perturbed, every_gene=all_genes)
        done, total = sum(one.n_cells for one in files), 2 * sum(one.n_cells for one in files)
        about = about_export(vectors, plan, chosen, output_space)
        for name, labels_of, one in zip(names, files, embedded, strict=True):
            write_expression(
                labels_of.path,
                cells / name,
                genes_of_x,
                choice,
                transform=one.report.normalize,
                progress=progress,
                before=done,
                total=total,
            )
            told = {EMBED_KEY: one.provenance, "state_export": {**about, "source": labels_of.path.name}}
            write_tables(cells / name, labels_of, columns, genes_of_x, told, simulated=plan.simulated)
            done += labels_of.n_cells
        write_features(folder, vectors_of(targets, vectors), canonical_json(about))
        recipe = scripts.Recipe(
            str(target), columns, output_space, plan.set_length, [q.name for q in plan.questions], EMBED_KEY, HVG_KEY
        )
        for question in plan.questions:
            text = splits.toml_text(question, dataset, str(target / CELLS))
            (folder / f"{question.name}.toml").write_text(text, encoding="utf-8")
        result = report_of(target, plan, names, embedded, genes_of_x, reordered=reordered, one_type=zeroshot is None)
        for name, text in (("train.sh", scripts.train_script(recipe)), ("predict.sh", scripts.predict_script(recipe))):
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(0o755)
        (folder / "README.md").write_text(scripts.readme(recipe, summary(result)), encoding="utf-8")
        manifest = {**about, **result.as_dict(), **manifest_of(plan, names, embedded, genes_of_x, dataset)}
        manifest["sha256"] = hashes_of(folder)
        text = canonical_json(manifest)
        (folder / MANIFEST).write_text(_indented(manifest), encoding="utf-8")
    if canonical_json(_read_json(target / MANIFEST)) != text:
        raise BftembedError(
            f"{target} was made by another process meanwhile, and is left as it is. Choose another one."
        )
    return result


def _paths(data: Any) -> list[Path]:
    given = [data] if isinstance(data, str) or hasattr(data, "__fspath__") else list(data)
    if not given:
        raise BftembedError("data is a list without files; give one or more paths of h5ad files.")
    paths = [Path(one) for one in given]
    real = [path.resolve() for path in paths]
    if len(set(real)) < len(real):
        raise BftembedError(
            f"A file is given twice: {examples(path for path in paths if real.count(path.resolve()) > 1)}."
        )
    return paths


def _file_names(files: Sequence[CellLabels]) -> list[str]:
    names: list[str] = []
    for one in files:
        stem, n = one.path.stem, 1
        while f"{stem}.h5ad" in names:
            n += 1
            stem = f"{one.path.stem}-{n}"
        names.append(f"{stem}.h5ad")
    return names


def _checked_out(out: str | os.PathLike[str]) -> Path:
    target = Path(out).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BftembedError(f"{target} is there and not empty. Choose a new folder (--out); nothing is replaced.")
    if bad := sorted({c for c in str(target) if c in "*?[]{}\"'\\$`" or not c.isprintable()}):
        raise BftembedError(
            f"{target} has {examples(bad)} in its name, which STATE reads as a pattern, or its TOML and shell cannot "
            "hold. Choose another folder."
        )
    return target


def _check_names(output_space: str, dataset: str) -> None:
    if output_space == "embedding":
        raise BftembedError(
            "output_space='embedding' is refused: without a decoder STATE passes its output through a ReLU, and "
            "predict clips prediction and truth to [0, 14] before log1p metrics. Text embeddings are signed: "
            "what comes out only looks like scores. Use 'gene' or 'all'."
        )
    if output_space not in OUTPUT_SPACES:
        raise unknown_name("output space", output_space, OUTPUT_SPACES)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", dataset):
        raise BftembedError(
            f"dataset is {dataset!r}: cell-load cuts names at the first dot, so letters, digits, '-' and "
            "'_' alone will do."
        )


def _checked_normalize(normalize: str) -> str:
    known = ("auto", "log1p-cp10k", "none")
    if normalize not in known:
        raise unknown_name("normalize", normalize, known)
    return normalize


def _median_cells(files: Sequence[CellLabels], control: str) -> float:
    counts: list[int] = []
    for one in files:
        pairs = np.stack([one.cell_type.astype(str), one.perturbation.astype(str)])[:, one.perturbation != control]
        counts += np.unique(pairs, axis=1, return_counts=True)[1].tolist() if pairs.size else []
    return float(np.median(counts)) if counts else 0.0


def _embed(
    plan: Plan,
    outs: Sequence[Path],
    genes: GeneEmbeddings,
    asked: Asked,
    choice: dict[str, Any],
    seed: int,
    progress: Progress,
) -> list[Embedded]:
    per_cell = []
    for labels in plan.files:
        with expression_in(labels.path, **choice) as expression:
            per_cell.append(values_per_cell(expression.matrix))
    n_cells = [one.n_cells for one in plan.files]
    sampled = sampled_cells(n_cells, per_cell, seed)
    work = sum(n * x for n, x in zip(n_cells, per_cell, strict=True)) * genes.dim
    embedded, before = [], 0
    for labels, out, rows in zip(plan.files, outs, sampled, strict=True):
        told = _shifted(progress, before, 2 * sum(n_cells))
        task = Task(genes, EMBED_KEY, asked, told)
        one = write_vectors(labels.path, out, task, choice, kernel=steady(work), sampled=rows, key=EMBED_KEY)
        embedded.append(one)
        before += labels.n_cells
    return embedded


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _, note: progress(before + done, total, note)


def _check_dimensions(embedded: Sequence[Embedded], output_space: str) -> None:
    dim = embedded[0].report.dim
    if output_space == "all" and dim < FEWEST_DIMENSIONS:
        raise BftembedError(
            f"{EMBED_KEY} would have {dim} dimensions; with output_space='all' STATE divides them by 8 and fails below "
            f"{FEWEST_DIMENSIONS}. Use gene embeddings of more dimensions, or output_space='gene'."
        )


def _indented(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _read_json(path: Path) -> Any:
    import json

    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
