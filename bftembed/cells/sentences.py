"""The verb: cells as sentences of their genes, which an encoder turns into vectors (GenePT-s).

The published method (the notebook ``aorta_data_analysis`` of GenePT) makes of each cell the text "A cell with genes
ranked by expression: LYZ CD74 …": the names of all genes above zero, in descending order of expression, the first
1,000, joined by a space. Genes that no table knows stay in it by the name that they have, and the vector is the
encoder's, unchanged. Three things are fixed here that it leaves to chance: a gene goes by its approved symbol, whatever
the file calls it; it is named once, where it has several columns; and equal values are in the order of the symbols.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bftembed.cells.output import check_key, embed_into
from bftembed.cells.pipeline import EMPTY_CELLS, run_method
from bftembed.encoders.base import encoder_from_spec
from bftembed.encoders.cache import CachedEncoder, VectorCache
from bftembed.entities.genes import GeneIndex
from bftembed.entities.spelling import unusable
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.expression.features import GeneMatch
from bftembed.expression.source import open_expression
from bftembed.expression.value_stats import reject_bad_values, summarize
from bftembed.io import canonical_json, refuse_input_as_output
from bftembed.progress import silent

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from anndata import AnnData

    from bftembed.cells.output import Embedded, SinkOf
    from bftembed.cells.report import CellEmbeddingReport
    from bftembed.encoders.base import Encoder
    from bftembed.expression.matrix import Rows
    from bftembed.expression.normalize import Transform
    from bftembed.expression.source import Expression
    from bftembed.expression.value_stats import Placed, ValueSummary
    from bftembed.progress import Progress

#: As the published method has them.
PREFIX, TOP_GENES = "A cell with genes ranked by expression: ", 1000
#: Cells that are read, and encoded, together.
_BLOCK_ROWS = 512


def cell_sentences(
    data: AnnData | str | os.PathLike[str],
    *,
    first: int | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_column: str | None = None,
    top_genes: int = TOP_GENES,
) -> list[str]:
    """Return the sentence of each cell: its genes by decreasing expression.

    The order within a cell is the same for counts and for their log1p of 10,000 per cell, so nothing is normalized.

    Parameters
    ----------
    data
        A h5ad file or an AnnData.
    first
        Number of cells, from the first; nothing of the others is read. All by default.
    layer, use_raw, gene_column
        As in `bftembed.cells.embed.embed_cells`.
    top_genes
        Maximum number of genes in a sentence. 0 takes all.

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
    for name, count, least in (("first (--show)", first, 1), ("top_genes (--top-genes)", top_genes, 0)):
        if count is not None and count < least:
            raise BftembedError(f"{name} is {count}; give {least} or more.")
    with open_expression(data, layer=layer, use_raw=use_raw, gene_column=gene_column) as expression:
        cells = range(expression.n_cells if first is None else min(first, expression.n_cells))
        words = _name_genes(expression.genes, expression.where)
        reject_bad_values(summarize(expression.matrix.rows(_BLOCK_ROWS, cells), words.target_of, cells), expression)
        blocks = expression.matrix.rows(_BLOCK_ROWS, cells)
        return [sentence for rows in blocks for sentence in _sentences(rows, words, top_genes).texts]


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
    top_genes: int = TOP_GENES,
    empty_cells: Literal["error", "nan", "drop"] = "error",
    cache: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> CellEmbeddingReport | AnnData | list[str]:
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
    cache
        File that keeps the vector of every sentence, so that a second or a killed run encodes the rest alone. Beside
        `out` for an encoder that costs money.

    Other Parameters
    ----------------
    key
        Key of .obsm for the vectors.
    overwrite
        Replace ``.obsm[key]`` when it exists.
    progress
        Called with the number of cells done.

    Returns
    -------
    CellEmbeddingReport, AnnData or list of str
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
    choice: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "gene_column": gene_column}
    if show is not None:
        return cell_sentences(data, first=show, top_genes=top_genes, **choice)
    if encoder is None:
        raise BftembedError("Give an encoder and an output, or show=N (--show N) for the first N sentences.")
    check_key(key)
    if empty_cells not in EMPTY_CELLS:
        raise unknown_name("empty_cells", str(empty_cells), EMPTY_CELLS)
    if top_genes < 0:
        raise BftembedError(f"top_genes (--top-genes) is {top_genes}; give 1 or more, or 0 for all genes.")
    made = encoder_from_spec(encoder) if isinstance(encoder, str) else encoder
    if cache is None and out is not None and getattr(made, "paid", False):
        cache = Path(out).parent / "vectors.sqlite"
    refuse_input_as_output(cache, data)
    if cache is not None and out is not None and Path(cache).absolute() == Path(out).absolute():
        raise BftembedError(f"The cache {cache} is the output itself. Choose another file.")
    with contextlib.ExitStack() as stack:
        cached = CachedEncoder(made, stack.enter_context(VectorCache(cache)) if cache is not None else None)
        embedder = _SentenceEmbedder(cached, key, top_genes, empty_cells, progress)
        drop = empty_cells == "drop"
        return embed_into(data, embedder.run, key, choice, out=out, overwrite=overwrite, drop=drop, inputs=[cache])


