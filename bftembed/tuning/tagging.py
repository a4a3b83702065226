"""What the tokens of a response speak of: biomedical entity, causal connective, or neither.

Two taggers for entities: gene symbols by the packaged HGNC table, which needs nothing and knows genes alone, and any
spaCy or scispaCy model that is installed. Tags are found in the text and carried to the tokens by character offsets, so
that all pieces of ``BRCA1`` are one entity.
"""

from __future__ import annotations

import functools
import importlib
import importlib.resources
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError, unknown_name
from bftembed.llm.reasoning import leading_opener
from bftembed.tuning.encoding import IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from bftembed.tuning.data import Conversation
    from bftembed.tuning.encoding import Encoded

    Span = tuple[int, int]
    Tagger = Callable[[str], list[Span]]

TAGS = ("entity", "connective", "other")
ENTITY, CONNECTIVE, OTHER = range(3)

_PIECE = re.compile(r"[^\W_]+")
_JOINT = "-/"
#: Most pieces of one name: HLA-DRB1, TNF-alpha-induced …
_MOST_PIECES = 4
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


@dataclass(frozen=True)
class Response:
    """One answer of a conversation.

    Attributes
    ----------
    where
        File and row.
    text
        What was tokenised.
    offsets
        Per token, first and one-past-last character in `text`.
    start
        How many labels of the conversation come before its first token. The token that ends an answer is not in it.
    """

    where: str
    text: str
    offsets: list[Span]
    start: int


