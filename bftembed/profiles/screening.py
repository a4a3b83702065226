"""What a generated text looks like: reasoning stripped, bad texts marked. Nothing is ever dropped here."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from bftembed.llm.reasoning import looks_like_reasoning

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Quality flags; "failed" is a profile that could not be written at all.
MARKS = ("empty", "truncated", "unknown-finish", "reasoning", "refusal", "looping", "off-topic", "failed")

# A refusal speaks of the speaker, early on; the same words later in a text are usually biology
# ("cells cannot …", "… is unable to bind"), and "I" after a name is a numeral ("polymerase I cannot …").
_SPEAKER = r"(?:^|[.!?:;,—–-]\s*|\b(?:but|that|unfortunately|sorry|afraid|and|so|because|as)\s+)"
_CAN_NOT = (
    r"(?:can ?not|can't|won't|do not|don't|am not able to|are not able to|am unable to|are unable to|was unable to"
    r"|could not|couldn't|must decline)"
)
_WHAT = r"(?:help|assist|provide|answer|find|give|know|have|discuss|fulfill?|comply|tell|recogni[sz]e|generate|write)"
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am)? (?:very )?sorry\b|sorry[,.]|i must decline\b"
    rf"|as an (?:ai\b(?!-)|artificial intelligence)|i(?:'m| am) just a (?:large )?language model"
    r"|as a (?:large )?language model\b|my (?:knowledge cutoff|training data)\b"
    r"|it is not possible for me to\b|(?:could|can) you (?:please )?clarify\b"
    r"|this request (?:\w+ ){0,4}cannot be fulfilled"
    r"|(?:there is )?no (?:\w+ ){0,2}(?:information|data|knowledge) (?:is )?available (?:on|about|regarding|for)\b"
    r"|i have no (?:\w+ ){0,2}(?:information|data|knowledge)\b"
    rf"|the assistant {_CAN_NOT}\b)"
    rf"|{_SPEAKER}(?:i|we) {_CAN_NOT} (?:\w+ ){{0,3}}?{_WHAT}"
    rf"|{_SPEAKER}i(?:'m| am) (?:not (?:able|aware|familiar|sure)|unable|unaware|unfamiliar)\b",
    re.IGNORECASE,
)
_REFUSAL_WITHIN = 240

_LOOP_MIN_WORDS = 24
_LOOP_DISTINCT_SHARE = 0.5
#: Of a text read backwards: a piece cut short, then five copies or more. Forwards every place would be tried.
_LOOP_UNIT = re.compile(r"\S*?\s*?(.{1,80}?)\1{4,}", re.DOTALL)


def screen(text: str, finish_reason: str, names: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the marks of a cleaned text, in the order of `MARKS`.

    Parameters
    ----------
    text
        As `clean` gives it.
    finish_reason
        Of `read_finish_reason`. ``"length"`` marks the text truncated, ``"content_filter"`` a refusal; anything else
        but ``"stop"`` unknown-finish.
    names
        What the text may call its own entity: symbol, aliases, full name. Without any, "off-topic" is not given.

    Returns
    -------
    tuple of str
        Subset of `MARKS` without "failed".
    """
    marks = []
    if not any(c.isalnum() for c in text) or text.strip(" .:*#\n").lower() in {n.lower() for n in names if n}:
        marks.append("empty")  # nothing, or nothing but the name
    if finish_reason == "length":
        marks.append("truncated")
    elif finish_reason not in ("stop", "content_filter"):
        marks.append("unknown-finish")
    if looks_like_reasoning(text):
        marks.append("reasoning")
    if finish_reason == "content_filter" or _REFUSAL.search(text[:_REFUSAL_WITHIN].replace("’", "'")):
        marks.append("refusal")
    if loops(text):
        marks.append("looping")
    if text and not mentions(text, names):
        marks.append("off-topic")
    return tuple(marks)


def loops(text: str) -> bool:
    """Return whether a text repeats itself.

    True when fewer than half of its word 4-grams are distinct (24 words or more), when one sentence or line of
    at least three words comes three times, or when it ends in five or more copies of one piece of up to 80
    characters that holds a letter or digit.
    """
    words = text.lower().split()
    if len(words) >= _LOOP_MIN_WORDS:
        words = re.sub(r"\d+", "0", " ".join(words)).split()  # counting is no progress
        grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
        if len(set(grams)) < _LOOP_DISTINCT_SHARE * len(grams):
            return True
    sentences = Counter(s.strip().lower() for s in re.split(r"(?<=[.!?])\s+|\n+", text) if len(s.split()) >= 3)
    if sentences and max(sentences.values()) >= 3:
        return True
    unit = _LOOP_UNIT.match(text[-600:][::-1])
    return unit is not None and any(c.isalnum() for c in unit.group(1)) and unit.end() - unit.start(1) >= 20


def mentions(text: str, names: Iterable[str]) -> bool:
    """Return whether any of `names` stands in `text` as a whole word, ignoring case; True without names."""
    known = [n for n in names if n]
    if not known:
        return True
    lower = text.lower()
    return any(_has_word(lower, name.lower()) for name in known)


def _has_word(text: str, word: str) -> bool:
    # A pattern compiled per gene would take longer than all the rest of a run without a model.
    at = text.find(word)
    while at >= 0:
        end = at + len(word)
        before, after = text[at - 1 : at], text[end : end + 1]
        if not (before.isascii() and before.isalnum()) and not (after.isascii() and after.isalnum()):
            return True
        at = text.find(word, at + 1)
    return False
