"""Client of an OpenAI-compatible server: address and key, retries, concurrency, and what its errors mean."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import random
import re
import threading
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from bftembed.errors import BftembedError, require, unknown_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable

_T = TypeVar("_T")

_MAX_WAIT = 60.0
#: A server that asks for a longer pause than this ends the run; the next one goes on.
_MAX_RETRY_AFTER = 600.0
#: Shorter keys are dummies such as EMPTY, which may be a word of a text.
_MIN_KEY = 8
_GO_ON = "What is stored stays; the same command goes on from there."
#: Status that would come again for every request → remedy.
_FATAL = {
    401: "Set OPENAI_API_KEY to a key of this server",
    402: "The account has no credit left",
    403: "The key may not use this model, or not from here",
    404: "Check the model, and base_url: most end in /v1",
}


class TransientFault(Exception):
    """A fault that may pass: a busy server, a cut connection, an answer that cannot be read."""

    #: Seconds that the server asked to wait.
    retry_after: float | None = None


class ItemFault(Exception):
    """A fault of one request, which would come again: a text that is too long, or that was held back."""


class UnknownShapeFault(ItemFault):
    """An answer that came and cannot be understood: it may have been paid for, and asking again would pay again."""


class NotFoundFault(BftembedError):
    """The server has no such model, file or batch (404)."""


@dataclass(eq=False)
class ApiServer:
    """One server and one model of it; fields as for `bftembed.llm.backends.openai.OpenAI`.

    Attributes
    ----------
    host, shown
        Host, and host with path: all that is ever shown of the address.
    reached
        Whether it ever answered: a refused connection ends the run before, and is retried after.
    """

    engine: ClassVar[str] = "openai"

    model: str
    timeout: float = 120.0
    attempts: int = 6
    backoff: float = 1.0
    base_url: str = ""

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.attempts < 1 or self.backoff < 0:
            raise BftembedError(
                f"{self.engine}: timeout={self.timeout} must be above 0, attempts={self.attempts} at least 1 and "
                f"backoff={self.backoff} at least 0."
            )
        self.library = require("openai", "openai")
        url = self.base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or "https://api.openai.com/v1"
        try:
            parts = urllib.parse.urlsplit(url.rstrip("/"))
            wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
        except ValueError:
            wrong = True
        if wrong or parts.username is not None or parts.query or parts.fragment:
            # The address is not shown, since it may hold a password.
            raise BftembedError(
                f"{self.engine}: base_url is not an address such as http://host:port/v1, without user name and query. "
                "The key belongs in OPENAI_API_KEY."
            )
        self.base_url, self.host, self.shown = parts.geturl(), str(parts.hostname), f"{parts.hostname}{parts.path}"
        self.reached = False

    def stream(
        self, do: Callable[[Any, Callable[[Any], None], _T], Awaitable[None]], items: Iterable[_T], n: int
    ) -> Generator[Any, None, None]:
        """Yield what ``do(client, put, item)`` puts for the items, as it comes; `n` of them run side by side.

        They run on an event loop of its own, in a thread, since that of a notebook is taken. The first exception and
        an interrupt cancel what is in flight; what came before an interrupt is still yielded.
        """
        client = self.library.AsyncOpenAI(
            base_url=self.base_url, api_key=self._key(), max_retries=0, timeout=self.timeout
        )
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        left = iter(items)

        async def work() -> None:
            for item in left:
                await do(client, results.put, item)

        async def working() -> None:
            try:
                async with client, asyncio.TaskGroup() as group:
                    for _ in range(n):
                        group.create_task(work())
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None

        task = loop.create_task(working())

        def run() -> None:
            end: BaseException = StopIteration()
            try:
                loop.run_until_complete(task)
            except BaseException as err:  # noqa: BLE001 - raised in the thread that waits
                end = err
            loop.close()
            results.put(end)

        def stop() -> None:
            with contextlib.suppress(RuntimeError):  # it ended by itself
                loop.call_soon_threadsafe(task.cancel)
            thread.join()

        thread = threading.Thread(target=run, name="bftembed-api", daemon=True)
        thread.start()
        try:
            while not isinstance(result := results.get(), BaseException):
                yield result
            if not isinstance(result, StopIteration):
                raise result
        except KeyboardInterrupt:
            stop()
            while not results.empty() and not isinstance(result := results.get(), BaseException):
                yield result
            raise
        finally:
            stop()

    async def ask(self, call: Callable[[], Awaitable[Any]], read: Callable[[str], _T]) -> _T:
        """Return what `read` makes of the text of a raw response, the key scrubbed; transient faults are retried.

        A request without an answer is a `TransientFault` or `ItemFault`, what would fail every request a
        `BftembedError`.
        """
        for attempt in range(self.attempts):
            try:
                answer = await call()
                self.reached = True
                return read(self.scrub(answer.text))
            except (self.library.OpenAIError, TransientFault) as err:
                fault = err if isinstance(err, TransientFault) else self.fault(err)
                if not isinstance(fault, TransientFault):
                    raise fault from None
            if attempt + 1 < self.attempts:
                wait = min(self.backoff * 2**attempt, _MAX_WAIT) if fault.retry_after is None else fault.retry_after
                # The jitter keeps requests apart that were rejected together.
                await asyncio.sleep(wait + random.uniform(0, self.backoff))
        raise TransientFault(f"{fault} (attempts: {self.attempts})")

    def json(self, text: str) -> dict[str, Any]:
        """Return an answer's JSON object; HTML and cut JSON are transient, another kind of JSON is not."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise TransientFault(f"{self.shown} answered 200 with what is not JSON: {text[:60]!r}") from None
        if not isinstance(value, dict):
            raise UnknownShapeFault(f"{self.shown} answered 200 with what is not a JSON object: {text[:60]!r}")
        return value

    def fault(self, err: Exception) -> Exception:
        """Return `TransientFault`, `ItemFault`, or the `BftembedError` that ends the run, for one of the client's."""
        if isinstance(err, self.library.APIConnectionError):
            cause = err.__cause__ or err
            reason = self.scrub(str(cause) or type(cause).__name__)
            if self.reached or type(cause).__name__ != "ConnectError":
                return TransientFault(f"the connection to {self.shown} broke ({reason})")
            return BftembedError(f"{self.shown} cannot be reached ({reason}). Check base_url and the server.")
        if not isinstance(err, self.library.APIStatusError):
            return ItemFault(self.scrub(f"{type(err).__name__}: {err}"))
        self.reached = True
        said, code = said_in(self.scrub(err.response.text))
        what = f"{self.shown} answered {err.status_code}: {said}"
        status = 402 if code == "insufficient_quota" else err.status_code
        if status in _FATAL:
            kind = NotFoundFault if status == 404 else BftembedError
            return kind(f"{what}. {_FATAL[status]} (model {self.model!r}). {_GO_ON}")
        if status not in (408, 409, 429) and (status < 500 or status == 501):
            return ItemFault(what)
        fault = TransientFault(what)
        with contextlib.suppress(ValueError):  # a date: the usual wait
            fault.retry_after = max(0.0, float(err.response.headers.get("retry-after", "")))
        if (fault.retry_after or 0) > _MAX_RETRY_AFTER:
            return BftembedError(f"{what}. It asks to wait {fault.retry_after} s: run again after that. {_GO_ON}")
        return fault

    async def unknown_model(self, client: Any, err: NotFoundFault) -> BftembedError:
        """Return `err`, or the error for a name that is none of the server's models."""
        with contextlib.suppress(Exception):  # not every server lists them
            known = [self.scrub(model.id) async for model in client.models.list()]
            if known and self.model not in known:
                return unknown_name("model", self.model, known, where=self.shown)
        return err

    def scrub(self, text: str) -> str:
        """Return `text` without the key, whoever put it there."""
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        return text.replace(key, "***") if len(key) >= _MIN_KEY else text

    def _key(self) -> str:
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not re.fullmatch("[!-~]*", key):
            raise BftembedError("OPENAI_API_KEY holds a space or a character that no key has. Set it anew.")
        return key or "none"


def said_in(answer: Any) -> tuple[str, str]:
    """Return message and code of an error's body (JSON, or its text), in the shapes that servers give it."""
    if isinstance(answer, str):
        with contextlib.suppress(ValueError):
            answer = json.loads(answer)
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    code = ""
    if isinstance(error, dict):
        code = "insufficient_quota" if error.get("type") == "insufficient_quota" else str(error.get("code") or "")
        error = error.get("message") or error.get("detail") or error
    return " ".join(str(error).split()).rstrip(".")[:300] or "(nothing)", code
