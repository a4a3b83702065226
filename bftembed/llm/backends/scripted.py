"""A model without weights, for tests and rehearsals: delays, faults and bad texts on demand."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from bftembed.errors import BftembedError
from bftembed.io import sha256_text
from bftembed.llm.base import Capabilities, Completion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bftembed.llm.base import Request


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

    sampling = None

    def __init__(
        self,
        delay: float = 0.0,
        fail: float = 0.0,
        refuse: float = 0.0,
        loop: float = 0.0,
        empty: float = 0.0,
        truncate: float = 0.0,
        off_topic: float = 0.0,
        fail_attempts: int = 0,
        crash_after: int = 0,
        seed: int = 0,
        batch: int = 8,
        log: str = "",
    ) -> None:
        shares = {"fail": fail, "refuse": refuse, "loop": loop, "empty": empty, "truncate": truncate}
        shares["off_topic"] = off_topic
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise BftembedError(f"scripted: {name}={share} is not a share between 0 and 1.")
        if sum(shares.values()) > 1:
            raise BftembedError(f"scripted: the shares add up to {sum(shares.values()):.2f}, more than 1.")
        if batch < 1 or delay < 0:
            raise BftembedError(f"scripted: batch={batch} must be at least 1, and delay={delay} not negative.")
        self.batch_size = batch
        self._shares = shares
        self._delay, self._seed, self._log = delay, seed, log
        self._fail_attempts, self._crash_after = fail_attempts, crash_after
        self._written = 0

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the texts; delay, batch size, crashes and failures do not."""
        bad = {name: share for name, share in self._shares.items() if name != "fail"}
        return {"engine": "scripted", "seed": self._seed, **bad}

    def capabilities(self) -> Capabilities:
        """Return all: an answer to a schema is a JSON object, and the first option is the most likely."""
        return Capabilities(options=True, schema=True)

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield a completion per request, in order."""
        for request in requests:
            if self._crash_after and self._written >= self._crash_after:
                raise RuntimeError(f"scripted crash after {self._written} items")
            if self._delay:
                time.sleep(self._delay)
            if self._log:
                self._append(_entity(request))
            self._written += 1
            yield self._write(request)

    def _append(self, entity: str) -> None:
        handle = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, f"{entity}\n".encode())
        finally:
            os.close(handle)

    def _write(self, request: Request) -> Completion:
        name = _entity(request)
        digest = sha256_text(f"{self._seed}:{name}" + (f":{request.sample}" if request.sample else ""))
        fate = self._fate(int(digest[:12], 16) / 16**12)
        text = f"{name} is written by a script. Its number is {int(digest[12:20], 16)}; nothing here is biology."
        if fate == "fail" and (self._fail_attempts == 0 or request.attempt <= self._fail_attempts):
            error = f"scripted failure (attempt {request.attempt})"
            return Completion(request.id, finish_reason="error", error=error)
        if fate == "refuse":
            text = f"I'm sorry, but I cannot provide information about {name}."
        elif fate == "loop":
            text = f"{name} is a gene. " * 12
        elif fate == "empty":
            text = "<think>I wonder what to say.</think>\n"
        elif fate == "off_topic":
            text = "The weather is fine today, and nothing else is worth a word."
        reason = "length" if fate == "truncate" else "stop"
        if request.options:
            scores = tuple(-float(i + 1) for i, _ in enumerate(request.options))
            return Completion(request.id, prompt_tokens=len(name), scores=scores)
        if request.schema:
            text = json.dumps({"text": text})
        return Completion(request.id, text, "", reason, len(name), len(text.split()))

    def _fate(self, draw: float) -> str:
        for name, share in self._shares.items():
            if draw < share:
                return name
            draw -= share
        return ""


def _entity(request: Request) -> str:
    return request.metadata.get("entity", request.id)