@dataclass(frozen=True)
class _Words:
    """Names of the genes (columns) of a matrix.

    `names` object (n_words,) are the different words, sorted; `match.rows` are positions in it, -1 for none;
    `n_unnamed` columns have no name (blank, ``nan``, control characters).
    """

    names: np.ndarray
    match: GeneMatch
    n_unnamed: int

    @property
    def target_of(self) -> np.ndarray:
        """Own position of each named gene, -1 for others: duplicates are summed by their words, not by these."""
        return np.where(self.match.rows >= 0, np.arange(len(self.match.rows)), -1).astype(np.int32)


def _name_genes(genes: Sequence[str], where: str) -> _Words:
    """Name the genes of a matrix: by approved symbol, else by the name that they have."""
    counts = dict.fromkeys(("used", "mapped", "ambiguous", "missing", "unnamed"), 0)
    called: list[str] = []
    for gene in GeneIndex.default().resolve(genes):
        word = " ".join(gene.entity.split())
        unnamed = gene.symbol is None and (not word or bool(unusable(word)))
        counts["unnamed" if unnamed else gene.status] += 1
        called.append("" if unnamed else word)
    names = sorted({word for word in called if word})
    if not names:
        raise BftembedError(
            f"{where}: none of its {len(called)} genes has a name; they begin with {examples(genes)}. Choose the "
            f"column of .var with gene names with gene_column (--gene-column)."
        )
    position = {word: i for i, word in enumerate(names)}
    rows = np.array([position.get(word, -1) for word in called], dtype=np.int64)
    n_duplicates = int((rows >= 0).sum()) - len(names)
    match = GeneMatch(rows, counts["used"], counts["mapped"], counts["ambiguous"], counts["missing"], 0, n_duplicates)
    return _Words(np.array(names, dtype=object), match, counts["unnamed"])


@dataclass(frozen=True)
class _Sentences:
    """Sentences of n consecutive cells.

    `texts` are ``""`` for a cell that expresses no gene with a name; `n_named` and `n_expressed` int64 (n,) are the
    genes in the sentence, and those that could be in it without a limit; `covered` float64 (n,) is the sum of the
    values of the genes in the sentence.
    """

    texts: list[str]
    n_named: np.ndarray
    n_expressed: np.ndarray
    covered: np.ndarray


