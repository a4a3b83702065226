"""Profiles over the Batch API: cheaper, within a day, and never paid twice when the run is killed in between."""

from __future__ import annotations

import functools
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity

from bftembed.errors import BftembedError
from bftembed.io import canonical_json, exclusive_lock, sha256_text, write_json
from bftembed.llm.backends.openai import ChatServer
from bftembed.llm.base import Capabilities, Completion
from bftembed.llm.models import cache_folder
from bftembed.llm.server import ItemFault, TransientFault, said_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bftembed.llm.base import Request

_T = TypeVar("_T")

#: Limits of one batch: requests, and bytes of its file (the service takes 200 MB).
MAX_REQUESTS = 50_000
MAX_BYTES = 190_000_000

_ENDPOINT = "/v1/chat/completions"
_FRUITLESS = ("failed", "expired", "cancelled")
#: The service deletes the files of a batch after 30 days.
_KEPT_SECONDS = 30 * 86_400
#: The runner gives a generator 16 batches at once: together one batch of the service.
_RUNNER_BATCH = MAX_REQUESTS // 16


class OpenAIBatch:
    """Chat completions in batches that a server works through within 24 hours.

    Parameters
    ----------
    model, base_url, token_parameter, thinking, template, extra, timeout, attempts, backoff
        As for `bftembed.llm.backends.openai.OpenAI`; the last three are of single calls to the service, not of the
        batch.
    poll
        Seconds between two looks at the batches.
    state
        Folder of the notes of what was submitted; empty takes ``openai-batch`` in the cache folder.

    Notes
    -----
    Before a batch is submitted, a note of its requests is written; the batch bears the note's name. A run that is
    killed finds it by the note, even when it was killed before the answer to its submission came. A retried item
    (``--retry-failed``) is another request, and is submitted anew.
    """

    batch_size = _RUNNER_BATCH

    def __init__(
        self,
        model: str,
        poll: float = 60.0,
        timeout: float = 120.0,
        attempts: int = 6,
        backoff: float = 1.0,
        base_url: str = "",
        token_parameter: str = "auto",
        thinking: str = "auto",
        template: dict[str, Any] | None = None,
        extra: dict[str, Any] | None = None,
        state: str = "",
    ) -> None:
        if poll <= 0 or timeout <= 0:
            raise BftembedError(f"openai-batch: poll={poll} and timeout={timeout} must be above 0 seconds.")
        self._server = ChatServer(
            "openai-batch",
            model,
            base_url=base_url,
            token_parameter=token_parameter,
            attempts=attempts,
            backoff=backoff,
            thinking=thinking,
            template=template,
            extra=extra,
        )
        self._poll, self._timeout = poll, timeout
        self._notes = Path(state).expanduser() if state else cache_folder() / "openai-batch"

    def fingerprint(self) -> dict[str, Any]:
        """Return engine, model, server and options; nothing is asked of the server."""
        return self._server.fingerprint()

    def capabilities(self) -> Capabilities:
        """Return chat and schemas; a model that knows no schema fails its requests."""
        return Capabilities(schema=True)

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Submit what was not submitted before, wait, and yield the completions batch by batch.

        Requests of a batch that failed, expired or was cancelled, and those that its output leaves out, are error
        completions.

        Raises
        ------
        BftembedError
            For what would fail every request, or a service that stays away; what was submitted goes on there, and
            the next run collects it.
        """
        if not requests:
            return
        client = self._server.library.OpenAI(
            base_url=self._server.url, api_key=self._server.key(), max_retries=0, timeout=self._timeout
        )
        by_id = {request.id: request for request in requests}
        most = MAX_REQUESTS
        with client:
            lock = exclusive_lock(self._notes / ".lock", holder=f"the batches noted in {self._notes}")
            with lock:
                waiting, missing = self._submitted(client, requests)
                # All at once, so that a run that is killed finds every batch again.
                waiting += self._submit_parts(client, missing, most)
            missing = []
            while waiting or missing:
                if missing and not waiting:
                    with lock:
                        waiting = self._submit_parts(client, missing[:most], most)
                    missing = missing[most:]
                for note, ids in list(waiting):
                    batch = self._batch(client, note)
                    if batch["status"] not in (*_FRUITLESS, "completed"):
                        continue
                    waiting.remove((note, ids))
                    if batch["status"] in _FRUITLESS:
                        note.path(self._notes).unlink(missing_ok=True)
                    if _is_too_large(batch) and len(ids) > 1:
                        # The account takes fewer tokens at once: half of it, and the rest when that is done.
                        most = (len(ids) + 1) // 2
                        missing += [by_id[one] for one in ids]
                        continue
                    yield from self._collected(client, batch, {one: by_id[one] for one in ids})
                if waiting:
                    time.sleep(self._poll)

    def _submitted(
        self, client: Any, requests: Sequence[Request]
    ) -> tuple[list[tuple[_Note, list[str]]], list[Request]]:
        """Return the batches of earlier runs, each with the requests that are wanted of it; and the other requests."""
        missing = {(request.id, request.attempt): request for request in requests}
        waiting = []
        for note in _read_notes(self._notes):
            wanted = [name for name in note.requests if name in missing]
            if wanted and not note.batch:
                note = self._found_again(client, note)
            if wanted and note.batch:
                waiting.append((note, [missing.pop(name).id for name in wanted]))
            elif wanted:
                note.path(self._notes).unlink()
        return waiting, list(missing.values())

    def _submit_parts(self, client: Any, requests: list[Request], most: int) -> list[tuple[_Note, list[str]]]:
        submitted = []
        for part, lines in self._parts(requests, most):
            note = _Note(tuple((r.id, r.attempt) for r in part), self._server.shown, time.time())
            note.write(self._notes)
            submitted.append((self._submit(client, note, lines), [request.id for request in part]))
        return submitted

    def _parts(self, requests: list[Request], most: int) -> Iterator[tuple[list[Request], bytes]]:
        part: list[Request] = []
        lines: list[bytes] = []
        size = 0
        for request in requests:
            call = {"custom_id": request.id, "method": "POST", "url": _ENDPOINT, "body": self._server.body(request)}
            line = json.dumps(call).encode() + b"\n"
            if part and (len(part) >= most or size + len(line) > MAX_BYTES):
                yield part, b"".join(lines)
                part, lines, size = [], [], 0
            part.append(request)
            lines.append(line)
            size += len(line)
        if part:
            yield part, b"".join(lines)

    def _submit(self, client: Any, note: _Note, lines: bytes) -> _Note:
        file = ("bftembed.jsonl", lines)
        uploaded = self._asked(lambda: client.files.with_raw_response.create(file=file, purpose="batch"), "id")
        tries = 0

        def create() -> Any:
            nonlocal tries
            tries += 1
            # The connection may have been cut after the batch was made: a second one would be paid for too.
            if tries > 1 and (found := self._found_again(client, note)).batch:
                return client.batches.with_raw_response.retrieve(found.batch)
            return client.batches.with_raw_response.create(
                input_file_id=uploaded["id"],
                endpoint=_ENDPOINT,
                completion_window="24h",
                metadata={"bftembed": note.name},
            )

        note = replace(note, batch=self._asked(create, "id")["id"])
        note.write(self._notes)
        return note

    def _found_again(self, client: Any, note: _Note) -> _Note:
        """Look among the service's batches for one whose submission was never answered."""
        after: dict[str, str] = {}
        while True:
            try:
                page = self._asked(functools.partial(client.batches.with_raw_response.list, limit=100, **after), "data")
            except _NotThereError:
                return note
            for batch in page["data"]:
                if (batch.get("metadata") or {}).get("bftembed") == note.name and batch["status"] not in _FRUITLESS:
                    note = replace(note, batch=batch["id"])
                    note.write(self._notes)
                    return note
            # Newest first; a day's allowance for clocks that differ.
            older = page["data"] and page["data"][-1].get("created_at", 0) < note.created - 86_400
            if not page.get("has_more") or not page["data"] or older:
                return note
            after = {"after": page["data"][-1]["id"]}

    def _batch(self, client: Any, note: _Note) -> dict[str, Any]:
        try:
            return self._asked(lambda: client.batches.with_raw_response.retrieve(note.batch), "status")
        except _NotThereError:
            raise BftembedError(
                f"openai-batch: {self._server.shown} does not know the batch {note.batch}, submitted by an earlier "
                "run. Use the key (and project) of that run, or give up its results: delete "
                f"{note.path(self._notes)} to submit anew."
            ) from None

    def _collected(self, client: Any, batch: dict[str, Any], wanted: dict[str, Request]) -> Iterator[Completion]:
        why = f"the batch {batch['id']} gave no answer for it"
        if batch["status"] in _FRUITLESS:
            said = [str(e.get("message")) for e in _errors(batch) if e.get("message")]
            why = ": ".join([f"the batch {batch['id']} ended as {batch['status']}", *said[:1]])
        left = dict(wanted)
        for file in (batch.get("output_file_id"), batch.get("error_file_id")):
            for line in self._lines(client, file) if file else ():
                request = left.pop(str(line.get("custom_id")), None)
                if request is not None:
                    yield self._completion(request, line)
        for one in sorted(left):
            yield Completion(one, finish_reason="error", error=why)

    def _lines(self, client: Any, file: str) -> list[dict[str, Any]]:
        # A file of another shape is fetched again: an answer that is left out would be paid for twice.
        def read() -> list[dict[str, Any]]:
            text = self._once(lambda: client.files.content(file))
            # Not splitlines: JSON may hold other line separators as they are.
            return [self._server.json(line) for line in text.split("\n") if line.strip()]

        try:
            return self._retried(read)
        except _NotThereError:
            return []

    def _completion(self, request: Request, line: dict[str, Any]) -> Completion:
        response = line.get("response") or {}
        body = response.get("body")
        if response.get("status_code") == 200 and isinstance(body, dict):
            try:
                return self._server.completion(request, body)
            except (TransientFault, ItemFault) as fault:
                return Completion(request.id, finish_reason="error", error=str(fault))
        said, _, _ = said_in(line.get("error") or body)
        status = response.get("status_code") or "an error"
        return Completion(request.id, finish_reason="error", error=f"the batch answered {status}: {said}")

    def _asked(self, call: Callable[[], Any], needed: str) -> dict[str, Any]:
        """Return a call's JSON object, which must hold the field `needed`; transient faults are retried."""

        def ask() -> dict[str, Any]:
            answer = self._server.json(self._once(call))
            if needed not in answer:
                raise TransientFault(f"{self._server.shown} answered 200, but without {needed!r}")
            return answer

        return self._retried(ask)

    def _once(self, call: Callable[[], Any]) -> str:
        try:
            text = str(call().text)
        except self._server.library.OpenAIError as err:
            fault = self._server.fault(err)
            missing = isinstance(err, self._server.library.NotFoundError)
            raise (_NotThereError(str(fault)) if missing else fault) from None
        self._server.reached = True
        return text

    def _retried(self, ask: Callable[[], _T]) -> _T:
        try:
            return tenacity.Retrying(**self._server.retrying())(ask)
        except (TransientFault, ItemFault) as fault:
            raise BftembedError(
                f"openai-batch: {fault}. The run stops; what was submitted goes on at the server, and the same command "
                f"collects it (notes in {self._notes})."
            ) from None


