"""The integration benchmark against scib_metrics' Benchmarker: wall and CPU time, cold starts, memory at size.

Usage: python benchmarks/speed/integration.py [--parts benchmarks cold silhouette bras] [--cells 1200 20000]
       [--embeddings 5] [--data FILE.h5ad]

``benchmarks``: profile ``current`` of the same embeddings by both, each in a process of its own that has scored 300
other cells before, so that imports do not count; JAX compiles anew for the new shapes in both, as it would for a user.
Values are compared twice: with theirs as it is, and as it is with our neighbors, which are exact.
1,200 cells are the PBMC of three batches where ``--data`` (or $BFTEMBED_DATA/cells) has them, else blobs; more cells
are blobs with batches. ``cold``: the first and the second whole process, imports and compilation included.
``silhouette``: 100,000 cells × 50, peak memory above the interpreter. ``bras``: a million cells × 50. Only ratios
within one run are meant to be compared.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {"bio_conservation": "Bio conservation", "batch_correction": "Batch correction", "total": "Total"}


def blobs(n: int, d: int = 50, n_labels: int = 10, n_batches: int = 3) -> tuple[Any, Any, Any]:
    """Return cells of ten types in three batches that lie apart a little."""
    draw = np.random.default_rng(0)
    labels, batches = draw.integers(0, n_labels, n), draw.integers(0, n_batches, n)
    centres, shifts = 2 * draw.normal(size=(n_labels, d)), draw.normal(size=(n_batches, d))
    cells = draw.normal(size=(n, d)) + centres[labels] + 0.7 * shifts[batches]
    return cells.astype(np.float32), labels.astype(str), batches.astype(str)


def inputs(n: int, n_embeddings: int, data: str) -> tuple[dict[str, Any], Any, Any, str]:
    """Return embeddings, labels, batches, and what they are: each embedding has less of the batches in it."""
    what = f"{n:,} synthetic cells"
    if n == 1200 and Path(data).is_file():
        import anndata

        from bftembed.tasks.baselines import pca

        found = anndata.read_h5ad(data)
        before, what = pca(found.X), Path(data).name
        labels, batches = (found.obs[c].to_numpy().astype(str) for c in ("cell_type", "batch"))
    else:
        before, labels, batches = blobs(n)
    codes = np.unique(batches, return_inverse=True)[1]
    shift = np.stack([before[codes == b].mean(axis=0) for b in range(codes.max() + 1)])[codes]
    embeddings = {f"X_{i}": (before - i / max(1, n_embeddings) * shift).astype(np.float32) for i in range(n_embeddings)}
    return embeddings, labels, batches, what


def ours(embeddings: dict[str, Any], labels: Any, batches: Any) -> dict[str, float]:
    from bftembed.tasks.cells import integration

    rows = integration.score(embeddings, labels, batches, run="r", before=embeddings["X_0"], seeds=[0])
    return {f"{row.subject} {row.metric}": row.value for row in rows if row.seed is None}


def theirs(embeddings: dict[str, Any], labels: Any, batches: Any, exact: bool = False) -> dict[str, float]:
    import anndata
    import pandas as pd
    from scib_metrics.benchmark import Benchmarker

    obs = pd.DataFrame({"label": labels, "batch": batches}, index=[str(i) for i in range(len(labels))])
    cells = anndata.AnnData(obs=obs, obsm=embeddings)
    made = Benchmarker(
        cells, "batch", "label", list(embeddings), pre_integrated_embedding_obsm_key="X_0", progress_bar=False
    )
    made.prepare(exact_neighbors if exact else None)
    made.benchmark()
    table = made.get_results(clean_names=False)
    columns = {shown: name for name, shown in NAMES.items()}
    return {f"{name} {columns.get(c, c)}": float(table.loc[name, c]) for name in embeddings for c in table.columns}


def exact_neighbors(X: Any, k: int) -> Any:
    from scib_metrics.nearest_neighbors import NeighborsResults

    from bftembed.metrics.clustering import nearest_neighbors

    found = nearest_neighbors(X, k)
    return NeighborsResults(indices=found.indices, distances=found.distances)


def timed(which: str, n: int, n_embeddings: int, data: str, warm: bool) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    score = {"ours": ours, "theirs": theirs, "theirs_exact": functools.partial(theirs, exact=True)}[which]
    given = inputs(n, n_embeddings, data)
    if warm:
        score(*inputs(300, 1, "")[:3])
    wall, cpu = time.perf_counter(), time.process_time()
    values = score(*given[:3])
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return {**{k: round(v, 2) for k, v in seconds.items()}, "values": values, "cells": given[3]}


def peak(which: str, n: int) -> dict[str, Any]:
    from bftembed.metrics.integration import bras, silhouette_label

    def resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith(field)).split()[1]) // 1024

    def call(cells: Any, labels: Any, batches: Any) -> float:
        return silhouette_label(cells, labels) if which == "silhouette" else bras(cells, labels, batches)

    call(*blobs(2000))  # imports
    given = blobs(n)
    before, started = resident("VmRSS"), time.perf_counter()
    value = call(*given)
    seconds = time.perf_counter() - started
    above = resident("VmHWM") - before
    return {"cells": n, "value": value, "seconds": round(seconds, 2), "peak_mb_above_the_cells": above}


def alone(function: str, *arguments: object) -> dict[str, Any]:
    """Call a function of this file in a process of its own; its whole wall time is added."""
    started = time.perf_counter()
    command = [sys.executable, __file__, "--one", json.dumps([function, *arguments])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"process_seconds": round(time.perf_counter() - started, 2)}


def benchmarks(options: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for n in options.cells:
        runs = {which: alone("timed", which, n, options.embeddings, options.data, True) for which in WHICH}
        mine, other = (runs[which].pop("values") for which in WHICH)
        exact = alone("timed", "theirs_exact", n, options.embeddings, options.data, True)["values"]
        found[str(n)] = {
            "embeddings": options.embeddings,
            **runs,
            "wall_ratio": round(runs["ours"]["wall"] / runs["theirs"]["wall"], 3),
            "cpu_ratio": round(runs["ours"]["cpu"] / runs["theirs"]["cpu"], 3),
            "largest_difference": differences(mine, other),
            "largest_difference_given_our_neighbors": differences(mine, exact),
        }
        print(n, found[str(n)], flush=True)
    return found


def differences(mine: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Return metric → the largest difference over embeddings, of the values that both have."""
    found: dict[str, float] = {}
    for key in (key for key in mine if None not in (mine[key], other.get(key))):
        metric = key.split(" ", 1)[1]
        found[metric] = max(found.get(metric, 0.0), abs(mine[key] - other[key]))
    return found


