"""Profiles from any OpenAI-compatible server: many requests at once, one retry policy, the key in the environment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import tenacity

from bftembed.api import InBackground, ItemFault, TransientFault, UnknownShapeFault, run_all
from bftembed.errors import BftembedError
from bftembed.profiles.generators.openai_server import ChatServer
from bftembed.profiles.records import Completion

if TYPE_CHECKING:
    import queue
    from collections.abc import Iterator, Sequence

    from bftembed.profiles.records import Request

#: So many items in a row without an answer (all attempts used), or with one of unknown shape: the run ends.
_GONE_AFTER = 8


class OpenAIGenerator:
    """Chat completions of a server, asked concurrently and yielded as they come.

    Parameters
    ----------
    model
        As the server calls it.
    max_new_tokens
        Longest answer, in tokens; an answer that reaches it has finish reason ``"length"``.
    temperature, seed
        Temperature 0 is greedy as far as the server keeps to it; without a seed none is sent.
    concurrency
        Requests in flight.
    timeout
        Seconds until a request without an answer counts as failed, and is tried again.
    attempts
        Tries per request; then its completion is an error.
    backoff
        Seconds of the first wait between two tries; it doubles up to a minute. A Retry-After of the server counts
        instead where there is one.
    base_url
        Address of the server, such as ``http://127.0.0.1:8000/v1``; empty takes ``$OPENAI_BASE_URL``, else OpenAI.
    token_parameter
        What the server calls `max_new_tokens`: ``"auto"``, ``"max_tokens"`` or ``"max_completion_tokens"``.

    Notes
    -----
    The key comes from ``$OPENAI_API_KEY`` alone. It is in no fingerprint, error or log.
    """

    def __init__(
        self,
        model: str,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
        concurrency: int = 16,
        timeout: float = 120.0,
        attempts: int = 6,
        backoff: float = 1.0,
        base_url: str = "",
        token_parameter: str = "auto",
    ) -> None:
        if concurrency < 1 or timeout <= 0:
            raise BftembedError(f"openai: concurrency={concurrency} starts at 1, and timeout={timeout} above 0.")
        self._server = ChatServer(
            "openai",
            model,
            base_url=base_url,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            token_parameter=token_parameter,
            attempts=attempts,
            backoff=backoff,
        )
        self.batch_size = concurrency
        self._timeout, self._attempts = timeout, attempts
        self._unanswered = 0

    def fingerprint(self) -> dict[str, Any]:
        """Return engine, model, server and sampling; nothing is asked of the server."""
        return self._server.fingerprint()

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Yield completions as they come, in any order.

        An interrupt cancels what is in flight; what came before it is still yielded.

        Raises
        ------
        BftembedError
            For what would fail every request: no server, no access, no such model, no credit.
        """
        if not requests:
            return
        key = self._server.key()
        work = InBackground()
        work.start(self._answer_all(requests, key, work.results))
        try:
            yield from work.until_done()
        except KeyboardInterrupt:
            work.stop()
            yield from work.left()
            raise
        finally:
            work.stop()

    async def _answer_all(self, requests: Sequence[Request], key: str, results: queue.SimpleQueue[Any]) -> None:
        slots = asyncio.Semaphore(self.batch_size)
        client = self._server.client(key, self._timeout)

        async def answer(request: Request) -> None:
            async with slots:
                completion = await self._answer(client, request)
                results.put(completion)
                if self._unanswered >= _GONE_AFTER:
                    raise BftembedError(
                        f"openai: {self._unanswered} requests in a row got no readable answer from "
                        f"{self._server.shown}, the last because {completion.error}; the run stops. When the server is "
                        "mended, the same command goes on, and --retry-failed tries these again."
                    )

        await run_all(client, (answer(request) for request in requests))

    async def _answer(self, client: Any, request: Request) -> Completion:
        try:
            retrying = tenacity.AsyncRetrying(**self._server.retrying())
            completion: Completion = await retrying(self._ask, client, request)
        except TransientFault as fault:
            self._unanswered += 1
            error = f"{fault} (attempts: {self._attempts})"
            return Completion(request.key, "", "error", error=error)
        except ItemFault as fault:
            completion = Completion(request.key, "", "error", error=str(fault))
            if isinstance(fault, UnknownShapeFault):
                self._unanswered += 1
                return completion
        self._unanswered = 0
        return completion

    async def _ask(self, client: Any, request: Request) -> Completion:
        try:
            answer = await client.chat.completions.with_raw_response.create(**self._server.body(request))
        except self._server.library.NotFoundError as err:
            raise await self._server.not_there(client, err) from None
        except self._server.library.OpenAIError as err:
            raise self._server.fault(err) from None
        self._server.reached = True
        return self._server.completion(request.key, self._server.json(answer.text))
