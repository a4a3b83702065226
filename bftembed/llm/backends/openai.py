"""Any OpenAI-compatible server: many requests at once, one retry policy, the key in the environment."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, ClassVar

import tenacity

from bftembed.errors import BftembedError
from bftembed.llm.base import Capabilities, Completion, Request, Sampling
from bftembed.llm.chat import Template
from bftembed.llm.reasoning import read_finish_reason
from bftembed.llm.server import (
    ApiServer,
    InBackground,
    ItemFault,
    TransientFault,
    UnknownShapeFault,
    run_all,
    said_in,
)

if TYPE_CHECKING:
    import queue
    from collections.abc import Iterator, Mapping, Sequence

#: Most likely tokens that are asked for where options are scored; OpenAI gives up to 20.
_TOP = 20
TOKEN_PARAMETERS = ("auto", "max_tokens", "max_completion_tokens")


class ChatServer(ApiServer):
    """What both OpenAI engines share: one server, one model, one set of sampling parameters.

    Parameters
    ----------
    engine
        Name of the engine, for messages and the fingerprint.
    model, base_url, attempts, backoff
        As for `bftembed.llm.server.ApiServer`.
    thinking, template
        As in `bftembed.llm.chat.Template`; sent as ``chat_template_kwargs``.
    extra
        Further fields of the request's body: ``extra.reasoning_effort=low``.
    token_parameter
        What the server calls `max_new_tokens`: ``"max_tokens"``, ``"max_completion_tokens"``, or ``"auto"``: the
        latter at api.openai.com, the former elsewhere.

    Raises
    ------
    BftembedError
        For an option out of range, or an address that is none or holds a password.
    """

    what = "generator"
    go_on = "What is committed stays; the same command goes on from there."
    remedies: ClassVar[dict[str, str]] = {
        "temperature": "temperature=1",
        "max_tokens": "token_parameter=max_completion_tokens",
        "max_completion_tokens": "token_parameter=max_tokens",
    }

    def __init__(
        self,
        engine: str,
        model: str,
        *,
        base_url: str,
        token_parameter: str,
        attempts: int,
        backoff: float,
        thinking: str,
        template: Mapping[str, Any] | None,
        extra: Mapping[str, Any] | None,
    ) -> None:
        if token_parameter not in TOKEN_PARAMETERS:
            raise BftembedError(f"{engine}: token_parameter={token_parameter!r} is none of {TOKEN_PARAMETERS}.")
        super().__init__(engine, model, base_url=base_url, attempts=attempts, backoff=backoff)
        self._template, self._extra = Template(thinking, template or {}), dict(extra or {})
        if token_parameter == "auto":
            token_parameter = "max_completion_tokens" if self.host == "api.openai.com" else "max_tokens"
        self._token_parameter = token_parameter

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the text; no key, and of the address host and path alone."""
        return {
            "engine": self.engine,
            "model": self.model,
            "server": self.shown,
            **self._template.fingerprint(""),
            **({"extra": self._extra} if self._extra else {}),
        }

    def body(self, request: Request) -> dict[str, Any]:
        """Return the body of a chat completion, or of a raw completion where the request has a prompt."""
        sampling = request.sampling
        asked: dict[str, Any] = {"model": self.model, "temperature": sampling.temperature}
        asked |= {"prompt": request.prompt} if request.prompt else {"messages": [dict(m) for m in request.messages]}
        asked["max_tokens" if request.prompt else self._token_parameter] = sampling.max_new_tokens
        asked |= {"top_p": sampling.top_p} if sampling.top_p != 1 else {}
        asked |= {"stop": list(sampling.stop)} if sampling.stop else {}
        if sampling.seed is not None:
            asked["seed"] = sampling.seed + request.sample
        if request.options:
            asked["max_tokens" if request.prompt else self._token_parameter] = 1
            asked |= {"logprobs": _TOP} if request.prompt else {"logprobs": True, "top_logprobs": _TOP}
        if request.schema:
            schema = {"name": "answer", "strict": True, "schema": dict(request.schema)}
            asked["response_format"] = {"type": "json_schema", "json_schema": schema}
        if self._template.options and not request.prompt:
            asked["chat_template_kwargs"] = self._template.options
        return asked | self._extra

    def sent(self, request: Request) -> dict[str, Any]:
        """Return `body` as arguments of the client, which knows no fields of other servers."""
        body = self.body(request)
        own = {name: body.pop(name) for name in ("chat_template_kwargs", *self._extra) if name in body}
        return body | ({"extra_body": own} if own else {})

    def completion(self, request: Request, answer: dict[str, Any]) -> Completion:
        """Read the body of a completion.

        Raises
        ------
        TransientFault
            For a body that holds an error.
        UnknownShapeFault
            For a body of another shape.
        """
        if answer.get("error") and not answer.get("choices"):
            raise TransientFault(f"{self.shown} answered 200, but {said_in(answer)[0]}")
        try:
            choice = answer["choices"][0]
            message = choice["message"] if "message" in choice else {"content": choice["text"]}
            text, thought = _text_and_reasoning(message.get("content"))
        except (KeyError, IndexError, TypeError, AttributeError):
            raise UnknownShapeFault(
                f"{self.shown} answered 200, but its answer holds no choices[0].message with a text"
            ) from None
        thought = _flat(message.get("reasoning_content") or message.get("reasoning")) or thought
        said = choice.get("finish_reason")
        reason = read_finish_reason(said)
        usage = answer.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        counts = (_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))
        error = ""
        if request.options:
            return Completion(request.id, prompt_tokens=counts[0], scores=option_scores(choice, request.options))
        if reason == "content_filter":
            error = "the server's content filter held the answer back"
        elif reason == "error":
            why = choice.get("error") or answer.get("error")
            error = f"the server ended the answer early ({said})" + (f": {said_in(why)[0]}" if why else "")
        elif text is None:
            error = "the answer has no text (null content)"
            if message.get("refusal"):
                error = f"the model refused: {message['refusal']}"
            elif reason == "length":
                error += f": all {counts[1]} tokens went elsewhere, as into reasoning; raise max_new_tokens"
            elif thought and reason == "stop" and self._template.thinking == "off":
                # Some parsers take an answer without the end of a thought for one, though the prompt has closed it.
                return Completion(request.id, thought, "", reason, *counts)
            elif thought and reason == "stop":
                error += ": the server took all of it for reasoning; give thinking=off where the model writes none"
            reason = "error"
        return Completion(request.id, text or "", thought, reason, *counts, error=error)


