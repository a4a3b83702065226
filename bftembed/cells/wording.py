"""From values to words: what each gene is called, and which genes a cell's sentence names in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bftembed.entities.spelling import unusable
from bftembed.errors import BftembedError, examples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bftembed.cells.rows import Rows
    from bftembed.entities.genes import Resolution


@dataclass(frozen=True)
class Words:
    """What the genes (columns) of a matrix are called; the counts but the last add up to n_genes.

    Attributes
    ----------
    names
        Object (n_words,): the different words, in the order of their characters.
    word_of
        int64 (n_genes,): position of each gene's word, -1 for none.
    n_used
        Genes whose name is an approved symbol.
    n_mapped
        Genes called by their approved symbol, found by an alias, an Ensembl id, ….
    n_ambiguous, n_unresolved
        Genes whose name may mean several genes, or is not known; called by their own name.
    n_unnamed
        Genes without a name (blank, ``nan``, control characters); left out.
    n_duplicates
        Genes that share their word with an earlier one.
    """

    names: np.ndarray
    word_of: np.ndarray
    n_used: int
    n_mapped: int
    n_ambiguous: int
    n_unresolved: int
    n_unnamed: int
    n_duplicates: int


@dataclass(frozen=True)
class Worded:
    """Consecutive cells in words.

    Attributes
    ----------
    start
        Position of the first cell.
    sentences
        n texts; ``""`` for a cell that expresses no gene with a name.
    n_named, n_expressed
        int64 (n,): genes in the sentence, and genes that could be in it without a limit.
    covered
        float64 (n,): sum of the values of the genes in the sentence.
    """

    start: int
    sentences: list[str]
    n_named: np.ndarray
    n_expressed: np.ndarray
    covered: np.ndarray


def words_of(genes: Sequence[str], resolve: Callable[[Sequence[str]], list[Resolution]], *, where: str) -> Words:
    """Name the genes of a matrix: by approved symbol, else by the name that they have.

    Parameters
    ----------
    genes
        n_genes names of the columns.
    resolve
        `bftembed.entities.genes.GeneIndex.resolve`.
    where
        File and matrix, for the message.

    Raises
    ------
    BftembedError
        When no gene has a name.
    """
    counts = dict.fromkeys(("used", "mapped", "ambiguous", "missing", "unnamed"), 0)
    called: list[str] = []
    for gene in resolve(genes):
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
    word_of = np.array([position.get(word, -1) for word in called], dtype=np.int64)
    return Words(
        names=np.array(names, dtype=object),
        word_of=word_of,
        n_used=counts["used"],
        n_mapped=counts["mapped"],
        n_ambiguous=counts["ambiguous"],
        n_unresolved=counts["missing"],
        n_unnamed=counts["unnamed"],
        n_duplicates=int((word_of >= 0).sum()) - len(names),
    )


def worded(rows: Rows, words: Words, *, top_genes: int | None, prefix: str, separator: str) -> Worded:
    """Return the sentences of a block: words by falling value, equal values by word, zeros left out.

    A word of several genes stands once, where the highest of their values puts it.

    Parameters
    ----------
    rows
        Cells; values finite and not negative.
    words
        What their genes are called.
    top_genes
        Only so many words of the highest values; None for all.
    prefix, separator
        What stands before the first word and between two.
    """
    n = len(rows)
    rows = rows.canonical(len(words.word_of))
    cell = np.repeat(np.arange(n), np.diff(rows.indptr))
    word, value = words.word_of[rows.indices], rows.values
    counts = (value > 0) & (word >= 0)
    cell, word, value = cell[counts], word[counts], value[counts]
    order = np.lexsort((word, -value, cell))
    cell, word, value = cell[order], word[order], value[order]
    entry = cell * len(words.names) + word
    first = np.ones(len(entry), dtype=bool)
    if words.n_duplicates:
        first[:] = False
        first[np.unique(entry, return_index=True)[1]] = True  # the first of equal ones has the highest value
    n_expressed = np.bincount(cell[first], minlength=n)
    begins = np.cumsum(n_expressed) - n_expressed
    place = np.arange(int(first.sum())) - np.repeat(begins, n_expressed)
    n_named = n_expressed if top_genes is None else np.minimum(n_expressed, top_genes)
    taken = place < np.repeat(n_named, n_expressed)
    named = entry[first][taken]
    inside = np.isin(entry, named) if words.n_duplicates else taken
    spoken = words.names[word[first][taken]].tolist()
    ends = np.cumsum(n_named)
    sentences = [
        prefix + separator.join(spoken[end - length : end]) if length else ""
        for end, length in zip(ends.tolist(), n_named.tolist(), strict=True)
    ]
    covered = np.bincount(cell[inside], weights=value[inside], minlength=n)
    return Worded(rows.start, sentences, n_named, n_expressed, covered)
