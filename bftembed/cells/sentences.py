"""The verb: cells as sentences of their genes, which an encoder turns into vectors (GenePT-s).

The published method (the notebook ``aorta_data_analysis`` of GenePT) makes of each cell the text "A cell with genes
ranked by expression: LYZ CD74 …": the names of all genes above zero, in falling order of expression, the first 1,000,
joined by a space. Genes that no table knows stay in it by the name that they have, and the vector is the encoder's,
unchanged. Three things are fixed here that it leaves to chance: a gene goes by its approved symbol, whatever the file
calls it; it is named once, where it has several columns; and equal values stand in the order of the symbols'
characters, whereas there they stand as the file and the sorting happen to have them.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bftembed.cells.normalize import NORMALIZE
from bftembed.cells.preflight import check_destination, check_key
from bftembed.cells.reading import expression_of_anndata, expression_of_file
from bftembed.cells.sentence_task import BLOCK_ROWS, SentenceTask, Wording, named_genes, refuse_bad_values, summary_of
from bftembed.cells.sinks import Memory
from bftembed.cells.task import EMPTY_CELLS
from bftembed.cells.writing import check_free, copy_of, put
from bftembed.errors import BftembedError, unknown_name
from bftembed.hdf5 import open_h5ad
from bftembed.io import refuse_input_as_output
from bftembed.progress import silent

if TYPE_CHECKING:
    from anndata import AnnData

    from bftembed.cells.normalize import Normalize
    from bftembed.cells.sentence_report import SentenceEmbeddingReport
    from bftembed.encoders.base import Encoder
    from bftembed.progress import Progress

#: As the published method has them.
PREFIX, SEPARATOR, TOP_GENES = "A cell with genes ranked by expression: ", " ", 1000
#: What the name of the default cache adds to that of the output.
CACHE_SUFFIX = ".sentences.sqlite"


def cell_sentences(
    data: AnnData | str | os.PathLike[str],
    *,
    first: int | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    top_genes: int | None = TOP_GENES,
    prefix: str = PREFIX,
    separator: str = SEPARATOR,
) -> list[str]:
    """Return the sentence of each cell: its genes by falling expression.

    The order within a cell is the same for counts and for their log1p of 10,000 per cell, so nothing is normalised.

    Parameters
    ----------
    data
        A h5ad file or an AnnData.
    first
        Only the first so many cells; nothing of the others is read. All by default.
    layer, use_raw, gene_column
        As in `bftembed.cells.embed.embed_cells`.
    top_genes
        Maximum number of genes in a sentence. None or 0 takes all.
    prefix, separator
        Text before the genes, and between two genes.

    Returns
    -------
    list of str
        In the order of the cells; ``""`` for a cell that expresses no gene with a name.

    Raises
    ------
    BftembedError
        For a file that is missing or damaged, a matrix or column that is not there, values that cannot be expression
        (NaN, infinite, negative), no gene with a name.
    """
    wording = Wording(_checked_top(top_genes), prefix, separator)
    if first is not None and first < 1:
        raise BftembedError(f"first (--show) is {first}; give 1 or more.")
    with contextlib.ExitStack() as stack:
        choice: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_column": gene_column}
        if isinstance(data, str | os.PathLike):
            expression = expression_of_file(stack.enter_context(open_h5ad(data)), **choice)
        else:
            expression = expression_of_anndata(_checked_anndata(data), **choice)
        cells = range(expression.n_cells if first is None else min(first, expression.n_cells))
        words = named_genes(expression)
        refuse_bad_values(summary_of(expression, words, cells, None, silent), expression)
        blocks = wording.blocks(expression, words, cells, BLOCK_ROWS, None)
        return [sentence for block in blocks for sentence in block.sentences]


def embed_cells_as_sentences(
    data: AnnData | str | os.PathLike[str],
    *,
    encoder: Encoder | str | None = None,
    out: str | os.PathLike[str] | None = None,
    show: int | None = None,
    key: str = "X_sentence",
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    normalize: Normalize = "auto",
    top_genes: int | None = TOP_GENES,
    prefix: str = PREFIX,
    batch_cells: int = 512,
    empty_cells: Literal["error", "nan", "drop"] = "error",
    overwrite: bool = False,
    cache: str | os.PathLike[str] | Literal[False] | None = None,
    progress: Progress = silent,
) -> SentenceEmbeddingReport | AnnData | list[str]:
    """Embed cells as sentences of their genes by decreasing expression (GenePT-s).

    Parameters
    ----------
    data
        Cells × genes: a h5ad file or builtin:NAME, read in blocks and never modified.
    encoder
        Encoder with fixed weights, such as builtin:all-minilm-l6-v2. Its option long says what happens to sentences
        beyond its limit.
    out
        Copy of the h5ad file to write, with the vectors in .obsm.
    show
        Return this number of sentences, those of the first cells, and encode nothing.
    layer
        Layer with the expression. By default .X.
    use_raw
        Take expression and genes from .raw.
    gene_column
        Column of .var with the gene names. By default the index.
    top_genes
        Maximum number of genes in a sentence. 0 takes all.
    empty_cells
        Cells that express no gene with a name: raise an error, write a row of NaN, or drop the cell.

    Other Parameters
    ----------------
    key
        Key of .obsm for the vectors.
    normalize
        As in `bftembed.cells.embed.embed_cells`. It decides which values are accepted; the order of genes is the same.
    prefix
        Text before the genes.
    batch_cells
        Number of cells per block.
    overwrite
        Replace ``.obsm[key]`` when it exists.
    cache
        File that keeps the vector of every sentence, so that a killed run resumes. For a file
        ``OUT.sentences.sqlite`` by default, for an AnnData none; False for none in any case.
    progress
        Called with the number of cells done.

    Returns
    -------
    SentenceEmbeddingReport, AnnData or list of str
        For a file the report. An AnnData gets ``.obsm[key]`` (float32, (n_cells, d)), ``.obs["KEY_coverage"]`` (share
        of the cell's expression that the sentence names) and ``.uns["bftembed"][key]``, and is returned; with
        ``empty_cells="drop"`` a copy without empty cells. With `show` the sentences.

    Raises
    ------
    BftembedError
        As `bftembed.cells.embed.embed_cells`; also for an encoder that is fitted on its texts (TF-IDF), one that
        fails, and a cache that cannot be used. All values are checked before anything is encoded.

    References
    ----------
    Chen and Zou, GenePT (2024): the sentence embedding "GenePT-s".
    """
    if show is not None:
        return cell_sentences(
            data,
            first=show,
            layer=layer,
            use_raw=use_raw,
            gene_column=gene_column,
            top_genes=top_genes,
            prefix=prefix,
        )
    if encoder is None:
        raise BftembedError("Give an encoder and an output, or show=N (--show N) for the first N sentences.")
    check_key(key)
    for what, value, known in (("normalize", normalize, NORMALIZE), ("empty_cells", empty_cells, EMPTY_CELLS)):
        if value not in known:
            raise unknown_name(what, str(value), known)
    if batch_cells < 1:
        raise BftembedError(f"batch_cells is {batch_cells}; give 1 or more.")
    wording = Wording(_checked_top(top_genes), prefix, SEPARATOR)
    choice: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_column": gene_column}
    if isinstance(data, str | os.PathLike):
        source = Path(data)
        target = check_destination(source, out)
        kept = target.with_name(target.name + CACHE_SUFFIX) if cache is None else cache
        task = SentenceTask(
            _loaded(encoder), key, wording, normalize, empty_cells, batch_cells, _cache(kept, source, target)
        )
        with copy_of(source, target, key, overwrite=overwrite, drop=empty_cells == "drop") as destination:
            with open_h5ad(source) as handle:
                ready = task.prepare(expression_of_file(handle, **choice), target.parent, progress)
                report, embedded = task.run(ready, destination.sink((ready.n_cells, task.dim)), gene_column, progress)
            destination.finish(embedded)
        return replace(report, out=target)
    adata = _checked_anndata(data)
    if out is not None:
        raise BftembedError(
            "out is for files. For an AnnData leave it out, and call adata.write_h5ad(path) afterwards."
        )
    check_free(adata, key, overwrite, "The AnnData")
    task = SentenceTask(_loaded(encoder), key, wording, normalize, empty_cells, batch_cells, _cache(cache))
    ready = task.prepare(expression_of_anndata(adata, **choice), None, progress)
    memory = Memory(ready.n_cells, task.dim)
    _, embedded = task.run(ready, memory, gene_column, progress)
    return put(adata, key, memory.vectors, embedded)


def _cache(cache: str | os.PathLike[str] | Literal[False] | None, *files: Path) -> Path | None:
    if cache is None or cache is False:
        return None
    path = Path(cache)
    if path.is_dir():
        raise BftembedError(f"The cache {path} is a folder: give the path of a file.")
    refuse_input_as_output(path, *files)
    if any(path.absolute() == file.absolute() for file in files):
        raise BftembedError(f"The cache {path} is the output itself. Choose another file.")
    return path


def _checked_top(top_genes: int | None) -> int | None:
    if top_genes is not None and top_genes < 0:
        raise BftembedError(f"top_genes (--top-genes) is {top_genes}; give 1 or more, or 0 for all genes.")
    return top_genes or None


def _checked_anndata(data: Any) -> AnnData:
    if not hasattr(data, "obsm"):
        raise BftembedError(f"data is a {type(data).__name__}; give the path of a h5ad file or an AnnData.")
    return data


def _loaded(encoder: Encoder | str) -> Encoder:
    from bftembed.encoders.base import encoder_from_spec
    from bftembed.encoders.cache import CachedEncoder

    made = encoder_from_spec(encoder) if isinstance(encoder, str) else encoder
    CachedEncoder(made, None)  # refuses one that is fitted on its texts
    return made
