"""An OpenAI-compatible server, whatever it is asked: address and key, one retry policy, what its faults mean."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import ipaddress
import json
import os
import queue
import threading
import urllib.parse
from typing import TYPE_CHECKING, Any, ClassVar

import tenacity

from bftembed.errors import BftembedError, require, unknown_name

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator

OPENAI_URL = "https://api.openai.com/v1"

_LONGEST_WAIT = 60.0
#: A server that asks for a longer pause than this ends the run; the next one goes on.
_LONGEST_RETRY_AFTER = 600.0
#: Without a key the client would not start; a server on loopback may ask for none.
_NO_KEY = "none"
_SHORTEST_KEY = 8


class TransientFault(Exception):
    """A fault that may pass: a busy server, a cut connection, an answer that cannot be read.

    Attributes
    ----------
    retry_after
        Seconds that the server asked to wait, or None.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ItemFault(Exception):
    """A fault of one request, which would come again: a text that is too long, or that was held back."""


class UnknownShapeFault(ItemFault):
    """An answer that came and cannot be understood: it may have been paid for, and asking again would pay again."""


class ApiServer:
    """One server and one model of it.

    Parameters
    ----------
    engine
        Name of the engine, for messages.
    model
        As the server calls it.
    base_url
        Up to and with ``/v1``; empty takes ``$OPENAI_BASE_URL``, else OpenAI's own.
    attempts, backoff
        Tries per request, and the first wait between two in seconds; it doubles up to a minute.

    Attributes
    ----------
    host, shown
        Host, and host with path: all that is ever shown of the address.
    reached
        Whether it ever answered: a refused connection ends the run before, and is retried after.

    Raises
    ------
    BftembedError
        For an option out of range or an address that is none, or that holds a password.
    """

    #: What the spec describes, and how a run goes on that a fault ended; for messages.
    what: ClassVar[str] = "engine"
    go_on: ClassVar[str] = "What is stored stays; the same command goes on from there."
    #: Parameter that a server refused → the option to give instead.
    remedies: ClassVar[dict[str, str]] = {}

    def __init__(self, engine: str, model: str, *, base_url: str, attempts: int, backoff: float) -> None:
        if attempts < 1 or backoff < 0:
            raise BftembedError(f"{engine}: attempts={attempts} starts at 1, and backoff={backoff} at 0.")
        self.library = require("openai", "openai")
        self.engine, self.model = engine, model
        self.url = (base_url or os.environ.get("OPENAI_BASE_URL", "").strip() or OPENAI_URL).rstrip("/")
        self.host, self.shown = _address(engine, self.url)
        self._attempts, self._backoff = attempts, backoff
        self.reached = False

    def client(self, key: str, timeout: float) -> Any:
        """Return an ``AsyncOpenAI`` of this server that retries nothing by itself."""
        return self.library.AsyncOpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=timeout)

    def key(self) -> str:
        """Return ``$OPENAI_API_KEY``; a server on loopback gets a dummy when it is not set.

        Raises
        ------
        BftembedError
            For a key that is missing or cannot be sent.
        """
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise BftembedError("OPENAI_API_KEY holds a space or a character that no key has. Set it anew.")
        if not key and not _is_loopback(self.host):
            raise BftembedError(
                f"{self.engine}: {self.shown} needs a key. Set the environment variable OPENAI_API_KEY (to any word "
                "where the server asks for none)."
            )
        return key or _NO_KEY

    def scrub(self, text: str) -> str:
        """Return `text` without the key, whoever put it there; a dummy such as EMPTY may be a word of the text."""
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        return text.replace(key, "***") if len(key) >= _SHORTEST_KEY else text

    def retrying(self) -> dict[str, Any]:
        """Return the one retry policy, for tenacity's ``Retrying`` or ``AsyncRetrying``."""
        # The jitter keeps requests apart that were refused together.
        jitter = tenacity.wait_random(0, self._backoff)
        usual = tenacity.wait_exponential(multiplier=self._backoff, max=_LONGEST_WAIT) + jitter

        def wait(state: tenacity.RetryCallState) -> float:
            fault = state.outcome.exception() if state.outcome else None
            asked = fault.retry_after if isinstance(fault, TransientFault) else None
            return usual(state) if asked is None else asked + jitter(state)

        stop = tenacity.stop_after_attempt(self._attempts)
        return {"retry": tenacity.retry_if_exception_type(TransientFault), "wait": wait, "stop": stop, "reraise": True}

    def json(self, text: str) -> dict[str, Any]:
        """Return an answer's JSON object, the key scrubbed.

        Raises
        ------
        TransientFault
            For HTML or truncated JSON.
        UnknownShapeFault
            For JSON of another kind.
        """
        scrubbed = self.scrub(text)
        start = " ".join(scrubbed[:200].split())[:60]
        try:
            value = json.loads(scrubbed)
        except (ValueError, RecursionError):
            raise TransientFault(f"{self.shown} answered 200 with what is not JSON: {start!r}") from None
        if not isinstance(value, dict):
            raise UnknownShapeFault(f"{self.shown} answered 200 with what is not a JSON object: {start!r}")
        return value

    def fault(self, err: Exception) -> Exception:
        """Say what an exception of the client means.

        Returns
        -------
        Exception
            `TransientFault`, `ItemFault`, or a `BftembedError` that ends the run.
        """
        if isinstance(err, self.library.APIStatusError):
            self.reached = True
            return self._status_fault(err.response)
        if isinstance(err, self.library.APITimeoutError):
            return TransientFault(f"{self.shown} gave no answer in time (raise timeout= or lower concurrency=)")
        if isinstance(err, self.library.APIConnectionError):
            return self._connection_fault(err)
        return ItemFault(self.scrub(f"{type(err).__name__}: {err}"))

    async def not_there(self, client: Any, err: Exception) -> Exception:
        """Return what a 404 means: a name that is none of the server's models, where it says them."""
        try:
            answer = await client.models.with_raw_response.list()
            known = [str(model["id"]) for model in self.json(answer.text)["data"]]
        except (self.library.OpenAIError, TransientFault, ItemFault, KeyError, TypeError):
            known = []
        if known and self.model not in known:
            return unknown_name("model", self.model, known, where=self.shown)
        return self.fault(err)

    def _connection_fault(self, err: Exception) -> Exception:
        chain = list(_chain(err))
        names = {base.__name__ for link in chain for base in type(link).__mro__}
        reason = self.scrub(str(chain[-1]) or type(chain[-1]).__name__)
        if self.reached or "ConnectError" not in names:
            return TransientFault(f"the connection to {self.shown} broke ({reason})")
        if "gaierror" in names:
            remedy = "its name cannot be resolved. Check base_url and the network"
        elif "SSLError" in names:
            remedy = "no safe connection (TLS) comes about. Check its certificate, and http or https in base_url"
        else:
            remedy = "no server listens there. Start it, or mend base_url"
        return BftembedError(f"{self.engine}: {self.shown} cannot be reached, {remedy} ({reason}).")

    def _status_fault(self, response: Any) -> Exception:
        status = response.status_code
        said, code, parameter = said_in(_parsed(self.scrub(response.text)))
        what = f"{self.shown} answered {status}: {said}"
        if status == 402 or code == "insufficient_quota":
            return BftembedError(f"{what}. The account has no credit left: add some. {self.go_on}")
        if status == 401:
            return BftembedError(f"{what}. Set OPENAI_API_KEY to a key of this server. {self.go_on}")
        if status == 403:
            return BftembedError(
                f"{what}. The key may not use {self.model!r}, or not from here: ask for access, or use another key or "
                f"model. {self.go_on}"
            )
        if status in (404, 405):
            return BftembedError(f"{what}. Check the model {self.model!r}, and base_url: most end in /v1.")
        if code in ("unsupported_parameter", "unsupported_value"):
            return BftembedError(f"{what}. Give the {self.what} {self.remedies.get(parameter, 'other options')}.")
        if status in (408, 409, 429) or (status >= 500 and status != 501):
            wait = _retry_after(response.headers)
            if wait is not None and wait > _LONGEST_RETRY_AFTER:
                return BftembedError(f"{what}. It asks to wait {wait:.0f} s: run again after that. {self.go_on}")
            return TransientFault(what, wait)
        return ItemFault(what)


