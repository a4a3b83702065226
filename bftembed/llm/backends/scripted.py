"""A model without weights, for tests and rehearsals: delays, faults and bad texts on demand."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bftembed.errors import BftembedError
from bftembed.io import sha256_text
from bftembed.llm.base import Capabilities, Completion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bftembed.llm.base import Request

#: Shares of items that come out bad, in the order in which a draw meets them.
_FATES = ("fail", "refuse", "loop", "empty", "truncate", "off_topic")


@dataclass(eq=False)
class Scripted:
    """Writes a text that depends on the entity and the seed alone.

    Parameters
    ----------
    delay
        Seconds per item.
    fail, refuse, loop, empty, truncate, off_topic
        Share of items (0 to 1), chosen by a hash of the entity, that fail or come out bad.
    fail_attempts
        How many tries of a failing item fail before it succeeds; 0 means that it always fails.
    crash_after
        Raise after so many items (0: never), as an engine that dies would.
    seed
        Another seed chooses other items and writes other texts.
    batch
        Batch size.
    log
        File to which every generated entity is appended, a line each, before it is yielded.
    """

    sampling: ClassVar[None] = None

    delay: float = 0.0
    fail: float = 0.0
    refuse: float = 0.0
    loop: float = 0.0
    empty: float = 0.0
    truncate: float = 0.0
    off_topic: float = 0.0
    fail_attempts: int = 0
    crash_after: int = 0
    seed: int = 0
    batch: int = 8
    log: str = ""

    def __post_init__(self) -> None:
        self._shares = {name: getattr(self, name) for name in _FATES}
        if min(self._shares.values()) < 0 or sum(self._shares.values()) > 1:
            raise BftembedError(f"scripted: the shares {self._shares} must be in [0, 1] and add up to 1 at most.")
        self.batch_size = self.batch
        self._written = 0

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the texts; delay, batch size, crashes and failures do not."""
        return {"engine": "scripted", "seed": self.seed} | {n: s for n, s in self._shares.items() if n != "fail"}

    def capabilities(self) -> Capabilities:
        """Return all: an answer to a schema is a JSON object, and the first option is the most likely."""
        return Capabilities(options=True, schema=True)

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield a completion per request, in order."""
        for request in requests:
            if self.crash_after and self._written >= self.crash_after:
                raise RuntimeError(f"scripted crash after {self._written} items")
            if self.delay:
                time.sleep(self.delay)
            name = request.metadata.get("entity", request.id)
            if self.log:
                with Path(self.log).open("a", encoding="utf-8") as log:
                    log.write(f"{name}\n")
            self._written += 1
            yield self._write(request, name)

    def _write(self, request: Request, name: str) -> Completion:
        digest = sha256_text(f"{self.seed}:{name}" + (f":{request.sample}" if request.sample else ""))
        draw, fate = int(digest[:12], 16) / 16**12, ""
        for fate, share in self._shares.items():  # noqa: B007 - used after the loop
            if draw < share:
                break
            draw -= share
        else:
            fate = ""
        if fate == "fail" and (self.fail_attempts == 0 or request.attempt <= self.fail_attempts):
            error = f"scripted failure (attempt {request.attempt})"
            return Completion(request.id, finish_reason="error", error=error)
        if request.options:
            scores = tuple(-float(i + 1) for i, _ in enumerate(request.options))
            return Completion(request.id, prompt_tokens=len(name), scores=scores)
        text = {
            "refuse": f"I'm sorry, but I cannot provide information about {name}.",
            "loop": f"{name} is a gene. " * 12,
            "empty": "<think>I wonder what to say.</think>\n",
            "off_topic": "The weather is fine today, and nothing else is worth a word.",
        }.get(fate, f"{name} is written by a script. Its number is {int(digest[12:20], 16)}; nothing here is biology.")
        if request.schema:
            text = json.dumps({"text": text})
        reason = "length" if fate == "truncate" else "stop"
        return Completion(request.id, text, "", reason, len(name), len(text.split()))
