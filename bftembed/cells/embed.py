"""The verb: cell embeddings from expression and gene embeddings, for files or an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from bftembed.cells.output import check_key, embed_into
from bftembed.cells.pipeline import CellEmbedder, EmbedOptions
from bftembed.embeddings import GeneEmbeddings
from bftembed.errors import BftembedError
from bftembed.progress import silent
from bftembed.shards import parse_shard

if TYPE_CHECKING:
    import os

    from anndata import AnnData

    from bftembed.cells.aggregate import Weights
    from bftembed.cells.report import CellEmbeddingReport
    from bftembed.expression.normalize import Normalize
    from bftembed.progress import Progress


def embed_cells(
    data: AnnData | str | os.PathLike[str],
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
    dry_run: bool = False,
    precision: Literal["fast", "exact"] = "fast",
    kernel: str | None = None,
    block_rows: int | None = None,
    progress: Progress = silent,
) -> CellEmbeddingReport | AnnData:
    """Embed cells as the expression-weighted mean of gene embeddings (GenePT-w).

    The vector of a cell is ``w @ G / n_genes``, scaled to length 1, with its normalized expression w (n_genes,) and the
    gene embeddings G (n_genes, d), which are zero for genes without one. Columns of the same gene are summed.

    Parameters
    ----------
    data
        Cells × genes: a h5ad file, a zarr store, MuData, the .h5 of Cell Ranger, or builtin:NAME. A file is read in
        blocks and never modified.

        Also an AnnData, whose ``.X`` is never changed, and is read from its file where it is backed.
    genes
        Gene embeddings (.safetensors). Genes are matched by name, or by the approved symbol of the name.
    out
        Copy of the h5ad file to write, with the vectors in .obsm.
    sidecar
        File of the vectors alone, instead of a copy: an AnnData (.h5ad) without X.
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
        Weight of a gene in a cell: its expression, its rank (1 for the highest value, decreasing linearly to 1 / n), or
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
        I/N, the I-th of N parts of the cells of a file, written to a `sidecar`. bftembed cells merge joins the parts.
    dry_run
        Match the genes, check the options and embed the first block of cells, and write nothing.

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
        Implementation of the product: ``"sparse-float32"``, ``"dense-bf16"`` or ``"dense-cuda"``. By default
        chosen by size and processor.
    block_rows
        Number of cells per block, 2048 by default.
    progress
        Called with the number of cells done.

    Returns
    -------
    CellEmbeddingReport or AnnData
        For files, and for a dry run, the report. An AnnData gets ``.obsm[key]`` (float32, (n_cells, d)),
        ``.obs["KEY_coverage"]`` and ``.uns["bftembed"][key]``, and is returned; with ``empty_cells="drop"`` a copy
        without empty cells.

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
    options = EmbedOptions(
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
    )
    choice: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_column": gene_column}
    choice |= {"modality": modality, "obsm": obsm, "obsm_names": obsm_names, "kind": kind}
    if shard is not None:
        parse_shard(shard)
        if sidecar is None:
            raise BftembedError("A shard (--shard) needs a file and sidecar=PATH (--sidecar), a .h5ad for its vectors.")
    embedder = CellEmbedder(GeneEmbeddings.of(genes), key, options, shard, progress)
    return embed_into(
        data,
        embedder.run,
        key,
        choice,
        out=out,
        sidecar=sidecar,
        overwrite=overwrite,
        drop=empty_cells == "drop",
        dry_run=dry_run,
        inputs=[genes],
    )
