"""A small CITE-seq experiment, in every form that a file may have."""

from __future__ import annotations

import contextlib
import gzip

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse

from bftembed.embeddings import GeneEmbeddings

#: Antibody, spelt as panels do → the genes of what it binds. The last two are in no RNA here.
PANEL = {
    "CD3_TotalSeqB": ("CD3D", "CD3E", "CD3G"),
    "anti-CD19": ("CD19",),
    "CD14": ("CD14",),
    "CD56": ("NCAM1",),
    "CD8a": ("CD8A",),
    "CD4": ("CD4",),
    "IgG1_control": (),
    "CD45RA": ("PTPRC",),
}
GENES = [
    *("CD3D", "CD3E", "CD3G", "CD19", "CD14", "NCAM1", "CD8A"),
    *("CD4", "LYZ", "MS4A1", "GNLY", "NKG7", "S100A8", "ACTB"),
]
DIM = 6


def counts(n=120, seed=0):
    """Return RNA (n, 14) and protein counts (n, 8), float32, and the type of each cell; types differ in both."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    rna_level, protein_level = draw.gamma(1, 2, (3, len(GENES))), draw.gamma(1, 2, (3, len(PANEL)))
    for place, genes in enumerate(PANEL.values()):
        for gene in (g for g in genes if g in GENES):
            protein_level[:, place] = 0.2 + 3 * rna_level[:, GENES.index(gene)]
    rna = draw.poisson(rna_level[labels] + 0.3).astype(np.float32)
    protein = draw.poisson(protein_level[labels] + 0.5).astype(np.float32)
    rna[:, -1] += 1  # no cell is empty
    protein[:, 0] += 1
    return rna, protein, np.array([f"t{x}" for x in labels])


def names(n):
    return [f"c{i}" for i in range(n)]


def embeddings(dim=DIM, seed=0, drop=()):
    genes = [g for g in [*GENES, "PTPRC"] if g not in drop]
    return GeneEmbeddings(genes, np.random.default_rng(seed).normal(size=(len(genes), dim)) + 1)


def rna_data(n=120, **options):
    rna, _, labels = counts(n, **options)
    found = anndata.AnnData(scipy.sparse.csr_matrix(rna), obs=pd.DataFrame({"kind": labels}, index=names(n)))
    found.var_names = GENES
    return found


def protein_data(n=120, **options):
    _, protein, labels = counts(n, **options)
    found = anndata.AnnData(protein, obs=pd.DataFrame({"type": labels}, index=names(n)))
    found.var_names = list(PANEL)
    return found


def with_obsm(n=120, key="ADT", **options):
    found = rna_data(n, **options)
    found.obsm[key] = counts(n, **options)[1]
    found.uns[f"{key}_names"] = np.array(list(PANEL))
    return found


def with_types(n=120, **options):
    """Return one AnnData of all features, told apart by their type."""
    rna, protein, labels = counts(n, **options)
    found = anndata.AnnData(
        scipy.sparse.csr_matrix(np.hstack([rna, protein])), obs=pd.DataFrame({"kind": labels}, index=names(n))
    )
    found.var_names = [*GENES, *PANEL]
    found.var["feature_types"] = ["Gene Expression"] * len(GENES) + ["Antibody Capture"] * len(PANEL)
    return found


def write_tenx_h5(path, n=120, types=True, **options):
    """Write a file as Cell Ranger 3 does; without types as Cell Ranger 2 does."""
    rna, protein, _ = counts(n, **options)
    matrix = scipy.sparse.csr_matrix(np.hstack([rna, protein]).astype(np.int32))  # by cell: CSC of features x cells
    features, n_genes = [*GENES, *PANEL], len(GENES)
    ids = np.array([f"ENSG{i:011d}" if i < n_genes else name for i, name in enumerate(features)], dtype="S")
    with h5py.File(path, "w") as handle:
        group = handle.create_group("matrix" if types else "GRCh38")
        group["barcodes"] = np.array(names(n), dtype="S")
        group["data"], group["indices"] = matrix.data, matrix.indices.astype(np.int64)
        group["indptr"], group["shape"] = matrix.indptr.astype(np.int64), np.array([len(features), n], dtype=np.int32)
        if not types:
            group["genes"], group["gene_names"] = ids, np.array(features, dtype="S")
            return path
        table = group.create_group("features")
        kinds = ["Gene Expression"] * n_genes + ["Antibody Capture"] * len(PANEL)
        table["id"], table["name"] = ids, np.array(features, dtype="S")
        table["feature_type"] = np.array(kinds, dtype="S")
        table["genome"] = np.array(["GRCh38"] * n_genes + [""] * len(PANEL), dtype="S")
        table["_all_tag_keys"] = np.array(["genome"], dtype="S")
    return path


def write_tenx_mtx(folder, n=120, kinds=("Gene Expression", "Antibody Capture"), **options):
    """Write a folder as Cell Ranger 3 does."""
    rna, protein, _ = counts(n, **options)
    folder.mkdir()
    matrix = scipy.sparse.coo_matrix(np.hstack([rna, protein]).T.astype(int))
    scipy.io.mmwrite(folder / "matrix.mtx", matrix)
    (folder / "matrix.mtx.gz").write_bytes(gzip.compress((folder / "matrix.mtx").read_bytes()))
    (folder / "matrix.mtx").unlink()
    features = [f"ENSG{i}\t{g}\t{kinds[0]}" for i, g in enumerate(GENES)] + [f"{p}\t{p}\t{kinds[1]}" for p in PANEL]
    (folder / "features.tsv.gz").write_bytes(gzip.compress("\n".join(features).encode() + b"\n"))
    (folder / "barcodes.tsv.gz").write_bytes(gzip.compress("\n".join(names(n)).encode() + b"\n"))
    return folder


def write_mudata(path, n=120, rna="rna", adt="prot", label_in="rna", shuffled=False):
    """Write MuData; the label is of the RNA, of the proteins, or nowhere."""
    import mudata

    parts = {rna: rna_data(n), adt: protein_data(n)}
    labels = dict(zip(names(n), counts(n)[2], strict=True))
    for part in parts.values():
        part.obs = part.obs.drop(columns=list(part.obs))
    if label_in in parts:
        parts[label_in].obs["kind"] = pd.Categorical([labels[c] for c in parts[label_in].obs_names])
    if shuffled:
        order = np.random.default_rng(1).permutation(n)
        parts[adt] = parts[adt][order].copy()
    option = getattr(mudata, "set_options", None)  # until mudata 0.4
    with option(pull_on_update=False) if option else contextlib.nullcontext():
        both = mudata.MuData(parts)
        both.write_h5mu(path)
    return path