async def run_all(client: Any, work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines side by side and close `client` after; when one raises, the others are cancelled and awaited."""
    async with client:
        tasks = [asyncio.create_task(one) for one in work]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class InBackground:
    """A coroutine on an event loop of its own, in a thread: it works in a notebook too, whose loop is taken.

    Attributes
    ----------
    results
        Where the coroutine puts its results; last of all comes an exception, or None.
    """

    def __init__(self) -> None:
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start the thread."""
        self._task = self._loop.create_task(work)
        self._thread = threading.Thread(target=self._run, name="bftembed-api", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            self._loop.run_until_complete(self._task)
        except BaseException as err:  # noqa: BLE001 - raised again in the thread that waits
            end = err
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            self.results.put(end)

    def until_done(self) -> Iterator[Any]:
        """Yield results as they come; raise what the coroutine raised."""
        while (result := self.results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result

    def stop(self) -> None:
        """Cancel what is in flight, and wait until it is."""
        if self._thread.is_alive() and not self._loop.is_closed():
            # Closed in between, it ended by itself.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def left(self) -> Iterator[Any]:
        """Yield the results that came and were not yielded."""
        while not self.results.empty():
            result = self.results.get()
            if result is not None and not isinstance(result, BaseException):
                yield result


def said_in(answer: Any) -> tuple[str, str, str]:
    """Return message, code and parameter of an error's body, in the shapes that servers give it."""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if not isinstance(error, dict):
        return _short(error), "", ""
    message = error.get("message") or error.get("detail") or error
    code = "insufficient_quota" if error.get("type") == "insufficient_quota" else str(error.get("code") or "")
    return _short(message), code, str(error.get("param") or "")


def _address(engine: str, url: str) -> tuple[str, str]:
    """Return host, and host with path; the URL itself is in no message, since it may hold a password."""
    remedy = "Write it as http://host:port/v1."
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise BftembedError(f"{engine}: base_url cannot be read. {remedy}") from None
    if parts.username is not None or parts.query or parts.fragment:
        raise BftembedError(
            f"{engine}: base_url holds a user name, a password or a query. {remedy} The key belongs in OPENAI_API_KEY."
        )
    if parts.scheme not in ("http", "https") or not host:
        raise BftembedError(f"{engine}: base_url={url!r} is no http or https address. {remedy}")
    return host, host + parts.path


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _chain(err: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = err
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _short(value: Any) -> str:
    text = " ".join(str(value).split()).rstrip(".")
    return text[:300] or "(nothing)"


def _retry_after(headers: Any) -> float | None:
    """Return the seconds of a Retry-After header: a number, or a date by the server's own clock."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = email.utils.parsedate_to_datetime(value)
            now = email.utils.parsedate_to_datetime(headers.get("date") or email.utils.formatdate(usegmt=True))
            seconds = (until - now).total_seconds()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if seconds == seconds else None
