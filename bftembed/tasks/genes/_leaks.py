"""Texts that state the label of a gene, or name the partner of a pair."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from bftembed.tasks.genes.definition import GeneTask

# Symbols of five characters and more that are words of English too: these count in their own case alone.
_ENGLISH_SYMBOLS = frozenset(
    ["CLOCK", "IMPACT", "LIGHT", "NOTCH", "ORBIT", "RANGE", "SMILE", "STING", "STRAP", "TIMELESS", "TRAIL", "TWEAK"]
)
# Symbols up to this length count in their own case alone: in lower case they are words (was, set, rest).
_MAX_SHORT = 4
_SEPARATORS = r"[\s\-_‐-―−]"
# Words that may hold symbols of several parts, as TRA-AGC1-1, RP11-34P13.7 and C4B_2; and at most so many parts.
_CHAIN, _PART, _MAX_PARTS = re.compile(r"[^\W_]+(?:[-._/][^\W_]+)*"), re.compile(r"[^\W_]+"), 4


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

    Single genes: one of ``task.label_words`` occurs in the text as a word. Case does not matter, nor whether its parts
    are written together, with hyphens or with spaces, nor a plural.

    Pairs: the text of one gene holds the symbol of the other as a word, also inside a hyphenated one (``IL6-induced``).
    Symbols up to 4 characters and those that are English words count in their own case alone, the others in any. Other
    names of a gene do not count, and a pair of a gene with itself never leaks.

    `texts` maps genes, spelled as in the task, to text.
    """
    has_text = np.array([bool(texts.get(gene, "").strip()) for gene in task.genes], dtype=bool)
    counts: Counter[str] = Counter()
    if task.kind == "pairs":
        found, rows = _finder(task.genes), np.arange(len(task.items))
        named = {i: found(texts.get(task.genes[i], "")) - {i} for i in np.unique(task.items).tolist()}
        leaking = np.array([b in named[a] or a in named[b] for a, b in task.items.tolist()], dtype=bool)
        checked = np.asarray(has_text[task.items].any(axis=1))
    else:
        patterns, checked, rows = {word: _pattern(word) for word in task.label_words}, has_text, task.items[:, 0]
        stated = [[w for w, pattern in patterns.items() if pattern.search(texts.get(g, ""))] for g in task.genes]
        leaking = np.array([bool(words) for words in stated], dtype=bool)
        counts.update(word for words in stated for word in words)
    shares = {}
    for code, label in enumerate(task.label_names):
        has_label = task.labels[:, code] if task.kind == "multilabel" else task.labels == code
        chosen = leaking[rows[has_label & checked[rows]]]
        shares[label] = float(chosen.mean()) if len(chosen) else float("nan")
    words = sorted(counts, key=lambda word: (-counts[word], word))
    return Leaks(leaking, int(checked.sum()), shares, tuple(words))


def _pattern(word: str) -> re.Pattern[str]:
    """Return the pattern of a label word: its parts together or apart, singular or plural."""
    parts = re.findall(r"[^\W_]+", word)
    if not parts:
        return re.compile("(?!)")  # matches nowhere
    if stem := re.fullmatch(r"(..+)ies|(.+[^aeiou])y", parts[-1], re.IGNORECASE):
        parts[-1], ending = stem[1] or stem[2], "(?:y|ies)"
    else:
        ending = "(?:s|es)?" if parts[-1][-1].isalpha() else ""
    joined = f"{_SEPARATORS}{{0,3}}".join(map(re.escape, parts))
    return re.compile(rf"(?<![^\W_]){joined}{ending}(?![^\W_])", re.IGNORECASE)


def _finder(genes: Sequence[str]) -> Callable[[str], set[int]]:
    """Return a function from a text to the positions of the genes whose symbols it holds."""
    exact = {gene: i for i, gene in enumerate(genes)}
    any_case: dict[str, list[int]] = {}
    for i, gene in enumerate(genes):
        if len(gene) > _MAX_SHORT and gene.upper() not in _ENGLISH_SYMBOLS:
            any_case.setdefault(gene.lower(), []).append(i)

    def found(text: str) -> set[int]:
        genes_of_text: set[int] = set()
        for chain in _CHAIN.finditer(text):
            parts = [part.span() for part in _PART.finditer(text, *chain.span())]
            for i, (start, _) in enumerate(parts):
                for _, stop in parts[i : i + _MAX_PARTS]:
                    word = text[start:stop]
                    genes_of_text.update(any_case.get(word.lower(), ()), [exact[word]] if word in exact else ())
        return genes_of_text

    return found
