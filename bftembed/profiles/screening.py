"""Quality flags of generated texts, and the names in them. Nothing is ever dropped here."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from bftembed.entities.genes import GeneIndex
from bftembed.llm.reasoning import looks_like_reasoning

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Quality flags; "failed" is a profile that could not be written at all.
MARKS = ("empty", "truncated", "unknown-finish", "reasoning", "refusal", "looping", "off-topic", "language", "failed")

# A refusal speaks of the speaker, early on; the same words later in a text are usually biology
# ("cells cannot …", "… is unable to bind"), and "I" after a name is a numeral ("polymerase I cannot …").
_SPEAKER = r"(?:^|[.!?:;,—–-]\s*|\b(?:but|that|unfortunately|sorry|afraid|and|so|because|as)\s+)"
_CAN_NOT = (
    r"(?:can ?not|can't|won't|do not|don't|(?:am|are) (?:not able|unable) to|was unable to|could not|couldn't"
    r"|must decline)"
)
_WHAT = r"(?:help|assist|provide|answer|find|give|know|have|discuss|fulfill?|comply|tell|recogni[sz]e|generate|write)"
_REFUSAL = re.compile(
    rf"{_SPEAKER}(?:(?:i|we) {_CAN_NOT} (?:\w+ ){{0,3}}?{_WHAT}"
    r"|i(?:'m| am) (?:not (?:able|aware|familiar|sure)|unable|unaware|unfamiliar)\b)"
    r"|\b(?:i(?:'m| am)? (?:very )?sorry\b|i must decline\b"
    r"|as an (?:ai\b(?!-)|artificial intelligence)|(?:as|just) a (?:large )?language model\b"
    r"|my (?:knowledge cutoff|training data)\b|it is not possible for me to\b|(?:could|can) you (?:please )?clarify\b"
    r"|this request (?:\w+ ){0,4}cannot be fulfilled"
    r"|no (?:\w+ ){0,2}(?:information|data|knowledge) (?:is )?available (?:on|about|regarding|for)\b"
    rf"|i have no (?:\w+ ){{0,2}}(?:information|data|knowledge)\b|the assistant {_CAN_NOT}\b"
    # Languages that the usual models fall into.
    r"|lo siento|no puedo (?:proporcionar|ayudar|dar)|je suis désolée?|je ne peux pas|tut mir leid"
    r"|ich kann (?:leider|ihnen|dir|keine)|desculpe|não posso|mi dispiace|non posso|извините|я не могу|к сожалению)\b"
    r"|\bsorry[,.]|抱歉|对不起|我(?:无法|不能)|作为一?个?(?:ai|人工智能|语言模型)|申し訳|죄송"
)
_REFUSAL_WITHIN = 240
_LETTER = re.compile(r"[^\W\d_]")
_FOREIGN_LETTER = re.compile(r"[\u0400-\u1cff\u2c00-\ua7ff\uab30-\ufdff\uff66-\uffef]")
_FOREIGN_SHARE = 0.3
#: Common words of English, and of Spanish, French, German, Portuguese, Italian and Swedish.
_ENGLISH_WORDS = "the of a and is in to that it for with by this which are from its has been"
_FOREIGN_WORDS = (
    "es un una el la los las que del por para como se su le les des est une du dans qui et pour avec sur "
    "der das ist ein eine und wird von mit auf zur den dem é um uma da na não com il di che è della nel sono "
    "och är av som"
)
_ENGLISH, _FOREIGN = frozenset(_ENGLISH_WORDS.split()), frozenset(_FOREIGN_WORDS.split())
#: Times that another gene must be named, and factor by which it must be named more often than the text's own.
_OTHER_MIN, _OTHER_TIMES = 3, 3
_SYMBOL = re.compile(r"(?<![\w-])[A-Z][A-Z0-9]{2,}(?:-[A-Z0-9]+)*(?![\w-])")
_WORD, _PLAIN_WORD = re.compile(r"\w+"), re.compile(r"[^\W_]+")
_ECHO_SHARE, _ECHO_MIN_WORDS = 0.9, 5
_LOOP_MIN_WORDS, _LOOP_MIN_LENGTH = 24, 20
_LOOP_DISTINCT_SHARE = 0.5
#: Of a text read backwards: a piece cut short, then five copies or more. Forwards every place would be tried.
_LOOP_UNIT = re.compile(r"\S*?\s*?(.{1,80}?)\1{4,}", re.DOTALL)


def screen(text: str, finish_reason: str, names: Iterable[str] = (), prompt: str = "") -> tuple[str, ...]:
    """Return the marks of a cleaned text, in the order of `MARKS`.

    Parameters
    ----------
    text
        As `bftembed.llm.reasoning.read_answer` gives it.
    finish_reason
        Of `read_finish_reason`. ``"length"`` marks the text truncated, ``"content_filter"`` a refusal; anything else
        but ``"stop"`` unknown-finish.
    names
        What the text may call its own entity: symbol, aliases, full name. Without any, "off-topic" is not given.
    prompt
        What was asked; a text that gives it back is "off-topic", and one in another language than English has the flag
        "language" where the prompt is English.

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
    if finish_reason == "content_filter" or _refuses(text):
        marks.append("refusal")
    if _loops(text):
        marks.append("looping")
    if text and (not mentions(text, names) or _echoes(text, prompt) or _speaks_of_another(text, names)):
        marks.append("off-topic")
    if _foreign(text) and not _foreign(prompt):
        marks.append("language")
    return tuple(marks)