def option_scores(choice: Mapping[str, Any], options: Sequence[str]) -> tuple[float | None, ...]:
    """Return the log-likelihood of each option as the first token of an answer, from the most likely tokens.

    None for an option that is not among them, or is no single token.
    """
    found = choice.get("logprobs") or {}
    top: Any = found.get("top_logprobs")
    if found.get("content"):
        top = {one["token"]: one["logprob"] for one in found["content"][0].get("top_logprobs") or []}
    elif isinstance(top, list):
        top = top[0] if top else {}
    tokens: Mapping[str, float] = top if isinstance(top, dict) else {}

    def score(option: str) -> float | None:
        if option in tokens:
            return float(tokens[option])
        # A chat's answer begins without the space that comes before an option in a raw prompt.
        alike = [math.exp(value) for token, value in tokens.items() if token.strip() == option.strip()]
        return math.log(sum(alike)) if alike and sum(alike) > 0 else None

    return tuple(map(score, options))


def _text_and_reasoning(content: Any) -> tuple[str | None, str]:
    """Return what a message's content holds: a text, nothing, or a list of chunks (Mistral, agent frameworks).

    Raises
    ------
    TypeError, KeyError, AttributeError
        For anything else.
    """
    if content is None or isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise TypeError
    texts, thoughts = [], []
    for chunk in content:
        kind = "text" if isinstance(chunk, str) else chunk.get("type", "text")
        if kind in ("thinking", "reasoning", "redacted_thinking"):
            thoughts.append(_flat(chunk))
        elif kind in ("text", "output_text"):
            texts.append(chunk if isinstance(chunk, str) else chunk["text"])
        else:
            raise TypeError(kind)
    return "".join(texts) if texts else None, "".join(thoughts)


