"""Client of an OpenAI-compatible server: address and key, concurrency, and the meaning of its errors.

The official client retries what may pass; here is what must not be retried, and what ends a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import re
import threading
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from bftembed.errors import BftembedError, require

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable

_T = TypeVar("_T")

#: Shorter keys are dummies such as EMPTY, which may be a word of a text.
_MIN_KEY = 8
#: Errors that would come again, whatever their status: no quota left, and llama.cpp's 500 for a long text.
_FINAL = re.compile("insufficient_quota|too (large|long) to process|physical batch size|context size")
#: Status that would come again for every request → remedy.
_FATAL = {
    401: "Set OPENAI_API_KEY to a key of this server",
    402: "The account has no credit left",
    403: "The key may not use this model, or not from here",
    404: "Check the model, and base_url: most end in /v1",
}


class RequestFault(Exception):
    """A request without an answer. `unread` where the server may be gone, or may have been paid for no answer."""

    def __init__(self, message: str, *, unread: bool = False) -> None:
        super().__init__(message)
        self.unread = unread


class NotFoundFault(BftembedError):
    """The server has no such model, file or batch (404)."""


@dataclass(eq=False)
class ApiServer:
    """One server and one model of it; fields as for `bftembed.llm.backends.openai.OpenAI`."""

    engine: ClassVar[str] = "openai"

    model: str
    timeout: float = 120.0
    max_retries: int = 6
    base_url: str = ""

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.max_retries < 0:
            raise BftembedError(
                f"{self.engine}: timeout={self.timeout} must be above 0 and max_retries={self.max_retries} at least 0."
            )
        self.library = require("openai", "openai")
        url = self.base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or "https://api.openai.com/v1"
        parts = urllib.parse.urlsplit(url.rstrip("/"))
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in url or parts.query or parts.fragment:
            # The address is not shown, since it may hold a password.
            raise BftembedError(
                f"{self.engine}: base_url is not an address such as http://host:port/v1, without user name and query. "
                "The key belongs in OPENAI_API_KEY."
            )
        self.base_url, self.host, self.shown = parts.geturl(), parts.hostname, f"{parts.hostname}{parts.path}"
        self._reached = False

    def stream(
        self, do: Callable[[Any, Callable[[Any], None], _T], Awaitable[None]], items: Iterable[_T], n: int
    ) -> Generator[Any, None, None]:
        """Yield what ``do(client, put, item)`` puts for the items, as it comes; `n` of them run side by side.

        They run on an event loop of its own, in a thread, since that of a notebook is taken. The first exception and
        an interrupt cancel what is in flight.
        """
        key = _key()
        if not re.fullmatch("[!-~]*", key):
            raise BftembedError("OPENAI_API_KEY holds a space or a character that no key has. Set it anew.")
        client = self.library.AsyncOpenAI(
            base_url=self.base_url,
            api_key=key or "none",
            max_retries=self.max_retries,
            timeout=self.timeout,
            http_client=self.library.DefaultAsyncHttpxClient(event_hooks={"response": [_examine]}),
        )
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        loop, left = asyncio.new_event_loop(), iter(items)

        async def work() -> None:
            for item in left:
                await do(client, results.put, item)

        async def work_side_by_side() -> None:
            async with client, asyncio.TaskGroup() as group:
                for _ in range(n):
                    group.create_task(work())

        task = loop.create_task(work_side_by_side())

        def run() -> None:
            end: BaseException = StopIteration()
            try:
                loop.run_until_complete(task)
            except BaseException as err:  # noqa: BLE001 - raised in the thread that waits
                end = err.exceptions[0] if isinstance(err, BaseExceptionGroup) else err
            loop.close()
            results.put(end)

        thread = threading.Thread(target=run, name="bftembed-api", daemon=True)
        thread.start()
        try:
            while not isinstance(result := results.get(), BaseException):
                yield result
            if not isinstance(result, StopIteration):
                raise result
        finally:
            with contextlib.suppress(RuntimeError):  # it ended by itself
                loop.call_soon_threadsafe(task.cancel)
            thread.join()

    async def text(self, call: Awaitable[Any]) -> str:
        """Return the text of a raw response, the key scrubbed.

        A request without an answer is a `RequestFault`, what would fail every request a `BftembedError`.
        """
        try:
            answer = await call
        except self.library.APIStatusError as err:
            self._reached = True
            said, code = said_in(self.scrub(err.response.text))
            what = f"{self.shown} answered {err.status_code}: {said}"
            status = 402 if code == "insufficient_quota" else err.status_code
            if status in _FATAL:
                raise (NotFoundFault if status == 404 else BftembedError)(
                    f"{what}. {_FATAL[status]} (model {self.model!r}). What is stored stays; the same command goes on "
                    "from there."
                ) from None
            raise RequestFault(what, unread=status in (408, 409, 429) or status > 501) from None
        except self.library.APIConnectionError as err:
            reason = self.scrub(str(err.__cause__ or "") or str(err))
            if self._reached:
                raise RequestFault(f"the connection to {self.shown} broke ({reason})", unread=True) from None
            raise BftembedError(f"{self.shown} cannot be reached ({reason}). Check base_url and the server.") from None
        except self.library.OpenAIError as err:
            raise RequestFault(self.scrub(f"{type(err).__name__}: {err}")) from None
        self._reached = True
        return self.scrub(answer.text)

    async def json(self, call: Awaitable[Any]) -> dict[str, Any]:
        """Return the JSON object of a raw response, as `text`."""
        text = await self.text(call)
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(value := json.loads(text), dict):
                return value
        raise RequestFault(f"{self.shown} answered 200 with what is not a JSON object: {text[:60]!r}", unread=True)

    def scrub(self, text: str) -> str:
        """Return `text` without the key, whoever put it there."""
        return text.replace(key, "***") if len(key := _key()) >= _MIN_KEY else text


def _key() -> str:
    return os.environ.get("OPENAI_API_KEY", "").strip()


async def _examine(response: Any) -> None:
    """Tell the client what to retry: a gateway's error under status 200, and no error that would come again."""
    kind = response.headers.get("content-type", "").split(";")[0]
    if response.status_code == 200 and (
        kind not in ("application/json", "text/html") or "/files/" in str(response.url)
    ):
        return
    await response.aread()
    if response.status_code != 200:
        if _FINAL.search(response.text):
            response.headers["x-should-retry"] = "false"
        return
    try:
        value = json.loads(response.text)
        failed = isinstance(value, dict) and bool(value.get("error")) and not {"choices", "data", "id"} & set(value)
    except (ValueError, RecursionError):
        failed = True
    if failed:
        response.status_code = 502


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
