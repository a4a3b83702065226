"""Cells of three public sets and a CITE-seq experiment: texts with their baselines, under several aggregations.

Usage: python benchmarks/cell_benchmarks.py --cells FOLDER --tuned MODEL [--folder runs/cells] [--steps profiles …]

FOLDER holds the sets (symphony_pbmc_3batch.h5ad, scclassify_pancreas_wang.h5ad and _xin.h5ad,
citefuse_citeseq_pbmc500.h5ad), MODEL is the folder of a model from `bftembed tune`. ``profiles`` writes profiles of the
genes of the first three with SmolLM2 before and after tuning, and apart from them of those that the CITE-seq cells
express; ``vectors`` encodes them, HGNC facts and RefSeq summaries by MiniLM. ``clustering`` and ``integration`` score
the sets under each aggregation, with baselines made in the same way; ``citeseq`` scores RNA against protein. What is
there is not made again, but for the scores. ``record`` writes one JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

MINILM, SMOLLM2 = "builtin:all-minilm-l6-v2", "builtin:smollm2-135m-instruct"
SUMMARIES = "dataset:refseq-summaries"
MARKS = "truncated,looping,off-topic"
TEXTS = ("refseq", "facts", "base", "tuned")
AGGREGATIONS = ("raw", "center", "whiten:16", "whiten:64", "whiten:128", "whiten:256")
CITESEQ = "citefuse_citeseq_pbmc500.h5ad"
SETS = {"pbmc": ("cell_type", "batch"), "pancreas": ("cell_type", "batch"), "pbmc68k": ("bulk_labels", None)}
BASELINES = "random:3,shuffled,tfidf"


def call(*arguments: object) -> None:
    """Run a command of bftembed; some failed items are no failure."""
    command = [sys.executable, "-c", "from bftembed.cli import main; main()", *map(str, arguments)]
    started = time.monotonic()
    done = subprocess.run(command)
    print(f"{' '.join(map(str, arguments))}: exit {done.returncode}, {time.monotonic() - started:.0f} s", flush=True)
    if done.returncode not in (0, 3):
        sys.exit(done.returncode)


def read(cells: Path, name: str) -> anndata.AnnData:
    """Return a set with log-normalised expression in X."""
    import scanpy

    if name == "pbmc":
        return anndata.read_h5ad(cells / "symphony_pbmc_3batch.h5ad")
    if name == "pancreas":
        studies = [anndata.read_h5ad(cells / f"scclassify_pancreas_{study}.h5ad") for study in ("wang", "xin")]
        return anndata.concat(studies, index_unique="-")
    whole = scanpy.datasets.pbmc68k_reduced()
    return anndata.AnnData(whole.raw.X, whole.obs, whole.raw.var, uns={"log1p": {}})


def profiles(folder: Path, cells: Path, tuned: Path) -> None:
    from bftembed.entities.genes import GeneIndex

    index = GeneIndex.default()
    named = [name for one in SETS for name in read(cells, one).var_names]
    symbols = dict.fromkeys(r.symbol for r in index.resolve(named) if r.symbol)
    names, coding = folder / "genes.txt", folder / "coding.txt"
    names.write_text("\n".join(symbols))
    of_proteins = [s for s in index if (r := index.get(s)) and r.locus_type == "gene with protein product"]
    coding.write_text("\n".join(dict.fromkeys([*of_proteins, *symbols])))
    expressed = folder / "genes-citeseq.txt"
    expressed.write_text("\n".join(genes_of_citeseq(cells)))
    for name, spec in (("base", SMOLLM2), ("tuned", f"transformers:{tuned}")):
        for listed, out in ((names, name), (expressed, f"{name}-citeseq")):
            call("profiles", "generate", listed, "--generator", f"{spec},max_new_tokens=40", "--out", folder / out)
    call("profiles", "generate", coding, "--generator", "facts", "--out", folder / "facts")


def genes_of_citeseq(cells: Path) -> list[str]:
    """Return the symbols of genes that some cell expresses, and of the genes of the antibodies."""
    from bftembed.entities.genes import GeneIndex
    from bftembed.tasks.multimodal._joint_space import antibody_genes

    data = anndata.read_h5ad(cells / CITESEQ)
    expressed = data.var_names[np.asarray((data.X > 0).sum(axis=0)).ravel() > 0]
    found = [r.symbol for r in GeneIndex.default().resolve(list(expressed)) if r.symbol]
    antibodies = antibody_genes([str(name) for name in data.uns["ADT_names"]]).values()
    return list(dict.fromkeys([*found, *(gene for genes in antibodies for gene in genes)]))


def vectors(folder: Path) -> None:
    from bftembed import embed_genes
    from bftembed.datasets import load

    encoder = f"{MINILM},dtype=bf16"
    for name in (*TEXTS, "base-citeseq", "tuned-citeseq"):
        out = folder / f"{name}.safetensors"
        if out.exists():
            continue
        if name == "refseq":
            embed_genes(load("refseq-summaries"), encoder, out=out)
        else:
            call("genes", "embed", folder / name, "--encoder", encoder, "--allow-marks", MARKS, "--out", out)


def embedded(folder: Path, cells: Path, name: str) -> Iterable[tuple[str, anndata.AnnData, list[str]]]:
    """Give aggregation, cells with one embedding per text, and their keys; not where there are too few genes."""
    from bftembed import GeneEmbeddings, embed_cells
    from bftembed.errors import BftembedError

    whole = read(cells, name)
    texts = {text: GeneEmbeddings.load(folder / f"{text}.safetensors") for text in TEXTS}
    for how in AGGREGATIONS:
        made = whole.copy()
        try:
            for text, genes in texts.items():
                embed_cells(made, genes, key=text, gene_matrix=how, precision="exact", kernel="scipy")
        except BftembedError as err:
            print(f"{name}, {how}: {err}", flush=True)
            continue
        yield how, made, list(texts)


def clustering(folder: Path, cells: Path) -> None:
    from bftembed import bench

    for name, (label, _) in SETS.items():
        for how, made, keys in embedded(folder, cells, name):
            started = time.monotonic()
            frame = bench.clustering(
                made,
                keys,
                label,
                protocol="strict,genept",
                baselines=f"{BASELINES},pca",
                texts=SUMMARIES,
                genes=folder / "refseq.safetensors",
                out=folder / f"clustering-{name}-{how.replace(':', '-')}.parquet",
                run=f"{name}/{label}/{how}",
            )
            print(f"{name}, {how}: {time.monotonic() - started:.0f} s")
            show(frame)


def integration(folder: Path, cells: Path) -> None:
    from bftembed import bench

    for name, (label, batch) in SETS.items():
        if batch is None:
            continue
        for how, made, keys in embedded(folder, cells, name):
            for profile in ("current", "paper") if how == "raw" else ("current",):
                frame = bench.integration(
                    made,
                    keys,
                    label,
                    batch,
                    profile=profile,
                    baselines=f"{BASELINES},pca,harmony,bbknn",
                    texts=SUMMARIES,
                    genes=folder / "refseq.safetensors",
                    halves=10,
                    out=folder / f"integration-{name}-{how.replace(':', '-')}-{profile}.parquet",
                    run=f"{name}/{label}/{batch}/{how}",
                )
                show(frame)


def citeseq(folder: Path, cells: Path) -> None:
    from bftembed import GeneEmbeddings, bench, embed_genes
    from bftembed.tasks.baselines import read_texts

    files = {"refseq": "refseq", "facts": "facts", "base": "base-citeseq", "tuned": "tuned-citeseq"}
    texts = {text: GeneEmbeddings.load(folder / f"{file}.safetensors") for text, file in files.items()}
    texts["TF-IDF of refseq"] = embed_genes(dict(read_texts(SUMMARIES)), "tfidf:dim=384")
    for how, centred in itertools.product(AGGREGATIONS, (False, True)):
        profile = "paper" if how == "raw" and not centred else "current"
        name = f"{how}, modalities centred" if centred else how
        frame = bench.multimodal(
            cells / CITESEQ,
            texts,
            obsm="ADT",
            gene_matrix=how,
            center_cells=centred,
            profile=profile,
            baselines="linked,harmony,bbknn,random,shuffled" if profile == "paper" else "random,shuffled",
            draws=5,
            out=folder / f"citeseq-{how.replace(':', '-')}-{'centred' if centred else profile}.parquet",
            run=f"citeseq/RNA clusters/modality/{name}",
        )
        show(frame)


def show(frame: pd.DataFrame) -> None:
    from bftembed.report.table import text
    from bftembed.tasks.base import tables_of

    print(text(table for tables in tables_of(frame).values() for table in tables), flush=True)


def record(folder: Path, out: Path) -> None:
    """Write run → protocol → row → metric → [value, low, high], and the environment, as one JSON."""
    from bftembed.report.manifest import versions
    from bftembed.tasks.base import read_results

    found: dict[str, Any] = {"environment": versions(), "texts by": "all-MiniLM-L6-v2, bf16"}
    for step in ("clustering", "integration", "citeseq"):
        for file in sorted(folder.glob(f"{step}-*.parquet")):
            frame = read_results(file)
            for row in frame[(frame["split"] == "all") & frame["seed"].isna()].to_dict("records"):
                name = row["subject"] if row["kind"] == "subject" else f"{row['subject']} ({row['kind']})"
                at = found.setdefault(step, {}).setdefault(row["run"], {}).setdefault(row["protocol"], {})
                values = [None if math.isnan(row[k]) else round(row[k], 4) for k in ("value", "low", "high")]
                at.setdefault(name, {})[row["metric"]] = values if values[1] is not None else values[0]
    out.write_text(json.dumps(found, separators=(",", ":")).replace('"},"', '"},\n"').replace(']},"', ']},\n"') + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = ("profiles", "vectors", "clustering", "integration", "citeseq", "record")
    parser.add_argument("--cells", type=Path, required=True)
    parser.add_argument("--tuned", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/cells"))
    parser.add_argument("--steps", nargs="+", choices=steps, default=list(steps))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cell_benchmarks.json")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for step in options.steps:
        if step == "profiles":
            if options.tuned is None:
                parser.error("--steps profiles needs --tuned MODEL")
            profiles(options.folder, options.cells, options.tuned)
        elif step == "vectors":
            vectors(options.folder)
        elif step == "record":
            record(options.folder, options.out)
        else:
            globals()[step](options.folder, options.cells)


if __name__ == "__main__":
    main()