def responses(conversation: Conversation, encoded: Encoded, tokenizer: Any) -> list[Response]:
    """Find the text under the labels of an encoded conversation, one answer of the assistant after the other.

    Parameters
    ----------
    conversation, encoded
        A conversation, and what `bftembed.tuning.encoding.encode` made of it.
    tokenizer
        The tokenizer that was used, a fast one of transformers.

    Raises
    ------
    BftembedError
        For a tokenizer that knows no offsets, and labels that are not the tokens of the answers.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise BftembedError(f"{type(tokenizer).__name__} gives no offsets. Use a model with a fast tokenizer.")
    labels = [label for label in encoded.labels if label != IGNORED]
    found: list[Response] = []
    at = 0
    for turn in conversation.turns:
        if turn.role != "assistant":
            continue
        stripped = turn.content.strip()  # as chat templates do, some of which open the thought in the prompt
        unopened = stripped.removeprefix(leading_opener(stripped))
        for text in dict.fromkeys((turn.content, stripped, unopened, unopened.removeprefix("\n"))):
            tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            ids = tokens["input_ids"]
            if labels[at : at + len(ids) + 1] == [*ids, tokenizer.eos_token_id]:
                found.append(Response(encoded.where, text, [tuple(o) for o in tokens["offset_mapping"]], at))
                at += len(ids) + 1
                break
        else:
            break
    if at != len(labels):
        raise BftembedError(
            f"{encoded.where}: the labels are not the tokens of its answers (from label {at}). "
            "Encode it with this tokenizer, whole."
        )
    return found


def tag_tokens(offsets: Sequence[Span], entities: Sequence[Span], connectives: Sequence[Span]) -> np.ndarray:
    """Carry spans of a text to its tokens.

    Parameters
    ----------
    offsets
        Per token, first and one-past-last character, as a tokenizer gives them.
    entities, connectives
        Spans of characters.

    Returns
    -------
    ndarray
        int8 (tokens,), indices into `TAGS`: a token that shares a character with an entity is ``entity``, else with a
        connective ``connective``, else ``other``; so is a token without characters.
    """
    import numpy as np

    end = max([stop for _, stop in (*offsets, *entities, *connectives)], default=0)
    marks = np.full(end + 1, OTHER, dtype=np.int8)
    for tag, spans in ((CONNECTIVE, connectives), (ENTITY, entities)):
        for first, last in spans:
            marks[first:last] = tag
    found = [marks[first:last].min() if last > first else OTHER for first, last in offsets]
    return np.array(found, dtype=np.int8)


def load_tagger(spec: str = "genes") -> Tagger:
    """Return a function from a text to the spans of its biomedical entities.

    Parameters
    ----------
    spec
        ``"genes"`` (`gene_spans`), or ``"spacy:MODEL"``: an installed spaCy or scispaCy model (``en_core_sci_sm``) or
        its folder, all of whose entities count.

    Raises
    ------
    BftembedError
        For another name, and for spaCy or a model that is not installed, with the line that installs it.
    """
    kind, _, model = spec.partition(":")
    if spec == "genes":
        return lambda text: [(first, last) for first, last, _ in gene_spans(text)]
    if kind == "spacy" and model:
        return _spacy_tagger(model)
    raise unknown_name("tagger", spec, ["genes", "spacy:MODEL"])


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
    found = []
    at = 0
    while at < len(pieces):
        for last in range(_last_joined(text, pieces, at), at - 1, -1):
            first, end = pieces[at][0], pieces[last][1]
            if symbol := _gene(text[first:end], prose):
                found.append((first, end, symbol))
                at = last
                break
        at += 1
    return found


def _last_joined(text: str, pieces: list[Span], at: int) -> int:
    last = at
    while last + 1 < len(pieces) and last + 1 - at < _MOST_PIECES:
        between = text[pieces[last][1] : pieces[last + 1][0]]
        if len(between) != 1 or between not in _JOINT:
            break
        last += 1
    return last


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
    for symbol in index:
        record = index.get(symbol)
        if record is not None:
            for name in (*record.alias_symbols, *record.prev_symbols):
                genes.setdefault(name, set()).add(symbol)
    one = {name: next(iter(found)) if len(found) == 1 else name for name, found in genes.items()}
    return one | {symbol: symbol for symbol in index}


def _spacy_tagger(model: str) -> Tagger:
    try:
        spacy = importlib.import_module("spacy")
    except ModuleNotFoundError as err:
        raise BftembedError(f"The tagger spacy:{model} needs spaCy. Install it: pip install spacy") from err
    try:
        pipeline: Any = spacy.load(model)
    except (OSError, ImportError, ValueError) as err:
        raise BftembedError(
            f"spaCy has no model {model!r} ({str(err).splitlines()[0]}). Install it: python -m spacy download {model}; "
            "for scispaCy (en_core_sci_sm …): pip install scispacy, and pip install with the model's address from "
            "its releases. Or give the model's folder."
        ) from err
    if not any("doc.ents" in pipeline.get_pipe_meta(name).assigns for name in pipeline.pipe_names):
        raise BftembedError(f"The spaCy model {model!r} finds no entities: no part of it sets doc.ents. Take another.")
    return lambda text: [(entity.start_char, entity.end_char) for entity in pipeline(text).ents]


def connective_spans(text: str) -> list[Span]:
    """Find the causal connectives of our list: whole words, any case, the longest form first, without overlap."""
    return [match.span() for match in _connectives()[1].finditer(text)]


@functools.cache
def _connectives() -> tuple[str, re.Pattern[str]]:
    lines = (importlib.resources.files("bftembed.tuning") / "causal_connectives.txt").read_text("utf-8").splitlines()
    version = lines[0].rpartition(" ")[2]
    forms = {form.strip() for line in lines if not line.startswith("#") for form in line.split("|") if form.strip()}
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    words = (r"\s+".join(re.escape(word) for word in form.split()) for form in longest_first)
    return version, re.compile(rf"(?<![\w-])(?:{'|'.join(words)})(?!\w|-\w)", re.IGNORECASE)


def connectives_version() -> str:
    """Return the version of the list of connectives."""
    return _connectives()[0]


def count_entities(text: str) -> set[str]:
    """Return the distinct genes that a text names (`gene_spans`), as approved symbols."""
    return {symbol for _, _, symbol in gene_spans(text)}


def count_connectives(text: str) -> int:
    """Return how many causal connectives a text has, repetitions counted."""
    return len(connective_spans(text))
