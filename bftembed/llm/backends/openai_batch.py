"""Chat completions over the Batch API: cheaper, within a day, and never paid twice when a run is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from bftembed.errors import BftembedError
from bftembed.io import canonical_json, sha256_text
from bftembed.llm.api_client import NotFoundFault, RequestFault, said_in
from bftembed.llm.backends.openai import OpenAI
from bftembed.llm.base import Capabilities, Completion, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Limits of one batch: requests, and bytes of its file (the service takes 200 MB).
MAX_REQUESTS = 50_000
MAX_BYTES = 190_000_000

_ENDPOINT = "/v1/chat/completions"
_ENDED = ("completed", "failed", "expired", "cancelled")
#: The service deletes the files of a batch after 30 days.
_KEPT_SECONDS = 30 * 86_400


@dataclass(eq=False)
class OpenAIBatch(OpenAI):
    """Chat completions in batches that a server works through within 24 hours.

    Parameters
    ----------
    model, base_url, token_parameter, thinking, template, extra, timeout, max_retries
        As for `bftembed.llm.backends.openai.OpenAI`; the last two are of single calls to the service.
    poll
        Seconds between two looks at a batch.

    Notes
    -----
    A batch bears a mark of its model, and each request in it one of its key and attempt. The run after one that was
    killed finds them among the service's batches and collects them; a retried item (``--retry-failed``) is another
    request. A batch with more tokens than the account may enqueue is split in half until it fits; what an expired
    batch did not answer is submitted again.
    """

    engine: ClassVar[str] = "openai-batch"

    concurrency: int = field(default=1, init=False)
    poll: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # The runner gives a backend 16 batches at once: together one batch of the service.
        self.batch_size = MAX_REQUESTS // 16
        self._mark = sha256_text(canonical_json(self.fingerprint()))[:32]

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
        missing = {sha256_text(f"{request.id}:{request.attempt}"): request for request in requests}
        try:
            waiting = await self._submitted(client, missing)
            # All at once, so that a run that is killed finds every batch again.
            waiting += [(await self._submit(client, part), part) for part in self._parts(missing)]
            while waiting:
                identifier, part = waiting.pop(0)
                # Halves one after the other, since the limit is of all that is enqueued.
                waiting[:0] = [("", again) for again in await self._collect(client, identifier, part, put)]
        except RequestFault as fault:
            raise BftembedError(
                f"openai-batch: {fault}. The run stops; what was submitted goes on at the server, and the same command "
                "collects it."
            ) from None

    async def _submitted(self, client: Any, missing: dict[str, Request]) -> list[tuple[str, dict[str, Request]]]:
        """Return the batches of earlier runs with what they hold of the requests, which are no longer missing."""
        found: list[tuple[str, dict[str, Request]]] = []
        after: dict[str, str] = {}
        while missing:
            page = await self.json(client.batches.with_raw_response.list(limit=100, **after))
            for batch in page["data"]:
                ours = (batch.get("metadata") or {}).get("bftembed") == self._mark and batch["status"] != "failed"
                if ours and batch["created_at"] > time.time() - _KEPT_SECONDS:
                    # What a batch that has ended did not answer is submitted again.
                    file = "output_file_id" if batch["status"] in _ENDED else "input_file_id"
                    lines = await self._lines(client, batch, file)
                    part = {n: missing.pop(n) for n in (line["custom_id"] for line in lines) if n in missing}
                    found += [(batch["id"], part)] if part else []
                after = {"after": batch["id"]}
            if not page.get("has_more"):
                break
        return found

    def _parts(self, requests: dict[str, Request]) -> Iterator[dict[str, Request]]:
        part: dict[str, Request] = {}
        size = 0
        for name, request in requests.items():
            more = len(self._line(name, request))
            if part and (len(part) >= MAX_REQUESTS or size + more > MAX_BYTES):
                yield part
                part, size = {}, 0
            part[name] = request
            size += more
        if part:
            yield part

    def _line(self, name: str, request: Request) -> bytes:
        call = {"custom_id": name, "method": "POST", "url": _ENDPOINT, "body": self._body(request)}
        return json.dumps(call).encode() + b"\n"

    async def _submit(self, client: Any, part: dict[str, Request]) -> str:
        file = ("bftembed.jsonl", b"".join(self._line(name, request) for name, request in part.items()))
        uploaded = await self.json(client.files.with_raw_response.create(file=file, purpose="batch"))
        # Not retried: where the answer is lost, the next run finds the batch, and a second one is not paid for.
        batches = client.with_options(max_retries=0).batches.with_raw_response
        batch = await self.json(
            batches.create(
                input_file_id=uploaded["id"],
                endpoint=_ENDPOINT,
                completion_window="24h",
                metadata={"bftembed": self._mark},
            )
        )
        return str(batch["id"])

    async def _collect(
        self, client: Any, identifier: str, part: dict[str, Request], put: Callable[[Completion], None]
    ) -> list[dict[str, Request]]:
        """Wait for a batch, put its completions, and return what is to be submitted again."""
        identifier = identifier or await self._submit(client, part)
        batch: dict[str, Any] = {"status": ""}
        while batch["status"] not in _ENDED:
            await asyncio.sleep(self.poll if batch["status"] else 0)
            batch = await self.json(client.batches.with_raw_response.retrieve(identifier))
        left = dict(part)
        files = ("output_file_id",) if batch["status"] == "expired" else ("output_file_id", "error_file_id")
        for line in await self._lines(client, batch, *files):
            if request := left.pop(str(line.get("custom_id")), None):
                put(self._read(request, line))
        errors = (batch.get("errors") or {}).get("data") or [{}]
        if len(left) > 1 and any(error.get("code") == "token_limit_exceeded" for error in errors):
            names, half = list(left), (len(left) + 1) // 2
            return [{name: left[name] for name in some} for some in (names[:half], names[half:])]
        if batch["status"] == "expired" and 0 < len(left) < len(part):
            return [left]
        error = f"the batch {identifier} gave no answer for it ({batch['status']})"
        for request in left.values():
            why = f": {errors[0]['message']}" if errors[0].get("message") else ""
            put(Completion(request.id, finish_reason="error", error=error + why))
        return []

    async def _lines(self, client: Any, batch: dict[str, Any], *files: str) -> list[dict[str, Any]]:
        """Return the lines of files of a batch that the service still keeps."""
        found = []
        for name in filter(batch.get, files):
            with contextlib.suppress(NotFoundFault):
                text = await self.text(client.files.content(batch[name]))
                # Not splitlines: JSON may hold other line separators as they are.
                found += [json.loads(line) for line in text.split("\n") if line.strip()]
        return found

    def _read(self, request: Request, line: dict[str, Any]) -> Completion:
        response = line.get("response") or {}
        body, status = response.get("body") or {}, response.get("status_code") or "an error"
        error = f"the batch answered {status}: {said_in(line.get('error') or body)[0]}"
        if status == 200:
            try:
                return self._completion(request, body)
            except RequestFault as fault:
                error = str(fault)
        return Completion(request.id, finish_reason="error", error=error)
