"""Small cells, the files that hold them, and the reference program: expression times gene embeddings in float64."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import scipy.sparse as sp

import bftembed
from bftembed import GeneEmbeddings

#: The last one has no embedding.
GENES = ["CD3D", "LYZ", "MS4A1", "GNLY", "NKG7", "CD8A"]
EMBEDDINGS = GeneEmbeddings(
    GENES[:5], np.random.default_rng(7).normal(size=(5, 4)).astype(np.float32), {"encoder": {"name": "random"}}
)
FORMS = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}
CONTAINERS = ["h5ad", "zarr2", "zarr3", "h5mu", "mu.zarr"]


def counts_of(n_cells=30, seed=0):
    """Return counts (n_cells, 6) in which each cell expresses LYZ."""
    counts = np.random.default_rng(seed).poisson(1.2, size=(n_cells, len(GENES))).astype(np.float32)
    counts[:, 1] += 1
    return counts


def cells_of(values=None, genes=GENES, form="csr", **columns):
    values = counts_of() if values is None else np.asarray(values)
    cells = anndata.AnnData(FORMS[form](values))
    cells.var_names = list(genes)
    cells.obs_names = [f"cell{i}" for i in range(len(values))]
    for name, column in columns.items():
        cells.obs[name] = column
    return cells


def with_empty_cells(rows=(3, 7), n_cells=30, form="csr"):
    """Cells of which the first of `rows` expresses nothing, and the others only the gene without an embedding."""
    counts = counts_of(n_cells)
    counts[list(rows)] = 0
    counts[list(rows[1:]), 5] = 5
    return cells_of(counts, form=form)


def write(cells, folder, container="h5ad", compression="gzip"):
    """Write an AnnData to `folder` and return the path, and the options that find it there again."""
    path = folder / f"cells.{container}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if container.startswith("zarr"):
            with anndata.settings.override(zarr_write_format=int(container[-1])):
                cells.write_zarr(path)
        elif container in ("h5mu", "mu.zarr"):
            import mudata

            other = anndata.AnnData(np.ones((cells.n_obs, 1), dtype=np.float32), obs=cells.obs[[]])
            both = mudata.MuData({"adt": other, "rna": cells})
            both.write(path) if container == "h5mu" else both.write_zarr(path)
            return path, {"modality": "rna"}
        else:
            cells.write_h5ad(path, compression=compression)
    return path, {}


def embedded(data, genes=EMBEDDINGS, key="X_bft", **options):
    """Return vectors and provenance; of a file by way of a sidecar beside it, which is read and deleted."""
    if isinstance(data, anndata.AnnData):
        found = bftembed.embed_cells(data if data.isbacked else data.copy(), genes, key=key, **options)
        return found.obsm[key], found.uns["bftembed"][key]
    sidecar = data.parent / "sidecar of embedded.h5ad"
    bftembed.embed_cells(data, genes, sidecar=sidecar, key=key, **options)
    found = anndata.read_h5ad(sidecar)
    sidecar.unlink()
    return found.obsm[key], found.uns["bftembed"][key]


def reference(
    values, genes=GENES, embeddings=EMBEDDINGS, *, counts=True, weights="expression", top_k=None, matched=False, l2=True
):
    """Return w @ G / n of each cell by loops over cells and genes; NaN for a cell without a covered gene.

    `genes` are names as the embeddings have them.
    """
    values = np.asarray(values, dtype=np.float64)
    vector_of = dict(zip(embeddings.ids, embeddings.matrix.astype(np.float64), strict=True))
    idf = np.log((1 + len(values)) / (1 + (values != 0).sum(axis=0))) + 1
    rows = []
    for cell in values:
        scaled = np.log1p(cell / cell.sum() * 1e4) if counts and cell.any() else cell
        weight = {g: scaled[g] for g in range(len(genes)) if scaled[g] and genes[g] in vector_of}
        if weights == "idf":
            weight = {g: value * idf[g] for g, value in weight.items()}
        elif weights == "rank":
            below = {g: sum(cell[h] < cell[g] for h in weight) for g in weight}
            equal = {g: sum(cell[h] == cell[g] for h in weight) for g in weight}
            weight = {g: (below[g] + (equal[g] + 1) / 2) / len(weight) for g in weight}
        chosen = sorted(weight, key=lambda g: (-np.float32(weight[g]), embeddings.ids.index(genes[g])))[:top_k]
        total = sum((weight[g] * vector_of[genes[g]] for g in chosen), np.zeros(embeddings.dim))
        total /= sum(weight[g] for g in chosen) if matched and chosen else len(genes)
        length = np.linalg.norm(total)
        rows.append(total / (length if l2 else 1) if chosen and length else np.full(embeddings.dim, np.nan))
    return np.array(rows)


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def replaced(parent, name, values=None, **storage):
    """Write a member of a HDF5 group anew, with the attributes that it had."""
    kept = dict(parent[name].attrs)
    del parent[name]
    parent.create_dataset(name, data=values, **storage).attrs.update(kept)