def _errors(batch: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in (batch.get("errors") or {}).get("data") or [] if isinstance(one, dict)]


def _is_too_large(batch: dict[str, Any]) -> bool:
    """Return whether a batch failed since the account takes fewer tokens at once."""
    return batch["status"] == "failed" and any(one.get("code") == "token_limit_exceeded" for one in _errors(batch))


class _NotThereError(BftembedError):
    """The server knows no such thing (404)."""


@dataclass(frozen=True)
class _Note:
    """What was submitted: the requests (key, attempt), where and when (Unix time), and the batch, once known."""

    requests: tuple[tuple[str, int], ...]
    server: str
    created: float
    batch: str = ""

    @property
    def name(self) -> str:
        return sha256_text(canonical_json([self.server, self.created, self.requests]))[:32]

    def path(self, folder: Path) -> Path:
        return folder / f"{self.name}.json"

    def write(self, folder: Path) -> None:
        write_json(self.path(folder), asdict(self))


def _read_notes(folder: Path) -> Iterator[_Note]:
    """Yield the notes of a folder, oldest first; those whose files the service no longer keeps are removed."""
    notes = []
    for path in folder.glob("*.json"):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            requests = tuple((str(key), int(attempt)) for key, attempt in values["requests"])
            note = _Note(requests, values["server"], float(values["created"]), values["batch"])
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise BftembedError(
                f"{path} should note a submitted batch and cannot be read ({err}). Delete it; what it notes would be "
                "submitted anew."
            ) from err
        if note.created < time.time() - _KEPT_SECONDS:
            path.unlink(missing_ok=True)
        else:
            notes.append(note)
    yield from sorted(notes, key=lambda note: note.created)
