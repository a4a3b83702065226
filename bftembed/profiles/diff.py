"""Profiles of one entity side by side: what the words of the others add to and take from the first."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bftembed.profiles.selection import of_generator, of_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bftembed.profiles.records import Profile

#: Longer texts are compared with difflib's shortcut for frequent words; without it the time grows with the square.
_EXACT_WORDS = 2000


@dataclass(frozen=True)
class Comparison:
    """A profile beside the first of its entity.

    Attributes
    ----------
    profile
        The profile.
    diff
        `word_diff` of the first profile's text and this one's; of the first itself, its text.
    same
        Share of words that both have in the same order, in [0, 1]: twice their number by the words of both.
    """

    profile: Profile
    diff: str
    same: float


def chosen(
    profiles: Sequence[Profile],
    *,
    prompts: Sequence[str] = (),
    generators: Sequence[str] = (),
    where: str = "the store",
) -> list[Profile]:
    """Return the profiles of some prompts and generators, in the order in which these are named.

    Parameters
    ----------
    profiles
        Of any entities.
    prompts, generators
        As `bftembed.profiles.selection.select_profiles` matches one: a whole name, its beginning up to ``@``, ``:`` or
        ``,``, or (a generator) an id or six or more of its digits. All when none is named.
    where
        What an error calls the profiles.

    Raises
    ------
    UnknownNameError
        For a prompt or generator that wrote none of them.
    """
    found = list(profiles)
    if prompts:
        found = [p for name in prompts for p in of_prompt(name, found, where)]
    if generators:
        found = [p for name in generators for p in of_generator(name, found, where)]
    return list({p.key: p for p in found}.values())


def compare(profiles: Sequence[Profile]) -> list[Comparison]:
    """Compare the profiles of one entity with the first of them, which comes first."""
    if not profiles:
        return []
    first, *others = profiles
    compared = [Comparison(first, first.text, 1.0)]
    for other in others:
        diff, same = _diff(first.text, other.text)
        compared.append(Comparison(other, diff, same))
    return compared


def word_diff(old: str, new: str) -> str:
    """Return `new` with its words marked: ``[-removed-]`` stood in `old` only, ``{+added+}`` stands in `new` only.

    White space other than line ends counts as one space.
    """
    return _diff(old, new)[0]


def _diff(old: str, new: str) -> tuple[str, float]:
    a, b = (re.findall(r"\n|[^\s]+", text) for text in (old, new))
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=max(len(a), len(b)) > _EXACT_WORDS)
    parts = []
    for what, i1, i2, j1, j2 in matcher.get_opcodes():
        if what == "equal":
            parts.append(_joined(b[j1:j2]))
            continue
        removed, added = _joined(a[i1:i2]), _joined(b[j1:j2])
        parts.append((f"[-{removed}-]" if i1 < i2 else "") + (f"{{+{added}+}}" if j1 < j2 else ""))
    return _joined(parts), matcher.ratio()


def _joined(words: Sequence[str]) -> str:
    return re.sub(r" ?\n ?", "\n", " ".join(words))
