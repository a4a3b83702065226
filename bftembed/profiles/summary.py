"""What a store holds, in numbers: coverage, lengths, marks, own names and near-duplicates, per prompt and generator."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bftembed.profiles.duplicates import THRESHOLD, NearDuplicates, near_duplicates
from bftembed.profiles.generate import names_of
from bftembed.profiles.screening import mentions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bftembed.llm.base import Answer
    from bftembed.llm.store import ListedEntity

#: Statuses of names that lead to an entity.
_RESOLVED = ("used", "mapped")


@dataclass(frozen=True)
class Lengths:
    """Lengths of texts: median, 5 % and 95 % quantile (interpolated), shortest and longest."""

    median: float
    low: float
    high: float
    shortest: int
    longest: int


@dataclass(frozen=True)
class Origin:
    """Where profiles come from: kind, prompt (``name@version``), generator (spec) and the generator's id."""

    kind: str
    prompt: str
    generator: str
    generator_id: str = ""


@dataclass(frozen=True)
class OriginSummary:
    """Profiles of one origin.

    Attributes
    ----------
    origin
        Which ones.
    entities, profiles
        Counts; an entity has several profiles where the settings differ.
    with_text, unmarked
        Profiles that have a text; and those of them that carry no mark, which are embedded by default.
    resolvable
        Names of this kind that the store was asked for and that lead to an entity, whichever run asked.
    covered, covered_unmarked
        Those of them that have a profile with text, and one without a mark, of this origin.
    characters, words
        Lengths of the texts; None without any. Words are separated by white space.
    finish_reasons
        Reason → profiles.
    marks
        Mark → profiles, and ``"ok"`` → those without.
    naming_itself
        Texts that name their own entity: symbol, alias, earlier symbol, full name or the name as given.
    near_duplicates
        Texts that are nearly another entity's; an entity with several is compared with the first, by key.
    words_each
        Words of each text, for a histogram; not in `to_dict`.
    """

    origin: Origin
    entities: int
    profiles: int
    with_text: int
    unmarked: int
    resolvable: int
    covered: int
    covered_unmarked: int
    characters: Lengths | None
    words: Lengths | None
    finish_reasons: dict[str, int]
    marks: dict[str, int]
    naming_itself: int
    near_duplicates: NearDuplicates
    words_each: tuple[int, ...]

    @property
    def coverage(self) -> float | None:
        """Return the share of the resolvable names with an unmarked profile; None where the store lists none."""
        return self.covered_unmarked / self.resolvable if self.resolvable else None

    @property
    def text_coverage(self) -> float | None:
        """Return the share of the resolvable names with a text, marked or not; None where the store lists none."""
        return self.covered / self.resolvable if self.resolvable else None

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON values, shares included."""
        values = asdict(self)
        del values["words_each"]
        values["near_duplicates"]["share"] = self.near_duplicates.share
        own = self.naming_itself / self.with_text if self.with_text else None
        shares = {"coverage": self.coverage, "text_coverage": self.text_coverage, "naming_itself_share": own}
        return {**values.pop("origin"), **values, **shares}


@dataclass(frozen=True)
class StoreSummary:
    """Names by kind and status, and a summary per origin, sorted by kind, prompt, generator and id."""

    names: dict[str, dict[str, int]]
    origins: tuple[OriginSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        return {"names": self.names, "origins": [o.to_dict() for o in self.origins]}


def summarise(
    entities: Sequence[ListedEntity], profiles: Sequence[Answer], *, threshold: float = THRESHOLD
) -> StoreSummary:
    """Count and measure the profiles of a store.

    Parameters
    ----------
    entities
        Names that the store was asked for.
    profiles
        All or some of its profiles.
    threshold
        Similarity from which two texts are near-duplicates, see `bftembed.profiles.duplicates.near_duplicates`.
    """
    names: dict[str, Counter[str]] = defaultdict(Counter)
    listed: dict[str, list[str]] = defaultdict(list)
    given: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in entities:
        names[entry.kind][entry.status] += 1
        given[entry.kind, entry.entity].append(entry.name)
        if entry.status in _RESOLVED:
            listed[entry.kind].append(entry.entity)
    known: dict[tuple[str, str], tuple[str, ...]] = {}
    for p in profiles:
        if (p.kind, p.entity) not in known:
            known[p.kind, p.entity] = (*names_of(p.kind, p.entity)[1], *given.get((p.kind, p.entity), ()))
    return StoreSummary(
        names={kind: dict(sorted(counts.items())) for kind, counts in sorted(names.items())},
        origins=tuple(
            _summary(origin, some, listed[origin.kind], known, threshold)
            for origin, some in by_origin(profiles).items()
        ),
    )


def by_origin(profiles: Sequence[Answer]) -> dict[Origin, list[Answer]]:
    """Return the profiles by origin: origins sorted by kind, prompt, generator and id, profiles by entity and key."""
    found: dict[Origin, list[Answer]] = defaultdict(list)
    for p in sorted(profiles, key=lambda p: (p.entity, p.key)):
        found[Origin(p.kind, p.prompt, p.generator, p.generator_id)].append(p)
    return dict(sorted(found.items(), key=lambda o: (o[0].kind, o[0].prompt, o[0].generator, o[0].generator_id)))


def origin_labels(origins: Sequence[Origin]) -> dict[Origin, str]:
    """Name origins by prompt and generator, and by the generator's id where several have the same spec."""
    specs = Counter((o.kind, o.prompt, o.generator) for o in origins)
    return {
        o: f"{o.prompt} by {o.generator}" + (f" ({o.generator_id})" if specs[o.kind, o.prompt, o.generator] > 1 else "")
        for o in origins
    }


def _summary(
    origin: Origin,
    profiles: list[Answer],
    listed: list[str],
    known: dict[tuple[str, str], tuple[str, ...]],
    threshold: float,
) -> OriginSummary:
    texts = [p for p in profiles if p.text.strip() and not p.error]
    unmarked = [p for p in texts if not p.marks]
    have, have_unmarked = {p.entity for p in texts}, {p.entity for p in unmarked}
    marks = Counter(mark for p in profiles for mark in p.marks)
    first = {p.entity: p.text for p in reversed(texts)}
    words_each = tuple(len(p.text.split()) for p in texts)
    return OriginSummary(
        origin=origin,
        entities=len({p.entity for p in profiles}),
        profiles=len(profiles),
        with_text=len(texts),
        unmarked=len(unmarked),
        resolvable=len(listed),
        covered=sum(entity in have for entity in listed),
        covered_unmarked=sum(entity in have_unmarked for entity in listed),
        characters=_lengths([len(p.text) for p in texts]),
        words=_lengths(words_each),
        finish_reasons=dict(sorted(Counter(p.finish_reason for p in profiles).items())),
        marks={"ok": sum(not p.marks for p in profiles), **dict(sorted(marks.items()))},
        naming_itself=sum(mentions(p.text, known[p.kind, p.entity]) for p in texts),
        near_duplicates=near_duplicates(first, {e: known[origin.kind, e] for e in first}, threshold=threshold),
        words_each=words_each,
    )


def _lengths(lengths: Sequence[int]) -> Lengths | None:
    if not lengths:
        return None
    low, median, high = (float(q) for q in np.quantile(lengths, [0.05, 0.5, 0.95]))
    return Lengths(median, low, high, min(lengths), max(lengths))
