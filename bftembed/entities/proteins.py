"""Protein names → genes: UniProt accessions, antibody names of CITE-seq panels, else gene names."""

from __future__ import annotations

import csv
import functools
import importlib.resources
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bftembed.entities import spelling
from bftembed.entities.genes import GeneIndex

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_GREEK = str.maketrans(
    {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "κ": "kappa", "λ": "lambda"}
)
_GREEK_WORD = re.compile("alpha|beta|gamma|delta|epsilon|zeta|kappa|lambda")
# Punctuation between digits is kept as a point: CD3-1, the first of two clones, is not CD31.
_PUNCTUATION = re.compile(r"(?<=\d)[\W_]+(?=\d)|([\W_]+)")
_SPECIES_OR_KIND = re.compile(r"(?:(?:anti|adt|ab|prot|protein|human|hu|hums|humsrt)[-_.: ]+)+", re.IGNORECASE)
_PRODUCT = re.compile(
    r"(?:[-_. ]+(?:total[-_ ]?(?:seq)?[-_ ]?[abcd]?|ts[abcd]|adt|prot|protein|antibody|pab|mab))+", re.IGNORECASE
)
_COPY = re.compile(r"(.*[^-_. ])[-_. ]\d")
_IN_BRACKETS = re.compile(r"([^()\[\]]+)[(\[]([^()\[\]]+)[)\]]")
_ISOTYPE = re.compile(
    r".*isotype.*|(?:mouse|rat|rag|rabbit|goat|(?:armenian|syrian)?hamster|m|r)ig[gm].*"
    r"|igg(?:1|2[abc])[kl]?(?:control|ctrl|ctl)?(?:\.\d)?|ig[gm].*(?:control|ctrl|ctl)"
)
_HASHTAG = re.compile(r"(?:cell)?hash(?:tag)?(?:\d+[a-z]?|[a-z])?|hto(?:\d+|[a-z])?")


@dataclass(frozen=True, slots=True)
class _Antibody:
    """One row of the curated table ``data/antibodies.tsv``: what panels call a protein, and its genes.

    `epitope` is ``"isoform"`` or ``"carbohydrate"`` where the name does not stand for the product of the gene as a
    whole; `genes` are approved symbols of those that encode (or, for sugars, make) what the antibody binds.
    """

    name: str
    synonyms: tuple[str, ...]
    genes: tuple[str, ...]
    epitope: str
    note: str


@dataclass(frozen=True, slots=True)
class ProteinResolution:
    """What became of one protein name; further fields as in `bftembed.entities.genes.Resolution`.

    Attributes
    ----------
    symbol
        The approved symbol where the name stands for the whole product of one gene, else None: CD3 has three
        genes, CD45RA is one isoform of PTPRC.
    genes
        Every gene of the protein; empty when ambiguous or missing.
    via
        Also ``"antibody"``.
    protein
        The antibody's main name in the table (``"CD45RA"``), or the accession; ``""`` for gene names.
    """

    name: str
    status: str
    symbol: str | None = None
    genes: tuple[str, ...] = ()
    via: str = ""
    protein: str = ""
    candidates: tuple[str, ...] = ()
    note: str = ""

    @property
    def entity(self) -> str:
        """Return the id used everywhere else: the symbol, else the protein's name, else the name as given."""
        return self.symbol or self.protein or self.name


@functools.cache
def _antibody_table() -> tuple[_Antibody, ...]:
    """Read the packaged table of antibody names, written by hand for this project."""
    text = (importlib.resources.files("bftembed.entities") / "data" / "antibodies.tsv").read_text(encoding="utf-8")
    rows = csv.reader(text.splitlines()[1:], delimiter="\t", quoting=csv.QUOTE_NONE)
    return tuple(
        _Antibody(name, tuple(filter(None, synonyms.split("|"))), tuple(genes.split(",")), epitope, note)
        for name, synonyms, genes, epitope, note in rows
    )


def _spelling_keys(name: str) -> tuple[str, str]:
    """Return what the spellings of an antibody name share, in two steps.

    Case, spaces and punctuation go (but between digits), Greek letters become words; then these words become
    Latin letters: ``"TCR α/β"`` → ``"tcralphabeta"``, ``"tcrab"``. Both are needed: Ig α is not IgA.
    """
    words = _PUNCTUATION.sub(lambda m: "" if m[1] else ".", spelling.plain(name).casefold().translate(_GREEK))
    return words, _GREEK_WORD.sub(lambda m: m[0][0], words)


