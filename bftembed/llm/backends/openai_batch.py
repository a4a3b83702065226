"""Chat completions over the Batch API: cheaper, within a day, and never paid twice when a run is killed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from bftembed.errors import BftembedError
from bftembed.io import exclusive_lock, write_json
from bftembed.llm.backends.openai import OpenAI
from bftembed.llm.base import Capabilities, Completion
from bftembed.llm.models import cache_folder
from bftembed.llm.server import ItemFault, NotFoundFault, TransientFault, said_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from bftembed.llm.base import Request

#: Limits of one batch: requests, and bytes of its file (the service takes 200 MB).
MAX_REQUESTS = 50_000
MAX_BYTES = 190_000_000

_ENDPOINT = "/v1/chat/completions"
_FRUITLESS = ("failed", "expired", "cancelled")
#: The service deletes the files of a batch after 30 days.
_KEPT_SECONDS = 30 * 86_400


@dataclass(eq=False)
class OpenAIBatch(OpenAI):
    """Chat completions in batches that a server works through within 24 hours.

    Parameters
    ----------
    model, base_url, token_parameter, thinking, template, extra, timeout, attempts, backoff
        As for `bftembed.llm.backends.openai.OpenAI`; the last three are of single calls to the service, not of the
        batch.
    poll
        Seconds between two looks at the batches.

    Notes
    -----
    Before a batch is submitted, a note of its requests is written (in ``openai-batch`` of the cache folder), and the
    batch bears the note's name. A run that is killed finds it by the note, even when it was killed before the answer
    to its submission came. A retried item (``--retry-failed``) is another request, and is submitted anew. A batch with
    more tokens than the account may enqueue is split in half until it fits.
    """

    engine: ClassVar[str] = "openai-batch"

    concurrency: int = field(default=1, init=False)
    poll: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # The runner gives a backend 16 batches at once: together one batch of the service.
        self.batch_size = MAX_REQUESTS // 16
        self._notes = cache_folder() / "openai-batch"

    def capabilities(self) -> Capabilities:
        """Return chat and schemas; a model that knows no schema fails its requests."""
        return Capabilities(schema=True)

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Submit what was not submitted before, wait, and yield the completions batch by batch.

        Requests without an answer in the output of their batch are error completions. A service that stays away ends
        the run; what was submitted goes on there, and the next run collects it.
        """
        return self.stream(self._work, [requests], 1)

    async def _work(self, client: Any, put: Callable[[Completion], None], requests: Sequence[Request]) -> None:
        try:
            await self._wait(client, await self._submitted(client, requests), put)
        except (TransientFault, ItemFault, NotFoundFault) as fault:
            raise BftembedError(
                f"openai-batch: {fault}. The run stops; what was submitted goes on at the server, and the same command "
                f"collects it, with the same key. Delete its notes in {self._notes} to give it up."
            ) from None

    async def _submitted(self, client: Any, requests: Sequence[Request]) -> list[tuple[_Note, list[Request]]]:
        """Return the batches of earlier runs, and new ones of what they do not hold, each with its wanted requests."""
        missing = {(request.id, request.attempt): request for request in requests}
        waiting = []
        with exclusive_lock(self._notes / ".lock", holder=f"the batches noted in {self._notes}"):
            for note in _read_notes(self._notes):
                wanted = [name for name in note.requests if name in missing]
                if wanted and (note.batch or await self._find(client, note)):
                    waiting.append((note, [missing.pop(name) for name in wanted]))
                elif wanted:
                    note.path.unlink()
            # All at once, so that a run that is killed finds every batch again.
            for part in self._parts(missing.values(), MAX_REQUESTS):
                waiting.append((await self._submit(client, part), [request for request, _ in part]))
        return waiting

    async def _wait(
        self, client: Any, waiting: list[tuple[_Note, list[Request]]], put: Callable[[Completion], None]
    ) -> None:
        """Collect every batch when it has ended; what is too large for the account is submitted in halves."""
        most = MAX_REQUESTS
        too_large: list[Request] = []
        while waiting or too_large:
            if not waiting:
                # One after the other, since the limit is of all that is enqueued.
                part = next(self._parts(too_large, most))
                del too_large[: len(part)]
                waiting.append((await self._submit(client, part), [request for request, _ in part]))
            for note, wanted in list(waiting):
                look = functools.partial(client.batches.with_raw_response.retrieve, note.batch)
                batch = await self.ask(look, self.json)
                if batch["status"] not in (*_FRUITLESS, "completed"):
                    continue
                waiting.remove((note, wanted))
                if batch["status"] in _FRUITLESS:
                    note.path.unlink(missing_ok=True)
                if len(wanted) > 1 and any(error.get("code") == "token_limit_exceeded" for error in _errors(batch)):
                    most = (len(wanted) + 1) // 2
                    too_large += wanted
                else:
                    await self._collect(client, batch, wanted, put)
            if waiting:
                await asyncio.sleep(self.poll)

    def _parts(self, requests: Iterable[Request], most: int) -> Iterator[list[tuple[Request, bytes]]]:
        """Yield the requests of each batch with their lines of its file."""
        part: list[tuple[Request, bytes]] = []
        size = 0
        for request in requests:
            call = {"custom_id": request.id, "method": "POST", "url": _ENDPOINT, "body": self.body(request)}
            line = json.dumps(call).encode() + b"\n"
            if part and (len(part) >= most or size + len(line) > MAX_BYTES):
                yield part
                part, size = [], 0
            part.append((request, line))
            size += len(line)
        if part:
            yield part

    async def _submit(self, client: Any, part: list[tuple[Request, bytes]]) -> _Note:
        names = [(request.id, request.attempt) for request, _ in part]
        note = _Note(self._notes / f"{uuid.uuid4().hex}.json", names, time.time())
        note.write()
        file = ("bftembed.jsonl", b"".join(line for _, line in part))
        uploaded = await self.ask(lambda: client.files.with_raw_response.create(file=file, purpose="batch"), self.json)

        async def create() -> Any:
            # The answer to an earlier try may have been lost: a second batch would be paid for too.
            if await self._find(client, note):
                return await client.batches.with_raw_response.retrieve(note.batch)
            return await client.batches.with_raw_response.create(
                input_file_id=uploaded["id"],
                endpoint=_ENDPOINT,
                completion_window="24h",
                metadata={"bftembed": note.path.stem},
            )

        note.batch = (await self.ask(create, self.json))["id"]
        note.write()
        return note

    async def _find(self, client: Any, note: _Note) -> bool:
        """Look among the service's batches for that of a note, and write it down."""
        page: dict[str, Any] = {"has_more": True}
        after: dict[str, str] = {}
        while page.get("has_more"):
            list_page = functools.partial(client.batches.with_raw_response.list, limit=100, **after)
            page = await self.ask(list_page, self.json)
            for batch in page["data"]:
                if (batch.get("metadata") or {}).get("bftembed") == note.path.stem and batch[
                    "status"
                ] not in _FRUITLESS:
                    note.batch = batch["id"]
                    note.write()
                    return True
                # Newest first; a day's allowance for clocks that differ.
                if batch["created_at"] < note.created - 86_400:
                    return False
                after = {"after": batch["id"]}
        return False

    async def _collect(
        self, client: Any, batch: dict[str, Any], wanted: list[Request], put: Callable[[Completion], None]
    ) -> None:
        def lines(text: str) -> list[dict[str, Any]]:
            # Not splitlines: JSON may hold other line separators as they are.
            return [self.json(line) for line in text.split("\n") if line.strip()]

        left = {request.id: request for request in wanted}
        for file in filter(None, (batch.get("output_file_id"), batch.get("error_file_id"))):
            with contextlib.suppress(NotFoundFault):  # no longer kept
                # A file that cannot be read is fetched again: an answer that is left out would be paid for twice.
                for line in await self.ask(functools.partial(client.files.content, file), lines):
                    if request := left.pop(str(line.get("custom_id")), None):
                        put(self._completion(request, line))
        error = f"the batch {batch['id']} gave no answer for it ({batch['status']})"
        error += "".join(f": {found.get('message')}" for found in _errors(batch)[:1])
        for name in left:
            put(Completion(name, finish_reason="error", error=error))

    def _completion(self, request: Request, line: dict[str, Any]) -> Completion:
        response = line.get("response") or {}
        body, status = response.get("body") or {}, response.get("status_code") or "an error"
        try:
            if status == 200:
                return self.completion(request, body)
            error = f"the batch answered {status}: {said_in(line.get('error') or body)[0]}"
        except (TransientFault, ItemFault) as fault:
            error = str(fault)
        return Completion(request.id, finish_reason="error", error=error)


def _errors(batch: dict[str, Any]) -> list[dict[str, Any]]:
    return (batch.get("errors") or {}).get("data") or []


@dataclass
class _Note:
    """What was submitted: requests (key, attempt), when (Unix time), and the batch, once known. Named by its file."""

    path: Path
    requests: list[tuple[str, int]]
    created: float
    batch: str = ""

    def write(self) -> None:
        write_json(self.path, {"requests": self.requests, "created": self.created, "batch": self.batch})


def _read_notes(folder: Path) -> list[_Note]:
    """Return the notes of a folder, oldest first; those whose files the service no longer keeps are removed."""
    notes = []
    for path in folder.glob("*.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["created"] < time.time() - _KEPT_SECONDS:
            path.unlink(missing_ok=True)
        else:
            requests = [(key, attempt) for key, attempt in values["requests"]]
            notes.append(_Note(path, requests, values["created"], values["batch"]))
    return sorted(notes, key=lambda note: note.created)
