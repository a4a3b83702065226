"""Gene names of any kind → approved HGNC symbols, with an answer for every name; and the packaged HGNC table (CC0)."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.resources
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bftembed.entities import spelling

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_FILE = "hgnc_approved.tsv.gz"
# Columns: hgnc_id, symbol, name, alias_symbols, prev_symbols, entrez_id, ensembl_gene_id, uniprot_ids, locus_type.
_SYMBOL, _ALIAS, _PREVIOUS, _ENTREZ, _ENSEMBL, _UNIPROT = 1, 3, 4, 5, 6, 7

_Names = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class GeneRecord:
    """One approved gene; text is ``""`` where HGNC knows none, other names are in HGNC's order."""

    hgnc_id: str
    symbol: str
    name: str
    alias_symbols: tuple[str, ...]
    prev_symbols: tuple[str, ...]
    entrez_id: str
    ensembl_gene_id: str
    uniprot_ids: tuple[str, ...]
    locus_type: str


def _listed(cell: str) -> tuple[str, ...]:
    # HGNC separates several names by a comma, mostly with a space after it.
    return tuple(x for x in (part.strip() for part in cell.split(",")) if x) if cell else ()


def _hgnc_rows() -> list[tuple[str, ...]]:
    """Read the packaged table: 43,837 rows of 9 columns of text. ``NA`` and ``NaN`` are names, never missing values."""
    # Written without quotes and line breaks in cells, so that a plain split is exact.
    _, *lines = gzip.decompress(_packed()).decode("utf-8").rstrip("\n").split("\n")
    return [tuple(line.split("\t")) for line in lines]


@functools.cache
def hgnc_version() -> str:
    """Return the identity of the packaged table for provenance: the first 12 digits of the file's sha256."""
    return hashlib.sha256(_packed()).hexdigest()[:12]


def _packed() -> bytes:
    return (importlib.resources.files("bftembed.entities") / "data" / _FILE).read_bytes()


@dataclass(frozen=True, slots=True)
class Resolution:
    """What became of one name.

    Attributes
    ----------
    name
        The name as given.
    status
        ``"used"`` (it is an approved symbol), ``"mapped"`` (it leads to exactly one), ``"ambiguous"`` (to
        several, or to one that only the user can confirm: see `candidates`) or ``"missing"``.
    symbol
        The approved symbol when used or mapped, else None.
    via
        ``"symbol"``, ``"previous"``, ``"alias"``, ``"ensembl"``, ``"entrez"``, ``"uniprot"``, ``"hgnc"`` or ``""``.
    candidates
        The possible symbols of an ambiguous name, sorted.
    note
        What the user should know, or ``""``.
    """

    name: str
    status: str
    symbol: str | None = None
    via: str = ""
    candidates: tuple[str, ...] = ()
    note: str = ""

    @property
    def entity(self) -> str:
        """Return the id used everywhere else: the symbol, or the name as given where there is none."""
        return self.symbol or self.name


