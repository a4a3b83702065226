"""Estimates of the profiles, tokens and time of a run that was not made."""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from bftembed.io import canonical_json, sha256_text, write_json
from bftembed.llm.models import cache_folder
from bftembed.llm.store import STORE_FILE, AnswerStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from bftembed.llm.base import Request

#: Seconds below which a run is mostly loading, so that a larger one is not estimated from it.
_START_UP = 10


@dataclass(frozen=True)
class Estimate:
    """A run that was not made.

    Attributes
    ----------
    entities, already_stored, to_write
        Entities of the list, those whose profile is stored, and the rest.
    prompt_tokens, most_completion_tokens
        Of the rest: from 4 characters per token; and were every answer as long as allowed (None: without a limit).
    seconds
        Time to write the rest, see `expected_seconds`.
    """

    entities: int
    already_stored: int
    to_write: int
    prompt_tokens: int
    most_completion_tokens: int | None
    seconds: float | None = None


def estimate(requests: Iterator[Request], fingerprint: Mapping[str, Any], out: Path) -> Estimate:
    """Count what `bftembed.profiles.generate.generate_profiles` would write; nothing is generated or written."""
    entities = stored = tokens = 0
    with AnswerStore.open(out) if (out / STORE_FILE).exists() else nullcontext() as store:
        while part := list(islice(requests, 2048)):
            known = store.outcomes([request.id for request in part]) if store else {}
            entities, stored = entities + len(part), stored + len(known)
            # A message has about 4 tokens more than its text.
            tokens += sum(len(m["content"]) // 4 + 4 for r in part if r.id not in known for m in r.messages)
    rest, sampling = entities - stored, fingerprint.get("sampling")
    most = sampling["max_new_tokens"] * rest if sampling else None
    return Estimate(entities, stored, rest, tokens, most, expected_seconds(fingerprint, rest))


def record_seconds(kind: Any, items: int, seconds: float) -> None:
    """Keep the time of a run that is no smaller than the recorded one of its kind (JSON values), for estimates."""
    if items > 0 and items >= _recorded(kind)[0]:
        with suppress(OSError):
            write_json(_record(kind), [items, seconds])


def expected_seconds(kind: Any, items: int) -> float | None:
    """Return the time of `items` in proportion to the recorded run; None where there is none, or too short a one."""
    n, seconds = _recorded(kind)
    if items and (not n or (items > n and seconds < _START_UP)):
        return None
    return seconds * items / n if items else 0.0


def _recorded(kind: Any) -> tuple[int, float]:
    try:
        n, seconds = json.loads(_record(kind).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0, 0.0
    return n, seconds


def _record(kind: Any) -> Path:
    return cache_folder() / "seconds" / f"{sha256_text(canonical_json(kind))[:16]}.json"
