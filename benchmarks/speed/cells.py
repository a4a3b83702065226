"""Cell embeddings: kernels against SciPy, torch and a notebook; file to file against its bounds; memory by size.

Usage: python benchmarks/speed/cells.py [--parts kernels files memory real] [--out benchmarks/results/cells.json]

Synthetic counts of 20,000 genes (lognormal gene means and depths, Poisson), about 8 % of them not 0. Times are the best
of some runs; only ratios within one run are meant to be compared. Files are made in a temporary folder (``--folder``;
30 GB for the memory part) and removed. Every file run and every memory figure is a process of its own.
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
from typing import Any

import numpy as np

N_GENES, DENSITY = 20_000, 0.08
SIZES = {"60 thousand": (60_000, 1.0), "600 thousand": (600_000, 1.0), "2 million, sparse": (2_000_000, 0.15)}
BUDGET_MB = 600


def counts(n_cells: int, seed: int = 0, thin: float = 1.0) -> Any:
    """Return CSR float32 counts; `thin` keeps that share of the values."""
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    means = rng.lognormal(-3.75, 1.75, N_GENES)
    depth = rng.lognormal(0, 0.4, n_cells)
    parts = []
    for start in range(0, n_cells, 500):
        dense = rng.poisson(np.outer(depth[start : start + 500], means)).astype(np.float32)
        parts.append(sp.csr_matrix(np.where(rng.random(dense.shape) < thin, dense, 0) if thin < 1 else dense))
    return sp.vstack(parts, format="csr")


def best(call: Any, repeats: int) -> dict[str, float]:
    """Return the least CPU and wall seconds of some calls, after one that is not counted."""
    call()
    cpu, wall = [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return {"cpu": min(cpu), "wall": min(wall)}


def kernels(dim: int, n_cells: int = 4096, repeats: int = 3) -> dict[str, Any]:
    """Multiply blocks of 2,048 logged cells by every way."""
    import torch

    from bftembed.cells.kernels import KERNELS

    matrix = counts(n_cells)
    matrix.data = np.log1p(matrix.data)
    genes = np.random.default_rng(1).normal(0.02, 0.05, (N_GENES, dim)).astype(np.float32)
    wide = genes.astype(np.float64)
    blocks = []
    for start in range(0, n_cells, 2048):
        part = matrix[start : start + 2048]
        blocks.append((part.indptr.astype(np.int64), part.indices.astype(np.int32), part.data))
    out = np.empty((2048, dim), dtype=np.float32)

    def ours(name: str) -> Any:
        kernel = KERNELS[name](genes, 2048)
        return lambda: [kernel(*block, out[: len(block[0]) - 1]) for block in blocks]

    def notebook() -> None:  # dense cells times float64 vectors, as GenePT's notebook does; densifying is not counted
        dense @ wide

    few = min(1000, n_cells)
    dense = matrix[:few].toarray()
    csr = torch.sparse_csr_tensor(
        torch.from_numpy(matrix.indptr.astype(np.int32)),
        torch.from_numpy(matrix.indices.astype(np.int32)),
        torch.from_numpy(matrix.data),
        matrix.shape,
    )
    vectors = torch.from_numpy(genes)
    ways: dict[str, tuple[Any, int]] = {
        "scipy": (lambda: matrix @ genes, n_cells),
        "torch CSR": (lambda: csr @ vectors, n_cells),
        "notebook": (notebook, few),
        **{name: (ours(name), n_cells) for name in ("dense-bf16", "sparse-float32")},
    }
    for kind in (torch.bfloat16, torch.float16):
        left, right = torch.randn(2048, N_GENES).to(kind), vectors.to(kind)
        result = torch.empty(2048, dim, dtype=kind)
        name = f"GEMM {str(kind).split('.')[1]}"
        ways[name] = (lambda a=left, b=right, c=result: torch.mm(a, b, out=c), 2048)
    found = {}
    for name, (call, cells) in ways.items():
        times = best(call, 1 if name in ("scipy", "notebook", "torch CSR") else repeats)
        found[name] = {f"{kind}_us_per_cell": round(1e6 * s / cells, 2) for kind, s in times.items()}
        print(dim, name, found[name], flush=True)
    cpu = {name: row["cpu_us_per_cell"] for name, row in found.items()}
    return {
        "values_per_cell": round(matrix.nnz / n_cells, 1),
        "ways": found,
        "bf16_x_scipy": round(cpu["scipy"] / cpu["dense-bf16"], 2),
        "bf16_x_notebook": round(cpu["notebook"] / cpu["dense-bf16"], 2),
        "bf16_share_of_gemm": round(cpu["GEMM bfloat16"] / cpu["dense-bf16"], 3),
        "fp16_gemm_x_bf16_gemm": round(cpu["GEMM float16"] / cpu["GEMM bfloat16"], 2),
        "float32_x_best_of_scipy_and_torch": round(min(cpu["scipy"], cpu["torch CSR"]) / cpu["sparse-float32"], 2),
    }


def write_file(path: Path, n_cells: int, form: str, compression: str | None, thin: float) -> None:
    """Write a h5ad of 20,000-cell tiles, without holding it in memory; CSC is written as a whole."""
    import anndata
    import h5py
    import scipy.sparse as sp

    from bftembed.entities.genes import GeneIndex

    tile = counts(min(n_cells, 20_000), thin=thin)
    genes = list(GeneIndex.default())[:N_GENES]
    if form == "csc" or n_cells <= tile.shape[0]:
        whole = sp.vstack([tile] * (n_cells // tile.shape[0]), format=form)
        data = anndata.AnnData(whole)
        data.var_names = genes
        data.write_h5ad(path, compression=compression)
        return
    data = anndata.AnnData(tile[:1])
    data.var_names = genes
    data.write_h5ad(path)
    times = n_cells // tile.shape[0]
    with h5py.File(path, "r+") as file:
        del file["X"]
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n_cells, N_GENES)})
        for name, values in (("data", tile.data), ("indices", tile.indices.astype(np.int32))):
            stored = group.create_dataset(name, shape=(tile.nnz * times,), dtype=values.dtype, compression=compression)
            for i in range(times):
                stored[i * tile.nnz : (i + 1) * tile.nnz] = values
        steps = np.tile(np.diff(tile.indptr).astype(np.int64), times)
        group["indptr"] = np.concatenate([[0], np.cumsum(steps)])
        del file["obs"]
        from anndata.io import write_elem
        from pandas import DataFrame

        write_elem(file, "obs", DataFrame(index=np.char.add("cell", np.arange(n_cells).astype(str)).astype(object)))


def gene_file(path: Path, dim: int) -> None:
    from bftembed.embeddings import GeneEmbeddings
    from bftembed.entities.genes import GeneIndex

    matrix = np.random.default_rng(1).normal(0.02, 0.05, (N_GENES, dim)).astype(np.float32)
    GeneEmbeddings(list(GeneIndex.default())[:N_GENES], matrix).save(path)


def read_alone(path: str) -> dict[str, float]:
    """Read every block of a file with our reader, and do nothing with it."""
    from bftembed.expression.source import open_expression

    with open_expression(path) as expression:

        def read() -> None:
            for _ in expression.matrix.rows(2048):
                pass

        return best(read, 2)


def kernel_alone(path: str, genes: str) -> dict[str, float]:
    """Embed the cells of a file that are in memory: all but reading and writing."""
    import anndata

    from bftembed.cells.embed import embed_cells
    from bftembed.embeddings import GeneEmbeddings

    cells, vectors = anndata.read_h5ad(path), GeneEmbeddings.load(genes)
    cells.X = cells.X.tocsr()
    kept = cells[:2048].copy()
    embed_cells(kept, vectors, kernel="dense-bf16", overwrite=True)
    return best(lambda: embed_cells(cells, vectors, kernel="dense-bf16", overwrite=True), 1)


def whole_file(path: str, genes: str, out: str) -> dict[str, float]:
    from bftembed.cells.embed import embed_cells

    return best(lambda: embed_cells(path, genes, sidecar=out), 2)


def peak(path: str, genes: str, out: str) -> dict[str, Any]:
    """Return the peak resident memory of a run above that of the interpreter with its modules."""
    import torch

    import bftembed.cells.embed

    torch.mm(torch.ones(64, 64, dtype=torch.bfloat16), torch.ones(64, 64, dtype=torch.bfloat16))
    high = Path("/proc/self/status")

    def resident(field: str) -> int:
        line = next(x for x in high.read_text().splitlines() if x.startswith(field))
        return int(line.split()[1]) // 1024

    before = resident("VmRSS")
    started = time.perf_counter()
    report = bftembed.cells.embed.embed_cells(path, genes, sidecar=out)
    return {
        "interpreter_mb": before,
        "peak_above_interpreter_mb": resident("VmHWM") - before,
        "seconds": round(time.perf_counter() - started, 1),
        "cells_per_second": round(report.n_cells / (time.perf_counter() - started)),
        "kernel": report.method["kernel"],
    }


def alone(function: str, *arguments: object) -> dict[str, Any]:
    """Call a function of this file in a process of its own."""
    command = [sys.executable, __file__, "--one", function, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def files(folder: Path, n_cells: int = 60_000) -> dict[str, Any]:
    cores, found = len(os.sched_getaffinity(0)), {}
    genes, out = folder / "genes.safetensors", folder / "out.h5ad"
    gene_file(genes, 1536)
    for form in ("csr", "csc"):
        for compression in (None, "lzf", "gzip"):
            path = folder / "in.h5ad"
            write_file(path, n_cells, form, compression, 1.0)
            read = alone("read_alone", path)
            kernel = alone("kernel_alone", path, genes)
            run = alone("whole_file", path, genes, out)
            bound = max(read["wall"], (read["cpu"] + kernel["cpu"]) / cores)
            row = {"file_mb": path.stat().st_size // 2**20, "read": read, "kernel": kernel, "file_to_file": run}
            row |= {"bound_seconds": round(bound, 3), "wall_x_bound": round(run["wall"] / bound, 3)}
            found[f"{form}, {compression or 'uncompressed'}"] = row
            print(form, compression, row, flush=True)
    return found


def memory(folder: Path) -> dict[str, Any]:
    found = {}
    genes, path, out = folder / "genes.safetensors", folder / "in.h5ad", folder / "out.h5ad"
    gene_file(genes, 1536)
    for name, (n_cells, thin) in SIZES.items():
        write_file(path, n_cells, "csr", None, thin)
        found[name] = {"file_mb": path.stat().st_size // 2**20, **alone("peak", path, genes, out)}
        out.unlink()
        path.unlink()
        print(name, found[name], flush=True)
    return found


def real(folder: Path, path: Path) -> dict[str, Any]:
    """Embed the 500 cells of a CITE-seq file."""
    genes = folder / "genes.safetensors"
    gene_file(genes, 1536)
    return {"file": path.name, **alone("whole_file", path, genes, folder / "out.h5ad")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("kernels", "files", "memory", "real")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--folder", type=Path, help="where files are made; default the system's temporary folder")
    parser.add_argument("--real-file", type=Path, default=Path("../shared/data/cells/citefuse_citeseq_pbmc500.h5ad"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "cells.json")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, *arguments = options.one
        print(json.dumps(globals()[name](*arguments)))
        return
    from bftembed.report.manifest import versions

    folder = Path(tempfile.mkdtemp(prefix="cells-", dir=options.folder))
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result["environment"] = versions()
    try:
        for part in options.parts:
            if part == "kernels":
                result[part] = {f"d = {dim}": kernels(dim) for dim in (1536, 384)}
            elif part == "real":
                result[part] = real(folder, options.real_file)
            else:
                result[part] = {"files": files, "memory": memory}[part](folder)
            options.out.write_text(json.dumps(result, indent=1) + "\n")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