def _refuses(text: str) -> bool:
    return bool(_REFUSAL.search(text[:_REFUSAL_WITHIN].lower().replace("’", "'")))


def _foreign(text: str) -> bool:
    """Return whether a text is in another language than English: by its letters, or its commonest words."""
    if not text.isascii() and len(_FOREIGN_LETTER.findall(text)) > _FOREIGN_SHARE * len(_LETTER.findall(text)):
        return True
    words = text.lower().split()
    others = sum(word in _FOREIGN for word in words)
    return others >= 3 and others > sum(word in _ENGLISH for word in words)


def _echoes(text: str, prompt: str) -> bool:
    """Return whether nearly all words of a text are those of its prompt."""
    if not prompt or len(text) > 2 * len(prompt):
        return False
    asked, words = prompt.lower(), set(_WORD.findall(text.lower()))
    return len(words) >= _ECHO_MIN_WORDS and sum(word in asked for word in words) >= _ECHO_SHARE * len(words)


def _speaks_of_another(text: str, names: Iterable[str]) -> bool:
    """Return whether a text names another human gene first, and several times as often as its own entity."""
    symbols = _SYMBOL.findall(text)
    if len(symbols) < _OTHER_MIN:
        return False
    own = {name.upper() for name in names}
    others = ((s, n) for s, n in Counter(symbols).most_common(3) if n >= _OTHER_MIN and s not in own)
    index = GeneIndex.default()
    for symbol, n in others:
        if symbol in index:
            lower = text.lower()
            places = [at for name in own if (at := lower.find(name.lower())) >= 0]
            mentioned = max((lower.count(name.lower()) for name in own if name), default=0)
            return bool(own) and n >= _OTHER_TIMES * mentioned and text.find(symbol) < min(places, default=len(text))
    return False


def _loops(text: str) -> bool:
    """Return whether a text repeats itself.

    Fewer than half of its word 4-grams are distinct (24 words or more), a sentence or line of three words or more comes
    three times, or it ends in five copies or more of one piece of up to 80 characters.
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
    return unit is not None and any(map(str.isalnum, unit[1])) and unit.end() - unit.start(1) >= _LOOP_MIN_LENGTH


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; everything that is no letter or digit separates."""
    return _PLAIN_WORD.findall(text.lower())


def words_without(text: str, names: Iterable[str]) -> list[str]:
    """Return the words of a text without the given names, whatever separates their parts: ``IL-6`` is ``IL6``.

    Only whole words go, and the longest name that begins at a word.
    """
    keys = {"".join(words_of(name)) for name in names} - {""}
    words = words_of(text)
    beginnings = {key[:n] for key in keys for n in range(1, len(key) + 1)}
    kept, i = [], 0
    while i < len(words):
        end, joined, j = i, "", i
        while j < len(words) and (joined := joined + words[j]) in beginnings:
            j += 1
            end = j if joined in keys else end
        kept += words[i : i + (end == i)]
        i = max(end, i + 1)
    return kept


def mentions(text: str, names: Iterable[str]) -> bool:
    """Return whether any of `names` stands in `text` as a whole word, ignoring case; True without names."""
    known = [n for n in names if n]
    lower = text.lower()
    return not known or any(_has_word(lower, name.lower()) for name in known)


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
