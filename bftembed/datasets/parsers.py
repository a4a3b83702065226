"""Files of labels, sets, pairs and texts of genes, as plain data: path in, lists and dictionaries out.

Every function takes a plain file or its ``.gz``, and reads all cells as strings: a gene called ``NA`` is a gene.
Each raises a `BftembedError` that names file, line and remedy for a file that is missing, empty, binary or damaged,
lacks a column, or has a row of the wrong width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bftembed.datasets.reading import flag, read_lines, read_table, refuse
from bftembed.errors import BftembedError

if TYPE_CHECKING:
    import os


@dataclass(frozen=True)
class LabelLists:
    """Genes of two classes, each in the order of its file; repeats are kept.

    Attributes
    ----------
    positive, negative
        Ensembl ids or symbols, as the file has them.
    """

    positive: list[str]
    negative: list[str]


@dataclass(frozen=True)
class GoTerm:
    """A GO term with its genes.

    Attributes
    ----------
    id
        ``GO:`` and seven digits.
    genes
        Symbols, in the order of the file.
    description
        The term's name.
    """

    id: str
    genes: list[str]
    description: str


def parse_dosage_cx0(path: str | os.PathLike[str]) -> LabelLists:
    """Read ``ensembl_id, gene_name, dosage_insensitive, dosage_sensitive``, where the true class says ``Yes``.

    Returns
    -------
    LabelLists
        Ensembl ids; positive is dosage-sensitive.

    Raises
    ------
    BftembedError
        As every parser here, and for a row with both classes or none.
    """
    classes: dict[str, list[str]] = {"sensitive": [], "insensitive": []}
    for line, (gene, insensitive, sensitive) in read_table(
        path, ["ensembl_id", "dosage_insensitive", "dosage_sensitive"]
    ):
        if {insensitive, sensitive} != {"Yes", ""}:
            raise refuse(path, line, "exactly one of dosage_insensitive and dosage_sensitive must be Yes.")
        classes["sensitive" if sensitive else "insensitive"].append(_gene(path, line, gene))
    return _both(path, classes["sensitive"], classes["insensitive"])


def parse_dosage_canonical(path: str | os.PathLike[str]) -> LabelLists:
    """Read Geneformer's table: the columns ``dosage_sensitive`` and ``dosage_insensitive``, of different lengths.

    Returns
    -------
    LabelLists
        Ensembl ids; positive is dosage-sensitive.
    """
    rows = [cells for _, cells in read_table(path, ["dosage_sensitive", "dosage_insensitive"], ragged=True)]
    return _both(path, [row[0] for row in rows if row[0]], [row[1] for row in rows if row[1]])


def parse_tf_range(path: str | os.PathLike[str]) -> LabelLists:
    """Read the range of transcription factors: symbols in the first column, the class in ``assignment``.

    Returns
    -------
    LabelLists
        Symbols; positive is ``long-range TF``, negative ``short-range TF``. Rows of any other class are left out.
    """
    rows = list(read_table(path, ["", "assignment"]))
    lists = {
        wanted: [_gene(path, line, gene) for line, (gene, range_) in rows if range_ == wanted]
        for wanted in ("long-range TF", "short-range TF")
    }
    return _both(path, lists["long-range TF"], lists["short-range TF"])


def parse_id_list(path: str | os.PathLike[str]) -> list[str]:
    """Read one id or symbol a line, without a header; blank lines are passed over, order and repeats kept.

    Raises
    ------
    BftembedError
        As every parser here; a line with a space, comma or tabulator has the wrong width.
    """
    ids = []
    for line, text in read_lines(path):
        if len(text.split()) != 1 or "," in text:
            raise refuse(path, line, f"one id is expected, found {text[:60]!r}.")
        ids.append(text)
    return ids


def parse_biotypes(path: str | os.PathLike[str]) -> list[tuple[str, str, str]]:
    """Read ``ensembl_id, gene_name, gene_type``.

    Returns
    -------
    list of tuple
        Ensembl id, name (``""`` for a gene that has none) and biotype, in the order of the file.
    """
    rows = []
    for line, (gene, name, kind) in read_table(path, ["ensembl_id", "gene_name", "gene_type"]):
        if not kind:
            raise refuse(path, line, f"{gene!r} has no gene_type.")
        rows.append((_gene(path, line, gene), name, kind))
    return rows


def parse_gmt(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read gene sets: a line each, with the set's name, a description and its genes, between tabulators.

    Returns
    -------
    dict
        The set's name → its genes, in the order of the file. Descriptions are left out.

    Raises
    ------
    BftembedError
        As every parser here, and for a set that is there twice.
    """
    sets: dict[str, list[str]] = {}
    for line, text in read_lines(path):
        name, *rest = text.split("\t")
        genes = [gene.strip() for gene in rest[1:]]
        if not genes or not all(genes):
            raise refuse(path, line, "a name, a description and one gene or more are expected, between tabulators.")
        if name in sets:
            raise refuse(path, line, f"the set {name!r} is there a second time.")
        sets[name] = genes
    return sets