def _sentences(rows: Rows, words: _Words, top_genes: int) -> _Sentences:
    """Return the sentences of a block: words by decreasing value, equal values by word, zeros left out.

    A word of several genes is named once, where the highest of their values puts it.
    """
    n = len(rows)
    rows = rows.canonical(len(words.match.rows))
    cell = np.repeat(np.arange(n), np.diff(rows.indptr))
    word, value = words.match.rows[rows.indices], rows.values
    counts = (value > 0) & (word >= 0)
    cell, word, value = cell[counts], word[counts], value[counts]
    order = np.lexsort((word, -value, cell))
    cell, word, value = cell[order], word[order], value[order]
    entry = cell * len(words.names) + word
    first = np.ones(len(entry), dtype=bool)
    if words.match.n_duplicates:
        first[:] = False
        first[np.unique(entry, return_index=True)[1]] = True  # the first of equal ones has the highest value
    n_expressed = np.bincount(cell[first], minlength=n)
    place = np.arange(int(first.sum())) - np.repeat(np.cumsum(n_expressed) - n_expressed, n_expressed)
    n_named = np.minimum(n_expressed, top_genes) if top_genes else n_expressed
    taken = place < np.repeat(n_named, n_expressed)
    inside = np.isin(entry, entry[first][taken])
    spoken = np.split(words.names[word[first][taken]], np.cumsum(n_named)[:-1])
    texts = [PREFIX + " ".join(one) if len(one) else "" for one in spoken]
    return _Sentences(texts, n_named, n_expressed, np.bincount(cell[inside], weights=value[inside], minlength=n))


@dataclass
class _SentenceMethod:
    """A `bftembed.cells.aggregate.Method`: the encoder's vectors of the sentences, and counts of these."""

    encoder: CachedEncoder
    words: _Words
    top_genes: int
    made: list[_Sentences] = field(default_factory=list)  # without their texts

    def __post_init__(self) -> None:
        self.target_of, self.dim = self.words.target_of, self.encoder.spec.dim

    def vectors(self, rows: Rows, placed: Placed, transform: Transform, totals: np.ndarray) -> np.ndarray:
        made = _sentences(rows, self.words, self.top_genes)
        self.made.append(_Sentences([], made.n_named, made.n_expressed, made.covered))
        vectors = np.full((len(rows), self.dim), np.nan, dtype=np.float32)
        if len(filled := np.flatnonzero(made.n_named)):
            vectors[filled] = self.encoder.encode([made.texts[i] for i in filled])
        return vectors

    def covered(self, values: ValueSummary) -> np.ndarray:
        return np.concatenate([one.covered for one in self.made])

    def told(self) -> dict[str, Any]:
        """Return what the report of the run has beside that of other methods."""
        n_named, found = np.concatenate([one.n_named for one in self.made]), self.encoder.report
        return {
            "top_genes": self.top_genes,
            "n_cut": sum(int((one.n_expressed > one.n_named).sum()) for one in self.made),
            "mean_genes": float(n_named[n_named > 0].mean()) if n_named.any() else 0.0,
            "encoder": self.encoder.spec.name,
            "long": self.encoder.spec.long,
            "share_over_limit": found.n_over_limit / found.n_texts if found.n_texts else 0.0,
            "encoding": found.to_dict(),
            "n_encoded": self.encoder.n_encoded,
            "n_reused": self.encoder.n_reused,
        }


@dataclass(frozen=True)
class _SentenceEmbedder:
    encoder: CachedEncoder
    key: str
    top_genes: int
    empty_policy: str
    progress: Progress

    def run(self, expression: Expression, sink_of: SinkOf | None, scratch: Path | None = None) -> Embedded:
        """Write the vectors of all cells; all values are checked before anything is encoded."""
        assert sink_of is not None  # there is no dry run
        words = _name_genes(expression.genes, expression.where)
        method = _SentenceMethod(self.encoder, words, self.top_genes)
        about = {"method": "genept-s", "encoder": canonical_json(self.encoder.spec.to_dict())}
        return run_method(
            method,
            expression,
            sink_of((expression.n_cells, method.dim)),
            words.match,
            method.told,
            about,
            key=self.key,
            normalize="none",  # the order of genes is the same in any case
            empty_policy=self.empty_policy,
            cells=range(expression.n_cells),
            block_rows=_BLOCK_ROWS,
            scratch=scratch,
            look_first=True,
            lacking="a name",
            n_unnamed=words.n_unnamed,
            progress=self.progress,
        )
