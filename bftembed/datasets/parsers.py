"""Parsers of the registered files: path in, lists and dictionaries out.

Each takes a plain file or its ``.gz`` whose content was verified by its checksum (`bftembed.datasets.load`), and reads
all cells as strings: a gene called ``NA`` is a gene.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    _Path = str | os.PathLike[str]


@dataclass(frozen=True)
class LabelLists:
    """Genes of two classes (`positive`, `negative`), Ensembl ids or symbols in the order of the file."""

    positive: list[str]
    negative: list[str]


@dataclass(frozen=True)
class GoTerm:
    """A GO term: `id` (``GO:`` and seven digits), `genes` (symbols in the order of the file) and `description`."""

    id: str
    genes: list[str]
    description: str


def _table(path: _Path, *, tabs: bool = False) -> pd.DataFrame:
    """Read a CSV, or a TSV without quoting, as stripped strings."""
    form: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", **form)
    return table.rename(columns=str.strip).apply(lambda column: column.str.strip())


def _lines(path: _Path) -> list[str]:
    """Read the lines of a file, stripped, without those that are blank."""
    opened: Any = gzip.open if str(path).endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        return [line.strip() for line in file if line.strip()]


def _tuples(table: pd.DataFrame, *columns: str) -> list[tuple[str, ...]]:
    return list(zip(*(table[column] for column in columns), strict=True))


def _where(table: pd.DataFrame, column: str, value: str) -> pd.DataFrame:
    return table[table[column] == value]


def _dosage_cx0(path: _Path) -> LabelLists:
    table = _table(path)
    sensitive = table["dosage_sensitive"] == "Yes"
    return LabelLists(*(table["ensembl_id"][chosen].tolist() for chosen in (sensitive, ~sensitive)))


def _dosage_canonical(path: _Path) -> LabelLists:
    table = _table(path)  # two columns of different lengths
    both = (table[column] for column in ("dosage_sensitive", "dosage_insensitive"))
    return LabelLists(*(ids[ids != ""].tolist() for ids in both))


def _tf_range(path: _Path) -> LabelLists:
    table = _table(path)
    both = (_where(table, "assignment", f"{which}-range TF") for which in ("long", "short"))
    return LabelLists(*(rows.iloc[:, 0].tolist() for rows in both))


def _gmt(path: _Path) -> dict[str, list[str]]:
    rows = (line.split("\t") for line in _lines(path))
    return {name: [gene.strip() for gene in genes] for name, _, *genes in rows}


def _texts(path: _Path, column: str) -> dict[str, str]:
    return {gene: text for gene, text in _tuples(_table(path, tabs=True), "symbol", column) if text}


#: Name of a parser in ``files.yaml`` → function from a path to `LabelLists` (``dosage_…``: positive is sensitive;
#: ``tf_range``: positive is long-range), `GoTerm` objects, set → genes, gene → text, or lists in the file's order.
PARSERS: dict[str, Callable[[_Path], Any]] = {
    "dosage_cx0": _dosage_cx0,
    "dosage_canonical": _dosage_canonical,
    "tf_range": _tf_range,
    "id_list": _lines,
    "biotypes": lambda path: _tuples(_table(path), "ensembl_id", "gene_name", "gene_type"),
    "gmt": _gmt,
    "summaries": lambda path: _texts(path, "summary"),
    "descriptions": lambda path: _texts(path, "text"),
    "go_terms": lambda path: [
        GoTerm(term, genes.split(), text)
        for term, genes, text in _tuples(_table(path), "GO", "Genes", "Term_Description")
    ],
    "pairs": lambda path: [(one, other) for one, other in map(str.split, _lines(path))],
    "pair_labels": lambda path: [int(label) for label in _lines(path)],
    "huri": lambda path: _tuples(
        _where(_table(path, tabs=True), "in_HuRI", "1"), "Ensembl_gene_id_a", "Ensembl_gene_id_b"
    ),
    "huri_space": lambda path: _where(_table(path, tabs=True), "in_space_3", "1")["Ensembl_gene_id"].tolist(),
}
