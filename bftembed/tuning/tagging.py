"""Tags of the tokens of a response: biomedical entity, causal connective, or other.

Entities are gene symbols of the packaged HGNC table, or those of any installed spaCy or scispaCy model. Tags are found
in the text and carried to the tokens by character offsets, so that all pieces of ``BRCA1`` are one entity.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Span = tuple[int, int]
    Tagger = Callable[[str], list[Span]]

TAGS = ("entity", "connective", "other")
ENTITY, CONNECTIVE, OTHER = range(3)

_PIECE = re.compile(r"[^\W_]+")
#: Pieces of the longest names: HLA-DRB1, TNF-alpha-induced …
_MAX_PIECES = 4
#: Names of genes that in prose mean something else: ordinary words; clinical, laboratory and statistical abbreviations;
#: complexes and vitamins. From reading what matched in PubMedQA and RefSeq.
_PROSE = """
ACLS ACR ACS ANOVA APEX ARCH ARMS B12 BANK BASE BEST CAD CALL CASH CAST CAT CHIP CLAMP CLIP CLOCK COIL COPD COPE
CPAP CPM DAMAGE DELTA DES DIGIT DST FACE FACT FAST FIND FISH FLASH GCA GEM GPCR GPI GREAT HARI IMPACT LARGE LASER
LIGHT LIMIT MAIL MAPS MASK MASS MAX MICE MINOR NACT NAIL NCCT NHS NODAL ORF1 OTC PACE PIGS PILOT PLANE POLE POST
PREP PRISM PTS PVR Q10 RACE RARC REST RISC SAPS SARI SARS SCAR SCD SDS SERA SET SHARP SHE SHOT SIMPLE SLN SPRING
SSDH STAR STEP STOP TAPE TASK TRADE TRIP TUBE TYPE VIII VISA WAS WIRE 12S pT1
"""
_NOT_GENES = frozenset(_PROSE.split())
#: Aliases of three letters that do mean genes; most others are clinical (MRI, PSA, IVF and UTI are aliases too).
_SHORT_ALIASES = frozenset(("ABL", "AKT", "CBP", "ERK", "FAK", "HSF", "IFN", "IGF", "IRF", "JNK", "PKB", "PKC", "ROS"))


def tag_tokens(offsets: Sequence[Span], entities: Sequence[Span], connectives: Sequence[Span]) -> np.ndarray:
    """Return the tag of each token, int8 (tokens,) of indices into `TAGS`.

    A token that shares a character with an entity is ``entity``, else with a connective ``connective``, else ``other``.
    `offsets` are the first and one-past-last character of each token.
    """
    end = max([stop for _, stop in (*offsets, *entities, *connectives)], default=0)
    marks = np.full(end + 1, OTHER, dtype=np.int8)
    for tag, spans in ((CONNECTIVE, connectives), (ENTITY, entities)):
        for first, last in spans:
            marks[first:last] = tag
    found = [marks[first:last].min() if last > first else OTHER for first, last in offsets]
    return np.array(found, dtype=np.int8)


def load_tagger(spec: str = "genes") -> Tagger:
    """Return a function from a text to the spans of its biomedical entities.

    `spec` is ``"genes"`` (`gene_spans`), or ``"spacy:MODEL"``: an installed spaCy or scispaCy model
    (``en_core_sci_sm``) or its folder, all of whose entities count; another name or no such model is an error.
    """
    kind, _, model = spec.partition(":")
    if spec == "genes":
        return lambda text: [(first, last) for first, last, _ in gene_spans(text)]
    if kind != "spacy" or not model:
        raise unknown_name("tagger", spec, ["genes", "spacy:MODEL"])
    try:
        pipeline = importlib.import_module("spacy").load(model)
    except (ImportError, OSError, ValueError) as err:
        raise BftembedError(
            f"The tagger spacy:{model} cannot be loaded ({err}). Install spaCy (pip install spacy) and the model."
        ) from err
    return lambda text: [(entity.start_char, entity.end_char) for entity in pipeline(text).ents]


def gene_spans(text: str) -> list[tuple[int, int, str]]:
    """Find gene names in prose.

    Names are the approved symbols, aliases and previous symbols of HGNC, spelt exactly so, as whole words or joined by
    hyphens or slashes (``IL-6``, ``BRCA1-mutated``); of several readings the longest. To keep ordinary words and
    abbreviations out (``WAS``, ``MRI``), a name needs three characters or more, and a digit beside a letter or capitals
    alone; capitals alone do not count in a text without lower case; names of three capitals are approved symbols or on
    a short list of families; and a stop list is left out. Genes by their full names are not found.

    Returns
    -------
    list of tuple
        First character, one past the last, and the approved symbol (the name itself where several genes bear it); in
        order, without overlap.
    """
    pieces = [match.span() for match in _PIECE.finditer(text)]
    prose = any(letter.islower() for letter in text)
    found: list[tuple[int, int, str]] = []
    for at, (first, end) in enumerate(pieces):
        if found and first < found[-1][1]:
            continue
        ends = [end]
        for before, after in itertools.pairwise(pieces[at : at + _MAX_PIECES]):
            if text[before[1] : after[0]] not in ("-", "/"):
                break
            ends.append(after[1])
        for last in reversed(ends):
            if symbol := _gene(text[first:last], prose):
                found.append((first, last, symbol))
                break
    return found


def _gene(name: str, prose: bool) -> str | None:
    has_digit = any(letter.isdigit() for letter in name)
    if len(name) < 3 or name in _NOT_GENES or not any(letter.isalpha() for letter in name):
        return None
    if not has_digit and not (name.isupper() and prose):
        return None
    symbol = _names().get(name)
    if symbol and not has_digit and len(name) == 3 and name not in GeneIndex.default() and name not in _SHORT_ALIASES:
        return None
    return symbol


@functools.cache
def _names() -> dict[str, str]:
    index = GeneIndex.default()
    genes: dict[str, set[str]] = {}
    for record in filter(None, map(index.get, index)):
        for name in (*record.alias_symbols, *record.prev_symbols):
            genes.setdefault(name, set()).add(record.symbol)
    one = {name: min(found) if len(found) == 1 else name for name, found in genes.items()}
    return one | {symbol: symbol for symbol in index}


def connective_spans(text: str) -> list[Span]:
    """Find the causal connectives of our list: whole words, any case, the longest form first, without overlap."""
    return [match.span() for match in _connectives()[1].finditer(text)]


def connectives_version() -> str:
    """Return the version of the list of connectives."""
    return _connectives()[0]


@functools.cache
def _connectives() -> tuple[str, re.Pattern[str]]:
    lines = Path(__file__).with_name("causal_connectives.txt").read_text(encoding="utf-8").splitlines()
    forms = {form.strip() for line in lines if not line.startswith("#") for form in line.split("|") if form.strip()}
    gap = r"\S+(?:\s+\S+){0,5}?"
    words = (
        r"\s+".join(gap if word == "…" else re.escape(word) for word in form.split())
        for form in sorted(forms, key=lambda form: (-len(form), form))
    )
    pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(words)})(?!\w|-\w)", re.IGNORECASE)
    return lines[0].rpartition(" ")[2], pattern
