"""What a name looks like, judged by its letters alone: identifiers, dates, mouse symbols, other tools' marks."""

from __future__ import annotations

import re
import unicodedata

_LONGEST = 100

#: Spellings (in lower case) of a missing value. HGNC lists NaN as an alias and NA as a previous symbol; in a
#: list of names they are gaps far more often than those genes, so that they are never mapped.
SENTINELS = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "nat", "none", "null", "nil", "-", "."})

#: Ensembl gene id of any species; groups: species letters, digits, version, copy on Y.
ENSEMBL_GENE = re.compile(r"ENS([A-Z]{0,4})G(\d{11})(\.\d+)?(_PAR_Y)?", re.ASCII | re.IGNORECASE)
#: Human Ensembl gene id that stands whole inside of a name.
INNER_ENSEMBL_GENE = re.compile(r"(?<![A-Za-z0-9])ENSG\d{11}(?!\d)", re.ASCII)
_ENSEMBL_OTHER = re.compile(r"ENS[A-Z]{0,4}(T|P|E|R)\d{11}(\.\d+)?", re.ASCII | re.IGNORECASE)

#: UniProt accession with an optional isoform number; group 1 is the accession.
UNIPROT = re.compile(
    r"([OPQ]\d[A-Z0-9]{3}\d|[A-NR-Z]\d(?:[A-Z][A-Z0-9]{2}\d){1,2})(?:-\d{1,3})?", re.ASCII | re.IGNORECASE
)

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sept?|oct|nov|dec)"
_DAY_MONTH = re.compile(rf"(\d{{1,2}})-{_MONTH}(?:-(?:\d\d|\d{{4}}))?", re.ASCII | re.IGNORECASE)
# A single digit after the month ("OCT-4", "APR-2") is how people write aliases; Excel writes two or four.
_MONTH_YEAR = re.compile(rf"{_MONTH}-(\d\d|\d{{4}})", re.ASCII | re.IGNORECASE)
_ISO = re.compile(r"\d{4}-(\d\d)-(\d\d)(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?", re.ASCII)
_SLASHES = re.compile(r"(\d{1,2})/(\d{1,2})/(?:\d\d|\d{4})", re.ASCII)

#: Symbols (in lower case, without their number) that a spreadsheet takes for the month.
DATE_STEMS = tuple({2: ("march", "marc", "mar"), 8: ("sept", "sep")}.get(i, (m,)) for i, m in enumerate(_MONTHS))

_MOUSE = re.compile(r"[A-Z][^A-Z]*[a-z][^A-Z]*|mt-[A-Z][a-z]\w*|H2-[A-Z][a-z]?\d*|\w+Rik|Gm\d+", re.ASCII)
_HUMAN_ORF = re.compile(r"C(\d\d?|X|Y)orf\d", re.ASCII)
_CLONE = re.compile(
    r"(?:RP\d\d?|CT[A-D]|CH\d+|KB|GS\d|LL\w+|LA\w+|XX\w*)-\S+\.\d+|[A-Z]{2}\d{6}\.\d+|[A-Z]\d{5}\.\d+",
    re.ASCII,
)
_MADE_UNIQUE = re.compile(r"(.*[^-_.])[-_.]\d{1,3}", re.ASCII)
_HUMAN_GENOME = re.compile(r"(?:hg19|hg38|GRCh3[78])_+", re.ASCII | re.IGNORECASE)
_MOUSE_GENOME = re.compile(r"(?:mm10|mm39|GRCm3[89])_+", re.ASCII | re.IGNORECASE)
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"))


def unusable(text: str) -> str:
    """Return why `text` cannot be a name: a gap, control characters, far too long; ``""`` when it can."""
    if len(text) > _LONGEST:
        return f"{len(text):,} characters: longer than any name"
    stripped = text.strip()
    if stripped.casefold() in SENTINELS:
        return "a missing value, not a name"
    if not stripped.isprintable() and any(unicodedata.category(c)[0] == "C" for c in stripped):
        return "holds control characters"
    return ""


def excel_date(text: str) -> tuple[tuple[int, int], ...]:
    """Read `text` as a date that a spreadsheet made of a gene symbol (``MARCH1`` → ``1-Mar``).

    Returns
    -------
    tuple of (month, number)
        Month 0 to 11 and the number of the symbol; two readings for ``3/1/2024``, none where it is no date.
    """
    if "-" not in text and "/" not in text:
        return ()
    if m := _DAY_MONTH.fullmatch(text):
        return ((_month(m[2]), int(m[1])),)
    if m := _MONTH_YEAR.fullmatch(text):
        return ((_month(m[1]), int(m[2][-2:])),)
    if m := _ISO.fullmatch(text):
        return _readings((int(m[1]), int(m[2])))
    if m := _SLASHES.fullmatch(text):
        return _readings((int(m[1]), int(m[2])), (int(m[2]), int(m[1])))
    return ()


def _month(word: str) -> int:
    return _MONTHS.index(word.lower()[:3])


def _readings(*pairs: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple(dict.fromkeys((month - 1, day) for month, day in pairs if 1 <= month <= 12 and 1 <= day <= 31))


def looks_like_mouse(text: str) -> bool:
    """Return whether `text` is written as mouse symbols are: a capital, then lower case (``Actb``, ``Trp53``)."""
    return _MOUSE.fullmatch(text) is not None and _HUMAN_ORF.match(text) is None


def without_genome(text: str) -> str:
    """Cut the genome that 10x writes before names of mixed samples (``hg19_CD3D``); unchanged without one."""
    return _HUMAN_GENOME.sub("", text, count=1) if _HUMAN_GENOME.match(text) else text


def made_unique_from(text: str) -> str | None:
    """Return the name from which scanpy or R made `text` by a number (``TBCE-1``, ``TBCE.1``), if it has one."""
    match = _MADE_UNIQUE.fullmatch(text)
    return match[1] if match else None


def plain(text: str) -> str:
    """Return `text` with compatibility characters and typographic dashes replaced by the plain ones."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text).translate(_DASHES).strip()


def hint(text: str) -> str:
    """Say what kind of thing an unknown name is, or ``""``."""
    if _ENSEMBL_OTHER.fullmatch(text):
        return "an Ensembl transcript, protein or other id; give the gene's id"
    if _CLONE.fullmatch(text):
        return "named after a clone: no approved symbol"
    if _MOUSE_GENOME.match(text) or looks_like_mouse(text):
        return "looks like a mouse symbol; map it to its human orthologue first"
    if "," in text or ";" in text:
        return "holds a comma or semicolon; several names in one?"
    return ""
