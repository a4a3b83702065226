"""What a run is asked for: a list of names becomes entities and requests, a few thousand at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bftembed.entities.lists import NameList, read_names
from bftembed.errors import BftembedError, examples, unknown_name
from bftembed.profiles.keys import profile_key
from bftembed.profiles.kinds import KINDS, Subject, listed, subject_of
from bftembed.profiles.records import Request

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from bftembed.profiles.prompts import Prompt
    from bftembed.profiles.shards import Shard
    from bftembed.profiles.store import ListedEntity

UNKNOWN = ("skip", "keep", "error")
#: Names that are looked up, and asked of the store, at a time.
_NAMES_AT_ONCE = 2048


def check_kind(kind: str) -> None:
    """Refuse a kind that is not known."""
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)


class Wanted:
    """The entities of a list, each once, a few thousand at a time.

    Attributes
    ----------
    total
        Names that will be profiled, entities counted as often as they are named.
    statuses
        Status → number of names.
    skipped
        Names that are left out because they could not be resolved.
    n_names, duplicates
        Different names; names that came again, or that meant an entity already listed as far as it was gone through.
    """

    def __init__(self, names: NameList, kind: str, unknown: str, shard: Shard, limit: int | None) -> None:
        self._names, self._kind, self._keep, self._shard, self._limit = (
            names.names,
            kind,
            unknown == "keep",
            shard,
            limit,
        )
        self.statuses: Counter[str] = Counter()
        self.skipped: list[str] = []
        self.n_names, self.duplicates, self.total = len(names.names), sum(names.duplicates.values()), 0
        unresolved = []
        for entries in self._listed():
            self.statuses.update(e.status for e in entries)
            unresolved += [] if self._keep else [e.name for e in entries if not _resolved(e)]
            self.total += sum((self._keep or _resolved(e)) and e.entity in shard for e in entries)
        self.total = min(self.total, limit or self.total)
        if unresolved and unknown == "error":
            raise BftembedError(
                f"{len(unresolved)} of {self.n_names} names cannot be resolved: {examples(unresolved)}. "
                "Mend them (bftembed genes resolve shows why), or choose to skip or keep them."
            )
        if len(unresolved) == self.n_names and not self._keep:
            raise BftembedError(
                f"None of the {self.n_names} names is a known {kind}: {examples(unresolved)}. "
                "bftembed genes resolve shows why; --unknown keep profiles names as they are."
            )
        self.skipped = unresolved

    @classmethod
    def of(
        cls,
        genes: str | os.PathLike[str] | Sequence[str],
        *,
        kind: str,
        column: str | None,
        unknown: str,
        shard: Shard,
        limit: int | None,
    ) -> Wanted:
        """Read a list; the parameters are those of `bftembed.profiles.runner.generate_profiles`."""
        check_kind(kind)
        if unknown not in UNKNOWN:
            raise unknown_name("unknown", unknown, UNKNOWN)
        if limit is not None and limit < 1:
            raise BftembedError(f"limit (--limit) is {limit}; give 1 or more.")
        return cls(read_names(genes, column=column), kind, unknown, shard, limit)

    def _listed(self) -> Iterator[list[ListedEntity]]:
        for start in range(0, len(self._names), _NAMES_AT_ONCE):
            yield listed(self._names[start : start + _NAMES_AT_ONCE], self._kind)

    def parts(self) -> Iterator[tuple[list[ListedEntity], list[Subject]]]:
        """Yield every listed name, and the entities among them that are new."""
        seen: set[int] = set()  # hashes: a tenth of the memory of the names, and 64 bits hardly ever meet
        n = 0
        for entries in self._listed():
            subjects = []
            for entry in entries:
                if not (self._keep or _resolved(entry)) or entry.entity not in self._shard:
                    continue
                if hash(entry.entity) in seen:
                    self.duplicates += 1
                elif self._limit is None or n < self._limit:
                    seen.add(hash(entry.entity))
                    subjects.append(subject_of(entry))
                    n += 1
            yield entries, subjects


def _resolved(entry: ListedEntity) -> bool:
    return entry.status in ("used", "mapped")


@dataclass
class Asked:
    """A request with what is needed to judge the answer."""

    request: Request
    names: tuple[str, ...]


def asked_of(
    subjects: list[Subject], template: Prompt, fingerprint: dict[str, Any], context: Mapping[str, str]
) -> dict[str, Asked]:
    """Return key → request of some entities."""
    asked = {}
    for subject in subjects:
        messages = template.messages(subject.entity, subject.genes, context.get(subject.entity, ""))
        key = profile_key(entity=subject.entity, kind=template.kind, messages=messages, fingerprint=fingerprint)
        asked[key] = Asked(Request(key, messages, subject.entity, template.kind), subject.names)
    return asked
