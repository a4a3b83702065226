"""What an export tells of itself: the report, and the manifest in the folder."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.entities.genes import GeneIndex
from bftembed.errors import examples
from bftembed.export.features import FEATURES
from bftembed.export.state_cells import EMBED_KEY, HVG_KEY
from bftembed.io import canonical_json, sha256_file
from bftembed.machine import usable_cores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from bftembed.embeddings import GeneEmbeddings
    from bftembed.export.features import Target
    from bftembed.export.labels import CellLabels, Columns
    from bftembed.export.splits import Question
    from bftembed.export.state_cells import Embedded, GenePlan


@dataclass(frozen=True)
class StateExport:
    """What was written.

    Attributes
    ----------
    out
        The folder.
    files
        Names of the h5ad files in ``cells``.
    n_cells, n_perturbations, dim
        Cells, perturbations besides the control, dimensions of ``X_bft``.
    n_genes, n_hvg
        Genes of ``X`` and of ``X_hvg``.
    questions
        Question → how it was split, and its perturbed cells of ``train``, ``val`` and ``test``.
    mapped, missing
        Perturbations found under another name, and those without a vector (zeros).
    simulated
        Whether anything of it says that it is simulated.
    notes
        What the user should know.
    """

    out: Path
    files: tuple[str, ...]
    n_cells: int
    n_perturbations: int
    dim: int
    n_genes: int
    n_hvg: int
    questions: dict[str, dict[str, Any]]
    mapped: dict[str, str]
    missing: tuple[str, ...]
    simulated: bool
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return every field as what JSON holds."""
        return {**asdict(self), "out": str(self.out), "files": list(self.files)}


@dataclass(frozen=True, eq=False)
class Plan:
    """What is known before a value is read."""

    files: list[CellLabels]
    columns: Columns
    targets: dict[str, Target]
    missing: tuple[str, ...]
    questions: list[Question]
    set_length: int
    simulated: bool


def summary(done: StateExport) -> list[str]:
    """Return what was written, one fact a line."""
    lines = ["SIMULATED data: nothing here was observed."] if done.simulated else []
    lines += [
        f"{done.n_cells:,} cells in {len(done.files)} file{'s' if len(done.files) > 1 else ''}: X {done.n_genes:,} "
        f"genes (log1p), {HVG_KEY} {done.n_hvg:,}, {EMBED_KEY} {done.dim} dimensions",
        f"{done.n_perturbations} perturbations with text features, {len(done.mapped)} of them under another name, "
        f"{len(done.missing)} missing (zeros)",
    ]
    for name, told in done.questions.items():
        counts = ", ".join(f"{n:,} {split}" for split, n in told["n_cells"].items())
        lines.append(f"{name}: perturbed cells {counts}; {told['note']}")
    return [*lines, *done.notes]


def about_export(genes: GeneEmbeddings, plan: Plan, chosen: str, output_space: str) -> dict[str, Any]:
    """Return what stands in every part of an export: flat enough for HDF5, but for `readings`."""
    from bftembed._version import __version__

    return {
        "bftembed": __version__,
        "format": "bftembed-state-export 1",
        "simulated": plan.simulated,
        "readings": {
            "cell embedding": f"obsm[{EMBED_KEY!r}]: expression-weighted mean of gene embeddings, length 1",
            "perturbation features": f"{FEATURES}: gene embeddings as they are; combinations: sums; control: 0",
        },
        "embeddings": canonical_json(genes.provenance),
        "embeddings_sha256": genes.fingerprint(),
        "output_space": output_space,
        "highly_variable": chosen,
    }


def report_of(
    out: Path,
    plan: Plan,
    names: Sequence[str],
    embedded: Sequence[Embedded],
    genes: GenePlan,
    *,
    reordered: bool,
    one_type: bool,
) -> StateExport:
    """Return the report of an export, with notes on what the user should know."""
    notes = []
    ways = {one.report.normalize for one in embedded}
    for labels, one in zip(plan.files, embedded, strict=True):
        done = "log1p of counts per 10,000" if one.report.normalize == "log1p-cp10k" else "taken as they are"
        notes.append(
            f"{labels.path.name}: {done} ({one.report.reason}); {one.report.coverage:.1%} of expression embedded"
        )
    if len(ways) > 1:
        notes.append("Some inputs were counts and others logged; all are log1p now. Were the logged ones made alike?")
    if reordered:
        notes.append(f"Genes stand in the order of {plan.files[0].path.name} in every file.")
    if one_type:
        notes.append("One cell type: there is no zeroshot_celltype.toml, for nothing would be left to train on.")
    measured = {found.entity for found in GeneIndex.default().resolve(list(genes.names))} | set(genes.names)
    targets = {gene for one in plan.targets.values() for gene in one.genes}
    if absent := sorted(targets - measured):
        notes.append(f"{len(absent)} perturbed genes are not measured: {examples(absent)}.")
    every = np.concatenate([one.names for one in plan.files])
    if (n_double := len(every) - len(set(every))) > 0:
        notes.append(f"{n_double} cell names occur in several files; STATE tells cells apart by file too.")
    return StateExport(
        out=out,
        files=tuple(names),
        n_cells=sum(one.n_cells for one in plan.files),
        n_perturbations=len(plan.targets) - 1,
        dim=embedded[0].report.dim,
        n_genes=len(genes.names),
        n_hvg=int(genes.variable.sum()),
        questions={one.name: {"note": one.note, "n_cells": dict(one.n_cells)} for one in plan.questions},
        mapped={label: one.note for label, one in plan.targets.items() if one.status == "mapped"},
        missing=plan.missing,
        simulated=plan.simulated,
        notes=tuple(notes),
    )


def manifest_of(
    plan: Plan,
    names: Sequence[str],
    embedded: Sequence[Embedded],
    genes: GenePlan,
    dataset: str,
) -> dict[str, Any]:
    """Return what the manifest holds beside `about_export` and the report."""
    left_out = ("kernel_reason", "out", "files", "file", "empty_cells")
    sources = {
        name: {
            "source": labels.path.name,
            "n_cells": labels.n_cells,
            "embedding": {key: x for key, x in one.report.as_dict().items() if key not in left_out},
        }
        for name, labels, one in zip(names, plan.files, embedded, strict=True)
    }
    return {
        "dataset": dataset,
        "columns": asdict(plan.columns),
        "embed_keys": [EMBED_KEY, HVG_KEY],
        "cell_set_len": plan.set_length,
        "cells": sources,
        "perturbations": {label: _told(one) for label, one in plan.targets.items()},
        "splits": {
            one.name: {
                "zeroshot": dict(one.zeroshot),
                "fewshot": {name: {k: list(v) for k, v in lists.items()} for name, lists in one.fewshot.items()},
            }
            for one in plan.questions
        },
        "hvg_names": genes.variable_names,
    }


def _told(target: Target) -> dict[str, Any]:
    return {"genes": list(target.genes), "status": target.status, **({"note": target.note} if target.note else {})}


def hashes_of(folder: Path) -> Mapping[str, str]:
    """Return the sha256 of every file in a folder, by its path there; they are flushed to disk meanwhile."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(1) as disk, ThreadPoolExecutor(min(4, usable_cores())) as pool:
        flushed = disk.submit(_flush, files)
        found = dict(zip((str(p.relative_to(folder)) for p in files), pool.map(sha256_file, files), strict=True))
        flushed.result()
    return found


def _flush(files: Sequence[Path]) -> None:
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