class GeneIndex:
    """Every name of every approved human gene.

    The answer for a name does not depend on the other names of a list, whose kinds may be mixed. In this order:

    1. An approved symbol, exactly spelt, is used: ``ENSA`` is no Ensembl id, ``R3HDM2`` no UniProt accession.
    2. ``NA``, ``NaN``, ``None``, empty and the like are gaps and stay missing, although HGNC knows two of them as
       old names; so do names with control characters or more than 100 characters.
    3. Identifiers by their form: Ensembl gene ids with or without version, HGNC ids, and all digits = Entrez ids
       (also ``225``, ``3635`` and ``52``, which are aliases in HGNC). ``0, 1, 2 …`` are thus read as Entrez ids.
    4. A previous symbol of exactly one gene. It wins over an alias of another gene, because HGNC withdrew it
       from that gene; the note names the other. Then an alias of exactly one gene. Several genes: ambiguous.
    5. A UniProt accession, with or without isoform number.
    6. A date that a spreadsheet made of a symbol (``1-Mar``, ``2024-09-02``) is never mapped, only flagged, with
       the genes that it may have been.
    7. The same without regard to case (``C9ORF78``), in the order symbol, previous, alias. A name written as
       mouse symbols are (``Actb``) is not mapped: it is missing, with a note.
    8. Marks of other tools: ``hg19_CD3D``, R's ``HLA.DRA``, typographic dashes.
    9. A whole Ensembl gene id inside of a name (``TBCE_ENSG00000284770``) decides alone; where HGNC does not know it, a
       symbol beside it is only a candidate.

    A mixed-case alias that is spelt like another gene's symbol (``Tpp1`` is an alias of ACD) is ambiguous.

    Parameters
    ----------
    rows
        Rows of the packaged HGNC table.

    Notes
    -----
    Source: HGNC (genenames.org), CC0; the version is `hgnc_version`.
    """

    def __init__(self, rows: Sequence[tuple[str, ...]]) -> None:
        self._rows = {row[_SYMBOL]: row for row in rows}
        self._previous = _grouped((x, row[_SYMBOL]) for row in rows if row[_PREVIOUS] for x in _listed(row[_PREVIOUS]))
        self._alias = _grouped((x, row[_SYMBOL]) for row in rows if row[_ALIAS] for x in _listed(row[_ALIAS]))

    @classmethod
    @functools.cache
    def default(cls) -> GeneIndex:
        """Return the index of the packaged HGNC table, built once per process (about a third of a second)."""
        return cls(_hgnc_rows())

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def get(self, symbol: str) -> GeneRecord | None:
        """Return the record of an approved symbol, exactly spelt, or None."""
        if (row := self._rows.get(symbol)) is None:
            return None
        hgnc_id, _, name, alias, previous, entrez, ensembl, uniprot, locus = row
        others = _listed(alias), _listed(previous)
        return GeneRecord(hgnc_id, symbol, name, *others, entrez, ensembl, _listed(uniprot), locus)

    def resolve(self, names: Sequence[str]) -> list[Resolution]:
        """Resolve every name; the answers are in the order of `names`, whose values are read as text.

        Raises
        ------
        TypeError
            For one string instead of a list.
        """
        if isinstance(names, str):
            raise TypeError(f"resolve takes a list of names: write resolve([{names[:40]!r}]).")
        rows = self._rows
        return [Resolution(n, "used", n, "symbol") if n in rows else self._look_up(str(n)) for n in names]

    def uniprot(self, accession: str) -> tuple[str, ...]:
        """Return the genes of a UniProt accession (capitals, no isoform number): none, one or several."""
        return self._by_uniprot.get(accession, ())

    def _look_up(self, name: str) -> Resolution:
        if reason := spelling.unusable(name):
            return Resolution(name, "missing", note=reason)
        text = name.strip()
        found = (
            self._of_symbol(text)
            or self._of_identifier(text)
            or self._of_other_name(text)
            or self._of_accession(text)
            or self._of_date(text)
            or self._of_any_case(text)
            or self._of_marked_name(text)
            or self._of_inner_id(text)
            or Resolution(text, "missing", note=spelling.hint(text))
        )
        if text != name:
            return replace(found, name=name, note=_joined("spaces around it removed", found.note))
        return found

    def _of_symbol(self, text: str) -> Resolution | None:
        return Resolution(text, "mapped", text, "symbol") if text in self._rows else None

    def _of_identifier(self, text: str) -> Resolution | None:
        if text[0] in "eE" and (match := spelling.ENSEMBL_GENE.fullmatch(text)):
            if match[1]:
                species = "mouse" if match[1].upper() == "MUS" else "non-human"
                return Resolution(text, "missing", note=f"a {species} Ensembl id; map it to its human orthologue first")
            known, identifier, via = self._by_ensembl, f"ENSG{match[2]}", "ensembl"
        elif text[:5].upper() == "HGNC:":
            known, identifier, via = self._by_hgnc, text.upper(), "hgnc"
        elif text.isascii() and text.removesuffix(".0").isdigit():
            # A column of Entrez ids with gaps comes out of pandas as floats: 7157.0.
            known, identifier, via = self._by_entrez, text.removesuffix(".0"), "entrez"
        else:
            return None
        if symbol := known.get(identifier):
            return Resolution(text, "mapped", symbol, via)
        label = "HGNC" if via == "hgnc" else via.capitalize()
        return Resolution(text, "missing", note=f"no approved gene has this {label} id")

    def _of_other_name(self, text: str) -> Resolution | None:
        found = self._choose(text, self._previous.get(text, ()), self._alias.get(text, ()))
        if found is None or found.symbol is None:
            return found
        namesake = self._symbol_any_case.get(text.casefold(), found.symbol)
        if namesake == found.symbol:
            return found
        note = f"a name of {found.symbol}, but spelt like the symbol {namesake} (of a mouse?)"
        return Resolution(text, "ambiguous", None, found.via, tuple(sorted((found.symbol, namesake))), note)

    def _choose(self, text: str, previous: tuple[str, ...], alias: tuple[str, ...]) -> Resolution | None:
        for via, genes, others in (("previous", previous, alias), ("alias", alias, ())):
            if len(genes) == 1:
                also = [g for g in others if g != genes[0]]
                note = f"also an alias of {', '.join(also)}" if also else ""
                return Resolution(text, "mapped", genes[0], via, note=note)
            if genes:
                what = "previous symbol" if via == "previous" else "alias"
                return Resolution(text, "ambiguous", None, via, genes, f"{what} of {len(genes)} genes")
        return None

    def _of_accession(self, text: str) -> Resolution | None:
        match = spelling.UNIPROT.fullmatch(text)
        genes = self.uniprot(match[1].upper()) if match else ()
        if len(genes) > 1:
            return Resolution(text, "ambiguous", None, "uniprot", genes, f"{len(genes)} genes encode this protein")
        return Resolution(text, "mapped", genes[0], "uniprot") if genes else None

    def _of_date(self, text: str) -> Resolution | None:
        dates = spelling.excel_date(text)
        if not dates:
            return None
        names = [f"{stem}{number}" for month, number in dates for stem in spelling.DATE_STEMS[month]]
        previous = {g for n in names for g in self._previous_any_case.get(n, ())}
        genes = previous or {g for n in names for g in self._alias_any_case.get(n, ())}
        note = "a date: a spreadsheet has changed a gene symbol"
        if not genes:
            return Resolution(text, "missing", note=note)
        return Resolution(text, "ambiguous", candidates=tuple(sorted(genes)), note=note)

    def _of_any_case(self, text: str) -> Resolution | None:
        folded = text.casefold()
        symbol = self._symbol_any_case.get(folded)
        if symbol:
            found: Resolution | None = Resolution(text, "mapped", symbol, "symbol")
        else:
            found = self._choose(text, self._previous_any_case.get(folded, ()), self._alias_any_case.get(folded, ()))
        if found is None:
            return None
        if spelling.looks_like_mouse(text):
            human = ", ".join(found.candidates) or found.symbol
            return Resolution(text, "missing", note=f"looks like a mouse symbol (the human gene so spelt: {human})")
        return replace(found, note=_joined("matched ignoring case", found.note))

    def _of_inner_id(self, text: str) -> Resolution | None:
        found = set(spelling.INNER_ENSEMBL_GENE.findall(text))
        if len(found) != 1:
            return None
        identifier = found.pop()
        if symbol := self._by_ensembl.get(identifier):
            return Resolution(text, "mapped", symbol, "ensembl", note="by the Ensembl id in the name")
        beside = tuple(part for part in re.split(r"[^\w-]|_", text) if part in self._rows)
        note = "no approved gene has the Ensembl id in the name"
        return Resolution(text, "ambiguous" if beside else "missing", candidates=beside, note=note)

    def _of_marked_name(self, text: str) -> Resolution | None:
        for changed, note in (
            (spelling.plain(text), "typographic characters replaced"),
            (spelling.without_genome(text), "genome prefix removed"),
        ):
            if changed not in (text, ""):
                found = self._look_up(changed)
                return replace(found, name=text, note=_joined(note, found.note)) if found.status != "missing" else None
        base = spelling.made_unique_from(text)
        if base and not base.isdigit() and self._known(base):
            return Resolution(text, "missing", note=f"looks like a duplicate of {base} made unique")
        symbol = text.replace(".", "-")
        if symbol != text and symbol in self._rows:
            return Resolution(text, "mapped", symbol, "symbol", note="'.' read as '-' (R writes names so)")
        return None

    def _known(self, text: str) -> bool:
        found = self._of_symbol(text) or self._of_identifier(text) or self._of_other_name(text)
        return found is not None and found.status != "missing"

    @functools.cached_property
    def _by_ensembl(self) -> dict[str, str]:
        return {row[_ENSEMBL]: symbol for symbol, row in self._rows.items() if row[_ENSEMBL]}

    @functools.cached_property
    def _by_entrez(self) -> dict[str, str]:
        return {row[_ENTREZ]: symbol for symbol, row in self._rows.items() if row[_ENTREZ]}

    @functools.cached_property
    def _by_hgnc(self) -> dict[str, str]:
        return {row[0]: symbol for symbol, row in self._rows.items()}

    @functools.cached_property
    def _by_uniprot(self) -> _Names:
        return _grouped((x, s) for s, row in self._rows.items() if row[_UNIPROT] for x in _listed(row[_UNIPROT]))

    @functools.cached_property
    def _symbol_any_case(self) -> dict[str, str]:
        return {symbol.casefold(): symbol for symbol in self._rows}

    @functools.cached_property
    def _previous_any_case(self) -> _Names:
        return _grouped((name.casefold(), gene) for name, genes in self._previous.items() for gene in genes)

    @functools.cached_property
    def _alias_any_case(self) -> _Names:
        return _grouped((name.casefold(), gene) for name, genes in self._alias.items() for gene in genes)


def _grouped(pairs: Iterable[tuple[str, str]]) -> _Names:
    groups: defaultdict[str, set[str]] = defaultdict(set)
    for name, gene in pairs:
        groups[name].add(gene)
    return {name: tuple(sorted(genes)) for name, genes in groups.items()}


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