def cold(options: argparse.Namespace) -> dict[str, Any]:
    n, found = min(options.cells), {}
    for which in WHICH:
        seconds = [alone("timed", which, n, 1, options.data, False)["process_seconds"] for _ in "12"]
        found[which] = {"first": seconds[0], "second": seconds[1], "second_of_first": round(seconds[1] / seconds[0], 3)}
    return {"cells": n, "embeddings": 1, **found}


def silhouette(options: argparse.Namespace) -> dict[str, Any]:
    return alone("peak", "silhouette", 100_000)


def bras(options: argparse.Namespace) -> dict[str, Any]:
    return alone("peak", "bras", 1_000_000)


WHICH = ("ours", "theirs")
PARTS = {"benchmarks": benchmarks, "cold": cold, "silhouette": silhouette, "bras": bras}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--cells", nargs="+", type=int, default=[1200, 20_000])
    parser.add_argument("--embeddings", type=int, default=5)
    folder = os.environ.get("BFTEMBED_DATA", "")
    parser.add_argument("--data", default=str(Path(folder) / "cells" / "symphony_pbmc_3batch.h5ad") if folder else "")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "integration_speed.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        function, *arguments = json.loads(options.one)
        found = {"timed": timed, "peak": peak}[function](*arguments)
        print(json.dumps(found, default=float).replace("NaN", "null"))
        return
    from importlib.metadata import version

    from bftembed.report.manifest import versions

    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result["environment"] = versions() | {name: version(name) for name in ("scib-metrics", "jax")}
    for part in options.parts:
        result[part] = PARTS[part](options)
        print(part, result[part], flush=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