class ProteinIndex:
    """Names of proteins.

    In this order: an approved gene symbol, exactly spelt; gaps as in `GeneIndex`; isotype controls and cell
    hashtags (missing, with a note); a UniProt accession (several genes may encode one protein); an antibody name
    in any usual spelling (``anti-CD3``, ``ADT_CD3``, ``CD3_TotalSeqB``, ``CD3-1``, ``PD-1 (CD279)``,
    ``CD197-CCR7``); a gene name by `GeneIndex`. ``IgG1``, ``IgG2a`` … are read as isotype controls, ``IgG`` and
    ``IgM`` as targets. Antibody names ignore case (panels for mouse and human share them).

    `genes` is the index of gene names, `table` holds antibody names.
    """

    def __init__(self, genes: GeneIndex, table: Sequence[_Antibody]) -> None:
        self._genes = genes
        keyed = [(_spelling_keys(name), row) for row in table for name in (row.name, *row.synonyms)]
        self._antibodies = {latin: row for (_, latin), row in keyed} | {words: row for (words, _), row in keyed}

    @classmethod
    @functools.cache
    def default(cls) -> ProteinIndex:
        """Return the index over the packaged tables, built once per process."""
        return cls(GeneIndex.default(), _antibody_table())

    def resolve(self, names: Sequence[str]) -> list[ProteinResolution]:
        """Resolve every name; the answers are in the order of `names`.

        Raises
        ------
        TypeError
            For one string instead of a list.
        """
        if isinstance(names, str):
            raise TypeError(f"resolve takes a list of names: write resolve([{names[:40]!r}]).")
        return [self._look_up(str(name)) for name in names]

    def _look_up(self, name: str) -> ProteinResolution:
        text = name.strip()
        if text in self._genes or spelling.unusable(name):
            return self._as_gene(name, name)
        cleaned = _cleaned(text)
        _, latin = _spelling_keys(cleaned)
        for pattern, what in ((_ISOTYPE, "isotype control"), (_HASHTAG, "cell hashtag")):
            if pattern.fullmatch(latin):
                return ProteinResolution(name, "missing", note=f"{what}: it has no gene")
        if found := self._of_accession(name, cleaned):
            return found
        if row := self._antibody(cleaned):
            return _of_antibody(name, row)
        return self._of_parts(name, cleaned) or self._of_copy(name, cleaned) or self._as_gene(name, cleaned)

    def _antibody(self, text: str) -> _Antibody | None:
        words, latin = _spelling_keys(text)
        return self._antibodies.get(words) or self._antibodies.get(latin)

    def _of_accession(self, name: str, text: str) -> ProteinResolution | None:
        match = spelling.UNIPROT.fullmatch(text)
        accession = match[1].upper() if match else ""
        genes = self._genes.uniprot(accession)
        if not genes or text in self._genes:
            return None
        note = f"{len(genes)} genes encode this protein" if len(genes) > 1 else ""
        symbol = genes[0] if len(genes) == 1 else None
        return ProteinResolution(name, "mapped", symbol, genes, "uniprot", accession, note=note)

    def _of_parts(self, name: str, text: str) -> ProteinResolution | None:
        """Resolve ``A (B)`` and ``A-B`` where the parts are names of one protein, or one is part of the other."""
        if match := _IN_BRACKETS.fullmatch(text):
            found = [r for part in (match[1], *match[2].split(",")) if (r := self._resolved_part(part.strip()))]
        else:
            found = next(self._halves(text), [])
        if not found:
            return None
        found.sort(key=lambda r: (len(r.genes), r.symbol is not None))
        narrowest = found[0]
        if all(set(narrowest.genes) <= set(r.genes) for r in found):
            return replace(narrowest, name=name, status="mapped")
        genes = tuple(sorted({gene for r in found for gene in r.genes}))
        return ProteinResolution(name, "ambiguous", candidates=genes, note="its parts are names of different proteins")

    def _halves(self, text: str) -> Iterator[list[ProteinResolution]]:
        for separator in re.finditer(r"[-_/ ]+", text):
            halves = [text[: separator.start()], text[separator.end() :]]
            rows = [row for half in halves if (row := self._antibody(half))]
            if len(rows) == 2:
                yield [_of_antibody(text, row) for row in rows]

    def _resolved_part(self, text: str) -> ProteinResolution | None:
        row = self._antibody(text)
        found = _of_antibody(text, row) if row else self._as_gene(text, text)
        return found if found.genes else None

    def _of_copy(self, name: str, text: str) -> ProteinResolution | None:
        match = _COPY.fullmatch(text)
        row = self._antibody(match[1]) if match else None
        return _of_antibody(name, row) if row else None

    def _as_gene(self, name: str, text: str) -> ProteinResolution:
        gene = self._genes.resolve([text])[0]
        genes = (gene.symbol,) if gene.symbol else ()
        return ProteinResolution(name, gene.status, gene.symbol, genes, gene.via, "", gene.candidates, gene.note)


def _cleaned(text: str) -> str:
    """Cut what panels write before and after the name of the target."""
    prefix = _SPECIES_OR_KIND.match(text)
    start = prefix.end() if prefix else 0
    suffix = next((m.start() for m in _PRODUCT.finditer(text, start) if m.end() == len(text)), len(text))
    return text[start:suffix].strip() or text


def _of_antibody(name: str, row: _Antibody) -> ProteinResolution:
    symbol = row.genes[0] if len(row.genes) == 1 and not row.epitope else None
    return ProteinResolution(name, "mapped", symbol, row.genes, "antibody", row.name, note=row.note)