def parse_summaries(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the columns ``symbol`` and ``summary`` of a TSV.

    Returns
    -------
    dict
        Symbol → text, in the order of the file. A gene whose text is empty is left out.

    Raises
    ------
    BftembedError
        As every parser here, and for a symbol that is there twice.
    """
    return _texts(path, "summary")


def parse_descriptions(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the columns ``symbol`` and ``text`` of a TSV; otherwise as `parse_summaries`."""
    return _texts(path, "text")


def parse_go_terms(path: str | os.PathLike[str]) -> list[GoTerm]:
    """Read ``GO, Genes, Gene_Count, Term_Description``; the symbols stand between spaces.

    Raises
    ------
    BftembedError
        As every parser here, and for a row whose count is not that of its genes.
    """
    terms = []
    for line, (term, text, count, description) in read_table(path, ["GO", "Genes", "Gene_Count", "Term_Description"]):
        genes = text.split()
        if not genes or count != str(len(genes)):
            raise refuse(path, line, f"{len(genes)} genes, but Gene_Count says {count[:20]!r}.")
        terms.append(GoTerm(_gene(path, line, term), genes, description))
    return terms


def parse_pairs(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Read two symbols a line, between white space.

    Returns
    -------
    list of tuple
        In the order of the file, repeats kept: line i of the label file belongs to pair i.

    Raises
    ------
    BftembedError
        As every parser here, and for a line that does not hold two names.
    """
    pairs = []
    for line, text in read_lines(path):
        names = text.split()
        if len(names) != 2:
            raise refuse(path, line, f"two names are expected, found {text[:60]!r}.")
        pairs.append((names[0], names[1]))
    return pairs


def parse_pair_labels(path: str | os.PathLike[str]) -> list[int]:
    """Read one 0 or 1 a line.

    Raises
    ------
    BftembedError
        As every parser here, and for any other label.
    """
    return [int(flag(path, line, text)) for line, text in read_lines(path)]


def parse_huri(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Read HuRI's table 11: pairs of ``Ensembl_gene_id_a`` and ``_b`` where ``in_HuRI`` is 1.

    Returns
    -------
    list of tuple
        Ensembl gene ids in the order of the file; a protein that binds itself is a pair of one id.

    Raises
    ------
    BftembedError
        As every parser here, and for an ``in_HuRI`` that is neither 0 nor 1.
    """
    columns = ["Ensembl_gene_id_a", "Ensembl_gene_id_b", "in_HuRI"]
    pairs = []
    for line, (one, other, label) in read_table(path, columns, tabs=True):
        if flag(path, line, label):
            pairs.append((_gene(path, line, one), _gene(path, line, other)))
    return pairs


def parse_huri_space(path: str | os.PathLike[str]) -> list[str]:
    """Read HuRI's table 1: the genes that its screens searched, where ``in_space_3`` is 1.

    Returns
    -------
    list of str
        Ensembl gene ids in the order of the file.

    Raises
    ------
    BftembedError
        As every parser here, and for an ``in_space_3`` that is neither 0 nor 1.
    """
    genes = []
    for line, (gene, label) in read_table(path, ["Ensembl_gene_id", "in_space_3"], tabs=True):
        if flag(path, line, label):
            genes.append(_gene(path, line, gene))
    return genes


def _texts(path: str | os.PathLike[str], column: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for line, (symbol, text) in read_table(path, ["symbol", column], tabs=True):
        if symbol in texts:
            raise refuse(path, line, f"the gene {symbol!r} is there a second time.")
        texts[_gene(path, line, symbol)] = text
    return {symbol: text for symbol, text in texts.items() if text}


def _gene(path: str | os.PathLike[str], line: int, name: str) -> str:
    if not name:
        raise refuse(path, line, "the name is empty.")
    return name


def _both(path: str | os.PathLike[str], positive: list[str], negative: list[str]) -> LabelLists:
    if not positive or not negative:
        raise BftembedError(
            f"{path}: {len(positive)} positive and {len(negative)} negative genes; both classes are needed. "
            "The file is cut off, or another one."
        )
    return LabelLists(positive, negative)