def _flat(thought: Any) -> str:
    """Return the text of a thought, whatever its shape."""
    if isinstance(thought, list):
        return "".join(map(_flat, thought))
    if isinstance(thought, dict):
        return _flat(next((thought[name] for name in ("thinking", "text", "summary") if thought.get(name)), ""))
    return thought if isinstance(thought, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


#: So many items in a row without an answer (all attempts used), or with one of unknown shape: the run ends.
_GONE_AFTER = 8


class OpenAI:
    """Chat completions of a server, asked concurrently and yielded as they come.

    Parameters
    ----------
    model
        As the server calls it.
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
    thinking, template
        As in `bftembed.llm.chat.Template`; sent as ``chat_template_kwargs``, which vLLM and llama.cpp know.
    extra
        Further fields of the request's body: ``extra.reasoning_effort=low``.

    Notes
    -----
    The key comes from ``$OPENAI_API_KEY`` alone. It is in no fingerprint, error or log.
    """

    def __init__(
        self,
        model: str,
        concurrency: int = 16,
        timeout: float = 120.0,
        attempts: int = 6,
        backoff: float = 1.0,
        base_url: str = "",
        token_parameter: str = "auto",
        thinking: str = "auto",
        template: dict[str, Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        if concurrency < 1 or timeout <= 0:
            raise BftembedError(f"openai: concurrency={concurrency} starts at 1, and timeout={timeout} above 0.")
        self._server = ChatServer(
            "openai",
            model,
            base_url=base_url,
            token_parameter=token_parameter,
            attempts=attempts,
            backoff=backoff,
            thinking=thinking,
            template=template,
            extra=extra,
        )
        self.batch_size = concurrency
        self._timeout, self._attempts = timeout, attempts
        self._unanswered = 0
        self._capabilities: Capabilities | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Return engine, model, server and options; nothing is asked of the server."""
        return self._server.fingerprint()

    def capabilities(self) -> Capabilities:
        """Return what the server can do, by one answer of one token with log-probabilities under a schema."""
        if self._capabilities is None:
            self._capabilities = self._probe()
        return self._capabilities

    def _probe(self) -> Capabilities:
        hello = ({"role": "user", "content": "Answer A or B."},)
        one = Sampling(max_new_tokens=1)
        schema = {"type": "string", "enum": ["A", "B"]}
        asked = [Request("options", hello, sampling=one, options=("A", "B")), Request("schema", hello, schema=schema)]
        found = {c.id: c for c in self.generate(asked)}
        options = any(score is not None for score in found["options"].scores)
        return Capabilities(options=options, schema=found["schema"].text.strip().strip('"') in ("A", "B"))

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
            return Completion(request.id, finish_reason="error", error=error)
        except ItemFault as fault:
            completion = Completion(request.id, finish_reason="error", error=str(fault))
            if isinstance(fault, UnknownShapeFault):
                self._unanswered += 1
                return completion
        self._unanswered = 0
        return completion

    async def _ask(self, client: Any, request: Request) -> Completion:
        try:
            calls = client.completions if request.prompt else client.chat.completions
            answer = await calls.with_raw_response.create(**self._server.sent(request))
        except self._server.library.NotFoundError as err:
            raise await self._server.not_there(client, err) from None
        except self._server.library.OpenAIError as err:
            raise self._server.fault(err) from None
        self._server.reached = True
        return self._server.completion(request, self._server.json(answer.text))
