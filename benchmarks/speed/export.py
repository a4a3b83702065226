"""Export for STATE of 100,000 cells × 2,000 genes, d = 1536: wall time and memory against a plain write of the same.

Usage: python benchmarks/speed/export.py [--cells 100000] [--repeats 3] [--out benchmarks/results/export.json]

Simulated counts, normalised and logged, dense float32, 200 perturbations and 3 cell types. The plain write is anndata's
``write_h5ad`` of an AnnData with the very arrays of the export, already in memory; with and without the flush to disk
that an export ends with. By hand: the file read, embedded in memory, and written. Every run is a process of its own
that begins with nothing left to flush, and they alternate; only ratios within one run of this script are meant to be
compared. Files are made in a temporary folder (``--folder``; 8 GB) and removed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

N_GENES, DIM, N_PERTURBATIONS = 2000, 1536, 200
CELL_TYPES = ("k562", "rpe1", "jurkat")


def make(folder: str, n_cells: str) -> dict[str, Any]:
    """Write the screen without holding it, and gene embeddings."""
    import h5py
    import pandas as pd
    from anndata.io import write_elem

    from bftembed.embeddings import GeneEmbeddings
    from bftembed.entities.genes import GeneIndex

    n, draw = int(n_cells), np.random.default_rng(0)
    index = GeneIndex.default()
    genes = [s for s in index if (r := index.get(s)) and r.locus_type == "gene with protein product"][:N_GENES]
    labels = [*genes[:N_PERTURBATIONS], *["non-targeting"] * (N_PERTURBATIONS // 10)]
    obs = pd.DataFrame(
        {
            "gene": pd.Categorical([labels[i % len(labels)] for i in range(n)]),
            "cell_type": pd.Categorical([CELL_TYPES[i // len(labels) % 3] for i in range(n)]),
            "gem_group": pd.Categorical([f"batch{i % 4}" for i in range(n)]),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    means = draw.lognormal(-1.5, 1.5, N_GENES)
    with h5py.File(Path(folder) / "in.h5ad", "w") as file:
        for slot in ("layers", "obsm", "obsp", "varm", "varp"):
            file.create_group(slot).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(file, "obs", obs)
        write_elem(file, "var", pd.DataFrame({"gene_name": genes}, index=genes))
        write_elem(file, "uns", {"log1p": {}, "simulated": True})
        matrix = file.create_dataset("X", (n, N_GENES), "f4")
        matrix.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        for start in range(0, n, 2000):
            counts = draw.poisson(np.outer(draw.lognormal(0, 0.3, min(2000, n - start)), means)).astype(np.float32)
            totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
            matrix[start : start + 2000] = np.log1p(1e4 * counts / totals)
        filled = float((matrix[:2000] > 0).mean())
    vectors = draw.standard_normal((N_GENES, DIM)).astype(np.float32) + 0.1
    GeneEmbeddings(genes, vectors, {"simulated": True}).save(Path(folder) / "genes.safetensors")
    return {"share_of_values_above_zero": round(filled, 3)}


def _status(field: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) // 1024


def export(folder: str) -> dict[str, Any]:
    """Export; modules that a run imports are imported before the clock starts."""
    import scanpy  # noqa: F401
    import torch

    import bftembed.export

    torch.mm(torch.ones(64, 64, dtype=torch.bfloat16), torch.ones(64, 64, dtype=torch.bfloat16))
    before, started, used = _status("VmRSS"), time.perf_counter(), time.process_time()
    marks: list[tuple[str, float]] = []

    def progress(done: int, total: int, note: str) -> None:
        if not marks or marks[-1][0] != note:
            marks.append((note, time.perf_counter() - started))

    place = Path(folder)
    done = bftembed.export.export_state(
        place / "in.h5ad", place / "genes.safetensors", place / "out", hvg=N_GENES, progress=progress
    )
    wall = time.perf_counter() - started
    return {
        "wall": round(wall, 2),
        "cpu": round(time.process_time() - used, 2),
        "reached_after": {note: round(seconds, 2) for note, seconds in marks},
        "interpreter_mb": before,
        "peak_mb": _status("VmHWM"),
        "peak_above_interpreter_mb": _status("VmHWM") - before,
        "written_mb": sum(p.stat().st_size for p in (place / "out").rglob("*") if p.is_file()) // 2**20,
        "shape": [done.n_cells, done.n_genes, done.n_hvg, done.dim],
    }


def plain(folder: str) -> dict[str, Any]:
    """Write the arrays of the export with anndata, from memory."""
    import anndata

    data = anndata.read_h5ad(Path(folder) / "out" / "cells" / "in.h5ad")
    path = Path(folder) / "plain.h5ad"
    started = time.perf_counter()
    data.write_h5ad(path)
    written = time.perf_counter() - started
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    flushed = time.perf_counter() - started
    path.unlink()
    return {"wall": round(written, 2), "wall_flushed": round(flushed, 2), "peak_mb": _status("VmHWM")}


def by_hand(folder: str) -> dict[str, Any]:
    """Do by hand what a user would: read, embed in memory, write; without features, splits, hashes or a check."""
    import anndata
    import torch

    from bftembed.cells.embed import embed_cells

    torch.mm(torch.ones(64, 64, dtype=torch.bfloat16), torch.ones(64, 64, dtype=torch.bfloat16))
    started, used, path = time.perf_counter(), time.process_time(), Path(folder) / "hand.h5ad"
    data = anndata.read_h5ad(Path(folder) / "in.h5ad")
    embed_cells(data, Path(folder) / "genes.safetensors", kernel="dense-bf16")
    data.obsm["X_hvg"] = data.X
    data.write_h5ad(path)
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    wall, cpu = time.perf_counter() - started, time.process_time() - used
    path.unlink()
    return {"wall_flushed": round(wall, 2), "cpu": round(cpu, 2), "peak_mb": _status("VmHWM")}


def check(folder: str) -> dict[str, Any]:
    """Check the export."""
    from bftembed.export import check_state

    started = time.perf_counter()
    found = check_state(Path(folder) / "out")
    return {"wall": round(time.perf_counter() - started, 2), "findings": len(found), "peak_mb": _status("VmHWM")}


def alone(function: str, *arguments: object) -> dict[str, Any]:
    """Call a function of this file in a process of its own, when what was written before it is on the disk."""
    os.sync()
    command = [sys.executable, __file__, "--one", function, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where files are made; default the system's temporary folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "export.json")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, *arguments = options.one
        print(json.dumps(globals()[name](*arguments)))
        return
    from bftembed.report.manifest import versions

    folder = Path(tempfile.mkdtemp(prefix="export-", dir=options.folder))
    try:
        made = alone("make", folder, options.cells)
        exports, plains, hands = [], [], []
        for _ in range(options.repeats):
            shutil.rmtree(folder / "out", ignore_errors=True)
            exports.append(alone("export", folder))
            print("export", exports[-1], flush=True)
            plains.append(alone("plain", folder))
            print("plain", plains[-1], flush=True)
            hands.append(alone("by_hand", folder))
            print("by hand", hands[-1], flush=True)
        wall = median(one["wall"] for one in exports)
        result = {
            "environment": versions(),
            "simulated": True,
            "cells": options.cells,
            **made,
            "load_average_at_the_end": [round(x, 1) for x in os.getloadavg()],
            "export": exports,
            "plain_write_h5ad": plains,
            "by_hand": hands,
            "wall_x_plain": round(wall / median(one["wall"] for one in plains), 2),
            "wall_x_plain_flushed": round(wall / median(one["wall_flushed"] for one in plains), 2),
            "wall_x_by_hand": round(wall / median(one["wall_flushed"] for one in hands), 2),
            "check": alone("check", folder),
        }
        print({key: value for key, value in result.items() if key.startswith("wall") or key == "check"})
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
