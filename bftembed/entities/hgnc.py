"""The packaged HGNC table: every approved human gene symbol with its other names and identifiers (CC0)."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.resources
from dataclasses import dataclass

_FILE = "hgnc_approved.tsv.gz"
_COLUMNS = (
    "hgnc_id",
    "symbol",
    "name",
    "alias_symbols",
    "prev_symbols",
    "entrez_id",
    "ensembl_gene_id",
    "uniprot_ids",
    "locus_type",
)


@dataclass(frozen=True, slots=True)
class GeneRecord:
    """One approved gene.

    Attributes
    ----------
    hgnc_id
        ``"HGNC:5"``.
    symbol, name
        Approved symbol and full name.
    alias_symbols, prev_symbols
        Other symbols in use, and symbols that were approved earlier; in HGNC's order.
    entrez_id, ensembl_gene_id
        Identifiers as text, ``""`` where HGNC knows none.
    uniprot_ids
        Accessions of the proteins.
    locus_type
        HGNC's word, for example ``"gene with protein product"``.
    """

    hgnc_id: str
    symbol: str
    name: str
    alias_symbols: tuple[str, ...]
    prev_symbols: tuple[str, ...]
    entrez_id: str
    ensembl_gene_id: str
    uniprot_ids: tuple[str, ...]
    locus_type: str

    @classmethod
    def from_row(cls, row: tuple[str, ...]) -> GeneRecord:
        """Build a record from a row of `hgnc_rows`."""
        hgnc_id, symbol, name, alias, previous, entrez, ensembl, uniprot, locus = row
        return cls(hgnc_id, symbol, name, listed(alias), listed(previous), entrez, ensembl, listed(uniprot), locus)


def listed(cell: str) -> tuple[str, ...]:
    """Split a cell of several names; HGNC separates them by a comma, mostly with a space after it."""
    return tuple(x for x in (part.strip() for part in cell.split(",")) if x) if cell else ()


def hgnc_rows() -> list[tuple[str, ...]]:
    """Read the packaged table.

    Returns
    -------
    list of tuple of str
        43,837 rows of 9 columns: HGNC id, symbol, name, alias symbols, previous symbols, Entrez id, Ensembl
        gene id, UniProt accessions, locus type. ``NA`` and ``NaN`` are names here, never missing values.
    """
    # The file is written without quotes and without line breaks in cells, so that a plain split is exact;
    # it is twice as fast as the csv module.
    header, *lines = gzip.decompress(_packed()).decode("utf-8").rstrip("\n").split("\n")
    if tuple(header.split("\t")) != _COLUMNS:
        raise ValueError(f"{_FILE}: unexpected columns {header!r}")
    return [tuple(line.split("\t")) for line in lines]


@functools.cache
def hgnc_version() -> str:
    """Return the identity of the packaged table for provenance: the first 12 digits of the file's sha256."""
    return hashlib.sha256(_packed()).hexdigest()[:12]


def _packed() -> bytes:
    return (importlib.resources.files("bftembed.entities") / "data" / _FILE).read_bytes()
