"""The verb: cell embeddings from expression and gene embeddings, for a h5ad file or an AnnData."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from bftembed.cells.budget import as_bytes
from bftembed.cells.preflight import check_destination, check_key
from bftembed.cells.reading import backed_path, expression_in, expression_of_anndata
from bftembed.cells.sinks import Memory
from bftembed.cells.stream import Shard, embed_to_sidecar
from bftembed.cells.task import Asked, Task
from bftembed.cells.writing import check_free, copy_of, put
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError
from bftembed.io import refuse_input_as_output
from bftembed.progress import silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from bftembed.cells.normalize import Normalize
    from bftembed.cells.report import CellEmbeddingReport
    from bftembed.cells.weighting import Weights
    from bftembed.progress import Progress


def embed_cells(
    data: AnnData | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    genes: GeneEmbeddings | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    sidecar: str | os.PathLike[str] | None = None,
    key: str = "X_bft",
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    modality: str | None = None,
    obsm: str | None = None,
    obsm_names: str | None = None,
    kind: Literal["gene", "protein"] = "gene",
    normalize: Normalize = "auto",
    weights: Weights = "expression",
    top_k: int | None = None,
    gene_matrix: str = "raw",
    denominator: Literal["all-genes", "matched-expression"] = "all-genes",
    l2: bool = True,
    empty_cells: Literal["error", "nan", "drop"] = "error",
    overwrite: bool = False,
    shard: str | None = None,
    precision: Literal["fast", "exact"] = "fast",
    kernel: str | None = None,
    block_rows: int | None = None,
    memory: int | str | None = None,
    progress: Progress = silent,
) -> CellEmbeddingReport | AnnData:
    """Embed cells as the expression-weighted mean of gene embeddings (GenePT-w).

    The vector of a cell is ``w @ G / n_genes``, scaled to length 1, with its normalized expression w (n_genes,) and the
    gene embeddings G (n_genes, d), which are zero for genes without one. Columns of the same gene are summed.

    Parameters
    ----------
    data
        Cells × genes: one or more h5ad files or zarr stores, a MuData file, or builtin:NAME. Files are read in blocks
        and never modified.

        Also an AnnData, whose ``.X`` is never changed, and is read from its file where it is backed.
    genes
        Gene embeddings (.safetensors). Genes are matched by name, or by the approved symbol of the name.
    out
        Copy of the h5ad file to write, with the vectors in .obsm.
    sidecar
        File of the vectors alone, instead of a copy: .h5ad, .zarr or .parquet. Several inputs need one.
    key
        Key of .obsm for the vectors.
    layer
        Layer with the expression. By default .X.
    use_raw
        Take expression and genes from .raw.
    gene_column
        Column of .var with the gene names. By default the index.
    modality
        Modality of a MuData file, such as rna.
    obsm
        Key of .obsm with the expression, such as the protein counts of CITE-seq.
    obsm_names
        Place of the names of `obsm`, uns/KEY. By default uns/OBSM_names, or the columns of a DataFrame.
    kind
        What the columns are. Names of proteins are resolved as antibodies and UniProt accessions. Where
        ``.var["feature_types"]`` states several types (CITE-seq, multiome), genes alone are embedded, or antibodies
        alone for proteins; other features count in no total.
    normalize
        log1p-cp10k is log1p of counts per 10,000, clr the centered log ratio within the cell, none takes the values as
        they are. auto chooses log1p-cp10k for counts and none for logged values, and reports why.
    weights
        Weight of a gene in a cell: its expression, its rank (1 for the highest value, falling linearly to 1 / n), or
        expression times inverse document frequency over the cells.
    top_k
        Number of genes per cell, those of the largest weight. By default all.
    gene_matrix
        Transformation of the gene embeddings: raw, center (subtract the mean over the genes of the data), or whiten:K
        (K principal components of unit variance).
    l2
        Scale each vector to unit length.
    empty_cells
        Cells that express no gene with an embedding: raise an error, write a row of NaN, or drop the cell.
    shard
        I/N, the I-th of N parts of the cells of one file, written to a `sidecar`. bftembed cells merge joins the parts.

    Other Parameters
    ----------------
    precision
        Bound on 1 - cosine to a float64 product: 1e-5 for fast, which allows bfloat16, and 1e-6 for exact.
    denominator
        Divide by the number of all genes of the matrix, as the GenePT notebook does, or by the cell's sum of weights.
        Without effect with `l2`.
    overwrite
        Replace ``.obsm[key]`` when it exists.
    kernel
        Implementation of the product: ``"dense-bf16"``, ``"dense-float32"``, ``"torch-csr"``, ``"axpy"`` or
        ``"scipy"``. By default the fastest on the first block; for a `shard` by size and processor.
    block_rows
        Number of cells per block, 2048 by default.
    memory
        Budget for gene matrix and blocks, in bytes or as ``"600MB"``. Sets `block_rows`.
    progress
        Called with the number of cells done.

    Returns
    -------
    CellEmbeddingReport or AnnData
        For files the report. An AnnData gets ``.obsm[key]`` (float32, (n_cells, d)), ``.obs["KEY_coverage"]`` and
        ``.uns["bftembed"][key]``, and is returned; with ``empty_cells="drop"`` a copy without empty cells.

    Raises
    ------
    BftembedError
        For a file that is missing or damaged, a matrix, layer or column that does not exist, no gene in common, NaN,
        infinite or negative values, values that are neither counts nor logged, empty cells, a key that is taken, and an
        output that is an input or cannot be written. Nothing is changed or written then.

    References
    ----------
    Chen and Zou, GenePT (2024): the weighted aggregation "GenePT-w".
    """
    check_key(key)
    recipe = Asked(
        kind=kind,
        normalize=normalize,
        weights=weights,
        top_k=top_k,
        gene_matrix=gene_matrix,
        denominator=denominator,
        l2=l2,
        empty_policy=empty_cells,
        precision=precision,
        kernel=kernel,
        block_rows=block_rows,
        memory=None if memory is None else as_bytes(memory),
    )
    part = None if shard is None else Shard.parse(shard)
    task = Task(GeneEmbeddings.of(genes), key, recipe, progress)
    choice: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_column": gene_column}
    choice |= {"modality": modality, "obsm": obsm, "obsm_names": obsm_names, "kind": kind}
    sources = _paths(data)
    if sources is None:
        if sidecar is not None or part is not None:
            raise BftembedError("sidecar and shard are for files. Give the path of a h5ad file, or leave them out.")
        return _embed_anndata(cast("AnnData", data), task, choice, out=out, overwrite=overwrite)
    if sidecar is not None:
        if out is not None:
            raise BftembedError("Give either out (--out) or a sidecar (--sidecar), not both.")
        return embed_to_sidecar(sources, sidecar, task, choice, shard=part, inputs=[genes])
    if part is not None or len(sources) > 1:
        what = "A shard (--shard)" if part is not None else "More than one file"
        raise BftembedError(f"{what} needs sidecar=PATH (--sidecar), a .h5ad, .zarr or .parquet for the vectors alone.")
    source = sources[0]
    target = check_destination(source, out)
    refuse_input_as_output(target, genes)
    if source.is_dir() or modality is not None:
        what = "is a folder" if source.is_dir() else "is MuData"
        raise BftembedError(
            f"{source} {what}: a copy with the embedding (--out) can be made of a h5ad file alone. For a zarr store or "
            "MuData give sidecar=PATH (--sidecar)."
        )
    with copy_of(source, target, key, overwrite=overwrite, drop=empty_cells == "drop") as destination:
        with expression_in(source, **choice) as expression:
            ready = task.prepare(expression, scratch=target.parent)
            done = task.run(ready, destination.sink((expression.n_cells, ready.dim)))
        destination.finish(task.embedded(done, gene_column))
    return replace(done.report, out=target)


def _paths(data: Any) -> list[Path] | None:
    """Return the files that are given; None for an AnnData."""
    if isinstance(data, str | os.PathLike):
        return [Path(data)]
    if not isinstance(data, list | tuple):
        return None
    if not data or not all(isinstance(one, str | os.PathLike) for one in data):
        raise BftembedError("data is a list without files; give one or more paths of h5ad files.")
    return [Path(one) for one in data]


def _embed_anndata(adata: AnnData, task: Task, choice: dict[str, Any], *, out: Any, overwrite: bool) -> AnnData:
    if not hasattr(adata, "obsm"):
        raise BftembedError(f"data is a {type(adata).__name__}; give the path of a h5ad file or an AnnData.")
    if out is not None:
        raise BftembedError(
            "out is for files. For an AnnData leave it out, and call adata.write_h5ad(path) afterwards."
        )
    check_free(adata, task.key, overwrite, "The AnnData")
    if choice.pop("modality") is not None:
        raise BftembedError("modality is for MuData files. Give the AnnData of the modality: mdata['rna'].")
    with ExitStack() as stack:
        if adata.isbacked:
            expression = stack.enter_context(expression_in(backed_path(adata), **choice))
        else:
            expression = expression_of_anndata(adata, **choice)
        ready = task.prepare(expression)
        memory = Memory(expression.n_cells, ready.dim)
        done = task.run(ready, memory)
    return put(adata, task.key, memory.vectors, task.embedded(done, choice["gene_column"]))
