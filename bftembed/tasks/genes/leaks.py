"""Does a text state the label it is asked for? The share of such texts, and the texts without the words."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.tasks.genes.definition import GeneTask

MOST_EXAMPLES = 10
#: Symbols of five characters and more that are words of English too: these count in their own case alone.
ENGLISH_SYMBOLS = frozenset(
    ["CLOCK", "IMPACT", "LIGHT", "NOTCH", "ORBIT", "RANGE", "SMILE", "STING", "STRAP", "TIMELESS", "TRAIL", "TWEAK"]
)
#: Symbols up to this length count in their own case alone: in lower case they are words (was, set, rest).
SHORT = 4

_SEPARATORS = r"\s\-_‐-―−"
_LONG_PART = 8
_CHAIN = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_PIECE = re.compile(r"[^\s,;:()\[\]{}\"'“”‘’<>|]+")
#: Parts of one hyphenated word that may be a symbol together, as in TRA-AGC1-1.
_MOST_PARTS = 4


@dataclass(frozen=True, eq=False)
class Leaks:
    """Where texts state the label.

    Attributes
    ----------
    n_texts
        Genes of the task that have a text (not blank).
    leaking
        bool: for single genes (n_genes,), whether the text of each of ``task.genes`` holds a label word; for pairs
        (n_items,), whether the text of one gene of the pair names the other.
    n_checked
        What could leak: the genes with a text, or the pairs of which at least one gene has a text.
    share
        Leaking of `n_checked`, in [0, 1]; 0 where nothing could be checked.
    share_by_label
        Label → the share among the items that have it (and could be checked), NaN for a label without any. A word
        gives the label away as far as these shares differ.
    examples
        Up to 10 of (gene, what stands in its text).
    words
        Single genes: the label words that were found, those of most texts first. Pairs: empty.
    """

    n_texts: int
    leaking: NDArray[np.bool_]
    n_checked: int
    share: float
    share_by_label: Mapping[str, float]
    examples: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()

    @property
    def n_leaking(self) -> int:
        """Return how many genes, or pairs, leak."""
        return int(self.leaking.sum())


def find_leaks(task: GeneTask, texts: Mapping[str, str]) -> Leaks:
    """Find the texts that state the label.

    Single genes: one of ``task.label_words`` stands in the text as a word. Case does not matter, nor whether parts are
    written together, with hyphens or with spaces, nor a plural.

    Pairs: the text of one gene holds the other's symbol as a word, also inside a hyphenated one (``IL6-induced``).
    Symbols up to 4 characters and those that are English words (`ENGLISH_SYMBOLS`) count in their own case alone, the
    others in any. Other names of a gene do not count, and a pair of a gene with itself never leaks.

    Parameters
    ----------
    task
        The task; its genes are looked up in `texts` as they are spelt there.
    texts
        Gene → text. A gene may be absent.

    Returns
    -------
    Leaks
        What was found. The time is linear in the length of the texts.
    """
    has_text = np.array([bool(texts.get(gene, "").strip()) for gene in task.genes], dtype=bool)
    if task.kind == "pairs":
        return _pair_leaks(task, texts, has_text)
    pattern = _label_pattern(task.label_words)
    leaking = np.zeros(len(task.genes), dtype=bool)
    counts: Counter[str] = Counter()
    shown: list[tuple[str, str]] = []
    for i, gene in enumerate(task.genes) if pattern else ():
        found = list(pattern.finditer(texts.get(gene, ""))) if pattern else []
        if found:
            leaking[i] = True
            counts.update({task.label_words[(match.lastindex or 1) - 1] for match in found})
            shown.append((gene, found[0].group()))
    words = tuple(word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
    return _leaks(task, leaking, has_text, task.items[:, 0], has_text, shown, words)


def mask_texts(task: GeneTask, texts: Mapping[str, str]) -> dict[str, str]:
    """Return the texts without what states the label: only those that change.

    Single genes: every label word goes. Pairs: the symbols of all other genes of the task go, not of the partners
    alone, since that would mark the pairs. What goes leaves a space; runs of spaces become one.

    Parameters
    ----------
    task, texts
        As in `find_leaks`, which finds nothing in the texts that this returns.

    Returns
    -------
    dict of str to str
        Gene of the task → its text without the words. May be blank.
    """
    changed: dict[str, str] = {}
    pattern = _label_pattern(task.label_words)
    names = _Names(task.genes) if task.kind == "pairs" else None
    for i, gene in enumerate(task.genes):
        text = texts.get(gene, "")
        masked = names.without(text, i) if names else _masked(text, pattern) if pattern else text
        if masked != text:
            changed[gene] = masked
    return changed


def _leaks(
    task: GeneTask,
    leaking: NDArray[np.bool_],
    checked: NDArray[np.bool_],
    rows: NDArray[np.int64],
    has_text: NDArray[np.bool_],
    shown: Sequence[tuple[str, str]],
    words: tuple[str, ...] = (),
) -> Leaks:
    """Count; `leaking` and `checked` have one element per gene or pair, `rows` gives that of every item."""
    n_checked = int(checked.sum())
    by_label = {}
    for code, label in enumerate(task.label_names):
        has_label = task.labels[:, code] if task.kind == "multilabel" else task.labels == code
        chosen = leaking[rows[has_label & checked[rows]]]
        by_label[label] = float(chosen.mean()) if len(chosen) else float("nan")
    share = float((leaking & checked).sum()) / n_checked if n_checked else 0.0
    return Leaks(int(has_text.sum()), leaking, n_checked, share, by_label, tuple(shown[:MOST_EXAMPLES]), words)


def _label_pattern(words: Sequence[str]) -> re.Pattern[str] | None:
    """Return one pattern with a group per word, in the order of `words`; None where no word has a letter or digit."""
    spelt = [_spelling(word) for word in words]
    if not any(spelt):
        return None
    # (?!) matches nowhere: a word of punctuation alone keeps its place among the groups.
    groups = "|".join(f"({s})" if s else "((?!))" for s in spelt)
    return re.compile(rf"(?<![^\W_])(?:{groups})(?![^\W_])", re.IGNORECASE)


def _spelling(word: str) -> str:
    """Return the pattern of one word; every choice in it is bounded, and separators are never letters."""
    parts = re.findall(r"[^\W_]+", word)
    if not parts:
        return ""
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


def _masked(text: str, pattern: re.Pattern[str]) -> str:
    while pattern.search(text):  # what stood on both sides of a word may be one when they meet
        text = _collapsed(pattern.sub(" ", text))
    return text


def _collapsed(text: str) -> str:
    return re.sub(r"[ \t]{2,}", " ", text).strip()


def _pair_leaks(task: GeneTask, texts: Mapping[str, str], has_text: NDArray[np.bool_]) -> Leaks:
    names = _Names(task.genes)
    partners: dict[int, set[int]] = {}
    for a, b in task.items.tolist():
        partners.setdefault(a, set()).add(b)
        partners.setdefault(b, set()).add(a)
    named = {i: names.found(texts.get(task.genes[i], ""), i) & others for i, others in partners.items()}
    leaking = np.array([b in named[a] or a in named[b] for a, b in task.items.tolist()], dtype=bool)
    checked = np.asarray(has_text[task.items].any(axis=1), dtype=bool)
    shown = [(task.genes[i], task.genes[other]) for i in sorted(named) for other in sorted(named[i])[:1]]
    return _leaks(task, leaking, checked, np.arange(len(task.items)), has_text, shown)


class _Names:
    """The names of a task's genes, to be found in texts."""

    def __init__(self, genes: Sequence[str]) -> None:
        self._exact = {gene: i for i, gene in enumerate(genes)}
        self._any_case: dict[str, list[int]] = {}
        for i, gene in enumerate(genes):
            if len(gene) > SHORT and gene.upper() not in ENGLISH_SYMBOLS:
                self._any_case.setdefault(gene.lower(), []).append(i)
        # Names with dots, slashes and the like are no chain of letters and hyphens: they are looked for between spaces.
        self._odd = any(not _is_chain(gene) for gene in genes)

    def found(self, text: str, own: int) -> set[int]:
        """Return the genes that `text` names, without `own`."""
        found: set[int] = set()
        for chain in set(_CHAIN.findall(text)):
            parts = chain.split("-")
            for start in range(len(parts)):
                for end in range(start + 1, min(start + _MOST_PARTS, len(parts)) + 1):
                    found.update(self._genes("-".join(parts[start:end])))
        if self._odd:
            for piece in set(_PIECE.findall(text)):
                found.update(self._genes(piece.rstrip(".!?")))
        return found - {own}

    def without(self, text: str, own: int) -> str:
        """Return `text` without the names of other genes; the longest name that begins at a part goes."""
        while True:
            shorter = _CHAIN.sub(lambda match: self._chain_without(match.group(), own), text)
            if self._odd:
                shorter = _PIECE.sub(lambda match: self._piece_without(match.group(), own), shorter)
            if shorter == text:
                return text
            text = _collapsed(shorter)

    def _genes(self, word: str) -> Iterable[int]:
        if word in self._exact:
            yield self._exact[word]
        yield from self._any_case.get(word.lower(), ())

    def _chain_without(self, chain: str, own: int) -> str:
        parts, kept, start = chain.split("-"), [], 0
        while start < len(parts):
            for end in range(min(start + _MOST_PARTS, len(parts)), start, -1):
                # A name that two genes share in other cases goes too, unless it is this gene's alone.
                if any(i != own for i in self._genes("-".join(parts[start:end]))):
                    kept.append(" ")
                    start = end
                    break
            else:
                kept.append(parts[start])
                start += 1
        return "-".join(kept)

    def _piece_without(self, piece: str, own: int) -> str:
        name = piece.rstrip(".!?")
        return f" {piece[len(name) :]}" if any(i != own for i in self._genes(name)) else piece


def _is_chain(name: str) -> bool:
    return _CHAIN.fullmatch(name) is not None and name.count("-") < _MOST_PARTS
