"""How long the perturbation benchmark takes for 100,000 cells, 2,000 genes and 200 perturbations, and its memory.

Usage: python benchmarks/speed/perturbation.py [--cells 100000] [--perturbations 200] [--genes 2000] [--dim 1536]

The whole table, both splits and five seeds, by the command's own function, in a process of its own with its peak
memory; one h5ad with a dense float32 matrix, as STATE takes it. The data are simulated: only seconds are meant here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SEEDS = 5


def make(folder: Path, options: argparse.Namespace) -> None:
    """Write the screen and the embeddings."""
    from bftembed.testing import simulate_perturbations

    per_condition = round(0.9 * options.cells / (3 * options.perturbations))
    adata, genes = simulate_perturbations(
        n_perturbations=options.perturbations,
        n_genes=options.genes,
        cells_per_perturbation=per_condition,
        dim=options.dim,
    )
    adata.write_h5ad(folder / "screen.h5ad")
    genes.save(folder / "genes.safetensors")


def table(folder: str) -> dict[str, Any]:
    from bftembed import bench
    from bftembed.hdf5 import open_h5ad

    place = Path(folder)
    with open_h5ad(place / "screen.h5ad") as handle:
        n_cells, n_genes = handle["X"].shape
    at: dict[str, float] = {}
    started = time.monotonic()
    cpu = time.process_time()

    def progress(done: int, total: int, note: str) -> None:
        at[note.split(",")[0]] = round(time.monotonic() - started, 1)

    frame = bench.perturbation(
        place / "screen.h5ad", {"text": place / "genes.safetensors"}, seeds=SEEDS, progress=progress
    )
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return {
        "what": "simulated, not observed",
        "cells": n_cells,
        "genes": n_genes,
        "seeds": SEEDS,
        "rows": len(frame),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "finished_at": at,
        "peak_mb": int(line.split()[1]) // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--perturbations", type=int, default=200)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--dim", type=int, default=1536)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent.parent / "results" / "perturbation_speed.json"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--make", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(table(options.one)))
        return
    if options.make:
        make(Path(options.make), options)
        return
    from bftembed.report.manifest import versions

    with tempfile.TemporaryDirectory() as folder:
        # In processes of their own, so that the memory of one does not count for the other.
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--make", folder], check=True)
        command = [sys.executable, __file__, "--one", folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    found |= {"perturbations": options.perturbations, "dimensions": options.dim}
    print(json.dumps(found, indent=1))
    options.out.write_text(json.dumps({"environment": versions(), "table": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
