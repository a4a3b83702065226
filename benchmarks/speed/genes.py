"""How long the gene-level benchmark takes for one embedding of 15,085 genes and 384 dimensions.

Usage: BFTEMBED_DATA=FOLDER python benchmarks/speed/genes.py [--parts tasks genept]

``tasks``: every task at hand, protocol strict, 5 seeds, all baselines, two processes. ``genept``: the 263,016 training
pairs of GGI by the notebooks' steps, on vectors of every gene, in a process of its own with its peak memory. Vectors
are Gaussian with a part that depends on the labels, so that fits take as long as on real ones.
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

import numpy as np

DIM = 384


def vectors(genes: list[str], dim: int = DIM, seed: int = 0) -> Any:
    """Return vectors of unit length with a spectrum like that of text embeddings."""
    from bftembed.embeddings import GeneEmbeddings

    draw = np.random.default_rng(seed)
    scale = 1 / np.sqrt(1 + np.arange(dim))
    mix = np.linalg.qr(draw.standard_normal((dim, dim)))[0]
    matrix = (draw.standard_normal((len(genes), dim)) * scale) @ mix
    return GeneEmbeddings(genes, matrix / np.linalg.norm(matrix, axis=1, keepdims=True))


def tasks(folder: Path) -> dict[str, Any]:
    from bftembed import bench
    from bftembed.datasets import load
    from bftembed.tasks.genes import list_tasks

    texts = load("refseq-summaries")
    one = vectors(sorted(texts))
    found: dict[str, Any] = {"genes": len(one), "dimensions": DIM, "seeds": 5, "processes": 2, "seconds": {}}
    for task in [t["name"] for t in list_tasks() if t["here"]]:
        started = time.monotonic()
        frame = bench.genes({"one": one}, task, texts=texts, jobs=2)
        found["seconds"][task] = round(time.monotonic() - started, 1)
        assert not frame["value"].isna().any()
        print(task, found["seconds"][task], flush=True)
    found["seconds"]["all"] = round(sum(found["seconds"].values()), 1)
    return found


def ggi(path: str) -> dict[str, Any]:
    from bftembed import bench
    from bftembed.embeddings import GeneEmbeddings

    one = GeneEmbeddings.load(path)
    started = time.monotonic()
    frame = bench.genes({"one": one}, "ggi", protocols="genept", baselines=False)
    seconds = time.monotonic() - started
    assert frame["n"].max() > 280_000
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return {"seconds": round(seconds, 1), "peak_mb": int(line.split()[1]) // 1024}


def genept(folder: Path) -> dict[str, Any]:
    from bftembed.tasks.genes import get_task

    path = folder / "all.safetensors"
    vectors(list(get_task("ggi").genes)).save(path)
    done = subprocess.run([sys.executable, __file__, "--one", str(path)], stdout=subprocess.PIPE, text=True, check=True)
    return {"train_pairs": 263_016, **json.loads(done.stdout.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("tasks", "genept")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "genes_speed.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ggi(options.one)))
        return
    from bftembed.report.manifest import versions

    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result["environment"] = versions()
    with tempfile.TemporaryDirectory() as name:
        for part in options.parts:
            result[part] = globals()[part](Path(name))
            print(part, result[part], flush=True)
            options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
