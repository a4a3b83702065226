"""Which way of making cells out of genes lets the text matter: clustering by several, each with its own floors.

Usage: python benchmarks/aggregations.py [--draws 5] [--out benchmarks/results/aggregations.json]

Text = symbol, HGNC name and RefSeq summary by all-MiniLM-L6-v2 (384 dimensions). Floors, made with the same
aggregation: random = a Gaussian vector per gene; shuffled = the text's vectors dealt to other genes. Cells have length
1; k-means with k = number of labels, five seeds; floors also over draws, draw i with seed i. Intervals: t over seeds
(or draws), not over cells.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path("../shared/data")
AGGREGATIONS: dict[str, dict[str, Any]] = {
    "mean": {},
    "center": {"gene_matrix": "center"},
    "whiten:64": {"gene_matrix": "whiten:64"},
    "rank": {"weights": "rank"},
    "idf": {"weights": "idf"},
    "top 50": {"top_k": 50},
    "whiten:64, idf": {"gene_matrix": "whiten:64", "weights": "idf"},
}


def data_sets() -> dict[str, tuple[Any, str, bool]]:
    """Return name → cells, label, whether ``.raw`` is used."""
    import anndata

    from bftembed.datasets import data_path

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "pbmc68k_reduced": (anndata.read_h5ad(data_path("builtin:pbmc68k_reduced")), "bulk_labels", True),
            "PBMC, 3 batches": (
                anndata.read_h5ad(SHARED / "cells/symphony_pbmc_3batch.h5ad"),
                "cell_type_broad",
                False,
            ),
            "pancreas, Xin": (anndata.read_h5ad(SHARED / "cells/scclassify_pancreas_xin.h5ad"), "cell_type", False),
        }


def text_vectors(names: list[str]) -> Any:
    """Return embeddings of the genes that have a summary."""
    import pandas as pd

    from bftembed.embeddings import GeneEmbeddings
    from bftembed.encoders.base import encoder_from_spec
    from bftembed.entities.genes import GeneIndex

    table = pd.read_csv(SHARED / "gene_text/refseq_gene_summary_human.tsv.gz", sep="\t").dropna(subset="summary")
    summaries = dict(zip(table["symbol"], table["summary"], strict=True))
    index, texts = GeneIndex.default(), {}
    for resolved in index.resolve(names):
        record = index.get(resolved.symbol) if resolved.symbol else None
        if record is not None:
            texts[record.symbol] = f"{record.symbol}. {record.name}. {summaries.get(record.symbol, '')}".strip()
    vectors = encoder_from_spec("builtin:all-minilm-l6-v2").encode(list(texts.values()))
    return GeneEmbeddings(list(texts), vectors)


def drawn(text: Any, kind: str, seed: int) -> Any:
    from bftembed.embeddings import GeneEmbeddings

    rng = np.random.default_rng(seed)
    if kind == "random":
        return GeneEmbeddings(text.ids, rng.normal(size=text.matrix.shape).astype(np.float32))
    return GeneEmbeddings(text.ids, text.matrix[rng.permutation(len(text.ids))])


def scores(cells: Any, label: str, use_raw: bool, vectors: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    """Score one embedding with every seed, or draw i of a floor with seed i."""
    from bftembed.cells.embed import embed_cells
    from bftembed.tasks.cells.clustering import score

    found: dict[str, list[float]] = {"ari": [], "ami": []}
    for i, one in enumerate(vectors):
        embed_cells(cells, one, key="X_try", use_raw=use_raw, overwrite=True, empty_cells="nan", **options)
        seeds = range(5) if len(vectors) == 1 else [i]
        labels = cells.obs[label].to_numpy()
        for row in score({"x": cells.obsm["X_try"]}, labels, run="x", seeds=seeds, permuted=False):
            if row.metric in found and row.seed is not None:
                found[row.metric].append(row.value)
    return {name: interval(values) for name, values in found.items()}


def interval(values: list[float]) -> list[float]:
    from bftembed.metrics.intervals import t_interval

    return [round(float(x), 3) for x in (np.mean(values), *t_interval(values))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "aggregations.json")
    options = parser.parse_args()
    from bftembed.report.manifest import versions

    result: dict[str, Any] = {"environment": versions(), "sets": {}}
    for name, (cells, label, use_raw) in data_sets().items():
        text = text_vectors(list((cells.raw if use_raw else cells).var_names))
        rows = {"genes": len(text.ids), "cells": cells.n_obs}
        kinds = {"text": [text]}
        kinds |= {kind: [drawn(text, kind, i) for i in range(options.draws)] for kind in ("random", "shuffled")}
        for how, arguments in AGGREGATIONS.items():
            rows[how] = {kind: scores(cells, label, use_raw, vectors, arguments) for kind, vectors in kinds.items()}
            print(name, how, rows[how], flush=True)
        result["sets"][name] = rows
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
