"""Texts that state the label: their share, the texts without those words, and their vectors."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.embeddings import embed_genes
from bftembed.entities.genes import GeneIndex
from bftembed.errors import BftembedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.embeddings import GeneVectors
    from bftembed.encoders.base import Encoder
    from bftembed.progress import Progress
    from bftembed.tasks.genes.definition import GeneTask

#: Symbols of five characters and more that are words of English too: these count in their own case alone.
ENGLISH_SYMBOLS = frozenset(
    ["CLOCK", "IMPACT", "LIGHT", "NOTCH", "ORBIT", "RANGE", "SMILE", "STING", "STRAP", "TIMELESS", "TRAIL", "TWEAK"]
)
#: Symbols up to this length count in their own case alone: in lower case they are words (was, set, rest).
MAX_SHORT = 4

_SEPARATORS = r"\s\-_‐-―−"
_LONG_PART = 8
#: Words that may hold symbols of several parts, as TRA-AGC1-1, RP11-34P13.7 and C4B_2; and at most so many parts.
_CHAIN, _JOINT, _MAX_PARTS = re.compile(r"[^\W_]+(?:[-._/][^\W_]+)*"), re.compile(r"([-._/])"), 4


@dataclass(frozen=True, eq=False)
class Leaks:
    """Where texts state the label; a word gives it away as far as the shares differ between labels."""

    #: Of each gene of the task, (n_genes,); of pairs whether the text of one gene names the other, (n_items,).
    leaking: NDArray[np.bool_]
    #: Genes with a text, or pairs of which at least one gene has a text.
    n_checked: int
    #: Label → the leaking share of the checked items that have it; NaN for a label without any.
    share_by_label: Mapping[str, float]
    #: The label words that were found, those of most texts first; of pairs none.
    words: tuple[str, ...] = ()


def find_leaks(task: GeneTask, texts: Mapping[str, str]) -> Leaks:
    """Find the texts that state the label.

    Single genes: one of ``task.label_words`` occurs in the text as a word. Case does not matter, nor whether parts are
    written together, with hyphens or with spaces, nor a plural.

    Pairs: the text of one gene holds the symbol of the other as a word, also inside a hyphenated one (``IL6-induced``).
    Symbols up to 4 characters and those that are English words (`ENGLISH_SYMBOLS`) count in their own case alone, the
    others in any. Other names of a gene do not count, and a pair of a gene with itself never leaks.

    `texts` maps genes, spelled as in the task, to text.
    """
    has_text = np.array([bool(texts.get(gene, "").strip()) for gene in task.genes], dtype=bool)
    counts: Counter[str] = Counter()
    if task.kind == "pairs":
        names, rows = _Names(task.genes), np.arange(len(task.items))
        named = {i: names.found(texts.get(task.genes[i], ""), i) for i in np.unique(task.items).tolist()}
        leaking = np.array([b in named[a] or a in named[b] for a, b in task.items.tolist()], dtype=bool)
        checked = np.asarray(has_text[task.items].any(axis=1))
    else:
        pattern, checked, rows = _label_pattern(task.label_words), has_text, task.items[:, 0]
        matches = [pattern.finditer(texts.get(gene, "")) for gene in task.genes]
        stated = [{task.label_words[(m.lastindex or 1) - 1] for m in found} for found in matches]
        leaking = np.array([bool(words) for words in stated], dtype=bool)
        counts.update(word for words in stated for word in words)
    shares = {}
    for code, label in enumerate(task.label_names):
        has_label = task.labels[:, code] if task.kind == "multilabel" else task.labels == code
        chosen = leaking[rows[has_label & checked[rows]]]
        shares[label] = float(chosen.mean()) if len(chosen) else float("nan")
    words = sorted(counts, key=lambda word: (-counts[word], word))
    return Leaks(leaking, int(checked.sum()), shares, tuple(words))


def mask_texts(task: GeneTask, texts: Mapping[str, str]) -> dict[str, str]:
    """Return the texts that state the label, without the words that do; such a text may be blank then.

    Single genes: all label words go. Pairs: the symbols of all other genes of the task go, not of the partners alone,
    since that would mark the pairs. Parameters are those of `find_leaks`, which finds nothing in the returned texts.
    """
    pattern, names = _label_pattern(task.label_words), _Names(task.genes)
    changed = {}
    for i, gene in enumerate(task.genes):
        text = before = texts.get(gene, "")
        # What stood on both sides of a word may be one when they meet.
        while (shorter := names.without(text, i) if task.kind == "pairs" else pattern.sub(" ", text)) != text:
            text = re.sub(r"[ \t]{2,}", " ", shorter).strip()
        if text != before:
            changed[gene] = text
    return changed


def masked_vectors(
    vectors: GeneVectors, texts: Mapping[str, str], task: GeneTask, encoder: Encoder, progress: Progress
) -> NDArray[Any] | None:
    """Return the vectors with the texts that state the label of a task encoded again, without the words that do.

    A row is zero where nothing is left of a text. None where no text states the label, or the provenance of `vectors`
    names another encoder. TF-IDF, whose axes depend on all its texts, encodes all of them again.
    """
    # A task may spell a gene by another of its names.
    rows = match_rows(task.genes, vectors.ids).tolist()
    spelled = {gene: vectors.ids[row] for gene, row in zip(task.genes, rows, strict=True) if row >= 0}
    of_task = {gene: texts[own] for gene, own in spelled.items() if texts.get(own, "").strip()}
    changed = {spelled[gene]: text for gene, text in mask_texts(task, of_task).items()}
    if not changed or vectors.provenance.get("encoder", {}).get("name", encoder.spec.name) != encoder.spec.name:
        return None
    row_of = {gene: i for i, gene in enumerate(vectors.ids)}
    if encoder.spec.name == "tfidf":
        changed = {gene: text for gene, text in texts.items() if gene in row_of and text.strip()} | changed
    matrix = np.array(vectors.matrix)
    matrix[[row_of[gene] for gene in changed]] = 0
    if rest := {gene: text for gene, text in changed.items() if text.strip()}:
        made = embed_genes(rest, encoder, progress=progress)
        if made.dim != vectors.dim:
            raise BftembedError(
                f"The encoder gives {made.dim} dimensions, the embedding {vectors.source} has {vectors.dim}. Name the "
                "encoder that made the embedding."
            )
        matrix[[row_of[gene] for gene in made.ids]] = made.matrix
    return matrix


def match_rows(genes: Sequence[str], ids: Sequence[str], *, aliases: bool = True) -> NDArray[np.int64]:
    """Return the row of the vector of each gene, int64 (n_genes,), -1 for none.

    With `aliases` a gene that is not an id is looked up by its approved symbol, and among ids by theirs; ambiguous
    names are never guessed.
    """
    row_of = {name: i for i, name in enumerate(ids)}
    rows = np.array([row_of.get(gene, -1) for gene in genes], dtype=np.int64)
    missing = np.flatnonzero(rows < 0).tolist()
    if not aliases or not missing:
        return rows
    index = GeneIndex.default()
    approved: dict[str, int] = {}
    for found in index.resolve([i for i in ids if i not in index]):
        if found.entity and found.entity not in row_of:
            approved.setdefault(found.entity, row_of[found.name])
    for position, found in zip(missing, index.resolve([genes[i] for i in missing]), strict=True):
        if found.entity:
            rows[position] = row_of.get(found.entity, approved.get(found.entity, -1))
    return rows


def _label_pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Return one pattern with a group per word, in the order of `words`."""
    groups = "|".join(f"({_spelling(word)})" for word in words)
    return re.compile(rf"(?<![^\W_])(?:{groups or '(?!)'})(?![^\W_])", re.IGNORECASE)


