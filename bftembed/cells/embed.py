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
    embeddings: GeneEmbeddings | str | os.PathLike[str],
    *,
    key: str = "X_bft",
    out: str | os.PathLike[str] | None = None,
    sidecar: str | os.PathLike[str] | None = None,
    shard: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    modality: str | None = None,
    obsm: str | None = None,
    obsm_names: str | None = None,
    gene_column: str | None = None,
    kind: Literal["gene", "protein"] = "gene",
    normalize: Normalize = "auto",
    weights: Weights = "expression",
    top_k: int | None = None,
    gene_matrix: str = "raw",
    denominator: Literal["all-genes", "matched-expression"] = "all-genes",
    l2: bool = True,
    empty_cells: Literal["error", "nan", "drop"] = "error",
    overwrite: bool = False,
    precision: Literal["fast", "exact"] = "fast",
    kernel: str | None = None,
    block_rows: int | None = None,
    memory: int | str | None = None,
    progress: Progress = silent,
) -> CellEmbeddingReport | AnnData:
    """Embed cells as the expression-weighted mean of gene embeddings (GenePT-w).

    For a cell with normalised expression w (n_genes,) and gene embeddings G (n_genes, d; zero rows for genes without
    one): ``vector = w @ G / n_genes``, then divided by its length. Two columns of one gene both add.

    Parameters
    ----------
    data
        A h5ad file or a zarr store, which is streamed in blocks and never modified, or an AnnData, whose
        ``.obsm[key]``, ``.obs["KEY_coverage"]`` and ``.uns["bftembed"][key]`` are set (its ``.X`` is never changed, and
        read from its file where it is backed). Several files need a `sidecar`: the cells of
        one after the other, genes matched for each, values of one kind.
    embeddings
        Gene embeddings, or the `.safetensors` file with them. A gene name of the data finds its embedding by its own
        text, or by the approved symbol that `GeneIndex` resolves it to.
    key
        Key of ``.obsm``.
    out
        For a h5ad file: the copy to write, with the embedding in it; replaced only when the new one is whole.
    sidecar
        For files, in place of `out`: a file of the embedding alone, in memory that does not grow with the number of
        cells beyond 50 bytes each. ``.h5ad`` and ``.zarr`` are an AnnData without X; ``.parquet`` has the columns
        ``cell``, ``KEY_coverage`` and KEY. Of several files a column ``file`` tells where a cell is from.
    shard
        ``"i/n"``: only the i-th of n runs of cells of a file, from 1; needs a `sidecar`. Shards are joined by
        `bftembed.cells.merge.merge_shards`; pin the `kernel`, so that machines choose alike.
    layer, use_raw
        Take ``.layers[layer]`` or ``.raw`` (with its own genes) instead of ``.X``.
    modality
        Of a MuData file: which one, such as ``"rna"``.
    obsm, obsm_names
        Take ``.obsm[obsm]`` as the expression, such as the protein counts of CITE-seq. Its names are the columns of a
        DataFrame, or those in ``uns["OBSM_names"]``, or where `obsm_names` says (``"uns/KEY"``).
    gene_column
        Column of ``.var`` with the gene names; the index by default.
    kind
        ``"protein"`` resolves names as `ProteinIndex` does (antibodies, UniProt accessions), for protein embeddings.
        Where ``.var["feature_types"]`` states several types (CITE-seq, multiome), genes alone are embedded, or the
        antibodies alone with ``"protein"``; other features count in no total.
    normalize
        ``"log1p-cp10k"``: log1p(10,000 · value / total of the cell over all its genes). ``"clr"``: centred log ratio
        within the cell, for protein counts. ``"none"``: values as they are. ``"auto"``: the first for whole numbers,
        the last for what is logged already, an error for neither.
        The decision and its reason are in the report. A second logarithm is refused.
    weights
        What a gene counts in a cell. ``"expression"``: its normalised value. ``"rank"``: 1 for the highest value of the
        cell, falling in equal steps to 1 / n. ``"idf"``: value times ``log((1 + n_cells) / (1 + n_cells with the gene))
        + 1``; a file is then read twice.
    top_k
        Take only so many genes with an embedding of each cell, those of the largest weight.
    gene_matrix
        What is summed: the embeddings as they are (``"raw"``), less their mean over the genes of the data
        (``"center"``), or their first K principal components over these genes, scaled to variance 1 (``"whiten:K"``).
    denominator
        ``"all-genes"``: the number of all genes of the matrix, as in the GenePT notebook; ``"matched-expression"``: the
        cell's sum of weights. Without effect after `l2`.
    l2
        Scale each vector to Euclidean length 1.
    empty_cells
        Cells that express no gene with an embedding have no vector: ``"error"``, ``"nan"`` (a row of NaN) or
        ``"drop"`` (left out of the output; without a `sidecar` a file is then read into memory as a whole).
    overwrite
        Replace ``.obsm[key]`` when it is there.
    precision
        ``"fast"``: 1 - cosine to a float64 product at most 1e-5, which allows bfloat16; ``"exact"``: at most 1e-6.
    kernel
        How blocks are multiplied: ``"dense-bf16"``, ``"dense-float32"``, ``"torch-csr"``, ``"axpy"`` or ``"scipy"``.
        By default the fastest on the first block; a name pins it, so that other machines and shards round alike.
    block_rows
        Cells per block, 2048 by default; for a file, memory is the gene matrix and a few blocks, whatever its size.
    memory
        Bytes, or text like ``"600MB"``, for the gene matrix and the blocks: chooses `block_rows` where that is not
        given. The interpreter and its libraries come on top.
    progress
        Told the cells that are done.

    Returns
    -------
    CellEmbeddingReport or AnnData
        For a file the report. For an AnnData the same object, or with ``empty_cells="drop"`` and empty cells a copy
        without them; the report is then what ``.uns["bftembed"][key]`` holds. Vectors are float32 (n_cells, d).

    Raises
    ------
    BftembedError
        For a file that is missing, damaged or hostile, a matrix, layer or column that is not there, no gene in
        common, NaN, infinite or negative values, logged or unclear values as said, empty cells, a key that is taken,
        an output that is the input or cannot be written. Nothing is changed or written then.

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
    task = Task(GeneEmbeddings.of(embeddings), key, recipe, progress)
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
        return embed_to_sidecar(sources, sidecar, task, choice, shard=part, inputs=[embeddings])
    if part is not None or len(sources) > 1:
        what = "A shard (--shard)" if part is not None else "More than one file"
        raise BftembedError(f"{what} needs sidecar=PATH (--sidecar), a .h5ad, .zarr or .parquet for the vectors alone.")
    source = sources[0]
    target = check_destination(source, out)
    refuse_input_as_output(target, embeddings)
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