def _spelling(word: str) -> str:
    """Return the pattern of one word; every choice in it is bounded, and separators are never letters."""
    parts = re.findall(r"[^\W_]+", word)
    if not parts:
        return "(?!)"  # matches nowhere
    last = parts[-1].lower()
    if len(last) > 3 and last.endswith("ies"):
        parts[-1], ending = parts[-1][:-3], "(?:y|ies)"
    elif len(last) > 3 and last.endswith("y") and last[-2] not in "aeiou":
        parts[-1], ending = parts[-1][:-1], "(?:y|ies)"
    elif len(last) > 3 and last.endswith("s") and not last.endswith(("ss", "us", "is")):
        parts[-1], ending = parts[-1][:-1], "(?:s|es)?"
    else:
        ending = "(?:s|es)?" if last[-1].isalpha() else ""
    # A long part may be divided anywhere: haplo-insufficient.
    within = f"[{_SEPARATORS}]?"
    inner = [(within if len(p) >= _LONG_PART else "").join(map(re.escape, p)) for p in parts]
    return f"[{_SEPARATORS}]{{0,3}}".join(inner) + ending


class _Names:
    """The names of the genes of a task, to be found in texts."""

    def __init__(self, genes: Sequence[str]) -> None:
        self._exact = {gene: i for i, gene in enumerate(genes)}
        self._any_case: dict[str, list[int]] = {}
        for i, gene in enumerate(genes):
            if len(gene) > MAX_SHORT and gene.upper() not in ENGLISH_SYMBOLS:
                self._any_case.setdefault(gene.lower(), []).append(i)

    def found(self, text: str, own: int) -> set[int]:
        """Return the genes that `text` names, without `own`."""
        found: set[int] = set()
        for chain in set(_CHAIN.findall(text)):
            parts = _JOINT.split(chain)
            for start in range(0, len(parts), 2):
                for end in _ends(parts, start):
                    found |= self._genes("".join(parts[start:end]))
        return found - {own}

    def without(self, text: str, own: int) -> str:
        """Return `text` without the names of other genes; the longest name that begins at a part goes."""
        return _CHAIN.sub(lambda match: self._chain_without(match.group(), own), text)

    def _genes(self, word: str) -> set[int]:
        exact = {self._exact[word]} if word in self._exact else set()
        return exact.union(self._any_case.get(word.lower(), ()))

    def _chain_without(self, chain: str, own: int) -> str:
        parts, kept, start = _JOINT.split(chain), [], 0
        while start < len(parts):
            # A name that two genes share in other cases goes too, unless it is this gene's alone.
            named = (end for end in _ends(parts, start) if self._genes("".join(parts[start:end])) - {own})
            end = next(named, 0)
            kept.append(" " if end else parts[start])
            end = end or start + 1
            kept += parts[end : end + 1]
            start = end + 1
        return "".join(kept)


def _ends(parts: Sequence[str], start: int) -> range:
    """Return where names that begin at `start` may end, the longest first; every other part is a joint."""
    return range(min(start + 2 * _MAX_PARTS - 1, len(parts)), start, -2)
